"""Commits: every acknowledged one is there once, whatever races, is lost, or is answered wrongly."""

import contextlib
import errno
import json
import multiprocessing
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bare_fragments import append_fragments

import chunkstore as cs
from chunkstore.errors import (
    CommitConflict,
    DatasetNotFound,
    InvalidDataset,
    MissingObject,
    SchemaError,
    StoreError,
    VersionExpired,
)
from chunkstore.format.documents import seal
from chunkstore.format.versions import LATEST_KEY, Fragment, Part, Version, tombstone_to_json, version_key
from chunkstore.history.commit import MAX_STEPS, commit, find_latest, new_id, read_version
from chunkstore.store import local as local_store
from chunkstore.store.interface import Store
from chunkstore.store.location import open_store
from chunkstore.writing.results import FragmentResult, commit_results

SCHEMA = {"x": cs.Array("int64")}


class Wrapped:
    """A store whose `write_if_absent` of version documents does as a test says; reads are counted."""

    def __init__(self, store: Store, put: Any = None) -> None:
        self._store, self._put, self.reads = store, put, []  # type: ignore[var-annotated]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read(self, key: str, *, limit_nbytes: int | None = None) -> bytes:
        self.reads.append(key)
        return self._store.read(key, limit_nbytes=limit_nbytes)

    def write_if_absent(self, key: str, data: bytes) -> bool:
        if self._put is None or "versions" not in key:
            return self._store.write_if_absent(key, data)
        return bool(self._put(self._store, key, data))


@contextlib.contextmanager
def warnings_ignored() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def begin(location: Any) -> Store:
    with cs.create(location.url, SCHEMA, storage_options=location.storage_options or None) as writer:
        writer.write({"x": 0})
    opened: Store = location.open()
    return opened


def commit_nothing(store: Any) -> int:
    """An append of no samples: a commit and nothing else."""
    return append_fragments(store, []).number


def test_a_lost_answer_after_the_commit_makes_one_version(location: Any) -> None:
    store = begin(location)
    calls = []

    def put_and_fail(real: Store, key: str, data: bytes) -> bool:
        calls.append(key)
        real.write_if_absent(key, data)
        raise StoreError("connection reset")

    assert commit_nothing(Wrapped(store, put_and_fail)) == 2
    assert len(calls) == 1
    assert find_latest(store).number == 2  # type: ignore[union-attr]


def test_a_failure_before_the_commit_is_tried_again_and_makes_one_version(location: Any) -> None:
    store = begin(location)
    failures = iter([True, True, False])

    def fail_twice(real: Store, key: str, data: bytes) -> bool:
        if next(failures):
            raise StoreError("connection refused")
        return real.write_if_absent(key, data)

    assert commit_nothing(Wrapped(store, fail_twice)) == 2
    assert find_latest(store).number == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("failures", [1, 2])
