"""A web server of a folder that knows byte ranges and has no listings, and counts the bytes that it sends."""

import contextlib
import http.server
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class WebServer:
    """A server that runs.

    Attributes:
        url: Of its folder.
        folder: What it serves.
        served: Bytes of each answer's body.
    """

    url: str
    folder: Path
    served: list[int] = field(default_factory=list)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[WebServer]:
    """Serve a folder until the end of the block."""
    served: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(has_body=False)

        def do_GET(self) -> None:
            self.answer(has_body=True)

        def answer(self, *, has_body: bool) -> None:
            file = folder / self.path.lstrip("/")
            body, status = (file.read_bytes(), 200) if file.is_file() else (b"", 404)
            size = len(body)
            wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
            first = 0
            if wanted and status == 200:
                first = int(wanted[1]) if wanted[1] else max(0, size - int(wanted[2]))
                body = body[first : int(wanted[2]) + 1] if wanted[1] and wanted[2] else body[first:]
                status = 206
            self.send_response(status)
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{size}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if has_body:
                self.wfile.write(body)
                served.append(len(body))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield WebServer(f"http://127.0.0.1:{server.server_port}", folder, served)
        finally:
            server.shutdown()
            thread.join()
