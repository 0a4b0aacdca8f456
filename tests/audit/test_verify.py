"""Verifying: all damage of a version is found and named, and nothing else is."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import chunkstore as cs
from chunkstore.audit import object_check
from chunkstore.audit.damage import Damage
from chunkstore.audit.verify import Report, verify
from chunkstore.errors import DatasetNotFound, StoreError, VersionExpired
from chunkstore.format.documents import seal
from chunkstore.format.versions import OBJECTS_NAME, StoredObject, objects_to_json, tombstone_to_json
from chunkstore.store.interface import Store

N = 3000
NUMBERS = np.random.default_rng(0).integers(0, 1 << 63, (N, 8))
BLOBS = [np.random.default_rng(i).bytes(i % 50) for i in range(N)]
SCHEMA = {
    "plain": cs.Array("int64", (8,), codec=None, chunk=256, shard=1024),
    "packed": cs.Array("int64", (8,), codec="blosc-lz4", chunk=256),
    "gzipped": cs.Array("float32", (8,), codec="gzip-1", chunk=256),
    "empty": cs.Array("uint8", (0, 3)),
    "slabs": cs.Array("float32", (6, 6), chunk=(256, 4, 4)),
    "blob": cs.Bytes(shard=16384),
    "text": cs.Text(),
    "tokens": cs.Ragged("int32", (None, 2), codec="zstd-1", chunk=1024),
    "ids": cs.Ragged("uint16"),
}
TOKENS = [np.full((i % 4, 2), i, "i4") for i in range(N)]
COLUMNS = {
    "plain": NUMBERS,
    "packed": NUMBERS,
    "gzipped": NUMBERS.astype("f4"),
    "empty": np.zeros((N, 0, 3), "u1"),
    "slabs": np.random.default_rng(1).random((N, 6, 6), "f4"),
    "blob": BLOBS,
    "text": [f"sample {i}" for i in range(N)],
    "tokens": TOKENS,
    "ids": [np.arange(i % 5, dtype="u2") for i in range(N)],
}


def write(url: str, **options: object) -> None:
    """A dataset of two fragments; the second begins at sample 100."""
    with cs.create(url, SCHEMA, **options) as writer:
        writer.write_batch({name: values[:100] for name, values in COLUMNS.items()})
    with cs.append(url, **options) as writer:
        writer.write_batch(COLUMNS)


def second_part(url: str, **options: object) -> str:
    return cs.open(url, **options).version_document.fragments[1].parts[0].path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every object of the dataset, to be copied into a folder of a test's own."""
    root = tmp_path_factory.mktemp("verify") / "ds"
    write(str(root))
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def root(written: dict[str, bytes], tmp_path: Path) -> Path:
    for key, data in written.items():
        path = tmp_path / "ds" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "ds"


@pytest.fixture
def part(root: Path) -> str:
    return second_part(str(root))


def change(path: Path, how: Callable[[bytearray], object]) -> None:
    data = bytearray(path.read_bytes())
    changed = how(data)
    path.write_bytes(changed if isinstance(changed, bytes) else data)


def flip(at: int, mask: int = 0x10) -> Callable[[bytearray], object]:
    def flipped(data: bytearray) -> None:
        data[at] ^= mask

    return flipped


def only(report: Report) -> Damage:
    assert len(report.damages) == 1, report.damages
    assert not report.ok
    return report.damages[0]


@pytest.mark.parametrize("deep", [False, True])
def test_what_was_written_is_in_order(location, deep):
    write(location.url, storage_options=location.storage_options)
    store = location.open()
    part_keys = [key for key, *_ in store.list("fragments") if key.count("/") > 2]
    report = verify(location.url, storage_options=location.storage_options, deep=deep)
    assert report.damages == ()
    assert report.ok
    assert report.version == 2
    assert report.objects == len(part_keys)
    document = cs.open(location.url, storage_options=location.storage_options).version_document
    assert report.nbytes == sum(part.stored_nbytes for fragment in document.fragments for part in fragment.parts)
    older = cs.verify(location.url, version=1, storage_options=location.storage_options)
    assert older.ok
    assert older.version == 1
    assert older.objects < report.objects


