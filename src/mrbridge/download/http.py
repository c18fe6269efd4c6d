"""HTTP connections: retries, resumed reading, limits.

Source: RFC 9110 (HTTP Semantics), sections 8.8 (validators), 10.2.3 (Retry-After), 13.1.5
(If-Range) and 14 (ranges).
"""

from __future__ import annotations

import logging
import re
import ssl
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from typing import Any, Self

import httpx
from pydantic import BaseModel, ConfigDict, Field
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    wait_exponential,
    wait_random,
)

from mrbridge.download.settings import DownloadSettings
from mrbridge.errors import InputError
from mrbridge.json_text import parse_json

log = logging.getLogger(__name__)

MAX_JSON = 1 << 24
"""Upper limit in bytes of a JSON answer."""

_BUSY = {408, 425, 429, 500, 502, 503, 504, 522, 524}
_REFUSED = {401: "is not public", 403: "is not public", 404: "does not exist", 410: "is gone"}
_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-\d{1,18}|\*)/(\d{1,18}|\*)")
_CONNECT_SECONDS = 15.0
_LATER = "Run the same command again later: it resumes where it stopped."


class Stopped(Exception):
    """The session was asked to stop."""


class Damaged(InputError):
    """What arrived is not what the archive lists, or changed on the server during the download."""


class Busy(Exception):
    """The attempt failed, the next one may succeed; `wait` is what the server asks for, in s."""

    def __init__(self, reason: str, wait: float = 0) -> None:
        super().__init__(reason)
        self.wait = wait


class FileState(BaseModel):
    """The state of a remote file, by which a later change is noticed.

    Attributes:
        length: in bytes; None if the server does not say.
        etag, modified: validators as the server sent them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    length: int | None = Field(default=None, ge=0)
    etag: str | None = None
    modified: str | None = None

    @classmethod
    def of(cls, response: httpx.Response) -> FileState:
        """The state of the whole file of which a response holds a part."""
        headers = response.headers
        length = headers.get("Content-Length", "")
        if response.status_code != 200:
            match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
            length = match[2] if match else ""
        return cls(
            length=int(length) if re.fullmatch("[0-9]{1,18}", length) else None,
            etag=headers.get("ETag"),
            modified=headers.get("Last-Modified"),
        )

    @property
    def validator(self) -> str | None:
        """What `If-Range` may carry: a strong entity tag, or else a date."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified

    def is_same(self, other: FileState) -> bool:
        """Whether both describe the same content, as far as a server tells."""
        if None not in (self.length, other.length) and self.length != other.length:
            return False
        for mine, theirs in ((self.etag, other.etag), (self.modified, other.modified)):
            if mine and theirs:
                return mine == theirs
        return self.length is not None and self.length == other.length


