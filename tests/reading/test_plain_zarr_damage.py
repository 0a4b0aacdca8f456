"""Plain Zarr that is damaged or hostile, and what plain Zarr cannot do: an error that says so, never wrong data."""

import copy
import json
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from recording_store import RecordingStore
from web_server import serving
from zarr_writers import WRITERS, consolidate

import chunkstore as cs
from chunkstore.errors import (
    CorruptChunk,
    DatasetNotFound,
    InvalidDataset,
    StateMismatch,
    StoreError,
    UnsupportedFormat,
)
from chunkstore.reading.plain_zarr import open_plain_zarr
from chunkstore.store.location import open_store

VALUES = np.arange(40 * 6, dtype="int32").reshape(40, 6)


def write(folder: Path, **options: Any) -> None:
    zarr.open_group(folder, mode="w", zarr_format=options.pop("zarr_format", 3)).create_array(
        "x", data=VALUES, chunks=(10, 3), **options
    )


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 0x10
    file.write_bytes(data)


CHECKED = {"compressors": [zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]}
TWICE = {"compressors": [zarr.codecs.GzipCodec(), zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]}
TRANSPOSED = {**CHECKED, "filters": [zarr.codecs.TransposeCodec(order=(1, 0))]}


@pytest.mark.parametrize(
    ("options", "file"),
    [
        pytest.param(CHECKED, "x/c/1/1", id="own"),
        pytest.param({**CHECKED, "shards": (20, 6)}, "x/c/0/0", id="own, sharded"),
        pytest.param({**TRANSPOSED, "shards": (20, 6)}, "x/c/0/0", id="own, transposed"),
        pytest.param(TWICE, "x/c/1/1", id="zarr-python"),
        pytest.param({**TWICE, "shards": (20, 6)}, "x/c/0/0", id="zarr-python, sharded"),
        pytest.param({"zarr_format": 2, "order": "F"}, "x/1.1", id="v2"),
        pytest.param({"zarr_format": 2, "filters": [numcodecs.Delta("<i4")]}, "x/1.1", id="v2, zarr-python"),
    ],
)
def test_a_damaged_chunk_is_named_and_the_others_are_served(options: dict[str, Any], file: str, tmp_path: Path) -> None:
    write(tmp_path / "zarr", **options)
    file_at = tmp_path / "zarr" / file
    if "shards" in options:  # chunk (1, 1) is the last of four
        entries = struct.unpack("<8Q", file_at.read_bytes()[-68:-4])
        flip(file_at, entries[6] + entries[7] // 2)
    elif "zarr_format" in options:  # which has no checksums, so that not every flip can be seen
        file_at.write_bytes(file_at.read_bytes()[:-9])
    else:
        flip(file_at, file_at.stat().st_size // 2)
    ds = cs.open(tmp_path / "zarr")
    with pytest.raises(CorruptChunk, match=rf"zarr/{file}.*field 'x', samples 10–19"):
        ds["x"][:]
    with pytest.raises(CorruptChunk, match=file):
        ds["x"][12]
    assert (ds["x"][20:, :] == VALUES[20:]).all()
    assert (ds["x"][10:20, :3] == VALUES[10:20, :3]).all()


@pytest.mark.parametrize("cut", [1, 30, 67, 10_000])
def test_a_cut_shard_or_a_damaged_index_is_an_error(cut: int, tmp_path: Path) -> None:
    write(tmp_path / "zarr", shards=(20, 6))
    shard = tmp_path / "zarr/x/c/1/0"
    shard.write_bytes(shard.read_bytes()[:-cut])
    with pytest.raises(InvalidDataset, match=r"x/c/1/0.*field 'x'"):
        cs.open(tmp_path / "zarr")["x"][25]
    write(tmp_path / "zarr", shards=(20, 6))
    flip(shard, shard.stat().st_size - 40)
    with pytest.raises(InvalidDataset, match=r"x/c/1/0.*crc32c mismatch.*samples 20–39"):
        cs.open(tmp_path / "zarr")["x"][25]
    assert (cs.open(tmp_path / "zarr")["x"][:20] == VALUES[:20]).all()


def test_a_chunk_that_decodes_to_more_is_refused_before_it_does(tmp_path: Path) -> None:
    write(tmp_path / "zarr", compressors=[zarr.codecs.ZstdCodec()])
    (tmp_path / "zarr/x/c/0/0").write_bytes(numcodecs.Zstd().encode(bytes(1 << 28)))
    tracemalloc.start()
    with pytest.raises(CorruptChunk, match="x/c/0/0"):
        cs.open(tmp_path / "zarr")["x"][0]
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()
    (tmp_path / "zarr/x/c/0/0").write_bytes(bytes(1 << 20))
    with pytest.raises(CorruptChunk, match="more bytes than a chunk can have"):
        cs.open(tmp_path / "zarr")["x"][0]


def _set(*path: Any) -> Callable[[dict[str, Any]], None]:
    *where, key, value = path

    def change(document: dict[str, Any]) -> None:
        for step in where:
            document = document[step]
        document[key] = value

    return change


def sharding(chunk_shape: list[int]) -> list[dict[str, Any]]:
    index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    configuration = {"chunk_shape": chunk_shape, "codecs": index[:1], "index_codecs": index}
    return [{"name": "sharding_indexed", "configuration": configuration}]


GRID = ("chunk_grid", "configuration", "chunk_shape")
HOSTILE_V3 = {
    "lengths of 2^63": _set("shape", [2**63, 6]),
    "negative lengths": _set("shape", [-1, 6]),
    "floats for lengths": _set("shape", [40.0, 6]),
    "huge rows": _set("shape", [40, 2**40]),
    "more blocks than can be ordered": _set("shape", [2**61, 6]),
    "huge chunks": _set(*GRID, [2**40, 2**20]),
    "a sample in millions of chunks": lambda d: (d.update(shape=[40, 2**28]), _set(*GRID, [1, 1])(d)),
    "chunks of no rows": _set(*GRID, [0, 3]),
    "chunks of another rank": _set(*GRID, [10]),
    "another grid": _set("chunk_grid", "name", "rectilinear"),
    "an unknown codec": lambda d: d["codecs"].append({"name": "vlen-bytes"}),
    "pickles": lambda d: d["codecs"].append({"name": "numcodecs.pickle"}),
    "objects": _set("data_type", "string"),
    "an unknown type": _set(
        "data_type", {"name": "numpy.datetime64", "configuration": {"unit": "s", "scale_factor": 1}}
    ),
    "a fill value of another type": _set("fill_value", "abc"),
    "a fill value out of range": _set("fill_value", 2**31),
    "an extension that must be understood": _set("storage", {"name": "x"}),
    "another key encoding": _set("chunk_key_encoding", {"name": "hash"}),
    "names of another rank": _set("dimension_names", ["a"]),
    "codecs that are none": _set("codecs", 3),
    "no codecs": _set("codecs", []),
    "an unknown node": _set("node_type", "table"),
    "chunks that do not divide shards": _set("codecs", sharding([3, 3])),
    "shards of 2^40 chunks": lambda d: (_set(*GRID, [2**40, 3])(d), d.update(codecs=sharding([1, 3]))),
}


@pytest.mark.parametrize("change", HOSTILE_V3.values(), ids=HOSTILE_V3)
def test_hostile_metadata_is_refused_at_once(change: Callable[[dict[str, Any]], object], tmp_path: Path) -> None:
    write(tmp_path)
    document = json.loads((tmp_path / "x/zarr.json").read_text())
    change(document)
    (tmp_path / "x/zarr.json").write_text(json.dumps(document))
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises((InvalidDataset, UnsupportedFormat)) as refused:
        cs.open(tmp_path)
    assert time.process_time() - start < 0.3  # usually some milliseconds
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
    assert str(tmp_path) in str(refused.value)


ARRAY = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [4],
    "data_type": "int8",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4]}},
    "chunk_key_encoding": {"name": "default"},
    "fill_value": 0,
    "codecs": [{"name": "bytes"}],
}


