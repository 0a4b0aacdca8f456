"""Options of a loader, checked at the door: what is no integer or lies outside its range is a ValueError that names it."""

import operator
from typing import Any

import numpy as np

from chunkstore.loader.epochs import MAX_EPOCH


def checked_epoch(epoch: int) -> int:
    """The epoch as an int.

    Raises:
        ValueError: it is negative or 2^62 or more, or no integer.
    """
    checked = checked_integer("epoch", epoch)
    if not 0 <= checked <= MAX_EPOCH:
        raise ValueError(f"epoch={epoch}: epochs count from 0, up to 2^62 - 1")
    return checked


def checked_integer(name: str, value: Any) -> int:
    """The value as an int; a bool is none.

    Raises:
        ValueError: it is no integer.
    """
    if isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name}={value!r}: an integer is needed")
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r}: an integer is needed") from None


def checked_at_least(least: int, name: str, value: int | None) -> int | None:
    """The value as an int, or None as it is.

    Raises:
        ValueError: it is no integer, or below `least`.
    """
    if value is None:
        return None
    checked = checked_integer(name, value)
    if checked < least:
        raise ValueError(f"{name}={value}: at least {least} is needed")
    return checked
