"""A small valid dataset in memory, to be changed into a hostile one whose checksums are right.

Documents are held as values and sealed when the files are written, every checksum above a change being made anew: so what is
hostile reaches the checks that stand behind the checksums. `body` changes the text of a document just before it is sealed, and
`files` what is stored in the end. Before it: `cases_*.py`; after it: `test_hostile.py`, which writes the files and opens them.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import chunkstore as cs
from chunkstore._native import crc32, crc32c
from chunkstore.format.documents import Node
from chunkstore.format.metadata import codecs_from_json
from chunkstore.format.shard_index import encode_index
from chunkstore.kernels.codecs import encode_chunk

VERSION = "_chunkstore/versions/00000000000000000001.json"
HINT = "_chunkstore/latest.json"
TAG = "_chunkstore/tags/hostile.json"
OBJECTS = "_objects.json"
NUM_SAMPLES = 6

Document = dict[str, Any]
Body = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Case:
    """One hostile dataset, and what reading it must give.

    Attributes:
        name: In words, the test's id.
        forge: Makes the dataset hostile.
        error: Names of the errors that are right; none where readers must do without the document, and serve every sample.
        told: What the message must name.
        act: What is done with it: "open", "sample" (ds[0]), "all" (ds[:]), "tag" (open by it), "create".
        found: Whether `verify` can find it: it reads no tags, decodes no images, and does without a hint as all readers do.
    """

    name: str
    forge: "Callable[[Forgery], object]"
    error: str = "InvalidDataset"
    told: str = ""
    act: str = "all"
    found: bool = True


@dataclass
class Forgery:
    """A dataset of one part.

    Attributes:
        version, objects, group, hint, tag, root: The documents, unsealed.
        files: Everything else, and what is to be stored instead of a document, by key.
        source: The valid dataset, whose files are linked to where they are as in `unchanged`.
        body: By key, what becomes of a document's text before it is sealed.
        after: Called with the folder once all is written, for what is no file.
    """

    version: Document
    objects: Document
    group: Document
    hint: Document
    tag: Document
    root: Document
    files: dict[str, bytes]
    source: Path
    unchanged: dict[str, bytes]
    body: dict[str, Body] = field(default_factory=dict)
    after: list[Callable[[Path], object]] = field(default_factory=list)

    @property
    def fragment(self) -> Document:
        """The only fragment's line in the version document."""
        return self.version["fragments"][0]

    @property
    def part(self) -> Document:
        """The only part's line in the version document."""
        return self.fragment["parts"][0]

    @property
    def path(self) -> str:
        """Key of the part, as it was before anybody changed the line."""
        return next(key for key in self.files if key.endswith("/label/zarr.json")).removesuffix("/label/zarr.json")

    def array(self, path: str) -> Document:
        """An array's metadata in the part's group."""
        return self.group["consolidated_metadata"]["metadata"][path]

    def sharding(self, path: str) -> Document:
        """The configuration of an array's sharding codec."""
        return self.array(path)["codecs"][0]["configuration"]

    def shapes(self, path: str, *, shape: list[int], shard: list[int], chunk: list[int]) -> None:
        """Set what an array says of its sizes."""
        self.array(path)["shape"] = shape
        self.array(path)["chunk_grid"]["configuration"]["chunk_shape"] = shard
        self.sharding(path)["chunk_shape"] = chunk

    def put(self, key: str, data: bytes) -> None:
        """Store an object of the part, and list it."""
        self.files[f"{self.path}/{key}"] = data
        self.objects["objects"][key] = [len(data), f"{crc32(data):08x}"]

    def chunk(self, key: str, stored: bytes, *, crc: bool = True) -> None:
        """Make a shard of one chunk of these bytes, their crc32c appended."""
        whole = stored + crc32c(stored).to_bytes(4, "little") if crc else stored
        self.put(key, whole + encode_index([len(whole)], 1))

    def index(self, key: str, entries: list[tuple[int, int]], *, body: bytes | None = None) -> None:
        """Put another index behind the chunks of a shard, its checksum right."""
        data = self.files[f"{self.path}/{key}"][:-20] if body is None else body
        told = np.array(entries, "<u8").tobytes()
        self.put(key, data + told + crc32c(told).to_bytes(4, "little"))

    def rows(self, path: str, rows: Any) -> None:
        """Replace the rows of an array of one chunk; those of the chunk beyond them are 0."""
        array = self.array(path)
        codecs = codecs_from_json(Node(self.sharding(path)["codecs"], path))
        whole = np.zeros(self.sharding(path)["chunk_shape"], np.dtype(array["data_type"]).newbyteorder("<"))
        told = np.array(rows, whole.dtype)
        whole[: len(told)] = told
        key = f"{path}/c/0" + "/0" * (whole.ndim - 1)
        stored = bytes(encode_chunk(codecs, whole))
        self.put(key, stored + encode_index([len(stored)], 1))

    def encoded(self, name: str, samples: list[bytes]) -> None:
        """Replace the samples of an encoded field, whose values are stored as they come."""
        values = b"".join(samples)
        stops = np.cumsum([len(s) for s in samples])
        starts = stops - [len(s) for s in samples]
        rows = 1 << max(0, len(values) - 1).bit_length()
        self.shapes(f"{name}/values", shape=[len(values)], shard=[rows], chunk=[rows])
        if values:
            self.put(f"{name}/values/c/0", values.ljust(rows, b"\0") + encode_index([rows], 1))
        else:
            del self.objects["objects"][f"{name}/values/c/0"]
        self.rows(f"{name}/spans", np.stack([starts, stops], axis=1))
        self.rows(f"{name}/crc", [crc32c(s) for s in samples])

    def write(self, folder: Path) -> None:
        """Write the files, every checksum right but where the forgery says otherwise."""
        path = self.path
        group = self._text("part", self.group)
        if "zarr.json" in self.objects["objects"]:
            self.objects["objects"]["zarr.json"][:] = [len(group), f"{crc32(group):08x}"]
        objects = sealed(self._text("objects", self.objects))
        if isinstance(self.version.get("fragments"), list):
            for line in self.version["fragments"]:
                for part in line.get("parts", []) if isinstance(line, dict) else []:
                    part.setdefault("objects", {"nbytes": len(objects), "crc32": f"{crc32(objects):08x}"})
        documents = {
            f"{path}/zarr.json": group,
            f"{path}/{OBJECTS}": objects,
            VERSION: sealed(self._text("version", self.version)),
            HINT: sealed(self._text("hint", self.hint)),
            TAG: sealed(self._text("tag", self.tag)),
            "zarr.json": self._text("root", self.root),
        }
        for key, data in {**documents, **self.files}.items():
            file = folder / key
            if not file.parent.is_dir():
                file.parent.mkdir(parents=True)
            if self.unchanged.get(key) is data:
                file.hardlink_to(self.source / key)
            else:
                file.write_bytes(data)
        for change in self.after:
            change(folder)

    def _text(self, name: str, document: Document) -> bytes:
        text = json.dumps(document, separators=(",", ":")).encode()
        return self.body.get(name, bytes)(text)


