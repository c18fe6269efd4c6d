"""Text files of a dataset: its tables of scans and participants, its description, its sidecars.

A file that is needed, and cannot be read or holds something else, is an InputError.
"""

from __future__ import annotations

import csv
import re
import tomllib
import warnings
from collections import defaultdict
from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import Any, Literal

from mrbridge.errors import InputError, MrbridgeWarning, about, warn
from mrbridge.io import names
from mrbridge.io.acquisition import of_sidecar, other_body_part
from mrbridge.io.atomic import reading, sidecar_path
from mrbridge.io.bids_name import parse_name
from mrbridge.io.contrast import of_path, of_text, own_contrasts, synthetic_in
from mrbridge.io.remote import fetch, path_in_table
from mrbridge.io.scans import FoundScans, Scan
from mrbridge.text import decode, did_you_mean, parse_json

DESCRIPTION = "dataset_description.json"
_CORRECT = "Correct it; bids-validator shows more."
_COLUMNS = ("subject", "session", "contrast", "path")
_KNOWN_COLUMNS = {*_COLUMNS, "split"}
_SCANNER = ("EchoTime", "SeriesDescription", "ContrastBolusIngredient")
"""Fields of a sidecar that come from a scanner."""
_MARKS = ("SeriesDescription", "ImageComments", "ImageType")
"""Fields in which a derived DICOM series says that it is synthetic, as converters copy them."""
_LEVELS = 4  # folders between a BIDS dataset and its scans, at most
_ABSENT = {"", "n/a", "N/A", "NA", "nan", "NaN", "None", "null"}
"""How BIDS, R and Python write a missing value."""


def read_text(file: Path) -> str:
    """The content of a text file; a warning names its encoding if that is not UTF-8."""
    text, encoding = _decoded(file)
    _warn_of_encoding(file, encoding)
    return text


def _decoded(file: Path) -> tuple[str, str]:
    fetch(file)
    remedy = "Save it as UTF-8 text."
    with reading(file, remedy):
        try:
            return decode(file.read_bytes())
        except ValueError as error:
            raise InputError(f"cannot be read ({error})", remedy=remedy) from None


def _warn_of_encoding(file: Path, encoding: str) -> None:
    if encoding != "utf-8":
        warn(f"is not UTF-8; it is read as {encoding}", file)


def filled_texts(file: Path, **values: object) -> dict[str, Any]:
    """The texts of a TOML file, for the files of a new dataset; `{name}` becomes a value."""
    text = file.read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", str(value))
    return tomllib.loads(text)


def scans_of_table(table: Path, *, force: bool = False) -> FoundScans:
    """The scans that a table lists, a `.csv` or `.tsv` with the columns subject, session, contrast,
    path (relative to the table, or a URL) and optionally split.

    Args:
        force: include files whose names say that they are something else, such as masks.
    """
    found, seen = FoundScans([]), set[Scan]()
    rows = _rows(table)
    _warn_of_columns(table, rows)
    with about(table):
        scans = [_scan_of_row(row, line, table.parent) for line, row in rows]
    _warn_of_names(table, scans, [line for line, _ in rows])
    for (line, row), scan in zip(rows, scans, strict=True):
        objection = of_path(scan.name).objection
        if objection is None and synthetic_in(row["contrast"]):
            objection = f"is '{row['contrast']}' by line {line} of the table"
        if objection and not force:
            found.ignored.append((scan.path, objection))
        elif scan in seen:
            found.ignored.append((scan.path, "is listed twice"))
        else:
            seen.add(scan)
            found.scans.append(scan)
    return found


def _scan_of_row(row: dict[str, str], line: int, folder: Path) -> Scan:
    missing = [key for key in ("contrast", "path") if not row.get(key)]
    if missing:
        raise InputError(
            f"line {line} has no {' and no '.join(missing)}",
            remedy=f"The columns are {', '.join(_COLUMNS)} and optionally split.",
        )
    path = path_in_table(row["path"], folder)
    split = names.read_split(row.get("split", ""))
    if row.get("split", "") not in _ABSENT and split is None:
        raise InputError(
            f"line {line} has the split '{row['split']}'",
            remedy="Use train, val or test, or leave it empty.",
        )
    own = own_contrasts().get(row["contrast"].lower())
    contrast = own or of_text(row["contrast"]).contrast or row["contrast"]
    subject, session = (
        None if row.get(key, "") in _ABSENT else row[key] for key in ("subject", "session")
    )
    return Scan(path, subject, session, contrast, path.name, split)


