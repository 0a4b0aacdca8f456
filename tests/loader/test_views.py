"""Loaders over views: exactly the samples of the view, once an epoch, resumable, in an order that no way of asking changes."""

import itertools
import json
import pickle
from itertools import chain

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from recording_store import RecordingStore
from torch.utils.data import DataLoader

import chunkstore as cs
from chunkstore.plan.order import list_positions, plan_order
from chunkstore.store.location import open_store

# Python 3.12 warns of any fork of a process with threads; that it works here is what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

ORDER = {"seed": 3, "lanes": 4, "window_nbytes": 1 << 12}
SAMPLES = (60, 1, 32, 40)
NUM_SAMPLES = sum(SAMPLES)
views = st.builds(
    lambda seed, share: np.random.default_rng(seed).random(NUM_SAMPLES) < share,
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.03, 0.3, 0.7, 0.97]),
)
shuffles = st.sampled_from([True, "full", False])


def epoch_of(dataset, world_size=1, state=None, count=None, **options):
    """The samples of each rank's steps of one epoch, or of `count` steps, and the state that all ranks agree on."""
    ranks, states = [], []
    for rank in range(world_size):
        loader = cs.Loader(dataset, rank=rank, world_size=world_size, drop_last=False, **{**ORDER, **options})
        if state is not None:
            loader.load_state_dict(state)
        ranks.append([batch["y"].tolist() for batch in itertools.islice(loader, count)])
        states.append(json.loads(json.dumps(loader.state_dict())))
    assert all(other == states[0] for other in states)
    return ranks, states[0]


@settings(max_examples=30, deadline=None)
@given(views, shuffles, st.integers(1, 4))
@example(np.zeros(NUM_SAMPLES, bool), True, 2)
def test_an_epoch_is_every_sample_of_the_view_once_in_equal_steps(make_dataset, mask, shuffle, world_size):
    view = cs.open(make_dataset(*SAMPLES)).filter(mask)
    ranks, state = epoch_of(view, world_size, batch_size=3, shuffle=shuffle)
    assert sorted(chain(*chain(*ranks))) == np.flatnonzero(mask).tolist()
    assert len({len(steps) for steps in ranks}) == 1
    assert (state["epoch"], state["consumed"]) == (1, 0)


@settings(max_examples=25, deadline=None)
@given(st.data(), views, shuffles)
def test_stopping_leaves_exactly_the_rest_of_the_view(make_dataset, data, mask, shuffle):
    whole = cs.open(make_dataset(*SAMPLES))
    view = whole.filter(mask)
    seen, state = [], None
    for _ in range(2):
        if state is not None and state["epoch"] == 1:
            break
        world_size, size = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 6))
        count = data.draw(st.integers(0, 4))
        travelled = pickle.loads(pickle.dumps(view))  # noqa: S301  (our own bytes)
        # the same samples, however they were chosen
        view = data.draw(st.sampled_from([view, whole.filter(np.flatnonzero(mask)), travelled]))
        ranks, state = epoch_of(view, world_size, state, count, batch_size=size, shuffle=shuffle)
        seen += chain(*chain(*ranks))
    if state["epoch"] == 0:
        ranks, state = epoch_of(view, 1, state, batch_size=5, shuffle=shuffle)
        seen += chain(*chain(*ranks))
    assert sorted(seen) == np.flatnonzero(mask).tolist()


def test_batches_of_a_view_hold_what_the_view_shows(make_dataset, expected_columns):
    mask = np.random.default_rng(1).random(NUM_SAMPLES) < 0.4
    view = cs.open(make_dataset(*SAMPLES)).filter(mask).slice(x=slice(2, None, 3))
    data = expected_columns(0, NUM_SAMPLES)
    loader = cs.Loader(view, 7, shuffle=True, drop_last=False, **ORDER)
    for batch in loader:
        rows = batch["y"].tolist()
        assert np.array_equal(batch["x"], data["x"][rows][:, 2::3])
        assert [t.tolist() for t in batch["tokens"]] == [data["tokens"][i].tolist() for i in rows]
        assert batch["name"] == [data["name"][i] for i in rows]


@pytest.mark.parametrize("shuffle", [True, "full", False])
def test_sample_indices_are_those_of_the_view(make_dataset, shuffle):
    view = cs.open(make_dataset(*SAMPLES)).filter(np.arange(0, NUM_SAMPLES, 3))
    loader = cs.Loader(view, 4, shuffle=shuffle, rank=1, world_size=2, **ORDER)
    for step, batch in enumerate(loader):
        indices = loader.sample_indices(step, epoch=0)
        assert view["y"][indices].tolist() == batch["y"].tolist()
        assert view.positions(indices).tolist() == batch["y"].tolist()
    assert step == len(loader) - 1


