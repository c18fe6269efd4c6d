"""What is known of one slice before its pixels are read, classic or enhanced alike.

An enhanced multi-frame file says once what holds for all frames and per frame what differs
(PS3.3, C.7.6.16). Both are brought into the tags of a classic header, so that all that follows
knows one kind of slice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder
from pydicom.tag import Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from mrbridge.errors import InputError
from mrbridge.io.contrast.dicom import GE_PART, SIEMENS_TYPE, Keyword
from mrbridge.io.dicom.files import DicomFile, PixelData, damaged, text_of

MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
LEGACY_MR = "1.2.840.10008.5.1.4.1.1.4.4"
"""SOP classes of MR images: classic, enhanced, converted legacy (PS3.4, B.5)."""

_ENHANCED = (ENHANCED_MR, LEGACY_MR)
_TOP: tuple[Keyword, ...] = (
    (0x0021, 0x0011),
    SIEMENS_TYPE,
    (0x0043, 0x0010),
    GE_PART,
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "StudyDate",
    "Modality",
    "Manufacturer",
    "ImageType",
    "SeriesNumber",
    "SeriesDescription",
    "ProtocolName",
    "InstanceNumber",
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "ImageComments",
    "DerivationDescription",
    "SyntheticData",
    "ScanningSequence",
    "SequenceVariant",
    "SequenceName",
    "PulseSequenceName",
    "EchoPulseSequence",
    "AcquisitionContrast",
    "EchoTime",
    "EchoNumbers",
    "RepetitionTime",
    "InversionTime",
    "FlipAngle",
    "AngioFlag",
    "ContrastBolusAgent",
    "ContrastBolusAgentSequence",
    "ComplexImageComponent",
    "ScanOptions",
    "MRAcquisitionType",
    "EchoPlanarPulseSequence",
    "MagnetizationTransfer",
    "NumberOfTemporalPositions",
    "Spoiling",
    "SteadyStatePulseSequence",
    "DiffusionBValue",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "SliceLocationVector",
    "FrameIncrementPointer",
    "CardiacNumberOfImages",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "DirectoryRecordSequence",
)
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
# Sequence of a functional group, its tag, and the classic tag of that meaning.
_PER_FRAME = (
    ("PlanePositionSequence", "ImagePositionPatient", "ImagePositionPatient"),
    ("PlaneOrientationSequence", "ImageOrientationPatient", "ImageOrientationPatient"),
    ("PixelMeasuresSequence", "PixelSpacing", "PixelSpacing"),
    ("PixelMeasuresSequence", "SliceThickness", "SliceThickness"),
    ("PixelMeasuresSequence", "SpacingBetweenSlices", "SpacingBetweenSlices"),
    ("PixelValueTransformationSequence", "RescaleSlope", "RescaleSlope"),
    ("PixelValueTransformationSequence", "RescaleIntercept", "RescaleIntercept"),
    ("MREchoSequence", "EffectiveEchoTime", "EchoTime"),
    ("MRTimingAndRelatedParametersSequence", "RepetitionTime", "RepetitionTime"),
    ("MRTimingAndRelatedParametersSequence", "FlipAngle", "FlipAngle"),
    ("MRModifierSequence", "InversionTimes", "InversionTime"),
    ("MRDiffusionSequence", "DiffusionBValue", "DiffusionBValue"),
    ("MRModifierSequence", "Spoiling", "Spoiling"),
    ("MRModifierSequence", "MagnetizationTransfer", "MagnetizationTransfer"),
    ("MRImageFrameTypeSequence", "FrameType", "ImageType"),
    ("MRImageFrameTypeSequence", "ComplexImageComponent", "ComplexImageComponent"),
    ("FrameContentSequence", "TemporalPositionIndex", "TemporalPositionIdentifier"),
    ("FrameContentSequence", "StackID", "StackID"),
)
_COMMAS = "its numbers have decimal commas, which are read as points"
_COUNTS_IN_TIME = ("NumberOfTemporalPositions", "CardiacNumberOfImages")
_IN_TIME = {"FrameTime", "FrameTimeVector", "TemporalPositionIdentifier", "TriggerTime", "EchoTime"}


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice: a file, or a frame of one.

    Attributes:
        file: its path.
        frame: which frame of a multi-frame file, from 0; None for a classic file.
        header: the tags named above, no more.
        fault: why its pixels cannot be read; None if nothing speaks against it.
        assumed: what its header leaves open and was taken for granted, in words.
    """

    file: DicomFile
    frame: int | None
    header: Dataset
    fault: InputError | None = None
    assumed: tuple[str, ...] = ()

    @property
    def uid(self) -> str:
        """The SOP instance that it is, or is part of."""
        return self.text("SOPInstanceUID")

    @property
    def shown(self) -> str:
        """How a message names it: by its number, never by its file.

        Messages are kept in manifests and reports, and files may be called after the patient, as
        some scanners export them.
        """
        if self.frame is not None:
            return f"frame {self.frame + 1}"
        number = self.number("InstanceNumber")
        return "an image without number" if number is None else f"image {number:.0f}"

    def text(self, keyword: Keyword) -> str:
        """A tag as one line, empty where it is absent."""
        return text_of(_value(self.header, keyword))

    def words(self, keyword: Keyword) -> tuple[str, ...]:
        """A tag of several values, in capitals."""
        value = _value(self.header, keyword)
        values = (
            () if value is None else ([value] if isinstance(value, str | int | float) else value)
        )
        return tuple(text_of(item).upper() for item in values)

    def numbers(self, keyword: Keyword) -> tuple[float, ...]:
        """A tag of numbers; empty where it is absent, or one of them is not a finite number."""
        value = _value(self.header, keyword)
        values = (
            ()
            if value in (None, "")
            else [value]
            if isinstance(value, str | int | float)
            else value
        )
        try:
            found = tuple(float(item) for item in values)
        except (TypeError, ValueError, OverflowError):
            return ()
        return found if all(math.isfinite(item) for item in found) else ()

    @property
    def patient(self) -> dict[str, str]:
        """Who it shows, as far as its header says so, however it is written."""
        texts = {}
        for keyword in ("PatientID", "PatientName", "PatientBirthDate"):
            letters = (letter for letter in self.text(keyword).casefold() if letter.isalnum())
            texts[keyword] = "".join(letters)
        return {keyword: value for keyword, value in texts.items() if value}

    def number(self, keyword: Keyword) -> float | None:
        """The first of a tag's numbers."""
        return next(iter(self.numbers(keyword)), None)


