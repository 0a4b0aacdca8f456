"""What every store that can commit must do, on local disk, in memory and on a real S3 server, also through s3fs."""

import contextlib
import json
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkstore.errors import StoreError
from chunkstore.store.interface import check_key, check_ranges
from chunkstore.store.location import Store, open_store
from chunkstore.store.s3_filesystem import S3FilesystemStore

BAD_KEYS = [
    "",
    "/a",
    "a/",
    "a//b",
    "..",
    "../a",
    "a/../b",
    "a/./b",
    ".",
    "a b",
    "a\\b",
    "é",
    "a\n",
    "a~b",
    "a%2e",
    "x" * 201,
    "a/" * 450 + "a",
]


@pytest.fixture(params=["local", "memory", "s3", "s3fs"])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param != "s3fs":
        return request.getfixturevalue(request.param).open()
    filesystem, path = request.getfixturevalue("s3fs_location")
    return open_store(path, filesystem=filesystem)


def test_an_object_reads_back_as_written(store: Store) -> None:
    for data in (b"", b"x", bytes(range(256)) * 5):
        store.write("folder/sub.1/object_2-x", data)
        assert store.read("folder/sub.1/object_2-x") == data


def test_every_buffer_can_be_written(store: Store) -> None:
    grid = memoryview(bytearray(range(24))).cast("B", (4, 6))
    for data in (bytearray(b"abc"), memoryview(b"abc"), grid):
        store.write("object", data)
        assert store.read("object") == bytes(data)
        with store.open_upload("upload") as upload:
            upload.write(data)
        assert store.read("upload") == bytes(data)
        store.delete(["absent"])
        assert store.write_if_absent("absent", data)
        assert store.read("absent") == bytes(data)
        store.delete(["absent"])


def test_an_absent_object_is_file_not_found(store: Store) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        store.read("folder/absent")
    with pytest.raises(FileNotFoundError, match="absent"):
        store.read_ranges("folder/absent", [(0, 1)])
    store.write("folder/present", b"1")
    with pytest.raises(FileNotFoundError):
        store.read("folder")
    with pytest.raises(FileNotFoundError):
        store.read("folder/present/below")


def test_an_object_larger_than_the_limit_is_refused(store: Store) -> None:
    store.write("object", bytes(100))
    assert store.read("object", limit_nbytes=100) == bytes(100)
    with pytest.raises(ValueError, match="99"):
        store.read("object", limit_nbytes=99)


def test_ranges_come_exactly_and_in_order(store: Store) -> None:
    data = bytes(range(256))
    store.write("object", data)
    ranges = [(250, 256), (0, 10), (10, 20), (5, 15), (7, 7), (0, 256), (0, 10)]
    pieces = store.read_ranges("object", ranges)
    assert [bytes(piece) for piece in pieces] == [data[start:stop] for start, stop in ranges]
    assert all(isinstance(piece, memoryview) for piece in pieces)
    assert store.read_ranges("object", []) == []


@pytest.mark.parametrize("nbytes", [1, 4, 256, 1000])
def test_the_end_of_an_object_comes_with_its_size(store: Store, nbytes: int) -> None:
    data = bytes(range(256))
    store.write("object", data)
    size, end = store.read_end("object", nbytes)
    assert (size, bytes(end)) == (256, data[-nbytes:])
    store.write("object", data[:100])  # as it is now, whatever was listed before
    assert store.read_end("object", 4) == (100, data[96:100])
    store.write("object", b"")
    assert store.read_end("object", nbytes) == (0, b"")
    with pytest.raises(FileNotFoundError):
        store.read_end("absent", nbytes)


@pytest.mark.parametrize("stop", [257, 1000, 2**62])
def test_a_range_past_the_end_is_an_error(store: Store, stop: int) -> None:
    store.write("object", bytes(256))
    with pytest.raises(StoreError, match="object"):
        store.read_ranges("object", [(0, 10), (100, stop)])
    with pytest.raises(StoreError, match="object"):
        store.read_ranges("object", [(256, stop)])


def test_ranges_that_none_can_have_are_refused(store: Store) -> None:
    store.write("object", bytes(10))
    for bad in ((-1, 3), (5, 4)):
        with pytest.raises(ValueError, match="range"):
            store.read_ranges("object", [bad])


def test_writing_again_replaces(store: Store) -> None:
    store.write("object", b"first, and longer")
    store.write("object", b"second")
    assert store.read("object") == b"second"


