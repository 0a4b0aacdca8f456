"""Datasets for torch's DataLoader: the Loader's own batches in its order, whatever the workers and however they start."""

import gc
import json
import time

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

import chunkstore as cs

# Python 3.12 warns of any fork of a process with threads; that it works here is what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

ORDER = {"shuffle": True, "seed": 3, "lanes": 4, "window_nbytes": 1 << 12}


@pytest.fixture(scope="module")
def url(tmp_path_factory, write_dataset):
    return write_dataset(str(tmp_path_factory.mktemp("torch") / "data"), (60, 1, 36))


def expected(url, epoch, batch_size=8, **options):
    loader = cs.Loader(url, batch_size, **{**ORDER, **options})
    loader.set_epoch(epoch)
    return [batch["y"].tolist() for batch in loader]


def labels(batches):
    return [batch["y"].tolist() for batch in batches]


def loader_of(dataset, **options):
    return DataLoader(dataset, batch_size=None, **options)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_streams_are_the_loaders_batches_in_order_and_epochs_advance(url, workers):
    stream = cs.torch.StreamDataset(url, 8, **ORDER)
    batches = loader_of(stream, num_workers=workers, **({"multiprocessing_context": "fork"} if workers else {}))
    assert len(batches) == len(stream) == 12
    assert [labels(batches) for _ in range(3)] == [expected(url, epoch) for epoch in range(3)]


def test_streams_end_with_a_short_step_and_hold_tensors(url):
    stream = cs.torch.StreamDataset(url, 8, drop_last=False, **ORDER)
    batches = list(loader_of(stream, num_workers=2, multiprocessing_context="fork"))
    assert [len(batch["y"]) for batch in batches] == [8] * 12 + [1]
    for batch in batches:
        assert torch.equal(batch["x"][:, 0], batch["y"].to(torch.float32) * 10)
        assert batch["name"] == [f"näme {n}" for n in batch["y"].tolist()]
        assert [tokens.tolist() for tokens in batch["tokens"]] == [
            [n + i for i in range(n % 5)] for n in batch["y"].tolist()
        ]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_left_early_is_followed_by_the_next_epoch_on_all_workers(url, workers):
    context = {"multiprocessing_context": "fork"} if workers else {}
    batches = loader_of(cs.torch.StreamDataset(url, 8, **ORDER), num_workers=workers, **context)
    for _ in batches:
        break
    assert labels(batches) == expected(url, 1)


@pytest.mark.parametrize("persistent", [False, True])
def test_a_worker_killed_before_it_began_does_not_mix_epochs(url, monkeypatch, persistent):
    """Worker 1 starts so late that DataLoader kills it; then torch is seeded again, so the next pass has the same seed."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)
    slow_s = [30.0]

    def begin(worker):
        time.sleep(slow_s[0] if worker == 1 else 0)

    stream = cs.torch.StreamDataset(url, 8, **ORDER)
    options = {"num_workers": 2, "multiprocessing_context": "fork", "worker_init_fn": begin}
    torch.manual_seed(0)
    for batch in loader_of(stream, **options):
        assert batch["y"].tolist() == expected(url, 0)[0]
        break
    slow_s[0] = 0.0
    torch.manual_seed(0)
    batches = loader_of(stream, persistent_workers=persistent, **options)
    assert labels(batches) == expected(url, 1)
    assert labels(batches) == expected(url, 2)


def test_set_epoch_leaves_a_pass_alone_that_some_workers_have_begun(url, monkeypatch):
    delay_s = 2.0
    stream = cs.torch.StreamDataset(url, 8, **ORDER)
    batches = iter(
        loader_of(
            stream,
            num_workers=2,
            multiprocessing_context="fork",
            worker_init_fn=lambda worker: time.sleep(delay_s * worker),
        )
    )
    first = next(batches)
    stream.set_epoch(7)
    assert labels([first, *batches]) == expected(url, 0)
    assert labels(loader_of(stream)) == expected(url, 7)


def test_two_passes_at_once_are_two_epochs(url):
    batches = loader_of(cs.torch.StreamDataset(url, 8, **ORDER), num_workers=2, multiprocessing_context="fork")
    both = list(zip(batches, batches, strict=True))
    passes = [labels(batch[i] for batch in both) for i in (0, 1)]
    assert sorted(passes) == sorted(expected(url, epoch) for epoch in (0, 1))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_of_less_than_a_batch_is_an_error_as_of_a_loader(url, workers):
    stream = cs.torch.StreamDataset(url, 98, **ORDER)
    context = {"multiprocessing_context": "fork"} if workers else {}
    with pytest.raises(ValueError, match="97 samples make no whole step of 98"):
        list(loader_of(stream, num_workers=workers, **context))


def test_notes_of_epochs_go_with_the_stream(url):
    stream = cs.torch.StreamDataset(url, 8, **ORDER)
    stream.set_epoch(3)
    path = stream._epochs._path
    assert path.exists()
    del stream
    gc.collect()
    assert not path.exists()


def test_equal_torch_seeds_do_not_stop_epochs(url):
    batches = loader_of(cs.torch.StreamDataset(url, 8, **ORDER), num_workers=2, multiprocessing_context="fork")
    for epoch in range(2):
        torch.manual_seed(0)
        assert labels(batches) == expected(url, epoch)


def test_set_epoch_reaches_workers_that_persist(url):
    stream = cs.torch.StreamDataset(url, 8, **ORDER)
    batches = loader_of(stream, num_workers=2, persistent_workers=True, multiprocessing_context="fork")
    assert labels(batches) == expected(url, 0)
    assert labels(batches) == expected(url, 1)
    stream.set_epoch(5)
    assert labels(batches) == expected(url, 5)
    assert labels(batches) == expected(url, 6)
    stream.set_epoch(0)
    assert labels(batches) == expected(url, 0)
    with pytest.raises(ValueError, match="epoch"):
        stream.set_epoch(-1)


def test_streams_take_the_rank_of_the_main_process(url, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    batches = loader_of(cs.torch.StreamDataset(url, 8, **ORDER), num_workers=2, multiprocessing_context="fork")
    assert labels(batches) == expected(url, 0, rank=1, world_size=2)


STARTED = """
import json, sys
import torch
from torch.utils.data import DataLoader
import chunkstore as cs

