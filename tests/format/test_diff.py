"""Differences of versions: sample ids as sets would tell them, fields and statistics by name."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chunkstore as cs
from chunkstore.format.diff import StatisticsChange, diff_versions
from chunkstore.format.versions import Fragment, Part, Version

NONE = cs.Statistics()
TWO = cs.Statistics.of(np.array([1, 2]))


def version(number=1, fragments=(), schema=None, statistics=None):
    schema = schema or cs.Schema({"x": cs.Array("int64")})
    statistics = statistics or {name: {"values": NONE} for name in schema}
    return Version("0" * 32, number, None, "1" * 32, "2026-11-21T12:00:00Z", "", schema, fragments, statistics, 1 << 40)


@st.composite
def histories(draw):
    """Fragments that do not overlap in ids, of which each of two versions has some."""
    first, fragments = 0, []
    for i, (gap, samples) in enumerate(draw(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), max_size=8))):
        fragments.append(Fragment(f"{i:032x}", first + gap, samples, 1, ()))
        first += gap + samples
    chosen = [draw(st.lists(st.sampled_from(fragments), unique=True)) if fragments else [] for _ in range(2)]
    return [tuple(some) for some in chosen]


def ids_of(fragments):
    return {f.first + row for f in fragments for row in range(f.samples)}


@given(histories())
def test_samples_and_fragments_differ_as_sets_of_ids_do(history):
    old, new = history
    found = diff_versions(version(1, old), version(2, new))
    assert (found.old, found.new) == (1, 2)
    for ranges, count, expected in (
        (found.ids_added, found.samples_added, ids_of(new) - ids_of(old)),
        (found.ids_removed, found.samples_removed, ids_of(old) - ids_of(new)),
    ):
        told = [i for ids in ranges for i in ids]
        assert told == sorted(expected)
        assert count == len(expected)
        assert all(ids for ids in ranges)
        assert all(a.stop < b.start for a, b in pairwise(ranges))
    assert found.fragments_added == tuple(f.id for f in new if f not in old)
    assert found.fragments_removed == tuple(f.id for f in old if f not in new)
    assert found.is_empty == (set(old) == set(new))


@given(histories(), st.integers(0, 3))
def test_samples_that_moved_to_another_fragment_are_neither_added_nor_removed(history, where):
    """As compact does: other fragments over the same sample ids."""
    old = tuple(sorted(history[0], key=lambda f: f.first))
    moved = []
    for i, fragment in enumerate(old):
        cut = min(where, fragment.samples - 1)
        pieces = [(fragment.first, cut), (fragment.first + cut, fragment.samples - cut)]
        moved += [Fragment(f"{64 + 2 * i + k:032x}", a, n, 1, ()) for k, (a, n) in enumerate(pieces) if n]
    found = diff_versions(version(1, old), version(2, tuple(moved)))
    assert (found.samples_added, found.samples_removed) == (0, 0)
    assert len(found.fragments_removed) == len(old)
    assert len(found.fragments_added) == len(moved)


def test_ranges_as_long_as_ids_go_cost_nothing():
    huge = Fragment("a" * 32, 0, 1 << 61, 1, ())
    few = Fragment("b" * 32, 1 << 60, 3, 1, ())
    found = diff_versions(version(1, (few,)), version(2, (huge,)))
    assert found.ids_added == (range(1 << 60), range((1 << 60) + 3, 1 << 61))
    assert found.samples_added == (1 << 61) - 3


def test_fields_are_told_by_name():
    old = cs.Schema({"kept": cs.Text(), "gone": cs.Text(), "changed": cs.Array("int8"), "stored": cs.Array("int8")})
    new = cs.Schema(
        {"new": cs.Bytes(), "stored": cs.Array("int8", codec=None), "changed": cs.Array("int16"), "kept": cs.Text()}
    )
    found = diff_versions(version(1, (), old), version(2, (), new))
    assert found.fields_added == ("new",)
    assert found.fields_removed == ("gone",)
    assert found.fields_changed == ("stored", "changed")
    assert found.statistics_changed == ()
    assert not found.is_empty


def test_a_field_in_another_part_of_a_fragment_is_changed():
    schema = cs.Schema({"x": cs.Array("int8"), "y": cs.Array("int8")})

    def added(name):
        parts = [Part(f"fragments/{1:032x}/{part}", (field,), 8, 8, 8, 0) for part, field in (("0", "x"), (name, "y"))]
        return Fragment(f"{1:032x}", 0, 4, 1, tuple(parts))

    old, same, new = (version(i, (added(name),), schema) for i, name in enumerate(("a", "a", "b"), 1))
    assert diff_versions(old, same).is_empty
    found = diff_versions(old, new)
    assert (found.fields_changed, found.fragments_added, found.is_empty) == (("y",), (), False)


def test_statistics_that_changed_are_told_with_both_values():
    schema = cs.Schema({"a": cs.Ragged("int64"), "b": cs.Array("int64")})
    old = version(1, (), schema, {"a": {"values": NONE, "lengths": NONE}, "b": {"values": TWO}})
    new = version(2, (), schema, {"a": {"values": NONE, "lengths": TWO}, "b": {"values": TWO}})
    assert diff_versions(old, new).statistics_changed == (StatisticsChange("a", "lengths", NONE, TWO),)
    assert diff_versions(old, replace(old, number=2)).is_empty


@pytest.mark.parametrize("kinds", [("values", "lengths"), ("lengths", "values")])
def test_a_field_whose_kinds_changed_is_compared_with_nothing(kinds):
    types = {"values": cs.Array("int64"), "lengths": cs.Text()}
    old, new = (version(n, (), cs.Schema({"a": types[kind]}), {"a": {kind: TWO}}) for n, kind in enumerate(kinds, 1))
    assert diff_versions(old, new).statistics_changed == (
        StatisticsChange("a", kinds[0], TWO, NONE),
        StatisticsChange("a", kinds[1], NONE, TWO),
    )
