"""Alignment of a scan with the ICBM 152 template: the same slices through every head.

The template is another person. The affine transform that fits best is found first; the rigid one is
the one nearest to it within the brain, so that the size of a head does not rotate it (as the AC-PC
alignment of Glasser et al. 2013, doi:10.1016/j.neuroimage.2013.04.127, does).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.orientations import io_orientation

from mrbridge.errors import InputError
from mrbridge.preprocessing.foreground import Head
from mrbridge.preprocessing.resample import (
    Matrix,
    Placement,
    box_corners,
    empty_grid,
    grid_of,
    moved,
)
from mrbridge.preprocessing.search import share_inside
from mrbridge.preprocessing.settings import TransformKind
from mrbridge.preprocessing.skull_strip import LITRES, volume_l
from mrbridge.preprocessing.template import template_brain, template_fits

AGREEMENT_MM = 4.0
"""Searches that end further apart than this, root mean square over the brain, disagree.

Two people have no one transform between them, only a best one on the whole: its corners are not
known to the 1 mm that holds for scans of one person. See docs/decisions/0010-alignment.md for what
was measured."""

SIZES = (0.7, 1.2)
"""The size of an adult's brain in units of the template's, along any direction."""

LEAST_INFORMATION = 0.25
"""Nats that a head shares with the template at least."""

LEAST_SEEN = 0.5
"""Share of the brain in the field of view at least."""

_FOLLOWED = 3  # searches that are followed to the end
_LOST = 0.75  # those that reach less than this share of the best one's information went astray
_POINTS = 2000  # of the template's brain, on which distances are measured
_MARGIN_MM = 10.0  # of air around the head


@dataclass(frozen=True, eq=False)
class Alignment:
    """The transform from a scan to the template, and how certain it is.

    Attributes:
        transform: (4, 4), from positions in the scan to positions in the template, RAS+ mm.
        kind: `rigid` (6 degrees of freedom) or `affine` (12).
        information: mutual information with the template in nats, by the affine transform.
        residual_mm: uncertainty: how far searches end apart that reach three quarters of the best
            one's information: of the two furthest, root mean square over the brain of the distance
            between the positions in the scan to which they bring the template.
        angle: of the rotation, in degrees.
        sizes: smallest and largest size of the brain in units of the template's, along any
            direction.
    """

    transform: Matrix
    kind: TransformKind
    information: float
    residual_mm: float
    angle: float
    sizes: tuple[float, float]

    def as_json(self) -> dict[str, Any]:
        """Readable numbers."""
        return {
            "template": "MNI152NLin2009aAsym",
            "kind": self.kind,
            "scan_to_template_ras_mm": np.round(self.transform, 8).tolist(),
            "mutual_information": round(self.information, 5),
            "residual_mm": round(self.residual_mm, 3),
            "angle_degrees": round(self.angle, 2),
            "sizes": [round(size, 4) for size in self.sizes],
        }


def aligned(
    head: Head, kind: TransformKind, spacing_mm: float | None = None
) -> tuple[Alignment, Placement]:
    """The alignment of a scan, and its way onto a grid along the template's axes.

    Arguments and errors as for `align` and `along_axes`.
    """
    alignment = align(head, kind)
    return alignment, along_axes(head, alignment.transform, spacing_mm)


def align(head: Head, kind: TransformKind) -> Alignment:
    """Align a scan of any contrast with the template.

    Reproducible bit for bit. A few seconds.

    Args:
        head: a head, or a stripped brain.
        kind: `rigid`, or `affine` for the template's size and shape.

    Raises:
        InputError: a 2D image, an image that shows nothing, or it did not converge: searches
            disagree, or their result cannot be an adult's brain.
    """
    if head.volume.affine is None:
        raise InputError(
            "is a 2D image: its position in the head is unknown",
            remedy="Prepare with --align none.",
        )
    fits = template_fits(head, _FOLLOWED)
    best = fits[0]
    points = _brain_points()
    there = moved(points, best.transform)
    least = _LOST * best.information
    places = [moved(points, fit.transform) for fit in fits if fit.information >= least]
    sizes = np.linalg.svd(best.transform[:3, :3], compute_uv=False)
    rigid = nearest_rigid(there, points)
    result = Alignment(
        transform=rigid if kind == "rigid" else np.linalg.inv(best.transform),
        kind=kind,
        information=best.information,
        residual_mm=max(_rms_distance(one, other) for one in places for other in places),
        angle=float(np.degrees(np.arccos(np.clip((np.trace(rigid[:3, :3]) - 1) / 2, -1, 1)))),
        sizes=(float(sizes.min()), float(sizes.max())),
    )
    growth = float(np.linalg.det(best.transform[:3, :3]))
    litres = volume_l(template_brain().voxels > 0, template_brain()) * growth
    seen = share_inside(there, np.eye(4), head.volume)
    why = _implausible(result, len(places), litres, seen)
    if why is not None:
        raise InputError(
            f"alignment with the template did not converge: {why}",
            remedy="Check that it shows a whole adult's head the right way up; leave it out, or "
            "prepare with --align none.",
        )
    return result


def _implausible(result: Alignment, searches: int, litres: float, seen: float) -> str | None:
    """Why a result did not converge or is not of an adult's head; None if it may be."""
    if searches < 2:
        return "only one search ends well"
    if result.residual_mm > AGREEMENT_MM:
        return f"searches end {result.residual_mm:.1f} mm apart"
    if result.information < LEAST_INFORMATION:
        return f"it shares {result.information:.2f} nats with the template"
    low, high = result.sizes
    if low < SIZES[0] or high > SIZES[1]:
        return f"the brain would have {low:.2f} to {high:.2f} times the template's size"
    if not LITRES[0] <= litres <= LITRES[1]:
        return f"the brain would have {litres:.2f} litres"
    if seen < LEAST_SEEN:
        return f"only {seen:.0%} of the brain is in the field of view"
    return None


