"""What people derive from scans, measured in one case: lesions, tissues, detail, uncertainty.

PSNR and SSIM reward blur; sharpness and power say what it costs. The scores of whole pictures make
figures comparable with papers that score them, of which most is black.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge import metrics
from mrbridge.errors import InputError
from mrbridge.evaluation import calibration, lesions, tissues
from mrbridge.evaluation.cases import Direction
from mrbridge.evaluation.figures import Panels
from mrbridge.evaluation.lesions import Lesion
from mrbridge.evaluation.registration import CaseScans, Mask, Stack
from mrbridge.evaluation.settings import EvaluateSettings
from mrbridge.preprocessing.resample import moved

BANDS = ((0, 25), (25, 50), (50, 75), (75, 100))
"""Frequencies in per cent of the Nyquist frequency of a slice."""

_AROUND_LESIONS_MM = 3.0  # white matter near to a lesion is not normal
_EDGE_MM = 3.0  # of the brain


def sharpness(
    real: Stack, synthetic: Stack, mask: NDArray[np.bool_], spacing: Sequence[float] | None
) -> float:
    """Gradient energy inside the mask over that of the real scan; 1 if equally sharp.

    The mean squared gradient magnitude (Tenengrad: Krotkov 1988, doi:10.1007/BF00127822), within
    slices, between voxels that are both inside. Noise of the real scan counts as detail.

    Args:
        real, synthetic: of one scale.
        mask: of the same shape.
        spacing: mm between slices, rows, columns; None: square pixels.
    """
    steps = (1.0, 1.0, 1.0) if spacing is None else spacing

    def energy(image: Stack) -> float:
        total = 0.0
        for axis in (1, 2):
            along = np.diff(image, axis=axis) / steps[axis]
            both = np.delete(mask, -1, axis) & np.delete(mask, 0, axis)
            total += float(np.square(along[both], dtype=np.float64).mean()) if both.any() else 0.0
        return total

    of_real = energy(real)
    return energy(synthetic) / of_real if of_real > 0 else float("nan")


def power_ratios(
    real: Stack, synthetic: Stack, mask: NDArray[np.bool_], spacing: Sequence[float] | None
) -> dict[str, float]:
    """Power of the synthetic scan over that of the real one, by spatial frequency.

    Radially averaged power spectrum of the slices, outside of the mask set to the mean inside.

    Returns:
        `power_ratio_LOW_HIGH` for each of `BANDS`.
    """
    steps = (1.0, 1.0, 1.0) if spacing is None else spacing
    rows = np.fft.fftfreq(real.shape[1], steps[1])
    columns = np.fft.rfftfreq(real.shape[2], steps[2])
    radius = np.hypot(rows[:, None], columns)
    share = 100 * radius / (0.5 / max(steps[1:]))
    used = mask.any(axis=(1, 2))

    def power(image: Stack) -> NDArray[np.float64]:
        filled = np.where(mask, image - image[mask].mean(), 0)[used]
        total = np.zeros(radius.shape)
        for one in filled:
            total += np.square(np.abs(np.fft.rfft2(one)))
        total[0, 0] = 0
        inside = [(share >= low) & (share < high) for low, high in BANDS]
        return np.array([total[band].sum() for band in inside])

    of_real, of_synthetic = power(real), power(synthetic)
    return {
        f"power_ratio_{low}_{high}": float(made / true) if true > 0 else float("nan")
        for (low, high), made, true in zip(BANDS, of_synthetic, of_real, strict=True)
    }


def whole_picture(real: Stack, synthetic: Stack) -> dict[str, float]:
    """PSNR and SSIM as most papers compute them: everything, each image from 0 to 1.

    Each image is scaled by its own minimum and maximum, and black surroundings count. Such figures
    depend on how much of the picture is black, and on the brightest voxel.

    Returns:
        `psnr_whole_picture` (dB) and `ssim_whole_picture`.
    """

    def from_0_to_1(image: Stack) -> NDArray[np.float32]:
        image = np.maximum(image, 0)  # cubic resampling leaves negative values, which MR has not
        low, high = float(image.min()), float(image.max())
        return ((image - low) / max(high - low, 1e-12)).astype(np.float32)

    one, other = from_0_to_1(real), from_0_to_1(synthetic)
    return {
        "psnr_whole_picture": metrics.psnr(one, other, None, 1.0),
        "ssim_whole_picture": metrics.ssim(one, other, None, 1.0),
    }


@dataclass(frozen=True)
class Measured:
    """Measures of one case in one direction.

    Attributes:
        values: by the keys of `measures.toml`, and volumes in ml; what could not be measured is
            left out.
        lesions: of the lesion mask and, at the end, invented ones; None without a mask and a brain.
        lesions_left_out: numbers of lesions of the mask that are not measured, by the reason.
        reliability: of the uncertainty map, from `calibration.reliability`.
    """

    values: dict[str, float] = field(default_factory=dict)
    lesions: list[Lesion] | None = None
    has_mask: bool = False
    lesions_left_out: dict[str, int] = field(default_factory=dict)
    reliability: list[dict[str, float]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The measures in scores.json."""
        return {
            "measures": self.values,
            "lesions": None if self.lesions is None else [one.as_json() for one in self.lesions],
            "lesions_left_out": self.lesions_left_out,
            "reliability": self.reliability,
        }


