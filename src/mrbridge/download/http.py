"""Remote files, read from any byte on, over connections that break.

A file is read with range requests that hold only as long as it stays the same (`If-Range`), so that
two states of it are never mixed. Servers that are busy or broken are asked again, later and later.

Source: RFC 9110 (HTTP Semantics), sections 8.8 (validators), 10.2.3 (Retry-After), 13.1.5
(If-Range), 14 (ranges); S3 object entity tags, docs.aws.amazon.com/AmazonS3/latest/API/API_Object.
"""

from __future__ import annotations

import logging
import random
import re
import ssl
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self

import httpx

from mrbridge.download.settings import DownloadSettings
from mrbridge.errors import InputError
from mrbridge.json_text import parse_json

log = logging.getLogger(__name__)

_BUSY = {408, 425, 429, 500, 502, 503, 504, 522, 524}
_CONNECT_SECONDS = 15.0  # a server that is there takes up a connection sooner
_LONGEST_ANSWER = 1 << 26  # bytes; the list of a folder has some kilobytes
_LONGEST_UNTOLD = 1 << 34  # bytes of a file whose length no server and no list tells
_LATER = "Run the same command again later: it goes on where it stopped."
_MD5 = re.compile(r'^"([0-9a-f]{32})"$')
_RANGE = re.compile(r"^bytes (?:(\d{1,18})-\d{1,18}|\*)/(\d{1,18}|\*)$")
_WHOLE = re.compile(r"^[0-9]{1,18}$")
_REFUSED = {401: "is not public", 403: "is not public", 404: "does not exist", 410: "is gone"}


class Changed(Exception):
    """A remote file is no longer what it was when its transfer began."""


class Stopped(Exception):
    """Somebody wants all transfers to end."""


