"""The demo's helpers, and all of it in a minute."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mrbridge import cli, demo
from mrbridge.dataset.store import Store
from mrbridge.errors import OutputError
from mrbridge.io.bids import find_scans
from mrbridge.settings import read_yaml


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(OutputError, match="not empty"):
        demo.run_demo(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_stages_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([12.5, 12.5, 20.0])
    monkeypatch.setattr(demo.time, "monotonic", lambda: next(clock))
    seconds: dict[str, float] = {}
    for stage in ("one", "two", "three"):
        demo._end(stage, seconds, 10.0)
    assert seconds == {"one": 2.5, "two": 0.0, "three": 7.5}


def test_the_test_subjects_become_a_table(bids_scans: Path, small_store: Store) -> None:
    table = demo._test_table(bids_scans, small_store, bids_scans.parent / "test.csv")
    scans = find_scans(table).scans
    assert [(scan.subject, scan.contrast) for scan in scans] == [("01", "T1w"), ("01", "T2w")]
    assert all(scan.path.is_file() for scan in scans)


def test_the_command_passes_its_options_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    received: dict[str, object] = {}

    def run_demo(**options: object) -> dict[str, str]:
        received.update(options)
        return {"note": "done"}

    monkeypatch.setattr(demo, "run_demo", run_demo)
    out = tmp_path / "demo"
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo", "-o", str(out), "--minutes", "2", "--seed", "3"])
    assert ended.value.code == 0
    assert received == {"out": out, "minutes": 2.0, "seed": 3, "overwrite": False}


@pytest.mark.nightly
def test_a_minute_is_enough(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "mrbridge.cli", "demo", "-o", str(out), "--minutes", "1", "--json"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert json.loads(done.stdout.splitlines()[-1]) == summary
    assert set(summary["seconds"]) == {
        *("phantom", "prepare", "train", "translate", "evaluate", "all"),
    }
    settings = read_yaml(out / "run" / "settings.yaml")
    assert (settings["preset"], settings["planes"]) == ("bridge", "axial")
    assert 0.2 <= settings["minutes"] < 1
    report = (out / "report.html").read_text()
    assert "not for diagnosis" in report
    assert "<img" in report
    assert 'src="http' not in report
    assert len(list((out / "translated").glob("*desc-synth*.nii.gz"))) == 4
