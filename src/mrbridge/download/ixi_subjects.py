"""What is told beside the scans of IXI: licence, citation, hospitals, ages."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mrbridge.download.files import Expected, fetch
from mrbridge.download.folder import Folder, write_citation
from mrbridge.download.http import Session
from mrbridge.errors import InputError, MrbridgeWarning
from mrbridge.io.bids_name import BIDS_VERSION
from mrbridge.io.safety import write_json, write_text

PAGE = "https://brain-development.org/ixi-dataset/"
LICENCE = "CC BY-SA 3.0"
TABLE = "IXI.xls"

_ACKNOWLEDGE = f"Please acknowledge the source of the IXI data, {PAGE}"
_TERMS = "https://creativecommons.org/licenses/by-sa/3.0/legalcode"
_COLUMNS = {
    "site": {
        "Description": "Hospital in London where the subject was scanned",
        "Levels": {
            "Guys": "Guy's Hospital, Philips 1.5 T",
            "HH": "Hammersmith Hospital, Philips 3 T",
            "IOP": "Institute of Psychiatry, GE 1.5 T",
        },
    },
    "sex": {"Description": "Sex", "Levels": {"M": "male", "F": "female"}},
    "age": {"Description": "Age when scanned", "Units": "year"},
    "height": {"Description": "Height", "Units": "cm"},
    "weight": {"Description": "Weight", "Units": "kg"},
}
_FROM_TABLE = {"sex": "SEX_ID", "age": "AGE", "height": "HEIGHT", "weight": "WEIGHT"}
_UNKNOWN = "n/a"
_README = f"""# IXI

MR images of healthy subjects, collected by the IXI project (Information eXtraction from Images) at
Guy's Hospital, Hammersmith Hospital and the Institute of Psychiatry in London. Source: {PAGE}

