"""The foreground of a scan (the head, or the brain of a skull-stripped scan), and the crop to it.

Instance norms take their statistics over a whole image, and thresholds and percentiles are taken
over a whole scan: the same head in a wider field of view would be another image to all of them. So
every scan is cropped to the head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.errors import InputError
from mrbridge.preprocessing.geometry import SliceGrid, from_slices, to_slices
from mrbridge.volume import CONTRASTS, MAX_VOXELS, Volume, check_size

Stack = NDArray[np.float32]
"""Slices, (slices, rows, columns)."""
Mask = NDArray[np.bool_]

_BLANK, _BLANK_EDGE = 0.2, 0.99  # shares of exact zeros, of all pixels and of the outermost ones
_BLANK_MARGIN = 1.08
"""Largest ratio of nonblank voxels to the foreground for a scan to count as stripped: 1.00 to 1.01
in stripped brains of open-ms-mni, 1.16 to 1.25 in whole heads of open-ms-raw with partly zeroed
air."""

_PIECES = 100  # pieces that are this many times smaller than the largest one are not part of a head
_ROUNDS = 4  # of finding the head and cropping to it; usually two are enough
_BLANK_FACE = 0.6  # share of a face with one value, from which that value is the background,
_NOTHING = 0.005  # up to this share of the brightest value; it is within
_DARK = 0.1  # this share of the range from the darkest value

_NOT_BLACK = 0.1  # of the range of intensities: a background further below zero is not black
_ONE_VALUE = 0.9  # share of the faces with one value, from which on it is the background
_DARKER = 5  # per cent of the image that are darker than the surroundings of a brain of mean 0
_BLACK = 0.5  # per cent of a brain of mean 0 that are black
_SAMPLE = 1 << 20  # voxels, about, of which percentiles are taken
_MEAN_0 = "the intensities of its brain are around 0; the darkest count as background"


class Head:
    """A scan with its slices and its foreground, each computed once.

    Attributes:
        slices: float32 (slices, rows, columns) on its own grid.
        grid: the way back from these slices.
    """

    def __init__(self, volume: Volume, foreground: Mask | None = None) -> None:
        """`foreground`: if it is known already."""
        self.volume = volume
        self.slices, self.grid = to_slices(volume, None)
        if foreground is not None:
            self.foreground = foreground  # takes the place of the cached property

    @cached_property
    def levels(self) -> tuple[float, float]:
        """Intensities of the background and of what is bright."""
        return _levels(self.slices)

    @cached_property
    def foreground(self) -> Mask:
        """Where the head is, (slices, rows, columns), see `foreground_mask`."""
        return foreground_mask(self.slices, self.levels)

    @cached_property
    def mask(self) -> Mask:
        """Where the head is, (i, j, k)."""
        return from_slices(self.foreground, self.grid) > 0.5

    @cached_property
    def stripped(self) -> Mask | None:
        """The anatomy, (i, j, k), of a scan whose surroundings were set to zero; else None."""
        outside = blank_outside(self.slices, self.foreground)
        return None if outside is None else from_slices(~outside, self.grid) > 0.5


def black_background(
    volume: Volume, contrast: str | None = None, tell: Callable[[str], object] | None = None
) -> Volume:
    """Shift the intensities so that the background is zero, as in magnitude images.

    A background of one value other than zero, or far below zero, is subtracted: scans in [-1, 1],
    with a constant added, stored as integers with an intercept (nibabel) of which none is zero, or
    whole heads scaled to mean 0. If only the brain was scaled to mean 0,
    its surroundings, which are exactly zero, are as bright as the brain: its darkest voxels and the
    surroundings become zero.

    Args:
        volume: finite voxels of any type, (i, j, k).
        contrast: if it is known; others than T1w, T2w, PDw and FLAIR, such as CT, may be negative
            and remain as they are.
        tell: called with the note that the scan gets if only the brain was scaled to mean 0.

    Returns:
        The scan itself if its background is zero already, else a copy in float32.
    """
    if contrast not in (None, *CONTRASTS):
        return volume
    voxels = volume.voxels
    longest = np.argsort(voxels.shape)[1:]  # faces of thin slabs are slices
    planes = [np.moveaxis(voxels, axis, 0) for axis in longest]
    faces = np.concatenate([plane[end].ravel() for plane in planes for end in (0, -1)])
    level = float(np.median(faces))
    if level == 0 and voxels.min() >= 0:
        return volume
    values = _sampled(voxels).astype(np.float64)
    is_one_value = bool(np.mean(faces == level) >= _ONE_VALUE)
    values = values[values != level] if is_one_value else values
    if not values.size:
        return volume
    black, dark, top = (float(x) for x in np.percentile(values, (_BLACK, _DARKER, 99.9)))
    limit = _NOT_BLACK * (top - level)
    if is_one_value and dark < level - limit:
        shifted = np.maximum(voxels.astype(np.float32) - np.float32(black), 0)
        shifted[voxels == level] = 0
        if tell is not None:
            tell(_MEAN_0)
        return replace(volume, voxels=shifted, notes=(*volume.notes, _MEAN_0))
    if level < -limit or (is_one_value and level and level <= dark):
        return replace(volume, voxels=voxels.astype(np.float32) - np.float32(level))
    return volume


def _sampled(voxels: NDArray[Any]) -> NDArray[Any]:
    """Voxels, evenly spaced in memory, that are enough for percentiles."""
    return voxels.ravel(order="K")[:: max(1, voxels.size // _SAMPLE) | 1]


def _levels(slices: Stack) -> tuple[float, float]:
    """The median of the darkest tenth, and the 99.9th percentile, or the maximum if that is not
    brighter."""
    values = _sampled(slices)
    dark, bright = np.percentile(values, (10, 99.9)).astype(slices.dtype)
    background = float(np.median(values[values <= dark]))
    return background, float(bright if bright > background else slices.max())


def foreground_mask(slices: Stack, levels: tuple[float, float] | None = None) -> Mask:
    """Where the head (or the skull-stripped brain) is, holes filled slice by slice.

    The threshold is Otsu's (IEEE Trans. SMC 9:62, 1979) on the square root of the intensities,
    halved: the root brings dark fluid and bright fat nearer to each other than to air. If the edge
    of the image, which is mostly air, is noisier than that, its noise is the threshold.

    Args:
        slices: intensities of any unit, (slices, rows, columns).
        levels: `Head.levels`, if they are known.

    Returns:
        A mask of the same shape; empty for a constant image.
    """
    background, top = levels or _levels(slices)
    if not top > background:
        return np.zeros(slices.shape, bool)
    roots = (slices - background) / (top - background)
    np.sqrt(np.clip(roots, 0, 1, out=roots), out=roots)
    threshold = _otsu(roots)
    noise = float(np.percentile(_edges(roots), 90))
    return _solid(roots > max(0.5 * threshold, min(noise, threshold)))


def blank_outside(slices: Stack, foreground: Mask) -> Mask | None:
    """Where everything around the anatomy was set to zero; None if it was not.

    The air of a whole head may be partly zero: the rest of its noise is not anatomy.

    Args:
        slices: intensities of any unit, (slices, rows, columns).
        foreground: where the head or brain is; same shape.

    Returns:
        A mask of the same shape: exact zeros connected to the edge of their slice. Zeros that the
        anatomy encloses belong to it.
    """
    zero = slices == 0
    if zero.mean() < _BLANK or _edges(zero).mean() < _BLANK_EDGE:
        return None
    outside = np.stack([_connected_to_edge(plane) for plane in zero])
    most = _BLANK_MARGIN * np.count_nonzero(foreground)
    return outside if np.count_nonzero(~outside) <= most else None


def _connected_to_edge(plane: Mask) -> Mask:
    """The part of a mask that reaches the edge of the plane, (rows, columns)."""
    labels, _ = ndimage.label(np.pad(plane, 1, constant_values=True))
    return np.asarray(labels[1:-1, 1:-1] == labels[0, 0])


def has_surroundings(slices: Stack, foreground: Mask) -> bool:
    """Whether there is more than the anatomy, such as the noise of air: nothing was cut away then.

    False is not conclusive: a whole head may fill its image, or be surrounded by air that was set
    to zero.

    Args:
        slices: intensities of any unit, (slices, rows, columns).
        foreground: where the head or brain is; same shape.
    """
    return bool(np.count_nonzero(slices) > _BLANK_MARGIN * np.count_nonzero(foreground) > 0)


def _edges(slices: NDArray[Any]) -> NDArray[Any]:
    """The outermost three pixels of every slice, flat."""
    rows = np.concatenate([slices[:, :3], slices[:, -3:]], axis=1)
    columns = np.concatenate([slices[:, :, :3], slices[:, :, -3:]], axis=2)
    return np.concatenate([rows.ravel(), columns.ravel()])


def _otsu(values: NDArray[np.float32]) -> float:
    """Otsu's threshold of values in [0, 1].

    That of scikit-image, on the same histogram, without the 0.08 s that importing it takes.
    """
    bins = ((plane * 256).astype(np.intp).ravel() for plane in values)  # exact, and in cache
    counts = np.sum([np.bincount(one, minlength=257) for one in bins], axis=0)
    counts = np.append(counts[:255], counts[255:].sum())  # the last bin includes 1
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * (np.arange(256) + 0.5) / 256)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = sums / below - (sums[-1] - sums) / above
        variance = np.nan_to_num(below * above * apart**2)
    return (int(np.argmax(variance)) + 1) / 256


def _solid(mask: Mask) -> Mask:
    """Remove specks and fill holes, slice by slice (a slice may be all there is)."""
    result = np.zeros_like(mask)
    for index, plane in enumerate(mask):
        box = ndimage.find_objects(plane.view(np.uint8))
        if not box:
            continue
        closed = np.pad(plane[box[0]], 3)
        # Opened by a pixel, closed by two.
        for combine in (np.logical_and, *[np.logical_or] * 3, *[np.logical_and] * 2):
            closed = _with_neighbours(closed, combine)
        result[index][box[0]] = _large_pieces(~_connected_to_edge(~closed))[3:-3, 3:-3]
    return result


def _large_pieces(mask: Mask) -> Mask:
    """Without pieces that are too small for a part of a head, in two or three dimensions."""
    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray((sizes > sizes.max() / _PIECES)[labels])


def _with_neighbours(plane: Mask, combine: np.ufunc) -> Mask:
    """Each pixel combined with its four neighbours, (rows, columns): by `logical_and` eroded, by
    `logical_or` dilated, several times as fast as by `ndimage`. The outermost pixels are unset.
    """
    result = plane.copy()
    for here, there in (
        (np.s_[1:], np.s_[:-1]),
        (np.s_[:-1], np.s_[1:]),
        (np.s_[:, 1:], np.s_[:, :-1]),
        (np.s_[:, :-1], np.s_[:, 1:]),
    ):
        combine(result[here], plane[there], out=result[here])
    return result


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

    shape: tuple[int, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]
    content: tuple[tuple[int, int], ...] | None = None
    missing: tuple[tuple[int, int], ...] = ((0, 0),) * 3

    @classmethod
    def whole(cls, volume: Volume) -> Crop:
        """All of a scan."""
        return cls(volume.voxels.shape, (0, 0, 0), volume.voxels.shape)

    def __call__(self, volume: Volume) -> Volume:
        """The voxels of the box, background beyond what was scanned; the affine follows."""
        first, last = np.transpose(self.content or [(0, size) for size in self.shape])
        low, high = np.maximum(self.low, first), np.minimum(self.high, last)
        kept = volume.voxels[tuple(map(slice, low, high))]
        widths = np.stack([low - self.low, self.high - high], axis=1)
        if widths.any():
            scanned = volume.voxels[tuple(map(slice, first, last))]
            fill = _faces(scanned)[..., 0].astype(kept.dtype)
            kept = np.pad(kept, widths, constant_values=fill)
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
        low, high = np.maximum(self.low, 0), np.minimum(self.high, self.shape)
        box = tuple(map(slice, low - self.low, high - self.low))
        result[tuple(map(slice, low, high))] = voxels[box]
        return result


@dataclass(frozen=True)
class FoundHead:
    """The box around the head in a scan, and the scan in that box.

    Attributes:
        margin_mm: around the foreground, as for `crop_to_head`.
    """

    crop: Crop
    head: Head
    margin_mm: float


def crop_to_head(volume: Volume, margin_mm: float) -> FoundHead:
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
    if volume.affine is not None:
        check_size(volume.voxels.shape, volume.affine)
    content = _content(volume.voxels)
    if content is None:
        return FoundHead(Crop.whole(volume), Head(volume), margin_mm)
    shown = content(volume)
    spacing = volume.spacing or (1.0, 1.0, np.inf)  # a 2D image is one slice
    margin = np.ceil(margin_mm / np.array(spacing)).astype(int)
    extent = np.array(shown.voxels.shape)
    low, high = np.zeros(3, int), extent
    for _ in range(_ROUNDS):
        part = Head(replace(shown, voxels=shown.voxels[tuple(map(slice, low, high))]))
        box = _box(part)
        if box is None:
            return FoundHead(content, Head(shown), margin_mm)
        first, last = low + box[0] - margin, low + box[1] + margin
        before, low, high = (low, high), np.maximum(first, 0), np.minimum(last, extent)
        if np.array_equal(before, (low, high)):
            break
    is_blank = _faces(shown.voxels)[..., 1] > 0
    missing = np.where(is_blank, 0, np.stack([low - first, last - high], axis=1))  # (axes, sides)
    first, last = first + missing[:, 0], last - missing[:, 1]
    if np.prod(last - first, dtype=float) > MAX_VOXELS:
        raise InputError(
            f"the margin around the head would make it a volume of more than {MAX_VOXELS} voxels",
            remedy="Check the voxel size in its header.",
        )
    crop = Crop(
        content.shape,
        tuple((content.low + first).tolist()),
        tuple((content.low + last).tolist()),
        tuple(zip(content.low, content.high, strict=True)),
        tuple(map(tuple, missing.tolist())),
    )
    known = part.foreground if np.array_equal(before, (first, last)) else None
    return FoundHead(crop, Head(crop(volume), known), margin_mm)


def _content(voxels: NDArray[Any]) -> Crop | None:
    """Without the outer planes of one value each; None if nothing is left."""
    low, high = [0, 0, 0], list(voxels.shape)
    before = None
    while before != (low, high):
        before = list(low), list(high)
        for axis in range(3):
            part = np.moveaxis(voxels[tuple(map(slice, low, high))], axis, 0)
            if all(plane.min() != plane.max() for plane in (part[0], part[-1])):
                continue
            rough = np.flatnonzero(part.min(axis=(1, 2)) != part.max(axis=(1, 2)))
            if not rough.size:
                return None
            low[axis], high[axis] = low[axis] + int(rough[0]), low[axis] + int(rough[-1]) + 1
    return Crop(voxels.shape, tuple(low), tuple(high))


def _box(head: Head) -> NDArray[np.int_] | None:
    """The box of the foreground: first voxel and one past the last one, (2, 3 axes)."""
    head_only = _large_pieces(head.mask)
    shown = [np.flatnonzero(head_only.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    return np.array([(n[0], n[-1] + 1) for n in shown]).T if len(shown[0]) else None


def _faces(voxels: NDArray[Any]) -> NDArray[np.float64]:
    """The background beyond each face, and whether it fills most of the face, (3 axes, 2 sides, 2).

    The background is 0, or the value of most of the face if that is dark.
    """
    low, high = float(voxels.min()), float(voxels.max())
    nothing = _NOTHING * high

    def background(face: NDArray[Any]) -> tuple[float, bool]:
        value = float(np.median(face))
        if abs(value) <= nothing:
            value = 0.0
        elif value - low > _DARK * (high - low):
            return min(max(0.0, low), high), False
        return value, bool(np.mean(np.abs(face - value) <= nothing) >= _BLANK_FACE)

    planes = [np.moveaxis(voxels, axis, 0) for axis in range(3)]
    return np.array([[background(plane[side]) for side in (0, -1)] for plane in planes])
