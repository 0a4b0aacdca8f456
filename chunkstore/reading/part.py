"""An opened part: reading samples of its fields.

Opening reads the part's object list, whose checksum the version document holds, and its consolidated metadata, whose checksum
the list holds; everything is checked against the schema before any sample is read. Gives columns (`kernels/columns.py`) of
stored values; what a user sees is made of them by `present.py`. Damage is reported with object, field and samples, never
served.
"""

import contextlib
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from chunkstore._native import crc32, crc32c
from chunkstore.errors import CorruptChunk, CorruptSample, InvalidDataset, MissingObject, StoreError
from chunkstore.format.documents import parse_json, unseal
from chunkstore.format.metadata import ArrayMetadata
from chunkstore.format.schema import Array, Field, Ragged, Schema, has_shapes, stored_dtype
from chunkstore.format.versions import OBJECTS_NAME, Fragment, Part, StoredObject, objects_from_json
from chunkstore.kernels.columns import Column, RaggedColumn, crc32c_samples
from chunkstore.plan.reads import Intervals, rows_of_intervals
from chunkstore.reading.array import DamagedRows, StoredArray
from chunkstore.reading.cache import ChunkCache
from chunkstore.reading.present import empty_column
from chunkstore.reading.verified import Check
from chunkstore.store.documents import read_twice_if_damaged
from chunkstore.store.interface import Store
from chunkstore.store.side_by_side import Level, do_all

MAX_METADATA_NBYTES = 64 << 20
MAX_EARLY_NBYTES = 4 << 20
"""Metadata that are asked for before the list of objects says how long they are: those of some 3,000 arrays."""
_MAX_RATIOS = {"zstd": 1 << 15, "blosc": 1 << 15, "gzip": 1032}
"""Decoded bytes that a stored byte can hold: zstd's blocks of 128 KiB take at least 4, deflate's runs of 258 two bits."""
TO_DO = "restore the object; `chunkstore verify` lists all damage"
FOR_SAMPLES = "Restore the object, or append the samples again; `chunkstore verify` lists all damage."


