"""Only `download` opens a connection, and no verb stores an identifier."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.training.small import SMALL_RESNET

from mrbridge.cli import VERBS
from mrbridge.dataset.store import Store

GOLDEN = Path(__file__).parents[1] / "data" / "golden-bundle"
_HERE = re.compile(r'sa_family=AF_(UNIX|NETLINK|LOCAL|UNSPEC)|"127\.0\.0\.\d+"|"::1"')


def can_trace() -> bool:
    """Whether system calls can be listed: containers may forbid it."""
    program = shutil.which("strace")
    return program is not None and not subprocess.run([program, "-o/dev/null", "true"]).returncode


pytestmark = pytest.mark.skipif(not can_trace(), reason="strace is not here, or may not trace")


@pytest.fixture
def traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command line under strace: gives what it sent to other machines."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    (tmp_path / "home").mkdir()

    def run(*arguments: Any, command: tuple[str, ...] | None = None) -> list[str]:
        ours = (str(Path(sys.executable).with_name("mrbridge")), *map(str, arguments))
        log = tmp_path / "calls"
        calls = "trace=connect,sendto,sendmsg,sendmmsg"
        done = subprocess.run(
            ["strace", "-f", "--seccomp-bpf", "-e", calls, "-o", log, *(command or ours)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        lines = log.read_text(errors="replace").splitlines()
        return [line for line in lines if "sa_family" in line and not _HERE.search(line)]

    return run


def test_a_connection_is_seen(traced: Any) -> None:
    code = "import socket; socket.socket(type=socket.SOCK_DGRAM).connect(('192.0.2.1', 9))"
    assert "192.0.2.1" in str(traced(command=(sys.executable, "-c", code)))


def test_translate(traced: Any, bids_scans: Path, tmp_path: Path) -> None:
    scan = bids_scans / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    command = ["translate", "-i", scan, "-o", tmp_path / "o.nii.gz", "-m", GOLDEN]
    assert not traced(*command)
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]


@pytest.mark.slow
def test_prepare_and_inspect(traced: Any, bids_scans: Path, tmp_path: Path) -> None:
    assert not traced("prepare", bids_scans, "-o", tmp_path / "store", "--workers", "2")
    assert not traced("inspect", bids_scans, "-o", tmp_path / "page.html")


@pytest.mark.slow
def test_train(traced: Any, small_store: Store, tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump(SMALL_RESNET | {"epochs": 1}))
    options = ["--preset", "resnet", "--config", config, "--device", "cpu"]
    assert not traced("train", small_store.path, "-o", tmp_path / "run", *options)


@pytest.mark.slow
def test_tune(traced: Any, small_store: Store, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    config = tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump(SMALL_RESNET | {"epochs": 1}))
    options = ["--preset", "resnet", "--config", config, "--trials", "1", "--minutes", "0.001"]
    assert not traced("tune", small_store.path, "-o", tmp_path / "search", *options)


@pytest.mark.slow
def test_benchmark(traced: Any, small_store: Store, tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump({"preset": "resnet"} | SMALL_RESNET))
    options = ["--arms", config, "--seeds", "1", "--minutes", "0.01"]
    assert not traced("benchmark", small_store.path, "-o", tmp_path / "scores", *options)


@pytest.mark.slow
def test_phantom(traced: Any, tmp_path: Path) -> None:
    options = ["--subjects", "1", "--set", "spacing_mm=8", "--workers", "2"]
    assert not traced("phantom", "-o", tmp_path / "phantom", *options)


@pytest.mark.slow
def test_export(traced: Any, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    assert not traced("export", "-m", GOLDEN, "-o", tmp_path / "exported")


@pytest.mark.slow
def test_bids_app(traced: Any, bids_scans: Path, tmp_path: Path) -> None:
    program = str(Path(sys.executable).with_name("mrbridge_bids"))
    for level in ("participant", "group"):
        command = (program, str(bids_scans), str(tmp_path / "out"), level, "--model", str(GOLDEN))
        assert not traced(command=command)


@pytest.mark.nightly
def test_demo(traced: Any, tmp_path: Path) -> None:
    assert not traced("demo", "-o", tmp_path / "demo", "--minutes", "0.2")


def test_every_verb_is_here() -> None:
    """Those of the page have their own test in a browser (`tests/web/test_browser.py`)."""
    text = Path(__file__).read_text(encoding="utf-8")
    names = {verb.__name__ for verb in VERBS if f'"{verb.__name__}"' not in text}
    assert names <= {"serve", "view"}


@pytest.mark.slow
def test_evaluate_and_info(traced: Any, bids_scans: Path, tmp_path: Path) -> None:
    command = ["evaluate", "-m", GOLDEN, "--pairs", bids_scans, "-o", tmp_path / "scores"]
    assert not traced(*command)
    assert not traced("info", GOLDEN)
    assert not traced("doctor")
