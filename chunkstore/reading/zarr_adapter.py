"""zarr-python over a store of ours, read-only: one way to credentials and URLs, and the decoding of what we do not decode.

The only file that imports zarr-python, and itself imported where it is used. Never writes. Before it: `plain_zarr_array.py` and
`field_view.py`; after it: the store.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    SuffixByteRequest,
)
from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import StorePath

from chunkstore.errors import InvalidDataset, MissingObject, ReadOnlyStore, StoreError, UnsupportedFormat
from chunkstore.reading.plain_zarr_metadata import PlainArray
from chunkstore.store.interface import Store, check_key

MAX_DOCUMENT_NBYTES = 64 << 20
_DOCUMENTS = {"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}


class ReadOnlyZarrStore(ZarrStore):
    """A store of ours as zarr-python's `zarr.abc.store.Store`.

    Args:
        store: Where the objects lie.
        max_nbytes: Of an object that is no document; a larger one is refused.
        is_complete: Whether an absent object is damage, and not a fill value.
        is_blosc: Whether chunks end up as Blosc frames, of which numcodecs does not check that they are all there.
    """

    def __init__(
        self,
        store: Store,
        *,
        max_nbytes: int | None = None,
        is_complete: bool = False,
        is_blosc: bool = False,
    ) -> None:
        super().__init__(read_only=True)
        self._store = store
        self._max_nbytes, self._is_complete, self._is_blosc = max_nbytes, is_complete, is_blosc

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReadOnlyZarrStore) and self._store.url == other._store.url

    def __hash__(self) -> int:
        return hash(self._store.url)

    def __str__(self) -> str:
        return self._store.url

    def __repr__(self) -> str:
        return f"ReadOnlyZarrStore({self._store.url!r})"

    def with_read_only(self, read_only: bool = False) -> "ReadOnlyZarrStore":
        """The same store; there is no other than one for reading."""
        if not read_only:
            raise ReadOnlyStore(
                f"{self._store.url}: read through chunkstore, which writes datasets by its own functions"
            )
        return self

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Bytes of an object, None where it is absent."""
        data = await asyncio.to_thread(self._read, key, byte_range)
        is_chunk = not isinstance(byte_range, SuffixByteRequest) and key.rsplit("/", 1)[-1] not in _DOCUMENTS
        if data is not None and is_chunk and self._is_blosc:
            _check_frame(data)
        return None if data is None else prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Bytes of several objects."""
        return list(await asyncio.gather(*(self.get(key, prototype, byte_range) for key, byte_range in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        return await self.get(key, zarr.core.buffer.default_buffer_prototype()) is not None

    @property
    def supports_writes(self) -> bool:
        """No."""
        return False

    @property
    def supports_deletes(self) -> bool:
        """No."""
        return False

    @property
    def supports_listing(self) -> bool:
        """Yes, where the store does."""
        return True

    async def set(self, key: str, value: Buffer) -> None:
        """Refused."""
        self.with_read_only()

    async def delete(self, key: str) -> None:
        """Refused."""
        self.with_read_only()

    async def list(self) -> AsyncIterator[str]:
        """Keys of all objects."""
        for key in await asyncio.to_thread(self._list, ""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Keys of the objects in a folder and below."""
        for key in await asyncio.to_thread(self._list, prefix):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names in a folder."""
        folder = f"{prefix.rstrip('/')}/" if prefix else ""
        keys = await asyncio.to_thread(self._list, prefix)
        for name in {key.removeprefix(folder).split("/")[0] for key in keys}:
            yield name

    def _list(self, prefix: str) -> tuple[str, ...]:
        return tuple(item[0] for item in self._store.list(prefix))

    def _read(self, key: str, byte_range: ByteRequest | None) -> bytes | None:
        try:
            check_key(key)
        except ValueError:
            return None  # nothing can be there
        is_document = key.rsplit("/", 1)[-1] in _DOCUMENTS
        try:
            if byte_range is None:
                limit = MAX_DOCUMENT_NBYTES if is_document else self._max_nbytes
                return self._store.read(key, limit_nbytes=limit)
            return self._read_range(key, byte_range)
        except FileNotFoundError:
            if self._is_complete and not is_document:
                raise MissingObject(f"{self._store.url}/{key} is absent from the store; restore the object") from None
            return None

    def _read_range(self, key: str, byte_range: ByteRequest) -> bytes:
        if isinstance(byte_range, SuffixByteRequest):
            return bytes(self._store.read_end(key, byte_range.suffix)[1]) if byte_range.suffix else b""
        if isinstance(byte_range, RangeByteRequest) and byte_range.start < byte_range.end:
            try:
                return bytes(self._store.read_ranges(key, [(byte_range.start, byte_range.end)])[0])
            except StoreError:
                if self._store.read_end(key, 1)[0] >= byte_range.end:
                    raise
        size = self._store.read_end(key, 1)[0]  # Zarr's ranges may reach past the end, ours may not
        match byte_range:
            case OffsetByteRequest(offset):
                start, stop = min(offset, size), size
            case _:
                start, stop = min(byte_range.start, size), min(byte_range.end, size)
        if start >= stop:
            return b""
        return bytes(self._store.read_ranges(key, [(start, stop)])[0])


class ZarrRows:
    """Rows of an array that zarr-python decodes.

    Args:
        store: Where it lies.
        array: Its metadata.

    Raises:
        UnsupportedFormat: zarr-python, or what is installed beside it, cannot read it.
    """

    def __init__(self, store: Store, array: PlainArray) -> None:
        most = 2 * math.prod(array.object_shape) * array.numpy_dtype.itemsize + (1 << 20)
        adapter = ReadOnlyZarrStore(store, max_nbytes=most, is_blosc=_ends_in_blosc(array.document))
        try:
            self._array = zarr.Array.from_dict(StorePath(adapter, array.path), cast("Any", dict(array.document)))
        except Exception as error:  # whatever its registries and metadata classes raise
            raise UnsupportedFormat(f"zarr-python cannot open it: {error}") from error
        if self._array.shape != array.shape or self._array.dtype.hasobject:
            raise UnsupportedFormat("zarr-python understands its metadata otherwise")
        self._metadata = array

    def read(self, low: int, high: int, box: tuple[slice, ...], out: npt.NDArray[Any]) -> None:
        """Rows [low, high), of each what `box` says, into `out`."""
        out[...] = np.asarray(self._array[(slice(low, high), *box)])

    def check_chunk(self, coordinates: tuple[int, ...]) -> None:
        """Decode one chunk, which raises whatever is wrong with it."""
        lengths = zip(coordinates, self._metadata.chunk_shape, self._metadata.shape, strict=True)
        self._array[tuple(slice(c * n, min((c + 1) * n, length)) for c, n, length in lengths)]


def open_zarr_array(store: Store, path: str) -> "zarr.Array[Any]":
    """An array of a dataset of ours, as zarr-python's, read-only; an absent object is an error there as everywhere.

    Raises:
        InvalidDataset: zarr-python cannot open it.
    """
    adapter = ReadOnlyZarrStore(store, is_complete=True)
    return _opened(lambda: zarr.open_array(adapter, path=path, mode="r", zarr_format=3), store, path)


def open_plain_array(store: Store, array: PlainArray) -> "zarr.Array[Any]":
    """An array that somebody else wrote, as zarr-python's, read-only; what is absent is its fill value."""
    location = StorePath(ReadOnlyZarrStore(store, is_blosc=_ends_in_blosc(array.document)), array.path)
    return _opened(lambda: zarr.Array.from_dict(location, cast("Any", dict(array.document))), store, array.path)


