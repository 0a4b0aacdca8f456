"""Pages: what a version shares with those before it comes back as it was, and nothing of a page is believed unchecked."""

import copy
from dataclasses import replace
from itertools import accumulate
from typing import Any
from zlib import crc32

import pytest
from bare_fragments import SCHEMA, STATISTICS, bare_fragment, bare_fragments, counting_ids
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chunkstore.errors import InvalidDataset, UnsupportedFormat
from chunkstore.format import fragments as fragments_module
from chunkstore.format.documents import parse_json, seal, to_bytes, unseal
from chunkstore.format.fragments import MAX_SAMPLES, Fragment, Part, fragment_to_row, fragments_from_rows
from chunkstore.format.pages import (
    MAX_PAGE_NBYTES,
    MAX_PAGES,
    PAGE_NBYTES,
    Condemned,
    CondemnedRef,
    FragmentPage,
    PageRef,
    condemned_from_page,
    condemned_to_pages,
    fragments_from_page,
    fragments_to_pages,
    page_id,
    page_key,
)
from chunkstore.format.paging import INLINE_CONDEMNED_NBYTES, INLINE_NBYTES, PagedVersion, to_pages
from chunkstore.format.versions import Version, VersionDocument

A = "a" * 32


def version_of(fragments: tuple[Fragment, ...], **changes: Any) -> Version:
    end = max((f.first + f.samples for f in fragments), default=0)
    made = Version("d" * 32, 3, 2, "e" * 32, "2026-01-02T03:04:05Z", "", SCHEMA, fragments, STATISTICS, end)
    return replace(made, **changes)


def read_back(paged: PagedVersion, *older: PagedVersion) -> Version:
    stored = {key: data for each in (*older, paged) for key, data in each.new_pages}
    document = VersionDocument.from_json(unseal(paged.document, "document"))
    pages = [FragmentPage(r, fragments_from_page(stored[page_key(r.id)], r, r.id)) for r in document.pages]

    def condemned(refs: Any) -> list[Condemned]:
        return [condemned_from_page(stored[page_key(ref.id)], ref, ref.id) for ref in refs]

    return document.complete(pages, condemned)


def document_of(paged: PagedVersion) -> Any:
    return unseal(paged.document, "document").value


# Rows

NAMES = st.text("abc_0", min_size=1, max_size=4)
PARTS = st.builds(
    lambda name, fields, *numbers: Part(f"fragments/{A}/{name}", tuple(fields), *numbers),
    st.from_regex(r"[0-9a-z]{1,32}", fullmatch=True),
    st.lists(NAMES, min_size=1, max_size=3, unique=True),
    st.integers(0, (1 << 63) - 1),
    st.integers(0, (1 << 63) - 1),
    st.integers(1, 1 << 30),
    st.integers(0, (1 << 32) - 1),
)
FRAGMENTS = st.builds(
    lambda first, samples, block, parts: Fragment(A, first, samples, 1 << block, tuple(parts)),
    st.integers(0, MAX_SAMPLES),
    st.integers(1, MAX_SAMPLES),
    st.integers(0, 40),
    st.lists(PARTS, max_size=3),
)


@settings(deadline=None)
@given(FRAGMENTS)
def test_a_fragment_comes_back_from_its_row(fragment: Fragment) -> None:
    sets = {fields: i for i, fields in enumerate({part.fields: None for part in fragment.parts})}
    row = parse_json(to_bytes([fragment_to_row(fragment, sets)]), "rows")
    assert fragments_from_rows(row, list(sets)) == (fragment,)


NUMBERS = (-1, 0, 1, 3, 1.0, 1 << 30, (1 << 30) + 1, 1 << 40, 1 << 41, 1 << 62, (1 << 62) + 1, 1 << 63, 1 << 64)
STRINGS = ("", "0", "A" * 32, "a" * 31, "a" * 33, "é" * 32, "a" * 32 + "\n", "../x", "0000000g", "00000000", "abcde")
LISTS = ([], [[]], ["0", 0, 1, 1, 1, "00000000"], {}, {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5})
WRONG = st.sampled_from([None, True, False, *NUMBERS, *STRINGS, *LISTS])


