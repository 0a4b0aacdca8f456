"""Epochs: every sample once, the same global batches for every world size, the same number of steps on all ranks."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chunkstore as cs

FRAGMENTS = [(97,), (1,), (300, 1, 211), (64, 64), (0, 5, 0, 8)]

orders = st.fixed_dictionaries(
    {
        "shuffle": st.sampled_from([True, "full", False]),
        "seed": st.integers(0, 2**64 - 1),
        "lanes": st.sampled_from([1, 3, 4, 8, 64]),
        "window_nbytes": st.sampled_from([1, 1 << 12, 512 << 20]),
        "affinity": st.booleans(),
    }
)
resources = st.fixed_dictionaries(
    {
        "num_threads": st.integers(1, 3),
        "num_connections": st.sampled_from([1, 5, 16]),
        "memory_nbytes": st.sampled_from([None, 0, 1000, 1 << 20]),
    }
)


def labels(loader):
    return [batch["y"].tolist() for batch in loader]


@settings(max_examples=60, deadline=None)
@given(st.data(), orders, resources)
def test_every_sample_comes_once_an_epoch_on_one_of_the_ranks(make_dataset, data, order, resources):
    fragments = data.draw(st.sampled_from(FRAGMENTS))
    world_size = data.draw(st.integers(1, 5))
    batch_size = data.draw(st.integers(1, 80))
    num_samples, epoch = sum(fragments), data.draw(st.integers(0, 2))
    ending = data.draw(st.sampled_from([{"drop_last": False}, {"drop_last": True}, {"pad": True}]))
    if "drop_last" in ending and ending["drop_last"] and batch_size * world_size > num_samples:
        ending = {"pad": True}
    seen, lengths = [], set()
    for rank in range(world_size):
        loader = cs.Loader(
            make_dataset(*fragments), batch_size, rank=rank, world_size=world_size, **ending, **order, **resources
        )
        loader.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(loader)
        lengths.add(len(batches))
        for step, batch in enumerate(batches):
            kept = batch["_mask"] if "pad" in ending else np.ones(len(batch["y"]), bool)
            assert loader.sample_indices(step, epoch).tolist() == batch["y"].tolist()
            seen += batch["y"][kept].tolist()
    assert len(lengths) == 1
    if ending.get("drop_last"):
        assert len(set(seen)) == len(seen) == num_samples // (batch_size * world_size) * batch_size * world_size
    else:
        assert sorted(seen) == list(range(num_samples))


@settings(max_examples=25, deadline=None)
@given(st.data(), orders)
def test_global_batches_are_the_same_for_every_world_size_that_divides_them(make_dataset, data, order):
    fragments = data.draw(st.sampled_from(FRAGMENTS))
    drop_last = data.draw(st.booleans()) and sum(fragments) >= 24

    def batches(world_size):
        ranks = [
            labels(
                cs.Loader(
                    make_dataset(*fragments),
                    global_batch_size=24,
                    drop_last=drop_last,
                    rank=rank,
                    world_size=world_size,
                    **order,
                )
            )
            for rank in range(world_size)
        ]
        return [sorted(chain(*step)) for step in zip(*ranks, strict=True)]

    alone = batches(1)
    for world_size in data.draw(st.lists(st.sampled_from([2, 3, 4, 6, 8, 12, 24]), min_size=1, max_size=2)):
        assert batches(world_size) == alone


@settings(max_examples=25, deadline=None)
@given(st.data(), orders, resources)
def test_the_order_is_the_same_for_any_threads_memory_cache_and_fields(make_dataset, data, order, resources):
    url = make_dataset(300, 1, 211)
    expected = labels(cs.Loader(url, 48, **order))
    fields = data.draw(st.lists(st.sampled_from(["x", "tokens", "name"]), unique=True))
    device = data.draw(st.sampled_from([None, "cpu"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chunkstore.reading.parts.CACHE_NBYTES", data.draw(st.sampled_from([0, 1 << 12, 64 << 20])))
        dataset = cs.open(url).select("y", *fields)
        assert labels(cs.Loader(dataset, 48, device=device, **order, **resources)) == expected


@pytest.mark.parametrize("shuffle", [True, "full", False])
def test_the_order_is_the_same_in_any_store(location, make_dataset, write_dataset, shuffle):
    write_dataset(location.url, (300, 1, 211), storage_options=location.storage_options or None)
    options = {"shuffle": shuffle, "seed": 4, "lanes": 8, "window_nbytes": 1 << 12}
    stored = cs.Loader(location.url, 48, storage_options=location.storage_options or None, **options)
    assert labels(stored) == labels(cs.Loader(make_dataset(300, 1, 211), 48, **options))
    assert stored.state_dict()["epoch"] == 1


def test_epochs_of_a_shuffled_loader_differ_and_come_again_for_the_same_seed(make_dataset):
    url = make_dataset(300, 1, 211)
    loader = cs.Loader(url, 48, shuffle=True, seed=4)
    first, second = labels(loader), labels(loader)
    assert first != second
    again = cs.Loader(url, 48, shuffle=True, seed=4)
    assert [labels(again), labels(again)] == [first, second]
    assert labels(cs.Loader(url, 48, shuffle=True, seed=5)) != first


def test_a_sequential_loader_gives_version_order_and_ranks_take_slices(make_dataset):
    url = make_dataset(300, 1, 211)
    assert list(chain(*labels(cs.Loader(url, 100)))) == list(range(512))
    assert labels(cs.Loader(url, 50, rank=1, world_size=2))[0] == list(range(50, 100))
    assert labels(cs.Loader(url, 50, rank=1, world_size=2))[-1] == [506, 507, 508, 509, 510, 511]


def test_ranks_without_a_sample_in_the_last_step_get_an_empty_batch_of_the_same_fields(make_dataset):
    url = make_dataset(97)
    for shuffle in (True, "full", False):
        last = [list(cs.Loader(url, 24, shuffle=shuffle, drop_last=False, rank=r, world_size=4))[-1] for r in range(4)]
        assert sum(len(batch["y"]) for batch in last) == 1
        (empty, *_) = [batch for batch in last if len(batch["y"]) == 0]
        assert empty["x"].shape == (0, 8)
        assert empty["x"].dtype == np.float32
        assert empty["tokens"].values.dtype == np.uint16
        assert empty["tokens"].offsets.tolist() == [0]
        assert empty["name"] == []


def test_padding_repeats_samples_of_the_last_step_and_marks_them(make_dataset):
    url = make_dataset(97)
    for shuffle in (True, "full", False):
        ranks = [list(cs.Loader(url, 24, shuffle=shuffle, pad=True, rank=r, world_size=4)) for r in range(4)]
        assert all(batch["_mask"].all() for batches in ranks for batch in batches[:-1])
        assert all(len(batches[-1]["y"]) == 24 for batches in ranks)
        assert sum(int(batches[-1]["_mask"].sum()) for batches in ranks) == 1
        assert len({n for batches in ranks for n in batches[-1]["y"].tolist()}) == 1


@pytest.mark.parametrize("shuffle", [True, "full", False])
def test_a_dataset_without_samples_gives_no_batch(make_dataset, shuffle):
    loader = cs.Loader(make_dataset(), 4, shuffle=shuffle)
    assert len(loader) == 0
    assert list(loader) == []
    assert list(cs.Loader(make_dataset(), 4, shuffle=shuffle, pad=True)) == []


def test_fewer_samples_than_a_batch_are_an_error_where_the_last_step_is_dropped(make_dataset):
    loader = cs.Loader(make_dataset(97), 50, shuffle=True, rank=0, world_size=2)
    assert len(loader) == 0
    with pytest.raises(ValueError, match="97 samples make no whole step of 100"):
        iter(loader)
    assert len(list(cs.Loader(make_dataset(97), 50, shuffle=True, drop_last=False, rank=0, world_size=2))) == 1


def test_the_last_step_is_dropped_by_default_only_when_shuffled(make_dataset):
    url = make_dataset(97)
    assert [len(cs.Loader(url, 10, shuffle=shuffle)) for shuffle in (True, "full", False)] == [9, 9, 10]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give one"),
        ({"batch_size": 4, "global_batch_size": 8}, "give one"),
        ({"batch_size": 0}, "at least 1"),
        ({"global_batch_size": -3}, "at least 1"),
        ({"batch_size": 4, "pad": True, "drop_last": True}, "choose one"),
        ({"batch_size": 4, "rank": 1}, "both or neither"),
        ({"batch_size": 4, "rank": 2, "world_size": 2}, "not one of"),
        ({"batch_size": 4, "shuffle": "some"}, "shuffle"),
        ({"batch_size": 4, "lanes": 0}, "lanes"),
        ({"batch_size": 4, "window_nbytes": 0}, "window"),
        ({"batch_size": 4, "seed": -1}, "seed"),
        ({"batch_size": 4, "memory_nbytes": -1}, "memory_nbytes"),
        ({"batch_size": 4, "num_threads": 0}, "num_threads"),
        ({"batch_size": 4, "num_connections": 0}, "num_connections"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(make_dataset, options, message):
    with pytest.raises(ValueError, match=message):
        cs.Loader(make_dataset(97), **{"shuffle": True, **options})


def test_a_global_batch_that_ranks_cannot_share_is_refused(make_dataset):
    with pytest.raises(ValueError, match="global_batch_size=10 is not a multiple of the 4 ranks"):
        iter(cs.Loader(make_dataset(97), global_batch_size=10, rank=0, world_size=4))


def test_sample_indices_reads_nothing_and_knows_its_bounds(make_dataset, watch):
    dataset, store = watch(make_dataset(300, 1, 211))
    for shuffle in (True, "full", False):
        loader = cs.Loader(dataset, 48, shuffle=shuffle, lanes=8)
        found = [loader.sample_indices(step, epoch=7) for step in range(len(loader))]
        assert all(indices.dtype == np.int64 for indices in found)
        for step in (-1, len(loader)):
            with pytest.raises(IndexError, match="step"):
                loader.sample_indices(step)
    assert store.reads == []
