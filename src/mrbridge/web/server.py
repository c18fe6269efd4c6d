"""The HTTP interface of `mrbridge serve`, and the page."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from mrbridge import __version__
from mrbridge.errors import MrbridgeError
from mrbridge.training.words import describe, sample
from mrbridge.web.guard import Refused, add_pages, bound, guarded_app, new_token, serve
from mrbridge.web.jobs import ENDED, Job, Jobs, gone
from mrbridge.web.settings import ServeSettings
from mrbridge.web.uploads import FORM, receive, receive_start

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_HEARTBEATS = 75  # polls without a change, after which a comment keeps the connection open


def create_app(jobs: Jobs, token: str, host: str, runs: Sequence[Path] = ()) -> FastAPI:
    """The application.

    Args:
        jobs: the scans and their worker; the caller closes them.
        token: what every request has to bring, as `?token=` or `Authorization: Bearer`.
        host: the address that the server listens on.
        runs: the folders of trainings that the page shows.
    """
    app = guarded_app(
        token,
        host,
        "mrbridge",
        "Translates MR scans into the other contrast. Everything it makes is "
        "synthetic: for research, not for diagnosis. Every call needs the token of the printed "
        "URL, as the query parameter `token` or the header `Authorization: Bearer`.",
    )

    def job_of(name: str) -> Job:
        job = jobs.get(name)
        if job is None:
            raise gone()
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
        """Translate a scan that was looked at: `truth`, `also` and the choices of an upload.

        Without the field `also`, the additional scans are those of before; an empty one means none.
        """
        job = job_of(job_id)
        await receive_start(request, job, jobs)
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
        return _stream(jobs, _states(jobs, job_of(job_id)))

    @app.get("/api/events")
    async def changes() -> StreamingResponse:
        """Server-sent events for a page: `jobs`, those that changed (at first all), as in `GET
        /api/jobs/ID`, and `removed`, the ids of those that are gone."""
        return _stream(jobs, _changes(jobs))

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

    add_pages(app, token, {"/": "index.html", "/runs": "runs.html"})
    return app


def _states(jobs: Jobs, job: Job) -> Iterator[dict[str, Any] | None]:
    """The state of a job at each change, otherwise None; until it has ended or is removed."""
    seen = -1
    while jobs.get(job.id) is job:
        state = jobs.as_json(job)
        yield None if state["version"] == seen else state
        if state["state"] in (*ENDED, "ready"):
            return
        seen = state["version"]


def _changes(jobs: Jobs) -> Iterator[dict[str, Any] | None]:
    """What changed in all jobs since the last look, at first all of them; None: nothing."""
    seen: dict[str, int] | None = None
    while True:
        known = jobs.all()
        now = {job.id: job.version for job in known}
        if now == seen:
            yield None
            continue
        before, seen = seen or {}, now
        # A job that waits moves up in the queue without a change of its own.
        changed = [
            jobs.as_json(job)
            for job in known
            if job.state == "queued" or now[job.id] != before.get(job.id)
        ]
        yield {"jobs": changed, "removed": sorted(before.keys() - now.keys())}


def _stream(jobs: Jobs, messages: Iterator[dict[str, Any] | None]) -> StreamingResponse:
    """Server-sent events, until the messages or the server end; None sends nothing."""

    async def events() -> AsyncIterator[str]:
        still = 0
        for message in messages:
            if jobs.closing:
                return
            if message is not None:
                still = 0
                yield f"data: {json.dumps(message)}\n\n"
            elif (still := still + 1) % _HEARTBEATS == 0:
                yield ": still here\n\n"
            await asyncio.sleep(_POLL_SECONDS)

    return StreamingResponse(events(), media_type="text/event-stream")


def run(
    models: Sequence[str | Path],
    settings: ServeSettings,
    started: Callable[[str], None],
    *,
    device: str = "auto",
    runs: Sequence[Path] = (),
    allow_code: bool = False,
) -> None:
    """Serve models (their paths, or `shipped`) and the folders of trainings `runs` until a signal
    comes; `started` is called with the URL once the server listens. MrbridgeError if a model cannot
    be loaded, or the address cannot be used."""
    with bound(settings) as listener:
        jobs = Jobs(models, settings, device, allow_code=allow_code)
        try:
            token = new_token()
            app = create_app(jobs, token, settings.host, runs)
            serve(app, listener, settings.host, token, started)
        finally:
            jobs.close()
