"""What is particular to a local disk: durability, symbolic links, crashes, forks."""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chunkstore.errors import InvalidDataset, ReadOnlyStore, StoreError
from chunkstore.store import local as module
from chunkstore.store.local import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "data")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the store, with something to steal."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "object").write_bytes(b"not yours")
    return folder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the store asks of the disk, in order: syncs with the kind of what is synced, renames, links."""
    seen: list[str] = []
    real_sync = os.fsync

    def sync(fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        seen.append(f"sync {'folder' if path.is_dir() else 'file'} {path}")
        real_sync(fd)

    monkeypatch.setattr(os, "fsync", sync)
    for name in ("rename", "link"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *paths, name=name, real=real, **more: (seen.append(name), real(*paths, **more))[1]
        )
    return seen


@pytest.mark.parametrize("way", ["write", "open_upload", "write_if_absent"])
def test_nothing_is_acknowledged_before_file_and_folders_are_synced(
    store: LocalStore, calls: list[str], way: str
) -> None:
    if way == "open_upload":
        with store.open_upload("new/folder/object") as upload:
            upload.write(b"1")
    else:
        getattr(store, way)("new/folder/object", b"1")
    root = store.url
    # every new folder is an entry of its parent, and that must last too
    assert calls[:3] == [f"sync folder {Path(root).parent}", f"sync folder {root}", f"sync folder {root}/new"]
    file, place, folder = calls[3:]
    assert file.startswith(f"sync file {root}/new/folder/object~")
    assert place == ("link" if way == "write_if_absent" else "rename")
    assert folder == f"sync folder {root}/new/folder"


def test_a_reader_sees_the_old_object_or_the_new_one(store: LocalStore) -> None:
    store.write("object", b"a" * 100_000)
    with store.opened("object") as fd:
        store.write("object", b"b" * 50_000)
        assert os.pread(fd, 200_000, 0) == b"a" * 100_000
    assert store.read("object") == b"b" * 50_000


@pytest.mark.parametrize("link", ["file", "folder", "chain", "absolute", "root_above"])
def test_a_symbolic_link_that_leads_outside_is_not_followed(store: LocalStore, outside: Path, link: str) -> None:
    store.write("folder/own", b"1")
    root = Path(store.url)
    match link:
        case "file":
            (root / "folder/object").symlink_to("../../outside/object")
        case "folder":
            (root / "folder").rename(root / "moved")
            (root / "folder").symlink_to(outside)
        case "chain":
            (root / "folder/other").symlink_to("../../outside/object")
            (root / "folder/object").symlink_to("other")
        case "absolute":
            (root / "folder/object").symlink_to(outside / "object")
        case "root_above":
            # a sibling whose name begins with the store's
            (root.parent / "data2").mkdir()
            (root.parent / "data2/object").write_bytes(b"not yours")
            (root / "folder/object").symlink_to(root.parent / "data2/object")
    attempts: list[Callable[[], object]] = [
        lambda: store.read("folder/object"),
        lambda: store.read_ranges("folder/object", [(0, 1)]),
        lambda: store.path("folder/object"),
    ]
    if link == "folder":
        attempts += [
            lambda: store.write("folder/object", b"2"),
            lambda: store.write("folder/deeper/object", b"2"),
            lambda: store.write_if_absent("folder/new", b"2"),
            lambda: store.open_upload("folder/new"),
            lambda: store.delete(["folder/object"]),
        ]
    for attempt in attempts:
        with pytest.raises(InvalidDataset, match="outside the dataset"):
            attempt()
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == {"object": b"not yours"}
    assert "folder/object" not in {listed.key for listed in store.list()}


def test_nothing_is_listed_below_a_link(store: LocalStore, outside: Path) -> None:
    store.write("own/object", b"1")
    (Path(store.url) / "link").symlink_to(outside)
    (Path(store.url) / "own/link").symlink_to(outside)
    assert [listed.key for prefix in ("", "link", "own/link", "own") for listed in store.list(prefix)] == [
        "own/object"
    ] * 2


def test_writing_over_a_link_replaces_the_link_and_not_its_target(store: LocalStore, outside: Path) -> None:
    store.write("own", b"1")
    link = Path(store.url) / "object"
    link.symlink_to(outside / "object")
    assert not store.write_if_absent("object", b"2")
    store.write("object", b"2")
    assert (outside / "object").read_bytes() == b"not yours"
    assert not link.is_symlink()
    link.unlink()
    link.symlink_to(outside / "object")
    store.delete(["object"])
    assert (outside / "object").exists()
    assert not link.is_symlink()


def test_links_that_stay_inside_and_a_root_that_is_a_link_are_followed(store: LocalStore, tmp_path: Path) -> None:
    store.write("folder/object", b"1")
    (Path(store.url) / "folder/link").symlink_to("object")
    (tmp_path / "link").symlink_to(store.url)
    assert LocalStore(tmp_path / "link").read("folder/link") == b"1"
    assert LocalStore(tmp_path / "link").path("folder/link").read_bytes() == b"1"


def test_a_link_to_itself_is_an_error(store: LocalStore) -> None:
    store.write("own", b"1")
    (Path(store.url) / "object").symlink_to("object")
    with pytest.raises(InvalidDataset, match="object"):
        store.read("object")


@pytest.mark.timeout(20)
def test_a_pipe_in_place_of_an_object_does_not_hang(store: LocalStore) -> None:
    store.write("own", b"1")
    os.mkfifo(Path(store.url) / "object")
    with pytest.raises(InvalidDataset, match="regular file"):
        store.read("object")
    assert [listed[:2] for listed in store.list()] == [("own", 1)]


def test_names_that_are_no_keys_and_unfinished_files_are_not_listed(store: LocalStore) -> None:
    store.write("folder/object", b"1")
    for name in ("with space", "object~0123", "ü"):
        (Path(store.url) / "folder" / name).write_bytes(b"x")
    assert [listed[:2] for listed in store.list()] == [("folder/object", 1)]


def test_unfinished_files_are_listed_apart_and_nothing_else_is_deleted_as_one(store: LocalStore) -> None:
    store.write("a/b", b"whole")
    with store.open_upload("a/b") as upload, store.open_upload("c") as other:
        upload.write(b"half")
        (listed,) = store.list_unfinished("a")
        assert (listed.key.partition("~")[0], listed.nbytes) == ("a/b", 4)
        assert [one.key[0] for one in store.list_unfinished(deep=False)] == ["c"]
        assert len(list(store.list_unfinished())) == 2
        other.write(b"?")
    assert not list(store.list_unfinished())
    for key in ("a/b", "a/b~1", "../c~" + "0" * 32, "a/~" + "0" * 32, "/c~" + "0" * 32):
        with pytest.raises(ValueError, match=r"unfinished|key"):
            store.delete_unfinished([key])
    assert store.read("a/b") == b"half"


def test_deleting_removes_folders_that_are_empty_but_never_the_root(store: LocalStore) -> None:
    store.write("a/b/1", b"1")
    store.write("a/2", b"2")
    store.delete(["a/b/1"])
    assert not (Path(store.url) / "a/b").exists()
    store.delete(["a/2"])
    assert list(Path(store.url).iterdir()) == []


def test_a_folder_in_the_way_is_an_error(store: LocalStore) -> None:
    store.write("object/below", b"1")
    with pytest.raises(StoreError, match="object"):
        store.write("object", b"1")
    with pytest.raises(StoreError, match="object"):
        store.write("object/below/deeper", b"1")
    assert [listed[:2] for listed in store.list()] == [("object/below", 1)]
    assert sorted(path.name for path in Path(store.url).rglob("*")) == ["below", "object"]


def test_a_file_system_without_links_cannot_commit(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*paths: object, **more: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    with pytest.raises(ReadOnlyStore, match="hard links"):
        store.check_commits()
    assert list(Path(store.url).rglob("*~*")) == []


def test_a_link_that_fails_after_it_was_made_counts(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NFS does, when the answer was lost and the request is repeated."""
    real_link = os.link

    def link_twice(*paths: str, **more: bool) -> None:
        real_link(*paths, **more)  # type: ignore[arg-type]
        real_link(*paths, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", link_twice)
    assert store.write_if_absent("object", b"1")
    assert not store.write_if_absent("object", b"2")
    assert store.read("object") == b"1"


def test_an_object_that_shrinks_while_it_is_read_is_an_error(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("object", bytes(1000))
    real_pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, nbytes, start: real_pread(fd, min(nbytes, max(0, 500 - start)), start))
    with pytest.raises(StoreError, match="shorter"):
        store.read("object")
    monkeypatch.setattr(os, "pread", lambda fd, nbytes, start: real_pread(fd, min(nbytes, 7), start))
    assert store.read("object") == bytes(1000)


_FULL = """
import resource, signal, sys
from chunkstore.errors import StoreError
from chunkstore.store.local import LocalStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
store = LocalStore(sys.argv[1])
for call in (lambda: store.write("a", bytes(2 << 20)), lambda: store.write_if_absent("b", bytes(2 << 20))):
    try:
        call()
    except StoreError as error:
        print(error)
    else:
        raise SystemExit("no error")
store.write("small", b"1")
"""


def test_a_disk_that_takes_no_more_leaves_nothing_behind(store: LocalStore) -> None:
    subprocess.run([sys.executable, "-c", _FULL, store.url], check=True, timeout=60, stdout=subprocess.PIPE)
    assert [path.name for path in Path(store.url).iterdir()] == ["small"]


_KILLED = """
import sys
from chunkstore.store.local import LocalStore
store = LocalStore(sys.argv[1])
upload = store.open_upload("object")
upload.write(b"new")
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_killed_writer_leaves_the_old_object(store: LocalStore) -> None:
    store.write("object", b"old")
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, store.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    assert store.read("object") == b"old"
    assert [listed[:2] for listed in store.list()] == [("object", 3)]


_FORK = """
import os, signal, sys
from chunkstore.store.local import LocalStore
signal.alarm(20)
store = LocalStore(sys.argv[1])
store.write("object", b"1")
upload = store.open_upload("upload")
upload.write(b"from the parent")
pid = os.fork()
if pid == 0:
    assert store.read("object") == b"1"
    store.write("child", b"2")
    assert store.write_if_absent("fresh", b"3")
    store.check_commits()
    upload.abort()  # its file is the parent's
    os._exit(0)
_, status = os.waitpid(pid, 0)
assert status == 0, status
upload.finish()
assert store.read("upload") == b"from the parent"
assert store.read("child") == b"2"
"""


def test_a_store_goes_on_working_in_a_forked_child(store: LocalStore) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", _FORK, store.url], check=True, timeout=60)


def test_a_forgotten_upload_removes_its_file(store: LocalStore) -> None:
    upload = store.open_upload("object")
    upload.write(b"1")
    assert len(list(Path(store.url).iterdir())) == 1
    del upload
    assert list(Path(store.url).iterdir()) == []


def test_files_obey_the_umask(store: LocalStore) -> None:
    before = os.umask(0o027)
    try:
        store.write("object", b"1")
        store.write_if_absent("other", b"1")
    finally:
        os.umask(before)
    for name in ("object", "other"):
        assert (Path(store.url) / name).stat().st_mode & 0o777 == 0o640


def test_a_probe_remembers_the_folder_and_not_the_object(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    pickle.loads(pickle.dumps(store)).check_commits()  # noqa: S301
    monkeypatch.setattr(os, "link", None)
    LocalStore(store.url).check_commits()


def test_what_the_system_forbids_is_a_permission_error(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    store.write("object", b"1")
    monkeypatch.setattr(module.os, "open", forbid)
    with pytest.raises(PermissionError, match=r"cannot read .*object: Permission denied"):
        store.read("object")
    with pytest.raises(PermissionError, match="cannot write"):
        store.write("object", b"2")