def _warn_of_columns(table: Path, rows: Sequence[tuple[int, dict[str, str]]]) -> None:
    """Warn about columns that are not read but seem to be meant, and if none names subjects."""
    columns = {column for _, row in rows for column in row}
    for column in sorted(columns - _KNOWN_COLUMNS):
        hint = did_you_mean(column, _KNOWN_COLUMNS - columns, 0.75)
        if hint:
            warn(f"its column '{column}' is not read{hint}", table)
            return
    if columns and "subject" not in columns:
        warn("has no column 'subject': whose scans they are is not known", table)


def _warn_of_names(table: Path, scans: Sequence[Scan], lines: Sequence[int]) -> None:
    """Warn if a table contradicts the names of its files."""
    people: dict[str, dict[str, int]] = defaultdict(dict)
    problems = []
    for line, scan in zip(lines, scans, strict=True):
        named, name = of_path(scan.name).contrast, parse_name(scan.path)
        if named not in (None, scan.contrast):
            problems.append(f"line {line} says {scan.contrast}, and the name of its file {named}")
        if name is not None and scan.subject is not None:
            label = f"sub-{name.entities['sub']}"
            # Next to one another: other folders may be those of another site.
            known = people[str(scan.path).partition(label)[0] + label]
            known.setdefault(scan.subject.removeprefix("sub-"), line)
            if len(known) > 1:
                first = next(iter(known.values()))
                problems.append(f"lines {first} and {line} name two subjects for files of {label}")
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        warn(f"contradicts the names of its files: {problems[0]}{more}", table)


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """Line numbers and rows, keys in lower case, values stripped, empty lines left out."""
    text = read_text(table)
    head = text.partition("\n")[0]
    separator = max(",;\t", key=head.count)
    quoted = all(re.fullmatch('".*"', name.strip()) for name in head.split(separator))
    # In BIDS, and in most tables with tabs, a quotation mark is a character; R quotes all texts.
    plain = separator == "\t" and not quoted
    quoting: Literal[0, 3] = csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL
    try:
        lines = csv.reader(text.splitlines(), delimiter=separator, quoting=quoting)
        columns = [name.strip().lower() for name in next(lines, ())]
        table_rows = list(lines)
    except csv.Error as error:
        what = f"is not a table ({error})"
        raise InputError(what, path=table, remedy="Check its quotes.") from None
    twice = [name for name in columns if name and columns.count(name) > 1]
    if twice:
        raise InputError(
            f"has two columns '{twice[0]}'", path=table, remedy="Rename or remove one of them."
        )
    if quoted and all(len(cells) in (0, len(columns) + 1) for cells in table_rows):
        columns.insert(0, "")  # the names of rows, which have no column in R's `write.table`
    rows = []
    for number, cells in enumerate(table_rows, start=2):
        if any(cell.strip() for cell in cells[len(columns) :]):
            raise InputError(
                f"line {number} has more cells than the table has columns",
                path=table,
                remedy="Put quotes around cells that hold a comma, semicolon or tab, and give each "
                "column a name (in R: row.names = FALSE).",
            )
        clean = dict(zip(columns, map(str.strip, cells), strict=False))
        if any(clean.values()):
            rows.append((number, clean))
    return rows


def participant_splits(table: Path) -> dict[str, str]:
    """Splits by subject, from the column `split` of `participants.tsv`, if it has one."""
    if not (table.is_file() or table.is_symlink()):
        return {}
    splits: dict[str, str] = {}
    try:
        rows = _rows(table)
    except InputError as error:
        warn(f"{error.what}; its splits, if it has any, are not used", table)
        return {}
    problems = []
    for line, row in rows:
        word = row.get("split", "")
        split = names.read_split(word)
        subject = row.get("participant_id", "").removeprefix("sub-")
        if word not in _ABSENT and not split:
            problems.append(f"line {line} has the split '{word}', not train, val or test")
        if split and splits.setdefault(subject, split) != split:
            problems.append(f"line {line} has another split of {subject}")
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        warn(f"{problems[0]}, which is not used{more}", table)
    return splits


