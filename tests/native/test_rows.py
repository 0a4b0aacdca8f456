"""gather_rows and gather_spans against NumPy's own indexing; every wrong argument leaves the output untouched."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkstore import _native


def gather_rows_oracle(sources, source_index, row_index):
    return np.stack([sources[s][r] for s, r in zip(source_index, row_index, strict=True)])


@st.composite
def gathers(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    row_nbytes = draw(st.sampled_from([1, 2, 3, 4, 7, 8, 12, 16, 17, 63, 64, 65, 200, 1000]))
    source_rows = draw(st.lists(st.integers(1, 50), min_size=1, max_size=5))
    sources = [rng.integers(0, 256, (rows, row_nbytes), dtype=np.uint8) for rows in source_rows]
    num_rows = draw(st.integers(1, 60))
    source_index = rng.integers(0, len(sources), num_rows).astype(np.int32)
    row_index = np.array([rng.integers(0, source_rows[s]) for s in source_index], np.int64)
    return sources, source_index, row_index


@given(gathers())
def test_rows_are_those_numpy_indexes(gather):
    sources, source_index, row_index = gather
    out = np.zeros((len(row_index), sources[0].shape[1]), np.uint8)
    _native.gather_rows(out, sources, source_index, row_index)
    np.testing.assert_array_equal(out, gather_rows_oracle(sources, source_index, row_index))


def test_rows_of_any_dtype_and_shape_are_copied_as_bytes():
    source = np.random.default_rng(0).standard_normal((20, 3, 4))
    out = np.empty((7, 3, 4))
    index = np.array([3, 3, 0, 19, 5, 6, 7])
    _native.gather_rows(out, [source], np.zeros(7, np.int32), index)
    np.testing.assert_array_equal(out, source[index])


def test_sources_may_be_bytes_and_may_be_empty():
    out = bytearray(4)
    _native.gather_rows(out, [b"", b"abcdef"], np.array([1, 1], np.int32), np.array([2, 0], np.int64))
    assert out == b"efab"


def test_no_rows_into_an_empty_output_is_nothing():
    _native.gather_rows(bytearray(), [b"abc"], np.empty(0, np.int32), np.empty(0, np.int64))


def test_rows_of_no_bytes_are_nothing():
    _native.gather_rows(np.empty((3, 0)), [b""], np.zeros(3, np.int32), np.arange(3))


ZEROS = np.zeros(2, np.int32)
SOURCE = bytes(range(12))  # three rows of four bytes
WRONG_ROWS = {
    "row too high": ([SOURCE], ZEROS, np.array([0, 3]), r"row_index\[1\] is 3"),
    "row negative": ([SOURCE], ZEROS, np.array([0, -1]), r"row_index\[1\] is -1"),
    "row that wraps around": ([SOURCE], ZEROS, np.array([0, 2**62]), r"row_index\[1\]"),
    "source too high": ([SOURCE], np.array([0, 1], np.int32), np.array([0, 0]), r"source_index\[1\] is 1"),
    "source negative": ([SOURCE], np.array([0, -1], np.int32), np.array([0, 0]), r"source_index\[1\] is -1"),
    "no sources": ([], ZEROS, np.array([0, 0]), "0 sources"),
    "half a row in a source": ([SOURCE, b"abcdef"], ZEROS, np.array([0, 0]), r"sources\[1\] has 6 bytes"),
    "indices of two lengths": ([SOURCE], np.zeros(3, np.int32), np.array([0, 0]), "3 entries"),
    "output that does not divide": ([SOURCE], np.zeros(3, np.int32), np.array([0, 0, 0]), "whole number"),
    "no rows for a full output": ([SOURCE], np.zeros(0, np.int32), np.zeros(0, np.int64), "no rows"),
    "int64 sources": ([SOURCE], np.zeros(2, np.int64), np.array([0, 0]), "source_index .* int32"),
    "int32 rows": ([SOURCE], ZEROS, np.zeros(2, np.int32), "row_index .* int64"),
    "unsigned rows": ([SOURCE], ZEROS, np.zeros(2, np.uint64), "row_index .* int64"),
    "float rows": ([SOURCE], ZEROS, np.zeros(2), "row_index .* int64"),
    "big-endian rows": ([SOURCE], ZEROS, np.zeros(2, ">i8"), "row_index .* int64"),
    "rows in two dimensions": ([SOURCE], ZEROS, np.zeros((2, 1), np.int64), "row_index .* one-dimensional"),
    "strided rows": ([SOURCE], ZEROS, np.zeros(4, np.int64)[::2], "row_index.*contiguous"),
}


@pytest.mark.parametrize("case", WRONG_ROWS)
def test_wrong_rows_are_refused_and_nothing_is_written(case):
    sources, source_index, row_index, reason = WRONG_ROWS[case]
    out = bytearray(b"untouch!")
    with pytest.raises(ValueError, match=reason):
        _native.gather_rows(out, sources, source_index, row_index)
    assert out == b"untouch!"


def test_a_read_only_output_is_refused():
    with pytest.raises(ValueError, match="out"):
        _native.gather_rows(bytes(8), [SOURCE], ZEROS, np.array([0, 0]))
    frozen = np.zeros(8, np.uint8)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="out"):
        _native.gather_rows(frozen, [SOURCE], ZEROS, np.array([0, 0]))


def test_an_output_that_overlaps_a_source_is_refused():
    memory = np.arange(16, dtype=np.uint8)
    with pytest.raises(ValueError, match=r"sources\[0\] overlaps"):
        _native.gather_rows(memory[:8], [memory[4:]], ZEROS, np.array([0, 0]))
    _native.gather_rows(memory[:8], [memory[8:]], ZEROS, np.array([1, 0]))
    assert memory[:8].tolist() == [12, 13, 14, 15, 8, 9, 10, 11]


@given(
    lengths=st.lists(st.integers(0, 300), min_size=1, max_size=4),
    picks=st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1), st.floats(0, 1)), max_size=30),
)
def test_spans_are_those_slicing_gives(lengths, picks):
    rng = np.random.default_rng(len(picks))
    sources = [rng.bytes(length) for length in lengths]
    source_index, starts, stops = [], [], []
    for pick, one, other in picks:
        source = pick % len(sources)
        start, stop = sorted((round(one * lengths[source]), round(other * lengths[source])))
        source_index.append(source)
        starts.append(start)
        stops.append(stop)
    expected = b"".join(sources[s][a:b] for s, a, b in zip(source_index, starts, stops, strict=True))
    out = bytearray(len(expected))
    indices = np.array(source_index, np.int32), np.array(starts, np.int64), np.array(stops, np.int64)
    _native.gather_spans(out, sources, *indices)
    assert out == expected


WRONG_SPANS = {
    "stop past the end": ([0, 9], [4, 13], r"span 1 is \[9, 13\)"),
    "stop before start": ([0, 6], [4, 2], r"span 1 is \[6, 2\)"),
    "negative start": ([0, -1], [4, 3], r"span 1 is \[-1, 3\)"),
    "start past the end": ([0, 13], [4, 13], r"span 1 is \[13, 13\)"),
    "extreme bounds": ([0, -(2**63)], [4, 2**63 - 1], "span 1"),
    "too many bytes": ([0, 0], [8, 8], "more than the 8 bytes"),
    "too few bytes": ([0, 0], [4, 3], "the spans have 7 bytes"),
}


@pytest.mark.parametrize("case", WRONG_SPANS)
def test_wrong_spans_are_refused_and_nothing_is_written(case):
    starts, stops, reason = WRONG_SPANS[case]
    out = bytearray(b"untouch!")
    with pytest.raises(ValueError, match=reason):
        _native.gather_spans(out, [SOURCE], ZEROS, np.array(starts), np.array(stops))
    assert out == b"untouch!"


def test_spans_of_unequal_numbers_or_unknown_sources_are_refused():
    with pytest.raises(ValueError, match="stops 1"):
        _native.gather_spans(bytearray(4), [SOURCE], ZEROS, np.array([0, 4]), np.array([4]))
    with pytest.raises(ValueError, match=r"source_index\[1\] is 5"):
        _native.gather_spans(bytearray(4), [SOURCE], np.array([0, 5], np.int32), np.array([0, 0]), np.array([4, 0]))
    out = np.arange(8, dtype=np.uint8)
    with pytest.raises(ValueError, match="overlaps"):
        _native.gather_spans(out, [out], ZEROS, np.array([0, 0]), np.array([4, 4]))
