"""Importing the package is cheap: what is heavy is loaded by whoever uses it, when they do."""

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "numba", "zarr", "numcodecs", "fsspec", "s3fs", "obstore", "PIL", "rich", "typer", "sklearn"}


def modules_after(code: str) -> set[str]:
    command = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_importing_chunkstore_loads_nothing_heavy():
    loaded = modules_after("import chunkstore")
    assert "chunkstore" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize(
    "module",
    ["chunkstore.errors", "chunkstore.format.statistics", "chunkstore.kernels.images", "chunkstore.plan.reads"],
)
def test_modules_that_only_decide_load_nothing_heavy(module):
    assert not modules_after(f"import {module}") & HEAVY
