"""Pairs: slices of both contrasts that show the same anatomy, declared or found by their images.

Datasets that pass for unpaired often hold undeclared pairs. Two slices of one head in register
share far more information than slices of two heads, and they lose it when one of them is shifted by
a few pixels, which slices of different heads do not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from mrbridge.preprocessing.geometry import centred_start

if TYPE_CHECKING:
    from mrbridge.dataset.sampling import SliceBank
    from mrbridge.dataset.store import ScanRecord, Store

Pairs = list[tuple[int, int]]
"""Indices of training slices: of the source contrast, of the target contrast."""

Thumbnail = NDArray[np.uint8]
"""(rows, columns), the same for all that are compared; both multiples of 4."""

THUMBNAIL = 64
"""Rows and columns of a thumbnail."""

CANDIDATES = 32
"""Images of the other contrast, the nearest by their edges, that are compared with each image."""

_MOST = 2_000  # slices of a contrast; all of them are held in memory
_BATCH = 64  # images, or pairs of them, that are compared together
_CELL = 4  # pixels of a thumbnail, each way, over which edges are summed up
_LEVELS = 16  # of intensity, in thumbnails
_FINE_LEVELS = 32
_SHIFT = 3  # pixels
_BACKGROUND = -0.9
_LEAST_PIXELS = 500
_SHARPNESS, _LOSS = 1.6, 0.02
"""How much more information the slices of a pair share in place than shifted by 3 pixels, as a
ratio and as a difference. True pairs have at least 2.1 and 0.05, other people's slices at most 1.3
and 0.004 (two open datasets, `benchmarks/research/found_pairs.py`)."""

_VOXELS = 40_000  # about as many of two scans are compared
_APART_MM, _APART_PIXELS = 5, 3  # the second of 2D images, which have no pixel size
_SHARPER = 1.3
"""The least ratio of the information that two scans of one head share in place to that 5 mm apart.
It is 2 to 7 for T1w, T2w and FLAIR scans of a person in register, and 2.8 for the output of a model
that was trained for five minutes; 1.0 to 1.1 for two people in one template's space; about 1.3
after a movement by 3 mm or a blur of 3 mm (standard deviation). Two patients of Lesjak et al. 2017
(doi:10.1007/s12021-017-9348-7), and simulated subjects."""


def known_pairs(store: Store, banks: tuple[SliceBank, SliceBank]) -> Pairs:
    """Training slices of one subject, session and grid at the same place."""
    places = [
        {(record.id, position): index for index, (record, position) in enumerate(bank.places)}
        for bank in banks
    ]
    return [
        (places[0][source.id, i], places[1][target.id, j])
        for source, target, positions in store.pairs("train")
        for i, j in positions
    ]


def found_pairs(banks: tuple[SliceBank, SliceBank]) -> Pairs:
    """Undeclared pairs: training slices that show the same anatomy pixel by pixel.

    Two slices are a pair if each is the other's best match by mutual information and if a shift by
    three pixels takes much of the shared information away. Slices of one known subject are left
    out: these pairs are declared. Beyond 2,000 slices of a contrast there is no search.
    """
    if max(len(bank) for bank in banks) > _MOST:
        return []
    images = [[bank[n] for n in range(len(bank))] for bank in banks]
    pairs = []
    for i, j in best_matches(*([thumbnail_of(image) for image in bank] for bank in images)):
        source, target = banks[0].places[i][0], banks[1].places[j][0]
        if source.subject is not None and source.subject == target.subject:
            continue
        shift = shift_onto(source, target, len(images[1][j]))
        if are_in_register(images[0][i], np.roll(images[1][j], shift, (0, 1))):
            pairs.append((i, j))
    return pairs


def shift_onto(fixed: ScanRecord, moving: ScanRecord, image_size: int) -> tuple[int, int]:
    """The rows and columns that a scan, centred in the images, must move to match another one.

    Each scan is cropped to its own head, and the centre of the crop becomes that of the images.
    (0, 0) if their fields of view differ: then their relative position is unknown.
    """
    if fixed.grid_hash != moving.grid_hash:
        return 0, 0
    starts = [
        np.array([centred_start(image_size, size) for size in record.shape[1:]])
        - np.array(record.origin)
        for record in (fixed, moving)
    ]
    down, right = np.round(starts[0] - starts[1]).astype(int).tolist()
    return down, right


def thumbnail_of(
    plane: NDArray[np.float32], spacing: tuple[float, float] | None = None
) -> Thumbnail:
    """A plane, range [-1, 1], as a square of bytes, its shape in mm kept."""
    steps = spacing or (1.0, 1.0)
    sides = [size * step for size, step in zip(plane.shape, steps, strict=True)]
    rows, columns = (max(1, round(THUMBNAIL * side / max(sides))) for side in sides)
    small = Image.fromarray(plane).resize((columns, rows), Image.Resampling.BOX)
    result = np.full((THUMBNAIL, THUMBNAIL), -1, np.float32)
    top, left = (THUMBNAIL - rows) // 2, (THUMBNAIL - columns) // 2
    result[top : top + rows, left : left + columns] = np.asarray(small)
    return np.clip((result + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)


def best_matches(
    sources: Sequence[Thumbnail], targets: Sequence[Thumbnail]
) -> list[tuple[int, int]]:
    """Images that are each other's best match by normalised mutual information (Studholme et al.
    1999, doi:10.1016/S0031-3203(98)00091-0).

    Only images with similar edges are compared by it, `CANDIDATES` of each at most: except for one
    product of matrices, work grows with the number of images. Every image has a best match, right
    or wrong: see `are_in_register`.

    Returns:
        Their numbers, by that of the source.
    """
    if not len(sources) or not len(targets):
        return []
    edges = _edges(sources), _edges(targets)
    # (pairs, 2), of every image the nearest of the other contrast.
    candidates = [_nearest(edges[0], edges[1]), _nearest(edges[1], edges[0])[:, ::-1]]
    pairs = np.unique(np.concatenate(candidates), axis=0)
    levels = [
        np.stack([one.ravel() // (256 // _LEVELS) for one in bank]) for bank in (sources, targets)
    ]
    shared = np.concatenate(
        [
            _mutual_information(levels[0][some[:, 0]], levels[1][some[:, 1]], _LEVELS)
            for some in np.split(pairs, range(_BATCH, len(pairs), _BATCH))
        ]
    )
    best_target, best_source = _best(pairs, shared, 0), _best(pairs, shared, 1)
    return [(i, j) for i, j in sorted(best_target.items()) if best_source[j] == i]


def _edges(images: Sequence[Thumbnail]) -> NDArray[np.float32]:
    """Position and direction of edges, the same in all contrasts, as the sign is dropped.

    Of normalised gradients n (Haber and Modersitzki 2006, doi:10.1007/11866763_89) the products
    n n', whose inner product is the square of the cosine between two gradients, summed up in cells;
    less their mean over all images, since the outline of a head is much the same in all of them.

    Returns:
        (images, features), each of length 1.
    """
    result = np.concatenate(
        [_edges_of(np.stack(images[n : n + _BATCH])) for n in range(0, len(images), _BATCH)]
    )
    if len(result) > 1:
        result -= result.mean(axis=0)
    return result / np.maximum(np.linalg.norm(result, axis=1, keepdims=True), 1e-6)


def _edges_of(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    down, across = np.gradient(images.astype(np.float32), axis=(1, 2))  # (images, rows, columns)
    square = down**2 + across**2
    # Gradients below the mean of the image are noise and count for less.
    noise = np.sqrt(square).mean(axis=(1, 2), keepdims=True) ** 2
    total = square + np.maximum(noise, 1e-6)
    products = np.stack([square, across**2 - down**2, 2 * across * down], axis=1) / total[:, None]
    count, kinds, rows, columns = products.shape
    cells = products.reshape(count, kinds, rows // _CELL, _CELL, columns // _CELL, _CELL)
    return cells.mean(axis=(3, 5)).reshape(count, -1)


def _nearest(ones: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.intp]:
    """Each image and the others with the most similar edges: (pairs, 2)."""
    count = min(CANDIDATES, len(others))
    pairs = []
    for start in range(0, len(ones), _BATCH):
        similar = ones[start : start + _BATCH] @ others.T  # (images, other images)
        near = np.argpartition(-similar, count - 1, axis=1)[:, :count]
        own = np.repeat(np.arange(start, start + len(similar)), count)
        pairs.append(np.stack([own, near.ravel()], axis=1))
    return np.concatenate(pairs)


def _best(pairs: NDArray[np.intp], shared: NDArray[np.float64], side: int) -> dict[int, int]:
    """For every image of a side the other's that it shares most with, the first of equals."""
    order = np.lexsort((pairs[:, 1 - side], -shared, pairs[:, side]))
    ordered = pairs[order]
    first = np.flatnonzero(np.diff(ordered[:, side], prepend=-1))
    return dict(ordered[first][:, [side, 1 - side]].tolist())


