"""A dataset and a loader as `torch.utils.data.DataLoader` wants them.

`StreamDataset` yields whole batches in the loader's order, whatever the number of workers: worker w of W yields steps w, w + W, …, and
DataLoader takes them in turn. `MapDataset` gives samples by index, many at once. Workers may be spawned or come from a forkserver; forked
ones work for local data, and get `ForkedLoader` where the store has threads of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch.utils.data

from chunkstore.loader.loader import Loader
from chunkstore.loader.ranks import resolve_rank
from chunkstore.plan.order import Shuffle
from chunkstore.store.dataset import Dataset, Url
from chunkstore.store.dataset import open as open_dataset
from chunkstore.store.present import Batch

MAX_WORKERS = 1024


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
        self._options = {"device": "cpu", **options}
        self._dataset = dataset
        self._arguments = {"batch_size": batch_size, "shuffle": shuffle, "seed": seed}
        # Shared with workers: the epoch that set_epoch asked for, then how many passes each worker has begun since.
        self._epoch_and_passes = torch.zeros(1 + MAX_WORKERS, dtype=torch.int64).share_memory_()
        self._loader: Loader | None = None
        self._loader = self._made()

    def __len__(self) -> int:
        """Steps of an epoch."""
        return len(self._made())

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        epoch = int(self._epoch_and_passes[0] + self._epoch_and_passes[1 + number])
        self._epoch_and_passes[1 + number] += 1
        return self._made().worker_batches(number, count, epoch)

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next pass, also in workers that live already."""
        self._epoch_and_passes[1:] = 0
        self._epoch_and_passes[0] = epoch

    def _made(self) -> Loader:
        if self._loader is None:
            self._loader = Loader(self._dataset, **self._arguments, **self._options)
        return self._loader

    def __getstate__(self) -> dict[str, Any]:
        """For a spawned worker, which has no process group to ask: the rank is settled here, the loader made there."""
        rank, world_size = resolve_rank(self._options.get("rank"), self._options.get("world_size"))
        options = {**self._options, "rank": rank, "world_size": world_size}
        return {**self.__dict__, "_options": options, "_dataset": self._made().dataset, "_loader": None}


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