@settings(max_examples=600, deadline=None)
@given(st.integers(0, 4), st.one_of(st.none(), st.integers(0, 5)), WRONG)
@example(4, None, {})
@example(4, None, "")
@example(3, None, True)
@example(4, 1, True)
@example(4, 1, -1)
def test_rows_are_checked_the_same_way_fast_and_slowly(place: int, deeper: int | None, wrong: Any) -> None:
    row: Any = [A, 7, 5, 16, [["0", 0, 80, 90, 70, "00000abc"], ["1", 1, 8, 9, 7, "00000001"]]]
    if deeper is None:
        row[place] = wrong
    else:
        row[4][0][deeper] = wrong
    sets = [("x",), ("y",)]
    fast = fragments_module._from_sound_row(copy.deepcopy(row), sets)
    try:
        slow = fragments_module._from_row(parse_json(to_bytes(row), "page"), sets)
    except InvalidDataset:
        assert fast is None
        with pytest.raises(InvalidDataset, match=r"^page\[0\]"):
            fragments_from_rows(parse_json(to_bytes([row]), "page"), sets)
    else:
        assert fast == slow


@pytest.mark.parametrize("row", [None, 5, "abcde", {}, [], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6]])
def test_what_is_no_row_is_refused(row: Any) -> None:
    with pytest.raises(InvalidDataset, match=r"page\[0\]"):
        fragments_from_rows(parse_json(to_bytes([row]), "page"), [("x",)])


def test_rows_that_are_no_list_are_refused() -> None:
    with pytest.raises(InvalidDataset, match="expected a list"):
        fragments_from_rows(parse_json(b"{}", "page"), [])


# Pages


@settings(deadline=None)
@given(st.text("0123456789abcdef", min_size=32, max_size=32))
def test_a_page_is_known_by_its_key(identity: str) -> None:
    assert page_id(page_key(identity)) == identity
    assert page_id(page_key(identity) + "x") is None
    assert page_id(page_key(identity[:-1])) is None


@pytest.mark.parametrize("count", [1, 500, 3000])
def test_pages_are_full_and_no_larger_than_they_should_be(count: int) -> None:
    fragments = bare_fragments(count)
    pages = fragments_to_pages(fragments, counting_ids())
    assert all(len(data) <= PAGE_NBYTES for _, data in pages)
    assert all(len(data) > 0.9 * PAGE_NBYTES for _, data in pages[:-1])
    assert tuple(f for page, _ in pages for f in page.fragments) == fragments
    for page, data in pages:
        assert (page.ref.nbytes, page.ref.crc32) == (len(data), crc32(data))
        assert fragments_from_page(data, page.ref, "page") == page.fragments


def test_a_fragment_larger_than_a_page_has_one_of_its_own() -> None:
    large = bare_fragment(1)
    parts = tuple(replace(large.parts[0], path=f"fragments/{large.id}/{i:032x}") for i in range(2000))
    (first, _), (second, data), (third, _) = fragments_to_pages(
        (bare_fragment(0), replace(large, parts=parts), bare_fragment(2)), counting_ids()
    )
    assert [len(page.fragments) for page in (first, second, third)] == [1, 1, 1]
    assert PAGE_NBYTES < len(data) < MAX_PAGE_NBYTES


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_page_of_which_a_byte_is_wrong_is_refused(data: st.DataObject) -> None:
    ((page, stored),) = fragments_to_pages(bare_fragments(3), counting_ids())
    at = data.draw(st.integers(0, len(stored) - 1))
    damaged = bytearray(stored)
    damaged[at] ^= data.draw(st.integers(1, 255))
    for wrong in (bytes(damaged), stored[:at], stored + b" "):
        with pytest.raises(InvalidDataset, match="page: the version says"):
            fragments_from_page(wrong, page.ref, "page")


