"""No process of mrbridge imports Python files from a folder of data."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydicom.uid import JPEGLSLossless
from tests import studies
from tests.io.test_dicom_read import compress
from tests.training.small import SMALL_RESNET

from mrbridge.dataset.store import Store

GOLDEN = Path(__file__).parents[1] / "data" / "golden-bundle"
MRBRIDGE = [str(Path(sys.executable).with_name("mrbridge"))]
MODULES = (
    *("json", "numpy", "dl", "zarr", "torch", "pydicom", "multiprocessing", "typing", "yaml"),
    *("importlib", "struct", "gdcm", "readline", "sitecustomize", "usercustomize", "mrbridge"),
)
TRAP = "import os\nopen(os.environ['SPRUNG'], 'a').write(__name__ + ' ')\n"


@pytest.fixture
def sprung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that appears when code of the folder `data` runs."""
    data = tmp_path / "data"
    data.mkdir()
    for name in MODULES:
        (data / f"{name}.py").write_text(TRAP)
    monkeypatch.setenv("SPRUNG", str(tmp_path / "sprung"))
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return tmp_path / "sprung"


def run(folder: Path, *arguments: Any, command: list[str] = MRBRIDGE) -> str:
    """A command line in a folder, which must end well."""
    done = subprocess.run(
        [*command, *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_the_traps_work(sprung: Path) -> None:
    code = "import json"
    subprocess.run([sys.executable, "-c", code], cwd=sprung.with_name("data"), check=True)
    assert sprung.read_text().split() == ["json"]


@pytest.mark.parametrize("command", [MRBRIDGE, [sys.executable, "-m", "mrbridge"]])
def test_decoders(sprung: Path, command: list[str]) -> None:
    data = sprung.with_name("data")
    if command != MRBRIDGE:  # what Python finds before mrbridge runs is Python's
        for name in ("mrbridge", "importlib", "typing", "sitecustomize", "usercustomize"):
            (data / f"{name}.py").unlink()
    for path in studies.write_series(data / "study", **studies.T1W):
        compress(path, JPEGLSLossless)
    run(data, "translate", "-i", "study", "-o", "../out", "-m", GOLDEN, command=command)
    assert list((data / "../out").glob("*.dcm"))
    assert not sprung.exists(), sprung.read_text()


def test_worker_processes(sprung: Path, bids_scans: Path) -> None:
    data = sprung.with_name("data")
    shutil.copytree(bids_scans, data, dirs_exist_ok=True)
    run(data, "translate", "-i", ".", "-o", "../out", "-m", GOLDEN, "--workers", "2")
    assert not sprung.exists(), sprung.read_text()


def test_processes_that_train_together(sprung: Path, small_store: Store) -> None:
    data = sprung.with_name("data")
    (data / "small.yaml").write_text(yaml.safe_dump(SMALL_RESNET | {"epochs": 1}))
    options = ["--preset", "resnet", "--config", "small.yaml", "--device", "cpu"]
    run(data, "train", small_store.path, "-o", "../run", *options, "--devices", "2")
    assert (sprung.with_name("run") / "bundle" / "bundle.json").is_file()
    assert not sprung.exists(), sprung.read_text()


def test_processes_of_a_script(sprung: Path, bids_scans: Path) -> None:
    data = sprung.with_name("data")
    script = sprung.with_name("script.py")
    script.write_text(
        "import sys, os\nimport mrbridge\n"
        "if __name__ == '__main__':\n"
        "    mrbridge.prepare(sys.argv[1], '../store', workers=2)\n"
        "    assert 'PYTHONSAFEPATH' not in os.environ\n"
    )
    run(data, bids_scans, command=[sys.executable, str(script)])
    assert not sprung.exists(), sprung.read_text()
