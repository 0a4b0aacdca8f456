"""Prefetching: pieces are read ahead of the steps that need them, batches assembled ahead of their consumer.

Reads happen in the order of need, in threads, within a budget of bytes; what the next steps need is always admitted, so that no
budget can bring a halt. A failure surfaces at the batch it concerns. Plans nothing (`plan/pieces.py` does) and decides nothing about
order. Before it: `Planner`; after it: the consumer of `Loader`.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from chunkstore.errors import ForkedLoader
from chunkstore.kernels.columns import Column
from chunkstore.plan.pieces import Piece, PieceKey, Planner, StepPlan

Columns = dict[str, Column]
READY_STEPS = 2
"""Batches assembled ahead of the consumer, besides one for every thread that assembles."""


@dataclass(slots=True, eq=False)
class _Held:
    """A piece that is being read or held, and how many planned steps still need it."""

    columns: "Future[Columns]"
    last_place: int
    nbytes: int
    steps: int = 0


@dataclass(slots=True, eq=False)
class _Ahead:
    plan: StepPlan
    batch: "Future[Any] | None" = field(default=None)


class Prefetcher:
    """Iterates over the batches of one epoch, as (places handed out, batch).

    Args:
        planner: Of the epoch and rank.
        consumed: Place at which to begin.
        read: Reads a piece.
        assemble: Makes a batch of a step from its pieces' columns.
        estimate_nbytes: Of a piece; budgets go by it.
        memory_nbytes: What pieces may hold; the next steps' are admitted whatever they hold.
        num_readers: Threads that read pieces.
        num_threads: Threads that assemble batches.
    """

    def __init__(
        self,
        planner: Planner,
        consumed: int,
        read: Callable[[Piece], Columns],
        assemble: Callable[[StepPlan, list[Columns]], Any],
        estimate_nbytes: Callable[[Piece], int],
        *,
        memory_nbytes: int,
        num_readers: int,
        num_threads: int,
    ) -> None:
        self._planner, self._read, self._assemble, self._estimate = planner, read, assemble, estimate_nbytes
        self._memory_nbytes = memory_nbytes
        self._planned_to = consumed
        self._ended = False
        self._ahead: deque[_Ahead] = deque()
        self._held: dict[PieceKey, _Held] = {}
        self._held_nbytes = 0
        self._ready_steps = READY_STEPS + num_threads
        self._readers = ThreadPoolExecutor(num_readers, thread_name_prefix="chunkstore-read")
        self._assemblers = ThreadPoolExecutor(num_threads, thread_name_prefix="chunkstore-assemble")
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
            ahead = self._ahead.popleft()
            assert ahead.batch is not None
            batch = ahead.batch.result()
            self._release(ahead.plan)
            self._advance()
            yield ahead.plan.stop, batch

    def close(self) -> None:
        """Drop what is planned; threads end with what they are reading."""
        if os.getpid() == self._pid:
            self._readers.shutdown(wait=False, cancel_futures=True)
            self._assemblers.shutdown(wait=False, cancel_futures=True)

    def _advance(self) -> None:
        while not self._ended and (len(self._ahead) < self._ready_steps or self._held_nbytes < self._memory_nbytes):
            self._plan_step()
        for ahead in list(self._ahead)[: self._ready_steps]:
            if ahead.batch is None:
                futures = [self._held[key].columns for key in ahead.plan.pieces]
                ahead.batch = self._assemblers.submit(self._assembled, ahead.plan, futures)

    def _plan_step(self) -> None:
        plan = self._planner.plan(self._planned_to)
        if plan is None:
            self._ended = True
            return
        for key in plan.pieces:
            if key not in self._held:
                piece = self._planner.piece(key)
                columns = self._readers.submit(self._read, piece)
                self._held[key] = _Held(columns, piece.last_place, self._estimate(piece))
                self._held_nbytes += self._held[key].nbytes
            self._held[key].steps += 1
        self._planned_to = plan.stop
        self._ahead.append(_Ahead(plan))

    def _release(self, plan: StepPlan) -> None:
        for key in plan.pieces:
            self._held[key].steps -= 1
        passed = [k for k, held in self._held.items() if held.steps == 0 and held.last_place < self._planned_to]
        for key in passed:
            self._held_nbytes -= self._held.pop(key).nbytes
            self._planner.forget(key)

    def _assembled(self, plan: StepPlan, pieces: "list[Future[Columns]]") -> Any:
        return self._assemble(plan, [piece.result() for piece in pieces])
