"""A reader written from docs/spec/v1.md alone: no chunkstore, only the standard library, NumPy and numcodecs' decompressors.

It opens a dataset in a local folder and gives every value of every field, verifying what section 14 of the spec lists. It is
slow, reads everything, and shares nothing with the package, so that what both agree on is what the spec says.
"""

import gzip
import json
import math
import re
import zlib
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import product
from pathlib import Path

import numcodecs
import numcodecs.blosc
import numcodecs.zstd
import numpy as np

DTYPES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split()
KEY = re.compile(r"[A-Za-z0-9_.-]{1,200}(/[A-Za-z0-9_.-]{1,200})*")
ABSENT = 2**64 - 1


class Refused(Exception):
    """The dataset is not as the spec says."""


def expect(condition, problem):
    if not condition:
        raise Refused(problem)


@dataclass
class Contents:
    """A version: its document, and for each field a list with one value a sample."""

    document: dict
    fields: dict[str, list] = field(default_factory=dict)


def read_dataset(root: Path, number: int | None = None) -> Contents:
    """Every value of version `number`, or of the latest.

    Values are arrays (bfloat16: as uint16 bits), str, bytes; images are the stored bytes.
    """
    document = read_version(root, latest_number(root) if number is None else number)
    contents = Contents(document, {name: [] for name in document["schema"]})
    for fragment in document["fragments"]:
        held = [name for part in fragment["parts"] for name in part["fields"]]
        expect(len(set(held)) == len(held) and set(document["schema"]) <= set(held), "fields of a fragment")
        for part in fragment["parts"]:
            expect(re.fullmatch(f"fragments/{fragment['id']}/[0-9a-z]{{1,32}}", part["path"]), "path of a part")
            opened = Part(root / part["path"], part["objects"])
            for name in part["fields"]:
                if name in document["schema"]:
                    contents.fields[name] += opened.read(name, document["schema"][name], fragment["samples"])
    return contents


# Section 2: documents


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def table_entry(n: int) -> int:
    for _ in range(8):
        n = (n >> 1) ^ (0x82F63B78 if n & 1 else 0)  # 0x1EDC6F41, its bits reversed
    return n


TABLE = [table_entry(n) for n in range(256)]


def unseal(data: bytes):
    frame = re.fullmatch(rb'\{"crc32c":"([0-9a-f]{8})","document":(.*)\}', data, re.DOTALL)
    expect(frame, "frame of a document")
    expect(int(frame[1], 16) == crc32c(frame[2]), "checksum of a document")
    return strict_json(frame[2])


def strict_json(data: bytes):
    def unique(pairs):
        expect(len(dict(pairs)) == len(pairs), "an object has a key twice")
        return dict(pairs)

    def refuse(constant):
        raise Refused(constant)

    return json.loads(data.decode(), object_pairs_hook=unique, parse_constant=refuse)


# Sections 8 and 9: versions


def latest_number(root: Path) -> int:
    try:
        number = unseal((root / "_chunkstore/latest.json").read_bytes())["number"]
    except (FileNotFoundError, Refused):
        number = 1
    if not version_path(root, number).exists():
        number = 1
    expect(version_path(root, number).exists(), "no dataset")
    while version_path(root, number + 1).exists():
        number += 1
    return number


def version_path(root: Path, number: int) -> Path:
    return root / f"_chunkstore/versions/{number:020d}.json"


def read_version(root: Path, number: int):
    document = unseal(version_path(root, number).read_bytes())
    expect(document["format"] == 1, "format")
    expect(document["requires"] in ([], ["pages"]), "requires")
    if document["requires"]:
        listed = [fragment for ref in document.get("pages", []) for fragment in read_page(root, ref)]
        document["fragments"] = listed + document["fragments"]
    expect(document["number"] == number, "number")
    expect(set(document["statistics"]) == set(document["schema"]), "statistics")
    spans = sorted((f["first"], f["first"] + f["samples"]) for f in document["fragments"])
    ends = [end for _, end in spans]
    expect(all(a <= b for a, (b, _) in zip(ends, spans[1:], strict=False)), "sample ids overlap")
    expect(not ends or ends[-1] <= document["next_sample_id"], "next_sample_id")
    return document


