"""Lesions in synthetic scans: which were kept, weakened, lost or inverted, and which invented.

The contrast of a lesion is its mean intensity minus the median of a 3 mm ring around it, each image
scaled by its own 99.5th percentile (kind `plain`: as a viewer shows it). Its visibility is
that contrast over the spread of the ring.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Stack = NDArray[Any]  # (slices, rows, columns)
Mask = NDArray[np.bool_]  # the same shape
Outcome = Literal["kept", "weakened", "lost", "inverted", "not_shown", "invented"]
Visibility = Literal["clear", "faint", "hidden", "unknown"]

OUTCOMES: tuple[Outcome, ...] = ("kept", "weakened", "lost", "inverted", "not_shown")
VISIBILITIES: tuple[Visibility, ...] = ("clear", "faint", "hidden", "unknown")

RING_MM = 3.0
KEPT, LOST = 0.5, 0.2
"""Shares of the real contrast: from the first a lesion is kept; within the second of zero it is
lost, beyond it on the wrong side inverted."""
CLEAR, FAINT = 2.0, 1.0
"""Visibilities from which the source shows a lesion clearly or faintly."""
SMALLEST_ML = 0.01
"""Smaller ones are left out: McDonald's criteria ask for 3 mm (0.014 ml, a sphere)."""
TOO_SMALL = f"smaller than {SMALLEST_ML:g} ml"
NO_RING = f"with nothing usable within {RING_MM:g} mm (brain without fluid and other lesions)"
"""Why a lesion is not measured."""

_BACKGROUND_MM, _SPOT_MM = 5.0, 0.7  # standard deviations of Gaussian filters
_EDGE_MM = 1.5  # of white matter, where blobs are partial volume
_REAL_PERCENTILE = 95
_WORST = 6  # lesions in a figure
_TOUCHES = ndimage.generate_binary_structure(3, 3)
_TO_NORMAL = 1.4826  # from median absolute deviation to standard deviation


