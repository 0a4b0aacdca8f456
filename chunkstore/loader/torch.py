"""A dataset and a loader as `torch.utils.data.DataLoader` wants them.

`StreamDataset` yields whole batches in the loader's order, whatever the number of workers: worker w of W yields steps w, w
+ W, …, and DataLoader takes them in turn. `MapDataset` gives samples by index, many at once. Workers may be spawned or
come from a forkserver; forked ones work for local data, and get `ForkedLoader` where the store has threads of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch.utils.data

from chunkstore.loader.epochs import SharedEpochs
from chunkstore.loader.loader import Loader
from chunkstore.loader.options import checked_epoch
from chunkstore.loader.ranks import resolve_rank
from chunkstore.plan.order import Shuffle
from chunkstore.reading.dataset import Dataset, Url
from chunkstore.reading.dataset import open as open_dataset
from chunkstore.reading.present import Batch


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
        self._epochs = SharedEpochs()
        self._loader: Loader | None = None
        self._loader = self._made()

    def __len__(self) -> int:
        """Steps of an epoch."""
        return len(self._made())

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        loader = self._made()
        loader._share_of_epoch()
        if worker is None:
            return loader._worker_batches(0, 1, self._epochs.begin_pass())
        return loader._worker_batches(worker.id, worker.num_workers, self._epochs.begin_pass_of_worker(worker.id))

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next pass, also in workers that live already; a pass that has begun keeps its own.

        Raises:
            ValueError: `epoch` is negative or 2^62 or more.
        """
        self._epochs.set(checked_epoch(epoch))

    def _made(self) -> Loader:
        if self._loader is None:
            self._loader = Loader(self._dataset, **self._options)
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