def read_description(root: Path, *, needed: bool = True) -> dict[str, Any]:
    """The content of `dataset_description.json`, empty if there is none; unless it is `needed`, one
    that cannot be read counts as absent, with a warning."""
    path = root / DESCRIPTION
    if not (path.is_file() or path.is_symlink()):
        return {}
    return _read_json(path) if needed else _read_if_possible(path)


def read_metadata(scan: Path, root: Path) -> dict[str, Any]:
    """The metadata of a scan from all sidecars that apply to it (inheritance principle).

    A sidecar applies to every scan at or below its folder whose name has the same suffix and all
    its entities. A nearer sidecar takes precedence; in one folder, one with more entities. One
    that cannot be read is skipped, with a warning.

    Source: BIDS 1.10, common principles, "The Inheritance Principle".
    """
    entities, suffix = _parts(scan)
    merged: dict[str, Any] = {}
    folders = [folder for folder in scan.parents if folder == root or root in folder.parents]
    for folder in reversed(folders):
        parts = {sidecar: _parts(sidecar) for sidecar in folder.glob(f"*{suffix}.json")}
        holding = [one for one, (of, its) in parts.items() if its == suffix and of <= entities]
        for sidecar in sorted(holding, key=lambda one: (len(parts[one][0]), one.name)):
            merged |= _read_if_possible(sidecar)
    return merged


def sidecar_says(scan: Path, contrast: str | None) -> tuple[bool, tuple[str, ...]]:
    """What the sidecar of a NIfTI file, in a BIDS dataset all that apply to it, says: whether the
    scan is synthetic, and, by the rules for DICOM headers, what contradicts its name. One that
    cannot be read says nothing.

    Args:
        contrast: by its name.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MrbridgeWarning)
        scan = scan.absolute()
        is_root = ((folder / DESCRIPTION).is_file() for folder in scan.parents[:_LEVELS])
        root = next(compress(scan.parents, is_root), None)
        if root is not None and parse_name(scan) is not None:
            sidecar = read_metadata(scan, root)
        else:
            own = sidecar_path(scan)
            sidecar = _read_if_possible(own) if own.is_file() else {}
    marks = (str(sidecar.get(key, "")) for key in _MARKS)
    synthetic = str(sidecar.get("SyntheticData")).upper() in ("TRUE", "YES")
    synthetic = synthetic or any(map(synthetic_in, marks))
    notes = tuple(other_body_part(str(sidecar.get("BodyPartExamined") or "")))
    if contrast is None or sidecar.keys().isdisjoint(_SCANNER):
        return synthetic, notes
    found = of_sidecar(sidecar)
    # Not all state the time of an inversion, or that there is one.
    no_inversion = (contrast, found.contrast) == ("FLAIR", "T2w") or (
        (contrast, found.contrast) == ("T1w", "PDw") and "ScanningSequence" not in sidecar
    )
    if found.is_doubtful or no_inversion or (found.contrast in (None, contrast) and not found.kind):
        return synthetic, notes
    is_it = "" if found.is_other else f"it is {found.contrast}: "
    contradiction = f"its sidecar contradicts its name, {contrast}: {is_it}{found.reason}"
    return synthetic, (*notes, contradiction)


def _parts(path: Path) -> tuple[set[str], str]:
    """Entities such as `run-1`, and the suffix."""
    *entities, suffix = path.name.split(".")[0].split("_")
    return set(entities), suffix


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, with null for NaN."""
    text, encoding = _decoded(path)
    not_json: list[str] = []
    try:
        content = parse_json(text, not_json.append)
    except ValueError as error:
        raise InputError(f"is not JSON ({error})", path=path, remedy=_CORRECT) from None
    if not isinstance(content, dict):
        raise InputError("is not a JSON object", path=path, remedy=_CORRECT)
    _warn_of_encoding(path, encoding)
    if not_json:
        warn(f"holds {not_json[0]}, which JSON does not have; it is read as null", path)
    return content


def _read_if_possible(path: Path) -> dict[str, Any]:
    try:
        return _read_json(path)
    except InputError as error:
        warn(f"{error.what}; it is not used", path)
        return {}
