"""A fuzzer of everything that reads documents and indexes, by atheris: `fuzz_documents.py [folder…] [libFuzzer's options]`.

The first byte of an input chooses the reader. Documents are sealed here, so what is changed stands behind a right checksum.
Whatever comes, a reader returns or raises what its docstring says, and what it returns is read back equal from its own JSON.
"""

import json
import random
import sys
from collections.abc import Callable
from typing import Any

import atheris

with atheris.instrument_imports(include=["chunkstore.format", "chunkstore.kernels"]):
    import numpy as np

    from chunkstore._native import crc32c
    from chunkstore.errors import InvalidDataset, UnsupportedFormat, VersionExpired
    from chunkstore.format.codecs import ChunkCodecs, Compressor
    from chunkstore.format.documents import Node, parse_json, unseal
    from chunkstore.format.fragments import _from_row, _from_sound_row, fragments_from_rows
    from chunkstore.format.metadata import ArrayMetadata
    from chunkstore.format.pages import Condemned, CondemnedRef, PageRef
    from chunkstore.format.schema import Schema
    from chunkstore.format.shard_index import decode_index
    from chunkstore.format.statistics import Statistics
    from chunkstore.format.tags import Tag
    from chunkstore.format.versions import VersionDocument, objects_from_json, objects_to_json
    from chunkstore.history.versions import _read_hint
    from chunkstore.kernels.codecs import decode_chunk
    from chunkstore.kernels.images import check_image
    from chunkstore.writing.results import FragmentResult

_HOSTILE = (
    *(None, True, False, 0, -1, 1, 2, 1.5, -0.0, 1e308, (1 << 63) - 1, 1 << 63, -(1 << 63), 1 << 64, 1 << 62, 10**400),
    *("", ".", "..", "a/../b", "/etc", "\0", "x" * 300, "é", "0" * 32, "00000000", "int64", "pages", "2026-01-01T00:00:00Z"),
    *([], {}, [[]], [None], {"name": "zstd"}, {"type": "text"}, [1 << 40, 2], {"values": {}}),
)  # fmt: skip


def _sealed(body: bytes) -> Node:
    return unseal(b'{"crc32c":"%08x","document":%s}' % (crc32c(body), body), "fuzz")


def _version(body: bytes) -> None:
    document = VersionDocument.from_json(_sealed(body))
    assert document.num_samples >= 0
    if not (document.pages or document.condemned_pages):
        version = document.complete(())
        again = VersionDocument.from_json(_sealed(json.dumps(version.to_json()).encode())).complete(())
        assert again == version


def _refs(body: bytes) -> None:
    node = _sealed(body)
    reader = PageRef if "samples" in node else CondemnedRef
    reader.from_json(node)


def _objects(body: bytes) -> None:
    objects = objects_from_json(_sealed(body))
    assert objects_from_json(Node(objects_to_json(objects), "again")) == objects
    assert not any(set(key.split("/")) & {"", ".", ".."} for key in objects)


def _array(body: bytes) -> None:
    array = ArrayMetadata.from_json(parse_json(body, "fuzz"))
    assert array.chunk_nbytes < 1 << 31
    assert all(n >= 0 for n in array.shape)
    assert ArrayMetadata.from_json(Node(json.loads(json.dumps(array.to_json())), "again")) == array


def _schema(body: bytes) -> None:
    schema = Schema.from_json(_sealed(body))
    assert Schema.from_json(Node(json.loads(json.dumps(schema.to_json())), "again")) == schema
    repr(schema)


def _tag(body: bytes) -> None:
    tag = Tag.from_json(_sealed(body))
    assert Tag.from_json(Node(tag.to_json(), "again")) == tag


def _statistics(body: bytes) -> None:
    statistics = Statistics.from_json(_sealed(body).value)
    assert Statistics.from_json(statistics.to_json()) == statistics
    assert statistics.merge(statistics).count == 2 * statistics.count


def _page(body: bytes) -> None:
    """A page of fragments, of which the fast way and the one that names the place must think alike."""
    node = _sealed(body)
    sets = [names.strings() for names in node.member("fields").items()]
    rows = node.member("fragments")
    for row in rows.items():
        fast = _from_sound_row(row.value, sets)
        try:
            slow = _from_row(row, sets)
        except InvalidDataset:
            assert fast is None
        else:
            assert fast == slow
    assert [fragment.id for fragment in fragments_from_rows(rows, sets)] == [row[0] for row in rows.value]


def _condemned(body: bytes) -> None:
    condemned = Condemned.from_json(_sealed(body))
    assert Condemned.from_json(Node(condemned.to_json(), "again")) == condemned


class _HintStore:
    """What reading a hint needs of a store."""

    def __init__(self, body: bytes) -> None:
        self.data = b'{"crc32c":"%08x","document":%s}' % (crc32c(body), body)

    def read(self, key: str, *, limit_nbytes: int | None = None) -> bytes:
        return self.data


