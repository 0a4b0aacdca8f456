"""Stores for all tests: a local folder, memory, and a real S3 server that lives as long as the session."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs
from hypothesis import HealthCheck, settings
from scripted_s3 import scripted_s3

from chunkstore.stages.seaweedfs import Endpoint, seaweedfs
from chunkstore.store.location import Store, open_store

# `pytest --hypothesis-profile=long`, for an hour's search.
settings.register_profile(
    "long", max_examples=2000, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)

__all__ = ["scripted_s3"]  # a fixture

# Numba's cache does not see edits to functions called from other files, so no session trusts an older one's.
_NUMBA_CACHE = tempfile.mkdtemp(prefix="numba-")
os.environ.setdefault("NUMBA_CACHE_DIR", _NUMBA_CACHE)


def pytest_unconfigure() -> None:
    shutil.rmtree(_NUMBA_CACHE, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Location:
    """What a user would pass to reach an empty store."""

    url: str
    storage_options: dict[str, Any] = field(default_factory=dict, repr=False)

    def open(self) -> Store:
        return open_store(self.url, storage_options=self.storage_options or None)


@pytest.fixture(autouse=True)
def no_cloud_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the machine's own accounts and proxies out of the tests."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_", "AZURE_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    # without it botocore looks for an account at a link-local address
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as endpoint:
        yield endpoint


@pytest.fixture
def s3(s3_server: Endpoint) -> Iterator[Location]:
    """An empty bucket of its own on the S3 server, which makes a bucket when the first object is put into it."""
    s3_server.check()
    bucket = open_store(f"s3://test-{uuid.uuid4().hex[:12]}", storage_options=s3_server.storage_options())
    bucket.write("made", b"")
    bucket.delete(["made"])
    yield Location(f"{bucket.url}/data", s3_server.storage_options())
    s3_server.check()


@pytest.fixture
def s3fs_location(s3: Location) -> Iterator[tuple[Any, str]]:
    """The empty bucket of `s3` as an s3fs file system object, and the path in it."""
    options = s3.storage_options
    filesystem = s3fs.S3FileSystem(
        key=options["access_key_id"],
        secret=options["secret_access_key"],
        endpoint_url=options["endpoint"],
        skip_instance_cache=True,
    )
    yield filesystem, s3.url.removeprefix("s3://")
    filesystem.invalidate_cache()
    fsspec.asyn.sync(filesystem.loop, filesystem._s3.close)


@pytest.fixture
def memory() -> Iterator[Location]:
    name = f"test-{uuid.uuid4().hex}"
    yield Location(f"memory://{name}")
    objects = fsspec.filesystem("memory").store
    for path in [path for path in objects if path.startswith(f"/{name}/")]:
        del objects[path]


@pytest.fixture
def local(tmp_path: Path) -> Location:
    return Location(str(tmp_path / "data"))


@pytest.fixture(params=["local", "memory", "s3"])
def location(request: pytest.FixtureRequest) -> Location:
    """Each kind of store that can commit."""
    found: Location = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def store(location: Location) -> Store:
    return location.open()


@pytest.fixture(scope="session")
def everything_printed() -> Callable[[BaseException], str]:
    """Give all that a log could show of an error: its whole chain, hidden contexts and attributes included."""

    def show(error: BaseException | None) -> str:
        if error is None:
            return ""
        return "\n".join([repr(error), str(error), repr(vars(error)), show(error.__cause__), show(error.__context__)])

    return show
