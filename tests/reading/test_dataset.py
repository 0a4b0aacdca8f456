"""Reading: every way to ask gives what a NumPy array would, from any thread, process or store."""

import multiprocessing
import operator
import os
import pickle
import shutil
import signal
import tempfile
import traceback
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import chunkstore as cs
from chunkstore.errors import ForkedLoader, MissingObject, ObjectChanged, SchemaError, VersionExpired
from chunkstore.format.documents import seal
from chunkstore.format.versions import tombstone_to_json, version_key
from chunkstore.reading import present
from chunkstore.store import fetch
from chunkstore.store.location import open_store

N = 500
LABELS = np.arange(N) * 3
LENGTHS = np.random.default_rng(0).integers(0, 6, N)
SCHEMA = {
    "label": cs.Array("int64"),
    "grid": cs.Array("float32", (2, 3)),
    "tokens": cs.Ragged("int32"),
    "text": cs.Text(),
}


def columns(start: int, stop: int) -> dict[str, Any]:
    rows = range(start, stop)
    return {
        "label": LABELS[start:stop],
        "grid": np.stack([np.full((2, 3), i, "f4") for i in rows]),
        "tokens": [np.full(LENGTHS[i], i, "i4") for i in rows],
        "text": [str(i) for i in rows],
    }


def write(location: Any) -> cs.Dataset:
    options = {"storage_options": location.storage_options or None}
    with cs.create(location.url, SCHEMA, **options) as writer:
        writer.write_batch(columns(0, 200))
    for start, stop in [(200, 201), (201, N)]:
        with cs.append(location.url, **options) as writer:
            writer.write_batch(columns(start, stop))
    return cs.open(location.url, **options)


@pytest.fixture(scope="module")
def ds(tmp_path_factory: pytest.TempPathFactory) -> cs.Dataset:
    class Local:
        url, storage_options = str(tmp_path_factory.mktemp("read") / "ds"), None

    return write(Local)


def assert_rows(batch: dict[str, Any], rows: list[int]) -> None:
    assert batch["label"].tolist() == LABELS[rows].tolist()
    assert batch["grid"][:, 1, 2].tolist() == rows
    assert batch["grid"].shape == (len(rows), 2, 3)
    assert batch["text"] == [str(i) for i in rows]
    assert [t.tolist() for t in batch["tokens"]] == [[i] * LENGTHS[i] for i in rows]


MASK = np.random.default_rng(1).random(N) < 0.1
KEYS: list[Any] = [
    slice(None),
    slice(190, 210),
    slice(-3, None),
    slice(None, None, -7),
    slice(400, 100, -1),
    slice(5, 5),
    [5, 3, 3, -1, 250, 199, 200, 201],
    [1, 2, 0],
    np.array([499, 0], np.uint16),
    [],
    MASK,
    MASK.tolist(),
    np.zeros(N, bool),
]


@pytest.mark.parametrize("key", KEYS, ids=range(len(KEYS)))
def test_a_batch_is_what_numpy_would_choose(ds: cs.Dataset, key: Any) -> None:
    rows = np.arange(N)[np.asarray(key, np.int64) if isinstance(key, list) and not key else key].tolist()
    assert_rows(ds[key], rows)
    assert ds["label"][key].tolist() == LABELS[rows].tolist()
    assert ds["text"][key] == [str(i) for i in rows]


def test_a_sample_is_a_dict_of_plain_values(ds: cs.Dataset) -> None:
    for index, row in [(7, 7), (-1, N - 1), (np.int32(200), 200), (np.array(3), 3), (-N, 0)]:
        sample = ds[index]
        assert list(sample) == list(SCHEMA)
        assert isinstance(sample["label"], np.int64)
        assert (sample["label"], sample["text"]) == (LABELS[row], str(row))
        assert sample["tokens"].tolist() == [row] * LENGTHS[row]
        assert sample["grid"].shape == (2, 3)
    assert [s["text"] for s in ds.__getitems__([4, 499, 4])] == ["4", "499", "4"]