def test_a_commit_whose_folder_cannot_be_synced_is_not_acknowledged(
    local: Any, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    store = begin(local)
    left, synced, sync = [OSError(errno.EIO, "broken")] * failures, [], local_store._sync_folder

    def fail_first(folder: str) -> None:
        if folder.endswith(("_chunkstore/versions", "_chunkstore/tags")):
            if left:
                raise left.pop()
            synced.append(folder)
        sync(folder)

    monkeypatch.setattr(local_store, "_sync_folder", fail_first)
    if failures == 1:
        assert commit_nothing(store) == 2
        assert len(synced) == 1
        return
    with pytest.raises(StoreError, match=r"002\.json is written, but its folder could not be synced"):
        commit_nothing(store)
    assert not synced
    cs.tag(local.url, "before")
    left.extend([OSError(errno.EIO, "broken")] * 2)
    with pytest.raises(StoreError, match=r"v\.json is written, but its folder could not be synced"):
        cs.tag(local.url, "v")


class NoListing(Wrapped):
    """As S3 is to those who may not list: 403 for what is absent."""

    def read(self, key: str, *, limit_nbytes: int | None = None) -> bytes:
        try:
            return super().read(key, limit_nbytes=limit_nbytes)
        except FileNotFoundError:
            raise PermissionError(f"403: {key}") from None

    def list(self, prefix: str = "") -> Iterator[Any]:
        raise PermissionError("403")


def test_without_permission_to_list_a_dataset_is_created_and_an_unclear_answer_is_told(local: Any) -> None:
    store: Any = NoListing(local.open())
    with cs.create(store, SCHEMA, num_threads=1) as writer:
        writer.write({"x": 0})

    def fail(real: Store, key: str, data: bytes) -> bool:
        raise StoreError("timeout")

    with pytest.raises(StoreError, match="failed, and what was sent may yet arrive"):
        commit_nothing(NoListing(local.open(), fail))
    assert commit_nothing(store) == 2
    assert cs.tag(store, "v") == 2


def test_a_commit_that_never_arrives_says_that_it_failed(local: Any) -> None:
    store = begin(local)

    def fail(real: Store, key: str, data: bytes) -> bool:
        raise StoreError("connection refused")

    with pytest.raises(StoreError, match="failed, and what was sent may yet arrive") as caught:
        commit_nothing(Wrapped(store, fail))
    assert "refused" in str(caught.value.__cause__)
    assert find_latest(store).number == 1  # type: ignore[union-attr]


def test_a_commit_whose_fate_cannot_be_asked_says_so(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = begin(local)

    def put_and_fail(real: Store, key: str, data: bytes) -> bool:
        real.write_if_absent(key, data)
        monkeypatch.setattr(type(store), "read", lambda *_, **__: (_ for _ in ()).throw(StoreError("gone")))
        raise StoreError("connection reset")

    with pytest.raises(StoreError, match="may yet arrive"):
        commit_nothing(Wrapped(store, put_and_fail))
    monkeypatch.undo()
    assert find_latest(store).number == 2  # type: ignore[union-attr]


def test_a_lost_answer_whose_place_another_writer_took_is_rebased(location: Any) -> None:
    store = begin(location)
    state = {"raced": False}

    def let_another_win(real: Store, key: str, data: bytes) -> bool:
        if not state["raced"]:
            state["raced"] = True
            assert commit_nothing(real) == 2
            raise StoreError("timeout")
        return real.write_if_absent(key, data)

    assert commit_nothing(Wrapped(store, let_another_win)) == 3


def append_one(url: str, options: dict[str, Any], value: int) -> None:
    with cs.append(url, storage_options=options or None, num_threads=1) as writer:
        writer.write({"x": value})


def test_threads_that_append_at_once_lose_nothing(location: Any) -> None:
    begin(location)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda i: append_one(location.url, location.storage_options, i), range(1, 19)))
    ds = cs.open(location.url, storage_options=location.storage_options or None)
    assert sorted(ds["x"][:].tolist()) == list(range(19))
    assert ds.version == 19
    assert [f.first for f in ds.version_document.fragments] == list(range(19))
    assert ds.statistics["x"]["values"].count == 19


def append_some(url: str, options: dict[str, Any], values: list[int]) -> None:
    for value in values:
        append_one(url, options, value)


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_processes_that_append_at_once_lose_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    location = request.getfixturevalue(kind)
    begin(location)
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(
            target=append_some, args=(location.url, location.storage_options, [10 * p + i for i in range(4)])
        )
        for p in (1, 2, 3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    ds = cs.open(location.url, storage_options=location.storage_options or None)
    assert sorted(ds["x"][:].tolist()) == [0] + [10 * p + i for p in (1, 2, 3) for i in range(4)]
    assert ds.version == 13


def test_of_two_creations_one_wins_and_the_other_says_so(location: Any) -> None:
    barrier, outcomes = threading.Barrier(2), []

    def create(value: int) -> None:
        writer = cs.create(location.url, SCHEMA, storage_options=location.storage_options or None)
        writer.write({"x": value})
        barrier.wait()
        try:
            writer.close()
            outcomes.append(value)
        except cs.DatasetExists:
            outcomes.append(None)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(create, [1, 2]))
    (winner,) = [value for value in outcomes if value is not None]
    assert len(outcomes) == 2
    assert cs.open(location.url, storage_options=location.storage_options or None)["x"][:].tolist() == [winner]