def test_an_upload_is_invisible_until_finished(store: Store) -> None:
    upload = store.open_upload("folder/object")
    upload.write(b"abc")
    upload.write(bytes(9 << 20))
    assert list(store.list()) == []
    upload.write(b"xyz")
    upload.finish()
    assert [listed[:2] for listed in store.list()] == [("folder/object", 6 + (9 << 20))]
    data = store.read("folder/object")
    assert (data[:3], data[-3:]) == (b"abc", b"xyz")
    upload.abort()
    assert store.read("folder/object") == data


@pytest.mark.parametrize("nbytes", [1 << 10, 9 << 20])
def test_an_upload_keeps_nothing_of_the_buffers_it_is_given(store: Store, nbytes: int) -> None:
    buffer = bytearray(b"a" * nbytes)
    with store.open_upload("object") as upload:
        upload.write(buffer)
        buffer[:] = b"b" * nbytes
        upload.write(buffer)
        buffer[:] = b"c" * nbytes
    assert store.read("object") == b"a" * nbytes + b"b" * nbytes


@pytest.mark.parametrize("nbytes", [0, 10, 20 << 20])
def test_an_aborted_upload_leaves_nothing(store: Store, nbytes: int) -> None:
    upload = store.open_upload("folder/object")
    upload.write(bytes(nbytes))
    upload.abort()
    upload.abort()
    with pytest.raises(KeyError, match="given up"), store.open_upload("folder/object") as failing:
        failing.write(bytes(nbytes))
        raise KeyError("given up")
    assert list(store.list()) == []
    with pytest.raises(ValueError, match="over"):
        upload.write(b"more")
    with pytest.raises(ValueError, match="over"):
        upload.finish()


def test_an_upload_of_nothing_is_an_empty_object(store: Store) -> None:
    with store.open_upload("empty"):
        pass
    assert store.read("empty") == b""


def test_listing_is_by_folder(store: Store) -> None:
    for key in ("a/b/1", "a/b/2", "a/bc/3", "a/b.4", "top"):
        store.write(key, key.encode())
    everything = {(key, len(key)) for key in ("a/b/1", "a/b/2", "a/bc/3", "a/b.4", "top")}
    assert {listed[:2] for listed in store.list()} == everything
    assert set(store.list("a/b")) == set(store.list("a/b/"))
    assert {listed[:2] for listed in store.list("a/b")} == {("a/b/1", 5), ("a/b/2", 5)}
    assert list(store.list("absent")) == list(store.list("top")) == []


def test_a_listing_says_when_an_object_was_written(store: Store) -> None:
    before = time.time()
    store.write("a/1", b"1")
    (first,) = store.list("a")
    assert before - 2 < first.modified < time.time() + 2  # stores' clocks count whole seconds
    time.sleep(1.1)
    store.write("a/1", b"2")
    (second,) = store.list("a")
    assert (second.key, second.nbytes) == ("a/1", 1)
    assert first.modified < second.modified < time.time() + 2


def test_deleted_objects_are_gone_and_absent_ones_no_error(store: Store) -> None:
    for key in ("a/1", "a/2", "b/3"):
        store.write(key, b"1")
    store.delete(["a/1", "absent/x", "b/3", "b/3"])
    store.delete([])
    assert [key for key, *_ in store.list()] == ["a/2"]


def test_the_first_to_write_if_absent_wins(store: Store) -> None:
    assert store.write_if_absent("folder/object", b"first")
    assert not store.write_if_absent("folder/object", b"second")
    if not isinstance(store, S3FilesystemStore):  # which cannot tell a writer of the same bytes from itself
        assert not store.write_if_absent("folder/object", b"first")
    assert store.read("folder/object") == b"first"
    store.delete(["folder/object"])
    assert store.write_if_absent("folder/object", b"third")


def test_of_racing_threads_one_wins_each_round(store: Store) -> None:
    num_threads = 4
    # the S3 server lets writers of one key wait a second for each other
    num_rounds = 3 if store.url.startswith("s3:") else 100
    start = threading.Barrier(num_threads, timeout=60)

    def race(index: int) -> list[bool]:
        won = []
        for number in range(num_rounds):
            start.wait()
            won.append(store.write_if_absent(f"round/{number}", b"%d" % index))
        return won

    with ThreadPoolExecutor(num_threads) as pool:
        results = list(pool.map(race, range(num_threads)))
    for number in range(num_rounds):
        winners = [index for index in range(num_threads) if results[index][number]]
        assert [b"%d" % index for index in winners] == [store.read(f"round/{number}")]


