"""Writing: what is acknowledged is there, what is refused leaves nothing, what is stored is stored as the schema says."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkstore as cs
from chunkstore.errors import DatasetExists, DatasetNotFound, SampleError, SchemaError, StoreError
from chunkstore.store.location import open_store
from chunkstore.writing import writer as writer_module

SCHEMA = {"label": cs.Array("int64"), "tokens": cs.Ragged("uint16"), "caption": cs.Text()}


def sample(i: int) -> dict[str, Any]:
    return {"label": i, "tokens": np.arange(i % 5, dtype="u2"), "caption": "x" * (i % 3)}


def columns(start: int, stop: int) -> dict[str, Any]:
    return {name: [sample(i)[name] for i in range(start, stop)] for name in SCHEMA}


def labels(location: Any) -> list[int]:
    found: list[int] = cs.open(location.url, storage_options=location.storage_options or None)["label"][:].tolist()
    return found


def test_samples_and_batches_come_back_in_the_order_written(location: Any) -> None:
    options = {"storage_options": location.storage_options or None}
    with cs.create(location.url, SCHEMA, message="first", **options) as writer:
        writer.write(sample(0))
        writer.write_batch(columns(1, 40))
        writer.write(sample(40))
        assert (writer.num_samples, writer.version) == (41, None)
    assert writer.version == 1
    with cs.append(location.url, message="second", **options) as writer:
        writer.write_batch(columns(41, 50))
        writer.write_batch({name: [] for name in SCHEMA})
    ds = cs.open(location.url, **options)
    assert (ds.version, len(ds), ds.version_document.message) == (2, 50, "second")
    assert [f.first for f in ds.version_document.fragments] == [0, 41]
    for i in range(50):
        shown, given = ds[i], sample(i)
        assert (shown["label"], shown["caption"]) == (i, given["caption"])
        assert np.array_equal(shown["tokens"], given["tokens"])
    assert len(cs.open(location.url, version=1, **options)) == 41


def test_a_dataset_of_no_samples_and_one_of_one(location: Any) -> None:
    options = {"storage_options": location.storage_options or None}
    with cs.create(location.url, SCHEMA, **options):
        pass
    ds = cs.open(location.url, **options)
    assert (len(ds), ds.version, dict(ds.schema)) == (0, 1, SCHEMA)
    empty = ds[:]
    assert (len(empty["label"]), len(empty["tokens"]), empty["caption"]) == (0, 0, [])
    assert (empty["label"].dtype, ds.statistics["label"]["values"].count) == (np.int64, 0)
    with pytest.raises(IndexError):
        ds[0]
    with cs.append(location.url, **options) as writer:
        writer.write(sample(7))
    assert labels(location) == [7]


def test_what_the_caller_does_with_an_array_afterwards_changes_nothing(tmp_path: Path) -> None:
    small, large = np.zeros(3, "f4"), np.zeros(1 << 19, "f4")
    with cs.create(tmp_path / "ds", {"a": cs.Array("float32", (3,)), "b": cs.Ragged("float32")}) as writer:
        for i in range(3):
            small[:], large[:] = i, i
            writer.write({"a": small, "b": large if i == 1 else small})
            small[:], large[:] = 9, 9
        small[:] = 3
        writer.write_batch({"a": small[None], "b": [large]})
        small[:], large[:] = 9, 9
    ds = cs.open(tmp_path / "ds")
    assert ds["a"][:].tolist() == [[i] * 3 for i in range(4)]
    shown = [(len(b), set(b.tolist())) for b in ds["b"][:]]
    assert shown == [(3, {0}), (1 << 19, {1}), (3, {2}), (1 << 19, {9})]  # the last was 9 when given


def test_statistics_are_those_of_numpy(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    numbers = rng.normal(3, 2, (5000, 3)).astype("f4")
    numbers[7] = [np.nan, np.inf, -np.inf]
    tokens = [rng.integers(0, 999, n, "u2") for n in rng.integers(0, 9, 5000)]
    texts = ["é" * n for n in rng.integers(0, 5, 5000)]
    half = rng.standard_normal(5000).astype("f2").astype("f4").view("u4") & 0xFFFF0000
    schema = {"x": cs.Array("float32", (3,)), "t": cs.Ragged("uint16"), "s": cs.Text(), "b": cs.Array("bfloat16")}
    batch = {"x": numbers, "t": tokens, "s": texts, "b": half.view("f4")}
    with cs.create(tmp_path / "ds", schema) as writer:
        writer.write_batch({name: values[:1000] for name, values in batch.items()})
        for i in range(1000, 1500):
            writer.write({name: values[i] for name, values in batch.items()})
    with cs.append(tmp_path / "ds") as writer:
        writer.write_batch({name: values[1500:] for name, values in batch.items()})
    found = cs.open(tmp_path / "ds").statistics
    finite = numbers[np.isfinite(numbers)].astype("f8")
    joined, lengths = np.concatenate(tokens), np.array([len(t) for t in tokens])
    sizes = np.array([len(s.encode()) for s in texts])
    for statistics, expected in [
        (found["x"]["values"], finite),
        (found["t"]["values"], joined),
        (found["t"]["lengths"], lengths),
        (found["s"]["lengths"], sizes),
        (found["b"]["values"], half.view("f4").astype("f8")),
    ]:
        assert (statistics.finite, statistics.min, statistics.max) == (len(expected), expected.min(), expected.max())
        assert statistics.mean == pytest.approx(expected.mean(), rel=1e-12)
        assert statistics.std == pytest.approx(expected.std(), rel=1e-12)
        assert sum(statistics.bin_counts) == len(expected)
    assert (found["x"]["values"].nan, found["x"]["values"].posinf, found["x"]["values"].neginf) == (1, 1, 1)
    assert set(found["s"]) == {"lengths"}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"label": 1, "tokens": []}, r"sample 1: field 'caption' is missing"),
        ({**sample(1), "extra": 1}, r"sample 1: field 'extra' is not in the schema"),
        ({**sample(1), "label": 1.5}, r"field 'label', sample 1: float"),
        ({**sample(1), "label": [1, 2]}, r"field 'label', sample 1: shape \(2,\)"),
        ({**sample(1), "caption": b"x"}, r"field 'caption', sample 1: bytes"),
        ([1, 2, 3], r"sample 1: a dict of field to value is needed, not list"),
    ],
)
def test_a_refused_sample_leaves_no_trace_and_the_writer_goes_on(tmp_path: Path, wrong: Any, told: str) -> None:
    with cs.create(tmp_path / "ds", SCHEMA) as writer:
        writer.write(sample(0))
        with pytest.raises(SampleError, match=told):
            writer.write(wrong)
        assert writer.num_samples == 1
        writer.write(sample(1))
    ds = cs.open(tmp_path / "ds")
    assert (ds["label"][:].tolist(), ds["caption"][:]) == ([0, 1], ["", "x"])


def test_a_refused_batch_leaves_no_trace_and_the_writer_goes_on(tmp_path: Path) -> None:
    with cs.create(tmp_path / "ds", SCHEMA) as writer:
        writer.write_batch(columns(0, 3))
        with pytest.raises(SampleError, match=r"batch at sample 3: columns differ in length: 'label': 2, 'tokens': 3"):
            writer.write_batch({**columns(3, 6), "label": [1, 2]})
        with pytest.raises(SampleError, match=r"field 'caption', sample 4: int"):
            writer.write_batch({**columns(3, 6), "caption": ["a", 4, "c"]})
        with pytest.raises(SampleError, match=r"batch at sample 3: field 'tokens' is missing"):
            writer.write_batch({"label": [1], "caption": ["a"]})
        writer.write_batch(columns(3, 6))
    assert cs.open(tmp_path / "ds")["label"][:].tolist() == list(range(6))


def test_writing_after_close_is_refused(tmp_path: Path) -> None:
    with cs.create(tmp_path / "ds", SCHEMA) as writer:
        writer.write(sample(0))
    writer.close()
    for call in (lambda: writer.write(sample(1)), lambda: writer.write_batch(columns(1, 2))):
        with pytest.raises(ValueError, match="writing after close"):
            call()
    assert cs.open(tmp_path / "ds").version == 1


def test_an_exception_in_the_block_leaves_no_version(location: Any) -> None:
    options = {"storage_options": location.storage_options or None}
    with pytest.raises(ZeroDivisionError), cs.create(location.url, SCHEMA, **options) as writer:
        writer.write_batch(columns(0, 100))
        raise ZeroDivisionError
    with pytest.raises(DatasetNotFound):
        cs.open(location.url, **options)
    with cs.create(location.url, SCHEMA, **options) as writer:  # what the failed one left is taken up
        writer.write(sample(5))
    with pytest.raises(ZeroDivisionError), cs.append(location.url, **options) as writer:
        writer.write(sample(6))
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="after close"):
        writer.write(sample(6))
    assert labels(location) == [5]
    assert cs.open(location.url, **options).version == 1


def test_create_where_a_dataset_is_and_append_where_none_is(location: Any) -> None:
    options = {"storage_options": location.storage_options or None}
    with pytest.raises(DatasetNotFound, match="create one with"):
        cs.append(location.url, **options)
    with cs.create(location.url, SCHEMA, **options) as writer:
        writer.write(sample(0))
    with pytest.raises(DatasetExists, match="version 1 of a dataset is there; use append"):
        cs.create(location.url, SCHEMA, **options)
    assert labels(location) == [0]


@pytest.mark.parametrize("schema", [{}, {"a/b": cs.Text()}, {"x": "int64"}, {"a": cs.Text(), "A": cs.Text()}])
def test_a_schema_that_cannot_be_stored_writes_nothing(tmp_path: Path, schema: Any) -> None:
    with pytest.raises(SchemaError):
        cs.create(tmp_path / "ds", schema)
    assert not (tmp_path / "ds").exists()


def chunk_codecs(root: Path, path: str) -> list[str]:
    (document,) = root.glob(f"fragments/*/0/{path}/zarr.json")
    configuration = json.loads(document.read_bytes())["codecs"][0]["configuration"]
    told = []
    for codec in configuration["codecs"]:
        inner = codec.get("configuration", {})
        told.append("-".join(str(part) for part in (codec["name"], inner.get("cname"), inner.get("shuffle")) if part))
    return told


def test_auto_compresses_where_it_pays_and_says_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n = 20000
    schema = {
        "smooth": cs.Array("int32"),
        "random": cs.Array("uint64"),
        "tokens": cs.Ragged("uint16"),
        "noise": cs.Ragged("uint8"),
        "text": cs.Text(),
        "blob": cs.Bytes(),
        "skewed": cs.Array("uint16"),
    }
    batch = {
        "smooth": np.arange(n, dtype="i4"),
        "random": rng.integers(0, 1 << 64, n, "u8"),
        "tokens": [np.full(5, i % 100, "u2") for i in range(n)],
        "noise": [rng.integers(0, 256, 9, "u1") for _ in range(n)],
        "text": ["the same words again and again"] * n,
        "blob": [rng.bytes(9) for _ in range(n)],
        "skewed": np.minimum(rng.geometric(0.3, n), 200).astype("u2"),
    }
    with cs.create(tmp_path / "ds", schema) as writer:
        writer.write_batch(batch)
    paths = {name: name if isinstance(field, cs.Array) else f"{name}/values" for name, field in schema.items()}
    found = {name: chunk_codecs(tmp_path / "ds", path) for name, path in paths.items()}
    plain = {"random": ["bytes", "crc32c"], "noise": ["bytes"], "blob": ["bytes"]}
    assert {name: found[name] for name in plain} == plain
    for name in set(schema) - set(plain):
        first, compressor, last = found[name]
        assert (first, last) == ("bytes", "crc32c")
        assert compressor.startswith(("blosc-lz4-", "blosc-zstd-", "zstd"))
    assert found["smooth"][1].endswith("shuffle")
    crcs = {p.parent.name for p in (tmp_path / "ds").glob("fragments/*/0/*/crc")}
    assert crcs == {"noise", "blob"}
    ds = cs.open(tmp_path / "ds")
    assert np.array_equal(ds["skewed"][:], batch["skewed"])
    assert np.array_equal(ds["random"][:], batch["random"])


@pytest.mark.parametrize(
    ("codec", "expected"),
    [
        (None, ["bytes", "crc32c"]),
        ("blosc-lz4", ["bytes", "blosc-lz4-shuffle", "crc32c"]),
        ("blosc-zstd-9", ["bytes", "blosc-zstd-shuffle", "crc32c"]),
        ("zstd", ["bytes", "zstd", "crc32c"]),
        ("gzip-9", ["bytes", "gzip", "crc32c"]),
    ],
)
def test_a_codec_that_is_named_is_taken_whatever_the_data(
    tmp_path: Path, codec: str | None, expected: list[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 1 << 32, 5000, "u4")
    with cs.create(tmp_path / "ds", {"x": cs.Array("uint32", codec=codec)}) as writer:
        writer.write_batch({"x": noise})
    assert chunk_codecs(tmp_path / "ds", "x") == expected
    assert np.array_equal(cs.open(tmp_path / "ds")["x"][:], noise)


def test_images_are_not_compressed_again(tmp_path: Path) -> None:
    with cs.create(tmp_path / "ds", {"x": cs.Image("png")}) as writer:
        writer.write_batch({"x": [np.zeros((64, 64, 3), "u1")] * 50})
    assert chunk_codecs(tmp_path / "ds", "x/values") == ["bytes"]


def test_rows_larger_than_a_chunk_and_shards_that_are_insisted_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    schema = {
        "volume": cs.Array("float32", (3, 700, 600)),  # 5 MB a sample: split over chunks
        "small_shards": cs.Array("int16", (10,), chunk=2, shard=4),
        "boxes": cs.Array("int16", (10, 9), chunk=(4, 3, 5), shard=8, codec="zstd-1"),
        "ragged": cs.Ragged("int32", chunk=1024, shard=4096),
    }
    volumes = rng.standard_normal((7, 3, 700, 600), "f4")
    small, boxes = rng.integers(0, 99, (7, 10), "i2"), rng.integers(0, 99, (7, 10, 9), "i2")
    ragged = [rng.integers(0, 99, n, "i4") for n in (0, 5000, 1, 9000, 0, 2, 4096)]
    with cs.create(tmp_path / "ds", schema) as writer:
        writer.write_batch({"volume": volumes[:5], "small_shards": small[:5], "boxes": boxes[:5], "ragged": ragged[:5]})
        for i in (5, 6):
            writer.write({"volume": volumes[i], "small_shards": small[i], "boxes": boxes[i], "ragged": ragged[i]})
    (part,) = (tmp_path / "ds").glob("fragments/*/0")
    assert len(list(part.glob("small_shards/c/*/0"))) == 2
    assert len(list(part.glob("ragged/values/c/*"))) == -(-sum(map(len, ragged)) // 4096)
    grid = json.loads((part / "volume" / "zarr.json").read_bytes())["codecs"][0]["configuration"]["chunk_shape"]
    assert np.prod(grid) * 4 <= 256 << 10
    ds = cs.open(tmp_path / "ds")
    for rows in (slice(None), [6, 0, 3], [4], slice(1, 6, 2)):
        assert np.array_equal(ds["volume"][rows], volumes[rows])
        assert np.array_equal(ds["small_shards"][rows], small[rows])
        assert np.array_equal(ds["boxes"][rows], boxes[rows])
    for shown, given in zip(ds["ragged"][:], ragged, strict=True):
        assert np.array_equal(shown, given)


def test_a_store_that_fails_ends_the_writer_and_leaves_no_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cs.create(tmp_path / "ds", SCHEMA) as writer:
        writer.write(sample(0))

    def fail(self: object, data: object) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr("chunkstore.store.local.LocalUpload.write", fail)
    with pytest.raises(StoreError, match="disk full"), cs.append(tmp_path / "ds") as writer:
        for i in range(100):
            writer.write_batch({**columns(0, 1000), "label": np.arange(1000) + i})
    with pytest.raises(StoreError, match="disk full"):
        for i in range(1000):  # many more than may wait: a failed writer raises, it does not hang
            writer = cs.append(tmp_path / "ds")
            writer.write_batch({**columns(0, 1000), "label": np.arange(1000) + i})
            writer.close()
    monkeypatch.undo()
    assert cs.open(tmp_path / "ds").version == 1


def test_a_crashed_creation_is_taken_up(location: Any) -> None:
    options = {"storage_options": location.storage_options or None}
    abandoned = cs.create(location.url, {"other": cs.Text()}, **options)
    abandoned.write({"other": "never committed"})
    with cs.create(location.url, SCHEMA, **options) as writer:
        writer.write(sample(3))
    assert labels(location) == [3]
    with pytest.raises(DatasetExists):
        abandoned.close()
    assert cs.open(location.url, **options).version == 1


def test_a_zarr_group_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    open_store(tmp_path / "ds").write("zarr.json", b'{"zarr_format":3,"node_type":"group","attributes":{}}')
    with pytest.raises(cs.InvalidDataset, match="no chunkstore dataset"):
        cs.create(tmp_path / "ds", SCHEMA)


def run(code: str, *arguments: object, timeout_s: float = 120) -> str:
    completed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


PEAK_MIB = """
    def peak_mib():  # ru_maxrss would be the parent's, where that is larger: it survives exec
        return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) >> 10
