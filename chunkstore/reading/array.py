"""One stored Zarr array: reading intervals of its rows into memory.

Fetches and decodes what `plan/reads.py` plans, verifies every checksum, and never serves a byte that fails one. Chunks of local
files are read, verified and decoded in C++, many a call; those of other stores as soon as their bytes come. Knows rows and
chunks, not samples or fields: `part.py`, before it, gives rows their meaning and turns `DamagedRows` into an error with names.
"""

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from chunkstore import _native
from chunkstore.errors import InvalidDataset
from chunkstore.format.layout import floor_power_of_two
from chunkstore.format.metadata import ArrayMetadata
from chunkstore.format.shard_index import Index, decode_index, index_nbytes
from chunkstore.format.versions import StoredObject
from chunkstore.plan.reads import Intervals, Ints, Pieces, coalesce, split_intervals, total_rows, whole_chunks
from chunkstore.plan.tiles import Tiles, plan_tiles, row_ranges
from chunkstore.reading.cache import ChunkCache
from chunkstore.reading.chunk_rows import ChunkRows, Units
from chunkstore.reading.verified import Check, seen_chunks
from chunkstore.store.fetch import Request, fetch_each, fetch_ranges, open_files
from chunkstore.store.interface import Store
from chunkstore.store.local import LocalStore
from chunkstore.store.side_by_side import Level, do_all

Target = tuple[npt.NDArray[Any], Pieces]

NUM_THREADS = min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
JOB_NBYTES = 1 << 20
"""Decoded bytes that are worth a thread of their own."""
MAX_OPEN_FILES = 64
MOST_KEPT_OF_A_READ = 4
"""A read keeps the chunks of which it wanted a part unless they would fill more than the cache divided by this."""
MAX_GAP_NBYTES = 256 << 10
"""Unwanted bytes that are cheaper to read than a request of their own (30 ms at 30 MB/s would allow 900 kB)."""
MAX_REQUEST_NBYTES = 16 << 20
MAX_UNSEEN_NBYTES = 1 << 30
"""What is allocated and planned on the word of metadata alone; for more, a shard must be as large as it is listed."""


