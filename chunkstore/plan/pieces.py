"""Pieces: which samples are read together, in which order, and where in them the samples of a step lie.

A piece is what the loader reads in one go and keeps until its last place has passed. Where blocks are shuffled it is one
run of a lane, or several small ones; otherwise the samples of a few steps. Pieces come in the order of need. They are planned
by the number of samples; who finds out that one holds too many bytes splits it. Pure: no I/O. Stands on `order.py` and
`steps.py`; `loader/prefetch.py` does what is planned here.
"""

import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from chunkstore.plan.order import LaneOrder, Order
from chunkstore.plan.reads import Intervals, Ints, intervals_of_rows
from chunkstore.plan.steps import num_steps, padded_rank_places, rank_places

Mask = npt.NDArray[np.bool_]

_RUN_BITS = 40
"""A run's key is lane << 40 | run; a sample's number in a run stays below 2^40 too."""
_MAX_JOINED_RUNS = 1024
"""Runs of a piece, each of which costs some planning before any of them can be read."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Samples that are read together.

    Attributes:
        number: No other piece of the planner has it.
        intervals: Positions of the samples, sorted and disjoint: what to read.
        num_samples: How many they are.
        first_place: No place of the epoch before this one needs the piece.
        last_place: No place after this one does.
    """

    number: int
    intervals: Intervals
    num_samples: int
    first_place: int
    last_place: int


@dataclass(frozen=True, slots=True, eq=False)
class StepPlan:
    """A rank's part of one step: sample i is row `row[i]` of the piece with number `pieces[source[i]]`.

    Attributes:
        pieces: Numbers of the pieces that the step draws from.
        source: int32 (samples,).
        row: int64 (samples,): rows in the piece's intervals, one after another.
        mask: bool (samples,), False for repeats, if short steps are filled up.
    """

    pieces: tuple[int, ...]
    source: npt.NDArray[np.int32]
    row: Ints
    mask: Mask | None


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

    def places(self, start: int, num_samples: int) -> tuple[Ints, Mask | None]:
        """This rank's places of the step that begins at place `start`, and their mask if steps are filled up."""
        arguments = (start, self.global_batch, self.rank, self.world_size, num_samples)
        if self.pad:
            return padded_rank_places(*arguments, contiguous=self.contiguous)
        return rank_places(*arguments, contiguous=self.contiguous), None

    def steps(self, consumed: int, num_samples: int, *, first: int = 0, stride: int = 1) -> range:
        """The places at which the steps from `consumed` to the end of the epoch begin.

        Args:
            consumed: Place at which the first step begins.
            num_samples: Of the epoch.
            first: Of every `stride` steps only number `first` is meant: what one of several workers takes.
            stride: See `first`.
        """
        size = self.global_batch
        count = num_steps(num_samples, size, consumed=consumed, drop_last=self.drop_last)
        return range(consumed, consumed + count * size, size)[first::stride]


class Planner(Protocol):
    """Plans pieces and steps of one epoch for one rank."""

    def next_piece(self) -> Piece | None:
        """The piece needed next, or None when there are no more."""

    def split(self, piece: Piece, sample_nbytes: Ints, most_nbytes: int) -> list[Piece]:
        """The same samples as pieces of up to `most_nbytes`, or of a single run or step, in the order of need.

        Args:
            piece: One from which no step has been planned; if it is split, it is forgotten.
            sample_nbytes: Bytes of each of its samples, as its intervals order them.
            most_nbytes: Of a piece.
        """

    def plan_step(self, start: int) -> StepPlan:
        """The step that begins at place `start`, whose pieces must have been given; may be called from any thread."""

    def forget(self, piece: Piece) -> None:
        """Let go of a piece whose last place has passed."""


