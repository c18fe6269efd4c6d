"""Undeclared pairs are found, and nothing else is; the best matches are those of a full search."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from mrbridge.dataset import pairs
from mrbridge.dataset.pairs import (
    are_in_register,
    best_matches,
    found_pairs,
    information,
    known_pairs,
)
from mrbridge.dataset.sampling import SliceBank
from mrbridge.dataset.store import Store

SIZE = 96


def head(seed: int) -> np.ndarray:
    """A head of random folds, range [-1, 1]."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal((SIZE, SIZE)), 2.5)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    inside = x**2 + y**2 < 0.6
    return np.where(inside, np.tanh(field / field.std()) * 0.6 + 0.2, -1).astype(np.float32)


def other_contrast(image: np.ndarray, seed: int) -> np.ndarray:
    """Neither rising nor falling with the first one, and noisy."""
    made = np.where(image > -1, np.cos(3 * image), -1)
    noise = 0.05 * np.random.default_rng(seed + 1000).standard_normal(image.shape)
    return np.clip(made + noise, -1, 1).astype(np.float32)


def bank(images: list[np.ndarray], subject: str | None = None) -> Any:
    record = SimpleNamespace(
        subject=subject, grid_hash="one", shape=(len(images), SIZE, SIZE), origin=(0.0, 0.0)
    )
    places = [(record, n) for n in range(len(images))]

    class Bank(list):
        pass

    made = Bank(images)
    made.places = places  # type: ignore[attr-defined]
    return made


def test_undeclared_pairs_are_found_in_any_order() -> None:
    sources = [head(n) for n in range(6)]
    order = [4, 1, 0, 5, 2, 3]
    targets = [other_contrast(sources[n], n) for n in order]
    found = found_pairs((bank(sources), bank(targets)))
    assert sorted(found) == sorted((n, order.index(n)) for n in range(6))


def test_slices_of_other_heads_are_not_pairs() -> None:
    sources = [head(n) for n in range(5)]
    targets = [other_contrast(head(n), n) for n in range(10, 15)]
    assert found_pairs((bank(sources), bank(targets))) == []


def test_only_the_slices_that_match_are_pairs() -> None:
    sources = [head(n) for n in range(4)]
    targets = [other_contrast(head(n), n) for n in (50, 2, 51)]
    assert found_pairs((bank(sources), bank(targets))) == [(2, 1)]


def test_slices_of_one_known_subject_are_left_out() -> None:
    sources = [head(n) for n in range(3)]
    targets = [other_contrast(image, n) for n, image in enumerate(sources)]
    assert found_pairs((bank(sources, "01"), bank(targets, "01"))) == []
    assert len(found_pairs((bank(sources, "01"), bank(targets, "02")))) == 3


def test_large_sets_are_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrbridge.dataset.pairs._MOST", 2)
    sources = [head(n) for n in range(3)]
    assert found_pairs((bank(sources), bank(sources))) == []


def test_similar_slices_are_not_in_register() -> None:
    image = head(0)
    pair = other_contrast(image, 0)
    assert are_in_register(image, pair)
    assert not are_in_register(image, np.roll(pair, 6, 0))
    assert not are_in_register(image, other_contrast(head(1), 1))
    assert not are_in_register(image, np.full_like(image, -1))
    here, there = information(image, image)
    assert here == pytest.approx(1, abs=1e-5)
    assert 0 < there < 0.5


def test_known_pairs_are_those_of_the_store(small_store: Store) -> None:
    banks = tuple(SliceBank(small_store, c, "train", 32) for c in ("T1w", "T2w"))
    pairs = known_pairs(small_store, banks)  # type: ignore[arg-type]
    assert pairs
    for i, j in pairs:
        (one, here), (other, there) = banks[0].places[i], banks[1].places[j]
        assert one.subject == other.subject
        assert one.slice_indices[here] == other.slice_indices[there]


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
