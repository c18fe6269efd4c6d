"""Which images of two contrasts show the same anatomy, by the images only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Thumbnail = NDArray[np.uint8]
"""(rows, columns), the same for all that are compared; both multiples of 4."""

CANDIDATES = 32
"""Images of the other contrast, the nearest by their edges, of which the best match is one."""

_AT_ONCE = 64  # images whose edges are found, and compared with all others, together
_PAIRS_AT_ONCE = 64  # of which joint histograms are counted together
_CELL = 4  # pixels of a thumbnail, each way, over which edges are gathered
_LEVELS = 16  # of intensity, in thumbnails
_FINE_LEVELS = 32
_SHIFT = 3  # pixels
_BACKGROUND = -0.9
_LEAST_PIXELS = 500
_SHARPNESS, _LOSS = 1.6, 0.02
"""How much more information the slices of a pair share in place than shifted by 3 pixels, as a
ratio and as a difference. True pairs have at least 2.1 and 0.05, other people's slices at most 1.3
and 0.004 (two open data sets, `benchmarks/found_pairs.py`)."""


def best_matches(
    sources: Sequence[Thumbnail], targets: Sequence[Thumbnail]
) -> list[tuple[int, int]]:
    """Images that are each other's best match by normalised mutual information (Studholme et al.
    1999, doi:10.1016/S0031-3203(98)00091-0).

    Only images whose edges lie alike are compared by it, `CANDIDATES` of each at most: work grows
    with the number of images but for one product of matrices. Every image has a best match, right
    or not: `are_in_register` tells.

    Args:
        sources, targets: of the two contrasts.

    Returns:
        Their numbers, by that of the source.
    """
    if not len(sources) or not len(targets):
        return []
    pairs = _candidates(_edges(sources), _edges(targets))
    levels = [
        np.stack([one.ravel() // (256 // _LEVELS) for one in bank]) for bank in (sources, targets)
    ]
    shared = _shared_information(levels[0], levels[1], pairs)
    best_target, best_source = _best(pairs, shared, 0), _best(pairs, shared, 1)
    return [(i, j) for i, j in sorted(best_target.items()) if best_source[j] == i]


def _edges(images: Sequence[Thumbnail]) -> NDArray[np.float32]:
    """Where edges lie and how they run, whichever side is the brighter: the same in all contrasts.

    Of normalised gradients n (Haber and Modersitzki 2006, doi:10.1007/11866763_89) the products
    n n', whose inner product is the square of the cosine between two gradients, added up in cells;
    less their mean over all images, since the outline of a head is much the same in all of them.

    Returns:
        (images, features), each of length 1.
    """
    result = np.concatenate(
        [_edges_of(np.stack(images[n : n + _AT_ONCE])) for n in range(0, len(images), _AT_ONCE)]
    )
    if len(result) > 1:
        result -= result.mean(axis=0)
    return result / np.maximum(np.linalg.norm(result, axis=1, keepdims=True), 1e-6)


def _edges_of(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    down, across = np.gradient(images.astype(np.float32), axis=(1, 2))
    square = down**2 + across**2
    # Gradients below the mean of the image are noise and count for less.
    floor = np.sqrt(square).mean(axis=(1, 2), keepdims=True) ** 2
    total = square + np.maximum(floor, 1e-6)
    products = np.stack([square, across**2 - down**2, 2 * across * down], axis=1) / total[:, None]
    count, kinds, rows, columns = products.shape
    cells = products.reshape(count, kinds, rows // _CELL, _CELL, columns // _CELL, _CELL)
    return cells.mean(axis=(3, 5)).reshape(count, -1)


def _candidates(sources: NDArray[np.float32], targets: NDArray[np.float32]) -> NDArray[np.intp]:
    """Pairs (source, target), shape (pairs, 2), in order: of each image the nearest of the other
    contrast."""
    pairs = [_nearest(sources, targets), _nearest(targets, sources)[:, ::-1]]
    return np.unique(np.concatenate(pairs), axis=0)


def _nearest(ones: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.intp]:
    count = min(CANDIDATES, len(others))
    found = []
    for start in range(0, len(ones), _AT_ONCE):
        alike = ones[start : start + _AT_ONCE] @ others.T
        near = np.argpartition(-alike, count - 1, axis=1)[:, :count]
        own = np.repeat(np.arange(start, start + len(alike)), count)
        found.append(np.stack([own, near.ravel()], axis=1))
    return np.concatenate(found)


def _best(pairs: NDArray[np.intp], shared: NDArray[np.float64], side: int) -> dict[int, int]:
    """Of every image of a side the other's that it shares most with, the first of equals."""
    order = np.lexsort((pairs[:, 1 - side], -shared, pairs[:, side]))
    ordered = pairs[order]
    first = np.flatnonzero(np.diff(ordered[:, side], prepend=-1))
    return dict(ordered[first][:, [side, 1 - side]].tolist())


def are_in_register(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Whether two slices, shape (rows, columns), range [-1, 1], show the same pixel by pixel."""
    here, there = information(one, other)
    return here > _SHARPNESS * there and here - there > _LOSS


def information(one: NDArray[np.float32], other: NDArray[np.float32]) -> tuple[float, float]:
    """Normalised mutual information, less 1, of two slices in place and 3 pixels apart.

    Counted within the anatomy of both, away from its edge: outlines are alike in many heads.

    Args:
        one, other: shape (rows, columns), range [-1, 1].

    Returns:
        Both from 0, where nothing is shared, to 1; the second a mean over four directions. Zeros
        where there is next to no common anatomy.
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
    pairs = np.array([(0, k) for k in range(len(steps))])
    shared = _shared_information(first[inside][None], moved, pairs, _FINE_LEVELS) - 1
    return float(shared[0]), float(shared[1:].mean())


def _shared_information(
    ones: NDArray[np.integer],
    others: NDArray[np.integer],
    pairs: NDArray[np.intp],
    levels: int = _LEVELS,
) -> NDArray[np.float64]:
    """Normalised mutual information, (H(x) + H(y)) / H(x, y), of pairs of images.

    Args:
        ones, others: whole numbers below `levels`, (images, pixels).
        pairs: numbers of images in both, (pairs, 2).
        levels: how many.

    Returns:
        One for each pair: 1 where nothing is shared, 2 where all is.
    """
    return np.concatenate(
        [
            _shared_by_some(ones[some[:, 0]], others[some[:, 1]], levels)
            for some in _in_parts(pairs, _PAIRS_AT_ONCE)
        ]
    )


def _in_parts(values: NDArray[np.intp], length: int) -> Iterator[NDArray[np.intp]]:
    for start in range(0, len(values), length):
        yield values[start : start + length]


def _shared_by_some(
    ones: NDArray[np.integer], others: NDArray[np.integer], levels: int
) -> NDArray[np.float64]:
    cells = levels * levels
    place = ones.astype(np.int64) * levels + others + cells * np.arange(len(ones))[:, None]
    counts = np.bincount(place.ravel(), minlength=cells * len(ones))
    joint = counts.reshape(len(ones), levels, levels) / ones.shape[1]
    together = _entropy(joint.reshape(len(ones), -1))
    alone = _entropy(joint.sum(axis=2)) + _entropy(joint.sum(axis=1))
    return alone / np.maximum(together, 1e-9)


def _entropy(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    return -(shares * np.log(np.maximum(shares, 1e-12))).sum(axis=1)
