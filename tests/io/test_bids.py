"""Finding scans in what users have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mrbridge.errors import InputError, MrbridgeWarning
from mrbridge.io.bids import FoundScans, find_scans, is_bids


def make(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def told(found: FoundScans) -> list[tuple[str | None, str | None, str, str]]:
    return [(scan.subject, scan.session, scan.contrast, scan.name) for scan in found.scans]


def reasons(found: FoundScans) -> dict[str, str]:
    return {path.name: reason for path, reason in found.ignored}


def test_a_bids_data_set(tmp_path: Path) -> None:
    make(
        tmp_path,
        "dataset_description.json",
        "sub-10/anat/sub-10_T1w.nii.gz",
        "sub-10/anat/sub-10_T1w.json",
        "sub-9/ses-a/anat/sub-9_ses-a_T2w.nii.gz",
        "sub-9/ses-a/anat/sub-9_ses-a_FLAIR.nii.gz",
        "sub-9/ses-a/func/sub-9_ses-a_task-rest_bold.nii.gz",
        "sub-9/ses-a/anat/notes.pdf",
        "sub-9/ses-a/anat/sub-9_ses-a_desc-synth_T1w.nii.gz",
        "derivatives/x/sub-10_T2w.nii.gz",
        "sourcedata/sub-10_T2w.nii.gz",
        "code/sub-10_T2w.nii.gz",
    )
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tsplit\nsub-10\ttrain\nsub-9\tvalidation\n"
    )
    found = find_scans(tmp_path)
    assert told(found) == [
        ("9", "a", "T2w", "sub-9_ses-a_T2w.nii.gz"),
        ("10", None, "T1w", "sub-10_T1w.nii.gz"),
    ]
    assert [scan.split for scan in found.scans] == ["val", "train"]
    assert set(reasons(found)) == {
        "sub-9_ses-a_FLAIR.nii.gz",
        "sub-9_ses-a_task-rest_bold.nii.gz",
        "sub-9_ses-a_desc-synth_T1w.nii.gz",
        "notes.pdf",
    }
    assert "synthetic" in reasons(found)["sub-9_ses-a_desc-synth_T1w.nii.gz"]


def test_a_nested_folder_with_strays(tmp_path: Path) -> None:
    make(
        tmp_path,
        "p2/T1.nii.gz",
        "p10/T2.nii.gz",
        "p10/T1POST.nii.gz",
        "p10/readme.txt",
        "p10/._T2.nii.gz",
        ".hidden/T1.nii.gz",
        "p10/.~0a1b2c-17-0a1b2c3d.nii.gz",
    )
    found = find_scans(tmp_path)
    assert told(found) == [("p2", None, "T1w", "T1.nii.gz"), ("p10", None, "T2w", "T2.nii.gz")]
    assert set(reasons(found)) == {"T1POST.nii.gz", "readme.txt", "._T2.nii.gz"}


def test_folders_that_only_begin_like_bids(tmp_path: Path) -> None:
    make(tmp_path, "sub-01/T1.nii.gz", "sub-01/T2.nii.gz", "sub-02/scan.json")
    assert not is_bids(tmp_path)
    assert told(find_scans(tmp_path)) == [
        ("sub-01", None, "T1w", "T1.nii.gz"),
        ("sub-01", None, "T2w", "T2.nii.gz"),
    ]
    make(tmp_path, "sub-02/anat/sub-02_T1w.nii.gz")
    assert is_bids(tmp_path)


def test_contrast_folders_of_pictures(tmp_path: Path) -> None:
    make(tmp_path, *[f"TrainT{c}/Image #{k}.png" for c in (1, 2) for k in (9, 10)])
    make(tmp_path, "TrainT1/Thumbs.db", "testT1/Image #1.png")
    found = find_scans(tmp_path)
    assert [(s.contrast, s.name, s.split) for s in found.scans] == [
        ("T1w", "Image #1.png", "test"),
        ("T1w", "Image #9.png", None),
        ("T1w", "Image #10.png", None),
        ("T2w", "Image #9.png", None),
        ("T2w", "Image #10.png", None),
    ]
    assert reasons(found).keys() == {"Thumbs.db"}


def test_two_folders_are_source_and_target_whatever_their_names(tmp_path: Path) -> None:
    make(tmp_path, "x/1.png", "T1/2.png")
    found = find_scans([tmp_path / "x", tmp_path / "T1"], "T1w", "T2w")
    assert {scan.name: scan.contrast for scan in found.scans} == {"1.png": "T1w", "2.png": "T2w"}


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".csv", ";"), (".tsv", "\t")])
def test_a_table(suffix: str, separator: str, tmp_path: Path) -> None:
    rows = [
        ["Subject", "session", "contrast", "path", "split"],
        ["a", "", "T1", "images/1.nii.gz", "train"],
        ["", "", "", "", ""],
        ["b", "2", "T2w", str(tmp_path / "elsewhere.nii"), "Test"],
        ["b", "2", "flair", "images/3.nii.gz", ""],
    ]
    table = tmp_path / f"scans{suffix}"
    table.write_text("\ufeff" + "\r\n".join(separator.join(row) for row in rows))
    found = find_scans(table)
    assert told(found) == [
        ("b", "2", "T2w", "elsewhere.nii"),
        ("a", None, "T1w", "1.nii.gz"),
    ]
    assert [scan.split for scan in found.scans] == ["test", "train"]
    assert found.scans[1].path == tmp_path / "images" / "1.nii.gz"
    assert reasons(found) == {"3.nii.gz": "is FLAIR"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subject,contrast\na,T1w\n", "line 2 has no path"),
        ("subject,contrast,path\na,T1w,x.nii\nb,,y.nii\n", "line 3 has no contrast"),
        ("contrast,path,split\nT1w,x.nii,maybe\n", "split 'maybe'"),
    ],
)
def test_unusable_tables(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "scans.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        find_scans(tmp_path / "scans.csv")


def test_what_is_no_data_set(tmp_path: Path) -> None:
    make(tmp_path, "scan.nii.gz")
    for source in (tmp_path / "absent", tmp_path / "scan.nii.gz", [], [tmp_path] * 3):
        with pytest.raises(InputError):
            find_scans(source)


@pytest.mark.parametrize(
    ("name", "count", "subjects"),
    [
        ("seed-png", 89, {None}),
        ("ixi-slices", 50, {None}),
        ("open-ms-mni", 4, {"patient07", "patient19"}),
        ("open-ms-raw", 6, {"patient01", "patient04"}),
    ],
)
def test_real_folders(
    name: str, count: int, subjects: set[str | None], real_data: Callable[[str], Path]
) -> None:
    found = find_scans(real_data(name))
    assert len(found.scans) == count
    assert {scan.subject for scan in found.scans} == subjects
    assert {scan.contrast for scan in found.scans} == {"T1w", "T2w"}


def test_number_one_of_two_sites_is_two_people(tmp_path: Path) -> None:
    one = [f"T{n}/001/a_T{n}.nii.gz" for n in (1, 2)]
    make(tmp_path / "one", *one, "T1/train/anat/001/b_T1.nii.gz")
    found = find_scans(tmp_path / "one")  # contrasts and splits are no places of their own
    assert {scan.subject for scan in found.scans} == {"001"}
    sites = [f"{site}/001/{contrast}.nii.gz" for site in "AB" for contrast in ("T1", "T2")]
    make(tmp_path / "two", *sites, "A/002/T1.nii.gz", "sub-001_T1w.nii.gz")
    with pytest.warns(MrbridgeWarning, match=r"1 names .* several people: A/001, B/001"):
        found = find_scans(tmp_path / "two")
    subjects = [(scan.subject, scan.contrast) for scan in found.scans]
    assert sorted(subjects) == [
        ("001", "T1w"),
        ("002", "T1w"),
        ("A_001", "T1w"),
        ("A_001", "T2w"),
        ("B_001", "T1w"),
        ("B_001", "T2w"),
    ]


def test_a_quotation_mark_in_a_participants_table_is_a_character(tmp_path: Path) -> None:
    make(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/sub-02_T1w.nii.gz")
    (tmp_path / "participants.tsv").write_text(
        'participant_id\tnote\tsplit\nsub-01\t"left early\ttest\nsub-02\t\tval\n'
    )
    assert [scan.split for scan in find_scans(tmp_path).scans] == ["test", "val"]


def test_a_cell_without_end_is_told(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(
        'subject,session,contrast,path\n1,,T1w,"' + "x" * 200_000 + "\n"
    )
    with pytest.raises(InputError, match=r"table\.csv: is no table"):
        find_scans(tmp_path / "table.csv")
