"""JSON documents: sealed with a checksum when written, distrusted when read.

Every document of ours is `{"crc32c":"<8 hex digits>","document":<body>}`, the checksum being over the bytes of the body, so a
flipped bit or a cut file is found before anything is parsed. `Node` walks a parsed document and turns every surprise into an
`InvalidDataset` that names the place. Never does I/O; `versions.py`, `metadata.py` and `schema.py` stand on it.

Source: docs/spec/v1.md, "Documents".
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, overload

from chunkstore._native import crc32c
from chunkstore.errors import InvalidDataset

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

_PREFIX = re.compile(rb'\{"crc32c":"([0-9a-f]{8})","document":')
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_PREFIX_NBYTES = len('{"crc32c":"00000000","document":')
INT_MAX = (1 << 63) - 1
MAX_VALUES = 1 << 20
"""Commas of a bounded document. 4,096 ragged fields with 64 bins a histogram have 700,000, and 30,000 pages 200,000."""
MAX_CONTAINERS = 1 << 17
"""Opening brackets of a bounded document: the same fields have 41,000, and 30,000 pages as many as they are."""
MAX_MEMBERS = 1 << 18
"""Colons of a bounded document: the same fields have 147,000, and each page 5."""
MAX_FLOATS = 1 << 17
"""Numbers with a fraction or an exponent of a bounded document: each costs a call. The same fields have 33,000."""
_MAX_TOLD = 400
"""Characters of a problem that are told: what a hostile document holds may be longer than anybody reads."""


def to_bytes(value: object) -> bytes:
    """Compact UTF-8 JSON, keys in the order given; NaN and infinities are refused with ValueError."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def seal(document: Mapping[str, object]) -> bytes:
    """The stored bytes of a document."""
    body = to_bytes(document)
    return b'{"crc32c":"%08x","document":%s}' % (crc32c(body), body)


def is_sealed(data: bytes) -> bool:
    """Whether the bytes are a sealed document whose checksum is right; what it says may be wrong all the same."""
    prefix = _PREFIX.match(data)
    return (
        prefix is not None and data.endswith(b"}") and int(prefix[1], 16) == crc32c(memoryview(data)[_PREFIX_NBYTES:-1])
    )


def unseal(data: bytes, where: str, *, bounded: bool = True) -> "Node":
    """The document in `data`, its checksum verified.

    Args:
        data: The stored bytes.
        where: Their place, for errors.
        bounded: As for `parse_json`; all documents are but `_objects.json`, whose size another one records.

    Raises:
        InvalidDataset: the bytes are not a sealed document, or not the one that was written.
    """
    prefix = _PREFIX.match(data)
    if prefix is None or not data.endswith(b"}"):
        raise InvalidDataset(
            f"{where}: not a chunkstore document ({len(data)} bytes); it is damaged or of something else"
        )
    body = memoryview(data)[_PREFIX_NBYTES:-1]
    stored, computed = int(prefix[1], 16), crc32c(body)
    if stored != computed:
        raise InvalidDataset(
            f"{where}: crc32c mismatch: stored {stored:08x}, computed {computed:08x}; restore the object"
        )
    return parse_json(body, where, bounded=bounded)


def parse_json(data: bytes | memoryview, where: str, *, bounded: bool = False) -> "Node":
    """Strict JSON: UTF-8, no key twice, no NaN or infinity, no half of a surrogate pair, no nesting beyond Python's limit.

    Args:
        data: The text.
        where: Its place, for errors.
        bounded: Whether to refuse more than `MAX_VALUES`, `MAX_MEMBERS`, `MAX_CONTAINERS` or `MAX_FLOATS`.

    Raises:
        InvalidDataset: anything else.
    """
    floats = 0

    def refuse_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    def finite(text: str) -> float:
        nonlocal floats
        floats += 1
        if bounded and floats > MAX_FLOATS:
            raise ValueError(f"more than {MAX_FLOATS} numbers with a fraction")
        if math.isinf(number := float(text)):
            raise ValueError(f"{_shown(text)} is beyond float64")
        return number

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise ValueError("an object has a key twice")
        return members

    try:
        text = str(data, "utf-8")
        if bounded:
            _check_size(text)
        value = json.loads(
            text,
            parse_constant=refuse_constant,
            parse_float=finite,
            object_pairs_hook=refuse_duplicates,
        )
        if "\\u" in text and _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()  # refuses half a pair, which no UTF-8 can hold
    except (ValueError, RecursionError) as error:
        raise InvalidDataset(f"{where}: not readable as JSON: {error}") from error
    return Node(value, where)


