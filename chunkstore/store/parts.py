"""The parts of a version, opened when first read and shared by all views of it.

Says in which fragments positions lie, and reads columns of them. Decides nothing about what is read: `dataset.py` stands before
it, `part.py` after it.
"""

import os
import threading

import numpy as np

from chunkstore.format.schema import Array, Field
from chunkstore.format.versions import Version
from chunkstore.kernels.columns import Column, RaggedColumn
from chunkstore.plan.reads import Intervals, Ints
from chunkstore.store.cache import ChunkCache
from chunkstore.store.interface import Store
from chunkstore.store.part import OpenPart
from chunkstore.store.present import empty_column

CACHE_NBYTES = 64 << 20
"""Decoded chunks kept for reads that want another part of them."""
_SPANS = Array("int64", (2,))


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

    def read(self, name: str, field: Field, intervals: Intervals, *, verify: bool = True) -> Column:
        """The samples of sorted, disjoint intervals of positions, one field of them; raises as `OpenPart.read` does."""
        read = [self._of(f, name).read(name, field, rows, verify=verify) for f, rows in self.locate(intervals)]
        return _concatenated(field, read)

    def read_lengths(self, name: str, intervals: Intervals) -> Ints:
        """Number of values of each sample of a ragged field: int64 (samples,)."""
        spans = [self._of(f, name).read(f"{name}/spans", _SPANS, rows) for f, rows in self.locate(intervals)]
        joined = _concatenated(_SPANS, spans)
        assert isinstance(joined, np.ndarray)
        return joined[:, 1] - joined[:, 0]

    def _of(self, number: int, name: str) -> OpenPart:
        """The opened part of a fragment that holds a field."""
        if os.getpid() != self._pid:  # a forked child: locks may be held by threads that do not exist here
            self._reset()
            self._pid = os.getpid()
        fragment = self._version.fragments[number]
        part = fragment.part_of(name)
        with self._lock:
            opened = self._opened.get(part.path)
        if opened is None:
            opened = OpenPart(self._store, fragment, part, self._version.schema, int(self._edges[number]), self._cache)
            with self._lock:
                opened = self._opened.setdefault(part.path, opened)
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
