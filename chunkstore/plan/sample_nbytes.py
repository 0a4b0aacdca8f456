"""How many bytes a sample holds in memory, from the schema and the statistics alone.

Samples of fixed shape are known beforehand; of others the mean length tells. Pure. Before it a view's schema; after it
`reading/dataset.py`, which iterates in pieces of some bytes, and `loader/sizes.py`, which says what prefetching holds.
"""

from collections.abc import Mapping

import numpy as np

from chunkstore.format.schema import Array, Ragged, Schema, has_shapes, stored_dtype
from chunkstore.format.versions import FieldStatistics

_OFFSET_NBYTES = 8


def mean_sample_nbytes(schema: Schema, statistics: Mapping[str, FieldStatistics]) -> int:
    """Bytes of a sample of a schema's fields, on average over the version; at least 1.

    Args:
        schema: Of the fields that are shown, in the shapes that slices leave.
        statistics: Of the version, by field; only those of fields whose samples differ are looked at.
    """
    known, ragged = known_nbytes(schema)
    for name, itemsize in ragged.items():
        known += int(itemsize * (statistics[name]["lengths"].mean or 0))
    return max(1, known)


def known_nbytes(schema: Schema) -> tuple[int, dict[str, int]]:
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