@dataclass(frozen=True)
class Lesion:
    """One lesion, or one blob that a synthetic scan invents.

    Attributes:
        outcome: `kept`, `weakened`, `lost`, `inverted`; `not_shown` if the real scan does not show
            it either; `invented`.
        visibility: of the source: `clear`, `faint`, `hidden`; `unknown` without a source.
        slice, row, column: of its centre, from 0.
        contrast_source, contrast_real, contrast_synthetic: to the ring, as a share of each image's
            99.5th percentile.
        visibility_source, visibility_real: size of the contrast over the spread of the ring.
        x_mm, y_mm, z_mm: the centre in RAS+ mm, as viewers show it; None if unknown.
    """

    outcome: Outcome
    visibility: Visibility
    volume_ml: float
    slice: int
    row: int
    column: int
    contrast_source: float | None
    contrast_real: float
    contrast_synthetic: float
    visibility_source: float | None
    visibility_real: float
    x_mm: float | None = None
    y_mm: float | None = None
    z_mm: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Rounded to four digits."""
        return {
            key: round(value, 4) if isinstance(value, float) else value
            for key, value in asdict(self).items()
        }


def find_invented(
    real: Stack,
    synthetic: Stack,
    source: Stack | None,
    white: Mask,
    spacing: Sequence[float],
    sign: int,
) -> list[Lesion]:
    """Blobs in normal-appearing white matter that only the synthetic scan shows.

    Local contrast is the image, smoothed slightly, minus the mean of white matter around. Of the
    spots (local maxima) of the real scan, 95 % have less than the threshold; blobs of the synthetic
    scan with more, of at least `SMALLEST_ML`, are invented if the real scan has less than half of
    their contrast there.

    Args:
        real, synthetic, source, spacing: as of `measure_lesions`.
        white: normal-appearing white matter: without lesions and what is near to them.
        sign: 1 if lesions are bright in this contrast, -1 if they are dark.
    """
    # Voxels at the edge of the mask are partial volume, however large they are.
    core = ndimage.binary_erosion(white, border_value=1)
    core &= ndimage.distance_transform_edt(white, spacing) > _EDGE_MM
    if not core.any():
        return []
    shown, made = (sign * _local_contrast(image, core, spacing) for image in (real, synthetic))
    reach = tuple(2 * max(1, round(_EDGE_MM / step)) + 1 for step in spacing)
    spots = core & (shown == ndimage.maximum_filter(shown, reach))
    threshold = float(np.percentile(shown[spots], _REAL_PERCENTILE))
    blobs, _ = ndimage.label((made > threshold) & core, _TOUCHES)
    invented = np.zeros(core.shape, bool)
    for number, box in enumerate(ndimage.find_objects(blobs), start=1):
        # What is shown a little further away is misplaced, not invented.
        box = _widened(box, reach, core.shape)
        blob = blobs[box] == number
        near = ndimage.binary_dilation(blob, _TOUCHES)
        if shown[box][near].max() < KEPT * made[box][blob].max():
            invented[box] |= blob
    found, _ = measure_lesions(invented, real, synthetic, source, white, spacing, "invented")
    return found


def worst_lesions(lesions: Sequence[Lesion]) -> list[Lesion]:
    """The largest that were inverted, lost, invented and weakened, in this order; at most six."""
    order = ("inverted", "lost", "invented", "weakened")
    bad = [lesion for lesion in lesions if lesion.outcome in order]
    return sorted(bad, key=lambda one: (order.index(one.outcome), -one.volume_ml))[:_WORST]


def count(lesions: Sequence[Lesion]) -> dict[str, dict[str, dict[str, float]]]:
    """Numbers and volumes: visibility in the source (and `all`), outcome, `number` and `ml`.

    Invented ones are only under `all`.
    """
    table: dict[str, dict[str, dict[str, float]]] = {}
    for visibility in ("all", *VISIBILITIES):
        is_all = visibility == "all"
        row: dict[str, dict[str, float]] = {}
        for outcome in (*OUTCOMES, "invented") if is_all else OUTCOMES:
            volumes = [
                lesion.volume_ml
                for lesion in lesions
                if lesion.outcome == outcome and (is_all or visibility == lesion.visibility)
            ]
            row[outcome] = {"number": len(volumes), "ml": round(math.fsum(volumes), 3)}
        if is_all or any(cell["number"] for cell in row.values()):
            table[visibility] = row
    return table


def measure_lesions(
    mask: Mask,
    real: Stack,
    synthetic: Stack,
    source: Stack | None,
    usable: Mask,
    spacing: Sequence[float],
    outcome: Outcome | None = None,
) -> tuple[list[Lesion], dict[str, int]]:
    """Every connected component of a lesion mask, the largest first; and how many are left out.

    Args:
        real, synthetic, source: images, 1 being their 99.5th percentile; the source may be None.
        usable: where a ring may be, lesions left out: inside the brain, without fluid.
        spacing: mm along the three axes.
        outcome: of all, if it is known.

    Returns:
        The lesions, and the numbers of others by the reason: `TOO_SMALL`, `NO_RING`.
    """
    left_out: Counter[str] = Counter()
    usable = usable & ~mask
    components, _ = ndimage.label(mask, _TOUCHES)
    voxel_ml = float(math.prod(spacing)) / 1000
    margin = [math.ceil(RING_MM / step) for step in spacing]
    lesions = []
    for number, box in enumerate(ndimage.find_objects(components), start=1):
        volume_ml = int(np.count_nonzero(components[box] == number)) * voxel_ml
        if volume_ml < SMALLEST_ML:
            left_out[TOO_SMALL] += 1
            continue
        box = _widened(box, margin, mask.shape)
        inside = components[box] == number
        distance = ndimage.distance_transform_edt(~inside, spacing)
        ring = (distance <= RING_MM) & ~inside & usable[box]
        if not ring.any():
            left_out[NO_RING] += 1
            continue
        contrast, spread = _contrast(real[box], inside, ring)
        synthetic_contrast, _ = _contrast(synthetic[box], inside, ring)
        seen = abs(contrast) / spread
        source_contrast = source_seen = None
        if source is not None:
            source_contrast, source_spread = _contrast(source[box], inside, ring)
            source_seen = abs(source_contrast) / source_spread
        centre = np.argwhere(inside).mean(axis=0) + [part.start for part in box]
        at = [round(float(place)) for place in centre]
        lesions.append(
            Lesion(
                outcome=outcome or _outcome(contrast, synthetic_contrast, seen),
                visibility=_visibility(source_seen),
                volume_ml=volume_ml,
                slice=at[0],
                row=at[1],
                column=at[2],
                contrast_source=source_contrast,
                contrast_real=contrast,
                contrast_synthetic=synthetic_contrast,
                visibility_source=source_seen,
                visibility_real=seen,
            )
        )
    return sorted(lesions, key=lambda lesion: -lesion.volume_ml), dict(left_out)


def _contrast(image: Stack, inside: Mask, ring: Mask) -> tuple[float, float]:
    """Contrast to the ring, and the spread of the ring."""
    around = image[ring]
    middle = float(np.median(around))
    spread = _TO_NORMAL * float(np.median(np.abs(around - middle)))
    return float(image[inside].mean()) - middle, max(spread, 1e-3)


def _outcome(real: float, synthetic: float, seen: float) -> Outcome:
    if seen < FAINT:
        return "not_shown"
    share = synthetic / real
    if share >= KEPT:
        return "kept"
    if share > LOST:
        return "weakened"
    return "lost" if share >= -LOST else "inverted"


def _visibility(seen: float | None) -> Visibility:
    if seen is None:
        return "unknown"
    return "clear" if seen >= CLEAR else "faint" if seen >= FAINT else "hidden"


def _local_contrast(image: Stack, inside: Mask, spacing: Sequence[float]) -> NDArray[np.float32]:
    """Smoothed image minus the mean of the mask around, inside the mask; 0 outside."""
    weights = inside.astype(np.float32)

    def smoothed(width: float) -> NDArray[Any]:
        """Normalised convolution (Knutsson and Westin 1993): only voxels of the mask count."""
        sigma = [width / step for step in spacing]
        total = ndimage.gaussian_filter(weights, sigma)
        sums = ndimage.gaussian_filter(np.where(inside, image, 0).astype(np.float32), sigma)
        return np.asarray(sums / np.maximum(total, 1e-6))

    contrast = smoothed(_SPOT_MM) - smoothed(_BACKGROUND_MM)
    return np.where(inside, contrast, 0).astype(np.float32)


def _widened(
    box: tuple[slice, ...], margin: Sequence[int], shape: tuple[int, ...]
) -> tuple[slice, ...]:
    return tuple(
        slice(max(0, part.start - step), min(size, part.stop + step))
        for part, step, size in zip(box, margin, shape, strict=True)
    )
