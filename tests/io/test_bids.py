"""Finding scans in datasets, folders and tables."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from mrbridge.errors import InputError, MrbridgeWarning
from mrbridge.io.bids import find_scans, is_bids
from mrbridge.io.scans import FoundScans


def make(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def summary(found: FoundScans) -> list[tuple[str | None, str | None, str, str]]:
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
        "sourcedata/sub-11_T2w.nii.gz",
        "code/run.py",
    )
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tsplit\nsub-10\ttrain\nsub-9\tvalidation\n"
    )
    found = find_scans(tmp_path)
    assert summary(found) == [
        ("9", "a", "T2w", "sub-9_ses-a_T2w.nii.gz"),
        ("10", None, "T1w", "sub-10_T1w.nii.gz"),
    ]
    assert [scan.split for scan in found.scans] == ["val", "train"]
    assert set(reasons(found)) == {
        "sub-9_ses-a_FLAIR.nii.gz",
        "sub-9_ses-a_task-rest_bold.nii.gz",
        "sub-9_ses-a_desc-synth_T1w.nii.gz",
        "notes.pdf",
        "x",
        "sub-11_T2w.nii.gz",
    }
    assert reasons(found)["x"] == "is in derivatives"
    assert "synthetic" in reasons(found)["sub-9_ses-a_desc-synth_T1w.nii.gz"]


@pytest.mark.parametrize("other", ["S1", "mu\u0308ller"])
def test_subjects_that_differ_only_in_case_or_encoding(other: str, tmp_path: Path) -> None:
    """They may be one person, and are one folder on Windows and macOS (BIDS, "Case collision")."""
    first = "s1" if other == "S1" else "m\u00fcller"
    make(tmp_path, f"{first}/T1w.nii.gz", f"{other}/T2w.nii.gz", "s2/T1w.nii.gz")
    with pytest.warns(MrbridgeWarning, match=f"{other}.* differ only in case") as caught:
        found = find_scans(tmp_path)
    assert len(caught) == 1
    assert {scan.subject for scan in found.scans} == {first, other, "s2"}


def test_subjects_that_differ_only_in_zeros(tmp_path: Path) -> None:
    make(tmp_path, "P1/T1w.nii.gz", "P01/T2w.nii.gz", "P10/T1w.nii.gz")
    with pytest.warns(MrbridgeWarning, match="P01 and P1 differ only in leading zeros"):
        found = find_scans(tmp_path)
    assert {scan.subject for scan in found.scans} == {"P1", "P01", "P10"}


def test_a_subject_with_and_without_its_prefix_is_one(tmp_path: Path) -> None:
    make(tmp_path, "T1/sub-01_T1w.nii.gz", "T2/sub-01.nii.gz", "T2/sub-02.nii.gz")
    found = find_scans([tmp_path / "T1", tmp_path / "T2"])
    assert [scan.subject for scan in found.scans] == ["01", "01", "sub-02"]


@pytest.mark.parametrize("absent", ["", "n/a", "NA", "nan", "None"])
def test_cells_of_a_table_that_mean_nothing(absent: str, tmp_path: Path) -> None:
    """Else scans of unknown people would be of one person with that name."""
    make(tmp_path, "a.nii", "b.nii")
    table = tmp_path / "scans.csv"
    rows = [
        f"{absent},{absent},{contrast},{path}"
        for contrast, path in (("T1w", "a.nii"), ("T2w", "b.nii"))
    ]
    table.write_text("\n".join(["subject,session,contrast,path", *rows]))
    found = find_scans(table)
    assert {(scan.subject, scan.session) for scan in found.scans} == {(None, None)}


def test_only_the_folders_of_raw_scans_count(tmp_path: Path) -> None:
    left_out = {
        "sub-01/derivatives/tool/sub-01/anat/sub-01_T1w.nii.gz": "is in derivatives",
        "sub-01/ses-1/sourcedata/sub-01_ses-1_T1w.nii.gz": "is in sourcedata",
        "sub-01/ses-1/code/anat/sub-01_ses-1_T1w.nii.gz": "is in code",
        "rawdata_backup/sub-01/anat/sub-01_T1w.nii.gz": "is not in sub-*/anat or sub-*/ses-*/anat",
        "sub-01/ses-1/anat/old/sub-01_ses-1_T1w.nii.gz": "is not in sub-*/anat or sub-*/ses-*/anat",
        "sub-01_T1w.nii.gz": "is not in sub-*/anat or sub-*/ses-*/anat",
        "sub-01/ses-1/extra_data/sub-01_ses-1_T1w.nii.gz": "is in extra_data, not in anat",
        "sub-01/ses-1/sub-01_ses-1_T1w.nii.gz": "is in no folder, not in anat",
        "sub-01_old/anat/sub-01_T1w.nii.gz": "names another subject than its folder",
        "sub-04/anat/sub-004_T1w.nii.gz": "names another subject than its folder",
        "sub-01/ses-1/anat/sub-01_ses-2_T1w.nii.gz": "names another session than its folder",
    }
    make(tmp_path, "dataset_description.json", "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz")
    make(tmp_path, *left_out)
    found = find_scans(tmp_path)
    assert [(s.subject, s.session) for s in found.scans] == [("01", "1")]
    assert {str(p.relative_to(tmp_path)): reason for p, reason in found.ignored} == left_out
    asked = find_scans(tmp_path, datatypes=("extra_data", None))
    assert [s.path.parent.name for s in asked.scans] == ["ses-1", "extra_data"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_bidsignore(encoding: str, tmp_path: Path) -> None:
    names = ["T1w", "acq-spine_T1w", "acq-new_T1w", "run-2_T1w", "T2w"]
    make(tmp_path, *(f"sub-01/anat/sub-01_{name}.nii.gz" for name in names))
    make(tmp_path, "sub-02/anat/sub-02_T1w.nii.gz")
    lines = ["# Rücken", "*_acq-*", "!*_acq-new_*", "/sub-02/", "sub-01/**/*run-2*", ""]
    (tmp_path / ".bidsignore").write_bytes("\r\n".join(lines).encode(encoding))
    if encoding == "latin-1":
        with pytest.warns(MrbridgeWarning, match=r"\.bidsignore: is not UTF-8"):
            found = find_scans(tmp_path)
    else:
        found = find_scans(tmp_path)
    assert [scan.name for scan in found.scans] == [
        f"sub-01_{name}.nii.gz" for name in ("T1w", "T2w", "acq-new_T1w")
    ]
    assert set(reasons(found).values()) == {"is listed in .bidsignore"}


def test_raw_before_derived(tmp_path: Path) -> None:
    folder = "sub-01/anat/sub-01"
    make(tmp_path, f"{folder}_T1w.nii.gz", f"{folder}_acq-x_T1w.nii.gz", f"{folder}_T2w.nii.gz")
    make(tmp_path, f"{folder}_desc-brain_T1w.nii.gz", f"{folder}_space-MNI_T1w.nii.gz")
    make(tmp_path, "sub-02/anat/sub-02_desc-brain_T1w.nii.gz")
    found = find_scans(tmp_path)
    assert [scan.name for scan in found.scans] == [
        "sub-01_T1w.nii.gz",
        "sub-01_T2w.nii.gz",
        "sub-01_acq-x_T1w.nii.gz",
        "sub-02_desc-brain_T1w.nii.gz",
    ]
    assert reasons(found) == {
        "sub-01_desc-brain_T1w.nii.gz": "is derived (desc-brain), and the raw scan is there",
        "sub-01_space-MNI_T1w.nii.gz": "is derived (space-MNI), and the raw scan is there",
    }


def test_preprocessed_scans_of_derivatives(tmp_path: Path) -> None:
    folder = "sub-01/anat/sub-01"
    names = [
        *(f"{c}w" for c in ("desc-preproc_T1", "space-MNI_res-2_desc-preproc_T1", "desc-brain_T1")),
        *("desc-brain_mask", "label-GM_probseg", "desc-preproc_T2w"),
    ]
    root = tmp_path / "derivatives" / "fmriprep"
    make(root, *(f"{folder}_{name}.nii.gz" for name in names))
    (root / "dataset_description.json").write_text('{"DatasetType": "derivative"}')
    found = find_scans(root)
    assert [scan.name.partition("_")[2] for scan in found.scans] == [
        "desc-preproc_T1w.nii.gz",
        "desc-preproc_T2w.nii.gz",
        "space-MNI_res-2_desc-preproc_T1w.nii.gz",
    ]
    assert "desc-preproc is there" in reasons(found)["sub-01_desc-brain_T1w.nii.gz"]


def test_one_scan_in_several_spellings_is_one_scan(tmp_path: Path) -> None:
    make(tmp_path, *(f"sub-01/anat/sub-01_{n}" for n in ("T1W.nii.gz", "T1w.nii", "T1w.png")))
    make(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/sub-02_t2W.nii.gz")
    make(tmp_path, "sub-03/anat/sub-03_T1w.nii")
    (tmp_path / "sub-03/anat/sub-03_T1w.nii.gz").symlink_to(".git/annex/objects/k")
    found = find_scans(tmp_path)
    assert [(scan.name, scan.contrast) for scan in found.scans] == [
        ("sub-01_T1w.nii.gz", "T1w"),
        ("sub-02_t2W.nii.gz", "T2w"),
        ("sub-03_T1w.nii", "T1w"),
    ]
    assert set(reasons(found).values()) == {"is the same scan in another format or spelling"}
    assert len(found.ignored) == 4


def test_sessions_of_names_or_folders(tmp_path: Path) -> None:
    make(tmp_path, "sub-01/anat/sub-01_ses-1_T1w.nii.gz", "sub-01/anat/sub-01_ses-2_T1w.nii.gz")
    make(tmp_path, "sub-02/ses-1/anat/sub-02_T1w.nii.gz", "sub-02/ses-2/anat/sub-02_T1w.nii.gz")
    found = find_scans(tmp_path)
    sessions = [(scan.subject, scan.session) for scan in found.scans]
    assert sessions == [("01", "1"), ("01", "2"), ("02", "1"), ("02", "2")]


def test_linked_folders_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    make(tmp_path / "disk", "anat/sub-01_T1w.nii.gz")
    root = make(tmp_path / "bids", "dataset_description.json")
    (root / "sub-01").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "up").symlink_to(root)
    assert summary(find_scans(root)) == [("01", None, "T1w", "sub-01_T1w.nii.gz")]


@pytest.mark.parametrize(
    ("data", "splits", "warning"),
    [
        ("participant_id\tsite\tsplit\nsub-01\tZürich\ttest\n".encode("latin-1"), "test", "cp1252"),
        ("participant_id\tsite\tsplit\nsub-01\tZürich\ttest\n".encode("utf-16"), "test", "utf-16"),
        ("participant_id\tsplit\nsub-01\ttest\n".encode("utf-16-le"), "test", "utf-16"),
        ("participant_id\tsplit\nsub-01\ttest\n".encode("utf-8-sig"), "test", None),
        (b"\x00\x01\x02participant_id\xff\x00", None, "not used"),
    ],
)
def test_participants_in_any_encoding(
    data: bytes, splits: str | None, warning: str | None, tmp_path: Path
) -> None:
    make(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz")
    (tmp_path / "participants.tsv").write_bytes(data)
    if warning is None:
        found = find_scans(tmp_path)
    else:
        with pytest.warns(MrbridgeWarning, match=rf"participants\.tsv: .*{warning}"):
            found = find_scans(tmp_path)
    assert [scan.split for scan in found.scans] == [splits]


@pytest.mark.parametrize(
    ("rows", "splits", "warning"),
    [
        (["S1\ttest", "s2\tval"], [None, "val"], "splits of 1 subject without scans, such as S1"),
        (["s1\ttest", "s1\ttrain"], ["test", None], "line 3 has another split of s1"),
        (["s1\tdev", "s2\tdev"], [None, None], "line 2 has the split 'dev', .* and 1 more"),
        (["s1\tn/a", "s2\t"], [None, None], None),
    ],
)
def test_splits_of_participants_that_cannot_be_used(
    rows: list[str], splits: list[str | None], warning: str | None, tmp_path: Path
) -> None:
    """Those of another spelling would train on what the user holds out."""
    make(tmp_path, "sub-s1/anat/sub-s1_T1w.nii.gz", "sub-s2/anat/sub-s2_T1w.nii.gz")
    table = "\n".join(["participant_id\tsplit", *(f"sub-{row}" for row in rows)])
    (tmp_path / "participants.tsv").write_text(table)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = find_scans(tmp_path)
    assert [scan.split for scan in found.scans] == splits
    assert len(caught) == (warning is not None)
    assert all(re.search(f"{warning}", str(one.message)) for one in caught)


@pytest.mark.parametrize(
    ("head", "warning"),
    [
        ("subject,contrast,path,splits", "column 'splits' is not read, did you mean 'split'"),
        ("subject id,contrast,path,age", "did you mean 'subject'"),
        ("participant_id,contrast,path,age", "has no column 'subject': whose scans they are"),
    ],
)
def test_columns_that_are_not_read(head: str, warning: str, tmp_path: Path) -> None:
    """Without its subjects, a table is split by slices; without its splits, by chance."""
    (tmp_path / "scans.csv").write_text(f"{head}\n1,T1w,a.nii.gz,test\n")
    with pytest.warns(MrbridgeWarning, match=warning):
        find_scans(tmp_path / "scans.csv")


def test_participants_that_are_not_fetched(tmp_path: Path) -> None:
    make(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz")
    (tmp_path / "participants.tsv").symlink_to(".git/annex/objects/k")
    with pytest.warns(MrbridgeWarning, match=r"not fetched \(datalad get\); its splits"):
        assert len(find_scans(tmp_path).scans) == 1


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-be"])
def test_a_table_in_another_encoding(encoding: str, tmp_path: Path) -> None:
    text = "subject;contrast;path\nMüller;T1w;Köln/scan.nii.gz\n"
    (tmp_path / "scans.csv").write_bytes(text.encode(encoding))
    with pytest.warns(MrbridgeWarning, match=r"scans\.csv: is not UTF-8"):
        (scan,) = find_scans(tmp_path / "scans.csv").scans
    assert (scan.subject, scan.path) == ("Müller", tmp_path / "Köln/scan.nii.gz")


def test_a_table_that_is_not_text_or_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "scans.csv").write_bytes(b"PK\3\4\0\0\x14\xff" * 50)
    with pytest.raises(InputError, match="not text"):
        find_scans(tmp_path / "scans.csv")
    (tmp_path / "gone.csv").symlink_to(".git/annex/objects/k")
    with pytest.raises(InputError, match=r"gone\.csv: is not fetched.*datalad get .*gone\.csv"):
        find_scans(tmp_path / "gone.csv")


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
    assert summary(found) == [("p2", None, "T1w", "T1.nii.gz"), ("p10", None, "T2w", "T2.nii.gz")]
    assert set(reasons(found)) == {"T1POST.nii.gz", "readme.txt", "._T2.nii.gz"}


def test_folders_that_only_begin_like_bids(tmp_path: Path) -> None:
    make(tmp_path, "sub-01/T1.nii.gz", "sub-01/T2.nii.gz", "sub-02/scan.json")
    assert not is_bids(tmp_path)
    assert summary(find_scans(tmp_path)) == [
        ("sub-01", None, "T1w", "T1.nii.gz"),
        ("sub-01", None, "T2w", "T2.nii.gz"),
    ]
    make(tmp_path, "sub-02/sub-02_T1w.nii.gz", "sub-02/derivatives/anat/sub-02_T1w.nii.gz")
    assert not is_bids(tmp_path)
    make(tmp_path, "sub-02/ses-1/anat/sub-02_T1w.nii.gz")
    assert is_bids(tmp_path)


def test_contrast_folders_of_2d_images(tmp_path: Path) -> None:
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
    found = find_scans([tmp_path / "x", tmp_path / "T1"])
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
    assert summary(found) == [
        ("b", "2", "T2w", "elsewhere.nii"),
        ("a", None, "T1w", "1.nii.gz"),
    ]
    assert [scan.split for scan in found.scans] == ["test", "train"]
    assert found.scans[1].path == tmp_path / "images" / "1.nii.gz"
    assert reasons(found) == {"3.nii.gz": "is FLAIR"}


@pytest.mark.parametrize("contrast", ["synthetic T1w", "T1w (synth)", "fake T1"])
def test_synthetic_scans_of_a_table_are_left_out(contrast: str, tmp_path: Path) -> None:
    table = tmp_path / "scans.csv"
    table.write_text(f"subject,contrast,path\n1,T1w,a.nii.gz\n1,{contrast},b.nii.gz\n")
    found = find_scans(table)
    assert summary(found) == [("1", None, "T1w", "a.nii.gz")]
    assert reasons(found) == {"b.nii.gz": f"is '{contrast}' by line 3 of the table"}
    assert len(find_scans(table, force=True).scans) == 2


@pytest.mark.parametrize(
    ("row", "warning"),
    [
        ("2,T1w,sub-02_T2w.nii.gz", "line 4 says T1w, and the name of its file T2w$"),
        ("1,T2w,sub-02_T2w.nii.gz", "lines 3 and 4 name two subjects for files of sub-02$"),
        ("1,T2w,other/sub-02_T2w.nii.gz", None),
        ("sub-2,T2w,sub-02_T2w.nii.gz", None),
    ],
)
def test_a_table_that_contradicts_names(row: str, warning: str | None, tmp_path: Path) -> None:
    rows = ["subject,contrast,path", "1,T1w,sub-01_T1w.nii.gz", "2,T1w,sub-02_T1w.nii.gz", row]
    (tmp_path / "scans.csv").write_text("\n".join(rows))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        find_scans(tmp_path / "scans.csv")
    assert len(caught) == (warning is not None)
    assert all(re.search(f"{warning}", str(one.message)) for one in caught)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subject,contrast\na,T1w\n", "line 2 has no path"),
        ("subject,contrast,path\na,T1w,x.nii\nb,,y.nii\n", "line 3 has no contrast"),
        ("subject,contrast,path,split\n1,T1w,x.nii,maybe\n", "split 'maybe'"),
        ("subject,contrast,path,Path \na,T1w,x.nii,y.nii\n", "has two columns 'path'"),
        ("subject,contrast,path\na,T1w,x,y.nii\n", "line 2 has more cells than the table has"),
    ],
)
def test_unusable_tables(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "scans.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        find_scans(tmp_path / "scans.csv")


def test_what_is_not_a_data_set(tmp_path: Path) -> None:
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
    found = find_scans(tmp_path / "one")  # contrasts and splits are not places of their own
    assert {scan.subject for scan in found.scans} == {"001"}
    sites = [f"{site}/001/{contrast}.nii.gz" for site in "AB" for contrast in ("T1", "T2")]
    make(tmp_path / "two", *sites, "A/002/T1.nii.gz", "sub-001_T1w.nii.gz")
    with pytest.warns(
        MrbridgeWarning, match=r"1 name of a subject is in .* several people: A/001, B/001"
    ):
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


@pytest.mark.parametrize("row_names", [False, True])
@pytest.mark.parametrize("separator", ["\t", ","])
def test_a_table_that_r_wrote(separator: str, row_names: bool, tmp_path: Path) -> None:
    """`write.table` quotes all texts, writes NA for none, and gives the names of rows no column."""
    rows = [
        ["subject", "contrast", "path", "split"],
        ["a", "T1w", "x/1, 2.nii.gz", "train"],
        ["b", "T2w", "x/3.nii.gz", "NA"],
    ]
    cells = [[cell if cell == "NA" else f'"{cell}"' for cell in row] for row in rows]
    named = [[f'"{n}"'] * (row_names and n > 0) + row for n, row in enumerate(cells)]
    table = tmp_path / "scans.tsv"
    table.write_text("\n".join(separator.join(row) for row in named) + "\n")
    found = find_scans(table)
    assert summary(found) == [("a", None, "T1w", "1, 2.nii.gz"), ("b", None, "T2w", "3.nii.gz")]
    assert [scan.split for scan in found.scans] == ["train", None]


def test_an_endless_cell_is_reported(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(
        'subject,session,contrast,path\n1,,T1w,"' + "x" * 200_000 + "\n"
    )
    with pytest.raises(InputError, match=r"table\.csv: is not a table"):
        find_scans(tmp_path / "table.csv")
