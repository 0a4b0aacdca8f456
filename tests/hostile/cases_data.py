"""Shards and what lies in them: indexes that lie, chunks that decode to more than they may, spans and shapes that overlap,
text that is none, images of a few bytes that claim 65,535² pixels.
"""

import gzip
import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numcodecs
import numpy as np
from hostile.forgery import NUM_SAMPLES, Case, Forgery, jpeg, png, webp

_MIB = 1 << 20
_ABSENT = (1 << 64) - 1

Forge = Callable[[Forgery], object]


def _zstd_frame(claims: int | None, blocks: int = 64) -> bytes:
    """A frame of run-length blocks of 128 KiB of zeros, which states what it decodes to as told, or nothing."""
    descriptor = (
        b"\x00\x58" if claims is None else b"\xe0" + struct.pack("<Q", claims)
    )  # a window of 2 MiB; a single segment
    run = [(128 << 10) << 3 | 1 << 1 | (i + 1 == blocks) for i in range(blocks)]
    return b"\x28\xb5\x2f\xfd" + descriptor + b"".join(r.to_bytes(3, "little") + b"\0" for r in run)


def _gzip_bomb(nbytes: int) -> bytes:
    return gzip.compress(bytes(nbytes), 1, mtime=0)


def _blosc_frame(**changed: int) -> bytes:
    """A frame of the field `lz`, 8 rows of 64 uint16, whose header is changed."""
    frame = numcodecs.blosc.compress(bytes(1024), b"lz4", 5, 1, 0, 2)
    version, lz, flags, typesize, nbytes, block, size = struct.unpack("<4B3I", frame[:16])
    header = {
        "version": version,
        "lz": lz,
        "flags": flags,
        "typesize": typesize,
        "nbytes": nbytes,
        "block": block,
        "size": size,
    }
    return struct.pack("<4B3I", *{**header, **changed}.values()) + frame[16:]


def _blosc_special(kind: int) -> bytes:
    """A frame of blosc2 that says, in 32 bytes, that all of its 1,024 bytes are zeros, NaNs or never set."""
    return struct.pack("<4B3I", 5, 1, 0x15, 2, 1024, 1024, 32) + bytes(15) + bytes([kind << 4])


def _lz4_bomb() -> bytes:
    """A frame that is whole and decodes to 8 MiB, where 1,024 bytes are expected."""
    return bytes(numcodecs.blosc.compress(bytes(8 * _MIB), b"lz4", 9, 1, 0, 2))


def _chunk(key: str, stored: Callable[[], bytes]) -> Forge:
    return lambda forged: forged.chunk(key, stored())


def _index(key: str, entries: list[tuple[int, int]]) -> Forge:
    return lambda forged: forged.index(key, entries)


def _two_chunks(entries: list[tuple[int, int]]) -> Forge:
    """Make the label's six rows two chunks of four, with this index."""

    def forge(forged: Forgery) -> None:
        forged.shapes("label", shape=[NUM_SAMPLES], shard=[8], chunk=[4])
        forged.index("label/c/0", entries)

    return forge


def _big_chunk(stored: Callable[[], bytes]) -> Forge:
    """A chunk which says, by the metadata, that it is 256 MiB, in some kilobytes that decode to something else."""

    def forge(forged: Forgery) -> None:
        forged.version["schema"]["vector"]["shape"] = [8 * _MIB]
        forged.array("vector")["dimension_names"].pop()
        forged.shapes("vector", shape=[NUM_SAMPLES, 8 * _MIB], shard=[8, 8 * _MIB], chunk=[8, 8 * _MIB])
        del forged.objects["objects"]["vector/c/0/0/0"], forged.files[f"{forged.path}/vector/c/0/0/0"]
        forged.chunk("vector/c/0/0", stored())

    return forge


def _rows(path: str, rows: Any) -> Forge:
    return lambda forged: forged.rows(path, rows)


