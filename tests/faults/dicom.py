"""Faults of DICOM studies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.uid import UID, generate_uid
from tests import studies
from tests.data.golden_bundle import scan
from tests.faults.scans import put, stored
from tests.faults.table import Outcome, Workshop, fault, law

from mrbridge.volume import Volume


def study(**tags: Any) -> list[Path]:
    """A series of six slices in the folder `study`."""
    volume = Volume(np.tile(scan().voxels.astype("u2"), (1, 1, 2)), studies.oblique())
    return studies.write_series(Path("study"), volume, **tags)


def change(path: Path, **tags: Any) -> None:
    """Change the header of one file."""
    image = dcmread(path)
    for keyword, value in tags.items():
        setattr(image, keyword, value)
    image.save_as(path)


def derived(workshop: Workshop, out: str = "out") -> None:
    """The result is marked, of the same patient, and no name is anywhere else."""
    made = [path for path in Path(out).iterdir() if path.suffix != ".json"]
    assert made
    for path in made:
        one = dcmread(path)
        assert one.SyntheticData == "YES"
        assert one.PatientName == studies.NAME
        assert not [element for element in one if element.tag.is_private]
    name = studies.NAME.split("^")[0]
    for path in Path(out).glob("*.json"):
        assert name not in path.read_text()


@fault("dicom")
def missing_slice(workshop: Workshop) -> Outcome:
    """A slice is missing"""
    study()[3].unlink()
    return workshop.refuses("study", out="out")


@fault("dicom")
def filled_slice(workshop: Workshop) -> Outcome:
    """The same with `--allow-gaps`"""
    study()[3].unlink()
    outcome = workshop.translate("study", "--allow-gaps", out="out")
    derived(workshop)
    return outcome


@fault("dicom")
def duplicate_slice(workshop: Workshop) -> Outcome:
    """Two versions of a slice"""
    one = dcmread(study()[3])
    one.PixelData = bytes(len(one.PixelData))
    one.save_as("study/other")
    return workshop.refuses("study", out="out")


@fault("dicom")
def copied_slice(workshop: Workshop) -> Outcome:
    """A slice and a copy of it"""
    paths = study()
    Path("study/copy").write_bytes(paths[3].read_bytes())
    outcome = workshop.translate("study", out="out")
    derived(workshop)
    return outcome


@fault("dicom")
def excess_pixels(workshop: Workshop) -> Outcome:
    """A slice with more pixel data than its header promises"""
    path = study()[3]
    one = dcmread(path)
    one.PixelData = one.PixelData * 2
    one.save_as(path)
    return workshop.refuses("study", out="out")


@fault("dicom")
def high_bit(workshop: Workshop) -> Outcome:
    """Pixels of 12 bits at the upper end of 16 (HighBit 15)"""
    study(HighBit=15)
    return workshop.refuses("study", out="out")


@fault("dicom")
def more_bits(workshop: Workshop) -> Outcome:
    """Pixels with bits beyond BitsStored"""
    study(BitsStored=8, HighBit=7)
    return workshop.translate("study", out="out")


@fault("dicom")
def other_scale(workshop: Workshop) -> Outcome:
    """A slice with another rescale slope than the others"""
    change(study(RescaleSlope="1", RescaleIntercept="0")[3], RescaleSlope="3")
    return workshop.translate("study", out="out")


@fault("dicom")
def agent_in_a_slice(workshop: Workshop) -> Outcome:
    """A slice that names a contrast agent"""
    change(study()[3], ContrastBolusAgent="Gadovist")
    return workshop.refuses("study", out="out")


@fault("dicom")
def another_body_part(workshop: Workshop) -> Outcome:
    """A header that says that it shows a knee"""
    study(BodyPartExamined="KNEE")
    return workshop.translate("study", out="out")


@fault("dicom")
def half_a_step_apart(workshop: Workshop) -> Outcome:
    """Two acquisitions in one series, the slices of one between those of the other"""
    one = Volume(scan().voxels.astype("u2"), studies.oblique())
    affine = one.affine.copy()
    affine[:3, 3] += affine[:3, 2] / 2
    made = []
    for number, volume in enumerate((one, Volume(one.voxels, affine)), start=1):
        made += studies.datasets(volume, AcquisitionNumber=number, **studies.T1W)
    for dataset in made:
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(dataset.ImagePositionPatient)])
    studies.save(Path("study"), made)
    return workshop.refuses("study", out="out")


@fault("dicom")
def several_acquisitions(workshop: Workshop) -> Outcome:
    """Two acquisitions in one series, next to one another"""
    for path in study()[:3]:
        one = dcmread(path)
        one.RepetitionTime = 500
        one.save_as(path)
    return workshop.refuses("study", out="out")


@fault("dicom")
def contradiction(workshop: Workshop) -> Outcome:
    """A description that contradicts the timing"""
    study(SeriesDescription="t2 tse")
    return workshop.translate("study", out="out")


@fault("dicom")
def several_series(workshop: Workshop) -> Outcome:
    """Two series of the contrast"""
    study(number=3)
    study(number=7)
    return workshop.refuses("study", out="out")


@fault("dicom")
def one_series(workshop: Workshop) -> Outcome:
    """The same with `--series 7`"""
    study(number=3)
    study(number=7)
    outcome = workshop.translate("study", "--series", 7, out="out")
    derived(workshop)
    return outcome


@fault("dicom")
def truncated_slice(workshop: Workshop) -> Outcome:
    """A truncated slice"""
    path = study()[3]
    path.write_bytes(path.read_bytes()[:-100])
    return workshop.refuses("study", out="out")


@fault("dicom")
def unknown_compression(workshop: Workshop) -> Outcome:
    """Pixels compressed as a video"""
    for path in study():
        one = dcmread(path)
        one.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.102")  # MPEG-4
        one.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
        one["PixelData"].is_undefined_length = True
        one.save_as(path)
    return workshop.refuses("study", out="out")


@fault("dicom")
def localiser(workshop: Workshop) -> Outcome:
    """Only a localizer"""
    study(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    return workshop.refuses("study", out="out")


@fault("dicom")
def no_place(workshop: Workshop) -> Outcome:
    """A slice without position and orientation"""
    path = study()[3]
    one = dcmread(path)
    del one.ImagePositionPatient
    one.save_as(path)
    return workshop.refuses("study", out="out")


@fault("dicom")
def synthetic_series(workshop: Workshop) -> Outcome:
    """A series that mrbridge wrote"""
    study()
    assert workshop.translate("study", out="out").code == 0
    return workshop.refuses("out", out="again")


@fault("dicom")
def nifti_to_dicom(workshop: Workshop) -> Outcome:
    """A NIfTI file to be written as DICOM"""
    return workshop.refuses(put(*stored()), "--as", "dicom", out="out")


_READ, _FAULTS = "tests/io/test_dicom_read.py", "tests/io/test_dicom_faults.py"
law("dicom", "compressed files are decoded", f"{_READ}::test_compressed_syntaxes")
law("dicom", "files without preamble are read", f"{_READ}::test_some_of_a_series")
law("dicom", "padding is background", f"{_READ}::test_it_is_background")
law("dicom", "MONOCHROME1 is inverted", f"{_READ}::test_it_is_inverted_back")
law("dicom", "frames of a classic image are read, or refused", f"{_READ}::TestClassicFrames")
law("dicom", "directions and positions that differ by rounding are one volume", f"{_FAULTS}::TestTolerance")  # fmt: skip  # noqa: E501
law("dicom", "enhanced multi-frame files are read", f"{_READ}::test_enhanced")
law("dicom", "one series is chosen by its contrast", f"{_FAULTS}::test_one_is_chosen_by_contrast")
law("dicom", "maps, mosaics, phases, screen saves are distinguished", f"{_FAULTS}::test_each_is_recognised_and_refused")  # fmt: skip  # noqa: E501
law("dicom", "private tags are neither needed nor kept", f"{_FAULTS}::test_private_tags_are_not_needed")  # fmt: skip  # noqa: E501
law("dicom", "a bomb in a zip", f"{_FAULTS}::test_a_bomb")
law("dicom", "a kill at any instant leaves a whole series", "tests/io/test_dicom_write.py::test_a_kill_at_any_instant_leaves_a_whole_series")  # fmt: skip  # noqa: E501
law("names", "nor of a DICOM series, but in the derived one itself", "tests/inference/test_translate_dicom.py::test_no_patient_is_named")  # fmt: skip  # noqa: E501
