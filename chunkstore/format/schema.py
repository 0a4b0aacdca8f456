"""The schema: which fields a sample has, and of what type.

Field types are values: what the data are, and, where someone insists, how they are stored. They know their JSON form and the
NumPy dtype of what is stored; converting user input is `writing/encode.py`'s work, choosing chunks `layout.py`'s. No I/O.

Source: docs/spec/v1.md, "Schema".
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np

from chunkstore.errors import SchemaError, UnsupportedFormat
from chunkstore.format.documents import Json, Node

ImageFormat = Literal["jpeg", "png", "webp"]
ImageMode = Literal["RGB", "L", "RGBA"]

CODECS = ("auto", "blosc-lz4", "blosc-zstd", "zstd", "gzip")
_CODEC = re.compile(r"auto|(blosc-lz4|blosc-zstd|zstd|gzip)(-[0-9]{1,2})?")
_MAX_LEVELS = {"blosc-lz4": 9, "blosc-zstd": 9, "zstd": 22, "gzip": 9}
_NUMBERS = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split()
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_MAX_RANK = 16
MAX_FIELDS = 4096
"""Fields of a schema. More values of one kind are one `Array` field."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class _Storage:
    """How a field is stored, where its writer insists; None and "auto" leave it to `layout.py`.

    Attributes:
        codec: "auto", None (as the values are), or one of blosc-lz4, blosc-zstd, zstd, gzip, with a level: "zstd-3".
        chunk: Inner chunk: samples, or for `Array` the full (samples, *shape); for ragged fields, values. A power of two.
        shard: Samples (values) of a shard, a power of two and a multiple of the chunk's.
        block_nbytes: What a block, the unit of shuffling and reading, should hold.
    """

    codec: str | None = "auto"
    chunk: int | tuple[int, ...] | None = None
    shard: int | None = None
    block_nbytes: int | None = None

    def __repr__(self) -> str:
        own = [f for f in fields(self) if getattr(self, f.name) != f.default]
        positional = [f.name for f in own if f.default is MISSING]
        told = [
            repr(getattr(self, f.name)) if f.name in positional else f"{f.name}={getattr(self, f.name)!r}" for f in own
        ]
        return f"{type(self).__name__}({', '.join(sorted(told, key=lambda t: '=' in t))})"

    def _check_storage(self) -> None:
        if self.codec is not None and not (isinstance(self.codec, str) and _CODEC.fullmatch(self.codec)):
            raise SchemaError(
                f"unknown codec {self.codec!r}; one of None, {', '.join(CODECS)}, or with a level: 'zstd-3'"
            )
        name, _, level = (self.codec or "").rpartition("-")
        if level.isdigit() and int(level) > _MAX_LEVELS[name]:
            raise SchemaError(f"codec {self.codec!r}: {name} has levels up to {_MAX_LEVELS[name]}")
        rows = self.chunk[0] if isinstance(self.chunk, tuple) and self.chunk else self.chunk
        for name, value in (("chunk", rows), ("shard", self.shard)):
            if value is not None and not _is_power_of_two(value):
                raise SchemaError(f"{name}={value!r}: a power of two is needed, so that chunks, shards and blocks nest")
        if self.block_nbytes is not None and not (type(self.block_nbytes) is int and self.block_nbytes >= 1):
            raise SchemaError(f"block_nbytes={self.block_nbytes!r}: an int of at least 1 is needed")


@dataclass(frozen=True, slots=True, repr=False)
class Array(_Storage):
    """A field of one dtype and shape: `cs.Array("float32", (768,))`.

    Attributes:
        dtype: bool, (u)int8–64, float16/32/64 or "bfloat16"; anything NumPy or torch calls by that name is taken.
        shape: Shape of one sample; () for a scalar.
    """

    dtype: str
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", dtype_name(self.dtype))
        object.__setattr__(self, "shape", _shape(self.shape, allow_none=False))
        object.__setattr__(self, "chunk", tuple(self.chunk) if isinstance(self.chunk, list) else self.chunk)
        self._check_storage()
        if isinstance(self.chunk, tuple) and (
            len(self.chunk) != 1 + len(self.shape) or not all(type(n) is int and n >= 1 for n in self.chunk)
        ):
            raise SchemaError(
                f"chunk={self.chunk!r}: (samples, *shape) of {1 + len(self.shape)} positive integers is needed"
            )


