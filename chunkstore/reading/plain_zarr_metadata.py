"""Metadata of Zarr arrays that others wrote, v2 and v3: what must be known to read their rows.

Reads documents as untrusted, and bounds everything that could be allocated by them. Says of each array whether this package
decodes its chunks itself, or zarr-python does. Never does I/O: `plain_zarr.py`, before it, finds the documents;
`plain_zarr_array.py`, after it, reads by what stands here.

Sources: https://zarr-specs.readthedocs.io/en/latest/v3/core/ and /v2/v2.0.html; docs/spec/v1.md, "Plain Zarr".
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chunkstore.errors import InvalidDataset, UnsupportedFormat
from chunkstore.format.codecs import ChunkCodecs, Compressor
from chunkstore.format.documents import Node
from chunkstore.format.metadata import DATA_TYPES, MAX_CHUNK_NBYTES, MAX_LENGTH, codecs_from_json

MAX_ROW_CHUNKS = 1 << 18
"""Chunks that one row may be spread over: each is an object or a range to be asked for."""
MAX_SHARD_CHUNKS = 1 << 24
MAX_DOCUMENTS_NBYTES = 8 << 20
"""All documents of a hierarchy together."""
MAX_SIGNS = {
    "values": (",", 1 << 18),
    "members": (":", 1 << 17),
    "lists and objects": ("[{", 1 << 17),
    "escapes": ("\\", 1 << 17),
}
"""How much there may be in them, counted by such characters: 4,096 sharded arrays have 140,000, 100,000, 80,000, and none."""
MAX_DIGITS = 40
"""Of an integer: Python's time for one is quadratic."""
_MAX_WIDE_NBYTES = 2 << 20
"""Of documents with a character beyond Unicode's first 65,536, which makes four bytes of each of its string."""
_WIDE = re.compile(rb"[\xf0-\xff]|\\u[dD]")
_V3_MEMBERS = set(
    "zarr_format node_type shape data_type chunk_grid chunk_key_encoding fill_value codecs attributes dimension_names".split()
)
_V3_CODECS = {"bytes", "transpose", "blosc", "zstd", "gzip", "crc32c", "sharding_indexed"}
# Codecs of numcodecs that turn bytes or numbers into bytes or numbers; none that makes Python objects.
_NUMCODECS = set(
    "blosc zstd gzip zlib lz4 bz2 lzma delta fixedscaleoffset quantize bitround packbits astype shuffle"
    " crc32 crc32c adler32 fletcher32 jenkins_lookup3".split()
)
_SHUFFLES = {0: "noshuffle", 1: "shuffle", 2: "bitshuffle"}
_V2_DTYPE = re.compile(r"[<>|]([biuf])([1248])")
_KINDS = {"b": "bool", "i": "int", "u": "uint", "f": "float"}


