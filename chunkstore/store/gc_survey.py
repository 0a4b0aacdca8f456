"""What the versions of a dataset hold and what lies in its store; from both, what `gc` may give up.

Listings and documents are read here, and nothing is written. What is given up is decided by `plan`, what is deleted by `doom`:
both are pure, and may be asked again as newer versions and tags are taken in. Neither must ever name what a kept version holds.
Before it: `gc.py`, which commits and deletes; after it: `commit.py` and `tags.py`, which read.

Source: docs/spec/v1.md, "Giving up".
"""

import re
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from chunkstore.errors import InvalidDataset, VersionExpired
from chunkstore.format.documents import seal
from chunkstore.format.versions import Version, tombstone_to_json, version_key, version_number
from chunkstore.store.commit import read_latest, read_version
from chunkstore.store.interface import Listed, Store
from chunkstore.store.tags import NUM_THREADS

PROBE_PREFIX = "_chunkstore/probe"
VERSIONS_PREFIX = "_chunkstore/versions"
_IN_FRAGMENT = re.compile(r"fragments/([0-9a-f]{32})/(?:([0-9a-z]{1,32})/)?.+")


@dataclass(slots=True)
class Stored:
    """Objects below one part, or those of a fragment that are of no part.

    Attributes:
        objects: How many.
        nbytes: Of all of them.
        modified: When the newest was written, seconds since the epoch.
    """

    objects: int = 0
    nbytes: int = 0
    modified: float = 0.0

    def add(self, listed: Listed) -> None:
        """Count one more object."""
        self.objects += 1
        self.nbytes += listed.nbytes
        self.modified = max(self.modified, listed.modified)


class Held(NamedTuple):
    """What one version holds.

    Attributes:
        number: Of the version.
        parts: Paths of its parts.
        contents: A hash, equal for versions with the same fields and samples.
    """

    number: int
    parts: tuple[str, ...]
    contents: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be given up, beyond what a version has given up already.

    Attributes:
        versions: Numbers.
        fragments: Ids of fragments that only those versions hold.
        parts: Paths of parts that only those versions hold, in fragments that live on.
        orphans: Ids of fragments and paths of parts that no version ever held.
    """

    versions: tuple[int, ...] = ()
    fragments: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    orphans: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether it names nothing."""
        return not (self.versions or self.fragments or self.parts or self.orphans)


@dataclass(frozen=True, slots=True)
class Doomed:
    """What lies in the store, was given up, and is held by nothing that is kept.

    Attributes:
        versions: Numbers of those whose document is no tombstone yet.
        fragments: Ids.
        parts: Paths of parts in other fragments.
        probes: What writers left when they tried the store out.
        objects: How many objects this is, documents not counted.
        nbytes: Their size.
    """

    versions: tuple[int, ...]
    fragments: tuple[str, ...]
    parts: tuple[str, ...]
    probes: tuple[Listed, ...]
    objects: int
    nbytes: int


@dataclass(slots=True)
class Survey:
    """What was found.

    Attributes:
        stored: By fragment id, then by name of the part; "" for what belongs to no part.
        documents: Sizes of the documents of versions, by number.
        probes: What writers left when they tried the store out.
        holders: By path of a part: bit n is set if version n holds it.
        contents: By number of each version that was read: equal where fields and samples are.
        gone: Numbers of versions that are tombstones.
    """

    stored: dict[str, dict[str, Stored]] = field(default_factory=dict)
    documents: dict[int, int] = field(default_factory=dict)
    probes: list[Listed] = field(default_factory=list)
    holders: dict[str, int] = field(default_factory=dict)
    contents: dict[int, int] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)

    def list_store(self, store: Store) -> None:
        """List what lies in the store. Memory is for parts, not for objects.

        Raises:
            PermissionError: the store does not let its objects be listed.
        """
        for listed in store.list("fragments"):
            if match := _IN_FRAGMENT.fullmatch(listed.key):
                parts = self.stored.setdefault(match[1], {})
                parts.setdefault(match[2] or "", Stored()).add(listed)
        for listed in store.list(VERSIONS_PREFIX):
            if (number := version_number(listed.key)) is not None:
                self.documents[number] = listed.nbytes
        self.probes = list(store.list(PROBE_PREFIX))

    def read_versions(self, store: Store, latest: Version, tagged: Collection[int]) -> None:
        """Read the versions up to `latest` that are not known yet, but for those given up that no tag names.

        Raises:
            InvalidDataset: a document is damaged, or is a tombstone that no version accounts for.
            MissingObject: a document is absent.
        """
        condemned = set(latest.condemned_versions) - set(tagged)
        known = self.contents.keys() | self.gone | condemned
        wanted = [number for number in range(1, latest.number) if number not in known]

        def read(number: int) -> Held | int:
            try:
                return hold(read_version(store, number))
            except VersionExpired:
                if number in latest.condemned_versions or number in read_latest(store).condemned_versions:
                    return number
                raise InvalidDataset(
                    f"{store.url}/{version_key(number)} is a tombstone, and no version says that gc dropped it; nothing can be"
                    " given up as long as it is unknown what it held: restore the document"
                ) from None

        with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="chunkstore-gc") as pool:
            for held in pool.map(read, wanted):
                if isinstance(held, int):
                    self.gone.add(held)
                else:
                    self.add(held)
        self.add(hold(latest))

    def add(self, held: Held) -> None:
        """Take in what a version holds."""
        self.contents[held.number] = held.contents
        for path in held.parts:
            self.holders[path] = self.holders.get(path, 0) | 1 << held.number


