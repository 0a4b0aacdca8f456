"""The sinks of a field: which Zarr arrays hold it, and with which codecs.

A fixed-shape field is one array. A ragged one is a group of values, spans, shapes where samples have more than one dimension,
and crcs where values are stored as they came. Before it: `encode.py` with checked columns; after it: `sinks.py`.

Source: docs/spec/v1.md, "Fields"; docs/decisions/001-chunk-shard-codec.md for what "auto" chooses.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from chunkstore.format.codecs import ChunkCodecs, Compressor
from chunkstore.format.documents import Json
from chunkstore.format.layout import plan_grid
from chunkstore.format.metadata import ArrayMetadata, group_to_json
from chunkstore.format.schema import (
    Array,
    Field,
    Ragged,
    dimension_names,
    field_to_json,
    has_shapes,
    stored_dtype,
)
from chunkstore.format.statistics import Statistics
from chunkstore.format.versions import FieldStatistics, StoredObject
from chunkstore.kernels.columns import Column, RaggedColumn, crc32c_samples
from chunkstore.reading.present import bfloat16_to_float32
from chunkstore.store.interface import Store
from chunkstore.writing.codec_choice import choose_codecs
from chunkstore.writing.sinks import ArraySink, Rows
from chunkstore.writing.workers import Workers

SMALL_FIELD_NBYTES = 64
"""Fields of at most so many bytes a sample use chunks longer than a block, and do not set its length."""

_PLAIN = ChunkCodecs(None, crc32c=False)
_INDEX_CODECS = ChunkCodecs(Compressor("blosc", 5, "zstd", "shuffle", 8), crc32c=True)


class FixedSink:
    """Writes an `Array` field."""

    def __init__(
        self,
        store: Store,
        part: str,
        name: str,
        field: Array,
        workers: Workers,
        *,
        max_chunk_rows: int | None = None,
        measure: bool = True,
    ) -> None:
        self._name, self._field = name, field
        rows = Rows(
            field.shape,
            stored_dtype(field),
            ("sample", *dimension_names(name, field)),
            choose_codecs(field, plain=ChunkCodecs(None, crc32c=True)),
            chunk=_chunk_within(field, max_chunk_rows),
            shard=field.shard,
            measure=_measure(field) if measure else None,
        )
        self._sink = ArraySink(store, f"{part}/{name}", rows, workers)

    @property
    def sinks(self) -> dict[str, ArraySink]:
        """The arrays by path in the part."""
        return {self._name: self._sink}

    @property
    def nbytes(self) -> int:
        """Decoded bytes of the samples so far."""
        return self._sink.nbytes

    def append(self, column: Column) -> None:
        """Take a checked column."""
        assert isinstance(column, np.ndarray)
        self._sink.append(column)

    def finish(self) -> None:
        """Send what is left on its way."""
        self._sink.finish()

    def find_problem(self, num_samples: int) -> str | None:
        """What is wrong with what was written, of `num_samples`; None if nothing. Asked after `Workers.finish`."""
        return self._sink.find_problem(num_samples)

    def statistics(self) -> FieldStatistics:
        """Of the values."""
        return {"values": self._sink.statistics}

    def documents(self) -> dict[str, dict[str, Json]]:
        """The `zarr.json` of every node of the field, by path in the part."""
        return {self._name: _described(self._sink.metadata(), self._field)}


class RaggedSink:
    """Writes a `Ragged`, `Image`, `Text` or `Bytes` field."""

    def __init__(
        self, store: Store, part: str, name: str, field: Field, workers: Workers, *, measure: bool = True
    ) -> None:
        self._name, self._field, self._measures = name, field, measure
        values = Rows(
            (),
            stored_dtype(field),
            (f"{name}_value",),
            choose_codecs(field, plain=_PLAIN),
            chunk=field.chunk if isinstance(field.chunk, int) else None,
            shard=field.shard,
            measure=_measure(field) if measure and isinstance(field, Ragged) else None,
        )
        spans = Rows((2,), np.dtype("<i8"), ("sample", f"{name}_span"), lambda *_: _INDEX_CODECS)
        crc = Rows((), np.dtype("<u4"), ("sample",), lambda *_: ChunkCodecs(None, crc32c=True))
        self._values = ArraySink(store, f"{part}/{name}/values", values, workers)
        self._spans = ArraySink(store, f"{part}/{name}/spans", spans, workers)
        self._crc = ArraySink(store, f"{part}/{name}/crc", crc, workers)
        self._shape = None
        if isinstance(field, Ragged) and has_shapes(field):
            shape = Rows((len(field.shape),), np.dtype("<i8"), ("sample", f"{name}_rank"), lambda *_: _INDEX_CODECS)
            self._shape = ArraySink(store, f"{part}/{name}/shape", shape, workers)
        self._pending_crcs: list[npt.NDArray[np.uint32]] = []
        self._lengths = Statistics()
        self._stop = 0  # of the last span

    @property
    def sinks(self) -> dict[str, ArraySink]:
        """The arrays by path in the part."""
        own = {"values": self._values, "spans": self._spans}
        if self._shape is not None:
            own["shape"] = self._shape
        if self._values.codecs == _PLAIN:
            own["crc"] = self._crc
        return {f"{self._name}/{path}": sink for path, sink in own.items()}

    @property
    def nbytes(self) -> int:
        """Decoded bytes of the samples so far, what finds them included."""
        return self._values.nbytes + self._spans.nbytes + (self._shape.nbytes if self._shape else 0)

    def append(self, column: Column) -> None:
        """Take a checked column."""
        assert isinstance(column, RaggedColumn)
        spans = np.stack([column.offsets[:-1], column.offsets[1:]], axis=1) + self._stop
        self._spans.append(spans)
        self._stop = int(spans[-1, 1]) if len(spans) else self._stop
        if self._shape is not None and column.shapes is not None:
            self._shape.append(column.shapes)
        if self._measures:
            self._lengths = self._lengths.merge(Statistics.of(np.diff(column.offsets)))
        self._append_crcs(column)
        self._values.append(column.values)

    def finish(self) -> None:
        """Send what is left on its way."""
        self._values.finish()
        self._spans.finish()
        if self._shape is not None:
            self._shape.finish()
        if self._values.codecs == _PLAIN:
            self._flush_crcs()
            self._crc.finish()

    def find_problem(self, num_samples: int) -> str | None:
        """What is wrong with what was written, of `num_samples`; None if nothing. Asked after `Workers.finish`."""
        for sink in self.sinks.values():
            num_rows = self._stop if sink is self._values else num_samples
            if (problem := sink.find_problem(num_rows)) is not None:
                return problem
        return None

    def statistics(self) -> FieldStatistics:
        """Of the lengths, and of the values where they are numbers."""
        lengths: FieldStatistics = {"lengths": self._lengths}
        return {"values": self._values.statistics, **lengths} if isinstance(self._field, Ragged) else lengths

    def documents(self) -> dict[str, dict[str, Json]]:
        """The `zarr.json` of every node of the field, by path in the part."""
        group = group_to_json({"chunkstore": {"field": field_to_json(self._field)}})
        return {self._name: group, **{path: sink.metadata().to_json() for path, sink in self.sinks.items()}}

    def _append_crcs(self, column: RaggedColumn) -> None:
        """Samples' crcs are kept back until it is known whether values are stored as they came, and dropped if not."""
        if self._values.codecs not in (None, _PLAIN):
            self._pending_crcs.clear()
            return
        self._pending_crcs.append(crc32c_samples(column.values, column.offsets))
        if self._values.codecs == _PLAIN:
            self._flush_crcs()

    def _flush_crcs(self) -> None:
        for crcs in self._pending_crcs:
            self._crc.append(crcs)
        self._pending_crcs.clear()


