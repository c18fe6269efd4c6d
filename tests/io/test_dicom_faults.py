"""Faults of a study are named, patients are not."""

from __future__ import annotations

import logging
import re
import subprocess
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from scipy.spatial.transform import Rotation
from tests.io.test_dicom_read import assert_same, compress
from tests.studies import (
    MR,
    NAME,
    T1W,
    T2W,
    datasets,
    enhanced,
    in_frames,
    marked,
    oblique,
    save,
    save_bare,
    write_series,
)

from mrbridge import io
from mrbridge.errors import InputError, MrbridgeWarning
from mrbridge.inspection.inspect import inspect
from mrbridge.io.dicom import choose_series, files as dicom_files, find_series
from mrbridge.volume import Volume


@pytest.fixture(autouse=True)
def _nobody_is_named(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Any:
    """No error or warning in these tests names the patient."""
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


def frames(change: Callable[[int, Dataset], None], parts: list[Volume]) -> Dataset:
    """Several volumes as one enhanced image; `change` marks the frames of each."""
    made = [enhanced(part, **T2W) for part in parts]
    one = made[0]
    groups = []
    for number, part in enumerate(made):
        for group in part.PerFrameFunctionalGroupsSequence:
            group.PlaneOrientationSequence = part.SharedFunctionalGroupsSequence[
                0
            ].PlaneOrientationSequence
            change(number, group)
            groups.append(group)
    one.PixelData, one["PixelData"].VR = b"".join(part.PixelData for part in made), "OW"
    del one.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
    one.PerFrameFunctionalGroupsSequence, one.NumberOfFrames = groups, len(groups)
    return one


class TestSlices:
    def test_a_missing_slice_is_named_by_its_neighbours(self, tmp_path: Path) -> None:
        paths = write_series(tmp_path)
        paths[3].unlink()
        words = r"1 of 7 slices is missing .* at -?[\d.]+ mm, between image 5 and image 3\)"
        error = refused(tmp_path, words + ".*--allow-gaps")
        assert not any(path.name in str(error) for path in paths), "it may be the patient's name"

    def test_two_gaps(self, tmp_path: Path) -> None:
        paths = write_series(tmp_path, marked((5, 6, 12)))
        for place in (2, 6, 7):
            paths[place].unlink()
        refused(tmp_path, r"3 of 12 slices are missing .*the one at.*; 2 from")

    @pytest.mark.parametrize(
        ("every", "stated", "words"),
        [
            (1, 4.5, None),
            (2, 4.5, "its slices are 9 mm apart, and SpacingBetweenSlices is 4.5 mm: .*1 slice of"),
            (3, 4.5, "it may lack 2 slices of every 3"),
            (1, 1.5, None),  # the gap between slices, as some scanners state it
        ],
    )
    def test_every_second_slice_is_missing(
        self, every: int, stated: float, words: str | None, tmp_path: Path
    ) -> None:
        made = datasets(marked(), SpacingBetweenSlices=stated, **T1W)
        save(tmp_path, made[::every])
        if words is None:
            assert io.read(tmp_path).voxels.shape[2] == 7
        else:
            with pytest.warns(MrbridgeWarning, match=words):
                io.read(tmp_path)

    def test_slices_at_an_end_are_missing(self, tmp_path: Path) -> None:
        made = datasets(marked(), ImagesInAcquisition="7", **T1W)
        save(tmp_path / "whole", made)
        assert io.read(tmp_path / "whole").voxels.shape[2] == 7
        save(tmp_path / "part", made[:5])
        with pytest.warns(MrbridgeWarning, match="has 5 images, and its header says 7"):
            io.read(tmp_path / "part")

    def test_two_slices_at_one_place(self, tmp_path: Path) -> None:
        made = datasets(marked(), **T1W)
        made[4].ImagePositionPatient = made[3].ImagePositionPatient
        save(tmp_path, made)
        refused(tmp_path, "1 slice is duplicated .image (4 and image 3|3 and image 4) at")

    def test_two_volumes_in_one_series(self, tmp_path: Path) -> None:
        for number in range(2):
            made = datasets(marked(seed=number), AcquisitionNumber=number + 1, **T1W)
            for one in made:
                one.SOPInstanceUID = generate_uid()
            save(tmp_path, made, prefix=f"time{number}-")
        refused(tmp_path, "holds 2 images at each of 7 positions")

    @pytest.mark.parametrize("thickness", ["4.5", None])
    @pytest.mark.parametrize("again", [True, False])
    def test_two_volumes_half_a_step_apart_in_one_acquisition(
        self, thickness: str | None, again: bool, tmp_path: Path
    ) -> None:
        """Only the numbers of the images tell them apart; each volume may be numbered from 1."""
        first, second = marked(), marked(seed=2)
        second.affine[:3, 3] += second.affine[:3, 2] / 2
        made = [*datasets(first, **T1W), *datasets(second, **T1W)]
        for place, one in enumerate(made):
            one.SOPInstanceUID, one.SliceThickness = generate_uid(), thickness
            one.InstanceNumber = place % 7 if again else place
        save(tmp_path, made)
        if thickness is None:
            with pytest.warns(MrbridgeWarning, match="it may be several acquisitions"):
                io.read(tmp_path)
            return
        refused(tmp_path, r"holds 2 series.*5:1.*from image 0,.*5:2.*from image (0|7),")
        for number, volume in enumerate((first, second), start=1):
            assert_same(io.read(tmp_path, series=f"5:{number}"), volume)

    @pytest.mark.parametrize("keyword", ["SeriesNumber", "RepetitionTime", "InversionTime"])
    def test_several_acquisitions_next_to_one_another(self, keyword: str, tmp_path: Path) -> None:
        made = datasets(marked(), **T1W)
        for one in made[:3]:
            setattr(one, keyword, getattr(one, keyword) + 700)
        save(tmp_path, made)
        refused(tmp_path, rf"its images are of several acquisitions \({keyword} from \d+ to \d+")

    def test_times_that_follow_a_trigger(self, tmp_path: Path) -> None:
        made = datasets(marked(), **T1W)
        for place, one in enumerate(made):
            one.RepetitionTime += 10 * place
        save(tmp_path, made)
        assert_same(io.read(tmp_path), marked())

    @pytest.mark.parametrize("kind", ["classic", "stacks", "frames"])
    def test_two_volumes_half_a_step_apart(self, kind: str, tmp_path: Path) -> None:
        first, second = marked(), marked(seed=2)
        second.affine[:3, 3] += second.affine[:3, 2] / 2
        volumes = (first, second)
        if kind == "classic":
            for number, volume in enumerate(volumes, start=1):
                made = datasets(volume, AcquisitionNumber=number, **T1W)
                for one in made:
                    one.SOPInstanceUID = generate_uid()
                save(tmp_path, made, prefix=f"time{number}-")
        else:
            keyword = "StackID" if kind == "stacks" else "FrameAcquisitionNumber"

            def mark(number: int, group: Dataset) -> None:
                value = number + 1
                content = group.FrameContentSequence[0]
                setattr(content, keyword, str(value) if keyword == "StackID" else value)

            save(tmp_path, [frames(mark, [first, second])])
        refused(tmp_path, "holds 2 series.*5:1.*(stack|acquisition) 1.*5:2")
        for number, volume in enumerate(volumes, start=1):
            assert_same(io.read(tmp_path, series=f"5:{number}"), volume)

    def test_an_interleaved_acquisition_is_one_volume(self, tmp_path: Path) -> None:
        made = datasets(marked(), **T1W)
        for place, one in enumerate(made):
            one.AcquisitionNumber = place % 2 + 1
        save(tmp_path, made)
        assert_same(io.read(tmp_path), marked())

    def test_slices_unevenly_apart(self, tmp_path: Path) -> None:
        made = datasets(marked())
        place = np.array(made[3].ImagePositionPatient, float)
        normal = np.cross(*np.array(made[3].ImageOrientationPatient, float).reshape(2, 3))
        made[3].ImagePositionPatient = [f"{value:.6f}" for value in place + 1.2 * normal]
        save(tmp_path, made)
        refused(tmp_path, "not evenly spaced", allow_gaps=True)

    def test_planes_that_are_not_parallel(self, tmp_path: Path) -> None:
        made = datasets(marked())
        made[3].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        save(tmp_path, made)
        refused(tmp_path, r"not parallel: 1 of 7 are in another plane \(image 4: axial")

    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_a_few_of_another_plane_are_named(self, count: int, tmp_path: Path) -> None:
        made = datasets(axial(12), **T1W)
        for one in made[:count]:
            one.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
        save(tmp_path, made)
        words = f"{count} of 12 are in another plane .*image 12.*coronal; the others: axial"
        refused(tmp_path, words)
        (series,) = find_series(tmp_path).series
        assert series.kind == "anatomical"
        assert "image 12" in str(inspect(tmp_path).items[0].problem)

    def test_slices_off_their_line(self, tmp_path: Path) -> None:
        made = datasets(marked())
        place = np.array(made[3].ImagePositionPatient, float)
        made[3].ImagePositionPatient = list(
            place + 5 * np.array(made[3].ImageOrientationPatient[:3], float)
        )
        save(tmp_path, made)
        refused(tmp_path, "not evenly spaced|not on one line")

    @pytest.mark.parametrize(
        ("keyword", "value", "match"),
        [
            ("ImagePositionPatient", None, "has no position or orientation"),
            ("ImagePositionPatient", ["1", "2"], "has no position or orientation"),
            ("ImageOrientationPatient", [0, 0, 0, 0, 0, 0], "has no position or orientation"),
            ("PixelSpacing", None, "pixel spacing"),
            ("PixelSpacing", [0, 0], "pixel spacing"),
            ("Rows", 23, "its header promises 920"),
            ("Columns", 23, "its header promises"),
            ("StudyInstanceUID", "1.2.3", "several studies"),
            ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7", "is not an MR image"),
            ("RescaleSlope", 0, "slope is 0"),
            ("PhotometricInterpretation", "MONOCHROME1", "differ in PhotometricInterpretation"),
        ],
    )
    def test_a_header_that_lacks_or_spoils(
        self, keyword: str, value: Any, match: str, tmp_path: Path
    ) -> None:
        made = datasets(marked())
        setattr(made[3], keyword, value)
        save(tmp_path, made)
        refused(tmp_path, match)


def axial(slices: int, size: int = 64, mm: float = 1.0, tilt: float = 0.0) -> Volume:
    """Slices that are axial, or tilted by so many degrees."""
    affine = np.diag([-mm, -mm, 2.0, 1.0])
    affine[:3, :3] = Rotation.from_euler("x", tilt, degrees=True).as_matrix() @ affine[:3, :3]
    voxels = np.random.default_rng(3).integers(0, 900, (size, size, slices)).astype(np.uint16)
    return Volume(voxels, affine)


class TestTolerance:
    """Directions and positions that differ by rounding are one volume (dwv #1877, dcmstack #42)."""

    @pytest.mark.parametrize("tilt", [0, 2.866, 4.589, 8.627, 30, 45])
    @pytest.mark.parametrize("jitter", [2e-6, 1e-4, 1e-3])
    def test_of_directions(self, jitter: float, tilt: float, tmp_path: Path) -> None:
        volume = axial(9, tilt=tilt)
        made = datasets(volume, **T1W)
        random = np.random.default_rng(1)
        for one in made:
            cosines = np.array(one.ImageOrientationPatient, float)
            one.ImageOrientationPatient = [
                f"{value:.7f}" for value in cosines + random.uniform(-jitter, jitter, 6)
            ]
        save(tmp_path, made)
        read = io.read(tmp_path)
        np.testing.assert_array_equal(read.voxels, volume.voxels)
        corners = np.array(np.meshgrid(*[[0, n - 1] for n in volume.voxels.shape])).reshape(3, -1)
        apart = (read.affine - volume.affine) @ np.vstack([corners, np.ones(8)])
        assert np.abs(apart).max() < 64 * 1.5 * jitter + 1e-4

    @pytest.mark.parametrize("degrees", [2, 5, 90])
    def test_rotated_slices_are_not_averaged(self, degrees: float, tmp_path: Path) -> None:
        made = datasets(axial(12), **T1W)
        turn = Rotation.from_euler("y", degrees, degrees=True)
        cosines = np.array(made[0].ImageOrientationPatient, float).reshape(2, 3)
        made[0].ImageOrientationPatient = [f"{v:.9f}" for v in turn.apply(cosines).ravel()]
        save(tmp_path, made)
        refused(tmp_path, "not parallel: 1 of 12")

    @pytest.mark.parametrize("jitter", [1e-4, 1e-2, 0.05])
    def test_of_positions(self, jitter: float, tmp_path: Path) -> None:
        volume = axial(9, tilt=20)
        made = datasets(volume, **T1W)
        random = np.random.default_rng(1)
        for one in made:
            place = np.array(one.ImagePositionPatient, float) + random.uniform(-jitter, jitter, 3)
            one.ImagePositionPatient = [f"{value:.6f}" for value in place]
        save(tmp_path, made)
        read = io.read(tmp_path)
        np.testing.assert_array_equal(read.voxels, volume.voxels)
        assert np.abs((read.affine - volume.affine)[:3]).max() < jitter + 1e-5

    def test_of_pixel_spacing(self, tmp_path: Path) -> None:
        made = datasets(axial(9), **T1W)
        for number, one in enumerate(made):
            one.PixelSpacing = ["1.0000", f"1.000{number % 3}"]
        save(tmp_path, made)
        assert io.read(tmp_path).voxels.shape == (64, 64, 9)
        made[0].PixelSpacing = ["1.0", "1.1"]
        save(tmp_path, made)
        refused(tmp_path, "pixel spacing varies")

    def test_pixel_spacing_of_the_detector(self, tmp_path: Path) -> None:
        made = datasets(axial(9), SpacingBetweenSlices="0", **T1W)
        for one in made:
            one.ImagerPixelSpacing = one.PixelSpacing
            del one.PixelSpacing, one.SliceThickness
        save(tmp_path, made)
        with pytest.warns(MrbridgeWarning, match="ImagerPixelSpacing"):
            read = io.read(tmp_path)
        np.testing.assert_allclose(read.affine, axial(9).affine, atol=1e-9)

    def test_a_wrong_thickness(self, tmp_path: Path) -> None:
        made = datasets(axial(9), SpacingBetweenSlices="7.5", **T1W)
        for one in made:
            one.SliceThickness = "0.001"
        save(tmp_path, made)
        np.testing.assert_allclose(io.read(tmp_path).affine, axial(9).affine, atol=1e-9)


class TestPixelData:
    @pytest.mark.parametrize("high", [15, 12, 3])
    def test_bits_in_another_place_are_refused(self, high: int, tmp_path: Path) -> None:
        """They would be read as other values (PS3.5, 8.1.1)."""
        save(tmp_path, datasets(marked(), HighBit=high, **T1W))
        refused(tmp_path, rf"its HighBit is {high} with 12 BitsStored, not 11 .*\(7 of 7 files\)")

    """Their length is what the header promises, and at most one byte of padding more."""

    @pytest.mark.parametrize("overlay", [None, 0, 15])
    def test_bits_beyond_those_of_pixels(self, overlay: int | None, tmp_path: Path) -> None:
        """An overlay may be there; larger values than BitsStored allows are cut off."""
        made = datasets(marked(), **T1W)
        for one in made[:3]:
            pixels = np.frombuffer(one.PixelData, "<u2") | np.uint16(0x8000)
            one.PixelData, one["PixelData"].VR = pixels.tobytes(), "OW"
            if overlay is not None:  # 0: apart from the pixels
                one.add_new((0x6000, 0x0102), "US", overlay)
        save(tmp_path, made)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            np.testing.assert_array_equal(io.read(tmp_path).voxels, marked().voxels)
        messages = [str(one.message) for one in caught]
        words = "3 images have pixels with bits beyond the 12 of BitsStored, which are not read"
        assert messages == ([] if overlay else [f"series 5: {words}"])

    @pytest.mark.parametrize("largest", [2047, 2048, 9000])
    def test_bits_beyond_those_of_signed_pixels(self, largest: int, tmp_path: Path) -> None:
        """12 bits hold up to 2047 with a sign: larger values are another number, even a negative
        one, and are reported."""
        voxels = np.where(marked().voxels == 4000, largest, marked().voxels.astype(int) - 50)
        stored = Volume(voxels.astype("<i2").view("<u2"), oblique())
        save(tmp_path, datasets(stored, PixelRepresentation=1, **T1W))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            read = io.read(tmp_path).voxels
        messages = [str(one.message) for one in caught]
        words = "not copies of the sign: large values may have become negative"
        assert [words in message for message in messages] == [True] * (largest > 2047)
        np.testing.assert_array_equal(read, (voxels + 2048) % 4096 - 2048)

    @pytest.mark.parametrize("more", [2, 960, -2, -480])
    def test_another_length_is_refused(self, more: int, tmp_path: Path) -> None:
        made = datasets(marked(), **T1W)
        for one in made:
            size = len(one.PixelData) + more
            one.PixelData, one["PixelData"].VR = (one.PixelData * 2)[:size], "OW"
        save(tmp_path, made)
        refused(tmp_path, rf"hold {960 + more} bytes; its header promises 960 \(7 of 7 files\)")
        assert "promises 960" in str(inspect(tmp_path).items[0].problem)

    def test_one_byte_of_padding(self, tmp_path: Path) -> None:
        voxels = marked((5, 5, 7)).voxels.astype(np.uint8)
        made = datasets(marked((5, 5, 7)), **T1W)
        for k, one in enumerate(made):
            one.BitsAllocated, one.BitsStored, one.HighBit = 8, 8, 7
            one.PixelData = np.ascontiguousarray(voxels[:, :, k].T).tobytes() + b"\0"
            one["PixelData"].VR = "OW"
        save(tmp_path, made)
        np.testing.assert_array_equal(io.read(tmp_path).voxels, voxels)

    @pytest.mark.parametrize("count", [3, 14])
    @pytest.mark.parametrize("kind", ["classic", "enhanced"])
    def test_frames(self, kind: str, count: int, tmp_path: Path) -> None:
        one = in_frames(datasets(marked(), **T1W), SpacingBetweenSlices="4.5")
        if kind == "enhanced":
            one = enhanced(marked())
        one.PixelData, one["PixelData"].VR = (one.PixelData * 2)[: count * 960], "OW"
        save(tmp_path, [one])
        refused(tmp_path, rf"hold {count * 960} bytes; its header promises {7 * 960}")

    @pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
    def test_compressed_frames(self, syntax: UID, tmp_path: Path) -> None:
        """One frame is promised, two are there."""
        for path in write_series(tmp_path):
            compress(path, syntax)
            one = pydicom.dcmread(path)
            (frame,) = generate_frames(one.PixelData, number_of_frames=1)
            one.PixelData = encapsulate([frame, frame], has_bot=False)
            one.save_as(path)
        refused(tmp_path, "hold 2 frames; its header promises 1")

    def test_another_series_is_not_to_blame(self, tmp_path: Path) -> None:
        paths = write_series(tmp_path, number=4, **T2W)
        paths[3].write_bytes(paths[3].read_bytes()[:-2])
        write_series(tmp_path, number=5)
        assert choose_series(find_series(tmp_path), ["T1w"]).number == 5
        error = refused(tmp_path, "damaged or truncated", series="4")
        assert error.path == paths[3]


class TestCopies:
    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("folder", ["study", "study/copied", "study/a/b"])
    def test_are_left_out(self, folder: str, packed: bool, tmp_path: Path) -> None:
        paths = write_series(tmp_path / "study")
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for path in paths[2:5]:
            (tmp_path / folder / f"{path.name} (1)").write_bytes(path.read_bytes())
        study = tmp_path / "study"
        if packed:
            with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
                for path in study.rglob("*"):
                    archive.write(path, path.relative_to(study))
            study = tmp_path / "study.zip"
        with pytest.warns(MrbridgeWarning, match="3 files are copies of others"):
            read = io.read(study)
        np.testing.assert_array_equal(read.voxels, marked().voxels)
        reasons = [reason for _, reason in find_series(study).ignored]
        assert reasons == ["is a copy of another file"] * 3
        found = inspect(study)
        assert found.items[0].problem is None
        assert "3 files are copies of others" in found.items[0].notes[0]

    @pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, None])
    def test_stored_in_another_way(self, syntax: UID | None, tmp_path: Path) -> None:
        write_series(tmp_path / "a")
        for path in write_series(tmp_path / "b"):
            if syntax is not None:
                compress(path, syntax)
            else:
                save_bare(path, pydicom.dcmread(path))
        with pytest.warns(MrbridgeWarning, match="7 files are copies"):
            read = io.read(tmp_path)
        np.testing.assert_array_equal(read.voxels, marked().voxels)

    def test_of_an_enhanced_image(self, tmp_path: Path) -> None:
        save(tmp_path / "a", [enhanced(marked())])
        save(tmp_path / "b", [enhanced(marked())])
        with pytest.warns(MrbridgeWarning, match="1 file is a copy of another"):
            assert io.read(tmp_path).voxels.shape == (20, 24, 7)

    @pytest.mark.parametrize(
        ("keyword", "value"),
        [
            ("PixelData", bytes(960)),
            ("RescaleSlope", 2),
            ("SeriesDescription", "t1 mprage post"),
            ("PixelSpacing", [1, 1]),
        ],
    )
    @pytest.mark.parametrize("count", [1, 3])
    def test_two_versions_are_refused(
        self, keyword: str, value: object, count: int, tmp_path: Path
    ) -> None:
        made = datasets(marked(), **T1W)
        save(tmp_path, made)
        for one in made[:count]:
            setattr(one, keyword, value)
        others = save(tmp_path, made[:count], prefix="other")
        error = refused(tmp_path, rf"{count} images? (is|are) present in two versions: .*image 7")
        assert error.path in [*others, *tmp_path.iterdir()]
        assert "remove the others" in error.remedy
        assert "two versions" in str(inspect(tmp_path).items[0].problem)

    def test_one_uid_for_all(self, tmp_path: Path) -> None:
        """As some anonymisers write it; where the images lie tells them apart."""
        made = datasets(marked(), **T1W)
        for one in made:
            one.SOPInstanceUID = "1.2.3"
        save(tmp_path, made)
        made[2].save_as(tmp_path / "copy", enforce_file_format=True)
        with pytest.warns(MrbridgeWarning, match="1 file is a copy"):
            read = io.read(tmp_path)
        np.testing.assert_array_equal(read.voxels, marked().voxels)


