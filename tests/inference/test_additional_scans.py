"""A contrast from several scans of one person: `--also`, and the scans of a BIDS session."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt
from tests.studies import T1W, T2W, datasets, save

from mrbridge import io, models
from mrbridge.bundle import Bundle
from mrbridge.errors import InputError, MrbridgeWarning, SettingsError
from mrbridge.inference import additional_scans
from mrbridge.inference.settings import TranslateSettings
from mrbridge.inference.synthesis import Request
from mrbridge.inference.translate import translate
from mrbridge.inference.translator import Translator
from mrbridge.preprocessing.registration import Registration
from mrbridge.volume import Volume

Run = Callable[..., tuple[int, str, str]]
SHIFT = (3.0, -2.0, 4.0)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Volume]]:
    """The additional scans of each translation, on the grid of the scan."""
    calls: list[dict[str, Volume]] = []
    original = Translator.translate

    def result(self: Translator, volume: Volume, to: str, **how: Any) -> Volume:
        calls.append(dict(how.get("also") or {}))
        return original(self, volume, to, **how)

    monkeypatch.setattr(Translator, "translate", result)
    return calls


@pytest.fixture
def as_shipped(four_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """The bundle of four contrasts in the place of the one that comes with mrbridge."""
    monkeypatch.setattr(models, "shipped", lambda: four_bundle.path)
    return four_bundle


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registration finds `SHIFT`, without a search."""
    transform = np.eye(4)
    transform[:3, 3] = SHIFT
    found = Registration(transform, "rigid", 0.1, 0.5, 5.385, 0.08, 4, 5, 1.0)
    monkeypatch.setattr(additional_scans, "register", lambda *_: found)


@pytest.fixture
def folder(make_scan: Callable[..., Volume], tmp_path: Path) -> Path:
    """T1w, and FLAIR on its grid, and PDw on another one."""
    io.write(make_scan(6, "T1w"), tmp_path / "in" / "sub-06_T1w.nii.gz")
    flair = make_scan(6, "T2w")
    io.write(flair, tmp_path / "in" / "sub-06_FLAIR.nii.gz")
    assert flair.affine is not None
    moved = flair.affine.copy()
    moved[:3, 3] -= SHIFT
    io.write(replace(flair, affine=moved), tmp_path / "in" / "sub-06_PDw.nii.gz")
    return tmp_path / "in"


def run_one(model: Bundle, folder: Path, out: Path, **how: Any) -> Any:
    (made,) = translate(folder / "sub-06_T1w.nii.gz", out, model=model, device="cpu", **how)
    return made


class TestNaming:
    def test_forms(self, tmp_path: Path) -> None:
        (tmp_path / "a=b.nii").touch()
        named = additional_scans.parse(["x.nii", "FLAIR=y.nii", str(tmp_path / "a=b.nii")])
        assert [(one.contrast, one.path) for one in named] == [
            (None, Path("x.nii")), ("FLAIR", Path("y.nii")), (None, tmp_path / "a=b.nii"),
        ]  # fmt: skip
        (one,) = additional_scans.parse({"PDw": tmp_path / "z.nii"})
        assert (one.contrast, one.path) == ("PDw", tmp_path / "z.nii")
        with pytest.raises(SettingsError, match="names no scan"):
            additional_scans.parse(["FLAIR="])


