"""Pieces and steps: every step finds its samples in pieces that were given before it and not yet let go."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkstore.plan.order import FragmentExtent, LaneOrder, plan_order
from chunkstore.plan.pieces import Share, plan_pieces

fragments = st.lists(
    st.builds(
        lambda samples, log_rows, nbytes: FragmentExtent(samples, 1 << log_rows, samples * nbytes),
        st.integers(0, 400),
        st.integers(0, 6),
        st.integers(1, 40),
    ),
    max_size=4,
)


@st.composite
def cases(draw, *, shuffles=(True, "full", False)):
    world_size = draw(st.integers(1, 6))
    shuffle = draw(st.sampled_from(shuffles))
    order = plan_order(
        draw(fragments),
        shuffle=shuffle,
        seed=draw(st.integers(0, 3)),
        lanes=draw(st.sampled_from([1, 2, 3, 4, 8, 64])),
        window_nbytes=draw(st.sampled_from([1, 500, 1 << 12, 1 << 29])),
        affinity=draw(st.booleans()),
    )
    global_batch = world_size * draw(st.integers(1, 40))
    ending = draw(st.sampled_from(["short", "drop", "pad"]))
    shares = [
        Share(rank, world_size, global_batch, shuffle is False, ending == "drop", ending == "pad")
        for rank in range(world_size)
    ]
    consumed = draw(st.one_of(st.just(0), st.integers(0, order.num_samples)))
    return order, shares, consumed, draw(st.sampled_from([0, 10, 1000]))


def rows_of(piece):
    return np.concatenate([np.arange(a, b) for a, b in piece.intervals] or [np.empty(0, np.int64)])


def walk(order, share, consumed, piece_samples, *, epoch=1, first=0, stride=1, most_nbytes=None):
    """Do as the prefetcher does; give the pieces and the positions of each step.

    With `most_nbytes` pieces are split; the sample at position p has p mod 7 bytes then.
    """
    steps = share.steps(consumed, order.num_samples, first=first, stride=stride)
    planner = plan_pieces(order, share, epoch, steps, piece_samples=piece_samples)

    def pieces_of_planner():
        while (piece := planner.next_piece()) is not None:
            if most_nbytes is None:
                yield piece
            else:
                yield from planner.split(piece, rows_of(piece) % 7, most_nbytes)

    pieces, held, given, positions = pieces_of_planner(), {}, [], []
    coming = next(pieces, None)
    for start in steps:
        stop = min(start + share.global_batch, order.num_samples)
        while coming is not None and coming.first_place < stop:
            held[coming.number] = coming
            given.append(coming)
            coming = next(pieces, None)
        plan = planner.plan_step(start)
        rows = [rows_of(held[number]) for number in plan.pieces]
        positions.append(np.array([rows[s][r] for s, r in zip(plan.source, plan.row, strict=True)], np.int64))
        for piece in [piece for piece in held.values() if piece.last_place < stop]:
            planner.forget(held.pop(piece.number))
    assert coming is None, "a piece that no step needs"
    return given, positions


@settings(max_examples=150, deadline=None)
@given(cases())
def test_steps_find_the_samples_of_their_places_in_pieces_given_before_and_not_yet_let_go(case):
    order, shares, consumed, piece_samples = case
    for share in shares:
        _, positions = walk(order, share, consumed, piece_samples)
        for start, found in zip(share.steps(consumed, order.num_samples), positions, strict=True):
            places, _ = share.places(start, order.num_samples)
            assert found.tolist() == order.positions(1, places).tolist()


@settings(max_examples=100, deadline=None)
@given(cases(), st.sampled_from([0, 20, 300, 1 << 20]))
def test_pieces_that_hold_too_many_bytes_are_split_down_to_single_runs_and_steps(case, most_nbytes):
    order, shares, consumed, piece_samples = case
    for share in shares:
        _, positions = walk(order, share, consumed, piece_samples)
        pieces, split_positions = walk(order, share, consumed, piece_samples, most_nbytes=most_nbytes)
        assert [found.tolist() for found in split_positions] == [found.tolist() for found in positions]
        firsts = [piece.first_place for piece in pieces]
        assert firsts == sorted(firsts)
        singles, _ = walk(order, share, consumed, 0, most_nbytes=0)
        assert len(pieces) <= len(singles)
        assert {tuple(p.intervals.ravel()) for p in pieces if sum(rows_of(p) % 7) > most_nbytes} <= {
            tuple(p.intervals.ravel()) for p in singles
        }


@settings(max_examples=100, deadline=None)
@given(cases())
def test_pieces_come_in_the_order_of_need_with_sorted_disjoint_intervals(case):
    order, shares, consumed, piece_samples = case
    for share in shares:
        given_pieces, _ = walk(order, share, consumed, piece_samples)
        assert [piece.number for piece in given_pieces] == list(range(len(given_pieces)))
        firsts = [piece.first_place for piece in given_pieces]
        assert firsts == sorted(firsts)
        for piece in given_pieces:
            flat = piece.intervals.ravel()
            assert (np.diff(flat) > 0).all()  # also: neighbours that touch were joined
            assert piece.num_samples == len(rows_of(piece))
            assert piece.first_place <= piece.last_place or piece.num_samples == 0


@settings(max_examples=100, deadline=None)
@given(cases(shuffles=(True,)))
def test_a_rank_reads_no_sample_twice_and_ranks_that_divide_the_lanes_share_none(case):
    order, shares, consumed, piece_samples = case
    assert isinstance(order, LaneOrder)
    counts = np.zeros(order.num_samples, np.int64)
    for share in shares:
        read = [rows_of(piece) for piece in walk(order, share, consumed, piece_samples)[0]]
        own = np.concatenate(read or [np.empty(0, np.int64)])
        assert share.pad or len(np.unique(own)) == len(own)
        counts[own] += 1
    world_size = shares[0].world_size
    if shares[0].pad:  # a short last step is read apart by each rank
        return
    assert counts.max(initial=0) <= world_size // np.gcd(world_size, order.lanes)
    if consumed == 0 and not shares[0].drop_last:
        assert counts.min(initial=1) >= 1


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(1, 4))
def test_workers_that_deal_steps_among_them_take_each_step_once(case, num_workers):
    order, shares, _, piece_samples = case
    share = shares[-1]
    whole = walk(order, share, 0, piece_samples)[1]
    dealt = [walk(order, share, 0, piece_samples, first=w, stride=num_workers)[1] for w in range(num_workers)]
    assert [dealt[i % num_workers][i // num_workers].tolist() for i in range(len(whole))] == [w.tolist() for w in whole]


@pytest.mark.parametrize("shuffle", [True, "full", False])
def test_pieces_stay_small_until_they_are_allowed_to_grow(shuffle):
    order = plan_order([FragmentExtent(100_000, 64, 100_000 * 4096)], shuffle=shuffle, lanes=8, window_nbytes=8 << 20)
    share = Share(0, 1, 32, shuffle is False, False, False)
    steps = share.steps(0, order.num_samples)
    planner = plan_pieces(order, share, 0, steps, piece_samples=1000)
    pieces = []
    while (piece := planner.next_piece()) is not None:
        pieces.append(piece)
        planner.forget(piece)
    assert pieces[0].num_samples <= 1000
    assert max(piece.num_samples for piece in pieces) <= 1024
    assert len(pieces) < 2.2 * order.num_samples / 1000


def test_planning_a_step_costs_no_more_in_a_larger_dataset():
    """Layouts of runs that are open, of a few ranges each, are all that a planner holds."""
    held = []
    for samples in (50_000, 400_000):
        order = plan_order([FragmentExtent(samples, 64, samples * 4096)], shuffle=True, lanes=8, window_nbytes=8 << 20)
        share = Share(0, 1, 64, False, True, False)
        steps = share.steps(0, samples)
        planner = plan_pieces(order, share, 0, steps, piece_samples=0)
        coming, pieces, most = planner.next_piece(), [], 0
        for start in steps[:500]:
            while coming is not None and coming.first_place < start + 64:
                pieces.append(coming)
                coming = planner.next_piece()
            planner.plan_step(start)
            for piece in [piece for piece in pieces if piece.last_place < start + 64]:
                planner.forget(piece)
                pieces.remove(piece)
            most = max(most, sum(piece.num_samples for piece in pieces))
        held.append(most)
    assert held[1] <= 1.5 * held[0]
    assert held[1] <= 2 * (8 << 20) // 4096 + 8 * 64


def test_finding_the_first_runs_takes_no_table_of_lanes_times_ranks():
    order = plan_order([FragmentExtent(1 << 27, 64, 1 << 37)], shuffle=True, lanes=65536)
    share = Share(5, 1023, 1023, False, True, False)
    steps = share.steps(0, order.num_samples)
    plan_pieces(order, share, 0, steps[:1], piece_samples=1)  # tables of the epoch
    tracemalloc.start()
    try:
        assert plan_pieces(order, share, 0, steps, piece_samples=1).next_piece() is not None
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