@pytest.mark.parametrize(
    "hint",
    [
        None,
        b"",
        b"garbage",
        b"\xff" * 70000,
        *(seal(d) for d in ({"number": 1}, {"number": 0}, {"n": 3})),
    ],
    ids=["absent", "empty", "garbage", "long", "stale", "zero", "other"],
)
def test_a_stale_absent_or_damaged_hint_still_leads_to_the_latest(location: Any, hint: bytes | None) -> None:
    store = begin(location)
    for _ in range(3):
        commit_nothing(store)
    if hint is None:
        store.delete([LATEST_KEY])
    else:
        store.write(LATEST_KEY, hint)
    assert cs.open(location.url, storage_options=location.storage_options or None).version == 4
    append_one(location.url, location.storage_options, 7)
    assert json.loads(store.read(LATEST_KEY))["document"] == {"number": 5}


def test_a_hint_at_a_version_that_is_lost_stops_writers_and_warns_readers(location: Any) -> None:
    store, more = begin(location), {"storage_options": location.storage_options or None}
    for value in (1, 2):
        append_one(location.url, location.storage_options, value)
    document = store.read(version_key(3))
    store.delete([version_key(3)])
    for write in (
        lambda: append_one(location.url, location.storage_options, 9),
        lambda: commit_nothing(store),
        lambda: cs.tag(location.url, "t", **more),
        lambda: cs.rollback(location.url, 1, **more),
        lambda: cs.gc(location.url, orphan_age_s=0, **more),
        lambda: cs.create(location.url, SCHEMA, **more),
        lambda: cs.fragment(location.url, **more),
    ):
        with (
            pytest.raises(MissingObject, match="the hint names version 3, whose document is absent"),
            warnings_ignored(),
        ):
            write()
    with pytest.warns(UserWarning, match="the hint names version 3"):
        assert cs.open(location.url, **more).version == 2
    store.write(version_key(3), document)
    assert commit_nothing(store) == 4


def test_writers_without_a_hint_refuse_a_row_with_a_gap(location: Any) -> None:
    store = begin(location)
    for _ in range(3):
        commit_nothing(store)
    document = store.read(version_key(2))
    store.delete([version_key(2), LATEST_KEY])
    with pytest.raises(MissingObject, match=r"00002\.json is absent, though a later version is there"):
        append_one(location.url, location.storage_options, 9)
    with pytest.raises(MissingObject, match=r"00002\.json"):
        commit_nothing(store)
    store.write(version_key(2), document)
    assert commit_nothing(store) == 5


@pytest.mark.parametrize("last", [1, 2, 3, 8, 9, 10, 11, 12, 13, 17, 60])
def test_without_a_hint_the_latest_is_found_in_few_reads(local: Any, last: int) -> None:
    store = begin(local)
    document = find_latest(store)
    assert document is not None
    for number in range(2, last + 1):
        store.write(version_key(number), seal({**document.to_json(), "number": number, "parent": number - 1}))
    for hint in {1, max(1, last - 3), last}:
        store.write(LATEST_KEY, seal({"number": hint}))
        counted = Wrapped(store)
        assert find_latest(counted).number == last  # type: ignore[union-attr,arg-type]
        missed = last - hint
        assert len(counted.reads) <= 3 + (missed if missed < MAX_STEPS else MAX_STEPS + 2 * missed.bit_length())
    store.delete([LATEST_KEY])
    counted = Wrapped(store)
    assert find_latest(counted).number == last  # type: ignore[union-attr,arg-type]
    assert len(counted.reads) <= 24


