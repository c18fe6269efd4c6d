"""What people derive from scans, measured in one case: lesions, tissues, detail, uncertainty."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from scipy import ndimage

from mrbridge import metrics
from mrbridge.errors import InputError
from mrbridge.evaluation import calibration, detail, lesions, tissues
from mrbridge.evaluation.cases import Direction
from mrbridge.evaluation.lesions import Lesion
from mrbridge.evaluation.registration import CaseScans, Mask, Stack
from mrbridge.evaluation.settings import EvaluateSettings
from mrbridge.preprocessing.resample import moved

_AROUND_LESIONS_MM = 3.0  # white matter near to a lesion is not normal
_EDGE_MM = 3.0  # of the brain


@dataclass(frozen=True)
class Measured:
    """Measures of one case in one direction.

    Attributes:
        values: by the keys of `measures.toml`, and volumes in ml; what could not be measured is
            left out.
        lesions: of the lesion mask and, at the end, invented ones; None without a mask and a brain.
        has_mask: whether there is a lesion mask.
        reliability: of the uncertainty map, from `calibration.reliability`.
    """

    values: dict[str, float] = field(default_factory=dict)
    lesions: list[Lesion] | None = None
    has_mask: bool = False
    reliability: list[dict[str, float]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The measures in scores.json."""
        return {
            "measures": self.values,
            "lesions": None if self.lesions is None else [one.as_json() for one in self.lesions],
            "reliability": self.reliability,
        }


@cache
def catalogue() -> list[dict[str, Any]]:
    """The groups of `measures.toml`: `title`, `note` and `measure` (`key`, `name`, `unit`,
    `digits`, `meaning`)."""
    text = files("mrbridge.evaluation").joinpath("measures.toml").read_text(encoding="utf-8")
    groups: list[dict[str, Any]] = tomllib.loads(text)["group"]
    return groups


def measure(
    scans: CaseScans,
    settings: EvaluateSettings,
    direction: Direction,
    synthetic: Stack,
    inside: Mask,
    widths: Stack | None,
) -> Measured:
    """Everything but the registration error.

    Args:
        scans: of the case.
        settings: whether tissues are segmented.
        direction: whose real target is in `scans`.
        synthetic: shape (slices, rows, columns), on the grid of the scores.
        inside: where it is scored, the same shape.
        widths: the uncertainty map, the same shape and unit as `synthetic`; None if there is none.

    Raises:
        InputError: the lesion mask or the uncertainty map cannot be used.
    """
    target = scans.stacks[direction.target]
    source = scans.source_of(direction)
    real, made = metrics.scaled(target, inside), metrics.scaled(synthetic, inside)
    spacing = scans.spacing
    values = {
        "sharpness": detail.sharpness(real, made, inside, spacing),
        **detail.power_ratios(real, made, inside, spacing),
        **detail.whole_picture(target, synthetic),
    }
    result = Measured(values)
    mask = scans.lesions
    if spacing is None:
        if mask is not None:
            raise InputError(
                "lesions are measured in millimetres, and a 2D image has no voxel size",
                remedy="Leave out --lesions, or use NIfTI files.",
            )
        return _with_uncertainty(result, scans, direction, synthetic, inside, widths, {})
    labels = _labels(scans, settings, direction, synthetic)
    parts: dict[str, Mask] = {}
    if labels is not None:
        brain, of_real, of_synthetic, anatomy = labels
        values |= tissues.compare(of_real, of_synthetic, spacing)
        parts = {tissue: of_real == number for tissue, number in tissues.TISSUES.items()}
        parts["edge"] = brain & (ndimage.distance_transform_edt(brain, spacing) <= _EDGE_MM)
    else:
        anatomy = None
    if mask is not None:
        parts["lesions"] = mask
    scaled_source = None if source is None else metrics.scaled(source, inside)
    result = _with_lesions(
        result, direction, mask, (real, made, scaled_source), inside, anatomy, spacing
    )
    result = replace(result, lesions=_placed(result.lesions, scans))
    return _with_uncertainty(result, scans, direction, synthetic, inside, widths, parts)


