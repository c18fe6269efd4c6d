"""The verb `translate` on DICOM: which series is taken, what comes out, what is refused."""

from __future__ import annotations

import json
import logging
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from tests.studies import NAME, T1W, T2W, datasets, in_frames, save, save_bare

from mrbridge import cli, io
from mrbridge.bundle import Bundle
from mrbridge.errors import InputError, MrbridgeWarning, OutputError, SettingsError
from mrbridge.inference.translate import translate
from mrbridge.inspection.inspect import inspect
from mrbridge.volume import Volume


@pytest.fixture
def study(tmp_path: Path, make_scan: Callable[..., Volume]) -> Path:
    """A T1w and a T2w series of one head, a map and junk, all in one folder."""
    folder = tmp_path / NAME
    for number, (contrast, tags) in enumerate((("T1w", T1W), ("T2w", T2W)), start=3):
        save(folder, datasets(make_scan(6, contrast), number, **tags), prefix=f"IM{number}")
    adc = T2W | {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}
    save(folder, datasets(make_scan(6, "T2w"), 9, **adc), prefix="IM9")
    (folder / f"{NAME}.pdf").write_text(NAME)
    return folder


def run(model: Bundle, path: Path, out: Path, **how: Any) -> Path:
    (result,) = translate(path, out, model=model, device="cpu", **how)
    assert result.output is not None
    return result.output


