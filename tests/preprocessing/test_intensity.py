"""Intensities: the round trip, and the head found in all kinds of air."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError
from scipy import ndimage

from mrbridge.errors import InputError
from mrbridge.io import read
from mrbridge.preprocessing import foreground
from mrbridge.preprocessing.foreground import blank_outside, foreground_mask, has_surroundings
from mrbridge.preprocessing.geometry import to_slices
from mrbridge.preprocessing.intensity import (
    FLOOR,
    IntensityNormalisation,
    find_normalisation,
    median_normalisation,
)
from mrbridge.preprocessing.preprocess import preprocess
from mrbridge.preprocessing.settings import IntensitySettings, PreprocessSettings
from mrbridge.volume import Volume

DEFAULT = IntensitySettings()


def head(noise: float = 0.0, scalp: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A head of ellipses (fluid inside tissue, a dark skull, a bright scalp), and where it is."""
    _, y, x = np.mgrid[0:6, 0:96, 0:96]
    radius = ((y - 48) / 42) ** 2 + ((x - 48) / 34) ** 2
    image = np.select([radius < 0.06, radius < 0.7], [0.12, 0.55], 0.0)
    if scalp:
        image = np.where((radius >= 0.7) & (radius < 1), np.where(radius > 0.85, 0.9, 0.03), image)
    where = radius < (1 if scalp else 0.7)
    if noise:
        generator = np.random.default_rng(0)
        parts = generator.normal(0, noise, (2, *image.shape))
        image = np.hypot(image + parts[0], parts[1])  # Rician, as magnitude images have
    return image.astype(np.float32), where


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * float((first & second).sum()) / float(first.sum() + second.sum())


@given(
    st.floats(-1e4, 1e4), st.floats(1e-2, 1e5), st.lists(st.floats(0, 1), min_size=1, max_size=20)
)
def test_restoring_undoes_normalising(low: float, width: float, places: list[float]) -> None:
    recipe = IntensityNormalisation(low=low, high=low + width)
    values = low + np.array(places) * width
    back = recipe.restore(recipe.normalise(values))
    np.testing.assert_allclose(back, values, atol=1e-5 * (abs(low) + width))


def test_the_ends_of_the_range() -> None:
    recipe = IntensityNormalisation(low=10, high=30)
    normal = recipe.normalise(np.array([0, 10, 20, 30, 99], np.uint16))
    assert normal.dtype == np.float32
    assert normal.tolist() == [-1, -1, 0, 1, 1]
    # Restoring is linear and not clipped: a network may say more than the range.
    assert recipe.restore(np.array([-1, 0, 1, 2])).tolist() == [10, 20, 30, 40]


@pytest.mark.parametrize("factor", [1e-3, 1.0, 3e4])
def test_the_unit_of_the_scanner_does_not_matter(factor: float) -> None:
    image, _ = head(noise=0.02)
    scaled = (image * factor).astype(np.float32)
    masks = foreground_mask(image), foreground_mask(scaled)
    np.testing.assert_array_equal(*masks)
    first = find_normalisation(image, masks[0], DEFAULT).normalise(image)
    second = find_normalisation(scaled, masks[1], DEFAULT).normalise(scaled)
    np.testing.assert_allclose(first, second, atol=1e-5)


@pytest.mark.parametrize("noise", [0, 0.01, 0.03, 0.06])
@pytest.mark.parametrize("scalp", [True, False])
def test_the_head_is_found_in_noise_with_its_fluid(noise: float, scalp: bool) -> None:
    image, where = head(noise, scalp)
    mask = foreground_mask(image)
    assert dice(mask, where) > 0.96
    # The ventricles (dark in T1) lie inside.
    assert mask[:, 44:52, 44:52].all()


def test_ringing_around_a_stripped_brain_is_background() -> None:
    image, where = head(scalp=False)
    generator = np.random.default_rng(0)
    ring = np.zeros_like(where)
    ring[:, 1:] |= where[:, :-1]
    ring[:, :-1] |= where[:, 1:]
    ring &= ~where
    image[ring] = -0.04 * generator.random(int(ring.sum()))
    mask = foreground_mask(image)
    assert dice(mask, where) > 0.98
    recipe = find_normalisation(image, mask, DEFAULT)
    normal = recipe.normalise(image)
    assert (normal[~where] == -1).all()
    fluid = normal[:, 46:50, 46:50]
    assert (fluid > -0.9).all(), "fluid inside the brain is not background"


