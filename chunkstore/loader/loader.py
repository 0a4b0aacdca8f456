"""The loader: batches of a dataset in its order, for one rank, prefetched by threads, resumable at any step.

Which samples make up which batch is decided by `plan/`; this class resolves who this rank is, keeps the cursor, and hands
out what `prefetch.py` brings. It must never let threads, storage or selected fields change an order.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import numpy as np

from chunkstore.errors import CorruptSample, StateMismatch
from chunkstore.kernels.columns import Column, gather
from chunkstore.loader.device import as_tensor, checked_device, device_here, torch_column
from chunkstore.loader.options import checked_at_least, checked_epoch, checked_integer
from chunkstore.loader.prefetch import Budget, Columns, Prefetcher
from chunkstore.loader.ranks import resolve_rank
from chunkstore.loader.sizes import sample_sizes
from chunkstore.loader.state import ORDER, LoaderState
from chunkstore.plan.order import DEFAULT_LANES, DEFAULT_WINDOW_NBYTES, Order, Shuffle, plan_order
from chunkstore.plan.pieces import Piece, Share, StepPlan, plan_pieces
from chunkstore.plan.reads import Ints
from chunkstore.plan.sample_nbytes import mean_sample_nbytes
from chunkstore.reading.dataset import Dataset, Url
from chunkstore.reading.dataset import open as open_dataset
from chunkstore.reading.present import Batch, empty_column, present_batch

NUM_CONNECTIONS = 16
MIN_MEMORY_NBYTES = 256 << 20
MAX_JOINED_NBYTES = 4 << 20
"""Small runs and steps are read together up to so many bytes; each read has a cost of its own."""


class Loader:
    """Iterates over a dataset in batches; each pass is an epoch.

    The order is a function of version, shuffle, seed, epoch, lanes, window and affinity alone: the same global batches
    come for every world size that divides the global batch.

    Args:
        dataset: A `Dataset`, or the path or URL of one.
        batch_size: Samples a rank takes in a step; or give `global_batch_size`.
        global_batch_size: Samples of a step over all ranks, a multiple of the world size.
        shuffle: False: in version order; rank r takes the r-th slice of each global batch. True: blocks are shuffled
            within lanes and samples within windows, so that a block is read by as few ranks as can be (see `lanes`), about
            once by each. "full": a uniform permutation of all samples, for local data.
        seed: Of the shuffle, 0 to 2^64 − 1.
        drop_last: Whether a last step of fewer samples is left out; by default True if shuffled, False if not.
        pad: Fill the last step up with repeats and add "_mask" to every batch: bool (samples,), False for repeats.
        rank: This process among `world_size`; found from torch.distributed or torchrun's environment if None.
        world_size: Number of ranks.
        device: None: NumPy arrays; "cpu", "cuda"…: torch tensors there.
        lanes: Parts of an epoch that are shuffled apart; with a world size that divides it, each block is read by one rank
            only, save those that a lane's edge cuts.
        window_nbytes: Decoded bytes among which samples mix.
        affinity: Keep lanes at their ranks in every epoch, for caches.
        memory_nbytes: What may be held ahead of the consumer: samples that are read, twice while they are, and batches; if
            None, twice this rank's share of the window, at least 256 MiB. The next batch is held whatever it says, and
            so is what it draws from: where blocks are shuffled the open runs, one a lane of this rank and about its share
            of the window together, more where large samples lie side by side. 0 means as little as possible. Kept chunks
            (64 MiB a dataset) and what the allocator does not give back come on top.
        num_threads: Threads that assemble and decode batches; the number of cores if None.
        num_connections: Pieces of a remote dataset that are read side by side.
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
        for name, flag in (("drop_last", drop_last), ("pad", pad), ("affinity", affinity)):
            if not isinstance(flag, (bool, np.bool_)) and not (name == "drop_last" and flag is None):
                raise ValueError(f"{name}={flag!r}: True or False is needed")
        if pad and drop_last:
            raise ValueError("pad=True fills up the last step, drop_last=True leaves it out; choose one")
        rank, world_size = checked_at_least(0, "rank", rank), checked_at_least(1, "world_size", world_size)
        resolve_rank(rank, world_size)
        self.batch_size = checked_at_least(1, "batch_size", batch_size)
        self.global_batch_size = checked_at_least(1, "global_batch_size", global_batch_size)
        self._memory_nbytes = checked_at_least(0, "memory_nbytes", memory_nbytes)
        self._num_threads = checked_at_least(1, "num_threads", num_threads) or len(os.sched_getaffinity(0))
        self._num_connections = checked_at_least(1, "num_connections", num_connections) or NUM_CONNECTIONS
        self._given_url = not isinstance(dataset, Dataset)
        self._storage_options = storage_options
        self.dataset = (
            dataset if isinstance(dataset, Dataset) else open_dataset(dataset, storage_options=storage_options)
        )
        self.shuffle: Shuffle = bool(shuffle) if isinstance(shuffle, np.bool_) else shuffle
        self.seed, self.lanes = checked_integer("seed", seed), checked_integer("lanes", lanes)
        self.window_nbytes = checked_integer("window_nbytes", window_nbytes)
        self.affinity = bool(affinity)
        self.drop_last = (self.shuffle is not False and not pad) if drop_last is None else bool(drop_last)
        self.pad = bool(pad)
        self._rank, self._world_size = rank, world_size
        self.device = None if device is None else checked_device(device)
        self._order = self._planned_order(self.dataset)
        self._pid = os.getpid()
        self._epoch = self._consumed = 0
        self._begun = 0  # places of the epoch that were consumed when its pass began
        self._in_pass = False  # whether a pass has handed out batches of this epoch, so that a new one takes the next
        self._pass: object = None  # whose batches move the cursor: the newest iterator's

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
        return len(self._share().steps(0, len(self.dataset)))

    def __repr__(self) -> str:
        size = f"batch_size={self.batch_size}"
        if self.batch_size is None:
            size = f"global_batch_size={self.global_batch_size}"
        return (
            f"Loader({self.dataset.url!r}, version={self.dataset.version}, {size}, shuffle={self.shuffle!r}, "
            f"seed={self.seed}, epoch={self._epoch}, consumed={self._consumed})"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Options and cursor; where it arrives, a pass goes on as after `load_state_dict`."""
        state = self.state_dict()
        return {
            **self.__dict__,
            "_order": None,
            "_pid": None,
            "_pass": None,
            "_in_pass": False,
            "_epoch": state["epoch"],
            "_consumed": state["consumed"],
            "_begun": state["consumed"],
        }

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the cursor to the end of the epoch.

        The cursor stands at the beginning of the first epoch, or where `load_state_dict` or `set_epoch` put it. A pass
        that ends moves it to the next epoch, and so does a new iterator after a pass that was left early. Only the newest
        iterator moves the cursor. Batches are the caller's to keep. A failure to read ends the pass;
        `load_state_dict(state_dict())` makes the next iterator go on at the batch that failed.

        Raises:
            ValueError: there are fewer samples than one batch, and `drop_last` leaves them out.
        """
        if self._in_pass:
            self._epoch, self._consumed, self._in_pass = self._epoch + 1, 0, False
        share, num_samples = self._share_of_epoch(), len(self.dataset)
        self._begun = self._consumed
        self._pass = object()
        return self._moving_cursor(self._pass, share, self._epoch, share.steps(self._consumed, num_samples))

    def _moving_cursor(self, this_pass: object, share: Share, epoch: int, steps: range) -> Iterator[Batch]:
        for stop, batch in self._batches(share, epoch, steps):
            if self._pass is this_pass:
                self._consumed, self._in_pass = stop, True
            yield batch
            del batch
        if self._pass is this_pass:
            self._epoch, self._consumed, self._in_pass = epoch + 1, 0, False

    def _batches(self, share: Share, epoch: int, steps: range) -> Iterator[tuple[int, Batch]]:
        prefetcher = self._prefetcher(share, epoch, steps)
        try:
            yield from prefetcher
        finally:
            prefetcher.close()

    def _share_of_epoch(self) -> Share:
        """This rank's share, if an epoch of the dataset has any steps or the dataset is empty.

        Raises:
            ValueError: there are fewer samples than one batch, and `drop_last` leaves them out.
        """
        share, num_samples = self._share(), len(self.dataset)
        if num_samples and not share.steps(0, num_samples):
            raise ValueError(
                f"{num_samples} samples make no whole step of {share.global_batch}, and drop_last is on; use a smaller batch, "
                "drop_last=False or pad=True"
            )
        return share

    def _worker_batches(self, worker: int, num_workers: int, epoch: int) -> Iterator[Batch]:
        """The batches of steps worker, worker + num_workers, … of an epoch: what one worker of a torch DataLoader yields."""
        share, num_samples = self._share(), len(self.dataset)
        steps = share.steps(0, num_samples, first=worker, stride=num_workers)
        return (batch for _, batch in self._batches(share, epoch, steps))

    def set_epoch(self, epoch: int) -> None:
        """Put the cursor at the beginning of an epoch.

        Of an epoch that is being iterated over, or that stands elsewhere, the place is discarded: what was left of it is not
        served, and iterators that live no longer move the cursor. Does nothing if the epoch is the next to begin, or to go
        on after `load_state_dict`.

        Raises:
            ValueError: `epoch` is negative or 2^62 or more.
        """
        epoch = checked_epoch(epoch)
        if epoch != self._epoch or self._in_pass:
            self._place_cursor(epoch, 0)

    def state_dict(self) -> dict[str, Any]:
        """The cursor as JSON values, the same on every rank; a batch counts once it has been handed out."""
        epoch, consumed = self._epoch, self._consumed
        if consumed and not self._share().steps(consumed, len(self.dataset)):
            epoch, consumed = epoch + 1, 0
        return self._state(self.dataset, epoch, consumed).to_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a cursor: exactly the samples not yet handed out follow, at any world size and batch size.

        A loader that was given a URL opens the version of the state.

        Raises:
            StateMismatch: the state is of another dataset, version, view or order; the loader is as it was.
        """
        if not isinstance(state, Mapping):
            raise StateMismatch(f"a state is a dict that Loader.state_dict() gave, not {state!r}")
        dataset, order = self.dataset, self._order_here()
        version = state.get("version")
        is_other = type(version) is int and version != dataset.version and state.get("dataset") == dataset.uuid
        if is_other and self._given_url:
            dataset = open_dataset(dataset.url, version=version, storage_options=self._storage_options)
            order = self._planned_order(dataset)
        epoch, consumed = self._state(dataset, 0, 0).check(state)
        if consumed > len(dataset):
            raise StateMismatch(f"consumed={consumed}, but version {dataset.version} has {len(dataset)} samples")
        self.dataset, self._order = dataset, order
        self._place_cursor(epoch, consumed)

    def sample_indices(self, step: int, epoch: int | None = None) -> Ints:
        """Indices in the dataset of this rank's samples in a step, without reading data: int64 (samples,).

        Args:
            step: From 0; in an epoch resumed midway, from where it was resumed.
            epoch: The current one if None.

        Raises:
            IndexError: the epoch has no such step.
        """
        step, epoch = checked_integer("step", step), self._epoch if epoch is None else checked_epoch(epoch)
        begin = 0
        if epoch == self._epoch:
            begin = self._begun if self._in_pass else self._consumed
        share, num_samples = self._share(), len(self.dataset)
        steps = share.steps(begin, num_samples)
        if not 0 <= step < len(steps):
            raise IndexError(f"step {step} of {len(steps)} in epoch {epoch}")
        places, _ = share.places(steps[step], num_samples)
        return self._order_here().positions(epoch, places)

    def _place_cursor(self, epoch: int, consumed: int) -> None:
        self._epoch, self._consumed, self._begun = epoch, consumed, consumed
        self._in_pass, self._pass = False, None

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

    def _order_here(self) -> Order:
        """The order, a new one in a forked child: the old one's locks may be held by threads of the parent."""
        if os.getpid() != self._pid:
            self._order, self._pid = self._planned_order(self.dataset), os.getpid()
        return self._order

    def _planned_order(self, dataset: Dataset) -> Order:
        return plan_order(
            dataset.extents,
            shuffle=self.shuffle,
            seed=self.seed,
            lanes=self.lanes,
            window_nbytes=self.window_nbytes,
            affinity=self.affinity,
        )

    def _prefetcher(self, share: Share, epoch: int, steps: range) -> Prefetcher:
        num_samples = len(self.dataset)
        sample_nbytes = mean_sample_nbytes(self.dataset.schema, self.dataset.statistics)
        memory_nbytes = self._memory_nbytes
        if memory_nbytes is None:
            memory_nbytes = max(MIN_MEMORY_NBYTES, 2 * self.window_nbytes // share.world_size)
        num_readers = self._num_threads if self.dataset.is_local else self._num_connections
        piece_nbytes = min(MAX_JOINED_NBYTES, memory_nbytes // (4 * num_readers))
        if self.shuffle == "full":
            # The more samples are read together, the fewer chunks are decoded for one sample each.
            piece_nbytes = memory_nbytes // 8
        device = None if self.device is None else device_here(self.device)
        budget = Budget(
            memory_nbytes=memory_nbytes,
            piece_nbytes=piece_nbytes,
            sample_nbytes=sample_nbytes,
            batch_samples=share.global_batch // share.world_size,
            num_readers=num_readers,
            num_threads=self._num_threads,
        )
        return Prefetcher(
            plan_pieces(self._order_here(), share, epoch, steps, piece_samples=piece_nbytes // sample_nbytes),
            ((start, min(start + share.global_batch, num_samples)) for start in steps),
            self._read,
            lambda start, plan, pieces: self._assemble(share, epoch, start, device, plan, pieces),
            lambda start: self._assemble_alone(share, epoch, start, device),
            sample_sizes(self.dataset),
            budget,
        )

    def _read(self, piece: Piece) -> Columns:
        return self.dataset.read_intervals(piece.intervals)

    def _assemble_alone(self, share: Share, epoch: int, start: int, device: str | None) -> Batch:
        places, mask = share.places(start, len(self.dataset))
        count = len(places)
        plan = StepPlan((0,), np.zeros(count, np.int32), np.arange(count, dtype=np.int64), mask)
        columns = self.dataset.read(self._order_here().positions(epoch, places))
        return self._assemble(share, epoch, start, device, plan, [columns])

    def _assemble(
        self, share: Share, epoch: int, start: int, device: str | None, plan: StepPlan, pieces: list[Columns]
    ) -> Batch:
        batch: Batch = {}
        for name, field in self.dataset.schema.items():
            column: Column = empty_column(field)
            if pieces:
                column = gather([columns[name] for columns in pieces], plan.source, plan.row)
            try:
                if device is None:
                    batch[name] = present_batch(name, field, column, decode=self.dataset.decode)
                else:
                    batch[name] = torch_column(name, field, column, device, decode=self.dataset.decode)
            except CorruptSample as error:
                self._name_sample(share, epoch, start, name, column, error)
        if plan.mask is not None:
            mask: np.ndarray[Any, Any] = plan.mask
            batch["_mask"] = mask if device is None else as_tensor(mask, device)
        return batch

    def _name_sample(
        self, share: Share, epoch: int, start: int, name: str, column: Column, error: CorruptSample
    ) -> NoReturn:
        """Say which sample of the dataset cannot be presented: positions of a batch are found out only then."""
        places, _ = share.places(start, len(self.dataset))
        positions = self.dataset.positions(self._order_here().positions(epoch, places))
        try:
            present_batch(name, self.dataset.schema[name], column, decode=self.dataset.decode, positions=positions)
        except CorruptSample as named:
            raise CorruptSample(f"{self.dataset.url}, version {self.dataset.version}: {named}") from error
        raise error

    def _state(self, dataset: Dataset, epoch: int, consumed: int) -> LoaderState:
        return LoaderState(
            order=ORDER,
            dataset=dataset.uuid,
            version=dataset.version,
            view=dataset.view_digest,
            shuffle=self.shuffle,
            seed=self.seed,
            lanes=self.lanes,
            window_nbytes=self.window_nbytes,
            affinity=self.affinity,
            epoch=epoch,
            consumed=consumed,
        )
