"""gc: what it gives up and what it keeps, on every store; history against a plain model."""

import os
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numbers_dataset import SCHEMA, append, begin, options, values_of

import chunkstore as cs
from chunkstore.errors import CommitConflict, DatasetNotFound, InvalidDataset, MissingObject, StoreError, VersionExpired
from chunkstore.format.documents import seal
from chunkstore.format.schema import Schema
from chunkstore.format.statistics import Statistics
from chunkstore.format.versions import Part, Version, tombstone_to_json, version_key
from chunkstore.history.commit import commit, read_latest, read_version
from chunkstore.store.interface import Store
from chunkstore.store.local import LocalStore

YEAR_S = 365 * 86400.0


def run_gc(location: Any, **how: Any) -> cs.GcReport:
    return cs.gc(location.url, **{"orphan_age_s": 0, **options(location), **how})


def stored(store: Store) -> dict[str, bytes]:
    return {listed.key: store.read(listed.key) for listed in store.list()}


def fragments_in(store: Store) -> set[str]:
    return {listed.key.split("/")[1] for listed in store.list("fragments")} - {"zarr.json"}


def put_orphan(store: Store, fragment: str | None = None, part: str = "0") -> str:
    """Objects of a writer that died."""
    fragment = fragment or uuid.uuid4().hex
    for key in ("zarr.json", "x/zarr.json", "x/c/0"):
        store.write(f"fragments/{fragment}/{part}/{key}", b"?" * 10)
    return fragment


def check_whole(location: Any) -> list[int]:
    """Every version that is listed opens and is undamaged; the numbers of those."""
    numbers = [line.number for line in cs.versions(location.url, **options(location))]
    for number in numbers:
        report = cs.verify(location.url, version=number, num_threads=1, **options(location))
        assert report.ok, report.damages
    return numbers


# What is kept and what goes


def test_the_last_and_the_tagged_versions_are_kept(location: Any) -> None:
    store = begin(location, [1], [2], [3])
    cs.tag(location.url, "v2", 2, **options(location))
    cs.rollback(location.url, 1, **options(location))
    append(location, [4])
    before = {number: read_version(store, number) for number in range(1, 7)}
    report = run_gc(location, keep_versions=2)
    assert report.versions == (1, 3, 4)
    assert set(report.fragments) == {before[4].fragments[2].id, before[4].fragments[3].id}
    assert (report.parts, report.orphans, report.committed, report.dry_run) == ((), (), 7, False)
    assert check_whole(location) == [2, 5, 6, 7]
    assert values_of(location) == values_of(location, version=6) == [0, 4]
    assert values_of(location, tag="v2") == values_of(location, version=2) == [0, 1]
    assert fragments_in(store) == {f.id for number in (2, 6) for f in before[number].fragments}
    for number in report.versions:
        assert store.read(version_key(number)) == seal(tombstone_to_json(number))
        for call in (cs.open, cs.verify):
            with pytest.raises(VersionExpired, match=f"version {number}"):
                call(location.url, version=number, **options(location))
        with pytest.raises(VersionExpired):
            cs.rollback(location.url, number, **options(location))
        with pytest.raises(VersionExpired):
            cs.tag(location.url, "late", number, **options(location))
    assert append(location, [5]) == 8, "a number was freed"


def test_what_is_deleted_is_what_is_reported(local: Any) -> None:
    store = begin(local, [1], [2])
    cs.rollback(local.url, 1, **options(local))
    put_orphan(store)
    before = stored(store)
    report = run_gc(local, keep_versions=1)
    gone = before.keys() - stored(store).keys()
    assert report.objects == len(gone)
    assert report.nbytes == sum(len(before[key]) for key in gone)
    assert all(key.startswith("fragments/") for key in gone)
    assert f"objects: {len(gone)}, {report.nbytes:,} bytes, committed version: 5" in repr(report)


