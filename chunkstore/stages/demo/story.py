"""The story of the demo, step by step, each with a line or two on what came of it.

Everything told is checked: what does not come true is noted, and makes `tell` give False. Before it: `run.py`; after
it: `table.py`.
"""

import importlib.metadata
import os
import platform
from pathlib import Path
from types import ModuleType

import numba
import numpy as np
import torch
from numba.core.dispatcher import Dispatcher

import chunkstore as cs
from chunkstore.plan import lanes, permutation
from chunkstore.stages.demo import data, table, training
from chunkstore.stages.demo.delivery import check_delivery
from chunkstore.stages.demo.place import Place
from chunkstore.stages.demo.plain_zarr import open_part, read_array
from chunkstore.stages.demo.rank import Job
from chunkstore.stages.demo.ranks import Ranks, start_ranks
from chunkstore.stages.demo.screen import Screen
from chunkstore.stages.demo.speed import measure
from chunkstore.stages.demo.table import Findings

STOP_EPOCH = 3
STOP_STEP = 20
"""The training is stopped in this epoch (the first is 0), after so many of its steps."""
WORLD_SIZE = 2
MIN_ACCURACY = 0.95


def prepare() -> list[str]:
    """Load what torch loads late, and say what there is."""
    torch.set_num_threads(1)  # for a model so small, more threads only wait for each other
    training.new_optimizer(training.new_model())
    version = importlib.metadata.version
    return [
        f"Python {platform.python_version()}, PyTorch {torch.__version__}, scikit-learn {version('scikit-learn')},",
        f"zarr {version('zarr')}, Numba {numba.__version__}; {os.cpu_count()} cores.",
    ]


def tell(screen: Screen, place: Place) -> bool:
    """Tell the whole story; False if something did not come true."""
    findings = Findings()
    train = write(screen, place, findings)
    compile_order(screen, place)
    with start_ranks(WORLD_SIZE, place.scratch / "ranks") as ranks:
        before = train_and_stop(screen, place, findings)
        append(screen, place, train, findings)
        resume(screen, place, ranks, before, findings)
    open_plainly(screen, place, findings)
    measure_all(screen, place, findings)
    table.show(screen.console, place, findings)
    return not findings.failures


def write(screen: Screen, place: Place, findings: Findings) -> data.Digits:
    """Read what is installed and write it as five datasets; gives the training digits."""
    options = place.storage_options
    with screen.step("Reading digits and source files", "Real data found") as step:
        train, test = data.split_digits()
        sources = data.python_sources()
        nbytes = sum(len(sample["source"]) for sample in sources)
        step.say(f"{len(train) + len(test):,} handwritten digits and two photographs, from scikit-learn;")
        step.say(f"{len(sources):,} files, {nbytes / 1e6:.1f} MB, of this machine's Python standard library.")
        step.say(f"Every fifth digit is kept for the test: {len(train):,} to train, {len(test):,} to test.")
    total = len(train) + len(test) + data.num_tiles() + 2 * len(sources)
    with screen.step("Writing datasets", "Written as five datasets", total) as step:
        findings.written.append(data.write_digits(place.url("digits"), "digits", train, options))
        step.advance(len(train))
        findings.written.append(data.write_digits(place.url("digits-test"), "digits-test", test, options))
        step.advance(len(test))
        findings.written.append(data.write_tiles(place.url("tiles"), options, step.advance))
        findings.written.append(data.write_sources(place.url("sources"), sources, options, step.advance))
        findings.written.append(data.write_tokens(place.url("tokens"), sources, options))
        step.advance(len(sources))
        step.say(f"{', '.join(written.name for written in findings.written)};")
        step.say(f"each in plain Zarr v3, an open format for arrays; in {place.medium}.")
    return train


def compile_order(screen: Screen, place: Place) -> None:
    """Have Numba compile the shuffle, or load what it kept of an earlier run; say which."""
    with screen.step("Making the shuffle ready (compiled the first time)", "Shuffle ready") as step:
        next(iter(training.new_loader(place.url("digits"), place.storage_options)))
        if _num_compiled(lanes, permutation):
            step.say("Compiled to machine code by Numba just now, and kept for later runs.")
        else:
            step.say("Machine code that Numba compiled in an earlier run, and kept.")


def train_and_stop(screen: Screen, place: Place, findings: Findings) -> training.Training:
    """Train in this process, and stop in the middle of an epoch with a checkpoint."""
    model = training.new_model()
    loader = training.new_loader(place.url("digits"), place.storage_options)
    run = training.Training(model, training.new_optimizer(model), loader)
    total = STOP_EPOCH * len(loader) + STOP_STEP
    with screen.step("Training in one process", "Trained in one process, stopped in mid-epoch", total) as step:
        for number, _ in enumerate(run.steps(training.EPOCHS), start=1):
            step.advance()
            if number == total:
                break
        state = training.save_checkpoint(_checkpoint(place), model, run.optimizer, loader)
        findings.expect(
            (state["epoch"], state["consumed"]) == (STOP_EPOCH, STOP_STEP * training.GLOBAL_BATCH), "the state"
        )
        step.say(f"{STOP_EPOCH} epochs, and {state['consumed']:,} of {len(loader.dataset):,} samples of the next one.")
        accuracy = training.test_accuracy(model, place.url("digits-test"), place.storage_options)
        step.say(f"Accuracy on the test digits so far: {accuracy:.1%}.")
        step.say("Saved: model, optimizer, and in a small JSON file where the loader stood.")
    return run


