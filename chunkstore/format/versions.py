"""Version documents and object lists: what a version of a dataset consists of.

A version document names, one line a fragment, everything a reader needs to plan an epoch; the object list of a part names
every stored object with its size and checksum. Both are sealed (`documents.py`) and read as untrusted. Never does I/O;
`store/commit.py` writes them in the order that makes a commit atomic.

Source: docs/spec/v1.md, "Versions".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from chunkstore.errors import InvalidDataset, UnsupportedFormat, VersionExpired
from chunkstore.format.documents import Json, Node
from chunkstore.format.schema import Schema
from chunkstore.format.statistics import Statistics

FORMAT = 1
LATEST_KEY = "_chunkstore/latest.json"
OBJECTS_NAME = "_objects.json"
MAX_SAMPLES = 1 << 62
TOMBSTONE = "tombstone"
_UUID = r"[0-9a-f]{32}"
_PART_PATH = rf"fragments/{_UUID}/[0-9a-z]{{1,32}}"
_FIELD_STATISTICS = ("values", "lengths")

FieldStatistics = Mapping[str, Statistics]
"""Statistics of one field: of its "values", of its samples' "lengths", or both."""


def version_key(number: int) -> str:
    """Key of the document of version `number`."""
    return f"_chunkstore/versions/{number:020d}.json"


def version_number(key: str) -> int | None:
    """The number in a version document's key; None for any other key."""
    match = re.fullmatch(r"_chunkstore/versions/([0-9]{20})\.json", key)
    return int(match[1]) if match else None


def tombstone_to_json(number: int) -> dict[str, Json]:
    """What `gc` puts in the place of the document of a version that it has dropped, so that the number stays taken."""
    return {"format": FORMAT, "requires": [TOMBSTONE], "number": number}


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
            path=node.member("path").string(_PART_PATH),
            fields=tuple(name.string() for name in node.member("fields").items()),
            nbytes=node.member("nbytes").integer(),
            stored_nbytes=node.member("stored_nbytes").integer(),
            objects_nbytes=objects.member("nbytes").integer(1, 1 << 30),
            objects_crc32=int(objects.member("crc32").string("[0-9a-f]{8}"), 16),
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
        block_rows = node.member("block_rows").integer(1, 1 << 40)
        if block_rows & (block_rows - 1):
            node.member("block_rows").fail(f"{block_rows} is no power of two")
        fragment = cls(
            id=node.member("id").string(_UUID),
            first=node.member("first").integer(0, MAX_SAMPLES),
            samples=node.member("samples").integer(1, MAX_SAMPLES),
            block_rows=block_rows,
            parts=tuple(Part.from_json(item) for item in node.member("parts").items()),
        )
        if any(not part.path.startswith(f"fragments/{fragment.id}/") for part in fragment.parts):
            node.fail("a part lies outside its fragment")
        return fragment


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable state of a dataset.

    Attributes:
        dataset: The dataset's UUID, the same in every version.
        number: 1, 2, 3…
        parent: The version this one was made from; None for the first.
        writer: UUID of the writer, by which an unclear commit is recognised.
        time: UTC, ISO 8601.
        message: What the writer said.
        schema: Fields and types.
        fragments: In order: the samples of the dataset are theirs, one after another.
        statistics: Per field.
        next_sample_id: The sample id the next fragment begins with; never goes back.
        condemned_fragments: Ids of the fragments that `gc` has given up for good.
        condemned_versions: Numbers of the versions that `gc` has given up.
        condemned_parts: Paths of parts that `gc` has given up within fragments that live on.
    """

    dataset: str
    number: int
    parent: int | None
    writer: str
    time: str
    message: str
    schema: Schema
    fragments: tuple[Fragment, ...]
    statistics: Mapping[str, FieldStatistics]
    next_sample_id: int
    condemned_fragments: tuple[str, ...] = ()
    condemned_versions: tuple[int, ...] = ()
    condemned_parts: tuple[str, ...] = ()
    num_samples: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_samples", sum(fragment.samples for fragment in self.fragments))

    def to_json(self) -> dict[str, Json]:
        """The document, unsealed."""
        condemned: dict[str, Json] = {
            "fragments": list(self.condemned_fragments),
            "versions": list(self.condemned_versions),
        }
        if self.condemned_parts:
            condemned["parts"] = list(self.condemned_parts)
        return {
            "format": FORMAT,
            "requires": [],
            "dataset": self.dataset,
            "number": self.number,
            "parent": self.parent,
            "writer": self.writer,
            "time": self.time,
            "message": self.message,
            "schema": self.schema.to_json(),
            "statistics": {
                name: {kind: statistics.to_json() for kind, statistics in kinds.items()}
                for name, kinds in self.statistics.items()
            },
            "next_sample_id": self.next_sample_id,
            "condemned": condemned,
            "fragments": [fragment.to_json() for fragment in self.fragments],
        }

    @classmethod
    def from_json(cls, node: Node) -> "Version":
        """Read an unsealed document.

        Raises:
            InvalidDataset: it is damaged or contradicts itself.
            UnsupportedFormat: it is of another format, or requires what this release does not know.
            VersionExpired: it is a tombstone.
        """
        if (number := node.member("format").integer()) != FORMAT:
            raise UnsupportedFormat(
                f"{node.where}: format {number}; this release reads format {FORMAT}: upgrade chunkstore"
            )
        requires = [item.string() for item in node.member("requires").items()]
        if requires == [TOMBSTONE]:
            raise VersionExpired(f"{node.where}: version {node.member('number').integer(1)} was dropped by gc")
        if requires:
            raise UnsupportedFormat(
                f"{node.where}: requires {', '.join(requires)}, unknown to this release: upgrade chunkstore"
            )
        parent = node.member("parent")
        condemned = node.member("condemned")
        version = cls(
            dataset=node.member("dataset").string(_UUID),
            number=node.member("number").integer(1),
            parent=None if parent.value is None else parent.integer(1),
            writer=node.member("writer").string(_UUID),
            time=node.member("time").string(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?Z"),
            message=node.member("message").string(),
            schema=Schema.from_json(node.member("schema")),
            fragments=tuple(Fragment.from_json(item) for item in node.member("fragments").items()),
            statistics={
                name: {kind: _statistics(member, kind) for kind, member in kinds.members()}
                for name, kinds in node.member("statistics").members()
            },
            next_sample_id=node.member("next_sample_id").integer(0, MAX_SAMPLES),
            condemned_fragments=tuple(item.string(_UUID) for item in condemned.member("fragments").items()),
            condemned_versions=condemned.member("versions").integers(1),
            condemned_parts=tuple(item.string(_PART_PATH) for item in condemned.member("parts").items())
            if "parts" in condemned
            else (),
        )
        _check_consistency(version, node)
        return version


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of a part: its size and the crc32 of all its bytes.

    Not crc32c: chunks end in their own, and the crc32c of such bytes is a constant that would tell no shard from another.
    """

    nbytes: int
    crc32: int