"""
WRITE_2_GB = """
    import sys, numpy, numcodecs
    import chunkstore as cs
    schema = {"noise": cs.Array("float64", (512,), codec=None), "smooth": cs.Array("int64", (512,)), "bytes": cs.Bytes()}
    writer_ = cs.create(sys.argv[1], schema)
    before = peak_mib()
    noise = numpy.random.default_rng(0).random((512, 512))
    smooth = numpy.arange(512 * 512).reshape(512, 512)
    blob = noise.tobytes()[:4096]
    written = 0
    with writer_:
        while written < 2 << 30:
            writer_.write_batch({"noise": noise, "smooth": smooth, "bytes": [blob] * 512})
            written += noise.nbytes + smooth.nbytes + 512 * len(blob)
    print(peak_mib() - before)
"""


def test_writing_2_gb_takes_less_than_512_mb_of_memory(tmp_path: Path) -> None:
    peak_mib = int(run(PEAK_MIB + WRITE_2_GB, tmp_path / "ds"))
    assert 16 < peak_mib < 512 * 1000**2 / 2**20  # some buffers are full at least, else nothing was measured
    assert len(list((tmp_path / "ds").glob("fragments/*/0/noise/c/*/0"))) >= 5


def test_shards_are_uploaded_as_they_fill(tmp_path: Path) -> None:
    with cs.create(tmp_path / "ds", {"x": cs.Array("uint8", (1 << 20,), codec=None, shard=8)}) as writer:
        for i in range(100):
            writer.write({"x": np.full(1 << 20, i, np.uint8)})
        shards = list((tmp_path / "ds").glob("fragments/*/0/x/c/*/0"))
        assert len(shards) >= (100 - 48 - 8 - 4) // 8  # all but what may wait
    assert cs.open(tmp_path / "ds")["x"][:].max(axis=1).tolist() == list(range(100))


ONE_GB = """
    import sys
    import chunkstore as cs
    size = 1 << 30
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]
    with cs.create(sys.argv[1], {"blob": cs.Bytes(codec=None)}) as writer:
        writer.write_batch({"blob": [b"before"]})
        writer.write({"blob": data})
        writer.write({"blob": b"after"})
    ds = cs.open(sys.argv[1])
    assert ds[0]["blob"] == b"before" and ds[2]["blob"] == b"after"
    assert ds[1]["blob"] == data
    print(peak_mib())
