"""Gathering from columns, against picking samples one by one."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkstore._native import crc32c
from chunkstore.kernels.columns import RaggedColumn, column_nbytes, crc32c_samples, gather, take

SHAPES = st.lists(st.integers(0, 3), max_size=2).map(tuple)
DTYPES = st.sampled_from(["u1", "i2", "f4", "f8", "bool"])


def ragged(lengths: list[int], dtype: str, seed: int, *, shapes: bool) -> RaggedColumn:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    values = np.random.default_rng(seed).integers(0, 2, int(offsets[-1])).astype(dtype)
    return RaggedColumn(
        values, offsets, np.stack([np.ones_like(offsets[1:]), np.diff(offsets)], axis=1) if shapes else None
    )


@st.composite
def picks(draw: st.DrawFn, counts: list[int]) -> tuple[Any, Any]:
    places = [(s, r) for s, count in enumerate(counts) for r in range(count)]
    chosen = draw(st.lists(st.sampled_from(places), max_size=20)) if places else []
    pairs = np.array(chosen, np.int64).reshape(-1, 2)
    return pairs[:, 0].astype(np.int32), np.ascontiguousarray(pairs[:, 1])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), SHAPES, DTYPES, st.data())
def test_arrays_are_gathered_row_by_row(counts: list[int], shape: tuple[int, ...], dtype: str, data: Any) -> None:
    rng = np.random.default_rng(0)
    sources = [rng.integers(0, 2, (count, *shape)).astype(dtype) for count in counts]
    source, row = data.draw(picks(counts))
    gathered = gather(sources, source, row)
    assert isinstance(gathered, np.ndarray)
    assert gathered.dtype == np.dtype(dtype)
    assert gathered.shape == (len(row), *shape)
    for i, (s, r) in enumerate(zip(source, row, strict=True)):
        assert np.array_equal(gathered[i], sources[s][r])


@given(st.lists(st.lists(st.integers(0, 4), max_size=5), min_size=1, max_size=4), DTYPES, st.booleans(), st.data())
def test_ragged_columns_are_gathered_sample_by_sample(
    lengths: list[list[int]], dtype: str, shapes: bool, data: Any
) -> None:
    sources = [ragged(own, dtype, i, shapes=shapes) for i, own in enumerate(lengths)]
    source, row = data.draw(picks([len(own) for own in lengths]))
    gathered = gather(sources, source, row)
    assert isinstance(gathered, RaggedColumn)
    assert len(gathered) == len(row)
    assert gathered.values.dtype == np.dtype(dtype)
    for i, (s, r) in enumerate(zip(source, row, strict=True)):
        expected = sources[s].values[sources[s].offsets[r] : sources[s].offsets[r + 1]]
        assert np.array_equal(gathered.values[gathered.offsets[i] : gathered.offsets[i + 1]], expected)
        if shapes:
            assert gathered.shapes is not None
            assert gathered.shapes[i].tolist() == [1, len(expected)]
    assert (gathered.shapes is not None) == shapes


def test_a_column_may_lie_anyhow_in_memory_and_a_row_outside_is_refused() -> None:
    column = np.arange(12, dtype="f4").reshape(3, 4).T
    assert np.array_equal(take(column, np.array([3, 0])), column[[3, 0]])
    with pytest.raises(ValueError, match="row_index"):
        take(column, np.array([4]))


@pytest.mark.parametrize("dtype", ["u1", "i4"])
def test_crcs_are_of_each_samples_bytes(dtype: str) -> None:
    column = ragged([3, 0, 5, 1], dtype, 0, shapes=False)
    expected = [crc32c(column.values[a:b]) for a, b in [(0, 3), (3, 3), (3, 8), (8, 9)]]
    assert crc32c_samples(column.values, column.offsets).tolist() == expected


def test_the_bytes_of_a_column() -> None:
    assert column_nbytes(np.zeros((3, 2), "i4")) == 24
    assert column_nbytes(ragged([2, 1], "i4", 0, shapes=False)) == 12 + 24
    assert column_nbytes(ragged([2, 1], "i4", 0, shapes=True)) == 12 + 24 + 32
