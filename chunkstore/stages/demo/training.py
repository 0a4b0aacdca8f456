"""Model, training loop and checkpoint of the demo, the same for one process and for many.

The loss of a step is the mean over the global batch, so the gradients, and the model, do not depend on the number of ranks but
for rounding. Before it: `Loader`, which gives the batches; after it: `story.py` and `rank.py`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import chunkstore as cs

EPOCHS = 8
GLOBAL_BATCH = 32
LEARNING_RATE = 2e-3
SEED = 0

Optimizer = torch.optim.Optimizer


def new_model() -> nn.Module:
    """A small convolutional network for images (samples, 8, 8), its first weights from `SEED`."""
    torch.manual_seed(SEED)
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def new_optimizer(model: nn.Module) -> Optimizer:
    """Adam over the model's weights."""
    return torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)


def new_loader(url: str, options: dict[str, str] | None) -> cs.Loader:
    """The loader of the training: shuffled, whole epochs, the global batch shared among however many ranks there are."""
    return cs.Loader(
        url,
        global_batch_size=GLOBAL_BATCH,
        shuffle=True,
        seed=SEED,
        drop_last=False,
        device="cpu",
        storage_options=options,
    )


@dataclass(slots=True)
class Training:
    """A training run: goes on from wherever the loader stands, and remembers which samples came.

    Attributes:
        model: What is trained; wrapped for several ranks.
        optimizer: Its optimizer.
        loader: Where batches come from.
        delivered: Numbers of the samples that came, by epoch.
    """

    model: nn.Module
    optimizer: Optimizer
    loader: cs.Loader
    delivered: dict[int, list[int]] = field(default_factory=dict)

    def steps(self, stop_epoch: int) -> Iterator[int]:
        """Train step by step up to an epoch, giving each step's epoch once it is done."""
        while self.loader.epoch < stop_epoch:
            epoch = self.loader.epoch
            left = len(self.loader.dataset) - int(self.loader.state_dict()["consumed"])
            came = self.delivered.setdefault(epoch, [])
            for batch in self.loader:
                self._step(batch, min(left, GLOBAL_BATCH))
                left -= GLOBAL_BATCH
                came += batch["number"].tolist()
                yield epoch

    def _step(self, batch: dict[str, Any], global_size: int) -> None:
        loss = nn.functional.cross_entropy(self.model(pixels(batch)), batch["label"], reduction="sum")
        self.optimizer.zero_grad()
        # DistributedDataParallel gives the mean of the ranks' gradients; this makes it the mean over the global batch
        (loss * self.loader.world_size / global_size).backward()
        self.optimizer.step()


def pixels(batch: dict[str, Any]) -> torch.Tensor:
    """The images of a batch as the model takes them: float32 (samples, 8, 8) from 0 to 1."""
    images: torch.Tensor = batch["image"]
    return images.float() / 16


def test_accuracy(model: nn.Module, url: str, options: dict[str, str] | None) -> float:
    """The share of the test dataset's digits that the model names rightly."""
    right = total = 0
    with torch.no_grad():
        for batch in cs.Loader(url, batch_size=256, device="cpu", storage_options=options):
            right += int((model(pixels(batch)).argmax(1) == batch["label"]).sum())
            total += len(batch["label"])
    return right / total


def save_checkpoint(folder: Path, model: nn.Module, optimizer: Optimizer, loader: cs.Loader) -> dict[str, Any]:
    """Write model and optimizer as torch does, and beside them the loader's state as JSON, which is given back."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / "model.pt")
    state = loader.state_dict()
    (folder / "loader.json").write_text(json.dumps(state, indent=1))
    return state


def load_checkpoint(folder: Path, model: nn.Module, optimizer: Optimizer | None, loader: cs.Loader | None) -> None:
    """Put model, optimizer and loader where a checkpoint left them; None for what is not wanted."""
    saved = torch.load(folder / "model.pt", weights_only=True)
    model.load_state_dict(saved["model"])
    if optimizer is not None:
        optimizer.load_state_dict(saved["optimizer"])
    if loader is not None:
        loader.load_state_dict(json.loads((folder / "loader.json").read_text()))
