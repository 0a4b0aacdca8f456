"""What goes wrong and what the user gets, row by row: where each is tested, and here those that are tested nowhere else."""

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.scenarios import memory_store
from recording_store import RecordingStore

import chunkstore as cs
from chunkstore.errors import (
    ChunkstoreError,
    CorruptChunk,
    CorruptSample,
    InvalidDataset,
    MissingObject,
    ReadOnlyStore,
    StoreError,
)
from chunkstore.format.tags import tag_key
from chunkstore.format.versions import LATEST_KEY, version_key
from chunkstore.store.location import open_store

ROOT = Path(__file__).parents[2]
HERE = "tests/faults/test_rows.py"
ROWS = {
    "writer crashes at any step": """
        tests/faults/test_crashes.py test_whatever_happens_at_any_operation_leaves_the_old_or_the_new
        tests/faults/test_crashes.py test_a_process_that_dies_leaves_the_old_or_the_new_on_a_disk_too
        tests/faults/test_kills.py test_forty_kills_lose_nothing_that_was_acknowledged""",
    "commit lands, the answer is lost": """
        tests/faults/test_crashes.py test_whatever_happens_at_any_operation_leaves_the_old_or_the_new
        tests/history/test_commit.py test_a_lost_answer_after_the_commit_makes_one_version
        tests/history/test_commit.py test_a_lost_answer_whose_place_another_writer_took_is_rebased""",
    "two writers commit at once": """
        tests/history/test_commit.py test_processes_that_append_at_once_lose_nothing
        tests/history/test_commit.py test_of_two_creations_one_wins_and_the_other_says_so""",
    "a store that ignores put-if-absent": f"""
        tests/store/test_object.py test_a_store_that_ignores_put_if_absent_is_read_only
        {HERE} test_a_store_that_ignores_put_if_absent_gets_no_dataset""",
    "absent shard or chunk": f"""
        tests/reading/test_damage.py test_an_absent_shard_is_an_error_and_never_a_fill_value
        tests/reading/test_damage.py test_a_chunk_that_its_index_calls_absent_is_missing_and_never_a_fill_value
        {HERE} test_any_object_of_a_part_that_is_gone_is_told_by_name""",
    "flipped bit in chunk, index, version document": f"""
        tests/faults/test_flips.py test_two_thousand_flips_are_each_named_and_none_is_served
        tests/faults/test_documents.py test_a_version_document
        tests/faults/test_documents.py test_an_index_of_a_shard
        tests/reading/test_damage.py test_damage_on_the_way_is_mended_by_asking_again
        {HERE} test_a_document_damaged_on_the_way_is_asked_for_again""",
    "short body, wrong Content-Range, 200 to a ranged GET": f"""
        tests/store/test_object.py test_a_server_that_ignores_ranges_is_found_out
        tests/store/test_object.py test_a_body_cut_short_is_an_error
        {HERE} test_answers_that_are_not_what_was_asked_for_are_never_served
        {HERE} test_a_connection_lost_in_mid_body_is_no_failure""",
    "object replaced in the middle of an epoch": f"{HERE} test_an_object_replaced_between_two_reads_is_found_by_its_checksums",
    "500/503/429 storms": f"""
        tests/store/test_object.py test_a_server_that_stays_busy_is_an_error_that_counts_attempts
        {HERE} test_a_storm_that_passes_is_not_noticed_and_one_that_stays_is_told""",
    "403, expired credentials": f"""
        tests/store/test_object.py test_wrong_and_unknown_keys_are_permission_errors_without_secrets
        {HERE} test_a_refusal_is_told_at_once""",
    "slow or silent connection": "tests/store/test_object.py test_a_silent_server_is_an_error_within_the_deadline",
    "Ctrl-C at any time": "tests/loader/test_failures.py test_ctrl_c_ends_the_process_within_a_second",
    "resume, twice, at another world size": """
        tests/loader/test_resume.py test_stopping_at_every_step_leaves_exactly_the_rest_for_another_job
        tests/loader/test_resume.py test_stopping_twice_leaves_exactly_the_rest""",
    "uneven data over ranks, filters": """
        tests/loader/test_epochs.py test_every_sample_comes_once_an_epoch_on_one_of_the_ranks
        tests/loader/test_views.py test_an_epoch_is_every_sample_of_the_view_once_in_equal_steps""",
    "hostile dataset": """
        tests/hostile/test_hostile.py test_a_hostile_dataset_is_refused_quickly_and_in_little_memory
        tests/hostile/test_hostile.py test_verify_never_passes_a_hostile_dataset
        tests/hostile/test_hostile.py test_what_tells_of_a_hostile_dataset_refuses_it_or_tells_quickly
        tests/fuzz/test_fuzzers.py test_readers_of_documents_raise_what_they_say_or_nothing""",
    "fork after threads have started": """
        tests/store/test_object.py test_a_forked_child_gets_an_error_or_a_store_that_works_never_a_hang
        tests/reading/test_dataset.py test_a_used_local_dataset_works_in_a_forked_child
        tests/reading/test_dataset.py test_a_used_s3_dataset_says_so_in_a_forked_child
        tests/store/test_memory.py test_a_forked_child_reads_its_copy_and_may_not_write_to_it
        tests/writing/test_writer_failures.py test_a_forked_child_is_refused_and_does_not_touch_what_its_parent_writes
        tests/loader/test_failures.py test_a_fork_in_the_middle_of_reading_does_not_hang""",
}
LINES = """
    writer crashes at any step
    commit lands, the answer is lost
    two writers commit at once
    absent shard or chunk
    flipped bit in chunk, index, version document
    short body, wrong Content-Range, 200 to a ranged GET
    object replaced in the middle of an epoch
    500/503/429 storms
    403, expired credentials
    slow or silent connection
    Ctrl-C at any time
    resume, twice, at another world size
    uneven data over ranks, filters
    fork after threads have started
    hostile dataset
""".strip().splitlines()
"""What can go wrong, line by line as it was asked for. Left out: caches on disk and archives as sources, which do not
exist, and killed workers, which are torch's own."""
QUICK = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=5),
    "backoff": {"init_backoff": timedelta(milliseconds=5)},
}
SCHEMA = {
    "x": cs.Array("int64", (4,), codec=None, chunk=64, shard=256),
    "z": cs.Array("int64", (4,), codec="zstd-1", chunk=64, shard=256),
    "b": cs.Bytes(codec=None, chunk=512, shard=1024),
}
N = 600


