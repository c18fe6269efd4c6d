"""Evening out brightness that drifts over the head: coils receive some places better than others.

N4 (Tustison et al. 2010, doi:10.1109/TMI.2010.2046908) finds a smooth field, by which the image is
divided. What a scan loses here is no property of the head: it does not come back at translation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mrbridge.errors import InputError

_GRID_MM = 6.0  # on which the field is found, far smoother than it; 4 mm took up to 8 times as long
_LEAST = 20  # but with as many voxels along each axis, where there are so many
_ITERATIONS = (50, 40, 30, 20)  # at each level of detail
_FLAT = 4  # fewer slices than this have no field along them: each gets its own


def without_bias(
    slices: NDArray[np.float32],
    foreground: NDArray[np.bool_],
    spacing: tuple[float, float, float] | None,
) -> NDArray[np.float32]:
    """Divide an image by the smooth field that makes its histogram the sharpest.

    The same to the bit whenever it is called: it runs on one thread.

    Args:
        slices: intensities of any unit, (slices, rows, columns).
        foreground: where the head is, the same shape; only this is looked at.
        spacing: mm between slices, rows and columns; None for pictures.

    Returns:
        The same shape; the mean over the foreground is kept, and zeros stay zero.

    Raises:
        InputError: the filter cannot find a field.
    """
    if not foreground.any():
        return slices
    steps = spacing or (1.0, 1.0, 1.0)
    if len(slices) < _FLAT:
        pairs = zip(slices, foreground, strict=True)
        return np.stack([_divided(plane, inside, steps[1:]) for plane, inside in pairs])
    return _divided(slices, foreground, steps)


def _divided(
    image: NDArray[np.float32], inside: NDArray[np.bool_], spacing: tuple[float, ...]
) -> NDArray[np.float32]:
    """An image of two or three dimensions over its field."""
    import SimpleITK as sitk

    inside = inside & (image > 0)  # N4 takes logarithms
    if not inside.any():
        return image
    full, mask = sitk.GetImageFromArray(image), sitk.GetImageFromArray(inside.astype(np.uint8))
    factors = [
        max(1, min(round(_GRID_MM / step), size // _LEAST))
        for step, size in zip(spacing[::-1], image.shape[::-1], strict=True)
    ]
    for one in (full, mask):
        one.SetSpacing([float(step) for step in spacing[::-1]])
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetNumberOfThreads(1)
    n4.SetMaximumNumberOfIterations(_ITERATIONS)
    try:
        n4.Execute(sitk.Shrink(full, factors), sitk.Shrink(mask, factors))
        field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(full))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(
            f"its bias field cannot be found ({reason})", remedy="Leave it out, or --bias none."
        ) from None
    even = image / np.exp(field, dtype=np.float32)
    even *= image[inside].mean(dtype=np.float64) / even[inside].mean(dtype=np.float64)
    return np.asarray(even, np.float32)
