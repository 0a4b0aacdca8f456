"""What users may give for a sample, and what is refused, by name of field and number of sample."""

import io
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given as given_any
from hypothesis import strategies as st
from PIL import Image

import chunkstore as cs
from chunkstore.errors import SampleError
from chunkstore.kernels.columns import RaggedColumn
from chunkstore.writing.encode import encode_column, encode_value

GRID = np.arange(24, dtype="f4").reshape(4, 6)


def value(field: Any, given: Any) -> Any:
    return encode_value("x", field, given, 7)


def refused(field: Any, given: Any) -> str:
    with pytest.raises(SampleError) as caught:
        value(field, given)
    assert str(caught.value).startswith("field 'x', sample 7: ")
    return str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        GRID,
        np.asfortranarray(GRID),
        GRID.astype(">f4"),
        np.repeat(GRID, 2, axis=1)[:, ::2],
        GRID[::-1][::-1],
        GRID.tolist(),
        torch.from_numpy(GRID.copy()),
        torch.from_numpy(GRID.copy()).requires_grad_(),
        torch.from_numpy(GRID.T.copy()).T,
        GRID.astype("f2"),
    ],
)
def test_an_array_is_taken_however_it_lies_in_memory(given: Any) -> None:
    stored = value(cs.Array("float32", (4, 6)), given)
    assert stored.dtype == np.dtype("<f4")
    assert stored.dtype.isnative
    assert np.array_equal(stored, GRID)
    ragged = encode_column("x", cs.Ragged("float32", (None, 6)), [given, given], 0)
    assert isinstance(ragged, RaggedColumn)
    assert np.array_equal(ragged.values, np.concatenate([GRID.ravel()] * 2))


@pytest.mark.parametrize("dtype", ["uint64", "int64", "uint8", "int8"])
def test_integers_at_the_edges_of_a_dtype_are_exact(dtype: str) -> None:
    limits = np.iinfo(dtype)
    numbers = [int(limits.min), 1, int(limits.max)]
    assert value(cs.Array(dtype, (3,)), numbers).tolist() == numbers
    assert encode_column("x", cs.Array(dtype), numbers, 0).tolist() == numbers
    assert "does not fit" in refused(cs.Array(dtype), limits.max + 1)
    assert "does not fit" in refused(cs.Array(dtype), limits.min - 1)


@pytest.mark.parametrize(
    ("field", "given", "reason"),
    [
        (cs.Array("int64"), 1.5, "float where the schema says int64"),
        (cs.Array("int64"), True, "bool where"),
        (cs.Array("int64"), "3", "str where"),
        (cs.Array("int64"), None, "NoneType where"),
        (cs.Array("int64"), {}, "dict where"),
        (cs.Array("bool"), 1, "int where the schema says bool"),
        (cs.Array("int64"), np.float64(3), "dtype float64"),
        (cs.Array("int32"), np.int64(3), "dtype int64, the schema says int32; convert it first"),
        (cs.Array("float32", (2,)), np.zeros(2), "dtype float64"),
        (cs.Array("float32", (2,)), torch.zeros(2, dtype=torch.float64), "dtype float64"),
        (cs.Array("float32"), 1e300, "beyond float32"),
        (cs.Array("float16"), 70000, "beyond float16"),
        (cs.Array("float32", (2,)), np.zeros(3, "f4"), "shape (3,), the schema says (2,)"),
        (cs.Array("float32", (2,)), np.float32(0), "shape (), the schema says (2,)"),
        (cs.Array("float32", (2,)), [[1.0], [1.0, 2.0]], "inhomogeneous"),
        (cs.Array("uint64"), 1 << 64, "does not fit uint64"),
        (cs.Array("uint64", (2,)), [1.5, 2**63], "float where"),
        (cs.Array("bfloat16"), 1.0001, "bfloat16 does not hold exactly"),
        (cs.Array("bfloat16"), 1e300, "beyond bfloat16"),
        (cs.Array("bfloat16"), 2**24 + 1, "bfloat16 does not hold exactly"),
        (cs.Array("bfloat16"), np.float64(1), "dtype float64"),
        (cs.Ragged("float32", (None, 3)), np.zeros((2, 2), "f4"), "shape (2, 2), the schema says (None, 3)"),
        (cs.Ragged("float32"), np.float32(3), "shape ()"),
        (cs.Ragged("float32"), np.zeros(2, "i4"), "dtype int32"),
        (cs.Text(), b"text", "bytes where the schema says text"),
        (cs.Text(), "\ud800", "surrogates"),
        (cs.Bytes(), "bytes", "str where the schema says bytes"),
        (cs.Image("png"), b"", "empty"),
        (cs.Image("png"), b"not an image", "png"),
        (cs.Image("png"), 3, "int where the schema says png image"),
        (cs.Image("png"), np.zeros((4, 4), "f4"), "uint8"),
        (cs.Image("jpeg"), np.zeros((4, 4, 3), "u1"), "lossy"),
    ],
)
def test_what_would_change_or_does_not_fit_is_refused(field: Any, given: Any, reason: str) -> None:
    assert reason in refused(field, given)


