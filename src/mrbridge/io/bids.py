"""Finding the scans in what a user points at: a BIDS data set, folders, a table."""

from __future__ import annotations

import csv
import logging
import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Literal

from mrbridge.errors import InputError, MrbridgeWarning
from mrbridge.io import names
from mrbridge.io.bids_name import BidsName, parse_name
from mrbridge.io.contrast import of_path, of_text
from mrbridge.io.formats import FORMATS, is_dicom, is_picture, is_readable
from mrbridge.io.places import here, named
from mrbridge.io.safety import is_temporary, suffix_of
from mrbridge.io.transfer import fetch, not_fetched
from mrbridge.json_text import decode
from mrbridge.urls import shown
from mrbridge.volume import CONTRASTS

__all__ = [
    "NOT_RAW",
    "FoundScans",
    "Scan",
    "find_all_scans",
    "find_scans",
    "is_bids",
    "log_left_out",
    "outside",
    "prefer_raw",
    "why_left_out",
]

log = logging.getLogger(__name__)

NOT_RAW = ("derivatives", "sourcedata", "code")
"""Folders of a BIDS data set that hold no raw scans, at any depth."""

DATATYPES = ("anat",)
"""The folders of a subject or session that hold T1w, T2w and the like."""

_PLACE = re.compile(r"sub-(?P<sub>[^/]+)/(?:ses-(?P<ses>[^/]+)/)?(?:(?P<datatype>[^/]+)/)?[^/]+")
_DERIVED = ("space", "cohort", "res", "den", "label", "desc")
"""Entities that no raw image has (BIDS 1.10, "BIDS Derivatives")."""

_REASONS = 10  # that are told in words

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
    *,
    datatypes: Collection[str | None] = DATATYPES,
    raw_first: bool = True,
    force: bool = False,
) -> FoundScans:
    """Find the scans of a BIDS data set, a folder, two folders, a table, or DICOM files.

    Args:
        source: a BIDS data set, raw or of derivatives (what lies outside of `sub-*/[ses-*/]anat`
            or is listed in `.bidsignore` is left out; a column `split` of `participants.tsv`
            counts); a folder or zip of DICOM files, whose timing tells the
            contrasts (see `mrbridge.io.dicom.scans`); any other folder, in which file and folder
            names tell contrast and subject; a `.csv` or `.tsv` table with the columns subject,
            session, contrast, path (relative to the table, or a URL) and optionally split; or a
            list of two folders, source contrast first. Any of them may be named by URL.
        source_contrast, target_contrast: BIDS suffixes. Scans of others are ignored.
        datatypes: of a BIDS data set, the folders of a subject that hold the scans; `*` means any,
            None the subject's own folder.
        raw_first: leave out what `prefer_raw` leaves out; not of a table.
        force: also take what its name or header says to be something else (a mask, a map, a scan
            after a contrast agent), where a table or two folders say its contrast, or a BIDS name.

    Raises:
        InputError: `source` is absent or of none of these kinds, or a table is unusable.
    """
    contrasts = (source_contrast, target_contrast)
    several = [source] if isinstance(source, str | Path) else source
    paths = [Path(here(item)) for item in several]
    found = _of_contrasts(_found(paths, contrasts, datatypes=datatypes, force=force), contrasts)
    return prefer_raw(found) if raw_first and not _is_table(paths) else found


def find_all_scans(source: str | Path) -> FoundScans:
    """As `find_scans` of one folder, zip or table: scans of all contrasts that mrbridge knows, and
    DICOM series with gaps too."""
    paths = [Path(here(source))]
    found = _of_contrasts(_found(paths, CONTRASTS[:2], allow_gaps=True), CONTRASTS)
    return found if _is_table(paths) else prefer_raw(found)


