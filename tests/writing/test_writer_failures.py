"""Writers that fail, are shared, forked or dropped: what is committed is whole, and nothing is lost in silence."""

import gc
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkstore as cs
from chunkstore.errors import DatasetNotFound, StoreError
from chunkstore.writing import writer as writer_module
from chunkstore.writing.encode import encode_value
from chunkstore.writing.sinks import ArraySink

SCHEMA = {"label": cs.Array("int64"), "tokens": cs.Ragged("uint16"), "caption": cs.Text()}


def sample(i: int) -> dict[str, Any]:
    return {"label": i, "tokens": np.arange(1 + i % 5, dtype="u2"), "caption": "x" * (i % 3)}


def columns(start: int, stop: int) -> dict[str, Any]:
    return {name: [sample(i)[name] for i in range(start, stop)] for name in SCHEMA}


def run(code: str, *arguments: object) -> None:
    completed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr


def failing_once(append: Callable[..., None], error: BaseException, at: str) -> Callable[..., None]:
    """A method of `ArraySink` that fails the first time that it is called of the array `at`."""
    failures = [error]

    def append_or_fail(self: Any, *rows: Any) -> None:
        if failures and self.key.endswith(at):
            raise failures.pop()
        append(self, *rows)

    return append_or_fail


@pytest.mark.parametrize("error", [MemoryError("no memory"), KeyboardInterrupt(), OSError("disk full")], ids=repr)
@pytest.mark.parametrize("then", ["write", "write_batch", "close"])
def test_after_a_write_that_failed_half_way_nothing_is_taken_or_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, then: str
) -> None:
    with cs.create(tmp_path / "ds", SCHEMA) as writer:
        writer.write(sample(0))
    monkeypatch.setattr(ArraySink, "append", failing_once(ArraySink.append, error, "tokens/values"))
    with pytest.raises(StoreError, match=r"half-way.*write all samples again with a new writer"):  # noqa: SIM117
        with cs.append(tmp_path / "ds") as writer:
            calls: dict[str, Callable[[], None]] = {
                "write": lambda: writer.write(sample(8)),
                "write_batch": lambda: writer.write_batch(columns(8, 12)),
                "close": writer.close,
            }
            for i in range(1, 5):
                writer.write(sample(i))
            with pytest.raises(type(error)):
                writer.write_batch(columns(5, 8))
            calls[then]()
    assert cs.open(tmp_path / "ds").version == 1


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (StoreError("disk full"), "disk full"),
        (KeyboardInterrupt(), r"interrupted \(KeyboardInterrupt\).*chunkstore.versions"),
    ],
    ids=repr,
)
def test_a_close_that_failed_fails_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, again: str
) -> None:
    writer = cs.create(tmp_path / "ds", SCHEMA)
    writer.write(sample(0))
    monkeypatch.setattr(ArraySink, "finish", failing_once(ArraySink.finish, error, "label"))
    with pytest.raises(type(error)):
        writer.close()
    for _ in range(2):
        with pytest.raises(StoreError, match=again):
            writer.close()
    assert writer.version is None
    with pytest.raises(DatasetNotFound):
        cs.open(tmp_path / "ds")


def test_a_commit_that_failed_fails_again(tmp_path: Path) -> None:
    late = cs.create(tmp_path / "ds", SCHEMA)
    late.write(sample(0))
    with cs.create(tmp_path / "ds", SCHEMA) as writer:
        writer.write(sample(1))
    for _ in range(2):
        with pytest.raises(cs.DatasetExists):
            late.close()
    assert cs.open(tmp_path / "ds")["label"][:].tolist() == [1]


def test_a_failure_of_the_store_ends_the_writer_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, data: object) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr("chunkstore.store.local.LocalUpload.write", fail)
    with pytest.raises(StoreError, match=r"half-way \(StoreError: disk full\)"):  # noqa: SIM117
        with cs.create(tmp_path / "ds", {"x": cs.Array("uint8", (1 << 20,), codec=None)}) as writer:
            with pytest.raises(StoreError, match="disk full"):
                for _ in range(1000):
                    writer.write({"x": np.zeros(1 << 20, np.uint8)})
            monkeypatch.undo()
            writer.write({"x": np.zeros(1 << 20, np.uint8)})
    with pytest.raises(DatasetNotFound):
        cs.open(tmp_path / "ds")


def test_a_sample_that_cannot_be_copied_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Uncopied(np.ndarray):  # type: ignore[type-arg]
        def copy(self, *_: Any) -> Any:
            raise MemoryError

    def encode(name: str, *rest: Any) -> Any:
        value = encode_value(name, *rest)
        return value.view(Uncopied) if name == "b" and value == 2 else value

    monkeypatch.setattr(writer_module, "encode_value", encode)
    with cs.create(tmp_path / "ds", {"a": cs.Array("int64"), "b": cs.Array("int64")}) as writer:
        for i in range(5):
            if i == 2:
                with pytest.raises(MemoryError):
                    writer.write({"a": 2, "b": 2})
                assert writer.num_samples == 2
            else:
                writer.write({"a": i, "b": i})
    ds = cs.open(tmp_path / "ds")
    assert ds["a"][:].tolist() == ds["b"][:].tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize("lost", ["append", "_upload", "_end_shard"])
