"""JSON documents: sealed with a checksum when written, distrusted when read.

Every document of ours is `{"crc32c":"<8 hex digits>","document":<body>}`, the checksum being over the bytes of the body, so a
flipped bit or a cut file is found before anything is parsed. `Node` walks a parsed document and turns every surprise into an
`InvalidDataset` that names the place. Never does I/O; `versions.py`, `metadata.py` and `schema.py` stand on it.

Source: docs/spec/v1.md, "Documents".
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from chunkstore._native import crc32c
from chunkstore.errors import InvalidDataset

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

_PREFIX = re.compile(rb'\{"crc32c":"([0-9a-f]{8})","document":')
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_PREFIX_NBYTES = len('{"crc32c":"00000000","document":')
INT_MAX = (1 << 63) - 1
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
    return prefix is not None and data.endswith(b"}") and int(prefix[1], 16) == crc32c(data[_PREFIX_NBYTES:-1])


def unseal(data: bytes, where: str) -> "Node":
    """The document in `data`, its checksum verified.

    Raises:
        InvalidDataset: the bytes are not a sealed document, or not the one that was written.
    """
    prefix = _PREFIX.match(data)
    if prefix is None or not data.endswith(b"}"):
        raise InvalidDataset(
            f"{where}: not a chunkstore document ({len(data)} bytes); it is damaged or of something else"
        )
    body = data[_PREFIX_NBYTES:-1]
    stored, computed = int(prefix[1], 16), crc32c(body)
    if stored != computed:
        raise InvalidDataset(
            f"{where}: crc32c mismatch: stored {stored:08x}, computed {computed:08x}; restore the object"
        )
    return parse_json(body, where)


def parse_json(data: bytes, where: str) -> "Node":
    """Strict JSON: UTF-8, no key twice, no NaN or infinity, no half of a surrogate pair, no nesting beyond Python's limit.

    Raises:
        InvalidDataset: anything else.
    """

    def refuse_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    def finite(text: str) -> float:
        if math.isinf(number := float(text)):
            raise ValueError(f"{_shown(text)} is beyond float64")
        return number

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise ValueError("an object has a key twice")
        return members

    try:
        value = json.loads(
            data.decode("utf-8"),
            parse_constant=refuse_constant,
            parse_float=finite,
            object_pairs_hook=refuse_duplicates,
        )
        if _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode()  # refuses half a pair, which no UTF-8 can hold
    except (ValueError, RecursionError) as error:
        raise InvalidDataset(f"{where}: not readable as JSON: {error}") from error
    return Node(value, where)


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

    def members(self) -> Iterator[tuple[str, "Node"]]:
        """The members of an object."""
        if not isinstance(self.value, dict):
            self.fail(f"expected an object, found {_kind(self.value)}")
        for key, value in self.value.items():
            yield key, Node(value, f"{self.where}: {_shortened(key)}")

    def items(self, *, length: int | None = None, at_most: int | None = None) -> list["Node"]:
        """The items of a list, of `length` if given, or of no more than `at_most`."""
        if not isinstance(self.value, list):
            self.fail(f"expected a list, found {_kind(self.value)}")
        if length is not None and len(self.value) != length:
            self.fail(f"expected {length} items, found {len(self.value)}")
        if at_most is not None and len(self.value) > at_most:
            self.fail(f"{len(self.value)} items; at most {at_most} are read")
        return [Node(value, f"{self.where}[{i}]") for i, value in enumerate(self.value)]

    def integer(self, minimum: int = 0, maximum: int = INT_MAX) -> int:
        """An integer in [minimum, maximum]."""
        if type(self.value) is not int:
            self.fail(f"expected an integer, found {_kind(self.value)}")
        if not minimum <= self.value <= maximum:
            self.fail(f"{_shown(self.value)} is outside [{minimum}, {maximum}]")
        return self.value

    def integers(self, minimum: int = 0, maximum: int = INT_MAX) -> tuple[int, ...]:
        """A list of integers in [minimum, maximum]."""
        return tuple(item.integer(minimum, maximum) for item in self.items())

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


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_TOLD else f"{text[:_MAX_TOLD]}…"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
