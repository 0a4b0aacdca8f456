"""Sinks: rows in, shards of a Zarr array out.

An `ArraySink` gathers rows in a buffer of whole chunks. Full buffers are encoded by the threads of `workers.py` and appended,
in order, to the shard being uploaded, so that memory stays bounded however large the array grows. Layout and codec are settled
by the first buffer and recorded. Knows arrays, not fields: `fields.py` stands before it.
"""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chunkstore._native import crc32, crc32c, crc32c_spans
from chunkstore.format.codecs import ChunkCodecs
from chunkstore.format.layout import GridShapes, ceil_power_of_two, floor_power_of_two, plan_grid
from chunkstore.format.metadata import ArrayMetadata, shard_key
from chunkstore.format.shard_index import encode_index
from chunkstore.format.statistics import Statistics
from chunkstore.format.versions import StoredObject
from chunkstore.kernels.codecs import encode_chunk
from chunkstore.store.interface import Data, Store, Upload
from chunkstore.writing.codec_choice import ChooseCodecs
from chunkstore.writing.workers import Workers

_PLAIN = ChunkCodecs(None, crc32c=True)


@dataclass(frozen=True, slots=True)
class Rows:
    """What the rows of an array are, and how they are to be stored.

    Attributes:
        shape: Of one row; () for 1-D arrays.
        dtype: Of the stored values, little-endian.
        dimension_names: Of the array.
        choose_codecs: Asked once, with the first rows.
        chunk: Insisted-on inner chunk.
        shard: Insisted-on shard.
        measure: Makes statistics of rows, or None.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    dimension_names: tuple[str, ...]
    choose_codecs: ChooseCodecs
    chunk: int | tuple[int, ...] | None = None
    shard: int | None = None
    measure: Callable[[npt.NDArray[Any]], Statistics] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Chunks, each in one or more pieces, how many rows they hold, and statistics of these."""

    chunks: list[tuple[Data, ...]]
    num_rows: int
    statistics: Statistics | None


