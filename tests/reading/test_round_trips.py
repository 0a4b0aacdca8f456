"""What reading costs a remote store: round trips, requests and bytes, counted by a store that notes them."""

import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from recording_store import RecordingStore

import chunkstore as cs
from chunkstore.store.location import open_store

DELAYS_S = (0.03, 0.2, 0.8)
"""What is asked for together is seen to be if requests take longer than threads need to start: on a busy machine, long."""
FRAGMENTS, SAMPLES = 3, 128
N = FRAGMENTS * SAMPLES
WIDTH = 2048
TOKENS = 700
SCHEMA = {
    # chunks of 32 KiB, 8 samples high, so that far more than the largest gap lies between scattered samples
    "x": cs.Array("float32", (WIDTH,), codec=None, chunk=(4, WIDTH), shard=64),
    "wide": cs.Array("int16", (4, 64), codec=None, chunk=(16, 1, 32), shard=64),
    "label": cs.Array("int64"),
    "tokens": cs.Ragged("int32", codec=None, chunk=256),
    "points": cs.Ragged("float32", (None, 3), codec="zstd-1"),
    "text": cs.Text(codec=None),
}


def columns(start: int, stop: int) -> dict[str, Any]:
    rows = np.arange(start, stop)
    return {
        "x": np.repeat(rows[:, None], WIDTH, axis=1).astype("f4"),
        "wide": np.repeat(rows[:, None], 256, axis=1).reshape(-1, 4, 64).astype("i2"),
        "label": rows,
        "tokens": [np.full(TOKENS, i, "i4") for i in rows],
        "points": [np.full((i % 4, 3), i, "f4") for i in rows],
        "text": [str(i) for i in rows],
    }


@pytest.fixture(scope="module")
def url() -> str:
    url = f"memory://trips-{uuid.uuid4().hex}"
    with cs.create(url, SCHEMA):
        pass
    for start in range(0, N, SAMPLES):
        with cs.append(url) as writer:
            writer.write_batch(columns(start, start + SAMPLES))
    return url


@pytest.fixture
def store(url: str) -> RecordingStore:
    return RecordingStore(open_store(url))


def assert_round_trips(
    store: RecordingStore, most: int, prepare: Callable[[], cs.Dataset], read: Callable[[cs.Dataset], Any]
) -> None:
    """`read` takes no more round trips at the delay that tells best; what is done in turn never takes fewer than its steps."""
    taken = []
    for delay_s in DELAYS_S:
        store.delay_s = 0.0
        ds = prepare()
        store.forget()
        store.delay_s = delay_s
        read(ds)
        taken.append(store.num_round_trips())
        if taken[-1] <= most:
            return
    pytest.fail(f"{taken} round trips, {most} are enough")


def keys_read(store: RecordingStore) -> set[str]:
    """Paths in their parts of the objects that were read."""
    return {"/".join(o.key.split("/")[3:]) for o in store.of("read", "read_ranges")}


def data_nbytes(store: RecordingStore) -> int:
    return sum(stop - start for o in store.of("read_ranges") for start, stop in o.ranges)


def test_opening_takes_two_round_trips(store: RecordingStore) -> None:
    assert_round_trips(store, 2, lambda: cs.open(store), lambda _: cs.open(store))
    assert len(store.operations) == 3  # the hint, the latest version, and whether there is one after it
    ds = cs.open(store)
    store.forget()
    view = ds.select("x", "label").slice(x=slice(0, 9)).filter(np.arange(0, N, 2)).split({"a": 0.5})["a"]
    assert (len(ds), len(ds["x"]), ds.statistics["label"]["values"].count) == (N, N, N)
    assert (len(view), len(view.extents), len(view.sample_ids()), len(view.view_digest)) == (
        len(view),
        3,
        len(view),
        64,
    )
    assert store.operations == []


def test_fixed_fields_take_one_round_trip_whatever_their_number_and_that_of_fragments(store: RecordingStore) -> None:
    rows = [40, 24, 100, 130, 200, 310, 340, 383]

    def prepare() -> cs.Dataset:
        ds = cs.open(store).select("x", "wide", "label")
        ds[[0, 64, 128, 192, 256, 320]]  # one sample of each shard: documents and indexes are read once
        return ds

    def read(ds: cs.Dataset) -> None:
        batch = ds[rows]
        assert batch["x"][:, 3].tolist() == batch["label"].tolist() == rows

    assert_round_trips(store, 1, prepare, read)
    assert store.num_round_trips() == 1


def test_ragged_fields_take_two_round_trips(store: RecordingStore) -> None:
    rows = [40, 24, 100, 130, 200, 310, 340, 383]

    def prepare() -> cs.Dataset:
        ds = cs.open(store).select("tokens", "points", "text")
        ds[[1, 129, 257]]  # documents and indexes are read once
        ds._parts._cache._chunks.clear()  # so that spans are read anew, as of a fragment with many chunks of them
        return ds

    def read(ds: cs.Dataset) -> None:
        batch = ds[rows]
        assert batch["text"] == [str(row) for row in rows]
        assert [tokens[-1] for tokens in batch["tokens"]] == rows

    assert_round_trips(store, 2, prepare, read)
    assert store.num_round_trips() == 2


