"""How many bytes samples and batches hold: what prefetching is measured by.

Samples of fixed shape are known beforehand; of ragged ones the spans tell, which are small, so they are read first. Only the
fields that a loader reads count. Never decides what is held: `prefetch.py`, after it, does. The mean has its owner in
`plan/sample_nbytes.py`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from chunkstore.plan.reads import Intervals, Ints, total_rows
from chunkstore.plan.sample_nbytes import known_nbytes
from chunkstore.reading.dataset import Dataset
from chunkstore.reading.present import Batch, RaggedBatch

SampleSizes = Callable[[Intervals], Ints]


def sample_sizes(dataset: Dataset) -> SampleSizes | None:
    """A function from intervals of positions to the bytes of each of their samples; None where all have the mean's.

    The function reads from the store, and fails as reading does.
    """
    known, itemsizes = known_nbytes(dataset.schema)
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


def _value_nbytes(value: Any) -> int:
    if isinstance(value, RaggedBatch):
        return _value_nbytes(value.values) + _value_nbytes(value.offsets) + _value_nbytes(value.shapes)
    if isinstance(value, list):
        return sum(len(v) if isinstance(v, (str, bytes)) else _value_nbytes(v) for v in value)
    return 0 if value is None else int(value.nbytes)
