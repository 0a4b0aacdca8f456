"""What other tools are given of an open dataset: zarr arrays, NumPy's indexing, dask's and xarray's laziness."""

import builtins
import pickle
from pathlib import Path
from typing import Any

import dask.array
import hypothesis
import numpy as np
import pytest
import xarray
import zarr
from conftest import Location
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recording_store import RecordingStore
from zarr_writers import WRITERS, copy_into, example, writers_warnings_ignored

import chunkstore as cs
from chunkstore.store.location import open_store

ROWS = 24
VOLUME = np.arange(ROWS * 4 * 6, dtype="float32").reshape(ROWS, 4, 6)
SCHEMA = {
    "volume": cs.Array("float32", (4, 6), chunk=(4, 2, 3)),
    "label": cs.Array("int64"),
    "half": cs.Array("bfloat16", (2,)),
    "tokens": cs.Ragged("uint16"),
    "caption": cs.Text(),
}


def fill(url: Any, storage_options: dict[str, Any] | None = None) -> None:
    options = {"storage_options": storage_options}
    with cs.create(url, SCHEMA, **options) as writer:
        writer.write_batch(columns(slice(0, 10)))
    with cs.append(url, **options) as writer:
        writer.write_batch(columns(slice(10, ROWS)))


def columns(rows: slice) -> dict[str, Any]:
    count = len(VOLUME[rows])
    return {
        "volume": VOLUME[rows],
        "label": np.arange(ROWS)[rows],
        "half": np.ones((count, 2), "float32"),
        "tokens": [np.arange(3, dtype="uint16")] * count,
        "caption": ["a"] * count,
    }


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("views") / "data"
    fill(folder)
    return folder


@pytest.fixture
def ds(url: Path) -> cs.Dataset:
    return cs.open(url)


def test_zarr_gives_an_array_a_fragment_on_every_store(location: Location) -> None:
    fill(location.url, location.storage_options)
    ds = cs.open(location.url, storage_options=location.storage_options)
    arrays = ds["volume"].zarr()
    assert [array.shape for array in arrays] == [(10, 4, 6), (14, 4, 6)]
    assert all(isinstance(array, zarr.Array) and array.read_only for array in arrays)
    assert (np.concatenate([array[:] for array in arrays]) == VOLUME).all()
    assert (arrays[1][3:7, ::2, 5] == VOLUME[13:17, ::2, 5]).all()
    assert arrays[0].metadata.dimension_names == ("sample", "volume_1", "volume_2")
    with pytest.raises(cs.errors.ReadOnlyStore, match="chunkstore"):
        arrays[0][0] = 1
    assert (pickle.loads(pickle.dumps(arrays[1]))[2] == VOLUME[12]).all()  # noqa: S301
    assert (dask.array.from_zarr(arrays[0]).sum().compute(scheduler="synchronous")) == VOLUME[:10].sum()


def test_zarr_of_plain_zarr_is_the_array_itself(location: Location, tmp_path: Path) -> None:
    arrays = {"volume": example()["volume"]}
    for name in ("zarr_3_sharded", "zarr_2", "tensorstore_3_sharded"):
        WRITERS[name](tmp_path / name, arrays)
        copy_into(tmp_path / name, location.open(), f"{name}/")
        ds = cs.open(f"{location.url}/{name}", storage_options=location.storage_options)
        (array,) = ds["volume"].zarr()
        assert (array[:] == arrays["volume"]).all()
        assert (array.oindex[[3, 1], 2] == arrays["volume"][[3, 1], 2]).all()


def test_an_object_that_is_absent_is_an_error_to_zarr_too(tmp_path: Path) -> None:
    fill(tmp_path / "data")
    arrays = cs.open(tmp_path / "data")["volume"].zarr()
    for shard in tmp_path.glob("data/fragments/*/0/volume/c/0/0/0"):
        shard.unlink()
    with pytest.raises(cs.errors.MissingObject, match="volume/c/0/0/0"):
        arrays[0][:]


def test_stored_arrays_are_given_of_whole_fixed_fields_only(ds: cs.Dataset) -> None:
    assert ds.select("volume", "label").slice(volume=slice(0, 1))["label"].zarr()[0].shape == (10,)
    assert ds["half"].zarr()[0].dtype == np.uint16
    for view in (ds.filter([1, 2]), ds.slice(volume=slice(0, 1))):
        with pytest.raises(ValueError, match="not a view of it"):
            view["volume"].zarr()
    with pytest.raises(cs.errors.SchemaError, match="several arrays"):
        ds["tokens"].zarr()