class OpenPart:
    """A part of a fragment, its metadata read and checked.

    Args:
        store: The dataset's.
        fragment: The fragment whose samples it holds.
        part: Its line in the version document.
        schema: The dataset's.
        position: Index in the version of the fragment's first sample, for messages.
        cache: For chunks wanted in pieces.
        documents: The part's object list and metadata, where they have been read already.
    """

    def __init__(
        self,
        store: Store,
        fragment: Fragment,
        part: Part,
        schema: Schema,
        position: int,
        cache: ChunkCache,
        *,
        documents: "Documents | None" = None,
    ) -> None:
        self._store = store
        self._part = part
        self._position = position
        self._num_samples = fragment.samples
        objects, metadata = documents or read_documents(store, part)
        shards = _shards_by_array(objects)
        self._arrays: dict[str, StoredArray] = {}
        for name in part.fields:
            if name in schema:
                for path, expected in self._expected_arrays(name, schema[name], metadata).items():
                    self._arrays[path] = self._open_array(path, metadata[path], expected, shards.get(path, {}), cache)

    @property
    def arrays(self) -> Mapping[str, StoredArray]:
        """The arrays of the fields, by their path in the part."""
        return self._arrays

    def read(
        self,
        name: str,
        field: Field,
        intervals: Intervals,
        *,
        verify: Check = True,
        box: tuple[slice, ...] | None = None,
    ) -> Column:
        """The samples of `intervals` (rows of the fragment; sorted and none twice but for an `Array`) of one field.

        Args:
            name: Of the field.
            field: Its type.
            intervals: Which samples.
            verify: Whether checksums are compared.
            box: What is wanted of each sample of a fixed-shape field, a slice an axis; all of it if None.

        Raises:
            ValueError: a box for samples without a fixed shape.
            CorruptChunk, CorruptSample: stored bytes fail a check.
            MissingObject: a shard is absent, or a chunk in it.
            InvalidDataset: a shard's index is damaged, or spans or shapes contradict each other.
            StoreError: the store failed, or an object is shorter than recorded.
        """
        if box is not None and not isinstance(field, Array):
            raise ValueError(f"field {name!r}: samples of {type(field).__name__} have no fixed shape to take a box of")
        if len(intervals) == 0 and box is None:
            return empty_column(field)
        try:
            if isinstance(field, Array):
                return self._read_rows(name, name, intervals, verify=verify, box=box)
            return self._read_ragged(name, field, intervals, verify=verify)
        except (InvalidDataset, MissingObject, StoreError, PermissionError) as error:
            if isinstance(error.__cause__, DamagedRows):  # field and samples are told already
                raise
            samples = self._samples(int(intervals[:, 0].min()), int(intervals[:, 1].max()))
            raise type(error)(f"{error} (while reading field {name!r}, {samples})") from error

    def _read_rows(
        self, name: str, path: str, intervals: Intervals, *, verify: Check, box: tuple[slice, ...] | None = None
    ) -> npt.NDArray[Any]:
        try:
            return self._arrays[path].read(intervals, verify=verify, box=box)
        except DamagedRows as damage:
            raise self._error(damage, name, damage.start, damage.stop) from damage

    def _read_ragged(self, name: str, field: Field, intervals: Intervals, *, verify: Check) -> RaggedColumn:
        values = self._arrays[f"{name}/values"]
        checked = bool(verify) and values.metadata.is_plain
        shaped = isinstance(field, Ragged) and has_shapes(field)
        beside = self._read_beside(name, ["spans", *["crc"] * checked, *["shape"] * shaped], intervals, verify=verify)
        spans = beside["spans"]
        offsets = self.check_spans(name, spans, values.metadata.shape[0])
        wanted = spans[spans[:, 1] > spans[:, 0]].astype(np.int64)
        joined = _join_adjacent(wanted)
        try:
            data = values.read(joined, verify=verify)
        except DamagedRows as damage:
            rows = rows_of_intervals(intervals)[(spans[:, 0] < damage.stop) & (spans[:, 1] > damage.start)]
            raise self._error(damage, name, int(rows[0]), int(rows[-1]) + 1) from damage
        if checked:
            self._verify_samples(name, values, intervals, spans, offsets, data, beside["crc"])
        shapes = None
        if shaped and isinstance(field, Ragged):
            shapes = beside["shape"].astype(np.int64, copy=False)
            self.check_shapes(name, field, shapes, np.diff(offsets))
        return RaggedColumn(data, offsets, shapes)

    def _read_beside(
        self, name: str, kinds: list[str], intervals: Intervals, *, verify: Check
    ) -> dict[str, npt.NDArray[Any]]:
        """What is stored of each sample beside its values; of a remote store side by side."""
        jobs = [
            partial(self._read_rows, name, f"{name}/{kind}", intervals, verify=verify or kind == "crc")
            for kind in kinds
        ]
        rows = [job() for job in jobs] if self._store.is_local else do_all(Level.ARRAYS, jobs)
        return dict(zip(kinds, rows, strict=True))

    def _verify_samples(
        self,
        name: str,
        values: StoredArray,
        intervals: Intervals,
        spans: npt.NDArray[Any],
        offsets: npt.NDArray[np.int64],
        data: npt.NDArray[Any],
        stored: npt.NDArray[Any],
    ) -> None:
        """Check each sample against its own crc, `stored`; fetch one that fails once more before giving it up."""
        for i in np.flatnonzero(crc32c_samples(data, offsets) != stored).tolist():
            again = values.read(spans[i : i + 1].astype(np.int64))
            expected = int(stored[i])
            if (computed := crc32c(again.view(np.uint8))) != expected:
                sample = self._position + int(rows_of_intervals(intervals)[i])
                shards = _told_shards(values.metadata, int(spans[i, 0]), int(spans[i, 1]))
                raise CorruptSample(
                    f"crc32c mismatch in {self._store.url}/{self._part.path}/{name}/values/{shards}, "
                    f"values {spans[i, 0]}–{spans[i, 1]} (field {name!r}, sample {sample}): stored {expected:08x}, computed "
                    f"{computed:08x}. {FOR_SAMPLES}"
                )
            data[offsets[i] : offsets[i + 1]] = again

    def _error(self, damage: DamagedRows, name: str, start: int, stop: int) -> CorruptChunk | MissingObject:
        where = f"{damage.where} (field {name!r}, {self._samples(start, stop)})"
        kind = MissingObject if damage.is_absent else CorruptChunk
        return kind(f"{damage.reason} in {where}. {FOR_SAMPLES}")

    def _samples(self, start: int, stop: int) -> str:
        """Rows of the fragment as a user counts: by the version's samples."""
        first, last = self._position + start, self._position + stop - 1
        return f"sample {first}" if first == last else f"samples {first}–{last}"

    def check_spans(self, name: str, spans: npt.NDArray[Any], num_values: int) -> npt.NDArray[np.int64]:
        """Offsets of the samples whose spans these are, or InvalidDataset."""
        ordered = (spans[:, 0] <= spans[:, 1]).all() and (spans[1:, 0] >= spans[:-1, 1]).all()
        if len(spans) and not (ordered and spans[0, 0] >= 0 and spans[-1, 1] <= num_values):
            raise InvalidDataset(f"{self._store.url}/{self._part.path}/{name}/spans: spans overlap or leave the values")
        offsets = np.zeros(len(spans) + 1, np.int64)
        np.cumsum(spans[:, 1] - spans[:, 0], out=offsets[1:])
        return offsets

    def check_shapes(
        self, name: str, field: Ragged, shapes: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
    ) -> None:
        """Raise InvalidDataset where shapes (samples, rank) are not the field's, or not of so many values."""
        fixed = [(axis, n) for axis, n in enumerate(field.shape) if n is not None]
        agree = all((shapes[:, axis] == n).all() for axis, n in fixed) and (shapes >= 0).all()
        # float64 tells a product that overflows int64 from one that happens to fit
        # and a length of 0 hides what no array library can give a shape to
        products = np.maximum(shapes, 1).astype(float).prod(axis=1)
        if not agree or (shapes.prod(axis=1) != lengths).any() or (products > 2.0**48).any():
            raise InvalidDataset(
                f"{self._store.url}/{self._part.path}/{name}/shape: shapes do not agree with {field.shape} or the spans"
            )

    def _expected_arrays(
        self, name: str, field: Field, metadata: dict[str, ArrayMetadata]
    ) -> dict[str, tuple[str, tuple[int | None, ...]]]:
        """Path → (dtype, shape, None where any length will do) of the arrays that hold a field."""
        n = self._num_samples
        if isinstance(field, Array):
            expected: dict[str, tuple[str, tuple[int | None, ...]]] = {
                name: (stored_dtype(field).name, (n, *field.shape))
            }
        else:
            expected = {
                f"{name}/values": (stored_dtype(field).name, (None,)),
                f"{name}/spans": ("int64", (n, 2)),
            }
        if has_shapes(field) and isinstance(field, Ragged):
            expected[f"{name}/shape"] = ("int64", (n, len(field.shape)))
        values = metadata.get(f"{name}/values")
        if values is not None and values.is_plain:
            expected[f"{name}/crc"] = ("uint32", (n,))
        if missing := [path for path in expected if path not in metadata]:
            raise InvalidDataset(f"{self._store.url}/{self._part.path}: the array {missing[0]} is missing")
        return expected

    def _open_array(
        self,
        path: str,
        metadata: ArrayMetadata,
        expected: tuple[str, tuple[int | None, ...]],
        shards: dict[str, StoredObject],
        cache: ChunkCache,
    ) -> StoredArray:
        dtype, shape = expected
        fits = len(shape) == len(metadata.shape) and all(
            e is None or e == n for e, n in zip(shape, metadata.shape, strict=True)
        )
        if metadata.dtype != dtype or not fits:
            raise InvalidDataset(
                f"{self._store.url}/{self._part.path}/{path}: {metadata.dtype}{list(metadata.shape)}, but the schema and the "
                f"version say {dtype}{list(shape)}"
            )
        if metadata.is_plain and not path.endswith("/values"):  # the samples of values have crcs of their own
            where = f"{self._store.url}/{self._part.path}/{path}"
            raise InvalidDataset(f"{where}: chunks without crc32c, which nothing else checks")
        if len(shards) != (needed := math.prod(metadata.shard_grid)):
            raise InvalidDataset(
                f"{self._store.url}/{self._part.path}/{OBJECTS_NAME}: {len(shards)} shards of {path}, {needed} are needed"
            )
        self._check_size(path, metadata, sum(stored.nbytes for stored in shards.values()))
        return StoredArray(self._store, f"{self._part.path}/{path}", metadata, shards, cache)

    def _check_size(self, path: str, metadata: ArrayMetadata, stored_nbytes: int) -> None:
        """Raise InvalidDataset where no shards of these bytes can hold the array: nothing is allocated by what it claims."""
        compressor = metadata.codecs.compressor
        index_nbytes = 16 * math.prod(metadata.chunks_per_shard) * math.prod(metadata.shard_grid)
        most = (stored_nbytes - index_nbytes) * (_MAX_RATIOS[compressor.name] if compressor else 1)
        if (nbytes := math.prod(metadata.shape) * metadata.numpy_dtype.itemsize) > min(most, 1 << 62):
            where = f"{self._store.url}/{self._part.path}/{path}"
            raise InvalidDataset(f"{where}: {nbytes} bytes in shards of {stored_nbytes}, too small to hold them")


