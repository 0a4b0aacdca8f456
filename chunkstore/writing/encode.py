"""From what users give to columns of stored values.

`encode_value` takes the value of a field for one sample, checks it against the field's type and gives it as stored;
`encode_column` does so for several samples, `join_values` makes a column (`kernels/columns.py`) of values. What does not fit
is a `SampleError` naming field and sample. Nothing is converted that would change a number, but for one thing: Python floats
are rounded to the field's float16 or float32, as Python itself has only float64. Before it: `Writer.write`; after it:
`fields.py`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from chunkstore.errors import SampleError
from chunkstore.format.schema import Array, Bytes, Field, Image, Ragged, Text, has_shapes, stored_dtype
from chunkstore.kernels.columns import Column, RaggedColumn
from chunkstore.kernels.images import check_image, encode_image
from chunkstore.reading.present import RaggedBatch

Value = npt.NDArray[Any] | bytes
"""One sample's value as it is stored: an array of the field's stored dtype, or the bytes of `Image`, `Text` and `Bytes`."""

_TAKEN: dict[str, tuple[type, ...]] = {"b": (bool,), "i": (int,), "u": (int,), "f": (int, float)}
_NUMBERS = frozenset({int, float, bool})
_MAX_NESTING = 32


def encode_value(name: str, field: Field, value: Any, index: int) -> Value:
    """Check and convert one sample's value; the result may share memory with what was given.

    Arrays, NumPy scalars and tensors go by their dtype, also within lists: float64 is refused for float32. Python integers
    must be exact, in float fields too; Python floats are rounded to the field's dtype (and refused for bfloat16 if inexact).

    Args:
        name: The field, for errors.
        field: Its type.
        value: What the user gave.
        index: Number of the sample in what is being written, for errors.

    Raises:
        SampleError: it does not fit the field's type.
    """
    try:
        if isinstance(field, Array):
            return _fixed(field, value)
        return _ragged(field, value) if isinstance(field, Ragged) else _BYTES_OF[type(field)](field, value)
    except (TypeError, ValueError, OverflowError) as error:
        raise SampleError(f"field {name!r}, sample {index}: {error}") from error


def join_values(field: Field, values: Sequence[Value]) -> Column:
    """The column of encoded values; a single one is not copied."""
    arrays = [value for value in values if isinstance(value, np.ndarray)]
    assert len(arrays) == (len(values) if isinstance(field, Array | Ragged) else 0)
    if isinstance(field, Array):
        return np.stack(arrays) if len(arrays) != 1 else arrays[0][None]
    if isinstance(field, Ragged):
        flat = [array.reshape(-1) for array in arrays]
        joined = (
            np.ascontiguousarray(flat[0])
            if len(flat) == 1
            else np.concatenate([np.empty(0, stored_dtype(field)), *flat])
        )
        shapes = (
            np.array([a.shape for a in arrays], np.int64).reshape(-1, len(field.shape)) if has_shapes(field) else None
        )
        return RaggedColumn(joined, _offsets([a.size for a in arrays]), shapes)
    encoded = [value for value in values if isinstance(value, bytes)]
    return RaggedColumn(np.frombuffer(b"".join(encoded), np.uint8), _offsets([len(data) for data in encoded]))


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
    if isinstance(values, str | bytes | Mapping | set | frozenset) or not hasattr(values, "__len__"):
        raise SampleError(
            f"field {name!r}, sample {first}: a sequence with one value a sample is needed, not {_kind(values)}"
        )
    if isinstance(values, RaggedBatch):
        return _ragged_column(name, field, values, first)
    if isinstance(field, Array) and (column := _whole_column(name, field, values, first)) is not None:
        return column
    encoded = [encode_value(name, field, value, first + i) for i, value in enumerate(values)]
    if len(encoded) != len(values):
        raise SampleError(
            f"field {name!r}: {_kind(values)} says it has {len(values)} samples, and gives {len(encoded)}"
        )
    if not encoded and isinstance(field, Array):
        return np.empty((0, *field.shape), stored_dtype(field))
    return join_values(field, encoded)


def column_length(values: Any) -> int | None:
    """How many samples a column given by a user has; None where it has no length."""
    try:
        return len(values)
    except (TypeError, ValueError):  # ValueError: the offsets of a `RaggedBatch` are empty
        return None


def _whole_column(name: str, field: Array, values: Any, first: int) -> npt.NDArray[Any] | None:
    """The column converted at once: arrays, tensors, and sequences of Python numbers; None where samples go one by one."""
    is_array = isinstance(values, np.ndarray) or hasattr(values, "detach")
    if not is_array and not _has_dtype(values) and any(_has_dtype(t) for t in set(map(type, values))):
        return None
    try:
        array = _numbers(field, values)
    except (TypeError, ValueError, OverflowError):
        if not is_array:
            return None  # one by one, the sample that does not fit is found
        _numbers_or_fail(name, field, values, first)
    if array.shape[1:] != field.shape or array.ndim == 0:
        if not is_array:
            return None
        where = f"field {name!r}, {_samples(first, column_length(array))}"
        raise SampleError(f"{where}: shape {array.shape[1:]} a sample, the schema says {field.shape}")
    return array


def _ragged_column(name: str, field: Field, batch: RaggedBatch, first: int) -> RaggedColumn:
    """The column of a `RaggedBatch`, whose parts are the user's: sliced only once they are known to agree."""
    try:
        if not isinstance(field, Ragged):
            raise ValueError(f"a RaggedBatch where the schema says {field!r}; give list(batch)")
        offsets = _batch_integers("offsets", batch.offsets, 1)
        values = _numbers(field, batch.values)
        bounds = _checked_bounds(offsets, values.shape[0] if values.ndim else 0, first)
        shapes = _batch_shapes(field, values, np.diff(bounds), batch.shapes)
    except (TypeError, ValueError, OverflowError) as error:
        raise SampleError(f"field {name!r}, {_samples(first, column_length(batch))}: {error}") from error
    width = math.prod(values.shape[1:])
    kept = np.ascontiguousarray(values[int(bounds[0]) : int(bounds[-1])]).reshape(-1)
    return RaggedColumn(kept, (bounds - bounds[0]) * width, shapes)


