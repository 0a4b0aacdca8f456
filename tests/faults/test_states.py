"""Everything that can be done to a dataset, in any order, dying anywhere: what is read equals a plain model.

`pytest tests/faults/test_states.py --hypothesis-profile=long` runs for as long as one likes to wait.
"""

import os
import secrets
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from crashing_store import Crashed, CrashingStore, Mode
from faults.scenarios import copy_of, leftovers, memory_store
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import chunkstore as cs
from chunkstore.errors import CommitConflict, StoreError, VersionExpired
from chunkstore.history.commit import read_latest

FIELDS: dict[str, Any] = {
    "x": cs.Array("int64"),
    "name": cs.Bytes(),
    "y": cs.Array("float32", (2,)),
    "text": cs.Text(),
    "r": cs.Ragged("int16", (None, 2)),
}
VALUES: dict[str, Callable[[int], Any]] = {
    "x": lambda n: n,
    "name": lambda n: f"sample {n}".encode() * (n % 3),
    "y": lambda n: np.array([n, -n], np.float32),
    "text": lambda n: f"{n}ü" * (n % 4),
    "r": lambda n: np.full((n % 4, 2), n, np.int16),
}
FIRST_FIELDS = ("x", "name")


@dataclass(frozen=True)
class VersionModel:
    """A version: its fields, and of each sample its id and the number of which its values are made."""

    fields: tuple[str, ...]
    samples: tuple[tuple[int, int], ...]

    def column(self, name: str, positions: Any) -> list[Any]:
        return [_plain(VALUES[name](self.samples[at][1])) for at in positions]


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


PLACES = st.one_of(st.just(-2), st.integers(-4, -1), st.integers(-12, 40))
MODES = st.sampled_from(["lost", "before", "middle", "after", "refused", "latest"])
CRASHES = st.one_of(st.tuples(PLACES, MODES), st.tuples(PLACES, MODES), st.none())
"""At which operation what happens; counted from the last one where negative: there is the hint, and before it the commit."""
Crash = tuple[int, Mode] | None


def numbers(name: str, kind: str, model: VersionModel) -> Any:
    """What the statistics of a field are of, by the model."""
    values = [VALUES[name](value) for _, value in model.samples]
    if kind == "lengths":
        return np.array(
            [len(v.encode()) if isinstance(v, str) else np.size(v) if name == "r" else len(v) for v in values]
        )
    return np.concatenate([np.ravel(v) for v in values]) if values else np.array([])


def check_statistics(statistics: Any, expected: Any) -> None:
    assert statistics.count == expected.size
    if expected.size:
        assert (statistics.min, statistics.max) == (expected.min(), expected.max())
        assert np.isclose(statistics.mean, expected.mean(dtype=np.float64), rtol=1e-9, atol=1e-9)
    else:
        assert statistics.min is statistics.max is statistics.mean is None


