"""Zarr that others wrote, opened as a dataset: which arrays are its fields, and what stands for its version.

A group's arrays along one dimension become fields, read-only; nothing is converted and nothing is written. The version is a
function of the metadata alone, so that the state of a loader refuses other data. Before it: `chunkstore.open`, where there is
no dataset of ours; after it: `plain_zarr_metadata.py` (what an array is) and `plain_zarr_array.py` (its rows).

Source: docs/spec/v1.md, "Plain Zarr".
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from chunkstore.errors import DatasetNotFound, InvalidDataset, SchemaError, StoreError, UnsupportedFormat
from chunkstore.format.documents import Node
from chunkstore.format.schema import MAX_FIELDS, Array, Field, Schema, dimension_names
from chunkstore.format.versions import Fragment, Part, Version
from chunkstore.kernels.columns import Column
from chunkstore.plan.reads import Intervals, Ints
from chunkstore.reading.cache import ChunkCache
from chunkstore.reading.plain_zarr_array import PlainZarrArray
from chunkstore.reading.plain_zarr_metadata import (
    MAX_DOCUMENTS_NBYTES,
    PlainArray,
    array_v2,
    array_v3,
    check_documents,
    parse_document,
)
from chunkstore.reading.verified import Check
from chunkstore.store.interface import Store, check_key

BLOCK_NBYTES = 4 << 20
CACHE_NBYTES = 64 << 20
SMALL_NBYTES = 64
"""Fields of so many bytes a sample are stored in large chunks, which do not say what a block is."""
MAX_BLOCKS = 1 << 26
MAX_ARRAYS = MAX_FIELDS
MAX_NODES = 4 * MAX_ARRAYS
"""Documents in consolidated metadata: of v2, arrays have two, and groups have some."""
MAX_LISTED = 1 << 21
MAX_ARRAY_NBYTES = 1 << 20
_ROOTS = {
    "zarr.json": MAX_DOCUMENTS_NBYTES,
    ".zarray": MAX_ARRAY_NBYTES,
    ".zmetadata": MAX_DOCUMENTS_NBYTES,
    ".zgroup": MAX_ARRAY_NBYTES,
}
"""What may stand at the root, and how large it may be."""
ROOT_FIELD = "data"
"""Name of the field where the store's root is an array."""


@dataclass(frozen=True, slots=True)
class _Found:
    """The arrays below a root: path → its document, and that of its attributes (v2)."""

    zarr_format: int
    arrays: Mapping[str, tuple[Node, Node | None]]
    digest: str


class PlainZarr:
    """The fields of plain Zarr, read by position; a `Reader`.

    Attributes:
        version: What stands for the version document: made of metadata, written nowhere.
        arrays: By field.
        left_out: Arrays that are no fields, by path, and why.
    """

    def __init__(
        self, store: Store, version: Version, rows: Mapping[str, PlainZarrArray], left_out: Mapping[str, str]
    ) -> None:
        self.version, self.left_out = version, dict(left_out)
        self.arrays = {name: array.metadata for name, array in rows.items()}
        self._store, self._rows, self._pid = store, dict(rows), os.getpid()

    def read(
        self,
        name: str,
        field: Field,
        intervals: Intervals,
        *,
        verify: Check = True,
        box: tuple[slice, ...] | None = None,
    ) -> Column:
        """See `Reader`; raises as `PlainZarrArray.read` does."""
        if os.getpid() != self._pid:  # a forked child: locks may be held by threads that do not exist here
            self._rows, self._pid = _open_rows(self._store, self.arrays, {}), os.getpid()
        try:
            return self._rows[name].read(intervals, verify=bool(verify), box=box)
        except (StoreError, PermissionError) as error:
            samples = f"samples {intervals[:, 0].min()}–{intervals[:, 1].max() - 1}"
            refused = ", of which an object is absent or may not be read" if isinstance(error, PermissionError) else ""
            raise type(error)(f"{error} (while reading field {name!r}, {samples}{refused})") from error

    def read_lengths(self, name: str, intervals: Intervals) -> Ints:
        """Refused: no field of plain Zarr is ragged."""
        raise SchemaError(f"field {name!r} is an Array, all of whose samples have one length")


