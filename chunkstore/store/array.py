"""One stored Zarr array: reading intervals of its rows into memory.

Fetches and decodes what `plan/reads.py` plans, verifies every checksum, and never serves a byte that fails one. Knows rows and
chunks, not samples or fields: `part.py`, before it, gives rows their meaning and turns `DamagedRows` into an error with names.
"""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from chunkstore import _native
from chunkstore.errors import InvalidDataset
from chunkstore.format.layout import floor_power_of_two
from chunkstore.format.metadata import ArrayMetadata
from chunkstore.format.shard_index import Index, decode_index, index_nbytes
from chunkstore.format.versions import StoredObject
from chunkstore.kernels.codecs import decode_chunk
from chunkstore.plan.reads import Intervals, Pieces, coalesce, split_intervals, total_rows
from chunkstore.plan.tiles import Tiles, plan_tiles, row_ranges
from chunkstore.store.cache import ChunkCache
from chunkstore.store.fetch import Request, fetch_ranges
from chunkstore.store.interface import Store

MAX_GAP_NBYTES = 256 << 10
"""Unwanted bytes that are cheaper to read than a request of their own (30 ms at 30 MB/s would allow 900 kB)."""
MAX_REQUEST_NBYTES = 16 << 20


class DamagedRows(Exception):
    """Rows [start, stop) of an array cannot be served; `reason` says what is wrong, `where` names object and bytes."""

    def __init__(self, reason: str, where: str, start: int, stop: int) -> None:
        super().__init__(f"{reason} in {where}")
        self.reason, self.where, self.start, self.stop = reason, where, start, stop