def read_page(root: Path, ref) -> list[dict]:
    """Section 8.1: the fragments of a page, in the form that they have in a document."""
    expect(re.fullmatch("[0-9a-f]{32}", ref["id"]) and ref["nbytes"] <= 2**24, "reference to a page")
    data = (root / f"_chunkstore/pages/{ref['id']}.json").read_bytes()
    expect(len(data) == ref["nbytes"] and f"{zlib.crc32(data):08x}" == ref["crc32"], "size or checksum of a page")
    body = unseal(data)
    fragments = []
    for identity, first, samples, block_rows, rows in body["fragments"]:
        parts = [
            {
                "path": f"fragments/{identity}/{name}",
                "fields": body["fields"][number],
                "nbytes": nbytes,
                "stored_nbytes": stored_nbytes,
                "objects": {"nbytes": objects_nbytes, "crc32": checksum},
            }
            for name, number, nbytes, stored_nbytes, objects_nbytes, checksum in rows
        ]
        numbers = {"first": first, "samples": samples, "block_rows": block_rows}
        fragments.append({"id": identity, **numbers, "parts": parts})
    expect(len(fragments) == ref["fragments"], "fragments of a page")
    expect(sum(fragment["samples"] for fragment in fragments) == ref["samples"], "samples of a page")
    return fragments


# Sections 3, 5 and 7: parts


