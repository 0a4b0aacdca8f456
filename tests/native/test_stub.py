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
    whole = STUB.read_text(encoding="utf-8")
    functions = re.findall(r"^def (\w+)", whole, re.MULTILINE)
    kept = re.findall(r"^def (\w+)", without_jpeg(whole), re.MULTILINE)
    assert kept == [name for name in functions if name not in ("jpeg_size", "jpeg_decode")]
    assert len(kept) == len(functions) - 2
