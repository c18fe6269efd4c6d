"""DICOM studies for tests: series of known voxels and geometry, written slice by slice.

Nothing of `mrbridge.io.dicom` is used here, so that what is read can be compared with what was
written.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from scipy.spatial.transform import Rotation

from mrbridge.volume import Volume

MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
NAME = "Secretive^Patient"
STUDY = generate_uid(entropy_srcs=["study"])
FRAME_OF_REFERENCE = generate_uid(entropy_srcs=["frame"])

T1W: dict[str, Any] = {
    "ScanningSequence": ["GR", "IR"],
    "SequenceVariant": ["SP", "MP"],
    "EchoTime": 2.9,
    "RepetitionTime": 2300,
    "InversionTime": 900,
    "SeriesDescription": "t1 mprage",
}
T2W: dict[str, Any] = {
    "ScanningSequence": "SE",
    "SequenceVariant": "SK",
    "EchoTime": 95,
    "RepetitionTime": 6000,
    "SeriesDescription": "t2 tse",
}


def oblique(angles: Sequence[float] = (17, -23, 41)) -> np.ndarray:
    """An affine (4, 4) to RAS+ mm: anisotropic, turned by odd angles."""
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    affine[:3, :3] = turn @ np.diag([-0.7, -0.9, 4.5])
    affine[:3, 3] = [83.25, 112.5, -31.125]
    return affine


def marked(shape: tuple[int, int, int] = (20, 24, 7), seed: int = 0) -> Volume:
    """Noise with a bright marker off all axes of symmetry; voxels uint16."""
    voxels = np.random.default_rng(seed).integers(0, 900, shape).astype(np.uint16)
    voxels[2:4, 5:6, 1:2] = 4000
    return Volume(voxels, oblique())


def datasets(
    volume: Volume, number: int = 5, slope: float | None = None, **tags: Any
) -> list[Dataset]:
    """Classic MR images of a volume, one a slice; instance numbers run against the position."""
    lps = np.diag([-1, -1, 1, 1]) @ volume.affine
    steps = np.linalg.norm(lps[:3, :3], axis=0)
    series = generate_uid(entropy_srcs=["series", str(number)])
    made = []
    for k in range(volume.voxels.shape[2]):
        one = Dataset()
        one.SOPClassUID, one.SOPInstanceUID = MR, generate_uid(entropy_srcs=[series, str(k)])
        one.StudyInstanceUID, one.SeriesInstanceUID = STUDY, series
        one.FrameOfReferenceUID = FRAME_OF_REFERENCE
        one.SpecificCharacterSet = "ISO_IR 100"
        one.PatientName, one.PatientID, one.PatientSex = NAME, "4711", "O"
        one.PatientBirthDate, one.StudyDate, one.StudyTime = "19700101", "20200102", "101112"
        one.ReferringPhysicianName, one.StudyID, one.AccessionNumber = "", "1", ""
        one.Modality, one.Manufacturer, one.SeriesNumber = "MR", "Phantom", number
        one.PatientPosition, one.PositionReferenceIndicator = "HFS", ""
        one.ImageType = ["ORIGINAL", "PRIMARY", "M"]
        one.InstanceNumber = volume.voxels.shape[2] - k
        one.ScanOptions, one.MRAcquisitionType, one.EchoTrainLength = "", "2D", 1
        one.ImageOrientationPatient = [
            f"{value:.12f}" for value in [*(lps[:3, 0] / steps[0]), *(lps[:3, 1] / steps[1])]
        ]
        one.ImagePositionPatient = [f"{value:.9f}" for value in (lps @ [0, 0, k, 1])[:3]]
        one.PixelSpacing = [f"{steps[1]:.9f}", f"{steps[0]:.9f}"]
        one.SliceThickness = f"{steps[2]:.9f}"
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.Columns, one.Rows = volume.voxels.shape[:2]
        one.BitsAllocated, one.BitsStored, one.HighBit = 16, 12, 11
        one.PixelRepresentation = 0
        one.PixelData = np.ascontiguousarray(volume.voxels[:, :, k].T, "<u2").tobytes()
        one["PixelData"].VR = "OW"
        if slope is not None:
            one.RescaleSlope, one.RescaleIntercept, one.RescaleType = slope, -10, "US"
        block = one.private_block(0x0019, "PHANTOM", create=True)
        block.add_new(0x10, "LO", NAME)
        for keyword, value in tags.items():
            setattr(one, keyword, value)
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made.append(one)
    return made


def save(folder: Path, made: Sequence[Dataset], seed: int = 1, prefix: str = "IM") -> list[Path]:
    """Write datasets in random order under names that tell nothing and have no suffix.

    Returns:
        The path of each, in the order of `made`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(seed).permutation(len(made))
    paths = [folder / f"{prefix}{number:04}" for number in numbers]
    for path, one in zip(paths, made, strict=True):
        one.save_as(path, enforce_file_format=True)
    return paths


