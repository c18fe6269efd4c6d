"""The ICBM 152 template in a scan: where its brain is, whatever the contrast.

The template comes with nilearn, as do its maps of grey and white matter: no weights, no network.
Mutual information relates them to any contrast, within some millimetres of the template's brain, so
that scalp and face do not matter. Two versions of the template are tried: as it is, brain on black,
and one in which fluid surrounds the brain, as in T2w scans.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from scipy import ndimage

from mrbridge.errors import InputError
from mrbridge.preprocessing.foreground import Head, Mask
from mrbridge.preprocessing.resample import Matrix, blurred, from_sitk, moved, resample, to_image
from mrbridge.preprocessing.search import Level, shrunk
from mrbridge.volume import Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

_CENTRE = np.array([0.0, -18.0, 8.0])  # of the template's brain, RAS+ mm
_WIDTH_MM = 136.0  # of the template's brain
_SCALP_MM = 22.0  # skin, skull and fluid of both sides together
_BELOW_TOP_MM = 72.0  # the brain's centre below the top of the head
_HEAD_MM = 120.0  # below the top: everything lower is face and neck
_RIM_MM, _AROUND_MM = 3.0, 8.0  # of fluid around the brain, and of surroundings that are looked at
_TILTS = (-12.0, 0.0, 12.0)  # degrees of nodding to start from,
_SIZES = (0.93, 1.0, 1.06)  # and sizes, in units of what the head's width suggests
_FOLLOWED = 3  # starts of each version that are followed to the end
_LITRES = (0.6, 2.3)  # an end with more or less has taken the scalp, or a ventricle, for the brain
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
    fluid = np.clip((away <= _RIM_MM) - grey - white, 0, 1)
    labels = (fluid + 0.5 * grey + 0.3 * white).astype(np.float32)
    return _Template(
        (Volume(np.asarray(head.dataobj, np.float32), affine), Volume(labels, affine)),
        Volume((away <= _AROUND_MM).astype(np.uint8), affine),
        Volume((mask > 0).astype(np.uint8), affine),
    )


def template_brain() -> Volume:
    """The template's brain mask at 2 mm, ventricles and sulci included; uint8."""
    return _template().mask


def template_head() -> Volume:
    """The template, T1w, at 2 mm; float32."""
    return _template().versions[0]


