"""The two passes of statistics: types are told apart, and nothing is taken for a number that is none."""

import numpy as np
import pytest

from chunkstore import _native


def test_a_range_of_floats_leaves_out_what_is_not_finite() -> None:
    values = np.array([np.nan, 3.0, np.inf, -1.0, -np.inf, np.inf], np.float32)
    assert _native.value_range(values) == (1, 2, 1, -1.0, 3.0, 1.0)


def test_a_range_of_integers_is_of_integers() -> None:
    found = _native.value_range(np.array([2**64 - 1, 2**63], np.uint64))
    assert found[3:5] == (2**63, 2**64 - 1)
    assert isinstance(found[3], int)


def test_nothing_has_an_empty_range() -> None:
    assert _native.value_range(np.empty(0, np.float64)) == (0, 0, 0, 0.0, 0.0, 0.0)


def test_a_histogram_counts_what_has_a_bin_and_nothing_else() -> None:
    counts, m2 = _native.histogram(np.array([-8, -1, 0, 7, 8, 1000], np.int16), 0.0, 3, -1.0)
    assert counts[:3] == [2, 2, 1]
    assert sum(counts) == 5
    assert m2 == 64 + 1 + 0 + 49 + 64 + 1e6
    counts, m2 = _native.histogram(np.array([np.nan, 0.5, -0.25, np.inf]), 0.0, -1, -1.0)
    assert (counts[0], counts[2], sum(counts), m2) == (1, 1, 2, 0.3125)


@pytest.mark.parametrize(
    "values", [np.zeros(3, ">f4"), np.zeros(3, bool), np.zeros(3, "f2"), np.zeros(3, "c16")], ids=str
)
def test_other_types_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="neither integers nor float32 or float64"):
        _native.value_range(values)


@pytest.mark.parametrize(("exponent", "first"), [(-1, 0.0), (64, 0.0), (0, float("nan")), (0, 1e30)])
def test_bins_that_no_integers_have_are_refused(exponent: int, first: float) -> None:
    with pytest.raises(ValueError, match="that no numbers have"):
        _native.histogram(np.zeros(3, np.int32), 0.0, exponent, first)