def nearest_rigid(points: Matrix, goals: Matrix) -> Matrix:
    """The rigid motion, (4, 4), that takes points nearest to their goals, both of shape (n, 3).

    By least squares (Kabsch 1976, doi:10.1107/S0567739476001873): means coincide.
    """
    middle, goal = points.mean(axis=0), goals.mean(axis=0)
    left, _, right = np.linalg.svd((goals - goal).T @ (points - middle))
    signs = np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    result = np.eye(4)
    result[:3, :3] = left @ signs @ right
    result[:3, 3] = goal - result[:3, :3] @ middle
    return result


def along_axes(head: Head, transform: Matrix, spacing_mm: float | None) -> Placement:
    """The placement on a grid along the axes of the space that `transform` leads to.

    Its voxels lie at multiples of their edges from the origin of that space, so that slices of
    scans of one thickness are at the same heights. It holds the head and a margin, as far as the
    field of view reaches.

    Args:
        head: the scan.
        transform: (4, 4), from positions in the scan to positions in the new space, RAS+ mm.
        spacing_mm: edges of the voxels within axial slices; None takes those of the scan, as does
            the distance of slices.

    Raises:
        InputError: a 2D image, or an image that shows nothing.
    """
    volume = head.volume
    if volume.affine is None:
        raise InputError(
            "is a 2D image, which has no position in space", remedy="Prepare with --align none."
        )
    inside = np.argwhere(head.mask)
    if not len(inside):
        raise InputError("shows nothing to align", remedy="Leave it out.")
    there = transform @ volume.affine
    axes = io_orientation(there)[:, 0].astype(int)  # of the scan's axes, in the new space
    edges = np.empty(3)
    edges[axes] = np.linalg.norm(volume.affine[:3, :3], axis=0)
    if spacing_mm is not None:
        edges[:2] = spacing_mm
    places = moved(inside.astype(float), there)
    field = moved(box_corners(np.zeros(3), np.array(volume.voxels.shape) - 1.0), there)
    low = np.maximum(places.min(axis=0) - _MARGIN_MM, field.min(axis=0))
    high = np.minimum(places.max(axis=0) + _MARGIN_MM, field.max(axis=0))
    first = np.floor(low / edges + 1e-6).astype(int)
    shape = np.ceil(high / edges - 1e-6).astype(int) - first + 1
    affine = np.diag([*edges, 1.0])
    affine[:3, 3] = first * edges
    onto = empty_grid(tuple(int(n) for n in shape), affine)
    return Placement(transform, onto, grid_of(volume))


def _brain_points() -> Matrix:
    """Evenly spread over the template's brain, shape (n, 3), RAS+ mm."""
    brain = template_brain()
    assert brain.affine is not None
    inside = np.argwhere(brain.voxels > 0)
    return moved(inside[:: max(1, len(inside) // _POINTS)].astype(float), brain.affine)


def _rms_distance(one: Matrix, other: Matrix) -> float:
    """Root mean square distance of points and their counterparts, shapes (n, 3)."""
    return float(np.sqrt(np.square(one - other).sum(axis=1).mean()))