def test_a_fixed_field_tells_what_an_array_tells(ds: cs.Dataset) -> None:
    view = ds["volume"]
    assert (view.shape, view.ndim, view.dtype, len(view)) == ((ROWS, 4, 6), 3, np.dtype("float32"), ROWS)
    assert view.dims == ("sample", "volume_1", "volume_2")
    assert (ds["label"].shape, ds["label"].dims, ds["label"].dtype) == ((ROWS,), ("sample",), np.dtype("int64"))
    assert ds["half"].dtype == ds["half"][:].dtype == np.float32
    assert ds.filter([1, 4]).slice(volume=(..., slice(2, 4)))["volume"].shape == (2, 4, 2)
    assert (np.asarray(view) == VOLUME).all()
    assert np.asarray(view, "float64").dtype == np.float64
    with pytest.raises(ValueError, match="copy"):
        np.asarray(view, copy=False)


@pytest.mark.parametrize("name", ["tokens", "caption"])
def test_a_field_of_differing_samples_says_that_it_is_no_array(name: str, ds: cs.Dataset) -> None:
    for asked in ("shape", "ndim", "dtype", "dims"):
        with pytest.raises(AttributeError, match=f"only an Array has '{asked}'"):
            getattr(ds[name], asked)
    with pytest.raises(TypeError, match="make no array"):
        np.asarray(ds[name])
    with pytest.raises(IndexError, match="no axes"):
        ds[name][1, 2]


def keys() -> st.SearchStrategy[tuple[Any, ...]]:
    def axis(n: int) -> st.SearchStrategy[Any]:
        bounds = st.none() | st.integers(-n - 2, n + 2)
        slices = st.builds(slice, bounds, bounds, st.sampled_from([None, 1, 2, 3, -1, -2]))
        return st.integers(-n, n - 1) | slices

    def lists(n: int) -> st.SearchStrategy[Any]:
        return st.lists(st.integers(-n, n - 1), min_size=3, max_size=3)

    plain = [axis(n) for n in VOLUME.shape]
    some_list = st.tuples(axis(ROWS) | lists(ROWS), axis(4) | lists(4), axis(6) | lists(6))
    shorter = st.integers(0, 3).flatmap(lambda k: st.tuples(*plain[:k]))
    dotted = st.tuples(plain[0], st.just(...), plain[2]) | st.tuples(st.just(...), plain[2]) | st.just((...,))
    return some_list | shorter | dotted


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@hypothesis.example(key=(0, slice(None), [0, 1, 0]))
@hypothesis.example(key=(0, slice(None, 0, -1), [0, 0, 1]))
@given(key=keys())
def test_tuples_index_as_numpy_indexes(key: tuple[Any, ...], ds: cs.Dataset) -> None:
    expected = VOLUME[key]
    found = ds["volume"][key]
    assert np.shape(found) == expected.shape
    assert np.array_equal(found, expected)


def test_impossible_indices_are_refused_as_numpy_refuses_them(ds: cs.Dataset) -> None:
    for key in [(0, 0, 0, 0), (0, 4), (0, -5), (ROWS,), (..., ...), (None, 0), (0, "a")]:
        with pytest.raises(IndexError):
            ds["volume"][key]


def test_a_tuple_reads_only_the_chunks_that_it_touches(url: Path) -> None:
    store = RecordingStore(open_store(url))
    ds = cs.open(store)
    ds["volume"][0, 0, 0]  # opens the part
    shard = {o.key for o in store.of("read_ranges") if "volume" in o.key}
    store.forget()
    fresh = cs.open(store)
    assert fresh["volume"][5, 3, 4] == VOLUME[5, 3, 4]
    data = [o for o in store.of("read_ranges") if o.key in shard]
    assert len(data) <= 2  # the index and one chunk
    assert not [o for o in store.operations if "label" in o.key and "/c/" in o.key]


