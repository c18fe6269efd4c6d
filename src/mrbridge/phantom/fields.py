"""Smooth random functions of space, and the grid on which they are evaluated.

Random numbers are placed on knots that are fixed in space (mm), so that a subject is the same at
every voxel size. Between the knots, uniform cubic B-splines interpolate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

LOW_MM = np.array([-98.5, -134.5, -72.5])
HIGH_MM = np.array([98.5, 98.5, 116.5])
"""Edges of the field of view in RAS+ millimetres: those of the ICBM 152 template."""

_MARGIN_MM = 16.0  # random fields may be evaluated this far beyond the field of view

# A weighted mean of unit-variance knots has less than unit variance. Per axis, the squared cubic
# B-spline weights, averaged over a knot interval, sum to 151/315.
_SPREAD = (151 / 315) ** 1.5


@dataclass(frozen=True)
class Grid:
    """Voxel centres: `axes[a]` holds those along RAS axis a in mm, ascending and evenly spaced."""

    axes: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]

    @classmethod
    def over_field_of_view(cls, spacing_mm: tuple[float, float, float]) -> Grid:
        """The grid of this voxel size that fills the field of view, centred in it."""
        axes = []
        for low, high, step in zip(LOW_MM, HIGH_MM, spacing_mm, strict=True):
            count = max(1, int((high - low) / step + 1e-6))
            axes.append((low + high) / 2 + (np.arange(count) - (count - 1) / 2) * step)
        return cls((axes[0], axes[1], axes[2]))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        x, y, z = self.axes
        return len(x), len(y), len(z)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between neighbours along each axis."""
        x, y, z = (float(a[1] - a[0]) for a in self.axes)
        return x, y, z

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4), from voxel index to RAS+ mm."""
        affine = np.diag([*self.spacing, 1.0])
        affine[:3, 3] = [a[0] for a in self.axes]
        return affine

    def part(self, box: tuple[slice, slice, slice]) -> Grid:
        """The grid of a box of voxels."""
        x, y, z = (a[s] for a, s in zip(self.axes, box, strict=True))
        return Grid((x, y, z))

    def mesh(self) -> tuple[Array, Array, Array]:
        """The coordinates, shaped to broadcast: (X, 1, 1), (1, Y, 1), (1, 1, Z)."""
        x, y, z = (a.astype(np.float32) for a in self.axes)
        return x[:, None, None], y[None, :, None], z[None, None, :]

    def places(self) -> Array:
        """The coordinates of all voxels, (X, Y, Z, 3)."""
        return np.stack(np.broadcast_arrays(*self.mesh()), axis=-1)


def spline(coefficients: Array, start_mm: NDArray[np.float64], knot_mm: float, grid: Grid) -> Array:
    """A uniform cubic B-spline on a grid.

    Args:
        coefficients: (a, b, c), at start_mm + knot_mm * index.
        start_mm: (3,), place of the first coefficient.
        knot_mm: distance of neighbouring coefficients.
        grid: to evaluate on, at least one knot within the coefficients.

    Returns:
        float32 of the grid's shape. Sums of four terms per axis, always in the same order:
        bit-identical with any number of threads.
    """
    field = coefficients.astype(np.float32)
    for axis in range(3):
        place = (grid.axes[axis] - start_mm[axis]) / knot_mm
        first = np.floor(place).astype(np.intp) - 1
        t = (place - np.floor(place)).astype(np.float32)
        weights = (
            (1 - t) ** 3 / 6,
            (3 * t**3 - 6 * t**2 + 4) / 6,
            (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            t**3 / 6,
        )
        shape = [1, 1, 1]
        shape[axis] = len(t)
        total = np.take(field, first, axis) * weights[0].reshape(shape)
        for step in (1, 2, 3):
            total += np.take(field, first + step, axis) * weights[step].reshape(shape)
        field = total
    return field


def random_field(rng: np.random.Generator, knot_mm: float, grid: Grid) -> Array:
    """A random field of mean 0 and standard deviation 1, smooth over about `knot_mm`.

    It depends on the generator and the place only, not on the grid's spacing.
    """
    return field_of(random_knots(rng, knot_mm), knot_mm, grid)


def random_knots(rng: np.random.Generator, knot_mm: float) -> Array:
    """The coefficients of a `random_field`: they may be added up before they are evaluated."""
    counts = np.ceil((HIGH_MM - LOW_MM + 2 * _MARGIN_MM) / knot_mm).astype(int) + 4
    return rng.standard_normal(counts, dtype=np.float32) / np.float32(_SPREAD)


def field_of(knots: Array, knot_mm: float, grid: Grid) -> Array:
    """The field with these `random_knots`."""
    return spline(knots, LOW_MM - _MARGIN_MM - 1.5 * knot_mm, knot_mm, grid)
