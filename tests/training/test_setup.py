"""What a training starts from, which pairs it learns from, and intensity mappings."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrbridge.bundle import Bundle, load_bundle
from mrbridge.dataset.sampling import UnpairedSlices
from mrbridge.dataset.settings import PrepareSettings
from mrbridge.dataset.store import Store
from mrbridge.errors import BundleError, SettingsError
from mrbridge.training.checkpoint import load_checkpoint
from mrbridge.training.examples import (
    IntensityMapping,
    choose_pairs,
    fit_intensity_mappings,
    training_slices,
    weights_for,
)
from mrbridge.training.model import TranslationModel
from mrbridge.training.run import find_initial_model, train
from mrbridge.training.settings import LossWeights

PREPARED = PrepareSettings()


@pytest.mark.parametrize("image_size", [16, 32])
def test_heads_that_are_larger_than_the_images(
    image_size: int,
    small_store: Store,
    tiny: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Else only the middle of each slice would be learned from, unnoticed; margins are air."""
    assert max(small_store.records()[0].shape[1:]) > 1.2 * 32
    training_slices(small_store, tiny("resnet").changed({"networks": {"image_size": image_size}}))
    warned = [one for one in caplog.messages if "only the middle" in one]
    assert len(warned) == (image_size == 16)
    assert not warned or "in 4 of 4 scans the head has up to 38 pixels" in warned[0]


