"""BIDS datasets in, derivatives out."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from mrbridge import io
from mrbridge.bundle import Bundle, load_bundle, save_bundle
from mrbridge.errors import (
    InputError,
    Interrupted,
    MrbridgeWarning,
    OutputError,
    SettingsError,
    SomeScansFailed,
)
from mrbridge.inference import bids
from mrbridge.inference.bids import check_dataset
from mrbridge.inference.output import Translation
from mrbridge.inference.settings import TranslateSettings
from mrbridge.inference.synthesis import Request
from mrbridge.inference.translate import translate
from mrbridge.inference.translator import Translator
from mrbridge.preprocessing.skull_strip import skull_stripped
from mrbridge.volume import Volume

SCANS = (
    "sub-01/ses-1/anat/sub-01_ses-1_run-1_T1w.nii.gz",
    "sub-01/ses-1/anat/sub-01_ses-1_run-2_T1w.nii.gz",
    "sub-01/ses-2/anat/sub-01_ses-2_acq-fast_rec-n_T1w.nii.gz",
    "sub-02/anat/sub-02_T1w.nii",
    "sub-02/anat/sub-02_T2w.nii.gz",
)
MADE = (
    "sub-01/ses-1/anat/sub-01_ses-1_run-1_desc-synth_T2w.nii.gz",
    "sub-01/ses-1/anat/sub-01_ses-1_run-2_desc-synth_T2w.nii.gz",
    "sub-01/ses-2/anat/sub-01_ses-2_acq-fast_rec-n_desc-synth_T2w.nii.gz",
    "sub-02/anat/sub-02_desc-synth_T2w.nii",
)


@pytest.fixture
def root(make_scan: Callable[..., Volume], tmp_path: Path) -> Path:
    """A dataset with runs, sessions and acquisitions."""
    root = tmp_path / "raw data"
    for number, name in enumerate(SCANS):
        contrast = name.split("_")[-1][:3]
        io.write(make_scan(number, contrast, shape=(30, 32, 3)), root / name)
    write(root / "dataset_description.json", Name="Set", BIDSVersion="1.10.0", License="CC0")
    write(root / "T1w.json", EchoTime=0.003, RepetitionTime=2, SkullStripped=True)
    write(
        root / "sub-02/anat/sub-02_T1w.json",
        FlipAngle=9,
        SkullStripped=False,
        BodyPart="BRAIN",
        AnatomicalLandmarkCoordinates={"AC": [1, 2, 3]},
        PatientName="Jane",
    )
    return root


def write(path: Path, **content: Any) -> None:
    path.write_text(json.dumps(content))


def read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    assert isinstance(content, dict)
    return content


def tree(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def run(model: Any, root: Path, out: Path, **options: Any) -> list[Translation]:
    done = translate(root, out, model=model, device="cpu", **options)
    assert isinstance(done, list)
    return done


def names(done: list[Translation], root: Path) -> list[int]:
    return [SCANS.index(item.source.relative_to(root).as_posix()) for item in done]


@pytest.fixture
def other_bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    """The tiny bundle with one number changed: another model."""
    weights = dict(load_bundle(tiny_bundle.path).weights)
    weights["to_target.last.bias"] = weights["to_target.last.bias"] + 0.1
    return save_bundle(tiny_bundle.manifest, weights, tmp_path / "other")


def test_all_runs_sessions_and_acquisitions(
    tiny_bundle: Bundle, root: Path, tmp_path: Path
) -> None:
    before = tree(root)
    out = tmp_path / "out"
    done = run(tiny_bundle, root, out)
    assert tree(root) == before
    assert names(done, root) == [0, 1, 2, 3]
    sidecars = {name.replace(".gz", "").replace(".nii", ".json") for name in MADE}
    described = {"dataset_description.json", "README", "descriptions.tsv", "report.json"}
    described.add(".bidsignore")
    assert set(tree(out)) == {*MADE, *sidecars, *described}
    for source, made in zip(SCANS, MADE, strict=False):
        was, now = io.read(root / source), io.read(out / made)
        assert now.synthetic
        assert now.voxels.dtype == np.float32
        assert was.affine.tobytes() == now.affine.tobytes()
    report = read(out / "report.json")
    assert [row["output"] for row in report["done"]] == list(MADE)
    assert report["ignored"] == [{"source": SCANS[4], "reason": "is T2w, not T1w"}]
    assert str(tmp_path) not in json.dumps(report)


def test_what_a_sidecar_says(tiny_bundle: Bundle, root: Path, tmp_path: Path) -> None:
    run(tiny_bundle, root, tmp_path / "out", participants=["02"])
    sidecar = read(tmp_path / "out/sub-02/anat/sub-02_desc-synth_T2w.json")
    assert sidecar["SyntheticData"] is True
    assert "not for diagnosis" in sidecar["Description"]
    uri = f"bids:raw:{SCANS[3]}"
    assert (sidecar["Sources"], sidecar["SpatialReference"]) == ([uri], uri)
    (maker,) = sidecar["GeneratedBy"]
    assert (maker["Name"], maker["Model"]) == ("mrbridge", tiny_bundle.hash)
    assert maker["Planes"] == ["axial"]
    assert maker["HeldOutScores"] == tiny_bundle.manifest.scores != {}
    # What holds for the body holds for its synthesis; how it was scanned, and who, does not.
    assert sidecar["SkullStripped"] is False
    assert sidecar["BodyPart"] == "BRAIN"
    assert sidecar["AnatomicalLandmarkCoordinates"] == {"AC": [1, 2, 3]}
    assert not {"EchoTime", "RepetitionTime", "FlipAngle", "PatientName"} & sidecar.keys()


def test_sidecars_above_count(tiny_bundle: Bundle, root: Path, tmp_path: Path) -> None:
    run(tiny_bundle, root, tmp_path / "out", participants=["01"])
    assert read(tmp_path / "out" / MADE[0].replace("nii.gz", "json"))["SkullStripped"] is True


@pytest.mark.parametrize(
    ("radii", "noise", "stripped"),
    [
        ((65, 80, 66), 0, True),  # a brain: 1.4 litres
        ((65, 80, 66), 9, False),  # air around it
        ((80, 95, 80), 0, False),  # 2.5 litres: a head
        ((80, 95, 40), 0, None),  # 1.3 litres of a head
        ((75, 85, 55), 0, None),  # 1.5 litres of one, as low as no brain
        ((45, 50, 50), 0, None),  # too little for a brain
        ((55, 110, 55), 0, None),  # too long for one
    ],
)
def test_what_proves_that_the_skull_was_removed(
    radii: tuple[float, ...], noise: int, stripped: bool | None
) -> None:
    spacing = (3.0, 3.0, 4.0)
    axes = [np.arange(-120, 120, step) for step in spacing]
    mesh = np.meshgrid(*axes, indexing="ij")
    inside = sum((x / radius) ** 2 for x, radius in zip(mesh, radii, strict=True)) < 1
    air = np.random.default_rng(0).integers(0, noise + 1, inside.shape)
    voxels = np.where(inside, 700, air).astype(np.int16)
    scan = Volume(voxels, np.diag([*spacing, 1.0]), contrast="T1w")
    assert skull_stripped(scan) is stripped
    # As nibabel stores floats in integers: none of them is exactly zero.
    lowered = Volume(voxels - np.float32(0.0047), scan.affine, contrast="T1w")
    assert skull_stripped(lowered) is stripped


def test_skull_stripping_is_measured_if_no_sidecar_states_it(
    tiny_bundle: Bundle,
    root: Path,
    make_scan: Callable[..., Volume],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Noise around says that nothing was cut away, and so does a size that no brain has."""
    (root / "T1w.json").unlink()
    noisy = make_scan(0, "T1w", shape=(30, 32, 3))
    noise = np.random.default_rng(0).integers(1, 30, noisy.voxels.shape)
    noisy.voxels[:] += noise.astype(np.int16)
    io.write(noisy, root / SCANS[0])
    large = make_scan(1, "T1w", shape=(30, 32, 40), spacing=8.0)
    assert np.count_nonzero(large.voxels) * 8 * 8 * 4 > 2.3e6
    io.write(large, root / SCANS[1])
    run(tiny_bundle, root, tmp_path / "out", participants=["01"], force=True)
    sidecars = [read(tmp_path / "out" / name.replace("nii.gz", "json")) for name in MADE[:3]]
    assert sidecars[0]["SkullStripped"] is sidecars[1]["SkullStripped"] is False
    assert "SkullStripped" not in sidecars[2]
    assert "ses-1_run-2_T1w.nii.gz: unusual: " in caplog.text
    assert "ses-1_run-2_T1w.nii.gz: it is unknown" not in caplog.text
    assert "sub-01_ses-2_acq-fast_rec-n_T1w.nii.gz: it is unknown whether the skull" in caplog.text


