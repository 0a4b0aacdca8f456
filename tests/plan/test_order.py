"""The order: a pure function of its values, the spec's to the letter, with the properties that training relies on."""

import threading
import time
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from chunkstore.plan.order import FragmentExtent, FullOrder, LaneOrder, SequentialOrder, list_positions, plan_order
from chunkstore.plan.steps import num_steps, rank_places, step_size


@dataclass(frozen=True)
class Case:
    """Everything that an order depends on."""

    fragments: tuple[tuple[int, int, int], ...]
    seed: int = 0
    lanes: int = 64
    window: int = 512 << 20
    affinity: bool = False

    @property
    def num_samples(self):
        return sum(samples for samples, _, _ in self.fragments)

    def plan(self, shuffle=True):
        return plan_order(
            [FragmentExtent(*fragment) for fragment in self.fragments],
            shuffle=shuffle,
            seed=self.seed,
            lanes=self.lanes,
            window_nbytes=self.window,
            affinity=self.affinity,
        )


any_lanes = st.one_of(st.sampled_from([1, 2, 3, 4, 8, 16, 64, 100]), st.integers(1, 40))


def cases(most_samples=400, lanes=any_lanes):
    fragment = st.tuples(st.integers(0, most_samples), st.integers(1, 128), st.integers(0, 200_000))
    return st.builds(
        Case,
        fragments=st.lists(fragment, max_size=5).map(tuple),
        seed=st.integers(0, 2**64 - 1),
        lanes=lanes,
        window=st.one_of(st.just(1), st.integers(1, 1 << 20), st.just(1 << 60)),
        affinity=st.booleans(),
    )


epochs = st.integers(0, 1000)
WELL_FILLED = Case(
    fragments=((30_000, 64, 30_000_000), (50_000, 128, 50_000_000), (7, 64, 7000)), lanes=16, window=4 << 20
)


def lane_of_position(order, epoch):
    lanes, _, _ = order.locate(epoch, np.arange(order.num_samples))
    found = np.empty(order.num_samples, np.int64)
    found[list_positions(order, epoch)] = lanes
    return found


def order_blocks(case, oracle):
    """The number of its order block, for each position."""
    blocks = [block for blocks in oracle.blocks(case.fragments, case.lanes) for block in blocks]
    return np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])


@settings(max_examples=60, deadline=None)
@given(case=cases(), epoch=epochs, shuffle=st.sampled_from([True, "full", False]))
def test_every_sample_stands_at_one_place(case, epoch, shuffle):
    order = case.plan(shuffle)
    positions = list_positions(order, epoch)
    assert positions.dtype == np.int64
    assert np.array_equal(np.sort(positions), np.arange(case.num_samples))


@settings(max_examples=40, deadline=None)
@given(case=cases(most_samples=150, lanes=st.integers(1, 12)), epoch=epochs)
def test_the_kernels_compute_the_spec(oracle, case, epoch):
    expected = oracle.positions(
        case.fragments, seed=case.seed, epoch=epoch, lanes=case.lanes, window=case.window, affinity=case.affinity
    )
    assert list_positions(case.plan(), epoch).tolist() == expected


@pytest.mark.parametrize(
    "case",
    [
        Case(fragments=((40_000, 16, 1 << 20),), seed=5, lanes=4, window=5 << 14),
        Case(
            fragments=((9000, 8, 9000), (3, 1, 5), (0, 2, 0), (11_000, 32, 11_000)),
            seed=2**64 - 1,
            lanes=7,
            window=9000,
        ),
        Case(fragments=((20, 4, 0), (1, 1, 1)), lanes=64, affinity=True),
    ],
)
def test_large_and_tiny_datasets_follow_the_spec_too(oracle, case):
    expected = oracle.positions(
        case.fragments, seed=case.seed, epoch=3, lanes=case.lanes, window=case.window, affinity=case.affinity
    )
    assert list_positions(case.plan(), 3).tolist() == expected


def test_the_full_order_follows_the_spec(oracle):
    case = Case(fragments=((700, 4, 1), (300, 4, 1)), seed=9)
    expected = [oracle.permute(place, 1000, oracle.key(5, 9, 2)) for place in range(1000)]
    assert list_positions(case.plan("full"), 2).tolist() == expected