def test_a_version_that_is_not_there(local: Any) -> None:
    store = begin(local)
    with pytest.raises(DatasetNotFound, match="version 9 does not exist; the latest is 1"):
        read_version(store, 9)
    with pytest.raises(DatasetNotFound):
        read_version(open_store(local.url + "-elsewhere"))


def bury(store: Store, *numbers: int) -> None:
    for number in numbers:
        store.write(version_key(number), seal(tombstone_to_json(number)))


def test_a_tombstone_keeps_its_place_in_the_row_of_versions(location: Any) -> None:
    store = begin(location)
    for _ in range(30):
        commit_nothing(store)
    bury(store, *range(1, 31))
    for hint in (1, 2, 17, 30, 31):
        store.write(LATEST_KEY, seal({"number": hint}))
        assert read_version(store).number == 31
    store.delete([LATEST_KEY])
    assert read_version(store).number == 31
    with pytest.raises(VersionExpired, match="version 30 was dropped by gc"):
        read_version(store, 30)
    assert [line.number for line in cs.versions(location.url, storage_options=location.storage_options or None)] == [31]
    assert commit_nothing(store) == 32


def test_a_row_of_versions_that_ends_in_a_tombstone_is_damaged(local: Any) -> None:
    store = begin(local)
    commit_nothing(store)
    bury(store, 2)
    with pytest.raises(InvalidDataset, match="the last version, 2, is a tombstone"):
        read_version(store)


def test_a_version_that_is_absent_from_the_row_is_missing(local: Any) -> None:
    store = begin(local)
    commit_nothing(store)
    commit_nothing(store)
    store.delete([version_key(2)])
    store.write(LATEST_KEY, seal({"number": 3}))
    with pytest.raises(MissingObject, match=r"00002\.json is absent, though version 3 is there"):
        read_version(store, 2)


def test_a_commit_whose_answer_is_lost_and_whose_place_was_taken_and_dropped_goes_on(local: Any) -> None:
    store = begin(local)
    state = {"raced": False}

    def let_another_win_and_be_dropped(real: Store, key: str, data: bytes) -> bool:
        if not state["raced"]:
            state["raced"] = True
            assert (commit_nothing(real), commit_nothing(real)) == (2, 3)
            bury(real, 2)
            raise StoreError("timeout")
        return real.write_if_absent(key, data)

    assert commit_nothing(Wrapped(store, let_another_win_and_be_dropped)) == 4


def condemn(store: Store, **condemned: tuple[str, ...]) -> Version:
    def next_version(parent: Version | None) -> Version:
        assert parent is not None
        return replace(parent, number=parent.number + 1, parent=parent.number, writer=new_id(), **condemned)  # type: ignore[arg-type]

    return commit(store, next_version, create=False)


def test_parts_that_gc_has_condemned_are_carried_forward_and_never_committed_again(local: Any) -> None:
    store = begin(local)
    old = read_version(store)
    later = replace(
        old.fragments[0], parts=(replace(old.fragments[0].parts[0], path=f"fragments/{old.fragments[0].id}/b"),)
    )

    def move(parent: Version | None) -> Version:
        assert parent is not None
        return replace(parent, number=parent.number + 1, parent=parent.number, writer=new_id(), fragments=(later,))

    commit(store, move, create=False)
    condemn(store, condemned_parts=(old.fragments[0].parts[0].path,))
    assert commit_nothing(store) == 4
    assert read_version(store).condemned_parts == (old.fragments[0].parts[0].path,)
    with pytest.raises(VersionExpired, match="version 1 was given up by gc, with 1 of its 1 fragments"):
        cs.rollback(local.url, 1)
    with pytest.raises(CommitConflict, match="was condemned by gc"):
        condemn(store, fragments=old.fragments)  # type: ignore[arg-type]
    assert read_version(store).number == 4


