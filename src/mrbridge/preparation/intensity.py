"""Intensities of MR have no unit: a recipe per scan brings them to [-1, 1], and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from mrbridge.errors import InputError
from mrbridge.settings import Settings

FLOOR = -0.8
"""What the darkest anatomy becomes where the outside is blank."""

_BLANK, _BLANK_EDGE = 0.2, 0.99  # shares of exact zeros, of all pixels and of the outermost ones
_BLANK_MARGIN = 1.08
"""How much larger than the foreground what is not blank may be: 1.00 to 1.01 times in stripped
brains of open-ms-mni, 1.16 to 1.25 times in whole heads of open-ms-raw with partly zeroed air."""

_NOTHING = 0.005  # share of the brightest tissue, below which the background is zero

_DECILES = tuple(range(10, 100, 10))

KNEE_LEVEL = 0.6
"""What a recipe's knee becomes: tissue gets 80 % of [-1, 1], the bright tail the rest."""


class IntensityRecipe(Settings):
    """The map of one scan: `low` goes to -1, `high` to 1, straight lines between.

    A `knee` goes to 0.6. Whole heads have one: their fat is several times as bright as the brain,
    which a single line would squeeze into a third of the range (landmarks as in Nyul et al. 2000,
    doi:10.1109/42.836373, of which these are three).

    Where everything around the anatomy was set to zero, `low` goes to a `floor` above -1 (and the
    knee, its level and the rest of the range move up in proportion): -1 then says "outside", and
    fluid that is as black as the outside can be told from it.

    `levels`, where there are any, replace all that: the `landmarks` go to them, straight lines
    between, and what lies beyond the ends to the ends. See `nyul`.
    """

    low: float
    high: float
    knee: float | None = None
    floor: float = Field(default=-1.0, ge=-1, lt=0)
    landmarks: tuple[float, ...] = ()
    levels: tuple[float, ...] = ()

    @property
    def bend(self) -> float:
        """The intensity that becomes 0.6, knee or not."""
        straight = self.low + (KNEE_LEVEL + 1) / 2 * (self.high - self.low)
        return straight if self.knee is None else self.knee

    def _lines(self) -> list[tuple[float, float, float]]:
        """The pieces as (start, its level, slope); slopes fall, so the lower line is the map."""
        if self.knee is None:
            return [(self.low, -1.0, 2 / (self.high - self.low))]
        return [
            (self.low, -1.0, (KNEE_LEVEL + 1) / (self.knee - self.low)),
            (self.knee, KNEE_LEVEL, (1 - KNEE_LEVEL) / (self.high - self.knee)),
        ]

    def normalise(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Intensities of any shape to float32 in [-1, 1]; what lies outside is clipped."""
        values = values.astype(np.float32, copy=False)
        if self.levels:
            return np.interp(values, self.landmarks, self.levels).astype(np.float32)
        pieces = [
            (values - np.float32(start)) * np.float32(slope) + np.float32(level)
            for start, level, slope in self._lines()
        ]
        mapped = pieces[0] if len(pieces) == 1 else np.minimum(*pieces)
        np.clip(mapped, -1, 1, out=mapped)
        return mapped if self.floor == -1 else self._raised(mapped)

    def _raised(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """From [-1, 1] to [floor, 1]."""
        return (values + 1) * np.float32((1 - self.floor) / 2) + np.float32(self.floor)

    def _lowered(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The inverse of `_raised`."""
        return (values - np.float32(self.floor)) * np.float32(2 / (1 - self.floor)) - 1

    def restore(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """The inverse of `normalise`; what is below the floor gives exactly `low`. Only `levels`
        clip."""
        values = values.astype(np.float32, copy=False)
        if self.levels:
            return np.interp(values, self.levels, self.landmarks).astype(np.float32)
        if self.floor != -1:
            values = np.maximum(self._lowered(values), np.float32(-1))
        pieces = [
            (values - np.float32(level)) * np.float32(1 / slope) + np.float32(start)
            for start, level, slope in self._lines()
        ]
        return pieces[0] if len(pieces) == 1 else np.maximum(*pieces)


def median_recipe(recipes: Sequence[IntensityRecipe]) -> IntensityRecipe:
    """The recipe in the middle of several: median of each landmark, straight lines included."""
    low, knee, high = (
        float(np.median(landmarks))
        for landmarks in zip(*((r.low, r.bend, r.high) for r in recipes), strict=True)
    )
    typical = IntensityRecipe(
        low=low, high=high, floor=float(np.median([r.floor for r in recipes]))
    )
    bends = low < knee < typical.bend * (1 - 1e-9)
    if bends:
        typical = typical.model_copy(update={"knee": knee})
    if not all(r.levels and r.levels == recipes[0].levels for r in recipes):
        return typical
    middle = np.median([r.landmarks for r in recipes], axis=0).tolist()
    return typical.model_copy(update={"landmarks": tuple(middle), "levels": recipes[0].levels})


WINDOW = IntensityRecipe(low=0.0, high=255.0)
"""The range of 8-bit images that use it, and of all 8-bit images that are synthesised: what is
darker or has fewer levels would look wrong beside them."""

_USED = 0.75
"""The share of 0..255 that an 8-bit image uses, between the percentiles, if its window counts. The
80 slices of a series exported with one window use 0.81 to 0.99; slices that were scaled to 0.63
without this rule had r = 0.95 with the translation at full range, and 0.88 at 0.47."""


class IntensitySettings(Settings):
    """How a recipe is found.

    Attributes:
        method: `percentile` takes the range from background to bright tissue; `zscore` counts from
            the foreground's mean in its standard deviations, and what is not foreground becomes -1;
            `nyul` brings the deciles of all scans of a contrast to where those of the training
            scans lie on average.
        lower_percentile: of all voxels; it is the background.
        upper_percentile: of the foreground; what is brighter is clipped (vessels, spikes).
        knee_percentile: of the foreground; where it lies below 80 % of the range, the range bends
            there. 100 never bends.
        zscore_limit: standard deviations above (or below) the mean that become 1 (or -1).
    """

    method: Literal["percentile", "nyul", "zscore"] = "percentile"
    lower_percentile: float = Field(1.0, ge=0, le=50)
    upper_percentile: float = Field(99.5, gt=50, le=100)
    knee_percentile: float = Field(90.0, gt=50, le=100)
    zscore_limit: float = Field(3.0, gt=0)


def find_recipe(
    voxels: NDArray[np.float32],
    foreground: NDArray[np.bool_],
    settings: IntensitySettings,
    picture_depth: int | None = None,
) -> IntensityRecipe:
    """Find the intensity range of a scan.

    Args:
        voxels: intensities of any unit, any shape.
        foreground: where the head is; same shape.
        settings: the percentiles.
        picture_depth: bits of a 2D image; None for a volume. Those of 8 bit that use three
            quarters of 0..255 keep this range: whoever exported them chose their window.

    Raises:
        InputError: the image is constant or empty.
    """
    if voxels.min() == voxels.max():
        raise InputError("is constant: it shows nothing", remedy="Leave it out.")
    low = float(np.percentile(voxels, settings.lower_percentile))
    if low < 0 and np.count_nonzero(voxels == 0) * 100 > settings.lower_percentile * voxels.size:
        # Negative numbers beside exact zeros are ringing of an interpolation around an outside
        # that was set to zero, and the outside is what must become -1.
        low = 0.0
    inside = voxels[foreground]
    if picture_depth == 8:
        bright = np.percentile(inside, settings.upper_percentile) if inside.size else voxels.max()
        if bright - low >= _USED * WINDOW.high:
            return WINDOW
    if settings.method == "zscore":
        return _zscore(inside, low, settings.zscore_limit)
    high = float(np.percentile(inside, settings.upper_percentile)) if inside.size else low
    if not high > low:
        high = float(voxels.max())
    if not high > low:
        raise InputError("shows nothing above its background", remedy="Leave it out.")
    if abs(low) <= _NOTHING * high:
        low = 0.0  # whether it is exactly 0 depends on how much air the field of view holds
    recipe = IntensityRecipe(low=low, high=high)
    knee = float(np.percentile(inside, settings.knee_percentile)) if inside.size else high
    if low < knee < recipe.bend:
        recipe = recipe.model_copy(update={"knee": knee})
    if settings.method != "nyul" or not inside.size:
        return recipe
    deciles = np.clip(np.percentile(inside, _DECILES), low, high)
    return recipe.model_copy(update={"landmarks": rising([low, *deciles.tolist(), high])})


def rising(values: Sequence[float]) -> tuple[float, ...]:
    """Numbers that rise or stay, moved apart by a millionth of their range where they stay."""
    steps = np.arange(len(values)) * 1e-6
    apart = np.maximum.accumulate(values) + steps * (values[-1] - values[0])
    return tuple(float(value) for value in apart)


def _zscore(inside: NDArray[np.float32], background: float, limit: float) -> IntensityRecipe:
    """The straight line that makes (value - mean) / (limit * standard deviation) of a value; it
    begins at the background, below which no tissue lies."""
    mean = float(inside.mean(dtype=np.float64)) if inside.size else 0.0
    unit = limit * float(inside.std(dtype=np.float64)) if inside.size else 0.0
    low = max(background, mean - unit)
    if not (unit > 0 and low < mean):
        raise InputError("shows nothing above its background", remedy="Leave it out.")
    return IntensityRecipe(low=low, high=mean + unit, floor=max(-1.0, (low - mean) / unit))


def blank_outside(
    slices: NDArray[np.float32], foreground: NDArray[np.bool_]
) -> NDArray[np.bool_] | None:
    """Where everything around the anatomy was set to zero; None if it was not.

    Air of a whole head may be zero in part: what is left of its noise is no anatomy.

    Args:
        slices: intensities of any unit, (slices, rows, columns).
        foreground: where the head or brain is; same shape.

    Returns:
        A mask of the same shape: exact zeros that lead to the edge of their slice. Zeros that the
        anatomy encloses belong to it.
    """
    zero = slices == 0
    if zero.mean() < _BLANK or _edges(zero).mean() < _BLANK_EDGE:
        return None
    outside = np.stack([plane & ~ndimage.binary_fill_holes(~plane) for plane in zero])
    inside = outside.size - np.count_nonzero(outside)
    return outside if inside <= _BLANK_MARGIN * np.count_nonzero(foreground) else None


def has_surroundings(slices: NDArray[np.float32], foreground: NDArray[np.bool_]) -> bool:
    """Whether there is more than the anatomy, such as the noise of air: then nothing was cut away.

    False says nothing: a whole head may fill its picture, or lie in air that was set to zero.

    Args:
        slices: intensities of any unit, (slices, rows, columns).
        foreground: where the head or brain is; same shape.
    """
    return bool(np.count_nonzero(slices) > _BLANK_MARGIN * np.count_nonzero(foreground) > 0)


def foreground_mask(slices: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where the head (or the skull-stripped brain) is, holes filled slice by slice.

    Args:
        slices: intensities of any unit, (slices, rows, columns).

    Returns:
        A mask of the same shape; empty for a constant image.

    The threshold is Otsu's (IEEE Trans. SMC 9:62, 1979) on the square root of the intensities,
    halved: the root brings dark fluid and bright fat nearer to each other than to air. Where the
    edge of the picture, which is air most often, is noisier than that, its noise counts instead.
    """
    background = float(np.median(slices[slices <= np.percentile(slices, 10)]))
    top = float(np.percentile(slices, 99.9))
    if not top > background:
        top = float(slices.max())
    if not top > background:
        return np.zeros(slices.shape, bool)
    roots = np.sqrt(np.clip((slices - background) / (top - background), 0, 1))
    threshold = _otsu(roots)
    noise = float(np.percentile(_edges(roots), 90))
    return _solid(roots > max(0.5 * threshold, min(noise, threshold)))


def _edges(slices: NDArray[Any]) -> NDArray[Any]:
    """The outermost three pixels of every slice, in one row."""
    rows = np.concatenate([slices[:, :3], slices[:, -3:]], axis=1)
    columns = np.concatenate([slices[:, :, :3], slices[:, :, -3:]], axis=2)
    return np.concatenate([rows.ravel(), columns.ravel()])


def _otsu(values: NDArray[np.float32]) -> float:
    """Otsu's threshold of values in [0, 1]."""
    counts, edges = np.histogram(values, bins=256, range=(0, 1))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = sums / below - (sums[-1] - sums) / above
        variance = np.nan_to_num(below * above * apart**2)
    return float(edges[1:][int(np.argmax(variance))])


def _solid(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Drop specks and fill holes, slice by slice (a slice may be all there is)."""
    result = np.zeros_like(mask)
    for index, plane in enumerate(mask):
        box = ndimage.find_objects(plane.view(np.uint8))
        if not box:
            continue
        opened = _dilated(_eroded(np.pad(plane[box[0]], 3)))
        closed = _eroded(_eroded(_dilated(_dilated(opened))))
        outside, _ = ndimage.label(~closed)
        labels, _ = ndimage.label(outside != outside[0, 0])  # the padding is outside
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        large = sizes > sizes.max() / 100
        result[index][box[0]] = large[labels][3:-3, 3:-3]
    return result


def _eroded(plane: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without the pixels that have a neighbour outside, of four: as `ndimage.binary_erosion`, but
    several times as fast. The outermost pixels must be unset."""
    result = plane.copy()
    result[1:] &= plane[:-1]
    result[:-1] &= plane[1:]
    result[:, 1:] &= plane[:, :-1]
    result[:, :-1] &= plane[:, 1:]
    return result


def _dilated(plane: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """With the four neighbours of every pixel: as `ndimage.binary_dilation`."""
    result = plane.copy()
    result[1:] |= plane[:-1]
    result[:-1] |= plane[1:]
    result[:, 1:] |= plane[:, :-1]
    result[:, :-1] |= plane[:, 1:]
    return result
