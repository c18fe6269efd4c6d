"""Scores of models and of curves for `quality.py`, on cases whose scans lie on one grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.research.quality_sets import TO, Case
from mrbridge import metrics
from mrbridge.inference.translator import Translator


def scores(cases: list[Case], model: Path | str, kind: str) -> dict[str, Any]:
    """PSNR and SSIM by direction: of each case and their mean."""
    translator = Translator(model)
    made = {
        (case.name, to): translator.translate(replace(case.scans[given], contrast=given), to)
        for case in cases
        for given, to in (("T1w", "T2w"), ("T2w", "T1w"))
    }
    return told_of(cases, {key: volume.voxels for key, volume in made.items()}, kind)


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
    return told_of(cases, made, kind)


def _any_curve(x: NDArray[Any], y: NDArray[Any]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """The mean of `y` by `x`, in 64 bins of equal numbers, straight lines between their middles."""
    edges = np.unique(np.quantile(x, np.linspace(0, 1, 65)[:-1]))
    which = np.searchsorted(edges, x, side="right") - 1
    sums = np.stack([np.bincount(which, values) for values in (np.ones_like(x), x, y)])
    counts, sums_x, sums_y = sums[:, sums[0] > 0]  # many equal values may leave a bin empty
    return lambda x: np.interp(x, sums_x / counts, sums_y / counts)


def told_of(cases: list[Case], made: dict[tuple[str, str], Any], kind: str) -> dict[str, Any]:
    """PSNR and SSIM by direction of what was made, by case and contrast, and their mean."""
    told: dict[str, Any] = {}
    for to in TO:
        each = {}
        for case in cases:
            real, synthetic = case.scans[to].voxels, made[case.name, to]
            found = metrics.scores(real, synthetic, case.mask)[kind]
            each[case.name] = [round(found["psnr"], 2), round(found["ssim"], 3)]
        mean = np.mean(list(each.values()), axis=0)
        told[f"to {to}"] = {"mean": [round(float(m), 3) for m in mean]}
        if len(each) <= 4:
            told[f"to {to}"] |= each
    return told


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """What was told of single cases as what is told of all."""
    told = {}
    for to in parts[0]:
        each = {name: got for part in parts for name, got in part[to].items() if name != "mean"}
        mean = np.mean(list(each.values()), axis=0)
        told[to] = {"mean": [round(float(m), 3) for m in mean]} | each
    return told
