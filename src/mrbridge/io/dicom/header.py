"""What is known of one slice before its pixels are read, classic or enhanced alike.

An enhanced multi-frame file says once what holds for all frames and per frame what differs
(PS3.3, C.7.6.16). Both are brought into the tags of a classic header, so that all that follows
knows one kind of slice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset

from mrbridge.errors import InputError
from mrbridge.io.contrast.dicom import GE_PART, SIEMENS_TYPE, Keyword
from mrbridge.io.dicom.files import DicomFile, damaged, text_of

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
    "SliceThickness",
    "SpacingBetweenSlices",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
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
)


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice: a file, or a frame of one.

    Attributes:
        file: where it lies.
        frame: which frame of a multi-frame file, from 0; None for a classic file.
        header: the tags named above, no more.
    """

    file: DicomFile
    frame: int | None
    header: Dataset

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
        """A tag of numbers; empty where it is absent, or one of them is no finite number."""
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


def _slices_of(file: DicomFile) -> list[Slice]:
    header = file.header(_TOP)
    one = Slice(file, None, header)
    if "DirectoryRecordSequence" in header:
        return []
    if not one.uid or not one.text("SOPClassUID") or not one.text("SeriesInstanceUID"):
        raise damaged(file, "does not say what it is (it lacks UIDs)")
    if one.text("SOPClassUID") in (MR, *_ENHANCED) and not one.number("Rows"):
        raise damaged(file)
    return list(_frames(file, header)) if one.text("SOPClassUID") in _ENHANCED else [one]


def _frames(file: DicomFile, header: Dataset) -> Iterator[Slice]:
    groups = file.header(_GROUPS)
    shared = (groups.get(_GROUPS[0]) or [Dataset()])[0]
    per_frame = groups.get(_GROUPS[1]) or []
    count = _count(header, file)
    if count != len(per_frame) or not count:
        raise damaged(file, f"promises {count} frames and describes {len(per_frame)}")
    for index, group in enumerate(per_frame):
        flat = Dataset()
        flat.update(header)
        flat.InstanceNumber = index + 1
        for sequence, keyword, classic in _PER_FRAME:
            value = _in_group(group, sequence, keyword)
            if value is None:
                value = _in_group(shared, sequence, keyword)
            if value is not None:
                setattr(flat, classic, value)
        yield Slice(file, index, flat)


def _in_group(group: Dataset, sequence: str, keyword: str) -> Any:
    items = group.get(sequence)
    return items[0].get(keyword) if items else None


def _count(header: Dataset, file: DicomFile) -> int:
    try:
        return int(header.get("NumberOfFrames") or 0)
    except (TypeError, ValueError):
        raise damaged(file, "has a number of frames that is none") from None


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
