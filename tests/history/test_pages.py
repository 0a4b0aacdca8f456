"""Datasets too long for one document: opened in two round trips, committed in little, and told by name when damaged."""

from dataclasses import replace
from typing import Any

import pytest
from bare_fragments import append_bare, bare_fragments, begin_bare
from recording_store import RecordingStore

import chunkstore as cs
from chunkstore.errors import InvalidDataset, MissingObject, StoreError, VersionExpired
from chunkstore.format.documents import seal, unseal
from chunkstore.format.pages import PAGES_PREFIX, page_key
from chunkstore.format.versions import LATEST_KEY, Version, tombstone_to_json, version_key
from chunkstore.history.commit import commit, new_id
from chunkstore.history.pages import Pages
from chunkstore.history.past_versions import roll_back
from chunkstore.history.versions import Hint, find_latest, read_document, read_latest, read_version
from chunkstore.store.interface import Store

COUNT = 1500
"""Fragments: three pages."""


@pytest.fixture
def paged(store: Store) -> Store:
    begin_bare(store, COUNT)
    return store


@pytest.fixture
def local_paged(local: Any) -> Store:
    store: Store = local.open()
    begin_bare(store, COUNT)
    return store


def keys_read(store: RecordingStore) -> list[str]:
    return [operation.key for operation in store.of("read")]


def pages_of(store: Store, number: int = 1) -> list[str]:
    return [page_key(ref.id) for ref in read_document(store, number).pages]


def test_a_paged_version_opens_in_two_round_trips_and_each_page_is_read_once(paged: Store) -> None:
    counted = RecordingStore(paged, delay_s=0.2)
    assert read_latest(counted).fragments == bare_fragments(COUNT)
    assert counted.num_round_trips() == 2
    assert sorted(keys_read(counted)) == sorted([LATEST_KEY, version_key(1), version_key(2), *pages_of(paged)])


def test_a_version_asked_for_by_number_opens_in_two_round_trips(local_paged: Store) -> None:
    counted = RecordingStore(local_paged, delay_s=0.2)
    assert len(cs.open(counted, version=1)) == len(cs.open(counted)) > 0
    counted.forget()
    cs.open(counted, version=1)
    assert counted.num_round_trips() == 2


def test_commits_share_pages_and_each_writes_little(paged: Store) -> None:
    before = set(pages_of(paged))
    for number in range(COUNT, COUNT + 3):
        counted = RecordingStore(paged)
        append_bare(counted, number)
        written = counted.of("write", "write_if_absent")
        assert [o.key for o in written] == [version_key(number - COUNT + 2), LATEST_KEY]
        assert sum(o.nbytes for o in written) < 5000
    again = read_latest(paged)
    assert again.fragments == bare_fragments(COUNT + 3)
    assert set(pages_of(paged, 4)) == before
    assert len([*paged.list(PAGES_PREFIX)]) == len(before)


def test_pages_that_a_stale_hint_does_not_know_take_one_trip_more(local_paged: Store) -> None:
    hint = local_paged.read(LATEST_KEY)
    append_bare(local_paged, *range(COUNT, COUNT + 300))
    fresh = set(pages_of(local_paged, 2)) - set(pages_of(local_paged, 1))
    assert fresh
    local_paged.write(LATEST_KEY, hint)
    counted = RecordingStore(local_paged, delay_s=0.2)
    assert read_latest(counted).num_samples == 60_000 * (COUNT + 300)
    assert counted.num_round_trips() == 4  # hint; version 1 and 2; version 3, which is absent; pages
    assert len(keys_read(counted)) == len(set(keys_read(counted)))


@pytest.mark.parametrize(
    "pages",
    [
        [["f" * 32, 100]],
        [["f" * 32, 1]] * 3,
        [[f"{i:032x}", 60_000] for i in range(1500)],
        "nonsense",
        [["../../x", 5]],
        [["f" * 32, 1 << 62]],
        {},
    ],
)
def test_a_hint_that_lies_about_pages_changes_nothing(local_paged: Store, pages: Any) -> None:
    local_paged.write(LATEST_KEY, seal({"number": 1, "pages": pages}))
    counted = RecordingStore(local_paged)
    assert read_latest(counted).fragments == bare_fragments(COUNT)
    assert len(counted.of("read")) < 1010


def test_a_hint_that_says_a_page_is_smaller_is_not_believed(local_paged: Store) -> None:
    refs = read_document(local_paged, 1).pages
    local_paged.write(LATEST_KEY, seal({"number": 1, "pages": [[ref.id, ref.nbytes - 1] for ref in refs]}))
    assert read_latest(local_paged).fragments == bare_fragments(COUNT)


