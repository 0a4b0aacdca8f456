"""Planning a compaction: what is joined may be joined, is worth it, and is not done again."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from chunkstore.format.versions import Fragment, Part
from chunkstore.plan.compaction import plan_compaction

FIELDS = frozenset({"x", "y"})
SIZES = st.one_of(st.integers(0, 12), st.integers(0, 300))


def fragment(number: int, first: int, samples: int, *parts: tuple[tuple[str, ...], int]) -> Fragment:
    own = f"{number:032x}"
    return Fragment(
        own,
        first,
        samples,
        1,
        tuple(Part(f"fragments/{own}/{i}", fields, nbytes, 9, 9, 9) for i, (fields, nbytes) in enumerate(parts)),
    )


@st.composite
def versions(draw: st.DrawFn) -> list[Fragment]:
    fragments, first = [], draw(st.integers(0, 5))
    for number in range(draw(st.integers(0, 25))):
        first += draw(st.sampled_from([0, 0, 0, 1, 7]))  # a gap where versions in between were rolled back
        samples = draw(st.integers(1, 9))
        nbytes = draw(SIZES)
        parts = draw(
            st.sampled_from(
                [
                    [(("x", "y"), nbytes)],
                    [(("y", "x"), nbytes)],
                    [(("x",), nbytes), (("y",), 3)],
                    [(("x", "y", "dropped"), nbytes)],
                ]
            )
        )
        fragments.append(fragment(number, first, samples, *parts))
        first += samples
    return fragments


def compacted(fragments: list[Fragment], groups: list[tuple[int, int]]) -> list[Fragment]:
    """The version afterwards, as if dropped fields had taken nothing."""
    made = list(fragments)
    for number, (start, stop) in reversed(list(enumerate(groups))):
        sources = made[start:stop]
        nbytes, samples = sum(f.nbytes for f in sources), sum(f.samples for f in sources)
        made[start:stop] = [fragment(1000 + number, sources[0].first, samples, (("x", "y"), nbytes))]
    return made


@given(versions(), st.integers(1, 120))
def test_what_is_joined_may_be_joined_and_fits(fragments: list[Fragment], target: int) -> None:
    groups = plan_compaction(fragments, FIELDS, target_nbytes=target)
    after = 0
    for start, stop in groups:
        assert after <= start < stop <= len(fragments)
        after = stop
        members = fragments[start:stop]
        assert all(f.nbytes < target for f in members)
        assert sum(f.nbytes for f in members) <= target
        ids = [i for f in members for i in range(f.first, f.first + f.samples)]
        assert ids == list(range(ids[0], ids[-1] + 1))
        (first, *more) = members
        assert more or len(first.parts) > 1 or set(first.parts[0].fields) != FIELDS


@given(versions(), st.integers(1, 120))
def test_afterwards_there_is_nothing_left_to_do(fragments: list[Fragment], target: int) -> None:
    made = compacted(fragments, plan_compaction(fragments, FIELDS, target_nbytes=target))
    assert plan_compaction(made, FIELDS, target_nbytes=target) == []
    for a, b in pairwise(made):
        apart = a.first + a.samples != b.first
        assert apart or a.nbytes + b.nbytes > target or max(a.nbytes, b.nbytes) >= target
    for f in made:
        assert f.nbytes >= target or (len(f.parts) == 1 and set(f.parts[0].fields) == FIELDS)


@given(versions(), st.integers(1, 120), st.integers(0, 24))
def test_a_gap_in_sample_ids_is_never_joined_across(fragments: list[Fragment], target: int, at: int) -> None:
    moved = [replace(f, first=f.first + 1) if i >= at else f for i, f in enumerate(fragments)]
    groups = plan_compaction(moved, FIELDS, target_nbytes=target)
    for start, stop in groups:
        for a, b in zip(moved[start : stop - 1], moved[start + 1 : stop], strict=True):
            assert a.first + a.samples == b.first


def test_many_tiny_fragments_become_few() -> None:
    fragments = [fragment(i, 10 * i, 10, (("x", "y"), 3)) for i in range(100)]
    assert plan_compaction(fragments, FIELDS, target_nbytes=100) == [(0, 33), (33, 66), (66, 99)]
    assert plan_compaction(fragments, FIELDS, target_nbytes=1000) == [(0, 100)]
    assert plan_compaction(fragments, FIELDS, target_nbytes=5) == []
    assert plan_compaction([], FIELDS, target_nbytes=5) == []
