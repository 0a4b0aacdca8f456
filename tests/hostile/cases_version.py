"""Version documents that claim what cannot be: numbers out of range, ranges that overlap, schemas and statistics that
contradict themselves or the data.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from hostile.forgery import NUM_SAMPLES, VERSION, Case, Document, Forgery, sealed

from chunkstore._native import crc32

_OTHER = "0" * 32

Change = Callable[[Document], object]


def _version(change: Change) -> Callable[[Forgery], None]:
    def forge(forged: Forgery) -> None:
        change(forged.version)

    return forge


def _fragment(**members: Any) -> Callable[[Forgery], None]:
    return lambda forged: forged.fragment.update(members)


def _part(**members: Any) -> Callable[[Forgery], None]:
    return lambda forged: forged.part.update(members)


def _field(name: str, **members: Any) -> Callable[[Forgery], None]:
    return lambda forged: forged.version["schema"][name].update(members)


def _values(name: str, **members: Any) -> Callable[[Forgery], None]:
    return lambda forged: forged.version["statistics"][name]["values"].update(members)


def _histogram(name: str, **members: Any) -> Callable[[Forgery], None]:
    return lambda forged: forged.version["statistics"][name]["values"]["histogram"].update(members)


def _twice(version: Document, **members: Any) -> None:
    """Name the fragment once more, changed."""
    line = version["fragments"][0]
    version["fragments"].append({**line, **members})


def _other_fragment(version: Document, first: int) -> None:
    line = version["fragments"][0]
    parts = [{**part, "path": f"fragments/{_OTHER}/0"} for part in line["parts"]]
    version["fragments"].append({**line, "id": _OTHER, "first": first, "parts": parts})


def _many_fields(number: int) -> Callable[[Forgery], None]:
    """Name so many fields beside those that are stored."""

    def forge(forged: Forgery) -> None:
        more = b",".join(b'"f%d":{"type":"text"}' % i for i in range(number))
        forged.body["version"] = lambda body: body.replace(b'"schema":{', b'"schema":{' + more + b",", 1)

    return forge


def _long_name(forged: Forgery) -> None:
    forged.version["schema"]["n" * (64 << 10)] = {"type": "text"}


def _long_requires(forged: Forgery) -> None:
    forged.version["requires"] = ["x" * (1 << 20)]


def _set(version: Document, **members: Any) -> None:
    version.update(members)


def _listed(before: bytes, item: bytes, number: int) -> Callable[[Forgery], None]:
    """Begin the list that opens with `before` with so many items of this text, `%d` in it being their numbers."""

    def forge(forged: Forgery) -> None:
        items = b",".join(item % i for i in range(number)) if b"%d" in item else b",".join([item] * number)
        forged.body["version"] = lambda body: body.replace(before, before + items + b",", 1).replace(
            items + b",]", items + b"]"
        )

    return forge


def _page(nbytes: int = 1000, **members: Any) -> Document:
    return {"id": _OTHER, "fragments": 1, "samples": NUM_SAMPLES, "nbytes": nbytes, "crc32": "00000000", **members}


def _pages(*pages: Any) -> Callable[[Forgery], None]:
    """Refer to these pages, none of which is there."""
    return lambda forged: forged.version.update(requires=["pages"], pages=[*pages], fragments=[])


def _stored_page(text: bytes, **members: Any) -> Callable[[Forgery], None]:
    """Refer to a page of this text, whose size and checksum are right."""

    def forge(forged: Forgery) -> None:
        data = sealed(text)
        forged.files[f"_chunkstore/pages/{_OTHER}.json"] = data
        page = _page(**{"nbytes": len(data), "crc32": f"{crc32(data):08x}", **members})
        forged.version.update(requires=["pages"], pages=[page], fragments=[])

    return forge


def _condemned_page(text: bytes, **members: Any) -> Callable[[Forgery], None]:
    """The same of a page of what is condemned, which is read by `gc` alone, and by writers."""

    def forge(forged: Forgery) -> None:
        data = sealed(text)
        forged.files[f"_chunkstore/pages/{_OTHER}.json"] = data
        page = {
            "id": _OTHER,
            "fragments": 0,
            "versions": 1,
            "parts": 0,
            "nbytes": len(data),
            "crc32": f"{crc32(data):08x}",
        }
        forged.version.update(
            requires=["pages"], condemned={"fragments": [], "versions": [], "pages": [{**page, **members}]}
        )

    return forge


def _sets(number: int, names: bytes = b"") -> bytes:
    return b'{"fields":[[%s]],"fragments":[' % names + b",".join([b"1"] * number) + b"]}"


_PATHS = {
    "a part above the dataset": "../../etc",
    "a part with .. behind its fragment": f"fragments/{_OTHER}/..",
    "an absolute part": "/etc/passwd",
    "a part at a URL": "s3://bucket/key",
    "a part with a NUL": f"fragments/{_OTHER}/0\0",
    "a part of a name in other digits": f"fragments/{_OTHER}/٠",
    "a part in another fragment": f"fragments/{_OTHER}/0",
    "a part with a newline behind it": f"fragments/{_OTHER}/0\n",
}

_NUMBERS: dict[str, Any] = {
    "2^63": 1 << 63,
    "10^400": 10**400,
    "-1": -1,
    "1.0": 1.0,
    "true": True,
    "a string": "6",
    "null": None,
    "a list": [6],
}

_OPEN = partial(Case, told=VERSION, act="open")
_PAGE = partial(Case, told=f"_chunkstore/pages/{_OTHER}.json", act="open")
_GC = partial(Case, told=f"_chunkstore/pages/{_OTHER}.json", act="gc", found=False)
_MANY = 7_900_000

_LONG = {
    "condemned versions": (b'"versions":[', b"1", _MANY),
    "condemned versions within the bounds": (b'"versions":[', b"0", 500_000),
    "fragments": (b'"fragments":[{', b'"x":1},{', 1_700_000),
    "fragments that are numbers": (b'"fragments":[', b"1", _MANY),
    "requirements": (b'"requires":[', b'""', _MANY // 2),
    "requirements within the bounds": (b'"requires":[', b'""', 500_000),
    "empty statistics": (b'"statistics":{', b'"%d":{}', 1_000_000),
    "empty statistics within the bounds": (b'"statistics":{', b'"%d":{}', 50_000),
    "lists that nobody knows": (b'"requires":[],', b'"zzz":[' + b"[]," * 5_000_000 + b"[]]", 1),
    "numbers with a fraction": (b'"requires":[],', b'"zzz":[' + b"0.5," * 1_000_000 + b"1]", 1),
    "members": (b'"requires":[],', b'"zzz":{' + b'"":1,' * 1_000_000 + b'"a":1}', 1),
}
_PAGES_BESIDE = {
    "of 2^63 bytes": _page(1 << 63),
    "of 2^21 + 1 bytes": _page((1 << 21) + 1),
    "of 2^62 fragments": _page(fragments=1 << 62),
    "of 2^63 samples": _page(samples=1 << 63),
    "without samples": _page(samples=0),
    "named ..": _page(id=".."),
    "that is a number": 7,
    "whose checksum has 9 digits": _page(crc32="000000000"),
}
_ROW = b'["%s",0,%d,8,[["0",0,8,8,100,"00000000"]]]' % (b"1" * 32, NUM_SAMPLES)
_BODIES = {
    "of numbers for rows": _sets(900_000),
    "of numbers for sets": b'{"fields":[' + b",".join([b"1"] * 500_000) + b'],"fragments":[]}',
    "of 500,000 names in a set": _sets(0, b",".join([b'""'] * 500_000)),
    "of 500,000 lists": b'{"fields":[],"fragments":[' + b",".join([b"[]"] * 500_000) + b"]}",
    "of no fragments": b'{"fields":[],"fragments":[]}',
    "nested 100,000 deep": b'{"fields":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "that names a set of fields that it has not": b'{"fields":[],"fragments":[' + _ROW + b"]}",
    "that is a list": b"[" + b" " * 100 + b"]",
}
_CONDEMNED_BODIES = {
    "of 500,000 versions": b'{"fragments":[],"versions":[' + b",".join([b"1"] * 500_000) + b"]}",
    "of version 0": b'{"fragments":[],"versions":[0]}',
    "of version 10^400": b'{"fragments":[],"versions":[1' + b"0" * 400 + b"]}",
    "of names that lead away": b'{"fragments":[".."],"versions":[1]}',
    "of parts that lead away": b'{"fragments":[],"versions":[1],"parts":["../.."]}',
    "of 500,000 lists": b'{"fragments":[],"versions":[' + b",".join([b"[]"] * 500_000) + b"]}",
}

CASES = [
    *(_OPEN(f"many {name}", _listed(*attack)) for name, attack in _LONG.items()),
    *(_OPEN(f"a page {name}", _pages(page)) for name, page in _PAGES_BESIDE.items()),
    _OPEN("a page named twice", _pages(_page(), _page())),
    _OPEN("a number in place of pages", lambda forged: forged.version.update(requires=["pages"], pages=7)),
    _OPEN("pages of 1 GiB and more", _pages(*(_page(1 << 21, id=f"{i:032x}") for i in range(600)))),
    _OPEN("100,000 pages", _listed(b'"requires":[', b'"pages"],"pages":[' + b"{}," * 100_000 + b'1],"n":["x"', 1)),
    _PAGE("a page that is not there", _pages(_page()), error="MissingObject"),
    *(_PAGE(f"a page {name}", _stored_page(text)) for name, text in _BODIES.items()),
    _PAGE("a page larger than is said", _stored_page(_sets(10), nbytes=60)),
    _PAGE("a page smaller than is said", _stored_page(_sets(10), nbytes=1 << 21)),
    _PAGE("a page of another checksum", _stored_page(_sets(10), crc32="00000001")),
    *(_GC(f"a page of what is condemned {name}", _condemned_page(text)) for name, text in _CONDEMNED_BODIES.items()),
    _OPEN("a page of what is condemned of 2^62 versions", _condemned_page(b"{}", versions=1 << 62)),
    _OPEN("a page of what is condemned of 2^63 bytes", _condemned_page(b"{}", nbytes=1 << 63)),
    *(_OPEN(f"samples: {name}", _fragment(samples=value)) for name, value in {**_NUMBERS, "0": 0}.items()),
    *(_OPEN(f"first: {name}", _fragment(first=value)) for name, value in _NUMBERS.items()),
    *(
        _OPEN(f"block_rows: {name}", _fragment(block_rows=value))
        for name, value in {**_NUMBERS, "0": 0, "3": 3}.items()
    ),
    *(_OPEN(f"nbytes: {name}", _part(nbytes=value)) for name, value in _NUMBERS.items()),
    *(_OPEN(f"path: {name}", _part(path=value)) for name, value in _PATHS.items()),
    _OPEN("objects of 2^62 bytes", _part(objects={"nbytes": 1 << 62, "crc32": "00000000"})),
    _OPEN("objects of -1 bytes", _part(objects={"nbytes": -1, "crc32": "00000000"})),
    Case("objects of 1 GiB", _part(objects={"nbytes": 1 << 30, "crc32": "00000000"}), told="_objects.json"),
    Case("objects shorter than they are", _part(objects={"nbytes": 10, "crc32": "00000000"}), told="_objects.json"),
    _OPEN("a fragment named twice", _version(_twice)),
    _OPEN("fragments whose sample ids overlap", _version(partial(_other_fragment, first=NUM_SAMPLES - 1))),
    _OPEN("sample ids beyond the next one", _fragment(first=1 << 61)),
    _OPEN("fields held twice", lambda forged: forged.part["fields"].append("label")),
    _OPEN("a field that no part holds", lambda forged: forged.part["fields"].remove("label")),
    _OPEN("number 2^63", _version(partial(_set, number=1 << 63))),
    _OPEN("number 0", _version(partial(_set, number=0))),
    _OPEN("another number than its key's", _version(partial(_set, number=2))),
    _OPEN("format 2", _version(partial(_set, format=2)), error="UnsupportedFormat"),
    _OPEN("requires what is not known", _version(partial(_set, requires=["pages-of-2030"])), error="UnsupportedFormat"),
    _OPEN("requires a name of 1 MB", _long_requires, error="UnsupportedFormat"),
    _OPEN("time is a novel", _version(partial(_set, time="2026-01-01T00:00:00." + "0" * 10_000 + "?"))),
    _OPEN("condemned versions of 10^30", _version(partial(_set, condemned={"fragments": [], "versions": [10**30]}))),
    _OPEN("condemned fragments with ..", _version(partial(_set, condemned={"fragments": [".."], "versions": []}))),
    _OPEN("a schema without fields", _version(partial(_set, schema={}))),
    _OPEN("a schema of 1,000,000 fields", _many_fields(1_000_000)),
    _OPEN("a schema of 10,000 fields", _many_fields(10_000)),
    _OPEN("a field whose name has 64 KiB", _long_name),
    _OPEN("a field named ..", lambda forged: forged.version["schema"].update({"..": {"type": "text"}})),
    _OPEN("a field named a/b", lambda forged: forged.version["schema"].update({"a/b": {"type": "text"}})),
    _OPEN(
        "fields of names that differ in case", lambda forged: forged.version["schema"].update(LABEL={"type": "text"})
    ),
    _OPEN("a type of 2030", _field("label", type="hologram"), error="UnsupportedFormat"),
    _OPEN("dtype object", _field("label", dtype="object")),
    _OPEN("dtype O", _field("label", dtype="O")),
    _OPEN("dtype of NumPy's other spelling", _field("label", dtype="<i8")),
    _OPEN("dtype a list", _field("label", dtype=[["a", "<i8"]])),
    _OPEN("dtype of 1 MB", _field("label", dtype="float32," * (1 << 17))),
    _OPEN("a shape of 2^63", _field("vector", shape=[1 << 63])),
    _OPEN("a shape of -1", _field("vector", shape=[-1])),
    _OPEN("a shape of 17 dimensions", _field("vector", shape=[1] * 17)),
    _OPEN("a shape of 10^5 dimensions", _field("vector", shape=[1] * 100_000)),
    _OPEN("a shape of lists", _field("vector", shape=[[3], [5]])),
    _OPEN("a shape of one number", _field("vector", shape=15)),
    _OPEN("a chunk of 2^63", _field("vector", chunk=1 << 63)),
    _OPEN("a chunk of 0", _field("vector", chunk=0)),
    _OPEN("a chunk of nested lists", _field("vector", chunk=[[[]]])),
    _OPEN("codec zstd of level 99", _field("vector", codec="zstd-99")),
    _OPEN("a codec that is a module", _field("vector", codec="os.system")),
    _OPEN("block_nbytes of -1", _field("vector", block_nbytes=-1)),
    _OPEN(
        "a media type that is an object",
        lambda forged: forged.version["schema"].update(b={"type": "bytes", "media_type": {}}),
    ),
    _OPEN("statistics without a field", lambda forged: forged.version["statistics"].pop("label")),
    _OPEN("statistics of nobody's field", lambda forged: forged.version["statistics"].update(nobody={})),
    _OPEN("statistics of no kind", lambda forged: forged.version["statistics"].update(label={})),
    _OPEN(
        "statistics of the wrong kind",
        lambda forged: forged.version["statistics"].update(caption=forged.version["statistics"]["label"]),
    ),
    _OPEN("statistics: count 2^63", _values("label", count=1 << 63)),
    _OPEN("statistics: count of another number", _values("label", count=7)),
    _OPEN("statistics: nan -1", _values("label", nan=-1)),
    _OPEN("statistics: min above max", _values("label", min=9, max=-9)),
    _OPEN("statistics: floats of an integer field", _values("label", min=0.0, max=5.0)),
    _OPEN("statistics: integers of a float field", _values("vector", min=0, max=5)),
    _OPEN("statistics: mean outside", _values("label", mean=1e300)),
    _OPEN("statistics: m2 below 0", _values("label", m2=-1.0)),
    _OPEN("statistics: exponent 2^63", _histogram("label", exponent=(1 << 63) - 1)),
    _OPEN("statistics: exponent -2^63", _histogram("label", exponent=-(1 << 63))),
    _OPEN("statistics: first -2^63", _histogram("label", first=-(1 << 63))),
    _OPEN("statistics: a count of 10^5 bins", _histogram("label", counts=[1] * 100_000)),
    _OPEN("statistics: min 2^64 - 1, max -2^63", _values("label", min=(1 << 64) - 1, max=-(1 << 63))),
    _OPEN("statistics: min 5e-324, max 1.7e308", _values("vector", min=5e-324, max=1.7e308)),
]
