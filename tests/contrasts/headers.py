"""DICOM series as scanners of the large vendors write them, and what they show."""

from __future__ import annotations

from typing import Any

from tests.contrasts.names import OTHER, UNKNOWN


def timed(
    sequence: str | list[str], echo: float, repetition: float, description: str = "", **more: Any
) -> dict[str, Any]:
    """Tags of a series; times in ms."""
    tags = {"ScanningSequence": sequence, "EchoTime": echo, "RepetitionTime": repetition}
    return tags | {"SeriesDescription": description} | more


MPRAGE = timed(["GR", "IR"], 2.98, 2300, "t1_mprage_sag", InversionTime=900)
SPIN_ECHO = timed("SE", 10, 550, "ax t1 se")
SPOILED = {"SequenceVariant": ["SP", "OSP"]}
PRIMARY = ["ORIGINAL", "PRIMARY"]

HEADERS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "Timing": (
        ("T1w", MPRAGE),
        ("T1w", timed(["GR", "IR"], 1.66, 2530, "MEMPRAGE RMS", SequenceVariant=["SP", "MP"])),
        ("T1w", timed("GR", 3.2, 8.2, "SAG 3D FSPGR BRAVO", FlipAngle=12, InversionTime=450)),
        ("T1w", timed("GR", 4.6, 25, "T1 FFE 3D", FlipAngle=30)),
        ("T1w", SPIN_ECHO),
        ("T1w", timed("SE", 12, 700, "T1 SPACE")),
        ("T1w", timed(["SE", "IR"], 11, 2000, "T1 TIR", InversionTime=860)),
        ("T1w", timed(["SE", "IR"], 24, 2600, "Sag T1 FLAIR", InversionTime=950)),
        ("T2w", timed("SE", 91, 11730, "AX FSE T2")),
        ("T2w", timed("SE", 408, 3200, "t2_space_sag")),
        ("T2w", timed("SE", 80, 3000, "sT2W/TSE")),
        ("PDw", timed("SE", 15, 3000, "pd+t2 tse")),
        ("FLAIR", timed(["SE", "IR"], 388, 5000, "t2_space_dark-fluid", InversionTime=1800)),
        ("FLAIR", timed("IR", 125, 11000, "sT2W/FLAIR", InversionTime=2800)),
        ("FLAIR", timed("SE", 125, 11000, "sT2W/FLAIR")),
        ("FLAIR", timed(["SE", "IR"], 120, 9000)),
        (UNKNOWN, timed("SE", 50, 1500, "something")),
    ),
    "Description, where the timing does not tell": (
        ("T1w", timed("GR", 3.4, 7.5, "T1W_3D_TFE", FlipAngle=8)),
        ("T1w", {"SeriesDescription": "Anat T1w"}),
        ("T2w", {"SeriesDescription": "T2 axial", "ProtocolName": "head"}),
        ("FLAIR", {"SeriesDescription": "ax T2 FLAIR"}),
        ("T2w", {"SeriesDescription": "series 3", "ProtocolName": "T2_TSE"}),
        ("T2w", {"AcquisitionContrast": "T2"}),
        ("FLAIR", {"AcquisitionContrast": "FLUID_ATTENUATED", "EchoPulseSequence": "SPIN"}),
        (UNKNOWN, {"SeriesDescription": "T1 and T2"}),
        (UNKNOWN, {}),
    ),
    "Contrast agents": (
        (OTHER, SPIN_ECHO | {"ContrastBolusAgent": "Gadovist"}),
        (OTHER, SPIN_ECHO | {"ContrastBolusAgent": "DOTAREM 0.5 mmol/ml"}),
        (OTHER, SPIN_ECHO | {"ContrastBolusAgent": "YES"}),
        (OTHER, SPIN_ECHO | {"SeriesDescription": "ax t1 post gd"}),
        (OTHER, SPIN_ECHO | {"SeriesDescription": "AX T1 +C"}),
        (OTHER, SPIN_ECHO | {"SeriesDescription": "T1 C+ FS"}),
        (OTHER, SPIN_ECHO | {"SeriesDescription": "SAG T1 POSTGAD"}),
        (OTHER, SPIN_ECHO | {"SeriesDescription": "t1_tse_tra_KM"}),
        (OTHER, SPIN_ECHO | {"SeriesDescription": "T1 nach KM"}),
        (OTHER, SPIN_ECHO | {"SeriesDescription": "AX T1 APRES GADO"}),
        (OTHER, SPIN_ECHO | {"SeriesDescription": "T1 TRA CON MDC"}),
        (OTHER, SPIN_ECHO | {"SeriesDescription": "T1 CON CONTRASTE"}),
        (OTHER, SPIN_ECHO | {"SeriesDescription": "AX T1 W/ CONTRAST"}),
        ("T1w", SPIN_ECHO | {"SeriesDescription": "AX T1 W/O CONTRAST"}),
        ("T1w", SPIN_ECHO | {"SeriesDescription": "AX T1 WO CONTRAST"}),
        (OTHER, SPIN_ECHO | {"SeriesDescription": "T1 C/C"}),
        (OTHER, SPIN_ECHO | {"SeriesDescription": "T1 TRA c/mdc"}),
        (OTHER, SPIN_ECHO | {"SeriesDescription": "T1 AX INJ"}),
        (OTHER, SPIN_ECHO | {"SeriesDescription": "T1 SUB"}),
        ("T1w", SPIN_ECHO | {"SeriesDescription": "T1 S/C"}),
        ("T1w", SPIN_ECHO | {"SeriesDescription": "T1 s/contraste"}),
        ("T1w", SPIN_ECHO | {"SeriesDescription": "T1 natif"}),
        ("T1w", SPIN_ECHO | {"SeriesDescription": "T1 PRE GAD"}),
        ("T1w", SPIN_ECHO | {"SeriesDescription": "T1 nativ"}),
        ("T1w", SPIN_ECHO | {"SeriesDescription": "T1 ohne KM"}),
        ("T1w", SPIN_ECHO | {"SeriesDescription": "T1 SANS INJECTION"}),
        ("T1w", SPIN_ECHO | {"SeriesDescription": "T1 SENZA MDC"}),
        ("T1w", SPIN_ECHO | {"ContrastBolusAgent": "NONE"}),
        ("T1w", SPIN_ECHO | {"ContrastBolusAgent": "No contrast"}),
        ("T1w", SPIN_ECHO | {"ContrastBolusAgent": "N/A"}),
        ("T1w", SPIN_ECHO | {"ContrastBolusAgent": "0"}),
        ("T1w", SPIN_ECHO | {"ContrastBolusAgent": "without contrast agent"}),
        ("T1w", SPIN_ECHO | {"ProtocolName": "BRAIN W/WO CONTRAST"}),
        (UNKNOWN, SPIN_ECHO | {"SeriesDescription": "T1 PRE", "ContrastBolusAgent": "Gadovist"}),
    ),
    "Timed like T1w": (
        (OTHER, timed("GR", 4.92, 488, "gre_field_mapping", FlipAngle=60, **SPOILED)),
        (OTHER, timed("GR", 4.92, 488, "head", FlipAngle=60, SequenceName="*fm2d2r", **SPOILED)),
        (OTHER, timed("GR", 3.45, 23, "COW MRA", FlipAngle=18, **SPOILED)),
        (OTHER, timed("GR", 3.4, 21, "TOF_3D_multi-slab", FlipAngle=18, AngioFlag="Y")),
        (OTHER, timed("GR", 7, 25, "head", FlipAngle=20, SequenceName="*fl3d1r", **SPOILED)),
        (OTHER, timed("GR", 3.4, 21, "head", FlipAngle=18, ScanOptions=["FC", "FS"], **SPOILED)),
        (OTHER, timed("GR", 2, 5.6, "AX FIESTA-C", FlipAngle=55, SequenceVariant=["SS", "SK"])),
        (OTHER, timed("GR", 2, 5.6, "AX 3D", FlipAngle=55, SequenceVariant=["SS", "SK"])),
        (OTHER, timed("GR", 2.5, 5, "3D head", FlipAngle=45, SequenceVariant="SK")),
        (OTHER, timed("GR", 2.5, 5.8, "t2_ci3d_iso", FlipAngle=70)),
        (OTHER, timed("GR", 2, 4.6, "TrueFISP cor", FlipAngle=60)),
        (OTHER, timed("GR", 4.9, 30, "gre_MT_on", FlipAngle=12, SequenceVariant=["MTC", "SP"])),
        (OTHER, timed("GR", 4.9, 30, "T1", FlipAngle=25, MagnetizationTransfer="ON_RESONANCE")),
        (OTHER, timed(["SE", "IR"], 25, 7500, "DIR 3D", InversionTime=450)),
        (OTHER, timed(["SE", "IR"], 25, 7500, "3D", InversionTime=450)),
        (OTHER, timed("GR", 2.3, 6, "B1 map", FlipAngle=15)),
        (OTHER, timed("GR", 1.5, 4, "BIAS_32CH", FlipAngle=15)),
        (OTHER, timed("GR", 1.1, 3, "ASSET calibration", FlipAngle=15)),
        (OTHER, timed("GR", 3, 7, "VFA 15 deg", FlipAngle=15)),
        (OTHER, timed("GR", 2, 5, "t1_vibe_dyn", FlipAngle=15, NumberOfTemporalPositions=20)),
        (OTHER, timed("GR", 2, 5, "t1", FlipAngle=15, NumberOfTemporalPositions=20)),
        (OTHER, timed("GR", 20, 650, "T2* hemo", FlipAngle=20)),
        (OTHER, timed("GR", 15, 620, "T2_GRE", FlipAngle=40)),
        (OTHER, timed("EP", 90, 5000, "ep2d_diff_b1000")),
        (OTHER, timed(["SE", "EP"], 100, 8000, "DTI")),
        (OTHER, timed(["SE", "IR"], 60, 4000, "STIR", InversionTime=160)),
        (OTHER, timed(["GR", "IR"], 2.98, 5000, "mp2rage_INV1", InversionTime=700)),
    ),
    "Phase, maps and localizers": (
        (OTHER, MPRAGE | {"ImageType": [*PRIMARY, "P", "ND"]}),
        (OTHER, MPRAGE | {"ImageType": [*PRIMARY, "PHASE MAP", "P", "FFE"]}),
        (OTHER, MPRAGE | {"ImageType": [*PRIMARY, "R_FFE", "R", "FFE"]}),
        (OTHER, MPRAGE | {"ImageType": [*PRIMARY, "IMAGINARY"]}),
        (OTHER, MPRAGE | {"ComplexImageComponent": "PHASE"}),
        (OTHER, MPRAGE | {"ComplexImageComponent": "REAL"}),
        (OTHER, MPRAGE | {"GE (0043,102F)": 1}),
        (OTHER, MPRAGE | {"Siemens (0021,1175)": ["P", "NORM"]}),
        ("T1w", MPRAGE | {"GE (0043,102F)": 0}),
        ("T1w", MPRAGE | {"Siemens (0021,1175)": ["M", "NORM"]}),
        ("T1w", MPRAGE | {"ImageType": [*PRIMARY, "M_FFE", "M", "FFE"],
                          "ComplexImageComponent": "REAL"}),
        (OTHER, MPRAGE | {"ImageType": [*PRIMARY, "M", "ND"], "ComplexImageComponent": "PHASE"}),
        ("T1w", MPRAGE | {"ComplexImageComponent": "MAGNITUDE"}),
        (OTHER, MPRAGE | {"SeriesDescription": "t1_mprage_sag_phase"}),
        (OTHER, MPRAGE | {"ImageType": ["DERIVED", "PRIMARY", "ADC"]}),
        (OTHER, MPRAGE | {"ImageType": ["DERIVED", "PRIMARY", "M", "T1 MAP"]}),
        (OTHER, MPRAGE | {"SeriesDescription": "T1 map"}),
        (OTHER, MPRAGE | {"ImageType": [*PRIMARY, "LOCALIZER"]}),
        (OTHER, timed("GR", 3, 8, "3-pl T2* FGRE S", FlipAngle=30)),
        (OTHER, timed("GR", 3, 8, "Survey", FlipAngle=30)),
        (OTHER, timed("GR", 3, 8, "AAHead_Scout", FlipAngle=30)),
    ),
}  # fmt: skip
"""The right answer and the tags that matter, by what decides."""
