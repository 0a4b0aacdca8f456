"""Datasets: opening a version and reading its samples.

`Dataset` answers `ds[7]`, `ds[[5, 3]]`, `ds["label"][10:20]`, and gives the loader columns of any samples. Immutable: a view of
some fields, samples or axes is another Dataset over the same opened parts. Stands on `parts.py`, which reads, `plan/view.py`,
which knows what a view shows, and `present.py`, which shows it.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from chunkstore.errors import DatasetNotFound, ObjectChanged
from chunkstore.format.schema import Array, Ragged, Schema
from chunkstore.format.versions import FieldStatistics, Version
from chunkstore.history.commit import read_version
from chunkstore.history.tags import read_tagged
from chunkstore.kernels.columns import Column, take
from chunkstore.plan.extents import FragmentExtent
from chunkstore.plan.reads import Intervals, Ints, intervals_of_rows
from chunkstore.plan.sample_nbytes import mean_sample_nbytes
from chunkstore.plan.split import Ids
from chunkstore.plan.view import View
from chunkstore.reading.field_view import FieldView
from chunkstore.reading.indices import checked_version, indices_of, is_integer
from chunkstore.reading.parts import Parts, Reader
from chunkstore.reading.plain_zarr import open_plain_zarr
from chunkstore.reading.present import present_batch, present_sample
from chunkstore.reading.verified import Check
from chunkstore.store.interface import Store
from chunkstore.store.location import open_store
from chunkstore.store.side_by_side import Level, do_all

if TYPE_CHECKING:
    import xarray

Url = str | os.PathLike[str]
Verify = Literal["first", "always", "never"]
_CHECKS: dict[Verify, Check] = {"first": "first", "always": True, "never": False}
ITERATION_NBYTES = 4 << 20
"""Decoded bytes that iteration reads together, about."""


def open(
    url: Url,
    *,
    version: int | None = None,
    tag: str | None = None,
    decode: bool = True,
    verify: Verify = "first",
    storage_options: Mapping[str, Any] | None = None,
    filesystem: Any = None,
) -> "Dataset":
    """Open a version of a dataset for reading.

    Args:
        url: Path or URL: local, memory://, s3://, gs://, az://, http(s)://, or any fsspec URL.
        version: Its number; the latest if None.
        tag: Name of the version instead, as `chunkstore.tag` gave it.
        decode: Whether images come decoded, or as the bytes that are stored.
        verify: When checksums of data are compared: "always", "never", or "first": of a local chunk when this process first
            reads it, of encoded samples and of what comes over a network always. Those of metadata always are.
        storage_options: For the store, under obstore's names or s3fs's.
        filesystem: An fsspec filesystem to read through instead; `url` is then a path in it.

    Raises:
        DatasetNotFound: there is no dataset at `url`, or no such version or tag.
        InvalidDataset: its metadata is damaged.
        UnsupportedFormat: a newer format.
        VersionExpired: the version was dropped by `gc`.
        ValueError: `version` is no integer, or a tag is given as well.
    """
    if tag is not None and version is not None:
        raise ValueError(f"version={version} and tag={tag!r} both say what to open; give one of them")
    number = None if version is None else checked_version(version)
    store = open_store(url, storage_options=storage_options, filesystem=filesystem)
    opened, reader = _find_version(store, number, tag)
    return Dataset(store, opened, decode=decode, verify=verify, parts=reader)


class Dataset:
    """A version of a dataset, or a view of some of its fields, samples or axes. Made by `chunkstore.open`.

    Views (`select`, `filter`, `split`, `slice`) nest in any order; each is a new `Dataset` that reads only what it shows. Safe
    for threads. Pickles as its URL, identity, version and view, and is opened again where it arrives; `ObjectChanged` says
    that another dataset stands there now.
    """

    def __init__(
        self,
        store: Store,
        version: Version,
        *,
        decode: bool = True,
        verify: Verify = "first",
        parts: Reader | None = None,
        view: View | None = None,
    ) -> None:
        self._store = store
        self._version = version
        self._decode = decode
        if verify not in get_args(Verify):
            raise ValueError(f"verify={verify!r}: one of {', '.join(map(repr, get_args(Verify)))}")
        self._verify = verify
        self._parts: Reader = Parts(store, version) if parts is None else parts
        self._view = View(version.fragments, version.schema) if view is None else view  # an empty one is false
        self._digest: str | None = None

    @property
    def schema(self) -> Schema:
        """The fields and their types; of a view those that it shows, in the shapes that slices leave."""
        return self._view.schema

    @property
    def url(self) -> str:
        """Where the dataset is, without credentials."""
        return self._store.url

    @property
    def is_local(self) -> bool:
        """Whether it lies on a local disk."""
        return self._store.is_local

    @property
    def decode(self) -> bool:
        """Whether images come decoded."""
        return self._decode

    @property
    def uuid(self) -> str:
        """The dataset's identity, the same in all versions."""
        return self._version.dataset

    @property
    def version(self) -> int:
        """Number of the version."""
        return self._version.number

    @property
    def version_document(self) -> Version:
        """The version's document: fragments, message, time."""
        return self._version

    @property
    def statistics(self) -> Mapping[str, FieldStatistics]:
        """Per field: statistics of its "values", of its samples' "lengths", or both; over all samples of the version."""
        return {name: self._version.statistics[name] for name in self.schema}

    @property
    def view_digest(self) -> str:
        """Which samples are seen: "all", or a SHA-256 in hexadecimal that is the same however they were chosen.

        Fields, slices and `decode` do not change it. A loader's state names it. Source: docs/spec/order.md, "Views".
        """
        if self._digest is None:
            self._digest = self._view.digest()
        return self._digest

    @property
    def extents(self) -> tuple[FragmentExtent, ...]:
        """What the order is planned from: of each fragment the samples that are seen, and their share of its bytes."""
        return self._view.extents()

    def __len__(self) -> int:
        return len(self._view)

    def __repr__(self) -> str:
        samples = (
            f"{len(self)}" if len(self) == self._version.num_samples else f"{len(self)} of {self._version.num_samples}"
        )
        return f"Dataset({self.url!r}, version={self.version}, samples={samples}, schema={self.schema!r})"

    def __getitem__(self, key: Any) -> Any:
        """Samples or a field.

        `ds[7]` is a sample: a dict of field to value. `ds[10:20]`, `ds[[5, 3, -1]]` and `ds[mask]` are batches: dicts of
        columns, see `FieldView`. `ds["label"]` is a field.

        Raises:
            IndexError: a sample is not there.
            KeyError: a field is not there.
        """
        if isinstance(key, str):
            return self.field(key)
        if isinstance(key, tuple):
            inner = ", ".join(map(repr, key))
            raise IndexError(
                f"ds[{inner}] has no axes to index: ds[[{inner}]] gives those samples, and ds['field'][{inner}] indexes the "
                "axes of a field"
            )
        if is_integer(key):
            return self.__getitems__([key])[0]
        indices = indices_of(key, len(self))
        columns, positions = self.read(indices), self._view.positions(indices)
        return {
            n: present_batch(n, field, columns[n], decode=self._decode, positions=positions)
            for n, field in self.schema.items()
        }

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The samples at `indices` as a list of dicts, read together: torch's DataLoader asks for batches this way."""
        checked = indices_of(indices, len(self))
        columns, positions = self.read(checked), self._view.positions(checked)
        shown = {
            n: present_batch(n, f, columns[n], decode=self._decode, positions=positions) for n, f in self.schema.items()
        }
        return [{n: column[i] for n, column in shown.items()} for i in range(len(positions))]

    def field(self, name: str) -> FieldView:
        """One field as an array-like that reads when it is indexed; the same as `ds[name]`.

        Raises:
            KeyError: the field is not there.
        """
        if name not in self.schema:
            raise KeyError(f"no field {name!r}; the fields are {', '.join(self.schema)}")
        return FieldView(self, name)

    def __contains__(self, name: object) -> bool:
        """Whether a field of this name is shown.

        Raises:
            TypeError: something but a name, which all samples would have to be read for.
        """
        if not isinstance(name, str):
            raise TypeError(f"`in` looks for the name of a field, a str, not for a {type(name).__name__}")
        return name in self.schema

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The samples in order, each as `ds[i]` gives it; read some at a time, so that memory stays bounded."""
        rows = max(1, ITERATION_NBYTES // mean_sample_nbytes(self.schema, self._version.statistics))
        for start in range(0, len(self), rows):
            yield from self._samples(np.arange(start, min(start + rows, len(self)), dtype=np.int64))

    def _samples(self, indices: Ints) -> Iterator[dict[str, Any]]:
        columns, positions = self.read(indices), self._view.positions(indices)
        numbers = {
            n: present_batch(n, field, columns.pop(n))
            for n, field in self.schema.items()
            if isinstance(field, Array | Ragged)
        }
        for i, position in enumerate(positions.tolist()):
            yield {
                # a copy, so that who keeps one sample does not keep all that were read with it
                n: numbers[n][i].copy()
                if isinstance(field, Array | Ragged)
                else present_sample(n, field, columns[n], i, decode=self._decode, position=position)
                for n, field in self.schema.items()
            }

    def select(self, *names: str) -> "Dataset":
        """The same samples with some fields only; nothing else is read.

        Raises:
            SchemaError: a field is not there.
            TypeError: something but names.
        """
        if bad := [name for name in names if not isinstance(name, str)]:
            raise TypeError(f'select({bad[0]!r}): names are given one by one, as in ds.select("image", "label")')
        return self._seen_as(self._view.select(names))

    def filter(self, selection: Any) -> "Dataset":
        """Some of the samples, in the same order.

        Held as sorted positions or as a bitmap, whichever is smaller: about a bit a sample of the version at most.

        Args:
            selection: A mask, bool (len(self),), or strictly increasing indices, integers (k,) in [0, len(self)).

        Raises:
            ValueError: neither of these.
        """
        return self._seen_as(self._view.filter(selection))

    def split(self, fractions: Mapping[str, float], seed: int = 0) -> dict[str, "Dataset"]:
        """Views of disjoint parts, each with about its fraction of the samples: `ds.split({"train": 0.9, "val": 0.1})`.

        To which part a sample belongs depends on its id, the seed and the fractions alone. So it stays there when samples are
        appended or compacted; a split of a view is the view of the split; and the first parts stay as they are when the
        fractions after them change.

        Args:
            fractions: Of each part, in [0, 1], together at most 1; what is left over is in no part.
            seed: 0 to 2^64 − 1.

        Raises:
            ValueError: fractions that are none, or add up to more than 1; a seed that is none.

        Source: docs/spec/order.md, "Split".
        """
        return {name: self._seen_as(view) for name, view in self._view.split(fractions, seed).items()}

    def slice(self, /, **slices: Any) -> "Dataset":
        """The same samples with parts of some fields only.

        `ds.slice(volume=(slice(0, 64), ..., slice(None, None, 2)))` takes the first 64 of the first axis and every second of
        the last.

        Only the chunks that hold something of them are read. Axes are those of a sample; the schema has the new shapes.

        Args:
            slices: For fields of type `Array` a slice, or a tuple of slices and at most one Ellipsis; steps are at least 1,
                negative bounds count from the end.

        Raises:
            SchemaError: a field is not there, or is no `Array`.
            ValueError: something but slices, or too many of them.
        """
        return self._seen_as(self._view.slice(slices))

    def to_xarray(self) -> "xarray.Dataset":
        """The fields of type `Array` as an `xarray.Dataset` whose values are read when they are asked for; others are left out.

        Dimensions are `sample` and `<field>_1`, `<field>_2`…, for plain Zarr those that its writer named. Views stay views.

        Raises:
            ImportError: xarray is not installed.
            SchemaError: no field is an `Array`.
        """
        from chunkstore.reading.xarray_view import to_xarray

        return to_xarray(self)

    def sample_ids(self, key: Any = None) -> Ids:
        """Ids of samples, uint64 (samples,): what `split` goes by, and what a sample keeps through every version.

        Args:
            key: An integer, slice, list or mask, as for `ds[key]`; all samples of the view if None.

        Raises:
            IndexError: a sample is not there.
        """
        return self._view.ids(self.positions(key))

    def positions(self, key: Any = None) -> Ints:
        """Indices in the whole version of samples of this view: int64 (samples,).

        Args:
            key: An integer, slice, list or mask, as for `ds[key]`; all samples of the view if None.

        Raises:
            IndexError: a sample is not there.
        """
        return self._view.positions(indices_of(slice(None) if key is None else key, len(self)), in_order=key is None)

    def read(self, indices: Ints, names: Sequence[str] | None = None) -> dict[str, Column]:
        """Columns of the samples at `indices`, in that order; any order, repeats allowed.

        Args:
            indices: int64, in [0, len(self)).
            names: Fields, all of the view if None.
        """
        positions = self._view.positions(indices)
        ascending = len(positions) < 2 or bool((positions[1:] > positions[:-1]).all())
        if ascending:
            return self._read(intervals_of_rows(positions), names)
        unique, inverse = np.unique(positions, return_inverse=True)
        columns = self._read(intervals_of_rows(unique), names, of_arrays=intervals_of_rows(positions))
        return {
            name: column if isinstance(self.schema[name], Array) else take(column, inverse.astype(np.int64))
            for name, column in columns.items()
        }

    def read_intervals(self, intervals: Intervals, names: Sequence[str] | None = None) -> dict[str, Column]:
        """Columns of the samples in sorted, disjoint intervals of indices, in that order."""
        return self._read(self._view.intervals(intervals), names)

    def read_lengths(self, name: str, intervals: Intervals) -> Ints:
        """How many values each sample of sorted, disjoint intervals has in a field whose samples differ: int64 (samples,)."""
        return self._parts.read_lengths(name, self._view.intervals(intervals))

    def _read(
        self, intervals: Intervals, names: Sequence[str] | None, *, of_arrays: Intervals | None = None
    ) -> dict[str, Column]:
        """Columns of intervals of the version, of `of_arrays` for fields whose rows are read in any order.

        Fields of a remote dataset are read side by side.
        """
        names = tuple(self.schema) if names is None else tuple(names)
        jobs = [
            partial(
                self._parts.read,
                name,
                self.schema[name],
                intervals if of_arrays is None or not isinstance(self.schema[name], Array) else of_arrays,
                verify=_CHECKS[self._verify],
                box=self._view.box(name),
            )
            for name in names
        ]
        columns = [job() for job in jobs] if self.is_local else do_all(Level.FIELDS, jobs)
        return dict(zip(names, columns, strict=True))

    def _seen_as(self, view: View) -> "Dataset":
        """Another view over the same opened parts."""
        return Dataset(
            self._store, self._version, decode=self._decode, verify=self._verify, parts=self._parts, view=view
        )

    def __reduce__(self) -> tuple[Any, ...]:
        shown = {"schema": self.schema, "selection": self._view.selection, "axes": self._view.axes}
        return (_reopened, (self._store, self.uuid, self.version, shown, self._decode, self._verify))


def _reopened(store: Store, uuid: str, number: int, shown: Mapping[str, Any], decode: bool, verify: Verify) -> Dataset:
    """A dataset that arrived pickled.

    Raises:
        ObjectChanged: another dataset stands at the URL, whose samples the selection does not mean.
    """
    version, reader = _find_version(store, number)
    if version.dataset != uuid:
        raise ObjectChanged(
            f"{store.url} was dataset {uuid} when this was pickled and is {version.dataset} now; open it anew and choose "
            "samples again, or restore what was there"
        )
    return Dataset(store, version, decode=decode, verify=verify, parts=reader, view=View(version.fragments, **shown))


def _find_version(store: Store, number: int | None, tag: str | None = None) -> tuple[Version, Reader | None]:
    """A version, and what reads it if its parts do not: where there is no dataset of ours, plain Zarr is looked for."""
    try:
        return (read_version(store, number) if tag is None else read_tagged(store, tag)), None
    except (DatasetNotFound, PermissionError):  # without permission to list, S3 answers 403 for what is absent
        if (plain := open_plain_zarr(store, number, tag)) is None:
            raise
        return plain.version, plain
