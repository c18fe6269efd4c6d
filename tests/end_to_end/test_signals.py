"""SIGINT and SIGTERM to real commands: exit code 3, one line, and what was finished is recorded."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from tests import studies

from mrbridge import io

GOLDEN = Path(__file__).parents[1] / "data" / "golden-bundle"
MANY = 150
PATIENCE = 60

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

Begun = Callable[[int], bool]


def loaded(library: str) -> Begun:
    """A library is being imported."""

    def begun(pid: int) -> bool:
        return library in Path(f"/proc/{pid}/maps").read_text()

    return begun


def there(pattern: str, least: int = 1) -> Begun:
    """So many files are written: with several workers the first is not yet known to be done."""
    return lambda _: len(list(Path().glob(pattern))) >= least


@dataclass
class Command:
    """A command line, when to send the signal, and where it reports what was done."""

    arguments: list[str]
    begun: Begun
    report: str | None = None
    module: str = "mrbridge"
    counts: str | None = None
    allowed: list[str] = field(default_factory=list)

    def start(self, *more: str) -> subprocess.Popen[str]:
        """Start it, in a group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", self.module, *self.arguments, "-q", "--json", *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # What runs in the background of a shell inherits that it ignores SIGINT.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def wait(self, process: subprocess.Popen[str]) -> None:
        """Wait until it has begun its work."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError):
                if self.begun(process.pid):
                    return
            time.sleep(0.01)
        raise AssertionError(f"it has not begun: {process.communicate()}")

    def interrupt(self, number: signal.Signals) -> None:
        """Start it, send the signal once it has begun, and check how it ends."""
        with self.start() as process:
            self.wait(process)
            process.send_signal(number)
            out, err = process.communicate(timeout=PATIENCE)
        check(self, process.returncode, out, err)


MODEL = ["-m", str(GOLDEN), "--device", "cpu"]
TINY = ["--set", "networks.image_size=64", "--set", "simulated_subjects=40"]
TRAIN = ["train", "store", "-o", "run", "--from", "scratch", "--device", "cpu", *TINY]
SEARCH = ["--from", "scratch", "--device", "cpu", *TINY]
ARMS = ["--arms", "resnet", "bridge", "--minutes", "5"]
COMMANDS = {
    "translate a file": Command(
        ["translate", "-i", "scans/sub-001_T1w.nii.gz", "-o", "x.nii.gz", *MODEL],
        loaded("libtorch"),
    ),
    "translate a folder": Command(
        ["translate", "-i", "scans", "-o", "out", *MODEL],
        there("out/*.nii.gz", 3),
        "out/report.json",
        counts="outputs",
    ),
    "translate BIDS": Command(
        ["translate", "-i", "bids", "-o", "out", *MODEL, "--workers", "2"],
        there("out/sub-*/anat/*.nii.gz", 6),
        "out/report.json",
        counts="outputs",
    ),
    "translate DICOM": Command(
        ["translate", "-i", "study", "-o", "out", *MODEL], loaded("libtorch")
    ),
    "BIDS App": Command(
        ["bids", "out", "participant", *MODEL],
        there("out/sub-*/anat/*.nii.gz", 3),
        "out/report.json",
        module="mrbridge.bids_app",
        counts="outputs",
    ),
    "prepare": Command(
        ["prepare", "scans", "-o", "out"],
        there("out/scans/[!.]*.zarr", 3),
        "out/report.json",
        counts="done",
    ),
    "prepare with workers": Command(
        ["prepare", "scans", "-o", "out", "--workers", "2"],
        there("out/scans/[!.]*.zarr", 6),
        "out/report.json",
        counts="done",
    ),
    "evaluate": Command(
        ["evaluate", "--real", "real", "--synthetic", "made", "-o", "out"],
        there("out/figures/[!.]*.png", 4),
        "out/report.json",
        counts="done",
    ),
    "inspect headers": Command(["inspect", "scans"], loaded("_imaging")),
    "inspect": Command(["inspect", "scans", "-o", "x.html"], loaded("_nd_image")),
    "phantom": Command(["phantom", "-o", "out", "--subjects", "8"], there(".~*")),
    "demo": Command(["demo", "-o", "out", "--minutes", "5"], there("out/.~*")),
    "export": Command(["export", "-m", str(GOLDEN), "-o", "out"], loaded("libtorch")),
    "train": Command(TRAIN, there("run/settings.yaml")),
    "benchmark": Command(
        ["benchmark", "store", "-o", "out", *ARMS, *SEARCH],
        there("out/runs/*/*/settings.yaml"),
    ),
    "tune": Command(["tune", "store", "-o", "out", *SEARCH], there("out/trials/*/settings.yaml")),
    "train together": Command([*TRAIN, "--devices", "2"], there("run/settings.yaml")),
}
QUICK = ("translate a folder", "prepare with workers", "train")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, make_scan: Any) -> Path:
    """Many scans in a folder and in a BIDS dataset, a DICOM study and a store."""
    from mrbridge.dataset.prepare import prepare

    root = tmp_path_factory.mktemp("signals")
    for contrast in ("T1w", "T2w"):
        first = io.write(make_scan(1, contrast, shape=(64, 64, 40)), root / f"{contrast}.nii.gz")
        for number in range(1, MANY + 1):
            name = f"sub-{number:03}_{contrast}.nii.gz"
            places = [
                "scans",
                f"bids/sub-{number:03}/anat",
                "real" if contrast == "T1w" else "made",
            ]
            for folder in places:
                path = (
                    root / folder / (f"{number:03}.nii.gz" if folder in ("real", "made") else name)
                )
                path.parent.mkdir(parents=True, exist_ok=True)
                os.link(first, path)
    (root / "bids" / "dataset_description.json").write_text('{"Name": "n", "BIDSVersion": "1.10"}')
    small = root / "small"
    for number in range(1, 5):
        for contrast in ("T1w", "T2w"):
            io.write(make_scan(number, contrast), small / f"sub-0{number}_{contrast}.nii.gz")
    prepare(small, root / "store")
    studies.write_series(root / "study")
    return root


@pytest.fixture
def _beside(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory with links to the inputs."""
    for path in inputs.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)


