"""The threads of a writer: several encode at once, one uploads in order, a failure is heard by whoever comes next."""

import threading

import numpy as np
import pytest

import chunkstore as cs
from chunkstore.errors import StoreError
from chunkstore.writing.workers import Workers


def test_a_failed_writer_goes_on_raising() -> None:
    workers = Workers(2)

    def fail() -> None:
        raise StoreError("broken")

    workers.submit(np.empty(1, np.uint8), fail, lambda _: None)
    for _ in range(100):
        try:
            workers.submit(np.empty(1 << 20, np.uint8), lambda: None, lambda _: None)
        except StoreError:
            break
    for _ in range(100):
        with pytest.raises(StoreError, match="broken"):
            workers.submit(np.empty(1 << 20, np.uint8), lambda: None, lambda _: None)
    with pytest.raises(StoreError, match="broken"):
        workers.finish()


def test_uploads_come_in_the_order_submitted() -> None:
    workers, uploaded = Workers(4), []
    for i in range(200):
        workers.submit(workers.take_buffer(1 << 16), lambda i=i: i, uploaded.append)  # type: ignore[misc]
    workers.finish()
    assert uploaded == list(range(200))


def test_as_many_encode_at_once_as_there_are_threads() -> None:
    together = threading.Barrier(3, timeout=20)  # broken, and an error, unless three wait at once
    workers = Workers(3)
    for _ in range(6):
        workers.submit(np.empty(1, np.uint8), together.wait, lambda _: None)
    workers.finish()


@pytest.mark.parametrize("num_threads", [1, 3])
def test_a_writer_encodes_in_as_many_threads_as_it_is_told(
    monkeypatch: pytest.MonkeyPatch, memory: object, num_threads: int
) -> None:
    seen: set[str] = set()
    together = threading.Barrier(num_threads, timeout=20)

    def encode(*_: object) -> None:
        if len(seen) < num_threads:
            seen.add(threading.current_thread().name)
            together.wait()
        raise StoreError("seen enough")

    monkeypatch.setattr("chunkstore.writing.sinks._encode", encode)
    with pytest.raises(StoreError, match="seen enough"):  # noqa: SIM117
        with cs.create(memory.url, {"x": cs.Array("uint8", (1 << 20,))}, num_threads=num_threads) as writer:  # type: ignore[attr-defined]
            for _ in range(1000):
                writer.write({"x": np.zeros(1 << 20, np.uint8)})
    assert len(seen) == num_threads