class Part:
    def __init__(self, folder: Path, objects):
        self.folder = folder
        data = (folder / "_objects.json").read_bytes()
        expect(len(data) == objects["nbytes"] and f"{zlib.crc32(data):08x}" == objects["crc32"], "_objects.json")
        self.objects = unseal(data)["objects"]
        group = strict_json(self.object("zarr.json"))
        expect(group["zarr_format"] == 3 and group["node_type"] == "group", "the part's group")
        self.nodes = group["consolidated_metadata"]["metadata"]
        for path, node in self.nodes.items():
            expect(strict_json(self.object(f"{path}/zarr.json")) == node, f"{path}: consolidated metadata differ")

    def object(self, key: str) -> bytes:
        expect(key in self.objects, f"{key} is not listed")
        expect(KEY.fullmatch(key) and not {".", ".."} & set(key.split("/")), "a key")
        nbytes, checksum = self.objects[key]
        data = (self.folder / key).read_bytes()
        expect(len(data) == nbytes and f"{zlib.crc32(data):08x}" == checksum, f"{key}: size or checksum")
        return data

    def read(self, name: str, kind, samples: int) -> list:
        expect(self.nodes[name]["attributes"]["chunkstore"]["field"]["type"] == kind["type"], "attributes of a field")
        if kind["type"] == "array":
            names = ["sample", *(f"{name}_{i + 1}" for i in range(len(kind["shape"])))]
            return list(self.array(name, stored_dtype(kind["dtype"]), (samples, *kind["shape"]), names))
        return self.ragged(name, kind, samples)

    def ragged(self, name: str, kind, samples: int) -> list:
        dtype = stored_dtype(kind["dtype"]) if kind["type"] == "ragged" else "uint8"
        values = self.array(f"{name}/values", dtype, (None,), [f"{name}_value"])
        spans = self.array(f"{name}/spans", "int64", (samples, 2), ["sample", f"{name}_span"]).tolist()
        ends = [0, *(end for _, end in spans)]
        expect(all(before <= begin <= end for before, (begin, end) in zip(ends, spans, strict=False)), "spans overlap")
        expect(ends[-1] <= len(values), "spans leave the values")
        shapes = [[end - begin] for begin, end in spans]
        if kind["type"] == "ragged" and len(kind["shape"]) > 1:
            rank = len(kind["shape"])
            shapes = self.array(f"{name}/shape", "int64", (samples, rank), ["sample", f"{name}_rank"]).tolist()
        result = [values[begin:end].reshape(shape) for (begin, end), shape in zip(spans, shapes, strict=True)]
        if kind["type"] == "ragged":
            fits = (n in (None, m) for shape in shapes for n, m in zip(kind["shape"], shape, strict=True))
            expect(all(fits), "shapes do not fit the schema")
        plain = len(chunk_codecs(self.nodes[f"{name}/values"])) == 1
        expect(plain == (f"{name}/crc" in self.nodes), "crc is there for plain values and for no other")
        if plain:
            stored = self.array(f"{name}/crc", "uint32", (samples,), ["sample"])
            for value, (begin, end), crc in zip(result, spans, stored.tolist(), strict=True):
                expect(crc32c(value.tobytes()) == crc, "checksum of a sample")
                expect(
                    self.plain_bytes(f"{name}/values", begin, end) == value.tobytes(), "byte range of a plain sample"
                )
        match kind["type"]:
            case "ragged":
                return result
            case "text":
                return [str(value.tobytes(), "utf-8") for value in result]
            case _:
                return [value.tobytes() for value in result]

    def plain_bytes(self, path: str, begin: int, end: int) -> bytes:
        """Section 5.3's formula, without the shard index."""
        node = self.nodes[path]
        (shard,), itemsize = node["chunk_grid"]["configuration"]["chunk_shape"], np.dtype(node["data_type"]).itemsize
        pieces = []
        while begin < end:
            stop = min(end, (begin // shard + 1) * shard)
            data = (self.folder / path / "c" / str(begin // shard)).read_bytes()
            at = begin % shard * itemsize
            pieces.append(data[at : at + (stop - begin) * itemsize])
            begin = stop
        return b"".join(pieces)

    def array(self, path: str, dtype: str, shape: tuple, dimension_names: list[str]) -> np.ndarray:
        node = self.nodes[path]
        expect(node["zarr_format"] == 3 and node["node_type"] == "array", path)
        expect(node["data_type"] == dtype and node["dimension_names"] == dimension_names, path)
        expect(len(node["shape"]) == len(shape), path)
        expect(all(n is None or n == m for n, m in zip(shape, node["shape"], strict=True)), path)
        return self.decode_array(path, node)

    def decode_array(self, path: str, node) -> np.ndarray:
        expect(node["chunk_grid"]["name"] == "regular" and node["fill_value"] == 0, path)
        expect(node["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}, path)
        (sharding,) = node["codecs"]
        expect(sharding["name"] == "sharding_indexed" and sharding["configuration"]["index_location"] == "end", path)
        expect([c["name"] for c in sharding["configuration"]["index_codecs"]] == ["bytes", "crc32c"], path)
        shape, shard = node["shape"], node["chunk_grid"]["configuration"]["chunk_shape"]
        chunk, dtype = sharding["configuration"]["chunk_shape"], np.dtype(node["data_type"]).newbyteorder("<")
        expect(all(s % c == 0 for s, c in zip(shard, chunk, strict=True)), path)
        expect(is_power_of_two(chunk[0]) and is_power_of_two(shard[0]), f"{path}: alignment")
        values = np.empty(shape, dtype)
        grid = [-(-n // s) for n, s in zip(shape, shard, strict=True)]
        expect(all(n <= 1 for n in grid[1:]), f"{path}: rows over several shards")
        in_shard = [s // c for s, c in zip(shard, chunk, strict=True)]
        stored = 0
        for at in product(*map(range, grid)):
            data = self.object(f"{path}/c/{'/'.join(map(str, at))}")
            stored += 1
            index = read_index(data, math.prod(in_shard))
            for number, within in enumerate(product(*map(range, in_shard))):
                begin = [a * s + w * c for a, s, w, c in zip(at, shard, within, chunk, strict=True)]
                inside = all(b < n for b, n in zip(begin, shape, strict=True))
                expect(inside == (index[number] is not None), f"{path}: chunks that are stored")
                if inside:
                    start, stop = index[number]
                    decoded = decode_chunk(chunk_codecs(node), data[start:stop], math.prod(chunk) * dtype.itemsize)
                    box = tuple(slice(b, min(b + c, n)) for b, c, n in zip(begin, chunk, shape, strict=True))
                    whole = np.frombuffer(decoded, dtype).reshape(chunk).copy()
                    values[box] = whole[tuple(slice(0, s.stop - s.start) for s in box)]
                    whole[tuple(slice(0, s.stop - s.start) for s in box)] = 0
                    expect(not whole.view(f"u{dtype.itemsize}").any(), f"{path}: what lies outside the array is not 0")
        listed = [key for key in self.objects if key.startswith(f"{path}/c/")]
        expect(len(listed) == stored, f"{path}: shards outside the grid")
        return values


def is_power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0


def stored_dtype(dtype: str) -> str:
    expect(dtype in [*DTYPES, "bfloat16"], dtype)
    return "uint16" if dtype == "bfloat16" else dtype


# Section 6: shards


def read_index(data: bytes, chunks: int) -> list[tuple[int, int] | None]:
    index = data[-(16 * chunks + 4) :]
    expect(crc32c(index[:-4]) == int.from_bytes(index[-4:], "little"), "checksum of an index")
    ranges: list[tuple[int, int] | None] = []
    for offset, nbytes in np.frombuffer(index[:-4], "<u8").reshape(chunks, 2).tolist():
        ranges.append(None if offset == nbytes == ABSENT else (offset, offset + nbytes))
    end = 0
    for begin, stop in (span for span in ranges if span):
        expect(begin == end, "chunks lie in order and without gaps")
        end = stop
    expect(end == len(data) - len(index), "chunks end where the index begins")
    return ranges


def chunk_codecs(node) -> list[dict]:
    return node["codecs"][0]["configuration"]["codecs"]


def decode_chunk(codecs: list[dict], data: bytes, nbytes: int) -> bytes:
    expect(codecs[0]["name"] == "bytes", "the first codec")
    expect(codecs[0].get("configuration", {}).get("endian", "little") == "little", "byte order")
    rest = [codec["name"] for codec in codecs[1:]]
    if rest and rest[-1] == "crc32c":
        rest.pop()
        expect(crc32c(data[:-4]) == int.from_bytes(data[-4:], "little"), "checksum of a chunk")
        data = data[:-4]
    else:
        expect(not rest, "a compressed chunk without checksum")
    expect(len(rest) <= 1, "codecs")
    if rest:
        data = {"blosc": numcodecs.blosc.decompress, "zstd": numcodecs.zstd.decompress, "gzip": gzip.decompress}[
            rest[0]
        ](data)
    expect(len(data) == nbytes, "size of a chunk")
    return data


# Section 10: statistics


def check_statistics(stored, numbers: list) -> None:
    """Compare stored statistics with those of `numbers`: ints, or floats with NaN and infinities."""
    finite = [n for n in numbers if isinstance(n, int) or math.isfinite(n)]
    floats = [n for n in numbers if isinstance(n, float)]
    expect(stored["count"] == len(numbers), "count")
    expect(stored["nan"] == sum(map(math.isnan, floats)), "nan")
    expect((stored["posinf"], stored["neginf"]) == (floats.count(math.inf), floats.count(-math.inf)), "infinities")
    histogram = stored["histogram"]
    if not finite:
        expect((stored["min"], stored["max"], stored["mean"], stored["m2"]) == (None, None, None, 0), "of nothing")
        expect(histogram == {"exponent": 0, "first": 0, "counts": []}, "histogram of nothing")
        return
    low, high = min(finite), max(finite)
    expect((stored["min"], stored["max"]) == (low, high), "min, max")
    expect(
        type(stored["min"]) is type(low) and math.copysign(1, stored["min"]) == (1 if low >= 0 else -1), "kind of min"
    )
    k = 0 if isinstance(low, int) else -1074
    while (low or high) and max(abs(Fraction(low)), abs(Fraction(high))) >= Fraction(2) ** (k + 53):
        k += 1
    while bin_of(high, k) - bin_of(low, k) > 63:
        k += 1
    first = bin_of(low, k)
    counts = [0] * (bin_of(high, k) - first + 1)
    for n in finite:
        counts[bin_of(n, k) - first] += 1
    expect(
        histogram == {"exponent": k, "first": first, "counts": counts}, f"histogram {histogram}: {k} {first} {counts}"
    )
    mean = sum(map(Fraction, finite)) / len(finite)
    m2 = sum((Fraction(n) - mean) ** 2 for n in finite)
    expect(low <= stored["mean"] <= high, "mean outside min and max")
    expect(abs(Fraction(stored["mean"]) - mean) <= max(map(abs, map(Fraction, finite))) / 10**12, "mean")
    if stored["m2"] is None:
        expect(m2 > Fraction(2) ** 1000, "m2 is null")
    else:
        expect(abs(Fraction(stored["m2"]) - m2) <= Fraction(m2) / 10**9 + Fraction(10) ** -300, "m2")


def bin_of(number, k: int) -> int:
    return math.floor(Fraction(number) / Fraction(2) ** k)
