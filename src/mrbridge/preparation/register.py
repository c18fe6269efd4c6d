"""Registration: where a scan of a head lies in another scan of the same head.

Contrasts may differ, so the measure is mutual information (Mattes et al. 2003,
doi:10.1109/TMI.2003.809072; Viola and Wells 1997). It has local maxima: several starts are followed
on a coarse grid, the best of them to the end, and where these do not meet there is no answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import ndimage

from mrbridge.errors import InputError
from mrbridge.preparation.geometry import from_slices, to_slices
from mrbridge.preparation.intensity import foreground_mask
from mrbridge.preparation.resample import (
    Matrix,
    blurred,
    box_corners,
    flipped,
    from_sitk,
    furthest,
    moved,
    to_image,
)
from mrbridge.volume import Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

Kind = Literal["rigid", "affine"]

AGREEMENT_MM = 1.0
"""Starts that end further apart than this have not found the one place."""

FURTHEST_MM = 120.0
"""A head that would have to move further does not belong to this scan."""

STRONGEST_STRETCH = 1.25
"""Nor does one that would have to grow or shrink by more, along any direction."""

LEAST_OVERLAP = 0.5
"""Nor one of which less than this share lies in the other scan's field of view."""

_LEVELS_MM = (8.0, 4.0, 2.0)
_STEPS_MM = (4.0, 1.0, 0.5)  # the first step at each level,
_LAST_STEP_MM = 0.01  # and the last,
_RELAXATION = 0.7  # by which a step shrinks that overshoots: halved, it ends too early
_ITERATIONS = 100
_BINS = 50
_SAMPLES = (20_000, 20_000, 80_000)  # voxels that each step looks at, at each level
_JUDGED = 200_000  # voxels that results are compared on
_REFINED = 3  # starts that are followed to the end
_TILT = math.radians(12)
_MARGIN_MM = 10.0  # of air around the head that belongs to its picture
_EQUAL = 0.02  # results with less mutual information than the best, by this share, are no answers
_NEAR_MM = 5.0  # coarse results that lie nearer to the answer than this agree with it
_SAME_MM = 0.5  # coarse results that lie nearer to one another than this are one
_HOPELESS_MM = 30.0  # and those that lie further from the best one will not come to it


@dataclass(frozen=True, eq=False)
class Registration:
    """Where the moving scan lies in the fixed one, and how sure that is.

    Attributes:
        transform: (4, 4), from positions in the moving to positions in the fixed scan, RAS+ mm.
        kind: `rigid` (6 degrees of freedom) or `affine` (12).
        before, after: mutual information in nats, scans as they lie and registered, on voxels of
            the finest level (2 mm, or the scan's own where they are larger).
        displacement_mm: the furthest that any point of the head moves.
        residual_mm: how well it is known: of the starts that were followed to the end and reached
            the best mutual information (within 2 %), each with random voxels of its own, the
            largest distance between the places to which two of them put a point of the head.
        agreeing, starts: of so many starts, so many came within 5 mm on the coarsest grid.
        overlap: share of the fixed scan's head that the moving scan's field of view holds.
    """

    transform: Matrix
    kind: Kind
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


