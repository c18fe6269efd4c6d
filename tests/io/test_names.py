"""What names tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrbridge.io.bids_name import derivative_name, parse_name
from mrbridge.io.names import guess_split, guess_subject, natural_key, series_name


@pytest.mark.parametrize(
    ("path", "picture", "subject", "session"),
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
    ],
)
def test_subjects(path: str, picture: bool, subject: str | None, session: str | None) -> None:
    assert guess_subject(Path(path), picture=picture) == (subject, session)


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


def test_the_two_pictures_of_a_slice_have_one_series_name() -> None:
    assert series_name("slice-07_T1.png") == series_name("slice-07_T2.png") == "slice-07"
    assert series_name("Image #10.png") == "Image #10"
