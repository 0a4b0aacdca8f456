"""The fuzzers run for some seconds each, from valid data and from all that was ever found; hours on demand:

    CHUNKSTORE_FUZZ_SECONDS=3600 pytest tests/fuzz

Documents and indexes are atheris's, native code is libFuzzer's with ASan and UBSan where clang is installed (`.ci/run` sees to
it), else that of `native/driver.cpp`, built by g++ with the same sanitizers. An input that ends a fuzzer is shown by the
failing test: put it into `corpus/<fuzzer>/`, where it stays.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from fuzz.seeds import SEEDS, document_seeds

HERE = Path(__file__).parent
NATIVE = HERE.parents[1] / "native"
SECONDS = int(os.environ.get("CHUNKSTORE_FUZZ_SECONDS", "7"))
_SOURCES = {
    "blosc": ["blosc.cpp", "zstd.cpp"],
    "zstd": ["zstd.cpp"],
    "jpeg": ["jpeg.cpp"],
    "chunks": ["chunks.cpp", "blosc.cpp", "zstd.cpp", "crc32c.cpp"],
    "rows": ["rows.cpp", "crc32.cpp", "crc32c.cpp"],
}
_SANITIZERS = "address,undefined"


@dataclass(frozen=True)
class Compiler:
    """What builds the fuzzers of native code."""

    command: str
    has_libfuzzer: bool

    def build(self, name: str, program: Path) -> subprocess.CompletedProcess[str]:
        """Link a fuzzer with the operations' own sources, which know no Python."""
        wheel = Path(next(iter(importlib.util.find_spec("blosc2").submodule_search_locations)))
        engine = "fuzzer," if self.has_libfuzzer else ""
        sources = [HERE / "native" / f"{name}.cpp", *(NATIVE / source for source in _SOURCES[name])]
        if not self.has_libfuzzer:
            sources.append(HERE / "native" / "driver.cpp")
        flags = ["-std=c++20", "-g", "-O1", f"-fsanitize={engine}{_SANITIZERS}", "-fno-sanitize-recover=all"]
        libraries = [*wheel.glob("lib*/libblosc2.a"), "-ljpeg", "-lpthread", "-ldl", "-lm"]
        command = [self.command, *flags, f"-I{HERE / 'native'}", f"-I{NATIVE}", "-isystem", wheel / "include", *sources]
        return run([*command, *libraries, "-o", program], program.parent)


def run(command: list[object], folder: Path, *, seconds: int = 200) -> subprocess.CompletedProcess[str]:
    text = list(map(str, command))
    return subprocess.run(
        text, cwd=folder, capture_output=True, text=True, errors="replace", timeout=seconds, check=False
    )


@pytest.fixture(scope="session")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    """clang with libFuzzer if it links, else g++."""
    folder = tmp_path_factory.mktemp("compiler")
    empty = folder / "empty.cpp"
    empty.write_text('extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }\n')
    commands = [*(f"clang++-{version}" for version in range(25, 13, -1)), "clang++"]
    for command in filter(shutil.which, commands):
        linked = run([command, f"-fsanitize=fuzzer,{_SANITIZERS}", empty, "-o", folder / "empty"], folder)
        if linked.returncode == 0:
            return Compiler(command, has_libfuzzer=True)
    if shutil.which("g++") is None:
        pytest.skip("neither a clang++ with libFuzzer nor a g++ is installed")
    return Compiler("g++", has_libfuzzer=False)


def fuzz(command: list[object], folder: Path, name: str, seeds: list[bytes]) -> None:
    """Run a fuzzer; what it finds fails the test with the input's bytes."""
    found = HERE / "corpus" / name
    for number, seed in enumerate([*seeds, *(file.read_bytes() for file in sorted(found.glob("*")))]):
        (folder / "seeds").mkdir(exist_ok=True)
        (folder / "seeds" / f"{number:04d}").write_bytes(seed)
    (folder / "grown").mkdir()
    limits = [
        f"-max_total_time={SECONDS}",
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-max_len=16384",
        "-artifact_prefix=found-",
    ]
    done = run([*command, "grown", "seeds", *limits], folder, seconds=SECONDS + 120)
    inputs = {file.name: file.read_bytes()[:4096] for file in [*folder.glob("found-*"), *folder.glob("last-input")]}
    assert done.returncode == 0, f"{done.stderr[-6000:]}\n{inputs}"
    runs = [int(line.split()[1]) for line in done.stderr.splitlines() if line.startswith("Done ")]
    assert runs[0] > len(seeds), "it read its seeds and nothing else"


@pytest.mark.parametrize("name", [*_SOURCES])
def test_native_code_survives_any_bytes(name: str, compiler: Compiler, tmp_path: Path) -> None:
    built = compiler.build(name, tmp_path / name)
    if "jpeglib.h" in built.stderr:
        pytest.skip("libjpeg-turbo's headers are not installed, so the package decodes no JPEG natively either")
    assert built.returncode == 0, built.stderr
    fuzz([tmp_path / name], tmp_path, name, SEEDS[name]())


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python or machine"
)
def test_readers_of_documents_raise_what_they_say_or_nothing(tmp_path: Path) -> None:
    seeds = document_seeds(tmp_path / "dataset")
    fuzz([sys.executable, HERE / "fuzz_documents.py"], tmp_path, "documents", seeds)


def test_the_driver_without_libfuzzer_finds_what_is_wrong(tmp_path: Path) -> None:
    """It is what runs where there is no clang, so it must be able to fail."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ is installed")
    (tmp_path / "wrong.cpp").write_text(
        "#include <cstdint>\n#include <cstddef>\n"
        'extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t nbytes) {\n'
        "  std::uint8_t* copy = new std::uint8_t[4];\n"
        "  for (std::size_t i = 0; i < nbytes; ++i) copy[i] = bytes[i];\n  delete[] copy;\n  return 0;\n}\n"
    )
    program, sources = tmp_path / "wrong", [tmp_path / "wrong.cpp", HERE / "native" / "driver.cpp"]
    built = run(["g++", "-std=c++20", "-g", f"-fsanitize={_SANITIZERS}", *sources, "-o", program], tmp_path)
    assert built.returncode == 0, built.stderr
    done = run([program, "-max_total_time=20"], tmp_path)
    assert "heap-buffer-overflow" in done.stderr
