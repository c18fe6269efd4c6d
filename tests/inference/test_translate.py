"""The verb `translate`: files, folders and objects, and what it refuses."""

from __future__ import annotations

import errno
import gzip
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

import mrbridge
from mrbridge import io
from mrbridge.bundle import Bundle
from mrbridge.errors import (
    InputError,
    MrbridgeError,
    MrbridgeWarning,
    OutputError,
    SettingsError,
    SomeScansFailed,
)
from mrbridge.inference.in_memory import as_volume
from mrbridge.inference.settings import TranslateSettings
from mrbridge.inference.translate import translate
from mrbridge.inference.translator import Translator
from mrbridge.io.atomic import sha256_of
from mrbridge.preprocessing.intensity import IntensityNormalisation
from mrbridge.volume import Volume


@pytest.fixture
def scan(make_scan: Callable[..., Volume], tmp_path: Path) -> Path:
    """One NIfTI file with a BIDS name."""
    return io.write(make_scan(6, "T1w"), tmp_path / "in" / "sub-06_run-2_T1w.nii.gz")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class TestObjects:
    def test_all_kinds_give_the_same(self, tiny_bundle: Bundle, scan: Path, tmp_path: Path) -> None:
        volume, image = io.read(scan), nib.load(scan)
        (result,) = translate(scan, tmp_path / "out.nii.gz", model=tiny_bundle, device="cpu")
        from_path = io.read(result.output)
        from_volume = translate(volume, model=tiny_bundle, device="cpu")
        from_image = translate(image, model=tiny_bundle, device="cpu")
        from_array = mrbridge.translate(
            (volume.voxels, volume.affine), model=tiny_bundle.path, device="cpu"
        )
        assert isinstance(from_volume, Volume)
        assert type(from_image) is type(image)
        assert isinstance(from_array, Volume)
        expected = from_path.voxels
        np.testing.assert_array_equal(from_volume.voxels, expected)
        np.testing.assert_array_equal(np.asarray(from_image.dataobj), expected)
        np.testing.assert_array_equal(from_array.voxels, expected)
        for affine in (from_volume.affine, from_image.affine, from_array.affine):
            np.testing.assert_array_equal(affine, volume.affine)
        assert from_volume.synthetic
        assert from_array.synthetic
        assert bytes(from_image.header["descrip"].item()).startswith(b"synthetic T2w")
        assert from_image.get_data_dtype() == np.float32
        assert image.header["descrip"].item() == b"", "the input's header was changed"

    def test_an_image_that_was_written_comes_back(
        self, tiny_bundle: Bundle, scan: Path, tmp_path: Path
    ) -> None:
        made = translate(nib.load(scan), model=tiny_bundle, device="cpu")
        nib.save(made, tmp_path / "made.nii.gz")
        assert io.read(tmp_path / "made.nii.gz").synthetic
        np.testing.assert_array_equal(
            nib.load(tmp_path / "made.nii.gz").get_fdata(dtype=np.float32), made.get_fdata()
        )
        with pytest.raises(InputError, match="synthetic already"):
            translate(made, model=tiny_bundle, device="cpu")
        translate(made, model=tiny_bundle, device="cpu", force=True)

    def test_names_in_the_header_are_not_copied(
        self, tiny_bundle: Bundle, scan: Path, tmp_path: Path
    ) -> None:
        image = nib.load(scan)
        text = b"Patient: Doe^John"
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", text))
        for field in ("db_name", "aux_file", "intent_name"):
            image.header[field] = b"Doe^John"
        image.header["cal_max"] = 120
        nib.save(image, tmp_path / "named_T1w.nii")
        made = translate(image, model=tiny_bundle, device="cpu")
        nib.save(made, tmp_path / "object.nii")
        translate(
            tmp_path / "named_T1w.nii", tmp_path / "file.nii", model=tiny_bundle, device="cpu"
        )
        assert b"Doe" in (tmp_path / "named_T1w.nii").read_bytes()
        for name in ("object.nii", "file.nii"):
            assert b"Doe" not in (tmp_path / name).read_bytes()
            assert nib.load(tmp_path / name).header["cal_max"] == 0
        assert image.header["cal_max"] == 120

    def test_what_is_not_finite_is_replaced(self, tiny_bundle: Bundle, scan: Path) -> None:
        volume = io.read(scan)
        voxels = volume.voxels.astype(np.float32)
        voxels[5, 5, 5], voxels[20, 20, 5], voxels[21, 20, 5] = np.nan, np.inf, -np.inf
        for kind in (
            replace(volume, voxels=voxels),
            (voxels, volume.affine),
            nib.Nifti1Image(voxels, volume.affine),
        ):
            with pytest.warns(MrbridgeWarning, match="3 voxels were NaN or infinite"):
                made = translate(kind, model=tiny_bundle, device="cpu")
            values = made.voxels if isinstance(made, Volume) else np.asarray(made.dataobj)
            assert np.isfinite(values).all()

    def test_a_brain_of_mean_0_is_reported_once(
        self, tiny_bundle: Bundle, scan: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        volume = io.read(scan)
        voxels = volume.voxels.astype(np.float32)
        inside = voxels > 0
        zscores = np.where(inside, (voxels - voxels[inside].mean()) / voxels[inside].std(), 0)
        translate(replace(volume, voxels=zscores), model=tiny_bundle, device="cpu")
        words = "the scan: the intensities of its brain are around 0"
        assert [one.message[: len(words)] for one in caplog.records].count(words) == 1

    def test_masked_voxels_count_as_nan(self, tiny_bundle: Bundle, scan: Path) -> None:
        volume = io.read(scan)
        voxels = volume.voxels.astype(np.float32)
        hidden = np.zeros(voxels.shape, bool)
        hidden[:, :15] = True
        expected = translate((np.where(hidden, 0, voxels), volume.affine), model=tiny_bundle)
        masked = np.ma.masked_array(np.where(hidden, 9999, voxels), hidden)
        for kind in (
            replace(volume, voxels=masked),
            (masked, volume.affine),
            (np.ma.masked_array(masked.astype(np.int16), hidden), volume.affine),
            nib.Nifti1Image(masked, volume.affine),
        ):
            with pytest.warns(MrbridgeWarning, match=f"{hidden.sum()} voxels were NaN"):
                made = translate(kind, model=tiny_bundle, device="cpu")
            values = made.voxels if isinstance(made, Volume) else np.asarray(made.dataobj)
            assert np.array_equal(values, expected.voxels)

    def test_what_cannot_become_an_array(self, tiny_bundle: Bundle, scan: Path) -> None:
        volume = io.read(scan)
        tensor = torch.zeros(volume.voxels.shape)
        for voxels, affine in (
            (tensor.requires_grad_(), volume.affine),
            (tensor.detach().bfloat16(), volume.affine),
            (volume.voxels, "affine"),
        ):
            with pytest.raises(InputError, match=r"cannot become arrays \(.*Pass NumPy arrays"):
                translate((voxels, affine), model=tiny_bundle, device="cpu")

    @pytest.mark.parametrize("value", [0.0, np.nan])
    def test_an_affine_without_inverse(self, tiny_bundle: Bundle, scan: Path, value: float) -> None:
        affine = np.diag([1.0, 1.0, value, 1.0])
        voxels = io.read(scan).voxels
        for kind in ((voxels, affine), nib.spatialimages.SpatialImage(voxels, affine)):
            with pytest.raises(InputError, match="no inverse"):
                translate(kind, model=tiny_bundle, device="cpu")

    def test_four_axes(self, tiny_bundle: Bundle, scan: Path) -> None:
        volume = io.read(scan)
        expected = translate(volume, model=tiny_bundle, device="cpu").voxels
        one = nib.Nifti1Image(volume.voxels[..., None], volume.affine)
        np.testing.assert_array_equal(
            np.asarray(translate(one, model=tiny_bundle, device="cpu").dataobj), expected
        )
        both = np.stack([0 * volume.voxels, volume.voxels], axis=3)
        image = nib.Nifti1Image(both, volume.affine)
        with pytest.raises(InputError, match="not three axes"):
            translate(image, model=tiny_bundle, device="cpu")
        made = translate(image, model=tiny_bundle, device="cpu", volume=1)
        np.testing.assert_array_equal(np.asarray(made.dataobj), expected)

    @pytest.mark.parametrize(
        "image",
        [
            3,
            (np.zeros((3, 3, 3)), np.eye(3)),
            (np.zeros((3, 3, 3), complex), np.eye(4)),
            (np.zeros((3, 3)), np.eye(4)),
            (np.full((3, 3, 3), np.nan), np.eye(4)),
            (np.zeros((3, 0, 3)), np.eye(4)),
        ],
    )
    def test_what_is_not_a_scan(self, image: Any, tiny_bundle: Bundle) -> None:
        with pytest.raises(InputError):
            translate(image, model=tiny_bundle, device="cpu")

    def test_a_nibabel_image_has_the_contrast_of_its_file(
        self, tiny_bundle: Bundle, scan: Path, tmp_path: Path
    ) -> None:
        image = nib.load(scan)
        how: dict[str, Any] = {"model": tiny_bundle, "device": "cpu"}
        for name in ("a_T2w.nii.gz", "a_mask.nii.gz", "a_ce-gad_T1w.nii.gz"):
            nib.save(nib.Nifti1Image(image.get_fdata(), image.affine), tmp_path / name)
        made = translate(nib.load(tmp_path / "a_T2w.nii.gz"), **how)
        assert bytes(made.header["descrip"].item()).startswith(b"synthetic T1w")
        with pytest.raises(InputError, match="T2w already"):
            translate(nib.load(tmp_path / "a_T2w.nii.gz"), to="T2w", **how)
        with pytest.raises(InputError, match="mask"):
            translate(nib.load(tmp_path / "a_mask.nii.gz"), **how)
        with pytest.raises(InputError, match="contrast agent"):
            translate(nib.load(tmp_path / "a_ce-gad_T1w.nii.gz"), **how)

    @pytest.mark.parametrize("suffix", [".nii", ".img"])
    def test_a_nibabel_image_without_orientation(
        self, suffix: str, tiny_bundle: Bundle, scan: Path, tmp_path: Path
    ) -> None:
        image, path = nib.load(scan), tmp_path / f"bare_T1w{suffix}"
        kind = nib.Nifti1Image if suffix == ".nii" else nib.AnalyzeImage
        bare = kind(np.asarray(image.dataobj).astype(np.int16), None)
        bare.header.set_zooms(image.header.get_zooms())
        nib.save(bare, path)
        how: dict[str, Any] = {"model": tiny_bundle, "device": "cpu"}
        with pytest.raises(InputError, match="does not state its orientation"):
            translate(nib.load(path), **how)
        with pytest.warns(MrbridgeWarning, match="LPS was assumed"):
            made = translate(nib.load(path), assume="LPS", **how)
        assert nib.aff2axcodes(made.affine) == ("L", "P", "S")

    @pytest.mark.parametrize("suffix", [".mgh", ".mgz"])
    def test_a_freesurfer_image_without_geometry(
        self, suffix: str, tiny_bundle: Bundle, scan: Path, tmp_path: Path
    ) -> None:
        image, path = nib.load(scan), tmp_path / f"T1w{suffix}"
        nib.save(nib.MGHImage(np.asarray(image.dataobj, np.float32), image.affine), path)
        how: dict[str, Any] = {"model": tiny_bundle, "device": "cpu"}
        made = translate(nib.load(path), **how)
        np.testing.assert_allclose(made.affine, image.affine, atol=1e-4)
        opened = gzip.open if suffix == ".mgz" else open
        with opened(path, "rb") as file:
            content = bytearray(file.read())
        content[28:30] = bytes(2)
        with opened(path, "wb") as file:
            file.write(content)
        with pytest.raises(InputError, match="goodRASFlag"):
            translate(nib.load(path), **how)

    def test_a_minc_image_without_geometry(self) -> None:
        data = Path(nib.__file__).parent / "tests" / "data"
        with pytest.warns(MrbridgeWarning, match="does not state direction_cosines, start, step"):
            as_volume(nib.load(data / "minc1-no-att.mnc"))
        as_volume(nib.load(data / "minc1_1_scale.mnc"))

    def test_an_image_of_a_class_that_is_not_written(self, tiny_bundle: Bundle, scan: Path) -> None:
        image = nib.load(scan)
        minc = nib.minc1.Minc1Image(np.asarray(image.dataobj), image.affine)
        made, expected = (translate(one, model=tiny_bundle, to="T2w") for one in (minc, image))
        assert isinstance(made, nib.Nifti1Image)
        assert bytes(made.header["descrip"].item()).startswith(b"synthetic T2w")
        np.testing.assert_array_equal(made.affine, image.affine)
        np.testing.assert_array_equal(made.get_fdata(), expected.get_fdata())

    @pytest.mark.parametrize("fault", ["checksum", "truncated", "gone"])
    def test_a_damaged_file_of_a_nibabel_image(
        self, fault: str, tiny_bundle: Bundle, scan: Path
    ) -> None:
        content = scan.read_bytes()
        image = nib.load(scan)  # only the header is read
        if fault == "gone":
            scan.unlink()
        else:
            changed = content[:-8] + bytes(4) + content[-4:]
            scan.write_bytes(changed if fault == "checksum" else content[:-200])
        with pytest.raises(InputError, match="damaged, truncated or gone"):
            translate(image, model=tiny_bundle, device="cpu")

    def test_a_volume_without_a_usable_affine(self, tiny_bundle: Bundle, scan: Path) -> None:
        volume = io.read(scan)
        for affine, words in (
            (np.full((4, 4), np.nan), "has no inverse"),
            (None, "slices has no affine"),
        ):
            with pytest.raises(InputError, match=words):
                translate(replace(volume, affine=affine), model=tiny_bundle, device="cpu")
        whole = replace(volume, affine=np.eye(4, dtype=int), header=None)
        made = translate(whole, model=tiny_bundle, device="cpu")
        assert made.affine is not None
        np.testing.assert_array_equal(made.affine, np.eye(4))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"out": "out.nii.gz"}, "is returned, not written"),
            ({"volume": 1}, "has no volume 1"),
            ({"series": "3"}, "not a DICOM series"),
            ({"form": "nifti"}, "not a DICOM series"),
            ({"allow_gaps": True}, "not a DICOM series"),
            ({"participants": ["01"]}, "for BIDS datasets"),
        ],
    )
    def test_arguments_that_would_do_nothing(
        self, changes: dict[str, Any], message: str, tiny_bundle: Bundle, scan: Path
    ) -> None:
        with pytest.raises(MrbridgeError, match=message):
            translate(nib.load(scan), model=tiny_bundle, device="cpu", **changes)

    @pytest.mark.parametrize(("unit", "factor"), [("meter", 1e-3), ("micron", 1e3)])
    def test_the_unit_of_a_nibabel_image(
        self, unit: str, factor: float, tiny_bundle: Bundle, scan: Path, tmp_path: Path
    ) -> None:
        plain = nib.load(scan)
        other = nib.Nifti1Image(
            np.asarray(plain.dataobj), np.diag([factor] * 3 + [1]) @ plain.affine
        )
        other.header.set_xyzt_units(unit)
        how: dict[str, Any] = {"model": tiny_bundle, "device": "cpu"}
        made, expected = translate(other, **how), translate(plain, **how)
        np.testing.assert_allclose(made.get_fdata(), expected.get_fdata(), rtol=1e-3, atol=0.5)
        nib.save(made, tmp_path / "made.nii")
        np.testing.assert_allclose(nib.load(tmp_path / "made.nii").affine, other.affine, rtol=1e-5)
        written = io.read(tmp_path / "made.nii")
        assert written.affine is not None
        np.testing.assert_allclose(written.affine, plain.affine, rtol=1e-5)

    def test_a_nibabel_image_with_a_singular_sform(
        self, tiny_bundle: Bundle, scan: Path, tmp_path: Path
    ) -> None:
        image = nib.load(scan)
        header = image.header.copy()
        header["srow_z"] = 0
        bad = tmp_path / "bad_T1w.nii"
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, header), bad)
        with pytest.warns(MrbridgeWarning, match="the qform is used"):
            made = translate(nib.load(bad), model=tiny_bundle, device="cpu")
        np.testing.assert_allclose(made.affine, image.affine, atol=1e-4)

    def test_an_affine_of_something_else(self, tiny_bundle: Bundle, scan: Path) -> None:
        volume = io.read(scan)
        assert volume.affine is not None
        rows = volume.affine.T  # as other programs write it
        with pytest.raises(InputError, match="last row"):
            translate((volume.voxels, rows), model=tiny_bundle, device="cpu")

    def test_intensities_beyond_float32(self, tiny_bundle: Bundle, scan: Path) -> None:
        volume = io.read(scan)
        far = volume.voxels.astype(np.float64) + 1
        with pytest.raises(InputError, match="no finite voxel"):
            translate((far * 1e300, volume.affine), model=tiny_bundle, device="cpu")

    def test_match_takes_paths_and_objects(
        self, tiny_bundle: Bundle, scan: Path, make_scan: Callable[..., Volume], tmp_path: Path
    ) -> None:
        reference = replace(make_scan(1, "T2w"), voxels=3 * make_scan(1, "T2w").voxels)
        path = io.write(reference, tmp_path / "reference.nii.gz")
        volume = io.read(scan)
        plain = translate(volume, model=tiny_bundle, device="cpu").voxels
        made = [
            translate(volume, model=tiny_bundle, match=match, device="cpu").voxels
            for match in (path, reference, nib.load(path))
        ]
        assert made[0].mean() > 2 * plain.mean()
        for other in made[1:]:
            np.testing.assert_array_equal(other, made[0])


