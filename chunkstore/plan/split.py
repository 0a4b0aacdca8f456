"""Splits: to which part of a dataset a sample belongs, by a keyed hash of its id and by nothing else.

So a sample stays in its part when others are appended, when fragments are compacted, and whichever view is split. Integers only
once the fractions are thresholds: every platform gives the same. Pure. `reading/dataset.py` stands before and after it.

Source: docs/spec/order.md, "Split"; the mixer is that of its section 1.
"""

import operator
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.uint64]

PURPOSE_SPLIT = 6
"""First word of the key; 1 to 5 are those of `plan/lanes.py`."""
THRESHOLD_BITS = 48

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MUL_1 = np.uint64(0xBF58476D1CE4E5B9)
_MUL_2 = np.uint64(0x94D049BB133111EB)


def split_thresholds(fractions: Mapping[str, float]) -> list[int]:
    """Where the parts end, in units of 2^-48, in the order of the mapping.

    Raises:
        ValueError: no part, a fraction that is no number in [0, 1], or fractions that add up to more than 1.
    """
    if not isinstance(fractions, Mapping) or not fractions:
        raise ValueError(f'fractions={fractions!r}: a dict is needed, such as {{"train": 0.9, "val": 0.1}}')
    thresholds = []
    total = Fraction(0)
    for name, fraction in fractions.items():
        try:
            total += Fraction(float(checked_number(fraction)))
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"fraction {fraction!r} of {name!r}: a number from 0 to 1 is needed") from None
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction {fraction!r} of {name!r}: a number from 0 to 1 is needed")
        thresholds.append(int(total * (1 << THRESHOLD_BITS) + Fraction(1, 2)))
    if thresholds[-1] > 1 << THRESHOLD_BITS:
        raise ValueError(f"the fractions {dict(fractions)!r} add up to {float(total)}; at most 1 is needed")
    return thresholds


def checked_number(value: Any) -> Any:
    """The value, unless it is text, of which `float` would make a number.

    Raises:
        TypeError: it is text.
    """
    if isinstance(value, (str, bytes)):
        raise TypeError(f"{value!r} is no number")
    return value


def part_of_samples(ids: Ids, thresholds: list[int], seed: int) -> npt.NDArray[np.intp]:
    """Number of the part of each sample id; `len(thresholds)` for those in none.

    Raises:
        ValueError: the seed is no integer, or lies outside [0, 2^64).
    """
    try:
        seed = operator.index(seed)
    except TypeError:
        raise ValueError(f"seed={seed!r}: an integer in [0, 2^64) is needed") from None
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed={seed} lies outside [0, 2^64)")
    key = np.zeros(1, np.uint64)
    for word in (PURPOSE_SPLIT, seed):
        key = _fold(key, np.array([word], np.uint64))
    hashed = _fold(key, ids) >> np.uint64(64 - THRESHOLD_BITS)
    return np.searchsorted(np.array(thresholds, np.uint64), hashed, side="right")


def _fold(key: Ids, words: Ids) -> Ids:
    return _mix((key ^ words) + _GOLDEN)  # arrays wrap around silently, as the formula wants


def _mix(x: Ids) -> Ids:
    x = (x ^ (x >> np.uint64(30))) * _MUL_1
    x = (x ^ (x >> np.uint64(27))) * _MUL_2
    return x ^ (x >> np.uint64(31))
