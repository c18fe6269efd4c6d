"""Reading DICOM series: geometry against two other readers, then kinds of storage."""

from __future__ import annotations

import subprocess
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from tests.studies import (
    MR,
    T1W,
    T2W,
    datasets,
    enhanced,
    in_frames,
    marked,
    oblique,
    positions_of,
    save,
    save_bare,
    values_at,
    write_series,
)

from mrbridge import io
from mrbridge.errors import InputError, MrbridgeWarning
from mrbridge.inspection.inspect import inspect
from mrbridge.io.dicom import Series, find_series
from mrbridge.io.formats import starts_as_dicom
from mrbridge.volume import Volume


def assert_same(read: Volume, written: Volume) -> None:
    """Equal voxels at equal places, to 0.001 mm."""
    assert read.affine is not None
    assert read.voxels.size == written.voxels.size
    found = values_at(read.voxels, read.affine, positions_of(written))
    np.testing.assert_array_equal(found, written.voxels.ravel())


class TestGeometry:
    @settings(max_examples=15, deadline=None)
    @given(
        angles=st.tuples(*[st.floats(-180, 180)] * 3),
        spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
        shape=st.tuples(*[st.integers(1, 6)] * 3),
        handed=st.sampled_from([1, -1]),
        seed=st.integers(0, 99),
    )
    def test_any_orientation_order_and_shape(
        self,
        angles: tuple[float, ...],
        spacing: tuple[float, ...],
        shape: tuple[int, int, int],
        handed: int,
        seed: int,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> None:
        affine = oblique(angles)
        affine[:3, :3] = affine[:3, :3] / [0.7, 0.9, 4.5] * spacing * [1, 1, handed]
        voxels = np.random.default_rng(seed).integers(0, 4000, shape).astype(np.uint16)
        volume = Volume(voxels, affine)
        folder = tmp_path_factory.mktemp("series")
        save(folder, datasets(volume), seed)
        assert_same(io.read(folder), volume)

    def test_the_axes_are_those_of_the_images(self, tmp_path: Path) -> None:
        volume = marked()
        write_series(tmp_path, volume)
        read = io.read(tmp_path)
        np.testing.assert_allclose(read.affine, volume.affine, atol=1e-8)
        np.testing.assert_array_equal(read.voxels, volume.voxels)
        assert read.voxels.dtype == np.uint16
        assert read.contrast == "T1w"
        assert not read.synthetic

    def test_as_simpleitk_reads_it(self, tmp_path: Path) -> None:
        sitk = pytest.importorskip("SimpleITK")
        write_series(tmp_path)
        ours = io.read(tmp_path)
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
        image = reader.Execute()
        lps = np.eye(4)
        direction = np.array(image.GetDirection()).reshape(3, 3)
        lps[:3, :3], lps[:3, 3] = direction * image.GetSpacing(), image.GetOrigin()
        theirs = np.diag([-1, -1, 1, 1]) @ lps
        corners = np.array([[0, 0, 0, 1], [19, 23, 6, 1], [19, 0, 0, 1], [0, 23, 0, 1]]).T
        assert np.abs((theirs - ours.affine) @ corners).max() < 1e-3
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, ours.voxels)

    def test_as_dcm2niix_reads_it(self, tmp_path: Path) -> None:
        theirs = by_dcm2niix(tmp_path / "out", write_series(tmp_path / "in")[0].parent)
        assert_same(io.read(tmp_path / "in"), theirs)

    def test_as_highdicom_reads_it(self, tmp_path: Path) -> None:
        highdicom = pytest.importorskip("highdicom")
        write_series(tmp_path)
        ours = io.read(tmp_path)
        series = [highdicom.imread(path) for path in sorted(tmp_path.iterdir())]
        theirs = highdicom.get_volume_from_series(series)
        affine = np.diag([-1, -1, 1, 1]) @ theirs.affine
        assert_same(ours, Volume(theirs.array, affine))

    def test_one_slice(self, tmp_path: Path) -> None:
        volume = marked((9, 8, 1))
        write_series(tmp_path, volume)
        np.testing.assert_allclose(io.read(tmp_path).affine, volume.affine, atol=1e-8)


def by_dcm2niix(out: Path, folder: Path) -> Volume:
    """What dcm2niix makes of a folder."""
    import nibabel as nib

    program = pytest.importorskip("dcm2niix").bin
    out.mkdir()
    subprocess.run(
        [program, "-b", "n", "-z", "n", "-f", "made", "-o", out, folder],
        check=True,
        capture_output=True,
    )
    (path,) = out.glob("*.nii")
    image = nib.load(path)
    return Volume(np.asarray(image.dataobj), image.affine)