def test_fragments_are_committed_once(local: Any) -> None:
    store = begin(local)
    first = read_version(store)
    result = FragmentResult(first.dataset, first.schema, first.fragments[0], first.statistics)
    assert commit_results(store, [result], message="again", again=True) == first
    assert commit_results(store, [result, result], message="again").fragments == first.fragments
    with pytest.raises(InvalidDataset, match="twice"):
        append_fragments(store, first.fragments)


def test_a_version_document_that_is_damaged_is_told_by_name(local: Any) -> None:
    store = begin(local)
    key = version_key(1)
    data = store.read(key)
    for damaged in (
        data[:-1],
        data[:40],
        b"",
        data.replace(b"int64", b"int32"),
        data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
    ):
        store.write(key, damaged)
        with pytest.raises(InvalidDataset, match=key):
            cs.open(local.url)
    store.write(key, data)
    store.write(version_key(2), data)
    with pytest.raises(InvalidDataset, match="holds version 1"):
        cs.open(local.url)


def test_an_append_with_another_schema_is_refused(local: Any) -> None:
    store = begin(local)
    other = cs.Schema({"x": cs.Array("int32")})
    with pytest.raises(SchemaError, match="another schema"):
        nothing = FragmentResult(cs.open(local.url).uuid, other, None, {"x": {"values": cs.Statistics()}})
        commit_results(store, [nothing], message="")


def test_an_append_to_a_dataset_that_was_replaced_meanwhile_is_refused(tmp_path: Path) -> None:
    begun = cs.create(tmp_path / "ds", SCHEMA)
    begun.close()
    writer = cs.append(tmp_path / "ds")
    writer.write({"x": 1})
    (tmp_path / "ds").rename(tmp_path / "old")
    with cs.create(tmp_path / "ds", SCHEMA) as other:
        other.write({"x": 7})
    with pytest.raises(CommitConflict, match="took the place"):
        writer.close()
    assert cs.open(tmp_path / "ds")["x"][:].tolist() == [7]


def test_a_fragment_that_gc_has_condemned_cannot_be_committed(local: Any) -> None:
    store = begin(local)
    fragment = Fragment("f" * 32, 0, 1, 1, (Part(f"fragments/{'f' * 32}/0", ("x",), 8, 8, 8, 0),))
    given_up = (fragment.id,)

    def condemn(parent: Version | None) -> Version:
        assert parent is not None
        return replace(parent, number=parent.number + 1, parent=parent.number, condemned_fragments=given_up)

    commit(store, condemn, create=False)
    with pytest.raises(CommitConflict, match="condemned"):
        append_fragments(store, [fragment])
    assert commit_nothing(store) == 3
    assert read_version(store).condemned_fragments == given_up


def test_a_version_that_could_not_be_read_again_is_not_committed(local: Any) -> None:
    store = begin(local)

    def spoil(parent: Version | None) -> Version:
        assert parent is not None
        return replace(parent, number=parent.number + 1, parent=parent.number, time="yesterday")

    with pytest.raises(InvalidDataset, match="time"):
        commit(store, spoil, create=False)
    assert cs.open(local.url).version == 1


def test_the_document_holds_no_nan_and_sample_ids_go_up(tmp_path: Path) -> None:
    with cs.create(tmp_path / "ds", {"x": cs.Array("float64")}) as writer:
        writer.write_batch({"x": np.array([np.nan, np.inf])})
    for _ in range(2):
        with cs.append(tmp_path / "ds") as writer:
            writer.write_batch({"x": np.full(3, np.nan)})
    version = cs.open(tmp_path / "ds").version_document
    assert [(f.first, f.samples) for f in version.fragments] == [(0, 2), (2, 3), (5, 3)]
    assert version.next_sample_id == 8
    text = (tmp_path / "ds" / version_key(3)).read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
