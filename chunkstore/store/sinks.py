"""Sinks: rows in, shards of a Zarr array out.

An `ArraySink` gathers rows in a buffer of whole chunks; full buffers are encoded by the pool's threads and appended, in order, to the
shard being uploaded, by one thread of its own, so that memory stays bounded however large the array grows. Layout and codec are
settled by the first buffer and recorded. Knows arrays, not fields: `fields.py` stands before it.
"""

import math
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chunkstore._native import crc32c
from chunkstore.format.codecs import ChunkCodecs
from chunkstore.format.layout import GridShapes, ceil_power_of_two, floor_power_of_two, plan_grid
from chunkstore.format.metadata import ArrayMetadata, shard_key
from chunkstore.format.shard_index import encode_index
from chunkstore.format.statistics import Statistics
from chunkstore.format.versions import StoredObject
from chunkstore.kernels.codecs import encode_chunk
from chunkstore.store.interface import Data, Store, Upload

BUFFER_NBYTES = 4 << 20
"""Rows gathered before they are encoded together."""
MAX_PENDING_BUFFERS = 12
"""Buffers of a writer that wait to be encoded or uploaded; more make `append` wait."""

ChooseCodecs = Callable[[npt.NDArray[Any], int], ChunkCodecs]
"""From the first rows and the bytes of a chunk to the codec chain."""


class Workers:
    """The threads of one writer: some that encode, one that uploads in order, and the bound on what waits for them.

    The first failure of any of them is raised by the next `submit` and by `finish`.
    """

    def __init__(self, num_threads: int) -> None:
        self._encoders = ThreadPoolExecutor(num_threads, thread_name_prefix="chunkstore-encode")
        self._uploader = ThreadPoolExecutor(1, thread_name_prefix="chunkstore-upload")
        self._room = threading.BoundedSemaphore(MAX_PENDING_BUFFERS)
        self._failure: BaseException | None = None

    def submit(self, encode: Callable[[], Any], upload: Callable[[Any], None]) -> None:
        """Run `encode` in some thread, then `upload` with its result, after all uploads submitted before."""
        self._room.acquire()
        self._raise_failure()
        encoded = self._encoders.submit(encode)
        self._uploader.submit(self._upload, encoded, upload)

    def finish(self) -> None:
        """Wait for everything."""
        self._encoders.shutdown()
        self._uploader.shutdown()
        self._raise_failure()

    def cancel(self) -> None:
        """Drop what has not begun, wait for what has."""
        self._encoders.shutdown(cancel_futures=True)
        self._uploader.shutdown(cancel_futures=True)

    def _upload(self, encoded: "Future[Any]", upload: Callable[[Any], None]) -> None:
        try:
            result = encoded.result()
            if self._failure is None:
                upload(result)
        except BaseException as error:  # noqa: BLE001  (kept for the writer's own thread, which raises it)
            self._failure = self._failure or error
        finally:
            self._room.release()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


@dataclass(frozen=True, slots=True)
class _Encoded:
    chunks: list[Data]
    statistics: Statistics | None


