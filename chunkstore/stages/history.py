"""The history of a dataset, and what differs between two of its versions, as tables.

Reads version documents only, never samples. Before it: `cli.py`; after it: the console.
"""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

import chunkstore as cs
from chunkstore.format.statistics import Statistics
from chunkstore.stages.printable import printable

MAX_NAMED = 8
"""Fragments that are named one by one; of more, only how many there are."""


def show_versions(console: Console, url: str) -> None:
    """Print a line for each version of a dataset, the newest last.

    Raises:
        ChunkstoreError: there is none, or a document of it cannot be read.
    """
    lines = cs.versions(url)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("version", justify="right", style="bold", no_wrap=True)
    table.add_column("parent", justify="right", no_wrap=True)
    table.add_column("time (UTC)", no_wrap=True)
    table.add_column("samples", justify="right", no_wrap=True)
    table.add_column("tags")
    table.add_column("message")
    for line in lines:
        table.add_row(
            str(line.number),
            "–" if line.parent is None else str(line.parent),
            line.time[:19].replace("T", " "),
            f"{line.samples:,}",
            Text("?" if line.tags is None else ", ".join(line.tags)),
            Text(printable(line.message)),
        )
    console.print(table)
    if any(line.tags is None for line in lines):
        console.print("?: the store does not let its objects be listed, so tags are known by name only", markup=False)


def show_diff(console: Console, url: str, old: int, new: int) -> None:
    """Print what version `new` of a dataset has that version `old` has not, and the other way round.

    Raises:
        ChunkstoreError: one of the two is not there, or cannot be read.
    """
    difference = cs.diff(url, old, new)
    if difference.is_empty:
        console.print(f"versions {old} and {new} have the same samples, fields and statistics")
        return
    table = Table(box=box.SIMPLE_HEAD, title=f"from version {old} to version {new}", title_justify="left")
    table.add_column("")
    table.add_column("added", justify="right")
    table.add_column("removed", justify="right")
    table.add_column("changed", justify="right")
    table.add_row("samples", f"{difference.samples_added:,}", f"{difference.samples_removed:,}", "")
    table.add_row("fragments", _named(difference.fragments_added), _named(difference.fragments_removed), "")
    fields = (difference.fields_added, difference.fields_removed, difference.fields_changed)
    table.add_row("fields", *(", ".join(names) or "–" for names in fields))
    console.print(table)
    if difference.statistics_changed:
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("field", style="bold")
        table.add_column("of")
        for heading in ("count", "min", "mean", "max"):
            table.add_column(heading, justify="right")
        for change in difference.statistics_changed:
            before, after = _told(change.old), _told(change.new)
            row = [a if a == b else f"{a} → {b}" for a, b in zip(before, after, strict=True)]
            table.add_row(change.field, change.kind, *row)
        console.print(table)


def _named(ids: tuple[str, ...]) -> str:
    return f"{len(ids):,}" if len(ids) > MAX_NAMED else "\n".join(ids) or "–"


def _told(statistics: Statistics) -> list[str]:
    numbers = (statistics.min, statistics.mean, statistics.max)
    return [f"{statistics.count:,}", *("–" if number is None else f"{number:.6g}" for number in numbers)]
