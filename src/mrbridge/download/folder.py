"""The folder of a download: its record, what is planned and done, and parallel work."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import yaml
from rich.filesize import decimal

from mrbridge import progress
from mrbridge.download.http import Session, Stopped
from mrbridge.errors import Interrupted, MrbridgeError, OutputError, SomeScansFailed
from mrbridge.io.atomic import write_json, write_text
from mrbridge.io.lock import only_writer
from mrbridge.io.temporary import is_temporary, sweep
from mrbridge.json_text import parse_json

RECORD = ".mrbridge-download.json"
_SPARE = 64 << 20  # bytes of the disk that stay free
_MOST_NAMED = 20  # failures that are logged; --json has all of them

log = logging.getLogger(__name__)

Item = TypeVar("Item", bound=Hashable)


class Folder:
    """A folder that one download fills, and its record (`.mrbridge-download.json`).

    Attributes:
        path: the folder.
        record: JSON; contains the identity (source, dataset, version).
    """

    def __init__(self, path: Path, **identity: str) -> None:
        """Read the record; nothing is written.

        Raises:
            OutputError: the folder contains something else than this download.
        """
        self.path, self._identity = path, identity
        self._lock = threading.Lock()
        self.record: dict[str, Any] = self._read()

    def _read(self) -> dict[str, Any]:
        path = self.path
        if path.is_file():
            raise OutputError("is a file", path=path, remedy="Name a new folder.")
        if not (path / RECORD).is_file():
            if path.is_dir() and not all(is_temporary(entry) for entry in path.iterdir()):
                raise OutputError(
                    "is not empty and was not started by mrbridge download",
                    path=path,
                    remedy="Name a new folder.",
                )
            return dict(self._identity)
        try:
            record = parse_json((path / RECORD).read_text(encoding="utf-8"))
            found = [record.get(key) for key in ("source", "dataset", "version")]
            if not record["source"] or not all(isinstance(value, str | None) for value in found):
                raise ValueError
        except (OSError, ValueError, KeyError, AttributeError):
            raise OutputError(
                "is damaged or was edited", path=path / RECORD, remedy="Name a new folder."
            ) from None
        if any(record.get(key, value) != value for key, value in self._identity.items()):
            contents = " ".join(value for value in found if value)
            raise OutputError(f"contains {contents}", path=path, remedy="Name a new folder.")
        return {**record, **self._identity}

    def save(self, **changes: Any) -> None:
        """Change the record and write it; thread-safe."""
        with self._lock:
            self.record = {**self.record, **changes}
            write_json(self.path / RECORD, self.record)

    def require_space(self, count: int) -> None:
        """Raise `OutputError` if the disk has no room for `count` more bytes."""
        existing = next(parent for parent in (self.path, *self.path.parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        if count + _SPARE > free:
            raise OutputError(
                f"needs {decimal(count)}, {decimal(free)} are free",
                path=self.path,
                remedy="Free some space, choose another disk, or name fewer --subjects.",
            )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Lock the folder against other downloads, and write the record.

        Raises:
            OutputError: another download is running, or the folder cannot be written.
        """
        try:
            with only_writer(self.path, "is in use by another download"):
                for place in (self.path, *self.path.glob("sub-*/**/anat")):
                    sweep(place)
                self.record = self._read()  # another download may have written it meanwhile
                self.save()
                yield
        except OSError as error:
            raise OutputError(
                f"cannot be written ({error.strerror or error})",
                path=error.filename or self.path,
                remedy="Check free space and permissions, then run the same command again.",
            ) from error


@dataclass(frozen=True)
class Plan:
    """What a download would transfer.

    Attributes:
        title: the data set and its version.
        files: number of files.
        bytes: their size; None if a server does not say.
        missing_files, missing_bytes: the part of them that is not in the folder yet.
        licence: in the words of the archive.
        kind: what the files are: "files" or "archives".
        note: anything else the user should know.
    """

    title: str
    files: int
    bytes: int | None
    missing_files: int
    missing_bytes: int | None
    licence: str
    kind: str = "files"
    note: str = ""

    def __str__(self) -> str:
        text = f"{self.title}: {self.files} {self.kind}, {_size(self.bytes)}"
        if self.missing_files < self.files:
            text += f"; missing: {self.missing_files} {self.kind}, {_size(self.missing_bytes)}"
        return f"{text}. Licence: {self.licence}.{f' {self.note}' if self.note else ''}"


@dataclass(frozen=True)
class Report:
    """What a download did.

    Attributes:
        path: the folder.
        plan: what was planned.
        scans: number of requested scans that are complete in the folder.
        failed: what could not be downloaded, with the reason.
        dry_run: nothing was downloaded.
    """

    path: str
    plan: Plan
    scans: int
    failed: dict[str, str] = field(default_factory=dict)
    dry_run: bool = False

    def as_json(self) -> dict[str, Any]:
        """Nested plain values."""
        return asdict(self)

    def __str__(self) -> str:
        if self.dry_run:
            return str(self.plan)
        return f"{self.path}: {self.scans} scans. Licence: {self.plan.licence}."

    def raise_if_incomplete(self) -> None:
        """Log what could not be downloaded; `SomeScansFailed` if there is anything."""
        for name, reason in islice(self.failed.items(), _MOST_NAMED):
            log.error("%s: %s", name, reason)
        if self.failed:
            raise SomeScansFailed(
                f"{len(self.failed)} could not be downloaded",
                path=self.path,
                remedy="The same command tries again only what is missing.",
            )


def in_parallel(
    session: Session,
    items: Sequence[Item],
    work: Callable[[Item], None],
    label: str | None = None,
) -> dict[Item, MrbridgeError]:
    """Call `work` for every item, in as many threads as the session's settings say.

    Args:
        session: is stopped if anything but the error of a single item occurs.
        items: what to work on.
        work: may raise a `MrbridgeError` that concerns only its item; an `OutputError` ends all.
        label: of a progress bar that counts the items.

    Returns:
        The errors of the items that failed.

    Raises:
        Interrupted: Ctrl-C or SIGTERM.
        OutputError: something cannot be written.
    """
    failed: dict[Item, MrbridgeError] = {}
    with ThreadPoolExecutor(max_workers=session.settings.workers) as pool:
        futures = {pool.submit(work, item): item for item in items}
        try:
            completed = as_completed(futures)
            for future in progress.track(completed, label, len(items)) if label else completed:
                error = future.exception()
                if isinstance(error, MrbridgeError) and not isinstance(error, OutputError):
                    failed[futures[future]] = error
                elif error is not None:
                    raise error
        except BaseException as error:
            session.stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            if not isinstance(error, KeyboardInterrupt | Stopped):
                raise
            raise Interrupted(
                "was interrupted", remedy="Run the same command again: it resumes from here."
            ) from None
    return failed


def write_citation(
    folder: Path, *, title: str, url: str, authors: Sequence[str], **more: str
) -> None:
    """Write `CITATION.cff`, which BIDS allows at the top of a data set.

    Source: https://github.com/citation-file-format/citation-file-format (1.2.0)
    """
    citation = {
        "cff-version": "1.2.0",
        "message": "If you use this data set, please cite it.",
        "type": "dataset",
        "title": title,
        "authors": [{"name": author} for author in authors],
        **more,
        "url": url,
    }
    text = yaml.safe_dump(citation, sort_keys=False, allow_unicode=True)
    write_text(folder / "CITATION.cff", text)


def _size(count: int | None) -> str:
    return "unknown size" if count is None else decimal(count)