@dataclass(frozen=True, slots=True, eq=False)
class PlainArray:
    """An array as somebody stored it: a regular grid of objects, each one chunk or a shard of chunks.

    Attributes:
        path: Key of the array in the store; "" for its root.
        shape: Rows first.
        dtype: Name of the values' type, as `Array` has it.
        chunk_shape: What is decoded at a time; of a shard its inner chunk.
        object_shape: What one object holds; a multiple of `chunk_shape` in every dimension.
        fill_value: 0-d, in the stored dtype: what absent chunks hold.
        dims: Names of the dimensions where the array has any.
        codecs: The chain of a chunk where this package decodes it; None where zarr-python does.
        layout: The order in which a stored chunk has the dimensions, where that is another (Fortran's); of `codecs` only.
        is_big_endian: Whether stored values are; of `codecs` only.
        is_sharded: Whether objects are shards with an index at their end.
        chunk_key: Of the first chunk, up to its first coordinate ("c/"), and what separates coordinates.
        document: The array's metadata as zarr-python takes it.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    chunk_shape: tuple[int, ...]
    object_shape: tuple[int, ...]
    fill_value: npt.NDArray[Any]
    dims: tuple[str | None, ...] | None
    codecs: ChunkCodecs | None
    layout: tuple[int, ...] | None
    is_big_endian: bool
    is_sharded: bool
    chunk_key: tuple[str, str]
    document: Mapping[str, Any]

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The little-endian dtype of values in memory."""
        return np.dtype("uint16" if self.dtype == "bfloat16" else self.dtype).newbyteorder("<")

    @property
    def chunk_nbytes(self) -> int:
        """Bytes of a decoded chunk."""
        return math.prod(self.chunk_shape) * self.numpy_dtype.itemsize

    @property
    def row_nbytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape[1:]) * self.numpy_dtype.itemsize

    @property
    def chunks_per_object(self) -> tuple[int, ...]:
        """Chunks of an object along each dimension."""
        return tuple(s // c for s, c in zip(self.object_shape, self.chunk_shape, strict=True))

    def object_key(self, coordinates: tuple[int, ...]) -> str:
        """Key, in the store, of the object at these coordinates of the grid of objects."""
        prefix, separator = self.chunk_key
        key = prefix + separator.join(map(str, coordinates))
        return f"{self.path}/{key}" if self.path else key


def check_documents(documents: Iterable[bytes], where: str) -> None:
    """Refuse documents of which parsing would make more than any hierarchy needs, before anything is made.

    Raises:
        UnsupportedFormat: they hold too much.
    """
    documents = tuple(documents)
    nbytes = sum(map(len, documents))
    if nbytes > MAX_DOCUMENTS_NBYTES:
        raise UnsupportedFormat(f"{where}: {nbytes} bytes of metadata; at most {MAX_DOCUMENTS_NBYTES} are read")
    for what, (signs, most) in MAX_SIGNS.items():
        count = sum(data.count(sign) for data in documents for sign in signs.encode())
        if count > most:
            raise UnsupportedFormat(f"{where}: {count} {what} in metadata; at most {most} are read")
    if nbytes > _MAX_WIDE_NBYTES and any(_WIDE.search(data) for data in documents):
        raise UnsupportedFormat(
            f"{where}: {nbytes} bytes of metadata with rare characters; at most {_MAX_WIDE_NBYTES} are read"
        )


def parse_document(data: bytes, where: str) -> Node:
    """JSON as Zarr's writers leave it: NaN and infinities pass, which stand in attributes; a key that comes twice does not.

    Raises:
        InvalidDataset: it is not JSON.
        UnsupportedFormat: it holds too much (`check_documents`).
    """
    check_documents([data], where)

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise ValueError("an object has a key twice")
        return members

    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=refuse_duplicates, parse_int=_short_integer)
        return Node(document, where)
    except (ValueError, RecursionError) as error:
        raise InvalidDataset(f"{where}: not readable as JSON: {error}") from error


def _short_integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def array_v3(node: Node, path: str) -> PlainArray:
    """An array by its `zarr.json`.

    Raises:
        InvalidDataset: it is damaged or contradicts itself.
        UnsupportedFormat: samples of numbers cannot be read from it; the message says why, without its place.
    """
    node.member("zarr_format").choice(3)
    for key, member in node.members():
        optional = isinstance(member.value, dict) and member.value.get("must_understand") is False
        if key not in _V3_MEMBERS and not optional and not (key == "storage_transformers" and member.value == []):
            raise UnsupportedFormat(f"the extension {key!r}")
    shape = node.member("shape").integers(0, MAX_LENGTH)
    data_type = node.member("data_type").value
    if not isinstance(data_type, str) or data_type not in (*DATA_TYPES, "bfloat16"):
        raise UnsupportedFormat(f"data type {_name_of(data_type)}")
    grid = node.member("chunk_grid")
    if grid.member("name").value != "regular":
        raise UnsupportedFormat(f"chunk grid {_name_of(grid.value)}")
    object_shape = grid.member("configuration").member("chunk_shape").integers(1, MAX_LENGTH)
    codecs = node.member("codecs")
    _check_v3_codecs(codecs)
    dims = _dims(node.member("dimension_names"), len(shape)) if "dimension_names" in node else None
    chunk_shape, inner, is_sharded = _sharding(codecs) or (object_shape, codecs, False)
    own, layout, is_big_endian = (None, None, False) if inner is None else _own_codecs(inner, data_type, len(shape))
    return _checked(
        node,
        PlainArray(
            path=path,
            shape=shape,
            dtype=data_type,
            chunk_shape=chunk_shape,
            object_shape=object_shape,
            fill_value=_fill_value(node.member("fill_value"), data_type),
            dims=dims,
            codecs=own,
            layout=layout,
            is_big_endian=is_big_endian,
            is_sharded=is_sharded,
            chunk_key=_v3_chunk_key(node.member("chunk_key_encoding")),
            document=node.value,
        ),
    )


