"""docs/status.md names tests and files that exist: a claim whose proof was renamed or removed is found out."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`((?:\.ci|benchmarks|chunkstore|docs|native|tests)/[\w./-]+|test_\w+)`")


def claims() -> list[tuple[str, str | None]]:
    """Each (file, test in it or None) that the page names, in its order."""
    found: list[tuple[str, str | None]] = []
    for row in (ROOT / "docs" / "status.md").read_text("utf-8").splitlines():
        file = None
        for name in NAMED.findall(row.rpartition(" | ")[2]) if row.startswith("|") else []:
            if name.startswith("test_"):
                assert file, f"{name} stands before its file in {row}"
                found.append((file, name))
            else:
                file = name
                found.append((name, None))
    return found


@pytest.mark.parametrize(("file", "name"), sorted(set(claims()), key=str))
def test_what_the_status_page_names_is_there(file, name):
    assert (ROOT / file).exists()
    if name:
        assert re.search(rf"^ *def {name}\(", (ROOT / file).read_text("utf-8"), re.MULTILINE)


def test_the_status_page_claims_something():
    assert len(claims()) > 20
