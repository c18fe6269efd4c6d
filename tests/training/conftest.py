"""Comparing runs bit for bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

CLOCK = ("seconds", "images_per_second")
"""What differs between two equal runs."""


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two nested values differ, tensors bit for bit; columns of time are left out."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [k for k in {**one, **other} if k not in CLOCK]
        return [
            result
            for k in keys
            for result in differences(one.get(k, "absent"), other.get(k, "absent"), f"{where}.{k}")
        ]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        parts = enumerate(zip(one, other, strict=True))
        return [result for n, (a, b) in parts for result in differences(a, b, f"{where}[{n}]")]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [where]
    return [] if type(one) is type(other) and one == other else [where]


def run_differences(one: Path, other: Path) -> list[str]:
    """Where two runs differ: checkpoint (weights, averages, optimisers, pools, rows), bundle."""
    from mrbridge.bundle import read_manifest
    from mrbridge.training.checkpoint import load_checkpoint

    states = [load_checkpoint(run / "checkpoints" / "last.ckpt") for run in (one, other)]
    result = differences(states[0], states[1])
    bundles = [read_manifest(run) for run in (one, other)]
    if bundles[0].weights_sha256 != bundles[1].weights_sha256:
        result.append("bundle")
    result += [] if bundles[0].scores == bundles[1].scores else ["bundle.scores"]
    return result


@pytest.fixture
def compare() -> SimpleNamespace:
    """`compare.values(a, b)` and `compare.runs(a, b)`: lists of what differs."""
    return SimpleNamespace(values=differences, runs=run_differences)


@pytest.fixture
def signal_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Send this process a signal in training step `step`: `signal_at(5, signal.SIGTERM)`."""
    from mrbridge.training.model import TranslationModel

    original = TranslationModel.training_step

    def arm(step: int, *numbers: signal.Signals) -> None:
        def training_step(self: TranslationModel, batch: Any, progress: float) -> Any:
            if self.step == step:
                for number in numbers:
                    os.kill(os.getpid(), number)
            return original(self, batch, progress)

        monkeypatch.setattr(TranslationModel, "training_step", training_step)

    return arm
