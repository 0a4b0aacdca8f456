"""From a URL to the store that serves it.

`open_store` chooses; it reads nothing and writes nothing. Importing this file must stay light: the stores that need obstore
or fsspec are imported when a URL asks for them. Before it stands what the user typed; after it `dataset`, `writer`, `commit`
and `fetch`.
"""

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from chunkstore.store.interface import Data, HasPaths, Store, Upload, check_key
from chunkstore.store.local import LocalStore
from chunkstore.store.options import check_object_options, printable_url

__all__ = ["Data", "HasPaths", "LocalStore", "Store", "Upload", "check_key", "open_store"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# Path("s3://bucket/x") is s3:/bucket/x; one letter is a drive. Absolute where something resolved it before us.
_COLLAPSED_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(?=/)")
_OBJECT_SCHEMES = frozenset({"s3", "gs", "az", "http", "https"})


def open_store(
    url: str | os.PathLike[str] | Store, *, storage_options: Mapping[str, Any] | None = None, filesystem: Any = None
) -> Store:
    """Open the store at a URL.

    Args:
        url: a path or `file://` (commits), `memory://name` (commits, within the process), `s3://bucket/path`, `gs://…`,
            `az://container/…` (commits, after a probe), `http(s)://…` (read-only), or any other URL that fsspec knows
            (read-only). A `Store` is taken as it is.
        storage_options: for s3, gs, az and http under obstore's names (`endpoint`, `access_key_id`, `secret_access_key`,
            `region`, `skip_signature`, `client_options`, `retry_config`…); for s3 also under s3fs's (`key`, `secret`,
            `token`, `endpoint_url`, `anon`, `client_kwargs`). What is not given comes from the usual environment variables.
            For other URLs, the fsspec file system's own.
        filesystem: an fsspec file system object to use, in which case `url` is a path or URL of it.

    Raises:
        ValueError: the URL (a str, since a Path mangles it) or an option is not understood, the URL carries credentials or a
            query, or it is plain http to another machine.
    """
    if isinstance(url, Store):
        return url
    location = os.fspath(url)
    if not isinstance(url, str) and (collapsed := _COLLAPSED_URL.match(str(location))):
        raise ValueError(
            f"a path that begins with {collapsed.group()} is a URL that a Path has mangled; pass URLs as str"
        )
    if not isinstance(location, str) or not location:
        raise ValueError("a store is opened by a path or a URL, and this is empty or bytes")
    if storage_options is not None and not isinstance(storage_options, Mapping):
        raise ValueError(
            f"storage_options of {printable_url(location)} are a dict, not {type(storage_options).__name__}"
        )
    options = dict(storage_options or {})
    if filesystem is not None:
        return _open_filesystem(filesystem, location, options)
    match = _SCHEME.match(location)
    if match is None and "::" not in location:
        return _open_local(location, options)
    scheme = match.group(1).lower() if match else ""
    if "::" not in location and (own := _open_own(scheme, location, options)) is not None:
        return own
    from chunkstore.store.filesystem import open_filesystem_url

    return open_filesystem_url(location, options)


def _open_own(scheme: str, location: str, options: dict[str, Any]) -> Store | None:
    """The store of a scheme that needs no fsspec, None for others."""
    if scheme == "file":
        return _open_local(_file_path(location), options)
    if scheme == "memory":
        from chunkstore.store.memory import MemoryStore

        _refuse_options(location, options)
        return MemoryStore(location)
    if scheme in _OBJECT_SCHEMES:
        from chunkstore.store.object import ObjectStore

        _refuse_credentials(location)
        check_object_options(location, options)
        return ObjectStore(location, options)
    return None


def _open_filesystem(filesystem: Any, path: str, options: Mapping[str, Any]) -> Store:
    from chunkstore.store.filesystem import open_filesystem

    if options:
        raise ValueError("storage_options belong to the file system; make it with them, and give filesystem= alone")
    return open_filesystem(filesystem, path)


def _open_local(path: str, options: Mapping[str, Any]) -> Store:
    _refuse_options(path, options)
    return LocalStore(os.path.expanduser(path))  # noqa: PTH111  (a path is checked as text)


def _file_path(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc not in {"", "localhost"}:
        raise ValueError(f"{printable_url(url)} names a host; a local path is written file:///path")
    return unquote(parts.path)


def _refuse_options(url: str, options: Mapping[str, Any]) -> None:
    if options:
        raise ValueError(f"{printable_url(url)} takes no storage_options, and was given {', '.join(sorted(options))}")


def _refuse_credentials(url: str) -> None:
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            f"{printable_url(url)} came with a user, a password, a query or a fragment; URLs are printed, so credentials"
            " belong in storage_options or the environment"
        )
