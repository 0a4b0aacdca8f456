"""Selections, splits and boxes give what NumPy would, and never depend on how they were asked for."""

import hashlib
import re
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkstore.plan import selection as module
from chunkstore.plan import view as views
from chunkstore.plan.boxes import as_slices, slice_axes, whole_axes
from chunkstore.plan.selection import (
    BLOCK,
    Bitmap,
    Listed,
    SelectionWriter,
    compose,
    digest,
    select_intervals,
    selection_of_mask,
    selection_of_positions,
)
from chunkstore.plan.split import part_of_samples, split_thresholds

shares = st.sampled_from([0.0, 0.003, 0.1, 0.5, 0.97, 1.0])
sizes = st.sampled_from([0, 1, 7, 8, 9, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 5 * BLOCK + 77])
seeds = st.integers(0, 2**32 - 1)


def random_mask(n, share, seed):
    return np.random.default_rng(seed).random(n) < share


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch):
    """So that small selections have many stretches, which are 2^20 positions long in earnest."""
    monkeypatch.setattr(module, "AT_ONCE", 2 * BLOCK)
    monkeypatch.setattr(module, "_DIGEST_BLOCK", 2 * BLOCK)


@settings(max_examples=60, deadline=None)
@given(sizes, shares, seeds)
def test_selected_samples_are_where_numpy_finds_them(n, share, seed):
    rng = np.random.default_rng(seed)
    mask = random_mask(n, share, seed)
    positions = np.flatnonzero(mask)
    listed = Listed(n, positions)
    writer = SelectionWriter(n)
    writer.append(mask)
    for selection in (selection_of_mask(mask), selection_of_positions(positions, n), listed, writer.finish()):
        assert (len(selection), selection.num_positions) == (len(positions), n)
        indices = rng.integers(0, len(positions), 50) if len(positions) else np.empty(0, np.int64)
        assert np.array_equal(selection.select(indices), positions[indices])
        start, stop = sorted(rng.integers(0, len(positions) + 1, 2).tolist())
        assert np.array_equal(selection.select_range(start, stop), positions[start:stop])
        edges = np.sort(rng.integers(0, n + 1, 20))
        assert np.array_equal(selection.count_before(edges), np.searchsorted(positions, edges))
        assert np.array_equal(selection.mask(0, n), mask)
        assert selection.select(indices).dtype == selection.select_range(start, stop).dtype == np.int64


@settings(max_examples=60, deadline=None)
@given(sizes, shares, shares, seeds)
def test_a_selection_of_a_selection_is_what_masking_twice_gives(n, outer_share, inner_share, seed):
    outer = random_mask(n, outer_share, seed)
    inner = random_mask(int(outer.sum()), inner_share, seed + 1)
    expected = np.flatnonzero(outer)[inner]
    both = compose(selection_of_mask(outer), selection_of_mask(inner))
    assert both.num_positions == n
    assert np.array_equal(both.select_range(0, len(both)), expected)
    assert digest(both) == digest(selection_of_positions(expected, n))


@settings(max_examples=60, deadline=None)
@given(sizes, shares, seeds, st.sampled_from([1, 5, 200]))
def test_intervals_of_samples_become_intervals_of_positions(n, share, seed, longest):
    mask = random_mask(n, share, seed)
    selection, positions = selection_of_mask(mask), np.flatnonzero(mask)
    rng = np.random.default_rng(seed)
    edges = np.unique(np.minimum(np.cumsum(rng.integers(1, longest + 1, 40)), len(positions)))
    intervals = np.stack([edges[:-1], edges[1:]], axis=1)[::2] if len(edges) > 1 else np.empty((0, 2), np.int64)
    found = select_intervals(selection, intervals)
    wanted = [positions[start:stop] for start, stop in intervals.tolist()]
    assert [p for start, stop in found.tolist() for p in range(start, stop)] == [p for part in wanted for p in part]
    assert (found[1:, 0] > found[:-1, 1]).all()  # what follows on is one interval


