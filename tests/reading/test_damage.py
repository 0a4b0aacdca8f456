"""Damage: whatever is flipped, cut or taken away is a typed error that names it, and never a value."""

import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from recording_store import RecordingStore

import chunkstore as cs
from chunkstore._native import crc32c
from chunkstore.errors import ChunkstoreError, CorruptChunk, CorruptSample, InvalidDataset, MissingObject, StoreError
from chunkstore.reading import array as array_module
from chunkstore.store.fetch import fetch_ranges
from chunkstore.store.location import open_store

N = 3000
NUMBERS = np.random.default_rng(0).integers(0, 1 << 63, (N, 8))
BLOBS = [np.random.default_rng(i).bytes(i % 50) for i in range(N)]
SCHEMA = {
    "plain": cs.Array("int64", (8,), codec=None, chunk=256),
    "packed": cs.Array("int64", (8,), codec="blosc-lz4", chunk=256),
    "gzipped": cs.Array("int64", (8,), codec="gzip-1", chunk=256),
    "blob": cs.Bytes(),
    "tokens": cs.Ragged("int32", (None, 2), codec="zstd-1", chunk=1024),
}
TOKENS = [np.full((i % 4, 2), i, "i4") for i in range(N)]


def write(root: Path) -> Path:
    """A dataset whose damaged fragment begins at sample 100; the part that holds it."""
    columns = {"plain": NUMBERS, "packed": NUMBERS, "gzipped": NUMBERS, "blob": BLOBS, "tokens": TOKENS}
    with cs.create(root, SCHEMA) as writer:
        writer.write_batch({name: values[:100] for name, values in columns.items()})
    with cs.append(root) as writer:
        writer.write_batch(columns)
    path = cs.open(root).version_document.fragments[1].parts[0].path
    return root / path


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return write(tmp_path / "ds")


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def error_of(root: Path, kind: type[Exception], read: Callable[[cs.Dataset], Any]) -> str:
    with pytest.raises(kind) as caught:
        read(cs.open(root))
    assert type(caught.value) is kind
    return str(caught.value)


@pytest.mark.parametrize("name", ["plain", "packed", "gzipped"])
def test_a_flipped_byte_in_a_chunk(part: Path, tmp_path: Path, name: str) -> None:
    flip(part / name / "c" / "0" / "0", 100)
    ds = cs.open(tmp_path / "ds")
    told = error_of(tmp_path / "ds", CorruptChunk, lambda ds: ds[name][150])
    assert f"{name}/c/0/0, bytes 0–" in told
    assert f"(field '{name}', samples 100–355)" in told
    assert "crc32c mismatch: stored" in told
    with pytest.raises(CorruptChunk):
        ds[name][:]
    assert np.array_equal(ds[name][356:], NUMBERS[256:])
    assert np.array_equal(ds[name][:100], NUMBERS[:100])


def test_a_flipped_byte_in_a_plain_ragged_value(part: Path, tmp_path: Path) -> None:
    flip(part / "blob" / "values" / "c" / "0", sum(map(len, BLOBS[:49])) + 7)
    ds = cs.open(tmp_path / "ds")
    told = error_of(tmp_path / "ds", CorruptSample, lambda ds: ds[:])
    assert "blob/values/c/0, values 1176–1225 (field 'blob', sample 149): stored" in told
    assert ds["blob"][100:149] == BLOBS[:49]
    assert ds["blob"][150:] == BLOBS[50:]
    with pytest.raises(CorruptSample):
        ds["blob"][149]


def test_a_flipped_byte_in_a_compressed_ragged_value(part: Path, tmp_path: Path) -> None:
    flip(part / "tokens" / "values" / "c" / "0", 100)
    told = error_of(tmp_path / "ds", CorruptChunk, lambda ds: ds["tokens"][:])
    assert "tokens/values/c/0, bytes 0–" in told
    assert "(field 'tokens', samples 101–442)" in told  # all that have values among the first 1024
    cs.open(tmp_path / "ds")["tokens"][443:]


@pytest.mark.parametrize("path", ["blob/spans/c/0/0", "tokens/shape/c/0/0", "blob/crc/c/0"])
def test_a_flipped_byte_in_what_finds_the_samples(part: Path, tmp_path: Path, path: str) -> None:
    flip(part / path, 20)
    name = path.partition("/")[0]
    told = error_of(tmp_path / "ds", CorruptChunk, lambda ds: ds[name][2000])
    assert path in told
    assert f"field '{name}', samples 100–" in told


