"""Best matches among images of two contrasts: the same as of all with all, and in little time."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from mrbridge.dataset import pairs
from mrbridge.dataset.pairs import best_matches


def thumbnails(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A head with folds of its own in two contrasts, fluid dark or bright, noise in each."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    head = (x / rng.uniform(0.75, 0.9)) ** 2 + (y / rng.uniform(0.85, 0.95)) ** 2 < 1
    folds = ndimage.gaussian_filter(rng.standard_normal((64, 64)), 2.5)
    tissue = np.digitize(folds / folds.std(), [-0.8, 0.4])
    made = []
    for levels in ((40, 130, 190), (230, 120, 70)):
        noise = rng.normal(0, 4, head.shape)
        image = np.where(head, np.array(levels)[tissue] + noise, 0)
        made.append(image.clip(0, 255).astype(np.uint8))
    return made[0], made[1]


@pytest.fixture(scope="module")
def banks() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """150 heads, of which 100 have a partner; the partners stand in another order."""
    heads = [thumbnails(seed) for seed in range(200)]
    return [one for one, _ in heads[:150]], [other for _, other in heads[:49:-1]]


def test_partners_are_found(banks: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    found = set(best_matches(*banks))
    assert {(50 + n, 149 - n) for n in range(100)} <= found


def test_few_candidates_give_the_same_pairs_as_all(
    banks: tuple[list[np.ndarray], list[np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = set(best_matches(*banks))
    monkeypatch.setattr(pairs, "CANDIDATES", 1_000)
    partners = {(50 + n, 149 - n) for n in range(100)}
    assert few & partners == set(best_matches(*banks)) & partners


def test_source_and_target_are_interchangeable(
    banks: tuple[list[np.ndarray], list[np.ndarray]],
) -> None:
    sources, targets = banks
    turned = {(i, j) for j, i in best_matches(targets, sources)}
    assert turned == set(best_matches(sources, targets))


def test_contrast_and_brightness_do_not_matter() -> None:
    heads = [thumbnails(seed)[0] for seed in range(40)]
    inverted = [np.where(one > 0, 255 - one // 2, 0).astype(np.uint8) for one in heads]
    assert best_matches(heads, inverted) == [(n, n) for n in range(40)]


def test_nothing_to_match() -> None:
    one = thumbnails(0)[0]
    assert best_matches([], [one]) == []
    assert best_matches([one], []) == []
    assert best_matches([one], [thumbnails(0)[1]]) == [(0, 0)]
    black = np.zeros((64, 64), np.uint8)
    assert len(best_matches([black, black], [black])) == 1
