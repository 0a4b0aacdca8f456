"""One field of a dataset as an array-like: `ds["label"][10:20]`, NumPy's indexing, and what zarr and dask ask of an array.

A view of a `Dataset` that reads through it, and nothing until it is indexed. Before it: the user; after it: `dataset.py`.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from chunkstore.errors import SchemaError
from chunkstore.format.schema import Array, Field, dimension_names, stored_dtype
from chunkstore.reading.indices import is_integer
from chunkstore.reading.plain_zarr import PlainZarr

if TYPE_CHECKING:
    import zarr

    from chunkstore.reading.dataset import Dataset


class FieldView:
    """One field of a dataset: `ds["label"][10:20]`.

    An integer gives a sample's value; a slice, list or mask gives a column: an ndarray (samples, *shape) for `Array`, a
    `RaggedBatch` for `Ragged`, a list for `Text`, `Bytes` and `Image`. Fields of type `Array` take NumPy's tuples as well,
    `ds["x"][10:20, :, 3]`, and read only the chunks that are touched where the axes of a sample are indexed by integers and
    slices. They are what `numpy.asarray` and `dask.array.from_array` take.
    """

    def __init__(self, dataset: "Dataset", name: str) -> None:
        self._dataset = dataset.select(name)
        self.name = name

    @property
    def type(self) -> Field:
        """The field's type."""
        return self._dataset.schema[self.name]

    @property
    def shape(self) -> tuple[int, ...]:
        """Samples, then the shape of one; of an `Array` only."""
        return (len(self), *self._array_type("shape").shape)

    @property
    def ndim(self) -> int:
        """Number of dimensions, that of the samples included; of an `Array` only."""
        return 1 + len(self._array_type("ndim").shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values as they are given: bfloat16 comes as float32; of an `Array` only."""
        field = self._array_type("dtype")
        return np.dtype("float32") if field.dtype == "bfloat16" else stored_dtype(field)

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the dimensions, as the stored arrays have them; of an `Array` only.

        `sample`, `<field>_1`, `<field>_2`…; for plain Zarr those that its writer gave, and these for dimensions without.
        """
        own = ("sample", *dimension_names(self.name, self._array_type("dims")))
        reader = self._dataset._parts
        given = reader.arrays[self.name].dims if isinstance(reader, PlainZarr) else None
        return own if given is None else tuple(a or b for a, b in zip(given, own, strict=True))

    def zarr(self) -> "list[zarr.Array[Any]]":
        """The stored arrays as zarr-python's, read-only, one a fragment, whose rows are the samples in version order.

        They read through this dataset's store, with its credentials. Values are as they are stored: bfloat16 is uint16.

        Raises:
            SchemaError: the field is no `Array`, so that several arrays hold it.
            ValueError: the dataset is a view of some samples, or of parts of them, which stored arrays do not know.
        """
        dataset, field = self._dataset, self.type
        if not isinstance(field, Array):
            raise SchemaError(
                f"field {self.name!r} is {field!r}, which several arrays hold: those in fragments/<id>/<part>/{self.name}"
            )
        if dataset.view_digest != "all" or self.name in dataset._view.axes:
            raise ValueError(
                f"field {self.name!r}: stored arrays hold all of all samples; ask the dataset, not a view of it"
            )
        from chunkstore.reading import zarr_adapter

        if isinstance(dataset._parts, PlainZarr):
            return [zarr_adapter.open_plain_array(dataset._store, dataset._parts.arrays[self.name])]
        parts = [fragment.part_of(self.name) for fragment in dataset.version_document.fragments]
        return [zarr_adapter.open_zarr_array(dataset._store, f"{part.path}/{self.name}") for part in parts]

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            raise IndexError(f"field {self.name!r} has samples, not fields: {key!r}")
        if not isinstance(self.type, Array):
            if isinstance(key, tuple):
                raise IndexError(
                    f"field {self.name!r} is {self.type!r}: its samples have no axes to index, as in {key!r}"
                )
            return self._dataset[key][self.name]
        if isinstance(key, tuple) or key is Ellipsis:
            return self._index(key if isinstance(key, tuple) else (key,))
        return self._dataset[key][self.name]

    def __iter__(self) -> Iterator[Any]:
        """The samples' values in order; read some at a time, so that memory stays bounded."""
        return (sample[self.name] for sample in self._dataset)

    def _compared(self, other: object) -> NoReturn:
        raise TypeError(
            f"field {self.name!r} is read before its values are compared: ds[{self.name!r}][:] == …, which reads all samples"
        )

    # False for every question, as object has it, would pass for a mask; a field stays its own key in dicts and sets.
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _compared
    __hash__ = object.__hash__

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """All samples, read into memory."""
        if not isinstance(self.type, Array):
            raise TypeError(
                f"field {self.name!r} is {self.type!r}: its samples make no array; take ds[{self.name!r}][:]"
            )
        if copy is False:
            raise ValueError(f"field {self.name!r} is read from a store, which is a copy")
        values: npt.NDArray[Any] = self[:]
        return values if dtype is None else values.astype(dtype, copy=False)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        """What makes two views the same to dask."""
        dataset = self._dataset
        return (
            dataset.url,
            dataset.uuid,
            dataset.version,
            dataset.view_digest,
            self.name,
            dataset._view.box(self.name),
        )

    def __repr__(self) -> str:
        return f"FieldView({self.name!r}: {self.type!r}, samples={len(self)})"

    def _array_type(self, asked: str) -> Array:
        field = self.type
        if not isinstance(field, Array):
            raise AttributeError(f"field {self.name!r} is {field!r}; only an Array has {asked!r}")
        return field

    def _index(self, key: tuple[Any, ...]) -> Any:
        """By a tuple, as NumPy would: samples first, then the axes of one."""
        first, *rest = self._one_key_an_axis(key)
        first = list(first) if isinstance(first, tuple) else first  # inside a tuple one is a list, as to NumPy
        shape = self.shape[1:]
        if not all(is_integer(part) or (isinstance(part, slice) and (part.step or 1) > 0) for part in rest):
            if is_integer(first):  # stays an index: beside lists NumPy counts it among them
                return self._dataset[[first]][self.name][(0, *rest)]
            rows = self._dataset[first][self.name]
            return rows[(_as_lead(first, rest, len(rows)), *rest)]
        axes = [_as_slice(part, n, axis) for axis, (part, n) in enumerate(zip(rest, shape, strict=True), 1)]
        dataset = self._dataset
        if any(axis != slice(0, n, 1) for axis, n in zip(axes, shape, strict=True)):
            dataset = dataset.slice(**{self.name: tuple(axes)})
        rows = dataset[first][self.name]
        lead = () if is_integer(first) else (slice(None),)
        return rows[(*lead, *(0 if is_integer(part) else slice(None) for part in rest))]

    def _one_key_an_axis(self, key: tuple[Any, ...]) -> list[Any]:
        ellipses = [i for i, part in enumerate(key) if part is Ellipsis]
        if len(ellipses) > 1 or any(part is None for part in key):
            raise IndexError(
                f"field {self.name!r}: at most one Ellipsis and no new axes can stand in an index: {key!r}"
            )
        if len(key) - len(ellipses) > self.ndim:
            raise IndexError(f"field {self.name!r}: {len(key)} indices for {self.ndim} dimensions")
        at = ellipses[0] if ellipses else len(key)
        missing = [slice(None)] * (self.ndim - (len(key) - len(ellipses)))
        return [*key[:at], *missing, *key[at + 1 :]]


def _as_slice(part: Any, length: int, axis: int) -> slice:
    if isinstance(part, slice):
        start, stop, step = part.indices(length)
        return slice(start, max(start, stop), step)
    index = int(part)
    if not -length <= index < length:
        raise IndexError(f"index {index} is out of bounds for axis {axis} of {length}")
    return slice(index % length, index % length + 1, 1)


def _as_lead(first: Any, rest: list[Any], count: int) -> Any:
    """What stands for the samples already chosen: lists of them pair with lists along other axes, as NumPy pairs them."""
    paired = not isinstance(first, slice) and any(np.ndim(part) for part in rest if not isinstance(part, slice))
    return np.arange(count) if paired else slice(None)
