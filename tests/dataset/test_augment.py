"""Random changes: reproducible, in range, absent when switched off."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrbridge.dataset.augment import Augmentation
from mrbridge.dataset.settings import AugmentSettings

SIZE = 48
OFF = {"flip": False, "rotate_degrees": 0.0, "scale": 0.0, "shift": 0.0}


def changed(images: np.ndarray, seed: int, **settings: object) -> np.ndarray:
    """Slices after the changes that `settings` switch on, all others being off."""
    augment = Augmentation(AugmentSettings.build({**OFF, **settings}), SIZE)
    return augment(images[None], [np.random.default_rng(seed)])[0]


@pytest.fixture
def image() -> np.ndarray:
    values = np.full((1, SIZE, SIZE), -1, np.float32)
    values[0, 10:40, 12:30] = np.random.default_rng(0).uniform(-0.5, 1, (30, 18))
    return values


def test_equal_seeds_give_equal_changes(image: np.ndarray) -> None:
    settings = AugmentSettings(bias_field=0.3, gamma=0.2, noise=0.05)
    one, other = Augmentation(settings, SIZE), Augmentation(settings, SIZE)
    other(image[None], [np.random.default_rng(1)])  # what came before does not count
    made = [augment(image[None], [np.random.default_rng(7)])[0] for augment in (one, other)]
    np.testing.assert_array_equal(made[0], made[1])
    assert not np.array_equal(made[0], one(image[None], [np.random.default_rng(8)])[0])


def test_the_number_of_threads_changes_nothing(image: np.ndarray) -> None:
    strong = {"flip": True, "rotate_degrees": 9, "scale": 0.1, "shift": 0.1, "bias_field": 0.3}
    threads = torch.get_num_threads()
    made = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            made.append(changed(image, 3, **strong))
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(made[0], made[1])


@pytest.mark.parametrize(
    "change",
    [
        {"flip": True},
        {"rotate_degrees": 20.0},
        {"scale": 0.2},
        {"shift": 0.2},
        {"bias_field": 0.5},
        {"gamma": 0.5},
        {"noise": 0.2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_change_keeps_shape_type_and_range(
    change: dict[str, float], image: np.ndarray
) -> None:
    before = image.copy()
    made = [changed(image, seed, **change) for seed in range(12)]
    np.testing.assert_array_equal(image, before)
    for one in made:
        assert one.shape == image.shape
        assert one.dtype == np.float32
        assert one.min() >= -1
        assert one.max() <= 1
    assert any(not np.array_equal(one, image) for one in made)


def test_all_switched_off_changes_nothing(image: np.ndarray) -> None:
    np.testing.assert_allclose(changed(image, 3), image, atol=1e-6)


def test_the_mirror_swaps_left_and_right(image: np.ndarray) -> None:
    made = [changed(image, seed, flip=True) for seed in range(40)]
    kept = sum(np.allclose(one, image, atol=1e-6) for one in made)
    mirrored = sum(np.allclose(one, image[..., ::-1], atol=1e-6) for one in made)
    assert kept + mirrored == 40
    assert 8 <= mirrored <= 32


def test_air_stays_air_when_the_image_moves(image: np.ndarray) -> None:
    made = changed(image, 1, rotate_degrees=20.0, shift=0.2)
    np.testing.assert_array_equal(made[0, [0, -1], :][:, [0, -1]], -1)


def blob() -> np.ndarray:
    """A smooth spot off the centre, longer down than across."""
    rows, columns = np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij")
    distance = ((rows - 18) / 7) ** 2 + ((columns - 28) / 3) ** 2
    return (2 * np.exp(-distance / 2) - 1).astype(np.float32)[None]


def moments(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre (row, column) and covariance of what is brighter than air, in pixels."""
    weight = (image[0].astype(float) + 1) / (image[0].astype(float) + 1).sum()
    places = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij"))
    centre = (weight * places).sum((1, 2))
    apart = places - centre[:, None, None]
    return centre, np.einsum("hw,ahw,bhw->ab", weight, apart, apart)


def test_the_shift_is_within_its_bound() -> None:
    before = moments(blob())[0]
    shifts = [moments(changed(blob(), n, shift=0.1))[0] - before for n in range(60)]
    bound = 0.1 * SIZE
    assert 0.9 * bound < np.abs(shifts).max(0).min()
    assert np.abs(shifts).max() <= bound + 0.05