def test_bytes_of_another_format_are_refused() -> None:
    png, jpeg = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (4, 4)).save(png, "PNG")
    Image.new("RGB", (4, 4)).save(jpeg, "JPEG")
    refused(cs.Image("jpeg"), png.getvalue())
    refused(cs.Image("webp"), jpeg.getvalue())
    refused(cs.Image("png"), png.getvalue()[:-5])
    assert value(cs.Image("png"), memoryview(png.getvalue())) == png.getvalue()
    assert value(cs.Image("jpeg"), bytearray(jpeg.getvalue())) == jpeg.getvalue()


@pytest.mark.parametrize(
    ("given"), [torch.tensor([1.5, -2.0], dtype=torch.bfloat16), np.array([1.5, -2], ml_dtypes.bfloat16)]
)
def test_bfloat16_is_taken_as_it_is(given: Any) -> None:
    assert value(cs.Array("bfloat16", (2,)), given).tolist() == [0x3FC0, 0xC000]
    assert encode_column("x", cs.Array("bfloat16", (2,)), [given], 0).tolist() == [[0x3FC0, 0xC000]]
    assert value(cs.Array("bfloat16", (2,)), [1.5, -2]).tolist() == [0x3FC0, 0xC000]


def test_nan_and_infinity_are_numbers() -> None:
    numbers = [float("nan"), float("inf"), -float("inf")]
    assert np.array_equal(value(cs.Array("float32", (3,)), numbers), np.array(numbers, "f4"), equal_nan=True)
    assert value(cs.Array("bfloat16", (3,)), numbers).tolist()[1:] == [0x7F80, 0xFF80]


@pytest.mark.parametrize(
    ("format", "mode"), [("png", "RGB"), ("png", "L"), ("png", "RGBA"), ("webp", "RGB"), ("webp", "RGBA")]
)
def test_arrays_tensors_and_pil_images_are_encoded_without_loss(tmp_path: Path, format: Any, mode: Any) -> None:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, *channels), np.uint8)
    with cs.create(tmp_path / "ds", {"x": cs.Image(format, mode=mode)}) as writer:
        writer.write_batch({"x": [pixels, Image.fromarray(pixels), torch.from_numpy(pixels), pixels[::-1]]})
        writer.write({"x": pixels})
    shown = cs.open(tmp_path / "ds")["x"][:]
    for image in [*shown[:3], shown[4]]:
        assert np.array_equal(image, pixels)
    assert np.array_equal(shown[3], pixels[::-1])


def test_a_quality_is_recorded_and_used(tmp_path: Path) -> None:
    pixels = np.kron(np.arange(64, dtype="u1").reshape(8, 8)[..., None], np.ones((4, 4, 3), "u1")) * 4
    sizes = {}
    for quality in (20, 90):
        with cs.create(tmp_path / str(quality), {"x": cs.Image("jpeg", quality=quality)}) as writer:
            writer.write({"x": pixels})
        ds = cs.open(tmp_path / str(quality), decode=False)
        assert ds.schema["x"].quality == quality
        sizes[quality] = len(ds[0]["x"])
        assert np.abs(cs.open(tmp_path / str(quality))[0]["x"].astype(int) - pixels).mean() < 20
    assert sizes[20] < sizes[90]


