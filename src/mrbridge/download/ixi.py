"""IXI: nearly 600 healthy subjects of three London hospitals, as a BIDS dataset.

The site has one tar file per contrast and a table of the subjects. A tar file is unpacked while it
arrives. The record keeps where in it each scan starts, so that a later run reads only from the
first missing scan on.

Source: https://brain-development.org/ixi-dataset. The texts of the dataset are in `ixi.toml`.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import tarfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from mrbridge import progress
from mrbridge.download.folder import (
    MAX_FILE,
    RECORD,
    Expected,
    Folder,
    Plan,
    Report,
    damage,
    in_parallel,
    write_citation,
)
from mrbridge.download.http import Damaged, FileState, Session, Stream
from mrbridge.download.settings import DownloadSettings
from mrbridge.errors import InputError, MrbridgeWarning, SettingsError
from mrbridge.io.atomic import atomic_path, write_json, write_text
from mrbridge.io.bids_name import BIDS_VERSION
from mrbridge.io.metadata import filled_texts

if TYPE_CHECKING:
    import pandas as pd

SITE = "https://biomedic.doc.ic.ac.uk/brain-development/downloads/IXI"
PAGE = "https://brain-development.org/ixi-dataset/"
LICENCE = "CC BY-SA 3.0"
TABLE = "IXI.xls"
ARCHIVES = {"T1w": "IXI-T1.tar", "T2w": "IXI-T2.tar", "PDw": "IXI-PD.tar"}

log = logging.getLogger(__name__)

_NAME = re.compile(r"IXI([0-9]{3})-([A-Za-z]+)-[0-9]{4}-(T1|T2|PD)\.nii\.gz")
_MAX_ARCHIVE = 1 << 34  # bytes
_SCAN_BYTES = 20 << 20  # more than any scan of IXI has
_CHUNK = 1 << 20
_WITHOUT_CONTENT = b"123456"  # types of tar entries: links, devices, folders, FIFOs
_MAX_TABLE = 1 << 24  # bytes
_UNKNOWN = "n/a"
_TITLES = {"IXI_ID": "id", "SEX_ID": "sex", "AGE": "age", "HEIGHT": "height", "WEIGHT": "weight"}


def download(out: Path, settings: DownloadSettings) -> Report:
    """Download the scans of some contrasts as a BIDS dataset.

    Args:
        settings: contrasts of T1w, T2w and PDw; subjects as numbers such as 2, 002, sub-002 or
            IXI002; as mirror the address of the folder with the tar files.

    Raises:
        SettingsError: IXI has no such contrast, or a subject is not a number.
        InputError: the server cannot be reached.
        OutputError: the folder contains something else, or the disk is full.
        Interrupted: Ctrl-C or SIGTERM.
    """
    with Session(settings) as session:
        return _download(session, Folder(out, source="ixi"))


def _download(session: Session, folder: Folder) -> Report:
    settings = session.settings
    site = settings.mirror or SITE
    subjects, contrasts = settings.subjects, settings.contrast
    labels = None if subjects is None else {_label(subject) for subject in subjects}
    for contrast in contrasts:
        if contrast not in ARCHIVES:
            raise SettingsError(
                f"IXI has no {contrast} archive", remedy=f"It has {', '.join(ARCHIVES)}."
            )
    archives = [
        _Archive(session, folder, contrast, labels, site) for contrast in dict.fromkeys(contrasts)
    ]
    incomplete = [archive for archive in archives if not archive.is_finished()]
    missing = [max(0, (a.record.state.length or 0) - a.start) for a in incomplete]
    lengths = [archive.record.state.length for archive in archives]
    is_known = None not in lengths
    plan = Plan(
        title="IXI",
        files=len(archives),
        bytes=sum(length or 0 for length in lengths) if is_known else None,
        missing_files=len(incomplete),
        missing_bytes=sum(missing) if is_known else None,
        licence=LICENCE,
        kind="archives",
        note="Only the scans of the named subjects are kept." if labels else "",
    )
    most = _SCAN_BYTES * (len(labels) if labels else 1000)
    folder.require_space(sum(min(count, most) for count in missing))
    failed: dict[str, str] = {}
    if not settings.dry_run:
        log.info("%s", plan)
        with folder.writing():
            write_description(folder.path)
            with progress.transfer(plan.title, plan.missing_bytes) as advance:
                broken = in_parallel(session, incomplete, lambda archive: archive.unpack(advance))
            failed = {archive.name: str(error) for archive, error in broken.items()}
            sites = {x: a.record.scans[x].site for a in archives for x in a.intact}
            write_participants(session, folder, sites, site)
        for archive in archives:
            failed |= archive.failed | archive.absent()
    scans = sum(len(archive.intact) for archive in archives)
    return Report(str(folder.path), plan, scans, failed, settings.dry_run)


class _Scan(BaseModel):
    """Where the header of a scan starts in its archive, and what was written to the disk."""

    model_config = ConfigDict(extra="forbid")

    offset: int = Field(ge=0)
    site: str
    size: int | None = None
    sha256: str | None = None


class _Record(BaseModel):
    """What is known of an archive: its scans up to the byte `end`, by subject."""

    model_config = ConfigDict(extra="forbid")

    state: FileState
    scans: dict[Annotated[str, StringConstraints(pattern=r"^[0-9]{3}$")], _Scan] = {}
    end: int = Field(default=0, ge=0)
    complete: bool = False


class _Unusable(Exception):
    """An entry of an archive that is not a complete scan."""


class _Archive:
    """One tar file, the scans wanted of it, and which of them are intact on the disk.

    Attributes:
        intact: wanted subjects whose scan has the recorded checksum.
        failed: scans that cannot be used, with the reason.
    """

    def __init__(
        self,
        session: Session,
        folder: Folder,
        contrast: str,
        labels: set[str] | None,
        site: str,
    ) -> None:
        self.name, self.failed = ARCHIVES[contrast], dict[str, str]()
        self._session, self._folder = session, folder
        self._contrast, self._labels = contrast, labels
        self._url = f"{site.rstrip('/')}/{self.name}"
        self.record, self.intact = _Record(state=session.look(self._url)), set[str]()
        saved = None if session.settings.overwrite else folder.record.get(self.name)
        if saved is None:
            return
        try:
            record = _Record.model_validate(saved)
        except ValidationError:
            log.warning("%s: was edited or is damaged; %s is read again", RECORD, self.name)
            return
        if record.state.is_same(self.record.state):
            self.record = record
            in_parallel(session, self._missing(), self._verify, f"Verifying {self.name}")

    @property
    def start(self) -> int:
        """The first byte to read: the first missing scan, or the end of the known part."""
        offsets = [self.record.scans[label].offset for label in self._missing()]
        return min(offsets, default=self.record.end)

    def is_finished(self) -> bool:
        """Whether nothing has to be read."""
        return not self._missing() and self._are_all_known()

    def absent(self) -> dict[str, str]:
        """Named subjects without a scan; the archive itself if it has no scans at all."""
        if not self.record.complete:
            return {}
        if not self.record.scans:
            return {self.name: "contains no scans"}
        absent = sorted((self._labels or set()) - set(self.record.scans))
        return {f"sub-{x} {self._contrast}": f"{self.name} has no such scan" for x in absent}

    def unpack(self, advance: Callable[[int], object]) -> None:
        """Write the missing scans; start over once if the archive changes on the server."""
        try:
            self._unpack(advance)
        except Damaged:
            self.record, self.intact = _Record(state=self._session.look(self._url)), set()
            self._unpack(advance)

    def _unpack(self, advance: Callable[[int], object]) -> None:
        record, missing = self.record, set(self._missing())
        stream = Stream(
            self._session,
            self._url,
            position=self.start,
            state=record.state,
            limit=_MAX_ARCHIVE,
            advance=advance,
        )
        with closing(stream):
            for member in _members(stream):
                match = _NAME.fullmatch(member.name.rpartition("/")[2])
                if match and f"{match[3]}w" == self._contrast:
                    label = match[1]
                    scan = _Scan(offset=member.offset, site=match[2])
                    scan = record.scans.setdefault(label, scan)
                    if self._is_wanted(label) and label not in self.intact:
                        try:
                            self._write(stream, member, label, scan)
                        except _Unusable as error:
                            self.failed[member.name] = str(error)
                    record.end = max(record.end, _end_of(member))
                    self._folder.save(**{self.name: record.model_dump()})
                    missing.discard(label)
                if not missing and self._are_all_known():
                    break
            else:
                record.complete = True
                self._folder.save(**{self.name: record.model_dump()})

    def _write(self, stream: Stream, member: tarfile.TarInfo, label: str, scan: _Scan) -> None:
        parts = member.name.replace("\\", "/").split("/")
        if ".." in parts or not parts[0]:
            raise _Unusable("its name points out of the folder")
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise _Unusable("is not a regular file")
        if member.size > MAX_FILE:
            raise _Unusable(f"has {member.size} bytes, more than any scan")
        digest = hashlib.sha256()
        with atomic_path(self._path(label)) as temporary:
            with temporary.open("wb") as file:
                end = member.offset_data + member.size
                while block := stream.read1(min(end - stream.position, _CHUNK)):
                    file.write(block)
                    digest.update(block)
            problem = damage(temporary, Expected(member.size), ".nii.gz")
            if problem:
                raise _Unusable(problem)
        scan.size, scan.sha256 = member.size, digest.hexdigest()
        self.intact.add(label)

    def _verify(self, label: str) -> None:
        scan, path = self.record.scans[label], self._path(label)
        if scan.sha256 and path.is_file():
            if damage(path, Expected(scan.size, "sha256", scan.sha256), ".nii.gz"):
                log.warning("%s: is damaged; it is downloaded again", path)
            else:
                self.intact.add(label)

    def _is_wanted(self, label: str) -> bool:
        return self._labels is None or label in self._labels

    def _missing(self) -> list[str]:
        """Scans in the known part of the archive that are wanted and not intact."""
        return [x for x in self.record.scans if self._is_wanted(x) and x not in self.intact]

    def _are_all_known(self) -> bool:
        is_listed = self._labels is not None and self._labels <= set(self.record.scans)
        return self.record.complete or is_listed

    def _path(self, label: str) -> Path:
        return self._folder.path / f"sub-{label}/anat/sub-{label}_{self._contrast}.nii.gz"


def _members(stream: Stream) -> Iterator[tarfile.TarInfo]:
    """The entries of a tar file, whose content may be read from the stream or not.

    Extended headers are passed over, so that no entry can have a name longer than 255 bytes.

    Raises:
        InputError: it is not a tar file, or has no end.
    """

    def error(problem: str) -> InputError:
        return InputError(
            f"{stream.url} is not a complete tar file ({problem})",
            remedy="Try again later, or start over with --overwrite.",
        )

    while True:
        offset = stream.position
        header = stream.read(tarfile.BLOCKSIZE)
        if header == bytes(tarfile.BLOCKSIZE):
            return
        try:
            member = tarfile.TarInfo.frombuf(header, "utf-8", "backslashreplace")
        except tarfile.TarError as problem:
            raise error(f"{problem} at byte {offset}") from None
        if member.type in _WITHOUT_CONTENT:
            member.size = 0
        member.offset, member.offset_data = offset, stream.position
        end, length = _end_of(member), stream.state.length if stream.state else None
        if member.size < 0 or (length is not None and end > length):
            raise error(f"an entry at byte {offset} ends outside of it")
        yield member
        while stream.position < end:
            if not stream.read1(min(end - stream.position, _CHUNK)):
                raise error("it ends within an entry")


def _end_of(member: tarfile.TarInfo) -> int:
    """The byte after an entry and its padding."""
    return member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _label(subject: str) -> str:
    match = re.fullmatch(r"(?:sub-|IXI)?([0-9]{1,3})", subject)
    if match is None:
        raise SettingsError(
            f"'{subject}' is not a subject of IXI", remedy="Give numbers, such as 2 or 002."
        )
    return f"{int(match[1]):03d}"


def _texts() -> dict[str, Any]:
    values = {"page": PAGE, "licence": LICENCE, "bids_version": BIDS_VERSION}
    file = Path(__file__).with_name("ixi.toml")
    return filled_texts(file, **values, version=version("mrbridge"))


def write_description(out: Path) -> None:
    """Write the files that make the folder a BIDS dataset, unless they exist."""
    if (out / "README").exists():  # the last of the files below
        return
    texts = _texts()
    write_json(out / "dataset_description.json", texts["dataset_description"])
    authors = ["IXI project, Imperial College London"]
    write_citation(out, title="IXI Dataset", url=PAGE, authors=authors, license="CC-BY-SA-3.0")
    for name, text in texts["texts"].items():
        write_text(out / name, text)


def write_participants(
    session: Session, folder: Folder, hospitals: Mapping[str, str], site: str
) -> None:
    """Add new subjects to `participants.tsv`, and fill in missing values of the others.

    Everything else in the table stays: users add columns to it.

    Args:
        hospitals: of each subject (three digits).
        site: address of the folder with the site's own table.

    Raises:
        InputError: the file is not a table of participants.
    """
    import pandas as pd

    path, columns = folder.path / "participants.tsv", _texts()["participants"]
    old = _read_participants(path)
    sites = {f"sub-{label}": hospital for label, hospital in hospitals.items()}
    new = sorted(set(sites) - set(old.index))
    if not new and (old.empty or folder.record.get("table_read")):
        return
    people = None
    try:
        stream = Stream(session, f"{site.rstrip('/')}/{TABLE}", limit=_MAX_TABLE)
        with closing(stream):
            people = read_people(stream.read(_MAX_TABLE))
    except (InputError, ValueError) as error:
        warnings.warn(f"no age and sex of the subjects: {error}", MrbridgeWarning, stacklevel=2)
    more = pd.DataFrame({"site": sites}).combine_first(pd.DataFrame() if people is None else people)
    table = old.where(old != _UNKNOWN).combine_first(more)
    table = table.reindex(
        index=pd.Index([*old.index, *new], name="participant_id"),
        columns=list(dict.fromkeys([*old.columns, *columns])),
    )
    write_text(path, table.astype(object).fillna(_UNKNOWN).to_csv(sep="\t", lineterminator="\n"))
    if not (folder.path / "participants.json").exists():
        write_json(folder.path / "participants.json", columns)
    folder.save(table_read=people is not None)


def _read_participants(path: Path) -> pd.DataFrame:
    """The table that is there, by participant; an empty one if there is none."""
    import pandas as pd

    if not path.is_file():
        return pd.DataFrame()
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8-sig")
        if not isinstance(table.index, pd.RangeIndex):
            raise ValueError("a row is longer than the header")
        table = table.set_index("participant_id")
        if not table.index.is_unique:
            raise ValueError("a participant has two rows")
        return table
    except (KeyError, ValueError) as error:
        raise InputError(
            f"is not a table of participants ({error})",
            path=path,
            remedy="Correct it, or move it away: a new one is written.",
        ) from None


def read_people(data: bytes) -> pd.DataFrame:
    """Sex, age, height and weight of each subject in the site's table, as text by participant.

    Dates of birth are left out. Some subjects have several rows: where these disagree the value is
    missing, like heights and weights of 0.

    Raises:
        ValueError: it is not the known table.
    """
    import pandas as pd

    try:
        import xlrd  # plain Python: compiled readers crash on some damaged files

        book = xlrd.open_workbook(file_contents=data, logfile=io.StringIO())
        rows = [[cell.value for cell in row] for row in book.sheet_by_index(0).get_rows()]
        titles = [str(title).partition(" ")[0].upper() for title in rows[0]]
        numbers = pd.DataFrame(rows[1:], columns=titles)[list(_TITLES)].rename(columns=_TITLES)
        numbers = numbers.apply(pd.to_numeric, errors="coerce")
        numbers = numbers[numbers["id"] % 1 == 0]
        ids = numbers.pop("id").map("sub-{:03.0f}".format)
        numbers = numbers.where((numbers > 0) & (numbers < 1000))
        text = numbers.map("{:.2f}".format, na_action="ignore")
        text = text.map(lambda value: value.rstrip("0").rstrip("."), na_action="ignore")
        text["sex"] = text["sex"].map({"1": "M", "2": "F"})
        groups = text.groupby(ids)
        return groups.first().where(groups.nunique() == 1)
    except Exception as error:  # of a damaged file, xlrd also raises IndexError, struct.error, …
        raise ValueError(f"the table cannot be read ({error or type(error).__name__})") from None