@pytest.mark.parametrize("changes", [{"fragments": 2}, {"fragments": 4}, {"samples": 7}])
def test_a_page_that_holds_something_else_than_the_version_says_is_refused(changes: dict[str, int]) -> None:
    ((page, stored),) = fragments_to_pages(bare_fragments(3), counting_ids())
    with pytest.raises(InvalidDataset, match="page: not the"):
        fragments_from_page(stored, replace(page.ref, **changes), "page")


@pytest.mark.parametrize("sets", [[], {}, [5], [["x"], [1]], "x"])
def test_a_page_whose_sets_of_fields_are_none_is_refused(sets: Any) -> None:
    stored = seal({"fields": sets, "fragments": [[A, 0, 1, 1, [["0", 0, 1, 1, 1, "00000000"]]]]})
    with pytest.raises(InvalidDataset, match="page"):
        fragments_from_page(stored, PageRef(A, 1, 1, len(stored), crc32(stored)), "page")


# References

REF = {"id": A, "fragments": 3, "samples": 9, "nbytes": 1000, "crc32": "0000000f"}
CONDEMNED_REF = {"id": A, "fragments": 3, "versions": 1, "parts": 0, "nbytes": 1000, "crc32": "0000000f"}


def test_references_come_back() -> None:
    ref, condemned = PageRef(A, 3, 9, 1000, 15), CondemnedRef(A, 3, 1, 0, 1000, 15)
    assert ref.to_json() == REF
    assert condemned.to_json() == CONDEMNED_REF
    assert PageRef.from_json(parse_json(to_bytes(REF), "ref")) == ref
    assert CondemnedRef.from_json(parse_json(to_bytes(CONDEMNED_REF), "ref")) == condemned


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("id", "../../../x"),
        ("id", None),
        ("fragments", 0),
        ("fragments", 1 << 60),
        ("fragments", 500),
        ("samples", 2),
        ("samples", 1 << 63),
        ("nbytes", 0),
        ("nbytes", 1 << 60),
        ("nbytes", MAX_PAGE_NBYTES + 1),
        ("crc32", 5),
        ("crc32", "xyz"),
        ("crc32", KeyError),
    ],
)
def test_a_reference_that_claims_too_much_is_refused_before_anything_is_read(member: str, value: Any) -> None:
    for form, cls in ((REF, PageRef), (CONDEMNED_REF, CondemnedRef)):
        if cls is CondemnedRef and (member == "samples" or value in (0, 500)) and member != "nbytes":
            continue
        wrong = {k: v for k, v in {**form, member: value}.items() if v is not KeyError}
        with pytest.raises(InvalidDataset, match="ref"):
            cls.from_json(parse_json(to_bytes(wrong), "ref"))


def refs_document(count: int, **changes: Any) -> Any:
    document: Any = version_of(bare_fragments(1)).to_json()
    refs = [{**REF, "id": f"{i:032x}", **changes} for i in range(count)]
    return {**document, "requires": ["pages"], "pages": refs, "fragments": []}


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (refs_document(2, id=A), f"page {A} is named twice"),
        (refs_document(600, nbytes=MAX_PAGE_NBYTES), "a version has at most"),
        (refs_document(MAX_PAGES + 1), f"at most {MAX_PAGES} are read"),
        (refs_document(5, samples=1 << 61), "2\\^62 samples"),
        ({**refs_document(1), "pages": {}}, "expected a list"),
        ({**refs_document(1), "pages": 10**9}, "expected a list"),
    ],
)
def test_references_that_together_claim_too_much_are_refused(document: Any, told: str) -> None:
    with pytest.raises(InvalidDataset, match=told):
        VersionDocument.from_json(parse_json(to_bytes(document), "v3"))


