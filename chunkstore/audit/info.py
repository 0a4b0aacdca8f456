"""What a version of a dataset is and holds, as a value: sizes, codecs and statistics of its fields.

Reads metadata only: the version, and of each part its object list and its Zarr metadata; never samples. Decides nothing. Before
it: the user, and `stages/info.py`, which prints it; after it: `reading/dataset.py` and `reading/part.py`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from chunkstore.format.codecs import Compressor
from chunkstore.format.schema import Array, Field, stored_dtype
from chunkstore.format.versions import FieldStatistics, Part, Version
from chunkstore.reading.dataset import Url
from chunkstore.reading.dataset import open as open_dataset
from chunkstore.reading.part import Documents, read_documents
from chunkstore.store.interface import Store
from chunkstore.store.location import open_store
from chunkstore.store.side_by_side import Level, do_all

_PARTS_AT_ONCE = 256
"""Parts whose documents are held at the same time."""


@dataclass(frozen=True, slots=True)
class FieldInfo:
    """A field of a version.

    Attributes:
        name: Its name.
        type: Its type, as in the schema.
        codecs: How its values are compressed in the store, "none" if they are not; several where fragments differ. Empty for
            plain Zarr, and where there are no samples.
        nbytes: Bytes of its values, decoded.
        stored_nbytes: Bytes of its objects; None for plain Zarr, which keeps no account of them.
        statistics: Of "values", "lengths" or both.
    """

    name: str
    type: Field
    codecs: tuple[str, ...]
    nbytes: int
    stored_nbytes: int | None
    statistics: FieldStatistics


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """A version of a dataset.

    Attributes:
        url: Where it is, without credentials.
        uuid: The dataset's, the same in every version.
        version: Number.
        time: When it was committed, UTC, ISO 8601; empty for plain Zarr.
        message: What its writer said.
        samples: How many it has.
        fragments: In how many fragments.
        nbytes: Decoded bytes of all fields.
        stored_nbytes: Bytes of all its objects below fragments/; None for plain Zarr, which keeps no account of them.
        fields: In the order of the schema.
    """

    url: str
    uuid: str
    version: int
    time: str
    message: str
    samples: int
    fragments: int
    nbytes: int
    stored_nbytes: int | None
    fields: tuple[FieldInfo, ...]

    def __repr__(self) -> str:
        stored = "" if self.stored_nbytes is None else f", {self.stored_nbytes:,} stored"
        lines = [
            f"DatasetInfo({self.url!r}, version {self.version}, samples: {self.samples:,}, fragments: {self.fragments:,},"
            f" {self.nbytes:,} bytes{stored})"
        ]
        for each in self.fields:
            stored = "" if each.stored_nbytes is None else f", {each.stored_nbytes:,} stored"
            lines.append(f"    {each.name}: {each.type!r}, {each.nbytes:,} bytes{stored} ({', '.join(each.codecs)})")
        return "\n".join(lines)


def info(
    url: Url,
    *,
    version: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    filesystem: Any = None,
) -> DatasetInfo:
    """Say what a version of a dataset is and holds; no samples are read.

    Args:
        url: Path or URL of the dataset; plain Zarr is known, too, as far as its metadata go.
        version: Number of the version; the latest if None.
        storage_options: For the store, under obstore's names or s3fs's.
        filesystem: An fsspec filesystem to read through.

    Raises:
        DatasetNotFound: there is no dataset, or no such version.
        InvalidDataset: metadata are damaged.
        MissingObject: metadata are absent.
        UnsupportedFormat: a newer format.
        VersionExpired: the version was dropped by `gc`.
    """
    store = open_store(url, storage_options=storage_options, filesystem=filesystem)
    document = open_dataset(store, version=version).version_document  # type: ignore[arg-type]
    parts = [part for fragment in document.fragments for part in fragment.parts]
    is_plain = any(part.objects_nbytes == 0 for part in parts)  # no object list is empty
    sizes = _plain_sizes(document) if is_plain else _sizes(store, document, parts)
    fields = tuple(
        FieldInfo(
            name,
            kind,
            tuple(sizes[name].codecs),
            sizes[name].nbytes,
            None if is_plain else sizes[name].stored_nbytes,
            document.statistics[name],
        )
        for name, kind in document.schema.items()
    )
    return DatasetInfo(
        url=store.url,
        uuid=document.dataset,
        version=document.number,
        time=document.time,
        message=document.message,
        samples=document.num_samples,
        fragments=len(document.fragments),
        nbytes=sum(each.nbytes for each in fields),
        stored_nbytes=None if is_plain else sum(part.stored_nbytes for part in parts),
        fields=fields,
    )


@dataclass(slots=True)
class _Size:
    nbytes: int = 0
    stored_nbytes: int = 0
    codecs: dict[str, None] = field(default_factory=dict)


def _sizes(store: Store, document: Version, parts: list[Part]) -> dict[str, _Size]:
    """Sizes and codecs of each field, as the parts' documents have them."""
    sizes = {name: _Size() for name in document.schema}
    for begin in range(0, len(parts), _PARTS_AT_ONCE):
        jobs = [partial(read_documents, store, part) for part in parts[begin : begin + _PARTS_AT_ONCE]]
        for documents in do_all(Level.FRAGMENTS, jobs):
            _add(sizes, documents)
    return sizes


def _add(sizes: dict[str, _Size], documents: Documents) -> None:
    objects, arrays = documents
    for key, stored in objects.items():
        if (size := sizes.get(key.partition("/")[0])) is not None:
            size.stored_nbytes += stored.nbytes
    for path, array in arrays.items():
        name, _, member = path.partition("/")
        if (size := sizes.get(name)) is None or member == "crc":
            continue
        size.nbytes += math.prod(array.shape) * array.numpy_dtype.itemsize
        if member in {"", "values"}:
            size.codecs[_told(array.codecs.compressor)] = None


def _plain_sizes(document: Version) -> dict[str, _Size]:
    sizes = {}
    for name, kind in document.schema.items():
        assert isinstance(kind, Array)
        sizes[name] = _Size(document.num_samples * math.prod(kind.shape) * stored_dtype(kind).itemsize)
    return sizes


def _told(compressor: Compressor | None) -> str:
    """A compressor in the words of `codec=`."""
    if compressor is None:
        return "none"
    name = f"blosc-{compressor.cname}" if compressor.name == "blosc" else compressor.name
    return f"{name}-{compressor.level}"
