"""Field types are checked when made, equal by value, and come back from their stored form."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import chunkstore as cs
from chunkstore.errors import InvalidDataset, SchemaError, UnsupportedFormat
from chunkstore.format.documents import parse_json, to_bytes
from chunkstore.format.schema import Schema, dimension_names, dtype_name, stored_dtype

DTYPES = st.sampled_from("bool int8 int64 uint16 float16 float64 bfloat16".split())
LENGTHS = st.integers(0, 9)
STORAGE = {
    "codec": st.sampled_from(["auto", None, "zstd-3", "blosc-lz4"]),
    "chunk": st.sampled_from([None, 1, 64]),
    "shard": st.sampled_from([None, 64, 128]),
    "block_nbytes": st.sampled_from([None, 1000]),
}
FIELDS = st.one_of(
    st.builds(cs.Array, DTYPES, st.lists(LENGTHS, max_size=4).map(tuple), **STORAGE),
    st.builds(cs.Ragged, DTYPES, st.lists(LENGTHS, max_size=2).map(lambda s: (None, *s)), **STORAGE),
    st.builds(cs.Image, st.just("webp"), st.sampled_from(["L", "RGB", "RGBA"]), st.sampled_from([None, 50]), **STORAGE),
    st.builds(cs.Text, **STORAGE),
    st.builds(cs.Bytes, st.sampled_from([None, "audio/flac"]), **STORAGE),
)


def read(stored: Any) -> Schema:
    return Schema.from_json(parse_json(to_bytes(stored), "schema"))


@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9]{0,4}", fullmatch=True), FIELDS, min_size=1, max_size=4))
def test_a_schema_comes_back_from_its_stored_form(fields: dict[str, Any]) -> None:
    schema = Schema(fields)
    again = read(schema.to_json())
    assert again == schema
    assert (hash(again), list(again), repr(again)) == (hash(schema), list(schema), repr(schema))
    assert again.same_types(schema)


def test_a_field_reads_as_it_was_written() -> None:
    assert repr(cs.Array("float32", (2, 3))) == "Array('float32', shape=(2, 3))"
    assert repr(cs.Image("jpeg", codec=None)) == "Image('jpeg', codec=None)"
    assert repr(cs.Text()) == "Text()"
    assert eval(repr(cs.Ragged("int8", (None, 3), chunk=4)), vars(cs)) == cs.Ragged("int8", (None, 3), chunk=4)  # noqa: S307


@pytest.mark.parametrize(
    ("given", "name"),
    [("float32", "float32"), (np.float32, "float32"), (np.dtype(">i2"), "int16"), (torch.bfloat16, "bfloat16"),
     (torch.uint8, "uint8"), (bool, "bool"), (float, "float64"), (int, "int64"), ("f2", "float16")],
)  # fmt: skip
def test_a_dtype_is_taken_by_any_of_its_names(given: Any, name: str) -> None:
    assert dtype_name(given) == name
    assert cs.Array(given).dtype == name


@pytest.mark.parametrize(
    "dtype", ["complex64", "S3", "datetime64[ns]", object, "float128", "nonsense", "str", None.__class__]
)
def test_other_dtypes_are_refused(dtype: Any) -> None:
    with pytest.raises(SchemaError, match="is none of bool, int8"):
        cs.Array(dtype)


@pytest.mark.parametrize(
    "make",
    [
        lambda: cs.Array("int8", (-1,)),
        lambda: cs.Array("int8", (None,)),
        lambda: cs.Array("int8", (True,)),
        lambda: cs.Array("int8", (1.0,)),
        lambda: cs.Array("int8", (1 << 50,)),
        lambda: cs.Array("int8", (1,) * 17),
        lambda: cs.Array("int8", "abc"),
        lambda: cs.Ragged("int8", (3,)),
        lambda: cs.Array("int8", chunk=3),
        lambda: cs.Array("int8", (4,), chunk=(2,)),
        lambda: cs.Array("int8", (4,), chunk=(2, 0)),
        lambda: cs.Array("int8", (4,), chunk=(3, 2)),
        lambda: cs.Ragged("int8", chunk=(4,)),
        lambda: cs.Array("int8", shard=0),
        lambda: cs.Array("int8", block_nbytes=0),
        lambda: cs.Array("int8", block_nbytes=4.5),
        lambda: cs.Array("int8", block_nbytes=float("inf")),
        lambda: cs.Array("int8", block_nbytes=True),
        lambda: cs.Array("int8", block_nbytes=np.int64(4096)),
        lambda: cs.Text(block_nbytes="4096"),
        lambda: cs.Array("int8", codec="lzma"),
        lambda: cs.Array("int8", codec="zstd-99"),
        lambda: cs.Text(codec="auto-3"),
        lambda: cs.Image("gif"),
        lambda: cs.Image("jpeg", mode="RGBA"),
        lambda: cs.Image("png", quality=3),
        lambda: cs.Image("jpeg", quality=0),
        lambda: cs.Image("jpeg", quality=True),
        lambda: cs.Bytes(media_type="flac"),
    ],
)
def test_a_field_that_cannot_be_stored_is_refused(make: Any) -> None:
    with pytest.raises(SchemaError):
        make()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"": cs.Text()},
        {"a/b": cs.Text()},
        {"..": cs.Text()},
        {"é": cs.Text()},
        {"a" * 129: cs.Text()},
        {3: cs.Text()},
        {"sample": cs.Text()},
        {"zarr.json": cs.Text()},
        {"a": cs.Text(), "A": cs.Text()},
        {"a": cs.Text(), "a_value": cs.Array("int8")},
        {"a": cs.Array("int8", (3,)), "a_1": cs.Array("int8")},
        {"a": "int8"},
        {"a": cs.Array},
    ],
    ids=range(14),
)
def test_a_schema_that_cannot_be_stored_is_refused(fields: Any) -> None:
    with pytest.raises(SchemaError):
        Schema(fields)


@pytest.mark.parametrize(
    "stored",
    [
        {},
        {"a": {}},
        {"a": {"type": "array"}},
        {"a": {"type": "array", "dtype": "int8", "shape": [-1]}},
        {"a": {"type": "array", "dtype": "int8", "shape": [[]]}},
        {"a": {"type": "array", "dtype": "int8", "shape": 3.5}},
        {"a": {"type": "array", "dtype": ["int8"], "shape": []}},
        {"a": {"type": "array", "dtype": "int8", "shape": [], "unknown": 1}},
        {"a": {"type": "array", "dtype": "int8", "shape": [], "codec": 3}},
        {"a": {"type": "array", "dtype": "int8", "shape": [], "shard": "4"}},
        {"a": {"type": "array", "dtype": "int8", "shape": [], "block_nbytes": "4"}},
        {"a": {"type": "image", "format": {}, "mode": "RGB"}},
        {"a": {"type": "bytes", "media_type": 3}},
        {"../a": {"type": "text"}},
        [],
    ],
    ids=range(15),
)
def test_a_damaged_stored_form_is_an_invalid_dataset(stored: Any) -> None:
    with pytest.raises(InvalidDataset):
        read(stored)


def test_an_unknown_type_asks_for_an_upgrade() -> None:
    with pytest.raises(UnsupportedFormat, match="field type 'video' is not known to this release"):
        read({"a": {"type": "video"}})


def test_storage_does_not_make_types_differ() -> None:
    one, two = Schema({"a": cs.Array("int8")}), Schema({"a": cs.Array("int8", codec="zstd", chunk=4)})
    assert one != two
    assert one.same_types(two)
    assert not one.same_types(Schema({"a": cs.Array("int16")}))
    assert not one.same_types(Schema({"b": cs.Array("int8")}))


def test_stored_dtypes_and_dimension_names() -> None:
    assert stored_dtype(cs.Array("bfloat16")) == np.dtype("<u2")
    assert stored_dtype(cs.Text()) == np.dtype("u1")
    assert dimension_names("x", cs.Array("int8", (2, 3))) == ("x_1", "x_2")
    assert dimension_names("x", cs.Ragged("int8", (None, 3))) == ("x_value", "x_span", "x_rank")
    assert dimension_names("x", cs.Text()) == ("x_value", "x_span")


def test_selecting_keeps_the_order_asked_for() -> None:
    schema = Schema({"a": cs.Text(), "b": cs.Bytes()})
    assert list(schema.select(("b", "a"))) == ["b", "a"]
    with pytest.raises(SchemaError, match="no field 'c'; the fields are a, b"):
        schema.select(("c",))
