"""Many chunks in one call: every row lands where it belongs, and damage concerns its own chunk alone."""

import os
import struct
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkstore import _native

ROWS, ROW_NBYTES = 24, 1500
RNG = np.random.default_rng(0)
CHUNKS = (
    (np.cumsum(RNG.integers(-2, 3, (3, ROWS * ROW_NBYTES // 4)), axis=1).astype("i4"))
    .view(np.uint8)
    .reshape(3, ROWS, -1)
)


def frame(chunk: np.ndarray, cname: str, shuffle: int, typesize: int, block_nbytes: int) -> bytes:
    numcodecs.blosc.use_threads = False
    return bytes(numcodecs.blosc.compress(chunk.tobytes(), cname.encode(), 5, shuffle, block_nbytes, typesize))


def with_crc(data: bytes) -> bytes:
    return data + struct.pack("<I", _native.crc32c(data))


def reader(compression: str, *, has_crc32c: bool = True) -> _native.ChunkReader:
    zero = np.zeros(1, np.int64)
    return _native.ChunkReader(
        compression, has_crc32c, ROWS, ROW_NBYTES, ROW_NBYTES, 4, [4], [4], np.array([ROW_NBYTES // 4]), zero, zero
    )


def read(
    chunks: _native.ChunkReader,
    sources: list[Any],
    bodies: list[tuple[int, int, int]],
    pieces: list[list[tuple[int, int]]],
    check: bool = True,
) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """Read `bodies` (source, start, stop), of each its pieces, one after another."""
    counts = [len(of) for of in pieces]
    flat = np.array([piece for of in pieces for piece in of], np.int64).reshape(-1, 2)
    lengths = flat[:, 1] - flat[:, 0]
    out = np.zeros((int(lengths.sum()), ROW_NBYTES), np.uint8)
    source, start, stop = (np.array(column) for column in zip(*bodies, strict=True))
    ends = np.cumsum(counts)
    failed = chunks.read(
        out.reshape(-1),
        sources,
        source.astype(np.int32),
        start,
        stop,
        np.zeros(len(bodies), np.int32),
        np.full(len(bodies), check, np.uint8),
        ends - counts,
        ends,
        np.ascontiguousarray(flat[:, 0]),
        np.ascontiguousarray(flat[:, 1]),
        np.cumsum(lengths) - lengths,
    )
    return out, failed


row_ranges = st.tuples(st.integers(0, ROWS), st.integers(0, ROWS)).map(lambda pair: (min(pair), max(pair)))


@settings(max_examples=120, deadline=None)
@given(
    cname=st.sampled_from(["lz4", "zstd", "lz4hc", "blosclz", "zlib"]),
    shuffle=st.integers(0, 2),
    typesize=st.sampled_from([1, 2, 3, 4, 7, 8]),
    block_nbytes=st.sampled_from([0, 4096, 5000, 16384]),
    check=st.booleans(),
    pieces=st.lists(st.lists(row_ranges, min_size=1, max_size=4), min_size=3, max_size=3),
)
def test_wanted_rows_of_blosc_frames_are_those_of_the_chunks(
    cname: str, shuffle: int, typesize: int, block_nbytes: int, check: bool, pieces: list[list[tuple[int, int]]]
) -> None:
    stored = [with_crc(frame(chunk, cname, shuffle, typesize, block_nbytes)) for chunk in CHUNKS]
    out, failed = read(reader("blosc"), stored, [(i, 0, len(s)) for i, s in enumerate(stored)], pieces, check)
    assert failed == []
    wanted = [chunk[a:b] for chunk, of in zip(CHUNKS, pieces, strict=True) for a, b in of]
    np.testing.assert_array_equal(out, np.concatenate(wanted))


@pytest.mark.parametrize("compression", ["", "blosc", "zstd"])
@pytest.mark.parametrize("check", [True, False])
def test_files_and_memory_give_the_same(tmp_path: Path, compression: str, check: bool) -> None:
    encode = {
        "": bytes,
        "blosc": lambda c: frame(c, "zstd", 1, 4, 8192),
        "zstd": lambda c: bytes(numcodecs.Zstd(3).encode(c)),
    }
    stored = [with_crc(encode[compression](chunk.tobytes() if compression != "blosc" else chunk)) for chunk in CHUNKS]
    path = tmp_path / "shard"
    path.write_bytes(b"".join(stored))
    ends = np.cumsum([len(s) for s in stored]).tolist()
    bodies = [(i % 2, end - len(s), end) for i, (s, end) in enumerate(zip(stored, ends, strict=True))]
    pieces = [[(0, ROWS)], [(3, 4), (20, 22)], [(ROWS - 1, ROWS)]]
    wanted = np.concatenate([CHUNKS[0], CHUNKS[1][3:4], CHUNKS[1][20:22], CHUNKS[2][-1:]])
    file = os.open(path, os.O_RDONLY)
    try:
        for sources in ([file, path.read_bytes()], [file, file]):
            out, failed = read(reader(compression), sources, bodies, pieces, check)
            assert failed == []
            np.testing.assert_array_equal(out, wanted)
        out, failed = read(
            reader(compression), [file], [(0, ends[-1] - 10, ends[-1] - 10 + len(stored[0]))], [[(0, 1)]]
        )
        assert [(i, "the file ends" in reason) for i, reason in failed] == [(0, True)]
    finally:
        os.close(file)


@pytest.mark.parametrize("compression", ["", "blosc", "zstd"])
def test_a_damaged_chunk_is_named_and_the_others_are_right(compression: str) -> None:
    encode = {
        "": bytes,
        "blosc": lambda c: frame(c, "lz4", 1, 4, 0),
        "zstd": lambda c: bytes(numcodecs.Zstd(3).encode(c)),
    }
    stored = [bytearray(with_crc(encode[compression](c.tobytes() if compression != "blosc" else c))) for c in CHUNKS]
    stored[1][len(stored[1]) // 2] ^= 1
    out, failed = read(reader(compression), stored, [(i, 0, len(s)) for i, s in enumerate(stored)], [[(5, 6)]] * 3)
    assert [i for i, _ in failed] == [1]
    assert "crc32c mismatch: stored" in failed[0][1]
    np.testing.assert_array_equal(out[[0, 2]], CHUNKS[[0, 2], 5])


@pytest.mark.parametrize("cname", ["lz4", "zstd"])
def test_flipped_bytes_that_no_checksum_covers_are_errors_or_wrong_bytes_and_never_more(cname: str) -> None:
    whole = frame(CHUNKS[0], cname, 1, 4, 8192)
    chunks = reader("blosc", has_crc32c=False)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[int(RNG.integers(0, min(len(damaged), int(RNG.choice([24, 64, 1 << 20])))))] ^= 1 << int(
            RNG.integers(0, 8)
        )
        _, failed = read(chunks, [damaged], [(0, 0, len(damaged))], [[(1, 2), (13, 15)]])
        refused += bool(failed)
    assert refused > 50


@pytest.mark.parametrize(
    ("compression", "stored", "reason"),
    [
        ("", b"\0" * (ROWS * ROW_NBYTES + 5), "bytes, 36004 were expected"),
        ("zstd", b"\0" * (2 * ROWS * ROW_NBYTES + (64 << 10)), "at most"),
        ("blosc", b"\0" * 3, "too few for a crc32c"),
    ],
)
def test_chunks_of_impossible_sizes_are_refused_before_they_are_read(
    compression: str, stored: bytes, reason: str
) -> None:
    _, ((_, told),) = read(reader(compression), [stored], [(0, 0, len(stored))], [[(0, 1)]])
    assert reason in told


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"stop": [10**6]}, "leaves its source"),
        ({"start": [-1]}, "no range of bytes"),
        ({"source": [1]}, "no such source"),
        ({"tile": [1]}, "no such tile"),
        ({"piece_to": [2]}, "no such pieces"),
        ({"piece_stop": [ROWS + 1]}, "leaves its chunk"),
        ({"destination": [1]}, "leaves the output"),
        ({"destination": [2**62]}, "leaves the output"),
        ({"check": []}, "different lengths"),
    ],
    ids=str,
)
def test_indices_that_do_not_fit_are_refused_and_nothing_is_written(change: dict[str, list[int]], reason: str) -> None:
    stored = with_crc(CHUNKS[0].tobytes())
    given = {
        "source": [0],
        "start": [0],
        "stop": [len(stored)],
        "tile": [0],
        "check": [1],
        "piece_from": [0],
        "piece_to": [1],
    }
    given |= {"piece_start": [0], "piece_stop": [1], "destination": [0]} | change
    types = {"source": np.int32, "tile": np.int32, "check": np.uint8}
    out = np.zeros(ROW_NBYTES, np.uint8)
    with pytest.raises(ValueError, match=reason):
        reader("").read(out, [stored], *(np.array(value, types.get(name, np.int64)) for name, value in given.items()))
    assert not out.any()


@pytest.mark.parametrize(
    ("counts", "source", "target"),
    [([376], 0, 0), ([375], 4, 0), ([375], 0, 4), ([375], -4, 0), ([2**40], 0, 0), ([0], 0, 0)],
)
def test_tiles_that_leave_a_row_are_refused(counts: list[int], source: int, target: int) -> None:
    with pytest.raises(ValueError, match="a tile leaves"):
        _native.ChunkReader(
            "",
            True,
            ROWS,
            ROW_NBYTES,
            ROW_NBYTES,
            4,
            [4],
            [4],
            np.array(counts),
            np.array([source]),
            np.array([target]),
        )
