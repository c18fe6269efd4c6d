"""Resampling a volume onto the grid of another one.

Positions are RAS+ millimetres here, as in every `Volume`; SimpleITK counts them LPS+ and is kept
behind these functions. A transform is a (4, 4) matrix, from positions in the moving scan to
positions in the fixed one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mrbridge.errors import InputError
from mrbridge.preprocessing.foreground import Head
from mrbridge.volume import MAX_VOXELS, Volume, corner_distance

if TYPE_CHECKING:
    import SimpleITK as sitk

Matrix = NDArray[np.floating[Any]]
Interpolation = Literal["cubic", "linear", "nearest"]

GRID_TOLERANCE_MM = 1e-3
"""The furthest that corners of two scans may be apart for their voxels to be compared."""

_MARGIN_MM = 10.0  # of air around the head
_NOTHING = 0.01  # voxels with a smaller share of nonzero voxels are zero
_EMPTY = np.zeros(1, np.uint8)  # of grids, of which only shape and affine count
_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS+ to LPS+ and back


def grid_difference(one: Volume, other: Volume) -> str | None:
    """How the grids of two scans differ, in words; None if they are the same."""
    if one.voxels.shape != other.voxels.shape:
        return f"shapes {one.voxels.shape} and {other.voxels.shape}"
    if one.affine is None and other.affine is None:
        return None
    if one.affine is None or other.affine is None:
        return "one is a 2D image, the other is not"
    distance = corner_distance(one.affine, other.affine, one.voxels.shape)
    return None if distance <= GRID_TOLERANCE_MM else f"up to {distance:.3g} mm apart"


def stored_like(volume: Volume, onto: Volume) -> Volume:
    """The volume with its axes in the order and the directions of those of `onto`, if their grids
    differ in nothing else; otherwise the volume as it is. No voxel is interpolated."""
    if volume.affine is None or onto.affine is None or grid_difference(volume, onto) is None:
        return volume
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

    turn = io_orientation(np.linalg.inv(onto.affine) @ volume.affine)
    if np.isnan(turn).any():
        return volume
    turned = replace(
        volume,
        voxels=np.ascontiguousarray(apply_orientation(volume.voxels, turn)),
        affine=volume.affine @ inv_ornt_aff(turn, volume.voxels.shape),
        header=None,
    )
    return turned if grid_difference(turned, onto) is None else volume


def resample(
    volume: Volume,
    onto: Volume,
    transform: Matrix | None = None,
    interpolation: Interpolation = "cubic",
) -> Volume:
    """The volume as it would have been scanned on the grid of `onto`.

    If the new voxels are larger than the old ones, the image is first blurred to their size, so
    that a thick slice is an average and not a thin sample of itself.

    Args:
        volume: what to resample; voxels of any real type.
        onto: the grid of the result, shape (i, j, k) and affine; its voxels do not matter.
        transform: (4, 4), from positions in `volume` to positions in `onto`, RAS+ mm; None if
            both are in one space.
        interpolation: `cubic` B-splines, clipped to the range of the image, since they overshoot at
            edges; `linear`; or `nearest`, for masks, which are not blurred and keep their type.

    Returns:
        float32 (a mask: its own type); 0 where `volume` has exact zeros, and outside of it.

    Raises:
        InputError: one of them is a 2D image.
    """
    reference = _affine(onto)
    smooth = interpolation != "nearest"
    values = volume.voxels.astype(np.float32) if smooth else volume.voxels
    if values.dtype == bool:
        values = values.astype(np.uint8)
    image = to_image(replace(volume, voxels=values))
    if smooth:
        image = blurred(image, volume, onto)
    voxels = _on_grid(image, onto, transform, interpolation)
    if smooth:
        # Splines ring around edges: beyond the range, and where there was nothing at all.
        voxels = np.clip(voxels, min(0, values.min()), max(0, values.max()))
        some = to_image(replace(volume, voxels=(values != 0).astype(np.float32)))
        shares = _on_grid(blurred(some, volume, onto), onto, transform, "linear")
        voxels[shares < _NOTHING] = 0
    voxels = voxels.astype(np.float32 if smooth else volume.voxels.dtype, copy=False)
    return replace(volume, voxels=voxels, affine=np.array(reference, np.float64), header=None)


def _on_grid(
    image: sitk.Image, onto: Volume, transform: Matrix | None, interpolation: Interpolation
) -> NDArray[Any]:
    """The values of an image at the voxels of `onto`, shape (i, j, k); 0 outside the image."""
    import SimpleITK as sitk

    kinds = {"cubic": sitk.sitkBSpline, "linear": sitk.sitkLinear}
    filter = sitk.ResampleImageFilter()
    filter.SetNumberOfThreads(1)
    filter.SetSize([int(n) for n in onto.voxels.shape])
    for name, value in _geometry(_affine(onto)).items():
        getattr(filter, f"SetOutput{name}")(value)
    filter.SetTransform(to_sitk(np.eye(4) if transform is None else transform))
    filter.SetInterpolator(kinds.get(interpolation, sitk.sitkNearestNeighbor))
    return np.ascontiguousarray(np.transpose(sitk.GetArrayFromImage(filter.Execute(image))))


def covered(volume: Volume, onto: Volume, transform: Matrix | None = None) -> NDArray[np.bool_]:
    """Which voxels of `onto` the field of view of `volume` reaches; shape (i, j, k) of `onto`."""
    everywhere = replace(volume, voxels=np.ones(volume.voxels.shape, np.uint8))
    return resample(everywhere, onto, transform, "nearest").voxels.astype(bool)


@dataclass(frozen=True, eq=False)
class Placement:
    """The way of a scan onto another grid before it is cut into slices, and back.

    Each way takes one interpolation.

    Attributes:
        transform: (4, 4), from positions in the scan to positions in the new space, RAS+ mm.
        onto: the new grid; of its voxels only the shape (i, j, k) counts.
        source: the scan's own grid, of which the same holds.
    """

    transform: Matrix
    onto: Volume
    source: Volume

    def placed(self, volume: Volume) -> Volume:
        """The scan on the new grid; 0 outside its field of view."""
        return replace(resample(volume, self.onto, self.transform), header=volume.header)

    def placed_mask(self, inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask of the scan's shape on the new grid."""
        mask = Volume(inside.astype(np.uint8), self.source.affine)
        return resample(mask, self.onto, self.transform, "nearest").voxels > 0

    def undo(self, voxels: NDArray[np.float32], beyond: float) -> NDArray[np.float32]:
        """Voxels of the new grid on the scan's own; `beyond` outside the new grid."""
        back = np.linalg.inv(self.transform)
        there = Volume(voxels, self.onto.affine)
        values = resample(there, self.source, back).voxels
        values[~covered(there, self.source, back)] = beyond
        return values