def open_plain_zarr(store: Store, number: int | None = None, tag: str | None = None) -> PlainZarr | None:
    """Open plain Zarr as a dataset; None where there is no Zarr, or a dataset of chunkstore's.

    Args:
        store: Whose root is a Zarr group or array, v2 or v3.
        number: The version that it must be; whatever it is if None.
        tag: Refused, since plain Zarr has none.

    Raises:
        DatasetNotFound: a tag, or another version than the one that is there.
        InvalidDataset: its metadata is damaged.
        UnsupportedFormat: none of its arrays has samples that can be read.
    """
    found = _find(store)
    if found is None:
        return None
    if len(found.arrays) > MAX_ARRAYS:
        raise UnsupportedFormat(f"{store.url}: {len(found.arrays)} arrays; at most {MAX_ARRAYS} are read")
    if tag is not None:
        raise DatasetNotFound(f"{store.url}: plain Zarr, which has no tags; leave tag={tag!r} out")
    present = 1 + int(found.digest[:12], 16)
    if number not in (None, present):
        raise DatasetNotFound(
            f"{store.url}: plain Zarr, whose only version is that of its metadata as it is now: {present}, not {number}; leave "
            "version out, or restore what was changed"
        )
    left_out: dict[str, str] = {}
    fields = _named(_along_samples(_readable(found, left_out), left_out), left_out)
    rows = _open_rows(store, fields, left_out)
    if not rows:
        told = "; ".join(f"{path or 'the array'}: {reason}" for path, reason in sorted(left_out.items())[:20])
        raise UnsupportedFormat(
            f"{store.url}: Zarr without an array of samples that can be read ({told or 'no arrays'})"
        )
    return PlainZarr(store, _version(store, found, present, rows, left_out), rows, left_out)


def _open_rows(store: Store, fields: Mapping[str, PlainArray], left_out: dict[str, str]) -> dict[str, PlainZarrArray]:
    cache = ChunkCache(CACHE_NBYTES)
    rows = {}
    for name, array in fields.items():
        try:
            rows[name] = PlainZarrArray(store, name, array, cache)
        except UnsupportedFormat as error:
            left_out[array.path] = str(error)
    return rows


def _readable(found: _Found, left_out: dict[str, str]) -> list[PlainArray]:
    arrays = []
    for path, (document, attributes) in found.arrays.items():
        try:
            _check_path(path)
            if found.zarr_format == 3:
                arrays.append(array_v3(document, path))
            else:
                arrays.append(array_v2(document, attributes, path))
        except UnsupportedFormat as error:
            left_out[path] = str(error)
    return arrays


def _check_path(path: str) -> None:
    """Refuse names that Zarr allows and our stores do not, and those that lead elsewhere."""
    try:
        if path:
            check_key(path)
    except ValueError as error:
        raise UnsupportedFormat(str(error)) from error


def _along_samples(arrays: list[PlainArray], left_out: dict[str, str]) -> list[PlainArray]:
    """The arrays along the first dimension that has the most bytes: of one length, and one name where there are names."""
    nbytes: dict[tuple[str | None, int], int] = {}
    for array in arrays:
        along = _along(array)
        nbytes[along] = nbytes.get(along, 0) + array.shape[0] * array.row_nbytes
    if not nbytes:
        return []
    name, length = max(nbytes, key=lambda along: nbytes[along])
    chosen = []
    for array in arrays:
        other, n = _along(array)
        if n == length and (name == other or None in (name, other)):
            chosen.append(array)
        else:
            told = f"{other!r}, " if other is not None else ""
            samples = f"{name!r}, " if name is not None else ""
            left_out[array.path] = f"its first dimension ({told}{n}) is not that of the samples ({samples}{length})"
    return chosen


def _along(array: PlainArray) -> tuple[str | None, int]:
    return (array.dims[0] if array.dims else None), array.shape[0]


