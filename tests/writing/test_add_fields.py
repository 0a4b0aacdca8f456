"""Adding fields: the samples that are there get more values, in the same places, or stay as they are."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numbers_dataset import append, begin, ids_of, options, values_of
from recording_store import RecordingStore

import chunkstore as cs
from chunkstore.errors import CommitConflict, DatasetNotFound, SampleError, SchemaError, StoreError
from chunkstore.history.commit import commit as commit_version
from chunkstore.store.location import open_store
from chunkstore.writing.sinks import ArraySink

ADDED = {
    "name": cs.Text(),
    "vector": cs.Array("float32", (3,)),
    "blob": cs.Bytes(codec=None),
    "points": cs.Ragged("int16", (None, 2)),
    "flag": cs.Array("bool"),
}


def columns(start: int, stop: int) -> dict[str, Any]:
    every = range(start, stop)
    return {
        "name": [f"sample {i}" for i in every],
        "vector": np.array([[i, i / 2, -i] for i in every], "f4").reshape(-1, 3),
        "blob": [bytes([i]) * (i % 4) for i in every],
        "points": [np.full((i % 3, 2), i, "i2") for i in every],
        "flag": [i % 2 == 0 for i in every],
    }


def assert_added(ds: Any, count: int) -> None:
    expected = columns(0, count)
    shown = ds.select(*ADDED)[:]
    assert np.array_equal(shown["vector"], expected["vector"])
    assert (shown["name"], shown["blob"]) == (expected["name"], expected["blob"])
    assert [p.tolist() for p in shown["points"]] == [p.tolist() for p in expected["points"]]
    assert shown["flag"].tolist() == expected["flag"]


@pytest.mark.parametrize("size", [1, 4, 100])
def test_batches_of_any_size_reach_the_samples_of_every_fragment(local: Any, size: int) -> None:
    begin(local, [1, 2, 3], [4], [5, 6, 7, 8, 9, 10])
    before = cs.open(local.url)
    with cs.add_fields(local.url, ADDED) as writer:
        for start in range(0, 11, size):
            writer.write_batch(columns(start, min(11, start + size)))
    assert writer.version == 5
    ds = cs.open(local.url)
    assert_added(ds, 11)
    assert values_of(local) == list(range(11))
    assert list(ds.schema) == ["x", *ADDED]
    for old, new in zip(before.version_document.fragments, ds.version_document.fragments, strict=True):
        assert (old.id, old.first, old.samples, old.block_rows) == (new.id, new.first, new.samples, new.block_rows)
        assert new.parts[0] == old.parts[0]
        assert new.nbytes == sum(part.nbytes for part in new.parts) > old.nbytes
    assert ids_of(local, 5) == ids_of(local, 4)
    assert list(cs.open(local.url, version=4).schema) == ["x"]
    assert all(cs.verify(local.url, version=n, deep=True).ok for n in (4, 5))


def test_fields_are_added_in_every_store_and_appended_to_afterwards(location: Any) -> None:
    begin(location, [1, 2, 3])
    kind = options(location)
    with cs.add_fields(location.url, ADDED, message="more", **kind) as writer:
        for i in range(4):
            writer.write({name: values[0] for name, values in columns(i, i + 1).items()})
    with cs.append(location.url, **kind) as writer:
        writer.write_batch({"x": [4, 5], **columns(4, 6)})
    ds = cs.open(location.url, **kind)
    assert_added(ds, 6)
    assert values_of(location) == list(range(6))
    assert cs.open(location.url, version=3, **kind).version_document.message == "more"
    assert cs.verify(location.url, **kind).ok
    statistics = ds.statistics["vector"]["values"]
    assert (statistics.count, statistics.min, statistics.max) == (18, -5, 5)
    assert ds.statistics["name"]["lengths"].count == 6


def test_zarr_python_opens_the_new_parts(tmp_path: Path) -> None:
    with cs.create(tmp_path / "ds", {"x": cs.Array("int64")}) as writer:
        writer.write_batch({"x": np.arange(5)})
    with cs.add_fields(tmp_path / "ds", ADDED) as writer:
        writer.write_batch(columns(0, 5))
    (fragment,) = cs.open(tmp_path / "ds").version_document.fragments
    group: Any = zarr.open_group(tmp_path / "ds" / fragment.parts[1].path, mode="r")
    assert np.array_equal(group["vector"][:], columns(0, 5)["vector"])
    text, spans = group["name/values"][:], group["name/spans"][:]
    assert [text[a:b].tobytes().decode() for a, b in spans] == columns(0, 5)["name"]
    groups: Any = zarr.open_group(tmp_path / "ds", mode="r")
    assert len(list(groups["fragments"][fragment.id].group_keys())) == 2


@pytest.mark.parametrize("taken", [0, 3, 4, 9])
def test_too_few_samples_are_refused_at_the_end(local: Any, taken: int) -> None:
    begin(local, [1, 2, 3], [4, 5, 6, 7, 8, 9])
    with pytest.raises(SampleError, match=f"{taken} samples of y, but version 3 has 10"):  # noqa: SIM117
        with cs.add_fields(local.url, {"y": cs.Array("int8")}) as writer:
            writer.write_batch({"y": np.zeros(taken, "i1")})
    with pytest.raises(SampleError):
        writer.close()
    assert cs.open(local.url).version == 3


def test_too_many_samples_are_refused_at_once_and_at_the_end(local: Any) -> None:
    begin(local, [1, 2, 3])
    writer = cs.add_fields(local.url, {"y": cs.Array("int8")})
    writer.write_batch({"y": np.zeros(3, "i1")})
    with pytest.raises(SampleError, match="5 samples of y, but version 2 has 4"):
        writer.write_batch({"y": np.zeros(2, "i1")})
    writer.write({"y": 1})
    with pytest.raises(SampleError, match="5 samples"):
        writer.close()
    with pytest.raises(SampleError, match="5 samples"):
        writer.close()
    assert cs.open(local.url).version == 2


def test_a_field_that_cannot_be_added_is_refused_before_anything_is_written(local: Any) -> None:
    with pytest.raises(DatasetNotFound):
        cs.add_fields(local.url, ADDED)
    begin(local)
    for schema in ({"x": cs.Text()}, {"X": cs.Text()}, {"x_1": cs.Text(), "y": cs.Text(), "y_span": cs.Text()}, {}):
        with pytest.raises(SchemaError):
            cs.add_fields(local.url, schema)
    with pytest.raises(SchemaError, match="has a field 'x' already"):
        cs.add_fields(local.url, {"x": cs.Array("int64")})


def test_a_name_that_fragments_still_hold_is_not_given_again(local: Any) -> None:
    begin(local)
    with cs.add_fields(local.url, {"y": cs.Text()}) as writer:
        writer.write({"y": "one"})

    def drop(parent: Any) -> Any:
        return replace(
            parent,
            number=3,
            parent=2,
            writer="f" * 32,
            schema=parent.schema.select(("x",)),
            statistics={"x": parent.statistics["x"]},
        )

    commit_version(open_store(local.url), drop, create=False)
    with pytest.raises(SchemaError, match="still hold a field 'y'"):
        cs.add_fields(local.url, {"y": cs.Array("int8")})


def test_a_dataset_without_samples_gets_fields(local: Any) -> None:
    with cs.create(local.url, {"x": cs.Array("int64")}):
        pass
    with cs.add_fields(local.url, ADDED):
        pass
    with cs.append(local.url) as writer:
        writer.write_batch({"x": [0, 1, 2], **columns(0, 3)})
    assert_added(cs.open(local.url), 3)


def racing(location: Any, race: Callable[[], object]) -> Any:
    """The store, in which `race` happens before the next version is put."""
    raced = []

    def hook(name: str, key: str) -> None:
        if name == "write_if_absent" and "/versions/" in key and not raced:
            raced.append(key)
            race()

    return RecordingStore(location.open(), hook=hook)


def add(url: Any, name: str, count: int, value: int) -> int:
    with cs.add_fields(url, {name: cs.Array("int8")}, num_threads=1) as writer:
        writer.write_batch({name: np.full(count, value, "i1")})
    assert writer.version is not None
    return writer.version


def test_of_two_who_add_other_fields_both_are_there(location: Any) -> None:
    begin(location, [1, 2])
    kind = options(location)

    def other() -> None:
        with cs.add_fields(location.url, {"b": cs.Array("int8")}, **kind) as writer:
            writer.write_batch({"b": np.full(3, 2, "i1")})

    assert add(racing(location, other), "a", 3, 1) == 4
    ds = cs.open(location.url, **kind)
    assert list(ds.schema) == ["x", "b", "a"]
    assert (ds["a"][:].tolist(), ds["b"][:].tolist(), values_of(location)) == ([1] * 3, [2] * 3, [0, 1, 2])
    assert all(len({part.path for part in f.parts}) == 3 for f in ds.version_document.fragments)
    assert cs.verify(location.url, **kind).ok


def test_of_two_who_add_the_same_field_one_is_refused(local: Any) -> None:
    begin(local, [1, 2])
    store = racing(local, lambda: add(local.url, "a", 3, 2))
    with pytest.raises(SchemaError, match="version 3 has a field 'a' already"):
        add(store, "a", 3, 1)
    assert cs.open(local.url)["a"][:].tolist() == [2] * 3
    assert cs.verify(local.url).ok


@pytest.mark.parametrize(
    "race",
    [
        lambda location: append(location, [7]),
        lambda location: cs.compact(location.url),
        lambda location: cs.rollback(location.url, 1),
    ],
    ids=["append", "compact", "rollback"],
)
def test_fields_of_samples_that_are_others_by_now_are_refused(local: Any, race: Callable[[Any], object]) -> None:
    begin(local, [1, 2])
    with pytest.raises(CommitConflict, match=r"version 3 has other fragments than version 2.*add the fields again"):
        add(racing(local, lambda: race(local)), "a", 3, 1)
    ds = cs.open(local.url)
    assert (ds.version, list(ds.schema)) == (3, ["x"])
    assert add(local.url, "a", len(ds), 1) == 4


def test_a_part_that_gc_condemned_is_not_committed(local: Any) -> None:
    store = begin(local, [1, 2])

    def condemn(parent: Any) -> Any:
        paths = {"/".join(listed.key.split("/")[:3]) for listed in store.list("fragments")}
        new = paths - {part.path for fragment in parent.fragments for part in fragment.parts}
        parts = tuple(path for path in new if path.count("/") == 2 and not path.endswith(".json"))
        return replace(parent, number=3, parent=2, writer="f" * 32, condemned_parts=parts)

    race = racing(local, lambda: commit_version(local.open(), condemn, create=False))
    with pytest.raises(CommitConflict, match="condemned by gc"):
        add(race, "a", 3, 1)
    assert list(cs.open(local.url).schema) == ["x"]


def test_a_store_that_fails_leaves_the_version_and_another_try_succeeds(
    local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(local, [1, 2], [3])
    end_shard = ArraySink._end_shard
    ended = []

    def fail(self: Any) -> None:
        ended.append(1)
        if len(ended) == 2:
            raise StoreError("disk full")
        end_shard(self)

    monkeypatch.setattr(ArraySink, "_end_shard", fail)
    with pytest.raises(StoreError, match="disk full"):
        add(local.url, "a", 4, 1)
    monkeypatch.undo()
    assert (cs.open(local.url).version, list(cs.open(local.url).schema)) == (3, ["x"])
    assert add(local.url, "a", 4, 1) == 4


def test_blocks_hold_whole_chunks_of_the_added_fields_that_matter(tmp_path: Path) -> None:
    """Their length was settled when the fragment was written, and a chunk that stood in two would be read twice."""
    with cs.create(tmp_path / "ds", {"x": cs.Array("uint8", (1 << 20,))}) as writer:
        writer.write_batch({"x": np.zeros((9, 1 << 20), "u1")})
    with pytest.raises(SchemaError, match="give chunk=4 or less"):
        cs.add_fields(tmp_path / "ds", {"v": cs.Array("float32", (128,), chunk=8)})
    schema = {"v": cs.Array("float32", (128,)), "small": cs.Array("int8"), "own": cs.Array("float32", (128,), chunk=2)}
    with cs.add_fields(tmp_path / "ds", schema) as writer:
        writer.write_batch({"v": np.ones((9, 128), "f4"), "small": np.ones(9, "i1"), "own": np.ones((9, 128), "f4")})
    (fragment,) = cs.open(tmp_path / "ds").version_document.fragments
    group: Any = zarr.open_group(tmp_path / "ds" / fragment.parts[1].path, mode="r")
    assert fragment.block_rows == 4
    assert [group[name].chunks[0] for name in schema] == [4, 16, 2]
    assert cs.open(tmp_path / "ds")["v"][:].sum() == 9 * 128
