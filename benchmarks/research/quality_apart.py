"""The sets of `quality.py` whose scans do not lie on one grid."""

from __future__ import annotations

import csv
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.research.quality_sets import TO
from mrbridge import io
from mrbridge.errors import SomeScansFailed
from mrbridge.evaluation.evaluate import evaluate
from mrbridge.evaluation.settings import EvaluateSettings
from mrbridge.io import dicom
from mrbridge.preprocessing.foreground import Head
from mrbridge.preprocessing.skull_strip import find_brain

SETS = ("whole-heads", "stranger-head", "healthy-head", "other-brains")
_APART = "apart"  # a subject that several people are, so that none's floor is learned on another
_VISIT = "visit"
_SCORED_ALONE = {"healthy-head": "adi", "stranger-head": "patient04"}

Row = tuple[str, str, str, Path]  # subject, session, contrast, scan


def table_apart(data: Path, folder: Path, of_set: str) -> Path:
    """The scans of a set, as a table that `evaluate` reads.

    Args:
        data: the scans.
        folder: for the table, and for scans that have to be made.
        of_set: `whole-heads` scores the patients of open-ms-raw; `healthy-head` the adult of
            adi-brain-dicom, with a floor learned on them; `other-brains` the brains of all three,
            as `prepare --brain auto` finds them, with a floor learned on the patients of
            open-ms-mni.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = _patients(data)
    if of_set not in ("whole-heads", "stranger-head"):
        rows += _adult(data, folder)
    if of_set == "other-brains":
        rows = _teachers(data) + _brains(rows, folder)
    with open(folder / "table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("subject", "session", "contrast", "path"), *rows])
    return folder / "table.csv"


def scores_apart(
    table: Path, of_set: str, model: Path | str, method: str = "model"
) -> dict[str, Any]:
    """Mean scores by direction: of the people that a set scores, and of each.

    Args:
        table: of `table_apart`.
        of_set: its set.
        model: what translates.
        method: `model`, or `floor`.
    """
    settings = EvaluateSettings(cycle=False, shown_cases=0)
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "scores"
        try:
            evaluate(model, table, out=out, settings=settings)
        except SomeScansFailed as error:  # such as two brains that could not be brought together
            print(error)
        with open(out / "scores.csv", newline="") as file:
            told = [row for row in csv.DictReader(file) if row["kind"] == "fit"]
    of_method = [row for row in told if row["method"] == method]
    return {f"to {to}": _by_person(of_method, to, of_set) for to in TO}


def _teachers(data: Path) -> list[Row]:
    """The patients of open-ms-mni."""
    return [
        (path.parent.name, "1", f"{path.name[:2]}w", path.resolve())
        for path in sorted((data / "open-ms-mni").glob("patient*/T[12].nii.gz"))
    ]


def _patients(data: Path) -> list[Row]:
    """The visits of the patients of open-ms-raw."""
    rows = []
    for path in sorted((data / "open-ms-raw").glob("patient*/study*_T[12]W.nii.gz")):
        visit, contrast = path.name.split(".")[0].split("_")
        rows.append((path.parent.name, visit, f"{contrast[:2]}w", path.resolve()))
    return rows


def _adult(data: Path, folder: Path) -> list[Row]:
    """The adult of adi-brain-dicom, whose two series are written to `folder`."""
    listing = dicom.find_series(data / "adi-brain-dicom")
    rows = []
    for contrast in ("T1w", "T2w"):
        found = dicom.choose_series(listing, [contrast])
        scan = dicom.read_series(found, allow_gaps=True)  # each lacks a slice
        path = (folder / f"adi_{contrast}.nii.gz").resolve()
        rows.append(("adi", "1", contrast, io.write(scan, path)))
    return rows


def _brains(rows: list[Row], folder: Path) -> list[Row]:
    """These heads, skull-stripped, written to `folder`, as sessions of one subject."""
    made = []
    for person, visit, contrast, path in rows:
        scan = io.read(path)
        inside = find_brain(Head(scan), "auto")
        brain = replace(scan, voxels=np.where(inside, scan.voxels, 0).astype(scan.voxels.dtype))
        out = (folder / f"{person}_{visit}_brain_{contrast}.nii.gz").resolve()
        made.append((_APART, f"{person}{_VISIT}{visit}", contrast, io.write(brain, out)))
    return made


def _by_person(rows: list[dict[str, str]], to: str, of_set: str) -> dict[str, list[float]]:
    """PSNR and SSIM of each person that a set scores, a mean over its visits, and their mean."""
    by_person: dict[str, list[list[float]]] = {}
    for row in sorted(rows, key=lambda row: row["case"]):
        person = row["subject"]
        if person == _APART:
            person = row["case"].removeprefix(f"{_APART}_").split(_VISIT)[0]
        elif of_set == "other-brains" or person != _SCORED_ALONE.get(of_set, person):
            continue  # only a teacher, of floors or of models
        if row["direction"].endswith(f"to_{to}"):
            by_person.setdefault(person, []).append([float(row["psnr"]), float(row["ssim"])])
    each = {person: np.mean(told, axis=0) for person, told in by_person.items()}
    told = {"mean": np.mean(list(each.values()), axis=0)} | each
    return {name: [round(float(value), 3) for value in pair] for name, pair in told.items()}
