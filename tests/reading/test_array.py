"""Rows and boxes of stored arrays: every way to ask gives what NumPy's indexing would, and only the chunks needed are read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recording_store import RecordingStore

import chunkstore as cs
from chunkstore.errors import CorruptChunk
from chunkstore.history.commit import read_version
from chunkstore.plan.reads import intervals_of_rows
from chunkstore.reading.cache import ChunkCache
from chunkstore.reading.part import OpenPart
from chunkstore.store.interface import Store
from chunkstore.store.location import open_store

N = 37
ROWS: dict[str, tuple[tuple[int, ...], str, Any, str | None]] = {
    "label": ((), "int64", 8, "auto"),
    "grid": ((5, 7), "float32", (4, 2, 4), "blosc-lz4"),
    "stored": ((5, 7), "float32", (4, 2, 4), None),
    "whole": ((3, 4), "uint16", 4, None),
    "packed": ((3, 4), "uint16", 4, "zstd-3"),
    "zipped": ((2, 6), "int16", (8, 2, 4), "gzip"),
    "flags": ((9,), "bool", (2, 4), "blosc-zstd"),
}
SCHEMA = {name: cs.Array(dtype, shape, codec=codec, chunk=chunk) for name, (shape, dtype, chunk, codec) in ROWS.items()}


@pytest.fixture(scope="module")
def values() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        name: rng.integers(0, 2 if dtype == "bool" else 1000, (N, *shape)).astype(dtype)
        for name, (shape, dtype, _, _) in ROWS.items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, values: dict[str, np.ndarray]) -> Path:
    path = tmp_path_factory.mktemp("arrays") / "ds"
    with cs.create(path, SCHEMA) as writer:
        writer.write_batch(values)
    return path


def opened(store: Store, cache_nbytes: int = 0) -> OpenPart:
    version = read_version(store, None)
    (fragment,) = version.fragments
    return OpenPart(store, fragment, fragment.parts[0], version.schema, 0, ChunkCache(cache_nbytes))


def axis_slices(length: int) -> st.SearchStrategy[slice]:
    ends = st.none() | st.integers(-length - 2, length + 2)
    return st.builds(slice, ends, ends, st.none() | st.integers(1, length + 1))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("local", [True, False], ids=["local", "remote"])
def test_boxes_of_rows_are_numpys(
    folder: Path, values: dict[str, np.ndarray], local: bool, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(ROWS)))
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, N - 1)))), np.int64)
    box = data.draw(st.none() | st.tuples(*(axis_slices(n) for n in ROWS[name][0])))
    store = open_store(str(folder))
    part = opened(store if local else RecordingStore(store), data.draw(st.sampled_from([0, 1 << 20])))
    for verify in (True, False, True):
        read = part.read(name, SCHEMA[name], intervals_of_rows(rows), verify=verify, box=box)
        wanted = values[name][rows]
        np.testing.assert_array_equal(read, wanted if box is None else wanted[(slice(None), *box)], strict=True)


def test_only_chunks_that_a_box_touches_are_read(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 64), np.uint8)
    schema = {"volume": cs.Array("uint8", (64, 64, 64), codec=None, chunk=(1, 16, 16, 64))}
    with cs.create(tmp_path / "ds", schema) as writer:
        writer.write_batch({"volume": volume})
    store = RecordingStore(open_store(str(tmp_path / "ds")))
    part = opened(store)
    everything = np.array([[0, 2]])
    part.read("volume", schema["volume"], everything, box=(slice(0, 1), slice(0, 1), slice(0, 1)))
    store.forget()
    box = (slice(20, 60, 20), slice(17, 18), slice(None))
    read = part.read("volume", schema["volume"], everything, box=box)
    np.testing.assert_array_equal(read, volume[:, 20:60:20, 17:18])
    chunk_nbytes = 16 * 16 * 64 + 4
    ranges = [r for operation in store.of("read_ranges") for r in operation.ranges]
    # chunks (1, 1) and (2, 1) of the 4 × 4 of each sample; nothing between those of both samples is cheap enough to leave out
    assert sum(stop - start for start, stop in ranges) == (16 + 4 + 1) * chunk_nbytes
    store.forget()
    part.read("volume", schema["volume"], np.array([[0, 1]]), box=(slice(0, 0), slice(None), slice(None)))
    assert not store.operations


def test_damage_outside_a_box_is_not_noticed_and_inside_is(tmp_path: Path) -> None:
    schema = {"x": cs.Array("int32", (8, 8), codec=None, chunk=(1, 4, 8))}
    with cs.create(tmp_path / "ds", schema) as writer:
        writer.write_batch({"x": np.arange(128, dtype="i4").reshape(2, 8, 8)})
    (shard,) = tmp_path.glob("ds/fragments/*/0/x/c/0/0/0")
    content = bytearray(shard.read_bytes())
    content[5] ^= 1
    shard.write_bytes(content)
    part = opened(open_store(str(tmp_path / "ds")))
    below = part.read("x", schema["x"], np.array([[0, 2]]), box=(slice(4, 8), slice(None)))
    np.testing.assert_array_equal(below, np.arange(128).reshape(2, 8, 8)[:, 4:])
    with pytest.raises(CorruptChunk, match=r"field 'x', sample 0\b"):
        part.read("x", schema["x"], np.array([[0, 2]]), box=(slice(0, 1), slice(0, 1)))


@pytest.mark.parametrize(
    ("box", "message"),
    [((slice(0, 1),), "a box of 1 axes"), ((slice(None, None, -1), slice(None)), "steps are at least 1")],
)
def test_boxes_that_mean_nothing_are_refused(folder: Path, box: tuple[slice, ...], message: str) -> None:
    part = opened(open_store(str(folder)))
    with pytest.raises(ValueError, match=message):
        part.read("grid", SCHEMA["grid"], np.array([[0, 2]]), box=box)


def test_ragged_samples_have_no_boxes(tmp_path: Path) -> None:
    schema = {"x": cs.Ragged("int32")}
    with cs.create(tmp_path / "ds", schema) as writer:
        writer.write({"x": [1, 2]})
    with pytest.raises(ValueError, match="no fixed shape"):
        opened(open_store(str(tmp_path / "ds"))).read("x", schema["x"], np.array([[0, 1]]), box=(slice(0, 1),))


def test_no_rows_of_a_box_have_its_shape(folder: Path) -> None:
    read = opened(open_store(str(folder))).read(
        "grid", SCHEMA["grid"], np.empty((0, 2), np.int64), box=(slice(1, 3), slice(0, 7, 2))
    )
    assert read.shape == (0, 2, 4)
    assert math.prod(read.shape) == 0


@dataclass
class Damaging(RecordingStore):
    """Flips a bit of every range when it is asked for the first time."""

    asked: set[tuple[str, int]] = field(default_factory=set)

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        bodies = super().read_ranges(key, ranges)
        if (key, ranges[0][0]) in self.asked:
            return bodies
        self.asked.add((key, ranges[0][0]))
        return [memoryview(bytes([body[0] ^ 1]) + bytes(body[1:])) for body in bodies]


@pytest.mark.parametrize("name", sorted(ROWS))
def test_bodies_damaged_on_the_way_are_asked_for_once_more(
    folder: Path, values: dict[str, np.ndarray], name: str
) -> None:
    store = Damaging(open_store(str(folder)))
    read = opened(store).read(name, SCHEMA[name], np.array([[0, N]]))
    np.testing.assert_array_equal(read, values[name])
    assert len(store.asked) >= 2  # the index and a body at least


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.integers(0, N - 1), max_size=60), name=st.sampled_from(sorted(ROWS)), cached=st.booleans())
def test_rows_in_any_order_and_more_than_once(
    folder: Path, values: dict[str, np.ndarray], rows: list[int], name: str, cached: bool
) -> None:
    part = opened(open_store(str(folder)), 1 << 20 if cached else 0)
    for _ in range(2):
        read = part.read(name, SCHEMA[name], intervals_of_rows(np.array(rows, np.int64)))
        np.testing.assert_array_equal(read, values[name][rows])
