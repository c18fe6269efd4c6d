"""Blur lowers sharpness and power at fine detail; scale changes neither picture score."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from mrbridge.evaluation import measures


@pytest.fixture(scope="module")
def image():
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((8, 48, 40)), 0.7)
    return (1 + smooth).astype(np.float32)


MASK = np.zeros((8, 48, 40), bool)
MASK[:, 6:42, 5:35] = True
SPACING = (2.0, 1.0, 1.5)


def test_of_itself_all_ratios_are_1(image):
    assert measures.sharpness(image, image, MASK, SPACING) == pytest.approx(1)
    assert set(measures.power_ratios(image, image, MASK, None).values()) == {1.0}


def test_blur_loses_fine_detail_most(image):
    blurred = ndimage.gaussian_filter(image, (0, 1, 1))
    assert measures.sharpness(image, blurred, MASK, SPACING) < 0.5
    ratios = list(measures.power_ratios(image, blurred, MASK, SPACING).values())
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] < 0.1


def test_double_contrast_has_four_times_the_energy(image):
    assert measures.sharpness(image, 2 * image, MASK, SPACING) == pytest.approx(4)
    ratios = measures.power_ratios(image, 2 * image, MASK, SPACING).values()
    assert list(ratios) == pytest.approx([4] * 4)


def test_what_is_outside_of_the_mask_does_not_count(image):
    other = np.where(MASK, image, 7)
    assert measures.sharpness(image, other, MASK, SPACING) == pytest.approx(1)
    assert list(measures.power_ratios(image, other, MASK, None).values()) == pytest.approx([1] * 4)


def test_black_surroundings_flatter_the_whole_picture(image):
    noisy = image + 0.2 * np.random.default_rng(1).standard_normal(image.shape)
    few, many = (
        measures.whole_picture(*(np.pad(np.maximum(one, 0), width) for one in (image, noisy)))
        for width in (0, 40)
    )
    assert many["psnr_whole_picture"] > few["psnr_whole_picture"] + 5
    assert many["ssim_whole_picture"] > few["ssim_whole_picture"]


def test_the_whole_picture_has_no_scale(image):
    assert measures.whole_picture(image, 5 * image)["ssim_whole_picture"] == pytest.approx(
        1, abs=1e-2
    )
