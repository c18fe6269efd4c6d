"""The header of a NIfTI file: its affine, with corrections, and what is written into it.

Source: https://nifti.nimh.nih.gov/nifti-1 (nifti1.h) and /nifti-2.
"""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, inv_ornt_aff
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from mrbridge.errors import InputError, SettingsError
from mrbridge.volume import Volume, corner_distance

Affine = NDArray[np.float64]

_MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 0.001}  # nifti1.h: metres, millimetres, micrometres
_SHORTEST, _LONGEST = 1e-6, 1e6  # mm; a voxel of another size is an error
_OTHER_INTENTS = (  # nifti1.h: first and last intent code; 0 and 1011 (dimensionless) say nothing
    (2, 24, "a statistical map"),
    (1001, 1001, "a map of an estimated parameter"),
    (1002, 1003, "a label map"),
    (1004, 1010, "a field of vectors, matrices or points"),
    (2001, 2005, "a GIFTI surface"),
    (2006, 2099, "a spatial transformation"),  # of FSL
    (3000, 3099, "a CIFTI file"),
)
_LONGEST_QUATERNION = 1.0005  # four decimals make one so long
_OTHER_SPACING = 0.1  # share by which voxel sizes may differ, as those of a sheared sform do
_ALIGNED_MM = 0.01  # qform and sform closer than this are equal


def other_by_intent(header: Any) -> str | None:
    """Why an image is not a scan, by the intent code of its header; None if the code is 0 or
    unknown, or the header is not that of a NIfTI file.

    Returns:
        The end of a sentence that begins with the file: "is a label map, by the intent code 1002".
    """
    if not isinstance(header, nib.Nifti1Header):  # also of NIfTI-2
        return None
    code = int(header["intent_code"])
    kinds = (kind for first, last, kind in _OTHER_INTENTS if first <= code <= last)
    return next((f"is {kind}, by the intent code {code} of its header" for kind in kinds), None)


def find_affine(
    header: Any, shape: tuple[int, ...], assume: str | None, notes: list[str]
) -> Affine:
    """The affine of a NIfTI file, (4, 4) to RAS+ mm: the sform, or else the qform.

    Args:
        header: it is corrected in place where that is possible in one way only.
        shape: (i, j, k).
        assume: the orientation of a file without any, such as RAS.
        notes: what was corrected or assumed is added here.

    Raises:
        InputError: the file has no usable affine, and `assume` is None.
        SettingsError: `assume` is not an orientation.
    """
    repairs = _repair(header, shape)
    stored = _stored_affines(header)
    sform, qform = (form if form is not None and _is_invertible(form) else None for form in stored)
    if sform is None and qform is None:
        if assume is None:
            raise InputError(
                _why_no_affine(header, stored),
                remedy="If you know its orientation, use --assume RAS (or LPS, ...).",
            )
        notes.append(f"has no orientation; {assume} was assumed")
        return assumed_affine(header, shape, assume)
    if sform is None:
        assert qform is not None
        notes.extend(repairs["qform"])
        if stored[0] is not None:
            notes.append("its sform is singular or not finite; the qform is used")
            header["sform_code"] = 0  # so that every reader of the result finds the qform
        return qform
    notes.extend(repairs["sform"])
    if qform is not None:
        apart = corner_distance(sform, qform, shape)
        if apart > _ALIGNED_MM:
            notes.append(f"qform and sform differ by {apart:.3g} mm; sform is used")
    elif stored[1] is not None:
        notes.append("its qform is singular or not finite; the sform is used")
        header["qform_code"] = 0
    else:
        notes.extend(_other_spacing(header, sform, shape))
    return sform


def unit_mm(header: Any) -> float:
    """The unit of length of a NIfTI header in mm; unknown ones count as mm."""
    return _MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)


