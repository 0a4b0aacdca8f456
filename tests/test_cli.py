"""The command line as a shell sees it: what is printed where, exit statuses, and how soon."""

import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest

import chunkstore as cs
from chunkstore import cli
from chunkstore.stages import info


def chunkstore(*arguments, **options):
    command = [sys.executable, "-m", "chunkstore", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "data"
    with cs.create(folder, {"x": cs.Array("float32", (3,)), "note": cs.Text()}, message="the first") as writer:
        writer.write_batch({"x": np.arange(30, dtype=np.float32).reshape(10, 3), "note": ["abc"] * 10})
    with cs.append(folder, message="the second") as writer:
        writer.write_batch({"x": np.full((5, 3), np.nan, np.float32), "note": [""] * 5})
    return folder


def test_version_is_printed():
    done = chunkstore("--version")
    assert (done.returncode, done.stdout) == (0, f"chunkstore {cs.__version__}\n")


def test_help_names_the_commands_and_loads_nothing_heavy():
    done = chunkstore("--help")
    assert done.returncode == 0
    assert "demo" in done.stdout
    assert "info" in done.stdout
    code = "import json, sys, chunkstore.cli; print(json.dumps(list(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert not {"torch", "numba", "zarr", "numcodecs", "obstore", "fsspec", "sklearn", "numpy"} & set(loaded)


@pytest.mark.parametrize("arguments", [[], ["demo"], ["info"], ["gc"], ["compact"]])
def test_help_says_no_type_beside_a_flag(arguments):
    done = chunkstore(*arguments, "--help")
    assert "--help" in done.stdout
    assert "bool" not in done.stdout.lower()


def test_help_comes_at_once():
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        chunkstore("--help")
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.5 or min(times) < 5 * bare_start_s(), "the machine is slow, or the command line is"


def bare_start_s() -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import typer, rich.table"], check=True)
    return time.perf_counter() - begin


def test_info_of_the_build_names_what_is_compiled_in():
    done = chunkstore("info", "--build")
    assert done.returncode == 0
    for name in ("blosc2", "zstd", "lz4", "jpeg", "crc32c", "compiler", "numpy", "zarr", "torch"):
        assert name in done.stdout


def test_info_of_a_dataset_shows_fields_sizes_and_statistics(dataset):
    done = chunkstore("info", dataset, env={"COLUMNS": "120", "PATH": "/usr/bin:/bin"})
    assert done.returncode == 0
    for told in ("the second", "15 in 2 fragments", "Array float32 (3,)", "Text", "lengths", "29", "zstd-3", "decoded"):
        assert told in done.stdout, done.stdout


def test_info_cuts_nothing_off_where_the_terminal_is_narrow(dataset):
    done = chunkstore("info", dataset, env={"COLUMNS": "30", "PATH": "/usr/bin:/bin"})
    for told in ("x", "Array float32 (3,)", "values", "29", "note", "lengths"):
        assert re.search(rf"(?<!\S){re.escape(told)}(?!\S)", done.stdout), done.stdout
    assert "…" not in done.stdout


@pytest.mark.parametrize(
    ("field", "told"),
    [
        (cs.Array("int64"), "Array int64"),
        (cs.Array("float32", (2, 3), codec="zstd-3"), "Array float32 (2, 3)"),
        (cs.Ragged("uint16"), "Ragged uint16"),
        (cs.Ragged("float32", (None, 3)), "Ragged float32 (·, 3)"),
        (cs.Image("jpeg"), "Image jpeg"),
        (cs.Image("png", "L"), "Image png L"),
        (cs.Text(), "Text"),
        (cs.Bytes("audio/flac"), "Bytes audio/flac"),
        (cs.Bytes(), "Bytes"),
    ],
)
def test_a_type_is_told_in_a_few_words(field, told):
    assert info._type(field) == told


def test_info_of_an_older_version(dataset):
    done = chunkstore("info", dataset, "--version", "1")
    assert "10 in 1 fragment" in done.stdout
    assert "the first" in done.stdout


def test_versions_are_listed_tagged_compared_and_gone_back_to(tmp_path):
    wide = {"COLUMNS": "120", "PATH": "/usr/bin:/bin"}
    folder = tmp_path / "data"
    with cs.create(folder, {"x": cs.Array("int64")}, message="the [bold]first") as writer:
        writer.write_batch({"x": np.arange(1500)})
    with cs.append(folder, message="the second") as writer:
        writer.write_batch({"x": np.arange(7)})
    assert chunkstore("tag", folder, "v1", "--version", 1).stdout == "v1 is version 1\n"
    assert chunkstore("tag", folder, "best").stdout == "best is version 2\n"
    done = chunkstore("rollback", folder, 1, "--message", "no, the first")
    assert (done.returncode, done.stdout) == (0, "version 3 has the contents of version 1\n")
    lines = chunkstore("versions", folder, env=wide).stdout.splitlines()
    rows = [line.split() for line in lines if line.strip() and line.split()[0].isdecimal()]
    assert [(row[0], row[1], row[4]) for row in rows] == [("1", "–", "1,500"), ("2", "1", "1,507"), ("3", "2", "1,500")]
    assert [" ".join(row[5:]) for row in rows] == ["v1 the [bold]first", "best the second", "no, the first"]
    told = chunkstore("versions", folder, "--diff", 3, 2, env=wide).stdout
    assert re.search(r"samples +7 +0", told)
    assert cs.open(folder, version=2).version_document.fragments[1].id in told
    assert "1,500 → 1,507" in told
    told = chunkstore("versions", folder, "--diff", 1, 3, env=wide).stdout
    assert told == "versions 1 and 3 have the same samples, fields and statistics\n"


def test_versions_and_orphans_are_given_up_and_it_is_told(tmp_path):
    folder = tmp_path / "data"
    with cs.create(folder, {"x": cs.Array("int64")}) as writer:
        writer.write({"x": 0})
    for value in range(1, 5):
        with cs.append(folder) as writer:
            writer.write({"x": value})
    cs.tag(folder, "v2", 2)
    done = chunkstore("compact", folder, "--target-size", "1 MiB", "--message", "tidy")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("version 6 has the samples of version 5 in 1 fragment where there were 5")
    assert cs.versions(folder)[-1].message == "tidy"
    assert chunkstore("compact", folder).stdout == "nothing to compact\n"
    orphan = folder / "fragments" / ("0" * 32) / "0" / "zarr.json"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"?")
    told = chunkstore("gc", folder, "--keep-versions", 1, "--dry-run").stdout
    assert re.fullmatch(r"would drop 4 versions: 1, 3–5\nwould delete 3 fragments in \d+ objects, [\d.]+ kB\n", told)
    assert chunkstore("gc", folder, "--keep-versions", 1, "--dry-run").stdout == told
    told = chunkstore("gc", folder, "--keep-versions", 1, "--orphan-age", "0s").stdout
    assert re.match(r"dropped 4 versions: 1, 3–5\ndeleted 3 fragments, 1 orphan in \d+ objects, [\d.]+ kB\n", told)
    assert told.endswith("committed version 7, which says what was given up\n")
    assert not orphan.exists()
    assert [line.number for line in cs.versions(folder)] == [2, 6, 7]
    done = chunkstore("gc", folder, "--keep-versions", 1)
    assert (done.returncode, done.stdout) == (0, "nothing to drop or to delete\n")
    assert cs.open(folder)["x"][:].tolist() == [0, 1, 2, 3, 4]
    done = chunkstore("info", folder, "--version", 3)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("VersionExpired: ")