@dataclass(frozen=True)
class Version:
    """What tells one state of a remote file from another.

    Attributes:
        length: in bytes; None where the server does not tell.
        etag: the entity tag as it was sent.
        modified: the date of last modification as it was sent.
        md5: the MD5 of the content, where the server is S3 and the tag is one.
    """

    length: int | None = None
    etag: str | None = None
    modified: str | None = None
    md5: str | None = None

    @property
    def proof(self) -> str | None:
        """What `If-Range` may carry: a strong tag, else a date; None where there is neither."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return self.modified

    def is_same(self, other: Version) -> bool:
        """Whether both are of one state, as far as can be told."""
        if None not in (self.length, other.length) and self.length != other.length:
            return False
        for mine, theirs in ((self.etag, other.etag), (self.modified, other.modified)):
            if mine and theirs:
                return mine == theirs
        return self.length is not None and self.length == other.length


class Session:
    """Connections to servers, shared by threads.

    Args:
        settings: how patient to be.
        stop: set by whoever wants all transfers to end; they then raise `Stopped`.
    """

    def __init__(
        self, settings: DownloadSettings | None = None, stop: threading.Event | None = None
    ) -> None:
        self.settings = settings or DownloadSettings()
        self.stop = stop or threading.Event()
        self.reached: set[str] = set()
        self._client = httpx.Client(
            timeout=httpx.Timeout(
                self.settings.timeout_seconds,
                connect=min(_CONNECT_SECONDS, self.settings.timeout_seconds),
            ),
            verify=_trust(),
            follow_redirects=True,
            headers={"User-Agent": f"mrbridge/{version('mrbridge')}"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def ask(self, url: str, question: dict[str, Any]) -> Any:
        """Post JSON, return the JSON that comes back, also that of a refusal.

        Raises:
            InputError: no answer, or one that is not JSON.
        """
        patience = Patience(self, url)
        while True:
            with patience, self._request("POST", url, json=question) as response:
                text = bytearray()
                for block in response.iter_bytes():
                    text += block
                    if len(text) > _LONGEST_ANSWER:
                        raise InputError(f"{url} does not come to an end with its answer")
                try:
                    return parse_json(text)
                except ValueError:
                    raise InputError(
                        f"{url} answers with something else than JSON "
                        f"(status {response.status_code})",
                        remedy="Check --mirror, or try again later.",
                    ) from None

    def look(self, url: str) -> Version:
        """The present state of a remote file; its content is left where it is.

        Raises:
            InputError: it cannot be had.
        """
        patience = Patience(self, url)
        while True:
            with patience, self.get(url, {}) as response:
                return _version(response)

    def read(
        self, url: str, start: int = 0, known: Version | None = None, until: int | None = None
    ) -> Reading:
        """A remote file's bytes from `start` on, to the byte before `until` or to its end.

        `known` is the state that it must have.
        """
        return Reading(self, url, start, known, until)

    @contextmanager
    def get(self, url: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """One answer with content, or an error; `_Busy` asks for another try."""
        # The bytes must come as they lie on the server: ranges and checksums count these.
        with self._request("GET", url, headers=headers | {"Accept-Encoding": "identity"}) as answer:
            if answer.status_code in (200, 206, 416):
                yield answer
                return
            why = _REFUSED.get(answer.status_code, f"is refused (status {answer.status_code})")
            raise InputError(f"{url} {why}", remedy="Check the names, or --mirror.")

    @contextmanager
    def _request(self, method: str, url: str, **more: Any) -> Iterator[httpx.Response]:
        if self.stop.is_set():
            raise Stopped
        try:
            with self._client.stream(method, url, **more) as response:
                self.reached.add(httpx.URL(url).host)
                if url.startswith("https:") and response.url.scheme != "https":
                    raise InputError(
                        f"{url} leads to {response.url}, which is not encrypted",
                        remedy="Tell those who run the server.",
                    )
                if response.status_code in _BUSY:
                    asked = _seconds(response.headers.get("Retry-After"))
                    raise _Busy(f"status {response.status_code}", asked)
                yield response
        except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.TooManyRedirects) as error:
            raise InputError(f"{url} is not a usable address ({error})") from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise _Busy(str(error) or type(error).__name__, None) from error


class Reading:
    """An iterator over blocks of a remote file; it goes on by itself where a connection broke.

    Attributes:
        version: the state of the file; empty before the first block.
        position: the byte that comes next.

    Raises (while it is iterated over):
        Changed: the file is not in the state that was known, or another one came in between.
        InputError: it cannot be had.
        Stopped: the session was stopped.
    """

    def __init__(
        self, session: Session, url: str, start: int, known: Version | None, until: int | None
    ) -> None:
        self.url = url
        self.version = known or Version()
        self.position = start
        self._until = until
        self._session = session
        self._begun = known is not None
        self._blocks = self._all()

    def __iter__(self) -> Iterator[bytes]:
        return self._blocks

    def __next__(self) -> bytes:
        return next(self._blocks)

    def close(self) -> None:
        """Let go of the connection."""
        self._blocks.close()

    def _all(self) -> Generator[bytes, None, None]:
        patience = Patience(self._session, self.url)
        while not self._is_over():
            with patience, self._session.get(self.url, self._wish()) as response:
                for block in self._from_position(response):
                    self.position += len(block)
                    if self._end() is None and self.position > _LONGEST_UNTOLD:
                        raise InputError(f"{self.url} does not come to an end")
                    patience.reward()
                    yield block
                    if self._session.stop.is_set():
                        raise Stopped
                if self._end() is None:
                    return
                if not self._is_over():
                    raise _Busy("it ended too early", None)

    def _end(self) -> int | None:
        """The byte after the last that is wanted; None for the end of a file of unknown length."""
        ends = [end for end in (self._until, self.version.length) if end is not None]
        return min(ends, default=None)

    def _is_over(self) -> bool:
        end = self._end()
        return end is not None and self.position >= end

    def _wish(self) -> dict[str, str]:
        if self.position == 0 and self._until is None:
            return {}
        proof = self.version.proof
        condition = {"If-Range": proof} if proof else {}
        last = "" if self._until is None else self._until - 1
        return {"Range": f"bytes={self.position}-{last}"} | condition

    def _from_position(self, response: httpx.Response) -> Iterator[bytes]:
        """The blocks of an answer from the position on, once it is the file that was begun."""
        start, now = _start(response), _version(response)
        if self._begun and not self.version.is_same(now):
            raise Changed(self.url)
        if start is None or start > self.position:
            raise _Busy("it sends another part than was asked for", None)
        if not self._begun:
            self.version, self._begun = now, True
        surplus = self.position - start  # a server without ranges begins at the beginning
        for block in response.iter_raw():
            end = self._end()
            rest, surplus = block[surplus:], max(0, surplus - len(block))
            wanted = rest if end is None else rest[: end - self.position]
            if wanted:
                yield wanted
            if len(wanted) < len(rest):  # a server without ranges goes on to the end
                return


class Patience:
    """A context for one try; it swallows what another try may mend, after a wait.

    Waits double, with jitter, so that many who were turned away do not come back together; a
    server that says when to come back is obeyed.

    Raises:
        InputError: too many tries in a row brought nothing.
        Stopped: the session was stopped.
    """

    def __init__(self, session: Session, url: str) -> None:
        self._session = session
        self._url = url
        self._failures = 0
        self._chance = random.Random()

    def reward(self) -> None:
        """Something came: begin to count anew."""
        self._failures = 0

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, _Busy):
            return False
        self.wait(error.why, error.asked)
        return True

    def wait(self, why: str, asked: float | None = None) -> None:
        """Count a failure and wait, or give up."""
        settings = self._session.settings
        self._failures += 1
        # Where nobody ever answered there is most likely no network: say so soon.
        host = httpx.URL(self._url).host
        reached = host in self._session.reached
        if self._failures >= (settings.attempts if reached else min(2, settings.attempts)):
            self._session.reached.discard(host)  # the next file need not try as long
            what = "cannot be transferred" if reached else "cannot be reached"
            remedy = _LATER if reached else "Check the network, or name another server (--mirror)."
            raise InputError(f"{self._url} {what} ({why})", remedy=remedy)
        longest = settings.longest_wait_seconds
        if asked is not None and asked > longest:
            raise InputError(
                f"{self._url} asks to wait for {asked:.0f} seconds ({why})", remedy=_LATER
            )
        doubled = settings.first_wait_seconds * 2 ** (self._failures - 1)
        jittered = min(longest, doubled) * self._chance.uniform(0.5, 1)
        seconds = max(jittered, asked or 0.0)
        log.debug("%s: %s, next try in %.1f seconds", self._url, why, seconds)
        if self._session.stop.wait(seconds):
            raise Stopped


class _Busy(Exception):
    """Another try may succeed; `asked` is how many seconds the server wants to be left alone."""

    def __init__(self, why: str, asked: float | None) -> None:
        super().__init__(why)
        self.why, self.asked = why, asked


@cache
def _trust() -> ssl.SSLContext:
    """Whose certificates are believed: httpx's default, loaded once for all sessions."""
    return httpx.create_ssl_context()


def _version(response: httpx.Response) -> Version:
    """The state of the whole file that an answer speaks of."""
    headers = response.headers
    length: str | None = headers.get("Content-Length")
    if response.status_code != 200:
        span = _RANGE.match(headers.get("Content-Range", ""))
        length = span[2] if span else None
    etag, md5 = headers.get("ETag"), None
    # Of an object that was sent in one piece and not encrypted by KMS, S3 tells the MD5.
    if "x-amz-request-id" in headers and "kms" not in headers.get(
        "x-amz-server-side-encryption", ""
    ):
        match = _MD5.match(etag or "")
        md5 = match[1] if match else None
    known = int(length) if length and _WHOLE.match(length) else None
    return Version(known, etag, headers.get("Last-Modified"), md5)


def _start(response: httpx.Response) -> int | None:
    """The byte at which an answer begins; None where it does not tell."""
    if response.status_code == 200:
        return 0
    span = _RANGE.match(response.headers.get("Content-Range", ""))
    return int(span[1]) if span and span[1] else None


def _seconds(retry_after: str | None) -> float | None:
    """How long a server wants to be left alone: it says seconds or a date."""
    if not retry_after:
        return None
    if _WHOLE.match(retry_after.strip()):
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
