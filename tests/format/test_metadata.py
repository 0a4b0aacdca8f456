"""Zarr metadata comes back from its JSON, and what is no such metadata is refused."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zarr.core.metadata.v3 import ArrayV3Metadata

from chunkstore.errors import InvalidDataset, UnsupportedFormat
from chunkstore.format.codecs import ChunkCodecs, Compressor
from chunkstore.format.documents import parse_json, to_bytes
from chunkstore.format.metadata import DATA_TYPES, ArrayMetadata, group_to_json, shard_key

COMPRESSORS = st.one_of(
    st.none(),
    st.builds(
        Compressor,
        st.just("blosc"),
        st.integers(0, 9),
        st.sampled_from(["lz4", "zstd", "lz4hc"]),
        st.sampled_from(["noshuffle", "shuffle", "bitshuffle"]),
        st.integers(1, 255),
    ),
    st.builds(Compressor, st.just("zstd"), st.integers(-5, 22)),
    st.builds(Compressor, st.just("gzip"), st.integers(0, 9)),
)


@st.composite
def arrays(draw: st.DrawFn) -> ArrayMetadata:
    shape = draw(st.lists(st.integers(0, 40), min_size=1, max_size=4))
    chunk = [draw(st.integers(1, 9)) for _ in shape]
    first = chunk[0] * draw(st.integers(1, 5))
    shard = [first, *(-(-max(1, n) // c) * c for n, c in zip(shape[1:], chunk[1:], strict=True))]
    names = tuple(f"d{i}" for i in range(len(shape)))
    codecs = ChunkCodecs(draw(COMPRESSORS), crc32c=True)
    return ArrayMetadata(tuple(shape), draw(st.sampled_from(DATA_TYPES)), tuple(chunk), tuple(shard), codecs, names)


def read(document: Any) -> ArrayMetadata:
    return ArrayMetadata.from_json(parse_json(to_bytes(document), "zarr.json"))


@given(arrays())
def test_metadata_comes_back_and_zarr_takes_it(metadata: ArrayMetadata) -> None:
    document = metadata.to_json()
    assert read(document) == metadata
    theirs = ArrayV3Metadata.from_dict(copy.deepcopy(document))  # type: ignore[arg-type]
    assert theirs.shape == metadata.shape
    assert theirs.dimension_names == metadata.dimension_names


EXAMPLE = ArrayMetadata(
    (100, 6), "int16", (4, 3), (16, 6), ChunkCodecs(Compressor("zstd", 3), crc32c=True), ("sample", "x_1")
)


def test_derived_sizes() -> None:
    assert (EXAMPLE.chunk_nbytes, EXAMPLE.row_nbytes) == (24, 12)
    assert (EXAMPLE.shard_grid, EXAMPLE.chunks_per_shard, EXAMPLE.row_chunks) == ((7, 1), (4, 2), (2,))
    assert EXAMPLE.shard_key(3) == shard_key(3, 1) == "c/3/0"
    assert not EXAMPLE.is_plain
    assert ArrayMetadata((9,), "uint8", (4,), (8,), ChunkCodecs(None, crc32c=False), ("v",)).is_plain


def changed(path: str, value: Any) -> Any:
    document: Any = copy.deepcopy(EXAMPLE.to_json())
    at = document
    *steps, last = (int(step) if step.isdigit() else step for step in path.split("/"))
    for step in steps:
        at = at[step]
    if value is KeyError:
        del at[last]
    else:
        at[last] = value
    return document


SHARDING = "codecs/0/configuration"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("zarr_format", 2),
        ("zarr_format", KeyError),
        ("node_type", "group"),
        ("shape", []),
        ("shape", [-1, 6]),
        ("shape", [1 << 63, 6]),
        ("shape", [100]),
        ("shape", [True, 6]),
        ("data_type", "complex64"),
        ("data_type", "int128"),
        ("chunk_grid/name", "rectangular"),
        ("chunk_grid/configuration/chunk_shape", [16]),
        ("chunk_grid/configuration/chunk_shape", [0, 6]),
        ("chunk_grid/configuration/chunk_shape", [15, 6]),
        ("chunk_key_encoding/configuration/separator", "."),
        ("codecs", []),
        ("codecs/0/name", "bytes"),
        (f"{SHARDING}/chunk_shape", [4, 3, 1]),
        (f"{SHARDING}/chunk_shape", [0, 3]),
        (f"{SHARDING}/index_location", "start"),
        (f"{SHARDING}/index_codecs", []),
        (f"{SHARDING}/codecs", []),
        (f"{SHARDING}/codecs/0/configuration/endian", "big"),
        (f"{SHARDING}/codecs/1/configuration/level", 99),
        (f"{SHARDING}/codecs/1/configuration/level", "3"),
        (f"{SHARDING}/codecs/1/configuration", KeyError),
        ("dimension_names", ["a"]),
        ("dimension_names", [None, None]),
        ("dimension_names", KeyError),
    ],
)
def test_what_is_no_such_array_is_refused(path: str, value: Any) -> None:
    with pytest.raises(InvalidDataset, match=r"^zarr\.json"):
        read(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (f"{SHARDING}/codecs/1", {"name": "transpose", "configuration": {}}),
        (f"{SHARDING}/codecs/2", {"name": "gzip", "configuration": {"level": 1}}),
        ("shape", [100, 7]),
    ],
)
def test_zarr_of_another_kind_is_told_as_unsupported(path: str, value: Any) -> None:
    with pytest.raises(UnsupportedFormat):
        read(changed(path, value))


def test_chunks_that_claim_too_much_are_refused_before_anything_is_allocated() -> None:
    huge = changed(f"{SHARDING}/chunk_shape", [1 << 40, 3])
    huge["chunk_grid"]["configuration"]["chunk_shape"] = [1 << 40, 6]
    with pytest.raises(InvalidDataset, match="at most"):
        read(huge)
    many = changed("chunk_grid/configuration/chunk_shape", [1 << 40, 6])
    with pytest.raises(InvalidDataset, match="chunks in a shard"):
        read(many)


def test_unchecked_chunks_are_refused() -> None:
    with pytest.raises(InvalidDataset, match="without crc32c"):
        read(changed(f"{SHARDING}/codecs/2", KeyError))


def test_groups_are_consolidated_as_zarr_python_does() -> None:
    group = group_to_json({"a": 1}, {"x": EXAMPLE.to_json()})
    assert group["consolidated_metadata"]["must_understand"] is False  # type: ignore[index,call-overload]
    assert "consolidated_metadata" not in group_to_json({})
