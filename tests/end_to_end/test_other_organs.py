"""Two contrasts of the user's own, of an object that is not a head: nothing assumes one.

The object is a thigh: muscle with a bone in it, fat around it, at another size for each subject.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import mrbridge
from mrbridge import io
from mrbridge.bundle import load_bundle
from mrbridge.dataset.prepare import prepare
from mrbridge.dataset.settings import PrepareSettings
from mrbridge.dataset.store import Store
from mrbridge.errors import InputError, ScanRefused, SettingsError
from mrbridge.evaluation.settings import EvaluateSettings
from mrbridge.io.bids import find_scans
from mrbridge.io.contrast import of_path, recognised
from mrbridge.training.run import train
from mrbridge.volume import Volume

VALUES = {"CT": (40, 900, -100), "T2star": (300, 20, 500)}  # of muscle, bone, fat
AIR = {"CT": -1000, "T2star": 0}
CONTRASTS: dict[str, Any] = {"source": "T2star", "target": "CT"}
NOT_A_HEAD: dict[str, Any] = CONTRASTS | {"standard": {"foreground": "threshold"}}


def thigh(seed: int, contrast: str) -> NDArray[np.int16]:
    """Voxels, shape (40, 40, 10)."""
    rng = np.random.default_rng(seed)
    i, j, _ = np.meshgrid(*[np.linspace(-1, 1, n) for n in (40, 40, 10)], indexing="ij")
    radius = np.hypot(i - rng.uniform(-0.1, 0.1), j) / rng.uniform(0.75, 0.85)
    muscle, bone, fat = VALUES[contrast]
    texture = 0.1 * np.sin(9 * i + seed) * np.sin(11 * j)
    voxels = np.select(
        [radius < 0.2, radius + texture < 0.75, radius < 1], [bone, muscle, fat], AIR[contrast]
    )
    noise = rng.normal(0, 8, voxels.shape)  # in a magnitude image, air has hardly any
    return (voxels + noise * (1 if contrast == "CT" else radius < 1)).astype(np.int16)


def write(root: Path, name: Callable[[int, str], str], subjects: int = 4) -> Path:
    affine = np.diag([1.5, 1.5, 5.0, 1.0])
    for number in range(1, subjects + 1):
        for contrast in VALUES:
            io.write(Volume(thigh(number, contrast), affine), root / name(number, contrast))
    return root


@pytest.fixture(scope="module")
def thighs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BIDS dataset of both contrasts of four thighs, in register."""
    root = write(
        tmp_path_factory.mktemp("thighs") / "bids",
        lambda n, contrast: f"sub-{n:02}/anat/sub-{n:02}_{contrast}.nii.gz",
    )
    (root / "dataset_description.json").write_text('{"Name": "thighs", "BIDSVersion": "1.10.0"}')
    return root