@settings(max_examples=40, deadline=None)
@given(case=cases(), epoch=epochs)
def test_runs_say_where_their_samples_lie(case, epoch):
    order = case.plan()
    places = np.arange(case.num_samples)
    positions = order.positions(epoch, places)
    lanes, runs, offsets = order.locate(epoch, places)
    seen = 0
    for lane in range(case.lanes):
        index = 0
        for run in range(order.num_runs(epoch, lane)):
            ranges = order.run_ranges(epoch, lane, run)
            assert ranges.dtype == np.int64
            assert (ranges[:, 0] < ranges[:, 1]).all()
            assert (ranges[1:, 0] != ranges[:-1, 1]).all()
            samples = np.concatenate([np.arange(start, stop) for start, stop in ranges])
            mine = (lanes == lane) & (runs == run)
            assert samples.size == order.run_samples(epoch, lane, run) == mine.sum() > 0
            assert np.array_equal(positions[mine], samples[offsets[mine]])
            start, stop = order.run_span(epoch, lane, run)
            assert start == index
            assert np.array_equal(places[mine], np.arange(start, stop) * case.lanes + order.slot_of(epoch, lane))
            index = stop
            seen += samples.size
    assert seen == case.num_samples


@settings(max_examples=40, deadline=None)
@given(case=cases(), epoch=epochs, per_rank=st.integers(1, 30), data=st.data())
def test_global_batches_are_the_same_for_every_world_size(case, epoch, per_rank, data):
    factors = [1, 2, 3, 4, 6, 12]
    order, global_batch = case.plan(), 12 * per_rank
    consumed = data.draw(st.integers(0, case.num_samples))
    batches = []
    for world_size in factors:
        of_rank = [
            order.positions(
                epoch, rank_places(consumed, global_batch, r, world_size, case.num_samples, contiguous=False)
            )
            for r in range(world_size)
        ]
        batches.append(sorted(np.concatenate(of_rank).tolist()))
    assert len(batches[0]) == step_size(consumed, global_batch, case.num_samples)
    assert all(batch == batches[0] for batch in batches)


@settings(max_examples=40, deadline=None)
@given(case=cases(), epoch=epochs, data=st.data())
def test_ranks_that_divide_the_lanes_share_no_block_but_those_a_lane_edge_cuts(oracle, case, epoch, data):
    world_size = data.draw(st.sampled_from([r for r in range(1, case.lanes + 1) if case.lanes % r == 0]))
    blocks = order_blocks(case, oracle)
    rank_of = np.empty(case.num_samples, np.int64)
    rank_of[list_positions(case.plan(), epoch)] = np.arange(case.num_samples) % world_size
    lanes = lane_of_position(case.plan(), epoch)
    # A lane edge lies in a block where two neighbouring samples are of lanes l and l + 1 (or further on, past empty ones).
    for block in np.unique(blocks):
        inside = np.flatnonzero(blocks == block)
        changes = np.diff(lanes[inside])
        assert (changes >= 0).all(), "lanes cut a block in the order of its samples"
        if np.unique(rank_of[inside]).size > 1:
            assert (changes > 0).any()
    cut = sum(np.unique(lanes[blocks == block]).size - 1 for block in np.unique(blocks))
    assert cut <= case.lanes - 1


@settings(max_examples=40, deadline=None)
@given(case=cases(), epoch=epochs, shuffle=st.sampled_from([True, "full", False]), data=st.data())
def test_resuming_anywhere_twice_gives_exactly_the_rest(case, epoch, shuffle, data):
    order = case.plan(shuffle)
    seen, consumed = [], 0
    for part in range(3):
        world_size = data.draw(st.integers(1, 8))
        global_batch = world_size * data.draw(st.integers(1, 40))
        steps = num_steps(case.num_samples, global_batch, consumed=consumed)
        for _ in range(steps if part == 2 else data.draw(st.integers(0, steps))):
            for rank in range(world_size):
                args = (consumed, global_batch, rank, world_size, case.num_samples)
                seen += order.positions(epoch, rank_places(*args, contiguous=shuffle is False)).tolist()
            consumed += step_size(consumed, global_batch, case.num_samples)
        order = case.plan(shuffle)
    assert sorted(seen) == list(range(case.num_samples))


@settings(max_examples=30, deadline=None)
@given(case=cases(), epoch=epochs, data=st.data())
def test_what_was_asked_before_changes_nothing(case, epoch, data):
    expected = list_positions(case.plan(), epoch)
    order = case.plan()
    rng = np.random.default_rng(data.draw(st.integers(0, 100)))
    for size in (1, 7, case.num_samples):
        places = rng.permutation(case.num_samples)[:size]
        assert np.array_equal(order.positions(epoch, places), expected[places])
        list_positions(order, epoch + size)


