"""What every scan goes through, in training and in translation alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrbridge.io.picture import PictureHeader
from mrbridge.preparation.align import Alignment, aligned
from mrbridge.preparation.bias import without_bias
from mrbridge.preparation.brain import find_brain
from mrbridge.preparation.crop import Crop, head_crop
from mrbridge.preparation.geometry import SliceGrid, from_slices, to_slices
from mrbridge.preparation.intensity import (
    FLOOR,
    WINDOW,
    IntensityRecipe,
    blank_outside,
    find_recipe,
    foreground_mask,
)
from mrbridge.preparation.noise import without_noise
from mrbridge.preparation.nyul import on_scale
from mrbridge.preparation.placement import Placement
from mrbridge.preparation.settings import StandardSettings
from mrbridge.volume import Volume


@dataclass(frozen=True)
class Standard:
    """A scan as networks see it.

    Attributes:
        slices: float32 in [-1, 1], (slices, rows, columns), see `geometry`: the head and the whole
            margin around it, -1 where the field of view ends before that.
        foreground: where the head is, same shape.
        grid: the way back to the source's voxels, of the slices without `added`.
        added: slices, rows and columns before and after what was scanned.
        recipe: the way back to the source's intensities.
        crop: the part of the source that was looked at.
        brain: where the brain is, in the source's own voxels (i, j, k); None where it was not
            looked for.
        noise: standard deviation of the noise that was taken away, in the source's unit; None
            where it was left.
        alignment: how the scan came to lie along the template's axes; None where it did not.
        placement: where it was brought to before it was cut; None where it was left.
    """

    slices: NDArray[np.float32]
    foreground: NDArray[np.bool_]
    grid: SliceGrid
    added: tuple[tuple[int, int], ...]
    recipe: IntensityRecipe
    crop: Crop
    brain: NDArray[np.bool_] | None = None
    noise: float | None = None
    alignment: Alignment | None = None
    placement: Placement | None = None

    def to_voxels(self, slices: NDArray[np.float32], beyond: float) -> NDArray[np.float32]:
        """Slices of this grid, of any unit, as voxels of the source, shape (i, j, k).

        Args:
            slices: (slices, rows, columns).
            beyond: what a voxel becomes that no slice reaches.
        """
        scanned = (
            slice(before, before + size)
            for (before, _), size in zip(self.added, self.grid.shape, strict=True)
        )
        voxels = from_slices(slices[tuple(scanned)], self.grid)
        if self.placement is not None:
            voxels = self.placement.undone(voxels, beyond)
        return self.crop.undone(voxels, beyond)


def standardise(
    volume: Volume,
    settings: StandardSettings,
    mask: Volume | None = None,
    levels: tuple[float, ...] = (),
    placement: Placement | None = None,
    crop: Crop | None = None,
) -> Standard:
    """Bring a volume to axial slices of the wanted spacing and to intensities in [-1, 1].

    Args:
        volume: the scan.
        settings: what is done.
        mask: the brain mask that belongs to it, where `settings.brain` is `mask`.
        levels: the standard scale of its contrast, where the intensities' method is `nyul` and one
            was learned.
        placement: where the scan is brought to, if that is known already; else it is aligned as
            `settings.align` says.
        crop: the part to look at of the scan or, with `placement`, of the scan that it is brought
            to; None takes the head and the margin that `settings.margin_mm` says.

    Raises:
        InputError: the image is constant or empty, no plausible brain was found in it, or it could
            not be aligned.
        SettingsError: HD-BET is wanted and not installed.
    """
    alignment = noise = brain = kept = None
    frame, crop = crop, crop if placement is None else None
    if crop is None:
        crop = head_crop(volume, settings.margin_mm)
    if frame is None and placement is None and settings.align == "none":
        frame = crop
    source, volume = volume, crop(volume)
    if placement is None and settings.align != "none":
        alignment, placement = aligned(volume, settings.align, settings.spacing_mm)
    if settings.brain != "none":
        if settings.brain == "mask":  # of the user's, whatever the head's box
            brain = find_brain(source, settings.brain, mask)
        else:
            brain = crop.undone(find_brain(volume, settings.brain), False)
        kept = crop(Volume(brain.astype(np.uint8), source.affine)).voxels > 0
    cleaned = volume
    if settings.denoise:  # on the grid of the scanner: elsewhere, neighbours share their noise
        cleaned, noise = without_noise(volume)
    if placement is not None:
        cleaned = placement.placed(cleaned)
    raw, grid = to_slices(cleaned, settings.spacing_mm)
    if brain is not None:
        assert kept is not None
        shown = kept if placement is None else placement.placed_mask(kept)
        there = Volume(shown.astype(np.uint8), cleaned.affine)
        kept = to_slices(there, settings.spacing_mm)[0] > 0.5
        raw = np.where(kept, raw, np.float32(0))
    foreground = foreground_mask(raw) if kept is None else kept
    if settings.bias == "n4":
        raw = without_bias(raw, foreground, grid.spacing)
        foreground = foreground_mask(raw) if kept is None else kept
    depth = volume.header.depth if isinstance(volume.header, PictureHeader) else None
    recipe, outside = _range(raw, foreground, settings, depth, kept)
    recipe = on_scale(recipe, levels)
    slices = recipe.normalise(raw)
    if outside is not None:
        slices[outside] = -1
        foreground = foreground | ~outside
    added = ((0, 0),) * 3 if frame is None else frame.lacks(grid)
    return Standard(
        np.pad(slices, added, constant_values=-1),
        np.pad(foreground, added),
        grid,
        added,
        recipe,
        crop,
        brain,
        noise,
        alignment,
        placement,
    )


def _range(
    raw: NDArray[np.float32],
    foreground: NDArray[np.bool_],
    settings: StandardSettings,
    depth: int | None,
    kept: NDArray[np.bool_] | None,
) -> tuple[IntensityRecipe, NDArray[np.bool_] | None]:
    """The intensity range, and what is not shown at all: what is not `kept`, if that is known."""
    recipe = find_recipe(raw, foreground, settings.intensity, depth)
    outside = None if kept is None else ~kept
    if kept is None and depth is None:
        outside = blank_outside(raw, foreground)
    scored = settings.intensity.method == "zscore" and recipe != WINDOW
    if scored and outside is None:
        outside = ~foreground
    if outside is not None and not scored:
        recipe = recipe.model_copy(update={"floor": FLOOR})
    return recipe, outside
