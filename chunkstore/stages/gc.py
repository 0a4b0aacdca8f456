"""What gc gives up, in a few lines, with a bar while it is deleted.

Decides nothing. Before it: `cli.py`; after it: `history/gc.py`, which does the work, and the console.
"""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from chunkstore.history.gc import GcReport, gc
from chunkstore.stages.info import told_nbytes

MAX_RANGES = 20
"""Runs of version numbers that are told one by one."""


def show_gc(console: Console, url: str, *, keep_versions: int | None, orphan_age_s: float, dry_run: bool) -> None:
    """Give up what is no longer wanted, and print what that was.

    Raises:
        ChunkstoreError: nothing was given up, or not all of it was deleted; another run goes on.
    """
    report = _collected(console, url, keep_versions, orphan_age_s, dry_run)
    console.print(_summary(report), markup=False, soft_wrap=True)


def _collected(console: Console, url: str, keep_versions: int | None, orphan_age_s: float, dry_run: bool) -> GcReport:
    columns = (TextColumn("delete"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("delete", total=None)
        return gc(
            url,
            keep_versions=keep_versions,
            orphan_age_s=orphan_age_s,
            dry_run=dry_run,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _summary(report: GcReport) -> str:
    drop, delete = ("would drop", "would delete") if report.dry_run else ("dropped", "deleted")
    things = [
        _count(len(names), noun)
        for names, noun in ((report.fragments, "fragment"), (report.parts, "part"), (report.orphans, "orphan"))
        if names
    ]
    gone = []
    if report.objects:
        gone.append(f"{', '.join(things)}{' in ' if things else ''}{_count(report.objects, 'object')}")
    if report.unfinished:
        gone.append(_count(report.unfinished, "unfinished file"))
    lines = []
    if report.versions:
        lines.append(f"{drop} {_count(len(report.versions), 'version')}: {_ranges(report.versions)}")
    if gone:
        lines.append(f"{delete} {' and '.join(gone)}, {told_nbytes(report.nbytes)}")
    if report.committed is not None:
        lines.append(f"committed version {report.committed}, which says what was given up")
    return "\n".join(lines or ["nothing to drop or to delete"])


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _ranges(numbers: tuple[int, ...]) -> str:
    """Version numbers as people write them: 1–7, 9."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    told = [str(first) if first == last else f"{first}–{last}" for first, last in runs[:MAX_RANGES]]
    more = ["…"] if len(runs) > MAX_RANGES else []
    return ", ".join(told + more)