def test_the_rotation_is_rigid_about_the_centre_and_within_its_bound() -> None:
    middle, (before, spread) = (SIZE - 1) / 2, moments(blob())
    angles = []
    for seed in range(60):
        after, spread_after = moments(changed(blob(), seed, rotate_degrees=10.0))
        one, other = before - middle, after - middle
        assert np.hypot(*other) == pytest.approx(np.hypot(*one), abs=0.05)
        # Interpolation widens every direction a little and alike; what it keeps is the axis.
        axes = [np.arctan2(2 * s[0, 1], s[0, 0] - s[1, 1]) / 2 for s in (spread, spread_after)]
        turn = np.arctan2(other[0], other[1]) - np.arctan2(one[0], one[1])
        assert axes[1] - axes[0] == pytest.approx(-turn, abs=np.deg2rad(0.5))
        angles.append(np.rad2deg(turn))
    assert min(angles) < -8
    assert max(angles) > 8
    assert np.abs(angles).max() <= 10.1


def test_the_scale_is_within_its_bound_along_each_axis() -> None:
    spread = np.diag(moments(blob())[1])
    ratios = np.array(
        [
            np.sqrt(np.diag(moments(changed(blob(), seed, scale=0.1))[1]) / spread)
            for seed in range(60)
        ]
    )
    assert ratios.min() > 0.9
    assert ratios.max() < 1 / 0.9 + 0.03
    assert (ratios.min(0) < 0.94).all()
    assert (ratios.max(0) > 1.06).all()
    assert np.abs(ratios[:, 0] - ratios[:, 1]).max() > 0.05, "rows and columns apart"


def test_all_slices_of_an_image_change_together_but_for_the_noise(image: np.ndarray) -> None:
    pair = np.concatenate([image, image])
    strong = {"flip": True, "rotate_degrees": 9, "scale": 0.1, "bias_field": 0.3, "gamma": 0.3}
    for seed in range(8):
        one, other = changed(pair, seed, **strong)
        np.testing.assert_array_equal(one, other)
    noisy = [changed(pair, seed, noise=0.2) for seed in range(8)]
    assert any(not np.array_equal(one, other) for one, other in noisy)


def test_the_bias_field_is_smooth_and_bounded() -> None:
    grey = np.zeros((1, SIZE, SIZE), np.float32)
    fields = [changed(grey, seed, bias_field=0.1)[0] + 1 for seed in range(40)]
    untouched = sum(np.array_equal(field, np.ones((SIZE, SIZE))) for field in fields)
    assert 8 <= untouched <= 32
    for field in fields:
        assert np.abs(np.log(field)).max() <= 6 * 0.1 + 1e-4, "six terms, each at most 0.1"
        assert max(np.abs(np.diff(field, n=3, axis=axis)).max() for axis in (0, 1)) < 1e-3


def test_gamma_keeps_black_and_white(image: np.ndarray) -> None:
    image[0, 20, 20] = 1
    for seed in range(8):
        made = changed(image, seed, gamma=0.5)
        assert made[0, 0, 0] == pytest.approx(-1, abs=1e-5)
        assert made[0, 20, 20] == pytest.approx(1, abs=1e-5)


def test_the_noise_is_within_its_bound() -> None:
    grey = np.zeros((1, SIZE, SIZE), np.float32)
    found = [changed(grey, seed, noise=0.1).std() for seed in range(60)]
    assert 15 <= sum(one < 1e-6 for one in found) <= 45
    assert 0.08 < max(found) < 0.105


def test_images_of_a_batch_change_independently(image: np.ndarray) -> None:
    strong = AugmentSettings(bias_field=0.3, gamma=0.2, noise=0.05)
    augment = Augmentation(strong, SIZE)
    for seed in range(8):
        rngs = [[np.random.default_rng([seed, n]) for n in range(3)] for _ in range(2)]
        both = augment(np.stack([image, image, image]), rngs[0])
        for made, rng in zip(both, rngs[1], strict=True):
            np.testing.assert_allclose(made, augment(image[None], [rng])[0], atol=1e-6)
