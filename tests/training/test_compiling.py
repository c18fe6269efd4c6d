"""Compiled networks learn the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mrbridge.dataset.store import Store
from mrbridge.networks.patchgan import PatchGAN
from mrbridge.networks.unet import UNet
from mrbridge.settings import read_assignments
from mrbridge.training.loop import RunRecorder
from mrbridge.training.run import train
from mrbridge.training.settings import TrainSettings, resolve

pytestmark = pytest.mark.usefixtures("quick_phantom")

CYCLEGAN = {"adversarial_weight": 1.0, "cycle_weight": 10.0}
SHALLOW = {"networks": {"generator": {"levels": 2, "dropout": 0.0}}}
"""Networks that are quickly compiled; dropout would draw other numbers."""


@pytest.mark.parametrize(("value", "expected"), [("on", True), ("off", False), ("auto", False)])
def test_values_of_the_setting(value: str, expected: bool) -> None:
    assert resolve(read_assignments([f"compile={value}"])).compile is expected
    assert TrainSettings.build(resolve().model_dump() | {"compile": value}).compile is expected


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the tests' checks of shapes, which cannot be compiled."""
    for network in (UNet, PatchGAN):
        monkeypatch.setattr(network, "forward", inspect.unwrap(network.forward))


@pytest.fixture
def compiled(unchecked: None, monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The networks that are compiled; without generating code, which takes minutes."""
    networks: list[nn.Module] = []
    original = nn.Module.compile

    def quickly(self: nn.Module, **options: Any) -> None:
        assert options == {"dynamic": False}
        networks.append(self)
        original(self, dynamic=False, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", quickly)
    return networks


def both(tiny: Callable[..., Any], store: Store, folder: Path, *args: Any, **changes: Any) -> Any:
    """Rows of a training without and with compilation."""
    settings = tiny(*args, precision="float32", learning_rate=1e-4, **changes).changed(SHALLOW)
    return [
        train(store, folder / str(value), settings.changed({"compile": value}), device="cpu").rows
        for value in (False, True)
    ]


@pytest.mark.parametrize("preset", [pytest.param("unet", marks=pytest.mark.slow), "bridge"])
def test_compiled_and_plain_trainings_agree(
    preset: str,
    small_store: Store,
    tiny: Callable[..., Any],
    tmp_path: Path,
    compiled: list[nn.Module],
) -> None:
    rows = both(tiny, small_store, tmp_path, preset, **CYCLEGAN)
    assert len(compiled) == 4, "two generators and two critics"
    for plain, other in zip(*rows, strict=True):
        names = ["generators", "cycle", "source_critic", "target_critic", "psnr_target"]
        names += ["back_translation", "simulated"] if preset == "bridge" else []
        for name in names:
            assert other[name] == pytest.approx(plain[name], rel=1e-3), name


def test_a_compiled_run_is_resumed_without_compilation(
    small_store: Store, tiny: Callable[..., Any], tmp_path: Path, compiled: list[nn.Module]
) -> None:
    settings = tiny("bridge", compile=True, stop_after_epochs=1).changed(SHALLOW)
    train(small_store, tmp_path / "run", settings, device="cpu")
    assert compiled
    compiled.clear()
    more = train(small_store, tmp_path / "run", resume=True, compile=False, device="cpu")
    assert [row["epoch"] for row in more.rows] == [1, 2]
    assert not compiled


@pytest.mark.nightly
@pytest.mark.usefixtures("unchecked")
def test_generated_code_learns_the_same(
    small_store: Store, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    rows = both(tiny, small_store, tmp_path, "bridge", epochs=1)
    assert rows[1][-1]["generators"] == pytest.approx(rows[0][-1]["generators"], rel=1e-3)


def test_the_clock_waits_for_the_device_only_at_the_end_of_an_epoch(
    small_store: Store, tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = []
    steps: list[int] = []
    original = RunRecorder.after_step

    def watched(self: RunRecorder, losses: Any) -> None:
        model = self.model
        steps.append(model.step)
        with monkeypatch.context() as patched:
            patched.setattr(type(model), "device", torch.device("cuda"))
            patched.setattr(torch.cuda, "synchronize", lambda _: waits.append(model.step))
            patched.setattr(self, "_end_epoch", lambda *_: None)
            original(self, losses)

    monkeypatch.setattr(RunRecorder, "after_step", watched)
    train(small_store, tmp_path / "run", tiny("bridge", steps_per_epoch=3), device="cpu")
    assert steps == [1, 2, 3, 4, 5, 6]
    assert waits == [3, 6]
