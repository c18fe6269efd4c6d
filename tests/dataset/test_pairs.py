"""Pairs that nobody wrote down are found, and nothing else is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from mrbridge.dataset.pairs import are_in_register, found_pairs, information, known_pairs
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