def test_memory_is_a_bit_a_position_or_less():
    n = 1 << 20
    for share in (0.0, 1e-4, 0.01, 0.02, 0.5, 1.0):
        mask = random_mask(n, share, 3)
        selection = selection_of_mask(mask)
        assert selection.nbytes <= n / 8 * 1.07
        assert selection.nbytes <= 8 * mask.sum() or isinstance(selection, Bitmap)
        assert isinstance(selection, Listed) == (8 * mask.sum() <= n / 8 * 1.07)


def test_making_a_selection_takes_little_more_memory_than_it_holds(monkeypatch):
    """A mask is looked at stretch by stretch: no list of all positions stands beside a bitmap."""
    lengths = []
    real = np.packbits
    monkeypatch.setattr(np, "packbits", lambda a, **options: (lengths.append(len(a)), real(a, **options))[1])
    selection_of_mask(np.ones(10 * BLOCK, bool))
    assert max(lengths) == 2 * BLOCK


def digest_by_the_specification(positions):
    """docs/spec/order.md, section "Views", word for word."""
    hashed = hashlib.sha256()
    block_of = np.asarray(positions, np.int64) // 65536
    for block in np.unique(block_of).tolist():
        offsets = np.asarray(positions)[block_of == block] % 65536
        hashed.update(block.to_bytes(8, "little") + len(offsets).to_bytes(4, "little"))
        if len(offsets) <= 4096:
            hashed.update(b"".join(int(o).to_bytes(2, "little") for o in offsets))
        else:
            bits = bytearray(8192)
            for offset in offsets.tolist():
                bits[offset // 8] |= 1 << offset % 8
            hashed.update(bytes(bits))
    return hashed.hexdigest()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.06, 0.063, 0.5])
def test_digests_are_those_of_the_specification(monkeypatch, share):
    monkeypatch.undo()
    mask = random_mask(200_000, share, 1)
    mask[65536:131072] = False
    positions = np.flatnonzero(mask)
    expected = digest_by_the_specification(positions)
    assert digest(selection_of_mask(mask)) == digest(Listed(200_000, positions)) == expected
    mask[7] ^= True
    assert digest(selection_of_mask(mask)) != expected


MASK_64 = (1 << 64) - 1


def mix(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK_64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK_64
    return x ^ (x >> 31)


def key(*words):
    folded = 0
    for word in words:
        folded = mix((folded ^ word) + 0x9E3779B97F4A7C15 & MASK_64)
    return folded


def part_by_the_specification(sample_id, fractions, seed):
    """docs/spec/order.md, section "Split", in Python's integers."""
    total = Fraction(0)
    for number, fraction in enumerate(fractions):
        total += Fraction(fraction)
        if key(6, seed, sample_id) >> 16 < (total * 2**48 + Fraction(1, 2)).__floor__():
            return number
    return len(fractions)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, MASK_64), min_size=1, max_size=20),
    st.lists(st.floats(0, 0.2), min_size=1, max_size=5),
    st.integers(0, MASK_64),
)
def test_parts_are_those_of_the_specification(ids, fractions, seed):
    thresholds = split_thresholds({str(i): fraction for i, fraction in enumerate(fractions)})
    found = part_of_samples(np.array(ids, np.uint64), thresholds, seed).tolist()
    assert found == [part_by_the_specification(sample_id, fractions, seed) for sample_id in ids]


def test_vectors_and_digest_of_the_specification_hold(monkeypatch):
    monkeypatch.undo()
    text = (Path(__file__).parents[2] / "docs/spec/order.md").read_text("utf-8")
    table = re.findall(r"^\| ([0-9^]+) \| `([0-9a-f]{12})` \| (\w+) \|$", text, re.MULTILINE)
    fractions = {"train": 0.9, "val": 0.1}
    thresholds = split_thresholds(fractions)
    assert [f"{threshold:x}" for threshold in thresholds] == ["e66666666666", "1000000000000"]
    assert len(table) == 6
    for written, word, part in table:
        sample_id = int(written) if "^" not in written else 1 << int(written.split("^")[1])
        assert f"{key(6, 0, sample_id) >> 16:012x}" == word
        assert list(fractions)[part_of_samples(np.array([sample_id], np.uint64), thresholds, 0)[0]] == part
    example = re.search(r"positions 0, 3 and 70000[^`]*`([0-9a-f]{64})`", text)
    assert example is not None
    assert (
        digest(Listed(100_000, np.array([0, 3, 70_000]))) == example[1] == digest_by_the_specification([0, 3, 70_000])
    )


