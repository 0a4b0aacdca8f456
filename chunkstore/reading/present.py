"""From stored columns to what a user sees, and to nothing else.

ds[7] gives scalars, arrays, str, bytes and decoded images; a batch gives arrays, `RaggedBatch` and lists. Stands after
`reading/part.py` and `loader/prefetch.py`, before the user; reads nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chunkstore.errors import CorruptSample
from chunkstore.format.schema import Array, Bytes, Field, Image, Ragged, Text, has_shapes, stored_dtype
from chunkstore.kernels.columns import Column, Ints, RaggedColumn
from chunkstore.kernels.images import decode_image


@dataclass(frozen=True, slots=True, eq=False)
class RaggedBatch:
    """Samples of differing length, one after another; as a sequence, the samples.

    Attributes:
        values: All values: (values, *fixed dimensions) where only the first dimension differs, else 1-D.
        offsets: int64 (samples + 1,): sample i is values[offsets[i]:offsets[i + 1]], reshaped to shapes[i] if given.
        shapes: int64 (samples, rank) where more than the first dimension differs, else None.
    """

    values: Any
    offsets: Any
    shapes: Any = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> Any:
        if not -len(self) <= i < len(self):
            raise IndexError(f"sample {i} of a batch of {len(self)}")
        i %= len(self)
        values = self.values[int(self.offsets[i]) : int(self.offsets[i + 1])]
        return values if self.shapes is None else values.reshape([int(n) for n in self.shapes[i]])

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"RaggedBatch(samples={len(self)}, values={tuple(self.values.shape)}, dtype={self.values.dtype})"


Batch = dict[str, Any]


def present_batch(
    name: str, field: Field, column: Column, *, decode: bool = True, positions: Sequence[int] | Ints | None = None
) -> Any:
    """A column as batches hold it; `positions` are what its samples are called in errors.

    Returns:
        `Array`: ndarray (samples, *shape); bfloat16 as float32, which holds it exactly. `Ragged`: `RaggedBatch`. `Text`: list
        of str. `Bytes`: list of bytes. `Image`: list of uint8 arrays, or of the encoded bytes if not `decode`.

    Raises:
        CorruptSample: text that is no UTF-8, an image that does not decode.
    """
    if isinstance(field, Array):
        assert isinstance(column, np.ndarray)
        return _numbers(field, column)
    assert isinstance(column, RaggedColumn)
    if isinstance(field, Ragged):
        return _ragged(field, column)
    known: Sequence[int] | Ints | tuple[None, ...] = (None,) * len(column) if positions is None else positions
    return [present_sample(name, field, column, i, decode=decode, position=known[i]) for i in range(len(column))]


def present_sample(
    name: str,
    field: Text | Bytes | Image,
    column: Column,
    i: int = 0,
    *,
    decode: bool = True,
    position: int | None = None,
) -> str | bytes | npt.NDArray[np.uint8]:
    """Sample i of a column as `ds[i]` gives it: str, bytes, or a decoded image. Of numbers, index a batch."""
    assert isinstance(column, RaggedColumn)
    data: bytes = column.values[column.offsets[i] : column.offsets[i + 1]].tobytes()
    if isinstance(field, Bytes) or (isinstance(field, Image) and not decode):
        return data
    try:
        return str(data, "utf-8") if isinstance(field, Text) else decode_image(data, field.format, field.mode)
    except ValueError as error:
        told = f"sample {i} of this read" if position is None else f"sample {position}"
        raise CorruptSample(f"field {name!r}, {told}: {error}") from error


def empty_column(field: Field) -> Column:
    """A column of no samples."""
    if isinstance(field, Array):
        return np.empty((0, *field.shape), stored_dtype(field))
    shapes = np.empty((0, len(field.shape)), np.int64) if isinstance(field, Ragged) and has_shapes(field) else None
    return RaggedColumn(np.empty(0, stored_dtype(field)), np.zeros(1, np.int64), shapes)


def bfloat16_to_float32(bits: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The numbers whose bfloat16 bits these uint16 are; exact, since bfloat16 is float32's upper half."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def ragged_batch(field: Ragged, values: Any, column: RaggedColumn) -> RaggedBatch:
    """A `RaggedBatch` over `values`, which are the column's in any array library."""
    if column.shapes is None:
        return RaggedBatch(values, column.offsets)
    if None in field.shape[1:]:
        return RaggedBatch(values, column.offsets, column.shapes)
    fixed = [int(n) for n in field.shape[1:] if n is not None]
    width = int(np.prod(fixed))
    if width == 0:
        offsets = np.concatenate([[0], np.cumsum(column.shapes[:, 0])])
        return RaggedBatch(values.reshape([int(offsets[-1]), *fixed]), offsets)
    return RaggedBatch(values.reshape([-1, *fixed]), column.offsets // width)


def _numbers(field: Array | Ragged, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return bfloat16_to_float32(values) if field.dtype == "bfloat16" else values


def _ragged(field: Ragged, column: RaggedColumn) -> RaggedBatch:
    return ragged_batch(field, _numbers(field, column.values), column)
