"""Threads that do jobs in the order in which they come, and never keep a process from ending.

Unlike `concurrent.futures`, whose threads must finish all that is queued before the interpreter may exit, these drop what has
not begun when they are closed, when their process ends, or when it is interrupted. Knows nothing of what the jobs do;
`loader/prefetch.py` stands before it.
"""

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Job = tuple["Future[Any]", Callable[[], Any]]

EXIT_WAIT_S = 0.5
"""How long a process that ends waits for jobs that have begun."""


class JobThreads:
    """Up to `count` threads, started when there is something to do.

    Args:
        count: Threads at most.
        name: Of the threads, for debuggers.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name = count, name
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._num_idle = 0
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._pid = os.getpid()
        _living.add(self)

    def submit(
        self, work: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> "Future[_Result]":
        """Queue a job; its future fails with CancelledError if it is dropped.

        Raises:
            RuntimeError: the threads have been closed, or none can be started.
        """
        future: Future[_Result] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError(f"{self._name}: closed")
            self._jobs.append((future, lambda: work(*args, **kwargs)))
            if self._num_idle >= len(self._jobs):
                self._changed.notify()
            elif len(self._threads) < self._count:
                self._add_thread()
        return future

    def _add_thread(self) -> None:
        """Start one more, for the job just queued; where that fails, a thread that there is does the job, or it is dropped."""
        thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError):  # the system gives no more threads
            if not self._threads:
                self._jobs.pop()
                raise
        else:
            self._threads.append(thread)

    def close(self) -> None:
        """Drop what has not begun; threads end with what they are doing. Does nothing in a forked child."""
        if os.getpid() != self._pid:
            return  # the lock may be held by a thread that does not exist here
        with self._changed:
            self._closed = True
            dropped = list(self._jobs)
            self._jobs.clear()
            self._changed.notify_all()
        for future, _ in dropped:
            future.cancel()

    def join(self, deadline_s: float) -> None:
        """Wait for the threads to end, until `time.monotonic()` reaches the deadline."""
        if os.getpid() == self._pid:
            for thread in self._threads:
                thread.join(max(0.0, deadline_s - time.monotonic()))

    def _work(self) -> None:
        while (job := self._next_job()) is not None:
            future, work = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = work()
            except BaseException as error:  # whoever waits must hear of it
                future.set_exception(error)
                del error
            else:
                future.set_result(result)
                del result
            del job, future, work  # an idle thread keeps nothing alive

    def _next_job(self) -> _Job | None:
        with self._changed:
            self._num_idle += 1
            while not self._jobs and not self._closed:
                self._changed.wait()
            self._num_idle -= 1
            return self._jobs.popleft() if self._jobs else None


_living: "weakref.WeakSet[JobThreads]" = weakref.WeakSet()


def _close_all() -> None:
    deadline_s = time.monotonic() + EXIT_WAIT_S
    living = list(_living)
    for threads in living:
        threads.close()
    for threads in living:
        threads.join(deadline_s)


atexit.register(_close_all)
