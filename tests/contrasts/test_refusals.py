"""Every verb refuses what is known to be something else, unless --force is given."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from tests.studies import T1W, T2W, write_series

import mrbridge
from mrbridge import io
from mrbridge.bundle import Bundle
from mrbridge.errors import InputError
from mrbridge.io.bids import find_scans
from mrbridge.volume import Volume

pytestmark = pytest.mark.usefixtures("as_shipped")

Run = Callable[..., tuple[int, str, str]]
MakeScan = Callable[..., Volume]


@pytest.fixture
def put(make_scan: MakeScan, tmp_path: Path) -> Callable[..., Path]:
    """Write a scan of a simulated subject under any name."""

    def write(name: str, contrast: str = "T1w", subject: int = 6) -> Path:
        return io.write(make_scan(subject, contrast), tmp_path / name)

    return write


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("T1POST.nii.gz", "was taken after a contrast agent"),
        ("T1_mask.nii.gz", "is a mask"),
        ("sub-01_ce-gd_T1w.nii.gz", "was taken after a contrast agent"),
        ("T1map.nii.gz", "is a quantitative map"),
        ("t1_mprage_ph.nii.gz", "is a phase"),
        ("swi.nii.gz", "is weighted by T2*"),
        ("masks/001.nii.gz", "is a mask"),
    ],
)
def test_translate_refuses_a_file(
    name: str, reason: str, put: Callable[..., Path], run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out.nii.gz"
    code, _, error = run("translate", "-i", put(name), "-o", out)
    assert code == 2
    assert reason in error
    assert "--force" in error
    assert not out.exists()
    code, _, _ = run("translate", "-i", put(name), "-o", out, "--force", "--to", "T2w")
    assert code == 0
    assert out.exists()


def test_a_file_of_unknown_contrast_is_translated_with_a_notice(
    put: Callable[..., Path], run: Run, tmp_path: Path
) -> None:
    code, _, err = run("translate", "-i", put("scan.nii.gz"), "-o", tmp_path / "out.nii.gz")
    assert code == 0
    assert "scan.nii.gz: nothing identifies its contrast; assuming it is T1w" in err
    sidecar = json.loads((tmp_path / "out.json").read_text())
    assert "Nothing says which contrast its source is" in sidecar["Description"]


def test_translate_takes_of_a_folder_what_is_known_first(
    put: Callable[..., Path], run: Run, tmp_path: Path
) -> None:
    for name in ("in/a_T1.nii.gz", "in/a_T1_KM.nii.gz", "in/a_T1_seg.nii.gz", "in/a.nii.gz"):
        put(name)
    assert run("translate", "-i", tmp_path / "in", "-o", tmp_path / "out")[0] == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["source"] for row in report["done"]] == ["a_T1.nii.gz"]
    reasons = {row["source"]: row["reason"] for row in report["ignored"]}
    assert "contrast agent" in reasons["a_T1_KM.nii.gz"]
    assert "mask" in reasons["a_T1_seg.nii.gz"]
    assert "does not state its contrast" in reasons["a.nii.gz"]


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("sub-01_desc-synth_T1w.nii.gz", "synth"),
        ("a_desc-synth.nii.gz", "synth"),
        ("synthT1.nii.gz", "synth"),
        ("T1_synthetic.nii.gz", "synthetic"),
        ("fake_A.nii.gz", "fake"),
    ],
)
def test_what_is_synthetic_by_its_name_alone_is_refused(
    name: str, word: str, put: Callable[..., Path], run: Run, tmp_path: Path
) -> None:
    """Other programs do not keep the note in its header."""
    path, out = put(f"in/{name}"), tmp_path / "out.nii.gz"
    code, _, error = run("translate", "-i", path, "-o", out)
    assert code == 2
    assert f"is synthetic, by '{word}' in its name. Name another scan, or use --force" in error
    _, listed, _ = run("inspect", path.parent)
    assert "0 of 1 files can be used as they are" in listed
    table = tmp_path / "table.csv"
    table.write_text(f"subject,contrast,path\n1,T1w,{path}")
    for source in (path.parent, table):
        assert [reason for _, reason in find_scans(source).ignored] == [
            f"is synthetic, by '{word}' in its name"
        ]
    put("in/b_T1w.nii.gz")
    assert run("translate", "-i", path.parent, "-o", tmp_path / "out")[0] == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["source"] for row in report["done"]] == ["b_T1w.nii.gz"]
    assert run("translate", "-i", path, "-o", out, "--force")[0] == 0


def test_tools_that_are_called_synth_strip_skulls(put: Callable[..., Path], run: Run) -> None:
    for name in ("a_T1w_synthstrip.nii.gz", "T1_SynthStrip.nii.gz", "sub-synth_T1w.nii.gz"):
        path = put(f"in/{name}")
        assert run("translate", "-i", path, "-o", path.parent / "out.nii.gz")[0] == 0


def test_translate_takes_the_unknown_only_where_nothing_is_known(
    put: Callable[..., Path], run: Run, tmp_path: Path
) -> None:
    put("in/a.nii.gz")
    put("in/a_mask.nii.gz")
    assert run("translate", "-i", tmp_path / "in", "-o", tmp_path / "out")[0] == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["source"] for row in report["done"]] == ["a.nii.gz"]
    assert "nothing identifies its contrast" in report["done"][0]["notes"][0]


def test_translate_refuses_a_folder_of_other_images(
    put: Callable[..., Path], run: Run, tmp_path: Path
) -> None:
    put("in/a_t1ce.nii.gz")
    put("in/a_seg.nii.gz")
    code, _, error = run("translate", "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert code == 2
    assert "contrast agent" in error
    assert "mask" in error
    assert run("translate", "-i", tmp_path / "in", "-o", tmp_path / "out", "--force")[0] == 0


def test_bids_leaves_out_scans_after_an_agent(
    put: Callable[..., Path], run: Run, tmp_path: Path
) -> None:
    anat = "bids/sub-01/anat/sub-01"
    for name in ("_T1w", "_ce-none_T1w", "_ce-gd_T1w", "_acq-postgad_T1w", "_UNIT1"):
        put(f"{anat}{name}.nii.gz")
    found = find_scans(tmp_path / "bids")
    assert {scan.name for scan in found.scans} == {
        "sub-01_T1w.nii.gz",
        "sub-01_ce-none_T1w.nii.gz",
    }
    forced = find_scans(tmp_path / "bids", force=True)
    assert len(forced.scans) == 4
    (tmp_path / "bids" / "dataset_description.json").write_text(
        '{"Name": "x", "BIDSVersion": "1.10.0"}'
    )
    code, _, _ = run("translate", "-i", tmp_path / "bids", "-o", tmp_path / "out")
    assert code == 0
    made = sorted(path.name for path in (tmp_path / "out").rglob("*.nii.gz"))
    assert made == ["sub-01_ce-none_desc-synth_T2w.nii.gz", "sub-01_desc-synth_T2w.nii.gz"]


def test_prepare_leaves_out_what_two_folders_and_tables_call_t1w(
    put: Callable[..., Path], run: Run, tmp_path: Path
) -> None:
    rows = ["subject,contrast,path"]
    for subject in range(4):
        for contrast in ("T1w", "T2w"):
            path = put(f"{contrast}/s{subject}.nii.gz", contrast, 6 + subject)
            rows.append(f"s{subject},{contrast},{path}")
    for name in ("T1w/s0_mask.nii.gz", "T1w/s1_KM.nii.gz"):
        rows.append(f"s9,T1w,{put(name)}")
    table = tmp_path / "table.csv"
    table.write_text("\n".join(rows))
    for number, source in enumerate([[tmp_path / "T1w", tmp_path / "T2w"], [table]]):
        found = find_scans(source if len(source) > 1 else source[0])
        assert len(found.scans) == 8
        assert {path.name for path, _ in found.ignored} == {"s0_mask.nii.gz", "s1_KM.nii.gz"}
        assert len(find_scans(source if len(source) > 1 else source[0], force=True).scans) == 10
        code, out, _ = run("prepare", *source, "-o", tmp_path / f"store{number}", "--json")
        assert code == 0
        assert json.loads(out.splitlines()[-1])["ignored"] == 2
    code, out, _ = run("prepare", table, "-o", tmp_path / "forced", "--force", "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["ignored"] == 0


def test_evaluate_scores_no_masks(put: Callable[..., Path], run: Run, tmp_path: Path) -> None:
    real, made = put("real/a_T2w.nii.gz", "T2w"), put("made/a_T2w.nii.gz", "T2w")
    other = io.read(made)
    io.write(replace(other, voxels=other.voxels.astype(np.float32) ** 1.1), made)
    mask = put("real/a_T2w_seg.nii.gz", "T2w")
    out = tmp_path / "out"
    assert run("evaluate", "--real", real.parent, "--synthetic", made.parent, "-o", out)[0] == 0
    code, _, error = run("evaluate", "--real", mask, "--synthetic", made, "-o", tmp_path / "o2")
    assert code == 2
    assert "is a mask" in error


def with_intent(code: int, path: Path) -> Path:
    """The same file with an intent code in its header."""
    image = nib.load(path)
    voxels, header = np.asarray(image.dataobj), image.header.copy()
    header["intent_code"] = code
    nib.save(nib.Nifti1Image(voxels, None, header), path)
    return path


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (3, "a statistical map"),
        (24, "a statistical map"),
        (1001, "a map of an estimated parameter"),
        (1002, "a label map"),
        (1006, "a field of vectors, matrices or points"),
        (2006, "a spatial transformation"),
        (2018, "a spatial transformation"),
        (3006, "a CIFTI file"),
    ],
)
def test_the_intent_of_a_nifti_file_says_that_it_is_something_else(
    code: int, kind: str, put: Callable[..., Path], run: Run, tmp_path: Path
) -> None:
    path, out = with_intent(code, put("in/a_T1w.nii.gz")), tmp_path / "out.nii.gz"
    exit_code, _, error = run("translate", "-i", path, "-o", out)
    assert exit_code == 2
    assert f"is {kind}, by the intent code {code} of its header. Name another scan" in error
    with pytest.raises(InputError, match=f"is {kind}"):
        mrbridge.translate(nib.load(path))
    _, listed, _ = run("inspect", path.parent)
    assert "0 of 1 files can be used as they are" in listed
    assert run("translate", "-i", path, "-o", out, "--force")[0] == 0
    assert nib.load(out).header["intent_code"] == 0


@pytest.mark.parametrize("code", [0, 1011])
def test_other_intents_change_nothing(
    code: int, put: Callable[..., Path], run: Run, tmp_path: Path
) -> None:
    path = with_intent(code, put("a_T1w.nii.gz"))
    assert run("translate", "-i", path, "-o", tmp_path / "out.nii.gz")[0] == 0


def test_a_field_of_vectors_is_named_before_its_volumes(run: Run, tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((8, 8, 8, 1, 3), np.float32), np.eye(4))
    image.header.set_intent("displacement vector")
    nib.save(image, tmp_path / "a_T1w.nii.gz")
    _, _, error = run("translate", "-i", tmp_path / "a_T1w.nii.gz", "-o", tmp_path / "out.nii.gz")
    assert "intent code 1006 of its header, and holds 3 volumes" in error


def test_prepare_evaluate_and_inspect_take_no_label_map_by_its_intent(
    put: Callable[..., Path], run: Run, tmp_path: Path
) -> None:
    for subject in range(3):
        for contrast in ("T1w", "T2w"):
            path = put(f"in/s{subject}_{contrast}.nii.gz", contrast, 6 + subject)
    with_intent(1002, path)
    code, _, error = run("prepare", tmp_path / "in", "-o", tmp_path / "store")
    assert code == 1
    assert "s2_T2w.nii.gz: is a label map" in error
    assert run("prepare", tmp_path / "in", "-o", tmp_path / "store", "--force")[0] == 0
    _, out, _ = run("inspect", tmp_path / "in", "-o", tmp_path / "page.html", "--json")
    assert "is a label map" in json.loads(out.splitlines()[-1])["failed"][0]["reason"]
    two = ("evaluate", "--real", path, "--synthetic", put("made/s2_T2w.nii.gz", "T2w"), "-o")
    code, _, error = run(*two, tmp_path / "scores")
    assert code == 2
    assert "is a label map" in error
    assert run(*two, tmp_path / "scores", "--force")[0] == 0


def test_inspect_says_what_is_something_else(
    put: Callable[..., Path], run: Run, tmp_path: Path
) -> None:
    put("in/a_T1.nii.gz")
    put("in/a_T1POST.nii.gz")
    _, out, _ = run("inspect", tmp_path / "in")
    assert "1 of 2 files can be used as they are" in out
    assert "a_T1POST.nii.gz: was taken after a contrast agent" in out


AGENT = T1W | {"ContrastBolusAgent": "Gadovist"}
FIELD_MAP = T1W | {"SeriesDescription": "gre_field_mapping"}


@pytest.mark.parametrize("tags", [AGENT, FIELD_MAP, T1W | {"ComplexImageComponent": "PHASE"}])
def test_dicom_series_that_are_something_else(
    tags: dict[str, Any], run: Run, tmp_path: Path
) -> None:
    write_series(tmp_path / "in", number=7, **tags)
    arguments = ("translate", "-i", tmp_path / "in", "-o", tmp_path / "out")
    for more in ((), ("--series", "7")):
        code, _, error = run(*arguments, *more)
        assert code == 2
        assert not (tmp_path / "out").exists()
    assert "--force" in error
    assert run(*arguments, "--series", "7", "--force", "--to", "T2w")[0] == 0


def test_the_plain_series_is_taken_before_the_doubtful_one(run: Run, tmp_path: Path) -> None:
    doubtful = {**T1W, "SeriesDescription": "t2 tse"}
    write_series(tmp_path / "in", number=3, **doubtful)
    write_series(tmp_path / "in", number=4, **T2W)
    assert run("translate", "-i", tmp_path / "in", "-o", tmp_path / "out")[0] == 0
    report = json.loads(next((tmp_path / "out").glob("*.json")).read_text())
    assert (report["series"]["number"], report["series"]["contrast"]) == (4, "T2w")
    found = find_scans(tmp_path / "in")
    assert {scan.contrast for scan in found.scans} == {"T1w", "T2w"}
    write_series(tmp_path / "in", number=5, **T1W)
    names = [scan.name for scan in find_scans(tmp_path / "in").scans if scan.contrast == "T1w"]
    assert names == ["series-5"]


def test_magnitude_is_taken_from_a_series_that_holds_phase_too(
    run: Run, tmp_path: Path, as_shipped: Bundle
) -> None:
    del as_shipped
    write_series(tmp_path / "in", number=4, **T1W)
    for path in write_series(tmp_path / "phase", number=4, **T1W):
        import pydicom

        header = pydicom.dcmread(path)
        header.ImageType = ["ORIGINAL", "PRIMARY", "P"]
        header.SOPInstanceUID += ".1"
        header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
        header.save_as(tmp_path / "in" / f"p{path.name}")
    assert run("translate", "-i", tmp_path / "in", "-o", tmp_path / "out")[0] == 0
    assert run("translate", "-i", tmp_path / "in", "-o", tmp_path / "o2", "--series", "4")[0] == 0


@pytest.mark.filterwarnings("default::mrbridge.errors.MrbridgeWarning")
def test_what_reading_corrected_is_in_the_report(
    put: Callable[..., Path], run: Run, tmp_path: Path
) -> None:
    path = put("in/a_T1w.nii")
    image = bytearray(path.read_bytes())
    image[280:328] = bytes(48)  # the sform is zero, though its code says that it counts
    path.write_bytes(image)
    code, _, err = run("translate", "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert code == 0
    assert "sform" in err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "sform" in report["done"][0]["notes"][0]


def test_a_series_of_unknown_contrast_is_taken_where_nothing_better_is_there(
    run: Run, tmp_path: Path
) -> None:
    study = tmp_path / "DOE_JOHN"
    unknown: dict[str, Any] = {"ScanningSequence": "SE", "EchoTime": 50, "RepetitionTime": 1500}
    write_series(study, number=4, **{**unknown, "SeriesDescription": "axial"})
    code, _, err = run("translate", "-i", study, "-o", tmp_path / "out")
    assert code == 0
    assert "the series: nothing identifies its contrast; assuming it is T1w" in err
    write_series(study, number=5, **T2W)
    assert run("translate", "-i", study, "-o", tmp_path / "out2")[0] == 0
    report = json.loads((tmp_path / "out2" / "report.json").read_text())
    assert report["series"]["number"] == 5
