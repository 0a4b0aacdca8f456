"""One Zarr array that somebody else wrote: reading intervals of its rows into memory.

Fetches the objects or ranges that hold the chunks wanted, side by side, and decodes each into its place; what is not stored is
the array's fill value there, as Zarr says. Chunks of other codecs than ours are zarr-python's to decode (`zarr_adapter.py`).
Damage is a `CorruptChunk` that names object and samples. Before it: `plain_zarr.py`; by what it reads:
`plain_zarr_metadata.py`.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from chunkstore.errors import ChunkstoreError, CorruptChunk, StoreError
from chunkstore.kernels.codecs import decode_chunk
from chunkstore.plan.reads import Intervals, Pieces, split_intervals, total_rows
from chunkstore.plan.tiles import Cut, cut_axis
from chunkstore.reading.cache import ChunkCache
from chunkstore.reading.plain_shards import Body, PlainShards, corrupt_chunk, most_nbytes
from chunkstore.reading.plain_zarr_metadata import PlainArray
from chunkstore.store.interface import Store
from chunkstore.store.side_by_side import Level, do_all

if TYPE_CHECKING:
    from chunkstore.reading.zarr_adapter import ZarrRows

MAX_WINDOW_NBYTES = 64 << 20
"""Decoded bytes of the chunks that are fetched together."""
MAX_WINDOW_CHUNKS = 256
JOB_NBYTES = 1 << 20
"""Decoded bytes that are worth a thread."""
NUM_THREADS = 8
MAX_KEPT_NBYTES = 16 << 20
"""Of a row of chunks that zarr-python decodes, to be kept for reads that want another part of it."""


@dataclass(frozen=True, slots=True)
class _Task:
    """A chunk, and the pieces of it that are wanted."""

    run: slice
    cuts: tuple[Cut, ...]
    coordinates: tuple[int, ...]


FEW_PIECES = 8
"""So many are copied one by one faster than by lists of their rows."""


class PlainZarrArray:
    """Rows of an array.

    Args:
        store: Where it lies.
        name: Of its field, for errors.
        array: Its metadata.
        cache: Keeps chunks of which only a part was wanted, and indexes of shards.
    """

    def __init__(self, store: Store, name: str, array: PlainArray, cache: ChunkCache) -> None:
        self._store, self._name, self.metadata = store, name, array
        self._cache = cache
        self._shards = PlainShards(store, name, array, cache)
        self._zarr = None if array.codecs is not None else _zarr_rows(store, array)

    def read(
        self, intervals: Intervals, *, verify: bool = True, box: tuple[slice, ...] | None = None
    ) -> npt.NDArray[Any]:
        """The rows of `intervals`, one after another: (rows, *row shape), in the stored dtype, little-endian.

        Args:
            intervals: Of rows, sorted and disjoint.
            verify: Whether checksums are compared, where the array has them.
            box: Slices (step ≥ 1) of the row's axes: what is wanted of each row.

        Raises:
            CorruptChunk: a chunk does not decode.
            InvalidDataset: the index of a shard is damaged.
            ObjectChanged: a shard was rewritten as often as it was read.
            StoreError: the store failed.
        """
        array = self.metadata
        axes = [range(n) for n in array.shape[1:]]
        if box is not None:
            axes = [axis[part] for axis, part in zip(axes, box, strict=True)]
        out = np.empty((total_rows(intervals), *map(len, axes)), array.numpy_dtype)
        if out.nbytes == 0:
            return out
        if array.codecs is None:
            self._read_by_zarr(intervals, axes, out)
            return out
        pieces = split_intervals(intervals, array.chunk_shape[0])
        cuts = [cut_axis(axis, length) for axis, length in zip(axes, array.chunk_shape[1:], strict=True)]
        count = max(1, min(MAX_WINDOW_CHUNKS, MAX_WINDOW_NBYTES // array.chunk_nbytes))
        tasks = self._tasks(pieces, cuts)
        while window := list(itertools.islice(tasks, count)):
            self._do(window, pieces, out, verify=verify)
        return out

    def _tasks(self, pieces: Pieces, cuts: Sequence[Sequence[Cut]]) -> Iterator[_Task]:
        for run in pieces.by_chunk():
            row = int(pieces.chunk[run.start])
            for box in itertools.product(*cuts):
                yield _Task(run, box, (row, *(cut.chunk for cut in box)))

    def _do(self, tasks: list[_Task], pieces: Pieces, out: npt.NDArray[Any], *, verify: bool) -> None:
        wanted = []
        for task in tasks:
            kept = self._cache.find((self.metadata.path, task.coordinates))
            if kept is None:
                wanted.append(task)
            else:
                _place(kept, task, pieces, out)
        bodies = self._fetch(wanted)
        step = max(1, -(-len(wanted) // NUM_THREADS), JOB_NBYTES // self.metadata.chunk_nbytes)

        def do_some(start: int) -> None:
            for task, body in zip(wanted[start : start + step], bodies[start : start + step], strict=True):
                if body is None:
                    _place(None, task, pieces, out, self.metadata.fill_value)
                else:
                    self._decode_into_place(body, task, pieces, out, verify=verify)

        do_all(Level.CHUNKS, [partial(do_some, start) for start in range(0, len(wanted), step)])

    def _decode_into_place(
        self, body: Body, task: _Task, pieces: Pieces, out: npt.NDArray[Any], *, verify: bool
    ) -> None:
        """Decode straight into `out` where one piece wants all of a chunk and its rows lie together; else by way of a copy."""
        chunk_shape, layout = self.metadata.chunk_shape, self.metadata.layout
        as_it_is = layout is None and not self.metadata.is_big_endian
        start, stop, at = (int(a[task.run.start]) for a in (pieces.start, pieces.stop, pieces.destination))
        if as_it_is and task.run.stop - task.run.start == 1 and stop - start == chunk_shape[0]:
            target = out[(slice(at, at + stop - start), *(cut.target for cut in task.cuts))]
            whole = all(cut.source == slice(0, n, 1) for cut, n in zip(task.cuts, chunk_shape[1:], strict=True))
            if whole and target.flags.c_contiguous:
                self._decode(body, task, target, verify=verify)
                return
        stored_shape = chunk_shape if layout is None else tuple(chunk_shape[axis] for axis in layout)
        chunk = np.empty(stored_shape, self.metadata.numpy_dtype)
        self._decode(body, task, chunk, verify=verify)
        if self.metadata.is_big_endian:
            chunk.byteswap(inplace=True)
        if layout is not None:
            chunk = chunk.transpose(np.argsort(layout))
        _place(chunk, task, pieces, out)
        self._cache.keep((self.metadata.path, task.coordinates), chunk)

    def _decode(self, body: Body, task: _Task, out: npt.NDArray[Any], *, verify: bool) -> None:
        assert self.metadata.codecs is not None
        raw = out.reshape(-1).view(np.uint8)
        try:
            decode_chunk(self.metadata.codecs, body.data, raw, verify=verify)
        except ValueError:
            try:  # the store may hold what the way here damaged
                decode_chunk(self.metadata.codecs, body.again(), raw, verify=verify)
            except (ValueError, FileNotFoundError) as error:
                raise self._corrupt(str(error), body.where, task.coordinates[0]) from error

    def _corrupt(self, reason: str, where: str, row: int) -> CorruptChunk:
        return corrupt_chunk(self.metadata, self._name, reason, where, row)

    def _fetch(self, tasks: list[_Task]) -> list[Body | None]:
        """Stored bytes of each task's chunk, None where none are stored."""
        if not self.metadata.is_sharded:
            return self._beside([partial(self._fetch_object, task) for task in tasks])
        return self._shards.fetch([task.coordinates for task in tasks])

    def _beside(self, jobs: Sequence[Any]) -> list[Any]:
        return [job() for job in jobs] if self._store.is_local else do_all(Level.OBJECTS, jobs)

    def _fetch_object(self, task: _Task) -> Body | None:
        key = self.metadata.object_key(task.coordinates)
        again = partial(self._read_object, key, task.coordinates[0])
        try:
            return Body(again(), f"{self._store.url}/{key}", again)
        except FileNotFoundError:
            return None

    def _read_object(self, key: str, row: int) -> memoryview:
        limit = most_nbytes(self.metadata.chunk_nbytes)
        try:
            return memoryview(self._store.read(key, limit_nbytes=limit))
        except ValueError as error:
            raise self._corrupt(
                f"more bytes than a chunk can have ({error})", f"{self._store.url}/{key}", row
            ) from error

    def _read_by_zarr(self, intervals: Intervals, axes: list[range], out: npt.NDArray[Any]) -> None:
        """The same where zarr-python decodes: whole chunks together, parts of small chunks by way of the cache."""
        array = self.metadata
        rows, num_rows = array.chunk_shape[0], array.shape[0]
        box = tuple(slice(axis.start, max(axis.start, axis.stop), axis.step) for axis in axes)
        is_small = rows * array.row_nbytes <= MAX_KEPT_NBYTES
        most_rows = max(rows, MAX_WINDOW_NBYTES // max(1, array.row_nbytes))
        span: tuple[int, int, int] | None = None  # rows [low, high), and where they go
        pieces = split_intervals(intervals, rows)
        for number, start, stop, at in zip(*(a.tolist() for a in astuple(pieces)), strict=True):
            low, high = number * rows + start, number * rows + stop
            if is_small and stop - start < min(rows, num_rows - number * rows):
                out[at : at + stop - start] = self._chunk_row(number)[(slice(start, stop), *box)]
                continue
            if (
                span is not None
                and span[1] == low
                and span[2] + span[1] - span[0] == at
                and high - span[0] <= most_rows
            ):
                span = (span[0], high, span[2])
                continue
            self._read_span(span, box, out)
            span = (low, high, at)
        self._read_span(span, box, out)

    def _read_span(self, span: tuple[int, int, int] | None, box: tuple[slice, ...], out: npt.NDArray[Any]) -> None:
        if span is None:
            return
        assert self._zarr is not None
        low, high, at = span
        try:
            self._zarr.read(low, high, box, out[at : at + high - low])
        except (ChunkstoreError, PermissionError, MemoryError):
            raise
        except Exception as error:  # of zarr-python, its codecs and theirs there is no list
            raise self._located(low, high, box, error) from error

    def _chunk_row(self, number: int) -> npt.NDArray[Any]:
        """All rows of a row of chunks."""
        array = self.metadata
        kept = self._cache.find((array.path, number))
        if kept is None:
            low = number * array.chunk_shape[0]
            high = min(low + array.chunk_shape[0], array.shape[0])
            kept = np.empty((high - low, *array.shape[1:]), array.numpy_dtype)
            self._read_span((low, high, 0), tuple(slice(0, n, 1) for n in array.shape[1:]), kept)
            self._cache.keep((array.path, number), kept)
        return kept

    def _located(self, low: int, high: int, box: tuple[slice, ...], error: Exception) -> Exception:
        """Which chunk of the rows [low, high) zarr-python fails at."""
        assert self._zarr is not None
        rows = self.metadata.chunk_shape[0]
        axes = [range(part.start, part.stop, part.step) for part in box]
        cuts = [cut_axis(axis, n) for axis, n in zip(axes, self.metadata.chunk_shape[1:], strict=True)]
        for row in range(low // rows, -(-high // rows)):
            for cut in itertools.product(*cuts):
                coordinates = (row, *(c.chunk for c in cut))
                shard = tuple(c // n for c, n in zip(coordinates, self.metadata.chunks_per_object, strict=True))
                where = f"{self._store.url}/{self.metadata.object_key(shard)}"
                try:
                    self._zarr.check_chunk(coordinates)
                except (ChunkstoreError, PermissionError, MemoryError) as other:
                    return other
                except Exception as cause:  # as above: there is no list of what codecs raise
                    return self._corrupt(f"zarr-python cannot decode: {cause}", where, row)
        return StoreError(
            f"{self._store.url}/{self.metadata.path}: zarr-python failed, and did not the second time: {error}"
        )


def _zarr_rows(store: Store, array: PlainArray) -> "ZarrRows":
    from chunkstore.reading.zarr_adapter import ZarrRows

    return ZarrRows(store, array)


def _place(
    chunk: npt.NDArray[Any] | None,
    task: _Task,
    pieces: Pieces,
    out: npt.NDArray[Any],
    fill_value: npt.NDArray[Any] | None = None,
) -> None:
    """Copy what is wanted of a chunk; without one, put the fill value there."""
    targets, sources = tuple(cut.target for cut in task.cuts), tuple(cut.source for cut in task.cuts)
    if task.run.stop - task.run.start > FEW_PIECES:
        starts, lengths = pieces.start[task.run], pieces.stop[task.run] - pieces.start[task.run]
        within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        rows = np.repeat(pieces.destination[task.run], lengths) + within
        out[(rows, *targets)] = fill_value if chunk is None else chunk[(np.repeat(starts, lengths) + within, *sources)]
        return
    for i in range(task.run.start, task.run.stop):
        start, stop, at = int(pieces.start[i]), int(pieces.stop[i]), int(pieces.destination[i])
        target = (slice(at, at + stop - start), *targets)
        out[target] = fill_value if chunk is None else chunk[(slice(start, stop), *sources)]
