"""What the order needs to know of a fragment; apart from `order.py`, so that opening a dataset loads no compiler."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FragmentExtent:
    """What the order needs to know of a fragment, or of what a view sees of one.

    Attributes:
        samples: number of samples, >= 0.
        block_rows: samples of a block as recorded in the version, >= 1.
        nbytes: decoded bytes of all its fields, selected or not.
    """

    samples: int
    block_rows: int
    nbytes: int

    def __post_init__(self) -> None:
        if self.samples < 0 or self.nbytes < 0:
            raise ValueError(f"a fragment cannot have {self.samples} samples and {self.nbytes} bytes")
        if self.block_rows < 1:
            raise ValueError(f"block_rows={self.block_rows}: a block holds at least one sample")
