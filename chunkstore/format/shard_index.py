"""The index of a shard: where in the object each of its chunks lies.

An index is little-endian uint64 (chunks of a whole shard, 2): offset and nbytes, both 2^64−1 for a chunk that is not stored,
followed by its crc32c, at the end of the object. A decoded index has been checked against the object's size: every range lies
before the index and none overlaps another. Never does I/O; `reading/part.py` fetches, `plan/reads.py` uses it.

Source: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/
"""

import numpy as np
import numpy.typing as npt

from chunkstore._native import crc32c
from chunkstore.errors import InvalidDataset

Index = npt.NDArray[np.int64]
"""(chunks, 2): start and stop of each chunk in the object; (-1, -1) for a chunk that is not stored."""

_ABSENT = np.uint64(0xFFFF_FFFF_FFFF_FFFF)


def index_nbytes(num_chunks: int) -> int:
    """Bytes of the index of a shard of `num_chunks` chunks, checksum included."""
    return 16 * num_chunks + 4


def encode_index(chunk_nbytes: npt.ArrayLike, num_chunks: int) -> bytes:
    """The index of a shard whose first chunks have these sizes, lie without gaps from byte 0, and whose rest is not stored."""
    sizes = np.asarray(chunk_nbytes, dtype="<u8")
    entries = np.full((num_chunks, 2), _ABSENT, dtype="<u8")
    entries[: len(sizes), 0] = np.concatenate([np.zeros(1, "<u8"), np.cumsum(sizes)[:-1]]) if len(sizes) else 0
    entries[: len(sizes), 1] = sizes
    body = entries.tobytes()
    return body + crc32c(body).to_bytes(4, "little")


def decode_index(data: bytes | memoryview, num_chunks: int, object_nbytes: int, where: str) -> Index:
    """Check and read an index.

    Args:
        data: The last `index_nbytes(num_chunks)` bytes of the object.
        num_chunks: Chunks of a whole shard.
        object_nbytes: Size of the object.
        where: The object, for the error.

    Raises:
        InvalidDataset: the checksum does not match, or ranges overlap or leave the object.
    """
    assert len(data) == index_nbytes(num_chunks)
    body = memoryview(data)[:-4]
    stored, computed = int.from_bytes(data[-4:], "little"), crc32c(body)
    if stored != computed:
        raise InvalidDataset(
            f"{where}: crc32c mismatch in the shard index: stored {stored:08x}, computed {computed:08x}"
        )
    entries = np.frombuffer(body, dtype="<u8").reshape(num_chunks, 2)
    present = ~(entries == _ABSENT).all(axis=1)
    limit = object_nbytes - len(data)
    if (entries[present] > np.uint64(max(limit, 0))).any():
        raise InvalidDataset(f"{where}: the shard index names bytes outside the object of {object_nbytes} bytes")
    index = np.full((num_chunks, 2), -1, dtype=np.int64)
    ranges = entries[present].astype(np.int64)
    ranges[:, 1] += ranges[:, 0]
    index[present] = ranges
    ordered = ranges[np.argsort(ranges[:, 0], kind="stable")]
    if (ordered[:, 1] > limit).any() or (ordered[1:, 0] < ordered[:-1, 1]).any():
        raise InvalidDataset(f"{where}: ranges of the shard index overlap or leave the object of {object_nbytes} bytes")
    return index
