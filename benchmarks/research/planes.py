"""What three planes are worth, by the thickness of slices: one JSON line a thickness and choice.

    python -m benchmarks.research.planes [--data ../shared/data] [--models shipped RUN …]
        [--thickness 1 2 3 4 6 8] [--out benchmarks/research/results/planes.jsonl]

The two patients of open-ms-mni at 1 mm, thicker slices as means of neighbouring ones, both
directions, scored as in `quality.py` against the real scan of the same thickness. The shipped
model saw none of them; what other models saw depends on their training. `every` is all planes with
every slice computed, not every second of close ones. Seconds are of all four translations only.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import io_orientation

from benchmarks.harness import keep_line
from benchmarks.research.quality_scores import scores_of
from benchmarks.research.quality_sets import TO, Case, patients
from mrbridge.bundle import Bundle, load_bundle
from mrbridge.inference import planes as aggregation
from mrbridge.inference.translator import Translator
from mrbridge.volume import Volume

Line = dict[str, Any]
CHOICES = ("axial", "all", "every")


def thicker(volume: Volume, times: int) -> Volume:
    """Axial slices, so many neighbours of which are averaged to one; a rest at the top goes."""
    assert volume.affine is not None
    axis = int(np.flatnonzero(io_orientation(volume.affine)[:, 0] == 2)[0])
    stack = np.moveaxis(volume.voxels.astype(np.float32), axis, 0)
    count = len(stack) // times
    means = stack[: count * times].reshape(count, times, *stack.shape[1:]).mean(axis=1)
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, axis] * (times - 1) / 2
    affine[:3, axis] *= times
    return replace(volume, voxels=np.moveaxis(means, 0, axis), affine=affine, header=None)


def thicker_case(case: Case, times: int) -> Case:
    """Scans and mask of a patient, in thicker slices."""
    scans = {contrast: thicker(scan, times) for contrast, scan in case.scans.items()}
    assert case.mask is not None
    mask = replace(case.scans["T1w"], voxels=case.mask.astype(np.float32))
    return replace(case, scans=scans, mask=thicker(mask, times).voxels > 0.5)


def line(model: str, bundle: Bundle, planes: str, cases: list[Case], thickness: int) -> Line:
    """Scores and seconds of a model with a choice of planes."""
    translator = Translator(bundle, planes="axial" if planes == "axial" else "all")
    close = aggregation.CLOSE_MM
    if planes == "every":
        aggregation.CLOSE_MM = 0.0
    began = time.monotonic()
    made = {
        (case.name, to): translator.translate(replace(case.scans[given], contrast=given), to).voxels
        for case in cases
        for given, to in zip(reversed(TO), TO, strict=True)
    }
    seconds = time.monotonic() - began
    aggregation.CLOSE_MM = close
    result = {"benchmark": "planes", "model": model, "thickness_mm": thickness, "planes": planes}
    return result | {"scores": scores_of(cases, made, "fit"), "seconds": round(seconds, 1)}


def main() -> None:
    """All thicknesses in turn, each in one plane and in three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--models", nargs="*", default=["shipped"])
    parser.add_argument("--thickness", type=int, nargs="*", default=[1, 2, 3, 4, 6, 8])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    cases = list(patients(given.data))
    for model in given.models:
        bundle = load_bundle(model)
        for thickness in given.thickness:
            thick = [thicker_case(case, thickness) for case in cases]
            for planes in CHOICES:
                keep_line(line(Path(model).name, bundle, planes, thick, thickness), given.out)


if __name__ == "__main__":
    main()
