"""Subjects, sessions and splits from names."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from mrbridge.io.bids import find_scans
from mrbridge.io.bids_name import derivative_name, parse_name
from mrbridge.io.names import (
    guess_split,
    guess_subject,
    natural_key,
    series_name,
    tell_people_apart,
)


@pytest.mark.parametrize(
    ("path", "is_2d", "subject", "session"),
    [
        ("patient07/T1.nii.gz", False, "patient07", None),
        ("patient01/study1_T1W.nii.gz", False, "patient01", "study1"),
        ("patient01/visit2/T1.nii.gz", False, "patient01", "visit2"),
        ("patient01/patient01_T1.nii.gz", False, "patient01", None),
        ("patient01/anat/T1.nii.gz", False, "patient01", None),
        ("IXI-T1/IXI002-Guys-0828-T1.nii.gz", False, "IXI002-Guys-0828", None),
        ("IXI002-Guys-0828-T1.nii.gz", False, "IXI002-Guys-0828", None),
        ("T1w.nii.gz", False, None, None),
        ("sub-01_ses-2_T1w.nii.gz", False, "01", "2"),
        ("TrainT1/Image #10.png", True, None, None),
        ("train/T1/Image #10.png", True, None, None),
        ("T1/patient3/Image #10.png", True, "patient3", None),
        ("patient3/T1/Image #10.png", True, "patient3", None),
        ("patient3/T1/case_001_10.png", True, "patient3", None),
        ("T1/IXI012-HH-1211-T1_80.png", True, "IXI012-HH-1211", None),
        ("pngs/IXI012-HH-1211-T1_80.png", True, "IXI012-HH-1211", None),
        ("T1/patient3_slice_10.png", True, "patient3", None),
        ("T1/Patient 3 T1 (10).png", True, "patient3", None),
        ("sub-01_T1w.png", True, "01", None),
        ("sub-01_T1w_045.png", True, "01", None),
        ("T1/case_001_t1_045.png", True, "case001", None),
        ("T1/OAS1_0028_MR1_mpr-1_100.jpg", True, "OAS1_0028", None),
        ("T1/BraTS20_Training_001_t1_80.png", True, "BraTS20_Training_001", None),
        ("T1/TCGA_CS_4941_19960909_12.tif", True, "TCGA_CS_4941", None),
        ("T1/002_S_0413_T1_45.png", True, "002_S_0413", None),
        ("sub-01/T1.nii.gz", False, "sub-01", None),
        ("12345678/T1.nii.gz", False, "12345678", None),
        ("T1/slice_7.png", True, None, None),
        ("T1/IM0001.png", True, None, None),
        ("T1/0001.png", True, None, None),
        ("T1/t1 no 3.png", True, None, None),
        ("T1/subtraction_3.png", True, None, None),
    ],
)
def test_subjects(path: str, is_2d: bool, subject: str | None, session: str | None) -> None:
    assert guess_subject(Path(path), is_2d=is_2d) == (subject, session)


@pytest.mark.parametrize(
    ("subject", "paths"),
    [
        ("patient01", "patient01_visit1_T1.nii.gz patient01_visit2_T1.nii.gz"),
        ("patient01", "patient01_20190301_T1.nii.gz patient01_2020-03-01_T1.nii.gz"),
        ("patient01", "patient01/2019-03-01/T1.nii.gz patient01/2020-03-01/T1.nii.gz"),
        ("patient01", "patient01/1/T1.nii.gz patient01/2/T1.nii.gz"),
        ("patient01", "visit1/patient01/T1.nii.gz visit2/patient01/T1.nii.gz"),
        ("sub-01", "sub-01_ses-1/T1.nii.gz sub-01_ses-2/T1.nii.gz"),
        ("001", "001_visit1/T1.nii.gz 001_visit2/T1.nii.gz"),
        ("001", "001_baseline_T1.nii.gz 001_followup_T1.nii.gz"),
        ("001", "001_bl_T1.nii.gz 001_m12_T1.nii.gz"),
        ("OAS1_0001", "OAS1_0001_MR1_T1.nii.gz OAS1_0001_MR2_T1.nii.gz"),
        (
            "BraTS-GLI-00001",
            "BraTS-GLI-00001-000/BraTS-GLI-00001-000-t1n.nii.gz "
            "BraTS-GLI-00001-001/BraTS-GLI-00001-001-t1n.nii.gz",
        ),
        ("UCSF-PDGM-0429", "UCSF-PDGM-0429_T1.nii.gz UCSF-PDGM-0429_FU003d_T1.nii.gz"),
        (
            "002_S_0295",
            "002_S_0295/MP-RAGE/2006-04-18_08_20_30.0/I13721/a_T1.nii "
            "002_S_0295/MP-RAGE/2007-04-18_08_20_30.0/I13799/a_T1.nii",
        ),
        ("Patient-001", "Patient-001/week-000-1/T1.nii.gz Patient-001/week-044/T1.nii.gz"),
    ],
)
def test_visits_of_a_person_are_of_one_subject(subject: str, paths: str, tmp_path: Path) -> None:
    for path in paths.split():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scans = find_scans(tmp_path).scans
    assert [scan.subject for scan in scans] == [subject, subject]
    assert len({scan.session for scan in scans}) == 2


@pytest.mark.parametrize(
    ("subject", "paths"),
    [
        ("p01", "p01_T1_SAG_MPRAGE.nii.gz p01_T2_AX_TSE.nii.gz"),
        ("p01", "T1/p01_3D_T1_TFE.nii.gz T2/p01_T2_TSE_3mm.nii.gz"),
        ("patient01", "patient01/T1_MPRAGE.nii.gz patient01/T2_TSE.nii.gz"),
        ("patient01", "T1/patient01_mprage.nii.gz T2/patient01_tse.nii.gz"),
        ("BraTS-GLI-00001", "BraTS-GLI-00001-000-t1n.nii.gz BraTS-GLI-00001-000-t2w.nii.gz"),
        ("mr_001_abc", "mr_001_abc_T1.nii.gz mr_001_abc_T2.nii.gz"),
        ("scan_001", "scan_001_T1.nii.gz scan_001_T2.nii.gz"),
        ("HC012", "HC012_T1.nii.gz HC012_T2.nii.gz"),
    ],
)
def test_contrasts_of_a_visit_are_of_one_subject_and_session(subject: str, paths: str) -> None:
    one, other = (guess_subject(Path(path), is_2d=False) for path in paths.split())
    assert one == other
    assert one[0] == subject


@pytest.mark.parametrize(
    ("names", "people"),
    [
        ("a_12 a_13 b_12 b_13", "a a b b"),
        ("a_12 b_12 c_12", "a b c"),
        ("anna_3_T1 bert_3_T1", "anna bert"),
        ("001_45 001_46 002_45 002_46", "001 001 002 002"),
        ("AB12_045 AB13_050", "AB12 AB13"),
        ("NC07-z033 NC08-z034", "NC07 NC08"),
        ("p01_t1_050 p02_t1_051", "p01 p02"),
        ("s01_050 s01_051 s02_050 s02_051", "s01 s01 s02 s02"),
        ("a_12 a_13", ""),  # all alike: it may be the name of the dataset
        ("Image-1 Image-2", ""),
        ("45_0 46_0 47_0", ""),  # slices, of which each has a number 0
        ("slice_45_0 slice_45_1 slice_46_0 slice_46_1", ""),
        ("IM-0001-0012 IM-0001-0013", ""),
        ("axial_3 axial_4 coronal_3 coronal_4", ""),
        ("a3f9c2d1 b3f9c2d2 c3f9c2d1", ""),
        ("1.2.840.1.12 1.2.840.2.12", ""),
        ("train_1 train_2 test_1 test_2", ""),
    ],
)
def test_names_of_2d_images_distinguish_people(names: str, people: str) -> None:
    files = [f"{name}.png" for name in names.split()]
    assert tell_people_apart(files) == dict(zip(files, people.split(), strict=False))


def test_names_are_taken_apart_and_put_together() -> None:
    text = "sub-01_ses-2_acq-fast_run-1_T1w.nii.gz"
    name = parse_name(Path("any") / text)
    assert name is not None
    assert str(name) == text
    assert list(name.entities) == ["sub", "ses", "acq", "run"]
    for other in ("T1.nii.gz", "ses-1_sub-1_T1w.nii", "sub-01_T1w", "sub-01.nii", "sub_T1w.nii"):
        assert parse_name(other) is None, other


def test_a_derivative_keeps_its_entities_and_says_that_it_is_synthetic() -> None:
    name = parse_name("sub-01_ses-2_desc-preproc_T1w.nii.gz")
    assert name is not None
    assert derivative_name(name, "T2w") == "sub-01_ses-2_desc-synth_T2w.nii.gz"


def test_a_derivative_has_its_entities_in_the_order_of_the_standard() -> None:
    name = parse_name("sub-01_run-1_odd-x_part-mag_rec-n_acq-fast_space-T1w_T1w.nii")
    assert name is not None
    made = "sub-01_acq-fast_rec-n_run-1_part-mag_space-T1w_odd-x_desc-synth_T2w.nii"
    assert derivative_name(name, "T2w") == made


def test_natural_order() -> None:
    names = ["Image #10.png", "image #9.png", "Image #100.png", "Image #9b.png", "a", "10", "9"]
    expected = ["9", "10", "a", "image #9.png", "Image #9b.png", "Image #10.png", "Image #100.png"]
    assert sorted(names, key=natural_key) == expected


def test_splits_of_folders() -> None:
    assert guess_split(Path("testT1/a.png")) == "test"
    assert guess_split(Path("val/T1/a.png")) == "val"
    assert guess_split(Path("TrainT1/a.png")) is None
    assert guess_split(Path("tester/a.png")) is None
    assert guess_split(Path("test-patient3/T1.nii")) is None


def test_the_two_2d_images_of_a_slice_have_one_series_name() -> None:
    assert series_name("slice-07_T1.png") == series_name("slice-07_T2.png") == "slice-07"
    assert series_name("Image #10.png") == "Image #10"
