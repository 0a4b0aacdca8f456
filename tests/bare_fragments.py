"""Datasets of any number of fragments that have no data: enough for whatever reads and commits documents alone."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import chunkstore as cs
from chunkstore.format.schema import Schema
from chunkstore.format.versions import Fragment, Part, Version
from chunkstore.history.commit import commit, create_root, new_id, now
from chunkstore.store.interface import Store

SCHEMA = Schema({"image": cs.Image("jpeg"), "label": cs.Array("int64")})
SAMPLES = 60_000


def bare_fragment(number: int, *, samples: int = SAMPLES, first: int = 0, objects: int = 75) -> Fragment:
    """A fragment whose id follows from its number, of about `objects` shards of 128 MiB."""
    identity = hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()
    nbytes = objects << 27
    part = Part(f"fragments/{identity}/0", ("image", "label"), nbytes, nbytes + 4096 * objects, 60 * objects, number)
    return Fragment(identity, first, samples, 32, (part,))


def bare_fragments(count: int, *, begin: int = 0, **options: Any) -> tuple[Fragment, ...]:
    """Fragments of consecutive numbers and ids."""
    samples = options.get("samples", SAMPLES)
    return tuple(bare_fragment(begin + i, first=(begin + i) * samples, **options) for i in range(count))


STATISTICS = {"image": {"lengths": cs.Statistics()}, "label": {"values": cs.Statistics()}}


def begin_bare(store: Store, count: int, **options: Any) -> Version:
    """A dataset of so many fragments without data."""
    dataset, writer, fragments = create_root(store), new_id(), bare_fragments(count, **options)
    num_samples = sum(fragment.samples for fragment in fragments)

    def first_version(_: Version | None) -> Version:
        return Version(dataset, 1, None, writer, now(), "", SCHEMA, fragments, STATISTICS, num_samples)

    return commit(store, first_version, create=True)


def append_bare(store: Store, *numbers: int) -> Version:
    """A commit of the fragments of these numbers."""
    return append_fragments(store, [bare_fragment(number) for number in numbers])


def append_fragments(store: Store, fragments: Sequence[Fragment]) -> Version:
    """A commit of fragments, or of nothing, to a dataset of any schema; its statistics stay as they are."""
    writer = new_id()

    def next_version(parent: Version | None) -> Version:
        assert parent is not None
        added, first = list(parent.fragments), parent.next_sample_id
        for fragment in fragments:
            added.append(replace(fragment, first=first))
            first += fragment.samples
        return replace(
            parent,
            number=parent.number + 1,
            parent=parent.number,
            writer=writer,
            time=now(),
            message="",
            fragments=tuple(added),
            next_sample_id=first,
        )

    return commit(store, next_version, create=False)


def counting_ids() -> Callable[[], str]:
    """Page ids 1, 2, 3…"""
    ids = iter(range(1, 1 << 30))
    return lambda: f"{next(ids):032x}"
