"""Bias field correction and denoising.

What a scan loses here is not a property of the head: neither the bias field nor the noise of an
input is put onto its synthetic image.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.errors import InputError
from mrbridge.preprocessing.foreground import Head, Mask, Stack
from mrbridge.preprocessing.geometry import from_slices
from mrbridge.volume import Volume

IMMERKAER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
"""Laplacian that suppresses smooth surfaces and straight edges and keeps the standard deviation of
noise (Immerkaer 1996, doi:10.1006/cviu.1996.0060)."""

_GRID_MM = 6.0  # of the bias field, which is far smoother; 4 mm took up to 8 times as long
_LEAST = 20  # voxels along each axis that remain, if there are as many
_ITERATIONS = (50, 40, 30, 20)  # at each level of detail
_FLAT = 4  # fewer slices than this have no field along them: each gets its own

_BLOCK = 8  # edge of the squares in which noise is measured
_QUIETEST = 5.0  # per cent of them, which show little else
_QUIET = 0.735  # the measure in those if there is only noise of standard deviation 1
_LEAST_BLOCKS = 20
_NOTHING = 1e-4  # of the bright tissue: rounding rather than noise

_THICK = 2.0  # pixels; thicker slices are denoised one by one
_PATCH, _PATCH_WITHIN = 3, 5  # voxels along the edge of a patch, in 3D and within slices,
_REACH, _REACH_WITHIN = 2, 8  # distance to the furthest patch that it is compared with,
_STRENGTH, _STRENGTH_WITHIN = 0.5, 0.7  # and how different patches may be, in units of the noise
_SLAB = 32  # slices at once, which bounds the memory


def without_bias(
    slices: Stack, foreground: Mask, spacing: tuple[float, float, float] | None
) -> Stack:
    """Divide an image by the smooth field that makes its histogram the sharpest.

    N4 (Tustison et al. 2010, doi:10.1109/TMI.2010.2046908), on one thread: reproducible bit for
    bit.

    Args:
        slices: intensities of any unit, (slices, rows, columns).
        foreground: where the head is, the same shape; everything else is ignored.
        spacing: mm between slices, rows and columns; None for 2D images.

    Returns:
        The same shape; the mean over the foreground is kept, and zeros stay zero.

    Raises:
        InputError: the filter cannot find a field.
    """
    if not foreground.any():
        return slices
    steps = spacing or (1.0, 1.0, 1.0)
    if len(slices) < _FLAT:
        pairs = zip(slices, foreground, strict=True)
        return np.stack([_divided(plane, inside, steps[1:]) for plane, inside in pairs])
    return _divided(slices, foreground, steps)


def _divided(image: Stack, inside: Mask, spacing: tuple[float, ...]) -> Stack:
    """An image of two or three dimensions over its field."""
    import SimpleITK as sitk

    inside = inside & (image > 0)  # N4 takes logarithms
    if not inside.any():
        return image
    full, mask = sitk.GetImageFromArray(image), sitk.GetImageFromArray(inside.astype(np.uint8))
    factors = [
        max(1, min(round(_GRID_MM / step), size // _LEAST))
        for step, size in zip(spacing[::-1], image.shape[::-1], strict=True)
    ]
    for one in (full, mask):
        one.SetSpacing([float(step) for step in spacing[::-1]])
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetNumberOfThreads(1)
    n4.SetMaximumNumberOfIterations(_ITERATIONS)
    try:
        n4.Execute(sitk.Shrink(full, factors), sitk.Shrink(mask, factors))
        field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(full))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(
            f"its bias field cannot be found ({reason})", remedy="Leave it out, or --bias none."
        ) from None
    even = image / np.exp(field, dtype=np.float32)
    even *= image[inside].mean(dtype=np.float64) / even[inside].mean(dtype=np.float64)
    return np.asarray(even, np.float32)


def without_noise(head: Head) -> tuple[Volume, float]:
    """Denoise a scan by non-local means, as strongly as there is noise.

    Buades et al. 2005, for MR Coupe et al. 2008, doi:10.1109/TMI.2007.906087. Averages voxels with
    similar surroundings; edges are kept, since the other side of an edge looks different. The noise
    of a magnitude image is Rician, which brightens dark tissue. Air keeps that offset, since a
    computed black would look as if it had been cut out; within the head, removing it gained 0.1 dB
    of PSNR at most. Reproducible bit for bit.

    Args:
        head: the scan on the grid of the scanner; resampling would have spread its noise over
            neighbours. Voxels of any real type.

    Returns:
        The scan, float32, and the standard deviation of the noise that was measured, in its unit.
        Exact zeros stay zero, and a scan without measurable noise is unchanged.
    """
    slices, spacing = head.slices, head.grid.spacing or (1.0, 1.0, 1.0)
    sigma = noise_level(slices, head.foreground)
    if sigma == 0:
        return head.volume, 0.0
    if len(slices) < _PATCH or spacing[0] > _THICK * max(spacing[1:]) or head.volume.is_2d:
        smooth = np.stack(
            [
                _non_local_means(plane, sigma, _STRENGTH_WITHIN, _PATCH_WITHIN, _REACH_WITHIN)
                for plane in slices
            ]
        )
    else:
        smooth, margin = np.empty_like(slices), _REACH + _PATCH
        for start in range(0, len(slices), _SLAB):
            low, high = max(0, start - margin), min(len(slices), start + _SLAB + margin)
            slab = _non_local_means(slices[low:high], sigma, _STRENGTH, _PATCH, _REACH)
            smooth[start : start + _SLAB] = slab[start - low :][:_SLAB]
    smooth = np.where(slices == 0, np.float32(0), smooth)
    return replace(head.volume, voxels=from_slices(smooth, head.grid)), sigma


def noise_level(slices: Stack, foreground: Mask) -> float:
    """The standard deviation of the noise in the head, measured where the head is smoothest.

    The energy of `IMMERKAER` is taken in squares within the head, and the quietest of them count:
    texture and anatomy would be measured as noise elsewhere.

    Args:
        slices: intensities of any unit, (slices, rows, columns).
        foreground: where the head is, the same shape.

    Returns:
        In the unit of the intensities; 0 if there is too little head to measure it.
    """
    energies = []
    for plane, inside in zip(slices, foreground, strict=True):
        if inside.any():
            rough = ndimage.convolve(plane, IMMERKAER)
            energies.append(_block_means(rough**2)[_block_means(inside.astype(np.float32)) == 1])
    energy = np.concatenate(energies) if energies else np.zeros(0)
    if len(energy) < _LEAST_BLOCKS:
        return 0.0
    sigma = float(np.sqrt(np.percentile(energy, _QUIETEST))) / _QUIET
    bright = float(np.percentile(slices[foreground], 99))
    return sigma if sigma > _NOTHING * abs(bright) else 0.0


def _block_means(plane: Stack) -> NDArray[np.float64]:
    """Means over whole squares, (rows // 8, columns // 8)."""
    rows, columns = (size // _BLOCK for size in plane.shape)
    whole = plane[: rows * _BLOCK, : columns * _BLOCK].astype(np.float64)
    return whole.reshape(rows, _BLOCK, columns, _BLOCK).mean(axis=(1, 3))


def _non_local_means(image: Stack, sigma: float, strength: float, patch: int, reach: int) -> Stack:
    """Of two or three dimensions."""
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
