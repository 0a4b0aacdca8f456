"""Threads for jobs: done in order, dropped on close, failures told to whoever waits."""

import threading
import time
from concurrent.futures import CancelledError

import pytest

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
