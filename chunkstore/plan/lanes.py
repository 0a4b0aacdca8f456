"""Tables and kernels of the lane order: which blocks a lane reads in an epoch, and where its runs begin and end.

Normative formulas: docs/spec/order.md, section 3. Tables hold one row a block, never one a sample, and are filled lane by lane
when a place of the lane is first asked for, so a rank pays only for the lanes it reads. A row once written never
changes, so readers need no lock. `order` stands before it (the values of the version) and after it (the public methods).
Cached kernels call only functions of this file; permutations are applied between them by `permutation`.
"""

import threading
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

from chunkstore.plan.permutation import derive_key, permute_each, permute_range

Int64s = npt.NDArray[np.int64]

_PLACES_AT_ONCE: Final = 8192
"""Places whose intermediate values are held at once: they stay in the processor's cache."""


class Purpose(IntEnum):
    """First word of every key, so that no two uses of a seed share a stream."""

    EXTENTS = 1
    SLOTS = 2
    BLOCKS = 3
    RUNS = 4
    FULL = 5


@dataclass(frozen=True, slots=True)
class LaneStream:
    """The extents in their permuted order: what is cut into lanes, the same in every epoch.

    Attributes:
        num_samples: samples of all extents.
        lanes: number of lanes.
        run_blocks: blocks of a full run.
        first: int64[extents], position of the extent's first sample.
        rows: int64[extents], samples of its blocks (its last one may be short).
        stream: int64[extents + 1], index of its first sample in the stream; then num_samples.
    """

    num_samples: int
    lanes: int
    run_blocks: int
    first: Int64s
    rows: Int64s
    stream: Int64s


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive samples of a lane that are permuted together: rows of the lane's table and lane indices, half-open."""

    row_start: int
    row_stop: int
    start: int
    stop: int


@njit(cache=True, nogil=True)
def _lane_offsets(bounds, stream, rows):
    """First table row of each lane, and the total: one row a block, one for the cut-off tail, one to end the prefix sums."""
    lanes = bounds.size - 1
    offsets = np.zeros(lanes + 1, np.int64)
    extent = 0
    for lane in range(lanes):
        at, stop = bounds[lane], bounds[lane + 1]
        count = 0
        while at < stop:
            while stream[extent + 1] <= at:
                extent += 1
            end = min(stop, stream[extent + 1])
            begin = stream[extent]
            count += (end - begin - 1) // rows[extent] - (at - begin) // rows[extent] + 1
            at = end
        offsets[lane + 1] = offsets[lane] + count + 2
    return offsets


@njit(cache=True, nogil=True)
def _list_blocks(at, stop, extent, first, rows, stream, out):
    """Blocks of the stream's range [at, stop) in stream order: position of the first sample, and size."""
    count = 0
    while at < stop:
        while stream[extent + 1] <= at:
            extent += 1
        within = at - stream[extent]
        size = min(rows[extent] - within % rows[extent], stream[extent + 1] - at, stop - at)
        out[count, 0] = first[extent] + within
        out[count, 1] = size
        at += size
        count += 1
    return count


@njit(cache=True, nogil=True)
def _fill_rows(blocks, order, cut_numerator, lanes, table):
    """Rows of one lane: blocks in epoch order, the cut-off end of the first one last. Returns the number of rows."""
    index = 0
    cut = 0
    for i in range(order.size):
        start, size = blocks[order[i], 0], blocks[order[i], 1]
        if i == 0:
            cut = cut_numerator * size // lanes
            size -= cut
        table[i, 0] = start
        table[i, 1] = index
        index += size
    count = order.size
    if cut > 0:
        table[count, 0] = table[0, 0] + (table[1, 1] if count > 1 else index)
        table[count, 1] = index
        index += cut
        count += 1
    table[count, 0] = -1
    table[count, 1] = index
    return count


@njit(cache=True, nogil=True)
def _bit_length(x):
    bits = 0
    while x > 0:
        bits += 1
        x >>= 1
    return bits


@njit(cache=True, nogil=True)
def _find_row(table, low, high, index):
    """The row in [low, high) whose block holds lane index `index`."""
    while high - low > 1:
        middle = (low + high) >> 1
        below = table[middle, 1] <= index
        low = middle if below else low  # both without a branch, which would be mispredicted every other time
        high = high if below else middle
    return low


