"""IXI: nearly 600 healthy subjects of three London hospitals, as a BIDS data set.

The site has one tar file for each contrast and a table of the subjects. The tar files are taken
apart while they come: no copy of them is kept, and of subjects that are not wanted only the
headers are transferred where the server answers range requests.

Source: https://brain-development.org/ixi-dataset
"""

from __future__ import annotations

import copy
import logging
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from tarfile import TarInfo
from typing import Any

from mrbridge import progress
from mrbridge.download.archive import RemoteTar, end_of, open_tar, why_refused
from mrbridge.download.files import check_gzip
from mrbridge.download.folder import RECORD, Folder, together
from mrbridge.download.http import Changed, Session, Version
from mrbridge.download.ixi_subjects import LICENCE, write_description, write_table
from mrbridge.download.report import Plan, Report
from mrbridge.errors import InputError, SettingsError
from mrbridge.io.safety import atomic_path

SITE = "https://biomedic.doc.ic.ac.uk/brain-development/downloads/IXI"
ARCHIVES = {"T1w": "IXI-T1.tar", "T2w": "IXI-T2.tar", "PDw": "IXI-PD.tar"}

log = logging.getLogger(__name__)

_OURS = re.compile(r"sub-[0-9]{3}/anat/sub-[0-9]{3}_(T1w|T2w|PDw)\.nii\.gz")
_SCAN = re.compile(r"IXI([0-9]{3})-([A-Za-z]+)-[0-9]{4}-(T1|T2|PD)\.nii\.gz")
_LABEL = re.compile(r"(?:sub-|IXI)?([0-9]{1,3})")
_ROOM_FOR_SCAN = 20 << 20  # bytes; those of IXI have about 10 MB
_ROUNDS = 3


def download_ixi(
    session: Session,
    out: Path,
    *,
    contrasts: Sequence[str] = ("T1w", "T2w"),
    subjects: Sequence[str] | None = None,
    site: str = SITE,
    dry_run: bool = False,
    overwrite: bool = False,
) -> Report:
    """Transfer the scans of some contrasts and lay them out as BIDS.

    Args:
        session: the connections.
        out: the folder.
        contrasts: of T1w, T2w and PDw.
        subjects: numbers, such as 2, 002, sub-002 or IXI002; None for all.
        site: a mirror's address of the folder with the tar files.
        dry_run: only plan.
        overwrite: fetch again also the scans that are there.

    Raises:
        SettingsError: a contrast or a subject that IXI cannot have.
        InputError: there is no way to it.
        OutputError: the folder holds something else, or there is no room.
        Interrupted: Ctrl-C.
    """
    labels = None if subjects is None else sorted({_label(subject) for subject in subjects})
    for contrast in contrasts:
        if contrast not in ARCHIVES:
            raise SettingsError(
                f"IXI has no {contrast} archive", remedy=f"It has {', '.join(ARCHIVES)}."
            )
    folder = Folder(out, {"source": "ixi"})
    forgotten: dict[str, Any] = {ARCHIVES[c]: {} for c in contrasts} if overwrite else {}
    folder.record = {**folder.record, **forgotten}
    parts = [
        _Part.look(session, folder, contrast, labels, site) for contrast in dict.fromkeys(contrasts)
    ]
    missing = [part for part in parts if part.missing]
    plan = Plan(
        title="IXI",
        files=len(parts),
        bytes=_sum(part.version.length for part in parts),
        missing_files=len(missing),
        missing_bytes=_sum(part.missing for part in missing),
        licence=LICENCE,
        kind="archives",
        note="Only the scans of the named subjects are taken from these." if labels else "",
    )
    folder.must_have_room(
        sum(
            min(part.missing, _ROOM_FOR_SCAN * len(labels)) if labels else part.missing
            for part in missing
        )
    )
    failed: dict[str, str] = {}
    if not dry_run:
        plan.announce()
        with folder.writing():
            folder.save(**forgotten)
            write_description(out)
            failed = _transfer(session, folder, missing, plan)
            sites = {label: name for part in parts for label, name in part.state["sites"].items()}
            write_table(session, folder, sites, site)
        for part in parts:
            failed |= part.absent()
    return Report(str(out), plan, sum(part.scans() for part in parts), failed, dry_run)


