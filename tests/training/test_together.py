"""Two processes that train together on the CPU do what one does with their batches joined."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.training.small import SMALL_RESNET

from mrbridge import console
from mrbridge.dataset.loader import BatchIndices, GpuBatches, GpuSlices, batches_from
from mrbridge.dataset.sampling import UnpairedSlices
from mrbridge.dataset.store import Store
from mrbridge.errors import Interrupted, SettingsError
from mrbridge.training import distributed
from mrbridge.training.checkpoint import load_checkpoint
from mrbridge.training.distributed import Ranks, launch
from mrbridge.training.run import train
from mrbridge.training.settings import TrainSettings, resolve


def settings(**changes: Any) -> TrainSettings:
    """The losses of CycleGAN and a pool that is soon full. No dropout and no back-translation:
    each process draws its own random numbers for them."""
    return resolve("resnet", SMALL_RESNET, {"steps_per_epoch": 1, "pool_size": 3}, changes)


def checkpoint(run: Path) -> dict[str, Any]:
    return load_checkpoint(run / "checkpoints" / "last.ckpt")


def test_shares_of_a_step_are_the_joined_batch(small_store: Store) -> None:
    data = UnpairedSlices(small_store, 32, 0)
    whole = list(batches_from(data, 4, 3, 5))
    shares = [list(batches_from(data, 2, 3, 5, share=(n, 2))) for n in (0, 1)]
    on_device = GpuSlices(data, torch.device("cpu"))
    resident = [list(GpuBatches(on_device, BatchIndices(2, 3, 5, (n, 2)))) for n in (0, 1)]
    for joined, *parts in zip(whole, *shares, strict=True):
        for side in (0, 1):
            assert torch.equal(joined[side], torch.cat([part[side] for part in parts]))
    for joined, *parts in zip(whole, *resident, strict=True):
        assert torch.allclose(joined[0], torch.cat([part[0] for part in parts]), atol=1e-3)


def test_alone_nothing_is_shared_out() -> None:
    images, alone = torch.rand(3, 1, 4, 4), Ranks()
    assert alone.gather(images) is images
    assert alone.own_part(images) is images
    alone.average([images])
    assert alone.any(True) is True
    assert alone.from_first([1]) == [1]


@pytest.mark.parametrize(("result", "threads"), [(None, 2), ("3", 4)])
def test_processes_share_the_threads_unless_told_how_many(
    monkeypatch: pytest.MonkeyPatch, result: str | None, threads: int
) -> None:
    place = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
    for name in place:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.delenv("OMP_NUM_THREADS")
    if result is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", result)
    ours, theirs = Pipe()
    torch.set_num_threads(4)  # what PyTorch made of the machine, or of what it was result
    try:
        distributed._run_rank(place, console.verbosity, theirs, torch.get_num_threads, (), {})
    finally:
        torch.set_num_threads(1)
    assert ours.recv() == threads


@pytest.mark.slow
def test_gradients_are_those_of_the_joined_batch(small_store: Store, tmp_path: Path) -> None:
    """After one step Adam's first moment is the gradient, times one minus its decay rate."""
    one = train(small_store, tmp_path / "one", settings(batch_size=4), device="cpu")
    options = {"settings": settings(batch_size=2), "device": "cpu"}
    two = launch(2, train, small_store.path, tmp_path / "two", **options)
    states = [checkpoint(run.path) for run in (one, two)]
    gradients = [
        [
            values["exp_avg"]
            for optimizer in state["optimizers"]
            for values in optimizer["state"].values()
        ]
        for state in states
    ]
    assert len(gradients[0]) == len(gradients[1]) > 40
    for joined, mean in zip(*gradients, strict=True):
        assert joined.abs().max() > 0
        assert torch.allclose(joined, mean, rtol=1e-3, atol=1e-4 * float(joined.abs().max()))
    for name in ("generators", "source_critic", "cycle", "adversarial"):
        assert one.rows[-1][name] == pytest.approx(two.rows[-1][name], rel=1e-4)
    pools = [state["pools"][0]["images"] for state in states]
    assert len(pools[0]) == len(pools[1]) == 3
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*pools, strict=True))


@pytest.mark.slow
def test_two_processes_resume_exactly(
    small_store: Store, tmp_path: Path, compare: SimpleNamespace
) -> None:
    wanted = settings(epochs=3, steps_per_epoch=2)
    whole = launch(2, train, small_store.path, tmp_path / "whole", settings=wanted, device="cpu")
    halves = tmp_path / "halves"
    first = wanted.changed({"stop_after_epochs": 1})
    launch(2, train, small_store.path, halves, settings=first, device="cpu")
    with pytest.raises(SettingsError, match="trained by 2 processes together, not by 1"):
        train(small_store, halves, resume=True, device="cpu")
    launch(2, train, small_store.path, halves, resume=True, device="cpu")
    assert compare.runs(whole.path, halves) == []


@pytest.mark.slow
def test_a_signal_ends_all_of_them(small_store: Store, tmp_path: Path) -> None:
    wanted = settings(epochs=10_000)
    run = tmp_path / "run"

    def ask_when_it_runs() -> None:
        while not (run / "checkpoints" / "last.ckpt").exists():
            if over.wait(0.05):
                return
        os.kill(os.getpid(), signal.SIGTERM)

    over = threading.Event()
    threading.Thread(target=ask_when_it_runs, daemon=True).start()
    with pytest.raises(Interrupted, match="stopped at step"):
        launch(2, train, small_store.path, run, settings=wanted, device="cpu")
    over.set()
    stopped = checkpoint(run)
    assert 0 < stopped["step"] == len(stopped["keeper"]["rows"]) < 10_000
