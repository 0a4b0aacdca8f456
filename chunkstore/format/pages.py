"""Pages: lists of a version that are too long for its document, in immutable objects that later versions share.

The fragments of pages stand before those in the document, so an append leaves the pages of its parent as they are, and what it
writes does not grow with the dataset. What `gc` has condemned is paged likewise, and is read by those alone who commit or
collect. A document says of every page its size, checksum and counts; nothing is believed of a page, or allocated for it, before
they are checked. Never does I/O, and never names a page: whoever commits gives fresh names. `fragments.py` is below it;
`versions.py` refers to pages, `history/pages.py` reads them.

Source: docs/spec/v1.md, "Pages"; docs/decisions/004-pages.md.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload
from zlib import crc32

from chunkstore.errors import InvalidDataset
from chunkstore.format.documents import Json, Node, seal, to_bytes, unseal
from chunkstore.format.fragments import MAX_SAMPLES, PART_PATH, UUID, Fragment, fragment_to_row, fragments_from_rows

PAGES = "pages"
PAGES_PREFIX = "_chunkstore/pages"
PAGE_NBYTES = 1 << 16
"""What a writer fills a page with, unless a single row is larger."""
MAX_PAGE_NBYTES = 1 << 21
"""A row of a fragment of 4,096 parts, each of one field with a long name, takes half of it."""
MAX_PAGES_NBYTES = 1 << 30
"""Bytes of all pages of a version together."""
MAX_PAGES = 1 << 15
"""Of a version: twice as many as `MAX_PAGES_NBYTES` fills."""
MAX_INLINE = 1 << 16
"""Items of a list in a version's document; writers leave some kilobytes there."""
_MIN_ROW_NBYTES = len('["') + 32 + len('",0,1,1,[]]')
_MIN_CONDEMNED_NBYTES = len("1,")
_FRAME_NBYTES = 200
"""Bytes of a page besides its rows, without the sets of fields."""


def page_key(identity: str) -> str:
    """Key of the page of this id."""
    return f"{PAGES_PREFIX}/{identity}.json"


def page_id(key: str) -> str | None:
    """The id in a page's key; None for any other key."""
    match = re.fullmatch(rf"{PAGES_PREFIX}/({UUID})\.json", key)
    return match[1] if match else None