def _checked_bounds(offsets: npt.NDArray[Any], num_values: int, first: int) -> npt.NDArray[np.int64]:
    if len(offsets) == 0:
        raise ValueError("offsets of a RaggedBatch are empty; they have one more entry than there are samples")
    if offsets[0] < 0 or int(offsets[-1]) > num_values:
        raise ValueError(f"offsets go from {offsets[0]} to {offsets[-1]}, and there are {num_values} values")
    if len(falling := np.flatnonzero(offsets[1:] < offsets[:-1])):  # no difference is taken: unsigned ones would wrap
        i = int(falling[0])
        raise ValueError(f"offsets must ascend; sample {first + i} goes from {offsets[i]} to {offsets[i + 1]}")
    return offsets.astype(np.int64)


def _batch_shapes(
    field: Ragged, values: npt.NDArray[Any], lengths: npt.NDArray[np.int64], given: Any
) -> npt.NDArray[np.int64] | None:
    """The shapes to be stored with a batch's samples, once values, lengths and shapes are known to agree."""
    if given is None:
        fixed = field.shape[1:]
        if None in fixed or field.shape[0] is not None:
            raise ValueError(f"samples of shape {field.shape} need the shapes of their RaggedBatch")
        if values.shape[1:] != fixed or values.ndim == 0:
            raise ValueError(f"values of shape {values.shape}, the schema says {field.shape}")
        rows = [lengths, *(np.full(len(lengths), n) for n in fixed)]
        return np.stack(rows, axis=1).astype(np.int64) if fixed else None
    shapes = _batch_integers("shapes", given, 2)
    if values.ndim != 1 or shapes.shape != (len(lengths), len(field.shape)):
        raise ValueError(
            f"values of shape {values.shape} with shapes of {shapes.shape}; 1-D values and shapes of"
            f" {(len(lengths), len(field.shape))} are needed"
        )
    # In float64 nothing wraps, and products that equal a length are exact.
    fits = (shapes >= 0).all(axis=1) & (np.prod(shapes.astype(np.float64), axis=1) == lengths)
    for axis, n in enumerate(field.shape):
        fits &= n is None or shapes[:, axis] == n
    if not fits.all():
        i = int(np.flatnonzero(~fits)[0])
        raise ValueError(
            f"shape {tuple(shapes[i].tolist())} for {lengths[i]} values (entry {i}), the schema says {field.shape}"
        )
    return shapes.astype(np.int64) if len(field.shape) > 1 else None


