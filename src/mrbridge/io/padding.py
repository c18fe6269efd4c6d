"""Values outside the image: NaN, infinity, and the constant that pads the surroundings.

Scanners, registration and resampling tools fill the area outside the image with a constant such
as -1000, -1024, -32768, 32767, 65535 or NaN. Taken for tissue or air it would set the range of
intensities.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.errors import InputError
from mrbridge.reports import counted

_SAMPLE = 1 << 18  # voxels in which a value that many share is looked for
_MANY = 0.0005  # the smallest share of padding: it would shift the percentiles of intensity
_MOST = 0.02  # a larger share of negative integers need not touch the border of the image
_LARGEST_SIGNED = 2**15 - 1
_FAR, _VERY_FAR = 0.5, 2.0  # distances of padding from the image, in ranges of the image
_EXTREME = 10.0  # the same, for values above the image and below 32767: labels are at 5
_BELOW = 0.01  # the same, for negative integers below a magnitude image, which has none
_RINGING = 0.05  # of the range of an image, or the distance of padding, that may be below zero
_BACKGROUND = 0.1  # share of voxels in the lowest tenth of the range of an image with background
_FEWEST_VALUES = 16  # an image with fewer different values is a label map or a mask
_EDGE = 2  # voxels next to padding that resampling mixes with it
_NEAR = 0.25  # share of the way to the image within which values are padding, after interpolation
_MARGIN = 0.02  # share of the padding by which interpolation changes it, away from its edges
_LARGE_PART = 0.25  # of an image that may be missing
_SMALL_PART, _SAME = 0.1, 0.8  # of a slice: its smaller part; what two slices show alike
_REST_OF_ROW = 0.2  # of what a row shows, after which it ends there by itself
_FEWEST_SHOWN = 100  # voxels of a slice, or of its smaller part
_FEWEST_WRAPS = 8  # values that a wrap-around makes negative, of which one could be padding
_NOISE = 0.1  # the most neighbours at opposite ends of the range, for each of two signs near 0
_EVEN = 1e-3  # share of the range within which values count as one, after interpolation


def find_padding(voxels: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Find the constant that pads an image.

    It is a value other than 0 that many voxels share, at the border of the image or in a large
    part of it, and that is far outside the range of all other voxels: twice this range (ten times
    if it is above them and under 32767); or half of it, of a negative integer or one from 32767
    on, where the others have a background of their own; or a hundredth, of a negative integer below
    an image without negative values. Label maps and masks have no padding.

    Returns:
        A mask of the shape (i, j, k) of the voxels, which are finite; None if nothing is padded.
    """
    padding = np.zeros(voxels.shape, bool)
    for _ in range(4):  # several tools, several constants
        ends = _candidates(voxels[~padding] if padding.any() else voxels)
        masks = (_padded_with(*end, voxels, padding) for end in ends)
        found = next((mask for mask in masks if mask is not None), None)
        if found is None:
            break
        padding |= found
    return padding if padding.any() else None


def filled(voxels: NDArray[Any], padding: NDArray[np.bool_]) -> tuple[NDArray[Any], float]:
    """Replace padding, a mask of the shape (i, j, k) of the voxels, by background.

    Voxels next to padding that are outside the range of the others, because resampling mixed them
    with it, become background too.

    Returns:
        The voxels in their own number type, and the background: 0 where the range of the image
        begins near 0, else the lower end of its range. If everything is padding, all voxels
        become 0.
    """
    edge = _dilated(padding, _EDGE) & ~padding
    lower, upper = _range(voxels, padding | edge)
    span = upper - lower
    background = 0.0 if -_RINGING * span <= lower <= _FAR * span else lower
    margin = _RINGING * span
    outside = padding | (edge & ((voxels < lower - margin) | (voxels > upper + margin)))
    result = voxels.copy()
    result[outside] = background
    return result, float(result[outside][0]) if outside.any() else background


