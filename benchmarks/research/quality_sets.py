"""What `quality.py` trains on and what it scores: the scans of its sets."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from mrbridge import io
from mrbridge.dataset.prepare import prepare
from mrbridge.dataset.store import Store
from mrbridge.preprocessing.resample import to_image
from mrbridge.volume import Volume

TO = ("T2w", "T1w")
PATIENTS = ("patient07", "patient19")
Row = tuple[str, str, Path, str]  # subject, contrast, scan, split


_MESH_MM = 40.0
"""Between control points on the first level; half of it on the second."""

_LEVELS_MM = (4.0, 2.0)
"""Between the voxels that are looked at; half of it is the blur's deviation."""

_SAMPLES = 100_000
"""Voxels at which the information is measured, at most."""


@dataclass(frozen=True)
class Case:
    """A pair of scans that is scored.

    Attributes:
        name: of the subject or slice.
        scans: by contrast.
        mask: where it counts; None: everywhere.
    """

    name: str
    scans: dict[str, Volume]
    mask: NDArray[np.bool_] | None


Pictures = tuple[list[Case], list[Path]]
"""What is scored, and the folders of T1w and T2w to train on."""


def patients(data: Path) -> Iterator[Case]:
    """Both patients, inside their brains."""
    for name in PATIENTS:
        folder = data / "open-ms-mni" / name
        scans = {f"{c}w": io.read(folder / f"{c}.nii.gz") for c in ("T1", "T2")}
        mask = (scans["T1w"].voxels > 0) & (scans["T2w"].voxels > 0)
        yield Case(name, scans, mask)


def hidden_pairs(data: Path, _: Path) -> Pictures:
    """The pairs of seed-png, as its README lists them."""
    folders = [data / "seed-png" / f"Train{contrast}" for contrast in ("T1", "T2")]
    found = [
        {int(re.findall(r"\d+", path.name)[-1]): path for path in folder.glob("*.png")}
        for folder in folders
    ]
    cases = []
    for number, path in sorted(found[0].items()):
        partner = found[1][number + (60 if number <= 40 else 70)]
        scans = {c: io.read(p) for c, p in (("T1w", path), ("T2w", partner))}
        cases.append(Case(f"slice {number}", scans, None))
    return cases, folders


def sliced(data: Path, folder: Path) -> Pictures:
    """Every other axial slice of patient07 (open-ms-mni) as a picture, 8 bit.

    Of a random order the first 40 of 50 are written to `folder/T1w` and the last 40 to
    `folder/T2w`, with new numbers: 30 have a partner, which the names do not show, 20 have none.

    Returns:
        All 50, whether their partner can be found or not, and the two folders.
    """
    pictures = {}
    for contrast in TO:
        slices = io.read(_scan(data, PATIENTS[0], contrast)).voxels[:, :, 40:140:2]
        bright = slices * (255 / np.percentile(slices[slices > 0], 99.9))
        # The grid is LAS: the front of the head comes to the top.
        upright = bright.round().clip(0, 255).astype(np.uint8).transpose(1, 0, 2)[::-1]
        pictures[contrast] = [
            Volume(np.ascontiguousarray(upright[:, :, n, None]), None) for n in range(50)
        ]
    rng = np.random.default_rng(0)
    order = rng.permutation(50)
    for contrast, shown in (("T1w", order[:40]), ("T2w", order[10:])):
        (folder / contrast).mkdir(parents=True, exist_ok=True)
        for number, place in enumerate(rng.permutation(shown)):
            io.write(pictures[contrast][place], folder / contrast / f"slice{number:02}.png")
    cases = [Case(f"slice {n}", {c: pictures[c][n] for c in TO}, None) for n in range(50)]
    return cases, [folder / "T1w", folder / "T2w"]


PICTURES: dict[str, Callable[[Path, Path], Pictures]] = {
    "seed-png": hidden_pairs,
    "mni-slices": sliced,
}
"""Sets of pictures: from the scans, and a folder for pictures that have to be made."""


def heads_store(data: Path, folder: Path, same_patient: bool) -> Store:
    """A visit's T1w of patient01 (open-ms-raw) and a visit's T2w of patient04, whole heads, or
    with `same_patient` another visit's of patient01."""
    visits = (
        ("patient01", "study2", "T1w"),
        ("patient01" if same_patient else "patient04", "study1", "T2w"),
    )
    rows: list[Row] = [
        (who, c, data / "open-ms-raw" / who / f"{visit}_{c.upper()}.nii.gz", "train")
        for who, visit, c in visits
    ]
    return _prepared(folder, rows)


