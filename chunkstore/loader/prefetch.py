"""Prefetching: pieces are read ahead of the steps that need them, batches assembled ahead of their consumer.

Reads begin in the order of need, in threads, within a budget of bytes; what the next step needs is always admitted, so that no
budget can bring a halt. A failure surfaces at the batch it concerns. Plans nothing (`plan/pieces.py` does) and decides
nothing about order. Before it: `Planner`; after it: the consumer of `Loader`.
"""

import heapq
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from chunkstore.errors import ChunkstoreError, ForkedLoader
from chunkstore.kernels.columns import Column, column_nbytes
from chunkstore.plan.pieces import Piece, Planner, StepPlan
from chunkstore.store.threads import JobThreads

Columns = dict[str, Column]
READY_STEPS = 2
"""Batches assembled ahead of the consumer, besides one for every thread that assembles."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What prefetching may use.

    Attributes:
        memory_nbytes: What pieces and batches may hold ahead of the consumer; the next step's are admitted whatever they hold.
        sample_nbytes: Of a sample, about; what a piece really holds counts once it has been read.
        batch_nbytes: Of a batch, about.
        num_readers: Threads that read pieces.
        num_threads: Threads that assemble batches.
    """

    memory_nbytes: int
    sample_nbytes: int
    batch_nbytes: int
    num_readers: int
    num_threads: int


@dataclass(slots=True, eq=False)
class _Held:
    piece: Piece
    columns: "Future[Columns]"
    nbytes: int


class Prefetcher:
    """Iterates over the batches of some steps of an epoch, as (place after the step, batch).

    Args:
        planner: Of the epoch and rank.
        steps: Places at which the steps begin and end.
        read: Reads a piece.
        assemble: Makes a batch of a step from its pieces' columns.
        assemble_alone: Makes a batch of the step at a place by reading its samples and no others: where a piece cannot be
            read, steps that need nothing of what is wrong with it are served, and the first that does fails.
        budget: What may be used.
    """

    def __init__(
        self,
        planner: Planner,
        steps: Iterable[tuple[int, int]],
        read: Callable[[Piece], Columns],
        assemble: Callable[[StepPlan, list[Columns]], Any],
        assemble_alone: Callable[[int], Any],
        budget: Budget,
    ) -> None:
        self._planner, self._read, self._budget = planner, read, budget
        self._assemble, self._assemble_alone = assemble, assemble_alone
        self._steps = iter(steps)
        self._next_step = next(self._steps, None)
        self._next_piece = planner.next_piece()
        self._ahead: deque[tuple[int, Future[Any]]] = deque()
        self._held: dict[int, _Held] = {}
        self._by_end: list[tuple[int, int]] = []  # a heap of (last place, number) of what is held
        self._measured: deque[tuple[int, int]] = deque()  # (number, bytes) of pieces read since the last look
        self._held_nbytes = 0
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
            stop, assembled = self._ahead.popleft()
            batch = assembled.result()
            self._release(stop)
            self._advance()
            yield stop, batch
            del assembled, batch  # it is the caller's to keep or to drop

    def close(self) -> None:
        """Drop what is planned; threads end with what they are reading."""
        self._readers.close()
        self._assemblers.close()

    def _advance(self) -> None:
        """Admit the steps that are next, then pieces of later ones, as far as the budget goes."""
        while self._measured:
            number, nbytes = self._measured.popleft()
            if (held := self._held.get(number)) is not None:
                self._held_nbytes += nbytes - held.nbytes
                held.nbytes = nbytes
        ready_steps = READY_STEPS + self._budget.num_threads
        while self._next_step is not None and len(self._ahead) < ready_steps and (not self._ahead or self._has_room(0)):
            start, stop = self._next_step
            while self._next_piece is not None and self._next_piece.first_place < stop:
                self._admit(self._next_piece)
            self._ahead.append((stop, self._assemblers.submit(self._assembled, start)))
            self._next_step = next(self._steps, None)
        while self._next_piece is not None and self._has_room(self._estimate(self._next_piece)):
            self._admit(self._next_piece)

    def _has_room(self, nbytes: int) -> bool:
        batches = (len(self._ahead) + 1) * self._budget.batch_nbytes
        return self._held_nbytes + batches + nbytes <= self._budget.memory_nbytes

    def _estimate(self, piece: Piece) -> int:
        return piece.num_samples * self._budget.sample_nbytes

    def _admit(self, piece: Piece) -> None:
        nbytes = self._estimate(piece)
        self._held[piece.number] = _Held(piece, self._readers.submit(self._read_measured, piece), nbytes)
        self._held_nbytes += nbytes
        heapq.heappush(self._by_end, (piece.last_place, piece.number))
        self._next_piece = self._planner.next_piece()

    def _release(self, place: int) -> None:
        """Let go of pieces that no step from `place` on needs; those before it have all been assembled."""
        while self._by_end and self._by_end[0][0] < place:
            held = self._held.pop(heapq.heappop(self._by_end)[1])
            self._held_nbytes -= held.nbytes
            self._planner.forget(held.piece)

    def _read_measured(self, piece: Piece) -> Columns:
        columns = self._read(piece)
        self._measured.append((piece.number, sum(column_nbytes(column) for column in columns.values())))
        return columns

    def _assembled(self, start: int) -> Any:
        plan = self._planner.plan_step(start)
        try:
            columns = [self._held[number].columns.result() for number in plan.pieces]
        except ChunkstoreError:
            return self._assemble_alone(start)
        return self._assemble(plan, columns)
