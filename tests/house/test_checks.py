"""The house is in order: lint, format, types and layers, each by its own tool."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["ruff", "check", "."], id="ruff-check"),
        pytest.param(["ruff", "format", "--check", "."], id="ruff-format"),
        pytest.param(["mypy"], id="mypy-strict"),
        pytest.param(["lint-imports", "--no-cache"], id="layers"),
    ],
)
def test_check_passes(command):
    done = subprocess.run([SCRIPTS / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_documentation_builds_without_warnings(tmp_path):
    done = built(ROOT / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    assert (tmp_path / "site" / "index.html").stat().st_size > 1000


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        pytest.param("lost.md", 'not included in the "nav"', id="a-page-that-no-menu-names"),
        pytest.param("index.md", "link 'nowhere.md'", id="a-link-to-nothing"),
    ],
)
def test_the_documentation_check_fails_for(page, fault, tmp_path):
    """The settings are those of our own pages; only the pages, the menu and what fills them are others."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Start\n")
    config = tmp_path / "mkdocs.yml"
    config.write_text(f"INHERIT: {ROOT / 'mkdocs.yml'}\nnav: [index.md]\nhooks: []\nplugins: []\n")
    assert built(config, tmp_path / "site").returncode == 0
    (tmp_path / "docs" / page).write_text("# Page\n\n[There](nowhere.md)\n" if "link" in fault else "# Page\n")
    done = built(config, tmp_path / "site")
    assert done.returncode != 0
    assert fault in done.stderr


def built(config, site):
    """Build the documentation as a developer would; `--quiet` would hide warnings even from --strict."""
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # the theme's notice about its own future
    command = [SCRIPTS / "mkdocs", "build", "--strict", "--config-file", config, "--site-dir", site]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