def test_removed_cut_lengthened_and_swapped_objects_are_all_found(location):
    options = {"storage_options": location.storage_options}
    write(location.url, **options)
    store = location.open()
    part = second_part(location.url, **options)
    store.delete([f"{part}/plain/c/0/0", f"{part}/ids/zarr.json"])
    store.write(f"{part}/packed/c/0/0", store.read(f"{part}/packed/c/0/0")[:-1])
    store.write(f"{part}/text/spans/c/0/0", store.read(f"{part}/text/spans/c/0/0") + b"\0")
    one, two = (store.read(f"{part}/blob/values/c/{i}") for i in (0, 1))
    store.write(f"{part}/blob/values/c/0", two)
    store.write(f"{part}/blob/values/c/1", one)
    report = verify(location.url, **options)
    found = {(d.key.removeprefix(f"{part}/"), d.kind): d for d in report.damages}
    assert found.keys() == {
        ("plain/c/0/0", "missing"),
        ("ids/zarr.json", "missing"),
        ("packed/c/0/0", "size"),
        ("text/spans/c/0/0", "size"),
        ("blob/values/c/0", "sample"),
        ("blob/values/c/1", "sample"),
    }
    assert found["plain/c/0/0", "missing"].samples == (100, 100 + 1024)
    assert found["packed/c/0/0", "size"].samples == (100, 100 + N)
    assert found["ids/zarr.json", "missing"].samples is None
    ends = np.cumsum([len(blob) for blob in BLOBS])
    cut = int(np.searchsorted(ends, 16384, side="right"))  # the sample that lies in both shards
    named = [
        {s for d in report.damages if d.key.endswith(f"blob/values/c/{i}") for s in range(*d.samples)} for i in (0, 1)
    ]
    filled = {100 + i for i, blob in enumerate(BLOBS) if blob}
    assert named[0] == {s for s in filled if s <= 100 + cut}
    both = int(np.searchsorted(ends, 2 * 16384, side="right"))
    assert named[1] == {s for s in filled if 100 + cut <= s <= 100 + both}


@pytest.mark.parametrize("nbytes", [object_check.PIECE_NBYTES + 5, 3 * object_check.PIECE_NBYTES])
def test_a_large_object_that_is_cut_lengthened_flipped_or_gone(location, nbytes):
    store = location.open()
    data = np.random.default_rng(0).bytes(nbytes)
    stored = StoredObject(nbytes, object_check.crc32(data))
    for change_it, kind in [
        (lambda: store.write("x", data), None),
        (lambda: store.write("x", data + b"1"), "size"),
        (lambda: store.write("x", data[:-1]), "size"),
        (lambda: store.write("x", data[:10]), "size"),
        (lambda: store.write("x", data[:-9] + b"*" + data[-8:]), "checksum"),
        (lambda: store.delete(["x"]), "missing"),
    ]:
        change_it()
        done: list[int] = []
        found = object_check.object_damage(store, "x", stored, done.append)
        assert (found and found[0]) == kind
        assert sum(done) == nbytes


def test_swapped_shards_of_valid_chunks_are_found_by_their_checksums(root, part):
    one, two = (root / part / "plain" / "c" / str(i) / "0" for i in (0, 1))
    kept = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(kept)
    damages = verify(root).damages
    assert [(d.key, d.kind, d.field, d.samples) for d in damages] == [
        (f"{part}/plain/c/0/0", "checksum", "plain", (100, 1124)),
        (f"{part}/plain/c/1/0", "checksum", "plain", (1124, 2148)),
    ]