@cache
def catalogue() -> list[dict[str, Any]]:
    """The groups of `measures.toml`: `title`, `note` and `measure` (`key`, `name`, `unit`,
    `digits`, `meaning`)."""
    text = Path(__file__).with_name("measures.toml").read_text("utf-8")
    groups: list[dict[str, Any]] = tomllib.loads(text)["group"]
    return groups


def measure(
    scans: CaseScans,
    settings: EvaluateSettings,
    images: Panels,
    synthetic: Stack,
    widths: Stack | None,
) -> Measured:
    """Everything but the registration error.

    Args:
        images: on the grid of the scores, each scaled by its own percentile.
        synthetic: as it was made, shape (slices, rows, columns).
        widths: the uncertainty map, the same shape and unit as `synthetic`; None if there is none.

    Raises:
        InputError: the lesion mask or the uncertainty map cannot be used.
    """
    direction, mask, spacing = images.direction, scans.lesions, images.spacing
    pair = images.real, images.synthetic, images.mask
    values = {
        "sharpness": sharpness(*pair, spacing),
        **power_ratios(*pair, spacing),
        **whole_picture(scans.stacks[direction.target], synthetic),
    }
    if spacing is None and mask is not None:
        raise InputError(
            "lesions are measured in millimetres, and a 2D image has no voxel size",
            remedy="Leave out --lesions, or use NIfTI files.",
        )
    source = scans.source_of(direction)
    parts: dict[str, Mask] = {}
    found: list[Lesion] | None = None
    left_out: dict[str, int] = {}
    if spacing is not None:
        anatomy = _anatomy(scans, settings, direction, synthetic, source)
        if anatomy is not None:
            values |= tissues.compare(anatomy.real, anatomy.synthetic, spacing)
            parts = {tissue: anatomy.real == number for tissue, number in tissues.TISSUES.items()}
            depth = ndimage.distance_transform_edt(anatomy.brain, spacing)
            parts["edge"] = anatomy.brain & (depth <= _EDGE_MM)
        if mask is not None:
            parts["lesions"] = mask
        found, left_out, of_lesions = _lesions(images, mask, anatomy, spacing)
        values |= of_lesions
        found = _placed(found, scans)
    reliability: list[dict[str, float]] = []
    if widths is not None:
        of_map, reliability = _uncertainty(images, synthetic, source, widths, parts)
        values |= of_map
    known = {key: value for key, value in values.items() if not math.isnan(value)}
    return Measured(known, found, mask is not None, left_out, reliability)


