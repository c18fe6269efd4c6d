"""Cores that may be used, and threads that sleep while they wait."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mrbridge import threads
from mrbridge.threads import share_the_machine, usable_cores

OURS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A machine of 16 cores with the files of the kernel that a test gives."""
    monkeypatch.setattr(threads, "_by_affinity", lambda: 16)

    def make(**files: str) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


V1 = "4:memory:/a\n3:cpu,cpuacct:/docker/1\n"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 16),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 16),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "20000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "3200000 100000\n"}, 16),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "broken"}, 16),
        ({"proc/self/cgroup": "broken", "sys/fs/cgroup/cpu.max": "100000 100000"}, 16),
        # The tightest of a group and those above it counts.
        (
            {
                "proc/self/cgroup": "0::/user.slice/job\n",
                "sys/fs/cgroup/user.slice/cpu.max": "300000 100000",
                "sys/fs/cgroup/user.slice/job/cpu.max": "max 100000",
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/docker/1/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu/docker/1/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        (  # within a container, whose own group is mounted as the top
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "500000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            5,
        ),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            16,
        ),
    ],
)
def test_quotas_of_containers(
    files: dict[str, str], cores: int, machine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = machine(**files)
    assert usable_cores(root) == cores
    monkeypatch.setattr(os, "environ", {"HOME": "/"})
    share_the_machine(root)
    count = os.environ.get("OMP_NUM_THREADS")
    assert count == (None if cores == 16 else str(cores)), "OpenMP counts the cores by itself"
    assert not threads.is_count_given()
    os.environ["OMP_NUM_THREADS"] = "7"
    share_the_machine(root)
    assert os.environ["OMP_NUM_THREADS"] == "7"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_affinity() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def environment_after(code: str, **given: str) -> dict[str, str | None]:
    """What a process of its own, started with some variables, prints of its environment."""
    clean = {name: value for name, value in os.environ.items() if name not in OURS}
    environment = {**clean, **given, "PYTHONPATH": os.pathsep.join([*sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    variables: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    return variables


@pytest.mark.parametrize("module", ["cli", "bids_app"])
@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({}, {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}),
        *(
            (user, dict.fromkeys(("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")) | user)
            for user in (
                {"OMP_WAIT_POLICY": "active"},
                {"GOMP_SPINCOUNT": "5"},
                {"KMP_BLOCKTIME": "0"},
            )
        ),
    ],
)
def test_threads_soon_sleep_unless_the_user_chooses_otherwise(
    module: str, given: dict[str, str], chosen: dict[str, str | None]
) -> None:
    """Before PyTorch is loaded: its OpenMP reads the environment then."""
    code = f"""
import json, os, sys
from mrbridge import cli, {module} as program
def verb(arguments, program=None):
    variables = {{name: os.environ.get(name) for name in {OURS}}}
    print(json.dumps(variables | {{"torch": str("torch" in sys.modules)}}))
    return 0
cli._run = verb
program.main([])
"""
    variables = environment_after(code, **given)
    assert {name: variables[name] for name in chosen} == chosen
    assert variables["torch"] == "False"


def environment_of(_: int) -> dict[str, str]:
    """The environment of a worker process, from the kernel if it shows it."""
    return {name: os.environ[name] for name in OURS if name in os.environ}


@pytest.mark.parametrize("policy", [None, "active"])
def test_workers_let_threads_sleep_too(policy: str | None) -> None:
    code = """
import json
from mrbridge.parallel import map_scans
from tests.test_threads import environment_of
if __name__ == "__main__":
    outcomes = map_scans(environment_of, [1, 2], workers=2, label="x", imports=["numpy"])
    print(json.dumps([result for _, result in outcomes][0]))
"""
    variables = environment_after(code, **({} if policy is None else {"OMP_WAIT_POLICY": policy}))
    assert variables["OMP_WAIT_POLICY"] == (policy or "passive")
    assert variables["OMP_NUM_THREADS"] == "1"


def test_processes_that_train_together_soon_sleep_too() -> None:
    """They are started with it, and the process that starts them keeps its own environment."""
    code = """
import json, multiprocessing, os
from mrbridge import errors
from mrbridge.training import distributed

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    started = []
    def start(self):
        started.append(os.environ.get("OMP_WAIT_POLICY"))
        raise errors.InputError("enough")
    context.Process.start = start
    try:
        distributed.launch(2, print)
    except errors.InputError:
        pass
    states = {"started": started[0], "after": os.environ.get("OMP_WAIT_POLICY")}
    print(json.dumps(states))
"""
    assert environment_after(code) == {"started": "passive", "after": None}


def test_threads_share_one_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one thread restores, another one neither misses nor loses."""
    for name in OURS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTHER", "")
    monkeypatch.delenv("OTHER")

    def again() -> str | None:
        with threads.sharing_the_machine():
            return os.environ.get("OMP_WAIT_POLICY")

    with ThreadPoolExecutor(1) as pool:
        with threads.sharing_the_machine():
            os.environ["OTHER"] = "of another thread"
            assert again() == "passive"
            waiting = pool.submit(again)
            with pytest.raises(TimeoutError):
                waiting.result(0.05)
        assert waiting.result(5) == "passive"
    assert "OMP_WAIT_POLICY" not in os.environ
    assert os.environ["OTHER"] == "of another thread"