@pytest.mark.parametrize(
    ("field", "given", "culprit"),
    [
        (cs.Array("int64"), [1, 2, "x"], "sample 12"),
        (cs.Array("int64", (2,)), [[1, 2], [1, 2, 3]], "sample 11"),
        (cs.Array("float32"), [np.float32(1), np.float64(1)], "sample 11"),
        (cs.Array("float32", (2,)), np.zeros((4, 3), "f4"), "samples 10–13"),
        (cs.Array("float32", (2,)), np.zeros((4, 2)), "samples 10–13"),
        (cs.Ragged("int64"), [[1], [2], [[3]]], "sample 12"),
        (cs.Text(), ["a", 3], "sample 11"),
    ],
)
def test_in_a_column_the_sample_that_does_not_fit_is_named(field: Any, given: Any, culprit: str) -> None:
    with pytest.raises(SampleError, match=f"field 'x', {culprit}: "):
        encode_column("x", field, given, 10)


@pytest.mark.parametrize("given", [3, "abc", b"abc", None, {"a": 1}, iter([1]), {1}, frozenset([1])])
def test_a_column_is_a_sequence(given: Any) -> None:
    for field in (cs.Array("int64"), cs.Text(), cs.Ragged("int64")):
        with pytest.raises(SampleError, match="field 'x', sample 0: a sequence with one value a sample is needed"):
            encode_column("x", field, given, 0)


def test_columns_of_tensors_and_ragged_batches_are_taken() -> None:
    tensors = [torch.ones(2), torch.zeros(2)]
    assert encode_column("x", cs.Array("float32", (2,)), tensors, 0).tolist() == [[1, 1], [0, 0]]
    assert encode_column("x", cs.Array("float32", (2,)), torch.stack(tensors), 0).tolist() == [[1, 1], [0, 0]]
    batch = cs.RaggedBatch(np.arange(5, dtype="i8"), np.array([0, 2, 2, 5]))
    column = encode_column("x", cs.Ragged("int64"), batch, 0)
    assert isinstance(column, RaggedColumn)
    assert (column.values.tolist(), column.offsets.tolist()) == ([0, 1, 2, 3, 4], [0, 2, 2, 5])
    partial = encode_column("x", cs.Ragged("int64"), cs.RaggedBatch(np.arange(5), np.array([1, 2, 4])), 0)
    assert isinstance(partial, RaggedColumn)
    assert (partial.values.tolist(), partial.offsets.tolist()) == ([1, 2, 3], [0, 1, 3])


@pytest.mark.parametrize("field", [cs.Array("f4", (2, 3)), cs.Array("i8"), cs.Ragged("i8", (None, None)), cs.Text()])
def test_no_samples_are_a_column_too(field: Any) -> None:
    assert len(encode_column("x", field, [], 0)) == 0


RAGGED = {1: cs.Ragged("uint16"), 2: cs.Ragged("float32", (None, 3)), "many": cs.Ragged("int64", (None, 2, None))}
LINE, ROWS = np.arange(12, dtype="u2"), np.arange(18, dtype="f4").reshape(6, 3)
CUBES, SHAPES = np.arange(12), np.array([[1, 2, 3], [3, 2, 1]])


