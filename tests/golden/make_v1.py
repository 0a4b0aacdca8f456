"""Makes the golden data of format version 1: datasets, what their values are, order vectors, and a manifest of checksums.

    python tests/golden/make_v1.py FOLDER

Ran once, into tests/golden/v1, for the release that froze the format; what it wrote there is **never regenerated**, since it
stands for the data that people have. It refuses a folder that exists. `test_golden_v1.py` reads the data with today's code and
with the reader that was written from the spec, and makes fresh data with this file, so that what is written today is held to
the same.

Expected values are kept in NumPy's own form, apart from the package: a fixed field is one array; the field x of differing
lengths is x.values, x.offsets and, for arrays, x.shapes.
"""

import hashlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import chunkstore as cs
from chunkstore.plan.order import FragmentExtent, list_positions, plan_order
from chunkstore.plan.steps import rank_places

MANIFEST = "manifest.txt"
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float16", "float32", "float64")
CODECS = {
    "auto": "auto",
    "none": None,
    "lz4": "blosc-lz4",
    "lz4at9": "blosc-lz4-9",
    "bzstd": "blosc-zstd",
    "bzstdat1": "blosc-zstd-1",
    "zstd": "zstd",
    "zstdat9": "zstd-9",
    "gzip": "gzip",
    "gzipat1": "gzip-1",
}

Columns = dict[str, list[Any]]


def main() -> None:
    make(Path(sys.argv[1]))


def make(folder: Path) -> None:
    """Write everything into a new folder.

    Raises:
        FileExistsError: the folder is there; golden data are never written over.
    """
    folder.mkdir(parents=True)
    for name, schema, writes in datasets():
        for i, columns in enumerate(writes):
            writer = cs.append(folder / name) if i else cs.create(folder / name, schema, message=f"golden: {name}")
            with writer:
                write(writer, columns, one_by_one=i % 2 == 1)
        joined = {field: [value for columns in writes for value in columns[field]] for field in schema}
        np.savez_compressed(folder / f"{name}.npz", **expected_values(schema, joined))
    (folder / "order.json").write_text(json.dumps(order_vectors(), indent=None, separators=(",", ":")) + "\n")
    (folder / MANIFEST).write_text("".join(f"{digest}  {key}\n" for key, digest in checksums(folder).items()))


def write(writer: Any, columns: Columns, *, one_by_one: bool) -> None:
    if not one_by_one and any(columns.values()):
        writer.write_batch({name: as_array(writer.schema[name], values) for name, values in columns.items()})
        return
    for values in zip(*columns.values(), strict=True):
        writer.write(dict(zip(columns, values, strict=True)))


def as_array(field: Any, values: list[Any]) -> Any:
    return np.array(values, stored_as(field)) if isinstance(field, cs.Array) else values


def stored_as(field: Any) -> str:
    """The dtype in which expected values are kept: bfloat16 as float32, encoded fields as bytes."""
    return {"bfloat16": "float32"}.get(field.dtype, field.dtype) if hasattr(field, "dtype") else "uint8"


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but the manifest, by path in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# Datasets: name, schema, and the columns of each fragment


def datasets() -> Iterator[tuple[str, dict[str, Any], list[Columns]]]:
    rng = np.random.default_rng(1)
    yield "types", TYPES, [typed(rng, 6), typed(rng, 3)]
    yield "dtypes", dtype_schema(), [dtype_columns(rng, 40)]
    yield "codecs", codec_schema(), [codec_columns(rng, 75)]
    yield "grids", GRIDS, [grid_columns(rng, 13), grid_columns(rng, 7), grid_columns(rng, 1)]
    yield "no_samples", TYPES, [{name: [] for name in TYPES}]
    yield "one_sample", TYPES, [typed(rng, 1)]
    yield "empty_values", EMPTY, [empty_columns(3)]


