"""The probe for put-if-absent: several threads race for one key, and the store must let exactly one of them win.

Documentation and version numbers say little about what a store in front of us does (a gateway that ignores `If-None-Match`,
a network file system whose `link` is not atomic), so the first commit of a process finds out. It must never touch anything
outside `_chunkstore/probe/`, and leaves nothing there. `Store.check_commits` calls it; `commit` stands behind it.
"""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

from chunkstore.errors import ReadOnlyStore, StoreError
from chunkstore.store.interface import Store

# Servers that serialise writers of one key by waiting, as SeaweedFS does, take up to a second for each of them.
_NUM_WRITERS = 3
_TIMEOUT_S = 120.0

_passed: set[str] = set()


def check_commits_once(store: Store, identity: str) -> None:
    """Probe a store unless this process has seen it pass.

    Args:
        store: what to probe.
        identity: what tells this store from others; a passed probe is remembered under it.

    Raises:
        ReadOnlyStore: it lets no one or several win, loses what was written, or refuses to be written to.
        StoreError: it failed, so nothing is known.
    """
    if identity in _passed:
        return
    _race(store)
    _passed.add(identity)


def _race(store: Store) -> None:
    key = f"_chunkstore/probe/{uuid.uuid4().hex}"
    contents = [f"writer {index} of {key}".encode() for index in range(_NUM_WRITERS)]
    start = threading.Barrier(_NUM_WRITERS, timeout=_TIMEOUT_S)

    def write(content: bytes) -> bool:
        start.wait()
        return store.write_if_absent(key, content)

    with ThreadPoolExecutor(_NUM_WRITERS) as pool:
        puts = [pool.submit(write, content) for content in contents]
    some_arrived = any(put.exception() is None for put in puts)
    try:
        won = [put.result() for put in puts]
        stored = store.read(key)
        late = store.write_if_absent(key, b"a late writer")
        kept = store.read(key)
    except PermissionError as error:
        whose = "" if store.is_local else " with these credentials"
        raise ReadOnlyStore(f"{store.url} cannot be written to{whose}: {error}") from error
    finally:
        if some_arrived:  # else a store that does not answer would be waited for once more
            _remove(store, key)
    if sum(won) != 1 or late or stored != contents[won.index(True)] or kept != stored:
        raise ReadOnlyStore(
            f"{store.url} does not keep put-if-absent: of {_NUM_WRITERS} writers of one key {sum(won)} were told they won, a"
            f" late one was {'told so too' if late else 'refused'}. Commits here could lose data, so the dataset can only be"
            " read: write to local disk or to an object store that honours If-None-Match, and copy from there."
        )


def _remove(store: Store, key: str) -> None:
    try:
        store.delete([key])
    except (OSError, ReadOnlyStore, StoreError):
        # Many may write and not delete: the key then stays, where nobody reads. Where all failed, the race says so.
        return