def save_bare(path: Path, one: Dataset, *, implicit: bool = True, little: bool = True) -> Path:
    """Write a dataset as old exports do: without preamble and file meta information."""
    made = copy.deepcopy(one)
    del made.file_meta
    if not little:
        made.PixelData = np.frombuffer(made.PixelData, "<u2").astype(">u2").tobytes()
        made.remove_private_tags()
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
    return path


def in_frames(made: Sequence[Dataset], **tags: Any) -> Dataset:
    """Classic MR images as one classic object of several frames, in their order."""
    one = copy.deepcopy(made[0])
    one.NumberOfFrames = len(made)
    one.PixelData = b"".join(part.PixelData for part in made)
    one["PixelData"].VR = "OW"
    for keyword, value in tags.items():
        setattr(one, keyword, value)
    return one


def write_series(folder: Path, volume: Volume | None = None, **how: Any) -> list[Path]:
    """A series in a folder: by default the marked phantom as a T1w scan, number 5."""
    number = how.get("number", 5)
    made = datasets(volume or marked(), **(how if "ScanningSequence" in how else T1W | how))
    return save(folder, made, seed=number, prefix=f"IM{number}")


def enhanced(volume: Volume, number: int = 5, slope: float | None = None, **tags: Any) -> Dataset:
    """The same as one enhanced multi-frame image, frames in random order."""
    parts = datasets(volume, number, slope)
    order = np.random.default_rng(3).permutation(len(parts))
    one = Dataset()
    one.update(parts[0])
    for keyword in (
        *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
        *("RescaleSlope", "RescaleIntercept", "RescaleType", "InstanceNumber"),
    ):
        if keyword in one:
            delattr(one, keyword)
    one.remove_private_tags()
    one.SOPClassUID, one.InstanceNumber = ENHANCED_MR, 1
    one.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    one.NumberOfFrames = len(parts)
    one.DimensionOrganizationType = "3D"
    shared, frames = Dataset(), []
    shared.PlaneOrientationSequence = Items([Dataset()])
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = parts[0].ImageOrientationPatient
    shared.PixelMeasuresSequence = Items([Dataset()])
    shared.PixelMeasuresSequence[0].PixelSpacing = parts[0].PixelSpacing
    shared.PixelMeasuresSequence[0].SliceThickness = parts[0].SliceThickness
    timing, echo = Dataset(), Dataset()
    timing.RepetitionTime, timing.FlipAngle = tags.pop("RepetitionTime", 6000), 120
    echo.EffectiveEchoTime = float(tags.pop("EchoTime", 95))
    shared.MRTimingAndRelatedParametersSequence = Items([timing])
    shared.MREchoSequence = Items([echo])
    if slope is not None:
        scale = Dataset()
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = slope, -10, "US"
        shared.PixelValueTransformationSequence = Items([scale])
    for place in order:
        group, plane, content = Dataset(), Dataset(), Dataset()
        plane.ImagePositionPatient = parts[place].ImagePositionPatient
        content.StackID, content.InStackPositionNumber = "1", int(place) + 1
        content.DimensionIndexValues = [1, int(place) + 1]
        group.PlanePositionSequence = Items([plane])
        group.FrameContentSequence = Items([content])
        frames.append(group)
    one.SharedFunctionalGroupsSequence = Items([shared])
    one.PerFrameFunctionalGroupsSequence = Items(frames)
    one.PixelData = b"".join(parts[place].PixelData for place in order)
    one["PixelData"].VR = "OW"
    for keyword, value in tags.items():
        setattr(one, keyword, value)
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return one


def values_at(voxels: np.ndarray, affine: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Voxels at RAS+ positions (n, 3) in mm, which must lie on the grid to 0.001 mm."""
    index = (places - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    near = np.rint(index).astype(int)
    apart = np.linalg.norm((index - near) @ affine[:3, :3].T, axis=1)
    assert apart.max() < 1e-3, f"{apart.max()} mm off the grid"
    return voxels[tuple(near.T)]


def positions_of(volume: Volume) -> np.ndarray:
    """RAS+ mm of all voxels, (n, 3), the last axis of the array running fastest."""
    index = np.indices(volume.voxels.shape).reshape(3, -1).T
    return index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
