"""The grid of a synthetic scan, where it is not that of its source.

The scan is translated as it was acquired, and the result resampled
(docs/explanation/quality.md, "Thick slices").
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
from mrbridge.volume import Volume


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
        """The grid of a scan, whose NIfTI header is kept for the results.

        Raises:
            InputError: a 2D image.
        """
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
        if self.reference is None:
            return grid_with_spacing(scan, self.spacing)
        if scan.affine is not None and not covered(scan, self.reference).any():
            raise InputError(
                "is not where the grid is: their fields of view do not overlap",
                remedy="Register the two scans, or use --spacing.",
            )
        return self.reference

    def place(self, volume: Volume, grid: Volume, interpolation: Interpolation) -> Volume:
        """A volume on the grid from `for_scan`, and with its header."""
        return replace(resample(volume, grid, None, interpolation), header=grid.header)
