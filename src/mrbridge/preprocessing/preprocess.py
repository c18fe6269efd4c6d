"""Preprocessing: from a scan to the slices that networks see, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mrbridge.io.image2d import Image2DHeader
from mrbridge.preprocessing.corrections import without_bias, without_noise
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
        """Slices of this grid, of any unit, as voxels of the scan, shape (i, j, k).

        Args:
            slices: (slices, rows, columns).
            beyond: the value of voxels outside of the slices.
        """
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
