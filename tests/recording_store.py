"""A store that notes what is asked of another one, so that tests can count requests and round trips, and make them fail."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from chunkstore.store.interface import Data, Store, Upload


@dataclass(frozen=True)
class Operation:
    """One call.

    Attributes:
        name: Of the store's method; "upload.write", "upload.finish", "upload.abort" for those of an upload.
        key: Of the object; the prefix of a listing.
        ranges: Byte ranges that were asked for.
        start: When it began, by the count of beginnings and ends so far.
        stop: When it ended, likewise.
    """

    name: str
    key: str
    ranges: tuple[tuple[int, int], ...]
    nbytes: int
    start: int
    stop: int


@dataclass
class RecordingStore(Store):
    """Passes everything on to `inner`, and notes it.

    Attributes:
        inner: The store that does the work.
        delay_s: How long every request takes at least, so that what can happen at the same time does.
        hook: Called with the name and key before each operation; what it raises is raised to the caller.
    """

    inner: Store
    delay_s: float = 0.0
    hook: Callable[[str, str], object] | None = None
    operations: list[Operation] = field(default_factory=list)
    _clock: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def is_local(self) -> bool:
        return False  # requests of a local store are not worth counting

    def read(self, key: str, *, limit_nbytes: int | None = None) -> bytes:
        return self._do("read", key, lambda: self.inner.read(key, limit_nbytes=limit_nbytes))

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        return self._do("read_ranges", key, lambda: self.inner.read_ranges(key, ranges), ranges=tuple(ranges))

    def read_end(self, key: str, nbytes: int) -> tuple[int, memoryview]:
        return self._do("read_end", key, lambda: self.inner.read_end(key, nbytes), nbytes=nbytes)

    def write(self, key: str, data: Data) -> None:
        self._do("write", key, lambda: self.inner.write(key, data), nbytes=len(data))

    def open_upload(self, key: str) -> Upload:
        return _RecordingUpload(self, key, self._do("open_upload", key, lambda: self.inner.open_upload(key)))

    def write_if_absent(self, key: str, data: Data) -> bool:
        return self._do("write_if_absent", key, lambda: self.inner.write_if_absent(key, data), nbytes=len(data))

    def list(self, prefix: str = "") -> Iterator[Any]:
        return iter(self._do("list", prefix, lambda: [*self.inner.list(prefix)]))

    def delete(self, keys: Iterable[str]) -> None:
        keys = [*keys]
        self._do(
            "delete",
            " ".join(keys),
            lambda: self.inner.delete(keys),
            half=(lambda: self.inner.delete(keys[: len(keys) // 2])) if len(keys) > 1 else None,
        )

    def check_commits(self) -> None:
        self.inner.check_commits()

    def of(self, *names: str) -> Sequence[Operation]:
        """The operations of these names, in the order in which they ended."""
        return [operation for operation in self.operations if operation.name in names]

    def num_round_trips(self) -> int:
        """The longest row of reads each of which began after the one before had ended."""
        longest, ended = 0, []
        for operation in sorted(self.of("read", "read_ranges", "read_end"), key=lambda o: o.start):
            depth = 1 + max((d for stop, d in ended if stop < operation.start), default=0)
            ended.append((operation.stop, depth))
            longest = max(longest, depth)
        return longest

    def forget(self) -> None:
        """Begin to note anew."""
        self.operations.clear()

    def _do(
        self,
        name: str,
        key: str,
        call: Callable[[], Any],
        *,
        half: Callable[[], Any] | None = None,
        ranges: tuple[tuple[int, int], ...] = (),
        nbytes: int = 0,
    ) -> Any:
        """Note an operation and do it; `half`, where there is one, would leave it half done (crashing_store.py)."""
        start = self._tick()
        if self.hook is not None:
            self.hook(name, key)
        try:
            if self.delay_s:
                time.sleep(self.delay_s)
            return call()
        finally:
            stop = self._tick()
            self.operations.append(Operation(name, key, ranges, nbytes, start, stop))

    def _tick(self) -> int:
        with self._lock:
            self._clock += 1
            return self._clock


@dataclass
class _RecordingUpload(Upload):
    store: RecordingStore
    key: str
    inner: Upload

    def write(self, data: Data) -> None:
        half = memoryview(data).cast("B")[: len(data) // 2]
        self.store._do(
            "upload.write",
            self.key,
            lambda: self.inner.write(data),
            half=lambda: self.inner.write(half),
            nbytes=len(data),
        )

    def finish(self) -> None:
        self.store._do("upload.finish", self.key, self.inner.finish)

    def abort(self) -> None:
        self.store._do("upload.abort", self.key, self.inner.abort)