def test_what_is_not_matched(
    tiny_bundle: Bundle, scan: Path, make_scan: Callable[..., Volume], tmp_path: Path
) -> None:
    out = tmp_path / "out.nii.gz"
    other = io.write(make_scan(7, "T1w"), tmp_path / "sub-07_T1w.nii.gz")
    mask = io.write(make_scan(7, "T2w"), tmp_path / "sub-07_mask.nii.gz")
    how: dict[str, Any] = {"model": tiny_bundle, "device": "cpu"}
    with pytest.raises(InputError, match=r"to match is T1w, and the result T2w. Match a T2w"):
        translate(scan, out, match=other, **how)
    with pytest.raises(InputError, match=r"sub-07_mask.nii.gz: .*mask.* Match another scan"):
        translate(scan, out, match=mask, **how)
    assert not out.exists()
    translate(scan, out, match=mask, force=True, **how)


def test_the_shipped_model_is_the_default(as_shipped: Bundle, scan: Path) -> None:
    volume = io.read(scan)
    expected = translate(volume, model=as_shipped, device="cpu").voxels
    for made in (translate(volume, device="cpu"), translate(volume, model="shipped", device="cpu")):
        np.testing.assert_array_equal(made.voxels, expected)


def test_settings_and_changes(tiny_bundle: Bundle, scan: Path, tmp_path: Path) -> None:
    translator = Translator(tiny_bundle, "cpu")
    settings = TranslateSettings(to="T1w", dtype="int16")
    made = translate(io.read(scan), model=translator, settings=settings, to="T2w")
    assert (made.contrast, made.voxels.dtype) == ("T2w", np.int16)
    with pytest.raises(SettingsError, match="no key 'plane', did you mean 'planes'"):
        translate(io.read(scan), model=translator, plane="all")
    with pytest.raises(SettingsError, match="'planes' cannot be 'coronal'"):
        translate(io.read(scan), model=translator, planes="coronal")