def test_a_document_that_does_not_require_pages_has_none() -> None:
    document = {**refs_document(2), "requires": []}
    assert VersionDocument.from_json(parse_json(to_bytes(document), "v3")).pages == ()


def test_a_document_with_pages_says_so_to_those_who_do_not_know_them() -> None:
    with pytest.raises(UnsupportedFormat, match="v3: refers to pages"):
        Version.from_json(parse_json(to_bytes(refs_document(2)), "v3"))
    unknown = {**refs_document(2), "requires": ["pages", "wings"]}
    with pytest.raises(UnsupportedFormat, match="requires wings"):
        VersionDocument.from_json(parse_json(to_bytes(unknown), "v3"))


# What goes into pages


def test_a_short_version_is_stored_in_its_document_alone() -> None:
    paged = to_pages(version_of(bare_fragments(20)), counting_ids())
    assert paged.new_pages == ()
    assert document_of(paged) == paged.version.to_json()
    assert document_of(paged)["requires"] == []


def test_a_long_version_comes_back_from_its_pages() -> None:
    version = version_of(bare_fragments(2000))
    paged = to_pages(version, counting_ids())
    assert document_of(paged)["requires"] == ["pages"]
    assert len(paged.document) < 5000
    again = read_back(paged)
    assert again == version == paged.version
    assert again.page_ids == paged.version.page_ids == {page_id(key) for key, _ in paged.new_pages}
    assert VersionDocument.from_json(unseal(paged.document, "v")).num_samples == version.num_samples
    assert again.to_json() == version.to_json()


def test_appends_share_the_pages_before_them_and_write_little() -> None:
    versions = [to_pages(version_of(bare_fragments(2000)), ids := counting_ids())]
    for count in range(2000, 2450):
        parent = versions[-1].version
        fragments = (*parent.fragments, *bare_fragments(1, begin=count))
        paged = to_pages(replace(parent, fragments=fragments, next_sample_id=1 << 40), ids)
        assert {page.ref.id for page in parent.pages[:-1]} <= paged.version.page_ids
        assert len(paged.document) + sum(len(data) for _, data in paged.new_pages) < 100_000
        assert len(paged.document) < INLINE_NBYTES + 5000
        versions.append(paged)
    assert 6 <= sum(len(paged.new_pages) for paged in versions[1:]) <= 12
    assert read_back(versions[-1], *versions).fragments == bare_fragments(2450)
    sizes = [page.ref.nbytes for page in versions[-1].version.pages]
    assert min(sizes[:-1]) > PAGE_NBYTES // 2, "a page with room to spare is written anew with what follows it"


@given(st.integers(0, 900), st.integers(1, 400))
@settings(max_examples=20, deadline=None)
def test_a_change_in_the_middle_keeps_the_pages_before_it(at: int, count: int) -> None:
    old = to_pages(version_of(bare_fragments(1300)), ids := counting_ids())
    changed = (*bare_fragments(at), bare_fragment(5000, first=1 << 39), *bare_fragments(1300)[at + count :])
    again = read_back(to_pages(replace(old.version, fragments=changed, next_sample_id=1 << 40), ids), old)
    assert again.fragments == changed
    ends = accumulate(page.ref.fragments for page in old.version.pages)
    whole = [page.ref.id for page, end in zip(old.version.pages, ends, strict=True) if end <= at]
    assert set(whole[:-1]) <= again.page_ids


def test_every_attempt_names_its_pages_anew() -> None:
    version = version_of(bare_fragments(600))
    ids = counting_ids()
    first, second = to_pages(version, ids), to_pages(version, ids)
    assert first.version.page_ids.isdisjoint(second.version.page_ids)


# What is condemned

IDS = [bare_fragment(i).id for i in range(10_000)]
PATHS = tuple(f"fragments/{identity}/0" for identity in IDS[:500])


