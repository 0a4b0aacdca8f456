"""Processes that commit to one dataset as fast as they can: what was acknowledged is there once, in each writer's order.

The run on SeaweedFS is short here. `CHUNKSTORE_RACE_COMMITS=200 pytest tests/history/test_commit_races.py -k s3` makes it as
long as the local one.
"""

import json
import multiprocessing
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bare_fragments import append_bare, append_fragments, bare_fragment, begin_bare

import chunkstore.history.commit as commit_module
from chunkstore.history.commit import MAX_DOUBLINGS, MAX_WAIT_S, read_latest
from chunkstore.store.location import open_store

NUM_WRITERS = 8
NUM_COMMITS = {"local": 200, "s3": int(os.environ.get("CHUNKSTORE_RACE_COMMITS", "10"))}


def commit_many(url: str, options: dict[str, Any], writer: int, count: int, folder: Path) -> None:
    """Commit `count` fragments one after another; tell number and fragment of each commit that was acknowledged."""
    store = open_store(url, storage_options=options or None)
    told = []
    for i in range(count):
        fragment = bare_fragment(writer * 1_000_000 + i, samples=1)
        version = append_fragments(store, [fragment])
        told.append((version.number, fragment.id))
    (folder / f"{writer}.json").write_text(json.dumps(told))


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["local", "s3"])
def test_every_acknowledged_commit_of_eight_processes_is_there_once_and_in_order(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    location = request.getfixturevalue(kind)
    store = location.open()
    begin_bare(store, 0)
    context = multiprocessing.get_context("spawn")
    count = NUM_COMMITS[kind]
    writers = [
        context.Process(target=commit_many, args=(location.url, location.storage_options, i, count, tmp_path))
        for i in range(NUM_WRITERS)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * NUM_WRITERS
    told = [json.loads((tmp_path / f"{i}.json").read_text()) for i in range(NUM_WRITERS)]
    latest = read_latest(store)
    there = {fragment.id: number for number, fragment in enumerate(latest.fragments, start=2)}
    assert len(latest.fragments) == len(there) == NUM_WRITERS * count == latest.number - 1
    for commits in told:
        assert len(commits) == count
        assert commits == sorted(commits)
        assert all(there[identity] == number for number, identity in commits)
    assert Counter(number for commits in told for number, _ in commits) == Counter(range(2, latest.number + 1))
    assert [fragment.first for fragment in latest.fragments] == list(range(NUM_WRITERS * count))


def test_waits_after_lost_races_grow_and_are_bounded_and_differ(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = local.open()
    version = begin_bare(store, 0)
    waits: list[float] = []
    monkeypatch.setattr(commit_module.time, "sleep", waits.append)

    def mean(num_lost: int, attempt_s: float) -> float:
        waits.clear()
        for i in range(400):
            commit_module._wait_for_turn(replace(version, writer=f"{i:032x}"), num_lost, attempt_s)
        assert len(set(waits)) > 390
        assert min(waits) < 0.05 * max(waits)
        return sum(waits) / len(waits)

    assert mean(1, 0.1) == pytest.approx(0.1, rel=0.15)
    assert mean(2, 0.1) == pytest.approx(0.2, rel=0.15)
    assert mean(500, 0.1) == pytest.approx(0.05 * 2**MAX_DOUBLINGS, rel=0.15)
    assert mean(500, 1000.0) == pytest.approx(MAX_WAIT_S / 2, rel=0.15)
    assert max(waits) <= MAX_WAIT_S
    assert mean(1, 0.0) < 0.005


def test_who_commits_alone_does_not_wait(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_module.time, "sleep", lambda _: pytest.fail("waited"))
    begin_bare(local.open(), 0)
    assert append_bare(local.open(), 1).number == 2
