"""The page of trainings: what it says of a run, while it trains and afterwards."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from PIL import Image
from tests.web.conftest import Served

from mrbridge.training import words
from mrbridge.training.words import WARNINGS

ROWS = """epoch,step,generators,seconds,psnr_target,psnr_source,criterion,guard_verdict_to_target
1,10,0.5,30,20.5,21,1.5,0
2,20,0.4,60,22.5,,2.5,0
3,30,0.3,90,21.5,23,2,{verdict}
"""


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """The files of a run of 10 epochs, of which 3 are done."""
    run = tmp_path / "my-run"
    (run / "samples").mkdir(parents=True)
    (run / "settings.yaml").write_text("preset: bridge\nepochs: 10\nminutes: null\n")
    (run / "metrics.csv").write_text(ROWS.format(verdict=0))
    for epoch in (0, 2):
        Image.new("L", (4, 4)).save(run / "samples" / f"epoch_{epoch:04d}.png")
    (run / "bundle").mkdir()
    (run / "bundle/bundle.json").write_text('{"source": "T1w", "target": "T2w"}')
    return run


def test_scores_and_losses_in_words(run_folder: Path):
    run = words.describe(run_folder)
    assert run["names"] == {
        "scores": {"psnr_target": "PSNR T1w→T2w", "psnr_source": "PSNR T2w→T1w"},
        "losses": {"generators": "generators, total"},
    }
    assert run["contrasts"] == ["T1w", "T2w"]
    assert run["best_epoch"] == 2
    assert [row["epoch"] for row in run["rows"]] == [1, 2, 3]
    assert "psnr_source" not in run["rows"][1]
    assert run["samples"] == ["epoch_0000.png", "epoch_0002.png"]


def test_the_time_left_follows_from_the_pace(run_folder: Path):
    run = words.describe(run_folder)
    assert run["is_training"]
    assert run["seconds_left"] == pytest.approx(210, abs=5)
    (run_folder / "settings.yaml").write_text("preset: bridge\nepochs: 10\nminutes: 2\n")
    assert words.describe(run_folder)["seconds_left"] == pytest.approx(30, abs=5)


def test_the_best_state_is_the_one_in_the_bundle(run_folder: Path):
    text = (run_folder / "metrics.csv").read_text().replace("2.5,0", "2.5,1")
    (run_folder / "metrics.csv").write_text(text)
    assert words.describe(run_folder)["best_epoch"] == 3, "epoch 2 was inverted"
    kept = '{"source": "T1w", "target": "T2w", "trained": {"kept": "the initial model"}}'
    (run_folder / "bundle/bundle.json").write_text(kept)
    assert words.describe(run_folder)["best_epoch"] == 0


@pytest.mark.parametrize("reason", ["silent", "complete"])
def test_a_training_that_is_over(reason: str, run_folder: Path):
    if reason == "silent":
        before = time.time() - 3600
        os.utime(run_folder / "metrics.csv", (before, before))
    else:
        (run_folder / "settings.yaml").write_text("preset: bridge\nepochs: 3\n")
    assert not words.describe(run_folder)["is_training"]


def test_every_verdict_of_the_monitor_is_a_warning(run_folder: Path):
    from mrbridge.training.monitor import Verdict

    assert set(WARNINGS) == {int(one) for one in Verdict}
    assert words.describe(run_folder)["warnings"] == []
    (run_folder / "metrics.csv").write_text(ROWS.format(verdict=int(Verdict.COLLAPSED)))
    (warning,) = words.describe(run_folder)["warnings"]
    assert warning.startswith("The generator T1w→T2w has collapsed")
    assert "copies" in WARNINGS[Verdict.COPY]
    assert "inverts" in WARNINGS[Verdict.INVERTED]


def test_a_run_that_has_only_begun(run_folder: Path):
    (run_folder / "metrics.csv").unlink()
    run = words.describe(run_folder)
    assert (run["rows"], run["is_training"], run["best_epoch"]) == ([], False, None)


def test_a_run_that_was_deleted(web: Served, run_folder: Path):
    web.runs.append(run_folder)
    (run_folder / "settings.yaml").unlink()
    try:
        answer = web.client.get("/api/runs/0")
    finally:
        web.runs.clear()
    assert answer.status_code == 404
    assert "my-run has no settings.yaml" in answer.json()["error"]["text"]
    assert str(run_folder) not in answer.text


def test_the_interface(web: Served, run_folder: Path):
    web.runs.append(run_folder)
    try:
        assert web.client.get("/api/runs").json() == ["my-run"]
        assert web.client.get("/api/runs/0").json()["best_epoch"] == 2
        assert web.client.get("/api/runs/0/samples/epoch_0002.png").content[:4] == b"\x89PNG"
        for path in ("1", "-1", "0/samples/epoch_0001.png", "0/samples/..%2fsettings.yaml"):
            assert web.client.get(f"/api/runs/{path}").status_code == 404
    finally:
        web.runs.clear()
