"""An identity generator returns its input; what comes back lies where the input lay."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy import ndimage

from mrbridge import io
from mrbridge.bundle import Bundle
from mrbridge.errors import InputError, SettingsError
from mrbridge.inference import slices as module
from mrbridge.inference.slices import SliceTranslator
from mrbridge.inference.translator import Translator
from mrbridge.preprocessing.preprocess import preprocess
from mrbridge.preprocessing.settings import PreprocessSettings
from mrbridge.volume import Volume


class Copying:
    """In place of the network: returns its input, and records the shapes that it gets."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, network: Any, slices: np.ndarray, in_float32: bool) -> np.ndarray:
        assert all(size % network.settings.multiple == 0 for size in slices.shape[1:])
        self.shapes.append(slices.shape)
        return slices


def use(monkeypatch: pytest.MonkeyPatch, run: Callable[..., np.ndarray]) -> None:
    """Let all translators compute with `run(network, slices, in_float32)`."""

    def instead(
        self: SliceTranslator, stacks: list[np.ndarray], in_float32: bool
    ) -> list[np.ndarray]:
        return [run(self.network, stacks[0], in_float32)]

    monkeypatch.setattr(SliceTranslator, "computed", instead)


@pytest.fixture
def copying(monkeypatch: pytest.MonkeyPatch) -> Copying:
    """What all translators compute with, all slices of a plane at once."""
    monkeypatch.setitem(module._BATCH_PIXELS, "cpu", 10**9)
    copying = Copying()
    use(monkeypatch, copying)
    return copying


@pytest.fixture
def identity(tiny_bundle: Bundle, copying: Copying) -> Translator:
    """A translator whose generators return their input."""
    return Translator(tiny_bundle, "cpu")


def store_as(volume: Volume, axes: str) -> Volume:
    """The same anatomy in another orientation."""
    image = nib.Nifti1Image(volume.voxels, volume.affine)
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(axes))
    image = image.as_reoriented(turn)
    return Volume(np.asarray(image.dataobj), image.affine)


def smooth_scan(make_scan: Callable[..., Volume], **how: Any) -> Volume:
    """A scan without noise, which interpolation can bring back."""
    scan = make_scan(3, "T1w", **how)
    blurred = ndimage.gaussian_filter(scan.voxels.astype(np.float32), (2.0, 2.0, 0.5))
    return replace(scan, voxels=blurred)


def levelled(network: Any, slices: np.ndarray, in_float32: bool) -> np.ndarray:
    """Each slice becomes its mean, which differs from plane to plane."""
    return np.broadcast_to(slices.mean(axis=(1, 2), keepdims=True), slices.shape)


