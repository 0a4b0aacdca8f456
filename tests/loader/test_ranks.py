"""Ranks: found when iteration begins, in torch.distributed or torchrun's environment; and what each of them reads."""

import numpy as np
import pytest

import chunkstore as cs


def test_torchruns_environment_is_read_when_iteration_begins(make_dataset, monkeypatch):
    loader = cs.Loader(make_dataset(97), 10, drop_last=True)
    assert (loader.rank, loader.world_size, len(loader)) == (0, 1, 9)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (loader.rank, loader.world_size, len(loader)) == (1, 4, 2)
    assert next(iter(loader))["y"].tolist() == list(range(10, 20))
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(ValueError, match="rank=4 is not one of world_size=4"):
        iter(loader)


def test_given_ranks_stand_before_the_environment(make_dataset, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    loader = cs.Loader(make_dataset(97), 10, rank=2, world_size=3)
    assert (loader.rank, loader.world_size) == (2, 3)


PROCESS_GROUP = """
import sys
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import chunkstore as cs

def run(rank, url, store, results):
    loader = cs.Loader(url, global_batch_size=24, shuffle=True, seed=2, lanes=4, drop_last=False)
    assert loader.world_size == 1
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    assert (loader.rank, loader.world_size) == (rank, 2)
    steps = [batch["y"].tolist() for batch in loader]
    lengths = [None, None]
    dist.all_gather_object(lengths, len(steps))
    assert lengths[0] == lengths[1] == len(loader)
    states = [None, None]
    dist.all_gather_object(states, loader.state_dict())
    assert states[0] == states[1]
    gathered = [None, None]
    dist.all_gather_object(gathered, steps)
    if rank == 0:
        alone = cs.Loader(url, global_batch_size=24, shuffle=True, seed=2, lanes=4, drop_last=False, rank=0, world_size=1)
        for a, b, batch in zip(*gathered, alone, strict=True):
            assert sorted(a + b) == sorted(batch["y"].tolist())
        print("agreed")
    dist.destroy_process_group()

if __name__ == "__main__":
    mp.start_processes(run, (sys.argv[1], sys.argv[2], None), nprocs=2, start_method="fork")
"""


def test_ranks_of_a_process_group_share_the_global_batches(tmp_path, write_dataset, run_script):
    url = write_dataset(str(tmp_path / "data"), (60, 1, 32))
    done = run_script(PROCESS_GROUP, url, tmp_path / "store", timeout_s=120)
    assert (done.returncode, done.stdout) == (0, "agreed\n"), done.stderr


def blocks_read(dataset, monkeypatch, world_size, rank, **options):
    """Positions that one rank reads in an epoch."""
    read = []
    original = cs.Dataset.read_intervals

    def recording(self, intervals, names=None):
        read.append(intervals)
        return original(self, intervals, names)

    with monkeypatch.context() as patch:
        patch.setattr(cs.Dataset, "read_intervals", recording)
        list(cs.Loader(dataset, 8, rank=rank, world_size=world_size, **options))
    return np.concatenate([np.arange(a, b) for intervals in read for a, b in intervals])


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_ranks_that_divide_the_lanes_share_no_block_but_those_an_edge_cuts(
    tmp_path, write_dataset, watch, monkeypatch, world_size
):
    rows = 16
    schema = {
        "y": cs.Array("int64", chunk=(rows,)),
        "x": cs.Array("float32", (8,), chunk=(rows, 8), block_nbytes=rows * 40),
    }
    url = write_dataset(str(tmp_path / "data"), (1024, 512, 512), schema)
    dataset = cs.open(url)
    assert [f.block_rows for f in dataset.version_document.fragments] == [rows] * 3
    options = {"shuffle": True, "lanes": 8, "window_nbytes": 1 << 14, "drop_last": False}
    readers = np.zeros((world_size, 2048 // rows), bool)
    for rank in range(world_size):
        positions = blocks_read(dataset, monkeypatch, world_size, rank, **options)
        assert len(np.unique(positions)) == len(positions), "a sample read twice by one rank"
        readers[rank, positions // rows] = True
    assert readers.any(axis=0).all()
    assert (readers.sum(axis=0) > 1).sum() <= 8 - 1  # one an edge between lanes
    assert readers.sum(axis=0).max() <= 2


def test_each_chunk_is_fetched_about_once_an_epoch(tmp_path, watch):
    """Chunks that early small runs and later large ones share are decoded once and kept."""
    samples, width = 3072, 2048
    schema = {"x": cs.Array("float32", (width,), codec=None, chunk=(64, width), block_nbytes=64 * width * 4)}
    with cs.create(str(tmp_path / "data"), schema) as writer:
        writer.write_batch({"x": np.zeros((samples, width), np.float32)})
    for shuffle, most in ((True, 1.2), (False, 1.2)):
        dataset, store = watch(str(tmp_path / "data"))
        options = {"lanes": 4, "window_nbytes": 4 << 20, "num_threads": 1}
        assert len(list(cs.Loader(dataset, 64, shuffle=shuffle, **options))) == samples // 64
        stored = samples * width * 4
        assert stored <= store.nbytes <= most * stored, (shuffle, store.nbytes / stored)
