"""Object lists and array metadata that claim what cannot be: sizes of 2^63, keys that lead away, grids that do not fit."""

from collections.abc import Callable
from functools import partial
from typing import Any

from hostile.forgery import NUM_SAMPLES, OBJECTS, Case, Forgery

_GROUP = "/0/zarr.json"

Forge = Callable[[Forgery], object]


def _key(key: str) -> Forge:
    return lambda forged: forged.objects["objects"].update({key: [1, "00000000"]})


def _listed(value: Any) -> Forge:
    return lambda forged: forged.objects["objects"].update({"label/c/0": value})


def _many_objects(forged: Forgery) -> None:
    """Name 10,000 objects that are not there."""
    forged.objects["objects"].update({f"label/c/{i}": [1, "00000000"] for i in range(10_000)})


def _shapes(path: str, *, shape: list[int], shard: list[int], chunk: list[int]) -> Forge:
    return lambda forged: forged.shapes(path, shape=shape, shard=shard, chunk=chunk)


def _array(path: str, **members: Any) -> Forge:
    return lambda forged: forged.array(path).update(members)


def _without(path: str, member: str) -> Forge:
    return lambda forged: forged.array(path).pop(member)


def _sharding(path: str, **members: Any) -> Forge:
    return lambda forged: forged.sharding(path).update(members)


def _codec(path: str, codec: Any) -> Forge:
    return lambda forged: forged.sharding(path)["codecs"].__setitem__(1, codec)


def _nested_codecs(forged: Forgery) -> None:
    """Shards within shards, 1,000 deep."""
    codec = forged.array("label")["codecs"][0]
    for _ in range(150):  # each is three levels of JSON; Python's parser ends before 1,000
        codec = {"name": "sharding_indexed", "configuration": {**codec["configuration"], "codecs": [codec]}}
    forged.array("label")["codecs"] = [codec]


def _nested_text(forged: Forgery) -> None:
    deep = b'{"name":"sharding_indexed","configuration":{"codecs":[' * 1000 + b"]}}" * 1000
    forged.body["part"] = lambda body: body.replace(b'"codecs":[', b'"codecs":[' + deep + b",", 1)


def _many_dimensions(many: int) -> Forge:
    def forge(forged: Forgery) -> None:
        forged.shapes("label", shape=[NUM_SAMPLES] + [1] * many, shard=[8] + [1] * many, chunk=[8] + [1] * many)
        forged.array("label")["dimension_names"] = ["sample"] + [f"d{i}" for i in range(many)]

    return forge


def _claimed(path: str, shape: list[int], shard: list[int], chunk: list[int], field_shape: list[int]) -> Forge:
    """Make schema and array agree on rows that no shard of some hundred bytes can hold."""

    def forge(forged: Forgery) -> None:
        forged.version["schema"][path]["shape"] = field_shape
        forged.shapes(path, shape=[NUM_SAMPLES, *shape], shard=[8, *shard], chunk=[8, *chunk])
        key = "/0" * len(shape)
        old = next(k for k in forged.objects["objects"] if k.startswith(f"{path}/c/0"))
        stored = forged.files.pop(f"{forged.path}/{old}")
        del forged.objects["objects"][old]
        forged.put(f"{path}/c/0{key}", stored)
        forged.array(path)["dimension_names"] = ["sample", *(f"{path}_{i + 1}" for i in range(len(shape)))]

    return forge


def _listed_large(forged: Forgery) -> None:
    _claimed("gz", [1 << 47], [1 << 47], [1 << 26], [1 << 47])(forged)
    forged.objects["objects"]["gz/c/0/0"][0] = 1 << 50


def _samples_without_data(forged: Forgery) -> None:
    """Let documents and arrays agree that there are 2^40 samples."""
    many = 1 << 40
    forged.fragment["samples"] = many
    forged.version["next_sample_id"] = many
    for array in forged.group["consolidated_metadata"]["metadata"].values():
        if array["node_type"] == "array" and array["dimension_names"][0] == "sample":
            array["shape"][0] = many
            array["chunk_grid"]["configuration"]["chunk_shape"][0] = many


_HUGE = {
    "2^63": 1 << 63,
    "2^64 - 1": (1 << 64) - 1,
    "10^400": 10**400,
    "-1": -1,
    "-2^63": -(1 << 63),
    "1.5": 1.5,
    "a string": "6",
    "null": None,
    "nested": [[[6]]],
}