@pytest.fixture
def every_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network computes every slice, however close they are."""
    monkeypatch.setattr("mrbridge.inference.planes.CLOSE_MM", 0.0)


AXES = ["LAS", "RAS", "PSR", "ILA"]


@pytest.mark.parametrize("spacing", [(1, 1, 1), (1, 1, 3)])
@pytest.mark.parametrize("axes", AXES)
def test_identity_in_three_planes(
    axes: str,
    spacing: tuple[int, ...],
    tiny_bundle: Bundle,
    copying: Copying,
    every_slice: None,
) -> None:
    rng = np.random.default_rng(0)
    coarse = ndimage.gaussian_filter(rng.random((40, 44, 66)).astype(np.float32), 4)
    kept = coarse[:, :, :: spacing[2]]
    scan = store_as(Volume(kept, np.diag([*spacing, 1.0])), axes)
    standard = preprocess(scan, PreprocessSettings())
    made = Translator(tiny_bundle, "cpu", planes="all").translate(scan, "T2w", match=scan)
    seen = sorted(shape[0] for shape in copying.shapes)
    assert seen == sorted([40, 44, kept.shape[2]]), "sagittal, coronal, axial slices"
    expected = np.clip(scan.voxels, standard.normalisation.low, standard.normalisation.high)
    np.testing.assert_array_equal(made.affine, scan.affine)
    worst = np.abs(made.voxels - expected).max() / np.ptp(expected)
    assert worst < (1e-5 if spacing[2] == 1 else 0.03)


@pytest.mark.parametrize("spacing", [1, 3])
def test_every_second_of_close_slices_is_computed(
    spacing: int, tiny_bundle: Bundle, copying: Copying
) -> None:
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.random((41, 44, 66)).astype(np.float32), 4)
    scan = Volume(smooth[:, :, ::spacing], np.diag([1.0, 1, spacing, 1]))
    made = Translator(tiny_bundle, "cpu", planes="all").translate(scan, "T2w", match=scan)
    seen = sorted(shape[0] for shape in copying.shapes)
    assert seen == sorted([21, 23, 34 if spacing == 1 else 22]), "sagittal, coronal, axial slices"
    found = preprocess(scan, PreprocessSettings()).normalisation
    expected = np.clip(scan.voxels, found.low, found.high)
    worst = np.abs(made.voxels - expected).max() / np.ptp(expected)
    assert worst < 0.03


def test_three_planes_are_the_mean_of_their_results(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, every_slice: None
) -> None:
    use(monkeypatch, levelled)
    # Of multiples of 16, so that nothing is added to them.
    voxels = np.random.default_rng(0).uniform(100, 900, (32, 48, 64)).astype(np.float32)
    scan = Volume(voxels, np.eye(4))
    bare = PreprocessSettings(margin_mm=0)
    manifest = tiny_bundle.manifest.model_copy(update={"standard": bare})
    bundle = replace(tiny_bundle, manifest=manifest)
    made = Translator(bundle, "cpu", planes="all").translate(scan, "T2w", match=scan)
    standard = preprocess(scan, bare)
    levels = [standard.slices.mean(axis, keepdims=True) for axis in ((1, 2), (0, 2), (0, 1))]
    expected = standard.normalisation.restore(sum(levels) / 3)
    np.testing.assert_allclose(made.voxels, standard.undo(expected, 0.0), rtol=1e-5)


def test_whose_planes_are_taken(tiny_bundle: Bundle) -> None:
    manifest = tiny_bundle.manifest.model_copy(update={"planes": "all"})
    bundle = replace(tiny_bundle, manifest=manifest)
    for model, given, planes in (
        (tiny_bundle, None, "axial"),
        (tiny_bundle, "all", "all"),
        (bundle, None, "all"),
        (bundle, "axial", "axial"),
    ):
        translator = Translator(model, "cpu", planes=given)
        assert translator.planes == planes
        there = pickle.loads(pickle.dumps(translator))
        assert there.planes == planes, "also in another process"
    with pytest.raises(SettingsError, match="no planes 'sagittal'"):
        Translator(bundle, "cpu", planes="sagittal")


@pytest.mark.parametrize("axes", AXES)
def test_identity_in_every_orientation(
    axes: str, identity: Translator, make_scan: Callable[..., Volume]
) -> None:
    scan = store_as(make_scan(3, "T1w"), axes)
    standard = preprocess(scan, PreprocessSettings())
    made = identity.translate(scan, "T2w", match=scan)
    expected = np.clip(scan.voxels, standard.normalisation.low, standard.normalisation.high)
    assert made.voxels.dtype == np.float32
    np.testing.assert_array_equal(made.affine, scan.affine)
    np.testing.assert_allclose(made.voxels, expected, atol=1e-3)
    assert (made.contrast, made.synthetic) == ("T2w", True)


@pytest.mark.parametrize("spacing", [0.7, 1.6])
def test_identity_up_to_interpolation(
    spacing: float, identity: Translator, make_scan: Callable[..., Volume]
) -> None:
    scan = smooth_scan(make_scan, shape=(61, 47, 9), spacing=spacing)
    standard = preprocess(scan, PreprocessSettings())
    assert standard.grid.shape != standard.grid.full, "this scan must be resampled"
    made = identity.translate(scan, "T2w", match=scan)
    expected = np.clip(scan.voxels, standard.normalisation.low, standard.normalisation.high)
    assert made.voxels.shape == scan.voxels.shape
    # The coarser the slices that the network sees, the more of the edges is lost.
    worst = np.abs(made.voxels - expected).max() / np.ptp(expected)
    assert worst < 0.05


def test_the_range_is_the_typical_one_of_the_wanted_contrast(
    identity: Translator, make_scan: Callable[..., Volume]
) -> None:
    scan = make_scan(3, "T1w")
    typical = identity.bundle.manifest.typical
    for to in ("T1w", "T2w"):
        made = identity.translate(scan, to)
        assert made.voxels.max() == pytest.approx(typical[to].high, rel=1e-5)
    doubled = replace(make_scan(4, "T2w"), voxels=2 * make_scan(4, "T2w").voxels)
    matched = identity.translate(scan, "T2w", match=doubled)
    assert matched.voxels.max() == pytest.approx(2 * typical["T2w"].high, rel=0.1)


def test_background_stays_exactly_zero_and_all_is_finite(
    tiny_bundle: Bundle, make_scan: Callable[..., Volume]
) -> None:
    scan = make_scan(3, "T1w")
    made = Translator(tiny_bundle, "cpu").translate(scan)
    corner = (slice(3), slice(3))
    np.testing.assert_array_equal(scan.voxels[corner], 0)
    np.testing.assert_array_equal(made.voxels[corner], 0)
    assert np.isfinite(made.voxels).all()
    assert np.ptp(made.voxels) > 0


@pytest.mark.parametrize(
    "scaled",
    [
        lambda x: x / x.max() * 2 - 1,
        lambda x: x + 1000,
        lambda x: (x - x.mean()) / x.std(),
        lambda x: x - 0.0047,
        lambda x: x + 0.7,
    ],
    ids=["-1 to 1", "1000 more", "mean 0", "just below zero", "just above zero"],
)
def test_a_background_that_is_not_black_changes_nothing(
    tiny_bundle: Bundle, make_scan: Callable[..., Volume], scaled: Callable[..., Any]
) -> None:
    scan = make_scan(3, "T1w")
    voxels = scan.voxels.astype(np.float32)
    translator = Translator(tiny_bundle, "cpu")
    made, other = (translator.translate(replace(scan, voxels=x)) for x in (voxels, scaled(voxels)))
    np.testing.assert_allclose(other.voxels, made.voxels, atol=0.005 * made.voxels.max())


def test_a_brain_of_mean_0_has_black_surroundings(
    identity: Translator, make_scan: Callable[..., Volume]
) -> None:
    scan = make_scan(3, "T1w")
    voxels = scan.voxels.astype(np.float32)
    inside = voxels > 0
    zscores = np.where(inside, (voxels - voxels[inside].mean()) / voxels[inside].std(), 0)
    made, other = (
        identity.translate(replace(scan, voxels=x), "T2w").voxels for x in (voxels, zscores)
    )
    assert np.corrcoef(made.ravel(), other.ravel())[0, 1] > 0.99
    assert (other[~inside] == 0).all()


def test_the_input_is_not_changed(tiny_bundle: Bundle, make_scan: Callable[..., Volume]) -> None:
    scan = make_scan(3, "T1w")
    before = scan.voxels.copy()
    Translator(tiny_bundle, "cpu").translate(scan)
    np.testing.assert_array_equal(scan.voxels, before)
    assert not scan.synthetic


def test_slices_do_not_depend_on_the_batch(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    translator = Translator(tiny_bundle, "cpu")
    slices = np.random.default_rng(0).uniform(-1, 1, (7, 40, 35)).astype(np.float32)
    made = []
    for pixels in (1, 2 * 48 * 48, 10**9):
        monkeypatch.setitem(module._BATCH_PIXELS, "cpu", pixels)
        made.append(translator.translate_slices(slices, "T2w"))
    for other in made[1:]:
        np.testing.assert_allclose(other, made[0], atol=2e-3)
    single = translator.translate_slices(slices[4:5], "T2w")
    np.testing.assert_allclose(single[0], made[0][4], atol=2e-3)


def test_slices_of_any_size_come_back_in_their_size(tiny_bundle: Bundle) -> None:
    translator = Translator(tiny_bundle, "cpu")
    for shape in [(1, 16, 16), (2, 33, 47), (3, 5, 70)]:
        made = translator.translate_slices(np.zeros(shape, np.float32), "T1w")
        assert made.shape == shape
        assert made.dtype == np.float32
        assert np.abs(made).max() <= 1


@pytest.mark.parametrize("planes", ["axial", "all"])
def test_pixels_are_those_that_the_network_computes(
    planes: str, tiny_bundle: Bundle, copying: Copying, make_scan: Callable[..., Volume]
) -> None:
    scan = Volume(np.random.default_rng(0).random((80, 96, 70)) + 1, np.eye(4))
    translator = Translator(tiny_bundle, "cpu", planes)
    translator.translate(scan, "T2w")
    computed = sum(int(np.prod(shape)) for shape in copying.shapes)
    assert computed <= translator.pixels(scan) < 1.25 * computed  # slices of air are left out


def test_the_network_gets_the_slices_that_show_something(
    identity: Translator, copying: Copying
) -> None:
    slices = np.random.default_rng(0).uniform(-1, 1, (6, 37, 60)).astype(np.float32)
    foreground = np.ones(slices.shape, bool)
    foreground[[0, 3]] = False
    made = identity.translate_slices(slices, "T2w", foreground=foreground)
    assert copying.shapes == [(4, 48, 64)]
    np.testing.assert_array_equal(made[[1, 2, 4, 5]], slices[[1, 2, 4, 5]])
    np.testing.assert_array_equal(made[[0, 3]], -1)
    nothing = identity.translate_slices(slices, "T2w", foreground=np.zeros_like(foreground))
    np.testing.assert_array_equal(nothing, -1)


def test_a_smaller_margin_saves_padding_in_three_planes(
    identity: Translator, copying: Copying
) -> None:
    slices = np.random.default_rng(0).uniform(-1, 1, (3, 37, 60)).astype(np.float32)
    foreground = np.zeros(slices.shape, bool)
    foreground[:, :29, 20:52] = True  # without margin at the top, with 20 and 8 at the sides
    translate = identity.slice_translator(identity.bundle.direction(("T1w",), "T2w"))
    (made,) = translate([slices], foreground, None, tight=True)
    assert copying.shapes == [(3, 48, 48)]
    np.testing.assert_array_equal(made[:, :, 16:56], slices[:, :, 16:56])
    assert (made[:, :, :16] == -1).all()
    assert (made[:, :, 56:] == -1).all()
    translate([slices], foreground, None)
    assert copying.shapes[1:] == [(3, 48, 64)], "one plane"
    foreground = np.zeros_like(foreground)
    foreground[:, :, :40] = True  # cut off by the field of view
    translate([slices], foreground, None, tight=True)
    assert copying.shapes[2:] == [(3, 48, 64)]
    foreground[:, :, 5:] = True  # so that nothing is saved
    (made,) = translate([slices], foreground, None, tight=True)
    np.testing.assert_array_equal(made, slices)


def test_slices_get_as_much_around_them_as_in_training(
    tiny_bundle: Bundle, copying: Copying
) -> None:
    manifest = tiny_bundle.manifest.model_copy(update={"least_size": 64})
    translator = Translator(replace(tiny_bundle, manifest=manifest), "cpu")
    slices = np.random.default_rng(0).uniform(-1, 1, (2, 37, 70)).astype(np.float32)
    np.testing.assert_array_equal(translator.translate_slices(slices, "T2w"), slices)
    assert copying.shapes == [(2, 64, 80)]


@pytest.mark.parametrize(
    ("least", "axial", "upright"), [(112, (112, 112), (96, 112)), (0, (96, 80), (80, 96))]
)
def test_upright_slices_get_as_much_above_as_axial_ones_in_front(
    least: int,
    axial: tuple[int, int],
    upright: tuple[int, int],
    tiny_bundle: Bundle,
    copying: Copying,
    every_slice: None,
) -> None:
    """Heads of 96 rows have 16 more around them at 112, so that 70 rows become 86, and these 96."""
    changes = {"least_size": least, "planes": "all", "standard": PreprocessSettings(margin_mm=0)}
    manifest = tiny_bundle.manifest.model_copy(update=changes)
    voxels = np.random.default_rng(0).uniform(100, 900, (80, 96, 70)).astype(np.float32)
    Translator(replace(tiny_bundle, manifest=manifest), "cpu").translate(
        Volume(voxels, np.eye(4)), "T2w"
    )
    sizes = {shape[0]: shape[1:] for shape in copying.shapes}
    assert sizes[70] == axial
    assert sizes[80] == upright, "sagittal"
    assert sizes[96] == (upright[0], max(80, least)), "coronal"


def test_the_two_directions_differ(tiny_bundle: Bundle) -> None:
    translator = Translator(tiny_bundle, "cpu")
    slices = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32)).astype(np.float32)
    made = [translator.translate_slices(slices, to) for to in ("T1w", "T2w")]
    assert not np.allclose(made[0], made[1], atol=0.01)


def test_another_network_makes_one_stack_only(
    tiny_bundle: Bundle, make_scan: Callable[..., Volume]
) -> None:
    translator, scan = Translator(tiny_bundle, "cpu"), make_scan(1, "T1w")
    preprocessed = translator.preprocess(scan, "T2w")
    before = translator.translate(scan, "T2w").voxels
    other = tiny_bundle.build("to_source")
    direction = tiny_bundle.direction(("T1w",), "T2w")
    slices = translator.slice_translator(direction, other)
    stack = slices.in_planes([preprocessed.slices], preprocessed, ("axial",), spread=False)[0]
    expected = translator.translate_slices(
        preprocessed.slices, "T1w", foreground=preprocessed.foreground
    )
    assert np.array_equal(stack, expected)
    assert np.array_equal(translator.translate(scan, "T2w").voxels, before)


def test_slices_without_anatomy_become_background(tiny_bundle: Bundle) -> None:
    slices = np.random.default_rng(0).uniform(-1, 1, (3, 32, 32)).astype(np.float32)
    foreground = np.ones(slices.shape, bool)
    foreground[1] = False
    made = Translator(tiny_bundle, "cpu").translate_slices(slices, "T2w", foreground=foreground)
    np.testing.assert_array_equal(made[1], -1)
    assert (made[[0, 2]] > -1).any()


def test_the_contrast_to_make(tiny_bundle: Bundle, make_scan: Callable[..., Volume]) -> None:
    translator = Translator(tiny_bundle, "cpu")
    unknown = replace(make_scan(1, "T1w"), contrast=None)
    for scan, to in ((make_scan(1, "T1w"), "T2w"), (make_scan(1, "T2w"), "T1w"), (unknown, "T2w")):
        assert translator.translate(scan).contrast == to
    assert translator.translate(unknown, "T1w").contrast == "T1w"
    with pytest.raises(SettingsError, match="synthesises T2w or T1w, not FLAIR"):
        translator.translate(unknown, "FLAIR")


def test_devices(tiny_bundle: Bundle) -> None:
    assert Translator(tiny_bundle).device.type in ("cpu", "cuda")
    with pytest.raises(SettingsError, match="no device 'tpu'"):
        Translator(tiny_bundle, "tpu")


@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_scan_is_refused(
    value: int, tiny_bundle: Bundle, make_scan: Callable[..., Volume]
) -> None:
    scan = make_scan(1, "T1w")
    constant = replace(scan, voxels=np.full_like(scan.voxels, value))
    with pytest.raises(InputError, match="constant"):
        Translator(tiny_bundle, "cpu").translate(constant)


@pytest.mark.parametrize("shape", [(40, 48, 1), (33, 21, 3), (17, 90, 4)])
def test_odd_shapes_come_back(
    shape: tuple[int, int, int], tiny_bundle: Bundle, make_scan: Callable[..., Volume]
) -> None:
    scan = make_scan(2, "T1w", shape=shape)
    if not np.ptp(scan.voxels):  # a single slice at the edge of the head
        scan = replace(scan, voxels=make_scan(2, "T1w", (40, 48, 3)).voxels[:, :, 1:2])
    made = Translator(tiny_bundle, "cpu").translate(scan)
    assert made.voxels.shape == scan.voxels.shape


def test_the_written_header_has_the_same_geometry_bit_for_bit(
    tiny_bundle: Bundle, make_scan: Callable[..., Volume], tmp_path: Path
) -> None:
    path = io.write(make_scan(5, "T1w"), tmp_path / "sub-1_T1w.nii.gz")
    scan = io.read(path)
    made = Translator(tiny_bundle, "cpu").translate(scan)
    back = io.read(io.write(made, tmp_path / "made.nii.gz"))
    assert back.affine.tobytes() == scan.affine.tobytes()
    for field in ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "pixdim"):
        assert back.header[field].tobytes() == scan.header[field].tobytes()
    assert back.header["xyzt_units"] == scan.header["xyzt_units"]
    np.testing.assert_array_equal(back.voxels, made.voxels)
    assert back.synthetic


def test_faint_slices_are_computed_in_float32(tiny_bundle: Bundle) -> None:
    translator = Translator(tiny_bundle, "cpu")
    slices = np.full((3, 32, 32), -1, np.float32)
    slices[:2] = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32))
    foreground = np.zeros(slices.shape, bool)
    foreground[0] = True
    foreground[1, :1, :10] = True  # 1 %
    made = translator.translate_slices(slices, "T2w", foreground=foreground)

    direction = tiny_bundle.direction(("T1w",), "T2w")
    compute = translator.slice_translator(direction).computed
    fast, in_float32 = (compute([slices[:2]], in_float32=flag)[0] for flag in (False, True))
    np.testing.assert_array_equal(made[1], in_float32[1])
    np.testing.assert_allclose(made[0], fast[0], atol=1e-6)
    assert (made[2] == -1).all()


def test_what_preparation_evens_out_translation_evens_out_too(
    tiny_bundle: Bundle, copying: Copying, make_scan: Callable[..., Volume]
) -> None:
    """With an identity generator: a field on the input is off the result, and not put back."""
    plain = smooth_scan(make_scan, shape=(40, 48, 24), spacing=4.0)
    slope = np.exp(np.linspace(-0.4, 0.4, 40, dtype=np.float32))[:, None, None]
    uneven = replace(plain, voxels=plain.voxels * slope)
    apart = {}
    for name in ("none", "n4"):
        standard = PreprocessSettings(spacing_mm=None, bias=name)
        manifest = tiny_bundle.manifest.model_copy(update={"standard": standard})
        translator = Translator(replace(tiny_bundle, manifest=manifest), "cpu")
        one, other = (translator.translate(scan, "T2w").voxels for scan in (plain, uneven))
        apart[name] = np.abs(one - other).mean()
    assert apart["n4"] < 0.6 * apart["none"]


def test_a_model_of_brains_leaves_nothing_outside(
    tiny_bundle: Bundle, copying: Copying, make_scan: Callable[..., Volume]
) -> None:
    """What preparation takes away, translation takes away: the rest is 0, whatever it was."""
    scan = make_scan(3, "T1w")
    assert scan.affine is not None
    large = np.diag([4.0, 4.0, 4.0, 1.0]) @ scan.affine  # a brain of litres in few voxels
    air = np.random.default_rng(0).integers(1, 100, scan.voxels.shape)
    scan = replace(scan, voxels=scan.voxels + air, affine=large, header=None)
    places = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in scan.voxels.shape]), 0)
    inside = (places**2).sum(0).transpose(1, 0, 2) < 0.7
    size = float(np.count_nonzero(inside)) * abs(np.linalg.det(large[:3, :3])) / 1e6
    large[:3] *= (1.4 / size) ** (1 / 3)
    scan = replace(scan, affine=large)
    standard = PreprocessSettings(spacing_mm=None, brain="mask")
    manifest = tiny_bundle.manifest.model_copy(update={"standard": standard})
    translator = Translator(replace(tiny_bundle, manifest=manifest), "cpu")
    made = translator.translate(scan, "T2w", mask=Volume(inside.astype(np.uint8), large))
    assert (made.voxels[~inside] == 0).all()
    assert (made.voxels[inside] > 0).mean() > 0.5
    with pytest.raises(InputError, match="no brain mask"):
        translator.translate(scan, "T2w")


def test_what_was_aligned_is_rotated_back(
    tiny_bundle: Bundle,
    copying: Copying,
    make_scan: Callable[..., Volume],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tilted for the network, back in its place for the reader; what no slice reached is dark."""
    from mrbridge.preprocessing import template

    angle = np.radians(12)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    found = template.Alignment(turn, "rigid", 0.4, 0.1, 12.0, (0.9, 0.9))
    monkeypatch.setattr("mrbridge.preprocessing.preprocess.align", lambda *_: found)
    scan = smooth_scan(make_scan, shape=(60, 72, 48))
    standard = PreprocessSettings(align="rigid")
    manifest = tiny_bundle.manifest.model_copy(update={"standard": standard})
    translator = Translator(replace(tiny_bundle, manifest=manifest), "cpu")
    made = translator.translate(scan, "T2w", match=scan)
    recipe = preprocess(scan, PreprocessSettings()).normalisation
    expected = np.clip(scan.voxels, recipe.low, recipe.high)
    np.testing.assert_array_equal(made.affine, scan.affine)
    assert made.voxels.shape == scan.voxels.shape
    assert np.isfinite(made.voxels).all()
    off = np.abs(made.voxels - expected) / np.ptp(expected)
    assert off.mean() < 0.01
    assert np.percentile(off, 99) < 0.1
    plain = Translator(tiny_bundle, "cpu").translate(scan, "T2w", match=scan)
    assert np.abs(made.voxels - plain.voxels).max() > 0.02 * np.ptp(expected), "it was not turned"


