"""What goes wrong while loading surfaces at the batch it concerns, typed, and never as a hang."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import chunkstore as cs

pytestmark = pytest.mark.usefixtures("no_threads_left")


@pytest.fixture
def url(tmp_path, write_dataset):
    schema = {"y": cs.Array("int64", chunk=(16,), shard=32), "x": cs.Array("float32", (8,), chunk=(16, 8), shard=32)}
    return write_dataset(str(tmp_path / "data"), (64, 64), schema)


def shards(url, field):
    return sorted(path for path in Path(url).glob(f"fragments/*/0/{field}/**/c/*/*") if path.is_file())


@pytest.mark.parametrize("shuffle", [True, "full", False])
@pytest.mark.parametrize("shard", [0, 1, -1])
def test_a_corrupt_chunk_is_an_error_at_the_first_batch_that_needs_it(url, shuffle, shard):
    path = shards(url, "x")[shard]
    whole = path.read_bytes()
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    loader = cs.Loader(url, 8, shuffle=shuffle, lanes=4)
    batches, served = iter(loader), []
    with pytest.raises(cs.CorruptChunk, match="field 'x', samples") as raised:
        for batch in batches:
            assert np.array_equal(batch["x"][:, 0], batch["y"] * 10)
            served.append(set(batch["y"].tolist()))
    assert next(batches, None) is None, "a failed iterator is over"
    first, last = map(int, re.search(r"samples (\d+)–(\d+)", str(raised.value)).groups())
    bad = set(range(first, last + 1))
    assert len(bad) == 16
    assert not bad & set().union(*served)
    assert bad & set(loader.sample_indices(len(served), 0).tolist())
    assert loader.state_dict()["consumed"] == 8 * len(served)
    path.write_bytes(whole)
    loader.load_state_dict(loader.state_dict())
    rest = [set(batch["y"].tolist()) for batch in loader]
    assert set().union(*served, *rest) == set(range(128))
    assert len(served) + len(rest) == len(list(loader)) == 16


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_missing_shard_is_an_error_not_fill_values(url, shuffle):
    path = shards(url, "x")[-1]
    path.unlink()
    with pytest.raises(cs.MissingObject, match="restore"):
        list(cs.Loader(url, 8, shuffle=shuffle, lanes=4))
    assert len(list(cs.Loader(cs.open(url).select("y"), 8, shuffle=shuffle))) == 16, "fields not selected are not read"


def test_a_failing_store_ends_the_pass_with_its_error(make_dataset, watch):
    def fail(key):
        raise cs.StoreError(f"cannot read {key}")

    dataset, _ = watch(make_dataset(300), before=fail)
    with pytest.raises(cs.StoreError, match="cannot read"):
        list(cs.Loader(dataset, 10, shuffle=True))


def test_a_slow_store_gives_every_batch(make_dataset, watch):
    dataset, _ = watch(make_dataset(300), delay_s=0.02)
    batches = list(cs.Loader(dataset, 50, shuffle=True, lanes=4, drop_last=False))
    assert sorted(np.concatenate([batch["y"] for batch in batches]).tolist()) == list(range(300))


def test_an_abandoned_iterator_leaves_no_threads_and_reads_no_more(make_dataset, watch):
    dataset, store = watch(make_dataset(300), delay_s=0.005)
    for batch in cs.Loader(dataset, 4, shuffle=True, lanes=4, memory_nbytes=0, num_connections=2):
        assert len(batch["y"]) == 4
        break
    deadline = time.monotonic() + 5
    while any(t.name.startswith(("chunkstore-read", "chunkstore-assemble")) for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    reads = len(store.reads)
    time.sleep(0.05)
    assert len(store.reads) == reads


def test_passes_leave_no_threads_behind_however_many_there_are(make_dataset):
    loader = cs.Loader(make_dataset(300), 50, shuffle=True, lanes=4)
    for _ in range(3):  # threads that several passes share are started
        next(iter(loader))
    shared, most = threading.active_count(), 0
    for _ in range(20):
        next(iter(loader))
        most = max(most, threading.active_count())
    assert most < shared + 15  # one left by each pass would be 20


SLOW = """
import sys, threading, time
import numpy as np
import chunkstore as cs
from chunkstore.history.commit import read_version
from chunkstore.store.location import open_store

class Slow:
    def __init__(self, store): self.store = store
    def __getattr__(self, name): return getattr(self.store, name)
    def read_ranges(self, key, ranges):
        time.sleep(float(sys.argv[2]))
        return self.store.read_ranges(key, ranges)

