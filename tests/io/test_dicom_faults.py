"""What is wrong with a study is named, and nobody's name is."""

from __future__ import annotations

import logging
import re
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGLosslessSV1,
    generate_uid,
)
from tests.io.test_dicom_read import compress
from tests.studies import MR, NAME, T1W, T2W, datasets, enhanced, marked, save, write_series

from mrbridge import io
from mrbridge.errors import InputError
from mrbridge.io.dicom import choose_series, find_series
from mrbridge.io.dicom import files as dicom_files


@pytest.fixture(autouse=True)
def _nobody_is_named(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Any:
    """Whatever goes wrong in these tests, the patient's name is not told."""
    caplog.set_level(logging.DEBUG)
    yield
    out, err = capfd.readouterr()
    for text in (out, err, caplog.text):
        assert NAME.split("^")[0] not in text


def refused(path: Path, match: str, **how: Any) -> InputError:
    with pytest.raises(InputError, match=match) as caught:
        io.read(path, **how)
    assert caught.value.remedy
    assert caught.value.path is not None
    assert NAME.split("^")[0] not in str(caught.value)
    return caught.value


class TestSlices:
    def test_a_missing_slice_is_named_by_its_neighbours(self, tmp_path: Path) -> None:
        paths = write_series(tmp_path)
        paths[3].unlink()
        told = r"1 of 7 slices is missing .* at -?[\d.]+ mm, between image 5 and image 3\)"
        error = refused(tmp_path, told + ".*--allow-gaps")
        assert not any(path.name in str(error) for path in paths), "it may be the patient's name"

    def test_two_gaps(self, tmp_path: Path) -> None:
        paths = write_series(tmp_path, marked((5, 6, 12)))
        for place in (2, 6, 7):
            paths[place].unlink()
        refused(tmp_path, r"3 of 12 slices are missing .*the one at.*; 2 from")

    def test_a_slice_that_is_there_twice(self, tmp_path: Path) -> None:
        paths = write_series(tmp_path)
        (tmp_path / "copy").write_bytes(paths[4].read_bytes())
        error = refused(tmp_path, r"1 slice is there twice \(image 3 at", allow_gaps=True)
        assert "copy" not in str(error)

    def test_two_slices_at_one_place(self, tmp_path: Path) -> None:
        made = datasets(marked(), **T1W)
        made[4].ImagePositionPatient = made[3].ImagePositionPatient
        save(tmp_path, made)
        refused(tmp_path, "1 slice is there twice .image (4 and image 3|3 and image 4) at")

    def test_two_volumes_in_one_series(self, tmp_path: Path) -> None:
        for number in range(2):
            made = datasets(marked(seed=number), AcquisitionNumber=number + 1, **T1W)
            for one in made:
                one.SOPInstanceUID = generate_uid()
            save(tmp_path, made, prefix=f"time{number}-")
        refused(tmp_path, "holds 2 images at each of 7 places")

    def test_slices_unevenly_apart(self, tmp_path: Path) -> None:
        made = datasets(marked())
        place = np.array(made[3].ImagePositionPatient, float)
        normal = np.cross(*np.array(made[3].ImageOrientationPatient, float).reshape(2, 3))
        made[3].ImagePositionPatient = [f"{value:.6f}" for value in place + 1.2 * normal]
        save(tmp_path, made)
        refused(tmp_path, "not evenly apart", allow_gaps=True)

    def test_planes_that_are_not_parallel(self, tmp_path: Path) -> None:
        made = datasets(marked())
        made[3].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        save(tmp_path, made)
        refused(tmp_path, "not parallel")

    def test_slices_beside_their_line(self, tmp_path: Path) -> None:
        made = datasets(marked())
        place = np.array(made[3].ImagePositionPatient, float)
        made[3].ImagePositionPatient = list(
            place + 5 * np.array(made[3].ImageOrientationPatient[:3], float)
        )
        save(tmp_path, made)
        refused(tmp_path, "not evenly apart|not on one line")

    @pytest.mark.parametrize(
        ("keyword", "value", "match"),
        [
            ("ImagePositionPatient", None, "does not say where it lies"),
            ("ImagePositionPatient", ["1", "2"], "does not say where it lies"),
            ("ImageOrientationPatient", [0, 0, 0, 0, 0, 0], "does not say where it lies"),
            ("PixelSpacing", None, "pixel spacing"),
            ("PixelSpacing", [0, 0], "pixel spacing"),
            ("Rows", 23, "differ in size"),
            ("StudyInstanceUID", "1.2.3", "several studies"),
            ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7", "is not an MR image"),
            ("RescaleSlope", 0, "slope is 0"),
            ("PhotometricInterpretation", "MONOCHROME1", "unusual way"),
        ],
    )
    def test_a_header_that_lacks_or_spoils(
        self, keyword: str, value: Any, match: str, tmp_path: Path
    ) -> None:
        made = datasets(marked())
        setattr(made[3], keyword, value)
        save(tmp_path, made)
        refused(tmp_path, match)


class TestFiles:
    def test_junk_is_left_out(self, tmp_path: Path) -> None:
        write_series(tmp_path)
        (tmp_path / "README").write_text("hello")
        (tmp_path / "mesh.stl").write_bytes(bytes(500))
        (tmp_path / "empty").touch()
        (tmp_path / ".DS_Store").write_bytes(b"x")
        assert io.read(tmp_path).voxels.shape == (20, 24, 7)
        told = {path.name: reason for path, reason in find_series(tmp_path).ignored}
        assert sorted(told) == ["README", "empty", "mesh.stl"]
        assert told["README"] == "is no DICOM file"

    def test_no_dicom_at_all(self, tmp_path: Path) -> None:
        (tmp_path / "README").write_text("hello")
        with pytest.raises(InputError, match="holds no DICOM series"):
            choose_series(find_series(tmp_path), None)

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
    def test_a_truncated_file(self, share: float, tmp_path: Path) -> None:
        paths = write_series(tmp_path)
        whole = paths[3].read_bytes()
        paths[3].write_bytes(whole[: int(len(whole) * share)])
        error = refused(tmp_path, "missing|damaged|truncated|ends before|does not say|in size")
        assert paths[3].name in str(error)

    @pytest.mark.parametrize("place", [0, 3, 6])
    def test_a_damaged_file_is_not_taken_for_junk(self, place: int, tmp_path: Path) -> None:
        """Without it, a slice at the end would be missing without a word."""
        paths = write_series(tmp_path)
        paths[place].write_bytes(paths[place].read_bytes()[:200])
        assert refused(tmp_path, "damaged or truncated|does not say").path == paths[place]

    @pytest.mark.parametrize("size", [0, 100])
    def test_nor_is_one_that_has_lost_its_beginning(self, size: int, tmp_path: Path) -> None:
        paths = write_series(tmp_path)
        paths[6].write_bytes(paths[6].read_bytes()[:size])
        assert refused(tmp_path, "is named like the DICOM files beside it").path == paths[6]

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b"\x00\x52\x30\x92SQ", b"\x00\x52\x30\x92S\xd1"),  # a type that does not exist
            (b"-23.", b"-2?."),  # a number that is none
        ],
    )
    def test_enhanced_values_that_cannot_be_parsed(
        self, old: bytes, new: bytes, tmp_path: Path
    ) -> None:
        (path,) = save(tmp_path, [enhanced(marked())])
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new))
        refused(tmp_path, "damaged|where it lies|promises|pixel spacing")

    def test_an_index_of_files_is_left_out(self, tmp_path: Path) -> None:
        write_series(tmp_path)
        index = Dataset()
        index.DirectoryRecordSequence = []
        index.file_meta = FileMetaDataset()
        index.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        index.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
        index.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        index.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
        assert io.read(tmp_path).voxels.shape == (20, 24, 7)
        assert "DICOMDIR" in find_series(tmp_path).ignored[0][1]

    def test_a_truncated_enhanced_file(self, tmp_path: Path) -> None:
        (path,) = save(tmp_path, [enhanced(marked())])
        path.write_bytes(path.read_bytes()[:-1000])
        refused(tmp_path, "damaged or truncated")

    def test_frames_that_are_not_described(self, tmp_path: Path) -> None:
        one = enhanced(marked())
        one.NumberOfFrames = 9
        save(tmp_path, [one])
        assert find_series(tmp_path).damaged[0].what == "promises 9 frames and describes 7"

    def test_a_file_alone_is_read_alone(self, tmp_path: Path) -> None:
        paths = write_series(tmp_path)
        assert io.read(paths[2]).voxels.shape == (20, 24, 1)

    def test_a_volume_over_the_limit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_series(tmp_path)
        monkeypatch.setattr("mrbridge.io.dicom.read.MAX_VOXELS", 1000)
        refused(tmp_path, "over 1000 voxels")

    @pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
    def test_a_deflated_bomb(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        one = datasets(marked((9, 9, 1)))[0]
        one.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        one.add_new("ImageComments", "LT", " " * 10_000_000)
        (path,) = save(tmp_path, [one])
        assert path.stat().st_size < 100_000
        monkeypatch.setattr(dicom_files, "MAX_INFLATED", 9_000_000)
        refused(tmp_path, "grows to more than 9000000 bytes")

    def test_a_decoder_that_ends_its_process(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """GDCM aborts on some damaged files; here its process is ended before it answers."""
        for path in write_series(tmp_path):
            compress(path, JPEGLosslessSV1)
        popen = subprocess.Popen

        def ended(arguments: list[str], **how: Any) -> Any:
            return popen([*arguments[:1], "-c", "import os; os.abort()"], **how)

        monkeypatch.setattr("mrbridge.io.dicom.decode.subprocess.Popen", ended)
        refused(tmp_path, r"IM\d+: its pixels are damaged or truncated")

    def test_a_decoder_that_does_not_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for path in write_series(tmp_path):
            compress(path, JPEGLosslessSV1)
        monkeypatch.setattr("mrbridge.io.dicom.decode._MOST_SECONDS", 0.0)
        refused(tmp_path, r"IM\d+: its pixels are damaged or truncated")

    def test_a_length_that_lies_takes_no_memory(self, tmp_path: Path) -> None:
        path = write_series(tmp_path)[0]
        with dicom_files.DicomFile(path, path.stat().st_size).open() as file:
            assert file.read(2**62) == path.read_bytes()
            assert file.read(2**62) == b""

    def test_too_many_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_series(tmp_path)
        monkeypatch.setattr(dicom_files, "MAX_FILES", 5)
        refused(tmp_path, "more than 5 files")


class TestZip:
    @pytest.fixture
    def archive(self, tmp_path: Path) -> Path:
        write_series(tmp_path / "study")
        path = tmp_path / "study.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in (tmp_path / "study").iterdir():
                archive.write(file, file.name)
        return path

    def test_a_bomb(self, archive: Path) -> None:
        data = bytearray(archive.read_bytes())
        entry = data.rindex(b"PK\x01\x02")
        data[entry + 24 : entry + 28] = (2**31).to_bytes(4, "little")
        archive.write_bytes(data)
        refused(archive, r"promises \d+ bytes out of \d+")

    def test_a_cut_one(self, archive: Path) -> None:
        archive.write_bytes(archive.read_bytes()[:-200])
        refused(archive, "no whole zip")

    def test_a_flipped_bit(self, archive: Path) -> None:
        with zipfile.ZipFile(archive) as opened:
            info = opened.infolist()[3]
        for share in (0.2, 0.5, 0.9):
            data = bytearray(archive.read_bytes())
            inside = info.header_offset + 30 + len(info.filename)
            data[inside + int(share * info.compress_size)] ^= 16
            archive.with_name(f"{share}.zip").write_bytes(data)
            error = refused(archive.with_name(f"{share}.zip"), "damaged|cannot be read|is no DICOM")
            assert info.filename in str(error)

    def test_a_flipped_bit_in_a_header_is_found_in_the_list(self, tmp_path: Path) -> None:
        """Else the slice would belong to another series, and be missing without a word."""
        paths = write_series(tmp_path / "study")
        archive = tmp_path / "stored.zip"
        with zipfile.ZipFile(archive, "w") as opened:
            for path in paths:
                opened.write(path, path.name)
        data = bytearray(archive.read_bytes())
        uid = find_series(paths[0]).series[0].uid.encode()
        data[data.index(uid) + len(uid) - 1] ^= 1
        archive.write_bytes(data)
        assert paths[0].name in str(refused(archive, "damaged"))

    def test_a_name_that_cannot_be_decoded(self, archive: Path) -> None:
        with zipfile.ZipFile(archive) as opened:
            info = opened.infolist()[3]
        data = bytearray(archive.read_bytes())
        data[info.header_offset + 7] |= 8  # APPNOTE.TXT, 4.4.4: the name is in UTF-8
        data[info.header_offset + 31] = 0xAB
        archive.write_bytes(data)
        assert info.filename in str(refused(archive, "damaged"))

    def test_an_encrypted_one(self, archive: Path) -> None:
        data = bytearray(archive.read_bytes())
        entry = data.rindex(b"PK\x01\x02")
        data[entry + 8] |= 1
        archive.write_bytes(data)
        refused(archive, "is encrypted")

    def test_members_that_climb_out_are_read_in_place(self, archive: Path, tmp_path: Path) -> None:
        with zipfile.ZipFile(archive, "a") as opened:
            opened.writestr("../../climbed", "not DICOM")
        before = sorted(tmp_path.rglob("*"))
        assert io.read(archive).voxels.shape == (20, 24, 7)
        assert sorted(tmp_path.rglob("*")) == before


LOCALISER = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
KINDS = {
    "localizer": lambda: datasets(marked(), 1, **(T1W | LOCALISER)),
    "localizer by name": lambda: datasets(marked(), 1, **(T1W | {"SeriesDescription": "3-pl Loc"})),
    "anatomical by planes": lambda: three_planes(),
    "mosaic": lambda: datasets(
        marked(), 1, **(T2W | {"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]})
    ),
    "derived map": lambda: datasets(
        marked(), 1, **(T2W | {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]})
    ),
    "ROI": lambda: datasets(marked(), 1, **(T2W | {"ImageType": ["DERIVED", "PRIMARY", "ROI"]})),
    "mask by name": lambda: datasets(marked(), 1, **(T2W | {"SeriesDescription": "ROI left"})),
    "agent": lambda: datasets(marked(), 1, **(T1W | {"ContrastBolusAgent": "Gadovist"})),
    "phase": lambda: datasets(marked(), 1, **(T2W | {"ImageType": ["ORIGINAL", "PRIMARY", "P"]})),
    "screen save": lambda: datasets(
        marked(), 1, SOPClassUID="1.2.840.10008.5.1.4.1.1.7", ImageType=["DERIVED", "SECONDARY"]
    ),
    "screen save in colour": lambda: in_colour(),
    "other modality": lambda: datasets(
        marked(), 1, SOPClassUID="1.2.840.10008.5.1.4.1.1.2", Modality="CT"
    ),
    "no image": lambda: [report()],
}


def three_planes() -> list[Dataset]:
    made = datasets(marked((9, 9, 3)), 1, **T1W)
    turns = ([1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1])
    for one, turn in zip(made, turns, strict=True):
        one.ImageOrientationPatient = turn
    return made


def in_colour() -> list[Dataset]:
    made = datasets(marked(), 1, **T2W)
    for one in made:
        one.SamplesPerPixel, one.PhotometricInterpretation = 3, "RGB"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PlanarConfiguration = 8, 8, 7, 0
        one.PixelData = bytes(one.Rows * one.Columns * 3)
    return made


def report() -> Dataset:
    one = datasets(marked(), 1)[0]
    one.SOPClassUID, one.Modality = "1.2.840.10008.5.1.4.1.1.88.11", "SR"
    del one.PixelData, one.Rows, one.Columns
    return one


class TestKinds:
    @pytest.mark.parametrize("kind", KINDS)
    def test_each_is_told_apart_and_refused(self, kind: str, tmp_path: Path) -> None:
        make: Callable[[], list[Dataset]] = KINDS[kind]
        save(tmp_path, make())
        (series,) = find_series(tmp_path).series
        assert series.kind == kind.split(" by ")[0].split(" in ")[0]
        assert not series.is_image
        assert series.why_not
        refused(tmp_path, "holds no series that can be used")
        refused(tmp_path, re.escape(series.what_is_wrong), series="1")

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_anatomy_beside_it_is_found(self, kind: str, tmp_path: Path) -> None:
        save(tmp_path, KINDS[kind](), prefix="other")
        write_series(tmp_path)
        assert io.read(tmp_path).voxels.shape == (20, 24, 7)


class TestSeveral:
    @pytest.fixture
    def study(self, tmp_path: Path) -> Path:
        write_series(tmp_path, number=3)
        write_series(tmp_path, number=4, **T2W)
        write_series(tmp_path, number=7, **(T1W | {"SeriesDescription": "t1 again"}))
        return tmp_path

    def test_they_are_listed(self, study: Path) -> None:
        refused(study, r"holds 3 series: 3 't1 mprage' \(T1w, 7 slices\); 4 .*--series")

    def test_one_is_chosen_by_contrast(self, study: Path) -> None:
        assert choose_series(find_series(study), ["T2w"]).number == 4
        assert choose_series(find_series(study), ["FLAIR", "T2w"]).number == 4
        with pytest.raises(InputError, match=r"holds 2 series of T1w: 3 .*; 7 "):
            choose_series(find_series(study), ["T1w"])
        with pytest.raises(InputError, match="holds no FLAIR series"):
            choose_series(find_series(study), ["FLAIR"])

    def test_one_is_named(self, study: Path) -> None:
        assert io.read(study, series="4").contrast == "T2w"
        uid = choose_series(find_series(study), None, "7").uid
        assert choose_series(find_series(study), None, uid).number == 7

    def test_a_wrong_name(self, study: Path) -> None:
        refused(study, r"holds no series '9'; there are: 3 ", series="9")

    def test_one_number_in_two_studies(self, study: Path) -> None:
        made = datasets(marked(seed=8), 3, **T1W)
        for one in made:
            one.StudyInstanceUID, one.SOPInstanceUID = "1.2.3", generate_uid()
            one.SeriesInstanceUID = "1.2.3.4"
        save(study, made, prefix="second")
        refused(study, "holds 2 series that '3' may mean", series="3")
        assert io.read(study, series="1.2.3.4").voxels.shape == (20, 24, 7)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_odd_values_are_no_crash(tmp_path: Path) -> None:
    """Values that break the rules of their type, as old exports have them."""
    made = datasets(marked(), **T1W)
    for one in made:
        one.PatientBirthDate, one.PatientName = "17.03.1970", NAME * 9
        one.SeriesNumber = None
        one.add_new("EchoNumbers", "IS", "1")
    paths = save(tmp_path, made)
    for path in paths:
        data = path.read_bytes()
        path.write_bytes(
            data.replace(b"\x18\x00\x80\x00DS\x06\x002300.0", b"\x18\x00\x80\x00DS\x06\x00a^b   ")
        )
    (series,) = find_series(tmp_path).series
    assert series.label == series.uid
    assert series.contrast == "T1w"
    assert "description" in series.contrast_reason


def test_descriptions_do_not_steer_the_terminal(tmp_path: Path) -> None:
    write_series(tmp_path, SeriesDescription="t1\x1b[2J\n mprage")
    assert find_series(tmp_path).series[0].description == "t1[2J mprage"


def test_private_tags_are_not_needed(tmp_path: Path) -> None:
    made = datasets(marked(), **T1W)
    for one in made:
        one.remove_private_tags()
    save(tmp_path, made)
    assert io.read(tmp_path).contrast == "T1w"
    assert made[0].SOPClassUID == MR