@pytest.fixture(scope="module")
def store(thighs: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    settings = PrepareSettings.build(NOT_A_HEAD)
    return prepare(thighs, tmp_path_factory.mktemp("thighs") / "store", settings)


@pytest.fixture(scope="module")
def trained(
    store: Store, tiny_networks: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of a few steps."""
    run = tmp_path_factory.mktemp("thighs") / "run"
    small: dict[str, Any] = {"epochs": 1, "steps_per_epoch": 2, "networks": tiny_networks}
    train(store, run, validation_slices=3, sample_slices=2, device="cpu", **small)
    return run


class TestNames:
    @pytest.mark.parametrize(
        "path",
        ["sub-01_CT.nii.gz", "sub-01_ct.nii", "CT/001.nii", "trainCT/1.nii", "knee_CT_3.nii"],
    )
    def test_of_the_user_s_own(self, path: str) -> None:
        with recognised(["CT", "T1w"]):
            assert of_path(path).contrast == "CT"
        assert of_path(path).contrast is None

    @pytest.mark.parametrize(
        ("path", "kind"),
        [
            ("CT_mask.nii", "mask"),
            ("sub-1_ce-gd_CT.nii", "agent"),
        ],
    )
    def test_what_else_a_name_says_counts(self, path: str, kind: str) -> None:
        with recognised(["CT"]):
            assert of_path(path).kind == kind

    @pytest.mark.parametrize("path", ["T1/a.nii", "CT/T1_003.nii", "sub-01_T1w.nii"])
    def test_known_contrasts_stay(self, path: str) -> None:
        with recognised(["CT"]):
            assert of_path(path).contrast == "T1w"

    def test_two_in_one_name(self) -> None:
        with recognised(["CT"]):
            assert "says CT and T1w" in of_path("CT_to_T1w.nii").reason

    @pytest.mark.parametrize(
        ("source", "target"), [("t1w", "T2w"), ("C T", "T2w"), ("1", "T2w"), ("CT", "ct")]
    )
    def test_impossible_ones(self, source: str, target: str) -> None:
        with pytest.raises(SettingsError):
            PrepareSettings.build({"source": source, "target": target})

    def test_no_brain_without_a_head(self) -> None:
        changes = {"standard": {"foreground": "threshold", "brain": "auto"}}
        with pytest.raises(SettingsError, match="--brain auto needs a head"):
            PrepareSettings.build(changes)


class TestSources:
    def test_folders_a_table_and_any_datatype(self, tmp_path: Path) -> None:
        by_folder = write(tmp_path / "one", lambda n, c: f"{c}/patient{n}.nii.gz", 2)
        two = [by_folder / "T2star", by_folder / "CT"]
        table = tmp_path / "table.csv"
        rows = [f"{n},,{c},one/{c}/patient{n}.nii.gz" for n in (1, 2) for c in ("t2STAR", "CT")]
        table.write_text("\n".join(["subject,session,contrast,path", *rows]))
        bids = write(tmp_path / "bids", lambda n, c: f"sub-{n}/ct/sub-{n}_{c}.nii.gz", 2)
        (bids / "dataset_description.json").write_text("{}")
        for source in (by_folder, two, table, bids):
            found = find_scans(source, ("T2star", "CT")).scans
            assert sorted((scan.contrast, scan.subject) for scan in found) in (
                [(c, f"{who}{n}") for c in ("CT", "T2star") for n in (1, 2)]
                for who in ("patient", "")
            )


class TestEndToEnd:
    def test_the_store(self, store: Store) -> None:
        manifest = store.manifest
        assert set(manifest.typical) == {"T2star", "CT"}
        assert manifest.typical["CT"].low < -900
        assert manifest.typical["CT"].high > 0

    def test_training_starts_from_random_weights(
        self, store: Store, tiny: Callable[..., Any], tmp_path: Path, caplog: Any
    ) -> None:
        settings = tiny("bridge", epochs=1, steps_per_epoch=1)
        with caplog.at_level(logging.INFO, "mrbridge"):
            train(store, tmp_path / "run", settings, device="cpu")
        assert any("random weights" in m for m in caplog.messages)
        assert any("without simulated pairs: only heads" in m for m in caplog.messages)

    def test_simulated_heads_are_refused(self, store: Store, run: Any, tmp_path: Path) -> None:
        code, _, err = run("train", store.path, "-o", tmp_path / "run", "--set",
                           "simulated_weight=2")  # fmt: skip
        assert code == 2
        assert "only heads can be simulated" in err

    def test_translate(self, thighs: Path, trained: Path, tmp_path: Path) -> None:
        source = thighs / "sub-04/anat/sub-04_T2star.nii.gz"
        (made,) = mrbridge.translate(source, tmp_path / "out", model=trained, device="cpu")
        assert made.output == tmp_path / "out" / "sub-04_desc-synth_CT.nii.gz"
        assert made.verdict is not None
        assert made.verdict.level == "usual"
        result = io.read(made.output, force=True)
        assert result.voxels.shape == (40, 40, 10)
        # Air is -1000 in CT, not the 0 of the source.
        assert np.median(result.voxels[:3, :3]) < -800
        note = json.loads(made.output.with_name("sub-04_desc-synth_CT.json").read_text())
        assert note["Description"].startswith("Synthetic CT")
        assert load_bundle(trained).manifest.standard.foreground == "threshold"
        (back,) = mrbridge.translate(
            thighs / "sub-04/anat/sub-04_CT.nii.gz", tmp_path / "out", model=trained, device="cpu"
        )
        assert back.contrast == "T2star"

    def test_a_dataset_and_a_folder(self, thighs: Path, trained: Path, tmp_path: Path) -> None:
        done = mrbridge.translate(thighs, tmp_path / "bids", model=trained, device="cpu")
        assert {one.contrast for one in done} == {"CT"}
        assert len(done) == 4
        folder = write(tmp_path / "plain", lambda n, c: f"{c}/patient{n}.nii.gz", 1)
        (one,) = mrbridge.translate(
            folder, tmp_path / "o", model=trained, device="cpu", to="T2star"
        )
        assert one.source == folder / "CT" / "patient1.nii.gz"

    def test_a_mask_is_still_refused(self, trained: Path) -> None:
        mask = Volume((thigh(1, "T2star") > 100).astype(np.uint8), np.diag([1.5, 1.5, 5, 1]))
        with pytest.raises(ScanRefused, match="is a mask or a label map"):
            mrbridge.translate(mask, model=trained, device="cpu")

    def test_other_models_do_not_take_it(self, thighs: Path, tmp_path: Path) -> None:
        source = thighs / "sub-04/anat/sub-04_CT.nii.gz"
        with pytest.raises(InputError, match="CT"):
            mrbridge.translate(source, tmp_path / "out", device="cpu")

    @pytest.mark.filterwarnings("ignore:The model was trained on scans of 2 of the 4 cases")
    def test_evaluate(self, thighs: Path, trained: Path, tmp_path: Path) -> None:
        quick = EvaluateSettings(shown_cases=0, wasserstein_slices=2)
        out = tmp_path / "report"
        result = mrbridge.evaluate(trained, thighs, out, settings=quick, device="cpu")
        assert set(result.summary) == {"T2star_to_CT", "CT_to_T2star"}
        assert not any("dice" in key for values in result.measures.values() for key in values)
        page = (out / "report.html").read_text()
        assert "T2star" in page
        assert "grey matter" not in page.lower()
