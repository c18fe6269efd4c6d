"""A derived series: a synthetic volume as DICOM files with the geometry of their source.

A derived image names its source and its maker, and says that it is synthetic, in every tag that a
viewer or an archive may show; rare tags do not survive de-identification. Tags copied from
the source are listed one by one, so that neither private tags nor the timing of another sequence
are copied. UIDs follow from the source, the model and the voxels: the same translation
gives the same bytes. An uncertainty map becomes a Parametric Map, which highdicom writes.

Source: PS3.3, A.4 (MR Image IOD), A.75 (Parametric Map IOD), C.7.6.1, C.8.3.1, C.12.1; PS3.16, CID
7005, 7202, 7203.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR, VR, format_number_as_ds

from mrbridge.errors import OutputError
from mrbridge.io.atomic import atomic_folder, write_json
from mrbridge.io.dicom.files import calm
from mrbridge.io.dicom.header import MR, Slice
from mrbridge.io.dicom.read import read_series
from mrbridge.io.dicom.series import Series, find_series
from mrbridge.io.ownership import is_our_json
from mrbridge.io.remote import fetch
from mrbridge.reports import counted
from mrbridge.text import parse_json
from mrbridge.volume import Volume, corner_distance

REPORT, PARAMETRIC_MAP = "report.json", "uncertainty.dcm"

_KEPT = """
    SpecificCharacterSet TimezoneOffsetFromUTC

    PatientName PatientID IssuerOfPatientID IssuerOfPatientIDQualifiersSequence PatientBirthDate
    PatientBirthTime PatientSex OtherPatientIDsSequence OtherPatientNames EthnicGroup
    PatientComments PatientSpeciesDescription PatientIdentityRemoved DeidentificationMethod
    DeidentificationMethodCodeSequence

    StudyInstanceUID StudyDate StudyTime ReferringPhysicianName StudyID AccessionNumber
    IssuerOfAccessionNumberSequence StudyDescription PatientAge PatientSize PatientWeight
    AdditionalPatientHistory

    BodyPartExamined Laterality PatientPosition FrameOfReferenceUID PositionReferenceIndicator
    AcquisitionDate AcquisitionTime LossyImageCompression LossyImageCompressionRatio
    LossyImageCompressionMethod RecognizableVisualFeatures
""".split()  # noqa: SIM905
"""Tags of the patient, the study and the series that the source has, too."""

_EMPTY = """
    PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName
    StudyID AccessionNumber PatientPosition PositionReferenceIndicator SliceThickness

    ScanOptions MRAcquisitionType RepetitionTime EchoTime EchoTrainLength
