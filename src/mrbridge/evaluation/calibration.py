"""How far an uncertainty map may be believed.

The map gives half the width of the 90 % interval of every voxel. Three questions: do 90 % of the
true values lie inside (coverage)? Does it rank the voxels by their error (AUROC, AUSE)? Is the
stated width the width that was found (reliability)?
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.metrics import ranks

Values = NDArray[Any]  # (voxels,)

NOMINAL = 0.9
WORST = 0.05
"""The share of voxels with the largest errors that AUROC looks for."""

_STEPS = 100
_GROUPS = 10


def assess(
    error: Values, half_width: Values, parts: Mapping[str, NDArray[np.bool_]]
) -> dict[str, float]:
    """Coverage, AUROC and AUSE of an uncertainty map.

    Args:
        error: absolute error of each voxel, shape (voxels,).
        half_width: half the width of its interval, in the same units.
        parts: of the voxels, by name; parts that are empty are left out.

    Returns:
        `coverage` and `coverage_PART` (0 to 1), `auroc_worst_5_percent`, `ause`.
    """
    inside = error <= half_width
    result = {"coverage": float(inside.mean())}
    for name, part in parts.items():
        if part.any():
            result[f"coverage_{name}"] = float(inside[part].mean())
    result["auroc_worst_5_percent"] = auroc_of_worst(error, half_width)
    result["ause"] = ause(error, half_width)
    return result


def auroc_of_worst(error: Values, score: Values) -> float:
    """Area under the ROC curve of finding the worst 5 % of errors by a score; 0.5 is chance.

    It is the chance that one of the worst voxels has a higher score than another voxel
    (Mann-Whitney; Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747).
    """
    worst = error >= np.quantile(error, 1 - WORST)
    count, rest = int(worst.sum()), int((~worst).sum())
    if not count or not rest:
        return float("nan")
    total = ranks(score)[worst].sum()
    return float((total - count * (count + 1) / 2) / (count * rest))


def ause(error: Values, score: Values) -> float:
    """Area between the sparsification curves of a score and of the error itself; 0 is perfect.

    The mean error of what is left when the most uncertain voxels are removed, over that of all
    (Ilg et al. 2018, arXiv:1802.07095, section 5).
    """
    shares = np.arange(_STEPS) / _STEPS
    curves = []
    for ranking in (score, error):
        rising = error[np.argsort(ranking, kind="stable")]
        sums = np.cumsum(rising, dtype=np.float64)
        left = np.maximum(1, np.round((1 - shares) * len(error)).astype(int))
        curves.append(sums[left - 1] / left / max(float(error.mean()), 1e-12))
    return float(np.trapezoid(curves[0] - curves[1], shares))


def reliability(error: Values, half_width: Values) -> list[dict[str, float]]:
    """Ten groups of voxels by rising width: what the map states, and what was found.

    Returns:
        For each group `stated` (mean half width), `found` (the 90 % quantile of its errors) and
        `coverage`.
    """
    return [
        {
            "stated": float(half_width[group].mean()),
            "found": float(np.quantile(error[group], NOMINAL)),
            "coverage": float((error[group] <= half_width[group]).mean()),
        }
        for group in np.array_split(np.argsort(half_width, kind="stable"), _GROUPS)
        if len(group)
    ]


def gradient_size(image: Values) -> NDArray[np.float32]:
    """Size of the local gradient of an image (slices, rows, columns), smoothed by one voxel: the
    map of uncertainty to beat."""
    return np.asarray(ndimage.gaussian_gradient_magnitude(image.astype(np.float32), 1.0))