@pytest.mark.parametrize(
    ("kind", "values", "offsets", "shapes", "reason"),
    [
        (1, LINE, [0, 3, 13], None, "from 0 to 13, and there are 12 values"),
        (1, LINE, [-1, 3, 6], None, "from -1 to 6"),
        (1, LINE, [0, 5, 3, 6], None, "sample 11 goes from 5 to 3"),
        (1, LINE, np.array([0, 5, 3, 6], "u8"), None, "sample 11 goes from 5 to 3"),
        (1, LINE, [0, 5, 3, -1], None, "must ascend"),
        (1, LINE, np.array([0, 2**63], "u8"), None, "there are 12 values"),
        (1, LINE, [0.0, 6.0], None, "integers in 1"),
        (1, LINE, [False, True], None, "integers in 1"),
        (1, LINE, [[0, 1], [1, 2]], None, "integers in 1"),
        (1, LINE, [], None, "empty"),
        (1, LINE, ["a", "b"], None, "integers in 1"),
        (1, LINE.reshape(6, 2), [0, 6], None, r"values of shape \(6, 2\)"),
        (1, np.uint16(3), [0, 0], None, r"values of shape \(\)"),
        (1, LINE.astype("i8"), [0, 6], None, "dtype int64"),
        (2, LINE.astype("f4"), [0, 6], None, r"values of shape \(12,\)"),
        (2, ROWS[:, :2], [0, 6], None, r"values of shape \(6, 2\)"),
        (2, ROWS, [0, 7], None, "there are 6 values"),
        (2, ROWS.ravel(), [0, 6], [[2, 2]], "for 6 values"),
        (2, ROWS.ravel(), [0, 6], [[3, 2]], "for 6 values"),
        ("many", CUBES, [0, 6, 12], None, "need the shapes"),
        ("many", CUBES, [0, 6, 12], [[1, 2, 3], [3, 2, 2]], r"shape \(3, 2, 2\) for 6 values"),
        ("many", CUBES, [0, 6, 12], [[1, 2, 3], [2, 3, 1]], r"shape \(2, 3, 1\) for 6 values"),
        ("many", CUBES, [0, 6, 12], [[1, 2, 3], [-3, 2, -1]], r"shape \(-3, 2, -1\)"),
        ("many", CUBES, [0, 0], [[1 << 32, 2, 1 << 31]], "for 0 values"),
        ("many", CUBES, [0, 6, 12], [[1, 2, 3]], "are needed"),
        ("many", CUBES, [0, 6, 12], np.array(SHAPES, float), "integers in 2"),
        ("many", CUBES, [0, 6, 13], SHAPES, "there are 12 values"),
        ("many", CUBES.reshape(2, 6), [0, 1, 2], SHAPES, "1-D values"),
    ],
)  # fmt: skip
def test_a_ragged_batch_whose_parts_disagree_is_refused(
    kind: Any, values: Any, offsets: Any, shapes: Any, reason: str
) -> None:
    batch = cs.RaggedBatch(values, np.asarray(offsets) if len(offsets) else offsets, shapes)
    with pytest.raises(SampleError, match=r"field 'x', samples? 10(–\d+)?: .*" + reason):
        encode_column("x", RAGGED[kind], batch, 10)


@pytest.mark.parametrize("field", [cs.Array("uint16", (6,)), cs.Text(), cs.Bytes(), cs.Image("png")])
def test_a_ragged_batch_is_for_ragged_fields(field: Any) -> None:
    with pytest.raises(SampleError, match="field 'x', samples 3–4: a RaggedBatch where"):
        encode_column("x", field, cs.RaggedBatch(LINE, np.array([0, 6, 12])), 3)


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("start", [0, 2])
def test_a_ragged_batch_is_written_however_it_lies_in_memory(tmp_path: Path, make: Any, start: int) -> None:
    line, cubes = np.arange(24, dtype="i8")[::2], np.arange(24, dtype="i8")[::2]
    rows = np.arange(36, dtype="f4").reshape(3, 12).T[::1]
    schema = {"line": cs.Ragged("int64"), "rows": RAGGED[2], "cubes": RAGGED["many"], "flat": RAGGED[2]}
    offsets = np.array([start, start + 6, start + 10])
    shapes = np.array([[1, 2, 3], [2, 2, 1]])
    with cs.create(tmp_path / "ds", schema) as writer:
        for _ in range(2):
            writer.write_batch(
                {
                    "line": cs.RaggedBatch(make(line), make(offsets)),
                    "rows": cs.RaggedBatch(make(rows), make(offsets)),
                    "cubes": cs.RaggedBatch(make(cubes), make(offsets), make(shapes)),
                    "flat": cs.RaggedBatch(make(rows.ravel()), make([0, 6, 9]), make([[2, 3], [1, 3]])),
                }
            )
        writer.write_batch({name: [np.zeros((1, 2, 3)[: len(f.shape)], f.dtype)] for name, f in schema.items()} | {
            "rows": [rows[::2]], "line": [line[::3]], "flat": [rows[:2]]})  # fmt: skip
    shown = cs.open(tmp_path / "ds")[:]
    for i in range(4):
        here = slice(offsets[i % 2], offsets[i % 2 + 1])
        assert np.array_equal(shown["line"][i], line[here])
        assert np.array_equal(shown["rows"][i], rows[here])
        assert np.array_equal(shown["cubes"][i], cubes[here].reshape(shapes[i % 2]))
        assert np.array_equal(shown["flat"][i], (rows[:2], rows[2:3])[i % 2])
    assert np.array_equal(shown["rows"][4], rows[::2])
    assert np.array_equal(shown["line"][4], line[::3])


