"""A loader holds its window and no more: nothing is loaded whole, nothing grows, and the first batch comes early."""

import json

import numpy as np
import pytest

import chunkstore as cs

STREAM = """
import resource, sys, json
import chunkstore as cs

def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * resource.getpagesize()

def peak():
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith("VmHWM"))

def forget_peak():
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")

url, warm_url, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
for _ in cs.Loader(warm_url, 8, **options):  # compiles and imports what is needed
    pass
forget_peak()
base = resident()
loader = cs.Loader(url, 64, memory_nbytes=64 << 20, window_nbytes=32 << 20, lanes=16, **options)
after, count = [], 0
for epoch in range(int(sys.argv[4])):
    for batch in loader:
        count += len(batch["x"])
    del batch
    after.append(resident() - base)
print(json.dumps({"count": count, "peak": peak() - base, "after": after}))
"""

ROW = 1 << 14  # bytes a sample


def write_rows(url, samples):
    x = np.random.default_rng(0).integers(0, 256, (1024, ROW), np.uint8)
    with cs.create(url, {"x": cs.Array("uint8", (ROW,), codec=None), "y": cs.Array("int64")}) as writer:
        for start in range(0, samples, 1024):
            n = min(1024, samples - start)
            writer.write_batch({"x": x[:n], "y": np.arange(start, start + n)})
    return url


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """1 GiB, and datasets like it of 128 MiB and 4 MiB."""
    folder = tmp_path_factory.mktemp("large")
    return [write_rows(str(folder / str(samples)), samples) for samples in (1 << 16, 1 << 13, 256)]


@pytest.mark.parametrize("shuffle", ["true", "false"])
def test_a_gibibyte_streams_through_a_small_window(large, run_script, shuffle):
    """32 MiB of open runs, 64 MiB ahead, 64 MiB of kept chunks, batches and reads in flight."""
    url, _, small = large
    done = run_script(STREAM, url, small, f'{{"shuffle": {shuffle}}}', 1, timeout_s=200)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["count"] == 1 << 16
    assert result["peak"] < 256 << 20, result


def test_memory_stays_flat_from_epoch_to_epoch(large, run_script):
    """Once kept chunks have reached their limit of 64 MiB, that is: after 16 epochs or so.

    Arrays are given back to the system at once here; how glibc's arenas happen to fill up differs by tens of MiB.
    """
    shuffled = '{"shuffle": true}'
    done = run_script(STREAM, large[1], large[2], shuffled, 28, timeout_s=200, MALLOC_MMAP_THRESHOLD_="65536")
    assert done.returncode == 0, done.stderr
    after = json.loads(done.stdout)["after"]
    assert max(after[20:]) < max(after[:20]) + (2 << 20), after
    assert max(after) < 160 << 20, after


@pytest.mark.parametrize("memory_nbytes", [0, None])
def test_the_first_batch_comes_long_before_a_window_is_read(large, watch, memory_nbytes):
    dataset, store = watch(large[0])
    loader = cs.Loader(dataset, 64, shuffle=True, lanes=64, memory_nbytes=memory_nbytes, num_threads=1)
    batches = iter(loader)
    next(batches)
    # A chunk (256 KiB) of each of 64 lanes, and what is read on while the batch is put together.
    assert store.nbytes < 64 << 20
    batches.close()


def test_no_memory_means_as_little_as_possible(large, watch):
    dataset, store = watch(large[0])
    batches = iter(cs.Loader(dataset, 64, memory_nbytes=0, num_threads=1))
    for step in range(1, 5):
        next(batches)
        # the batch handed out and the one after it, 1 MiB each, at most twice for the cut chunk; an index and the y beside it
        assert store.nbytes < (step + 1) * (1 << 20) * 1.5 + (1 << 20)
    batches.close()


UNEVEN = """
import sys, json
exec(sys.argv[1])
url, options = sys.argv[2], json.loads(sys.argv[3])
small = next(iter(cs.Loader(url, 1, device=None, **{**options, "memory_nbytes": 0})))
del small
forget_peak()
base, seen = resident(), []
for batch in cs.Loader(url, 2, drop_last=False, lanes=64, window_nbytes=1 << 24, **options):
    seen += batch["y"].tolist()
assert sorted(seen) == list(range(len(seen)))
print(json.dumps({"count": len(seen), "peak": peak() - base}))
"""


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """6,000 samples of 200 bytes, then 100 of 4 MB: what the mean says of a few samples holds for none of them."""
    url = str(tmp_path_factory.mktemp("uneven") / "data")
    random = np.random.default_rng(0)
    with cs.create(url, {"b": cs.Bytes(), "y": cs.Array("int64")}) as writer:
        for n in range(6100):
            writer.write({"b": random.bytes(200 if n < 6000 else 4_000_000), "y": n})
    return url


@pytest.mark.parametrize("memory_nbytes", [0, 16 << 20])
@pytest.mark.parametrize("shuffle", [False, True, "full"])
def test_memory_is_bounded_by_what_samples_really_hold(uneven, run_script, shuffle, memory_nbytes):
    """Arrays are given back to the system at once here, so that what is held is seen, not what glibc keeps."""
    names, options = STREAM.partition("url, warm_url")[0], {"shuffle": shuffle, "memory_nbytes": memory_nbytes}
    arguments = (names, uneven, json.dumps(options))
    done = run_script(UNEVEN, *arguments, timeout_s=100, MALLOC_MMAP_THRESHOLD_="65536")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["count"] == 6100
    # Batches of 8 MB: given out, next to be, what they are gathered from; with lanes also open runs of up to 16 MB.
    runs_nbytes = 6 * (16 << 20) if shuffle is True else 0
    assert result["peak"] < memory_nbytes + runs_nbytes + 8 * (8 << 20), result


def test_only_selected_fields_count_towards_memory(uneven, monkeypatch):
    """Labels beside large samples are read many at a time."""
    calls, original = [], cs.Dataset.read_intervals

    def counting(self, intervals, names=None):
        calls.append(intervals)
        return original(self, intervals, names)

    monkeypatch.setattr(cs.Dataset, "read_intervals", counting)
    for shuffle in (False, True, "full"):
        calls.clear()
        loader = cs.Loader(cs.open(uneven).select("y"), 2, shuffle=shuffle, drop_last=False)
        assert sorted(np.concatenate([batch["y"] for batch in loader]).tolist()) == list(range(6100))
        assert len(calls) < 20
