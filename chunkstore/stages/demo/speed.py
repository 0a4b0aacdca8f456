"""How fast a dataset streams, shuffled in batches, and how fast the same data come in order, by one call.

Both are taken in the same run, one after the other, on data that were read before. Before it: the story; after it: the table.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import chunkstore as cs
from chunkstore.store.location import open_store

BATCH = 256
MIN_TIME_S = 0.5


@dataclass(frozen=True, slots=True)
class Speed:
    """Throughput of one dataset.

    Attributes:
        samples: Of the dataset.
        samples_per_s: Through the loader, shuffled, as tensors.
        nbytes_per_s: The same, as bytes of decoded batches.
        whole_samples_per_s: By one `dataset[:]`: read, checked and decoded likewise, neither shuffled nor made into batches.
    """

    samples: int
    samples_per_s: float
    nbytes_per_s: float
    whole_samples_per_s: float

    @property
    def fraction(self) -> float:
        """Of the rate of one `dataset[:]`."""
        return self.samples_per_s / self.whole_samples_per_s


def measure(url: str, options: Mapping[str, Any] | None) -> Speed:
    """Stream whole epochs for a while, after a first one that is not counted; then read all of it likewise.

    Each epoch has a loader of its own, so that nothing comes out of an older one's memory; opening the dataset and making the
    loader are timed with it.
    """
    loader = _new_loader(url, options)
    samples = len(loader.dataset)
    nbytes = sum(_nbytes(value) for batch in loader for value in batch.values())
    epochs, seconds = 0, 0.0
    while seconds < MIN_TIME_S:
        begin = time.perf_counter()
        for _ in _new_loader(url, options):
            pass
        epochs, seconds = epochs + 1, seconds + time.perf_counter() - begin
    epoch_s = seconds / epochs
    return Speed(samples, samples / epoch_s, nbytes / epoch_s, samples / _whole_time_s(url, options))


def _new_loader(url: str, options: Mapping[str, Any] | None) -> cs.Loader:
    return cs.Loader(url, BATCH, shuffle=True, drop_last=False, device="cpu", storage_options=options)


def stored_nbytes(url: str, options: Mapping[str, Any] | None) -> int:
    """Bytes of all objects of a dataset, metadata and all versions included."""
    return sum(listed.nbytes for listed in open_store(url, storage_options=options).list())


def _whole_time_s(url: str, options: Mapping[str, Any] | None) -> float:
    """Seconds in which `dataset[:]` gives everything in order, opening included; after a first time that is not counted."""
    rounds, seconds = -1, 0.0
    while seconds < MIN_TIME_S / 2:
        begin = time.perf_counter()
        cs.open(url, storage_options=options)[:]
        rounds, seconds = rounds + 1, seconds + (time.perf_counter() - begin if rounds >= 0 else 0.0)
    return seconds / rounds


def _nbytes(value: Any) -> int:
    """Bytes of a batch's column."""
    if isinstance(value, list):
        return sum(len(v.encode()) if isinstance(v, str) else int(v.nbytes) for v in value)
    return int(value.nbytes)
