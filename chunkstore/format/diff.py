"""What differs between two versions of a dataset, as a value.

Samples are told apart by their ids, which are never reused and which `compact` keeps: samples that only moved to another
fragment were neither added nor removed. Compares documents alone: never does I/O. `history/past_versions.py` stands before
it, the command line's tables after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from chunkstore.format.statistics import Statistics
from chunkstore.format.versions import Version


@dataclass(frozen=True, slots=True)
class StatisticsChange:
    """One field's statistics of one kind in two versions that both have the field.

    Attributes:
        field: Name of the field.
        kind: What they are of: "values" or "lengths".
        old: In the old version; empty where the field's type had none of this kind.
        new: In the new version, likewise.
    """

    field: str
    kind: str
    old: Statistics
    new: Statistics


@dataclass(frozen=True, slots=True)
class VersionDiff:
    """What one version has that another has not; `chunkstore.diff` makes it.

    Attributes:
        old: Number of the version that is compared with.
        new: Number of the version that is compared.
        fragments_added: Ids of fragments that only the new one has, in its order.
        fragments_removed: Ids of fragments that only the old one has, in its order.
        ids_added: Sample ids that only the new one has, as ascending ranges that do not touch.
        ids_removed: Sample ids that only the old one has, likewise.
        fields_added: Names of fields that only the new one has, in the order of its schema.
        fields_removed: Names of fields that only the old one has.
        fields_changed: Names of fields whose types, or how they are to be stored, differ, or that fragments of both versions
            hold in another part: they were added anew after a rollback.
        statistics_changed: Statistics that differ, of fields that both have.
    """

    old: int
    new: int
    fragments_added: tuple[str, ...]
    fragments_removed: tuple[str, ...]
    ids_added: tuple[range, ...]
    ids_removed: tuple[range, ...]
    fields_added: tuple[str, ...]
    fields_removed: tuple[str, ...]
    fields_changed: tuple[str, ...]
    statistics_changed: tuple[StatisticsChange, ...]

    @property
    def samples_added(self) -> int:
        """How many samples only the new version has."""
        return sum(len(ids) for ids in self.ids_added)

    @property
    def samples_removed(self) -> int:
        """How many samples only the old version has."""
        return sum(len(ids) for ids in self.ids_removed)

    @property
    def is_empty(self) -> bool:
        """Whether both versions hold the same samples, in the same fragments and fields."""
        return not any(getattr(self, name) for name in self.__slots__ if name not in ("old", "new"))


def diff_versions(old: Version, new: Version) -> VersionDiff:
    """Compare two versions of one dataset."""
    old_fragments, new_fragments = ({f.id for f in version.fragments} for version in (old, new))
    shared = [name for name in new.schema if name in old.schema]
    moved = _fields_in_other_parts(old, new)
    return VersionDiff(
        old=old.number,
        new=new.number,
        fragments_added=tuple(f.id for f in new.fragments if f.id not in old_fragments),
        fragments_removed=tuple(f.id for f in old.fragments if f.id not in new_fragments),
        ids_added=_subtract(_sample_ids(new), _sample_ids(old)),
        ids_removed=_subtract(_sample_ids(old), _sample_ids(new)),
        fields_added=tuple(name for name in new.schema if name not in old.schema),
        fields_removed=tuple(name for name in old.schema if name not in new.schema),
        fields_changed=tuple(name for name in shared if old.schema[name] != new.schema[name] or name in moved),
        statistics_changed=tuple(change for name in shared for change in _statistics_changes(name, old, new)),
    )


def _fields_in_other_parts(old: Version, new: Version) -> set[str]:
    """Fields that a fragment of both versions holds in one part by the old one, in another by the new one."""
    before = {fragment.id: fragment for fragment in old.fragments}
    moved: set[str] = set()
    for fragment in new.fragments:
        there = before.get(fragment.id)
        if there is None or there.parts == fragment.parts:
            continue
        paths = {name: part.path for part in there.parts for name in part.fields}
        moved.update(name for part in fragment.parts for name in part.fields if paths.get(name, part.path) != part.path)
    return moved


def _statistics_changes(name: str, old: Version, new: Version) -> list[StatisticsChange]:
    before, after = old.statistics[name], new.statistics[name]
    empty = Statistics()
    changes = [
        StatisticsChange(name, kind, before.get(kind, empty), after.get(kind, empty)) for kind in {**before, **after}
    ]
    return [change for change in changes if change.old != change.new]


def _sample_ids(version: Version) -> list[range]:
    """The sample ids of a version as ascending ranges, those that touch made one."""
    joined: list[range] = []
    for first, samples in sorted((f.first, f.samples) for f in version.fragments):
        if joined and joined[-1].stop == first:
            joined[-1] = range(joined[-1].start, first + samples)
        else:
            joined.append(range(first, first + samples))
    return joined


def _subtract(minuend: Sequence[range], subtrahend: Sequence[range]) -> tuple[range, ...]:
    """What of ascending, disjoint ranges is not in other ascending, disjoint ranges."""
    left: list[range] = []
    i = 0
    for whole in minuend:
        start = whole.start
        while i < len(subtrahend) and subtrahend[i].stop <= start:
            i += 1
        j = i
        while j < len(subtrahend) and subtrahend[j].start < whole.stop:
            if start < subtrahend[j].start:
                left.append(range(start, subtrahend[j].start))
            start = subtrahend[j].stop
            j += 1
        if start < whole.stop:
            left.append(range(start, whole.stop))
    return tuple(left)