class TestFiles:
    def test_on_one_grid(
        self, given: list[Any], four_bundle: Bundle, folder: Path, tmp_path: Path
    ) -> None:
        run_one(four_bundle, folder, tmp_path / "out", also=[folder / "sub-06_FLAIR.nii.gz"])
        ((contrast, scan),) = given[0].items()
        assert contrast == "FLAIR"
        np.testing.assert_array_equal(scan.voxels, io.read(folder / "sub-06_FLAIR.nii.gz").voxels)
        note = json.loads((tmp_path / "out" / "sub-06_desc-synth_T2w.json").read_text())
        assert note["Sources"] == ["sub-06_T1w.nii.gz", "sub-06_FLAIR.nii.gz"]
        assert note["SpatialReference"] == "sub-06_T1w.nii.gz"
        assert note["AdditionalSources"] == [
            {"Source": "sub-06_FLAIR.nii.gz", "Contrast": "FLAIR", "Registered": False}
        ]

    def test_on_one_grid_with_its_axes_in_another_order(
        self, given: list[Any], four_bundle: Bundle, folder: Path, tmp_path: Path
    ) -> None:
        flair = io.read(folder / "sub-06_FLAIR.nii.gz")
        stored = nib.load(folder / "sub-06_FLAIR.nii.gz").as_reoriented(axcodes2ornt("PSR"))
        nib.save(stored, folder / "sub-06_FLAIR.nii.gz")
        run_one(four_bundle, folder, tmp_path / "out", also=[folder / "sub-06_FLAIR.nii.gz"])
        np.testing.assert_array_equal(given[0]["FLAIR"].voxels, flair.voxels)
        note = json.loads((tmp_path / "out" / "sub-06_desc-synth_T2w.json").read_text())
        assert not note["AdditionalSources"][0]["Registered"]

    def test_on_one_grid_after_a_movement(
        self, four_bundle: Bundle, folder: Path, tmp_path: Path
    ) -> None:
        path = folder / "sub-06_FLAIR.nii.gz"
        flair = io.read(path)
        io.write(replace(flair, voxels=np.roll(flair.voxels, 5, 1)), path)
        with pytest.warns(MrbridgeWarning, match="FLAIR.nii.gz does not show the anatomy of the"):
            run_one(four_bundle, folder, tmp_path / "out", also=[path])

    @pytest.mark.parametrize("count", [1, 2])
    def test_a_volume_is_chosen_where_there_are_several(
        self, count: int, given: list[Any], four_bundle: Bundle, folder: Path, tmp_path: Path
    ) -> None:
        flair = io.read(folder / "sub-06_FLAIR.nii.gz")
        for name, number in (("T1w", 2), ("FLAIR", count)):
            image = nib.load(folder / f"sub-06_{name}.nii.gz")
            voxels = np.stack([np.asanyarray(image.dataobj)] * number, 3)
            nib.save(nib.Nifti1Image(voxels, image.affine), image.get_filename())
        also = [folder / "sub-06_FLAIR.nii.gz"]
        run_one(four_bundle, folder, tmp_path / "out", also=also, volume=1)
        np.testing.assert_array_equal(given[0]["FLAIR"].voxels, flair.voxels)

    @pytest.mark.usefixtures("registered")
    def test_on_another_grid(
        self, given: list[Any], four_bundle: Bundle, folder: Path, tmp_path: Path, caplog: Any
    ) -> None:
        with caplog.at_level(logging.INFO, "mrbridge"):
            run_one(four_bundle, folder, tmp_path / "o", also=[folder / "sub-06_PDw.nii.gz"])
        assert "sub-06_PDw.nii.gz: registered to the scan: moved by up to 5.4 mm" in caplog.text
        scan = given[0]["PDw"]
        still = io.read(folder / "sub-06_FLAIR.nii.gz")
        np.testing.assert_allclose(scan.affine, still.affine)
        np.testing.assert_allclose(scan.voxels, still.voxels, atol=1)
        note = json.loads((tmp_path / "o" / "sub-06_desc-synth_T2w.json").read_text())
        (entry,) = note["AdditionalSources"]
        assert entry["DisplacementMillimetres"] == 5.385
        assert entry["UncertaintyMillimetres"] == 0.08

    def test_objects_and_the_command_line(
        self, given: list[Any], as_shipped: Bundle, folder: Path, tmp_path: Path, run: Run
    ) -> None:
        flair = io.read(folder / "sub-06_FLAIR.nii.gz")
        t1w = io.read(folder / "sub-06_T1w.nii.gz")
        translate(t1w, model=as_shipped, device="cpu", also={"FLAIR": flair})
        renamed = (folder / "sub-06_FLAIR.nii.gz").rename(folder / "b.nii.gz")
        code, _, err = run(
            "translate", "-i", folder / "sub-06_T1w.nii.gz", "-o", tmp_path / "o.nii.gz",
            "--also", f"FLAIR={renamed}", "--to", "T2w",
        )  # fmt: skip
        assert code == 0, err
        assert [list(one) for one in given] == [["FLAIR"]] * 2
        note = json.loads((tmp_path / "o.json").read_text())
        assert all(source.startswith("sha256:") for source in note["Sources"])

    def test_an_unknown_scan_is_of_the_best_contrast_that_is_left(
        self, given: list[Any], four_bundle: Bundle, folder: Path
    ) -> None:
        scan = replace(io.read(folder / "sub-06_FLAIR.nii.gz"), contrast=None)
        other = io.read(folder / "sub-06_T1w.nii.gz")
        made = translate(scan, model=four_bundle, device="cpu", also={"T1w": other}, to="T2w")
        assert list(given[0]) == ["T1w"]
        single = translate(scan, model=four_bundle, device="cpu", to="T2w")
        assert not np.array_equal(made.voxels, single.voxels)


