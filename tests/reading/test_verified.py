"""What `verify="first"` remembers: a chunk of a local file is compared once, and again as soon as the file is another one."""

import os
from pathlib import Path

import numpy as np
import pytest

import chunkstore as cs
from chunkstore.errors import CorruptChunk
from chunkstore.reading import verified
from chunkstore.reading.dataset import Verify

VALUES = np.random.default_rng(0).integers(0, 1000, (64, 100)).astype("i4")


@pytest.fixture
def shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(verified, "SETTLED_S", -1.0)
    verified.forget()
    with cs.create(tmp_path / "ds", {"x": cs.Array("int32", (100,), codec=None, chunk=4, shard=64)}) as writer:
        writer.write_batch({"x": VALUES})
    (path,) = tmp_path.glob("ds/fragments/*/0/x/c/0/0")
    return path


def seen(path: Path, num_chunks: int = 16) -> list[int]:
    with path.open("rb") as file:
        chunks = verified.seen_chunks(file.fileno(), num_chunks)
    assert chunks is not None
    return np.flatnonzero(chunks).tolist()


def read(path: Path, verify: Verify, rows: list[int]) -> np.ndarray:
    found: np.ndarray = cs.open(path.parents[6], verify=verify)["x"][rows]
    return found


def test_chunks_are_remembered_when_they_have_been_compared(shard: Path) -> None:
    assert seen(shard) == []
    read(shard, "never", [0, 40])
    assert seen(shard) == []
    np.testing.assert_array_equal(read(shard, "first", [1, 2, 41]), VALUES[[1, 2, 41]])
    assert seen(shard) == [0, 10]


def test_a_remembered_chunk_is_not_compared_again_unless_always(shard: Path) -> None:
    content = bytearray(shard.read_bytes())
    content[0] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CorruptChunk):
        read(shard, "first", [0])
    assert seen(shard) == []  # a chunk that failed is not
    with shard.open("rb") as file:
        chunks = verified.seen_chunks(file.fileno(), 16)
    assert chunks is not None
    chunks[0] = True
    assert (read(shard, "first", [0]) != VALUES[[0]]).sum() == 1
    with pytest.raises(CorruptChunk):
        read(shard, "always", [0])


@pytest.mark.parametrize("how", ["written to", "replaced"])
def test_a_file_that_changed_is_compared_again(shard: Path, how: str) -> None:
    read(shard, "first", list(range(64)))
    assert len(seen(shard)) == 16
    content = bytearray(shard.read_bytes())
    content[4 * 100 * 4 + 4] ^= 1
    if how == "written to":
        shard.write_bytes(content)
    else:
        beside = shard.with_name("beside")
        beside.write_bytes(content)
        times = shard.stat()
        os.utime(beside, ns=(times.st_atime_ns, times.st_mtime_ns))
        beside.rename(shard)
    assert seen(shard) == []
    read(shard, "first", [0])
    with pytest.raises(CorruptChunk, match="samples 4–7"):
        read(shard, "first", [5])


def test_nothing_is_remembered_of_a_file_that_was_changed_just_now(
    shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verified, "SETTLED_S", 1000.0)
    with shard.open("rb") as file:
        assert verified.seen_chunks(file.fileno(), 16) is None


def test_what_is_remembered_is_bounded(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "MAX_CHUNKS", 20)
    read(shard, "first", [0])
    assert seen(shard) == [0]
    other = shard.with_name("other")
    other.write_bytes(b"")
    assert seen(other, 10) == []
    assert seen(shard) == []
