"""The scans of a case on one grid, registered first where they do not lie on one."""

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
from mrbridge.preparation.geometry import SliceGrid, from_slices, to_slices
from mrbridge.preparation.intensity import foreground_mask
from mrbridge.preparation.register import Registration, register
from mrbridge.preparation.resample import Interpolation, covered, grid_difference, resample
from mrbridge.volume import Volume

Stack = NDArray[np.float32]
Mask = NDArray[np.bool_]

_SYNTHESIS = "synthesis"  # beside the contrasts of true scans
_AS_THICK = 1.05  # slices whose thickness differs by less are equally thick


@dataclass(frozen=True)
class Placement:
    """How the two scans of a pair came onto one grid.

    Attributes:
        onto: the scan whose grid it is: a contrast, or `synthesis`.
        found: where the other scan lies in it.
    """

    onto: str
    found: Registration

    def as_json(self) -> dict[str, Any]:
        """The registration, and on whose grid was scored."""
        return {"scored_on_grid_of": self.onto} | self.found.as_json()


@dataclass(frozen=True)
class PlacedScans:
    """A case in memory, ready to be scored.

    Attributes:
        volumes: the true scans as they lie in their files, by contrast: what a model translates.
        stacks, masks: the true scans, and where to score against each, by contrast; (slices, rows,
            columns) on one grid.
        ground: that grid.
        synthetic: the synthesis, where it was given rather than to be made.
    """

    volumes: dict[str, Volume]
    stacks: dict[str, Stack]
    masks: dict[str, Mask]
    ground: Ground
    synthetic: Volume | None

    @property
    def grid(self) -> SliceGrid:
        """As `to_slices` tells it."""
        return to_slices(self.ground.onto, None)[1]

    def stack_of(self, image: Volume, source: str | None) -> Stack:
        """An image as slices on the grid that is scored on.

        Args:
            image: what lies on the grid of the true scan `source`; or, where that is None, the
                given synthesis.
        """
        return to_slices(self.ground.bring(image, source or _SYNTHESIS), None)[0]


@dataclass(frozen=True)
class Ground:
    """The grid that is scored on, and the way there.

    Attributes:
        onto: the scan whose grid it is.
        placement: how the other scan comes there; None where all lie on it.
    """

    onto: Volume
    placement: Placement | None = None

    def bring(self, image: Volume, scan: str, interpolation: Interpolation = "cubic") -> Volume:
        """An image on the grid of `scan` (a contrast, or `synthesis`), on this grid."""
        if self.placement is None or scan == self.placement.onto:
            return image
        return resample(image, self.onto, self.placement.found.transform, interpolation)

    def reached_by(self, scan: Volume) -> Mask:
        """Where the field of view of the other scan reaches; (slices, rows, columns)."""
        assert self.placement is not None
        inside = covered(scan, self.onto, self.placement.found.transform)
        return to_slices(replace(self.onto, voxels=inside), None)[0] > 0.5


def register_pair(case: Case, settings: EvaluateSettings) -> Placement | None:
    """Find out how the two scans of a case come onto one grid.

    Scores are counted on the grid of the scan with the thicker slices (of the first, where they
    are equally thick): what the other one shows between them, nothing could be compared with. Its
    voxels stay as they were acquired.

    Returns:
        None where nothing has to be done: there is one scan, or, with `registration` as `auto`,
        both lie on one grid. Scans without a place in space are left to whoever compares them.

    Raises:
        InputError: a scan cannot be read, or registration did not converge.
    """
    if settings.registration == "off":
        return None
    scans = {contrast: read(path) for contrast, path in case.images.items()}
    if case.synthetic is not None:
        scans[_SYNTHESIS] = read(case.synthetic)
    if len(scans) < 2:
        return None
    (first, one), (second, other) = scans.items()
    flat = one.affine is None or other.affine is None
    if settings.registration == "auto" and (flat or grid_difference(one, other) is None):
        return None
    if _thickness(other) > _AS_THICK * _thickness(one):
        (first, one), (second, other) = (second, other), (first, one)
    kind = "rigid" if settings.registration == "auto" else settings.registration
    try:
        return Placement(first, register(other, one, kind, settings.seed))
    except InputError as error:
        what = f"{second} and {first} could not be brought together: {error.what}"
        raise InputError(what, remedy=error.remedy) from None


