"""Compaction of a dataset, with a bar while it is written anew.

Decides nothing. Before it: `cli.py`; after it: `writing/compact.py`, which does the work, and the console.
"""

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from chunkstore.format.versions import VersionDocument
from chunkstore.history.versions import read_document
from chunkstore.store.location import open_store
from chunkstore.writing.compact import TARGET_NBYTES, compact


def show_compaction(console: Console, url: str, *, target_nbytes: int | None, message: str) -> None:
    """Join the small fragments of a dataset, and print how many there were and are.

    Raises:
        ChunkstoreError: nothing was committed.
    """
    columns = (TextColumn("compact"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("compact", total=None)
        number = compact(
            url,
            target_nbytes=TARGET_NBYTES if target_nbytes is None else target_nbytes,
            message=message,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if number is None:
        console.print("nothing to compact")
        return
    store = open_store(url)
    before, after = (_num_fragments(read_document(store, which)) for which in (number - 1, number))
    console.print(
        f"version {number} has the samples of version {number - 1} in {_count(after)} where there were {before:,};"
        " chunkstore gc removes the old ones",
        markup=False,
        soft_wrap=True,
    )


def _num_fragments(document: VersionDocument) -> int:
    return len(document.inline.fragments) + sum(page.fragments for page in document.pages)


def _count(fragments: int) -> str:
    return f"{fragments:,} fragment{'s' * (fragments != 1)}"
