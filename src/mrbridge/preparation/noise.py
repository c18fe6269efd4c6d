"""Denoising: averaging voxels whose surroundings look alike, by as much as there is noise.

Non-local means (Buades et al. 2005, for MR Coupe et al. 2008, doi:10.1109/TMI.2007.906087) keeps
edges, since what lies across one looks different. The noise of a magnitude image is Rician, which
lifts what is dark. Air keeps that lift, since a computed black would look as if it had been cut
out; within the head, to take it away gained 0.1 dB of PSNR at most. What a scan loses here is no
property of the head: the noise of an input is not put onto its synthesis.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.preparation.geometry import from_slices, to_slices
from mrbridge.preparation.intensity import foreground_mask
from mrbridge.volume import Volume

_BLOCK = 8  # edge of the squares in which noise is measured
_QUIETEST = 5.0  # per cent of them, which show next to nothing else
_QUIET = 0.735  # what is measured in those, where there is only noise of 1
_LEAST_BLOCKS = 20
_LAPLACIAN = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
_NOTHING = 1e-4  # of the bright tissue: rounding, no noise

_THICK = 2.0  # slices thicker than so many pixels are denoised one by one
_STRENGTH, _STRENGTH_WITHIN = 0.5, 0.7  # how unlike patches may be, in deviations of the noise
_PATCH, _PATCH_WITHIN = 3, 5  # voxels along the edge of a patch, in space and within slices,
_REACH, _REACH_WITHIN = 2, 8  # and from it to the furthest that it is compared with
_SLAB = 32  # slices at once, which bounds the memory


def without_noise(volume: Volume) -> tuple[Volume, float]:
    """A scan without its noise, which is measured on it.

    The same to the bit whenever it is called. Exact zeros stay zero, and a scan in which no noise
    is found stays as it is.

    Args:
        volume: as it was scanned; resampling would have spread its noise over neighbours. Voxels of
            any real type.

    Returns:
        The scan, float32, and the standard deviation of the noise that was measured, in its unit.
    """
    slices, grid = to_slices(volume, None)
    sigma = noise_level(slices, foreground_mask(slices))
    if sigma == 0:
        return volume, 0.0
    spacing = grid.spacing or (1.0, 1.0, 1.0)
    if len(slices) < _PATCH or spacing[0] > _THICK * max(spacing[1:]) or volume.is_picture:
        smooth = _within_slices(slices, sigma)
    else:
        smooth = _in_space(slices, sigma)
    smooth = np.where(slices == 0, np.float32(0), smooth)
    return replace(volume, voxels=from_slices(smooth, grid)), sigma


def noise_level(slices: NDArray[np.float32], foreground: NDArray[np.bool_]) -> float:
    """The standard deviation of the noise in the head, where that shows least of its own.

    What is left of smooth surfaces and straight edges by Immerkaer's Laplacian (1996,
    doi:10.1006/cviu.1996.0060) is looked at in squares within the head, and the quietest are taken:
    texture and anatomy would be counted as noise elsewhere.

    Args:
        slices: intensities of any unit, (slices, rows, columns).
        foreground: where the head is, the same shape.

    Returns:
        In the unit of the intensities; 0 where there is too little head to tell.
    """
    energies = []
    for plane, inside in zip(slices, foreground, strict=True):
        if inside.any():
            rough = ndimage.convolve(plane, _LAPLACIAN)
            energies.append(_blocks(rough**2)[_blocks(inside.astype(np.float32)) == 1])
    found = np.concatenate(energies) if energies else np.zeros(0)
    if len(found) < _LEAST_BLOCKS:
        return 0.0
    sigma = float(np.sqrt(np.percentile(found, _QUIETEST))) / _QUIET
    bright = float(np.percentile(slices[foreground], 99))
    return sigma if sigma > _NOTHING * abs(bright) else 0.0


def _blocks(plane: NDArray[np.float32]) -> NDArray[np.float64]:
    """Means over squares, whole ones only."""
    rows, columns = (size // _BLOCK for size in plane.shape)
    whole = plane[: rows * _BLOCK, : columns * _BLOCK].astype(np.float64)
    return whole.reshape(rows, _BLOCK, columns, _BLOCK).mean(axis=(1, 3))


def _in_space(slices: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Patches are looked for in neighbouring slices, too."""
    margin = _REACH + _PATCH
    result = np.empty_like(slices)
    for start in range(0, len(slices), _SLAB):
        low, high = max(0, start - margin), min(len(slices), start + _SLAB + margin)
        smooth = _averaged(slices[low:high], sigma, _STRENGTH, _PATCH, _REACH)
        result[start : start + _SLAB] = smooth[start - low :][:_SLAB]
    return result


def _within_slices(slices: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Each slice by itself."""
    planes = (
        _averaged(plane, sigma, _STRENGTH_WITHIN, _PATCH_WITHIN, _REACH_WITHIN) for plane in slices
    )
    return np.stack(list(planes))


def _averaged(
    image: NDArray[np.float32], sigma: float, strength: float, patch: int, reach: int
) -> NDArray[np.float32]:
    """Non-local means of two or three dimensions."""
    from skimage.restoration import denoise_nl_means

    mean = denoise_nl_means(
        image,
        patch_size=patch,
        patch_distance=reach,
        h=strength * sigma,
        sigma=sigma,
        fast_mode=True,
        preserve_range=True,
    )
    return np.asarray(mean, np.float32)
