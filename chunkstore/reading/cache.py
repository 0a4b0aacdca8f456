"""A cache of decoded chunks, for reads that want a part of a chunk now and another part soon.

Bounded in bytes, least recently used goes first, safe for threads. What is kept has been verified and is never written to.
"""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import numpy.typing as npt


class ChunkCache:
    """Decoded chunks by key.

    Args:
        max_nbytes: What all kept chunks may hold; a larger chunk is not kept.
    """

    def __init__(self, max_nbytes: int) -> None:
        self.max_nbytes = max_nbytes
        self._nbytes = 0
        self._chunks: OrderedDict[Hashable, npt.NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: Hashable) -> npt.NDArray[Any] | None:
        """The chunk kept under `key`, or None."""
        with self._lock:
            chunk = self._chunks.get(key)
            if chunk is not None:
                self._chunks.move_to_end(key)
            return chunk

    def drop(self, key: Hashable) -> None:
        """Keep nothing under `key`."""
        with self._lock:
            chunk = self._chunks.pop(key, None)
            if chunk is not None:
                self._nbytes -= chunk.nbytes

    def keep(self, key: Hashable, chunk: npt.NDArray[Any]) -> None:
        """Keep a chunk, and let the longest unused go to make room."""
        if chunk.nbytes > self.max_nbytes:
            return
        with self._lock:
            if key in self._chunks:
                return
            self._chunks[key] = chunk
            self._nbytes += chunk.nbytes
            while self._nbytes > self.max_nbytes:
                self._nbytes -= self._chunks.popitem(last=False)[1].nbytes
