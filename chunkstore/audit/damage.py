"""Damage: what is wrong with a stored object, and which samples of which field it touches.

`verify.py` finds out that an object is not what was written; here its shards are taken apart chunk by chunk, or sample by
sample where values are plain, until fields and samples are named. Works in bounded memory, stops at no first damage, and never
raises for what is merely damaged. After it stand `reading/array.py` and `reading/part.py`, which
read what can be read.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from chunkstore._native import crc32c
from chunkstore.errors import InvalidDataset, MissingObject, StoreError
from chunkstore.format.schema import Field, Ragged
from chunkstore.format.shard_index import Index, decode_index, index_nbytes
from chunkstore.format.versions import StoredObject
from chunkstore.kernels.codecs import decode_chunk
from chunkstore.kernels.columns import crc32c_samples
from chunkstore.plan.reads import coalesce
from chunkstore.reading.array import DamagedRows, StoredArray
from chunkstore.reading.part import OpenPart
from chunkstore.store.interface import Store

Kind = Literal["missing", "size", "checksum", "chunk", "sample", "metadata", "index"]

MAX_PER_OBJECT = 100
"""Places of damage listed for one object; what is beyond is joined into the last."""
PIECE_NBYTES = 4 << 20
"""What is read, or checked, at once."""
WINDOW_ROWS = 1 << 16
"""Samples whose spans are looked at together, unless one chunk holds more."""
LARGE_CHUNK_NBYTES = 64 << 20
"""Larger chunks are decoded one at a time, whatever the number of threads."""
_UNREADABLE = (DamagedRows, InvalidDataset, MissingObject, StoreError, PermissionError)


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is wrong.

    Attributes:
        key: The object concerned, relative to the dataset.
        kind: "missing": it is absent, or cannot be opened. "size": it is shorter or longer than recorded. "checksum": its bytes
            are not those that were written. "chunk": some of its chunks fail their checksum or do not decode. "sample": some
            samples in it fail their checksum. "index": the index of a shard is damaged. "metadata": a document is damaged, or
            documents or arrays contradict each other.
        detail: What was found.
        field: The field concerned, None where it is none or all.
        samples: Indices [start, stop) in the version of the samples that cannot be trusted; None where there are none.
    """

    key: str
    kind: Kind
    detail: str
    field: str | None = None
    samples: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class StoredField:
    """A field of a fragment whose metadata is in order.

    Attributes:
        store: The dataset's.
        part: Key of its part.
        name: The field's.
        type: The field's.
        opened: The part, opened for this field.
        position: Index in the version of the fragment's first sample.
        num_samples: Of the fragment.
    """

    store: Store
    part: str
    name: str
    type: Field
    opened: OpenPart
    position: int
    num_samples: int

    def samples(self, start: int, stop: int) -> tuple[int, int]:
        """Rows of the fragment as indices in the version."""
        return self.position + start, self.position + stop


@dataclass(frozen=True, slots=True)
class Shard:
    """A stored shard of an array of a field."""

    field: StoredField
    path: str
    number: int
    stored: StoredObject

    @property
    def array(self) -> StoredArray:
        """The array it belongs to."""
        return self.field.opened.arrays[self.path]

    @property
    def key(self) -> str:
        """Its key in the dataset."""
        return f"{self.field.part}/{self.path}/{self.array.metadata.shard_key(self.number)}"

    @property
    def rows(self) -> tuple[int, int]:
        """The rows of the array that it holds."""
        metadata = self.array.metadata
        start = self.number * metadata.shard_shape[0]
        return start, min(start + metadata.shard_shape[0], metadata.shape[0])

    @property
    def is_values(self) -> bool:
        """Whether its rows are values of a ragged field, not samples."""
        return self.path != self.field.name and self.path.endswith("/values")

    def damage(self, kind: Kind, detail: str, start: int, stop: int) -> Damage:
        """Damage of rows [start, stop) of the array."""
        rows = _rows_of_values(self.field, start, stop) if self.is_values else (start, stop)
        samples = self.field.samples(*rows) if rows[0] < rows[1] else None
        return Damage(self.key, kind, detail, self.field.name, samples)


def damage_in_shard(shard: Shard, large: AbstractContextManager[Any]) -> list[Damage]:
    """What is wrong inside a shard of the recorded size: index, then chunks, or samples where values are plain.

    Large chunks are decoded within `large`, a lock.
    """
    metadata = shard.array.metadata
    plain = metadata.is_plain
    found: list[Damage] = []
    try:
        index = _read_index(shard)
    except InvalidDataset as error:
        rows = (0, 0) if plain else shard.rows  # plain values are read without the index
        found.append(shard.damage("index", str(error), *rows))
        index = None
    if plain:
        bad = _damaged_samples(shard)
        found += [
            Damage(shard.key, "sample", detail, shard.field.name, shard.field.samples(start, stop))
            for start, stop, detail in _merged(bad)
        ]
    elif index is not None:
        found += [shard.damage("chunk", detail, a, b) for a, b, detail in _merged(_damaged_rows(shard, index, large))]
    return found


