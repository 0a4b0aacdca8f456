"""Statistics: whatever the split and the order of merging, counts and histogram are those of the whole."""

import json
import math
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from chunkstore.errors import InvalidDataset
from chunkstore.format.statistics import MAX_BINS, Statistics, bin_exponent, bin_of

INTEGERS = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
FLOATS = ["float16", "float32", "float64"]


def oracle_counts(values: list[int | float], exponent: int, first_bin: int, bins: int) -> list[int]:
    """Bin counts in exact rational arithmetic: n/d / 2^k floored."""
    counts = [0] * bins
    for value in values:
        numerator, denominator = value.as_integer_ratio()
        if exponent >= 0:
            denominator <<= exponent
        else:
            numerator <<= -exponent
        counts[numerator // denominator - first_bin] += 1
    return counts


def finite_numbers(values: np.ndarray) -> list[int | float]:
    if values.dtype.kind in "bui":
        return [int(value) for value in values.ravel()]
    return [float(value) for value in values.ravel() if np.isfinite(value)]


def assert_equal_up_to_rounding(one: Statistics, other: Statistics) -> None:
    left, right = one.to_json(), other.to_json()
    means, m2s = (left.pop("mean"), right.pop("mean")), (left.pop("m2"), right.pop("m2"))
    assert left == right
    if means[0] is None or means[1] is None:
        assert means == (None, None)
        return
    size = max(abs(float(one.min)), abs(float(one.max)))
    assert means[0] == pytest.approx(means[1], rel=1e-12, abs=1e-14 * size + 1e-320)
    if size < 1e150:
        assert m2s[0] == pytest.approx(m2s[1], rel=1e-9, abs=1e-13 * size * size * one.count + 1e-300)


arrays = st.sampled_from(INTEGERS + FLOATS).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=30))
)


@given(arrays)
def test_everything_counted_agrees_with_exact_arithmetic(values):
    taken = Statistics.of(values)
    numbers = finite_numbers(values)
    assert taken.count == values.size
    assert taken.finite == len(numbers) == sum(taken.bin_counts)
    if values.dtype.kind == "f":
        assert taken.nan == np.isnan(values).sum()
        assert (taken.posinf, taken.neginf) == ((values == np.inf).sum(), (values == -np.inf).sum())
    if not numbers:
        assert (taken.min, taken.max, taken.mean, taken.bin_counts) == (None, None, None, ())
        return
    assert (taken.min, taken.max) == (min(numbers), max(numbers))
    assert type(taken.min) is type(taken.max) is type(numbers[0])
    assert len(taken.bin_counts) <= MAX_BINS
    assert list(taken.bin_counts) == oracle_counts(numbers, taken.exponent, taken.first_bin, len(taken.bin_counts))
    assert taken.mean == pytest.approx(
        math.fsum(n / len(numbers) for n in numbers), rel=1e-9, abs=1e-9 * max(map(abs, numbers))
    )


@given(arrays, st.data())
def test_any_split_merged_in_any_order_is_the_whole(values, data):
    flat = values.ravel()
    cuts = sorted(data.draw(st.lists(st.integers(0, flat.size), max_size=5)))
    parts = [Statistics.of(part) for part in np.split(flat, cuts)]
    parts = data.draw(st.permutations(parts))
    pivot = data.draw(st.integers(1, len(parts)))
    left = reduce(Statistics.merge, parts[:pivot])
    right = reduce(Statistics.merge, parts[pivot:], Statistics())
    assert left.merge(right) == right.merge(left)
    assert_equal_up_to_rounding(left.merge(right), Statistics.of(values))


@pytest.mark.parametrize("dtype", ["int64", "uint64", "uint8", "int16", "float16", "float32", "float64"])
def test_blocks_of_a_large_array_are_merged_without_loss(dtype):
    rng = np.random.default_rng(7)
    if dtype.startswith("f"):
        values = rng.normal(3, 1000, 300_001).astype(dtype)
    else:
        values = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, 300_001, dtype=dtype, endpoint=True)
    taken = Statistics.of(values)
    numbers = finite_numbers(values)
    assert list(taken.bin_counts) == oracle_counts(numbers, taken.exponent, taken.first_bin, len(taken.bin_counts))
    exact = values.astype(np.float64)
    assert taken.mean == pytest.approx(exact.mean(), rel=1e-12)
    assert taken.std == pytest.approx(exact.std(), rel=1e-12)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "uint16", "int16", "float16"])
def test_small_types_are_tallied_to_the_same_figures(dtype):
    rng = np.random.default_rng(3)
    size = (1 << 20) + 7
    raw = rng.integers(0, 256, (size, np.dtype(dtype).itemsize), dtype=np.uint8)
    values = raw[:, 0] > 99 if dtype == "bool" else raw.view(dtype)[:, 0]
    assert_equal_up_to_rounding(
        Statistics.of(values), reduce(Statistics.merge, map(Statistics.of, np.array_split(values, 5)))
    )