@pytest.mark.parametrize(
    "key", [N, -N - 1, [0, N], [-N - 1], 1.5, [0.5], [[0, 1]], [True, False], None, ["a", 1], [1, [2]]]
)
def test_what_is_not_there_is_an_index_error(ds: cs.Dataset, key: Any) -> None:
    with pytest.raises(IndexError):
        ds[key]


@pytest.mark.parametrize("key", [(5, 3), (), (0,), (slice(None), 1)])
def test_a_dataset_has_no_axes_and_says_who_has(ds: cs.Dataset, key: Any) -> None:
    with pytest.raises(IndexError, match=r"has no axes to index: .*ds\['field'\]\["):
        ds[key]


def test_what_no_index_is_is_told_by_its_dtype_and_shape(ds: cs.Dataset) -> None:
    with pytest.raises(IndexError, match=r"not by an array of dtype object and shape \(500,\)$"):
        ds[np.array([True] * N, object)]


def test_one_sample_is_found_as_several_are(ds: cs.Dataset) -> None:
    view = ds.filter(MASK)
    assert view.positions(2).tolist() == view.positions([2]).tolist() == [np.flatnonzero(MASK)[2]]
    assert view.sample_ids(-1).tolist() == view.sample_ids([-1]).tolist()
    for index in (500, -501, 2**70):
        with pytest.raises(IndexError, match=f"sample {index} of a dataset of 500"):
            ds.positions(index)


def test_a_field_is_asked_for_by_its_name(ds: cs.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ds.field("label")[3:5].tolist() == ds["label"][3:5].tolist()
    with pytest.raises(KeyError, match="no field 'x'; the fields are"):
        ds.field("x")
    monkeypatch.setattr(cs.Dataset, "read", None)  # none of these reads
    assert "label" in ds
    assert "x" not in ds
    assert "text" not in ds.select("label")
    with pytest.raises(TypeError, match="not for a int"):
        assert 7 in ds


def test_arguments_that_are_none_are_named(ds: cs.Dataset) -> None:
    for version in ("1", True, 1.0, np.True_):
        with pytest.raises(ValueError, match="version="):
            cs.open(ds.url, version=version)  # type: ignore[arg-type]
    assert cs.open(ds._store, version=np.int64(ds.version)).version == ds.version  # type: ignore[arg-type]
    for seed in (1.5, None, "0"):
        with pytest.raises(ValueError, match="seed="):
            ds.split({"a": 0.5}, seed=seed)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"fraction '0\.5' of 'a'"):
        ds.split({"a": "0.5"})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match=r"select\(\['label'\]\).*one by one"):
        ds.select(["label"])  # type: ignore[arg-type]


def test_a_field_is_compared_once_it_is_read(ds: cs.Dataset) -> None:
    label = ds["label"]
    for compare in (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge):
        with pytest.raises(TypeError, match=r"ds\['label'\]\[:\]"):
            ds[compare(label, 2)]
        with pytest.raises(TypeError, match=r"ds\['label'\]\[:\]"):
            compare(2, label)
    assert {label: 1}[label] == 1
    assert label in [label]