def test_the_description_of_the_dataset(tiny_bundle: Bundle, root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(tiny_bundle, root, out, participants=["02"])
    description = read(out / "dataset_description.json")
    assert description["DatasetType"] == "derivative"
    assert description["License"] == "CC0"
    assert description["GeneratedBy"][0]["Name"] == "mrbridge"
    assert description["DatasetLinks"] == {"raw": "../raw%20data"}
    assert description["SourceDatasets"] == [{"URL": "../raw%20data"}]
    assert (out / "descriptions.tsv").read_text().splitlines()[1].startswith("desc-synth\t")
    assert "not for diagnosis" in (out / "README").read_text()
    # What a user adds stays.
    write(
        out / "dataset_description.json", **{**description, "Name": "Mine", "Authors": ["A", "B"]}
    )
    (out / "README").write_text("mine")
    run(tiny_bundle, root, out)
    again = read(out / "dataset_description.json")
    assert (again["Name"], again["Authors"]) == ("Mine", ["A", "B"])
    assert (out / "README").read_text() == "mine"


def test_among_the_derivatives_of_its_source(tiny_bundle: Bundle, root: Path) -> None:
    out = root / "derivatives" / "mrbridge"
    assert len(run(tiny_bundle, root, out)) == 4
    assert read(out / "dataset_description.json")["DatasetLinks"] == {"raw": "../.."}
    assert all(item.skipped for item in run(tiny_bundle, root, out))


def test_later_metadata_reaches_earlier_translations(
    tiny_bundle: Bundle, root: Path, tmp_path: Path
) -> None:
    (root / "T1w.json").unlink()
    out = tmp_path / "out"
    run(tiny_bundle, root, out, participants=["01"])
    sidecar = out / MADE[2].replace("nii.gz", "json")
    before = read(sidecar)
    write(root / "T1w.json", SkullStripped=True)
    assert all(item.skipped for item in run(tiny_bundle, root, out, participants=["01"]))
    assert read(sidecar) == {**before, "SkullStripped": True} != before


class TestSelection:
    def test_labels(self, tiny_bundle: Bundle, root: Path, tmp_path: Path) -> None:
        done = run(tiny_bundle, root, tmp_path / "out", participants=["sub-01"], sessions=["2"])
        assert names(done, root) == [2]

    def test_a_filter_file(self, tiny_bundle: Bundle, root: Path, tmp_path: Path) -> None:
        write(tmp_path / "f.json", t1w={"run": [1, None], "acquisition": None})
        done = run(tiny_bundle, root, tmp_path / "out", bids_filter=tmp_path / "f.json")
        assert names(done, root) == [0, 3]
        ignored = read(tmp_path / "out/report.json")["ignored"]
        assert {"source": SCANS[1], "reason": "is left out by the filter file (run)"} in ignored

    def test_nothing_is_left(self, tiny_bundle: Bundle, root: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"no T1w scan that fits.*4 do not"):
            run(tiny_bundle, root, tmp_path / "out", participants=["02"], sessions=["2"])
        assert not (tmp_path / "out").exists()

    def test_gaps_are_reported(
        self,
        tiny_bundle: Bundle,
        root: Path,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        write(tmp_path / "f.json", t2w={"run": 1})
        run(
            tiny_bundle,
            root,
            tmp_path / "out",
            participants=["01", "02"],
            sessions=["2"],
            bids_filter=tmp_path / "f.json",
        )
        assert "sub-02: has no T1w scan that fits" in caplog.text
        assert "has no query 't1w'" in caplog.text

    def test_only_of_data_sets(self, tiny_bundle: Bundle, root: Path, tmp_path: Path) -> None:
        for options in ({"participants": ["01"]}, {"sessions": ["1"]}):
            with pytest.raises(SettingsError, match="for BIDS datasets"):
                run(tiny_bundle, root / SCANS[0], tmp_path / "out", **options)


class TestDirection:
    def test_the_other_way(self, tiny_bundle: Bundle, root: Path, tmp_path: Path) -> None:
        done = run(tiny_bundle, root, tmp_path / "out", to="T1w")
        assert [item.output.name for item in done] == ["sub-02_desc-synth_T1w.nii.gz"]

    def test_choices_are_named(self, tiny_bundle: Bundle, root: Path, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"synthesises T2w or T1w, not FLAIR.*--to T2w"):
            run(tiny_bundle, root, tmp_path / "out", to="FLAIR")
        for scan in SCANS[:4]:
            (root / scan).unlink()
        with pytest.raises(InputError, match=r"no T1w scan.*its 1 T2w scans, use --to T1w"):
            run(tiny_bundle, root, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        (root / SCANS[4]).unlink()
        with pytest.raises(InputError, match="no T1w scan to translate into T2w"):
            run(tiny_bundle, root, tmp_path / "out")


class TestDoneAlready:
    def test_nothing_is_translated_twice(
        self, tiny_bundle: Bundle, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "out"
        run(tiny_bundle, root, out)
        before = tree(out)
        monkeypatch.setattr(bids, "synthesise", None)
        again = run(tiny_bundle, root, out)
        assert [(item.skipped, item.error) for item in again] == [(True, None)] * 4
        assert all(item.output.is_file() for item in again)
        after = tree(out)
        report = json.loads(after.pop("report.json"))
        before.pop("report.json")
        assert after == before
        assert (len(report["done"]), len(report["skipped"])) == (0, 4)

    def test_what_is_missing_or_unfinished_is_translated(
        self, tiny_bundle: Bundle, root: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        run(tiny_bundle, root, out)
        before = tree(out)
        (out / MADE[0]).unlink()
        (out / MADE[1].replace("nii.gz", "json")).unlink()  # killed in between
        again = run(tiny_bundle, root, out)
        assert [item.skipped for item in again] == [False, False, True, True]
        after = tree(out)
        assert {key: after[key] for key in before if key != "report.json"} == {
            key: before[key] for key in before if key != "report.json"
        }

    def test_other_files_are_replaced_only_on_request(
        self,
        tiny_bundle: Bundle,
        other_bundle: Bundle,
        root: Path,
        make_scan: Callable[..., Volume],
        tmp_path: Path,
    ) -> None:
        out = tmp_path / "out"
        run(tiny_bundle, root, out)
        before = tree(out)

        def errors(model: Bundle, **options: Any) -> list[str]:
            with pytest.raises(SomeScansFailed) as caught:
                run(model, root, out, **options)
            assert caught.value.exit_code == 1
            return [row["error"] for row in read(out / "report.json")["failed"]]

        assert errors(other_bundle) == ["already exists, by another model"] * 4
        for options in ({"dtype": "int16"}, {"planes": "all"}):
            assert errors(tiny_bundle, **options) == ["already exists, with other options"] * 4
        assert all(item.skipped for item in run(tiny_bundle, root, out, planes="axial"))
        io.write(make_scan(9, "T1w", shape=(30, 32, 3)), root / SCANS[0])
        assert errors(tiny_bundle) == ["already exists, of another source file"]
        changed = bytearray((out / MADE[3]).read_bytes())
        changed[-1] ^= 1
        (out / MADE[3]).write_bytes(bytes(changed))
        assert errors(tiny_bundle)[1:] == ["already exists, and was changed since it was written"]
        (out / MADE[3]).write_bytes(before[MADE[3]])
        assert {k: v for k, v in tree(out).items() if k != "report.json"} == {
            k: v for k, v in before.items() if k != "report.json"
        }
        done = run(other_bundle, root, out, overwrite=True)
        assert not any(item.skipped for item in done)
        assert all(item.skipped for item in run(other_bundle, root, out))
        assert tree(out)[MADE[1]] != before[MADE[1]]

    def test_a_foreign_image_is_kept(
        self, tiny_bundle: Bundle, root: Path, make_scan: Callable[..., Volume], tmp_path: Path
    ) -> None:
        foreign = io.write(make_scan(3, "T2w"), tmp_path / "out" / MADE[3])
        before = foreign.read_bytes()
        with pytest.raises(SomeScansFailed):
            run(tiny_bundle, root, tmp_path / "out", participants=["02"])
        assert foreign.read_bytes() == before

    def test_reports_of_other_participants_stay(
        self, tiny_bundle: Bundle, root: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        run(tiny_bundle, root, out, participants=["01"])
        run(tiny_bundle, root, out, participants=["02"])
        report = read(out / "report.json")
        assert [row["output"] for row in report["done"]] == list(MADE)
        run(tiny_bundle, root, out, participants=["02"])
        report = read(out / "report.json")
        assert (len(report["done"]), len(report["skipped"])) == (3, 1)


class TestFaults:
    def test_a_bad_scan_does_not_stop_the_others(
        self, tiny_bundle: Bundle, root: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        bad = root / SCANS[1]
        bad.write_bytes(bad.read_bytes()[:-9])
        with pytest.raises(SomeScansFailed, match="1 of 4 scans failed"):
            run(tiny_bundle, root, out)
        report = read(out / "report.json")
        (failed,) = report["failed"]
        assert failed["source"] == SCANS[1]
        assert "damaged or truncated" in failed["error"]
        assert sorted(p for p in tree(out) if ".nii" in p) == sorted({*MADE} - {MADE[1]})

    def test_two_scans_never_become_one(
        self, tiny_bundle: Bundle, root: Path, tmp_path: Path
    ) -> None:
        for desc in ("denoised", "smoothed"):
            shutil.copy(root / SCANS[3], root / SCANS[3].replace("T1w", f"desc-{desc}_T1w"))
        (root / SCANS[3]).unlink()
        with pytest.raises(SomeScansFailed, match="1 of 5"):
            run(tiny_bundle, root, tmp_path / "out")
        (failed,) = read(tmp_path / "out/report.json")["failed"]
        assert "is the output of another scan already" in failed["error"]

    def test_doubles_are_left_out_unless_asked_for(
        self, tiny_bundle: Bundle, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        derived = SCANS[0].replace("run-1", "run-1_desc-denoised")
        shutil.copy(root / SCANS[0], root / derived)
        shutil.copy(root / SCANS[0], root / SCANS[3].replace(".nii", ".nii.gz"))
        caplog.set_level("INFO", "mrbridge")
        done = run(tiny_bundle, root, tmp_path / "out")
        assert [item.error for item in done] == [None] * 4
        ignored = {
            row["source"]: row["reason"] for row in read(tmp_path / "out/report.json")["ignored"]
        }
        assert set(ignored) == {derived, SCANS[3], SCANS[4]}
        assert f"left out (is derived (desc-denoised), and the raw scan is there): {derived}" in (
            caplog.text
        )
        write(tmp_path / "f.json", t1w={"description": "denoised"})
        (asked,) = run(tiny_bundle, root, tmp_path / "asked", bids_filter=tmp_path / "f.json")
        assert asked.source == root / derived

    def test_what_a_filter_file_asks_for_elsewhere(
        self, tiny_bundle: Bundle, root: Path, tmp_path: Path
    ) -> None:
        other = root / "sub-02/extra/sub-02_T1w.nii"
        other.parent.mkdir()
        shutil.copy(root / SCANS[3], other)
        write(tmp_path / "f.json", t1w={"datatype": "extra"})
        (done,) = run(tiny_bundle, root, tmp_path / "out", bids_filter=tmp_path / "f.json")
        assert done.source == other

    def test_a_session_known_only_from_file_names(
        self, tiny_bundle: Bundle, root: Path, tmp_path: Path
    ) -> None:
        (root / SCANS[3]).rename(root / "sub-02/anat/sub-02_ses-9_T1w.nii")
        (done,) = run(tiny_bundle, root, tmp_path / "out", sessions=["9"])
        assert done.output.name == "sub-02_ses-9_desc-synth_T2w.nii"

    def test_content_that_was_not_fetched(
        self, tiny_bundle: Bundle, root: Path, tmp_path: Path
    ) -> None:
        (root / SCANS[3]).unlink()
        (root / SCANS[3]).symlink_to(".git/annex/objects/key")
        with pytest.raises(SomeScansFailed):
            run(tiny_bundle, root, tmp_path / "out", participants=["02"])
        (failed,) = read(tmp_path / "out/report.json")["failed"]
        assert failed["error"] == "is not fetched (datalad get)"

    def test_what_says_that_it_is_synthetic(
        self, tiny_bundle: Bundle, root: Path, tmp_path: Path
    ) -> None:
        write(root / "sub-02/anat/sub-02_T1w.json", SyntheticData=True)
        with pytest.raises(SomeScansFailed):
            run(tiny_bundle, root, tmp_path / "out", participants=["02"])
        (failed,) = read(tmp_path / "out/report.json")["failed"]
        assert failed["error"] == "is synthetic already"
        run(tiny_bundle, root, tmp_path / "out", participants=["02"], force=True)

    def test_a_broken_sidecar_stops_nothing(
        self, tiny_bundle: Bundle, root: Path, tmp_path: Path
    ) -> None:
        (root / "sub-02/anat/sub-02_T1w.json").write_text("{")
        with pytest.warns(MrbridgeWarning, match=r"sub-02_T1w\.json: is not JSON"):
            run(tiny_bundle, root, tmp_path / "out")
        report = read(tmp_path / "out/report.json")
        assert (len(report["done"]), len(report["failed"])) == (4, 0)

    def test_values_that_json_does_not_have(
        self, tiny_bundle: Bundle, root: Path, tmp_path: Path
    ) -> None:
        (root / "sub-02/anat/sub-02_T1w.json").write_text(
            '{"SkullStripped": NaN, "AnatomicalLandmarkCoordinates": {"AC": [NaN, 1, 2]}}'
        )
        with pytest.warns(MrbridgeWarning, match=r"sub-02_T1w\.json: holds NaN"):
            run(tiny_bundle, root, tmp_path / "out", participants=["02"])
        sidecar = read(tmp_path / "out/sub-02/anat/sub-02_desc-synth_T2w.json")
        assert sidecar["AnatomicalLandmarkCoordinates"] == {"AC": [None, 1, 2]}

    @pytest.mark.parametrize("text", [b"{", b"[]", '{"Name": "Zürich"}'.encode("latin-1")])
    def test_a_broken_description_stops_only_where_it_would_be_rewritten(
        self, text: bytes, tiny_bundle: Bundle, root: Path, tmp_path: Path
    ) -> None:
        (root / "dataset_description.json").write_bytes(text)
        out = tmp_path / "out"
        with pytest.warns(MrbridgeWarning, match=r"raw data/dataset_description\.json"):
            run(tiny_bundle, root, out, participants=["02"])
        (out / "dataset_description.json").write_bytes(b"{")
        with pytest.raises(InputError, match=r"out/dataset_description\.json: is not JSON"):
            run(tiny_bundle, root, out, participants=["02"])

    def test_places_that_are_refused(self, tiny_bundle: Bundle, root: Path, tmp_path: Path) -> None:
        before = tree(tmp_path)
        for out, message in (
            (root, "the input itself"),
            (root / "synth", r"among the raw scans.*derivatives/mrbridge"),
            (root / "derivatives", "among the raw scans"),
            (tmp_path / "out.nii.gz", "name of a file"),
        ):
            with pytest.raises(OutputError, match=message):
                run(tiny_bundle, root, out)
        assert tree(tmp_path) == before
        for description in (
            {"DatasetType": "raw", "GeneratedBy": [{"Name": "mrbridge"}]},
            {"DatasetType": "derivative", "GeneratedBy": [{"Name": "another"}]},
            {"DatasetType": "derivative"},
        ):
            other = tmp_path / "there"
            other.mkdir(exist_ok=True)
            write(other / "dataset_description.json", **description)
            with pytest.raises(OutputError, match="mrbridge did not make"):
                run(tiny_bundle, root, other)
            assert list(tree(other)) == ["dataset_description.json"]

    def test_two_data_sets_in_one(self, tiny_bundle: Bundle, root: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        run(tiny_bundle, root, out, participants=["02"])
        copy = shutil.copytree(root, tmp_path / "rawdata")
        with pytest.raises(OutputError, match="derivatives of another dataset"):
            run(tiny_bundle, copy, out)
        shutil.rmtree(root)  # moved rather than copied
        run(tiny_bundle, copy, out)
        assert read(out / "dataset_description.json")["DatasetLinks"] == {"raw": "../rawdata"}

    def test_stopped_at_any_write(
        self,
        tiny_bundle: Bundle,
        root: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """What is there is whole, and the next run brings what an undisturbed one has."""
        replace, calls = os.replace, iter(["go"])

        def stopping(*paths: Any) -> None:
            if next(calls, None) == "stop":
                raise KeyboardInterrupt
            replace(*paths)

        run(tiny_bundle, root, tmp_path / "calm", participants=["02"])
        calm = {k: v for k, v in tree(tmp_path / "calm").items() if k != "report.json"}
        monkeypatch.setattr(os, "replace", stopping)
        for count in range(len(calm) + 1):
            out = tmp_path / f"stopped-{count}"
            calls = iter(["go"] * count + ["stop"])
            with pytest.raises((KeyboardInterrupt, Interrupted)):
                run(tiny_bundle, root, out, participants=["02"])
            there = tree(out)
            there.pop("report.json", None)
            assert len(there) <= count  # no image without its sidecar
            assert there.items() <= calm.items()
            run(tiny_bundle, root, out, participants=["02"])
            assert {k: v for k, v in tree(out).items() if k != "report.json"} == calm

    def test_leftovers_of_a_kill_are_swept(
        self, tiny_bundle: Bundle, root: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "out/sub-02/anat"
        folder.mkdir(parents=True)
        left = folder / f".~000000-{os.getpid()}-00000000.nii"
        left.touch()
        os.utime(left, (0, 0))
        run(tiny_bundle, root, tmp_path / "out", participants=["02"])
        assert not left.exists()


class TestCheck:
    def test_states(self, tiny_bundle: Bundle, root: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        run(tiny_bundle, root, out, participants=["01"])
        (out / MADE[0]).unlink()
        request = Request(Translator(tiny_bundle, "cpu"), TranslateSettings())
        states = check_dataset(request, root, out)
        assert states == ["missing", "done", "done", "missing"]
        head, *rows = (out / "logs/group.tsv").read_text().splitlines()
        assert head.split("\t") == ["participant_id", "session_id", "source", "output", "state"]
        assert rows[0].split("\t") == ["sub-01", "ses-1", SCANS[0], MADE[0], "missing"]
        assert rows[3].split("\t")[1] == "n/a"


def test_rounding_is_reported(tiny_bundle: Bundle, root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(tiny_bundle, root, out, participants=["02"], dtype="int16")
    assert nib.load(out / MADE[3]).get_data_dtype() == np.int16
    rounding = read(out / MADE[3].replace(".nii", ".json"))["Rounding"]
    assert rounding == {"NumberType": "int16", "Factor": 1.0, "ClippedVoxels": 0}
    (row,) = read(out / "report.json")["done"]
    assert row["rounding"] == rounding
