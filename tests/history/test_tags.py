"""Tags: names that never move, found again whatever the store answers, and damage of their documents."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numbers_dataset import Lying, append, begin, options, values_of

import chunkstore as cs
from chunkstore.errors import CommitConflict, DatasetNotFound, InvalidDataset, StoreError
from chunkstore.format.documents import seal
from chunkstore.format.tags import Tag, tag_key
from chunkstore.history.commit import new_id, now, read_latest
from chunkstore.history.tags import put_tag, read_tag
from chunkstore.store.interface import Store
from chunkstore.store.local import LocalStore


def test_a_tag_names_the_latest_version_or_the_one_given(location: Any) -> None:
    begin(location, [1], [2])
    assert cs.tag(location.url, "now", **options(location)) == 3
    assert cs.tag(location.url, "first", 1, **options(location)) == 1
    append(location, [3])
    assert values_of(location, tag="now") == [0, 1, 2]
    assert values_of(location, tag="first") == [0]
    assert [line.tags for line in cs.versions(location.url, **options(location))] == [("first",), (), ("now",), ()]


def test_a_tag_never_moves(location: Any) -> None:
    store = begin(location, [1])
    cs.tag(location.url, "v1", 1, **options(location))
    stored = store.read(tag_key("v1"))
    assert cs.tag(location.url, "v1", 1, **options(location)) == 1
    with pytest.raises(CommitConflict, match=r"'v1' has named version 1 since .* choose another name"):
        cs.tag(location.url, "v1", **options(location))
    assert store.read(tag_key("v1")) == stored


def test_a_tag_that_failed_to_arrive_is_put_again(location: Any) -> None:
    store = begin(location)
    failures = iter([True, True, False])

    def fail_twice(real: Store, key: str, data: bytes) -> bool:
        if next(failures):
            raise StoreError("connection refused")
        return real.write_if_absent(key, data)

    put_tag(Lying(store, "/tags/", fail_twice), "v1", Tag(read_latest(store).dataset, 1, now(), new_id()))  # type: ignore[arg-type]
    assert values_of(location, tag="v1") == [0]


def test_a_tag_that_another_took_while_the_answer_was_lost_is_a_conflict(location: Any) -> None:
    store = begin(location, [1])

    def let_another_win(real: Store, key: str, data: bytes) -> bool:
        cs.tag(location.url, "v1", 2, **options(location))
        raise StoreError("timeout")

    with pytest.raises(CommitConflict, match="version 2"):
        put_tag(Lying(store, "/tags/", let_another_win), "v1", Tag(read_latest(store).dataset, 1, now(), new_id()))  # type: ignore[arg-type]
    assert cs.open(location.url, tag="v1", **options(location)).version == 2


def test_a_tag_whose_fate_is_unknown_says_so_and_can_be_repeated(local: Any) -> None:
    store = begin(local)

    def fail(real: Store, key: str, data: bytes) -> bool:
        raise StoreError("connection refused")

    tag = Tag(read_latest(store).dataset, 1, now(), new_id())
    with pytest.raises(StoreError, match="may or may not have been taken; tag version 1 again") as caught:
        put_tag(Lying(store, "/tags/", fail), "v1", tag)  # type: ignore[arg-type]
    assert "refused" in str(caught.value.__cause__)
    put_tag(store, "v1", tag)
    put_tag(store, "v1", replace(tag, writer=new_id()))
    assert read_tag(store, "v1") == tag


def test_a_name_that_cannot_be_is_refused_before_anything_is_read(local: Any) -> None:
    for call in (cs.tag, lambda url, name: cs.open(url, tag=name)):
        with pytest.raises(ValueError, match="tag name"):
            call(local.url, "../v1")


def test_a_version_and_a_tag_together_are_refused(local: Any) -> None:
    begin(local)
    cs.tag(local.url, "v1")
    with pytest.raises(ValueError, match="version=1 and tag='v1'"):
        cs.open(local.url, version=1, tag="v1")


def test_an_absent_tag_is_told_with_those_there_are(location: Any) -> None:
    begin(location)
    with pytest.raises(DatasetNotFound, match="no tag 'v9'; it has none"):
        cs.open(location.url, tag="v9", **options(location))
    for name in ("v2", "best", "v1"):
        cs.tag(location.url, name, **options(location))
    with pytest.raises(DatasetNotFound, match="no tag 'v9'; its tags are best, v1, v2"):
        cs.open(location.url, tag="v9", **options(location))


def test_a_damaged_tag_is_an_error_of_opening_and_of_listing(local: Any) -> None:
    store = begin(local)
    cs.tag(local.url, "v1")
    key = tag_key("v1")
    data = store.read(key)
    flipped = [data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1 :] for i in range(len(data))]
    cut = [data[:length] for length in range(len(data))]
    wrong = [seal({"dataset": "x"}), seal({}), b'{"crc32c":"00000000","document":[]}', b" " * (1 << 17)]
    for damaged in (*flipped, *cut, *wrong):
        (LocalStore(local.url).path(key)).write_bytes(damaged)
        with pytest.raises(InvalidDataset, match=key):
            read_tag(store, "v1")
    for call in (lambda: cs.open(local.url, tag="v1"), lambda: cs.versions(local.url), lambda: cs.tag(local.url, "v1")):
        with pytest.raises(InvalidDataset, match=key):
            call()
    assert values_of(local) == [0]


def test_all_damaged_tags_are_named_at_once_with_what_to_do(local: Any) -> None:
    store = begin(local)
    for name in ("a", "b", "c"):
        cs.tag(local.url, name)
    for name in ("a", "c"):
        LocalStore(local.url).path(tag_key(name)).write_bytes(b"damaged")
    for call in (lambda: cs.versions(local.url), lambda: cs.gc(local.url)):
        with pytest.raises(
            InvalidDataset, match=r"2 tags are damaged: .*tags/a\.json.*tags/c\.json.*remove it"
        ) as caught:
            call()
        assert "tags/b.json" not in str(caught.value)
    store.delete([tag_key("c")])
    with pytest.raises(InvalidDataset, match=r"tags/a\.json.*remove it"):
        cs.versions(local.url)


@pytest.mark.parametrize("number", [True, "1", 1.0])
def test_a_tag_of_what_is_no_number_is_refused_and_takes_no_name(local: Any, number: Any) -> None:
    begin(local)
    with pytest.raises(ValueError, match="the number of a version is needed"):
        cs.tag(local.url, "t", number)
    assert cs.tag(local.url, "t", np.int64(1)) == 1  # type: ignore[arg-type]
    assert values_of(local, tag="t") == [0]


def test_a_tag_of_another_dataset_is_not_followed(local: Any) -> None:
    store = begin(local)
    put_tag(store, "v1", Tag("0" * 32, 1, now(), new_id()))
    with pytest.raises(InvalidDataset, match="a tag of dataset 000"):
        cs.open(local.url, tag="v1")
    with pytest.raises(CommitConflict):
        cs.tag(local.url, "v1")


def test_what_is_no_tag_is_not_listed(local: Any) -> None:
    store = begin(local)
    cs.tag(local.url, "v1")
    for key in ("_chunkstore/tags/.hidden.json", "_chunkstore/tags/readme", "_chunkstore/tags/deep/v2.json"):
        store.write(key, b"?")
    assert cs.versions(local.url)[0].tags == ("v1",)


def test_without_permission_to_list_tags_are_opened_by_name_and_not_told(
    local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(local)
    cs.tag(local.url, "v1")
    real = LocalStore.read

    def refuse(*_: Any) -> Any:
        raise PermissionError("403")

    def read(self: LocalStore, key: str, *, limit_nbytes: int | None = None) -> bytes:
        try:
            return real(self, key, limit_nbytes=limit_nbytes)
        except FileNotFoundError:
            raise PermissionError("403") from None

    monkeypatch.setattr(LocalStore, "list", refuse)
    monkeypatch.setattr(LocalStore, "read", read)
    assert values_of(local, tag="v1") == [0]
    assert cs.versions(local.url)[0].tags is None
    with pytest.raises(DatasetNotFound, match="no tag 'v2'; its tags cannot be listed here"):
        cs.open(local.url, tag="v2")