@pytest.mark.parametrize("dtype", ["bfloat16", "ragged"])
def test_samples_that_are_read_together_are_presented_once(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    with cs.create(url, {"x": cs.Ragged("bfloat16") if dtype == "ragged" else cs.Array("bfloat16", (3,))}) as writer:
        writer.write_batch({"x": [np.full(3, i, "f4") for i in range(64)]})
    converted, real = [], present.bfloat16_to_float32
    monkeypatch.setattr(present, "bfloat16_to_float32", lambda bits: (converted.append(bits.size), real(bits))[1])
    samples = cs.open(url).__getitems__(list(range(63, -1, -1)))
    assert [s["x"].tolist() for s in samples] == [[i] * 3 for i in range(63, -1, -1)]
    assert converted == [3 * 64]


def test_a_field_has_no_fields(ds: cs.Dataset) -> None:
    name = next(iter(ds.schema))
    with pytest.raises(IndexError, match="samples, not fields"):
        ds[name][name]


def test_fields_and_views(ds: cs.Dataset) -> None:
    view = ds.select("text", "label")
    assert (list(view.schema), len(view), list(view[3])) == (["text", "label"], N, ["text", "label"])
    assert set(view.statistics) == {"text", "label"}
    assert ds["text"][3] == "3"
    assert len(ds["text"]) == N
    assert ds["text"].type == cs.Text()
    with pytest.raises(KeyError, match="no field 'nothing'; the fields are label, grid"):
        ds["nothing"]
    with pytest.raises(SchemaError, match="no field 'nothing'"):
        ds.select("nothing")
    with pytest.raises(KeyError):
        view["grid"]
    assert "samples=500" in repr(ds)
    assert "Text()" in repr(ds["text"])


def test_a_view_reads_no_other_field(ds: cs.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = set()
    real = fetch._fetch
    monkeypatch.setattr(fetch, "_fetch", lambda store, request: (keys.add(request.key), real(store, request))[1])
    cs.open(ds.url).select("label")[:]
    assert {key.split("/")[3] for key in keys} == {"label"}


def test_all_stores_give_the_same(location: Any) -> None:
    ds = write(location)
    assert_rows(ds[:], list(range(N)))
    assert_rows(ds[[300, 200, 7, 7]], [300, 200, 7, 7])
    assert ds[201]["text"] == "201"


def test_eight_threads_read_at_random_and_agree(ds: cs.Dataset) -> None:
    fresh = cs.open(ds.url)

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(15):
            rows = rng.integers(0, N, 20)
            assert_rows(fresh[rows], rows.tolist())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(16)))


def read_there(pickled: bytes) -> list[Any]:
    there: cs.Dataset = pickle.loads(pickled)  # noqa: S301  (our own bytes)
    return [there.version, there["text"][[3, 1]], list(there.schema)]


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_a_dataset_travels_to_a_spawned_process(kind: str, request: pytest.FixtureRequest) -> None:
    location = request.getfixturevalue(kind)
    ds = write(location)
    old = cs.open(location.url, version=2, storage_options=location.storage_options or None).select("text", "label")
    old[0]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(read_there, [pickle.dumps(old)]) == [2, ["3", "1"], ["text", "label"]]
        assert pool.apply(read_there, [pickle.dumps(ds)]) == [3, ["3", "1"], list(SCHEMA)]


