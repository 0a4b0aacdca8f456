"""Read plans bring every row wanted to its place, and every range in a request of bounded size."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkstore.plan.reads import coalesce, intervals_of_rows, split_intervals, total_rows


@given(st.lists(st.integers(0, 50), max_size=30))
def test_intervals_give_the_rows_in_their_order(rows: list[int]) -> None:
    intervals = intervals_of_rows(np.array(rows, np.int64))
    assert [row for start, stop in intervals for row in range(start, stop)] == rows
    assert total_rows(intervals) == len(rows)
    assert all(a[1] != b[0] for a, b in pairwise(intervals))  # neighbours are merged


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=10), st.integers(1, 17))
def test_pieces_bring_each_row_to_its_place_and_cross_no_chunk(spans: list[tuple[int, int]], chunk_rows: int) -> None:
    intervals = np.array([(start, start + n) for start, n in spans], np.int64).reshape(-1, 2)
    pieces = split_intervals(intervals, chunk_rows)
    out = np.full(total_rows(intervals), -1)
    for chunk, start, stop, at in zip(pieces.chunk, pieces.start, pieces.stop, pieces.destination, strict=True):
        assert 0 <= start < stop <= chunk_rows
        assert (out[at : at + stop - start] == -1).all()
        out[at : at + stop - start] = np.arange(start, stop) + chunk * chunk_rows
    assert out.tolist() == [row for start, stop in intervals for row in range(start, stop)]
    runs = pieces.by_chunk()
    assert [i for run in runs for i in range(run.start, run.stop)] == list(range(len(pieces.chunk)))
    chunks = [set(pieces.chunk[run].tolist()) for run in runs]
    assert all(len(chunk) == 1 for chunk in chunks)
    assert len(set.union(set(), *chunks)) == len(chunks)


RANGES = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 60)), max_size=20)


@given(RANGES, st.integers(0, 40), st.integers(1, 200))
def test_every_range_lies_in_one_request(ranges: list[tuple[int, int]], gap: int, limit: int) -> None:
    given_ranges = np.array([(start, start + n) for start, n in ranges], np.int64).reshape(-1, 2)
    groups = coalesce(given_ranges, max_gap_nbytes=gap, max_nbytes=limit)
    assert sorted(i for group in groups for i in group.members.tolist()) == list(range(len(ranges)))
    for group in groups:
        own = given_ranges[group.members]
        assert (own[:, 0] >= group.start).all()
        assert (own[:, 1] <= group.stop).all()
        assert group.start == own[:, 0].min()


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 60)), max_size=20), st.integers(0, 20), st.integers(1, 200)
)
def test_disjoint_ranges_share_requests_as_far_as_gap_and_size_allow(
    steps: list[tuple[int, int]], gap: int, limit: int
) -> None:
    ranges, at = [], 0
    for skipped, length in steps:
        ranges.append((at + skipped, at + skipped + length))
        at += skipped + length
    groups = coalesce(np.array(ranges, np.int64).reshape(-1, 2), max_gap_nbytes=gap, max_nbytes=limit)
    for group in groups:
        own = [ranges[i] for i in group.members]
        assert group.stop == own[-1][1]
        assert len(own) == 1 or group.stop - group.start <= limit
        assert all(b[0] - a[1] <= gap for a, b in pairwise(own))
    for left, right in pairwise(groups):
        next_stop = ranges[int(right.members[0])][1]
        assert right.start - left.stop > gap or next_stop - left.start > limit  # else they would be one


def test_nothing_wanted_is_nothing_planned() -> None:
    none = np.empty((0, 2), np.int64)
    assert coalesce(none, max_gap_nbytes=1, max_nbytes=1) == []
    assert split_intervals(none, 4).by_chunk() == []
    assert total_rows(none) == 0


@pytest.mark.parametrize("rows", [1, 1 << 20])
def test_far_rows_do_not_overflow(rows: int) -> None:
    far = 1 << 61
    pieces = split_intervals(np.array([[far, far + 3]], np.int64), rows)
    assert int((pieces.chunk * rows + pieces.start).min()) == far
