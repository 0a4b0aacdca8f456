"""Version documents and object lists come back, and contradictions are refused."""

import copy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import chunkstore as cs
from chunkstore.errors import InvalidDataset, UnsupportedFormat, VersionExpired
from chunkstore.format.documents import parse_json, to_bytes
from chunkstore.format.schema import Schema
from chunkstore.format.versions import (
    Fragment,
    Part,
    StoredObject,
    Version,
    objects_from_json,
    objects_to_json,
    tombstone_to_json,
    version_key,
    version_number,
)

A, B = "a" * 32, "b" * 32


def fragment(name: str, first: int, samples: int) -> Fragment:
    parts = (Part(f"fragments/{name}/0", ("x",), 80, 90, 70, 0xABC), Part(f"fragments/{name}/more", ("t",), 8, 9, 7, 1))
    return Fragment(name, first, samples, 16, parts)


VERSION = Version(
    dataset="d" * 32,
    number=3,
    parent=2,
    writer="e" * 32,
    time="2026-01-02T03:04:05.678901Z",
    message="what I did\n“quoted”",
    schema=Schema({"x": cs.Array("int64"), "t": cs.Text()}),
    fragments=(fragment(A, 0, 10), fragment(B, 15, 5)),
    statistics={"x": {"values": cs.Statistics()}, "t": {"lengths": cs.Statistics()}},
    next_sample_id=20,
    condemned_fragments=("c" * 32,),
    condemned_versions=(1,),
    condemned_parts=(f"fragments/{A}/1",),
)


def read(document: Any) -> Version:
    return Version.from_json(parse_json(to_bytes(document), "v3"))


def test_a_version_comes_back() -> None:
    again = read(VERSION.to_json())
    assert again == VERSION
    assert again.num_samples == 15
    assert again.fragments[0].part_of("t").path == f"fragments/{A}/more"
    assert again.fragments[0].nbytes == 88


def changed(path: str, value: Any) -> Any:
    document: Any = copy.deepcopy(VERSION.to_json())
    at = document
    *steps, last = (int(step) if step.isdigit() else step for step in path.split("/"))
    for step in steps:
        at = at[step]
    if value is KeyError:
        del at[last]
    else:
        at[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("dataset", "../../etc"),
        ("dataset", KeyError),
        ("number", 0),
        ("number", 3.0),
        ("parent", "2"),
        ("writer", None),
        ("time", "yesterday"),
        ("time", "٢٠٢٦-01-02T03:04:05Z"),
        ("message", 3),
        ("schema", {}),
        ("schema/x/dtype", "complex64"),
        ("statistics/x", KeyError),
        ("statistics/x/values/count", -1),
        ("statistics/x/other", {}),
        ("statistics/x/values/min", 3),
        ("next_sample_id", 19),
        ("next_sample_id", 1 << 63),
        ("condemned", KeyError),
        ("condemned/versions", [0]),
        ("condemned/parts", ["fragments/x/0"]),
        ("condemned/parts", {}),
        ("fragments/0/id", "A" * 32),
        ("fragments/1/id", A),
        ("fragments/0/first", -1),
        ("fragments/0/first", 12),
        ("fragments/0/samples", 0),
        ("fragments/0/samples", 16),
        ("fragments/0/block_rows", 15),
        ("fragments/0/block_rows", 1 << 41),
        ("fragments/0/parts/0/path", f"fragments/{B}/0"),
        ("fragments/0/parts/0/path", f"fragments/{A}/../../x"),
        ("fragments/0/parts/0/path", "https://elsewhere/x"),
        ("fragments/0/parts/0/fields", []),
        ("fragments/0/parts/0/fields", ["x", "t"]),
        ("fragments/0/parts", []),
        ("fragments/0/parts/0/objects/nbytes", 0),
        ("fragments/0/parts/0/objects/nbytes", 1 << 40),
        ("fragments/0/parts/0/objects/crc32", "xyz"),
        ("fragments", {}),
        ("requires", "none"),
    ],
)
def test_what_contradicts_itself_is_refused(path: str, value: Any) -> None:
    with pytest.raises(InvalidDataset, match=r"^v3"):
        read(changed(path, value))


@pytest.mark.parametrize(("path", "value"), [("format", 2), ("requires", ["wings"])])
def test_a_newer_format_asks_for_an_upgrade(path: str, value: Any) -> None:
    with pytest.raises(UnsupportedFormat, match="upgrade chunkstore"):
        read(changed(path, value))


def test_a_version_whose_parts_all_live_says_nothing_of_condemned_parts() -> None:
    document = replace(VERSION, condemned_parts=()).to_json()
    assert document["condemned"] == {"fragments": ["c" * 32], "versions": [1]}
    assert read(document).condemned_parts == ()


def test_a_tombstone_says_that_its_version_was_dropped() -> None:
    with pytest.raises(VersionExpired, match="v3: version 7 was dropped by gc"):
        read(tombstone_to_json(7))


@pytest.mark.parametrize("changes", [{"number": 0}, {"number": None}, {"number": "7"}])
def test_a_tombstone_is_read_as_strictly(changes: Any) -> None:
    with pytest.raises(InvalidDataset, match="v3"):
        read({**tombstone_to_json(7), **changes})


@given(st.integers(0, 10**20 - 1))
def test_version_keys_sort_as_numbers_do(number: int) -> None:
    key = version_key(number)
    assert version_number(key) == number
    assert key < version_key(number + 1) or number == 10**20 - 1


@pytest.mark.parametrize(
    "key", ["_chunkstore/versions/1.json", "_chunkstore/latest.json", version_key(1) + "x", "x" + version_key(1)]
)
def test_other_keys_hold_no_version(key: str) -> None:
    assert version_number(key) is None


KEYS = st.from_regex(r"[A-Za-z0-9_-]{1,5}(/[A-Za-z0-9_-]{1,5}){0,3}", fullmatch=True)
OBJECTS = st.builds(StoredObject, st.integers(0, (1 << 63) - 1), st.integers(0, (1 << 32) - 1))


@given(st.dictionaries(KEYS, OBJECTS, max_size=5))
def test_an_object_list_comes_back(objects: dict[str, StoredObject]) -> None:
    assert objects_from_json(parse_json(to_bytes(objects_to_json(objects)), "list")) == objects


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a b", "http://x", "a\n", "é"])
def test_a_key_that_leaves_the_part_is_refused(key: str) -> None:
    with pytest.raises(InvalidDataset, match="list"):
        objects_from_json(parse_json(to_bytes({"objects": {key: [1, "00000000"]}}), "list"))


@pytest.mark.parametrize("entry", [[1], [1, "0" * 8, 2], [-1, "0" * 8], [1, "0" * 7], [1, 5], [1.5, "0" * 8], {}])
def test_an_entry_that_is_no_object_is_refused(entry: Any) -> None:
    with pytest.raises(InvalidDataset, match="list"):
        objects_from_json(parse_json(to_bytes({"objects": {"a": entry}}), "list"))
