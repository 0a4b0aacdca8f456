"""Small datasets for loaders, written once a module; and stores that count or hold up what is read."""

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest

import chunkstore as cs
from chunkstore.history.commit import read_version
from chunkstore.store.location import open_store

WIDTH = 8


def columns(start, stop):
    """What the datasets hold of samples [start, stop), every field a function of the sample's position."""
    i = np.arange(start, stop)
    return {
        "y": i,
        "x": (i[:, None] * 10 + np.arange(WIDTH)).astype(np.float32),
        "tokens": [np.arange(n % 5, dtype=np.uint16) + n for n in range(start, stop)],
        "name": [f"näme {n}" for n in range(start, stop)],
    }


SCHEMA = {"y": cs.Array("int64"), "x": cs.Array("float32", (WIDTH,)), "tokens": cs.Ragged("uint16"), "name": cs.Text()}


def write(url, fragments, schema=None, **options):
    """A dataset of fragments of so many samples; fields beside those of `columns` are not written."""
    schema = SCHEMA if schema is None else schema
    with cs.create(url, schema, **options):
        pass
    first = 0
    for samples in fragments:
        with cs.append(url, **options) as writer:
            writer.write_batch(
                {name: values for name, values in columns(first, first + samples).items() if name in schema}
            )
        first += samples
    return url


@pytest.fixture(scope="module")
def make_dataset():
    """Write a dataset of given fragments into memory; the same URL for the same fragments."""
    made: dict[tuple[int, ...], str] = {}
    prefix = f"loader-{uuid.uuid4().hex}"

    def make(*fragments):
        if fragments not in made:
            made[fragments] = write(f"memory://{prefix}/{len(made)}", fragments)
        return made[fragments]

    yield make
    objects = fsspec.filesystem("memory").store
    for path in [path for path in objects if path.startswith(f"/{prefix}/")]:
        del objects[path]


class WatchedStore:
    """Another store, with a look at what is read of it: `reads` lists (key, start, stop) of data."""

    def __init__(self, store, *, delay_s=0.0, before: Callable[[str], None] = lambda key: None):
        self._store, self._delay_s, self._before = store, delay_s, before
        self._lock = threading.Lock()
        self.reads: list[tuple[str, int, int]] = []

    def __getattr__(self, name):
        return getattr(self._store, name)

    def read_ranges(self, key, ranges):
        with self._lock:
            self.reads += [(key, *r) for r in ranges]
        self._before(key)
        time.sleep(self._delay_s)
        return self._store.read_ranges(key, ranges)

    @property
    def nbytes(self):
        return sum(stop - start for _, start, stop in self.reads)


@pytest.fixture(scope="session")
def watch():
    """Open a dataset through a `WatchedStore`; gives both."""

    def open_watched(url, **options):
        store = WatchedStore(open_store(url), **options)
        return cs.Dataset(store, read_version(store, None)), store

    return open_watched


@pytest.fixture(scope="session")
def run_script(tmp_path_factory):
    """Run a Python script in a process of its own, which must end in time; gives the completed process."""

    def run(source, *arguments, timeout_s=60, **environment):
        path = Path(tmp_path_factory.mktemp("script")) / "script.py"
        path.write_text(source)
        return subprocess.run(
            [
                sys.executable,
                "-W",
                "error",
                "-W",
                "ignore:This process:DeprecationWarning",
                str(path),
                *map(str, arguments),
            ],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**os.environ, **environment},
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def write_dataset():
    return write


@pytest.fixture(scope="session")
def expected_columns():
    return columns


@pytest.fixture
def no_threads_left():
    """Fail if threads of loaders run a moment after the test."""
    yield
    deadline = time.monotonic() + 5
    while left := [
        t.name for t in threading.enumerate() if t.name.startswith(("chunkstore-read", "chunkstore-assemble"))
    ]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)