def without_padding(voxels: NDArray[Any]) -> tuple[NDArray[Any], list[str]]:
    """Voxels (i, j, k) in which what is not finite and what is padding is replaced; notes on that.

    NaN becomes 0, infinity the largest or smallest finite value, or 0 if it is padding. At least
    one voxel must be finite. If nothing is replaced, it returns the same array.
    """
    notes = []
    good = np.isfinite(voxels) if voxels.dtype.kind == "f" else np.True_
    bad = 0 if good is np.True_ else int(good.size - np.count_nonzero(good))
    if bad:
        was, were = ("voxel was", "was") if bad == 1 else ("voxels were", "were")
        notes.append(f"{bad} {was} NaN or infinite and {were} replaced")
        infinite = np.isinf(voxels)
        few = np.count_nonzero(infinite) < max(_MANY * voxels.size, 2**3)
        low, high = (float(voxels[good].min()), float(voxels[good].max())) if few else (0.0, 0.0)
        voxels = np.nan_to_num(voxels, nan=0.0, posinf=high, neginf=low)
    padding = find_padding(voxels)
    if padding is None:
        return voxels, notes
    values, counts = np.unique(voxels[padding], return_counts=True)
    voxels, background = filled(voxels, padding)
    count = counted(int(counts.sum()), "voxel")
    notes.append(
        f"{count}, mostly of the value {values[counts.argmax()]:g}, are far outside "
        f"the range of the image: they are padding and became background ({background:g})"
    )
    return voxels, notes


def partial_copy(voxels: NDArray[Any]) -> list[str]:
    """Notes on zeros that suggest a partial copy: some programs reserve the whole size of a file
    first, so that a copy that stops early ends in zeros.

    Either the image stops in the middle of a row, and the neighbouring slices go on there. Or a
    quarter of the slices or more is zero, next to a slice as large as any, and the other end of
    the image has no such margin.

    Args:
        voxels: as they are stored: shape (i, j, k), i varies fastest, without a scale.
    """
    for words, stored in (("from", voxels), ("up to", voxels[::-1, ::-1, ::-1])):
        filled = np.asarray(stored.any(axis=0))  # (j, k)
        count = filled.shape[1]
        last = np.where(filled.any(axis=0), len(filled) - filled[::-1].argmax(axis=0), 0)
        for k in np.flatnonzero(last):
            near = [n for n in (k - 1, k + 1) if 0 <= n < count and last[n]]
            shorter = near and all(last[n] > last[k] for n in near)
            if shorter and all(_stops(stored[:, :, k], stored[:, :, n]) for n in near):
                which = k + 1 if words == "from" else count - k
                return [
                    f"slice {which} of {count} is 0 {words} its middle, unlike its neighbours: "
                    "the file may have been copied only in part"
                ]
    shown = np.flatnonzero(voxels.any(axis=(0, 1)))
    if shown.size < 2:
        return []
    first, end = int(shown[0]), int(shown[-1])
    if voxels.shape[2] - 1 - end < first + _LARGE_PART * voxels.shape[2]:
        return []
    if np.isin(voxels[:, :, first : end + 1], (0, voxels.max())).all():
        return []  # masks of lesions end anywhere
    areas = np.count_nonzero(voxels[:, :, first : end + 1], axis=(0, 1))
    if areas[-1] < max(areas.max() / 2, _FEWEST_SHOWN) or areas[-1] < _SAME * areas[-2]:
        return []
    return [
        f"slices {end + 2} to {voxels.shape[2]} are 0, and slice {end + 1} is as full as others: "
        "the field of view ends there, or the file was copied only in part"
    ]


def refuse_wrapped(voxels: NDArray[Any]) -> None:
    """Refuse (InputError) large unsigned integers that were stored, or read, as signed ones.

    Neighbours are then near opposite ends of the range; in signed images they are near 0.
    Padding of -32768 next to bright voxels is a single value.

    Args:
        voxels: as they are stored, without a scale.
    """
    if voxels.dtype.kind != "i" or voxels.dtype.itemsize > 2:
        return
    end = np.iinfo(voxels.dtype).max
    if voxels.min() > -end / 2 or voxels.max() < end / 2:
        return
    first, second = voxels[1:].astype(np.int32), voxels[:-1].astype(np.int32)
    two_signs = first * second < 0
    near_end = two_signs & (np.minimum(abs(first), abs(second)) > end / 2)
    near_zero = two_signs & (np.maximum(abs(first), abs(second)) < end / 2)
    values = np.unique(np.minimum(first, second)[near_end]).size
    is_signed = np.count_nonzero(near_end) <= _NOISE * np.count_nonzero(near_zero)
    if values >= _FEWEST_WRAPS and not is_signed:
        raise InputError(
            f"its intensities wrap around at {end}: unsigned integers are declared as signed ones",
            remedy=f"Convert it again, as u{voxels.dtype.name} or float32.",
        )


