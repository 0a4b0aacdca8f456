"""How large stored objects are, for readers that were not told: plain Zarr, and other tools that read through a store of ours.

A file is asked, other stores list the folder once and remember. Datasets of ours never need this: their object lists say it.
"""

import os
import threading

from chunkstore.errors import StoreError
from chunkstore.store.interface import HasPaths, Store


class ObjectSizes:
    """Sizes of the objects of a store.

    Args:
        store: Where they lie.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folders: dict[str, dict[str, int] | None] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["ObjectSizes"], tuple[Store]]:
        """Without the lock; what was listed is listed again."""
        return (ObjectSizes, (self._store,))

    def find(self, key: str, folder: str) -> int | None:
        """Bytes of the object `key`, which lies in `folder` or below.

        Raises:
            FileNotFoundError: there is no such object.
            StoreError: the store failed; one that has no listings gives None instead.
        """
        if self._store.is_local and isinstance(self._store, HasPaths):
            return os.stat(self._store.path(key)).st_size  # noqa: PTH116  (as `LocalStore` asks)
        listed = self._listed(folder)
        if listed is None:
            return None
        if key not in listed:
            raise FileNotFoundError(key)
        return listed[key]

    def _listed(self, folder: str) -> dict[str, int] | None:
        with self._lock:
            if folder in self._folders:
                return self._folders[folder]
        try:
            listed: dict[str, int] | None = {item[0]: item[1] for item in self._store.list(folder)}
        except (StoreError, PermissionError):
            listed = None  # a web server, or no permission to list
        with self._lock:
            self._folders[folder] = listed
        return listed