def check(command: Command, code: int, out: str, err: str) -> None:
    """Whether a command ended as it should."""
    assert code == 3, (code, out, err)
    assert err.count("\n") == 1, err
    assert err.startswith("error: ")
    assert "interrupted" in err or "stopped" in err
    answer = json.loads(out)
    assert answer["interrupted"] is True
    assert answer["exit_code"] == 3
    left = [path for path in Path().rglob(".~*") if path.is_file()]
    assert left == []
    if command.report is not None:
        report = json.loads(Path(command.report).read_text())
        assert report["interrupted"] is True
        assert 0 < len(report["done"]) < MANY
        assert command.counts is not None
        counted = answer[command.counts]
        assert (counted if isinstance(counted, int) else len(counted)) == len(report["done"])


def parameters() -> list[Any]:
    """All commands; the signals, which have one handler, take turns."""
    return [
        pytest.param(
            *(name, number),
            marks=() if name in QUICK else pytest.mark.slow,
            id=f"{name}-{number.name}",
        )
        for name, number in zip(COMMANDS, cycle((signal.SIGTERM, signal.SIGINT)), strict=False)
    ]


@pytest.mark.usefixtures("_beside")
@pytest.mark.parametrize(("name", "number"), parameters())
def test_a_signal_ends_it(name: str, number: signal.Signals) -> None:
    COMMANDS[name].interrupt(number)


def test_a_signal_within_exec_of_a_string(tmp_path: Path) -> None:
    """As while a dataclass is made: Python remembers it, and `python -m` would end by SIGINT."""
    (tmp_path / "program.py").write_text(
        "from mrbridge import cli\n"
        "cli.app = lambda **_: exec('raise KeyboardInterrupt')\n"
        "cli.main([])\n"
    )
    run = [sys.executable, "-m", "program"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, "error: interrupted\n")


@pytest.mark.usefixtures("_beside")
def test_a_signal_to_the_whole_group() -> None:
    """As `timeout` and schedulers send it: to the process, then at once to all of its group."""
    command = COMMANDS["prepare with workers"]
    with command.start() as process:
        command.wait(process)
        process.send_signal(signal.SIGTERM)
        os.killpg(process.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE)
    check(command, process.returncode, out, err)


def test_a_signal_to_a_download(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        mirror = f"http://127.0.0.1:{server.getsockname()[1]}"
        command = Command(
            ["download", "openneuro", "ds000001", "--mirror", mirror, "-o", str(tmp_path / "out")],
            lambda _: bool(server.accept()),
        )
        command.interrupt(signal.SIGTERM)


@pytest.mark.usefixtures("_beside")
def test_what_was_interrupted_goes_on() -> None:
    command = COMMANDS["prepare"]
    with command.start() as process:
        command.wait(process)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    shutil.rmtree("few", ignore_errors=True)
    for number in range(1, 5):
        for contrast in ("T1w", "T2w"):
            path = Path("few", f"sub-{number:03}_{contrast}.nii.gz")
            path.parent.mkdir(exist_ok=True)
            os.link(Path("scans", path.name), path)
    command = Command(["prepare", "few", "-o", "out"], lambda _: True)
    with command.start() as process:
        _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    assert "interrupted" not in json.loads(Path("out/report.json").read_text())


def test_a_second_signal_ends_at_once() -> None:
    code = (
        "import os, signal, sys, time; from mrbridge import cli, interruption\n"
        "def work(*_):\n"
        "    try:\n"
        "        print('begun', flush=True); time.sleep(60)\n"
        "    except KeyboardInterrupt:\n"
        "        time.sleep(60)\n"
        "cli.app = lambda **_: work()\n"
        "cli.main(['info'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - began < 5
    assert (process.returncode, err.count("\n")) == (3, 1)


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3])
def test_a_signal_while_it_begins(delay: float) -> None:
    """From the moment at which mrbridge itself runs: while it imports its own modules."""
    code = "import mrbridge.interruption as i; i.listen(); print(1, flush=True); from mrbridge.start import main; main()"  # noqa: E501
    with subprocess.Popen(
        [sys.executable, "-c", code, "export", "-m", str(GOLDEN), "-o", "/nowhere"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (3, "error: interrupted\n")
