"""Version documents and object lists: what a version of a dataset consists of.

A version document names, one line a fragment, everything a reader needs to plan an epoch, or the pages that do; the object list
of a part names every stored object with its size and checksum. Both are sealed (`documents.py`) and read as untrusted. Never
does I/O; `history/commit.py` writes them in the order that makes a commit atomic.

Source: docs/spec/v1.md, "Version documents", "Pages".
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from chunkstore.errors import InvalidDataset, UnsupportedFormat, VersionExpired
from chunkstore.format.documents import Json, Node
from chunkstore.format.fragments import MAX_SAMPLES, UUID, Fragment, Part
from chunkstore.format.pages import (
    MAX_INLINE,
    MAX_PAGES,
    PAGES,
    Condemnations,
    Condemned,
    CondemnedPages,
    CondemnedRef,
    FragmentPage,
    PageRef,
    check_refs,
)
from chunkstore.format.schema import MAX_FIELDS, Array, Ragged, Schema
from chunkstore.format.statistics import Statistics

__all__ = [
    "FORMAT",
    "LATEST_KEY",
    "MAX_SAMPLES",
    "OBJECTS_NAME",
    "FieldStatistics",
    "Fragment",
    "Part",
    "StoredObject",
    "Version",
    "VersionDocument",
    "objects_from_json",
    "objects_to_json",
    "tombstone_to_json",
    "version_key",
    "version_number",
]

FORMAT = 1
LATEST_KEY = "_chunkstore/latest.json"
OBJECTS_NAME = "_objects.json"
TOMBSTONE = "tombstone"
_KEY = re.compile(r"(?!\.{1,2}(/|\Z))[A-Za-z0-9_.-]{1,200}(/(?!\.{1,2}(/|\Z))[A-Za-z0-9_.-]{1,200})*")
_MAX_KEY = 900
_MAX_REQUIREMENTS = 1000

FieldStatistics = Mapping[str, Statistics]
"""Statistics of one field: of its "values", of its samples' "lengths", or both."""


def version_key(number: int) -> str:
    """Key of the document of version `number`."""
    return f"_chunkstore/versions/{number:020d}.json"


def version_number(key: str) -> int | None:
    """The number in a version document's key; None for any other key."""
    match = re.fullmatch(r"_chunkstore/versions/([0-9]{20})\.json", key)
    return int(match[1]) if match else None


