"""Tags as documents: which names there are, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkstore.errors import InvalidDataset
from chunkstore.format.documents import Node, seal, unseal
from chunkstore.format.tags import Tag, tag_key, tag_name
from chunkstore.store.interface import check_key

TAG = Tag("0" * 32, 3, "2026-11-21T12:00:00.5Z", "f" * 32)


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", fullmatch=True))
def test_a_name_and_its_key_belong_together(name):
    assert tag_name(check_key(tag_key(name))) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "-x", "_x", ".x", "a/b", "../a", "a b", "ä", "a\n", "a\0", "x" * 129, "%2e", None, 3]
)
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="tag name"):
        tag_key(name)


@pytest.mark.parametrize(
    "key",
    [
        "_chunkstore/tags/v1",
        "_chunkstore/tags/a/b.json",
        "_chunkstore/tags/.json",
        "_chunkstore/tags/.x.json",
        "_chunkstore/tags/v1.json~",
        "_chunkstore/tags/v1.json\n",
        "_chunkstore/versions/v1.json",
    ],
)
def test_other_keys_are_no_tags(key):
    assert tag_name(key) is None


def test_a_tag_comes_back_from_its_sealed_document():
    assert Tag.from_json(unseal(seal(TAG.to_json()), "here")) == TAG


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("dataset", "0" * 31),
        ("dataset", None),
        ("version", 0),
        ("version", True),
        ("version", 1.0),
        ("version", 1 << 63),
        ("time", "yesterday"),
        ("time", 3),
        ("writer", "F" * 32),
        *((name, ...) for name in ("dataset", "version", "time", "writer")),
    ],
)
def test_a_member_that_is_wrong_or_missing_is_refused(member, value):
    document = {**TAG.to_json(), member: value}
    if value is ...:
        del document[member]
    with pytest.raises(InvalidDataset, match=member):
        Tag.from_json(Node(document, "here"))


def test_members_of_later_releases_are_ignored():
    assert Tag.from_json(Node({**TAG.to_json(), "mood": "good"}, "here")) == TAG
