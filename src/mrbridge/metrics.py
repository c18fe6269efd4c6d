"""Image similarity: pure functions of arrays, shared by validation and evaluation.

Stacks have the shape (slices, rows, columns); a single 2D image (rows, columns) is a stack of one
slice. Intensities have no unit in MR, but zero must mean "no signal": images in [-1, 1] are to be
shifted to [0, 2] before they are scored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from mrbridge.errors import InputError

Array = NDArray[Any]
Scores = dict[str, dict[str, float]]
"""Kind (`fit`, `plain`) -> measure (`psnr` in dB, `ssim`, `mae` as a share of the range)."""

REFERENCE_PERCENTILE = 99.5
"""The intensity that becomes 1 before scoring; the very brightest voxels are vessels and spikes."""

SSIM_SIGMA = 1.5
_SSIM_RADIUS = 5  # scikit-image cuts the Gaussian at 3.5 sigma: int(3.5 * 1.5 + 0.5)
_SSIM_FURTHEST = 1e4  # ranges from the mean: no intensity is beyond
_SSIM_SAMPLE = 10_000  # voxels, of which the median is taken
_SSIM_DEPTH = 7  # fewer slices than this have no depth to speak of: slice by slice

_PATCH = 7  # Karras et al. 2018, section 5: 7x7 neighbourhoods, 128 an image, 16x16 the coarsest
_PATCHES_PER_IMAGE = 128
_COARSEST = 16
_DIRECTIONS = 512

_MAPPING_BINS = 4096


def psnr(real: Array, synthetic: Array, mask: Array | None, data_range: float) -> float:
    """Peak signal-to-noise ratio in dB: 10 log10(data_range^2 / mean squared difference).

    Args:
        real: the true image, any shape.
        synthetic: its synthesis, the same shape and scale.
        mask: boolean, the same shape; the voxels to score. None: all.
        data_range: the difference of the largest and smallest possible value.

    Returns:
        dB, larger is better; infinite for equal images.

    Raises:
        InputError: the shapes differ or the mask is empty.
    """
    inside = _mask(real, synthetic, mask)
    difference = real[inside].astype(np.float64) - synthetic[inside]
    error = float(np.mean(np.square(difference)))
    return math.inf if error == 0 else 10 * math.log10(data_range**2 / error)


def mae(real: Array, synthetic: Array, mask: Array | None, data_range: float) -> float:
    """Mean absolute difference as a share of `data_range`; smaller is better, 0 for equal images.

    Arguments and errors as for `psnr`.
    """
    inside = _mask(real, synthetic, mask)
    difference = real[inside].astype(np.float64) - synthetic[inside]
    return float(np.mean(np.abs(difference))) / data_range


def ssim(real: Array, synthetic: Array, mask: Array | None, data_range: float) -> float:
    """Structural similarity, its map averaged inside the mask; 1 for equal images.

    The window looks a few voxels beyond the mask, as it must at the mask's edge. Arguments and
    errors as for `psnr`, of shape (slices, rows, columns) or (rows, columns).
    """
    inside = _mask(real, synthetic, mask)
    # Voxels further from the mask than the window reaches cannot change the result.
    box = tuple(
        slice(max(0, part.start - _SSIM_RADIUS), part.stop + _SSIM_RADIUS)
        for part in ndimage.find_objects(inside.astype(np.uint8))[0]
    )
    flat = real.ndim == 3 and real.shape[0] < _SSIM_DEPTH
    cut = ssim_map(real[box], synthetic[box], data_range, in_slices=flat)
    return float(cut[inside[box]].mean(dtype=np.float64))


def ssim_map(
    real: Array, synthetic: Array, data_range: float, *, in_slices: bool | None = None
) -> NDArray[np.float32]:
    """Structural similarity at every voxel (Wang et al. 2004, doi:10.1109/TIP.2003.819861, eq. 13).

    The same as `skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, full=True)`: a Gaussian window of 1.5 voxels, K1 0.01, K2 0.03,
    edges reflected.

    Args:
        real: shape (slices, rows, columns) or (rows, columns).
        synthetic: the same shape and scale.
        data_range: the difference of the largest and smallest possible value.
        in_slices: whether the window is flat, one slice thick. None: when there are fewer than
            seven slices.

    Returns:
        The same shape, values in [-1, 1].
    """
    if in_slices is None:
        in_slices = real.ndim == 3 and real.shape[0] < _SSIM_DEPTH
    sigma = (0.0, SSIM_SIGMA, SSIM_SIGMA) if in_slices and real.ndim == 3 else SSIM_SIGMA

    def blurred(image: Array) -> NDArray[np.float32]:
        return np.asarray(ndimage.gaussian_filter(image, sigma, truncate=3.5))

    # The variance is a small difference of large numbers: float32 is exact enough only if centred.
    centre = np.float32(np.median(real.flat[:: max(1, real.size // _SSIM_SAMPLE)]))
    x, y = np.asarray(real, np.float32) - centre, np.asarray(synthetic, np.float32) - centre
    for image in (x, y):  # the squares of no-data values overflow
        np.clip(image, -_SSIM_FURTHEST * data_range, _SSIM_FURTHEST * data_range, out=image)
    mean_x, mean_y = blurred(x), blurred(y)
    variances = blurred(x * x + y * y) - mean_x * mean_x - mean_y * mean_y
    covariance = blurred(x * y) - mean_x * mean_y
    mean_x += centre
    mean_y += centre
    c1, c2 = np.float32((0.01 * data_range) ** 2), np.float32((0.03 * data_range) ** 2)
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return np.asarray(top / ((mean_x * mean_x + mean_y * mean_y + c1) * (variances + c2)))


def fit_nonnegative(
    real: Array, synthetic: Array, mask: Array | None = None
) -> tuple[float, float]:
    """The scale >= 0 and offset that bring `synthetic` closest to `real` by least squares.

    An anti-correlated image gets scale 0 and the mean of `real` as offset: it may not be inverted.
    Arguments and errors as for `psnr`.

    Returns:
        (scale, offset), so that `scale * synthetic + offset` is the fitted image.
    """
    inside = _mask(real, synthetic, mask)
    x, y = synthetic[inside].astype(np.float64), real[inside].astype(np.float64)
    mean_x, mean_y = float(x.mean()), float(y.mean())
    x -= mean_x
    spread = float(x @ x)
    scale = max(0.0, float(x @ (y - mean_y)) / spread) if spread > 0 else 0.0
    return scale, mean_y - scale * mean_x


def fitted(real: Array, synthetic: Array, mask: Array | None = None) -> NDArray[np.float32]:
    """`synthetic` after `fit_nonnegative`: the image that the main scores (`fit`) compare.

    Scale and offset are fitted inside the mask and applied everywhere.
    """
    scale, offset = fit_nonnegative(real, synthetic, mask)
    return (synthetic * scale + offset).astype(np.float32)


def scaled(image: Array, mask: Array | None = None) -> NDArray[np.float32]:
    """`image` divided by its 99.5th percentile inside the mask.

    An image without signal there (percentile not above zero) becomes zero throughout.
    """
    reference = float(np.percentile(image if mask is None else image[mask], REFERENCE_PERCENTILE))
    if reference <= 0:
        return np.zeros(image.shape, np.float32)
    return np.asarray(image, np.float32) / np.float32(reference)


def scores(real: Array, synthetic: Array, mask: Array | None = None) -> Scores:
    """All scores of one synthesis against the true image, with data range 1.

    The true image is scaled by its 99.5th percentile inside the mask. For `fit`, the main kind,
    the synthesis is fitted to it inside the mask (`fit_nonnegative`); for `plain` it is scaled by
    its own percentile.

    Args:
        real: shape (slices, rows, columns) or (rows, columns), zero means no signal.
        synthetic: the same shape, any scale.
        mask: boolean, the same shape; None: everywhere.

    Returns:
        {"fit": {"psnr", "ssim", "mae"}, "plain": {...}}.

    Raises:
        InputError: the shapes differ, the mask is empty, or the true image has no signal in it.
    """
    inside = _mask(real, synthetic, mask)
    truth = scaled(real, inside)
    if not truth.any():
        raise InputError(
            "the true image has no signal inside the mask", remedy="Check image and mask."
        )
    versions = {"fit": fitted(truth, synthetic, inside), "plain": scaled(synthetic, inside)}
    measures = {"psnr": psnr, "ssim": ssim, "mae": mae}
    return {
        kind: {name: measure(truth, version, inside, 1.0) for name, measure in measures.items()}
        for kind, version in versions.items()
    }


def ranks(values: Array) -> NDArray[np.float64]:
    """Ranks from 1, flat; equal values share their mean rank.

    As `scipy.stats.rankdata`, whose import takes a third of a second.
    """
    _, places, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[places])


def sliced_wasserstein(
    a: Array | Sequence[Array],
    b: Array | Sequence[Array],
    *,
    seed: int = 0,
    directions: int = _DIRECTIONS,
) -> float:
    """The difference between the looks of two unpaired sets of 2D images; smaller is better.

    Sliced Wasserstein distance over a Laplacian pyramid (Karras et al. 2018, arXiv:1710.10196,
    section 5 and its published code): at each level 128 random patches of 7x7 pixels per image,
    each set standardised to mean 0 and standard deviation 1, projected on random directions, sorted
    and subtracted; mean absolute difference, times 1000, averaged over the levels. Levels halve the
    size while the shorter side keeps 16 pixels.

    Both sets are sampled at the same places, so that equal sets have the distance 0.

    Args:
        a: stack (slices, rows, columns), or several such stacks of any sizes.
        b: the same; the number and size of its images may differ.
        seed: of patches and directions.
        directions: how many projections.

    Raises:
        InputError: a set is empty or its images are smaller than 16 pixels.
    """
    stacks_a, stacks_b = _stacks(a), _stacks(b)
    shortest = min(min(stack.shape[1:]) for stack in stacks_a + stacks_b)
    levels = 1 + max(0, int(math.log2(shortest / _COARSEST)))
    patches_a, patches_b = _patches(stacks_a, levels, seed), _patches(stacks_b, levels, seed)
    generator = np.random.default_rng(seed)
    distances = [
        _sliced(one, other, directions, generator)
        for one, other in zip(patches_a, patches_b, strict=True)
    ]
    return 1000 * float(np.mean(distances))


def _stacks(images: Array | Sequence[Array]) -> list[Array]:
    if isinstance(images, np.ndarray):
        images = [images]
    stacks = [stack[None] if stack.ndim == 2 else stack for stack in images if stack.size]
    if not stacks:
        raise InputError("there are no images to compare", remedy="Give at least one.")
    if min(min(stack.shape[1:]) for stack in stacks) < _COARSEST:
        raise InputError(f"images below {_COARSEST} pixels cannot be compared")
    return stacks


def _patches(stacks: Sequence[Array], levels: int, seed: int) -> list[NDArray[np.float32]]:
    """Random patches of all images, one array (patches, 49) per pyramid level."""
    generator = np.random.default_rng(seed)
    patches: list[list[Array]] = [[] for _ in range(levels)]
    for stack in stacks:
        for level, band in enumerate(_laplacian_pyramid(stack.astype(np.float32), levels)):
            count, rows, columns = band.shape
            row = generator.integers(0, rows - _PATCH + 1, (count, _PATCHES_PER_IMAGE))
            column = generator.integers(0, columns - _PATCH + 1, (count, _PATCHES_PER_IMAGE))
            # (slices, rows - 6, columns - 6, 7, 7), a view
            windows = np.lib.stride_tricks.sliding_window_view(band, (_PATCH, _PATCH), axis=(1, 2))
            patches[level].append(windows[np.arange(count)[:, None], row, column])
    return [np.concatenate([part.reshape(-1, _PATCH**2) for part in parts]) for parts in patches]


def _laplacian_pyramid(stack: NDArray[np.float32], levels: int) -> list[NDArray[np.float32]]:
    """Burt and Adelson 1983: each level what the next, coarser one cannot show; last the rest."""
    kernel = np.array([1, 4, 6, 4, 1], np.float32) / 16

    def smoothed(image: NDArray[np.float32]) -> NDArray[np.float32]:
        along_rows = ndimage.convolve1d(image, kernel, axis=1, mode="mirror")
        return np.asarray(ndimage.convolve1d(along_rows, kernel, axis=2, mode="mirror"))

    bands = []
    for _ in range(levels - 1):
        smaller = smoothed(stack)[:, ::2, ::2]
        enlarged = np.zeros_like(stack)
        enlarged[:, ::2, ::2] = 4 * smaller
        bands.append(stack - smoothed(enlarged))
        stack = smaller
    return [*bands, stack]


def _sliced(a: Array, b: Array, directions: int, generator: np.random.Generator) -> float:
    """Mean 1-D Wasserstein distance of two point sets (points, dimensions) over directions."""
    a, b = _standardised(a), _standardised(b)
    count = max(len(a), len(b))
    # Sets of unequal size are compared by their quantile functions, which are step functions.
    ranks = (np.arange(count) + 0.5) / count
    rank_a, rank_b = ((ranks * len(points)).astype(int) for points in (a, b))
    distances = []
    for start in range(0, directions, 128):  # in portions, to bound the memory
        portion = min(128, directions - start)
        axes = generator.standard_normal((portion, a.shape[1])).astype(np.float32)
        axes /= np.linalg.norm(axes, axis=1, keepdims=True)
        # (directions, points)
        sorted_a, sorted_b = np.sort(axes @ a.T, axis=1), np.sort(axes @ b.T, axis=1)
        distances.append(np.abs(sorted_a[:, rank_a] - sorted_b[:, rank_b]).mean(axis=1))
    return float(np.concatenate(distances).mean())


def _standardised(points: Array) -> Array:
    spread = points.std()
    return (points - points.mean()) / (spread if spread > 0 else np.float32(1))


@dataclass(frozen=True, eq=False)
class MonotoneMapping:
    """A rising or falling curve from intensity to intensity.

    Attributes:
        inputs: rising intensities, shape (knots,).
        outputs: what they become, shape (knots,), never turning back.
    """

    inputs: NDArray[np.float64]
    outputs: NDArray[np.float64]

    def apply(self, image: Array) -> NDArray[np.float32]:
        """The image with every intensity replaced; constant beyond the first and last knot."""
        return np.interp(image, self.inputs, self.outputs).astype(np.float32)


def fit_monotone(source_values: Array, target_values: Array) -> MonotoneMapping:
    """The monotone mapping that predicts the target best by least squares: the monotone baseline.

    Isotonic regression, rising or falling, the one with the smaller error. All values count; beyond
    4096 distinct source intensities they are first averaged in bins of equal numbers.

    Args:
        source_values: intensities of one contrast, any shape.
        target_values: those of the other contrast at the same voxels, the same shape.

    Raises:
        InputError: the shapes differ or there are no values.
    """
    x, y = (np.asarray(values, np.float64).ravel() for values in (source_values, target_values))
    if x.shape != y.shape or not x.size:
        raise InputError(f"{x.size} source and {y.size} target values make no mapping")
    x, y, weights = _binned(x, y)
    curves = [
        optimize.isotonic_regression(y, weights=weights, increasing=increasing).x
        for increasing in (True, False)
    ]
    errors = [float(weights @ np.square(curve - y)) for curve in curves]
    return MonotoneMapping(x, curves[int(np.argmin(errors))])


def _binned(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """Mean x, mean y and number of values of each bin of x, by rising x."""
    edges = np.unique(x)
    if len(edges) > _MAPPING_BINS:
        edges = np.unique(np.quantile(x, np.linspace(0, 1, _MAPPING_BINS + 1)[:-1]))
    which = np.searchsorted(edges, x, side="right") - 1
    weights = np.bincount(which, minlength=len(edges)).astype(np.float64)
    used = weights > 0
    sums = [np.bincount(which, values, len(edges))[used] for values in (x, y)]
    weights = weights[used]
    return sums[0] / weights, sums[1] / weights, weights


def _mask(real: Array, synthetic: Array, mask: Array | None) -> NDArray[np.bool_]:
    if real.shape != synthetic.shape or (mask is not None and mask.shape != real.shape):
        shapes = [real.shape, synthetic.shape, None if mask is None else mask.shape]
        raise InputError(f"real, synthetic and mask have different shapes: {shapes}")
    inside = np.ones(real.shape, bool) if mask is None else np.asarray(mask, bool)
    if not inside.any():
        raise InputError("the mask is empty", remedy="Give one that covers part of the image.")
    return inside
