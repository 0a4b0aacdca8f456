"""Lines and progress bars: on a terminal a bar while a step runs, elsewhere plain lines only.

Decides nothing and measures nothing but the time of a step. Before it: the story; after it: the person who watches.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

_INDENT = 5


class Step:
    """A step that is running: advances its bar, and collects what is to be said of it."""

    def __init__(self, progress: Progress | None, task: TaskID | None) -> None:
        self._progress, self._task = progress, task
        self.lines: list[Text] = []

    def advance(self, count: int = 1) -> None:
        """Say that `count` more are done."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, count)

    def say(self, line: str) -> None:
        """Keep a line, to be shown beneath the step once it is done."""
        self.lines.append(Text(line))


class Screen:
    """Numbered steps on a console.

    Args:
        console: Where to.
        check: Called before each step; raises to stop the story.
    """

    def __init__(self, console: Console, check: Callable[[], None] = lambda: None) -> None:
        self.console = console
        self._check = check
        self._number = 0

    @contextmanager
    def step(self, doing: str, done: str, total: int | None = None) -> Iterator[Step]:
        """Run a step: `doing` beside the bar while it runs, `done` and its seconds on a line afterwards.

        Args:
            doing: What is going on.
            done: What has been done.
            total: How many things there are to do, if known; else the bar only shows that something is going on.
        """
        self._check()
        self._number += 1
        begin = time.perf_counter()
        if self.console.is_terminal:
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                *(() if total is None else (MofNCompleteColumn(),)),
            )
            with Progress(*columns, console=self.console, transient=True) as progress:
                step = Step(progress, progress.add_task(doing, total=total))
                yield step
        else:
            step = Step(None, None)
            yield step
        self._tell(done, time.perf_counter() - begin, step.lines)

    def _tell(self, done: str, seconds: float, lines: list[Text]) -> None:
        heading = Table.grid(expand=True, padding=(0, 1))
        heading.add_column(width=3, justify="right")
        heading.add_column(ratio=1)
        heading.add_column(justify="right", no_wrap=True)
        heading.add_row(f"[green]{self._number}[/]", f"[bold]{done}[/]", f"[dim]{seconds:.1f} s[/]")
        self.console.print(heading)
        for line in lines:
            self.console.print(Padding(line, (0, 0, 0, _INDENT)))