def test_long_requests_in_any_stride_agree_with_short_ones():
    order = WELL_FILLED.plan()
    expected = np.concatenate([order.positions(1, np.arange(at, at + 1)) for at in range(order.num_samples)])
    for start, stride in ((0, 1), (3, 8), (5, 16), (1, 17), (2, 40)):
        places = np.arange(start, order.num_samples, stride)
        assert np.array_equal(order.positions(1, places), expected[places])
        assert np.array_equal(order.positions(1, places[::-1]), expected[places[::-1]])


@pytest.mark.parametrize("shuffle", [True, "full"])
def test_seeds_and_epochs_give_different_orders(shuffle):
    orders = [
        list_positions(replace(WELL_FILLED, seed=seed).plan(shuffle), epoch) for seed in range(3) for epoch in range(3)
    ]
    for one, other in pairwise(orders):
        assert (one == other).mean() < 0.01


def test_a_lane_keeps_its_extents_in_every_epoch():
    order = WELL_FILLED.plan()
    first, later = lane_of_position(order, 0), lane_of_position(order, 7)
    assert (first != later).sum() <= WELL_FILLED.lanes**2  # less than `lanes` samples at each edge
    assert {order.lane_at(0, slot) for slot in range(16)} == set(range(16))
    assert [order.lane_at(0, slot) for slot in range(16)] != [order.lane_at(7, slot) for slot in range(16)]


def test_affinity_keeps_samples_at_their_slots_and_still_shuffles():
    order = replace(WELL_FILLED, affinity=True).plan()
    assert np.array_equal(lane_of_position(order, 0), lane_of_position(order, 7))
    for slot in range(16):
        places = np.arange(slot, order.num_samples, 16)
        one, other = order.positions(0, places), order.positions(7, places)
        assert not np.array_equal(one, other)
        assert np.array_equal(np.sort(one), np.sort(other))
        assert order.slot_of(7, slot) == order.lane_at(7, slot) == slot


def test_without_affinity_a_slot_sees_all_data_in_time():
    order = WELL_FILLED.plan()
    assert len({order.lane_at(epoch, 0) for epoch in range(200)}) == 16


def test_the_first_batch_needs_few_samples():
    order = WELL_FILLED.plan()
    for lane in range(16):
        sizes = [order.run_samples(0, lane, run) for run in range(3)]
        assert (
            sizes == [1, 2, 4][: len(sizes)] or lane * order.run_blocks % 16 >= 14
        )  # a short head ends its ramp early


