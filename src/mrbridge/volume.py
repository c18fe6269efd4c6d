"""Volume: voxels and where they lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrbridge.settings import Planes

__all__ = ["CONTRASTS", "Planes", "Volume"]

CONTRASTS = ("T1w", "T2w", "PDw", "FLAIR")
"""The contrasts that mrbridge knows, by their BIDS suffixes."""


@dataclass(frozen=True, eq=False)
class Volume:
    """One scan.

    Attributes:
        voxels: real numbers, shape (i, j, k) in the order of the file. A picture has the shape
            (rows, columns, 1).
        affine: (4, 4) float64, from voxel index (i, j, k, 1) to RAS+ millimetres; None for a
            picture, which has no place in space.
        header: the header of the file that it came from (`nibabel.Nifti1Header`,
            `io.picture.PictureHeader` or `io.dicom.DicomHeader`), kept so that it can go back as
            it came; None if made here.
        contrast: its BIDS suffix where known (`T1w`, `T2w`, `PDw`, `FLAIR`).
        other: why it is known to be none of these contrasts, as in "is a phase image"; None where
            it is not known to be something else.
        synthetic: whether the file says of itself that it was synthesised.
        notes: what reading mended or assumed, in words.
    """

    voxels: NDArray[Any]
    affine: NDArray[np.float64] | None
    header: Any = None
    contrast: str | None = None
    synthetic: bool = False
    other: str | None = None
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.voxels.ndim != 3:
            raise ValueError(f"voxels have {self.voxels.ndim} axes, not 3")
        if self.affine is not None and self.affine.shape != (4, 4):
            raise ValueError(f"affine has shape {self.affine.shape}, not (4, 4)")

    @property
    def is_picture(self) -> bool:
        """Whether it is a picture: pixels without a place in space."""
        return self.affine is None

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """Millimetres between voxel centres along i, j, k; None for a picture."""
        if self.affine is None:
            return None
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)
