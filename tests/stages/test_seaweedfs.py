"""The S3 server comes up, says why when it does not, and leaves nothing behind."""

import os
import signal
import socket
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from chunkstore.errors import StoreError
from chunkstore.stages import seaweedfs as module
from chunkstore.stages.seaweedfs import seaweedfs
from chunkstore.store.location import open_store


def _processes_of_group(group: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if os.getpgid(int(folder.name)) == group:
                    found.append(int(folder.name))
            except ProcessLookupError:
                continue
    return found


def _ports_listened_on(pid: int) -> set[str]:
    """Local addresses (hexadecimal) on which a process listens."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and columns[9] in inodes:
                found.add(columns[1].split(":")[0])
    return found


def test_it_stores_objects_on_loopback_only_and_ends_with_the_block(tmp_path: Path) -> None:
    with seaweedfs(tmp_path / "a folder") as endpoint:
        endpoint.check()
        store = open_store("s3://bucket/data", storage_options=endpoint.storage_options())
        store.write("object", b"1")
        assert store.read("object") == b"1"
        assert _ports_listened_on(endpoint.pid) == {"0100007F"}
        assert endpoint.secret_access_key not in repr(endpoint)
        assert endpoint.reader_secret_access_key not in repr(endpoint)
    assert _processes_of_group(endpoint.pid) == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", urlsplit(endpoint.url).port or 0), timeout=5)


def test_an_error_in_the_block_ends_it_too(tmp_path: Path) -> None:
    with pytest.raises(KeyError), seaweedfs(tmp_path) as endpoint:
        raise KeyError
    assert _processes_of_group(endpoint.pid) == []


def test_a_server_that_died_says_so_with_its_log(tmp_path: Path) -> None:
    with seaweedfs(tmp_path) as endpoint:
        os.kill(endpoint.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        with pytest.raises(StoreError, match=r"(?s)has ended; its log ends:.*master"):
            while time.monotonic() < deadline:
                endpoint.check()
                time.sleep(0.01)


def _script(folder: Path, code: str) -> Path:
    path = folder / "weed"
    path.write_text(f"#!{sys.executable}\n{code}")
    path.chmod(0o755)
    return path


def test_a_server_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = _script(tmp_path, "import sys; sys.exit('no space for volumes')")
    monkeypatch.setattr(module, "find_weed", lambda: binary)
    with pytest.raises(StoreError, match=r"(?s)status 1.*no space for volumes"), seaweedfs(tmp_path / "home"):
        pass


def test_a_server_that_never_answers_is_given_up_and_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid_file = tmp_path / "pid"
    binary = _script(
        tmp_path,
        "import os, signal, time, pathlib\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))\n"
        "print('waiting for godot', flush=True)\ntime.sleep(600)",
    )
    monkeypatch.setattr(module, "find_weed", lambda: binary)
    with pytest.raises(StoreError, match="waiting for godot"), seaweedfs(tmp_path / "home", timeout_s=2):
        pass
    assert _processes_of_group(int(pid_file.read_text())) == []


def test_without_the_binary_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(module.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="demo"):
        module.find_weed()
