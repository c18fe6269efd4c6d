"""Finding the brain by the ICBM 152 template: where an affine transform puts the template's mask.

The template comes with nilearn, as do its maps of grey and white matter: no weights, no network.
Mutual information relates them to any contrast, within some millimetres of the template's brain, so
that scalp and face do not matter. Two drawings of the template are tried: as it is, brain on black,
and one in which fluid surrounds the brain, as T2w scans show it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.errors import InputError
from mrbridge.preparation.geometry import from_slices, to_slices
from mrbridge.preparation.intensity import foreground_mask
from mrbridge.preparation.resample import Matrix, blurred, from_sitk, moved, resample, to_image
from mrbridge.volume import Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

_CENTRE = np.array([0.0, -18.0, 8.0])  # of the template's brain, RAS+ mm
_WIDTH_MM = 136.0  # of the template's brain
_SCALP_MM = 22.0  # skin, skull and fluid of both sides together
_BELOW_TOP_MM = 72.0  # the brain's centre below the top of the head
_HEAD_MM = 120.0  # below the top: what lies lower is face and neck
_RIM_MM, _AROUND_MM = 3.0, 8.0  # of fluid that is drawn, and of surroundings that are looked at
_TILTS = (-12.0, 0.0, 12.0)  # degrees of nodding to start from,
_SIZES = (0.93, 1.0, 1.06)  # and sizes, as shares of what the head's width tells
_FOLLOWED = 3  # starts of each drawing that are followed to the end
_LITRES = (0.6, 2.3)  # an end with more or less has taken the scalp, or a ventricle, for the brain
_RADIUS_MM = 45.0
_BINS = 32
_SAMPLES, _ITERATIONS = (4_000, 12_000, 30_000), (30, 60, 60)  # of starts, of those followed, last


@dataclass(frozen=True)
class _Template:
    """At 2 mm: drawings to be looked at within `around`, and the mask that is wanted."""

    drawings: tuple[Volume, ...]
    around: Volume
    mask: Volume


@lru_cache(maxsize=1)
def _template() -> _Template:
    from nilearn import datasets

    shown = datasets.load_mni152_template(2)
    affine = np.asarray(shown.affine, np.float64)
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
        (Volume(np.asarray(shown.dataobj, np.float32), affine), Volume(labels, affine)),
        Volume((away <= _AROUND_MM).astype(np.uint8), affine),
        Volume((mask > 0).astype(np.uint8), affine),
    )


def brain_by_template(volume: Volume) -> NDArray[np.bool_]:
    """Where the brain is, with ventricles and sulci, in a scan of any contrast.

    The same to the bit whenever it is called: one thread, fixed seeds. A few seconds.

    Args:
        volume: a whole head, or part of one; voxels of any real type.

    Returns:
        A mask of the same shape (i, j, k).

    Raises:
        InputError: a picture, an image that shows nothing, or no place for the template is found.
    """
    return np.asarray(
        resample(_template().mask, volume, template_fits(volume, 1)[0].transform, "nearest").voxels
        > 0
    )


@dataclass(frozen=True, eq=False)
class Fit:
    """One place and shape of the template in a scan.

    Attributes:
        transform: (4, 4), affine, from positions in the template to positions in the scan, RAS+ mm.
        information: mutual information in nats at 2 mm.
    """

    transform: Matrix
    information: float


def template_fits(volume: Volume, count: int) -> list[Fit]:
    """The best places of the template in a scan, each of a search of its own, best first.

    Those of the drawing that fits best come before those of the other one, with which they share
    no measure.

    Args:
        volume: as for `brain_by_template`.
        count: how many are followed to the end; there may be fewer.

    Raises:
        InputError: a picture, an image that shows nothing, or no place for the template is found.
    """
    ends = _ends(volume)
    fits = [(search is not ends[0][0], search.last(end)) for search, end in ends[:count]]
    fits.sort(key=lambda fit: (fit[0], -fit[1].information))
    return [fit for _, fit in fits]


def template_brain() -> Volume:
    """The template's brain mask at 2 mm, ventricles and sulci included; uint8."""
    return _template().mask


def template_head() -> Volume:
    """The template, T1w, at 2 mm; float32."""
    return _template().drawings[0]


_Ends = list[tuple["_Search", "sitk.AffineTransform"]]

# Of scans in memory: who looks for the brain and aligns the scan, searches once.
_FOUND: WeakKeyDictionary[Volume, _Ends] = WeakKeyDictionary()


