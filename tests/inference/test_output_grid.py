"""Synthetic scans on another grid than that of their source: `--spacing` and `--grid`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from mrbridge import io
from mrbridge.bundle import Bundle
from mrbridge.errors import InputError, SettingsError
from mrbridge.inference.output_grid import OutputGrid
from mrbridge.inference.settings import TranslateSettings
from mrbridge.inference.translate import translate
from mrbridge.preprocessing.resample import grid_with_spacing
from mrbridge.volume import Volume

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def scan(make_scan: Callable[..., Volume], tmp_path: Path) -> Path:
    """1 x 1 x 4 mm, of 40 x 48 x 12 voxels."""
    return io.write(make_scan(6, "T1w"), tmp_path / "in" / "sub-06_run-2_T1w.nii.gz")


def edges(volume: Volume) -> np.ndarray[Any, Any]:
    """The outer corners of the first and the last voxel, in mm."""
    assert volume.affine is not None
    corners = np.array([np.full(3, -0.5), np.array(volume.voxels.shape) - 0.5])
    return np.asarray(corners @ volume.affine[:3, :3].T + volume.affine[:3, 3])


class TestGrid:
    def test_the_field_of_view_stays(self, make_scan: Callable[..., Volume]) -> None:
        volume = make_scan(6, "T1w")
        fine = grid_with_spacing(volume, (1.0,))
        assert fine.voxels.shape == (40, 48, 48)
        assert fine.spacing == pytest.approx((1, 1, 1))
        np.testing.assert_allclose(edges(fine), edges(volume))

    def test_another_size_is_centred_and_holds_the_field_of_view(
        self, make_scan: Callable[..., Volume]
    ) -> None:
        volume = make_scan(6, "T1w")
        grid = grid_with_spacing(volume, (0.9, 3.0, 5.0))
        assert grid.voxels.shape == (45, 16, 10)
        assert grid.spacing == pytest.approx((0.9, 3, 5))
        excess = edges(grid) - edges(volume)
        np.testing.assert_allclose(excess[0], -excess[1])
        assert np.abs(excess).max() < 2.5

    def test_the_own_spacing_changes_nothing(self, make_scan: Callable[..., Volume]) -> None:
        volume = make_scan(6, "T1w")
        same = grid_with_spacing(volume, (1.0, 1.0, 4.0))
        assert same.voxels.shape == volume.voxels.shape
        np.testing.assert_allclose(same.affine, volume.affine)

    def test_too_many_voxels(self) -> None:
        huge = Volume(np.broadcast_to(np.zeros(1), (400, 400, 400)), np.diag([2.0, 2, 2, 1]))
        with pytest.raises(InputError, match="would have 8000 x 8000 x 8000 voxels"):
            grid_with_spacing(huge, (0.1,))

    @pytest.mark.parametrize("value", [(1.0, 2.0), (0.0,), (-1.0,), (1000.0,), "fine"])
    def test_impossible_spacings(self, value: Any) -> None:
        with pytest.raises(SettingsError):
            TranslateSettings.build({"spacing": value})

    def test_names(self) -> None:
        assert OutputGrid((0.8,)).label == "0p8mm"
        assert OutputGrid((1.0, 1.0, 3.0)).label == "1x1x3mm"
        assert OutputGrid((1.0, 1.0, 1.0)).words == "1 mm isotropic"


class TestFiles:
    def test_spacing(self, certain_bundle: Bundle, scan: Path, tmp_path: Path, run: Run) -> None:
        how: dict[str, Any] = {"model": certain_bundle, "device": "cpu", "uncertainty": True}
        translate(scan, tmp_path / "own", **how)
        translate(scan, tmp_path / "fine", spacing=1, **how)
        folder = tmp_path / "fine"
        names = ("sub-06_run-2_res-1mm_desc-synth_T2w", "sub-06_run-2_res-1mm_desc-uncertainty_T2w")
        own = [
            io.read(tmp_path / "own" / f"{name.replace('_res-1mm', '')}.nii.gz") for name in names
        ]
        made = [io.read(folder / f"{name}.nii.gz") for name in names]
        for name, coarse, fine in zip(names, own, made, strict=True):
            assert fine.spacing == pytest.approx((1, 1, 1))
            np.testing.assert_allclose(edges(fine), edges(coarse), atol=1e-4)
            assert json.loads((folder / f"{name}.json").read_text())["Resolution"] == (
                "1 mm isotropic"
            )
            assert fine.synthetic
            # Interpolation: the mean of four thin slices is near their thick slice.
            blocks = fine.voxels.reshape(40, 48, 12, 4).mean(axis=3)
            apart = np.abs(blocks - coarse.voxels)[:, :, 1:-1].mean()
            assert apart < 0.1 * coarse.voxels.max()
        assert made[1].voxels.min() >= 0

    def test_a_reference(
        self, tiny_bundle: Bundle, scan: Path, make_scan: Callable[..., Volume], tmp_path: Path
    ) -> None:
        reference = make_scan(3, "T2w", shape=(30, 30, 20))
        assert reference.affine is not None
        oblique = reference.affine.copy()
        oblique[:3, :3] = oblique[:3, :3] @ np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]])
        path = tmp_path / "ref.nii.gz"
        image = nib.Nifti1Image(reference.voxels, oblique)
        image.set_sform(oblique, code=4)
        nib.save(image, path)
        (done,) = translate(scan, tmp_path / "out", model=tiny_bundle, device="cpu", grid=path)
        assert done.output == tmp_path / "out" / "sub-06_run-2_res-reference_desc-synth_T2w.nii.gz"
        made = nib.load(done.output)
        assert made.shape == (30, 30, 20)
        np.testing.assert_array_equal(made.affine, nib.load(path).affine)
        assert int(made.header["sform_code"]) == 4
        with_object = translate(
            io.read(scan), model=tiny_bundle, device="cpu", grid=(reference.voxels, oblique)
        )
        np.testing.assert_allclose(with_object.voxels, made.get_fdata(), rtol=1e-3, atol=0.5)

    def test_a_reference_of_several_volumes(
        self, tiny_bundle: Bundle, scan: Path, tmp_path: Path
    ) -> None:
        affine = np.diag([3.0, 3, 3, 1])
        series = nib.Nifti1Image(np.zeros((12, 11, 10, 2), np.int16), affine)
        nib.save(series, tmp_path / "bold.nii.gz")
        translate(
            scan, tmp_path / "o.nii.gz", model=tiny_bundle, device="cpu",
            grid=tmp_path / "bold.nii.gz",
        )  # fmt: skip
        made = nib.load(tmp_path / "o.nii.gz")
        assert made.shape == (12, 11, 10)
        np.testing.assert_allclose(made.header.get_zooms(), 3)
        with_object = translate(nib.load(scan), model=tiny_bundle, device="cpu", grid=series)
        assert with_object.shape == (12, 11, 10)

    def test_outside_the_field_of_view_is_zero(self, tiny_bundle: Bundle, scan: Path) -> None:
        volume = io.read(scan)
        large = grid_with_spacing(volume, (2.0,))
        assert large.affine is not None
        wide = large.affine.copy()
        wide[:3, 3] -= wide[:3, :3] @ np.array([10, 0, 0])
        grid = Volume(np.zeros((40, *large.voxels.shape[1:])), wide)
        made = translate(volume, model=tiny_bundle, device="cpu", grid=grid)
        assert not made.voxels[:9].any()
        assert made.voxels[12:28].any()

    def test_nibabel_objects(self, tiny_bundle: Bundle, scan: Path) -> None:
        image = nib.load(scan)
        made = translate(image, model=tiny_bundle, device="cpu", spacing=(2.0, 2.0, 2.0))
        assert type(made) is type(image)
        assert made.shape == (20, 24, 24)
        np.testing.assert_allclose(made.header.get_zooms(), 2)

    def test_datasets(self, tiny_bundle: Bundle, bids_scans: Path, tmp_path: Path) -> None:
        how: dict[str, Any] = {"model": tiny_bundle, "device": "cpu", "participants": ("01",)}
        (first,) = translate(bids_scans, tmp_path / "out", spacing=2, **how)
        name = "sub-01_res-2mm_desc-synth_T2w.nii.gz"
        assert first.output == tmp_path / "out/sub-01/anat" / name
        (again,) = translate(bids_scans, tmp_path / "out", spacing=(2.0, 2.0, 2.0), **how)
        assert again.skipped
        (other,) = translate(bids_scans, tmp_path / "out", spacing=(2.0, 2.0, 3.0), **how)
        assert not other.skipped


class TestRefusals:
    def test_both(self, tiny_bundle: Bundle, scan: Path) -> None:
        with pytest.raises(SettingsError, match="exclude each other"):
            translate(io.read(scan), model=tiny_bundle, spacing=1, grid=scan)

    def test_elsewhere(self, tiny_bundle: Bundle, scan: Path, tmp_path: Path) -> None:
        volume = io.read(scan)
        assert volume.affine is not None
        far = replace(volume, affine=volume.affine + np.outer([1, 0, 0, 0], [0, 0, 0, 500.0]))
        with pytest.raises(InputError, match="fields of view do not overlap"):
            translate(scan, tmp_path / "out", model=tiny_bundle, device="cpu", grid=far)
        assert not (tmp_path / "out").exists()

    def test_2d_images(self, tiny_bundle: Bundle, picture_folder: Path, tmp_path: Path) -> None:
        image = picture_folder / "TrainT1" / "Image #5.png"
        with pytest.raises(InputError, match="2D image has no position"):
            translate(image, tmp_path / "o.png", model=tiny_bundle, device="cpu", spacing=1)
        with pytest.raises(InputError, match="is a 2D image, which has no grid"):
            translate(image, tmp_path / "o.png", model=tiny_bundle, device="cpu", grid=image)
        grid = (np.zeros((9, 9, 9)), np.eye(4))
        with pytest.raises(InputError, match="2D image has no position"):
            translate(image, tmp_path / "o.png", model=tiny_bundle, device="cpu", grid=grid)

    def test_on_the_command_line(self, scan: Path, tmp_path: Path, run: Run) -> None:
        out = tmp_path / "out"
        code, _, err = run("translate", "-i", scan, "-o", out, "--spacing", "1", "2")
        assert (code, "one number of mm, or three" in err) == (2, True)
        code, _, err = run("translate", "-i", scan, "-o", out, "--grid", tmp_path / "no.nii")
        assert (code, "no.nii: does not exist" in err) == (2, True)