@pytest.mark.parametrize(
    ("path", "at", "kind", "samples"),
    [
        ("plain/c/0/0", 100, "chunk", (100, 356)),
        ("packed/c/0/0", 100, "chunk", (100, 356)),
        ("gzipped/c/0/0", 30, "chunk", (100, 356)),
        ("slabs/c/0/0/0", 100, "chunk", (100, 356)),
        ("plain/c/1/0", -1, "index", (1124, 2148)),
        ("blob/values/c/0", sum(map(len, BLOBS[:49])) + 7, "sample", (149, 150)),
        ("blob/values/c/0", -1, "index", None),
        ("blob/spans/c/0/0", 20, "chunk", (100, 100 + N)),
        ("blob/crc/c/0", 20, "chunk", (100, 100 + N)),
        ("tokens/values/c/0", 100, "chunk", (101, 443)),
        ("tokens/shape/c/0/0", 20, "chunk", (100, 100 + N)),
        ("tokens/values/c/0", -7, "index", (101, 3100)),
        ("tokens/values/zarr.json", 50, "checksum", None),
    ],
)
def test_a_flip_is_named_with_field_and_samples(root, part, path, at, kind, samples):
    change(root / part / path, flip(at))
    damage = only(verify(root))
    assert (damage.key, damage.kind) == (f"{part}/{path}", kind)
    assert damage.field == path.partition("/")[0]
    assert damage.samples == samples


def test_scattered_chunks_of_one_shard_are_told_apart_and_neighbours_joined(root, part):
    chunk = 256 * 8 * 8 + 4
    for i in (0, 2, 3):
        change(root / part / "plain" / "c" / "0" / "0", flip(i * chunk + 11))
    found = [(d.kind, d.samples) for d in verify(root).damages]
    assert found == [("chunk", (100, 356)), ("chunk", (612, 1124))]


def test_damage_of_one_member_hides_no_other(root, part):
    for path, at in [("blob/spans/c/0/0", 20), ("blob/values/c/0", 20), ("tokens/values/c/0", 9), ("plain/c/2/0", 9)]:
        change(root / part / path, flip(at))
    (root / part / "zarr.json").unlink()
    found = {(d.key.removeprefix(f"{part}/"), d.kind, d.field) for d in verify(root).damages}
    assert found == {
        ("zarr.json", "missing", None),
        ("blob/spans/c/0/0", "checksum", "blob"),
        ("blob/values/c/0", "checksum", "blob"),
        ("tokens/values/c/0", "checksum", "tokens"),
        ("plain/c/2/0", "checksum", "plain"),
    }


@pytest.mark.parametrize("name", ["zarr.json", OBJECTS_NAME])
@pytest.mark.parametrize("how", ["flip", "cut", "longer", "empty", "gone"])
def test_a_damaged_document_of_a_part_is_one_entry(root, part, name, how):
    path = root / part / name
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(
            {"flip": data[:200] + b"~" + data[201:], "cut": data[:-1], "longer": data + b" ", "empty": b""}[how]
        )
    damage = only(verify(root))
    assert (damage.key, damage.field, damage.samples) == (f"{part}/{name}", None, (100, 100 + N))
    assert damage.kind == ("missing" if how == "gone" else "metadata")


def test_two_hundred_random_flips_are_each_found(root):
    """One at a time, in any object that the version leads to; the few that no list names say what they must."""
    keys = sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
    keys = [key for key in keys if "probe" not in key and not key.endswith("1.json")]
    assert len(keys) > 60
    random = np.random.default_rng(7)
    order = np.concatenate([random.permutation(len(keys)) for _ in range(4)])[:200]
    ours = {key for key in keys if key.count("/") > 2}
    for i in order.tolist():
        path = root / keys[i]
        data = path.read_bytes()
        at, mask = int(random.integers(len(data))), 1 << int(random.integers(8))
        change(path, flip(at, mask))
        report = verify(root, num_threads=1)
        assert [d.key for d in report.damages] == [keys[i]], (keys[i], at, mask, report.damages)
        damage = report.damages[0]
        if keys[i] in ours and keys[i].count("/") > 3:
            assert damage.field == keys[i].split("/")[3]
        path.write_bytes(data)
    assert verify(root).ok


