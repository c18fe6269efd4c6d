"""What only a GPU can show; skipped without one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrbridge.bundle import Bundle
from mrbridge.dataset import loader
from mrbridge.dataset.augment import Augmentation
from mrbridge.dataset.loader import GpuSlices
from mrbridge.dataset.sampling import UnpairedSlices
from mrbridge.dataset.settings import AugmentSettings
from mrbridge.dataset.store import Store
from mrbridge.inference.translator import Translator
from mrbridge.networks.patchgan import PatchGAN
from mrbridge.networks.resnet import ResNet
from mrbridge.networks.resunet import ResUNet
from mrbridge.networks.unet import UNet
from mrbridge.training.run import train
from mrbridge.training.settings import PRESETS

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.usefixtures("quick_phantom", "unchecked"),
]

CUDA = torch.device("cuda")
SMALL: dict[str, dict[str, Any]] = {
    "unet": {"levels": 5, "features": 4, "max_features": 8, "dropout": 0.0},
    "bridge": {"levels": 4, "features": 4, "max_features": 8, "refine": 4},
    "resunet": {"features": 4, "max_features": 8, "blocks": 2},
    "resnet": {"features": 4, "blocks": 2},
}
"""Generators without dropout, whose numbers are others when compiled."""

LOSSES = ("generators", "cycle", "source_critic", "target_critic")
PLAYED = {"adversarial_weight": 1.0, "cycle_weight": 10.0}
"""So that there are all of `LOSSES` in every preset."""


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the tests' checks of shapes away, which cannot be compiled."""
    for network in (UNet, ResUNet, ResNet, PatchGAN):
        monkeypatch.setattr(network, "forward", inspect.unwrap(network.forward))


def loss_rows(rows: list[dict[str, float]]) -> np.ndarray:
    return np.array([[row[name] for name in LOSSES] for row in rows])


@pytest.fixture
def settings(tiny: Callable[..., Any]) -> Callable[..., Any]:
    """Without dropout and noise (of questions, too), whose numbers are others on another device."""

    def make(**changes: Any) -> Any:
        quiet = {"augment": {"noise": 0.0}, "networks": {"generator": {"dropout": 0.0}}}
        small = {"precision": "float32", "learning_rate": 1e-4, "steps_per_epoch": 4, **PLAYED}
        return tiny("bridge", **{**small, "back_translation_weight": 0.0, **changes}).changed(quiet)

    return make


def test_training_is_that_of_the_cpu(
    small_store: Store, settings: Callable[..., Any], tmp_path: Path
) -> None:
    found = [
        loss_rows(train(small_store, tmp_path / device, settings(), device=device).rows)
        for device in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=0.02)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("preset", list(SMALL))
def test_compiled_networks_learn_the_same(
    preset: str, precision: str, small_store: Store, tmp_path: Path
) -> None:
    critic = {"features": 4, "strided": 1}
    networks = {"image_size": 32, "generator": SMALL[preset], "critic": critic}
    short = {"epochs": 2, "steps_per_epoch": 4, "validation_slices": 2, "sample_slices": 1}
    exact = {"precision": precision, "learning_rate": 1e-4}
    base = PRESETS[preset].changed({"networks": networks, **short, **exact, **PLAYED})
    found = []
    for value in (False, True):
        settings = base.changed({"compile": value})
        run = train(small_store, tmp_path / str(value), settings, device="cuda")
        found.append(loss_rows(run.rows))
    np.testing.assert_allclose(found[1], found[0], rtol=0.05 if precision == "bfloat16" else 0.02)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_resumed_run_continues_as_it_would_have(
    compiled: bool, small_store: Store, settings: Callable[..., Any], tmp_path: Path
) -> None:
    base = settings(epochs=4, pool_size=2, compile=compiled, back_translation_weight=1.0)
    whole = train(small_store, tmp_path / "whole", base, device="cuda")
    halves = base.changed({"stop_after_epochs": 2})
    train(small_store, tmp_path / "halves", halves, device="cuda")
    more = train(small_store, tmp_path / "halves", resume=True, device="cuda")
    np.testing.assert_allclose(loss_rows(more.rows), loss_rows(whole.rows), rtol=0.02)


def test_a_run_continues_on_another_device(
    small_store: Store, settings: Callable[..., Any], tmp_path: Path
) -> None:
    base = settings(epochs=4, pool_size=2)
    whole = train(small_store, tmp_path / "whole", base, device="cpu")
    train(small_store, tmp_path / "run", base.changed({"stop_after_epochs": 1}), device="cpu")
    for epoch, device in ((2, "cuda"), (3, "cpu"), (4, "cuda")):
        changes = {"stop_after_epochs": epoch}
        run = train(small_store, tmp_path / "run", resume=True, **changes, device=device)
    np.testing.assert_allclose(loss_rows(run.rows), loss_rows(whole.rows), rtol=0.02)


def test_data_on_the_device_are_those_of_the_loader(
    small_store: Store, settings: Callable[..., Any], tmp_path: Path
) -> None:
    augment = Augmentation(AugmentSettings(bias_field=0.2, gamma=0.1), 32)
    data = UnpairedSlices(small_store, 32, 0, augment)
    made = GpuSlices(data, CUDA).batch(range(5, 9))
    for side in (0, 1):
        assert made[side].device.type == "cuda"
        expected = torch.stack([data[5 + n][side] for n in range(4)])
        torch.testing.assert_close(made[side].cpu(), expected, atol=1e-3, rtol=0)


def test_the_loader_feeds_it_too(
    small_store: Store,
    settings: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resident = train(small_store, tmp_path / "resident", settings(), device="cuda")
    monkeypatch.setattr(loader, "fits", lambda *_: False)
    loaded = train(small_store, tmp_path / "loaded", settings(), device="cuda")
    np.testing.assert_allclose(loss_rows(loaded.rows), loss_rows(resident.rows), rtol=0.02)


def test_translations_agree(tiny_bundle: Bundle) -> None:
    rng = np.random.default_rng(0)
    slices = rng.uniform(-1, 1, (5, 40, 48)).astype(np.float32)
    made = [Translator(tiny_bundle, device) for device in ("cpu", "cuda")]
    there, here = (one.translate_slices(slices, "T2w") for one in made)
    # In units of a range of 1; bfloat16 on both sides.
    assert np.abs(there - here).max() / 2 < 0.02
