"""Datasets: opening a version and reading its samples.

`Dataset` answers `ds[7]`, `ds[[5, 3]]`, `ds["label"][10:20]`, and gives the loader columns of any rows. Immutable: a view is
another Dataset over the same opened parts. Stands on `parts.py`, which reads, and `present.py`, which shows.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from chunkstore.format.schema import Schema
from chunkstore.format.versions import FieldStatistics, Version
from chunkstore.kernels.columns import Column, take
from chunkstore.plan.reads import Intervals, Ints, intervals_of_rows
from chunkstore.store.commit import read_version
from chunkstore.store.field_view import FieldView
from chunkstore.store.interface import Store
from chunkstore.store.location import open_store
from chunkstore.store.parts import Parts
from chunkstore.store.present import present_batch, present_sample
from chunkstore.store.tags import read_tagged

Url = str | os.PathLike[str]
Verify = Literal["first", "always", "never"]


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
        verify: When checksums of data are compared: "always", "never", or "first": at least when this process first reads them
            (this release compares every time). Those of metadata always are.
        storage_options: For the store, under obstore's names or s3fs's.
        filesystem: An fsspec filesystem to read through instead; `url` is then a path in it.

    Raises:
        DatasetNotFound: there is no dataset at `url`, or no such version or tag.
        InvalidDataset: its metadata is damaged.
        UnsupportedFormat: a newer format.
        VersionExpired: the version was dropped by `gc`.
    """
    if tag is not None and version is not None:
        raise ValueError(f"version={version} and tag={tag!r} both say what to open; give one of them")
    store = open_store(url, storage_options=storage_options, filesystem=filesystem)
    opened = read_version(store, version) if tag is None else read_tagged(store, tag)
    return Dataset(store, opened, decode=decode, verify=verify)


class Dataset:
    """A version of a dataset, or a view of some of its fields. Made by `chunkstore.open`.

    Safe for threads. Pickles as its URL and version, and is opened again where it arrives.
    """

    def __init__(
        self,
        store: Store,
        version: Version,
        *,
        schema: Schema | None = None,
        decode: bool = True,
        verify: Verify = "first",
        parts: Parts | None = None,
    ) -> None:
        self._store = store
        self._version = version
        self._decode = decode
        if verify not in get_args(Verify):
            raise ValueError(f"verify={verify!r}: one of {', '.join(map(repr, get_args(Verify)))}")
        self._verify = verify
        self.schema = schema or version.schema
        self._parts = parts or Parts(store, version)

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
        """Per field: statistics of its "values", of its samples' "lengths", or both."""
        return {name: self._version.statistics[name] for name in self.schema}

    def __len__(self) -> int:
        return self._version.num_samples

    def __repr__(self) -> str:
        return f"Dataset({self.url!r}, version={self.version}, samples={len(self)}, schema={self.schema!r})"

    def __getitem__(self, key: Any) -> Any:
        """Samples or a field.

        `ds[7]` is a sample: a dict of field to value. `ds[10:20]`, `ds[[5, 3, -1]]` and `ds[mask]` are batches: dicts of
        columns, see `FieldView`. `ds["label"]` is a field.

        Raises:
            IndexError: a sample is not there.
            KeyError: a field is not there.
        """
        if isinstance(key, str):
            if key not in self.schema:
                raise KeyError(f"no field {key!r}; the fields are {', '.join(self.schema)}")
            return FieldView(self, key)
        if _is_integer(key):
            return self.__getitems__([key])[0]
        positions = self._positions(key)
        columns = self.read(positions)
        return {
            n: present_batch(n, field, columns[n], decode=self._decode, positions=positions)
            for n, field in self.schema.items()
        }

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The samples at `indices` as a list of dicts, read together: torch's DataLoader asks for batches this way."""
        positions = self._positions(indices)
        columns = self.read(positions)
        fields = self.schema.items()
        return [
            {n: present_sample(n, field, columns[n], i, decode=self._decode, position=position) for n, field in fields}
            for i, position in enumerate(positions.tolist())
        ]

    def select(self, *names: str) -> "Dataset":
        """The same samples with some fields only; nothing else is read.

        Raises:
            SchemaError: a field is not there.
        """
        return Dataset(
            self._store,
            self._version,
            schema=self.schema.select(names),
            decode=self._decode,
            verify=self._verify,
            parts=self._parts,
        )

    def read(self, positions: Ints, names: Sequence[str] | None = None) -> dict[str, Column]:
        """Columns of the samples at `positions`, in that order; any order, repeats allowed.

        Args:
            positions: int64 indices in [0, len(self)).
            names: Fields, all of the view if None.
        """
        names = tuple(self.schema) if names is None else names
        ascending = len(positions) < 2 or bool((positions[1:] > positions[:-1]).all())
        if ascending:
            return self.read_intervals(intervals_of_rows(positions), names)
        unique, inverse = np.unique(positions, return_inverse=True)
        columns = self.read_intervals(intervals_of_rows(unique), names)
        return {name: take(column, inverse.astype(np.int64)) for name, column in columns.items()}

    def read_intervals(self, intervals: Intervals, names: Sequence[str] | None = None) -> dict[str, Column]:
        """Columns of the samples in sorted, disjoint intervals of positions, in that order."""
        names = tuple(self.schema) if names is None else names
        verify = self._verify != "never"
        return {name: self._parts.read(name, self.schema[name], intervals, verify=verify) for name in names}

    def read_lengths(self, name: str, intervals: Intervals) -> Ints:
        """How many values each sample of sorted, disjoint intervals has in a field whose samples differ: int64 (samples,)."""
        return self._parts.read_lengths(name, intervals)

    def _positions(self, key: Any) -> Ints:
        n = len(self)
        if isinstance(key, slice):
            return np.arange(*key.indices(n), dtype=np.int64)
        indices = np.asarray(key)
        if indices.dtype == bool:
            if indices.shape != (n,):
                raise IndexError(f"a mask of shape {indices.shape} for {n} samples")
            return np.flatnonzero(indices).astype(np.int64)
        if indices.size == 0:
            return np.empty(0, np.int64)
        if indices.ndim != 1 or indices.dtype.kind not in "iu":
            raise IndexError(f"samples are chosen by an integer, a slice, a list of integers or a mask, not {key!r}")
        if indices.min() < -n or indices.max() >= n:
            bad = indices[(indices < -n) | (indices >= n)][0]
            raise IndexError(f"sample {bad} of a dataset of {n}")
        indices = indices.astype(np.int64)
        return np.where(indices < 0, indices + n, indices)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopened, (self._store, self.version, tuple(self.schema), self._decode, self._verify))


def _reopened(store: Store, number: int, names: tuple[str, ...], decode: bool, verify: Verify) -> Dataset:
    dataset = Dataset(store, read_version(store, number), decode=decode, verify=verify)
    return dataset if names == tuple(dataset.schema) else dataset.select(*names)


def _is_integer(key: Any) -> bool:
    return hasattr(key, "__index__") and not isinstance(key, bool) and np.ndim(key) == 0
