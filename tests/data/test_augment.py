"""Random changes: reproducible, in range, absent when switched off."""

from __future__ import annotations

import numpy as np
import pytest

from mrbridge.data.augment import Augmentation, AugmentSettings

OFF = {"flip": False, "rotate_degrees": 0.0, "scale": 0.0, "shift": 0.0}


@pytest.fixture
def image() -> np.ndarray:
    values = np.full((48, 48), -1, np.float32)
    values[10:40, 12:30] = np.random.default_rng(0).uniform(-0.5, 1, (30, 18))
    return values


def test_equal_seeds_give_equal_changes(image: np.ndarray) -> None:
    settings = AugmentSettings(bias_field=0.3, gamma=0.2, noise=0.05)
    one, other = Augmentation(settings, 48), Augmentation(settings, 48)
    other(image, 1)  # what came before does not count
    np.testing.assert_array_equal(one(image, 7), other(image, 7))
    assert not np.array_equal(one(image, 7), one(image, 8))


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
    augment = Augmentation(AugmentSettings.build({**OFF, **change}), 48)
    before = image.copy()
    made = [augment(image, seed) for seed in range(12)]
    np.testing.assert_array_equal(image, before)
    for one in made:
        assert one.shape == image.shape
        assert one.dtype == np.float32
        assert one.min() >= -1
        assert one.max() <= 1
    assert any(not np.array_equal(one, image) for one in made)


def test_all_switched_off_changes_nothing(image: np.ndarray) -> None:
    np.testing.assert_array_equal(Augmentation(AugmentSettings.build(OFF), 48)(image, 3), image)


def test_the_mirror_swaps_left_and_right(image: np.ndarray) -> None:
    augment = Augmentation(AugmentSettings.build({**OFF, "flip": True}), 48)
    made = [augment(image, seed) for seed in range(40)]
    kept = sum(np.allclose(one, image, atol=1e-6) for one in made)
    mirrored = sum(np.allclose(one, image[:, ::-1], atol=1e-6) for one in made)
    assert kept + mirrored == 40
    assert 8 <= mirrored <= 32


def test_air_stays_air_when_the_image_moves(image: np.ndarray) -> None:
    settings = AugmentSettings.build({**OFF, "rotate_degrees": 20.0, "shift": 0.2})
    made = Augmentation(settings, 48)(image, 1)
    np.testing.assert_array_equal(made[[0, -1], :][:, [0, -1]], -1)


def test_gamma_keeps_black_and_white(image: np.ndarray) -> None:
    image[20, 20] = 1
    augment = Augmentation(AugmentSettings.build({**OFF, "gamma": 0.5}), 48)
    for seed in range(8):
        made = augment(image, seed)
        assert made[0, 0] == pytest.approx(-1, abs=1e-5)
        assert made[20, 20] == pytest.approx(1, abs=1e-5)
