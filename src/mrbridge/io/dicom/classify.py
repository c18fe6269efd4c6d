"""Telling images of the anatomy from all else that a study holds.

Source: PS3.3, C.8.3.1.1.1 (image type of MR) and what vendors write there.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from mrbridge.errors import InputError
from mrbridge.io.dicom.geometry import is_localizer
from mrbridge.io.dicom.header import ENHANCED_MR, LEGACY_MR, MR, Slice, class_name

_MR = (MR, ENHANCED_MR, LEGACY_MR)
_SCREEN = {"SCREEN SAVE", "CSA REPORT", "REPORT", "SCREENSHOT"}
_ROI = re.compile(r"(?<![a-z])(roi|rois|region of interest)(?![a-z])", re.IGNORECASE)
_LOCALISER = re.compile(
    r"locali[sz]er|(?<![a-z])loc(?![a-z])|scout|survey|(?<![a-z])(3|three).?pl", re.IGNORECASE
)
_PHASE = {"P", "PHASE", "PHASE MAP", "R", "I", "REAL", "IMAGINARY"}
_MAPS = {
    *("ADC", "FA", "TRACEW", "TENSOR", "DIFFUSION", "EADC", "PERFUSION", "ASL", "RELCBF", "CBF"),
    *("CBV", "MTT", "TTP", "TTEST", "T1 MAP", "T2 MAP", "T2_STAR MAP", "R2 MAP", "R2_STAR MAP"),
    *("B0 MAP", "FIELD_MAP", "SWI", "MNIP", "MINIP", "MIP", "PROJECTION IMAGE", "SUBTRACTION"),
    *("SUB", "MODULUS SUBTRACT", "DENSITY MAP", "DIFFUSION MAP", "VELOCITY MAP", "FMRI"),
}


def classify(slices: list[Slice]) -> tuple[str, InputError | None]:
    """What a series is, and why it is no image of the anatomy, or None.

    Args:
        slices: all of it.

    Returns:
        `anatomical`, `synthetic`, or one of the kinds below with its refusal.
    """
    for kind, test in _TESTS:
        found = test(slices)
        if found:
            return kind, InputError(found, remedy="Choose another series.")
    first = slices[0]
    marks = (first.text(k).lower() for k in ("SeriesDescription", "ImageComments"))
    synthetic = first.text("SyntheticData").upper() == "YES" or any(
        mark.startswith("synthetic") for mark in marks
    )
    return ("synthetic" if synthetic else "anatomical"), None


def _no_image(slices: list[Slice]) -> str:
    first = slices[0]
    rows, columns = first.number("Rows"), first.number("Columns")
    if not rows or not columns or rows < 1 or columns < 1:
        return f"holds no image ({class_name(first)})"
    return ""


def _other_modality(slices: list[Slice]) -> str:
    first = slices[0]
    modality = first.text("Modality").upper()
    if first.text("SOPClassUID") not in _MR and modality != "MR":
        return f"is {modality or class_name(first)}, not MR"
    return ""


def _screen_save(slices: list[Slice]) -> str:
    for part in slices:
        if part.number("SamplesPerPixel") not in (None, 1):
            return "is in colour, a picture of a screen or a map"
        if part.text("PhotometricInterpretation").upper() == "PALETTE COLOR":
            return "is in colour, a picture of a screen or a map"
        if _SCREEN & set(part.words("ImageType")):
            return "is a picture of a screen"
        if part.text("SOPClassUID") not in _MR:
            return f"is no MR image but {class_name(part)}"
    return ""


def _roi(slices: list[Slice]) -> str:
    first = slices[0]
    drawn = "ROI" in first.words("ImageType") or _ROI.search(first.text("SeriesDescription"))
    return "is a region that somebody drew (ROI)" if drawn else ""


def _derived_map(slices: list[Slice]) -> str:
    types = slices[0].words("ImageType")
    named = [word for word in types if word in _MAPS]
    if not named:
        return ""
    return f"is a derived map ({', '.join(named[:3])})" + (
        ", stored as a mosaic" if "MOSAIC" in types else ""
    )


def _mosaic(slices: list[Slice]) -> str:
    found = any("MOSAIC" in part.words("ImageType") for part in slices)
    return "is a mosaic: all slices of a volume in one image" if found else ""


def _phase(slices: list[Slice]) -> str:
    types = slices[0].words("ImageType")
    found = _PHASE & set(types[2:])
    return f"holds {found.pop().lower()} images, not magnitude" if found else ""


def _localiser(slices: list[Slice]) -> str:
    first = slices[0]
    if "LOCALIZER" in first.words("ImageType") or _LOCALISER.search(
        first.text("SeriesDescription")
    ):
        return "is a localiser"
    return "is a localiser (its slices are not parallel)" if is_localizer(slices) else ""


_TESTS: tuple[tuple[str, Callable[[list[Slice]], str]], ...] = (
    ("no image", _no_image),
    ("other modality", _other_modality),
    ("screen save", _screen_save),
    ("ROI", _roi),
    ("derived map", _derived_map),
    ("mosaic", _mosaic),
    ("localiser", _localiser),
    ("phase", _phase),
)
