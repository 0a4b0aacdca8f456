"""What users choose samples by, made into indices: an integer, a slice, a list, a mask.

Says what is wrong with anything else, and reads nothing. Before it the user's key, after it `reading/dataset.py` and
`reading/field_view.py`.
"""

import operator
from typing import Any

import numpy as np

from chunkstore.plan.reads import Ints
from chunkstore.plan.selection import brief


def is_integer(key: Any) -> bool:
    """Whether it is one integer, as NumPy takes it for an index; a bool is none."""
    return hasattr(key, "__index__") and not isinstance(key, (bool, np.bool_)) and np.ndim(key) == 0


def checked_version(version: Any) -> int:
    """A version's number as an int.

    Raises:
        ValueError: it is none.
    """
    if not is_integer(version):
        raise ValueError(f"version={version!r}: the number of a version is needed, an integer; a tag goes to tag=")
    return operator.index(version)


def indices_of(key: Any, num_samples: int) -> Ints:
    """Indices in [0, num_samples) of what a key chooses: int64 (samples,), new.

    Args:
        key: An integer, a slice, a list of integers or a mask (num_samples,); negative ones count from the end.
        num_samples: That there are.

    Raises:
        IndexError: a sample is not there, or the key is none of these.
    """
    if isinstance(key, slice):
        return np.arange(*key.indices(num_samples), dtype=np.int64)
    if is_integer(key) and not -num_samples <= operator.index(key) < num_samples:
        raise IndexError(f"sample {key} of a dataset of {num_samples}")
    try:
        indices = np.asarray([key] if is_integer(key) else key)
    except ValueError:  # lists of different lengths in each other
        raise IndexError(f"samples are chosen by a list of integers or a mask, not by {brief(key)}") from None
    if indices.dtype == bool:
        if indices.shape != (num_samples,):
            raise IndexError(f"a mask of shape {indices.shape} for {num_samples} samples")
        return np.flatnonzero(indices).astype(np.int64)
    if indices.size == 0:
        return np.empty(0, np.int64)
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise IndexError(
            f"samples are chosen by an integer, a slice, a list of integers or a mask of bool, not by {brief(key, indices)}"
        )
    if indices.min() < -num_samples or indices.max() >= num_samples:
        bad = indices[(indices < -num_samples) | (indices >= num_samples)][0]
        raise IndexError(f"sample {bad} of a dataset of {num_samples}")
    indices = indices.astype(np.int64)
    return np.where(indices < 0, indices + num_samples, indices)