def in_fork(work: Callable[[], None]) -> int:
    """Run in a forked child, with a deadline; its exit code."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("num_samples", [100, 10])
def test_what_was_pickled_is_not_applied_to_another_dataset(tmp_path: Path, num_samples: int) -> None:
    url = str(tmp_path / "ds")
    numbers(url, 100)
    view = cs.open(url).filter([3, 50, 99])
    things = [view, view["x"], cs.Loader(view, batch_size=1), cs.Loader(url, batch_size=1)]
    pickled = [pickle.dumps(thing) for thing in things]
    assert pickle.loads(pickled[0])["x"][:].tolist() == [3, 50, 99]  # noqa: S301  (our own bytes)
    shutil.rmtree(url)
    numbers(url, num_samples)
    for data in pickled:
        with pytest.raises(ObjectChanged, match=f"was dataset {view.uuid} .* is {cs.open(url).uuid} now"):
            pickle.loads(data)  # noqa: S301


def numbers(url: str, num_samples: int) -> None:
    with cs.create(url, {"x": cs.Array("int64")}) as writer:
        writer.write_batch({"x": np.arange(num_samples)})


def test_a_used_local_dataset_works_in_a_forked_child(ds: cs.Dataset) -> None:
    fresh = cs.open(ds.url)
    fresh[3]
    assert in_fork(lambda: assert_rows(fresh[[3, 499]], [3, 499])) == 0
    assert_rows(fresh[[4]], [4])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_used_s3_dataset_says_so_in_a_forked_child(s3: Any) -> None:
    ds = write(s3)
    ds[3]

    def work() -> None:
        with pytest.raises(ForkedLoader):
            ds[4]

    assert in_fork(work) == 0
    assert ds[4]["text"] == "4"


@pytest.mark.parametrize("told_by", ["tombstone", "condemned", "nothing"])
@pytest.mark.parametrize("read", ["first", "again", "lengths"])
def test_a_version_that_gc_drops_while_it_is_read_is_told_from_a_lost_object(
    memory: Any, told_by: str, read: str
) -> None:
    ds, store = write(memory), open_store(memory.url)
    if read == "again":
        ds[0]
    latest = ds.version_document
    if told_by == "tombstone":
        store.write(version_key(3), seal(tombstone_to_json(3)))
    elif told_by == "condemned":
        store.write(version_key(4), seal(replace(latest, number=4, parent=3, condemned_versions=(3,)).to_json()))
    store.delete([key for key, *_ in store.list("fragments")])
    with pytest.raises(MissingObject if told_by == "nothing" else VersionExpired) as caught:
        ds.read_lengths("tokens", np.array([[300, 310]])) if read == "lengths" else ds[300]
    if told_by != "nothing":
        assert "version 3 was dropped by gc while it was being read" in str(caught.value)
        assert isinstance(caught.value.__cause__, MissingObject)


NAMES = "bool int8 int64 uint16 uint64 float16 float32 float64".split()
FIELDS = st.one_of(
    st.builds(
        cs.Array,
        st.sampled_from(NAMES),
        st.lists(st.integers(0, 4), max_size=3).map(tuple),
        codec=st.sampled_from(["auto", None, "zstd-1", "blosc-lz4"]),
        shard=st.sampled_from([None, 4]),
    ),
    st.builds(
        cs.Ragged,
        st.sampled_from(NAMES),
        st.sampled_from([(None,), (None, 2), (None, None), (2, None, 1), (None, 0)]),
        codec=st.sampled_from(["auto", None, "gzip-1"]),
        chunk=st.sampled_from([None, 2]),
        shard=st.sampled_from([None, 8]),
    ),
    st.builds(cs.Text, codec=st.sampled_from(["auto", None])),
    st.just(cs.Bytes()),
)


def random_value(rng: np.random.Generator, field: Any) -> Any:
    if isinstance(field, cs.Text):
        return "".join(rng.choice(["a", "é", "漢", "🎈"], rng.integers(0, 6)))
    if isinstance(field, cs.Bytes):
        return rng.bytes(int(rng.integers(0, 9)))
    shape = tuple(int(rng.integers(0, 5)) if n is None else n for n in field.shape)
    raw = rng.integers(0, 256, (*shape, np.dtype(field.dtype).itemsize), np.uint8)
    if field.dtype == "bool":
        return (raw[..., 0] & 1).astype(bool)
    with np.errstate(all="ignore"):
        return raw.view(field.dtype)[..., 0]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(FIELDS, min_size=1, max_size=3), st.lists(st.integers(0, 12), min_size=1, max_size=3), st.data())
def test_any_schema_and_any_data_come_back_as_a_model_has_them(fields: list[Any], sizes: list[int], data: Any) -> None:
    schema = {f"f{i}": field for i, field in enumerate(fields)}
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    model: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        url = str(Path(folder) / "ds")
        for i, size in enumerate(sizes):
            added = [{name: random_value(rng, field) for name, field in schema.items()} for _ in range(size)]
            with cs.create(url, schema) if i == 0 else cs.append(url) as writer:
                for sample in added[: size // 2]:
                    writer.write(sample)
                writer.write_batch({name: [sample[name] for sample in added[size // 2 :]] for name in schema})
            model += added
        ds = cs.open(url)
        assert len(ds) == len(model)
        for _ in range(3):
            slices, last = st.slices(len(model)), len(model) - 1
            key = data.draw(slices | st.lists(st.integers(0, last), max_size=8) if model else slices)
            rows = range(len(model))[key] if isinstance(key, slice) else key
            batch = ds[key]
            for name, field in schema.items():
                shown = list(batch[name])
                assert len(shown) == len(rows)
                for value, row in zip(shown, rows, strict=True):
                    expected = model[row][name]
                    if isinstance(field, cs.Text | cs.Bytes):
                        assert value == expected
                    else:
                        assert np.asarray(value).dtype == expected.dtype
                        assert np.asarray(value).shape == expected.shape
                        assert np.asarray(value).tobytes() == expected.tobytes()