@dataclass(frozen=True, slots=True)
class PageRef:
    """What a version's document says of a page of fragments.

    Attributes:
        id: Its name, 32 hexadecimal digits.
        fragments: How many it lists, at least 1.
        samples: How many these have together.
        nbytes: Stored bytes of the page.
        crc32: Of these bytes.
    """

    id: str
    fragments: int
    samples: int
    nbytes: int
    crc32: int

    def to_json(self) -> dict[str, Json]:
        """The stored form."""
        return {"fragments": self.fragments, "samples": self.samples, **_stored_to_json(self)}

    @classmethod
    def from_json(cls, node: Node) -> "PageRef":
        """Read the stored form, or raise InvalidDataset."""
        identity, nbytes, checksum = _stored_from_json(node)
        fragments = node.member("fragments").integer(1, nbytes // _MIN_ROW_NBYTES)
        return cls(identity, fragments, node.member("samples").integer(fragments, MAX_SAMPLES), nbytes, checksum)


@dataclass(frozen=True, slots=True)
class CondemnedRef:
    """What a version's document says of a page of what `gc` has condemned: its name, counts, size and checksum."""

    id: str
    fragments: int
    versions: int
    parts: int
    nbytes: int
    crc32: int

    def to_json(self) -> dict[str, Json]:
        """The stored form."""
        counts: dict[str, Json] = {"fragments": self.fragments, "versions": self.versions, "parts": self.parts}
        return {**counts, **_stored_to_json(self)}

    @classmethod
    def from_json(cls, node: Node) -> "CondemnedRef":
        """Read the stored form, or raise InvalidDataset."""
        identity, nbytes, checksum = _stored_from_json(node)
        most = nbytes // _MIN_CONDEMNED_NBYTES
        fragments, versions, parts = (node.member(kind).integer(0, most) for kind in ("fragments", "versions", "parts"))
        return cls(identity, fragments, versions, parts, nbytes, checksum)


@dataclass(frozen=True, slots=True)
class FragmentPage:
    """A page and the fragments that it lists."""

    ref: PageRef
    fragments: tuple[Fragment, ...]


@dataclass(frozen=True, slots=True)
class Condemned:
    """What `gc` has given up for good.

    Attributes:
        fragments: Ids of fragments.
        versions: Numbers of versions.
        parts: Paths of parts within fragments that live on.
    """

    fragments: tuple[str, ...] = ()
    versions: tuple[int, ...] = ()
    parts: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """The stored form; parts only if there are any."""
        members: dict[str, Json] = {"fragments": list(self.fragments), "versions": list(self.versions)}
        return {**members, "parts": list(self.parts)} if self.parts else members

    @classmethod
    def from_json(cls, node: Node, *, at_most: int | None = None) -> "Condemned":
        """Read the stored form, each list of no more than `at_most`, or raise InvalidDataset."""
        return cls(
            node.member("fragments").strings(UUID, at_most=at_most),
            node.member("versions").integers(1, at_most=at_most),
            node.member("parts").strings(PART_PATH, at_most=at_most) if "parts" in node else (),
        )


@dataclass(frozen=True, slots=True)
class CondemnedPage:
    """A page and what it lists as condemned."""

    ref: CondemnedRef
    condemned: Condemned


class CondemnedPages:
    """The pages of what a version has condemned, read when they are first asked for, and once.

    Args:
        refs: What the document says of them.
        read: Reads them.
    """

    def __init__(
        self,
        refs: Sequence[CondemnedRef] = (),
        read: Callable[[Sequence[CondemnedRef]], Sequence[Condemned]] = lambda _: (),
    ) -> None:
        self.refs = tuple(refs)
        self._read = read
        self._pages: tuple[CondemnedPage, ...] | None = None

    def pages(self) -> tuple[CondemnedPage, ...]:
        """The pages with their contents; raises as reading them does."""
        if self._pages is None:
            self._pages = tuple(map(CondemnedPage, self.refs, self._read(self.refs) if self.refs else ()))
        return self._pages


_Item = TypeVar("_Item")


class Condemnations(Sequence[_Item], Generic[_Item]):
    """One list of what a version has condemned, the part of it that lies in pages being read when first looked at.

    Args:
        kind: Which list: an attribute of `Condemned`.
        paged: The pages.
        inline: What the document itself names.
    """

    def __init__(self, kind: str, paged: CondemnedPages, inline: tuple[_Item, ...]) -> None:
        self._kind, self._paged, self._inline = kind, paged, inline

    def _all(self) -> tuple[_Item, ...]:
        pages = [getattr(page.condemned, self._kind) for page in self._paged.pages()]
        return (*(item for page in pages for item in page), *self._inline)

    def __len__(self) -> int:
        return sum(int(getattr(ref, self._kind)) for ref in self._paged.refs) + len(self._inline)

    @overload
    def __getitem__(self, index: int) -> _Item: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[_Item, ...]: ...

    def __getitem__(self, index: int | slice) -> _Item | tuple[_Item, ...]:
        return self._all()[index]

    def __iter__(self) -> Iterator[_Item]:
        return iter(self._all())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Condemnations | tuple) and self._all() == tuple(other)

    def __hash__(self) -> int:
        return hash(self._all())

    def __repr__(self) -> str:
        return f"<{len(self)} condemned {self._kind}>"


def fragments_to_pages(fragments: Sequence[Fragment], new_id: Callable[[], str]) -> list[tuple[FragmentPage, bytes]]:
    """Pages of these fragments in this order, none larger than `PAGE_NBYTES` unless by a single row; with their bytes."""
    pages = []
    for some in _filled(fragments, row_nbytes):
        sets = {fields: number for number, fields in enumerate({p.fields: None for f in some for p in f.parts})}
        data = seal({"fields": [list(s) for s in sets], "fragments": [fragment_to_row(f, sets) for f in some]})
        samples = sum(f.samples for f in some)
        pages.append((FragmentPage(PageRef(new_id(), len(some), samples, len(data), crc32(data)), some), data))
    return pages


