"""What a scanner does to perfect signals: blur, thick slices, receive field, noise, gain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.phantom.fields import Array, Grid, random_field

_BLUR_VOXELS = 0.4
"""Standard deviation of the point spread, in voxels of the plane (a choice)."""


def blurred(signal: Array) -> Array:
    """The signal (x, y, z) as seen through a finite window of k-space."""
    return ndimage.gaussian_filter(signal, _BLUR_VOXELS, truncate=4)


def receive_field(rng: np.random.Generator, grid: Grid, strength: float) -> Array:
    """A smooth factor between exp(-strength) and exp(strength), on `grid`."""
    field = random_field(rng, 95.0, grid)
    return np.exp(np.float32(strength) * np.tanh(field))


def thick_slices(signal: Array, source: Grid, target: Grid) -> Array:
    """Mean of the signal (x, y, z) over each of the target's slices; x and y stay as they are.

    A slice profile is taken for a rectangle.
    """
    fine, thick = source.axes[2], target.axes[2]
    if np.array_equal(fine, thick):
        return signal
    half, whole = source.spacing[2] / 2, target.spacing[2] / 2
    low = np.maximum.outer(thick - whole, fine - half)
    high = np.minimum.outer(thick + whole, fine + half)
    weights = np.clip(high - low, 0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    result = np.zeros(target.shape, np.float32)
    for index, row in enumerate(weights):
        for place in np.flatnonzero(row):
            result[:, :, index] += np.float32(row[place]) * signal[:, :, place]
    return result


def rician(rng: np.random.Generator, signal: Array, sigma: float) -> Array:
    """Magnitude of a signal with normal noise in both channels (Gudbjartsson & Patz 1995).

    Args:
        rng: draws the noise.
        signal: real and not negative, any shape.
        sigma: standard deviation in each channel, in the signal's unit. Where there is no signal
            the result has the mean sigma * sqrt(pi / 2).
    """
    real = signal + np.float32(sigma) * rng.standard_normal(signal.shape, dtype=np.float32)
    imaginary = np.float32(sigma) * rng.standard_normal(signal.shape, dtype=np.float32)
    return np.hypot(real, imaginary)


def digitised(signal: Array, top: float) -> NDArray[np.int16]:
    """Whole numbers as a scanner stores them, the 99.9th percentile at `top`."""
    scale = top / max(float(np.percentile(signal, 99.9)), 1e-9)
    return np.clip(np.rint(signal * np.float32(scale)), 0, 32767).astype(np.int16)