def along_axes(head: Head, transform: Matrix, spacing_mm: float | None) -> Placement:
    """The placement on a grid along the axes of the space that `transform` leads to.

    Its voxels are at multiples of their edges from the origin of that space, so that slices of
    scans of one thickness are at the same heights. It holds the head and a margin, as far as the
    field of view reaches.

    Args:
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
    from nibabel.orientations import io_orientation

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


def grid_of(volume: Volume) -> Volume:
    """The grid of a scan, without its voxels."""
    return empty_grid(volume.voxels.shape, volume.affine)


def grid_with_spacing(volume: Volume, spacing_mm: tuple[float, ...]) -> Volume:
    """The grid with other voxel sizes (along i, j, k, or one number for all three) that holds the
    field of view of a scan, centred in it; of the scan, only shape and affine count. InputError for
    a 2D image, or too many voxels."""
    affine = _affine(volume)
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    factors = np.broadcast_to(spacing_mm, 3) / steps
    old = np.array(volume.voxels.shape)
    new = np.maximum(np.ceil(old / factors - 0.01), 1).astype(int)  # 1 %: no slice for nothing
    if math.prod(map(int, new)) > MAX_VOXELS:
        raise InputError(
            f"would have {' x '.join(map(str, new))} voxels", remedy="Name a larger voxel size."
        )
    result = np.array(affine, np.float64)
    result[:3, :3] *= factors
    result[:3, 3] += affine[:3, :3] @ ((old - 1) / 2 - factors * (new - 1) / 2)
    return empty_grid(tuple(map(int, new)), result)


def empty_grid(shape: tuple[int, ...], affine: NDArray[np.float64] | None) -> Volume:
    """A grid as a volume whose voxels take no memory."""
    return Volume(np.broadcast_to(_EMPTY, shape), affine)


def to_image(volume: Volume) -> sitk.Image:
    """A volume as a SimpleITK image, axes (k, j, i) in memory, positions LPS+ mm; InputError for a
    2D image, which has no position in space."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(np.transpose(volume.voxels)))
    for name, value in _geometry(_affine(volume)).items():
        getattr(image, f"Set{name}")(value)
    return image