def _named(arrays: Iterable[PlainArray], left_out: dict[str, str]) -> dict[str, PlainArray]:
    """Arrays by field name: the path with "." for "/", without underscores before it."""
    fields: dict[str, PlainArray] = {}
    dimensions: set[str] = set()
    folded: set[str] = set()
    for array in arrays:
        name, field = _field_name(array.path), Array(array.dtype, array.shape[1:])
        try:
            Schema({name: field})  # of one, since a schema looks at all its fields
            own = set(dimension_names(name, field))
            if name in fields:
                raise SchemaError(f"{fields[name].path!r} is the field {name!r} already")
            if name in dimensions or own & fields.keys():
                raise SchemaError(f"field name {name!r} and the dimensions of another field clash")
            if name.casefold() in folded:
                raise SchemaError(f"field name {name!r} differs from another in case only")
        except SchemaError as error:
            left_out[array.path] = str(error)
            continue
        fields[name] = array
        dimensions |= own
        folded.add(name.casefold())
    return fields


def _field_name(path: str) -> str:
    return path.replace("/", ".").lstrip("_") if path else ROOT_FIELD


def _version(
    store: Store, found: _Found, number: int, rows: Mapping[str, PlainZarrArray], left_out: Mapping[str, str]
) -> Version:
    """A version document of one fragment, as if there were one; nothing of it is stored."""
    arrays, names = [row.metadata for row in rows.values()], tuple(rows)
    schema = Schema({name: Array(a.dtype, a.shape[1:]) for name, a in zip(names, arrays, strict=True)})
    samples, sample_nbytes = arrays[0].shape[0], sum(array.row_nbytes for array in arrays)
    block_rows = _block_rows(arrays)
    if samples > MAX_BLOCKS * block_rows:
        raise UnsupportedFormat(
            f"{store.url}: claims {samples} samples; at most {MAX_BLOCKS} blocks of {block_rows} are read"
        )
    identity = found.digest[:32]
    part = Part(f"fragments/{identity}/0", names, samples * sample_nbytes, 0, 0, 0)
    fragment = Fragment(identity, 0, samples, block_rows, (part,))
    told = "".join(f"; left out {path}: {reason}" for path, reason in sorted(left_out.items())[:20])
    return Version(
        dataset=identity,
        number=number,
        parent=None,
        writer=identity,
        time="",
        message=f"plain Zarr v{found.zarr_format}, read-only{told}",
        schema=schema,
        fragments=(fragment,) if samples else (),
        statistics={name: {} for name in names},
        next_sample_id=samples,
    )


