"""Every field type, written once and read by everyone: by chunkstore, zarr-python, TensorStore and xarray, value by value."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ml_dtypes
import numpy as np
import pytest
import tensorstore
import xarray
import zarr
from obstore.store import S3Store
from PIL import Image

import chunkstore as cs
from chunkstore.reading.present import RaggedBatch

NUMBERS = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split()
SHAPES = [(), (3,), (2, 3), (2, 1, 4), (2, 3, 2, 2), (0,), (3, 0, 2)]


def numbers(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype == "bfloat16":
        return rng.standard_normal(shape).astype(ml_dtypes.bfloat16)
    if dtype.startswith("float"):
        values = np.asarray(rng.standard_normal(shape), dtype)
        values.reshape(-1)[:3] = [np.nan, np.inf, -0.0][: values.size]
        return values
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def image(rng: np.random.Generator, format: str, mode: str) -> bytes:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = rng.integers(0, 256, (*rng.integers(1, 20, 2), *channels), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format.upper(), **({"lossless": True} if format == "webp" else {}))
    return file.getvalue()


@dataclass
class Case:
    """A field type and how a sample of it is made; `stored` turns a sample into what lies in the arrays."""

    field: Any
    make: Callable[[np.random.Generator], Any]
    stored: Callable[[Any], np.ndarray] = np.asarray


def from_bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def bits(value: Any) -> np.ndarray:
    return np.asarray(value).view(np.uint16)


def ragged_shape(rng: np.random.Generator, shape: tuple[int | None, ...]) -> tuple[int, ...]:
    return tuple(int(rng.integers(0, 5)) if n is None else n for n in shape)


def cases() -> dict[str, Case]:
    found: dict[str, Case] = {}
    for dtype in NUMBERS:
        for shape in SHAPES if dtype in ("float32", "bool") else [(), (5,)]:
            name = "_".join(["a", dtype, "x".join(map(str, shape)) or "scalar"])
            found[name] = Case(cs.Array(dtype, shape), lambda rng, d=dtype, s=shape: numbers(rng, d, s))
        for shape in [(None,), (None, 3)]:
            name = f"r_{dtype}_{len(shape)}"
            found[name] = Case(
                cs.Ragged(dtype, shape), lambda rng, d=dtype, s=shape: numbers(rng, d, ragged_shape(rng, s))
            )
    for shape in [(None, None), (3, None), (None, 2, None), (None, 0), (None, 2, 2)]:
        name = "r_" + "x".join("n" if n is None else str(n) for n in shape)
        found[name] = Case(cs.Ragged("int16", shape), lambda rng, s=shape: numbers(rng, "int16", ragged_shape(rng, s)))
    for codec in (None, "blosc-lz4", "blosc-zstd-1", "zstd-3", "gzip-1"):
        found[f"codec-{codec}"] = Case(cs.Array("int32", (7,), codec=codec), lambda rng: numbers(rng, "int32", (7,)))
        found[f"ragged-{codec}"] = Case(
            cs.Ragged("int32", codec=codec, chunk=4, shard=16),
            lambda rng: numbers(rng, "int32", (int(rng.integers(9)),)),
        )
    found["chunked"] = Case(
        cs.Array("int16", (5, 7), chunk=(2, 2, 3), shard=8), lambda rng: numbers(rng, "int16", (5, 7))
    )
    found["bf"] = Case(cs.Array("bfloat16", (3,)), lambda rng: numbers(rng, "bfloat16", (3,)), bits)
    found["bf-ragged"] = Case(
        cs.Ragged("bfloat16"), lambda rng: numbers(rng, "bfloat16", ragged_shape(rng, (None,))), bits
    )
    for format, mode in [
        ("jpeg", "RGB"),
        ("jpeg", "L"),
        ("png", "RGBA"),
        ("png", "L"),
        ("webp", "RGB"),
        ("webp", "RGBA"),
    ]:
        found[f"{format}-{mode}"] = Case(
            cs.Image(format, mode=mode), lambda rng, f=format, m=mode: image(rng, f, m), from_bytes
        )
    found["text"] = Case(
        cs.Text(), lambda rng: "aé漢🎈"[: rng.integers(0, 5)] * 3, lambda text: from_bytes(text.encode())
    )
    found["text-plain"] = Case(
        cs.Text(codec=None), lambda rng: "b" * int(rng.integers(3)), lambda t: from_bytes(t.encode())
    )
    found["bytes"] = Case(cs.Bytes(), lambda rng: rng.bytes(int(rng.integers(0, 9))), from_bytes)
    return found


CASES = cases()
SCHEMA = {name: case.field for name, case in CASES.items()}


def make_samples(count: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [{name: case.make(rng) for name, case in CASES.items()} for _ in range(count)]


def same(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.fixture(scope="module", params=[1, 9])
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    root = tmp_path_factory.mktemp("all")
    samples = make_samples(request.param, 1)
    with cs.create(root, SCHEMA) as writer:
        writer.write(samples[0])
        writer.write_batch({name: [sample[name] for sample in samples[1:]] for name in SCHEMA})
    return root, samples


@pytest.fixture
def part(written: tuple[Path, list[dict[str, Any]]]) -> Path:
    (found,) = written[0].glob("fragments/*/0")
    return found


def assert_presented(name: str, shown: Any, given: Any) -> None:
    """What ds[i] shows of a sample, against what was written."""
    field = SCHEMA[name]
    if isinstance(field, cs.Text | cs.Bytes | cs.Image):
        assert shown == given, name
    elif field.dtype == "bfloat16":
        assert same(shown, given.astype(np.float32)), name
    else:
        assert same(shown, given), name


def test_chunkstore_gives_back_every_value(written: tuple[Path, list[dict[str, Any]]]) -> None:
    root, samples = written
    ds = cs.open(root, decode=False)
    assert len(ds) == len(samples)
    for i, sample in enumerate(samples):
        shown = ds[i]
        for name in SCHEMA:
            assert_presented(name, shown[name], sample[name])
    batch = ds[:]
    for name in SCHEMA:
        assert len(batch[name]) == len(samples), name
        for shown, sample in zip(batch[name], samples, strict=True):
            assert_presented(name, shown, sample[name])


def test_images_decode_to_what_pillow_decodes(written: tuple[Path, list[dict[str, Any]]]) -> None:
    root, samples = written
    ds = cs.open(root)
    for name, field in SCHEMA.items():
        if isinstance(field, cs.Image):
            for shown, sample in zip(ds[name][:], samples, strict=True):
                expected = np.asarray(Image.open(io.BytesIO(sample[name])).convert(field.mode))
                assert shown.shape == expected.shape
                tolerance = 2 if field.format == "jpeg" else 0  # two decoders may round an inverse DCT differently
                assert np.abs(shown.astype(int) - expected.astype(int)).max() <= tolerance, name


def assert_arrays(read: Callable[[str], np.ndarray], samples: list[dict[str, Any]]) -> None:
    """Arrays of a part, as some reader gives them, against what was written."""
    for name, case in CASES.items():
        expected = [case.stored(sample[name]) for sample in samples]
        if isinstance(case.field, cs.Array):
            assert same(read(name), np.stack(expected)), name
            continue
        values, spans = read(f"{name}/values"), read(f"{name}/spans")
        assert spans.dtype == np.int64 and spans.shape == (len(samples), 2), name
        shapes = [(b - a,) for a, b in spans]
        if isinstance(case.field, cs.Ragged) and len(case.field.shape) > 1:
            shapes = read(f"{name}/shape").tolist()
        assert int(spans[-1, 1]) == len(values) == sum(e.size for e in expected), name
        for (start, stop), shape, sample in zip(spans, shapes, expected, strict=True):
            assert same(values[start:stop].reshape(shape), sample), name


def test_zarr_python_reads_every_value(part: Path, written: tuple[Path, list[dict[str, Any]]]) -> None:
    group = zarr.open_group(part, mode="r", use_consolidated=True)
    assert group.metadata.consolidated_metadata is not None
    assert_arrays(lambda path: np.asarray(group[path][...]), written[1])


def test_zarr_python_reads_every_value_without_consolidated_metadata(
    part: Path, written: tuple[Path, list[dict[str, Any]]]
) -> None:
    group = zarr.open_group(part, mode="r", use_consolidated=False)
    assert_arrays(lambda path: np.asarray(group[path][...]), written[1])


def test_tensorstore_reads_every_value(part: Path, written: tuple[Path, list[dict[str, Any]]]) -> None:
    def read(path: str) -> np.ndarray:
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{part}/{path}/"}}
        return np.asarray(tensorstore.open(spec, open=True, read=True).result().read().result())

    assert_arrays(read, written[1])


def test_xarray_reads_every_value(part: Path, written: tuple[Path, list[dict[str, Any]]]) -> None:
    fixed = xarray.open_zarr(part, consolidated=True, chunks=None)
    assert set(fixed.sizes) >= {"sample", "chunked_1", "chunked_2"}
    assert set(fixed.data_vars) == {name for name, field in SCHEMA.items() if isinstance(field, cs.Array)}
    groups: dict[str, xarray.Dataset] = {}

    def read(path: str) -> np.ndarray:
        name, _, array = path.partition("/")
        if not array:
            return fixed[name].values
        if name not in groups:
            groups[name] = xarray.open_zarr(part, group=name, consolidated=False, chunks=None)
        return groups[name][array].values

    assert_arrays(read, written[1])


def test_the_root_is_a_group_that_leads_to_the_fragments(written: tuple[Path, list[dict[str, Any]]]) -> None:
    root = zarr.open_group(written[0], mode="r")
    ((fragment, group),) = root["fragments"].groups()
    ((part, opened),) = group.groups()
    assert (root.attrs["chunkstore"]["format"], part) == (1, "0")
    assert opened.attrs["chunkstore"] == {"format": 1, "samples": len(written[1])}
    assert root[f"fragments/{fragment}/0/a_float32_scalar"].shape == (len(written[1]),)


def test_a_part_on_s3_opens_with_zarr_over_obstore(s3: Any) -> None:
    with cs.create(s3.url, {"x": cs.Array("int64")}, storage_options=s3.storage_options) as writer:
        writer.write_batch({"x": np.arange(1000)})
    bucket, prefix = urlsplit(s3.url).netloc, urlsplit(s3.url).path.strip("/")
    options = {name: value for name, value in s3.storage_options.items() if name != "client_options"}
    plain = S3Store(bucket, prefix=prefix, client_options={"allow_http": True}, **options)
    path = cs.open(s3.url, storage_options=s3.storage_options).version_document.fragments[0].parts[0].path
    group = zarr.open_group(zarr.storage.ObjectStore(plain, read_only=True), path=path, mode="r")
    assert np.array_equal(group["x"][:], np.arange(1000))


def test_samples_shown_in_a_batch_are_views_of_one_ragged_batch(written: tuple[Path, list[dict[str, Any]]]) -> None:
    root, samples = written
    batch = cs.open(root)["r_float32_2"][:]
    assert isinstance(batch, RaggedBatch)
    assert batch.values.shape == (sum(len(s["r_float32_2"]) for s in samples), 3)
    assert batch.shapes is None