def to_sitk(transform: Matrix) -> sitk.AffineTransform:
    """A matrix from moving to fixed, RAS+, as ITK expects it: from fixed to moving, LPS+."""
    import SimpleITK as sitk

    matrix = flipped(np.linalg.inv(transform))
    return sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())


def from_sitk(transform: sitk.Transform) -> Matrix:
    """The undo of `to_sitk`, for a linear transform of any kind and centre."""
    points = np.concatenate([np.zeros((1, 3)), np.eye(3)])
    images = np.array([transform.TransformPoint(point) for point in points.tolist()])
    matrix = np.eye(4)
    matrix[:3, :3] = (images[1:] - images[0]).T
    matrix[:3, 3] = images[0]
    return flipped(np.linalg.inv(matrix))


def flipped(transform: Matrix) -> Matrix:
    """A transform of RAS+ positions as one of LPS+ positions, or back."""
    return np.asarray(_FLIP @ transform @ _FLIP)


def moved(points: Matrix, matrix: Matrix) -> Matrix:
    """Points, shape (n, 3), through a (4, 4) matrix."""
    return np.asarray((matrix[:3, :3] @ points.T + matrix[:3, 3:]).T)  # so that sums are quick


def furthest(one: Matrix, other: Matrix) -> float:
    """The largest distance between points and their counterparts, shapes (n, 3)."""
    return float(np.linalg.norm(one - other, axis=1).max())


def box_corners(low: NDArray[Any], high: NDArray[Any]) -> Matrix:
    """The eight corners of a box, shape (8, 3)."""
    steps = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)
    return np.asarray(low + steps * (np.asarray(high) - low))


def _affine(volume: Volume) -> Matrix:
    if volume.affine is None:
        raise InputError(
            "a 2D image has no position in space, so nothing can be resampled onto its grid",
            remedy="Give volumes.",
        )
    return volume.affine


def _geometry(affine: Matrix) -> dict[str, list[float]]:
    """Spacing, direction and origin as SimpleITK's setters are called."""
    turned = _FLIP @ affine
    spacing = np.linalg.norm(turned[:3, :3], axis=0)
    return {
        "Spacing": spacing.tolist(),
        "Direction": (turned[:3, :3] / spacing).ravel().tolist(),
        "Origin": turned[:3, 3].tolist(),
    }


def blurred(image: sitk.Image, volume: Volume, onto: Volume) -> sitk.Image:
    """Blurred along each of its axes to the voxel size of `onto`, if that is larger.

    As in Cardoso et al. 2015 (doi:10.1007/978-3-319-24571-3_11): a Gaussian whose variance is the
    difference of those of both voxels' profiles, each of the full width of its voxel at half its
    height.
    """
    import SimpleITK as sitk

    own, new = _affine(volume)[:3, :3], _affine(onto)[:3, :3]
    spacing = np.linalg.norm(own, axis=0)
    # How far a step of one voxel of `onto`, along any axis, moves along each of its own axes.
    reach = np.abs((own / spacing).T @ new).max(axis=1)
    sigma = np.sqrt(np.maximum(reach**2 - spacing**2, 0)) / 2.355
    for axis in np.flatnonzero(sigma > 0.1 * spacing):
        image = sitk.RecursiveGaussian(image, float(sigma[axis]), False, 0, int(axis))
    return image
