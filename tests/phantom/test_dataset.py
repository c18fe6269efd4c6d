"""The BIDS data set of simulated subjects."""

import hashlib
import json
from pathlib import Path
from typing import cast

import nibabel
import numpy as np
import pytest

from mrbridge.errors import OutputError
from mrbridge.phantom import PhantomSettings, simulate, write_bids
from mrbridge.phantom.signals import FastSpinEcho

SETTINGS = PhantomSettings(subjects=2, spacing_mm=4.0)


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_bids(tmp_path_factory.mktemp("phantom") / "bids", SETTINGS)


def test_the_layout_is_bids(dataset):
    derived = "derivatives/phantom"
    expected = {
        "README",
        "dataset_description.json",
        "participants.tsv",
        "participants.json",
        "code/phantom.json",
        f"{derived}/dataset_description.json",
    }
    for name in ("sub-01", "sub-02"):
        for contrast in ("T1w", "T2w"):
            expected |= {f"{name}/anat/{name}_{contrast}{end}" for end in (".nii.gz", ".json")}
        for mask in ("desc-brain_mask", "label-lesion_mask"):
            stem = f"{derived}/{name}/anat/{name}_{mask}"
            expected |= {f"{stem}{end}" for end in (".nii.gz", ".json")}
    assert set(hashes(dataset)) == expected


def test_descriptions_say_that_it_is_simulated(dataset):
    raw = json.loads((dataset / "dataset_description.json").read_text())
    derived = json.loads((dataset / "derivatives/phantom/dataset_description.json").read_text())
    assert (raw["DatasetType"], derived["DatasetType"]) == ("raw", "derivative")
    for description in (raw, derived):
        assert description["BIDSVersion"] == "1.10.0"
        assert description["GeneratedBy"][0]["Name"] == "mrbridge"
        assert "ICBM 152" in description["License"]
    rows = (dataset / "participants.tsv").read_text().splitlines()
    assert [row.split("\t")[0] for row in rows] == ["participant_id", "sub-01", "sub-02"]


def test_files_hold_what_was_simulated(dataset):
    subject = simulate(SETTINGS, 1)
    anat = dataset / "sub-02" / "anat"
    for contrast, volume in (("T1w", subject.t1w), ("T2w", subject.t2w)):
        image = nibabel.load(anat / f"sub-02_{contrast}.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj), volume.voxels)
        np.testing.assert_allclose(image.affine, volume.affine)
        assert image.header["sform_code"] == image.header["qform_code"] == 1
        np.testing.assert_allclose(image.get_qform(), image.get_sform())
        assert image.header.get_xyzt_units()[0] == "mm"
    sidecar = json.loads((anat / "sub-02_T2w.json").read_text())
    assert sidecar["EchoTime"] == pytest.approx(
        cast(FastSpinEcho, subject.sequences["T2w"]).te / 1000
    )
    assert 3 < sidecar["RepetitionTime"] < 7  # seconds
    assert sidecar["Simulated"] is True


def test_processes_do_not_matter(dataset, tmp_path):
    again = write_bids(tmp_path / "bids", SETTINGS, workers=2)
    assert hashes(again) == hashes(dataset)


def test_a_complete_dataset_is_kept(dataset):
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    assert write_bids(dataset, SETTINGS) == dataset
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before


def test_other_settings_are_refused_and_replace_on_request(tmp_path):
    small = PhantomSettings(subjects=1, spacing_mm=8.0)
    out = write_bids(tmp_path / "bids", small)
    before = hashes(out)
    other = small.changed({"seed": 3})
    with pytest.raises(OutputError, match="other settings"):
        write_bids(out, other)
    assert hashes(out) == before
    write_bids(out, other, overwrite=True)
    assert json.loads((out / "code/phantom.json").read_text())["settings"]["seed"] == 3
    assert hashes(out) != before


@pytest.mark.parametrize("overwrite", [False, True])
def test_foreign_folders_are_never_replaced(tmp_path, overwrite):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="something other"):
        write_bids(tmp_path, SETTINGS, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "bids").write_text("")
    with pytest.raises(OutputError):
        write_bids(tmp_path / "bids", SETTINGS)


def test_an_empty_folder_may_be_used(tmp_path):
    out = tmp_path / "bids"
    out.mkdir()
    write_bids(out, PhantomSettings(subjects=1, spacing_mm=8.0))
    assert (out / "sub-01/anat/sub-01_T1w.nii.gz").is_file()


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mrbridge.phantom.dataset.simulate", fail)
    with pytest.raises(OutputError, match=r"(?i)no space left"):
        write_bids(tmp_path / "bids", SETTINGS)
    assert list(tmp_path.iterdir()) == []
