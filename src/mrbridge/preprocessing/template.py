"""The ICBM 152 template in a scan of any contrast: its brain, and alignment with the template.

The template comes with nilearn, as do its maps of grey and white matter: no weights, no network.
Mutual information relates them to any contrast, within some millimetres of the template's brain, so
that scalp and face do not matter. Two versions of the template are tried: as it is, brain on black,
and one in which fluid surrounds the brain, as in T2w scans.

For alignment, the affine transform that fits best is found first; the rigid one is the one nearest
to it within the brain, so that the size of a head does not rotate it (as the AC-PC alignment of
Glasser et al. 2013, doi:10.1016/j.neuroimage.2013.04.127, does).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.errors import InputError
from mrbridge.preprocessing.foreground import Head, Mask
from mrbridge.preprocessing.registration import Level, share_inside, shrunk
from mrbridge.preprocessing.resample import Matrix, blurred, from_sitk, moved, resample, to_image
from mrbridge.preprocessing.settings import TransformKind
from mrbridge.volume import Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

LITRES = (0.7, 2.2)
"""The volume of an adult's brain, ventricles and sulci included, is between these."""

AGREEMENT_MM = 4.0
"""Searches that end further apart than this, root mean square over the brain, disagree.

Two people have no one transform between them, only a best one on the whole: its corners are not
known to the 1 mm that holds for scans of one person. See docs/decisions/0010-alignment.md for what
was measured."""

SIZES = (0.7, 1.2)
"""The size of an adult's brain in units of the template's, along any direction."""

LEAST_INFORMATION = 0.25
"""Nats that a head shares with the template at least."""

LEAST_SEEN = 0.5
"""Share of the brain in the field of view at least."""

_LOST = 0.75  # those that reach less than this share of the best one's information went astray
_POINTS = 2000  # of the template's brain, on which distances are measured

CENTRE = np.array([0.0, -18.0, 8.0])  # of the template's brain, RAS+ mm
WIDTH_MM = 136.0  # of the template's brain
AROUND_MM = 8.0  # surroundings of the brain that are compared with a scan
_SCALP_MM = 22.0  # skin, skull and fluid of both sides together
_BELOW_TOP_MM = 72.0  # the brain's centre below the top of the head
_HEAD_MM = 120.0  # below the top: everything lower is face and neck
_RIM_MM = 3.0  # of fluid around the brain
_TILTS = (-12.0, 0.0, 12.0)  # degrees of nodding to start from,
_STARTING_SIZES = (0.93, 1.0, 1.06)  # and sizes, in units of what the head's width suggests
_LOWER_MM = (0.0, 16.0)  # than the estimated centre: second, if the first starts end badly
_FOLLOWED = 3  # starts of each version that are followed to the end
_LITRES_OF_FIT = (0.6, 2.3)  # others have matched the brain to the scalp, or to a ventricle
_RADIUS_MM = 45.0
_BINS = 32
_SAMPLES, _ITERATIONS = (4_000, 12_000, 30_000), (30, 60, 60)  # of starts, of those followed, last
_LAST_STEP_MM = 0.02


@dataclass(frozen=True)
class _Template:
    """At 2 mm: two versions, the part of them that is looked at, and the brain mask."""

    versions: tuple[Volume, ...]
    around: Volume
    mask: Volume


@lru_cache(maxsize=1)
def _template() -> _Template:
    from nilearn import datasets

    head = datasets.load_mni152_template(2)
    affine = np.asarray(head.affine, np.float64)
    grey, white, mask = (
        np.asarray(load(2).dataobj, np.float32)
        for load in (
            datasets.load_mni152_gm_template,
            datasets.load_mni152_wm_template,
            datasets.load_mni152_brain_mask,
        )
    )
    away = ndimage.distance_transform_edt(mask == 0) * 2
    in_fluid = surrounded_by_fluid(grey, white, away)
    return _Template(
        (Volume(np.asarray(head.dataobj, np.float32), affine), Volume(in_fluid, affine)),
        Volume((away <= AROUND_MM).astype(np.uint8), affine),
        Volume((mask > 0).astype(np.uint8), affine),
    )


def surrounded_by_fluid(
    grey: NDArray[np.float32], white: NDArray[np.float32], away: NDArray[np.floating[Any]]
) -> NDArray[np.float32]:
    """The version of the template in which fluid surrounds the brain, from 0 to 1.

    All arrays (i, j, k): shares of grey and white matter; distance from the brain in mm.
    """
    fluid = np.clip((away <= _RIM_MM) - grey - white, 0, 1)
    return (fluid + 0.5 * grey + 0.3 * white).astype(np.float32)


