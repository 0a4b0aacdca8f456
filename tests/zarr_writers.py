"""Zarr groups as other tools write them, for tests that open them."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
import xarray
import zarr
from numcodecs import Delta

from chunkstore.store.interface import Store

Arrays = dict[str, np.ndarray]
Writer = Callable[[Path, Arrays], None]


def example(rows: int = 37) -> Arrays:
    """Arrays of every dtype and of odd shapes, all with `rows` rows."""
    rng = np.random.default_rng(rows)
    arrays = {"volume": rng.standard_normal((rows, 5, 7)).astype("float32")}
    for dtype in "int8 int16 int32 int64 uint8 uint16 uint32 uint64".split():
        limits = np.iinfo(dtype)
        arrays[dtype] = rng.integers(limits.min, limits.max, (rows, 3), dtype, endpoint=True)
    for dtype in ("float16", "float32", "float64"):
        arrays[dtype] = rng.standard_normal(rows).astype(dtype)
        arrays[dtype][:3] = [np.nan, np.inf, -0.0]
    arrays["bool"] = rng.integers(0, 2, (rows, 2, 2)).astype(bool)
    return arrays


def copy_into(folder: Path, store: Store, prefix: str = "") -> None:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            store.write(prefix + file.relative_to(folder).as_posix(), file.read_bytes())


@contextmanager
def writers_warnings_ignored() -> Iterator[None]:
    """What writers warn of, such as consolidated metadata in v3, is not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def consolidate(folder: Path) -> None:
    with writers_warnings_ignored():
        zarr.consolidate_metadata(folder)


def _odd(values: np.ndarray) -> tuple[int, ...]:
    """A chunk shape that divides nothing."""
    return tuple(max(1, min(n, c)) for n, c in zip(values.shape, (10, 2, 3), strict=False))


def by_zarr_3(folder: Path, arrays: Arrays) -> None:
    group = zarr.open_group(folder, mode="w", zarr_format=3)
    for name, values in arrays.items():
        group.create_array(name, data=values, chunks=_odd(values))


def by_zarr_3_sharded(folder: Path, arrays: Arrays) -> None:
    group = zarr.open_group(folder, mode="w", zarr_format=3)
    for name, values in arrays.items():
        chunks = _odd(values)
        shards = tuple(c * k for c, k in zip(chunks, (2, 2, 1), strict=False))
        group.create_array(name, data=values, chunks=chunks, shards=shards, compressors=zarr.codecs.BloscCodec())


def by_zarr_3_big_endian(folder: Path, arrays: Arrays) -> None:
    group = zarr.open_group(folder, mode="w", zarr_format=3)
    for i, (name, values) in enumerate(arrays.items()):
        order = tuple(reversed(range(values.ndim)))
        chunks = _odd(values)
        group.create_array(
            name,
            data=values,
            chunks=chunks,
            shards=tuple(2 * c for c in chunks) if i % 2 else None,
            filters=[zarr.codecs.TransposeCodec(order=order)],
            serializer=zarr.codecs.BytesCodec(endian="big"),
            compressors=[zarr.codecs.GzipCodec(level=1), zarr.codecs.Crc32cCodec()],
            chunk_key_encoding={"name": "v2", "separator": "."} if i % 3 else None,
        )


def by_zarr_3_unusual(folder: Path, arrays: Arrays) -> None:
    """In codecs that are zarr-python's to decode: two compressors, and in shards whose index is at their beginning."""
    group = zarr.open_group(folder, mode="w", zarr_format=3)
    for i, (name, values) in enumerate(arrays.items()):
        chunks = _odd(values)
        shards = {"shape": tuple(2 * c for c in chunks), "index_location": "start"}
        group.create_array(
            name,
            data=values,
            chunks=chunks,
            shards=shards if i % 2 else None,
            compressors=[zarr.codecs.GzipCodec(level=1), zarr.codecs.BloscCodec(typesize=1)][: 1 if i % 4 == 1 else 2],
        )


def by_zarr_2(folder: Path, arrays: Arrays) -> None:
    group = zarr.open_group(folder, mode="w", zarr_format=2)
    for i, (name, values) in enumerate(arrays.items()):
        group.create_array(
            name,
            data=values,
            chunks=_odd(values),
            compressors=[None, "auto"][i % 2],
            chunk_key_encoding={"name": "v2", "separator": "/."[i % 2]},
        )


def by_zarr_2_filtered(folder: Path, arrays: Arrays) -> None:
    group = zarr.open_group(folder, mode="w", zarr_format=2)
    for name, values in arrays.items():
        big = values.astype(values.dtype.newbyteorder(">"))
        filters = [Delta(dtype=values.dtype.newbyteorder(">"))] if values.dtype.kind in "iu" else None
        group.create_array(name, data=big, chunks=_odd(values), order="F", filters=filters)


def by_xarray_3(folder: Path, arrays: Arrays) -> None:
    with writers_warnings_ignored():
        _xarray_of(arrays).to_zarr(folder, mode="w", zarr_format=3, consolidated=True)


def by_xarray_3_not_consolidated(folder: Path, arrays: Arrays) -> None:
    _xarray_of(arrays).to_zarr(folder, mode="w", zarr_format=3, consolidated=False)


def by_xarray_2(folder: Path, arrays: Arrays) -> None:
    dataset = _xarray_of(arrays)
    encoding = {name: {"chunks": _odd(values)} for name, values in arrays.items()}
    with writers_warnings_ignored():
        dataset.to_zarr(folder, mode="w", zarr_format=2, consolidated=True, encoding=encoding)


def _xarray_of(arrays: Arrays) -> xarray.Dataset:
    variables = {n: (("time", *(f"{n}_{i}" for i in range(1, v.ndim))), v) for n, v in arrays.items()}
    coordinates = {"volume_1": np.arange(5.0), "height": 3.5}
    return xarray.Dataset(variables, coordinates, attrs={"title": "odd", "nothing": float("nan")})


def by_tensorstore_3_sharded(folder: Path, arrays: Arrays) -> None:
    (folder).mkdir(parents=True)
    (folder / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    for name, values in arrays.items():
        chunks = list(_odd(values))
        inner = [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": 1}},
        ]
        sharding = {"chunk_shape": chunks, "codecs": inner}
        metadata = {
            "shape": values.shape,
            "data_type": values.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2 * c for c in chunks]}},
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        }
        _tensorstore("zarr3", folder / name, metadata)[...] = values


def by_tensorstore_2(folder: Path, arrays: Arrays) -> None:
    folder.mkdir(parents=True)
    (folder / ".zgroup").write_text('{"zarr_format": 2}')
    for name, values in arrays.items():
        metadata = {"shape": values.shape, "chunks": _odd(values), "dtype": values.dtype.str}
        _tensorstore("zarr", folder / name, metadata)[...] = values


def _tensorstore(driver: str, folder: Path, metadata: dict[str, Any]) -> Any:
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": str(folder)}, "metadata": metadata}
    return tensorstore.open(spec, create=True).result()


WRITERS: dict[str, Writer] = {
    name.removeprefix("by_"): f for name, f in list(globals().items()) if name.startswith("by_")
}