class TestEnhanced:
    def test_two_stacks(self, tmp_path: Path) -> None:
        def stack(number: int, group: Dataset) -> None:
            group.FrameContentSequence[0].StackID = str(number + 1)

        tra = marked()
        cor = Volume(marked(seed=4).voxels, oblique((90, 5, 10)))
        save(tmp_path, [frames(stack, [tra, cor])])
        refused(tmp_path, r"5:1 .*stack 1.*5:2 .*stack 2")
        for label, volume in (("5:1", tra), ("5:2", cor)):
            read = io.read(tmp_path, series=label)
            assert_same(read, volume)
        assert [item.name for item in inspect(tmp_path).items] == ["5:1", "5:2"]

    def test_two_stacks_of_one_volume(self, tmp_path: Path) -> None:
        volume = marked()
        one = enhanced(volume, **T2W)
        for group in one.PerFrameFunctionalGroupsSequence:
            content = group.FrameContentSequence[0]
            content.StackID = "1" if content.InStackPositionNumber < 4 else "2"
        save(tmp_path, [one])
        assert_same(io.read(tmp_path), volume)

    def test_two_points_in_time(self, tmp_path: Path) -> None:
        def time(number: int, group: Dataset) -> None:
            group.FrameContentSequence[0].TemporalPositionIndex = number + 1

        save(tmp_path, [frames(time, [marked(), marked(seed=2)])])
        refused(tmp_path, "is a dynamic series of 2 points in time")
        assert "2 points in time" in str(inspect(tmp_path).items[0].problem)

    def test_two_echoes(self, tmp_path: Path) -> None:
        def echo(number: int, group: Dataset) -> None:
            item = Dataset()
            item.EffectiveEchoTime = (12.0, 98.0)[number]
            group.MREchoSequence = [item]

        first, second = marked(), marked(seed=2)
        save(tmp_path, [frames(echo, [first, second])])
        assert_same(io.read(tmp_path, series="5:1"), first)
        assert_same(io.read(tmp_path, series="5:2"), second)

    def test_slopes_and_positions_are_each_frames_own(self, tmp_path: Path) -> None:
        """Also where the top of the header holds such tags, which belong to no frame."""
        volume = marked()
        one = enhanced(volume, **T2W)
        one.ImagePositionPatient, one.RescaleSlope, one.RescaleIntercept = [1, 2, 3], 9, 9
        for group in one.PerFrameFunctionalGroupsSequence:
            item = Dataset()
            item.RescaleSlope = group.FrameContentSequence[0].InStackPositionNumber
            item.RescaleIntercept = 3
            group.PixelValueTransformationSequence = [item]
        save(tmp_path, [one])
        read = io.read(tmp_path)
        expected = volume.voxels * np.arange(1, 8) + 3
        np.testing.assert_allclose(read.voxels, expected)


