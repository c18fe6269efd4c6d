"""A running server with an untrained model, and a client that knows its token."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.inference.conftest import four_bundle  # noqa: F401, a fixture

from mrbridge.bundle import Bundle
from mrbridge.web.settings import ServeSettings

pytest.importorskip("fastapi", reason="serve is an optional part")

TOKEN = "secret-of-this-test"


@dataclass
class Served:
    """A server in this process, and a client of it."""

    jobs: Any
    client: httpx.Client
    url: str
    runs: list[Path]

    def post(self, *paths: Path, **fields: Any) -> httpx.Response:
        """Upload scans: `truth`, `also` (several) and the other fields by name."""
        files = [("scan", (path.name, path.read_bytes())) for path in paths]
        truth = fields.pop("truth", None)
        if truth is not None:
            files.append(("truth", (truth.name, truth.read_bytes())))
        files += [("also", (path.name, path.read_bytes())) for path in fields.pop("also", ())]
        return self.client.post("/api/jobs", files=files, data=fields)

    def translated(self, *paths: Path, **fields: Any) -> dict[str, Any]:
        """Upload scans, and wait for the end."""
        answer = self.post(*paths, **fields)
        assert answer.status_code == 202, answer.text
        return self.end_of(answer.json())

    def end_of(self, job: dict[str, Any], *states: str) -> dict[str, Any]:
        """Wait until a job has ended, or is in one of these states."""
        wanted = states or ("ready", "done", "failed", "cancelled")
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            now: dict[str, Any] = self.client.get(f"/api/jobs/{job['id']}").json()
            if now["state"] in wanted:
                return now
            time.sleep(0.05)
        raise AssertionError(f"still {now}")

    def file(self, job: dict[str, Any], kind: str) -> bytes:
        """The content of a result, by its kind."""
        (name,) = [one["name"] for one in job["files"] if one["kind"] == kind]
        return self.client.get(f"/api/jobs/{job['id']}/files/{name}").read()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within it the worker stands still, after it has ended what it does now."""
        deadline = time.monotonic() + 180
        while not self.jobs.is_idle:  # a cancelled scan: another worker loads the models
            assert time.monotonic() < deadline, "the worker is busy"
            time.sleep(0.05)
        number = self.jobs.worker.pid
        os.kill(number, signal.SIGSTOP)
        try:
            yield
        finally:
            if self.jobs.worker.pid == number:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGCONT)


@contextmanager
def serve(*bundles: Bundle, **limits: Any) -> Iterator[Served]:
    """Run a server that offers these models."""
    from mrbridge.web.jobs import Jobs
    from mrbridge.web.server import create_app

    jobs = Jobs([bundle.path for bundle in bundles], ServeSettings(**limits), "cpu")
    runs: list[Path] = []
    headers = {"Authorization": f"Bearer {TOKEN}"}
    try:
        with (
            running(create_app(jobs, TOKEN, "127.0.0.1", runs)) as url,
            httpx.Client(base_url=url, headers=headers, timeout=180) as client,
        ):
            yield Served(jobs, client, url, runs)
            jobs.close()  # which ends streams of events
    finally:
        jobs.close()
    assert not jobs.folder.exists()


@contextmanager
def running(app: Any) -> Iterator[str]:
    """Run an application in this process; gives its URL."""
    import uvicorn

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.fixture(scope="session")
def server(tiny_bundle: Bundle) -> Iterator[Served]:
    """A server that keeps what a test needs."""
    with serve(tiny_bundle, jobs=100, waiting=50) as served:
        yield served


@pytest.fixture(scope="session")
def four(four_bundle: Bundle, tiny_bundle: Bundle) -> Iterator[Served]:  # noqa: F811
    """A server with a model that takes four contrasts, and one that takes one scan."""
    with serve(four_bundle, tiny_bundle, jobs=100) as served:
        yield served


@pytest.fixture
def web(server: Served) -> Iterator[Served]:
    """The same server, without the scans of other tests."""
    yield server
    for job in server.jobs.all():
        server.jobs.remove(job)


def lines_of(stream: httpx.Response) -> Iterator[dict[str, Any]]:
    """The states that server-sent events tell."""
    for line in stream.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))
