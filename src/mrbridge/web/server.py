"""The HTTP interface of `mrbridge serve`, and the page.

Every request needs the token of the printed URL. A web page from elsewhere cannot send one, even if
its name leads to this address (DNS rebinding): Host and Origin are checked too.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from mrbridge import __version__
from mrbridge.errors import MrbridgeError, SettingsError
from mrbridge.web.jobs import ENDED, Job, Jobs, Refused
from mrbridge.web.page import BUILD_IT, NOT_BUILT, STATIC
from mrbridge.web.runs import describe, sample
from mrbridge.web.settings import ServeSettings
from mrbridge.web.uploads import FORM, choices_of, form_of, keep_truth, receive, room_for

log = logging.getLogger(__name__)

LOCAL = ("127.0.0.1", "localhost", "::1")

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "font-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_POLL_SECONDS = 0.2
_HEARTBEATS = 75  # polls without a change, after which a comment keeps the connection open
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}


def create_app(jobs: Jobs, token: str, host: str, runs: Sequence[Path] = ()) -> FastAPI:
    """The application.

    Args:
        jobs: the scans and their worker; the caller closes them.
        token: what every request has to bring, as `?token=` or `Authorization: Bearer`.
        host: the address that the server listens on.
        runs: the folders of trainings that the page shows.
    """
    app = FastAPI(
        title="mrbridge",
        version=__version__,
        description="Translates MR scans into the other contrast. Everything it makes is "
        "synthetic: for research, not for diagnosis. Every call needs the token of the printed "
        "URL, as the query parameter `token` or the header `Authorization: Bearer`.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )

    @app.middleware("http")
    async def guard(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        refusal = _refusal(request, token, host)
        response = refusal or await call_next(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(Refused)
    async def refuse(request: Request, error: Refused) -> JSONResponse:
        return _error(error.status, error.what, error.remedy)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, str(error.detail), "")

    def job_of(name: str) -> Job:
        job = jobs.get(name)
        if job is None:
            raise Refused(404, "There is no such scan", "It may have been removed.")
        return job

    @app.get("/api/health")
    async def health() -> dict[str, Any]:
        """Whether the server works, which models it has, and its limits."""
        return {
            "version": __version__,
            "models": jobs.models,
            "jobs": len(jobs.all()),
            "limits": jobs.settings.model_dump(exclude={"host", "port"}),
        }

    @app.get("/api/jobs")
    async def listing() -> list[dict[str, Any]]:
        """All scans, the oldest first."""
        return [jobs.as_json(job) for job in jobs.all()]

    @app.post("/api/jobs", status_code=202, openapi_extra={"requestBody": FORM})
    async def create(request: Request) -> dict[str, Any]:
        """Upload a scan, and translate it, or only look at it (`start=false`)."""
        job = await receive(request, jobs)
        log.info("scan %s: received, %.1f MiB", job.id, job.size / 2**20)
        return jobs.as_json(job)

    @app.get("/api/jobs/{job_id}")
    async def show(job_id: str) -> dict[str, Any]:
        """State (ready, queued, running, done, failed, cancelled), progress (0 to 1), verdict,
        error, files and volumes of a scan."""
        return jobs.as_json(job_of(job_id))

    @app.post("/api/jobs/{job_id}/start", status_code=202)
    async def start(job_id: str, request: Request) -> dict[str, Any]:
        """Translate a scan that was looked at: `truth` and the choices of an upload."""
        job = job_of(job_id)
        with room_for(request, jobs):
            form = await form_of(request)
            try:
                choices = choices_of(form, jobs)
                truth = await run_in_threadpool(keep_truth, form, job, jobs)
            finally:
                await form.close()
            jobs.start(job, **choices, **({} if truth is None else {"truth": truth}))
        return jobs.as_json(job)

    @app.post("/api/jobs/{job_id}/cancel")
    async def cancel(job_id: str) -> dict[str, Any]:
        """Stop a translation; the scan stays."""
        job = job_of(job_id)
        jobs.cancel(job)
        return jobs.as_json(job)

    @app.get("/api/jobs/{job_id}/events")
    async def events(job_id: str) -> StreamingResponse:
        """Server-sent events: the same as `GET /api/jobs/ID`, at every change until the end."""
        return StreamingResponse(_events(jobs, job_of(job_id)), media_type="text/event-stream")

    @app.get("/api/jobs/{job_id}/files/{name}")
    async def file(job_id: str, name: str) -> FileResponse:
        """A result, or a volume for the viewer."""
        path = job_of(job_id).path_of(name)
        if path is None or not path.is_file():
            raise Refused(404, "There is no such file", "It may have been removed.")
        return FileResponse(path, filename=name, media_type="application/octet-stream")

    @app.delete("/api/jobs/{job_id}", status_code=204)
    async def delete(job_id: str) -> Response:
        """Stop, and remove the scan and its results."""
        await run_in_threadpool(jobs.remove, job_of(job_id))
        return Response(status_code=204)

    def run_of(number: int) -> Path:
        if not 0 <= number < len(runs):
            raise Refused(404, "There is no such run", "Name it with --run.")
        return runs[number]

    @app.get("/api/runs")
    async def list_runs() -> list[str]:
        """The names of the trainings."""
        return [run.resolve().name for run in runs]

    @app.get("/api/runs/{number}")
    def show_run(number: int) -> dict[str, Any]:
        """Numbers, sample sheets and warnings of a training, and the time left."""
        try:
            return describe(run_of(number))
        except MrbridgeError as error:
            raise Refused(404, error.what, error.remedy) from error

    @app.get("/api/runs/{number}/samples/{name}")
    async def show_sample(number: int, name: str) -> FileResponse:
        """A sample sheet (PNG)."""
        path = sample(run_of(number), name)
        if path is None:
            raise Refused(404, "There is no such picture", "Reload the page.")
        return FileResponse(path, media_type="image/png")

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return _page("index.html", token)

    @app.get("/runs", include_in_schema=False)
    async def runs_page() -> HTMLResponse:
        return _page("runs.html", token)

    @app.get("/{name}", include_in_schema=False)
    async def static(name: str) -> FileResponse:
        kind = _TYPES.get(PurePosixPath(name).suffix)
        path = STATIC / name
        if kind is None or path.parent != STATIC or not path.is_file():
            raise Refused(404, "There is no such page", "Open the printed URL.")
        return FileResponse(path, media_type=kind)

    return app


_MISSING = f"<!doctype html><title>mrbridge</title><p>The server runs, but {NOT_BUILT}. {BUILD_IT}"


def _page(name: str, token: str) -> HTMLResponse:
    """A page, whose own links have the token."""
    page = STATIC / name
    if not page.is_file():
        return HTMLResponse(_MISSING, 503)
    text = page.read_text("utf-8")
    return HTMLResponse(
        re.sub(r'(src|href)="((app|runs)\.\w+|/|/runs)"', rf'\1="\2?token={token}"', text)
    )


def _error(status: int, what: str, remedy: str) -> JSONResponse:
    text = f"{what}. {remedy}".strip() if remedy else what
    return JSONResponse({"error": {"what": what, "remedy": remedy, "text": text}}, status)


def _refusal(request: Request, token: str, host: str) -> Response | None:
    """The answer to a request that may not come in; None if it may."""
    named = request.headers.get("host", "")
    name = _host_name(named)
    if not _is_allowed(name, host):
        return _error(421, "This server is not called that", "Open the printed URL.")
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != named:
        return _error(403, "Requests from other pages are refused", "Open the printed URL.")
    given = request.query_params.get("token") or request.headers.get(
        "authorization", ""
    ).removeprefix("Bearer ")
    if not secrets.compare_digest(given.encode(), token.encode()):
        return _error(401, "The token is missing or wrong", "Open the URL that was printed.")
    return None


def _host_name(named: str) -> str:
    with suppress(ValueError):
        return urlsplit(f"//{named}").hostname or ""
    return ""


def _is_allowed(name: str, host: str) -> bool:
    """Whether a request may call the server so: by its address, or by the name it was given."""
    if name in (*LOCAL, host):
        return True
    with suppress(ValueError):
        # Attackers can give their name any address, but cannot make an address their name.
        return host not in LOCAL and ip_address(name) is not None
    return False


async def _events(jobs: Jobs, job: Job) -> AsyncIterator[str]:
    seen, still = -1, 0
    while not jobs.is_closing and jobs.get(job.id) is job:
        if job.version != seen:
            seen, still = job.version, 0
            yield f"data: {json.dumps(jobs.as_json(job))}\n\n"
            if job.state in (*ENDED, "ready"):
                return
        elif (still := still + 1) % _HEARTBEATS == 0:
            yield ": still here\n\n"
        await asyncio.sleep(_POLL_SECONDS)


def run(
    models: Sequence[str | Path],
    settings: ServeSettings,
    started: Callable[[str], None],
    *,
    device: str = "auto",
    runs: Sequence[Path] = (),
) -> None:
    """Serve until a signal comes.

    Args:
        models: the paths of models, or `shipped`.
        settings: the address and the limits.
        started: called with the URL once the server listens.
        device: `auto`, `cpu` or `cuda`.
        runs: the folders of trainings that the page shows.

    Raises:
        MrbridgeError: a model cannot be loaded, or the address cannot be used.
    """
    import socket

    import uvicorn

    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            raise SettingsError(
                f"cannot listen on {settings.host}, port {settings.port} ({error.strerror})",
                remedy="Choose another --port.",
            ) from error
        jobs = Jobs(models, settings, device)
        try:
            token = secrets.token_urlsafe(24)
            app = create_app(jobs, token, settings.host, runs)
            config = uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=2,
                lifespan="off",
            )
            shown = f"[{settings.host}]" if ":" in settings.host else settings.host
            started(f"http://{shown}:{listener.getsockname()[1]}/?token={token}")
            with suppress(KeyboardInterrupt):
                uvicorn.Server(config).run(sockets=[listener])
        finally:
            jobs.close()