def objects_to_json(objects: Mapping[str, StoredObject]) -> dict[str, Json]:
    """The object list of a part: key relative to the part → [nbytes, crc32 in hexadecimal]."""
    return {"objects": {key: [stored.nbytes, f"{stored.crc32:08x}"] for key, stored in objects.items()}}


def objects_from_json(node: Node) -> dict[str, StoredObject]:
    """Read an unsealed object list, or raise InvalidDataset."""
    objects = {}
    for key, member in node.member("objects").members():
        if not re.fullmatch(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", key) or {".", ".."} & set(key.split("/")):
            member.fail("not a key inside the part")
        nbytes, crc32 = member.items(length=2)
        objects[key] = StoredObject(nbytes.integer(), int(crc32.string("[0-9a-f]{8}"), 16))
    return objects


def _statistics(node: Node, kind: str) -> Statistics:
    if kind not in _FIELD_STATISTICS:
        node.fail(f"statistics are of {' or '.join(_FIELD_STATISTICS)}")
    try:
        return Statistics.from_json(node.value)
    except InvalidDataset as error:
        node.fail(str(error))


def _check_consistency(version: Version, node: Node) -> None:
    names = set(version.schema)
    if version.num_samples > MAX_SAMPLES:
        node.fail("more than 2^62 samples")
    if len({fragment.id for fragment in version.fragments}) != len(version.fragments):
        node.fail("a fragment is named twice")
    for fragment in version.fragments:
        held = [name for part in fragment.parts for name in part.fields]
        if not names <= set(held) or len(set(held)) != len(held):
            node.fail(f"fragment {fragment.id} holds the fields {', '.join(held)}, not each of the schema's once")
    spans = sorted((fragment.first, fragment.first + fragment.samples) for fragment in version.fragments)
    if any(a[1] > b[0] for a, b in pairwise(spans)) or (spans and spans[-1][1] > version.next_sample_id):
        node.fail("sample ids are used twice")
    if set(version.statistics) != names:
        node.fail("statistics are not of the schema's fields")
