"""The table of `--fix`: the scans for `prepare`, without copies and unreadable scans."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from mrbridge.errors import InputError, OutputError
from mrbridge.inspection.checks.duplicates import exact_copies
from mrbridge.inspection.facts import Facts
from mrbridge.inspection.headers import holds_store
from mrbridge.io.atomic import write_text
from mrbridge.io.formats import is_dicom
from mrbridge.urls import url_of

if TYPE_CHECKING:
    from mrbridge.inspection.inspect import Inspection

_COLUMNS = ("subject", "session", "contrast", "path", "split")
_PREFERENCE = ("test", "val")  # splits whose copy is kept; then the first


def check_table(table: Path, *, overwrite: bool = False) -> None:
    """Refuse to write a table in the place of another file.

    Raises:
        OutputError: the name does not end in .csv, or something exists there.
    """
    if table.suffix.lower() != ".csv":
        raise OutputError("is not the name of a table", path=table, remedy="Use a name with .csv.")
    if table.is_file() and overwrite:
        with open(table, encoding="utf-8", errors="replace") as file:
            if file.readline().strip() != ",".join(_COLUMNS):
                raise OutputError(
                    "is not a table of mrbridge inspect", path=table, remedy="Name a new file."
                )
    elif table.exists():
        remedy = "Name a new file, or replace it with --overwrite."
        raise OutputError("exists", path=table, remedy=remedy)


def check_source(source: Path) -> None:
    """Refuse sources that a table cannot describe, because its rows name files.

    Raises:
        InputError: the source is a store, or holds DICOM files.
    """
    if holds_store(source):
        what, remedy = "a store", "Correct the data from which the store was prepared."
    elif is_dicom(source):
        what, remedy = "DICOM", "Leave out --fix, and remove the series that the report names."
    else:
        return
    raise InputError(f"is {what}, but a table lists files", path=source, remedy=remedy)


def write_table(
    result: Inspection, table: Path, *, overwrite: bool = False
) -> list[tuple[str, str]]:
    """Write all scans that can be read, without exact copies.

    Of copies of one contrast one is kept: a held-out one if there is one, else the first. Copies
    under several contrasts are all left out, because the right label is unknown.

    Args:
        result: of files.
        table: a `.csv` file.
        overwrite: replace an existing table.

    Returns:
        The scans that were left out, each with the reason.

    Raises:
        OutputError: it cannot be written, or something exists there by now.
    """
    check_table(table, overwrite=overwrite)
    left_out = [(entry.name, reason) for entry, reason in result.failed]
    copies = _copies(result.facts)
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    folder = table.resolve().parent
    for one in result.facts:
        scan = one.entry.scan
        path = _relative(folder, scan.path)
        reason = copies.get(one.name) or _why_not_a_cell(path)
        if reason:
            left_out.append((one.name, reason))
        else:
            row = [one.subject or "", one.session or "", one.contrast, path, scan.split or ""]
            writer.writerow(row)
    write_text(table, text.getvalue())
    return left_out


def _relative(folder: Path, scan: Path) -> str:
    """A scan in a table of the folder: a URL, or a path relative to the folder; an absolute path if
    only the table is at a URL."""
    path = scan.parent.resolve() / scan.name  # files of a DataLad dataset are links themselves
    return url_of(path) or (str(path) if url_of(folder) else os.path.relpath(path, folder))


def _copies(facts: Sequence[Facts]) -> dict[str, str]:
    """The copies to leave out, each with the reason."""
    reasons: dict[str, str] = {}
    for group in exact_copies(facts):
        if len({one.contrast for one in group}) > 1:
            reasons |= {one.name: "has a copy under another contrast" for one in group}
            continue
        kept = min(group, key=_rank)  # the first of the lowest rank
        reasons |= {one.name: f"is a copy of {kept.name}" for one in group if one is not kept}
    return reasons


def _rank(one: Facts) -> int:
    return next((n for n, split in enumerate(_PREFERENCE) if split in one.entry.splits), 2)


def _why_not_a_cell(path: str) -> str | None:
    """Why a table cannot hold this name; None if it can."""
    if path != path.strip() or len(path.splitlines()) > 1:
        return "has a name with spaces at its ends or line breaks"
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "has a name that is not text"
    return None
