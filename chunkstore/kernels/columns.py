"""Columns: the samples of one field in memory, and their gathering into batches.

A fixed-shape field is an ndarray (samples, *shape); a ragged one is a `RaggedColumn`. Gathering picks samples out of several
columns into fresh memory without the GIL; it never looks at what values mean. `store/` fills columns, `loader/` gathers from
them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chunkstore import _native

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RaggedColumn:
    """Samples of differing length, one after another.

    Attributes:
        values: 1-D, in the field's stored dtype.
        offsets: (samples + 1,): sample i is values[offsets[i]:offsets[i + 1]].
        shapes: (samples, rank) where samples have more than one dimension, else None.
    """

    values: npt.NDArray[Any]
    offsets: Ints
    shapes: Ints | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1


Column = npt.NDArray[Any] | RaggedColumn


def column_nbytes(column: Column) -> int:
    """Bytes that a column holds."""
    if isinstance(column, RaggedColumn):
        return column.values.nbytes + column.offsets.nbytes + (0 if column.shapes is None else column.shapes.nbytes)
    return column.nbytes


def gather(sources: Sequence[Column], source: npt.NDArray[np.int32], row: Ints) -> Column:
    """Sample i of the result is sample `row[i]` of `sources[source[i]]`; all sources are of one field."""
    if isinstance(sources[0], RaggedColumn):
        ragged = [s for s in sources if isinstance(s, RaggedColumn)]
        return _gather_ragged(ragged, source, row)
    return _gathered([s for s in sources if isinstance(s, np.ndarray)], source, row)


def take(column: Column, rows: Ints) -> Column:
    """The samples `rows` of one column, in that order."""
    return gather([column], np.zeros(len(rows), np.int32), rows)


def crc32c_samples(values: npt.NDArray[Any], offsets: Ints) -> npt.NDArray[np.uint32]:
    """The crc32c of the bytes of each sample values[offsets[i]:offsets[i + 1]]."""
    bounds = offsets * values.itemsize
    crcs = np.empty(len(offsets) - 1, np.uint32)
    _native.crc32c_spans(crcs, values, bounds[:-1], bounds[1:])
    return crcs


def _gather_ragged(columns: Sequence[RaggedColumn], source: npt.NDArray[np.int32], row: Ints) -> RaggedColumn:
    starts = _gathered([c.offsets[:-1] for c in columns], source, row)
    stops = _gathered([c.offsets[1:] for c in columns], source, row)
    offsets = np.zeros(len(row) + 1, np.int64)
    np.cumsum(stops - starts, out=offsets[1:])
    values = np.empty(int(offsets[-1]), columns[0].values.dtype)
    if values.nbytes:
        itemsize = values.itemsize
        _native.gather_spans(values, [c.values for c in columns], source, starts * itemsize, stops * itemsize)
    shapes = [c.shapes for c in columns if c.shapes is not None]
    return RaggedColumn(values, offsets, _gathered(shapes, source, row) if shapes else None)


def _gathered(arrays: Sequence[npt.NDArray[Any]], source: npt.NDArray[np.int32], row: Ints) -> npt.NDArray[Any]:
    out = np.empty((len(row), *arrays[0].shape[1:]), arrays[0].dtype)
    assert all(a.dtype == out.dtype and a.shape[1:] == out.shape[1:] for a in arrays)  # bytes are copied, not numbers
    if out.nbytes:
        _native.gather_rows(out, [np.ascontiguousarray(a) for a in arrays], source, row)
    return out