def contradictions(field: StoredField) -> tuple[list[Damage], Exception | None]:
    """Where spans and shapes of a ragged field contradict each other, the values, or the schema.

    Returns:
        The damage, and the error by which spans or shapes could not be read, if so.
    """
    arrays, name = field.opened.arrays, field.name
    if f"{name}/spans" not in arrays:
        return [], None
    num_values = arrays[f"{name}/values"].metadata.shape[0]
    found: list[tuple[int, int, str]] = []
    unreadable: Exception | None = None
    failures = 0
    for start, stop in _windows(0, field.num_samples, arrays[f"{name}/spans"]):
        before = max(0, start - 1)  # a sample begins where the one before ends, or later
        shapes = None
        try:
            spans = arrays[f"{name}/spans"].read(_interval(before, stop))
            if f"{name}/shape" in arrays:
                shapes = arrays[f"{name}/shape"].read(_interval(start, stop)).astype(np.int64, copy=False)
        except _UNREADABLE as error:
            unreadable = unreadable or error
            failures += 1
        else:
            try:
                offsets = field.opened.check_spans(name, spans, num_values)
                if shapes is not None and isinstance(field.type, Ragged):
                    field.opened.check_shapes(name, field.type, shapes, np.diff(offsets)[start - before :])
            except InvalidDataset as error:
                found.append((start, stop, str(error)))
                failures += 1
        if failures >= MAX_PER_OBJECT:  # windows without end are cheap to claim
            break
    key = f"{field.part}/{name}/spans"
    return [Damage(key, "metadata", detail, name, field.samples(a, b)) for a, b, detail in _merged(found)], unreadable


def _read_index(shard: Shard) -> Index:
    num_chunks = int(np.prod(shard.array.metadata.chunks_per_shard))
    nbytes, size = index_nbytes(num_chunks), shard.stored.nbytes
    where = f"{shard.field.store.url}/{shard.key}"
    if size < nbytes:
        raise InvalidDataset(f"{where}: {size} bytes, too few for an index of {num_chunks} chunks")
    data = shard.field.store.read_ranges(shard.key, [(size - nbytes, size)])[0]
    return decode_index(data, num_chunks, size, where)