def test_many_damages_at_once_are_all_found(root):
    """Every shard of the second fragment is flipped in its first byte."""
    part = second_part(str(root))
    shards = [p for p in (root / part).rglob("*") if p.is_file() and "/c/" in str(p)]
    assert len(shards) > 15
    for path in shards:
        change(path, flip(0))
    assert {d.key for d in verify(root).damages} == {str(p.relative_to(root)) for p in shards}


def relist(root: Path, part: str, key: str, data: bytes) -> None:
    """Put an object as a faulty writer would: with the right checksums everywhere."""
    (root / part / key).write_bytes(data)
    listed = root / part / OBJECTS_NAME
    objects = {
        str(p.relative_to(root / part)): StoredObject(p.stat().st_size, object_check.crc32(p.read_bytes()))
        for p in (root / part).rglob("*")
        if p.is_file() and p != listed
    }
    listed.write_bytes(seal(objects_to_json(objects)))
    ds = cs.open(root)
    document = ds.version_document.to_json()
    (told,) = document["fragments"][1]["parts"]
    data = listed.read_bytes()
    told["objects"] = {"nbytes": len(data), "crc32": f"{object_check.crc32(data):08x}"}
    told["stored_nbytes"] = len(data) + sum(stored.nbytes for stored in objects.values())
    (root / "_chunkstore" / "versions" / f"{2:020d}.json").write_bytes(seal(document))


def test_what_a_faulty_writer_stored_is_found_when_asked_to_look_deep(root, part):
    changed = bytearray((root / part / "packed/c/0/0").read_bytes())
    changed[100] ^= 1
    relist(root, part, "packed/c/0/0", bytes(changed))
    changed = bytearray((root / part / "blob/values/c/0").read_bytes())
    changed[sum(map(len, BLOBS[:49]))] ^= 1
    relist(root, part, "blob/values/c/0", bytes(changed))
    assert verify(root).ok
    found = {(d.kind, d.field, d.samples) for d in verify(root, deep=True).damages}
    assert found == {("chunk", "packed", (100, 356)), ("sample", "blob", (149, 150))}


def test_spans_of_another_field_contradict_the_values(root, part):
    relist(root, part, "text/spans/c/0/0", (root / part / "blob/spans/c/0/0").read_bytes())
    assert {(d.key, d.kind, d.field) for d in verify(root).damages} == {(f"{part}/text/spans", "metadata", "text")}


def test_shapes_that_disagree_with_spans_are_found(root, part):
    relist(root, part, "tokens/shape/c/0/0", (root / part / "ids/spans/c/0/0").read_bytes())
    damage = only(verify(root))
    assert (damage.kind, damage.field, damage.samples) == ("metadata", "tokens", (100, 100 + N))
    assert "shapes do not agree" in damage.detail


def test_spans_that_do_not_decode_under_a_right_checksum_are_found(root, part):
    changed = bytearray((root / part / "text/spans/c/0/0").read_bytes())
    changed[50] ^= 1
    relist(root, part, "text/spans/c/0/0", bytes(changed))
    assert only(verify(root)).kind == "chunk"


def test_an_object_that_is_claimed_to_be_huge_costs_nothing(location):
    store = location.open()
    store.write("x", bytes(10 << 20))
    found = object_check.object_damage(store, "x", StoredObject((1 << 63) - 1, 0), lambda _: None)
    assert found == ("size", f"shorter than the {(1 << 63) - 1} bytes recorded")


def test_a_symbolic_link_out_of_the_dataset_is_not_followed(root, part, tmp_path):
    shard = root / part / "plain/c/0/0"
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    damage = only(verify(root))
    assert (damage.key, damage.kind, damage.samples) == (f"{part}/plain/c/0/0", "missing", (100, 1124))


