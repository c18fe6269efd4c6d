"""Scans that come as objects: a `Volume`, a nibabel image, or an array with its affine."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from mrbridge.errors import InputError, MrbridgeWarning
from mrbridge.io.nifti import mark
from mrbridge.io.padding import without_padding
from mrbridge.volume import Volume


def as_volume(image: Any, index: int | None = None) -> Volume:
    """Take a scan that is no file.

    Args:
        image: a `Volume`; a nibabel image of 3 axes (or 4, with `index`); or a pair of an array
            (i, j, k) and its affine (4, 4) to RAS+ mm.
        index: which volume of an image of 4 axes.

    Returns:
        Finite voxels: NaN, infinity and padding are replaced, with a warning, as in reading a file.

    Raises:
        InputError: it is none of these, or holds no real numbers.
    """
    if isinstance(image, Volume):
        return replace(image, voxels=_finite(image.voxels))
    if isinstance(image, SpatialImage):
        if image.affine is None:
            raise InputError("the image has no affine", remedy="Give it one.")
        _check_affine(np.asarray(image.affine, np.float64))
        voxels = _three_axes(np.asanyarray(image.dataobj), index)
        marked = "descrip" in image.header and _says_synthetic(image.header["descrip"])
        return Volume(_finite(voxels), np.asarray(image.affine, np.float64), synthetic=marked)
    if isinstance(image, tuple) and len(image) == 2:
        voxels, affine = np.asarray(image[0]), np.asarray(image[1], np.float64)
        if affine.shape != (4, 4):
            raise InputError(f"the affine has shape {affine.shape}", remedy="Give one of (4, 4).")
        _check_affine(affine)
        return Volume(_finite(_three_axes(voxels, index)), affine)
    raise InputError(
        f"a {type(image).__name__} is not a scan",
        remedy="Give a path, a Volume, a nibabel image, or (array, affine).",
    )


def in_kind_of(image: Any, made: Volume, note: str) -> Any:
    """The result as the same kind of object: a nibabel image for one, else a `Volume`."""
    if not isinstance(image, SpatialImage):
        return made
    header = image.header.copy()
    header.set_data_dtype(made.voxels.dtype)
    mark(header, note)
    if getattr(header, "extensions", None):
        header.extensions = type(header.extensions)()  # they may name the patient
    return type(image)(made.voxels, image.affine, header)


def _check_affine(affine: NDArray[np.float64]) -> None:
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise InputError("the affine has no inverse", remedy="Give the image's place in space.")


def _three_axes(voxels: NDArray[Any], index: int | None) -> NDArray[Any]:
    while voxels.ndim > 3 and voxels.shape[-1] == 1:
        voxels = voxels[..., 0]
    if voxels.ndim == 4 and index is not None and 0 <= index < voxels.shape[3]:
        voxels = voxels[..., index]
    if voxels.ndim != 3:
        raise InputError(
            f"the image has the shape {voxels.shape}, not three axes",
            remedy="Choose one volume of it.",
        )
    return voxels


def _finite(voxels: NDArray[Any]) -> NDArray[Any]:
    if voxels.dtype.kind not in "biuf" or voxels.size == 0:
        raise InputError(
            f"voxels of shape {voxels.shape} and type {voxels.dtype} are not a real image",
            remedy="Give real numbers, at least one.",
        )
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).any():
        raise InputError("the image has no finite voxel", remedy="Leave it out.")
    voxels, notes = without_padding(voxels)
    for note in notes:
        warnings.warn(note, MrbridgeWarning, stacklevel=4)
    return voxels


def _says_synthetic(description: Any) -> bool:
    return bytes(description.item()).decode("latin-1").lower().startswith("synthetic")
