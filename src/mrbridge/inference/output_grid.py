"""The grid of a synthetic scan, where it is not that of its source.

A scan with thick slices is resampled to finer ones, translated, and the result is resampled to its
grid (docs/explanation/quality.md, "Thick slices").
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from mrbridge.errors import InputError
from mrbridge.preprocessing.resample import (
    Interpolation,
    covered,
    empty_grid,
    grid_with_spacing,
    resample,
)
from mrbridge.volume import CONTRASTS, Volume

_MUCH = 0.9
"""Voxels that are smaller by less are not worth an interpolation."""


@dataclass(frozen=True, eq=False)
class OutputGrid:
    """A voxel size along the axes of each scan, or the grid of a reference. Picklable.

    Attributes:
        spacing: in mm, one number or three.
        reference: a scan without its voxels.
    """

    spacing: tuple[float, ...] = ()
    reference: Volume | None = None

    @classmethod
    def of_reference(cls, scan: Volume) -> OutputGrid:
        """The grid of a scan, whose NIfTI header is kept for the results; InputError for a 2D
        image."""
        if scan.affine is None:
            raise InputError("is a 2D image, which has no grid in space", remedy="Name a volume.")
        grid = empty_grid(scan.voxels.shape, scan.affine)
        return cls(reference=replace(grid, header=scan.header))

    @property
    def label(self) -> str:
        """Of the BIDS entity `res`: `1mm`, `0p8x0p8x2mm`, `reference`."""
        return "reference" if self.reference is not None else f"{self._sizes('x', 'p')}mm"

    @property
    def words(self) -> str:
        """The field `Resolution` of sidecars, which BIDS requires with `res`."""
        if self.reference is not None:
            return "the grid of a reference image"
        return f"{self._sizes(' x ', '.')} mm{' isotropic' if len(set(self.spacing)) == 1 else ''}"

    def _sizes(self, between: str, point: str) -> str:
        sizes = self.spacing[: 1 if len(set(self.spacing)) == 1 else 3]
        return between.join(f"{size:g}".replace(".", point) for size in sizes)

    @property
    def key(self) -> str:
        """Equal for equal grids."""
        if self.reference is None:
            return self.words
        affine = np.asarray(self.reference.affine, np.float64)
        shape = np.array(self.reference.voxels.shape, np.int64)
        return hashlib.sha256(affine.tobytes() + shape.tobytes()).hexdigest()

    def for_scan(self, scan: Volume) -> Volume:
        """The grid of the result for a scan; its voxels take no memory.

        Raises:
            InputError: a 2D image, too many voxels, or the scan reaches nothing of the reference.
        """
        if scan.affine is None:
            raise InputError(
                "cannot be put on another grid: a 2D image has no position in space",
                remedy="Leave out --spacing and --grid.",
            )
        if self.reference is None:
            return grid_with_spacing(scan, self.spacing)
        if not covered(scan, self.reference).any():
            raise InputError(
                "is not where the grid is: their fields of view do not overlap",
                remedy="Register the two scans, or use --spacing.",
            )
        return self.reference

    def refined(self, scan: Volume, grid: Volume, least_mm: float | None) -> Volume:
        """The scan with smaller voxels along those of its axes where the result's `grid` has
        smaller ones, down to the model's voxel size `least_mm`; the scan itself, if its voxels are
        small enough."""
        assert scan.affine is not None
        assert grid.affine is not None
        own = np.linalg.norm(scan.affine[:3, :3], axis=0)
        wanted = np.linalg.norm(grid.affine[:3, :3], axis=0)
        along = np.abs((scan.affine[:3, :3] / own).T @ (grid.affine[:3, :3] / wanted))
        sizes = np.maximum(wanted[along.argmax(axis=1)], least_mm or 0)
        sizes = np.where(sizes < _MUCH * own, sizes, own)
        if np.array_equal(sizes, own):
            return scan
        fine = resample(scan, grid_with_spacing(scan, tuple(map(float, sizes))))
        return replace(fine, header=scan.header)

    def place(self, volume: Volume, grid: Volume, interpolation: Interpolation) -> Volume:
        """A volume on the grid from `for_scan`, and with its header.

        Outside of its field of view it is zero, or the lowest value of a contrast that may be
        negative, such as CT.
        """
        low = 0 if volume.contrast in CONTRASTS else min(volume.voxels.min(), 0)
        placed = resample(replace(volume, voxels=volume.voxels - low), grid, None, interpolation)
        return replace(placed, voxels=placed.voxels + low, header=grid.header)
