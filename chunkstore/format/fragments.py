"""Fragments and their parts, as a version lists them: one line each in its document, or one short row in a page.

A line says everything a reader needs to plan an epoch, and how to check what the fragment leads to. A row says the same with
less: what it repeats from its neighbours stands once in the page. Both are read as untrusted. Never does I/O. `versions.py` and
`pages.py` stand on it.

Source: docs/spec/v1.md, "Version documents", "Pages".
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chunkstore.format.documents import INT_MAX, Json, Node

MAX_SAMPLES = 1 << 62
UUID = r"[0-9a-f]{32}"
PART_PATH = rf"fragments/{UUID}/[0-9a-z]{{1,32}}"
MAX_BLOCK_ROWS = 1 << 40
MAX_OBJECTS_NBYTES = 1 << 30
_PART_NAME = r"[0-9a-z]{1,32}"
_CRC32 = r"[0-9a-f]{8}"

FieldSets = Sequence[tuple[str, ...]]
"""The sets of fields that parts in a page hold; a row names its part's by number."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some fields of a fragment's samples, stored as one Zarr group.

    Attributes:
        path: Key of the group, relative to the dataset.
        fields: Names of its fields.
        nbytes: Decoded bytes of all its arrays' data.
        stored_nbytes: Bytes of all its objects.
        objects_nbytes: Bytes of its `_objects.json`.
        objects_crc32: crc32 of its `_objects.json`.
    """

    path: str
    fields: tuple[str, ...]
    nbytes: int
    stored_nbytes: int
    objects_nbytes: int
    objects_crc32: int

    def to_json(self) -> dict[str, Json]:
        """The stored form."""
        return {
            "path": self.path,
            "fields": list(self.fields),
            "nbytes": self.nbytes,
            "stored_nbytes": self.stored_nbytes,
            "objects": {"nbytes": self.objects_nbytes, "crc32": f"{self.objects_crc32:08x}"},
        }

    @classmethod
    def from_json(cls, node: Node) -> "Part":
        """Read the stored form, or raise InvalidDataset."""
        objects = node.member("objects")
        return cls(
            path=node.member("path").string(PART_PATH),
            fields=node.member("fields").strings(),
            nbytes=node.member("nbytes").integer(),
            stored_nbytes=node.member("stored_nbytes").integer(),
            objects_nbytes=objects.member("nbytes").integer(1, MAX_OBJECTS_NBYTES),
            objects_crc32=int(objects.member("crc32").string(_CRC32), 16),
        )


@dataclass(frozen=True, slots=True)
class Fragment:
    """A range of samples written by one writer.

    Attributes:
        id: Hexadecimal UUID.
        first: Sample id of its first sample; row r has sample id first + r.
        samples: Number of samples, at least 1.
        block_rows: Samples of a block, a power of two.
        parts: Where its fields lie.
    """

    id: str
    first: int
    samples: int
    block_rows: int
    parts: tuple[Part, ...]

    @property
    def nbytes(self) -> int:
        """Decoded bytes of all its fields."""
        return sum(part.nbytes for part in self.parts)

    def part_of(self, name: str) -> Part:
        """The part that holds the field `name`."""
        return next(part for part in self.parts if name in part.fields)

    def to_json(self) -> dict[str, Json]:
        """The stored form."""
        return {
            "id": self.id,
            "first": self.first,
            "samples": self.samples,
            "block_rows": self.block_rows,
            "parts": [part.to_json() for part in self.parts],
        }

    @classmethod
    def from_json(cls, node: Node) -> "Fragment":
        """Read the stored form, or raise InvalidDataset."""
        block_rows = node.member("block_rows").integer(1, MAX_BLOCK_ROWS)
        if block_rows & (block_rows - 1):
            node.member("block_rows").fail(f"{block_rows} is no power of two")
        fragment = cls(
            id=node.member("id").string(UUID),
            first=node.member("first").integer(0, MAX_SAMPLES),
            samples=node.member("samples").integer(1, MAX_SAMPLES),
            block_rows=block_rows,
            parts=tuple(Part.from_json(item) for item in node.member("parts").items()),
        )
        if any(not part.path.startswith(f"fragments/{fragment.id}/") for part in fragment.parts):
            node.fail("a part lies outside its fragment")
        return fragment


def fragment_to_row(fragment: Fragment, set_numbers: Mapping[tuple[str, ...], int]) -> list[Json]:
    """The row of a fragment in a page that numbers its sets of fields like this."""
    return [
        fragment.id,
        fragment.first,
        fragment.samples,
        fragment.block_rows,
        [
            [
                part.path.rpartition("/")[2],
                set_numbers[part.fields],
                part.nbytes,
                part.stored_nbytes,
                part.objects_nbytes,
                f"{part.objects_crc32:08x}",
            ]
            for part in fragment.parts
        ],
    ]


def fragments_from_rows(node: Node, field_sets: FieldSets) -> tuple[Fragment, ...]:
    """Read the rows of a page, or raise InvalidDataset that names the place."""
    if type(node.value) is not list:
        node.items()
    return tuple(
        _from_sound_row(row, field_sets) or _from_row(Node(row, f"{node.where}[{i}]"), field_sets)
        for i, row in enumerate(node.value)
    )


def _from_row(node: Node, field_sets: FieldSets) -> Fragment:
    identity, first, samples, block_rows, parts = node.items(length=5)
    identity.string(UUID)
    if (rows := block_rows.integer(1, MAX_BLOCK_ROWS)) & (rows - 1):
        block_rows.fail(f"{rows} is no power of two")
    return Fragment(
        identity.value,
        first.integer(0, MAX_SAMPLES),
        samples.integer(1, MAX_SAMPLES),
        rows,
        tuple(_part_from_row(part, identity.value, field_sets) for part in parts.items()),
    )


def _part_from_row(node: Node, identity: str, field_sets: FieldSets) -> Part:
    name, number, nbytes, stored_nbytes, objects_nbytes, objects_crc32 = node.items(length=6)
    return Part(
        f"fragments/{identity}/{name.string(_PART_NAME)}",
        field_sets[number.integer(0, len(field_sets) - 1)],
        nbytes.integer(),
        stored_nbytes.integer(),
        objects_nbytes.integer(1, MAX_OBJECTS_NBYTES),
        int(objects_crc32.string(_CRC32), 16),
    )


_is_uuid = re.compile(UUID).fullmatch
_is_part_name = re.compile(_PART_NAME).fullmatch
_is_crc32 = re.compile(_CRC32).fullmatch


def _from_sound_row(row: Any, field_sets: FieldSets) -> Fragment | None:
    """A row in which everything is as it should be; None if there is any doubt, which `_from_row` then puts into words.

    The same checks without a `Node` for each value: a dataset of 10,000 fragments has 110,000 of them.
    """
    try:
        identity, first, samples, block_rows, stored = row
        if not (
            type(row) is type(stored) is list
            and _is_uuid(identity)
            and type(first) is type(samples) is type(block_rows) is int
            and 0 <= first <= MAX_SAMPLES
            and 1 <= samples <= MAX_SAMPLES
            and 1 <= block_rows <= MAX_BLOCK_ROWS
            and not block_rows & (block_rows - 1)
        ):
            return None
        parts = []
        for part in stored:
            name, number, nbytes, stored_nbytes, objects_nbytes, objects_crc32 = part
            if not (
                type(part) is list
                and _is_part_name(name)
                and type(number) is type(nbytes) is type(stored_nbytes) is type(objects_nbytes) is int
                and 0 <= number < len(field_sets)
                and 0 <= nbytes <= INT_MAX
                and 0 <= stored_nbytes <= INT_MAX
                and 1 <= objects_nbytes <= MAX_OBJECTS_NBYTES
                and _is_crc32(objects_crc32)
            ):
                return None
            path = f"fragments/{identity}/{name}"
            parts.append(Part(path, field_sets[number], nbytes, stored_nbytes, objects_nbytes, int(objects_crc32, 16)))
    except (TypeError, ValueError):
        return None
    return Fragment(identity, first, samples, block_rows, tuple(parts))