@dataclass(frozen=True)
class _Anatomy:
    """The brain and its tissues, shape (slices, rows, columns).

    Attributes:
        brain: with its fluid.
        real, synthetic: tissues of the two scans of the target contrast.
        fluid: of the real T1w scan if there is one, otherwise of the real target.
        white: of the same scan and of the source. T1w shows deep grey matter almost as bright.
    """

    brain: Mask
    real: tissues.Labels
    synthetic: tissues.Labels
    fluid: Mask
    white: Mask


def _anatomy(
    scans: CaseScans,
    settings: EvaluateSettings,
    direction: Direction,
    synthetic: Stack,
    source: Stack | None,
) -> _Anatomy | None:
    """The anatomy; None without a brain mask, or if this is not asked for."""
    contrast, source_contrast = direction.target, str(direction.source)
    is_wanted = settings.tissues and tissues.can_segment(contrast)
    brain = scans.brain if is_wanted else None
    if brain is None:
        return None
    try:
        of_real = tissues.segment(scans.stacks[contrast], brain, contrast)
        of_synthetic = tissues.segment(synthetic, brain, contrast)
        of_source = of_real
        if source is not None and tissues.can_segment(source_contrast):
            of_source = tissues.segment(source, brain, source_contrast)
    except InputError:
        return None
    best = of_source if source_contrast == "T1w" else of_real
    white = (best == tissues.TISSUES["white"]) & (of_source == tissues.TISSUES["white"])
    return _Anatomy(brain, of_real, of_synthetic, best == tissues.TISSUES["fluid"], white)


def _lesions(
    images: Panels,
    mask: Mask | None,
    anatomy: _Anatomy | None,
    spacing: tuple[float, float, float],
) -> tuple[list[Lesion] | None, dict[str, int], dict[str, float]]:
    """The lesions of a mask and invented ones, how many are left out, and their measures."""
    values: dict[str, float] = {}
    left_out: dict[str, int] = {}
    found: list[Lesion] | None = None
    stacks = images.real, images.synthetic, images.source
    if mask is not None:
        usable = images.mask if anatomy is None else anatomy.brain & ~anatomy.fluid
        found, left_out = lesions.measure_lesions(mask, *stacks, usable, spacing)
        shown = [one for one in found if one.outcome != "not_shown"]
        values["lesions"] = float(len(shown))
        if shown:
            kept = sum(one.outcome == "kept" for one in shown)
            values["lesions_kept_share"] = kept / len(shown)
    if anatomy is not None:
        white = anatomy.white
        if mask is not None and mask.any():
            white = white & (ndimage.distance_transform_edt(~mask, spacing) > _AROUND_LESIONS_MM)
        sign = -1 if images.direction.target == "T1w" else 1
        invented = lesions.find_invented(*stacks, white, spacing, sign)
        values["invented_lesions"] = float(len(invented))
        values["invented_lesions_ml"] = math.fsum(one.volume_ml for one in invented)
        found = (found or []) + invented
    return found, left_out, values


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


def _uncertainty(
    images: Panels,
    synthetic: Stack,
    source: Stack | None,
    widths: Stack,
    parts: Mapping[str, Mask],
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """The measures of an uncertainty map, and its reliability."""
    real, inside = images.real, images.mask
    scale, offset = metrics.fit_nonnegative(real, synthetic, inside)
    error = np.abs(real - (scale * synthetic + offset))[inside]
    half = scale * widths[inside]
    values = calibration.assess(error, half, {name: part[inside] for name, part in parts.items()})
    own = float(np.percentile(synthetic[inside], metrics.REFERENCE_PERCENTILE))
    if own > 0:
        plain = np.abs(real - synthetic / own)[inside]
        values["coverage_plain"] = float((plain <= widths[inside] / own).mean())
    if source is not None:
        gradient = calibration.gradient_size(source)[inside]
        values["auroc_source_gradient"] = calibration.auroc_of_worst(error, gradient)
    return values, calibration.reliability(error, half)
