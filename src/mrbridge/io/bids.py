"""Finding the scans in what a user points at: a BIDS data set, folders, a table."""

from __future__ import annotations

import csv
import os
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from mrbridge.errors import InputError, MrbridgeWarning
from mrbridge.io import names
from mrbridge.io.formats import FORMATS, is_dicom, is_picture, is_readable
from mrbridge.io.names import BidsName, derivative_name, guess_contrast, parse_name
from mrbridge.io.places import here, named
from mrbridge.io.safety import is_temporary
from mrbridge.io.transfer import fetch
from mrbridge.volume import CONTRASTS

__all__ = [
    "NOT_RAW",
    "BidsName",
    "FoundScans",
    "Scan",
    "derivative_name",
    "find_all_scans",
    "find_scans",
    "guess_contrast",
    "is_bids",
    "parse_name",
]

NOT_RAW = ("derivatives", "sourcedata", "code")
"""Folders of a BIDS data set that hold no raw scans."""

_SIDECARS = {".json", ".tsv", ".csv", ".bval", ".bvec", ".txt", ".md", ".cff", ""}
_COLUMNS = ("subject", "session", "contrast", "path")


@dataclass(frozen=True)
class Scan:
    """One file and what is known of it before it is opened.

    Attributes:
        path: the file.
        subject, session: None where nothing tells them.
        contrast: a BIDS suffix such as T1w.
        name: the file's name.
        split: `train`, `val` or `test` where the user said so.
        series: which series of `path`, where it holds DICOM files.
        files: below `path`, those that hold the series, so that nobody looks through all again.
    """

    path: Path
    subject: str | None
    session: str | None
    contrast: str
    name: str
    split: str | None = None
    series: str | None = None
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoundScans:
    """The scans in natural order, and the files that were left out, each with the reason."""

    scans: list[Scan]
    ignored: list[tuple[Path, str]] = field(default_factory=list)


def find_scans(
    source: str | Path | Sequence[str | Path],
    source_contrast: str = "T1w",
    target_contrast: str = "T2w",
) -> FoundScans:
    """Find the scans of a BIDS data set, a folder, two folders, a table, or DICOM files.

    Args:
        source: a BIDS folder (`derivatives`, `sourcedata` and `code` are skipped; a column `split`
            of `participants.tsv` counts); a folder or zip of DICOM files, whose timing tells the
            contrasts (see `mrbridge.io.dicom.scans`); any other folder, in which file and folder
            names tell contrast and subject; a `.csv` or `.tsv` table with the columns subject,
            session, contrast, path (relative to the table, or a URL) and optionally split; or a
            list of two folders, source contrast first. Any of them may be named by URL.
        source_contrast, target_contrast: BIDS suffixes. Scans of others are ignored.

    Raises:
        InputError: `source` is absent or of none of these kinds, or a table is unusable.
    """
    contrasts = (source_contrast, target_contrast)
    several = [source] if isinstance(source, str | Path) else source
    paths = [Path(here(item)) for item in several]
    return _of_contrasts(_found(paths, contrasts), contrasts)


def find_all_scans(source: str | Path) -> FoundScans:
    """As `find_scans` of one folder, zip or table: scans of all contrasts that mrbridge knows, and
    DICOM series with gaps too."""
    return _of_contrasts(_found([Path(here(source))], CONTRASTS[:2], allow_gaps=True), CONTRASTS)


def _found(
    paths: Sequence[Path], contrasts: tuple[str, ...], *, allow_gaps: bool = False
) -> FoundScans:
    for path in paths:
        if not path.exists():
            raise InputError("does not exist", path=path, remedy="Check the path.")
    if len(paths) == 2 and all(path.is_dir() for path in paths):
        found = [
            (_in_dicom if is_dicom(path) else _in_folder)(path, told)
            for path, told in zip(paths, contrasts, strict=True)
        ]
        result = FoundScans(
            _with_people([scan for part in found for scan in part.scans]),
            [item for part in found for item in part.ignored],
        )
    elif len(paths) == 1 and is_dicom(paths[0]):
        result = _in_dicom(paths[0], None, allow_gaps=allow_gaps)
    elif len(paths) == 1 and paths[0].is_dir():
        root = paths[0]
        result = _in_bids(root) if is_bids(root) else _in_folder(root, None)
        result = FoundScans(_with_people(result.scans), result.ignored)
    elif len(paths) == 1 and paths[0].suffix.lower() in (".csv", ".tsv"):
        result = _in_table(paths[0])
    else:
        raise InputError(
            "is not a data set",
            path=paths[0] if paths else None,
            remedy="Give a folder, two folders (source contrast first), or a .csv or .tsv table.",
        )
    return result


def is_bids(folder: Path) -> bool:
    """Whether a folder is a BIDS data set: it says so, or has `sub-*` folders with BIDS names."""
    if (folder / "dataset_description.json").is_file():
        return True
    return any(is_readable(path) and parse_name(path) for path in folder.glob("sub-*/**/*"))


def _of_contrasts(found: FoundScans, contrasts: Sequence[str]) -> FoundScans:
    scans = sorted(found.scans, key=lambda scan: names.natural_key(scan.path))
    ignored = list(found.ignored)
    ignored += [(s.path, f"is {s.contrast}") for s in scans if s.contrast not in contrasts]
    ignored.sort(key=lambda item: names.natural_key(item[0]))
    return FoundScans([scan for scan in scans if scan.contrast in contrasts], ignored)


