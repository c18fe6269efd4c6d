"""Cropping a scan to the head, so that its surroundings do not change its translation.

Instance norms take their statistics over a whole image, and thresholds and percentiles are taken
over a whole scan: the same head in a wider field of view would be another image to all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.errors import InputError
from mrbridge.preprocessing.foreground import Head
from mrbridge.preprocessing.geometry import SliceGrid, from_slices
from mrbridge.volume import MAX_VOXELS, Volume, check_size

_PIECE = 0.01  # of the largest piece of the foreground: smaller ones are not part of a head
_ROUNDS = 4  # of finding the head in what was cropped to it; usually two are enough
_BLANK_FACE = 0.6  # share of a face with one value, from which that value is the background,
_NOTHING = 0.005  # up to this share of the brightest value; it is within
_DARK = 0.1  # this share of the range from the darkest value

Index = tuple[int, int, int]


@dataclass(frozen=True)
class Crop:
    """A box of voxels, which may reach beyond the scan.

    Attributes:
        shape: (i, j, k) of the scan.
        low: first voxel of the box along each axis; negative if it begins before the scan.
        high: one past the last voxel.
        content: by axis, the first voxel and one past the last one of what was scanned: planes of
            one value at the faces are padding. None takes all.
        missing: by axis and side, voxels of the margin that the box lacks, because the head may
            continue beyond the scan.
    """

    shape: Index
    low: Index
    high: Index
    content: tuple[tuple[int, int], ...] | None = None
    missing: tuple[tuple[int, int], ...] = ((0, 0),) * 3

    @classmethod
    def whole(cls, volume: Volume) -> Crop:
        """All of a scan."""
        i, j, k = volume.voxels.shape
        return cls((i, j, k), (0, 0, 0), (i, j, k))

    def __call__(self, volume: Volume) -> Volume:
        """The voxels of the box, background beyond what was scanned; the affine follows."""
        content = self.content or tuple((0, size) for size in self.shape)
        scanned = volume.voxels[tuple(slice(*ends) for ends in content)]
        keep, widths = [], []
        for low, high, (first, last) in zip(self.low, self.high, content, strict=True):
            keep.append(slice(max(low - first, 0), min(high, last) - first))
            widths.append((max(first - low, 0), max(high - last, 0)))
        kept = scanned[tuple(keep)]
        if any(map(any, widths)):
            fill = [[_face(scanned, axis, side)[0] for side in (0, -1)] for axis in range(3)]
            kept = np.pad(kept, widths, constant_values=np.array(fill, kept.dtype))
        if volume.affine is None:
            return replace(volume, voxels=kept)
        affine = volume.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ np.array(self.low, float)
        return replace(volume, voxels=kept, affine=affine)

    def first(self, grid: SliceGrid) -> tuple[int, float, float]:
        """Where the box and its margin begin in the slices of the whole scan: slice, row, column.

        Args:
            grid: of the box; rows and columns are in its pixels, after resampling.
        """
        place, lacks = [0.0, 0.0, 0.0], self.lacks(grid)
        for source, (axis, direction) in enumerate(grid.transform):
            beyond = self.shape[source] - self.high[source]
            voxels = self.low[source] if direction == 1 else beyond
            place[axis] = voxels * grid.shape[axis] / grid.full[axis] - lacks[axis][0]
        return round(place[0]), place[1], place[2]

    def lacks(self, grid: SliceGrid) -> tuple[tuple[int, int], ...]:
        """What is `missing` before and after the slices, rows and columns of the box's grid.

        Never slices: interpolation between thick ones would blur the first and the last into them.
        """
        widths = [(0, 0)] * 3
        for source, (axis, direction) in enumerate(grid.transform):
            if axis == 0:
                continue
            scale = grid.shape[axis] / grid.full[axis]
            before, after = (round(voxels * scale) for voxels in self.missing[source][::direction])
            widths[axis] = before, after
        return tuple(widths)

    def undo(self, voxels: NDArray[Any], beyond: Any) -> NDArray[Any]:
        """Voxels of the box in the shape of the scan; `beyond` outside the box."""
        result = np.full(self.shape, beyond, voxels.dtype)
        sides = list(zip(self.low, self.high, self.shape, strict=True))
        scan = tuple(slice(max(low, 0), min(high, size)) for low, high, size in sides)
        box = tuple(slice(max(-low, 0), min(high, size) - low) for low, high, size in sides)
        result[scan] = voxels[box]
        return result


def head_crop(volume: Volume, margin_mm: float) -> Crop:
    """The box around the head, the same for any field of view that holds the head.

    Planes of one value at the faces of the scan do not count, so that padding with zeros changes
    nothing. The box reaches beyond the field of view if the face is mostly of one value, as around
    a skull-stripped brain. Otherwise there may be noise, or more of the head.

    Args:
        volume: a scan of any orientation, or a 2D image.
        margin_mm: around the foreground along each axis, as far as there is air; pixels of a 2D
            image.

    Returns:
        All of the scan if it shows nothing.

    Raises:
        InputError: its size cannot be that of a head.
    """
    return _search(volume, margin_mm)[0]


def crop_to_head(volume: Volume, margin_mm: float) -> tuple[Crop, Head]:
    """`head_crop`, and the scan in that box."""
    crop, last = _search(volume, margin_mm)
    cropped = crop(volume)
    # Without padding it is what was searched last.
    known = last is not None and last.volume.voxels.shape == cropped.voxels.shape
    return crop, Head(cropped, last.foreground if last is not None and known else None)


def _search(volume: Volume, margin_mm: float) -> tuple[Crop, Head | None]:
    """The crop, and the head in the part of the scan that is in the box; None if unknown."""
    if volume.affine is not None:
        check_size(volume.voxels.shape, volume.affine)
    content = _content(volume.voxels)
    if content is None:
        return Crop.whole(volume), None
    shown = content(volume)
    margin = np.ceil(margin_mm / np.array(volume.spacing or (1.0, 1.0, margin_mm + 1))).astype(int)
    if volume.spacing is None:
        margin[2] = 0  # a 2D image is one slice
    extent = np.array(shown.voxels.shape)
    low, high = np.zeros(3, int), extent
    first, last, inside = low, high, None
    for _ in range(_ROUNDS):
        part = Head(replace(shown, voxels=shown.voxels[tuple(map(slice, low, high))]))
        box = _box(part)
        if box is None:
            return content, None
        first, last = low + box[0] - margin, low + box[1] + margin
        before, low, high = (low, high), np.maximum(first, 0), np.minimum(last, extent)
        if np.array_equal(before[0], low) and np.array_equal(before[1], high):
            inside = part
            break
    missing = []
    for axis in range(3):
        blank = [_face(shown.voxels, axis, side)[1] for side in (0, -1)]
        lacks = max(0, int(low[axis] - first[axis])), max(0, int(last[axis] - high[axis]))
        missing.append((0 if blank[0] else lacks[0], 0 if blank[1] else lacks[1]))
        first[axis] += missing[axis][0]
        last[axis] -= missing[axis][1]
    if np.prod(last - first, dtype=float) > MAX_VOXELS:
        raise InputError(
            f"the margin around the head would make it a volume of more than {MAX_VOXELS} voxels",
            remedy="Check the voxel size in its header.",
        )
    origin = np.array(content.low)
    ends = _index(origin + first), _index(origin + last)
    scanned = tuple(zip(content.low, content.high, strict=True))
    return Crop(content.shape, *ends, scanned, tuple(missing)), inside


def _index(place: NDArray[np.int_]) -> Index:
    i, j, k = place.tolist()
    return i, j, k


def _content(voxels: NDArray[Any]) -> Crop | None:
    """Without the outer planes of one value each; None if nothing is left."""
    low, high = [0, 0, 0], list(voxels.shape)
    before = None
    while before != (low, high):
        before = list(low), list(high)
        for axis in range(3):
            part = np.moveaxis(voxels[tuple(map(slice, low, high))], axis, 0)
            flat = [_is_flat(plane) for plane in (part[0], part[-1])]
            if not any(flat):
                continue
            planes = part.reshape(len(part), -1)
            rough = np.flatnonzero(planes.min(axis=1) != planes.max(axis=1))
            if not rough.size:
                return None
            start = low[axis]
            low[axis], high[axis] = start + int(rough[0]), start + int(rough[-1]) + 1
    i, j, k = voxels.shape
    return Crop((i, j, k), _index(np.array(low)), _index(np.array(high)))


def _is_flat(plane: NDArray[Any]) -> bool:
    return bool(plane.min() == plane.max())


def _box(head: Head) -> tuple[NDArray[np.int_], NDArray[np.int_]] | None:
    """The box of the foreground: first voxel and one past the last one, along each axis."""
    mask = head.foreground
    labels, count = ndimage.label(mask)
    if not count:
        return None
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    if count > 1:
        mask = (sizes >= _PIECE * sizes.max())[labels]
    inside = from_slices(mask.astype(np.float32), head.grid) > 0
    shown = [np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return np.array([s[0] for s in shown]), np.array([s[-1] + 1 for s in shown])


def _face(voxels: NDArray[Any], axis: int, side: int) -> tuple[float, bool]:
    """The background beyond a face, and whether it fills most of the face.

    It is 0, or the value of most of the face if that is dark.
    """
    face = np.take(voxels, side, axis)
    value, low, high = float(np.median(face)), float(voxels.min()), float(voxels.max())
    nothing = _NOTHING * high
    if abs(value) <= nothing:
        value = 0.0
    elif value - low > _DARK * (high - low):
        return min(max(0.0, low), high), False
    return value, bool(np.mean(np.abs(face - value) <= nothing) >= _BLANK_FACE)
