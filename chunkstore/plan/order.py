"""The order: which sample stands at which place of an epoch, as a pure function of version, seed, epoch and four options.

Normative formulas: docs/spec/order.md; golden vectors pin them. What is computed here may never depend on world size, batch
size, threads, cache, storage, selected fields or history, and no table may grow with the samples. Before it stand the
fragments of a version, after it `steps` (which places a rank takes) and the plan of reads (where positions lie).
"""

import operator
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from chunkstore.plan.extents import FragmentExtent
from chunkstore.plan.lanes import EpochTables, LaneStream, Purpose
from chunkstore.plan.permutation import MAX_SIZE, derive_key, permute_indices, permute_range

Int64s = npt.NDArray[np.int64]
Shuffle = bool | Literal["full"]

DEFAULT_LANES: Final = 64
DEFAULT_WINDOW_NBYTES: Final = 512 << 20
MAX_LANES: Final = 1 << 16
BLOCKS_A_LANE: Final = 16
"""Blocks and extents are made smaller until a lane has this many, if the data allow it."""

MAX_EXTENT_BLOCKS: Final = 16
_EPOCHS_KEPT: Final = 2


class Order(Protocol):
    """Any order: a permutation of the positions [0, num_samples) for each epoch."""

    @property
    def num_samples(self) -> int:
        """Number of places of every epoch."""
        ...

    def positions(self, epoch: int, places: Int64s) -> Int64s:
        """Positions in version order of the samples that stand at `places` of `epoch`; int64, same length, a new array.

        Raises:
            ValueError: a place lies outside [0, num_samples), or epoch is negative.
        """
        ...


@dataclass(frozen=True, slots=True)
class SequentialOrder:
    """`shuffle=False`: position = place."""

    num_samples: int

    def positions(self, epoch: int, places: Int64s) -> Int64s:
        """See `Order.positions`."""
        _checked_epoch(epoch)
        places = _checked_places(places)
        if places.size and not (places.min() >= 0 and places.max() < self.num_samples):
            raise ValueError(f"places must lie in [0, {self.num_samples}), the places of an epoch")
        return places.copy()


@dataclass(frozen=True, slots=True)
class FullOrder:
    """`shuffle="full"`: one keyed permutation of all samples, for local or cached data (docs/spec/order.md, section 4)."""

    num_samples: int
    seed: int

    def positions(self, epoch: int, places: Int64s) -> Int64s:
        """See `Order.positions`."""
        key = derive_key(Purpose.FULL, self.seed, _checked_epoch(epoch))
        return permute_indices(_checked_places(places), self.num_samples, key)


class LaneOrder:
    """`shuffle=True`: blocks are shuffled within lanes, samples within runs. Source: docs/spec/order.md, section 3.

    Place g of an epoch belongs to slot g mod lanes and has lane index g div lanes there. Tables are built lane by lane on
    demand and kept for two epochs; methods may be called from several threads.
    """

    def __init__(self, stream: LaneStream, seed: int, *, affinity: bool) -> None:
        self._stream = stream
        self._seed = seed
        self._affinity = affinity
        self._epochs: dict[int, EpochTables] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        stream = self._stream
        return (
            f"LaneOrder(num_samples={stream.num_samples}, lanes={stream.lanes}, run_blocks={stream.run_blocks}, "
            f"seed={self._seed}, affinity={self._affinity})"
        )

    @property
    def num_samples(self) -> int:
        """Number of places of every epoch."""
        return self._stream.num_samples

    @property
    def lanes(self) -> int:
        """Number of lanes, and of slots."""
        return self._stream.lanes

    @property
    def run_blocks(self) -> int:
        """Blocks of a full run."""
        return self._stream.run_blocks

    def positions(self, epoch: int, places: Int64s) -> Int64s:
        """See `Order.positions`."""
        return self._tables(epoch).positions(_checked_places(places))

    def locate(self, epoch: int, places: Int64s) -> tuple[Int64s, Int64s, Int64s]:
        """(lane, run, offset) of each place, int64 each.

        The sample is number `offset` of the run's samples before their permutation, that is of the concatenated
        `run_ranges(epoch, lane, run)`.

        Raises:
            ValueError: a place lies outside [0, num_samples), or epoch is negative.
        """
        located = self._tables(epoch).locate(_checked_places(places))
        return located[4], located[3], located[0]

    def run_ranges(self, epoch: int, lane: int, run: int) -> Int64s:
        """Positions of a run's samples before their permutation: int64[m, 2], half-open ranges in run order.

        Neighbouring ranges are merged only where the second continues the first.

        Raises:
            ValueError: there is no such lane or run, or epoch is negative.
        """
        tables = self._tables(epoch)
        return tables.ranges(tables.run(lane, run))

    def run_span(self, epoch: int, lane: int, run: int) -> tuple[int, int]:
        """Lane indices [start, stop) of a run: its places are index · lanes + `slot_of(epoch, lane)`.

        Raises:
            ValueError: there is no such lane or run, or epoch is negative.
        """
        found = self._tables(epoch).run(lane, run)
        return found.start, found.stop

    def run_samples(self, epoch: int, lane: int, run: int) -> int:
        """Number of samples of a run.

        Raises:
            ValueError: there is no such lane or run, or epoch is negative.
        """
        start, stop = self.run_span(epoch, lane, run)
        return stop - start

    def num_runs(self, epoch: int, lane: int) -> int:
        """Number of runs that a lane has in an epoch; 0 when it has no samples.

        Raises:
            ValueError: there is no such lane, or epoch is negative.
        """
        return self._tables(epoch).num_runs(lane)

    def slot_of(self, epoch: int, lane: int) -> int:
        """The slot at which a lane stands in an epoch: its places are those with place mod lanes = slot.

        Raises:
            ValueError: there is no such lane, or epoch is negative.
        """
        slots = np.flatnonzero(self._tables(epoch).lane_at == lane)
        if not slots.size:
            raise ValueError(f"lane {lane} is not one of {self.lanes} lanes")
        return int(slots[0])

    def lane_at(self, epoch: int, slot: int) -> int:
        """The lane that stands at a slot in an epoch.

        Raises:
            ValueError: there is no such slot, or epoch is negative.
        """
        if not 0 <= slot < self.lanes:
            raise ValueError(f"slot {slot} is not one of {self.lanes} slots")
        return int(self._tables(epoch).lane_at[slot])

    def _tables(self, epoch: int) -> EpochTables:
        epoch = _checked_epoch(epoch)
        with self._lock:
            tables = self._epochs.pop(epoch, None)
            if tables is None:
                tables = EpochTables(self._stream, self._seed, epoch, affinity=self._affinity)
                while len(self._epochs) >= _EPOCHS_KEPT:
                    del self._epochs[next(iter(self._epochs))]
            self._epochs[epoch] = tables  # the last used stands last
            return tables


