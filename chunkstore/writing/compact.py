"""Compacting: small fragments become fewer and larger ones, with the same samples under the same ids.

What `plan/compaction.py` says is read through `parts.py`, field by field, a few MiB ahead of what is written, and written
through `part_writer.py`: values go through as they are stored, nothing of them is interpreted, no image is decoded. Nothing
that is there is changed; `gc` removes what no version leads to. Before it: the user, and `chunkstore compact`; after it:
`commit.py`.

Source: docs/spec/v1.md, "A compaction".
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from chunkstore.errors import CommitConflict
from chunkstore.format.layout import floor_power_of_two
from chunkstore.format.schema import Array, Field, stored_dtype
from chunkstore.format.versions import Fragment, Version
from chunkstore.history.commit import check_message, commit, new_id, now, read_latest
from chunkstore.kernels.columns import Column
from chunkstore.plan.compaction import Group, plan_compaction
from chunkstore.plan.reads import Ints
from chunkstore.reading.parts import Parts
from chunkstore.store.interface import Store
from chunkstore.store.location import open_store
from chunkstore.store.threads import JobThreads
from chunkstore.writing.part_writer import PartWriter

TARGET_NBYTES = 1 << 30
"""Decoded bytes of a fragment: eight full shards of its largest field, so that the last, half full, costs little; opening a
version's parts then takes two requests a GiB."""
STRETCH_NBYTES = 8 << 20
"""Decoded bytes that are read at once."""
AHEAD_NBYTES = 64 << 20
"""Decoded bytes that may be read ahead of what is written; a larger sample is read alone."""
NUM_READERS = 8
_LENGTHS_AT_ONCE = 1 << 16
"""Samples whose lengths are looked up together, where it takes them to know how much to read at once."""

Url = str | os.PathLike[str]
Progress = Callable[[int, int], object]


def compact(
    url: Url,
    *,
    target_nbytes: int = TARGET_NBYTES,
    message: str = "",
    num_threads: int | None = None,
    progress: Progress | None = None,
    storage_options: Mapping[str, Any] | None = None,
    filesystem: Any = None,
) -> int | None:
    """Write small fragments of the latest version anew, as fewer and larger ones, and commit them.

    Fragments of fewer than `target_nbytes` are joined with such neighbours, as long as they are no more than `target_nbytes`
    together, and several parts of one are made one; larger ones stay as they are. Samples, their order and ids, and statistics
    stay the same; the order of training, which goes by fragments, does not. What was there stays, for older versions, until
    `gc` removes it. Memory stays bounded, or by the largest sample where that is larger.

    Samples that others append meanwhile are kept. Nothing is committed before all is written: what is interrupted has to be
    begun again, so a large dataset is better compacted now and then than once. A `gc` meanwhile needs an `orphan_age_s` longer
    than all of this takes.

    Args:
        url: Path or URL of the dataset.
        target_nbytes: Decoded bytes that a fragment should hold.
        message: Kept in the version; if empty, what was done.
        num_threads: Threads that encode; the number of cores if None.
        progress: Called with (decoded bytes done, decoded bytes in all), by one thread at a time.
        storage_options: For the store, under obstore's names or s3fs's.
        filesystem: An fsspec filesystem to write through.

    Returns:
        The number of the new version; None where there was nothing to do.

    Raises:
        DatasetNotFound: there is no dataset.
        CommitConflict: somebody else compacted, rolled back or added fields meanwhile, or `gc` took what was written for
            abandoned.
        CorruptChunk, CorruptSample, MissingObject, InvalidDataset: something is damaged; nothing was committed.
        ReadOnlyStore: the store cannot commit safely.
        StoreError: the store failed; the message says whether the commit may have been taken.
        ValueError: the message is no text, or the target is less than 1.
    """
    check_message(message)
    if not isinstance(target_nbytes, int) or target_nbytes < 1:
        raise ValueError(f"target_nbytes={target_nbytes!r}: an int of at least 1 is needed")
    store = open_store(url, storage_options=storage_options, filesystem=filesystem)
    store.check_commits()
    version = read_latest(store, committing=True)
    groups = plan_compaction(version.fragments, frozenset(version.schema), target_nbytes=target_nbytes)
    if not groups:
        return None
    meter = _Meter(sum(f.nbytes for group in groups for f in version.fragments[slice(*group)]), progress)
    readers = JobThreads(NUM_READERS, "chunkstore-compact")
    try:
        rewriter = _Rewriter(store, version, readers, num_threads, meter)
        made = [_Replacement(version.fragments[slice(*group)], rewriter.write(group)) for group in groups]
    finally:
        readers.close()
    replaced = sum(len(replacement.sources) for replacement in made)
    return _commit(store, version, made, message or f"compacted {replaced} fragments into {len(made)}").number


@dataclass(frozen=True, slots=True)
class _Replacement:
    """Neighbouring fragments of a version, and the one that holds their samples now."""

    sources: tuple[Fragment, ...]
    fragment: Fragment


