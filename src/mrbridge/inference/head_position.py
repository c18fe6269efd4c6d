"""Where the head is in a scan: a fit of the ICBM 152 template, rough and quick.

As in `preprocessing.template`, mutual information relates the template to a scan of any contrast.
Here a second is enough: the search is at 4 mm, and ends a few millimetres from the best place. The
template's maps of grey and white matter, which nilearn ships, then tell the tissues apart.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.preprocessing.foreground import Head
from mrbridge.preprocessing.registration import Level
from mrbridge.preprocessing.resample import Matrix, from_sitk, moved, to_image, to_sitk
from mrbridge.preprocessing.template import (
    AROUND_MM,
    CENTRE,
    WIDTH_MM,
    as_affine,
    climb,
    outline,
    surrounded_by_fluid,
)
from mrbridge.threads import usable_cores
from mrbridge.volume import Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

Array = NDArray[np.float32]

_CORNER = np.array([-98.0, -134.0, -72.0])  # RAS+ mm of its first voxel, 1 mm

_TILTS, _SHIFTS = (-16.0, -5.0, 6.0, 17.0), (-16.0, -8.0, 0.0, 8.0, 16.0)
_IF_CUT = (24.0, 36.0, 48.0, 60.0)  # shifts upwards if the top of the head may be missing
_CUT = 0.35  # of the largest slice's foreground in the topmost one, from which it may be
_SIZES = {False: (0.66, 0.73, 0.80, 0.87), True: (0.68, 0.78, 0.88, 0.98)}  # of the foreground's
_TURNS = {
    "upside down": (0, 180, 0),
    "back to front": (0, 0, 180),
    "upside down and back to front": (180, 0, 0),
    "on its side": (0, 90, 0),
    "on its face": (90, 0, 0),
    "on its back": (-90, 0, 0),
    "facing sideways": (0, 0, 90),
}
_BINS, _RANKED, _SAMPLES, _ITERATIONS = 24, 2500, 4000, 30
_LARGE = 0.95  # size, in units of the template's, from which the fit may be of the skin, and
_TOO_LARGE = 2.0  # nats that each further unit costs


@dataclass(frozen=True)
class Template:
    """The template at 4 mm for the fit and at 2 mm for the tissues.

    Attributes:
        versions: brain on black, and a brain surrounded by fluid; 4 mm.
        around: uint8, what of them is looked at.
        places: (n, 3), voxels of the brain at 2 mm, RAS+ mm.
        shares: (n, 3), of grey matter, white matter and fluid in them.
        depth: (n,), mm below the brain's surface.
    """

    versions: tuple[Volume, Volume]
    around: Volume
    places: Matrix
    shares: Array
    depth: Array


def _averaged(values: Array, factors: tuple[int, ...]) -> Array:
    """Means over blocks of voxels; an incomplete block at the end is dropped."""
    for axis, by in enumerate(factors):
        along = np.moveaxis(values, axis, 0)
        length = len(along) // by * by
        total = along[:length:by]
        for first in range(1, by):
            total = total + along[first:length:by]
        values = np.moveaxis(total if by == 1 else total / np.float32(by), 0, axis)
    return values


def shrunk_to(volume: Volume, spacing_mm: float) -> Volume:
    """Averaged over blocks of voxels to at most this spacing; coarser axes stay. float32."""
    assert volume.affine is not None
    assert volume.spacing is not None
    factors = tuple(
        max(1, min(int(spacing_mm / step + 0.1), size // 4))
        for step, size in zip(volume.spacing, volume.voxels.shape, strict=True)
    )
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ ((np.array(factors) - 1) / 2)
    affine[:3, :3] = affine[:3, :3] * factors
    return Volume(_averaged(volume.voxels.astype(np.float32, copy=False), factors), affine)


@lru_cache(maxsize=1)
def template() -> Template:
    """The template; computed the first time."""
    from mrbridge.io.icbm152 import icbm152  # only if asked: it needs nibabel

    head, grey, white = (
        _averaged(icbm152(name).astype(np.float32), (2, 2, 2)) / np.float32(255)
        for name in ("t1", "gm", "wm")
    )
    place = np.diag([2.0, 2.0, 2.0, 1.0])
    place[:3, 3] = _CORNER + 0.5
    mask = ndimage.binary_closing(head > 0.1, iterations=2)
    away = ndimage.distance_transform_edt(~mask) * 2  # mm outside the brain
    around = (away <= AROUND_MM).astype(np.float32)
    in_fluid = surrounded_by_fluid(grey, white, away)
    coarse = [shrunk_to(Volume(one, place), 4.0) for one in (head, in_fluid, around)]
    inside = np.argwhere(mask)
    shares = np.stack([part[mask] for part in (grey, white, np.clip(1 - grey - white, 0, 1))], 1)
    brain = np.pad(mask[ndimage.find_objects(mask.view(np.uint8))[0]], 1)
    depth = ndimage.distance_transform_edt(brain)[brain] * 2
    return Template(
        (coarse[0], coarse[1]),
        Volume((coarse[2].voxels > 0.5).astype(np.uint8), coarse[2].affine),
        moved(inside.astype(float), place),
        shares.astype(np.float32),
        depth.astype(np.float32),
    )


@dataclass(frozen=True, eq=False)
class Fit:
    """Where the template's brain is in a scan.

    Attributes:
        transform: (4, 4), affine, from positions in the template to positions in the scan, RAS+ mm.
        information: mutual information in nats at 4 mm.
        turn: how the head lies, one of `_TURNS`.
        upright: the best information of an upright position.
    """

    transform: Matrix
    information: float
    turn: str
    upright: float


class _Search:
    """Mutual information of one version of the template and a scan, at 4 mm."""

    def __init__(self, version: Volume, around: Volume, scan: Volume, top: float) -> None:
        self.version, self.around = version, around
        values = np.clip(scan.voxels, 0, top)
        self.scan = Volume(values, scan.affine)
        inside = np.argwhere(around.voxels > 0)
        chosen = inside[:: max(1, len(inside) // _RANKED)]
        assert version.affine is not None
        assert scan.affine is not None
        self.places = moved(chosen.astype(float), version.affine)
        own = version.voxels[tuple(chosen.T)]
        self.own = np.minimum(own / own.max() * _BINS, _BINS - 1).astype(np.int64)
        self.bins = np.minimum(values / top * _BINS, _BINS - 1).astype(np.int64)
        self.back = np.linalg.inv(scan.affine)
        images = to_image(version), to_image(self.scan)
        self.level = Level(*images, _SAMPLES, _BINS, 0.05, _ITERATIONS, to_image(around))

    def information(self, transform: Matrix) -> float:
        """In nats; positions outside the scan count as air."""
        voxels = np.rint(moved(self.places, self.back @ transform)).astype(int)
        inside = ((voxels >= 0) & (voxels < self.bins.shape)).all(axis=1)
        seen = np.zeros(len(voxels), np.int64)
        seen[inside] = self.bins[tuple(voxels[inside].T)]
        joint = np.bincount(self.own * _BINS + seen, minlength=_BINS * _BINS)
        share = joint.reshape(_BINS, _BINS) / len(voxels)
        product = share.sum(axis=1, keepdims=True) * share.sum(axis=0, keepdims=True)
        some = share > 0
        return float((share[some] * np.log(share[some] / product[some])).sum())

    def placed(self, start: Matrix) -> tuple[float, sitk.Similarity3DTransform]:
        """Uphill from a start, of one size."""
        import SimpleITK as sitk

        there = to_sitk(np.linalg.inv(start))
        centre = (CENTRE * (-1, -1, 1)).tolist()
        shift = [a - b for a, b in zip(there.TransformPoint(centre), centre, strict=True)]
        similar = sitk.Similarity3DTransform()
        similar.SetCenter(centre)
        similar.SetMatrix(there.GetMatrix(), 1e-4)
        similar.SetTranslation(shift)
        return climb(self.level, similar, 2.0, fixed_size=True)

    def shaped(self, value: float, similar: sitk.Similarity3DTransform) -> tuple[float, Matrix]:
        """Uphill from what `placed` returned, with a free size, then affine."""
        value, similar = climb(self.level, similar, 0.5, known=value)
        value, affine = climb(self.level, as_affine(similar), 0.3, known=value)
        return value, np.linalg.inv(from_sitk(affine))


def _rotation(degrees: tuple[float, float, float]) -> Matrix:
    """About x, then y, then z; (3, 3)."""
    result = np.eye(3)
    for axis, angle in enumerate(degrees):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        turn[a, a], turn[a, b], turn[b, a], turn[b, b] = cosine, -sine, sine, cosine
        result = turn @ result
    return result


def _starts(
    points: Matrix, turn: Matrix, stripped: bool, step: int = 1, cut: bool = False
) -> list[Matrix]:
    """Template positions to scan positions for a head that was turned, from its outline."""
    # As if upright: the inverse of a rotation is its transpose.
    centre, width_mm = outline(points @ turn)
    width = float(np.clip(width_mm / WIDTH_MM, 0.5, 1.4))
    results: list[Matrix] = []
    for size in (width * share for share in _SIZES[stripped]):
        for tilt in _TILTS[step // 2 :: step]:
            for shift in (*_SHIFTS[step // 2 :: step], *(_IF_CUT if cut else ())):
                matrix = turn @ _rotation((tilt, 0, 0)) * size
                start = np.eye(4)
                start[:3, :3] = matrix
                start[:3, 3] = turn @ (centre + np.array([0, 0, shift])) - matrix @ CENTRE
                results.append(start)
    return results


def find_template(head: Head) -> Fit | None:
    """The position of the template in a scan (a head or a stripped brain, of any contrast and
    orientation; not a 2D image); None if that cannot be searched."""
    volume = head.volume
    mask = head.mask
    if volume.affine is None or not mask.any():
        return None
    inside = np.flatnonzero(mask)
    sampled = inside[:: max(1, len(inside) // 20_000)]
    voxels = np.stack(np.unravel_index(sampled, mask.shape), axis=1)
    points = moved(voxels.astype(float), volume.affine)
    # Fat, much brighter than the brain, would draw the template to the skin.
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    core = np.linalg.norm(points - middle, axis=1) < 0.25 * np.ptp(points, axis=0).max()
    top = float(np.percentile(volume.voxels[tuple(voxels[core].T)], 98)) if core.any() else 0.0
    extent = np.ptp(points, axis=0)
    if not top > 0 or extent.max() < 20 or min(volume.voxels.shape) < 2:
        return None
    coarse = shrunk_to(volume, 4.0)
    both = template()
    searches = [_Search(one, both.around, coarse, top) for one in both.versions]
    stripped = head.stripped is not None

    def likely(value: float, size: float) -> float:
        return value - _TOO_LARGE * max(0.0, size - _LARGE)

    areas = head.foreground.sum(axis=(1, 2))  # from inferior to superior
    cut = bool(areas[-1] > _CUT * areas.max())
    upright = _starts(points, np.eye(3), stripped, cut=cut)
    ranked = []  # the best start of each size
    for start in upright:
        size = size_of(start)
        value, search = max(
            ((likely(one.information(start), size), one) for one in searches), key=lambda v: v[0]
        )
        ranked.append((value, round(size, 3), start, search))
    ranked.sort(key=lambda one: -one[0])
    chosen = {size: (start, search) for _, size, start, search in reversed(ranked)}
    with ThreadPoolExecutor(usable_cores()) as pool:
        placed = pool.map(lambda one: (*one[1].placed(one[0]), one[1]), chosen.values())
        ends = sorted(placed, key=lambda end: -likely(end[0], 1 / end[1].GetScale()))
        fits = [(value, np.linalg.inv(from_sitk(end))) for value, end, _ in ends]
        fits += pool.map(lambda end: end[2].shaped(*end[:2]), ends[:2])
    value, transform = max(fits, key=lambda fit: likely(fit[0], size_of(fit[1])))
    result = Fit(transform, value, "upright", value)
    search = ranked[0][3]
    turned = [
        (search.information(start), name, start)
        for name, degrees in _TURNS.items()
        for start in _starts(points, _rotation(degrees), stripped, 2)
    ]
    best, name, start = max(turned, key=lambda one: one[0])
    if best > 0.9 * ranked[0][0]:
        other, there = search.shaped(*search.placed(start))
        if likely(other, size_of(there)) > 1.15 * value:
            result = Fit(there, other, name, value)
    return result


def size_of(transform: Matrix) -> float:
    """Of the brain, in units of the template's."""
    return float(abs(np.linalg.det(transform[:3, :3])) ** (1 / 3))
