"""Pieces: which samples are read together, and which of them make up each step of a rank.

A piece is a set of samples that the loader reads in one go and keeps until its last place has passed: a run of a lane where blocks
are shuffled, the samples of one step otherwise. `Planner` turns a place in the epoch into the pieces of the next step and the rows
in them. Pure: no I/O. Stands on `order.py` and `steps.py`; `loader/prefetch.py` does what is planned here.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chunkstore.plan.order import LaneOrder, Order
from chunkstore.plan.reads import Ints, Intervals, intervals_of_rows
from chunkstore.plan.steps import num_steps, padded_rank_places, rank_places, step_size

PieceKey = tuple[int, int]
"""(lane, run), or (-1, first place of the step)."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Samples that are read together.

    Attributes:
        intervals: Their positions, sorted: what to read.
        last_place: After this place of the epoch the piece is not needed any more.
    """

    intervals: Intervals
    last_place: int


@dataclass(frozen=True, slots=True, eq=False)
class StepPlan:
    """A rank's part of one step.

    Attributes:
        stop: Places of the epoch handed out once this step is.
        pieces: What has to be read.
        source: int32 (samples,): which of `pieces` holds each sample.
        row: int64 (samples,): which row of it, counted in sorted positions.
        mask: bool (samples,), False for repeats that fill up a last step; None where there is no filling up.
    """

    stop: int
    pieces: tuple[PieceKey, ...]
    source: npt.NDArray[np.int32]
    row: Ints
    mask: npt.NDArray[np.bool_] | None


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of each global batch a rank takes, and what becomes of the last one.

    Attributes:
        rank: This rank.
        world_size: Number of ranks.
        global_batch: Samples of a step over all ranks.
        contiguous: Whether a rank takes a contiguous slice (sequential order) or every world_size-th place.
        drop_last: Whether a step of fewer places is left out.
        pad: Whether it is filled up with repeats.
    """

    rank: int
    world_size: int
    global_batch: int
    contiguous: bool
    drop_last: bool
    pad: bool

    def places(self, consumed: int, num_samples: int) -> tuple[Ints, npt.NDArray[np.bool_] | None]:
        """This rank's places of the step that begins at `consumed`, and their mask if steps are filled up."""
        arguments = (consumed, self.global_batch, self.rank, self.world_size, num_samples)
        if self.pad:
            return padded_rank_places(*arguments, contiguous=self.contiguous)
        return rank_places(*arguments, contiguous=self.contiguous), None

    def steps_left(self, consumed: int, num_samples: int) -> int:
        """Steps from `consumed` to the end of an epoch."""
        return num_steps(num_samples, self.global_batch, consumed=consumed, drop_last=self.drop_last)


class Planner:
    """Plans the steps of one epoch for one rank; keeps the pieces that planned steps need.

    Args:
        order: Of the samples.
        share: This rank's.
        epoch: The epoch.
        first: Of every `stride` steps of the epoch only this one is planned: what one of several workers takes.
        stride: See `first`.
    """

    def __init__(self, order: Order, share: Share, epoch: int, *, first: int = 0, stride: int = 1) -> None:
        self._order, self._share, self._epoch = order, share, epoch
        self._first, self._stride = first, stride
        self._layouts: dict[PieceKey, _Layout] = {}

    def plan(self, consumed: int) -> StepPlan | None:
        """The step that begins at `consumed`, or the first after it that is to be planned; None at the end of the epoch."""
        share, num_samples = self._share, self._order.num_samples
        if self._stride > 1:
            skipped = (self._first - consumed // share.global_batch) % self._stride
            consumed = min(consumed + skipped * share.global_batch, num_samples)
        if share.steps_left(consumed, num_samples) == 0:
            return None
        places, mask = share.places(consumed, num_samples)
        stop = consumed + step_size(consumed, share.global_batch, num_samples)
        if isinstance(self._order, LaneOrder):
            pieces, source, row = self._plan_lanes(self._order, places)
        else:
            pieces, source, row = self._plan_step(places, stop)
        return StepPlan(stop, pieces, source, row, mask)

    def piece(self, key: PieceKey) -> Piece:
        """A piece of a planned step."""
        return self._layouts[key].piece

    def forget(self, key: PieceKey) -> None:
        """Let go of a piece whose last place has passed."""
        del self._layouts[key]

    def _plan_lanes(
        self, order: LaneOrder, places: Ints
    ) -> tuple[tuple[PieceKey, ...], npt.NDArray[np.int32], Ints]:
        lanes, runs, offsets = order.locate(self._epoch, places)
        pairs, first, source = np.unique((lanes << 40) | runs, return_index=True, return_inverse=True)
        keys = tuple((int(pair) >> 40, int(pair) & ((1 << 40) - 1)) for pair in pairs)
        row = np.empty(len(places), np.int64)
        by_piece = np.argsort(source, kind="stable")
        edges = np.searchsorted(source[by_piece], np.arange(len(keys) + 1))
        for i, key in enumerate(keys):
            members = by_piece[edges[i] : edges[i + 1]]
            if key not in self._layouts:
                self._layouts[key] = _run_layout(order, self._epoch, key)
            row[members] = self._layouts[key].rows(offsets[members])
        return keys, source.astype(np.int32), row

    def _plan_step(self, places: Ints, stop: int) -> tuple[tuple[PieceKey, ...], npt.NDArray[np.int32], Ints]:
        if len(places) == 0:
            return (), np.empty(0, np.int32), np.empty(0, np.int64)
        positions, row = np.unique(self._order.positions(self._epoch, places), return_inverse=True)
        key = (-1, stop)
        piece = Piece(intervals_of_rows(positions), stop - 1)
        self._layouts[key] = _Layout(piece, np.empty(0, np.int64), np.empty(0, np.int64))
        return (key,), np.zeros(len(places), np.int32), row.astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class _Layout:
    """A piece, and where its samples, numbered in run order, lie in sorted order."""

    piece: Piece
    edges: Ints
    shift: Ints

    def rows(self, offsets: Ints) -> Ints:
        return offsets + self.shift[np.searchsorted(self.edges, offsets, side="right") - 1]


def _run_layout(order: LaneOrder, epoch: int, key: PieceKey) -> _Layout:
    lane, run = key
    ranges = order.run_ranges(epoch, lane, run)
    lengths = ranges[:, 1] - ranges[:, 0]
    edges = np.cumsum(lengths) - lengths
    ascending = np.argsort(ranges[:, 0], kind="stable")
    sorted_edges = np.empty_like(edges)
    sorted_edges[ascending] = np.cumsum(lengths[ascending]) - lengths[ascending]
    _, stop = order.run_span(epoch, lane, run)
    last_place = (stop - 1) * order.lanes + order.slot_of(epoch, lane)
    return _Layout(Piece(ranges[ascending], last_place), edges, sorted_edges - edges)
