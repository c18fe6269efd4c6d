"""Scores of models and of curves for `quality.py`.

Of cases whose scans share a grid; and, by `evaluate`, of sets whose scans must be registered.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.research.quality_sets import TO, Case
from mrbridge import io, metrics
from mrbridge.errors import SomeScansFailed
from mrbridge.evaluation.evaluate import evaluate
from mrbridge.evaluation.settings import EvaluateSettings
from mrbridge.inference.translator import Translator
from mrbridge.io import dicom
from mrbridge.preprocessing.foreground import Head
from mrbridge.preprocessing.skull_strip import find_brain

REGISTERED = ("whole-heads", "stranger-head", "healthy-head", "other-brains")
_APART = "apart"  # a subject that several people are, so that none's floor is learned on another
_VISIT = "visit"
_SCORED_ALONE = {"healthy-head": "adi", "stranger-head": "patient04"}

Row = tuple[str, str, str, Path]  # subject, session, contrast, scan


def scores(cases: list[Case], model: Path | str, kind: str) -> dict[str, Any]:
    """PSNR and SSIM by direction: of each case and their mean."""
    translator = Translator(model)
    made = {
        (case.name, to): translator.translate(replace(case.scans[given], contrast=given), to)
        for case in cases
        for given, to in (("T1w", "T2w"), ("T2w", "T1w"))
    }
    return scores_of(cases, {key: volume.voxels for key, volume in made.items()}, kind)


def floor(cases: list[Case], kind: str, any_shape: bool = False) -> dict[str, Any]:
    """The best rising or falling curve, or one of any shape, learned on the pairs of the others."""
    made = {}
    for case in cases:
        others = [other for other in cases if other is not case]
        for given, to in (("T1w", "T2w"), ("T2w", "T1w")):
            parts = [
                [metrics.scaled(other.scans[c].voxels, other.mask) for c in (given, to)]
                for other in others
            ]
            insides = [
                np.ones(p[0].shape, bool) if o.mask is None else o.mask
                for p, o in zip(parts, others, strict=True)
            ]
            values = [
                np.concatenate(
                    [part[side][inside] for part, inside in zip(parts, insides, strict=True)]
                )
                for side in (0, 1)
            ]
            curve = _any_curve(*values) if any_shape else metrics.fit_monotone(*values).apply
            made[case.name, to] = curve(metrics.scaled(case.scans[given].voxels, case.mask))
    return scores_of(cases, made, kind)


def _any_curve(x: NDArray[Any], y: NDArray[Any]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """The mean of `y` by `x`, in 64 bins of equal numbers, straight lines between their middles."""
    edges = np.unique(np.quantile(x, np.linspace(0, 1, 65)[:-1]))
    which = np.searchsorted(edges, x, side="right") - 1
    sums = np.stack([np.bincount(which, values) for values in (np.ones_like(x), x, y)])
    counts, sums_x, sums_y = sums[:, sums[0] > 0]  # many equal values may leave a bin empty
    return lambda x: np.interp(x, sums_x / counts, sums_y / counts)


def scores_of(cases: list[Case], made: dict[tuple[str, str], Any], kind: str) -> dict[str, Any]:
    """PSNR and SSIM by direction of what was made, by case and contrast, and their mean."""
    result: dict[str, Any] = {}
    for to in TO:
        each = {}
        for case in cases:
            real, synthetic = case.scans[to].voxels, made[case.name, to]
            found = metrics.scores(real, synthetic, case.mask)[kind]
            each[case.name] = [round(found["psnr"], 2), round(found["ssim"], 3)]
        mean = np.mean(list(each.values()), axis=0)
        result[f"to {to}"] = {"mean": [round(float(m), 3) for m in mean]}
        if len(each) <= 4:
            result[f"to {to}"] |= each
    return result


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Scores of all cases from those of single ones."""
    result = {}
    for to in parts[0]:
        each = {name: got for part in parts for name, got in part[to].items() if name != "mean"}
        mean = np.mean(list(each.values()), axis=0)
        result[to] = {"mean": [round(float(m), 3) for m in mean]} | each
    return result


def registered_table(data: Path, folder: Path, of_set: str) -> Path:
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


def registered_scores(
    table: Path, of_set: str, model: Path | str, method: str = "model"
) -> dict[str, Any]:
    """Mean scores by direction: of the people that a set scores, and of each.

    Args:
        table: of `registered_table`.
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
            rows = [row for row in csv.DictReader(file) if row["kind"] == "fit"]
    of_method = [row for row in rows if row["method"] == method]
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
    each = {person: np.mean(visits, axis=0) for person, visits in by_person.items()}
    means = {"mean": np.mean(list(each.values()), axis=0)} | each
    return {name: [round(float(value), 3) for value in pair] for name, pair in means.items()}
