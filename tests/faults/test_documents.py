"""Every byte of every document and index flipped, every document cut at every length: an error, never wrong data."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from faults.overlay import Overlay, flipped
from faults.scenarios import Rows, memory_store, rows_of

import chunkstore as cs
from chunkstore.audit.object_check import group_damage, object_damage
from chunkstore.errors import ChunkstoreError, InvalidDataset, MissingObject, UnsupportedFormat, VersionExpired
from chunkstore.format import paging
from chunkstore.format.metadata import ArrayMetadata
from chunkstore.format.pages import page_key
from chunkstore.format.shard_index import index_nbytes
from chunkstore.format.tags import tag_key
from chunkstore.format.versions import LATEST_KEY, OBJECTS_NAME, version_key
from chunkstore.history.commit import read_latest, read_version
from chunkstore.history.tags import read_tagged
from chunkstore.reading.dataset import Dataset
from chunkstore.reading.part import read_documents

SCHEMA = {
    "x": cs.Array("int64", chunk=2, shard=4),
    "z": cs.Array("float32", (2, 3), chunk=(2, 2, 2), shard=4),
    "r": cs.Ragged("int16", (None, 2), codec="zstd-1", chunk=8, shard=16),
    "b": cs.Bytes(codec=None, chunk=16, shard=32),
}
N = 7
MASKS = (0x01, 0x20, 0xFF)
"""The lowest bit, the one between upper and lower case, and all."""


def columns(first: int) -> dict[str, Any]:
    values = range(first, first + N)
    return {
        "x": np.array(values),
        "z": np.arange(N * 6, dtype="f4").reshape(N, 2, 3) + first,
        "r": [np.full((i % 4, 2), i, "i2") for i in values],
        "b": [bytes([i]) * (i % 9) for i in values],
    }


@pytest.fixture(scope="module")
def store() -> Overlay:
    """Three versions, one of them tagged; the last two have a fragment each more than the one before."""
    made: Any = memory_store()
    with cs.create(made, SCHEMA, num_threads=1) as writer:
        writer.write_batch(columns(0))
    for first in (10, 20):
        with cs.append(made, num_threads=1) as writer:
            writer.write_batch(columns(first))
    cs.tag(made, "v2", 2)
    return Overlay(made)


@pytest.fixture(scope="module")
def whole(store: Overlay) -> Rows:
    return rows_of(cs.open(store))  # type: ignore[arg-type]


def last_part(store: Overlay) -> str:
    return read_latest(store).fragments[-1].parts[0].path


def damaged(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Every byte flipped in several ways, and every shorter length."""
    for at in range(len(data)):
        for mask in MASKS:
            yield f"byte {at} xor {mask:02x}", flipped(data, at, mask)
    for length in range(len(data)):
        yield f"the first {length} bytes", data[:length]


def each_is_refused(store: Overlay, key: str, read: Callable[[], object]) -> None:
    data = store.objects[key]
    read()
    for how, other in damaged(data):
        with store.with_changed(key, other):
            try:
                read()
            except (InvalidDataset, UnsupportedFormat) as error:
                assert key in str(error), (how, error)
            else:
                pytest.fail(f"{key}, {how}: was read as if it were in order")


def test_a_version_document(store: Overlay, whole: Rows) -> None:
    each_is_refused(store, version_key(2), lambda: read_version(store, 2))
    key = version_key(3)
    for data in [flipped(store.objects[key], 700, 1), store.objects[key][:-1], b""]:
        with store.with_changed(key, data):
            with pytest.raises(InvalidDataset, match=key):
                cs.open(store)  # type: ignore[arg-type]
            assert cs.open(store, version=2).version == 2  # type: ignore[arg-type]
    assert rows_of(cs.open(store)) == whole  # type: ignore[arg-type]


def test_a_tag(store: Overlay) -> None:
    each_is_refused(store, tag_key("v2"), lambda: read_tagged(store, "v2"))


def test_a_hint_that_is_damaged_only_costs_time(store: Overlay) -> None:
    for how, other in damaged(store.objects[LATEST_KEY]):
        with store.with_changed(LATEST_KEY, other):
            assert read_latest(store).number == 3, how


@pytest.fixture(scope="module")
def paged() -> Overlay:
    """Two versions whose fragments and what is condemned lie in pages, after a first one that gc dropped."""
    made: Any = memory_store()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paging, "INLINE_NBYTES", 0)
        patch.setattr(paging, "INLINE_CONDEMNED_NBYTES", 0)
        with cs.create(made, SCHEMA, num_threads=1) as writer:
            writer.write_batch(columns(0))
        with cs.append(made, num_threads=1) as writer:
            writer.write_batch(columns(10))
        cs.gc(made, keep_versions=1)
    return Overlay(made)


def test_a_page(paged: Overlay) -> None:
    version = read_latest(paged)
    assert len(version.page_ids) > 1
    for identity in version.page_ids:
        each_is_refused(paged, page_key(identity), lambda: [*read_latest(paged).condemned_versions])
        with paged.with_changed(page_key(identity), None), pytest.raises(MissingObject, match=identity):
            assert [*read_latest(paged).condemned_versions]