def consolidated(nodes: dict[str, Any]) -> str:
    return json.dumps({"zarr_format": 3, "node_type": "group", "consolidated_metadata": {"metadata": nodes}})


LARGEST = 8 << 20
LARGE = {
    "45 MB of lists": lambda: '{"a":[' + "[]," * 15_000_000 + "0]}",
    "lists": lambda: '{"a":[' + "[]," * 200_000 + "0]}",
    "the most objects": lambda: '{"a":[' + '{"a":{}},' * 65_000 + "0]}",
    "the most numbers": lambda: '{"a":[' + "1.5," * 262_000 + "0]}",
    "the deepest lists": lambda: '{"a":' + "[" * 131_000 + "]" * 131_000 + "}",
    "members": lambda: "{" + ",".join(f'"k{i:020d}":0' for i in range(200_000)) + "}",
    "long integers": lambda: '{"a":[' + ("1" * 4300 + ",") * 1900 + "0]}",
    "a string of escapes": lambda: '{"a":"' + "\\n" * (LARGEST // 2 - 50) + '"}',
    "a wide string": lambda: '{"a":"\U0001f600' + "x" * (LARGEST - 100) + '"}',
    "a wide string, escaped": lambda: '{"a":"\\ud83d\\ude00' + "x" * (LARGEST - 100) + '"}',
    "arrays": lambda: consolidated({f"a{i}": ARRAY for i in range(4097)}),
    "groups": lambda: consolidated({f"g{i}": {"node_type": "group"} for i in range(20_000)}),
}


@pytest.mark.parametrize("text", LARGE.values(), ids=LARGE)
def test_large_metadata_is_refused_before_much_is_made_of_it(text: Callable[[], str], tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text(text(), encoding="utf-8")
    store = open_store(tmp_path)
    start = time.process_time()
    with pytest.raises((InvalidDataset, UnsupportedFormat), match=str(tmp_path)):
        open_plain_zarr(store)
    assert time.process_time() - start < 0.3  # the slowest takes 0.1 where nothing else runs
    tracemalloc.start()
    with pytest.raises((InvalidDataset, UnsupportedFormat)):
        open_plain_zarr(store)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


def test_much_metadata_found_by_listing_is_not_fetched(tmp_path: Path) -> None:
    zarr.open_group(tmp_path, mode="w")
    for i in range(12):
        (tmp_path / f"{i}").mkdir()
        (tmp_path / f"{i}/zarr.json").write_text(json.dumps({**ARRAY, "attributes": {"a": "x" * 1_000_000}}))
    store = RecordingStore(open_store(tmp_path))
    with pytest.raises(UnsupportedFormat, match=r"too much metadata.*consolidate"):
        open_plain_zarr(store)
    assert len(store.of("read")) == 4


def test_as_many_arrays_as_a_schema_may_have_are_opened_in_linear_time(tmp_path: Path) -> None:
    taken = []
    for count in (1024, 4096):
        (tmp_path / "zarr.json").write_text(consolidated({f"a{i}": ARRAY for i in range(count)}))
        start = time.process_time()
        assert len(open_plain_zarr(open_store(tmp_path)).arrays) == count
        taken.append(time.process_time() - start)
    assert taken[1] < 8 * taken[0] + 0.2  # a schema an array makes it 16


def test_names_of_fields_differ_by_more_than_case_and_from_dimensions(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text(consolidated(dict.fromkeys(("x", "X", "a/b", "a.b", "sample", "y"), ARRAY)))
    plain = open_plain_zarr(open_store(tmp_path))
    assert sorted(plain.arrays) == ["X", "a.b", "y"]
    assert sorted(plain.left_out) == ["a/b", "sample", "x"]


def test_a_web_server_asks_for_consolidated_metadata(tmp_path: Path) -> None:
    write(tmp_path)
    with serving(tmp_path) as server:
        with pytest.raises(StoreError, match=r"cannot list.*zarr\.consolidate_metadata"):
            cs.open(server.url)
        assert (cs.open(f"{server.url}/x")["data"][:] == VALUES).all()


HOSTILE_V2 = {
    "objects": _set("dtype", "|O"),
    "structures": _set("dtype", [["a", "<i4"]]),
    "dates": _set("dtype", "<M8[ns]"),
    "no dtype": _set("dtype", "os.system"),
    "pickles": _set("filters", [{"id": "pickle"}]),
    "pickles as a compressor": _set("compressor", {"id": "pickle"}),
    "objects as JSON": _set("filters", [{"id": "json2"}]),
    "another order": _set("order", "K"),
    "another separator": _set("dimension_separator", "../"),
    "lengths of 2^63": _set("shape", [2**63, 6]),
    "chunks of another rank": _set("chunks", [10]),
}


@pytest.mark.parametrize("change", HOSTILE_V2.values(), ids=HOSTILE_V2)
def test_hostile_metadata_of_v2_is_refused(change: Callable[[dict[str, Any]], object], tmp_path: Path) -> None:
    write(tmp_path, zarr_format=2)
    document = json.loads((tmp_path / "x/.zarray").read_text())
    change(document)
    (tmp_path / "x/.zarray").write_text(json.dumps(document))
    with pytest.raises((InvalidDataset, UnsupportedFormat), match="x"):
        cs.open(tmp_path)


@pytest.mark.parametrize("codec", ["pickle", "json2", "msgpack2", "vlen-utf8", "categorize", "os.system"])
@pytest.mark.parametrize("place", ["filters", "compressor"])
def test_codecs_that_make_objects_are_refused_before_zarr_python_sees_them(
    codec: str, place: str, tmp_path: Path
) -> None:
    write(tmp_path, zarr_format=2)
    document = json.loads((tmp_path / "x/.zarray").read_text())
    document[place] = [{"id": codec}] if place == "filters" else {"id": codec}
    (tmp_path / "x/.zarray").write_text(json.dumps(document))
    with pytest.raises(UnsupportedFormat, match=rf"\(x: codec '{codec}'\)"):
        cs.open(tmp_path)


def test_paths_in_consolidated_metadata_lead_nowhere_else(tmp_path: Path) -> None:
    write(tmp_path / "zarr")
    consolidate(tmp_path / "zarr")
    root = json.loads((tmp_path / "zarr/zarr.json").read_text())
    nodes = root["consolidated_metadata"]["metadata"]
    for path in ("../secret", "/etc/secret", "x/../../secret", "a//b", ".", "x y"):
        nodes[path] = copy.deepcopy(nodes["x"])
    (tmp_path / "zarr/zarr.json").write_text(json.dumps(root))
    ds = cs.open(tmp_path / "zarr")
    assert list(ds.schema) == ["x"]
    assert "left out ../secret: not a key" in ds.version_document.message


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 100_000, '{"zarr_format": 4, "node_type": "group"}', '{"a": 1, "a": 2}', "\xff"]
)
def test_what_is_no_metadata_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidDataset, match=r"zarr\.json"):
        cs.open(tmp_path)