@pytest.mark.parametrize("hinted", [True, False])
def test_a_page_damaged_on_its_way_is_read_once_more(local_paged: Store, hinted: bool) -> None:
    if not hinted:
        local_paged.delete([LATEST_KEY])

    class Flips(RecordingStore):
        def read(self, key: str, *, limit_nbytes: int | None = None) -> bytes:
            data = super().read(key, limit_nbytes=limit_nbytes)
            return data[:-1] + b"x" if PAGES_PREFIX in key and keys_read(self).count(key) == 1 else data

    assert read_latest(Flips(local_paged)).fragments == bare_fragments(COUNT)


@pytest.mark.parametrize("how", ["cut", "flipped", "longer", "another", "absent"])
@pytest.mark.parametrize("hinted", [True, False])
def test_a_page_that_is_not_what_the_version_says_is_told_by_name(local_paged: Store, how: str, hinted: bool) -> None:
    first, second, *_ = pages_of(local_paged)
    data = local_paged.read(second)
    if how == "absent":
        local_paged.delete([second])
    else:
        wrong = {"cut": data[:-7], "flipped": data[:99] + bytes([data[99] ^ 1]) + data[100:], "longer": data + data}
        local_paged.write(second, wrong.get(how) or local_paged.read(first))
    if not hinted:
        local_paged.delete([LATEST_KEY])
    with pytest.raises(MissingObject if how == "absent" else InvalidDataset, match=second):
        cs.open(local_paged)


def test_verify_lists_every_page_that_is_damaged_or_absent(local_paged: Store) -> None:
    condemn(local_paged, condemned_fragments=IDS)
    document = read_document(local_paged, 2)
    first, second, third = (page_key(ref.id) for ref in document.pages)
    condemned = page_key(document.condemned_pages[1].id)
    for damaged in (first, condemned):
        local_paged.write(damaged, local_paged.read(damaged)[:-1])
    assert [d.key for d in cs.verify(local_paged, version=2).damages] == [first, condemned]
    local_paged.delete([third])
    told = [(damage.key, damage.kind) for damage in cs.verify(local_paged).damages]
    assert told == [(first, "metadata"), (third, "missing"), (condemned, "metadata")]
    assert second not in str(told)


def test_verify_finds_damage_in_pages_of_what_is_condemned(store: Store) -> None:
    begin_bare(store, 0)
    condemn(store, condemned_fragments=IDS)
    assert cs.verify(store).ok
    damaged = page_key(read_document(store, 2).condemned_pages[1].id)
    store.write(damaged, store.read(damaged)[:-1])
    assert len(cs.open(store)) == 0
    assert [damage.key for damage in cs.verify(store).damages] == [damaged]


def test_a_version_whose_pages_contradict_its_document_is_refused(local_paged: Store) -> None:
    document: Any = unseal(local_paged.read(version_key(1)), "v").value
    document["fragments"] = [bare_fragments(1)[0].to_json()]
    local_paged.write(version_key(1), seal(document))
    with pytest.raises(InvalidDataset, match="a fragment is named twice"):
        cs.open(local_paged)


def test_history_is_listed_without_pages(local_paged: Store) -> None:
    append_bare(local_paged, COUNT)
    append_bare(local_paged, *range(COUNT + 1, COUNT + 200))
    counted = RecordingStore(local_paged)
    lines = cs.versions(counted)
    assert [line.samples for line in lines] == [60_000 * n for n in (COUNT, COUNT + 1, COUNT + 200)]
    latest = set(pages_of(local_paged, 3))
    assert set(pages_of(local_paged, 1)) - latest, "nothing to leave out"
    assert {key for key in keys_read(counted) if PAGES_PREFIX in key} <= latest


def test_pages_are_read_once_for_many_versions(local_paged: Store) -> None:
    for number in range(COUNT, COUNT + 4):
        append_bare(local_paged, number)
    counted = RecordingStore(local_paged)
    pages = Pages(counted)
    assert [len(read_version(counted, n, pages=pages).fragments) for n in range(1, 6)] == list(range(COUNT, COUNT + 5))
    read = [key for key in keys_read(counted) if PAGES_PREFIX in key]
    assert sorted(read) == sorted(pages_of(local_paged))


