"""How much goes into a chunk, a shard and a block.

All are powers of two in samples (or values), so they nest. Pure functions of a field's type and the samples seen; the writer
asks once, from its first samples, and records the answer in the metadata, from which readers work.

Source of the sizes: docs/decisions/001-chunk-shard-codec.md, 002-block-window-lanes.md.
"""

import math
from dataclasses import dataclass

from chunkstore.errors import SchemaError
from chunkstore.format.metadata import MAX_CHUNK_NBYTES

CHUNK_NBYTES = 256 << 10
"""Decoded bytes of an inner chunk: what a read of one sample costs, and what a checksum covers."""
SHARD_NBYTES = 128 << 20
"""Decoded bytes of a shard: what an object holds."""
BLOCK_NBYTES = 4 << 20
"""Decoded bytes, over all fields, of a block: what is shuffled, and what one range read fetches."""
LARGE_SAMPLE_NBYTES = 4 << 20
"""A sample larger than this is split over several chunks."""
MAX_SHARD_CHUNKS = 1 << 16
"""Chunks of a shard, so that its index stays below a megabyte or so."""
MAX_ROWS = 1 << 40
"""Rows of a chunk, shard or block."""


@dataclass(frozen=True, slots=True)
class GridShapes:
    """Inner chunk and shard of an array, of equal rank."""

    chunk: tuple[int, ...]
    shard: tuple[int, ...]


def plan_grid(
    row_shape: tuple[int, ...], itemsize: int, *, chunk: int | tuple[int, ...] | None = None, shard: int | None = None
) -> GridShapes:
    """Choose chunk and shard of an array of rows of `row_shape`, or take what is insisted on.

    A shard always holds whole rows. A row of more than `LARGE_SAMPLE_NBYTES` is split into slabs that are contiguous in it.

    Args:
        row_shape: Shape of one row; () for the values of a ragged field.
        itemsize: Bytes of an element.
        chunk: Rows of a chunk, or its full shape.
        shard: Rows of a shard; at least a chunk's are taken.

    Raises:
        SchemaError: a chunk would be too large, or a shard would have too many.
    """
    row_nbytes = (
        math.prod(max(1, n) for n in row_shape) * itemsize
    )  # of an empty row too: its chunks are allocated by readers
    if isinstance(chunk, tuple):
        rows, row_chunk = chunk[0], tuple(min(c, max(1, n)) for c, n in zip(chunk[1:], row_shape, strict=True))
    else:
        rows = chunk or min(floor_power_of_two(max(1, CHUNK_NBYTES // row_nbytes)), shard or MAX_ROWS)
        row_chunk = (
            _row_slab(row_shape, itemsize) if row_nbytes > LARGE_SAMPLE_NBYTES else tuple(max(1, n) for n in row_shape)
        )
    whole_row = tuple(-(-max(1, n) // c) * c for n, c in zip(row_shape, row_chunk, strict=True))
    columns = math.prod(n // c for n, c in zip(whole_row, row_chunk, strict=True))
    most_rows = rows * floor_power_of_two(max(1, MAX_SHARD_CHUNKS // columns))
    rows_of_shard = max(rows, shard or min(floor_power_of_two(max(1, SHARD_NBYTES // row_nbytes)), most_rows))
    if (chunk_nbytes := rows * math.prod(row_chunk) * itemsize) > MAX_CHUNK_NBYTES:
        raise SchemaError(
            f"a chunk of {chunk_nbytes:,} bytes; at most {MAX_CHUNK_NBYTES:,} can be stored: give a smaller chunk="
        )
    if (num_chunks := rows_of_shard // rows * columns) > MAX_SHARD_CHUNKS:
        raise SchemaError(
            f"{num_chunks:,} chunks in a shard; at most {MAX_SHARD_CHUNKS:,} are written: give a larger chunk="
        )
    return GridShapes((rows, *row_chunk), (rows_of_shard, *whole_row))


def plan_block_rows(num_samples: int, nbytes: int, *, block_nbytes: int | None = None) -> int:
    """Samples of a block of a fragment that holds `num_samples` of together `nbytes` decoded bytes: a power of two."""
    if num_samples == 0:
        return 1
    return nearest_power_of_two((block_nbytes or BLOCK_NBYTES) * num_samples / max(1, nbytes))


def floor_power_of_two(n: int) -> int:
    """The largest power of two ≤ n, for n ≥ 1."""
    return 1 << (n.bit_length() - 1)


def ceil_power_of_two(n: int) -> int:
    """The smallest power of two ≥ n, for n ≥ 1."""
    return 1 << (n - 1).bit_length()


def nearest_power_of_two(x: float) -> int:
    """The power of two nearest to x by ratio; 1 for what is below, at most 2^40."""
    return min(MAX_ROWS, 1 << max(0, round(math.log2(x)))) if x > 0 else 1


def _row_slab(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    slab = [1] * len(shape)
    left = CHUNK_NBYTES // itemsize
    for axis in reversed(range(len(shape))):
        slab[axis] = max(1, min(shape[axis], left))
        if slab[axis] < shape[axis]:
            break
        left //= slab[axis]
    return tuple(slab)
