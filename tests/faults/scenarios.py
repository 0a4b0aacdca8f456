"""What a user does to a dataset, small enough to be done thousands of times, and what is then to be seen."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import chunkstore as cs
from chunkstore.errors import DatasetNotFound
from chunkstore.format.pages import page_key
from chunkstore.format.versions import OBJECTS_NAME
from chunkstore.reading.part import read_objects
from chunkstore.store.interface import Store
from chunkstore.store.memory import MemoryStore

PAGES = "_chunkstore/pages"
SCHEMA = {"x": cs.Array("int64"), "name": cs.Bytes()}
Rows = tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class State:
    """All that can be read of a dataset.

    Attributes:
        versions: Rows (sample id, then the value of each field by name) of each version that is listed.
        tags: The version that each names.
    """

    versions: Mapping[int, Rows]
    tags: Mapping[str, int]

    @property
    def latest(self) -> int:
        return max(self.versions, default=0)

    def same_contents(self, other: "State") -> bool:
        """Whether the same is to be read, however many versions it takes to say so."""
        ends = [state.versions.get(state.latest) for state in (self, other)]
        return ends[0] == ends[1] and set(self.versions.values()) == set(other.versions.values())


NOTHING = State({}, {})


@dataclass(frozen=True)
class Scenario:
    """One thing done to a dataset.

    Attributes:
        name: Of the test.
        begin: Makes what is there before.
        run: Does it.
        repeats: Whether it may be done again without looking whether it was done; else a second time is another one.
        refused: What a second time raises.
        paged: Whether lists of fragments lie in pages, however short they are.
    """

    name: str
    begin: Callable[[Store], object]
    run: Callable[[Store], object]
    repeats: bool = False
    refused: type[Exception] | None = None
    paged: bool = False

    def __str__(self) -> str:
        return self.name


def columns(values: range) -> dict[str, Any]:
    return {"x": np.array(values, np.int64), "name": [f"sample {value}".encode() * (value % 3) for value in values]}


def create(store: Store, values: range = range(5)) -> None:
    with cs.create(store, SCHEMA, num_threads=1) as writer:  # type: ignore[arg-type]
        writer.write_batch(columns(values))


def append(store: Store, values: range) -> None:
    with cs.append(store, num_threads=1) as writer:  # type: ignore[arg-type]
        writer.write_batch(columns(values))


def look(store: Store) -> State:
    """Everything that a reader sees, each version opened and read whole."""
    url: Any = store
    try:
        listed = cs.versions(url)
    except DatasetNotFound:
        return NOTHING
    seen = {line.number: rows_of(cs.open(url, version=line.number)) for line in listed}
    assert [line.samples for line in listed] == [len(rows) for rows in seen.values()]
    return State(seen, {name: line.number for line in listed for name in line.tags or ()})


def rows_of(ds: cs.Dataset) -> Rows:
    ids = [f.first + row for f in ds.version_document.fragments for row in range(f.samples)]
    assert len(set(ids)) == len(ids)
    batch = ds[:]
    return tuple(zip(ids, *([*map(_plain, batch[name])] for name in sorted(batch)), strict=True))


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def leftovers(store: Store) -> list[str]:
    """Keys of fragments and pages that no version leads to."""
    url: Any = store
    wanted = {"fragments/zarr.json"}
    for line in cs.versions(url):
        document = cs.open(url, version=line.number).version_document
        wanted.update(map(page_key, document.page_ids))
        for fragment in document.fragments:
            wanted.add(f"fragments/{fragment.id}/zarr.json")
            for part in fragment.parts:
                wanted.update(f"{part.path}/{name}" for name in [OBJECTS_NAME, *read_objects(store, part)])
    return sorted({listed[0] for below in ("fragments", PAGES) for listed in store.list(below)} - wanted)


def memory_store() -> MemoryStore:
    """An empty one, which nobody else sees."""
    from fsspec.implementations.memory import MemoryFileSystem

    filesystem = MemoryFileSystem(skip_instance_cache=True)
    filesystem.store = {}
    filesystem.pseudo_dirs = [""]
    filesystem.global_store = False
    return MemoryStore(f"memory://{uuid.uuid4().hex}", filesystem)


def copy_of(store: Store, into: Store) -> Store:
    """The same objects in another store."""
    for listed in store.list():
        into.write(listed[0], store.read(listed[0]))
    return into
