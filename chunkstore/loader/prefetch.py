"""Prefetching: pieces are read ahead of the steps that need them, batches assembled ahead of their consumer.

Reads begin in the order of need, in threads, within a budget of bytes; what the next step needs is always admitted, so that no
budget can bring a halt. Before a piece is admitted it is known what it holds. A failure surfaces at the batch it concerns.
Plans nothing (`plan/pieces.py` does) and decides nothing about order. Before it: `Planner`; after it: the consumer of
`Loader`.
"""

import heapq
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from chunkstore.errors import ChunkstoreError, ForkedLoader
from chunkstore.kernels.columns import Column
from chunkstore.loader.sizes import SampleSizes, batch_nbytes
from chunkstore.plan.pieces import Piece, Planner, StepPlan
from chunkstore.plan.reads import Ints
from chunkstore.store.threads import JobThreads

Columns = dict[str, Column]
READY_STEPS = 2
"""Batches assembled ahead of the consumer, besides one for every thread that assembles."""
_REMEMBERED_BATCHES = 16


@dataclass(frozen=True, slots=True)
class Budget:
    """What prefetching may use.

    Attributes:
        memory_nbytes: What pieces and batches may hold ahead of the consumer; the next step's are admitted whatever they hold.
        piece_nbytes: Of a piece, if it can be split.
        sample_nbytes: Of a sample, on average.
        batch_samples: Of a batch.
        num_readers: Threads that read pieces.
        num_threads: Threads that assemble batches.
    """

    memory_nbytes: int
    piece_nbytes: int
    sample_nbytes: int
    batch_samples: int
    num_readers: int
    num_threads: int


@dataclass(frozen=True, slots=True, eq=False)
class _Coming:
    """A piece that has not been admitted. While it is read, it holds twice its bytes: as stored, and as columns."""

    piece: Piece
    nbytes: int
    most_sample_nbytes: int


@dataclass(slots=True, eq=False)
class _Held:
    piece: Piece
    columns: "Future[Columns]"
    nbytes: int
    most_sample_nbytes: int


@dataclass(slots=True, eq=False)
class _Ahead:
    """A batch that is put together or waits for the consumer."""

    stop: int
    batch: "Future[Any]"
    nbytes: int


