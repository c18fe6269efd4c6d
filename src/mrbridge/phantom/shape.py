"""A subject's own shape: a smooth deformation of the template head."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from mrbridge.phantom.fields import HIGH_MM, LOW_MM, Array, Grid, random_field, spline
from mrbridge.phantom.head import COARSE, Head, sample

_LATTICE_MM = 4.0
_CENTRE = np.array([0.0, -18.0, 10.0])

# Standard deviation of the displacement by the distance of its knots, mm. A choice: heads differ
# at the scale of lobes by several millimetres, gyri by a few.
_DISPLACEMENTS = ((90.0, 2.5), (44.0, 1.7), (22.0, 0.9), (12.0, 0.55))


LARGEST = 1.05
"""By how much a simulated adult's head may exceed the template's, whose brain with its fluid, 1.9
litres, is a large one already: beyond 2.2 litres `prepare` takes no brain for an adult's."""


def deformation(
    rng: np.random.Generator,
    head: Head,
    grid: Grid,
    widening: float | None = None,
    largest: float = np.inf,
) -> Array:
    """Where in the template each voxel of the subject's head comes from.

    Head size and proportions, position in the scanner, size of the ventricles, shape of lobes and
    gyri. Small enough to be invertible: no tissue folds over.

    Args:
        rng: draws the shape.
        head: the template.
        grid: the subject's.
        widening: by how much the walls of the ventricles are moved, mm, at most 9; None draws it.
        largest: a head that would be larger, by volume in units of the template's, is shrunk to it.

    Returns:
        (x, y, z, 3) MNI millimetres for the voxels of `grid`.
    """
    lattice = _lattice()
    x, y, z = (a.astype(np.float32) for a in lattice.mesh())
    base = np.stack(np.broadcast_arrays(x, y, z), axis=-1).astype(np.float64)
    growth = rng.normal(1.0, 0.03) * (1 + rng.normal(0, 0.02, 3))
    size = max(1.0, float(growth.prod()) / largest) ** (1 / 3) / growth
    turn = Rotation.from_euler("xyz", rng.normal(0, 2.5, 3), degrees=True).as_matrix()
    shift = rng.normal(0, 1.5, 3)
    place = (base - _CENTRE - shift) @ (np.diag(size) @ turn).T + _CENTRE
    for knot_mm, amplitude in _DISPLACEMENTS:
        for axis in range(3):
            place[..., axis] += amplitude * random_field(rng, knot_mm, lattice)
    # Coordinates that lag behind on the way out of the ventricles make them wider.
    drawn = np.clip(rng.normal(1.5, 2.5), -2.5, 6.0)
    widening = drawn if widening is None else widening
    pull = sample(torch.from_numpy(head.ventricle_pull), COARSE, place.astype(np.float32))
    place -= widening * np.moveaxis(pull, 0, -1)
    offset = (place - base).astype(np.float32)
    result = np.empty((*grid.shape, 3), np.float32)
    start = np.array([a[0] for a in lattice.axes])
    for axis, own in enumerate(grid.mesh()):
        result[..., axis] = spline(offset[..., axis], start, _LATTICE_MM, grid) + own
    return result


def to_subject(places: NDArray[np.floating], where: Array, grid: Grid) -> NDArray[np.float64]:
    """Where template places (n, 3) in mm lie in the subject, in mm: `deformation` inverted.

    By fixed-point iteration, which converges since the deformation does not fold.
    """
    start = np.array([a[0] for a in grid.axes])
    step = np.array(grid.spacing)
    limit = np.array(grid.shape) - 1
    result = np.asarray(places, dtype=np.float64)
    for _ in range(12):
        index = np.clip(np.round((result - start) / step).astype(int), 0, limit)
        centre = start + index * step
        result = places + (centre - where[tuple(index.T)])
    return result


def _lattice() -> Grid:
    """Knots 4 mm apart that reach two knots beyond the field of view."""
    low, high = LOW_MM - 2 * _LATTICE_MM, HIGH_MM + 3 * _LATTICE_MM
    x, y, z = (np.arange(a, b, _LATTICE_MM) for a, b in zip(low, high, strict=True))
    return Grid((x, y, z))
