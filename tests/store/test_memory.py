"""What is particular to memory."""

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from chunkstore.errors import StoreError
from chunkstore.store.location import open_store


def test_in_another_process_it_says_that_it_cannot_travel(memory) -> None:
    store = memory.open()
    store.write("object", b"1")
    code = (
        "import pickle, sys\n"
        "from chunkstore.errors import StoreError\n"
        "try:\n"
        "    pickle.loads(sys.stdin.buffer.read())\n"
        "except StoreError as error:\n"
        "    print(error)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(store), stdout=subprocess.PIPE, check=True, timeout=60
    )
    assert b"local folder" in answer.stdout


def test_a_private_file_system_cannot_be_pickled() -> None:
    filesystem = MemoryFileSystem(global_store=False, skip_instance_cache=True)
    store = open_store("data", filesystem=filesystem)
    store.write("object", b"1")
    assert fsspec.filesystem("memory").store.get("/data/object") is None
    with pytest.raises(StoreError, match="pickled"):
        pickle.dumps(store)


def test_reading_does_not_disturb_a_file_that_fsspec_has_open(memory) -> None:
    store = memory.open()
    store.write("object", b"0123456789")
    with fsspec.open(f"{memory.url}/object") as file:
        assert file.read(3) == b"012"
        store.read("object")
        store.read_ranges("object", [(5, 7)])
        list(store.list())
        assert file.read(3) == b"345"


def test_views_given_stay_when_the_object_is_replaced(memory) -> None:
    store = memory.open()
    store.write("object", b"first")
    (view,) = store.read_ranges("object", [(0, 5)])
    store.write("object", b"other")
    store.delete(["object"])
    assert bytes(view) == b"first"


def test_a_name_that_is_a_folder_is_an_error(memory) -> None:
    store = memory.open()
    store.write("object", b"1")
    with pytest.raises(StoreError, match="folder"):
        store.write("object/below", b"1")


_FORK = """
import os, signal, threading
import chunkstore.store.memory as module
from chunkstore.errors import ForkedLoader
from chunkstore.store.location import open_store
signal.alarm(20)
store = open_store("memory://x")
store.write("object", b"1")
with module._lock:  # as if another thread were writing
    pid = os.fork()
if pid == 0:
    assert store.read("object") == b"1"
    for call in (lambda: store.write("object", b"2"), lambda: store.write_if_absent("new", b"2"), store.check_commits):
        try:
            call()
        except ForkedLoader:
            continue
        os._exit(1)
    fresh = open_store("memory://y")
    fresh.write("object", b"3")
    os._exit(0 if fresh.read("object") == b"3" else 2)
_, status = os.waitpid(pid, 0)
assert status == 0, status
"""


def test_a_forked_child_reads_its_copy_and_may_not_write_to_it() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", _FORK], check=True, timeout=60)


def test_many_threads_list_while_others_write(memory) -> None:
    store = memory.open()

    def work(index: int) -> int:
        for number in range(50):
            store.write(f"{index}/{number}", b"x")
        return len(list(store.list()))

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(work, range(4))) == 200
