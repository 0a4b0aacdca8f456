"""From what users give to columns of stored values.

One function a direction: `encode_column` takes the values of a field for some samples, checks every one against the field's type,
and gives a column (`kernels/columns.py`) or raises `SampleError` naming field and sample. Nothing is converted that would change a
number. Before it: `Writer.write`; after it: `sinks.py`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from chunkstore.errors import SampleError
from chunkstore.format.schema import Array, Bytes, Field, Image, Ragged, Text, has_shapes, stored_dtype
from chunkstore.kernels.columns import Column, RaggedColumn
from chunkstore.kernels.images import check_image, encode_image
from chunkstore.store.present import RaggedBatch


def encode_column(name: str, field: Field, values: Any, first: int) -> Column:
    """The column of some samples' values.

    Args:
        name: The field, for errors.
        field: Its type.
        values: One value a sample: an array (samples, *shape), a sequence, or a `RaggedBatch`.
        first: Number, in what is being written, of the first of these samples, for errors.

    Raises:
        SampleError: a value does not fit the field's type.
    """
    if isinstance(field, Array):
        return _array_column(name, field, values, first)
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        raise SampleError(f"field {name!r}: a sequence with one value a sample is needed, not {_kind(values)}")
    if isinstance(field, Ragged):
        return _ragged_column(name, field, values, first)
    to_bytes = _BYTES_OF[type(field)]
    encoded = []
    for i, value in enumerate(values):
        try:
            encoded.append(to_bytes(field, value))
        except (TypeError, ValueError) as error:
            raise SampleError(f"field {name!r}, sample {first + i}: {error}") from error
    joined = np.frombuffer(b"".join(encoded), np.uint8)
    return RaggedColumn(joined, _offsets([len(data) for data in encoded]))


def encode_sample(name: str, field: Field, value: Any, index: int) -> Column:
    """The column of one sample's value; see `encode_column`."""
    if isinstance(field, Array):
        try:
            array = _numbers(field, value)
        except ValueError as error:
            raise SampleError(f"field {name!r}, sample {index}: {error}") from error
        if array.shape != field.shape:
            raise SampleError(f"field {name!r}, sample {index}: shape {array.shape}, the schema says {field.shape}")
        return array[None]
    return encode_column(name, field, [value], index)


def column_length(values: Any) -> int | None:
    """How many samples a column given by a user has; None where it has no length."""
    try:
        return len(values)
    except TypeError:
        return None


def _array_column(name: str, field: Array, values: Any, first: int) -> npt.NDArray[Any]:
    try:
        array = _numbers(field, values)
    except ValueError as error:
        raise SampleError(f"field {name!r}, {_samples(first, column_length(values))}: {error}") from error
    if array.shape[1:] != field.shape or array.ndim == 0:
        raise SampleError(
            f"field {name!r}, {_samples(first, column_length(values))}: samples of shape {array.shape[1:]}, the schema says "
            f"{field.shape}"
        )
    return array


def _ragged_column(name: str, field: Ragged, values: Any, first: int) -> RaggedColumn:
    if isinstance(values, RaggedBatch) and values.shapes is None and len(field.shape) == 1:
        numbers = _numbers(field, values.values)
        offsets = np.asarray(values.offsets, np.int64)
        if offsets[0] == 0 and offsets[-1] == len(numbers) and (np.diff(offsets) >= 0).all():
            return RaggedColumn(numbers, offsets)
    arrays = []
    for i, value in enumerate(values):
        try:
            array = _numbers(field, value)
        except ValueError as error:
            raise SampleError(f"field {name!r}, sample {first + i}: {error}") from error
        if array.size == 0 and array.ndim < len(field.shape):  # [] for a sample of (None, 3)
            array = array.reshape([n or 0 for n in field.shape])
        fits = array.ndim == len(field.shape) and all(
            n is None or n == m for n, m in zip(field.shape, array.shape, strict=True)
        )
        if not fits:
            raise SampleError(f"field {name!r}, sample {first + i}: shape {array.shape}, the schema says {field.shape}")
        arrays.append(array)
    dtype = stored_dtype(field)
    joined = np.concatenate([a.reshape(-1) for a in arrays]) if arrays else np.empty(0, dtype)
    shapes = np.array([a.shape for a in arrays], np.int64).reshape(len(arrays), -1) if has_shapes(field) else None
    return RaggedColumn(joined.astype(dtype, copy=False), _offsets([a.size for a in arrays]), shapes)


