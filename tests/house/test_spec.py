"""The specification is quoted by sections that it has, and states the limits that the code keeps."""

import re
from pathlib import Path

from chunkstore.format import metadata
from chunkstore.history.commit import MAX_MESSAGE
from chunkstore.reading import part

ROOT = Path(__file__).parents[2]
SPEC = (ROOT / "docs/spec/v1.md").read_text("utf-8")
TITLES = dict(re.findall(r"^#{2,3} (\d+(?:\.\d+)?)\.? (.+)$", SPEC, re.MULTILINE))
SOURCES = [
    *(ROOT / "chunkstore").rglob("*.py"),
    *(path for kind in ("*.h", "*.cpp") for path in (ROOT / "native").rglob(kind)),
    ROOT / "tests/golden/spec_reader.py",
]


def test_sections_are_numbered_without_gaps() -> None:
    chapters = [int(number) for number in TITLES if "." not in number]
    assert chapters == list(range(1, len(chapters) + 1))
    for chapter in chapters:
        below = [int(number.split(".")[1]) for number in TITLES if number.startswith(f"{chapter}.")]
        assert below == list(range(1, len(below) + 1))


def test_the_specification_refers_to_sections_that_it_has() -> None:
    referred = re.findall(r"§(\d+(?:\.\d+)?)", SPEC)
    assert len(referred) > 40
    assert {number for number in referred if number not in TITLES} == set()


def test_what_the_code_quotes_is_in_the_specification() -> None:
    titles = {re.sub(r": .*", "", title) for title in TITLES.values()} | set(TITLES.values())
    quoted, wrong = 0, []
    for path in SOURCES:
        for text in re.findall(
            r"docs/spec/v1\.md,((?:\s*(?:and |sections? [\d. ]+)?\"[^\"]+\"(?: \([\d.]+\))?,?)+)", path.read_text()
        ):
            for title, number in re.findall(r'"([^"]+)"(?: \(([\d.]+)\))?', text):
                quoted += 1
                if title not in titles or (number and TITLES.get(number) != title):
                    wrong.append(f"{path.relative_to(ROOT)}: {title} {number}")
    assert quoted > 25
    assert wrong == []


def test_section_numbers_in_code_are_those_of_what_is_meant() -> None:
    """By number only where no title is near; each is listed here with what it has to be about."""
    meant = {
        "native/statistics.h": ("10", "Statistics"),
        "tests/golden/spec_reader.py": ("14", "What a reader verifies"),
    }
    for name, (number, title) in meant.items():
        assert re.search(rf"section {number}\b", (ROOT / name).read_text("utf-8")), name
        assert TITLES[number] == title
    for path in (ROOT / "chunkstore").rglob("*.py"):
        assert not re.search(r"v1\.md, sections? \d", path.read_text("utf-8")), f"{path}: quote the title"


def test_limits_are_those_of_the_code() -> None:
    assert f"more than {MAX_MESSAGE:,} characters" in SPEC
    assert f"Arrays of 1 to {metadata.MAX_RANK} dimensions" in SPEC
    ratios = part._MAX_RATIOS
    assert ratios["zstd"] == ratios["blosc"]
    assert f"times {ratios['gzip']:,} for `gzip` and times {ratios['zstd']:,} for `zstd` and `blosc`" in SPEC