class Prefetcher:
    """Iterates over the batches of some steps of an epoch, as (place after the step, batch).

    Args:
        planner: Of the epoch and rank.
        steps: Places at which the steps begin and end.
        read: Reads a piece.
        assemble: Makes a batch of the step at a place from its pieces' columns.
        assemble_alone: Makes a batch of the step at a place by reading its samples and no others: where a piece cannot be
            read, steps that need nothing of what is wrong with it are served, and the first that does fails.
        measure: Tells the bytes of each sample of some intervals, by reading what is small; None if all have
            `budget.sample_nbytes`.
        budget: What may be used.
    """

    def __init__(
        self,
        planner: Planner,
        steps: Iterable[tuple[int, int]],
        read: Callable[[Piece], Columns],
        assemble: Callable[[int, StepPlan, list[Columns]], Any],
        assemble_alone: Callable[[int], Any],
        measure: SampleSizes | None,
        budget: Budget,
    ) -> None:
        self._planner, self._read, self._budget = planner, read, budget
        self._assemble, self._assemble_alone, self._measure = assemble, assemble_alone, measure
        self._steps = iter(steps)
        self._next_step = next(self._steps, None)
        self._drafts: deque[tuple[Piece, Future[Ints] | None]] = deque()  # planned, being measured
        self._coming: deque[_Coming] = deque()  # measured; both in the order of need
        self._held: dict[int, _Held] = {}
        self._by_end: list[tuple[int, int]] = []  # a heap of (last place, number) of what is held
        self._read_numbers: deque[int] = deque()  # of pieces read since the last look
        self._held_nbytes = 0
        self._ahead: deque[_Ahead] = deque()
        self._assembled_nbytes: deque[tuple[int, int]] = deque()  # (stop, bytes) of batches made since the last look
        self._batch_nbytes: deque[int] = deque([0], maxlen=_REMEMBERED_BATCHES)
        self._readers = JobThreads(budget.num_readers, "chunkstore-read")
        self._assemblers = JobThreads(budget.num_threads, "chunkstore-assemble")
        self._pid = os.getpid()

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        while True:
            if os.getpid() != self._pid:
                raise ForkedLoader(
                    "this iterator was made before a fork and its threads are in the parent; begin a new one in the child, or "
                    "start workers with 'spawn' or 'forkserver'"
                )
            self._advance()
            if not self._ahead:
                return
            first = self._ahead.popleft()
            stop, batch = first.stop, first.batch.result()
            del first
            self._release(stop)
            self._advance()
            yield stop, batch
            del batch  # it is the caller's to keep or to drop

    def close(self) -> None:
        """Drop what is planned; threads end with what they are reading."""
        self._readers.close()
        self._assemblers.close()

    def _advance(self) -> None:
        """Admit the steps that are next, then pieces of later ones, as far as the budget goes."""
        self._look_at_what_was_done()
        while self._next_step is not None and len(self._ahead) < self._ready_steps() and self._admit_pieces_of_step():
            start, stop = self._next_step
            nbytes = self._expected_batch_nbytes()
            if self._ahead and not self._has_room(nbytes):
                break
            self._ahead.append(_Ahead(stop, self._assemblers.submit(self._assembled, start, stop), nbytes))
            self._next_step = next(self._steps, None)
        while (coming := self._peek(wait=False)) is not None and self._has_room(2 * coming.nbytes):
            self._admit()

    def _ready_steps(self) -> int:
        """Two at first: what a decoded batch holds is known when one has been made."""
        return 2 if len(self._batch_nbytes) == 1 else READY_STEPS + self._budget.num_threads

    def _look_at_what_was_done(self) -> None:
        while self._read_numbers:
            if (held := self._held.get(self._read_numbers.popleft())) is not None:
                self._held_nbytes -= held.nbytes // 2
                held.nbytes -= held.nbytes // 2
        while self._assembled_nbytes:
            stop, nbytes = self._assembled_nbytes.popleft()
            self._batch_nbytes.append(nbytes)
            for ahead in self._ahead:
                if ahead.stop == stop:
                    ahead.nbytes = nbytes

    def _admit_pieces_of_step(self) -> bool:
        """Whether all that the next step needs has been admitted; what nobody waits for yet, as far as there is room."""
        assert self._next_step is not None
        must = not self._ahead
        while (coming := self._peek(wait=must)) is not None and coming.piece.first_place < self._next_step[1]:
            if not must and not self._has_room(2 * coming.nbytes):
                return False
            self._admit()
        return coming is not None or not self._drafts or self._drafts[0][0].first_place >= self._next_step[1]

    def _expected_batch_nbytes(self) -> int:
        """Of the next batch: as the samples that are held allow, or as batches turned out, which may hold decoded samples.

        Twice that, for samples that are gathered and then presented.
        """
        most = max((held.most_sample_nbytes for held in self._held.values()), default=0)
        return 2 * max(min(most * self._budget.batch_samples, self._held_nbytes), *self._batch_nbytes)

    def _has_room(self, nbytes: int) -> bool:
        ahead = sum(ahead.nbytes for ahead in self._ahead)
        return self._held_nbytes + ahead + nbytes <= self._budget.memory_nbytes

    def _peek(self, *, wait: bool) -> _Coming | None:
        """The next piece to admit; None if there is none or, unless `wait`, its bytes are not known yet."""
        if not self._coming:
            self._draft()
            if not self._drafts:
                return None
            piece, sizes = self._drafts[0]
            if sizes is not None and not wait and not sizes.done():
                return None
            self._drafts.popleft()
            self._coming.extend(self._measured(piece, sizes))
        return self._coming[0]

    def _draft(self) -> None:
        """Plan pieces and have them measured: so many that readers need not wait for it."""
        while len(self._drafts) < self._budget.num_readers and (piece := self._planner.next_piece()) is not None:
            sizes = None if self._measure is None else self._readers.submit(self._measure, piece.intervals)
            self._drafts.append((piece, sizes))

    def _measured(self, piece: Piece, sizes: "Future[Ints] | None") -> Iterator[_Coming]:
        """The piece, or those it is split into; as planned if it cannot be measured, for then reading fails too."""
        most = self._budget.sample_nbytes
        if sizes is None or sizes.exception() is not None:
            yield _Coming(piece, piece.num_samples * most, most)
            return
        sample_nbytes = sizes.result()
        for part in self._planner.split(piece, sample_nbytes, self._budget.piece_nbytes):
            own = sample_nbytes if part is piece else sample_nbytes[_rows_in(piece, part)]
            yield _Coming(part, int(own.sum()), int(own.max(initial=0)))

    def _admit(self) -> None:
        coming = self._coming.popleft()
        piece, nbytes = coming.piece, 2 * coming.nbytes
        columns = self._readers.submit(self._read_noted, piece)
        self._held[piece.number] = _Held(piece, columns, nbytes, coming.most_sample_nbytes)
        self._held_nbytes += nbytes
        heapq.heappush(self._by_end, (piece.last_place, piece.number))

    def _release(self, place: int) -> None:
        """Let go of pieces that no step from `place` on needs; those before it have all been assembled."""
        while self._by_end and self._by_end[0][0] < place:
            held = self._held.pop(heapq.heappop(self._by_end)[1])
            self._held_nbytes -= held.nbytes
            self._planner.forget(held.piece)

    def _read_noted(self, piece: Piece) -> Columns:
        columns = self._read(piece)
        self._read_numbers.append(piece.number)
        return columns

    def _assembled(self, start: int, stop: int) -> Any:
        plan = self._planner.plan_step(start)
        try:
            columns = [self._held[number].columns.result() for number in plan.pieces]
        except ChunkstoreError:
            batch = self._assemble_alone(start)
        else:
            batch = self._assemble(start, plan, columns)
        self._assembled_nbytes.append((stop, batch_nbytes(batch)))
        return batch


def _rows_in(piece: Piece, part: Piece) -> Ints:
    """Rows of a piece's samples that are in a part of it."""
    first_row = np.cumsum(piece.intervals[:, 1] - piece.intervals[:, 0]) - (
        piece.intervals[:, 1] - piece.intervals[:, 0]
    )
    at = np.searchsorted(piece.intervals[:, 0], part.intervals[:, 0], side="right") - 1
    starts = first_row[at] + part.intervals[:, 0] - piece.intervals[at, 0]
    lengths = part.intervals[:, 1] - part.intervals[:, 0]
    within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    rows: Ints = np.repeat(starts, lengths) + within
    return rows
