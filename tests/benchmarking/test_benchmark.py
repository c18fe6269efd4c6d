"""A benchmark: equal conditions, scores, continuation, failures, and what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mrbridge.benchmarking import benchmark as module
from mrbridge.benchmarking.benchmark import benchmark, read_arms
from mrbridge.benchmarking.result import Benchmark
from mrbridge.benchmarking.scores import HeldOutScans, score_baselines
from mrbridge.bundle import Bundle, save_bundle
from mrbridge.dataset.store import Store
from mrbridge.errors import Interrupted, MrbridgeError, OutputError, SettingsError, StoreError
from mrbridge.evaluation.evaluate import evaluate
from mrbridge.evaluation.settings import EvaluateSettings
from mrbridge.training.run import Run
from mrbridge.training.settings import TrainSettings

pytestmark = pytest.mark.usefixtures("blank_figures")

ARMS: dict[str, dict[str, Any]] = {"one": {"preset": "unet"}, "two": {"preset": "resnet"}}


class Trainings:
    """In place of trainings: an untrained tiny bundle; some fail or are interrupted."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.seen = bundle, list[tuple[str, TrainSettings]]()
        self.fails: Callable[[str], BaseException | None] = lambda name: None

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.seen]

    def __call__(self, store: Any, run: Path, settings: TrainSettings, **more: Any) -> Run:
        name = "/".join(run.parts[-2:])
        self.seen.append((name, settings))
        error = self.fails(name)
        if error is not None:
            raise error
        (run / "checkpoints").mkdir(parents=True)
        save_bundle(self.bundle.manifest, self.bundle.weights, run / "bundle")
        return Run(run, settings, [{"epoch": 1.0, "step": 7.0, "criterion": 1.0}])


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Bundle) -> Trainings:
    fake = Trainings(tiny_bundle)
    monkeypatch.setattr(module, "train_or_resume", fake)
    return fake


def test_arms_differ_in_their_settings_only(
    trainings: Trainings, small_store: Store, tmp_path: Path
) -> None:
    own = {"preset": "unet", "minutes": 99, "seed": 7, "patience": 1, "guard": "stop"}
    arms = ARMS | {"one": own | {"learning_rate": 1e-3}}
    common = {"batch_size": 2}
    found = benchmark(small_store, tmp_path / "b", arms, settings=common, minutes=3, seeds=2)
    assert trainings.names == ["one/0", "two/0", "one/1", "two/1"], "each seed for all arms first"
    for name, settings in trainings.seen:
        assert (settings.minutes, str(settings.seed)) == (3, name[-1])
        assert (settings.patience, settings.guard, settings.batch_size) == (None, "warn", 2)
    rates = [settings.learning_rate for _, settings in trainings.seen]
    assert rates == [1e-3, 2e-4, 1e-3, 2e-4]
    assert {*found.ranking} == {"one", "two"}
    assert not list(tmp_path.glob("b/runs/*/*/checkpoints"))
    assert {p.name for p in (tmp_path / "b").iterdir()} >= {"report.html", "scores.png"}
    assert "equal" in (tmp_path / "b" / "report.html").read_text()
    assert found._repr_html_().count("<table>") == 2