@njit(cache=True, nogil=True)
def _find_run(table, low, count, first_run_blocks, run_blocks, index, out):
    """Writes (start, stop, run, first row) of the run that holds lane index `index` of the lane whose rows begin at `low`."""
    head = table[low + 1, 1]
    if index < head:
        run = _bit_length(index + 1) - 1
        out[0] = (1 << run) - 1
        out[1] = min((1 << (run + 1)) - 1, head)
        out[2] = run
        out[3] = low
        return
    ramp_runs = _bit_length(head)
    size = table[low + count, 1]
    # Blocks are nearly equal, so the search starts a few rows from its end; the guess never decides the result.
    guess = 1 + np.int64((count - 1) * (float(index - head) / float(size - head)))
    left = max(1, guess - 2)
    right = min(count, guess + 3)
    if table[low + left, 1] > index:
        left = 1
    if table[low + right, 1] <= index:
        right = count
    block = _find_row(table, low + left, low + right, index) - low
    if block < 1 + first_run_blocks:
        start, stop, run = 1, 1 + first_run_blocks, ramp_runs
    else:
        later = (block - 1 - first_run_blocks) // run_blocks
        start = 1 + first_run_blocks + later * run_blocks
        stop = start + run_blocks
        run = ramp_runs + 1 + later
    out[0] = table[low + start, 1]
    out[1] = table[low + min(stop, count), 1]
    out[2] = run
    out[3] = low + start


@njit(cache=True, nogil=True)
def _locate(places, num_samples, run_blocks, lane_at, info, built, table, missing, out):  # noqa: PLR0913, PLR0917
    """Fills `out` for `permute_each` (rows 0–3), then lane, lane index of the run's start, and its first row (rows 4–6).

    Returns 0; -1 when a place lies outside the epoch; or the number of places whose lanes, now marked in `missing`, have no
    rows yet.
    """
    lanes = lane_at.size
    runs = np.zeros((lanes, 4), np.int64)
    num_missing = 0
    last, slot, index = np.int64(0), np.int64(0), np.int64(0)
    for i in range(places.size):
        place = places[i]
        if place < 0 or place >= num_samples:
            return -1
        step = place - last
        last = place
        if 0 <= step < lanes:  # as places of a rank do; saves the division
            slot += step
            if slot >= lanes:
                slot -= lanes
                index += 1
        else:
            index = place // lanes
            slot = place - index * lanes
        lane = lane_at[slot]
        if not built[lane]:
            missing[lane] = True
            num_missing += 1
            continue
        run = runs[lane]
        if index < run[0] or index >= run[1]:
            first_run_blocks = run_blocks - lane * run_blocks // lanes
            _find_run(table, info[lane, 0], info[lane, 1], first_run_blocks, run_blocks, index, run)
        out[0, i] = index - run[0]
        out[1, i] = run[1] - run[0]
        out[2, i] = info[lane, 2]
        out[3, i] = run[2]
        out[4, i] = lane
        out[5, i] = run[0]
        out[6, i] = run[3]
    return num_missing


@njit(cache=True, nogil=True)
def _resolve(located, run_blocks, info, table, out):
    """Positions of located places whose offsets have been permuted."""
    for i in range(out.size):
        index = located[5, i] + located[0, i]
        low = located[6, i]
        lane = located[4, i]
        row = _find_row(table, low, min(low + run_blocks, info[lane, 0] + info[lane, 1]), index)
        out[i] = table[row, 0] + index - table[row, 1]


