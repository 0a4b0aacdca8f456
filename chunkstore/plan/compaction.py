"""Which fragments to write anew, as fewer and larger ones.

Pure: from a version's fragments to groups of neighbours, each of which becomes one fragment with one part. `writing/compact.py`
stands after it and does what is planned here.

Source: docs/spec/v1.md, "A compaction".
"""

from collections.abc import Sequence

from chunkstore.format.versions import Fragment

Group = tuple[int, int]
"""Indices [start, stop) of neighbouring fragments that become one."""


def plan_compaction(fragments: Sequence[Fragment], fields: frozenset[str], *, target_nbytes: int) -> list[Group]:
    """Groups of neighbours that are worth writing anew, in order, none overlapping.

    Only fragments of fewer than `target_nbytes` decoded bytes are written anew, so that no byte is rewritten without end:
    joined with neighbours, from the first on, as long as they are no more than `target_nbytes` together; and by themselves
    where they have several parts or hold fields that the schema lacks. Neighbours are joined only where their sample ids
    follow one another, for a fragment's rows have ids without a gap.

    After a compaction, two neighbours whose ids follow one another hold more than `target_nbytes` together, so a dataset has at
    most about twice as many fragments as it has targets' worth of bytes, and another compaction finds nothing to do unless
    fields were dropped.

    Args:
        fragments: Of a version, in order.
        fields: Names of its schema.
        target_nbytes: Decoded bytes that a fragment should hold, at least 1.
    """
    groups: list[Group] = []
    start, nbytes = 0, 0
    for i, fragment in enumerate(fragments):
        joins = (
            i > start
            and fragments[i - 1].first + fragments[i - 1].samples == fragment.first
            and max(fragments[i - 1].nbytes, fragment.nbytes) < target_nbytes
            and nbytes + fragment.nbytes <= target_nbytes
        )
        if not joins:
            groups.append((start, i))
            start, nbytes = i, 0
        nbytes += fragment.nbytes
    groups.append((start, len(fragments)))
    return [group for group in groups if _is_worth(fragments[slice(*group)], fields, target_nbytes)]


def _is_worth(group: Sequence[Fragment], fields: frozenset[str], target_nbytes: int) -> bool:
    if len(group) != 1:
        return len(group) > 1
    (fragment,) = group
    whole = len(fragment.parts) == 1 and set(fragment.parts[0].fields) == fields
    return not whole and fragment.nbytes < target_nbytes