class TestRefusals:
    @pytest.mark.parametrize(
        ("also", "reason"),
        [
            ("sub-06_T1w.nii.gz", "is T1w, as another of the scans is"),
            ("sub-06_T2w.nii.gz", "is T2w, which is the contrast to synthesise"),
            ("b.nii.gz", "has a contrast that nothing identifies"),
            ("PDw={}/sub-06_FLAIR.nii.gz", "is FLAIR, not PDw"),
            ("CT={}/b.nii.gz", "is CT, which is not one the model takes"),
            ("FLAIR={}/lesion_mask.nii.gz", "is a mask"),
            ("FLAIR={}/none.nii.gz", "does not exist"),
        ],
    )
    def test_wrong_scans(
        self, also: str, reason: str, four_bundle: Bundle, folder: Path, tmp_path: Path
    ) -> None:
        scan = io.read(folder / "sub-06_FLAIR.nii.gz")
        for name in ("sub-06_T2w.nii.gz", "b.nii.gz", "lesion_mask.nii.gz"):
            io.write(replace(scan, header=None), folder / name)
        named = also.format(folder) if "=" in also else str(folder / also)
        with pytest.raises(InputError, match=reason) as caught:
            run_one(four_bundle, folder, tmp_path / "out", also=[named], to="T2w")
        assert caught.value.path is not None
        assert not (tmp_path / "out").exists()

    def test_registration_that_fails(
        self,
        four_bundle: Bundle,
        folder: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def register(*_: Any) -> Registration:
            raise InputError("registration did not converge: starts disagree")

        monkeypatch.setattr(additional_scans, "register", register)
        with pytest.raises(InputError, match=r"cannot be registered to the scan \(registration"):
            run_one(four_bundle, folder, tmp_path / "o", also=[folder / "sub-06_PDw.nii.gz"])

    def test_models_of_one_scan(self, tiny_bundle: Bundle, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="this model takes one scan"):
            run_one(tiny_bundle, folder, tmp_path / "o", also=[folder / "sub-06_FLAIR.nii.gz"])

    def test_folders(self, four_bundle: Bundle, folder: Path, tmp_path: Path) -> None:
        also = [folder / "sub-06_FLAIR.nii.gz"]
        with pytest.raises(SettingsError, match="belong to one scan"):
            translate(folder, tmp_path / "o", model=four_bundle, device="cpu", also=also)


class TestSessions:
    @pytest.fixture
    def root(self, make_scan: Callable[..., Volume], tmp_path: Path) -> Path:
        """A session with three contrasts, one with T1w only, one with FLAIR only."""
        root = tmp_path / "raw"
        for session, contrasts in {
            "1": ("T1w", "FLAIR", "PDw"),
            "2": ("T1w",),
            "3": ("FLAIR",),
        }.items():
            for contrast in contrasts:
                scan = make_scan(6, "T1w" if contrast == "T1w" else "T2w")
                name = f"sub-01/ses-{session}/anat/sub-01_ses-{session}_{contrast}.nii.gz"
                io.write(scan, root / name)
        (root / "dataset_description.json").write_text('{"Name": "a", "BIDSVersion": "1.10.0"}')
        (root / "T1w.json").write_text('{"SkullStripped": false}')
        (root / "FLAIR.json").write_text('{"SkullStripped": false}')
        return root

    def test_they_are_combined(
        self, given: list[Any], root: Path, four_bundle: Bundle, tmp_path: Path
    ) -> None:
        how: dict[str, Any] = {"model": four_bundle, "device": "cpu"}
        done = translate(root, tmp_path / "out", **how)
        assert [sorted(one) for one in given] == [["FLAIR", "PDw"], [], []]
        assert [one.source.name for one in done] == [
            "sub-01_ses-1_T1w.nii.gz", "sub-01_ses-2_T1w.nii.gz", "sub-01_ses-3_FLAIR.nii.gz",
        ]  # fmt: skip
        first = done[0].output
        assert first is not None
        note = json.loads(first.with_name("sub-01_ses-1_desc-synth_T2w.json").read_text())
        below = "bids:raw:sub-01/ses-1/anat/sub-01_ses-1"
        assert note["Sources"] == [f"{below}_{c}.nii.gz" for c in ("T1w", "PDw", "FLAIR")]
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert [one["contrast"] for one in report["done"][0]["additional"]] == ["PDw", "FLAIR"]
        again = translate(root, tmp_path / "out", **how)
        assert all(one.skipped for one in again)

    def test_not_without_calibration(
        self, given: list[Any], root: Path, four_bundle: Bundle, tmp_path: Path, caplog: Any
    ) -> None:
        """`four_bundle` is calibrated for T1w and FLAIR together, not for all three."""
        how: dict[str, Any] = {"model": four_bundle, "device": "cpu", "uncertainty": True}
        translate(root, tmp_path / "out", participants=("01",), sessions=("1",), **how)
        assert [list(one) for one in given] == [["FLAIR"]]
        assert "was not calibrated for this, so it takes T1w and FLAIR only" in caplog.text
        request = Request(Translator(four_bundle, "cpu"), TranslateSettings(uncertainty=True))
        assert request.combined(("T1w", "PDw")) == ("T1w",)

    def test_or_one_by_one(
        self, given: list[Any], root: Path, four_bundle: Bundle, tmp_path: Path
    ) -> None:
        how: dict[str, Any] = {"model": four_bundle, "device": "cpu"}
        translate(root, tmp_path / "out", combine=False, **how)
        assert given == [{}, {}, {}]
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        reasons = {one["source"][-14:]: one["reason"] for one in report["ignored"]}
        assert reasons["1_FLAIR.nii.gz"] == "is FLAIR, not T1w"

    def test_one_that_cannot_be_used_is_left_out(
        self, given: list[Any], root: Path, four_bundle: Bundle, tmp_path: Path, caplog: Any
    ) -> None:
        path = root / "sub-01/ses-1/anat/sub-01_ses-1_PDw.nii.gz"
        path.write_bytes(path.read_bytes()[:200])
        translate(root, tmp_path / "out", model=four_bundle, device="cpu")
        assert [sorted(one) for one in given] == [["FLAIR"], [], []]
        assert "the additional PDw scan is left out" in caplog.text


class TestDicom:
    def test_a_second_series_of_the_study(
        self,
        given: list[Any],
        four_bundle: Bundle,
        make_scan: Callable[..., Volume],
        tmp_path: Path,
    ) -> None:
        study = tmp_path / "study"
        flair = T2W | {"SeriesDescription": "AX T2 FLAIR", "InversionTime": 2500, "EchoTime": 120}
        flair |= {"RepetitionTime": 9000}
        for number, (contrast, tags) in enumerate((("T1w", T1W), ("T2w", flair)), start=3):
            save(study, datasets(make_scan(6, contrast), number, **tags), prefix=f"IM{number}")
        translate(study, tmp_path / "out", model=four_bundle, device="cpu", also=[study])
        ((contrast, scan),) = given[0].items()
        assert contrast == "FLAIR"
        assert scan.voxels.shape == (40, 48, 12)
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert len(report["Sources"]) == 2
        assert all(source.startswith("urn:oid:") for source in report["Sources"])
