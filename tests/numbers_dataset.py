"""A small dataset of one int64 field, written version by version, and a store that lies about its puts."""

from typing import Any

import numpy as np

import chunkstore as cs
from chunkstore.store.interface import Store

SCHEMA = {"x": cs.Array("int64")}


class Lying:
    """A store whose `write_if_absent` below a folder does as a test says."""

    def __init__(self, store: Store, folder: str, put: Any) -> None:
        self._store, self._folder, self._put = store, folder, put

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write_if_absent(self, key: str, data: bytes) -> bool:
        if self._folder not in key:
            return self._store.write_if_absent(key, data)
        return bool(self._put(self._store, key, data))


def options(location: Any) -> dict[str, Any]:
    return {"storage_options": location.storage_options or None}


def begin(location: Any, *more: list[int]) -> Store:
    """A dataset of one version for each list of values; version 1 has [0]."""
    with cs.create(location.url, SCHEMA, **options(location)) as writer:
        writer.write({"x": 0})
    for values in more:
        append(location, values)
    opened: Store = location.open()
    return opened


def append(location: Any, values: list[int], message: str = "") -> int:
    with cs.append(location.url, message=message, num_threads=1, **options(location)) as writer:
        writer.write_batch({"x": np.array(values, np.int64)})
    assert writer.version is not None
    return writer.version


def values_of(location: Any, **which: Any) -> list[int]:
    found: list[int] = cs.open(location.url, **which, **options(location))["x"][:].tolist()
    return found


def ids_of(location: Any, version: int) -> list[int]:
    document = cs.open(location.url, version=version, **options(location)).version_document
    return [f.first + row for f in document.fragments for row in range(f.samples)]
