"""Data of format version 1 stay readable: by today's code, and by the reader that was written from the spec.

The same tests run on the golden data, which are never regenerated, and on what today's code writes.
"""

import importlib.util
import io
import json
import os
import re
import shutil
import sys
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import chunkstore as cs
from chunkstore.format import paging
from chunkstore.format.documents import seal
from chunkstore.format.shard_index import encode_index
from chunkstore.plan.order import FragmentExtent, list_positions, plan_order
from chunkstore.plan.steps import rank_places
from chunkstore.reading.present import RaggedBatch

HERE = Path(__file__).parent
GOLDEN = HERE / "v1"
SPEC = (HERE.parents[1] / "docs" / "spec" / "v1.md").read_text("utf-8")


def load(name):
    spec = importlib.util.spec_from_file_location(f"golden_{name}", HERE / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_v1, spec_reader = load("make_v1"), load("spec_reader")
NAMES = ["types", "dtypes", "codecs", "grids", "no_samples", "one_sample", "empty_values"]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden") / "fresh"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)  # a thousand small files; their durability is tested elsewhere
        make_v1.make(folder)
    return folder


@pytest.fixture(params=["golden", "fresh"])
def folder(request):
    return GOLDEN if request.param == "golden" else request.getfixturevalue("fresh")


class Expected:
    """The stored expectation of one dataset, apart from the package."""

    def __init__(self, folder, name):
        with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
            self.arrays = dict(file)

    def samples(self, name):
        """One value a sample: arrays, or bytes where a field has no shapes."""
        if name in self.arrays:
            return list(self.arrays[name])
        values, offsets = self.arrays[f"{name}.values"], self.arrays[f"{name}.offsets"].tolist()
        pieces = [values[a:b] for a, b in pairwise(offsets)]
        if f"{name}.shapes" not in self.arrays:
            return [piece.tobytes() for piece in pieces]
        shapes = self.arrays[f"{name}.shapes"].tolist()
        return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def same(got, expected):
    """Equal in dtype, shape and every bit."""
    if isinstance(expected, bytes):
        return (got.encode() if isinstance(got, str) else got) == expected
    got, expected = np.asarray(got), np.asarray(expected)
    return got.dtype == expected.dtype and got.shape == expected.shape and got.tobytes() == expected.tobytes()


def as_float32(bits):
    return (np.asarray(bits).astype("<u4") << 16).view("<f4")


def assert_same(got, expected, where):
    assert len(got) == len(expected), where
    for i, (one, other) in enumerate(zip(got, expected, strict=True)):
        assert same(one, other), f"{where}, sample {i}: {one!r} instead of {other!r}"


# Golden data are what they were


def test_no_byte_of_the_golden_data_changed():
    listed = dict(line.split("  ")[::-1] for line in (GOLDEN / "manifest.txt").read_text().splitlines())
    assert make_v1.checksums(GOLDEN) == listed
    assert {path.name for path in GOLDEN.iterdir() if path.is_dir()} == set(NAMES)


def test_golden_data_are_never_written_over(fresh):
    with pytest.raises(FileExistsError):
        make_v1.make(fresh)


# Every value, read in every way


@pytest.mark.parametrize("name", NAMES)
def test_the_reader_written_from_the_spec_reads_every_value(folder, name):
    contents = spec_reader.read_dataset(folder / name)
    expected = Expected(folder, name)
    for field, kind in contents.document["schema"].items():
        got = contents.fields[field]
        if kind.get("dtype") == "bfloat16":
            got = [as_float32(bits) for bits in got]
        assert_same(got, expected.samples(field), f"{name}: {field}")


@pytest.mark.parametrize("name", NAMES)
def test_todays_code_reads_every_value(folder, name):
    dataset = cs.open(folder / name, decode=False)
    expected = {field: Expected(folder, name).samples(field) for field in dataset.schema}
    assert all(len(values) == len(dataset) for values in expected.values())
    batch = dataset[0 : len(dataset)]
    for field, values in expected.items():
        got = batch[field]
        assert_same(list(got) if isinstance(got, RaggedBatch) else got, values, f"{name}: {field}, as a batch")
    for i in range(0, len(dataset), 1 + len(dataset) // 10):
        sample = dataset[i]
        assert list(sample) == list(expected)
        for field, value in sample.items():
            assert same(value, expected[field][i]), f"{name}: {field}, sample {i}: {value!r}"


@pytest.mark.parametrize("name", NAMES)
def test_statistics_are_those_of_the_values(folder, name):
    contents = spec_reader.read_dataset(folder / name)
    for field, kind in contents.document["schema"].items():
        samples = contents.fields[field]
        stored = contents.document["statistics"][field]
        assert set(stored) == {"array": {"values"}, "ragged": {"values", "lengths"}}.get(kind["type"], {"lengths"})
        if "values" in stored:
            flat = [as_float32(v) if kind["dtype"] == "bfloat16" else np.asarray(v) for v in samples]
            numbers = [int(n) if isinstance(n, bool) else n for v in flat for n in v.reshape(-1).tolist()]
            spec_reader.check_statistics(stored["values"], numbers)
        if "lengths" in stored:
            lengths = [
                v.size if isinstance(v, np.ndarray) else len(v.encode() if isinstance(v, str) else v) for v in samples
            ]
            spec_reader.check_statistics(stored["lengths"], lengths)


def test_decoded_images_are_the_pixels_that_were_encoded(folder):
    """PNG is lossless and old: its pixels are the same with every decoder."""
    dataset = cs.open(folder / "types")
    for field, channels in (("png", 3), ("png_alpha", 4)):
        for i, data in enumerate(Expected(folder, "types").samples(field)):
            with Image.open(io.BytesIO(data)) as image:
                pixels = np.asarray(image)
            assert pixels.shape[2] == channels
            assert same(dataset[i][field], pixels)


def test_old_versions_stay_readable(folder):
    for number in (1, 2, 3):
        contents = spec_reader.read_dataset(folder / "grids", number)
        dataset = cs.open(folder / "grids", version=number)
        assert dataset.version == number
        assert len(dataset) == len(contents.fields["slabs"]) == [13, 20, 21][number - 1]
        assert_same(list(dataset["long"][:]), contents.fields["long"], f"version {number}")


# What the golden data hold


def test_golden_data_cover_the_layouts(folder):
    """Several shards, several chunks a shard, rows cut into chunks, several fragments, every codec."""
    parts = [json.loads(path.read_bytes()) for path in folder.glob("*/fragments/*/0/zarr.json")]
    arrays = [node for part in parts for node in part["consolidated_metadata"]["metadata"].values() if "shape" in node]
    chains = {tuple(c["name"] for c in a["codecs"][0]["configuration"]["codecs"]) for a in arrays}
    plain, packed = ("bytes",), [("bytes", name, "crc32c") for name in ("blosc", "zstd", "gzip")]
    assert chains == {plain, ("bytes", "crc32c"), *packed}
    shards = [a["chunk_grid"]["configuration"]["chunk_shape"] for a in arrays]
    chunks = [a["codecs"][0]["configuration"]["chunk_shape"] for a in arrays]
    shapes = [a["shape"] for a in arrays]
    assert any(n[0] > 2 * s[0] > 2 * c[0] for n, s, c in zip(shapes, shards, chunks, strict=True))
    assert any(len(n) > 2 and c[1] < n[1] and n[1] % c[1] for n, c in zip(shapes, chunks, strict=True))
    assert {a["data_type"] for a in arrays} == set(spec_reader.DTYPES)
    assert len(list((folder / "grids" / "fragments").glob("*/0"))) == 3
    kinds = {f["type"] for f in spec_reader.read_version(folder / "types", 2)["schema"].values()}
    assert kinds == {"array", "ragged", "image", "text", "bytes"}


# Order


def test_the_order_is_the_golden_one(folder):
    golden = json.loads((folder / "order.json").read_bytes())
    assert len(golden["orders"]) > 50
    for vector in golden["orders"]:
        extents = [FragmentExtent(*fragment) for fragment in golden["versions"][vector["version"]]]
        positions = list_positions(plan_order(extents, **vector["options"]), vector["epoch"]).tolist()
        assert positions == vector["positions"], (vector["version"], vector["options"], vector["epoch"])
        assert sorted(positions) == list(range(sum(extent.samples for extent in extents)))
    for step in golden["steps"]:
        world = len(step["ranks"])
        options = {"contiguous": step["contiguous"]}
        for rank, places in enumerate(step["ranks"]):
            got = rank_places(step["consumed"], step["global_batch"], rank, world, step["samples"], **options)
            assert got.tolist() == places, (step, rank)


# The reader notices damage, so that its silence means something


@pytest.mark.parametrize(
    "where", ["types/_chunkstore/versions/*1.json", "types/fragments/*/0/**/*", "types/fragments/*/0/zarr.json"]
)
def test_the_reader_written_from_the_spec_refuses_any_flipped_bit(fresh, where, tmp_path):
    copy = tmp_path / "types"
    shutil.copytree(fresh / "types", copy)
    paths = sorted(path for path in tmp_path.glob(where) if path.is_file())
    assert paths
    for path in paths[:: 1 + len(paths) // 12]:
        whole = path.read_bytes()
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 16]) + whole[middle + 1 :])
        with pytest.raises(spec_reader.Refused):
            spec_reader.read_dataset(copy, 1), spec_reader.read_dataset(copy, 2)
        path.write_bytes(whole)
    spec_reader.read_dataset(copy)


