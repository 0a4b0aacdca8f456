"""The probe finds out stores that lie about put-if-absent."""

import threading
import time
import uuid
from collections.abc import Callable, Iterable

import pytest

from chunkstore.errors import ReadOnlyStore, StoreError
from chunkstore.store.interface import Data
from chunkstore.store.memory import MemoryStore
from chunkstore.store.probe import check_commits_once


class LyingStore(MemoryStore):
    """A store in memory whose `write_if_absent` is given."""

    def __init__(self, write_if_absent: Callable[["LyingStore", str, Data], bool]) -> None:
        super().__init__(f"memory://test-{uuid.uuid4().hex}")
        self._lie = write_if_absent
        self.num_calls = 0
        self.deleted: list[str] = []
        self._counting = threading.Lock()

    def write_if_absent(self, key: str, data: Data) -> bool:
        with self._counting:
            self.num_calls += 1
        return self._lie(self, key, data)

    def delete(self, keys: Iterable[str]) -> None:
        self.deleted += keys
        super().delete(self.deleted)

    def exists(self, key: str) -> bool:
        return key in {listed.key for listed in self.list()}


def overwrite(store: LyingStore, key: str, data: Data) -> bool:
    store.write(key, data)
    return True


def look_then_write(store: LyingStore, key: str, data: Data) -> bool:
    if store.exists(key):
        return False
    time.sleep(0.01)
    store.write(key, data)
    return True


def write_nothing_and_refuse(store: LyingStore, key: str, data: Data) -> bool:
    if not store.exists(key):
        store.write(key, b"somebody's")
    return False


def overwrite_and_refuse(store: LyingStore, key: str, data: Data) -> bool:
    first = not store.exists(key)
    store.write(key, data)
    return first


def write_half(store: LyingStore, key: str, data: Data) -> bool:
    return MemoryStore.write_if_absent(store, key, bytes(data)[:-1])


def acknowledge_the_late_without_writing(store: LyingStore, key: str, data: Data) -> bool:
    return MemoryStore.write_if_absent(store, key, data) or data == b"a late writer"


@pytest.mark.parametrize(
    "lie",
    [
        overwrite,
        look_then_write,
        write_nothing_and_refuse,
        overwrite_and_refuse,
        write_half,
        acknowledge_the_late_without_writing,
    ],
    ids=lambda lie: lie.__name__,
)
def test_a_store_that_lies_is_read_only(lie: Callable[[LyingStore, str, Data], bool]) -> None:
    store = LyingStore(lie)
    for _ in range(2):  # a failed probe is not taken for a passed one
        with pytest.raises(ReadOnlyStore, match="put-if-absent"):
            check_commits_once(store, store.url)
    assert list(store.list()) == []


def test_a_passed_probe_is_remembered_by_identity() -> None:
    store = LyingStore(MemoryStore.write_if_absent)
    check_commits_once(store, store.url)
    num_calls = store.num_calls
    assert num_calls > 2
    check_commits_once(store, store.url)
    assert store.num_calls == num_calls
    check_commits_once(store, store.url + "another")
    assert store.num_calls == 2 * num_calls


def test_the_probe_touches_nothing_but_its_own_key() -> None:
    store = LyingStore(MemoryStore.write_if_absent)
    store.write("_chunkstore/probe/somebodys", b"1")
    check_commits_once(store, store.url)
    assert [key for key, *_ in store.list()] == ["_chunkstore/probe/somebodys"]
    assert len(set(store.deleted)) == 1


def test_a_store_that_may_not_be_written_to_is_read_only() -> None:
    def forbid(store: LyingStore, key: str, data: Data) -> bool:
        raise PermissionError("403")

    store = LyingStore(forbid)
    with pytest.raises(ReadOnlyStore, match="cannot be written to with these credentials: 403"):
        check_commits_once(store, store.url)


@pytest.mark.parametrize("error", [StoreError("503, after a minute"), PermissionError("403")], ids=repr)
def test_a_store_that_took_nothing_is_not_waited_for_again(error: Exception) -> None:
    def fail(store: LyingStore, key: str, data: Data) -> bool:
        raise error

    store = LyingStore(fail)
    with pytest.raises((StoreError, ReadOnlyStore)):
        check_commits_once(store, store.url)
    assert store.deleted == []


def test_a_store_that_took_some_is_cleaned() -> None:
    def fail_once(store: LyingStore, key: str, data: Data) -> bool:
        if store.num_calls == 1 or b"writer 0" in bytes(data):
            raise StoreError("503")
        return MemoryStore.write_if_absent(store, key, data)

    store = LyingStore(fail_once)
    with pytest.raises(StoreError, match="503"):
        check_commits_once(store, store.url)
    assert len(store.deleted) == 1
    assert list(store.list()) == []


def test_a_store_that_fails_is_no_liar() -> None:
    def fail(store: LyingStore, key: str, data: Data) -> bool:
        raise StoreError("503")

    store = LyingStore(fail)
    with pytest.raises(StoreError, match="503"):
        check_commits_once(store, store.url)
