"""A table for `prepare` without what is certainly wrong. The source stays as it is."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from io import StringIO
from pathlib import Path

from mrbridge.errors import InputError, OutputError
from mrbridge.inspection.facts import Facts
from mrbridge.inspection.inspect import Inspection
from mrbridge.io.formats import is_dicom
from mrbridge.io.safety import write_text
from mrbridge.preparation.store import is_store
from mrbridge.urls import url_of

_COLUMNS = ("subject", "session", "contrast", "path", "split")
_HELD_OUT_FIRST = ("test", "val")


def check_table(table: Path, *, overwrite: bool = False) -> None:
    """Refuse a place where the table does not belong.

    Raises:
        OutputError: it does not end in .csv, or something lies there.
    """
    if table.suffix.lower() != ".csv":
        raise OutputError("is not a name for a table", path=table, remedy="Let it end in .csv.")
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
    """Refuse what no table can tell: it names files, one a scan.

    Raises:
        InputError: the source is a store, or holds DICOM files.
    """
    if (source / "manifest.json").is_file() and is_store(source):
        what, remedy = "a store", "Mend what the store was made of."
    elif is_dicom(source):
        what, remedy = "DICOM", "Leave out --fix, and remove what the page names."
    else:
        return
    raise InputError(f"is {what}: a table names files, one a scan", path=source, remedy=remedy)


def write_fixed(
    found: Inspection, table: Path, *, overwrite: bool = False
) -> list[tuple[str, str]]:
    """Write the table: all scans that can be read, without exact copies.

    Of copies of one contrast one stays: a held-out one where there is one, else the first. Copies
    under several contrasts all go, since nobody knows which name is right.

    Args:
        found: of files; DICOM series and stores do not fit into a table.
        table: a `.csv` file.
        overwrite: replace an earlier table.

    Returns:
        The scans that were left out, each with the reason.

    Raises:
        InputError: the inspection is not of files.
        OutputError: it cannot be written, or something lies there.
    """
    check_table(table, overwrite=overwrite)
    check_source(found.path)
    left_out = [(job.name, reason) for job, reason in found.failed]
    copies = _copies(found.facts)
    page = StringIO()
    writer = csv.writer(page, lineterminator="\n")
    writer.writerow(_COLUMNS)
    folder = table.resolve().parent
    for one in found.facts:
        scan = one.job.scan
        path = _from(folder, scan.path)
        reason = copies.get(one.name) or _why_not_a_cell(path)
        if reason:
            left_out.append((one.name, reason))
            continue
        writer.writerow(
            [scan.subject or "", scan.session or "", scan.contrast, path, scan.split or ""]
        )
    write_text(table, page.getvalue())
    return left_out


def _from(folder: Path, scan: Path) -> str:
    """A scan as a table in that folder names it: a URL where it lies at one, else relative, unless
    only the table lies at a URL."""
    path = scan.parent.resolve() / scan.name  # a file of a DataLad data set is itself a link
    return url_of(path) or (str(path) if url_of(folder) else os.path.relpath(path, folder))


def _copies(facts: list[Facts]) -> dict[str, str]:
    """Scans that go, each with the reason."""
    groups: dict[str, list[Facts]] = defaultdict(list)
    for one in facts:
        groups[one.sha256].append(one)
    result: dict[str, str] = {}
    for group in groups.values():
        if len({one.contrast for one in group}) > 1:
            result |= {one.name: "has a copy under another contrast" for one in group}
            continue
        kept = min(group, key=_rank)  # the first of those of the lowest rank
        result |= {one.name: f"is a copy of {kept.name}" for one in group if one is not kept}
    return result


def _rank(one: Facts) -> int:
    splits = one.job.splits
    return next((n for n, split in enumerate(_HELD_OUT_FIRST) if split in splits), 2)


def _why_not_a_cell(path: str) -> str | None:
    """Why a name would not come back from a table."""
    if path != path.strip() or len(path.splitlines()) > 1:
        return "has a name with spaces at its ends or line breaks"
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "has a name that is not text"
    return None
