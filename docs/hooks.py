"""MkDocs hook: the navigation of folders whose pages are numbered or versioned follows the files that are there."""

from pathlib import Path
from typing import Any

_FOLDERS = {"Specification": "spec", "Decisions": "decisions"}


def on_config(config: Any) -> Any:
    """List every page of the folders, in the order of their names."""
    docs = Path(config["docs_dir"])
    for section in config["nav"]:
        for title in _FOLDERS.keys() & (section if isinstance(section, dict) else {}):
            folder = _FOLDERS[title]
            pages = sorted(path.relative_to(docs).as_posix() for path in (docs / folder).glob("*.md"))
            section[title] = sorted(pages, key=lambda page: not page.endswith("/index.md"))
    return config
