"""The same data through zarr-python alone: what anyone can do who has never heard of chunkstore.

Never uses chunkstore to read: only paths and keys come from it. Before it: the story; after it: the comparison.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import zarr
from obstore.store import S3Store
from zarr.storage import ObjectStore


def open_part(url: str, path: str, options: Mapping[str, str] | None) -> zarr.Group:
    """Open a part of a dataset as the Zarr group that it is.

    Args:
        url: Of the dataset: a folder, or s3://bucket/prefix.
        path: Of the part in it.
        options: Endpoint, region and keys, for S3.
    """
    if options is None:
        return zarr.open_group(f"{url}/{path}", mode="r")
    parts = urlsplit(url)
    store: Any = S3Store(
        parts.netloc,
        prefix=f"{parts.path.strip('/')}/{path}",
        endpoint=options["endpoint"],
        region=options["region"],
        access_key_id=options["access_key_id"],
        secret_access_key=options["secret_access_key"],
        client_options={"allow_http": True},
    )
    return zarr.open_group(ObjectStore(store, read_only=True), mode="r")


def read_array(group: zarr.Group, name: str) -> npt.NDArray[Any]:
    """Read an array of a group, whole."""
    array = group[name]
    assert isinstance(array, zarr.Array)
    return np.asarray(array[...])
