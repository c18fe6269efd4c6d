"""Aligning a scan with the ICBM 152 template: the same slices through every head.

The template is another person. The affine transform that fits best is found first; the rigid one is
that which comes nearest to it within the brain, so that nobody is turned because of the size of
their head (as the AC-PC alignment of Glasser et al. 2013, doi:10.1016/j.neuroimage.2013.04.127,
does).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mrbridge.errors import InputError
from mrbridge.preparation.brain import LITRES
from mrbridge.preparation.brain_template import template_brain, template_fits
from mrbridge.preparation.placement import Placement, along_axes
from mrbridge.preparation.resample import Matrix, moved
from mrbridge.volume import Volume

Kind = Literal["rigid", "affine"]

AGREEMENT_MM = 4.0
"""Searches that end further apart than this, root mean square over the brain, have found no place.

Two people have no one transform between them, only a best one on the whole: its corners are not
known to the 1 mm that holds for scans of one person. See docs/decisions/0010-alignment.md for what
was measured."""

SIZES = (0.7, 1.2)
"""How large an adult's brain is beside the template's, along any direction."""

LEAST_INFORMATION = 0.25
"""Nats that a head shares with the template at least."""

LEAST_SEEN = 0.5
"""Share of the brain that lies in the field of view at least."""

_FOLLOWED = 3  # searches that are followed to the end
_LOST = 0.75  # those that reach less than this share of the best one's information went astray
_POINTS = 2000  # of the template's brain, on which distances are measured


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where a scan lies in the template, and how sure that is.

    Attributes:
        transform: (4, 4), from positions in the scan to positions in the template, RAS+ mm.
        kind: `rigid` (6 degrees of freedom) or `affine` (12).
        information: mutual information with the template in nats, by the affine transform.
        residual_mm: how far searches end apart that reach three quarters of the best one's
            information: of the two furthest, root mean square over the brain of the distance
            between the places in the scan to which they bring the template.
        angle: by which the head is turned, in degrees.
        sizes: smallest and largest size of the brain beside the template's, along any direction.
    """

    transform: Matrix
    kind: Kind
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
    volume: Volume, kind: Kind, spacing_mm: float | None = None
) -> tuple[Alignment, Placement]:
    """Where a scan lies in the template, and its way onto a grid along the template's axes.

    Args:
        volume: a head, or a stripped brain.
        kind: `rigid`, or `affine` for the template's size and shape.
        spacing_mm: of the grid, see `along_axes`.

    Raises:
        InputError: as `align`.
    """
    found = align(volume, kind)
    return found, along_axes(volume, found.transform, spacing_mm)


def align(volume: Volume, kind: Kind) -> Alignment:
    """Find where a scan of any contrast lies in the template.

    The same to the bit whenever it is called. A few seconds.

    Raises:
        InputError: a picture, an image that shows nothing, or no answer: searches disagree, or what
            they found cannot be an adult's brain.
    """
    if volume.affine is None:
        raise InputError(
            "is a picture: there is no telling where it lies in a head",
            remedy="Prepare with --align none.",
        )
    fits = template_fits(volume, _FOLLOWED)
    best = fits[0]
    points = _brain_points()
    there = moved(points, best.transform)
    least = _LOST * best.information
    places = [moved(points, fit.transform) for fit in fits if fit.information >= least]
    sizes = np.linalg.svd(best.transform[:3, :3], compute_uv=False)
    turn = nearest_rigid(there, points)
    result = Alignment(
        transform=turn if kind == "rigid" else np.linalg.inv(best.transform),
        kind=kind,
        information=best.information,
        residual_mm=max(_apart(one, other) for one in places for other in places),
        angle=float(np.degrees(np.arccos(np.clip((np.trace(turn[:3, :3]) - 1) / 2, -1, 1)))),
        sizes=(float(sizes.min()), float(sizes.max())),
    )
    _must_be_plausible(result, len(places), float(np.linalg.det(best.transform[:3, :3])))
    _must_be_seen(there, volume)
    return result


def nearest_rigid(points: Matrix, goals: Matrix) -> Matrix:
    """The rigid motion, (4, 4), that takes points nearest to their goals, both of shape (n, 3).

    By least squares (Kabsch 1976, doi:10.1107/S0567739476001873): means fall together.
    """
    middle, goal = points.mean(axis=0), goals.mean(axis=0)
    left, _, right = np.linalg.svd((goals - goal).T @ (points - middle))
    signs = np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    result = np.eye(4)
    result[:3, :3] = left @ signs @ right
    result[:3, 3] = goal - result[:3, :3] @ middle
    return result


def _brain_points() -> Matrix:
    """Evenly spread over the template's brain, shape (n, 3), RAS+ mm."""
    brain = template_brain()
    assert brain.affine is not None
    inside = np.argwhere(brain.voxels > 0)
    return moved(inside[:: max(1, len(inside) // _POINTS)].astype(float), brain.affine)


def _apart(one: Matrix, other: Matrix) -> float:
    """Root mean square distance of points and their counterparts, shapes (n, 3)."""
    return float(np.sqrt(np.square(one - other).sum(axis=1).mean()))


def _must_be_plausible(found: Alignment, searches: int, growth: float) -> None:
    """Refuse what did not converge or is no adult's head."""
    if searches < 2:
        raise _refusal("but one search ends well")
    if found.residual_mm > AGREEMENT_MM:
        raise _refusal(f"searches end {found.residual_mm:.1f} mm apart")
    if found.information < LEAST_INFORMATION:
        raise _refusal(f"it shares {found.information:.2f} nats with the template")
    if found.sizes[0] < SIZES[0] or found.sizes[1] > SIZES[1]:
        low, high = found.sizes
        raise _refusal(f"the brain would have {low:.2f} to {high:.2f} times the template's size")
    brain = template_brain()
    amount = np.count_nonzero(brain.voxels) * np.prod(brain.spacing or (0.0,)) * growth / 1e6
    if not LITRES[0] <= amount <= LITRES[1]:
        raise _refusal(f"the brain would have {amount:.2f} litres")


def _must_be_seen(places: Matrix, volume: Volume) -> None:
    """Refuse a brain, given by points in scanner space, that is hardly in the field of view."""
    assert volume.affine is not None
    voxels = moved(places, np.linalg.inv(volume.affine))
    inside = ((voxels >= -0.5) & (voxels <= np.array(volume.voxels.shape) - 0.5)).all(axis=1)
    if inside.mean() < LEAST_SEEN:
        raise _refusal(f"only {inside.mean():.0%} of the brain is in the field of view")


def _refusal(why: str) -> InputError:
    return InputError(
        f"alignment with the template did not converge: {why}",
        remedy="See whether it shows a whole adult's head the right way up; leave it out, or "
        "prepare with --align none.",
    )