def are_in_register(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Whether two slices, shape (rows, columns), range [-1, 1], show the same pixel by pixel."""
    here, there = information(one, other)
    return here > _SHARPNESS * there and here - there > _LOSS


def show_one_head(
    one: NDArray[np.float32],
    other: NDArray[np.float32],
    spacing: tuple[float, float, float] | None,
) -> bool:
    """Whether two scans or synthetic images of any contrasts show one head in register: whether
    they share less information if one of them is shifted.

    Args:
        one, other: shape (slices, rows, columns), 0 is background.
        spacing: mm between slices, rows, columns; None for 2D images.

    Returns:
        True also if there is too little anatomy in common to tell.
    """
    step = math.ceil((one.size / _VOXELS) ** (1 / 3))
    few = np.ix_(*(np.arange(0, size, min(step, size)) for size in one.shape))
    first, second = one[few], other[few]
    inside = (first > 0) & (second > 0)
    if np.count_nonzero(inside) < _LEAST_PIXELS:
        return True
    rows, columns = (
        (_APART_PIXELS, _APART_PIXELS)
        if spacing is None
        else (max(1, round(_APART_MM / steps)) for steps in spacing[1:])
    )

    def levels(image: NDArray[np.float32], brightest: np.float32) -> NDArray[np.int64]:
        return (image[inside] / brightest * _LEVELS).clip(0, _LEVELS - 1).astype(np.int64)

    still, brightest = (np.percentile(image[inside], 99) for image in (first, second))
    shifts = [(0, 0), (rows, 0), (-rows, 0), (0, columns), (0, -columns)]
    places = [
        (few[0], (few[1] - down) % other.shape[1], (few[2] - right) % other.shape[2])
        for down, right in shifts
    ]
    moved = np.stack([levels(other[place], brightest) for place in places])
    fixed = np.broadcast_to(levels(first, still), moved.shape)
    here, *there = _mutual_information(fixed, moved, _LEVELS) - 1
    return bool(here >= _SHARPER * np.mean(there))


def information(one: NDArray[np.float32], other: NDArray[np.float32]) -> tuple[float, float]:
    """Normalised mutual information, less 1, of two slices in place and 3 pixels apart.

    Within the anatomy of both, away from its edge: outlines of many heads are similar.

    Args:
        one, other: shape (rows, columns), range [-1, 1].

    Returns:
        Both from 0 (nothing is shared) to 1; the second a mean over four directions. Zeros if there
        is too little common anatomy.
    """
    anatomy = (one > _BACKGROUND) & (other > _BACKGROUND)
    inside = ndimage.binary_erosion(anatomy, iterations=_SHIFT + 1)
    if int(inside.sum()) < _LEAST_PIXELS:
        return 0.0, 0.0
    first, second = (
        ((image + 1) * (_FINE_LEVELS / 2)).astype(int).clip(0, _FINE_LEVELS - 1)
        for image in (one, other)
    )
    steps = [(0, 0), (_SHIFT, 0), (-_SHIFT, 0), (0, _SHIFT), (0, -_SHIFT)]
    moved = np.stack([np.roll(second, step, (0, 1))[inside] for step in steps])
    still = np.broadcast_to(first[inside], moved.shape)
    shared = _mutual_information(still, moved, _FINE_LEVELS) - 1
    return float(shared[0]), float(shared[1:].mean())


def _mutual_information(
    ones: NDArray[np.integer], others: NDArray[np.integer], levels: int
) -> NDArray[np.float64]:
    """Normalised mutual information, (H(x) + H(y)) / H(x, y), of pairs of images.

    As `skimage.metrics.normalized_mutual_information`, but of many pairs in one pass.

    Args:
        ones, others: whole numbers below `levels`, (pairs, pixels).
        levels: how many.

    Returns:
        (pairs,), from 1, where nothing is shared, to 2.
    """
    cells = levels * levels
    place = ones.astype(np.int64) * levels + others + cells * np.arange(len(ones))[:, None]
    counts = np.bincount(place.ravel(), minlength=cells * len(ones))
    joint = counts.reshape(len(ones), levels, levels) / ones.shape[1]
    together = _entropy(joint.reshape(len(ones), -1))
    apart = _entropy(joint.sum(axis=2)) + _entropy(joint.sum(axis=1))
    return apart / np.maximum(together, 1e-9)


def _entropy(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    return -(shares * np.log(np.maximum(shares, 1e-12))).sum(axis=1)
