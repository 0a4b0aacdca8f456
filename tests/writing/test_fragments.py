"""Many writers and one commit: all of it is there once, in the order asked for, or none of it."""

import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numbers_dataset import Lying, append, begin, options, values_of
from recording_store import RecordingStore

import chunkstore as cs
from chunkstore.errors import CommitConflict, DatasetNotFound, InvalidDataset, MissingObject, SchemaError, StoreError
from chunkstore.format.documents import seal
from chunkstore.format.versions import LATEST_KEY, version_key
from chunkstore.history.commit import commit as commit_version
from chunkstore.history.commit import find_latest
from chunkstore.store.location import open_store
from chunkstore.writing.sinks import ArraySink

SCHEMA = {"x": cs.Array("int64")}
ALL = {"x": cs.Array("float32", (2,)), "t": cs.Text(), "r": cs.Ragged("int16", (None, 2)), "b": cs.Bytes(codec=None)}


def written(url: Any, values: list[int], schema: Any = SCHEMA, **more: Any) -> cs.FragmentResult:
    with cs.fragment(url, schema, num_threads=1, **more) as writer:
        writer.write_batch({"x": np.array(values, np.int64)})
    return writer.result


def columns(values: range) -> dict[str, Any]:
    return {
        "x": np.array([[i, -i] for i in values], "f4"),
        "t": [f"t{i}" for i in values],
        "r": [np.full((i % 3, 2), i, "i2") for i in values],
        "b": [bytes([i % 256]) * (i % 5) for i in values],
    }


def test_what_many_writers_wrote_is_seen_together_in_the_order_given(location: Any) -> None:
    kind = options(location)

    def write(k: int) -> str:
        with cs.fragment(location.url, ALL, **kind) as writer:
            writer.write_batch(columns(range(10 * k, 10 * k + 10)))
        return writer.result.to_json()

    with ThreadPoolExecutor(4) as pool:
        results = [cs.FragmentResult.from_json(text) for text in pool.map(write, range(4))]
    with pytest.raises(DatasetNotFound):
        cs.open(location.url, **kind)
    assert cs.commit(location.url, [results[i] for i in (2, 0, 3, 1)], message="all", **kind) == 1
    ds = cs.open(location.url, **kind)
    order = [*range(20, 30), *range(10), *range(30, 40), *range(10, 20)]
    assert ds["x"][:][:, 0].tolist() == order
    assert ds["t"][:] == [f"t{i}" for i in order]
    assert [r.tolist() for r in ds["r"][:]] == [[[i, i]] * (i % 3) for i in order]
    assert ds["b"][:] == [bytes([i]) * (i % 5) for i in order]
    assert [f.first for f in ds.version_document.fragments] == [0, 10, 20, 30]
    assert (ds.version_document.message, ds.version_document.next_sample_id) == ("all", 40)
    assert cs.verify(location.url, **kind).ok
    with cs.append(location.url, **kind) as writer:
        writer.write_batch(columns(range(40, 45)))
    assert cs.commit(location.url, [write_one(location, range(45, 50))], **kind) == 3
    ds = cs.open(location.url, **kind)
    assert ds["x"][40:][:, 0].tolist() == list(range(40, 50))


def write_one(location: Any, values: range) -> cs.FragmentResult:
    with cs.fragment(location.url, **options(location)) as writer:
        assert dict(writer.schema) == ALL  # the dataset's
        for i in values:
            writer.write({name: column[0] for name, column in columns(range(i, i + 1)).items()})
        assert writer.num_samples == len(values)
    assert writer.version is None
    return writer.result


def test_statistics_are_those_of_one_writer(tmp_path: Path) -> None:
    with cs.create(tmp_path / "one", ALL) as writer:
        writer.write_batch(columns(range(30)))
    results = []
    for k in range(3):
        with cs.fragment(tmp_path / "many", ALL) as fragment:
            fragment.write_batch(columns(range(10 * k, 10 * k + 10)))
        results.append(fragment.result)
    cs.commit(tmp_path / "many", results)
    one, many = cs.open(tmp_path / "one").statistics, cs.open(tmp_path / "many").statistics
    for name, kinds in one.items():
        for kind, statistics in kinds.items():
            found = many[name][kind]
            assert (found.count, found.min, found.max) == (statistics.count, statistics.min, statistics.max)
            assert found.mean == pytest.approx(statistics.mean)


