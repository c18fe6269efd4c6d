"""An uncertainty map as a DICOM Parametric Map, next to the derived series that it belongs to.

Source: PS3.3, A.75 (Parametric Map IOD); written by highdicom.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from mrbridge.errors import OutputError

NAME = "uncertainty.dcm"
_UNIT = Code("[arb'U]", "UCUM", "arbitrary unit")


def write_parametric_map(
    frames: NDArray[np.float32],
    images: Sequence[Dataset],
    folder: Path,
    *,
    uids: tuple[str, str],
    description: str,
) -> Path:
    """Write the map of a derived series as one file of 32-bit floats.

    Args:
        frames: shape (slices, rows, columns), in the order of `images`, and in their units.
        images: the files of the derived series, one a slice.
        uids: of the series and of the instance.
    """
    try:
        from highdicom.pm import ParametricMap, RealWorldValueMapping
    except ImportError as error:
        raise OutputError(
            "an uncertainty map in DICOM needs highdicom",
            path=folder,
            remedy='Install "mrbridge[dicom]", or leave out --uncertainty.',
        ) from error
    top = float(max(frames.max(), np.finfo(np.float32).tiny))
    mapping = RealWorldValueMapping(
        lut_label="uncertainty",
        lut_explanation="half width of the 90 % interval",
        unit=_UNIT,
        value_range=(0.0, top),
        slope=1.0,
        intercept=0.0,
    )
    first = images[0]
    try:
        made = ParametricMap(
            images,
            np.ascontiguousarray(frames, np.float32),
            uids[0],
            int(first.SeriesNumber) + 1,
            uids[1],
            1,
            manufacturer=first.Manufacturer,
            manufacturer_model_name=first.ManufacturerModelName,
            software_versions=first.SoftwareVersions,
            device_serial_number="none",
            contains_recognizable_visual_features=first.get("RecognizableVisualFeatures") == "YES",
            real_world_value_mappings=[mapping],
            window_center=top / 2,
            window_width=top,
            content_label="UNCERTAINTY",
            content_description="Half width of the 90 % interval of a synthetic image",
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise OutputError(
            f"its uncertainty map cannot become a DICOM Parametric Map ({error})",
            path=folder,
            remedy="Name a NIfTI file, or leave out --uncertainty.",
        ) from error
    made.SeriesDescription = description
    made.SyntheticData = "YES"
    path = folder / NAME
    made.save_as(path, enforce_file_format=True)
    return path