def _check_size(text: str) -> None:
    """Refuse text of more values than a document may have; commas and brackets within strings count, of which few have any."""
    if len(text) > MAX_CONTAINERS:  # it could have so many
        if (commas := text.count(",")) > MAX_VALUES:
            raise ValueError(f"{commas} values; at most {MAX_VALUES} are read")
        if (members := text.count(":")) > MAX_MEMBERS:
            raise ValueError(f"{members} members; at most {MAX_MEMBERS} are read")
        if (containers := text.count("[") + text.count("{")) > MAX_CONTAINERS:
            raise ValueError(f"{containers} lists and objects; at most {MAX_CONTAINERS} are read")


@dataclass(frozen=True, slots=True)
class Node:
    """A value of an untrusted document and its place, for checked access."""

    value: Any
    where: str

    def fail(self, problem: str) -> NoReturn:
        """Raise InvalidDataset that names this place."""
        raise InvalidDataset(f"{self.where}: {_shortened(problem)}")

    def __contains__(self, key: str) -> bool:
        return isinstance(self.value, dict) and key in self.value

    def member(self, key: str) -> "Node":
        """The member `key` of an object, which must be there."""
        if not isinstance(self.value, dict):
            self.fail(f"expected an object, found {_kind(self.value)}")
        if key not in self.value:
            self.fail(f"{key!r} is missing")
        return Node(self.value[key], f"{self.where}: {key}")

    def members(self, *, at_most: int | None = None) -> Iterator[tuple[str, "Node"]]:
        """The members of an object, which has no more than `at_most`."""
        if not isinstance(self.value, dict):
            self.fail(f"expected an object, found {_kind(self.value)}")
        if at_most is not None and len(self.value) > at_most:
            self.fail(f"{len(self.value)} members; at most {at_most} are read")
        for key, value in self.value.items():
            yield key, Node(value, f"{self.where}: {_shortened(key)}")

    def items(self, *, length: int | None = None, at_most: int | None = None) -> "Items":
        """The items of a list, of `length` if given, or of no more than `at_most`."""
        if not isinstance(self.value, list):
            self.fail(f"expected a list, found {_kind(self.value)}")
        if length is not None and len(self.value) != length:
            self.fail(f"expected {length} items, found {len(self.value)}")
        if at_most is not None and len(self.value) > at_most:
            self.fail(f"{len(self.value)} items; at most {at_most} are read")
        return Items(self.value, self.where)

    def integer(self, minimum: int = 0, maximum: int = INT_MAX) -> int:
        """An integer in [minimum, maximum]."""
        if type(self.value) is not int:
            self.fail(f"expected an integer, found {_kind(self.value)}")
        if not minimum <= self.value <= maximum:
            self.fail(f"{_shown(self.value)} is outside [{minimum}, {maximum}]")
        return self.value

    def integers(self, minimum: int = 0, maximum: int = INT_MAX, *, at_most: int | None = None) -> tuple[int, ...]:
        """A list of integers in [minimum, maximum], of no more than `at_most`."""
        items = self.items(at_most=at_most)
        values = self.value
        if not values or (set(map(type, values)) == {int} and minimum <= min(values) <= max(values) <= maximum):
            return tuple(values)
        return tuple(item.integer(minimum, maximum) for item in items)

    def strings(self, pattern: str | None = None, *, at_most: int | None = None) -> tuple[str, ...]:
        """A list of strings that match all of `pattern`, of no more than `at_most`."""
        items = self.items(at_most=at_most)
        matches = re.compile(pattern).fullmatch if pattern is not None else _anything
        if all(type(value) is str and matches(value) for value in self.value):
            return tuple(self.value)
        return tuple(item.string(pattern) for item in items)

    def string(self, pattern: str | None = None) -> str:
        """A string that matches all of `pattern`."""
        if not isinstance(self.value, str):
            self.fail(f"expected a string, found {_kind(self.value)}")
        if pattern is not None and re.fullmatch(pattern, self.value) is None:
            self.fail(f"{_shown(self.value)} is not of the form {pattern}")
        return self.value

    def choice(self, *choices: object) -> Any:
        """One of `choices`."""
        if not any(type(self.value) is type(choice) and self.value == choice for choice in choices):
            self.fail(f"{_shown(self.value)} is none of {', '.join(map(repr, choices))}")
        return self.value

    def number(self) -> float:
        """A finite number."""
        if type(self.value) not in (int, float):
            self.fail(f"expected a number, found {_kind(self.value)}")
        try:
            return float(self.value)
        except OverflowError:
            self.fail("a number too large for float64")


@dataclass(frozen=True, slots=True)
class Items(Sequence[Node]):
    """The items of a list, each made a `Node` when it is looked at: the list may be long and its first item wrong."""

    values: list[Any]
    where: str

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, index: int) -> Node: ...

    @overload
    def __getitem__(self, index: slice) -> list[Node]: ...

    def __getitem__(self, index: int | slice) -> Node | list[Node]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self.values))[index]]
        return Node(self.values[index], f"{self.where}[{index}]")


def _anything(_: str) -> bool:
    return True


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_TOLD else f"{text[:_MAX_TOLD]}…"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