_KEYS = {
    "../../../etc/passwd": "above the dataset",
    "label/../../../zarr.json": "above the part",
    "/etc/passwd": "absolute",
    "label//c": "with an empty segment",
    "label/./c": "with a dot",
    "label/c/0\0": "with a NUL",
    "label\\c": "with a backslash",
    "file:///etc/passwd": "a URL",
    "label/c/" + "x" * (64 << 10): "of 64 KiB",
    "label/c/é": "beyond ASCII",
    "": "empty",
    "label/c/0\n": "with a newline",
    "a/" * 5_000 + "a": "of 5,001 segments",
}

_CODECS: dict[str, tuple[Any, str]] = {
    "unknown": ({"name": "numcodecs.pickle", "configuration": {}}, "UnsupportedFormat"),
    "a number": (7, "InvalidDataset"),
    "a name of 1 MB": ({"name": "x" * (1 << 20)}, "UnsupportedFormat"),
    "zstd of level 2^63": ({"name": "zstd", "configuration": {"level": 1 << 63}}, "InvalidDataset"),
    "zstd without configuration": ({"name": "zstd"}, "InvalidDataset"),
    "gzip of level -1": ({"name": "gzip", "configuration": {"level": -1}}, "InvalidDataset"),
    "blosc of typesize 0": (
        {"name": "blosc", "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "typesize": 0}},
        "InvalidDataset",
    ),
    "blosc of a plug-in": (
        {"name": "blosc", "configuration": {"cname": "openzl", "clevel": 5, "shuffle": "shuffle", "typesize": 2}},
        "InvalidDataset",
    ),
    "transpose": ({"name": "transpose", "configuration": {"order": [1, 0]}}, "UnsupportedFormat"),
}

_LIST = partial(Case, told=OBJECTS)
_META = partial(Case, told=_GROUP)

CASES = [
    *(_LIST(f"a listed key {told}", _key(key)) for key, told in _KEYS.items()),
    *(_LIST(f"a listed size of {name}", _listed([value, "00000000"])) for name, value in _HUGE.items()),
    Case(
        "a listed size of 2^62",
        _listed([1 << 62, "00000000"]),
        error="StoreError CorruptChunk InvalidDataset",
        told="label/c/0",
    ),
    Case("a listed size of 0", _listed([0, "00000000"]), told="/label"),
    _LIST("a listed size alone", _listed(40)),
    _LIST("three things listed of an object", _listed([40, "00000000", 0])),
    _LIST("a checksum of 9 digits", _listed([40, "000000000"])),
    _LIST("a shard not listed", lambda forged: forged.objects["objects"].pop("label/c/0")),
    _LIST("no zarr.json listed", lambda forged: forged.objects["objects"].pop("zarr.json")),
    Case("10,000 objects that no array has", _many_objects, told=OBJECTS),
    _LIST("objects in a list", lambda forged: forged.objects.update(objects=[])),
    *(_META(f"an array's length of {name}", _array("label", shape=[value])) for name, value in _HUGE.items()),
    *(
        _META(
            f"a shard's length of {name}",
            lambda forged, v=value: forged.shapes("label", shape=[NUM_SAMPLES], shard=[v], chunk=[8]),
        )
        for name, value in {**_HUGE, "0": 0}.items()
    ),
    *(
        _META(f"a chunk's length of {name}", _sharding("label", chunk_shape=[value]))
        for name, value in {**_HUGE, "0": 0}.items()
    ),
    *(_META(f"a codec: {name}", _codec("lz", codec), error=error) for name, (codec, error) in _CODECS.items()),
    _META(
        "a shape that wraps around 2^64",
        _shapes("vector", shape=[NUM_SAMPLES, 1 << 32, 1 << 32], shard=[8, 1 << 32, 1 << 32], chunk=[8, 1, 1]),
    ),
    _META("a chunk of 2^62 bytes", _shapes("label", shape=[NUM_SAMPLES], shard=[1 << 59], chunk=[1 << 59])),
    _META(
        "a chunk whose bytes wrap around 2^64",
        _shapes("vector", shape=[NUM_SAMPLES, 3, 5], shard=[1 << 62, 1 << 62, 4], chunk=[1 << 62, 1 << 62, 4]),
    ),
    _META("2^62 chunks in a shard", _shapes("label", shape=[NUM_SAMPLES], shard=[1 << 62], chunk=[1])),
    _META(
        "shards that a row is spread over",
        _shapes("vector", shape=[NUM_SAMPLES, 3, 5], shard=[8, 1, 5], chunk=[8, 1, 5]),
        error="UnsupportedFormat",
    ),
    Case(
        "2^24 chunks in a shard of 54 bytes",
        _shapes("label", shape=[NUM_SAMPLES], shard=[1 << 27], chunk=[8]),
        told="/label",
    ),
    Case(
        "another length than the version's",
        _shapes("label", shape=[NUM_SAMPLES - 1], shard=[8], chunk=[8]),
        told="label",
    ),
    Case("another dtype than the schema's", _array("label", data_type="float64"), told="label"),
    Case("rows of 2^47 bytes in 100", _claimed("gz", [1 << 47], [1 << 47], [1 << 26], [1 << 47]), told="gz"),
    Case("rows of 2^31 bytes in 100", _claimed("gz", [1 << 31], [1 << 31], [1 << 26], [1 << 31]), told="gz"),
    Case(
        "rows of 2^144 bytes in 100", _claimed("gz", [1 << 47] * 3, [1 << 47] * 3, [1 << 9] * 3, [1 << 47] * 3), told=""
    ),
    Case("a chunk of 2 GiB in 100 bytes", _claimed("gz", [1 << 27], [1 << 27], [1 << 27], [1 << 27]), told="gz"),
    Case(
        "rows of 2^47 bytes in a shard that is listed as 2^50",
        _listed_large,
        error="StoreError InvalidDataset",
        told="gz",
    ),
    Case("samples without data", _samples_without_data, told="label", act="sample"),
    Case("17 dimensions of one number", _many_dimensions(16), told="/label"),
    _META("10,001 dimensions", _many_dimensions(10_000)),
    _META("codecs nested 150 deep", _nested_codecs),
    _META("codecs nested 1,000 deep", _nested_text),
    _META("no codecs", _array("label", codecs=[])),
    _META("10^5 codecs", lambda forged: forged.sharding("lz").update(codecs=[{"name": "bytes"}] * 100_000)),
    _META("no dimension names", _without("label", "dimension_names")),
    _META("dimension names that are numbers", _array("label", dimension_names=[7])),
    _META("a dimension name of 1 MB", _array("label", dimension_names=["d" * (1 << 20)])),
    _META("dimension names that contradict", _array("vector", dimension_names=["sample", "sample", "sample"])),
    _META("data type object", _array("label", data_type="object")),
    _META("data type r64", _array("label", data_type="r64")),
    _META("data type a structure", _array("label", data_type={"name": "structured", "configuration": {}})),
    _META("zarr_format 2", _array("label", zarr_format=2)),
    _META("zarr_format true", _array("label", zarr_format=True)),
    _META("node_type neither", _array("label", node_type="link")),
    _META("the index at the start", _sharding("label", index_location="start")),
    _META("an index without checksum", lambda forged: forged.sharding("label")["index_codecs"].pop()),
    _META("an index in zstd", lambda forged: forged.sharding("label")["index_codecs"].insert(1, {"name": "zstd"})),
    _META("big-endian", lambda forged: forged.sharding("label")["codecs"][0]["configuration"].update(endian="big")),
    _META(
        "keys of another encoding",
        _array("label", chunk_key_encoding={"name": "v2", "configuration": {"separator": "."}}),
    ),
    _META(
        "keys separated by ..",
        lambda forged: forged.array("label")["chunk_key_encoding"]["configuration"].update(separator="/../"),
    ),
    _META("an irregular grid", _array("label", chunk_grid={"name": "rectangular", "configuration": {}})),
    _META(
        "a storage transformer", _array("label", storage_transformers=[{"name": "rot13"}]), error="UnsupportedFormat"
    ),
    Case(
        "an array missing",
        lambda forged: forged.group["consolidated_metadata"]["metadata"].pop("tokens/spans"),
        told="spans",
    ),
    Case("no consolidated metadata", lambda forged: forged.group.pop("consolidated_metadata"), told=_GROUP),
    Case("chunks that nothing checks", lambda forged: forged.sharding("lz")["codecs"].pop(), told=_GROUP),
]