def test_a_dry_run_says_what_will_be_done_and_does_nothing(local: Any) -> None:
    store = begin(local, [1], [2])
    cs.rollback(local.url, 1, **options(local))
    put_orphan(store)
    before = stored(store)
    told = run_gc(local, keep_versions=1, dry_run=True)
    assert stored(store) == before
    assert (told.dry_run, told.committed) == (True, None)
    assert "dry run" in repr(told)
    done = run_gc(local, keep_versions=1)
    assert done == replace(told, dry_run=False, committed=5)
    assert (len(done.versions), len(done.fragments), len(done.orphans)) == (3, 2, 1)


def test_with_nothing_to_do_nothing_is_done(local: Any) -> None:
    store = begin(local, [1])
    before = stored(store)
    calls: list[Any] = []
    assert run_gc(local, keep_versions=2, progress=lambda *told: calls.append(told)) == cs.GcReport(
        (), (), (), (), 0, 0, None
    )
    assert stored(store) == before
    run_gc(local, keep_versions=1)
    before = stored(store)
    assert run_gc(local, keep_versions=1).committed is None
    assert stored(store) == before, "what gc commits makes work for gc"


def test_versions_that_change_nothing_push_no_others_out(local: Any) -> None:
    begin(local, [1], [2])
    assert run_gc(local, keep_versions=2).versions == (1,)
    append(local, [3])
    put_orphan(local.open())
    assert run_gc(local, keep_versions=3).versions == ()
    assert check_whole(local) == [2, 3, 4, 5, 6]
    assert run_gc(local, keep_versions=2).versions == (2,)
    assert run_gc(local, keep_versions=1).versions == (3, 4)
    assert check_whole(local) == [5, 6, 7, 8]
    assert [values_of(local, version=number) for number in (5, 8)] == [[0, 1, 2, 3]] * 2


def test_the_latest_is_kept_under_the_number_it_was_opened_by(local: Any) -> None:
    begin(local, [1])
    loader = cs.Loader(local.url, batch_size=1, rank=0, world_size=1)
    next(iter(loader))
    state = loader.state_dict()
    assert run_gc(local, keep_versions=1).committed == 3
    again = cs.Loader(local.url, batch_size=1, rank=0, world_size=1)
    again.load_state_dict(state)
    assert len(list(again)) == 1


def test_a_loader_of_a_dropped_version_says_that_it_expired(local: Any) -> None:
    begin(local, [1])
    loader = cs.Loader(local.url, batch_size=1, rank=0, world_size=1, **options(local))
    next(iter(loader))
    state = loader.state_dict()
    append(local, [2])
    run_gc(local, keep_versions=1)
    again = cs.Loader(local.url, batch_size=1, rank=0, world_size=1, **options(local))
    with pytest.raises(VersionExpired, match="version 2 was dropped by gc"):
        again.load_state_dict(state)
        next(iter(again))


# Orphans


def test_orphans_go_when_they_are_old(location: Any) -> None:
    store = begin(location, [1])
    orphan = put_orphan(store)
    report = run_gc(location, orphan_age_s=60)
    assert (report.orphans, report.committed) == ((), None)
    assert orphan in fragments_in(store)
    time.sleep(1.1 if location.url.startswith("s3:") else 0.01)
    report = run_gc(location)
    assert (report.orphans, report.fragments, report.objects, report.nbytes) == ((orphan,), (), 3, 30)
    assert fragments_in(store) == {f.id for f in read_latest(store).fragments}
    assert read_latest(store).condemned_fragments == (orphan,)
    assert check_whole(location) == [1, 2, 3]


def test_an_orphan_is_as_old_as_its_newest_object(local: Any) -> None:
    store = begin(local)
    old, growing = put_orphan(store), put_orphan(store)
    for listed in store.list("fragments"):
        if listed.key.split("/")[1] in {old, growing}:
            os.utime(LocalStore(local.url).path(listed.key), (1e9, 1e9))
    store.write(f"fragments/{growing}/0/x/c/1", b"?")
    assert run_gc(local, orphan_age_s=YEAR_S).orphans == (old,)
    assert run_gc(local, orphan_age_s=0).orphans == (growing,)


