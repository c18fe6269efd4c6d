"""`torchrun`, on one machine and on two (here both 127.0.0.1), trains what `--devices` trains."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from tests.training.small import SMALL_RESNET

from mrbridge.dataset.store import Store
from mrbridge.training.distributed import launch
from mrbridge.training.run import train
from mrbridge.training.settings import TrainSettings, resolve

SMALL = SMALL_RESNET | {"steps_per_epoch": 2}
SECONDS = 900
"""Half a minute on an idle machine; others may share it."""


def settings(**changes: Any) -> TrainSettings:
    return resolve("resnet", SMALL, changes)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def torchrun(
    nodes: int, each: int, store: Path, run: Path, **changes: Any
) -> list[subprocess.Popen[str]]:
    """Start a training on that many machines, with that many processes each."""
    config = run.parent / f"{run.name}.yaml"
    config.write_text(yaml.safe_dump(SMALL | changes))
    place = ["--standalone"]
    if nodes > 1:
        place = [
            *("--rdzv-backend", "c10d", "--rdzv-id", run.name, "--local-addr", "127.0.0.1"),
            *("--rdzv-endpoint", f"127.0.0.1:{free_port()}"),
        ]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", str(nodes)),
        *("--nproc-per-node", str(each), *place, "-m", "mrbridge"),
        *("train", str(store), "-o", str(run), "--preset", "resnet", "--config", str(config)),
        *("--device", "cpu", "--json"),
    ]
    env = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [subprocess.Popen(command, env=env, **pipes) for _ in range(nodes)]


def ended(started: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit codes, answers and words of each machine's `torchrun`."""
    result = []
    try:
        for process in started:
            out, err = process.communicate(timeout=SECONDS)
            result.append((process.returncode, out, err))
    finally:
        for process in started:
            process.kill()
    return result


@pytest.mark.slow
@pytest.mark.parametrize(("nodes", "each"), [(1, 2), (2, 1)])
def test_it_trains_what_devices_train(
    small_store: Store, tmp_path: Path, compare: SimpleNamespace, nodes: int, each: int
) -> None:
    wanted = launch(
        2, train, small_store.path, tmp_path / "wanted", settings=settings(), device="cpu"
    )
    result = ended(torchrun(nodes, each, small_store.path, tmp_path / "run"))
    assert [code for code, _, _ in result] == [0] * nodes, result[0][2]
    lines = [line for _, out, _ in result for line in out.splitlines() if line]
    assert len(lines) == 1  # only the first process answers
    assert json.loads(lines[0])["path"] == str(tmp_path / "run")
    assert compare.runs(wanted.path, tmp_path / "run") == []


@pytest.mark.slow
def test_what_is_wrong_is_told_once_by_the_first(small_store: Store, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("of somebody")
    result = ended(torchrun(1, 2, small_store.path, tmp_path / "run"))
    assert result[0][0] != 0
    assert result[0][2].count("is not empty. Name a new folder") == 1
