"""What a store can do: one Protocol, one word per capability, and the rules for keys and ranges that all of them share.

A store keeps whole objects under relative keys. It knows nothing of datasets, plans nothing and merges no reads; it must
never show credentials, and never answer with bytes other than those asked for. `writer` and `commit` write through it,
`dataset` and `fetch` read through it, `open_store` (location) makes one.

Every method is synchronous, may be called from many threads at once, and releases the GIL while it waits.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol, Self, TypeAlias, runtime_checkable

from chunkstore.errors import StoreError

Data: TypeAlias = bytes | bytearray | memoryview

_SEGMENT = re.compile(r"[A-Za-z0-9_.-]{1,200}")
_MAX_KEY_LENGTH = 900


class NotDurable(StoreError):
    """An object is there, but could not be made durable, so it may vanish: reading it back resolves nothing."""


class Listed(NamedTuple):
    """An object as a listing shows it.

    Attributes:
        key: Relative to the store's URL.
        nbytes: Its size.
        modified: When it was last written by the store's clock, seconds since the epoch, UTC.
    """

    key: str
    nbytes: int
    modified: float


class Upload(Protocol):
    """An object being written piece by piece; nobody sees it before `finish`.

    As a context manager it finishes at the end of the block and aborts when the block raises.
    """

    def write(self, data: Data) -> None:
        """Append bytes; the buffer may be reused as soon as this returns."""

    def write_all(self, pieces: Sequence[Data]) -> None:
        """Append several buffers, one after another; at once where the store can."""
        for piece in pieces:
            self.write(piece)

    def finish(self) -> None:
        """Make the object visible and durable."""

    def abort(self) -> None:
        """Forget what was written; does nothing after `finish`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.abort()


@runtime_checkable
class Store(Protocol):
    """Objects under one URL.

    All methods take keys relative to the URL: segments of `[A-Za-z0-9_.-]` joined by "/", else ValueError. All raise
    `StoreError` when the store fails after retries, `PermissionError` when it refuses, `ForkedLoader` when a store with
    threads behind it is used in a forked child; those that write raise `ReadOnlyStore` where nothing can be written.
    """

    @property
    def url(self) -> str:
        """Where it is, printable: never with credentials or a query."""

    @property
    def is_local(self) -> bool:
        """Whether it is a `LocalStore`, which also gives the `path` of a key."""

    def read(self, key: str, *, limit_nbytes: int | None = None) -> bytes:
        """Read a whole object.

        Raises:
            FileNotFoundError: there is no such object.
            ValueError: it is larger than `limit_nbytes`; it was not read.
        """

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Read byte ranges [start, stop) of one object, in the order given, each as it is: none is merged or widened.

        Raises:
            FileNotFoundError: there is no such object.
            StoreError: a range reaches past the end of the object.
        """

    def read_end(self, key: str, nbytes: int) -> tuple[int, memoryview]:
        """Read the size of an object as it is now, and its last `nbytes` bytes (at least 1; all of a shorter object).

        Raises:
            FileNotFoundError: there is no such object.
        """

    def write(self, key: str, data: Data) -> None:
        """Write a whole object, over whatever was there; durable when this returns, and never seen in part."""

    def open_upload(self, key: str) -> Upload:
        """Start to write an object of unknown size; memory stays bounded."""

    def write_if_absent(self, key: str, data: Data) -> bool:
        """Write an object unless there is one, as one step that no other writer can divide.

        Returns:
            True when the object is this call's, False when it is somebody else's.

        Raises:
            StoreError: it is not known which; read the object back to find out.
        """

    def list(self, prefix: str = "") -> Iterator[Listed]:
        """List the objects in the folder `prefix` and below, in no particular order."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are absent already are no error."""

    def check_commits(self) -> None:
        """Find out by a real race, once per process, whether `write_if_absent` keeps its promise here.

        Raises:
            ReadOnlyStore: it does not, so nobody can commit here.
        """


@runtime_checkable
class HasPaths(Protocol):
    """A store whose objects are files, for readers that map or `preadv` them."""

    def path(self, key: str) -> Path:
        """Give the file of a key, which may not exist.

        Raises:
            InvalidDataset: a symbolic link leads out of the store.
        """


@runtime_checkable
class LeavesFiles(Protocol):
    """A store where a writer that is killed leaves unfinished files, which `list` does not show.

    They are told by keys of their own, of an object and what makes the file's name unique, which no other method takes.
    """

    def list_unfinished(self, prefix: str = "", *, deep: bool = True) -> Iterator[Listed]:
        """List the unfinished files in the folder `prefix` and, if `deep`, below; those of living writers among them."""

    def delete_unfinished(self, keys: Iterable[str]) -> None:
        """Delete unfinished files, as listed; those that are absent already are no error."""


def check_key(key: str) -> str:
    """Give the key back when it is one.

    Raises:
        ValueError: it is empty, absolute, longer than 900 characters, or has a segment that is empty, ".", "..", longer
            than 200 or with characters outside `[A-Za-z0-9_.-]`.
    """
    if len(key) > _MAX_KEY_LENGTH or not all(is_segment(segment) for segment in key.split("/")):
        raise ValueError(
            f"not a key: {key[:100]!r}; keys are relative, of segments [A-Za-z0-9_.-] joined by '/', without '.' and '..'"
        )
    return key


def is_segment(name: str) -> bool:
    """Whether a name may stand between the slashes of a key."""
    return _SEGMENT.fullmatch(name) is not None and name not in {".", ".."}


def check_prefix(prefix: str) -> str:
    """Give a folder's key back without its final slash; "" is the root."""
    return check_key(prefix.removesuffix("/")) if prefix else ""


def check_ranges(ranges: Sequence[tuple[int, int]]) -> None:
    """Refuse ranges that no object can have.

    Raises:
        ValueError: a range starts before 0 or stops before it starts.
    """
    for start, stop in ranges:
        if not 0 <= start <= stop:
            raise ValueError(f"not a byte range: [{start}, {stop})")