def prefer_raw(found: FoundScans) -> FoundScans:
    """One file for each scan with a BIDS name; what is left out is ignored, with the reason.

    Of one name in several formats or spellings (`_T1w.nii.gz`, `_T1w.nii`, `_T1W.nii.gz`) the first
    stays, in this order; what is not fetched comes last. Of the scans of one contrast in a folder
    raw ones come before derived ones (`desc-brain`), and `desc-preproc` before any other `desc`.
    """
    groups: dict[tuple[object, ...], list[tuple[Scan, BidsName]]] = defaultdict(list)
    for scan in found.scans:
        name = parse_name(scan.path)
        if name is not None:
            groups[scan.path.parent, scan.subject, scan.session, scan.contrast].append((scan, name))
    reasons: dict[Path, str] = {}
    for group in groups.values():
        best = min(_distance(name) for _, name in group)
        first = "the raw scan is there" if best == 0 else "desc-preproc is there"
        alike: dict[str, list[tuple[Scan, BidsName]]] = defaultdict(list)
        for scan, name in group:
            if _distance(name) > best:
                what = next(f"{key}-{name.entities[key]}" for key in reversed(_DERIVED)
                            if key in name.entities)  # fmt: skip
                reasons[scan.path] = f"is derived ({what}), and {first}"
            else:
                alike[str(replace(name, suffix="", extension=""))].append((scan, name))
        for several in alike.values():
            kept = min(several, key=_oddity) if len(several) > 1 else several[0]
            for one in several:
                if one is not kept:
                    reasons[one[0].path] = "is the same scan in another format or spelling"
    return FoundScans(
        [scan for scan in found.scans if scan.path not in reasons],
        [*found.ignored, *reasons.items()],
    )


def _distance(name: BidsName) -> int:
    """How far from the raw scan: 0 raw, 1 preprocessed, 2 otherwise derived."""
    if not any(key in name.entities for key in _DERIVED):
        return 0
    return 1 if name.entities.get("desc", "preproc") == "preproc" else 2


def _oddity(item: tuple[Scan, BidsName]) -> tuple[bool, bool, int, str]:
    scan, name = item
    formats = (".nii.gz", ".nii")
    place = formats.index(suffix) if (suffix := suffix_of(scan.path)) in formats else len(formats)
    return not_fetched(scan.path) is not None, name.suffix != scan.contrast, place, scan.name


def outside(found: FoundScans, out: Path) -> FoundScans:
    """What was found, without what lies in or around a folder of results."""
    place = Path(os.path.realpath(out))

    def is_result(path: Path) -> bool:
        path = Path(os.path.realpath(path))  # which a cyclic link does not stop
        return path == place or place in path.parents or path in place.parents

    return FoundScans(found.scans, [item for item in found.ignored if not is_result(item[0])])


def log_left_out(ignored: Sequence[tuple[Path, str]], root: Path | None = None) -> None:
    """Say what was left out, by reason: how many files, and one of them.

    Args:
        ignored: files with reasons.
        root: the folder from which they are told; None names none of them.
    """
    counts = Counter(reason for _, reason in ignored)
    examples = {reason: path for path, reason in reversed(ignored)}
    for reason, count in counts.most_common(_REASONS):
        path = examples[reason]
        told = "1 file" if count == 1 else f"{count} files"
        if root is not None:
            below = shown(path.relative_to(root) if path.is_relative_to(root) else path)
            told = below if count == 1 else f"{told}, such as {below}"
        log.info("left out (%s): %s", reason, told)
    if len(counts) > _REASONS:
        log.info("left out for %d other reasons: see report.json", len(counts) - _REASONS)


def why_left_out(ignored: Sequence[tuple[Path, str]]) -> str:
    """The most common reasons, in brackets for the line of an error; empty without any."""
    counts = Counter(reason for _, reason in ignored).most_common(3)
    told = "; ".join(
        f"{count} file{'s' if count > 1 else ''}: {reason}" for reason, count in counts
    )
    return f" (left out: {told})" if told else ""


def _is_table(paths: Sequence[Path]) -> bool:
    return len(paths) == 1 and paths[0].suffix.lower() in (".csv", ".tsv") and paths[0].is_file()