def test_results_can_be_read(tiny_bundle: Bundle, scan: Path, tmp_path: Path) -> None:
    scan.with_name("<b>_T1w.nii.gz").write_bytes(b"damaged")
    with pytest.raises(SomeScansFailed) as caught:
        translate(scan.parent, tmp_path / "out", model=tiny_bundle, device="cpu")
    lines = repr(caught.value.result).splitlines()
    assert lines[0] == "2 scans"
    (done,) = (line for line in lines if line.startswith("done: "))
    assert "_T2w.nii.gz (unusual: shows an object of " in done
    page = caught.value.result._repr_html_()
    assert page.count("<tr>") == 3
    assert "&lt;b&gt;_T1w.nii.gz" in page


class TestFiles:
    def test_file_to_file(self, tiny_bundle: Bundle, scan: Path, tmp_path: Path) -> None:
        before = scan.read_bytes()
        out = tmp_path / "new" / "made.nii.gz"
        (result,) = translate(scan, out, model=tiny_bundle, device="cpu")
        assert (result.source, result.output, result.contrast, result.error) == (
            scan,
            out,
            "T2w",
            None,
        )
        assert result.model == tiny_bundle.hash
        assert sorted(tree(out.parent)) == ["made.json", "made.nii.gz"]
        assert scan.read_bytes() == before
        made, original = io.read(out), io.read(scan)
        assert made.synthetic
        assert made.voxels.shape == original.voxels.shape
        assert made.affine.tobytes() == original.affine.tobytes()
        sidecar = json.loads((out.parent / "made.json").read_text())
        assert sidecar["SyntheticData"] is True
        assert sidecar["Sources"] == [f"sha256:{sha256_of(scan)}"]
        assert sidecar["SpatialReference"] == sidecar["Sources"][0]
        assert sidecar["GeneratedBy"][0]["Model"] == tiny_bundle.hash

    def test_file_to_folder(self, tiny_bundle: Bundle, scan: Path, tmp_path: Path) -> None:
        translate(scan, tmp_path / "out", model=tiny_bundle, device="cpu")
        assert sorted(tree(tmp_path / "out")) == [
            "sub-06_run-2_desc-synth_T2w.json",
            "sub-06_run-2_desc-synth_T2w.nii.gz",
        ]

    def test_both_directions(
        self, tiny_bundle: Bundle, make_scan: Callable[..., Volume], tmp_path: Path
    ) -> None:
        path = io.write(make_scan(6, "T2w"), tmp_path / "sub-06_T2w.nii")
        (result,) = translate(path, tmp_path / "out", model=tiny_bundle, device="cpu")
        assert result.contrast == "T1w"
        assert result.output.name == "sub-06_desc-synth_T1w.nii"

    def test_only_the_name_and_its_folder_tell_the_contrast(
        self, tiny_bundle: Bundle, make_scan: Callable[..., Volume], tmp_path: Path
    ) -> None:
        path = io.write(make_scan(6, "T1w"), tmp_path / "T2-project" / "john" / "scan.nii.gz")
        (result,) = translate(path, tmp_path / "out", model=tiny_bundle, device="cpu")
        assert result.contrast == "T2w"
        assert result.output.name == "scan.nii.gz"

    def test_refusals(
        self, tiny_bundle: Bundle, scan: Path, make_scan: Callable[..., Volume], tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        with pytest.raises(InputError, match=r"sub-06.*is T1w already.*--force"):
            translate(scan, out, model=tiny_bundle, to="T1w", device="cpu")
        with pytest.raises(SettingsError, match="not PDw"):
            translate(scan, out, model=tiny_bundle, to="PDw", device="cpu")
        flair = io.write(make_scan(6, "T2w"), tmp_path / "sub-06_FLAIR.nii.gz")
        with pytest.raises(InputError, match="is FLAIR; this model takes T1w and T2w"):
            translate(flair, out, model=tiny_bundle, device="cpu")
        with pytest.raises(OutputError, match="replace its source"):
            translate(scan, scan, model=tiny_bundle, device="cpu")
        plain = shutil.copy(scan, tmp_path / "in" / "plain.nii.gz")
        with pytest.raises(OutputError, match="replace its source"):
            translate(plain, tmp_path / "in", model=tiny_bundle, device="cpu")
        with pytest.raises(OutputError, match="unknown format"):
            translate(scan, tmp_path / "made.txt", model=tiny_bundle, device="cpu")
        with pytest.raises(OutputError, match="cannot become a 2D image"):
            translate(scan, tmp_path / "made.png", model=tiny_bundle, device="cpu")
        with pytest.raises(OutputError, match="no output"):
            translate(scan, model=tiny_bundle, device="cpu")
        with pytest.raises(InputError, match="does not exist"):
            translate(tmp_path / "absent.nii.gz", out, model=tiny_bundle, device="cpu")
        assert not out.exists()
        assert not (tmp_path / "made.png").exists()

    def test_force(self, tiny_bundle: Bundle, scan: Path, tmp_path: Path) -> None:
        out = tmp_path / "made.nii.gz"
        translate(scan, out, model=tiny_bundle, to="T1w", force=True, device="cpu")
        with pytest.raises(InputError, match=r"made\.nii\.gz: is synthetic already"):
            translate(out, tmp_path / "again.nii.gz", model=tiny_bundle, device="cpu")
        translate(out, tmp_path / "again.nii.gz", model=tiny_bundle, force=True, device="cpu")
        assert io.read(tmp_path / "again.nii.gz").synthetic

    def test_a_damaged_scan_leaves_nothing(
        self, tiny_bundle: Bundle, scan: Path, tmp_path: Path
    ) -> None:
        scan.write_bytes(scan.read_bytes()[:-20])
        with pytest.raises(InputError, match="damaged or truncated"):
            translate(scan, tmp_path / "out" / "made.nii.gz", model=tiny_bundle, device="cpu")
        assert not (tmp_path / "out").exists()

    def test_pictures(self, tiny_bundle: Bundle, picture_folder: Path, tmp_path: Path) -> None:
        source = picture_folder / "TrainT1" / "Image #10.png"
        (result,) = translate(source, tmp_path / "out", model=tiny_bundle, device="cpu")
        assert result.output == tmp_path / "out" / "Image #10.png"
        with Image.open(result.output) as made, Image.open(source) as original:
            assert (made.size, made.mode) == (original.size, original.mode)
            assert any("synthetic T2w" in str(text) for text in made.info.values())
        assert io.read(result.output).synthetic
        assert sorted(tree(tmp_path / "out")) == ["Image #10.png"]
        with pytest.raises(OutputError, match="cannot become NIfTI"):
            translate(source, tmp_path / "made.nii.gz", model=tiny_bundle, device="cpu")


class TestDepthOf2DImages:
    """The range of a result is one that its pixels can hold."""

    @pytest.fixture
    def images(self, picture_folder: Path, tmp_path: Path) -> dict[int, Path]:
        """One slice in 8 and in 16 bits."""
        source = picture_folder / "TrainT1" / "Image #5.png"
        paths = {8: tmp_path / "8_T1w.png", 16: tmp_path / "16_T1w.png"}
        shutil.copy(source, paths[8])
        deep = np.asarray(Image.open(source)).astype(np.uint16) * 200
        Image.fromarray(deep).save(paths[16])
        return paths

    def test_another_depth_is_not_matched(
        self, tiny_bundle: Bundle, images: dict[int, Path], scan: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out.png"
        how: dict[str, Any] = {"model": tiny_bundle, "device": "cpu", "force": True}
        for depth, match in ((8, images[16]), (16, images[8]), (8, scan)):
            with pytest.raises(InputError, match=f"is not a 2D image of {depth} bits"):
                translate(images[depth], out, match=match, **how)
        translate(images[16], out, match=images[16], **how)

    @pytest.mark.parametrize("trained", [8, 16])
    @pytest.mark.parametrize("depth", [8, 16])
    def test_a_model_of_2d_images_takes_both_depths(
        self, trained: int, depth: int, tiny_bundle: Bundle, images: dict[int, Path], tmp_path: Path
    ) -> None:
        top = {8: 255.0, 16: 50_000.0}
        known = IntensityNormalisation(low=0, high=top[trained])
        manifest = tiny_bundle.manifest.model_copy(
            update={"pictures": True, "typical": {"T1w": known, "T2w": known}}
        )
        model = Translator(Bundle(manifest, tiny_bundle.weights), "cpu")
        image = io.read(images[depth])
        preprocessed = model.preprocess(image, "T2w")
        found = model._range_for(image, preprocessed, "T2w", None)
        assert top[depth] / 3 < found.high <= {8: 255, 16: 65535}[depth]


class TestFolders:
    def test_bids(self, tiny_bundle: Bundle, bids_scans: Path, tmp_path: Path) -> None:
        before = tree(bids_scans)
        done = translate(bids_scans, tmp_path / "out", model=tiny_bundle, device="cpu")
        assert [item.contrast for item in done] == ["T2w"] * 4
        assert tree(bids_scans) == before
        assert sorted(p for p in tree(tmp_path / "out") if p.endswith(".nii.gz")) == [
            f"sub-0{n}/anat/sub-0{n}_desc-synth_T2w.nii.gz" for n in range(1, 5)
        ]
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert report["model"] == tiny_bundle.hash
        assert len(report["done"]) == 4
        assert report["failed"] == []
        reasons = {item["source"]: item["reason"] for item in report["ignored"]}
        assert reasons["sub-01/anat/sub-01_T2w.nii.gz"] == "is T2w, not T1w"
        assert str(tmp_path) not in json.dumps(report)

    def test_the_other_contrast_of_the_same_folder(
        self, tiny_bundle: Bundle, bids_scans: Path, tmp_path: Path
    ) -> None:
        done = translate(bids_scans, tmp_path, model=tiny_bundle, to="T1w", device="cpu")
        assert {item.source.name[7:] for item in done} == {"T2w.nii.gz"}

    def test_derivatives_of_a_bids_dataset_are_not_touched(
        self, tiny_bundle: Bundle, bids_scans: Path, tmp_path: Path
    ) -> None:
        root = shutil.copytree(bids_scans, tmp_path / "bids")
        first = root / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
        (root / "derivatives").mkdir()
        shutil.copy(first, root / "derivatives" / "sub-01_space-MNI_T1w.nii.gz")
        out = root / "derivatives" / "mrbridge"
        done = translate(root, out, model=tiny_bundle, device="cpu")
        again = translate(root, out, model=tiny_bundle, device="cpu")
        assert [item.source for item in done] == [item.source for item in again]
        assert len(done) == 4

    def test_pictures_keep_their_names(
        self, tiny_bundle: Bundle, picture_folder: Path, tmp_path: Path
    ) -> None:
        source = tmp_path / "TrainT1"
        source.mkdir()
        for number in (5, 9, 10):
            shutil.copy(picture_folder / "TrainT1" / f"Image #{number}.png", source)
        (source / "notes.txt").write_text("mine")
        done = translate(source, tmp_path / "out", model=tiny_bundle, device="cpu")
        names = ["Image #5.png", "Image #9.png", "Image #10.png"]
        assert [item.output.name for item in done] == names
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert [item["source"] for item in report["ignored"]] == ["notes.txt"]
        back = translate(
            picture_folder / "TrainT2", tmp_path / "back", model=tiny_bundle, device="cpu"
        )
        assert {item.contrast for item in back} == {"T1w"}

    def test_linked_folders_are_followed_once(
        self, tiny_bundle: Bundle, scan: Path, tmp_path: Path
    ) -> None:
        root = tmp_path / "subset"
        (root / "p2").mkdir(parents=True)
        shutil.copy(scan, root / "p2" / "T1w.nii.gz")
        (tmp_path / "disk").mkdir()
        shutil.copy(scan, tmp_path / "disk" / "T1w.nii.gz")
        (tmp_path / "disk" / "up").symlink_to(root)
        for link, place in (("p1", tmp_path / "disk"), ("latest", root / "p2")):
            (root / link).symlink_to(place)
        done = translate(root, tmp_path / "out", model=tiny_bundle, device="cpu")
        assert [one.source for one in done] == [root / n / "T1w.nii.gz" for n in ("p1", "p2")]

    def test_one_broken_file_does_not_stop_the_others(
        self, tiny_bundle: Bundle, bids_scans: Path, tmp_path: Path
    ) -> None:
        root = shutil.copytree(bids_scans, tmp_path / "bids")
        broken = root / "sub-02" / "anat" / "sub-02_T1w.nii.gz"
        broken.write_bytes(broken.read_bytes()[:-100])
        before = tree(root)
        with pytest.raises(SomeScansFailed, match="1 of 4 scans failed") as caught:
            translate(root, tmp_path / "out", model=tiny_bundle, device="cpu")
        assert caught.value.exit_code == 1
        assert [item.output is None for item in caught.value.result] == [False, True, False, False]
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        (failed,) = report["failed"]
        assert failed["source"] == "sub-02/anat/sub-02_T1w.nii.gz"
        assert "damaged or truncated" in failed["error"]
        made = [p for p in tree(tmp_path / "out") if p.endswith(".nii.gz")]
        assert len(made) == len(report["done"]) == 3
        assert tree(root) == before
        assert {p.name for p in tmp_path.iterdir()} == {"bids", "out"}, "written elsewhere"

    def test_a_folder_that_cannot_be_written_is_found_before_the_first_scan(
        self, tiny_bundle: Bundle, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(**_: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)  # root may write anywhere
        with pytest.raises(OutputError, match=r"out: cannot be written \(Permission denied\)"):
            translate(scan.parent, tmp_path / "out", model=tiny_bundle, device="cpu")
        assert not (tmp_path / "out").exists()

    def test_two_scans_never_become_one_file(
        self, tiny_bundle: Bundle, scan: Path, tmp_path: Path
    ) -> None:
        for desc in ("denoised", "smoothed"):
            shutil.copy(scan, scan.with_name(f"sub-06_run-2_desc-{desc}_T1w.nii.gz"))
        scan.unlink()
        with pytest.raises(SomeScansFailed):
            translate(scan.parent, tmp_path / "out", model=tiny_bundle, device="cpu")
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert len(report["done"]) == 1
        assert "output of another scan already" in report["failed"][0]["error"]

    def test_raw_before_derived(self, tiny_bundle: Bundle, scan: Path, tmp_path: Path) -> None:
        shutil.copy(scan, scan.with_name("sub-06_run-2_desc-brain_T1w.nii.gz"))
        (done,) = translate(scan.parent, tmp_path / "out", model=tiny_bundle, device="cpu")
        assert done.source == scan
        (left_out,) = json.loads((tmp_path / "out" / "report.json").read_text())["ignored"]
        assert left_out["source"] == "sub-06_run-2_desc-brain_T1w.nii.gz"

    def test_content_that_is_not_fetched(
        self,
        tiny_bundle: Bundle,
        scan: Path,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        pointers = {
            "a_T1w.nii.gz": ("/annex/objects/MD5E-s83--00.nii.gz\n", "datalad get"),
            "b_T1w.nii.gz": ("../.git/annex/objects/x/y/k/k", "datalad get"),
            "c_T1w.nii.gz": (
                "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
                "git lfs pull",
            ),
            "d e_T1w.nii.gz": ("", "datalad get"),
        }
        for name, (text, _) in pointers.items():
            scan.with_name(name).write_text(text)
        linked = scan.with_name("d e_T1w.nii.gz")
        linked.unlink()
        linked.symlink_to("../.git/annex/objects/x/y/k/k")
        with pytest.raises(SomeScansFailed, match="4 of 5") as caught:
            translate(scan.parent, tmp_path / "out", model=tiny_bundle, device="cpu")
        assert sum(item.output is not None for item in caught.value.result) == 1
        assert f"Run: datalad get '{linked}'" in caplog.text
        failed = json.loads((tmp_path / "out" / "report.json").read_text())["failed"]
        errors = {row["source"]: row["error"] for row in failed}
        assert errors == {n: f"is not fetched ({command})" for n, (_, command) in pointers.items()}
        for name, (_, command) in pointers.items():
            with pytest.raises(InputError, match=rf"is not fetched.*Run: {command}"):
                translate(
                    scan.with_name(name), tmp_path / "x.nii.gz", model=tiny_bundle, device="cpu"
                )
        scan.with_name("f_T1w.nii.gz").symlink_to("nowhere.nii.gz")
        with pytest.raises(InputError, match="is a link to a file that does not exist"):
            translate(
                scan.with_name("f_T1w.nii.gz"), tmp_path / "x", model=tiny_bundle, device="cpu"
            )

    def test_refusals(self, tiny_bundle: Bundle, scan: Path, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="the input itself"):
            translate(scan.parent, scan.parent, model=tiny_bundle, device="cpu")
        with pytest.raises(OutputError, match="name of a file"):
            translate(scan.parent, tmp_path / "out.nii.gz", model=tiny_bundle, device="cpu")
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match="holds no T1w scan among 0 images"):
            translate(tmp_path / "empty", tmp_path / "out", model=tiny_bundle, device="cpu")
        assert not (tmp_path / "out").exists()