@pytest.mark.parametrize("seed", range(5))
def test_specks_go_and_holes_are_filled_as_scipy_does_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    blobs = ndimage.gaussian_filter(rng.normal(size=(4, 33 + seed, 40)), (0, seed / 2, seed / 2))
    mask = blobs > np.quantile(blobs, rng.uniform(0.2, 0.8))
    mask[2] = False
    expected = np.zeros_like(mask)
    for index, plane in enumerate(np.pad(mask, ((0, 0), (3, 3), (3, 3)))):
        opened = ndimage.binary_opening(plane)
        filled = ndimage.binary_fill_holes(ndimage.binary_closing(opened, iterations=2))
        labels, count = ndimage.label(filled)
        sizes = ndimage.sum_labels(filled, labels, range(1, count + 1))
        large = 1 + np.flatnonzero(sizes > max(sizes, default=0) / 100)
        expected[index] = np.isin(labels, large)[3:-3, 3:-3]
    np.testing.assert_array_equal(foreground._solid(mask), expected)


def test_a_constant_image_has_no_foreground() -> None:
    assert not foreground_mask(np.full((2, 9, 9), 3.0, np.float32)).any()


def test_the_head_may_touch_every_edge() -> None:
    image, _ = head()
    tight = image[:, 20:76, 24:72]
    assert foreground_mask(tight).mean() > 0.95


def test_8_bit_images_keep_their_window() -> None:
    image = np.linspace(3, 220, 99, dtype=np.float32).reshape(1, 9, 11)
    mask = np.ones(image.shape, bool)
    assert find_normalisation(image, mask, DEFAULT, 8) == IntensityNormalisation(low=0, high=255)
    assert find_normalisation(image, mask, DEFAULT, 16).high < 220


@pytest.mark.parametrize("offset", [0, 100])
def test_8_bit_images_that_use_part_of_it_have_the_range_of_this_part(
    offset: int,
) -> None:
    image = np.linspace(3, 80, 99, dtype=np.float32).reshape(1, 9, 11) + offset
    mask = np.ones(image.shape, bool)
    assert find_normalisation(image, mask, DEFAULT, 8) == find_normalisation(
        image, mask, DEFAULT, 16
    )


@pytest.mark.parametrize("depth", [None, 8, 16])
def test_a_constant_image_is_refused(depth: int | None) -> None:
    image = np.full((1, 9, 9), 5, np.float32)
    with pytest.raises(InputError, match="constant"):
        find_normalisation(image, foreground_mask(image), DEFAULT, depth)


def test_a_range_that_float32_cannot_stretch_is_refused() -> None:
    image, where = head()
    with pytest.raises(InputError, match="shows nothing"):
        find_normalisation((image * 1e-39).astype(np.float32), where, DEFAULT)


def test_one_bright_voxel_is_enough() -> None:
    image = np.zeros((1, 9, 9), np.float32)
    image[0, 4, 4] = 7
    assert find_normalisation(image, foreground_mask(image), DEFAULT) == IntensityNormalisation(
        low=0, high=7
    )


def test_settings_outside_their_range_are_refused() -> None:
    with pytest.raises(ValidationError):
        IntensitySettings(upper_percentile=101)


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("open-ms-mni/patient07/T1.nii.gz", (0.15, 0.165)),
        ("open-ms-mni/patient19/T2.nii.gz", (0.145, 0.16)),
        ("open-ms-raw/patient04/study1_T1W.nii.gz", (0.33, 0.41)),
        ("open-ms-raw/patient01/study1_T2W.nii.gz", (0.34, 0.43)),
        ("seed-png/TrainT1/Image #10.png", (0.73, 0.79)),
        ("seed-png/TrainT2/Image #73.png", (0.73, 0.79)),
    ],
)
def test_real_heads(
    name: str, share: tuple[float, float], real_data: Callable[[str], Path]
) -> None:
    """Shares of the field of view, from masks that were looked at and found right."""
    slices, _ = to_slices(read(real_data(name)), 1.0)
    mask = foreground_mask(slices)
    assert share[0] < mask.mean() < share[1]
    if "mni" in name:
        # The true brain is where the stripped volume is not zero.
        assert dice(mask, slices > 0) > 0.98
        normal = find_normalisation(slices, mask, DEFAULT).normalise(slices)
        assert (normal[slices <= 0] == -1).all()


