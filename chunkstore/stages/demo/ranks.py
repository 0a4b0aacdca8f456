"""Starts the ranks of the resumed training as processes of their own, watches them, and collects what they were given.

What torchrun does, for one machine and a moment: a process a rank, RANK and WORLD_SIZE in the environment. Leaves no process
behind, however the block ends. Before it: the story; after it: `rank.py`.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

Delivered = dict[int, list[int]]
"""Numbers of the samples that a rank was given, by epoch."""

_POLL_S = 0.05
_TIMEOUT_S = 120.0


class RankFailed(Exception):
    """A rank ended before its work was done; the end of what it said is in the message."""


class Ranks:
    """Processes that wait for a job, one a rank. Made by `start_ranks`."""

    def __init__(self, processes: Sequence["subprocess.Popen[str]"], folder: Path) -> None:
        self._processes, self.folder = processes, folder

    def run(self, job_line: str) -> Iterator[None]:
        """Give every rank its job, and yield for each step that rank 0 does.

        Raises:
            RankFailed: a rank failed, or the time ran out.
        """
        for process in self._processes:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended already; the loop below says why
                process.stdin.write(job_line)
                process.stdin.flush()
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=_forward, args=(self._processes[0], lines), daemon=True).start()
        deadline = time.monotonic() + _TIMEOUT_S
        while any(process.poll() is None for process in self._processes) or not lines.empty():
            self._check(deadline)
            try:
                lines.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            yield
        self._check(deadline)

    def delivered(self) -> list[Delivered]:
        """What each rank was given, once `run` has ended."""
        texts = [(self.folder / f"delivered-{rank}.json").read_text() for rank in range(len(self._processes))]
        return [{int(epoch): numbers for epoch, numbers in json.loads(text).items()} for text in texts]

    def _check(self, deadline: float) -> None:
        for rank, process in enumerate(self._processes):
            if process.poll():
                said = (self.folder / f"rank-{rank}.log").read_text(errors="replace")[-2000:]
                raise RankFailed(f"rank {rank} ended with status {process.returncode}; it said:\n{said}")
        if time.monotonic() > deadline:
            raise RankFailed(f"the ranks were not done within {_TIMEOUT_S:g} s; their logs are in {self.folder}")


@contextlib.contextmanager
def start_ranks(world_size: int, folder: Path) -> Iterator[Ranks]:
    """Start processes that load what they need and wait for `Ranks.run`; none is left when the block ends.

    Args:
        world_size: Their number.
        folder: For their logs and results; made here.
    """
    folder.mkdir(parents=True)
    processes: list[subprocess.Popen[str]] = []
    try:
        for rank in range(world_size):
            processes.append(_start_rank(rank, world_size, folder))  # noqa: PERF401  (one that fails must not lose the others)
        yield Ranks(processes, folder)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()


# -P: the working folder may be a checkout, whose source without the compiled part would stand before what is installed.
RANK_COMMAND = (sys.executable, "-P", "-m", "chunkstore.stages.demo.rank")


def _start_rank(rank: int, world_size: int, folder: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": str(world_size)}
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the machine's name need not resolve
    with (folder / f"rank-{rank}.log").open("wb") as log:
        return subprocess.Popen(
            RANK_COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if rank == 0 else log,
            stderr=log,
            env=environment,
            text=True,
            start_new_session=True,  # Ctrl-C is the story's to handle
        )


def _forward(process: "subprocess.Popen[str]", lines: "queue.SimpleQueue[str]") -> None:
    assert process.stdout is not None
    with contextlib.suppress(ValueError):  # closed by the end of the block
        for line in process.stdout:
            lines.put(line)
