"""gc beside other writers, and gc that dies: whatever happens at whatever moment, nothing acknowledged is lost."""

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from crashing_store import Crashed, CrashingStore, Mode
from numbers_dataset import append, begin, options, values_of
from recording_store import RecordingStore

import chunkstore as cs
from chunkstore.errors import CommitConflict, StoreError, VersionExpired
from chunkstore.format import paging
from chunkstore.format.documents import seal
from chunkstore.format.pages import page_id
from chunkstore.format.versions import tombstone_to_json, version_key
from chunkstore.history.commit import read_latest, read_version
from chunkstore.store.interface import Store


@pytest.fixture(autouse=True)
def everything_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small versions like those here would have none."""
    monkeypatch.setattr(paging, "INLINE_NBYTES", 0)
    monkeypatch.setattr(paging, "INLINE_CONDEMNED_NBYTES", 60)


VALUES = {1: [0], 2: [0, 1], 3: [0, 1, 2], 4: [0], 5: [0, 4]}
"""Of the versions of the dataset that each test begins with."""


_objects: dict[str, dict[str, bytes]] = {}
"""Of such a dataset, to have the next one sooner."""


def gc_through(store: Store, **how: Any) -> cs.GcReport:
    return cs.gc(store, **{"keep_versions": 1, "orphan_age_s": 0, **how})  # type: ignore[arg-type]


def begin_here(location: Any) -> Any:
    """A dataset of the versions that `VALUES` has, the second of them tagged, and an orphan."""
    place = replace(location, url=f"{location.url}/{uuid.uuid4().hex}")
    if objects := _objects.get(location.url):
        for key, data in objects.items():
            place.open().write(key, data)
        return place
    store = begin(place, [1], [2])
    cs.rollback(place.url, 1, **options(place))
    append(place, [4])
    cs.tag(place.url, "v2", 2, **options(place))
    store.write(f"fragments/{'0' * 32}/0/zarr.json", b"?")
    if location.url.startswith("memory:"):
        _objects[location.url] = {listed.key: store.read(listed.key) for listed in store.list()}
    return place


def fragments_in(store: Store) -> set[str]:
    return {listed.key.split("/")[1] for listed in store.list("fragments")} - {"zarr.json"}


def pages_in(store: Store) -> set[str]:
    return {identity for listed in store.list("_chunkstore/pages") if (identity := page_id(listed.key))}


def check_kept(place: Any, latest_holds: list[int]) -> None:
    """The versions that are listed can be read, as can tagged ones, and the latest holds some values and is undamaged."""
    for line in cs.versions(place.url, **options(place)):
        values = values_of(place, version=line.number)
        assert values == VALUES.get(line.number, values)
    assert cs.verify(place.url, num_threads=1, **options(place)).ok
    assert values_of(place, tag="v2") == VALUES[2]
    assert set(values_of(place)) >= set(latest_holds)


# Others act at every moment of gc


@contextmanager
def append_about_to_commit(place: Any) -> Iterator[Callable[[], None]]:
    """An append of [9] whose objects are all there, and whose version is put when the function that is given is called."""
    ready, go = threading.Event(), threading.Event()

    def hook(name: str, key: str) -> None:
        if name == "write_if_absent" and "/versions/" in key:
            ready.set()
            assert go.wait(60)

    def work() -> None:
        with cs.append(RecordingStore(place.open(), hook=hook), num_threads=1) as writer:  # type: ignore[arg-type]
            writer.write_batch({"x": np.array([9], np.int64)})

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        assert ready.wait(60)

        def finish() -> None:
            go.set()
            working.result(60)

        try:
            yield finish
        finally:
            go.set()


@dataclass(frozen=True)
class Action:
    """What somebody else does.

    Attributes:
        act: Does it at a place, given how to finish an append that is about to commit.
        latest_holds: Values in the latest version if it succeeds.
        tagged: The version that has a tag "n" if it succeeds.
    """

    act: Callable[[Any, Callable[[], None]], object]
    latest_holds: list[int]
    tagged: int | None = None


ACTIONS = {
    "append": Action(lambda place, _: append(place, [7]), [0, 7]),
    "append ready": Action(lambda _, finish: finish(), [0, 9]),
    "tag": Action(lambda place, _: cs.tag(place.url, "n", 3, **options(place)), [0], 3),
    "rollback": Action(lambda place, _: cs.rollback(place.url, 3, **options(place)), [0, 1, 2]),
    "gc": Action(lambda place, _: gc_through(place.open()), [0, 4]),
}


def do_nothing() -> None:
    """Finish nothing."""


def run_beside(place: Any, action: Action, at: Callable[[int, str, str], bool]) -> tuple[bool, bool]:
    """Run gc, let `action` happen at the first operation of which `at` is true; whether it did, and succeeded."""
    lock = threading.Lock()
    count = 0
    happened = succeeded = False

    with append_about_to_commit(place) if action is ACTIONS["append ready"] else nullcontext(do_nothing) as finish:

        def hook(name: str, key: str) -> None:
            nonlocal count, happened, succeeded
            with lock:
                mine = not happened and at(count, name, key)
                happened, count = happened or mine, count + 1
            if mine:
                try:
                    action.act(place, finish)
                except (CommitConflict, VersionExpired):
                    return
                succeeded = True

        gc_through(RecordingStore(place.open(), hook=hook))
        gc_through(place.open())  # what was spared is spared for good
        check_kept(place, action.latest_holds if succeeded else [])
        if succeeded and action.tagged is not None:
            assert values_of(place, tag="n") == VALUES[action.tagged]
    return happened, succeeded


@pytest.mark.parametrize("name", ACTIONS)
def test_whoever_acts_at_any_moment_of_gc_keeps_what_was_acknowledged(memory: Any, name: str) -> None:
    outcomes = []
    for moment in range(1000):
        happened, succeeded = run_beside(begin_here(memory), ACTIONS[name], lambda count, *_: count == moment)  # noqa: B023
        if not happened:
            break
        outcomes.append(succeeded)
    assert outcomes[0], "before gc has begun everything succeeds"
    assert len(outcomes) > 20
    # before gc's commit everybody goes on, afterwards those who need what was given up are refused
    assert outcomes == sorted(outcomes, reverse=True)
    assert outcomes[-1] == (name in {"append", "gc"})


@pytest.mark.parametrize("name", ["append ready", "tag"])
@pytest.mark.parametrize(("operation", "succeeds"), [("write_if_absent _chunkstore/versions", True), ("delete", False)])
def test_around_the_commit_of_gc_it_is_one_or_the_other(
    location: Any, name: str, operation: str, succeeds: bool
) -> None:
    def at(_: int, called: str, key: str) -> bool:
        return f"{called} {key}".startswith(operation)

    assert run_beside(begin_here(location), ACTIONS[name], at) == (True, succeeds)


def test_at_any_moment_of_an_append_gc_may_run(memory: Any) -> None:
    refused = set()
    for moment in range(1000):
        place = begin_here(memory)
        count = 0

        def hook(name: str, key: str) -> None:
            nonlocal count
            mine, count = count == moment, count + 1  # noqa: B023
            if mine:
                gc_through(place.open())  # noqa: B023

        try:
            with cs.append(RecordingStore(place.open(), hook=hook), num_threads=1) as writer:  # type: ignore[arg-type]
                writer.write_batch({"x": np.array([9], np.int64)})
        except CommitConflict as conflict:
            assert "condemned by gc" in str(conflict)
            refused.add(moment)
            check_kept(place, [0, 4])
            assert values_of(place) == [0, 4]
        else:
            check_kept(place, [0, 4, 9])
        if count <= moment:
            break
    assert refused, "with an age of 0, gc takes what is being written for an orphan"
    assert 0 not in refused


def test_what_was_tagged_during_gc_opens_by_its_tag_and_cannot_be_gone_back_to(local: Any) -> None:
    place = begin_here(local)
    store = place.open()

    def hook(name: str, key: str) -> None:
        if name == "write_if_absent" and "/versions/" in key:
            cs.tag(place.url, "n", 3)

    report = gc_through(RecordingStore(store, hook=hook))
    assert 3 not in report.versions
    assert 3 in read_latest(store).condemned_versions
    assert values_of(place, tag="n") == values_of(place, version=3) == VALUES[3]
    assert [line.number for line in cs.versions(place.url)] == [2, 3, 5, 6]
    with pytest.raises(VersionExpired):
        cs.rollback(place.url, 3)


def test_a_version_that_was_succeeded_while_gc_decided_is_kept_like_any_other(memory: Any) -> None:
    place = begin_here(memory)
    acted = False
    with append_about_to_commit(place) as finish:

        def hook(name: str, key: str) -> None:
            nonlocal acted
            if name == "write_if_absent" and "/versions/" in key and not acted:
                acted = True
                finish()
                cs.rollback(place.url, 4)

        # the fragment of version 6 was listed as an orphan, and version 7, of which gc makes the next, does not hold it
        report = gc_through(RecordingStore(place.open(), hook=hook), keep_versions=2)
    assert report.committed == 8
    assert values_of(place, version=6) == [0, 4, 9]
    check_kept(place, [0])


def test_a_tag_of_what_gc_gives_up_in_the_same_moment_is_refused(local: Any) -> None:
    place = begin_here(local)

    def hook(name: str, key: str) -> None:
        if name == "write_if_absent" and "/tags/" in key:
            gc_through(place.open())

    with pytest.raises(VersionExpired, match="gave up version 3 while it was tagged 'n'"):
        cs.tag(RecordingStore(place.open(), hook=hook), "n", 3)  # type: ignore[arg-type]
    with pytest.raises(VersionExpired):
        cs.open(place.url, tag="n")
    gc_through(place.open())
    check_kept(place, [0, 4])


# Many at once


def test_writers_and_several_gcs_at_once_lose_nothing(location: Any) -> None:
    place = begin_here(location)
    stop = threading.Event()

    def write(begin: int) -> list[int]:
        done = []
        for value in range(begin, begin + 4):
            append(place, [value])
            done.append(value)
        return done

    def collect() -> None:
        while not stop.is_set():
            cs.gc(place.url, keep_versions=1, orphan_age_s=3600, **options(place))

    with ThreadPoolExecutor(4) as pool:
        gcs = [pool.submit(collect) for _ in range(2)]
        appended = [pool.submit(write, 100 * begin) for begin in (1, 2)]
        try:
            acknowledged = [value for writing in appended for value in writing.result(120)]
        finally:
            stop.set()
        for collecting in gcs:
            collecting.result(120)
    assert sorted(values_of(place)) == sorted([0, 4, *acknowledged])
    check_kept(place, [0, 4])


# gc dies


def outcome(place: Any) -> dict[str, Any]:
    """What is left after gc is done: contents of what is kept, and what lies in the store."""
    store = place.open()
    latest = read_latest(store)
    dropped = set(latest.condemned_versions)
    kept = set(range(1, latest.number)) - dropped
    assert {f.id for number in kept for f in read_version(store, number).fragments} == fragments_in(store)
    assert pages_in(store) == latest.page_ids.union(*(read_version(store, number).page_ids for number in kept))
    for number in dropped:
        assert store.read(version_key(number)) == seal(tombstone_to_json(number))
        with pytest.raises(VersionExpired):
            cs.open(place.url, version=number, **options(place))
    return {
        "dropped": dropped,
        "values": {number: values_of(place, version=number) for number in kept},
        "condemned": len(latest.condemned_fragments),
        "fragments": len(fragments_in(store)),
    }


@pytest.mark.parametrize("mode", ["before", "middle", "after", "lost", "refused", "latest"])
def test_gc_that_dies_at_any_operation_is_finished_by_the_next(memory: Any, mode: Mode) -> None:
    place = begin_here(memory)
    gc_through(place.open())
    expected = outcome(place)
    assert expected == {"dropped": {1, 3, 4}, "values": {2: VALUES[2], 5: VALUES[5]}, "condemned": 2, "fragments": 3}
    struck = 0
    for at in range(1000):
        place = begin_here(memory)
        dying = CrashingStore(place.open(), at=at, mode=mode)
        try:
            gc_through(dying)
        except Crashed:
            check_kept(place, [0, 4])
        except StoreError:
            assert mode not in {"before", "middle", "after"}
            dying.arrive()
            check_kept(place, [0, 4])
        if dying.struck is None:
            break
        struck += 1
        gc_through(place.open())
        found = outcome(place)
        # an unclear answer may have left one commit more
        assert {**found, "values": {n: found["values"][n] for n in (2, 5)}} == expected, (mode, dying.struck)
        assert gc_through(place.open()).committed is None
    assert struck > 20
