"""Chunked array datasets on Zarr v3, streamed shuffled from object storage into PyTorch training.

    import chunkstore as cs

    with cs.create("train", {"image": cs.Image("jpeg"), "label": cs.Array("int64")}) as writer:
        writer.write({"image": jpeg, "label": 3})
    for batch in cs.Loader("train", batch_size=256, shuffle=True):
        ...

Names are loaded when first used, so that `import chunkstore` costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chunkstore import torch as torch
    from chunkstore.audit.info import DatasetInfo as DatasetInfo
    from chunkstore.audit.info import FieldInfo as FieldInfo
    from chunkstore.audit.info import info as info
    from chunkstore.audit.verify import verify as verify
    from chunkstore.errors import ChunkstoreError as ChunkstoreError
    from chunkstore.errors import CommitConflict as CommitConflict
    from chunkstore.errors import CorruptChunk as CorruptChunk
    from chunkstore.errors import CorruptSample as CorruptSample
    from chunkstore.errors import DatasetExists as DatasetExists
    from chunkstore.errors import DatasetNotFound as DatasetNotFound
    from chunkstore.errors import ForkedLoader as ForkedLoader
    from chunkstore.errors import InvalidDataset as InvalidDataset
    from chunkstore.errors import MissingObject as MissingObject
    from chunkstore.errors import ObjectChanged as ObjectChanged
    from chunkstore.errors import ReadOnlyStore as ReadOnlyStore
    from chunkstore.errors import SampleError as SampleError
    from chunkstore.errors import SchemaError as SchemaError
    from chunkstore.errors import StateMismatch as StateMismatch
    from chunkstore.errors import StoreError as StoreError
    from chunkstore.errors import UnsupportedFormat as UnsupportedFormat
    from chunkstore.errors import VersionExpired as VersionExpired
    from chunkstore.format.diff import StatisticsChange as StatisticsChange
    from chunkstore.format.diff import VersionDiff as VersionDiff
    from chunkstore.format.schema import Array as Array
    from chunkstore.format.schema import Bytes as Bytes
    from chunkstore.format.schema import Image as Image
    from chunkstore.format.schema import Ragged as Ragged
    from chunkstore.format.schema import Schema as Schema
    from chunkstore.format.schema import Text as Text
    from chunkstore.format.statistics import Statistics as Statistics
    from chunkstore.history.gc import GcReport as GcReport
    from chunkstore.history.gc import gc as gc
    from chunkstore.history.past_versions import VersionInfo as VersionInfo
    from chunkstore.history.past_versions import diff as diff
    from chunkstore.history.past_versions import rollback as rollback
    from chunkstore.history.past_versions import versions as versions
    from chunkstore.history.tags import tag as tag
    from chunkstore.loader.loader import Loader as Loader
    from chunkstore.reading.dataset import Dataset as Dataset
    from chunkstore.reading.dataset import open as open
    from chunkstore.reading.field_view import FieldView as FieldView
    from chunkstore.reading.present import RaggedBatch as RaggedBatch
    from chunkstore.writing.add_fields import add_fields as add_fields
    from chunkstore.writing.compact import compact as compact
    from chunkstore.writing.fragments import FragmentWriter as FragmentWriter
    from chunkstore.writing.fragments import commit as commit
    from chunkstore.writing.fragments import fragment as fragment
    from chunkstore.writing.results import FragmentResult as FragmentResult
    from chunkstore.writing.writer import Writer as Writer
    from chunkstore.writing.writer import append as append
    from chunkstore.writing.writer import create as create

_HOMES = {
    "format.schema": ("Array", "Bytes", "Image", "Ragged", "Schema", "Text"),
    "format.diff": ("StatisticsChange", "VersionDiff"),
    "format.statistics": ("Statistics",),
    "reading.present": ("RaggedBatch",),
    "writing.writer": ("Writer", "append", "create"),
    "writing.fragments": ("FragmentWriter", "commit", "fragment"),
    "writing.results": ("FragmentResult",),
    "writing.add_fields": ("add_fields",),
    "writing.compact": ("compact",),
    "reading.dataset": ("Dataset", "open"),
    "reading.field_view": ("FieldView",),
    "history.gc": ("GcReport", "gc"),
    "history.past_versions": ("VersionInfo", "diff", "rollback", "versions"),
    "audit.info": ("DatasetInfo", "FieldInfo", "info"),
    "history.tags": ("tag",),
    "audit.verify": ("verify",),
    "loader.loader": ("Loader",),
    "errors": (
        "ChunkstoreError",
        "CommitConflict",
        "CorruptChunk",
        "CorruptSample",
        "DatasetExists",
        "DatasetNotFound",
        "ForkedLoader",
        "InvalidDataset",
        "MissingObject",
        "ObjectChanged",
        "ReadOnlyStore",
        "SampleError",
        "SchemaError",
        "StateMismatch",
        "StoreError",
        "UnsupportedFormat",
        "VersionExpired",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Array",
    "Bytes",
    "ChunkstoreError",
    "CommitConflict",
    "CorruptChunk",
    "CorruptSample",
    "Dataset",
    "DatasetInfo",
    "DatasetExists",
    "DatasetNotFound",
    "FieldInfo",
    "FieldView",
    "ForkedLoader",
    "FragmentResult",
    "FragmentWriter",
    "GcReport",
    "Image",
    "InvalidDataset",
    "Loader",
    "MissingObject",
    "ObjectChanged",
    "Ragged",
    "RaggedBatch",
    "ReadOnlyStore",
    "SampleError",
    "Schema",
    "SchemaError",
    "StateMismatch",
    "Statistics",
    "StatisticsChange",
    "StoreError",
    "Text",
    "UnsupportedFormat",
    "VersionDiff",
    "VersionExpired",
    "VersionInfo",
    "Writer",
    "add_fields",
    "append",
    "commit",
    "compact",
    "create",
    "diff",
    "fragment",
    "gc",
    "info",
    "open",
    "rollback",
    "tag",
    "torch",
    "verify",
    "versions",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "torch":
        return importlib.import_module("chunkstore.torch")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'chunkstore' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"chunkstore.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
