"""Datasets on a local disk or a mounted file system.

Every object is a file below one folder. A file appears whole or not at all: it is written beside its final place, synced,
then renamed (or linked, where nothing may be there yet), then its folder is synced. No file outside the folder is ever
read or written, whatever symbolic links a dataset brings along. There are no threads and no locks here, so a store goes on
working in a forked child.
"""

import contextlib
import errno
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from chunkstore.errors import InvalidDataset, ReadOnlyStore, StoreError
from chunkstore.store.interface import (
    Data,
    Listed,
    NotDurable,
    Upload,
    check_key,
    check_prefix,
    check_ranges,
    is_segment,
)
from chunkstore.store.probe import check_commits_once

_Result = TypeVar("_Result")

# Outside the alphabet of keys, so an unfinished file can neither be asked for nor be listed.
_UNFINISHED = "~"
_UNFINISHED_NAME = re.compile(rf"(.+){_UNFINISHED}[0-9a-f]{{32}}")
# A FIFO or a device with a key's name must not block or become our terminal.
_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_MKDIR_ATTEMPTS = 10
_MAX_VECTOR = 1024  # IOV_MAX


class LocalStore:
    """A store in a folder; the folder is made by the first write."""

    is_local = True

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = os.path.abspath(root)
        # What a file's real path must start with.
        self._real_root = os.path.realpath(self._root).rstrip(os.sep)

    def __repr__(self) -> str:
        return f"LocalStore({self._root!r})"

    @property
    def url(self) -> str:
        """The absolute path of the folder."""
        return self._root

    def path(self, key: str) -> Path:
        """Give the file of a key, which may not exist.

        Raises:
            InvalidDataset: a symbolic link leads out of the folder.
        """
        path = self._join(check_key(key))
        self._check_inside(key, os.path.realpath(path))
        return Path(path)

    def read(self, key: str, *, limit_nbytes: int | None = None) -> bytes:
        """Read a whole object; see `Store.read`."""
        with self.opened(key) as fd:
            nbytes = os.fstat(fd).st_size
            if limit_nbytes is not None and nbytes > limit_nbytes:
                raise ValueError(f"{self._root}/{key} has {nbytes} bytes, more than the {limit_nbytes} expected")
            return self._pread(fd, key, 0, nbytes)

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Read byte ranges [start, stop); see `Store.read_ranges`."""
        check_ranges(ranges)
        with self.opened(key) as fd:
            nbytes = os.fstat(fd).st_size
            for start, stop in ranges:
                # before anything of that size is allocated
                if stop > nbytes:
                    raise StoreError(f"{self._root}/{key} has {nbytes} bytes, and [{start}, {stop}) was asked for")
            return [memoryview(self._pread(fd, key, start, stop)) for start, stop in ranges]

    def read_end(self, key: str, nbytes: int) -> tuple[int, memoryview]:
        """Read the size and the last bytes; see `Store.read_end`."""
        with self.opened(key) as fd:
            size = os.fstat(fd).st_size
            return size, memoryview(self._pread(fd, key, max(0, size - nbytes), size))

    @contextlib.contextmanager
    def opened(self, key: str) -> Iterator[int]:
        """Open an object, and give its file descriptor until the end of the block.

        Raises:
            FileNotFoundError: there is no such object.
            InvalidDataset: a symbolic link leads out of the folder, or it is no regular file.
        """
        path = self._join(check_key(key))
        fd = self._doing("read", key, lambda: os.open(path, _READ_FLAGS))
        try:
            self._check_inside(key, _real_path(fd, path))
            mode = os.fstat(fd).st_mode
            if stat.S_ISDIR(mode):
                raise FileNotFoundError(f"no object {key} in {self._root} (it is a folder)")
            if not stat.S_ISREG(mode):
                raise InvalidDataset(f"{self._root}/{key} is not a regular file")
            yield fd
        finally:
            os.close(fd)

    def write(self, key: str, data: Data) -> None:
        """Write a whole object, synced; see `Store.write`."""
        with self.open_upload(key) as upload:
            upload.write(data)

    def open_upload(self, key: str) -> "LocalUpload":
        """Start to write an object; see `Store.open_upload`."""
        path = self._join(check_key(key))
        return self._doing("write", key, lambda: LocalUpload(path, *self._create_beside(key, path)))

    def write_if_absent(self, key: str, data: Data) -> bool:
        """Write an object unless there is one, by `link`, which fails where a file is; see `Store.write_if_absent`."""
        path = self._join(check_key(key))
        return self._doing("write", key, lambda: self._link_if_absent(key, path, data))

    def list(self, prefix: str = "") -> Iterator[Listed]:
        """List objects; symbolic links and unfinished files are not shown. See `Store.list`."""
        return self._files(prefix, is_segment, deep=True)

    def list_unfinished(self, prefix: str = "", *, deep: bool = True) -> Iterator[Listed]:
        """List what writers have not finished, and never will if they are dead; see `LeavesFiles`."""
        return self._files(prefix, lambda name: _finished_name(name) is not None, deep=deep)

    def delete_unfinished(self, keys: Iterable[str]) -> None:
        """Delete unfinished files, and the folders that this leaves empty; see `LeavesFiles`."""
        for key in keys:
            folder, slash, name = key.rpartition("/")
            finished = _finished_name(name)
            if finished is None:
                raise ValueError(f"not an unfinished file: {key[:100]!r}")
            check_key(f"{folder}{slash}{finished}")
            path = self._join(key)
            self._doing("delete", key, lambda key=key, path=path: self._unlink(key, path))  # type: ignore[misc]

    def _files(self, prefix: str, is_wanted: Callable[[str], bool], *, deep: bool) -> Iterator[Listed]:
        """The regular files in a folder and below whose names are wanted."""
        folders = [check_prefix(prefix)]
        parts = folders[0].split("/")
        if any(os.path.islink(self._join("/".join(parts[: depth + 1]))) for depth in range(len(parts)) if folders[0]):
            return
        while folders:
            folder = folders.pop()
            with contextlib.ExitStack() as stack:
                try:
                    entries = stack.enter_context(os.scandir(self._join(folder) if folder else self._root))
                except (FileNotFoundError, NotADirectoryError):
                    continue
                for entry in entries:
                    key = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        if deep and is_segment(entry.name):
                            folders.append(key)
                    elif is_wanted(entry.name) and entry.is_file(follow_symlinks=False):
                        with contextlib.suppress(FileNotFoundError):
                            status = entry.stat(follow_symlinks=False)
                            yield Listed(key, status.st_size, status.st_mtime)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, and the folders that this leaves empty; see `Store.delete`."""
        for key in keys:
            path = self._join(check_key(key))
            self._doing("delete", key, lambda key=key, path=path: self._unlink(key, path))  # type: ignore[misc]

    def check_commits(self) -> None:
        """Race for a key, for network file systems do not all keep what POSIX promises; see `Store.check_commits`."""
        check_commits_once(self, f"file://{self._real_root}")

    def _join(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _check_inside(self, key: str, real_path: str) -> None:
        if not real_path.startswith(self._real_root + os.sep):
            raise InvalidDataset(
                f"{self._root}/{key} leads by a symbolic link to a place outside the dataset, and is not followed. Put the"
                " file itself there, or open the folder where it really is."
            )

    def _pread(self, fd: int, key: str, start: int, stop: int) -> bytes:
        pieces = []
        while start < stop:
            piece = self._doing("read", key, lambda: os.pread(fd, stop - start, start))  # noqa: B023  (called at once)
            if not piece:
                raise StoreError(
                    f"{self._root}/{key} became shorter while it was read: it ends at byte {start} of {stop}"
                )
            pieces.append(piece)
            start += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _create_beside(self, key: str, path: str) -> tuple[str, int]:
        """Create an unfinished file in the folder of `path`: its path and file descriptor."""
        unfinished = f"{path}{_UNFINISHED}{uuid.uuid4().hex}"
        for _ in range(_MKDIR_ATTEMPTS):
            self._make_folder(key, os.path.dirname(path))
            # `delete` elsewhere may remove the folder again while it is empty
            with contextlib.suppress(FileNotFoundError):
                return unfinished, os.open(unfinished, _WRITE_FLAGS, 0o666)
        raise StoreError(f"the folder of {self._root}/{key} vanishes as often as it is made: is something deleting it?")

    def _make_folder(self, key: str, folder: str) -> None:
        missing = []
        while not os.path.isdir(folder):
            missing.append(folder)
            folder = os.path.dirname(folder)
        if len(folder) >= len(self._root):
            self._check_inside(key, os.path.realpath(folder) + os.sep)
        for child in reversed(missing):
            with contextlib.suppress(FileExistsError):
                os.mkdir(child)
            _sync_folder(os.path.dirname(child))

    def _link_if_absent(self, key: str, path: str, data: Data) -> bool:
        unfinished, fd = self._create_beside(key, path)
        try:
            try:
                _write_all(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)
            try:
                os.link(unfinished, path, follow_symlinks=False)
            except OSError as error:
                # A file system over a network may repeat a request whose answer was lost, and fail on its own success.
                if not _same_file(unfinished, path):
                    if error.errno == errno.EEXIST:
                        return False
                    if error.errno in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}:
                        raise ReadOnlyStore(
                            f"the file system of {self._root} has no hard links ({error.strerror}), so commits are not safe"
                            " there: write to another disk, and copy the dataset"
                        ) from error
                    raise
            self._sync_entry(key, os.path.dirname(path))
            return True
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unfinished)

    def _sync_entry(self, key: str, folder: str) -> None:
        """Make a link durable that others see already: whoever put it must not take seeing it for having done so."""
        try:
            try:
                _sync_folder(folder)
            except OSError:
                _sync_folder(folder)
        except OSError as error:
            raise NotDurable(
                f"{self._root}/{key} is written, but its folder could not be synced ({error.strerror}), so it may be gone"
                " after a crash: check the disk, sync it, and look whether the object is there before anything is written again"
            ) from error

    def _unlink(self, key: str, path: str) -> None:
        folder = os.path.dirname(path)
        self._check_inside(key, os.path.realpath(folder) + os.sep)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(path)
        while len(folder) > len(self._root):
            try:
                os.rmdir(folder)
            except OSError:
                return
            folder = os.path.dirname(folder)

    def _doing(self, verb: str, key: str, call: Callable[[], _Result]) -> _Result:
        """Call, and turn the system's errors into ours."""
        try:
            return call()
        except (FileNotFoundError, NotADirectoryError) as error:
            if verb == "read":
                raise FileNotFoundError(f"no object {key} in {self._root}") from None
            raise StoreError(f"cannot {verb} {self._root}/{key}: {error.strerror}") from error
        except PermissionError as error:
            raise PermissionError(f"cannot {verb} {self._root}/{key}: {error.strerror}") from error
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENXIO}:
                raise InvalidDataset(f"{self._root}/{key} is not a regular file: {error.strerror}") from error
            if error.errno == errno.EROFS:
                raise ReadOnlyStore(f"cannot {verb} {self._root}/{key}: {error.strerror}") from error
            raise StoreError(f"cannot {verb} {self._root}/{key}: {error.strerror}") from error