def test_a_bright_tail_bends_the_range_and_the_bend_is_undone():
    tissue, fat = np.linspace(0, 100, 901), np.linspace(250, 300, 99)
    image = np.concatenate([tissue, fat]).astype(np.float32).reshape(1, 10, 100)
    recipe = find_normalisation(image, np.ones(image.shape, bool), DEFAULT)
    assert recipe.knee == pytest.approx(np.percentile(image, 90), rel=1e-6)
    mapped = recipe.normalise(image)
    assert mapped[image <= 100].max() > 0.55  # tissue has most of the range
    assert np.all(np.diff(mapped.ravel()[:990]) >= 0)
    inside = (image > recipe.low) & (image < recipe.high)
    np.testing.assert_allclose(recipe.restore(mapped)[inside], image[inside], rtol=1e-5, atol=1e-3)


def test_no_tail_no_bend():
    image = np.linspace(0, 100, 1000, dtype=np.float32).reshape(1, 10, 100)
    assert find_normalisation(image, np.ones(image.shape, bool), DEFAULT).knee is None


def test_the_median_mixes_curves_with_and_without_a_knee():
    bent, straight = (
        IntensityNormalisation(low=0, high=100, knee=40),
        IntensityNormalisation(low=0, high=100),
    )
    assert median_normalisation([bent, bent, straight]).knee == pytest.approx(40)
    assert median_normalisation([bent, straight, straight]) == straight


def stripped(black: float = 0.0) -> np.ndarray:
    """A brain with black fluid within it, and nothing around it: (3, 40, 40)."""
    y, x = np.mgrid[:40, :40]
    away = np.hypot(y - 20, x - 20)
    brain = np.where(away < 15, 100.0, 0.0)
    brain[away < 4] = black
    return np.stack([brain] * 3).astype(np.float32)


def outside_of(scan: np.ndarray) -> np.ndarray | None:
    return blank_outside(scan, foreground_mask(scan))


class TestBlankOutside:
    def test_what_leads_to_the_edge_is_outside_and_what_is_enclosed_is_not(self) -> None:
        outside = outside_of(stripped())
        assert outside is not None
        assert np.array_equal(outside[0], np.hypot(*(np.mgrid[:40, :40] - 20)) >= 15)

    def test_noise_around_a_head_is_not_blank(self) -> None:
        noise = np.random.default_rng(0).uniform(0.1, 2, (3, 40, 40)).astype(np.float32)
        assert outside_of(stripped() + noise) is None

    def test_partly_zeroed_air_is_not_blank(self) -> None:
        noise = np.random.default_rng(0).uniform(0.1, 2, (3, 40, 40)).astype(np.float32)
        noise[:, np.hypot(*(np.mgrid[:40, :40] - 20)) > 18] = 0
        assert outside_of(stripped() + noise) is None

    def test_a_head_that_fills_the_image_has_no_outside(self) -> None:
        assert outside_of(np.ones((2, 40, 40), np.float32)) is None
        assert outside_of(stripped()[:, 8:32, 8:32]) is None

    def test_surroundings_are_detected(self) -> None:
        noise = np.random.default_rng(0).uniform(0.1, 2, (3, 40, 40)).astype(np.float32)
        partly = np.where(np.hypot(*(np.mgrid[:40, :40] - 20)) > 18, 0, noise)
        for around, expected in ((noise, True), (partly, True), (0 * noise, False)):
            scan = stripped() + around
            assert has_surroundings(scan, foreground_mask(scan)) is expected
        cropped = stripped()[:, 8:32, 8:32]  # touches its edge: it cannot be known
        assert not has_surroundings(cropped, foreground_mask(cropped))
        assert not has_surroundings(cropped, np.zeros(cropped.shape, bool))

    def test_black_fluid_differs_from_the_outside_and_comes_back(self) -> None:
        scan = stripped()
        volume = Volume(scan.transpose(1, 2, 0), np.eye(4))
        standard = preprocess(volume, PreprocessSettings())
        levels = np.unique(standard.slices)
        assert levels == pytest.approx([-1, FLOOR, 1])
        assert standard.foreground.sum() == 3 * (np.hypot(*(np.mgrid[:40, :40] - 20)) < 15).sum()
        assert standard.normalisation.restore(standard.slices).min() == 0
        assert standard.normalisation.restore(standard.slices).max() == pytest.approx(100)