class TestOutput:
    @pytest.mark.parametrize(("to", "number"), [(None, 3), ("T2w", 3), ("T1w", 4)])
    def test_the_series_is_chosen_by_contrast(
        self, to: str | None, number: int, tiny_bundle: Bundle, study: Path, tmp_path: Path
    ) -> None:
        out = run(tiny_bundle, study, tmp_path / "out", to=to)
        source, made = io.read(study, series=str(number)), io.read(out)
        assert made.synthetic
        assert made.contrast == (to or "T2w")
        np.testing.assert_array_equal(made.affine, source.affine)
        assert made.voxels.shape == source.voxels.shape
        report = json.loads((out / "report.json").read_text())
        assert report["series"]["number"] == number
        assert report["GeneratedBy"][0]["Model"] == tiny_bundle.hash
        assert report["SyntheticData"] is True

    def test_it_equals_the_translation_of_the_same_voxels_in_nifti(
        self, tiny_bundle: Bundle, study: Path, tmp_path: Path
    ) -> None:
        scan = io.read(study, series="3")
        path = io.write(scan, tmp_path / "scan_T1w.nii.gz")
        run(tiny_bundle, path, tmp_path / "made.nii.gz")
        expected = io.read(tmp_path / "made.nii.gz").voxels
        made = io.read(run(tiny_bundle, study, tmp_path / "out")).voxels
        assert np.abs(made - expected).max() <= np.ptp(expected) / 65000
        assert ((expected == 0) == (made == 0)).all()

    @pytest.mark.parametrize("out", ["made.nii.gz", "folder"])
    def test_as_nifti(self, out: str, tiny_bundle: Bundle, study: Path, tmp_path: Path) -> None:
        path = run(tiny_bundle, study, tmp_path / out, form="nifti")
        made = io.read(path)
        assert made.synthetic
        np.testing.assert_allclose(made.affine, io.read(study, series="3").affine, atol=1e-4)
        sidecar = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
        assert sidecar["SyntheticData"] is True
        assert sidecar["Sources"][0].startswith("urn:oid:")

    def test_a_zip(self, tiny_bundle: Bundle, study: Path, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
            for path in study.iterdir():
                archive.write(path, path.name)
        one = run(tiny_bundle, tmp_path / "study.zip", tmp_path / "1")
        two = run(tiny_bundle, study, tmp_path / "2")
        np.testing.assert_array_equal(io.read(one).voxels, io.read(two).voxels)

    def test_folders_called_as_in_bids(
        self, tiny_bundle: Bundle, study: Path, tmp_path: Path
    ) -> None:
        study.rename(study / "../sub-01")
        out = run(tiny_bundle, tmp_path, tmp_path.with_name("out"))
        assert io.read(out).synthetic

    def test_a_series_as_reference(
        self,
        tiny_bundle: Bundle,
        study: Path,
        make_scan: Callable[..., Volume],
        tmp_path: Path,
    ) -> None:
        """`match` takes a folder of one series, with the same result as its volume."""
        scan = make_scan(7, "T2w")
        save(tmp_path / "real", datasets(replace(scan, voxels=3 * scan.voxels), **T2W))
        results = {
            "typical": None,
            "folder": tmp_path / "real",
            "volume": io.read(tmp_path / "real"),
        }
        typical, folder, volume = (
            io.read(run(tiny_bundle, study, tmp_path / name, match=match)).voxels
            for name, match in results.items()
        )
        np.testing.assert_array_equal(folder, volume)
        assert not np.array_equal(folder, typical)

    def test_again_gives_the_same_bytes(
        self, tiny_bundle: Bundle, study: Path, tmp_path: Path
    ) -> None:
        first = run(tiny_bundle, study, tmp_path / "out")
        before = {path.name: path.read_bytes() for path in first.iterdir()}
        run(tiny_bundle, study, tmp_path / "out")
        assert {path.name: path.read_bytes() for path in first.iterdir()} == before


class TestRefusals:
    def test_gaps(self, tiny_bundle: Bundle, study: Path, tmp_path: Path) -> None:
        paths = sorted(study.glob("IM3*"))
        middle = {path for path in paths if pydicom.dcmread(path).InstanceNumber in (5, 6)}
        for path in middle:
            path.unlink()
        with pytest.raises(InputError, match=r"2 of 12 slices are missing.*--allow-gaps"):
            run(tiny_bundle, study, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        with pytest.warns(MrbridgeWarning, match="filled by interpolation"):
            out = run(tiny_bundle, study, tmp_path / "out", allow_gaps=True)
        report = json.loads((out / "report.json").read_text())
        assert len(report["series"]["interpolated_mm"]) == 2
        assert "filled by interpolation" in report["series"]["notes"][0]

    def test_several_that_fit(
        self, tiny_bundle: Bundle, study: Path, tmp_path: Path, make_scan: Callable[..., Volume]
    ) -> None:
        save(study, datasets(make_scan(7, "T1w"), 7, **T1W), prefix="IM7")
        with pytest.raises(InputError, match=r"2 series of T1w: 3 .*; 7 .*--series 3"):
            run(tiny_bundle, study, tmp_path / "out")
        out = run(tiny_bundle, study, tmp_path / "out", series="7")
        assert json.loads((out / "report.json").read_text())["series"]["number"] == 7

    def test_a_wrong_series(self, tiny_bundle: Bundle, study: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="holds no series '8'; there are: 3 "):
            run(tiny_bundle, study, tmp_path / "out", series="8")
        with pytest.raises(InputError, match="is a derived map"):
            run(tiny_bundle, study, tmp_path / "out", series="9")
        with pytest.raises(InputError, match="is T2w already"):
            run(tiny_bundle, study, tmp_path / "out", series="4", to="T2w")

    def test_what_is_synthetic(self, tiny_bundle: Bundle, study: Path, tmp_path: Path) -> None:
        out = run(tiny_bundle, study, tmp_path / "out")
        with pytest.raises(InputError, match=r"is synthetic already.*--force"):
            run(tiny_bundle, out, tmp_path / "back")
        back = run(tiny_bundle, out, tmp_path / "back", force=True)
        assert io.read(back).contrast == "T1w"

    def test_nifti_does_not_become_dicom(
        self, tiny_bundle: Bundle, make_scan: Callable[..., Volume], tmp_path: Path
    ) -> None:
        path = io.write(make_scan(6, "T1w"), tmp_path / "in" / "a_T1w.nii.gz")
        for image in (path, path.parent):
            with pytest.raises(OutputError, match="cannot become DICOM: it has no patient"):
                run(tiny_bundle, image, tmp_path / "out", form="dicom")
            with pytest.raises(InputError, match="is not a DICOM series"):
                run(tiny_bundle, image, tmp_path / "out", series="3")
        with pytest.raises(SettingsError, match="'form' cannot be 'jpeg'"):
            run(tiny_bundle, path, tmp_path / "out", form="jpeg")

    @pytest.mark.parametrize(
        ("out", "how", "match"),
        [
            (".", {}, "folder of the source"),
            ("inside", {}, "folder of the source"),
            ("../made.png", {}, "name of a file; a derived series has many"),
            ("../made.dcm", {}, "name of a file; a derived series has many"),
            ("../made.nii", {"form": "dicom"}, "name of a NIfTI file"),
        ],
    )
    def test_places(self, out: str, how: Any, match: str, tiny_bundle: Bundle, study: Path) -> None:
        with pytest.raises(OutputError, match=match):
            run(tiny_bundle, study, study / out, **how)

    def test_requests_for_other_formats(
        self, tiny_bundle: Bundle, study: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match="is DICOM"):
            run(tiny_bundle, study, tmp_path / "out", volume=1)
        with pytest.raises(SettingsError, match="'form' cannot be 'jpeg'"):
            run(tiny_bundle, study, tmp_path / "out", form="jpeg")


class TestLeftOut:
    """What is not translated is listed, on the terminal and in the report."""

    def test_series_and_files(
        self,
        tiny_bundle: Bundle,
        study: Path,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        copied = sorted(study.glob("IM3*"))[2]
        (study / "copied").write_bytes(copied.read_bytes())
        caplog.set_level(logging.INFO)
        with pytest.warns(MrbridgeWarning, match="1 file is a copy of another"):
            out = run(tiny_bundle, study, tmp_path / "out")
        report = json.loads((out / "report.json").read_text())
        reasons = {item["number"]: item["reason"] for item in report["not_translated"]}
        assert reasons == {4: "not chosen", 9: "is a derived map (DIFFUSION, ADC)"}
        files = {item["reason"]: item["files"] for item in report["ignored"]}
        assert files == {"is not a DICOM file": 1, "is a copy of another file": 1}
        assert "copy of another" in report["series"]["notes"][0]
        for line in (
            "left out: series 4 (T2w): not chosen",
            "left out: series 9 (derived map): is a derived map (DIFFUSION, ADC)",
            "left out: 1 file: is not a DICOM file",
            "left out: 1 file: is a copy of another file",
        ):
            assert line in caplog.messages

    def test_next_to_nifti(self, tiny_bundle: Bundle, study: Path, tmp_path: Path) -> None:
        run(tiny_bundle, study, tmp_path / "made.nii.gz")
        left_out = json.loads((tmp_path / "made.json").read_text())["LeftOut"]
        assert {item["number"] for item in left_out["not_translated"]} == {4, 9}
        assert left_out["ignored"] == [{"files": 1, "reason": "is not a DICOM file"}]

    def test_other_parts_of_the_series(
        self, tiny_bundle: Bundle, tmp_path: Path, make_scan: Callable[..., Volume]
    ) -> None:
        for echo, time in enumerate((12, 98)):
            made = datasets(make_scan(6, "T2w"), 5, **(T2W | {"EchoTime": time}))
            for one in made:
                one.SOPInstanceUID = f"1.2.{echo}.{one.InstanceNumber}"
            save(tmp_path / "in", made, prefix=f"echo{echo}-")
        out = run(tiny_bundle, tmp_path / "in", tmp_path / "out", series="5:2")
        (other,) = json.loads((out / "report.json").read_text())["not_translated"]
        assert (other["number"], other["part"], other["contrast"]) == (5, 1, "PDw")


class TestStorage:
    """However a scan is stored, its translation is the same and lies in the same place."""

    def same(self, model: Bundle, scan: Volume, folder: Path, made: list[Dataset]) -> Path:
        plain, other = folder / "plain", folder / "other"
        save(plain, datasets(scan, **T1W))
        if not other.exists():
            save(other, made)
        first = io.read(run(model, plain, folder / "out-plain"))
        assert inspect(other).items[0].problem is None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MrbridgeWarning)
            out = run(model, other, folder / "out")
            second = io.read(out)
        np.testing.assert_allclose(second.affine, first.affine, atol=1e-4)
        np.testing.assert_array_equal(second.voxels, first.voxels)
        for path in out.glob("*.dcm"):
            one = pydicom.dcmread(path)
            assert one.PhotometricInterpretation == "MONOCHROME2"
            assert "PixelPaddingValue" not in one
            assert "NumberOfFrames" not in one
        return out

    @pytest.mark.parametrize("value", [-2000, 30000])
    def test_padding(
        self, value: int, tiny_bundle: Bundle, make_scan: Callable[..., Volume], tmp_path: Path
    ) -> None:
        scan = make_scan(6, "T1w")
        voxels = scan.voxels.astype(np.int16)
        made = datasets(scan, **T1W)
        for k, one in enumerate(made):
            pixels = voxels[:, :, k].copy()
            pixels[:2] = pixels[-2:] = value  # where there is air
            one.PixelRepresentation, one.BitsStored, one.HighBit = 1, 16, 15
            one.PixelData = np.ascontiguousarray(pixels.T).tobytes()
            one.add_new("PixelPaddingValue", "SS", value)
        voxels[:2] = voxels[-2:] = voxels[2:-2].min()
        self.same(tiny_bundle, replace(scan, voxels=voxels), tmp_path, made)

    def test_monochrome1(
        self, tiny_bundle: Bundle, make_scan: Callable[..., Volume], tmp_path: Path
    ) -> None:
        scan = make_scan(6, "T1w")
        scan = replace(scan, voxels=scan.voxels - scan.voxels.min())
        made = datasets(scan, PhotometricInterpretation="MONOCHROME1", **T1W)
        for one in made:
            pixels = scan.voxels.max() - np.frombuffer(one.PixelData, "<u2")
            one.PixelData, one["PixelData"].VR = pixels.astype("<u2").tobytes(), "OW"
        self.same(tiny_bundle, scan, tmp_path, made)

    def test_frames_of_a_classic_image(
        self, tiny_bundle: Bundle, make_scan: Callable[..., Volume], tmp_path: Path
    ) -> None:
        scan = make_scan(6, "T1w")
        made = datasets(scan, **T1W)
        spacing = float(np.linalg.norm(scan.affine[:3, 2]))
        # The normal runs along the third axis of a right-handed affine, else against it.
        sign = np.sign(np.linalg.det(scan.affine[:3, :3]))
        one = in_frames(made, SpacingBetweenSlices=f"{sign * spacing:.9f}")
        out = self.same(tiny_bundle, scan, tmp_path, [one])
        assert len(list(out.glob("*.dcm"))) == scan.voxels.shape[2]

    def test_without_preamble(
        self, tiny_bundle: Bundle, make_scan: Callable[..., Volume], tmp_path: Path
    ) -> None:
        scan = make_scan(6, "T1w")
        for number, one in enumerate(datasets(scan, **T1W)):
            save_bare(tmp_path / "other" / f"{number}", one)
        self.same(tiny_bundle, scan, tmp_path, [])

    def test_directions_that_differ_by_rounding(
        self, tiny_bundle: Bundle, make_scan: Callable[..., Volume], tmp_path: Path
    ) -> None:
        scan = make_scan(6, "T1w")
        made = datasets(scan, **T1W)
        random = np.random.default_rng(0)
        for one in made:
            cosines = np.array(one.ImageOrientationPatient, float) + random.uniform(-2e-6, 2e-6, 6)
            one.ImageOrientationPatient = [f"{value:.7f}" for value in cosines]
        plain = io.read(save(tmp_path / "plain", datasets(scan, **T1W))[0].parent)
        save(tmp_path / "other", made)
        read = io.read(run(tiny_bundle, tmp_path / "other", tmp_path / "out"))
        np.testing.assert_allclose(read.affine, plain.affine, atol=1e-3)


def test_no_patient_is_named(
    as_shipped: Bundle,
    study: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither in messages, nor in names, nor in the report; the user names the folder."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.chdir(study)
    for arguments in (
        ["inspect", ".", "-v"],
        ["inspect", ".", "--json"],
        ["translate", "-i", ".", "-o", str(tmp_path / "out"), "-v", "--device", "cpu"],
        ["translate", "-i", ".", "-o", str(tmp_path / "made.nii.gz"), "-v", "--device", "cpu"],
        ["translate", "-i", str(study), "-o", str(tmp_path / "i.nii.gz"), "--dtype", "int16"],
        ["translate", "-i", ".", "-o", str(tmp_path / "out"), "-v", "--series", "99"],
    ):
        with pytest.raises(SystemExit):
            cli.main(arguments)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["ignored"] == [{"files": 1, "reason": "is not a DICOM file"}]
    texts = [*capfd.readouterr(), caplog.text]
    texts += [path.name for path in tmp_path.rglob("*") if study not in (path, *path.parents)]
    texts += [path.read_text() for path in [tmp_path / "out/report.json", tmp_path / "made.json"]]
    for text in texts:
        assert NAME.split("^")[0] not in text


def test_another_grid(tiny_bundle: Bundle, study: Path, tmp_path: Path) -> None:
    """NIfTI may have it, a derived series not."""
    with pytest.raises(OutputError, match="has the slices of its source"):
        run(tiny_bundle, study, tmp_path / "out", spacing=2)
    made = io.read(run(tiny_bundle, study, tmp_path / "out.nii.gz", spacing=2))
    assert made.spacing == pytest.approx((2, 2, 2))