def plan_pieces(order: Order, share: Share, epoch: int, steps: range, *, piece_samples: int) -> Planner:
    """A planner of the steps that begin at `steps`.

    Args:
        order: Of the samples.
        share: This rank's.
        epoch: The epoch.
        steps: As `Share.steps` gives them.
        piece_samples: Pieces grow to about so many samples, where smaller ones can be joined.
    """
    numbers = itertools.count()
    if not isinstance(order, LaneOrder):
        return _StepPlanner(order, share, epoch, steps, piece_samples, numbers)
    if not share.pad or not steps or steps[-1] + share.global_batch <= order.num_samples:
        return _LanePlanner(order, share, epoch, steps, piece_samples, numbers)
    return _PaddedPlanner(
        _LanePlanner(order, share, epoch, steps[:-1], piece_samples, numbers),
        _StepPlanner(order, share, epoch, steps[-1:], piece_samples, numbers),
        steps[-1],
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """Where the samples of a run lie: sample i, numbered in run order, is row i + shift[last j with edges[j] <= i].

    Range j of the run has `lengths[j]` samples.
    """

    piece: int
    edges: Ints
    shift: Ints
    lengths: Ints


@dataclass(frozen=True, slots=True)
class _Member:
    """A run of a piece, by its key, and the first and last place that need it."""

    key: int
    first_place: int
    last_place: int


class _LanePlanner:
    """Pieces are runs; small ones that are needed one after another are joined."""

    def __init__(
        self, order: LaneOrder, share: Share, epoch: int, steps: range, piece_samples: int, numbers: Iterator[int]
    ) -> None:
        self._order, self._share, self._epoch = order, share, epoch
        self._piece_samples = piece_samples
        self._stop = min(steps[-1] + share.global_batch, order.num_samples) if steps else 0
        self._numbers = numbers
        self._runs: dict[int, _Run] = {}
        self._members: dict[int, list[_Member]] = {}
        # A place comes back to the same slot and rank after `period` indices of the lane.
        self._period = share.world_size // math.gcd(share.world_size, order.lanes)
        self._upcoming: list[tuple[int, int, int]] = []  # a heap of (first place, lane, run)
        if steps:
            self._find_first_runs(steps[0])

    def next_piece(self) -> Piece | None:
        """See `Planner`."""
        members: list[_Member] = []
        num_samples = 0
        while self._upcoming and len(members) < _MAX_JOINED_RUNS:
            place, lane, run = self._upcoming[0]
            start, stop = self._order.run_span(self._epoch, lane, run)
            if members and num_samples + stop - start > self._piece_samples:
                break
            heapq.heappop(self._upcoming)
            slot = place % self._order.lanes
            self._push_run_after(lane, run, stop, slot)
            members.append(_Member(lane << _RUN_BITS | run, place, (stop - 1) * self._order.lanes + slot))
            num_samples += stop - start
        return self._lay_out(members) if members else None

    def split(self, piece: Piece, sample_nbytes: Ints, most_nbytes: int) -> list[Piece]:
        """See `Planner`."""
        members = self._members[piece.number]
        if len(members) == 1 or int(sample_nbytes.sum()) <= most_nbytes:
            return [piece]
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(sample_nbytes)])
        nbytes = []
        for member in members:
            run = self._runs[member.key]
            starts = run.edges + run.shift
            nbytes.append(int((before[starts + run.lengths] - before[starts]).sum()))
        self.forget(piece)
        return [self._lay_out(members[group]) for group in _grouped(nbytes, most_nbytes)]

    def plan_step(self, start: int) -> StepPlan:
        """See `Planner`."""
        places, mask = self._share.places(start, self._order.num_samples)
        if len(places) == 0:
            return _empty_plan(mask)
        lanes, run_numbers, offsets = self._order.locate(self._epoch, places)
        keys, run_of = np.unique((lanes << _RUN_BITS) | run_numbers, return_inverse=True)
        runs = [self._runs[key] for key in keys.tolist()]
        base = np.arange(len(runs), dtype=np.int64) << _RUN_BITS
        edges = np.concatenate([run.edges for run in runs]) + np.repeat(base, [len(run.edges) for run in runs])
        shift = np.concatenate([run.shift for run in runs])
        row = offsets + shift[np.searchsorted(edges, offsets + base[run_of], side="right") - 1]
        pieces, piece_of = np.unique(np.array([run.piece for run in runs]), return_inverse=True)
        return StepPlan(tuple(pieces.tolist()), piece_of[run_of].astype(np.int32), row, mask)

    def forget(self, piece: Piece) -> None:
        """See `Planner`."""
        for member in self._members.pop(piece.number):
            del self._runs[member.key]

    def _find_first_runs(self, consumed: int) -> None:
        order, share = self._order, self._share
        # The rank's places come to each of their slots once before they come to the first one again.
        stride, slots = share.world_size, order.lanes // math.gcd(order.lanes, share.world_size)
        begin = consumed + (share.rank - consumed) % stride
        firsts = np.arange(begin, min(begin + slots * stride, self._stop), stride, dtype=np.int64)
        lanes, runs, _ = order.locate(self._epoch, firsts)
        self._upcoming = list(zip(firsts.tolist(), lanes.tolist(), runs.tolist(), strict=True))
        heapq.heapify(self._upcoming)

    def _push_run_after(self, lane: int, run: int, index: int, slot: int) -> None:
        """Find this rank's first place of a lane from lane index `index` on, where the run after `run` begins."""
        order, share = self._order, self._share
        places = range(index * order.lanes + slot, self._stop, order.lanes)[: self._period]
        place = next((place for place in places if place % share.world_size == share.rank), None)
        if place is None:
            return
        if place != places[0]:  # the next run may be too short to hold a place of this rank
            _, runs, _ = order.locate(self._epoch, np.array([place], np.int64))
            run = int(runs[0]) - 1
        heapq.heappush(self._upcoming, (place, lane, run + 1))

    def _lay_out(self, members: list[_Member]) -> Piece:
        """Sort the ranges of all runs of a piece, and note for each run where its samples come to lie."""
        number = next(self._numbers)
        runs = [(member.key >> _RUN_BITS, member.key & ((1 << _RUN_BITS) - 1)) for member in members]
        ranges = [self._order.run_ranges(self._epoch, lane, run) for lane, run in runs]
        every = np.concatenate(ranges)
        lengths = every[:, 1] - every[:, 0]
        ascending = np.argsort(every[:, 0])
        row = np.empty_like(lengths)
        row[ascending] = np.cumsum(lengths[ascending]) - lengths[ascending]
        taken = 0
        for member, own in zip(members, ranges, strict=True):
            part = slice(taken, taken + len(own))
            edges = np.cumsum(lengths[part]) - lengths[part]
            self._runs[member.key] = _Run(number, edges, row[part] - edges, lengths[part])
            taken = part.stop
        self._members[number] = members
        last_place = max(member.last_place for member in members)
        return Piece(number, _joined(every[ascending]), int(lengths.sum()), members[0].first_place, last_place)