def _numbers(field: Array | Ragged, value: Any) -> npt.NDArray[Any]:
    """The value as an array of the stored dtype, or ValueError where that would change a number."""
    dtype = stored_dtype(field)
    if hasattr(value, "detach"):  # a torch tensor, without importing torch
        value = _from_torch(value)
    array = np.asarray(value)
    if field.dtype == "bfloat16":
        return _bfloat16_bits(value, array)
    if array.dtype == dtype or array.dtype == dtype.newbyteorder():
        return array.astype(dtype, copy=False)
    if isinstance(value, np.ndarray | np.generic):
        if array.dtype.kind == dtype.kind or (array.dtype.kind, dtype.kind) == ("u", "i"):
            if np.can_cast(array.dtype, dtype, "safe"):
                return array.astype(dtype)
        raise ValueError(f"dtype {array.dtype}, the schema says {field.dtype}; convert it first")
    return _from_python(array, dtype, field.dtype)


def _from_python(array: npt.NDArray[Any], dtype: np.dtype[Any], said: str) -> npt.NDArray[Any]:
    """Python numbers and lists of them, by value: integers must be exact, floats are rounded as Python rounds them."""
    if array.size == 0:
        return array.astype(dtype)
    source = array.dtype.kind
    allowed = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[dtype.kind]
    if source not in allowed:
        raise ValueError(f"{_kind(array.flat[0])} where the schema says {said}")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise ValueError(f"{array.min()}…{array.max()} does not fit {said}")
    return array.astype(dtype)


def _bfloat16_bits(value: Any, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """bfloat16 of torch or ml_dtypes as they are; float32 and Python floats where bfloat16 holds them exactly."""
    if array.dtype.name == "bfloat16":
        return array.view(np.uint16).astype("<u2", copy=False)
    if array.size and array.dtype != np.float32 and not (array.dtype.kind in "f" and not isinstance(value, np.ndarray)):
        raise ValueError(
            f"dtype {array.dtype}, the schema says bfloat16; give torch.bfloat16, ml_dtypes.bfloat16 or float32"
        )
    bits = array.astype("<f4").view("<u4")
    if (bits & 0xFFFF).any():
        raise ValueError("a float that bfloat16 does not hold exactly; round to bfloat16 first")
    return (bits >> 16).astype("<u2")


def _from_torch(tensor: Any) -> Any:
    tensor = tensor.detach().cpu()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def _text_bytes(_: Any, value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"{_kind(value)} where the schema says text")
    return value.encode()


def _plain_bytes(_: Any, value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"{_kind(value)} where the schema says bytes")
    return bytes(value)


def _image_bytes(field: Any, value: Any) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        check_image(data, field.format)
        return data
    if hasattr(value, "detach"):
        value = _from_torch(value)
    if isinstance(value, np.ndarray) or hasattr(value, "getbands"):
        return encode_image(value, field.format, field.mode, field.quality)
    raise TypeError(
        f"{_kind(value)} where the schema says {field.format} image: bytes, an array or a PIL image is needed"
    )


_BYTES_OF: dict[type[Field], Callable[[Any, Any], bytes]] = {
    Text: _text_bytes,
    Bytes: _plain_bytes,
    Image: _image_bytes,
}


def _offsets(lengths: Sequence[int]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))]).astype(np.int64)


def _samples(first: int, count: int | None) -> str:
    return f"samples {first}–{first + count - 1}" if count else f"sample {first}"


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
