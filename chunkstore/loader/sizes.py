"""How many bytes samples and batches hold: what prefetching is measured by.

Samples of fixed shape are known beforehand; of ragged ones the spans tell, which are small, so they are read first. Only the
fields that a loader reads count. Never decides what is held: `prefetch.py`, after it, does.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from chunkstore.format.schema import Array, Ragged, Schema, has_shapes, stored_dtype
from chunkstore.plan.reads import Intervals, Ints, total_rows
from chunkstore.reading.dataset import Dataset
from chunkstore.reading.present import Batch, RaggedBatch

_OFFSET_NBYTES = 8

SampleSizes = Callable[[Intervals], Ints]


def mean_sample_nbytes(dataset: Dataset) -> int:
    """Bytes of a sample of the selected fields in memory, on average over the version; at least 1."""
    known, ragged = _known_nbytes(dataset.schema)
    for name, itemsize in ragged.items():
        known += int(itemsize * (dataset.statistics[name]["lengths"].mean or 0))
    return max(1, known)


def sample_sizes(dataset: Dataset) -> SampleSizes | None:
    """A function from intervals of positions to the bytes of each of their samples; None where all have the mean's.

    The function reads from the store, and fails as reading does.
    """
    known, itemsizes = _known_nbytes(dataset.schema)
    if not itemsizes:
        return None

    def measure(intervals: Intervals) -> Ints:
        nbytes = np.full(total_rows(intervals), known, np.int64)
        for name, itemsize in itemsizes.items():
            nbytes += dataset.read_lengths(name, intervals) * itemsize
        return nbytes

    return measure


def batch_nbytes(batch: Batch) -> int:
    """Bytes that a batch holds, on whatever device."""
    return sum(_value_nbytes(value) for value in batch.values())


def _known_nbytes(schema: Schema) -> tuple[int, dict[str, int]]:
    """Bytes of a sample that are the same for all, and the size of a value of each field whose samples differ."""
    known, itemsizes = 0, {}
    for name, field in schema.items():
        itemsize = stored_dtype(field).itemsize
        if isinstance(field, Array):
            known += itemsize * int(np.prod(field.shape, dtype=np.int64))
            continue
        known += _OFFSET_NBYTES
        if isinstance(field, Ragged) and has_shapes(field):
            known += _OFFSET_NBYTES * len(field.shape)
        itemsizes[name] = itemsize
    return known, itemsizes


def _value_nbytes(value: Any) -> int:
    if isinstance(value, RaggedBatch):
        return _value_nbytes(value.values) + _value_nbytes(value.offsets) + _value_nbytes(value.shapes)
    if isinstance(value, list):
        return sum(len(v) if isinstance(v, (str, bytes)) else _value_nbytes(v) for v in value)
    return 0 if value is None else int(value.nbytes)
