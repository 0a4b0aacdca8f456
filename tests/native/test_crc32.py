"""crc32 against the standard library's."""

import zlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from chunkstore._native import crc32, crc32c


def test_known_vector():
    assert crc32(b"123456789") == 0xCBF43926


@given(st.binary(max_size=5000), st.integers(0, 5000))
def test_equals_zlib_whole_and_in_two_parts(data, cut):
    assert crc32(data) == zlib.crc32(data)
    assert crc32(data[cut:], crc32(data[:cut])) == zlib.crc32(data)


def test_any_contiguous_buffer_and_the_empty_one():
    array = np.arange(100_003, dtype=np.uint16)
    assert crc32(array) == zlib.crc32(array.tobytes())
    assert crc32(b"", 7) == 7


def test_tells_chunks_apart_that_end_in_their_own_crc32c():
    chunks = [bytes([n]) * 100 for n in range(10)]
    sealed = [chunk + crc32c(chunk).to_bytes(4, "little") for chunk in chunks]
    assert len({crc32c(data) for data in sealed}) == 1
    assert len({crc32(data) for data in sealed}) == len(chunks)