@pytest.mark.parametrize("deep", [False, True])
def test_datasets_without_samples_or_values_are_in_order(tmp_path, deep):
    with cs.create(tmp_path / "none", {"x": cs.Bytes()}):
        pass
    assert verify(tmp_path / "none", deep=deep).ok
    with cs.create(tmp_path / "empty", {"b": cs.Bytes(), "r": cs.Ragged("int32", (None, 3))}) as writer:
        writer.write_batch({"b": [b""] * 10, "r": [np.zeros((0, 3), "i4")] * 10})
    assert verify(tmp_path / "empty", deep=deep).ok


def test_a_version_document_that_contradicts_its_parts_is_found(root):
    document = cs.open(root).version_document.to_json()
    document["fragments"][0]["parts"][0]["nbytes"] += 1
    document["fragments"][1]["parts"][0]["stored_nbytes"] -= 1
    document["fragments"][1]["samples"] += 1
    document["next_sample_id"] += 1
    key = f"_chunkstore/versions/{2:020d}.json"
    (root / key).write_bytes(seal(document))
    damages = verify(root).damages
    assert [d.kind for d in damages] == ["metadata"] * len(damages)
    assert sum(d.key == key for d in damages) == 2
    assert {d.field for d in damages if d.key != key} == set(SCHEMA)


def test_a_damaged_version_document_is_damage_of_it(root):
    key = f"_chunkstore/versions/{2:020d}.json"
    change(root / key, flip(60))
    for version in (None, 2):
        damage = only(verify(root, version=version))
        assert (damage.key, damage.kind) == (key, "metadata")
    assert verify(root, version=1).ok


