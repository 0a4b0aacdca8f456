"""Which epoch a pass over a `StreamDataset` is, agreed upon by DataLoader's workers, which do not talk to each other.

The main process is not told when DataLoader begins a pass, and of a pass that is given up early some workers may never have
begun. But DataLoader starts the workers of a pass one after another in one thread: so how many this thread had started before,
less the worker's number, is the same for all of them and for no other pass. Workers that persist count their passes on top.
The first worker of a pass takes the next epoch and notes it; the others find the note. Notes lie in a file that is locked
while it is looked at, a lock the system takes back from whoever is killed.
"""

import fcntl
import json
import os
import tempfile
import threading
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MAX_EPOCH = (1 << 62) - 1
_PASSES_KEPT = 256


class _Starts(threading.local):
    """Worker processes that this thread has started, in a forked child those that its starter had."""

    main: int = 0
    count: int = 0


_starts = _Starts()


def _count_start() -> None:
    _starts.main, _starts.count = os.getpid(), _starts.count + 1


os.register_at_fork(before=_count_start)


class SharedEpochs:
    """The epochs of the passes over one dataset, apart for each main process that holds it."""

    def __init__(self) -> None:
        self._path = Path(tempfile.gettempdir()) / f"chunkstore-epochs-{uuid.uuid4().hex}.json"
        self._pid = os.getpid()
        self._started: tuple[int, int, int] | None = None  # main process, thread, number of the start
        self._passes = 0  # begun by this worker process
        weakref.finalize(self, _remove, self._path, self._pid)

    def set(self, epoch: int) -> None:
        """Make `epoch` that of the next pass that is begun; a pass that any worker has begun keeps its own."""
        with self._opened() as notes:
            main = _main(notes, os.getpid())
            main["next"] = epoch
            if os.getpid() == self._pid and self._started is None:
                notes["first"] = epoch  # for main processes that get a copy

    def begin_pass(self) -> int:
        """The epoch of a pass without workers."""
        with self._opened() as notes:
            main = _main(notes, os.getpid())
            main["next"] += 1
            return int(main["next"]) - 1

    def begin_pass_of_worker(self, worker: int) -> int:
        """The epoch of the next pass of this worker process, which is number `worker` of its pass."""
        forked = os.getpid() != self._pid
        self._passes += 1
        started = (_starts.main, threading.get_ident(), _starts.count) if forked else self._started
        pid, thread, number = (os.getpid(), 0, worker) if started is None else started
        tag = f"{thread} {number - worker} {self._passes}"
        with self._opened() as notes:
            main = _main(notes, pid)
            if tag not in main["passes"]:
                main["passes"][tag] = main["next"]
                main["next"] += 1
                while len(main["passes"]) > _PASSES_KEPT:
                    del main["passes"][next(iter(main["passes"]))]
            return int(main["passes"][tag])

    def __getstate__(self) -> dict[str, Any]:
        """For a process that is being started; a worker of DataLoader, or another main process."""
        _count_start()
        return {"path": str(self._path), "started": (_starts.main, threading.get_ident(), _starts.count)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._path, self._started = Path(state["path"]), state["started"]
        self._pid, self._passes = os.getpid(), 0

    @contextmanager
    def _opened(self) -> Iterator[dict[str, Any]]:
        with os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            text = file.read()
            notes: dict[str, Any] = json.loads(text) if text else {"first": 0, "mains": {}}
            yield notes
            file.seek(0)
            file.write(json.dumps(notes))
            file.truncate()


def _main(notes: dict[str, Any], pid: int) -> dict[str, Any]:
    main: dict[str, Any] = notes["mains"].setdefault(str(pid), {"next": notes["first"], "passes": {}})
    return main


def _remove(path: Path, pid: int) -> None:
    if os.getpid() == pid:
        path.unlink(missing_ok=True)
