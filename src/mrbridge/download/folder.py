"""The folder of a download: its record, its files (resumed, limited in size and verified), what is
planned and done, and parallel work.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import re
import shutil
import threading
import zlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import yaml
from rich.filesize import decimal

from mrbridge import progress
from mrbridge.download.http import Damaged, FileState, Session, Stopped, Stream
from mrbridge.errors import Interrupted, MrbridgeError, OutputError, SomeScansFailed
from mrbridge.io.atomic import settle, suffix_of, write_json, write_text
from mrbridge.io.lock import only_writer
from mrbridge.io.temporary import is_temporary, sweep
from mrbridge.json_text import parse_json
from mrbridge.volume import MAX_VOXELS

MAX_FILE = 1 << 28
"""Upper limit in bytes of one scan, and of a file that the archive lists without a size."""

MAX_UNPACKED = 4 * MAX_VOXELS
"""Upper limit in bytes of an unpacked `.nii.gz`: a float32 volume of the most voxels allowed."""

RECORD = ".mrbridge-download.json"
_ANNEX_KEY = re.compile(r"(MD5|SHA1|SHA256|SHA512)E?-s(\d{1,18})--([0-9a-f]+)")
_BLOCK = 1 << 18
_SURPLUS = 1 << 16  # bytes accepted beyond a listed size: that of texts in git may be wrong
_SPARE = 64 << 20  # bytes of the disk that stay free
_MOST_NAMED = 20  # failures that are logged; --json has all of them

log = logging.getLogger(__name__)

Item = TypeVar("Item", bound=Hashable)


class Folder:
    """A folder that one download fills, and its record (`.mrbridge-download.json`).

    Attributes:
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
class Expected:
    """What an archive lists about a file.

    Attributes:
        size: in bytes.
        algorithm, digest: of its checksum, in hexadecimal.
    """

    size: int | None = None
    algorithm: str | None = None
    digest: str | None = None

    @classmethod
    def from_annex(cls, key: str) -> Expected | None:
        """Read a git-annex key such as `MD5E-s123--0cc1….nii.gz`; None for anything else.

        Source: https://git-annex.branchable.com/internals/key_format
        """
        match = _ANNEX_KEY.match(key)
        return cls(int(match[2]), match[1].lower(), match[3]) if match else None


def fetch(
    session: Session,
    url: str,
    path: Path,
    expected: Expected,
    advance: Callable[[int], object] = lambda count: None,
) -> None:
    """Download a file to `path`, or resume an earlier download of it.

    Unfinished content is in `NAME.part`, the remote file's state in `NAME.part.json`. A damaged
    or changed file is downloaded once more.

    Args:
        path: the final name. Its folder is created.
        advance: gets the number of bytes received; negative ones if they are discarded.

    Raises:
        InputError: it cannot be downloaded, or is damaged.
        OSError: it cannot be written.
    """
    part, note = _part_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for is_last in (False, True):
        try:
            _receive(session, url, part, note, expected, advance)
            if not is_scan(path) and expected.digest is None:
                expected = Expected()  # the size of texts in git is sometimes listed wrong
            problem = damage(part, expected, suffix_of(path))
            if problem:
                raise Damaged(
                    problem, path=path, remedy="Try again later, or report it to the archive."
                )
        except Damaged:
            advance(-part.stat().st_size if part.exists() else 0)
            part.unlink(missing_ok=True)
            note.unlink(missing_ok=True)
            if is_last:
                raise
        else:
            settle(part, path)
            note.unlink(missing_ok=True)
            return


def damage(file: Path, expected: Expected, suffix: str) -> str | None:
    """What is wrong with a file: its size, its checksum, or the CRC of a `.nii.gz` without one.

    Returns:
        A phrase such as "has 12 bytes instead of 15"; None if the file is intact.
    """
    size = file.stat().st_size
    if expected.size not in (None, size):
        return f"has {size} bytes instead of {expected.size}"
    if expected.digest and expected.algorithm:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, expected.algorithm).hexdigest()
        if digest != expected.digest:
            name = expected.algorithm.upper()
            return f"is damaged: its {name} is {digest} instead of {expected.digest}"
    elif suffix == ".nii.gz":
        count = 0
        try:
            with gzip.open(file) as unpacked:
                while block := unpacked.read(_BLOCK):
                    count += len(block)
                    if count > MAX_UNPACKED:
                        return "is larger than any scan once unpacked"
        except EOFError:
            return "is truncated"
        except (gzip.BadGzipFile, zlib.error) as error:
            return f"is damaged ({error})"
        if not count:
            return "is empty"
    return None


def is_scan(path: str | Path) -> bool:
    """Whether a path is that of a NIfTI file."""
    return suffix_of(path) in (".nii", ".nii.gz")


def received(path: Path) -> int:
    """Number of bytes of an unfinished file that a new run does not download again."""
    part, note = _part_of(path)
    return part.stat().st_size if part.is_file() and note.is_file() else 0


def _receive(
    session: Session,
    url: str,
    part: Path,
    note: Path,
    expected: Expected,
    advance: Callable[[int], object],
) -> None:
    """Append the missing bytes to `part`."""
    state = None
    with suppress(OSError, ValueError):  # without a readable note the part is of no use
        noted = FileState.model_validate_json(note.read_bytes())
        state = noted if noted.validator and part.is_file() else None
    start = part.stat().st_size if state else 0
    advance(start)
    if state and state.length is not None and start > state.length:
        raise Damaged(f"{part} is longer than {url}")
    limit = MAX_FILE if expected.size is None else expected.size + _SURPLUS
    stream = Stream(session, url, position=start, state=state, limit=limit, advance=advance)
    with closing(stream), part.open("ab" if state else "wb") as file:
        while block := stream.read1(_BLOCK):
            if stream.state and not state:
                state = stream.state
                write_text(note, state.model_dump_json())
            file.write(block)


def _part_of(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")


@dataclass(frozen=True)
class Plan:
    """What a download would transfer.

    Attributes:
        title: the dataset and its version.
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
    """Write `CITATION.cff`, which BIDS allows at the top of a dataset.

    Source: https://github.com/citation-file-format/citation-file-format (1.2.0)
    """
    citation = {
        "cff-version": "1.2.0",
        "message": "If you use this dataset, please cite it.",
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
