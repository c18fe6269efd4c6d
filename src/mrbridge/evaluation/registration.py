"""Registration in an evaluation: of pairs on different grids, and as a use of synthetic scans.

The scans of a case are scored on one grid. The error of a registration in which the synthetic scan
takes the place of its source is measured by a known displacement: the real target scan is moved by
a rigid transform, by its affine only, so that no voxel is interpolated, and registered to the
synthetic scan. The reference is the same with the source itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from mrbridge.errors import InputError, warn
from mrbridge.evaluation.cases import Case, Direction
from mrbridge.evaluation.settings import EvaluateSettings
from mrbridge.io import read
from mrbridge.io.atomic import about
from mrbridge.io.nifti_header import other_by_intent
from mrbridge.io.remote import not_fetched
from mrbridge.preprocessing.foreground import Head, Mask, Stack, black_background
from mrbridge.preprocessing.geometry import to_slices
from mrbridge.preprocessing.registration import Registration, register
from mrbridge.preprocessing.resample import (
    Interpolation,
    Matrix,
    covered,
    grid_difference,
    moved,
    resample,
    stored_like,
)
from mrbridge.preprocessing.settings import PreprocessSettings
from mrbridge.preprocessing.skull_strip import (
    binary_mask,
    brain_of_mask,
    find_brain,
    implausible,
    mask_path,
    skull_stripped,
)
from mrbridge.preprocessing.template import LITRES, volume_l
from mrbridge.volume import Volume

SYNTHETIC = "synthesis"
"""The name of a synthetic image, next to the contrasts of the real scans."""

DEGREES = (6.0, -5.0, 7.0)
SHIFT_MM = (7.0, -6.0, 5.0)
"""The known displacement: rotations about the axes through the centre of the head, then a shift."""

_EQUALLY_THICK = 1.05  # ratio of slice thicknesses
_MOST_LESIONS_L, _MOST_LESIONS = 0.7, 0.5
"""Litres (half of a brain), and share of the image: more is not a mask of lesions."""


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
    scans = {contrast: black_background(read(path)) for contrast, path in case.images.items()}
    if case.synthetic is not None:
        scans[SYNTHETIC] = black_background(read(case.synthetic))
    if len(scans) < 2:
        return None
    (first, one), (second, other) = scans.items()
    other = stored_like(other, one)
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


class CaseScans:
    """The scans of a case in memory, on one grid.

    Attributes:
        volumes: the real scans on their own grids, by contrast: the input of a model.
        synthetic: the synthetic image, if it is not made by a model.
        grid: the scan on whose grid is scored.
        stacks, masks: the real scans and where to score against each, by contrast, on that grid.

    Raises:
        InputError: a scan cannot be read; the scans are on different grids and not registered; a
            synthetic scan in the place of a real one; the mask is missing or empty.
    """

    def __init__(
        self,
        case: Case,
        settings: EvaluateSettings,
        registration: PairRegistration | None = None,
        *,
        force: bool = False,
    ) -> None:
        self._case, self._settings, self._registration = case, settings, registration
        real = {contrast: read(path) for contrast, path in case.images.items()}
        for contrast, volume in real.items():
            if volume.synthetic:
                raise InputError(
                    "is marked as synthetic, so nothing can be scored against it",
                    path=case.images[contrast],
                    remedy="Use the scan as it was acquired.",
                )
            why = None if force else other_by_intent(volume.header)
            if why is not None:
                remedy = "Name another scan, or use --force."
                raise InputError(why, path=case.images[contrast], remedy=remedy)
        first = next(iter(real.values()))
        self.volumes = {
            contrast: stored_like(replace(volume, contrast=volume.contrast or contrast), first)
            for contrast, volume in real.items()
        }
        made = None if case.synthetic is None else read(case.synthetic)
        self.synthetic = None if made is None else stored_like(made, first)
        _must_be_of_one_contrast(list(real.values()), made, self._path)
        self.source = None if case.source is None else black_background(read(case.source))
        self._scans = {
            contrast: black_background(volume, tell=partial(warn, path=case.images[contrast]))
            for contrast, volume in self.volumes.items()
        }
        if self.synthetic is not None:
            self._scans[SYNTHETIC] = self.synthetic = black_background(self.synthetic)
        self.grid, *others = self._scans.values()
        if registration is not None:
            self.grid = self._scans[registration.fixed]
        else:
            for other in others:
                _must_be_on_one_grid(self.grid, other, "the scans of the pair", self._path)
        self.stacks = {c: self._slices(self._scans[c], c) for c in self.volumes}
        self.masks = {contrast: self._mask(contrast) for contrast in self.volumes}

    @property
    def affine(self) -> NDArray[np.float64] | None:
        """(4, 4), from (slice, row, column) of the scores to RAS+ mm; None for a 2D image."""
        return to_slices(self.grid, None)[1].stored_affine

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """Between slices, rows, columns in mm; None for a 2D image."""
        return to_slices(self.grid, None)[1].spacing

    @cached_property
    def _covered(self) -> Mask | None:
        """Where both scans of a registered pair were scanned, on the grid of the scores; None:
        everywhere."""
        if self._registration is None:
            return None
        fixed, transform = self._registration.fixed, self._registration.result.transform
        other = next(volume for name, volume in self._scans.items() if name != fixed)
        covers = replace(self.grid, voxels=covered(other, self.grid, transform))
        found: Mask = to_slices(covers, None)[0] > 0.5
        return None if found.all() else found

    def stack_of(self, image: Volume, source: str | None) -> Stack:
        """An image, on the grid of the real scan `source` (None: of the synthetic image), as slices
        on the grid of the scores."""
        return self._slices(image, source if source in self._scans else SYNTHETIC)

    def source_of(self, direction: Direction) -> Stack | None:
        """The scan that is translated, on the grid of the scores; None if it is not known."""
        if self.source is not None:
            return self._source
        return None if direction.source is None else self.stacks[direction.source]

    @cached_property
    def _source(self) -> Stack:
        assert self.source is not None
        assert self._case.source is not None
        return self._on_its_grid(self.source, self._case.source, "cubic")

    @cached_property
    def lesions(self) -> Mask | None:
        """The lesion mask on the grid of the scores; None if there is none.

        Raises:
            InputError: it is not a mask, covers most of the brain, or is on another grid.
        """
        path = self._case.lesions
        if path is None:
            return None
        mask = self._on_its_grid(_read_mask(path), path, "nearest") > 0.5
        if self.spacing is None:
            return mask
        litres = np.count_nonzero(mask) * math.prod(self.spacing) / 1e6
        if litres > _MOST_LESIONS_L or mask.mean() > _MOST_LESIONS:
            raise InputError(
                f"covers {mask.mean():.0%} of the image ({litres:.1f} litres), so it is not a mask "
                "of lesions",
                path=path,
                remedy="Give a file that is 0 outside of the lesions.",
            )
        return mask

    @cached_property
    def uncertainty(self) -> Stack | None:
        """The uncertainty map on the grid of the scores, None if there is none; InputError if it
        has negative values or only zeros."""
        path = self._case.uncertainty
        if path is None:
            return None
        widths = self._on_its_grid(read(path), path, "linear")
        if widths.min() < 0 or not widths.any():
            values = "only zeros" if widths.min() == 0 else "negative values"
            raise InputError(
                f"has {values}, so it is not an uncertainty map",
                path=path,
                remedy="Give half the width of the 90 % interval of every voxel.",
            )
        return widths

    @cached_property
    def brain(self) -> Mask | None:
        """The brain on the grid of the scores; None if none is found.

        A mask that was given and can be a brain, else that of a BIDS derivative, else the
        foreground of a skull-stripped scan, else what `--brain auto` finds.
        """
        if self.spacing is None:
            return None
        given = self._given_brain()
        if given is not None:
            return given
        names = sorted(self.volumes, key=lambda contrast: contrast != "T1w")
        for contrast in names:
            path = mask_path(self._case.images[contrast], PreprocessSettings().brain_mask)
            if path is not None and not_fetched(path) is None:
                scan = self._scans[contrast]
                inside = brain_of_mask(Head(scan), read(path))
                brain = self._slices(replace(scan, voxels=inside), contrast, "nearest") > 0.5
                if brain.any():
                    return brain
        head = Head(self._scans[names[0]])
        if volume_l(head.mask, head.volume) < LITRES[0]:
            return None
        try:
            stripped = skull_stripped(head.volume)
            found = head.mask if stripped else find_brain(head, "auto")
        except InputError:
            return None
        return self._slices(replace(head.volume, voxels=found), names[0], "nearest") > 0.5

    def _given_brain(self) -> Mask | None:
        if self._case.mask is None:
            return None
        mask, scan = self._mask_and_its_grid(next(iter(self.volumes)))
        voxels = np.asarray(mask.voxels, bool)
        if not voxels.any() or implausible(voxels, Head(self._scans[scan])) is not None:
            return None
        return self._slices(mask, scan, "nearest") > 0.5

    def _on_its_grid(self, image: Volume, path: Path, interpolation: Interpolation) -> Stack:
        """An image on the grid of any of the scans, as slices on the grid of the scores."""
        name, image = self._scan_on_its_grid(image, list(self._scans))
        _must_be_on_one_grid(self._scans[name], image, f"scan and {path.name}", path)
        return self._slices(image, name, interpolation)

    def _scan_on_its_grid(self, image: Volume, names: Sequence[str]) -> tuple[str, Volume]:
        """The first of the scans whose grid an image has, and the image with its axes like those of
        this scan; the first scan and the image as it is if it has the grid of none."""
        for name in names:
            turned = stored_like(image, self._scans[name])
            if grid_difference(self._scans[name], turned) is None:
                return name, turned
        return names[0], image

    @property
    def _path(self) -> Path:
        return next(iter(self._case.images.values()))

    def _slices(self, image: Volume, scan: str, interpolation: Interpolation = "cubic") -> Stack:
        """An image that is on the grid of `scan`, as slices on the grid of the scores."""
        registration = self._registration
        if registration is not None and scan != registration.fixed:
            image = resample(image, self.grid, registration.result.transform, interpolation)
        stack = to_slices(image, None)[0]
        # What only one of the scans covers is as if neither did.
        return stack if self._covered is None else np.where(self._covered, stack, np.float32(0))

    def _mask(self, contrast: str) -> Mask:
        """Where to score against one real scan, on the grid of the scores."""
        volume, scan = self._mask_and_its_grid(contrast)
        inside = self._slices(volume, scan, "nearest") > 0.5
        if not inside.any():
            path = self._case.mask or self._path
            raise InputError("the mask is empty", path=path, remedy="Check the scan and its mask.")
        return inside

    def _mask_and_its_grid(self, contrast: str) -> tuple[Volume, str]:
        """A binary mask, and the scan whose grid it has."""
        scan, path = self._scans[contrast], self._case.mask
        if path is not None:
            mask = _read_mask(path)
            names = [contrast, *(name for name in self._scans if name != contrast)]
            name, mask = self._scan_on_its_grid(mask, names)
            _must_be_on_one_grid(self._scans[name], mask, "scan and mask", path)
            return mask, name
        if self._settings.mask == "brain":
            raise InputError(
                "has no brain mask (…_desc-brain_mask.nii.gz in the dataset's derivatives)",
                path=self._path,
                remedy="Use --mask, or score the foreground.",
            )
        whole = self._settings.mask == "whole"
        inside = np.ones(scan.voxels.shape, bool) if whole else Head(scan).mask
        return replace(scan, voxels=inside), contrast


def _read_mask(path: Path) -> Volume:
    """See `binary_mask`; its errors name the file."""
    with about(path):
        return binary_mask(read(path))


def _must_be_of_one_contrast(real: list[Volume], synthetic: Volume | None, path: Path) -> None:
    """Refuse a synthetic image whose name says another contrast than that of the real scan."""
    made = None if synthetic is None else synthetic.contrast
    known = [volume.contrast for volume in real]
    if made is not None and made not in known and None not in known:
        raise InputError(
            f"is {known[0]}, and its synthetic image is {made}",
            path=path,
            remedy=f"Name the real {made} scan; --source names the scan it was made from.",
        )


def _must_be_on_one_grid(one: Volume, other: Volume, what: str, path: Path) -> None:
    difference = grid_difference(one, other)
    if difference is not None:
        raise InputError(
            f"{what} are not on one grid ({difference})",
            path=path,
            remedy="Register one to the other first, or use --register auto.",
        )


def registration_errors(
    target: Volume, synthetic: Volume, source: Volume | None, seed: int
) -> dict[str, float]:
    """Mean error over the head, in mm, of the rigid registration of the displaced target scan.

    Args:
        target: the real scan of the synthetic contrast, in register with the other two.
        synthetic: made from the source, on its grid.
        source: the scan that it was made from; None if unknown.

    Returns:
        `registration_error_mm`, with a source also `registration_error_source_mm`. A registration
        that does not converge gives infinity.
    """
    assert target.affine is not None
    inside = np.argwhere(Head(target).mask)
    points = moved(inside[:: max(1, len(inside) // 5000)].astype(float), target.affine)
    known = displacement(points.mean(axis=0))
    displaced = replace(target, affine=known @ target.affine)
    result = {}
    scans = {"registration_error_mm": synthetic, "registration_error_source_mm": source}
    for key, fixed in scans.items():
        if fixed is None:
            continue
        try:
            found = register(displaced, fixed, "rigid", seed).transform
        except InputError:
            result[key] = float("inf")
            continue
        apart = moved(points, found @ known) - points
        result[key] = float(np.linalg.norm(apart, axis=1).mean())
    return result


def displacement(centre: Matrix) -> Matrix:
    """The known transform, (4, 4) in RAS+ mm, about a point (3,)."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", DEGREES, degrees=True).as_matrix()
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + SHIFT_MM
    return matrix
