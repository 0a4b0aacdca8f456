"""The errors of chunkstore: one tree, raised everywhere, imported from nowhere else.

An error says what happened, where, and what to do. It never carries credentials: locations in messages are the store's
printable URL and a key.

    ChunkstoreError
    ├── DatasetNotFound      no dataset, version or tag at this URL
    ├── DatasetExists        `create` where a dataset already is
    ├── InvalidDataset       metadata that is damaged, hostile or contradicts itself
    ├── UnsupportedFormat    well-formed, but of a format, codec or requirement this release does not know
    ├── SchemaError          a schema that cannot be stored, or two that do not agree
    ├── SampleError          what was written does not fit the schema
    ├── CommitConflict       another writer's commit makes this one impossible
    ├── ReadOnlyStore        the store cannot commit safely
    ├── VersionExpired       the version was dropped by `gc`
    ├── MissingObject        an object the metadata names is not in the store
    ├── ObjectChanged        an object was replaced while it was being read
    ├── CorruptChunk         a stored chunk fails its checksum or does not decode
    ├── CorruptSample        a stored sample fails its checksum or does not decode
    ├── StoreError           the store failed, after retries; the last cause is `__cause__`
    ├── StateMismatch        a loader state of another dataset, version or order
    └── ForkedLoader         used in a forked child, where its threads do not exist
"""


class ChunkstoreError(Exception):
    """Base of every error that chunkstore raises for its callers."""


class DatasetNotFound(ChunkstoreError):
    """There is no dataset, version or tag where one was asked for."""


class DatasetExists(ChunkstoreError):
    """A dataset is already at the URL given to `create`."""


class InvalidDataset(ChunkstoreError):
    """Metadata is damaged, hostile, or contradicts itself."""


class UnsupportedFormat(ChunkstoreError):
    """The dataset is well formed, but needs something this release does not know."""


class SchemaError(ChunkstoreError):
    """A schema cannot be stored, or two schemas do not agree."""


class SampleError(ChunkstoreError):
    """What was written does not fit the schema; the dataset is untouched."""


class CommitConflict(ChunkstoreError):
    """Another writer's commit makes this one impossible."""


class ReadOnlyStore(ChunkstoreError):
    """The store cannot commit safely, so it is only read."""


class VersionExpired(ChunkstoreError):
    """The version existed and was dropped by `gc`."""


class MissingObject(ChunkstoreError):
    """An object that the metadata names is not in the store."""


class ObjectChanged(ChunkstoreError):
    """An object was replaced while it was being read."""


class CorruptChunk(ChunkstoreError):
    """A stored chunk fails its checksum or does not decode."""


class CorruptSample(ChunkstoreError):
    """A stored sample fails its checksum or does not decode."""


class StoreError(ChunkstoreError):
    """The store failed, after retries; the last cause is in `__cause__`."""


class StateMismatch(ChunkstoreError):
    """A loader state belongs to another dataset, version, view or order."""


class ForkedLoader(ChunkstoreError):
    """A loader, dataset or writer is used in a forked child, where its threads do not exist."""
