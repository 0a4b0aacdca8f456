"""Writing: samples in, one fragment out, one commit at the end.

A `Writer` checks samples against the schema before anything of them is kept, streams them through the fields' sinks, and on
leaving its `with` block writes the fragment's metadata and commits. Whatever happens before the commit, the dataset is as it
was. Before it: the user or a converter; after it: `commit.py`.

Source: docs/spec/v1.md, "Writing a fragment".
"""

import contextlib
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from chunkstore._native import crc32
from chunkstore.errors import DatasetExists, ForkedLoader, SampleError, StoreError
from chunkstore.format.documents import Json, seal
from chunkstore.format.layout import plan_block_rows
from chunkstore.format.metadata import group_to_json, zarr_json
from chunkstore.format.schema import Field, Schema
from chunkstore.format.versions import (
    FORMAT,
    OBJECTS_NAME,
    FieldStatistics,
    Fragment,
    Part,
    StoredObject,
    objects_to_json,
)
from chunkstore.kernels.columns import Column
from chunkstore.store.commit import check_message, commit_fragments, create_root, find_latest, new_id, read_latest
from chunkstore.store.encode import Value, column_length, encode_column, encode_value, join_values
from chunkstore.store.fields import open_sink, stored_objects
from chunkstore.store.interface import Store
from chunkstore.store.location import open_store
from chunkstore.store.workers import Workers

PART_NAME = "0"
SMALL_FIELD_NBYTES = 64
"""Fields of at most so many bytes a sample use chunks longer than a block, and do not set its length."""

HELD_NBYTES = 1 << 20
"""Samples that come one by one are held until they are so many bytes together."""
HELD_SAMPLE_NBYTES = 512
"""What a held sample counts for besides its own bytes, so that tiny samples are passed on too."""

Url = str | os.PathLike[str]


def create(
    url: Url,
    schema: Mapping[str, Field],
    *,
    message: str = "",
    num_threads: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    filesystem: Any = None,
) -> "Writer":
    """Begin a dataset: what the returned writer is given becomes its version 1.

    Args:
        url: Path or URL where no dataset is.
        schema: Field types by name.
        message: Kept in the version.
        num_threads: Threads that encode; the number of cores if None.
        storage_options: For the store, under obstore's names or s3fs's.
        filesystem: An fsspec filesystem to write through.

    Raises:
        DatasetExists: there is a dataset already.
        SchemaError: the schema cannot be stored.
        ReadOnlyStore: the store cannot commit safely.
    """
    check_message(message)
    checked = schema if isinstance(schema, Schema) else Schema(schema)
    store = open_store(url, storage_options=storage_options, filesystem=filesystem)
    store.check_commits()
    if (latest := find_latest(store)) is not None:
        raise DatasetExists(f"{store.url}: version {latest.number} of a dataset is there; use append, or another URL")
    return Writer(store, checked, create_root(store), message=message, create=True, num_threads=num_threads)


def append(
    url: Url,
    *,
    message: str = "",
    num_threads: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    filesystem: Any = None,
) -> "Writer":
    """Begin to append to a dataset: what the returned writer is given becomes part of its next version.

    Arguments are those of `create`; the schema is the dataset's.

    Raises:
        DatasetNotFound: there is no dataset.
        ReadOnlyStore: the store cannot commit safely.
    """
    check_message(message)
    store = open_store(url, storage_options=storage_options, filesystem=filesystem)
    store.check_commits()
    latest = read_latest(store)
    return Writer(store, latest.schema, latest.dataset, message=message, create=False, num_threads=num_threads)