def _found(
    paths: Sequence[Path],
    contrasts: tuple[str, ...],
    *,
    datatypes: Collection[str | None] = DATATYPES,
    allow_gaps: bool = False,
    force: bool = False,
) -> FoundScans:
    for path in paths:
        error = not_fetched(path)
        if error is not None:
            raise error
        if not path.exists():
            raise InputError("does not exist", path=path, remedy="Check the path.")
    if len(paths) == 2 and all(path.is_dir() for path in paths):
        found = [
            (_in_dicom if is_dicom(path) else _in_folder)(path, told, force=force)
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
        result = _in_bids(root, datatypes, force) if is_bids(root) else _in_folder(root, None)
        result = FoundScans(_with_people(result.scans), result.ignored)
    elif len(paths) == 1 and paths[0].suffix.lower() in (".csv", ".tsv"):
        result = _in_table(paths[0], force=force)
    else:
        raise InputError(
            "is not a data set",
            path=paths[0] if paths else None,
            remedy="Give a folder, two folders (source contrast first), or a .csv or .tsv table.",
        )
    return result


def is_bids(folder: Path) -> bool:
    """Whether a folder is a BIDS data set: it says so, or has BIDS names in `sub-*/…/anat`."""
    description = folder / "dataset_description.json"
    if description.is_file() or description.is_symlink():
        return True
    places = chain(folder.glob("sub-*/anat/*"), folder.glob("sub-*/ses-*/anat/*"))
    return any(is_readable(path) and parse_name(path) for path in places)


def _of_contrasts(found: FoundScans, contrasts: Sequence[str]) -> FoundScans:
    scans = sorted(found.scans, key=_order)
    ignored = list(found.ignored)
    ignored += [(s.path, f"is {s.contrast}") for s in scans if s.contrast not in contrasts]
    ignored.sort(key=lambda item: names.natural_key(item[0]))
    return FoundScans([scan for scan in scans if scan.contrast in contrasts], ignored)


def _order(scan: Scan) -> tuple[object, ...]:
    """In one folder the plain scan of a session stands before those with more in their names."""
    name = parse_name(scan.path)
    folder, own = names.natural_key(scan.path.parent), names.natural_key(scan.path.name)
    return folder, 0 if name is None else len(name.entities), own


def _in_bids(root: Path, datatypes: Collection[str | None], force: bool) -> FoundScans:
    splits = _participant_splits(root / "participants.tsv")
    is_listed = _bidsignore(root / ".bidsignore")
    found = FoundScans([], list(_not_raw(root)))
    for path in _files(root, skipped=NOT_RAW):
        relative = path.relative_to(root)
        if not is_readable(path):
            if path.suffix.lower() not in _SIDECARS and not set(relative.parts) & set(NOT_RAW):
                found.ignored.append((path, "is not a scan"))
            continue
        name = _canonical(parse_name(path))
        reason = _why_not_there(relative, datatypes, is_listed)
        if reason is None:
            reason = _why_not_named(relative, name, force)
        if reason is not None or name is None:
            found.ignored.append((path, reason or "has no BIDS name"))
            continue
        place = _PLACE.fullmatch(relative.as_posix())
        assert place is not None  # else it had no place
        subject, session = name.entities["sub"], place["ses"] or name.entities.get("ses")
        split = splits.get(subject)
        found.scans.append(Scan(path, subject, session, name.suffix, path.name, split))
    return found


def _not_raw(root: Path) -> Iterator[tuple[Path, str]]:
    """What lies in the folders of a data set that hold no raw scans, with the reason. Nobody looks
    further into them: they may hold more files than all the rest."""
    for folder in (root / name for name in NOT_RAW):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not path.name.startswith(".") and (path.is_dir() or is_readable(path)):
                yield path, f"is in {folder.name}"


def _canonical(name: BidsName | None) -> BidsName | None:
    """A name whose suffix has the case of the standard: T1w of T1W."""
    cases = {contrast.lower(): contrast for contrast in CONTRASTS}
    return name and replace(name, suffix=cases.get(name.suffix.lower(), name.suffix))


def _why_not_there(
    relative: Path, datatypes: Collection[str | None], is_listed: Callable[[str], bool]
) -> str | None:
    """Why nothing in this place of a BIDS data set is a scan that counts."""
    if is_listed(relative.as_posix()):
        return "is listed in .bidsignore"
    above = next((part for part in relative.parts[:-1] if part in NOT_RAW), None)
    if above is not None:
        return f"is in {above}"
    place = _PLACE.fullmatch(relative.as_posix())
    wanted = " or ".join(sorted(datatype for datatype in datatypes if datatype))
    if place is None:
        return f"is not in sub-*/{wanted} or sub-*/ses-*/{wanted}"
    if place["datatype"] not in datatypes and names.ANY not in datatypes:
        return f"is in {place['datatype'] or 'no folder'}, not in {wanted}"
    return None


def _why_not_named(relative: Path, name: BidsName | None, force: bool) -> str | None:
    """Why a file of a BIDS data set is not a scan that mrbridge reads, by its name."""
    if name is None:
        return "has no BIDS name"
    place = _PLACE.fullmatch(relative.as_posix())
    for key, kind in (("sub", "subject"), ("ses", "session")):
        told, folder = name.entities.get(key), place and place[key]
        if told and folder and told != folder:
            return f"names another {kind} than its folder"
    if name.entities.get("desc") == "synth":
        return "is synthetic"
    identity = of_path(str(name))
    forced = force and name.suffix in CONTRASTS
    return None if identity.contrast is not None or forced else identity.reason


def _bidsignore(file: Path) -> Callable[[str], bool]:
    """Whether a path below the data set is listed in its `.bidsignore`, whose rules are those of
    `.gitignore` (bids-validator, "Configuration")."""
    if not (file.is_file() or file.is_symlink()):
        return lambda path: False
    from pathspec import GitIgnoreSpec

    try:
        return GitIgnoreSpec.from_lines(_text(file).splitlines()).match_file
    except (InputError, ValueError) as error:
        told = error.what if isinstance(error, InputError) else str(error)
        _warn(file, f"{told}; it is not used")
        return lambda path: False


def _in_dicom(
    root: Path, told: str | None, *, allow_gaps: bool = False, force: bool = False
) -> FoundScans:
    """Series below `root`, all of the contrast `told` where it is given."""
    from mrbridge.io.dicom.scans import find_scans  # half a second, which other inputs do not need

    return find_scans(root, told, allow_gaps=allow_gaps, force=force)


def _in_folder(root: Path, told: str | None, *, force: bool = False) -> FoundScans:
    """Scans below `root`; all of them are of the contrast `told` where it is given."""
    found = FoundScans([])
    for path in _files(root):
        relative = path.relative_to(root)
        if path.name.startswith("."):
            found.ignored.append((path, "is hidden"))
            continue
        if not is_readable(path):
            known = ", ".join(FORMATS)
            found.ignored.append((path, f"is not a scan in a known format ({known})"))
            continue
        identity = of_path(relative)
        contrast = told or identity.contrast
        if contrast is None or (identity.is_other and not force):
            found.ignored.append((path, identity.reason))
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


def _in_table(table: Path, *, force: bool = False) -> FoundScans:
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
        contrast = of_text(row["contrast"]).contrast or row["contrast"]
        identity = of_path(path.name)
        if identity.is_other and not force:
            found.ignored.append((path, identity.reason))
            continue
        subject, session = row.get("subject") or None, row.get("session") or None
        found.scans.append(Scan(path, subject, session, contrast, path.name, split))
    return found


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """Line numbers and rows, keys in lower case, values stripped, empty lines left out."""
    text = _text(table)
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


def _text(file: Path) -> str:
    """What a text file says.

    Raises:
        InputError: it cannot be read, or is not text.
    """
    fetch(file)
    try:
        text, encoding = decode(file.read_bytes())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"cannot be read ({reason})", path=file, remedy="Save it as UTF-8 text."
        ) from None
    if encoding != "utf-8":
        _warn(file, f"is not UTF-8; it is read as {encoding}")
    return text


def _warn(file: Path, what: str) -> None:
    warnings.warn(f"{shown(file)}: {what}", MrbridgeWarning, stacklevel=3)


def _participant_splits(table: Path) -> dict[str, str]:
    if not (table.is_file() or table.is_symlink()):
        return {}
    splits = {}
    try:
        rows = _rows(table)
    except InputError as error:
        _warn(table, f"{error.what}; its splits, if it has any, are not used")
        return {}
    for _, row in rows:
        split = names.read_split(row.get("split", ""))
        if split:
            splits[row.get("participant_id", "").removeprefix("sub-")] = split
    return splits


def _files(root: Path, skipped: Sequence[str] = ()) -> Iterator[Path]:
    """All files below `root`, in no order; hidden folders, other stores and leftovers not."""
    for folder, folders, files in os.walk(root, followlinks=True):
        top = Path(folder) == root
        if os.path.islink(folder) and os.path.realpath(folder) in map(
            os.path.realpath, Path(folder).parents
        ):
            folders.clear()  # it would go round in a circle
            continue
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and not name.endswith(".zarr")
            and not (top and name in skipped)
        ]
        yield from (Path(folder, name) for name in files if not is_temporary(name))