class _StepPlanner:
    """Pieces are the samples of consecutive steps: of one at first, so that the first batch comes early, then of more."""

    def __init__(
        self, order: Order, share: Share, epoch: int, steps: range, piece_samples: int, numbers: Iterator[int]
    ) -> None:
        self._order, self._share, self._epoch = order, share, epoch
        self._steps = steps
        self._most = max(1, piece_samples * share.world_size // share.global_batch)
        self._count = 1
        self._numbers = numbers
        self._piece_of: dict[int, int] = {}
        self._positions: dict[int, tuple[Ints, range]] = {}

    def next_piece(self) -> Piece | None:
        """See `Planner`."""
        steps, self._steps = self._steps[: self._count], self._steps[self._count :]
        if not steps:
            return None
        self._count = min(2 * self._count, self._most)
        return self._lay_out(steps)

    def split(self, piece: Piece, sample_nbytes: Ints, most_nbytes: int) -> list[Piece]:
        """See `Planner`."""
        held, steps = self._positions[piece.number]
        if len(steps) == 1 or int(sample_nbytes.sum()) <= most_nbytes:
            return [piece]
        rows = [np.searchsorted(held, self._positions_of([start])) for start in steps]
        nbytes = [int(sample_nbytes[own].sum()) for own in rows]
        self.forget(piece)
        return [self._lay_out(steps[group]) for group in _grouped(nbytes, most_nbytes)]

    def _positions_of(self, steps: Sequence[int]) -> Ints:
        num_samples = self._order.num_samples
        places = np.concatenate([self._share.places(start, num_samples)[0] for start in steps])
        return self._order.positions(self._epoch, places)

    def _lay_out(self, steps: range) -> Piece:
        number = next(self._numbers)
        positions = np.unique(self._positions_of(steps))
        self._positions[number] = positions, steps
        self._piece_of.update(dict.fromkeys(steps, number))
        last_place = min(steps[-1] + self._share.global_batch, self._order.num_samples) - 1
        return Piece(number, intervals_of_rows(positions), len(positions), steps[0], last_place)

    def plan_step(self, start: int) -> StepPlan:
        """See `Planner`."""
        places, mask = self._share.places(start, self._order.num_samples)
        if len(places) == 0:
            return _empty_plan(mask)
        number = self._piece_of[start]
        held, _ = self._positions[number]
        row = np.searchsorted(held, self._order.positions(self._epoch, places))
        return StepPlan((number,), np.zeros(len(places), np.int32), row.astype(np.int64, copy=False), mask)

    def forget(self, piece: Piece) -> None:
        """See `Planner`."""
        _, steps = self._positions.pop(piece.number)
        for start in steps:
            del self._piece_of[start]


class _PaddedPlanner:
    """Lanes, but a short last step that is filled up is read apart: its repeats may stand at places of other ranks."""

    def __init__(self, lanes: _LanePlanner, last_step: _StepPlanner, last_start: int) -> None:
        self._lanes, self._last_step, self._last_start = lanes, last_step, last_start

    def next_piece(self) -> Piece | None:
        """See `Planner`."""
        return self._lanes.next_piece() or self._last_step.next_piece()

    def split(self, piece: Piece, sample_nbytes: Ints, most_nbytes: int) -> list[Piece]:
        """See `Planner`."""
        planner = self._last_step if piece.first_place == self._last_start else self._lanes
        return planner.split(piece, sample_nbytes, most_nbytes)

    def plan_step(self, start: int) -> StepPlan:
        """See `Planner`."""
        return (self._last_step if start == self._last_start else self._lanes).plan_step(start)

    def forget(self, piece: Piece) -> None:
        """See `Planner`."""
        (self._last_step if piece.first_place == self._last_start else self._lanes).forget(piece)


def _empty_plan(mask: Mask | None) -> StepPlan:
    return StepPlan((), np.empty(0, np.int32), np.empty(0, np.int64), mask)


def _grouped(nbytes: list[int], most_nbytes: int) -> Iterator[slice]:
    """Groups of neighbours that together have up to `most_nbytes`; one that has more stands alone."""
    start = total = 0
    for stop, own in enumerate(nbytes):
        if stop > start and total + own > most_nbytes:
            yield slice(start, stop)
            start, total = stop, 0
        total += own
    yield slice(start, len(nbytes))


def _joined(intervals: Intervals) -> Intervals:
    """Sorted intervals, those that touch made one."""
    apart = intervals[1:, 0] != intervals[:-1, 1]
    return np.stack([intervals[np.r_[True, apart], 0], intervals[np.r_[apart, True], 1]], axis=1)
