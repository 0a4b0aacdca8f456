"""Views: filters, splits, slices and selected fields, nested in any order, show what the same steps on a NumPy model show."""

import itertools
import pickle
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chunkstore as cs
from chunkstore.errors import CorruptSample, SchemaError
from chunkstore.plan.sample_nbytes import mean_sample_nbytes
from chunkstore.reading import dataset as module
from chunkstore.reading import present

SIZES = (50, 1, 69)
N = sum(SIZES)
LABELS = np.arange(N) * 3
VOLUMES = np.arange(N * 24).reshape(N, 4, 6).astype("i4")
LENGTHS = np.random.default_rng(0).integers(0, 4, N)
WIDTHS = {"tokens": 4, "text": 1, "image": 1}
PIXELS = np.random.default_rng(1).integers(0, 256, (N, 2, 3, 3), np.uint8)
SCHEMA = {
    "label": cs.Array("int64"),
    "volume": cs.Array("int32", (4, 6)),
    "tokens": cs.Ragged("int32"),
    "text": cs.Text(),
    "image": cs.Image("png"),
}


def columns(start: int, stop: int) -> dict[str, Any]:
    return {
        "label": LABELS[start:stop],
        "volume": VOLUMES[start:stop],
        "tokens": [np.full(LENGTHS[i], i, "i4") for i in range(start, stop)],
        "text": [str(i) for i in range(start, stop)],
        "image": list(PIXELS[start:stop]),
    }


def write(url: str, sizes: tuple[int, ...] = SIZES) -> str:
    with cs.create(url, SCHEMA):
        pass
    for stop, size in zip(itertools.accumulate(sizes), sizes, strict=True):
        with cs.append(url) as writer:
            writer.write_batch(columns(stop - size, stop))
    return url


@pytest.fixture(scope="module")
def url() -> str:
    return write(f"memory://views-{uuid.uuid4().hex}")


@pytest.fixture(scope="module")
def ds(url: str) -> cs.Dataset:
    return cs.open(url)


def assert_batch(batch: dict[str, Any], rows: Any, volumes: Any) -> None:
    """A batch holds these samples, of whose volumes it shows these parts."""
    expected: dict[str, Callable[[], Any]] = {
        "label": lambda: LABELS[rows].tolist() == batch["label"].tolist(),
        "volume": lambda: batch["volume"].shape == volumes.shape and np.array_equal(batch["volume"], volumes),
        "tokens": lambda: [t.tolist() for t in batch["tokens"]] == [[i] * LENGTHS[i] for i in rows.tolist()],
        "text": lambda: batch["text"] == [str(i) for i in rows.tolist()],
        "image": lambda: len(batch["image"]) == len(rows) and all(map(np.array_equal, batch["image"], PIXELS[rows])),
    }
    assert [name for name in batch if not expected[name]()] == []


def assert_shows(view: cs.Dataset, rows: Any, part: Any = ...) -> None:
    """A view shows these samples, and of `volume` this part of each."""
    rows = np.asarray(rows, np.int64)
    volumes = VOLUMES[rows][(slice(None), *(part if isinstance(part, tuple) else (part,)))]
    assert len(view) == len(rows)
    assert view.positions().tolist() == rows.tolist()
    assert_batch(view[:], rows, volumes)
    if "volume" in view.schema:
        assert view.schema["volume"].shape == volumes.shape[1:]


@dataclass(frozen=True)
class Model:
    """What a view is to show: these samples, of `volume` this, and these fields."""

    rows: Any
    volumes: Any
    names: tuple[str, ...]


Step = Callable[[np.random.Generator, cs.Dataset, Model], tuple[cs.Dataset, Model]]


def by_mask(rng: np.random.Generator, view: cs.Dataset, model: Model) -> tuple[cs.Dataset, Model]:
    mask = rng.random(len(view)) < rng.choice([0.02, 0.5, 0.95])
    return view.filter(mask), replace(model, rows=model.rows[mask])


