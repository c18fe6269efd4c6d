"""The example that runs an exported network without mrbridge and PyTorch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mrbridge import io, phantom
from mrbridge.bundle import Bundle
from mrbridge.inference.export import export
from mrbridge.inference.translator import Translator
from mrbridge.volume import Volume

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx" / "translate.py"


def run(model: Path, scan: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """The example, in a process that cannot import what it does not need."""
    absent = ("mrbridge", "torch", "scipy", "skimage", "SimpleITK", "pandas", "matplotlib")
    code = (
        f"import runpy, sys\nfor one in {absent}: sys.modules[one] = None\n"
        f"sys.argv = [{str(EXAMPLE)!r}, *sys.argv[1:]]\n"
        f"runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", code, str(model), str(scan), str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def compared(model: Path, scan: Volume, ours: Volume, folder: Path) -> float:
    """Correlation of the example's image with ours inside the head; it must have the same grid."""
    io.write(scan, folder / "scan.nii.gz")
    done = run(model, folder / "scan.nii.gz", folder / "made.nii.gz")
    assert done.returncode == 0, done.stderr
    made = nib.load(folder / "made.nii.gz")
    assert made.shape == ours.voxels.shape
    np.testing.assert_allclose(made.affine, ours.affine, atol=1e-4)
    assert b"synthetic" in bytes(made.header["descrip"])
    inside = scan.voxels > 0.1 * scan.voxels.max()
    return float(np.corrcoef(made.get_fdata()[inside], ours.voxels[inside])[0, 1])


@pytest.mark.parametrize("turned", [False, True])
def test_it_gives_the_same_image(
    tiny_bundle: Bundle, written: list[Path], make_scan, tmp_path: Path, turned: bool
) -> None:
    """Of any orientation."""
    scan = make_scan(1, "T1w")
    if turned:  # sagittal slices, from left to right
        axes = np.array([[2, -1], [0, 1], [1, -1]])
        voxels = nib.orientations.apply_orientation(scan.voxels, axes)
        affine = scan.affine @ nib.orientations.inv_ornt_aff(axes, scan.voxels.shape)
        scan = Volume(voxels, affine, contrast="T1w")
    ours = Translator(tiny_bundle, "cpu", planes="axial").translate(scan, "T2w")
    assert compared(written[0], scan, ours, tmp_path) > 0.99


def test_what_it_cannot_do_is_refused(written: list[Path], tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4, 2)), np.eye(4)), tmp_path / "4d.nii.gz")
    done = run(written[0], tmp_path / "4d.nii.gz", tmp_path / "made.nii.gz")
    assert done.returncode == 1
    assert "has 4 dimensions" in done.stderr
    assert not (tmp_path / "made.nii.gz").exists()


@pytest.mark.nightly
@pytest.mark.parametrize("stripped", [False, True])
def test_with_the_shipped_model(tmp_path: Path, stripped: bool) -> None:
    settings = phantom.PhantomSettings(spacing_mm=2, stripped=stripped, seed=3)
    scan = phantom.simulate(settings, 0).t1w
    model = export("shipped", tmp_path / "onnx")[0]
    ours = Translator(device="cpu", planes="axial").translate(scan, "T2w")
    # The example finds the head and the intensities in a simpler way.
    assert compared(model, scan, ours, tmp_path) > 0.97
