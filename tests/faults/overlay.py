"""Objects in a dict, any of which can be replaced for one look: damage without copying a dataset."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from chunkstore.errors import StoreError
from chunkstore.store.interface import Store


class Overlay(Store):
    """A store to be read, holding the objects of another one.

    Attributes:
        objects: What was there.
        changed: What is there instead; None for an object that is gone.
    """

    def __init__(self, store: Store) -> None:
        self.objects = {listed[0]: store.read(listed[0]) for listed in store.list()}
        self.changed: dict[str, bytes | None] = {}
        self._listed = {listed[0]: listed for listed in store.list()}

    @property
    def url(self) -> str:
        return "memory://overlay"

    @property
    def is_local(self) -> bool:
        return False

    @contextmanager
    def with_changed(self, key: str, data: bytes | None) -> Iterator[None]:
        """In the block an object is another one, or gone."""
        self.changed[key] = data
        yield
        del self.changed[key]

    def read(self, key: str, *, limit_nbytes: int | None = None) -> bytes:
        data = self.changed.get(key, self.objects.get(key))
        if data is None:
            raise FileNotFoundError(key)
        if limit_nbytes is not None and len(data) > limit_nbytes:
            raise ValueError(f"{len(data)} bytes, more than {limit_nbytes}")
        return data

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        data = memoryview(self.read(key))
        for _, stop in ranges:
            if stop > len(data):
                raise StoreError(f"{key} has {len(data)} bytes, and {stop} were asked for")
        return [data[start:stop] for start, stop in ranges]

    def list(self, prefix: str = "") -> Iterator[Any]:
        return (listed for key, listed in self._listed.items() if key.startswith(prefix))


def flipped(data: bytes, at: int, mask: int) -> bytes:
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]