def brain_by_template(head: Head) -> Mask:
    """The brain, with ventricles and sulci, of a scan of any contrast.

    Reproducible bit for bit: one thread, fixed seeds. A few seconds.

    Args:
        head: a whole head, or part of one; voxels of any real type.

    Returns:
        A mask of the same shape (i, j, k).

    Raises:
        InputError: a 2D image, an image that shows nothing, or the template fits nowhere.
    """
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
        head: as for `brain_by_template`.
        count: how many are followed to the end; there may be fewer.

    Raises:
        InputError: a 2D image, an image that shows nothing, or the template fits nowhere.
    """
    if head not in _ENDS:
        _ENDS[head] = _ends(head)
    ends = _ENDS[head]
    fits = [(search is not ends[0][0], search.last(end)) for search, end in ends[:count]]
    fits.sort(key=lambda fit: (fit[0], -fit[1].information))
    return [fit for _, fit in fits]


_Ends = list[tuple["_TemplateSearch", "sitk.AffineTransform"]]

# Of heads in memory: skull stripping and alignment of one scan share the search.
_ENDS: WeakKeyDictionary[Head, _Ends] = WeakKeyDictionary()


def _ends(head: Head) -> _Ends:
    """Where searches end at 4 mm: those of the version that fits best, then the others, each best
    first."""
    if head.volume.affine is None:
        raise InputError("is a 2D image: its brain cannot be found", remedy="Say --brain none.")
    scan, start, size = _scan_and_start(head)
    searches = [_TemplateSearch(version, scan) for version in _template().versions]
    ends = [(value, end, search) for search in searches for value, end in search.ends(start, size)]
    own = float(np.count_nonzero(template_brain().voxels)) * 8e-6  # litres
    fitting = [end for end in ends if _LITRES[0] <= own * _growth(end[1]) <= _LITRES[1]]
    if not fitting:
        raise InputError("no brain was found", remedy="Check that it shows a head.")
    best = max(fitting, key=lambda end: end[0])[2]
    fitting.sort(key=lambda end: (end[2] is not best, -end[0]))
    return [(search, end) for _, end, search in fitting]


def _growth(template_to_scan: sitk.AffineTransform) -> float:
    """The volume of the scan's brain in units of the template's."""
    return abs(float(np.linalg.det(np.reshape(template_to_scan.GetMatrix(), (3, 3)))))


def _scan_and_start(head: Head) -> tuple[sitk.Image, Matrix, float]:
    """The scan at about 2 mm, an estimate of its brain's centre (RAS+ mm), and of its size in
    units of the template's."""
    volume = head.volume
    assert volume.affine is not None
    if not head.mask.any():
        raise InputError("shows nothing", remedy="Leave it out.")
    values = volume.voxels.astype(np.float32)
    values = np.minimum(values, np.percentile(values[head.mask], 99.5))
    points = moved(np.argwhere(head.mask).astype(float), volume.affine)
    top = float(np.percentile(points[:, 2], 99.9))
    points = points[points[:, 2] > top - _HEAD_MM]
    low, high = np.percentile(points[:, :2], (1, 99), axis=0)
    centre = np.array([*(low + high) / 2, top - _BELOW_TOP_MM])
    image = blurred(to_image(Volume(values, volume.affine)), volume, template_brain())
    size = (high[0] - low[0] - _SCALP_MM) / _WIDTH_MM
    return shrunk(image, 2.0), centre, float(np.clip(size, 0.75, 1.15))


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
        """(mutual information in nats at 4 mm, transform as ITK has it), of the best starts."""
        import SimpleITK as sitk

        starts = []
        for tilt in _TILTS:
            for share in _SIZES:
                start = sitk.Similarity3DTransform()
                start.SetCenter((_CENTRE * (-1, -1, 1)).tolist())
                start.SetRotation([1.0, 0.0, 0.0], math.radians(tilt))
                start.SetScale(size * share)
                start.SetTranslation(((centre - _CENTRE) * (-1, -1, 1)).tolist())
                # With the size fixed at first: free, the skin is taken for the brain's surface.
                starts.append(self._followed(start, 0, 2.0, fixed_size=True))
        starts.sort(key=lambda end: -end[0])
        results = []
        for _, start in starts[:_FOLLOWED]:
            free = self._followed(sitk.Similarity3DTransform(start), 1, 0.5)[1]
            affine = sitk.AffineTransform(3)
            affine.SetCenter(free.GetCenter())
            affine.SetMatrix(free.GetMatrix())
            affine.SetTranslation(free.GetTranslation())
            for step in (0.3, 0.1):
                value, affine = self._followed(affine, 1, step)
            results.append((value, affine))
        return results

    def last(self, affine: sitk.AffineTransform) -> TemplateFit:
        """One of the ends, followed at 2 mm."""
        value, end = self._followed(affine, 2, 0.2)
        return TemplateFit(np.linalg.inv(from_sitk(end)), value)

    def _followed(
        self, start: sitk.Transform, stage: int, step_mm: float, fixed_size: bool = False
    ) -> tuple[float, sitk.Transform]:
        """Uphill from a start; the start itself if that does not improve it."""
        import SimpleITK as sitk

        scales = [_RADIUS_MM**2] * 9 + [1.0] * 3
        if isinstance(start, sitk.Similarity3DTransform):
            size = 1e7 if fixed_size else 3 * _RADIUS_MM**2
            scales = [4 * _RADIUS_MM**2] * 3 + [1.0] * 3 + [size]
        return self.levels[stage].climb(start, step_mm, scales=scales, keep_best=True)