def test_a_result_is_the_same_value_after_a_pickle_and_after_json(tmp_path: Path) -> None:
    with cs.fragment(tmp_path, ALL) as writer:
        writer.write_batch(columns(range(7)))
    result = writer.result
    assert result.num_samples == 7
    assert pickle.loads(pickle.dumps(result)) == result  # noqa: S301
    text = result.to_json()
    assert cs.FragmentResult.from_json(text) == cs.FragmentResult.from_json(text.encode()) == result
    assert len(text) < 8192


def test_a_text_that_was_damaged_is_refused_wherever_it_was(tmp_path: Path) -> None:
    data = written(tmp_path, [1, 2]).to_json().encode()
    for at in range(len(data)):
        for damaged in (data[:at], data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]):
            with pytest.raises(InvalidDataset):
                cs.FragmentResult.from_json(damaged)
    for text in ("", "\ud800", "{}", seal({}).decode(), "[" * 10**5):
        with pytest.raises(InvalidDataset):
            cs.FragmentResult.from_json(text)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(format=2),
        lambda d: d.update(dataset="../../x"),
        lambda d: d.update(since=-1),
        lambda d: d["fragment"].update(samples=3),
        lambda d: d["fragment"].update(samples=0),
        lambda d: d["fragment"].update(id="0" * 32),
        lambda d: d["fragment"]["parts"][0].update(fields=["x", "y"]),
        lambda d: d["fragment"]["parts"][0].update(path="fragments/../../etc"),
        lambda d: d["fragment"].update(parts=[]),
        lambda d: d["fragment"].update(block_rows=3),
        lambda d: d.update(fragment=None),
        lambda d: d["schema"].update(y={"type": "text"}),
        lambda d: d["statistics"].clear(),
        lambda d: d["statistics"]["x"].update(lengths=d["statistics"]["x"]["values"]),
        lambda d: d["statistics"]["x"]["values"].update(count=7),
        lambda d: d["statistics"].update(x={}),
    ],
)
def test_a_result_that_contradicts_itself_is_refused(tmp_path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(written(tmp_path, [1, 2]).to_json())["document"]
    cs.FragmentResult.from_json(seal(document).decode())
    change(document)
    with pytest.raises(InvalidDataset):
        cs.FragmentResult.from_json(seal(document).decode())


def test_a_commit_that_is_run_again_adds_nothing_twice(location: Any) -> None:
    kind = options(location)
    a, b, c = (written(location.url, [i, i], **kind) for i in range(3))
    assert cs.commit(location.url, [a, b], **kind) == 1
    assert cs.commit(location.url, [a, b], **kind) == 1
    assert cs.commit(location.url, [b, a, b], **kind) == 1
    assert values_of(location) == [0, 0, 1, 1]
    assert cs.commit(location.url, [a, c, b], **kind) == 2
    assert values_of(location) == [0, 0, 1, 1, 2, 2]
    statistics = cs.open(location.url, **kind).statistics["x"]["values"]
    assert (statistics.count, statistics.mean) == (6, 1.0)


def test_what_was_committed_and_compacted_is_not_added_again_and_what_was_rolled_back_is(local: Any) -> None:
    begin(local)
    a, b = written(local.url, [1, 1]), written(local.url, [2, 2])
    assert (a.since, cs.FragmentResult.from_json(b.to_json()).since) == (1, 1)
    assert cs.commit(local.url, [a]) == 2
    append(local, [3])
    assert cs.compact(local.url) == 4
    assert cs.commit(local.url, [a]) == 4
    assert cs.commit(local.url, [a, b]) == 5
    assert values_of(local) == [0, 1, 1, 3, 2, 2]
    assert cs.compact(local.url) == 6
    assert cs.commit(local.url, [b, a]) == 6
    cs.rollback(local.url, 4)
    assert cs.commit(local.url, [a, b]) == 8
    assert values_of(local) == [0, 1, 1, 3, 2, 2]
    assert cs.compact(local.url, target_nbytes=1 << 10) is None  # the ids of what was rolled back leave a gap
    cs.rollback(local.url, 1)
    assert cs.commit(local.url, [a, b]) == 10
    assert values_of(local) == [0, 1, 1, 2, 2]


def racing(store: Any, race: Callable[[], object]) -> RecordingStore:
    """The store, in which `race` happens before the first version is put."""
    raced = []

    def hook(name: str, key: str) -> None:
        if name == "write_if_absent" and "/versions/" in key and not raced:
            raced.append(key)
            race()

    return RecordingStore(store, hook=hook)


def test_of_racing_creators_the_loser_appends(location: Any) -> None:
    kind = options(location)
    a, b = written(location.url, [1], **kind), written(location.url, [2], **kind)
    store: Any = racing(location.open(), lambda: cs.commit(location.url, [a], **kind))
    assert cs.commit(store, [b]) == 2
    assert values_of(location) == [1, 2]


def test_of_racing_commits_of_the_same_results_one_adds_them(local: Any) -> None:
    a, b = written(local.url, [1]), written(local.url, [2])
    store: Any = racing(local.open(), lambda: cs.commit(local.url, [b, a]))
    assert cs.commit(store, [a, b]) == 1
    assert values_of(local) == [2, 1]
    c = written(local.url, [3])
    store = racing(local.open(), lambda: cs.commit(local.url, [c]))
    assert cs.commit(store, [a, c]) == 2
    assert values_of(local) == [2, 1, 3]


def test_an_answer_that_was_lost_is_found_out(local: Any) -> None:
    a = written(local.url, [1])

    def put(real: Any, key: str, data: bytes) -> bool:
        real.write_if_absent(key, data)
        raise StoreError("connection reset")

    lying: Any = Lying(local.open(), "/versions/", put)
    assert cs.commit(lying, [a]) == 1
    assert cs.commit(local.url, [a]) == 1
    assert values_of(local) == [1]


def test_the_schema_is_the_datasets(local: Any) -> None:
    with pytest.raises(DatasetNotFound, match="give a schema"):
        cs.fragment(local.url)
    assert not Path(local.url).exists() or not any(Path(local.url).glob("zarr.json"))
    cs.commit(local.url, [written(local.url, [1])])
    with pytest.raises(SchemaError, match="version 1 has another schema"):
        cs.fragment(local.url, {"x": cs.Array("int32")})
    cs.commit(local.url, [written(local.url, [2], None), written(local.url, [3], {"x": cs.Array("int64", codec=None)})])
    assert values_of(local) == [1, 2, 3]
    assert cs.open(local.url).schema["x"] == cs.Array("int64")


def test_a_dataset_that_got_another_schema_meanwhile_refuses_results(local: Any) -> None:
    cs.commit(local.url, [written(local.url, [1])])
    result = written(local.url, [2])
    with cs.add_fields(local.url, {"y": cs.Text()}) as writer:
        writer.write({"y": "one"})
    with pytest.raises(SchemaError, match="version 2 has another schema"):
        cs.commit(local.url, [result])


def test_a_commit_that_is_run_again_after_a_field_was_added_adds_nothing(local: Any) -> None:
    begin(local)
    done, late = written(local.url, [1, 2]), written(local.url, [3])
    assert cs.commit(local.url, [done]) == 2
    with cs.add_fields(local.url, {"y": cs.Array("int8")}) as writer:
        writer.write_batch({"y": np.zeros(3, "i1")})
    assert cs.commit(local.url, [done]) == 3
    with pytest.raises(SchemaError, match="version 3 has another schema"):
        cs.commit(local.url, [done, late])
    assert values_of(local) == [0, 1, 2]


def test_an_append_to_a_dataset_that_vanished_makes_none(local: Any) -> None:
    begin(local)
    writer = cs.append(local.url, num_threads=1)
    writer.write({"x": 1})
    store = open_store(local.url)
    store.delete([LATEST_KEY, version_key(1)])
    with pytest.raises(DatasetNotFound, match="the dataset vanished while samples were appended"):
        writer.close()
    assert find_latest(store) is None


def test_results_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    here, there = written(tmp_path / "a", [1]), written(tmp_path / "b", [2])
    with pytest.raises(CommitConflict, match="is of dataset"):
        cs.commit(tmp_path / "a", [here, there])
    with pytest.raises(ValueError, match="no results"):
        cs.commit(tmp_path / "a", [])
    with pytest.raises(ValueError, match="no FragmentResult"):
        cs.commit(tmp_path / "a", [here, here.to_json()])  # type: ignore[list-item]
    with cs.fragment(tmp_path / "a", {"y": cs.Text()}) as writer:
        writer.write({"y": "another schema"})
    with pytest.raises(SchemaError, match="differ in schema"):
        cs.commit(tmp_path / "a", [here, writer.result])
    assert here.fragment is not None
    with pytest.raises(ValueError, match="different things"):
        cs.commit(tmp_path / "a", [here, replace(here, fragment=replace(here.fragment, block_rows=2))])
    with pytest.raises(DatasetNotFound):
        cs.open(tmp_path / "a")
    with pytest.raises(DatasetNotFound):
        cs.commit(tmp_path / "nothing", [here])


def test_writers_without_samples_add_nothing(local: Any) -> None:
    empty = written(local.url, [])
    assert (empty.fragment, empty.num_samples) == (None, 0)
    assert cs.FragmentResult.from_json(empty.to_json()) == empty
    assert cs.commit(local.url, [empty, empty]) == 1
    assert values_of(local) == []
    assert cs.commit(local.url, [empty]) == 1
    assert cs.commit(local.url, [empty, written(local.url, [4]), empty]) == 2
    assert values_of(local) == [4]


def test_an_open_and_a_failed_writer_have_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = cs.fragment(tmp_path, SCHEMA)
    writer.write({"x": 1})
    with pytest.raises(ValueError, match="is open; close it first"):
        _ = writer.result
    with pytest.raises(ZeroDivisionError), writer:
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="nothing of it can be committed"):
        _ = writer.result

    def fail(self: object) -> None:
        raise StoreError("disk full")

    writer = cs.fragment(tmp_path, SCHEMA)
    writer.write({"x": 1})
    monkeypatch.setattr(ArraySink, "finish", fail)
    for _ in range(2):
        with pytest.raises(StoreError, match="disk full"):
            writer.close()
    with pytest.raises(ValueError, match="nothing of it can be committed"):
        _ = writer.result


