"""IXI: nearly 600 healthy subjects of three London hospitals, as a BIDS dataset.

The site has one tar file per contrast and a table of the subjects. The headers in a tar file say
where its scans are; each scan is then downloaded for itself.

Source: https://brain-development.org/ixi-dataset. The texts of the dataset are in `ixi.toml`.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrbridge import progress
from mrbridge.download.fetch import RemoteFile, Session
from mrbridge.download.folder import Archive, ArchivedScan, Folder, Report
from mrbridge.download.settings import DownloadSettings
from mrbridge.errors import InputError, SettingsError, warn
from mrbridge.io.atomic import write_json, write_text
from mrbridge.io.bids_name import BIDS_VERSION
from mrbridge.io.metadata import filled_texts

if TYPE_CHECKING:
    import pandas as pd

SITE = "https://biomedic.doc.ic.ac.uk/brain-development/downloads/IXI"
PAGE = "https://brain-development.org/ixi-dataset/"
LICENCE = "CC BY-SA 3.0"
ARCHIVES = {"T1w": "IXI-T1.tar", "T2w": "IXI-T2.tar", "PDw": "IXI-PD.tar"}

_NAME = re.compile(r"(?:\./)?(?:\w[\w.-]*/)*IXI([0-9]{3})-([A-Za-z]+)-[0-9]{4}-(T1|T2|PD)\.nii\.gz")
_WITHOUT_CONTENT = b"123456"  # types of tar entries: links, devices, folders, FIFOs
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
    site = (settings.mirror or SITE).rstrip("/")
    labels = None if settings.subjects is None else {_label(name) for name in settings.subjects}
    for contrast in settings.contrast:
        if contrast not in ARCHIVES:
            raise SettingsError(
                f"IXI has no {contrast} archive", remedy=f"It has {', '.join(ARCHIVES)}."
            )
    folder = Folder(out, source="ixi")
    with Session(settings) as session:
        files, failed, hospitals = _list(session, folder, site, labels)

        def describe() -> None:
            write_description(out)
            write_participants(session, out, hospitals, f"{site}/IXI.xls")

        return folder.download(session, "IXI", LICENCE, files, describe, failed)


def _list(
    session: Session, folder: Folder, site: str, labels: set[str] | None
) -> tuple[list[RemoteFile], dict[str, str], dict[str, str]]:
    """The wanted scans, what cannot be downloaded and why, and the hospitals of the subjects."""
    files: list[RemoteFile] = []
    failed: dict[str, str] = {}
    hospitals: dict[str, str] = {}
    for contrast in dict.fromkeys(session.settings.contrast):
        name = ARCHIVES[contrast]
        url = f"{site}/{name}"
        known = None if session.settings.overwrite else folder.record.archives.get(name)
        archive, problem = _index(session, url, known, contrast, labels)
        folder.record.archives[name] = archive
        for label, scan in archive.scans.items():
            if labels is None or label in labels:
                hospitals[f"sub-{label}"] = scan.site
                path = f"sub-{label}/anat/sub-{label}_{contrast}.nii.gz"
                files.append(RemoteFile(url, path, scan.size, offset=scan.offset))
        if problem or not archive.scans:
            failed[name] = problem or "contains no scans"
        else:
            absent = sorted((labels or set()) - archive.scans.keys())
            failed |= {f"sub-{x} {contrast}": f"{name} has no such scan" for x in absent}
    return files, failed, hospitals


def _index(
    session: Session, url: str, known: Archive | None, contrast: str, labels: set[str] | None
) -> tuple[Archive, str]:
    """Read the headers of a tar file up to that of the last wanted scan: what is known now, and
    what is wrong with the tar file; "" if nothing. What was `known` of an earlier run is used if
    the file is in the same state. Extended headers are passed over, so that no entry can have a
    name longer than 255 bytes."""

    def read(start: int) -> tuple[bytes, str]:
        span = f"{start}-{start + tarfile.BLOCKSIZE - 1}"
        content, response = session.retry(session.read, "GET", url, span=span)
        length = response.headers["Content-Range"].rpartition("/")[2]
        more = [response.headers.get(name, "") for name in ("ETag", "Last-Modified")]
        return content, " ".join([length, *more])

    def problem(what: str) -> tuple[Archive, str]:
        return archive, f"{url} is not a complete tar file ({what} at byte {archive.end})"

    header, state = read(0)
    archive = known if known and known.state == state else Archive(state=state)
    length = int(state.split()[0])
    with progress.transfer(f"Listing {url.rpartition('/')[2]}", length) as advance:
        advance(archive.end)
        while not archive.complete and (labels is None or not labels <= archive.scans.keys()):
            if archive.end:
                header = read(archive.end)[0] if archive.end < length else b""
            if header == bytes(tarfile.BLOCKSIZE):
                archive.complete = True
                break
            try:
                member = tarfile.TarInfo.frombuf(header, "utf-8", "backslashreplace")
            except tarfile.TarError as error:
                return problem(str(error))
            size = 0 if member.type in _WITHOUT_CONTENT else member.size
            begin = archive.end + tarfile.BLOCKSIZE
            end = begin + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            if size < 0 or end > length:
                return problem("an entry that ends outside of it")
            match = _NAME.fullmatch(member.name)
            if match and f"{match[3]}w" == contrast and member.isreg():
                scan = ArchivedScan(offset=begin, size=size, site=match[2])
                archive.scans.setdefault(match[1], scan)
            advance(end - archive.end)
            archive.end = end
    return archive, ""


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
    for name, text in texts["texts"].items():
        write_text(out / name, text)


def write_participants(session: Session, out: Path, hospitals: Mapping[str, str], url: str) -> None:
    """Add new subjects, with their hospitals, to `participants.tsv`, and fill in missing values of
    the others from the site's own table at `url`. Everything else stays: users add columns.
    InputError if the file is not a table of participants."""
    import pandas as pd

    path, columns = out / "participants.tsv", _texts()["participants"]
    old = _read_participants(path)
    new = sorted(set(hospitals) - set(old.index))
    if not new and "age" in old and (old["age"] != _UNKNOWN).any():
        return
    people = pd.DataFrame()
    try:
        people = read_people(session.retry(session.read, "GET", url)[0])
    except (InputError, ValueError) as error:
        warn(f"no age and sex of the subjects: {error}")
    more = pd.DataFrame({"site": hospitals}).combine_first(people)
    table = old.where(old != _UNKNOWN).combine_first(more)
    table = table.reindex(
        index=pd.Index([*old.index, *new], name="participant_id"),
        columns=list(dict.fromkeys([*old.columns, *columns])),
    )
    write_text(path, table.astype(object).fillna(_UNKNOWN).to_csv(sep="\t", lineterminator="\n"))
    if not (out / "participants.json").exists():
        write_json(out / "participants.json", columns)


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
