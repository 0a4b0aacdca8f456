"""What the versions of a dataset hold and what lies in its store; from both, what `gc` may give up.

Listings and documents are read here, and nothing is written. What is given up is decided by `plan`, what is deleted by `doom`:
both are pure, and may be asked again as newer versions and tags are taken in. Neither must ever name what a kept version holds.
Before it: `gc.py`, which commits and deletes; after it: `commit.py` and `tags.py`, which read.

Source: docs/spec/v1.md, "Giving up" (11.4).
"""

import re
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from chunkstore.errors import InvalidDataset, MissingObject, VersionExpired
from chunkstore.format.documents import seal
from chunkstore.format.fragments import Fragment
from chunkstore.format.pages import PAGES_PREFIX, page_id
from chunkstore.format.versions import Version, VersionDocument, tombstone_to_json, version_key, version_number
from chunkstore.history.pages import Pages
from chunkstore.history.tags import NUM_THREADS
from chunkstore.history.versions import read_document, read_latest
from chunkstore.store.interface import LeavesFiles, Listed, Store

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


class _Rows(NamedTuple):
    """Some fragments of a version, as lists of them are kept.

    Attributes:
        parts: Paths of their parts.
        contents: A hash; those of several lists add up to that of all together.
    """

    parts: tuple[str, ...]
    contents: int

    @classmethod
    def of(cls, fragments: Iterable[Fragment]) -> "_Rows":
        parts, contents = list[str](), 0
        for fragment in fragments:
            paths = tuple(part.path for part in fragment.parts)
            parts += paths
            contents += hash((fragment.id, fragment.first, paths))
        return cls(tuple(parts), contents)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be given up, beyond what a version has given up already.

    Attributes:
        versions: Numbers.
        fragments: Ids of fragments that only those versions hold.
        parts: Paths of parts that only those versions hold, in fragments that live on.
        orphans: Ids of fragments and paths of parts that no version ever held.
        pages: Ids of pages that none of the versions refers to.
    """

    versions: tuple[int, ...] = ()
    fragments: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    orphans: tuple[str, ...] = ()
    pages: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether it names nothing."""
        return not (self.versions or self.fragments or self.parts or self.orphans or self.pages)


@dataclass(frozen=True, slots=True)
class Doomed:
    """What lies in the store, was given up, and is held by nothing that is kept.

    Attributes:
        versions: Numbers of those whose document is no tombstone yet.
        fragments: Ids.
        parts: Paths of parts in other fragments.
        pages: Those that no version refers to that is kept.
        probes: What writers left when they tried the store out.
        unfinished: Files of writers that died, which are no objects.
        objects: How many objects this is, documents not counted.
        nbytes: Their size, and that of the unfinished files.
    """

    versions: tuple[int, ...]
    fragments: tuple[str, ...]
    parts: tuple[str, ...]
    pages: tuple[Listed, ...]
    probes: tuple[Listed, ...]
    unfinished: tuple[Listed, ...]
    objects: int
    nbytes: int