""".split()  # noqa: SIM905
"""Tags that must be present, and are empty if unknown; the last five (type 2 in the MR image
module) are no longer true of this image."""

_SCANNER = (
    *("Manufacturer", "InstitutionName", "StationName", "ManufacturerModelName"),
    *("DeviceSerialNumber", "SoftwareVersions"),
)
_TOP = 65535
_ALIGNED_MM = 1e-3
_HEAD = 1 << 16  # bytes within which a file that mrbridge wrote names its series


@dataclass(frozen=True)
class Origin:
    """How a derived series was made.

    Attributes:
        software, version: the program that made it.
        model: SHA-256 of the weights.
        input_check: whether the model knows this kind of scan: `usual`, `unusual` or `refused`.
    """

    contrast: str
    software: str
    version: str
    model: str
    input_check: str = "usual"


@calm()
def write_series(
    volume: Volume,
    folder: Path,
    origin: Origin,
    report: dict[str, Any],
    uncertainty: Volume | None = None,
) -> list[Path]:
    """Write a derived MR series: one classic single-frame file per slice, also of enhanced sources.

    The folder appears whole or not at all, is read back before that, and replaces only an earlier
    one that mrbridge wrote.

    Args:
        volume: a translation of what `read_series` gave, on its grid.
        folder: new, empty, or an earlier output.
        report: what goes into `report.json` next to the files.
        uncertainty: the uncertainty map of the volume, which becomes a Parametric Map in the same
            folder.
    """
    series = volume.header
    if not isinstance(series, Series):
        raise OutputError(
            "only what was DICOM can become DICOM: it takes the patient, the study and the frame "
            "of reference from its source",
            path=folder,
            remedy="Write NIfTI, or translate the DICOM series.",
        )
    must_be_ours(folder)
    stored, slope, intercept = quantise(volume.voxels)
    common = _common(series, volume, origin, stored, slope, intercept)
    written = []
    with atomic_folder(folder, flushed=True) as temporary:
        images, places = [], _order(series)
        for number, place in enumerate(places, start=1):
            one = _instance(common, series, origin, stored[:, :, place], place, number)
            name = f"{number:04}.dcm"
            one.save_as(temporary / name, enforce_file_format=True)
            written.append(folder / name)
            images.append(one)
        _check(temporary, stored, slope, intercept, volume)
        if uncertainty is not None:
            frames = uncertainty.voxels.transpose(2, 1, 0)[places]  # (slices, rows, columns)
            _write_map(frames, images, temporary, origin)
            written.append(folder / PARAMETRIC_MAP)
        write_json(temporary / REPORT, report)
    return written


def _write_map(
    frames: NDArray[np.float32], images: Sequence[Dataset], folder: Path, origin: Origin
) -> None:
    """Write an uncertainty map, in the order and the unit of the images of the derived series, as
    one file of 32-bit floats."""
    try:
        from highdicom.pm import ParametricMap, RealWorldValueMapping
    except ImportError as error:
        raise OutputError(
            "an uncertainty map in DICOM needs highdicom",
            path=folder,
            remedy='Install "mrbridge[dicom]", or leave out --uncertainty.',
        ) from error
    top, first = float(max(frames.max(), np.finfo(np.float32).tiny)), images[0]
    mapping = RealWorldValueMapping(
        lut_label="uncertainty",
        lut_explanation="half width of the 90 % interval",
        unit=Code("[arb'U]", "UCUM", "arbitrary unit"),
        value_range=(0.0, top),
        slope=1.0,
        intercept=0.0,
    )
    try:
        made = ParametricMap(
            images,
            np.ascontiguousarray(frames, np.float32),
            _uid(first.SeriesInstanceUID, "map"),
            int(first.SeriesNumber) + 1,
            _uid(first.SeriesInstanceUID, "file"),
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
    made.SeriesDescription = f"SYNTHETIC uncertainty ({origin.software}), not for diagnosis"
    made.SyntheticData = "YES"
    made.save_as(folder / PARAMETRIC_MAP, enforce_file_format=True)


def must_be_ours(folder: Path, source: str | None = None) -> None:
    """Refuse to replace a folder, unless it is a derived series that mrbridge wrote; if a source is
    named, only one that was made of it, as its report says."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    fetch(folder)
    try:
        report = parse_json((folder / REPORT).read_text(encoding="utf-8"))
        ours = is_our_json(report) and report.get("SyntheticData") is True and "series" in report
        ours = ours and all(_is_ours(entry) for entry in folder.iterdir())
    except (OSError, ValueError, TypeError):
        ours = False
    if not ours:
        raise OutputError("holds other files", path=folder, remedy="Name a new folder.")
    if source is not None and report.get("Sources") != [source]:
        raise OutputError(
            "holds the synthesis of another series",
            path=folder,
            remedy="Name a new folder, or replace it with --overwrite.",
        )


def _is_ours(file: Path) -> bool:
    """Whether a file is part of a derived series."""
    if file.name == REPORT:
        return True
    if not re.fullmatch(r"\d+\.dcm", file.name) and file.name != PARAMETRIC_MAP:
        return False
    with open(file, "rb") as stream:
        head = stream.read(_HEAD)
    return b"SYNTHETIC" in head and b"(mrbridge), not for diagnosis" in head


def quantise(voxels: NDArray[Any]) -> tuple[NDArray[np.uint16], float, float]:
    """Quantise voxels, which must be finite, to unsigned 16-bit numbers with slope and intercept.

    Integers that fit are kept as they are. Zero comes back as zero, exactly so where nothing is
    negative.
    """
    values = np.asarray(voxels, np.float64)
    if not np.isfinite(values).all():
        raise OutputError("its voxels are not finite", remedy="Check the model.")
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if low >= 0 and high <= _TOP and np.array_equal(values, np.rint(values)):
        return values.astype(np.uint16), 1.0, 0.0
    # One step is kept free at each end, since the slope is rounded to what a DS can hold.
    slope = float(format_number_as_ds((high - low) / (_TOP - 2)))
    below = int(np.ceil(-low / slope))
    intercept = float(format_number_as_ds(-below * slope))
    stored = np.clip(np.rint(values / slope) + below, 0, _TOP).astype(np.uint16)
    return stored, slope, intercept


