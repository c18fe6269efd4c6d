"""Scores of a model of four contrasts on real scans, by what it is given.

    python -m benchmarks.research.four_gate --model shipped [--data ../shared/data]
        [--sets ms met110 slices] [--to FLAIR T1w T2w] [--pictures DIR]

One JSON line a set and direction: PSNR (dB) and SSIM of kind `fit` inside the brain, mean over the
cases; `curve` is the best monotone intensity curve of a single input, fitted on the very pair that
it is scored on. To FLAIR in `ms`, `lesions` counts the expert lesions that are kept (same sign, at
least half the real contrast) of those that the real FLAIR shows, and `fluid` is the mean of the
ventricles over that of white matter, in the real scan and in the synthetic one. `uncertainty`,
where the direction is calibrated: coverage of the nominal 90 %, AUROC for the worst 5 % of errors
(and of the first scan's gradient), AUSE.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.research.gate import calibration, scored
from benchmarks.research.quality_sets import PATIENTS, Case
from mrbridge import io, metrics
from mrbridge.evaluation.lesions import measure_lesions
from mrbridge.inference.translator import Translator
from mrbridge.volume import Volume

FILES = {"T1w": "T1", "T2w": "T2", "FLAIR": "FLAIR"}


def _case(name: str, pattern: str) -> Case:
    scans = {}
    for contrast, file in FILES.items():
        volume = io.read(Path(pattern.format(file)))
        scans[contrast] = Volume(volume.voxels, volume.affine, contrast=contrast)
    mask = np.logical_and.reduce([scan.voxels > 0 for scan in scans.values()])
    return Case(name, scans, mask)


def cases(data: Path) -> dict[str, list[Case]]:
    """The people of each set who have all three contrasts in register."""
    ms, tumours = data / "open-ms-mni", data / "tumour-dev"
    return {
        "ms": [_case(name, str(ms / name / "{}.nii.gz")) for name in PATIENTS],
        "met110": [_case("met110", str(tumours / "met110" / "{}.nii.gz"))],
        "slices": [
            _case(f"hg{n}", str(tumours / "slices" / f"hg{n}-{{}}.nii.gz")) for n in range(1, 5)
        ],
    }


def directions(to: list[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each contrast from each subset of the others."""
    for target in to:
        others = [contrast for contrast in FILES if contrast != target]
        for count in range(1, len(others) + 1):
            for given in combinations(others, count):
                yield given, target


def curve(case: Case, source: str, to: str) -> list[float]:
    """Scores of the best monotone curve of this pair, rising or falling."""
    given, real = (metrics.scaled(case.scans[c].voxels, case.mask) for c in (source, to))
    best = []
    for image in (given, given.max() - given):
        fitted = metrics.fit_monotone(image[case.mask], real[case.mask])
        best.append(scored(case, fitted.apply(image), to))
    return max(best)


def lesions(case: Case, made: NDArray[Any], source: NDArray[Any], expert: NDArray[Any]) -> Any:
    """How many of the expert lesions that the real FLAIR shows the synthetic one keeps."""
    inside = case.mask
    assert inside is not None
    scan = case.scans["FLAIR"]
    assert scan.spacing is not None
    real, synthetic, given = (metrics.scaled(x, inside) for x in (scan.voxels, made, source))
    fluid = metrics.scaled(case.scans["T2w"].voxels, inside) > 0.75
    usable = inside & ~fluid
    found, _ = measure_lesions(expert > 0, real, synthetic, given, usable, scan.spacing)
    shown = [one for one in found if one.outcome != "not_shown"]
    kept = sum(one.outcome == "kept" for one in shown)
    return {"shown": len(shown), "kept": kept}


def fluid(case: Case, image: NDArray[Any]) -> float:
    """Mean of deep fluid over that of white matter."""
    t1w, t2w = (metrics.scaled(case.scans[c].voxels, case.mask) for c in ("T1w", "T2w"))
    assert case.mask is not None
    deep = ndimage.binary_erosion((t2w > 0.75) & case.mask, iterations=2)
    white = (t1w > np.quantile(t1w[case.mask], 0.75)) & (t2w < 0.5) & case.mask
    return round(float(image[deep].mean() / image[white].mean()), 3)


def main() -> None:
    """Score, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="shipped")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", default=["ms", "met110", "slices"])
    parser.add_argument("--to", nargs="+", choices=list(FILES), default=["FLAIR", "T2w", "T1w"])
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    translator = Translator(options.model)
    for name, of_set in cases(options.data).items():
        if name not in options.sets:
            continue
        for given, to in directions(options.to):
            line: dict[str, Any] = {"set": name, "given": "+".join(given), "to": to}
            scores, curves = [], []
            for case in of_set:
                first, *rest = given
                also = {contrast: case.scans[contrast] for contrast in rest}
                has_map = translator.knows_uncertainty(translator.bundle.direction(given, to))
                made = translator.translate(case.scans[first], to, also=also, uncertainty=has_map)
                if has_map:
                    found = calibration(case, made, to, first)
                    line.setdefault("uncertainty", {})[case.name] = found
                scores.append(scored(case, made.voxels, to))
                curves.append(max(curve(case, contrast, to) for contrast in given))
                if name == "ms" and to == "FLAIR":
                    expert = io.read(options.data / "open-ms-mni" / case.name / "lesions.nii.gz")
                    kept = lesions(case, made.voxels, case.scans[first].voxels, expert.voxels)
                    line.setdefault("lesions", {})[case.name] = kept
                    images = (case.scans[to].voxels, made.voxels)
                    line.setdefault("fluid", {})[case.name] = [fluid(case, x) for x in images]
                if options.pictures:
                    options.pictures.mkdir(parents=True, exist_ok=True)
                    place = options.pictures / f"{case.name}_{'-'.join(given)}_{to}.nii.gz"
                    io.write(Volume(made.voxels, made.affine), place)
            line["scores"] = np.mean(scores, axis=0).round(3).tolist()
            line["curve"] = np.mean(curves, axis=0).round(3).tolist()
            line["by case"] = dict(zip([case.name for case in of_set], scores, strict=True))
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
