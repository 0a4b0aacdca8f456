"""Datasets in memory: fsspec's `memory://`, so that zarr and fsspec see the same objects.

The objects live in one process. They cannot travel to a spawned worker, and a forked child has a copy that nobody else sees,
so it may read but not write. fsspec hands out one shared file object a key, position included; it is never read through
that, only its bytes are taken. Imports fsspec; `open_store` (location) imports this when a URL asks for it.
"""

import os
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from chunkstore.errors import ForkedLoader, StoreError
from chunkstore.store.interface import Data, Listed, Upload, check_key, check_prefix, check_ranges, is_segment
from chunkstore.store.probe import check_commits_once

_PROCESS = uuid.uuid4().hex
# fsspec's own "create" looks first and writes afterwards, so all of this process's writers queue here.
_lock = threading.Lock()


def _renew_lock() -> None:
    global _lock  # noqa: PLW0603
    # a thread that held it does not exist in the child
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


class MemoryStore:
    """A store below a path of fsspec's memory file system."""

    is_local = False

    def __init__(self, path: str, filesystem: MemoryFileSystem | None = None) -> None:
        # Any, for fsspec is untyped
        self._filesystem: Any = fsspec.filesystem("memory") if filesystem is None else filesystem  # type: ignore[no-untyped-call]
        self._root = str(self._filesystem._strip_protocol(path))
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"MemoryStore({self.url!r})"

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        if not self._filesystem.global_store:
            raise StoreError(f"{self.url} is a private memory file system and cannot be pickled; use a local folder")
        return _reopen, (self._root, _PROCESS)

    @property
    def url(self) -> str:
        """`memory://` and the path."""
        return f"memory://{self._root.removeprefix('/')}"

    def read(self, key: str, *, limit_nbytes: int | None = None) -> bytes:
        """Read a whole object; see `Store.read`."""
        data = self._value(key)
        if limit_nbytes is not None and len(data) > limit_nbytes:
            raise ValueError(f"{self.url}/{key} has {len(data)} bytes, more than the {limit_nbytes} expected")
        return data

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Give views of byte ranges [start, stop); see `Store.read_ranges`."""
        check_ranges(ranges)
        data = memoryview(self._value(key))
        for start, stop in ranges:
            if stop > data.nbytes:
                raise StoreError(f"{self.url}/{key} has {data.nbytes} bytes, and [{start}, {stop}) was asked for")
        return [data[start:stop] for start, stop in ranges]

    def read_end(self, key: str, nbytes: int) -> tuple[int, memoryview]:
        """Give the size and a view of the last bytes; see `Store.read_end`."""
        data = self._value(key)
        return len(data), memoryview(data)[max(0, len(data) - nbytes) :]

    def write(self, key: str, data: Data) -> None:
        """Write a whole object; see `Store.write`."""
        path = self._path(key)
        self._refuse_fork(key)
        with _lock:
            self._put(path, data)

    def open_upload(self, key: str) -> "MemoryUpload":
        """Start to write an object; see `Store.open_upload`."""
        check_key(key)
        self._refuse_fork(key)
        return MemoryUpload(self, key)

    def write_if_absent(self, key: str, data: Data) -> bool:
        """Write an object unless there is one, under a lock of the process; see `Store.write_if_absent`."""
        path = self._path(key)
        self._refuse_fork(key)
        with _lock:
            if path in self._filesystem.store:
                return False
            self._put(path, data)
            return True

    def list(self, prefix: str = "") -> Iterator[Listed]:
        """List objects; see `Store.list`."""
        folder = "/".join(part for part in (self._root, check_prefix(prefix)) if part) + "/"
        for path, file in list(self._filesystem.store.items()):
            key = path.removeprefix(f"{self._root}/")
            if path.startswith(folder) and all(is_segment(segment) for segment in key.split("/")):
                yield Listed(key, len(file.getbuffer()), file.modified.timestamp())

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; see `Store.delete`."""
        for key in keys:
            path = self._path(key)
            self._refuse_fork(key)
            with _lock:
                self._filesystem.store.pop(path, None)

    def check_commits(self) -> None:
        """Race for a key; see `Store.check_commits`."""
        self._refuse_fork("_chunkstore")
        check_commits_once(self, f"memory:{id(self._filesystem.store)}")

    def _path(self, key: str) -> str:
        return f"{self._root}/{check_key(key)}"

    def _value(self, key: str) -> bytes:
        file = self._filesystem.store.get(self._path(key))
        if file is None:
            raise FileNotFoundError(f"no object {key} in {self.url}")
        return bytes(file.getvalue())

    def _put(self, path: str, data: Data) -> None:
        try:
            self._filesystem.pipe_file(path, bytes(data))
        except (FileExistsError, IsADirectoryError) as error:
            raise StoreError(
                f"cannot write memory:/{path}: a folder has its name, or an object that of its folder"
            ) from error

    def _refuse_fork(self, key: str) -> None:
        if self._pid != os.getpid():
            raise ForkedLoader(
                f"{self.url}/{key} would be written in a forked child, whose memory is a copy: nobody would see it. Write in"
                " the process that opened the store, or to a local folder."
            )


class MemoryUpload(Upload):
    """Bytes gathered until `finish`; memory is where they go anyway."""

    def __init__(self, store: MemoryStore, key: str) -> None:
        self._store = store
        self._key = key
        self._gathered: bytearray | None = bytearray()

    def write(self, data: Data) -> None:
        """Append bytes."""
        self._open_bytes().extend(memoryview(data).cast("B"))

    def finish(self) -> None:
        """Put the object there."""
        self._store.write(self._key, self._open_bytes())
        self._gathered = None

    def abort(self) -> None:
        """Forget the bytes."""
        self._gathered = None

    def _open_bytes(self) -> bytearray:
        if self._gathered is None:
            raise ValueError(f"the upload of {self._store.url}/{self._key} is over")
        return self._gathered


def _reopen(path: str, process: str) -> MemoryStore:
    if process != _PROCESS:
        raise StoreError(
            f"memory:/{path} lives in the process that opened it and cannot be sent to another; use a local folder or an"
            " object store"
        )
    return MemoryStore(path)