def _order(series: Series) -> list[int]:
    """Positions in the order of the instance numbers of the source."""
    order = series.stack.order
    places, ends = list(range(len(order))), (order[0], order[-1])
    first, last = (series.slices[n].number("InstanceNumber") for n in ends if n is not None)
    return places[::-1] if first is not None and last is not None and first > last else places


def _common(
    series: Series,
    volume: Volume,
    origin: Origin,
    stored: NDArray[np.uint16],
    slope: float,
    intercept: float,
) -> Dataset:
    """The tags that are equal in all files of the series."""
    first = series.slices[0]
    source = first.file.header((*_KEPT, *_SCANNER, "ContributingEquipmentSequence"))
    derived = _copied(source, _KEPT)
    content = [series.uid, origin.model, origin.contrast, origin.version, str(slope)]
    digest = hashlib.sha256(json.dumps(content).encode() + stored.tobytes()).hexdigest()
    derived.SeriesInstanceUID = _uid(digest, "series")
    if not derived.get("FrameOfReferenceUID"):
        derived.FrameOfReferenceUID = _uid(digest, "frame of reference")
    derived.SOPClassUID, derived.Modality = MR, "MR"
    # Free in the study: 5001 for the first one derived from series 5.
    numbers = itertools.count((series.number or 9) * 1000 + 1)
    derived.SeriesNumber = next(n for n in numbers if n not in series.taken)
    made_by = f"({origin.software}), not for diagnosis"
    derived.SeriesDescription = f"SYNTHETIC {origin.contrast} {made_by}"
    derived.Manufacturer = derived.ManufacturerModelName = origin.software
    derived.SoftwareVersions = origin.version
    derived.ContributingEquipmentSequence = _equipment(source, origin)
    derived.ImageType = ["DERIVED", "SECONDARY", "OTHER", "SYNTHETIC"]
    derived.SyntheticData, derived.BurnedInAnnotation = "YES", "NO"
    derived.DerivationCodeSequence = _code("113062", "Pixel by pixel calculation")
    derived.SourceImageSequence = _sources(series)
    # Type 1: of the defined terms, only "research mode" is true of an image that is not acquired.
    derived.ScanningSequence, derived.SequenceVariant = "RM", "NONE"
    derived.RescaleSlope, derived.RescaleIntercept = _decimal(slope), _decimal(intercept)
    derived.RescaleType = "US"
    derived.WindowCenter, derived.WindowWidth = _window(volume.voxels)
    derived.setdefault("LossyImageCompression", "00")
    if len(series.stack.order) > 1:
        derived.SpacingBetweenSlices = _decimal(series.stack.spacing[2])
    derived.remove_private_tags()
    return derived


def _instance(
    common: Dataset,
    series: Series,
    origin: Origin,
    pixels: NDArray[np.uint16],
    place: int,
    number: int,
) -> Dataset:
    """The file of one position; pixels (columns, rows)."""
    one = Dataset()
    one.update(common)
    one.SOPInstanceUID = _uid(common.SeriesInstanceUID, str(place))
    one.InstanceNumber = number
    model = series.stack
    index = model.order[place]
    nearest = series.slices[next(n for n in model.order if n is not None)]
    part = nearest if index is None else series.slices[index]
    place_of_source = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    one.update(_copied(part.header, (*place_of_source, "SliceThickness")))
    if index is None:
        ras = model.affine @ [0, 0, place, 1]
        one.ImagePositionPatient = [_decimal(value) for value in ras[:3] * [-1, -1, 1]]
    one.SliceLocation = _decimal(model.positions[place])
    words = _words(series, origin, filled=index is None)
    one.ImageComments = one.DerivationDescription = words
    for keyword in _EMPTY:
        if keyword not in one:
            setattr(one, keyword, None)
    frame = np.ascontiguousarray(pixels.T, "<u2")
    one.set_pixel_data(frame, "MONOCHROME2", 16, generate_instance_uid=False)
    return one