def by_indices(rng: np.random.Generator, view: cs.Dataset, model: Model) -> tuple[cs.Dataset, Model]:
    indices = np.flatnonzero(rng.random(len(view)) < rng.choice([0.02, 0.5, 0.95]))
    return view.filter(indices.tolist()), replace(model, rows=model.rows[indices])


def by_split(rng: np.random.Generator, view: cs.Dataset, model: Model) -> tuple[cs.Dataset, Model]:
    seed = int(rng.integers(9))
    whole = cs.open(view.url).split({"a": 0.4, "b": 0.4}, seed=seed)["b"]
    rows = model.rows[np.isin(model.rows, whole.positions())]
    return view.split({"a": 0.4, "b": 0.4}, seed=seed)["b"], replace(model, rows=rows)


def by_fields(rng: np.random.Generator, view: cs.Dataset, model: Model) -> tuple[cs.Dataset, Model]:
    names = tuple(rng.permutation(model.names)[: rng.integers(1, 6)].tolist())
    return view.select(*names), replace(model, names=names)


def by_slices(rng: np.random.Generator, view: cs.Dataset, model: Model) -> tuple[cs.Dataset, Model]:
    if "volume" not in model.names:
        return view, model
    start, stop = sorted(rng.integers(0, model.volumes.shape[1] + 1, 2).tolist())
    view = view.slice(volume=slice(start, stop)).slice(volume=(..., slice(-3, None, 2)))
    return view, replace(model, volumes=model.volumes[:, start:stop, -3::2])


def by_pickle(rng: np.random.Generator, view: cs.Dataset, model: Model) -> tuple[cs.Dataset, Model]:
    return pickle.loads(pickle.dumps(view)), model  # noqa: S301  (our own bytes)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([by_mask, by_indices, by_split, by_fields, by_slices, by_pickle]), max_size=5),
    st.integers(0, 2**32 - 1),
)
def test_views_nested_in_any_order_are_what_a_model_shows(ds: cs.Dataset, steps: list[Step], seed: int) -> None:
    rng = np.random.default_rng(seed)
    view, model = ds, Model(np.arange(N), VOLUMES, tuple(SCHEMA))
    for step in steps:
        view, model = step(rng, view, model)
    rows = model.rows
    assert (len(view), tuple(view.schema)) == (len(rows), model.names)
    assert view.positions().tolist() == view.sample_ids().tolist() == rows.tolist()
    assert view.sample_ids().dtype == np.uint64
    assert view.view_digest == ds.filter(rows).view_digest
    keys: list[Any] = [slice(None), slice(None, None, -2), rng.random(len(rows)) < 0.3]
    if len(rows):
        keys.append(rng.integers(-len(rows), len(rows), 7).tolist())
        assert list(view[-1]) == list(view.schema)
    for key in keys:
        assert_batch(view[key], rows[key], model.volumes[rows][key])
        for name in view.schema:
            assert_batch({name: view[name][key]}, rows[key], model.volumes[rows][key])


def test_a_view_leaves_the_dataset_it_was_made_of_as_it_was(ds: cs.Dataset) -> None:
    view = ds.filter([3, 50, 51]).slice(volume=slice(0, 1)).select("volume", "text")
    assert_shows(view, [3, 50, 51], slice(0, 1))
    assert_shows(ds, range(N))
    assert view[1]["text"] == "50"


def test_indices_that_are_kept_are_a_copy(ds: cs.Dataset) -> None:
    indices = np.array([1, 2, 3])
    view = ds.filter(indices)
    indices[:] = 99
    assert view.positions().tolist() == [1, 2, 3]


@pytest.mark.parametrize("kept", [[1, 5, 7], np.arange(N) % 2 == 0, np.ones(N, bool)], ids=["listed", "bitmap", "all"])
def test_positions_that_are_handed_out_are_the_callers_to_change(ds: cs.Dataset, kept: Any) -> None:
    view = ds.filter(kept)
    labels, positions = view["label"][:].tolist(), view.positions().tolist()
    for handed in (view.positions(), view.positions([0, 1, 2]), view.sample_ids(), view.filter([0, 1]).positions()):
        np.add(handed, 10, out=handed, casting="unsafe")
    assert view["label"][:].tolist() == labels
    assert view.positions().tolist() == positions