def slices_of(file: DicomFile) -> list[Slice]:
    """The slices of a DICOM file; an object without an image is one slice without rows, an index
    of files (DICOMDIR) none.

    Raises:
        InputError: it is damaged.
    """
    try:
        return _slices_of(file)
    except (InputError, MemoryError):
        raise
    except Exception:
        # Values are parsed when they are first looked at, and damage ends in any exception at all.
        raise damaged(file) from None


def plane_of(part: Slice) -> NDArray[np.float64] | None:
    """The plane's axes, (3, 3) in LPS: along a row, along a column, the normal; None if unknown."""
    cosines = np.array(part.numbers("ImageOrientationPatient"))
    if cosines.shape != (6,):
        return None
    row, column = cosines[:3], cosines[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if min(lengths) < 0.9 or max(lengths) > 1.1 or abs(row @ column) > 0.01:
        return None
    normal = np.cross(row, column)
    return np.stack([row, column, normal / np.linalg.norm(normal)])


def _slices_of(file: DicomFile) -> list[Slice]:
    header, pixels = file.header_and_pixels(_TOP)
    commas = _without_commas(header)
    one = Slice(file, None, header)
    if "DirectoryRecordSequence" in header:
        return []
    if not one.uid or not one.text("SOPClassUID") or not one.text("SeriesInstanceUID"):
        raise damaged(file, "does not say what it is (it lacks UIDs)")
    kind = one.text("SOPClassUID")
    if kind in (MR, *_ENHANCED) and not one.number("Rows"):
        raise damaged(file)
    assumed: tuple[str, ...] = (_COMMAS,) if commas else ()
    if not one.numbers("PixelSpacing") and len(one.numbers("ImagerPixelSpacing")) == 2:
        header.PixelSpacing = header.ImagerPixelSpacing
        assumed += ("its pixel spacing is read from ImagerPixelSpacing",)
    frames = _count(header, file)
    fault = _pixel_fault(one, header.file_meta.TransferSyntaxUID, pixels, max(frames, 1))
    if kind in _ENHANCED:
        parts = list(_frames(file, header, frames))
    elif kind == MR and frames > 1:
        parts = _classic_frames(one, frames)
    else:
        parts = [one]
    return [
        replace(
            part,
            fault=fault or _scale_fault(part) or part.fault,
            assumed=assumed + part.assumed,
        )
        for part in parts
    ]


def _scale_fault(part: Slice) -> InputError | None:
    """Why the intensities of a slice cannot be computed."""
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        if _is_filled(part.header, keyword) and len(part.numbers(keyword)) != 1:
            return damaged(part.file, f"its {keyword} is not a number")
    if part.number("RescaleSlope") == 0:
        return damaged(part.file, "its rescale slope is 0")
    return None


def _is_filled(header: Dataset, keyword: str) -> bool:
    """Whether a tag is there and not empty, with any value."""
    if keyword not in header:
        return False
    value = header.get_item(Tag(keyword)).value
    return bool(value.strip(b" \0") if isinstance(value, bytes) else value not in (None, ""))


def _without_commas(header: Dataset) -> bool:
    """Give decimal strings with a decimal comma the point of the standard (PS3.5, 6.2), in place;
    whether there were any."""
    found = False
    for tag in list(header.keys()):
        raw = header.get_item(tag)
        if not isinstance(raw, RawDataElement) or not raw.value or b"," not in raw.value:
            continue
        if (raw.VR or (dictionary_VR(tag) if dictionary_has_tag(tag) else "")) == "DS":
            header[tag] = raw._replace(value=raw.value.replace(b",", b"."))
            found = True
    return found


def _pixel_fault(
    one: Slice, syntax: UID, pixels: PixelData | None, frames: int
) -> InputError | None:
    """Why the pixels cannot be read, or are not those that the header promises."""
    file = one.file
    if not _can_decode(syntax):
        return InputError(
            f"is compressed as {syntax.name}, which cannot be decoded here",
            path=file.shown,
            remedy="Export it uncompressed.",
        )
    photometric = one.text("PhotometricInterpretation").upper()
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or "ModalityLUTSequence" in one.header:
        kind = "a lookup table" if "ModalityLUTSequence" in one.header else photometric or "?"
        return InputError(
            f"stores its intensities in an unusual way ({kind})",
            path=file.shown,
            remedy="Export it as plain grey (MONOCHROME2).",
        )
    if one.number("SamplesPerPixel") not in (None, 1):
        return None
    allocated, stored = (one.number(keyword) or 0 for keyword in ("BitsAllocated", "BitsStored"))
    is_signed = one.number("PixelRepresentation")
    if not 0 < stored <= allocated or is_signed not in (0, 1) or not one.number("SamplesPerPixel"):
        return damaged(file, "does not say how its pixels are stored (bits, sign, samples)")
    if pixels is None:
        deflated = syntax == DeflatedExplicitVRLittleEndian
        return None if deflated else damaged(file, "ends before its pixels")
    if not pixels.whole:
        return damaged(file, "its pixels are damaged or truncated")
    if pixels.size is None:
        if not syntax.is_encapsulated:
            return damaged(file, "does not say how its pixels are compressed")
        held, promised, unit, spare = pixels.frames, frames, "frames", 0
    else:
        sizes = [one.number(keyword) or 0 for keyword in ("Rows", "Columns", "BitsAllocated")]
        held, promised = pixels.size, math.ceil(math.prod(sizes) * frames / 8)
        unit, spare = "bytes", promised % 2  # an even length is mandatory (PS3.5, 7.1.1)
    if held is None or promised <= held <= promised + spare:
        return None
    return damaged(file, f"its pixel data hold {held} {unit}; its header promises {promised}")


def _can_decode(syntax: UID) -> bool:
    try:
        return get_decoder(syntax).is_available
    except NotImplementedError:
        return False


def _classic_frames(one: Slice, count: int) -> list[Slice]:
    """The frames of a classic MR image that holds several, as some exports make them.

    The standard allows one frame (PS3.3, A.4). Where functional groups describe the frames, these
    count; if none do, they follow the normal, as in GDCM and dcm2niix. Frames that may
    be points in time are left with one position, and a fault.
    """
    if "PerFrameFunctionalGroupsSequence" in one.file.header(_GROUPS):
        return list(_frames(one.file, one.header, count))
    steps, source = _frame_steps(one, count)
    plane, origin = plane_of(one), one.numbers("ImagePositionPatient")
    fault: InputError | None = None
    assumed: tuple[str, ...] = ()
    if steps is None:
        fault = InputError(
            f"holds {count} frames and does not give the position of each ({source})",
            remedy="Export it as an enhanced MR image, or as one file a slice.",
        )
    else:
        assumed = (f"the positions of its {count} frames are computed from {source}",)
    parts = []
    for index in range(count):
        flat = Dataset()
        flat.update(one.header)
        _set(flat, "InstanceNumber", index + 1)
        if steps is not None and plane is not None and len(origin) == 3:
            place = [
                value + steps[index] * part for value, part in zip(origin, plane[2], strict=True)
            ]
            _set(
                flat,
                "ImagePositionPatient",
                [format_number_as_ds(float(value)) for value in place],
            )
        parts.append(Slice(one.file, index, flat, fault, assumed))
    return parts


def _frame_steps(one: Slice, count: int) -> tuple[list[float] | None, str]:
    """mm along the normal from the first frame to each, None where it is not known; and from
    where, or why not."""
    places = one.numbers("SliceLocationVector")
    if len(places) == count and len(set(places)) == count:
        return [place - places[0] for place in places], "SliceLocationVector"
    pointers = one.header.get("FrameIncrementPointer")
    pointers = pointers if isinstance(pointers, Iterable) else [pointers]
    names = {keyword_for_tag(tag) for tag in pointers if tag is not None}
    several = max(
        one.number(k) or 0 for k in ("NumberOfTemporalPositions", "CardiacNumberOfImages")
    )
    is_3d = one.text("MRAcquisitionType").upper() == "3D"
    if several > 1 or (names & _IN_TIME and not is_3d):
        return None, "they may be points in time"
    spacing = one.number("SpacingBetweenSlices")
    if spacing:
        basis = f"SpacingBetweenSlices ({abs(spacing):g} mm)"
        return [spacing * index for index in range(count)], basis
    thickness = one.number("SliceThickness")
    if thickness and thickness > 0 and is_3d:
        basis = f"SliceThickness ({thickness:g} mm)"
        return [thickness * index for index in range(count)], basis
    return None, "SpacingBetweenSlices is missing"


def _frames(file: DicomFile, header: Dataset, count: int) -> Iterator[Slice]:
    groups = file.header(_GROUPS)
    shared = (groups.get(_GROUPS[0]) or [Dataset()])[0]
    per_frame = groups.get(_GROUPS[1]) or []
    if count != len(per_frame) or not count:
        raise damaged(file, f"promises {count} frames and describes {len(per_frame)}")
    commas = [
        _without_commas(item)
        for group in (shared, *per_frame)
        for sequence in {sequence for sequence, _, _ in _PER_FRAME}
        for item in group.get(sequence) or ()
    ]
    assumed = (_COMMAS,) if any(commas) else ()
    for index, group in enumerate(per_frame):
        flat = Dataset()
        flat.update(header)
        _set(flat, "InstanceNumber", index + 1)
        for sequence, keyword, classic in _PER_FRAME:
            value = _in_group(group, sequence, keyword)
            if value is None:
                value = _in_group(shared, sequence, keyword)
            if value is not None:
                _set(flat, classic, value)
        yield Slice(file, index, flat, assumed=assumed)


def _set(header: Dataset, keyword: str, value: Any) -> None:
    """Set a tag by an element of its own: datasets share those that `update` copies."""
    header.pop(keyword, None)
    setattr(header, keyword, value)


def _in_group(group: Dataset, sequence: str, keyword: str) -> Any:
    items = group.get(sequence)
    return items[0].get(keyword) if items else None


def _count(header: Dataset, file: DicomFile) -> int:
    try:
        return int(header.get("NumberOfFrames") or 0)
    except (TypeError, ValueError):
        raise damaged(file, "has an invalid number of frames") from None


def _value(header: Dataset, keyword: Keyword) -> Any:
    try:
        if isinstance(keyword, str):
            return header.get(keyword)
        element = header.get(keyword)
        value = None if element is None else element.value
        if isinstance(value, bytes):  # a private tag whose type is not written down
            short = len(value) == 2 and keyword == GE_PART
            return int.from_bytes(value, "little") if short else value.decode("ascii").split("\\")
        return value
    except MemoryError:
        raise
    except Exception:  # a value that pydicom cannot parse is a value that is not there
        return None
