"""Tiles: which chunks of a row a box touches, and what of each goes where.

A row of an array may be spread over a grid of chunks, and a reader may want a box of it only: a range an axis. What comes out
names the chunks and copies; nothing else of the row is read. Pure. `reading/array.py` stands after it, and
`reading/plain_zarr_array.py` for its axes.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Box = tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class Cut:
    """The part of an axis that lies in one chunk.

    Attributes:
        chunk: Coordinate of the chunk.
        source: Where in the chunk.
        target: Where in what is read.
    """

    chunk: int
    source: slice
    target: slice


@dataclass(frozen=True, slots=True)
class Tiles:
    """The chunks of a row that a box touches, in grid order.

    Attributes:
        ranges: Of the box, one an axis of the row.
        chunk: Position of each chunk among those of one row in the shard's index.
        source: What of each chunk is wanted, without the rows' axis; None where the one chunk is wanted as it is.
        target: Where that lies in the box.
    """

    ranges: tuple[range, ...]
    chunk: Ints
    source: list[Box] | None
    target: list[Box]


def row_ranges(row_shape: tuple[int, ...], box: Box | None) -> tuple[range, ...]:
    """The range of each axis of a row that `box` wants, all of it if None.

    Raises:
        ValueError: another number of axes, or a step below 1.
    """
    if box is None:
        return tuple(range(n) for n in row_shape)
    if len(box) != len(row_shape):
        raise ValueError(f"a box of {len(box)} axes for rows of shape {row_shape}")
    ranges = tuple(range(*s.indices(n)) for s, n in zip(box, row_shape, strict=True))
    if any(r.step < 1 for r in ranges):
        raise ValueError(f"box {box}: steps are at least 1")
    return ranges


def plan_tiles(row_chunk: tuple[int, ...], chunks_per_row: tuple[int, ...], ranges: tuple[range, ...]) -> Tiles:
    """Which chunks `ranges` of a row touch.

    Args:
        row_chunk: Shape of a chunk without the rows' axis.
        chunks_per_row: Chunks along each of these axes in a shard: the shape of a row of its index.
        ranges: Wanted of each axis.
    """
    across = [cut_axis(wanted, length) for wanted, length in zip(ranges, row_chunk, strict=True)]
    numbers = np.arange(math.prod(chunks_per_row), dtype=np.int64).reshape(chunks_per_row)
    chunk = numbers[np.ix_(*([cut.chunk for cut in axis] for axis in across))] if across else numbers
    if chunk.size == 1 and all(wanted == range(n) for wanted, n in zip(ranges, row_chunk, strict=True)):
        return Tiles(ranges, chunk.reshape(-1), None, [])
    places = list(np.ndindex(*(len(axis) for axis in across)))
    source = [tuple(axis[i].source for axis, i in zip(across, at, strict=True)) for at in places]
    target = [tuple(axis[i].target for axis, i in zip(across, at, strict=True)) for at in places]
    return Tiles(ranges, chunk.reshape(-1), source, target)


def cut_axis(wanted: range, length: int) -> list[Cut]:
    """Cut an ascending range of an axis at the edges of chunks of `length`; chunks between its steps are left out."""
    cuts = []
    taken = 0
    while taken < len(wanted):
        number = wanted[taken] // length
        start, end = wanted[taken] - number * length, (number + 1) * length
        count = -(-(end - wanted[taken]) // wanted.step)
        stop = min(len(wanted), taken + count)
        source = slice(start, wanted[stop - 1] - number * length + 1, wanted.step)
        cuts.append(Cut(number, source, slice(taken, stop)))
        taken = stop
    return cuts
