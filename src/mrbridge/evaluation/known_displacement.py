"""The error of a registration in which the synthetic scan takes the place of its source.

The real target scan is moved by a known rigid transform, by its affine only, so that no voxel is
interpolated. Then it is registered to the synthetic scan, which lies where the source lies. As a
reference, the same with the source itself, as registrations between contrasts are done today.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

from mrbridge.errors import InputError
from mrbridge.preprocessing.foreground import Head
from mrbridge.preprocessing.registration import register
from mrbridge.preprocessing.resample import Matrix, moved
from mrbridge.volume import Volume

DEGREES = (6.0, -5.0, 7.0)
SHIFT_MM = (7.0, -6.0, 5.0)
"""The known displacement: rotations about the axes through the centre of the head, then a shift."""


def registration_errors(
    target: Volume, synthetic: Volume, source: Volume | None, seed: int
) -> dict[str, float]:
    """Mean error over the head, in mm, of the rigid registration of the displaced target scan.

    Args:
        target: the real scan of the synthetic contrast, in register with the other two.
        synthetic: made from the source, on its grid.
        source: the scan that it was made from; None if unknown.
        seed: of the random voxels of the registration.

    Returns:
        `registration_error_mm`, with a source also `registration_error_source_mm`. A registration
        that does not converge gives infinity.
    """
    assert target.affine is not None
    inside = np.argwhere(Head(target).mask)
    points = moved(inside[:: max(1, len(inside) // 5000)].astype(float), target.affine)
    known = displacement(points.mean(axis=0))
    displaced = replace(target, affine=known @ target.affine)
    result = {}
    scans = {"registration_error_mm": synthetic, "registration_error_source_mm": source}
    for key, fixed in scans.items():
        if fixed is None:
            continue
        try:
            found = register(displaced, fixed, "rigid", seed).transform
        except InputError:
            result[key] = float("inf")
            continue
        apart = moved(points, found @ known) - points
        result[key] = float(np.linalg.norm(apart, axis=1).mean())
    return result


def displacement(centre: Matrix) -> Matrix:
    """The known transform, (4, 4) in RAS+ mm, about a point (3,)."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", DEGREES, degrees=True).as_matrix()
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + SHIFT_MM
    return matrix