@dataclass
class _Part:
    """One archive, what is wanted of it and what of that is here.

    Attributes:
        folder: the data set.
        url, contrast: of the archive.
        labels: the subjects that are wanted; None for all.
        version: the archive's present state.
    """

    folder: Folder
    url: str
    contrast: str
    labels: list[str] | None
    version: Version

    @classmethod
    def look(
        cls, session: Session, folder: Folder, contrast: str, labels: list[str] | None, site: str
    ) -> _Part:
        url = f"{site.rstrip('/')}/{ARCHIVES[contrast]}"
        return cls(folder, url, contrast, labels, session.look(url))

    @property
    def name(self) -> str:
        return ARCHIVES[self.contrast]

    @property
    def state(self) -> dict[str, Any]:
        """What is on record of this archive, as far as it is still true.

        `next` is the byte up to which it was read, `labels` the subjects that were wanted then,
        `files` the scans that were written (path: bytes), `complete` whether all of them are,
        `sites` the hospital of each subject.
        """
        state: dict[str, Any] = self.folder.record.get(self.name) or {}
        fresh: dict[str, Any] = {
            "next": 0,
            "labels": self.labels,
            "files": {},
            "sites": {},
            "complete": False,
        }
        if not state:
            return fresh
        if not _is_state(state):
            log.warning("%s: was edited or is damaged; %s is read anew", RECORD, self.name)
            self.folder.record.pop(self.name)
            return fresh
        if not Version(**state["version"]).is_same(self.version):
            return fresh
        here = {path: size for path, size in state["files"].items() if self._is_here(path, size)}
        covers = state["labels"] is None or (
            self.labels is not None and set(self.labels) <= set(state["labels"])
        )
        if not covers or len(here) < len(state["files"]):
            return {**fresh, "files": here, "sites": dict(state["sites"])}
        return {**copy.deepcopy(state), "labels": self.labels}

    @property
    def missing(self) -> int:
        """Bytes of the archive that are still to be read; at least 1 where something is."""
        state = self.state
        return 0 if state["complete"] else max(1, (self.version.length or 0) - int(state["next"]))

    def save(self, state: dict[str, Any]) -> None:
        self.folder.save(**{self.name: {**state, "version": asdict(self.version)}})

    def scans(self) -> int:
        """How many of the wanted scans are here."""
        return sum(self.labels is None or _subject(p) in self.labels for p in self.state["files"])

    def absent(self) -> dict[str, str]:
        """The named subjects of whom the archive has no scan; the archive, where it has none."""
        if not self.state["complete"]:
            return {}
        if self.labels is None:
            return {} if self.state["files"] else {self.name: "it holds no scan"}
        here = {_subject(path) for path in self.state["files"]}
        gone = [f"sub-{label}" for label in self.labels if label not in here]
        return {f"{label} {self.contrast}": f"{self.name} has no such scan" for label in gone}

    def find(self, name: str) -> re.Match[str] | None:
        """Subject and site in an entry's name; None where it is not a wanted scan."""
        match = _SCAN.fullmatch(PurePosixPath(name).name)
        if match is None or f"{match[3]}w" != self.contrast:
            return None
        return match if self.labels is None or match[1] in self.labels else None

    def has_all(self, files: dict[str, int]) -> bool:
        """Whether nothing more can be wanted."""
        return self.labels is not None and {_subject(path) for path in files} >= set(self.labels)

    def _is_here(self, path: str, size: int) -> bool:
        file = self.folder.path / path
        return file.is_file() and file.stat().st_size == size