def test_a_sample_whose_hash_is_a_threshold_belongs_to_the_part_after_it():
    word = key(6, 9, 5) >> 16
    ids = np.array([5], np.uint64)
    assert part_of_samples(ids, [word, 1 << 48], 9).tolist() == [1]
    assert part_of_samples(ids, [word + 1, 1 << 48], 9).tolist() == [0]


def test_fractions_that_are_meant_to_be_one_are_one():
    for fractions in ([0.9, 0.1], [0.7, 0.2, 0.1], [1 / 3] * 3, [1 / 49] * 49, [0.1] * 10, [1.0], [1]):
        assert split_thresholds({str(i): f for i, f in enumerate(fractions)})[-1] == 1 << 48
    assert split_thresholds({"a": np.float32(0.5), "b": 0}) == [1 << 47, 1 << 47]


@pytest.mark.parametrize(
    "fractions",
    [
        {},
        {"a": 0.9, "b": 0.2},
        {"a": -0.1},
        {"a": 1.0001},
        {"a": float("nan")},
        {"a": "x"},
        {"a": None},
        [0.5, 0.5],
        0.5,
    ],
)
def test_fractions_that_are_none_are_refused(fractions):
    with pytest.raises(ValueError, match="fraction"):
        split_thresholds(fractions)


@pytest.mark.parametrize("seed", [-1, 1 << 64])
def test_seeds_outside_a_word_are_refused(seed):
    with pytest.raises(ValueError, match="seed"):
        part_of_samples(np.zeros(1, np.uint64), [1], seed)


slices = st.builds(slice, *[st.none() | st.integers(-9, 9)] * 2, st.none() | st.integers(1, 4))


@given(st.lists(st.integers(0, 7), min_size=1, max_size=3), st.data())
def test_slices_upon_slices_are_what_numpy_gives(shape, data):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    axes, expected = whole_axes(tuple(shape)), array
    for _ in range(3):
        key = data.draw(st.lists(slices, max_size=len(shape)))
        if data.draw(st.booleans()):
            key.insert(data.draw(st.integers(0, len(key))), ...)
        axes, expected = slice_axes("x", axes, tuple(key)), expected[tuple(key)]
        assert np.array_equal(array[as_slices(axes)], expected)
    assert tuple(len(axis) for axis in axes) == expected.shape


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (3, r"3 is no slice, and a view keeps all axes; for index 3 alone take slice\(3, 3 \+ 1\)"),
        ((slice(None), [1, 2]), "is no slice"),
        (slice(None, None, -1), "steps of at least 1"),
        (slice(None, None, 0), "steps of at least 1"),
        (slice(0.5, 2), "integers or None"),
        ((..., ...), "more than one Ellipsis"),
        ((slice(None),) * 3, r"3 slices for samples of shape \(4, 5\)"),
    ],
)
def test_what_is_no_slice_is_refused_by_name(key, told):
    with pytest.raises(ValueError, match=f"field 'volume'.*{told}"):
        slice_axes("volume", whole_axes((4, 5)), key)


class _Counted(tuple):
    """Fragments that count how often they are gone through."""

    passes: ClassVar[list[int]] = []

    def __iter__(self):
        self.passes.append(1)
        return super().__iter__()


def test_ids_of_many_stretches_go_through_the_fragments_once(monkeypatch):
    monkeypatch.setattr(views, "AT_ONCE", BLOCK)
    fragments = _Counted(SimpleNamespace(samples=700, first=10_000 * i) for i in range(20))
    view = views.View(fragments, {})
    passes = len(fragments.passes)
    parts = view.split({"a": 0.5, "b": 0.5}, seed=0)
    assert len(fragments.passes) == passes
    ids = [parts[name].ids(parts[name].positions(np.arange(len(parts[name])))) for name in "ab"]
    expected = np.concatenate([10_000 * i + np.arange(700) for i in range(20)])
    assert np.array_equal(np.sort(np.concatenate(ids)), expected.astype(np.uint64))
