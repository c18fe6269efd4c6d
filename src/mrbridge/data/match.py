"""Which slices of other people show about the same anatomy, told without looking at contrast."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_GRID = 32
_EDGE_FLOOR = 0.02  # in the image's range of 2: gradients far below this are noise
_BRIGHT = -0.9  # what is brighter counts as anatomy

Descriptors = NDArray[np.float32]


def describe(image: NDArray[np.float32]) -> Descriptors:
    """What a slice looks like apart from its contrast: where its edges and its outline lie.

    Gradient magnitudes are divided by their local mean, so that neither the sign nor the strength
    of an edge counts (the idea of Haber and Modersitzki 2006, "Intensity gradient based
    registration and fusion of multi-modal images", brought to one vector a slice).

    Args:
        image: shape (rows, columns), both at least 32, range [-1, 1].

    Returns:
        A vector of length 1, so that the product of two vectors is their correlation.
    """
    smooth = ndimage.gaussian_filter(image, 1.0)
    edges = np.hypot(ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1))
    edges = edges / (ndimage.gaussian_filter(edges, image.shape[0] / 16) + _EDGE_FLOOR)
    outline = ndimage.gaussian_filter((image > _BRIGHT).astype(np.float32), 1.0)
    parts = [_standardised(_shrunk(edges)), _standardised(_shrunk(outline))]
    return (np.concatenate(parts) / np.sqrt(2) / _GRID).astype(np.float32)


def describe_all(images: Iterable[NDArray[np.float32]]) -> Descriptors:
    """The descriptors of slices, one a row."""
    return np.stack([describe(image) for image in images])


def nearest(
    one: Descriptors, other: Descriptors, count: int, forbidden: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """For each slice of `one` the most similar ones of `other`, best first.

    Args:
        one: descriptors, shape (n, length).
        other: likewise, shape (m, length), of the other contrast.
        count: how many to name; at most m are named.
        forbidden: shape (n, m); pairs that may not match. A slice all of whose partners are
            forbidden is matched regardless.

    Returns:
        Indices into `other`, shape (n, min(count, m)). Where fewer than `count` are allowed, the
        best one stands in for the rest.
    """
    likeness = np.where(forbidden, -np.inf, one @ other.T)
    hopeless = forbidden.all(axis=1)
    likeness[hopeless] = (one @ other.T)[hopeless]
    order = np.argsort(-likeness, axis=1, kind="stable")[:, :count]
    allowed = np.isfinite(np.take_along_axis(likeness, order, axis=1))
    return np.where(allowed, order, order[:, :1])


def _shrunk(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over a grid of 32x32 cells, slightly blurred."""
    rows, columns = (n - n % _GRID for n in image.shape)
    cells = image[:rows, :columns].reshape(_GRID, rows // _GRID, _GRID, columns // _GRID)
    return np.asarray(ndimage.gaussian_filter(cells.mean(axis=(1, 3)), 0.7))


def _standardised(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    spread = cells.std()
    flat: NDArray[np.float32] = (cells - cells.mean()).ravel()
    return flat / spread if spread > 0 else flat