def columns(seed: int = 0) -> dict[str, Any]:
    chance = np.random.default_rng(seed)
    numbers = chance.integers(0, 1 << 40, (N, 4))
    return {"x": numbers, "z": numbers, "b": [chance.bytes(int(n)) for n in chance.integers(0, 9, N)]}


def objects_of(seed: int = 0) -> dict[str, bytes]:
    store: Any = memory_store()
    with cs.create(store, SCHEMA, num_threads=1) as writer:
        writer.write_batch(columns(seed))
    return {listed[0]: store.read(listed[0]) for listed in store.list()}


@pytest.fixture(scope="module")
def objects() -> dict[str, bytes]:
    return objects_of()


@pytest.fixture
def dataset(objects: dict[str, bytes], scripted_s3: Any) -> Callable[[], cs.Dataset]:
    """Opens the dataset on the server that misbehaves."""
    scripted_s3.objects.update({f"/bucket/data/{key}": data for key, data in objects.items()})
    return lambda: cs.open("s3://bucket/data", storage_options=scripted_s3.storage_options(retry_config=QUICK))


def is_right(batch: Any) -> bool:
    expected = columns()
    return batch["b"] == expected["b"] and all(np.array_equal(batch[name], expected[name]) for name in "xz")


def store_of(objects: dict[str, bytes]) -> Any:
    store = memory_store()
    for key, data in objects.items():
        store.write(key, data)
    return store


@pytest.mark.parametrize("row", ROWS)
def test_each_row_has_tests(row: str) -> None:
    for file, name in re.findall(r"(\S+) (test_\w+)", ROWS[row]):
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text("utf-8"), re.MULTILINE), (file, name)


def test_every_line_of_what_can_go_wrong_is_a_row() -> None:
    assert {line.strip() for line in LINES} - ROWS.keys() == set()


def test_a_store_that_ignores_put_if_absent_gets_no_dataset(scripted_s3: Any) -> None:
    scripted_s3.honours_conditions = False
    with pytest.raises(ReadOnlyStore, match="put-if-absent"):
        cs.create("s3://bucket/new", SCHEMA, storage_options=scripted_s3.storage_options(retry_config=QUICK))
    assert not scripted_s3.objects


def test_any_object_of_a_part_that_is_gone_is_told_by_name(objects: dict[str, bytes]) -> None:
    for gone in sorted(key for key in objects if key.count("/") > 2):
        store = store_of(objects)
        store.delete([gone])
        if gone.endswith("/zarr.json") and gone.count("/") > 3:  # the part's own document has a copy
            assert is_right(cs.open(store)[:])
        else:
            with pytest.raises(MissingObject, match=gone):
                cs.open(store)[:]
        assert [(damage.key, damage.kind) for damage in cs.verify(store).damages] == [(gone, "missing")]


class DamagingOnce(RecordingStore):
    """Damages what is read of an object the first time, as a bad cable would."""

    name = ""

    def read(self, key: str, *, limit_nbytes: int | None = None) -> bytes:
        first = all(operation.key != key for operation in self.of("read"))
        data = super().read(key, limit_nbytes=limit_nbytes)
        damages = first and key.endswith(self.name)
        return data[:-3] + bytes([data[-3] ^ 4]) + data[-2:] if damages else data


