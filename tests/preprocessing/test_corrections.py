"""Bias field and noise are removed, and nothing else: edges, constants and clean images stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mrbridge import io
from mrbridge.dataset.prepare import prepare
from mrbridge.dataset.settings import PrepareSettings
from mrbridge.dataset.store import Store
from mrbridge.phantom.settings import PhantomSettings
from mrbridge.phantom.subjects import rician, simulate
from mrbridge.preprocessing.foreground import Crop, Head
from mrbridge.preprocessing.geometry import to_slices
from mrbridge.preprocessing.preprocess import noise_level, preprocess, without_bias, without_noise
from mrbridge.preprocessing.settings import PreprocessSettings
from mrbridge.volume import Volume

WHITE = 800.0
SHAPES = {"thin": (72, 80, 12), "thick": (72, 80, 6), "one slice": (72, 80, 1)}
SPACINGS = {"thin": 1.0, "thick": 4.0, "one slice": 5.0}


def clean(kind: str) -> np.ndarray:
    """A disc of two tissues with a sharp border along i = 40, in air; (i, j, k)."""
    i, j, _ = np.meshgrid(*[np.arange(n) for n in SHAPES[kind]], indexing="ij")
    head = (i - 36) ** 2 + (j - 40) ** 2 < 34**2
    return np.where(head, np.where(i < 40, WHITE, 0.6 * WHITE), 0).astype(np.float32)


def scan(voxels: np.ndarray, kind: str = "thin") -> Volume:
    return Volume(voxels, np.diag([1.0, 1.0, SPACINGS[kind], 1.0]))


def noisy(voxels: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    return rician(np.random.default_rng(seed), voxels, share * WHITE).astype(np.float32)


def psnr(image: np.ndarray, truth: np.ndarray, inside: np.ndarray) -> float:
    error = np.square(image.astype(float) - truth)[inside].mean()
    return float(10 * np.log10(truth[inside].max().astype(float) ** 2 / error))


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("share", [0.02, 0.06])
def test_noise_is_measured_and_removed(kind: str, share: float) -> None:
    truth = clean(kind)
    before = noisy(truth, share)
    after, sigma = without_noise(Head(scan(before, kind)))
    assert sigma == pytest.approx(share * WHITE, rel=0.25 if kind == "one slice" else 0.12)
    assert after.voxels.shape == truth.shape
    gained = psnr(after.voxels, truth, truth > 0) - psnr(before, truth, truth > 0)
    assert gained > 6


@pytest.mark.parametrize("kind", SHAPES)
def test_edges_are_kept(kind: str) -> None:
    """The step between the tissues is as high and as steep as before: a blur would halve it."""
    truth = clean(kind)
    after, _ = without_noise(Head(scan(noisy(truth, 0.04), kind)))
    profile = after.voxels[34:46, 30:50].mean(axis=(1, 2))
    steps = -np.diff(profile)
    assert steps.argmax() == 5
    assert steps.max() > 0.95 * 0.4 * WHITE


def test_images_without_noise_are_unchanged() -> None:
    constant = np.full(SHAPES["thin"], 300, np.int16)
    after, sigma = without_noise(Head(scan(constant)))
    assert sigma == 0
    np.testing.assert_array_equal(after.voxels, constant)
    for kind in SHAPES:
        truth = clean(kind)
        after, sigma = without_noise(Head(scan(truth, kind)))
        assert sigma == 0
        np.testing.assert_array_equal(after.voxels, truth)


def test_gain_does_not_matter_and_it_is_reproducible() -> None:
    image = noisy(clean("thin"), 0.05)
    once, again = (without_noise(Head(scan(image)))[0].voxels for _ in range(2))
    np.testing.assert_array_equal(once, again)
    scaled, sigma = without_noise(Head(scan(0.001 * image)))
    np.testing.assert_allclose(scaled.voxels, 0.001 * once, rtol=1e-3, atol=1e-3)
    assert sigma == pytest.approx(0.05 * 0.001 * WHITE, rel=0.12)


def test_zeros_stay_zeros_and_the_grid_stays() -> None:
    truth = clean("thin")
    stripped = np.where(truth > 0, noisy(truth, 0.05), 0).transpose(2, 0, 1)[:, ::-1]
    affine = np.array([[0, -1.0, 0, 7], [0, 0, 1, -3], [1.5, 0, 0, 2], [0, 0, 0, 1]])
    after, _ = without_noise(Head(Volume(stripped, affine)))
    np.testing.assert_array_equal(after.voxels == 0, stripped == 0)
    np.testing.assert_array_equal(after.affine, affine)


def test_slabs_leave_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    from mrbridge.preprocessing import preprocess

    image = noisy(clean("thin"), 0.05)
    whole = without_noise(Head(scan(image)))[0].voxels
    monkeypatch.setattr(preprocess, "_SLAB", 4)
    np.testing.assert_allclose(without_noise(Head(scan(image)))[0].voxels, whole, rtol=1e-3)


def test_too_small_a_head_has_no_noise_level() -> None:
    few = noisy(np.full((12, 12, 2), WHITE, np.float32), 0.05)
    assert noise_level(few, np.ones(few.shape, bool)) == 0
    assert noise_level(few, np.zeros(few.shape, bool)) == 0


def simulated(noise: float) -> Volume:
    """The middle of a simulated head, T2w, in all its detail, of an even receive field."""
    head = simulate(PhantomSettings(spacing_mm=2.0, noise=noise, bias=0), 0).t2w
    return Volume(head.voxels[:, :, 30:54].astype(np.float32), head.affine)


@pytest.mark.slow
def test_simulated_heads_get_closer_to_the_truth() -> None:
    perfect = simulated(0.0)
    truth = perfect.voxels
    inside = truth > 0.2 * np.percentile(truth, 99)
    same, sigma = without_noise(Head(perfect))
    assert sigma < 0.02 * np.percentile(truth[inside], 99)
    assert psnr(same.voxels, truth, inside) > 45
    level = 0.05 * float(np.percentile(truth[inside], 90))
    before = rician(np.random.default_rng(0), truth, level)
    after, sigma = without_noise(Head(Volume(before, perfect.affine)))
    assert sigma == pytest.approx(level, rel=0.3)
    assert psnr(after.voxels, truth, inside) > psnr(before, truth, inside) + 1.5


class TestDenoisingInPreprocessing:
    def test_networks_see_less_noise_on_any_grid(self) -> None:
        """It is done before anything is resampled, and the standard tells how much there was."""
        truth = clean("thin")
        image = scan(noisy(truth, 0.06))
        plain, smooth = (
            preprocess(
                image, PreprocessSettings(spacing_mm=1.5, denoise=denoise), crop=Crop.whole(image)
            )
            for denoise in (False, True)
        )
        inside = to_slices(scan(clean("thin")), 1.5)[0] > 0.95 * WHITE
        assert smooth.slices[inside].std() < 0.5 * plain.slices[inside].std()
        assert plain.noise is None
        assert smooth.noise == pytest.approx(0.06 * WHITE, rel=0.12)

    @pytest.mark.filterwarnings("ignore:.* may be swapped")
    @pytest.mark.filterwarnings("ignore:.* in several splits")
    def test_the_store_records_it(self, tmp_path: Path) -> None:
        for number in (1, 2):
            for contrast in ("T1w", "T2w"):
                name = f"sub-{number}/anat/sub-{number}_{contrast}.nii.gz"
                io.write(scan(noisy(clean("thin"), 0.03, number)), tmp_path / "bids" / name)
        (tmp_path / "bids/dataset_description.json").write_text('{"Name": "made by a test"}')
        wanted = PrepareSettings().changed({"standard": {"denoise": True}})
        plain = prepare(tmp_path / "bids", tmp_path / "s")
        first = {record.id: record.data_sha256 for record in plain.records()}
        assert {record.noise for record in plain.records()} == {None}
        prepare(tmp_path / "bids", tmp_path / "s", wanted)
        for record in Store.open(tmp_path / "s").records():
            assert record.noise == pytest.approx(0.03 * WHITE, rel=0.15)
            assert record.data_sha256 != first[record.id]


SHAPE, SPACING = (14, 30, 28), (6.0, 6.0, 6.0)


def tissue(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """A head of two tissues in patches, with a little noise; zero outside."""
    z, y, x = np.meshgrid(*[np.linspace(-1.1, 1.1, n) for n in shape], indexing="ij")
    patches = np.where(np.sin(7 * x) * np.sin(6 * y) * np.cos(5 * z) > 0, 900.0, 600.0)
    noise = np.random.default_rng(0).normal(0, 8, shape)
    return np.where(x**2 + y**2 + 0.5 * z**2 < 1, patches + noise, 0).astype(np.float32)


def field(shape: tuple[int, int, int] = SHAPE, strength: float = 0.35) -> np.ndarray:
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    return np.exp(strength * (0.6 * x - 0.5 * y**2 + 0.3 * z)).astype(np.float32)


def unevenness(image: np.ndarray, truth: np.ndarray) -> float:
    """How much the ratio to the truth varies inside the head."""
    inside = truth > 0
    ratio = image[inside] / truth[inside]
    return float(ratio.std() / ratio.mean())


def test_a_known_field_is_removed():
    truth, drift = tissue(), field()
    before = truth * drift
    after = without_bias(before, before > 0, SPACING)
    assert unevenness(before, truth) > 0.1
    assert unevenness(after, truth) < 0.03
    assert after[truth > 0].mean() == pytest.approx(before[truth > 0].mean(), rel=1e-4)


def test_a_uniform_image_is_unchanged():
    truth = tissue()
    assert unevenness(without_bias(truth, truth > 0, SPACING), truth) < 0.02


def test_zeros_stay_and_brightness_does_not_matter():
    image = tissue() * field()
    after = without_bias(image, image > 0, SPACING)
    assert ((after == 0) == (image == 0)).all()
    tripled = without_bias(3 * image, image > 0, SPACING)
    np.testing.assert_allclose(tripled, 3 * after, rtol=0.02)


def test_it_is_reproducible():
    image = tissue() * field()
    once, again = (without_bias(image, image > 0, SPACING) for _ in range(2))
    np.testing.assert_array_equal(once, again)


@pytest.mark.parametrize("slices", [1, 3])
@pytest.mark.parametrize("spacing", [SPACING, None])
def test_few_slices_and_pictures(slices, spacing):
    middle = slice(7, 7 + slices)
    truth = tissue()[middle]
    after = without_bias(truth * field()[middle], truth > 0, spacing)
    assert after.shape == truth.shape
    assert unevenness(after, truth) < 0.5 * unevenness(truth * field()[middle], truth)


def test_nothing_to_look_at():
    empty = np.zeros(SHAPE, np.float32)
    np.testing.assert_array_equal(without_bias(empty, empty > 0, SPACING), empty)
    negative = np.full(SHAPE, -1, np.float32)
    np.testing.assert_array_equal(without_bias(negative, negative < 0, SPACING), negative)


class TestBiasCorrectionInPreprocessing:
    affine = np.diag([6.0, 6.0, 6.0, 1.0])

    def test_it_is_part_of_preprocessing(self):
        """With and without a field, networks see nearly the same image."""
        truth, drift = tissue().transpose(2, 1, 0), field(strength=0.5).transpose(2, 1, 0)
        seen = {
            (bias, name): preprocess(
                Volume(image, self.affine), PreprocessSettings(spacing_mm=None, bias=bias)
            ).slices
            for bias in ("none", "n4")
            for name, image in (("even", truth), ("uneven", truth * drift))
        }
        apart = {
            bias: np.abs(seen[bias, "even"] - seen[bias, "uneven"]).mean()
            for bias in ("none", "n4")
        }
        assert apart["n4"] < 0.3 * apart["none"]