@given(st.sampled_from([int, float]), st.data())
def test_bin_exponent_is_the_smallest_and_never_falls_when_the_range_grows(kind, data):
    numbers = (
        st.integers(-(1 << 63), (1 << 64) - 1) if kind is int else st.floats(allow_nan=False, allow_infinity=False)
    )
    wide = sorted(data.draw(st.lists(numbers, min_size=2, max_size=4)))
    narrow = wide[1:-1] or wide[:1]
    exponent = bin_exponent(wide[0], wide[-1])
    assert bin_exponent(narrow[0], narrow[-1]) <= exponent
    assert bin_of(wide[-1], exponent) - bin_of(wide[0], exponent) < MAX_BINS
    assert all(abs(bin_of(number, exponent)) <= 1 << 53 for number in wide)
    lowest = 0 if kind is int else -1074
    assert exponent >= lowest
    if exponent > lowest:
        finer = exponent - 1
        too_fine = bin_of(wide[-1], finer) - bin_of(wide[0], finer) >= MAX_BINS
        assert too_fine or any(abs(bin_of(number, finer)) >= 1 << 53 for number in wide)


@pytest.mark.parametrize(
    ("dtype", "smallest", "largest"),
    [("int64", -(1 << 63), (1 << 63) - 1), ("uint64", (1 << 63) + 1, (1 << 64) - 1), ("uint64", 0, (1 << 64) - 1)],
)
def test_extremes_of_64_bit_integers_stay_exact(dtype, smallest, largest):
    taken = Statistics.of(np.array([smallest, largest], dtype=dtype))
    assert (taken.min, taken.max) == (smallest, largest)
    assert Statistics.from_json(json.loads(json.dumps(taken.to_json()))) == taken


@pytest.mark.parametrize("value", [0.0, -0.0, 5e-324, -5e-324, 1.5, 1e308, -1.7e308, 2.0**-1022])
def test_constants_have_one_bin_and_no_spread(value):
    taken = Statistics.of(np.full(1000, value))
    assert (taken.min, taken.max, taken.mean, taken.m2, taken.bin_counts) == (value, value, value, 0.0, (1000,))
    assert taken.merge(taken).m2 == 0.0


def test_negative_subnormals_stay_below_zero_beside_huge_numbers():
    values = np.array([-5e-324, 0.0, 5e-324, 1e308, -1e-310])
    taken = Statistics.of(values)
    assert taken.bin_counts[:2] == (2, 2)
    assert_equal_up_to_rounding(reduce(Statistics.merge, [Statistics.of(values[i : i + 1]) for i in range(5)]), taken)


def test_negative_zero_and_zero_merge_to_one_value_in_both_orders():
    one, other = Statistics.of(np.array([-0.0])), Statistics.of(np.array([0.0]))
    assert math.copysign(1, one.merge(other).min) == math.copysign(1, other.merge(one).min) == 1


def test_moments_beyond_float64_are_null_not_infinite():
    taken = Statistics.of(np.array([1.7e308, -1.7e308, 1.7e308]))
    assert taken.m2 is None
    assert taken.mean == pytest.approx(1.7e308 / 3)
    assert Statistics.of(np.array([1.7e308] * 3)).mean == 1.7e308
    json.dumps(taken.merge(taken).to_json(), allow_nan=False)


def test_nothing_finite_is_counted_without_a_range():
    taken = Statistics.of(np.array([np.nan, np.inf, -np.inf, np.nan], dtype=np.float32))
    assert (taken.count, taken.nan, taken.posinf, taken.neginf, taken.finite) == (4, 2, 1, 1, 0)
    merged = taken.merge(Statistics.of(np.array([2.0, 4.0])))
    assert (merged.count, merged.nan, merged.min, merged.max, merged.mean) == (6, 2, 2.0, 4.0, 3.0)


def test_big_endian_and_strided_input_count_the_same():
    values = np.arange(1000, dtype=np.int32).reshape(20, 50)
    assert Statistics.of(values.astype(">i4")) == Statistics.of(values)
    assert_equal_up_to_rounding(Statistics.of(values[:, ::-1].T), Statistics.of(values))
    floats = values.astype(">f4") / 3
    assert Statistics.of(floats) == Statistics.of(floats.astype("<f4"))


def test_other_dtypes_and_mixed_kinds_are_refused():
    with pytest.raises(ValueError, match="complex"):
        Statistics.of(np.zeros(3, dtype=complex))
    with pytest.raises(ValueError, match="integers and of floats"):
        Statistics.of(np.zeros(3, dtype=int)).merge(Statistics.of(np.zeros(3)))


@given(arrays)
def test_json_carries_every_bit_and_no_nan(values):
    taken = Statistics.of(values)
    assert Statistics.from_json(json.loads(json.dumps(taken.to_json(), allow_nan=False))) == taken


GOOD = Statistics.of(np.array([1.0, 2.5, 70.0, np.nan])).to_json()