def _damaged_rows(shard: Shard, index: Index, large: AbstractContextManager[Any]) -> Iterator[tuple[int, int, str]]:
    """Rows [start, stop) of the array whose chunks are not stored or do not decode, in order, and why."""
    metadata = shard.array.metadata
    first, last = shard.rows
    rows = metadata.chunk_shape[0]
    columns = int(np.prod(metadata.chunks_per_shard[1:], dtype=np.int64))
    within = np.arange(columns).reshape(metadata.chunks_per_shard[1:])[tuple(slice(n) for n in metadata.row_chunks)]
    chunk_rows = -(-(last - first) // rows)
    needed = (np.arange(chunk_rows)[:, None] * columns + within.reshape(-1)).reshape(-1)
    one_by_one = large if metadata.chunk_nbytes > LARGE_CHUNK_NBYTES else nullcontext()
    for low in range(0, len(needed), 256):
        some = needed[low : low + 256]
        with one_by_one:
            failed = _undecodable(shard, index, some)
        for number, reason in failed:
            start = first + number // columns * rows
            yield start, min(start + rows, last), reason


def _undecodable(shard: Shard, index: Index, numbers: npt.NDArray[np.int64]) -> list[tuple[int, str]]:
    """Those of the chunks that are not stored or do not decode, in order, and why."""
    metadata = shard.array.metadata
    ranges = index[numbers]
    failed = {int(n): "a chunk is not stored" for n in numbers[ranges[:, 0] < 0]}
    limit = 2 * metadata.chunk_nbytes + (64 << 10)
    long = (ranges[:, 1] - ranges[:, 0]) > limit
    failed.update({int(n): "a chunk of more bytes than its values can take" for n in numbers[long]})
    good = (ranges[:, 0] >= 0) & ~long
    numbers, ranges = numbers[good], ranges[good]
    scratch = np.empty(metadata.chunk_nbytes, np.uint8)
    for group in coalesce(ranges, max_gap_nbytes=0, max_nbytes=PIECE_NBYTES):
        data = shard.field.store.read_ranges(shard.key, [(group.start, group.stop)])[0]
        for i in group.members.tolist():
            start, stop = ranges[i].tolist()
            try:
                decode_chunk(metadata.codecs, data[start - group.start : stop - group.start], scratch)
            except ValueError as error:
                failed[int(numbers[i])] = f"{error} in bytes {start}–{stop}"
    return sorted(failed.items())


def _damaged_samples(shard: Shard) -> Iterator[tuple[int, int, str]]:
    """Rows of the fragment whose plain values touch the shard and fail their crc, in order, and why."""
    field = shard.field
    spans_of, crc_of = (field.opened.arrays[f"{field.name}/{member}"] for member in ("spans", "crc"))
    num_values = shard.array.metadata.shape[0]
    for start, stop in _windows(*_rows_of_values(field, *shard.rows), spans_of):
        try:
            spans = spans_of.read(_interval(start, stop)).astype(np.int64, copy=False)
            field.opened.check_spans(field.name, spans, num_values)
            stored = crc_of.read(_interval(start, stop))
        except _UNREADABLE as error:
            yield start, stop, f"samples cannot be checked: {error}"
            continue
        for i, reason in _failing(shard, spans, stored):
            yield start + i, start + i + 1, reason


def _failing(shard: Shard, spans: npt.NDArray[np.int64], stored: npt.NDArray[Any]) -> Iterator[tuple[int, str]]:
    """Positions of the samples that fail their crc, several read at once, and why."""
    array, itemsize = shard.array, shard.array.metadata.numpy_dtype.itemsize
    low = 0
    while low < len(spans):
        base = int(spans[low, 0])
        high = low + int(np.searchsorted(spans[low:, 1], base + PIECE_NBYTES // itemsize, side="right"))
        suspects = np.arange(low, max(high, low + 1))
        if high > low + 1:
            try:
                values = array.read(_interval(base, int(spans[high - 1, 1])))
            except _UNREADABLE:
                pass  # which of them, each tells when read alone
            else:
                bounds = np.append(spans[low:high, 0], spans[high - 1, 1]) - base
                differ = crc32c_samples(values, bounds) != stored[low:high]
                differ[:-1] |= spans[low : high - 1, 1] != spans[low + 1 : high, 0]  # a gap was taken for values
                suspects = low + np.flatnonzero(differ)
        for at in suspects.tolist():
            if reason := _wrong(array, int(spans[at, 0]), int(spans[at, 1]), int(stored[at])):
                yield at, reason
        low = max(high, low + 1)


def _wrong(array: StoredArray, start: int, stop: int, stored: int) -> str | None:
    """Why a sample of values [start, stop) cannot be served; read in pieces."""
    try:
        computed = _crc_of_values(array, start, stop)
    except _UNREADABLE as error:
        return str(error)
    return None if computed == stored else f"crc32c mismatch: stored {stored:08x}, computed {computed:08x}"


def _crc_of_values(array: StoredArray, start: int, stop: int) -> int:
    crc, step = 0, max(1, PIECE_NBYTES // array.metadata.numpy_dtype.itemsize)
    for low in range(start, stop, step):
        crc = crc32c(array.read(_interval(low, min(low + step, stop))).view(np.uint8), crc)
    return crc


def _rows_of_values(field: StoredField, start: int, stop: int) -> tuple[int, int]:
    """Rows of the fragment whose samples have values in [start, stop); all rows where spans cannot be read."""
    if start >= stop:
        return 0, 0
    spans = field.opened.arrays[f"{field.name}/spans"]

    def edge(row: int, column: int) -> int:
        return int(spans.read(_interval(row, row + 1))[0, column])

    rows = range(field.num_samples)
    try:
        first = bisect_left(rows, start + 1, key=lambda row: edge(row, 1))
        last = bisect_left(rows, stop, key=lambda row: edge(row, 0))
    except _UNREADABLE:
        return 0, field.num_samples
    return first, max(first, last)


def _merged(places: Iterable[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Places that touch made one, with the first one's reason; the last of `MAX_PER_OBJECT` reaches over all that follow."""
    merged: list[tuple[int, int, str]] = []
    for start, stop, reason in places:
        if merged and (merged[-1][1] >= start or len(merged) == MAX_PER_OBJECT):
            before, reached, first = merged[-1]
            told = first if first.endswith("and more") else f"{first}; and more"
            merged[-1] = (before, max(reached, stop), told)
        else:
            merged.append((start, stop, reason))
    return merged


def _windows(start: int, stop: int, array: StoredArray) -> Iterator[tuple[int, int]]:
    """Cut [start, stop) into rows that are read together, none of whose chunks lies in two."""
    rows = max(WINDOW_ROWS, array.metadata.chunk_shape[0])
    while start < stop:
        end = min(stop, (start // rows + 1) * rows)
        yield start, end
        start = end


def _interval(start: int, stop: int) -> npt.NDArray[np.int64]:
    return np.array([[start, stop]], np.int64)
