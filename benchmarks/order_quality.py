"""What the order gives and costs: the figures of docs/decisions/002-block-window-lanes.md.

    python benchmarks/order_quality.py            # about a minute on one core
    python benchmarks/order_quality.py --quick    # a look

Everything is simulated: positions only, no data, no I/O. The dataset has `NBYTES` in samples of `SAMPLE_NBYTES` and is sorted
by label, the worst case: a batch can only be as mixed as the order makes it. Figures say how near batches come to those of a
uniform shuffle; only the last table is about time, and of this machine.
"""

import argparse
import time
from collections.abc import Iterator
from itertools import product

import numpy as np
import numpy.typing as npt

from chunkstore.plan.order import FragmentExtent, FullOrder, LaneOrder, SequentialOrder, plan_order

Int64s = npt.NDArray[np.int64]

MIB = 1 << 20
SAMPLE_NBYTES = 64 << 10
NBYTES = 128 << 30
NUM_SAMPLES = NBYTES // SAMPLE_NBYTES
NUM_LABELS = 1000
NUM_FRAGMENTS = 8
SHARD_BLOCKS = 32
"""Blocks of 4 MiB in a shard of 128 MiB."""

BLOCKS = (1, 2, 4, 8)
WINDOWS = (128, 256, 512, 1024)
LANES = (16, 64, 128, 256)
BATCH, SMALL_BATCH = 1024, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer batches, fewer settings")
    quick = parser.parse_args().quick
    batches = sampled_batches(100 if quick else 1000)
    print(f"{NBYTES >> 30} GiB, {NUM_SAMPLES:,} samples sorted by {NUM_LABELS} labels, {len(batches)} batches\n")
    print_quality(batches, WINDOWS[1:3] if quick else WINDOWS)
    print_nesting(batches)
    print_stagger()
    print_first_batch()
    print_requests()
    print_rounds(2_000_000 if quick else 20_000_000)
    print_planning()


def sampled_batches(count: int) -> Int64s:
    """First places of `count` batches spread over the epoch."""
    return np.linspace(0, NUM_SAMPLES - BATCH, count).astype(np.int64) // BATCH * BATCH


