"""Places on a disk that are no objects: links that lead away, pipes, devices, folders, and what is not there at all."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from hostile.forgery import HINT, OBJECTS, TAG, VERSION, Case, Forgery


def _in_place_of(key: str, make: Callable[[Path], object]) -> Callable[[Forgery], None]:
    def forge(forged: Forgery) -> None:
        where = f"{forged.path}/{key}" if not key.startswith("_chunkstore") and key != "fragments" else key

        def change(folder: Path) -> None:
            place = folder / where
            if place.is_dir():
                shutil.rmtree(place)
            else:
                place.rename(folder.parent / "outside")  # what a link to it would show has the right bytes
            make(place)

        forged.after.append(change)

    return forge


def _link_to(target: str) -> Callable[[Path], None]:
    return lambda place: place.symlink_to(target)


def _outside(place: Path) -> Path:
    return next(folder for folder in place.parents if folder.name == "dataset").parent / "outside"


_THINGS: dict[str, Callable[[Path], object]] = {
    "a link to /etc/passwd": _link_to("/etc/passwd"),
    "a link upwards": _link_to("../" * 30 + "etc/hostname"),
    "a link to itself": lambda place: place.symlink_to(place.name),
    "a link to nothing": _link_to("nowhere"),
    "a link to /dev/zero": _link_to("/dev/zero"),
    "a link to /proc/self/mem": _link_to("/proc/self/mem"),
    "a link to the right bytes outside": lambda place: place.symlink_to(_outside(place)),
    "a pipe": os.mkfifo,
    "a folder": lambda place: place.mkdir(),
    "nothing": lambda place: None,
}

_DOCUMENTS = (
    (VERSION, "open", "InvalidDataset DatasetNotFound StoreError"),
    (OBJECTS, "sample", "MissingObject InvalidDataset StoreError"),
    ("zarr.json", "sample", "MissingObject InvalidDataset StoreError"),
    ("label/c/0", "all", "MissingObject InvalidDataset StoreError"),
    ("caption/values/c/0", "all", "MissingObject InvalidDataset StoreError"),
    (TAG, "tag", "InvalidDataset DatasetNotFound StoreError"),
    (HINT, "all", ""),
)


def _told(key: str) -> str:
    return "" if key == VERSION else key.rpartition("/")[2].removesuffix(".json")


def _is_found(key: str, thing: str) -> bool:
    """A tag or a hint that is not there is no damage."""
    return key != TAG and not (key == HINT and thing in ("a link to nothing", "a folder", "nothing"))


CASES = [
    *(
        Case(
            f"{thing} in place of {key}",
            _in_place_of(key, make),
            error,
            _told(key) if error else "",
            act,
            _is_found(key, thing),
        )
        for key, act, error in _DOCUMENTS
        for thing, make in _THINGS.items()
    ),
    Case(
        "the folder of fragments a link to /",
        _in_place_of("fragments", _link_to("/")),
        error="MissingObject InvalidDataset",
        told=OBJECTS,
    ),
]
