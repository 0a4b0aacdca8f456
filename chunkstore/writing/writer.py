"""Writing: samples in, checked and held; what becomes of them is their destination's.

A `Writer` checks samples against the schema before anything of them is kept, and passes them on as columns. Where they go, and
what is committed at the end of its `with` block, a `Destination` says: a fragment of their own for `create` and `append`;
`fragments.py` and `add_fields.py` have others. Whatever happens before the commit, the dataset is as it was. Before it: the
user or a converter; after it: `part_writer.py`.

Source: docs/spec/v1.md, "Writing".
"""

import os
import threading
import warnings
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from chunkstore.errors import DatasetExists, ForkedLoader, SampleError, StoreError
from chunkstore.format.schema import Field, Schema
from chunkstore.history.commit import check_message, create_root, find_latest, read_latest
from chunkstore.kernels.columns import Column
from chunkstore.store.interface import Store
from chunkstore.store.location import open_store
from chunkstore.writing.encode import Value, column_length, encode_column, encode_value, join_values
from chunkstore.writing.part_writer import PartWriter
from chunkstore.writing.results import FragmentResult, commit_results

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
    if (latest := find_latest(store, committing=True, refused_is_absent=True)) is not None:
        raise DatasetExists(f"{store.url}: version {latest.number} of a dataset is there; use append, or another URL")
    destination = NewFragment(store, checked, create_root(store), message=message, create=True, num_threads=num_threads)
    return Writer(store.url, checked, destination)


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
    latest = read_latest(store, committing=True)
    destination = NewFragment(store, latest.schema, latest.dataset, message=message, num_threads=num_threads)
    return Writer(store.url, latest.schema, destination)


class Destination(Protocol):
    """What becomes of the samples that a writer takes. Called by one thread at a time."""

    def check_room(self, num_samples: int) -> None:
        """Raise SampleError where so many samples, those taken before included, have no place."""

    def append(self, columns: Mapping[str, Column]) -> None:
        """Take checked columns of all fields; they are copied before this returns."""

    def finish(self) -> None:
        """Make everything durable that a commit will name."""

    def commit(self) -> int | None:
        """Make the samples visible; the number of the version, None where that is left to somebody else."""

    def abort(self) -> None:
        """Forget everything, quietly."""


class NewFragment:
    """The destination of `create` and `append`: a fragment of its own, committed at the end.

    Args:
        store: Where.
        schema: What samples are.
        dataset: UUID of the dataset.
        message: Kept in the version; None if it is not committed at the end, but by somebody else who has its result.
        create: Whether there must be no version yet.
        since: Number of the latest version, 0 if there is none.
        num_threads: Threads that encode; the number of cores if None.

    Attributes:
        result: What was written, once it is finished.
    """

    def __init__(
        self,
        store: Store,
        schema: Schema,
        dataset: str,
        *,
        message: str | None,
        create: bool = False,
        since: int = 0,
        num_threads: int | None = None,
    ) -> None:
        self._store, self._schema, self._dataset = store, schema, dataset
        self._message, self._create, self._since = message, create, since
        self._writer = PartWriter(store, schema, num_threads=num_threads)
        self._num_samples = 0
        self.result: FragmentResult | None = None

    def check_room(self, num_samples: int) -> None:
        """There is room for any number."""

    def append(self, columns: Mapping[str, Column]) -> None:
        """Pass columns on."""
        self._writer.append(columns)
        self._num_samples += len(next(iter(columns.values())))

    def finish(self) -> None:
        """Write what is left; a fragment without samples is not written."""
        fragment = None
        if self._num_samples:
            fragment = self._writer.finish(self._num_samples)
        else:
            self._writer.abort()
        self.result = FragmentResult(self._dataset, self._schema, fragment, self._writer.statistics(), self._since)

    def commit(self) -> int | None:
        """Commit the fragment, if it is to be done here."""
        assert self.result is not None
        if self._message is None:
            return None
        return commit_results(self._store, [self.result], message=self._message, create=self._create).number

    def abort(self) -> None:
        """End uploads."""
        self._writer.abort()


class Writer:
    """Takes samples and commits them together. Made by `create`, `append`, `fragment` and `add_fields`.

    Used as a context manager it commits at the end of the block, and leaves the dataset as it was if the block raises.

    Several threads may write: calls take turns, each sample or batch stays whole, and those of different threads come in
    any order. A forked child may not; it gets `ForkedLoader`, and what the parent writes is not touched.

    A write that fails after something of it was taken breaks the writer: nothing can be committed any more, and every
    later call says so.

    Attributes:
        schema: What samples must be.
        version: Number of the version that holds them, once committed; None before, and for a writer of `fragment`.
    """

    def __init__(self, url: str, schema: Schema, destination: Destination) -> None:
        self._closed = False
        self._num_passed = 0
        self._held: list[dict[str, Value]] = []
        self._held_nbytes = 0
        self._pid = os.getpid()
        self.schema = schema
        self.version: int | None = None
        self._url, self._destination = url, destination
        self._names = set(schema)
        self._lock = threading.RLock()
        self._half_written = False
        self._failure = "interrupted"
        self._close_failure: BaseException | None = None

    @property
    def num_samples(self) -> int:
        """Samples taken so far."""
        return self._num_passed + len(self._held)

    def __repr__(self) -> str:
        state = f"committed as version {self.version}" if self.version else "closed" if self._closed else "open"
        return f"Writer({self._url!r}, samples={self.num_samples}, {state})"

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
            self._check_usable()  # again: encoding calls the user's code, which may have closed the writer
            self._destination.check_room(self.num_samples + 1)
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
            self._check_usable()  # again: encoding calls the user's code, which may have closed the writer
            self._destination.check_room(self.num_samples + len(next(iter(encoded.values()))))
            self._take(lambda: self._pass_on_batch(encoded))

    def close(self) -> None:
        """Write what is left, and commit. Does nothing once it has succeeded or the `with` block has raised.

        Raises:
            StoreError: the store failed, now or on earlier samples; the dataset is as it was, unless the message says
                otherwise.
            DatasetExists, SchemaError, CommitConflict: another writer came first.
            SampleError: fields that were added have other than one value for each sample of the dataset.
            ForkedLoader: the writer was made before this process was forked.

        What it raised once it raises again when called again: nothing was committed, unless the message says otherwise.
        """
        self._refuse_fork()
        with self._lock:
            if self._close_failure is not None:
                self._raise_again(self._close_failure)
            if self._closed:
                return
            try:
                self._finish()
                self.version = self._destination.commit()
            except BaseException as error:
                self._close_failure = error
                raise

    def _finish(self) -> None:
        try:
            self._check_usable()
            self._closed = True
            self._pass_on_held()
            self._destination.finish()
        except BaseException:
            self._closed = True
            self._destination.abort()
            raise

    def _raise_again(self, failure: BaseException) -> None:
        if isinstance(failure, Exception):
            raise failure
        raise StoreError(
            f"{self._url}: closing the writer was interrupted ({type(failure).__name__}), and cannot be taken up. Look with"
            " chunkstore.versions whether the samples were committed; if not, write them again with a new writer."
        ) from failure

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
                    self._destination.abort()

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
                f"{self._url}: a writer made before the process was forked is used in the child, where its threads do"
                " not exist. Write in the process that made it, or give each process a writer of its own"
                " (chunkstore.append)."
            )

    def _check_usable(self) -> None:
        if self._closed:
            raise ValueError(f"{self!r}: writing after close; begin anew with append")
        if self._half_written:
            raise StoreError(
                f"{self._url}: an earlier write failed half-way ({self._failure}). Nothing was committed, and nothing"
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
        self._destination.append(columns)
