"""Real data from what is installed, written as datasets: digits, photographs in tiles, and Python's own source code.

Nothing is downloaded and nothing is made up. Before it: scikit-learn's files and the standard library; after it: `cs.create`.
"""

import io
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from sklearn.datasets import load_digits, load_sample_images

import chunkstore as cs

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

TEST_EVERY = 5
"""Every fifth digit is kept for the test, and is in no training dataset."""
TILE = 64
TILE_STRIDE = 16
JPEG_QUALITY = 90
ROW = 512
"""Tokens in a row."""
END_OF_FILE = 256
"""The token after the last byte of a file; the others are the bytes."""
TEST_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages"}

DIGITS = cs.Schema({"image": cs.Array("uint8", (8, 8)), "label": cs.Array("int64"), "number": cs.Array("int64")})
TILES = cs.Schema({"image": cs.Image("jpeg"), "caption": cs.Text()})
SOURCES = cs.Schema({"path": cs.Text(), "source": cs.Text()})
TOKENS = cs.Schema({"tokens": cs.Array("uint16", (ROW,))})

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Digits:
    """Handwritten digits.

    Attributes:
        images: uint8 (samples, 8, 8), from 0 to 16.
        labels: int64 (samples,), the digits.
    """

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def columns(self, first: int = 0) -> dict[str, Any]:
        """As `write_batch` takes them, numbered from `first`."""
        return {"image": self.images, "label": self.labels, "number": np.arange(first, first + len(self))}


@dataclass(frozen=True, slots=True)
class Written:
    """A dataset that was written.

    Attributes:
        name: Of the dataset.
        what: A sample of it, in words.
        samples: Their number.
        nbytes_in: Bytes of what was given, before anything was compressed.
    """

    name: str
    what: str
    samples: int
    nbytes_in: int


def split_digits() -> tuple[Digits, Digits]:
    """The 1,797 digits as (training, test): every fifth is of the test."""
    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.int64)
    is_test = np.arange(len(labels)) % TEST_EVERY == TEST_EVERY - 1
    return Digits(images[~is_test], labels[~is_test]), Digits(images[is_test], labels[is_test])


def shifted(digits: Digits) -> Digits:
    """Each digit moved by one pixel: up, down, left and right, in that order."""
    moved = []
    for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        padded = np.pad(digits.images, ((0, 0), (1, 1), (1, 1)))
        moved.append(padded[:, 1 - dy : 9 - dy, 1 - dx : 9 - dx])
    return Digits(np.concatenate(moved), np.tile(digits.labels, len(moved)))


def num_tiles() -> int:
    """How many tiles `cut_tiles` gives."""
    return sum(
        len(range(0, height - TILE + 1, TILE_STRIDE)) * len(range(0, width - TILE + 1, TILE_STRIDE))
        for height, width, _ in (photograph.shape for photograph in load_sample_images().images)
    )


def cut_tiles() -> Iterator[dict[str, Any]]:
    """Scikit-learn's two photographs as overlapping JPEG tiles of 64 by 64 pixels, with captions."""
    photographs = load_sample_images()
    for name, photograph in zip(photographs.filenames, photographs.images, strict=True):
        height, width, _ = photograph.shape
        for top in range(0, height - TILE + 1, TILE_STRIDE):
            for left in range(0, width - TILE + 1, TILE_STRIDE):
                tile = PillowImage.fromarray(photograph[top : top + TILE, left : left + TILE])
                data = io.BytesIO()
                tile.save(data, "JPEG", quality=JPEG_QUALITY)
                yield {"image": data.getvalue(), "caption": f"{Path(name).name}, row {top}, column {left}"}


def python_sources() -> list[dict[str, str]]:
    """The standard library's own files, tests left out, as path and text; what is not UTF-8 is left out too."""
    root = Path(sysconfig.get_path("stdlib"))
    samples = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if TEST_FOLDERS.isdisjoint(relative.parts):
            try:
                samples.append({"path": relative.as_posix(), "source": path.read_bytes().decode()})
            except (UnicodeDecodeError, OSError):
                continue
    return samples


def pack_tokens(texts: list[str]) -> npt.NDArray[np.uint16]:
    """Texts as byte tokens, one after another with an end after each, cut into rows: uint16 (rows, 512)."""
    parts = []
    end = np.array([END_OF_FILE], np.uint16)
    for text in texts:
        parts += [np.frombuffer(text.encode(), np.uint8).astype(np.uint16), end]
    stream = np.concatenate(parts)
    rows = -(-len(stream) // ROW)
    packed = np.full(rows * ROW, END_OF_FILE, np.uint16)
    packed[: len(stream)] = stream
    return packed.reshape(rows, ROW)


def write_digits(url: str, name: str, digits: Digits, options: Mapping[str, Any] | None) -> Written:
    """Write digits as a dataset, in one batch."""
    columns = digits.columns()
    with cs.create(url, DIGITS, message="handwritten digits", storage_options=options) as writer:
        writer.write_batch(columns)
    return Written(name, "8×8 image, its digit", len(digits), sum(c.nbytes for c in columns.values()))


def append_digits(url: str, digits: Digits, first: int, options: Mapping[str, Any] | None) -> int:
    """Append moved digits, numbered from `first`; give the bytes of what was given."""
    columns = digits.columns(first)
    with cs.append(url, message="each digit moved by a pixel, four ways", storage_options=options) as writer:
        writer.write_batch(columns)
    return sum(column.nbytes for column in columns.values())


def write_tiles(url: str, options: Mapping[str, Any] | None, advance: Advance) -> Written:
    """Write the tiles, one sample at a time, as a converter does."""
    samples = nbytes = 0
    with cs.create(url, TILES, message="tiles of two photographs", storage_options=options) as writer:
        for tile in cut_tiles():
            writer.write(tile)
            samples, nbytes = samples + 1, nbytes + len(tile["image"]) + len(tile["caption"].encode())
            advance(1)
    return Written("tiles", "64×64 JPEG, caption", samples, nbytes)


def write_sources(
    url: str, sources: list[dict[str, str]], options: Mapping[str, Any] | None, advance: Advance
) -> Written:
    """Write source files, a sample each."""
    nbytes = 0
    with cs.create(url, SOURCES, message="Python's standard library", storage_options=options) as writer:
        for sample in sources:
            writer.write(sample)
            nbytes += sum(len(text.encode()) for text in sample.values())
            advance(1)
    return Written("sources", "Python file: path, text", len(sources), nbytes)


def write_tokens(url: str, sources: list[dict[str, str]], options: Mapping[str, Any] | None) -> Written:
    """Write the sources once more, as rows of tokens, as a language model takes them."""
    rows = pack_tokens([sample["source"] for sample in sources])
    with cs.create(url, TOKENS, message="byte tokens of Python's standard library", storage_options=options) as writer:
        writer.write_batch({"tokens": rows})
    return Written("tokens", f"{ROW} uint16 tokens", len(rows), rows.nbytes)