def test_what_is_not_in_the_store_is_not_committed(tmp_path: Path) -> None:
    here = written(tmp_path, [1])
    assert here.fragment is not None
    objects = tmp_path / here.fragment.parts[0].path / "_objects.json"
    data = objects.read_bytes()
    objects.write_bytes(data[:-1] + b" ")
    with pytest.raises(InvalidDataset, match="crc32 mismatch"):
        cs.commit(tmp_path, [here])
    objects.unlink()
    with pytest.raises(MissingObject):
        cs.commit(tmp_path, [here])
    objects.write_bytes(data)
    assert cs.commit(tmp_path, [here]) == 1


def test_a_result_that_lies_about_its_samples_is_not_committed(local: Any) -> None:
    begin(local)
    document = json.loads(written(local.url, [0, 1, 2]).to_json())["document"]
    two = json.loads(written(local.url, [0, 1]).to_json())["document"]
    document["fragment"]["samples"], document["statistics"] = 2, two["statistics"]
    with pytest.raises(InvalidDataset, match=r"int64\[3\], but the schema and the version say int64\[2\]"):
        cs.commit(local.url, [cs.FragmentResult.from_json(seal(document))])
    assert values_of(local) == [0]


def test_a_fragment_that_gc_condemned_is_not_committed(local: Any) -> None:
    cs.commit(local.url, [written(local.url, [1])])
    late = written(local.url, [2])
    assert late.fragment is not None

    def condemn(parent: Any) -> Any:
        assert late.fragment is not None
        return replace(parent, number=2, parent=1, writer="f" * 32, condemned_fragments=(late.fragment.id,))

    commit_version(open_store(local.url), condemn, create=False)
    open_store(local.url).delete([f"{late.fragment.parts[0].path}/_objects.json"])
    with pytest.raises(CommitConflict, match=r"was condemned by gc.*write the samples again"):
        cs.commit(local.url, [late])
    assert append(local, [3]) == 3
    assert values_of(local) == [1, 3]
