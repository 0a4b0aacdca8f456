"""Shards that somebody else wrote, and may write anew at any time: fetching chunks by an index that is theirs.

The index of a shard is kept, and used only for as long as the shard is the one it was read from: a local file by what the
kernel says of it, another object by its size and the checksum of its index, asked for again after its chunks have come. So no
chunk is ever taken for another one. Ranges that lie together are one request. Never decodes anything. Before it:
`plain_zarr_array.py`; after it: `store/fetch.py`.
"""

import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from chunkstore.errors import CorruptChunk, InvalidDataset, MissingObject, ObjectChanged, StoreError
from chunkstore.format.shard_index import Index, decode_index, index_nbytes
from chunkstore.plan.reads import coalesce
from chunkstore.reading.cache import ChunkCache
from chunkstore.reading.plain_zarr_metadata import PlainArray
from chunkstore.reading.verified import SETTLED_S
from chunkstore.store.fetch import Request, fetch_ranges
from chunkstore.store.interface import Store
from chunkstore.store.local import LocalStore
from chunkstore.store.side_by_side import Level, do_all

MAX_GAP_NBYTES = 256 << 10
MAX_REQUEST_NBYTES = 16 << 20
ATTEMPTS = 3
"""To read chunks of a shard that is being rewritten."""
_SLACK_NBYTES = 64 << 10
_CHECKSUM_NBYTES = 4

Coordinates = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Body:
    """A stored chunk.

    Attributes:
        data: Its bytes.
        where: The place they came from, for errors.
        again: Fetches them once more, FileNotFoundError if they are gone.
    """

    data: memoryview
    where: str
    again: Callable[[], memoryview]


def most_nbytes(decoded_nbytes: int) -> int:
    """More than any encoding of so many bytes that is not made to be long."""
    return decoded_nbytes + decoded_nbytes // 8 + _SLACK_NBYTES


def corrupt_chunk(array: PlainArray, name: str, reason: str, where: str, row: int) -> CorruptChunk:
    """The error of a chunk in row `row` of the grid of chunks."""
    rows = array.chunk_shape[0]
    first, last = row * rows, min((row + 1) * rows, array.shape[0]) - 1
    return CorruptChunk(
        f"{reason} in {where} (field {name!r}, samples {first}–{last}). Restore the object, or write the array again."
    )


