"""The threads of a writer: some that encode, one that uploads in order, one that waits until what was uploaded is durable.

`Workers` runs what it is given and knows nothing of arrays. Before it: `sinks.py`, which submits a buffer at a time; after it:
the store. What waits is bounded in bytes, so a writer's memory does not grow with what is written.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt

BUFFER_NBYTES = 4 << 20
"""Rows gathered before they are encoded together."""
MAX_PENDING_NBYTES = 48 << 20
"""Bytes of a writer that wait to be encoded or uploaded; more make `submit` wait, unless nothing waits at all."""
MAX_BUFFERED_NBYTES = 256 << 20
"""What the buffers of all arrays of a writer may hold together; many arrays get smaller ones."""
_MAX_SPARE_BUFFERS = 8
_MAX_FINISHING = 2
"""Objects that become durable while the next is uploaded."""

_Encoded = TypeVar("_Encoded")


class Workers:
    """The threads of one writer, and its memory.

    The first failure of any of them is raised by the next `submit` and by `finish`.

    Args:
        num_threads: How many encode.
        num_arrays: How many arrays share the memory.
    """

    def __init__(self, num_threads: int, num_arrays: int = 1) -> None:
        self.buffer_nbytes = max(1 << 16, min(BUFFER_NBYTES, MAX_BUFFERED_NBYTES // max(1, num_arrays)))
        self._encoders = ThreadPoolExecutor(num_threads, thread_name_prefix="chunkstore-encode")
        self._uploader = ThreadPoolExecutor(1, thread_name_prefix="chunkstore-upload")
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="chunkstore-finish")
        self._room_to_finish = threading.Semaphore(_MAX_FINISHING)
        self._changed = threading.Condition()
        self._pending_nbytes = 0
        self._failure: BaseException | None = None
        self._spare: list[npt.NDArray[np.uint8]] = []

    def take_buffer(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """Memory of `nbytes`, its content undefined: a spare buffer where one fits, for fresh pages are slow to touch."""
        if nbytes <= self.buffer_nbytes:
            with self._changed:
                if self._spare:
                    return self._spare.pop()[:nbytes]
            return np.empty(self.buffer_nbytes, np.uint8)[:nbytes]
        return np.empty(nbytes, np.uint8)

    def submit(
        self, buffer: npt.NDArray[np.uint8], encode: Callable[[], _Encoded], upload: Callable[[_Encoded], None]
    ) -> None:
        """Run `encode` in some thread, then `upload` with its result, after all uploads submitted before.

        `buffer` is the memory that both work on; afterwards it is free for others.
        """
        with self._changed:
            while (
                self._failure is None
                and self._pending_nbytes
                and self._pending_nbytes + len(buffer) > MAX_PENDING_NBYTES
            ):
                self._changed.wait()
            self._raise_failure()
            self._pending_nbytes += len(buffer)
        self._uploader.submit(self._upload, self._encoders.submit(encode), upload, buffer)

    def finish_later(self, finish: Callable[[], None]) -> None:
        """Run `finish` in a thread of its own, after all given before; called by an `upload`, which goes on meanwhile."""
        self._room_to_finish.acquire()
        self._finisher.submit(self._finish, finish)

    def finish(self) -> None:
        """Wait for everything."""
        self._encoders.shutdown()
        self._uploader.shutdown()
        self._finisher.shutdown()
        self._raise_failure()

    def cancel(self) -> None:
        """Drop what has not begun, wait for what has."""
        self._encoders.shutdown(cancel_futures=True)
        self._uploader.shutdown(cancel_futures=True)
        self._finisher.shutdown(cancel_futures=True)

    def _upload(
        self, encoded: "Future[_Encoded]", upload: Callable[[_Encoded], None], buffer: npt.NDArray[np.uint8]
    ) -> None:
        failure = None
        try:
            result = encoded.result()
            if self._failure is None:
                upload(result)
        except BaseException as error:  # kept for the writer's own thread, which raises it
            failure = error
        with self._changed:
            self._failure = self._failure or failure
            self._pending_nbytes -= len(buffer)
            whole = buffer.base
            if (
                isinstance(whole, np.ndarray)
                and len(whole) == self.buffer_nbytes
                and len(self._spare) < _MAX_SPARE_BUFFERS
            ):
                self._spare.append(whole)
            self._changed.notify()

    def _finish(self, finish: Callable[[], None]) -> None:
        try:
            if self._failure is None:
                finish()
        except BaseException as error:  # kept for the writer's own thread, which raises it
            with self._changed:
                self._failure = self._failure or error
                self._changed.notify()
        finally:
            self._room_to_finish.release()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