def read_placed(
    case: Case, settings: EvaluateSettings, placement: Placement | None = None
) -> PlacedScans:
    """Read a case, its masks included, and bring it onto one grid.

    Args:
        case: what to score.
        settings: where to score.
        placement: what `register_pair` found.

    Raises:
        InputError: not on one grid without a placement; a synthetic scan in the place of a true
            one; no mask, or an empty one.
    """
    volumes = {contrast: read(path) for contrast, path in case.images.items()}
    for contrast, volume in volumes.items():
        if volume.synthetic:
            raise InputError(
                "says of itself that it is synthetic, so it is no truth to score against",
                path=case.images[contrast],
                remedy="Give the scan as it was acquired.",
            )
    synthetic = None if case.synthetic is None else read(case.synthetic)
    scans = volumes | ({} if synthetic is None else {_SYNTHESIS: synthetic})
    first, *others = scans.values()
    if placement is None:
        for other in others:
            path = next(iter(case.images.values()))
            _check_one_grid(first, other, "the scans of the pair", path)
        ground = Ground(first)
    else:
        ground = Ground(scans[placement.onto], placement)
    stacks = {c: to_slices(ground.bring(volume, c), None)[0] for c, volume in volumes.items()}
    masks = {c: _mask(case, settings, scans, c, ground) for c in volumes}
    return PlacedScans(volumes, stacks, masks, ground, synthetic)


def _thickness(volume: Volume) -> float:
    return max(volume.spacing or (0.0,))


def _check_one_grid(one: Volume, other: Volume, what: str, path: Path) -> None:
    difference = grid_difference(one, other)
    if difference is not None:
        raise InputError(
            f"{what} are not on one grid ({difference})",
            path=path,
            remedy="Register one to the other first, or say --register auto.",
        )


def _mask(
    case: Case, settings: EvaluateSettings, scans: dict[str, Volume], contrast: str, ground: Ground
) -> Mask:
    """Where to score against one true scan, on the grid that is scored on."""
    if case.mask is not None:
        volume, scan = _given_mask(case.mask, scans, contrast)
    elif settings.mask == "brain":
        raise InputError(
            "has no brain mask (…_desc-brain_mask.nii.gz in the data set's derivatives)",
            path=next(iter(case.images.values())),
            remedy="Give masks, or score the foreground.",
        )
    else:
        volume, scan = _found_mask(scans[contrast], settings.mask == "whole"), contrast
    inside = to_slices(ground.bring(volume, scan, "nearest"), None)[0] > 0.5
    if ground.placement is not None:
        others = (scan for name, scan in scans.items() if name != ground.placement.onto)
        inside &= ground.reached_by(next(others))
    if not inside.any():
        path = case.mask or next(iter(case.images.values()))
        raise InputError("the mask is empty", path=path, remedy="Check the scan and its mask.")
    return inside


def _given_mask(path: Path, scans: dict[str, Volume], contrast: str) -> tuple[Volume, str]:
    """A mask of zeros and ones, and the scan on whose grid it lies."""
    mask = read(path)
    names = [contrast, *(name for name in scans if name != contrast)]
    scan = next((n for n in names if grid_difference(scans[n], mask) is None), None)
    if scan is None:
        _check_one_grid(scans[contrast], mask, "scan and mask", path)
    inside = mask.voxels > 0.5 * min(1.0, float(mask.voxels.max()))
    return replace(mask, voxels=inside), scan or contrast


def _found_mask(volume: Volume, whole: bool) -> Volume:
    """The foreground of a scan, or all of it, on its own grid."""
    if whole:
        return replace(volume, voxels=np.ones(volume.voxels.shape, bool))
    slices, grid = to_slices(volume, None)
    inside = from_slices(foreground_mask(slices).astype(np.float32), grid) > 0.5
    return replace(volume, voxels=inside)
