"""Steps of an epoch: which places of the order each rank takes in the step that starts at `consumed`.

A step is the next global batch of places and never crosses the end of its epoch. Pure arithmetic on counts (docs/spec/order.md,
section 5): nothing here may depend on anything but its arguments, and the places of all ranks together may never depend on
world size. The loader calls it with its state's `consumed`, and passes the places on to `order`.
"""

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.int64]


def num_steps(num_samples: int, global_batch: int, *, consumed: int = 0, drop_last: bool = False) -> int:
    """Number of steps that an epoch of `num_samples` still has after `consumed` places.

    With `drop_last` a last step shorter than `global_batch` places is not taken; 0 from `consumed=0` then means that the
    whole epoch is shorter than one global batch, which callers report as an error.

    Raises:
        ValueError: global_batch < 1, or consumed outside [0, num_samples].
    """
    _check_counts(consumed, global_batch, num_samples)
    left = num_samples - consumed
    return left // global_batch if drop_last else -(-left // global_batch)


def step_size(consumed: int, global_batch: int, num_samples: int) -> int:
    """Number of places in the step that starts at `consumed`: `global_batch`, or what is left of the epoch.

    Raises:
        ValueError: global_batch < 1, or consumed outside [0, num_samples].
    """
    _check_counts(consumed, global_batch, num_samples)
    return min(global_batch, num_samples - consumed)


def rank_places(
    consumed: int, global_batch: int, rank: int, world_size: int, num_samples: int, *, contiguous: bool
) -> Places:
    """Places of one rank in the step that starts at `consumed`.

    Args:
        consumed: places of the epoch that the whole job has handed out; any number, not only multiples of `global_batch`.
        global_batch: samples a step of the whole job; a multiple of `world_size`.
        rank: this rank, in [0, world_size).
        world_size: number of ranks.
        num_samples: length of the epoch.
        contiguous: False gives the places g with g mod world_size = rank (shuffled orders); True the rank-th contiguous
            slice of the step, in a short step [n·rank div world_size, n·(rank + 1) div world_size) of its n places.

    Returns:
        int64, ascending. global_batch / world_size places, in a short last step fewer, possibly none.

    Raises:
        ValueError: the numbers do not fit together.
    """
    _check_ranks(global_batch, rank, world_size)
    size = step_size(consumed, global_batch, num_samples)
    if contiguous:
        return np.arange(
            consumed + size * rank // world_size, consumed + size * (rank + 1) // world_size, dtype=np.int64
        )
    return np.arange(_first_of_rank(consumed, rank, world_size), consumed + size, world_size, dtype=np.int64)


def padded_rank_places(
    consumed: int, global_batch: int, rank: int, world_size: int, num_samples: int, *, contiguous: bool
) -> tuple[Places, npt.NDArray[np.bool_]]:
    """Places of one rank when the last step is filled to a whole global batch with repeats.

    Of a step with n places, the j-th of `global_batch` is place consumed + (j mod n): the step's own places again, in order,
    so that what is filled in does not depend on world size either. Arguments and errors as for `rank_places`.

    Returns:
        int64[global_batch / world_size] places, and bool of the same length: True for places, False for repeats. Both
        are empty only when nothing is left of the epoch.
    """
    _check_ranks(global_batch, rank, world_size)
    size = step_size(consumed, global_batch, num_samples)
    share = global_batch // world_size if size else 0
    first = rank * share if contiguous else _first_of_rank(consumed, rank, world_size) - consumed
    index = first + np.arange(share, dtype=np.int64) * (1 if contiguous else world_size)
    return consumed + index % max(size, 1), index < size


def _first_of_rank(consumed: int, rank: int, world_size: int) -> int:
    return consumed + (rank - consumed) % world_size


def _check_counts(consumed: int, global_batch: int, num_samples: int) -> None:
    if global_batch < 1:
        raise ValueError(f"global_batch={global_batch}: a step needs at least one sample")
    if not 0 <= consumed <= num_samples:
        raise ValueError(f"consumed={consumed} lies outside the epoch of {num_samples} samples")


def _check_ranks(global_batch: int, rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise ValueError(f"rank={rank} is not one of world_size={world_size} ranks")
    if global_batch % world_size:
        raise ValueError(
            f"global_batch={global_batch} is not a multiple of world_size={world_size}: ranks must take equal batches"
        )