class LocalUpload(Upload):
    """An unfinished file beside the place where it will appear."""

    def __init__(self, path: str, unfinished: str, fd: int) -> None:
        self._path = path
        self._unfinished = unfinished
        self._fd = fd
        self._pid = os.getpid()

    def write(self, data: Data) -> None:
        """Append bytes."""
        if self._fd < 0:
            raise ValueError(f"the upload of {self._path} is over")
        with self._aborting():
            _write_all(self._fd, data)

    def write_all(self, pieces: Sequence[Data]) -> None:
        """Append several buffers in as few calls as can be: each costs the page cache anew."""
        if self._fd < 0:
            raise ValueError(f"the upload of {self._path} is over")
        with self._aborting():
            for start in range(0, len(pieces), _MAX_VECTOR):
                _write_vector(self._fd, pieces[start : start + _MAX_VECTOR])

    def finish(self) -> None:
        """Sync the file, rename it, sync its folder."""
        if self._fd < 0:
            raise ValueError(f"the upload of {self._path} is over")
        with self._aborting():
            os.fsync(self._fd)
            os.rename(self._unfinished, self._path)
            os.close(self._fd)
            self._fd = -1
            _sync_folder(os.path.dirname(self._path))

    def abort(self) -> None:
        """Remove the unfinished file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            # an upload that a forked child inherited is still its parent's
            if self._pid == os.getpid():
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._unfinished)

    def __del__(self) -> None:
        self.abort()

    @contextlib.contextmanager
    def _aborting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.abort()
            raise StoreError(f"cannot write {self._path}: {error.strerror}; free space or check the disk") from error


def _write_all(fd: int, data: Data) -> None:
    view = memoryview(data).cast("B")
    # the kernel takes at most 2 GiB at once
    while view.nbytes:
        view = view[os.write(fd, view) :]


def _write_vector(fd: int, pieces: Sequence[Data]) -> None:
    views = [memoryview(piece).cast("B") for piece in pieces]
    written = os.writev(fd, views)
    for view in views:  # what the kernel did not take
        if written < view.nbytes:
            _write_all(fd, view[written:])
        written = max(0, written - view.nbytes)


def _sync_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _finished_name(name: str) -> str | None:
    """The name that an unfinished file would have got; None for any other file."""
    match = _UNFINISHED_NAME.fullmatch(name)
    return match[1] if match and is_segment(match[1]) else None


def _same_file(first: str, second: str) -> bool:
    try:
        return os.path.samefile(first, second)
    except FileNotFoundError:
        return False


def _real_path(fd: int, path: str) -> str:
    """Where an open file really is: asked of the kernel, so no link can be changed in between."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return os.path.realpath(path)