def test_a_rollback_refers_to_the_pages_of_the_version_it_goes_back_to(local_paged: Store) -> None:
    old = read_version(local_paged, 1)

    def shrink(parent: Version | None) -> Version:
        assert parent is not None
        some = parent.fragments[:1]
        return replace(parent, number=parent.number + 1, parent=parent.number, writer=new_id(), fragments=some)

    assert commit(local_paged, shrink, create=False).page_ids == frozenset()
    counted = RecordingStore(local_paged)
    assert roll_back(counted, old, "back").page_ids == old.page_ids
    assert not [o for o in counted.of("write") if PAGES_PREFIX in o.key]
    assert read_latest(local_paged).fragments == old.fragments


# Commits that fail or lose


def test_a_commit_that_loses_the_race_never_names_a_page_as_it_did_before(local_paged: Store) -> None:
    attempts: list[set[str]] = []

    class Loses(RecordingStore):
        def write_if_absent(self, key: str, data: Any) -> bool:
            attempts.append({o.key for o in self.of("write") if PAGES_PREFIX in o.key})
            self.forget()
            if len(attempts) == 1:
                append_bare(self.inner, 7_000_000)
            return super().write_if_absent(key, data)

    assert append_bare(Loses(local_paged), *range(COUNT, COUNT + 300)).number == 3
    assert len(attempts) == 2
    assert all(attempts)
    assert attempts[0].isdisjoint(attempts[1])


def test_pages_stand_before_the_document_that_refers_to_them_does(local_paged: Store) -> None:
    counted = RecordingStore(local_paged)
    version = append_bare(counted, *range(COUNT, COUNT + 300))
    keys = [o.key for o in counted.of("write", "write_if_absent")]
    assert keys[-2:] == [version_key(2), LATEST_KEY]
    assert len(keys) > 2
    assert set(keys[:-2]) <= {page_key(identity) for identity in version.page_ids}


def test_a_commit_whose_page_cannot_be_written_leaves_the_old_version(local_paged: Store) -> None:
    def fail(name: str, key: str) -> None:
        if name == "write" and PAGES_PREFIX in key:
            raise StoreError("disk full")

    with pytest.raises(StoreError, match="disk full"):
        append_bare(RecordingStore(local_paged, hook=fail), *range(COUNT, COUNT + 300))
    assert read_latest(local_paged).fragments == bare_fragments(COUNT)


# What is condemned

IDS = tuple(f.id for f in bare_fragments(5000, begin=1 << 20))


def condemn(store: Store, **condemned: Any) -> Version:
    def next_version(parent: Version | None) -> Version:
        assert parent is not None
        return replace(parent, number=parent.number + 1, parent=parent.number, writer=new_id(), **condemned)

    return commit(store, next_version, create=False)


def test_what_is_condemned_is_complete_for_committers_and_unread_by_readers(store: Store) -> None:
    begin_bare(store, 2)
    version = condemn(store, condemned_fragments=IDS, condemned_versions=(1,))
    append_bare(store, 2)
    counted = RecordingStore(store, delay_s=0.2)
    opened = cs.open(counted)
    assert len(opened) == 180_000
    assert counted.num_round_trips() == 2
    assert not [key for key in keys_read(counted) if PAGES_PREFIX in key]
    latest = read_latest(store)
    assert set(latest.condemned_fragments) == set(IDS)
    assert latest.condemned_versions == (1,)
    assert latest.page_ids == version.page_ids
    assert len(latest.page_ids) == 3
    fragment = replace(bare_fragments(1)[0], id=IDS[2500], first=1 << 30)
    parts = (replace(fragment.parts[0], path=f"fragments/{IDS[2500]}/0"),)
    with pytest.raises(cs.CommitConflict, match=f"{IDS[2500]} was condemned"):
        condemn(store, fragments=(replace(fragment, parts=parts),), next_sample_id=1 << 40)
    with pytest.raises(VersionExpired):
        cs.rollback(store, 1)


def test_a_tombstone_stands_for_a_paged_version(local_paged: Store) -> None:
    append_bare(local_paged, COUNT)
    local_paged.write(version_key(1), seal(tombstone_to_json(1)))
    with pytest.raises(VersionExpired):
        cs.open(local_paged, version=1)
    assert find_latest(local_paged).num_samples == 60_000 * (COUNT + 1)  # type: ignore[union-attr]


def test_a_hint_says_no_more_than_readers_take() -> None:
    assert Hint(3).to_json() == {"number": 3}
    assert len(seal(Hint(3, tuple((f"{i:032x}", 65_000) for i in range(1000))).to_json())) < 1 << 16
