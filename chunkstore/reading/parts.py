"""The parts of a version, opened when first read and shared by all views of it.

Says in which fragments positions lie, and reads columns of them. Decides nothing about what is read: `dataset.py` stands before
it, `part.py` after it. What is missing because `gc` dropped the version meanwhile is said to be so.
"""

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeVar

import numpy as np

from chunkstore.errors import ChunkstoreError, MissingObject, VersionExpired
from chunkstore.format.schema import Array, Field
from chunkstore.format.versions import Version
from chunkstore.history.commit import read_latest, read_version
from chunkstore.kernels.columns import Column, RaggedColumn, take
from chunkstore.plan.reads import Intervals, Ints, intervals_of_rows, rows_of_intervals
from chunkstore.plan.tiles import Box
from chunkstore.reading.cache import ChunkCache
from chunkstore.reading.part import OpenPart
from chunkstore.reading.present import empty_column
from chunkstore.reading.verified import Check
from chunkstore.store.interface import Store
from chunkstore.store.side_by_side import Level, do_all

CACHE_NBYTES = 64 << 20
"""Decoded chunks kept for reads that want another part of them."""
_SPANS = Array("int64", (2,))
_Result = TypeVar("_Result")


class Reader(Protocol):
    """What a `Dataset` reads through: the samples of a version by position."""

    def read(
        self,
        name: str,
        field: Field,
        intervals: Intervals,
        *,
        verify: Check = True,
        box: Box | None = None,
    ) -> Column:
        """The samples of sorted, disjoint intervals of positions, one after another, one field of them.

        Args:
            name: Of the field.
            field: Its type, in the shape that `box` leaves.
            intervals: Of positions; of an `Array` field in any order, and overlapping if need be.
            verify: Whether checksums are compared.
            box: What is wanted of each sample of an `Array` field, a slice an axis; all of it if None.
        """

    def read_lengths(self, name: str, intervals: Intervals) -> Ints:
        """Number of values of each sample of a ragged field: int64 (samples,)."""


class Parts:
    """The parts of a version, opened when first read, shared by all views of it."""

    def __init__(self, store: Store, version: Version) -> None:
        self._store = store
        self._version = version
        self._edges = np.cumsum([0, *(f.samples for f in version.fragments)])
        self._reset()
        self._pid = os.getpid()

    def _reset(self) -> None:
        self._cache = ChunkCache(CACHE_NBYTES)
        self._opened: dict[str, OpenPart] = {}
        self._lock = threading.Lock()
        self._opening: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def locate(self, intervals: Intervals) -> list[tuple[int, Intervals]]:
        """Sorted intervals of positions, as (fragment number, intervals of its rows)."""
        if len(intervals) == 0:
            return []
        edges, starts, stops = self._edges, intervals[:, 0], intervals[:, 1]
        firsts = np.searchsorted(edges, starts, side="right") - 1
        lasts = np.searchsorted(edges, stops, side="left") - 1
        across = [np.arange(a, b + 1) for a, b in zip(firsts, lasts, strict=True) if a < b]
        located = []
        for fragment in np.unique(np.concatenate([firsts, *across])).tolist():
            low, high = edges[fragment], edges[fragment + 1]
            own = intervals[np.searchsorted(stops, low, side="right") : np.searchsorted(starts, high, side="left")]
            located.append((fragment, np.clip(own, low, high) - low))
        return located

    def read(
        self,
        name: str,
        field: Field,
        intervals: Intervals,
        *,
        verify: Check = True,
        box: Box | None = None,
    ) -> Column:
        """See `Reader`; raises as `OpenPart.read` does, and VersionExpired where `gc` has dropped the version."""

        def read_fragment(fragment: int, rows: Intervals) -> Column:
            return self._of(fragment, name).read(name, field, rows, verify=verify, box=box)

        if len(intervals) > 1 and (intervals[1:, 0] < intervals[:-1, 1]).any():
            if len(self._version.fragments) == 1:  # rows go where they belong as they are decoded
                with self._expiry_told():
                    return read_fragment(0, intervals)
            unique, inverse = np.unique(rows_of_intervals(intervals), return_inverse=True)
            column = self.read(name, field, intervals_of_rows(unique), verify=verify, box=box)
            return take(column, inverse.astype(np.int64))
        return _concatenated(field, self._of_each_fragment(read_fragment, intervals))

    def read_lengths(self, name: str, intervals: Intervals) -> Ints:
        """See `Reader`."""

        def read_fragment(fragment: int, rows: Intervals) -> Column:
            return self._of(fragment, name).read(f"{name}/spans", _SPANS, rows)

        joined = _concatenated(_SPANS, self._of_each_fragment(read_fragment, intervals))
        assert isinstance(joined, np.ndarray)
        return joined[:, 1] - joined[:, 0]

    def _of_each_fragment(self, read: Callable[[int, Intervals], _Result], intervals: Intervals) -> list[_Result]:
        """What `read` gives of each fragment that the intervals touch; of a remote store side by side."""
        located = self.locate(intervals)
        with self._expiry_told():
            if self._store.is_local:
                return [read(fragment, rows) for fragment, rows in located]
            return do_all(Level.FRAGMENTS, [partial(read, fragment, rows) for fragment, rows in located])

    @contextmanager
    def _expiry_told(self) -> Iterator[None]:
        """Tell an object that is lost from one that `gc` deleted with the version."""
        try:
            yield
        except MissingObject as error:
            if not self._is_expired():
                raise
            raise VersionExpired(
                f"{self._store.url}: version {self._version.number} was dropped by gc while it was being read; open another "
                "version, and tag those that are to stay"
            ) from error

    def _is_expired(self) -> bool:
        try:
            read_version(self._store, self._version.number)
            return self._version.number in read_latest(self._store).condemned_versions
        except VersionExpired:
            return True
        except ChunkstoreError:
            return False  # what can be said for sure is that an object is missing

    def _of(self, number: int, name: str) -> OpenPart:
        """The opened part of a fragment that holds a field."""
        if os.getpid() != self._pid:  # a forked child: locks may be held by threads that do not exist here
            self._reset()
            self._pid = os.getpid()
        fragment = self._version.fragments[number]
        part = fragment.part_of(name)
        with self._lock:
            if (opened := self._opened.get(part.path)) is not None:
                return opened
            opening = self._opening[part.path]
        with opening:  # fields that are read side by side open their part once
            with self._lock:
                opened = self._opened.get(part.path)
            if opened is None:
                first = int(self._edges[number])
                opened = OpenPart(self._store, fragment, part, self._version.schema, first, self._cache)
                with self._lock:
                    self._opened[part.path] = opened
                    self._opening.pop(part.path, None)
        return opened


def _concatenated(field: Field, columns: list[Column]) -> Column:
    if len(columns) == 1:
        return columns[0]
    if not columns:
        return empty_column(field)
    ragged = [c for c in columns if isinstance(c, RaggedColumn)]
    if not ragged:
        return np.concatenate([c for c in columns if isinstance(c, np.ndarray)])
    bases = np.cumsum([0, *(len(c.values) for c in ragged[:-1])])
    offsets = np.concatenate([[0], *(c.offsets[1:] + base for c, base in zip(ragged, bases, strict=True))])
    shapes = [c.shapes for c in ragged if c.shapes is not None]
    return RaggedColumn(
        np.concatenate([c.values for c in ragged]), offsets.astype(np.int64), np.concatenate(shapes) if shapes else None
    )
