"""A writer that dies before, in, or after any store operation, or loses the answer of any: the old version or the new one,
always, and a rerun converges."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crashing_store import DEADLY, Crashed, CrashingStore, Mode, modes_of
from faults.scenarios import SCHEMA, Scenario, State, append, columns, copy_of, create, leftovers, look, memory_store

import chunkstore as cs
from chunkstore.errors import ChunkstoreError, DatasetExists, SchemaError
from chunkstore.format import paging
from chunkstore.store.interface import Store
from chunkstore.store.local import LocalStore


def begin_two(store: Store) -> None:
    create(store)
    append(store, range(5, 8))


def tag(store: Any) -> None:
    cs.tag(store, "v2", 2)


def begin_wasteful(store: Any) -> None:
    """A version that is rolled back and one that is tagged, and what a writer left that died in its commit."""
    begin_two(store)
    cs.rollback(store, 1)
    cs.tag(store, "first", 1)
    append(store, range(12, 14))
    with pytest.raises(Crashed):
        append(CrashingStore(store, at=30), range(90, 95))
    assert leftovers(store)


def add_fields(store: Any) -> None:
    with cs.add_fields(store, {"y": cs.Array("int32")}, num_threads=1) as writer:
        writer.write_batch({"y": np.arange(len(cs.open(store)), dtype="i4")})


def write_fragment(store: Any, values: range = range(30, 33)) -> str:
    """What a writer leaves, as it would travel to who commits."""
    with cs.fragment(store, SCHEMA, num_threads=1) as writer:
        writer.write_batch(columns(values))
    return writer.result.to_json()


def commit_fragments(store: Any, *results: str) -> None:
    cs.commit(store, [cs.FragmentResult.from_json(result) for result in results])


def begin_written(store: Any) -> None:
    """Two writers are done, and nothing is committed yet; what they left lies beside the dataset."""
    begin_two(store)
    store.write("results", json.dumps([write_fragment(store), write_fragment(store, range(40, 41))]).encode())


def commit_written(store: Any) -> None:
    commit_fragments(store, *json.loads(store.read("results")))


def collect(store: Any) -> None:
    cs.gc(store, keep_versions=1, orphan_age_s=0)


def roll_back(store: Any) -> None:
    cs.rollback(store, 1)


SCENARIOS = [
    Scenario("create", lambda store: None, create, refused=DatasetExists),
    Scenario("append", begin_two, lambda store: append(store, range(20, 23))),
    Scenario("tag", begin_two, tag, repeats=True),
    Scenario("rollback", begin_two, roll_back),
    Scenario("gc", begin_wasteful, collect, repeats=True),
    Scenario("add fields", begin_two, add_fields, refused=SchemaError),
    Scenario("commit", begin_written, commit_written, repeats=True),
    Scenario("fragment", begin_two, lambda store: commit_fragments(store, write_fragment(store))),
    Scenario("compact", begin_two, cs.compact, repeats=True),
    Scenario("commit in pages", begin_written, commit_written, repeats=True, paged=True),
    Scenario("gc in pages", begin_wasteful, collect, repeats=True, paged=True),
]


def finish(scenario: Scenario, old: State, new: State, store: Store, error: BaseException | None, told: str) -> None:
    """Look at what a run left behind, do it again as its user would, and look again."""
    found = look(store)
    assert found in (old, new), told
    if error is None:
        assert found == new, f"{told}: was said to be done, and is not"
    elif found == new and not scenario.repeats and not isinstance(error, Crashed):
        assert re.search("may yet arrive|may or may not", str(error)), (
            f"{told}: was done, and the error does not say that it may have been: {error}"
        )
    if found == old or scenario.repeats:
        scenario.run(store)
    elif scenario.refused is not None:
        with pytest.raises(scenario.refused):
            scenario.run(store)
    found = look(store)
    # gc that died may have more to give up the second time: what its own commit left
    there = found == new or (scenario.run is collect and found.same_contents(new) and found.tags == new.tags)
    assert there, f"{told}: doing it again does not lead there"
    if isinstance(error, Crashed):
        assert cs.verify(store, num_threads=1).ok, told  # type: ignore[arg-type]
        cs.gc(store, orphan_age_s=0)  # type: ignore[arg-type]
        assert not leftovers(store), told
        assert cs.gc(store, orphan_age_s=0).committed is None, told  # type: ignore[arg-type]
        assert look(store).same_contents(new)


def operations(scenario: Scenario, before: Store, into: Store) -> tuple[list[tuple[str, str]], State, State]:
    """What a run does when nothing happens, and what is seen before and after it."""
    old = look(before)
    watched = CrashingStore(copy_of(before, into))
    scenario.run(watched)
    return [(o.name, o.key) for o in watched.operations], old, look(watched.inner)


def run_once(scenario: Scenario, store: Store, at: int, mode: Mode) -> tuple[CrashingStore, BaseException | None]:
    crashing = CrashingStore(store, at=at, mode=mode)
    error: BaseException | None = None
    try:
        scenario.run(crashing)
    except (Crashed, ChunkstoreError) as caught:
        error = caught
    crashing.arrive()
    return crashing, error


@pytest.fixture(params=SCENARIOS, ids=str)
def scenario(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Scenario:
    chosen: Scenario = request.param
    if chosen.paged:
        monkeypatch.setattr(paging, "INLINE_NBYTES", 0)
        monkeypatch.setattr(paging, "INLINE_CONDEMNED_NBYTES", 0)
    return chosen


def test_whatever_happens_at_any_operation_leaves_the_old_or_the_new(scenario: Scenario) -> None:
    before = memory_store()
    scenario.begin(before)
    names, old, new = operations(scenario, before, memory_store())
    happened: Counter[str] = Counter()
    for at, (name, key) in enumerate(names):
        for mode in modes_of(name, key):
            store = copy_of(before, memory_store())
            crashing, error = run_once(scenario, store, at, mode)
            told = f"{scenario}: operation {at} of {len(names)}, {mode}: {crashing.struck}"
            assert crashing.struck is not None, told
            assert isinstance(error, Crashed) or mode not in DEADLY, told
            finish(scenario, old, new, store, error, told)
            happened[mode] += 1
    assert happened["before"] == len(names)
    assert happened["lost"] > 0


def test_a_process_that_dies_leaves_the_old_or_the_new_on_a_disk_too(scenario: Scenario, tmp_path: Path) -> None:
    """At a few operations: that the others are the same here, SIGKILLs show."""
    before = memory_store()
    scenario.begin(before)
    names, old, new = operations(scenario, before, memory_store())
    for number, at in enumerate(range(0, len(names), max(1, len(names) // 3))):
        mode: Mode = ("before", "after", "middle")[number % 3]
        store = copy_of(before, LocalStore(tmp_path / str(at)))
        _, error = run_once(scenario, store, at, mode)
        finish(scenario, old, new, store, error, f"{scenario}: operation {at}, {mode}")