def test_steps_indices_and_state_of_a_view_are_told_without_reading(make_dataset):
    store = RecordingStore(open_store(make_dataset(*SAMPLES)))
    ds = cs.open(store)
    store.forget()
    view = ds.filter(np.arange(0, NUM_SAMPLES, 2)).split({"a": 0.7})["a"].slice(x=slice(0, 1))
    loader = cs.Loader(view, 4, shuffle=True, rank=0, world_size=1, **ORDER)
    assert len(loader) == len(view) // 4
    assert len(loader.sample_indices(1, epoch=3)) == 4
    assert loader.state_dict()["view"] == view.view_digest
    assert store.operations == []


def test_the_order_of_a_view_is_that_of_its_extents(make_dataset):
    """docs/spec/order.md, section 6: fragments with the samples seen, their blocks as they are, their share of the bytes."""
    ds = cs.open(make_dataset(*SAMPLES))
    mask = np.random.default_rng(2).random(NUM_SAMPLES) < 0.5
    mask[60] = False  # of the second fragment nothing is seen
    seen = [int(mask[a:b].sum()) for a, b in itertools.pairwise([0, 60, 61, 93, 133])]
    fragments = ds.version_document.fragments
    extents = [
        type(ds.extents[0])(s, f.block_rows, f.nbytes * s // f.samples)
        for f, s in zip(fragments, seen, strict=True)
        if s
    ]
    order = plan_order(extents, shuffle=True, **ORDER)
    ranks, _ = epoch_of(ds.filter(mask), batch_size=1, shuffle=True)
    assert [y for (y,) in ranks[0]] == np.flatnonzero(mask)[list_positions(order, 0)].tolist()


def test_fields_slices_and_the_way_of_asking_change_no_order(make_dataset):
    ds = cs.open(make_dataset(*SAMPLES))
    part = ds.split({"a": 0.5})["a"]
    expected = epoch_of(part, batch_size=5, shuffle=True)
    for other in (
        part.select("y"),
        part.slice(x=slice(0, 1)),
        ds.slice(x=slice(0, 1)).split({"a": 0.5})["a"].select("x", "y"),
        ds.filter(part.positions()),
    ):
        assert epoch_of(other, batch_size=5, shuffle=True) == expected


def test_the_state_names_the_view_and_another_view_is_refused(make_dataset):
    url = make_dataset(*SAMPLES)
    ds = cs.open(url)
    mask = np.arange(NUM_SAMPLES) % 2 == 0
    loader = cs.Loader(ds.filter(mask), 5, shuffle=True, **ORDER)
    next(iter(loader))
    state = json.loads(json.dumps(loader.state_dict()))
    assert state["view"] == ds.filter(mask).view_digest
    for other in (ds, ds.filter(~mask), url, ds.filter(mask).filter(np.arange(3))):
        fresh = cs.Loader(other, 5, shuffle=True, **ORDER)
        with pytest.raises(cs.StateMismatch, match="view is"):
            fresh.load_state_dict(state)
        assert fresh.state_dict()["consumed"] == 0
    same = cs.Loader(ds.filter(mask).slice(x=slice(0, 2)).select("x"), 3, shuffle=True, **ORDER)
    same.load_state_dict(state)
    assert same.state_dict()["consumed"] == 5


def test_a_whole_dataset_is_the_view_of_everything(make_dataset):
    ds = cs.open(make_dataset(*SAMPLES))
    loader = cs.Loader(ds, 5, shuffle=True, **ORDER)
    assert loader.state_dict()["view"] == "all"
    everything = cs.Loader(ds.filter(np.ones(NUM_SAMPLES, bool)), 5, shuffle=True, **ORDER)
    assert everything.state_dict() == loader.state_dict()


def test_a_view_of_too_few_samples_says_so(make_dataset):
    view = cs.open(make_dataset(*SAMPLES)).filter([1, 2])
    with pytest.raises(ValueError, match="2 samples"):
        iter(cs.Loader(view, 5, shuffle=True))
    nothing = cs.Loader(view.filter([]), 5, shuffle=False)
    assert (len(nothing), list(nothing)) == (0, [])


@pytest.mark.parametrize("workers", [0, 2])
def test_torch_datasets_take_views(make_dataset, tmp_path, write_dataset, workers):
    ds = cs.open(write_dataset(str(tmp_path / "ds"), (60, 33)))
    view = ds.filter(np.arange(0, 93, 2)).select("y", "x").slice(x=slice(0, 2))
    context = {"multiprocessing_context": "fork"} if workers else {}
    stream = DataLoader(cs.torch.StreamDataset(view, 5, shuffle=True, drop_last=False, **ORDER), batch_size=None)
    batches = list(stream)
    assert sorted(chain(*(b["y"].tolist() for b in batches))) == list(range(0, 93, 2))
    assert [b["y"].tolist() for b in batches] == epoch_of(view, batch_size=5, shuffle=True)[0][0]
    mapped = DataLoader(cs.torch.MapDataset(view), batch_size=8, collate_fn=list, num_workers=workers, **context)
    samples = list(chain(*mapped))
    assert [int(s["y"]) for s in samples] == list(range(0, 93, 2))
    assert {s["x"].shape for s in samples} == {(2,)}
