"""Whether the samples that came are exactly those of the epoch: the check behind the demo's central claim.

Compares what was delivered, never what was planned. Before it: the sample numbers that batches carried; after it: the table.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came in an epoch, against what should have.

    Attributes:
        num_expected: Samples of the epoch.
        num_delivered: Samples that came, repeats counted.
        repeated: Those that came more often than once.
        missing: Those that never came.
        unknown: Those that came and are not of the epoch.
    """

    num_expected: int
    num_delivered: int
    repeated: tuple[int, ...]
    missing: tuple[int, ...]
    unknown: tuple[int, ...]

    @property
    def is_exact(self) -> bool:
        """Whether every sample came once, and nothing else."""
        return not (self.repeated or self.missing or self.unknown) and self.num_delivered == self.num_expected

    def __str__(self) -> str:
        if self.is_exact:
            return f"{self.num_delivered:,} of {self.num_expected:,} samples, none twice, none missing"
        return (
            f"{self.num_delivered:,} delivered for {self.num_expected:,} samples: {len(self.repeated):,} more than once, "
            f"{len(self.missing):,} missing, {len(self.unknown):,} of another epoch or dataset"
        )


def check_delivery(delivered: Iterable[int], expected: Iterable[int]) -> Delivery:
    """Compare the numbers of the samples that came with those of the epoch.

    Raises:
        ValueError: `expected` names a sample twice, so that "once" has no meaning.
    """
    times = Counter(delivered)
    listed = list(expected)
    known = set(listed)
    if len(known) != len(listed):
        raise ValueError("the expected samples are not told apart by their numbers")
    return Delivery(
        num_expected=len(listed),
        num_delivered=times.total(),
        repeated=tuple(sorted(number for number, count in times.items() if count > 1)),
        missing=tuple(sorted(known - times.keys())),
        unknown=tuple(sorted(times.keys() - known)),
    )
