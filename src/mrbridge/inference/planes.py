"""View aggregation: volumes are sliced in three planes, and the results averaged.

A network sees one slice at a time. Its results for a voxel in the axial, the coronal and the
sagittal slice differ, partly at random: their mean is closer to the truth than each, and has no
steps between slices. View aggregation is common in segmentation (Roy et al. 2019, QuickNAT,
NeuroImage 186; Henschel et al. 2020, FastSurfer, NeuroImage 219); here one network takes all three
views.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrbridge.preprocessing.foreground import Mask, Stack
from mrbridge.preprocessing.geometry import SliceGrid, resample, resampled_size
from mrbridge.progress import track
from mrbridge.volume import Volume

OTHERS = {"coronal": (1, 0, 2), "sagittal": (2, 0, 1)}
"""The other planes: the axes of an axial stack that become slices, rows (which `cut` flips, so that
superior is up) and columns."""

_THICK_MM = 8.0
"""The thickest axial slices for which three planes were measured to be better than one
(docs/explanation/quality.md)."""

_HIGH_MM = 64.0
"""A lower stack shows too little of the head in coronal and sagittal slices for instance norm."""

CLOSE_MM = 1.3
"""Of slices closer than this, the generators of the pair compute every second one if there are
three planes (docs/decisions/0011-planes.md)."""

LEAST_MARGIN = 4
"""Pixels around the head that stay in each of three planes if a smaller margin saves padding."""

_LEAST_VARIANCE = 0.0005
"""Where the given image varies less, `between` does not follow its detail."""


def planes_for(volume: Volume, wanted: str) -> tuple[str, ...]:
    """The planes in which a volume is sliced: all, unless axial slices are few or very thick."""
    if volume.affine is None or volume.spacing is None or wanted == "axial":
        return ("axial",)
    from nibabel.orientations import io_orientation

    (upwards,) = np.flatnonzero(io_orientation(volume.affine)[:, 0] == 2)  # its axis nearest to S
    thickness = volume.spacing[upwards]
    is_high = thickness * volume.voxels.shape[upwards] >= _HIGH_MM
    return ("axial", *OTHERS) if thickness <= _THICK_MM and is_high else ("axial",)


def in_three_planes(
    stacks: list[Stack],
    foreground: Mask,
    grid: SliceGrid,
    make: Callable[[list[Stack], Mask, bool], tuple[tuple[Stack, ...], Mask]],
) -> tuple[Stack, ...]:
    """The means of the results of axial, coronal and sagittal slices.

    Args:
        stacks: axial slices of one scan or of several in register, shape (slices, rows, columns)
            each, range [-1, 1].
        foreground: the same shape.
        grid: of the slices. For the other planes, slices are resampled along their normal to the
            distance between rows.
        make: takes the stacks in one plane, their foreground and whether their slices are close;
            returns results of the shape of a stack and which of their slices count, shape
            (slices,).

    Returns:
        One stack for each result of `make`, the shape of each of `stacks`; -1 where no slice
        counts.
    """
    planes = track(("axial", *OTHERS), "planes", 1 + len(OTHERS))
    next(planes)
    assert grid.spacing is not None
    close = [distance < CLOSE_MM for distance in grid.spacing]
    results, counts = make(stacks, foreground, close[0])
    # How many planes count in a voxel is a sum of three vectors, one for each axis.
    count = _along(0, counts).astype(np.uint8)
    totals = [np.where(_along(0, counts), result, 0) for result in results]  # sums over the planes
    del results  # large; the next plane needs the memory
    slices = len(stacks[0])
    rows = height(slices, grid)
    high, inside = stacks, foreground
    if rows != slices:
        high = [with_height(stack, rows) for stack in stacks]
        inside = with_height(foreground.astype(np.float32), rows) > 0.5
    for plane in planes:
        axis = OTHERS[plane][0]
        parts = [cut(stack, plane) for stack in high]
        results, counts = make(parts, cut(inside, plane), close[axis])
        counted = _along(axis, counts)
        for total, result in zip(totals, results, strict=True):
            part = with_height(uncut(result, plane), slices)
            np.add(total, part, out=total, where=counted)
        del results
        count = count + counted
    for total in totals:
        total /= np.maximum(count, 1)
        total[count == 0] = -1
    return tuple(totals)


def how_many_computed(slices: int, distance_mm: float) -> int:
    """How many of the slices of one of three planes the network computes."""
    return slices // 2 + 1 if distance_mm < CLOSE_MM else slices


def between(given: Stack, before: Stack, after: Stack) -> Stack:
    """The result for a slice from those for its two neighbours.

    It is their mean, and the detail of the given slice on top: what differs from the mean of the
    given neighbours, times the slope of a local straight line from the given to the made image
    (the guided filter, He et al. 2013, doi:10.1109/TPAMI.2012.213).

    Args:
        given: the slice and its neighbours, (3, rows, columns), range [-1, 1].
        before, after: the results for its neighbours, (rows, columns).

    Returns:
        (rows, columns), range [-1, 1].
    """
    first, detail, second = given[0], given[1], given[2]
    # Of a neighbour that is background where the other is anatomy, nothing is taken.
    black = [(image <= -1).astype(np.float32) for image in (first, second)]
    share = np.float32(0.5) * (1 + black[1] - black[0])  # of the first neighbour

    def mean_of(one: Stack, other: Stack) -> Stack:
        return share * one + (1 - share) * other

    mean, made = mean_of(first, second), mean_of(before, after)
    squares = mean_of(first * first, second * second)
    products = mean_of(first * before, second * after)
    x, y, xx, xy = _smooth(np.stack([mean, made, squares, products]))
    slope = np.clip((xy - x * y) / (xx - x * x + np.float32(_LEAST_VARIANCE)), -2, 2)
    result: Stack = np.clip(made + _smooth(slope[None])[0] * (detail - mean), -1, 1)
    return result


def _smooth(images: Stack) -> Stack:
    """The means of 3 x 3 pixels of images, (images, rows, columns)."""
    around = np.pad(images, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = around[:, :-2] + around[:, 1:-1] + around[:, 2:]
    sums: Stack = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    return sums / np.float32(9)


def _along(axis: int, counts: Mask) -> Mask:
    """Which slices across an axis count, to be broadcast to the shape of an axial stack."""
    return np.expand_dims(counts, [other for other in range(3) if other != axis])


def cut(stack: NDArray[Any], plane: str) -> NDArray[Any]:
    """A view of axial slices (slices, rows, columns) as coronal or sagittal ones, superior up."""
    return stack.transpose(OTHERS[plane])[:, ::-1]


def uncut(stack: NDArray[Any], plane: str) -> NDArray[Any]:
    """Undo `cut`."""
    return stack[:, ::-1].transpose(np.argsort(OTHERS[plane]))


def height(slices: int, grid: SliceGrid) -> int:
    """The number of axial slices, as far apart as rows are, that cover the height of a stack."""
    assert grid.spacing is not None
    return resampled_size(slices, *grid.spacing[:2])


def with_height(stack: Stack, slices: int) -> Stack:
    """Axial slices resampled to another number over the same height, bicubic."""
    if len(stack) == slices:
        return stack
    seen = np.ascontiguousarray(stack.transpose(1, 0, 2))  # (rows, slices, columns)
    return np.ascontiguousarray(resample(seen, slices, stack.shape[2]).transpose(1, 0, 2))
