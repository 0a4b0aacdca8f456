"""`chunkstore demo` as a user runs it: in a process of its own, from the first line to the last, and interrupted."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHUNKSTORE = [sys.executable, "-m", "chunkstore"]
CPU_LIMIT_S = 60.0
"""Of the demo and all its processes: what it takes whatever else is running; two idle cores make it less than a minute."""
TIMEOUT_S = 240.0
"""For a machine that is busy with other things."""
INTERRUPTS_WITHIN_S = 3.0
"""A second is the aim; the machine may be busy with other things."""


def running_in(folder: Path) -> list[str]:
    """Commands of processes whose temporary folder is `folder` or lies in it."""
    commands = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if f"TMPDIR={folder}".encode() in environment and command:
            commands.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return commands


@pytest.fixture
def temporary(tmp_path):
    """A temporary folder for the demo, which must be empty again, with nothing running, when the demo has ended."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []
    assert running_in(folder) == []


def start(temporary: Path, *arguments: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "TMPDIR": str(temporary), "COLUMNS": "80", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [*CHUNKSTORE, "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )


def run(temporary: Path, *arguments: str) -> str:
    before_s = cpu_of_ended_processes_s()
    process = start(temporary, *arguments)
    try:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    assert process.returncode == 0, output
    cpu_s = cpu_of_ended_processes_s() - before_s
    assert 1 < cpu_s < CPU_LIMIT_S, f"{cpu_s:.1f} s of CPU"
    return output


def cpu_of_ended_processes_s() -> float:
    """CPU time of this process's children that have ended, and of theirs: the demo waits for all that it starts."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def check_told(output: str) -> None:
    accuracy = re.search(r"Accuracy of the resumed model on digits it never saw +([\d.]+)%", output)
    assert accuracy is not None, output
    assert float(accuracy[1]) >= 95
    assert "640 + 399 + 399 samples" in output
    assert re.search(r"Stopped epoch: samples before, then in each process +640 \+ 399 \+ 399 *$", output, re.M)
    assert re.search(r"Numba just now|Numba compiled in an earlier run", output)
    fractions = re.findall(r"^ +(\w+) +([\d,]+) +([\d,]+) +([\d,]+) +([\d.]+)%", output, re.M)
    assert [name for name, *_ in fractions] == ["digits", "tiles", "sources", "tokens"]
    for _, _, loader, storage, fraction in fractions:
        rates = [int(rate.replace(",", "")) for rate in (loader, storage)]
        assert float(fraction) == pytest.approx(100 * rates[0] / rates[1], abs=0.06, rel=1e-3)
    assert "1,438 of 1,438 samples, none twice, none missing" in " ".join(output.split())
    assert re.search(r"Epochs that gave each sample exactly once +8 of 8", output)
    for name in ("digits", "tiles", "sources", "tokens"):
        assert len(re.findall(rf"^ +{name} ", output, re.M)) == 2, f"{name} is in both tables"
    assert "\x1b" not in output
    assert max(map(len, output.splitlines())) <= 80


def test_demo_in_a_folder_leaves_datasets_that_its_last_lines_read(temporary, tmp_path):
    folder = tmp_path / "kept"
    output = run(temporary, "--folder", str(folder))
    check_told("\n".join(line for line in output.splitlines() if str(folder) not in line))
    code = "\n".join(
        line.strip() for line in output.splitlines() if line.startswith(("    import", "    print", "    for"))
    )
    assert len(code.splitlines()) == 3
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("china.jpg, row 0")
    assert lines[1] == "(256, 8, 8)"
    assert (folder / "checkpoint" / "loader.json").is_file()


def test_demo_on_s3_stops_its_server_and_removes_everything(temporary):
    output = run(temporary, "--s3")
    assert "SeaweedFS at http://127.0.0.1:" in output
    check_told(output)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        pytest.param([], "Real data found", id="while-writing"),
        pytest.param([], "Shuffle ready", id="while-training"),
        pytest.param([], "A second version appended", id="while-two-processes-train"),
        pytest.param(["--s3"], "S3 server started", id="while-a-server-runs"),
    ],
)
def test_an_interrupted_demo_ends_at_once_and_leaves_nothing(temporary, arguments, line):
    process = start(temporary, *arguments)
    try:
        said = ""
        for told in process.stdout:
            said += told
            if line in told:
                break
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        rest = process.stdout.read()
        process.wait(TIMEOUT_S)
        took_s = time.monotonic() - begin
    finally:
        process.kill()
        process.stdout.close()
    assert process.returncode == 128 + signal.SIGINT, said + rest
    assert "Interrupted." in rest
    assert "Traceback" not in rest
    assert took_s < INTERRUPTS_WITHIN_S


def test_terminated_is_as_interrupted(temporary):
    process = start(temporary)
    assert process.stdout is not None
    while "Libraries loaded" not in process.stdout.readline():
        pass
    process.terminate()
    assert "Interrupted." in process.stdout.read()
    process.stdout.close()
    assert process.wait(TIMEOUT_S) == 128 + signal.SIGTERM
