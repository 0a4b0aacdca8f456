"""Shard indexes are as Zarr says, and none that leads outside its object is believed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkstore._native import crc32c
from chunkstore.errors import InvalidDataset
from chunkstore.format.shard_index import decode_index, encode_index, index_nbytes


@given(st.lists(st.integers(0, 1000), max_size=20), st.integers(0, 5))
def test_an_index_comes_back(sizes: list[int], absent: int) -> None:
    num_chunks = len(sizes) + absent
    data = encode_index(sizes, num_chunks)
    assert len(data) == index_nbytes(num_chunks)
    index = decode_index(data, num_chunks, sum(sizes) + len(data), "shard")
    stops = np.cumsum(sizes)
    assert index[: len(sizes), 1].tolist() == stops.tolist()
    assert index[: len(sizes), 0].tolist() == (stops - sizes).tolist()
    assert (index[len(sizes) :] == -1).all()


@given(st.integers(0, 35), st.integers(0, 7))
def test_a_flipped_bit_is_found(at: int, bit: int) -> None:
    data = bytearray(encode_index([3, 4], 2))
    data[at] ^= 1 << bit
    with pytest.raises(InvalidDataset, match="shard: crc32c mismatch in the shard index"):
        decode_index(bytes(data), 2, 7 + len(data), "shard")


ABSENT = (1 << 64) - 1


@pytest.mark.parametrize(
    "entries",
    [
        [(0, 101), (0, 0)],
        [(101, 0), (0, 0)],
        [(0, 60), (50, 50)],
        [(50, 50), (0, 51)],
        [(0, ABSENT), (0, 0)],
        [(ABSENT, 0), (0, 0)],
        [(ABSENT - 1, 2), (0, 0)],
        [(1 << 63, 1 << 63), (0, 0)],
        [(99, 2), (0, 0)],
    ],
)
def test_ranges_that_overlap_or_leave_the_object_are_refused(entries: list[tuple[int, int]]) -> None:
    body = np.array(entries, "<u8").tobytes()
    data = body + crc32c(body).to_bytes(4, "little")
    with pytest.raises(InvalidDataset, match="shard"):
        decode_index(data, 2, 100 + len(data), "shard")


def test_an_object_shorter_than_its_index_holds_no_chunk() -> None:
    data = encode_index([], 2)
    assert (decode_index(data, 2, 3, "shard") == -1).all()
