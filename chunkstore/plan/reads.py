"""Reads: from rows wanted to chunks and coalesced byte ranges.

Rows are given as intervals; what comes out says which piece of which chunk goes where in the destination, and which byte ranges
bring the chunks. Pure: no I/O, nothing decoded. `reading/array.py` stands after it and does what is planned here.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Intervals = Ints
"""(m, 2): half-open intervals of rows, in the order in which they are wanted."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """Pieces of intervals, none of which crosses a chunk's edge, sorted by chunk.

    Attributes:
        chunk: Number of the chunk along the first dimension.
        start: First row, counted from the chunk's first.
        stop: Row after the last, counted likewise.
        destination: Where the first row goes, counted in rows of the destination.
    """

    chunk: Ints
    start: Ints
    stop: Ints
    destination: Ints

    def first_of_chunks(self) -> Ints:
        """The first piece of each chunk that has any, in the order of chunks."""
        if len(self.chunk) == 0:
            return np.empty(0, np.int64)
        return np.concatenate([[0], np.flatnonzero(np.diff(self.chunk)) + 1]).astype(np.int64)

    def by_chunk(self) -> list[slice]:
        """The pieces of each chunk that has any, in the order of chunks."""
        bounds = [*self.first_of_chunks().tolist(), len(self.chunk)]
        return [slice(a, b) for a, b in pairwise(bounds)]


@dataclass(frozen=True, slots=True)
class RangeGroup:
    """Byte ranges of one object that are worth one request.

    Attributes:
        start: First byte of the request.
        stop: Byte after the last.
        members: Indices of the ranges it brings, as `coalesce` was given them.
    """

    start: int
    stop: int
    members: Ints


def intervals_of_rows(rows: Ints) -> Intervals:
    """The intervals that give `rows` in their order; neighbours are merged where they follow one another."""
    if len(rows) == 0:
        return np.empty((0, 2), np.int64)
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    starts = rows[np.concatenate([[0], breaks])]
    stops = rows[np.concatenate([breaks - 1, [len(rows) - 1]])] + 1
    return np.stack([starts, stops], axis=1)


def rows_of_intervals(intervals: Intervals) -> Ints:
    """The rows of intervals, in their order: what `intervals_of_rows` undoes."""
    lengths = intervals[:, 1] - intervals[:, 0]
    within = np.arange(int(lengths.sum())) - np.repeat(_exclusive_cumsum(lengths), lengths)
    return within + np.repeat(intervals[:, 0], lengths)


def total_rows(intervals: Intervals) -> int:
    """Rows of all intervals together."""
    return int((intervals[:, 1] - intervals[:, 0]).sum())


def split_intervals(intervals: Intervals, chunk_rows: int) -> Pieces:
    """Cut intervals at the edges of chunks of `chunk_rows` rows."""
    lengths = intervals[:, 1] - intervals[:, 0]
    intervals, offsets = intervals[lengths > 0], _exclusive_cumsum(lengths)[lengths > 0]
    first, last = intervals[:, 0] // chunk_rows, (intervals[:, 1] - 1) // chunk_rows
    counts = last - first + 1
    source = np.repeat(np.arange(len(intervals)), counts)
    chunk = np.arange(len(source)) - np.repeat(_exclusive_cumsum(counts), counts) + first[source]
    start = np.maximum(intervals[source, 0], chunk * chunk_rows)
    stop = np.minimum(intervals[source, 1], (chunk + 1) * chunk_rows)
    destination = offsets[source] + start - intervals[source, 0]
    order = np.argsort(chunk, kind="stable")
    base = chunk * chunk_rows
    return Pieces(chunk[order], (start - base)[order], (stop - base)[order], destination[order])


def whole_chunks(count: int, chunk_rows: int) -> Pieces:
    """All rows of each of `count` chunks, one after another."""
    chunk = np.arange(count, dtype=np.int64)
    return Pieces(chunk, np.zeros(count, np.int64), np.full(count, chunk_rows, np.int64), chunk * chunk_rows)


def coalesce(ranges: Ints, *, max_gap_nbytes: int, max_nbytes: int) -> list[RangeGroup]:
    """Join byte ranges of one object into requests.

    Ranges closer than `max_gap_nbytes` share a request, as long as it stays below `max_nbytes` (a longer range is a request of
    its own).
    """
    if len(ranges) == 0:
        return []
    order = np.argsort(ranges[:, 0], kind="stable")
    starts, reached = ranges[order, 0], np.maximum.accumulate(ranges[order, 1])
    gaps = np.flatnonzero(starts[1:] - reached[:-1] > max_gap_nbytes) + 1
    groups = []
    for low, high in pairwise([0, *gaps.tolist(), len(order)]):
        begin = low
        while begin < high:
            start = int(starts[begin])
            end = begin + int(np.searchsorted(reached[begin:high], start + max_nbytes, side="right"))
            end = max(end, begin + 1)
            groups.append(RangeGroup(start, int(reached[end - 1]), order[begin:end]))
            begin = end
    return groups


def _exclusive_cumsum(values: Ints) -> Ints:
    return np.cumsum(values) - values