def _in_bids(root: Path) -> FoundScans:
    splits = _participant_splits(root / "participants.tsv")
    found = FoundScans([])
    for path in _files(root, skipped=NOT_RAW):
        name = parse_name(path)
        if not is_readable(path):
            if path.suffix.lower() not in _SIDECARS:
                found.ignored.append((path, "is no scan"))
        elif name is None:
            found.ignored.append((path, "has no BIDS name"))
        elif name.entities.get("desc") == "synth":
            found.ignored.append((path, "is synthetic"))
        elif reason := names.why_not_a_contrast(name):
            found.ignored.append((path, reason))
        else:
            subject, session = name.entities["sub"], name.entities.get("ses")
            split = splits.get(subject)
            found.scans.append(Scan(path, subject, session, name.suffix, path.name, split))
    return found


def _in_dicom(root: Path, told: str | None, *, allow_gaps: bool = False) -> FoundScans:
    """Series below `root`, all of the contrast `told` where it is given."""
    from mrbridge.io.dicom.scans import find_scans  # half a second, which other inputs do not need

    return find_scans(root, told, allow_gaps=allow_gaps)


def _in_folder(root: Path, told: str | None) -> FoundScans:
    """Scans below `root`; all of them are of the contrast `told` where it is given."""
    found = FoundScans([])
    for path in _files(root):
        relative = path.relative_to(root)
        if path.name.startswith("."):
            found.ignored.append((path, "is hidden"))
            continue
        if not is_readable(path):
            known = ", ".join(FORMATS)
            found.ignored.append((path, f"is no scan in a known format ({known})"))
            continue
        contrast = told or guess_contrast(relative)
        if contrast is None:
            found.ignored.append((path, "its name tells no known contrast"))
            continue
        subject, session = names.guess_subject(relative, picture=is_picture(path))
        split = names.guess_split(relative)
        found.scans.append(Scan(path, subject, session, contrast, path.name, split))
    return FoundScans(_told_apart(found.scans, root), found.ignored)


def _told_apart(scans: Sequence[Scan], root: Path) -> list[Scan]:
    """Scans whose subjects are called by all their folders where one name lies in several places:
    number 1 of one site is not number 1 of another."""
    places: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    own: dict[Path, tuple[str, ...]] = {}
    for scan in scans:
        folders = names.subject_folders(scan.path.relative_to(root))
        if scan.subject is not None and folders and parse_name(scan.path) is None:
            own[scan.path] = folders
            places[scan.subject].add(folders)
    several = sorted(subject for subject, found in places.items() if len(found) > 1)
    if not several:
        return list(scans)
    example = ", ".join("/".join(folders) for folders in sorted(places[several[0]])[:2])
    warnings.warn(
        f"{root}: {len(several)} names of subjects lie in several folders, and are taken for "
        f"several people: {example}",
        MrbridgeWarning,
        stacklevel=2,
    )
    return [
        replace(scan, subject="_".join(dict.fromkeys([*own[scan.path], str(scan.subject)])))
        if scan.subject in several and scan.path in own
        else scan
        for scan in scans
    ]


def _with_people(scans: Sequence[Scan]) -> list[Scan]:
    """Scans, of which pictures have a subject where their names tell different people apart."""
    unknown = [s.name for s in scans if s.subject is None and is_picture(s.path)]
    people = names.tell_people_apart(unknown)
    return [
        replace(scan, subject=people[scan.name])
        if scan.subject is None and scan.name in people and is_picture(scan.path)
        else scan
        for scan in scans
    ]


def _in_table(table: Path) -> FoundScans:
    found = FoundScans([])
    for line, row in _rows(table):
        missing = [key for key in ("contrast", "path") if not row.get(key)]
        if missing:
            raise InputError(
                f"line {line} has no {' and no '.join(missing)}",
                path=table,
                remedy=f"The columns are {', '.join(_COLUMNS)} and optionally split.",
            )
        path = named(row["path"], table.parent)
        split = names.read_split(row.get("split", ""))
        if row.get("split") and split is None:
            raise InputError(
                f"line {line} has the split '{row['split']}'",
                path=table,
                remedy="Use train, val or test, or leave it empty.",
            )
        contrast = guess_contrast(f"{row['contrast']}.nii.gz") or row["contrast"]
        subject, session = row.get("subject") or None, row.get("session") or None
        found.scans.append(Scan(path, subject, session, contrast, path.name, split))
    return found


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """Line numbers and rows, keys in lower case, values stripped, empty lines left out."""
    fetch(table)
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot be read ({error})", path=table, remedy="Save it as UTF-8 text."
        ) from None
    head = text.partition("\n")[0]
    separator = max(",;\t", key=head.count)
    # In BIDS, and in most tables with tabs, a quotation mark is a character like others.
    quoting: Literal[0, 3] = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    lines = text.splitlines()
    try:
        table_rows = list(csv.DictReader(lines, delimiter=separator, quoting=quoting))
    except csv.Error as error:
        raise InputError(f"is no table ({error})", path=table, remedy="Check its quotes.") from None
    rows = []
    for number, row in enumerate(table_rows, start=2):
        clean = {
            key.strip().lower(): value.strip()
            for key, value in row.items()
            if isinstance(key, str) and isinstance(value, str)
        }
        if any(clean.values()):
            rows.append((number, clean))
    return rows


def _participant_splits(table: Path) -> dict[str, str]:
    if not table.is_file():
        return {}
    splits = {}
    for _, row in _rows(table):
        split = names.read_split(row.get("split", ""))
        if split:
            splits[row.get("participant_id", "").removeprefix("sub-")] = split
    return splits


def _files(root: Path, skipped: Sequence[str] = ()) -> Iterator[Path]:
    """All files below `root`, in no order; hidden folders, other stores and leftovers not."""
    for folder, folders, files in os.walk(root):
        top = Path(folder) == root
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and not name.endswith(".zarr")
            and not (top and name in skipped)
        ]
        yield from (Path(folder, name) for name in files if not is_temporary(name))
