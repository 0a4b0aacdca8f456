"""Selections: which samples of a dataset a view sees, and where its i-th sample stands.

Kept as sorted positions where few are selected, else as a bitmap with the number of selected ones before each block of it,
whichever is smaller; so a selection of N samples takes at most N/8 bytes and a sixteenth of that. Immutable, and never depends
on how it was asked for: a mask, indices and a split that choose the same samples are the same selection. Pure: no I/O. Before
it the user's masks and indices; after it `reading/dataset.py`, which reads what is selected.

Source: docs/spec/order.md, "Views", for the digest.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from chunkstore.plan.reads import Intervals, Ints, intervals_of_rows

Mask = npt.NDArray[np.bool_]

BLOCK = 1024
"""Positions of a bitmap whose selected ones are counted together: 8 bytes of count for 128 of bitmap."""
AT_ONCE = 1 << 20
"""Positions that are looked at together, so that memory stays bounded whatever the size; a multiple of `BLOCK`."""
_DIGEST_BLOCK = 1 << 16
_FEW = _DIGEST_BLOCK // 16
_SELECTED_OF_BYTE = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1).astype(np.uint8)
_SHOWN = 60
"""Characters of a key that messages repeat."""
_LONG = 64
"""From so many samples an interval on, its part of a bitmap is looked through, not each of its samples looked up."""


class Selection(Protocol):
    """Which of the positions [0, num_positions) are selected; `len` is their number."""

    @property
    def num_positions(self) -> int:
        """Positions that there are, selected or not."""

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""

    def __len__(self) -> int: ...

    def select(self, indices: Ints) -> Ints:
        """Positions of the selected samples number `indices`, which lie in [0, len); any order, repeats allowed."""

    def select_range(self, start: int, stop: int) -> Ints:
        """Positions of the selected samples number start, start + 1, …, stop − 1."""

    def count_before(self, positions: Ints) -> Ints:
        """How many are selected before each of `positions`, which lie in [0, num_positions]."""

    def mask(self, start: int, stop: int) -> Mask:
        """Whether each of the positions [start, stop) is selected; `start` a multiple of 8."""


@dataclass(frozen=True, slots=True, eq=False)
class Listed:
    """A selection of few: their positions, ascending."""

    num_positions: int
    positions: Ints

    def __post_init__(self) -> None:
        kept = self.positions.view()
        kept.flags.writeable = False
        object.__setattr__(self, "positions", kept)

    @property
    def nbytes(self) -> int:
        """See `Selection`."""
        return self.positions.nbytes

    def __len__(self) -> int:
        return len(self.positions)

    def select(self, indices: Ints) -> Ints:
        """See `Selection`."""
        return self.positions[indices]

    def select_range(self, start: int, stop: int) -> Ints:
        """See `Selection`."""
        return self.positions[start:stop].copy()  # the caller's to change

    def count_before(self, positions: Ints) -> Ints:
        """See `Selection`."""
        return np.searchsorted(self.positions, positions).astype(np.int64, copy=False)

    def mask(self, start: int, stop: int) -> Mask:
        """See `Selection`."""
        selected = np.zeros(stop - start, np.bool_)
        low, high = np.searchsorted(self.positions, [start, stop])
        selected[self.positions[low:high] - start] = True
        return selected


@dataclass(frozen=True, slots=True, eq=False)
class Bitmap:
    """A selection of many.

    Attributes:
        num_positions: See `Selection`.
        bits: uint8, whole blocks of `BLOCK` positions: position p is bit p mod 8 of byte p div 8, the lowest first.
        before: int64 (blocks + 1,): selected positions before each block; then all of them.
    """

    num_positions: int
    bits: npt.NDArray[np.uint8]
    before: Ints

    @property
    def nbytes(self) -> int:
        """See `Selection`."""
        return self.bits.nbytes + self.before.nbytes

    def __len__(self) -> int:
        return int(self.before[-1])

    def select(self, indices: Ints) -> Ints:
        """See `Selection`."""
        positions = np.empty(len(indices), np.int64)
        step = AT_ONCE // BLOCK
        for at in range(0, len(indices), step):
            wanted = indices[at : at + step]
            block = np.searchsorted(self.before, wanted, side="right") - 1
            rest = wanted - self.before[block]
            rows = self.bits.reshape(-1, BLOCK // 8)[block]
            upto = np.cumsum(_SELECTED_OF_BYTE[rows], axis=1, dtype=np.int16)  # at most `BLOCK`
            byte = np.count_nonzero(upto <= rest[:, None].astype(np.int16), axis=1)
            here = np.arange(len(wanted))
            rest -= np.where(byte > 0, upto[here, byte - 1], 0)
            bits = np.unpackbits(rows[here, byte][:, None], axis=1, bitorder="little")
            bit = np.count_nonzero(np.cumsum(bits, axis=1, dtype=np.int8) <= rest[:, None].astype(np.int8), axis=1)
            positions[at : at + step] = block * BLOCK + byte * 8 + bit
        return positions

    def select_range(self, start: int, stop: int) -> Ints:
        """See `Selection`."""
        if start >= stop:
            return np.empty(0, np.int64)
        first, last = (np.searchsorted(self.before, [start, stop - 1], side="right") - 1).tolist()
        end = min((last + 1) * BLOCK, self.num_positions)
        parts = [
            np.flatnonzero(self.mask(at, min(at + AT_ONCE, end))) + at for at in range(first * BLOCK, end, AT_ONCE)
        ]
        skip = start - int(self.before[first])
        return np.concatenate(parts)[skip : skip + stop - start]

    def count_before(self, positions: Ints) -> Ints:
        """See `Selection`."""
        counts = np.empty(len(positions), np.int64)
        for i, position in enumerate(positions.tolist()):
            block = position // BLOCK
            within = self.mask(block * BLOCK, position)
            counts[i] = self.before[block] + np.count_nonzero(within)
        return counts

    def mask(self, start: int, stop: int) -> Mask:
        """See `Selection`."""
        packed = self.bits[start // 8 : -(-stop // 8)]
        return np.unpackbits(packed, count=stop - start, bitorder="little").view(np.bool_)


class SelectionWriter:
    """Makes a selection of masks over one stretch of positions after another, all but the last a multiple of `BLOCK` long.

    Args:
        num_positions: Of all stretches together.
    """

    def __init__(self, num_positions: int) -> None:
        self._num_positions = num_positions
        blocks = -(-num_positions // BLOCK)
        self._bits = np.zeros(blocks * BLOCK // 8, np.uint8)
        self._before = np.zeros(blocks + 1, np.int64)
        self._block = 0

    def append(self, mask: Mask) -> None:
        """Take the mask of the next stretch."""
        start, blocks = self._block, -(-len(mask) // BLOCK)
        self._block += blocks
        rows = self._bits[start * BLOCK // 8 : self._block * BLOCK // 8]
        packed = np.packbits(mask, bitorder="little")
        rows[: len(packed)] = packed
        counts = _SELECTED_OF_BYTE[rows.reshape(-1, BLOCK // 8)].sum(axis=1, dtype=np.int64)
        self._before[start + 1 : self._block + 1] = counts

    def finish(self) -> Selection:
        """The selection, kept whichever way is smaller."""
        assert self._block == len(self._before) - 1
        bitmap = Bitmap(self._num_positions, self._bits, np.cumsum(self._before))
        if len(bitmap) * 8 > bitmap.nbytes:
            return bitmap
        return Listed(self._num_positions, bitmap.select_range(0, len(bitmap)))


def selection_of_mask(mask: Mask) -> Selection:
    """The positions where a mask (num_positions,) is true."""
    parts = (mask[at : at + AT_ONCE] for at in range(0, len(mask), AT_ONCE))
    return _packed(len(mask), parts)


def selection_of_positions(positions: Ints, num_positions: int) -> Selection:
    """The selection of strictly increasing positions in [0, num_positions); keeps the array, if they are few."""
    if positions.nbytes <= _bitmap_nbytes(num_positions):
        return Listed(num_positions, positions)
    listed = Listed(num_positions, positions)
    return _packed(num_positions, (listed.mask(start, stop) for start, stop in _spans(num_positions)))


def compose(outer: Selection, inner: Selection) -> Selection:
    """What `inner` selects of the samples that `outer` selects, as a selection of the positions of `outer`."""
    assert inner.num_positions == len(outer)
    if isinstance(inner, Listed):
        return Listed(outer.num_positions, outer.select(inner.positions))
    if isinstance(outer, Listed):
        return Listed(outer.num_positions, outer.positions[inner.mask(0, len(outer))])
    return _packed(outer.num_positions, _both(outer, inner))


def select_intervals(selection: Selection, intervals: Intervals) -> Intervals:
    """Positions of the selected samples in sorted, disjoint intervals of their numbers, as intervals of the same kind."""
    lengths = intervals[:, 1] - intervals[:, 0]
    total = int(lengths.sum())
    if len(intervals) * _LONG <= total:
        parts = [selection.select_range(start, stop) for start, stop in intervals.tolist()]
        return intervals_of_rows(np.concatenate(parts) if parts else np.empty(0, np.int64))
    within = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return intervals_of_rows(selection.select(within + np.repeat(intervals[:, 0], lengths)))


def digest(selection: Selection) -> str:
    """SHA-256 over which positions are selected, in hexadecimal; the same whichever way they are kept."""
    hashed = hashlib.sha256()
    for start in range(0, selection.num_positions, AT_ONCE):
        stop = min(start + AT_ONCE, selection.num_positions)
        if isinstance(selection, Listed) and not _holds_any(selection, start, stop):
            continue
        mask = selection.mask(start, stop)
        for first in range(0, stop - start, _DIGEST_BLOCK):
            _hash_block(hashed, (start + first) // _DIGEST_BLOCK, mask[first : first + _DIGEST_BLOCK])
    return hashed.hexdigest()


def brief(key: Any, array: npt.NDArray[Any] | None = None) -> str:
    """What a message says of a key that chooses no samples: itself where it is short, else its kind."""
    if array is not None and (array.ndim or isinstance(key, np.ndarray)) and array.dtype.kind not in "US":
        return f"an array of dtype {array.dtype} and shape {array.shape}"
    shown = repr(key)
    return shown if len(shown) <= _SHOWN else f"a {type(key).__name__}: {shown[:_SHOWN]}…"


def _hash_block(hashed: "hashlib._Hash", number: int, mask: Mask) -> None:
    selected = np.flatnonzero(mask)
    if not len(selected):
        return
    hashed.update(number.to_bytes(8, "little") + len(selected).to_bytes(4, "little"))
    if len(selected) <= _FEW:
        hashed.update(selected.astype("<u2").tobytes())
        return
    whole = np.zeros(_DIGEST_BLOCK, np.bool_)
    whole[: len(mask)] = mask
    hashed.update(np.packbits(whole, bitorder="little").tobytes())


def _holds_any(selection: Listed, start: int, stop: int) -> bool:
    low, high = np.searchsorted(selection.positions, [start, stop])
    return bool(low < high)


def _both(outer: Selection, inner: Selection) -> Iterator[Mask]:
    """For each stretch of the positions of `outer`: which are selected by both."""
    seen = 0
    for start, stop in _spans(outer.num_positions):
        mask = outer.mask(start, stop)
        there = np.flatnonzero(mask)
        low = seen - seen % 8
        mask[there] = inner.mask(low, seen + len(there))[seen - low :]
        seen += len(there)
        yield mask


def _spans(num_positions: int) -> Iterator[tuple[int, int]]:
    return ((at, min(at + AT_ONCE, num_positions)) for at in range(0, num_positions, AT_ONCE))


def _bitmap_nbytes(num_positions: int) -> int:
    blocks = -(-num_positions // BLOCK)
    return blocks * BLOCK // 8 + (blocks + 1) * 8


def _packed(num_positions: int, masks: Iterable[Mask]) -> Selection:
    writer = SelectionWriter(num_positions)
    for mask in masks:
        writer.append(mask)
    return writer.finish()
