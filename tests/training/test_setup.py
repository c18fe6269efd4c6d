"""Where a training begins, which pairs it learns from, and how answers get the data's looks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrbridge.bundle import Bundle, load_bundle
from mrbridge.dataset.sampling import UnpairedSlices
from mrbridge.dataset.store import Store
from mrbridge.errors import BundleError, SettingsError
from mrbridge.training.checkpoint import load_checkpoint
from mrbridge.training.examples import IntensityMapping, fit_intensity_mappings
from mrbridge.training.model import TranslationModel
from mrbridge.training.run import train
from mrbridge.training.settings import LossWeights
from mrbridge.training.setup import choose_pairs, find_initial_model, weights_for


class TestBeginning:
    def test_random_weights_on_request(self, tiny: Callable[..., Any]) -> None:
        assert find_initial_model("scratch", tiny("bridge"), "T1w", "T2w") is None

    def test_a_bundle_of_the_same_networks(
        self, tiny: Callable[..., Any], tiny_bundle: Bundle
    ) -> None:
        assert tiny_bundle.path is not None
        settings = tiny("bridge").changed(
            {"networks": tiny_bundle.manifest.networks.model_dump(mode="json")}
        )
        begun = find_initial_model(tiny_bundle.path, settings, "T1w", "T2w")
        assert begun is not None
        assert begun.hash == tiny_bundle.hash
        model = TranslationModel(settings)
        model.initialise_from(begun, "T2w")
        expected = tiny_bundle.build("to_target").state_dict()
        for network in (model.to_target, model.ema_to_target):
            for name, value in network.state_dict().items():
                assert torch.equal(value, expected[name])

    def test_contrasts_the_other_way_round_swap_the_generators(
        self, tiny: Callable[..., Any], tiny_bundle: Bundle
    ) -> None:
        settings = tiny("bridge").changed(
            {"networks": tiny_bundle.manifest.networks.model_dump(mode="json")}
        )
        model = TranslationModel(settings)
        model.initialise_from(tiny_bundle, "T1w")
        expected = tiny_bundle.build("to_source").state_dict()
        assert all(torch.equal(v, expected[n]) for n, v in model.to_target.state_dict().items())

    def test_other_networks_are_refused_by_name_and_left_by_default(
        self, tiny: Callable[..., Any], tiny_bundle: Bundle, as_shipped: Bundle
    ) -> None:
        assert tiny_bundle.path is not None
        wider = {"networks": {"generator": {"features": 6}}}
        settings = tiny("bridge").changed(wider)
        with pytest.raises(SettingsError, match="other generators"):
            find_initial_model(tiny_bundle.path, settings, "T1w", "T2w")
        with pytest.raises(SettingsError, match="other generators and other contrasts"):
            find_initial_model(tiny_bundle.path, settings, "T1w", "PDw")
        assert find_initial_model("auto", settings, "T1w", "T2w") is None

    def test_what_is_not_there_is_refused(self, tiny: Callable[..., Any], tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="does not exist"):
            find_initial_model(tmp_path / "none", tiny("bridge"), "T1w", "T2w")

    def test_a_run_says_what_it_began_with(
        self, tiny: Callable[..., Any], tiny_bundle: Bundle, small_store: Store, tmp_path: Path
    ) -> None:
        networks = tiny_bundle.manifest.networks.model_dump(mode="json")
        settings = tiny("bridge", epochs=1, simulated_weight=0.0, learning_rate=1e-12).changed(
            {"networks": networks}
        )
        train(small_store, tmp_path / "run", settings, device="cpu", start=tiny_bundle.path)
        kept = load_bundle(tmp_path / "run")
        for name, value in tiny_bundle.weights.items():
            torch.testing.assert_close(kept.weights[name], value, atol=1e-5, rtol=0)

    def test_what_is_shipped_lies_between_the_beginning_and_the_training(
        self,
        tiny: Callable[..., Any],
        tiny_bundle: Bundle,
        small_store: Store,
        tmp_path: Path,
        compare: Any,
    ) -> None:
        networks = tiny_bundle.manifest.networks.model_dump(mode="json")
        settings = tiny(
            "bridge", epochs=3, simulated_weight=0.0, wise_ft_weight=0.75, ema_decay=0.5
        ).changed({"networks": networks})
        whole, parts = tmp_path / "whole", tmp_path / "parts"
        train(small_store, whole, settings, device="cpu", start=tiny_bundle.path)
        best = load_checkpoint(whole / "checkpoints" / "best.ckpt")["networks"]
        moved = 0.0
        for name, value in load_bundle(whole).weights.items():
            first, last = tiny_bundle.weights[name], best[f"ema_{name}"]
            torch.testing.assert_close(value, 0.75 * first + 0.25 * last)
            moved = max(moved, float((last - first).abs().max()))
        assert moved > 1e-4

        # What it began with may be gone when the run is resumed.
        gone = tmp_path / "gone"
        shutil.copytree(tiny_bundle.path, gone)
        paused = settings.changed({"stop_after_epochs": 1})
        train(small_store, parts, paused, device="cpu", start=gone)
        shutil.rmtree(gone)
        train(small_store, parts, resume=True, device="cpu")
        assert compare.runs(whole, parts) == []

    def test_a_training_from_scratch_ships_what_it_learned_alone(
        self, tiny: Callable[..., Any], small_store: Store, tmp_path: Path
    ) -> None:
        settings = tiny("bridge", simulated_weight=0.0, wise_ft_weight=0.75)
        train(small_store, tmp_path / "run", settings, device="cpu", start="scratch")
        best = load_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")["networks"]
        for name, value in load_bundle(tmp_path / "run").weights.items():
            assert torch.equal(value, best[f"ema_{name}"])


class TestPairs:
    def test_the_store_s_pairs_are_used_only_on_request(
        self, tiny: Callable[..., Any], small_store: Store
    ) -> None:
        settings = tiny("bridge", find_pairs=True)
        dataset = UnpairedSlices(small_store, settings.networks.image_size, 0)
        assert choose_pairs(settings, small_store, dataset.banks) == []
        for supervision in ("paired", "weak"):
            wanted = settings.changed({"supervision": supervision})
            assert len(choose_pairs(wanted, small_store, dataset.banks)) > 5

    def test_none_to_be_had_is_refused(
        self, tiny: Callable[..., Any], picture_store: Store
    ) -> None:
        settings = tiny("bridge", supervision="paired")
        dataset = UnpairedSlices(picture_store, settings.networks.image_size, 0)
        with pytest.raises(SettingsError, match="needs pairs, and the store has none"):
            choose_pairs(settings, picture_store, dataset.banks)

    def test_unpaired_losses_count_for_what_has_no_partner(
        self, tiny: Callable[..., Any], small_store: Store
    ) -> None:
        settings = tiny(
            "bridge",
            cycle_weight=8.0,
            back_translation_weight=2.0,
            paired_weight=3.0,
            wise_ft_weight=0.5,
        )
        dataset = UnpairedSlices(small_store, settings.networks.image_size, 0)
        assert weights_for(settings, dataset) == LossWeights.of(settings)
        half = len(dataset.banks[0]) // 2
        dataset.pairs = [(n, n) for n in range(half)]
        alone = max(1 - half / len(bank) for bank in dataset.banks)
        shared = weights_for(settings, dataset)
        assert shared.cycle == pytest.approx(8 * alone)
        assert shared.back_translation == pytest.approx(2 * alone)
        assert shared.paired == 3
        assert shared.wise_ft == pytest.approx(0.5 * alone)
        only = weights_for(settings.changed({"supervision": "paired"}), dataset)
        assert only.cycle == only.back_translation == only.wise_ft == 0
        without = settings.changed({"paired_weight": 0.0})
        assert weights_for(without, dataset) == LossWeights.of(without)
        with pytest.raises(SettingsError, match="--set paired_weight=1"):
            weights_for(without.changed({"supervision": "paired"}), dataset)

    def test_a_training_on_pairs_learns_them(
        self, tiny: Callable[..., Any], small_store: Store, tmp_path: Path
    ) -> None:
        settings = tiny("bridge", supervision="paired", epochs=4, learning_rate=3e-3)
        run = train(small_store, tmp_path / "run", settings, device="cpu", start="scratch")
        result = [row["paired"] for row in run.rows]
        assert result[-1] < 0.9 * result[0]
        assert "adversarial" not in run.rows[0]

    def test_what_comes_first_is_there(self, tiny: Callable[..., Any], small_store: Store) -> None:
        settings = tiny("bridge", warm_up=0.6)
        dataset = UnpairedSlices(small_store, settings.networks.image_size, 0)
        assert weights_for(settings, dataset).warm_up == 0.6
        assert weights_for(settings, dataset, has_initial=True).warm_up == 0
        alone = settings.changed({"simulated_weight": 0.0})
        assert weights_for(alone, dataset).warm_up == 0
        dataset.pairs = [(0, 0)]
        assert weights_for(alone, dataset).warm_up == 0.6

    def test_a_training_without_any_loss_is_refused(
        self, tiny: Callable[..., Any], small_store: Store, tmp_path: Path
    ) -> None:
        nothing = tiny("bridge", simulated_weight=0.0, back_translation_weight=0.0)
        with pytest.raises(SettingsError, match="nothing to learn from"):
            train(small_store, tmp_path / "run", nothing, device="cpu", start="scratch")
        assert not (tmp_path / "run").exists()


class TestLooks:
    def test_at_first_nothing_changes(self) -> None:
        images = torch.linspace(-1, 1, 500)[None]
        torch.testing.assert_close(IntensityMapping()(images), images, atol=1e-6, rtol=0)

    def test_a_curve_is_learned(self) -> None:
        canonical = np.random.default_rng(0).uniform(-1, 1, 20_000).astype(np.float32)
        looks = IntensityMapping()
        looks.fit(canonical, (2 * ((canonical + 1) / 2) ** 2 - 1).astype(np.float32))
        images = torch.linspace(-0.9, 0.9, 50)
        expected = 2 * ((images + 1) / 2) ** 2 - 1
        torch.testing.assert_close(looks(images), expected, atol=0.05, rtol=0)
        assert looks(torch.tensor([-1.0])).item() == -1

    def test_there_and_back_tells_the_looks_without_a_pair(
        self, small_store: Store, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A model that answers canonically: brighter by a known curve than the data."""

        class Squash(torch.nn.Module):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return 2 * ((images + 1) / 2) ** 0.8 - 1

        monkeypatch.setattr(Bundle, "build", lambda self, name: Squash())
        banks = UnpairedSlices(small_store, 32, 0).banks
        looks = (IntensityMapping(), IntensityMapping())
        fit_intensity_mappings(
            looks, replace(tiny_bundle), banks, ("T1w", "T2w"), torch.device("cpu")
        )
        made = torch.linspace(0.2, 0.6, 20)  # what both contrasts hold
        for curve in looks:
            undone = 2 * ((made + 1) / 2) ** (1 / 0.64) - 1
            torch.testing.assert_close(curve(made), undone, atol=0.2, rtol=0)
