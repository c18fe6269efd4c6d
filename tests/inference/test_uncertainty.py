"""Uncertainty maps: their grid, units and files; the image stays what it is without them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from tests.studies import T1W, datasets, save

import mrbridge
from mrbridge import io
from mrbridge.bundle import Bundle, load_bundle, save_bundle
from mrbridge.errors import OutputError, SettingsError
from mrbridge.inference.slices import SliceTranslator
from mrbridge.inference.translator import Translator
from mrbridge.manifest import Uncertainty
from mrbridge.preprocessing.intensity import IntensityNormalisation
from mrbridge.volume import Volume


def test_the_map_has_the_units_of_the_synthetic_scan(
    certain_bundle: Bundle, make_scan: Callable[..., Volume]
) -> None:
    scan = make_scan(3, "T1w")
    straight = {name: IntensityNormalisation(low=0, high=500) for name in ("T1w", "T2w")}
    manifest = certain_bundle.manifest.model_copy(update={"typical": straight})
    result = Translator(Bundle(manifest, certain_bundle.weights), "cpu").translate(
        scan, "T2w", uncertainty=True
    )
    assert result.uncertainty is not None
    width = result.uncertainty
    assert width.shape == scan.voxels.shape
    assert width.dtype == np.float32
    np.testing.assert_array_equal(result.affine, scan.affine)
    inside = width[width > 0]
    # 2 x (0.01 + 0.05) of [-1, 1], which is 500 wide; interpolation goes beyond a little.
    assert np.median(inside) == pytest.approx(0.12 * 250, rel=0.02)
    assert (width >= 0).all()


def test_the_image_does_not_change(
    certain_bundle: Bundle, make_scan: Callable[..., Volume]
) -> None:
    scan = make_scan(3, "T1w")
    translator = Translator(certain_bundle, "cpu")
    with_map = translator.translate(scan, "T2w", uncertainty=True)
    np.testing.assert_array_equal(with_map.voxels, translator.translate(scan, "T2w").voxels)


def test_planes_that_differ_are_uncertain(
    certain_bundle: Bundle, make_scan: Callable[..., Volume], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a head the spread over the planes is what is known."""
    monkeypatch.setattr("mrbridge.inference.planes._HIGH_MM", 0.0)
    levels = iter((-0.5, 0.1, 1.0))

    def translate(
        self: SliceTranslator, stacks: list[np.ndarray], *rest: object, tight: bool
    ) -> tuple[np.ndarray, ...]:
        return (np.full(stacks[0].shape, next(levels), np.float32),)

    monkeypatch.setattr(SliceTranslator, "__call__", translate)
    known = Uncertainty(width=0, least=0.0, factor={"T2w": 3.0}, spread=1.0)
    bundle = Bundle(
        certain_bundle.manifest.model_copy(update={"uncertainty": known}), certain_bundle.weights
    )
    translator = Translator(bundle, "cpu", "all")
    scan = make_scan(3, "T1w")
    direction, preprocessed = bundle.direction(("T1w",), "T2w"), translator.preprocess(scan, "T2w")
    stacks, planes = {"T1w": preprocessed.slices}, translator.planes_of(scan, preprocessed)
    image, scale, spread = translator.computed(stacks, preprocessed, direction, planes, True)
    middle = tuple(size // 2 for size in image.shape)
    assert image[middle] == pytest.approx(0.2, abs=1e-3)
    assert spread[middle] == pytest.approx(np.std([-0.5, 0.1, 1.0]), abs=1e-3)
    assert (scale == 0).all()


def test_files(certain_bundle: Bundle, tmp_path: Path, make_scan: Callable[..., Volume]) -> None:
    model = tmp_path / "model"
    save_bundle(certain_bundle.manifest, certain_bundle.weights, model)
    assert load_bundle(model).manifest.uncertainty == certain_bundle.manifest.uncertainty
    for name, expected in (
        ("sub-01_T1w.nii.gz", "sub-01_desc-uncertainty_T2w.nii.gz"),
        ("head.nii.gz", "head_uncertainty.nii.gz"),
    ):
        source = tmp_path / "in" / name
        io.write(make_scan(3, "T1w"), source)
        for _ in range(2):  # what mrbridge made, it may replace
            (one,) = mrbridge.translate(
                source, tmp_path / "out", model=model, to="T2w", uncertainty=True, dtype="int16"
            )
        assert one.uncertainty == tmp_path / "out" / expected
        image, width = (nib.load(p) for p in (one.output, one.uncertainty))
        assert width.affine.tobytes() == image.affine.tobytes()
        assert width.get_data_dtype() == np.float32
        assert bytes(width.header["descrip"].item()).startswith(b"synthetic T2w-uncertainty, ")
        about = json.loads(one.uncertainty.with_name(expected[:-7] + ".json").read_text())
        assert about["Coverage"] == 0.9
        assert about["SyntheticData"] is True


def test_a_foreign_file_in_the_place_of_the_map_stops_both(
    certain_bundle: Bundle, tmp_path: Path, make_scan: Callable[..., Volume]
) -> None:
    source = io.write(make_scan(3, "T1w"), tmp_path / "head.nii.gz")
    foreign = io.write(make_scan(4, "T1w"), tmp_path / "out" / "head_uncertainty.nii.gz")
    before = foreign.read_bytes()
    with pytest.raises(OutputError, match="was not made by mrbridge"):
        mrbridge.translate(
            source, tmp_path / "out", model=certain_bundle, to="T2w", uncertainty=True
        )
    assert foreign.read_bytes() == before
    assert not (tmp_path / "out" / "head.nii.gz").exists()


def test_dicom(certain_bundle: Bundle, tmp_path: Path, make_scan: Callable[..., Volume]) -> None:
    """A Parametric Map next to the derived series, frame by frame at its positions."""
    pytest.importorskip("highdicom")
    scan, out = make_scan(6, "T1w"), tmp_path / "out"
    save(tmp_path / "study", datasets(scan, 3, **T1W))
    for _ in range(2):  # it may be replaced as a whole
        (one,) = mrbridge.translate(
            tmp_path / "study", out, model=certain_bundle, device="cpu", uncertainty=True
        )
    assert one.uncertainty == out / "uncertainty.dcm"
    made = pydicom.dcmread(one.uncertainty)
    images = [pydicom.dcmread(path) for path in sorted(out.glob("0*.dcm"))]
    assert made.SOPClassUID.name == "Parametric Map Storage"
    assert made.StudyInstanceUID == images[0].StudyInstanceUID
    assert made.FrameOfReferenceUID == images[0].FrameOfReferenceUID
    assert made.SeriesInstanceUID != images[0].SeriesInstanceUID
    assert made.SyntheticData == "YES"
    frames = made.pixel_array
    assert frames.dtype == np.float32
    assert frames.shape == (len(images), images[0].Rows, images[0].Columns)
    by_place = {
        tuple(group.PlanePositionSequence[0].ImagePositionPatient): frame
        for group, frame in zip(made.PerFrameFunctionalGroupsSequence, frames, strict=True)
    }
    for image in images:
        frame = by_place[tuple(image.ImagePositionPatient)]
        shown = image.pixel_array > image.pixel_array.max() / 10
        assert (frame[shown] > 0).all(), "uncertain where there is a head"
    assert io.read(out).voxels.shape == scan.voxels.shape, "the series can still be read"


def test_integers_scale_the_map_too(
    certain_bundle: Bundle, tmp_path: Path, make_scan: Callable[..., Volume]
) -> None:
    scan = make_scan(3, "T1w")
    small = {name: IntensityNormalisation(low=0, high=1) for name in ("T1w", "T2w")}
    bundle = Bundle(
        certain_bundle.manifest.model_copy(update={"typical": small}), certain_bundle.weights
    )
    floats, integers = (
        mrbridge.translate(scan, model=bundle, uncertainty=True, dtype=dtype)
        for dtype in ("float32", "int16")
    )
    np.testing.assert_allclose(integers.uncertainty, 1000 * floats.uncertainty, rtol=1e-6)


def test_objects_carry_their_map(certain_bundle: Bundle, make_scan: Callable[..., Volume]) -> None:
    scan = make_scan(3, "T1w")
    image = nib.Nifti1Image(scan.voxels, scan.affine)
    made = mrbridge.translate(image, model=certain_bundle, to="T2w", uncertainty=True)
    of_volume = mrbridge.translate(scan, model=certain_bundle, to="T2w", uncertainty=True)
    np.testing.assert_array_equal(np.asarray(made.uncertainty.dataobj), of_volume.uncertainty)
    assert mrbridge.translate(scan, model=certain_bundle, to="T2w").uncertainty is None


def test_models_without_calibration_refuse(
    tiny_bundle: Bundle, certain_bundle: Bundle, make_scan: Callable[..., Volume]
) -> None:
    scan = make_scan(3, "T1w")
    known = certain_bundle.manifest.uncertainty
    assert known is not None
    one_way = replace(
        certain_bundle,
        manifest=certain_bundle.manifest.model_copy(
            update={"uncertainty": known.model_copy(update={"factor": {"T1w": 1.0}})}
        ),
    )
    for bundle in (tiny_bundle, one_way):
        with pytest.raises(SettingsError, match="never calibrated for T1w to T2w"):
            mrbridge.translate(scan, model=bundle, to="T2w", uncertainty=True)


@pytest.mark.parametrize("name", ["out.nii.gz", "sub-01_desc-synth_T2w.nii.gz"])
def test_no_map_of_an_earlier_image_stays(
    name: str, certain_bundle: Bundle, tmp_path: Path, make_scan: Callable[..., Volume]
) -> None:
    """`evaluate` would use it for the image next to it."""
    for seed in (1, 2):
        io.write(make_scan(seed, "T1w"), tmp_path / f"sub-0{seed}_T1w.nii.gz")
    how: dict[str, Any] = {"model": certain_bundle, "device": "cpu"}
    out = tmp_path / "out" / name
    (first,) = mrbridge.translate(tmp_path / "sub-01_T1w.nii.gz", out, uncertainty=True, **how)
    assert first.uncertainty is not None
    assert first.uncertainty.is_file()
    mrbridge.translate(tmp_path / "sub-02_T1w.nii.gz", out, **how)
    assert sorted(path.name for path in out.parent.iterdir()) == sorted(
        [name, name.replace(".nii.gz", ".json")]
    )


def test_a_foreign_file_in_the_place_of_the_map_stays(
    certain_bundle: Bundle, tmp_path: Path, make_scan: Callable[..., Volume]
) -> None:
    io.write(make_scan(1, "T1w"), tmp_path / "sub-01_T1w.nii.gz")
    io.write(make_scan(1, "T1w"), tmp_path / "out_uncertainty.nii.gz")
    how: dict[str, Any] = {"model": certain_bundle, "device": "cpu"}
    mrbridge.translate(tmp_path / "sub-01_T1w.nii.gz", tmp_path / "out.nii.gz", **how)
    assert (tmp_path / "out_uncertainty.nii.gz").is_file()
