"""One thing to many scans on a Dask cluster of two workers on this machine, some of them killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mrbridge.dataset.prepare import prepare
from mrbridge.errors import InputError, MrbridgeError, MrbridgeWarning, SettingsError
from mrbridge.inspection.inspect import inspect
from mrbridge.parallel import cluster, map_scans, reachable

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A scheduler and two workers, each a process of one thread, only on 127.0.0.1."""
    import dask

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),  # to die twice is enough
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as made,
    ):
        yield made.scheduler_address


def work(number: int) -> int:
    if number == 3:
        raise InputError("is three", path="three.nii", remedy="Take four.")
    if number == 4:
        warnings.warn("four.nii: is even", MrbridgeWarning, stacklevel=1)
    return number * number


def broken(number: int) -> int:
    return number // 0


def fails_once(mark: Path, number: int) -> int:
    with mark.open("a") as tries:
        tries.write(f"{os.getpid()}\n")
    if len(mark.read_text().split()) == 1:
        raise InputError("is not on this machine")
    return number


def dies_once(mark: Path, number: int) -> int:
    time.sleep(0.05)
    if number == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def dies_of_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return number


def test_results_in_order_with_errors_and_warnings(address: str) -> None:
    with pytest.warns(MrbridgeWarning, match=r"four\.nii: is even"):
        outcomes = list(map_scans(work, range(20), workers=address, label="Working"))
    assert [item for item, _ in outcomes] == list(range(20))
    error = outcomes.pop(3)[1]
    assert str(error) == "three.nii: is three. Take four."
    assert all(result == item * item for item, result in outcomes)


def test_an_unforeseen_exception_is_the_error_of_its_item(address: str) -> None:
    outcomes = list(map_scans(broken, [1, 2], workers=address, label="Working"))
    assert all("(ZeroDivisionError)" in str(error) for _, error in outcomes)


def test_what_fails_is_tried_by_another_worker(address: str, tmp_path: Path) -> None:
    tries = partial(fails_once, tmp_path / "tries")
    assert list(map_scans(tries, [7], workers=address, label="Working")) == [(7, 7)]
    processes = (tmp_path / "tries").read_text().split()
    assert len(processes) == len(set(processes)) == 2


def test_a_worker_killed_once_changes_nothing(address: str, tmp_path: Path) -> None:
    dies = partial(dies_once, tmp_path / "died")
    outcomes = list(map_scans(dies, range(12), workers=address, label="Working"))
    assert outcomes == [(number, number * number) for number in range(12)]
    assert (tmp_path / "died").exists()


@pytest.mark.slow
def test_what_kills_every_worker_is_reported_and_the_others_are_done(address: str) -> None:
    outcomes = list(map_scans(dies_of_three, range(6), workers=address, label="Working"))
    killed = outcomes.pop(3)[1]
    assert isinstance(killed, MrbridgeError)
    assert "several workers were killed" in killed.what
    assert outcomes == [(number, number) for number in (0, 1, 2, 4, 5)]


def test_a_store_is_the_same_though_a_worker_is_killed(
    address: str, bids_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(bids_scans, tmp_path / "serial")
    with distributed.Client(address, set_as_default=False) as client:
        processes = client.run(os.getpid)

    def kill_when_one_is_done() -> None:
        while not list((tmp_path / "shared").glob("scans/sub-*")):
            time.sleep(0.005)
        os.kill(min(processes.values()), signal.SIGKILL)

    killer = threading.Thread(target=kill_when_one_is_done)
    killer.start()
    monkeypatch.chdir(bids_scans)  # paths are made absolute before they are sent
    out = Path(os.path.relpath(tmp_path / "shared"))
    prepare(Path("."), out, workers=address)
    killer.join()
    assert files(tmp_path / "shared") == files(tmp_path / "serial")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("shared/scans/*")}
    prepare(Path("."), out, workers=address)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "done again"


def test_an_inspection_is_the_same_though_a_worker_is_killed(
    address: str, picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(picture_folder)  # paths are made absolute before they are sent
    for crew in (1, 2):
        inspect(Path("."), tmp_path / str(crew) / "page.html", workers=crew)
    with distributed.Client(address, set_as_default=False) as client:
        victims = list(client.run(os.getpid).values())[:1]

    def killing(*given: Any, **named: Any) -> Iterator[Any]:
        for outcome in map_scans(*given, **named):
            while victims:  # others are in its hands
                os.kill(victims.pop(), signal.SIGKILL)
            yield outcome

    monkeypatch.setattr("mrbridge.parallel.map_scans", killing)
    inspect(Path("."), tmp_path / "dask" / "page.html", workers=address)
    assert not victims
    page = (tmp_path / "1" / "page.html").read_text()
    assert "undeclared pairs" in page  # whose scans are read twice
    assert set(files(tmp_path / "1")) == {"page.html", "page.findings.json"}
    assert files(tmp_path / "1") == files(tmp_path / "2") == files(tmp_path / "dask")


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "REACH_SECONDS", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        unused = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(SettingsError, match="no Dask scheduler answers at tcp"):
            list(map_scans(work, [1], workers=unused, label="Working"))


def test_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "WORKERLESS_SECONDS", 0.5)
    options = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with (
        distributed.LocalCluster(n_workers=0, **options) as empty,
        pytest.raises(SettingsError, match="has no workers"),
    ):
        list(map_scans(work, [1], workers=empty.scheduler_address, label="Working"))


@pytest.mark.parametrize("theirs", ["0.0.1", ModuleNotFoundError()])
def test_workers_with_another_mrbridge(
    address: str, theirs: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed.Client, "run", lambda *_, **__: {"tcp://there:1": theirs})
    with pytest.raises(SettingsError, match="the Dask worker tcp://there:1 has"):
        list(map_scans(work, [1], workers=address, label="Working"))


def test_dask_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="needs distributed"):
        list(map_scans(work, [1], workers="tcp://127.0.0.1:1", label="Working"))


def test_only_a_cluster_wants_absolute_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert reachable("bids", 2) == "bids"
    assert reachable("bids", "tcp://there:1") == Path("/bids")
    assert reachable(["a", Path("/b")], "tcp://there:1") == [Path("/a"), Path("/b")]
    assert reachable(None, "tcp://there:1") is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_workers_keep_freed_memory() -> None:
    code = """
import resource
import numpy as np
from mrbridge.parallel import cluster

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(1_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
cluster.keep_some_memory()
faults()
after = faults()
assert after < before / 5, (before, after)
"""
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536"}  # of Dask's nanny
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