def _ends(volume: Volume) -> _Ends:
    """Where searches end at 4 mm: those of the drawing that fits best, then the others, each best
    first."""
    if volume.affine is None:
        raise InputError("is a picture: its brain cannot be told", remedy="Say --brain none.")
    if volume in _FOUND:
        return _FOUND[volume]
    template = _template()
    scan, start, size = _seen(volume)
    searches = [_Search(drawing, template.around, scan) for drawing in template.drawings]
    ends = [(value, end, search) for search in searches for value, end in search.ends(start, size)]
    own = float(np.count_nonzero(template.mask.voxels)) * 8e-6  # litres
    fitting = [end for end in ends if _LITRES[0] <= own * _growth(end[1]) <= _LITRES[1]]
    if not fitting:
        raise InputError("no brain was found", remedy="See whether it shows a head.")
    best = max(fitting, key=lambda end: end[0])[2]
    fitting.sort(key=lambda end: (end[2] is not best, -end[0]))
    _FOUND[volume] = [(search, end) for _, end, search in fitting]
    return _FOUND[volume]


def _growth(template_to_scan: sitk.AffineTransform) -> float:
    """How many times as large as the template's the scan's brain is."""
    return abs(float(np.linalg.det(np.reshape(template_to_scan.GetMatrix(), (3, 3)))))


def _seen(volume: Volume) -> tuple[sitk.Image, Matrix, float]:
    """The scan at about 2 mm, where its brain's centre may be (RAS+ mm), and how large it is
    beside the template's."""
    assert volume.affine is not None
    slices, grid = to_slices(volume, None)
    head = from_slices(foreground_mask(slices).astype(np.float32), grid) > 0.5
    if not head.any():
        raise InputError("shows nothing", remedy="Leave it out.")
    values = volume.voxels.astype(np.float32)
    values = np.clip(values, min(0.0, float(values.min())), np.percentile(values[head], 99.5))
    points = moved(np.argwhere(head).astype(float), volume.affine)
    top = float(np.percentile(points[:, 2], 99.9))
    points = points[points[:, 2] > top - _HEAD_MM]
    low, high = np.percentile(points[:, :2], (1, 99), axis=0)
    centre = np.array([*(low + high) / 2, top - _BELOW_TOP_MM])
    image = blurred(to_image(Volume(values, volume.affine)), volume, _template().mask)
    size = (high[0] - low[0] - _SCALP_MM) / _WIDTH_MM
    return _coarser(image, 2.0), centre, float(np.clip(size, 0.75, 1.15))


class _Search:
    """One drawing of the template (fixed) and a scan (moving), at 4 mm and at 2 mm."""

    def __init__(self, drawing: Volume, around: Volume, scan: sitk.Image) -> None:
        import SimpleITK as sitk

        fixed, mask = to_image(drawing), to_image(around)
        self.fine = fixed, mask, scan
        self.coarse = sitk.BinShrink(fixed, [2] * 3), sitk.Shrink(mask, [2] * 3), _coarser(scan, 4)

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
                # Size is held at first: given way, it takes the skin for the brain's surface.
                starts.append(self._followed(start, 0, 2.0, held=True))
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

    def last(self, affine: sitk.AffineTransform) -> Fit:
        """One of the ends, followed at 2 mm."""
        import SimpleITK as sitk

        value, end = self._followed(affine, 2, 0.2)
        return Fit(np.linalg.inv(from_sitk(sitk.Transform(end))), value)

    def _followed(
        self,
        start: sitk.Transform,
        stage: int,
        step_mm: float,
        held: bool = False,
    ) -> tuple[float, sitk.Transform]:
        """Uphill from a start; the start itself where that leads nowhere better."""
        import SimpleITK as sitk

        fixed, mask, scan = self.fine if stage == 2 else self.coarse

        method = sitk.ImageRegistrationMethod()
        method.SetNumberOfThreads(1)
        method.SetNumberOfWorkUnits(1)
        method.SetMetricAsMattesMutualInformation(_BINS)
        method.SetMetricSamplingStrategy(method.RANDOM)
        share = min(1.0, _SAMPLES[stage] / fixed.GetNumberOfPixels())
        method.SetMetricSamplingPercentage(share, 1)
        method.SetMetricFixedMask(mask)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(
            step_mm, 0.02, _ITERATIONS[stage], 0.7, 1e-6
        )
        square = _RADIUS_MM**2
        scales = [square] * 9 + [1.0] * 3
        if isinstance(start, sitk.Similarity3DTransform):
            scales = [4 * square] * 3 + [1.0] * 3 + [1e7 if held else 3 * square]
        method.SetOptimizerScales(scales)
        moving = type(start)(start)
        try:
            method.SetInitialTransform(start)
            before = -float(method.MetricEvaluate(fixed, scan))
            method.SetInitialTransform(moving, inPlace=True)
            method.Execute(fixed, scan)
            method.SetInitialTransform(moving)
            after = -float(method.MetricEvaluate(fixed, scan))
        except RuntimeError:  # no overlap at all
            return 0.0, start
        return (after, moving) if after >= before else (before, start)


def _coarser(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    import SimpleITK as sitk

    factors = [max(1, round(spacing_mm / step)) for step in image.GetSpacing()]
    return sitk.BinShrink(image, factors) if max(factors) > 1 else image
