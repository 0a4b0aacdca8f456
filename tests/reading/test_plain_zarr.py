"""Zarr that other tools wrote, opened as a dataset: every value, on every store, and what is a field at all."""

import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import zarr
from conftest import Location
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recording_store import RecordingStore
from web_server import WebServer, serving
from zarr_writers import WRITERS, Arrays, Writer, consolidate, copy_into, example, writers_warnings_ignored

import chunkstore as cs
from chunkstore.store.location import open_store

TWICE = [zarr.codecs.GzipCodec(level=1), zarr.codecs.ZstdCodec()]
"""Compressors that are zarr-python's to undo."""


def same(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and a.dtype == b.dtype.newbyteorder("<") and a.tobytes() == b.tobytes()


def assert_reads_as(ds: cs.Dataset, arrays: Arrays) -> None:
    rows = len(next(iter(arrays.values())))
    assert sorted(ds.schema) == sorted(arrays)
    assert len(ds) == rows
    whole, some, one = ds[:], [5, 3, -1, 5, *range(10, rows, 2)], ds[7]
    for name, values in arrays.items():
        assert ds.schema[name] == cs.Array(values.dtype.name, values.shape[1:])
        assert same(whole[name], values), name
        assert same(ds[name][some], values[some]), name
        assert same(ds[name][9:21], values[9:21]), name
        assert same(one[name], values[7]), name


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_every_value_of_every_writer_is_read(writer: Writer, tmp_path: Path) -> None:
    arrays = example()
    writer(tmp_path / "zarr", arrays)
    ds = cs.open(tmp_path / "zarr")
    assert_reads_as(ds, arrays)
    by_others = {name for name, array in ds._parts.arrays.items() if array.codecs is None}
    assert bool(by_others) == (writer.__name__ in ("by_zarr_3_unusual", "by_zarr_2_filtered"))


def test_every_writer_is_read_from_every_store(location: Location, tmp_path: Path) -> None:
    arrays = {name: values for name, values in example(23).items() if name in ("volume", "int16")}
    for name, writer in WRITERS.items():
        writer(tmp_path / name, arrays)
        copy_into(tmp_path / name, location.open(), f"{name}/")
        assert_reads_as(cs.open(f"{location.url}/{name}", storage_options=location.storage_options), arrays)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_shape_chunk_shard_and_choice_reads_as_numpy_has_it(data: st.DataObject, tmp_path_factory: Any) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    chunk = tuple(data.draw(st.integers(1, n + 2)) for n in shape)
    shard = data.draw(st.none() | st.tuples(*(st.integers(1, 3) for _ in shape)))
    fill = data.draw(st.sampled_from([0, 7, -1]))
    values = np.arange(np.prod(shape), dtype="int16").reshape(shape)
    values[data.draw(st.integers(0, shape[0])) :] = fill  # chunks of nothing else are not stored
    array = zarr.create_array(
        tmp_path_factory.mktemp("any"),
        shape=shape,
        dtype="int16",
        chunks=chunk,
        shards=None if shard is None else tuple(c * k for c, k in zip(chunk, shard, strict=True)),
        compressors=data.draw(st.sampled_from([None, zarr.codecs.ZstdCodec(), zarr.codecs.BloscCodec(), TWICE])),
        filters=data.draw(
            st.sampled_from([None, zarr.codecs.TransposeCodec(order=tuple(reversed(range(len(shape)))))])
        ),
        fill_value=fill,
    )
    array[...] = values
    ds = cs.open(array.store.root)
    rows = data.draw(st.lists(st.integers(0, shape[0] - 1), max_size=12))
    assert same(ds["data"][rows], values[rows])
    box = tuple(
        slice(a := data.draw(st.integers(0, n)), data.draw(st.integers(a, n)), data.draw(st.integers(1, 4)))
        for n in shape
    )
    assert same(ds["data"][box], values[box])


@pytest.mark.parametrize("fill", [np.nan, np.inf, -1.5, 0.0])
@pytest.mark.parametrize(("version", "shards"), [(2, None), (3, None), (3, (8, 8))])
def test_what_is_not_stored_is_the_fill_value(fill: float, shards: Any, version: int, tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "zarr", mode="w", zarr_format=version)
    array = group.create_array("x", shape=(20, 8), dtype="float32", chunks=(4, 4), shards=shards, fill_value=fill)
    array[1:3, 5:] = 7  # one chunk of many; of shards, one chunk of one
    expected = np.full((20, 8), fill, "float32")
    expected[1:3, 5:] = 7
    assert same(cs.open(tmp_path / "zarr")["x"][:], expected)


def test_fields_are_the_arrays_along_the_dimension_with_the_most_bytes(tmp_path: Path) -> None:
    data = {"image": (("time", "y", "x"), np.ones((6, 4, 6), "uint8")), "label": (("time",), np.arange(6))}
    others = {"x": np.arange(6), "y": np.arange(4.0), "height": 2.0, "title": "a name"}
    with writers_warnings_ignored():
        xarray.Dataset(data, others).to_zarr(tmp_path / "zarr", zarr_format=2)
    ds = cs.open(tmp_path / "zarr")
    assert sorted(ds.schema) == ["image", "label"]
    message = ds.version_document.message
    assert "left out height: a scalar" in message
    assert "title: data type" in message
    assert "x: its first dimension ('x', 6) is not that of the samples ('time', 6)" in message
    assert ds["image"].dims == ("time", "y", "x")


def test_arrays_of_nested_groups_are_named_by_their_path(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "zarr", mode="w")
    root.create_array("a/b/x", data=np.arange(5))
    root.create_array("__y", data=np.arange(5.0))
    root.create_array("with space", data=np.arange(5))
    root.create_array("sample", data=np.arange(5))
    consolidate(tmp_path / "zarr")
    ds = cs.open(tmp_path / "zarr")
    assert sorted(ds.schema) == ["a.b.x", "y"]
    assert ds[3] == {"a.b.x": 3, "y": 3.0}
    assert "left out sample" in ds.version_document.message
    assert "left out with space" in ds.version_document.message


def test_an_array_alone_is_the_field_data(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "3", data=np.arange(5))
    zarr.create_array(tmp_path / "2", data=np.arange(5), zarr_format=2)
    for folder in ("3", "2"):
        assert cs.open(tmp_path / folder)[2:4]["data"].tolist() == [2, 3]


def test_zarr_without_samples_is_refused_with_every_reason(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "zarr", mode="w")
    root.create_array("height", data=np.float32(2))
    root.create_array("phase", data=np.ones(3, "complex64"))
    with pytest.raises(cs.errors.UnsupportedFormat, match=r"height: a scalar.*phase: data type 'complex64'"):
        cs.open(tmp_path / "zarr")
    zarr.open_group(tmp_path / "empty", mode="w")
    with pytest.raises(cs.errors.UnsupportedFormat, match="no arrays"):
        cs.open(tmp_path / "empty")
    with pytest.raises(cs.errors.DatasetNotFound, match="no chunkstore dataset"):
        cs.open(tmp_path / "nothing")


def test_bfloat16_of_tensorstore_is_read(tmp_path: Path) -> None:
    import ml_dtypes
    from zarr_writers import _tensorstore

    values = np.arange(40).reshape(10, 4).astype(ml_dtypes.bfloat16)
    grid = {"name": "regular", "configuration": {"chunk_shape": [3, 4]}}
    stored = _tensorstore(
        "zarr3", tmp_path / "x", {"shape": [13, 4], "data_type": "bfloat16", "chunk_grid": grid, "fill_value": 1.5}
    )
    stored[:10] = values
    ds = cs.open(tmp_path / "x")
    assert ds.schema["data"] == cs.Array("bfloat16", (4,))
    assert same(ds["data"][:10], values.astype("float32"))
    assert same(ds["data"][12:], np.full((1, 4), 1.5, "float32"))


def test_samples_may_be_none(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "zarr", shape=(0, 3), chunks=(4, 3), dtype="int32")
    ds = cs.open(tmp_path / "zarr")
    assert len(ds) == 0
    assert ds[:]["data"].shape == (0, 3)
    assert list(cs.Loader(ds, batch_size=2)) == []


def test_only_the_chunks_that_are_wanted_are_asked_for(memory: Location, tmp_path: Path) -> None:
    values = np.arange(64 * 32).reshape(64, 32)
    group = zarr.open_group(tmp_path / "zarr", mode="w")
    group.create_array("loose", data=values, chunks=(8, 8))
    group.create_array("sharded", data=values, chunks=(8, 8), shards=(32, 32))
    consolidate(tmp_path / "zarr")
    copy_into(tmp_path / "zarr", memory.open())
    store = RecordingStore(memory.open(), delay_s=0.01)
    ds = cs.open(store)
    store.forget()
    assert same(ds["loose"][3:10, 10:12], values[3:10, 10:12])
    assert sorted(o.key for o in store.operations) == ["loose/c/0/1", "loose/c/1/1"]
    assert store.num_round_trips() == 1
    store.forget()
    assert same(ds["sharded"][30:34, :8], values[30:34, :8])
    assert sorted(o.key for o in store.of("read_ranges")) == ["sharded/c/0/0", "sharded/c/1/0"]
    assert sorted(o.key for o in store.of("read_end")) == ["sharded/c/0/0"] * 2 + ["sharded/c/1/0"] * 2
    assert store.num_round_trips() == 3  # the index, the chunks, and whether they are still those of the index
    assert all(o.nbytes + sum(b - a for a, b in o.ranges) < 1000 for o in store.operations)
    store.forget()
    assert same(ds["loose"][4:6, 9:11], values[4:6, 9:11])  # of a chunk that was kept
    assert not store.operations


def test_consolidated_metadata_spares_the_listing(memory: Location, tmp_path: Path) -> None:
    for version in (2, 3):
        group = zarr.open_group(tmp_path / f"{version}", mode="w", zarr_format=version)
        group.create_array("x", data=np.arange(6))
        consolidate(tmp_path / f"{version}")
        store = RecordingStore(memory.open())
        copy_into(tmp_path / f"{version}", store)
        store.forget()
        assert cs.open(store)["x"][:].tolist() == list(range(6))
        assert not store.of("list")
        store.delete([item[0] for item in store.list()])


def test_zarr_is_found_where_what_is_absent_is_forbidden(tmp_path: Path) -> None:
    WRITERS["xarray_2"](tmp_path / "zarr", {"volume": example()["volume"]})
    store = open_store(tmp_path / "zarr")

    def forbid(name: str, key: str) -> None:  # as S3 does without permission to list
        if name == "list" or (name == "read" and not (tmp_path / "zarr" / key).exists()):
            raise PermissionError(key)

    assert len(cs.open(RecordingStore(store, hook=forbid))) == 37
    with pytest.raises(PermissionError):
        cs.open(RecordingStore(open_store(tmp_path / "nothing"), hook=forbid))


def test_a_dataset_of_plain_zarr_travels_by_pickle(tmp_path: Path) -> None:
    arrays = example()
    WRITERS["zarr_3"](tmp_path / "zarr", arrays)
    ds = cs.open(tmp_path / "zarr").slice(volume=slice(1, 3)).filter([1, 30]).select("volume")
    again = pickle.loads(pickle.dumps(ds))  # noqa: S301
    assert same(again[:]["volume"], arrays["volume"][[1, 30], 1:3])


def test_a_failing_store_is_told_with_field_and_samples(tmp_path: Path) -> None:
    WRITERS["zarr_3"](tmp_path / "zarr", {"volume": example()["volume"]})

    def fail(name: str, key: str) -> None:
        if "/c/" in key:
            raise cs.errors.StoreError(f"{key} is on strike")

    ds = cs.open(RecordingStore(open_store(tmp_path / "zarr"), hook=fail))
    with pytest.raises(cs.errors.StoreError, match=r"volume/c/1/\d/\d is on strike.*field 'volume', samples 12–14"):
        ds[[12, 14]]


@pytest.mark.parametrize("shards", [None, (8, 4)])
@pytest.mark.parametrize("compressors", [None, TWICE])
def test_a_refused_chunk_is_told_with_field_and_samples(shards: Any, compressors: Any, tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path, shape=(16, 4), dtype="int32", chunks=(2, 4), shards=shards, compressors=compressors, fill_value=5
    )
    array[:8] = 7

    def forbid(name: str, key: str) -> None:
        if name.startswith("read") and not (tmp_path / key).exists():
            raise PermissionError(f"403 {key}")

    ds = cs.open(RecordingStore(open_store(tmp_path), hook=forbid))
    with pytest.raises(
        PermissionError, match=r"403 c/.*field 'data', samples 12–12, of which an object is absent or may"
    ):
        ds["data"][12]
    assert (ds["data"][:8] == 7).all()


@pytest.fixture
def web_server(tmp_path: Path) -> Iterator[WebServer]:
    with serving(tmp_path) as server:
        yield server


def test_a_web_server_without_listings_serves_shards(web_server: WebServer) -> None:
    arrays = {"x": np.arange(2000 * 64).reshape(2000, 64)}
    folder = web_server.folder / "zarr"
    zarr.open_group(folder, mode="w").create_array("x", data=arrays["x"], chunks=(10, 64), shards=(1000, 64))
    consolidate(folder)
    ds = cs.open(f"{web_server.url}/zarr")
    web_server.served.clear()
    assert same(ds["x"][[3, 1500]], arrays["x"][[3, 1500]])
    assert sum(web_server.served) < 32 << 10 < min((folder / f"x/c/{i}/0").stat().st_size for i in (0, 1))
    assert same(ds["x"][:], arrays["x"])


@pytest.mark.parametrize(("rows", "most"), [(range(1000, 1256), 1), (range(0, 4096, 16), 2), ([3, 4000], 2)])
def test_chunks_of_a_shard_that_lie_together_are_one_request(rows: Any, most: int, tmp_path: Path) -> None:
    values = np.arange(4096 * 64, dtype="float32").reshape(4096, 64)
    zarr.create_array(tmp_path, data=values, chunks=(1, 64), shards=(4096, 64), compressors=None)
    store = RecordingStore(open_store(tmp_path))
    ds = cs.open(store)
    store.forget()
    assert same(ds["data"][[*rows]], values[[*rows]])
    assert 1 <= len(store.of("read_ranges")) <= most
    assert len(store.of("read_end")) == 2
    store.forget()
    assert same(ds["data"][[*rows]], values[[*rows]])
    assert len(store.operations) <= most + 1  # the index is kept


def _shard(folder: Path, values: Any, stored: slice, rows: int = 8) -> Path:
    """A shard of uncompressed chunks of two rows, of which only some are stored, so that others lie elsewhere in it."""
    array = zarr.create_array(
        folder,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(2, 4),
        shards=(rows, 4),
        compressors=None,
        overwrite=True,
    )
    array[stored] = values[stored]
    return folder / "c/0/0"


@pytest.mark.parametrize("is_local", [True, False])
@pytest.mark.parametrize("settled_s", [0, 60])
def test_a_shard_that_was_rewritten_is_read_by_its_new_index(
    is_local: bool, settled_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chunkstore.reading.plain_shards.SETTLED_S", settled_s)  # from when on a local index is kept
    old = np.arange(1, 65, dtype="int32").reshape(16, 4)
    file = _shard(tmp_path / "old", old, slice(None))
    other = _shard(tmp_path / "new", old + 100, slice(2, None))
    store = open_store(tmp_path / "old")
    ds = cs.open(store if is_local else RecordingStore(store))
    assert same(ds["data"][:8], old[:8])
    shutil.copyfile(other, file)  # over the same inode
    assert same(ds["data"][2:8], old[2:8] + 100)
    assert (ds["data"][:2] == 0).all()
    file.unlink()
    assert (ds["data"][:8] == 0).all()
    assert same(ds["data"][8:], old[8:])


def test_a_shard_that_is_rewritten_while_it_is_read_is_never_mixed_up(tmp_path: Path) -> None:
    old = np.arange(1, 33, dtype="int32").reshape(8, 4)
    file = _shard(tmp_path / "data", old, slice(None))
    bodies = [_shard(tmp_path / "other", old + 100 * i, slice(2 * (i % 3), None)).read_bytes() for i in range(9)]
    rewrites: list[bytes] = []

    def rewrite(name: str, key: str) -> None:
        if name == "read_ranges" and rewrites:
            file.write_bytes(rewrites.pop())

    ds = cs.open(RecordingStore(open_store(tmp_path / "data"), hook=rewrite))
    assert same(ds["data"][4:], old[4:])
    rewrites[:] = [bodies[1]]
    assert same(ds["data"][4:], old[4:] + 100)
    rewrites[:] = bodies
    with pytest.raises(cs.errors.ObjectChanged, match=r"c/0/0 is rewritten.*field 'data', samples 0–7"):
        ds["data"][4:]


def test_a_local_shard_that_is_rewritten_while_it_is_read_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = np.arange(1, 33, dtype="int32").reshape(8, 4)
    file = _shard(tmp_path / "data", old, slice(None))
    body = _shard(tmp_path / "other", old + 100, slice(2, None)).read_bytes()
    ds = cs.open(tmp_path / "data")
    pread, reads = os.pread, []

    def rewriting(fd: int, nbytes: int, at: int) -> bytes:
        reads.append(at)
        if len(reads) == 2:  # after the index
            file.write_bytes(body)
        return pread(fd, nbytes, at)

    monkeypatch.setattr(os, "pread", rewriting)
    assert same(ds["data"][4:], old[4:] + 100)
