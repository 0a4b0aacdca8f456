"""One field of a dataset as an array-like: `ds["label"][10:20]`.

A view of a `Dataset` that reads through it. Before it: the user; after it: `dataset.py`.
"""

from typing import TYPE_CHECKING, Any

from chunkstore.format.schema import Field

if TYPE_CHECKING:
    from chunkstore.store.dataset import Dataset


class FieldView:
    """One field of a dataset: `ds["label"][10:20]`.

    An integer gives a sample's value; a slice, list or mask gives a column: an ndarray (samples, *shape) for `Array`, a
    `RaggedBatch` for `Ragged`, a list for `Text`, `Bytes` and `Image`.
    """

    def __init__(self, dataset: "Dataset", name: str) -> None:
        self._dataset = dataset.select(name)
        self.name = name

    @property
    def type(self) -> Field:
        """The field's type."""
        return self._dataset.schema[self.name]

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            raise IndexError(f"field {self.name!r} has samples, not fields: {key!r}")
        return self._dataset[key][self.name]

    def __repr__(self) -> str:
        return f"FieldView({self.name!r}: {self.type!r}, samples={len(self)})"