@dataclass(frozen=True, slots=True, repr=False)
class Ragged(_Storage):
    """A field whose samples differ in length: `cs.Ragged("uint16")`, `cs.Ragged("float32", (None, 3))`.

    Attributes:
        dtype: As for `Array`.
        shape: Shape of one sample, with None for each dimension that differs from sample to sample.
    """

    dtype: str
    shape: tuple[int | None, ...] = (None,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", dtype_name(self.dtype))
        object.__setattr__(self, "shape", _shape(self.shape, allow_none=True))
        if None not in self.shape:
            raise SchemaError(f"Ragged shape {self.shape} has no None; use Array for a fixed shape")
        _check_ragged_storage(self)


@dataclass(frozen=True, slots=True, repr=False)
class Image(_Storage):
    """Encoded images: the bytes that came are kept. `cs.Image("jpeg")`.

    An array or PIL image given is encoded without loss (png, webp) or with `quality` (jpeg, webp), which the schema records.

    Attributes:
        format: "jpeg", "png" or "webp".
        mode: What decoding gives: "RGB" (height, width, 3), "L" (height, width), "RGBA" (height, width, 4), all uint8.
        quality: 1–100 for arrays that are to be encoded with loss; None: lossless, or refused (jpeg).
    """

    format: ImageFormat
    mode: ImageMode = "RGB"
    quality: int | None = None

    def __post_init__(self) -> None:
        if self.format not in get_args(ImageFormat) or self.mode not in get_args(ImageMode):
            raise SchemaError(
                f"Image({self.format!r}, mode={self.mode!r}): formats are {', '.join(get_args(ImageFormat))}; "
                f"modes are {', '.join(get_args(ImageMode))}"
            )
        if self.format == "jpeg" and self.mode == "RGBA":
            raise SchemaError("Image('jpeg', mode='RGBA'): JPEG has no alpha channel; use mode='RGB', or png or webp")
        if self.quality is not None and (
            self.format == "png" or type(self.quality) is not int or not 1 <= self.quality <= 100
        ):
            raise SchemaError(f"quality={self.quality!r}: 1 to 100, for jpeg and webp only (png has no loss)")
        _check_ragged_storage(self)


@dataclass(frozen=True, slots=True, repr=False)
class Text(_Storage):
    """Strings, stored as UTF-8."""

    def __post_init__(self) -> None:
        _check_ragged_storage(self)


@dataclass(frozen=True, slots=True, repr=False)
class Bytes(_Storage):
    """Byte strings of any content: audio, video, anything.

    Attributes:
        media_type: What the bytes are, for those who read them: "audio/flac".
    """

    media_type: str | None = None

    def __post_init__(self) -> None:
        if self.media_type is not None and not re.fullmatch(
            r"[A-Za-z0-9_.+-]{1,64}/[A-Za-z0-9_.+-]{1,64}", self.media_type
        ):
            raise SchemaError(f"media_type={self.media_type!r}: a name like 'audio/flac' is needed")
        _check_ragged_storage(self)


Field = Array | Ragged | Image | Text | Bytes
_TYPES: dict[str, type[Field]] = {"array": Array, "ragged": Ragged, "image": Image, "text": Text, "bytes": Bytes}
_TYPE_NAMES = {cls: name for name, cls in _TYPES.items()}


class Schema(Mapping[str, Field]):
    """The fields of a dataset, by name, in order. Immutable; equal when names and types are.

    Names are `[A-Za-z0-9][A-Za-z0-9_.-]*`, since they become keys in the store.

    Raises:
        SchemaError: no field, a name that cannot be stored, or something that is not a field type.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, Field]) -> None:
        if not fields:
            raise SchemaError("a schema needs at least one field: {'x': cs.Array('float32', (3,))}")
        if len(fields) > MAX_FIELDS:
            raise SchemaError(
                f"{len(fields)} fields; at most {MAX_FIELDS} are possible: make an Array of those of a kind"
            )
        for name, field in fields.items():
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise SchemaError(
                    f"field name {name!r}: letters, digits, '_', '.', '-' are allowed, the first a letter or digit, at most 128"
                )
            if name in ("sample", "zarr.json"):
                raise SchemaError(f"field name {name!r} is taken by the format; choose another")
            if type(field) not in _TYPE_NAMES:
                raise SchemaError(
                    f"field {name!r}: {field!r} is no field type; use cs.Array, Ragged, Image, Text or Bytes"
                )
        dimensions = {d for name, field in fields.items() for d in dimension_names(name, field)}
        if clash := sorted(dimensions.intersection(fields)):
            raise SchemaError(
                f"field name {clash[0]!r} is also the name of a dimension of another field; choose another"
            )
        if len({name.casefold() for name in fields}) != len(fields):
            raise SchemaError("two field names differ in case only, which not every store keeps apart")
        self._fields = dict(fields)

    def __getitem__(self, name: str) -> Field:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __hash__(self) -> int:
        return hash(tuple(self._fields.items()))

    def __repr__(self) -> str:
        return "Schema({\n" + "".join(f"    {name!r}: {field!r},\n" for name, field in self._fields.items()) + "})"

    def same_types(self, other: "Schema") -> bool:
        """Whether both have the same fields of the same types, however stored."""
        return {n: field_to_json(f, storage=False) for n, f in self.items()} == {
            n: field_to_json(f, storage=False) for n, f in other.items()
        }

    def select(self, names: tuple[str, ...]) -> "Schema":
        """The schema of some fields, in the order asked for.

        Raises:
            SchemaError: a name is not here.
        """
        if unknown := [name for name in names if name not in self._fields]:
            raise SchemaError(f"no field {unknown[0]!r}; the fields are {', '.join(self._fields)}")
        return Schema({name: self._fields[name] for name in names})

    def to_json(self) -> dict[str, Json]:
        """The stored form."""
        return {name: field_to_json(field) for name, field in self._fields.items()}

    @classmethod
    def from_json(cls, node: Node) -> "Schema":
        """Read the stored form.

        Raises:
            InvalidDataset: it is damaged.
            UnsupportedFormat: a field is of a type this release does not know.
        """
        if isinstance(node.value, dict) and len(node.value) > MAX_FIELDS:
            node.fail(f"{len(node.value)} fields; at most {MAX_FIELDS} are read")
        try:
            return cls({name: _field_from_json(member) for name, member in node.members()})
        except SchemaError as error:
            node.fail(str(error))


def field_to_json(field: Field, *, storage: bool = True) -> Json:
    """A field type's stored form; without how it is stored, when `storage` is False."""
    result: dict[str, Json] = {"type": _TYPE_NAMES[type(field)]}
    hints = {f.name: f.default for f in fields(_Storage)}
    for f in fields(field):
        value = getattr(field, f.name)
        if f.name in hints and (not storage or value == hints[f.name]):
            continue
        if f.name in ("quality", "media_type") and value is None:
            continue
        result[f.name] = list(value) if isinstance(value, tuple) else value
    return result


def _field_from_json(node: Node) -> Field:
    name = node.member("type").string()
    if name not in _TYPES:
        raise UnsupportedFormat(
            f"{node.where}: field type {name[:60]!r} is not known to this release; upgrade chunkstore"
        )
    cls = _TYPES[name]
    known = {f.name for f in fields(cls)}
    arguments: dict[str, Any] = {}
    for key, member in node.members():
        if key == "type":
            continue
        if key not in known:
            node.fail(f"{key!r} is not known for a field of type {name}")
        if key == "dtype":
            member.choice(*_NUMBERS, "bfloat16")  # a user may spell it otherwise, a document may not
        if key == "shape":
            member.items(at_most=_MAX_RANK)
        arguments[key] = tuple(member.value) if isinstance(member.value, list) else member.value
    try:
        return cls(**arguments)
    except (TypeError, SchemaError) as error:
        node.fail(str(error))


def dtype_name(dtype: object) -> str:
    """The Zarr name of a dtype given as a string, a NumPy or a torch dtype.

    Raises:
        SchemaError: it is not one of Zarr's core data types (or bfloat16).
    """
    text = str(dtype).removeprefix("torch.")
    if text in (*_NUMBERS, "bfloat16"):
        return text
    try:
        text = np.dtype(dtype).name  # type: ignore[call-overload]
    except TypeError:
        text = str(dtype)
    if text not in (*_NUMBERS, "bfloat16"):
        raise SchemaError(f"dtype {dtype!r} is none of {', '.join(_NUMBERS)}, bfloat16")
    return text


def stored_dtype(field: Field) -> np.dtype[Any]:
    """The little-endian NumPy dtype of a field's stored values; bfloat16 is stored as uint16, encoded fields as uint8."""
    if isinstance(field, Array | Ragged):
        return np.dtype("uint16" if field.dtype == "bfloat16" else field.dtype).newbyteorder("<")
    return np.dtype("uint8")


def dimension_names(name: str, field: Field) -> tuple[str, ...]:
    """The dimension names of a field's arrays, besides `sample`: each name has one length in a part."""
    if isinstance(field, Array):
        return tuple(f"{name}_{i + 1}" for i in range(len(field.shape)))
    rank = (f"{name}_rank",) if has_shapes(field) else ()
    return (f"{name}_value", f"{name}_span", *rank)


def has_shapes(field: Field) -> bool:
    """Whether a field stores the shape of each sample: ragged ones of more than one dimension."""
    return isinstance(field, Ragged) and len(field.shape) > 1


def _shape(shape: object, *, allow_none: bool) -> tuple[Any, ...]:
    if isinstance(shape, int):
        shape = (shape,)
    if not isinstance(shape, tuple | list) or len(shape) > _MAX_RANK:
        raise SchemaError(f"shape {shape!r}: a tuple of at most {_MAX_RANK} lengths is needed")
    for n in shape:
        if not ((n is None and allow_none) or (type(n) is int and 0 <= n < 1 << 48)):
            raise SchemaError(f"shape {tuple(shape)!r}: {n!r} is no length")
    return tuple(shape)


def _check_ragged_storage(field: "Ragged | Image | Text | Bytes") -> None:
    field._check_storage()
    if isinstance(field.chunk, tuple | list):
        raise SchemaError(
            f"chunk={field.chunk!r}: a ragged field's values are one-dimensional; give a number of values"
        )


def _is_power_of_two(value: object) -> bool:
    return type(value) is int and 1 <= value < 1 << 40 and value & (value - 1) == 0