@pytest.mark.parametrize(
    ("text", "units", "value"),
    [
        ("1d", cli._SECONDS, 86400),
        ("1.5 h", cli._SECONDS, 5400),
        ("90", cli._SECONDS, 90),
        ("512MB", cli._BYTES, 512_000_000),
        ("1GiB", cli._BYTES, 1 << 30),
        ("4 kib", cli._BYTES, 4096),
        ("7", cli._BYTES, 7),
    ],
)
def test_ages_and_sizes_are_written_as_people_write_them(text, units, value):
    assert cli._parse(text, units, "") == value


def test_errors_of_history_are_one_message_and_status_1(dataset, tmp_path):
    chunkstore("tag", dataset, "once", "--version", 1)
    for arguments, error in (
        (["tag", dataset, "once"], "CommitConflict: "),
        (["tag", dataset, "more", "--version", 9], "DatasetNotFound: "),
        (["rollback", dataset, 9], "DatasetNotFound: "),
        (["versions", tmp_path / "nothing"], "DatasetNotFound: "),
        (["versions", dataset, "--diff", 1, 9], "DatasetNotFound: "),
        (["gc", tmp_path / "nothing"], "DatasetNotFound: "),
        (["compact", tmp_path / "nothing"], "DatasetNotFound: "),
    ):
        done = chunkstore(*arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(error)
        assert len(done.stderr.splitlines()) == 1


def test_errors_of_the_package_are_one_message_and_status_1(tmp_path):
    done = chunkstore("info", tmp_path / "nothing")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("DatasetNotFound: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["info"],
        ["info", "x", "--build"],
        ["demo", "--s3", "--folder", "x"],
        ["nonsense"],
        ["tag", "x", "../y"],
        ["rollback", "x", "first"],
        ["gc", "x", "--keep-versions", 0],
        ["gc", "x", "--orphan-age", "-1d"],
        ["gc", "x", "--orphan-age", "soon"],
        ["compact", "x", "--target-size", "0"],
        ["compact", "x", "--target-size", "big"],
    ],
)
def test_wrong_usage_is_status_2(arguments):
    done = chunkstore(*arguments)
    assert done.returncode == 2
    assert "Usage: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["versions", ""], "empty"),
        (["info", "s3://user@bucket/x"], "environment variables such as"),
        (["versions", "foo://x"], "foo"),
        (["versions", "http://example.org/x"], "Use https"),
        (["gc", "http://example.org/x"], "from Python alone"),
    ],
)
def test_a_url_that_cannot_be_is_wrong_usage_told_in_one_line(arguments, told):
    done = chunkstore(*arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "storage_options" not in done.stderr
    assert "user@" not in done.stderr


def test_what_a_stranger_wrote_does_not_reach_the_terminal_as_control_characters(tmp_path):
    folder, message = tmp_path / "data", "\x1b]0;pwned\x07\x9b2J\x1b[31mred\u202e\r\x7f"
    with cs.create(folder, {"x": cs.Array("int64")}, message=message) as writer:
        writer.write_batch({"x": np.arange(3)})
    shown = [chunkstore(command, folder) for command in ("versions", "info")]
    (part,) = folder.glob("fragments/*/0")
    (part / "zarr.json").write_bytes(b"\x1b[31m")
    shown += [chunkstore("verify", folder), chunkstore("info", tmp_path / "\x1b[31mnone")]
    for done in shown:
        assert not set(done.stdout + done.stderr) & {
            *map(chr, range(10)),
            *map(chr, range(11, 32)),
            *map(chr, range(127, 160)),
        }
        assert "\u202e" not in done.stdout
    assert "pwned" in shown[0].stdout
    assert "red" in shown[1].stdout