def tombstone_to_json(number: int) -> dict[str, Json]:
    """What `gc` puts in the place of the document of a version that it has dropped, so that the number stays taken."""
    return {"format": FORMAT, "requires": [TOMBSTONE], "number": number}


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable state of a dataset.

    It has all its fragments, wherever they are stored. What is condemned is complete, too, but the pages of it are not read
    before somebody looks: who opens a dataset never needs them.

    Attributes:
        dataset: The dataset's UUID, the same in every version.
        number: 1, 2, 3…
        parent: The version this one was made from; None for the first.
        writer: UUID of the writer, by which an unclear commit is recognised.
        time: UTC, ISO 8601.
        message: What the writer said.
        schema: Fields and types.
        fragments: In order: the samples of the dataset are theirs, one after another.
        statistics: Per field.
        next_sample_id: The sample id the next fragment begins with; never goes back.
        condemned_fragments: Ids of the fragments that `gc` has given up for good.
        condemned_versions: Numbers of the versions that `gc` has given up.
        condemned_parts: Paths of parts that `gc` has given up within fragments that live on.
        pages: Pages in which a row of fragments stood when this, or the version that it was made from, was read. Those that
            still fit are shared by the version that is committed.
        condemned_pages: The same of what is condemned.
    """

    dataset: str
    number: int
    parent: int | None
    writer: str
    time: str
    message: str
    schema: Schema
    fragments: tuple[Fragment, ...]
    statistics: Mapping[str, FieldStatistics]
    next_sample_id: int
    condemned_fragments: Sequence[str] = ()
    condemned_versions: Sequence[int] = ()
    condemned_parts: Sequence[str] = ()
    pages: tuple[FragmentPage, ...] = field(default=(), repr=False, compare=False)
    condemned_pages: CondemnedPages = field(default_factory=CondemnedPages, repr=False, compare=False)
    num_samples: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_samples", sum(fragment.samples for fragment in self.fragments))

    @property
    def page_ids(self) -> frozenset[str]:
        """Ids of the pages that its document refers to."""
        return frozenset(page.ref.id for page in self.pages) | {ref.id for ref in self.condemned_pages.refs}

    def to_json(self) -> dict[str, Json]:
        """The document, unsealed, with everything in it: without pages."""
        condemned = Condemned(
            tuple(self.condemned_fragments), tuple(self.condemned_versions), tuple(self.condemned_parts)
        )
        return self.to_paged_json((), self.fragments, (), condemned)

    def to_paged_json(
        self,
        pages: Sequence[PageRef],
        fragments: Sequence[Fragment],
        condemned_pages: Sequence[CondemnedRef],
        condemned: Condemned,
    ) -> dict[str, Json]:
        """The document, unsealed, that refers to pages for what is not given here."""
        named = condemned.to_json()
        if condemned_pages:
            named["pages"] = [ref.to_json() for ref in condemned_pages]
        return {
            "format": FORMAT,
            "requires": [PAGES] if pages or condemned_pages else [],
            "dataset": self.dataset,
            "number": self.number,
            "parent": self.parent,
            "writer": self.writer,
            "time": self.time,
            "message": self.message,
            "schema": self.schema.to_json(),
            "statistics": {
                name: {kind: statistics.to_json() for kind, statistics in kinds.items()}
                for name, kinds in self.statistics.items()
            },
            "next_sample_id": self.next_sample_id,
            "condemned": named,
            **({"pages": [ref.to_json() for ref in pages]} if pages else {}),
            "fragments": [fragment.to_json() for fragment in fragments],
        }

    @classmethod
    def from_json(cls, node: Node) -> "Version":
        """Read an unsealed document that refers to no pages; see `VersionDocument` for all others.

        Raises:
            InvalidDataset: it is damaged or contradicts itself.
            UnsupportedFormat: it is of another format, or requires what this release does not know, or pages.
            VersionExpired: it is a tombstone.
        """
        document = VersionDocument.from_json(node)
        if document.pages or document.condemned_pages:
            raise UnsupportedFormat(f"{node.where}: refers to pages, which are objects of their own")
        return document.complete(())


@dataclass(frozen=True, slots=True)
class VersionDocument:
    """A version as far as its document goes: what stands in pages is referred to, not known.

    Attributes:
        inline: The version without what is in pages.
        pages: Where its first fragments are listed.
        condemned_pages: Where more of what is condemned is listed.
        node: The document's place, for errors.
    """

    inline: Version
    pages: tuple[PageRef, ...]
    condemned_pages: tuple[CondemnedRef, ...]
    node: Node = field(repr=False)

    @property
    def num_samples(self) -> int:
        """Samples of the version, those of its pages included."""
        return self.inline.num_samples + sum(ref.samples for ref in self.pages)

    @classmethod
    def from_json(cls, node: Node) -> "VersionDocument":
        """Read an unsealed document.

        Raises:
            InvalidDataset: it is damaged.
            UnsupportedFormat: it is of another format, or requires what this release does not know.
            VersionExpired: it is a tombstone.
        """
        requires = _requirements(node)
        parent = node.member("parent")
        named = node.member("condemned")
        condemned = Condemned.from_json(named, at_most=MAX_INLINE)
        version = Version(
            dataset=node.member("dataset").string(UUID),
            number=node.member("number").integer(1),
            parent=None if parent.value is None else parent.integer(1),
            writer=node.member("writer").string(UUID),
            time=node.member("time").string(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?Z"),
            message=node.member("message").string(),
            schema=Schema.from_json(node.member("schema")),
            fragments=tuple(Fragment.from_json(item) for item in node.member("fragments").items(at_most=MAX_INLINE)),
            statistics={
                name: {kind: _statistics(member) for kind, member in kinds.members()}
                for name, kinds in node.member("statistics").members(at_most=MAX_FIELDS)
            },
            next_sample_id=node.member("next_sample_id").integer(0, MAX_SAMPLES),
            condemned_fragments=condemned.fragments,
            condemned_versions=condemned.versions,
            condemned_parts=condemned.parts,
        )
        pages: tuple[PageRef, ...] = ()
        condemned_pages: tuple[CondemnedRef, ...] = ()
        if PAGES in requires:
            if PAGES in node:
                pages = tuple(PageRef.from_json(item) for item in node.member(PAGES).items(at_most=MAX_PAGES))
            if PAGES in named:
                condemned_pages = tuple(
                    CondemnedRef.from_json(item) for item in named.member(PAGES).items(at_most=MAX_PAGES)
                )
            check_refs((*pages, *condemned_pages), node)
        document = cls(version, pages, condemned_pages, Node(None, node.where))
        if document.num_samples > MAX_SAMPLES:
            node.fail("more than 2^62 samples")
        _check_statistics(version, node)
        return document

    def complete(
        self,
        pages: Sequence[FragmentPage],
        read_condemned: Callable[[Sequence[CondemnedRef]], Sequence[Condemned]] = lambda _: (),
    ) -> Version:
        """The whole version.

        Args:
            pages: Those that the document refers to, in its order.
            read_condemned: Reads pages of what is condemned, when somebody wants to know.

        Raises:
            InvalidDataset: the pages and the document contradict each other.
        """
        inline = self.inline
        if pages:
            fragments = (*(f for page in pages for f in page.fragments), *inline.fragments)
            inline = replace(inline, fragments=fragments, pages=tuple(pages))
        if self.condemned_pages:
            paged = CondemnedPages(self.condemned_pages, read_condemned)
            inline = replace(
                inline,
                condemned_fragments=Condemnations("fragments", paged, tuple(inline.condemned_fragments)),
                condemned_versions=Condemnations("versions", paged, tuple(inline.condemned_versions)),
                condemned_parts=Condemnations("parts", paged, tuple(inline.condemned_parts)),
                condemned_pages=paged,
            )
        _check_consistency(inline, self.node)
        return inline


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of a part: its size and the crc32 of all its bytes.

    Not crc32c: chunks end in their own, and the crc32c of such bytes is a constant that would tell no shard from another.
    """

    nbytes: int
    crc32: int