def sealed(body: bytes) -> bytes:
    """The stored bytes of a document of this text, be it JSON or not."""
    return b'{"crc32c":"%08x","document":%s}' % (crc32c(body), body)


def png(height: int = 8, width: int = 8) -> bytes:
    """A PNG image."""
    file = io.BytesIO()
    Image.fromarray(np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)).save(file, "PNG")
    return file.getvalue()


def jpeg(height: int = 8, width: int = 8) -> bytes:
    """A JPEG image."""
    file = io.BytesIO()
    Image.fromarray(np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)).save(file, "JPEG")
    return file.getvalue()


def webp(height: int = 8, width: int = 8) -> bytes:
    """A lossless WebP image."""
    file = io.BytesIO()
    Image.fromarray(np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)).save(
        file, "WEBP", lossless=True
    )
    return file.getvalue()


def valid_files(folder: Path) -> dict[str, bytes]:
    """Write the dataset that all forgeries begin with; its files by key."""
    schema = {
        "label": cs.Array("int64"),
        "vector": cs.Array("float32", (3, 5), codec="zstd-3"),
        "lz": cs.Array("uint16", (64,), codec="blosc-lz4"),
        "gz": cs.Array("uint8", (4,), codec="gzip"),
        "tokens": cs.Ragged("uint16", codec="zstd"),
        "points": cs.Ragged("float32", (None, None, 3)),
        "caption": cs.Text(codec=None),
        "jpeg": cs.Image("jpeg"),
        "png": cs.Image("png"),
        "webp": cs.Image("webp"),
    }
    with cs.create(folder, schema) as writer:
        for i in range(NUM_SAMPLES):
            writer.write(
                {
                    "label": i,
                    "vector": np.full((3, 5), i, np.float32),
                    "lz": np.full(64, i, np.uint16),
                    "gz": np.arange(4, dtype=np.uint8),
                    "tokens": np.arange(i, dtype=np.uint16),
                    "points": np.full((i, 2, 3), i, np.float32),
                    "caption": "x" * i,
                    "jpeg": jpeg(),
                    "png": png(),
                    "webp": webp(),
                }
            )
    cs.tag(folder, "hostile")
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def forgery(source: Path, files: dict[str, bytes]) -> Forgery:
    """The valid dataset, which lies in a folder and has these files, ready to be changed."""
    rest = dict(files)

    def taken(key: str) -> Document:
        document: Document = json.loads(rest.pop(key))
        return document.get("document", document)

    version = taken(VERSION)
    part = version["fragments"][0]["parts"][0]
    del part["objects"]  # made anew when written, unless a case puts its own
    path = part["path"]
    objects, group = taken(f"{path}/{OBJECTS}"), taken(f"{path}/zarr.json")
    return Forgery(version, objects, group, taken(HINT), taken(TAG), taken("zarr.json"), rest, source, files)
