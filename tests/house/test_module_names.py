"""Modules that documents and docstrings name by folder and name are there."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "chunkstore"
FOLDERS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
NAMED = re.compile(rf"`(?:chunkstore/)?((?:{'|'.join(FOLDERS)})/\w+)(\.\w+)?`")


def sources() -> Iterator[Path]:
    yield from ROOT.glob("*.md")
    yield from (ROOT / "docs").rglob("*.md")
    for folder in ("chunkstore", "tests", "benchmarks"):
        yield from (ROOT / folder).rglob("*.py")


def stale(text: str) -> tuple[int, list[str]]:
    """How many modules of the package a text names, and those that are not there."""
    named = NAMED.findall(text)
    return len(named), [name + ending for name, ending in named if not (PACKAGE / f"{name}{ending or '.py'}").is_file()]


def test_modules_that_are_named_are_there() -> None:
    count, wrong = 0, []
    for path in sources():
        if path.name in ("CHANGELOG.md", "log.md"):
            continue  # they tell of what was
        named, gone = stale(path.read_text("utf-8"))
        count += named
        wrong += [f"{path.relative_to(ROOT)}: {name}" for name in gone]
    assert count > 40
    assert wrong == []


def test_a_module_that_moved_is_found_out() -> None:
    text = "Before it {0}store/commit.py{0}, after it {0}history/commit{0}; {0}type/subtype{0} is no module.".format(
        "`"
    )
    assert stale(text) == (2, ["store/commit.py"])
