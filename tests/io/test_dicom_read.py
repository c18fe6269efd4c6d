"""Reading DICOM series: geometry against two other readers, then kinds of storage."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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
    T2W,
    datasets,
    enhanced,
    marked,
    oblique,
    positions_of,
    save,
    values_at,
    write_series,
)

from mrbridge import io
from mrbridge.errors import InputError, MrbridgeWarning
from mrbridge.io.dicom import DicomHeader
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
        own = {key: v[number] if isinstance(v, list) else v for key, v in tags.items()}
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
    assert isinstance(read.header, DicomHeader)
    assert read.header.filled == (2, 3)
    assert "filled by interpolation" in read.notes[0]


def compress(path: Path, syntax: UID) -> None:
    """Rewrite a file in another transfer syntax, without loss."""
    import pydicom

    if syntax == RLELossless:
        one: Dataset = pydicom.dcmread(path)
        one.compress(RLELossless)
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
