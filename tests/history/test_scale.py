"""Datasets of 10,000 fragments and of 100 TB: opened, committed to and planned within fixed bounds.

The fragments have no data, and sizes as if they had: nothing here reads samples.
"""

import json
import subprocess
import sys
import time

import pytest
from bare_fragments import SAMPLES, append_bare, begin_bare
from recording_store import RecordingStore

import chunkstore as cs
from chunkstore.history.versions import read_document
from chunkstore.store.location import open_store

FRAGMENTS = 10_000
OBJECTS_A_FRAGMENT = 75
"""Shards of 128 MiB: 750,000 in all, 100.7 TB."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("scale") / "data")
    begin_bare(open_store(path), FRAGMENTS, objects=OBJECTS_A_FRAGMENT)
    return path


def test_ten_thousand_fragments_open_in_two_round_trips_and_half_a_second_of_processor_time(url: str) -> None:
    store = RecordingStore(open_store(url), delay_s=0.3)
    cs.open(store)  # imports what is imported late
    took_s = []
    for _ in range(3):  # what runs beside this test makes the same work take more processor time
        store.forget()
        begin_s = time.process_time()
        dataset = cs.open(store)
        took_s.append(time.process_time() - begin_s)
        assert len(dataset) == FRAGMENTS * SAMPLES
        assert store.num_round_trips() == 2
        assert len(store.of("read", "read_ranges")) < 30
    assert min(took_s) < 0.5


def test_a_commit_on_ten_thousand_fragments_writes_less_than_a_hundred_kilobytes(url: str) -> None:
    written = []
    inner = open_store(url)
    append_bare(inner, *range(FRAGMENTS, FRAGMENTS + 50))  # as many as a document nearly holds
    for number in range(FRAGMENTS + 50, FRAGMENTS + 62):
        store = RecordingStore(inner)
        append_bare(store, number)
        written.append(sum(operation.nbytes for operation in store.of("write", "write_if_absent")))
    assert max(written) < 100_000
    assert max(written) > 3 * min(written), "none of these commits made a page"
    assert read_document(inner, 14).num_samples == (FRAGMENTS + 62) * SAMPLES


PLAN = """
import json, resource, sys, time
import chunkstore as cs
from chunkstore.plan.extents import FragmentExtent
from chunkstore.plan.order import plan_order

def plan(extents):
    order = plan_order(extents, shuffle=True, seed=1)
    return sum(order.num_runs(0, lane) for lane in range(order.lanes))

plan([FragmentExtent(100_000, 32, 1 << 30)])  # compiles
begin_s = time.process_time()
dataset = cs.open(sys.argv[1], version=1)
runs = plan(dataset.extents)
took_s = time.process_time() - begin_s
nbytes = sum(fragment.nbytes for fragment in dataset.version_document.fragments)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"took_s": took_s, "peak_nbytes": peak, "nbytes": nbytes, "samples": len(dataset), "runs": runs}))
"""


def test_a_hundred_terabytes_open_and_plan_an_epoch_within_two_gigabytes_and_ten_seconds(url: str) -> None:
    """All lanes of an epoch, as a single rank reads them."""
    done = subprocess.run([sys.executable, "-c", PLAN, url], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["nbytes"] > 100e12
    assert told["samples"] == FRAGMENTS * SAMPLES
    assert told["runs"] > told["nbytes"] / (64 << 20)
    assert told["peak_nbytes"] < 2e9
    assert told["took_s"] < 10
