"""Any other fsspec file system: read-only, exact, and silent about secrets."""

import os
import pickle
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

from chunkstore.errors import ReadOnlyStore, StoreError
from chunkstore.store.filesystem import FilesystemStore
from chunkstore.store.location import Store, open_store

SECRET = "hunter2-known-secret"


class OtherFileSystem(LocalFileSystem):
    """A file system that is not fsspec's own local one; its options are secrets, its reads may be cut."""

    protocol = "other"
    cachable = False
    cut = False
    failure: Exception | None = None

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **more: Any) -> Any:
        if self.failure is not None:
            raise self.failure
        data = super().cat_file(path, start=start, end=end, **more)
        return data[:-1] if self.cut else data


@pytest.fixture
def filesystem() -> OtherFileSystem:
    return OtherFileSystem(secret=SECRET)


@pytest.fixture
def store(tmp_path: Path, filesystem: OtherFileSystem) -> Store:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "object").write_bytes(bytes(range(100)))
    (tmp_path / "empty").write_bytes(b"")
    return open_store(tmp_path, filesystem=filesystem)


def test_objects_read_back(store: Store) -> None:
    assert isinstance(store, FilesystemStore)
    assert isinstance(store, Store)
    assert store.read("folder/object") == bytes(range(100))
    assert store.read("folder/object", limit_nbytes=100) == bytes(range(100))
    ranges = [(90, 100), (0, 10), (5, 5), (0, 100)]
    assert [bytes(piece) for piece in store.read_ranges("folder/object", ranges)] == [
        bytes(range(start, stop)) for start, stop in ranges
    ]
    assert store.read_ranges("folder/object", []) == []
    assert {listed[:2] for listed in store.list()} == {("folder/object", 100), ("empty", 0)}
    assert [listed[:2] for listed in store.list("folder")] == [("folder/object", 100)]
    assert list(store.list("absent")) == list(store.list("empty")) == []
    assert not store.is_local


@pytest.mark.parametrize("name", ["mtime", "LastModified", "last_modified", "updated"])
@pytest.mark.parametrize(
    "value", [1e9, 10**9, datetime.fromtimestamp(1e9, UTC), datetime(2001, 9, 9, 1, 46, 40), "2001-09-09T01:46:40Z"]
)
def test_the_time_of_an_object_is_found_in_whatever_form_it_comes(
    store: Store, filesystem: OtherFileSystem, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    found = {f"{store.url.removeprefix('other://')}/object": {"size": 3, name: value}}
    monkeypatch.setattr(filesystem, "find", lambda *_, **__: found)
    assert list(store.list()) == [("object", 3, 1e9)]


def test_an_object_of_unknown_time_is_taken_to_be_new(
    store: Store, filesystem: OtherFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {f"{store.url.removeprefix('other://')}/object": {"size": 3, "mtime": None, "updated": "long ago"}}
    monkeypatch.setattr(filesystem, "find", lambda *_, **__: found)
    (listed,) = store.list()
    assert abs(listed.modified - time.time()) < 60


def test_the_time_of_a_file_is_its_own(store: Store, tmp_path: Path) -> None:
    os.utime(tmp_path / "folder" / "object", (1e9, 1e9))
    assert list(store.list("folder")) == [("folder/object", 100, 1e9)]


def test_what_is_absent_too_large_or_too_short_is_told(store: Store) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        store.read("absent")
    with pytest.raises(FileNotFoundError, match="absent"):
        store.read_ranges("absent", [(0, 1)])
    with pytest.raises(ValueError, match="99"):
        store.read("folder/object", limit_nbytes=99)
    with pytest.raises(StoreError, match="asked for"):
        store.read_ranges("folder/object", [(0, 101)])


def test_a_short_answer_is_an_error(store: Store, filesystem: OtherFileSystem) -> None:
    filesystem.cut = True
    with pytest.raises(StoreError, match="asked for"):
        store.read_ranges("folder/object", [(0, 10)])


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.write("x", b""),
        lambda store: store.write_if_absent("x", b""),
        lambda store: store.open_upload("x"),
        lambda store: store.delete(["folder/object"]),
        lambda store: store.check_commits(),
    ],
)
def test_nothing_can_be_written(store: Store, write: Any) -> None:
    with pytest.raises(ReadOnlyStore, match="not safe"):
        write(store)
    assert len(store.read("folder/object")) == 100


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError(f"cannot log in with {SECRET}"),
        OSError(f"{SECRET}"),
        PermissionError(f"{SECRET}"),
        KeyError(SECRET),
    ],
)
def test_errors_of_any_library_are_ours_and_carry_no_secret(
    store: Store, filesystem: OtherFileSystem, failure: Exception, everything_printed: Any
) -> None:
    filesystem.failure = failure
    expected = PermissionError if isinstance(failure, PermissionError) else StoreError
    with pytest.raises(expected, match="folder/object") as caught:
        store.read("folder/object")
    assert SECRET not in everything_printed(caught.value)
    assert SECRET not in repr(store) + store.url


def test_options_that_do_not_fit_are_told_without_secrets(everything_printed: Any) -> None:
    with pytest.raises(ValueError, match="fsspec") as caught:
        open_store("github://x", storage_options={"org": "x", "nonsense": 1, "token": SECRET})
    assert SECRET not in everything_printed(caught.value)


def test_a_url_of_fsspec_that_carries_a_password_is_printed_without_it() -> None:
    url = f"zip::ftp://user:{SECRET}@127.0.0.1:1/x.zip"
    with pytest.raises(ValueError, match="fsspec") as caught:
        open_store(url)
    assert SECRET not in str(caught.value)


def test_it_travels_in_a_pickle(store: Store) -> None:
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301
    assert copy.read("folder/object") == bytes(range(100))


def test_a_listing_that_fsspec_keeps_does_not_hide_what_came_later(s3: Any, s3fs_location: tuple[Any, str]) -> None:
    filesystem, path = s3fs_location
    store = open_store(path, filesystem=filesystem)
    assert store.url == s3.url
    s3.open().write("folder/object", b"0123456789")
    assert [listed[:2] for listed in store.list()] == [("folder/object", 10)]
    s3.open().write("folder/later", b"1")
    assert len(list(store.list("folder"))) == 2
