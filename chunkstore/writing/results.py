"""What a writer of one fragment hands over, and the commit that makes several visible together.

A `FragmentResult` is a small value that may travel between processes, pickled or as JSON; where it comes back it is read as
untrusted. Nothing here reads or writes a sample. Before it: `fragments.py`; after it: `commit.py`.

Source: docs/spec/v1.md, "A commit".
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import reduce
from math import prod

from chunkstore.errors import CommitConflict, DatasetNotFound, InvalidDataset, SchemaError, VersionExpired
from chunkstore.format.documents import Node, seal, unseal
from chunkstore.format.schema import Array, Schema
from chunkstore.format.statistics import Statistics
from chunkstore.format.versions import FORMAT, FieldStatistics, Fragment, Part, Version
from chunkstore.history.commit import commit, new_id, now, read_version
from chunkstore.reading.cache import ChunkCache
from chunkstore.reading.part import OpenPart
from chunkstore.store.interface import Store
from chunkstore.writing.fields import no_statistics

NUM_THREADS = 16
_UUID = r"[0-9a-f]{32}"
_WHERE = "the result of a fragment"


@dataclass(frozen=True, slots=True)
class FragmentResult:
    """What a writer of `chunkstore.fragment` wrote: to be given to `chunkstore.commit`, in this process or another.

    Attributes:
        dataset: UUID of the dataset that it was written for.
        schema: Fields and types.
        fragment: Where the samples lie; None if there were none.
        statistics: Of the samples, by field.
        since: Number of the latest version when writing began, 0 if there was none; older ones cannot hold the samples.

    Raises:
        InvalidDataset: the parts contradict each other.
    """

    dataset: str
    schema: Schema
    fragment: Fragment | None
    statistics: Mapping[str, FieldStatistics]
    since: int = 0

    def __post_init__(self) -> None:
        if self.fragment is not None:
            held = [name for part in self.fragment.parts for name in part.fields]
            if sorted(held) != sorted(self.schema):
                raise InvalidDataset(
                    f"{_WHERE}: the fragment holds {', '.join(held)}, not each field of the schema once"
                )
        if set(self.statistics) != set(self.schema):
            raise InvalidDataset(f"{_WHERE}: statistics are not of the schema's fields")
        for name, field in self.schema.items():
            found = {kind: statistics.count for kind, statistics in self.statistics[name].items()}
            expected = set(no_statistics(field))
            lengths = self.num_samples if "lengths" in expected else None
            values = self.num_samples * prod(field.shape) if isinstance(field, Array) else found.get("values")
            if set(found) != expected or (found.get("lengths"), found.get("values")) != (lengths, values):
                raise InvalidDataset(f"{_WHERE}: statistics of field {name!r} are not of {self.num_samples} samples")

    @property
    def num_samples(self) -> int:
        """How many samples were written."""
        return self.fragment.samples if self.fragment else 0

    def to_json(self) -> str:
        """As text, from which `from_json` makes the same value, in another process or on another day."""
        return seal(
            {
                "format": FORMAT,
                "dataset": self.dataset,
                "schema": self.schema.to_json(),
                "since": self.since,
                "fragment": self.fragment.to_json() if self.fragment else None,
                "statistics": {
                    name: {kind: statistics.to_json() for kind, statistics in kinds.items()}
                    for name, kinds in self.statistics.items()
                },
            }
        ).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> "FragmentResult":
        """The value that `to_json` made a text of.

        Raises:
            InvalidDataset: the text is damaged, or is something else.
            UnsupportedFormat: a field is of a type this release does not know.
        """
        node = unseal(text.encode("utf-8", "replace") if isinstance(text, str) else text, _WHERE)
        node.member("format").choice(FORMAT)
        fragment = node.member("fragment")
        return cls(
            dataset=node.member("dataset").string(_UUID),
            schema=Schema.from_json(node.member("schema")),
            since=node.member("since").integer(),
            fragment=None if fragment.value is None else Fragment.from_json(fragment),
            statistics={
                name: {kind: _statistics(member) for kind, member in kinds.members()}
                for name, kinds in node.member("statistics").members()
            },
        )


def _statistics(node: Node) -> Statistics:
    try:
        return Statistics.from_json(node.value)
    except InvalidDataset as error:
        node.fail(str(error))


class _NothingLeftError(Exception):
    def __init__(self, latest: Version) -> None:
        super().__init__(latest.number)
        self.latest = latest


def commit_results(
    store: Store, results: Sequence[FragmentResult], *, message: str, create: bool = False, again: bool = False
) -> Version:
    """Make fragments visible, together and in this order, as the next version, or as the first.

    Loses no race but to give it another try: samples are appended to whatever version won; a creation gives way.

    Args:
        store: The dataset's.
        results: Of one dataset and schema, at least one.
        message: Kept in the version.
        create: Whether there must be no version yet.
        again: Whether some may be committed already: what the latest version holds, be it compacted since, is left out, and
            where nothing is left, it is the answer. The objects of the others are looked for, as they come from elsewhere.

    Raises:
        DatasetExists: `create`, and somebody else's first version is there.
        DatasetNotFound: samples are appended, and no version is there any more.
        SchemaError: the dataset's schema is another.
        CommitConflict: another dataset is in this place, a fragment was condemned by `gc`, or the race was lost too often.
        MissingObject, InvalidDataset: what a result names is not in the store, or damaged.
        StoreError: the store failed and did not tell, when asked again, whether it had taken the version.
    """
    writer, time = new_id(), now()
    looked_for: set[str] = set()
    history = _History(store, results)

    def next_version(parent: Version | None) -> Version:
        if parent is None:
            if not (create or again):
                raise DatasetNotFound(f"{store.url}: the dataset vanished while samples were appended to it")
            there, base = frozenset[str](), _no_version(results[0])
        else:
            _check_is_same(store, parent, results[0])
            there, base = frozenset(fragment.id for fragment in parent.fragments), parent
        left = [result for result in results if result.fragment is not None and result.fragment.id not in there]
        if again and parent is not None:
            left = history.without_compacted(parent, left)
        if again and parent is not None and not left:
            raise _NothingLeftError(parent)
        if parent is not None:  # what is there already may have got fields since
            _check_fits(store, parent, results[0])
        if again:
            _check_not_condemned(store, base, left)
            _look_for_objects(store, left, looked_for)
        return replace(
            _extended(base, left),
            number=base.number + 1,
            parent=base.number or None,
            writer=writer,
            time=time,
            message=message,
        )

    try:
        return commit(store, next_version, create=create)
    except _NothingLeftError as nothing:
        return nothing.latest


class _History:
    """Where fragments stood in versions before the latest, from which a compaction may have taken them.

    Versions never change, so each is read once, however often the race for the next one is lost.
    """

    def __init__(self, store: Store, results: Sequence[FragmentResult]) -> None:
        self._store = store
        self._ids = {result.fragment.id for result in results if result.fragment is not None}
        self._next = 1 + min(result.since for result in results)
        self._stood: set[tuple[str, int, int]] = set()

    def without_compacted(self, latest: Version, results: list[FragmentResult]) -> list[FragmentResult]:
        """Results but those whose samples are in the latest version, by their ids."""
        self._read_before(latest.number)
        held = {
            name for name, first, count in self._stood if _num_held(latest, first, first + count) == count
        }  # after a rollback none of the ids is there, and the samples are added again
        return [result for result in results if result.fragment is not None and result.fragment.id not in held]

    def _read_before(self, number: int) -> None:
        numbers, self._next = range(self._next, number), max(self._next, number)
        with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="chunkstore-commit") as pool:
            for fragments in pool.map(self._fragments, numbers):
                self._stood.update((f.id, f.first, f.samples) for f in fragments if f.id in self._ids)

    def _fragments(self, number: int) -> Sequence[Fragment]:
        try:
            return read_version(self._store, number).fragments
        except VersionExpired:  # of what it had, gc has condemned what no other version has
            return ()


def _num_held(version: Version, start: int, stop: int) -> int:
    """How many samples with ids in [start, stop) a version has."""
    return sum(max(0, min(stop, f.first + f.samples) - max(start, f.first)) for f in version.fragments)


def merge_statistics(a: FieldStatistics, b: FieldStatistics) -> FieldStatistics:
    """Statistics of the samples of both, which are of the same field."""
    return {kind: a[kind].merge(b[kind]) for kind in a}


def _no_version(result: FragmentResult) -> Version:
    """What the first version is made from."""
    return Version(
        dataset=result.dataset,
        number=0,
        parent=None,
        writer="",
        time="",
        message="",
        schema=result.schema,
        fragments=(),
        statistics={name: no_statistics(field) for name, field in result.schema.items()},
        next_sample_id=0,
    )


def _extended(version: Version, results: Sequence[FragmentResult]) -> Version:
    """The version with the fragments of results after its own."""
    fragments, next_id = list(version.fragments), version.next_sample_id
    for result in results:
        assert result.fragment is not None
        fragments.append(replace(result.fragment, first=next_id))
        next_id += result.fragment.samples
    statistics = {
        name: reduce(merge_statistics, (result.statistics[name] for result in results), version.statistics[name])
        for name in version.schema
    }
    return replace(version, fragments=tuple(fragments), statistics=statistics, next_sample_id=next_id)


def _check_is_same(store: Store, parent: Version, result: FragmentResult) -> None:
    if parent.dataset != result.dataset:
        raise CommitConflict(
            f"{store.url}: another dataset, {parent.dataset}, took the place of {result.dataset}, for which the samples were"
            " written; write them to that one anew"
        )


def _check_fits(store: Store, parent: Version, result: FragmentResult) -> None:
    if not parent.schema.same_types(result.schema):
        raise SchemaError(
            f"{store.url}: version {parent.number} has another schema:\n{parent.schema!r}\nnot\n{result.schema!r}"
        )


def _check_not_condemned(store: Store, parent: Version, results: Sequence[FragmentResult]) -> None:
    """Before objects are looked for, which may be gone then."""
    condemned = {*parent.condemned_fragments, *parent.condemned_parts}
    for result in results:
        assert result.fragment is not None
        if lost := condemned.intersection([result.fragment.id, *(part.path for part in result.fragment.parts)]):
            raise CommitConflict(
                f"{store.url}: fragment {lost.pop()} was condemned by gc. If its samples were committed and compacted, they"
                " are in the dataset; if not, write the samples again, and commit them sooner"
            )


def _look_for_objects(store: Store, results: Sequence[FragmentResult], looked_for: set[str]) -> None:
    """Open every part once: what is committed must be there, and be what the result says, or the version could not be read."""
    parts = [
        (result.fragment, part, result.schema)
        for result in results
        if result.fragment
        for part in result.fragment.parts
    ]
    missing = [each for each in parts if each[1].path not in looked_for]
    cache = ChunkCache(0)

    def look(each: tuple[Fragment, Part, Schema]) -> str:
        fragment, part, schema = each
        OpenPart(store, fragment, part, schema, 0, cache)
        return part.path

    with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="chunkstore-commit") as pool:
        looked_for.update(pool.map(look, missing))
