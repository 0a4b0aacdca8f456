"""Many ranges at once: in order, with typed errors, and never in the way of an interrupt."""

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from chunkstore.errors import MissingObject, StoreError
from chunkstore.store.fetch import Request, fetch_ranges


class Remote:
    """A store that answers a range with its own bounds, the first ones last."""

    url = "s3://bucket/dataset"
    is_local = False

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        ((start, stop),) = ranges
        time.sleep(0.02 / (1 + start))
        if key == "absent":
            raise FileNotFoundError(key)
        if key == "failing":
            raise StoreError("no answer")
        return [memoryview(f"{start}-{stop}".encode())]


def test_bytes_come_in_the_order_asked_for() -> None:
    store: Any = Remote()
    requests = [Request("object", start, start + 1) for start in range(100)]
    assert [bytes(data).decode() for data in fetch_ranges(store, requests)] == [f"{n}-{n + 1}" for n in range(100)]
    assert fetch_ranges(store, []) == []


@pytest.mark.parametrize(("key", "error"), [("absent", MissingObject), ("failing", StoreError)])
def test_one_request_that_fails_fails_all_with_a_typed_error(key: str, error: type[Exception]) -> None:
    store: Any = Remote()
    with pytest.raises(error, match="absent from the store" if key == "absent" else "no answer"):
        fetch_ranges(store, [*(Request("object", n, n + 1) for n in range(50)), Request(key, 0, 1)])


def test_an_interrupt_drops_what_is_queued(tmp_path: Path) -> None:
    script = tmp_path / "fetch.py"
    script.write_text(
        textwrap.dedent("""
            import time
            from chunkstore.store.fetch import Request, fetch_ranges

            class Slow:
                url, is_local = "s3://bucket/dataset", False
                def read_ranges(self, key, ranges):
                    time.sleep(0.5)
                    return [memoryview(b"")]

            print("begun", flush=True)
            fetch_ranges(Slow(), [Request("object", n, n + 1) for n in range(3200)])  # 50 s, were they all done
        """)
    )
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        _, told = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in told
    assert time.monotonic() - begun < 5