@pytest.mark.parametrize("hint", [True, False], ids=["hint", "no hint"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_lost_version_document_is_found(root, number, hint):
    with cs.append(root, num_threads=1) as writer:
        writer.write_batch({name: values[:2] for name, values in COLUMNS.items()})
    key = f"_chunkstore/versions/{number:020d}.json"
    (root / key).unlink()
    if not hint:
        (root / "_chunkstore/latest.json").unlink()
        if number == 3:  # nothing is left that knows of it
            return
    damages = verify(root).damages
    assert [(d.key, d.kind) for d in damages if d.field is None and d.samples is None] == [(key, "missing")]


def test_damage_of_the_history_is_found_with_the_latest_version(root):
    for name in ("a", "b", "c"):
        cs.tag(root, name, 1)
    with cs.append(root, num_threads=1) as writer:
        writer.write_batch({name: values[:2] for name, values in COLUMNS.items()})
    assert verify(root).ok
    change(root / "_chunkstore/tags/b.json", flip(30))
    other = {"dataset": "0" * 32, "version": 1, "time": "2026-11-21T12:00:00Z", "writer": "1" * 32}
    (root / "_chunkstore/tags/c.json").write_bytes(seal(other))
    first, second = (f"_chunkstore/versions/{number:020d}.json" for number in (1, 2))
    change(root / first, flip(60))
    (root / second).write_bytes(seal(tombstone_to_json(2)))
    found = [(damage.key, damage.kind) for damage in verify(root).damages]
    tags = [(f"_chunkstore/tags/{name}.json", "metadata") for name in ("b", "c")]
    assert found == [(first, "metadata"), (second, "metadata"), *tags]
    assert verify(root, version=3).ok


def test_tombstones_of_what_gc_dropped_are_in_order(root):
    with cs.append(root, num_threads=1) as writer:
        writer.write_batch({name: values[:2] for name, values in COLUMNS.items()})
    cs.gc(root, keep_versions=1)
    assert verify(root).ok
    with pytest.raises(VersionExpired):
        verify(root, version=1)


@pytest.mark.parametrize("count", [0, -1])
def test_no_threads_are_refused(root, count):
    with pytest.raises(ValueError, match="at least 1"):
        verify(root, num_threads=count)


def test_an_absent_dataset_or_version_is_an_error(root, tmp_path):
    with pytest.raises(DatasetNotFound):
        verify(tmp_path / "nothing")
    with pytest.raises(DatasetNotFound):
        verify(root, version=9)


def test_a_failing_store_is_no_damage(root, monkeypatch):
    def fail(self: Store, key: str, **_: object) -> bytes:
        if "/packed/" in key:
            raise StoreError("out of order")
        return read(self, key, **_)

    from chunkstore.store.local import LocalStore

    read = LocalStore.read
    monkeypatch.setattr(LocalStore, "read", fail)
    with pytest.raises(StoreError, match="out of order"):
        verify(root)


def test_bytes_damaged_on_the_way_are_read_again(root, monkeypatch):
    from chunkstore.store.local import LocalStore

    read, seen = LocalStore.read, set()

    def damaged_once(self: Store, key: str, **options: object) -> bytes:
        data = read(self, key, **options)
        if "/c/" in key and key not in seen:
            seen.add(key)
            return data[:-1] + bytes([data[-1] ^ 1])
        return data

    monkeypatch.setattr(LocalStore, "read", damaged_once)
    assert verify(root).ok
    assert len(seen) > 15


def test_progress_grows_to_the_whole(root):
    told: list[tuple[int, int]] = []
    report = verify(root, progress=lambda done, total: told.append((done, total)), num_threads=3)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (report.nbytes, report.nbytes)
    assert len({total for _, total in told}) == 1


def test_progress_ends_at_the_whole_however_much_is_damaged(root, part):
    (root / part / OBJECTS_NAME).unlink()
    told: list[tuple[int, int]] = []
    verify(root, progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1]


def test_memory_is_bounded_for_a_large_object(tmp_path):
    """200 MB in one plain object and one of chunks, verified and taken apart, within 64 MB more than before."""
    code = f"""
import resource, sys
import numpy as np
import chunkstore as cs
from pathlib import Path
root = Path({str(tmp_path / "ds")!r})
if sys.argv[1] == "write":
    data = np.random.default_rng(0).integers(0, 256, 200 << 20, np.uint8)
    with cs.create(root, {{"blob": cs.Bytes(codec=None, shard=1 << 28), "x": cs.Array("uint8", (1 << 16,), shard=4096)}}) as w:
        for i in range(10):
            some = data[i * (20 << 20):][:20 << 20]
            w.write_batch({{"blob": [some.tobytes()] + [b""] * 319, "x": some.reshape(320, -1)}})
    sizes = []
    for path in root.rglob("c/0*"):
        for file in [path] if path.is_file() else path.rglob("0"):
            if file.is_file() and file.stat().st_size > 100 << 20:
                sizes.append(file)
                with file.open("r+b") as f:
                    f.seek(1000)
                    f.write(b"damage")
    assert len(sizes) == 2, sizes
else:
    cs.open(root)["x"][3000]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = cs.verify(root, num_threads=2)
    assert sorted(d.samples for d in report.damages) == [(0, 1), (0, 4)], (report, cs.open(root).version_document)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    subprocess.run([sys.executable, "-c", code, "write"], check=True)
    done = subprocess.run([sys.executable, "-c", code, "verify"], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 64 << 10


def chunkstore(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chunkstore", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_tells_and_its_status_says_it(root, part):
    done = chunkstore("verify", root)
    assert done.returncode == 0, done.stderr
    assert "no damage" in done.stdout
    change(root / part / "packed/c/0/0", flip(100))
    (root / part / "blob/crc/c/0").unlink()
    done = chunkstore("verify", root)
    assert done.returncode == 1
    for told in ("packed/c/0/0", "chunk", "100–355", "blob/crc/c/0", "missing", "2 places"):
        assert told in done.stdout, done.stdout
    assert chunkstore("verify", root, "--version", 1).returncode == 0
    assert chunkstore("verify", root, "--deep").returncode == 1
    assert chunkstore("verify", root / "nothing").stderr.startswith("DatasetNotFound: ")