def test_translation_counts_in_deviations_as_preparation_did(
    tiny_bundle: Bundle, copying: Copying, make_scan: Callable[..., Volume]
) -> None:
    """The network sees the same of a scan and of the scan with another gain: z-scores."""
    scan = make_scan(3, "T1w")
    brighter = replace(scan, voxels=(scan.voxels * 3.0).astype(np.float32))
    standard = PreprocessSettings().changed({"intensity": {"method": "zscore"}})
    manifest = tiny_bundle.manifest.model_copy(update={"standard": standard})
    zscored = Translator(replace(tiny_bundle, manifest=manifest), "cpu")
    plain = Translator(tiny_bundle, "cpu")
    one, other = (zscored.translate(each, "T2w").voxels for each in (scan, brighter))
    np.testing.assert_allclose(one, other, atol=0.01 * np.ptp(one))
    assert np.abs(one - plain.translate(scan, "T2w").voxels).max() > 0.05 * np.ptp(one)
    back = zscored.translate(scan, "T2w", match=scan).voxels
    recipe = preprocess(scan, standard).normalisation
    inside = (scan.voxels > recipe.low) & (scan.voxels < recipe.high)
    assert np.abs(back - scan.voxels)[inside].mean() < 0.02 * np.ptp(scan.voxels)


