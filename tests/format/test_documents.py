"""Sealed documents come back as they were, and anything else is refused by name."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkstore.errors import InvalidDataset
from chunkstore.format.documents import Node, parse_json, seal, to_bytes, unseal

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_a_sealed_document_comes_back(document: dict[str, Any]) -> None:
    data = seal(document)
    assert unseal(data, "here").value == document
    assert json.loads(data)["document"] == document  # any JSON reader opens it


@given(st.dictionaries(st.text(max_size=5), st.integers(), max_size=3), st.data())
def test_any_other_bytes_are_refused(document: dict[str, Any], data: st.DataObject) -> None:
    sealed = seal(document)
    at = data.draw(st.integers(0, len(sealed) - 1))
    bit = data.draw(st.integers(0, 7))
    flipped = sealed[:at] + bytes([sealed[at] ^ (1 << bit)]) + sealed[at + 1 :]
    for damaged in (flipped, sealed[:at], sealed + b" "):
        with pytest.raises(InvalidDataset, match=r"^here"):
            unseal(damaged, "here")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b"NaN",
        b"[Infinity]",
        b'{"a":1,"a":1}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000,
        b"1" * 5000,
    ],
    ids=range(10),
)
def test_what_is_not_strict_json_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidDataset, match=r"^here: not readable as JSON"):
        parse_json(text, "here")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_never_written(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_bytes({"x": value})


@pytest.mark.parametrize(
    ("value", "ask", "told"),
    [
        ([], lambda n: n.member("a"), "doc: expected an object, found a list"),
        ({}, lambda n: n.member("a"), "doc: 'a' is missing"),
        ({"a": {}}, lambda n: n.member("a").items(), "doc: a: expected a list, found an object"),
        ([1], lambda n: n.items(length=2), "doc: expected 2 items, found 1"),
        ([1, -1], lambda n: n.integers(), r"doc\[1\]: -1 is outside"),
        (True, lambda n: n.integer(), "doc: expected an integer, found true or false"),
        (1.0, lambda n: n.integer(), "doc: expected an integer"),
        (1 << 63, lambda n: n.integer(), "is outside"),
        (10**60, lambda n: n.integer(), "…"),
        ("abc", lambda n: n.string("[a-b]+"), "not of the form"),
        ("ab\n", lambda n: n.string("[a-b]+"), "not of the form"),
        (None, lambda n: n.string(), "doc: expected a string, found null"),
        ("x", lambda n: n.choice("a", "b"), "none of 'a', 'b'"),
        (True, lambda n: n.choice(1), "none of 1"),
        ("x", lambda n: n.number(), "expected a number"),
        (10**400, lambda n: n.number(), "too large"),
        ([], lambda n: list(n.members()), "expected an object"),
    ],
)
def test_every_surprise_names_its_place(value: Any, ask: Any, told: str) -> None:
    with pytest.raises(InvalidDataset, match=told) as caught:
        ask(Node(value, "doc"))
    assert len(str(caught.value)) < 200