def template_brain() -> Volume:
    """The template's brain mask at 2 mm, ventricles and sulci included; uint8."""
    return _template().mask


def template_head() -> Volume:
    """The template, T1w, at 2 mm; float32."""
    return _template().versions[0]


def volume_l(inside: Mask, volume: Volume) -> float:
    """The volume of a mask (i, j, k) on the grid of a scan, in litres."""
    return float(np.count_nonzero(inside)) * math.prod(volume.spacing or (0.0,)) / 1e6


def brain_by_template(head: Head) -> Mask:
    """The brain, with ventricles and sulci, of a whole head or part of one, in a scan of any
    contrast: a mask of its shape (i, j, k). Reproducible bit for bit (one thread, fixed seeds), in
    a few seconds. InputError for a 2D image, an image that shows nothing, or if the template fits
    nowhere."""
    best = template_fits(head, 1)[0]
    mask = resample(template_brain(), head.volume, best.transform, "nearest").voxels
    return np.asarray(mask > 0)


@dataclass(frozen=True, eq=False)
class TemplateFit:
    """One position and shape of the template in a scan.

    Attributes:
        transform: (4, 4), affine, from positions in the template to positions in the scan, RAS+ mm.
        information: mutual information in nats at 2 mm.
    """

    transform: Matrix
    information: float


def template_fits(head: Head, count: int) -> list[TemplateFit]:
    """The best fits of the template to a scan, each of a search of its own, best first.

    Those of the version that fits best come before those of the other one, with which they share
    no measure.

    Args:
        count: how many are followed to the end; there may be fewer.

    Raises:
        InputError: a 2D image, an image that shows nothing, or the template fits nowhere.
    """
    if head not in _ENDS:
        _ENDS[head] = _ends(head)
    ends = _ENDS[head]
    fits = [(search is not ends[0][0], search.last(end)) for search, end in ends[:count]]
    return [fit for _, fit in sorted(fits, key=lambda fit: (fit[0], -fit[1].information))]


_Ends = list[tuple["_TemplateSearch", "sitk.AffineTransform"]]

# Of heads in memory: skull stripping and alignment of one scan share the search.
_ENDS: WeakKeyDictionary[Head, _Ends] = WeakKeyDictionary()


def _ends(head: Head) -> _Ends:
    """Where searches end at 4 mm: those of the version that fits best, then the others, each best
    first."""
    if head.volume.affine is None:
        raise InputError("is a 2D image: its brain cannot be found", remedy="Use --brain none.")
    scan, start, size = _scan_and_start(head)
    searches = [_TemplateSearch(version, scan) for version in _template().versions]
    low, high = _LITRES_OF_FIT
    fitting: list[tuple[float, sitk.AffineTransform, _TemplateSearch]] = []
    for lower_mm in _LOWER_MM:
        fitting += [
            (value, end, search)
            for search in searches
            for value, end in search.ends(start - (0, 0, lower_mm), size)
            if low <= _litres(np.reshape(end.GetMatrix(), (3, 3))) <= high
        ]
        best = max(fitting, key=lambda end: end[0], default=None)
        if best and sum(s is best[2] and value >= _LOST * best[0] for value, _, s in fitting) > 1:
            break
    if best is None:
        raise InputError("no brain was found", remedy="Check that it shows a head.")
    fitting.sort(key=lambda end: (end[2] is not best[2], -end[0]))
    return [(search, end) for _, end, search in fitting]


def _litres(matrix: Matrix) -> float:
    """The volume of the brain to which a (3, 3) matrix stretches the template's, in litres."""
    brain = template_brain()
    return volume_l(brain.voxels > 0, brain) * float(np.linalg.det(matrix))


def _scan_and_start(head: Head) -> tuple[sitk.Image, Matrix, float]:
    """The scan at about 2 mm, an estimate of its brain's centre (RAS+ mm), and of its size in
    units of the template's."""
    volume = head.volume
    assert volume.affine is not None
    if not head.mask.any():
        raise InputError("shows nothing", remedy="Leave it out.")
    values = volume.voxels.astype(np.float32)
    values = np.minimum(values, np.percentile(values[head.mask], 99.5))
    centre, width_mm = outline(moved(np.argwhere(head.mask).astype(float), volume.affine))
    image = blurred(to_image(Volume(values, volume.affine)), volume, template_brain())
    size = (width_mm - _SCALP_MM) / WIDTH_MM
    return shrunk(image, 2.0), centre, float(np.clip(size, 0.75, 1.15))