def test_translation_brings_the_source_onto_its_scale_and_the_result_off_its_own(
    tiny_bundle: Bundle, copying: Copying, make_scan: Callable[..., Volume]
) -> None:
    """With an identity generator, of one scale for both: the scan comes back, whatever its gain."""
    scan = make_scan(3, "T1w")
    standard = PreprocessSettings().changed({"intensity": {"method": "nyul"}})
    plain = preprocess(scan, standard).normalisation
    levels = tuple(np.linspace(-0.9, 1, len(plain.landmarks)).tolist())
    scaled = preprocess(scan, standard, None, levels).normalisation
    assert scaled.levels == levels
    manifest = tiny_bundle.manifest.model_copy(
        update={"standard": standard, "typical": {"T1w": scaled, "T2w": scaled}}
    )
    translator = Translator(replace(tiny_bundle, manifest=manifest), "cpu")
    inside = (scan.voxels > scaled.low) & (scan.voxels < scaled.high)
    for gain in (1, 4):
        louder = replace(scan, voxels=(gain * scan.voxels).astype(np.float32))
        for match, factor in ((None, 1), (louder, gain)):
            made = translator.translate(louder, "T2w", match=match).voxels
            error = np.abs(made - factor * scan.voxels)[inside].mean()
            assert error < 0.01 * factor * np.ptp(scan.voxels)
