"""Intensity normalisation: MR intensities have no unit, and each scan is scaled to [-1, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from mrbridge.errors import InputError
from mrbridge.preprocessing.settings import IntensitySettings
from mrbridge.settings import Settings

FLOOR = -0.8
"""What the darkest anatomy becomes if the outside is blank."""

KNEE_LEVEL = 0.6
"""What the knee becomes: tissue gets 80 % of [-1, 1], the bright tail the rest."""

OTHER_CONTRAST = 0.3
"""Skewness from which on a T1w is very likely a T2w, and below the negative a T2w a T1w. T1w has
-0.96 to -0.12 and T2w 0.10 to 0.99 in the 170 slices of five open datasets."""

_FEWEST = 9  # values with a skewness
_NOTHING = 0.005  # share of the brightest tissue, below which the background is zero
_DECILES = tuple(range(10, 100, 10))


class IntensityNormalisation(Settings):
    """The intensity curve of one scan: `low` becomes -1, `high` 1, straight lines between.

    A `knee` becomes 0.6. Whole heads have one: their fat is several times as bright as the brain,
    which a single line would squeeze into a third of the range (landmarks as in Nyul et al. 2000,
    doi:10.1109/42.836373, of which these are three).

    If everything around the anatomy was set to zero, `low` becomes a `floor` above -1 (and the
    knee, its level and the rest of the range move up in proportion): -1 then means "outside", and
    fluid as black as the outside can be distinguished from it.

    `levels`, if there are any, replace all that: the `landmarks` go to them, straight lines
    between, and values beyond the ends are clipped. See `learned_levels`.
    """

    low: float
    high: float
    knee: float | None = None
    floor: float = Field(default=-1.0, ge=-1, lt=0)
    landmarks: tuple[float, ...] = ()
    levels: tuple[float, ...] = ()

    @property
    def bend(self) -> float:
        """The intensity that becomes 0.6, with a knee or without."""
        straight = self.low + (KNEE_LEVEL + 1) / 2 * (self.high - self.low)
        return straight if self.knee is None else self.knee

    def _lines(self) -> list[tuple[float, float, float]]:
        """The pieces as (start, its level, slope); slopes fall, so the lower line is the curve."""
        if self.knee is None:
            return [(self.low, -1.0, 2 / (self.high - self.low))]
        return [
            (self.low, -1.0, (KNEE_LEVEL + 1) / (self.knee - self.low)),
            (self.knee, KNEE_LEVEL, (1 - KNEE_LEVEL) / (self.high - self.knee)),
        ]

    def normalise(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Intensities of any shape to float32 in [-1, 1]; values outside the range are clipped."""
        values = values.astype(np.float32, copy=False)
        if self.levels:
            return np.interp(values, self.landmarks, self.levels).astype(np.float32)
        pieces = [
            (values - np.float32(start)) * np.float32(slope) + np.float32(level)
            for start, level, slope in self._lines()
        ]
        mapped = pieces[0] if len(pieces) == 1 else np.minimum(*pieces)
        np.clip(mapped, -1, 1, out=mapped)
        if self.floor == -1:
            return mapped
        # From [-1, 1] to [floor, 1].
        return (mapped + 1) * np.float32((1 - self.floor) / 2) + np.float32(self.floor)

    def restore(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """The inverse of `normalise`; below the floor it gives exactly `low`. Only `levels`
        clip."""
        values = values.astype(np.float32, copy=False)
        if self.levels:
            return np.interp(values, self.levels, self.landmarks).astype(np.float32)
        if self.floor != -1:
            lowered = (values - np.float32(self.floor)) * np.float32(2 / (1 - self.floor)) - 1
            values = np.maximum(lowered, np.float32(-1))
        pieces = [
            (values - np.float32(level)) * np.float32(1 / slope) + np.float32(start)
            for start, level, slope in self._lines()
        ]
        return pieces[0] if len(pieces) == 1 else np.maximum(*pieces)

    def on_scale(self, levels: tuple[float, ...]) -> IntensityNormalisation:
        """The same with `levels` for the landmarks; unchanged without landmarks."""
        if not self.landmarks or not levels:
            return self
        return self.model_copy(update={"levels": levels})


WINDOW = IntensityNormalisation(low=0.0, high=255.0)
"""The range of 8-bit images that use it, and of all 8-bit synthetic images: what is darker or has
fewer levels would look wrong next to them."""

_SMALLEST = 1e-30
"""Smaller ranges have slopes that float32 does not hold."""

_USED = 0.75
"""The share of 0..255 that an 8-bit image uses, between the percentiles, for its window to count.
The 80 slices of a series exported with one window use 0.81 to 0.99; slices that were scaled to 0.63
without this rule had r = 0.95 with the translation at full range, and 0.88 at 0.47."""


def find_normalisation(
    voxels: NDArray[np.float32],
    foreground: NDArray[np.bool_],
    settings: IntensitySettings,
    bit_depth: int | None = None,
) -> IntensityNormalisation:
    """Find the intensity range of a scan.

    Args:
        voxels: intensities of any unit, any shape.
        foreground: where the head is; same shape.
        bit_depth: bits of a 2D image; None for a volume. Images of 8 bits that use three
            quarters of 0..255 keep this range: their window was chosen when they were exported.

    Raises:
        InputError: the image is constant or empty.
    """
    if voxels.min() == voxels.max():
        raise InputError("is constant: it shows nothing", remedy="Leave it out.")
    low = float(np.percentile(voxels, settings.lower_percentile))
    if low < 0 and np.count_nonzero(voxels == 0) * 100 > settings.lower_percentile * voxels.size:
        # Negative numbers next to exact zeros are ringing of an interpolation around an outside
        # that was set to zero, and the outside is what must become -1.
        low = 0.0
    inside = voxels[foreground]
    if bit_depth == 8:
        bright = np.percentile(inside, settings.upper_percentile) if inside.size else voxels.max()
        if bright - low >= _USED * WINDOW.high:
            return WINDOW
    if settings.method == "zscore":
        return _zscore(inside, low, settings.zscore_limit)
    high = knee = low
    if inside.size:
        ends = settings.upper_percentile, settings.knee_percentile
        high, knee = (float(value) for value in np.percentile(inside, ends))
    if not high > low:
        high = float(voxels.max())
    if not high - low > _SMALLEST:
        raise InputError("shows nothing above its background", remedy="Leave it out.")
    if abs(low) <= _NOTHING * high:
        low = 0.0  # whether it is exactly 0 depends on how much air the field of view holds
    result = IntensityNormalisation(low=low, high=high)
    if low < knee < result.bend:
        result = result.model_copy(update={"knee": knee})
    if settings.method != "nyul" or not inside.size:
        return result
    deciles = np.clip(np.percentile(inside, _DECILES), low, high)
    return result.model_copy(update={"landmarks": _rising([low, *deciles.tolist(), high])})


def _zscore(inside: NDArray[np.float32], background: float, limit: float) -> IntensityNormalisation:
    """The straight line (value - mean) / (limit * standard deviation), from the background on,
    below which there is no tissue."""
    mean = float(inside.mean(dtype=np.float64)) if inside.size else 0.0
    unit = limit * float(inside.std(dtype=np.float64)) if inside.size else 0.0
    low = max(background, mean - unit)
    if not (unit > 0 and low < mean):
        raise InputError("shows nothing above its background", remedy="Leave it out.")
    return IntensityNormalisation(low=low, high=mean + unit, floor=max(-1.0, (low - mean) / unit))


def median_normalisation(several: Sequence[IntensityNormalisation]) -> IntensityNormalisation:
    """The typical curve of several scans: the median of each landmark, straight lines included."""
    low, knee, high = (
        float(np.median(values))
        for values in zip(*((one.low, one.bend, one.high) for one in several), strict=True)
    )
    typical = IntensityNormalisation(
        low=low, high=high, floor=float(np.median([one.floor for one in several]))
    )
    if low < knee < typical.bend * (1 - 1e-9):
        typical = typical.model_copy(update={"knee": knee})
    levels = several[0].levels
    if not levels or any(one.levels != levels for one in several):
        return typical
    middle = np.median([one.landmarks for one in several], axis=0).tolist()
    return typical.model_copy(update={"landmarks": tuple(middle), "levels": levels})


def learned_levels(several: Sequence[IntensityNormalisation]) -> tuple[float, ...]:
    """The standard scale of a contrast: mean positions of the landmarks of its training scans (Nyul
    and Udupa 1999; Nyul et al. 2000, doi:10.1109/42.836373), here of scans that are in [-1, 1]
    already, so that the scale is, too. Rising numbers; none if no scan has landmarks."""
    places = [
        one.model_copy(update={"levels": ()}).normalise(np.array(one.landmarks))
        for one in several
        if one.landmarks
    ]
    return _rising(np.mean(np.array(places, np.float64), axis=0).tolist()) if places else ()


def rescaled(
    values: NDArray[np.float16], before: IntensityNormalisation, after: IntensityNormalisation
) -> NDArray[np.float16]:
    """Slices normalised by `before` as `after` would have; the outside stays -1."""
    result = after.normalise(before.restore(values.astype(np.float32))).astype(np.float16)
    if before.floor > -1:
        result[values == -1] = -1
    return result


def _rising(values: Sequence[float]) -> tuple[float, ...]:
    """Numbers that rise or stay, moved apart by a millionth of their range where they stay."""
    steps = np.arange(len(values)) * 1e-6
    apart = np.maximum.accumulate(values) + steps * (values[-1] - values[0])
    return tuple(float(value) for value in apart)


def skewness(values: NDArray[Any]) -> float | None:
    """Whether the dark or the bright tail of a brain's intensities is longer, from -1 to 1; None if
    there are too few.

    (p97 + p3 - 2 p50) / (p97 - p3), Bowley's skewness with outer percentiles. In T1w the tail is
    dark (fluid), in T2w bright.
    """
    if len(values) < _FEWEST:
        return None
    low, middle, high = np.percentile(values, (3, 50, 97))
    return float((high + low - 2 * middle) / (high - low)) if high > low else None


def inner_half(plane: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The pixels of the inner half of the head, both (rows, columns): brain, in an axial slice."""
    depth = ndimage.distance_transform_edt(inside)
    return plane[depth > 0.35 * depth.max()]
