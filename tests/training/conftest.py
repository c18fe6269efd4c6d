"""Comparing runs to the bit."""

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
    """Where two nested values differ, tensors to the bit; columns of time are left out."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [k for k in {**one, **other} if k not in CLOCK]
        return [
            told
            for k in keys
            for told in differences(one.get(k, "absent"), other.get(k, "absent"), f"{where}.{k}")
        ]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        parts = enumerate(zip(one, other, strict=True))
        return [told for n, (a, b) in parts for told in differences(a, b, f"{where}[{n}]")]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [where]
    return [] if type(one) is type(other) and one == other else [where]


def run_differences(one: Path, other: Path) -> list[str]:
    """Where two runs differ: checkpoint (weights, averages, optimisers, pools, rows), bundle."""
    from mrbridge.bundle import read_manifest
    from mrbridge.training.checkpoint import load_checkpoint

    states = [load_checkpoint(run / "checkpoints" / "last.ckpt") for run in (one, other)]
    told = differences(states[0], states[1])
    bundles = [read_manifest(run) for run in (one, other)]
    if bundles[0].weights_sha256 != bundles[1].weights_sha256:
        told.append("bundle")
    told += [] if bundles[0].scores == bundles[1].scores else ["bundle.scores"]
    return told


@pytest.fixture
def compare() -> SimpleNamespace:
    """`compare.values(a, b)` and `compare.runs(a, b)`: lists of what differs."""
    return SimpleNamespace(values=differences, runs=run_differences)


@pytest.fixture
def signal_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Send this process a signal in training step `step`: `signal_at(5, signal.SIGTERM)`."""
    from mrbridge.training.cyclegan import CycleGAN

    original = CycleGAN.training_step

    def arm(step: int, *numbers: signal.Signals) -> None:
        def training_step(self: CycleGAN, batch: Any, batch_idx: int) -> Any:
            if self.step == step:
                for number in numbers:
                    os.kill(os.getpid(), number)
            return original(self, batch, batch_idx)

        monkeypatch.setattr(CycleGAN, "training_step", training_step)

    return arm
