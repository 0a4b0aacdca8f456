"""What `info` says of a dataset is what lies in the store and what its samples are."""

from typing import Any

import numpy as np
import pytest
from numbers_dataset import append, begin, options
from recording_store import RecordingStore

import chunkstore as cs
from chunkstore.errors import DatasetNotFound, InvalidDataset, MissingObject, VersionExpired
from chunkstore.store.interface import Store

SCHEMA = {
    "x": cs.Array("float32", (3,), codec="blosc-zstd-2"),
    "tokens": cs.Ragged("uint16", codec="zstd-5"),
    "points": cs.Ragged("float32", (None, 3), codec="gzip-1"),
    "blob": cs.Bytes(codec=None),
    "note": cs.Text(codec=None),
}


def write(location: Any, count: int) -> None:
    with cs.create(location.url, SCHEMA, message="it [all]", **options(location)) as writer:
        for i in range(count):
            sample = {"x": np.full(3, i, np.float32), "tokens": np.arange(i, dtype=np.uint16)}
            writer.write({**sample, "points": np.ones((i, 3), np.float32), "blob": b"b" * i, "note": "é"})


def test_sizes_are_those_of_the_objects_and_of_the_values(location: Any) -> None:
    write(location, 20)
    store = location.open()
    told = cs.info(location.url, **options(location))
    document = cs.open(location.url, **options(location)).version_document
    assert (told.uuid, told.version, told.time, told.message) == (document.dataset, 1, document.time, "it [all]")
    assert (told.samples, told.fragments, told.url) == (20, 1, store.url)
    (part,) = document.fragments[0].parts
    sizes = {listed.key.removeprefix(f"{part.path}/"): listed.nbytes for listed in store.list(part.path)}
    assert told.stored_nbytes == sum(sizes.values())
    for field in told.fields:
        assert field.stored_nbytes == sum(nbytes for key, nbytes in sizes.items() if key.startswith(f"{field.name}/"))
    total = sum(range(20))
    spans = 20 * 2 * 8
    assert {field.name: field.nbytes for field in told.fields} == {
        "x": 20 * 3 * 4,
        "tokens": total * 2 + spans,
        "points": total * 3 * 4 + spans + spans,
        "blob": total + spans,
        "note": 20 * 2 + spans,
    }
    assert told.nbytes == sum(field.nbytes for field in told.fields) == document.fragments[0].nbytes


def test_fields_come_with_type_codec_and_statistics(local: Any) -> None:
    write(local, 20)
    told = {field.name: field for field in cs.info(local.url).fields}
    assert list(told) == list(SCHEMA)
    assert {name: field.type for name, field in told.items()} == SCHEMA
    codecs = {"x": "blosc-zstd-2", "tokens": "zstd-5", "points": "gzip-1", "blob": "none", "note": "none"}
    assert {name: field.codecs for name, field in told.items()} == {name: (codec,) for name, codec in codecs.items()}
    assert {name: field.statistics for name, field in told.items()} == dict(cs.open(local.url).statistics)
    text = repr(cs.info(local.url))
    assert "version 1, samples: 20, fragments: 1" in text
    assert "tokens: Ragged('uint16', codec='zstd-5')" in text
    assert "(blosc-zstd-2)" in text


def test_fragments_stored_differently_are_told_with_all_their_codecs(local: Any) -> None:
    # "auto" compresses what pays: zeros do, noise does not
    with cs.create(local.url, {"x": cs.Array("uint8", (4096,))}) as writer:
        writer.write_batch({"x": np.zeros((500, 4096), np.uint8)})
    with cs.append(local.url) as writer:
        writer.write_batch({"x": np.random.default_rng(0).integers(0, 256, (500, 4096), np.uint8)})
    (field,) = cs.info(local.url).fields
    assert len(field.codecs) == 2
    assert "none" in field.codecs


def test_of_many_fragments_each_counts_once(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chunkstore.audit.info._PARTS_AT_ONCE", 3)
    begin(memory, *([n] for n in range(1, 8)))
    told = cs.info(memory.url)
    assert (told.samples, told.fragments, told.nbytes, told.fields[0].nbytes) == (8, 8, 64, 64)
    store = memory.open()
    stored = sum(listed.nbytes for listed in store.list("fragments") if listed.key.count("/") > 2)
    assert told.stored_nbytes == stored


def test_a_dataset_without_samples_has_fields_without_size(local: Any) -> None:
    with cs.create(local.url, {"x": cs.Array("int64")}):
        pass
    told = cs.info(local.url)
    assert (told.samples, told.fragments, told.nbytes, told.stored_nbytes) == (0, 0, 0, 0)
    assert [(field.name, field.codecs) for field in told.fields] == [("x", ())]


def test_an_older_version_is_told_as_it_was(local: Any) -> None:
    begin(local, [1], [2])
    assert [cs.info(local.url, version=number).samples for number in (1, 2, 3)] == [1, 2, 3]
    cs.gc(local.url, keep_versions=1)
    with pytest.raises(VersionExpired):
        cs.info(local.url, version=1)
    with pytest.raises(DatasetNotFound):
        cs.info(local.url, version=9)


def test_no_samples_are_read(memory: Any) -> None:
    begin(memory, [1])
    store = RecordingStore(memory.open())
    cs.info(store)  # type: ignore[arg-type]
    assert not [operation for operation in store.operations if "/c/" in operation.key]
    assert not store.of("write", "write_if_absent", "open_upload", "delete")


@pytest.mark.parametrize("name", ["_objects.json", "zarr.json"])
def test_damaged_or_absent_metadata_are_an_error(local: Any, name: str) -> None:
    store: Store = begin(local)
    append(local, [1])
    part = cs.open(local.url).version_document.fragments[1].parts[0].path
    data = store.read(f"{part}/{name}")
    store.write(f"{part}/{name}", data[:-9] + b"!" + data[-8:])
    with pytest.raises(InvalidDataset, match=f"{part}/{name}"):
        cs.info(local.url)
    store.delete([f"{part}/{name}"])
    with pytest.raises(MissingObject, match=f"{part}/{name}"):
        cs.info(local.url)


def test_plain_zarr_is_told_without_what_it_does_not_know(local: Any) -> None:
    import zarr

    group = zarr.open_group(local.url, mode="w")
    group.create_array("x", data=np.zeros((10, 3), np.float32))
    told = cs.info(local.url)
    assert (told.samples, told.nbytes, told.stored_nbytes, told.time) == (10, 120, None, "")
    (field,) = told.fields
    assert (field.codecs, field.stored_nbytes, field.nbytes) == ((), None, 120)
    assert "stored" not in repr(told)