class TestInitialModel:
    def test_random_weights_on_request(self, tiny: Callable[..., Any]) -> None:
        assert find_initial_model("scratch", tiny("bridge"), PREPARED) is None

    def test_a_bundle_of_the_same_networks(
        self, tiny: Callable[..., Any], tiny_bundle: Bundle
    ) -> None:
        assert tiny_bundle.path is not None
        settings = tiny("bridge").changed(
            {"networks": tiny_bundle.manifest.networks.model_dump(mode="json")}
        )
        initial = find_initial_model(tiny_bundle.path, settings, PREPARED)
        assert initial is not None
        assert initial.hash == tiny_bundle.hash
        model = TranslationModel(settings)
        model.initialise_from(initial, "T2w")
        expected = tiny_bundle.build("to_target").state_dict()
        for network in (model.to_target, model.ema_to_target):
            for name, value in network.state_dict().items():
                assert torch.equal(value, expected[name])

    def test_swapped_contrasts_swap_the_generators(
        self, tiny: Callable[..., Any], tiny_bundle: Bundle
    ) -> None:
        settings = tiny("bridge").changed(
            {"networks": tiny_bundle.manifest.networks.model_dump(mode="json")}
        )
        model = TranslationModel(settings)
        model.initialise_from(tiny_bundle, "T1w")
        expected = tiny_bundle.build("to_source").state_dict()
        assert all(torch.equal(v, expected[n]) for n, v in model.to_target.state_dict().items())

    def test_other_networks_are_refused_by_name_and_ignored_by_default(
        self, tiny: Callable[..., Any], tiny_bundle: Bundle, as_shipped: Bundle
    ) -> None:
        assert tiny_bundle.path is not None
        wider = {"networks": {"generator": {"features": 6}}}
        settings = tiny("bridge").changed(wider)
        with pytest.raises(SettingsError, match="other generators"):
            find_initial_model(tiny_bundle.path, settings, PREPARED)
        with pytest.raises(SettingsError, match="other generators and other contrasts"):
            find_initial_model(tiny_bundle.path, settings, PrepareSettings(target="PDw"))
        assert find_initial_model("auto", settings, PREPARED) is None

    def test_a_missing_model_is_refused(self, tiny: Callable[..., Any], tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="does not exist"):
            find_initial_model(tmp_path / "none", tiny("bridge"), PREPARED)

    def test_a_run_keeps_the_weights_of_its_initial_model(
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

    def test_the_bundle_mixes_initial_and_trained_weights(
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

        # The initial model may be gone when the run is resumed.
        gone = tmp_path / "gone"
        shutil.copytree(tiny_bundle.path, gone)
        paused = settings.changed({"stop_after_epochs": 1})
        train(small_store, parts, paused, device="cpu", start=gone)
        shutil.rmtree(gone)
        train(small_store, parts, resume=True, device="cpu")
        assert compare.runs(whole, parts) == []

    def test_a_training_from_scratch_ships_its_own_weights(
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

    def test_a_store_without_pairs_is_refused(
        self, tiny: Callable[..., Any], picture_store: Store
    ) -> None:
        settings = tiny("bridge", supervision="paired")
        dataset = UnpairedSlices(picture_store, settings.networks.image_size, 0)
        with pytest.raises(SettingsError, match="needs pairs, and the store has none"):
            choose_pairs(settings, picture_store, dataset.banks)

    def test_unpaired_losses_count_for_slices_without_a_partner(
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
        unpaired = max(1 - half / len(bank) for bank in dataset.banks)
        shared = weights_for(settings, dataset)
        assert shared.unpaired["cycle"] == pytest.approx(8 * unpaired)
        assert shared.unpaired["back_translation"] == pytest.approx(2 * unpaired)
        assert shared.paired == 3
        assert shared.wise_ft == pytest.approx(0.5 * unpaired)
        only = weights_for(settings.changed({"supervision": "paired"}), dataset)
        assert only.unpaired["cycle"] == only.unpaired["back_translation"] == only.wise_ft == 0
        without = settings.changed({"paired_weight": 0.0})
        assert weights_for(without, dataset) == LossWeights.of(without)
        with pytest.raises(SettingsError, match="--set paired_weight=1"):
            weights_for(without.changed({"supervision": "paired"}), dataset)

    @pytest.mark.usefixtures("quick_phantom")
    def test_a_training_on_pairs_learns_them(
        self, tiny: Callable[..., Any], small_store: Store, tmp_path: Path
    ) -> None:
        settings = tiny("bridge", supervision="paired", epochs=4, learning_rate=3e-3)
        run = train(small_store, tmp_path / "run", settings, device="cpu", start="scratch")
        result = [row["paired"] for row in run.rows]
        assert result[-1] < 0.9 * result[0]
        assert "adversarial" not in run.rows[0]

    def test_warm_up_needs_pairs_and_random_weights(
        self, tiny: Callable[..., Any], small_store: Store
    ) -> None:
        settings = tiny("bridge", warm_up=0.6)
        dataset = UnpairedSlices(small_store, settings.networks.image_size, 0)
        assert weights_for(settings, dataset).warm_up == 0.6
        assert weights_for(settings, dataset, has_initial=True).warm_up == 0
        paired = settings.changed({"simulated_weight": 0.0})
        assert weights_for(paired, dataset).warm_up == 0
        dataset.pairs = [(0, 0)]
        assert weights_for(paired, dataset).warm_up == 0.6

    def test_a_training_without_any_loss_is_refused(
        self, tiny: Callable[..., Any], small_store: Store, tmp_path: Path
    ) -> None:
        nothing = tiny("bridge", simulated_weight=0.0, back_translation_weight=0.0)
        with pytest.raises(SettingsError, match="nothing to learn from"):
            train(small_store, tmp_path / "run", nothing, device="cpu", start="scratch")
        assert not (tmp_path / "run").exists()


class TestIntensityMapping:
    def test_it_starts_as_the_identity(self) -> None:
        images = torch.linspace(-1, 1, 500)[None]
        torch.testing.assert_close(IntensityMapping()(images), images, atol=1e-6, rtol=0)

    def test_a_curve_is_learned(self) -> None:
        canonical = np.random.default_rng(0).uniform(-1, 1, 20_000).astype(np.float32)
        mappings = IntensityMapping()
        mappings.fit(canonical, (2 * ((canonical + 1) / 2) ** 2 - 1).astype(np.float32))
        images = torch.linspace(-0.9, 0.9, 50)
        expected = 2 * ((images + 1) / 2) ** 2 - 1
        torch.testing.assert_close(mappings(images), expected, atol=0.05, rtol=0)
        assert mappings(torch.tensor([-1.0])).item() == -1

    def test_the_cycle_shows_the_mapping_without_pairs(
        self, small_store: Store, as_shipped: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A model of canonical intensities: brighter by a known curve than the data."""

        class Squash(torch.nn.Module):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return 2 * ((images + 1) / 2) ** 0.8 - 1

        monkeypatch.setattr(Bundle, "build", lambda self, name: Squash())
        banks = UnpairedSlices(small_store, 32, 0).banks
        mappings = (IntensityMapping(), IntensityMapping())
        fit_intensity_mappings(mappings, banks, ("T1w", "T2w"), torch.device("cpu"))
        levels = torch.linspace(0.2, 0.6, 20)  # what both contrasts hold
        for curve in mappings:
            undone = 2 * ((levels + 1) / 2) ** (1 / 0.64) - 1
            torch.testing.assert_close(curve(levels), undone, atol=0.2, rtol=0)