if __name__ == "__main__":
    url, method, order, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])
    dataset = cs.open(url, storage_options=options or None)
    stream = cs.torch.StreamDataset(dataset, 8, **order)
    next(iter(stream))  # threads have been started
    stream.set_epoch(0)
    workers = dict(num_workers=2, multiprocessing_context=method)
    batches = DataLoader(stream, batch_size=None, persistent_workers=True, **workers)
    try:
        passes = [[b["y"].tolist() for b in batches] for _ in range(2)]
    except Exception as error:
        print(json.dumps(str(error).rstrip().splitlines()[-1]))
        sys.exit()
    samples = cs.torch.MapDataset(dataset.select("y", "x"))
    mapped = [b["y"].tolist() for b in DataLoader(samples, batch_size=16, **workers)]
    print(json.dumps([passes, mapped]))
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_may_start_in_any_way_for_local_data(url, run_script, method):
    done = run_script(STARTED, url, method, json.dumps(ORDER), "{}", timeout_s=240)
    assert done.returncode == 0, done.stderr
    passes, mapped = json.loads(done.stdout)
    assert passes == [expected(url, 0), expected(url, 1)]
    assert mapped == [list(range(at, min(at + 16, 97))) for at in range(0, 97, 16)]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_object_storage_are_spawned_and_forked_ones_refused(s3, write_dataset, run_script, method):
    write_dataset(s3.url, (60, 1, 36), storage_options=s3.storage_options)
    done = run_script(STARTED, s3.url, method, json.dumps(ORDER), json.dumps(s3.storage_options), timeout_s=240)
    assert done.returncode == 0, done.stderr
    if method == "fork":
        assert "forked child" in json.loads(done.stdout)
        return
    passes, mapped = json.loads(done.stdout)
    loader = cs.Loader(s3.url, 8, storage_options=s3.storage_options, **ORDER)
    assert passes == [labels(loader), labels(loader)]
    assert sum(mapped, []) == list(range(97))  # noqa: RUF017


@pytest.mark.parametrize("workers", [0, 2])
def test_mapped_samples_come_as_any_sampler_asks(url, workers):
    samples = cs.torch.MapDataset(cs.open(url).select("y", "x", "name"))
    assert len(samples) == 97
    context = {"multiprocessing_context": "fork"} if workers else {}
    sampler = RandomSampler(samples, generator=torch.Generator().manual_seed(1))
    asked = [
        list(map(int, batch))
        for batch in BatchSampler(RandomSampler(samples, generator=torch.Generator().manual_seed(1)), 16, False)
    ]
    got = list(DataLoader(samples, batch_size=16, sampler=sampler, num_workers=workers, **context))
    assert [batch["y"].tolist() for batch in got] == asked
    for batch in got:
        assert torch.equal(batch["x"][:, 0], batch["y"].to(torch.float32) * 10)
        assert batch["name"] == [f"näme {n}" for n in batch["y"].tolist()]


def test_the_samples_of_a_batch_are_read_together(url, monkeypatch):
    samples = cs.torch.MapDataset(url)
    calls = []
    original = cs.Dataset.read

    def counting(self, indices, names=None):
        calls.append(indices)
        return original(self, indices, names)

    monkeypatch.setattr(cs.Dataset, "read", counting)
    batches = list(DataLoader(samples, batch_size=16, shuffle=True, collate_fn=list))
    assert len(batches) == len(calls) == 7
    assert sorted(int(sample["y"]) for batch in batches for sample in batch) == list(range(97))


def test_a_mapped_sample_is_what_the_dataset_gives(url):
    samples, dataset = cs.torch.MapDataset(url), cs.open(url)
    for index in (0, 60, 96, -1):
        mine, its = samples[index], dataset[index]
        assert list(mine) == list(its)
        assert all(np.array_equal(mine[name], its[name]) for name in its)
    with pytest.raises(IndexError):
        samples[97]