def plan_order(
    fragments: Sequence[FragmentExtent],
    *,
    shuffle: Shuffle,
    seed: int = 0,
    lanes: int = DEFAULT_LANES,
    window_nbytes: int = DEFAULT_WINDOW_NBYTES,
    affinity: bool = False,
) -> SequentialOrder | FullOrder | LaneOrder:
    """The order of the samples of `fragments`, which stand in version order.

    Args:
        fragments: what a version lists; positions count their samples one after another.
        shuffle: True for lanes, "full" for one permutation of all samples, False for version order.
        seed: in [0, 2^64).
        lanes: equal parts of an epoch, 1 to 65536; any world size that divides it reads each block on one rank only.
        window_nbytes: decoded bytes of the runs of all lanes that are open at once.
        affinity: keep each lane at the same slot, and so at the same rank, in every epoch.

    Raises:
        ValueError: an option is outside its range, or there are more than 2^62 samples.

    Source: docs/spec/order.md.
    """
    num_samples = sum(fragment.samples for fragment in fragments)
    seed = operator.index(seed)
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed={seed} lies outside [0, 2^64)")
    if not 1 <= lanes <= MAX_LANES:
        raise ValueError(f"lanes={lanes} lies outside [1, {MAX_LANES}]")
    if window_nbytes < 1:
        raise ValueError(f"window_nbytes={window_nbytes}: the window needs at least one byte")
    if num_samples > MAX_SIZE:
        raise ValueError(f"{num_samples} samples are more than an order can hold (2^62)")
    if shuffle is False:
        return SequentialOrder(num_samples)
    if shuffle == "full":
        return FullOrder(num_samples, seed)
    if shuffle is not True:
        raise ValueError(f'shuffle={shuffle!r}: take True, "full" or False')
    return LaneOrder(_plan_stream(fragments, num_samples, seed, lanes, window_nbytes), seed, affinity=affinity)


def list_positions(order: Order, epoch: int) -> Int64s:
    """Positions of all places of an epoch, int64[num_samples]: for golden vectors, tests and audits of small datasets."""
    return order.positions(epoch, np.arange(order.num_samples, dtype=np.int64))


def _plan_stream(
    fragments: Sequence[FragmentExtent], num_samples: int, seed: int, lanes: int, window_nbytes: int
) -> LaneStream:
    most_rows = 1 << (max(1, num_samples // (BLOCKS_A_LANE * lanes)).bit_length() - 1)
    samples = np.array([fragment.samples for fragment in fragments], np.int64)
    rows = np.array([min(fragment.block_rows, most_rows) for fragment in fragments], np.int64)
    blocks = -(-samples // rows)
    extent_blocks = MAX_EXTENT_BLOCKS
    while extent_blocks > 1 and int((-(-blocks // extent_blocks)).sum()) < BLOCKS_A_LANE * lanes:
        extent_blocks //= 2
    fragment_start = np.cumsum(samples) - samples
    extents = -(-blocks // extent_blocks)
    extents_before = np.cumsum(extents)
    count = int(extents.sum())
    order = permute_range(0, count, count, derive_key(Purpose.EXTENTS, seed))
    fragment = np.searchsorted(extents_before, order, side="right")
    extent_in_fragment = order - (extents_before - extents)[fragment]
    extent_rows = rows[fragment] * extent_blocks
    first = fragment_start[fragment] + extent_in_fragment * extent_rows
    sizes = np.minimum(extent_rows, (fragment_start + samples)[fragment] - first)
    nbytes = sum(fragment.nbytes for fragment in fragments)
    return LaneStream(
        num_samples=num_samples,
        lanes=lanes,
        run_blocks=_run_blocks(int(blocks.sum()), nbytes, lanes, window_nbytes),
        first=first,
        rows=rows[fragment],
        stream=np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]),
    )


def _run_blocks(num_blocks: int, nbytes: int, lanes: int, window_nbytes: int) -> int:
    """Blocks of a run: window_nbytes / (lanes · mean block), rounded half up, from 1 to the number of blocks."""
    divisor = max(1, lanes * nbytes)
    return max(1, min((2 * window_nbytes * num_blocks + divisor) // (2 * divisor), num_blocks))


def _checked_epoch(epoch: int) -> int:
    epoch = operator.index(epoch)
    if epoch < 0:
        raise ValueError(f"epoch={epoch}: epochs count from 0")
    return epoch


def _checked_places(places: Int64s) -> Int64s:
    if places.ndim != 1 or places.dtype != np.int64:
        raise ValueError(f"places must be a 1-D int64 array, not {places.ndim}-D {places.dtype}")
    # One layout, so that the kernels are compiled once.
    return np.require(places, requirements=["C", "W"])
