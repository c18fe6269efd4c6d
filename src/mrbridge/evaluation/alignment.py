"""The scans of a case on one grid, registered first if they are on different grids."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrbridge.errors import InputError
from mrbridge.evaluation.cases import Case
from mrbridge.evaluation.settings import EvaluateSettings
from mrbridge.io import read
from mrbridge.preprocessing.foreground import Head
from mrbridge.preprocessing.geometry import to_slices
from mrbridge.preprocessing.registration import Registration, register
from mrbridge.preprocessing.resample import Interpolation, covered, grid_difference, resample
from mrbridge.volume import Volume

Stack = NDArray[np.float32]  # (slices, rows, columns)
Mask = NDArray[np.bool_]  # (slices, rows, columns)

SYNTHETIC = "synthesis"
"""The name of a synthetic image, next to the contrasts of the real scans."""

_EQUALLY_THICK = 1.05  # ratio of slice thicknesses


@dataclass(frozen=True)
class PairRegistration:
    """How the two scans of a pair were registered.

    Attributes:
        fixed: the scan on whose grid they are scored: a contrast, or `synthesis`.
        result: where the other scan is in it.
    """

    fixed: str
    result: Registration

    def as_json(self) -> dict[str, Any]:
        """The registration, and the grid of the scores."""
        return {"scored_on_grid_of": self.fixed} | self.result.as_json()


@dataclass(frozen=True)
class AlignedCase:
    """A case in memory, on one grid.

    Attributes:
        volumes: the real scans on their own grids, by contrast: the input of a model.
        stacks, masks: the real scans and where to score against each, by contrast, on the grid.
        grid: the scan on whose grid is scored.
        registration: of the other scan to it; None if all scans are on one grid.
        synthetic: the synthetic image, if it is not made by a model.
    """

    volumes: dict[str, Volume]
    stacks: dict[str, Stack]
    masks: dict[str, Mask]
    grid: Volume
    registration: PairRegistration | None
    synthetic: Volume | None

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """Between slices, rows, columns in mm; None for a 2D image."""
        return to_slices(self.grid, None)[1].spacing

    def stack_of(self, image: Volume, source: str | None) -> Stack:
        """An image, on the grid of the real scan `source` (None: of the synthetic image), as slices
        on the grid of the scores."""
        moved = _resampled(image, source or SYNTHETIC, self.grid, self.registration)
        return to_slices(moved, None)[0]


def register_pair(case: Case, settings: EvaluateSettings) -> PairRegistration | None:
    """Register the two scans of a case, if the settings or their grids require it.

    Scores are computed on the grid of the scan with the thicker slices (of the first scan, if they
    are equally thick), whose voxels stay as acquired: it shows nothing between its slices to
    compare with.

    Returns:
        None if there is one scan, or, with `registration` = `auto`, if both are on one grid or are
        2D images.

    Raises:
        InputError: a scan cannot be read, or registration did not converge.
    """
    if settings.registration == "off":
        return None
    scans = {contrast: read(path) for contrast, path in case.images.items()}
    if case.synthetic is not None:
        scans[SYNTHETIC] = read(case.synthetic)
    if len(scans) < 2:
        return None
    (first, one), (second, other) = scans.items()
    is_2d = one.affine is None or other.affine is None
    if settings.registration == "auto" and (is_2d or grid_difference(one, other) is None):
        return None
    thickness, other_thickness = (max(volume.spacing or (0.0,)) for volume in (one, other))
    if other_thickness > _EQUALLY_THICK * thickness:
        (first, one), (second, other) = (second, other), (first, one)
    kind = "rigid" if settings.registration == "auto" else settings.registration
    try:
        return PairRegistration(first, register(other, one, kind, settings.seed))
    except InputError as error:
        what = f"{second} and {first} could not be registered: {error.what}"
        raise InputError(what, remedy=error.remedy) from None


def read_aligned(
    case: Case, settings: EvaluateSettings, registration: PairRegistration | None = None
) -> AlignedCase:
    """Read a case with its masks, on one grid.

    Args:
        case: what to score.
        settings: where to score.
        registration: from `register_pair`.

    Raises:
        InputError: the scans are on different grids and not registered; a synthetic scan in the
            place of a real one; the mask is missing or empty.
    """
    volumes = {contrast: read(path) for contrast, path in case.images.items()}
    for contrast, volume in volumes.items():
        if volume.synthetic:
            raise InputError(
                "is marked as synthetic, so nothing can be scored against it",
                path=case.images[contrast],
                remedy="Use the scan as it was acquired.",
            )
    synthetic = None if case.synthetic is None else read(case.synthetic)
    scans = volumes | ({} if synthetic is None else {SYNTHETIC: synthetic})
    first, *others = scans.values()
    if registration is None:
        for other in others:
            path = next(iter(case.images.values()))
            _must_be_on_one_grid(first, other, "the scans of the pair", path)
    grid = first if registration is None else scans[registration.fixed]
    stacks = {
        contrast: to_slices(_resampled(volume, contrast, grid, registration), None)[0]
        for contrast, volume in volumes.items()
    }
    masks = {c: _mask(case, settings, scans, c, grid, registration) for c in volumes}
    return AlignedCase(volumes, stacks, masks, grid, registration, synthetic)


def _resampled(
    image: Volume,
    scan: str,
    grid: Volume,
    registration: PairRegistration | None,
    interpolation: Interpolation = "cubic",
) -> Volume:
    """An image that is on the grid of `scan`, on the grid of the scores."""
    if registration is None or scan == registration.fixed:
        return image
    return resample(image, grid, registration.result.transform, interpolation)


def _must_be_on_one_grid(one: Volume, other: Volume, what: str, path: Path) -> None:
    difference = grid_difference(one, other)
    if difference is not None:
        raise InputError(
            f"{what} are not on one grid ({difference})",
            path=path,
            remedy="Register one to the other first, or use --register auto.",
        )


def _mask(
    case: Case,
    settings: EvaluateSettings,
    scans: dict[str, Volume],
    contrast: str,
    grid: Volume,
    registration: PairRegistration | None,
) -> Mask:
    """Where to score against one real scan, on the grid of the scores."""
    if case.mask is not None:
        volume, scan = _mask_of_file(case.mask, scans, contrast)
    elif settings.mask == "brain":
        raise InputError(
            "has no brain mask (…_desc-brain_mask.nii.gz in the dataset's derivatives)",
            path=next(iter(case.images.values())),
            remedy="Use --mask, or score the foreground.",
        )
    else:
        volume, scan = _foreground(scans[contrast], settings.mask == "whole"), contrast
    inside = to_slices(_resampled(volume, scan, grid, registration, "nearest"), None)[0] > 0.5
    if registration is not None:
        # The field of view of the other scan may not contain all of the grid.
        other = next(volume for name, volume in scans.items() if name != registration.fixed)
        covers = replace(grid, voxels=covered(other, grid, registration.result.transform))
        inside &= to_slices(covers, None)[0] > 0.5
    if not inside.any():
        path = case.mask or next(iter(case.images.values()))
        raise InputError("the mask is empty", path=path, remedy="Check the scan and its mask.")
    return inside


def _mask_of_file(path: Path, scans: dict[str, Volume], contrast: str) -> tuple[Volume, str]:
    """A binary mask, and the scan whose grid it has."""
    mask = read(path)
    names = [contrast, *(name for name in scans if name != contrast)]
    scan = next((name for name in names if grid_difference(scans[name], mask) is None), contrast)
    _must_be_on_one_grid(scans[scan], mask, "scan and mask", path)
    return replace(mask, voxels=mask.voxels > 0.5 * min(1.0, float(mask.voxels.max()))), scan


def _foreground(volume: Volume, whole: bool) -> Volume:
    """The foreground of a scan, or all of it, on its own grid."""
    if whole:
        return replace(volume, voxels=np.ones(volume.voxels.shape, bool))
    return replace(volume, voxels=Head(volume).mask)
