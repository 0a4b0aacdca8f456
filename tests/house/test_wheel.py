"""The wheel holds every module of the package and nothing else: tests of the tree miss no folder that packaging forgets."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = """
import sys
from scikit_build_core.build import build_wheel
build_wheel(sys.argv[1], {"wheel.cmake": "false", "wheel.py-api": "py3"})  # a wheel of Python alone is no cp312
"""


def listed_by_git(*options: str) -> set[str]:
    done = subprocess.run(
        ["git", "ls-files", *options, "chunkstore"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {name for name in done.stdout.splitlines() if (ROOT / name).exists()} if done.returncode == 0 else set()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names in a wheel of this tree, all but what CMake builds."""
    folder = tmp_path_factory.mktemp("wheel")
    environment = {**os.environ, "SKBUILD_BUILD_DIR": str(folder / "build")}
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=ROOT, env=environment, check=True, timeout=60)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def test_every_module_is_in_the_wheel(wheel: set[str]) -> None:
    tracked = listed_by_git()
    if not tracked:
        pytest.skip("not a checkout")
    assert len(tracked) > 100
    assert tracked - wheel == set()
    packages = {str(path.parent.relative_to(ROOT)) for path in (ROOT / "chunkstore").rglob("*.py")}
    assert {f"{package}/__init__.py" for package in packages} <= wheel, "a folder of modules that is no package"


def test_nothing_but_the_package_is_in_the_wheel(wheel: set[str]) -> None:
    known = listed_by_git("--cached", "--others", "--exclude-standard")
    if not known:
        pytest.skip("not a checkout")
    others = {name for name in wheel - known if not re.match(r"chunkstore_zarr-[^/]*\.dist-info/", name)}
    assert others == set()


def test_the_wheel_has_licenses_command_and_types(wheel: set[str]) -> None:
    inside = {name.partition(".dist-info/")[2] for name in wheel}
    licenses = {f"licenses/native/licenses/{path.name}" for path in (ROOT / "native/licenses").iterdir()}
    assert {"licenses/LICENSE", "entry_points.txt", *licenses} <= inside
    assert {"chunkstore/py.typed", "chunkstore/_native.pyi"} <= wheel


def test_what_cmake_builds_goes_into_the_package() -> None:
    rules = (ROOT / "native/CMakeLists.txt").read_text("utf-8")
    assert re.search(r"install\(TARGETS _native LIBRARY DESTINATION chunkstore\)", rules)
