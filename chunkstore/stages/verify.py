"""The damage of a dataset, as a table, with a bar while it is looked for.

Repairs nothing. Before it: `cli.py`; after it: `audit/verify.py`, which does the work, and the console.
"""

from rich import box
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from chunkstore.audit.damage import Damage
from chunkstore.audit.verify import Report, verify
from chunkstore.stages.printable import printable


def show_damage(console: Console, url: str, *, version: int | None = None, deep: bool = False) -> bool:
    """Verify a version of a dataset and print what is wrong; whether nothing is.

    Raises:
        ChunkstoreError: it cannot be found, or its store fails.
    """
    report = _verified(console, url, version, deep)
    checked = f"{report.objects:,} objects, {report.nbytes:,} bytes checked"
    where = "the version document" if report.version is None else f"version {report.version}"
    if report.ok:
        console.print(f"no damage in {where}: {checked}", markup=False)
        return True
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("object", overflow="fold")
    table.add_column("what", no_wrap=True)
    table.add_column("field", overflow="fold")
    table.add_column("samples", no_wrap=True)
    table.add_column("detail", overflow="fold")
    for damage in report.damages:
        told = (damage.key, damage.kind, damage.field or "", _samples(damage), damage.detail)
        table.add_row(*(Text(printable(text)) for text in told))
    console.print(table)
    count = len(report.damages)
    places = "1 place" if count == 1 else f"{count:,} places"
    console.print(f"damage in {where}, in {places}: {checked}. Restore the objects from a copy", markup=False)
    return False


def _verified(console: Console, url: str, version: int | None, deep: bool) -> Report:
    columns = (TextColumn("verify"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("verify", total=None)
        return verify(
            url,
            version=version,
            deep=deep,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _samples(damage: Damage) -> str:
    """Samples as error messages name them, the last one included."""
    if damage.samples is None:
        return ""
    start, stop = damage.samples
    return str(start) if stop == start + 1 else f"{start}–{stop - 1}"
