"""Which contrast a series has, by its timing first and its name last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from mrbridge.io.dicom.contrast import guess_contrast
from mrbridge.io.dicom.files import DicomFile
from mrbridge.io.dicom.header import Slice


def guess(**tags: Any) -> tuple[str | None, str]:
    header = Dataset()
    for keyword, value in tags.items():
        setattr(header, keyword, value)
    return guess_contrast(Slice(DicomFile(Path("IM1"), 0), None, header))


def timed(
    sequence: str | list[str], echo: float, repetition: float, description: str = "", **more: Any
) -> dict[str, Any]:
    told = {"ScanningSequence": sequence, "EchoTime": echo, "RepetitionTime": repetition}
    return told | {"SeriesDescription": description} | more


# As scanners of the large vendors write them.
CASES = [
    ("T1w", timed(["GR", "IR"], 2.98, 2300, "t1_mprage_sag", InversionTime=900)),
    ("T1w", timed(["GR", "IR"], 1.66, 2530, "MEMPRAGE RMS", SequenceVariant=["SP", "MP"])),
    ("T1w", timed("GR", 3.2, 8.2, "SAG 3D FSPGR BRAVO", FlipAngle=12, InversionTime=450)),
    ("T1w", timed("GR", 4.6, 25, "T1 FFE 3D", FlipAngle=30)),
    ("T1w", timed("GR", 3.4, 7.5, "T1W_3D_TFE", FlipAngle=8)),  # only by its name
    ("T1w", timed("SE", 10, 550, "ax t1 se")),
    ("T1w", timed("SE", 12, 700, "T1 SPACE")),
    ("T1w", timed(["SE", "IR"], 11, 2000, "T1 TIR", InversionTime=860)),
    ("T2w", timed("SE", 91, 11730, "AX FSE T2")),
    ("T2w", timed("SE", 408, 3200, "t2_space_sag")),
    ("T2w", timed("SE", 80, 3000, "sT2W/TSE")),
    ("PDw", timed("SE", 15, 3000, "pd+t2 tse")),
    ("FLAIR", timed(["SE", "IR"], 388, 5000, "t2_space_dark-fluid", InversionTime=1800)),
    ("FLAIR", timed("IR", 125, 11000, "sT2W/FLAIR", InversionTime=2800)),
    ("FLAIR", timed("SE", 125, 11000, "sT2W/FLAIR")),  # its inversion time is lost
    ("FLAIR", timed(["SE", "IR"], 120, 9000)),
    ("T1w", {"SeriesDescription": "Anat T1w"}),
    ("T2w", {"SeriesDescription": "T2 axial", "ProtocolName": "head"}),
    ("FLAIR", {"SeriesDescription": "ax T2 FLAIR"}),
    ("T2w", {"SeriesDescription": "series 3", "ProtocolName": "T2_TSE"}),
    ("T2w", {"AcquisitionContrast": "T2"}),
    ("FLAIR", {"AcquisitionContrast": "FLUID_ATTENUATED", "EchoPulseSequence": "SPIN"}),
    (None, timed("GR", 20, 650, "T2* hemo", FlipAngle=20)),
    (None, timed("EP", 90, 5000, "ep2d_diff_b1000")),
    (None, timed(["SE", "EP"], 100, 8000, "DTI")),
    (None, timed(["SE", "IR"], 60, 4000, "STIR", InversionTime=160)),
    (None, timed("SE", 10, 550, "ax t1 se", ContrastBolusAgent="Gadovist")),
    (None, timed("SE", 10, 550, "ax t1 post gd")),
    (None, timed("GR", 3.4, 21, "TOF_3D_multi-slab", FlipAngle=18, AngioFlag="Y")),
    (None, timed(["GR", "IR"], 2.98, 5000, "mp2rage_INV1", InversionTime=700)),
    (None, timed("SE", 50, 1500, "something")),
    (None, {"SeriesDescription": "T1 and T2"}),
    (None, {}),
]


@pytest.mark.parametrize(("contrast", "tags"), CASES)
def test_contrasts(contrast: str | None, tags: dict[str, Any]) -> None:
    found, reason = guess(**tags)
    assert found == contrast, reason
    assert reason


def test_timing_is_believed_before_the_name() -> None:
    contrast, reason = guess(**timed("SE", 95, 6000, "T1 sagittal"))
    assert contrast == "T2w"
    assert "its description says T1w" in reason


def test_no_agent_is_none() -> None:
    assert guess(**timed("SE", 10, 550, ContrastBolusAgent="NONE"))[0] == "T1w"


@pytest.mark.parametrize("value", ["", None, 0, -1])
def test_times_that_are_none(value: float | str | None) -> None:
    tags = timed("SE", 95, 6000, "T2") | {"EchoTime": value}
    assert guess(**tags) == ("T2w", "by its description; its timing does not tell")
