"""Metadata of IXI: licence, citation, README and the table of participants."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrbridge.download.folder import Folder, write_citation
from mrbridge.download.http import Session, Stream
from mrbridge.errors import InputError, MrbridgeWarning
from mrbridge.io.atomic import write_json, write_text
from mrbridge.io.bids_name import BIDS_VERSION

if TYPE_CHECKING:
    import pandas as pd

LICENCE = "CC BY-SA 3.0"
TABLE = "IXI.xls"

_PAGE = "https://brain-development.org/ixi-dataset/"
_ACKNOWLEDGE = f"Please acknowledge the source of the IXI data, {_PAGE}"
_MAX_TABLE = 1 << 24  # bytes
_UNKNOWN = "n/a"
_COLUMNS: dict[str, dict[str, Any]] = {
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
_TITLES = {"IXI_ID": "id", "SEX_ID": "sex", "AGE": "age", "HEIGHT": "height", "WEIGHT": "weight"}
_README = f"""# IXI

MR images of healthy subjects, acquired by the IXI project (Information eXtraction from Images) at
Guy's Hospital, Hammersmith Hospital and the Institute of Psychiatry in London. Source: {_PAGE}

`mrbridge download ixi` changed only the names of the files:
IXI002-Guys-0828-T1.nii.gz is sub-002/anat/sub-002_T1w.nii.gz.
"""


def write_description(out: Path) -> None:
    """Write what makes the folder a BIDS data set, unless it exists."""
    if (out / "README").exists():  # the last of the files below
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
            "ReferencesAndLinks": [_PAGE],
            "GeneratedBy": [
                {
                    "Name": "mrbridge",
                    "Version": version("mrbridge"),
                    "Description": "mrbridge download ixi: unchanged files with BIDS names",
                }
            ],
        },
    )
    write_text(
        out / "LICENSE",
        f"IXI ({_PAGE})\n\nThis data is made available under the Creative Commons {LICENCE} "
        f"license\n(https://creativecommons.org/licenses/by-sa/3.0/legalcode).\n{_ACKNOWLEDGE}\n",
    )
    write_citation(
        out,
        title="IXI Dataset",
        url=_PAGE,
        authors=["IXI project, Imperial College London"],
        license="CC-BY-SA-3.0",
    )
    write_text(out / "README", _README)


def write_participants(
    session: Session, folder: Folder, hospitals: Mapping[str, str], site: str
) -> None:
    """Add new subjects to `participants.tsv`, and what was unknown of the others.

    Everything else in the table stays: users add columns to it.

    Args:
        session: the connections.
        folder: the data set.
        hospitals: of each subject (three digits).
        site: address of the folder with the site's own table.

    Raises:
        InputError: the file is not a table of participants.
    """
    import pandas as pd

    path = folder.path / "participants.tsv"
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
        columns=list(dict.fromkeys([*old.columns, *_COLUMNS])),
    )
    write_text(path, table.astype(object).fillna(_UNKNOWN).to_csv(sep="\t", lineterminator="\n"))
    if not (folder.path / "participants.json").exists():
        write_json(folder.path / "participants.json", _COLUMNS)
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