@dataclass(slots=True)
class Survey:
    """What was found.

    Attributes:
        stored: By fragment id, then by name of the part; "" for what belongs to no part.
        documents: Sizes of the documents of versions, by number.
        pages: By id.
        probes: What writers left when they tried the store out.
        unfinished: Files that are no objects yet.
        page_holders: By id of a page: bit n is set if version n refers to it.
        contents: By number of each version that was read: equal where fields and samples are.
        gone: Numbers of versions that are tombstones.
    """

    stored: dict[str, dict[str, Stored]] = field(default_factory=dict)
    documents: dict[int, int] = field(default_factory=dict)
    pages: dict[str, Listed] = field(default_factory=dict)
    probes: list[Listed] = field(default_factory=list)
    unfinished: list[Listed] = field(default_factory=list)
    page_holders: dict[str, int] = field(default_factory=dict)
    contents: dict[int, int] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    _inline: dict[str, int] = field(default_factory=dict)
    _paged: dict[str, _Rows] = field(default_factory=dict)

    def list_store(self, store: Store) -> None:
        """List what lies in the store. Memory is for parts, not for objects.

        Pages have to be listed before gc commits: whoever wrote one that is seen now tries for a number that is taken then, and
        will not use it again. So a page that is seen and that no version refers to is nobody's.

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
        self.pages = {
            identity: listed for listed in store.list(PAGES_PREFIX) if (identity := page_id(listed.key)) is not None
        }
        self.probes = list(store.list(PROBE_PREFIX))
        if isinstance(store, LeavesFiles):
            # the root may be a folder that holds other things too
            self.unfinished = [*store.list_unfinished(deep=False)]
            for prefix in ("fragments", "_chunkstore"):
                self.unfinished += store.list_unfinished(prefix)

    def read_versions(self, store: Store, latest: Version, tagged: Collection[int]) -> None:
        """Read the versions up to `latest` that are not known yet, but for those given up that no tag names.

        Raises:
            InvalidDataset: a document or page is damaged, or is a tombstone that no version accounts for.
            MissingObject: a document or page is absent.
        """
        condemned = set(latest.condemned_versions)
        known = self.contents.keys() | self.gone | (condemned - set(tagged))
        wanted = [number for number in range(1, latest.number) if number not in known]

        def read(number: int) -> VersionDocument | None:
            try:
                return read_document(store, number)
            except VersionExpired:
                if number in condemned or number in read_latest(store).condemned_versions:
                    return None
                raise InvalidDataset(
                    f"{store.url}/{version_key(number)} is a tombstone, and no version says that gc dropped it; nothing can be"
                    " given up as long as it is unknown what it held: restore the document"
                ) from None

        with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="chunkstore-gc") as pool:
            for number, document in zip(wanted, pool.map(read, wanted), strict=True):
                if document is None or not self._add_document(store, document):
                    self.gone.add(number)
        self.add(latest)

    def add(self, version: Version) -> None:
        """Take in what a version holds."""
        self._add(version.number, version.page_ids, _Rows.of(version.fragments), 0, version)

    def _add_document(self, store: Store, document: VersionDocument) -> bool:
        """Take in what a version holds, reading those of its pages that no other had; whether it was not dropped meanwhile."""
        new = [ref for ref in document.pages if ref.id not in self._paged]
        try:
            for page in Pages(store).fragments(new):
                self._paged[page.ref.id] = _Rows.of(page.fragments)
        except MissingObject:
            # another gc may have dropped the version after its document was read
            if document.inline.number in read_latest(store).condemned_versions:
                return False
            raise
        paged = sum(self._paged[ref.id].contents for ref in document.pages)
        ids = {ref.id for ref in document.pages} | {ref.id for ref in document.condemned_pages}
        self._add(document.inline.number, ids, _Rows.of(document.inline.fragments), paged, document.inline)
        return True

    def _add(self, number: int, pages: Collection[str], rows: _Rows, paged: int, version: Version) -> None:
        for page in pages:
            self.page_holders[page] = self.page_holders.get(page, 0) | 1 << number
        for path in rows.parts:
            self._inline[path] = self._inline.get(path, 0) | 1 << number
        self.contents[number] = hash((rows.contents + paged, repr(version.schema)))

    def holders(self) -> dict[str, int]:
        """By path of each part: bit n is set if version n holds it."""
        holders = dict(self._inline)
        for page, rows in self._paged.items():
            for path in rows.parts:
                holders[path] = holders.get(path, 0) | self.page_holders[page]
        return holders


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
    every = survey.holders()
    living = {_fragment_of(path) for path, holders in every.items() if holders & mask}
    condemned = {*latest.condemned_fragments, *latest.condemned_parts}
    fragments, parts = set[str](), set[str]()
    for path, holders in every.items():
        if not holders & mask:
            fragment = _fragment_of(path)
            if fragment in living:
                parts.add(path)
            else:
                fragments.add(fragment)
    held = {_fragment_of(path) for path in every}
    orphans = set[str]()
    for fragment, stored in survey.stored.items():
        if fragment not in held:
            if max(each.modified for each in stored.values()) <= oldest:
                orphans.add(fragment)
        elif fragment in living:
            paths = {f"fragments/{fragment}/{name}": each.modified for name, each in stored.items() if name}
            orphans |= {path for path, modified in paths.items() if path not in every and modified <= oldest}
    return Plan(
        tuple(sorted(set(alive) - kept)),
        tuple(sorted(fragments - condemned)),
        tuple(sorted(parts - condemned)),
        tuple(sorted(orphans - condemned)),
        tuple(
            identity
            for identity, page in survey.pages.items()
            if identity not in survey.page_holders and page.modified <= oldest
        ),
    )


def doom(survey: Survey, latest: Version, tagged: Collection[int], *, oldest: float, committed: bool) -> Doomed:
    """What to delete, of what `latest` and those before it gave up: all that no version holds that is kept or tagged.

    Args:
        survey: What was found.
        latest: The version to decide by.
        tagged: Numbers of versions that are spared.
        oldest: Time before which probes and unfinished files were left.
        committed: Whether gc committed `latest` itself, after the pages were listed; else no page is deleted.
    """
    tagged = survey.contents.keys() & set(tagged)
    condemned = set(latest.condemned_versions)
    mask = _mask(number for number in survey.contents if number not in condemned or number in tagged)
    spared = {path for path, holders in survey.holders().items() if holders & mask}
    living = {_fragment_of(path) for path in spared}
    fragments = survey.stored.keys() & set(latest.condemned_fragments) - living
    parts = {path: _stored(survey, path) for path in set(latest.condemned_parts) - spared}
    found = {path: stored for path, stored in parts.items() if stored and _fragment_of(path) not in fragments}
    probes = [listed for listed in survey.probes if listed.modified <= oldest]
    unfinished = [listed for listed in survey.unfinished if listed.modified <= oldest]
    pages = [
        page for identity, page in survey.pages.items() if committed and not survey.page_holders.get(identity, 0) & mask
    ]
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
        pages=tuple(pages),
        probes=tuple(probes),
        unfinished=tuple(unfinished),
        objects=sum(stored.objects for stored in everything) + len(probes) + len(pages),
        nbytes=sum(stored.nbytes for stored in everything)
        + sum(listed.nbytes for listed in (*probes, *unfinished, *pages)),
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