class StoredArray:
    """An array of an opened part.

    Args:
        store: Where it lies.
        key: Key of the array in the store.
        metadata: From its part's consolidated metadata.
        objects: Stored objects of the array by key relative to it, from the part's object list.
        cache: Keeps chunks of which only a part was wanted.
    """

    def __init__(
        self, store: Store, key: str, metadata: ArrayMetadata, objects: dict[str, StoredObject], cache: ChunkCache
    ) -> None:
        self._store = store
        self._key = key
        self.metadata = metadata
        self._objects = objects
        self._cache = cache
        self._indexes: dict[int, Index] = {}
        self._lock = threading.Lock()

    def read(
        self, intervals: Intervals, *, verify: bool = True, box: tuple[slice, ...] | None = None
    ) -> npt.NDArray[Any]:
        """The rows of `intervals`, one after another: (rows, *row shape), in the stored dtype.

        Args:
            intervals: Half-open, within the array.
            verify: Whether checksums of chunks are compared.
            box: What is wanted of each row, a slice an axis, with steps of at least 1; the whole row if None. Only chunks that
                it touches are read.

        Raises:
            ValueError: a box of another rank, or with a step below 1.
            DamagedRows: a checksum does not match, a chunk does not decode or is not there.
            MissingObject: a shard is not in the store.
        """
        metadata = self.metadata
        ranges = row_ranges(metadata.shape[1:], box)
        try:
            out = np.empty((total_rows(intervals), *(len(r) for r in ranges)), metadata.numpy_dtype)
        except MemoryError:
            self._check_size(int(intervals[-1, 1]) - 1)
            raise
        if out.nbytes == 0:
            return out
        if metadata.is_plain:
            self._read_plain(intervals, out)
        else:
            tiles = plan_tiles(metadata.chunk_shape[1:], metadata.chunks_per_shard[1:], ranges)
            self._read_chunks(split_intervals(intervals, metadata.chunk_shape[0]), tiles, out, verify=verify)
        return out

    def _read_plain(self, intervals: Intervals, out: npt.NDArray[Any]) -> None:
        """Values stored as they are: each piece is one byte range, whose check is the caller's."""
        itemsize, shard_rows = out.itemsize, self.metadata.shard_shape[0]
        piece_rows = floor_power_of_two(MAX_REQUEST_NBYTES // itemsize)
        if piece_rows > shard_rows or shard_rows % piece_rows:
            piece_rows = shard_rows
        pieces = split_intervals(intervals, piece_rows)
        requests: list[Request] = []
        source, spans, places = [], [], []
        for run in pieces.by_chunk():
            first = int(pieces.chunk[run.start]) * piece_rows
            ranges = (np.stack([pieces.start[run], pieces.stop[run]], axis=1) + first % shard_rows) * itemsize
            shard_key = self._shard_key(first // shard_rows, need_nbytes=int(ranges[:, 1].max()))
            for group in coalesce(ranges, max_gap_nbytes=MAX_GAP_NBYTES, max_nbytes=MAX_REQUEST_NBYTES):
                source.append(np.full(len(group.members), len(requests), np.int32))
                spans.append(ranges[group.members] - group.start)
                places.append(pieces.destination[run][group.members])
                requests.append(Request(shard_key, group.start, group.stop))
        order = np.argsort(np.concatenate(places), kind="stable")
        starts, stops = np.concatenate(spans)[order].T
        bodies = fetch_ranges(self._store, requests)
        _native.gather_spans(
            out.view(np.uint8),
            bodies,
            np.concatenate(source)[order],
            np.ascontiguousarray(starts),
            np.ascontiguousarray(stops),
        )

    def _read_chunks(self, pieces: Pieces, tiles: Tiles, out: npt.NDArray[Any], *, verify: bool) -> None:
        runs = pieces.by_chunk()
        wanted = []
        for run in runs:
            number = int(pieces.chunk[run.start])
            kept = self._cache.find((self._key, number, tiles.ranges))
            if kept is None:
                wanted.append(run)
            else:
                _copy_pieces(kept, out, pieces, run)
        numbers = [int(pieces.chunk[run.start]) for run in wanted]
        for position, bodies in self._fetch_chunks(numbers, tiles):
            run = wanted[position]
            self._place(numbers[position], bodies, tiles, pieces, run, out, verify=verify)

    def _fetch_chunks(self, numbers: list[int], tiles: Tiles) -> list[tuple[int, list[tuple[Request, memoryview]]]]:
        """For each row of chunks: its position in `numbers`, and the request and body of each of its chunks."""
        requests, members = [], []
        rows_of_shard = self.metadata.chunks_per_shard[0]
        shards = np.asarray(numbers, np.int64) // rows_of_shard
        columns = tiles.chunk
        self._load_indexes(sorted(set(shards.tolist())))
        for shard in sorted(set(shards.tolist())):
            positions = np.flatnonzero(shards == shard)
            in_shard = (np.asarray(numbers, np.int64)[positions] % rows_of_shard)[
                :, None
            ] * self._columns_per_row + columns
            ranges = self._indexes[shard][in_shard.ravel()]
            if (ranges[:, 0] < 0).any():
                number = numbers[int(positions[int(np.flatnonzero(ranges[:, 0] < 0)[0]) // len(columns)])]
                raise self._damaged("a chunk is not stored", number, f"{self._store.url}/{self._shard_key(shard)}")
            for group in coalesce(ranges, max_gap_nbytes=MAX_GAP_NBYTES, max_nbytes=MAX_REQUEST_NBYTES):
                requests.append(Request(self._shard_key(shard), group.start, group.stop))
                members.append(
                    [(int(positions[i // len(columns)]), i % len(columns), ranges[i]) for i in group.members]
                )
        bodies: dict[int, list[tuple[Request, memoryview]]] = {}
        for request, group_members, data in zip(requests, members, fetch_ranges(self._store, requests), strict=True):
            for at, column, (start, stop) in group_members:
                chunk = Request(request.key, int(start), int(stop))
                body = data[chunk.start - request.start : chunk.stop - request.start]
                row = bodies.setdefault(at, [(chunk, body)] * len(columns))
                row[column] = (chunk, body)
        return sorted(bodies.items())

    def _place(
        self,
        number: int,
        bodies: list[tuple[Request, memoryview]],
        tiles: Tiles,
        pieces: Pieces,
        run: slice,
        out: npt.NDArray[Any],
        *,
        verify: bool,
    ) -> None:
        """Decode a row of chunks into its rows of `out`: straight, where one piece wants all of it."""
        metadata = self.metadata
        rows = metadata.chunk_shape[0]
        whole = tiles.source is None
        if whole and run.stop - run.start == 1 and pieces.stop[run.start] - pieces.start[run.start] == rows:
            at = int(pieces.destination[run.start])
            self._decode(number, bodies[0], out[at : at + rows], verify=verify)
            return
        chunk = np.empty((rows, *out.shape[1:]), metadata.numpy_dtype)
        if tiles.source is None:
            self._decode(number, bodies[0], chunk, verify=verify)
        else:
            scratch = np.empty(metadata.chunk_shape, metadata.numpy_dtype)
            for body, source, target in zip(bodies, tiles.source, tiles.target, strict=True):
                self._decode(number, body, scratch, verify=verify)
                chunk[(slice(None), *target)] = scratch[(slice(None), *source)]
        _copy_pieces(chunk, out, pieces, run)
        self._cache.keep((self._key, number, tiles.ranges), chunk)

    def _decode(self, number: int, body: tuple[Request, memoryview], out: npt.NDArray[Any], *, verify: bool) -> None:
        request, data = body
        raw = out.reshape(-1).view(np.uint8)
        try:
            decode_chunk(self.metadata.codecs, data, raw, verify=verify)
        except ValueError:
            again = fetch_ranges(self._store, [request])[0]  # the store may hold what the way here damaged
            try:
                decode_chunk(self.metadata.codecs, again, raw, verify=verify)
            except ValueError as error:
                where = f"{self._store.url}/{request.key}, bytes {request.start}–{request.stop}"
                raise self._damaged(str(error), number, where) from error

    def _load_indexes(self, shards: list[int]) -> None:
        with self._lock:
            missing = [shard for shard in shards if shard not in self._indexes]
        if not missing:
            return
        num_chunks = int(np.prod(self.metadata.chunks_per_shard))
        nbytes = index_nbytes(num_chunks)
        requests = []
        for shard in missing:
            key = self._shard_key(shard, need_nbytes=nbytes)
            size = self._object(shard).nbytes
            requests.append(Request(key, size - nbytes, size))
        loaded = {}
        for shard, request, data in zip(missing, requests, fetch_ranges(self._store, requests), strict=True):
            read = _reader(num_chunks, request, f"{self._store.url}/{request.key}")
            try:
                loaded[shard] = read(data)
            except InvalidDataset:
                loaded[shard] = read(fetch_ranges(self._store, [request])[0])
        with self._lock:
            self._indexes.update(loaded)

    def _object(self, shard: int) -> StoredObject:
        try:
            return self._objects[self.metadata.shard_key(shard)]
        except KeyError:
            raise InvalidDataset(
                f"{self._store.url}/{self._key}/{self.metadata.shard_key(shard)}: a shard that the part's object list lacks"
            ) from None

    def _check_size(self, row: int) -> None:
        """Fail as reading would where the shard of a row is smaller than listed: a false claim is no lack of memory."""
        shard = row // self.metadata.shard_shape[0]
        size = self._object(shard).nbytes
        fetch_ranges(self._store, [Request(self._shard_key(shard), size - 1, size)])

    def _shard_key(self, shard: int, *, need_nbytes: int = 0) -> str:
        key = f"{self._key}/{self.metadata.shard_key(shard)}"
        if (size := self._object(shard).nbytes) < need_nbytes:
            raise InvalidDataset(f"{self._store.url}/{key}: {size} bytes, {need_nbytes} are needed")
        return key

    @property
    def _columns_per_row(self) -> int:
        return int(np.prod(self.metadata.chunks_per_shard[1:], dtype=np.int64))

    def _damaged(self, reason: str, number: int, where: str) -> DamagedRows:
        rows = self.metadata.chunk_shape[0]
        return DamagedRows(reason, where, number * rows, min((number + 1) * rows, self.metadata.shape[0]))


def _copy_pieces(chunk: npt.NDArray[Any], out: npt.NDArray[Any], pieces: Pieces, run: slice) -> None:
    if run.stop - run.start == 1:
        start, stop, at = (int(a[run.start]) for a in (pieces.start, pieces.stop, pieces.destination))
        out[at : at + stop - start] = chunk[start:stop]
        return
    starts, lengths, places = pieces.start[run], pieces.stop[run] - pieces.start[run], pieces.destination[run]
    within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    out[np.repeat(places, lengths) + within] = chunk[np.repeat(starts, lengths) + within]


def _reader(num_chunks: int, request: Request, where: str) -> Callable[[memoryview], Index]:
    return lambda data: decode_index(data, num_chunks, request.stop, where)