def _batch_integers(what: str, given: Any, rank: int) -> npt.NDArray[Any]:
    _refuse_masked(given)
    array = np.asarray(_from_torch(given) if hasattr(given, "detach") else given)
    if array.dtype.kind not in "iu" or array.ndim != rank:
        if array.size == 0 and array.ndim == rank and not _has_dtype(given):  # [], which has no dtype
            return array.astype(np.int64)
        raise ValueError(
            f"{what} of a RaggedBatch are integers in {rank} dimension(s), not {array.dtype} of shape {array.shape}"
        )
    return array


def _numbers_or_fail(name: str, field: Array | Ragged, values: Any, first: int) -> npt.NDArray[Any]:
    try:
        return _numbers(field, values)
    except (TypeError, ValueError, OverflowError) as error:
        raise SampleError(f"field {name!r}, {_samples(first, column_length(values))}: {error}") from error


def _fixed(field: Array, value: Any) -> npt.NDArray[Any]:
    array = _numbers(field, value)
    if array.shape != field.shape:
        raise ValueError(f"shape {array.shape}, the schema says {field.shape}")
    return array


def _ragged(field: Ragged, value: Any) -> npt.NDArray[Any]:
    array = _numbers(field, value)
    if array.size == 0 and array.ndim < len(field.shape):  # [] for a sample of (None, 3)
        array = array.reshape([n or 0 for n in field.shape])
    fits = array.ndim == len(field.shape) and all(
        n is None or n == m for n, m in zip(field.shape, array.shape, strict=True)
    )
    if not fits:
        raise ValueError(f"shape {array.shape}, the schema says {field.shape}")
    return array


def _numbers(field: Array | Ragged, value: Any, depth: int = 0) -> npt.NDArray[Any]:
    """The value as an array of the stored dtype, or ValueError where that would change a number."""
    if type(value) in _NUMBERS:
        return _from_python(field, value, {type(value)})
    if hasattr(value, "detach"):  # a torch tensor, without importing torch
        value = _from_torch(value)
    if _has_dtype(value) or not isinstance(value, Sequence) or isinstance(value, str | bytes | bytearray | memoryview):
        return _from_array(field, value)
    if depth > _MAX_NESTING:
        raise ValueError(f"lists nested more than {_MAX_NESTING} deep")
    types = _types_in(value)
    if all(issubclass(t, int | float) and not issubclass(t, np.generic) for t in types):
        return _from_python(field, value, types)
    if len(types) == 1 and issubclass(next(iter(types)), np.generic):
        return _from_array(field, np.asarray(value))
    # One by one: NumPy would join them under a dtype that none of them has, and forget masks.
    return np.array([_numbers(field, inner, depth + 1) for inner in value])


def _types_in(value: Sequence[Any], depth: int = 0) -> set[type]:
    """The types of what lists and tuples hold, at any depth."""
    types = set(map(type, value))
    if types <= _NUMBERS:
        return types
    if nested := {t for t in types if issubclass(t, list | tuple)}:
        types -= nested
        if depth < _MAX_NESTING:
            types = types.union(*(_types_in(inner, depth + 1) for inner in value if isinstance(inner, list | tuple)))
    return types


def _has_dtype(value: Any) -> bool:
    """Whether a value says itself what dtype it is of, as arrays, NumPy scalars and tensors do."""
    return hasattr(value, "dtype")


def _refuse_masked(value: Any) -> None:
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError("an element is masked, and masks are not stored; fill or drop masked values first")


