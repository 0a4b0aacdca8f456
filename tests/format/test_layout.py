"""Chunks, shards and blocks are powers of two that nest, near the sizes meant, whatever the rows are."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkstore.errors import SchemaError
from chunkstore.format.layout import (
    BLOCK_NBYTES,
    CHUNK_NBYTES,
    LARGE_SAMPLE_NBYTES,
    MAX_SHARD_CHUNKS,
    SHARD_NBYTES,
    ceil_power_of_two,
    floor_power_of_two,
    nearest_power_of_two,
    plan_block_rows,
    plan_grid,
)

SHAPES = st.lists(st.integers(0, 5000), max_size=3).map(tuple).filter(lambda s: math.prod(s) < 1 << 26)


def is_power_of_two(n: int) -> bool:
    return n >= 1 and n & (n - 1) == 0


@given(SHAPES, st.sampled_from([1, 2, 4, 8]))
def test_chunks_and_shards_nest_and_hold_about_what_is_meant(shape: tuple[int, ...], itemsize: int) -> None:
    grid = plan_grid(shape, itemsize)
    row_nbytes = math.prod(shape) * itemsize
    assert is_power_of_two(grid.chunk[0])
    assert is_power_of_two(grid.shard[0])
    assert all(s % c == 0 and c >= 1 for s, c in zip(grid.shard, grid.chunk, strict=True))
    assert all(s >= n for s, n in zip(grid.shard[1:], shape, strict=True))  # whole rows
    assert math.prod(grid.chunk) * itemsize <= max(CHUNK_NBYTES, LARGE_SAMPLE_NBYTES)
    if 0 < row_nbytes <= CHUNK_NBYTES:
        assert math.prod(grid.chunk) * itemsize > CHUNK_NBYTES / 2
        assert SHARD_NBYTES / 2 < grid.shard[0] * row_nbytes <= SHARD_NBYTES
    if row_nbytes > LARGE_SAMPLE_NBYTES:
        assert grid.chunk[0] == 1
        assert math.prod(grid.chunk) * itemsize <= CHUNK_NBYTES
    assert math.prod(s // c for s, c in zip(grid.shard, grid.chunk, strict=True)) <= MAX_SHARD_CHUNKS


def test_what_is_insisted_on_is_taken() -> None:
    assert plan_grid((10, 9), 2, chunk=(4, 3, 50), shard=8).chunk == (4, 3, 9)
    assert plan_grid((10, 9), 2, chunk=(4, 3, 50), shard=8).shard == (8, 12, 9)
    assert plan_grid((), 4, chunk=16, shard=64).shard == (64,)
    assert plan_grid((), 4, chunk=16, shard=4).shard == (16,)  # a shard holds at least one chunk


def test_chunks_that_cannot_be_stored_are_refused() -> None:
    with pytest.raises(SchemaError, match="at most"):
        plan_grid((1024,), 4, chunk=1 << 20)
    with pytest.raises(SchemaError, match="chunks in a shard"):
        plan_grid((), 1, chunk=1, shard=1 << 20)


@given(st.integers(1, 1 << 40), st.integers(0, 1 << 50))
def test_a_block_holds_about_what_is_meant(num_samples: int, nbytes: int) -> None:
    rows = plan_block_rows(num_samples, nbytes)
    assert is_power_of_two(rows)
    if rows > 1 and nbytes:
        assert BLOCK_NBYTES / 1.5 <= rows * nbytes / num_samples <= BLOCK_NBYTES * 1.5 or rows == 1 << 40


def test_blocks_of_no_samples_and_of_a_size_insisted_on() -> None:
    assert plan_block_rows(0, 0) == 1
    assert plan_block_rows(1000, 1000 * 1000, block_nbytes=16_000) == 16


@given(st.integers(1, 1 << 60))
def test_powers_of_two(n: int) -> None:
    low, high = floor_power_of_two(n), ceil_power_of_two(n)
    assert low <= n <= high
    assert high in (low, 2 * low)
    assert nearest_power_of_two(float(min(n, 1 << 39))) in (
        floor_power_of_two(min(n, 1 << 39)),
        ceil_power_of_two(min(n, 1 << 39)),
    )
    assert nearest_power_of_two(0.3) == nearest_power_of_two(0.0) == 1