class Datasets(RuleBasedStateMachine):
    """A dataset and its model."""

    def __init__(self) -> None:
        super().__init__()
        self.store: Any = memory_store()
        self.versions: dict[int, VersionModel] = {}
        self.tags: dict[str, int] = {}
        self.next_id = self.next_value = 0

    @property
    def latest(self) -> int:
        return max(self.versions, default=0)

    @initialize(count=st.integers(0, 4), crash=CRASHES)
    def create(self, count: int, crash: Crash) -> None:
        def run(store: Any) -> None:
            self.write(cs.create(store, {name: FIELDS[name] for name in FIRST_FIELDS}, num_threads=1), count)

        self.act(run, self.extended(VersionModel(FIRST_FIELDS, ()), count), crash)
        if not self.versions:
            self.act(run, self.extended(VersionModel(FIRST_FIELDS, ()), count), None)

    @rule(count=st.integers(1, 5), crash=CRASHES)
    def append(self, count: int, crash: Crash) -> None:
        self.act(
            lambda store: self.write(cs.append(store, num_threads=1), count),
            self.extended(self.versions[self.latest], count),
            crash,
        )

    @rule(counts=st.lists(st.integers(1, 3), min_size=1, max_size=3), crash=CRASHES)
    def commit_fragments(self, counts: list[int], crash: Crash) -> None:
        results, expected = [], self.versions[self.latest]
        begin = self.next_value
        for count in counts:
            writer = cs.fragment(self.store, num_threads=1)
            self.write(writer, count)
            results.append(cs.FragmentResult.from_json(writer.result.to_json()))
            self.next_value += count
        self.next_value = begin
        expected = self.extended(expected, sum(counts))
        self.act(lambda store: cs.commit(store, results), expected, crash)
        if self.versions[self.latest] != expected:
            self.act(lambda store: cs.commit(store, results), expected, None)
        assert cs.commit(self.store, results) == self.latest  # again, which adds nothing

    @rule(name=st.sampled_from(["y", "text", "r"]), crash=CRASHES)
    def add_field(self, name: str, crash: Crash) -> None:
        old = self.versions[self.latest]
        if name in old.fields:
            with pytest.raises(cs.SchemaError):
                cs.add_fields(self.store, {name: FIELDS[name]})
            return

        def run(store: Any) -> None:
            with cs.add_fields(store, {name: FIELDS[name]}, num_threads=1) as writer:
                for _, value in old.samples:
                    writer.write({name: VALUES[name](value)})

        self.act(run, replace(old, fields=(*old.fields, name)), crash)

    @rule(size=st.sampled_from([1, 200, 1 << 20]), crash=CRASHES)
    def compact(self, size: int, crash: Crash) -> None:
        self.act(
            lambda store: cs.compact(store, target_nbytes=size, num_threads=1),
            self.versions[self.latest],
            crash,
            may_be_none=True,
        )

    @rule(data=st.data(), crash=CRASHES)
    def roll_back(self, data: st.DataObject, crash: Crash) -> None:
        number = data.draw(st.sampled_from(sorted(self.versions)))
        self.act(lambda store: cs.rollback(store, number), self.versions[number], crash)

    @rule(data=st.data(), name=st.sampled_from(["a", "b", "c"]), crash=CRASHES)
    def tag(self, data: st.DataObject, name: str, crash: Crash) -> None:
        number = data.draw(st.sampled_from(sorted(self.versions)))
        store, error = self.crashing(lambda store: cs.tag(store, name, number), crash), None
        try:
            cs.tag(store, name, number)  # type: ignore[arg-type]
        except (Crashed, StoreError, CommitConflict) as caught:
            error = caught
        store.arrive()
        found = {tag: line.number for line in cs.versions(self.store) for tag in line.tags or ()}
        if isinstance(error, CommitConflict):
            assert self.tags[name] != number
        elif error is None or found.get(name) != self.tags.get(name):
            assert self.tags.setdefault(name, number) == number
        assert found == self.tags

    @rule(keep=st.one_of(st.none(), st.integers(1, 3)), crash=CRASHES)
    def gc(self, keep: int | None, crash: Crash) -> None:
        before = dict(self.versions)
        self.act(
            lambda store: cs.gc(store, keep_versions=keep, orphan_age_s=0).committed,
            self.versions[self.latest],
            crash,
            may_be_none=True,
        )
        kept = {line.number for line in cs.versions(self.store)}
        gone = before.keys() - kept
        assert kept <= self.versions.keys()
        assert not gone & {*self.tags.values(), max(before)}
        assert keep is not None or not gone
        assert not gone & set(sorted(before)[-(keep or 0) :])
        self.versions = {number: version for number, version in self.versions.items() if number in kept}
        if crash is None and keep is not None:
            rest = [self.versions[number] for number in sorted(kept - set(self.tags.values()))]
            states = sum(a != b for a, b in pairwise(rest)) + bool(rest)
            assert states <= keep
        for number in gone:
            if crash is None:
                with pytest.raises(VersionExpired):
                    cs.open(self.store, version=number)

    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.versions)))
        model = self.versions[number]
        names = data.draw(st.lists(st.sampled_from(model.fields), min_size=1, unique=True))
        ds = cs.open(self.store, version=number).select(*names)
        if model.samples:
            positions = data.draw(st.lists(st.integers(0, len(model.samples) - 1), max_size=6))
            batch = ds[positions]
            for name in names:
                assert [_plain(value) for value in batch[name]] == model.column(name, positions)

    @precondition(lambda self: self.tags)
    @rule(data=st.data())
    def read_by_tag(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.tags)))
        assert cs.open(self.store, tag=name).version == self.tags[name]

    def teardown(self) -> None:
        if not self.versions:
            return
        for number in sorted(self.versions):
            self.check(number)
            assert cs.verify(self.store, version=number, num_threads=1).ok
        cs.gc(self.store, orphan_age_s=0)
        assert cs.gc(self.store, orphan_age_s=0).committed is None
        assert not leftovers(self.store)
        for number in sorted(self.versions):
            self.check(number)

    def check(self, number: int) -> None:
        model, ds = self.versions[number], cs.open(self.store, version=number)
        assert tuple(ds.schema) == model.fields
        fragments = ds.version_document.fragments
        assert [f.first + row for f in fragments for row in range(f.samples)] == [i for i, _ in model.samples]
        batch = ds[:]
        for name in model.fields:
            assert [_plain(value) for value in batch[name]] == model.column(name, range(len(model.samples)))
            for kind, statistics in ds.statistics[name].items():
                check_statistics(statistics, numbers(name, kind, model))

    def write(self, writer: Any, count: int) -> None:
        with writer:
            for value in range(self.next_value, self.next_value + count):
                writer.write({name: VALUES[name](value) for name in writer.schema})

    def extended(self, version: VersionModel, count: int) -> VersionModel:
        added = tuple((self.next_id + i, self.next_value + i) for i in range(count))
        return replace(version, samples=(*version.samples, *added))

    def act(
        self, run: Callable[[Any], Any], expected: VersionModel, crash: Crash, *, may_be_none: bool = False
    ) -> None:
        """Do something that commits `expected`, and find out whether it did where that was not said."""
        old, store, error = self.latest, self.crashing(run, crash), None
        try:
            result = run(store)
        except (Crashed, StoreError) as caught:
            error = caught
        store.arrive()
        try:
            found = read_latest(self.store).number
        except cs.DatasetNotFound:
            found = 0
        assert found in (old, old + 1)
        if error is None:
            assert found == old + 1 or (may_be_none and result is None)
        if found == old + 1:
            self.versions[found] = expected
            self.next_id = max([self.next_id, *(i + 1 for i, _ in expected.samples)])
            self.next_value = max([self.next_value, *(n + 1 for _, n in expected.samples)])
            self.check(found)

    def crashing(self, run: Callable[[Any], Any], crash: Crash) -> CrashingStore:
        """The store, and in it what is to happen."""
        if crash is None:
            return CrashingStore(self.store)
        at, mode = crash
        if at < 0:
            tried = CrashingStore(copy_of(self.store, memory_store()))
            with suppress(CommitConflict):
                run(tried)
            at += tried.count
        return CrashingStore(self.store, at=at, mode=mode)


SHORT = settings(
    max_examples=25, stateful_step_count=16, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
Datasets.TestCase.settings = settings.default if settings.default.max_examples > 100 else SHORT
TestDatasets = Datasets.TestCase


def test_steps_that_nobody_has_tried_yet_lead_nowhere_else(capsys: pytest.CaptureFixture[str]) -> None:
    """A few more, other ones in every run; the seed is printed, and CHUNKSTORE_STATES_SEED brings it back."""
    chosen = int(os.environ.get("CHUNKSTORE_STATES_SEED", secrets.randbits(32)))
    with capsys.disabled():
        sys.stdout.write(f"\nCHUNKSTORE_STATES_SEED={chosen}\n")

    @seed(chosen)
    class Fresh(Datasets):
        pass

    run_state_machine_as_test(Fresh, settings=settings(SHORT, max_examples=6, derandomize=False, database=None))
