"""Where a scan is brought to before it is cut into slices, and the way back.

A registered scan lies on the grid of its subject's other scan, one that was aligned along the axes
of the template. Either way there is one interpolation on the way there, and one back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from nibabel.orientations import io_orientation
from numpy.typing import NDArray

from mrbridge.errors import InputError
from mrbridge.preparation.geometry import from_slices, to_slices
from mrbridge.preparation.intensity import foreground_mask
from mrbridge.preparation.resample import Matrix, box_corners, covered, moved, resample
from mrbridge.volume import Volume

_MARGIN_MM = 10.0  # of air around a head that belongs to its picture
_EMPTY = np.zeros(1, np.uint8)  # of grids, of which only shape and affine count


@dataclass(frozen=True, eq=False)
class Placement:
    """A way from one grid onto another one.

    Attributes:
        transform: (4, 4), from positions in the scan to positions in the new space, RAS+ mm.
        onto: the new grid; of its voxels only the shape (i, j, k) counts.
        source: the scan's own grid, likewise.
    """

    transform: Matrix
    onto: Volume
    source: Volume

    def placed(self, volume: Volume) -> Volume:
        """The scan on the new grid; 0 where its field of view does not reach."""
        return replace(resample(volume, self.onto, self.transform), header=volume.header)

    def placed_mask(self, inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask of the scan's shape on the new grid."""
        mask = Volume(inside.astype(np.uint8), self.source.affine)
        return resample(mask, self.onto, self.transform, "nearest").voxels > 0

    def undone(self, voxels: NDArray[np.float32], beyond: float) -> NDArray[np.float32]:
        """Voxels of the new grid on the scan's own; `beyond` where the new grid does not reach."""
        back = np.linalg.inv(self.transform)
        there = Volume(voxels, self.onto.affine)
        values = resample(there, self.source, back).voxels
        values[~covered(there, self.source, back)] = beyond
        return values


def grid_of(volume: Volume) -> Volume:
    """The grid of a scan, without its voxels."""
    return Volume(np.broadcast_to(_EMPTY, volume.voxels.shape), volume.affine)


def along_axes(volume: Volume, transform: Matrix, spacing_mm: float | None) -> Placement:
    """The placement on a grid along the axes of the space that `transform` leads to.

    Its voxels lie at multiples of their edges from the origin of that space, so that slices of
    scans of one thickness lie at the same heights. It holds the head and a margin, as far as the
    field of view reaches.

    Args:
        volume: the scan.
        transform: (4, 4), from positions in the scan to positions in the new space, RAS+ mm.
        spacing_mm: edges of the voxels within axial slices; None takes those of the scan, as does
            the distance of slices.

    Raises:
        InputError: a picture, or an image that shows nothing.
    """
    if volume.affine is None:
        raise InputError(
            "is a picture, which has no place in space", remedy="Prepare with --align none."
        )
    slices, grid = to_slices(volume, None)
    head = np.argwhere(from_slices(foreground_mask(slices).astype(np.float32), grid) > 0.5)
    if not len(head):
        raise InputError("shows nothing to align", remedy="Leave it out.")
    there = transform @ volume.affine
    axes = io_orientation(there)[:, 0].astype(int)  # of the scan's axes, in the new space
    edges = np.empty(3)
    edges[axes] = np.linalg.norm(volume.affine[:3, :3], axis=0)
    if spacing_mm is not None:
        edges[:2] = spacing_mm
    places = moved(head.astype(float), there)
    field = moved(box_corners(np.zeros(3), np.array(volume.voxels.shape) - 1.0), there)
    low = np.maximum(places.min(axis=0) - _MARGIN_MM, field.min(axis=0))
    high = np.minimum(places.max(axis=0) + _MARGIN_MM, field.max(axis=0))
    first = np.floor(low / edges + 1e-6).astype(int)
    shape = np.ceil(high / edges - 1e-6).astype(int) - first + 1
    affine = np.diag([*edges, 1.0])
    affine[:3, 3] = first * edges
    onto = Volume(np.broadcast_to(_EMPTY, tuple(int(n) for n in shape)), affine)
    return Placement(transform, onto, grid_of(volume))
