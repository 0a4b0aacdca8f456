"""The state of a loader: one cursor, the same on every rank, that any world size and batch size can go on from.

Source: docs/spec/order.md, "State".
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from chunkstore.errors import StateMismatch
from chunkstore.loader.epochs import MAX_EPOCH
from chunkstore.plan.order import Shuffle

ORDER = 1
"""Version of the order's formulas."""


@dataclass(frozen=True, slots=True)
class LoaderState:
    """Everything that decides which samples come next.

    Attributes:
        order: Version of the order's formulas.
        dataset: UUID of the dataset.
        version: Number of its version.
        view: Digest of which samples of it are seen; "all" if none is left out.
        shuffle: True, "full" or False.
        seed: Of the shuffle.
        lanes: Of the order.
        window_nbytes: Of the order.
        affinity: Of the order.
        epoch: The epoch of the next sample.
        consumed: Places of it that the whole job has handed out.
    """

    order: int
    dataset: str
    version: int
    view: str
    shuffle: Shuffle
    seed: int
    lanes: int
    window_nbytes: int
    affinity: bool
    epoch: int
    consumed: int

    def to_dict(self) -> dict[str, Any]:
        """As `state_dict` gives it: JSON values only."""
        return asdict(self)

    def check(self, state: Mapping[str, Any]) -> tuple[int, int]:
        """(epoch, consumed) of a saved state, which must be of the same order over the same samples.

        Raises:
            StateMismatch: something but epoch and consumed differs, or is missing.
        """
        expected = self.to_dict()
        if missing := [f.name for f in fields(self) if f.name not in state]:
            raise StateMismatch(f"the state lacks {', '.join(missing)}; it is not one that Loader.state_dict() gave")
        for name, value in expected.items():
            if name not in ("epoch", "consumed") and (state[name] != value or type(state[name]) is not type(value)):
                raise StateMismatch(
                    f"{name} is {state[name]!r} in the state but {value!r} in this loader; make the loader as it was when the "
                    "state was taken (batch size, world size and selected fields are free to change)"
                )
        epoch, consumed = state["epoch"], state["consumed"]
        if type(epoch) is not int or type(consumed) is not int or not 0 <= epoch <= MAX_EPOCH or consumed < 0:
            raise StateMismatch(
                f"epoch={epoch!r}, consumed={consumed!r}: integers from 0 are needed, an epoch below 2^62"
            )
        return epoch, consumed
