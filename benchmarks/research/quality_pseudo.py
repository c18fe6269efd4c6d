"""Pseudo-pairs for `quality.py`: the scan of one person, bent onto that of another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import SimpleITK as sitk

from mrbridge.preprocessing.resample import to_image
from mrbridge.volume import Volume

_MESH_MM = 40.0
"""Between control points on the first level; half of it on the second."""

_LEVELS_MM = (4.0, 2.0)
"""Between the voxels that are looked at; half of it is the blur's deviation."""

_SAMPLES = 100_000
"""Voxels at which the information is measured, at most."""


def bent(moving: Volume, fixed: Volume, seed: int = 0) -> Volume:
    """What `moving` shows, where the same lies in `fixed`, another person of another contrast.

    Free-form deformation by cubic B-splines (Rueckert et al. 1999, doi:10.1109/42.796284) that
    maximises mutual information (Mattes et al. 2003, doi:10.1109/TMI.2003.809072), coarse to fine.

    Args:
        moving, fixed: skull-stripped, zero around, in one space (such as MNI's).
        seed: of the voxels at which the information is measured.

    Returns:
        float32 on the grid of `fixed`, and zero where that is.
    """
    onto, image = (
        to_image(replace(v, voxels=v.voxels.astype(np.float32))) for v in (fixed, moving)
    )
    sizes = zip(onto.GetSize(), onto.GetSpacing(), strict=True)
    mesh = [max(1, round(count * step / _MESH_MM)) for count, step in sizes]
    finest = min(onto.GetSpacing())
    shrinks = [max(1, round(level / finest)) for level in _LEVELS_MM]
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    shares = [min(1.0, _SAMPLES * shrink**3 / fixed.voxels.size) for shrink in shrinks]
    method.SetMetricSamplingPercentagePerLevel(shares, seed + 1)  # 0 would take the clock
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel(shrinks)
    method.SetSmoothingSigmasPerLevel([level / 2 for level in _LEVELS_MM])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetOptimizerAsLBFGS2(numberOfIterations=30, deltaConvergenceTolerance=1e-4)
    start = sitk.BSplineTransformInitializer(onto, mesh)
    method.SetInitialTransformAsBSpline(start, True, [1, 2])
    found = method.Execute(onto, image)
    made = sitk.GetArrayFromImage(sitk.Resample(image, onto, found, sitk.sitkLinear, 0.0)).T
    voxels = np.where(fixed.voxels != 0, made, 0).astype(np.float32)
    return replace(moving, voxels=voxels, affine=fixed.affine, header=None)
