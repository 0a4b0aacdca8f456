"""The codec chain of one chunk, as values.

Says which of Zarr's core codecs stand between a chunk's bytes in memory and in the store: little-endian bytes, at most one
compressor, at most one crc32c. Does no coding itself: `kernels/codecs.py` does. `metadata.py` writes these values into, and
reads them from, `zarr.json`.

Sources: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/ (bytes, blosc, zstd, gzip, crc32c).
"""

from dataclasses import dataclass
from typing import Literal

CompressorName = Literal["blosc", "zstd", "gzip"]
BloscName = Literal["lz4", "lz4hc", "blosclz", "zstd", "zlib"]
BloscShuffle = Literal["noshuffle", "shuffle", "bitshuffle"]


@dataclass(frozen=True, slots=True)
class Compressor:
    """One of Zarr's core compressors.

    `level` is the compressor's own; `cname`, `shuffle`, `typesize` (bytes of an element) and `block_nbytes` (what blosc is told
    to make its blocks of; 0: as it likes) matter to blosc only.
    """

    name: CompressorName
    level: int
    cname: BloscName = "lz4"
    shuffle: BloscShuffle = "noshuffle"
    typesize: int = 1
    block_nbytes: int = 0


@dataclass(frozen=True, slots=True)
class ChunkCodecs:
    """Chunk in memory → `compressor`, if any → 4 bytes of little-endian crc32c appended, if `crc32c`."""

    compressor: Compressor | None
    crc32c: bool