class ArraySink:
    """Writes one Zarr array, row after row.

    Args:
        store: Where.
        key: Key of the array in the store.
        row_shape: Shape of one row; () for 1-D arrays.
        dtype: Of the stored values, little-endian.
        dimension_names: Of the array.
        workers: Threads shared by the sinks of a writer.
        choose_codecs: Asked once, with the first rows.
        chunk: Insisted-on inner chunk.
        shard: Insisted-on shard.
        measure: Makes statistics of rows, or None.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        row_shape: tuple[int, ...],
        dtype: np.dtype[Any],
        dimension_names: tuple[str, ...],
        workers: Workers,
        choose_codecs: ChooseCodecs,
        *,
        chunk: int | tuple[int, ...] | None = None,
        shard: int | None = None,
        measure: Callable[[npt.NDArray[Any]], Statistics] | None = None,
    ) -> None:
        self.key = key
        self.num_rows = 0
        self.statistics = Statistics()
        self.objects: dict[str, StoredObject] = {}
        self.codecs: ChunkCodecs | None = None
        self._store, self._workers, self._choose_codecs, self._measure = store, workers, choose_codecs, measure
        self._row_shape, self._dtype, self._dimension_names = row_shape, dtype, dimension_names
        self._grid = plan_grid(row_shape, dtype.itemsize, chunk=chunk, shard=shard)
        self._free_to_shrink = chunk is None and shard is None
        row_nbytes = max(1, math.prod(row_shape) * dtype.itemsize)
        rows = floor_power_of_two(max(1, BUFFER_NBYTES // row_nbytes))
        self._buffer_rows = min(max(self._grid.chunk[0], rows), self._grid.shard[0])
        self._buffer: npt.NDArray[Any] | None = None
        self._filled = 0
        self._shard: _ShardUpload | None = None

    @property
    def nbytes(self) -> int:
        """Decoded bytes of all rows so far."""
        return self.num_rows * math.prod(self._row_shape) * self._dtype.itemsize

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Take rows (n, *row_shape); they are copied before this returns."""
        taken = 0
        while taken < len(rows):
            if self._buffer is None:
                self._buffer, self._filled = np.empty((self._buffer_rows, *self._row_shape), self._dtype), 0
            count = min(len(rows) - taken, self._buffer_rows - self._filled)
            self._buffer[self._filled : self._filled + count] = rows[taken : taken + count]
            self._filled += count
            taken += count
            if self._filled == self._buffer_rows:
                self._flush(last=False)
        self.num_rows += len(rows)

    def finish(self) -> None:
        """Send what is left on its way; `Workers.finish` waits for it."""
        self._flush(last=True)
        self._workers.submit(lambda: None, lambda _: self._end_shard())

    def abort(self) -> None:
        """Forget the shard being uploaded; call after `Workers.cancel`."""
        if self._shard is not None:
            self._shard.abort()

    def metadata(self) -> ArrayMetadata:
        """The array's metadata, complete once everything is written."""
        assert self.codecs is not None
        return ArrayMetadata(
            shape=(self.num_rows, *self._row_shape),
            dtype=self._dtype.name,
            chunk_shape=self._grid.chunk,
            shard_shape=self._grid.shard,
            codecs=self.codecs,
            dimension_names=self._dimension_names,
        )

    def _flush(self, *, last: bool) -> None:
        rows = (
            self._buffer[: self._filled] if self._buffer is not None else np.empty((0, *self._row_shape), self._dtype)
        )
        if self.codecs is None:
            if last and self._free_to_shrink:
                self._grid = _shrunk(self._grid, len(rows))
            self.codecs = self._choose_codecs(rows, math.prod(self._grid.chunk) * self._dtype.itemsize)
        self._buffer, self._filled = None, 0
        if rows.size:
            grid, codecs, measure = self._grid, self.codecs, self._measure
            self._workers.submit(lambda: _encode(rows, grid, codecs, measure), self._upload)

    def _upload(self, encoded: _Encoded) -> None:
        if encoded.statistics is not None:
            self.statistics = self.statistics.merge(encoded.statistics)
        for chunk in encoded.chunks:
            if self._shard is None:
                self._shard = _ShardUpload(self._store.open_upload(f"{self.key}/{self._shard_key()}"))
            self._shard.add(chunk)
            if self._shard.num_chunks == self._chunks_of_shard:
                self._end_shard()

    def _end_shard(self) -> None:
        if self._shard is not None:
            self.objects[self._shard_key()] = self._shard.finish(self._chunks_of_shard)
            self._shard = None

    def _shard_key(self) -> str:
        return shard_key(len(self.objects), len(self._row_shape))

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

    def add(self, chunk: Data) -> None:
        self._write(chunk)
        self._sizes.append(len(chunk))

    def finish(self, num_chunks: int) -> StoredObject:
        index = encode_index(self._sizes, num_chunks)
        self._write(index)
        self._upload.finish()
        return StoredObject(sum(self._sizes) + len(index), self._crc)

    def abort(self) -> None:
        self._upload.abort()

    def _write(self, data: Data) -> None:
        self._upload.write(data)
        self._crc = crc32c(data, self._crc)


def _encode(
    rows: npt.NDArray[Any],
    grid: GridShapes,
    codecs: ChunkCodecs,
    measure: Callable[[npt.NDArray[Any]], Statistics] | None,
) -> _Encoded:
    """Encode rows into whole chunks, in grid order; the last is filled up with zeros."""
    statistics = measure(rows) if measure else None
    chunk_rows, row_chunk = grid.chunk[0], grid.chunk[1:]
    chunks: list[Data] = []
    row_grid = [-(-n // c) for n, c in zip(rows.shape[1:], row_chunk, strict=True)]
    for start in range(0, len(rows), chunk_rows):
        block = rows[start : start + chunk_rows]
        for at in np.ndindex(*row_grid):
            box = block[(slice(None), *(slice(i * c, (i + 1) * c) for i, c in zip(at, row_chunk, strict=True)))]
            if box.shape != grid.chunk:
                whole = np.zeros(grid.chunk, rows.dtype)
                whole[tuple(slice(0, n) for n in box.shape)] = box
                box = whole
            chunks.append(encode_chunk(codecs, np.ascontiguousarray(box)))
    return _Encoded(chunks, statistics)


def _shrunk(grid: GridShapes, num_rows: int) -> GridShapes:
    """The grid of an array that is known to end within its first buffer: no larger than it has to be."""
    rows = ceil_power_of_two(max(1, num_rows))
    return GridShapes((min(grid.chunk[0], rows), *grid.chunk[1:]), (min(grid.shard[0], rows), *grid.shard[1:]))
