"""Processes of `torchrun` on the CPU train like one process with their joined batch."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from tests.training.small import SMALL_RESNET

from mrbridge import console
from mrbridge.dataset import loader
from mrbridge.dataset.loader import batches_from
from mrbridge.dataset.sampling import UnpairedSlices
from mrbridge.dataset.store import Store
from mrbridge.errors import Interrupted, SettingsError
from mrbridge.training import distributed
from mrbridge.training.checkpoint import load_checkpoint
from mrbridge.training.distributed import Ranks, launch
from mrbridge.training.run import train
from mrbridge.training.settings import resolve

SMALL = SMALL_RESNET | {"steps_per_epoch": 1, "pool_size": 3, "batch_size": 2}
"""The losses of CycleGAN and a pool that is soon full. No dropout and no back-translation: each
process draws its own random numbers for them."""

SECONDS = 900
"""Half a minute on an idle machine; others may share it."""


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def torchrun(small_store: Store) -> Iterator[Callable[..., list[subprocess.Popen[str]]]]:
    """Start a training: `torchrun(run, *options, nodes=1, each=2, **settings)`.

    `nodes` is the number of machines (all of them 127.0.0.1), `each` that of processes on each.
    """
    started: list[subprocess.Popen[str]] = []

    def start(
        run: Path, *options: str, nodes: int = 1, each: int = 2, **changes: Any
    ) -> list[subprocess.Popen[str]]:
        if "--resume" not in options:
            config = run.with_suffix(".yaml")
            config.write_text(yaml.safe_dump(SMALL | changes))
            options = (*options, "--preset", "resnet", "--config", str(config))
        place = ["--standalone"]
        if nodes > 1:
            place = [
                *("--rdzv-backend", "c10d", "--rdzv-id", run.name, "--local-addr", "127.0.0.1"),
                *("--rdzv-endpoint", f"127.0.0.1:{free_port()}"),
            ]
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes", str(nodes)),
            *("--nproc-per-node", str(each), *place, "-m", "mrbridge", "train"),
            *(str(small_store.path), "-o", str(run), "--device", "cpu", "--json", *options),
        ]
        env = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        these = [subprocess.Popen(command, env=env, **pipes) for _ in range(nodes)]
        started.extend(these)
        return these

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait(processes: list[subprocess.Popen[str]]) -> list[Ended]:
    """Wait for each machine's `torchrun`."""
    outputs = [process.communicate(timeout=SECONDS) for process in processes]
    return [Ended(p.returncode, *texts) for p, texts in zip(processes, outputs, strict=True)]


def finish(processes: list[subprocess.Popen[str]]) -> list[Ended]:
    """Wait for trainings that succeed."""
    ended = wait(processes)
    assert [one.code for one in ended] == [0] * len(ended), ended[0].err
    return ended


def checkpoint(run: Path) -> dict[str, Any]:
    return load_checkpoint(run / "checkpoints" / "last.ckpt")


def test_parts_of_a_step_are_the_joined_batch(
    small_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = UnpairedSlices(small_store, 32, 0)
    whole = list(batches_from(data, 4, 3, 5))
    shares = [list(batches_from(data, 2, 3, 5, share=(n, 2))) for n in (0, 1)]
    monkeypatch.setattr(loader, "fits", lambda *_: True)  # as if on a GPU
    resident = [list(batches_from(data, 2, 3, 5, share=(n, 2))) for n in (0, 1)]
    for joined, *parts in zip(whole, *shares, strict=True):
        for side in (0, 1):
            assert torch.equal(joined[side], torch.cat([part[side] for part in parts]))
    for joined, *parts in zip(whole, *resident, strict=True):
        assert torch.allclose(joined[0], torch.cat([part[0] for part in parts]), atol=1e-3)


def test_a_single_process_keeps_its_own_values() -> None:
    images, ranks = torch.rand(3, 1, 4, 4), Ranks()
    before = images.clone()
    assert ranks.gather(images) is images
    assert ranks.own_part(images) is images
    ranks.average([images])
    assert torch.equal(images, before)
    assert ranks.any(True) is True
    assert ranks.from_first(1 / 3, True) == [1 / 3, 1]


@pytest.mark.slow
def test_gradients_are_those_of_the_joined_batch(
    small_store: Store, tmp_path: Path, torchrun: Callable[..., Any]
) -> None:
    """After one step Adam's first moment is the gradient, times one minus its decay rate."""
    settings = resolve({"preset": "resnet"}, SMALL, {"batch_size": 4})
    one = train(small_store, tmp_path / "one", settings, device="cpu").path
    finish(torchrun(tmp_path / "two"))
    states = [checkpoint(one), checkpoint(tmp_path / "two")]
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
    rows = [state["keeper"]["rows"][-1] for state in states]
    for name in ("generators", "source_critic", "cycle", "adversarial"):
        assert rows[0][name] == pytest.approx(rows[1][name], rel=1e-4)
    pools = [state["pools"][0]["images"] for state in states]
    assert len(pools[0]) == len(pools[1]) == 3
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*pools, strict=True))


