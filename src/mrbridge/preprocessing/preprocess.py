"""Preprocessing: from a scan to the slices that networks see, and back.

It may correct the bias field and remove noise. What a scan loses there is not a property of the
head: neither is put onto its synthetic image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.errors import InputError
from mrbridge.io.image2d import Image2DHeader
from mrbridge.preprocessing.foreground import (
    Crop,
    FoundHead,
    Head,
    Mask,
    Stack,
    blank_outside,
    crop_to_head,
    foreground_mask,
)
from mrbridge.preprocessing.geometry import SliceGrid, from_slices, to_slices
from mrbridge.preprocessing.intensity import (
    FLOOR,
    WINDOW,
    IntensityNormalisation,
    find_normalisation,
)
from mrbridge.preprocessing.resample import Placement, along_axes
from mrbridge.preprocessing.settings import PreprocessSettings
from mrbridge.preprocessing.skull_strip import find_brain
from mrbridge.preprocessing.template import Alignment, align
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


@dataclass(frozen=True)
class Preprocessed:
    """A scan as networks see it.

    Attributes:
        slices: float32 in [-1, 1], (slices, rows, columns), see `geometry`: the head and the whole
            margin around it, -1 where the field of view ends before that.
        foreground: where the head is, same shape.
        grid: the way back to the scan's voxels, of the slices without `added`.
        added: slices, rows and columns before and after what was scanned.
        normalisation: the way back to the scan's intensities.
        crop: the part of the scan that was used.
        brain: the brain mask on the scan's own grid (i, j, k); None without skull stripping.
        noise: standard deviation of the noise that was removed, in the scan's unit; None without
            denoising.
        alignment: with the template; None if there was none.
        placement: on another grid, before the scan was cut into slices; None if there was none.
    """

    slices: Stack
    foreground: Mask
    grid: SliceGrid
    added: tuple[tuple[int, int], ...]
    normalisation: IntensityNormalisation
    crop: Crop
    brain: Mask | None = None
    noise: float | None = None
    alignment: Alignment | None = None
    placement: Placement | None = None

    def undo(self, slices: Stack, beyond: float) -> Stack:
        """Slices of this grid (slices, rows, columns), of any unit, as voxels of the scan, shape
        (i, j, k); `beyond` is the value of voxels outside of the slices."""
        scanned = (
            slice(before, before + size)
            for (before, _), size in zip(self.added, self.grid.shape, strict=True)
        )
        voxels = from_slices(slices[tuple(scanned)], self.grid)
        if self.placement is not None:
            voxels = self.placement.undo(voxels, beyond)
        return self.crop.undo(voxels, beyond)


def preprocess(
    volume: Volume,
    settings: PreprocessSettings,
    mask: Volume | None = None,
    levels: tuple[float, ...] = (),
    placement: Placement | None = None,
    crop: Crop | None = None,
    found: FoundHead | None = None,
) -> Preprocessed:
    """Bring a volume to axial slices of the wanted spacing and to intensities in [-1, 1].

    Args:
        mask: its brain mask, if `settings.brain` is `mask`.
        levels: the standard scale of its contrast, if the method of normalisation is `nyul` and a
            scale was learned.
        placement: the grid to which the scan is resampled, if known; else it is aligned as
            `settings.align` says.
        crop: the part of the scan to use or, with `placement`, of the scan on whose grid it is
            resampled; None takes the head and a margin.
        found: the head in the scan, if that was searched; it is searched again if the margin is not
            that of the settings.

    Raises:
        InputError: the image is constant or empty, no plausible brain was found in it, or it could
            not be aligned.
        SettingsError: HD-BET is wanted and not installed, or a step of the user's own fails.
    """
    frame = crop  # of the slices, whose margin is filled up
    if crop is None or placement is not None:
        if found is None or found.margin_mm != settings.margin_mm:
            found = crop_to_head(volume, settings.margin_mm)
        crop, head = found.crop, found.head
    else:
        head = Head(crop(volume))
    alignment = noise = brain = inside = None
    if placement is None and settings.align != "none":
        alignment = align(head, settings.align)
        placement = along_axes(head, alignment.transform, settings.spacing_mm)
    elif placement is None:
        frame = crop
    if settings.brain != "none":
        if settings.brain == "mask":  # of the user's, also outside of the crop
            brain = find_brain(Head(volume), settings.brain, mask)
        else:
            brain = crop.undo(find_brain(head, settings.brain), False)
        inside = crop(Volume(brain.astype(np.uint8), volume.affine)).voxels > 0  # (i, j, k) of head
    cleaned = head.volume
    if settings.denoise:  # on the grid of the scanner: elsewhere, neighbours share their noise
        cleaned, noise = without_noise(head)
    if placement is not None:
        cleaned = placement.placed(cleaned)
    raw, grid = to_slices(cleaned, settings.spacing_mm)
    if inside is not None:
        if placement is not None:
            inside = placement.placed_mask(inside)
        there = Volume(inside.astype(np.uint8), cleaned.affine)
        inside = to_slices(there, settings.spacing_mm)[0] > 0.5  # (slices, rows, columns)
        foreground = inside
        raw = np.where(inside, raw, np.float32(0))
    elif cleaned is head.volume and grid.shape == grid.full:
        foreground = head.foreground
    else:
        foreground = foreground_mask(raw)
    if settings.bias == "n4":
        raw = without_bias(raw, foreground, grid.spacing)
        foreground = foreground_mask(raw) if inside is None else inside
    for step in settings.extra.values():
        raw = step.change(raw, foreground, grid.spacing)
    normalisation, outside = _intensities(raw, foreground, inside, settings, volume)
    normalisation = normalisation.on_scale(levels)
    slices = normalisation.normalise(raw)
    if outside is not None:
        slices[outside] = -1
        foreground = foreground | ~outside
    added = ((0, 0),) * 3 if frame is None else frame.lacks(grid)
    return Preprocessed(
        np.pad(slices, added, constant_values=-1),
        np.pad(foreground, added),
        grid,
        added,
        normalisation,
        crop,
        brain,
        noise,
        alignment,
        placement,
    )


def _intensities(
    raw: Stack, foreground: Mask, inside: Mask | None, settings: PreprocessSettings, volume: Volume
) -> tuple[IntensityNormalisation, Mask | None]:
    """The intensity normalisation, and what becomes -1: all that is not `inside`, if that is
    known."""
    depth = volume.header.depth if isinstance(volume.header, Image2DHeader) else None
    result = find_normalisation(raw, foreground, settings.intensity, depth)
    outside = None if inside is None else ~inside
    if inside is None and depth is None:
        outside = blank_outside(raw, foreground)
    scored = settings.intensity.method == "zscore" and result != WINDOW
    if scored and outside is None:
        outside = ~foreground
    if outside is not None and not scored:
        result = result.model_copy(update={"floor": FLOOR})
    return result, outside