def register(moving: Volume, fixed: Volume, kind: Kind = "rigid", seed: int = 0) -> Registration:
    """Find where a scan lies in another one of the same head, of any contrast.

    The same to the bit for the same seed: one thread sums in one order.

    Args:
        moving, fixed: scans with affines; whole heads or stripped brains, not one of each.
        kind: `rigid` within a session; `affine` where scanners differ or scans were distorted.
        seed: of the voxels that are looked at.

    Raises:
        InputError: a picture, an image that shows nothing, or it did not converge: starts
            disagree, scans have less in common registered than as they lie, or the result is
            implausible (`FURTHEST_MM`, `STRONGEST_STRETCH`, `LEAST_OVERLAP`).
    """
    search = _Search(_head(moving), _head(fixed), kind, seed)
    coarse = search.coarse_ends()
    chosen = search.different(coarse)
    apart = min(search.spread([chosen[0], other]) for other in chosen[1:])
    if apart > _HOPELESS_MM:  # they will not meet
        raise _refusal(f"the best starts end {apart:.0f} mm apart")
    ends = [search.refined(end, number) for number, end in enumerate(chosen)]
    values = [search.information(end) for end in ends]
    best = int(np.argmax(values))
    before = search.information(np.eye(4))
    enough = (1 - _EQUAL) * values[best]
    equal = [end for end, value in zip(ends, values, strict=True) if value >= enough]
    residual = search.spread(equal)
    if len(equal) < 2 or residual > AGREEMENT_MM:
        far = search.spread(ends)
        raise _refusal(f"starts end up to {far:.1f} mm apart")
    result = Registration(
        transform=ends[best],
        kind=kind,
        before=before,
        after=values[best],
        displacement_mm=search.spread([np.eye(4), ends[best]]),
        residual_mm=residual,
        agreeing=sum(search.spread([end, ends[best]]) <= _NEAR_MM for end in coarse),
        starts=len(coarse),
        overlap=search.overlap(ends[best]),
    )
    return _plausible(result)


def _plausible(found: Registration) -> Registration:
    """The result, or identity where nothing better was found and nothing other either."""
    if not found.after > 0:
        raise _refusal("the scans have nothing in common")
    if found.after <= found.before:
        if found.displacement_mm > AGREEMENT_MM:
            raise _refusal(
                f"mutual information falls from {found.before:.3f} to {found.after:.3f} nats"
            )
        found = replace(found, transform=np.eye(4), after=found.before, displacement_mm=0.0)
    if found.displacement_mm > FURTHEST_MM:
        raise _refusal(f"the head would have to move by {found.displacement_mm:.0f} mm")
    stretches = np.linalg.svd(found.transform[:3, :3], compute_uv=False)
    if stretches.max() > STRONGEST_STRETCH or stretches.min() < 1 / STRONGEST_STRETCH:
        raise _refusal(f"the head would have to be stretched by {stretches.max():.2f}")
    if found.overlap < LEAST_OVERLAP:
        raise _refusal(f"only {found.overlap:.0%} of the head is in both fields of view")
    return found


def _refusal(why: str) -> InputError:
    return InputError(
        f"registration did not converge: {why}",
        remedy="See whether both scans are of one head, or register them by other means.",
    )


@dataclass(frozen=True, eq=False)
class _Head:
    """A scan, its brightest 0.5 % clipped; all positions in RAS+ mm.

    Attributes:
        volume: float32.
        corners: (8, 3), of the box around the head.
        points: (n, 3), some thousands, evenly spread over the head.
        centre: (3,), of the head's mass.
        middle: (3,), of the field of view.
    """

    volume: Volume
    corners: Matrix
    points: Matrix
    centre: Matrix
    middle: Matrix

    def cropped(self) -> Volume:
        """The box around the head, and a margin."""
        assert self.volume.affine is not None
        shape = np.array(self.volume.voxels.shape)
        spacing = np.array(self.volume.spacing)
        inside = moved(self.corners, np.linalg.inv(self.volume.affine))
        low = np.maximum(np.floor(inside.min(axis=0) - _MARGIN_MM / spacing), 0).astype(int)
        high = np.minimum(np.ceil(inside.max(axis=0) + _MARGIN_MM / spacing) + 1, shape).astype(int)
        affine = self.volume.affine.copy()
        affine[:3, 3] = moved(low[None].astype(float), self.volume.affine)[0]
        part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        return Volume(self.volume.voxels[part], affine)