def _spans(*changed: tuple[int, int]) -> Forge:
    """Spans of the captions, whose lengths are 0 to 5, the first ones replaced."""
    right = [(n * (n - 1) // 2, n * (n + 1) // 2) for n in range(NUM_SAMPLES)]
    return _rows("caption/spans", [*changed, *right[len(changed) :]])


def _point_shapes(first: list[int]) -> Forge:
    """Shapes of the points, whose second sample has the shape (1, 2, 3), that one replaced."""
    return _rows("points/shape", [[0, 2, 3], first, *([n, 2, 3] for n in range(2, NUM_SAMPLES))])


def _samples(name: str, sample: Callable[[], bytes]) -> Forge:
    return lambda forged: forged.encoded(name, [sample()] * NUM_SAMPLES)


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png_of(height: int, width: int, data: bytes, *, extra: bytes = b"") -> bytes:
    header = _png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + _png_chunk(b"IDAT", data) + _png_chunk(b"IEND", b"")


def _jpeg_of(height: int, width: int) -> bytes:
    """A JPEG whose header says another size."""
    data = bytearray(jpeg())
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def _jpeg_with(segment: bytes) -> bytes:
    return jpeg()[:2] + segment + jpeg()[2:]


def _webp_of(bits: int) -> bytes:
    data = webp()
    place = data.index(b"VP8L") + 9
    return data[:place] + struct.pack("<I", bits) + data[place + 4 :]


def _vp8x(height: int, width: int) -> bytes:
    body = (
        b"VP8X"
        + struct.pack("<I", 10)
        + bytes(4)
        + (width - 1).to_bytes(3, "little")
        + (height - 1).to_bytes(3, "little")
    )
    whole = b"WEBP" + body + webp()[12:]
    return b"RIFF" + struct.pack("<I", len(whole)) + whole


_INDEXES = {
    "beyond the object": [(0, 1 << 40)],
    "that begins beyond the object": [(1 << 40, 8)],
    "whose end wraps around 2^64": [((1 << 64) - 8, 16)],
    "of 2^64 - 1 bytes": [(0, _ABSENT)],
    "that begins at 2^64 - 1": [(_ABSENT, 8)],
    "at 2^63": [(1 << 63, 1 << 63)],
    "over the index": [(0, 50)],
    "of NaN": [(0x7FF8000000000000, 0x7FF8000000000000)],
    "of no bytes": [(0, 0)],
}

_ZSTD = {
    "zstd claims 2^63": lambda: _zstd_frame(1 << 63),
    "zstd claims 2^64 - 3": lambda: _zstd_frame((1 << 64) - 3),
    "zstd claims 256 MiB": lambda: _zstd_frame(256 * _MIB, 2000),
    "zstd of 8 kB holds 256 MiB and says nothing": lambda: _zstd_frame(None, 2048),
    "zstd claims little and holds 256 MiB": lambda: _zstd_frame(8 * 15 * 4, 2048),
    "zstd of 10,000 frames": lambda: numcodecs.Zstd(1).encode(bytes(8)) * 10_000,
    "zstd of 100,000 empty frames": lambda: b"\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00" * 100_000,
    "zstd of skippable frames alone": lambda: (b"\x50\x2a\x4d\x18" + bytes(4)) * 10_000,
    "zstd of a format before 1.0": lambda: b"\x27\xb5\x2f\xfd" + bytes(100),
    "zstd with a window of 2^41": lambda: b"\x28\xb5\x2f\xfd\x00\xf8" + _zstd_frame(None)[6:],
    "zstd with a dictionary": lambda: b"\x28\xb5\x2f\xfd\x23\x01\x02\x03\x04\x00\x01\x00\x00",
    "no zstd": lambda: b"",
}

_BLOSC = {
    "blosc claims 2^32 - 1": lambda: _blosc_frame(nbytes=(1 << 32) - 1),
    "blosc claims 256 MiB": lambda: _blosc_frame(nbytes=256 * _MIB, block=_MIB),
    "blosc with blocks of 2^32 - 1": lambda: _blosc_frame(block=(1 << 32) - 1),
    "blosc with blocks of 0": lambda: _blosc_frame(block=0),
    "blosc with blocks of 1": lambda: _blosc_frame(block=1),
    "blosc longer than it is": lambda: _blosc_frame(size=1 << 31),
    "blosc shorter than it is": lambda: _blosc_frame(size=16),
    "blosc of typesize 0": lambda: _blosc_frame(typesize=0),
    "blosc of typesize 255": lambda: _blosc_frame(typesize=255),
    "blosc stored as it is, but is not": lambda: _blosc_frame(flags=0x02),
    "blosc with an extended header": lambda: _blosc_frame(flags=0x25),
    "blosc with delta": lambda: _blosc_frame(flags=0x29),
    "blosc of an unknown compressor": lambda: _blosc_frame(flags=0xE1),
    "blosc of version 9": lambda: _blosc_frame(version=9),
    "blosc that holds 8 MiB": _lz4_bomb,
    "blosc2: all zeros": lambda: _blosc_special(1),
    "blosc2: never set": lambda: _blosc_special(4),
    "no blosc": lambda: b"\2" * 8,
}

_GZIP = {
    "gzip of 128 MiB": lambda: _gzip_bomb(128 * _MIB),
    "gzip of 10,000 empty members": lambda: _gzip_bomb(0) * 10_000,
    "gzip of 31 bytes": lambda: _gzip_bomb(31),
    "gzip with a header that does not end": lambda: b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * _MIB,
    "gzip cut short": lambda: _gzip_bomb(32)[:-6],
    "no gzip": lambda: bytes(100),
}

_PICTURES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "JPEG of 65,535² pixels": ("jpeg", lambda: _jpeg_of(65_535, 65_535)),
    "JPEG of 16,384² pixels in 600 bytes": ("jpeg", lambda: _jpeg_of(16_384, 16_384)),
    "JPEG of 0 rows": ("jpeg", lambda: _jpeg_of(0, 8)),
    "JPEG of 100,000 segments": ("jpeg", lambda: _jpeg_with(b"\xff\xfe\0\2" * 100_000)),
    "JPEG with a segment of length 0": ("jpeg", lambda: _jpeg_with(b"\xff\xe0\0\0")),
    "JPEG with 1 MB of fill": ("jpeg", lambda: _jpeg_with(b"\xff" * _MIB)),
    "JPEG with a frame of 4 numbers": ("jpeg", lambda: _jpeg_with(b"\xff\xc0\0\7\x08\0\1\0\1")),
    "PNG of 65,535² pixels": ("png", lambda: _png_of(65_535, 65_535, zlib.compress(b""))),
    "PNG of 2^31 - 1 rows": ("png", lambda: _png_of((1 << 31) - 1, 1, zlib.compress(b""))),
    "PNG of 16,384² pixels in 100 bytes": ("png", lambda: _png_of(16_384, 16_384, zlib.compress(b""))),
    "PNG of 8 × 8 pixels that holds 64 MiB": ("png", lambda: _png_of(8, 8, zlib.compress(bytes(64 * _MIB), 1))[:-20]),
    "PNG with text of 64 MiB": (
        "png",
        lambda: _png_of(8, 8, b"", extra=_png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(64 * _MIB), 1))),
    ),
    "PNG with a profile of 64 MiB": (
        "png",
        lambda: _png_of(8, 8, b"", extra=_png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(64 * _MIB), 1))),
    ),
    "PNG with a chunk of 2^31 bytes": ("png", lambda: png()[:33] + struct.pack(">I", 1 << 31) + b"tEXt" + png()[33:]),
    "WebP of 16,384² pixels in 100 bytes": ("webp", lambda: _webp_of(0x0FFFFFFF)),
    "WebP of a canvas of 2^24 squared": ("webp", lambda: _vp8x(1 << 24, 1 << 24)),
    "WebP of a canvas of 16,384² around 8 × 8": ("webp", lambda: _vp8x(1 << 14, 1 << 14)),
    "WebP longer than it is": ("webp", lambda: webp()[:4] + b"\xff" * 4 + webp()[8:]),
    "an image of no bytes": ("png", lambda: b""),
    "a PNG where a JPEG is said": ("jpeg", png),
    "a PostScript file where a PNG is said": ("png", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n" * 9),
}

