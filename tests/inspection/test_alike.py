"""Near copies in many thumbnails."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from mrbridge.inspection.alike import near_duplicates


def picture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal((64, 64)), 2)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    return (
        np.where(x**2 + y**2 < 0.7, 128 + 50 * field / field.std(), 0).clip(0, 255).astype(np.uint8)
    )


def test_copies_are_found_among_many_others_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    pictures = [picture(n) for n in range(1_100)]  # more than are compared at once
    pictures[1_050] = (0.8 * pictures[3] + rng.normal(5, 2, (64, 64))).clip(0, 255).astype(np.uint8)
    pictures[700] = (255 * (pictures[20] / 255) ** 0.8).astype(np.uint8)
    assert [(i, j) for i, j, _ in near_duplicates(pictures)] == [(3, 1_050), (20, 700)]


def test_an_equal_picture_is_as_like_as_can_be() -> None:
    ((i, j, likeness),) = near_duplicates([picture(1), picture(2), picture(1)])
    assert (i, j) == (0, 2)
    assert likeness > 0.9999


def test_few_pictures() -> None:
    assert near_duplicates([]) == []
    assert near_duplicates([picture(0)]) == []
    black = np.zeros((64, 64), np.uint8)
    assert near_duplicates([black, picture(0)]) == []
