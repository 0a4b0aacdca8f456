"""Compacting: the same samples under the same ids in fewer fragments, or everything as it was."""

import importlib.util
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from crashing_store import Crashed, CrashingStore
from numbers_dataset import append, begin, ids_of, options, values_of
from recording_store import RecordingStore

import chunkstore as cs
from chunkstore.errors import CommitConflict, CorruptChunk, DatasetNotFound, StoreError
from chunkstore.history.commit import commit as commit_version
from chunkstore.kernels import images
from chunkstore.store.location import open_store
from chunkstore.writing import compact as compact_module


def make_v1() -> Any:
    """The golden data's generator, which has values for every field type."""
    path = Path(__file__).parents[1] / "golden" / "make_v1.py"
    spec = importlib.util.spec_from_file_location("make_v1_to_compact", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stored(url: Any, **kind: Any) -> dict[str, Any]:
    """Every value of every field as bytes, and the shapes and ids that go with them."""
    ds = cs.open(url, decode=False, **kind)
    found: dict[str, Any] = {"ids": [f.first + r for f in ds.version_document.fragments for r in range(f.samples)]}
    columns = ds.read(np.arange(len(ds)))
    for name, column in columns.items():
        if isinstance(column, np.ndarray):
            found[name] = (column.shape, column.tobytes())
        else:
            shapes = None if column.shapes is None else column.shapes.tolist()
            found[name] = (column.values.tobytes(), column.offsets.tolist(), shapes)
    return found


@pytest.mark.parametrize("name", ["types", "dtypes", "codecs", "grids", "empty_values"])
def test_values_ids_and_statistics_of_every_field_type_stay(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # hundreds of small files; durability is tested elsewhere
    generator = make_v1()
    schema, writes = next((s, w) for n, s, w in generator.datasets() if n == name)
    for i, columns in enumerate([*writes, *writes]):
        with cs.append(tmp_path) if i else cs.create(tmp_path, schema) as writer:
            generator.write(writer, columns, one_by_one=False)
    before, old = stored(tmp_path), cs.open(tmp_path)
    monkeypatch.setattr(images, "decode_image", None)  # no image is decoded
    monkeypatch.setattr(compact_module, "STRETCH_NBYTES", 512)  # read in several pieces
    monkeypatch.setattr(compact_module, "AHEAD_NBYTES", 2048)
    monkeypatch.setattr(compact_module, "_LENGTHS_AT_ONCE", 3)
    assert cs.compact(tmp_path) == old.version + 1
    assert stored(tmp_path) == before
    ds = cs.open(tmp_path)
    assert len(ds.version_document.fragments) == 1
    assert ds.statistics == old.statistics
    assert (ds.schema, ds.version_document.next_sample_id) == (old.schema, old.version_document.next_sample_id)
    assert cs.verify(tmp_path, deep=True).ok
    assert cs.verify(tmp_path, version=old.version).ok
    assert cs.compact(tmp_path) is None


def test_small_fragments_become_one_in_every_store(location: Any) -> None:
    kind = options(location)
    begin(location, [1, 2], [3], [4, 5, 6])
    told: list[tuple[int, int]] = []
    number = cs.compact(location.url, message="tidy", progress=lambda done, whole: told.append((done, whole)), **kind)
    assert number == 5
    assert (values_of(location), ids_of(location, 5)) == (list(range(7)), list(range(7)))
    assert told[-1] == (56, 56)
    assert told == sorted(told)
    assert cs.open(location.url, **kind).version_document.message == "tidy"
    assert cs.verify(location.url, **kind).ok
    assert cs.compact(location.url, **kind) is None
    assert cs.open(location.url, **kind).version == 5
    append(location, [7, 8])
    assert cs.compact(location.url, **kind) == 7
    assert values_of(location) == list(range(9))
    assert cs.open(location.url, **kind).version_document.message == "compacted 2 fragments into 1"
    assert values_of(location, version=4) == list(range(7))
    assert cs.gc(location.url, keep_versions=1, orphan_age_s=0, **kind).fragments
    assert values_of(location) == list(range(9))
    assert cs.verify(location.url, **kind).ok


def test_parts_of_a_fragment_become_one_that_plain_zarr_opens(tmp_path: Path) -> None:
    with cs.create(tmp_path, {"x": cs.Array("int64", codec="zstd-3")}) as writer:
        writer.write_batch({"x": np.arange(100)})
    with cs.add_fields(tmp_path, {"t": cs.Text(), "y": cs.Array("float32", (3,))}) as writer:
        writer.write_batch({"t": [f"t{i}" for i in range(100)], "y": np.ones((100, 3), "f4")})
    assert cs.compact(tmp_path) == 3
    (fragment,) = cs.open(tmp_path).version_document.fragments
    (part,) = fragment.parts
    assert part.fields == ("x", "t", "y")
    group: Any = zarr.open_group(tmp_path / part.path, mode="r", use_consolidated=True)
    assert group["x"][:].tolist() == list(range(100))
    assert [type(c).__name__ for c in group["x"].metadata.codecs[0].codecs] == [
        "BytesCodec",
        "ZstdCodec",
        "Crc32cCodec",
    ]
    values, spans = group["t/values"][:], group["t/spans"][:]
    assert [values[a:b].tobytes().decode() for a, b in spans] == [f"t{i}" for i in range(100)]


def test_fields_that_were_dropped_are_left_behind(tmp_path: Path) -> None:
    with cs.create(tmp_path, {"x": cs.Array("int64"), "y": cs.Array("int64", (999,))}) as writer:
        writer.write_batch({"x": np.arange(9), "y": np.zeros((9, 999), "i8")})

    def drop(parent: Any) -> Any:
        schema, statistics = parent.schema.select(("x",)), {"x": parent.statistics["x"]}
        return replace(parent, number=2, parent=1, writer="f" * 32, schema=schema, statistics=statistics)

    commit_version(open_store(tmp_path), drop, create=False)
    assert cs.compact(tmp_path, target_nbytes=1000) is None  # too large to be written anew
    assert cs.compact(tmp_path) == 3
    (fragment,) = cs.open(tmp_path).version_document.fragments
    assert (fragment.nbytes, fragment.parts[0].fields) == (72, ("x",))
    with cs.add_fields(tmp_path, {"y": cs.Text()}) as writer:  # the name is free again
        writer.write_batch({"y": ["new"] * 9})
    assert cs.open(tmp_path)[8]["y"] == "new"


def test_samples_whose_ids_do_not_follow_each_other_stay_apart(local: Any) -> None:
    begin(local, [1, 2], [3])
    cs.rollback(local.url, 2)
    append(local, [4])
    append(local, [5])
    assert ids_of(local, 6) == [0, 1, 2, 4, 5]
    assert cs.compact(local.url) == 7
    assert ids_of(local, 7) == [0, 1, 2, 4, 5]
    assert values_of(local) == [0, 1, 2, 4, 5]
    assert [f.samples for f in cs.open(local.url).version_document.fragments] == [3, 2]
    assert cs.compact(local.url) is None


def test_fragments_of_the_target_size_stay_as_they_are(local: Any) -> None:
    begin(local, list(range(1, 101)), [101], [102])
    large = cs.open(local.url).version_document.fragments[1]
    assert cs.compact(local.url, target_nbytes=800) == 5
    assert cs.open(local.url).version_document.fragments[1] == large
    assert [f.samples for f in cs.open(local.url).version_document.fragments] == [1, 100, 2]
    assert values_of(local) == list(range(103))


@pytest.mark.parametrize("wrong", [{"target_nbytes": 0}, {"target_nbytes": 1.5}, {"message": b"x"}])
def test_wrong_arguments_are_told_before_anything_is_read(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        cs.compact(tmp_path, **wrong)
    with pytest.raises(DatasetNotFound):
        cs.compact(tmp_path)


def racing(location: Any, race: Callable[[], object]) -> Any:
    """The store, in which `race` happens before the next version is put."""
    raced = []

    def hook(name: str, key: str) -> None:
        if name == "write_if_absent" and "/versions/" in key and not raced:
            raced.append(key)
            race()

    return RecordingStore(location.open(), hook=hook)


def test_what_is_appended_meanwhile_is_kept(location: Any) -> None:
    begin(location, [1], [2])
    assert cs.compact(racing(location, lambda: append(location, [3, 4]))) == 5
    assert (values_of(location), ids_of(location, 5)) == ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
    fragments = cs.open(location.url, **options(location)).version_document.fragments
    assert [f.samples for f in fragments] == [3, 2]
    statistics = cs.open(location.url, **options(location)).statistics["x"]["values"]
    assert (statistics.count, statistics.max) == (5, 4)


def add_field(location: Any) -> None:
    with cs.add_fields(location.url, {"y": cs.Text()}) as writer:
        writer.write_batch({"y": ["a", "b", "c"]})


@pytest.mark.parametrize(
    "race",
    [add_field, lambda location: cs.compact(location.url), lambda location: cs.rollback(location.url, 1)],
    ids=["add_fields", "compact", "rollback"],
)
def test_fragments_that_are_others_by_now_are_not_replaced(local: Any, race: Callable[[Any], object]) -> None:
    begin(local, [1], [2])
    with pytest.raises(CommitConflict, match=r"version 4 does not have the fragments of version 3.*compact again"):
        cs.compact(racing(local, lambda: race(local)))
    ds = cs.open(local.url)
    assert ds.version == 4
    assert ds["x"][:].tolist() == list(range(len(ds)))
    cs.compact(local.url)
    assert cs.open(local.url)["x"][:].tolist() == list(range(len(ds)))


@pytest.mark.parametrize("mode", ["before", "refused"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_interrupted_it_leaves_the_version_and_can_be_run_again(memory: Any, mode: Any, share: float) -> None:
    """Every operation is interrupted in tests/faults; here samples of several fields are on their way."""
    with cs.create(memory.url, {"x": cs.Array("int64"), "t": cs.Text(), "b": cs.Bytes(codec=None)}) as writer:
        writer.write_batch({"x": np.arange(50), "t": ["t"] * 50, "b": [b"b"] * 50})
    with cs.append(memory.url) as writer:
        writer.write_batch({"x": np.arange(50), "t": ["t"] * 50, "b": [b"b"] * 50})
    before = stored(memory.url)
    watched: Any = CrashingStore(memory.open())
    number = sum(name != "read" for name in _operations(watched, lambda: cs.compact(watched)))
    cs.rollback(memory.url, 2)
    crashing: Any = CrashingStore(memory.open(), at=int(share * number), mode=mode)
    with pytest.raises((Crashed, StoreError)):
        cs.compact(crashing)
    assert cs.open(memory.url).version == 4
    assert stored(memory.url) == before
    assert cs.compact(memory.url) == 5
    assert stored(memory.url) == before


def _operations(store: Any, run: Callable[[], object]) -> list[str]:
    run()
    return [operation.name for operation in store.operations]


def test_damage_is_told_and_nothing_committed(local: Any) -> None:
    begin(local, [1], [2])
    part = cs.open(local.url).version_document.fragments[1].parts[0].path
    shard = Path(local.url) / part / "x" / "c" / "0"
    data = bytearray(shard.read_bytes())
    data[0] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptChunk, match=r"field 'x', sample 1"):
        cs.compact(local.url)
    assert cs.open(local.url).version == 3


COMPACT_450_MIB = """
    import os, sys, numpy
    import chunkstore as cs

    def peak_mib():  # ru_maxrss would be the parent's, where that is larger: it survives exec
        return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) >> 10

    os.fsync = lambda fd: None
    rows = numpy.random.default_rng(0).integers(0, 255, (30, 1 << 20), "u1")
    schema = {"x": cs.Array("uint8", (1 << 20,), codec=None), "b": cs.Bytes(), "small": cs.Array("int64")}
    blobs = [row[: 1 << 16].tobytes() for row in rows]
    for i in range(15):
        with cs.append(sys.argv[1]) if i else cs.create(sys.argv[1], schema) as writer:
            writer.write_batch({"x": rows, "b": blobs, "small": numpy.arange(30)})
    del rows, blobs
    before = peak_mib()
    assert cs.compact(sys.argv[1]) == 16
    print(before, peak_mib() - before)
"""


def test_memory_is_bounded(tmp_path: Path) -> None:
    completed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(COMPACT_450_MIB), tmp_path / "ds"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    before, more = map(int, completed.stdout.split())
    assert before + more < 450, (
        completed.stdout
    )  # imports and buffers, of which a writer has as many, and not the 400 MiB
    assert len(cs.open(tmp_path / "ds").version_document.fragments) == 1