store = Slow(open_store(sys.argv[1]))
dataset = cs.Dataset(store, read_version(store, None))
loader = cs.Loader(dataset, 2, shuffle=True, lanes=16, num_connections=16, memory_nbytes=1 << 20)
"""


@pytest.mark.parametrize("where", ["waiting", "consuming"])
def test_ctrl_c_ends_the_process_within_a_second(url, tmp_path, where):
    path = tmp_path / "interrupted.py"
    delay_s = "30" if where == "waiting" else "0.1"
    busy = "time.sleep(60)" if where == "consuming" else ""
    # Numba swallows an interrupt while it compiles, which it does once for a cache; so it has to be done by then.
    begin = "loader.sample_indices(0)\nprint('ready', flush=True)"
    path.write_text(f"{SLOW}\n{begin}\nfor batch in loader:\n    print('batch', flush=True)\n    {busy}\n")
    with subprocess.Popen(
        [sys.executable, str(path), url, delay_s], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            if where == "consuming":
                assert process.stdout.readline() == "batch\n"
            else:
                time.sleep(0.3)
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=20)
            took_s = time.monotonic() - started
        finally:
            process.kill()
    assert process.returncode == -signal.SIGINT
    assert errors.count("Traceback") == 1
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert took_s < 2.5  # a second, and what a busy machine adds


@pytest.mark.parametrize("delay_s", ["0", "0.2"])
def test_a_process_with_a_live_iterator_ends_by_itself(url, run_script, delay_s):
    done = run_script(f"{SLOW}\nbatches = iter(loader)\nprint(len(next(batches)['y']))\n", url, delay_s, timeout_s=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")


def test_what_a_thread_raises_in_a_dropped_pass_is_not_printed(url, run_script):
    source = f"""{SLOW}
def fail(key, ranges): raise RuntimeError("late")
batches = iter(loader); next(batches)
store.read_ranges = fail
del batches
time.sleep(0.5)
"""
    done = run_script(source, url, "0.05")
    assert (done.returncode, done.stderr) == (0, "")


FORK = """
import os, sys, signal
import numpy as np
import chunkstore as cs
import json
options = json.loads(sys.argv[2])
loader = cs.Loader(sys.argv[1], 8, shuffle=sys.argv[3] == "True", lanes=4, storage_options=options or None)
expected = [[b["y"].tolist() for b in loader] for _ in range(2)]
loader.set_epoch(0)
batches = iter(loader)
next(batches)
pid = os.fork()
if pid == 0:
    signal.alarm(40)  # a hang ends by a signal
    status = 0
    try:
        next(batches)
        status = 1
    except cs.ForkedLoader as error:
        assert "fork" in str(error)
    try:
        del batches
        status += 0 if [b["y"].tolist() for b in loader] == expected[1] else 2
    except cs.ForkedLoader:
        status += 4
    sys.stdout.flush()
    os._exit(status)
_, status = os.waitpid(pid, 0)
print(os.waitstatus_to_exitcode(status))
rest = [b["y"].tolist() for b in batches]
assert rest == expected[0][1:], "the parent goes on"
"""


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_forked_child_refuses_the_live_iterator_and_begins_its_own(url, run_script, shuffle):
    done = run_script(FORK, url, "{}", shuffle)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def test_a_forked_child_is_refused_by_a_loader_of_object_storage(s3, run_script, write_dataset):
    write_dataset(s3.url, (64,), storage_options=s3.storage_options)
    done = run_script(FORK, s3.url, json.dumps(s3.storage_options), True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "4\n", "")


def test_a_fork_in_the_middle_of_reading_does_not_hang(url, run_script):
    """Locks may be held by threads at any moment of a fork; try many."""
    source = f"""{SLOW}
import os, signal
loader = cs.Loader(sys.argv[1], 2, shuffle=True, lanes=16)
failed = 0
for i in range(25):
    batches = iter(loader)
    next(batches)
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        del batches
        loader.set_epoch(i)
        os._exit(0 if len(list(loader)) == len(loader) else 1)
    failed += os.waitpid(pid, 0)[1] != 0
print(failed)
"""
    done = run_script(source, url, "0", timeout_s=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def test_the_environment_is_not_read_at_import(run_script):
    done = run_script("import chunkstore.loader.loader", RANK="nonsense", WORLD_SIZE="nonsense")
    assert done.returncode == 0
    assert os.environ.get("RANK") is None
