"""Writing a part: columns in, the shards and documents of one part of a fragment out.

A `PartWriter` streams columns through the sinks of their fields and at the end writes the part's documents, the list of its
objects last. It checks that everything arrived, but no value: columns come checked. It never commits, so what it wrote is
invisible until somebody names it in a version. Before it: `writer.py`, `fragments.py`, `add_fields.py` and `compact.py`; after
it: `fields.py`.

Source: docs/spec/v1.md, "A fragment".
"""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import replace

from chunkstore._native import crc32
from chunkstore.errors import StoreError
from chunkstore.format.documents import Json, seal
from chunkstore.format.layout import plan_block_rows
from chunkstore.format.metadata import group_to_json, zarr_json
from chunkstore.format.schema import Schema
from chunkstore.format.versions import (
    FORMAT,
    OBJECTS_NAME,
    FieldStatistics,
    Fragment,
    Part,
    StoredObject,
    objects_to_json,
)
from chunkstore.history.commit import new_id
from chunkstore.kernels.columns import Column
from chunkstore.store.interface import Store
from chunkstore.writing.fields import SMALL_FIELD_NBYTES, open_sink, stored_objects
from chunkstore.writing.workers import Workers

FIRST_PART = "0"


class PartWriter:
    """Writes one part: that of a new fragment, or one more of a fragment that stands.

    Not safe for threads: whoever shares it takes turns.

    Args:
        store: Where.
        schema: The fields of the part.
        of: The fragment whose samples get these fields; a new fragment if None.
        num_threads: Threads that encode; the number of cores if None.
        measure: Whether to make statistics.
    """

    def __init__(
        self,
        store: Store,
        schema: Schema,
        *,
        of: Fragment | None = None,
        num_threads: int | None = None,
        measure: bool = True,
    ) -> None:
        self._store, self._schema, self._of = store, schema, of
        self._id = of.id if of else new_id()
        self._path = f"fragments/{self._id}/{new_id() if of else FIRST_PART}"
        self._workers = Workers(num_threads or os.cpu_count() or 1, num_arrays=2 * len(schema))
        max_chunk_rows = of.block_rows if of else None
        self._sinks = {
            name: open_sink(
                store, self._path, name, field, self._workers, max_chunk_rows=max_chunk_rows, measure=measure
            )
            for name, field in schema.items()
        }
        self._ended: set[str] = set()

    def append(self, columns: Mapping[str, Column]) -> None:
        """Take columns of some fields; in the end all fields must have as many samples.

        Raises:
            StoreError: the store failed, now or on what came before.
        """
        for name, column in columns.items():
            self._sinks[name].append(column)

    def end_field(self, name: str) -> None:
        """Send what is left of a field on its way: nothing more of it will come."""
        if name not in self._ended:
            self._ended.add(name)
            self._sinks[name].finish()

    def finish(self, num_samples: int) -> Fragment:
        """Write what is left and the documents, once all of `num_samples` samples, at least one, were appended.

        Returns:
            The fragment, `first` being 0 where it is new; where it stood already, the same with one part more.

        Raises:
            StoreError: the store failed, or something of the samples is missing.
        """
        for name in self._sinks:
            self.end_field(name)
        self._workers.finish()
        self._check_complete(num_samples)
        part = self._write_documents(num_samples)
        if self._of is not None:
            return replace(self._of, parts=(*self._of.parts, part))
        return Fragment(self._id, 0, num_samples, self._block_rows(num_samples, part.nbytes), (part,))

    def statistics(self) -> dict[str, FieldStatistics]:
        """Of the samples, by field; complete after `finish`."""
        return {name: sink.statistics() for name, sink in self._sinks.items()}

    def abort(self) -> None:
        """End uploads; whatever fails here is less than what the user is about to hear of."""
        with contextlib.suppress(Exception):
            self._workers.cancel()
        for sink in self._sinks.values():
            for array in sink.sinks.values():
                with contextlib.suppress(Exception):  # an unfinished upload is invisible
                    array.abort()

    def _write_documents(self, num_samples: int) -> Part:
        objects: dict[str, StoredObject] = {}
        members: dict[str, dict[str, Json]] = {}
        for sink in self._sinks.values():
            objects.update(stored_objects(sink))
            members.update(sink.documents())
        for path, document in members.items():
            objects[f"{path}/zarr.json"] = self._write(f"{self._path}/{path}/zarr.json", zarr_json(document))
        attributes: dict[str, Json] = {"format": FORMAT, "samples": num_samples}
        group = zarr_json(group_to_json({"chunkstore": attributes}, members))
        objects["zarr.json"] = self._write(f"{self._path}/zarr.json", group)
        if self._of is None:
            self._write(f"fragments/{self._id}/zarr.json", zarr_json(group_to_json({})))
        listed = self._write(f"{self._path}/{OBJECTS_NAME}", seal(objects_to_json(objects)))
        return Part(
            path=self._path,
            fields=tuple(self._schema),
            nbytes=sum(sink.nbytes for sink in self._sinks.values()),
            stored_nbytes=sum(stored.nbytes for stored in objects.values()) + listed.nbytes,
            objects_nbytes=listed.nbytes,
            objects_crc32=listed.crc32,
        )

    def _block_rows(self, num_samples: int, nbytes: int) -> int:
        """Blocks hold whole chunks of the fields that matter, so that no chunk is read for two blocks."""
        insisted = [field.block_nbytes for field in self._schema.values() if field.block_nbytes]
        rows = plan_block_rows(num_samples, nbytes, block_nbytes=min(insisted, default=None))
        large = [
            array.metadata().chunk_shape[0]
            for name, sink in self._sinks.items()
            for path, array in sink.sinks.items()
            if path == name and array.nbytes > SMALL_FIELD_NBYTES * num_samples
        ]
        return max(rows, *large) if large else rows

    def _write(self, key: str, data: bytes) -> StoredObject:
        self._store.write(key, data)
        return StoredObject(len(data), crc32(data))

    def _check_complete(self, num_samples: int) -> None:
        """Refuse to give out what would not be read back: the last look before it is visible to all."""
        for name, sink in self._sinks.items():
            if (problem := sink.find_problem(num_samples)) is not None:
                raise StoreError(
                    f"{self._store.url}: field {name!r} does not hold the {num_samples} samples written: {problem}."
                    " Nothing was committed. This is a fault of chunkstore: please report it."
                )