def alone_store(data: Path, folder: Path) -> Store:
    """Both scans of patient07 (open-ms-mni), in which no training looks for pairs: the subject is
    one."""
    rows: list[Row] = [(PATIENTS[0], c, _scan(data, PATIENTS[0], c), "train") for c in TO]
    return _prepared(folder, rows)


def patients_store(data: Path, folder: Path, swapped: bool) -> Store:
    """T1w of one patient and T2w of the other to train, the pairs of both to validate.

    Validation scores are reported, and nothing is chosen by them.
    """
    source, target = PATIENTS[::-1] if swapped else PATIENTS
    rows = [
        ("source", "T1w", _scan(data, source, "T1w"), "train"),
        ("target", "T2w", _scan(data, target, "T2w"), "train"),
    ]
    return _prepared(folder, rows + _held_out(data))


def pseudo_pairs_store(data: Path, folder: Path, swapped: bool) -> Store:
    """The same scans to train, each with the other patient's bent onto it for its partner."""
    names = dict(zip(TO[::-1], PATIENTS[::-1] if swapped else PATIENTS, strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for fixed, moving in (("T1w", "T2w"), ("T2w", "T1w")):
        onto = _scan(data, names[fixed], fixed)
        made = folder / f"{names[moving]}_on_{names[fixed]}_{moving}.nii.gz"
        io.write(bent(io.read(_scan(data, names[moving], moving)), io.read(onto)), made)
        rows += [(fixed, fixed, onto, "train"), (fixed, moving, made, "train")]
    return _prepared(folder, rows + _held_out(data))


def pairs_store(data: Path, folder: Path, scored: str) -> Store:
    """The pair of the patient that is not `scored` to train, that of the other to validate."""
    rows = [
        (patient, contrast, _scan(data, patient, contrast), "val" if patient == scored else "train")
        for patient in PATIENTS
        for contrast in TO
    ]
    folder.mkdir(parents=True, exist_ok=True)
    return _prepared(folder, rows)


def _held_out(data: Path) -> list[Row]:
    return [
        (f"held{n}", contrast, _scan(data, patient, contrast), "val")
        for n, patient in enumerate(PATIENTS)
        for contrast in TO
    ]


def _scan(data: Path, patient: str, contrast: str) -> Path:
    return data / "open-ms-mni" / patient / f"{contrast.removesuffix('w')}.nii.gz"


def _prepared(folder: Path, rows: list[Row]) -> Store:
    """A store of these scans."""
    with open(folder / "table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("subject", "session", "contrast", "path", "split"))
        for subject, contrast, path, split in rows:
            writer.writerow((subject, "1", contrast, path.resolve(), split))
    return prepare(folder / "table.csv", folder / "store")


def bent(moving: Volume, fixed: Volume, seed: int = 0) -> Volume:
    """What `moving` shows, where the same lies in `fixed`, another person of another contrast.

    Free-form deformation by cubic B-splines (Rueckert et al. 1999, doi:10.1109/42.796284) that
    maximises mutual information (Mattes et al. 2003, doi:10.1109/TMI.2003.809072), coarse to fine.

    Args:
        moving, fixed: skull-stripped, zero around, in one space (such as MNI's).
        seed: of the voxels at which the information is measured.

    Returns:
        float32 on the grid of `fixed`, and zero where that is.
    """
    onto, image = (
        to_image(replace(v, voxels=v.voxels.astype(np.float32))) for v in (fixed, moving)
    )
    sizes = zip(onto.GetSize(), onto.GetSpacing(), strict=True)
    mesh = [max(1, round(count * step / _MESH_MM)) for count, step in sizes]
    finest = min(onto.GetSpacing())
    shrinks = [max(1, round(level / finest)) for level in _LEVELS_MM]
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    shares = [min(1.0, _SAMPLES * shrink**3 / fixed.voxels.size) for shrink in shrinks]
    method.SetMetricSamplingPercentagePerLevel(shares, seed + 1)  # 0 would take the clock
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel(shrinks)
    method.SetSmoothingSigmasPerLevel([level / 2 for level in _LEVELS_MM])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetOptimizerAsLBFGS2(numberOfIterations=30, deltaConvergenceTolerance=1e-4)
    start = sitk.BSplineTransformInitializer(onto, mesh)
    method.SetInitialTransformAsBSpline(start, True, [1, 2])
    found = method.Execute(onto, image)
    resampled = sitk.GetArrayFromImage(sitk.Resample(image, onto, found, sitk.sitkLinear, 0.0)).T
    voxels = np.where(fixed.voxels != 0, resampled, 0).astype(np.float32)
    return replace(moving, voxels=voxels, affine=fixed.affine, header=None)
