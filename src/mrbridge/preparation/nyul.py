"""A standard scale for the histograms of a contrast, learned on training scans.

Landmarks of each scan's histogram are brought to where those of the training scans lie on average,
straight lines between them (Nyul and Udupa 1999; Nyul et al. 2000, doi:10.1109/42.836373). Here the
average is taken of landmarks whose scans lie in [-1, 1] already, so that the scale lies there, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mrbridge.preparation.intensity import IntensityRecipe, rising


def learned_levels(recipes: Sequence[IntensityRecipe]) -> tuple[float, ...]:
    """The standard scale of scans with these recipes; empty where none has landmarks.

    Args:
        recipes: of training scans of one contrast, on a scale or not: it does not matter.
    """
    places = [
        recipe.model_copy(update={"levels": ()}).normalise(np.array(recipe.landmarks))
        for recipe in recipes
        if recipe.landmarks
    ]
    if not places:
        return ()
    return rising(np.mean(np.array(places, np.float64), axis=0).tolist())


def on_scale(recipe: IntensityRecipe, levels: tuple[float, ...]) -> IntensityRecipe:
    """A recipe that brings a scan's landmarks to these levels; as it is, where it has none."""
    if not recipe.landmarks or not levels:
        return recipe
    return recipe.model_copy(update={"levels": levels})


def rescaled(
    values: NDArray[np.float16], before: IntensityRecipe, after: IntensityRecipe
) -> NDArray[np.float16]:
    """Slices that one recipe normalised, as the other one would have; what is outside stays -1."""
    wide = values.astype(np.float32)
    result = after.normalise(before.restore(wide)).astype(np.float16)
    if before.floor > -1:
        result[values == -1] = -1
    return result