@pytest.mark.parametrize("at", [-1, -5, -15])
@pytest.mark.parametrize("path", ["plain/c/0/0", "blob/spans/c/0/0", "tokens/values/c/0"])
def test_a_flipped_byte_in_a_shard_index(part: Path, tmp_path: Path, path: str, at: int) -> None:
    flip(part / path, at)
    name = path.partition("/")[0]
    told = error_of(tmp_path / "ds", InvalidDataset, lambda ds: ds[name][200:300])
    assert f"{path}: crc32c mismatch in the shard index" in told
    assert f"field '{name}', samples 200–299" in told


@pytest.mark.parametrize("name", ["zarr.json", "_objects.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "empty", "absent"])
def test_a_damaged_document_of_a_part(part: Path, tmp_path: Path, name: str, damage: str) -> None:
    path = part / name
    data = path.read_bytes()
    if damage == "flip":
        flip(path, 200)
    elif damage == "absent":
        path.unlink()
    else:
        path.write_bytes({"cut": data[:-1], "longer": data + b" ", "empty": b""}[damage])
    told = error_of(tmp_path / "ds", MissingObject if damage == "absent" else InvalidDataset, lambda ds: ds[150])
    assert f"0/{name}" in told
    assert cs.open(tmp_path / "ds")[50]["blob"] == BLOBS[50]


@pytest.mark.parametrize(
    "path", ["plain/c/0/0", "blob/values/c/0", "blob/spans/c/0/0", "blob/crc/c/0", "tokens/values/c/0"]
)
def test_an_absent_shard_is_an_error_and_never_a_fill_value(part: Path, tmp_path: Path, path: str) -> None:
    (part / path).unlink()
    name = path.partition("/")[0]
    told = error_of(tmp_path / "ds", MissingObject, lambda ds: ds[name][140:150])
    assert path in told
    assert f"field '{name}', samples 140–149" in told


@pytest.mark.parametrize(
    ("path", "samples"), [("plain/c/0/0", "356–611"), ("blob/spans/c/0/0", "100–"), ("tokens/values/c/0", "442–783")]
)
def test_a_chunk_that_its_index_calls_absent_is_missing_and_never_a_fill_value(
    part: Path, tmp_path: Path, path: str, samples: str
) -> None:
    """A writer of another house may leave out what is all fill value, which no reader may take for data."""
    shard, name = part / path, path.partition("/")[0]
    data = shard.read_bytes()
    chunk = 0 if "spans" in path else 1
    metadata = cs.open(tmp_path / "ds")._parts._of(1, name).arrays[path.partition("/c/")[0]].metadata  # type: ignore[attr-defined]
    count = int(np.prod(metadata.chunks_per_shard))
    index = bytearray(data[-16 * count - 4 : -4])
    index[16 * chunk : 16 * chunk + 16] = b"\xff" * 16
    shard.write_bytes(data[: -16 * count - 4] + bytes(index) + crc32c(bytes(index)).to_bytes(4, "little"))
    told = error_of(tmp_path / "ds", MissingObject, lambda ds: ds[name][100:])
    assert f"a chunk is not stored in {shard} (field '{name}', samples {samples}" in told
    assert told.count(f"field '{name}'") == 1
    assert "chunk" in {damage.kind for damage in cs.verify(tmp_path / "ds").damages}


def test_a_sample_in_several_shards_is_told_with_all_of_them(tmp_path: Path) -> None:
    root = tmp_path / "ds"
    with cs.create(root, {"b": cs.Bytes(codec=None, chunk=16, shard=16)}) as writer:
        writer.write_batch({"b": [b"a" * 10, b"b" * 10, b"c" * 50, b"d"]})
    part = root / cs.open(root).version_document.fragments[0].parts[0].path
    for shard, sample, told in [
        (0, 0, "b/values/c/0, values 0–10"),
        (1, 1, "b/values/c/0 and c/1, values 10–20"),
        (2, 2, "b/values/c/1 to c/4, values 20–70"),
    ]:
        flip(part / f"b/values/c/{shard}", 1)
        assert told in error_of(root, CorruptSample, lambda ds, sample=sample: ds["b"][sample])  # type: ignore[misc]


@pytest.mark.parametrize("path", ["plain/c/0/0", "blob/values/c/0"])
def test_a_truncated_shard_is_an_error(part: Path, tmp_path: Path, path: str) -> None:
    (part / path).write_bytes((part / path).read_bytes()[:30000])
    name = path.partition("/")[0]
    with pytest.raises((StoreError, InvalidDataset), match=rf"{path}.*field '{name}', samples 100–3099"):
        cs.open(tmp_path / "ds")[name][100:]


def test_damage_on_the_way_is_mended_by_asking_again(
    part: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    def damaging(store: Any, requests: Any) -> list[memoryview]:
        bodies = fetch_ranges(store, requests)
        for i, request in enumerate(requests):
            if (request.key, request.start) not in asked:
                asked.append((request.key, request.start))
                bodies[i] = memoryview(bytes([bodies[i][0] ^ 1]) + bytes(bodies[i][1:]))
        return bodies

    monkeypatch.setattr(array_module, "fetch_ranges", damaging)
    ds = cs.open(tmp_path / "ds")
    assert np.array_equal(ds["plain"][100:], NUMBERS)
    assert ds["blob"][100:] == BLOBS
    assert all(np.array_equal(a, b) for a, b in zip(ds["tokens"][100:], TOKENS, strict=True))
    assert len(asked) > 5


def test_without_verifying_only_the_checks_of_data_are_left_out(part: Path, tmp_path: Path) -> None:
    flip(part / "plain" / "c" / "0" / "0", 100)
    flip(part / "blob" / "values" / "c" / "0", sum(map(len, BLOBS[:49])))
    ds = cs.open(tmp_path / "ds", verify="never")
    wrong = ds["plain"][100:] != NUMBERS
    assert wrong.sum() == 1
    assert sum(a != b for a, b in zip(ds["blob"][100:], BLOBS, strict=True)) == 1
    flip(part / "plain" / "c" / "0" / "0", -1)
    with pytest.raises(InvalidDataset):
        cs.open(tmp_path / "ds", verify="never")["plain"][100:]
    flip(part / "zarr.json", 50)
    with pytest.raises(InvalidDataset):
        cs.open(tmp_path / "ds", verify="never")["blob"][100:]


def test_every_flipped_byte_of_a_small_dataset_is_found_or_harmless(tmp_path: Path) -> None:
    """A sweep over all objects that one read needs; the harmless bytes are those that nobody reads."""
    root = tmp_path / "ds"
    expected = {"x": np.arange(5), "b": [b"one", b"", b"three"] + [b"z"] * 2}
    with cs.create(root, {"x": cs.Array("int64"), "b": cs.Bytes()}) as writer:
        writer.write_batch(expected)
    paths = [p for p in root.rglob("*") if p.is_file()]
    assert len(paths) > 12
    needed = 0
    for path in paths:
        data = path.read_bytes()
        for at in range(0, len(data), max(1, len(data) // 40)):
            flip(path, at)
            try:
                batch = cs.open(root)[:]
                assert batch["x"].tolist() == [0, 1, 2, 3, 4], path
                assert batch["b"] == expected["b"], path
            except ChunkstoreError:
                needed += 1
            path.write_bytes(data)
    assert needed > 200


def test_verify_is_one_of_three_words(tmp_path: Path) -> None:
    cs.create(tmp_path / "ds", {"x": cs.Array("int8")}).close()
    for word in ("first", "always", "never"):
        assert len(cs.open(tmp_path / "ds", verify=word)) == 0  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="verify=False"):
        cs.open(tmp_path / "ds", verify=False)  # type: ignore[arg-type]


def test_an_image_whose_pixels_do_not_decode_is_told(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)).save(file, "PNG")
    data = bytearray(file.getvalue())
    start = data.index(b"IDAT") + 4
    length = int.from_bytes(data[start - 8 : start - 4], "big")
    data[start + 20] ^= 0xFF
    data[start + length : start + length + 4] = zlib.crc32(data[start - 4 : start + length]).to_bytes(4, "big")
    with cs.create(tmp_path / "ds", {"image": cs.Image("png")}) as writer:
        writer.write_batch({"image": [file.getvalue(), bytes(data), file.getvalue()]})
    ds = cs.open(tmp_path / "ds")
    for read in (lambda: ds[1], lambda: ds[:], lambda: ds.__getitems__([2, 1])):
        with pytest.raises(CorruptSample, match="field 'image', sample 1: "):
            read()
    assert cs.open(tmp_path / "ds", decode=False)[1]["image"] == bytes(data)


def test_a_refused_shard_is_told_with_field_and_samples(tmp_path: Path) -> None:
    with cs.create(tmp_path, {"x": cs.Array("int32", (4,))}) as writer:
        writer.write_batch({"x": np.zeros((10, 4), "int32")})

    def forbid(name: str, key: str) -> None:
        if "/c/" in key:
            raise PermissionError(f"403 {key}")

    ds = cs.open(RecordingStore(open_store(tmp_path), hook=forbid))
    with pytest.raises(PermissionError, match=r"absent, or reading it is not allowed: 403 .*field 'x', sample 3"):
        ds[3]