def array_v2(node: Node, attributes: Node | None, path: str) -> PlainArray:
    """An array by its `.zarray` and `.zattrs`; raises as `array_v3` does."""
    node.member("zarr_format").choice(2)
    shape = node.member("shape").integers(0, MAX_LENGTH)
    chunk_shape = node.member("chunks").integers(1, MAX_LENGTH)
    text = node.member("dtype").value
    match = _V2_DTYPE.fullmatch(text) if isinstance(text, str) else None
    dtype = f"{_KINDS[match[1]]}{'' if match[1] == 'b' else 8 * int(match[2])}" if match else ""
    if dtype not in DATA_TYPES:
        raise UnsupportedFormat(f"data type {_name_of(text)}")
    order = node.member("order").choice("C", "F")
    compressor = node.member("compressor")
    filters = node.member("filters") if "filters" in node else Node(None, node.where)
    used = [] if filters.value is None else filters.items()
    for codec in [*used, *([] if compressor.value is None else [compressor])]:
        if codec.member("id").value not in _NUMCODECS:
            raise UnsupportedFormat(f"codec {_name_of(codec.member('id').value)}")
    separator = "."
    if "dimension_separator" in node:
        separator = node.member("dimension_separator").choice(".", "/")
    known = attributes is not None and "_ARRAY_DIMENSIONS" in attributes
    dims = _dims(attributes.member("_ARRAY_DIMENSIONS"), len(shape)) if known and attributes is not None else None
    extra = {} if attributes is None else {"attributes": attributes.value}
    return _checked(
        node,
        PlainArray(
            path=path,
            shape=shape,
            dtype=dtype,
            chunk_shape=chunk_shape,
            object_shape=chunk_shape,
            fill_value=_fill_value(node.member("fill_value"), dtype, may_be_absent=True),
            dims=dims,
            codecs=None if used else _v2_codecs(compressor),
            layout=tuple(reversed(range(len(shape)))) if order == "F" else None,
            is_big_endian=text.startswith(">"),
            is_sharded=False,
            chunk_key=("", separator),
            document={**node.value, **extra},
        ),
    )


