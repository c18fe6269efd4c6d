"""Prepare, train, translate, evaluate: through the command line, on small data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mrbridge import io

pytestmark = pytest.mark.usefixtures("quick_phantom", "blank_figures")

TINY = [
    *("--set", "networks.image_size=32", "--set", "validation_slices=2", "--set", "epochs=1"),
    *("--set", "networks.generator={levels: 4, features: 4, max_features: 8}"),
    *("--set", "networks.critic={features: 4, strided: 1}", "--set", "steps_per_epoch=5"),
    *("--set", "simulated_subjects=1"),
]


@pytest.fixture
def run(run: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """A verb that must succeed, and its JSON answer."""

    def call(*arguments: Any) -> dict[str, Any]:
        code, out, err = run(*arguments, "--json", "-q")
        assert code == 0, err
        result: dict[str, Any] = json.loads(out.splitlines()[-1])
        return result

    return call


def test_bids(run: Callable[..., Any], bids_scans: Path, tmp_path: Path) -> None:
    store, model = tmp_path / "store", tmp_path / "run"
    run("prepare", bids_scans, "-o", store)
    run("train", store, "-o", model, *TINY)
    made = run("translate", "-m", model, "-i", bids_scans, "-o", tmp_path / "made")
    assert len(made["outputs"]) == 4
    for path in map(Path, made["outputs"]):
        source = bids_scans / path.parent.relative_to(tmp_path / "made")
        original = io.read(source / path.name.replace("_desc-synth_T2w", "_T1w"))
        synthetic = io.read(path)
        assert synthetic.affine.tobytes() == original.affine.tobytes()
        assert synthetic.voxels.shape == original.voxels.shape
        assert synthetic.synthetic
        assert np.isfinite(synthetic.voxels).all()
    few = ("--set", "shown_cases=1", "--set", "wasserstein_slices=4")
    result = run("evaluate", "-m", model, "--pairs", bids_scans, "-o", tmp_path / "scores", *few)
    assert Path(result["report"]).is_file()
    assert result["summary"]
    rows = (tmp_path / "scores" / "scores.csv").read_text().splitlines()
    assert len(rows) > 8, "four subjects, two directions"
    scores = run(
        *("evaluate", "--real", bids_scans, "--synthetic", tmp_path / "made"),
        *("-o", tmp_path / "files", "--set", "shown_cases=0"),
    )
    assert Path(scores["report"]).is_file()


def test_pictures(run: Callable[..., Any], picture_folder: Path, tmp_path: Path) -> None:
    store, model = tmp_path / "store", tmp_path / "run"
    result = run("prepare", picture_folder, "-o", store)
    assert result["T1w"]["train"] > result["T1w"]["val"] > 0
    run("train", store, "-o", model, *TINY)
    made = run("translate", "-m", model, "-i", picture_folder / "TrainT2", "-o", tmp_path / "T1")
    assert len(made["outputs"]) == 30


def test_the_pictures_of_the_original_projects(
    run: Callable[..., Any], real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    source = tmp_path / "seed"
    for contrast in ("T1", "T2"):
        paths = sorted((real_data("seed-png") / f"Train{contrast}").glob("*.png"))[:14]
        (source / f"Train{contrast}").mkdir(parents=True)
        for path in paths:
            shutil.copy(path, source / f"Train{contrast}")
    run("prepare", source, "-o", tmp_path / "store")
    run("train", tmp_path / "store", "-o", tmp_path / "run", *TINY)
    made = run("translate", "-m", tmp_path / "run", "-i", source / "TrainT1", "-o", tmp_path / "T2")
    assert len(made["outputs"]) == 14
    for path in map(Path, made["outputs"]):
        with Image.open(path) as synthetic, Image.open(source / "TrainT1" / path.name) as original:
            assert (synthetic.size, synthetic.mode) == (original.size, original.mode)
        assert io.read(path).synthetic
