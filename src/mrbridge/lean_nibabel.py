"""nibabel without pydicom, whose import would take longer than all the rest of nibabel's.

nibabel looks for it only to parse header extensions that hold DICOM. Without it such an extension
stays bytes, and extensions never reach an output anyway. Where pydicom is loaded already, nibabel
finds it. All of mrbridge takes nibabel from here.
"""

from __future__ import annotations

import sys

_is_hidden = "pydicom" not in sys.modules
if _is_hidden:
    sys.modules["pydicom"] = None  # type: ignore[assignment]
try:
    import nibabel as nib
    from nibabel.orientations import (
        aff2axcodes,
        apply_orientation,
        axcodes2ornt,
        inv_ornt_aff,
        io_orientation,
        ornt_transform,
    )
    from nibabel.spatialimages import HeaderDataError, SpatialImage
    from nibabel.volumeutils import apply_read_scaling
finally:
    if _is_hidden:
        del sys.modules["pydicom"]

__all__ = [
    "HeaderDataError",
    "SpatialImage",
    "aff2axcodes",
    "apply_orientation",
    "apply_read_scaling",
    "axcodes2ornt",
    "inv_ornt_aff",
    "io_orientation",
    "nib",
    "ornt_transform",
]
