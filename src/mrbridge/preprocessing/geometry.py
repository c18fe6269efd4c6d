"""From a volume to axial slices and back.

Slices run from inferior to superior; within a slice rows run to posterior and columns to the
patient's left, as in an axial DICOM image. Orientation is changed by flips and permutations only.
In-plane resampling keeps the edges of the field of view in place. Every step can be undone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrbridge.threads import sharing_the_machine
from mrbridge.volume import Volume, check_size

_AXES = ("S", "P", "L")
_TOLERANCE = 0.01  # spacings that differ by less are the same: no interpolation for nothing
_BATCH = 64  # slices resampled at once, which bounds the memory


@dataclass(frozen=True)
class SliceGrid:
    """The grid of slices, which is all that the way back needs.

    Attributes:
        transform: flips and permutation from the source's axes to (slice, row, column), as
            `nibabel.orientations` writes them: (source axis) -> (axis, direction).
        full: (slices, rows, columns) before in-plane resampling.
        shape: (slices, rows, columns) after it.
        affine: (4, 4), from (slice, row, column) before resampling to RAS+ mm; None for 2D images.
        spacing: mm between slices, rows and columns after resampling; None for 2D images.
    """

    transform: tuple[tuple[int, int], ...]
    full: tuple[int, int, int]
    shape: tuple[int, int, int]
    affine: NDArray[np.float64] | None
    spacing: tuple[float, float, float] | None

    @property
    def stored_affine(self) -> NDArray[np.float64] | None:
        """(4, 4), from (slice, row, column) after resampling to RAS+ mm; None for 2D images."""
        if self.affine is None:
            return None
        steps = np.array(self.full) / np.array(self.shape)
        result = self.affine.copy()
        result[:3, :3] = self.affine[:3, :3] * steps
        result[:3, 3] += self.affine[:3, :3] @ ((steps - 1) / 2)  # edges stay in place
        return result

    @property
    def hash(self) -> str:
        """Equal for scans on one grid (to 0.01 mm), in any order of axes in their files."""
        places: list[int] = []
        if self.affine is not None:
            steps = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
            corners = np.array(steps) * (np.array(self.full) - 1)
            millimetres = corners @ self.affine[:3, :3].T + self.affine[:3, 3]
            # The odd offset keeps round numbers of mm away from the steps of the rounding.
            places = np.floor(millimetres / 0.01 + 0.3137).astype(int).ravel().tolist()
        return hashlib.sha256(repr((self.full, places)).encode()).hexdigest()[:16]


def to_slices(volume: Volume, spacing_mm: float | None) -> tuple[NDArray[np.float32], SliceGrid]:
    """Cut a volume into axial slices.

    Args:
        volume: any orientation; a 2D image is one slice.
        spacing_mm: in-plane spacing to resample to; None keeps that of the volume. Within 1 %
            nothing is resampled.

    Returns:
        Slices (slices, rows, columns), float32, and the grid for `from_slices`.

    Raises:
        InputError: it would be resampled, but its slices do not have the size of a head.
    """
    grid = slice_grid(volume, spacing_mm)
    if volume.affine is None:
        slices = volume.voxels.transpose(2, 0, 1)
    else:
        from nibabel.orientations import apply_orientation

        slices = apply_orientation(volume.voxels, np.array(grid.transform, float))
    values = np.ascontiguousarray(slices, dtype=np.float32)
    return resample(values, *grid.shape[1:]), grid


def slice_grid(volume: Volume, spacing_mm: float | None) -> SliceGrid:
    """The grid that `to_slices` gives, or its error; only the shape and the affine of the volume
    count."""
    shape = volume.voxels.shape
    if volume.affine is None:
        full = shape[2], shape[0], shape[1]
        return SliceGrid(((1, 1), (2, 1), (0, 1)), full, full, None, None)
    from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

    ornt = ornt_transform(io_orientation(volume.affine), axcodes2ornt(_AXES))
    transform = tuple((int(axis), int(flip)) for axis, flip in ornt)
    affine = volume.affine @ inv_ornt_aff(ornt, shape)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    count, high, wide = (shape[axis] for axis in np.argsort([axis for axis, _ in transform]))
    if spacing_mm is not None:
        check_size(shape, volume.affine)
    rows, columns = (
        resampled_size(size, float(step), spacing_mm)
        for size, step in zip((high, wide), spacing[1:], strict=True)
    )
    new = (float(spacing[0]), float(spacing[1]) * high / rows, float(spacing[2]) * wide / columns)
    return SliceGrid(transform, (count, high, wide), (count, rows, columns), affine, new)


def from_slices(slices: NDArray[Any], grid: SliceGrid) -> NDArray[Any]:
    """Undo `to_slices`: voxels in the shape and orientation of the source.

    Bit-identical if nothing was resampled, otherwise up to the error of interpolation.

    Args:
        slices: (slices, rows, columns) of `grid.shape`.

    Returns:
        float32; of masks bool, if nothing was resampled.
    """
    if slices.shape != grid.shape:
        raise ValueError(f"slices have the shape {slices.shape}, the grid {grid.shape}")
    values = slices
    if slices.dtype != bool or grid.shape != grid.full:
        values = resample(np.asarray(slices, np.float32), grid.full[1], grid.full[2])
    if grid.affine is None:
        return np.ascontiguousarray(values.transpose(1, 2, 0))
    from nibabel.orientations import apply_orientation, axcodes2ornt, ornt_transform

    back = ornt_transform(axcodes2ornt("RAS"), np.array(grid.transform, float))
    return np.ascontiguousarray(apply_orientation(values, back))


def fit_size(
    slices: NDArray[Any],
    rows: int,
    columns: int,
    fill: float = -1.0,
    shift: tuple[int, int] = (0, 0),
) -> NDArray[Any]:
    """Pad with `fill` or crop (..., rows, columns) about the centre.

    Fitting to the former size undoes it, up to what was cropped. `shift`, in pixels, moves the
    slices down and to the right.
    """
    fitted = _centred(slices, -2, rows, fill, shift[0])
    return _centred(fitted, -1, columns, fill, shift[1])


def size_multiple(size: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `size`."""
    return -(-size // multiple) * multiple


def resampled_size(size: int, step: float, spacing_mm: float | None) -> int:
    """How many pixels of `spacing_mm` cover `size` of `step` mm; within 1 % the number stays."""
    if spacing_mm is None or abs(step / spacing_mm - 1) <= _TOLERANCE:
        return size
    return max(1, round(size * step / spacing_mm))


def resample(slices: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """Bring slices to another size: bicubic, edges aligned, antialiased, never beyond the range."""
    if slices.shape[1:] == (rows, columns):
        return slices
    with sharing_the_machine():
        import torch  # takes a second, which scans of the wanted spacing do not need

    shrinks = rows < slices.shape[1] or columns < slices.shape[2]
    result = np.empty((len(slices), rows, columns), np.float32)
    for start in range(0, len(slices), _BATCH):
        batch = torch.from_numpy(np.ascontiguousarray(slices[start : start + _BATCH]))[:, None]
        result[start : start + _BATCH] = torch.nn.functional.interpolate(
            batch, size=(rows, columns), mode="bicubic", antialias=shrinks
        )[:, 0].numpy()
    # Bicubic kernels overshoot at edges: air next to the scalp would become negative.
    return np.clip(result, slices.min(), slices.max(), out=result)


def centred_start(size: int, present: int) -> int:
    """The pixel of `size` to which `fit_size` brings the first of `present`."""
    half = abs(size - present) // 2
    # Padding and cropping put an odd pixel on the same side, so that each undoes the other.
    return half if size >= present else -half


def _centred(
    slices: NDArray[Any], axis: int, size: int, fill: float, shift: int = 0
) -> NDArray[Any]:
    start = shift + centred_start(size, slices.shape[axis])
    keep = [slice(None)] * slices.ndim
    keep[axis] = slice(max(-start, 0), max(size - start, 0))
    kept = slices[tuple(keep)]
    before = min(max(start, 0), size)
    widths = [(0, 0)] * slices.ndim
    widths[axis] = before, size - before - kept.shape[axis]
    return np.pad(kept, widths, constant_values=fill) if any(widths[axis]) else kept
