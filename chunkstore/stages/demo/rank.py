"""One rank of the resumed training: `python -m chunkstore.stages.demo.rank`, with RANK and WORLD_SIZE set as torchrun does.

Its job comes as a line of JSON on standard input, which also tells it, by closing, that whoever started it is gone.
Says a line for each step on standard output, and leaves what it was given in a file. Before it: `ranks.py`; after it: the
story's check.
"""

import json
import os
import sys
import threading
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from chunkstore.stages.demo.training import (
    EPOCHS,
    Training,
    load_checkpoint,
    new_loader,
    new_model,
    new_optimizer,
    save_checkpoint,
)

_TIMEOUT = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Job:
    """What a rank is to do.

    Attributes:
        url: The dataset.
        storage_options: Of its store.
        checkpoint: Folder of the checkpoint to go on from.
        finished: Folder for the checkpoint at the end, written by rank 0.
        meeting: Folder where ranks meet, and leave `delivered-<rank>.json`.
    """

    url: str
    storage_options: dict[str, str] | None
    checkpoint: str
    finished: str
    meeting: str

    def to_line(self) -> str:
        """As a rank reads it."""
        return json.dumps(asdict(self)) + "\n"


def main() -> None:
    """Take the job, train to the end, leave the numbers of the samples that came."""
    job = Job(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    dist.init_process_group(
        "gloo",
        init_method=Path(job.meeting, "ranks").as_uri(),
        rank=rank,
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=_TIMEOUT,
    )
    model = new_model()
    optimizer = new_optimizer(model)
    loader = new_loader(job.url, job.storage_options)
    load_checkpoint(Path(job.checkpoint), model, optimizer, loader)
    training = Training(DistributedDataParallel(model), optimizer, loader)
    for _ in training.steps(EPOCHS):
        _say("step")
    if rank == 0:
        save_checkpoint(Path(job.finished), model, optimizer, loader)
    Path(job.meeting, f"delivered-{rank}.json").write_text(json.dumps(training.delivered))
    dist.destroy_process_group()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