TYPES = {
    "scalar": cs.Array("int64"),
    "vector": cs.Array("float32", (3,)),
    "matrix": cs.Array("uint8", (2, 3)),
    "brain": cs.Array("bfloat16", (2,)),
    "tokens": cs.Ragged("uint16"),
    "points": cs.Ragged("float32", (None, 3)),
    "patch": cs.Ragged("int16", (None, 2, None)),
    "columns": cs.Ragged("float64", (2, None)),
    "brains": cs.Ragged("bfloat16"),
    "jpeg": cs.Image("jpeg"),
    "jpeg_gray": cs.Image("jpeg", mode="L"),
    "png": cs.Image("png"),
    "png_alpha": cs.Image("png", mode="RGBA"),
    "webp": cs.Image("webp"),
    "caption": cs.Text(),
    "blob": cs.Bytes(),
    "sound": cs.Bytes(media_type="audio/flac"),
}


def typed(rng: np.random.Generator, count: int) -> Columns:
    lengths = [0, 5, 1, 12, 3, 7, 2, 4, 0][-count:]
    texts = ["", "zwölf", "𝔘nicode 🐍", "line\nbreak", "\0", "a" * 300, "日本語", "e\u0301", ""]
    return {
        "scalar": [-(2**63), 2**63 - 1, 0, *range(count)][:count],
        "vector": list(rng.standard_normal((count, 3)).astype("f4")),
        "matrix": list(rng.integers(0, 256, (count, 2, 3), np.uint8)),
        "brain": list(bfloat16(rng.standard_normal((count, 2)))),
        "tokens": [rng.integers(0, 2**16, n, np.uint16) for n in lengths],
        "points": [rng.standard_normal((n, 3)).astype("f4") for n in lengths],
        "patch": [rng.integers(-99, 99, (n, 2, n // 2)).astype("i2") for n in lengths],
        "columns": [rng.standard_normal((2, n)) for n in lengths],
        "brains": [bfloat16(rng.standard_normal(n)) for n in lengths],
        "jpeg": [picture(rng, "JPEG", "RGB") for _ in range(count)],
        "jpeg_gray": [picture(rng, "JPEG", "L") for _ in range(count)],
        "png": [picture(rng, "PNG", "RGB") for _ in range(count)],
        "png_alpha": [picture(rng, "PNG", "RGBA") for _ in range(count)],
        "webp": [picture(rng, "WEBP", "RGB") for _ in range(count)],
        "caption": texts[-count:],
        "blob": [rng.bytes(n * 3) for n in lengths],
        "sound": [bytes([n]) * n for n in lengths],
    }


def bfloat16(values: Any) -> Any:
    """Float32 values that bfloat16 holds exactly."""
    return (np.asarray(values, np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


def picture(rng: np.random.Generator, kind: str, mode: str) -> bytes:
    height, width = rng.integers(1, 24, 2)
    pixels = rng.integers(0, 256, (height, width, len(mode)), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if mode == "L" else pixels).save(file, kind)
    return file.getvalue()


def dtype_schema() -> dict[str, Any]:
    names = ("bool", *INTEGERS, *FLOATS, "bfloat16")
    fixed = {f"{name}_{rank}d": cs.Array(name, (2,) * rank) for name in names for rank in (0, 2)}
    return {**fixed, **{f"{name}_ragged": cs.Ragged(name) for name in names}}


def dtype_columns(rng: np.random.Generator, count: int) -> Columns:
    columns: Columns = {}
    for name, field in dtype_schema().items():
        dtype = name.partition("_")[0]
        if isinstance(field, cs.Array):
            columns[name] = list(numbers(rng, dtype, count * 2 ** len(field.shape)).reshape(count, *field.shape))
        else:
            columns[name] = [numbers(rng, dtype, i % 7) for i in range(count)]
    return columns


def numbers(rng: np.random.Generator, dtype: str, count: int) -> Any:
    """Numbers of a dtype, its extremes first."""
    if dtype == "bool":
        return rng.integers(0, 2, count).astype(bool)
    if dtype in INTEGERS:
        limits = np.iinfo(dtype)
        values = rng.integers(limits.min, limits.max, count, dtype, endpoint=True)
        special = [limits.min, limits.max, 0, 1]
    else:
        kept = "float32" if dtype == "bfloat16" else dtype
        values = rng.standard_normal(count).astype(kept)
        tiny, huge = np.finfo(kept).smallest_subnormal, np.finfo(kept).max
        special = [np.nan, np.inf, -np.inf, -0.0, tiny, huge, -huge]
        special = list(bfloat16(special)) if dtype == "bfloat16" else special
    values[: len(special)] = np.array(special, values.dtype)[:count]
    return bfloat16(values) if dtype == "bfloat16" else values


def codec_schema() -> dict[str, Any]:
    return {
        **{
            f"fixed_{name}": cs.Array("float32", (4,), codec=codec, chunk=8, shard=32) for name, codec in CODECS.items()
        },
        **{f"ragged_{name}": cs.Ragged("uint16", codec=codec, chunk=64, shard=256) for name, codec in CODECS.items()},
        **{f"bytes_{name}": cs.Bytes(codec=codec, chunk=128, shard=256) for name, codec in CODECS.items()},
    }


def codec_columns(rng: np.random.Generator, count: int) -> Columns:
    """Values that compress, in several chunks of several shards."""
    vectors = np.round(np.cumsum(rng.standard_normal((count, 4)), axis=0)).astype("f4")
    lengths = rng.integers(0, 16, count)
    columns: Columns = {}
    for name in CODECS:
        columns[f"fixed_{name}"] = list(vectors)
        columns[f"ragged_{name}"] = [np.arange(n, dtype=np.uint16) for n in lengths]
        columns[f"bytes_{name}"] = [b"chunkstore"[: n % 11] for n in lengths]
    return columns


GRIDS = {
    "slabs": cs.Array("int32", (5, 6), chunk=(2, 2, 3), shard=4),
    "uneven": cs.Array("uint8", (5, 3), chunk=(1, 2, 2), shard=1),
    "deep": cs.Array("float64", (2, 1, 3), chunk=(4, 2, 1, 2), shard=8, codec="zstd"),
    "long": cs.Ragged("int32", chunk=4, shard=16, codec=None),
    "packed": cs.Ragged("int32", chunk=4, shard=16, codec="gzip"),
    "text": cs.Text(chunk=8, shard=8, codec=None),
    "blocks": cs.Array("uint16", (40,), chunk=2, shard=4, block_nbytes=256),
}


def grid_columns(rng: np.random.Generator, count: int) -> Columns:
    """Ragged samples that cross chunks and shards; rows that are cut into chunks which do not divide them."""
    lengths = [int(n) for n in rng.integers(0, 30, count)]
    return {
        "slabs": list(rng.integers(-(2**31), 2**31, (count, 5, 6), np.int32)),
        "uneven": list(rng.integers(0, 256, (count, 5, 3), np.uint8)),
        "deep": list(rng.standard_normal((count, 2, 1, 3))),
        "long": [rng.integers(-99, 99, n).astype(np.int32) for n in lengths],
        "packed": [rng.integers(-99, 99, n).astype(np.int32) for n in lengths],
        "text": ["äöü"[: n % 4] * n for n in lengths],
        "blocks": list(rng.integers(0, 2**16, (count, 40), np.uint16)),
    }


EMPTY = {
    "none": cs.Array("int8", (0,)),
    "some": cs.Array("float32", (2, 0, 3)),
    "ragged": cs.Ragged("float32"),
    "rows": cs.Ragged("float32", (None, 3)),
    "flat": cs.Ragged("int64", (None, 0)),
    "both": cs.Ragged("uint8", (None, None)),
    "text": cs.Text(),
    "bytes": cs.Bytes(codec="zstd"),
    "kept": cs.Array("bool"),
}


def empty_columns(count: int) -> Columns:
    return {
        "none": [np.zeros(0, "i1")] * count,
        "some": [np.zeros((2, 0, 3), "f4")] * count,
        "ragged": [np.zeros(0, "f4")] * count,
        "rows": [np.zeros((0, 3), "f4")] * count,
        "flat": [np.zeros((i, 0), "i8") for i in range(count)],
        "both": [np.zeros((0, i), "u1") for i in range(count)],
        "text": [""] * count,
        "bytes": [b""] * count,
        "kept": [i % 2 == 0 for i in range(count)],
    }


# What is expected


def expected_values(schema: dict[str, Any], columns: Columns) -> dict[str, Any]:
    """Values as they were given, bfloat16 as float32, strings and images as bytes."""
    result: dict[str, Any] = {}
    for name, field in schema.items():
        given, dtype = columns[name], stored_as(field)
        if isinstance(field, cs.Array):
            result[name] = np.array(given, dtype).reshape(len(given), *field.shape)
            continue
        if isinstance(field, cs.Ragged):
            arrays = [np.asarray(value, dtype) for value in given]
            result[f"{name}.shapes"] = np.array([a.shape for a in arrays], np.int64).reshape(
                len(given), len(field.shape)
            )
        else:
            raw = [value.encode() if isinstance(value, str) else value for value in given]
            arrays = [np.frombuffer(value, np.uint8) for value in raw]
        result[f"{name}.values"] = np.concatenate([np.empty(0, dtype), *(a.reshape(-1) for a in arrays)])
        result[f"{name}.offsets"] = np.cumsum([0, *(a.size for a in arrays)])
    return result


def order_vectors() -> dict[str, Any]:
    """Positions of whole epochs for several versions and options, and the places of ranks."""
    versions = {
        "one block": [[5, 8, 1000]],
        "one sample": [[1, 1, 8]],
        "no samples": [],
        "even": [[4096, 16, 4096 * 100]],
        "three": [[1000, 32, 1000 * 300], [1, 4, 300], [777, 64, 777 * 50]],
        "tail": [[130, 64, 130 << 16], [2, 1, 2 << 16]],
    }
    options = [
        {"shuffle": True},
        {"shuffle": True, "lanes": 4, "window_nbytes": 1 << 14},
        {"shuffle": True, "lanes": 4, "window_nbytes": 1 << 14, "affinity": True},
        {"shuffle": True, "lanes": 3, "window_nbytes": 1 << 20, "seed": 2**64 - 1},
        {"shuffle": True, "lanes": 1, "window_nbytes": 1, "seed": 7},
        {"shuffle": "full", "seed": 7},
        {"shuffle": False},
    ]
    orders = []
    for name, fragments in versions.items():
        extents = [FragmentExtent(*fragment) for fragment in fragments]
        for chosen in options:
            order = plan_order(extents, **{"seed": 0, **chosen})
            for epoch in (0, 1) if chosen["shuffle"] else (0,):
                positions = list_positions(order, epoch).tolist()
                orders.append(
                    {"version": name, "options": {"seed": 0, **chosen}, "epoch": epoch, "positions": positions}
                )
    steps = []
    for samples, batch, world in ((20, 8, 2), (20, 8, 8), (7, 6, 3), (3, 4, 4), (64, 16, 1)):
        for contiguous in (False, True):
            for consumed in range(0, samples, batch):
                ranks = [
                    rank_places(consumed, batch, r, world, samples, contiguous=contiguous).tolist()
                    for r in range(world)
                ]
                steps.append(
                    {
                        "samples": samples,
                        "consumed": consumed,
                        "global_batch": batch,
                        "contiguous": contiguous,
                        "ranks": ranks,
                    }
                )
    return {"versions": versions, "orders": orders, "steps": steps}


if __name__ == "__main__":
    main()