def test_plain_zarr_has_one_version_and_no_tags(tmp_path: Path) -> None:
    write(tmp_path)
    ds = cs.open(tmp_path)
    assert len(cs.open(tmp_path, version=ds.version)) == 40
    with pytest.raises(DatasetNotFound, match="only version"):
        cs.open(tmp_path, version=1)
    with pytest.raises(DatasetNotFound, match="no tags"):
        cs.open(tmp_path, tag="v1")
    document = json.loads((tmp_path / "x/zarr.json").read_text())
    (tmp_path / "x/zarr.json").write_text(json.dumps({**document, "attributes": {"changed": True}}))
    again = cs.open(tmp_path)
    assert again.version != ds.version
    assert again.uuid != ds.uuid


@pytest.mark.parametrize(
    "write_it",
    [
        lambda url: cs.create(url, {"x": cs.Array("int32", (6,))}),
        cs.append,
        lambda url: cs.tag(url, "v1"),
        lambda url: cs.rollback(url, 1),
    ],
    ids=["create", "append", "tag", "rollback"],
)
def test_plain_zarr_is_never_written_to(write_it: Callable[[str], Any], tmp_path: Path) -> None:
    write(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(cs.errors.ChunkstoreError), write_it(str(tmp_path)) as writer:
        writer.write({"x": np.zeros(6, "int32")})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("shuffle", "writer"),
    [(False, "zarr_3_sharded"), (True, "zarr_3_sharded"), ("full", "zarr_3_sharded"), (True, "zarr_2_filtered")],
)
def test_a_loader_serves_every_sample_once_and_resumes(shuffle: Any, writer: str, tmp_path: Path) -> None:
    arrays = {"index": np.arange(400), "x": np.arange(8000, dtype="float32").reshape(400, 20)}
    WRITERS[writer](tmp_path / "zarr", arrays)
    options = {"shuffle": shuffle, "seed": 3, "drop_last": False, "window_nbytes": 1 << 14}
    loader = cs.Loader(tmp_path / "zarr", batch_size=32, **options)
    assert cs.open(tmp_path / "zarr").version_document.fragments[0].block_rows % 10 == 0
    served, state = [], None
    for step, batch in enumerate(loader):
        assert (batch["x"] == arrays["x"][batch["index"]]).all()
        served.append(batch["index"])
        if step == 4:
            state = json.loads(json.dumps(loader.state_dict()))
    assert sorted(np.concatenate(served)) == list(range(400))
    rest = cs.Loader(tmp_path / "zarr", batch_size=32, **options)
    rest.load_state_dict(state)
    assert (np.concatenate([batch["index"] for batch in rest]) == np.concatenate(served[5:])).all()


def test_a_state_is_refused_once_the_metadata_changed(tmp_path: Path) -> None:
    write(tmp_path)
    loader = cs.Loader(tmp_path, batch_size=8)
    next(iter(loader))
    state = loader.state_dict()
    zarr.open_group(tmp_path, mode="a")["x"].resize((50, 6))
    with pytest.raises(StateMismatch, match="dataset is"):
        cs.Loader(tmp_path, batch_size=8).load_state_dict(state)