def test_baselines_are_those_of_an_evaluation(
    bids_scans: Path, small_store: Store, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """Scores of the store's slices are close to those of the scans that it was made of."""
    scans = HeldOutScans.of(small_store)
    assert (scans.split, scans.paired, len(scans.cases)) == ("test", True, 1)
    scored = score_baselines(scans)[0]
    subject = f"sub-{scans.cases[0].subject}"
    files = sorted((bids_scans / subject / "anat").glob("*.nii.gz"))
    lines = [f"{subject},{file.name[7:10]},{file}" for file in files]
    (tmp_path / "pairs.csv").write_text("\n".join(["subject,contrast,path", *lines]))
    settings = EvaluateSettings(cycle=False, tissues=False)
    expected = evaluate(tiny_bundle, tmp_path / "pairs.csv", settings=settings).cases[0]
    for key, result in expected.results.items():
        for method in ("floor", "copy"):
            ours, theirs = (one.scores[method]["fit"] for one in (scored.results[key], result))
            for measure, close in (("psnr", 2.0), ("ssim", 0.02), ("mae", 0.01)):
                assert ours[measure] == pytest.approx(theirs[measure], abs=close), (key, method)


def test_means_and_spread(trainings: Trainings, small_store: Store, tmp_path: Path) -> None:
    """Of known scores: PSNR 20 and 22 dB of one arm, 25 and 25.2 of the other."""
    benchmark(small_store, tmp_path / "b", ARMS, seeds=2)
    values = json.loads((tmp_path / "b" / "benchmark.json").read_text())
    known = iter([20.0, 22.0, 25.0, 25.2])
    for run in values["runs"]:
        psnr = next(known)
        for of_case in run["table"].values():
            for result in of_case.values():
                result["scores"]["model"]["fit"]["psnr"] = psnr
    scans = HeldOutScans.of(small_store)
    found = Benchmark.of(tmp_path / "b", values, scans)
    assert found.ranking == ("two", "one")
    one = found.means["T1w_to_T2w"]["one"]["psnr"]
    assert (one["mean"], one["std"], one["n"]) == (21, pytest.approx(np.sqrt(2)), 2)
    difference, spread = found.differences["one"]
    assert difference == pytest.approx(4.1)
    assert spread == pytest.approx(np.hypot(np.sqrt(2), np.sqrt(0.02)))
    assert "two is better than one by 4.10 dB PSNR, more than two" in str(found)
    values["runs"][1]["table"] = values["runs"][2]["table"]  # 20 and 25 dB
    found = Benchmark.of(tmp_path / "b", values, scans)
    assert "two and one cannot be distinguished: their difference of 2.60 dB" in str(found)
    values["runs"] = [run for run in values["runs"] if run["seed"] == 0]
    found = Benchmark.of(tmp_path / "b", values, scans)
    assert "with one seed it is not known" in str(found)
    assert found.means["T1w_to_T2w"]["one"]["psnr"]["std"] is None


def test_an_interrupted_benchmark_is_continued(
    trainings: Trainings, small_store: Store, tmp_path: Path
) -> None:
    trainings.fails = lambda name: Interrupted("stopped") if name == "two/0" else None
    with pytest.raises(Interrupted, match="after 1 of 4") as caught:
        benchmark(small_store, tmp_path / "b", ARMS, seeds=2)
    assert caught.value.result.ranking == ("one",)
    trainings.fails = lambda name: None
    benchmark(small_store, tmp_path / "b", ARMS, seeds=2)
    assert trainings.names == ["one/0", "two/0", "two/0", "one/1", "two/1"]
    benchmark(small_store, tmp_path / "b", ARMS, seeds=2)
    assert len(trainings.seen) == 5, "it was complete already"
    found = benchmark(small_store, tmp_path / "b", {"three": {"preset": "unet"}}, seeds=1)
    assert trainings.names[5:] == ["three/0"]
    assert set(found.ranking) == {"one", "two", "three"}, "earlier arms stay"


def test_failed_trainings_are_tried_again(
    trainings: Trainings, small_store: Store, tmp_path: Path
) -> None:
    trainings.fails = lambda name: ValueError("no") if name.startswith("one") else None
    with pytest.raises(MrbridgeError, match=r"1 of 2 trainings failed; one, seed 0") as caught:
        benchmark(small_store, tmp_path / "b", ARMS, seeds=1)
    assert caught.value.exit_code == 1
    assert caught.value.result.ranking == ("two",)
    assert "one, seed 0, failed" in str(caught.value.result)
    trainings.fails = lambda name: None
    assert len(benchmark(small_store, tmp_path / "b", ARMS, seeds=1).ranking) == 2
    assert trainings.names == ["one/0", "two/0", "one/0"]
    trainings.fails = lambda name: ValueError("no")
    with pytest.raises(MrbridgeError, match="no training was completed"):
        benchmark(small_store, tmp_path / "c", ARMS, seeds=1)


def test_another_benchmark_is_neither_continued_nor_mixed(
    trainings: Trainings, small_store: Store, tmp_path: Path
) -> None:
    out = tmp_path / "b"
    benchmark(small_store, out, ARMS, seeds=1)
    with pytest.raises(OutputError, match="another minutes"):
        benchmark(small_store, out, ARMS, seeds=1, minutes=3)
    with pytest.raises(OutputError, match="'one' has other settings"):
        benchmark(small_store, out, {"one": {"preset": "resnet"}}, seeds=1)
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="thesis"):
        benchmark(small_store, out, ARMS, seeds=1, minutes=3, overwrite=True)
    (out / "thesis.txt").unlink()
    benchmark(small_store, out, ARMS, seeds=1, minutes=3, overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="thesis"):
        benchmark(small_store, tmp_path / "mine", ARMS, seeds=1)


