"""Derived series: geometry, tags, other readers, atomic writing."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, strategies as st
from pydicom.dataset import Dataset
from tests.io.test_dicom_read import by_dcm2niix
from tests.studies import (
    FRAME_OF_REFERENCE,
    NAME,
    STUDY,
    T1W,
    T2W,
    datasets,
    enhanced,
    marked,
    positions_of,
    save,
    values_at,
    write_series as write_source,
)

from mrbridge import io
from mrbridge.errors import MrbridgeWarning, OutputError
from mrbridge.io.dicom import Origin, find_series, write_series
from mrbridge.io.dicom.write import quantise
from mrbridge.volume import Volume

ORIGIN = Origin("T2w", "mrbridge", "1.2.3", "ab" * 32)
REPORT = {"SyntheticData": True, "GeneratedBy": [{"Name": "mrbridge"}], "series": {}}


def derived(source: Path, out: Path, voxels: np.ndarray | None = None, **how: Any) -> list[Dataset]:
    """Write a synthesis of a study's one series: noise that is not integers, unless given."""
    scan = io.read(source, **how)
    if voxels is None:
        voxels = np.random.default_rng(4).uniform(0, 812.5, scan.voxels.shape)
    made = replace(scan, voxels=voxels.astype(np.float32), contrast="T2w", synthetic=True)
    return [pydicom.dcmread(path) for path in write_series(made, out, ORIGIN, REPORT)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A T1w series of seven oblique slices."""
    write_source(tmp_path / "source")
    return tmp_path / "source"


@given(
    low=st.one_of(st.just(0.0), st.floats(-1e5, -1e-3), st.floats(1e-3, 1e5)),
    width=st.one_of(st.just(0.0), st.floats(1e-3, 1e6)),
    seed=st.integers(0, 1000),
)
def test_quantising_loses_half_a_step_and_keeps_zero(low: float, width: float, seed: int) -> None:
    values = np.random.default_rng(seed).uniform(low, low + width, 500).astype(np.float32)
    values[::7] = 0
    stored, slope, intercept = quantise(values)
    back = stored * slope + intercept
    values = values.astype(np.float64)
    span = max(values.max(), 0) - min(values.min(), 0)
    assert np.abs(back - values).max() <= 0.51 * slope + 1e-9 * np.abs(values).max()
    assert slope <= max(1.0, span / 65000)
    assert np.abs(back[::7]).max() <= (1e-9 * span if values.min() < 0 else 0)


def test_whole_numbers_are_kept() -> None:
    values = np.arange(65536, dtype=np.float32)
    stored, slope, intercept = quantise(values)
    np.testing.assert_array_equal(stored, values)
    assert (slope, intercept) == (1, 0)


class TestPlace:
    def test_slices_have_the_positions_of_their_sources(self, source: Path, tmp_path: Path) -> None:
        before = {tuple(one.ImagePositionPatient): one for one in _files(source)}
        made = derived(source, tmp_path / "out")
        assert len(made) == len(before) == 7
        for one in made:
            twin = before[tuple(one.ImagePositionPatient)]
            for keyword in ("ImageOrientationPatient", "PixelSpacing", "SliceThickness", "Rows"):
                assert one[keyword].value == twin[keyword].value
            assert one.InstanceNumber == twin.InstanceNumber
        np.testing.assert_array_equal(io.read(tmp_path / "out").affine, io.read(source).affine)

    def test_the_voxels_come_back(self, source: Path, tmp_path: Path) -> None:
        voxels = np.random.default_rng(4).uniform(0, 812.5, (20, 24, 7)).astype(np.float32)
        voxels[0] = 0
        derived(source, tmp_path / "out", voxels)
        read = io.read(tmp_path / "out")
        assert np.abs(read.voxels - voxels).max() < 812.5 / 65000
        assert (read.voxels[0] == 0).all()
        assert read.synthetic

    def test_other_readers_read_the_same(self, source: Path, tmp_path: Path) -> None:
        sitk = pytest.importorskip("SimpleITK")
        highdicom = pytest.importorskip("highdicom")
        made = derived(source, tmp_path / "out")
        ours = io.read(tmp_path / "out")
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "out")))
        image = reader.Execute()
        np.testing.assert_allclose(
            sitk.GetArrayFromImage(image).T.astype(np.float32), ours.voxels, rtol=1e-6
        )
        np.testing.assert_allclose(
            image.GetOrigin() * np.array([-1, -1, 1]), ours.affine[:3, 3], atol=1e-3
        )
        np.testing.assert_allclose(image.GetSpacing(), ours.spacing, atol=1e-4)
        theirs = by_dcm2niix(tmp_path / "nifti", tmp_path / "out")
        found = values_at(ours.voxels, ours.affine, positions_of(theirs))
        np.testing.assert_allclose(theirs.voxels.ravel(), found, rtol=1e-6)
        series = [highdicom.imread(path) for path in sorted((tmp_path / "out").glob("*.dcm"))]
        volume = highdicom.get_volume_from_series(series)
        affine = np.diag([-1, -1, 1, 1]) @ volume.affine
        found = values_at(ours.voxels, ours.affine, positions_of(Volume(volume.array, affine)))
        np.testing.assert_allclose(volume.array.ravel(), found, rtol=1e-6)
        assert len(made) == 7

    def test_an_enhanced_source_gives_classic_files(self, tmp_path: Path) -> None:
        (path,) = save(tmp_path / "source", [enhanced(marked())])
        made = derived(tmp_path / "source", tmp_path / "out")
        assert len(made) == 7
        (item,) = made[0].SourceImageSequence
        assert item.ReferencedSOPInstanceUID == pydicom.dcmread(path).SOPInstanceUID
        assert sorted(item.ReferencedFrameNumber) == list(range(1, 8))
        read = io.read(tmp_path / "out")
        np.testing.assert_allclose(read.affine, marked().affine, atol=1e-8)

    def test_a_filled_gap_is_reported(self, tmp_path: Path) -> None:
        paths = write_source(tmp_path / "source")
        paths[3].unlink()
        with pytest.warns(MrbridgeWarning, match="interpolation"):
            made = derived(tmp_path / "source", tmp_path / "out", allow_gaps=True)
        assert len(made) == 7
        np.testing.assert_allclose(io.read(tmp_path / "out").affine, marked().affine, atol=1e-6)
        is_marked = ["THIS SLICE" in one.ImageComments for one in made]
        assert sum(is_marked) == 1
        assert made[is_marked.index(True)].InstanceNumber == 4
        assert all("1 of 7 slices was missing" in one.DerivationDescription for one in made)
        assert all(len(one.SourceImageSequence) == 6 for one in made)


class TestWords:
    def test_an_unusual_source_is_named(self, source: Path, tmp_path: Path) -> None:
        scan = io.read(source)
        made = replace(scan, voxels=scan.voxels.astype(np.float32), synthetic=True)
        origin = replace(ORIGIN, input_check="unusual")
        for path in write_series(made, tmp_path / "out", origin, REPORT):
            comments = pydicom.dcmread(path).ImageComments
            assert "Input check of the source: unusual for this model." in comments

    def test_what_stays_and_what_is_new(self, source: Path, tmp_path: Path) -> None:
        before, made = _files(source), derived(source, tmp_path / "out")
        for one in made:
            assert one.StudyInstanceUID == STUDY
            assert one.FrameOfReferenceUID == FRAME_OF_REFERENCE
            assert (one.PatientName, one.PatientID) == (NAME, "4711")
            assert one.SeriesNumber == 5001
        uids = {one.SOPInstanceUID for one in made}
        assert len(uids) == 7
        assert not uids & {one.SOPInstanceUID for one in before}
        assert len({one.SeriesInstanceUID for one in made} - {before[0].SeriesInstanceUID}) == 1

    def test_it_is_marked_everywhere(self, source: Path, tmp_path: Path) -> None:
        sources = {one.SOPInstanceUID for one in _files(source)}
        for one in derived(source, tmp_path / "out"):
            assert one.ImageType[:2] == ["DERIVED", "SECONDARY"]
            assert one.SyntheticData == "YES"
            for keyword in ("SeriesDescription", "ImageComments", "DerivationDescription"):
                assert one[keyword].value.startswith("SYNTHETIC T2w")
                assert "not for diagnosis" in one[keyword].value.lower()
            assert one.BurnedInAnnotation == "NO"
            referenced = one.SourceImageSequence
            assert {item.ReferencedSOPInstanceUID for item in referenced} == sources
            purposes = {i.PurposeOfReferenceCodeSequence[0].CodeValue for i in referenced}
            assert purposes == {"121322"}
            scanner, program = one.ContributingEquipmentSequence
            assert scanner.Manufacturer == "Phantom"
            assert (program.Manufacturer, program.SoftwareVersions) == ("mrbridge", "1.2.3")
            assert one.DerivationCodeSequence[0].CodingSchemeDesignator == "DCM"

    def test_outdated_tags_are_dropped(self, source: Path, tmp_path: Path) -> None:
        for one in derived(source, tmp_path / "out"):
            assert not [element for element in one.iterall() if element.tag.is_private]
            for keyword in ("EchoTime", "RepetitionTime", "EchoTrainLength", "ScanOptions"):
                assert one[keyword].value in (None, "")  # type 2: they must stand there
            for keyword in ("InversionTime", "SequenceName", "FlipAngle", "ProtocolName"):
                assert keyword not in one
            assert one.ScanningSequence == "RM"
            assert NAME not in f"{one.SeriesDescription} {one.ImageComments}"

    def test_the_window_shows_the_image(self, source: Path, tmp_path: Path) -> None:
        one = derived(source, tmp_path / "out")[0]
        low = one.WindowCenter - one.WindowWidth / 2
        assert low == pytest.approx(8, abs=8)
        assert low + one.WindowWidth == pytest.approx(808, abs=8)
        assert one.RescaleType == "US"

    def test_the_number_is_free(self, tmp_path: Path) -> None:
        write_source(tmp_path / "source", number=5)
        write_source(tmp_path / "source", number=5001, **T2W)
        assert derived(tmp_path / "source", tmp_path / "out", series="5")[0].SeriesNumber == 5002

    def test_lossy_stays_lossy(self, tmp_path: Path) -> None:
        write_source(tmp_path / "a", LossyImageCompression="01", LossyImageCompressionRatio=[9])
        write_source(tmp_path / "b")
        assert derived(tmp_path / "a", tmp_path / "out")[0].LossyImageCompression == "01"
        assert derived(tmp_path / "b", tmp_path / "out")[0].LossyImageCompression == "00"

    def test_names_in_other_scripts_are_kept(self, tmp_path: Path) -> None:
        made = datasets(marked(), **T1W)
        for one in made:
            one.SpecificCharacterSet = ["ISO 2022 IR 6", "ISO 2022 IR 87"]
            one.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"
        save(tmp_path / "source", made)
        assert derived(tmp_path / "source", tmp_path / "out")[0].PatientName == made[0].PatientName

    @pytest.mark.parametrize(
        ("named", "text"), [("ISO_IR 13", "ﾔﾏﾀﾞ".encode("shift_jis")), ("ISO_IR 192", b"M\xfcller")]
    )
    def test_texts_are_kept_byte_by_byte(self, named: str, text: bytes, tmp_path: Path) -> None:
        """Half-width katakana, and bytes that are not those of the character set."""
        plain = "q" * len(text)
        write_source(tmp_path / "source", SpecificCharacterSet=named, StudyDescription=plain)
        for path in (tmp_path / "source").iterdir():
            path.write_bytes(path.read_bytes().replace(plain.encode(), text))
        derived(tmp_path / "source", tmp_path / "out")
        assert all(text in path.read_bytes() for path in (tmp_path / "out").glob("*.dcm"))

    @pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
    def test_odd_values_are_kept(self, tmp_path: Path) -> None:
        write_source(tmp_path / "source", PatientBirthDate="17.03.1970", PatientSex="?")
        made = derived(tmp_path / "source", tmp_path / "out")
        assert made[0].PatientSex == "?"

    def test_dciodvfy_finds_no_new_error(self, source: Path, tmp_path: Path) -> None:
        folders = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
        program = shutil.which("dciodvfy", path=os.pathsep.join(folders))
        if program is None:
            pytest.skip("dciodvfy (dicom3tools) is not installed")
        paths = write_source(tmp_path / "gap")
        paths[3].unlink()
        (tmp_path / "enhanced").mkdir()
        save(tmp_path / "enhanced", [enhanced(marked())])
        derived(source, tmp_path / "out")
        derived(tmp_path / "enhanced", tmp_path / "out-enhanced")
        with pytest.warns(MrbridgeWarning):
            derived(tmp_path / "gap", tmp_path / "out-gap", allow_gaps=True)
        # Of an unpaired part of the body nothing needs to be said, or an empty laterality.
        write_source(tmp_path / "brain", BodyPartExamined="BRAIN")
        write_source(tmp_path / "side", Laterality="")
        for name in ("brain", "side"):
            made = derived(tmp_path / name, tmp_path / f"out-{name}")
            assert made[0].SeriesNumber == 5001
            before = _complaints(program, [next((tmp_path / name).iterdir())])
            assert _complaints(program, sorted((tmp_path / f"out-{name}").glob("*.dcm"))) <= before
        known = _complaints(program, [next(source.iterdir())])
        for out in ("out", "out-enhanced", "out-gap"):
            files = sorted((tmp_path / out).glob("*.dcm"))
            assert _complaints(program, files) <= known


def _complaints(program: str, files: list[Path]) -> set[str]:
    found: set[str] = set()
    for file in files:
        result = subprocess.run([program, file], capture_output=True, text=True, check=False)
        assert "MRImage" in result.stderr + result.stdout, "it did not recognise an MR image"
        lines = (result.stderr + result.stdout).splitlines()
        found |= {line for line in lines if "Error" in line}
    return found


class TestSafety:
    def test_equal_work_gives_equal_bytes(self, source: Path, tmp_path: Path) -> None:
        derived(source, tmp_path / "1")
        derived(source, tmp_path / "2")
        first, second = (
            {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "12"
        )
        assert first == second

    def test_other_voxels_are_another_series(self, source: Path, tmp_path: Path) -> None:
        one = derived(source, tmp_path / "1")[0]
        other = derived(source, tmp_path / "2", np.full((20, 24, 7), 3.0))[0]
        assert one.SeriesInstanceUID != other.SeriesInstanceUID
        assert one.SOPInstanceUID != other.SOPInstanceUID

    def test_a_failure_leaves_the_old_output_whole(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        derived(source, tmp_path / "out")
        before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        save_as = Dataset.save_as

        def full(self: Dataset, path: Path, **how: Any) -> None:
            if path.name == "0004.dcm":
                raise OSError(28, "No space left on device")
            save_as(self, path, **how)

        monkeypatch.setattr(Dataset, "save_as", full)
        with pytest.raises(OutputError, match="No space left"):
            derived(source, tmp_path / "out", np.full((20, 24, 7), 3.0))
        assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]

    def test_what_does_not_come_back_is_refused(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_as = Dataset.save_as

        def rotten(self: Dataset, path: Path, **how: Any) -> None:
            self.PixelData = self.PixelData[:-2] + b"\1\0"
            save_as(self, path, **how)

        monkeypatch.setattr(Dataset, "save_as", rotten)
        with pytest.raises(OutputError, match="was not read back"):
            derived(source, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_an_earlier_output_is_replaced_and_nothing_else_is(
        self, source: Path, tmp_path: Path
    ) -> None:
        derived(source, tmp_path / "out")
        derived(source, tmp_path / "out", np.full((20, 24, 7), 3.0))
        assert (io.read(tmp_path / "out").voxels == 3).all()
        (tmp_path / "out" / "thesis.txt").write_text("mine")
        with pytest.raises(OutputError, match="holds other files"):
            derived(source, tmp_path / "out")
        with pytest.raises(OutputError, match="holds other files"):
            derived(source, source)

    def test_only_dicom_becomes_dicom(self, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="only what was DICOM can become DICOM"):
            write_series(marked(), tmp_path / "out", ORIGIN, REPORT)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_what_is_not_finite_is_refused(
        self, value: float, source: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(OutputError, match="not finite"):
            derived(source, tmp_path / "out", np.full((20, 24, 7), value))
        assert not (tmp_path / "out").exists()


def _files(folder: Path) -> list[Dataset]:
    return [pydicom.dcmread(path) for path in folder.iterdir()]


def test_its_own_series_is_recognised(source: Path, tmp_path: Path) -> None:
    derived(source, tmp_path / "out")
    (series,) = find_series(tmp_path / "out").series
    assert (series.kind, series.contrast, series.number) == ("synthetic", "T2w", 5001)
    assert "synthetic already" in str(series.why_not)


@pytest.mark.parametrize("mark", ["SeriesDescription", "ImageComments", "SyntheticData"])
def test_one_mark_of_several_is_enough(mark: str, source: Path, tmp_path: Path) -> None:
    """De-identification strips tags: one mark must be enough."""
    derived(source, tmp_path / "out")
    for path in (tmp_path / "out").glob("*.dcm"):
        one = pydicom.dcmread(path)
        for keyword in {"SeriesDescription", "ImageComments", "SyntheticData"} - {mark}:
            delattr(one, keyword)
        one.ImageType = ["DERIVED", "SECONDARY"]
        one.save_as(path)
    assert find_series(tmp_path / "out").series[0].kind == "synthetic"


@pytest.mark.slow
def test_a_kill_at_any_instant_leaves_a_whole_series(source: Path, tmp_path: Path) -> None:
    """A writer that replaces its output again and again is killed at random."""
    code = (
        "import sys, numpy as np\n"
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "from mrbridge import io\n"
        "from mrbridge.io.dicom import Origin, write_series\n"
        "scan = io.read(sys.argv[1])\n"
        "for number in range(1, 10**6):\n"
        "    made = replace(scan, voxels=np.full(scan.voxels.shape, number, np.float32))\n"
        "    write_series(made, Path(sys.argv[2]), Origin('T2w', 'mrbridge', '1', 'ab' * 32),\n"
        f"                 {REPORT})\n"
        "    print(number, flush=True)\n"
    )
    rng = random.Random(5)
    out = tmp_path / "out" / "series"
    for _ in range(12):
        command = [sys.executable, "-c", code, str(source), str(out)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(rng.uniform(0, 0.3))
            writer.kill()
            last = max([int(line) for line in writer.stdout] or [1])
        (series,) = find_series(out).series
        voxels = io.read(out).voxels
        assert len(series.slices) == 7
        assert voxels.min() == voxels.max()
        assert voxels.max() in (last, last + 1)
        assert (out / "report.json").is_file()
    derived(source, out)
    assert [path.name for path in out.parent.iterdir()] == ["series"]
