"""Views: which fields, samples and axes of a version a `Dataset` shows.

Every view is made of the one before it and says where in the version its samples stand; nesting them in any order gives the
same as doing it at once. Pure: nothing is read here, and nothing depends on how a choice was put. Before it
`reading/dataset.py` with what the user asked for, after it the plan of reads and, for loaders, the order.

Source: docs/spec/order.md, "Views" and "Split".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from chunkstore.errors import SchemaError
from chunkstore.format.schema import Array, Schema
from chunkstore.format.versions import Fragment
from chunkstore.plan.boxes import Axes, as_slices, slice_axes, whole_axes
from chunkstore.plan.extents import FragmentExtent
from chunkstore.plan.reads import Intervals, Ints
from chunkstore.plan.selection import (
    AT_ONCE,
    Selection,
    SelectionWriter,
    brief,
    compose,
    digest,
    select_intervals,
    selection_of_mask,
    selection_of_positions,
)
from chunkstore.plan.split import Ids, part_of_samples, split_thresholds
from chunkstore.plan.tiles import Box

WHOLE = "all"
"""Digest of a view that leaves no sample out."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What of a version is shown.

    Attributes:
        fragments: Of the version, all of them.
        schema: Of the fields that are shown, in the shapes that slices leave.
        selection: Which samples, by their positions in the version; all if None.
        axes: What is wanted of each sample of the fields that were sliced.
        edges: Positions at which the fragments begin, and the number of all; found here, and shared by the views of a version.
        shifts: What to add to the positions of each fragment's samples for their ids; found and shared likewise.
    """

    fragments: tuple[Fragment, ...]
    schema: Schema
    selection: Selection | None = None
    axes: Mapping[str, Axes] = field(default_factory=dict)
    edges: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    shifts: Ints = field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self) -> None:
        if not len(self.edges):
            edges = np.cumsum([0, *(f.samples for f in self.fragments)], dtype=np.int64)
            object.__setattr__(self, "edges", edges)
            object.__setattr__(self, "shifts", np.array([f.first for f in self.fragments], np.int64) - edges[:-1])

    def __len__(self) -> int:
        return int(self.edges[-1]) if self.selection is None else len(self.selection)

    def select(self, names: tuple[str, ...]) -> "View":
        """See `Dataset.select`."""
        return replace(self, schema=self.schema.select(names))

    def filter(self, chosen: Any) -> "View":
        """See `Dataset.filter`."""
        n = len(self)
        try:
            given = np.asarray(chosen)
        except ValueError:  # lists of different lengths in each other
            raise ValueError(f"a view is chosen by a mask or by a list of indices, not by {brief(chosen)}") from None
        if given.shape == (0,) and given.dtype != bool:
            given = np.empty(0, np.int64)
        if given.dtype == bool:
            if given.shape != (n,):
                raise ValueError(f"a mask of shape {given.shape} for {n} samples; one of shape ({n},) is needed")
            return self._narrowed(selection_of_mask(given))
        if given.ndim != 1 or given.dtype.kind not in "iu":
            raise ValueError(f"a view is chosen by a mask or by a list of indices, not by {brief(chosen, given)}")
        if n > 2 and given.shape == (n,) and given.min() >= 0 and given.max() <= 1:  # as indices they would repeat
            raise ValueError(f"{n} numbers of dtype {given.dtype}, all 0 or 1: for a mask take .astype(bool)")
        if given.size and not (given.min() >= 0 and given.max() < n):
            raise ValueError(
                f"indices from {given.min()} to {given.max()} of {n} samples; a view takes those in [0, {n}): add {n} to "
                "negative ones, then sort"
            )
        if (given[1:] <= given[:-1]).any():
            raise ValueError(
                "the indices of a view are strictly increasing, since a view keeps the order: take np.unique(indices); for any "
                "order, and for repeats, read ds[indices]; to shuffle, use a Loader"
            )
        return self._narrowed(selection_of_positions(given.astype(np.int64), n))

    def split(self, fractions: Mapping[str, float], seed: int) -> dict[str, "View"]:
        """See `Dataset.split`."""
        thresholds = split_thresholds(fractions)
        writers = [SelectionWriter(len(self)) for _ in thresholds]
        for start in range(0, len(self), AT_ONCE):
            indices = np.arange(start, min(start + AT_ONCE, len(self)), dtype=np.int64)
            part = part_of_samples(self.ids(self.positions(indices, in_order=True)), thresholds, seed)
            for number, writer in enumerate(writers):
                writer.append(part == number)
        return {name: self._narrowed(writer.finish()) for name, writer in zip(fractions, writers, strict=True)}

    def slice(self, slices: Mapping[str, Any]) -> "View":
        """See `Dataset.slice`."""
        self.schema.select((*slices, *self.schema))
        axes, fields = dict(self.axes), dict(self.schema)
        for name, key in slices.items():
            sliced = fields[name]
            if not isinstance(sliced, Array):
                raise SchemaError(f"field {name!r} is {sliced!r}; only the axes of an Array can be sliced")
            axes[name] = slice_axes(name, axes.get(name, whole_axes(sliced.shape)), key)
            fields[name] = replace(sliced, shape=tuple(len(axis) for axis in axes[name]), chunk=None)
        return replace(self, schema=Schema(fields), axes=axes)

    def positions(self, indices: Ints, *, in_order: bool = False) -> Ints:
        """Where in the version the samples number `indices` stand; `in_order` says that they follow one another."""
        if self.selection is None:
            return indices
        if in_order and len(indices):
            return self.selection.select_range(int(indices[0]), int(indices[-1]) + 1)
        return self.selection.select(indices)

    def intervals(self, intervals: Intervals) -> Intervals:
        """Sorted, disjoint intervals of this view's samples as such intervals of the version's."""
        return intervals if self.selection is None else select_intervals(self.selection, intervals)

    def ids(self, positions: Ints) -> Ids:
        """The ids of the version's samples at `positions`."""
        if not len(positions):
            return np.empty(0, np.uint64)
        fragment = np.searchsorted(self.edges, positions, side="right") - 1
        return (positions + self.shifts[fragment]).astype(np.uint64)

    def box(self, name: str) -> Box | None:
        """What is wanted of each sample of a field; None where that is all of it."""
        return as_slices(self.axes[name]) if name in self.axes else None

    def extents(self) -> tuple[FragmentExtent, ...]:
        """What the order is planned from; see `Dataset.extents`."""
        if self.selection is None:
            return tuple(FragmentExtent(f.samples, f.block_rows, f.nbytes) for f in self.fragments)
        seen = np.diff(self.selection.count_before(self.edges)).tolist()
        return tuple(
            FragmentExtent(samples, f.block_rows, f.nbytes * samples // f.samples)
            for f, samples in zip(self.fragments, seen, strict=True)
            if samples
        )

    def digest(self) -> str:
        """See `Dataset.view_digest`."""
        return WHOLE if self.selection is None else digest(self.selection)

    def _narrowed(self, inner: Selection) -> "View":
        if len(inner) == len(self):
            return self
        return replace(self, selection=inner if self.selection is None else compose(self.selection, inner))