def make_order(block: int, window: int, lanes: int) -> LaneOrder:
    """The real order; block and window in MiB."""
    share = NUM_SAMPLES // NUM_FRAGMENTS
    fragment = FragmentExtent(share, block * MIB // SAMPLE_NBYTES, share * SAMPLE_NBYTES)
    order = plan_order([fragment] * NUM_FRAGMENTS, shuffle=True, lanes=lanes, window_nbytes=window * MIB)
    assert isinstance(order, LaneOrder)
    return order


def positions_of(order: LaneOrder, batches: Int64s) -> Int64s:
    places = (batches[:, None] + np.arange(BATCH)).ravel()
    return order.positions(0, places).reshape(len(batches), BATCH)


def entropy(groups: Int64s) -> float:
    """Mean entropy in bits of the groups that the samples of a batch fall into."""
    width = int(groups.max()) + 1
    _, counts = np.unique(np.arange(len(groups))[:, None] * width + groups, return_counts=True)
    share = counts / groups.shape[1]
    return float(-(share * np.log2(share)).sum() / len(groups))


def pair_lift(groups: Int64s, group_samples: int) -> float:
    """How much likelier two samples of a batch are of one group of `group_samples` than under a uniform shuffle."""
    width = int(groups.max()) + 1
    _, counts = np.unique(np.arange(len(groups))[:, None] * width + groups, return_counts=True)
    pairs = (counts * (counts - 1)).sum() / (len(groups) * BATCH * (BATCH - 1))
    return float(pairs / ((group_samples - 1) / (NUM_SAMPLES - 1)))


def neighbour_share(positions: Int64s) -> float:
    """Share of samples whose successor in version order is in the same batch, over that of a uniform shuffle."""
    ordered = np.sort(positions, axis=1)
    return float((np.diff(ordered, axis=1) == 1).mean() * NUM_SAMPLES / BATCH)


def spread(positions: Int64s) -> float:
    """Standard deviation of a batch's positions, over that of uniform positions."""
    return float(positions.std(axis=1, ddof=1).mean() / (NUM_SAMPLES / np.sqrt(12)))


def uniform_entropy(num_batches: int, batch: int) -> float:
    return entropy(np.random.default_rng(0).integers(0, NUM_LABELS, (num_batches, batch)))


def print_quality(batches: Int64s, windows: tuple[int, ...]) -> None:
    best = {batch: uniform_entropy(len(batches), batch) for batch in (SMALL_BATCH, BATCH)}
    print(f"## quality (uniform shuffle: entropies 100 %, spread and lifts 1; all of batches of {BATCH} unless said)\n")
    print(
        f"| block MiB | window MiB | lanes | run blocks | open MiB | label entropy ({SMALL_BATCH}) | label entropy ",
        end="",
    )
    print("| spread | distinct blocks | same-block lift | neighbour lift |")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for block, window, lanes in product(BLOCKS, windows, LANES):
        order = make_order(block, window, lanes)
        positions = positions_of(order, batches)
        rows = block * MIB // SAMPLE_NBYTES
        blocks, labels = positions // rows, positions * NUM_LABELS // NUM_SAMPLES
        distinct = 1 + (np.diff(np.sort(blocks, axis=1), axis=1) > 0).sum(axis=1).mean()
        print(
            f"| {block} | {window} | {lanes} | {order.run_blocks} | {order.run_blocks * lanes * block} "
            f"| {entropy(labels[:, :SMALL_BATCH]) / best[SMALL_BATCH]:.1%} | {entropy(labels) / best[BATCH]:.1%} "
            f"| {spread(positions):.3f} | {distinct:.0f} | {pair_lift(blocks, rows):.0f} | {neighbour_share(positions):.0f} |"
        )
    print()


def simulate(extent_blocks: int, *, nested: bool, lanes: int = 64, rows: int = 64) -> Int64s:
    """Blocks of each lane in epoch order, int64[lanes, blocks]: extents dealt to lanes, then permuted flat or nested."""
    rng = np.random.default_rng(0)
    extents = rng.permutation(NUM_SAMPLES // rows // extent_blocks)
    of_lane = extents[: len(extents) // lanes * lanes].reshape(lanes, -1)
    blocks = of_lane[:, :, None] * extent_blocks + np.arange(extent_blocks)
    if nested:
        return rng.permuted(blocks, axis=2).reshape(lanes, -1)
    return rng.permuted(blocks.reshape(lanes, -1), axis=1)


def interleave(blocks: Int64s, rows: int, run_blocks: int) -> Int64s:
    """Positions of an epoch: runs of blocks permuted sample by sample, lanes dealt like cards."""
    lanes = len(blocks)
    samples = blocks[:, :, None] * rows + np.arange(rows)
    runs = np.random.default_rng(1).permuted(samples.reshape(lanes, -1, run_blocks * rows), axis=2)
    return runs.reshape(lanes, -1).T.ravel()


def print_nesting(batches: Int64s) -> None:
    print(
        "## extents: how blocks reach lanes, and how they are permuted there (block 4 MiB, window 512 MiB, 64 lanes)\n"
    )
    print("| variant | label entropy | same-block lift | same-16-blocks lift | shards a rank of 8 touches | of 64 |")
    print("|---|--:|--:|--:|--:|--:|")
    best = uniform_entropy(len(batches), BATCH)
    rows, run_blocks = 64, 2
    variants = {
        "extents of 16, nested (design)": (16, True),
        "extents of 16, flat (chosen)": (16, False),
        "single blocks, flat": (1, False),
    }
    for name, (extent_blocks, nested) in variants.items():
        blocks = simulate(extent_blocks, nested=nested)
        epoch = interleave(blocks, rows, run_blocks)
        found = np.stack([epoch[start : start + BATCH] for start in batches])
        touched = []
        for world_size in (8, 64):
            shards = np.unique(blocks[::world_size] // SHARD_BLOCKS)  # the lanes of rank 0
            touched.append(len(shards) / (NUM_SAMPLES // rows // SHARD_BLOCKS))
        print(
            f"| {name} | {entropy(found * NUM_LABELS // NUM_SAMPLES) / best:.1%} | {pair_lift(found // rows, rows):.0f} "
            f"| {pair_lift(found // (16 * rows), 16 * rows):.1f} | {touched[0]:.0%} | {touched[1]:.0%} |"
        )
    print()


def run_sizes(variant: str, lane: int, lanes: int, rows: int, run_blocks: int) -> Iterator[int]:
    """Sizes of the runs of a lane after its ramp; the ramp counts as one run."""
    cut = lane * run_blocks % lanes * rows // lanes if variant == "samples" else 0
    yield rows - cut
    if variant == "blocks":
        yield (1 + lane * run_blocks // lanes) * rows
    elif variant == "samples":
        yield (run_blocks - lane * run_blocks // lanes) * rows
    while True:
        yield run_blocks * rows


def print_stagger() -> None:
    print(
        "## stagger: open bytes over the window, runs opened an eighth of a window ahead; and the largest burst of new runs in"
    )
    print("## a sixteenth of a window, over the even rate (64 lanes; steady state)\n")
    print(
        "| run blocks | peak: none | whole blocks (design) | samples (chosen) | burst: none | whole blocks | samples |"
    )
    print("|--:|--:|--:|--:|--:|--:|--:|")
    lanes, rows = 64, 64
    for run_blocks in (1, 2, 4, 8):
        length = run_blocks * rows
        ahead, slot = length // 8, max(1, length // 16)
        peaks, bursts = [], []
        for variant in ("none", "blocks", "samples"):
            held = np.zeros(24 * length, np.int64)
            opened = np.zeros(24 * length, np.int64)
            for lane in range(lanes):
                start = 0
                for size in run_sizes(variant, lane, lanes, rows, run_blocks):
                    if start >= 20 * length:
                        break
                    held[max(0, start - ahead) : start + size] += size
                    opened[start] += size
                    start += size
            steady = slice(4 * length, 16 * length)
            peaks.append(held[steady].max() / (lanes * length))
            bursts.append(np.convolve(opened[steady], np.ones(slot), "valid").max() / (lanes * slot))
        print(f"| {run_blocks} | " + " | ".join(f"{figure:.2f}" for figure in peaks + bursts) + " |")
    print()


def print_first_batch() -> None:
    print(f"## the first batch of {SMALL_BATCH}: samples to be read before it is whole (block 4 MiB, window 512 MiB)\n")
    print("| sample | lanes | with ramp | MiB | without | MiB |")
    print("|--:|--:|--:|--:|--:|--:|")
    for sample_nbytes, lanes in product((1 << 10, SAMPLE_NBYTES), LANES):
        rows = 4 * MIB // sample_nbytes
        fragment = FragmentExtent(64 * 256 * rows, rows, 64 * 256 * 4 * MIB)
        order = plan_order([fragment], shuffle=True, lanes=lanes)
        assert isinstance(order, LaneOrder)
        lane, run, _ = order.locate(0, np.arange(SMALL_BATCH))
        opened = np.unique(np.stack([lane, run]), axis=1).T.tolist()
        ramp = sum(order.run_samples(0, lane, run) for lane, run in opened)
        plain = min(lanes, SMALL_BATCH) * order.run_blocks * rows
        size = sample_nbytes / MIB
        print(
            f"| {sample_nbytes >> 10} KiB | {lanes} | {ramp:,} | {ramp * size:.1f} | {plain:,} | {plain * size:.0f} |"
        )
    print()


def print_requests() -> None:
    print("## range reads of an epoch, one a block (window 512 MiB, 64 lanes; those of the ramp counted one by one)\n")
    print("| block MiB | GETs a GB | of these for ramp, tail and lane edges |")
    print("|--:|--:|--:|")
    for block in BLOCKS:
        order = make_order(block, 512, 64)
        reads = 0
        for lane in range(0, 64, 8):
            reads += sum(len(order.run_ranges(0, lane, run)) for run in range(order.num_runs(0, lane)))
        blocks = NBYTES / (block * MIB)
        print(f"| {block} | {reads * 8 / NBYTES * 1e9:.0f} | {reads * 8 / blocks - 1:+.1%} |")
    print()


def print_rounds(samples: int) -> None:
    print(
        "## rounds of the permutation: distance of image differences from chance, in standard deviations of chi-square"
    )
    print(f"## (images of i and i + n/2 under many keys, {samples:,} indices)\n")
    print("| n | 4 rounds | 6 | 8 | 10 |")
    print("|--:|--:|--:|--:|--:|")
    for n in (64, 128, 256, 1024, 4096, 8192):
        print(f"| {n} | " + " | ".join(f"{structure(n, rounds, samples):.1f}" for rounds in (4, 6, 8, 10)) + " |")
    print()


def structure(n: int, rounds: int, samples: int) -> float:
    """The permutation of docs/spec/order.md with a chosen number of rounds, in NumPy; n a power of two."""
    keys = np.random.default_rng(5).integers(0, 1 << 64, samples // n, dtype=np.uint64)[:, None]
    bits = n.bit_length() - 1
    low_bits = np.uint64(bits // 2)
    masks = [np.uint64((1 << (bits - bits // 2)) - 1), np.uint64((1 << (bits // 2)) - 1)]
    index = np.arange(n, dtype=np.uint64)
    counts = np.zeros(n, np.int64)
    for part in np.array_split(keys, max(1, samples // 500_000)):
        halves = [np.broadcast_to(index >> low_bits, (len(part), n)).copy(), index & masks[1]]
        for turn in range(rounds):
            mixed = mix(part + np.uint64((turn + 1) * 0x9E3779B97F4A7C15 % (1 << 64)) ^ halves[1 - turn % 2])
            halves[turn % 2] = halves[turn % 2] ^ (mixed & masks[turn % 2])
        images = (halves[0] << low_bits) | halves[1]
        counts += np.bincount((images[:, : n // 2] ^ images[:, n // 2 :]).ravel().astype(np.int64), minlength=n)
    mean = counts[1:].mean()
    return float((((counts[1:] - mean) ** 2).sum() / mean - (n - 2)) / np.sqrt(2 * (n - 2)))


def mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def print_planning() -> None:
    print("## planning (this machine, one thread, calls of 8192 consecutive places: median and fastest)\n")
    print("| order | samples a run | ns a place | fastest |")
    print("|---|--:|--:|--:|")
    for sample_nbytes in (1 << 10, 4 << 10, SAMPLE_NBYTES, 100_000):
        rows = 1 << (4 * MIB // sample_nbytes).bit_length() - 1
        fragment = FragmentExtent(rows * 40_000, rows, rows * 40_000 * sample_nbytes)
        print_cost("lanes", plan_order([fragment] * 4, shuffle=True))
    print_cost("full", plan_order([FragmentExtent(1 << 22, 64, 1)], shuffle="full"))
    print_cost("full", plan_order([FragmentExtent((1 << 22) + 1, 64, 1)], shuffle="full"))
    fragments = [FragmentExtent(25_000_000 * 4096 // 3000, 4096, 10**14 // 3000)] * 3000
    started = time.perf_counter()
    large = plan_order(fragments, shuffle=True)
    assert isinstance(large, LaneOrder)
    planned_s = time.perf_counter() - started
    large.positions(0, np.array([5]))
    first_s = time.perf_counter() - started
    for lane in range(64):
        large.num_runs(0, lane)
    whole_s = time.perf_counter() - started
    print(
        f"\n100 TB, 25 million blocks: planned {planned_s:.2f} s, first place {first_s:.2f} s, all lanes {whole_s:.2f} s"
    )


def print_cost(name: str, order: LaneOrder | FullOrder | SequentialOrder) -> None:
    seconds = []
    for turn in range(100):
        places = np.arange((turn + 100) * 8192, (turn + 101) * 8192)
        started = time.perf_counter()
        order.positions(0, places)
        seconds.append((time.perf_counter() - started) / places.size * 1e9)
    size = order.run_samples(0, 0, order.num_runs(0, 0) - 2) if isinstance(order, LaneOrder) else order.num_samples
    print(f"| {name} | {size:,} | {np.median(seconds):.0f} | {min(seconds):.0f} |")


if __name__ == "__main__":
    main()