"""


def test_a_sample_of_1_gb_is_written_and_read_back(tmp_path: Path) -> None:
    peak_mib = int(run(PEAK_MIB + ONE_GB, tmp_path / "ds"))
    assert (
        2048 < peak_mib < 4096
    )  # what was given and what was read are both there at the end, else nothing was measured


def test_one_sample_at_a_time_costs_no_sink_call_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    append = writer_module.Writer._pass_on
    monkeypatch.setattr(writer_module.Writer, "_pass_on", lambda self, held: (calls.append(1), append(self, held)))
    with cs.create(tmp_path / "ds", SCHEMA) as writer:
        for i in range(4000):
            writer.write(sample(i))
    assert len(calls) <= 4
    assert cs.open(tmp_path / "ds")["label"][:].tolist() == list(range(4000))


@pytest.mark.parametrize("chunk", [None, 512])
def test_blocks_hold_whole_chunks_of_the_large_fields(tmp_path: Path, chunk: int | None) -> None:
    """A chunk that stood in two blocks would be read twice."""
    field = cs.Array("float32", (1024,), chunk=chunk, block_nbytes=64 << 10)
    with cs.create(tmp_path / "ds", {"large": field, "small": cs.Array("int8")}) as writer:
        writer.write_batch({"large": np.zeros((2000, 1024), "f4"), "small": np.zeros(2000, "i1")})
    (document,) = (tmp_path / "ds").glob("fragments/*/0/large/zarr.json")
    chunk_rows = json.loads(document.read_bytes())["codecs"][0]["configuration"]["chunk_shape"][0]
    (fragment,) = cs.open(tmp_path / "ds").version_document.fragments
    assert chunk_rows > (64 << 10) // 4096  # more than the blocks insisted on would hold
    assert fragment.block_rows == chunk_rows