@pytest.mark.parametrize(
    ("selection", "told"),
    [
        ([3, 3], "np.unique"),
        ([5, 3], "strictly increasing"),
        ([-1], r"in \[0, 120\)"),
        ([0, N], r"in \[0, 120\)"),
        (np.zeros(N - 1, bool), r"mask of shape \(119,\) for 120"),
        (np.zeros((N, 1), bool), "mask of shape"),
        ([0.5], "mask or by a list"),
        ("label", "mask or by a list"),
        (7, "mask or by a list"),
        ([[1, 2]], "mask or by a list"),
        ([[1], [2, 3]], "mask or by a list"),
        ((np.arange(N) > 3).astype("u1"), r"dtype uint8, .*astype\(bool\)"),
        (np.arange(N) % 2, r"astype\(bool\)"),
        (np.array([True] * N, object), r"not by an array of dtype object and shape \(120,\)$"),
        (lambda sample: True, "not by <function"),
    ],
)
def test_a_filter_that_is_none_says_what_to_do(ds: cs.Dataset, selection: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ds.filter(selection)


@pytest.mark.parametrize("nothing", [[], np.zeros(N, bool), np.empty(0, np.int64), np.empty(0)])
def test_a_view_of_nothing_is_a_dataset_of_no_samples(ds: cs.Dataset, nothing: Any) -> None:
    view = ds.filter(nothing)
    assert_shows(view, [])
    assert list(view) == []
    assert (len(view["label"]), view.extents, view.sample_ids().tolist()) == (0, (), [])
    assert view.split({"a": 1.0})["a"].filter([]).view_digest == view.view_digest
    with pytest.raises(IndexError):
        view[0]


def test_a_filter_by_what_a_field_holds(ds: cs.Dataset) -> None:
    assert_shows(ds.filter(ds["label"][:] % 2 == 0), np.arange(0, N, 2))


def test_views_of_the_same_samples_have_the_same_digest(ds: cs.Dataset) -> None:
    mask = np.random.default_rng(5).random(N) < 0.5
    view = ds.filter(mask)
    assert view.view_digest == ds.filter(np.flatnonzero(mask)).view_digest
    assert view.view_digest == ds.filter(~mask | mask).filter(mask).view_digest
    inside = np.arange(N) < N - 5
    assert ds.filter(mask & inside).view_digest == ds.filter(inside).filter(mask[: N - 5]).view_digest
    part = ds.split({"a": 0.5})["a"]
    assert part.view_digest == ds.filter(part.positions()).view_digest
    narrowed = view.select("text", "volume").slice(volume=slice(0, 1))
    assert narrowed.view_digest == view.view_digest != ds.view_digest
    assert len(view.view_digest) == 64
    for whole in (
        ds,
        ds.filter(np.ones(N, bool)),
        ds.split({"a": 1.0})["a"],
        ds.slice(volume=slice(1)),
        ds.select("text"),
    ):
        assert whole.view_digest == "all"


def test_parts_of_a_split_are_disjoint_and_together_all(ds: cs.Dataset) -> None:
    parts = ds.split({"train": 0.6, "val": 0.2, "test": 0.2}, seed=7)
    assert list(parts) == ["train", "val", "test"]
    rows = [part.positions().tolist() for part in parts.values()]
    assert sorted(itertools.chain(*rows)) == list(range(N))
    assert 50 < len(parts["train"]) < 95
    assert ds.split({"train": 0.6}, seed=7)["train"].positions().tolist() == rows[0]
    assert ds.split({"train": 0.6}, seed=8)["train"].positions().tolist() != rows[0]


def test_a_split_is_stable_when_samples_are_appended_and_when_versions_go_back(tmp_path: Any) -> None:
    url = write(str(tmp_path / "ds"), (40, 30))
    before = {name: set(part.sample_ids().tolist()) for name, part in cs.open(url).split({"a": 0.5, "b": 0.5}).items()}
    with cs.append(url) as writer:
        writer.write_batch(columns(70, 120))
    for name, part in cs.open(url).split({"a": 0.5, "b": 0.5}).items():
        assert {i for i in part.sample_ids().tolist() if i < 70} == before[name]
    cs.rollback(url, 2)  # only the first fragment, and then other samples with ids of their own
    with cs.append(url) as writer:
        writer.write_batch(columns(40, 50))
    ds = cs.open(url)
    assert ds.sample_ids().tolist() == [*range(40), *range(120, 130)]
    assert ds.sample_ids([-1, 0]).tolist() == [129, 0]
    for name, part in ds.split({"a": 0.5, "b": 0.5}).items():
        assert {i for i in part.sample_ids().tolist() if i < 40} == {i for i in before[name] if i < 40}


def test_a_split_is_stable_when_fragments_are_compacted(tmp_path: Any) -> None:
    url = write(str(tmp_path / "ds"), (40, 1, 30, 49))
    before = cs.open(url)
    number = cs.compact(url)
    after = cs.open(url, version=number)
    assert len(after.version_document.fragments) < len(before.version_document.fragments)
    for name, part in before.split({"a": 0.5, "b": 0.3}, seed=4).items():
        same = after.split({"a": 0.5, "b": 0.3}, seed=4)[name]
        assert same.sample_ids().tolist() == part.sample_ids().tolist()
        assert same["text"][:] == part["text"][:]


def test_ids_are_asked_for_as_samples_are(ds: cs.Dataset) -> None:
    view = ds.filter([7, 8, 90])
    assert view.sample_ids([2, 0]).tolist() == [90, 7]
    assert view.sample_ids(slice(1, None)).tolist() == view.sample_ids([False, True, True]).tolist() == [8, 90]
    for key in ([3], [-4], "label", [0.5]):
        with pytest.raises(IndexError):
            view.sample_ids(key)


def test_slices_change_the_shape_of_a_field_and_nothing_else(ds: cs.Dataset) -> None:
    view = ds.slice(volume=(slice(1, -1), slice(None, None, 2)))
    assert view.schema["volume"].shape == (2, 3)
    assert view["volume"].type.shape == (2, 3)
    assert_shows(view, range(N), (slice(1, -1), slice(None, None, 2)))
    assert_shows(view.slice(volume=(..., slice(2, 3))), range(N), (slice(1, -1), slice(4, 5)))
    assert ds.slice(volume=slice(9, None))[[3, 1]]["volume"].shape == (2, 0, 6)
    assert ds.slice(volume=slice(0, 0))[:0]["volume"].shape == (0, 0, 6)
    assert ds.slice(volume=slice(2, 3))[5]["volume"].tolist() == VOLUMES[5, 2:3].tolist()


def test_what_cannot_be_sliced_says_so(ds: cs.Dataset) -> None:
    with pytest.raises(SchemaError, match=r"'tokens' is Ragged.*only the axes of an Array"):
        ds.slice(tokens=slice(0, 1))
    with pytest.raises(SchemaError, match="no field 'nothing'"):
        ds.slice(nothing=slice(0, 1))
    with pytest.raises(SchemaError, match="no field 'volume'"):
        ds.select("label").slice(volume=slice(0, 1))
    with pytest.raises(ValueError, match=r"take slice\(2, 2 \+ 1\)"):
        ds.slice(volume=2)


def test_iteration_gives_the_samples_in_order_and_reads_some_at_a_time(ds: cs.Dataset, monkeypatch: Any) -> None:
    nbytes = mean_sample_nbytes(ds.schema, ds.statistics)
    assert nbytes == 8 + 4 * 24 + 3 * 8 + sum(int(ds.statistics[n]["lengths"].mean * w) for n, w in WIDTHS.items())
    monkeypatch.setattr(module, "ITERATION_NBYTES", nbytes * 10)
    reads = []
    real = cs.Dataset.read
    monkeypatch.setattr(cs.Dataset, "read", lambda self, i, names=None: (reads.append(len(i)), real(self, i, names))[1])
    view = ds.filter(np.arange(0, N, 2))
    first = next(iter(view))
    assert first["text"] == "0"
    assert reads == [10]
    samples = list(view)
    assert [s["text"] for s in samples] == [str(i) for i in range(0, N, 2)]
    assert reads == [10] * 7
    reads.clear()
    assert len(list(view.select("volume").slice(volume=slice(0, 1)))) == len(view)
    assert reads == [nbytes * 10 // 24] * (len(view) * 24 // (nbytes * 10)) + [len(view) % (nbytes * 10 // 24)]
    reads.clear()
    assert list(view["label"]) == LABELS[::2].tolist()
    assert len(reads) == 1
    for sample, row in zip(samples, range(0, N, 2), strict=True):
        assert list(sample) == list(SCHEMA)
        assert isinstance(sample["label"], np.int64)
        assert sample["label"] == LABELS[row]
        assert np.array_equal(sample["volume"], VOLUMES[row])
        assert sample["tokens"].tolist() == [row] * LENGTHS[row]
        assert np.array_equal(sample["image"], PIXELS[row])
        assert all(value.base is None for value in sample.values() if isinstance(value, np.ndarray) and value.ndim < 3)


def test_images_of_a_view_come_encoded_if_asked_for(url: str) -> None:
    view = cs.open(url, decode=False).filter([0, 60])
    assert [data[:4] for data in view[:]["image"]] == [b"\x89PNG"] * 2
    assert [s["image"][:4] for s in view] == [b"\x89PNG"] * 2
    assert pickle.loads(pickle.dumps(view)).decode is False  # noqa: S301  (our own bytes)


def test_a_view_shows_how_much_of_the_version_it_is(ds: cs.Dataset) -> None:
    assert "samples=120, schema" in repr(ds)
    assert "samples=3 of 120, schema" in repr(ds.filter([1, 2, 3]))
    assert "(2, 6)" in repr(ds.slice(volume=slice(0, 2)))


def test_extents_are_the_seen_share_of_each_fragment(ds: cs.Dataset) -> None:
    fragments = ds.version_document.fragments
    assert [(e.samples, e.block_rows, e.nbytes) for e in ds.extents] == [
        (f.samples, f.block_rows, f.nbytes) for f in fragments
    ]
    seen = ds.filter([*range(0, 50, 5), 51, 119]).slice(volume=slice(0, 1)).select("label").extents
    assert [(e.samples, e.block_rows, e.nbytes) for e in seen] == [
        (10, fragments[0].block_rows, fragments[0].nbytes * 10 // 50),
        (2, fragments[2].block_rows, fragments[2].nbytes * 2 // 69),
    ]


def test_damage_in_a_view_is_named_by_the_samples_of_the_version(ds: cs.Dataset, monkeypatch: Any) -> None:
    real = present.decode_image
    pixels = PIXELS[9].tobytes()

    def damaged(*encoded: Any) -> Any:
        image = real(*encoded)
        if image.tobytes() == pixels:
            raise ValueError("damaged")
        return image

    monkeypatch.setattr(present, "decode_image", damaged)
    view = ds.filter([4, 9, 13])
    assert view[0]["text"] == "4"
    called = []
    monkeypatch.setattr(module, "present_batch", lambda *_, positions, **__: called.append(positions.tolist()))
    view[[2, 0]]
    assert called == [[13, 4]] * len(SCHEMA)
    monkeypatch.setattr(module, "present_batch", present.present_batch)
    for read in (lambda: view[1], lambda: list(view)):
        with pytest.raises(CorruptSample, match="sample 9"):
            read()
