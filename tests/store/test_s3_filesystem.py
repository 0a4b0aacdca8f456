"""S3 through s3fs: what its own objects add to what every store must do (test_interface.py)."""

import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
import numpy as np
import pytest
import s3fs

import chunkstore as cs
from chunkstore.errors import ReadOnlyStore, StoreError
from chunkstore.store.location import Store, open_store
from chunkstore.store.s3_filesystem import PART_NBYTES, S3FilesystemStore


@pytest.fixture
def filesystem(scripted_s3: Any) -> Iterator[Any]:
    made = s3fs.S3FileSystem(
        key="AKIAKNOWNKEY",
        secret="hunter2-known-secret",
        endpoint_url=scripted_s3.url,
        config_kwargs={"s3": {"addressing_style": "path"}, "retries": {"max_attempts": 2}},
        skip_instance_cache=True,
    )
    made.connect()
    yield made
    fsspec.asyn.sync(made.loop, made._s3.close)


@pytest.fixture
def scripted(filesystem: Any) -> Store:
    return open_store("bucket/data", filesystem=filesystem)


def test_a_dataset_is_written_and_read_through_an_s3fs_object(s3fs_location: tuple[Any, str]) -> None:
    filesystem, path = s3fs_location
    with cs.create(path, {"x": cs.Array("int64"), "t": cs.Text()}, filesystem=filesystem) as writer:
        writer.write_batch({"x": np.arange(1000), "t": [f"text {i}" for i in range(1000)]})
    with cs.append(path, filesystem=filesystem) as writer:
        writer.write({"x": 1000, "t": "text 1000"})
    dataset = cs.open(path, filesystem=filesystem)
    assert dataset.version == 2
    np.testing.assert_array_equal(dataset["x"][:], np.arange(1001))
    assert dataset[1000]["t"] == "text 1000"
    cs.tag(path, "both", filesystem=filesystem)
    assert cs.rollback(path, 1, filesystem=filesystem) == 3
    assert cs.verify(path, filesystem=filesystem).ok
    assert cs.open(path, tag="both", filesystem=filesystem).version == 2


def test_appends_side_by_side_lose_nothing(s3fs_location: tuple[Any, str]) -> None:
    filesystem, path = s3fs_location
    with cs.create(path, {"x": cs.Array("int64")}, filesystem=filesystem) as writer:
        writer.write({"x": -1})

    def append(value: int) -> None:
        with cs.append(path, filesystem=filesystem) as writer:
            writer.write({"x": value})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(append, range(8)))
    dataset = cs.open(path, filesystem=filesystem)
    assert dataset.version == 9
    assert sorted(dataset["x"][:].tolist()) == list(range(-1, 8))


def test_a_large_object_goes_up_in_parts_and_an_aborted_one_leaves_none(s3fs_location: tuple[Any, str]) -> None:
    filesystem, path = s3fs_location
    store = open_store(path, filesystem=filesystem)
    data = np.random.default_rng(1).bytes(2 * PART_NBYTES + 5)
    with store.open_upload("large") as upload:
        for start in range(0, len(data), 3 << 20):
            upload.write(memoryview(data)[start : start + (3 << 20)])
    assert store.read("large") == data
    with pytest.raises(KeyError), store.open_upload("aborted") as upload:
        upload.write(data)
        raise KeyError
    bucket = path.split("/")[0]
    assert [key for key in (listed[0] for listed in store.list()) if key != "large"] == []
    assert not filesystem.call_s3("list_multipart_uploads", Bucket=bucket).get("Uploads")


def test_a_server_that_ignores_the_condition_is_found_out(scripted: Store, scripted_s3: Any) -> None:
    scripted_s3.honours_conditions = False
    with pytest.raises(ReadOnlyStore, match="does not keep put-if-absent"):
        scripted.check_commits()


def test_a_put_whose_answer_was_lost_is_still_ours(scripted: Store, scripted_s3: Any) -> None:
    """The server stores it and answers 500; the client beneath us sends it again, and is told that it is there."""
    scripted_s3.failing_puts = 1
    assert scripted.write_if_absent("key", b"ours")
    assert not scripted.write_if_absent("key", b"somebody else's")
    assert scripted.read("key") == b"ours"
    assert len([request for request in scripted_s3.requests if request.startswith("PUT")]) >= 3


def test_errors_carry_no_secret(scripted: Store, scripted_s3: Any, everything_printed: Any) -> None:
    scripted_s3.forbidden_body = "<Error><Code>AccessDenied</Code><Message>hunter2-known-secret</Message></Error>"
    with pytest.raises((PermissionError, StoreError)) as caught:
        scripted.write("key", b"1")
    assert "hunter2" not in everything_printed(caught.value)


def test_it_pickles_with_its_file_system(scripted: Store) -> None:
    again = pickle.loads(pickle.dumps(scripted))  # noqa: S301
    assert isinstance(again, S3FilesystemStore)
    assert again.url == scripted.url == "s3://bucket/data"