class Writer:
    """Takes samples and commits them together. Made by `create` and `append`.

    Used as a context manager it commits at the end of the block, and leaves the dataset as it was if the block raises.

    Several threads may write: calls take turns, each sample or batch stays whole, and those of different threads come in
    any order. A forked child may not; it gets `ForkedLoader`, and what the parent writes is not touched.

    A write that fails after something of it was taken breaks the writer: nothing can be committed any more, and every
    later call says so.

    Attributes:
        schema: What samples must be.
        version: Number of the version that holds them, once committed.
    """

    def __init__(
        self, store: Store, schema: Schema, dataset: str, *, message: str, create: bool, num_threads: int | None = None
    ) -> None:
        self._closed = False
        self._num_passed = 0
        self._held: list[dict[str, Value]] = []
        self._held_nbytes = 0
        self._pid = os.getpid()
        self.schema = schema
        self.version: int | None = None
        self._store, self._dataset, self._message, self._create = store, dataset, message, create
        self._names = set(schema)
        self._id = new_id()
        self._part = f"fragments/{self._id}/{PART_NAME}"
        self._workers = Workers(num_threads or os.cpu_count() or 1, num_arrays=2 * len(schema))
        self._sinks = {n: open_sink(store, self._part, n, field, self._workers) for n, field in schema.items()}
        self._lock = threading.RLock()
        self._half_written = False
        self._failure = "interrupted"

    @property
    def num_samples(self) -> int:
        """Samples taken so far."""
        return self._num_passed + len(self._held)

    def __repr__(self) -> str:
        state = f"committed as version {self.version}" if self.version else "closed" if self._closed else "open"
        return f"Writer({self._store.url!r}, samples={self.num_samples}, {state})"

    def write(self, sample: Mapping[str, Any]) -> None:
        """Take one sample.

        Args:
            sample: A value for each field of the schema.

        Raises:
            SampleError: a field is missing, unknown, or does not fit; nothing of the sample is kept, and the writer goes on.
            StoreError: the store failed, now or on earlier samples. Neither this sample nor any before it will be committed,
                whatever `num_samples` says; write all of them again with a new writer.
            ForkedLoader: the writer was made before this process was forked.
        """
        self._refuse_fork()
        with self._lock:
            self._check_usable()
            self._check_names(sample, f"sample {self.num_samples}")
            values = {n: encode_value(n, field, sample[n], self.num_samples) for n, field in self.schema.items()}
            nbytes = sum(len(value) if isinstance(value, bytes) else value.nbytes for value in values.values())
            if nbytes < HELD_NBYTES:  # a larger one is passed on before this returns, so what the caller owns may stay
                values = {n: value if isinstance(value, bytes) else value.copy() for n, value in values.items()}
            self._take(lambda: self._hold(values, nbytes + HELD_SAMPLE_NBYTES))

    def write_batch(self, columns: Mapping[str, Any]) -> None:
        """Take several samples, as columns.

        Args:
            columns: For each field an array (samples, *shape) or a sequence with one value a sample, all of one length.

        Raises:
            SampleError: a field is missing, unknown, of another length, or does not fit; nothing of the batch is kept, and
                the writer goes on.
            StoreError: the store failed, now or on earlier samples. Nothing of the batch or before it will be committed,
                whatever `num_samples` says; write all of it again with a new writer.
            ForkedLoader: the writer was made before this process was forked.
        """
        self._refuse_fork()
        with self._lock:
            self._check_usable()
            self._check_names(columns, f"batch at sample {self.num_samples}")
            lengths = {name: column_length(values) for name, values in columns.items()}
            if len(set(lengths.values())) > 1 or None in lengths.values():
                told = ", ".join(f"{name!r}: {'no length' if n is None else n}" for name, n in lengths.items())
                raise SampleError(f"batch at sample {self.num_samples}: columns differ in length: {told}")
            encoded = {n: encode_column(n, field, columns[n], self.num_samples) for n, field in self.schema.items()}
            self._take(lambda: self._pass_on_batch(encoded))

    def close(self) -> None:
        """Write what is left, and commit. Does nothing the second time.

        Raises:
            StoreError: the store failed, now or on earlier samples; the dataset is as it was, unless the message says
                otherwise.
            DatasetExists, SchemaError, CommitConflict: another writer came first.
            ForkedLoader: the writer was made before this process was forked.
        """
        self._refuse_fork()
        with self._lock:
            if self._closed:
                return
            try:
                self._check_usable()
                self._closed = True
                self._pass_on_held()
                fragments = (self._finish_fragment(),) if self.num_samples else ()
                statistics = self._statistics()
            except BaseException:
                self._closed = True
                self._abort()
                raise
            version = commit_fragments(
                self._store,
                self._dataset,
                self.schema,
                fragments,
                statistics,
                message=self._message,
                create=self._create,
            )
            self.version = version.number

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._pid == os.getpid():  # else the uploads are the parent's
            with self._lock:
                if not self._closed:
                    self._closed = True
                    self._abort()

    def __del__(self) -> None:
        if not self._closed and self.num_samples and self._pid == os.getpid():
            warnings.warn(
                f"{self!r} was dropped, and its samples were not committed; use it in a with block, or call close()",
                ResourceWarning,
                source=self,
                stacklevel=1,
            )

    def _refuse_fork(self) -> None:
        """Before the lock is asked for: here a thread may hold it that does not exist."""
        if self._pid != os.getpid():
            raise ForkedLoader(
                f"{self._store.url}: a writer made before the process was forked is used in the child, where its threads do"
                " not exist. Write in the process that made it, or give each process a writer of its own"
                " (chunkstore.append)."
            )

    def _check_usable(self) -> None:
        if self._closed:
            raise ValueError(f"{self!r}: writing after close; begin anew with append")
        if self._half_written:
            raise StoreError(
                f"{self._store.url}: an earlier write failed half-way ({self._failure}). Nothing was committed, and nothing"
                " can be: write all samples again with a new writer."
            )

    def _check_names(self, given: Mapping[str, Any], where: str) -> None:
        if not isinstance(given, Mapping):
            raise SampleError(f"{where}: a dict of field to value is needed, not {type(given).__qualname__}")
        if given.keys() == self._names:
            return
        if missing := [name for name in self.schema if name not in given]:
            raise SampleError(f"{where}: field {missing[0]!r} is missing; the schema has {', '.join(self.schema)}")
        if unknown := [name for name in given if name not in self.schema]:
            raise SampleError(f"{where}: field {unknown[0]!r} is not in the schema, which has {', '.join(self.schema)}")

    def _take(self, step: Callable[[], None]) -> None:
        """Run what must not stay half done; whatever ends it, a second interrupt included, the writer is broken after."""
        self._check_usable()  # again: encoding calls the user's code, which may have closed the writer
        self._half_written = True
        try:
            step()
        except BaseException as error:
            self._failure = f"{type(error).__name__}: {error}"
            raise
        self._half_written = False

    def _hold(self, values: dict[str, Value], nbytes: int) -> None:
        self._held.append(values)
        self._held_nbytes += nbytes
        if self._held_nbytes >= HELD_NBYTES:
            self._pass_on_held()

    def _pass_on_held(self) -> None:
        """Give samples that came one by one to the sinks, which have a cost per call."""
        if self._held:
            columns = {n: join_values(field, [one[n] for one in self._held]) for n, field in self.schema.items()}
            self._pass_on(columns)
            self._num_passed += len(self._held)
            self._held, self._held_nbytes = [], 0

    def _pass_on_batch(self, columns: Mapping[str, Column]) -> None:
        self._pass_on_held()
        self._pass_on(columns)
        self._num_passed += len(next(iter(columns.values())))

    def _pass_on(self, columns: Mapping[str, Column]) -> None:
        for name, column in columns.items():
            self._sinks[name].append(column)

    def _finish_fragment(self) -> Fragment:
        for sink in self._sinks.values():
            sink.finish()
        self._workers.finish()
        self._check_complete()
        objects: dict[str, StoredObject] = {}
        for sink in self._sinks.values():
            objects.update(stored_objects(sink))
        members: dict[str, dict[str, Json]] = {}
        for sink in self._sinks.values():
            members.update(sink.documents())
        for path, document in members.items():
            objects[f"{path}/zarr.json"] = self._write(f"{self._part}/{path}/zarr.json", zarr_json(document))
        attributes: dict[str, Json] = {"format": FORMAT, "samples": self.num_samples}
        group = zarr_json(group_to_json({"chunkstore": attributes}, members))
        objects["zarr.json"] = self._write(f"{self._part}/zarr.json", group)
        self._write(f"fragments/{self._id}/zarr.json", zarr_json(group_to_json({})))
        listed = self._write(f"{self._part}/{OBJECTS_NAME}", seal(objects_to_json(objects)))
        nbytes = sum(sink.nbytes for sink in self._sinks.values())
        part = Part(
            path=self._part,
            fields=tuple(self.schema),
            nbytes=nbytes,
            stored_nbytes=sum(stored.nbytes for stored in objects.values()) + listed.nbytes,
            objects_nbytes=listed.nbytes,
            objects_crc32=listed.crc32,
        )
        return Fragment(self._id, 0, self.num_samples, self._block_rows(nbytes), (part,))

    def _block_rows(self, nbytes: int) -> int:
        """Blocks hold whole chunks of the fields that matter, so that no chunk is read for two blocks."""
        insisted = [field.block_nbytes for field in self.schema.values() if field.block_nbytes]
        rows = plan_block_rows(self.num_samples, nbytes, block_nbytes=min(insisted, default=None))
        large = [
            array.metadata().chunk_shape[0]
            for name, sink in self._sinks.items()
            for path, array in sink.sinks.items()
            if path == name and array.nbytes > SMALL_FIELD_NBYTES * self.num_samples
        ]
        return max(rows, *large) if large else rows

    def _statistics(self) -> dict[str, FieldStatistics]:
        return {name: sink.statistics() for name, sink in self._sinks.items()}

    def _write(self, key: str, data: bytes) -> StoredObject:
        self._store.write(key, data)
        return StoredObject(len(data), crc32(data))

    def _check_complete(self) -> None:
        """Refuse to commit what would not be read back: the last look before it is visible to all."""
        for name, sink in self._sinks.items():
            if (problem := sink.find_problem(self.num_samples)) is not None:
                raise StoreError(
                    f"{self._store.url}: field {name!r} does not hold the {self.num_samples} samples written: {problem}."
                    " Nothing was committed. This is a fault of chunkstore: please report it."
                )

    def _abort(self) -> None:
        """End uploads; whatever fails here is less than what the user is about to hear of."""
        with contextlib.suppress(Exception):
            self._workers.cancel()
        for sink in self._sinks.values():
            for array in sink.sinks.values():
                with contextlib.suppress(Exception):  # an unfinished upload is invisible
                    array.abort()