class ArraySink:
    """Writes one Zarr array, row after row.

    Args:
        store: Where.
        key: Key of the array in the store.
        rows: What comes in.
        workers: Threads and memory shared by the sinks of a writer.
    """

    def __init__(self, store: Store, key: str, rows: Rows, workers: Workers) -> None:
        self.key = key
        self.num_rows = 0
        self.statistics = Statistics()
        self.objects: dict[str, StoredObject] = {}
        self.codecs: ChunkCodecs | None = None
        self._store, self._workers, self._rows = store, workers, rows
        self._grid = plan_grid(rows.shape, rows.dtype.itemsize, chunk=rows.chunk, shard=rows.shard)
        fitting = floor_power_of_two(max(1, workers.buffer_nbytes // max(1, rows.nbytes)))
        self._buffer_rows = min(max(self._grid.chunk[0], fitting), self._grid.shard[0])
        self._buffer: npt.NDArray[np.uint8] | None = None
        self._gathered = np.empty((0, *rows.shape), rows.dtype)
        self._filled = 0
        self._shard: _ShardUpload | None = None
        self._finishing: list[_ShardUpload] = []
        self._num_shards = 0
        self._num_uploaded = 0

    @property
    def nbytes(self) -> int:
        """Decoded bytes of all rows so far."""
        return self.num_rows * self._rows.nbytes

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Take rows (n, *row shape); they are copied before this returns."""
        taken = 0
        while taken < len(rows):
            if self._buffer is None:
                self._buffer = self._workers.take_buffer(self._buffer_rows * self._rows.nbytes)
                self._gathered = self._buffer.view(self._rows.dtype).reshape(self._buffer_rows, *self._rows.shape)
                self._filled = 0
            count = min(len(rows) - taken, self._buffer_rows - self._filled)
            self._gathered[self._filled : self._filled + count] = rows[taken : taken + count]
            self._filled += count
            taken += count
            if self._filled == self._buffer_rows:
                self._flush(last=False)
        self.num_rows += len(rows)

    def finish(self) -> None:
        """Send what is left on its way; `Workers.finish` waits for it."""
        self._flush(last=True)
        self._workers.submit(np.empty(0, np.uint8), lambda: None, lambda _: self._end_shard())

    def abort(self) -> None:
        """Forget the shards being uploaded; call after `Workers.cancel`."""
        for shard in (*self._finishing, *([self._shard] if self._shard is not None else [])):
            shard.abort()

    def find_problem(self, num_rows: int) -> str | None:
        """What is wrong with what was written, if it is to be `num_rows`; None if nothing. Asked after `Workers.finish`."""
        stored = num_rows if self._rows.nbytes else 0  # rows without bytes have no shards
        num_shards = -(-stored // self._grid.shard[0])
        if (self.num_rows, self._num_uploaded, len(self.objects)) == (num_rows, stored, num_shards):
            return None
        return (
            f"{self.key} took {self.num_rows} rows and stored {self._num_uploaded} in {len(self.objects)} shards, where"
            f" {num_rows} rows in {num_shards} shards are due"
        )

    def metadata(self) -> ArrayMetadata:
        """The array's metadata, complete once everything is written."""
        assert self.codecs is not None
        return ArrayMetadata(
            shape=(self.num_rows, *self._rows.shape),
            dtype=self._rows.dtype.name,
            chunk_shape=self._grid.chunk,
            shard_shape=self._grid.shard,
            codecs=self.codecs,
            dimension_names=self._rows.dimension_names,
        )

    def _flush(self, *, last: bool) -> None:
        rows, buffer = self._gathered[: self._filled], self._buffer
        if self.codecs is None:
            if last and self._rows.chunk is None and self._rows.shard is None:
                self._grid = _shrunk(self._grid, len(rows))
            self.codecs = self._rows.choose_codecs(rows, math.prod(self._grid.chunk) * self._rows.dtype.itemsize)
        grid, codecs, measure = self._grid, self.codecs, self._rows.measure
        if buffer is not None and rows.size:
            self._workers.submit(buffer, lambda: _encode(rows, grid, codecs, measure), self._upload)
        self._buffer, self._gathered, self._filled = None, self._gathered[:0], 0

    def _upload(self, encoded: _Encoded) -> None:
        if encoded.statistics is not None:
            self.statistics = self.statistics.merge(encoded.statistics)
        taken = 0
        while taken < len(encoded.chunks):
            if self._shard is None:
                self._shard = _ShardUpload(self._store.open_upload(f"{self.key}/{self._shard_key()}"))
            own = encoded.chunks[taken : taken + self._chunks_of_shard - self._shard.num_chunks]
            self._shard.add(own)
            taken += len(own)
            if self._shard.num_chunks == self._chunks_of_shard:
                self._end_shard()
        self._num_uploaded += encoded.num_rows

    def _end_shard(self) -> None:
        """Write the rest of the shard; what makes it durable is waited for elsewhere while the next one is being written."""
        shard, key = self._shard, self._shard_key()
        if shard is None:
            return
        self._shard = None
        self._num_shards += 1
        self._finishing.append(shard)
        stored = shard.end(self._chunks_of_shard)

        def finish() -> None:
            shard.finish()
            self._finishing.remove(shard)
            self.objects[key] = stored

        self._workers.finish_later(finish)

    def _shard_key(self) -> str:
        return shard_key(self._num_shards, len(self._rows.shape))

    @property
    def _chunks_of_shard(self) -> int:
        return math.prod(s // c for s, c in zip(self._grid.shard, self._grid.chunk, strict=True))


class _ShardUpload:
    """A shard on its way into the store: chunks one after another, then the index."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self._sizes: list[int] = []
        self._crc = 0

    @property
    def num_chunks(self) -> int:
        return len(self._sizes)

    def add(self, chunks: list[tuple[Data, ...]]) -> None:
        """Append chunks: written together, megabytes take the page cache a third of the time of as many single chunks."""
        pieces = [piece for chunk in chunks for piece in chunk]
        self._upload.write_all(pieces)
        for piece in pieces:
            self._crc = crc32(piece, self._crc)
        self._sizes += [sum(map(len, chunk)) for chunk in chunks]

    def end(self, num_chunks: int) -> StoredObject:
        """Append the index of a shard that may have so many chunks; nothing comes after it."""
        index = encode_index(self._sizes, num_chunks)
        self._upload.write(index)
        return StoredObject(sum(self._sizes) + len(index), crc32(index, self._crc))

    def finish(self) -> None:
        self._upload.finish()

    def abort(self) -> None:
        self._upload.abort()


def _encode(
    rows: npt.NDArray[Any],
    grid: GridShapes,
    codecs: ChunkCodecs,
    measure: Callable[[npt.NDArray[Any]], Statistics] | None,
) -> _Encoded:
    """Encode rows into whole chunks, in grid order; the last is filled up with zeros."""
    statistics = measure(rows) if measure else None
    chunk_rows, row_chunk = grid.chunk[0], grid.chunk[1:]
    row_grid = [-(-n // c) for n, c in zip(rows.shape[1:], row_chunk, strict=True)]
    if codecs == _PLAIN and math.prod(row_grid) == 1 and len(rows) % chunk_rows == 0:
        return _Encoded(_plain_chunks(rows, chunk_rows), len(rows), statistics)
    chunks: list[tuple[Data, ...]] = []
    for start in range(0, len(rows), chunk_rows):
        block = rows[start : start + chunk_rows]
        for at in np.ndindex(*row_grid):
            box = block[(slice(None), *(slice(i * c, (i + 1) * c) for i, c in zip(at, row_chunk, strict=True)))]
            if box.shape != grid.chunk:
                whole = np.zeros(grid.chunk, rows.dtype)
                whole[tuple(slice(0, n) for n in box.shape)] = box
                box = whole
            chunks.append(_pieces(codecs, np.ascontiguousarray(box)))
    return _Encoded(chunks, len(rows), statistics)


def _plain_chunks(rows: npt.NDArray[Any], chunk_rows: int) -> list[tuple[Data, ...]]:
    """Whole chunks of whole rows, where they are, and the checksum of each: as `_pieces` gives them, in one call."""
    data = rows.reshape(-1).view(np.uint8)
    starts = np.arange(0, data.size, data.size // (len(rows) // chunk_rows))
    stops = np.append(starts[1:], data.size)
    crcs = np.empty(len(starts), np.uint32)
    crc32c_spans(crcs, data, starts, stops)
    ends = crcs.astype("<u4").tobytes()
    return [
        (data.data[start:stop], ends[4 * i : 4 * i + 4])
        for i, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True))
    ]


def _pieces(codecs: ChunkCodecs, chunk: npt.NDArray[Any]) -> tuple[Data, ...]:
    """A chunk's stored bytes, the checksum beside them; those that are not compressed stay where they are."""
    data = encode_chunk(ChunkCodecs(codecs.compressor, crc32c=False), chunk)
    return (data, struct.pack("<I", crc32c(data))) if codecs.crc32c else (data,)


def _shrunk(grid: GridShapes, num_rows: int) -> GridShapes:
    """The grid of an array that is known to end within its first buffer: no larger than it has to be."""
    rows = ceil_power_of_two(max(1, num_rows))
    return GridShapes((min(grid.chunk[0], rows), *grid.chunk[1:]), (min(grid.shard[0], rows), *grid.shard[1:]))