def _ends_in_blosc(document: Mapping[str, Any]) -> bool:
    """Whether the last codec of chunks is blosc, by metadata that has been checked."""
    if document["zarr_format"] == 2:
        return document["compressor"] is not None and document["compressor"]["id"] == "blosc"
    last = document["codecs"][-1] if document["codecs"] else None
    if not isinstance(last, dict):
        return last == "blosc"
    if last["name"] != "sharding_indexed":
        return last["name"] in ("blosc", "numcodecs.blosc")
    configuration = last["configuration"]  # an index at the start is asked for as chunks are, and is no frame
    return configuration.get("index_location", "end") == "end" and _ends_in_blosc({**configuration, "zarr_format": 3})


def _check_frame(data: bytes) -> None:
    """Refuse a Blosc frame that is longer than its data, beyond which numcodecs would read.

    Source: https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst (bytes 12–16 are the length).
    """
    if len(data) < 16 or (nbytes := int.from_bytes(data[12:16], "little")) > len(data):
        raise ValueError(f"{len(data)} bytes of a Blosc frame{'' if len(data) < 16 else f' of {nbytes}'}")


def _opened(call: Callable[[], Any], store: Store, path: str) -> "zarr.Array[Any]":
    try:
        return cast("zarr.Array[Any]", call())
    except (ValueError, TypeError, KeyError, FileNotFoundError) as error:
        raise InvalidDataset(f"{store.url}/{path}: zarr-python cannot open it: {error}") from error
