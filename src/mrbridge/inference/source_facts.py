"""What a source says that holds for its synthesis, too."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mrbridge.preparation.geometry import to_slices
from mrbridge.preparation.intensity import foreground_mask, has_surroundings
from mrbridge.volume import Volume

_STILL_TRUE = (
    *("SkullStripped", "BodyPart", "BodyPartDetails", "BodyPartDetailsOntology", "Simulated"),
    *("AnatomicalLandmarkCoordinates", "AnatomicalLandmarkCoordinateSystem"),
    *("AnatomicalLandmarkCoordinateUnits", "AnatomicalLandmarkCoordinateSystemDescription"),
)

_LITRES = 0.7, 2.2
"""The brain of the ICBM 152 template, larger than most, has 1.9 litres with its fluid; the whole
heads of open-ms-raw have 2.4 to 2.9, the stripped brains of open-ms-mni 1.1, measured alike."""

_EXTENT_MM = 115.0, 200.0
"""Along each axis, the shortest and the longest. Measured alike: 118 to 159 in the brains of
open-ms-mni, 144 to 180 in the template's; of the heads of open-ms-raw, one is cut to a height of
114 and has 2.4 litres all the same."""


def still_true(metadata: dict[str, Any]) -> dict[str, Any]:
    """The fields of a sidecar that hold for the synthesis: of the body and of where it lies.

    All others tell how the source was scanned, and a synthesis was not.
    """
    told = {key: metadata[key] for key in _STILL_TRUE if metadata.get(key) is not None}
    if not isinstance(told.get("SkullStripped"), bool):
        told.pop("SkullStripped", None)  # the standard wants true or false
    return told


def skull_stripped(scan: Volume) -> bool | None:
    """Whether the skull was removed, where the image proves it; None where it does not.

    Air with noise in it, or more than any brain has, prove that it was not. Zero all around, the
    volume of a brain and a brain's extent along each axis prove that it was: what is left of a
    head of that extent is larger, and a part of a head with that volume is flatter.
    """
    slices, grid = to_slices(scan, None)
    shown = foreground_mask(slices)
    spacing = grid.spacing or (0.0, 0.0, 0.0)
    litres = np.count_nonzero(shown) * math.prod(spacing) / 1e6
    if litres > _LITRES[1] or has_surroundings(slices, shown):
        return False
    extent = [
        np.ptp(np.flatnonzero(shown.any(axis=others))) * step if shown.any() else 0.0
        for others, step in zip(((1, 2), (0, 2), (0, 1)), spacing, strict=True)
    ]
    is_a_brain = litres > _LITRES[0] and min(extent) > _EXTENT_MM[0] and max(extent) < _EXTENT_MM[1]
    return True if is_a_brain else None