FieldSink = FixedSink | RaggedSink


def open_sink(
    store: Store,
    part: str,
    name: str,
    field: Field,
    workers: Workers,
    *,
    max_chunk_rows: int | None = None,
    measure: bool = True,
) -> FieldSink:
    """The sink of a field of any type.

    Args:
        store: Where.
        part: Key of the part.
        name: Of the field.
        field: Its type.
        workers: Threads and memory shared by the sinks of a writer.
        max_chunk_rows: Samples of a block, where that is settled: chunks of fields that matter are no longer.
        measure: Whether to make statistics.
    """
    if isinstance(field, Array):
        return FixedSink(store, part, name, field, workers, max_chunk_rows=max_chunk_rows, measure=measure)
    return RaggedSink(store, part, name, field, workers, measure=measure)


def no_statistics(field: Field) -> FieldStatistics:
    """Statistics of no samples."""
    if isinstance(field, Array):
        return {"values": Statistics()}
    return {"values": Statistics(), "lengths": Statistics()} if isinstance(field, Ragged) else {"lengths": Statistics()}


def stored_objects(sink: FieldSink) -> dict[str, StoredObject]:
    """The shards that a sink has written, by key in the part."""
    return {f"{path}/{key}": stored for path, array in sink.sinks.items() for key, stored in array.objects.items()}


def _chunk_within(field: Array, max_rows: int | None) -> int | tuple[int, ...] | None:
    """The chunk to insist on, so that blocks of `max_rows` samples hold whole chunks; None where it is free."""
    itemsize = stored_dtype(field).itemsize
    if field.chunk is not None or max_rows is None or math.prod(field.shape) * itemsize <= SMALL_FIELD_NBYTES:
        return field.chunk
    planned = plan_grid(field.shape, itemsize, shard=field.shard).chunk[0]
    return max_rows if planned > max_rows else None


def _measure(field: Array | Ragged) -> Callable[[npt.NDArray[Any]], Statistics]:
    if field.dtype == "bfloat16":
        return lambda rows: Statistics.of(bfloat16_to_float32(rows))
    return Statistics.of


def _described(metadata: ArrayMetadata, field: Field) -> dict[str, Json]:
    return {**metadata.to_json(), "attributes": {"chunkstore": {"field": field_to_json(field)}}}
