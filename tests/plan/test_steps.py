"""Steps of an epoch: every place once, whatever the ranks; short, filled and resumed ones too."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkstore.plan.steps import num_steps, padded_rank_places, rank_places, step_size


@st.composite
def jobs(draw):
    """(consumed, global_batch, world_size, num_samples)."""
    world_size = draw(st.integers(1, 12))
    global_batch = world_size * draw(st.integers(1, 20))
    num_samples = draw(st.integers(0, 600))
    return draw(st.integers(0, num_samples)), global_batch, world_size, num_samples


@given(jobs(), st.booleans())
def test_the_ranks_of_a_step_share_its_places(job, contiguous):
    consumed, global_batch, world_size, num_samples = job
    of_rank = [
        rank_places(consumed, global_batch, rank, world_size, num_samples, contiguous=contiguous)
        for rank in range(world_size)
    ]
    stop = consumed + step_size(consumed, global_batch, num_samples)
    assert sorted(np.concatenate(of_rank).tolist()) == list(range(consumed, stop))
    for rank, places in enumerate(of_rank):
        assert places.dtype == np.int64
        assert (np.diff(places) > 0).all()
        if not contiguous:
            assert (places % world_size == rank).all()
    sizes = [len(places) for places in of_rank]
    assert max(sizes) - min(sizes) <= 1
    if stop - consumed == global_batch:
        assert set(sizes) == {global_batch // world_size}


@given(jobs())
def test_contiguous_ranks_follow_one_another(job):
    consumed, global_batch, world_size, num_samples = job
    joined = np.concatenate(
        [rank_places(consumed, global_batch, r, world_size, num_samples, contiguous=True) for r in range(world_size)]
    )
    assert joined.tolist() == list(range(consumed, consumed + step_size(consumed, global_batch, num_samples)))


@given(jobs(), st.booleans())
def test_a_filled_step_gives_every_rank_the_same_number(job, contiguous):
    consumed, global_batch, world_size, num_samples = job
    filled = [
        padded_rank_places(consumed, global_batch, rank, world_size, num_samples, contiguous=contiguous)
        for rank in range(world_size)
    ]
    size = step_size(consumed, global_batch, num_samples)
    for places, mask in filled:
        assert places.dtype == np.int64
        assert mask.dtype == np.bool_
        assert len(places) == len(mask) == (global_batch // world_size if size else 0)
    joined = sorted(place for places, _ in filled for place in places.tolist())
    assert joined == sorted(consumed + j % size for j in range(global_batch if size else 0))
    real = sorted(place for places, mask in filled for place in places[mask].tolist())
    assert real == list(range(consumed, consumed + size))
    if not contiguous:
        unfilled = [
            rank_places(consumed, global_batch, rank, world_size, num_samples, contiguous=False)
            for rank in range(world_size)
        ]
        for (places, mask), expected in zip(filled, unfilled, strict=True):
            assert np.array_equal(places[mask], expected)


@given(jobs(), st.booleans())
def test_steps_end_with_the_epoch(job, drop_last):
    consumed, global_batch, _, num_samples = job
    count, at = 0, consumed
    while at < num_samples and not (drop_last and num_samples - at < global_batch):
        at += step_size(at, global_batch, num_samples)
        count += 1
    assert num_steps(num_samples, global_batch, consumed=consumed, drop_last=drop_last) == count
    assert at == num_samples or drop_last


@given(jobs(), st.data())
def test_resuming_at_another_size_gives_exactly_the_rest(job, data):
    _, global_batch, world_size, num_samples = job
    seen, consumed = [], 0
    for _ in range(3):
        last = data.draw(st.integers(0, num_steps(num_samples, global_batch, consumed=consumed)))
        for _ in range(last):
            for rank in range(world_size):
                seen += rank_places(consumed, global_batch, rank, world_size, num_samples, contiguous=False).tolist()
            consumed += step_size(consumed, global_batch, num_samples)
        world_size = data.draw(st.integers(1, 12))
        global_batch = world_size * data.draw(st.integers(1, 20))
    assert sorted(seen) == list(range(consumed))


def test_fewer_samples_than_a_batch_make_no_step_when_the_last_is_dropped():
    assert num_steps(255, 256, drop_last=True) == 0
    assert num_steps(255, 256) == 1
    assert num_steps(0, 256) == 0


def test_a_short_sequential_step_is_cut_as_equally_as_can_be():
    places = [rank_places(8, 8, rank, 4, 13, contiguous=True).tolist() for rank in range(4)]
    assert places == [[8], [9], [10], [11, 12]]


def test_ranks_without_samples_get_empty_places():
    assert rank_places(8, 8, 3, 4, 9, contiguous=False).shape == (0,)
    places, mask = padded_rank_places(8, 8, 3, 4, 9, contiguous=False)
    assert places.tolist() == [8, 8]
    assert mask.tolist() == [False, False]


@pytest.mark.parametrize(
    ("consumed", "global_batch", "rank", "world_size", "reason"),
    [
        (0, 6, 0, 4, "not a multiple"),
        (0, 8, 4, 4, "not one of"),
        (0, 8, -1, 4, "not one of"),
        (0, 0, 0, 1, "at least one sample"),
        (11, 8, 0, 4, "outside the epoch"),
        (-1, 8, 0, 4, "outside the epoch"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(consumed, global_batch, rank, world_size, reason):
    for plan in (rank_places, padded_rank_places):
        with pytest.raises(ValueError, match=reason):
            plan(consumed, global_batch, rank, world_size, 10, contiguous=False)
