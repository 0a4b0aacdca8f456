"""Two thousand random flips in chunks of every field type and codec: each is found and named, and none is served."""

import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from faults.overlay import Overlay, flipped
from faults.scenarios import memory_store
from PIL import Image

import chunkstore as cs
from chunkstore.errors import CorruptChunk, CorruptSample
from chunkstore.format.metadata import ArrayMetadata
from chunkstore.format.shard_index import decode_index, index_nbytes
from chunkstore.history.commit import read_latest
from chunkstore.reading.dataset import Dataset
from chunkstore.reading.part import read_documents

NUM_FLIPS = 2000
FIRST, N = 9, 300
"""The damaged fragment begins at this sample of the version, and has so many."""
CODECS = [None, "blosc-lz4", "blosc-zstd", "zstd-3", "gzip-1"]


def png(chance: np.random.Generator) -> bytes:
    file = io.BytesIO()
    Image.fromarray(chance.integers(0, 256, (2, 3, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def make_fields() -> dict[str, tuple[Any, list[Any]]]:
    """Every kind of field with every kind of codec, and its samples."""
    chance = np.random.default_rng(0)
    count = FIRST + N
    fields: dict[str, tuple[Any, list[Any]]] = {}
    for codec in CODECS:
        name = (codec or "plain").replace("-", "_")
        options = {"codec": codec, "chunk": 32}
        fields[f"array_{name}"] = (cs.Array("int32", (2,), **options), [*chance.integers(0, 99, (count, 2), np.int32)])
        ragged = [chance.integers(0, 9, (i % 4, 2)).astype("u2") for i in range(count)]
        fields[f"ragged_{name}"] = (cs.Ragged("uint16", (None, 2), **options), ragged)
        fields[f"bytes_{name}"] = (
            cs.Bytes(codec=codec, chunk=128),
            [bytes([i % 250]) * (i % 11) for i in range(count)],
        )
    fields["boxes"] = (cs.Array("float32", (6, 6), chunk=(32, 4, 4)), [*chance.random((count, 6, 6), np.float32)])
    fields["flags"] = (cs.Array("bool", chunk=64), [*(chance.random(count) < 0.5)])
    fields["brain"] = (cs.Array("bfloat16", (3,), chunk=64), [*np.zeros((count, 3), np.float32)])
    fields["text"] = (cs.Text(), [f"sample {i}" * (i % 3) for i in range(count)])
    fields["image"] = (cs.Image("png"), [png(chance) for _ in range(count)])
    return fields


@dataclass(frozen=True)
class Target:
    """A shard, and what its bytes stand for.

    Attributes:
        store: Of the field's dataset.
        key: Of the shard.
        field: Its name.
        path: Of the array in its part.
        array: Its metadata.
        shard: Number of the shard in it.
        index: Of the shard.
        nbytes: Bytes before the index.
        spans: Begin and end of each sample in the values, int64 (samples, 2), for fields that have them.
    """

    store: Overlay
    key: str
    field: str
    path: str
    array: ArrayMetadata
    shard: int
    index: Any
    nbytes: int
    spans: Any


@pytest.fixture(scope="module")
def targets() -> list[Target]:
    """All shards of the last fragments of datasets of a field each: with more fields each look would take longer."""
    found = []
    for name, (field, values) in make_fields().items():
        made: Any = memory_store()
        with cs.create(made, {name: field}, num_threads=1) as writer:
            writer.write_batch({name: values[:FIRST]})
        with cs.append(made, num_threads=1) as writer:
            writer.write_batch({name: values[FIRST:]})
        found += targets_in(Overlay(made), name, spans_of(cs.open(made), name))
    return found


def spans_of(ds: cs.Dataset, name: str) -> Any:
    if isinstance(ds.schema[name], cs.Array):
        return None
    ends = np.cumsum(ds.read_lengths(name, np.array([[FIRST, FIRST + N]])))
    return np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1)


def targets_in(store: Overlay, field: str, spans: Any) -> Iterator[Target]:
    part = read_latest(store).fragments[-1].parts[0]
    objects, metadata = read_documents(store, part)
    for path, array in metadata.items():
        num_chunks = int(np.prod(array.chunks_per_shard))
        for name, stored in objects.items():
            if name.startswith(f"{path}/c/"):
                key, shard = f"{part.path}/{name}", int(name[len(path) + 3 :].split("/")[0])
                end = stored.nbytes - index_nbytes(num_chunks)
                index = decode_index(store.objects[key][end:], num_chunks, stored.nbytes, key)
                yield Target(store, key, field, path, array, shard, index, end, spans)


def samples_hit(target: Target, at: int) -> range | None:
    """The samples that a byte of a shard is part of, as the version counts; None for bytes that stand for nothing."""
    shard_rows, chunk_rows = target.array.shard_shape[0], target.array.chunk_shape[0]
    if target.array.is_plain:
        value = target.shard * shard_rows + at // target.array.numpy_dtype.itemsize
        hit = np.flatnonzero((target.spans[:, 0] <= value) & (value < target.spans[:, 1]))
    else:
        (chunk,) = np.flatnonzero((target.index[:, 0] <= at) & (at < target.index[:, 1]))
        row = target.shard * shard_rows + int(chunk) // int(np.prod(target.array.chunks_per_shard[1:])) * chunk_rows
        if target.path.endswith("/values"):
            hit = np.flatnonzero((target.spans[:, 0] < row + chunk_rows) & (target.spans[:, 1] > row))
            filled = target.spans[:, 0] < target.spans[:, 1]
            hit = hit[filled[hit]]
        else:
            hit = np.arange(row, min(row + chunk_rows, N))
    return range(FIRST + int(hit[0]), FIRST + int(hit[-1]) + 1) if len(hit) else None


def flips(targets: list[Target]) -> Iterator[tuple[Target, int, int, range]]:
    """Shards in turn, and in each a random byte that stands for something, and a random change of it."""
    chance = np.random.default_rng(1)
    number = 0
    while number < NUM_FLIPS:
        target = targets[number % len(targets)]
        at, mask = int(chance.integers(target.nbytes)), int(chance.integers(1, 256))
        if (hit := samples_hit(target, at)) is not None:
            number += 1
            yield target, at, mask, hit


def told_samples(message: str) -> range:
    found = re.search(r"\(field '\w+', samples? (\d+)(?:–(\d+))?\)", message)
    assert found, message
    return range(int(found[1]), int(found[2] or found[1]) + 1)


def test_two_thousand_flips_are_each_named_and_none_is_served(targets: list[Target]) -> None:
    found: Counter[str] = Counter()
    versions = {target.field: read_latest(target.store) for target in targets}
    for target, at, mask, hit in flips(targets):
        store = target.store
        with store.with_changed(target.key, flipped(store.objects[target.key], at, mask)):
            told = f"{target.key}, byte {at} xor {mask:02x}"
            with pytest.raises((CorruptChunk, CorruptSample)) as caught:
                served = Dataset(store, versions[target.field], decode=False)[target.field][FIRST:]
                pytest.fail(f"{told} was served: {served}")
            message = str(caught.value)
            assert target.key in message, told
            assert f"field '{target.field}'" in message
            assert told_samples(message) == hit, told
            found[target.path] += 1
    assert sum(found.values()) == NUM_FLIPS
    assert set(found) == {target.path for target in targets}


def test_verify_lists_each_of_two_thousand_flips(targets: list[Target]) -> None:
    several = list(flips(targets))
    for name in {target.field for target in targets}:
        mine = [(target, at, mask, hit) for target, at, mask, hit in several if target.field == name]
        store = mine[0][0].store
        changed: dict[str, bytes | None] = {}
        for target, at, mask, _ in mine:
            changed[target.key] = flipped(changed.get(target.key) or store.objects[target.key], at, mask)
        store.changed.update(changed)
        damages = cs.verify(store).damages  # type: ignore[arg-type]
        store.changed.clear()
        assert {damage.key for damage in damages} == set(changed)
        for target, at, _, hit in mine:
            told = [d for d in damages if d.key == target.key and d.field == target.field and d.samples]
            covered = {sample for d in told for sample in range(*d.samples)}  # type: ignore[misc]
            assert covered.issuperset(hit), (target.key, at, told)
