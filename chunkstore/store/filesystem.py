"""Any other fsspec file system, to read from.

fsspec promises no put-if-absent (its `mode="create"` looks first and writes afterwards), so nothing is ever written here. A
file system that does promise it gets a store of its own, chosen in `open_filesystem`: `s3_filesystem` for s3fs. Imports fsspec;
`open_store` (location) imports this when needed.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from chunkstore.errors import ForkedLoader, ReadOnlyStore, StoreError
from chunkstore.store.interface import Data, Listed, Store, Upload, check_key, check_prefix, check_ranges, is_segment
from chunkstore.store.local import LocalStore
from chunkstore.store.memory import MemoryStore
from chunkstore.store.options import find_secrets, printable_url, redact

_Result = TypeVar("_Result")


def open_filesystem_url(url: str, storage_options: Mapping[str, Any] | None) -> Store:
    """Open a URL of a protocol that fsspec knows.

    Raises:
        ValueError: it knows no such protocol, its package is not installed, or the options do not fit.
    """
    secrets = find_secrets(storage_options or {})
    try:
        filesystem, path = fsspec.core.url_to_fs(  # type: ignore[no-untyped-call]
            url, **(storage_options or {})
        )
    except (ValueError, TypeError, ImportError, OSError) as error:
        problem = redact(f"{type(error).__name__}: {error}", secrets)
    else:
        return open_filesystem(filesystem, path)
    raise ValueError(f"cannot open {printable_url(url)} through fsspec: {problem}")


def open_filesystem(filesystem: Any, path: str) -> Store:
    """Choose the store for an fsspec file system: those that can commit by their own means, all others read-only.

    Raises:
        ValueError: it is no fsspec file system.
    """
    if not isinstance(filesystem, fsspec.AbstractFileSystem):
        raise ValueError(f"filesystem must be an fsspec file system, not {type(filesystem).__name__}")
    if type(filesystem) is LocalFileSystem:
        return LocalStore(str(type(filesystem)._strip_protocol(path)))  # type: ignore[no-untyped-call]
    if type(filesystem) is MemoryFileSystem:
        return MemoryStore(path, filesystem)
    if _is_s3fs(filesystem):
        from chunkstore.store.s3_filesystem import S3FilesystemStore

        return S3FilesystemStore(filesystem, path)
    return FilesystemStore(filesystem, path)


def _is_s3fs(filesystem: Any) -> bool:
    s3fs = sys.modules.get("s3fs")  # who has an object of it has imported it
    return s3fs is not None and isinstance(filesystem, s3fs.S3FileSystem)


class FilesystemStore:
    """A read-only store below a path of an fsspec file system."""

    is_local = False

    def __init__(self, filesystem: Any, path: str) -> None:
        self._filesystem = filesystem
        self._root = str(filesystem._strip_protocol(path)).rstrip("/")
        self._secrets = find_secrets(filesystem.storage_options)
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def __reduce__(self) -> tuple[Any, tuple[Any, str]]:
        return type(self), (self._filesystem, self._root)

    @property
    def url(self) -> str:
        """Protocol and path."""
        protocol = self._filesystem.protocol
        name = protocol if isinstance(protocol, str) else protocol[0]
        return redact(printable_url(self._root if "://" in self._root else f"{name}://{self._root}"), self._secrets)

    def read(self, key: str, *, limit_nbytes: int | None = None) -> bytes:
        """Read a whole object; see `Store.read`."""
        path = self._path(key)
        if limit_nbytes is None:
            return bytes(self._doing("read", key, lambda: self._filesystem.cat_file(path)))
        # One byte more than allowed says enough, in one request and past any cached listing.
        data = self._doing("read", key, lambda: self._filesystem.cat_file(path, start=0, end=limit_nbytes + 1))
        if len(data) > limit_nbytes:
            raise ValueError(f"{self.url}/{key} has more than the {limit_nbytes} bytes expected")
        return bytes(data)

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Read byte ranges [start, stop); see `Store.read_ranges`."""
        path = self._path(key)
        check_ranges(ranges)
        wanted = [(start, stop) for start, stop in ranges if start < stop]
        starts, stops = [start for start, _ in wanted], [stop for _, stop in wanted]
        pieces = iter(
            self._doing(
                "read",
                key,
                lambda: (
                    self._filesystem.cat_ranges([path] * len(wanted), starts, stops, on_error="raise") if wanted else []
                ),
            )
        )
        buffers = [memoryview(next(pieces)) if start < stop else memoryview(b"") for start, stop in ranges]
        for (start, stop), buffer in zip(ranges, buffers, strict=True):
            if buffer.nbytes != stop - start:
                raise StoreError(f"{self.url}/{key}: bytes [{start}, {stop}) were asked for, and {buffer.nbytes} came")
        return buffers

    def read_end(self, key: str, nbytes: int) -> tuple[int, memoryview]:
        """Ask for the size, past any cached listing, and read the last bytes; see `Store.read_end`."""
        path = self._path(key)

        def ask() -> int | None:
            self._filesystem.invalidate_cache()
            size: int | None = self._filesystem.size(path)
            return size

        size = self._doing("read", key, ask)
        if size is None:
            raise StoreError(f"{self.url}/{key}: its size is not known, so that its end cannot be read")
        return size, self.read_ranges(key, [(max(0, size - nbytes), size)])[0]

    def list(self, prefix: str = "") -> Iterator[Listed]:
        """List objects; see `Store.list`."""
        prefix = check_prefix(prefix)
        folder = f"{self._root}/{prefix}" if prefix else self._root

        def find() -> dict[str, dict[str, Any]]:
            self._filesystem.invalidate_cache()
            found: dict[str, dict[str, Any]] = self._filesystem.find(folder, detail=True)
            return found

        try:
            found = self._doing("list", prefix, find)
        except FileNotFoundError:
            return
        for path, info in found.items():
            key = path.removeprefix(f"{self._root}/")
            if path != folder and all(is_segment(segment) for segment in key.split("/")):
                yield Listed(key, int(info["size"]), _modified(info))

    def write(self, key: str, data: Data) -> None:
        """Refuse."""
        self._refuse_write(key)

    def open_upload(self, key: str) -> Upload:
        """Refuse."""
        self._refuse_write(key)

    def write_if_absent(self, key: str, data: Data) -> bool:
        """Refuse."""
        self._refuse_write(key)

    def delete(self, keys: Iterable[str]) -> None:
        """Refuse."""
        self._refuse_write(next(iter(keys), ""))

    def check_commits(self) -> None:
        """Refuse."""
        self._refuse_write("")

    def _path(self, key: str) -> str:
        return f"{self._root}/{check_key(key)}"

    def _refuse_write(self, key: str) -> NoReturn:
        raise ReadOnlyStore(
            f"{self.url}/{key} cannot be written: fsspec's {type(self._filesystem).__name__} has no put-if-absent, so commits"
            " are not safe there. Write to local disk, memory://, s3://, gs:// or az:// (without filesystem=), or through s3fs."
        )

    def _doing(self, verb: str, key: str, call: Callable[[], _Result]) -> _Result:
        """Call fsspec, and turn its errors, which are any library's, into ours; the originals may hold secrets."""
        if self._pid != os.getpid() and getattr(self._filesystem, "async_impl", False):
            raise ForkedLoader(
                f"{self.url} is used in a forked child, where fsspec's thread does not exist. Start workers with"
                ' multiprocessing\'s "spawn" or "forkserver", or use local data.'
            )
        try:
            return call()
        except FileNotFoundError:
            failure: Exception = FileNotFoundError(f"no object {key} in {self.url}")
        except PermissionError as error:
            failure = PermissionError(f"cannot {verb} {self.url}/{key}: {self._tell(error)}")
        except Exception as error:  # every filesystem has errors of its own
            failure = StoreError(f"cannot {verb} {self.url}/{key}: {self._tell(error)}")
        raise failure

    def _tell(self, error: Exception) -> str:
        return redact(f"{type(error).__name__}: {error}", self._secrets)[:500]


def _modified(info: Mapping[str, Any]) -> float:
    """When an object was written; now where the file system does not say, so that nothing is taken to be old."""
    for name in ("mtime", "LastModified", "last_modified", "modified", "updated", "created"):
        match info.get(name):
            case datetime() as moment:
                return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
            case int() | float() as seconds:
                return float(seconds)
            case str() as text:
                try:
                    moment = datetime.fromisoformat(text)
                except ValueError:
                    continue
                return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return time.time()