def _checked(node: Node, array: PlainArray) -> PlainArray:
    """The array, if what it claims can be read in bounded memory."""
    rank = len(array.shape)
    if rank == 0:
        raise UnsupportedFormat("a scalar, without samples")
    if len(array.chunk_shape) != rank or len(array.object_shape) != rank:
        node.fail(f"chunks of {len(array.chunk_shape)} dimensions for an array of {rank}")
    if any(s % c for s, c in zip(array.object_shape, array.chunk_shape, strict=True)):
        node.fail(f"chunks of {list(array.chunk_shape)} do not divide shards of {list(array.object_shape)}")
    if array.chunk_nbytes > MAX_CHUNK_NBYTES or array.row_nbytes > MAX_CHUNK_NBYTES:
        largest = max(array.chunk_nbytes, array.row_nbytes)
        raise UnsupportedFormat(f"chunks or samples of {largest} bytes; at most {MAX_CHUNK_NBYTES} are read")
    if math.prod(array.chunks_per_object) > MAX_SHARD_CHUNKS:
        raise UnsupportedFormat(
            f"{math.prod(array.chunks_per_object)} chunks in a shard; at most {MAX_SHARD_CHUNKS} are read"
        )
    row_chunks = math.prod(-(-n // c) for n, c in zip(array.shape[1:], array.chunk_shape[1:], strict=True))
    if row_chunks > MAX_ROW_CHUNKS:
        raise UnsupportedFormat(f"a sample in {row_chunks} chunks; at most {MAX_ROW_CHUNKS} are read")
    if array.dtype == "bfloat16" and array.codecs is None:
        raise UnsupportedFormat("bfloat16 in codecs that zarr-python would have to decode, which has no such type")
    return array


def _check_v3_codecs(node: Node) -> None:
    """Refuse codecs that are not known to give numbers, in shards as well."""
    for codec in node.items():
        name = codec.value if isinstance(codec.value, str) else codec.member("name").string()
        if name not in _V3_CODECS and name.removeprefix("numcodecs.") not in _NUMCODECS:
            raise UnsupportedFormat(f"codec {_name_of(name)}")
        if name == "sharding_indexed":
            configuration = codec.member("configuration")
            _check_v3_codecs(configuration.member("codecs"))
            _check_v3_codecs(configuration.member("index_codecs"))


def _sharding(codecs: Node) -> tuple[tuple[int, ...], Node | None, bool] | None:
    """Chunk shape and codecs of the chunks of shards (None where the index is not the usual one); None without shards."""
    items = codecs.items()
    if len(items) != 1 or "name" not in items[0] or items[0].member("name").value != "sharding_indexed":
        return None
    configuration = items[0].member("configuration")
    chunk_shape = configuration.member("chunk_shape").integers(1, MAX_LENGTH)
    index = configuration.member("index_codecs")
    at_end = "index_location" not in configuration or configuration.member("index_location").value == "end"
    try:
        usual = at_end and codecs_from_json(index) == ChunkCodecs(None, crc32c=True) and _says_little(index)
    except (InvalidDataset, UnsupportedFormat):
        usual = False
    return chunk_shape, configuration.member("codecs") if usual else None, usual


def _own_codecs(node: Node, dtype: str, rank: int) -> tuple[ChunkCodecs | None, tuple[int, ...] | None, bool]:
    """The chain, where it is one that this package decodes, the layout of chunks, and whether they are big-endian."""
    unknown = (None, None, False)
    items, layout = [item.value for item in node.items()], None
    if items and isinstance(items[0], dict) and items[0].get("name") == "transpose":
        layout = Node(items.pop(0), node.where).member("configuration").member("order").value
        if not isinstance(layout, list) or sorted(n for n in layout if type(n) is int) != list(range(rank)):
            return unknown
        layout = tuple(layout)
    is_single, is_big_endian = dtype in ("bool", "int8", "uint8"), False
    if items and isinstance(items[0], dict) and items[0].get("configuration") == {"endian": "big"}:
        items[0], is_big_endian = {**items[0], "configuration": {"endian": "little"}}, not is_single
    try:
        codecs = codecs_from_json(Node(items, node.where))
    except (InvalidDataset, UnsupportedFormat):
        return unknown
    return (codecs, layout, is_big_endian) if is_single or _says_little(Node(items, node.where)) else unknown


def _says_little(node: Node) -> bool:
    first = node.items()[0]
    return "configuration" in first and "endian" in first.member("configuration")


def _v2_codecs(compressor: Node) -> ChunkCodecs | None:
    """The chain of a v2 compressor of which v3 has the like; levels do not matter to decoding."""
    if compressor.value is None:
        return ChunkCodecs(None, crc32c=False)
    name = compressor.member("id").value
    if name in ("zstd", "gzip"):
        return ChunkCodecs(Compressor(name, 0), crc32c=False)
    return ChunkCodecs(Compressor("blosc", 0), crc32c=False) if name == "blosc" else None


def _v3_chunk_key(node: Node) -> tuple[str, str]:
    name = node.member("name").choice("default", "v2")
    separator = "/" if name == "default" else "."
    if "configuration" in node and "separator" in node.member("configuration"):
        separator = node.member("configuration").member("separator").choice("/", ".")
    return ("c" + separator if name == "default" else ""), separator


def _dims(node: Node, rank: int) -> tuple[str | None, ...] | None:
    if node.value is None:
        return None
    return tuple(item.value if isinstance(item.value, str) else None for item in node.items(length=rank))


def _fill_value(node: Node, dtype: str, *, may_be_absent: bool = False) -> npt.NDArray[Any]:
    value = node.value
    if value is None and may_be_absent:
        value = 0
    try:
        if dtype == "bfloat16":
            return _bfloat16_bits(_float(value, 16, "bfloat16"))
        target = np.dtype(dtype).newbyteorder("<")
        if target.kind == "f":
            return np.asarray(_float(value, 8 * target.itemsize, dtype), target)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if target.kind == "b":
            value = {False: False, True: True}[value]
        elif type(value) is not int:
            raise ValueError("not an integer")
        return np.asarray(value, target)
    except (ValueError, TypeError, KeyError, OverflowError):
        node.fail(f"{_name_of(value)} is no value of {dtype}")


def _float(value: Any, bits: int, dtype: str) -> Any:
    """A float that is written as a number, a name, or its bits in hexadecimal."""
    if isinstance(value, str):
        names = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
        if value in names:
            return names[value]
        if not re.fullmatch(f"0x[0-9a-fA-F]{{{bits // 4}}}", value):
            raise ValueError("no float")
        raw = int(value, 16)
        if dtype == "bfloat16":
            return np.asarray(raw << 16, np.uint32).view(np.float32)
        return np.asarray(raw, f"<u{bits // 8}").view(f"<f{bits // 8}")
    if type(value) not in (int, float):
        raise ValueError("no number")
    return float(value)


def _bfloat16_bits(value: Any) -> npt.NDArray[Any]:
    bits = int(np.asarray(value, np.float32).view(np.uint32))
    return np.asarray(bits >> 16, "<u2")


def _name_of(value: object) -> str:
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        value = value["name"]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
