"""What every server of mrbridge does: who may call it, its own files, and how it listens.

Every request needs the token of the printed URL. A web page from elsewhere cannot send one, even if
its name leads to this address (DNS rebinding): Host and Origin are checked too.
"""

from __future__ import annotations

import re
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from starlette.responses import Response

from mrbridge import __version__
from mrbridge.errors import SettingsError
from mrbridge.viewer import BUILD_IT, NOT_BUILT, STATIC

if TYPE_CHECKING:
    from mrbridge.web.settings import Address


class Refused(Exception):
    """A request that cannot be accepted now, with the status of HTTP that says why."""

    def __init__(self, status: int, what: str, remedy: str) -> None:
        super().__init__(f"{what}. {remedy}")
        self.status, self.what, self.remedy = status, what, remedy


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

_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}


def guarded_app(token: str, host: str, title: str, description: str) -> FastAPI:
    """An application without routes, which refuses strangers.

    Args:
        token: what every request has to bring, as `?token=` or `Authorization: Bearer`.
        host: the address that the server listens on.
    """
    app = FastAPI(
        title=title,
        version=__version__,
        description=description,
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

    return app


def add_pages(app: FastAPI, token: str, pages: dict[str, str]) -> None:
    """Serve pages, by their paths, and the files that they need; after all other routes."""

    def serve(path: str, name: str) -> None:
        @app.get(path, include_in_schema=False)
        async def page() -> HTMLResponse:
            return _page(name, token)

    for path, name in pages.items():
        serve(path, name)

    @app.get("/{name}", include_in_schema=False)
    async def static(name: str) -> FileResponse:
        kind = _TYPES.get(PurePosixPath(name).suffix)
        path = STATIC / name
        if kind is None or path.parent != STATIC or not path.is_file():
            raise Refused(404, "There is no such page", "Open the printed URL.")
        return FileResponse(path, media_type=kind)


_MISSING = f"<!doctype html><title>mrbridge</title><p>The server runs, but {NOT_BUILT}. {BUILD_IT}"


def _page(name: str, token: str) -> HTMLResponse:
    """A page, whose own links have the token."""
    page = STATIC / name
    if not page.is_file():
        return HTMLResponse(_MISSING, 503)
    text = page.read_text("utf-8")
    return HTMLResponse(
        re.sub(r'(src|href)="((app|runs|study)\.\w+|/|/runs)"', rf'\1="\2?token={token}"', text)
    )


def _error(status: int, what: str, remedy: str) -> JSONResponse:
    text = f"{what}. {remedy}".strip() if remedy else what
    return JSONResponse({"error": {"what": what, "remedy": remedy, "text": text}}, status)


def _refusal(request: Request, token: str, host: str) -> Response | None:
    """The answer to a request that may not come in; None if it may."""
    named = request.headers.get("host", "")
    name = _host_name(named)
    if not _is_allowed(name, host):
        return _error(421, "This server does not answer to that host name", "Open the printed URL.")
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != named:
        return _error(403, "Requests from other web pages are refused", "Open the printed URL.")
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


def bound(address: Address) -> socket.socket:
    """A socket on an address; SettingsError if the address cannot be used."""
    listener = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address.host, address.port))
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"cannot listen on {address.host}, port {address.port} ({error.strerror})",
            remedy="Choose another --port.",
        ) from error
    return listener


def new_token() -> str:
    """A secret for the URL."""
    return secrets.token_urlsafe(24)


def serve(
    app: FastAPI, listener: socket.socket, host: str, token: str, started: Callable[[str], None]
) -> None:
    """Answer requests until a signal comes; `started` is called with the URL."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
        lifespan="off",
    )
    server = uvicorn.Server(config)

    def hang_up(number: int, frame: object) -> None:
        server.should_exit = True

    # A terminal that is closed: uvicorn itself listens to SIGINT and SIGTERM only.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, hang_up)
    shown = f"[{host}]" if ":" in host else host
    started(f"http://{shown}:{listener.getsockname()[1]}/?token={token}")
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
