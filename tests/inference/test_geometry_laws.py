"""Laws of translation in space: the identity generator returns its input, storage does not matter.

How a volume becomes slices and returns is tested in `preparation/test_geometry.py`; here files go
in and files come out.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings, strategies as st
from scipy.spatial.transform import Rotation

from mrbridge import io
from mrbridge.bundle import Bundle
from mrbridge.errors import MrbridgeWarning
from mrbridge.inference.slices import SliceTranslator
from mrbridge.inference.translate import translate
from mrbridge.inference.translator import Translator
from mrbridge.preprocessing.preprocess import preprocess
from mrbridge.volume import Volume

ORIENTATIONS = [
    "".join(letters)
    for pairs in itertools.permutations(["LR", "PA", "IS"])
    for letters in itertools.product(*pairs)
]
PLACE = (
    *("dim", "pixdim", "xyzt_units", "qform_code", "sform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)

quick = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def identity(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle whose generators are the identity."""
    monkeypatch.setattr(SliceTranslator, "computed", lambda self, stacks, *rest: stacks)
    return tiny_bundle


def affine_of(angles: tuple[float, ...], spacing: tuple[float, ...]) -> np.ndarray:
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    affine[:3, :3] = turn @ np.diag(spacing)
    affine[:3, 3] = [-31.5, 17.25, 5]
    return affine


def head(shape: tuple[int, ...], affine: np.ndarray) -> Volume:
    """A smooth blob in every axial slice, of integers up to 1000, nothing around it.

    Its brightest percent is flat, so that nothing of it is clipped.
    """
    ornt = nib.io_orientation(affine)
    axes = [
        np.linspace(0, 1, n) if ornt[axis, 0] == 2 else np.linspace(-1, 1, n)
        for axis, n in enumerate(shape)
    ]
    grid = np.meshgrid(*axes, indexing="ij")
    bump = np.ones(shape)
    for axis, values in enumerate(grid):
        if ornt[axis, 0] == 2:
            bump *= 1 - 0.2 * values
        else:
            bump *= np.cos(np.clip(values / 0.9, -1, 1) * np.pi / 2) ** 2
    return Volume(np.rint(1000 * np.clip(1.4 * bump, 0, 1)).astype(np.int16), affine)


def store_as(volume: Volume, code: str) -> Volume:
    """The same anatomy, stored in another of the 48 orientations."""
    image = nib.Nifti1Image(volume.voxels, volume.affine)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(tuple(code))
    )
    image = image.as_reoriented(turn)
    return Volume(np.asarray(image.dataobj), image.affine)


def through_a_file(bundle: Bundle, volume: Volume, folder: Path, **options: Any) -> nib.Nifti1Image:
    """Translate a file, compare where the two files lie in space, and give the second."""
    path = io.write(volume, folder / "scan.nii")
    (done,) = translate(path, folder / "made.nii", model=bundle, device="cpu", **options)
    assert_same_place(path, done.output)
    return nib.load(done.output)


def assert_same_place(before: Path, after: Path) -> None:
    was, now = nib.load(before), nib.load(after)
    for key in PLACE:
        assert was.header[key].tobytes() == now.header[key].tobytes(), key
    assert was.affine.tobytes() == now.affine.tobytes()
    with after.open("rb") as file:  # an image that was loaded has forgotten its scale
        stored = type(now.header).from_fileobj(file)
    assert (float(stored["scl_slope"]), float(stored["scl_inter"])) == (1, 0)


def unclipped(volume: Volume, bundle: Bundle) -> np.ndarray:
    """The voxels within the range that the scan's own recipe keeps."""
    recipe = preprocess(volume, bundle.manifest.standard).normalisation
    assert recipe.low == 0, "the blob lies on nothing"
    assert np.mean(volume.voxels > recipe.high) < 0.01
    return np.clip(volume.voxels.astype(np.float32), recipe.low, recipe.high)


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_the_identity_gives_back_every_orientation_bit_for_bit(
    code: str, identity: Bundle, tmp_path: Path
) -> None:
    volume = store_as(head((21, 24, 5), affine_of((7, -11, 4), (1, 1, 3.7))), code)
    made = through_a_file(identity, volume, tmp_path, match=volume, dtype="int16")
    assert made.get_data_dtype() == np.int16
    expected = np.rint(unclipped(volume, identity))
    np.testing.assert_array_equal(np.asarray(made.dataobj), expected)
    floats = through_a_file(identity, volume, tmp_path, match=volume)
    assert floats.get_data_dtype() == np.float32
    np.testing.assert_allclose(np.asarray(floats.dataobj), expected, atol=0.5)


