"""Chunks to bytes and back: the codec chain of one chunk, carried out.

`decode_chunk` turns what lies in the store into the chunk's bytes in memory, straight into the caller's array; `encode_chunk`
is its inverse. Both release the GIL where the bytes are worked on, start no threads, and never allocate by what stored data
claim: the size of `out` bounds everything. Before them stand `store/fetch.py` (decoding) and the writer (encoding); behind
`decode_chunk` stands the gather of rows into batches.

A chunk that fails is a ValueError with the reason; the caller, who knows object, field and samples, makes a `CorruptChunk`
of it.

Sources: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/ (bytes, blosc, zstd, gzip, crc32c).
"""

import gzip
import struct
import sys
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from chunkstore import _native
from chunkstore.format.codecs import ChunkCodecs, Compressor

_CRC_NBYTES = 4
_GZIP_WBITS = 16 + zlib.MAX_WBITS  # a gzip header and trailer, and nothing else
_MAX_GZIP_MEMBERS = 64  # writers make one; RFC 1952 allows any number
_MAX_BLOSC_LEVEL = 9
_SHUFFLE = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}


def decode_chunk(codecs: ChunkCodecs, data: Any, out: npt.NDArray[np.uint8], *, verify: bool = True) -> None:
    """Decodes one stored chunk into `out`.

    Args:
        codecs: the chain that wrote the chunk.
        data: the stored bytes, any C-contiguous buffer.
        out: uint8, 1-D, C-contiguous, writable; exactly as long as the chunk in memory.
        verify: whether the crc32c, where the chain has one, is checked. Its four bytes are stripped in either case.

    Raises:
        ValueError: `data` are damaged or of the wrong length; the content of `out` is then unspecified.
    """
    body = memoryview(data).cast("B")
    if codecs.crc32c:
        body = _strip_crc32c(body, verify=verify)
    if codecs.compressor is None:
        _copy(body, out)
    elif codecs.compressor.name == "blosc":
        _native.blosc_decompress(body, out)
    elif codecs.compressor.name == "zstd":
        _native.zstd_decompress(body, out)
    else:
        _decompress_gzip(body, out)


def encode_chunk(codecs: ChunkCodecs, array: npt.NDArray[Any]) -> bytes | memoryview:
    """Encodes one chunk.

    Args:
        codecs: the chain to apply.
        array: C-contiguous, little-endian, any shape and dtype without objects.

    Returns:
        The bytes to store. Without compressor and checksum this is a view of `array`, not a copy.

    Raises:
        ValueError: `array` is not C-contiguous or not little-endian, or the compressor refuses its settings.
    """
    plain = _bytes_of(array)
    body = plain if codecs.compressor is None else _compress(codecs.compressor, plain)
    if not codecs.crc32c:
        return body
    return b"".join((body, struct.pack("<I", _native.crc32c(body))))


def _bytes_of(array: npt.NDArray[Any]) -> memoryview:
    if not array.flags.c_contiguous:
        raise ValueError(f"an array of shape {array.shape} and strides {array.strides} is not C-contiguous")
    order = array.dtype.byteorder
    if order == ">" or (order == "=" and sys.byteorder == "big") or array.dtype.hasobject:
        raise ValueError(f"dtype {array.dtype.str} is not little-endian plain data")
    # Through uint8, since some dtypes (ml_dtypes' and float16 among older NumPy's) have no buffer format.
    return array.reshape(-1).view(np.uint8).data


def _strip_crc32c(body: memoryview, *, verify: bool) -> memoryview:
    if len(body) < _CRC_NBYTES:
        raise ValueError(f"{len(body)} bytes are too few for a crc32c")
    protected = body[:-_CRC_NBYTES]
    if verify:
        (stored,) = struct.unpack("<I", body[-_CRC_NBYTES:])
        computed = _native.crc32c(protected)
        if computed != stored:
            raise ValueError(f"crc32c mismatch: stored {stored:08x}, computed {computed:08x}")
    return protected


def _copy(body: memoryview, out: npt.NDArray[np.uint8]) -> None:
    if len(body) != out.nbytes:
        raise ValueError(f"the chunk has {len(body)} bytes, {out.nbytes} were expected")
    np.copyto(out, np.frombuffer(body, np.uint8))


def _decompress_gzip(body: memoryview, out: npt.NDArray[np.uint8]) -> None:
    """Decodes one or more gzip members (RFC 1952) that together fill `out` exactly."""
    filled = 0
    members = 0
    while body or not members:
        # Each member's end copies what follows, so without a bound small data could cost hours.
        if members == _MAX_GZIP_MEMBERS:
            raise ValueError(f"gzip: more than {_MAX_GZIP_MEMBERS} members")
        decoder = zlib.decompressobj(_GZIP_WBITS)
        try:
            # One byte more than fits, so that data which decode to more are seen without being decoded further.
            decoded = decoder.decompress(body, out.nbytes - filled + 1)
        except zlib.error as error:
            raise ValueError(f"gzip: {error}") from None
        if len(decoded) > out.nbytes - filled:
            raise ValueError(f"gzip: data decode to more than the {out.nbytes} bytes expected")
        if not decoder.eof:
            raise ValueError("gzip: the data end early")
        out[filled : filled + len(decoded)] = np.frombuffer(decoded, np.uint8)
        filled += len(decoded)
        members += 1
        body = memoryview(decoder.unused_data)
    if filled != out.nbytes:
        raise ValueError(f"gzip: data decode to {filled} bytes, {out.nbytes} were expected")


def _compress(compressor: Compressor, plain: memoryview) -> bytes:
    if compressor.name == "gzip":
        # numcodecs' GZip would write the time of day into the header: the same chunk, other bytes.
        return gzip.compress(plain, compressor.level, mtime=0)
    import numcodecs

    if compressor.name == "zstd":
        return bytes(numcodecs.Zstd(compressor.level).encode(plain))
    if not 0 <= compressor.level <= _MAX_BLOSC_LEVEL:
        raise ValueError(f"blosc level {compressor.level} is not between 0 and {_MAX_BLOSC_LEVEL}")
    # Otherwise calls from the main thread go through blosc's own pool of threads, whose blocks come in any order. zarr-python
    # sets the same when it is imported. From other threads a call is serial and lock-free in any case.
    numcodecs.blosc.use_threads = False
    return bytes(
        numcodecs.blosc.compress(
            plain,
            compressor.cname.encode(),
            compressor.level,
            _SHUFFLE[compressor.shuffle],
            compressor.block_nbytes,  # 0 is AUTOBLOCKS
            compressor.typesize,
        )
    )
