"""crc32c against known vectors and a table walk in Python; its pieces against the whole; the GIL while it works."""

import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkstore import _native


def _oracle_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


TABLE = _oracle_table()


def oracle(data: bytes, value: int = 0) -> int:
    crc = value ^ 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


# RFC 3720, appendix B.4, and the check value of every catalogue of CRCs.
VECTORS = [
    (b"", 0x00000000),
    (b"123456789", 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(reversed(range(32))), 0x113FDB5C),
]

IMPLEMENTATIONS = [_native.crc32c, _native.crc32c_table]


@pytest.mark.parametrize("crc32c", IMPLEMENTATIONS)
@pytest.mark.parametrize(("data", "expected"), VECTORS)
def test_known_vectors(crc32c, data, expected):
    assert oracle(data) == expected
    assert crc32c(data) == expected


@pytest.mark.parametrize("crc32c", IMPLEMENTATIONS)
@given(data=st.binary(max_size=2000), value=st.integers(0, 2**32 - 1))
def test_any_bytes_after_any_value_match_the_oracle(crc32c, data, value):
    assert crc32c(data, value) == oracle(data, value)


# 3 × 256 and 3 × 4096 bytes are where the interleaved loops begin.
@pytest.mark.parametrize("crc32c", IMPLEMENTATIONS)
@pytest.mark.parametrize("edge", [8, 16, 3 * 256, 6 * 256, 3 * 4096, 3 * 4096 + 3 * 256, 6 * 4096])
def test_lengths_around_each_loop_and_unaligned_starts_match_the_oracle(crc32c, edge):
    data = np.random.default_rng(edge).integers(0, 256, edge + 32, dtype=np.uint8)
    for nbytes in range(edge - 9, edge + 10):
        start = nbytes % 8
        piece = data[start : start + max(nbytes, 0)]
        assert crc32c(piece) == oracle(piece.tobytes())


@pytest.mark.parametrize("crc32c", IMPLEMENTATIONS)
@given(cuts=st.lists(st.integers(0, 40_000), max_size=6), seed=st.integers(0, 2**32 - 1))
def test_any_split_gives_the_crc_of_the_whole(crc32c, cuts, seed):
    data = np.random.default_rng(seed).integers(0, 256, 40_000, dtype=np.uint8)
    value = 0
    for start, stop in pairwise([0, *sorted(cuts), 40_000]):
        value = crc32c(data[start:stop], value)
    assert value == _native.crc32c_table(data)


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, lambda b: np.frombuffer(b, "<f8").reshape(2, -1)])
def test_every_kind_of_buffer_is_taken(make):
    data = bytes(range(128))
    assert _native.crc32c(make(data)) == oracle(data)


def test_a_strided_array_is_refused():
    with pytest.raises(ValueError, match="contiguous"):
        _native.crc32c(np.arange(100)[::2])


def test_what_is_no_buffer_is_a_type_error():
    with pytest.raises(TypeError):
        _native.crc32c("text")


def test_another_thread_goes_on_while_a_large_buffer_is_summed():
    # The table needs about 0.1 s for this; a call that held the GIL would let the counter stand still meanwhile.
    data = np.zeros(256 << 20, np.uint8)
    ticks = [0]
    stop = threading.Event()

    def count() -> None:
        while not stop.is_set():
            ticks[0] += 1
            time.sleep(0)

    counter = threading.Thread(target=count)
    counter.start()
    try:
        while ticks[0] < 10:
            time.sleep(0.001)
        before = ticks[0]
        _native.crc32c_table(data)
        during = ticks[0] - before
    finally:
        stop.set()
        counter.join()
    assert during > 100


@given(st.binary(max_size=200), st.data())
def test_spans_are_the_crcs_of_their_slices(data: bytes, draw: st.DataObject) -> None:
    ends = st.integers(0, len(data))
    spans = draw.draw(st.lists(st.tuples(ends, ends).map(sorted), max_size=20))
    starts, stops = np.array(spans, np.int64).reshape(-1, 2).T
    out = np.empty(len(spans), np.uint32)
    _native.crc32c_spans(out, data, np.ascontiguousarray(starts), np.ascontiguousarray(stops))
    assert out.tolist() == [oracle(data[start:stop]) for start, stop in spans]


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 5), (5, 5), (0, 2**62), (-(2**63), 2**63 - 1)])
def test_a_span_outside_the_data_is_refused_and_nothing_written(start: int, stop: int) -> None:
    out = np.zeros(2, np.uint32)
    with pytest.raises(ValueError, match="span 1 is"):
        _native.crc32c_spans(out, b"1234", np.array([0, start]), np.array([4, stop]))
    assert not out.any()


def test_spans_need_arrays_of_one_length_and_the_right_kind() -> None:
    one, two = np.zeros(1, np.int64), np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="starts 2"):
        _native.crc32c_spans(np.empty(1, np.uint32), b"", two, one)
    with pytest.raises(ValueError, match="out is not a one-dimensional array of uint32"):
        _native.crc32c_spans(np.empty(1, np.int32), b"", one, one)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="starts is not a one-dimensional array of int64"):
        _native.crc32c_spans(np.empty(1, np.uint32), b"", one.astype(np.int32), one)  # type: ignore[arg-type]