def append(screen: Screen, place: Place, train: data.Digits, findings: Findings) -> None:
    """Append to the digits while the training rests."""
    moved = data.shifted(train)
    with screen.step("Appending version 2", "A second version appended meanwhile") as step:
        nbytes = data.append_digits(place.url("digits"), moved, len(train), place.storage_options)
        findings.appended("digits", len(moved), nbytes)
        first, second = (_open(place, "digits", version=number) for number in (1, 2))
        same = np.array_equal(second["image"][: len(first)], first["image"][:])
        findings.expect(
            len(first) == len(train) and len(second) == len(train) + len(moved) and same, "both versions are readable"
        )
        findings.expect(
            np.array_equal(second["label"][len(train) :], moved.labels), "version 2 holds what was appended"
        )
        step.say(f"Each training digit moved by a pixel, four ways: {len(moved):,} samples more.")
        step.say(f"Version 2 has {len(second):,}; version 1 still has its {len(first):,}, and the stopped")
        step.say("training will go on with that one.")


def resume(screen: Screen, place: Place, ranks: Ranks, before: training.Training, findings: Findings) -> None:
    """Go on from the checkpoint on another world size, and check what was delivered before and after."""
    num_samples = len(before.loader.dataset)
    steps_per_epoch = len(before.loader)
    finished = place.scratch / "finished"
    job = Job(place.url("digits"), place.storage_options, str(_checkpoint(place)), str(finished), str(ranks.folder))
    total = (training.EPOCHS - STOP_EPOCH) * steps_per_epoch - STOP_STEP
    with screen.step(
        "Two processes start, and train on", "Resumed on two processes, trained to the end", total
    ) as step:
        for _ in ranks.run(job.to_line()):
            step.advance()
        after = ranks.delivered()
        for epoch in range(training.EPOCHS):
            numbers = [number for d in (before.delivered, *after) for number in d.get(epoch, [])]
            findings.deliveries[epoch] = check_delivery(numbers, range(num_samples))
        findings.expect(all(d.is_exact for d in findings.deliveries.values()), "every sample exactly once an epoch")
        findings.shares = tuple(len(d.get(STOP_EPOCH, [])) for d in (before.delivered, *after))
        findings.expect(all(findings.shares), "every process took part in the interrupted epoch")
        model = training.new_model()
        training.load_checkpoint(finished, model, None, None)
        findings.accuracy = training.test_accuracy(model, place.url("digits-test"), place.storage_options)
        findings.expect(findings.accuracy >= MIN_ACCURACY, f"an accuracy of {MIN_ACCURACY:.0%}")
        step.say(
            f"The interrupted epoch: {' + '.join(f'{n:,}' for n in findings.shares)} samples, before the stop and in each"
        )
        step.say(f"process: {findings.deliveries[STOP_EPOCH]}.")
        step.say(f"Accuracy on the test digits: {findings.accuracy:.1%}.")


def open_plainly(screen: Screen, place: Place, findings: Findings) -> None:
    """Read the digits with zarr-python alone, and compare."""
    with screen.step("Opening with zarr-python", "Opened with zarr-python alone") as step:
        dataset = _open(place, "digits", version=1)
        [fragment] = dataset.version_document.fragments
        group = open_part(place.url("digits"), fragment.part_of("image").path, place.storage_options)
        arrays = {name: read_array(group, name) for name in data.DIGITS}
        equal = all(np.array_equal(array, dataset[name][:]) for name, array in arrays.items())
        findings.expect(equal, "zarr-python reads the same values")
        for name, array in arrays.items():
            step.say(f"{name:8} {array.dtype} {' × '.join(map(str, array.shape))}")
        step.say("Every value is the one that chunkstore gives." if equal else "The values differ.")


def measure_all(screen: Screen, place: Place, findings: Findings) -> None:
    """Measure how fast each kind of data streams."""
    names = [written.name for written in findings.written if written.name != "digits-test"]
    with screen.step("Measuring throughput", "Throughput measured", len(names)) as step:
        for name in names:
            findings.speeds[name] = measure(place.url(name), place.storage_options)
            step.advance()
        step.say("Whole epochs of shuffled batches as tensors, each from a fresh loader.")


def _num_compiled(*modules: ModuleType) -> int:
    """How many versions of the modules' kernels were compiled in this process, not found in Numba's cache."""
    kernels = [value for module in modules for value in vars(module).values() if isinstance(value, Dispatcher)]
    return sum(sum(kernel.stats.cache_misses.values()) for kernel in kernels)


def _open(place: Place, name: str, *, version: int) -> cs.Dataset:
    return cs.open(place.url(name), version=version, storage_options=place.storage_options)


def _checkpoint(place: Place) -> Path:
    return (place.kept or place.scratch) / "checkpoint"