@st.composite
def volumes(draw: st.DrawFn, step: st.SearchStrategy[float]) -> Volume:
    """Blobs of 24 mm and more in the plane, on oblique, sheared grids of one slice and more."""
    angles = draw(st.tuples(*[st.floats(-180, 180)] * 3))
    affine = affine_of(angles, (1, 1, 1))
    slicing = int(np.flatnonzero(nib.io_orientation(affine)[:, 0] == 2)[0])
    spacing = [draw(step) for _ in range(3)]
    spacing[slicing] = draw(st.floats(0.5, 7))
    shape = [int(24 / s) + draw(st.integers(1, 9)) for s in spacing]
    shape[slicing] = draw(st.integers(1, 5))
    shear = draw(st.sampled_from([0.0, 0.05, -0.1]))
    affine[:3, :3] = affine[:3, :3] @ (np.eye(3) + shear * np.eye(3, k=1)) * spacing
    assume(nib.io_orientation(affine)[slicing, 0] == 2)  # shear may turn what lies at 45 degrees
    return head(tuple(shape), affine)


@quick
@given(volume=volumes(st.just(1.0)))
def test_what_is_not_resampled_comes_back_bit_for_bit(
    volume: Volume, identity: Bundle, tmp_path: Path
) -> None:
    made = through_a_file(identity, volume, tmp_path, match=volume, dtype="uint16")
    expected = np.rint(unclipped(volume, identity))
    np.testing.assert_array_equal(np.asarray(made.dataobj), expected)


@quick
@given(volume=volumes(st.floats(0.4, 2.2)))
def test_what_is_resampled_comes_back_within_the_error_of_interpolation(
    volume: Volume, identity: Bundle, tmp_path: Path
) -> None:
    made = through_a_file(identity, volume, tmp_path, match=volume)
    wrong = np.asarray(made.dataobj) - unclipped(volume, identity)
    assert np.abs(wrong).max() < 40, "of 1000"
    assert np.sqrt(np.mean(wrong**2)) < 6


@quick
@given(volume=volumes(st.sampled_from([0.45, 0.8, 1.0, 1.7])), code=st.sampled_from(ORIENTATIONS))
def test_how_a_scan_is_stored_does_not_change_its_translation(
    volume: Volume, code: str, tiny_bundle: Bundle
) -> None:
    translator = Translator(tiny_bundle, "cpu")
    made = translator.translate(volume, "T2w")
    turned = translator.translate(store_as(volume, code), "T2w")
    expected = store_as(made, code)
    np.testing.assert_array_equal(turned.voxels, expected.voxels)
    assert turned.affine is not None
    np.testing.assert_array_equal(turned.affine, expected.affine)


@quick
@given(
    codes=st.tuples(st.integers(0, 4), st.integers(0, 4)).filter(any),
    units=st.sampled_from([0, 1, 2, 3, 10]),
    axes=st.integers(3, 5),
    kind=st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]),
    apart=st.booleans(),
    handed=st.sampled_from([-1.0, 1.0]),
)
def test_codes_units_and_axes_come_back_bit_for_bit(
    codes: tuple[int, int],
    units: int,
    axes: int,
    kind: type,
    apart: bool,
    handed: float,
    identity: Bundle,
    tmp_path: Path,
) -> None:
    millimetres = {1: 0.001, 3: 1000.0}.get(units, 1.0)
    affine = affine_of((12, -8, 170), (handed * 1.0, 1.0, 4.0))
    volume = head((22, 25, 3), affine)
    stored = np.diag([millimetres] * 3 + [1.0]) @ affine
    image = kind(volume.voxels.reshape(volume.voxels.shape + (1,) * (axes - 3)), stored)
    image.set_qform(stored, codes[0])
    image.set_sform(stored, codes[1])
    if apart:  # two places that differ: the sform's holds
        image.header["qoffset_x"] += 3 * millimetres
    image.header["xyzt_units"] = units
    path = tmp_path / "scan.nii"
    nib.save(image, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MrbridgeWarning)
        (done,) = translate(path, tmp_path / "made.nii", model=identity, match=volume, device="cpu")
    assert_same_place(path, done.output)
    voxels = np.asarray(nib.load(done.output).dataobj)
    assert voxels.shape == image.shape
    np.testing.assert_allclose(
        voxels.reshape(volume.voxels.shape), unclipped(volume, identity), atol=0.5
    )


class TestNumberTypes:
    @pytest.mark.parametrize("dtype", ["int16", "uint16", "uint8", "int32"])
    def test_integers_say_what_they_are(
        self, dtype: str, tiny_bundle: Bundle, make_scan: Callable[..., Volume], tmp_path: Path
    ) -> None:
        volume = make_scan(6, "T1w")
        floats = np.asarray(through_a_file(tiny_bundle, volume, tmp_path).dataobj)
        made = through_a_file(tiny_bundle, volume, tmp_path, dtype=dtype)
        assert made.get_data_dtype() == np.dtype(dtype)
        raw = np.asarray(made.dataobj.get_unscaled())
        top = tiny_bundle.manifest.typical["T2w"].high
        assert 1000 < top < 2000, "else the factors below are others"
        factor = {"uint8": 255 / top}.get(dtype, 1.0)
        assert np.abs(raw - floats * factor).max() <= 0.5 + 1e-3
        assert raw.max() > 50
        assert not raw[floats == 0].any(), "zero moved"
        assert (raw == np.asarray(made.dataobj)).all()
