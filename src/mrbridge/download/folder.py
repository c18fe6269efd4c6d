"""The folder of a download: its record, what is missing in it, and what was done."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from rich.filesize import decimal

from mrbridge import progress
from mrbridge.download.fetch import RemoteFile, Session, fetch, in_parallel
from mrbridge.errors import InputError, OutputError, SomeScansFailed
from mrbridge.io.atomic import write_json
from mrbridge.io.lock import only_writer
from mrbridge.io.temporary import is_temporary
from mrbridge.reports import counted

RECORD = ".mrbridge-download.json"
_SPARE = 64 << 20  # bytes of the disk that stay free
_MOST_NAMED = 20  # failures that are logged; --json has all of them

log = logging.getLogger(__name__)


class ArchivedScan(BaseModel):
    """Where the content of a scan starts in a tar file, its size in bytes, and its hospital."""

    offset: int = Field(ge=0)
    size: int = Field(ge=0)
    site: str


class Archive(BaseModel):
    """What is known of a tar file: its scans up to the byte `end`, by subject.

    Attributes:
        state: its length in bytes, entity tag and date, by which a change is noticed.
        complete: `end` is the end of the archive.
    """

    state: str = Field(pattern="^[0-9]{1,18} ")
    scans: dict[Annotated[str, StringConstraints(pattern="^[0-9]{3}$")], ArchivedScan] = {}
    end: int = Field(default=0, ge=0)
    complete: bool = False


class Record(BaseModel):
    """What the record of a folder (`.mrbridge-download.json`) contains.

    Attributes:
        source, dataset, version: what the folder is a copy of.
        archives: the tar files of the source, by name.
    """

    model_config = ConfigDict(strict=True)

    source: str = Field(min_length=1)
    dataset: str | None = None
    version: str | None = None
    archives: dict[str, Archive] = {}


@dataclass(frozen=True)
class Plan:
    """What a download would transfer.

    Attributes:
        title: the dataset and its version.
        files, bytes: their number and size.
        missing_files, missing_bytes: the part of them that is not in the folder yet.
        licence: in the words of the archive.
    """

    title: str
    files: int
    bytes: int
    missing_files: int
    missing_bytes: int
    licence: str

    def __str__(self) -> str:
        text = f"{self.title}: {counted(self.files, 'file')}, {decimal(self.bytes)}"
        if self.missing_files < self.files:
            missing = counted(self.missing_files, "file")
            text += f"; missing: {missing}, {decimal(self.missing_bytes)}"
        return f"{text}. Licence: {self.licence}."


@dataclass(frozen=True)
class Report:
    """What a download did.

    Attributes:
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
        return f"{self.path}: {counted(self.scans, 'scan')}. Licence: {self.plan.licence}."

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


class Folder:
    """A folder that one download fills.

    Attributes:
        record: what it contains; new for a new folder.
    """

    def __init__(self, path: Path, **identity: str) -> None:
        """Read the record, and write nothing; OutputError if the folder contains something else
        than this download."""
        self.path, self._identity = path, identity
        self.record = self._read()

    def _read(self) -> Record:
        path, file, remedy = self.path, self.path / RECORD, "Name a new folder."
        if path.is_file():
            raise OutputError("is a file", path=path, remedy=remedy)
        if not file.is_file():
            if path.is_dir() and not all(is_temporary(entry) for entry in path.iterdir()):
                problem = "is not empty and was not started by mrbridge download"
                raise OutputError(problem, path=path, remedy=remedy)
            return Record.model_validate(self._identity)
        try:
            record = Record.model_validate_json(file.read_bytes())
        except (OSError, ValueError):
            raise OutputError("is damaged or was edited", path=file, remedy=remedy) from None
        known = record.model_dump(include={"source", "dataset", "version"}, exclude_none=True)
        if any(known.get(key, value) != value for key, value in self._identity.items()):
            raise OutputError(f"contains {' '.join(known.values())}", path=path, remedy=remedy)
        return record.model_copy(update=self._identity)

    def download(
        self,
        session: Session,
        title: str,
        licence: str,
        files: Sequence[RemoteFile],
        describe: Callable[[], None],
        failed: Mapping[str, str] | None = None,
    ) -> Report:
        """Show the plan and, unless this is a dry run, download what is missing.

        Args:
            describe: writes licence, citation and whatever else the archive has no file of.
            failed: what the archive does not have, with the reason.

        Raises:
            OutputError: the disk has no room, another download is running, or the folder cannot be
                written.
            Interrupted: Ctrl-C or SIGTERM.
        """
        missing = self._missing(session, title, files)
        sizes, to_come = ([file.size or 0 for file in some] for some in (files, missing))
        plan = Plan(title, len(files), sum(sizes), len(missing), sum(to_come), licence)
        self._require_space(plan.missing_bytes)
        errors: dict[RemoteFile, InputError] = {}
        if not session.settings.dry_run:
            log.info("%s", plan)
            with self._writing():
                describe()
                with progress.transfer(title, plan.missing_bytes) as advance:
                    errors = in_parallel(
                        session, missing, lambda file: fetch(session, file, self.path, advance)
                    )
            missing = list(errors)
        scans = sum(file.is_scan and file not in missing for file in files)
        reasons = dict(failed or {}) | {file.path: str(error) for file, error in errors.items()}
        return Report(str(self.path), plan, scans, reasons, session.settings.dry_run)

    def _missing(
        self, session: Session, title: str, files: Sequence[RemoteFile]
    ) -> list[RemoteFile]:
        """Absent files and damaged scans. Users may edit the other files."""
        intact = set[RemoteFile]()

        def verify(file: RemoteFile) -> None:
            path = self.path / file.path
            if not path.is_file():
                return
            if file.is_scan and file.damage(path):
                log.warning("%s: is damaged; it is downloaded again", path)
            else:
                intact.add(file)

        kept = [file for file in files if not (file.is_scan and session.settings.overwrite)]
        in_parallel(session, kept, verify, f"Verifying {title}")
        return [file for file in files if file not in intact]

    def _require_space(self, count: int) -> None:
        existing = next(parent for parent in (self.path, *self.path.parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        if count + _SPARE > free:
            raise OutputError(
                f"needs {decimal(count)}, {decimal(free)} are free",
                path=self.path,
                remedy="Free some space, choose another disk, or name fewer --subjects.",
            )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with only_writer(self.path, "is in use by another download"):
                self._read()  # another download may have started it meanwhile
                write_json(self.path / RECORD, self.record.model_dump(exclude_defaults=True))
                yield
        except OSError as error:
            raise OutputError(
                f"cannot be written ({error.strerror or error})",
                path=error.filename or self.path,
                remedy="Check free space and permissions, then run the same command again.",
            ) from error
