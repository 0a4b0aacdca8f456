"""Datasets whose checksums are right and whose contents contradict each other: refused, and nothing large is allocated."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkstore as cs
from chunkstore._native import crc32
from chunkstore.format.documents import seal
from chunkstore.format.shard_index import encode_index
from chunkstore.kernels.codecs import encode_chunk
from chunkstore.writing.fields import _INDEX_CODECS


@pytest.fixture
def root(tmp_path: Path) -> Path:
    schema = {"x": cs.Array("int32"), "r": cs.Ragged("int16", (None, None), codec=None), "b": cs.Bytes(codec=None)}
    with cs.create(tmp_path / "ds", schema) as writer:
        for i in range(4):
            writer.write({"x": i, "r": np.full((2, 3), i, np.int16), "b": bytes(10)})
    return tmp_path / "ds"


def forge(root: Path, objects: dict[str, bytes]) -> None:
    """Put objects into the only part, and make every checksum above them right."""
    (part,) = root.glob("fragments/*/0")
    listed = json.loads((part / "_objects.json").read_bytes())["document"]["objects"]
    for key, data in objects.items():
        (part / key).write_bytes(data)
        listed[key] = [len(data), f"{crc32(data):08x}"]
    (part / "_objects.json").write_bytes(data := seal({"objects": listed}))
    path = root / "_chunkstore/versions/00000000000000000001.json"
    version = json.loads(path.read_bytes())["document"]
    version["fragments"][0]["parts"][0]["objects"] = {"nbytes": len(data), "crc32": f"{crc32(data):08x}"}
    path.write_bytes(seal(version))


def forge_rows(root: Path, path: str, rows: list[list[int]]) -> None:
    """Replace the rows of a (4, n) int64 array that finds samples."""
    chunk = bytes(encode_chunk(_INDEX_CODECS, np.array(rows, "<i8")))
    forge(root, {f"{path}/c/0/0": chunk + encode_index([len(chunk)], 1)})


def forge_metadata(root: Path, path: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change an array's metadata, in its own zarr.json and in the part's."""
    (part,) = root.glob("fragments/*/0")
    group = json.loads((part / "zarr.json").read_bytes())
    change(group["consolidated_metadata"]["metadata"][path])
    forge(root, {"zarr.json": json.dumps(group).encode()})


def test_forging_alone_changes_nothing(root: Path) -> None:
    forge_rows(root, "b/spans", [[0, 10], [10, 20], [20, 30], [30, 40]])
    assert cs.open(root)[3]["b"] == bytes(10)


@pytest.mark.parametrize(
    "spans",
    [
        [[0, 10], [10, 20], [20, 30], [30, 41]],
        [[0, 10], [10, 20], [20, 30], [30, 1 << 40]],
        [[-5, 10], [10, 20], [20, 30], [30, 40]],
        [[0, 10], [5, 20], [20, 30], [30, 40]],
        [[0, 10], [20, 10], [20, 30], [30, 40]],
    ],
    ids=["past the end", "far past the end", "before the beginning", "overlapping", "backwards"],
)
def test_spans_that_leave_the_values_or_overlap_are_refused(root: Path, spans: list[list[int]]) -> None:
    forge_rows(root, "b/spans", spans)
    with pytest.raises(cs.InvalidDataset, match="b/spans"):
        cs.open(root).select("b")[:]


@pytest.mark.parametrize("shape", [[3, 3], [-2, -3], [1 << 32, 1 << 32], [6, 0]])
def test_shapes_that_do_not_hold_the_values_are_refused(root: Path, shape: list[int]) -> None:
    forge_rows(root, "r/shape", [shape, [2, 3], [2, 3], [2, 3]])
    with pytest.raises(cs.InvalidDataset, match="r/shape"):
        cs.open(root)[0]


def test_values_that_claim_more_than_their_shards_hold_are_refused_before_they_are_allocated(root: Path) -> None:
    def claim(array: dict[str, Any]) -> None:
        array["shape"] = [1 << 36]
        array["chunk_grid"]["configuration"]["chunk_shape"] = [1 << 36]
        array["codecs"][0]["configuration"]["chunk_shape"] = [1 << 30]

    forge_metadata(root, "b/values", claim)
    forge_rows(root, "b/spans", [[0, 1 << 34], [1 << 34, 1 << 35], [1 << 35, 1 << 36], [1 << 36, 1 << 36]])
    with pytest.raises(cs.InvalidDataset, match="b/values"):
        cs.open(root).select("b")[:]


@pytest.mark.parametrize(
    ("member", "value"),
    [("storage_transformers", [{"name": "rot13"}]), ("shuffling", {"must_understand": True}), ("extra", 1)],
)
def test_an_extension_that_must_be_understood_is_refused(root: Path, member: str, value: Any) -> None:
    forge_metadata(root, "x", lambda array: array.update({member: value}))
    with pytest.raises(cs.UnsupportedFormat, match=member):
        cs.open(root)[0]


def test_an_extension_that_need_not_be_understood_is_passed_over(root: Path) -> None:
    forge_metadata(root, "x", lambda array: array.update(note={"must_understand": False}, storage_transformers=[]))
    assert cs.open(root)["x"][3] == 3


def test_values_without_a_byte_order_are_refused(root: Path) -> None:
    def forget(array: dict[str, Any]) -> None:
        array["codecs"][0]["configuration"]["codecs"][0] = {"name": "bytes"}

    forge_metadata(root, "x", forget)
    with pytest.raises(cs.InvalidDataset, match="byte order"):
        cs.open(root)[0]


def test_a_field_whose_chunks_nothing_checks_is_refused(root: Path) -> None:
    chunk = struct.pack("<4i", 9, 9, 9, 9)
    forge(root, {"x/c/0": chunk + encode_index([len(chunk)], 1)})
    forge_metadata(root, "x", lambda array: array["codecs"][0]["configuration"]["codecs"].pop())
    with pytest.raises(cs.InvalidDataset, match="crc32c"):
        cs.open(root)[0]


@pytest.mark.parametrize("message", [None, 5, b"bytes", "\ud800"])
def test_a_message_that_no_version_can_hold_is_refused_before_anything_is_written(root: Path, message: Any) -> None:
    with pytest.raises(ValueError, match="message="):
        cs.append(root, message=message)
    with pytest.raises(ValueError, match="message="):
        cs.create(root.parent / "other", {"x": cs.Array("int8")}, message=message)
    assert not (root.parent / "other").exists()
    assert cs.open(root).version == 1