@pytest.mark.parametrize("array", ["/label", "/tokens/values", "/tokens/spans", "/noise/crc"])
def test_what_does_not_hold_all_samples_is_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str, array: str
) -> None:
    """Should a fault of ours lose rows or shards, this is where it ends."""
    kept = getattr(ArraySink, lost)
    num_lost = 0

    def lose(self: Any, *rest: Any) -> None:
        nonlocal num_lost
        if self.key.endswith(array) and (num_lost == 0 or lost == "_end_shard"):  # which is called again at the end
            num_lost += 1
        else:
            kept(self, *rest)

    schema = {**SCHEMA, "noise": cs.Bytes(codec=None)}
    batch = {**columns(0, 100), "noise": [bytes([i]) for i in range(100)]}
    monkeypatch.setattr(ArraySink, lost, lose)
    with pytest.raises(StoreError, match=f"does not hold the 200 samples written: fragments/.*{array} took"):  # noqa: SIM117
        with cs.create(tmp_path / "ds", schema) as writer:
            writer.write_batch(batch)
            writer.write_batch(batch)
    assert num_lost
    with pytest.raises(DatasetNotFound):
        cs.open(tmp_path / "ds")


def test_threads_that_share_a_writer_keep_samples_whole(tmp_path: Path) -> None:
    schema = {f"f{i}": cs.Array("int64") for i in range(6)}
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with cs.create(tmp_path / "ds", schema) as writer, ThreadPoolExecutor(8) as pool:

            def write(i: int) -> None:
                if i % 100:
                    writer.write(dict.fromkeys(schema, i))
                else:
                    writer.write_batch({name: np.array([i]) for name in schema})

            list(pool.map(write, range(8000)))
            assert writer.num_samples == 8000
    finally:
        sys.setswitchinterval(interval)
    ds = cs.open(tmp_path / "ds")
    found = np.array([ds[name][:] for name in schema])
    assert (found == found[0]).all()
    assert sorted(found[0]) == list(range(8000))


def test_a_value_that_writes_while_it_is_written_cannot_harm(tmp_path: Path) -> None:
    class Closes:
        def __array__(self, *_: Any, **__: Any) -> Any:
            writer.close()
            return np.array(7)

    writer = cs.create(tmp_path / "ds", {"a": cs.Array("int64")})
    writer.write({"a": 1})
    with pytest.raises(ValueError, match="after close"):
        writer.write({"a": Closes()})
    assert cs.open(tmp_path / "ds")["a"][:].tolist() == [1]


FORKED_WRITER = """
    import os, signal, sys, warnings
    import numpy as np
    import chunkstore as cs
    signal.alarm(60)
    rows = np.random.default_rng(0).random((2048, 1024), "f4")
    writer = cs.create(sys.argv[1], {"a": cs.Array("float32", (1024,))}, num_threads=1)
    for _ in range(4):
        writer.write_batch({"a": rows})
    writer.write({"a": rows[0]})

    def attempt(call):
        try:
            call()
        except cs.ForkedLoader as error:
            assert "a writer of its own" in str(error)
        else:
            os._exit(3)

    pid = os.fork()
    if pid == 0:
        warnings.simplefilter("error")
        signal.alarm(20)
        status = 4
        try:
            attempt(lambda: writer.write({"a": rows[0]}))
            attempt(lambda: writer.write_batch({"a": rows}))
            attempt(writer.close)
            attempt(lambda: writer.__exit__(None, None, None))
            writer.__exit__(KeyError, KeyError("the child's own"), None)
            del writer
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0, status
    for _ in range(4):
        writer.write_batch({"a": rows})
    writer.close()
    ds = cs.open(sys.argv[1])
    assert len(ds) == 8 * 2048 + 1
    for start in (0, 2048, 3 * 2048, 4 * 2048 + 1, 7 * 2048 + 1):
        assert np.array_equal(ds["a"][start : start + 2048], rows)
"""


def test_a_forked_child_is_refused_and_does_not_touch_what_its_parent_writes(tmp_path: Path) -> None:
    run(FORKED_WRITER, tmp_path / "ds")


def test_a_writer_dropped_with_samples_says_so(tmp_path: Path) -> None:
    writer = cs.create(tmp_path / "ds", SCHEMA)
    writer.write(sample(0))
    with pytest.warns(ResourceWarning, match="samples=1, open.*were not committed"):
        del writer
        gc.collect()
    cs.create(tmp_path / "ds", SCHEMA)  # nothing written, nothing lost
    gc.collect()


def test_an_abort_that_fails_does_not_hide_the_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aborted = []

    def fail(self: Any) -> None:
        aborted.append(self.key)
        raise PermissionError("the folder is gone")

    monkeypatch.setattr(ArraySink, "abort", fail)
    with pytest.raises(ZeroDivisionError), cs.create(tmp_path / "ds", SCHEMA) as writer:
        writer.write(sample(0))
        raise ZeroDivisionError
    assert {key.rsplit("/0/")[1] for key in aborted} >= {"label", "tokens/values", "caption/spans"}
