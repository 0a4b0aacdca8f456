"""Bars of the commands that take long: seen on a terminal, up to the end; never in what is piped elsewhere."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

import chunkstore as cs
from chunkstore.stages.compact import show_compaction
from chunkstore.stages.gc import show_gc
from chunkstore.stages.verify import show_damage

COMMANDS: dict[str, tuple[str, str, Callable[[Console, str], object]]] = {
    "verify": (
        "verify",
        r"no damage in version 3: \d+ objects",
        show_damage,
    ),
    "compact": (
        "compact",
        r"version 4 has the samples of version 3 in 1 fragment where there were 3",
        lambda console, url: show_compaction(console, url, target_nbytes=None, message=""),
    ),
    "gc": (
        "delete",
        r"dropped 2 versions: 1–2",
        lambda console, url: show_gc(console, url, keep_versions=1, orphan_age_s=0, dry_run=False),
    ),
}


@pytest.fixture
def url(tmp_path: Path) -> str:
    with cs.create(tmp_path / "data", {"x": cs.Array("int64")}, num_threads=1) as writer:
        writer.write({"x": 0})
    for x in (1, 2):
        with cs.append(tmp_path / "data", num_threads=1) as writer:
            writer.write({"x": x})
    return str(tmp_path / "data")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_is_drawn_on_a_terminal_and_nowhere_else(url: str, command: str, terminal: bool) -> None:
    verb, said, run = COMMANDS[command]
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120, highlight=False, _environ={"TERM": "xterm"})
    run(console, url)
    told = file.getvalue()
    assert re.search(said, told)
    if terminal:
        drawn = re.findall(rf"{verb} \S*[━╸╺].*", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", told))
        assert drawn, "no bar"
        assert "0:00:00" in drawn[-1], "the bar does not reach the end"
        assert "━" not in told[told.rindex(next(iter(re.findall(said, told)))) :], "the bar stays behind the answer"
        assert "\x1b[2K" in told, "the bar is not wiped away"
    else:
        assert "\x1b" not in told
        assert not re.search("[━╸╺]", told)


def test_unfinished_files_of_killed_writers_are_told(url: str) -> None:
    (Path(url) / f"fragments/zarr.json~{'0' * 32}").write_bytes(b"half")
    for dry_run, said in ((True, "would delete 1 unfinished file, 4 B"), (False, "deleted 1 unfinished file, 4 B")):
        file = io.StringIO()
        show_gc(Console(file=file, width=120), url, keep_versions=None, orphan_age_s=0, dry_run=dry_run)
        assert file.getvalue().strip() == said