def test_a_part_that_nobody_holds_goes_and_its_fragment_stays(local: Any) -> None:
    store = begin(local)
    (fragment,) = read_latest(store).fragments
    put_orphan(store, fragment.id, "abandoned")
    assert run_gc(local, orphan_age_s=YEAR_S).orphans == ()
    report = run_gc(local)
    assert report.orphans == (f"fragments/{fragment.id}/abandoned",)
    assert read_latest(store).condemned_parts == report.orphans
    assert not list(store.list(report.orphans[0]))
    assert check_whole(local) == [1, 2]


def add_a_part(store: Store) -> str:
    """Commit a version whose only fragment has one part more, with the field "y"; the part's path."""
    (fragment,) = read_latest(store).fragments
    put_orphan(store, fragment.id, "later")
    part = Part(f"fragments/{fragment.id}/later", ("y",), 8, 30, 10, 0)

    def next_version(parent: Version | None) -> Version:
        assert parent is not None
        return replace(
            parent,
            number=parent.number + 1,
            parent=parent.number,
            writer=uuid.uuid4().hex,
            schema=Schema({**parent.schema, "y": cs.Array("int64")}),
            fragments=(replace(fragment, parts=(*fragment.parts, part)),),
            statistics={**parent.statistics, "y": {"values": Statistics()}},
        )

    commit(store, next_version, create=False)
    return part.path


def test_a_part_that_only_dropped_versions_hold_goes_and_its_fragment_stays(location: Any) -> None:
    store = begin(location)
    path = add_a_part(store)
    cs.rollback(location.url, 1, **options(location))
    report = run_gc(location, keep_versions=1, orphan_age_s=YEAR_S)
    assert (report.versions, report.fragments, report.parts, report.orphans) == ((1, 2), (), (path,), ())
    assert (report.objects, report.nbytes) == (3, 30)
    assert not list(store.list(path))
    assert check_whole(location) == [3, 4]
    (fragment,) = read_latest(store).fragments
    lost = replace(fragment, parts=(*fragment.parts, Part(path, ("z",), 8, 30, 10, 0)))

    def with_it(parent: Version | None) -> Version:
        assert parent is not None
        return replace(parent, number=5, parent=4, writer=uuid.uuid4().hex, fragments=(lost,))

    with pytest.raises(CommitConflict, match="condemned by gc"):
        commit(store, with_it, create=False)


def test_a_fragment_goes_with_all_its_parts(local: Any) -> None:
    store = begin(local)
    path = add_a_part(store)
    (fragment,) = read_version(store, 1).fragments

    def emptied(parent: Version | None) -> Version:
        assert parent is not None
        first = read_version(store, 1)
        empty: Any = {"x": {"values": Statistics()}}
        return replace(
            first, number=3, parent=2, writer=uuid.uuid4().hex, fragments=(), statistics=empty, next_sample_id=1
        )

    commit(store, emptied, create=False)
    report = run_gc(local, keep_versions=1, orphan_age_s=YEAR_S)
    assert (report.fragments, report.parts) == ((fragment.id,), ())
    assert not list(store.list(path))
    assert fragments_in(store) == set()


def test_what_is_no_fragment_is_left_alone(local: Any) -> None:
    store = begin(local)
    others = ["fragments/notes.txt", "fragments/ABC/0/zarr.json", "mine/0", "_chunkstore/other/1", "_chunkstore/tags/x"]
    (fragment,) = read_latest(store).fragments
    others += [
        f"fragments/{fragment.id}/notes.txt",
        f"fragments/{fragment.id}/0/x/c/99",
        f"fragments/{fragment.id}/A/b",
    ]
    for key in others:
        store.write(key, b"mine")
    before = stored(store)
    assert run_gc(local, keep_versions=1).committed is None
    assert stored(store) == before