def test_a_long_list_of_what_is_condemned_goes_to_pages_that_opening_never_reads() -> None:
    version = version_of(
        bare_fragments(1), condemned_fragments=tuple(IDS), condemned_versions=(1, 2), condemned_parts=PATHS
    )
    paged = to_pages(version, counting_ids())
    assert len(paged.document) < 5000
    assert all(len(data) <= PAGE_NBYTES for _, data in paged.new_pages)
    document = VersionDocument.from_json(unseal(paged.document, "v"))
    unread = document.complete((), lambda _: pytest.fail("read by someone who only opens"))
    assert (len(unread.condemned_fragments), len(unread.condemned_versions), len(unread.condemned_parts)) == (
        10_000,
        2,
        500,
    )
    assert "10000 condemned fragments" in repr(unread)
    again = read_back(paged)
    assert (set(again.condemned_fragments), again.condemned_versions) == (set(IDS), (1, 2))
    assert again.condemned_parts == PATHS
    assert again.condemned_fragments[0] == IDS[0]
    assert again.condemned_fragments[-2:] == tuple(IDS[-2:])
    assert IDS[77] in again.condemned_fragments


def test_what_is_condemned_is_read_once() -> None:
    paged = to_pages(version_of(bare_fragments(1), condemned_fragments=tuple(IDS)), counting_ids())
    stored, reads = dict(paged.new_pages), []

    def read(refs: Any) -> list[Condemned]:
        reads.append(len(refs))
        return [condemned_from_page(stored[page_key(ref.id)], ref, ref.id) for ref in refs]

    version = VersionDocument.from_json(unseal(paged.document, "v")).complete((), read)
    assert (set(version.condemned_fragments), set(version.condemned_parts)) == (set(IDS), set())
    assert len(reads) == 1


def test_pages_of_what_is_condemned_are_carried_forward_as_they_are() -> None:
    first = to_pages(version_of(bare_fragments(1), condemned_fragments=tuple(IDS)), counting_ids())
    parent = read_back(first)
    second = to_pages(replace(parent, number=4, parent=3), lambda: pytest.fail("a page was made"))
    assert second.new_pages == ()
    assert second.version.page_ids == first.version.page_ids
    more = tuple(f"{i:032x}" for i in range(30))
    third = to_pages(replace(parent, condemned_fragments=(*more, *sorted(parent.condemned_fragments))), counting_ids())
    assert third.new_pages == ()
    assert set(read_back(third, first).condemned_fragments) == {*IDS, *more}
    many = tuple(f"{i:032x}" for i in range(INLINE_CONDEMNED_NBYTES // 35 + 10))
    ids = iter(range(900, 999)).__next__
    fourth = to_pages(replace(parent, condemned_fragments=(*IDS, *many)), lambda: f"{ids():032x}")
    assert len(fourth.new_pages) == 1
    assert set(read_back(fourth, first).condemned_fragments) == {*IDS, *many}


@pytest.mark.parametrize("kind", ["fragments", "versions", "parts"])
def test_a_page_that_condemns_something_else_than_the_version_says_is_refused(kind: str) -> None:
    ((page, stored),) = condemned_to_pages(Condemned((A,), (1,), (f"fragments/{A}/0",)), counting_ids())
    assert condemned_from_page(stored, page.ref, "page") == page.condemned
    with pytest.raises(InvalidDataset, match="page: not as many"):
        condemned_from_page(stored, replace(page.ref, **{kind: 2}), "page")
    with pytest.raises(InvalidDataset, match="page: the version says"):
        condemned_from_page(stored[:-1], page.ref, "page")


@pytest.mark.parametrize(
    "body",
    [{"fragments": ["x"], "versions": []}, {"fragments": [], "versions": [0]}, {"fragments": {}}, {"versions": []}],
)
def test_a_page_of_what_is_condemned_is_read_as_strictly_as_a_document(body: Any) -> None:
    stored = seal(body)
    with pytest.raises(InvalidDataset, match="page"):
        condemned_from_page(stored, CondemnedRef(A, 1, 0, 0, len(stored), crc32(stored)), "page")
