"""Copies: files of a series that hold one image twice.

Exports hold files twice, in one folder or in a folder that was copied, sometimes stored in another
way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import numpy as np

from mrbridge.errors import InputError
from mrbridge.io.dicom.decode import read_planes
from mrbridge.io.dicom.header import Slice
from mrbridge.reports import counted

_ALL_NAMED = 5  # images named in one message
# Tags that must be equal in two files of one image, besides their pixels.
_PLACE = ("ImagePositionPatient", "ImageOrientationPatient")
_MATTER = (
    *_PLACE,
    *("StudyInstanceUID", "ImageType", "SeriesDescription", "PhotometricInterpretation"),
    *("PixelSpacing", "Rows", "Columns"),
    *("RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("EchoTime", "RepetitionTime", "InversionTime", "FlipAngle", "TemporalPositionIdentifier"),
)


def without_copies(slices: list[Slice]) -> tuple[list[Slice], list[Path], InputError | None]:
    """One of each image of a series, and the files that are copies of them.

    Returns:
        The slices that are kept; the copies; and why the series is refused, if two images with one
        SOPInstanceUID differ.
    """
    # Some exports give all images of a series one UID: these have different positions.
    alike: dict[str, list[list[Slice]]] = defaultdict(list)
    for parts in grouped(slices, lambda part: part.file):
        alike[repr((parts[0].uid, _tags(parts[0], _PLACE)))].append(parts)
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
    count = counted(len(differing), "image is", "images are")
    refusal = InputError(
        f"{count} present in two versions: one SOPInstanceUID, different pixels or headers "
        f"({names})",
        path=differing[0].file.shown,
        remedy="Keep the right file of each, and remove the others.",
    )
    return kept, copies, refusal


def _same_image(one: list[Slice], other: list[Slice]) -> bool:
    """Whether two files hold the same image, by the tags that mrbridge uses and the pixels."""
    try:
        if one[0].file.size == other[0].file.size and one[0].file.read() == other[0].file.read():
            return True
        if one[0].patient != other[0].patient:
            return False
        if [_tags(part, _MATTER) for part in one] != [_tags(part, _MATTER) for part in other]:
            return False
        shape = int(one[0].number("Rows") or 0), int(one[0].number("Columns") or 0)
        planes = zip(read_planes(one, shape), read_planes(other, shape), strict=True)
        return all(np.array_equal(mine[1], yours[1]) for mine, yours in planes)
    except InputError:
        return False


def grouped(slices: list[Slice], key: Callable[[Slice], Hashable]) -> list[list[Slice]]:
    """Slices by a property, in the order in which its values come."""
    groups: dict[Hashable, list[Slice]] = defaultdict(list)
    for part in slices:
        groups[key(part)].append(part)
    return list(groups.values())


def _tags(part: Slice, keywords: tuple[str, ...]) -> list[Any]:
    return [part.numbers(keyword) or part.text(keyword) for keyword in keywords]
