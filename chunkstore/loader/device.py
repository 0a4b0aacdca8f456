"""Batches as torch tensors: the one file of the loader that knows torch, which is imported when a device is asked for.

Arrays become tensors over the same memory, then go to the device; lists and strings stay as they are.
"""

from typing import Any

import numpy as np

from chunkstore.format.schema import Array, Field, Ragged, Text
from chunkstore.kernels.columns import Column, RaggedColumn
from chunkstore.reading.present import RaggedBatch, present_batch, ragged_batch


def torch_column(name: str, field: Field, column: Column, device: str, *, decode: bool) -> Any:
    """A column as torch batches hold it; `positions` gives what its samples are called, asked for only in an error.

    Returns:
        `Array`: tensor (samples, *shape), torch.bfloat16 where the field is. `Ragged`: `RaggedBatch` of tensors. `Text` and
        `Bytes`: lists. `Image`: list of uint8 tensors (height, width, channels), or of bytes if not `decode`.

    Raises:
        CorruptSample: text that is no UTF-8, an image that does not decode.
    """
    if isinstance(field, Array):
        assert isinstance(column, np.ndarray)
        return _tensor(column, field, device)
    if isinstance(field, Ragged):
        assert isinstance(column, RaggedColumn)
        batch = ragged_batch(field, _tensor(column.values, field, device), column)
        shapes = None if batch.shapes is None else as_tensor(batch.shapes, device)
        return RaggedBatch(batch.values, as_tensor(batch.offsets, device), shapes)
    values = present_batch(name, field, column, decode=decode)
    if isinstance(field, Text) or not all(isinstance(value, np.ndarray) for value in values):
        return values
    return [as_tensor(value, device) for value in values]


def checked_device(device: Any) -> str:
    """The name of a device that is there. Imports torch now, rather than in a thread that a fork could find in the middle.

    Raises:
        ValueError: torch knows no such device, or this machine has none.
    """
    import torch

    try:
        checked = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={device!r}: torch knows no such device; take None, 'cpu' or 'cuda'") from error
    if checked.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (checked.index or 0) >= count:
            raise ValueError(f"device={device!r}: torch finds {count} CUDA devices here")
    return str(checked)


def device_here(device: str) -> str:
    """With the index of the calling thread's current CUDA device, where none is named: other threads have another."""
    import torch

    return f"cuda:{torch.cuda.current_device()}" if device == "cuda" else device


def as_tensor(array: Any, device: str) -> Any:
    """The array as a tensor on a device; on the CPU both share memory."""
    import torch

    tensor = torch.from_numpy(array)
    return tensor if device.startswith("cpu") else tensor.to(device, non_blocking=True)


def _tensor(array: Any, field: Array | Ragged, device: str) -> Any:
    if field.dtype != "bfloat16":
        return as_tensor(array, device)
    import torch

    return as_tensor(array, device).view(torch.bfloat16)