@pytest.mark.slow
def test_two_machines_with_one_process_train_like_one_with_two(
    tmp_path: Path, compare: SimpleNamespace, torchrun: Callable[..., Any]
) -> None:
    finish(torchrun(tmp_path / "one", steps_per_epoch=2))
    ended = finish(torchrun(tmp_path / "two", nodes=2, each=1, steps_per_epoch=2))
    lines = [line for one in ended for line in one.out.splitlines() if line]
    assert len(lines) == 1, "only the first process prints a result"
    assert json.loads(lines[0])["path"] == str(tmp_path / "two")
    assert compare.runs(tmp_path / "one", tmp_path / "two") == []


@pytest.mark.slow
def test_two_processes_resume_exactly(
    small_store: Store, tmp_path: Path, compare: SimpleNamespace, torchrun: Callable[..., Any]
) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    settings = {"epochs": 3, "steps_per_epoch": 2}
    finish(torchrun(whole, **settings))
    finish(torchrun(halves, **settings, stop_after_epochs=1))
    with pytest.raises(SettingsError, match="trained by 2 processes together, not by 1"):
        train(small_store, halves, resume=True, device="cpu")
    finish(torchrun(halves, "--resume"))
    assert compare.runs(whole, halves) == []


@pytest.mark.slow
def test_a_signal_stops_all_processes_after_the_same_step(
    tmp_path: Path, torchrun: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    (process,) = torchrun(run, epochs=10_000)
    deadline = time.monotonic() + SECONDS
    while not (run / "metrics.csv").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    (ended,) = wait([process])
    assert ended.code != 0
    assert "stopped at step" in ended.err
    stopped = checkpoint(run)
    assert stopped["step"] == len(stopped["keeper"]["rows"]) < 10_000


@pytest.mark.slow
def test_only_the_first_process_reports_an_error(
    tmp_path: Path, torchrun: Callable[..., Any]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    (ended,) = wait(torchrun(tmp_path / "run"))
    assert ended.code != 0
    assert ended.err.count("is not empty. Name a new folder") == 1


@pytest.mark.parametrize(("result", "threads"), [(None, 2), ("3", 4)])
def test_processes_share_the_threads_unless_the_user_sets_their_number(
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
    monkeypatch.setattr(os, "_exit", lambda code: None)
    torch.set_num_threads(4)  # the choice of PyTorch
    try:
        distributed._run_rank(place, console.verbosity, theirs, torch.get_num_threads, (), {})
    finally:
        torch.set_num_threads(1)
    assert ours.recv() == threads


@pytest.mark.slow
def test_a_signal_ends_all_processes_of_devices(small_store: Store, tmp_path: Path) -> None:
    wanted = resolve({"preset": "resnet"}, SMALL, {"epochs": 10_000})
    run = tmp_path / "run"

    def stop_when_it_runs() -> None:
        while not (run / "metrics.csv").exists():  # written after an epoch
            if over.wait(0.05):
                return
        os.kill(os.getpid(), signal.SIGTERM)

    over = threading.Event()
    threading.Thread(target=stop_when_it_runs, daemon=True).start()
    with pytest.raises(Interrupted, match=r"stopped (at step|before the first step)"):
        launch(2, train, small_store.path, run, settings=wanted, device="cpu")
    over.set()
    stopped = checkpoint(run)
    assert 0 < stopped["step"] == len(stopped["keeper"]["rows"]) < 10_000


def stopped_late() -> None:
    """The first process stops at a step; the signal kills the second one."""
    if os.environ["RANK"] == "0":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(3)
        raise Interrupted("stopped at step 3")
    time.sleep(1)  # the first process has started, too
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)


@pytest.mark.slow
def test_a_process_killed_by_the_signal_does_not_hide_where_the_first_one_stopped() -> None:
    with pytest.raises(Interrupted, match="stopped at step 3"):
        launch(2, stopped_late)
