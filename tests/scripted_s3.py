"""An S3 server that misbehaves on request."""

import http.server
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest


@dataclass
class ScriptedS3:
    """An S3 server of one bucket in memory; what it does wrong is set by the attributes."""

    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    honours_conditions: bool = True
    honours_ranges: bool = True
    cuts_bodies: bool = False
    bodies_to_cut: int = 0
    """So many bodies end half-way, as if the connection had been lost."""
    shifts_ranges: bool = False
    """Ranged answers begin a byte late, and say so."""
    hides_shifts: bool = False
    """They say that they do not."""
    failing_puts: int = 0
    """So many puts are stored and then answered with 500."""
    unavailable: int = 0
    """So many requests are answered with `unavailable_status` and do nothing."""
    unavailable_status: int = 503
    forbidden_body: str | None = None
    """Everything is answered with 403 and this."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def storage_options(self, **more: Any) -> dict[str, Any]:
        return {
            "endpoint": self.url,
            "access_key_id": "AKIAKNOWNKEY",
            "secret_access_key": "hunter2-known-secret",
            "session_token": "known-session-token",
            "disable_bulk_delete": True,
            **more,
        }


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: ClassVar[ScriptedS3]

    def log_message(self, *arguments: object) -> None:
        pass

    def _begin(self) -> bytes | None:
        """Take the request; None when it is answered already."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.script.lock:
            self.script.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
            busy = self.script.unavailable > 0
            self.script.unavailable -= busy
        if busy:
            self._answer(self.script.unavailable_status, b"<Error><Code>SlowDown</Code></Error>")
            return None
        if self.script.forbidden_body is not None:
            self._answer(403, self.script.forbidden_body.encode())
            return None
        return body

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Sat, 21 Nov 2026 12:00:00 GMT")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        with self.script.lock:
            cuts = status in {200, 206} and len(body) > 1 and (self.script.cuts_bodies or self.script.bodies_to_cut > 0)
            self.script.bodies_to_cut -= cuts and not self.script.cuts_bodies
        if cuts:
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def do_GET(self) -> None:
        if self._begin() is None:
            return
        if "?" in self.path:
            self._answer(200, self._listing().encode())
            return
        data = self.script.objects.get(self.path)
        if data is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        elif (wanted := self.headers.get("Range")) and self.script.honours_ranges:
            start, last = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
            shift = self.script.shifts_ranges or self.script.hides_shifts
            piece = data[start + shift : last + shift + 1]
            told = start + self.script.shifts_ranges
            self._answer(206, piece, {"Content-Range": f"bytes {told}-{told + len(piece) - 1}/{len(data)}"})
        else:
            self._answer(200, data)

    def _listing(self) -> str:
        """What a bucket or container holds, as S3 and Google say it, or as Azure does."""
        bucket, _, query = self.path.partition("?")
        prefix = urllib.parse.parse_qs(query).get("prefix", [""])[0]
        bucket = bucket.rstrip("/") + "/"
        keys = [key for key in self.script.objects if key.startswith(bucket + prefix)]
        names = [(key.removeprefix(bucket), len(self.script.objects[key])) for key in sorted(keys)]
        if "comp=list" in query:
            blobs = "".join(
                f"<Blob><Name>{name}</Name><Properties><Last-Modified>Sat, 21 Nov 2026 12:00:00 GMT</Last-Modified>"
                f"<Content-Length>{size}</Content-Length><Content-Type>x/y</Content-Type><Etag>1</Etag></Properties></Blob>"
                for name, size in names
            )
            return f"<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>"
        contents = "".join(
            f"<Contents><Key>{name}</Key><Size>{size}</Size><LastModified>2026-11-21T12:00:00.000Z</LastModified>"
            "<ETag>1</ETag></Contents>"
            for name, size in names
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"

    def do_HEAD(self) -> None:
        if self._begin() is not None:
            data = self.script.objects.get(self.path)
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()

    def do_PUT(self) -> None:
        body = self._begin()
        if body is None:
            return
        with self.script.lock:
            # S3 and Azure say it one way, Google the other
            conditional = (
                self.headers.get("If-None-Match") == "*" or self.headers.get("x-goog-if-generation-match") == "0"
            )
            taken = self.path in self.script.objects and conditional
            refused = taken and self.script.honours_conditions
            fails = not refused and self.script.failing_puts > 0
            self.script.failing_puts -= fails
            if not refused:
                self.script.objects[self.path] = body
        if refused:
            self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        else:
            self._answer(500 if fails else 200)

    def do_DELETE(self) -> None:
        if self._begin() is not None:
            self.script.objects.pop(self.path, None)
            self._answer(204)


@pytest.fixture
def scripted_s3() -> Iterator[ScriptedS3]:
    script = ScriptedS3()
    handler = type("Handler", (_Handler,), {"script": script})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        script.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield script
        server.shutdown()
        thread.join(10)
