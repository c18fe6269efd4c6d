"""Finding scans in a BIDS dataset, a folder, two folders, a table, or DICOM files."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from mrbridge.errors import InputError, must_exist, warn
from mrbridge.io import names
from mrbridge.io.atomic import stem_of
from mrbridge.io.bids_name import parse_name
from mrbridge.io.contrast import of_path, own_contrasts, recognised
from mrbridge.io.formats import FORMATS, all_files, is_2d, is_dicom, is_readable
from mrbridge.io.metadata import participant_splits, read_text, scans_of_table
from mrbridge.io.remote import localise, not_fetched
from mrbridge.io.scans import ANY, DATATYPES, FoundScans, Scan, prefer_raw
from mrbridge.reports import counted
from mrbridge.volume import CONTRASTS

NOT_RAW = ("derivatives", "sourcedata", "code")  # their folders hold no raw scans, at any depth
_PLACE = re.compile(r"sub-(?P<sub>[^/]+)/(?:ses-(?P<ses>[^/]+)/)?(?:(?P<datatype>[^/]+)/)?[^/]+")
_SUFFIXES = {contrast.lower(): contrast for contrast in CONTRASTS}  # T1w of T1W
_CASE_REMEDY = ", and also if their files go to Windows or macOS, where one would replace the other"
_SIDECARS = {".json", ".tsv", ".csv", ".bval", ".bvec", ".txt", ".md", ".cff", ""}


def find_scans(
    source: str | Path | Sequence[str | Path],
    contrasts: tuple[str, ...] = ("T1w", "T2w"),
    *,
    datatypes: Collection[str | None] = DATATYPES,
    raw_first: bool = True,
    force: bool = False,
) -> FoundScans:
    """Find the scans of a BIDS dataset, a folder, two folders, a table, or DICOM files.

    Args:
        source: a BIDS dataset, raw or of derivatives (what is outside of `sub-*/[ses-*/]anat`
            or is listed in `.bidsignore` is left out; a column `split` of `participants.tsv`
            counts); a folder or zip of DICOM files, whose timing tells the contrasts; any other
            folder, in which file and folder names tell contrast and subject; a table
            (`scans_of_table`); or a list of two folders, in the order of `contrasts`. Any of them
            may be named by URL.
        contrasts: BIDS suffixes, or names of the user's own, such as `CT`. Scans of others are
            ignored.
        datatypes: of a BIDS dataset, the folders of a subject that hold the scans; `*` means any,
            None the subject's own folder. A contrast of the user's own may be in any.
        raw_first: leave out what `prefer_raw` leaves out; not of a table.
        force: also take what its name or header says to be something else (a mask, a map, a scan
            after a contrast agent), where a table or two folders say its contrast, or a BIDS name.

    Raises:
        InputError: `source` is absent or of none of these kinds, or a table is unusable.
    """
    several = [source] if isinstance(source, str | Path) else source
    paths = [Path(localise(item)) for item in several]
    with recognised(contrasts):
        found = _found(paths, contrasts, datatypes=datatypes, force=force)
    found = _of_contrasts(found, contrasts)
    return prefer_raw(found) if raw_first and not _is_table(paths) else found


def find_all_scans(source: str | Path) -> FoundScans:
    """As `find_scans` for one folder, zip or table, but scans of all known contrasts, and also
    DICOM series with gaps."""
    paths = [Path(localise(source))]
    found = _of_contrasts(_found(paths, CONTRASTS[:2], allow_gaps=True), CONTRASTS)
    return found if _is_table(paths) else prefer_raw(found)


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
        must_exist(path)
    if len(paths) == 2 and all(path.is_dir() for path in paths):
        one, other = (
            (_in_dicom if is_dicom(path) else _in_folder)(path, contrast, force=force)
            for path, contrast in zip(paths, contrasts, strict=True)
        )
        scans, ignored = one.scans + other.scans, one.ignored + other.ignored
        return FoundScans(_with_people(scans), ignored)
    if len(paths) == 1 and is_dicom(paths[0]):
        return _in_dicom(paths[0], None, allow_gaps=allow_gaps)
    if len(paths) == 1 and paths[0].is_dir():
        root = paths[0]
        result = _in_bids(root, datatypes, force) if is_bids(root) else _in_folder(root, None)
        return FoundScans(_with_people(result.scans), result.ignored)
    if _is_table(paths):
        return scans_of_table(paths[0], force=force)
    raise InputError(
        "is not a dataset",
        path=paths[0] if paths else None,
        remedy="Give a folder, two folders (source contrast first), or a .csv or .tsv table.",
    )


def is_bids(folder: Path) -> bool:
    """Whether a folder is a BIDS dataset: it says so, or has BIDS names in `sub-*/…/anat`."""
    description = folder / "dataset_description.json"
    if description.is_file() or description.is_symlink():
        return True
    places = chain(folder.glob("sub-*/anat/*"), folder.glob("sub-*/ses-*/anat/*"))
    return any(is_readable(path) and parse_name(path) for path in places)


def _of_contrasts(found: FoundScans, contrasts: Sequence[str]) -> FoundScans:
    scans = sorted(_one_name_each(found.scans), key=_order)
    _warn_of_similar(scans)
    ignored = list(found.ignored)
    ignored += [(s.path, f"is {s.contrast}") for s in scans if s.contrast not in contrasts]
    ignored.sort(key=lambda item: names.natural_key(item[0]))
    return FoundScans([scan for scan in scans if scan.contrast in contrasts], ignored)


def _one_name_each(scans: Sequence[Scan]) -> list[Scan]:
    """Scans, of whose subjects `sub-01` is 01 if there is a 01, as in BIDS names."""
    subjects = {scan.subject for scan in scans}
    return [
        replace(scan, subject=label)
        if scan.subject and (label := scan.subject.removeprefix("sub-")) in subjects
        else scan
        for scan in scans
    ]


def _warn_of_similar(scans: Sequence[Scan]) -> None:
    """Warn about subjects that BIDS does not allow next to each other ("Case collision
    intolerance"), and about 1 next to 01."""
    alike: dict[str, dict[str, None]] = defaultdict(dict)
    for scan in scans:
        if scan.subject is not None:
            key = names.without_leading_zeros(names.folded(scan.subject))
            alike[key][scan.subject] = None
    groups: dict[bool, list[str]] = defaultdict(list)
    for several in alike.values():
        if len(several) > 1:
            only_case = len(set(map(names.folded, several))) == 1
            groups[only_case].append(" and ".join(several))
    for only_case, found in groups.items():
        more = f" (and {len(found) - 1} more such groups)" if len(found) > 1 else ""
        warn(
            f"the subjects {found[0]}{more} differ only in "
            + ("case or in the encoding of their accents" if only_case else "leading zeros")
            + ", and are treated as several people: rename them if they are one"
            + (_CASE_REMEDY if only_case else "")
        )


def _order(scan: Scan) -> tuple[object, ...]:
    """A sort key; within a folder, scans with fewer entities in their names come first."""
    name = parse_name(scan.path)
    folder, own = names.natural_key(scan.path.parent), names.natural_key(scan.path.name)
    return folder, 0 if name is None else len(name.entities), own


def _in_bids(root: Path, datatypes: Collection[str | None], force: bool) -> FoundScans:
    splits = participant_splits(root / "participants.tsv")
    is_listed = _bidsignore(root / ".bidsignore")
    found = FoundScans([], list(_not_raw(root)))
    for path in all_files(root, NOT_RAW):
        if not is_readable(path):
            parts = path.relative_to(root).parts
            if path.suffix.lower() not in _SIDECARS and not set(parts) & set(NOT_RAW):
                found.ignored.append((path, "is not a scan"))
            continue
        scan = _bids_scan(path, root, datatypes, is_listed, force=force)
        if isinstance(scan, str):
            found.ignored.append((path, scan))
        else:
            found.scans.append(replace(scan, split=splits.get(str(scan.subject))))
    absent = sorted(splits.keys() - {scan.subject for scan in found.scans})
    if absent:
        warn(
            f"has splits of {counted(len(absent), 'subject')} without scans, such as {absent[0]}",
            root / "participants.tsv",
        )
    return found


def _bids_scan(
    path: Path,
    root: Path,
    datatypes: Collection[str | None],
    is_listed: Callable[[str], bool],
    *,
    force: bool,
) -> Scan | str:
    """The scan in a file of a BIDS dataset, or why it is left out."""
    relative = path.relative_to(root)
    if is_listed(relative.as_posix()):
        return "is listed in .bidsignore"
    above = next((part for part in relative.parts[:-1] if part in NOT_RAW), None)
    if above is not None:
        return f"is in {above}"
    place = _PLACE.fullmatch(relative.as_posix())
    wanted = " or ".join(sorted(datatype for datatype in datatypes if datatype))
    if place is None:
        return f"is not in sub-*/{wanted} or sub-*/ses-*/{wanted}"
    own = own_contrasts()
    in_any = ANY in datatypes or stem_of(path).rpartition("_")[2].lower() in own
    if place["datatype"] not in datatypes and not in_any:
        return f"is in {place['datatype'] or 'no folder'}, not in {wanted}"
    name = parse_name(path)
    if name is None:
        return "has no BIDS name"
    subject, session = name.entities["sub"], name.entities.get("ses")
    if subject != place["sub"]:
        return "names another subject than its folder"
    if session and place["ses"] and session != place["ses"]:
        return "names another session than its folder"
    if name.entities.get("desc") == "synth":
        return "is synthetic"
    suffix = {**_SUFFIXES, **own}.get(name.suffix.lower(), name.suffix)
    identity = of_path(str(replace(name, suffix=suffix)))
    if identity.synthetic and not force:
        return identity.synthetic
    if identity.contrast is None and not (force and suffix in CONTRASTS):
        return identity.reason
    return Scan(path, subject, place["ses"] or session, suffix, path.name)


def _not_raw(root: Path) -> Iterator[tuple[Path, str]]:
    """The direct content of folders that hold no raw scans, with the reason. These are not searched
    further: they may hold more files than the rest of the dataset."""
    for folder in (root / name for name in NOT_RAW):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not path.name.startswith(".") and (path.is_dir() or is_readable(path)):
                yield path, f"is in {folder.name}"


def _bidsignore(file: Path) -> Callable[[str], bool]:
    """A test whether a path below the dataset matches its `.bidsignore`, whose rules are those of
    `.gitignore` (bids-validator, "Configuration")."""
    if not (file.is_file() or file.is_symlink()):
        return lambda path: False
    from pathspec import GitIgnoreSpec

    try:
        return GitIgnoreSpec.from_lines(read_text(file).splitlines()).match_file
    except (InputError, ValueError) as error:
        message = error.what if isinstance(error, InputError) else str(error)
        warn(f"{message}; it is not used", file)
        return lambda path: False


def _in_dicom(
    root: Path, wanted: str | None, *, allow_gaps: bool = False, force: bool = False
) -> FoundScans:
    from mrbridge.io.dicom.scans import find_scans  # takes half a second

    return find_scans(root, wanted, allow_gaps=allow_gaps, force=force)


def _in_folder(root: Path, wanted: str | None, *, force: bool = False) -> FoundScans:
    """Scans below `root`; all of the contrast `wanted` if given."""
    found = FoundScans([])
    for path in all_files(root):
        relative = path.relative_to(root)
        if path.name.startswith("."):
            found.ignored.append((path, "is hidden"))
            continue
        if not is_readable(path):
            known = ", ".join(FORMATS)
            found.ignored.append((path, f"is not a scan in a known format ({known})"))
            continue
        identity = of_path(relative)
        contrast = wanted or identity.contrast
        if contrast is None or (identity.objection and not force):
            found.ignored.append((path, identity.objection or identity.reason))
            continue
        subject, session = names.guess_subject(relative, is_2d=is_2d(path))
        split = names.guess_split(relative)
        found.scans.append(Scan(path, subject, session, contrast, path.name, split))
    return FoundScans(told_apart(found.scans, root), found.ignored)


def told_apart(scans: Sequence[Scan], root: Path) -> list[Scan]:
    """Scans, whose subjects are named after all their folders if a name occurs in several places:
    subject 1 of one site is not subject 1 of another."""
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
    what = counted(len(several), "name of a subject is", "names of subjects are")
    warn(f"{what} in several folders, and treated as several people: {example}", root)
    return [
        replace(scan, subject="_".join(dict.fromkeys([*own[scan.path], str(scan.subject)])))
        if scan.subject in several and scan.path in own
        else scan
        for scan in scans
    ]


def _with_people(scans: Sequence[Scan]) -> list[Scan]:
    """Scans; 2D images get a subject if their names distinguish people."""
    unknown = {scan: scan.name for scan in scans if scan.subject is None and is_2d(scan.path)}
    people = names.tell_people_apart(list(unknown.values()))
    return [
        replace(scan, subject=people.get(scan.name)) if scan in unknown else scan for scan in scans
    ]