class Session:
    """HTTP connections, shared by threads.

    Attributes:
        settings: how patient to be.
        stop: set it to end all downloads with `Stopped`.
    """

    def __init__(self, settings: DownloadSettings) -> None:
        self.settings = settings
        self.stop = threading.Event()
        self._is_reached = False
        seconds = self.settings.timeout_seconds
        self._client = httpx.Client(
            timeout=httpx.Timeout(seconds, connect=min(_CONNECT_SECONDS, seconds)),
            verify=_certificates(),
            follow_redirects=True,
            headers={"User-Agent": f"mrbridge/{version('mrbridge')}"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def post(self, url: str, body: Any, check: Callable[[Any], None] = lambda answer: None) -> Any:
        """Send JSON and return the JSON of the answer, of any status.

        Args:
            check: gets the answer and may raise `Busy` to send the request again.

        Raises:
            InputError: there is no answer, it is not JSON, or it is larger than `MAX_JSON`.
        """

        def send() -> Any:
            with self.request("POST", url, json=body) as response:
                text = bytearray()
                for block in response.iter_bytes():
                    text += block
                    if len(text) > MAX_JSON:
                        raise InputError(f"{url} sends more than {MAX_JSON} bytes of JSON")
            try:
                answer = parse_json(text)
            except ValueError:
                raise InputError(
                    f"{url} does not answer with JSON (status {response.status_code})",
                    remedy="Check --mirror, or try again later.",
                ) from None
            check(answer)
            return answer

        return self.retrying(url)(send)

    def look(self, url: str) -> FileState:
        """The present state of a remote file, without its content.

        Raises:
            InputError: it cannot be downloaded.
        """

        def ask() -> FileState:
            with self.request("GET", url) as response:
                return FileState.of(response)

        return self.retrying(url)(ask)

    def retrying(self, url: str) -> Retrying:
        """Attempts with growing waits in between; `InputError` when the last one has failed."""
        settings = self.settings
        first, longest = settings.first_wait_seconds, settings.longest_wait_seconds
        backoff = wait_exponential(first, longest) + wait_random(0, first)

        def is_last(call: RetryCallState) -> bool:
            # A host that never answered is most likely out of reach: do not keep the user waiting.
            limit = settings.attempts if self._is_reached else min(2, settings.attempts)
            return call.attempt_number >= limit

        def announce(call: RetryCallState) -> None:
            log.debug("%s: %s, next attempt in %.1f s", url, _error(call), call.upcoming_sleep)

        def give_up(call: RetryCallState) -> None:
            was_reached, self._is_reached = self._is_reached, False
            if was_reached:
                raise InputError(f"{url} cannot be downloaded ({_error(call)})", remedy=_LATER)
            raise InputError(
                f"{url} cannot be reached ({_error(call)})",
                remedy="Check the network, or name another server (--mirror).",
            )

        return Retrying(
            retry=retry_if_exception_type(Busy),
            stop=is_last,
            wait=lambda call: max(backoff(call), _error(call).wait),
            sleep=sleep_using_event(self.stop),
            before_sleep=announce,
            retry_error_callback=give_up,
        )

    @contextmanager
    def request(self, method: str, url: str, **options: Any) -> Iterator[httpx.Response]:
        """One response whose content is still to be read.

        Raises:
            Busy: another attempt may succeed.
            InputError: no attempt can succeed.
            Stopped: the session was asked to stop.
        """
        if self.stop.is_set():
            raise Stopped
        if method == "GET":  # sizes, ranges and checksums refer to the bytes on the server
            options["headers"] = {**options.get("headers", {}), "Accept-Encoding": "identity"}
        try:
            with self._client.stream(method, url, **options) as response:
                self._is_reached = True
                if url.startswith("https:") and response.url.scheme != "https":
                    raise InputError(f"{url} redirects to {response.url}, which is not encrypted")
                status = response.status_code
                if status in _BUSY:
                    raise Busy(f"status {status}", self._retry_after(url, response))
                if method == "GET" and status not in (200, 206, 416):
                    raise InputError(
                        f"{url} {_REFUSED.get(status, f'is refused (status {status})')}",
                        remedy="Check the names, or --mirror.",
                    )
                yield response
        except (
            *(httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.TooManyRedirects),
            UnicodeError,  # a label of the host name that is longer than 63 characters
        ) as error:
            raise InputError(f"{url} is not a usable address ({error})") from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise Busy(str(error) or type(error).__name__) from error

    def _retry_after(self, url: str, response: httpx.Response) -> float:
        """The wait in s that a server asks for; 0 if it does not."""
        text = response.headers.get("Retry-After", "").strip()
        seconds = float(text) if re.fullmatch("[0-9]{1,18}", text) else 0.0
        if seconds > self.settings.longest_wait_seconds:
            raise InputError(f"{url} asks to wait for {seconds:.0f} seconds", remedy=_LATER)
        return seconds


class Stream:
    """A remote file, read forwards from any byte; a broken connection is resumed.

    Args:
        position: the next byte to be read.
        state: of the file; None before the first read if it is not known.
        limit: the most bytes that the file may have.
        advance: gets the number of bytes read, for a progress bar.
    """

    def __init__(
        self,
        session: Session,
        url: str,
        *,
        position: int = 0,
        state: FileState | None = None,
        limit: int = 1 << 24,
        advance: Callable[[int], object] = lambda count: None,
    ) -> None:
        self.url, self.position, self.state = url, position, state
        self._session, self._limit, self._advance = session, limit, advance
        self._waiting = memoryview(b"")
        self._blocks = self._receive(position)

    def read(self, count: int) -> bytes:
        """The next `count` bytes; fewer only at the end of the file. Raises what `read1` does."""
        parts = []
        while count and (part := self.read1(count)):
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def read1(self, count: int) -> bytes:
        """At most `count` bytes, without waiting for more than the next to arrive; b"" at the end.

        Raises:
            Damaged: the file changed, or is longer than the limit.
            InputError: it cannot be downloaded.
            Stopped: the session was asked to stop.
        """
        if not self._waiting:
            self._waiting = memoryview(next(self._blocks, b""))
        data, self._waiting = bytes(self._waiting[:count]), self._waiting[count:]
        self.position += len(data)
        self._advance(len(data))
        return data

    def close(self) -> None:
        """Close the connection."""
        self._blocks.close()

    def _receive(self, position: int) -> Generator[bytes, None, None]:
        """The blocks from `position` on, over as many connections as it takes."""
        while self._length is None or position < self._length:
            for attempt in self._session.retrying(self.url):
                with attempt:
                    before = position
                    try:
                        headers = self._headers(position)
                        with self._session.request("GET", self.url, headers=headers) as response:
                            for block in self._blocks_from(position, response):
                                position += len(block)
                                if position > self._limit:
                                    raise Damaged(f"{self.url} sends more than it should")
                                if self._session.stop.is_set():
                                    raise Stopped
                                yield block
                        if self._length is None:
                            return
                        if position < self._length:
                            raise Busy("the answer ended too early")
                    except Busy:  # any progress starts a new series of attempts
                        if position == before:
                            raise

    @property
    def _length(self) -> int | None:
        return self.state.length if self.state else None

    def _headers(self, position: int) -> dict[str, str]:
        if position == 0:
            return {}
        validator = self.state.validator if self.state else None
        return {"Range": f"bytes={position}-"} | ({"If-Range": validator} if validator else {})

    def _blocks_from(self, position: int, response: httpx.Response) -> Iterator[bytes]:
        """The content of a response from `position` of the file on."""
        state = FileState.of(response)
        if response.status_code == 416 or (self.state and not self.state.is_same(state)):
            raise Damaged(f"{self.url} changed on the server during the download")
        start = 0
        if response.status_code == 206:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            start = int(match[1]) if match and match[1] else position + 1
        if start > position:
            raise Busy("the server sent another range")
        self.state = self.state or state
        surplus = position - start  # a server without ranges starts at the first byte
        for block in response.iter_raw():
            wanted = block[surplus:]
            surplus = max(0, surplus - len(block))
            if self._length is not None:
                wanted = wanted[: self._length - position]
            position += len(wanted)
            if wanted:
                yield wanted


def _error(call: RetryCallState) -> Busy:
    error = call.outcome.exception() if call.outcome else None
    assert isinstance(error, Busy)  # nothing else is retried
    return error


@cache
def _certificates() -> ssl.SSLContext:
    """httpx's default certificates, loaded once for all sessions."""
    return httpx.create_ssl_context()
