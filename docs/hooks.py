"""MkDocs hooks: what can be made from the files is made from them, so that it cannot drift."""

import subprocess
import sys
from pathlib import Path
from typing import Any

_FOLDERS = {"Specification": "spec", "Decisions": "decisions"}
_COMMANDS = "<!-- commands -->"


def on_config(config: Any) -> Any:
    """List every page of numbered or versioned folders in the navigation, in the order of their names."""
    docs = Path(config["docs_dir"])
    for section in config["nav"]:
        for title in _FOLDERS.keys() & (section if isinstance(section, dict) else {}):
            folder = _FOLDERS[title]
            pages = sorted(path.relative_to(docs).as_posix() for path in (docs / folder).glob("*.md"))
            section[title] = sorted(pages, key=lambda page: not page.endswith("/index.md"))
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put what the program itself says about its commands where a page asks for it."""
    if _COMMANDS not in markdown:
        return markdown
    command = [sys.executable, "-m", "typer", "chunkstore.cli", "utils", "docs", "--name", "chunkstore"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return markdown.replace(_COMMANDS, told.replace("# `chunkstore`\n", "", 1))