def _stops(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether a slice (i, j) shows what the other one does up to a voxel, and nothing after it."""
    first, second = (image.ravel(order="F") != 0 for image in (one, other))
    end = int(np.flatnonzero(first)[-1]) + 1
    row = (end - 1) // len(one) * len(one)
    in_row, rest = (np.count_nonzero(second[start : row + len(one)]) for start in (row, end))
    if rest <= _REST_OF_ROW * in_row:  # whole rows, as a field of view may end
        return False
    shown = np.count_nonzero(second)
    before, after = np.count_nonzero(second[:end]), np.count_nonzero(second[end:])
    if min(before, after) < max(_SMALL_PART * shown, _FEWEST_SHOWN):
        return False
    both, either = first[:end] & second[:end], first[:end] | second[:end]
    return int(np.count_nonzero(both)) >= _SAME * int(np.count_nonzero(either))


def _candidates(values: NDArray[Any]) -> list[tuple[float, float, bool]]:
    """The smallest and the largest value that many voxels share, as far as a sample of the voxels
    shows them far outside the range of the others.

    Each comes with the limit up to which voxels are nearer to it than to the others, and with
    whether it is low.
    """
    sample = values.ravel(order="K")
    sample = sample[:: max(1, sample.size // _SAMPLE) | 1].astype(np.float64)
    found, counts = np.unique(sample, return_counts=True)
    if found.size < _FEWEST_VALUES:
        return []
    many = counts >= max(_MANY * sample.size, 8)
    if not many.any():  # splines make constants a little uneven
        step = _EVEN * float(np.ptp(np.percentile(sample, (5, 95)))) or 1.0
        found, counts = np.unique(np.rint(sample / step), return_counts=True)
        found, many = found * step, counts >= max(_MANY * sample.size, 8)
    if not many.any():
        return []
    candidates = []
    for end, is_low in ((found[many][0], True), (found[many][-1], False)):
        # Interpolation leaves values close to the constant.
        margin = _MARGIN * abs(end)
        counted = np.where(abs(found - end) <= margin, counts, 0)
        value = float(found[counted.argmax()])
        rest = sample[sample > end + margin] if is_low else sample[sample < end - margin]
        if rest.size:
            lower, upper = (float(level) for level in np.percentile(rest, (5, 95)))
            nearest = lower if is_low else upper
            least = _FAR if _is_chosen(value) else _VERY_FAR
            if not is_low and value < _LARGEST_SIGNED:
                least = _EXTREME
            elif is_low and _is_chosen(value):
                least = _BELOW
            if value and abs(nearest - value) >= least * (upper - lower):
                candidates.append((value, value + _NEAR * (nearest - value), is_low))
    return candidates


def _is_chosen(value: float) -> bool:
    """Whether a value looks like the choice of a tool: z-scores are not integers, -1 may be black,
    and a phantom without noise has bright constants."""
    return (value < -1 or value >= _LARGEST_SIGNED) and value == round(value)


def _padded_with(
    value: float, near: float, is_low: bool, voxels: NDArray[Any], known: NDArray[np.bool_]
) -> NDArray[np.bool_] | None:
    """The mask of padding with a value at one end of the range; None if there is none."""
    same = voxels <= near if is_low else voxels >= near
    others = ~(_dilated(same, _EDGE) | known)  # interpolation makes values in between there
    same &= ~known
    lower, upper = _range(voxels, ~others)
    gap, span = (lower - value if is_low else value - upper), upper - lower
    if not (span > 0 and gap > 0):
        return None
    magnitude = is_low and _is_chosen(value) and lower >= -_RINGING * gap
    if not is_low and value < _LARGEST_SIGNED and gap < _EXTREME * span:
        return None
    if not (magnitude and gap >= _BELOW * span):
        if gap < _FAR * span:
            return None
        if gap < _VERY_FAR * span and (np.mean(voxels[others] < lower + 0.1 * span) < _BACKGROUND):
            return None
    share = np.count_nonzero(same) / same.size
    large = magnitude and share >= _MOST
    return same if large or (share >= _MANY and _at_border(same)) else None


def _range(voxels: NDArray[Any], without: NDArray[np.bool_]) -> tuple[float, float]:
    """The range of intensities without a few outliers."""
    rest = voxels[~without]
    if not rest.size:
        return 0.0, 0.0
    rest = rest[:: max(1, rest.size // _SAMPLE) | 1]
    lower, upper = np.percentile(rest.astype(np.float64), (0.1, 99.9))
    return float(lower), float(upper)


def _at_border(mask: NDArray[np.bool_]) -> bool:
    axes = [axis for axis in range(mask.ndim) if mask.shape[axis] > 2]
    return any(mask.take(end, axis).any() for axis in axes for end in (0, -1))


def _dilated(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """Dilate a mask by `steps` voxels along each axis."""
    return np.asarray(ndimage.maximum_filter(mask.view(np.uint8), 2 * steps + 1)).view(np.bool_)
