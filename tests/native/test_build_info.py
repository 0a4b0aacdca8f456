"""What the build says of itself, and that it needs nothing of what it was built from."""

import re
import subprocess
import sys

from chunkstore import _native


def test_every_component_is_named_with_its_version():
    info = _native.build_info()
    assert list(info) == ["blosc2", "zstd", "lz4", "jpeg", "crc32c", "compiler"]
    for component in ("blosc2", "zstd", "lz4"):
        assert re.fullmatch(r"\d+\.\d+\.\d+\S*", str(info[component]))
    assert info["crc32c"] in ("sse4.2", "arm", "table")
    assert info["jpeg"] is False or isinstance(info["jpeg"], str)
    assert (info["jpeg"] is not False) == hasattr(_native, "jpeg_decode")


def test_the_module_loads_without_the_packages_it_was_built_from():
    code = """
import sys
for name in ("blosc2", "nanobind", "numpy", "numcodecs"):
    sys.modules[name] = None
from chunkstore import _native
assert _native.crc32c(b"123456789") == 0xE3069283
"""
    subprocess.run([sys.executable, "-c", code], check=True)