def objects_to_json(objects: Mapping[str, StoredObject]) -> dict[str, Json]:
    """The object list of a part: key relative to the part → [nbytes, crc32 in hexadecimal]."""
    return {"objects": {key: [stored.nbytes, f"{stored.crc32:08x}"] for key, stored in objects.items()}}


def objects_from_json(node: Node) -> dict[str, StoredObject]:
    """Read an unsealed object list, or raise InvalidDataset."""
    objects = {}
    for key, member in node.member("objects").members():
        if len(key) > _MAX_KEY or not _KEY.fullmatch(key):
            member.fail("not a key inside the part")
        nbytes, crc32 = member.items(length=2)
        objects[key] = StoredObject(nbytes.integer(), int(crc32.string("[0-9a-f]{8}"), 16))
    return objects


def _statistics(node: Node) -> Statistics:
    try:
        return Statistics.from_json(node.value)
    except InvalidDataset as error:
        node.fail(str(error))


def _check_statistics(version: Version, node: Node) -> None:
    """Refuse statistics that no commit could merge: of other fields, of other kinds, of floats for integers."""
    if set(version.statistics) != set(version.schema):
        node.fail("statistics are not of the schema's fields")
    for name, field_type in version.schema.items():
        kinds = version.statistics[name]
        numbers = isinstance(field_type, Array | Ragged)
        if set(kinds) != {
            *(["values"] if numbers else []),
            *(["lengths"] if not isinstance(field_type, Array) else []),
        }:
            node.fail(f"statistics of {name}: {', '.join(kinds) or 'none'}, which are not those of its type")
        floats = isinstance(field_type, Array | Ragged) and "float" in field_type.dtype
        for kind, statistics in kinds.items():
            if statistics.min is not None and isinstance(statistics.min, float) is not (floats and kind == "values"):
                node.fail(f"statistics of {name}: {kind} from {statistics.min}, which is no number of its type")


def _requirements(node: Node) -> set[str]:
    """What a reader must know, all of it known."""
    if (number := node.member("format").integer()) != FORMAT:
        raise UnsupportedFormat(
            f"{node.where}: format {number}; this release reads format {FORMAT}: upgrade chunkstore"
        )
    requires = set(node.member("requires").strings(at_most=_MAX_REQUIREMENTS))
    if TOMBSTONE in requires:
        raise VersionExpired(f"{node.where}: version {node.member('number').integer(1)} was dropped by gc")
    if unknown := sorted(requires - {PAGES}):
        raise UnsupportedFormat(
            f"{node.where}: requires {', '.join(unknown)[:400]}, unknown to this release: upgrade chunkstore"
        )
    return requires


def _check_consistency(version: Version, node: Node) -> None:
    names = set(version.schema)
    if len({fragment.id for fragment in version.fragments}) != len(version.fragments):
        node.fail("a fragment is named twice")
    sound: set[tuple[tuple[str, ...], ...]] = set()
    for fragment in version.fragments:
        if (sets := tuple([part.fields for part in fragment.parts])) not in sound:
            held = [name for fields in sets for name in fields]
            if not names <= set(held) or len(set(held)) != len(held):
                node.fail(f"fragment {fragment.id} holds the fields {', '.join(held)}, not each of the schema's once")
            sound.add(sets)
    end, ascending = 0, True
    for fragment in version.fragments:
        ascending &= fragment.first >= end
        end = fragment.first + fragment.samples
    if not ascending:  # compacted, or gone back to: nothing is wrong with that
        spans = sorted((fragment.first, fragment.first + fragment.samples) for fragment in version.fragments)
        end = MAX_SAMPLES + 1 if any(a[1] > b[0] for a, b in pairwise(spans)) else spans[-1][1]
    if end > version.next_sample_id:
        node.fail("sample ids are used twice")
