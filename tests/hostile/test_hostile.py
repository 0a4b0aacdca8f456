"""Hostile datasets are refused by the right error, in under 100 ms of processor time and 64 MB, and never served.

The corpus is the generator: `cases_*.py` say in words and a few lines what each dataset claims, `forgery.py` makes the files.
A group is opened by a process of its own, so that one that would hang or crash is found and named.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hostile import cases_arrays, cases_data, cases_documents, cases_store, cases_version
from hostile.forgery import NUM_SAMPLES, Case, forgery, valid_files

MAX_SECONDS = 0.1
MAX_NBYTES = 64_000_000
_GROUPS = {
    "documents": cases_documents.CASES,
    "versions": cases_version.CASES,
    "arrays": cases_arrays.CASES,
    "data": cases_data.CASES,
    "store": cases_store.CASES,
}
_CASES = [pytest.param(group, case, id=f"{group}: {case.name}") for group, cases in _GROUPS.items() for case in cases]

Found = dict[str, Any]


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """What reading gave, by the id of the case."""
    root = tmp_path_factory.mktemp("hostile")
    files = valid_files(root / "valid")
    results: dict[str, Found] = {}
    for group, cases in _GROUPS.items():
        folders = []
        for number, case in enumerate(cases):
            forged = forgery(root / "valid", files)
            case.forge(forged)
            folders.append(root / group / str(number) / "dataset")
            forged.write(folders[-1])
        results |= read(root / "valid", cases, folders, group)
    return results


def read(valid: Path, cases: list[Case], folders: list[Path], group: str) -> dict[str, Found]:
    asked = [{"folder": str(valid)}]
    asked += [{"folder": str(folder), "act": case.act} for folder, case in zip(folders, cases, strict=True)]
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("readers.py")],
        input="\n".join(map(json.dumps, asked)),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    named = {f"{group}: {case.name}": line for case, line in zip(cases, lines, strict=False)}
    for case in cases[len(lines) :]:  # the first of these ended the process
        named[f"{group}: {case.name}"] = {"error": f"exit {done.returncode}", "told": done.stderr[-2000:]}
    return named


@pytest.mark.parametrize(("group", "case"), _CASES)
def test_a_hostile_dataset_is_refused_quickly_and_in_little_memory(
    group: str, case: Case, found: dict[str, Found]
) -> None:
    got = found[f"{group}: {case.name}"]
    if case.error:
        assert got["error"] in case.error.split(), got["told"][:2000]
        assert case.told in got["told"]
        assert len(got["told"]) < 2_000, "a message that nobody can read"
    else:
        assert got["error"] == "", got["told"]
        assert got["labels"] == str([*range(NUM_SAMPLES)])
    assert got["seconds"] < MAX_SECONDS
    assert got["nbytes"] < MAX_NBYTES


@pytest.mark.parametrize(("group", "case"), _CASES)
def test_verify_never_passes_a_hostile_dataset(group: str, case: Case, found: dict[str, Found]) -> None:
    verified = found[f"{group}: {case.name}"]["verify"]
    assert verified["error"] in (
        "",
        "UnsupportedFormat",
        "InvalidDataset",
        "DatasetNotFound",
        "MissingObject",
        "StoreError",
    ), verified
    assert verified["error"] or not (verified["ok"] and case.found)
    assert verified["nbytes"] < MAX_NBYTES


@pytest.mark.parametrize(("group", "case"), _CASES)
def test_what_tells_of_a_hostile_dataset_refuses_it_or_tells_quickly(
    group: str, case: Case, found: dict[str, Found]
) -> None:
    for act, got in found[f"{group}: {case.name}"]["others"].items():
        known = ("", "InvalidDataset", "UnsupportedFormat", "MissingObject", "DatasetNotFound", "StoreError")
        assert got["error"] in known, (act, got["told"][:2000])
        assert len(got["told"]) < 2_000, act
        documents = 2 if act == "diff" else 1  # which it reads
        assert got["seconds"] < MAX_SECONDS * documents, act
        assert got["nbytes"] < MAX_NBYTES, act


def test_the_corpus_is_of_a_hundred_cases_or_more() -> None:
    names = [f"{group}: {case.name}" for group, cases in _GROUPS.items() for case in cases]
    assert len(set(names)) == len(names) >= 100


def test_what_is_not_forged_is_served_and_verified(tmp_path: Path) -> None:
    forged = forgery(tmp_path / "valid", valid_files(tmp_path / "valid"))
    forged.write(tmp_path / "same")
    untouched = Case("untouched", lambda _: None, error="", act="all")
    got = read(tmp_path / "valid", [untouched], [tmp_path / "same"], "none")["none: untouched"]
    assert got["labels"] == str([*range(NUM_SAMPLES)])
    assert got["verify"]["ok"]
