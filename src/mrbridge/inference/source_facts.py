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

_LARGER_THAN_A_BRAIN = 2.2
"""Litres. The brain of the ICBM 152 template, larger than most, has 1.9 with its fluid; the whole
heads of open-ms-raw have 2.4 to 2.9, the stripped brains of open-ms-mni 1.1, measured alike."""


def still_true(metadata: dict[str, Any]) -> dict[str, Any]:
    """The fields of a sidecar that hold for the synthesis: of the body and of where it lies.

    All others tell how the source was scanned, and a synthesis was not.
    """
    return {key: metadata[key] for key in _STILL_TRUE if key in metadata}


def shows_more_than_a_brain(scan: Volume) -> bool:
    """Whether the skull was certainly not removed, by the noise of air around or by the size.

    False says nothing: a whole head may be small and lie in air that was set to zero.
    """
    slices, grid = to_slices(scan, None)
    head = foreground_mask(slices)
    litres = np.count_nonzero(head) * math.prod(grid.spacing or (0,)) / 1e6
    return bool(litres > _LARGER_THAN_A_BRAIN or has_surroundings(slices, head))