_INDEX = partial(Case, error="InvalidDataset CorruptChunk", told="label/c/0")

CASES = [
    *(_INDEX(f"an index {name}", _index("label/c/0", entries)) for name, entries in _INDEXES.items()),
    Case(
        "an index of a chunk that is not stored",
        _index("label/c/0", [(_ABSENT, _ABSENT)]),
        error="MissingObject",
        told="label/c/0",
    ),
    _INDEX("an index of ranges that overlap", _two_chunks([(0, 20), (10, 24)])),
    _INDEX("an index of one range twice", _two_chunks([(0, 34), (0, 34)])),
    _INDEX("an index of ranges that end before they begin", _two_chunks([(20, 14), (0, (1 << 64) - 20)])),
    Case(
        "a chunk of the index absent",
        _two_chunks([(0, 34), (_ABSENT, _ABSENT)]),
        error="MissingObject",
        told="label/c/0",
    ),
    *(
        Case(name, _chunk("vector/c/0/0/0", stored), error="CorruptChunk", told="vector/c/0/0/0")
        for name, stored in _ZSTD.items()
    ),
    *(Case(name, _chunk("lz/c/0/0", stored), error="CorruptChunk", told="lz/c/0/0") for name, stored in _BLOSC.items()),
    *(Case(name, _chunk("gz/c/0/0", stored), error="CorruptChunk", told="gz/c/0/0") for name, stored in _GZIP.items()),
    Case(
        "a chunk of 256 MiB in zstd of 8 kB that says 1 GiB",
        _big_chunk(lambda: _zstd_frame(1 << 30, 2048)),
        error="CorruptChunk",
        told="vector/c/0/0",
    ),
    Case(
        "a chunk of 256 MiB in zstd of 100 bytes",
        _big_chunk(lambda: _zstd_frame(256 * _MIB, 20)),
        error="InvalidDataset",
        told="vector",
    ),
    Case(
        "a chunk of 256 MiB in noise of 9 kB",
        _big_chunk(lambda: np.random.default_rng(1).bytes(9000)),
        error="CorruptChunk",
        told="vector/c/0/0",
    ),
    Case(
        "a chunk of another checksum",
        lambda forged: forged.chunk("label/c/0", bytes(34), crc=False),
        error="CorruptChunk",
        told="label/c/0",
    ),
    Case("a shard of no bytes", lambda forged: forged.put("label/c/0", b""), told="/label"),
    Case("a shard shorter than its index", lambda forged: forged.put("label/c/0", b"abc"), told="/label"),
    Case("spans below 0", _spans((-5, 0)), told="caption/spans"),
    Case("spans beyond the values", _spans(*[(0, 0)] * 5, (10, 1 << 40)), told="caption/spans"),
    Case("spans that overlap", _spans((0, 0), (0, 3), (1, 3)), told="caption/spans"),
    Case("spans that go backwards", _spans((0, 0), (1, 0)), told="caption/spans"),
    Case("spans whose length wraps around", _spans((-(1 << 63), (1 << 63) - 1)), told="caption/spans"),
    Case("spans that leave out the beginning and repeat", _spans((0, 15), (0, 15)), told="caption/spans"),
    Case("shapes below 0", _point_shapes([-1, -2, 3]), told="points/shape"),
    Case(
        "shapes whose product wraps around to 6", _point_shapes([(1 << 63) + 2 - (1 << 64), 1, 3]), told="points/shape"
    ),
    Case("shapes of 2^32 squared", _point_shapes([1 << 32, 1 << 32, 3]), told="points/shape"),
    Case("shapes of another fixed length", _point_shapes([1, 1, 6]), told="points/shape"),
    Case(
        "shapes of 0 by 2^62",
        _rows("points/shape", [[0, 1 << 62, 3], *([n, 2, 3] for n in range(1, NUM_SAMPLES))]),
        told="points/shape",
    ),
    Case(
        "text that is not UTF-8",
        lambda forged: forged.encoded("caption", [b"\xff\xfe"] * NUM_SAMPLES),
        error="CorruptSample",
        told="caption",
    ),
    Case(
        "text with a surrogate",
        lambda forged: forged.encoded("caption", [b"\xed\xa0\x80"] * NUM_SAMPLES),
        error="CorruptSample",
        told="caption",
    ),
    Case("samples of another checksum", _rows("caption/crc", [1] * NUM_SAMPLES), error="CorruptSample", told="caption"),
    *(
        Case(name, _samples(kind, sample), error="CorruptSample", told=f"'{kind}'", found=False)
        for name, (kind, sample) in _PICTURES.items()
    ),
]