class PlainShards:
    """The shards of an array.

    Args:
        store: Where they lie.
        name: Of the field, for errors.
        array: Its metadata.
        cache: Keeps indexes.
    """

    def __init__(self, store: Store, name: str, array: PlainArray, cache: ChunkCache) -> None:
        self._store, self._name, self._array, self._cache = store, name, array, cache
        self._num_chunks = math.prod(array.chunks_per_object)

    def fetch(self, chunks: Sequence[Coordinates]) -> list[Body | None]:
        """The stored chunks at these coordinates, None for one that is not stored.

        Raises:
            CorruptChunk: a chunk is longer than it can be.
            InvalidDataset: the index of a shard is damaged.
            ObjectChanged: a shard was rewritten as often as it was read.
            StoreError: the store failed.
        """
        shards: dict[Coordinates, list[int]] = {}
        for i, chunk in enumerate(chunks):
            shard = tuple(c // n for c, n in zip(chunk, self._array.chunks_per_object, strict=True))
            shards.setdefault(shard, []).append(i)
        bodies: list[Body | None] = [None] * len(chunks)
        left = list(shards)
        for _ in range(ATTEMPTS):
            left = self._fetch_once({shard: shards[shard] for shard in left}, chunks, bodies)
            if not left:
                return bodies
        raise ObjectChanged(
            f"{self._where(left[0])} is rewritten as often as it is read (field {self._name!r}, {self._samples(left[0])});"
            " read when nothing writes to it"
        )

    def _fetch_once(
        self, shards: dict[Coordinates, list[int]], chunks: Sequence[Coordinates], bodies: list[Body | None]
    ) -> list[Coordinates]:
        """Fetch, and give the shards that were not the same all the while."""
        if isinstance(self._store, LocalStore):
            store = self._store
            return [
                shard
                for shard, members in shards.items()
                if not self._fetch_local(store, shard, members, chunks, bodies)
            ]
        found = do_all(Level.OBJECTS, [partial(self._find_index, shard) for shard in shards])
        indexes = {shard: index for shard, index in zip(shards, found, strict=True) if index is not None}
        for shard in shards.keys() - indexes.keys():
            for i in shards[shard]:
                bodies[i] = None
        requests: list[Request] = []
        brought: list[list[tuple[int, int, int]]] = []
        for shard, index in indexes.items():
            wanted = self._ranges(shard, index, shards[shard], chunks, bodies)
            ranges = np.array([span for _, *span in wanted], np.int64).reshape(-1, 2)
            for group in coalesce(ranges, max_gap_nbytes=MAX_GAP_NBYTES, max_nbytes=MAX_REQUEST_NBYTES):
                requests.append(Request(self._array.object_key(shard), group.start, group.stop))
                brought.append([wanted[at] for at in group.members.tolist()])
        try:
            fetched = fetch_ranges(self._store, requests)
        except (MissingObject, StoreError):  # the shard may be another one, or none, since its index was read
            if changed := self._changed(indexes):
                return changed
            raise
        for request, members, data in zip(requests, brought, fetched, strict=True):
            for i, start, stop in members:
                part = data[start - request.start : stop - request.start]
                bodies[i] = self._body(chunks[i], part, f"{self._store.url}/{request.key}, bytes {start}–{stop}")
        return self._changed(indexes)

    def _fetch_local(
        self,
        store: LocalStore,
        shard: Coordinates,
        members: Iterable[int],
        chunks: Sequence[Coordinates],
        bodies: list[Body | None],
    ) -> bool:
        """Read chunks of one file; whether it stayed the same."""
        key, nbytes = self._array.object_key(shard), index_nbytes(self._num_chunks)
        try:
            with store.opened(key) as file:
                identity, is_settled = _identity(file)
                size = identity[2]
                index = self._cache.find((key, identity))
                if index is None:
                    data = _pread(file, max(0, size - nbytes), size)
                    index = None if data is None else self._checked(shard, size, data, lambda: _end(file, nbytes))
                if index is None:
                    return False
                if is_settled:
                    self._cache.keep((key, identity), index)
                for i, start, stop in self._ranges(shard, index, members, chunks, bodies):
                    data = _pread(file, start, stop)
                    if data is None:
                        return False
                    bodies[i] = self._body(chunks[i], data, f"{self._where(shard)}, bytes {start}–{stop}")
                if not is_settled:  # times may stay the same through another change, which has an index of its own
                    _, data = _end(file, _CHECKSUM_NBYTES)
                    if int.from_bytes(data, "little") != index[-1, 1]:
                        return False
                return _identity(file)[0] == identity
        except FileNotFoundError:
            for i in members:
                bodies[i] = None
            return True
        except PermissionError:
            raise
        except OSError as error:
            raise StoreError(f"cannot read {self._where(shard)}: {error.strerror}") from error

    def _ranges(
        self,
        shard: Coordinates,
        index: Index,
        members: Iterable[int],
        chunks: Sequence[Coordinates],
        bodies: list[Body | None],
    ) -> list[tuple[int, int, int]]:
        """Which chunk lies at which bytes, of those that are stored."""
        per_object = self._array.chunks_per_object
        ranges = []
        for i in members:
            within = tuple(c % n for c, n in zip(chunks[i], per_object, strict=True))
            start, stop = map(int, index[np.ravel_multi_index(within, per_object)])
            if start < 0:
                bodies[i] = None
                continue
            if stop - start > most_nbytes(self._array.chunk_nbytes):
                where = f"{self._where(shard)}, bytes {start}–{stop}"
                raise corrupt_chunk(self._array, self._name, "more bytes than a chunk can have", where, chunks[i][0])
            ranges.append((i, start, stop))
        return ranges

    def _body(self, chunk: Coordinates, data: memoryview, where: str) -> Body:
        return Body(data, where, partial(self._again, chunk))

    def _again(self, chunk: Coordinates) -> memoryview:
        (body,) = self.fetch([chunk])
        if body is None:
            raise FileNotFoundError(f"no chunk {chunk}")
        return body.data

    def _find_index(self, shard: Coordinates) -> Index | None:
        """The index of a shard and, in a last row, size and checksum to know it by; None where the shard is not stored."""
        key, nbytes = self._array.object_key(shard), index_nbytes(self._num_chunks)
        kept = self._cache.find(key)
        if kept is not None:
            return kept
        try:
            size, data = self._store.read_end(key, nbytes)
            index = self._checked(shard, size, data, lambda: self._store.read_end(key, nbytes))
        except FileNotFoundError:
            return None
        self._cache.keep(key, index)
        return index

    def _checked(
        self, shard: Coordinates, size: int, data: memoryview, again: Callable[[], tuple[int, memoryview]]
    ) -> Index:
        """The index at the end of a shard, read once more if it is damaged."""
        nbytes = index_nbytes(self._num_chunks)
        for attempt in (1, 2):
            try:
                if size < nbytes:
                    raise InvalidDataset(f"{self._where(shard)}: {size} bytes, shorter than the index of a shard")
                index = decode_index(data, self._num_chunks, size, self._where(shard))
                break
            except InvalidDataset as error:
                if attempt == 2:
                    raise InvalidDataset(f"{error} (field {self._name!r}, {self._samples(shard)})") from error
                size, data = again()
        return np.concatenate([index, [[size, int.from_bytes(data[-_CHECKSUM_NBYTES:], "little")]]])

    def _changed(self, indexes: dict[Coordinates, Index]) -> list[Coordinates]:
        """The shards that are not those of their indexes any more, which are forgotten."""

        def is_changed(shard: Coordinates, index: Index) -> bool:
            try:
                size, data = self._store.read_end(self._array.object_key(shard), _CHECKSUM_NBYTES)
            except FileNotFoundError:
                return True
            return (size, int.from_bytes(data, "little")) != (int(index[-1, 0]), int(index[-1, 1]))

        told = do_all(Level.OBJECTS, [partial(is_changed, shard, index) for shard, index in indexes.items()])
        changed = [shard for shard, other in zip(indexes, told, strict=True) if other]
        for shard in changed:
            self._cache.drop(self._array.object_key(shard))
        return changed

    def _where(self, shard: Coordinates) -> str:
        return f"{self._store.url}/{self._array.object_key(shard)}"

    def _samples(self, shard: Coordinates) -> str:
        rows = self._array.object_shape[0]
        return f"samples {shard[0] * rows}–{min((shard[0] + 1) * rows, self._array.shape[0]) - 1}"


def _identity(file: int) -> tuple[tuple[int, ...], bool]:
    """What tells a file from what was written over it, and whether its times would show another change."""
    status = os.fstat(file)
    is_settled = abs(time.time() - max(status.st_mtime, status.st_ctime)) >= SETTLED_S
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns), is_settled


def _end(file: int, nbytes: int) -> tuple[int, memoryview]:
    size = os.fstat(file).st_size
    return size, _pread(file, max(0, size - nbytes), size) or memoryview(b"")


def _pread(file: int, start: int, stop: int) -> memoryview | None:
    """Bytes of a file, None if it ends before them."""
    pieces = []
    while start < stop:
        piece = os.pread(file, stop - start, start)
        if not piece:
            return None
        pieces.append(piece)
        start += len(piece)
    return memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))
