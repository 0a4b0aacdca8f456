"""The command line: one command per verb, each a thin layer over what does the work.

Imports only what parsing and printing need; a command imports the rest when it runs. Errors of the package print as one
message, without a traceback. Before it: the user's shell; after it: `stages/` and the public functions.
"""

import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
from rich.console import Console

from chunkstore import __version__
from chunkstore.errors import ChunkstoreError


class _Commands(typer.core.TyperGroup):
    """The commands; in their help nothing stands beside a flag, where typer would say <bool>."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Find a command by its name."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            _untype_flags(command.get_params(ctx))
        return command

    def get_params(self, ctx: Any) -> list[Any]:
        """Give the options that stand before a command."""
        return _untype_flags(super().get_params(ctx))


def _untype_flags(parameters: Iterable[Any]) -> list[Any]:
    untyped = list(parameters)
    for parameter in untyped:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return untyped


app = typer.Typer(
    name="chunkstore",
    cls=_Commands,
    help="Chunked array datasets on Zarr v3, streamed shuffled into PyTorch training.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; the exit status is 0, 1 for errors, 2 for wrong usage, 128 + n after signal n."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character is no reason to fail
    try:
        app()
    except (ChunkstoreError, PermissionError) as error:
        _say_error(error)
        sys.exit(1)
    except ValueError as error:  # what was asked for cannot be: wrong usage, as typer's own
        _say_error(error)
        sys.exit(2)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"chunkstore {__version__}")
        raise typer.Exit


@app.callback()
def _chunkstore(
    *,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


@app.command()
def demo(
    *,
    s3: Annotated[bool, typer.Option("--s3", help="Put the datasets into a real S3 server on this machine.")] = False,
    folder: Annotated[
        Path | None,
        typer.Option(help="Write the datasets into this fresh folder and keep them.", metavar="DIR"),
    ] = None,
) -> None:
    """See it all on real data, in less than a minute: convert, train, stop, resume, append, measure."""
    from chunkstore.stages.demo.run import run_demo

    if s3 and folder is not None:
        raise typer.BadParameter("--s3 puts the datasets into a server that ends with the demo; leave --folder out")
    status = run_demo(Console(highlight=False), s3=s3, folder=folder)
    if status > 128:
        # threads may still wait for a server that is gone, and Python would wait for them
        sys.stdout.flush()
        os._exit(status)
    raise typer.Exit(status)


@app.command()
def info(
    url: Annotated[str | None, typer.Argument(help="Path or URL of a dataset.", show_default=False)] = None,
    *,
    version: Annotated[int | None, typer.Option(help="Number of the version; the latest by default.")] = None,
    build: Annotated[bool, typer.Option("--build", help="Print what this installation was built with.")] = False,
) -> None:
    """Print what a dataset holds, or with --build what this installation has."""
    from chunkstore.stages import info as stage

    if build == (url is not None):
        raise typer.BadParameter("name a dataset, or give --build")
    console = Console(highlight=False)
    if url is None:
        stage.show_build(console)
    else:
        stage.show_dataset(console, url, version=version)


_Dataset = Annotated[str, typer.Argument(help="Path or URL of a dataset.", show_default=False)]


@app.command()
def versions(
    url: _Dataset,
    *,
    diff: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Print what the second of these versions has that the first has not.", metavar="OLD NEW"),
    ] = None,
) -> None:
    """List the versions of a dataset with their tags, or with --diff compare two of them."""
    from chunkstore.stages import history

    console = Console(highlight=False)
    if diff is None:
        history.show_versions(console, url)
    else:
        history.show_diff(console, url, *diff)


@app.command()
def tag(
    url: _Dataset,
    name: Annotated[str, typer.Argument(help='Letters, digits, "_", "." and "-".', show_default=False)],
    *,
    version: Annotated[int | None, typer.Option(help="Number of the version; the latest by default.")] = None,
) -> None:
    """Name a version for good."""
    from chunkstore.format.tags import tag_key
    from chunkstore.history import tags

    try:
        tag_key(name)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    number = tags.tag(url, name, version)
    typer.echo(f"{name} is version {number}")


@app.command()
def rollback(
    url: _Dataset,
    number: Annotated[int, typer.Argument(help="Number of the version to go back to.", show_default=False)],
    *,
    message: Annotated[str, typer.Option(help="Kept in the new version.")] = "",
) -> None:
    """Commit a version with the contents of an older one; those in between stay."""
    from chunkstore.history import past_versions

    committed = past_versions.rollback(url, number, message=message)
    typer.echo(f"version {committed} has the contents of version {number}")


@app.command()
def verify(
    url: _Dataset,
    *,
    version: Annotated[int | None, typer.Option(help="Number of the version; the latest by default.")] = None,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also decode every chunk and check every sample, for what a faulty writer stored."),
    ] = False,
) -> None:
    """Check every object of a version and list all damage; the exit status is 1 where there is any."""
    from chunkstore.stages import verify as stage

    if not stage.show_damage(Console(highlight=False), url, version=version, deep=deep):
        raise typer.Exit(1)


@app.command()
def gc(
    url: _Dataset,
    *,
    keep_versions: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Drop all versions but the last N and those with a tag; none are dropped by default.",
            metavar="N",
        ),
    ] = None,
    orphan_age: Annotated[
        str,
        typer.Option(
            help="Delete what no version leads to when it is older than this: a number and s, m, h or d.", metavar="AGE"
        ),
    ] = "1d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be dropped and deleted.")] = False,
) -> None:
    """Drop old versions, and delete what only they hold and what dead writers left."""
    from chunkstore.stages import gc as stage

    age_s = _parse(orphan_age, _SECONDS, "an age, such as 12h or 1d")
    console = Console(highlight=False)
    stage.show_gc(console, url, keep_versions=keep_versions, orphan_age_s=age_s, dry_run=dry_run)


@app.command()
def compact(
    url: _Dataset,
    *,
    target_size: Annotated[
        str | None,
        typer.Option(
            help="What a fragment should hold: a number and kB, MB, GB or KiB, MiB, GiB; 1GiB by default.",
            metavar="SIZE",
            show_default=False,
        ),
    ] = None,
    message: Annotated[str, typer.Option(help="Kept in the new version.")] = "",
) -> None:
    """Write small fragments anew as fewer and larger ones, with the same samples, and commit them."""
    from chunkstore.stages import compact as stage

    target = None if target_size is None else int(_parse(target_size, _BYTES, "a size, such as 512MB or 1GiB"))
    if target is not None and target < 1:
        raise typer.BadParameter(f"{target_size!r} is less than a byte")
    stage.show_compaction(Console(highlight=False), url, target_nbytes=target, message=message)


_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {
    "": 1,
    "b": 1,
    **{f"{prefix}b": 1000**n for n, prefix in enumerate("kmgt", 1)},
    **{f"{prefix}ib": 1024**n for n, prefix in enumerate("kmgt", 1)},
}


def _parse(text: str, units: Mapping[str, int], what: str) -> float:
    """A number with a unit, in the smallest of the units."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)", text.strip())
    if match is None or match[2].lower() not in units:
        raise typer.BadParameter(f"{text!r} is not {what}")
    return float(match[1]) * units[match[2].lower()]


_FOR_A_SHELL = {
    ', or say storage_options={"client_options": {"allow_http": True}}': "; plain http is allowed from Python alone",
    "storage_options or the environment": "environment variables such as AWS_ACCESS_KEY_ID",
    "with these storage_options": "with what the environment says",
}
"""What messages advise who calls from Python, and what a shell has instead."""


def _say_error(error: Exception) -> None:
    from chunkstore.stages.printable import printable

    name = "Error" if type(error) is ValueError else type(error).__name__
    told = str(error)
    for said, meant in _FOR_A_SHELL.items():
        told = told.replace(said, meant)
    Console(stderr=True, highlight=False).print(f"{name}: {printable(told)}", markup=False, soft_wrap=True)