class EpochTables:
    """The tables of one epoch of a `LaneStream`; safe to use from several threads."""

    def __init__(self, stream: LaneStream, seed: int, epoch: int, *, affinity: bool) -> None:
        lanes, self._stream = stream.lanes, stream
        self._seed, self._epoch = seed, epoch
        key = derive_key(Purpose.SLOTS, seed, epoch)
        self.lane_at: Int64s = np.arange(lanes, dtype=np.int64) if affinity else permute_range(0, lanes, lanes, key)
        quotient, remainder = divmod(stream.num_samples, lanes)
        sizes = np.empty(lanes, np.int64)
        sizes[self.lane_at] = quotient + (np.arange(lanes) < remainder)
        self._bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        offsets = _lane_offsets(self._bounds, stream.stream, stream.rows)
        self._info = np.zeros((lanes, 3), np.int64)  # first row, number of rows, key of the runs as int64 bits
        self._info[:, 0] = offsets[:-1]
        self._table = np.empty((int(offsets[-1]), 2), np.int64)  # pages of lanes never asked for are never touched
        self._built = np.zeros(lanes, np.bool_)
        self._lock = threading.Lock()

    def locate(self, places: Int64s, out: Int64s | None = None) -> Int64s:
        """int64[7, places]: offset in the run, run's samples, key, run, lane, lane index of its start, its first row.

        Raises:
            ValueError: a place lies outside the epoch.
        """
        stream = self._stream
        located = np.empty((7, places.size), np.int64) if out is None else out
        missing = np.zeros(stream.lanes, np.bool_)
        args = (stream.num_samples, stream.run_blocks, self.lane_at, self._info)
        status = _locate(places, *args, self._built, self._table, missing, located)
        if status > 0:
            self.build_lanes(np.flatnonzero(missing).tolist())
            status = _locate(places, *args, self._built, self._table, missing, located)
        if status < 0:
            raise ValueError(f"places must lie in [0, {stream.num_samples}), the places of an epoch")
        permute_each(located)
        return located

    def positions(self, places: Int64s) -> Int64s:
        """Positions of the samples at `places`; int64.

        Raises:
            ValueError: a place lies outside the epoch.
        """
        out = np.empty(places.size, np.int64)
        located: Int64s | None = None
        for start in range(0, places.size, _PLACES_AT_ONCE):
            stop = min(start + _PLACES_AT_ONCE, places.size)
            whole = stop - start == _PLACES_AT_ONCE
            located = self.locate(places[start:stop], located if whole else None)
            _resolve(located, self._stream.run_blocks, self._info, self._table, out[start:stop])
        return out

    def build_lanes(self, lanes: list[int]) -> None:
        """Fills the rows of the lanes that have none yet."""
        with self._lock:
            built = self._built.copy()
            for lane in lanes:
                if not built[lane]:
                    self._build_lane(lane)
                    built[lane] = True
            # A new array, so that who sees the mark also sees the rows, whatever the processor's memory order.
            self._built = built

    def _build_lane(self, lane: int) -> None:
        stream, low = self._stream, int(self._info[lane, 0])
        start, stop = int(self._bounds[lane]), int(self._bounds[lane + 1])
        blocks = np.empty((self._rows_of(lane) - 2, 2), np.int64)
        extent = int(np.searchsorted(stream.stream, start, side="right")) - 1
        count = _list_blocks(start, stop, extent, stream.first, stream.rows, stream.stream, blocks)
        assert count == len(blocks)
        order = permute_range(0, count, count, derive_key(Purpose.BLOCKS, self._seed, self._epoch, lane))
        cut = lane * stream.run_blocks % stream.lanes
        self._info[lane, 1] = _fill_rows(blocks, order, cut, stream.lanes, self._table[low : low + count + 2])
        key = derive_key(Purpose.RUNS, self._seed, self._epoch, lane)
        self._info[lane, 2] = np.uint64(key).view(np.int64)

    def _rows_of(self, lane: int) -> int:
        stop = self._info[lane + 1, 0] if lane + 1 < len(self._info) else len(self._table)
        return int(stop - self._info[lane, 0])

    def num_runs(self, lane: int) -> int:
        """Number of runs of a lane; 0 when it has no samples."""
        low, blocks, ramp_runs = self._open_lane(lane)
        if self._table[low + blocks, 1] == 0:
            return 0
        later = max(0, blocks - 1 - self._first_run_blocks(lane))
        return ramp_runs + (blocks > 1) + -(-later // self._stream.run_blocks)

    def run(self, lane: int, run: int) -> Run:
        """The rows and lane indices of a run.

        Raises:
            ValueError: the lane has no such run.
        """
        if not 0 <= run < self.num_runs(lane):
            raise ValueError(f"lane {lane} has runs 0 to {self.num_runs(lane) - 1} in epoch {self._epoch}, not {run}")
        low, blocks, ramp_runs = self._open_lane(lane)
        if run < ramp_runs:
            return Run(low, low + 1, (1 << run) - 1, min((1 << (run + 1)) - 1, int(self._table[low + 1, 1])))
        stop = 1 + self._first_run_blocks(lane) + (run - ramp_runs) * self._stream.run_blocks
        start = 1 if run == ramp_runs else stop - self._stream.run_blocks
        stop = min(stop, blocks)
        return Run(low + start, low + stop, int(self._table[low + start, 1]), int(self._table[low + stop, 1]))

    def ranges(self, run: Run) -> Int64s:
        """Positions of a run in run order: int64[m, 2], half-open; neighbours that continue each other are one range."""
        rows = self._table[run.row_start : run.row_stop + 1]
        edges = np.clip(rows[:, 1], run.start, run.stop)
        starts = rows[:-1, 0] + edges[:-1] - rows[:-1, 1]
        stops = starts + np.diff(edges)
        apart = starts[1:] != stops[:-1]
        return np.stack([starts[np.r_[True, apart]], stops[np.r_[apart, True]]], axis=1)

    def _open_lane(self, lane: int) -> tuple[int, int, int]:
        if not 0 <= lane < self._stream.lanes:
            raise ValueError(f"lane {lane} is not one of {self._stream.lanes} lanes")
        if not self._built[lane]:
            self.build_lanes([lane])
        low, blocks = int(self._info[lane, 0]), int(self._info[lane, 1])
        return low, blocks, int(self._table[low + 1, 1]).bit_length() if blocks else 0

    def _first_run_blocks(self, lane: int) -> int:
        return self._stream.run_blocks - lane * self._stream.run_blocks // self._stream.lanes