@dataclass(slots=True)
class _Meter:
    """Tells how much is done: a group's bytes in the measure in which its samples are, field after field."""

    total: int
    progress: Progress | None
    before: int = 0

    def tell(self, group_nbytes: int, done: int, whole: int) -> None:
        if self.progress is not None:
            self.progress(self.before + group_nbytes * done // whole, self.total)
        if done == whole:
            self.before += group_nbytes


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Samples [start, stop) of a version, and what they may take in memory."""

    start: int
    stop: int
    nbytes: int


class _Rewriter:
    """Writes groups of fragments anew."""

    def __init__(
        self, store: Store, version: Version, readers: JobThreads, num_threads: int | None, meter: _Meter
    ) -> None:
        self._store, self._version, self._readers, self._meter = store, version, readers, meter
        self._num_threads = num_threads
        self._edges = np.cumsum([0, *(f.samples for f in version.fragments)]).tolist()

    def write(self, group: Group) -> Fragment:
        """The samples of a group as one fragment with one part, not yet committed."""
        parts = Parts(self._store, self._version)  # of this group alone, so that what is opened does not add up
        writer = PartWriter(self._store, self._version.schema, num_threads=self._num_threads, measure=False)
        sources = self._version.fragments[slice(*group)]
        nbytes, samples = sum(f.nbytes for f in sources), sum(f.samples for f in sources)
        done, whole = 0, samples * len(self._version.schema)
        try:
            for name, field in self._version.schema.items():
                for column in self._read_ahead(parts, name, field, group):
                    writer.append({name: column})
                    done += len(column)
                    if done < whole:
                        self._meter.tell(nbytes, done, whole)
                writer.end_field(name)
            written = writer.finish(samples)
        except BaseException:
            writer.abort()
            raise
        self._meter.tell(nbytes, whole, whole)
        return replace(written, first=sources[0].first)

    def _read_ahead(self, parts: Parts, name: str, field: Field, group: Group) -> Iterator[Column]:
        """The columns of a field, in order, read by several threads within `AHEAD_NBYTES`."""
        pending: deque[tuple[Future[Column], int]] = deque()
        ahead_nbytes = 0
        for stretch in self._stretches(parts, name, field, group):
            while pending and (ahead_nbytes + stretch.nbytes > AHEAD_NBYTES or len(pending) == 2 * NUM_READERS):
                future, nbytes = pending.popleft()
                yield future.result()
                ahead_nbytes -= nbytes
            interval = np.array([[stretch.start, stretch.stop]], np.int64)
            pending.append((self._readers.submit(parts.read, name, field, interval), stretch.nbytes))
            ahead_nbytes += stretch.nbytes
        while pending:
            yield pending.popleft()[0].result()

    def _stretches(self, parts: Parts, name: str, field: Field, group: Group) -> Iterator[_Stretch]:
        """The samples of a group, cut where fragments end and where there would be too much to read at once."""
        most = max(STRETCH_NBYTES, _insisted_nbytes(field))
        for number in range(*group):
            start, stop = self._edges[number], self._edges[number + 1]
            if isinstance(field, Array):
                row_nbytes = max(1, prod(field.shape) * stored_dtype(field).itemsize)
                rows = floor_power_of_two(max(1, most // row_nbytes))
                for at in range(start, stop, rows):
                    until = min(stop, at + rows)
                    yield _Stretch(at, until, (until - at) * row_nbytes)
            elif (nbytes := self._version.fragments[number].part_of(name).nbytes) <= most:
                yield _Stretch(start, stop, nbytes)
            else:
                for at in range(start, stop, _LENGTHS_AT_ONCE):
                    until = min(stop, at + _LENGTHS_AT_ONCE)
                    lengths = parts.read_lengths(name, np.array([[at, until]], np.int64))
                    yield from _cut(at, lengths * stored_dtype(field).itemsize, most)


def _insisted_nbytes(field: Field) -> int:
    """Bytes of a chunk that somebody insisted on: to be read whole, rather than several times in part."""
    if field.chunk is None:
        return 0
    rows = field.chunk if isinstance(field.chunk, int) else field.chunk[0]
    return rows * stored_dtype(field).itemsize * (prod(field.shape) if isinstance(field, Array) else 1)


def _cut(start: int, sizes: Ints, most: int) -> Iterator[_Stretch]:
    """Samples of `sizes` bytes from position `start` on, in stretches of at most `most` bytes, or of one larger sample."""
    ends = np.cumsum(sizes)
    at, before = 0, 0
    while at < len(sizes):
        stop = max(at + 1, int(np.searchsorted(ends, before + most, side="right")))
        nbytes = int(ends[stop - 1]) - before
        yield _Stretch(start + at, start + stop, nbytes)
        at, before = stop, before + nbytes


def _commit(store: Store, base: Version, made: Sequence[_Replacement], message: str) -> Version:
    """Commit the latest version with fragments replaced, as long as it has those that were written anew."""
    writer, time = new_id(), now()

    def next_version(parent: Version | None) -> Version:
        if parent is None or parent.dataset != base.dataset:
            raise CommitConflict(f"{store.url}: the dataset {base.dataset} is not there any more")
        fragments = list(parent.fragments)
        place = {fragment.id: i for i, fragment in enumerate(fragments)}
        for replacement in reversed(made):  # from the end on, so that places before stay what they are
            start = place.get(replacement.sources[0].id, len(fragments))
            stop = start + len(replacement.sources)
            if tuple(fragments[start:stop]) != replacement.sources:
                raise CommitConflict(
                    f"{store.url}: version {parent.number} does not have the fragments of version {base.number} that were"
                    " written anew: somebody compacted, rolled back or added fields meanwhile. Nothing was committed; compact"
                    " again if there is still something to do"
                )
            fragments[start:stop] = [replacement.fragment]
        return replace(
            parent,
            number=parent.number + 1,
            parent=parent.number,
            writer=writer,
            time=time,
            message=message,
            fragments=tuple(fragments),
        )

    return commit(store, next_version, create=False)