class TestFiles:
    def test_junk_is_left_out(self, tmp_path: Path) -> None:
        write_series(tmp_path)
        (tmp_path / "README").write_text("hello")
        (tmp_path / "mesh.stl").write_bytes(bytes(500))
        (tmp_path / "empty").touch()
        (tmp_path / ".DS_Store").write_bytes(b"x")
        assert io.read(tmp_path).voxels.shape == (20, 24, 7)
        reasons = {path.name: reason for path, reason in find_series(tmp_path).ignored}
        assert sorted(reasons) == ["README", "empty", "mesh.stl"]
        assert reasons["README"] == "is not a DICOM file"

    def test_no_dicom_at_all(self, tmp_path: Path) -> None:
        (tmp_path / "README").write_text("hello")
        with pytest.raises(InputError, match="holds no DICOM series"):
            choose_series(find_series(tmp_path), None)

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
    def test_a_truncated_file(self, share: float, tmp_path: Path) -> None:
        paths = write_series(tmp_path)
        whole = paths[3].read_bytes()
        paths[3].write_bytes(whole[: int(len(whole) * share)])
        error = refused(tmp_path, "missing|damaged|truncated|ends before|does not state|in size")
        assert paths[3].name in str(error)

    @pytest.mark.parametrize("place", [0, 3, 6])
    def test_a_damaged_file_is_not_taken_for_junk(self, place: int, tmp_path: Path) -> None:
        """Without it, a slice at the end would be missing silently."""
        paths = write_series(tmp_path)
        paths[place].write_bytes(paths[place].read_bytes()[:200])
        assert refused(tmp_path, "damaged or truncated|does not state").path == paths[place]
        assert "may be a slice of it" in str(inspect(tmp_path).items[0].problem)

    @pytest.mark.parametrize("size", [0, 100])
    def test_a_file_without_its_beginning_is_damaged(self, size: int, tmp_path: Path) -> None:
        paths = write_series(tmp_path)
        paths[6].write_bytes(paths[6].read_bytes()[:size])
        assert refused(tmp_path, "is named like the DICOM files next to it").path == paths[6]

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b"\x00\x52\x30\x92SQ", b"\x00\x52\x30\x92S\xd1"),  # a type that does not exist
            (b"-23.", b"-2?."),  # not a number
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
        index.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.1.3.10")
        index.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
        index.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
        assert io.read(tmp_path).voxels.shape == (20, 24, 7)
        assert "DICOMDIR" in find_series(tmp_path).ignored[0][1]
        refused(tmp_path / "DICOMDIR", r"holds no DICOM series .*is an index of files \(DICOMDIR")

    def test_a_truncated_enhanced_file(self, tmp_path: Path) -> None:
        (path,) = save(tmp_path, [enhanced(marked())])
        path.write_bytes(path.read_bytes()[:-1000])
        refused(tmp_path, "damaged or truncated")

    def test_frames_that_are_not_described(self, tmp_path: Path) -> None:
        one = enhanced(marked())
        one.NumberOfFrames = 9
        save(tmp_path, [one])
        assert find_series(tmp_path).damaged[0].what == "promises 9 frames and describes 7"

    def test_a_single_file_is_read(self, tmp_path: Path) -> None:
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

    def test_a_wrong_length_takes_no_memory(self, tmp_path: Path) -> None:
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

    def test_truncated(self, archive: Path) -> None:
        archive.write_bytes(archive.read_bytes()[:-200])
        refused(archive, "not a complete zip")

    def test_a_flipped_bit(self, archive: Path) -> None:
        with zipfile.ZipFile(archive) as opened:
            info = opened.infolist()[3]
        for share in (0.2, 0.5, 0.9):
            data = bytearray(archive.read_bytes())
            inside = info.header_offset + 30 + len(info.filename)
            data[inside + int(share * info.compress_size)] ^= 16
            archive.with_name(f"{share}.zip").write_bytes(data)
            error = refused(archive.with_name(f"{share}.zip"), "damaged|cannot be read|not a DICOM")
            assert info.filename in str(error)

    def test_a_flipped_bit_in_a_header_is_found_in_the_list(self, tmp_path: Path) -> None:
        """Else the slice would belong to another series, and be missing silently."""
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
    "localizer by planes": lambda: three_planes(),
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
    def test_each_is_recognised_and_refused(self, kind: str, tmp_path: Path) -> None:
        make: Callable[[], list[Dataset]] = KINDS[kind]
        save(tmp_path, make())
        (series,) = find_series(tmp_path).series
        assert series.kind == kind.split(" by ")[0].split(" in ")[0]
        assert not series.is_image
        assert series.why_not
        refused(tmp_path, "holds no series that can be used")
        refused(tmp_path, re.escape(series.what_is_wrong), series="1")

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_anatomical_series_next_to_it_is_found(self, kind: str, tmp_path: Path) -> None:
        save(tmp_path, KINDS[kind](), prefix="other")
        write_series(tmp_path)
        assert io.read(tmp_path).voxels.shape == (20, 24, 7)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"SeriesDescription": "t2 tse"}, "though its description says T2w"),
        ({"AcquisitionContrast": "T2"}, "though its acquisition contrast says T2w"),
    ],
)
def test_a_header_that_contradicts_itself(tags: dict[str, str], words: str, tmp_path: Path) -> None:
    save(tmp_path, datasets(marked(), **T1W | tags))
    with pytest.warns(MrbridgeWarning, match=f"series 5: is taken for T1w: .*{words}"):
        assert io.read(tmp_path).contrast == "T1w"