def hold(version: Version) -> Held:
    """What a version holds."""
    parts = tuple(part.path for fragment in version.fragments for part in fragment.parts)
    firsts = tuple(fragment.first for fragment in version.fragments)
    return Held(version.number, parts, hash((parts, firsts, repr(version.schema))))


def plan(survey: Survey, latest: Version, tagged: Collection[int], *, keep_versions: int | None, oldest: float) -> Plan:
    """What to give up, as seen from `latest`, whose predecessors `survey` knows.

    Args:
        survey: What was found.
        latest: The version to decide by; it is kept.
        tagged: Numbers of versions that are kept.
        keep_versions: How many of the last states are kept; None for all. Versions that differ from the one before in
            neither fields nor samples, such as those that gc commits, are one state with it.
        oldest: Time before which orphans were written.
    """
    alive = sorted(survey.contents.keys() - set(latest.condemned_versions) | {latest.number})
    kept = {*_last_states(survey, alive, keep_versions), *(survey.contents.keys() & set(tagged))}
    mask = _mask(kept)
    living = {_fragment_of(path) for path, holders in survey.holders.items() if holders & mask}
    condemned = {*latest.condemned_fragments, *latest.condemned_parts}
    fragments, parts = set[str](), set[str]()
    for path, holders in survey.holders.items():
        if not holders & mask:
            fragment = _fragment_of(path)
            if fragment in living:
                parts.add(path)
            else:
                fragments.add(fragment)
    held = {_fragment_of(path) for path in survey.holders}
    orphans = set[str]()
    for fragment, stored in survey.stored.items():
        if fragment not in held:
            if max(each.modified for each in stored.values()) <= oldest:
                orphans.add(fragment)
        elif fragment in living:
            paths = {f"fragments/{fragment}/{name}": each.modified for name, each in stored.items() if name}
            orphans |= {path for path, modified in paths.items() if path not in survey.holders and modified <= oldest}
    return Plan(
        tuple(sorted(set(alive) - kept)),
        tuple(sorted(fragments - condemned)),
        tuple(sorted(parts - condemned)),
        tuple(sorted(orphans - condemned)),
    )


def doom(survey: Survey, latest: Version, tagged: Collection[int], *, oldest: float) -> Doomed:
    """What to delete, of what `latest` and those before it gave up: all that no version holds that is kept or tagged."""
    tagged = survey.contents.keys() & set(tagged)
    condemned = set(latest.condemned_versions)
    mask = _mask(number for number in survey.contents if number not in condemned or number in tagged)
    spared = {path for path, holders in survey.holders.items() if holders & mask}
    living = {_fragment_of(path) for path in spared}
    fragments = survey.stored.keys() & set(latest.condemned_fragments) - living
    parts = {path: _stored(survey, path) for path in set(latest.condemned_parts) - spared}
    found = {path: stored for path, stored in parts.items() if stored and _fragment_of(path) not in fragments}
    probes = [listed for listed in survey.probes if listed.modified <= oldest]
    everything = [stored for fragment in fragments for stored in survey.stored[fragment].values()] + list(
        found.values()
    )
    return Doomed(
        versions=tuple(
            number
            for number in sorted(condemned - tagged)
            if survey.documents.get(number) != len(seal(tombstone_to_json(number)))
        ),
        fragments=tuple(sorted(fragments)),
        parts=tuple(sorted(found)),
        probes=tuple(probes),
        objects=sum(stored.objects for stored in everything) + len(probes),
        nbytes=sum(stored.nbytes for stored in everything) + sum(listed.nbytes for listed in probes),
    )


def _last_states(survey: Survey, alive: list[int], count: int | None) -> list[int]:
    """The versions of the last so many states; `alive` is sorted."""
    if count is None:
        return alive
    kept, states = list[int](), set[int]()
    newer = None
    for number in reversed(alive):
        contents = survey.contents[number]
        if newer is None or contents != newer:
            states.add(number)
        if len(states) > count:
            break
        kept.append(number)
        newer = contents
    return kept


def _stored(survey: Survey, path: str) -> Stored | None:
    _, fragment, name = path.split("/")
    return survey.stored.get(fragment, {}).get(name)


def _fragment_of(path: str) -> str:
    return path.split("/")[1]


def _mask(numbers: Iterable[int]) -> int:
    mask = 0
    for number in numbers:
        mask |= 1 << number
    return mask