def _words(series: Series, origin: Origin, *, filled: bool) -> str:
    """ASCII, under 1024 characters (the length of an ST)."""
    lines = [
        f"SYNTHETIC {origin.contrast}: computed by {origin.software} {origin.version} from another "
        f"MR series, not acquired. For research, not for diagnosis. Model {origin.model[:16]}."
    ]
    if origin.input_check != "usual":
        lines.append(f"Input check of the source: {origin.input_check} for this model.")
    if series.gaps:
        of = f"of {len(series.stack.order)} slices"
        count = counted(series.gaps, f"{of} was", f"{of} were")
        lines.append(f"{count} missing in the source and filled by interpolation.")
    if filled:
        lines.append("THIS SLICE is one of them: nothing was acquired here.")
    if len(series.echoes) > 1:
        lines.append(f"{len(series.echoes)} echoes were combined (root mean square).")
    return " ".join(lines)


def _sources(series: Series) -> list[Dataset]:
    """References to all source images: every slice depends on the intensities of all."""
    by_file: dict[str, list[Slice]] = {}
    for part in itertools.chain(*series.echoes):
        by_file.setdefault(part.uid, []).append(part)
    items = []
    for uid, parts in by_file.items():
        item = Dataset()
        item.ReferencedSOPClassUID = parts[0].text("SOPClassUID")
        item.ReferencedSOPInstanceUID = uid
        frames = sorted(part.frame + 1 for part in parts if part.frame is not None)
        if frames:
            item.ReferencedFrameNumber = frames
        item.SpatialLocationsPreserved = "YES"
        purpose = "Source image for image processing operation"
        item.PurposeOfReferenceCodeSequence = _code("121322", purpose)
        items.append(item)
    return items


def _equipment(source: Dataset, origin: Origin) -> list[Dataset]:
    """Earlier contributing equipment, the scanner, and this program."""
    scanner = _copied(source, [keyword for keyword in _SCANNER if source.get(keyword)])
    scanner.setdefault("Manufacturer", "unknown")
    scanner.PurposeOfReferenceCodeSequence = _code("109101", "Acquisition Equipment")
    ours = Dataset()
    ours.Manufacturer = ours.ManufacturerModelName = origin.software
    ours.SoftwareVersions = origin.version
    ours.ContributionDescription = f"Synthesis of {origin.contrast}, model {origin.model[:16]}"
    ours.PurposeOfReferenceCodeSequence = _code("109102", "Processing Equipment")
    before = source.get("ContributingEquipmentSequence") or []
    return [*map(copy.deepcopy, before), scanner, ours]


def _copied(source: Dataset, keywords: Iterable[str]) -> Dataset:
    """The tags of these keywords that a dataset has. Texts keep their bytes, which may not be those
    of its character set, and would not always be encoded as they were (ISO_IR 13)."""
    found = Dataset()
    for keyword in keywords:
        if keyword not in source:
            continue
        raw, kind = source.get_item(keyword), dictionary_VR(keyword)
        is_text = kind in CUSTOMIZABLE_CHARSET_VR - {VR.PN}  # pydicom keeps the bytes of names
        if is_text and isinstance(raw, RawDataElement) and not (raw.value or b"").isascii():
            found[keyword] = DataElement(raw.tag, kind, raw.value, already_converted=True)
        else:
            found[keyword] = copy.deepcopy(source[keyword])
    return found


def _code(value: str, meaning: str) -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return [item]


def _window(voxels: NDArray[Any]) -> tuple[str, str]:
    """Window centre and width from robust percentiles of the foreground."""
    shown = voxels[voxels > 0]
    low, high = np.percentile(shown if shown.size else voxels, [1, 99.5])
    return _decimal((low + high) / 2), _decimal(max(high - low, 1.0))


def _decimal(value: float) -> str:
    return format_number_as_ds(float(value))


def _uid(*parts: str) -> str:
    """A UID that is computed from the parts (PS3.5, B.2: 2.25 and a UUID)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, ' '.join(parts)).int}"


def _check(
    folder: Path, stored: NDArray[np.uint16], slope: float, intercept: float, volume: Volume
) -> None:
    """Read the files back and compare."""
    found = find_series(folder).series
    same = len(found) == 1 and found[0].is_image
    if same:
        read = read_series(found[0])
        expected = stored if (slope, intercept) == (1, 0) else stored * slope + intercept
        assert read.affine is not None
        assert volume.affine is not None
        apart = corner_distance(read.affine, volume.affine, stored.shape)
        same = apart < _ALIGNED_MM and np.array_equal(
            read.voxels, expected.astype(read.voxels.dtype)
        )
    if not same:
        raise OutputError(
            "was not read back as it was written", path=folder, remedy="Check the disk."
        )