def test_without_pairs(
    trainings: Trainings, picture_store: Store, small_store: Store, tmp_path: Path
) -> None:
    found = benchmark(picture_store, tmp_path / "b", ARMS, seeds=1)
    assert (found.measure, found.values["split"]) == ("wasserstein", "val")
    assert "psnr" not in found.means["T1w_to_T2w"]["one"]
    assert found.means["T1w_to_T2w"]["copy"]["wasserstein"]["mean"] > 0
    text = str(found)
    assert "do not show how accurate" in text
    assert "slightly inflated" in text
    records = [one.model_copy(update={"segments": {"train": [(0, 1)]}})
               for one in small_store.records()]  # fmt: skip
    manifest = small_store.manifest.model_copy(update={"records": records})
    with pytest.raises(StoreError, match="neither a test nor a validation split"):
        HeldOutScans.of(Store(small_store.path, manifest))


@pytest.mark.parametrize(
    ("arms", "common", "message"),
    [
        (["brigde"], {}, "'brigde' is neither a preset nor a YAML file"),
        (["absent.yaml"], {}, "absent.yaml: cannot be read"),
        (["unet", "unet"], {}, "two arms are called 'unet'"),
        ([], {}, "there are no arms"),
        (["unet"], {"minutes": 3}, "Use --minutes"),
        (["unet"], {"seed": 3}, "Use --seeds"),
        (["unet"], {"preset": "resnet"}, "Use --arms"),
        (["unet"], {"learing_rate": 3}, "did you mean 'learning_rate'"),
        ({"../x": {}}, {}, "cannot be a folder"),
    ],
)
def test_impossible_arms(arms: Any, common: Mapping[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_arms(arms, common)


def test_the_file_of_an_arm_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("batch_size: -1\n")
    with pytest.raises(SettingsError, match=r"mine\.yaml: 'batch_size' cannot be -1"):
        read_arms([tmp_path / "mine.yaml"], {})


def test_on_the_command_line(
    run: Callable[..., Any], small_store: Store, tmp_path: Path, tiny_networks: dict[str, Any]
) -> None:
    """Real trainings, of a part of a second each."""
    small = {"networks": tiny_networks, "validation_slices": 2, "steps_per_epoch": 2}
    for name, rate in (("slow", 1e-5), ("quick", 1e-3)):
        (tmp_path / f"{name}.yaml").write_text(
            yaml.safe_dump(small | {"preset": "unet", "learning_rate": rate})
        )
    arms = [tmp_path / "slow.yaml", tmp_path / "quick.yaml"]
    command = ["benchmark", small_store.path, "-o", tmp_path / "b", "--arms", *arms]
    command += ["--minutes", 1e-4, "--seeds", 1, "--from", "scratch"]
    code, out, err = run(*command, "--json")
    assert (code, err.count("seed 0 (")) == (0, 2), err
    result = json.loads(out)
    assert {*result["ranking"]} == {"slow", "quick"}
    assert result["arms"]["slow"] == {
        "parameters": result["arms"]["quick"]["parameters"],
        "initial": None,
    }
    assert all(one["steps"] >= 1 for one in result["runs"])
    for key in ("T1w_to_T2w", "T2w_to_T1w"):
        assert {"slow", "quick", "floor", "copy"} == result["means"][key].keys()
    with open(tmp_path / "b" / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    model = [row for row in rows if row["arm"] == "quick" and row["method"] == "model"]
    assert {row["direction"] for row in model} == {"T1w_to_T2w", "T2w_to_T1w"}
    psnr = next(float(row["psnr"]) for row in model if row["kind"] == "fit")
    assert psnr == pytest.approx(result["means"]["T1w_to_T2w"]["quick"]["psnr"]["mean"], rel=1e-4)
    code, out, err = run(*command)
    assert (code, "0 of 2 trainings" in err, "PSNR (dB)" in out) == (0, True, True), err
    assert run("benchmark", small_store.path, "-o", tmp_path / "c", "--arms", "unett")[0] == 2
    assert not (tmp_path / "c").exists()