@given(st.floats(-50, 50), st.floats(1, 500), st.sampled_from([-1.0, -0.9, -0.8, -0.3]))
def test_a_floor_is_undone(low: float, width: float, floor: float) -> None:
    recipe = IntensityNormalisation(low=low, high=low + width, knee=low + 0.4 * width, floor=floor)
    values = np.linspace(low, low + width, 50).astype(np.float32)
    normal = recipe.normalise(values)
    assert normal[0] == pytest.approx(floor, abs=1e-5)
    assert normal[-1] == pytest.approx(1, abs=1e-5)
    assert recipe.restore(normal) == pytest.approx(values, abs=1e-3 * width)
    assert recipe.restore(np.array([-1.0])) == pytest.approx([low], abs=1e-3 * width)


def test_the_median_of_floors() -> None:
    some = [IntensityNormalisation(low=0, high=10, floor=f) for f in (-0.8, -0.8, -1.0)]
    assert median_normalisation(some).floor == -0.8


class TestZscore:
    settings = IntensitySettings(method="zscore")

    def test_mean_and_deviation_of_the_foreground_are_the_same_in_all(self) -> None:
        scan, inside = head(noise=5.0)
        for factor, offset in ((1.0, 0.0), (7.5, 0.0), (0.2, 3.0)):
            values = (scan * factor + offset).astype(np.float32)
            recipe = find_normalisation(values, inside, self.settings)
            exact = (values[inside] - values[inside].mean()) / (3 * values[inside].std())
            within = (exact < 1) & (values[inside] > recipe.low)
            assert within.mean() > 0.9
            np.testing.assert_allclose(
                recipe.normalise(values)[inside][within], exact[within], atol=1e-4
            )
            np.testing.assert_allclose(
                recipe.restore(recipe.normalise(values))[inside][within],
                values[inside][within],
                rtol=1e-4,
                atol=1e-3 * factor,
            )

    def test_another_limit_spreads_less(self) -> None:
        scan, inside = head()
        wide = IntensitySettings(method="zscore", zscore_limit=6)
        near, far = (find_normalisation(scan, inside, one) for one in (self.settings, wide))
        middle = scan[inside].mean()
        deviation = scan[inside].std()
        for offset in (0.5 * deviation, deviation):
            value = np.array([middle + offset], np.float32)
            ratio = far.normalise(value) / near.normalise(value)
            assert ratio == pytest.approx(0.5, rel=1e-3)

    def test_everything_but_the_foreground_is_black(self) -> None:
        scan, _ = head(noise=5.0)
        volume = Volume(scan.transpose(2, 1, 0), np.eye(4))
        wanted = PreprocessSettings(spacing_mm=None, intensity=self.settings)
        standard = preprocess(volume, wanted)
        assert (standard.slices[~standard.foreground] == -1).all()
        assert abs(float(standard.slices[standard.foreground].mean())) < 0.1
        plain = preprocess(volume, PreprocessSettings(spacing_mm=None))
        assert (plain.slices[~plain.foreground] > -1).any()

    def test_a_flat_foreground_has_no_scores(self) -> None:
        flat = np.zeros((1, 20, 20), np.float32)
        flat[0, 5:15, 5:15] = 100
        with pytest.raises(InputError, match="nothing above"):
            find_normalisation(flat, flat > 0, self.settings)
