"""Files over HTTP: retries, resumed downloads, limits and checks.

Source: RFC 9110 (HTTP Semantics), sections 10.2.3 (Retry-After) and 14 (ranges).
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import re
import threading
import zlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
from tenacity import (
    RetryCallState,
    Retrying,
    before_sleep_log,
    retry_if_exception_type,
    sleep_using_event,
    wait_exponential,
    wait_random,
)

from mrbridge import progress
from mrbridge.download.settings import DownloadSettings
from mrbridge.errors import InputError, Interrupted
from mrbridge.io.atomic import settle, suffix_of
from mrbridge.volume import MAX_VOXELS

MAX_FILE = 1 << 28
"""Upper limit in bytes of a file that the archive lists without a size."""

MAX_UNPACKED = 4 * MAX_VOXELS
"""Upper limit in bytes of an unpacked `.nii.gz`: a float32 volume of the most voxels allowed."""

MAX_TEXT = 1 << 24
"""Upper limit in bytes of JSON and of tables."""

_BUSY = {408, 425, 429, 500, 502, 503, 504, 522, 524}
_BLOCK = 1 << 18
_SURPLUS = 1 << 16  # bytes accepted beyond a listed size: that of texts in git may be wrong

log = logging.getLogger(__name__)

Item = TypeVar("Item", bound=Hashable)


@dataclass(frozen=True)
class RemoteFile:
    """A file to download.

    Attributes:
        path: its place in the folder.
        size: in bytes; None if it is not listed.
        digest, algorithm: its checksum in hexadecimal; None if it is not known.
        offset: where it starts in what is at the URL, such as a tar file.
    """

    url: str
    path: str
    size: int | None = None
    digest: str | None = None
    algorithm: str = "sha256"
    offset: int = 0

    @property
    def is_scan(self) -> bool:
        """Whether it is a NIfTI file."""
        return suffix_of(self.path) in (".nii", ".nii.gz")

    @property
    def is_resumable(self) -> bool:
        """Whether its checks would notice that its parts are of two states of the file."""
        is_checked = self.digest is not None or suffix_of(self.path) == ".nii.gz"
        return self.size is not None and is_checked

    @property
    def limit(self) -> int:
        """The most bytes that are accepted."""
        return MAX_FILE if self.size is None else self.size + _SURPLUS

    def damage(self, file: Path) -> str | None:
        """What is wrong with its content: the size; the checksum, or without one the CRC of gzip.

        Returns:
            A phrase such as "has 12 bytes instead of 15"; None if it is intact.
        """
        size = file.stat().st_size
        if size > self.limit:
            return "is larger than it should be"
        if self.is_scan and self.size not in (None, size):
            return f"has {size} bytes instead of {self.size}"
        if self.digest is not None:
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, self.algorithm).hexdigest()
            name = self.algorithm.upper()
            problem = f"is damaged: its {name} is {digest} instead of {self.digest}"
            return None if digest == self.digest else problem
        if suffix_of(self.path) != ".nii.gz":
            return None
        try:
            with gzip.open(file) as unpacked:
                while unpacked.read(_BLOCK):
                    if unpacked.tell() > MAX_UNPACKED:
                        return "is larger than any scan once unpacked"
                return None if unpacked.tell() else "is empty"
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            return f"is damaged ({error})"


class Busy(Exception):
    """The attempt failed, the next one may succeed; `wait` is what the server asks for, in s."""

    def __init__(self, url: str, reason: str, wait: float = 0) -> None:
        super().__init__(f"{url} cannot be downloaded ({reason})")
        self.wait = wait


class Session:
    """HTTP connections, shared by threads.

    Attributes:
        settings: how patient to be.
        stop: set it to end all downloads.
        retry: calls a function until it does not raise `Busy`, with growing waits in between;
            `InputError` when the last attempt has failed.
    """

    def __init__(self, settings: DownloadSettings) -> None:
        self.settings = settings
        self.stop = threading.Event()
        self._is_reached = False
        seconds = settings.timeout_seconds
        self._client = httpx.Client(
            timeout=httpx.Timeout(seconds, connect=min(15.0, seconds)),
            follow_redirects=True,
            headers={"User-Agent": f"mrbridge/{version('mrbridge')}"},
        )
        first, longest = settings.first_wait_seconds, settings.longest_wait_seconds
        backoff = wait_exponential(first, longest) + wait_random(0, first)
        self.retry = Retrying(
            retry=retry_if_exception_type(Busy),
            stop=self._is_last,
            wait=lambda call: max(backoff(call), _error(call).wait),
            sleep=sleep_using_event(self.stop),
            before_sleep=before_sleep_log(log, logging.DEBUG),
            retry_error_callback=self._give_up,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._client.close()
        if kind is KeyboardInterrupt:
            raise _interrupted() from None

    def _is_last(self, call: RetryCallState) -> bool:
        attempts, longest = self.settings.attempts, self.settings.longest_wait_seconds
        # A host that never answered is most likely out of reach: do not keep the user waiting.
        limit = attempts if self._is_reached else min(2, attempts)
        return call.attempt_number >= limit or _error(call).wait > longest

    def _give_up(self, call: RetryCallState) -> None:
        self._is_reached = False
        raise InputError(
            str(_error(call)),
            remedy="Check the network and --mirror, or run the same command again later: it "
            "resumes where it stopped.",
        )

    @contextmanager
    def request(
        self, method: str, url: str, span: str | None = None, **options: Any
    ) -> Iterator[httpx.Response]:
        """One response whose content is still to be read.

        Args:
            span: the wanted bytes, such as `0-511` or `512-`. A server may ignore it: the status
                is 206 if it does not.

        Raises:
            Busy: another attempt may succeed.
            InputError: no attempt can succeed.
            Interrupted: the session was asked to stop.
        """
        if self.stop.is_set():
            raise _interrupted()
        if method == "GET":  # sizes, ranges and checksums refer to the bytes on the server
            options["headers"] = {"Accept-Encoding": "identity"}
            if span:
                options["headers"]["Range"] = f"bytes={span}"
        try:
            with self._client.stream(method, url, **options) as response:
                self._is_reached = True
                status = response.status_code
                if url.startswith("https:") and response.url.scheme != "https":
                    raise InputError(f"{url} redirects to {response.url}, which is not encrypted")
                if status in _BUSY:
                    asked = response.headers.get("Retry-After", "")
                    wait = float(asked) if re.fullmatch("[0-9]{1,18}", asked) else 0.0
                    raise Busy(url, f"status {status}{f', wait {asked} s' if wait else ''}", wait)
                if method == "GET" and status not in (200, 206) and not (span and status == 416):
                    raise InputError(
                        f"{url} is refused ({status} {response.reason_phrase})",
                        remedy="Check the names, or --mirror.",
                    )
                sent = response.headers.get("Content-Range", "")
                first = span.partition("-")[0] if span else ""
                if status == 206 and not re.fullmatch(rf"bytes {first}-\d+/\d{{1,18}}", sent):
                    raise Busy(url, "the server sent another range")
                yield response
        except (
            *(httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.TooManyRedirects),
            UnicodeError,  # a label of the host name that is longer than 63 characters
        ) as error:
            raise InputError(f"{url} is not a usable address ({error})") from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise Busy(url, str(error) or type(error).__name__) from error

    def read(self, method: str, url: str, **options: Any) -> tuple[bytes, httpx.Response]:
        """The content of a response, and the response, in one attempt, with the options and errors
        of `request`; InputError, too, if it is larger than `MAX_TEXT`, or the server ignores the
        span."""
        content = bytearray()
        with self.request(method, url, **options) as response:
            if options.get("span") and response.status_code != 206:
                raise InputError(
                    f"{url} cannot be read in parts", remedy="Name another server (--mirror)."
                )
            for block in response.iter_bytes():
                content += block
                if len(content) > MAX_TEXT:
                    raise InputError(f"{url} sends more than {MAX_TEXT} bytes")
        return bytes(content), response


def fetch(
    session: Session, file: RemoteFile, folder: Path, advance: Callable[[int], object]
) -> None:
    """Download a file into its place in a folder, or resume an earlier download of it. A damaged
    file is downloaded once more: its first part may be of an earlier state of the file. `advance`
    gets the number of bytes received, negative if they are discarded. InputError if it cannot be
    downloaded, or is damaged; OSError if it cannot be written."""
    path, part = folder / file.path, folder / f"{file.path}.part"
    path.parent.mkdir(parents=True, exist_ok=True)
    known, problem = 0, None

    def reach(position: int) -> None:
        nonlocal known
        advance(position - known)
        known = position

    for _ in range(2):
        session.retry(_receive, session, file, part, reach)
        problem = file.damage(part)
        if problem is None:
            settle(part, path)
            return
        part.unlink()
    remedy = "Try again later, or report it to the archive."
    raise InputError(str(problem), path=path, remedy=remedy)


def _receive(
    session: Session, file: RemoteFile, part: Path, reach: Callable[[int], object]
) -> None:
    """Append what is missing of a file to `part`, over one connection."""
    with part.open("ab" if file.is_resumable else "wb") as target:
        position, span = target.tell(), None
        reach(position)
        if file.is_resumable and file.size is not None:
            if position >= file.size:
                return
            span = f"{file.offset + position}-{file.offset + file.size - 1}"
        with session.request("GET", file.url, span) as response:
            if response.status_code == 416:  # the part is longer than the file: it is damaged
                return
            if response.status_code == 200:  # the whole file
                position = target.truncate(0)
            for block in response.iter_raw():
                if session.stop.is_set():
                    raise _interrupted()
                target.write(block)
                position += len(block)
                reach(position)
                if position > file.limit:
                    return


def in_parallel(
    session: Session,
    items: Sequence[Item],
    work: Callable[[Item], None],
    label: str | None = None,
) -> dict[Item, InputError]:
    """Call `work` for every item, in as many threads as the session's settings say; the errors of
    the items that failed. Anything but an `InputError` of a single item stops the session. `label`:
    of a progress bar that counts the items."""
    failed: dict[Item, InputError] = {}
    with ThreadPoolExecutor(session.settings.workers) as pool:
        futures = {pool.submit(work, item): item for item in items}
        try:
            completed = as_completed(futures)
            for future in progress.track(completed, label, len(items)) if label else completed:
                error = future.exception()
                if isinstance(error, InputError):
                    failed[futures[future]] = error
                elif error is not None:
                    raise error
        except BaseException:
            session.stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return failed


def _error(call: RetryCallState) -> Busy:
    error = call.outcome.exception() if call.outcome else None
    assert isinstance(error, Busy)  # nothing else is retried
    return error


def _interrupted() -> Interrupted:
    return Interrupted(
        "was interrupted", remedy="Run the same command again: it resumes from here."
    )
