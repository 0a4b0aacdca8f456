"""The loader: batches of a dataset in its order, for one rank, prefetched by threads, resumable at any step.

Which samples make up which batch is decided by `plan/`; this class resolves who this rank is, keeps the cursor, and hands out what
`prefetch.py` brings. It must never let threads, storage or selected fields change an order.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from chunkstore.errors import StateMismatch
from chunkstore.kernels.columns import Column, gather
from chunkstore.loader.device import as_tensor, torch_column
from chunkstore.loader.prefetch import Columns, Prefetcher
from chunkstore.loader.ranks import resolve_rank
from chunkstore.loader.state import ORDER, WHOLE, LoaderState
from chunkstore.plan.order import DEFAULT_LANES, DEFAULT_WINDOW_NBYTES, FragmentExtent, Order, Shuffle, plan_order
from chunkstore.plan.pieces import Piece, Planner, Share, StepPlan
from chunkstore.plan.reads import Ints, total_rows
from chunkstore.store.dataset import Dataset, Url, empty_column
from chunkstore.store.dataset import open as open_dataset
from chunkstore.store.present import Batch, present_batch

NUM_CONNECTIONS = 16
MIN_MEMORY_NBYTES = 256 << 20


class Loader:
    """Iterates over a dataset in batches; each pass is an epoch.

    The order is a function of version, shuffle, seed, epoch, lanes, window and affinity alone: the same global batches come for every
    world size that divides the global batch.

    Args:
        dataset: A `Dataset`, or the path or URL of one.
        batch_size: Samples a rank takes in a step; or give `global_batch_size`.
        global_batch_size: Samples of a step over all ranks, a multiple of the world size.
        shuffle: False: in version order; rank r takes the r-th slice of each global batch. True: blocks are shuffled within lanes and
            samples within windows, which reads each block once. "full": a uniform permutation of all samples, for local data.
        seed: Of the shuffle, 0 to 2^64 − 1.
        drop_last: Whether a last step of fewer samples is left out; by default True if shuffled, False if not.
        pad: Fill the last step up with repeats and add "_mask" to every batch: bool (samples,), False for repeats.
        rank: This process among `world_size`; found from torch.distributed or torchrun's environment if None.
        world_size: Number of ranks.
        device: None: NumPy arrays; "cpu", "cuda"…: torch tensors there.
        lanes: Parts of an epoch that are shuffled apart; world sizes that divide it read every block once.
        window_nbytes: Decoded bytes among which samples mix.
        affinity: Keep lanes at their ranks in every epoch, for caches.
        memory_nbytes: What may be held ahead of the consumer; twice this rank's share of the window if None.
        num_threads: Threads that assemble and decode batches; the number of cores if None.
        num_connections: Reads of a remote store side by side.
        storage_options: For a URL; as in `chunkstore.open`.

    Raises:
        ValueError: options that contradict each other.
        DatasetNotFound: a URL without a dataset.
    """

    def __init__(  # noqa: PLR0913  (the public face of design and docs)
        self,
        dataset: Dataset | Url,
        batch_size: int | None = None,
        *,
        global_batch_size: int | None = None,
        shuffle: Shuffle = False,
        seed: int = 0,
        drop_last: bool | None = None,
        pad: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        device: str | None = None,
        lanes: int = DEFAULT_LANES,
        window_nbytes: int = DEFAULT_WINDOW_NBYTES,
        affinity: bool = False,
        memory_nbytes: int | None = None,
        num_threads: int | None = None,
        num_connections: int | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        if (batch_size is None) == (global_batch_size is None):
            raise ValueError(f"batch_size={batch_size}, global_batch_size={global_batch_size}: give one of them")
        if (batch_size or global_batch_size or 0) < 1:
            raise ValueError(f"a batch size of {batch_size or global_batch_size}: at least 1 is needed")
        if pad and drop_last:
            raise ValueError("pad=True fills up the last step, drop_last=True leaves it out; choose one")
        resolve_rank(rank, world_size)
        self._given_url = not isinstance(dataset, Dataset)
        self._storage_options = storage_options
        self.dataset = (
            dataset if isinstance(dataset, Dataset) else open_dataset(dataset, storage_options=storage_options)
        )
        self.shuffle: Shuffle = shuffle
        self.seed, self.lanes, self.window_nbytes, self.affinity = seed, lanes, window_nbytes, affinity
        self.drop_last = (shuffle is not False and not pad) if drop_last is None else drop_last
        self.pad = pad
        self.batch_size, self.global_batch_size = batch_size, global_batch_size
        self._rank, self._world_size = rank, world_size
        self.device = device
        self._memory_nbytes = memory_nbytes
        self._num_threads = num_threads or os.cpu_count() or 1
        self._num_connections = num_connections or NUM_CONNECTIONS
        self._order = self._planned_order()
        self._epoch = self._consumed = 0
        self._begun = 0  # places of the current epoch that were consumed when its iteration began
        self._broken_off = False  # whether the current epoch has been begun, so that a new iterator belongs to the next

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to, or that is being iterated over."""
        return self._epoch

    @property
    def rank(self) -> int:
        """This process's rank, as found now."""
        return resolve_rank(self._rank, self._world_size)[0]

    @property
    def world_size(self) -> int:
        """Number of ranks, as found now."""
        return resolve_rank(self._rank, self._world_size)[1]

    def __len__(self) -> int:
        """Steps of a whole epoch, the same on every rank."""
        return self._share().steps_left(0, len(self.dataset))

    def __repr__(self) -> str:
        size = f"global_batch_size={self.global_batch_size}" if self.batch_size is None else f"batch_size={self.batch_size}"
        return (
            f"Loader({self.dataset.url!r}, version={self.dataset.version}, {size}, shuffle={self.shuffle!r}, "
            f"seed={self.seed}, epoch={self._epoch}, consumed={self._consumed})"
        )

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the cursor to the end of the epoch.

        The cursor stands at the beginning of the first epoch, or where `load_state_dict` or `set_epoch` put it. A pass that ends moves
        it to the next epoch, and so does a new iterator after one that was left early. Batches are the caller's to keep.
        """
        if self._broken_off:
            self._epoch, self._consumed = self._epoch + 1, 0
        share = self._share()
        num_samples = len(self.dataset)
        if num_samples and share.steps_left(0, num_samples) == 0:
            raise ValueError(
                f"{num_samples} samples make no whole step of {share.global_batch}, and drop_last is on; use a smaller batch, "
                "drop_last=False or pad=True"
            )
        self._broken_off, self._begun = True, self._consumed
        return self._batches(share, self._epoch, self._consumed)

    def _batches(
        self, share: Share, epoch: int, consumed: int, *, first: int = 0, stride: int = 1
    ) -> Iterator[Batch]:
        """Batches from a place on; of every `stride` steps only number `first`, for workers that deal steps among them."""
        prefetcher = self._prefetcher(share, epoch, consumed, first, stride)
        try:
            for stop, batch in prefetcher:
                if epoch == self._epoch:
                    self._consumed = stop
                yield batch
            if epoch == self._epoch:
                self._epoch, self._consumed, self._broken_off = epoch + 1, 0, False
        finally:
            prefetcher.close()

    def worker_batches(self, worker: int, num_workers: int, epoch: int) -> Iterator[Batch]:
        """The batches of steps worker, worker + num_workers, … of an epoch: what one worker of a torch DataLoader yields."""
        return self._batches(self._share(), epoch, 0, first=worker, stride=num_workers)

    def set_epoch(self, epoch: int) -> None:
        """Put the cursor at the beginning of an epoch; does nothing if it stands in that epoch, as after `load_state_dict`."""
        if epoch < 0:
            raise ValueError(f"epoch={epoch}: epochs count from 0")
        if epoch != self._epoch or self._broken_off:
            self._epoch, self._consumed, self._broken_off = epoch, 0, False

    def state_dict(self) -> dict[str, Any]:
        """The cursor as JSON values, the same on every rank; a batch counts once it has been handed out."""
        epoch, consumed = self._epoch, self._consumed
        if consumed and self._share().steps_left(consumed, len(self.dataset)) == 0:
            epoch, consumed = epoch + 1, 0
        return self._state(epoch, consumed).to_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a cursor: exactly the samples not yet handed out follow, at any world size and batch size.

        A loader that was given a URL opens the version of the state.

        Raises:
            StateMismatch: the state is of another dataset, version, view or order.
        """
        version = state.get("version")
        if self._given_url and isinstance(version, int) and version != self.dataset.version:
            if state.get("dataset") != self.dataset.uuid:
                raise StateMismatch(f"the state is of dataset {state.get('dataset')}, this is {self.dataset.uuid}")
            self.dataset = open_dataset(self.dataset.url, version=version, storage_options=self._storage_options)
            self._order = self._planned_order()
        epoch, consumed = self._state(0, 0).check(state)
        if consumed > len(self.dataset):
            raise StateMismatch(f"consumed={consumed} of {len(self.dataset)} samples")
        self._epoch, self._consumed, self._broken_off = epoch, consumed, False

    def sample_indices(self, step: int, epoch: int | None = None) -> Ints:
        """Indices in the dataset of this rank's samples in a step, without reading data: int64 (samples,).

        Args:
            step: From 0; in an epoch resumed midway, from where it was resumed.
            epoch: The current one if None.

        Raises:
            IndexError: the epoch has no such step.
        """
        epoch = self._epoch if epoch is None else epoch
        begin = 0
        if epoch == self._epoch:
            begin = self._begun if self._broken_off else self._consumed
        share, num_samples = self._share(), len(self.dataset)
        if not 0 <= step < share.steps_left(begin, num_samples):
            raise IndexError(f"step {step} of {share.steps_left(begin, num_samples)}")
        places, _ = share.places(begin + step * share.global_batch, num_samples)
        return self._order.positions(epoch, places)

    def _share(self) -> Share:
        rank, world_size = resolve_rank(self._rank, self._world_size)
        if self.batch_size is not None:
            global_batch = self.batch_size * world_size
        else:
            assert self.global_batch_size is not None
            global_batch = self.global_batch_size
            if global_batch % world_size:
                raise ValueError(f"global_batch_size={global_batch} is not a multiple of the {world_size} ranks")
        contiguous = self.shuffle is False
        return Share(rank, world_size, global_batch, contiguous, self.drop_last, self.pad)

    def _planned_order(self) -> Order:
        return plan_order(
            [FragmentExtent(f.samples, f.block_rows, f.nbytes) for f in self.dataset.version_document.fragments],
            shuffle=self.shuffle,
            seed=self.seed,
            lanes=self.lanes,
            window_nbytes=self.window_nbytes,
            affinity=self.affinity,
        )

    def _prefetcher(self, share: Share, epoch: int, consumed: int, first: int, stride: int) -> Prefetcher:
        fragments = self.dataset.version_document.fragments
        sample_nbytes = sum(f.nbytes for f in fragments) // max(1, len(self.dataset)) + 1
        held = max(MIN_MEMORY_NBYTES, 2 * self.window_nbytes // share.world_size)
        remote = not self.dataset.is_local
        return Prefetcher(
            Planner(self._order, share, epoch, first=first, stride=stride),
            consumed,
            self._read,
            self._assemble,
            lambda piece: total_rows(piece.intervals) * sample_nbytes,
            memory_nbytes=self._memory_nbytes or held,
            num_readers=self._num_connections if remote else self._num_threads,
            num_threads=self._num_threads,
        )

    def _read(self, piece: Piece) -> Columns:
        return self.dataset.read_intervals(piece.intervals)

    def _assemble(self, plan: StepPlan, pieces: list[Columns]) -> Batch:
        batch: Batch = {}
        for name, field in self.dataset.schema.items():
            column: Column = empty_column(field)
            if pieces:
                column = gather([columns[name] for columns in pieces], plan.source, plan.row)
            if self.device is None:
                batch[name] = present_batch(name, field, column, decode=self.dataset.decode)
            else:
                batch[name] = torch_column(name, field, column, self.device, decode=self.dataset.decode)
        if plan.mask is not None:
            mask: np.ndarray[Any, Any] = plan.mask
            batch["_mask"] = mask if self.device is None else as_tensor(mask, self.device)
        return batch

    def _state(self, epoch: int, consumed: int) -> LoaderState:
        return LoaderState(
            order=ORDER,
            dataset=self.dataset.uuid,
            version=self.dataset.version,
            view=WHOLE,
            shuffle=self.shuffle,
            seed=self.seed,
            lanes=self.lanes,
            window_nbytes=self.window_nbytes,
            affinity=self.affinity,
            epoch=epoch,
            consumed=consumed,
        )
