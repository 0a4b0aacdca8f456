"""What of a version goes into pages, and what into its document.

A version shares the pages of the one it was made from as far as their fragments still stand at its beginning. What stands after
them lies in the document until it grows too long; then it goes to fresh pages. A last page with room to spare is written anew
with what follows it, so that pages are full and few, and a commit writes one of them at most for what one append adds. Pure:
the bytes are written by `history/commit.py`.

Source: docs/spec/v1.md, "Pages"; docs/decisions/004-pages.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from chunkstore.format.documents import seal, to_bytes
from chunkstore.format.fragments import Fragment
from chunkstore.format.pages import (
    PAGE_NBYTES,
    Condemned,
    CondemnedPage,
    CondemnedPages,
    FragmentPage,
    condemned_to_pages,
    fragments_to_pages,
    page_key,
    row_nbytes,
)
from chunkstore.format.versions import Version

INLINE_NBYTES = 16 << 10
"""Bytes of fragments in a document above which they go to pages."""
INLINE_CONDEMNED_NBYTES = 8 << 10
"""The same of what is condemned."""


@dataclass(frozen=True, slots=True)
class PagedVersion:
    """A version in the form in which it is stored.

    Attributes:
        version: The version, its `pages` and `condemned_pages` being those of the document.
        document: Bytes of its document.
        new_pages: Key and bytes of each page that must stand before the document does.
    """

    version: Version
    document: bytes
    new_pages: tuple[tuple[str, bytes], ...]


def to_pages(version: Version, new_id: Callable[[], str]) -> PagedVersion:
    """Divide a version between its document and pages.

    Args:
        version: What is condemned is looked at, and so read if it was not yet.
        new_id: Names a page; every call must give another name, used nowhere before.
    """
    pages, inline, new = _page_fragments(version, new_id)
    condemned_pages, condemned, more = _page_condemned(version, new_id)
    refs = [page.ref for page in condemned_pages]
    document = version.to_paged_json([page.ref for page in pages], inline, refs, condemned)
    known = {page.ref: page.condemned for page in condemned_pages}
    paged = CondemnedPages(refs, lambda asked: [known[ref] for ref in asked])
    stored = replace(
        version,
        condemned_fragments=tuple(version.condemned_fragments),
        condemned_versions=tuple(version.condemned_versions),
        condemned_parts=tuple(version.condemned_parts),
        pages=tuple(pages),
        condemned_pages=paged,
    )
    return PagedVersion(stored, seal(document), (*new, *more))


_Divided = tuple[list[FragmentPage], Sequence[Fragment], list[tuple[str, bytes]]]


def _page_fragments(version: Version, new_id: Callable[[], str]) -> _Divided:
    """Pages, the fragments that stay in the document, and what is to be written."""
    kept, begin = [], 0
    for page in version.pages:
        if version.fragments[begin : begin + len(page.fragments)] != page.fragments:
            break
        kept.append(page)
        begin += len(page.fragments)
    inline = version.fragments[begin:]
    if sum(len(to_bytes(fragment.to_json())) + 1 for fragment in inline) <= INLINE_NBYTES:
        return kept, inline, []
    if kept and kept[-1].ref.nbytes + sum(map(row_nbytes, inline)) <= PAGE_NBYTES:
        inline = (*kept.pop().fragments, *inline)
    made = fragments_to_pages(inline, new_id)
    return [*kept, *(page for page, _ in made)], (), [(page_key(page.ref.id), data) for page, data in made]


_CondemnedDivided = tuple[list[CondemnedPage], Condemned, list[tuple[str, bytes]]]


def _page_condemned(version: Version, new_id: Callable[[], str]) -> _CondemnedDivided:
    """Pages, what the document itself names as condemned, and what is to be written."""
    named = Condemned(
        tuple(version.condemned_fragments), tuple(version.condemned_versions), tuple(version.condemned_parts)
    )
    fragments, versions, parts = set(named.fragments), set(named.versions), set(named.parts)
    kept = []
    for page in version.condemned_pages.pages():
        some = page.condemned
        if fragments.issuperset(some.fragments) and versions.issuperset(some.versions) and parts.issuperset(some.parts):
            kept.append(page)
            fragments.difference_update(some.fragments)
            versions.difference_update(some.versions)
            parts.difference_update(some.parts)
    inline = Condemned(
        tuple(item for item in named.fragments if item in fragments),
        tuple(number for number in named.versions if number in versions),
        tuple(path for path in named.parts if path in parts),
    )
    if (nbytes := len(to_bytes(inline.to_json()))) <= INLINE_CONDEMNED_NBYTES:
        return kept, inline, []
    if kept and kept[-1].ref.nbytes + nbytes <= PAGE_NBYTES:
        last = kept.pop().condemned
        inline = Condemned(
            (*last.fragments, *inline.fragments), (*last.versions, *inline.versions), (*last.parts, *inline.parts)
        )
    made = condemned_to_pages(inline, new_id)
    return [*kept, *(page for page, _ in made)], Condemned(), [(page_key(page.ref.id), data) for page, data in made]
