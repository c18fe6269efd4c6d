"""Scans in memory: nibabel images and arrays as volumes, and the results as the same."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mrbridge.errors import InputError, warn
from mrbridge.io.contrast import Identity, of_path
from mrbridge.io.padding import partial_copy, refuse_wrapped, without_padding
from mrbridge.volume import Volume

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage  # nibabel, which 2D images do not need

ArrayAndAffine = tuple[NDArray[Any], NDArray[Any]]
"""Voxels, shape (i, j, k), and the affine, shape (4, 4), from voxel index to RAS+ mm."""

_CHUNK = 1 << 20  # bytes of a file that are read at once

Scan: TypeAlias = "str | Path | Volume | SpatialImage | ArrayAndAffine"
"""A path or URL, or a scan in memory."""


def as_volume(image: Any, index: int | None = None, assume: str | None = None) -> Volume:
    """A scan in memory as a `Volume`.

    Args:
        image: a `Volume`; a nibabel image of 3 axes (or 4, with `index`); or a pair of an array
            (i, j, k) and its affine (4, 4) to RAS+ mm.
        index: which volume of an image of 4 axes.
        assume: the orientation, such as RAS, of a NIfTI or Analyze image that states none.

    Returns:
        Finite voxels: NaN, infinity, padding and what a masked array masks are replaced, with a
        warning, as in files. A nibabel image that was read from a file, or written, has the
        contrast that its name says.

    Raises:
        InputError: it is not one of these, does not hold real numbers, or its file is damaged.
    """
    if isinstance(image, Volume):
        return replace(image, voxels=_finite(image.voxels), affine=_affine_of_volume(image))
    from nibabel.spatialimages import SpatialImage

    from mrbridge.io.nifti_header import other_by_intent

    if isinstance(image, SpatialImage):
        if image.affine is None:
            raise InputError("the image has no affine", remedy="Give it one.")
        voxels = _three_axes(_voxels_of(image), index)
        for note in partial_copy(voxels):
            warn(note)
        affine = _affine_of(image, voxels.shape, assume)
        marked = False
        if "descrip" in getattr(image.header, "keys", tuple)():
            marked = bytes(image.header["descrip"].item()).lower().startswith(b"synthetic")
        name, identity = image.get_filename(), Identity()
        if name is not None:
            identity = of_path(Path(Path(name).resolve().parent.name, Path(name).name))
        objection = identity.objection if not marked or identity.is_other else None
        return Volume(
            _finite(voxels),
            affine,
            contrast=identity.contrast,
            other=objection or other_by_intent(image.header),
            synthetic=marked,
        )
    if isinstance(image, tuple) and len(image) == 2:
        try:
            voxels, affine = np.asanyarray(image[0]), np.asarray(image[1], np.float64)
        except (TypeError, ValueError, RuntimeError) as error:  # such as tensors with a gradient
            raise InputError(
                f"cannot become arrays ({error})", remedy="Pass NumPy arrays of numbers."
            ) from None
        if affine.shape != (4, 4):
            raise InputError(
                f"the affine has shape {affine.shape}", remedy="Pass one of shape (4, 4)."
            )
        _check_affine(affine)
        return Volume(_finite(_three_axes(voxels, index)), affine)
    raise InputError(
        f"a {type(image).__name__} is not a scan",
        remedy="Pass a path, a Volume, a nibabel image, or (array, affine).",
    )


def in_kind_of(image: Any, volume: Volume, note: str) -> Any:
    """The result as the same kind of object: a nibabel image for one, of NIfTI where nibabel does
    not write its format, such as MINC; else a `Volume`."""
    if isinstance(image, Volume | tuple):
        return volume
    from nibabel.nifti1 import Nifti1Header, Nifti1Image

    from mrbridge.io.nifti_header import mark as mark_header, unit_mm

    assert volume.affine is not None
    kind, header = type(image), image.header.copy()
    if not image.rw:
        kind, header = Nifti1Image, Nifti1Header()
    unit = unit_mm(header) if isinstance(header, Nifti1Header) else 1.0
    affine = np.diag([1 / unit] * 3 + [1.0]) @ volume.affine
    header.set_data_dtype(volume.voxels.dtype)
    header.set_data_shape(volume.voxels.shape)
    mark_header(header, note)
    if getattr(header, "extensions", None):
        header.extensions = type(header.extensions)()  # they may name the patient
    return kind(volume.voxels, affine, header)


def _voxels_of(image: SpatialImage) -> NDArray[Any]:
    """The voxels of a nibabel image. A compressed file is read to its end, where its checksum is,
    which nibabel does not do."""
    from nibabel.arrayproxy import ArrayProxy, is_proxy

    name, proxy = image.get_filename(), image.dataobj
    try:
        if not is_proxy(proxy) or not str(name).lower().endswith((".gz", ".mgz")):
            return np.asanyarray(proxy)
        with gzip.open(name) as file:
            if type(proxy) is ArrayProxy:
                spec = proxy.shape, proxy.dtype, proxy.offset, proxy.slope, proxy.inter
                proxy = ArrayProxy(file, spec, order=proxy.order)
            voxels = np.asanyarray(proxy)
            while file.read(_CHUNK):
                pass
    except (OSError, EOFError, zlib.error):
        raise InputError(
            "the file of the image is damaged, truncated or gone",
            remedy="Get a new copy of the file.",
        ) from None
    return voxels


def _affine_of(
    image: SpatialImage, shape: tuple[int, ...], assume: str | None
) -> NDArray[np.float64]:
    """The affine of a nibabel image to RAS+ mm, by the rules for files.

    nibabel itself does not look at the unit, and makes an affine up for NIfTI and Analyze files
    without one.
    """
    from nibabel.analyze import AnalyzeHeader
    from nibabel.nifti1 import Nifti1Header

    from mrbridge.io.nifti_header import assumed_affine, find_affine, unit_mm

    affine, header = np.asarray(image.affine, np.float64), image.header
    notes: list[str] = []
    if isinstance(header, Nifti1Header):
        if np.allclose(affine, header.get_best_affine(), equal_nan=True):
            affine = find_affine(header.copy(), shape, assume, notes)
        else:  # it was changed in place
            affine = np.diag([unit_mm(header)] * 3 + [1.0]) @ affine
    elif isinstance(header, AnalyzeHeader) and np.allclose(affine, header.get_best_affine()):
        if assume is None:
            raise InputError(
                "does not state its orientation (Analyze 7.5 cannot)",
                remedy="If you know its orientation, use assume='RAS' (or LPS, ...).",
            )
        affine = assumed_affine(header, shape, assume)
        notes.append(f"has no orientation; {assume} was assumed")
    else:
        notes += _default_geometry(image)
    for note in notes:
        warn(note)
    _check_affine(affine)
    return affine


def _default_geometry(image: SpatialImage) -> list[str]:
    """A note if nibabel took a part of the affine of a MINC file from the defaults of the format;
    InputError if it made up that of a FreeSurfer file."""
    from nibabel.freesurfer import MGHImage

    if isinstance(image, MGHImage) and image.file_map["image"].file_like is not None:
        with image.file_map["image"].get_prepare_fileobj("rb") as file:
            states_it = file.read(30)[28:] != b"\0\0"  # goodRASFlag, which nibabel sets to 1
        if not states_it and np.allclose(image.affine, image.header.get_affine()):
            raise InputError(
                "does not state its orientation and voxel size (goodRASFlag of MGH is 0)",
                remedy="Save it as NIfTI with its orientation.",
            )
    minc: Any = getattr(image.dataobj, "minc_file", None)
    if minc is None:
        return []
    absent = {
        name
        for axis, values in zip(minc._dim_names, minc._dims, strict=True)
        for name in ("step", "start", "direction_cosines")
        if axis in minc._spatial_dims and not hasattr(values, name)
    }
    if not absent:
        return []
    return [f"its MINC file does not state {', '.join(sorted(absent))}; the defaults are used"]


def _affine_of_volume(volume: Volume) -> NDArray[np.float64] | None:
    if volume.affine is None:
        if volume.voxels.shape[2] > 1:
            raise InputError(
                f"a volume of {volume.voxels.shape[2]} slices has no affine",
                remedy="Give it one: only a 2D image has none.",
            )
        return None
    affine = np.asarray(volume.affine, np.float64)
    _check_affine(affine)
    return affine


def _check_affine(affine: NDArray[np.float64]) -> None:
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise InputError("the affine has no inverse", remedy="Pass the affine of the image.")
    if not np.allclose(affine[3], (0, 0, 0, 1)):
        raise InputError(
            f"the last row of the affine is {affine[3].tolist()}, not 0, 0, 0, 1",
            remedy="Pass the affine of the image.",
        )


def _three_axes(voxels: NDArray[Any], index: int | None) -> NDArray[Any]:
    while voxels.ndim > 3 and voxels.shape[-1] == 1:
        voxels = voxels[..., 0]
    count = voxels.shape[3] if voxels.ndim == 4 else 1
    if index is not None and index >= count:
        raise InputError(f"has no volume {index}", remedy=f"Choose one of 0..{count - 1}.")
    if voxels.ndim == 4 and index is not None:
        voxels = voxels[..., index]
    if voxels.ndim != 3:
        raise InputError(
            f"the image has the shape {voxels.shape}, not three axes",
            remedy="Choose one volume of it.",
        )
    return voxels


def _finite(voxels: NDArray[Any]) -> NDArray[Any]:
    if isinstance(voxels, np.ma.MaskedArray) and voxels.dtype.kind in "biuf":
        voxels = np.ma.filled(voxels.astype(np.float64), np.nan)  # what is masked is not known
    voxels = np.asarray(voxels)
    if voxels.dtype.kind not in "biuf" or voxels.size == 0:
        raise InputError(
            f"voxels of shape {voxels.shape} and type {voxels.dtype} are not a real image",
            remedy="Pass real numbers, at least one.",
        )
    if voxels.dtype.kind == "f":
        with np.errstate(over="ignore"):  # as in files
            voxels = voxels.astype(np.float32, copy=False)
        if not np.isfinite(voxels).any():
            raise InputError("the image has no finite voxel", remedy="Leave it out.")
    refuse_wrapped(voxels)
    voxels, notes = without_padding(voxels)
    for note in notes:
        warn(note)
    return voxels
