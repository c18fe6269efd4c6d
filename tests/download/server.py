"""A server on 127.0.0.1 that can do all that real ones do wrong, and what it serves."""

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


@dataclass
class Served:
    """A file of the server.

    Attributes:
        content: its bytes.
        headers: replace those that are sent by themselves; None leaves one out.
        faults: what goes wrong, one for each request, in their order; None for nothing:
            an int is a status; ("drop", n) breaks the connection after n bytes; ("lie", n) tells n
            bytes more than there are; ("short", n) tells and sends n bytes fewer; ("change",
            content) puts another file there and drops the connection after 1000 bytes.
        ranges: whether parts can be had.
        slow: seconds before each 16 kB.
    """

    content: bytes
    headers: dict[str, str | None] = field(default_factory=dict)
    faults: list[Any] = field(default_factory=list)
    ranges: bool = True
    slow: float = 0.0

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha1(self.content).hexdigest()}"'


class Server(ThreadingHTTPServer):
    """Serves `files` (by path) and answers GraphQL with `snapshots`.

    Attributes:
        files: what there is; more may be added at any time.
        requests: method, path and Range of each request.
        sent: bytes of content that were sent.
        connections: how many were made.
        graphql: gives the answer to a GraphQL request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.sent = 0
        self.connections = 0
        self.graphql: Callable[[dict[str, Any]], Any] | None = None
        self.guard = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer takes 40 ms

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.server.requests.append(("POST", self.path, None))
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.server.graphql is not None
        told = self.server.graphql(asked)
        status, told = told if isinstance(told, tuple) else (200, told)
        self._send(status, told if isinstance(told, bytes) else json.dumps(told).encode(), {})

    def do_GET(self) -> None:
        with self.server.guard:
            self.server.requests.append(("GET", self.path, self.headers.get("Range")))
            file = self.server.files.get(self.path.split("?")[0])
            fault = file.faults.pop(0) if file and file.faults else None
        if file is None:
            self._send(404, b"", {})
        elif isinstance(fault, int):
            self._send(fault, b"busy", {"Retry-After": file.headers.get("Retry-After")})
        else:
            self._send_file(file, fault)

    def _send_file(self, file: Served, fault: Any) -> None:
        content, status, start = file.content, 200, 0
        headers: dict[str, str | None] = {"ETag": file.etag}
        asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
        if file.ranges and asked and condition in (None, file.headers.get("ETag", file.etag)):
            first, last = asked.removeprefix("bytes=").split("-")
            start, status = int(first), 206
            content = content[: int(last) + 1] if last else content
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(file.content)}"
        body, told = content[start:], len(content) - start
        kind, value = fault if isinstance(fault, tuple) else (None, None)
        if kind == "lie":
            told += value
        elif kind == "short":
            body, told = body[:-value], told - value
        elif kind == "drop":
            body = body[:value]
        elif kind == "change":
            body = body[:1000]
        headers["Content-Length"] = str(told)
        self._send(status, body, headers | file.headers, file.slow)
        if kind == "change":
            file.content = value
        if len(body) < told:
            self.close_connection = True

    def _send(
        self, status: int, body: bytes, headers: dict[str, str | None], slow: float = 0
    ) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        for place in range(0, len(body), 1 << 14):
            if slow:
                threading.Event().wait(slow)
            block = body[place : place + (1 << 14)]
            if status < 400:  # counted before, so that who has read it all finds it counted
                with self.server.guard:
                    self.server.sent += len(block)
            self.wfile.write(block)


def scan(seed: int, shape: tuple[int, int, int] = (12, 10, 8)) -> bytes:
    """A tiny NIfTI file, noise that gzip cannot shrink."""
    voxels = np.random.default_rng(seed).integers(0, 30000, shape, dtype=np.int16)
    return gzip.compress(nib.Nifti1Image(voxels, np.eye(4)).to_bytes(), mtime=0)


def tar(entries: dict[str, bytes] | list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """A tar file of named contents, or of headers as they are."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        pairs = entries.items() if isinstance(entries, dict) else entries
        for header, content in pairs:
            info = tarfile.TarInfo(header) if isinstance(header, str) else header
            if info.isreg():
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return target.getvalue()