The files are as the site has them; only their names were changed, by `mrbridge download ixi`:
IXI002-Guys-0828-T1.nii.gz is sub-002/anat/sub-002_T1w.nii.gz.
"""


def write_description(out: Path) -> None:
    """Write what makes the folder a BIDS data set, unless it is there: description, licence,
    citation, README."""
    if (out / "README").exists():  # the last of them
        return
    write_json(
        out / "dataset_description.json",
        {
            "Name": "IXI",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "raw",
            "License": LICENCE,
            "HowToAcknowledge": _ACKNOWLEDGE,
            "Funding": ["EPSRC GR/S21533/02"],
            "ReferencesAndLinks": [PAGE],
            "GeneratedBy": [
                {
                    "Name": "mrbridge",
                    "Version": version("mrbridge"),
                    "Description": "mrbridge download ixi: the files as they are, with BIDS names",
                }
            ],
        },
    )
    write_text(
        out / "LICENSE",
        f"IXI ({PAGE})\n\nThis data is made available under the Creative Commons {LICENCE} "
        f"license\n({_TERMS}).\n{_ACKNOWLEDGE}\n",
    )
    write_citation(
        out,
        title="IXI Dataset",
        url=PAGE,
        authors=["IXI project, Imperial College London"],
        license="CC-BY-SA-3.0",
    )
    write_text(out / "README", _README)


def write_table(session: Session, folder: Folder, sites: Mapping[str, str], site: str) -> None:
    """Write participants.tsv for subjects that it does not tell of yet.

    What is there stays as it is, except for what was unknown: people add to this table.

    Args:
        session: the connections.
        folder: the data set; its record tells whether the site's own table could be read before.
        sites: hospital of each subject (three digits).
        site: the address of the folder in which the site's own table is.

    Raises:
        InputError: participants.tsv is no such table any more.
    """
    path = folder.path / "participants.tsv"
    columns, rows = _read(path)
    new = [label for label in sorted(sites) if f"sub-{label}" not in rows]
    if not new and (not rows or folder.record.get("table_read")):
        return
    people = _read_people(session, folder.path, site)
    for label in new:
        rows[f"sub-{label}"] = {"participant_id": f"sub-{label}", "site": sites[label]}
    for name, row in rows.items():
        number = name.removeprefix("sub-")
        for key, value in (people or {}).get(int(number) if number.isdecimal() else -1, {}).items():
            if row.get(key, _UNKNOWN) == _UNKNOWN:
                row[key] = value
    text = io.StringIO()
    columns = list(dict.fromkeys([*columns, "participant_id", *_COLUMNS]))
    writer = csv.DictWriter(text, columns, restval=_UNKNOWN, delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows.values())
    write_text(path, text.getvalue())
    if not (folder.path / "participants.json").exists():
        write_json(folder.path / "participants.json", _COLUMNS)
    folder.save(table_read=people is not None)


def read_people(data: bytes) -> dict[int, dict[str, str]]:
    """Sex, age, height and weight of each subject in the site's table, by number.

    Dates of birth are left out. Some subjects have several rows: what these disagree in is
    unknown, and so are heights and weights of 0.

    Raises:
        ValueError: it is not the table that is known.
    """
    import xlrd  # plain Python: compiled readers end the process on some damaged files

    try:
        book = xlrd.open_workbook(file_contents=data, logfile=io.StringIO())
        head, *rows = book.sheet_by_index(0).get_rows()
        titles = [str(cell.value) for cell in head]
        places = {key: _find(titles, title) for key, title in _FROM_TABLE.items()}
        number = _find(titles, "IXI_ID")
    except Exception as error:  # of a damaged file, xlrd also raises what Python does
        raise ValueError(str(error) or type(error).__name__) from None
    people: dict[int, dict[str, str]] = {}
    for row in rows:
        subject = row[number].value
        if not isinstance(subject, float) or not subject.is_integer():
            continue
        told = {key: _value(key, row[place].value) for key, place in places.items()}
        before = people.setdefault(int(subject), told)
        people[int(subject)] = {key: _agreed(before[key], value) for key, value in told.items()}
    return people


def _read_people(session: Session, out: Path, site: str) -> dict[int, dict[str, str]] | None:
    """The site's table; None where it cannot be had or read, which is said."""
    path = out / "sourcedata" / TABLE
    try:
        fetch(session, f"{site.rstrip('/')}/{TABLE}", path, Expected())
    except InputError as error:
        warnings.warn(f"no ages and sexes of the subjects: {error}", MrbridgeWarning, stacklevel=3)
        return None
    try:
        people = read_people(path.read_bytes())
    except ValueError as error:
        warnings.warn(
            f"{path}: no ages and sexes of the subjects, the table cannot be read ({error})",
            MrbridgeWarning,
            stacklevel=3,
        )
        return None
    path.unlink()  # it tells dates of birth
    if not any(path.parent.iterdir()):
        path.parent.rmdir()
    return people


def _find(titles: Sequence[str], wanted: str) -> int:
    for place, title in enumerate(titles):
        if title.split(" ")[0].upper() == wanted:
            return place
    raise ValueError(f"it has no column {wanted}")


def _value(key: str, cell: Any) -> str:
    if not isinstance(cell, float) or not 0 < cell < 1000:
        return _UNKNOWN
    if key == "sex":
        return {1: "M", 2: "F"}.get(int(cell), _UNKNOWN)
    return f"{cell:.2f}".rstrip("0").rstrip(".")


def _agreed(first: str, second: str) -> str:
    if _UNKNOWN in (first, second):
        return second if first == _UNKNOWN else first
    return first if first == second else _UNKNOWN


def _read(path: Path) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Columns, and rows by subject, of the table that is there."""
    if not path.is_file():
        return [], {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t", restkey="", restval=_UNKNOWN)
            rows = {row["participant_id"]: row for row in reader}
            if any("" in row for row in rows.values()):
                raise KeyError("a column without a name")
            return list(reader.fieldnames or []), rows
    except (KeyError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"is no longer a table of participants ({error})",
            path=path,
            remedy="Mend it, or move it away: it is written anew.",
        ) from None
