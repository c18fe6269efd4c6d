"""Compiled trainings learn the same; where compiling fails, they go on without."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mrbridge.dataset.store import Store
from mrbridge.errors import Interrupted, MrbridgeWarning
from mrbridge.networks import PatchGAN, UNet
from mrbridge.settings import read_assignments
from mrbridge.training import compiling
from mrbridge.training.compiling import PAYS_FROM_MINUTES, PAYS_FROM_STEPS, pays
from mrbridge.training.loop import RunKeeper
from mrbridge.training.run import train
from mrbridge.training.settings import resolve

pytestmark = pytest.mark.usefixtures("quick_phantom")

CPU, CUDA = torch.device("cpu"), torch.device("cuda")

PLAYED = {"adversarial_weight": 1.0, "cycle_weight": 10.0}
"""So that the critics learn, and generators translate what they made."""


class TestWhetherItPays:
    @pytest.fixture(autouse=True)
    def _triton(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compiling, "can_compile", lambda device: device.type == "cuda")

    def test_long_trainings_on_cuda(self) -> None:
        settings = resolve("unet")
        assert pays(settings, PAYS_FROM_STEPS, CUDA)
        assert not pays(settings, PAYS_FROM_STEPS - 1, CUDA)
        assert not pays(settings, 10**9, CPU)

    def test_by_the_clock(self) -> None:
        for minutes, expected in ((PAYS_FROM_MINUTES, True), (PAYS_FROM_MINUTES - 0.5, False)):
            assert pays(resolve("unet", {"minutes": minutes}), 10**9, CUDA) is expected

    def test_who_says_so_gets_it(self) -> None:
        assert pays(resolve("unet", {"compile": "on"}), 1, CPU)
        assert not pays(resolve("unet", {"compile": "off"}), 10**9, CUDA)

    def test_without_triton_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compiling, "can_compile", lambda device: False)
        assert not pays(resolve("unet"), 10**9, CUDA)


@pytest.mark.parametrize("word", ["on", "off", "auto"])
def test_words_that_yaml_takes_for_booleans(word: str) -> None:
    assert resolve("unet", read_assignments([f"compile={word}"])).compile == word


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the tests' checks of shapes away, which cannot be compiled."""
    for network in (UNet, PatchGAN):
        monkeypatch.setattr(network, "forward", inspect.unwrap(network.forward))


@pytest.fixture
def traced(unchecked: None, monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Compile without generating code, which takes minutes: all the rest is as always."""
    compiled: list[nn.Module] = []
    original = nn.Module.compile

    def quickly(self: nn.Module, **options: Any) -> None:
        assert options == {"dynamic": False, "mode": "default"}
        compiled.append(self)
        original(self, dynamic=False, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", quickly)
    return compiled


@pytest.mark.parametrize("preset", ["unet", "bridge"])
def test_compiled_and_plain_trainings_agree(
    preset: str,
    small_store: Store,
    tiny: Callable[..., Any],
    tmp_path: Path,
    traced: list[nn.Module],
) -> None:
    # Dropout draws other numbers in a compiled network.
    still = {"networks": {"generator": {"dropout": 0.0}}}
    settings = tiny(preset, precision="float32", learning_rate=1e-4, **PLAYED).changed(still)
    with warnings.catch_warnings():
        warnings.simplefilter("error", MrbridgeWarning)
        rows = [
            train(
                small_store, tmp_path / word, settings.changed({"compile": word}), device="cpu"
            ).rows
            for word in ("off", "on")
        ]
    assert len(traced) == 4, "two generators and two critics"
    for plain, compiled in zip(*rows, strict=True):
        names = ["generators", "cycle", "source_critic", "target_critic", "psnr_target"]
        names += ["back_translation", "simulated"] if preset == "bridge" else []
        for name in names:
            assert compiled[name] == pytest.approx(plain[name], rel=1e-3), name


def test_a_run_may_begin_compiled_and_go_on_without(
    small_store: Store, tiny: Callable[..., Any], tmp_path: Path, traced: list[nn.Module]
) -> None:
    settings = tiny("bridge", compile="on", stop_after_epochs=1)
    train(small_store, tmp_path / "run", settings, device="cpu")
    assert traced
    traced.clear()
    more = train(small_store, tmp_path / "run", resume=True, compile="off", device="cpu")
    assert [row["epoch"] for row in more.rows] == [1, 2]
    assert not traced


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception, at_call: int) -> None:
    """Let compiling go well and the n-th call of compiled networks fail."""
    calls: list[None] = []

    def compile_badly(self: nn.Module, **options: Any) -> None:
        def call(*images: torch.Tensor) -> torch.Tensor:
            calls.append(None)
            if len(calls) == at_call:
                raise error
            return self._call_impl(*images)

        self._compiled_call_impl = call

    monkeypatch.setattr(nn.Module, "compile", compile_badly)


@pytest.mark.parametrize("at_call", [1, 4, 5, 8], ids=["generator", "judged", "cycle", "critic"])
def test_where_it_fails_the_training_is_the_plain_one(
    at_call: int,
    small_store: Store,
    tiny: Callable[..., Any],
    tmp_path: Path,
    compare: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch_norm = {"networks": {"generator": {"norm": "batch"}}}
    settings = tiny("bridge", simulated_weight=0.0, warm_up=0.0, **PLAYED).changed(batch_norm)
    plain = train(small_store, tmp_path / "off", settings, device="cpu")
    failing(monkeypatch, RuntimeError("no compiler\nand a long story"), at_call)
    with pytest.warns(MrbridgeWarning, match=r"trained without \(no compiler\)") as result:
        tried = train(
            small_store, tmp_path / "on", settings.changed({"compile": "on"}), device="cpu"
        )
    assert len([one for one in result if one.category is MrbridgeWarning]) == 1
    assert compare.runs(plain.path, tried.path) == [".keeper.settings.compile"]


def test_a_forced_end_while_compiling_is_no_failure_of_it(
    small_store: Store, tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, Interrupted("stopped at once"), 1)
    with pytest.raises(Interrupted, match="at once"):
        train(small_store, tmp_path / "run", tiny("bridge", compile="on"), device="cpu")


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_generated_code_learns_the_same(
    small_store: Store, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    settings = tiny("bridge", precision="float32", learning_rate=1e-4, epochs=1)
    rows = [
        train(small_store, tmp_path / word, settings.changed({"compile": word}), device="cpu").rows[
            -1
        ]
        for word in ("off", "on")
    ]
    assert rows[1]["generators"] == pytest.approx(rows[0]["generators"], rel=1e-3)


def test_the_clock_waits_for_the_device_at_the_end_of_an_epoch_only(
    small_store: Store, tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = []
    steps: list[int] = []
    original = RunKeeper.after_step

    def watched(self: RunKeeper, losses: Any) -> None:
        model = self.model
        steps.append(model.step)
        with monkeypatch.context() as patched:
            patched.setattr(type(model), "device", CUDA)
            patched.setattr(torch.cuda, "synchronize", lambda _: waits.append(model.step))
            patched.setattr(self, "_end_epoch", lambda *_: None)
            original(self, losses)

    monkeypatch.setattr(RunKeeper, "after_step", watched)
    train(small_store, tmp_path / "run", tiny("bridge", steps_per_epoch=3), device="cpu")
    assert steps == [1, 2, 3, 4, 5, 6]
    assert waits == [3, 6]
