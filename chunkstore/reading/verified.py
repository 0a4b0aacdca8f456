"""Which chunks of which files this process has verified: what `verify="first"` remembers.

A file is known by device, inode, size and times of change, so one that was replaced or written to is verified again. Nothing is
remembered of a file that changed within the last seconds, for its times could stay the same through one more change. Bounded in
memory; what is forgotten is verified again. `array.py` stands before it.
"""

import os
import threading
import time
from collections import OrderedDict
from typing import Literal

import numpy as np
import numpy.typing as npt

MAX_CHUNKS = 64 << 20
"""Chunks remembered in a process, at a byte each."""
SETTLED_S = 2.0
"""How long ago a file must have changed to be remembered."""

Check = bool | Literal["first"]
"""Whether checksums are compared; "first": of a local chunk when the process first reads it, of others always."""

Seen = npt.NDArray[np.bool_]

_Identity = tuple[int, ...]
_lock = threading.Lock()
_seen: OrderedDict[_Identity, Seen] = OrderedDict()
_num_chunks = 0


def seen_chunks(file: int, num_chunks: int) -> Seen | None:
    """Which of the chunks of an opened file have been verified, to be read and written to; None if nothing is remembered of it.

    Args:
        file: Descriptor.
        num_chunks: Chunks of the whole shard that it is.
    """
    global _num_chunks  # noqa: PLW0603  (what a process remembers is the process's)
    status = os.fstat(file)
    if abs(time.time() - max(status.st_mtime, status.st_ctime)) < SETTLED_S or num_chunks > MAX_CHUNKS:
        return None
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, num_chunks)
    with _lock:
        seen = _seen.get(identity)
        if seen is not None:
            _seen.move_to_end(identity)
            return seen
        seen = _seen[identity] = np.zeros(num_chunks, np.bool_)
        _num_chunks += num_chunks
        while _num_chunks > MAX_CHUNKS:
            _num_chunks -= len(_seen.popitem(last=False)[1])
        return seen


def forget() -> None:
    """Verify everything anew."""
    global _num_chunks  # noqa: PLW0603  (as above)
    with _lock:
        _seen.clear()
        _num_chunks = 0


def _after_fork() -> None:
    global _lock  # noqa: PLW0603  (the parent's lock may be held by a thread that does not exist here)
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
