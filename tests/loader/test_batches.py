"""Batches: every field type as NumPy and as torch, right after the epoch is over, and nobody's but the caller's."""

import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

import chunkstore as cs

NUM_SAMPLES = 40
DTYPES = [
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
]


def pixels(i):
    return np.random.default_rng(i).integers(0, 256, (2 + i % 3, 3, 3), np.uint8)


def png(i):
    buffer = io.BytesIO()
    Image.fromarray(pixels(i)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def dataset():
    n = range(NUM_SAMPLES)
    schema = {dtype: cs.Array(dtype, (3,)) for dtype in DTYPES}
    values = {d: np.stack([np.array([i % 2, i, i + 1]).astype(d) for i in n]) for d in DTYPES}
    schema |= {
        "y": cs.Array("int64"),
        "bf": cs.Array("bfloat16", (2, 2)),
        "tokens": cs.Ragged("uint16"),
        "ragged_bf": cs.Ragged("bfloat16"),
        "points": cs.Ragged("float32", (None, 3)),
        "volume": cs.Ragged("int16", (None, None)),
        "image": cs.Image("png"),
        "text": cs.Text(),
        "blob": cs.Bytes(),
    }
    values |= {
        "y": np.arange(NUM_SAMPLES),
        "bf": torch.stack([torch.full((2, 2), i / 3).to(torch.bfloat16) for i in n]),
        "tokens": [np.full(i % 4, i, np.uint16) for i in n],
        "ragged_bf": [torch.full((i % 3,), i / 3).to(torch.bfloat16) for i in n],
        "points": [np.full((i % 3, 3), i, np.float32) for i in n],
        "volume": [np.full((i % 3, i % 2), i, np.int16) for i in n],
        "image": [png(i) for i in n],
        "text": [f"tèxt {i}" * (i % 3) for i in n],
        "blob": [bytes([i]) * (i % 5) for i in n],
    }
    url = "memory://loader-batches"
    with cs.create(url, schema) as writer:
        writer.write_batch(values)
    return cs.open(url), values


def bf16(value):
    return torch.tensor(value).to(torch.bfloat16).to(torch.float32).numpy()


@pytest.mark.parametrize("shuffle", [True, "full", False])
def test_numpy_batches_hold_every_field_type(dataset, shuffle):
    ds, values = dataset
    for batch in cs.Loader(ds, 9, shuffle=shuffle, lanes=4, drop_last=False):
        order = batch["y"].tolist()
        for dtype in DTYPES:
            assert batch[dtype].dtype == np.dtype(dtype)
            assert np.array_equal(batch[dtype], values[dtype][order])
        assert batch["bf"].dtype == np.float32
        assert np.array_equal(batch["bf"], values["bf"].to(torch.float32).numpy()[order])
        assert batch["tokens"].values.dtype == np.uint16
        assert batch["ragged_bf"].values.dtype == np.float32
        for at, i in enumerate(order):
            assert batch["tokens"][at].tolist() == [i] * (i % 4)
            assert batch["ragged_bf"][at].tolist() == [float(bf16(i / 3))] * (i % 3)
            assert np.array_equal(batch["points"][at], values["points"][i])
            assert batch["volume"][at].shape == (i % 3, i % 2)
            assert np.array_equal(batch["image"][at], pixels(i))
        assert batch["tokens"].offsets.dtype == np.int64
        assert batch["points"].shapes is None
        assert batch["volume"].shapes.tolist() == [[i % 3, i % 2] for i in order]
        assert batch["text"] == [values["text"][i] for i in order]
        assert batch["blob"] == [values["blob"][i] for i in order]


def test_torch_batches_hold_every_field_type(dataset):
    ds, values = dataset
    for batch in cs.Loader(ds, 9, shuffle=True, lanes=4, device="cpu"):
        order = batch["y"].tolist()
        for dtype in DTYPES:
            assert batch[dtype].dtype == getattr(torch, dtype)
            assert np.array_equal(batch[dtype].numpy(), values[dtype][order])
        assert batch["bf"].dtype == torch.bfloat16
        assert torch.equal(batch["bf"], values["bf"][order])
        assert batch["ragged_bf"].values.dtype == torch.bfloat16
        assert batch["tokens"].values.dtype == torch.uint16
        assert batch["tokens"].offsets.dtype == torch.int64
        for at, i in enumerate(order):
            assert torch.equal(batch["ragged_bf"][at], values["ragged_bf"][i])
            assert np.array_equal(batch["points"][at].numpy(), values["points"][i])
            assert tuple(batch["volume"][at].shape) == (i % 3, i % 2)
            assert batch["image"][at].dtype == torch.uint8
            assert np.array_equal(batch["image"][at].numpy(), pixels(i))
        assert batch["text"] == [values["text"][i] for i in order]
        assert batch["blob"] == [values["blob"][i] for i in order]


def test_images_come_as_stored_where_decoding_is_off(dataset):
    ds, _ = dataset
    undecoded = cs.open(ds.url, decode=False).select("image", "y")
    for device in (None, "cpu"):
        batch = next(iter(cs.Loader(undecoded, 9, device=device)))
        assert batch["image"] == [png(int(i)) for i in batch["y"]]


@pytest.mark.parametrize("device", [None, "cpu"])
def test_an_empty_batch_has_every_field_with_the_type_of_a_full_one(dataset, device):
    ds, _ = dataset
    batches = [list(cs.Loader(ds, 13, device=device, rank=r, world_size=3)) for r in range(3)]
    full, empty = batches[0][0], batches[0][1]
    assert [len(b[1]["y"]) for b in batches] == [0, 0, 1]
    assert list(full) == list(empty)
    for name in [*DTYPES, "y", "bf"]:
        assert empty[name].dtype == full[name].dtype
        assert tuple(empty[name].shape) == (0, *full[name].shape[1:])
    for name in ("tokens", "ragged_bf", "points", "volume"):
        assert empty[name].values.dtype == full[name].values.dtype
        assert tuple(empty[name].values.shape) == (0, *full[name].values.shape[1:])
        assert empty[name].offsets.tolist() == [0]
        assert empty[name].offsets.dtype == full[name].offsets.dtype
        assert len(empty[name]) == 0
    assert tuple(empty["volume"].shapes.shape) == (0, 2)
    assert empty["image"] == empty["text"] == empty["blob"] == []


def test_the_mask_of_padded_batches_follows_the_device(dataset):
    ds, _ = dataset
    as_numpy = list(cs.Loader(ds.select("y"), 9, pad=True))[-1]["_mask"]
    as_torch = list(cs.Loader(ds.select("y"), 9, pad=True, device="cpu"))[-1]["_mask"]
    assert as_numpy.dtype == np.bool_
    assert as_torch.dtype == torch.bool
    assert as_numpy.tolist() == as_torch.tolist() == [True] * 4 + [False] * 5


def arrays_of(batch):
    for value in batch.values():
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, cs.RaggedBatch):
            yield from (part for part in (value.values, value.offsets, value.shapes) if part is not None)
        elif value and isinstance(value[0], np.ndarray):
            yield from value


def test_batches_can_be_kept_written_to_and_share_no_memory(dataset):
    ds, values = dataset
    loader = cs.Loader(ds, 7, shuffle=True, lanes=4, drop_last=False)
    batches = list(loader)
    for i, batch in enumerate(batches):
        assert batch["y"].tolist() == loader.sample_indices(i, 0).tolist()
        assert np.array_equal(batch["uint16"], values["uint16"][batch["y"]])
    regions = [
        (a.__array_interface__["data"][0], a.nbytes, i) for i, b in enumerate(batches) for a in arrays_of(b) if a.nbytes
    ]
    regions.sort()
    for (start, nbytes, _), (after, _, _) in pairwise(regions):
        assert start + nbytes <= after
    for batch in batches:
        for array in arrays_of(batch):
            assert array.flags.writeable
            array[...] = 0
    assert np.array_equal(next(iter(cs.Loader(ds, NUM_SAMPLES)))["uint16"], values["uint16"])


def test_a_batch_does_not_keep_the_window_alive(dataset):
    ds, _ = dataset
    batch = next(iter(cs.Loader(ds, 4, shuffle=True)))
    assert all(
        array.base is None or array.base.nbytes <= 2 * array.nbytes for array in arrays_of(batch) if array.nbytes
    )