def test_a_run_has_the_blocks_that_fill_the_window(oracle):
    order = WELL_FILLED.plan()
    k = oracle.run_blocks(WELL_FILLED.fragments, 16, WELL_FILLED.window)
    assert order.run_blocks == k > 1
    samples = sum(order.run_samples(0, lane, order.num_runs(0, lane) // 2) for lane in range(16))
    assert samples * 1000 == pytest.approx(WELL_FILLED.window, rel=0.1)


def test_lanes_begin_their_runs_one_after_another():
    """A sixteenth of a window later, a sixteenth of the lanes needs a new run, whatever the window is in blocks."""
    for window in (1 << 20, 2 << 20, 6 << 20):
        case = Case(fragments=((1 << 20, 64, 1 << 30),), lanes=16, window=window)
        order = case.plan()
        length = order.run_blocks * 64
        middle = 20 * length
        starts = []
        for lane in range(16):
            for run in range(order.num_runs(0, lane)):
                start, _ = order.run_span(0, lane, run)
                if middle <= start < middle + length:
                    starts.append(start)
        assert len(starts) == 16
        gaps = np.diff([*sorted(starts), min(starts) + length])
        assert gaps.max() <= length / 16 * 2


@settings(max_examples=20, deadline=None)
@given(case=cases())
def test_threads_may_share_an_order(case):
    assume(case.num_samples)
    expected = [list_positions(case.plan(), epoch) for epoch in range(3)]
    order, wrong = case.plan(), []

    def read(thread):
        for n in range(12):
            epoch = (n + thread) % 3
            places = np.arange((thread * 7 + n) % case.num_samples, case.num_samples, 1 + thread)
            if not np.array_equal(order.positions(epoch, places), expected[epoch][places]):
                wrong.append((thread, n))

    threads = [threading.Thread(target=read, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_sizes_near_the_limit_stay_exact():
    case = Case(fragments=((2**61, 2**40, 2**50), (2**60 + 12345, 2**39, 2**40)), lanes=64, seed=3)
    order = case.plan()
    n = case.num_samples
    places = np.concatenate([np.arange(500), np.arange(n // 2, n // 2 + 500), np.arange(n - 500, n)])
    positions = order.positions(0, places)
    assert np.unique(positions).size == places.size
    lanes, runs, offsets = order.locate(0, places)
    for lane, run, offset, position in zip(lanes, runs, offsets, positions, strict=True):
        ranges = order.run_ranges(0, lane, run)
        ends = np.cumsum(ranges[:, 1] - ranges[:, 0])
        row = np.searchsorted(ends, offset, side="right")
        assert position == ranges[row, 1] - (ends[row] - offset)
    assert np.unique(case.plan("full").positions(0, places)).size == places.size


def test_tables_grow_with_blocks_alone():
    few, many = (Case(fragments=((64 * 4096 * f, 64 * f, 1 << 34),)).plan() for f in (1, 1 << 20))
    for order in (few, many):
        list_ends = order.positions(0, np.array([0, order.num_samples - 1]))
        assert list_ends.size == 2
    assert few._tables(0)._table.nbytes == many._tables(0)._table.nbytes


def test_a_rank_builds_only_its_own_lanes_and_two_epochs_are_kept():
    order = WELL_FILLED.plan()
    for epoch in range(5):
        order.positions(epoch, np.arange(3, order.num_samples, 8))
        assert order._tables(epoch)._built.sum() == 2
        order.positions(max(0, epoch - 1), np.arange(10))
    assert sorted(order._epochs) == [3, 4]


def test_planning_costs_little():
    """Under 50 ns a sample of processor time, twice that for a noisy machine; benchmarks/order_quality.py prints figures."""
    order = plan_order([FragmentExtent(25_000_000 * 4096 // 3000, 4096, 10**14 // 3000)] * 3000, shuffle=True)
    started = time.perf_counter()
    order.positions(0, np.arange(0, 1 << 12, 64))
    assert time.perf_counter() - started < 10
    places = np.arange(1 << 26, (1 << 26) + (1 << 20), 64)  # 16,384, as a large batch
    order.positions(0, places)
    seconds = []
    for _ in range(30):
        started = time.thread_time()
        order.positions(0, places)
        seconds.append(time.thread_time() - started)
    assert min(seconds) / places.size < 2 * 50e-9


def test_an_empty_dataset_has_an_empty_order():
    for shuffle in (True, "full", False):
        for fragments in ((), ((0, 8, 0),)):
            assert list_positions(Case(fragments=fragments).plan(shuffle), 0).shape == (0,)


def test_kinds_of_order():
    assert isinstance(WELL_FILLED.plan(), LaneOrder)
    assert isinstance(WELL_FILLED.plan("full"), FullOrder)
    assert isinstance(WELL_FILLED.plan(False), SequentialOrder)
    assert "lanes=16" in repr(WELL_FILLED.plan())
    assert np.array_equal(list_positions(WELL_FILLED.plan(False), 4), np.arange(WELL_FILLED.num_samples))


@pytest.mark.parametrize("shuffle", [True, "full", False])
def test_places_outside_the_epoch_are_refused(shuffle):
    order = Case(fragments=((100, 8, 100),)).plan(shuffle)
    for place in (-1, 100, -(2**63), 2**63 - 1):
        with pytest.raises(ValueError, match=r"outside|must lie"):
            order.positions(0, np.array([3, place]))
    with pytest.raises(ValueError, match="epochs count from 0"):
        order.positions(-1, np.array([3]))
    with pytest.raises(ValueError, match="1-D int64"):
        order.positions(0, np.array([0.5]))


def test_lanes_and_runs_that_do_not_exist_are_refused():
    order = WELL_FILLED.plan()
    for lane in (-1, 16):
        with pytest.raises(ValueError, match="not one of 16 lanes"):
            order.num_runs(0, lane)
        with pytest.raises(ValueError, match="not one of 16 lanes"):
            order.slot_of(0, lane)
        with pytest.raises(ValueError, match="not one of 16 slots"):
            order.lane_at(0, lane)
    for run in (-1, order.num_runs(0, 0)):
        with pytest.raises(ValueError, match="has runs 0 to"):
            order.run_ranges(0, 0, run)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"shuffle": "part"}, "shuffle='part'"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 1 << 64}, "seed="),
        ({"lanes": 0}, "lanes=0"),
        ({"lanes": 1 << 17}, "lanes="),
        ({"window_nbytes": 0}, "window_nbytes=0"),
    ],
)
def test_options_outside_their_range_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        plan_order([FragmentExtent(10, 4, 10)], **{"shuffle": True, **options})


def test_impossible_fragments_are_refused():
    with pytest.raises(ValueError, match="at least one sample"):
        FragmentExtent(10, 0, 10)
    with pytest.raises(ValueError, match="cannot have"):
        FragmentExtent(-1, 8, 10)
    with pytest.raises(ValueError, match="2\\^62"):
        plan_order([FragmentExtent(1 << 62, 8, 10)] * 2, shuffle=True)
