"""What the uploads of one store may hold in memory together, however many are open.

A multipart upload gathers a part before it is sent, since S3 takes none under 5 MiB; a hundred fields, each with a shard on
its way, would hold a hundred parts. Here they share a bound: a part that finds it reached is gathered in an unlinked temporary
file instead, and only so many parts are on their way at once. Knows nothing of requests; `object.py` stands before it.
"""

import os
import tempfile
import threading
from collections.abc import Callable
from typing import IO

from chunkstore.errors import StoreError
from chunkstore.store.interface import Data

PART_NBYTES = 8 << 20
GATHERED_NBYTES = 64 << 20
"""Of parts that are being gathered; what is beyond goes to the file."""
NUM_PARTS_SENDING = 8
_SEND_TIMEOUT_S = 600.0


class Sending(bytearray):
    """A part to be sent. Its network client keeps it until it has arrived; then its place is another's."""

    release: Callable[[], None] | None = None

    def __del__(self) -> None:
        if self.release is not None:
            self.release()


class UploadMemory:
    """The memory, and the file beside it, that the parts of a store's uploads share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held_nbytes = 0
        self._sending = threading.Semaphore(NUM_PARTS_SENDING)
        self._file: IO[bytes] | None = None
        self._free_slots: list[int] = []
        self._num_slots = 0

    def reserve(self, nbytes: int) -> bool:
        """Take memory, if there is any left."""
        with self._lock:
            fits = self._held_nbytes + nbytes <= GATHERED_NBYTES
            self._held_nbytes += nbytes if fits else 0
            return fits

    def give_back(self, nbytes: int) -> None:
        """What was reserved is free again."""
        with self._lock:
            self._held_nbytes -= nbytes

    def begin_sending(self, part: Sending) -> Sending:
        """Wait until few enough parts are on their way; this one is, until it is dropped."""
        if not self._sending.acquire(timeout=_SEND_TIMEOUT_S):
            raise StoreError(f"no part of an upload arrived in {_SEND_TIMEOUT_S:g} s; check the network")
        part.release = self._sending.release
        return part

    def take_slot(self) -> tuple[int, int]:
        """A place for one part in the file: its descriptor, and the slot's number."""
        with self._lock:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="chunkstore-upload-", buffering=0)  # noqa: SIM115
            if not self._free_slots:
                self._free_slots.append(self._num_slots)
                self._num_slots += 1
            return self._file.fileno(), self._free_slots.pop()

    def free_slot(self, slot: int) -> None:
        """The place is another's; with the last one the file goes."""
        with self._lock:
            self._free_slots.append(slot)
            if len(self._free_slots) == self._num_slots and self._file is not None:
                self._file.close()
                self._file, self._free_slots, self._num_slots = None, [], 0


class Part:
    """One part of an upload, being gathered; used again when it was taken."""

    def __init__(self, memory: UploadMemory) -> None:
        self.nbytes = 0
        self._memory = memory
        self._gathered = Sending()
        self._place: tuple[int, int] | None = None
        self._pid = os.getpid()

    def add(self, data: memoryview) -> None:
        """Copy bytes, of at most `PART_NBYTES` altogether.

        Raises:
            StoreError: there is no room for the temporary file.
        """
        try:
            if self._place is None and self._memory.reserve(data.nbytes):
                self._gathered += data
            else:
                self._add_to_file(data)
        except OSError as error:
            folder = tempfile.gettempdir()
            raise StoreError(
                f"cannot keep what is to be uploaded in {folder}: {error.strerror}; free space there, or set TMPDIR"
            ) from error
        self.nbytes += data.nbytes

    def take(self) -> Sending:
        """Everything, to be sent; the part is empty afterwards."""
        part = self._gathered
        if self._place is not None:
            fd, slot = self._place
            part = self._memory.begin_sending(Sending(self.nbytes))
            if os.preadv(fd, [part], slot * PART_NBYTES) != self.nbytes:
                raise StoreError("a temporary file was cut short by somebody else")
        else:
            self._memory.begin_sending(part)
        self.drop()
        return part

    def drop(self) -> None:
        """Forget everything. Does nothing in a forked child."""
        if self._pid != os.getpid():
            return  # the lock may be held by a thread that does not exist here
        if self._place is not None:
            self._memory.free_slot(self._place[1])
        else:
            self._memory.give_back(self.nbytes)
        self._gathered, self._place, self.nbytes = Sending(), None, 0

    def __del__(self) -> None:
        self.drop()

    def _add_to_file(self, data: Data) -> None:
        if self._place is None:
            fd, slot = self._place = self._memory.take_slot()
            _write_all(fd, self._gathered, slot * PART_NBYTES)
            self._memory.give_back(len(self._gathered))
            self._gathered = Sending()
        fd, slot = self._place
        _write_all(fd, data, slot * PART_NBYTES + self.nbytes)


def _write_all(fd: int, data: Data, offset: int) -> None:
    with memoryview(data) as view:
        written = 0
        while written < view.nbytes:
            written += os.pwrite(fd, view[written:], offset + written)
