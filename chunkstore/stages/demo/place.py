"""Where the demo's datasets go: a folder, or a real S3 server on this machine that lives as long as the demo.

Leaves nothing behind but the folder that the user named. Before it: `run.py`; after it: every step of the story.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from chunkstore.stages.demo.screen import Screen
from chunkstore.stages.seaweedfs import seaweedfs

_BUCKET = "s3://chunkstore-demo"
_REMOVAL_TIMEOUT_S = 1.0


class FolderNotEmpty(Exception):
    """The folder for the datasets has something in it; it was not touched."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where things are.

    Attributes:
        root: Path or URL below which the datasets lie.
        storage_options: For S3, else None.
        scratch: A folder for checkpoints and logs, removed at the end.
        kept: The user's folder, which is not removed; None if everything is.
        medium: What that is, in words.
    """

    root: str
    storage_options: dict[str, str] | None = field(repr=False)
    scratch: Path
    kept: Path | None
    medium: str

    def url(self, name: str) -> str:
        """Of a dataset."""
        return f"{self.root}/{name}"


@contextlib.contextmanager
def open_place(screen: Screen, *, s3: bool, folder: Path | None) -> Iterator[Place]:
    """Make the place, for the length of a `with` block.

    Raises:
        FolderNotEmpty: `folder` is no empty folder.
        StoreError: the server did not start.
    """
    if folder is not None:
        check_folder(folder)
    with _scratch() as scratch:
        if s3:
            with contextlib.ExitStack() as stack:
                with screen.step("Starting an S3 server", "S3 server started") as step:
                    server = stack.enter_context(seaweedfs(scratch / "server"))
                    step.say(f"SeaweedFS at {server.url}, on this machine only, until the end.")
                yield Place(_BUCKET, server.storage_options(), scratch, None, "an S3 server on this machine")
        elif folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            yield Place(str(folder.resolve()), None, scratch, folder, "a local folder")
        else:
            yield Place(str(scratch / "datasets"), None, scratch, None, "a local folder")


def check_folder(folder: Path) -> None:
    """Refuse a folder that has something in it, or that is none.

    Raises:
        FolderNotEmpty: so it is.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise FolderNotEmpty(
            f"{folder} is not empty, and the demo writes into a fresh folder only; name another, or empty it"
        )
    if folder.exists() and not folder.is_dir():
        raise FolderNotEmpty(f"{folder} is a file; name a folder that is empty or not there yet")


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="chunkstore-demo-"))
    # the server keeps logs in the temporary folder, and torch a cache: theirs goes when ours goes
    ours = {"TMPDIR": str(folder), "TORCHINDUCTOR_CACHE_DIR": str(folder / "torchinductor")}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield folder
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder, again if a thread that is just ending has put something into it meanwhile."""
    deadline = time.monotonic() + _REMOVAL_TIMEOUT_S
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
