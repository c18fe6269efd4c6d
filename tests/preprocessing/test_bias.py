"""A field that was multiplied onto a head is taken off again, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

from mrbridge.preprocessing.corrections import without_bias
from mrbridge.preprocessing.preprocess import preprocess
from mrbridge.preprocessing.settings import PreprocessSettings
from mrbridge.volume import Volume

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


class TestStandard:
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
