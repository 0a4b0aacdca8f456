"""Threads for jobs: done in order, dropped on close, failures told to whoever waits."""

import threading
import time
from concurrent.futures import CancelledError
from types import SimpleNamespace

import pytest

from chunkstore.store import fetch, side_by_side
from chunkstore.store.threads import JobThreads


def test_jobs_begin_in_the_order_in_which_they_came():
    threads, begun = JobThreads(1, "test"), []
    futures = [threads.submit(begun.append, i) for i in range(50)]
    for future in futures:
        future.result(5)
    assert begun == list(range(50))
    threads.close()


def test_no_more_threads_run_than_allowed_and_none_without_need():
    threads, gate = JobThreads(3, "test-count"), threading.Event()
    threads.submit(int).result(5)
    time.sleep(0.05)
    threads.submit(int).result(5)
    assert sum(t.name.startswith("test-count") for t in threading.enumerate()) == 1
    futures = [threads.submit(gate.wait, 5) for _ in range(9)]
    assert sum(t.name.startswith("test-count") for t in threading.enumerate()) == 3
    gate.set()
    assert all(future.result(5) for future in futures)
    threads.close()


def test_closing_drops_what_has_not_begun_and_tells_whoever_waits():
    threads, gate = JobThreads(1, "test-close"), threading.Event()
    begun = threads.submit(gate.wait, 5)
    while not begun.running():
        time.sleep(0.001)
    dropped = threads.submit(int)
    threads.close()
    with pytest.raises(CancelledError):
        dropped.result(5)
    gate.set()
    assert begun.result(5)
    with pytest.raises(RuntimeError, match="closed"):
        threads.submit(int)
    threads.join(time.monotonic() + 5)
    assert not any(t.name.startswith("test-close") for t in threading.enumerate())


def test_a_failure_goes_to_whoever_waits_and_the_thread_goes_on():
    threads = JobThreads(1, "test")
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 // 0).result(5)
    assert threads.submit(lambda: 7).result(5) == 7
    threads.close()


def fail_to_start(monkeypatch, allowed):
    """The system gives so many threads more, then none."""
    real, left = threading.Thread.start, iter(range(allowed))

    def start(thread):
        if next(left, None) is None:
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)


def test_a_job_for_which_no_thread_starts_is_dropped_and_the_next_is_done(monkeypatch):
    threads, done = JobThreads(2, "test"), []
    with monkeypatch.context() as patched:
        fail_to_start(patched, 0)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="start new thread"):
                threads.submit(done.append, 1)
    assert threads.submit(lambda: 7).result(5) == 7
    assert done == []
    threads.close()


def test_where_no_further_thread_starts_those_that_run_do_the_jobs(monkeypatch):
    threads, gate = JobThreads(3, "test"), threading.Event()
    fail_to_start(monkeypatch, 1)
    first = threads.submit(gate.wait, 5)
    others = [threads.submit(int) for _ in range(4)]
    gate.set()
    assert first.result(5)
    assert [other.result(5) for other in others] == [0] * 4
    threads.close()


class _Refusing(JobThreads):
    """Takes one job, which is held up, and those after it up to the third; then refuses."""

    def __init__(self):
        super().__init__(1, "test-refusing")
        self.futures, self.gate = [], threading.Event()
        super().submit(self.gate.wait, 5)

    def submit(self, work, *args, **kwargs):
        if len(self.futures) == 2:
            raise RuntimeError("can't start new thread")
        self.futures.append(super().submit(work, *args, **kwargs))
        return self.futures[-1]


@pytest.mark.parametrize("read", ["side by side", "fetch"])
def test_jobs_submitted_before_a_failure_to_submit_are_cancelled(read, monkeypatch):
    threads = _Refusing()
    with pytest.raises(RuntimeError, match="start new thread"):
        if read == "fetch":
            monkeypatch.setattr(fetch, "_threads", lambda: threads)
            fetch.fetch_ranges(SimpleNamespace(is_local=False), [fetch.Request("key", 0, 1)] * 5)
        else:
            monkeypatch.setattr(side_by_side, "_threads", lambda _: threads)
            side_by_side.do_all(side_by_side.Level.FIELDS, [int] * 5)
    assert [future.cancelled() for future in threads.futures] == [True, True]
    threads.gate.set()
    threads.close()
