"""The standard scale: monotone, learned only on training scans, and undone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrbridge import io
from mrbridge.dataset.prepare import prepare
from mrbridge.dataset.settings import PrepareSettings
from mrbridge.dataset.store import Store
from mrbridge.preprocessing.intensity import (
    IntensityNormalisation,
    find_normalisation,
    learned_levels,
    rescaled,
)
from mrbridge.preprocessing.preprocess import preprocess
from mrbridge.preprocessing.settings import IntensitySettings

Maker = Callable[..., Path]
NYUL = PrepareSettings().changed({"standard": {"intensity": {"method": "nyul"}}})


def recipe_of(seed: int, gamma: float, factor: float) -> IntensityNormalisation:
    values = np.random.default_rng(seed).uniform(0, 1, (4, 30, 30)) ** gamma * factor
    inside = np.ones(values.shape, bool)
    return find_normalisation(values.astype(np.float32), inside, IntensitySettings(method="nyul"))


RECIPES = [recipe_of(seed, gamma, 100.0 * (seed + 1)) for seed, gamma in enumerate((0.6, 1, 1.7))]


def test_landmarks_come_to_the_scale_in_order_and_back() -> None:
    levels = learned_levels(RECIPES)
    assert list(levels) == sorted(set(levels))
    assert (levels[0], levels[-1]) == pytest.approx((-1, 1), abs=1e-4)
    for recipe in RECIPES:
        placed = recipe.on_scale(levels)
        landmarks = np.array(recipe.landmarks)
        np.testing.assert_allclose(placed.normalise(landmarks), levels, atol=1e-5)
        values = np.linspace(recipe.low, recipe.high, 999)
        normal = placed.normalise(values)
        assert (np.diff(normal) >= 0).all()
        np.testing.assert_allclose(placed.restore(normal), values, atol=1e-3 * recipe.high)


def test_the_scale_of_one_is_its_own_and_gain_does_not_matter() -> None:
    one = RECIPES[1]
    np.testing.assert_allclose(
        one.on_scale(learned_levels([one])).normalise(np.array(one.landmarks)),
        one.normalise(np.array(one.landmarks)),
        atol=1e-4,
    )
    louder = recipe_of(1, 1, 5000.0)
    assert learned_levels([louder]) == pytest.approx(learned_levels([one]), abs=1e-4)


def test_learning_again_from_scans_on_the_scale_changes_nothing() -> None:
    levels = learned_levels(RECIPES)
    assert learned_levels([recipe.on_scale(levels) for recipe in RECIPES]) == levels


def test_rescaling_slices_equals_normalising_again() -> None:
    floored = [recipe.model_copy(update={"floor": -0.8}) for recipe in RECIPES]
    recipe, placed = floored[2], floored[2].on_scale(learned_levels(floored))
    values = np.linspace(recipe.low, recipe.high, 500).astype(np.float32)
    stored = recipe.normalise(values).astype(np.float16)
    stored[:3] = -1  # outside
    again = rescaled(stored, recipe, placed)
    assert (again[:3] == -1).all()
    np.testing.assert_allclose(again[3:], placed.normalise(values)[3:], atol=4e-3)


class TestStore:
    def test_only_training_subjects_count(self, bids: Maker, tmp_path: Path) -> None:
        root = bids(5)
        store = prepare(root, tmp_path / "store", NYUL)
        held = store.records("T1w", "val")[0]
        path = root / f"sub-{held.subject}/anat/{held.name}"
        scan = io.read(path)
        strange = (np.sqrt(scan.voxels.astype(np.float32)) * 20).astype(np.int16)
        before = store.manifest.typical["T1w"].levels
        io.write(replace(scan, voxels=strange), path)
        again = prepare(root, tmp_path / "store", NYUL)
        assert again.records("T1w", "val")[0].source_sha256 != held.source_sha256
        assert again.manifest.typical["T1w"].levels == before
        assert {record.recipe.levels for record in again.records("T1w")} == {before}

    def test_a_new_training_scan_changes_the_scale_as_in_a_new_store(
        self, bids: Maker, tmp_path: Path
    ) -> None:
        root = bids(5)
        store = prepare(root, tmp_path / "store", NYUL)
        first = store.records("T1w", "train")[0]
        path = root / f"sub-{first.subject}/anat/{first.name}"
        scan = io.read(path)
        strange = (np.sqrt(scan.voxels.astype(np.float32)) * 20).astype(np.int16)
        io.write(replace(scan, voxels=strange), path)
        again = prepare(root, tmp_path / "store", NYUL)
        assert again.manifest.typical["T1w"].levels != store.manifest.typical["T1w"].levels
        assert again.manifest.typical["T2w"].levels == store.manifest.typical["T2w"].levels
        new = prepare(root, tmp_path / "other", NYUL)
        assert again.manifest == new.manifest
        for record in Store.open(tmp_path / "store").records():
            again.slices(record)  # as its hash says

    def test_translation_sees_the_slices_of_the_store(self, bids: Maker, tmp_path: Path) -> None:
        root = bids(4)
        store = prepare(root, tmp_path / "store", NYUL)
        record = store.records("T1w", "train")[0]
        scan = io.read(root / f"sub-{record.subject}/anat/{record.name}")
        levels = store.manifest.typical["T1w"].levels
        seen = preprocess(scan, NYUL.standard, None, levels)
        assert seen.normalisation == record.recipe
        kept = seen.slices[seen.foreground.mean(axis=(1, 2)) >= NYUL.min_foreground]
        np.testing.assert_allclose(store.slices(record), kept, atol=4e-3)
