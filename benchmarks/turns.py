"""Arms that take turns, and the figures that come of it: what the benchmarks beside this file measure with.

`take_turns` times arms in interleaved repetitions; `Results` holds figures and prints them as JSON lines or as tables. Measures
nothing itself and knows no arm. Needs rich.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import rich.box
import rich.table
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

MB = 1e6
WIDTH = 120
"""Characters of a line where there is no terminal."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the result; times in seconds."""

    table: str
    arm: str
    median_s: float
    least_s: float
    most_s: float
    cpu_s: float
    mb_per_s: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as fast as another arm, and what was to be reached; `at_least` is 0 where nothing is."""

    table: str
    arm: str
    against: str
    median: float
    least: float
    most: float
    at_least: float
    met: bool


@dataclass(frozen=True, slots=True)
class Number:
    """A figure that is no time."""

    table: str
    name: str
    value: float
    unit: str


@dataclass(slots=True)
class Results:
    """All figures; printed as they come, where they are wanted as JSON."""

    as_json: bool
    lines: list[Figure | Ratio | Number] = field(default_factory=list)

    def add(self, line: Figure | Ratio | Number) -> None:
        """Keep a figure."""
        self.lines.append(line)
        if self.as_json:
            print(json.dumps({"kind": type(line).__name__.lower(), **asdict(line)}), flush=True)


@dataclass(frozen=True, slots=True)
class Arm:
    """What is timed: `run` after `prepare`; `bound` says that nothing is to be compared with it but by eye."""

    name: str
    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of each repetition."""

    wall: list[float]
    cpu: list[float]


def take_turns(
    arms: list[Arm], repetitions: int, progress: Progress, title: str, draw: Callable[[], object] = lambda: None
) -> dict[str, Times]:
    """Times of each arm by its name; another arm begins each repetition, before which `draw` is called."""
    times = {arm.name: Times([], []) for arm in arms}
    task = progress.add_task(title, total=repetitions * len(arms))
    for repetition in range(repetitions):
        draw()
        first = repetition % len(arms)
        for arm in arms[first:] + arms[:first]:
            arm.prepare()
            wall, cpu = time.perf_counter(), time.process_time()
            kept = arm.run()  # freeing it is not what is measured
            times[arm.name].wall.append(time.perf_counter() - wall)
            times[arm.name].cpu.append(time.process_time() - cpu)
            del kept
            progress.advance(task)
    progress.remove_task(task)
    return times


def figure(table: str, arm: str, times: Times, nbytes: int) -> Figure:
    """The figure of an arm that worked on so many bytes."""
    median, cpu = statistics.median(times.wall), statistics.median(times.cpu)
    return Figure(table, arm, median, min(times.wall), max(times.wall), cpu, nbytes / median / MB)


def ratio(table: str, arm: str, against: str, times: dict[str, Times], at_least: float) -> Ratio:
    """How many times as fast one arm is as the other, repetition by repetition."""
    ratios = [b / a for a, b in zip(times[arm].wall, times[against].wall, strict=True)]
    median = statistics.median(ratios)
    return Ratio(table, arm, against, median, min(ratios), max(ratios), at_least, met=median >= at_least)


def make_progress(console: Console) -> Progress:
    """A bar that goes when it is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


def print_tables(results: Results, header: str) -> None:
    """Every table, its times first, then its ratios."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    console.print(header)
    for title in dict.fromkeys(line.table for line in results.lines):
        lines = [line for line in results.lines if line.table == title]
        if times := [line for line in lines if isinstance(line, Figure)]:
            table = _table(title, "", "median s", "least–most", "CPU s", "MB/s")
            for one in times:
                spread = f"{one.least_s:.4g}–{one.most_s:.4g}"
                table.add_row(one.arm, f"{one.median_s:.4g}", spread, f"{one.cpu_s:.4g}", f"{one.mb_per_s:,.0f}")
            console.print(table)
        if ratios := [line for line in lines if isinstance(line, Ratio)]:
            table = _table("" if times else title, "times as fast", "median", "least–most", "goal", "")
            for against in ratios:
                spread = f"{against.least:.2f}–{against.most:.2f}"
                told = ("met" if against.met else "NOT MET") if against.at_least else ""
                table.add_row(
                    f"{against.arm} / {against.against}",
                    f"{against.median:.2f}",
                    spread,
                    f"≥ {against.at_least:g}" if told else "",
                    told,
                )
            console.print(table)
        if numbers := [line for line in lines if isinstance(line, Number)]:
            table = _table(title, "", "")
            for number in numbers:
                table.add_row(number.name, f"{number.value:,.4g} {number.unit}" if number.value else "")
            console.print(table)


def _table(title: str, first: str, *columns: str) -> rich.table.Table:
    table = rich.table.Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table
