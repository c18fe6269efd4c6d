"""Tables of scans, and the text files of a data set."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Literal

from mrbridge.errors import InputError, MrbridgeWarning
from mrbridge.io import names
from mrbridge.io.contrast import of_path, of_text
from mrbridge.io.remote import fetch, path_in_table
from mrbridge.io.scans import FoundScans, Scan
from mrbridge.json_text import decode
from mrbridge.urls import shown

__all__ = ["participant_splits", "read_text", "scans_of_table", "warn_of"]

_COLUMNS = ("subject", "session", "contrast", "path")


def scans_of_table(table: Path, *, force: bool = False) -> FoundScans:
    found = FoundScans([])
    for line, row in _rows(table):
        missing = [key for key in ("contrast", "path") if not row.get(key)]
        if missing:
            raise InputError(
                f"line {line} has no {' and no '.join(missing)}",
                path=table,
                remedy=f"The columns are {', '.join(_COLUMNS)} and optionally split.",
            )
        path = path_in_table(row["path"], table.parent)
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
    text = read_text(table)
    head = text.partition("\n")[0]
    separator = max(",;\t", key=head.count)
    # In BIDS, and in most tables with tabs, a quotation mark is a character like others.
    quoting: Literal[0, 3] = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    lines = text.splitlines()
    try:
        table_rows = list(csv.DictReader(lines, delimiter=separator, quoting=quoting))
    except csv.Error as error:
        raise InputError(
            f"is not a table ({error})", path=table, remedy="Check its quotes."
        ) from None
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


def read_text(file: Path) -> str:
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
        warn_of(file, f"is not UTF-8; it is read as {encoding}")
    return text


def warn_of(file: Path, what: str) -> None:
    warnings.warn(f"{shown(file)}: {what}", MrbridgeWarning, stacklevel=3)


def participant_splits(table: Path) -> dict[str, str]:
    if not (table.is_file() or table.is_symlink()):
        return {}
    splits = {}
    try:
        rows = _rows(table)
    except InputError as error:
        warn_of(table, f"{error.what}; its splits, if it has any, are not used")
        return {}
    for _, row in rows:
        split = names.read_split(row.get("split", ""))
        if split:
            splits[row.get("participant_id", "").removeprefix("sub-")] = split
    return splits