def _from_array(field: Array | Ragged, value: Any) -> npt.NDArray[Any]:
    """Arrays, NumPy scalars and buffers, by dtype: only what every number of their dtype survives."""
    _refuse_masked(value)
    array, dtype = np.asarray(value), stored_dtype(field)
    if array.dtype.kind in "OSU" and not _has_dtype(value):
        raise ValueError(f"{_kind(value)} where the schema says {field.dtype}")
    if field.dtype == "bfloat16":
        if array.dtype.name == "bfloat16":
            return array.view(np.uint16).astype("<u2", copy=False)
        if array.size and array.dtype != np.float32:
            raise ValueError(
                f"dtype {array.dtype}, the schema says bfloat16; give torch.bfloat16, ml_dtypes.bfloat16 or float32"
            )
        return _bfloat16_bits(array)
    same_kind = array.dtype.kind == dtype.kind or (array.dtype.kind, dtype.kind) == ("u", "i")
    if not (same_kind and np.can_cast(array.dtype, dtype, "safe")):
        raise ValueError(f"dtype {array.dtype}, the schema says {field.dtype}; convert it first")
    return array.astype(dtype, copy=False)


def _from_python(field: Array | Ragged, value: Any, types: set[type]) -> npt.NDArray[Any]:
    """Python numbers and lists of them, by value: integers must be exact, floats are rounded as Python rounds them."""
    dtype = np.dtype("<f4") if field.dtype == "bfloat16" else stored_dtype(field)
    taken = _TAKEN[dtype.kind]
    for t in types:
        if not issubclass(t, taken) or (issubclass(t, bool) and dtype.kind != "b"):
            raise ValueError(f"{t.__qualname__} where the schema says {field.dtype}")
    array = np.asarray(value)
    if array.size == 0:
        return array.astype(stored_dtype(field))
    if dtype.kind != "f":
        return array if array.dtype == dtype else _integers(field, value, array, dtype)
    with np.errstate(over="ignore"):
        numbers = array.astype(dtype)
    if array.dtype.kind == "f" and (np.isinf(numbers) & np.isfinite(array)).any():
        raise ValueError(f"a number of {array.min()}…{array.max()} is beyond {field.dtype}")
    if types != {float}:
        _check_integers_survive(field, value, array, numbers)
    return _bfloat16_bits(array if array.dtype.kind == "f" else numbers) if field.dtype == "bfloat16" else numbers


def _integers(field: Array | Ragged, value: Any, array: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    if array.dtype.kind in "fO":  # where some are beyond int64, NumPy looks for a wider type
        array = np.asarray(value, object)
    limits = np.iinfo(dtype)
    if int(array.min()) < limits.min or int(array.max()) > limits.max:
        raise ValueError(f"{array.min()}…{array.max()} does not fit {field.dtype}")
    return array.astype(dtype)


def _check_integers_survive(
    field: Array | Ragged, value: Any, array: npt.NDArray[Any], numbers: npt.NDArray[Any]
) -> None:
    """Refuse Python integers that floats round; below 2^digits none is."""
    limit = 1 << np.finfo(numbers.dtype).nmant + 1
    if array.dtype.kind != "O" and bool(((array > -limit) & (array < limit)).all()):
        return
    for given, stored in zip(np.asarray(value, object).flat, numbers.flat, strict=True):
        if isinstance(given, int) and not np.isfinite(stored):
            raise ValueError(f"{given} is beyond {field.dtype}")
        if isinstance(given, int) and int(stored) != given:
            raise ValueError(f"{given} is a number that {field.dtype} does not hold exactly; give a float to round it")


def _bfloat16_bits(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The bits of float32 or float64 numbers that bfloat16 holds exactly."""
    with np.errstate(over="ignore"):
        floats = array.astype("<f4")
    bits = floats.view("<u4")
    if (bits & 0xFFFF).any() or (floats.astype(array.dtype) != array)[~np.isnan(floats)].any():
        raise ValueError("a number that bfloat16 does not hold exactly; round to bfloat16 first")
    return np.asarray(bits >> 16, "<u2")


def _from_torch(tensor: Any) -> Any:
    try:
        tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
        return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    except RuntimeError as error:  # a meta tensor has no numbers
        raise ValueError(
            f"a tensor on device {tensor.device} of layout {tensor.layout} has no array: {error}"
        ) from error


def _text_bytes(_: Any, value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"{_kind(value)} where the schema says text")
    return value.encode()  # a lone surrogate is a UnicodeEncodeError, which is a ValueError


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
    _refuse_masked(value)
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
    return f"samples {first}–{first + count - 1}" if count and count > 1 else f"sample {first}"


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
