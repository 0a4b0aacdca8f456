"""Boxes: what a view wants of each sample of a fixed-shape field, a range an axis.

Slices that a user gives are applied one upon another, as NumPy would; integers are refused, because a view never drops an axis.
Pure. `reading/dataset.py` stands before and after it; `reading/array.py` reads only the chunks that a box touches.
"""

from typing import Any

from chunkstore.plan.tiles import Box

Axes = tuple[range, ...]
"""What is wanted of each axis of a sample, in the stored field's indices."""


def whole_axes(shape: tuple[int, ...]) -> Axes:
    """All of a sample of a shape."""
    return tuple(range(n) for n in shape)


def slice_axes(name: str, axes: Axes, key: Any) -> Axes:
    """What `key`, slices of the leading axes with at most one Ellipsis, leaves of `axes`.

    Raises:
        ValueError: something but slices with steps of at least 1, or more of them than there are axes.
    """
    slices = key if isinstance(key, tuple) else (key,)
    shape = tuple(len(axis) for axis in axes)
    for part in slices:
        if isinstance(part, slice) or part is Ellipsis:
            continue
        hint = f"; for index {part} alone take slice({part}, {part} + 1)" if hasattr(part, "__index__") else ""
        raise ValueError(f"slice of field {name!r}: {part!r} is no slice, and a view keeps all axes{hint}")
    if sum(part is Ellipsis for part in slices) > 1:
        raise ValueError(f"slice of field {name!r}: more than one Ellipsis")
    given = [part for part in slices if part is not Ellipsis]
    if len(given) > len(axes):
        raise ValueError(f"slice of field {name!r}: {len(given)} slices for samples of shape {shape}")
    at = next((i for i, part in enumerate(slices) if part is Ellipsis), len(given))
    every = [*given[:at], *[slice(None)] * (len(axes) - len(given)), *given[at:]]
    for part in every:
        if part.step is not None and not (hasattr(part.step, "__index__") and part.step >= 1):
            raise ValueError(f"slice of field {name!r}: step {part.step!r}; steps of at least 1 are needed")
    try:
        return tuple(axis[part] for axis, part in zip(axes, every, strict=True))
    except TypeError:
        raise ValueError(f"slice of field {name!r}: {key!r}: bounds are integers or None") from None


def as_slices(axes: Axes) -> Box:
    """The same as NumPy writes it."""
    return tuple(slice(axis.start, max(axis.start, axis.stop), axis.step) for axis in axes)