def _block_rows(arrays: Iterable[PlainArray]) -> int:
    """A multiple of the most rows that a chunk has, of about 4 MiB."""
    arrays = tuple(arrays)
    large = [a for a in arrays if a.row_nbytes > SMALL_NBYTES] or arrays
    rows = max(min(a.chunk_shape[0], max(1, a.shape[0])) for a in large)
    nbytes = rows * sum(array.row_nbytes for array in arrays)
    return rows * max(1, (2 * BLOCK_NBYTES + nbytes) // (2 * max(1, nbytes)))


def _find(store: Store) -> _Found | None:
    """The arrays below the root of a store, by consolidated metadata where there are any."""
    with ThreadPoolExecutor(len(_ROOTS), thread_name_prefix="chunkstore-open") as pool:
        read = pool.map(lambda root: _read(store, root[0], limit_nbytes=root[1]), _ROOTS.items())
        roots = dict(zip(_ROOTS, read, strict=True))
    if (data := roots["zarr.json"]) is not None:
        return _find_v3(store, data)
    if any(roots.values()):
        return _find_v2(store, {name: data for name, data in roots.items() if data is not None})
    return None


def _find_v3(store: Store, data: bytes) -> _Found | None:
    root = parse_document(data, f"{store.url}/zarr.json")
    if "attributes" in root and "chunkstore" in root.member("attributes"):
        return None
    root.member("zarr_format").choice(3)
    if root.member("node_type").choice("array", "group") == "array":
        return _Found(3, {"": (root, None)}, _digest({"zarr.json": data}))
    if "consolidated_metadata" in root and root.member("consolidated_metadata").value is not None:
        consolidated = root.member("consolidated_metadata").member("metadata")
        return _Found(3, _arrays_v3(_nodes(consolidated)), _digest({"zarr.json": data}))
    documents = _read_listed(store, "/zarr.json")
    nodes = {key.removesuffix("/zarr.json"): parse_document(d, f"{store.url}/{key}") for key, d in documents.items()}
    return _Found(3, _arrays_v3(nodes), _digest({"zarr.json": data, **documents}))


def _nodes(consolidated: Node) -> dict[str, Node]:
    """The documents of consolidated metadata."""
    if isinstance(consolidated.value, dict) and len(consolidated.value) > MAX_NODES:
        raise UnsupportedFormat(f"{consolidated.where}: {len(consolidated.value)} nodes; at most {MAX_NODES} are read")
    return dict(consolidated.members())


def _arrays_v3(nodes: Mapping[str, Node]) -> dict[str, tuple[Node, Node | None]]:
    arrays = {
        path: node for path, node in nodes.items() if node.member("node_type").choice("array", "group") == "array"
    }
    return {path: (arrays[path], None) for path in sorted(arrays)}


def _find_v2(store: Store, roots: Mapping[str, bytes]) -> _Found:
    if ".zarray" in roots:
        attributes = _read(store, ".zattrs", limit_nbytes=MAX_ARRAY_NBYTES)
        documents = {".zarray": roots[".zarray"], **({} if attributes is None else {".zattrs": attributes})}
        nodes = {key: parse_document(data, f"{store.url}/{key}") for key, data in documents.items()}
    elif ".zmetadata" in roots:
        documents = {".zmetadata": roots[".zmetadata"]}
        nodes = _nodes(parse_document(roots[".zmetadata"], f"{store.url}/.zmetadata").member("metadata"))
    else:
        documents = _read_listed(store, "/.zarray", "/.zattrs")
        nodes = {key: parse_document(data, f"{store.url}/{key}") for key, data in documents.items()}
    paths = sorted(key.removesuffix(".zarray").removesuffix("/") for key in nodes if key.split("/")[-1] == ".zarray")
    arrays = {}
    for path in paths:
        prefix = f"{path}/" if path else ""
        arrays[path] = (nodes[f"{prefix}.zarray"], nodes.get(f"{prefix}.zattrs"))
    return _Found(2, arrays, _digest(documents))


def _read_listed(store: Store, *endings: str) -> dict[str, bytes]:
    """The documents below the root whose keys end so, found by listing everything."""
    keys = []
    nbytes = 0
    try:
        for listed, item in enumerate(store.list("")):
            if item[0].endswith(endings):
                keys.append(item[0])
                nbytes += item[1]
            if listed >= MAX_LISTED or len(keys) > MAX_ARRAYS * len(endings) or nbytes > MAX_DOCUMENTS_NBYTES:
                raise UnsupportedFormat(
                    f"{store.url}: too many objects, or too much metadata, to look for arrays among; consolidate the"
                    " metadata of what is wanted (zarr.consolidate_metadata)"
                )
    except (StoreError, PermissionError) as error:
        raise type(error)(
            f"{error}. Its metadata are not consolidated, so that its arrays are found by listing only: consolidate them where"
            " the data can be written (zarr.consolidate_metadata), or open one array by its own URL"
        ) from error
    with ThreadPoolExecutor(16, thread_name_prefix="chunkstore-open") as pool:
        documents = pool.map(partial(_read, store, limit_nbytes=MAX_ARRAY_NBYTES), sorted(keys))
        found = {key: data for key, data in zip(sorted(keys), documents, strict=True) if data is not None}
    check_documents(found.values(), store.url)
    return found


def _read(store: Store, key: str, *, limit_nbytes: int) -> bytes | None:
    """A document, None where there is none; without permission to list, S3 answers 403 for what is absent."""
    try:
        return store.read(key, limit_nbytes=limit_nbytes)
    except (FileNotFoundError, PermissionError):
        return None
    except ValueError as error:
        raise InvalidDataset(f"{store.url}/{key}: larger than any metadata of Zarr: {error}") from error


def _digest(documents: Mapping[str, bytes]) -> str:
    """SHA-256 of documents and their keys."""
    digest = hashlib.sha256()
    for key in sorted(documents):
        digest.update(f"{key} {len(documents[key])}\n".encode())
        digest.update(documents[key])
    return digest.hexdigest()