def test_a_ragged_batch_of_no_samples_or_no_values_is_taken() -> None:
    assert len(encode_column("x", RAGGED[1], cs.RaggedBatch([], [0]), 0)) == 0
    assert len(encode_column("x", RAGGED[2], cs.RaggedBatch(ROWS[:0], [0, 0, 0]), 0)) == 2
    assert len(encode_column("x", RAGGED["many"], cs.RaggedBatch(CUBES, [4, 4], [[9, 2, 0]]), 0)) == 1


def test_a_refused_ragged_batch_leaves_the_writer_usable(tmp_path: Path) -> None:
    with cs.create(tmp_path / "ds", {"x": cs.Ragged("uint16")}) as writer:
        for offsets in ([0, 13], np.array(3), []):
            with pytest.raises(SampleError):
                writer.write_batch({"x": cs.RaggedBatch(LINE, offsets)})
        writer.write_batch({"x": cs.RaggedBatch(LINE, [3, 5])})
    assert cs.open(tmp_path / "ds")[0]["x"].tolist() == [3, 4]


def test_one_sample_of_a_column_is_not_called_a_range() -> None:
    with pytest.raises(SampleError, match="field 'x', sample 4: "):
        encode_column("x", cs.Array("float32", (2,)), np.zeros((1, 2)), 4)


def test_a_column_that_gives_fewer_samples_than_it_says_is_refused() -> None:
    class Short(list[str]):
        def __len__(self) -> int:
            return 3

    with pytest.raises(SampleError, match="says it has 3 samples, and gives 1"):
        encode_column("x", cs.Text(), Short(["a"]), 0)


MASKED = np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0], dtype="f4")


@pytest.mark.parametrize(
    ("field", "given"),
    [
        (cs.Array("float32", (3,)), MASKED),
        (cs.Array("float32"), MASKED[1]),
        (cs.Array("float32"), np.ma.masked),
        (cs.Array("float32", (3,)), [1.0, np.ma.masked, 3.0]),
        (cs.Array("float32", (2, 3)), [MASKED, np.zeros(3, "f4")]),
        (cs.Array("float32", (1, 1, 3)), [[MASKED]]),
        (cs.Array("bfloat16", (3,)), MASKED),
        (cs.Ragged("float32"), MASKED),
        (cs.Ragged("float32"), list(MASKED)),
        (cs.Ragged("float32", (None, 3)), (MASKED,)),
        (cs.Image("png", mode="L"), np.ma.array(np.ones((2, 2), "u1"), mask=np.eye(2))),
    ],
)
def test_a_mask_is_never_lost(field: Any, given: Any) -> None:
    assert "fill or drop masked values first" in refused(field, given)
    with pytest.raises(SampleError, match=r"field 'x', sample 7: .*fill or drop masked values first"):
        encode_column("x", field, [given], 7)


def test_masked_columns_are_refused_and_arrays_without_a_masked_element_are_taken() -> None:
    free = np.ma.array([1.0, 2.0, 3.0], mask=False, dtype="f4")
    assert value(cs.Array("float32", (3,)), free).tolist() == [1, 2, 3]
    assert type(encode_column("x", cs.Array("float32"), free, 0)) is np.ndarray
    for field, given in [
        (cs.Array("float32"), MASKED),
        (cs.Ragged("float32"), cs.RaggedBatch(MASKED, np.array([0, 3]))),
        (cs.Ragged("float32"), cs.RaggedBatch(free, np.ma.array([0, 3], mask=[0, 1]))),
    ]:
        with pytest.raises(SampleError, match=r"field 'x', samples? 5.*: .*fill or drop masked values first"):
            encode_column("x", field, given, 5)


