"""Files of a DICOM series that hold one image twice."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from mrbridge.errors import InputError
from mrbridge.io.dicom.decode import read_planes
from mrbridge.io.dicom.files import DicomFile
from mrbridge.io.dicom.header import Slice

__all__ = ["without_copies"]

_ALL_NAMED = 5  # images named in one message
# What makes two files one image, besides their pixels.
_PLACE = ("ImagePositionPatient", "ImageOrientationPatient")
_MATTER = (
    *_PLACE,
    *("StudyInstanceUID", "ImageType", "SeriesDescription", "PhotometricInterpretation"),
    *("PixelSpacing", "Rows", "Columns"),
    *("RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("EchoTime", "RepetitionTime", "InversionTime", "FlipAngle", "TemporalPositionIdentifier"),
)


def without_copies(
    slices: list[Slice],
) -> tuple[list[Slice], list[Path], InputError | None]:
    """One of each image of a series, and the files that are copies of them.

    Exports hold files twice, in one folder or in a folder that was copied, sometimes stored in
    another way.

    Returns:
        The slices that are kept; the copies; and why the series is refused, if two images with one
        SOPInstanceUID differ.
    """
    by_file: dict[DicomFile, list[Slice]] = defaultdict(list)
    for part in slices:
        by_file[part.file].append(part)
    # Some exports give all images of a series one UID: these have different positions.
    alike: dict[str, list[list[Slice]]] = defaultdict(list)
    for parts in by_file.values():
        alike[repr((parts[0].uid, _facts(parts[0], _PLACE)))].append(parts)
    kept: list[Slice] = []
    differing: list[Slice] = []
    copies: list[Path] = []
    for first, *others in alike.values():
        kept += first
        for other in others:
            if _same_image(first, other):
                copies.append(other[0].file.shown)
            else:
                kept += other
                differing.append(other[0])
    if not differing:
        return kept, copies, None
    names = ", ".join(part.shown for part in differing[:_ALL_NAMED])
    noun = "image is" if len(differing) == 1 else "images are"
    refusal = InputError(
        f"{len(differing)} {noun} there in two versions: one SOPInstanceUID, other pixels or "
        f"another header ({names})",
        path=differing[0].file.shown,
        remedy="Keep the right file of each, and remove the others.",
    )
    return kept, copies, refusal


def _same_image(one: list[Slice], other: list[Slice]) -> bool:
    """Whether two files hold the same image, as far as that matters to mrbridge."""
    try:
        if one[0].file.size == other[0].file.size and one[0].file.read() == other[0].file.read():
            return True
        if one[0].patient != other[0].patient:
            return False
        if [_facts(part, _MATTER) for part in one] != [_facts(part, _MATTER) for part in other]:
            return False
        shape = int(one[0].number("Rows") or 0), int(one[0].number("Columns") or 0)
        planes = zip(read_planes(one, shape), read_planes(other, shape), strict=True)
        return all(np.array_equal(mine[1], yours[1]) for mine, yours in planes)
    except InputError:
        return False


def _facts(part: Slice, keywords: tuple[str, ...]) -> list[Any]:
    return [part.numbers(keyword) or part.text(keyword) for keyword in keywords]
