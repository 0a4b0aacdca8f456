"""A dataset as an xarray.Dataset, whose values are read when they are asked for.

The only file that imports xarray, which chunkstore does not depend on, and itself imported where it is used. Before it:
`Dataset.to_xarray`; after it: `field_view.py`.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from chunkstore.errors import SchemaError
from chunkstore.format.schema import Array, dimension_names
from chunkstore.reading.field_view import FieldView

try:
    import xarray
    from xarray.backends import BackendArray
    from xarray.core import indexing
except ImportError as error:
    raise ImportError(
        f"to_xarray needs xarray, which is not installed with chunkstore: pip install xarray ({error})"
    ) from error

if TYPE_CHECKING:
    from chunkstore.reading.dataset import Dataset


class _FieldArray(BackendArray):
    """A field as xarray reads it."""

    def __init__(self, view: FieldView) -> None:
        self._view = view
        self.shape, self.dtype = view.shape, view.dtype

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> Any:
        """By integers, slices and 1-D lists, each along its own axis."""
        lists = [axis for axis, part in enumerate(key) if axis and isinstance(part, np.ndarray) and part.ndim]
        values = self._view[tuple(slice(None) if axis in lists else part for axis, part in enumerate(key))]
        for axis in lists:
            at = axis - sum(np.ndim(part) == 0 and not isinstance(part, slice) for part in key[:axis])
            values = np.take(values, key[axis], axis=at)
        return values


def to_xarray(dataset: "Dataset") -> "xarray.Dataset":
    """The fields of type `Array` as lazy variables; see `Dataset.to_xarray`.

    A field with the name of its own dimension is read at once, for xarray makes an index of it.

    Raises:
        SchemaError: the dataset has no such field.
    """
    views = {name: dataset[name] for name, field in dataset.schema.items() if isinstance(field, Array)}
    if not views:
        raise SchemaError(f"{dataset.url}: no field is an Array, and xarray holds nothing else: {dataset.schema!r}")
    sizes: dict[str, int] = {}
    variables = {}
    for name, view in views.items():
        dims = view.dims
        lengths = dict(zip(dims, view.shape, strict=True))
        if len(lengths) < len(dims) or any(sizes.get(dim, n) != n for dim, n in lengths.items()):
            dims = (
                dims[0],
                *dimension_names(name, view.type),
            )  # plain Zarr, whose names need not agree; so do slices of it
            lengths = dict(zip(dims, view.shape, strict=True))
        sizes.update(lengths)
        variables[name] = xarray.Variable(dims, indexing.LazilyIndexedArray(_FieldArray(view)))
    return xarray.Dataset(variables, attrs={"url": dataset.url, "version": dataset.version})
