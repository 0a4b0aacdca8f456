"""Commits on Google Cloud Storage and Azure: by the conditions of each, against a server of ours and against Azurite.

Azurite is the emulator that Microsoft gives (npm). `CHUNKSTORE_AZURITE` names its program `azurite-blob`; CI always sets it.
"""

import base64
import contextlib
import hashlib
import hmac
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkstore as cs
from chunkstore.errors import ReadOnlyStore
from chunkstore.store.location import open_store

AZURITE = os.environ.get("CHUNKSTORE_AZURITE")
ACCOUNT = "devstoreaccount1"
# Azurite's key, the same in every installation, is no secret.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@pytest.fixture(params=["gs", "az"])
def scripted_cloud(request: pytest.FixtureRequest, scripted_s3: Any) -> tuple[str, dict[str, Any], Any]:
    if request.param == "gs":
        return "gs://bucket/data", {"base_url": scripted_s3.url, "bearer_token": "known-token"}, scripted_s3
    options = {"account_name": ACCOUNT, "account_key": KEY, "endpoint": f"{scripted_s3.url}/{ACCOUNT}"}
    return "az://container/data", options, scripted_s3


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    if AZURITE is None:
        pytest.skip("CHUNKSTORE_AZURITE does not name azurite-blob (npm install azurite)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("azurite")
    command = [AZURITE, "--silent", "--location", str(folder), "--blobPort", str(port), "--skipApiVersionCheck"]
    with subprocess.Popen([*command, "--disableTelemetry"], stdout=subprocess.DEVNULL, cwd=folder) as server:
        try:
            options = {"account_name": ACCOUNT, "account_key": KEY, "endpoint": f"http://127.0.0.1:{port}/{ACCOUNT}"}
            _make_container(options["endpoint"], "container")
            yield options
        finally:
            server.terminate()


def _make_container(endpoint: str, name: str) -> None:
    """Put a container, signed with the shared key."""
    path, date = f"/{ACCOUNT}/{name}", formatdate(usegmt=True)
    headers = {"x-ms-date": date, "x-ms-version": "2021-08-06"}
    told = "".join(f"{header}:{value}\n" for header, value in sorted(headers.items()))
    text = "PUT" + "\n" * 12 + told + f"/{ACCOUNT}{path}\nrestype:container"
    signature = base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()
    headers |= {"Authorization": f"SharedKey {ACCOUNT}:{signature}", "Content-Length": "0"}
    request = urllib.request.Request(f"{endpoint}/{name}?restype=container", method="PUT", headers=headers, data=b"")
    request.add_unredirected_header("Content-Type", "")
    for _ in range(100):
        with contextlib.suppress(ConnectionError, urllib.error.URLError):
            urllib.request.urlopen(request, timeout=10).close()
            return
        time.sleep(0.1)
    raise TimeoutError("Azurite did not start, or refused to make a container")


def _use(url: str, options: dict[str, Any]) -> None:
    with cs.create(url, {"x": cs.Array("int64")}, storage_options=options) as writer:
        writer.write({"x": -1})

    def append(value: int) -> None:
        with cs.append(url, storage_options=options) as writer:
            writer.write({"x": value})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(append, range(8)))
    dataset = cs.open(url, storage_options=options)
    assert dataset.version == 9
    assert sorted(dataset["x"][:].tolist()) == list(range(-1, 8))
    cs.tag(url, "first", 1, storage_options=options)
    assert len(cs.open(url, tag="first", storage_options=options)) == 1
    assert cs.verify(url, storage_options=options).ok


def test_datasets_commit_in_each_cloud(scripted_cloud: tuple[str, dict[str, Any], Any]) -> None:
    url, options, _ = scripted_cloud
    _use(url, options)


def test_a_server_that_ignores_the_condition_is_refused(scripted_cloud: tuple[str, dict[str, Any], Any]) -> None:
    url, options, server = scripted_cloud
    server.honours_conditions = False
    with pytest.raises(ReadOnlyStore, match="does not keep put-if-absent"):
        cs.create(url, {"x": cs.Array("int64")}, storage_options=options)


def test_a_put_whose_answer_was_lost_is_still_ours(scripted_cloud: tuple[str, dict[str, Any], Any]) -> None:
    url, options, server = scripted_cloud
    store = open_store(url, storage_options=options)
    server.failing_puts = 1
    assert store.write_if_absent("key", b"ours")
    assert not store.write_if_absent("key", b"somebody else's")
    assert store.read("key") == b"ours"


def test_datasets_commit_in_azurite(azurite: dict[str, Any]) -> None:
    _use("az://container/data", azurite)


def test_large_objects_listings_and_deletions_work_in_azurite(azurite: dict[str, Any]) -> None:
    store = open_store("az://container/objects", storage_options=azurite)
    data = np.random.default_rng(1).bytes(20 << 20)
    with store.open_upload("folder/large") as upload:
        upload.write(data)
    assert bytes(store.read_ranges("folder/large", [(5, len(data))])[0]) == data[5:]
    assert [listed[:2] for listed in store.list("folder")] == [("folder/large", len(data))]
    store.delete(["folder/large", "folder/absent"])
    assert list(store.list()) == []


def test_ci_has_azurite() -> None:
    assert AZURITE is not None or "CI" not in os.environ, ".ci/run installs Azurite and names it in CHUNKSTORE_AZURITE"
    assert AZURITE is None or Path(AZURITE).exists()
