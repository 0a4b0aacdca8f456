"""Doing several reads side by side, so that remote ones wait for the store together and not one after another.

Reads nest: fields, of fragments, of arrays, of which `fetch.py` fetches ranges with threads of its own. Each level has its own
threads, so that no job waits for one that is queued behind it. Knows nothing of what the jobs read;
`reading/dataset.py`, `reading/parts.py` and `reading/part.py` stand before it.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from enum import Enum
from typing import TypeVar

from chunkstore.store.threads import JobThreads

_Result = TypeVar("_Result")

NUM_THREADS = 16
"""Of a level, in a process."""


class Level(Enum):
    """What is read side by side; a job of one level may do jobs of a later one."""

    FIELDS = "fields"
    FRAGMENTS = "fragments"
    ARRAYS = "arrays"
    OBJECTS = "objects"
    CHUNKS = "chunks"
    DOCUMENTS = "documents"


def do_all(level: Level, jobs: Sequence[Callable[[], _Result]]) -> list[_Result]:
    """What the jobs give, in order; the first that fails, in that order, fails all. The caller's thread does one of them."""
    if not jobs:
        return []
    futures: list[Future[_Result]] = []
    try:
        for job in jobs[1:]:
            futures.append(_threads(level).submit(job))  # noqa: PERF401  (a failure leaves those before it to be cancelled)
        return [jobs[0](), *(future.result() for future in futures)]
    finally:
        for future in futures:
            future.cancel()  # after a failure or an interrupt nobody wants the rest


_lock = threading.Lock()
_threads_of: dict[Level, JobThreads] = {}


def _threads(level: Level) -> JobThreads:
    with _lock:
        if (threads := _threads_of.get(level)) is None:
            threads = _threads_of[level] = JobThreads(NUM_THREADS, f"chunkstore-{level.value}")
        return threads


def _after_fork() -> None:
    global _lock  # noqa: PLW0603  (the parent's lock may be held by a thread that does not exist here)
    _lock = threading.Lock()
    _threads_of.clear()


os.register_at_fork(after_in_child=_after_fork)