_RACER = """
import json, sys
from chunkstore.store.location import open_store
index, url, options = json.loads(sys.stdin.readline())
store = open_store(url, storage_options=options or None)
list(store.list())
print("ready", flush=True)
for line in sys.stdin:
    print(store.write_if_absent(line.strip(), b"%d" % index), flush=True)
"""


@pytest.mark.parametrize(("kind", "num_rounds"), [("local", 200), ("s3", 6)])
def test_of_racing_processes_one_wins_each_round(request: pytest.FixtureRequest, kind: str, num_rounds: int) -> None:
    location = request.getfixturevalue(kind)
    store = location.open()
    with contextlib.ExitStack() as stack:
        racers = [stack.enter_context(_racer(index, location)) for index in range(3)]
        for number in range(num_rounds):
            key = f"round/{number}"
            for say, _ in racers:
                say(key)
            won = [hear() == "True" for _, hear in racers]
            assert [b"%d" % index for index in range(3) if won[index]] == [store.read(key)]
    assert len(list(store.list())) == num_rounds


@contextlib.contextmanager
def _racer(index: int, location: Any) -> Iterator[tuple[Callable[[str], None], Callable[[], str]]]:
    """A process that writes the key it is told, and says whether it won."""
    command = [sys.executable, "-c", _RACER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            told, heard = process.stdin, process.stdout
            print(json.dumps([index, location.url, location.storage_options]), file=told, flush=True)
            assert heard.readline() == "ready\n"
            yield lambda line: print(line, file=told, flush=True), lambda: heard.readline().strip()
            told.close()
            process.wait(30)
        finally:
            process.kill()


@pytest.mark.parametrize("key", BAD_KEYS)
@pytest.mark.parametrize("url", ["memory://x", "data", "s3://bucket/x"])
def test_keys_that_could_leave_the_store_are_refused(url: str, key: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store(url)
    calls: list[Callable[[], object]] = [
        lambda: store.read(key),
        lambda: store.read_ranges(key, [(0, 1)]),
        lambda: store.write(key, b""),
        lambda: store.open_upload(key),
        lambda: store.write_if_absent(key, b""),
        lambda: store.delete([key]),
    ]
    if key not in {"", "a/"}:  # these are folders
        calls.append(lambda: list(store.list(key)))
    for call in calls:
        with pytest.raises(ValueError, match="not a key"):
            call()


@given(st.lists(st.text("abcXYZ019_.-", min_size=1, max_size=8), min_size=1, max_size=6).map("/".join))
def test_a_key_never_climbs(key: str) -> None:
    segments = key.split("/")
    if {".", ".."} & set(segments):
        with pytest.raises(ValueError, match="not a key"):
            check_key(key)
    else:
        assert check_key(key) == key


@given(st.text(max_size=20))
def test_any_text_is_a_plain_relative_key_or_refused(text: str) -> None:
    try:
        check_key(text)
    except ValueError:
        return
    assert text.isascii()
    assert not text.startswith("/")
    assert set(text.split("/")).isdisjoint({"", ".", ".."})


@given(st.integers(-5, 5), st.integers(-5, 5))
def test_a_range_is_half_open_and_not_negative(start: int, stop: int) -> None:
    if 0 <= start <= stop:
        check_ranges([(start, stop)])
    else:
        with pytest.raises(ValueError, match="range"):
            check_ranges([(start, stop)])


def test_the_probe_passes_and_leaves_nothing(store: Store) -> None:
    store.check_commits()
    store.check_commits()
    assert list(store.list()) == []


def test_a_pickled_store_is_the_same_store(store: Store) -> None:
    store.write("object", b"1")
    assert pickle.loads(pickle.dumps(store)).read("object") == b"1"  # noqa: S301


def test_a_store_says_where_it_is_and_opens_there(location) -> None:
    store = location.open()
    store.write("object", b"1")
    assert store.url == location.url
    assert open_store(store.url, storage_options=location.storage_options or None).read("object") == b"1"
    assert location.url in repr(store)
    assert store.is_local == ("://" not in location.url)


def test_stores_may_be_used_from_many_threads(store: Store) -> None:
    def work(index: int) -> bytes:
        store.write(f"object/{index}", b"%d" % index * 1000)
        return bytes(store.read_ranges(f"object/{index}", [(0, 1000)])[0]) + store.read(f"object/{index}")

    with ThreadPoolExecutor(8) as pool:
        for index, data in enumerate(pool.map(work, range(40))):
            assert data == (b"%d" % index * 1000)[:1000] + b"%d" % index * 1000
    assert len(list(store.list("object"))) == 40
