"""A server on 127.0.0.1 that can make the mistakes of real ones, and test data for it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import nibabel as nib
import numpy as np

_BLOCK = 1 << 14


@dataclass
class Served:
    """A file of the server.

    Attributes:
        content: its bytes.
        headers: replace the default ones; None removes one.
        faults: one for each request, in this order; None for no fault:
            an int is a status; ("drop", n) closes the connection after n bytes; ("lie", n)
            announces n bytes too many; ("short", n) announces and sends n bytes too few;
            ("change", content) replaces the file and closes the connection after 1000 bytes.
        ranges: whether range requests are answered.
        slow: seconds before each block of 16 kB.
        endless: the content is repeated for ever, without Content-Length.
    """

    content: bytes
    headers: dict[str, str | None] = field(default_factory=dict)
    faults: list[Any] = field(default_factory=list)
    ranges: bool = True
    slow: float = 0.0
    endless: bool = False

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha1(self.content).hexdigest()}"'


class Server(ThreadingHTTPServer):
    """Serves `files` by path, and answers GraphQL requests.

    Attributes:
        files: can be changed at any time.
        requests: method, path and Range of each request.
        sent: bytes of content sent.
        graphql: returns the answer to a GraphQL request: JSON, bytes, or (status, either).
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.sent = 0
        self.graphql: Callable[[dict[str, Any]], Any] | None = None
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may close the connection at any time."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise each answer takes 40 ms

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.server.requests.append(("POST", self.path, None))
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.server.graphql is not None
        answer = self.server.graphql(question)
        status, answer = answer if isinstance(answer, tuple) else (200, answer)
        self._send(status, answer if isinstance(answer, bytes) else json.dumps(answer).encode(), {})

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.requests.append(("GET", self.path, self.headers.get("Range")))
            file = self.server.files.get(self.path.split("?")[0])
            fault = file.faults.pop(0) if file and file.faults else None
        if file is None:
            self._send(404, b"", {})
        elif isinstance(fault, int):
            self._send(fault, b"busy", {"Retry-After": file.headers.get("Retry-After")})
        elif file.endless:
            self._send(200, file.content, {"Content-Length": None, "Connection": "close"})
            while True:
                self.wfile.write(file.content)
        else:
            self._send_file(file, fault)

    def _send_file(self, file: Served, fault: Any) -> None:
        content = body = file.content
        status = 200
        headers: dict[str, str | None] = {"ETag": file.etag}
        asked = self.headers.get("Range")
        if file.ranges and asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, status = int(first), 206
            body = content[start : int(last) + 1 if last else None]
            if start >= len(content):
                self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/{len(content)}"
        announced = len(body)
        kind, value = fault if isinstance(fault, tuple) else (None, None)
        if kind == "lie":
            announced += value
        elif kind == "short":
            body, announced = body[:-value], announced - value
        elif kind == "drop":
            body = body[:value]
        elif kind == "change":
            body = body[:1000]
        headers["Content-Length"] = str(announced)
        self._send(status, body, headers | file.headers, file.slow)
        if kind == "change":
            file.content = value
        if len(body) < announced:
            self.close_connection = True

    def _send(
        self, status: int, body: bytes, headers: dict[str, str | None], slow: float = 0
    ) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        for start in range(0, len(body), _BLOCK):
            if slow:
                threading.Event().wait(slow)
            block = body[start : start + _BLOCK]
            if status < 400:  # counted first, so that a client that has all of it finds it counted
                with self.server.lock:
                    self.server.sent += len(block)
            self.wfile.write(block)


def scan(seed: int, shape: tuple[int, int, int] = (12, 10, 8)) -> bytes:
    """A tiny `.nii.gz` of noise, which gzip cannot shrink."""
    voxels = np.random.default_rng(seed).integers(0, 30000, shape, dtype=np.int16)
    return gzip.compress(nib.Nifti1Image(voxels, np.eye(4)).to_bytes(), mtime=0)


def tar(entries: dict[str, bytes] | list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """A tar file of contents by name, or by header."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        pairs = entries.items() if isinstance(entries, dict) else entries
        for header, content in pairs:
            info = tarfile.TarInfo(header) if isinstance(header, str) else header
            if info.isreg():
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return target.getvalue()
