"""The page of a reader study, for one rater.

It knows the study, not the key: nothing that it sends says what a scan is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse

from mrbridge.study.design import Study, add_answers, allowed, path_for, read_answers
from mrbridge.web.guard import Refused, add_pages, bound, guarded_app, new_token, serve
from mrbridge.web.settings import Address

_LONGEST = 100_000  # bytes of the answers about a scan


def create_app(study: Study, rater: str, token: str, host: str) -> FastAPI:
    """The application for a rater. Every request has to bring `token`; `host` is the address that
    the server listens on. SettingsError if the rater's name cannot be used, InputError if the
    rater's file is not one of this study."""
    app = guarded_app(
        token,
        host,
        "mrbridge reader study",
        "Blinded scans for one rater, and the answers. Every call needs the token of the printed "
        "URL, as the query parameter `token` or the header `Authorization: Bearer`.",
    )
    path = path_for(study, rater)
    read_answers(study, path)
    order = study.order_for(rater)
    writing = threading.Lock()

    @app.get("/api/study")
    def show() -> dict[str, Any]:
        """The rater, how many scans are done and to do, and the next one with its questions."""
        done = {one.scan for one in read_answers(study, path)}
        left = [scan for scan in order if scan not in done]
        progress = {"rater": rater, "done": len(order) - len(left), "scans": len(order)}
        if not left:
            return progress | {"next": None}
        spots = [{"name": name, "position_mm": mm} for name, mm in study.items[left[0]].items()]
        return progress | {"next": {"scan": left[0], "spots": spots}}

    @app.get("/api/scans/{scan}")
    async def image(scan: str) -> FileResponse:
        """A blinded scan (NIfTI)."""
        if scan not in study.items:
            raise Refused(404, "There is no such scan", "Reload the page.")
        return FileResponse(study.image(scan), media_type="application/octet-stream")

    @app.post("/api/answers", status_code=201)
    async def answer(request: Request) -> dict[str, Any]:
        """Answers about a scan: JSON with `scan`, `seconds`, and `answers` by question."""
        length = request.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > _LONGEST:
            raise Refused(413, "That is too long for answers", "Reload the page.")
        try:
            body = await request.json()
            scan, given = str(body["scan"]), dict(body["answers"])
            seconds = min(max(float(body["seconds"]), 0.0), 1e6)
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(422, "These are not answers", "Reload the page.") from error
        if scan not in study.items:
            raise Refused(404, "There is no such scan", "Reload the page.")
        try:
            with writing:
                add_answers(study, path, scan, given, seconds)
        except ValueError as error:
            raise Refused(409, str(error).capitalize(), "Reload the page.") from error
        return {"questions": len(allowed(study, scan))}

    add_pages(app, token, {"/": "study.html"})
    return app


def rate(study: str | Path, rater: str, address: Address, started: Callable[[str], None]) -> None:
    """Serve the page to a rater (a code rather than a name) until a signal comes; `started` is
    called with the URL once it listens. InputError if there is no study, or the rater's file is not
    one of it; SettingsError if the address or the rater's name cannot be used."""
    opened, token = Study.open(study), new_token()
    app = create_app(opened, rater, token, address.host)
    with bound(address) as listener:
        serve(app, listener, address.host, token, started)
