"""One slice of a DICOM series before its pixels are read, from a classic or an enhanced file.

An enhanced file holds one group of tags for all its frames and one for each (functional groups,
PS3.3, C.7.6.16). `slices_of` copies both into the tags of a classic header, so that the rest of the
package knows one kind of slice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder
from pydicom.tag import Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RLELossless
from pydicom.valuerep import format_number_as_ds

from mrbridge.errors import InputError
from mrbridge.io.acquisition import GE_PART, MR_CLASSES, SIEMENS_TYPE, Keyword, Tags
from mrbridge.io.dicom.files import DicomFile, PixelData, damaged
from mrbridge.reports import counted

MR, *_ENHANCED = MR_CLASSES

_TAGS: tuple[Keyword, ...] = (
    *((0x0021, 0x0011), SIEMENS_TYPE, (0x0043, 0x0010), GE_PART),  # private: creators and tags
    *"""
    SpecificCharacterSet SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID
    FrameOfReferenceUID PatientID PatientName PatientBirthDate StudyDate Modality Manufacturer
    BodyPartExamined
    ImageType SeriesNumber SeriesDescription ProtocolName InstanceNumber AcquisitionNumber
    ImagesInAcquisition
    TemporalPositionIdentifier ImageComments DerivationDescription SyntheticData

    ScanningSequence SequenceVariant SequenceName PulseSequenceName EchoPulseSequence
    AcquisitionContrast EchoTime EchoNumbers RepetitionTime InversionTime FlipAngle AngioFlag
    ContrastBolusAgent ContrastBolusAgentSequence ComplexImageComponent ScanOptions
    MRAcquisitionType EchoPlanarPulseSequence MagnetizationTransfer NumberOfTemporalPositions
    Spoiling SteadyStatePulseSequence DiffusionBValue

    ImagePositionPatient ImageOrientationPatient PixelSpacing ImagerPixelSpacing SliceThickness
    SpacingBetweenSlices SliceLocationVector FrameIncrementPointer CardiacNumberOfImages

    Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored
    HighBit PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit RescaleSlope
    RescaleIntercept ModalityLUTSequence DirectoryRecordSequence
    """.split(),  # noqa: SIM905
)
_SHARED, _PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
# The tags of functional groups by their sequences, and their names in a classic header, if others.
_GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "MREchoSequence": ("EffectiveEchoTime",),
    "MRTimingAndRelatedParametersSequence": ("RepetitionTime", "FlipAngle"),
    "MRModifierSequence": ("InversionTimes", "Spoiling", "MagnetizationTransfer"),
    "MRDiffusionSequence": ("DiffusionBValue",),
    "MRImageFrameTypeSequence": ("FrameType", "ComplexImageComponent"),
    "FrameContentSequence": ("TemporalPositionIndex", "StackID", "FrameAcquisitionNumber"),
}
_CLASSIC_NAMES = {
    "EffectiveEchoTime": "EchoTime",
    "InversionTimes": "InversionTime",
    "FrameType": "ImageType",
    "TemporalPositionIndex": "TemporalPositionIdentifier",
    "FrameAcquisitionNumber": "AcquisitionNumber",
}
_TIME_TAGS = {
    *("FrameTime", "FrameTimeVector", "TemporalPositionIdentifier", "TriggerTime", "EchoTime")
}
_COMMAS = "its numbers have decimal commas, which are read as points"


@dataclass(frozen=True, eq=False)
class Slice(Tags):
    """One slice: a file, or a frame of one.

    Attributes:
        header: the tags listed above, no more.
        frame: which frame of a multi-frame file, from 0; None for a classic file.
        fault: why its pixels cannot be read; None if they probably can.
        assumed: what its header leaves open and was assumed.
    """

    header: Dataset
    file: DicomFile
    frame: int | None = None
    fault: InputError | None = None
    assumed: tuple[str, ...] = ()

    @property
    def uid(self) -> str:
        """The SOP instance that it is, or is part of."""
        return self.text("SOPInstanceUID")

    @property
    def shown(self) -> str:
        """How messages name it: by its number, never by its file, which may be named after the
        patient. Messages are kept in manifests and reports."""
        if self.frame is not None:
            return f"frame {self.frame + 1}"
        number = self.number("InstanceNumber")
        return "an image without number" if number is None else f"image {number:.0f}"

    @property
    def patient(self) -> dict[str, str]:
        """Identifier, name and birth date as far as they are known, without case and spaces."""
        keywords = ("PatientID", "PatientName", "PatientBirthDate")
        texts = {one: "".join(filter(str.isalnum, self.text(one).casefold())) for one in keywords}
        return {keyword: text for keyword, text in texts.items() if text}


def slices_of(file: DicomFile) -> list[Slice]:
    """The slices of a DICOM file; an object without an image is one slice without rows, an index
    of files (DICOMDIR) none."""
    with file.guarded():  # values are parsed at first access
        header, pixels = file.header_and_pixels(_TAGS)
        commas = _replace_commas(header)
        one = Slice(header, file)
        if "DirectoryRecordSequence" in header:
            return []
        kind = one.text("SOPClassUID")
        if not (one.uid and kind and one.text("SeriesInstanceUID")):
            raise damaged(file, "does not state what it is (it lacks UIDs)")
        if kind in MR_CLASSES and not one.number("Rows"):
            raise damaged(file)
        assumed: tuple[str, ...] = (_COMMAS,) if commas else ()
        if not one.numbers("PixelSpacing") and len(one.numbers("ImagerPixelSpacing")) == 2:
            header.PixelSpacing = header.ImagerPixelSpacing
            one = Slice(header, file)
            assumed += ("its pixel spacing is read from ImagerPixelSpacing",)
        try:
            count = int(header.get("NumberOfFrames") or 0)
        except (TypeError, ValueError):
            raise damaged(file, "has an invalid number of frames") from None
        # The standard allows one frame in a classic MR image (PS3.3, A.4); some exports have more.
        if kind in _ENHANCED or (kind == MR and count > 1):
            groups = file.header((_SHARED, _PER_FRAME))
            described = kind in _ENHANCED or _PER_FRAME in groups
            parts = _described_frames(one, groups, count) if described else _bare_frames(one, count)
        else:
            parts = [one]
        fault = _encoding_fault(one) or _pixel_fault(one, pixels, max(count, 1))
        return [
            replace(
                part,
                fault=fault or _scale_fault(part) or part.fault,
                assumed=assumed + part.assumed,
            )
            for part in parts
        ]


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


def _replace_commas(header: Dataset) -> bool:
    """Write decimal strings with a decimal point (PS3.5, 6.2), in place; whether there were
    commas."""
    found = False
    for tag in list(header.keys()):
        raw = header.get_item(tag)
        if not isinstance(raw, RawDataElement) or not raw.value or b"," not in raw.value:
            continue
        if (raw.VR or (dictionary_VR(tag) if dictionary_has_tag(tag) else "")) == "DS":
            header[tag] = raw._replace(value=raw.value.replace(b",", b"."))
            found = True
    return found


# Frames of a multi-frame file


def _described_frames(one: Slice, groups: Dataset, count: int) -> list[Slice]:
    """The frames of a file whose functional groups describe each."""
    shared = (groups.get(_SHARED) or [Dataset()])[0]
    per_frame = groups.get(_PER_FRAME) or []
    if count != len(per_frame) or not count:
        raise damaged(
            one.file, f"promises {counted(count, 'frame')} and describes {len(per_frame)}"
        )
    commas = [
        _replace_commas(item)
        for group in (shared, *per_frame)
        for sequence in _GROUPS
        for item in group.get(sequence) or ()
    ]
    assumed = (_COMMAS,) if any(commas) else ()
    common = _classic_values(shared)
    return [
        _frame(one, index, common | _classic_values(own), assumed=assumed)
        for index, own in enumerate(per_frame)
    ]


def _classic_values(group: Dataset) -> dict[str, Any]:
    """The values in a functional group by their classic tags."""
    values: dict[str, Any] = {}
    for sequence, keywords in _GROUPS.items():
        item = (group.get(sequence) or [Dataset()])[0]
        found = {_CLASSIC_NAMES.get(keyword, keyword): item.get(keyword) for keyword in keywords}
        values |= {keyword: value for keyword, value in found.items() if value is not None}
    return values


def _bare_frames(one: Slice, count: int) -> list[Slice]:
    """The frames of a file that describes none of them: they follow the normal, as in GDCM and
    dcm2niix. Frames that may be points in time keep one position, and have a fault."""
    distances, source = _frame_distances(one, count)
    if distances is None:
        fault = InputError(
            f"holds {count} frames and does not give the position of each ({source})",
            remedy="Export it as an enhanced MR image, or as one file per slice.",
        )
        return [_frame(one, index, {}, fault=fault) for index in range(count)]
    assumed = (f"the positions of its {count} frames are computed from {source}",)
    plane, origin = plane_of(one), one.numbers("ImagePositionPatient")
    frames = []
    for index, distance in enumerate(distances):
        values: dict[str, Any] = {}
        if plane is not None and len(origin) == 3:
            position = origin + distance * plane[2]
            values["ImagePositionPatient"] = [format_number_as_ds(float(mm)) for mm in position]
        frames.append(_frame(one, index, values, assumed=assumed))
    return frames


def _frame_distances(one: Slice, count: int) -> tuple[list[float] | None, str]:
    """The distance of each frame from the first along the normal in mm and its source; or None and
    why it is unknown."""
    locations = one.numbers("SliceLocationVector")
    if len(locations) == count and len(set(locations)) == count:
        return [location - locations[0] for location in locations], "SliceLocationVector"
    pointers = one.header.get("FrameIncrementPointer")
    pointers = pointers if isinstance(pointers, Iterable) else [pointers]
    names = {keyword_for_tag(tag) for tag in pointers if tag is not None}
    times = max(one.number(k) or 0 for k in ("NumberOfTemporalPositions", "CardiacNumberOfImages"))
    is_3d = one.text("MRAcquisitionType").upper() == "3D"
    if times > 1 or (names & _TIME_TAGS and not is_3d):
        return None, "they may be points in time"
    step, source = one.number("SpacingBetweenSlices"), "SpacingBetweenSlices"
    if not step and is_3d:
        step, source = max(one.number("SliceThickness") or 0, 0), "SliceThickness"
    if not step:
        return None, "SpacingBetweenSlices is missing"
    return [step * index for index in range(count)], f"{source} ({abs(step):g} mm)"


def _frame(
    one: Slice,
    index: int,
    values: dict[str, Any],
    *,
    fault: InputError | None = None,
    assumed: tuple[str, ...] = (),
) -> Slice:
    """A frame as a slice: the header of its file with other values."""
    header = Dataset()
    header.update(one.header)
    for keyword, value in {"InstanceNumber": index + 1, **values}.items():
        header.pop(keyword, None)  # `update` shares elements: the frame gets one of its own
        setattr(header, keyword, value)
    return Slice(header, one.file, index, fault, assumed)


# Faults, which are found before pixels are decoded


def _encoding_fault(one: Slice) -> InputError | None:
    """Why pixels of this encoding cannot be read."""
    syntax: UID = one.header.file_meta.TransferSyntaxUID
    if not _can_decode(syntax):
        return InputError(
            f"is compressed as {syntax.name}, which cannot be decoded here",
            path=one.file.shown,
            remedy="Export it uncompressed.",
        )
    photometric = one.text("PhotometricInterpretation").upper()
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or "ModalityLUTSequence" in one.header:
        kind = "a lookup table" if "ModalityLUTSequence" in one.header else photometric or "?"
        return InputError(
            f"stores its intensities in an unusual way ({kind})",
            path=one.file.shown,
            remedy="Export it as plain greyscale (MONOCHROME2).",
        )
    return None


def _can_decode(syntax: UID) -> bool:
    try:
        return get_decoder(syntax).is_available
    except NotImplementedError:
        return False


def _pixel_fault(one: Slice, pixels: PixelData | None, frames: int) -> InputError | None:
    """Why the pixels are not those that the header promises."""
    file, syntax = one.file, one.header.file_meta.TransferSyntaxUID
    if one.number("SamplesPerPixel") not in (None, 1):
        return None
    allocated, stored = (one.number(keyword) or 0 for keyword in ("BitsAllocated", "BitsStored"))
    is_signed = one.number("PixelRepresentation")
    if not 0 < stored <= allocated or is_signed not in (0, 1) or not one.number("SamplesPerPixel"):
        return damaged(file, "does not state how its pixels are stored (bits, sign, samples)")
    high = one.number("HighBit")
    # Older standards allowed other places. Compressed pixels state their bits themselves.
    packed = syntax.is_encapsulated and syntax != RLELossless
    if high is not None and high != stored - 1 and not packed:
        return InputError(
            f"its HighBit is {high:g} with {stored:g} BitsStored, not {stored - 1:g} (PS3.5, "
            "8.1.1): which bits hold the intensities is not clear",
            path=file.shown,
            remedy="Export it again, or correct the header.",
        )
    if pixels is None:
        deflated = syntax == DeflatedExplicitVRLittleEndian
        return None if deflated else damaged(file, "ends before its pixels")
    if not pixels.whole:
        return damaged(file, "its pixels are damaged or truncated")
    if pixels.size is None:
        if not syntax.is_encapsulated:
            return damaged(file, "does not state how its pixels are compressed")
        size, promised, unit, spare = pixels.frames, frames, "frames", 0
    else:
        sides = (one.number("Rows") or 0) * (one.number("Columns") or 0)
        size, promised = pixels.size, math.ceil(sides * allocated * frames / 8)
        unit, spare = "bytes", promised % 2  # an even length is mandatory (PS3.5, 7.1.1)
    if size is None or promised <= size <= promised + spare:
        return None
    return damaged(file, f"its pixel data hold {size} {unit}; its header promises {promised}")


def _scale_fault(part: Slice) -> InputError | None:
    """Why the intensities of a slice cannot be computed."""
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        if _is_filled(part.header, keyword) and len(part.numbers(keyword)) != 1:
            return damaged(part.file, f"its {keyword} is not a number")
    if part.number("RescaleSlope") == 0:
        return damaged(part.file, "its rescale slope is 0")
    return None


def _is_filled(header: Dataset, keyword: str) -> bool:
    """Whether a tag is present and not empty, with any value."""
    if keyword not in header:
        return False
    value = header.get_item(Tag(keyword)).value
    return bool(value.strip(b" \0") if isinstance(value, bytes) else value not in (None, ""))
