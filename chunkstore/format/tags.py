"""Tags: names that people give to versions.

A tag is one sealed document, put if absent and never changed, so a name means the same version for ever. Never does I/O;
`history/tags.py` writes and reads it.

Source: docs/spec/v1.md, "Tags".
"""

import re
from dataclasses import dataclass

from chunkstore.format.documents import Json, Node

TAGS_PREFIX = "_chunkstore/tags"
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}"
_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?Z"
_UUID = r"[0-9a-f]{32}"


def tag_key(name: str) -> str:
    """Key of the document of tag `name`.

    Raises:
        ValueError: no tag can have this name.
    """
    if not isinstance(name, str) or not re.fullmatch(_NAME, name):
        raise ValueError(
            f"tag name {str(name)[:60]!r}: letters, digits, '_', '.', '-' are allowed, the first a letter or digit, at most 128"
        )
    return f"{TAGS_PREFIX}/{name}.json"


def tag_name(key: str) -> str | None:
    """The name in a tag document's key; None for any other key."""
    match = re.fullmatch(rf"{TAGS_PREFIX}/({_NAME})\.json", key)
    return match[1] if match else None


@dataclass(frozen=True, slots=True)
class Tag:
    """What a tag says.

    Attributes:
        dataset: UUID of the dataset.
        version: Number of the version it names.
        time: UTC, ISO 8601.
        writer: UUID of the call that wrote it, by which an unclear answer is resolved.
    """

    dataset: str
    version: int
    time: str
    writer: str

    def to_json(self) -> dict[str, Json]:
        """The document, unsealed."""
        return {"dataset": self.dataset, "version": self.version, "time": self.time, "writer": self.writer}

    @classmethod
    def from_json(cls, node: Node) -> "Tag":
        """Read an unsealed document, or raise InvalidDataset."""
        return cls(
            dataset=node.member("dataset").string(_UUID),
            version=node.member("version").integer(1),
            time=node.member("time").string(_TIME),
            writer=node.member("writer").string(_UUID),
        )
