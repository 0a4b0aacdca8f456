"""What the demo found, in tables for someone who sees chunkstore for the first time.

Shows and explains; judges nothing that the story has not judged. Before it: `story.py`; after it: the newcomer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rich import box
from rich.console import Console
from rich.table import Table

from chunkstore.stages.demo.data import Written
from chunkstore.stages.demo.delivery import Delivery
from chunkstore.stages.demo.place import Place
from chunkstore.stages.demo.speed import Speed, stored_nbytes


@dataclass(slots=True)
class Findings:
    """What came of the story.

    Attributes:
        written: The datasets, in the order of writing.
        speeds: By dataset.
        deliveries: By epoch.
        shares: Samples of the interrupted epoch that came before the stop, then to each rank after it.
        accuracy: Of the resumed model, on the test digits.
        failures: Claims that did not come true.
    """

    written: list[Written] = field(default_factory=list)
    speeds: dict[str, Speed] = field(default_factory=dict)
    deliveries: dict[int, Delivery] = field(default_factory=dict)
    shares: tuple[int, ...] = ()
    accuracy: float = 0.0
    failures: list[str] = field(default_factory=list)

    def expect(self, came_true: bool, claim: str) -> None:
        """Note a claim that did not come true."""
        if not came_true:
            self.failures.append(claim)

    def appended(self, name: str, samples: int, nbytes: int) -> None:
        """Note that samples were appended to a dataset."""
        self.written = [
            replace(w, samples=w.samples + samples, nbytes_in=w.nbytes_in + nbytes) if w.name == name else w
            for w in self.written
        ]


def show(console: Console, place: Place, findings: Findings) -> None:
    """Print the tables, what came true, and what to try next."""
    stored = {w.name: stored_nbytes(place.url(w.name), place.storage_options) for w in findings.written}
    _print(
        console,
        "What was written",
        _written_table(findings.written, stored),
        "Stored is all there is: every version, metadata and checksums.",
        "JPEG tiles are kept as the bytes they are, so they do not shrink further.",
    )
    _print(
        console,
        "How fast it streams: shuffled, decoded, as PyTorch tensors",
        _speed_table(findings.speeds),
        "Timed from opening the dataset to the last batch of an epoch. In one piece:",
        "the same samples in order by one dataset[:], read, checked and decoded",
        "likewise, but neither shuffled nor made into batches.",
        *_storage_notes(place),
    )
    _print(console, "What was shown", _verdict_table(findings))
    _next(console, place)


def _print(console: Console, title: str, table: Table, *notes: str) -> None:
    console.print(f"\n[bold]{title}[/]")
    console.print(table)
    for note in notes:
        console.print(f"  [dim]{note}[/]")


def _written_table(written: list[Written], stored: Mapping[str, int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("dataset", style="bold")
    table.add_column("a sample is")
    for heading in ("samples", "data in", "stored", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    for w in written:
        ratio = w.nbytes_in / stored[w.name]
        table.add_row(w.name, w.what, f"{w.samples:,}", _size(w.nbytes_in), _size(stored[w.name]), f"{ratio:.1f}")
    return table


def _speed_table(speeds: Mapping[str, Speed]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("dataset", style="bold")
    for heading in ("MB/s decoded", "samples/s", "in one piece: samples/s", "fraction"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, s in speeds.items():
        figures = (s.nbytes_per_s / 1e6, s.samples_per_s, s.whole_samples_per_s)
        table.add_row(name, *(f"{figure:,.0f}" for figure in figures), f"{s.fraction:.1%}")
    return table


def _storage_notes(place: Place) -> list[str]:
    if place.storage_options:
        return ["The server runs on this machine: it shares the cores with the loader."]
    return [
        "The files were written a moment ago, so both come from the system's file cache",
        "in memory, not from the disk.",
    ]


def _verdict_table(findings: Findings) -> Table:
    exact = sum(delivery.is_exact for delivery in findings.deliveries.values())
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("claim")
    table.add_column("found", justify="right")
    table.add_row("Accuracy of the resumed model on digits it never saw", f"{findings.accuracy:.1%}")
    table.add_row("Epochs that gave each sample exactly once", f"{exact} of {len(findings.deliveries)}")
    table.add_row(
        "Stopped epoch: samples before, then in each process",
        " + ".join(f"{n:,}" for n in findings.shares),
    )
    for claim in findings.failures:
        table.add_row(f"[red]Did not come true: {claim}[/]", "[red]no[/]")
    if not findings.failures:
        table.add_row("Both versions readable; zarr-python reads the same values", "yes")
    return table


def _next(console: Console, place: Place) -> None:
    if place.kept is None:
        what = "The server ends now, and its data are" if place.storage_options else "The datasets are"
        console.print(f"{what} removed again. To keep them in a folder:")
        console.print("\n    chunkstore demo --folder demo-data\n\nThen, in Python:")
    else:
        console.print(f"The datasets are in {place.kept}. To go on, in Python:", soft_wrap=True)
    folder = place.kept or "demo-data"
    console.print()
    for line in (
        "import chunkstore as cs",
        f'print(cs.open("{folder}/tiles")[7]["caption"])',
        f'for batch in cs.Loader("{folder}/digits", 256): print(batch["image"].shape)',
    ):
        console.print(f"    {line}", markup=False, highlight=False, soft_wrap=True)
    console.print()


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f} MB" if nbytes >= 1e6 else f"{nbytes / 1e3:.0f} kB"
