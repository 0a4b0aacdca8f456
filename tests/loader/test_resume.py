"""Stopping and going on: exactly the samples not yet handed out, at any world size and batch size."""

import itertools
import json
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chunkstore as cs

ORDER = {"seed": 3, "lanes": 4, "window_nbytes": 1 << 12}
SAMPLES = (60, 1, 32)
NUM_SAMPLES = sum(SAMPLES)


def take(url, count, state=None, **options):
    """Run `count` steps (all if None) on every rank of a job; give the samples of each step, and the state they agree on."""
    world_size = options.pop("world_size", 1)
    steps, states = [], []
    for rank in range(world_size):
        loader = cs.Loader(url, rank=rank, world_size=world_size, **{**ORDER, **options})
        if state is not None:
            loader.load_state_dict(state)
        mine = [batch["y"].tolist() for batch in itertools.islice(loader, count)]
        steps.append(mine)
        states.append(json.loads(json.dumps(loader.state_dict())))
    assert all(state == states[0] for state in states)
    return [sorted(chain(*step)) for step in zip(*steps, strict=True)], states[0]


@pytest.mark.parametrize("shuffle", [True, "full", False])
def test_stopping_at_every_step_leaves_exactly_the_rest_for_another_job(make_dataset, shuffle):
    url = make_dataset(*SAMPLES)
    whole = cs.Loader(url, 1, shuffle=shuffle, **ORDER)
    whole.set_epoch(1)
    everything = [batch["y"][0] for batch in whole]
    for stop in range(len(everything) // 12 + 2):
        loader = {"world_size": 3, "batch_size": 4, "shuffle": shuffle, "drop_last": False}
        start = {**cs.Loader(url, 1, shuffle=shuffle, **ORDER).state_dict(), "epoch": 1}
        before, state = take(url, stop, start, **loader)
        if stop <= len(everything) // 12:
            assert (state["epoch"], state["consumed"]) == (1, stop * 12)
            after, end = take(url, None, state, world_size=2, global_batch_size=10, shuffle=shuffle, drop_last=False)
            assert sorted(chain(*before, *after)) == list(range(NUM_SAMPLES))
            assert before == [sorted(everything[i : i + 12]) for i in range(0, stop * 12, 12)]
        else:
            end = state
        assert (end["epoch"], end["consumed"]) == (2, 0)


@settings(max_examples=30, deadline=None)
@given(st.data(), st.sampled_from([True, "full", False]))
def test_stopping_twice_leaves_exactly_the_rest(make_dataset, data, shuffle):
    url = make_dataset(*SAMPLES)
    seen, state = [], None
    for _ in range(2):
        if state is not None and state["epoch"] == 1:
            break
        world_size = data.draw(st.integers(1, 4))
        size = data.draw(st.sampled_from([{"batch_size": 3}, {"batch_size": 7}, {"global_batch_size": 12}]))
        steps, state = take(
            url, data.draw(st.integers(0, 3)), state, world_size=world_size, shuffle=shuffle, drop_last=False, **size
        )
        seen += chain(*steps)
    if state["epoch"] == 0:
        steps, state = take(url, None, state, batch_size=5, shuffle=shuffle, drop_last=False)
        seen += chain(*steps)
    assert sorted(seen) == list(range(NUM_SAMPLES))
    assert (state["epoch"], state["consumed"]) == (1, 0)


def test_only_batches_handed_out_count_however_many_are_ready(make_dataset):
    loader = cs.Loader(make_dataset(*SAMPLES), 4, shuffle=True, num_threads=4, **ORDER)
    batches = iter(loader)
    assert loader.state_dict()["consumed"] == 0
    for step in range(1, 5):
        next(batches)
        assert loader.state_dict()["consumed"] == 4 * step


def test_the_state_after_the_last_batch_is_the_beginning_of_the_next_epoch(make_dataset):
    for drop_last in (True, False):
        loader = cs.Loader(make_dataset(*SAMPLES), 10, shuffle=True, drop_last=drop_last, **ORDER)
        batches = iter(loader)
        for _ in range(len(loader) - 1):
            next(batches)
        assert loader.state_dict()["epoch"] == 0
        next(batches)
        asked_early = loader.state_dict()
        assert (asked_early["epoch"], asked_early["consumed"]) == (1, 0)
        assert next(batches, None) is None
        assert loader.state_dict() == asked_early


def test_resumed_epochs_are_followed_by_the_epochs_that_would_have_come(make_dataset):
    url = make_dataset(*SAMPLES)
    straight = cs.Loader(url, 10, shuffle=True, **ORDER)
    expected = [[batch["y"].tolist() for batch in straight] for _ in range(3)]
    loader = cs.Loader(url, 10, shuffle=True, **ORDER)
    got = [[batch["y"].tolist() for batch in itertools.islice(loader, 4)]]
    resumed = cs.Loader(url, 10, shuffle=True, **ORDER)
    resumed.load_state_dict(loader.state_dict())
    got[0] += [batch["y"].tolist() for batch in resumed]
    got += [[batch["y"].tolist() for batch in resumed] for _ in range(2)]
    assert got == expected


def test_what_may_change_changes_and_what_may_not_is_refused_by_name(make_dataset):
    url = make_dataset(*SAMPLES)
    loader = cs.Loader(url, 10, shuffle=True, **ORDER)
    next(iter(loader))
    state = loader.state_dict()
    cs.Loader(url, global_batch_size=33, shuffle=True, drop_last=False, device="cpu", **ORDER).load_state_dict(state)
    others = {"order": 2, "dataset": "0" * 32, "version": 77, "view": "other", "shuffle": "full", "seed": 4, "lanes": 8}
    others |= {"window_nbytes": 1, "affinity": True}
    assert set(others) | {"epoch", "consumed"} == set(state)
    fresh = cs.Loader(cs.open(url), 10, shuffle=True, **ORDER)
    for name, other in others.items():
        with pytest.raises(cs.StateMismatch, match=name):
            fresh.load_state_dict({**state, name: other})
        with pytest.raises(cs.StateMismatch, match=name):
            fresh.load_state_dict({key: value for key, value in state.items() if key != name})
    for name, other in {"epoch": -1, "consumed": NUM_SAMPLES + 1}.items():
        with pytest.raises(cs.StateMismatch, match=name):
            fresh.load_state_dict({**state, name: other})
    for wrong in (1.0, "1", None, True):
        with pytest.raises(cs.StateMismatch, match="integers"):
            fresh.load_state_dict({**state, "consumed": wrong})
    with pytest.raises(cs.StateMismatch, match="shuffle"):  # 1 == True, but is not what was meant
        fresh.load_state_dict({**state, "shuffle": 1})
    assert fresh.state_dict()["consumed"] == 0, "a refused state changes nothing"


def test_a_loader_of_a_url_goes_back_to_the_version_of_the_state(tmp_path, write_dataset, expected_columns):
    url = write_dataset(str(tmp_path / "data"), (40,))
    loader = cs.Loader(url, 10, shuffle=True, **ORDER)
    first = next(iter(loader))["y"].tolist()
    state = loader.state_dict()
    with cs.append(url) as writer:
        writer.write_batch(expected_columns(40, 80))
    newer = cs.Loader(url, 10, shuffle=True, **ORDER)
    assert len(newer.dataset) == 80
    with pytest.raises(cs.StateMismatch, match="seed"):
        newer.load_state_dict({**state, "seed": 5})
    assert len(newer.dataset) == 80, "a refused state changes nothing"
    newer.load_state_dict(state)
    assert newer.dataset.version == state["version"]
    assert sorted(chain(first, *(batch["y"].tolist() for batch in newer))) == list(range(40))
    opened = cs.Loader(cs.open(url), 10, shuffle=True, **ORDER)
    with pytest.raises(cs.StateMismatch, match="version"):
        opened.load_state_dict(state)
    with pytest.raises(cs.DatasetNotFound):
        newer.load_state_dict({**state, "version": 99})


def epoch_of(loader, url, batch):
    other = cs.Loader(url, 10, shuffle=True, **ORDER)
    return [e for e in range(6) if other.sample_indices(0, e).tolist() == batch["y"].tolist()]


def test_a_pass_left_early_and_a_pass_that_ends_are_both_followed_by_the_next_epoch(make_dataset):
    url = make_dataset(*SAMPLES)
    loader = cs.Loader(url, 10, shuffle=True, **ORDER)
    for expected in range(2):
        for batch in loader:
            assert epoch_of(loader, url, batch) == [expected]
            break
    assert loader.epoch == 1
    firsts = []
    for _ in range(2):
        first, *_ = loader
        firsts.append(first)
    assert [epoch_of(loader, url, batch) for batch in firsts] == [[2], [3]]
    assert loader.epoch == 4


def test_an_iterator_that_gave_nothing_began_no_epoch(make_dataset):
    loader = cs.Loader(make_dataset(*SAMPLES), 10, shuffle=True, **ORDER)
    iter(loader)
    assert next(iter(loader))["y"].tolist() == loader.sample_indices(0, 0).tolist()
    state = loader.state_dict()
    loader.load_state_dict(state)
    iter(loader)
    next(iter(loader))
    assert (loader.epoch, loader.state_dict()["consumed"]) == (0, 20)


def test_only_the_newest_iterator_moves_the_cursor(make_dataset):
    loader = cs.Loader(make_dataset(*SAMPLES), 10, shuffle=True, **ORDER)
    older = iter(loader)
    next(older)
    newer = iter(loader)
    next(newer)
    next(older)
    assert (loader.epoch, loader.state_dict()["consumed"]) == (1, 10)
    list(older)
    assert (loader.epoch, loader.state_dict()["consumed"]) == (1, 10)
    loader.set_epoch(4)
    next(newer)
    assert (loader.state_dict()["epoch"], loader.state_dict()["consumed"]) == (4, 0)


def test_set_epoch_begins_an_epoch_but_leaves_a_loaded_state_where_it_stands(make_dataset):
    url = make_dataset(*SAMPLES)
    loader = cs.Loader(url, 10, shuffle=True, **ORDER)
    loader.set_epoch(3)
    batches = iter(loader)
    first = next(batches)
    assert epoch_of(loader, url, first) == [3]
    state = loader.state_dict()
    loader.set_epoch(3)
    assert next(iter(loader))["y"].tolist() == first["y"].tolist()
    resumed = cs.Loader(url, 10, shuffle=True, **ORDER)
    resumed.load_state_dict(state)
    resumed.set_epoch(3)
    assert resumed.state_dict() == state
    assert next(iter(resumed))["y"].tolist() == loader.sample_indices(1, 3).tolist()
    resumed.set_epoch(5)
    assert epoch_of(loader, url, next(iter(resumed))) == [5]
    with pytest.raises(ValueError, match="epoch"):
        loader.set_epoch(-1)


def test_sample_indices_in_a_resumed_epoch_count_from_where_it_was_resumed(make_dataset):
    url = make_dataset(*SAMPLES)
    loader = cs.Loader(url, 10, shuffle=True, **ORDER)
    batches = iter(loader)
    given = [next(batches)["y"].tolist() for _ in range(3)]
    assert [loader.sample_indices(step).tolist() for step in range(3)] == given
    resumed = cs.Loader(url, 7, shuffle=True, **ORDER)
    resumed.load_state_dict(loader.state_dict())
    for step, batch in enumerate(resumed):
        assert resumed.sample_indices(step).tolist() == batch["y"].tolist()


def test_the_rest_is_empty_where_a_larger_batch_drops_it(make_dataset):
    loader = cs.Loader(make_dataset(*SAMPLES), 10, shuffle=True, **ORDER)
    list(itertools.islice(loader, 8))
    larger = cs.Loader(make_dataset(*SAMPLES), 40, shuffle=True, **ORDER)
    larger.load_state_dict(loader.state_dict())
    assert list(larger) == []
    assert len(list(larger)) == 2
