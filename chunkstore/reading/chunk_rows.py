"""Many chunks of one array at once: verified, decoded, and the wanted rows of each copied to where they go.

`ChunkRows` is a reader of one array and box; its work is done in C++ without the interpreter, so threads share it. Fetches
nothing and plans nothing: `plan/reads.py` and `plan/tiles.py` say what is wanted, `array.py` brings the bytes. A chunk that
fails is told by number and reason; the caller, who knows object and rows, makes an error of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chunkstore import _native
from chunkstore.format.metadata import ArrayMetadata
from chunkstore.kernels.codecs import decode_chunk
from chunkstore.plan.reads import Pieces
from chunkstore.plan.tiles import Tiles

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Units:
    """Chunks to read, each a tile of some rows.

    Attributes:
        start: First byte of each in its source.
        stop: Byte after its last.
        tile: Which tile of its rows it is: int32.
        piece_from: First of its pieces.
        piece_to: Piece after its last.
        check: Whether its checksum is compared: uint8.
    """

    start: Ints
    stop: Ints
    tile: npt.NDArray[np.int32]
    piece_from: Ints
    piece_to: Ints
    check: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.start)

    def of(self, chosen: Any) -> "Units":
        """Some of them."""
        return Units(
            self.start[chosen],
            self.stop[chosen],
            self.tile[chosen],
            self.piece_from[chosen],
            self.piece_to[chosen],
            self.check[chosen],
        )


class ChunkRows:
    """Reads chunks of an array into rows of the box that `tiles` describe.

    Args:
        metadata: Of the array.
        tiles: Of the box.
    """

    def __init__(self, metadata: ArrayMetadata, tiles: Tiles) -> None:
        self._codecs = metadata.codecs
        self._chunk_nbytes = metadata.chunk_nbytes
        compressor = metadata.codecs.compressor
        self._is_gzip = compressor is not None and compressor.name == "gzip"
        self._reader = _reader(
            metadata,
            tiles,
            "" if compressor is None or self._is_gzip else compressor.name,
            has_crc32c=metadata.codecs.crc32c and not self._is_gzip,
        )

    def read(
        self, out: npt.NDArray[Any], sources: Sequence[Any], source: npt.NDArray[np.int32], units: Units, pieces: Pieces
    ) -> list[tuple[int, str]]:
        """Read chunks into `out`.

        Args:
            out: (rows, *box shape), C-contiguous.
            sources: Buffers, or descriptors of files.
            source: int32, which source each unit lies in.
            units: The chunks.
            pieces: What of them is wanted; those of a unit are `piece_from` to `piece_to`.

        Returns:
            Number and reason of each unit that is damaged or cannot be read; its rows of `out` are unspecified.
        """
        if self._is_gzip:
            return self._read_gzip(out, sources, source, units, pieces)
        return self._read(out, sources, source, units, pieces)

    def _read(
        self, out: npt.NDArray[Any], sources: Sequence[Any], source: npt.NDArray[np.int32], units: Units, pieces: Pieces
    ) -> list[tuple[int, str]]:
        return self._reader.read(
            out.reshape(-1).view(np.uint8),
            sources,
            source,
            units.start,
            units.stop,
            units.tile,
            units.check,
            units.piece_from,
            units.piece_to,
            pieces.start,
            pieces.stop,
            pieces.destination,
        )

    def _read_gzip(
        self, out: npt.NDArray[Any], sources: Sequence[Any], source: npt.NDArray[np.int32], units: Units, pieces: Pieces
    ) -> list[tuple[int, str]]:
        """Decoded by zlib here, one after another; then placed as if stored like that."""
        failed = []
        decoded = np.empty(self._chunk_nbytes, np.uint8)
        first = np.zeros(1, np.int32)
        for i, (start, stop) in enumerate(zip(units.start.tolist(), units.stop.tolist(), strict=True)):
            body = memoryview(sources[source[i]])[start:stop]
            try:
                decode_chunk(self._codecs, body, decoded, verify=bool(units.check[i]))
            except ValueError as error:
                failed.append((i, str(error)))
                continue
            unit = units.of(slice(i, i + 1))
            whole = Units(
                np.zeros(1, np.int64),
                np.full(1, self._chunk_nbytes),
                unit.tile,
                unit.piece_from,
                unit.piece_to,
                unit.check,
            )
            self._read(out, [decoded], first, whole, pieces)
        return failed

    @property
    def reads_files(self) -> bool:
        """Whether sources may be descriptors of files."""
        return not self._is_gzip


def _reader(metadata: ArrayMetadata, tiles: Tiles, compression: str, *, has_crc32c: bool) -> "_native.ChunkReader":
    itemsize = metadata.numpy_dtype.itemsize
    box_shape = tuple(len(r) for r in tiles.ranges)
    chunk_strides = _strides(metadata.chunk_shape[1:], itemsize)
    target_strides = _strides(box_shape, itemsize)
    sources = [tuple(slice(0, n) for n in box_shape)] if tiles.source is None else tiles.source
    targets = sources if tiles.source is None else tiles.target
    counts = [len(range(s.start, s.stop, s.step or 1)) for source in sources for s in source]
    return _native.ChunkReader(
        compression,
        has_crc32c,
        metadata.chunk_shape[0],
        math.prod(metadata.chunk_shape[1:]) * itemsize,
        math.prod(box_shape) * itemsize,
        itemsize,
        [stride * r.step for stride, r in zip(chunk_strides, tiles.ranges, strict=True)],
        target_strides,
        np.array(counts, np.int64),
        np.array([_offset(source, chunk_strides) for source in sources], np.int64),
        np.array([_offset(target, target_strides) for target in targets], np.int64),
    )


def _strides(shape: tuple[int, ...], itemsize: int) -> list[int]:
    return [math.prod(shape[axis + 1 :]) * itemsize for axis in range(len(shape))]


def _offset(box: tuple[slice, ...], strides: list[int]) -> int:
    return sum(s.start * stride for s, stride in zip(box, strides, strict=True))
