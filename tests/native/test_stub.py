"""The committed stub is what nanobind's stubgen says of the module that is installed."""

import re
from pathlib import Path

from nanobind.stubgen import StubGen

import chunkstore
from chunkstore import _native

STUB = Path(chunkstore.__file__).parent / "_native.pyi"


def without_jpeg(text: str) -> str:
    return re.sub(r"\ndef jpeg_\w+\(.*?(?=\n(?:def|#|\Z))", "", text, flags=re.DOTALL)


def test_stub_is_up_to_date():
    generator = StubGen(_native)
    generator.put(_native)
    generated, committed = generator.get(), STUB.read_text(encoding="utf-8")
    if not _native.build_info()["jpeg"]:
        committed = without_jpeg(committed)
    assert committed.strip() == generated.strip(), (
        "chunkstore/_native.pyi is old; run: python -m nanobind.stubgen -m chunkstore._native -o chunkstore/_native.pyi"
    )


def test_jpeg_functions_are_all_that_a_build_may_lack():
    rest = without_jpeg(STUB.read_text(encoding="utf-8"))
    assert "jpeg_" not in rest
    assert re.findall(r"^def (\w+)", rest, re.MULTILINE) == [
        "crc32c",
        "crc32c_table",
        "blosc_decompress",
        "zstd_decompress",
        "gather_rows",
        "gather_spans",
        "build_info",
    ]
