"""Near-duplicates among many thumbnails."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from mrbridge.inspection.checks.duplicates import near_duplicates


def image(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal((64, 64)), 2)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    return (
        np.where(x**2 + y**2 < 0.7, 128 + 50 * field / field.std(), 0).clip(0, 255).astype(np.uint8)
    )


def test_only_copies_are_found_among_many_images() -> None:
    rng = np.random.default_rng(0)
    images = [image(n) for n in range(1_100)]  # more than are compared at once
    images[1_050] = (0.8 * images[3] + rng.normal(5, 2, (64, 64))).clip(0, 255).astype(np.uint8)
    images[700] = (255 * (images[20] / 255) ** 0.8).astype(np.uint8)
    assert [(i, j) for i, j, _ in near_duplicates(images)] == [(3, 1_050), (20, 700)]


def test_equal_images_have_the_greatest_similarity() -> None:
    ((i, j, similarity),) = near_duplicates([image(1), image(2), image(1)])
    assert (i, j) == (0, 2)
    assert similarity > 0.9999


def test_few_images() -> None:
    assert near_duplicates([]) == []
    assert near_duplicates([image(0)]) == []
    black = np.zeros((64, 64), np.uint8)
    assert near_duplicates([black, image(0)]) == []
