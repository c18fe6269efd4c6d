"""The sets of `quality.py` that train nothing: scans that do not lie on one grid."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mrbridge import io
from mrbridge.bundle import load_bundle
from mrbridge.evaluation.evaluate import evaluate
from mrbridge.evaluation.settings import EvaluateSettings
from mrbridge.io import dicom
from mrbridge.preparation.brain import find_brain

SETS = ("whole-heads", "healthy-head", "healthy-brain")
_TO = ("T2w", "T1w")


def scans_apart(
    data: Path, folder: Path, of_set: str, models: list[Path | str]
) -> Iterator[dict[str, Any]]:
    """Scores of models and of the floor on scans that do not lie on one grid.

    Args:
        data: the scans.
        folder: for tables and results.
        of_set: `whole-heads` scores the patients of open-ms-raw; `healthy-head` the adult of
            adi-brain-dicom, with a floor learned on them; `healthy-brain` that adult's brain, as
            `prepare --brain auto` finds it, with a floor learned on the patients of open-ms-mni.
        models: the first one's floor is told.
    """
    rows: list[tuple[str, str, str, Path]] = []
    pattern = (
        "patient*/T[12].nii.gz" if of_set == "healthy-brain" else "patient*/study*_T[12]W.nii.gz"
    )
    patients_of = "open-ms-mni" if of_set == "healthy-brain" else "open-ms-raw"
    for path in sorted((data / patients_of).glob(pattern)):
        visit, _, contrast = path.name.split(".")[0].rpartition("_")
        rows.append((path.parent.name, visit or "1", f"{contrast[:2]}w", path.resolve()))
    if of_set != "whole-heads":
        rows += _healthy(data, folder, stripped=of_set == "healthy-brain")
    with open(folder / "table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("subject", "session", "contrast", "path"), *rows])
    settings = EvaluateSettings(cycle=False, shown_cases=0)
    for number, model in enumerate(models):
        out = folder / f"scores{number}"
        found = evaluate(model, folder / "table.csv", out=out, settings=settings)
        with open(found.out / "scores.csv", newline="") as file:
            told = [row for row in csv.DictReader(file) if row["kind"] == "fit"]
        for arm, method in (("floor", "floor"), (Path(model).name, "model")):
            if arm != "floor" or number == 0:
                by_direction = {
                    f"to {to}": _by_subject(told, method, to, of_set != "whole-heads") for to in _TO
                }
                cut = {} if arm == "floor" else {"planes": load_bundle(model).manifest.planes}
                yield {"arm": arm, **cut, "scores": by_direction}


def _healthy(data: Path, folder: Path, stripped: bool) -> Iterator[tuple[str, str, str, Path]]:
    """The rows of the adult of adi-brain-dicom, whose two series are written to `folder`."""
    listing = dicom.find_series(data / "adi-brain-dicom")
    for contrast in ("T1w", "T2w"):
        found = dicom.choose_series(listing, [contrast])
        scan = dicom.read_series(found, allow_gaps=True)  # each lacks a slice
        if stripped:
            brain = find_brain(scan, "auto")
            scan = replace(scan, voxels=np.where(brain, scan.voxels, 0).astype(scan.voxels.dtype))
        path = (folder / f"adi_{contrast}.nii.gz").resolve()
        yield "adi", "1", contrast, io.write(scan, path)


def _by_subject(
    rows: list[dict[str, str]], method: str, to: str, healthy: bool
) -> dict[str, list[float]]:
    """PSNR and SSIM of each subject, a mean over its visits, and the mean over subjects."""
    each = {
        subject: np.mean(
            [
                [float(row["psnr"]), float(row["ssim"])]
                for row in rows
                if (row["subject"], row["method"]) == (subject, method)
                and row["direction"].endswith(f"to_{to}")
            ],
            axis=0,
        )
        for subject in sorted({row["subject"] for row in rows})
        if (subject == "adi") == healthy
    }
    told = {"mean": np.mean(list(each.values()), axis=0)} | each
    return {name: [round(float(value), 3) for value in pair] for name, pair in told.items()}
