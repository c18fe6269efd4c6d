"""Reading and writing scans: one module a format, all behind `read` and `write`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mrbridge.errors import InputError, OutputError, about, warn
from mrbridge.io import image2d
from mrbridge.io.atomic import reading, suffix_of, writing
from mrbridge.io.contrast import of_path
from mrbridge.io.formats import FORMATS, is_dicom, is_readable
from mrbridge.io.remote import fetch, localise
from mrbridge.settings import checked
from mrbridge.volume import Volume

__all__ = ["FORMATS", "is_dicom", "is_readable", "read", "write"]

_UNNAMED_NOTE = "synthetic by mrbridge, for research, not for diagnosis"


@checked
@np.errstate(all="ignore")  # also under np.seterr(all="raise")
def read(
    path: str | Path,
    *,
    volume: int | None = None,
    assume: str | None = None,
    series: str | None = None,
    allow_gaps: bool = False,
    force: bool = False,
    files: Collection[str] = (),
) -> Volume:
    """Read a scan: NIfTI (`.nii`, `.nii.gz`), a 2D image (`.png`, `.tif`, `.tiff`, `.jpg`), or a
    DICOM series.

    Args:
        path: the file, or its URL; for DICOM a folder, a zip or one file.
        volume: which volume of a 4D file, from 0; not needed for trailing axes of length 1.
        assume: the orientation, such as "RAS", of a NIfTI file without usable qform and sform.
        series: which DICOM series, by number or UID, if there are several.
        allow_gaps: fill missing DICOM slices by interpolation, with a warning.
        force: also read a DICOM series that is known to be something else than an anatomical scan.
        files: below `path`, the files of the DICOM series, if known; all files are
            searched if empty.

    Returns:
        Finite real voxels, shape (i, j, k) in the order of the file; a 2D image is
        (rows, columns, 1). Integers without a scale stay integers; all others are float32. Padding
        and transparent pixels are background; notes and warnings say what was replaced.

    Raises:
        InputError: absent, truncated, damaged, oversized, or of a kind that is not supported.
    """
    path = Path(localise(path))
    fetch(path)
    form = FORMATS.get(suffix_of(path))
    if form is None:
        if is_dicom(path):
            from mrbridge.io import dicom  # half a second, which other formats do not need

            chosen = dicom.choose_series(dicom.find_series(path, files), None, series, force=force)
            return dicom.read_series(chosen, allow_gaps=allow_gaps)
        if not path.exists():
            raise InputError("does not exist", path=path, remedy="Check the path.")
        raise InputError(
            "has an unknown format",
            path=path,
            remedy=f"Known: {', '.join(FORMATS)}, and folders of DICOM files.",
        )
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(what, path=path, remedy="Give the path of a scan.")
    with reading(path):
        if form == "nifti":
            from mrbridge.io import nifti  # nibabel, which 2D images do not need

            result = nifti.read(path, volume=volume, assume=assume)
        elif volume:
            raise InputError("is a 2D image: it has no volumes", remedy="Leave out volume.")
        else:
            result = image2d.read(path)
    # Only the nearest folder: further up, a name says little about this file.
    identity = of_path(Path(path.resolve().parent.name, path.name))
    if form == "nifti":
        from mrbridge.io.metadata import sidecar_says

        synthetic, notes = sidecar_says(path, identity.contrast)
        synthetic |= result.synthetic
        result = replace(result, synthetic=synthetic, notes=(*result.notes, *notes))
    for note in result.notes:
        warn(note, path)
    other = identity.objection if not result.synthetic or identity.is_other else None
    return replace(result, contrast=identity.contrast, other=other or result.other)


@checked
@np.errstate(all="ignore")
def write(
    volume: Volume,
    path: str | Path,
    *,
    synthetic_note: str | None = None,
    sidecar: Callable[[Path], Any] | None = None,
) -> Path:
    """Write a scan in the format that the suffix names, atomically, and check what was written.

    Args:
        volume: its header, if any, is kept: for NIfTI the bytes of qform,
            sform, units and spacings; for 2D images bit depth and mode. Floats are written as
            float32 into NIfTI; into 2D images they are rounded and clipped to the depth.
        path: the file, or its URL; its folder is created if missing.
        synthetic_note: marks the file as synthetic. A volume that is `synthetic` is always marked.
        sidecar: of NIfTI, returns the content of the JSON file next to it, from the path of the
            complete image; both replace older ones together.

    Returns:
        `path`; of a URL the copy that is here until the process ends.

    Raises:
        OutputError: the volume cannot be written in this format, or not in this place.
    """
    path = Path(localise(path))
    form = FORMATS.get(suffix_of(path))
    if form is None:
        raise OutputError(
            "has an unknown format", path=path, remedy=f"Known: {', '.join(FORMATS)}."
        )
    if synthetic_note is None and volume.synthetic:
        synthetic_note = _UNNAMED_NOTE
    if synthetic_note is not None and not synthetic_note.lower().startswith("synthetic"):
        synthetic_note = f"synthetic: {synthetic_note}"
    with writing(path), about(path):  # what was written is read
        if form == "nifti":
            from mrbridge.io import nifti

            nifti.write(volume, path, synthetic_note, sidecar)
        else:
            image2d.write(volume, path, synthetic_note)
    return path
