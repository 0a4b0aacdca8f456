"""Adding fields: samples of the new fields in version order, one more part for each fragment, one commit.

What lies in the store stays as it is: the values of a fragment's samples go into a part of their own beside its others, under
a fresh name, so that of several who add fields at once none touches what another writes. The commit holds only if the fragments
are still those that the samples were written for. Before it: the user; after it: `part_writer.py` and `commit.py`.

Source: docs/spec/v1.md, "Added fields".
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from chunkstore.errors import CommitConflict, SampleError, SchemaError
from chunkstore.format.schema import Array, Field, Schema, stored_dtype
from chunkstore.format.versions import FieldStatistics, Fragment, Part, Version
from chunkstore.history.commit import check_message, commit, new_id, now, read_latest
from chunkstore.kernels.columns import Column, RaggedColumn
from chunkstore.store.interface import Store
from chunkstore.store.location import open_store
from chunkstore.writing.fields import SMALL_FIELD_NBYTES, no_statistics
from chunkstore.writing.part_writer import PartWriter
from chunkstore.writing.results import merge_statistics
from chunkstore.writing.writer import Writer

Url = str | os.PathLike[str]


def add_fields(
    url: Url,
    schema: Mapping[str, Field],
    *,
    message: str = "",
    num_threads: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    filesystem: Any = None,
) -> Writer:
    """Begin to add fields to the samples of a dataset: its next version has them besides those it had.

    The writer takes a value of each new field for every sample of the latest version, in the order of the dataset, one by one
    or in batches of any size. No stored sample is read or written again.

    Args:
        url: Path or URL of the dataset.
        schema: Types of the new fields, by name.
        message: Kept in the version.
        num_threads: Threads that encode; the number of cores if None.
        storage_options: For the store, under obstore's names or s3fs's.
        filesystem: An fsspec filesystem to write through.

    Returns:
        A `Writer` whose `close` raises, besides what every writer's does, SampleError when there were fewer or more samples
        than the dataset has, and CommitConflict when samples were appended, removed or compacted meanwhile, or `gc` took what
        was written for abandoned: its `orphan_age_s` must be longer than all of this takes, from the first object to the
        commit. Fields that others added meanwhile are kept.

    Raises:
        DatasetNotFound: there is no dataset.
        SchemaError: a field is there already, or cannot be stored.
        ReadOnlyStore: the store cannot commit safely.
    """
    check_message(message)
    added = schema if isinstance(schema, Schema) else Schema(schema)
    store = open_store(url, storage_options=storage_options, filesystem=filesystem)
    store.check_commits()
    version = read_latest(store, committing=True)
    extended_schema(store, version, added)
    _check_chunks(store, version, added)
    return Writer(store.url, added, AddedFields(store, version, added, message=message, num_threads=num_threads))


class AddedFields:
    """The destination of `add_fields`: a part for each fragment of a version.

    Args:
        store: Where.
        version: Whose samples get the fields.
        added: The fields.
        message: Kept in the new version.
        num_threads: Threads that encode; the number of cores if None.
    """

    def __init__(
        self, store: Store, version: Version, added: Schema, *, message: str, num_threads: int | None = None
    ) -> None:
        self._store, self._version, self._added = store, version, added
        self._message, self._num_threads = message, num_threads
        self._parts: list[Part] = []
        self._statistics = {name: no_statistics(field) for name, field in added.items()}
        self._writer: PartWriter | None = None
        self._filled = 0  # samples of the fragment that is being written
        self._too_many = 0

    def check_room(self, num_samples: int) -> None:
        """Raise SampleError beyond the samples of the version; whoever goes on after that cannot commit."""
        if num_samples > self._version.num_samples:
            self._too_many = max(self._too_many, num_samples)
            raise self._wrong_number(num_samples)

    def append(self, columns: Mapping[str, Column]) -> None:
        """Deal columns out to the fragments, whose parts are finished as they fill."""
        count, start = len(next(iter(columns.values()))), 0
        while start < count:
            fragment = self._version.fragments[len(self._parts)]
            if self._writer is None:
                self._writer = PartWriter(self._store, self._added, of=fragment, num_threads=self._num_threads)
            stop = min(count, start + fragment.samples - self._filled)
            self._writer.append({name: _rows(column, start, stop) for name, column in columns.items()})
            self._filled += stop - start
            start = stop
            if self._filled == fragment.samples:
                self._finish_part(self._writer, fragment)

    def finish(self) -> None:
        """Refuse to go on unless every sample has its values."""
        fragments = self._version.fragments[: len(self._parts)]
        taken = self._too_many or sum(fragment.samples for fragment in fragments) + self._filled
        if taken != self._version.num_samples:
            raise self._wrong_number(taken)

    def commit(self) -> int:
        """Commit the parts, as long as the fragments are those that they were written for."""
        writer, time = new_id(), now()

        def next_version(parent: Version | None) -> Version:
            latest = self._check_unchanged(parent)
            schema = extended_schema(self._store, latest, self._added)
            return replace(
                latest,
                number=latest.number + 1,
                parent=latest.number,
                writer=writer,
                time=time,
                message=self._message,
                schema=schema,
                fragments=tuple(
                    replace(fragment, parts=(*fragment.parts, part))
                    for fragment, part in zip(latest.fragments, self._parts, strict=True)
                ),
                statistics={**latest.statistics, **self._statistics},
            )

        return commit(self._store, next_version, create=False).number

    def abort(self) -> None:
        """End uploads."""
        if self._writer is not None:
            self._writer.abort()

    def _finish_part(self, writer: PartWriter, fragment: Fragment) -> None:
        self._parts.append(writer.finish(fragment.samples).parts[-1])
        self._statistics = _merged(self._statistics, writer.statistics())
        self._writer, self._filled = None, 0

    def _check_unchanged(self, latest: Version | None) -> Version:
        """The latest version, if its samples are those that got values, in the same places."""
        base = self._version
        if latest is None or latest.dataset != base.dataset:
            raise CommitConflict(
                f"{self._store.url}: the dataset {base.dataset} is not there any more; its fields are not added to another"
            )
        if [(f.id, f.first, f.samples) for f in latest.fragments] != [
            (f.id, f.first, f.samples) for f in base.fragments
        ]:
            raise CommitConflict(
                f"{self._store.url}: version {latest.number} has other fragments than version {base.number}, for whose samples"
                " the fields were written: samples were appended, removed or compacted meanwhile. Nothing was committed; add"
                " the fields again to the samples of the latest version, while nobody appends or compacts"
            )
        return latest

    def _wrong_number(self, taken: int) -> SampleError:
        return SampleError(
            f"{self._store.url}: {taken} samples of {', '.join(self._added)}, but version {self._version.number} has"
            f" {self._version.num_samples}. Every sample needs its values, in the order of the dataset; nothing was committed"
        )


def extended_schema(store: Store, version: Version, added: Schema) -> Schema:
    """The schema of a version with new fields after its own.

    Raises:
        SchemaError: a name is taken, by a field or by what fragments still hold of a field that was dropped.
    """
    for name in added:
        if name in version.schema:
            raise SchemaError(
                f"{store.url}: version {version.number} has a field {name!r} already; add it under another name"
            )
        if any(name in part.fields for fragment in version.fragments for part in fragment.parts):
            raise SchemaError(
                f"{store.url}: fragments of version {version.number} still hold a field {name!r} that was dropped; add it under"
                " another name"
            )
    return Schema({**version.schema, **added})


def _check_chunks(store: Store, version: Version, added: Schema) -> None:
    """Refuse chunks that somebody insists on and that would lie in two blocks, whose length is settled."""
    shortest = min((fragment.block_rows for fragment in version.fragments), default=None)
    for name, field in added.items():
        if shortest is None or not isinstance(field, Array) or field.chunk is None:
            continue
        rows = field.chunk if isinstance(field.chunk, int) else field.chunk[0]
        row_nbytes = stored_dtype(field).itemsize
        for n in field.shape:
            row_nbytes *= n
        if row_nbytes > SMALL_FIELD_NBYTES and rows > shortest:
            raise SchemaError(
                f"{store.url}: field {name!r} is to have chunks of {rows} samples, longer than blocks of {shortest}, which the"
                f" fragments that are there have; give chunk={shortest} or less"
            )


def _rows(column: Column, start: int, stop: int) -> Column:
    """Samples [start, stop) of a column, nothing copied but offsets."""
    if not isinstance(column, RaggedColumn):
        return column[start:stop]
    offsets = column.offsets[start : stop + 1]
    values = column.values[int(offsets[0]) : int(offsets[-1])]
    return RaggedColumn(values, offsets - offsets[0], None if column.shapes is None else column.shapes[start:stop])


def _merged(a: Mapping[str, FieldStatistics], b: Mapping[str, FieldStatistics]) -> dict[str, FieldStatistics]:
    return {name: merge_statistics(a[name], b[name]) for name in a}
