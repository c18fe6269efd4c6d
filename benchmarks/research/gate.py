"""Scores of models on the development pairs, next to the best curve of each pair.

    python -m benchmarks.research.gate --models shipped DIR/bundle … [--data ../shared/data]
        [--sets ms met110 slices] [--pictures DIR] [--people 8] [--every-slice]

One JSON line a model: PSNR (dB) and SSIM of kind `fit` inside the brain, by set and direction: the
mean, and by case. `curve` is the best monotone intensity curve, fitted on the very pair that it is
scored on: no model sees the answer, the curve does. `cyst` is the contrast of the cyst of met110 to
white matter in T2w, each scan scaled as for `fit`: of the real scan and of the synthetic one.

`uncertainty`, of models that have maps: coverage of the nominal 90 %, AUROC for the worst 5 % of
errors (and of the source's gradient), AUSE.

`lesions`: of simulated people of held-out anatomies (label maps 17 to 20), how many lesions over
0.5 ml that T1w shows have the right sign against a ring of 3 mm in the synthetic T2w, and how many
have at least half of the real contrast.

With `--every-slice`, networks compute every slice of close ones, and not every second.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.research.quality_sets import TO, Case, patients
from benchmarks.research.uncertainty import people, quality
from mrbridge import io, metrics
from mrbridge.evaluation.calibration import gradient_size
from mrbridge.inference import planes
from mrbridge.inference.translator import Translator
from mrbridge.phantom.subjects import VariedSubject
from mrbridge.volume import Volume

VISIBLE = 0.05  # contrast to the ring, a share of the 99.5th percentile
OTHER = {"T1w": "T2w", "T2w": "T1w"}


def _pair(name: str, first: Path, second: Path) -> Case:
    scans = {"T1w": io.read(first), "T2w": io.read(second)}
    mask = np.logical_and(*(scan.voxels > 0 for scan in scans.values()))
    return Case(name, scans, mask)


def met110(data: Path) -> Iterator[Case]:
    """The patient with a metastasis."""
    folder = data / "tumour-dev" / "met110"
    yield _pair("met110", folder / "T1.nii.gz", folder / "T2.nii.gz")


def slices(data: Path) -> Iterator[Case]:
    """An axial slice of each of the glioma patients."""
    folder = data / "tumour-dev" / "slices"
    for number in range(1, 5):
        yield _pair(f"hg{number}", *(folder / f"hg{number}-{c}.nii.gz" for c in ("T1", "T2")))


SETS = {"ms": patients, "met110": met110, "slices": slices}


def cyst(case: Case) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The cyst of met110, and white matter."""
    t1w, t2w = (
        ndimage.gaussian_filter(metrics.scaled(case.scans[c].voxels, case.mask), 1)
        for c in ("T1w", "T2w")
    )
    grey, white = np.quantile(t1w[case.mask], (0.4, 0.75))
    bright = (t2w > 0.75) & (t1w > 0.6 * grey) & case.mask
    parts, _ = ndimage.label(ndimage.binary_opening(bright, iterations=2))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    edge = ndimage.binary_erosion(case.mask, iterations=8)
    return parts == sizes.argmax(), (t1w > white) & (t2w < 0.5) & edge


def contrast(voxels: NDArray[Any], case: Case, real: NDArray[Any]) -> float:
    """Mean of the cyst minus that of white matter after the fit to the real scan."""
    inside, white = cyst(case)
    x, y = metrics.scaled(voxels, case.mask), metrics.scaled(real, case.mask)
    scale, _ = np.polyfit(x[case.mask], y[case.mask], 1)
    return float(max(scale, 0) * (x[inside].mean() - x[white].mean()))


def calibration(case: Case, made: Volume, to: str, source: str | None = None) -> dict[str, Any]:
    """How far the uncertainty map holds on a real pair, after the fit of scale and offset.

    `gradient` is the AUROC of the local gradient of `source`, the other contrast of the pair unless
    given, instead of the map.
    """
    assert made.uncertainty is not None
    inside, voxels = case.mask, made.voxels
    truth = metrics.scaled(case.scans[to].voxels, inside)[inside]
    scale, offset = np.polyfit(voxels[inside], truth, 1)
    error = np.abs(max(scale, 0) * voxels[inside] + offset - truth)
    width = max(scale, 0) * made.uncertainty[inside]
    found = {"coverage": round(float((error <= width).mean()), 3)} | quality(error, width)
    slope = gradient_size(case.scans[source or OTHER[to]].voxels)[inside]
    found["gradient"] = quality(error, slope)["auroc"]
    if case.name == "met110" and to == "T2w" and source is None:
        found["cyst"] = round(float((error <= width)[cyst(case)[0][inside]].mean()), 3)
    return found


