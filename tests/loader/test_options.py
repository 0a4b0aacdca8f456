"""What a loader is given is checked when it is given, and a loader can be sent to another process."""

import io
import json
import os
import pickle
import signal
import threading

import numpy as np
import pytest
from PIL import Image

import chunkstore as cs


@pytest.fixture
def url(make_dataset):
    return make_dataset(60, 1, 36)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": True},
        {"batch_size": 8.0},
        {"batch_size": "8"},
        {"rank": 0.0, "world_size": 2.0},
        {"rank": 0, "world_size": True},
        {"drop_last": "no"},
        {"drop_last": 1},
        {"pad": "yes"},
        {"affinity": 1},
        {"seed": 1.5},
        {"seed": True},
        {"lanes": "64"},
        {"num_threads": 1.5},
        {"device": "gpu"},
        {"device": "cuda:99"},
        {"device": 1.5},
    ],
)
def test_options_of_the_wrong_kind_are_refused_by_name(url, options):
    with pytest.raises(ValueError, match=list(options)[-1] if "rank" not in options else "rank|world_size"):
        cs.Loader(url, **{"batch_size": 8, "shuffle": True, **options})


def test_numpy_numbers_and_bools_are_taken_as_their_own(url):
    loader = cs.Loader(url, np.int64(8), shuffle=np.bool_(True), seed=np.uint8(3), drop_last=np.bool_(False))
    assert json.loads(json.dumps(loader.state_dict())) == cs.Loader(url, 8, shuffle=True, seed=3).state_dict()
    assert len(loader) == 13


def test_epochs_and_steps_outside_their_range_are_refused(url):
    loader = cs.Loader(url, 8, shuffle=True)
    for epoch in (-1, 1 << 62, 1.0, True):
        with pytest.raises(ValueError, match="epoch"):
            loader.set_epoch(epoch)
        with pytest.raises(ValueError, match="epoch"):
            loader.sample_indices(0, epoch)
    with pytest.raises(ValueError, match=r"step=1\.0"):
        loader.sample_indices(1.0)
    for state in (None, [], "state", {**loader.state_dict(), "epoch": 1 << 70}):
        with pytest.raises(cs.StateMismatch):
            loader.load_state_dict(state)
    loader.set_epoch((1 << 62) - 1)
    assert len(list(loader)) == 12


def test_a_loader_pickles_with_its_options_and_cursor(tmp_path, write_dataset):
    loader = cs.Loader(write_dataset(str(tmp_path / "data"), (97,)), 8, shuffle=True, seed=3)
    batches = iter(loader)
    for _ in range(5):
        next(batches)
    copy = pickle.loads(pickle.dumps(loader))  # noqa: S301
    assert copy.state_dict() == loader.state_dict()
    assert [b["y"].tolist() for b in copy] == [b["y"].tolist() for b in batches]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_asks_for_indices_while_the_parents_order_is_locked(url):
    loader = cs.Loader(url, 8, shuffle=True)
    loader.sample_indices(0)
    held, done = threading.Event(), threading.Event()

    def hold():
        with loader._order._lock:
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    try:
        pid = os.fork()
        if pid == 0:
            signal.alarm(10)
            loader.sample_indices(3)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_an_image_that_does_not_decode_is_named_by_sample_field_and_url(tmp_path, shuffle, device):
    path = str(tmp_path / "images")
    with cs.create(path, {"image": cs.Image("png"), "y": cs.Array("int64")}) as writer:
        for n in range(40):
            writer.write({"image": _png(n, damaged=n == 17), "y": n})
    with pytest.raises(cs.CorruptSample, match=r"field 'image', sample 17:") as raised:
        list(cs.Loader(path, 4, shuffle=shuffle, device=device))
    assert path in str(raised.value)


def _png(n, *, damaged):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(n).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(file, "PNG")
    data = bytearray(file.getvalue())
    if damaged:
        data[200:400] = bytes(200)
    return bytes(data)