Documents = tuple[dict[str, StoredObject], dict[str, ArrayMetadata]]
"""A part's objects by key, and its arrays' metadata by path, both relative to the part."""


def read_documents(store: Store, part: Part) -> Documents:
    """What a part consists of; see `read_objects` and `read_metadata`. Of a remote store both are asked for at once."""
    if store.is_local:
        objects = read_objects(store, part)
        return objects, read_metadata(store, part, objects)
    jobs: list[Callable[[], Any]] = [partial(read_objects, store, part), partial(_read_early, store, part)]
    objects, early = do_all(Level.DOCUMENTS, jobs)
    return objects, read_metadata(store, part, objects, early=early)


def _read_early(store: Store, part: Part) -> bytes | None:
    """The metadata, if they can be had; whatever goes wrong is told when the list says what they are."""
    with contextlib.suppress(OSError, ValueError, StoreError):
        return store.read(f"{part.path}/zarr.json", limit_nbytes=MAX_EARLY_NBYTES)
    return None


def read_objects(store: Store, part: Part) -> dict[str, StoredObject]:
    """The part's object list.

    Raises:
        MissingObject: it is absent.
        InvalidDataset: it is not the one that the version document describes, or not well formed.
    """
    data, where = _read_document(store, part, OBJECTS_NAME, StoredObject(part.objects_nbytes, part.objects_crc32))
    return objects_from_json(unseal(data, where, bounded=False))


