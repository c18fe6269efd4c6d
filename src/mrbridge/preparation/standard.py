"""What every scan goes through, in training and in translation alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrbridge.io.picture import PictureHeader
from mrbridge.preparation.bias import without_bias
from mrbridge.preparation.brain import find_brain
from mrbridge.preparation.geometry import SliceGrid, to_slices
from mrbridge.preparation.intensity import (
    FLOOR,
    IntensityRecipe,
    blank_outside,
    find_recipe,
    foreground_mask,
)
from mrbridge.preparation.nyul import on_scale
from mrbridge.preparation.settings import StandardSettings
from mrbridge.volume import Volume


@dataclass(frozen=True)
class Standard:
    """A scan as networks see it.

    Attributes:
        slices: float32 in [-1, 1], (slices, rows, columns), see `geometry`.
        foreground: where the head is, same shape.
        grid: the way back to the source's voxels.
        recipe: the way back to the source's intensities.
        brain: where the brain is, in the source's own voxels (i, j, k); None where it was not
            looked for.
    """

    slices: NDArray[np.float32]
    foreground: NDArray[np.bool_]
    grid: SliceGrid
    recipe: IntensityRecipe
    brain: NDArray[np.bool_] | None = None


def standardise(
    volume: Volume,
    settings: StandardSettings,
    mask: Volume | None = None,
    levels: tuple[float, ...] = (),
) -> Standard:
    """Bring a volume to axial slices of the wanted spacing and to intensities in [-1, 1].

    Args:
        volume: the scan.
        settings: what is done.
        mask: the brain mask that belongs to it, where `settings.brain` is `mask`.
        levels: the standard scale of its contrast, where the intensities' method is `nyul` and one
            was learned.

    Raises:
        InputError: the image is constant or empty, or no plausible brain was found in it.
        SettingsError: HD-BET is wanted and not installed.
    """
    raw, grid = to_slices(volume, settings.spacing_mm)
    brain = kept = None
    if settings.brain != "none":
        brain = find_brain(volume, settings.brain, mask)
        shown = Volume(brain.astype(np.uint8), volume.affine)
        kept = to_slices(shown, settings.spacing_mm)[0] > 0.5
        raw = np.where(kept, raw, np.float32(0))
    foreground = foreground_mask(raw) if kept is None else kept
    if settings.bias == "n4":
        raw = without_bias(raw, foreground, grid.spacing)
        foreground = foreground_mask(raw) if kept is None else kept
    depth = volume.header.depth if isinstance(volume.header, PictureHeader) else None
    recipe = find_recipe(raw, foreground, settings.intensity, depth)
    outside = None if kept is None else ~kept
    if kept is None and depth is None:
        outside = blank_outside(raw, foreground)
    scored = settings.intensity.method == "zscore" and depth != 8  # those keep their range
    if scored and outside is None:
        outside = ~foreground
    if outside is not None and not scored:
        recipe = recipe.model_copy(update={"floor": FLOOR})
    recipe = on_scale(recipe, levels)
    if outside is None:
        return Standard(recipe.normalise(raw), foreground, grid, recipe)
    slices = recipe.normalise(raw)
    slices[outside] = -1
    return Standard(slices, foreground | ~outside, grid, recipe, brain)
