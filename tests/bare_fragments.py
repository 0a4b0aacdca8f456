"""Datasets of any number of fragments that have no data: enough for whatever reads and commits documents alone."""

import hashlib
from collections.abc import Callable
from typing import Any

import chunkstore as cs
from chunkstore.format.schema import Schema
from chunkstore.format.versions import Fragment, Part, Version
from chunkstore.history.commit import commit_fragments, create_root, read_latest
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
    fragments = bare_fragments(count, **options)
    return commit_fragments(store, create_root(store), SCHEMA, fragments, STATISTICS, message="", create=True)


def append_bare(store: Store, *numbers: int) -> Version:
    """A commit of the fragments of these numbers."""
    fragments = tuple(bare_fragment(number) for number in numbers)
    dataset = read_latest(store).dataset
    return commit_fragments(store, dataset, SCHEMA, fragments, STATISTICS, message="", create=False)


def counting_ids() -> Callable[[], str]:
    """Page ids 1, 2, 3…"""
    ids = iter(range(1, 1 << 30))
    return lambda: f"{next(ids):032x}"