def test_leavings_of_probes_go_when_they_are_old(location: Any) -> None:
    store = begin(location)
    store.write("_chunkstore/probe/left", b"?")
    run_gc(location, orphan_age_s=60)
    assert [listed.key for listed in store.list("_chunkstore/probe")] == ["_chunkstore/probe/left"]
    time.sleep(1.1 if location.url.startswith("s3:") else 0.01)
    report = run_gc(location)
    assert (report.objects, report.nbytes, report.committed) == (1, 1, None)
    assert not list(store.list("_chunkstore/probe"))


KILLED = """
import os, signal, sys
from chunkstore.store.local import LocalStore
store = LocalStore(sys.argv[1])
uploads = [store.open_upload(key) for key in sys.argv[2:]]
for upload in uploads:
    upload.write(b"half")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_killed_writers_left_on_a_disk_goes_when_it_is_old(local: Any) -> None:
    store = begin(local, [1])
    root = Path(local.url)
    fragment = uuid.uuid4().hex
    keys = ["zarr.json", "_chunkstore/versions/" + "0" * 19 + "3.json", f"fragments/{fragment}/0/x/c/0"]
    subprocess.run([sys.executable, "-c", KILLED, local.url, *keys], check=False)
    left = sorted(path for path in root.rglob("*~*"))
    assert [str(path.relative_to(root)).partition("~")[0] for path in left] == sorted(keys)
    foreign = [root / "notes~", root / f"other/x~{uuid.uuid4().hex}", root / f"fragments/x~{'f' * 31}"]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
    before = stored(store)
    report = run_gc(local, orphan_age_s=60)
    assert (report.unfinished, report.objects, report.nbytes) == (0, 0, 0)
    assert all(path.exists() for path in left), "a writer that may be alive lost what it writes"
    os.utime(left[-1], (0, 0))
    with store.open_upload(f"fragments/{fragment}/0/x/c/1") as alive:
        dry = run_gc(local, orphan_age_s=60, dry_run=True)
        report = run_gc(local, orphan_age_s=60)
        alive.write(b"all")
    assert (report.unfinished, report.objects, report.nbytes, report.committed) == (1, 0, 4, None)
    assert replace(report, dry_run=True) == dry
    assert "4 bytes, unfinished files: 1" in repr(report)
    assert [path.exists() for path in left] == [True, True, False]
    assert store.read(f"fragments/{fragment}/0/x/c/1") == b"all"
    store.delete([f"fragments/{fragment}/0/x/c/1"])
    told: list[tuple[int, int]] = []
    report = run_gc(local, progress=lambda done, total: told.append((done, total)))
    assert (report.unfinished, report.objects, report.nbytes, told[-1]) == (2, 0, 8, (2, 2))
    assert stored(store) == before
    assert not any(path.exists() for path in left)
    assert not (root / "fragments" / fragment).exists()
    assert all(path.read_bytes() == b"mine" for path in foreign)


def test_progress_goes_up_to_all(local: Any) -> None:
    begin(local, [1], [2])
    cs.rollback(local.url, 1, **options(local))
    told: list[tuple[int, int]] = []
    report = run_gc(local, keep_versions=1, progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert {total for _, total in told} == {report.objects + len(report.versions)}
    assert told[-1][0] == told[-1][1]


# What cannot be


def test_where_objects_cannot_be_listed_nothing_is_given_up(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(local, [1])
    before = stored(local.open())

    def refuse(*_: Any) -> Any:
        raise PermissionError("403")

    with monkeypatch.context() as patched:
        patched.setattr(LocalStore, "list", refuse)
        with pytest.raises(StoreError, match=r"has to list objects.*403.*s3:ListBucket"):
            run_gc(local, keep_versions=1)
    assert stored(local.open()) == before


def test_wrong_arguments_are_refused_before_anything_is_read(local: Any) -> None:
    for wrong in ({"keep_versions": 0}, {"keep_versions": True}, {"orphan_age_s": -1}, {"orphan_age_s": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            cs.gc(local.url, **wrong)
    with pytest.raises(DatasetNotFound):
        cs.gc(local.url)


@pytest.mark.parametrize("key", [version_key(2), "_chunkstore/tags/v1.json"])
def test_with_a_damaged_document_nothing_is_given_up(local: Any, key: str) -> None:
    store = begin(local, [1], [2])
    cs.tag(local.url, "v1", 1)
    put_orphan(store)
    store.write(key, store.read(key)[:-3] + b"?}}")
    before = stored(store)
    with pytest.raises(InvalidDataset, match=key):
        run_gc(local)
    assert stored(store) == before


def test_with_an_absent_document_nothing_is_given_up(local: Any) -> None:
    store = begin(local, [1], [2])
    store.delete([version_key(2)])
    before = stored(store)
    with pytest.raises(MissingObject, match=version_key(2)):
        run_gc(local)
    assert stored(store) == before


def test_with_a_tombstone_that_no_version_accounts_for_nothing_is_given_up(local: Any) -> None:
    store = begin(local, [1], [2])
    store.write(version_key(2), seal(tombstone_to_json(2)))
    before = stored(store)
    with pytest.raises(InvalidDataset, match="tombstone"):
        run_gc(local)
    assert stored(store) == before


# The whole against a model

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "tag", "rollback", "orphan", "gc"]), st.integers(1, 3), st.floats(0, 0.999)
    ),
    min_size=3,
    max_size=12,
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_any_history_keeps_what_is_last_or_tagged_and_nothing_else(memory: Any, steps: Any) -> None:
    place = replace(memory, url=f"{memory.url}/{uuid.uuid4().hex}")
    store = begin(place)
    model: dict[int, list[int]] = {1: [0]}  # values of each version that was not dropped
    tagged: set[int] = set()
    latest, fresh = 1, 1
    for what, count, fraction in [*steps, ("gc", 1, 0.0)]:
        chosen = sorted(model)[int(fraction * len(model))]
        if what == "append":
            values = list(range(fresh, fresh + count))
            assert append(place, values) == latest + 1
            fresh += count
            model[latest + 1] = model[latest] + values
        elif what == "rollback":
            assert cs.rollback(place.url, chosen) == latest + 1
            model[latest + 1] = model[chosen]
        elif what == "tag":
            tagged.add(cs.tag(place.url, f"t{fresh}-{latest}-{chosen}", chosen))
        elif what == "orphan":
            put_orphan(store)
        else:
            report = run_gc(place, keep_versions=count)
            kept = last_states(model, count) | tagged
            assert set(report.versions) == model.keys() - kept
            for number in model.keys() - kept:
                with pytest.raises(VersionExpired):
                    cs.open(place.url, version=number)
            model = {number: values for number, values in model.items() if number in kept}
            if report.committed is not None:
                assert report.committed == latest + 1
                model[latest + 1] = model[latest]
            assert check_whole(place) == sorted(model)
            held = {f.id for number in model for f in read_version(store, number).fragments}
            assert fragments_in(store) == held
        latest = max(model)
        assert latest == read_latest(store).number
    for number, values in model.items():
        assert values_of(place, version=number) == values
    dropped = set(range(1, latest)) - model.keys()
    assert set(read_latest(store).condemned_versions) == dropped


def last_states(model: dict[int, list[int]], count: int) -> set[int]:
    kept: set[int] = set()
    states = 0
    newer = None
    for number in sorted(model, reverse=True):
        states += model[number] != newer
        newer = model[number]
        if states <= count:
            kept.add(number)
    return kept


def test_sample_ids_are_never_given_twice_after_gc(local: Any) -> None:
    store = begin(local, [1, 2, 3])
    cs.rollback(local.url, 1)
    run_gc(local, keep_versions=1)
    append(local, [4])
    assert read_latest(store).fragments[-1].first == 4
    assert values_of(local) == [0, 4]
    assert np.array_equal(cs.open(local.url)["x"][:], [0, 4])
    assert cs.open(local.url).schema.same_types(Schema(SCHEMA))