def test_the_reader_written_from_the_spec_reads_pages_and_refuses_any_flipped_bit_in_them(tmp_path, monkeypatch):
    monkeypatch.setattr(paging, "INLINE_NBYTES", 400)
    root = tmp_path / "paged"
    for first in range(0, 15, 3):
        with cs.append(root) if first else cs.create(root, {"x": cs.Array("int32"), "t": cs.Text()}) as writer:
            for number in range(first, first + 3):
                writer.write({"x": number, "t": str(number)})
    monkeypatch.undo()
    contents = spec_reader.read_dataset(root)
    assert [int(value) for value in contents.fields["x"]] == list(range(15)) == cs.open(root)["x"][:].tolist()
    assert contents.fields["t"] == [str(number) for number in range(15)]
    assert len(spec_reader.unseal(spec_reader.version_path(root, 5).read_bytes())["pages"]) == 1
    for path in root.glob("_chunkstore/pages/*"):
        whole = path.read_bytes()
        path.write_bytes(whole[:90] + bytes([whole[90] ^ 1]) + whole[91:])
    with pytest.raises(spec_reader.Refused, match="checksum of a page"):
        spec_reader.read_dataset(root)


# The spec's own examples


def blocks(mark):
    return re.findall(rf"<!-- {mark} -->\n```\w+\n(.*?)```", SPEC, re.DOTALL)