def _labels(
    scans: CaseScans, settings: EvaluateSettings, direction: Direction, synthetic: Stack
) -> tuple[Mask, tissues.Labels, tissues.Labels, tissues.Labels] | None:
    """Brain; tissues of the real scan, of the synthetic one, and of the real T1w if there is one.

    T1w separates grey and white matter best.
    """
    contrast = direction.target
    if not settings.tissues or not tissues.can_segment(contrast):
        return None
    brain = scans.brain
    if brain is None:
        return None
    try:
        of_real = tissues.segment(scans.stacks[contrast], brain, contrast)
        of_synthetic = tissues.segment(synthetic, brain, contrast)
    except InputError:
        return None
    source = scans.source_of(direction)
    if source is None or direction.source != "T1w":
        return brain, of_real, of_synthetic, of_real
    return brain, of_real, of_synthetic, tissues.segment(source, brain, "T1w")


def _with_lesions(
    result: Measured,
    direction: Direction,
    mask: Mask | None,
    images: tuple[Stack, Stack, Stack | None],
    inside: Mask,
    anatomy: tissues.Labels | None,
    spacing: tuple[float, float, float],
) -> Measured:
    values = dict(result.values)
    found: list[Lesion] | None = None
    if mask is not None:
        usable = inside if anatomy is None else anatomy > tissues.TISSUES["fluid"]
        found = lesions.measure_lesions(mask, *images, usable, spacing)
        shown = [one for one in found if one.outcome != "not_shown"]
        values["lesions"] = float(len(shown))
        if shown:
            kept = sum(one.outcome == "kept" for one in shown)
            values["lesions_kept_share"] = kept / len(shown)
    if anatomy is not None:
        white = anatomy == tissues.TISSUES["white"]
        if mask is not None and mask.any():
            white &= ndimage.distance_transform_edt(~mask, spacing) > _AROUND_LESIONS_MM
        sign = -1 if direction.target == "T1w" else 1
        invented = lesions.find_invented(*images, white, spacing, sign)
        values["invented_lesions"] = float(len(invented))
        values["invented_lesions_ml"] = math.fsum(one.volume_ml for one in invented)
        found = (found or []) + invented
    return replace(result, values=values, lesions=found, has_mask=mask is not None)


def _placed(found: list[Lesion] | None, scans: CaseScans) -> list[Lesion] | None:
    """The lesions with their positions in mm."""
    affine = scans.affine
    if not found or affine is None:
        return found
    centres = np.array([[one.slice, one.row, one.column] for one in found], float)
    return [
        replace(one, x_mm=float(x), y_mm=float(y), z_mm=float(z))
        for one, (x, y, z) in zip(found, moved(centres, affine), strict=True)
    ]


def _with_uncertainty(
    result: Measured,
    scans: CaseScans,
    direction: Direction,
    synthetic: Stack,
    inside: Mask,
    widths: Stack | None,
    parts: Mapping[str, Mask],
) -> Measured:
    if widths is None:
        return result
    real = metrics.scaled(scans.stacks[direction.target], inside)
    scale, offset = metrics.fit_nonnegative(real, synthetic, inside)
    chosen = {name: part[inside] for name, part in parts.items()}
    error = np.abs(real - (scale * synthetic + offset))[inside]
    half = scale * widths[inside]
    values = result.values | calibration.assess(error, half, chosen)
    own = float(np.percentile(synthetic[inside], metrics.REFERENCE_PERCENTILE))
    if own > 0:
        plain = np.abs(real - synthetic / own)[inside]
        values["coverage_plain"] = float((plain <= widths[inside] / own).mean())
    source = scans.source_of(direction)
    if source is not None:
        gradient = calibration.gradient_size(source)[inside]
        values["auroc_source_gradient"] = calibration.auroc_of_worst(error, gradient)
    return replace(result, values=values, reliability=calibration.reliability(error, half))