@pytest.mark.parametrize(
    "damage",
    [
        {"count": 5},
        {"count": -1},
        {"count": True},
        {"count": 4.0},
        {"nan": 5},
        {"posinf": 1},
        {"min": None},
        {"min": 3},
        {"min": 71.0},
        {"min": float("nan")},
        {"min": "1"},
        {"max": float("inf")},
        {"max": 1 << 70},
        {"mean": 0.5},
        {"mean": None},
        {"m2": -1.0},
        {"m2": float("inf")},
        {"histogram": None},
        {"histogram": {"exponent": 0, "first": 0, "counts": []}},
        {"histogram": {**GOOD["histogram"], "exponent": -3}},
        {"histogram": {**GOOD["histogram"], "first": 7}},
        {"histogram": {**GOOD["histogram"], "first": 1 << 200}},
        {"histogram": {**GOOD["histogram"], "counts": [1] * 3}},
        {"histogram": {**GOOD["histogram"], "counts": [0] * 10**6}},
        {"histogram": {**GOOD["histogram"], "counts": [0, 3] + [0] * 33}},
        {"histogram": {**GOOD["histogram"], "counts": "abc"}},
        {"unknown": 1},
    ],
)
def test_hostile_json_is_an_invalid_dataset(damage):
    assert Statistics.from_json(GOOD)
    with pytest.raises(InvalidDataset, match="statistics"):
        Statistics.from_json({**GOOD, **damage})


@pytest.mark.parametrize("document", [None, [], "x", 3, {}])
def test_what_is_no_object_is_an_invalid_dataset(document):
    with pytest.raises(InvalidDataset):
        Statistics.from_json(document)


def numpy_statistics(values: np.ndarray) -> Statistics:
    """The same by NumPy, in one piece and in no hurry: what the kernel has to agree with."""
    floats = values.astype(np.float64)
    nan, posinf, neginf = (int(s.sum()) for s in (np.isnan(floats), floats == np.inf, floats == -np.inf))
    kept = values[np.isfinite(floats)]
    if not kept.size:
        return Statistics(values.size, nan, posinf, neginf)
    whole = values.dtype.kind != "f"
    smallest, largest = (int(n) if whole else float(n) + 0.0 for n in (kept.min(), kept.max()))
    exponent = bin_exponent(smallest, largest)
    first = bin_of(smallest, exponent)
    counts = oracle_counts(finite_numbers(kept), exponent, first, bin_of(largest, exponent) - first + 1)
    finite = kept.astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        mean = float(np.mean(finite * 2.0**-64)) * 2.0**64
        m2 = float(np.square(finite - mean).sum())
    return Statistics(
        values.size,
        nan,
        posinf,
        neginf,
        smallest,
        largest,
        mean,
        m2 if math.isfinite(m2) else None,
        exponent,
        first,
        tuple(counts),
    )


@pytest.mark.parametrize("dtype", INTEGERS + FLOATS)
@pytest.mark.parametrize("size", [1, 3, 4, 5, 2047, 2048, 2051, 9001])
def test_the_kernel_agrees_with_numpy_whatever_the_length(dtype: str, size: int) -> None:
    rng = np.random.default_rng(size)
    numbers = rng.standard_normal(size) * (1 if dtype == "bool" else 50)
    values = (np.abs(numbers) if dtype[0] in "ub" else numbers).astype(dtype)
    assert_equal_up_to_rounding(Statistics.of(values), numpy_statistics(values))


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_kernel_that_meets_odd_numbers_counts_them_and_leaves_them_out(dtype: str) -> None:
    values = np.random.default_rng(0).standard_normal(5000).astype(dtype)
    for odd in (np.nan, np.inf, -np.inf):
        values[np.random.default_rng(1).integers(0, 5000, 7)] = odd
        assert_equal_up_to_rounding(Statistics.of(values), numpy_statistics(values))


@pytest.mark.parametrize(
    "values",
    [
        np.full(4097, 5.0),
        np.full(4097, -1e300),
        np.nextafter(1e17, 2e17) + np.arange(100.0) * 16,
        np.array([5e-324, -5e-324, 0.0, -0.0, 1e308]),
        np.array([-1.0 / 3, 1e-320, -1e-320, 63.0, -1e-17]),
        np.array([1.5, 2.5, 3.5]) * 2.0**50,
        np.array([0, 2**63, 2**64 - 1], np.uint64),
        np.array([-(2**63), 2**63 - 1, 0, -1], np.int64),
        np.array([0, 2**32 - 1, 2**31], np.uint32),
        np.array([-(2**31), 2**31 - 1, 0, -1], np.int32),
    ],
    ids=str,
)
def test_numbers_at_the_edges_of_bins_and_of_types_are_counted_exactly(values: np.ndarray) -> None:
    assert_equal_up_to_rounding(Statistics.of(values), numpy_statistics(values))


def test_squares_beyond_float64_leave_no_m2() -> None:
    assert Statistics.of(np.array([1e300, -1e300, 1.0])).m2 is None
    assert Statistics.of(np.full(3, 1.7e308)).mean == pytest.approx(1.7e308)
