"""Volume: voxels and their position in space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mrbridge.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONTRASTS = ("T1w", "T2w", "PDw", "FLAIR")
"""The contrasts that mrbridge knows, by their BIDS suffixes."""

MAX_VOXELS = 2**30
"""The most voxels that a volume may have; a header that promises more counts as damaged."""

_SMALLEST_VOXEL_MM = 0.01
_SMALLEST_MM, _LARGEST_MM = 2.0, 2000.0  # no slice of a head, with or without air, is beyond


def check_size(shape: tuple[int, ...], affine: NDArray[np.float64]) -> None:
    """Refuse (InputError without a path) a size in mm that must be a mistake, such as metres taken
    for millimetres: shape (i, j, k), invertible affine (4, 4) to RAS+ mm. Resampling such a volume,
    or a margin around it, would take all memory, or leave one pixel. A single coronal or sagittal
    slice is refused, too: its axial slices are lines.
    """
    import numpy as np
    from nibabel import io_orientation

    steps = np.linalg.norm(affine[:3, :3], axis=0)
    order = np.argsort(io_orientation(affine)[:, 0])  # the axes towards right, front and top
    for axis, plane in zip(order, ("sagittal", "coronal"), strict=False):
        if shape[axis] == 1:
            raise InputError(
                f"is a single {plane} slice, and volumes are processed as axial slices",
                remedy="Name the whole volume, or save the slice as a 2D image.",
            )
    rows, columns = (float(shape[axis] * steps[axis]) for axis in order[1::-1])
    if not _SMALLEST_MM <= max(rows, columns) <= _LARGEST_MM:
        what = f"its slices would be {rows:.3g} x {columns:.3g} mm large"
    elif steps.min() < _SMALLEST_VOXEL_MM:
        what = f"its voxels would be {' x '.join(f'{step:.3g}' for step in steps)} mm large"
    else:
        return
    raise InputError(
        what, remedy="Check the voxel size in its header, and the unit (xyzt_units of NIfTI)."
    )


def corner_distance(
    first: NDArray[np.float64], second: NDArray[np.float64], shape: tuple[int, ...]
) -> float:
    """The largest distance in mm between the corners of an image of shape (i, j, k) on two affines,
    (4, 4) to RAS+ mm."""
    import numpy as np

    corners = np.array(np.meshgrid(*[[0, size - 1] for size in shape])).reshape(3, -1)
    apart = (first - second) @ np.vstack([corners, np.ones(8)])
    return float(np.linalg.norm(apart[:3], axis=0).max())


@dataclass(frozen=True)
class Verdict:
    """Whether the model knows this kind of scan.

    Attributes:
        level: `usual`, `unusual` or `refused`; with `--force` a refused scan is translated.
        reasons: why, in words, the strongest first; each completes a sentence that begins with the
            scan. Empty if it is usual.
        measured: what was measured, by name (see `mrbridge.inference.appearance.Appearance`).
    """

    level: Literal["usual", "unusual", "refused"]
    reasons: tuple[str, ...] = ()
    measured: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return ": ".join([self.level, *["; ".join(self.reasons)][: len(self.reasons)]])

    def as_json(self) -> dict[str, Any]:
        """The entry in sidecars and reports."""
        return {"Level": self.level, "Reasons": list(self.reasons)}


@dataclass(frozen=True, eq=False, repr=False)
class Volume:
    """One scan.

    Attributes:
        voxels: real numbers, shape (i, j, k) in the order of the file. A 2D image has the shape
            (rows, columns, 1).
        affine: (4, 4) float64, from voxel index (i, j, k, 1) to RAS+ millimetres; None for a 2D
            image, which has no position in space.
        header: the header of the file (`nibabel.Nifti1Header`, `io.image2d.Image2DHeader` or
            `io.dicom.Series`), kept so that it can be written back; None for a volume that was not
            read from a file.
        contrast: its BIDS suffix if known (`T1w`, `T2w`, `PDw`, `FLAIR`).
        other: why it is known to be none of these contrasts, as in "is a phase image"; None if
            nothing of the kind is known.
        synthetic: whether the file says that it is synthetic.
        notes: what reading corrected or assumed, in words.
        uncertainty: of a synthetic scan for which it was asked: half the width of the 90 % interval
            of each voxel, float32, the shape and units of `voxels`.
        verdict: of a synthetic scan: whether the model knows this kind of scan as its source.
    """

    voxels: NDArray[Any]
    affine: NDArray[np.float64] | None
    header: Any = None
    contrast: str | None = None
    synthetic: bool = False
    other: str | None = None
    notes: tuple[str, ...] = field(default=())
    uncertainty: NDArray[np.float32] | None = None
    verdict: Verdict | None = None

    def __post_init__(self) -> None:
        if self.voxels.ndim != 3:
            raise ValueError(f"voxels have {self.voxels.ndim} axes, not 3")
        if self.affine is not None and self.affine.shape != (4, 4):
            raise ValueError(f"affine has shape {self.affine.shape}, not (4, 4)")

    @property
    def is_2d(self) -> bool:
        """Whether it is a 2D image: pixels without a position in space."""
        return self.affine is None

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """Millimetres between voxel centres along i, j, k; None for a 2D image."""
        if self.affine is None:
            return None
        i, j, k = (self.affine[:3, :3] ** 2).sum(axis=0) ** 0.5
        return float(i), float(j), float(k)

    def _facts(self) -> dict[str, str]:
        spacing = self.spacing
        return {
            "contrast": ("synthetic " if self.synthetic else "") + (self.contrast or "unknown"),
            "shape": " x ".join(map(str, self.voxels.shape)),
            "voxels": "pixels of a 2D image"
            if spacing is None
            else " x ".join(f"{step:.3g}" for step in spacing) + " mm",
            "type": str(self.voxels.dtype),
        }

    def __repr__(self) -> str:
        return f"Volume({', '.join(self._facts().values())})"

    def _repr_html_(self) -> str:
        from mrbridge.reports import html_table

        return html_table(self._facts().items(), ("scan", ""))