def test_dask_reads_what_it_computes(url: Path) -> None:
    store = RecordingStore(open_store(url))
    ds = cs.open(store)
    store.forget()
    lazy = dask.array.from_array(ds["volume"], chunks=(5, 4, 3))
    again = dask.array.from_array(cs.open(url)["volume"], chunks=(5, 4, 3))
    assert lazy.name == again.name
    assert not [o for o in store.operations if "/c/" in o.key]
    assert (lazy[3:20, 1:, ::2].compute(scheduler="synchronous") == VOLUME[3:20, 1:, ::2]).all()
    assert float(lazy.mean().compute(scheduler="threads")) == pytest.approx(VOLUME.mean())
    assert dask.array.from_array(ds.filter([1, 2])["volume"]).name != dask.array.from_array(ds["volume"]).name


def test_xarray_shows_fixed_fields_and_reads_when_asked(url: Path) -> None:
    store = RecordingStore(open_store(url))
    ds = cs.open(store)
    store.forget()
    shown = ds.to_xarray()
    assert set(shown.variables) == {"volume", "label", "half"}
    assert dict(shown.sizes) == {"sample": ROWS, "volume_1": 4, "volume_2": 6, "half_1": 2}
    assert shown.attrs == {"url": ds.url, "version": ds.version}
    repr(shown)
    chosen = shown["volume"].isel(sample=[5, 3, 3], volume_2=slice(None, None, -2), volume_1=[0, 2])
    assert not store.operations
    assert (chosen.values == VOLUME[[5, 3, 3]][:, [0, 2]][..., ::-2]).all()
    assert not [o for o in store.operations if "label" in o.key and "/c/" in o.key]
    pointwise = shown["volume"].isel(
        sample=xarray.DataArray([1, 23], dims="p"), volume_1=xarray.DataArray([0, 3], dims="p")
    )
    assert (pointwise.values == VOLUME[[1, 23], [0, 3]]).all()
    assert float(shown["volume"].isel(sample=slice(2, 5)).sum()) == VOLUME[2:5].sum()
    assert (shown["volume"].isel(volume_2=2, sample=-1).values == VOLUME[-1, :, 2]).all()
    assert shown.chunk(sample=7)["label"].sum().compute(scheduler="synchronous") == np.arange(ROWS).sum()


def test_xarray_shows_views_as_they_are(ds: cs.Dataset) -> None:
    shown = ds.select("volume", "label").filter(np.arange(ROWS) % 3 == 0).slice(volume=(slice(1, 3),)).to_xarray()
    assert (shown["volume"].values == VOLUME[::3, 1:3]).all()
    assert shown["label"].values.tolist() == list(range(0, ROWS, 3))
    with pytest.raises(cs.errors.SchemaError, match="no field is an Array"):
        ds.select("tokens").to_xarray()


def test_xarray_of_plain_zarr_has_its_dimensions_again(tmp_path: Path) -> None:
    original = xarray.Dataset(
        {
            "image": (("time", "y", "x"), np.ones((6, 4, 5), "uint8")),
            "wind": (("time", "y"), np.arange(24.0).reshape(6, 4)),
        }
    )
    with writers_warnings_ignored():
        original.to_zarr(tmp_path / "zarr")
    ds = cs.open(tmp_path / "zarr")
    xarray.testing.assert_equal(ds.to_xarray().drop_attrs(), original)
    shown = ds.slice(image=(slice(0, 2),)).to_xarray()  # y has two lengths now, and xarray wants one of a name
    assert (shown["image"].dims, shown["wind"].dims) == (("time", "y", "x"), ("time", "wind_1"))


def test_without_xarray_the_error_says_how_to_get_it(ds: cs.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    real = builtins.__import__

    def refuse(name: str, *args: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == "xarray":
            raise ImportError("No module named 'xarray'")
        return real(name, *args)

    monkeypatch.delitem(sys.modules, "chunkstore.reading.xarray_view", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match="pip install xarray"):
        ds.to_xarray()


def test_to_xarray_reads_nothing_but_what_xarray_makes_indexes_of(tmp_path: Path) -> None:
    data = {"a": (("t", "x"), np.arange(120.0).reshape(40, 3)), "t": np.arange(40)}
    with writers_warnings_ignored():
        xarray.Dataset(data).to_zarr(tmp_path / "zarr", zarr_format=2)
    store = RecordingStore(open_store(tmp_path / "zarr"))
    ds = cs.open(store)
    store.forget()
    lazy = ds.select("a").to_xarray()
    assert not store.operations
    view = ds.to_xarray()
    assert {o.key.split("/")[0] for o in store.operations} == {"t"}
    assert (view["a"].sel(t=7).values == lazy["a"][7].values).all()