class DamagedRows(Exception):
    """Rows [start, stop) of an array cannot be served; `reason` says what is wrong, `where` names object and bytes.

    `is_absent` tells what was never stored from what was damaged.
    """

    def __init__(self, reason: str, where: str, start: int, stop: int, *, is_absent: bool = False) -> None:
        super().__init__(f"{reason} in {where}")
        self.reason, self.where, self.start, self.stop, self.is_absent = reason, where, start, stop, is_absent


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
        self._whole: Tiles | None = None
        self._lock = threading.Lock()

    def read(
        self, intervals: Intervals, *, verify: Check = True, box: tuple[slice, ...] | None = None
    ) -> npt.NDArray[Any]:
        """The rows of `intervals`, one after another: (rows, *row shape), in the stored dtype.

        Args:
            intervals: Half-open, within the array, in any order.
            verify: Whether checksums of chunks are compared.
            box: What is wanted of each row, a slice an axis, with steps of at least 1; the whole row if None. Only chunks that
                it touches are read.

        Raises:
            ValueError: a box of another rank, or with a step below 1.
            DamagedRows: a checksum does not match, a chunk does not decode or is not there.
            MissingObject: a shard is not in the store.
        """
        metadata = self.metadata
        if box is None and total_rows(intervals) * metadata.row_nbytes > MAX_UNSEEN_NBYTES:
            self._check_size(int(intervals[:, 1].max()) - 1)
        tiles = self._tiles(box)
        out = np.empty((total_rows(intervals), *(len(r) for r in tiles.ranges)), metadata.numpy_dtype)
        if out.nbytes == 0:
            return out
        if metadata.is_plain:
            self._read_plain(intervals, out)
        else:
            pieces = split_intervals(intervals, metadata.chunk_shape[0])
            self._read_chunks(pieces, tiles, out, verify=verify)
        return out

    def _tiles(self, box: tuple[slice, ...] | None) -> Tiles:
        """What a box of a row consists of; of the whole row that is kept."""
        if box is None and self._whole is not None:
            return self._whole
        metadata = self.metadata
        tiles = plan_tiles(metadata.chunk_shape[1:], metadata.chunks_per_shard[1:], row_ranges(metadata.shape[1:], box))
        if box is None:
            self._whole = tiles
        return tiles

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

    def _read_chunks(self, pieces: Pieces, tiles: Tiles, out: npt.NDArray[Any], *, verify: Check) -> None:
        first = pieces.first_of_chunks()
        last = np.append(first[1:], len(pieces.chunk))
        numbers = pieces.chunk[first]
        wanted = np.ones(len(numbers), np.bool_)
        partial = np.flatnonzero(self._is_partial(numbers, np.add.reduceat(pieces.stop - pieces.start, first)))
        for i in partial.tolist():
            kept = self._cache.find((self._key, int(numbers[i]), tiles.ranges))
            if kept is not None:
                _copy_pieces(kept, out, pieces, slice(int(first[i]), int(last[i])))
                wanted[i] = False
        chunk_rows = self.metadata.chunk_shape[0]
        keep = partial[wanted[partial]]
        if len(keep) * chunk_rows * out[:1].nbytes > self._cache.max_nbytes // MOST_KEPT_OF_A_READ:
            keep = keep[:0]  # chunks in such numbers would only push one another out
        whole = np.empty((len(keep) * chunk_rows, *out.shape[1:]), out.dtype)
        targets = [(out, pieces), (whole, whole_chunks(len(keep), chunk_rows))]
        work = _Work(numbers, np.zeros(len(numbers), np.int8), first.copy(), last.copy())
        work.target[keep], work.piece_from[keep], work.piece_to[keep] = (
            1,
            np.arange(len(keep)),
            np.arange(len(keep)) + 1,
        )
        self._read_work(work.of(np.flatnonzero(wanted)), tiles, targets, verify=verify)
        for i, at in enumerate(keep.tolist()):
            chunk = whole[i * chunk_rows : (i + 1) * chunk_rows]
            _copy_pieces(chunk, out, pieces, slice(int(first[at]), int(last[at])))
            # a view would keep the others' memory alive
            self._cache.keep((self._key, int(numbers[at]), tiles.ranges), chunk if len(keep) == 1 else chunk.copy())

    def _is_partial(self, numbers: Ints, num_rows: Ints) -> npt.NDArray[np.bool_]:
        rows = self.metadata.chunk_shape[0]
        partial: npt.NDArray[np.bool_] = num_rows < np.minimum(rows, self.metadata.shape[0] - numbers * rows)
        return partial

    def _read_work(self, work: "_Work", tiles: Tiles, targets: list[Target], *, verify: Check) -> None:
        if not len(work.number):
            return
        rows = ChunkRows(self.metadata, tiles)
        rows_of_shard, num_tiles = self.metadata.chunks_per_shard[0], len(tiles.chunk)
        shards = work.number // rows_of_shard
        edges = [0, *(np.flatnonzero(np.diff(shards)) + 1).tolist(), len(shards)]
        of_shard = {int(shards[a]): slice(a * num_tiles, b * num_tiles) for a, b in pairwise(edges)}
        self._load_indexes(list(of_shard))
        places = ((work.number % rows_of_shard)[:, None] * self._columns_per_row + tiles.chunk).reshape(-1)
        ranges = np.concatenate([self._indexes[shard][places[own]] for shard, own in of_shard.items()])
        if (ranges[:, 0] < 0).any():
            number = int(work.number[int(np.flatnonzero(ranges[:, 0] < 0)[0]) // num_tiles])
            key = self._shard_key(number // rows_of_shard)
            raise self._damaged("a chunk is not stored", number, f"{self._store.url}/{key}", is_absent=True)
        units = Units(
            np.ascontiguousarray(ranges[:, 0]),
            np.ascontiguousarray(ranges[:, 1]),
            np.tile(np.arange(num_tiles, dtype=np.int32), len(work.number)),
            np.repeat(work.piece_from, num_tiles),
            np.repeat(work.piece_to, num_tiles),
            np.full(len(ranges), verify is not False, np.uint8),
        )
        reading = _Reading(work, num_tiles, units, rows, targets, verify)
        if isinstance(self._store, LocalStore) and rows.reads_files:
            failed = self._read_files(reading, of_shard, places)
        else:
            failed = self._read_ranges(reading, of_shard)
        for unit, _ in failed:
            self._read_again(reading, unit)

    def _read_files(self, reading: "_Reading", of_shard: dict[int, slice], places: Ints) -> list[tuple[int, str]]:
        """Read chunks of local files, by several threads where there is work for them."""
        assert isinstance(self._store, LocalStore)
        failed = []
        every = list(of_shard)
        for shards in (every[at : at + MAX_OPEN_FILES] for at in range(0, len(every), MAX_OPEN_FILES)):
            with open_files(self._store, [self._shard_key(shard) for shard in shards]) as files:
                first, last = of_shard[shards[0]].start, of_shard[shards[-1]].stop
                source = np.zeros(last - first, np.int32)
                seen = {}
                for i, (shard, file) in enumerate(zip(shards, files, strict=True)):
                    own = of_shard[shard]
                    source[own.start - first : own.stop - first] = i
                    if reading.verify == "first" and (chunks := seen_chunks(file, self._num_chunks)) is not None:
                        seen[shard] = chunks
                        reading.units.check[own] = ~chunks[places[own]]
                step = -(-(last - first) // self._num_jobs(last - first))
                jobs = [
                    partial(
                        reading.read, files, source[at : at + step], np.arange(first + at, min(first + at + step, last))
                    )
                    for at in range(0, last - first, step)
                ]
                bad = [told for job in do_all(Level.CHUNKS, jobs) for told in job]
            whole = np.ones(len(places), np.bool_)
            whole[[unit for unit, _ in bad]] = False
            for shard, chunks in seen.items():
                own = of_shard[shard]
                chunks[places[own][whole[own]]] = True
            failed += bad
        return failed

    def _num_jobs(self, num_units: int) -> int:
        worth = num_units * self.metadata.chunk_nbytes // JOB_NBYTES
        return max(1, min(NUM_THREADS, worth, num_units))

    def _read_ranges(self, reading: "_Reading", of_shard: dict[int, slice]) -> list[tuple[int, str]]:
        """Fetch ranges of objects, and read the chunks of each as it comes."""
        requests: list[Request] = []
        members: list[Ints] = []
        units = reading.units
        for shard, own in of_shard.items():
            ranges = np.stack([units.start[own], units.stop[own]], axis=1)
            for group in coalesce(ranges, max_gap_nbytes=MAX_GAP_NBYTES, max_nbytes=MAX_REQUEST_NBYTES):
                requests.append(Request(self._shard_key(shard), group.start, group.stop))
                members.append(group.members + own.start)

        def use(i: int, body: memoryview) -> list[tuple[int, str]]:
            return reading.read([body], np.zeros(len(members[i]), np.int32), members[i], requests[i].start)

        return [told for failed in fetch_each(self._store, requests, use) for told in failed]

    def _read_again(self, reading: "_Reading", unit: int) -> None:
        """Fetch a chunk that failed once more: the store may hold what the way here damaged."""
        number = int(reading.work.number[unit // reading.num_tiles])
        key = self._shard_key(number // self.metadata.chunks_per_shard[0])
        request = Request(key, int(reading.units.start[unit]), int(reading.units.stop[unit]))
        bodies = fetch_ranges(self._store, [request])
        for _, reason in reading.read(bodies, np.zeros(1, np.int32), np.array([unit]), request.start):
            raise self._damaged(
                reason, number, f"{self._store.url}/{request.key}, bytes {request.start}–{request.stop}"
            )

    def _load_indexes(self, shards: list[int]) -> None:
        with self._lock:
            missing = [shard for shard in shards if shard not in self._indexes]
        if not missing:
            return
        num_chunks = self._num_chunks
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
    def _num_chunks(self) -> int:
        """Of a whole shard."""
        return int(np.prod(self.metadata.chunks_per_shard))

    @property
    def _columns_per_row(self) -> int:
        return int(np.prod(self.metadata.chunks_per_shard[1:], dtype=np.int64))

    def _damaged(self, reason: str, number: int, where: str, *, is_absent: bool = False) -> DamagedRows:
        rows = self.metadata.chunk_shape[0]
        stop = min((number + 1) * rows, self.metadata.shape[0])
        return DamagedRows(reason, where, number * rows, stop, is_absent=is_absent)


@dataclass(frozen=True, slots=True)
class _Work:
    """Rows of chunks to read: their numbers, in order; into which target; and the pieces of it that are wanted."""

    number: Ints
    target: npt.NDArray[np.int8]
    piece_from: Ints
    piece_to: Ints

    def of(self, chosen: Ints) -> "_Work":
        return _Work(self.number[chosen], self.target[chosen], self.piece_from[chosen], self.piece_to[chosen])


@dataclass(frozen=True, slots=True)
class _Reading:
    """Units being read: `num_tiles` for each row of chunks."""

    work: _Work
    num_tiles: int
    units: Units
    rows: ChunkRows
    targets: list[Target]
    verify: Check

    def read(
        self, sources: Sequence[Any], source: npt.NDArray[np.int32], chosen: Ints, base: int = 0
    ) -> list[tuple[int, str]]:
        """Read some units from their sources, whose first byte is byte `base` of the object; gives those that failed."""
        failed = []
        target = self.work.target[chosen // self.num_tiles]
        for number, (out, pieces) in enumerate(self.targets):
            own = np.flatnonzero(target == number)
            if len(own):
                units = self.units.of(chosen[own])
                units.start[:] -= base
                units.stop[:] -= base
                told = self.rows.read(out, sources, source[own], units, pieces)
                failed += [(int(chosen[own[i]]), reason) for i, reason in told]
        return failed


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