def test_sealed_examples_of_the_spec_open_and_are_what_we_would_write():
    lines = "".join(blocks("sealed")).splitlines()
    assert len(lines) == 6
    for line in lines:
        document = spec_reader.unseal(line.encode())
        assert seal(document) == line.encode()


def test_the_page_of_the_spec_lists_the_fragment_of_its_version_document(tmp_path):
    version, page = (blocks("sealed")[number].strip().encode() for number in (1, 2))
    (tmp_path / "_chunkstore/pages").mkdir(parents=True)
    (tmp_path / f"_chunkstore/pages/{'0' * 32}.json").write_bytes(page)
    ref = {"id": "0" * 32, "fragments": 1, "samples": 2, "nbytes": len(page), "crc32": f"{zlib.crc32(page):08x}"}
    assert spec_reader.read_page(tmp_path, ref) == spec_reader.unseal(version)["fragments"]


def test_crc_vectors_of_the_spec_are_right():
    rows = dict(re.findall(r"^\| (.+?) \| `([0-9a-f]{8})` \|$", SPEC, re.MULTILINE))
    data = {"none": b"", "`123456789` (ASCII)": b"123456789", "32 zero bytes": bytes(32)}
    assert rows == {said: f"{spec_reader.crc32c(data[said]):08x}" for said in data}


def test_hexadecimal_examples_of_the_spec_are_right(tmp_path):
    (index,) = (bytes.fromhex(text) for text in blocks("index: 5 7 of 4"))
    assert index == encode_index([5, 7], 4)
    (example,) = (bytes.fromhex(text) for text in blocks("object: caption/values/c/0"))
    with cs.create(tmp_path / "x", {"caption": cs.Text()}) as writer:
        writer.write_batch({"caption": ["zwölf", ""]})
    (stored,) = (tmp_path / "x").glob("fragments/*/0/caption/values/c/0")
    assert stored.read_bytes() == example
    assert spec_reader.crc32c("zwölf".encode()) == 0xE8C0E2A3
