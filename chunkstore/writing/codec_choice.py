"""Which codec a field is stored with: as named, or chosen from its first samples.

"auto" tries the candidates on pieces spread over the first rows and takes the fastest that pays; the answer is recorded in the
array's metadata, and no reader depends on how it was found. Writes nothing. `fields.py` asks, once an array.

Source: docs/decisions/001-chunk-shard-codec.md.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from chunkstore.format.codecs import BloscName, BloscShuffle, ChunkCodecs, Compressor
from chunkstore.format.layout import floor_power_of_two
from chunkstore.format.schema import Array, Field, Image, Ragged, stored_dtype
from chunkstore.kernels.codecs import encode_chunk

ChooseCodecs = Callable[[npt.NDArray[Any], int], ChunkCodecs]
"""From the first rows and the bytes of a chunk to the codec chain."""

LZ4_PAYS = 0.9
"""lz4 is worth its decoding where it leaves at most this share of the bytes,"""
ZSTD_PAYS = 0.8
"""zstd where it leaves at most this share,"""
ZSTD_OVER_LZ4 = 0.75
"""and at most this share of what lz4 leaves."""
TIE = 0.95
"""Of one compressor's shuffles a later one must leave less than this share of an earlier one's."""
BLOCK_NBYTES = (16 << 10, 128 << 10)
"""Least and most bytes of blosc's blocks: a read of few samples decodes only the blocks in which they lie."""
ZSTD_BLOCK_NBYTES = 32 << 10
"""Bytes of blocks in which zstd without shuffle encodes rows that are no longer, for the same reason,"""
BLOCKS_COST = 1.125
"""where it leaves at most so many times the bytes of plain zstd."""
NUM_TRIED = 4
"""Chunks, spread over the first rows, on which candidates are tried."""

_SHUFFLE_ORDER: tuple[BloscShuffle, ...] = ("shuffle", "noshuffle", "bitshuffle")


def choose_codecs(field: Field, *, plain: ChunkCodecs) -> ChooseCodecs:
    """What decides the codecs of a field's values; `plain` is the chain of values that are not compressed."""
    typesize = stored_dtype(field).itemsize
    if field.codec is None or (field.codec == "auto" and isinstance(field, Image)):
        return lambda rows, chunk_nbytes: plain
    if field.codec != "auto":
        named = ChunkCodecs(named_compressor(field.codec, typesize), crc32c=True)
        return lambda rows, chunk_nbytes: _in_blocks(named, rows)
    numbers = isinstance(field, Array | Ragged)
    shuffles = [s for s in _SHUFFLE_ORDER if s == "noshuffle" or (numbers and (s == "bitshuffle" or typesize > 1))]

    def choose(rows: npt.NDArray[Any], chunk_nbytes: int) -> ChunkCodecs:
        pieces = _pieces(rows.reshape(-1), max(1, chunk_nbytes // rows.itemsize))
        if not pieces:
            return plain
        lz4, lz4_ratio = _smallest((_blosc("lz4", 5, shuffle, typesize) for shuffle in shuffles), pieces)
        zstd, zstd_ratio = _smallest((_zstd(shuffle, typesize) for shuffle in shuffles), pieces)
        if zstd_ratio <= ZSTD_PAYS and zstd_ratio <= ZSTD_OVER_LZ4 * lz4_ratio:
            if isinstance(field, Array) and rows[:1].nbytes <= ZSTD_BLOCK_NBYTES:
                # level 2 of blosc's nine is zstd's own 3
                blocks = ChunkCodecs(
                    Compressor("blosc", 2, "zstd", "noshuffle", typesize, ZSTD_BLOCK_NBYTES), crc32c=True
                )
                if _smallest([blocks], pieces)[1] <= BLOCKS_COST * zstd_ratio:
                    return blocks
            return _in_blocks(zstd, rows)
        return _in_blocks(lz4, rows) if lz4_ratio <= LZ4_PAYS else plain

    return choose


def named_compressor(codec: str, typesize: int) -> Compressor:
    """The compressor a user named, as "blosc-lz4" or "zstd-3" names it."""
    name, level = codec, None
    if codec.rpartition("-")[2].isdigit():
        name, _, digits = codec.rpartition("-")
        level = int(digits)
    shuffle: BloscShuffle = "shuffle" if typesize > 1 else "noshuffle"
    match name:
        case "blosc-lz4":
            return Compressor("blosc", 5 if level is None else level, "lz4", shuffle, typesize)
        case "blosc-zstd":
            return Compressor("blosc", 3 if level is None else level, "zstd", shuffle, typesize)
        case "zstd":
            return Compressor("zstd", 3 if level is None else level)
        case _:
            return Compressor("gzip", 5 if level is None else level)


def _in_blocks(codecs: ChunkCodecs, rows: npt.NDArray[Any]) -> ChunkCodecs:
    """With blosc's blocks about as long as a row."""
    compressor = codecs.compressor
    if compressor is None or compressor.name != "blosc":
        return codecs
    least, most = BLOCK_NBYTES
    nbytes = min(max(floor_power_of_two(max(1, math.prod(rows.shape[1:]) * rows.itemsize)), least), most)
    # blosc 1 makes a block of one stream a byte of an element, each as long as asked for, where it compresses by lz4
    streams = compressor.typesize if compressor.cname == "lz4" else 1
    return replace(codecs, compressor=replace(compressor, block_nbytes=max(least, nbytes // streams)))


def _pieces(values: npt.NDArray[Any], chunk_values: int) -> list[npt.NDArray[Any]]:
    """Up to `NUM_TRIED` chunks of the values, the first and the last among them."""
    last = max(0, len(values) - chunk_values)
    starts = sorted({last * i // max(1, NUM_TRIED - 1) for i in range(NUM_TRIED)})
    return [np.ascontiguousarray(values[start : start + chunk_values]) for start in starts] if len(values) else []


def _smallest(candidates: Iterable[ChunkCodecs], pieces: list[npt.NDArray[Any]]) -> tuple[ChunkCodecs, float]:
    given = sum(piece.nbytes for piece in pieces)
    sized = [(codecs, sum(len(encode_chunk(codecs, piece)) for piece in pieces) / given) for codecs in candidates]
    best, ratio = sized[0]
    for codecs, its in sized[1:]:
        if its < TIE * ratio:
            best, ratio = codecs, its
    return best, ratio


def _blosc(cname: BloscName, level: int, shuffle: BloscShuffle, typesize: int) -> ChunkCodecs:
    return ChunkCodecs(Compressor("blosc", level, cname, shuffle, typesize), crc32c=True)


def _zstd(shuffle: BloscShuffle, typesize: int) -> ChunkCodecs:
    """Without shuffle zstd alone, which encodes faster than inside blosc and leaves as little."""
    if shuffle == "noshuffle":
        return ChunkCodecs(Compressor("zstd", 3), crc32c=True)
    return _blosc("zstd", 3, shuffle, typesize)
