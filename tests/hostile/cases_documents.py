"""Text that is no document of ours, behind a checksum that is right; and documents whose checksum is not.

Every attack is made on the version, the object list, the part's group, the tag, the root and the hint. The root is read by
writers only; without the hint readers find the latest version all the same.
"""

import shutil
from collections.abc import Callable
from functools import partial

from hostile.forgery import HINT, OBJECTS, TAG, VERSION, Body, Case, Forgery

_DEPTH = 100_000


def _member(text: bytes) -> Body:
    """Add a member to the outermost object."""
    return lambda body: body[:1] + text + b"," + body[1:]


_TEXTS: dict[str, Body] = {
    "lists nested 100,000 deep": _member(b'"deep":' + b"[" * _DEPTH + b"]" * _DEPTH),
    "objects nested 100,000 deep": _member(b'"deep":' + b'{"a":' * _DEPTH + b"1" + b"}" * _DEPTH),
    "lists nested 100,000 deep and never closed": lambda _: b"[" * _DEPTH,
    "NaN": _member(b'"number2":NaN'),
    "Infinity": _member(b'"number2":Infinity'),
    "minus Infinity": _member(b'"number2":-Infinity'),
    "a number beyond float64": _member(b'"number2":1e999'),
    "an integer of 100,000 digits": _member(b'"number2":' + b"9" * _DEPTH),
    "a key twice": _member(b'"twice":1,"twice":1'),
    "a key twice, once escaped": _member(b'"twice":1,"twic\\u0065":1'),
    "a byte that is not UTF-8": _member(b'"bytes":"\xff"'),
    "an overlong UTF-8 slash": _member(b'"bytes":"\xc0\xaf"'),
    "a surrogate without its other half": _member(b'"text":"\\ud800"'),
    "a byte order mark": lambda body: b"\xef\xbb\xbf" + body,
    "UTF-16": lambda body: body.decode().encode("utf-16"),
    "a NUL in a string": _member(b'"text":"\x00"'),
    "two documents": lambda body: body + body,
    "half a document": lambda body: body[: len(body) // 2],
    "nothing": lambda _: b"",
    "null": lambda _: b"null",
    "a list": lambda body: b"[" + body + b"]",
    "a string of 8 MB": lambda _: b'"' + b"x" * (8 << 20) + b'"',
}

_FILES: dict[str, Callable[[bytes], bytes]] = {
    "a wrong checksum": lambda data: data[:14] + (b"0" if data[14:15] != b"0" else b"1") + data[15:],
    "its checksum in capitals": lambda data: data[:11] + b"ABCDEF01" + data[19:],
    "a byte behind the frame": lambda data: data + b"\n",
    "a byte before the frame": lambda data: b" " + data,
    "no frame": lambda data: data[32:-1],
    "half of its bytes": lambda data: data[: len(data) // 2],
    "no bytes": lambda data: b"",
}


def _replace_text(name: str, body: Body, forged: Forgery) -> None:
    forged.body[name] = body
    if name == "root":  # it is read where a creation died, to be taken up
        forged.after.append(lambda folder: shutil.rmtree(folder / "_chunkstore"))


def _replace_file(key: str, change: Callable[[bytes], bytes], forged: Forgery) -> None:
    where = f"{forged.path}/{key}" if key in (OBJECTS, "zarr.json") else key
    forged.after.append(lambda folder: (folder / where).write_bytes(change((folder / where).read_bytes())))


_DOCUMENTS = (
    ("version", VERSION, "open", "InvalidDataset", VERSION),
    ("objects", OBJECTS, "sample", "InvalidDataset", OBJECTS),
    ("part", "zarr.json", "sample", "InvalidDataset", "/0/zarr.json"),
    ("tag", TAG, "tag", "InvalidDataset", TAG),
    ("root", "zarr.json", "create", "InvalidDataset", "zarr.json"),
    ("hint", HINT, "all", "", ""),
)

CASES = [
    *(
        Case(f"{name}: {attack}", partial(_replace_text, name, body), error, told, act, found=name != "tag")
        for name, _, act, error, told in _DOCUMENTS
        for attack, body in _TEXTS.items()
    ),
    *(
        Case(f"{name}: {attack}", partial(_replace_file, key, change), error, told, act, found=name != "tag")
        for name, key, act, error, told in _DOCUMENTS
        for attack, change in _FILES.items()
        if name not in ("part", "root")  # not sealed
    ),
]