@pytest.mark.parametrize(
    ("names", "depth"),
    [
        (["x", "wide", "label"], 2),  # index, chunks
        (["tokens", "text"], 3),  # index and chunks of spans, values
        (["points"], 4),  # index and chunks of spans, index and chunks of compressed values
    ],
)
def test_the_first_read_takes_as_many_round_trips_as_one_thing_leads_to_another(
    store: RecordingStore, names: list[str], depth: int
) -> None:
    documents = 1  # of a part: the object list, and at the same time the metadata whose checksum it holds
    rows = [0, 70, 130, 300, 383]
    assert_round_trips(store, documents + depth, lambda: cs.open(store).select(*names), lambda ds: ds[rows])


def test_documents_of_a_part_are_read_once_however_many_fields_are_read_at_once(store: RecordingStore) -> None:
    ds = cs.open(store)
    store.forget()
    ds[[0, 383]]
    documents = [o.key for o in store.of("read")]
    assert len(documents) == len(set(documents)) == 2 * 2
    store.forget()
    ds[[1, 382]]
    assert store.of("read") == []


def test_scattered_samples_are_coalesced_into_few_requests(store: RecordingStore) -> None:
    ds = cs.open(store)
    ds[[0, 64, 128, 192, 256, 320]]
    store.forget()
    rows = np.random.default_rng(0).choice(SAMPLES, 64, replace=False)
    assert ds.select("label")[rows]["label"].tolist() == rows.tolist()
    assert store.operations == []  # small fields are kept
    ds.select("tokens")[rows]
    assert len(store.operations) <= 2
    store.forget()
    batch = ds.select("x")[rows]
    assert batch["x"][:, 0].tolist() == rows.tolist()
    assert len(store.operations) <= 4  # 64 samples in 2 shards of 512 KiB
    assert len(store.operations) < len(rows) / 10


def test_selected_fields_read_nothing_of_others(store: RecordingStore) -> None:
    cs.open(store).select("text")[[3, 200]]
    of_parts = {key for key in keys_read(store) if key}
    assert {key.split("/")[0] for key in of_parts} == {"zarr.json", "_objects.json", "text"}
    store.forget()
    ds = cs.open(store)
    ds["label"][5]
    assert {key.split("/")[0] for key in keys_read(store) if key} == {"zarr.json", "_objects.json", "label"}


def test_a_slice_of_axes_reads_only_the_chunks_it_touches(store: RecordingStore) -> None:
    ds = cs.open(store).select("wide")
    ds[[0, 64]]
    chunk_nbytes = 16 * 1 * 32 * 2 + 4
    rows = list(range(16, 32))
    for part, chunks in [(..., 8), (slice(1, 2), 2), ((..., slice(40, 50)), 4), ((slice(2, 3), slice(0, 1)), 1)]:
        store.forget()
        view = ds.slice(wide=part)
        ds._parts._cache._chunks.clear()
        batch = view[rows]
        assert batch["wide"][:, 0, 0].tolist() == rows
        assert data_nbytes(store) <= chunk_nbytes * (8 if part == (..., slice(40, 50)) else chunks)
        assert data_nbytes(store) >= chunk_nbytes * chunks
        assert len(store.operations) <= chunks


def test_a_filtered_view_reads_its_samples_and_not_those_between(store: RecordingStore) -> None:
    ds = cs.open(store).select("x")
    ds[[0, 64, 128]]
    store.forget()
    view = ds.filter([8, 9, 60, 140])
    assert view[:]["x"][:, 1].tolist() == [8, 9, 60, 140]
    chunk_nbytes = 4 * WIDTH * 4 + 4
    # samples 8–9 and 60 are 12 chunks apart: more than the gap that is cheaper to read than another request
    assert data_nbytes(store) == 3 * chunk_nbytes


def test_iteration_reads_each_chunk_once(store: RecordingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chunkstore.reading.dataset.ITERATION_NBYTES", 1 << 19)
    ds = cs.open(store).select("x")
    assert [int(sample["x"][0]) for sample in ds] == list(range(N))
    nbytes = N * WIDTH * 4
    assert nbytes < data_nbytes(store) < nbytes * 1.02


def test_a_failure_beside_other_reads_is_raised_and_leaves_nothing_waiting(store: RecordingStore) -> None:
    ds = cs.open(store)
    ds[[0, 200]]

    def fail(name: str, key: str) -> None:
        if "tokens/values" in key:
            raise RuntimeError("the store is on fire")

    store.hook = fail
    with pytest.raises(RuntimeError, match="on fire"):
        ds[[90, 220, 300]]
    store.hook = None
    assert ds[[90, 220, 300]]["text"] == ["90", "220", "300"]