def outline(points: Matrix) -> tuple[Matrix, float]:
    """Estimates from points of an upright head, (n, 3) in RAS+ mm: the brain's centre, (3,), and
    the head's width in mm."""
    top = float(np.percentile(points[:, 2], 99.9))
    points = points[points[:, 2] > top - _HEAD_MM]
    low, high = np.percentile(points[:, :2], (1, 99), axis=0)
    return np.array([*(low + high) / 2, top - _BELOW_TOP_MM]), high[0] - low[0]


class _TemplateSearch:
    """One version of the template (fixed) and a scan (moving), at 4 mm and at 2 mm."""

    def __init__(self, version: Volume, scan: sitk.Image) -> None:
        import SimpleITK as sitk

        fixed, mask = to_image(version), to_image(_template().around)
        coarse = sitk.BinShrink(fixed, [2] * 3), shrunk(scan, 4.0)
        self.levels = [
            Level(*images, samples, _BINS, _LAST_STEP_MM, iterations, around)
            for images, around, samples, iterations in zip(
                (coarse, coarse, (fixed, scan)),
                (*[sitk.Shrink(mask, [2] * 3)] * 2, mask),
                _SAMPLES,
                _ITERATIONS,
                strict=True,
            )
        ]

    def ends(self, centre: Matrix, size: float) -> list[tuple[float, sitk.AffineTransform]]:
        """(mutual information in nats at 4 mm, ITK transform) of the best starts."""
        import SimpleITK as sitk

        starts = []
        for tilt in _TILTS:
            for share in _STARTING_SIZES:
                start = sitk.Similarity3DTransform()
                start.SetCenter((CENTRE * (-1, -1, 1)).tolist())
                start.SetRotation([1.0, 0.0, 0.0], math.radians(tilt))
                start.SetScale(size * share)
                start.SetTranslation(((centre - CENTRE) * (-1, -1, 1)).tolist())
                starts.append(climb(self.levels[0], start, 2.0, fixed_size=True))
        starts.sort(key=lambda end: -end[0])
        results = []
        for value, start in starts[:_FOLLOWED]:
            value, free = climb(self.levels[1], start, 0.5, known=value)
            affine = as_affine(free)
            for step in (0.3, 0.1):
                value, affine = climb(self.levels[1], affine, step, known=value)
            results.append((value, affine))
        return results

    def last(self, affine: sitk.AffineTransform) -> TemplateFit:
        """One of the ends, followed at 2 mm."""
        value, end = climb(self.levels[2], affine, 0.2)
        return TemplateFit(np.linalg.inv(from_sitk(end)), value)


def climb(
    level: Level,
    start: sitk.Transform,
    step_mm: float,
    fixed_size: bool = False,
    known: float | None = None,
) -> tuple[float, sitk.Transform]:
    """Uphill from a start: (mutual information in nats, transform); `known` is that of the start.

    The start, a similarity or an affine transform, is returned if nothing better is found. With
    `fixed_size` a similarity keeps its size: were that free from the beginning, the skin would be
    mistaken for the brain's surface.
    """
    import SimpleITK as sitk

    scales = [_RADIUS_MM**2] * 9 + [1.0] * 3
    if isinstance(start, sitk.Similarity3DTransform):
        size = 1e7 if fixed_size else 3 * _RADIUS_MM**2
        scales = [4 * _RADIUS_MM**2] * 3 + [1.0] * 3 + [size]
    return level.climb(start, step_mm, scales=scales, keep_best=True, known=known)


def as_affine(similar: sitk.Similarity3DTransform) -> sitk.AffineTransform:
    """The same transform, of a kind that may also stretch and shear."""
    import SimpleITK as sitk

    return sitk.AffineTransform(similar.GetMatrix(), similar.GetTranslation(), similar.GetCenter())