@pytest.mark.parametrize(
    ("field", "given", "reason"),
    [
        (cs.Array("float32"), 2**24 + 1, "16777217 is a number that float32 does not hold exactly"),
        (cs.Array("float32", (2,)), [0.5, 2**24 + 1], "float32 does not hold exactly"),
        (cs.Array("float16"), 2049, "float16 does not hold exactly"),
        (cs.Array("float64"), 2**53 + 1, "float64 does not hold exactly"),
        (cs.Array("float64", (2,)), [0.5, -(2**53) - 1], "float64 does not hold exactly"),
        (cs.Array("float64"), 2**64 - 1, "float64 does not hold exactly"),
        (cs.Array("bfloat16"), 257, "bfloat16 does not hold exactly"),
        (cs.Array("bfloat16"), 2**64 - 1, "bfloat16 does not hold exactly"),
        (cs.Array("float32", (2, 2)), [np.zeros(2), np.zeros(2)], "dtype float64"),
        (cs.Array("float32", (2, 2)), [[0.0, 1.0], np.zeros(2)], "dtype float64"),
        (cs.Array("float32", (2,)), [np.float64(0.1), 1.0], "dtype float64"),
        (cs.Array("float32", (2,)), [np.float32(1), np.float64(0.1)], "dtype float64"),
        (cs.Array("float32", (2, 2)), [torch.zeros(2, dtype=torch.float64)] * 2, "dtype float64"),
        (cs.Array("float32", (2,)), memoryview(np.zeros(2)), "dtype float64"),
        (cs.Ragged("float32"), [np.float64(0.1)], "dtype float64"),
        (cs.Ragged("int64"), [np.int64(-1), np.uint64(2**63)], "dtype uint64"),
        (cs.Array("int64", (2,)), [True, 2], "bool where the schema says int64"),
        (cs.Array("float32", (2,)), [True, 2.0], "bool where the schema says float32"),
        (cs.Array("float32", (2,)), [np.True_, 2.0], "dtype bool"),
        (cs.Array("bool", (2,)), [True, 0], "int where the schema says bool"),
        (cs.Array("float32", (2,)), torch.zeros(2, device="meta"), "meta"),
        (cs.Ragged("float32"), torch.zeros(2, device="meta"), "meta"),
        (cs.Image("png"), torch.zeros(2, 2, 3, dtype=torch.uint8, device="meta"), "meta"),
    ],
)
def test_lists_change_no_number_that_arrays_would_not(field: Any, given: Any, reason: str) -> None:
    assert reason in refused(field, given)
    with pytest.raises(SampleError, match="field 'x', sample 7: "):
        encode_column("x", field, [given], 7)


def test_lists_that_hold_themselves_are_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    refused(cs.Array("float32", (1,)), endless)


def test_numbers_within_lists_are_taken_where_exact() -> None:
    assert value(cs.Array("float32", (3,)), [2**24, -(2**24), 2**100]).tolist() == [2**24, -(2**24), 2**100]
    assert value(cs.Array("float64", (2,)), [2**53, float("inf")]).tolist() == [2**53, float("inf")]
    assert value(cs.Array("bfloat16", (2,)), [256, 0.5]).tolist() == [0x4380, 0x3F00]
    assert value(cs.Array("int64", (3,)), [np.int8(-1), 2, np.uint32(3)]).tolist() == [-1, 2, 3]
    assert value(cs.Array("float32", (2, 2)), [np.float32([1, 2]), [3, 4.5]]).tolist() == [[1, 2], [3, 4.5]]
    assert value(cs.Array("bfloat16", (2,)), [ml_dtypes.bfloat16(1.5), 2]).tolist() == [0x3FC0, 0x4000]
    assert value(cs.Ragged("int32"), range(3)).tolist() == [0, 1, 2]
    assert value(cs.Ragged("float32", (None, 3)), []).shape == (0, 3)
    assert value(cs.Array("float32"), 0.1) == np.float32(0.1)  # a Python float is rounded, as documented


@given_any(st.lists(st.one_of(st.integers(-(2**70), 2**70), st.floats(width=32)), max_size=6))
def test_a_list_into_floats_keeps_every_integer_or_is_refused(numbers: list[int | float]) -> None:
    for dtype in ("float32", "float64"):
        exact = all(isinstance(n, float) or int(np.dtype(dtype).type(n)) == n for n in numbers)
        if exact:
            stored = value(cs.Ragged(dtype), numbers)
            assert np.array_equal(stored, np.array(numbers, dtype), equal_nan=True)
        else:
            refused(cs.Ragged(dtype), numbers)
