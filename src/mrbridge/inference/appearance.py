"""What an image shows, in a few numbers: a head or not, how bright each tissue, how well scanned.

Where the template says that there is grey matter, white matter and fluid, their intensities
identify the contrast, as they do for a reader: no weights, no network, nothing learned.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.inference.head_position import Fit, find_template, shrunk_to, size_of, template
from mrbridge.preprocessing.foreground import Head, Mask, Stack
from mrbridge.preprocessing.intensity import inner_half, skewness
from mrbridge.preprocessing.preprocess import noise_level
from mrbridge.preprocessing.resample import moved
from mrbridge.preprocessing.template import CENTRE

MARGIN_MM = 10.0
"""Around the head in a scan that is measured."""

_LEAST_MM = 90.0  # that a head extends in two directions: less is a part of one
_LEAST_HEIGHT_MM = 50.0  # and in the third: the template fits anywhere in a few slices
_MOSTLY_FLAT = 0.5  # of the foreground: no scan, and nothing else needs to be measured
_MEASURED = 9  # slices, evenly spaced, in which noise and spikes are measured
_LEAST_VOXELS = 1000  # of the brain at 2 mm
_DEEP_MM, _EDGE_MM = 12.0, 5.0  # below the brain's surface
_SMALL = 0.3  # of the largest slice's foreground: smaller ones are the top or the bottom of a head
_LESION_MM = 8.0  # below the brain's surface, from where on lesions are sought
_LESION_CONTRAST = 0.8  # to white matter, in units of the contrast of grey to white matter
_LOW_FREQUENCY = 0.25  # of the highest: spikes are sought beyond


@dataclass(frozen=True)
class Appearance:
    """What an image shows. Intensities of tissue are above the background, in units of white
    matter's.

    Attributes:
        flat: share of the foreground's voxels that equal both neighbours in their row.
        values: distinct intensities of the foreground.
        skewness: of the brain, or of the inner half of a 2D image; see `skewness`.
        spikes: strongest single spatial frequency beyond the lowest, in units of those around it.
        ghosts: how much brighter air is next to the head than elsewhere, as a share of the head.
        jump: largest change between neighbouring slices, in units of the usual one.
        empty: slices between others that show nothing.
        touches: share of the slices in which the head reaches two opposite edges.
        extent_mm: largest extent of the foreground; None of a 2D image.
        noise: standard deviation; None if there is no white matter to compare it with.
        information: nats shared with the template; None, like all that follows, if the template was
            not searched: in a 2D image, or in a part of a head.
        turn: how the head lies, such as `upright`.
        turned: information in that position in units of that in an upright one.
        size: of the brain in units of the template's.
        seen: share of the brain in the field of view.
        grey, ventricles: medians where the template has deep grey matter, and ventricles.
        low, high, highest: 1st, 99th and 99.9th percentiles of the brain.
        lesion_ml: volume of the largest region of white matter that looks like another tissue in
            one hemisphere only.
        lesion_at: its centre in the scan, RAS+ mm; None without one.
    """

    flat: float
    values: int
    skewness: float | None = None
    spikes: float | None = None
    ghosts: float | None = None
    jump: float | None = None
    empty: int = 0
    touches: float = 0.0
    extent_mm: float | None = None
    noise: float | None = None
    information: float | None = None
    turn: str = "upright"
    turned: float = 1.0
    size: float | None = None
    seen: float | None = None
    grey: float | None = None
    ventricles: float | None = None
    low: float | None = None
    high: float | None = None
    highest: float | None = None
    lesion_ml: float | None = None
    lesion_at: tuple[int, ...] | None = None

    def as_json(self) -> dict[str, Any]:
        """Rounded numbers."""
        return {
            key: round(value, 4) if isinstance(value, float) else value
            for key, value in asdict(self).items()
        }


def measure(head: Head, anatomy: bool = True) -> Appearance:
    """Measure a scan, in about a second, or a 2D image.

    Args:
        head: the scan, from `crop_to_head` with `MARGIN_MM`.
        anatomy: False leaves out all that holds for heads only.
    """
    slices, inside = head.slices, head.foreground
    found = Appearance(_flat(slices, inside), _values(slices[inside]))
    if not anatomy or not inside.any() or found.flat > _MOSTLY_FLAT:
        return found
    if head.volume.is_2d:
        return replace(found, skewness=skewness(inner_half(slices[0], inside[0])))
    chosen = _largest(inside)
    found = replace(
        found,
        spikes=_spikes(slices[chosen]),
        ghosts=_ghosts(slices[chosen], inside[chosen]),
        jump=_jump(slices, inside),
        empty=_empty(slices, inside),
        touches=_touches(inside),
    )
    low, middle, high = sorted(_extents(head))
    found = replace(found, extent_mm=high)
    if low < _LEAST_HEIGHT_MM or middle < _LEAST_MM:
        brain = [inner_half(slices[n], inside[n]) for n in chosen]
        return replace(found, skewness=skewness(np.concatenate(brain)))
    fit = find_template(head)
    if fit is None:
        return found
    noise = noise_level(slices[chosen], inside[chosen])
    return replace(found, **_tissues(head, fit, noise))


def _flat(slices: Stack, inside: Mask) -> float:
    same = slices[:, :, 1:] == slices[:, :, :-1]
    both = same[:, :, 1:] & same[:, :, :-1] & inside[:, :, 1:-1]
    return float(both.sum() / max(1, inside[:, :, 1:-1].sum()))


def _values(inside: NDArray[np.float32]) -> int:
    return len(np.unique(inside[:: max(1, len(inside) // 100_000)]))


def _largest(inside: Mask) -> NDArray[np.int_]:
    """Slices, evenly spaced, of those with much foreground."""
    areas = inside.sum(axis=(1, 2))
    large = np.flatnonzero(areas > _SMALL * areas.max())
    places = np.linspace(0, len(large) - 1, min(_MEASURED, len(large)))
    return large[np.unique(places.round().astype(int))]


def _spikes(slices: Stack) -> float | None:
    """Spikes in k-space put stripes over a whole slice."""
    rows, columns = slices.shape[1:]
    if min(rows, columns) < 64:
        return None
    y, x = np.meshgrid(np.fft.fftfreq(rows) * 2, np.fft.rfftfreq(columns) * 2, indexing="ij")
    # The edges of the image are steps, whose spectra lie along the axes.
    far = (np.hypot(x, y) > _LOW_FREQUENCY) & (np.abs(x) > 0.05) & (np.abs(y) > 0.05)
    strongest = []
    for plane in slices:
        power = np.abs(np.fft.rfft2(plane))
        usual = ndimage.uniform_filter(power, 15, mode="wrap")
        strongest.append(float((power / (usual + 1e-6 * power.max()))[far].max()))
    return float(np.median(strongest)) if len(strongest) < 3 else sorted(strongest)[-2]


def _ghosts(slices: Stack, inside: Mask) -> float | None:
    """Ghosts of a head that moved or pulsed lie along the phase-encoding axis, in air."""
    results = []
    for plane, there in zip(slices, inside, strict=True):
        air = ~ndimage.binary_dilation(there, iterations=4)
        rows, columns = there.any(axis=1)[:, None], there.any(axis=0)[None]
        parts = [plane[air & rows], plane[air & columns], plane[air & ~rows & ~columns]]
        parts = [part for part in parts if len(part) > 100]
        if len(parts) >= 2 and not (plane[air] == 0).mean() > 0.5:
            means = [float(part.mean()) for part in parts]
            results.append((max(means) - min(means)) / max(1e-9, float(plane[there].mean())))
    return float(np.median(results)) if results else None


def _jump(slices: Stack, inside: Mask) -> float | None:
    """How much more two neighbours differ than others do; missing and swapped slices do."""
    areas = inside.sum(axis=(1, 2))
    large = np.flatnonzero(areas > 2 * _SMALL * areas.max())
    if len(large) < 8 or not slices.any():
        return None
    part = slices[large[0] : large[-1] + 1]
    step = max(1, min(part.shape[1:]) // 80)
    part = part[:, ::step, ::step].reshape(len(part), -1).astype(np.float64)
    part = part - part.mean(axis=1, keepdims=True)
    norm = np.sqrt((part**2).sum(axis=1)) + 1e-9
    changes = 1 - (part[1:] * part[:-1]).sum(axis=1) / (norm[1:] * norm[:-1])
    usual = ndimage.median_filter(changes, 9, mode="nearest")
    return float((changes / np.maximum(usual, 0.005)).max())


def _empty(slices: Stack, inside: Mask) -> int:
    shown = np.flatnonzero(inside.any(axis=(1, 2)))
    between = slices[shown[0] : shown[-1] + 1]
    return int(np.count_nonzero(between.max(axis=(1, 2)) == between.min(axis=(1, 2))))


def _touches(inside: Mask) -> float:
    """A head that reaches both edges is larger than the field of view, or wraps around."""
    areas = inside.sum(axis=(1, 2))
    part = inside[areas > 2 * _SMALL * areas.max()]
    ends = [part[:, 0], part[:, -1]], [part[:, :, 0], part[:, :, -1]]
    return max(
        float(np.all([end.mean(axis=1) > 0.1 for end in pair], axis=0).mean()) for pair in ends
    )


def _extents(head: Head) -> list[float]:
    """Of the foreground along slices, rows and columns, mm."""
    spacing = head.grid.spacing
    assert spacing is not None
    shown = [np.flatnonzero(head.foreground.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    return [float(np.ptp(n) + 1) * step for n, step in zip(shown, spacing, strict=True)]


def _tissues(head: Head, fit: Fit, noise: float) -> dict[str, Any]:
    """Intensities of the tissues where the template has them, without a smooth bias field."""
    parts = template()
    image = shrunk_to(head.volume, 2.0)
    assert image.affine is not None
    voxels = image.voxels - np.float32(head.levels[0])
    back = np.linalg.inv(image.affine) @ fit.transform
    places, top = moved(parts.places, back), np.array(voxels.shape) - 0.5
    inside = ((places >= -0.5) & (places <= top)).all(axis=1)
    result: dict[str, Any] = {
        "information": fit.information,
        "turn": fit.turn,
        "turned": fit.information / max(fit.upright, 1e-9),
        "size": size_of(fit.transform),
        "seen": float(inside.mean()),
    }
    if inside.sum() < _LEAST_VOXELS:
        return result
    values = ndimage.map_coordinates(voxels, places[inside].T, order=1, mode="nearest")
    shares, depth = parts.shares[inside], parts.depth[inside]
    values = _without_bias(values, shares, (parts.places[inside] - CENTRE) / 80)
    deep, edge = depth > _DEEP_MM, depth > _EDGE_MM
    tissues = [values[deep & (shares[:, index] > least)] for index, least in enumerate(_PURE)]
    if min(map(len, tissues)) < _MEASURED:
        return result
    grey, white, ventricles = map(np.median, tissues)
    if not white > 0:
        return result
    low, high, highest = np.percentile(values[edge], (1, 99, 99.9)) / white
    lesion, centre = _lesion(values, shares, depth, parts.places[inside], float(grey), float(white))
    if centre is not None:
        place = moved(centre[None], fit.transform)[0]
        result["lesion_at"] = tuple(int(mm) for mm in place.round())
    return result | {
        "lesion_ml": lesion,
        "skewness": skewness(values[edge]),
        "noise": noise / float(white),
        "grey": float(grey / white),
        "ventricles": float(ventricles / white),
        "low": float(low),
        "high": float(high),
        "highest": float(highest),
    }


def _lesion(
    values: NDArray[np.floating[Any]],
    shares: NDArray[np.float32],
    depth: NDArray[np.float32],
    places: NDArray[np.floating[Any]],
    grey: float,
    white: float,
) -> tuple[float, NDArray[np.float64] | None]:
    """The volume in ml and the centre (template, mm) of what may be the largest lesion.

    Ventricles, and what an affine fit misplaces, lie on both sides: what has a counterpart within
    2 mm of its mirror image does not count, nor does what is thinner than 6 mm.

    Args:
        values: intensities without bias, (n,).
        shares, depth, places: of the same voxels, as in `Template`.
        grey, white: intensities of the tissues.
    """
    first = places.min(axis=0)
    voxels = np.rint((places - first) / _STEP_MM).astype(int)
    is_white = (shares[:, 1] > _PURE[1]) & (depth > _LESION_MM)
    is_other = np.abs(values - white) > _LESION_CONTRAST * abs(grey - white)
    there = np.zeros(voxels.max(axis=0) + 1, bool)
    there[tuple(voxels[is_white & is_other].T)] = True
    opposite = np.rint(-2 * first[0] / _STEP_MM).astype(int) - np.arange(len(there))
    mirrored = there[np.clip(opposite, 0, len(there) - 1)]
    mirrored[(opposite < 0) | (opposite >= len(there))] = False
    there &= ~ndimage.binary_dilation(mirrored)
    labels, count = ndimage.label(ndimage.binary_opening(there))
    if not count:
        return 0.0, None
    sizes = np.bincount(labels.ravel())[1:]
    centre = np.argwhere(labels == sizes.argmax() + 1).mean(axis=0)
    return float(sizes.max() * _STEP_MM**3 / 1000), first + centre * _STEP_MM


_STEP_MM = 2.0
"""Between the voxels of the template in which tissues are measured."""

_PURE = (0.8, 0.9, 0.6)
"""Shares of grey matter, white matter and fluid from which the template counts as pure."""


def _without_bias(
    values: NDArray[np.float32], shares: NDArray[np.float32], places: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Intensities without a bias field that is quadratic in the position.

    Tissues and field are fitted together by least squares, three times, without outliers.

    Args:
        values: (n,).
        shares: (n, 3), of the tissues.
        places: (n, 3), about -1 to 1.
    """
    powers = [places, places**2, places * np.roll(places, 1, axis=1)]
    solid = (1 - shares[:, 2:]) * np.concatenate(powers, axis=1)
    design = np.concatenate([shares, solid], axis=1).astype(np.float64)
    keep = np.ones(len(values), bool)
    factors: NDArray[Any] = np.zeros(design.shape[1])
    squares, products = design.T @ design, design.T @ values
    for _ in range(3):
        far = design[~keep]  # few, so that they are taken away instead of adding up the others
        normal = squares - far.T @ far, products - far.T @ values[~keep]
        factors = np.linalg.lstsq(*normal, rcond=None)[0]
        error = np.abs(values - design @ factors)
        keep = error < 3 * 1.4826 * np.median(error[keep]) + 1e-9
    return np.asarray(values - solid @ factors[3:], np.float64)
