"""Forty real SIGKILLs: whatever the process was doing, the dataset opens, verifies, and has what was acknowledged once."""

import importlib
import multiprocessing
import random
import time
from pathlib import Path

from faults.killed import VALUES_OF_A_PROCESS, work
from faults.scenarios import SCHEMA, columns, leftovers

import chunkstore as cs
from chunkstore.store.local import LocalStore

NUM_KILLS = 40
MAX_LINES = 5
PRELOADED = (
    "faults.killed",
    "chunkstore.audit.verify",
    "chunkstore.history.gc",
    "chunkstore.history.past_versions",
    "chunkstore.history.tags",
    "chunkstore.reading.dataset",
    "chunkstore.writing.add_fields",
    "chunkstore.writing.compact",
    "chunkstore.writing.fragments",
    "chunkstore.writing.writer",
)
MAX_DELAY_S = 0.06
"""A process is killed so long at most after it told so many lines at most, so that a slow machine gets as far as a fast one."""


class Log:
    """What the killed processes told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def num_lines(self) -> int:
        return self.path.read_text().count("\n")

    def values(self, word: str) -> list[range]:
        """Those that were begun to be written, or that were done."""
        lines = [line.split() for line in self.path.read_text().splitlines()]
        told = [line for line in lines if line[0] == word and line[1] in {"create", "append", "commit"}]
        return [range(int(start), int(stop)) for _, _, start, stop in told]

    def tags(self) -> dict[str, int]:
        lines = [line.split() for line in self.path.read_text().splitlines()]
        return {line[2]: int(line[3]) for line in lines if line[:2] == ["done", "tag"]}

    def fields(self) -> set[str]:
        lines = [line.split() for line in self.path.read_text().splitlines()]
        return {line[2] for line in lines if line[:2] == ["done", "add_fields"]}


def wait_for_lines(log: Log, count: int) -> None:
    deadline = time.monotonic() + 60
    while log.num_lines() < count:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def check(url: str, log: Log) -> None:
    """Each acknowledged append is there once, each other one once or not at all, and whole."""
    if not log.values("done") and not (Path(url) / "_chunkstore" / "versions").exists():
        return
    ds = cs.open(url)
    assert cs.verify(url).ok
    batch = ds[:]
    values = batch["x"].tolist()
    assert len(set(values)) == len(values)
    there = set(values)
    for done in log.values("done"):
        assert there.issuperset(done), f"{done} was acknowledged"
    for begun in log.values("begin"):
        assert there.isdisjoint(begun) or there.issuperset(begun), f"{begun} is there in part"
    assert sum(len(begun) for begun in log.values("begin") if begun[0] in there) == len(values)
    for name, told in zip(batch["name"], values, strict=True):
        assert name == columns(range(told, told + 1))["name"][0]
    for name in set(batch) - {*SCHEMA}:
        assert batch[name].tolist() == [-value for value in values], f"{name} was added in part"
    assert log.fields().issubset(batch)
    for tag, version in log.tags().items():
        assert cs.open(url, tag=tag).version == version


def test_forty_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    url, log = str(tmp_path / "data"), Log(tmp_path / "log")
    chance = random.Random(0)
    context = multiprocessing.get_context("forkserver")
    for module in PRELOADED:  # the server that forks passes over what it cannot import
        importlib.import_module(module)
    context.set_forkserver_preload([*PRELOADED])
    for number in range(NUM_KILLS):
        before = log.num_lines()
        process = context.Process(target=work, args=(url, str(log.path), number))
        process.start()
        wait_for_lines(log, before + chance.randint(1, MAX_LINES))
        time.sleep(chance.uniform(0, MAX_DELAY_S))
        process.kill()
        process.join(60)
        assert process.exitcode == -9, "it ended before it was killed"
        check(url, log)
    cs.gc(url, keep_versions=1, orphan_age_s=0)
    check(url, log)
    assert not leftovers(LocalStore(url))
    assert cs.gc(url, orphan_age_s=0).committed is None
    assert len(log.values("begin")) > len(log.values("done")) > NUM_KILLS / 2
    assert max(values.start for values in log.values("done")) > (NUM_KILLS / 2) * VALUES_OF_A_PROCESS