def simulated_lesions(
    translator: Translator, subjects: list[VariedSubject]
) -> dict[str, float | int]:
    """Shares of the lesions that T1w shows and that have the right sign, and half the contrast."""
    ratios = []
    for subject in subjects:
        seen, truth = subject.seen["T1w"], subject.canonical["T2w"].voxels
        made = translator.translate(seen, "T2w").voxels
        truth = truth / np.quantile(truth, 0.995)
        made = made / np.quantile(made, 0.995)
        first = seen.voxels / np.quantile(seen.voxels[seen.voxels > 0], 0.995)
        spacing = seen.spacing
        assert spacing is not None
        parts, count = ndimage.label(subject.lesions.voxels > 0)
        for number in range(1, count + 1):
            inside = parts == number
            if inside.sum() * np.prod(spacing) < 500:  # mm^3
                continue
            away = ndimage.distance_transform_edt(~inside, sampling=spacing)
            ring = (away > 1) & (away < 4) & (parts == 0) & (truth > 0)
            visible, real, synthetic = (
                float(image[inside].mean() - image[ring].mean()) for image in (first, truth, made)
            )
            if abs(visible) > VISIBLE and abs(real) > VISIBLE:
                ratios.append(synthetic / real)
    kept = np.array(ratios)
    return {
        "count": len(kept),
        "right sign": round(float((kept > 0).mean()), 3),
        "half": round(float((kept > 0.5).mean()), 3),
    }


def scored(case: Case, made: NDArray[Any], to: str) -> list[float]:
    """PSNR and SSIM."""
    found = metrics.scores(case.scans[to].voxels, made, case.mask)["fit"]
    return [round(found["psnr"], 2), round(found["ssim"], 3)]


def curve(case: Case, to: str) -> list[float]:
    """Scores of the best monotone curve of this pair."""
    given, real = (metrics.scaled(case.scans[c].voxels, case.mask) for c in (OTHER[to], to))
    fitted = metrics.fit_monotone(given[case.mask], real[case.mask])
    return scored(case, fitted.apply(given), to)


def main() -> None:
    """Score, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["shipped"])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--people", type=int, default=0)
    parser.add_argument("--every-slice", action="store_true")
    options = parser.parse_args()
    if options.every_slice:
        planes.CLOSE_MM = 0.0
    maps = options.data / "label-maps" / "synthseg"
    subjects = people(maps, options.data / "lesion-masks" / "stroke", options.people)
    cases = {name: list(SETS[name](options.data)) for name in options.sets}
    lines: dict[str, dict[str, Any]] = {"curve": {}}
    for name, of_set in cases.items():
        lines["curve"][name] = {to: {case.name: curve(case, to) for case in of_set} for to in TO}
    for model in options.models:
        translator = Translator(model)
        lines[model] = {}
        for name, of_set in cases.items():
            lines[model][name] = {to: {} for to in TO}
            for case in of_set:
                for to in TO:
                    scan = replace(case.scans[OTHER[to]], contrast=OTHER[to])
                    has_map = translator.bundle.manifest.uncertainty is not None
                    made = translator.translate(scan, to, uncertainty=has_map)
                    if has_map:
                        found = lines[model].setdefault("uncertainty", {})
                        found[f"{case.name} {to}"] = calibration(case, made, to)
                    lines[model][name][to][case.name] = scored(case, made.voxels, to)
                    if case.name == "met110" and to == "T2w":
                        lines[model]["cyst"] = contrast(made.voxels, case, case.scans[to].voxels)
                    if options.pictures:
                        place = options.pictures / Path(model).name / f"{case.name}_{to}.nii.gz"
                        place.parent.mkdir(parents=True, exist_ok=True)
                        io.write(Volume(made.voxels, made.affine), place)
        line = {"model": model, **_with_means(lines[model])}
        if subjects:
            line["lesions"] = simulated_lesions(translator, subjects)
        print(json.dumps(line), flush=True)
    if "met110" in cases:
        (case,) = cases["met110"]
        real = case.scans["T2w"].voxels
        lines["curve"]["cyst"] = contrast(real, case, real)
    print(json.dumps({"model": "curve", **_with_means(lines["curve"])}), flush=True)


def _with_means(line: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in line.items():
        if isinstance(value, float) or name == "uncertainty":
            result[name] = value if isinstance(value, dict) else round(value, 3)
            continue
        result[name] = {
            to: {"mean": np.mean(list(each.values()), axis=0).round(3).tolist()} | each
            for to, each in value.items()
        }
    return result


if __name__ == "__main__":
    main()