def read_metadata(
    store: Store, part: Part, objects: Mapping[str, StoredObject], *, early: bytes | None = None
) -> dict[str, ArrayMetadata]:
    """The part's consolidated metadata; not asked for again if they came early, as the object list describes them.

    Raises:
        MissingObject: it is absent.
        InvalidDataset: it is not the one that the object list describes, or not well formed.
        UnsupportedFormat: an array is stored in a way that this release does not read.
    """
    stored = objects.get("zarr.json")
    if stored is None or stored.nbytes > MAX_METADATA_NBYTES:
        raise InvalidDataset(f"{store.url}/{part.path}/{OBJECTS_NAME}: names no zarr.json of reasonable size")
    data, where = _read_document(store, part, "zarr.json", stored, early)
    consolidated = parse_json(data, where).member("consolidated_metadata").member("metadata")
    return {
        path: ArrayMetadata.from_json(member)
        for path, member in consolidated.members()
        if member.member("node_type").choice("array", "group") == "array"
    }


def _shards_by_array(objects: Mapping[str, StoredObject]) -> dict[str, dict[str, StoredObject]]:
    """The shards of each array of a part, by key relative to the array."""
    shards: dict[str, dict[str, StoredObject]] = {}
    for key, stored in objects.items():
        path, between, rest = key.partition("/c/")
        if between:
            shards.setdefault(path, {})[f"c/{rest}"] = stored
    return shards


def _read_document(
    store: Store, part: Part, name: str, stored: StoredObject, early: bytes | None = None
) -> tuple[bytes, str]:
    key = f"{part.path}/{name}"
    where = f"{store.url}/{key}"

    def is_intact(data: bytes) -> bool:
        return len(data) == stored.nbytes and crc32(data) == stored.crc32

    if early is not None and is_intact(early):
        return early, where
    try:
        data = read_twice_if_damaged(store, key, limit_nbytes=stored.nbytes, is_intact=is_intact)
    except FileNotFoundError as error:
        raise MissingObject(f"{where} is named by the version but absent from the store; {TO_DO}") from error
    except ValueError as error:
        raise InvalidDataset(f"{where}: longer than the {stored.nbytes} bytes recorded; {TO_DO}") from error
    if len(data) != stored.nbytes:
        raise InvalidDataset(f"{where}: {len(data)} bytes, {stored.nbytes} recorded; {TO_DO}")
    if (computed := crc32(data)) != stored.crc32:
        raise InvalidDataset(f"{where}: crc32 mismatch: stored {stored.crc32:08x}, computed {computed:08x}; {TO_DO}")
    return data, where


def _told_shards(metadata: ArrayMetadata, start: int, stop: int) -> str:
    """The shards that hold values [start, stop): any of them may be the damaged one."""
    first, last = start // metadata.shard_shape[0], max(start, stop - 1) // metadata.shard_shape[0]
    if first == last:
        return metadata.shard_key(first)
    between = " and " if last == first + 1 else " to "
    return f"{metadata.shard_key(first)}{between}{metadata.shard_key(last)}"


def _join_adjacent(spans: npt.NDArray[np.int64]) -> Intervals:
    """Spans in order, those that touch made one."""
    if len(spans) == 0:
        return spans
    breaks = np.flatnonzero(spans[1:, 0] != spans[:-1, 1])
    starts = spans[np.concatenate([[0], breaks + 1]), 0]
    stops = spans[np.concatenate([breaks, [len(spans) - 1]]), 1]
    return np.stack([starts, stops], axis=1)
