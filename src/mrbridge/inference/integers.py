"""Syntheses as integers: which number types there are, and which factor keeps their grey levels.

Files of integers say slope 1 and intercept 0, so every program reads the numbers that stand there.
A factor, where one is needed, is the same for all scans of a model, a power of ten where possible.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mrbridge.errors import SettingsError
from mrbridge.preparation.intensity import IntensityRecipe
from mrbridge.volume import Volume

NUMBER_TYPES = ("float32", "int16", "uint16", "uint8", "int32")
"""The number types that a synthesis can be written in."""

_LEVELS = 1000
"""Fewer grey levels than this over the range lose detail."""


@dataclass(frozen=True)
class Rounding:
    """What became of the intensities.

    Attributes:
        dtype: the number type.
        factor: what they were multiplied with, before they were rounded.
        clipped: how many voxels lay outside the type's range and were set to its end.
    """

    dtype: str
    factor: float
    clipped: int

    def told(self) -> dict[str, Any]:
        """As sidecars and reports say it."""
        return {"NumberType": self.dtype, "Factor": self.factor, "ClippedVoxels": self.clipped}


def check_number_type(dtype: str) -> None:
    """Refuse what is not a number type that results can have.

    Raises:
        SettingsError: it is none.
    """
    if dtype not in NUMBER_TYPES:
        raise SettingsError(
            f"there is no number type '{dtype}'",
            remedy=f"Choose one of {', '.join(NUMBER_TYPES)}.",
        )


def rounded(volume: Volume, dtype: str, range_out: IntensityRecipe) -> tuple[Volume, Rounding]:
    """A synthesis in another number type; zero stays zero.

    Args:
        volume: float32 voxels.
        dtype: one of the integers among `NUMBER_TYPES`.
        range_out: the range of intensities that syntheses have, equal for all that are to be
            compared.

    Returns:
        The volume, and what was done.
    """
    limits = np.iinfo(dtype)
    factor = factor_for(max(abs(range_out.low), abs(range_out.high)), int(limits.max))
    values = np.rint(volume.voxels.astype(np.float64) * factor)
    clipped = int(np.count_nonzero((values < limits.min) | (values > limits.max)))
    voxels = np.clip(values, limits.min, limits.max).astype(dtype)
    return replace(volume, voxels=voxels), Rounding(dtype, factor, clipped)


def factor_for(top: float, limit: int) -> float:
    """What to multiply intensities up to `top` with, so that integers up to `limit` hold them.

    1 where there are a thousand levels and all fit; else the power of ten that is nearest to it
    and keeps both; else what uses the whole of the type.
    """
    exponent = 0
    if top > limit:
        exponent = math.floor(math.log10(limit / top))
    elif top < _LEVELS:
        exponent = math.ceil(math.log10(_LEVELS / top))
    factor = 10.0**exponent
    return factor if min(_LEVELS, limit) <= factor * top <= limit else limit / top