def _other_spacing(header: Any, sform: Affine, shape: tuple[int, ...]) -> list[str]:
    """A note if the voxel sizes of a header without qform are not those of its sform."""
    sizes = unit_mm(header) * np.array(header["pixdim"][1:4], np.float64)
    steps = np.linalg.norm(sform[:3, :3], axis=0)
    differ = (np.abs(sizes / steps - 1) > _OTHER_SPACING) & (np.array(shape) > 1)
    if not (sizes > 0).all() or not differ.any():
        return []
    stated, used = (" x ".join(f"{size:.3g}" for size in of) for of in (sizes, steps))
    return [f"its voxel sizes are {stated} mm by pixdim and {used} mm by sform; sform is used"]


def _why_no_affine(header: Any, stored: tuple[Affine | None, ...]) -> str:
    if all(form is None for form in stored):
        return "does not state its orientation (qform and sform are both 0)"
    if (header["pixdim"][1:4] < 0).any():
        return "has a negative voxel size (pixdim), which some programs read as a mirror image"
    return "its affine is singular or not finite"


def _repair(header: Any, shape: tuple[int, ...]) -> dict[str, list[str]]:
    """Correct errors that can be corrected in one way only, in place; return notes for each form.

    A step along an axis of one voxel has no effect on voxel positions: if it is missing,
    it becomes 1 mm for the qform (as in SimpleITK), and the normal of the slice for the sform. A
    quaternion that rounding made longer than 1 is normalised, as in the reference code of NIfTI
    (nifti_quatern_to_mat44 of nifti1_io.c).
    """
    notes: dict[str, list[str]] = {"qform": [], "sform": []}
    single = [axis for axis in range(3) if shape[axis] == 1]
    if int(header["qform_code"]) > 0:
        for axis in single:
            step = abs(float(header["pixdim"][axis + 1]))
            usable = _SHORTEST < step < _LONGEST  # not NaN either
            if not (usable and header["pixdim"][axis + 1] > 0):
                header["pixdim"][axis + 1] = step if usable else 1
                notes["qform"].append(
                    f"its voxel size along axis {axis + 1}, which has one voxel, is unusable; "
                    f"{step if usable else 1:g} is used"
                )
        names = ("quatern_b", "quatern_c", "quatern_d")
        quaternion = np.array([float(header[name]) for name in names])
        length = float(np.linalg.norm(quaternion))
        if 1 < length < _LONGEST_QUATERNION and not _has_qform(header):
            for name, value in zip(names, quaternion / length, strict=True):
                header[name] = value
            notes["qform"].append(f"its quaternion is {length - 1:.1g} too long; it was normalised")
    if int(header["sform_code"]) > 0 and len(single) == 1:
        sform = header.get_sform()
        (axis,) = single
        others = [sform[:3, other] for other in range(3) if other != axis]
        normal = np.cross(*others) * (-1 if axis == 1 else 1)
        if not sform[:3, axis].any() and np.isfinite(normal).all() and normal.any():
            sform[:3, axis] = normal / np.linalg.norm(normal)
            header.set_sform(sform, int(header["sform_code"]))
            notes["sform"].append(
                "its sform has no step across its only slice; the normal of the slice is used"
            )
    return notes


def _has_qform(header: Any) -> bool:
    """Whether the quaternion is one that nibabel takes."""
    try:
        header.get_qform_quaternion()
    except (HeaderDataError, ValueError):
        return False
    return True


def _stored_affines(header: Any) -> tuple[Affine | None, Affine | None]:
    """sform and qform of a NIfTI header, (4, 4) to RAS+ mm; None if the code is 0."""
    unit = unit_mm(header)
    millimetres = np.diag([unit, unit, unit, 1.0])
    sform = millimetres @ header.get_sform() if int(header["sform_code"]) > 0 else None
    qform = None
    if int(header["qform_code"]) > 0:
        plain = header.copy()
        if plain["pixdim"][0] not in (-1, 1):
            plain["pixdim"][0] = 1  # nifti1.h: 0 means 1, and so do invalid values
        try:
            qform = millimetres @ plain.get_qform()
        except (HeaderDataError, ValueError):
            qform = np.full((4, 4), np.nan)
    return sform, qform


