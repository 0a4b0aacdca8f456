"""Zarr v3 metadata: the `zarr.json` of groups and arrays, written and read.

`ArrayMetadata` is what the package needs to know of a stored array. Only Zarr's core data types, codecs and regular grids are
written, so that zarr-python, TensorStore, zarrs and xarray open every part without a plug-in. Never does I/O; `layout.py`
chooses the shapes, `plan/reads.py` plans on them.

Sources: https://zarr-specs.readthedocs.io/en/latest/v3/core/, codecs/sharding-indexed; docs/spec/v1.md, "Zarr".
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from chunkstore.errors import UnsupportedFormat
from chunkstore.format.codecs import ChunkCodecs, Compressor
from chunkstore.format.documents import Json, Node, to_bytes

DATA_TYPES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split()
_MEMBERS = set(
    "zarr_format node_type shape data_type chunk_grid chunk_key_encoding fill_value codecs attributes dimension_names".split()
)
MAX_LENGTH = 1 << 62
MAX_RANK = 17
"""Dimensions of an array: those of a field's samples, and the samples."""
_MAX_CODECS = 16
_DIMENSION = r"[A-Za-z0-9_.-]{1,200}"
MAX_CHUNK_NBYTES = (1 << 31) - 64
"""Blosc frames end below 2 GiB; nothing larger is written, or allocated for what claims to be a chunk."""


@dataclass(frozen=True, slots=True)
class ArrayMetadata:
    """A stored array: a regular grid of shards, each a grid of chunks.

    Attributes:
        shape: Samples (or values) first.
        dtype: Zarr data type.
        chunk_shape: Inner chunk, the unit of compression and checksum.
        shard_shape: Outer chunk, one stored object; a multiple of `chunk_shape` in every dimension.
        codecs: The chain of an inner chunk.
        dimension_names: One a dimension.
    """

    shape: tuple[int, ...]
    dtype: str
    chunk_shape: tuple[int, ...]
    shard_shape: tuple[int, ...]
    codecs: ChunkCodecs
    dimension_names: tuple[str, ...]

    def __post_init__(self) -> None:
        assert len(self.shape) == len(self.chunk_shape) == len(self.shard_shape) == len(self.dimension_names) >= 1
        assert all(s % c == 0 for s, c in zip(self.shard_shape, self.chunk_shape, strict=True))

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The little-endian dtype of the stored values."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def chunk_nbytes(self) -> int:
        """Bytes of a decoded inner chunk."""
        return math.prod(self.chunk_shape) * self.numpy_dtype.itemsize

    @property
    def row_nbytes(self) -> int:
        """Bytes of one row: one sample of a fixed-shape field, one value of a ragged one."""
        return math.prod(self.shape[1:]) * self.numpy_dtype.itemsize

    @property
    def shard_grid(self) -> tuple[int, ...]:
        """Number of shards along each dimension."""
        return _grid(self.shape, self.shard_shape)

    @property
    def chunks_per_shard(self) -> tuple[int, ...]:
        """Number of chunks of a whole shard along each dimension: the shape of its index."""
        return tuple(s // c for s, c in zip(self.shard_shape, self.chunk_shape, strict=True))

    @property
    def row_chunks(self) -> tuple[int, ...]:
        """Number of chunks along each dimension but the first that hold data: what one row is spread over."""
        return _grid(self.shape[1:], self.chunk_shape[1:])

    @property
    def is_plain(self) -> bool:
        """Whether values are stored as they are, in grid order without gaps, so that any run of them is one byte range."""
        return self.codecs == ChunkCodecs(None, crc32c=False) and len(self.shape) == 1

    def shard_key(self, shard: int) -> str:
        """Key, relative to the array, of the shard with this index along the first dimension."""
        return shard_key(shard, len(self.shape) - 1)

    def to_json(self) -> dict[str, Json]:
        """The content of the array's `zarr.json`."""
        endian: dict[str, Json] = {"configuration": {"endian": "little"}}
        sharding: dict[str, Json] = {
            "chunk_shape": list(self.chunk_shape),
            "codecs": codecs_to_json(self.codecs, self.numpy_dtype),
            "index_codecs": [{"name": "bytes", **endian}, {"name": "crc32c"}],
            "index_location": "end",
        }
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.shard_shape)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": False if self.dtype == "bool" else 0.0 if self.dtype.startswith("float") else 0,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "attributes": {},
            "dimension_names": list(self.dimension_names),
        }

    @classmethod
    def from_json(cls, node: Node) -> "ArrayMetadata":
        """Read an array's metadata as this format writes it.

        Raises:
            InvalidDataset: it is damaged or contradicts itself.
            UnsupportedFormat: it is Zarr, but not as this format writes it.
        """
        _refuse_extensions(node)
        node.member("zarr_format").choice(3)
        node.member("node_type").choice("array")
        node.member("shape").items(at_most=MAX_RANK)
        shape = node.member("shape").integers(0, MAX_LENGTH)
        dtype = node.member("data_type").choice(*DATA_TYPES)
        shard_shape = _regular(node.member("chunk_grid"), len(shape))
        _expect(node.member("chunk_key_encoding"), "default", {"separator": "/"})
        codecs = node.member("codecs").items(length=1)[0]
        configuration = _named(codecs, "sharding_indexed")
        chunk_shape = configuration.member("chunk_shape").integers(1, MAX_LENGTH)
        if len(chunk_shape) != len(shape) or any(s % c for s, c in zip(shard_shape, chunk_shape, strict=True)):
            configuration.fail(f"chunks of {list(chunk_shape)} do not divide shards of {list(shard_shape)}")
        configuration.member("index_location").choice("end")
        index_codecs = configuration.member("index_codecs").items(length=2)
        _expect(index_codecs[0], "bytes", {"endian": "little"})
        _expect(index_codecs[1], "crc32c", {})
        names = tuple(name.string(_DIMENSION) for name in node.member("dimension_names").items(length=len(shape)))
        if len(set(names)) != len(names):
            node.member("dimension_names").fail("two dimensions of one name")
        if not shape:
            node.fail("an array without dimensions holds no samples")
        inner = codecs_from_json(configuration.member("codecs"))
        if np.dtype(dtype).itemsize > 1 and "configuration" not in configuration.member("codecs").items()[0]:
            configuration.fail("the 'bytes' codec does not say the byte order of its values")
        if not inner.crc32c and (inner.compressor is not None or len(shape) > 1):
            configuration.fail("chunks without crc32c, which nothing else would check")
        metadata = cls(shape, dtype, chunk_shape, shard_shape, inner, names)
        if metadata.chunk_nbytes > MAX_CHUNK_NBYTES:
            node.fail(f"chunks of {metadata.chunk_nbytes} bytes; at most {MAX_CHUNK_NBYTES} are read")
        if math.prod(metadata.chunks_per_shard) > 1 << 24:
            node.fail(f"{math.prod(metadata.chunks_per_shard)} chunks in a shard; at most {1 << 24} are read")
        if any(n > 1 for n in metadata.shard_grid[1:]):
            raise UnsupportedFormat(
                f"{node.where}: a sample is spread over several shards, which this release does not read"
            )
        return metadata


def shard_key(shard: int, row_rank: int) -> str:
    """Key, relative to its array, of a shard that spans whole rows of `row_rank` dimensions."""
    return "/".join(["c", str(shard), *("0" for _ in range(row_rank))])


def group_to_json(attributes: Mapping[str, Json], members: Mapping[str, Json] | None = None) -> dict[str, Json]:
    """The content of a group's `zarr.json`, with consolidated metadata of `members` (path → zarr.json) if given."""
    group: dict[str, Json] = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
    if members is not None:
        group["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": dict(members)}
    return group


def zarr_json(document: Mapping[str, Json]) -> bytes:
    """The bytes of a `zarr.json`."""
    return to_bytes(document)