def test_a_tombstone(paged: Overlay) -> None:
    def read() -> None:
        with suppress(VersionExpired):
            read_version(paged, 1)

    with pytest.raises(VersionExpired):
        read_version(paged, 1)
    each_is_refused(paged, version_key(1), read)


@pytest.mark.parametrize("name", ["zarr.json", OBJECTS_NAME])
def test_a_document_of_a_part(store: Overlay, name: str) -> None:
    part = read_latest(store).fragments[-1].parts[0]
    key = f"{part.path}/{name}"
    each_is_refused(store, key, lambda: read_documents(store, part))
    with store.with_changed(key, flipped(store.objects[key], 40, 1)):
        ds = cs.open(store)  # type: ignore[arg-type]
        with pytest.raises(InvalidDataset, match=key):
            ds[-1]
        assert ds[0]["x"] == 0


def test_documents_that_no_reader_needs_are_found_by_verify(store: Overlay, whole: Rows) -> None:
    """Groups above the parts, and each node's own document, of which the part's has a copy."""
    version, part = read_latest(store), read_latest(store).fragments[-1].parts[0]
    objects, _ = read_documents(store, part)
    ours = {"format": 1, "uuid": version.dataset}
    looks: dict[str, Callable[[str], object]] = {
        "zarr.json": lambda key: group_damage(store, key, ours),
        "fragments/zarr.json": lambda key: group_damage(store, key, {}),
        f"fragments/{version.fragments[-1].id}/zarr.json": lambda key: group_damage(store, key, {}),
    }
    for name in objects:
        if name.endswith("/zarr.json"):
            looks[f"{part.path}/{name}"] = lambda key, name=name: object_damage(  # type: ignore[misc]
                store, key, objects[name], lambda _: None
            )
    assert len(looks) == 3 + 10
    for key, look in looks.items():
        assert not look(key)
        for how, other in damaged(store.objects[key]):
            with store.with_changed(key, other):
                assert look(key), (key, how)
        with store.with_changed(key, flipped(store.objects[key], len(store.objects[key]) // 2, 0x20)):
            assert [damage.key for damage in cs.verify(store).damages] == [key]  # type: ignore[arg-type]
            assert rows_of(cs.open(store)) == whole  # type: ignore[arg-type]


def indexes(store: Overlay) -> Iterator[tuple[str, str, int, bool]]:
    """Each shard of the last part: its key, field, where its index begins, and whether readers need that."""
    part = read_latest(store).fragments[-1].parts[0]
    objects, metadata = read_documents(store, part)
    for path, array in metadata.items():
        nbytes = index_nbytes(_chunks_of_shard(array))
        for name, stored in objects.items():
            if name.startswith(f"{path}/c/"):
                yield f"{part.path}/{name}", path.partition("/")[0], stored.nbytes - nbytes, not array.is_plain


def _chunks_of_shard(array: ArrayMetadata) -> int:
    return int(np.prod(array.chunks_per_shard))


def last_samples(whole: Rows) -> dict[str, list[Any]]:
    """The fields of the last fragment's samples."""
    values = [*zip(*whole[2 * N :], strict=True)][1:]
    return {name: [*column] for name, column in zip(sorted(SCHEMA), values, strict=True)}


def read_or_refuse(store: Overlay, field: str, key: str) -> list[Any] | None:
    """The last samples of a field, nothing of it kept from an earlier look; None where it is refused with its name."""
    try:
        found = Dataset(store, read_latest(store))[field][2 * N :]
    except ChunkstoreError as error:
        assert key in str(error)
        assert f"field '{field}'" in str(error)
        return None
    return [value.tolist() if isinstance(value, np.ndarray | np.generic) else value for value in found]


def test_an_index_of_a_shard(store: Overlay, whole: Rows) -> None:
    right, seen = last_samples(whole), 0
    for key, field, start, is_read in indexes(store):
        data = store.objects[key]
        for at in range(start, len(data)):
            with store.with_changed(key, flipped(data, at, 1 << at % 8)):
                assert read_or_refuse(store, field, key) == (None if is_read else right[field]), (key, at)
            seen += 1
        for at in (start, len(data) - 1):
            with store.with_changed(key, flipped(data, at, 0x40)):
                assert [(d.key, d.kind) for d in cs.verify(store).damages] == [(key, "index")]  # type: ignore[arg-type]
    assert seen > 400


def test_shards_cut_short(store: Overlay, whole: Rows) -> None:
    """Every length within the index and some before it. Plain values do without the index, so what is left of them may do."""
    right = last_samples(whole)
    for key, field, start, is_read in indexes(store):
        data = store.objects[key]
        for length in [*range(0, start, 5), *range(start, len(data))]:
            with store.with_changed(key, data[:length]):
                found = read_or_refuse(store, field, key)
                assert found is None or (not is_read and found == right[field]), (key, length)
                assert found is None or length > start - 16, (key, length)
        with store.with_changed(key, data[:-1]):
            assert [(d.key, d.kind) for d in cs.verify(store).damages] == [(key, "size")]  # type: ignore[arg-type]