def _set_affine(header: Any, affine: Affine) -> None:
    """Write an affine, (4, 4) to RAS+ mm, as sform, and as qform if a quaternion can express it."""
    header.set_qform(affine, code=1)  # also sets the spacings
    header.set_sform(affine, code=1)
    # A quaternion cannot express shear: no qform is better than one that contradicts the sform.
    _, qform = _stored_affines(header)
    shape = tuple(header.get_data_shape())
    if qform is not None and corner_distance(affine, qform, shape[:3]) > _ALIGNED_MM:
        header["qform_code"] = 0


def header_for(volume: Volume, voxels: NDArray[Any]) -> Any:
    """The header to write: that of the source for these voxels, or a new one in millimetres;
    HeaderDataError if NIfTI cannot hold the voxels."""
    assert volume.affine is not None
    if isinstance(volume.header, nib.Nifti1Header):  # also Nifti2Header
        header = volume.header.copy()
        header["magic"] = header.single_magic
        if "eol_check" in header:  # NIfTI-2: the end of its magic, which readers check
            header["eol_check"] = (13, 10, 26, 10)
    else:
        header = nib.Nifti1Header()
        header.set_data_shape(voxels.shape)
        header.set_xyzt_units("mm")
        _set_affine(header, volume.affine)
    stated = tuple(int(size) for size in header["dim"][1 : int(header["dim"][0]) + 1])
    if (*stated, 1, 1)[:3] != voxels.shape or np.prod(stated) != voxels.size:
        header.set_data_shape(voxels.shape)
    present = [affine for affine in _stored_affines(header) if affine is not None]
    if present and not np.array_equal(present[0], volume.affine):
        header.set_xyzt_units("mm")
        _set_affine(header, volume.affine)
    header.set_data_dtype(voxels.dtype)
    header["vox_offset"] = int(header.sizeof_hdr) + 4
    header["scl_slope"], header["scl_inter"] = 1, 0
    return header


def mark(header: Any, note: str) -> None:
    """Write the note; clear the names, intent, display window and unused fields of the source.

    Fields that this version of NIfTI does not have are skipped.
    """
    values = {"descrip": note.encode("ascii", "replace")[:79], "cal_min": 0, "cal_max": 0}
    values |= dict.fromkeys(("db_name", "aux_file", "intent_name", "data_type", "unused_str"), b"")
    numbers = ("intent_code", "intent_p1", "intent_p2", "intent_p3")
    values |= dict.fromkeys((*numbers, "extents", "session_error", "glmax", "glmin"), 0)
    values["regular"] = b"r"
    for field, value in values.items():
        if field in header:  # of the unused fields, NIfTI-2 has only unused_str
            header[field] = value


def _is_invertible(affine: Affine) -> bool:
    """Whether the affine is finite and its axes span space."""
    if not np.isfinite(affine).all():
        return False
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() < _SHORTEST or lengths.max() > _LONGEST:
        return False
    return bool(abs(np.linalg.det(affine[:3, :3] / lengths)) > 1e-4)


def assumed_affine(header: Any, shape: tuple[int, ...], assume: str) -> Affine:
    """Axes along `assume`, spacings of the header, the centre of the image at the origin."""
    code = assume.upper()
    pairs = ["LR", "PA", "IS"]
    if len(code) != 3 or any(sum(letter in pair for letter in code) != 1 for pair in pairs):
        raise SettingsError(
            f"'{assume}' is not an orientation", remedy="Use three letters such as RAS or LPS."
        )
    spacing = np.abs(np.nan_to_num(np.array(header["pixdim"][1:4], float)))
    spacing[(spacing == 0) | (spacing > 1e6)] = 1.0
    # axcodes2ornt says which way the file's axes run; its inverse affine brings them to RAS.
    turn = np.linalg.inv(inv_ornt_aff(axcodes2ornt(tuple(code)), shape))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine
