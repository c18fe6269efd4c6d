"""Registration of two scans of the same head.

Contrasts may differ, so the measure is mutual information (Mattes et al. 2003,
doi:10.1109/TMI.2003.809072; Viola and Wells 1997). It has local maxima: several starts are followed
on a coarse grid, the best of them to the end, and if these disagree there is no result. `Level`,
the gradient ascent, also fits the template to a scan (`template.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from mrbridge.errors import InputError
from mrbridge.preprocessing.foreground import Crop, Head
from mrbridge.preprocessing.resample import (
    Matrix,
    blurred,
    flipped,
    from_sitk,
    furthest,
    moved,
    to_image,
)
from mrbridge.preprocessing.settings import TransformKind
from mrbridge.volume import Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

AGREEMENT_MM = 1.0
"""Starts that end further apart than this disagree."""

FURTHEST_MM = 120.0
"""A head that would have to move further does not belong to this scan."""

STRONGEST_STRETCH = 1.25
"""Nor does one that would have to grow or shrink by more, along any direction."""

LEAST_OVERLAP = 0.5
"""Nor one with less than this share in the other scan's field of view."""

_LEVELS_MM = (8.0, 4.0, 2.0)
_STEPS_MM = (4.0, 1.0, 0.5)  # the first step at each level,
_LAST_STEP_MM = 0.01  # and the last
_RELAXATION = 0.7  # by which a step shrinks that overshoots: halved, it ends too early
_ITERATIONS = 100
_BINS = 50
_SAMPLES = (20_000, 20_000, 80_000)  # voxels of each step, at each level
_REFINED = 3  # starts that are followed to the end
_TILT = math.radians(12)
_MARGIN_MM = 10.0  # of air around the head
_EQUAL = 0.02  # results with less mutual information than the best, by this share, are discarded
_NEAR_MM = 5.0  # coarse results that are nearer to the final one than this agree with it
_SAME_MM = 0.5  # coarse results that are nearer to one another than this are one
_HOPELESS_MM = 30.0  # and those that are further from the best one will not reach it


@dataclass(frozen=True, eq=False)
class Level:
    """Two images at one resolution, and how a transform from fixed to moving is optimised there.

    Attributes:
        samples: random voxels that the ascent looks at.
        bins: of the joint histogram, along each axis.
        last_step: at which the gradient ascent ends, in the unit of the images.
        mask: the part of the fixed image that is looked at; None: all of it.
    """

    fixed: sitk.Image
    moving: sitk.Image
    samples: int
    bins: int
    last_step: float
    iterations: int
    mask: sitk.Image | None = None

    def information(self, transform: sitk.Transform) -> float:
        """Mutual information in nats, on all voxels; 0 without any overlap."""
        method = self._method()
        method.SetInitialTransform(transform)
        method.MetricUseMovingImageGradientFilterOff()  # a value needs no gradients
        try:
            return -float(method.MetricEvaluate(self.fixed, self.moving))
        except RuntimeError:
            return 0.0

    def climb(
        self,
        start: sitk.Transform,
        step: float,
        seed: int = 0,
        scales: Sequence[float] | None = None,
        keep_best: bool = False,
        known: float | None = None,
    ) -> tuple[float, sitk.Transform]:
        """Follow the gradient from a start: (mutual information in nats, transform).

        Args:
            start: of the kind that is optimised.
            step: the first one, in the unit of the images.
            scales: weights of the parameters; None: equal.
            keep_best: whether to return the start if the end is no better.
            known: mutual information of the start, if it was computed before.

        Returns:
            (0, start) without any overlap.
        """
        method = self._method()
        method.SetMetricSamplingStrategy(method.RANDOM)
        share = min(1.0, self.samples / self.fixed.GetNumberOfPixels())
        method.SetMetricSamplingPercentage(share, seed + 1)  # 0 would take the clock
        method.SetOptimizerAsRegularStepGradientDescent(
            step, self.last_step, self.iterations, _RELAXATION, 1e-6
        )
        if scales is not None:
            method.SetOptimizerScales(scales)
        end = type(start)(start)
        method.SetInitialTransform(end, inPlace=True)
        try:
            method.Execute(self.fixed, self.moving)
        except RuntimeError:
            return 0.0, start
        if not keep_best:
            return -float(method.GetMetricValue()), end
        before = self.information(start) if known is None else known
        after = self.information(end)
        return (after, end) if after >= before else (before, start)

    def _method(self) -> sitk.ImageRegistrationMethod:
        import SimpleITK as sitk

        method = sitk.ImageRegistrationMethod()
        method.SetNumberOfThreads(1)
        method.SetNumberOfWorkUnits(1)
        method.SetMetricAsMattesMutualInformation(self.bins)
        if self.mask is not None:
            method.SetMetricFixedMask(self.mask)
        method.SetInterpolator(sitk.sitkLinear)
        method.MetricUseFixedImageGradientFilterOff()  # they would be of the whole image
        return method


def shrunk(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """Averaged over blocks of voxels to about this spacing; coarser axes stay as they are."""
    import SimpleITK as sitk

    sizes = zip(image.GetSpacing(), image.GetSize(), strict=True)
    factors = [max(1, min(round(spacing_mm / step), size // 4)) for step, size in sizes]
    return sitk.BinShrink(image, factors) if max(factors) > 1 else image


def share_inside(points: Matrix, transform: Matrix, volume: Volume) -> float:
    """The share of points in the field of view of a volume.

    Args:
        points: (n, 3), RAS+ mm.
        transform: (4, 4), from positions in the volume to the space of the points.
    """
    assert volume.affine is not None
    voxels = moved(points, np.linalg.inv(volume.affine) @ np.linalg.inv(transform))
    inside = (voxels >= -0.5) & (voxels <= np.array(volume.voxels.shape) - 0.5)
    return float(inside.all(axis=1).mean())


@dataclass(frozen=True, eq=False)
class Registration:
    """The transform from a moving to a fixed scan, and how certain it is.

    Attributes:
        transform: (4, 4), from positions in the moving to positions in the fixed scan, RAS+ mm.
        kind: `rigid` (6 degrees of freedom) or `affine` (12).
        before, after: mutual information in nats, without and with the transform, on voxels of
            the finest level (2 mm, or the scan's own if they are larger).
        displacement_mm: the furthest that any point of the head moves.
        residual_mm: uncertainty: of the starts that were followed to the end and reached the best
            mutual information (within 2 %), each with random voxels of its own, the largest
            distance between the positions to which two of them move a point of the head.
        agreeing, starts: number of starts that came within 5 mm on the coarsest grid, and of all.
        overlap: share of the fixed scan's head in the moving scan's field of view.
    """

    transform: Matrix
    kind: TransformKind
    before: float
    after: float
    displacement_mm: float
    residual_mm: float
    agreeing: int
    starts: int
    overlap: float

    def as_json(self) -> dict[str, Any]:
        """Readable numbers."""
        return {
            "kind": self.kind,
            "moving_to_fixed_ras_mm": np.round(self.transform, 8).tolist(),
            "mutual_information_before": round(self.before, 5),
            "mutual_information_after": round(self.after, 5),
            "displacement_mm": round(self.displacement_mm, 3),
            "residual_mm": round(self.residual_mm, 3),
            "starts_agreeing": self.agreeing,
            "starts": self.starts,
            "overlap": round(self.overlap, 4),
        }


def register(
    moving: Volume, fixed: Volume, kind: TransformKind = "rigid", seed: int = 0
) -> Registration:
    """Register a scan to another one of the same head, of any contrast.

    Reproducible bit for bit for the same seed: one thread sums in one order.

    Args:
        moving, fixed: scans with affines; whole heads or stripped brains, not one of each.
        kind: `rigid` within a session; `affine` if scanners differ or scans are distorted.

    Raises:
        InputError: a 2D image, an image that shows nothing, or it did not converge: starts
            disagree, the scans share less information with the transform than without, or the
            result is implausible (`FURTHEST_MM`, `STRONGEST_STRETCH`, `LEAST_OVERLAP`).
    """
    search = _PairSearch(_Landmarks(moving), _Landmarks(fixed), kind, seed)
    coarse = search.coarse_ends()
    chosen = search.different(coarse)
    apart = min(search.spread([chosen[0], other]) for other in chosen[1:])
    if apart > _HOPELESS_MM:
        raise _not_converged(f"the best starts end {apart:.0f} mm apart")
    ends = [search.refined(end, number) for number, end in enumerate(chosen)]
    values = [search.information(end) for end in ends]
    best = int(np.argmax(values))
    enough = (1 - _EQUAL) * values[best]
    equal = [end for end, value in zip(ends, values, strict=True) if value >= enough]
    residual = search.spread(equal)
    if len(equal) < 2 or residual > AGREEMENT_MM:
        raise _not_converged(f"starts end up to {search.spread(ends):.1f} mm apart")
    before, end, after = search.information(np.eye(4)), ends[best], values[best]
    if after <= before:
        # Between thick slices the optimum is flat, and the way from 8 mm may end next to it: the
        # nearest one at the finest level, or identity if that is one.
        near = search.followed(np.eye(4), 2, kind, seed, keep_best=True)[1]
        apart = search.spread([near, end])
        if apart <= max(AGREEMENT_MM, search.thickness_mm / 2):
            end, after = near, search.information(near)
            residual = max(residual, apart)
    return _plausible(
        Registration(
            transform=end,
            kind=kind,
            before=before,
            after=after,
            displacement_mm=search.spread([np.eye(4), end]),
            residual_mm=residual,
            agreeing=sum(search.spread([other, end]) <= _NEAR_MM for other in coarse),
            starts=len(coarse),
            overlap=share_inside(search.fixed.points, end, moving),
        )
    )


def _plausible(result: Registration) -> Registration:
    """The result, or identity if nothing better and nothing different was found."""
    if not result.after > 0:
        raise _not_converged("the scans have nothing in common")
    if result.after <= result.before:
        if result.displacement_mm > AGREEMENT_MM:
            raise _not_converged(
                f"mutual information falls from {result.before:.3f} to {result.after:.3f} nats"
            )
        result = replace(result, transform=np.eye(4), after=result.before, displacement_mm=0.0)
    if result.displacement_mm > FURTHEST_MM:
        raise _not_converged(f"the head would have to move by {result.displacement_mm:.0f} mm")
    stretches = np.linalg.svd(result.transform[:3, :3], compute_uv=False)
    if stretches.max() > STRONGEST_STRETCH or stretches.min() < 1 / STRONGEST_STRETCH:
        raise _not_converged(f"the head would have to be stretched by {stretches.max():.2f}")
    if result.overlap < LEAST_OVERLAP:
        raise _not_converged(f"only {result.overlap:.0%} of the head is in both fields of view")
    return result


def _not_converged(why: str) -> InputError:
    return InputError(
        f"registration did not converge: {why}",
        remedy="Check that both scans are of one head, or register them by other means.",
    )


class _Landmarks:
    """A scan, its brightest 0.5 % clipped; all positions in RAS+ mm.

    Attributes:
        volume: float32.
        cropped: to the head and a margin.
        points: (n, 3), some thousands, evenly spread over the head.
        centre: (3,), of the head's mass.
        middle: (3,), of the field of view.
    """

    def __init__(self, volume: Volume) -> None:
        if volume.affine is None or volume.spacing is None:
            raise InputError(
                "a 2D image has no position in space, so it cannot be registered",
                remedy="Give volumes.",
            )
        inside = Head(volume).mask
        if not inside.any():
            raise InputError("shows nothing to register", remedy="Leave it out.")
        i, j, k = (-(-size // 40) for size in inside.shape)
        points = np.argwhere(inside[::i, ::j, ::k]) * (i, j, k)
        values = volume.voxels.astype(np.float32)
        low = min(0.0, float(np.percentile(values, 0.5)))
        values = np.clip(values, low, float(np.percentile(values[inside], 99.5)))
        self.volume = Volume(values, volume.affine)
        box = ndimage.find_objects(inside.astype(np.uint8))[0]
        more = np.ceil(_MARGIN_MM / np.array(volume.spacing)).astype(int)
        starts = np.maximum([side.start for side in box] - more, 0)
        stops = np.minimum([side.stop for side in box] + more, inside.shape)
        self.cropped = Crop(inside.shape, tuple(starts), tuple(stops))(self.volume)
        self.points = moved(points, volume.affine)
        middle = (np.array(inside.shape) - 1) / 2
        self.centre, self.middle = moved(np.array([points.mean(axis=0), middle]), volume.affine)


class _PairSearch:
    """Both scans at every level; transforms are matrices from moving to fixed, RAS+ mm."""

    def __init__(
        self, moving: _Landmarks, fixed: _Landmarks, kind: TransformKind, seed: int
    ) -> None:
        self.moving, self.fixed, self.kind, self.seed = moving, fixed, kind, seed
        part, whole = fixed.cropped, moving.volume
        # Of equally thick slices: else the optimum is off by half a millimetre and more.
        images = blurred(to_image(part), part, whole), blurred(to_image(whole), whole, part)
        # ITK's steps mix rotations (or entries of a matrix) and shifts. In units of the head's
        # radius of gyration, one of either moves the head as far as one of the other.
        square = np.square(fixed.points - fixed.centre).mean()
        self.unit = math.sqrt(2 * float(square))
        self.thickness_mm = max(*(part.spacing or ()), *(whole.spacing or ()))
        self.levels = [
            Level(
                _in_units(shrunk(images[0], spacing), self.unit),
                _in_units(shrunk(images[1], spacing), self.unit),
                samples=samples,
                bins=_BINS,
                last_step=_LAST_STEP_MM / self.unit,
                iterations=_ITERATIONS,
            )
            for spacing, samples in zip(_LEVELS_MM, _SAMPLES, strict=True)
        ]

    def coarse_ends(self) -> list[Matrix]:
        """Where the starts end on the coarsest grid, best first.

        The scans as they are, centre on centre of the fields of view, and of the heads; then the
        best of these, tilted about each axis.
        """
        shifts = (
            np.zeros(3),
            self.fixed.middle - self.moving.middle,
            self.fixed.centre - self.moving.centre,
        )
        ends = [self.followed(_shift(shift), 0, "rigid", self.seed) for shift in shifts]
        best = max(ends, key=lambda end: end[0])[1]
        for axis in range(3):
            for angle in (-_TILT, _TILT):
                tilted = _rotation(axis, angle, self.fixed.centre) @ best
                ends.append(self.followed(tilted, 0, "rigid", self.seed))
        return [end for _, end in sorted(ends, key=lambda end: -end[0])]

    def different(self, ends: list[Matrix]) -> list[Matrix]:
        """The best three different ones, if there are three."""
        chosen: list[Matrix] = []
        for end in ends:
            if all(self.spread([end, other]) > _SAME_MM for other in chosen):
                chosen.append(end)
        return (chosen + ends[1:])[:_REFINED]

    def refined(self, start: Matrix, number: int) -> Matrix:
        """A coarse result, followed to the end with random voxels of its own."""
        seed = self.seed + number
        result = self.followed(start, 1, "rigid", seed)[1]
        if self.kind == "affine":
            result = self.followed(result, 1, "affine", seed)[1]
        return self.followed(result, 2, self.kind, seed)[1]

    def information(self, transform: Matrix) -> float:
        """Mutual information in nats at the finest level, on all its voxels."""
        return self.levels[2].information(self._to_sitk(transform, "affine"))

    def spread(self, transforms: list[Matrix]) -> float:
        """The largest distance between the positions from which two of them bring a point of the
        fixed scan's head."""
        places = [moved(self.fixed.points, np.linalg.inv(matrix)) for matrix in transforms]
        return max(furthest(one, other) for one in places for other in places)

    def followed(
        self, start: Matrix, level: int, kind: TransformKind, seed: int, *, keep_best: bool = False
    ) -> tuple[float, Matrix]:
        """Uphill from a start at one level: (mutual information, transform)."""
        step = _STEPS_MM[level] / self.unit
        value, end = self.levels[level].climb(
            self._to_sitk(start, kind), step, seed, keep_best=keep_best
        )
        if value == 0:
            return 0.0, start
        matrix = from_sitk(end)
        matrix[:3, 3] *= self.unit
        return value, matrix

    def _to_sitk(self, transform: Matrix, kind: TransformKind) -> sitk.Transform:
        """About the centre of the fixed head, so that rotations shift it little."""
        import SimpleITK as sitk

        inverse = flipped(np.linalg.inv(transform))
        centre = self.fixed.centre * (-1, -1, 1)  # LPS+
        result = sitk.Euler3DTransform() if kind == "rigid" else sitk.AffineTransform(3)
        result.SetCenter((centre / self.unit).tolist())
        result.SetMatrix(inverse[:3, :3].ravel().tolist(), *([1e-6] if kind == "rigid" else []))
        shift = inverse[:3, :3] @ centre + inverse[:3, 3] - centre
        result.SetTranslation((shift / self.unit).tolist())
        return result


def _in_units(image: sitk.Image, unit: float) -> sitk.Image:
    """The same image, its positions in another unit than millimetres."""
    import SimpleITK as sitk

    result = sitk.Image(image)
    result.SetSpacing([step / unit for step in image.GetSpacing()])
    result.SetOrigin([place / unit for place in image.GetOrigin()])
    return result


def _shift(by: Matrix) -> Matrix:
    result = np.eye(4)
    result[:3, 3] = by
    return result


def _rotation(axis: int, angle: float, centre: Matrix) -> Matrix:
    """A rotation about one axis through a centre."""
    one, other = [k for k in range(3) if k != axis]
    turn = np.eye(4)
    turn[[one, other], [one, other]] = math.cos(angle)
    turn[one, other], turn[other, one] = -math.sin(angle), math.sin(angle)
    return _shift(centre) @ turn @ _shift(-centre)