def _head(volume: Volume) -> _Head:
    if volume.affine is None:
        raise InputError(
            "a picture has no place in space, so it cannot be registered", remedy="Give volumes."
        )
    slices, grid = to_slices(volume, None)
    inside = from_slices(foreground_mask(slices).astype(np.float32), grid) > 0.5
    if not inside.any():
        raise InputError("shows nothing to register", remedy="Leave it out.")
    stride = np.array([-(-size // 40) for size in inside.shape])
    points = np.argwhere(inside[tuple(slice(None, None, step) for step in stride)]) * stride
    values = volume.voxels.astype(np.float32)
    low = min(0.0, float(np.percentile(values, 0.5)))
    values = np.clip(values, low, float(np.percentile(values[inside], 99.5)))
    found = ndimage.find_objects(inside.astype(np.uint8))[0]
    box = box_corners(*np.array([(part.start, part.stop - 1) for part in found]).T)
    centres = np.array([points.mean(axis=0), (np.array(inside.shape) - 1) / 2])
    centre, middle = moved(centres, volume.affine)
    return _Head(
        Volume(values, volume.affine),
        moved(box, volume.affine),
        moved(points, volume.affine),
        centre,
        middle,
    )


class _Search:
    """Both scans at every level; transforms are matrices from moving to fixed, RAS+ mm."""

    def __init__(self, moving: _Head, fixed: _Head, kind: Kind, seed: int) -> None:
        self.moving, self.fixed, self.kind, self.seed = moving, fixed, kind, seed
        part, whole = fixed.cropped(), moving.volume
        # Of equally thick slices: else the optimum is off by half a millimetre and more.
        images = blurred(to_image(part), part, whole), blurred(to_image(whole), whole, part)
        # ITK's steps mix turns (or entries of a matrix) and shifts. Counted in the head's radius of
        # gyration instead of millimetres, one of either moves the head as far as one of the other.
        square = np.square(fixed.points - fixed.centre).mean()
        self.unit = math.sqrt(2 * float(square))
        self.levels = [
            tuple(_in_units(_coarser(image, mm), self.unit) for image in images)
            for mm in _LEVELS_MM
        ]

    def coarse_ends(self) -> list[Matrix]:
        """Where the starts end on the coarsest grid, best first.

        The scans as they lie, centre on centre of the fields of view, and of the heads; then the
        best of these, tilted about each axis.
        """
        shifts = (
            np.zeros(3),
            self.fixed.middle - self.moving.middle,
            self.fixed.centre - self.moving.centre,
        )
        starts = [_shift(shift) for shift in shifts]
        ends = [self._followed(start, 0, "rigid", self.seed) for start in starts]
        best = max(ends, key=lambda end: end[0])[1]
        for axis in range(3):
            for angle in (-_TILT, _TILT):
                tilted = _turn(axis, angle, self.fixed.centre) @ best
                ends.append(self._followed(tilted, 0, "rigid", self.seed))
        return [end for _, end in sorted(ends, key=lambda end: -end[0])]

    def different(self, ends: list[Matrix]) -> list[Matrix]:
        """The best three that are not one and the same, where there are so many."""
        chosen: list[Matrix] = []
        for end in ends:
            if all(self.spread([end, other]) > _SAME_MM for other in chosen):
                chosen.append(end)
        return (chosen + ends[1:])[:_REFINED]

    def refined(self, start: Matrix, number: int) -> Matrix:
        """A coarse result, followed to the end with random voxels of its own."""
        seed = self.seed + number
        result = self._followed(start, 1, "rigid", seed)[1]
        if self.kind == "affine":
            result = self._followed(result, 1, "affine", seed)[1]
        return self._followed(result, 2, self.kind, seed)[1]

    def information(self, transform: Matrix) -> float:
        """Mutual information in nats at the finest level, always on the same random places."""
        method = self._method(2, _JUDGED, self.seed)
        method.SetInitialTransform(self._to_sitk(transform, "affine"))
        try:
            return -float(method.MetricEvaluate(*self.levels[2]))
        except RuntimeError:  # no overlap at all
            return 0.0

    def spread(self, transforms: list[Matrix]) -> float:
        """The largest distance between the places from which two of them bring a point of the
        fixed scan's head."""
        places = [moved(self.fixed.points, np.linalg.inv(matrix)) for matrix in transforms]
        return max((furthest(one, other) for one in places for other in places), default=0.0)

    def overlap(self, transform: Matrix) -> float:
        """Share of the fixed scan's head in the moving scan's field of view."""
        volume = self.moving.volume
        assert volume.affine is not None
        back = np.linalg.inv(volume.affine) @ np.linalg.inv(transform)
        points = moved(self.fixed.points, back)
        inside = (points >= -0.5) & (points <= np.array(volume.voxels.shape) - 0.5)
        return float(inside.all(axis=1).mean())

    def _followed(self, start: Matrix, level: int, kind: Kind, seed: int) -> tuple[float, Matrix]:
        """Uphill from a start at one level: (mutual information, transform)."""
        import SimpleITK as sitk

        method = self._method(level, _SAMPLES[level], seed)
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=_STEPS_MM[level] / self.unit,
            minStep=_LAST_STEP_MM / self.unit,
            numberOfIterations=_ITERATIONS,
            relaxationFactor=_RELAXATION,
            gradientMagnitudeTolerance=1e-6,
        )
        method.SetInitialTransform(self._to_sitk(start, kind), inPlace=False)
        try:
            found = method.Execute(*self.levels[level])
        except RuntimeError:  # no overlap at all
            return 0.0, start
        matrix = from_sitk(sitk.Transform(found))
        matrix[:3, 3] *= self.unit
        return -float(method.GetMetricValue()), matrix

    def _method(self, level: int, samples: int, seed: int) -> sitk.ImageRegistrationMethod:
        import SimpleITK as sitk

        method = sitk.ImageRegistrationMethod()
        method.SetNumberOfThreads(1)
        method.SetNumberOfWorkUnits(1)
        method.SetMetricAsMattesMutualInformation(_BINS)
        method.SetMetricSamplingStrategy(method.RANDOM)
        share = samples / self.levels[level][0].GetNumberOfPixels()
        method.SetMetricSamplingPercentage(min(1.0, share), seed + 1)  # 0 would take the clock
        method.SetInterpolator(sitk.sitkLinear)
        return method

    def _to_sitk(self, transform: Matrix, kind: Kind) -> sitk.Transform:
        """About the centre of the fixed head, so that turning hardly shifts it."""
        import SimpleITK as sitk

        inverse = flipped(np.linalg.inv(transform))
        centre = self.fixed.centre * (-1, -1, 1)  # LPS+
        result = sitk.Euler3DTransform() if kind == "rigid" else sitk.AffineTransform(3)
        result.SetCenter((centre / self.unit).tolist())
        result.SetMatrix(inverse[:3, :3].ravel().tolist(), *([1e-6] if kind == "rigid" else []))
        shift = inverse[:3, :3] @ centre + inverse[:3, 3] - centre
        result.SetTranslation((shift / self.unit).tolist())
        return result


def _coarser(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """Averaged over blocks of voxels to about this spacing; axes that are coarser stay."""
    import SimpleITK as sitk

    sizes = zip(image.GetSpacing(), image.GetSize(), strict=True)
    factors = [max(1, min(round(spacing_mm / step), size // 4)) for step, size in sizes]
    return sitk.BinShrink(image, factors) if max(factors) > 1 else image


def _in_units(image: sitk.Image, unit: float) -> sitk.Image:
    """The same image, its positions counted in another unit than millimetres."""
    import SimpleITK as sitk

    result = sitk.Image(image)
    result.SetSpacing([step / unit for step in image.GetSpacing()])
    result.SetOrigin([place / unit for place in image.GetOrigin()])
    return result


def _shift(by: Matrix) -> Matrix:
    result = np.eye(4)
    result[:3, 3] = by
    return result


def _turn(axis: int, angle: float, centre: Matrix) -> Matrix:
    """A rotation about one axis through a centre."""
    one, other = [k for k in range(3) if k != axis]
    turn = np.eye(4)
    turn[[one, other], [one, other]] = math.cos(angle)
    turn[one, other], turn[other, one] = -math.sin(angle), math.sin(angle)
    return _shift(centre) @ turn @ _shift(-centre)
