"""Fluid, grey and white matter by one segmentation of real and synthetic scans.

What a synthetic scan is worth to those who measure volumes shows in the difference of the two. The
segmentation is k-means on intensities (Lloyd 1982, doi:10.1109/TIT.1982.1056489) with a Markov
random field of six neighbours (Zhang et al. 2001, doi:10.1109/42.906424), by mean field. It is less
exact than atlas-based ones, but knows nothing except the scan, so it cannot hide a difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.errors import InputError

Labels = NDArray[np.uint8]
"""0 outside the brain, then 1 fluid, 2 grey matter, 3 white matter: (slices, rows, columns)."""

TISSUES = {"fluid": 1, "grey": 2, "white": 3}

_ORDER = {
    "T1w": ("fluid", "grey", "white"),
    "T2w": ("white", "grey", "fluid"),
    "PDw": ("white", "grey", "fluid"),
    "FLAIR": ("fluid", "white", "grey"),
}
"""Tissues by rising intensity."""

_BINS = 256
_MOST_STEPS = 100
_COUPLING = 0.3  # weight of each neighbour
_SWEEPS = 4
_NEIGHBOURS = ndimage.generate_binary_structure(3, 1).astype(np.float32)
_NEIGHBOURS[1, 1, 1] = 0


def can_segment(contrast: str) -> bool:
    """Whether the order of the tissues' intensities is known for a contrast."""
    return contrast in _ORDER


def segment(image: NDArray[Any], brain: NDArray[np.bool_], contrast: str) -> Labels:
    """The tissues of a brain: of intensities of any unit, shape (slices, rows, columns), inside a
    brain mask with its fluid, the same shape. InputError if the brain has fewer than three
    intensities."""
    order = _ORDER[contrast]
    box = ndimage.find_objects(brain.astype(np.uint8))[0]
    inside, values = brain[box], np.asarray(image[box], np.float32)
    if order[-1] == "fluid":
        # The root brings bright fluid nearer to the other two, which differ little.
        values = np.sqrt(np.maximum(values, 0))
    centres, spread = _k_means(values[inside])
    fits = [-0.5 * np.square((values - centre) / np.float32(spread)) for centre in centres]
    shares = _shares(np.stack(fits), inside)
    for _ in range(_SWEEPS):
        around = np.stack([ndimage.convolve(share, _NEIGHBOURS) for share in shares])
        shares = _shares(np.stack(fits) + _COUPLING * around, inside)
    numbers = np.array([TISSUES[tissue] for tissue in order], np.uint8)
    labels = np.zeros(brain.shape, np.uint8)
    labels[box] = np.where(inside, numbers[shares.argmax(axis=0)], 0)
    return labels


def compare(real: Labels, synthetic: Labels, spacing: Sequence[float]) -> dict[str, float]:
    """Dice and volumes of each tissue of two segmentations of one brain, of the same shape,
    `spacing` in mm: `dice_T` (0 to 1), `volume_real_T_ml`, `volume_synthetic_T_ml` and
    `volume_bias_T_percent`, how much larger the synthetic scan shows it than the real one; and
    `volume_bias_brain_percent`, of grey and white matter together."""
    voxel_ml = float(math.prod(spacing)) / 1000
    result = {}
    for tissue, number in TISSUES.items():
        one, other = real == number, synthetic == number
        counts = int(np.count_nonzero(one)), int(np.count_nonzero(other))
        both = int(np.count_nonzero(one & other))
        result[f"dice_{tissue}"] = 2 * both / max(1, sum(counts))
        result[f"volume_real_{tissue}_ml"] = counts[0] * voxel_ml
        result[f"volume_synthetic_{tissue}_ml"] = counts[1] * voxel_ml
        result[f"volume_bias_{tissue}_percent"] = 100 * (counts[1] - counts[0]) / max(1, counts[0])
    sizes = [int(np.count_nonzero(labels > TISSUES["fluid"])) for labels in (real, synthetic)]
    result["volume_bias_brain_percent"] = 100 * (sizes[1] - sizes[0]) / max(1, sizes[0])
    return result


def limits_of_agreement(differences: Sequence[float]) -> dict[str, float | int | None]:
    """Bland-Altman: mean of the differences and the limits that hold 95 % of them.

    Mean -+ 1.96 standard deviations (Bland and Altman 1986, doi:10.1016/S0140-6736(86)90837-8).

    Returns:
        `bias`, `lower`, `upper` (None for a single subject) and `n`.
    """
    values = np.asarray(differences, float)
    bias = float(values.mean())
    if len(values) == 1:
        return {"bias": bias, "lower": None, "upper": None, "n": 1}
    half = 1.96 * float(values.std(ddof=1))
    return {"bias": bias, "lower": bias - half, "upper": bias + half, "n": len(values)}


def _k_means(values: NDArray[np.float32]) -> tuple[NDArray[np.float64], float]:
    """Three rising centres, and the standard deviation around them.

    The darkest and brightest 0.5 % (vessels, spikes) do not move a centre.
    """
    low, high = np.percentile(values, [0.5, 99.5])
    counts, edges = np.histogram(np.clip(values, low, high), _BINS)
    middles = (edges[1:] + edges[:-1]) / 2
    if np.count_nonzero(counts) < 3:
        raise InputError("its brain has fewer than three intensities", remedy="Check the scan.")
    places = np.cumsum(counts) / counts.sum()
    centres = np.array([middles[np.searchsorted(places, share)] for share in (1 / 6, 1 / 2, 5 / 6)])
    if len(np.unique(centres)) < 3:
        centres = np.quantile(middles[counts > 0], [0, 0.5, 1])
    for _ in range(_MOST_STEPS):
        nearest = np.abs(middles[:, None] - centres).argmin(axis=1)
        sizes = np.bincount(nearest, counts, 3)
        moved = np.bincount(nearest, counts * middles, 3) / np.maximum(sizes, 1)
        moved = np.where(sizes > 0, moved, centres)
        if np.allclose(moved, centres):
            break
        centres = moved
    variance = float(counts @ np.square(middles - centres[nearest])) / counts.sum()
    return centres, max(math.sqrt(variance), float(edges[1] - edges[0]))


def _shares(fits: NDArray[Any], inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Posterior probabilities (3, slices, rows, columns) from their logarithms."""
    weights = np.exp(fits - fits.max(axis=0))
    return np.asarray(weights / weights.sum(axis=0) * inside, np.float32)
