"""A synthetic image next to the true scan: registered first, scored, subtracted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mrbridge import metrics
from mrbridge.errors import InputError
from mrbridge.preprocessing.foreground import Head, black_background, foreground_mask
from mrbridge.preprocessing.geometry import to_slices
from mrbridge.preprocessing.registration import register
from mrbridge.preprocessing.resample import covered, grid_difference, resample, stored_like
from mrbridge.volume import Volume

_LEAST_VOXELS = 100  # of both scans, for a fit


def registered(truth: Volume, scan: Volume, to: str) -> tuple[Volume, str]:
    """The true scan on the grid of another scan of the same head, and how it came there, in words.

    As in `evaluate`: scans on one grid are compared as they are, others are registered first.

    Raises:
        InputError: it is synthetic, something else or another contrast, a 2D image of another size,
            or the registration did not converge.
    """
    other = "Choose the scan that was acquired."
    if truth.synthetic:
        raise InputError("is synthetic itself", remedy=other)
    if truth.other or truth.contrast not in (None, to):
        raise InputError(truth.other or f"is {truth.contrast}, not {to}", remedy=other)
    truth = stored_like(truth, scan)
    difference = grid_difference(truth, scan)
    if difference is None:
        return truth, "It has the grid of the source and was compared as it is."
    if truth.affine is None or scan.affine is None:
        raise InputError(
            f"has another size ({difference})", remedy="Choose the true scan of the same slice."
        )
    found = register(truth, scan, "rigid")
    moved = resample(truth, scan, found.transform)
    inside = covered(truth, scan, found.transform)
    return (
        replace(moved, voxels=np.where(inside, moved.voxels, 0)),
        f"It was registered to the source (rigid, moved by {found.displacement_mm:.1f} mm).",
    )


def scores(source: Volume, synthetic: Volume, truth: Volume) -> dict[str, Any]:
    """The scores of `evaluate` inside the foreground of the true scan, and the baselines.

    Args:
        source, synthetic, truth: three scans on one grid.

    Returns:
        By method (`model`; `floor`: the monotone baseline, fitted to this very pair; `copy`: the
        source), then `fit` and `plain`, then `psnr` (dB), `ssim` and `mae`.

    Raises:
        InputError: the true scan shows nothing.
    """
    scans = [black_background(one) for one in (synthetic, truth, source)]
    made, real, seen = (
        to_slices(replace(one, voxels=np.asarray(one.voxels, np.float32)), None)[0] for one in scans
    )
    inside = Head(scans[1]).foreground
    if not inside.any():
        raise InputError("shows nothing", remedy="Choose another scan.")
    values = metrics.scaled(seen, inside)
    curve = metrics.fit_monotone(values[inside], metrics.scaled(real, inside)[inside])
    # A falling curve would make the background bright.
    floor = np.where(inside | foreground_mask(seen), curve.apply(values), np.float32(0))
    images = {"model": made, "floor": floor, "copy": seen}
    return {name: metrics.scores(real, image, inside) for name, image in images.items()}


def difference(synthetic: Volume, truth: Volume) -> Volume:
    """The synthetic minus the true scan, after a least-squares fit of scale and offset.

    The fit takes the voxels where neither is zero. Outside them the difference is zero.
    """
    made, real = (np.asarray(one.voxels, np.float32) for one in (synthetic, truth))
    inside = (made != 0) & (real != 0)
    apart = np.zeros(made.shape, np.float32)
    if inside.sum() >= _LEAST_VOXELS:
        apart[inside] = (metrics.fitted(real, made, inside) - real)[inside]
    return replace(synthetic, voxels=apart, synthetic=True, header=None)
