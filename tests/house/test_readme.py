"""What the README, the tutorial and the how-to pages show runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [
    README,
    *sorted((ROOT / "docs" / "tutorial").glob("*.md")),
    *sorted((ROOT / "docs" / "how-to").glob("*.md")),
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [code for name, code in BLOCK.findall(page.read_text("utf-8")) if name == language]


def command(name: str) -> str:
    text = README.read_text("utf-8")
    (found,) = re.findall(rf"<!-- command: {name} -->\n```sh\n(.*?)```", text, re.DOTALL)
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_python_on_the_page_runs(page, tmp_path):
    """The blocks of a page are one program, as its reader would type them."""
    program = tmp_path / "page.py"
    program.write_text('if __name__ == "__main__":\n' + indented("\n".join(blocks(page, "python"))), "utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, f"{page.name}:\n{done.stdout}\n{done.stderr}"


def indented(code: str) -> str:
    return "".join(f"    {line}" if line.strip() else line for line in code.splitlines(keepends=True))


def test_readme_has_python():
    assert blocks(README, "python")


def test_every_folder_and_file_of_the_tree_is_there():
    """The tree on the page and the tree on disk: what is named exists, and no folder of the package is left out."""
    (tree,) = re.findall(
        r"^## Where things are\n\n```\n(.*?)^```$", README.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    folder, named = ROOT, set()
    for line in tree.splitlines():
        entry = line.split()[0]
        folder = folder if line.startswith(" ") else ROOT / entry
        path = folder / entry if line.startswith(" ") else folder
        assert path.exists(), f"{line!r}: {path} is not there"
        named.add(path.name)
    package = {path.name for path in (ROOT / "chunkstore").iterdir() if not path.name.startswith("__")}
    assert package - {"py.typed"} <= named


def test_the_two_commands_are_for_a_bare_machine():
    for name, last in (("demo", "chunkstore demo"), ("test", "pytest -n 2 --dist=loadfile")):
        steps = command(name).replace("&&", "\n").split("\n")
        assert steps[0].strip() == "python3 -m venv .venv"
        assert [step for step in steps if step.strip()][-1].strip() == f".venv/bin/{last}"


def test_ci_runs_the_readmes_test_command():
    """.ci/run takes the command from the README; run with tools that only say how they were called."""
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    extract = script[script.index("command=$(") : script.index("[[ -n $command")]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f'{extract}\nprintf "%s\\n" "$command"'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == command("test")
    assert script.rstrip().endswith('bash -euo pipefail -c "$command"')


def test_nobody_is_told_to_install_the_other_chunkstore():
    """`chunkstore` on PyPI is another project; ours is installed from a checkout."""
    wrong = re.compile(r"pip3? install (?:-\S+ )*[\"']?chunkstore(?!-zarr)\b")
    places = [
        README,
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("chunkstore/**/*.py"),
        *ROOT.glob("native/*.*"),
    ]
    assert not [str(place) for place in places if wrong.search(place.read_text("utf-8"))]
