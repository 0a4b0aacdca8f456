"""A dataset and a loader as `torch.utils.data.DataLoader` wants them.

`StreamDataset` yields whole batches in the loader's order, whatever the number of workers: worker w of W yields steps w, w
+ W, …, and DataLoader takes them in turn. `MapDataset` gives samples by index, many at once. Workers may be spawned or
come from a forkserver; forked ones work for local data, and get `ForkedLoader` where the store has threads of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch.utils.data

from chunkstore._native import crc32c
from chunkstore.loader.loader import Loader
from chunkstore.loader.ranks import resolve_rank
from chunkstore.plan.order import Shuffle
from chunkstore.store.dataset import Dataset, Url
from chunkstore.store.dataset import open as open_dataset
from chunkstore.store.present import Batch

MAX_WORKERS = 1024
_NUM_PASSES = 64
_LOW_BITS = (1 << 32) - 1


class StreamDataset(torch.utils.data.IterableDataset[Batch]):
    """Batches of a `Loader`, for `DataLoader(dataset, batch_size=None, num_workers=…)`.

    Each pass is the next epoch, unless `set_epoch` says otherwise. Batches are dicts of torch tensors.

    Args:
        dataset: A `Dataset`, or the path or URL of one.
        batch_size: Samples a rank takes in a step; or give `global_batch_size`.
        shuffle: As for `Loader`.
        seed: As for `Loader`.
        options: Everything else that `Loader` takes; `device` is "cpu" unless given.
    """

    def __init__(
        self,
        dataset: Dataset | Url,
        batch_size: int | None = None,
        *,
        shuffle: Shuffle = False,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        self._dataset = dataset
        self._options = {"device": "cpu", "batch_size": batch_size, "shuffle": shuffle, "seed": seed, **options}
        self._epochs = _SharedEpochs()
        self._loader: Loader | None = None
        self._loader = self._made()

    def __len__(self) -> int:
        """Steps of an epoch."""
        return len(self._made())

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        if worker is None:
            return self._made().worker_batches(0, 1, self._epochs.begin_pass())
        epoch = self._epochs.begin_pass_of_worker(worker.id, worker.seed - worker.id)
        return self._made().worker_batches(worker.id, worker.num_workers, epoch)

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next pass, also in workers that live already."""
        self._epochs.set(epoch)

    def _made(self) -> Loader:
        if self._loader is None:
            self._loader = Loader(self._dataset, **self._options)
        return self._loader

    def __getstate__(self) -> dict[str, Any]:
        """For a spawned worker, which has no process group to ask: the rank is settled here, the loader made there."""
        rank, world_size = resolve_rank(self._options.get("rank"), self._options.get("world_size"))
        options = {**self._options, "rank": rank, "world_size": world_size}
        return {**self.__dict__, "_options": options, "_dataset": self._made().dataset, "_loader": None}


class _SharedEpochs:
    """Which epoch a pass is, agreed upon by workers that do not talk to each other.

    The main process is not told when DataLoader begins a pass, and of a pass that is given up early some workers may never have
    begun. So passes have tags that all their workers know: DataLoader's base seed, and how often this worker has seen it.
    The first worker of a pass notes that its epoch is the one after the last noted; those who come at the same moment note
    the same. Everything is in 64-bit words of shared memory, each written in one go.
    """

    def __init__(self) -> None:
        words: Any = torch.zeros(1 + _NUM_PASSES + MAX_WORKERS, dtype=torch.int64)  # Any, for share_memory_ is untyped
        self._words: torch.Tensor = words.share_memory_()

    @property
    def _first(self) -> torch.Tensor:
        return self._words[:1]

    @property
    def _noted(self) -> torch.Tensor:
        """Tag << 32 | epoch + 1."""
        return self._words[1 : 1 + _NUM_PASSES]

    @property
    def _seen(self) -> torch.Tensor:
        """Base seed << 32 | how often, of each worker."""
        return self._words[1 + _NUM_PASSES :]

    def set(self, epoch: int) -> None:
        if not 0 <= epoch < _LOW_BITS:
            raise ValueError(f"epoch={epoch}: epochs count from 0")
        self._noted.zero_()
        self._first.fill_(epoch)

    def begin_pass(self) -> int:
        epoch = self._epoch_after(self._noted.tolist())
        self._noted[0] = epoch + 1
        return epoch

    def begin_pass_of_worker(self, worker: int, base_seed: int) -> int:
        seed = base_seed & (_LOW_BITS >> 1)
        before = int(self._seen[worker])
        times = (before & _LOW_BITS) + 1 if before >> 32 == seed else 1
        self._seen[worker] = seed << 32 | times
        tag = crc32c(f"{base_seed} {times}".encode()) >> 1
        slot = 1 + tag % (_NUM_PASSES - 1)
        noted = self._noted.tolist()  # looked at once: another worker may note this pass at any moment
        if noted[slot] and noted[slot] >> 32 == tag:
            return int(noted[slot] & _LOW_BITS) - 1
        epoch = self._epoch_after(noted)
        self._noted[slot] = tag << 32 | (epoch + 1)
        return epoch

    def _epoch_after(self, noted: list[int]) -> int:
        return max(word & _LOW_BITS for word in noted) or int(self._first)


class MapDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Samples by index, for `DataLoader(dataset, batch_size=…, sampler=…)`.

    Samples are dicts as `Dataset[i]` gives them; DataLoader asks for those of a batch together, which are then read together.

    Args:
        dataset: A `Dataset`, or the path or URL of one.
        storage_options: For a URL; as in `chunkstore.open`.
    """

    def __init__(self, dataset: Dataset | Url, *, storage_options: Mapping[str, Any] | None = None) -> None:
        self.dataset = (
            dataset if isinstance(dataset, Dataset) else open_dataset(dataset, storage_options=storage_options)
        )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample: dict[str, Any] = self.dataset[index]
        return sample

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The samples at `indices`, read together."""
        return self.dataset.__getitems__(indices)