@dataclass(frozen=True, eq=False)
class Alignment:
    """The transform from a scan to the template, and how certain it is.

    Attributes:
        transform: (4, 4), from positions in the scan to positions in the template, RAS+ mm.
        kind: `rigid` (6 degrees of freedom) or `affine` (12).
        information: mutual information with the template in nats, by the affine transform.
        residual_mm: uncertainty: how far searches end apart that reach three quarters of the best
            one's information: of the two furthest, root mean square over the brain of the distance
            between the positions in the scan to which they bring the template.
        angle: of the rotation, in degrees.
        sizes: smallest and largest size of the brain in units of the template's, along any
            direction.
    """

    transform: Matrix
    kind: TransformKind
    information: float
    residual_mm: float
    angle: float
    sizes: tuple[float, float]

    def as_json(self) -> dict[str, Any]:
        """Readable numbers."""
        return {
            "template": "MNI152NLin2009aAsym",
            "kind": self.kind,
            "scan_to_template_ras_mm": np.round(self.transform, 8).tolist(),
            "mutual_information": round(self.information, 5),
            "residual_mm": round(self.residual_mm, 3),
            "angle_degrees": round(self.angle, 2),
            "sizes": [round(size, 4) for size in self.sizes],
        }


def align(head: Head, kind: TransformKind) -> Alignment:
    """Align a scan of any contrast with the template.

    Reproducible bit for bit. A few seconds.

    Args:
        head: a head, or a stripped brain.
        kind: `rigid`, or `affine` for the template's size and shape.

    Raises:
        InputError: a 2D image, an image that shows nothing, or it did not converge: searches
            disagree, or their result cannot be an adult's brain.
    """
    if head.volume.affine is None:
        raise InputError(
            "is a 2D image: its position in the head is unknown",
            remedy="Prepare with --align none.",
        )
    fits = template_fits(head, _FOLLOWED)
    best, points = fits[0], _brain_points()
    there = moved(points, best.transform)
    least = _LOST * best.information
    places = [moved(points, fit.transform) for fit in fits if fit.information >= least]
    sizes = np.linalg.svd(best.transform[:3, :3], compute_uv=False)
    rigid = nearest_rigid(there, points)
    result = Alignment(
        transform=rigid if kind == "rigid" else np.linalg.inv(best.transform),
        kind=kind,
        information=best.information,
        residual_mm=max(_rms_distance(one, other) for one in places for other in places),
        angle=float(np.degrees(np.arccos(np.clip((np.trace(rigid[:3, :3]) - 1) / 2, -1, 1)))),
        sizes=(float(sizes.min()), float(sizes.max())),
    )
    seen = share_inside(there, np.eye(4), head.volume)
    why = _implausible(result, len(places), _litres(best.transform[:3, :3]), seen)
    if why is not None:
        raise InputError(
            f"alignment with the template did not converge: {why}",
            remedy="Check that it shows a whole adult's head the right way up; leave it out, or "
            "prepare with --align none.",
        )
    return result


def _implausible(result: Alignment, searches: int, litres: float, seen: float) -> str | None:
    """Why a result did not converge or is not of an adult's head; None if it may be."""
    if searches < 2:
        return "only one search ends well"
    if result.residual_mm > AGREEMENT_MM:
        return f"searches end {result.residual_mm:.1f} mm apart"
    if result.information < LEAST_INFORMATION:
        return f"it shares {result.information:.2f} nats with the template"
    low, high = result.sizes
    if low < SIZES[0] or high > SIZES[1]:
        return f"the brain would have {low:.2f} to {high:.2f} times the template's size"
    if not LITRES[0] <= litres <= LITRES[1]:
        return f"the brain would have {litres:.2f} litres"
    if seen < LEAST_SEEN:
        return f"only {seen:.0%} of the brain is in the field of view"
    return None


def nearest_rigid(points: Matrix, goals: Matrix) -> Matrix:
    """The rigid motion, (4, 4), that takes points nearest to their goals, both of shape (n, 3).

    By least squares (Kabsch 1976, doi:10.1107/S0567739476001873): means coincide.
    """
    middle, goal = points.mean(axis=0), goals.mean(axis=0)
    left, _, right = np.linalg.svd((goals - goal).T @ (points - middle))
    signs = np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    result = np.eye(4)
    result[:3, :3] = left @ signs @ right
    result[:3, 3] = goal - result[:3, :3] @ middle
    return result


def _brain_points() -> Matrix:
    """Evenly spread over the template's brain, shape (n, 3), RAS+ mm."""
    brain = template_brain()
    assert brain.affine is not None
    inside = np.argwhere(brain.voxels > 0)
    return moved(inside[:: max(1, len(inside) // _POINTS)].astype(float), brain.affine)


def _rms_distance(one: Matrix, other: Matrix) -> float:
    """Root mean square distance of points and their counterparts, shapes (n, 3)."""
    return float(np.sqrt(np.square(one - other).sum(axis=1).mean()))