@pytest.mark.parametrize(
    "tags",
    [
        {"SeriesDescription": "T1 synthetic"},
        {"ImageComments": "made by SynthSR"},
        {"ImageType": ["DERIVED", "SECONDARY", "SYNTHETIC"]},
    ],
)
def test_a_series_that_says_that_it_is_synthetic(tags: dict[str, Any], tmp_path: Path) -> None:
    save(tmp_path, datasets(marked(), **T1W | tags))
    (series,) = find_series(tmp_path).series
    assert series.why_not == "is synthetic already"


class TestOneImageIsUnlikeTheOthers:
    """Tags of the first image do not speak for all."""

    def written(self, folder: Path, index: int, **tags: Any) -> Path:
        made = datasets(marked(), **T1W)
        for keyword, value in tags.items():
            setattr(made[index], keyword, value)
        save(folder, made)
        return folder

    @pytest.mark.parametrize("index", [0, 3, 6])
    def test_another_scale(self, index: int, tmp_path: Path) -> None:
        made = datasets(marked(), **T1W)
        for n, one in enumerate(made):
            one.RescaleSlope, one.RescaleIntercept = ("4" if n == index else "2.01"), "0"
        save(tmp_path, made)
        words = f"1 image has .*image {made[index].InstanceNumber}: 4 and 0, not 2.01 and 0"
        with pytest.warns(MrbridgeWarning, match=words):
            io.read(tmp_path)

    def test_a_scale_of_its_own_for_every_image(self, tmp_path: Path) -> None:
        made = datasets(marked(), **T1W)
        for n, one in enumerate(made):
            one.RescaleSlope, one.RescaleIntercept = str(1 + n / 2), "0"
        save(tmp_path, made)
        assert not io.read(tmp_path).notes

    @pytest.mark.parametrize("index", [0, 3, 6])
    def test_a_contrast_agent(self, index: int, tmp_path: Path) -> None:
        self.written(tmp_path, index, ContrastBolusAgent="Gadovist")
        (series,) = find_series(tmp_path).series
        assert "ContrastBolusAgent 'Gadovist' in 1 of 7 images" in str(series.why_not)

    @pytest.mark.parametrize(
        "tags", [{"SyntheticData": "YES"}, {"ImageComments": "synthetic by mrbridge"}]
    )
    def test_a_synthetic_one(self, tags: dict[str, str], tmp_path: Path) -> None:
        self.written(tmp_path, 3, **tags)
        (series,) = find_series(tmp_path).series
        assert series.why_not == "is synthetic already"


@pytest.mark.parametrize("part", ["KNEE", "ABDOMEN", "LSPINE", "NECK"])
def test_another_part_of_the_body(part: str, tmp_path: Path) -> None:
    write_series(tmp_path, BodyPartExamined=part)
    with pytest.warns(MrbridgeWarning, match=f"another part of the body: {part}"):
        io.read(tmp_path)


@pytest.mark.parametrize("part", ["", "HEAD", "BRAIN", "HEADNECK", "HEAD NECK", "WHOLEBODY"])
def test_the_head_and_what_may_be_the_head(part: str, tmp_path: Path) -> None:
    write_series(tmp_path, BodyPartExamined=part)
    assert not io.read(tmp_path).notes


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
    assert "description" in series.identity.reason


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


def test_a_transfer_syntax_of_another_type_is_damage(tmp_path: Path) -> None:
    (path, *_) = write_series(tmp_path)
    content = path.read_bytes()
    place = content.index(b"\x02\x00\x10\x00UI")
    path.write_bytes(content[: place + 4] + b"SH" + content[place + 6 :])
    refused(tmp_path, "damaged or truncated|cannot be read|is damaged")