def codecs_to_json(codecs: ChunkCodecs, dtype: np.dtype[Any]) -> list[Json]:
    """The codec list of an inner chunk."""
    chain: list[Json] = [
        {"name": "bytes", "configuration": {"endian": "little"}} if dtype.itemsize > 1 else {"name": "bytes"}
    ]
    match codecs.compressor:
        case Compressor("blosc") as c:
            configuration: dict[str, Json] = {"cname": c.cname, "clevel": c.level, "shuffle": c.shuffle}
            configuration |= {"typesize": c.typesize, "blocksize": c.block_nbytes}
            chain.append({"name": "blosc", "configuration": configuration})
        case Compressor("zstd") as c:
            chain.append({"name": "zstd", "configuration": {"level": c.level, "checksum": False}})
        case Compressor("gzip") as c:
            chain.append({"name": "gzip", "configuration": {"level": c.level}})
    if codecs.crc32c:
        chain.append({"name": "crc32c"})
    return chain


def _refuse_extensions(node: Node) -> None:
    """Zarr allows members it does not name; one that must be understood could change what the bytes mean."""
    for key, member in node.members():
        if key in _MEMBERS or (key == "storage_transformers" and member.value == []):
            continue
        if not (isinstance(member.value, dict) and member.value.get("must_understand") is False):
            raise UnsupportedFormat(f"{member.where}: an extension that this release does not know: upgrade chunkstore")


def codecs_from_json(node: Node) -> ChunkCodecs:
    """Read the codec list of an inner chunk: bytes, at most one compressor, at most one crc32c last."""
    items = node.items(at_most=_MAX_CODECS)
    if not items or items[0].member("name").value != "bytes":
        node.fail("the first codec is not 'bytes'")
    if "configuration" in items[0] and "endian" in items[0].member("configuration"):
        items[0].member("configuration").member("endian").choice("little")
    rest = items[1:]
    crc32c = bool(rest) and rest[-1].member("name").value == "crc32c"
    compressors = rest[:-1] if crc32c else rest
    if len(compressors) > 1:
        raise UnsupportedFormat(
            f"{node.where}: {len(compressors)} codecs between 'bytes' and 'crc32c'; at most one is read"
        )
    return ChunkCodecs(_compressor(compressors[0]) if compressors else None, crc32c)


def _compressor(node: Node) -> Compressor:
    match node.member("name").string():
        case "blosc":
            configuration = node.member("configuration")
            return Compressor(
                "blosc",
                configuration.member("clevel").integer(0, 9),
                configuration.member("cname").choice("lz4", "lz4hc", "blosclz", "zstd", "zlib"),
                configuration.member("shuffle").choice("noshuffle", "shuffle", "bitshuffle"),
                configuration.member("typesize").integer(1, 255) if "typesize" in configuration else 1,
                configuration.member("blocksize").integer(0, MAX_LENGTH) if "blocksize" in configuration else 0,
            )
        case "zstd":
            return Compressor("zstd", node.member("configuration").member("level").integer(-(1 << 17), 22))
        case "gzip":
            return Compressor("gzip", node.member("configuration").member("level").integer(0, 9))
        case other:
            raise UnsupportedFormat(f"{node.where}: codec {other[:60]!r}; bytes, blosc, zstd, gzip and crc32c are read")


def _grid(shape: tuple[int, ...], chunk: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-s // c) for s, c in zip(shape, chunk, strict=True))


def _regular(node: Node, rank: int) -> tuple[int, ...]:
    shape = _named(node, "regular").member("chunk_shape").integers(1, MAX_LENGTH)
    if len(shape) != rank:
        node.fail(f"a grid of {len(shape)} dimensions for an array of {rank}")
    return shape


def _named(node: Node, name: str) -> Node:
    node.member("name").choice(name)
    return node.member("configuration")


def _expect(node: Node, name: str, configuration: dict[str, str]) -> None:
    node.member("name").choice(name)
    for key, value in configuration.items():
        node.member("configuration").member(key).choice(value)
