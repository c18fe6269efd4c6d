"""Sharpness, power spectrum, and the scores of other papers.

PSNR and SSIM reward blur; the first two say what it costs. The others make figures comparable with
papers that score whole pictures, of which most is black.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrbridge import metrics

Stack = NDArray[Any]  # (slices, rows, columns)

BANDS = ((0, 25), (25, 50), (50, 75), (75, 100))
"""Frequencies in per cent of the Nyquist frequency of a slice."""


def sharpness(
    real: Stack, synthetic: Stack, mask: NDArray[np.bool_], spacing: Sequence[float] | None
) -> float:
    """Gradient energy inside the mask over that of the real scan; 1 if equally sharp.

    The mean squared gradient magnitude (Tenengrad: Krotkov 1988, doi:10.1007/BF00127822), within
    slices, between voxels that are both inside. Noise of the real scan counts as detail.

    Args:
        real, synthetic: of one scale.
        mask: of the same shape.
        spacing: mm between slices, rows, columns; None: square pixels.
    """
    steps = (1.0, 1.0, 1.0) if spacing is None else spacing

    def energy(image: Stack) -> float:
        total = 0.0
        for axis in (1, 2):
            along = np.diff(image, axis=axis) / steps[axis]
            both = np.delete(mask, -1, axis) & np.delete(mask, 0, axis)
            total += float(np.square(along[both], dtype=np.float64).mean()) if both.any() else 0.0
        return total

    of_real = energy(real)
    return energy(synthetic) / of_real if of_real > 0 else float("nan")


def power_ratios(
    real: Stack, synthetic: Stack, mask: NDArray[np.bool_], spacing: Sequence[float] | None
) -> dict[str, float]:
    """Power of the synthetic scan over that of the real one, by spatial frequency.

    Radially averaged power spectrum of the slices, outside of the mask set to the mean inside.

    Returns:
        `power_ratio_LOW_HIGH` for each of `BANDS`.
    """
    steps = (1.0, 1.0, 1.0) if spacing is None else spacing
    rows = np.fft.fftfreq(real.shape[1], steps[1])
    columns = np.fft.rfftfreq(real.shape[2], steps[2])
    radius = np.hypot(rows[:, None], columns)
    share = 100 * radius / (0.5 / max(steps[1:]))
    used = mask.any(axis=(1, 2))

    def power(image: Stack) -> NDArray[np.float64]:
        filled = np.where(mask, image - image[mask].mean(), 0)[used]
        total = np.zeros(radius.shape)
        for one in filled:
            total += np.square(np.abs(np.fft.rfft2(one)))
        total[0, 0] = 0
        inside = [(share >= low) & (share < high) for low, high in BANDS]
        return np.array([total[band].sum() for band in inside])

    of_real, of_synthetic = power(real), power(synthetic)
    return {
        f"power_ratio_{low}_{high}": float(made / true) if true > 0 else float("nan")
        for (low, high), made, true in zip(BANDS, of_synthetic, of_real, strict=True)
    }


def whole_picture(real: Stack, synthetic: Stack) -> dict[str, float]:
    """PSNR and SSIM as most papers compute them: everything, each image from 0 to 1.

    Each image is scaled by its own minimum and maximum, and black surroundings count. Such figures
    depend on how much of the picture is black, and on the brightest voxel.

    Returns:
        `psnr_whole_picture` (dB) and `ssim_whole_picture`.
    """

    def from_0_to_1(image: Stack) -> NDArray[np.float32]:
        image = np.maximum(image, 0)  # cubic resampling leaves negative values, which MR has not
        low, high = float(image.min()), float(image.max())
        return ((image - low) / max(high - low, 1e-12)).astype(np.float32)

    one, other = from_0_to_1(real), from_0_to_1(synthetic)
    return {
        "psnr_whole_picture": metrics.psnr(one, other, None, 1.0),
        "ssim_whole_picture": metrics.ssim(one, other, None, 1.0),
    }
