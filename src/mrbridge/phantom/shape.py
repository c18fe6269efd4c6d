"""The shape and the lesions of a subject, in the space of the template head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from mrbridge.phantom.fields import (
    HIGH_MM,
    LOW_MM,
    Array,
    Grid,
    field_of,
    random_field,
    random_knots,
    spline,
)
from mrbridge.phantom.head import COARSE, Head, sample
from mrbridge.phantom.signals import LESION

_OUTLINE_MM = 5.0
_HALO_EDGE = 0.08
_LATTICE_MM = 4.0
_CENTRE = np.array([0.0, -18.0, 10.0])

# Standard deviation of the displacement by the distance of its knots, mm. A choice: heads differ
# at the scale of lobes by several millimetres, gyri by a few.
_DISPLACEMENTS = ((90.0, 2.5), (44.0, 1.7), (22.0, 0.9), (12.0, 0.55))


LARGEST = 1.05
"""By how much a simulated adult's head may exceed the template's, whose brain with its fluid, 1.9
litres, is a large one already: `prepare` refuses brains of more than 2.2 litres."""


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
        widening: by how much the walls of the ventricles are moved, mm, at most 9; None draws it.
        largest: a head that would be larger, by volume in units of the template's, is shrunk to it.

    Returns:
        (x, y, z, 3) MNI millimetres for the voxels of `grid`.
    """
    # Knots 4 mm apart that reach two knots beyond the field of view.
    edges = zip(LOW_MM - 2 * _LATTICE_MM, HIGH_MM + 3 * _LATTICE_MM, strict=True)
    x, y, z = (np.arange(low, high, _LATTICE_MM) for low, high in edges)
    lattice = Grid((x, y, z))
    base = lattice.places().astype(np.float64)
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
    pull = sample(head.ventricle_pull, COARSE, place.astype(np.float32))
    place -= widening * np.moveaxis(pull, 0, -1)
    offset = (place - base).astype(np.float32)
    result = np.empty((*grid.shape, 3), np.float32)
    start = np.array([a[0] for a in lattice.axes])
    for axis, own in enumerate(grid.mesh()):
        result[..., axis] = spline(offset[..., axis], start, _LATTICE_MM, grid) + own
    return result


def to_subject(places: NDArray[np.floating], where: Array, grid: Grid) -> NDArray[np.float64]:
    """The positions of template places (n, 3) in the subject, all in mm: `deformation` inverted.

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


@dataclass(frozen=True)
class Lesions:
    """A subject's lesions in template space.

    Attributes:
        centres: (n, 3) MNI mm.
        radii: (n, 3) half axes in mm along RAS.
        t1_ratio: T1 as a multiple of that of the white matter around.
        t2: ms.
        outline: knots of the random field that makes the outlines irregular.
        halo: nearness to the ventricles from which white matter is lesion throughout, 1 being their
            walls; 1 or more: nowhere.
        nearness: on `COARSE`, that nearness.
    """

    centres: Array
    radii: Array
    t1_ratio: float
    t2: float
    outline: Array
    halo: float
    nearness: Array

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        count: tuple[int, int],
        head: Head,
        t1_ratio: tuple[float, float] = (1.08, 1.25),
        halo: float = 1.0,
    ) -> Lesions:
        """Between `count[0]` and `count[1]` lesions, most of them next to the ventricles.

        A T1 up to a quarter longer, offset by the higher density: little is seen in T1w.
        """
        number = int(rng.integers(count[0], count[1], endpoint=True))
        chosen = rng.choice(len(head.lesion_sites), number, p=head.lesion_weights)
        # Longest along x, square to the ventricles (Dawson's fingers); sizes are a choice.
        radii = np.clip(rng.lognormal(np.log(2.6), 0.4, (number, 1)), 1.5, 7)
        radii = radii * rng.uniform((1.0, 0.75, 0.75), (1.5, 1.1, 1.1), (number, 3))
        return cls(
            head.lesion_sites[chosen],
            radii.astype(np.float32),
            t1_ratio=rng.uniform(*t1_ratio),
            t2=LESION.t2 * rng.uniform(0.7, 1.0),
            outline=random_knots(rng, _OUTLINE_MM),
            halo=halo,
            nearness=np.linalg.norm(head.ventricle_pull, axis=0),
        )

    def share(self, where: Array, grid: Grid) -> Array:
        """Share of lesion in each voxel of `grid`; `where` (x, y, z, 3): its template places."""
        share = np.zeros(grid.shape, np.float32)
        if self.halo < 1:
            near = sample(self.nearness[None], COARSE, where)[0]
            near *= 1 + 0.15 * field_of(self.outline, _OUTLINE_MM, grid)
            share = np.clip((near - self.halo) / _HALO_EDGE, 0, 1)
        if not len(self.centres):
            return share
        places = to_subject(self.centres, where, grid)
        for centre, radii, place in zip(self.centres, self.radii, places, strict=True):
            box = _box(place, 2.2 * float(radii.max()), grid)
            away = np.sqrt((((where[box] - centre) / radii) ** 2).sum(axis=-1))
            roughness = 1 + 0.25 * field_of(self.outline, _OUTLINE_MM, grid.part(box))
            depth = (away * roughness - 1) * float(radii.min())
            inside = np.clip(0.5 - depth / max(1.2, grid.spacing[0]), 0, 1)
            share[box] = np.maximum(share[box], inside)
        return share


def _box(place: NDArray[np.float64], reach: float, grid: Grid) -> tuple[slice, slice, slice]:
    """The voxels within `reach` mm of a place, along each axis."""
    parts = []
    for centre, axis in zip(place, grid.axes, strict=True):
        low, high = np.searchsorted(axis, (centre - reach, centre + reach))
        parts.append(slice(int(low), int(high)))
    return parts[0], parts[1], parts[2]