class TestStorage:
    def test_a_zip_reads_as_its_folder(self, tmp_path: Path) -> None:
        write_series(tmp_path / "study" / "deep")
        (tmp_path / "study" / "README").write_text("not an image")
        with zipfile.ZipFile(tmp_path / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted((tmp_path / "study").rglob("*")):
                archive.write(path, path.relative_to(tmp_path))
        from_zip, from_folder = io.read(tmp_path / "study.zip"), io.read(tmp_path / "study")
        np.testing.assert_array_equal(from_zip.voxels, from_folder.voxels)
        np.testing.assert_array_equal(from_zip.affine, from_folder.affine)

    @pytest.mark.parametrize(
        "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
    )
    def test_uncompressed_syntaxes(self, syntax: UID, tmp_path: Path) -> None:
        volume = marked()
        made = datasets(volume)
        for one in made:
            one.file_meta.TransferSyntaxUID = syntax
            if syntax == ExplicitVRBigEndian:
                one.PixelData = np.frombuffer(one.PixelData, "<u2").astype(">u2").tobytes()
            one.set_original_encoding(syntax.is_implicit_VR, syntax.is_little_endian)
        save(tmp_path, made)
        assert_same(io.read(tmp_path), volume)

    @pytest.mark.parametrize(
        "syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGLosslessSV1]
    )
    def test_compressed_syntaxes(self, syntax: UID, tmp_path: Path) -> None:
        volume = marked()
        for path in write_series(tmp_path, volume):
            compress(path, syntax)
        assert_same(io.read(tmp_path), volume)

    def test_an_unknown_compression_is_refused(self, tmp_path: Path) -> None:
        made = datasets(marked())
        for one in made:
            one.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.102")  # MPEG-4
            one.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
            one["PixelData"].is_undefined_length = True
        paths = save(tmp_path, made)
        with pytest.raises(
            InputError, match=r"IM\d+.*compressed as MPEG-4.*cannot be decoded"
        ) as e:
            io.read(tmp_path)
        assert e.value.path in paths

    def test_rescale(self, tmp_path: Path) -> None:
        volume = marked()
        write_series(tmp_path, volume, slope=0.25)
        read = io.read(tmp_path)
        assert read.voxels.dtype == np.float32
        np.testing.assert_array_equal(read.voxels, volume.voxels * 0.25 - 10)

    def test_slopes_that_differ_by_slice(self, tmp_path: Path) -> None:
        volume = marked()
        made = datasets(volume)
        for k, one in enumerate(made):
            one.RescaleSlope, one.RescaleIntercept = k + 1, 0
        save(tmp_path, made)
        np.testing.assert_array_equal(io.read(tmp_path).voxels, volume.voxels * np.arange(1, 8))

    @pytest.mark.parametrize("slope", [None, 0.5])
    def test_enhanced(self, slope: float | None, tmp_path: Path) -> None:
        volume = marked()
        save(tmp_path, [enhanced(volume, slope=slope)])
        read = io.read(tmp_path)
        scaled = volume.voxels if slope is None else volume.voxels * slope - 10
        np.testing.assert_array_equal(read.voxels, scaled)
        np.testing.assert_allclose(read.affine, volume.affine, atol=1e-8)
        assert read.contrast == "T2w"

    def test_enhanced_as_highdicom_reads_it(self, tmp_path: Path) -> None:
        highdicom = pytest.importorskip("highdicom")
        (path,) = save(tmp_path, [enhanced(marked(), slope=0.5)])
        theirs = highdicom.imread(path).get_volume(dtype=np.float64)
        affine = np.diag([-1, -1, 1, 1]) @ theirs.affine
        assert_same(io.read(path), Volume(theirs.array, affine))

    def test_signed_pixels(self, tmp_path: Path) -> None:
        volume = marked()
        signed = (volume.voxels.astype(np.int16) - 500).astype(np.int16)
        made = datasets(volume)
        for k, one in enumerate(made):
            one.PixelRepresentation, one.BitsStored, one.HighBit = 1, 16, 15
            one.PixelData = np.ascontiguousarray(signed[:, :, k].T).tobytes()
        save(tmp_path, made)
        np.testing.assert_array_equal(io.read(tmp_path).voxels, signed)


class TestWithoutPreamble:
    """As GDCM and dcm2niix read them, whatever their names are."""

    @pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
    @pytest.mark.parametrize("suffix", [".dcm", "", ".ima", ".1.2.840"])
    def test_a_series(self, implicit: bool, little: bool, suffix: str, tmp_path: Path) -> None:
        volume = marked()
        for number, one in enumerate(datasets(volume, **T1W)):
            path = tmp_path / f"a{number}{suffix}"
            save_bare(path, one, implicit=implicit, little=little)
        read = io.read(tmp_path)
        assert_same(read, volume)
        assert read.contrast == "T1w"

    @pytest.mark.parametrize("places", [[3], [6], [0, 1, 2]])
    def test_some_of_a_series(self, places: list[int], tmp_path: Path) -> None:
        volume = marked()
        made = datasets(volume, **T1W)
        paths = save(tmp_path / "study", made)
        for place in places:
            paths[place].unlink()
            save_bare(tmp_path / "study" / f"other{place}", made[place])
        assert_same(io.read(tmp_path / "study"), volume)
        with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
            for path in (tmp_path / "study").iterdir():
                archive.write(path, path.name)
        assert_same(io.read(tmp_path / "study.zip"), volume)

    @pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
    def test_only_file_meta_information(self, syntax: UID, tmp_path: Path) -> None:
        volume = marked()
        for path in write_series(tmp_path, volume):
            compress(path, syntax)
            path.write_bytes(path.read_bytes()[132:])
        assert_same(io.read(tmp_path), volume)

    def test_a_linked_folder(self, tmp_path: Path) -> None:
        volume = marked()
        write_series(tmp_path / "archive", volume)
        (tmp_path / "study").mkdir()
        (tmp_path / "study" / "series").symlink_to(tmp_path / "archive")
        assert_same(io.read(tmp_path / "study"), volume)

    def test_an_enhanced_image(self, tmp_path: Path) -> None:
        volume = marked()
        save_bare(tmp_path / "one", enhanced(volume))
        assert_same(io.read(tmp_path / "one"), volume)

    @pytest.mark.parametrize(
        "data",
        [
            b"\x08\x00" + bytes(range(256)) * 20,
            b"\x08\x00\x05\x00" + bytes(4000),
            b"\x02\x00" * 2000,
            b"\x08\x00\x02\x00" + bytes(8) + b"\x40\x00\x40\x00\x18\x00" + bytes(4000),  # TGA
            b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(4000),
            b"solid mesh" + bytes(80) + b"\x02\x00\x00\x00" + bytes(4000),
            b"The patient lay still.\n" * 200,
            b"\x08\x00\x05\x00CS",
            b"",
        ],
    )
    def test_what_is_not_a_data_set(self, data: bytes, tmp_path: Path) -> None:
        (tmp_path / "junk").write_bytes(data)
        assert not io.is_dicom(tmp_path / "junk")
        assert not io.is_dicom(tmp_path)
        write_series(tmp_path)
        assert io.read(tmp_path).voxels.shape == (20, 24, 7)
        ((file, reason),) = find_series(tmp_path).ignored
        assert (file.name, reason) == ("junk", "is not a DICOM file")

    def test_random_bytes_are_not_a_data_set(self) -> None:
        random = np.random.default_rng(0)
        for start in (b"\x08\x00", b"\x00\x08", b"\x02\x00", b"\x08\x00\x05\x00"):
            for _ in range(500):
                assert not starts_as_dicom(BytesIO(start + random.bytes(500)))


class TestClassicFrames:
    """A classic MR image has one frame by the standard; some exports write several."""

    def frames(self, **tags: object) -> tuple[Volume, Dataset]:
        volume = marked()
        return volume, in_frames(datasets(volume, **T1W), **tags)

    def test_positions_from_the_spacing(self, tmp_path: Path) -> None:
        volume, one = self.frames(SpacingBetweenSlices="4.5")
        save(tmp_path, [one])
        with pytest.warns(MrbridgeWarning, match=r"7 frames .* SpacingBetweenSlices \(4.5 mm\)"):
            read = io.read(tmp_path)
        assert_same(read, volume)  # whose third axis is the normal
        (item,) = inspect(tmp_path).items
        assert item.problem is None
        assert item.shape == (20, 24, 7)
        assert "SpacingBetweenSlices" in item.notes[0]

    def test_positions_from_slice_locations(self, tmp_path: Path) -> None:
        places = [0.0, -9, -4.5, 4.5, 9, 13.5, 18]
        volume, one = self.frames(SliceLocationVector=places)
        save(tmp_path, [one])
        with pytest.warns(MrbridgeWarning, match="7 frames .* SliceLocationVector"):
            read = io.read(tmp_path)
        order = np.argsort(places)
        np.testing.assert_array_equal(read.voxels, volume.voxels[:, :, order])
        first = read.affine @ [0, 0, 2, 1]
        np.testing.assert_allclose(first, volume.affine @ [0, 0, 0, 1], atol=1e-6)

    def test_positions_from_functional_groups(self, tmp_path: Path) -> None:
        volume = marked()
        one = enhanced(volume, **T1W)
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = UID(MR)
        save(tmp_path, [one])
        assert_same(io.read(tmp_path), volume)

    @pytest.mark.parametrize(
        ("tags", "match"),
        [
            ({}, "SpacingBetweenSlices is missing"),
            ({"SpacingBetweenSlices": "0"}, "SpacingBetweenSlices is missing"),
            (
                {"SpacingBetweenSlices": "4.5", "FrameIncrementPointer": 0x00181063},
                "may be points in time",
            ),
            ({"SpacingBetweenSlices": "4.5", "NumberOfTemporalPositions": "7"}, "points in time"),
            ({"SpacingBetweenSlices": "4.5", "CardiacNumberOfImages": "7"}, "points in time"),
        ],
    )
    def test_otherwise_they_are_refused(
        self, tags: dict[str, object], match: str, tmp_path: Path
    ) -> None:
        _, one = self.frames(**tags)
        save(tmp_path, [one])
        with pytest.raises(InputError, match=f"(holds 7 frames|dynamic series of 7) .*{match}"):
            io.read(tmp_path)
        assert match in str(inspect(tmp_path).items[0].problem)

    def test_other_classes_are_refused(self, tmp_path: Path) -> None:
        _, one = self.frames(SpacingBetweenSlices="4.5")
        one.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7.3"
        save(tmp_path, [one])
        with pytest.raises(InputError, match="Multi-frame Grayscale Word Secondary Capture"):
            io.read(tmp_path)


class TestPadding:
    """PixelPaddingValue (PS3.3, C.7.5.1.1.2) is background, whatever type its writer gave it."""

    def padded(
        self, value: int, dtype: str = "<i2", bits: int = 16, **tags: object
    ) -> tuple[np.ndarray, np.ndarray, list[Dataset]]:
        """A volume, where it is padded, and its datasets."""
        voxels = marked().voxels.astype(np.int32)
        where = np.zeros(voxels.shape, bool)
        where[:4] = where[:, :3] = True
        stored = np.where(where, value, voxels).astype(dtype)
        made = datasets(marked(), **T1W | tags)
        for k, one in enumerate(made):
            one.BitsStored, one.HighBit, one.PixelRepresentation = bits, bits - 1, dtype == "<i2"
            one.PixelData = np.ascontiguousarray(stored[:, :, k].T).tobytes()
        return voxels, where, made

    @pytest.mark.parametrize(
        ("value", "dtype", "kind", "padding"),
        [
            (-2000, "<i2", "SS", -2000),
            (-2000, "<i2", "US", 63536),  # the same 16 bits
            (-2000, "<i2", "DS", "-2000"),
            (-2000, "<i2", "OW", b"\x30\xf8"),
            (-2000, "<i2", "FL", -2000.0),
            (-32768, "<i2", "SS", -32768),
            (63536, "<u2", "US", 63536),
            (63536, "<u2", "SS", -2000),
            (65535, "<u2", "US", 65535),
        ],
    )
    @pytest.mark.parametrize("slope", [None, 0.25])
    def test_it_is_background(
        self,
        value: int,
        dtype: str,
        kind: str,
        padding: object,
        slope: float | None,
        tmp_path: Path,
    ) -> None:
        voxels, where, made = self.padded(value, dtype)
        for one in made:
            one.add_new("PixelPaddingValue", kind, padding)
            if slope is not None:
                one.RescaleSlope, one.RescaleIntercept = slope, 0
        save(tmp_path, made)
        with pytest.warns(MrbridgeWarning, match="PixelPaddingValue.* set to background"):
            read = io.read(tmp_path)
        expected = voxels * (slope or 1)
        np.testing.assert_array_equal(read.voxels[~where], expected[~where])
        assert (read.voxels[where] == expected[~where].min()).all()

    def test_in_implicit_files(self, tmp_path: Path) -> None:
        voxels, where, made = self.padded(-2000)
        for number, one in enumerate(made):
            one.add_new("PixelPaddingValue", "SS", -2000)
            save_bare(tmp_path / str(number), one)
        with pytest.warns(MrbridgeWarning, match="set to background"):
            read = io.read(tmp_path)
        assert (read.voxels[where] == voxels[~where].min()).all()

    def test_a_range(self, tmp_path: Path) -> None:
        voxels, where, made = self.padded(-2000)
        for one in made:
            pixels = np.frombuffer(one.PixelData, "<i2").copy()
            pixels[pixels == -2000] = np.arange((pixels == -2000).sum()) % 900 - 2000
            one.PixelData = pixels.tobytes()
            one.add_new("PixelPaddingValue", "SS", -2000)
            one.add_new("PixelPaddingRangeLimit", "SS", -1100)
        save(tmp_path, made)
        with pytest.warns(MrbridgeWarning, match="set to background"):
            read = io.read(tmp_path)
        np.testing.assert_array_equal(read.voxels[~where], voxels[~where])
        assert (read.voxels[where] == voxels[~where].min()).all()

    def test_a_value_of_more_bits_than_pixels_have(self, tmp_path: Path) -> None:
        """Decoding removes the upper bits: 63536 becomes 2096, which tissue may be."""
        voxels, where, made = self.padded(63536, "<u2", bits=12)
        voxels[10:14] = 2096
        for k, one in enumerate(made):
            pixels = np.where(where[:, :, k], 63536, voxels[:, :, k]).astype("<u2").T
            one.PixelData = np.ascontiguousarray(pixels).tobytes()
            one.add_new("PixelPaddingValue", "US", 63536)
        save(tmp_path, made)
        with pytest.warns(MrbridgeWarning, match="set to background"):
            read = io.read(tmp_path)
        np.testing.assert_array_equal(read.voxels[~where], voxels[~where])
        assert (read.voxels[where] == voxels[~where].min()).all()

    @pytest.mark.parametrize("value", [0, -7])
    def test_negative_values_of_interpolation_are_not_background(
        self, value: int, tmp_path: Path
    ) -> None:
        voxels, where, made = self.padded(-2000)
        voxels[5:18, 5:20, :3] = 0
        voxels[6, 6, 1] = value
        for k, one in enumerate(made):
            pixels = np.where(where[:, :, k], -2000, voxels[:, :, k]).astype("<i2").T
            one.PixelData = np.ascontiguousarray(pixels).tobytes()
            one.add_new("PixelPaddingValue", "SS", -2000)
        save(tmp_path, made)
        with pytest.warns(MrbridgeWarning, match="set to background"):
            read = io.read(tmp_path)
        assert (read.voxels[where] == 0).all()
        assert read.voxels[6, 6, 1] == value

    @pytest.mark.parametrize("dtype", ["<i2", "<u2"])
    @pytest.mark.parametrize("slope", [None, 0.25])
    def test_ordinary_air_stays_as_it_is(
        self, dtype: str, slope: float | None, tmp_path: Path, recwarn: pytest.WarningsRecorder
    ) -> None:
        voxels, where, made = self.padded(0, dtype)
        for one in made:
            one.add_new("PixelPaddingValue", "SS" if dtype == "<i2" else "US", 0)
            if slope is not None:
                one.RescaleSlope, one.RescaleIntercept = slope, 0
        save(tmp_path, made)
        read = io.read(tmp_path)
        np.testing.assert_array_equal(read.voxels, np.where(where, 0, voxels * (slope or 1)))
        assert not recwarn.list

    @pytest.mark.parametrize("value", [70000, "many", None, b""])
    def test_an_impossible_value(self, value: object, tmp_path: Path) -> None:
        voxels, where, made = self.padded(0)
        for one in made:
            one.add_new(
                "PixelPaddingValue", "LO" if isinstance(value, str) else "UL", value or None
            )
        save(tmp_path, made)
        np.testing.assert_array_equal(io.read(tmp_path).voxels, np.where(where, 0, voxels))


class TestMonochrome1:
    @pytest.mark.parametrize("slope", [None, 0.25])
    @pytest.mark.parametrize("signed", [False, True])
    def test_it_is_inverted_back(self, slope: float | None, signed: bool, tmp_path: Path) -> None:
        volume = marked()
        shift = -3000 if signed else 0
        inverted = (int(volume.voxels.max()) + shift - volume.voxels.astype(int)).astype("<i2")
        made = datasets(volume, slope=slope, PhotometricInterpretation="MONOCHROME1", **T1W)
        for k, one in enumerate(made):
            one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 15, signed
            one.PixelData = np.ascontiguousarray(inverted[:, :, k].T).tobytes()
        save(tmp_path, made)
        assert inspect(tmp_path).items[0].problem is None
        with pytest.warns(MrbridgeWarning, match="MONOCHROME1"):
            read = io.read(tmp_path)
        darkest = volume.voxels - volume.voxels.min().astype(int)
        np.testing.assert_allclose(read.voxels, darkest * (slope or 1), atol=1e-3)

    def test_its_padding_is_background(self, tmp_path: Path) -> None:
        volume = marked()
        made = datasets(volume, PhotometricInterpretation="MONOCHROME1", **T1W)
        for one in made:
            pixels = 4000 - np.frombuffer(one.PixelData, "<u2")
            pixels[:40] = 0
            one.PixelData, one["PixelData"].VR = pixels.astype("<u2").tobytes(), "OW"
            one.add_new("PixelPaddingValue", "US", 0)
        save(tmp_path, made)
        with pytest.warns(MrbridgeWarning):
            read = io.read(tmp_path)
        assert read.voxels[:, 0].max() == 0


class TestEchoes:
    def test_those_of_a_memprage_are_combined(self, tmp_path: Path) -> None:
        first, second = marked(seed=1), marked(seed=2)
        echoes(tmp_path, [first, second], {"EchoTime": [1.7, 3.6]})
        with pytest.warns(MrbridgeWarning, match="2 echoes are combined"):
            read = io.read(tmp_path)
        squares = first.voxels.astype(float) ** 2 + second.voxels.astype(float) ** 2
        np.testing.assert_allclose(read.voxels, np.sqrt(squares / 2), rtol=1e-6)
        assert read.contrast == "T1w"

    def test_those_of_a_spin_echo_are_two_images(self, tmp_path: Path) -> None:
        first, second = marked(seed=1), marked(seed=2)
        echoes(tmp_path, [first, second], T2W | {"EchoTime": [15, 95], "InversionTime": [None] * 2})
        with pytest.raises(InputError, match=r"5:1.*PDw.*5:2.*T2w"):
            io.read(tmp_path)
        np.testing.assert_array_equal(io.read(tmp_path, series="5:2").voxels, second.voxels)


def echoes(folder: Path, volumes: list[Volume], tags: dict[str, object]) -> None:
    """One series of several echoes; tags that are lists have one value an echo."""
    for number, volume in enumerate(volumes):
        own: dict[str, Any] = {
            key: v[number] if isinstance(v, list) else v for key, v in tags.items()
        }
        if tags.get("ScanningSequence") is None:
            own = {"ScanningSequence": ["GR", "IR"], "RepetitionTime": 2500} | own
        made = datasets(volume, 5, **own)
        for one in made:
            one.SOPInstanceUID = generate_uid(entropy_srcs=[one.SOPInstanceUID, str(number)])
        save(folder, made, prefix=f"echo{number}-")


def test_gaps_are_filled_where_allowed(tmp_path: Path) -> None:
    volume = marked()
    paths = write_series(tmp_path, volume)
    paths[2].unlink()
    paths[3].unlink()
    with pytest.warns(MrbridgeWarning, match=r"2 of 7 slices are missing .*interpolation"):
        read = io.read(tmp_path, allow_gaps=True)
    np.testing.assert_allclose(read.affine, volume.affine, atol=1e-8)
    present = [0, 1, 4, 5, 6]
    np.testing.assert_array_equal(read.voxels[:, :, present], volume.voxels[:, :, present])
    one, four = (volume.voxels[:, :, k].astype(np.float32) for k in (1, 4))
    np.testing.assert_allclose(read.voxels[:, :, 2], (2 * one + four) / 3, rtol=1e-6)
    assert isinstance(read.header, Series)
    assert read.header.stack.missing == (2, 3)
    assert "filled by interpolation" in read.notes[0]


def compress(path: Path, syntax: UID) -> None:
    """Rewrite a file in another transfer syntax, without loss."""
    import pydicom

    if syntax == RLELossless:
        one: Dataset = pydicom.dcmread(path)
        one.compress(RLELossless, generate_instance_uid=False)
        one.save_as(path)
        return
    import gdcm

    kinds = {
        JPEGLSLossless: gdcm.TransferSyntax.JPEGLSLossless,
        JPEG2000Lossless: gdcm.TransferSyntax.JPEG2000Lossless,
        JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    }
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(kinds[syntax]))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax
