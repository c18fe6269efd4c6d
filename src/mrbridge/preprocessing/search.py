"""The gradient ascent on mutual information that registration and the template share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mrbridge.preprocessing.resample import Matrix, moved
from mrbridge.volume import Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

_RELAXATION = 0.7  # by which a step shrinks that overshoots: halved, it ends too early


@dataclass(frozen=True, eq=False)
class Level:
    """Two images at one resolution, and how a transform from fixed to moving is optimised there.

    Attributes:
        fixed, moving: the images.
        samples: random voxels that the measure looks at.
        bins: of the joint histogram, along each axis.
        last_step: at which the gradient ascent ends, in the unit of the images.
        iterations: at most.
        mask: the part of the fixed image that is looked at; None: all of it.
    """

    fixed: sitk.Image
    moving: sitk.Image
    samples: int
    bins: int
    last_step: float
    iterations: int
    mask: sitk.Image | None = None

    def information(self, transform: sitk.Transform, seed: int = 0, samples: int = 0) -> float:
        """Mutual information in nats; 0 without any overlap."""
        method = self._method(seed, samples or self.samples)
        method.SetInitialTransform(transform)
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
    ) -> tuple[float, sitk.Transform]:
        """Follow the gradient from a start: (mutual information in nats, transform).

        Args:
            start: of the kind that is optimised.
            step: the first one, in the unit of the images.
            seed: of the random voxels.
            scales: weights of the parameters; None: equal.
            keep_best: whether to return the start if the end is no better.

        Returns:
            (0, start) without any overlap.
        """
        method = self._method(seed, self.samples)
        method.SetOptimizerAsRegularStepGradientDescent(
            step, self.last_step, self.iterations, _RELAXATION, 1e-6
        )
        if scales is not None:
            method.SetOptimizerScales(scales)
        end, before = type(start)(start), 0.0
        try:
            if keep_best:
                method.SetInitialTransform(start)
                before = -float(method.MetricEvaluate(self.fixed, self.moving))
            method.SetInitialTransform(end, inPlace=True)
            method.Execute(self.fixed, self.moving)
            if not keep_best:
                return -float(method.GetMetricValue()), end
            method.SetInitialTransform(end)
            after = -float(method.MetricEvaluate(self.fixed, self.moving))
        except RuntimeError:
            return 0.0, start
        return (after, end) if after >= before else (before, start)

    def _method(self, seed: int, samples: int) -> sitk.ImageRegistrationMethod:
        import SimpleITK as sitk

        method = sitk.ImageRegistrationMethod()
        method.SetNumberOfThreads(1)
        method.SetNumberOfWorkUnits(1)
        method.SetMetricAsMattesMutualInformation(self.bins)
        method.SetMetricSamplingStrategy(method.RANDOM)
        share = min(1.0, samples / self.fixed.GetNumberOfPixels())
        method.SetMetricSamplingPercentage(share, seed + 1)  # 0 would take the clock
        if self.mask is not None:
            method.SetMetricFixedMask(self.mask)
        method.SetInterpolator(sitk.sitkLinear)
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
        volume: the scan.
    """
    assert volume.affine is not None
    voxels = moved(points, np.linalg.inv(volume.affine) @ np.linalg.inv(transform))
    inside = (voxels >= -0.5) & (voxels <= np.array(volume.voxels.shape) - 0.5)
    return float(inside.all(axis=1).mean())
