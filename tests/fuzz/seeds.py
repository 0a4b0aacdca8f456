"""What the fuzzers begin with: small valid documents, chunks and images, of every codec and kind.

An input of the fuzzers `blosc` and `zstd` begins with two bytes that say how long the output is; (0, 0) asks for what the
header says. Findings become files in `corpus/`, which are read beside these.
"""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
from hostile.forgery import HINT, forgery, jpeg, png, valid_files, webp
from PIL import Image

from chunkstore.format.pages import CondemnedRef, PageRef

_ASKED = b"\0\0"


def blosc_seeds() -> list[bytes]:
    """Frames of every compressor and filter, of one block and of several, of numbers that compress and of noise."""
    ramp = np.arange(3000, dtype="<u4").tobytes()
    noise = np.random.default_rng(1).bytes(300)
    return [
        _ASKED + bytes(numcodecs.blosc.compress(data, name.encode(), 5, shuffle, block, typesize))
        for name in ("lz4", "lz4hc", "blosclz", "zstd", "zlib")
        for shuffle in (0, 1, 2)
        for data, block, typesize in ((ramp, 0, 4), (ramp, 1024, 4), (ramp[:999], 256, 3), (noise, 0, 8), (b"", 0, 1))
    ]


def zstd_seeds() -> list[bytes]:
    """Frames that state their size, several in one input, and one that does not."""
    ramp = np.arange(3000, dtype="<u4").tobytes()
    frames = [bytes(numcodecs.Zstd(level).encode(ramp)) for level in (-5, 1, 19)]
    unstated = b"\x28\xb5\x2f\xfd\x00\x58" + (300 << 3 | 3).to_bytes(3, "little") + b"\0"
    skippable = b"\x50\x2a\x4d\x18\3\0\0\0abc"
    return [_ASKED + frame for frame in (*frames, frames[0] + frames[1], skippable + frames[2])] + [
        b"\x2c\1" + unstated
    ]


def jpeg_seeds() -> list[bytes]:
    """Images in colour and in gray, progressive, with restarts, subsampled, and CMYK, which is refused."""
    pixels = np.random.default_rng(1).integers(0, 256, (17, 23, 3), np.uint8)
    colour = Image.fromarray(pixels)
    options = (
        {"quality": 90},
        {"progressive": True},
        {"subsampling": 0},
        {"restart_marker_blocks": 1},
        {"optimize": True},
    )
    seeds = []
    for image in (colour, colour.convert("L"), colour.convert("CMYK")):
        for option in options:
            file = io.BytesIO()
            image.save(file, "JPEG", **option)
            seeds.append(file.getvalue())
    return seeds


def rows_seeds() -> list[bytes]:
    """Row sizes, numbers of rows and places: bytes from 8 on are small numbers from 0 on."""
    random = np.random.default_rng(1)
    return [bytes([4, 3, *[8, 9, 10] * 3, 100]) + random.bytes(120), bytes([0, 5]) + bytes(60), random.bytes(200)]


def chunks_seeds() -> list[bytes]:
    """Layouts of one chunk of 4 rows of 8 bytes, as it is, in blosc and in zstd, and what is asked of it."""
    stored = bytes(range(32))
    frames = (
        stored,
        bytes(numcodecs.blosc.compress(stored, b"lz4", 5, 1, 0, 2)),
        bytes(numcodecs.Zstd(1).encode(stored)),
    )
    seeds = []
    for compression, frame in enumerate(frames):
        sizes = [8 + n for n in (4, 8, 8, 2)]  # rows, bytes of a row here and there, bytes of a number
        tile = [1, 8 + 2, 8 + 2, 0, 8 + 4, 8 + 0, 8 + 0]  # one axis, strides, one tile of 4 numbers
        asked = [1, 1, 4, 1, 0, len(frame), 0, 0, 8 + 1, 8 + 3, 8 + 0]  # one chunk, one piece: rows 1 and 2 to row 0
        seeds.append(bytes([compression, 0, *sizes, *tile, *asked]) + frame)
    return seeds


def document_seeds(folder: Path) -> list[bytes]:
    """Inputs of `fuzz_documents.py`, of a dataset in an empty folder: the first byte is the number of the reader."""
    forged = forgery(folder, valid_files(folder))
    forged.part["objects"] = {"nbytes": 1000, "crc32": "00000000"}
    schema, statistics = forged.version["schema"], forged.version["statistics"]
    page = PageRef("0" * 32, 2, 9, 1000, 0).to_json()
    condemned = CondemnedRef("1" * 32, 2, 1, 1, 1000, 0).to_json()
    nodes = forged.group["consolidated_metadata"]["metadata"].values()
    documents: list[tuple[int, Any]] = [
        (0, forged.version),
        (0, {**forged.version, "requires": ["pages"], "pages": [page]}),
        (0, {"format": 1, "requires": ["tombstone"], "number": 1}),
        (1, page),
        (1, condemned),
        (2, forged.objects),
        *((3, node) for node in nodes if node["node_type"] == "array"),
        (4, schema),
        *((4, {name: field}) for name, field in schema.items()),
        (5, forged.tag),
        *((6, one) for kinds in statistics.values() for one in kinds.values()),
    ]
    line = {**forged.fragment, "parts": [forged.part]}
    part = ["0", 0, 8, 8, 100, "00000000"]
    result = {
        "format": 1,
        "dataset": "0" * 32,
        "schema": schema,
        "since": 1,
        "fragment": line,
        "statistics": statistics,
    }
    documents += [
        (
            11,
            {"fields": [["label"], ["vector", "lz"]], "fragments": [["1" * 32, 0, 6, 8, [part, ["a", 1, *part[2:]]]]]},
        ),
        (12, {"fragments": ["0" * 32], "versions": [1, 2], "parts": [f"fragments/{'0' * 32}/0"]}),
        (13, {"number": 1, "pages": [["0" * 32, 1000]]}),
        (14, result),
    ]
    index = np.array([(0, 20), (20, 30), ((1 << 64) - 1, (1 << 64) - 1)], "<u8").tobytes()
    return [
        *(bytes([reader]) + json.dumps(document).encode() for reader, document in documents),
        b"\7" + (folder / HINT).read_bytes(),
        b"\x08" + b"\x80\0\0" + index[3:],
        b"\x09" + (300).to_bytes(2, "little") + gzip.compress(bytes(300)),
        *(b"\x0a" + bytes([number]) + image for number, image in enumerate((jpeg(), png(), webp()))),
    ]


SEEDS = {"blosc": blosc_seeds, "zstd": zstd_seeds, "jpeg": jpeg_seeds, "chunks": chunks_seeds, "rows": rows_seeds}