def _hint(body: bytes) -> None:
    hint: Any = _read_hint(_HintStore(body))  # type: ignore[arg-type]
    assert hint is None or hint.number >= 1


def _result(body: bytes) -> None:
    result = FragmentResult.from_json(b'{"crc32c":"%08x","document":%s}' % (crc32c(body), body))
    assert FragmentResult.from_json(result.to_json()) == result


def _frame(body: bytes) -> None:
    unseal(body, "fuzz")


def _index(body: bytes) -> None:
    num_chunks, object_nbytes = len(body) // 16, int.from_bytes(body[:3], "little")
    entries = body[: 16 * num_chunks]
    index = decode_index(entries + crc32c(entries).to_bytes(4, "little"), num_chunks, object_nbytes, "fuzz")
    stored = index[index[:, 0] >= 0]
    assert (stored[:, 0] <= stored[:, 1]).all()
    assert (stored[:, 1] <= max(0, object_nbytes - 16 * num_chunks - 4)).all()
    held = np.sort(stored[stored[:, 0] < stored[:, 1]], axis=0)
    assert (held[1:, 0] >= held[:-1, 1]).all()


def _gzip(body: bytes) -> None:
    out = np.empty(int.from_bytes(body[:2], "little"), np.uint8)
    decode_chunk(ChunkCodecs(Compressor("gzip", 5), crc32c=False), body[2:], out)


def _image(body: bytes) -> None:
    height, width = check_image(body[1:], ("jpeg", "png", "webp")[body[0] % 3] if body else "png")
    assert height >= 1 <= width


_DAMAGE = (InvalidDataset, UnsupportedFormat)
READERS: tuple[tuple[Callable[[bytes], None], tuple[type[Exception], ...]], ...] = (
    (_version, (*_DAMAGE, VersionExpired)),
    (_refs, _DAMAGE),
    (_objects, (InvalidDataset,)),
    (_array, _DAMAGE),
    (_schema, _DAMAGE),
    (_tag, (InvalidDataset,)),
    (_statistics, (InvalidDataset,)),
    (_frame, (InvalidDataset,)),
    (_index, (InvalidDataset,)),
    (_gzip, (ValueError,)),
    (_image, (ValueError,)),
    (_page, (InvalidDataset,)),
    (_condemned, (InvalidDataset,)),
    (_hint, ()),
    (_result, _DAMAGE),
)
"""Each reader of bytes, and what it may raise."""
NOT_JSON = range(7, 11)
"""Readers of other bytes than JSON."""


def read(data: bytes) -> None:
    """Give an input to the reader that it chooses."""
    if data:
        reader, errors = READERS[data[0] % len(READERS)]
        try:
            reader(data[1:])
        except errors as error:
            assert len(str(error)) < 5_000  # people are to read it


def mutate(data: bytes, max_nbytes: int, seed: int) -> bytes:
    """Change JSON as JSON three times out of four, and as bytes otherwise."""
    chance = random.Random(seed)
    if data and data[0] % len(READERS) not in NOT_JSON and chance.random() < 0.75:
        try:
            value = json.loads(data[1:])
            for _ in range(chance.randint(1, 3)):
                value = _mutated(value, chance)
            changed = data[:1] + json.dumps(value, separators=(",", ":")).encode()
        except (ValueError, RecursionError):
            changed = b""
        if 0 < len(changed) <= max_nbytes:
            return changed
    return bytes(atheris.Mutate(data, max_nbytes))


def _mutated(value: Any, chance: random.Random) -> Any:
    """One place of a document, changed."""
    if isinstance(value, dict | list) and value and chance.random() < 0.9:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = chance.choice(keys)
        value = value.copy()
        match chance.random():
            case x if x < 0.1:
                del value[key]
            case x if x < 0.2 and isinstance(value, list):
                value.insert(key, value[chance.randrange(len(value))])
            case x if x < 0.2 and isinstance(value, dict):
                value[chance.choice(("parts", "pages", "chunk", "codec", "..", "x"))] = value[chance.choice(keys)]
            case x if x < 0.3:
                value[key] = value[chance.choice(keys)]
            case _:
                value[key] = _mutated(value[key], chance)
        return value
    if type(value) is int and chance.random() < 0.5:
        return value + chance.choice((-1, 1, -value, value, 1 << 32, 1 << 53))
    if isinstance(value, str) and value and chance.random() < 0.5:
        at = chance.randrange(len(value))
        return value[:at] + chance.choice(("", "0", "/", ".", "\n", "é")) + value[at + 1 :]
    return chance.choice(_HOSTILE)


if __name__ == "__main__":
    atheris.Setup(sys.argv, read, custom_mutator=mutate)
    atheris.Fuzz()