def _is_state(state: Any) -> bool:
    """Whether what is on record of an archive can have been written here."""
    try:
        version = Version(**state["version"])
        tags = (version.etag, version.modified, version.md5)
        labels, at = state["labels"], state["next"]
        return (
            isinstance(at, int)
            and isinstance(version.length, int | None)
            and all(isinstance(tag, str | None) for tag in tags)
            and at >= 0
            and isinstance(state["complete"], bool)
            and (labels is None or all(isinstance(label, str) for label in labels))
            and all(_OURS.fullmatch(path) for path in state["files"])
            and all(isinstance(size, int) for size in state["files"].values())
            and all(isinstance(name, str) for name in state["sites"].values())
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def _transfer(
    session: Session, folder: Folder, missing: Sequence[_Part], plan: Plan
) -> dict[str, str]:
    """Take the archives apart, side by side."""
    failed: dict[str, str] = {}
    guard = threading.Lock()
    parts = {part.name: part for part in missing}
    with progress.transfer(plan.title, plan.missing_bytes) as advance:

        def one(name: str) -> None:
            found = _take_apart(session, parts[name], advance)
            with guard:
                failed.update(found)

        broken = together(list(parts), one, workers=session.settings.workers, stop=session.stop)
    return failed | {name: str(error) for name, error in broken.items()}


def _take_apart(session: Session, part: _Part, advance: Callable[[int], None]) -> dict[str, str]:
    """Write the wanted scans of an archive; give those that cannot be.

    Where the archive changes on the way, what came of its earlier state is taken again.
    """
    for _ in range(_ROUNDS):
        try:
            return _read_once(session, part, advance)
        except Changed:
            part.version = session.look(part.url)
    raise InputError(f"{part.url} changes while it is transferred", remedy="Try again later.")


def _read_once(session: Session, part: _Part, advance: Callable[[int], None]) -> dict[str, str]:
    failed: dict[str, str] = {}
    state = part.state
    if part.has_all(state["files"]):
        part.save({**state, "complete": True})
        return failed
    with open_tar(session, part.url, int(state["next"]), part.version, advance) as tar:
        for member in tar:
            why = why_refused(member)
            scan = part.find(member.name) if member.isfile() else None
            if scan is not None and why is None:
                why = _take(tar, member, part, scan, state)
            if why is not None:
                failed[ascii(member.name)] = why
            # What failed is read again next time, and so is all behind it that is not here.
            if not failed:
                state["next"] = end_of(member)
            if scan is not None:
                part.save(state)
            if part.has_all(state["files"]):
                break
    part.save({**state, "complete": not failed})
    return failed


def _take(
    tar: RemoteTar, member: TarInfo, part: _Part, scan: re.Match[str], state: dict[str, Any]
) -> str | None:
    """Write an entry where it is a whole `.nii.gz`; say what is wrong with it otherwise."""
    label, place = scan[1], scan[2]
    name = f"sub-{label}/anat/sub-{label}_{part.contrast}.nii.gz"
    if name in state["files"]:
        return None
    path = part.folder.path / name
    try:
        with atomic_path(path) as temporary:
            with temporary.open("wb") as file:
                for block in tar.content(member):
                    file.write(block)
            _refuse_damaged(temporary, path)
    except _Damaged as error:
        return str(error)
    state["files"][name], state["sites"][label] = member.size, place
    return None


class _Damaged(Exception):
    """An entry that is not a complete scan; the archive around it may be fine."""


def _refuse_damaged(file: Path, path: Path) -> None:
    try:
        check_gzip(file, path)
    except InputError as error:
        raise _Damaged(error.what) from None


def _subject(path: str) -> str:
    return path[4:7]


def _sum(sizes: Iterable[int | None]) -> int | None:
    known = list(sizes)
    return None if None in known else sum(size for size in known if size is not None)


def _label(subject: str) -> str:
    match = _LABEL.fullmatch(subject)
    if match is None:
        raise SettingsError(
            f"'{subject}' is not a subject of IXI", remedy="Give numbers, such as 2 or 002."
        )
    return f"{int(match[1]):03d}"
