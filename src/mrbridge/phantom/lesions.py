"""White matter lesions like those of multiple sclerosis: bright in T2w, barely visible in T1w."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mrbridge.phantom.fields import Array, Grid, knots_start, random_knots, spline
from mrbridge.phantom.head import COARSE, Head, sample
from mrbridge.phantom.shape import to_subject
from mrbridge.phantom.tissues import LESION

_OUTLINE_MM = 5.0
_HALO_EDGE = 0.08


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
        """Between `count[0]` and `count[1]` lesions, most of them beside the ventricles.

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
        start = knots_start(_OUTLINE_MM)
        if self.halo < 1:
            near = sample(torch.from_numpy(self.nearness)[None], COARSE, where)[0]
            near *= 1 + 0.15 * spline(self.outline, start, _OUTLINE_MM, grid)
            share = np.clip((near - self.halo) / _HALO_EDGE, 0, 1)
        if not len(self.centres):
            return share
        places = to_subject(self.centres, where, grid)
        for centre, radii, place in zip(self.centres, self.radii, places, strict=True):
            box = _box(place, 2.2 * float(radii.max()), grid)
            away = np.sqrt((((where[box] - centre) / radii) ** 2).sum(axis=-1))
            roughness = 1 + 0.25 * spline(self.outline, start, _OUTLINE_MM, grid.part(box))
            depth = (away * roughness - 1) * float(radii.min())
            inside = np.clip(0.5 - depth / max(1.2, grid.spacing[0]), 0, 1)
            share[box] = np.maximum(share[box], inside)
        return share


def _box(place: NDArray[np.float64], reach: float, grid: Grid) -> tuple[slice, slice, slice]:
    parts = []
    for centre, axis in zip(place, grid.axes, strict=True):
        low, high = np.searchsorted(axis, (centre - reach, centre + reach))
        parts.append(slice(int(low), int(high)))
    return parts[0], parts[1], parts[2]
