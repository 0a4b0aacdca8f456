"""A store whose user dies, or loses an answer, at one chosen operation.

What is left behind is whatever the store had done by then. A test runs the same thing over and over, each time with the next
operation chosen, and looks at what the dataset is afterwards.
"""

import threading
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from recording_store import RecordingStore

from chunkstore.errors import StoreError
from chunkstore.store.interface import Data

Mode = Literal["before", "middle", "after", "lost", "refused", "late", "later", "latest"]
"""What happens at the operation.

Three in which the process dies, so that every later operation fails too: before it is done, when it is half done, after it.
Two in which the network fails once and the process goes on: it is done and the answer lost, or it is not done.
Three for a put-if-absent that seems to have failed and arrives all the same: before the next try, after the next try, or when
the process has given up.
"""
DEADLY: frozenset[Mode] = frozenset({"before", "middle", "after"})
LATE: frozenset[Mode] = frozenset({"late", "later", "latest"})
VISIBLE = frozenset({"write", "write_if_absent", "upload.finish", "delete"})
"""Operations after which others see something new."""
PIECES = frozenset({"write", "upload.write", "upload.finish"})
"""Operations whose refusal nothing but the writer of a fragment meets, which ends as if it had died before."""
DIVISIBLE = frozenset({"upload.write", "delete"})


def modes_of(name: str, key: str) -> list[Mode]:
    """What can happen at an operation and make a difference.

    Half a read is no read, and half a put is never seen; after a piece of an upload things are as they are before the next.
    """
    modes: list[Mode] = ["before"]
    if name not in PIECES:
        modes += ["refused"]
    if name in VISIBLE:
        modes += ["after", "lost"]
    if name in DIVISIBLE and (name != "delete" or " " in key):
        modes += ["middle"]
    if name == "write_if_absent":
        modes += sorted(LATE)
    return modes


class Crashed(BaseException):
    """The process is dead. Nobody catches this; what tidies up on its way finds a store that does nothing more."""


@dataclass
class CrashingStore(RecordingStore):
    """Passes everything on, and lets `mode` happen at operation number `at`.

    Attributes:
        at: Which operation, counted from 0; -1 for none.
        mode: What happens at it.
        struck: Name and key of that operation, once it was reached.
        count: Operations so far.
    """

    at: int = -1
    mode: Mode = "before"
    struck: tuple[str, str] | None = None
    count: int = 0
    _dead: bool = False
    _on_its_way: list[tuple[str, bytes]] = field(default_factory=list)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        assert self.mode in get_args(Mode)

    def write_if_absent(self, key: str, data: Data) -> bool:
        if self.mode not in LATE:
            return super().write_if_absent(key, data)
        if self._strikes("write_if_absent", key):
            self._on_its_way.append((key, bytes(data)))
            raise StoreError("timeout, and the request is on its way")
        if (key, bytes(data)) not in self._on_its_way:
            return self.inner.write_if_absent(key, data)
        if self.mode == "latest":
            raise StoreError("timeout once more")
        if self.mode == "late":
            self.arrive()
        put = self.inner.write_if_absent(key, data)
        self.arrive()
        return put

    def arrive(self) -> None:
        """Let what is on its way arrive."""
        while self._on_its_way:
            self.inner.write_if_absent(*self._on_its_way.pop())

    def _do(self, name: str, key: str, call: Any, *, half: Any = None, **noted: Any) -> Any:
        strikes = self._strikes(name, key)
        if strikes and self.mode == "refused":
            raise StoreError(f"connection refused: {name} {key}")
        if strikes and self.mode == "middle" and half is not None:
            half()
        if strikes and self.mode in {"before", "middle"}:
            raise Crashed(f"{self.mode} {name} {key}")
        result = super()._do(name, key, call, **noted)
        if strikes and self.mode == "lost":
            raise StoreError(f"connection reset by peer: {name} {key}")
        if strikes and self.mode == "after":
            raise Crashed(f"after {name} {key}")
        return result

    def _strikes(self, name: str, key: str) -> bool:
        with self._turn:
            if self._dead:
                raise Crashed("the process is dead already")
            strikes = self.count == self.at
            self.count += 1
            if strikes:
                self.struck = (name, key)
                self._dead = self.mode in DEADLY
            return strikes