@pytest.mark.parametrize("name", [LATEST_KEY, "/zarr.json", "_objects.json", version_key(1), tag_key("v1")])
def test_a_document_damaged_on_the_way_is_asked_for_again(objects: dict[str, bytes], name: str) -> None:
    inner = store_of(objects)
    cs.tag(inner, "v1")
    for options in ({"tag": "v1"}, {"version": 1}, {}):
        store: Any = DamagingOnce(inner)
        store.name = name
        assert is_right(cs.open(store, **options)[:])
        assert len(store.of("read")) == len({operation.key for operation in store.of("read")}) + any(
            operation.key.endswith(name) and name != LATEST_KEY for operation in store.of("read")
        )
    store = DamagingOnce(inner)
    store.name = name
    assert [(line.number, line.tags) for line in cs.versions(store)] == [(1, ("v1",))]


@pytest.mark.parametrize("name", [version_key(1), tag_key("v1")])
def test_a_document_that_stays_damaged_is_asked_for_twice_and_refused(objects: dict[str, bytes], name: str) -> None:
    inner = store_of(objects)
    cs.tag(inner, "v1")
    data = inner.read(name)
    inner.write(name, data[:-3] + bytes([data[-3] ^ 4]) + data[-2:])
    store = RecordingStore(inner)
    with pytest.raises(InvalidDataset, match=f"{name}.*crc32c mismatch"):
        cs.open(store, tag="v1")
    assert [operation.key for operation in store.of("read")].count(name) == 2


@pytest.mark.parametrize("fault", ["cuts_bodies", "shifts_ranges", "hides_shifts", "ignores_ranges"])
def test_answers_that_are_not_what_was_asked_for_are_never_served(
    dataset: Callable[[], cs.Dataset], scripted_s3: Any, fault: str
) -> None:
    ds = dataset()
    if fault == "ignores_ranges":
        scripted_s3.honours_ranges = False
    else:
        setattr(scripted_s3, fault, True)
    for read in (lambda: ds[:], lambda: ds["x"][7:9], lambda: ds["z"][100], lambda: ds["b"][50:60]):
        with pytest.raises((StoreError, InvalidDataset, CorruptChunk, CorruptSample), match="fragments/"):
            read()


def test_a_connection_lost_in_mid_body_is_no_failure(dataset: Callable[[], cs.Dataset], scripted_s3: Any) -> None:
    ds = dataset()
    assert len(ds["b"][:5]) == 5  # documents are read
    scripted_s3.bodies_to_cut = 1
    assert np.array_equal(ds["x"][:], columns()["x"])
    assert scripted_s3.bodies_to_cut == 0


def test_an_object_replaced_between_two_reads_is_found_by_its_checksums(objects: dict[str, bytes]) -> None:
    """Here by a shard of other numbers, whose chunks are right in themselves but lie elsewhere."""
    other = objects_of(seed=1)
    for name in ("z/c/1/0", "b/values/c/1"):
        store = store_of(objects)
        (key,) = (key for key in objects if key.endswith(name))
        (new,) = (key for key in other if key.endswith(name))
        ds, field = cs.open(store), name[0]
        expected = columns()[field]
        first = ds[field][:3]
        assert all(np.array_equal(a, b) for a, b in zip(first, expected, strict=False))
        store.write(key, other[new])
        # a sample that lies in two shards is told by the first of them
        with pytest.raises(ChunkstoreError, match=key.rpartition("/c/")[0]):
            ds[field][:]
        assert {damage.key for damage in cs.verify(store).damages} == {key}


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_storm_that_passes_is_not_noticed_and_one_that_stays_is_told(
    dataset: Callable[[], cs.Dataset], scripted_s3: Any, status: int
) -> None:
    scripted_s3.unavailable_status = status
    scripted_s3.unavailable = 2
    ds = dataset()
    assert is_right(ds[:])
    scripted_s3.unavailable = 1 << 30
    for read in (dataset, lambda: dataset_like(ds)[:]):
        with pytest.raises(StoreError, match=rf"s3://bucket/data/.*attempts: 3.*{status}"):
            read()


def dataset_like(ds: cs.Dataset) -> cs.Dataset:
    """The same version, nothing of it read."""
    return type(ds)(ds._store, ds.version_document)


def test_a_refusal_is_told_at_once(dataset: Callable[[], cs.Dataset], scripted_s3: Any) -> None:
    ds = dataset()
    scripted_s3.forbidden_body = "<Error><Code>AccessDenied</Code></Error>"
    scripted_s3.requests.clear()
    with pytest.raises(PermissionError, match=r"s3://bucket/data/_chunkstore.*403"):
        dataset()
    assert len(scripted_s3.requests) == len(set(scripted_s3.requests)), "a refused request was sent again"
    scripted_s3.requests.clear()
    with pytest.raises(PermissionError, match=r"s3://bucket/data/fragments.*403"):
        dataset_like(ds)["x"][0]
    assert len(scripted_s3.requests) == len(set(scripted_s3.requests)), "a refused request was sent again"
    options = scripted_s3.storage_options(retry_config=QUICK)
    with pytest.raises(ReadOnlyStore, match="403"):
        cs.append(open_store("s3://bucket/data", storage_options=options))  # type: ignore[arg-type]