def row_nbytes(fragment: Fragment) -> int:
    """Bytes that a fragment takes in a page at most, comma and its sets of fields included."""
    return len(to_bytes(fragment_to_row(fragment, {part.fields: 0 for part in fragment.parts}))) + 10


def fragments_from_page(data: bytes, ref: PageRef, where: str) -> tuple[Fragment, ...]:
    """The fragments in a page's bytes, or InvalidDataset if the page is not the one that the document refers to."""
    node = _opened(data, ref, where)
    sets = [names.strings() for names in node.member("fields").items()]
    fragments = fragments_from_rows(node.member("fragments"), sets)
    if (len(fragments), sum(f.samples for f in fragments)) != (ref.fragments, ref.samples):
        node.fail(f"not the {ref.fragments} fragments of {ref.samples} samples that the version says")
    return fragments


def condemned_to_pages(condemned: Condemned, new_id: Callable[[], str]) -> list[tuple[CondemnedPage, bytes]]:
    """Pages of what is condemned, none larger than `PAGE_NBYTES`; with their bytes."""
    items: list[tuple[str, Any]] = [("fragments", item) for item in condemned.fragments]
    items += [("versions", item) for item in condemned.versions]
    items += [("parts", item) for item in condemned.parts]
    pages = []
    for some in _filled(items, lambda item: len(to_bytes(item[1])) + 1):
        page = Condemned(*(tuple(item for kind, item in some if kind == k) for k in ("fragments", "versions", "parts")))
        data = seal(page.to_json())
        counts = len(page.fragments), len(page.versions), len(page.parts)
        pages.append((CondemnedPage(CondemnedRef(new_id(), *counts, len(data), crc32(data)), page), data))
    return pages


def condemned_from_page(data: bytes, ref: CondemnedRef, where: str) -> Condemned:
    """What a page names as condemned, or InvalidDataset if the page is not the one that the document refers to."""
    node = _opened(data, ref, where)
    found = Condemned.from_json(node)
    if (len(found.fragments), len(found.versions), len(found.parts)) != (ref.fragments, ref.versions, ref.parts):
        node.fail("not as many of each kind as the version says")
    return found


def check_refs(refs: Iterable[PageRef | CondemnedRef], node: Node) -> None:
    """Refuse references that together ask for more than a version may have, before anything of it is read."""
    seen: set[str] = set()
    nbytes = 0
    for ref in refs:
        if ref.id in seen:
            node.fail(f"page {ref.id} is named twice")
        seen.add(ref.id)
        nbytes += ref.nbytes
    if nbytes > MAX_PAGES_NBYTES:
        node.fail(f"pages of {nbytes} bytes; a version has at most {MAX_PAGES_NBYTES}")


_Listed = TypeVar("_Listed")


def _filled(items: Sequence[_Listed], nbytes_of: Callable[[_Listed], int]) -> Iterator[tuple[_Listed, ...]]:
    """The items in groups that each fill a page."""
    some: list[_Listed] = []
    room = PAGE_NBYTES - _FRAME_NBYTES
    for item in items:
        nbytes = nbytes_of(item)
        if some and nbytes > room:
            yield tuple(some)
            some, room = [], PAGE_NBYTES - _FRAME_NBYTES
        some.append(item)
        room -= nbytes
    if some:
        yield tuple(some)


def _stored_to_json(ref: PageRef | CondemnedRef) -> dict[str, Json]:
    return {"id": ref.id, "nbytes": ref.nbytes, "crc32": f"{ref.crc32:08x}"}


def _stored_from_json(node: Node) -> tuple[str, int, int]:
    return (
        node.member("id").string(UUID),
        node.member("nbytes").integer(1, MAX_PAGE_NBYTES),
        int(node.member("crc32").string("[0-9a-f]{8}"), 16),
    )


def _opened(data: bytes, ref: PageRef | CondemnedRef, where: str) -> Node:
    if len(data) != ref.nbytes or (computed := crc32(data)) != ref.crc32:
        found = f"{len(data)} bytes" if len(data) != ref.nbytes else f"crc32 {computed:08x}"
        raise InvalidDataset(
            f"{where}: the version says {ref.nbytes} bytes of crc32 {ref.crc32:08x}, found {found}; restore the object"
        )
    return unseal(data, where)
