"""The command line: help, answers, errors in one line, exit codes, signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mrbridge import cli, console, io, models, training
from mrbridge.bundle import Bundle
from mrbridge.dataset.store import Store
from mrbridge.training.checkpoint import load_checkpoint
from mrbridge.training.run import Run, train
from mrbridge.training.settings import TrainSettings

VERBS = (
    "demo",
    "phantom",
    "prepare",
    "train",
    "tune",
    "benchmark",
    "translate",
    "evaluate",
    "export",
    "info",
)
TOO_SMALL = "sub-01_T1w.nii.gz: unusual: shows an object of 42 mm, too small for an adult's head"
TINY = [
    *("--set", "networks.image_size=32", "--set", "validation_slices=2", "--set", "epochs=1"),
    *("--set", "networks.generator={levels: 4, features: 4, max_features: 8}"),
    *("--set", "networks.critic={features: 4, strided: 1}", "--set", "steps_per_epoch=2"),
    *("--set", "simulated_subjects=1"),
]
FEW_FIGURES = ("--set=cycle=no", "--set=shown_cases=0", "--set=wasserstein_slices=2")
QUICK = (*FEW_FIGURES, "--set=tissues=no")


def answer(out: str) -> dict[str, Any]:
    """The JSON object on the last line of standard output, strictly read."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    result = json.loads(out.splitlines()[-1], parse_constant=refuse)
    assert isinstance(result, dict)
    return result


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_an_example(verb: str, run: Callable[..., Any]) -> None:
    for flag in ("-h", "--help"):
        code, out, err = run(verb, flag)
        assert (code, err) == (0, "")
        assert f"Example: mrbridge {verb} " in out
        for option in ("-q", "-v", "--json"):
            assert option in out


def test_brain_option_says_what_it_removes(run: Callable[..., Any]) -> None:
    _, out, _ = run("prepare", "-h")
    text = " ".join(out.replace("│", " ").split())
    assert "keep only the brain" in text
    assert "leave the brain" not in text, "that would mean not to touch it"


def test_train_says_what_it_trains(run: Callable[..., Any]) -> None:
    _, out, _ = run("train", "-h")
    assert "Train a translation model." in out
    assert "TranslationModel" not in out, "the default preset has neither critics nor cycle"


def test_root(run: Callable[..., Any]) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert all(verb in out for verb in VERBS)
    assert "not for diagnosis" in " ".join(out.split())
    assert run()[1] == out
    assert run("--version") == (0, f"mrbridge {cli.__version__}\n", "")


class TestInfo:
    def test_the_original_u_net(self, run: Callable[..., Any]) -> None:
        code, out, err = run("info", "unet", "--json")
        result = answer(out)
        assert (code, err) == (0, "")
        assert result["generator"] == 54_408_833
        assert result["critic"] == 2_763_521
        assert result["total"] == 114_344_708
        assert result["critic_logits"] == [30, 30]

    @pytest.mark.parametrize("preset", ["bridge", "unet", "resunet", "resnet"])
    def test_presets(self, preset: str, run: Callable[..., Any]) -> None:
        result = answer(run("info", preset, "--json")[1])
        assert result["total"] == 2 * (result["generator"] + result["critic"])
        assert result["settings"]["preset"] == preset
        code, out, _ = run("info", preset)
        assert code == 0
        assert f"{result['total']:,}" in out

    def test_bundles(self, tiny_bundle: Bundle, run: Callable[..., Any]) -> None:
        result = answer(run("info", tiny_bundle.path, "--json")[1])
        assert result["weights_sha256"] == tiny_bundle.hash
        assert result["total"] == tiny_bundle.manifest.networks.describe()["total"]
        assert "not for diagnosis" in run("info", tiny_bundle.path)[1]

    def test_the_shipped_model(self, as_shipped: Bundle, run: Callable[..., Any]) -> None:
        for arguments in (["info"], ["info", "shipped"]):
            code, out, err = run(*arguments)
            assert (code, err) == (0, "")
            assert as_shipped.hash in out


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["info", "unett"], "did you mean 'unet'"),
            (["info", "."], "neither a run with a bundle nor a bundle"),
            (["train", "absent", "-o", "run"], "absent: does not exist"),
            (["train", "{store}", "-o", "run", "--preset", "brigde"], "did you mean 'bridge'"),
            (["train", "{store}", "-o", "run", "--set", "epoch=3"], "did you mean 'epochs'"),
            (["train", ".", "-o", "run", "--set", "epochs"], "Write key=value"),
            (["train", ".", "-o", "run", "--config", "no.yaml"], "no.yaml: cannot be read"),
            (["train", ".", "-o", "run"], ".: is not a store"),
            (["train", ".", "-o", "run", "--from", "absent"], "absent: does not exist. Use auto"),
            (["train", ".", "-o", "run", "--resume", "--from", "auto"], "Leave out --from"),
            (["prepare", "absent", "-o", "store"], "absent: does not exist"),
            (["prepare", ".", "-o", "store", "--source", "T-w"], "not the name of a contrast"),
            (["translate", "-m", "absent", "-i", "x.nii", "-o", "y"], "absent: does not exist"),
            (["translate", "-m", ".", "-i", "x.nii", "-o", "y"], "x.nii: does not exist"),
            (["export", "-m", "absent", "-o", "y"], "absent: does not exist"),
            (["evaluate", "-o", "y", "-m", "absent", "--pairs", "."], "absent: does not exist"),
            (["evaluate", "-o", "y", "-m", ".", "--pairs", "none"], "none: does not exist"),
            (["evaluate", "-o", "y", "--set", "maks=none"], "did you mean 'mask'"),
            (["evaluate", "-o", "scores"], "what to score is not clear"),
            (["evaluate", "-o", "y", "--register", "no"], "'off', 'rigid', 'affine'"),
            (["prepare", ".", "-o", "store", "--register", "auto"], "'none', 'rigid', 'affine'"),
            (["prepare", ".", "-o", "store", "--bias", "yes"], "'none', 'n4'"),
            (["prepare", ".", "-o", "store", "--brain", "bet"], "'auto', 'hd-bet', 'mask'"),
            (
                ["prepare", ".", "-o", "store", "--intensity", "z"],
                "'percentile', 'nyul', 'zscore'",
            ),
            (["prepare", ".", "-o", "store", "--slices", "20:80"], "Write 20%:80%"),
            (["phantom", "-o", "x", "--set", "subject=3"], "did you mean 'subjects'"),
        ],
    )
    def test_one_line_that_says_what_to_do(
        self,
        arguments: list[str],
        message: str,
        run: Callable[..., Any],
        small_store: Store,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        arguments = [argument.format(store=small_store.path) for argument in arguments]
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert message in err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert list(tmp_path.iterdir()) == [], "something was written"
        code, _, err = run(*arguments, "-v")
        assert code == 2
        assert "Traceback (most recent call last)" in err
        assert message in err.splitlines()[-1]

    @pytest.mark.parametrize(
        ("variables", "message"),
        [
            ({"WORLD_SIZE": "x"}, "the environment variable WORLD_SIZE is 'x', not a number."),
            ({"WORLD_SIZE": "2"}, "the environment variable RANK is '', not a number."),
            ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK is '-1', not a number."),
            ({"WORLD_SIZE": "2", "RANK": "0"}, "the processes cannot find one another"),
        ],
    )
    def test_variables_that_are_not_those_of_torchrun(
        self, variables: dict[str, str], message: str, small_store: Store, tmp_path: Path
    ) -> None:
        command = [
            sys.executable,
            "-m",
            "mrbridge",
            "train",
            str(small_store.path),
            "-o",
            "run",
            *TINY,
        ]
        others = {name: os.environ[name] for name in os.environ if name != "MASTER_ADDR"}
        done = subprocess.run(
            command, cwd=tmp_path, env=others | variables, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert message in done.stderr
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("rank", ["1", "x"])
    def test_a_rank_without_other_processes_means_nothing(
        self, rank: str, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RANK", rank)
        assert "generator" in answer(run("info", "unet", "--json")[1])

    @pytest.mark.parametrize(
        "arguments", [["info", "unett"], ["trian"], ["translate", "-i", "x.nii"], ["info", "--no"]]
    )
    def test_with_json_it_is_the_result_too(
        self, arguments: list[str], run: Callable[..., Any]
    ) -> None:
        code, out, err = run(*arguments, "--json")
        assert out.count("\n") == 1
        assert answer(out) == {"error": err.removeprefix("error: ").rstrip(), "exit_code": code}
        assert code == 2
        assert run(*arguments)[1] == "", "an option of one command line is heard by the next"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["trian"], "trian"),
            (["train", "store"], "-o"),
            (["train", "store", "-o", "x", "--epochs", "3"], "--epochs"),
            (["demo", "-o", "x", "--minutes", "0"], "minutes"),
            (["phantom", "-o", "x", "--subjects", "many"], "--subjects"),
        ],
    )
    def test_usage(self, arguments: list[str], message: str, run: Callable[..., Any]) -> None:
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1
        assert "-h'" in err

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_interrupted(
        self, number: signal.Signals, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: Any) -> None:
            os.kill(os.getpid(), number)
            time.sleep(5)

        monkeypatch.setattr("mrbridge.training.settings.preset", interrupted)
        assert run("info", "unet") == (3, "", "error: interrupted\n")
        expected = '{"error": "interrupted", "exit_code": 3, "interrupted": true}\n'
        assert run("info", "unet", "--json") == (3, expected, "error: interrupted\n")

    @pytest.mark.usefixtures("quick_phantom")
    def test_a_signal_whose_exception_is_lost_before_training(
        self,
        run: Callable[..., Any],
        monkeypatch: pytest.MonkeyPatch,
        small_store: Store,
        tmp_path: Path,
    ) -> None:
        """As in a finaliser, where Python drops exceptions."""
        whole = training.run.bundle_manifest

        def interrupted(*arguments: Any) -> Any:
            with suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
            return whole(*arguments)

        monkeypatch.setattr("mrbridge.training.run.bundle_manifest", interrupted)
        code, _, err = run("train", small_store.path, "-o", tmp_path / "run", "-q", *TINY)
        assert (code, err) == (3, "error: interrupted\n")

    def test_numbers_that_json_cannot_hold_are_null(self) -> None:
        result = {"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": -float("inf"), "e": 1}}
        assert console.plain(result) == {"a": None, "b": [1.5, None], "c": {"d": None, "e": 1}}


@pytest.mark.usefixtures("quick_phantom", "blank_figures")
class TestVerbs:
    """Every verb answers in JSON; the whole pipeline is in end_to_end."""

    def test_phantom(self, run: Callable[..., Any], tmp_path: Path) -> None:
        small = ["--subjects", 1, "--set", "spacing_mm=8"]
        code, out, _ = run("phantom", "-o", tmp_path / "bids", *small, "--json")
        assert code == 0
        assert answer(out) == {"path": str(tmp_path / "bids"), "subjects": 1}
        assert len(list((tmp_path / "bids").glob("sub-*/anat/*_T1w.nii.gz"))) == 1

    def test_prepare(self, run: Callable[..., Any], bids_scans: Path, tmp_path: Path) -> None:
        code, out, err = run("prepare", bids_scans, "-o", tmp_path / "store", "--json")
        assert (code, err) == (0, "")
        result = answer(out)
        assert result["T1w"] == {"train": 22, "val": 12, "test": 10, "none": 0} == result["T2w"]

    def test_prepare_with_a_broken_scan(
        self, run: Callable[..., Any], bids_scans: Path, tmp_path: Path
    ) -> None:
        root = shutil.copytree(bids_scans, tmp_path / "bids")
        (root / "sub-04" / "anat" / "sub-04_T1w.nii.gz").write_bytes(b"broken")
        code, out, err = run("prepare", root, "-o", tmp_path / "store", "--json")
        assert code == 1
        result = answer(out)
        assert list(result["failed"]) == ["sub-04/anat/sub-04_T1w.nii.gz"]
        assert sum(result["T1w"].values()) < sum(result["T2w"].values())
        assert "1 of 8 scans failed" in err
        assert err.count("\n") == 1
        assert len(Store.open(tmp_path / "store").records()) == 7

    def test_train(self, run: Callable[..., Any], small_store: Store, tmp_path: Path) -> None:
        path = tmp_path / "run"
        code, out, err = run("train", small_store.path, "-o", path, "--json", "-q", *TINY)
        assert (code, err) == (0, "")
        result = answer(out)
        assert result["bundle"] == str(path / "bundle")
        assert result["last"]["step"] == 2
        code, _, err = run("train", small_store.path, "-o", path, *TINY)
        assert code == 2
        assert "not empty" in err
        clock = ["--set", "minutes=0.001", "--set", "epochs=3", "-o", tmp_path / "clock"]
        _, _, err = run("train", small_store.path, *TINY, *clock)
        assert "epochs is not used: this training takes 0.001 minutes" in err
        # The same command with --resume continues, or has nothing to do.
        code, out, _ = run("train", small_store.path, "-o", path, "--json", "--resume", *TINY)
        assert code == 0
        assert answer(out)["last"]["step"] == 2
        more = ["--resume", "--set", "epochs=2"]
        code, out, err = run("train", small_store.path, "-o", path, "--json", *more)
        assert answer(out)["last"]["step"] == 4
        assert "epoch 2  0:0" in err
        assert "PSNR T1w→T2w" in err
        assert "best so far: " in err
        assert "psnr_" not in err
        code, _, err = run("train", small_store.path, "-o", path, "--resume", "--set", "seed=9")
        assert code == 2
        assert "keeps its seed" in err

    def test_train_from_a_file(
        self, run: Callable[..., Any], small_store: Store, tmp_path: Path
    ) -> None:
        config = tmp_path / "tiny.yaml"
        config.write_text(
            "preset: resnet\nepochs: 1\nsteps_per_epoch: 1\nvalidation_slices: 2\n"
            "networks:\n  image_size: 32\n  generator: {features: 4, blocks: 1}\n"
            "  critic: {features: 4, strided: 1}\n"
        )
        path = tmp_path / "run"
        more = ["--config", config, "--set", "steps_per_epoch=3", "-q", "--json"]
        code, out, _ = run("train", small_store.path, "-o", path, *more)
        assert code == 0
        assert answer(out)["last"]["step"] == 3
        assert answer(run("info", path, "--json")[1])["preset"] == "resnet"

    @pytest.mark.parametrize("start", [None, "auto", "scratch", "shipped", "run"])
    def test_train_from_weights(
        self,
        start: str | None,
        run: Callable[..., Any],
        as_shipped: Bundle,
        small_store: Store,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        asked: list[dict[str, Any]] = []

        def instead(store: Store, out: Path, settings: TrainSettings, **more: Any) -> Run:
            asked.append(more)
            return Run(out, settings, [])

        monkeypatch.setattr("mrbridge.training.run.train", instead)
        monkeypatch.chdir(tmp_path)
        (tmp_path / "run").mkdir()
        given = [] if start is None else ["--from", start]
        code, _, err = run("train", small_store.path, "-o", tmp_path / "new", *given)
        assert (code, err) == (0, "")
        chosen = {} if start is None else {"start": start}
        always = {"resume": False, "device": "auto", "overwrite": False, "allow_code": False}
        assert asked == [always | chosen], "the default start is in `train` only"

    def test_translate(
        self, run: Callable[..., Any], tiny_bundle: Bundle, bids_scans: Path, tmp_path: Path
    ) -> None:
        scan = bids_scans / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
        out_file = tmp_path / "made.nii.gz"
        common = ["-m", tiny_bundle.path, "--device", "cpu", "--json"]
        code, out, err = run("translate", *common, "-i", scan, "-o", out_file)
        assert code == 0
        assert err.splitlines() == [TOO_SMALL]
        expected = {
            "outputs": [str(out_file)],
            "model": tiny_bundle.hash,
            "skipped": 0,
            "failed": {},
        }
        verdicts = answer(out)
        assert verdicts.pop("verdicts")[str(scan)]["Level"] == "unusual"
        assert verdicts == expected
        assert io.read(out_file).synthetic
        code, _, err = run("translate", *common, "-i", out_file, "-o", tmp_path / "x.nii.gz")
        assert code == 2
        assert "made.nii.gz: is synthetic already. Use --force" in err

    def test_translate_with_the_shipped_model(
        self, run: Callable[..., Any], as_shipped: Bundle, bids_scans: Path, tmp_path: Path
    ) -> None:
        scan = bids_scans / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
        files = ["-i", scan, "-o", tmp_path / "made.nii.gz"]
        code, out, err = run("translate", *files, "--json")
        assert code == 0
        assert answer(out)["model"] == as_shipped.hash
        assert "the shipped model, trained on simulated subjects only" in err
        assert err.splitlines()[1:] == [TOO_SMALL]
        assert run("translate", *files, "-m", "shipped")[::2] == (0, TOO_SMALL + "\n")
        assert run("translate", *files, "-q") == (0, "", "")

    def test_no_model_at_all(
        self, run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(models, "_HERE", tmp_path)
        for arguments in (
            ["translate", "-i", tmp_path, "-o", tmp_path / "out"],
            ["evaluate", "--pairs", tmp_path, "-o", tmp_path / "out"],
            ["export", "-m", "shipped", "-o", tmp_path / "out"],
            ["train", tmp_path, "-o", tmp_path / "out", "--from", "shipped"],
            ["info"],
        ):
            code, out, err = run(*arguments)
            assert (code, out) == (2, "")
            assert err.startswith(f"error: {tmp_path / 't1w_t2w'}: holds no shipped model. Name")
            assert err.count("\n") == 1
        assert list(tmp_path.iterdir()) == []

    def test_translate_in_unknown_planes(
        self, run: Callable[..., Any], bids_scans: Path, tmp_path: Path
    ) -> None:
        files = ["-i", bids_scans, "-o", tmp_path / "made"]
        code, _, err = run("translate", *files, "--planes", "both")
        assert (code, (tmp_path / "made").exists()) == (2, False)
        assert "'both' is not one of 'axial', 'all'" in err

    def test_export(
        self,
        run: Callable[..., Any],
        tiny_bundle: Bundle,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        pytest.importorskip("onnxscript")
        from mrbridge.inference import export

        monkeypatch.setattr(export, "_as_onnx", lambda bundle, generator: b"a network")
        out_folder = tmp_path / "exported"
        code, out, err = run("export", "-m", tiny_bundle.path, "-o", out_folder, "--json")
        assert (code, err) == (0, "")
        assert answer(out) == {
            "outputs": [str(out_folder / f"{name}.onnx") for name in ("T1w_to_T2w", "T2w_to_T1w")]
        }
        code, _, err = run("export", "-m", tiny_bundle.path, "-o", out_folder, "--to", "tflite")
        assert code == 2
        assert "'tflite' is not one of 'onnx'" in err

    def test_translate_with_a_broken_scan(
        self, run: Callable[..., Any], tiny_bundle: Bundle, bids_scans: Path, tmp_path: Path
    ) -> None:
        root = shutil.copytree(bids_scans, tmp_path / "bids")
        bad = root / "sub-03" / "anat" / "sub-03_T1w.nii.gz"
        bad.write_bytes(b"broken")
        common = ("translate", "-m", tiny_bundle.path, "-i", root, "-o", tmp_path / "out")
        code, out, err = run(*common)
        assert (code, out) == (1, f"3 translated: {tmp_path / 'out'}\n")
        assert "Traceback" not in err
        assert "sub-03_T1w.nii.gz" in err
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert len(report["done"]) == 3
        code, out, _ = run(*common, "--json", "-q")
        result = answer(out)
        assert (code, result["skipped"], len(result["outputs"])) == (1, 3, 3)
        assert result["failed"] == {str(bad): "is too short for a NIfTI header"}

    def test_evaluate_with_a_broken_scan(
        self, run: Callable[..., Any], tiny_bundle: Bundle, bids_scans: Path, tmp_path: Path
    ) -> None:
        root = shutil.copytree(bids_scans, tmp_path / "bids")
        (root / "sub-03" / "anat" / "sub-03_T1w.nii.gz").write_bytes(b"broken")
        common = ("evaluate", "-m", tiny_bundle.path, "--pairs", root, "-o", tmp_path / "out")
        code, out, err = run(*common, *QUICK, "--device", "cpu", "--json", "-q")
        result = answer(out)
        assert (code, list(result["failed"])) == (1, ["sub-03"])
        assert Path(result["report"]).is_file()
        assert "1 of 4 cases could not be scored" in err

    def test_evaluate(self, run: Callable[..., Any], bids_scans: Path, tmp_path: Path) -> None:
        real = bids_scans / "sub-01" / "anat" / "sub-01_T2w.nii.gz"
        volume = io.read(real)
        noisy = volume.voxels + np.random.default_rng(0).normal(0, 20, volume.voxels.shape)
        synthetic = nib_save(noisy.astype(np.float32), volume.affine, tmp_path / "made_T2w.nii.gz")
        files = ["--real", real, "--synthetic", synthetic]
        code, out, _ = run("evaluate", *files, *QUICK, "-o", tmp_path / "scores", "--json")
        assert code == 0
        assert Path(answer(out)["report"]).is_file()
        assert answer(out)["summary"]

    def test_evaluate_lesions_and_uncertainty(
        self, run: Callable[..., Any], bids_scans: Path, tmp_path: Path
    ) -> None:
        real = bids_scans / "sub-01" / "anat" / "sub-01_T2w.nii.gz"
        volume = io.read(real)
        made = volume.voxels + np.random.default_rng(0).normal(0, 20, volume.voxels.shape)
        lesions: NDArray[np.uint8] = np.zeros(volume.voxels.shape, np.uint8)
        x, y, z = (size // 2 for size in volume.voxels.shape)
        lesions[x - 2 : x + 2, y - 2 : y + 2, z - 2 : z + 2] = 1
        files: dict[str, Path] = {"real": real, "source": Path(str(real).replace("T2w", "T1w"))}
        for name, voxels in (
            ("synthetic", made),
            ("lesions", lesions),
            ("uncertainty", np.full(lesions.shape, 1.6449 * 20)),
        ):
            path = tmp_path / f"{name}.nii.gz"
            files[name] = nib_save(voxels.astype(np.float32), volume.affine, path)
        options = [word for name, path in files.items() for word in (f"--{name}", path)]
        code, out, _ = run("evaluate", *options, *FEW_FIGURES, "-o", tmp_path / "scores", "--json")
        result = answer(out)
        assert code == 0
        assert "T1w_to_T2w" in result["lesions"]
        assert 0.85 < result["measures"]["T1w_to_T2w"]["coverage"]["mean"] < 0.95
        assert {use["use"] for use in result["uses"]} >= {"lesions_clear", "uncertainty_map"}
        for name in ("source", "uncertainty"):
            wrong = ["--pairs", bids_scans, f"--{name}", files[name], "-o", tmp_path / "no"]
            code, _, err = run("evaluate", *wrong)
            assert code == 2
            assert "belong to --real and --synthetic" in err
        wrong = [*options, "--contrasts", "T1w", "T2w", "-o", tmp_path / "no"]
        code, _, err = run("evaluate", *wrong)
        assert code == 2
        assert "--contrasts belongs to --pairs" in err

    def test_evaluate_the_shipped_model(
        self, run: Callable[..., Any], as_shipped: Bundle, bids_scans: Path, tmp_path: Path
    ) -> None:
        files = ["--pairs", bids_scans, "-o", tmp_path / "scores"]
        code, out, err = run("evaluate", *files, *QUICK, "--json")
        assert code == 0
        assert answer(out)["model"] == as_shipped.hash
        assert "with the shipped model" in err


def nib_save(voxels: np.ndarray, affine: np.ndarray, path: Path) -> Path:
    from mrbridge.volume import Volume

    return io.write(Volume(voxels, affine), path)


LAUNCH = (
    "from mrbridge.dataset import loader; loader._SPARE_FROM = {spare_from}\n"
    "from mrbridge import cli; cli.main()"
)


def start_training(store: Path, out: Path, spare_from: int) -> subprocess.Popen[str]:
    """Train without end in a process group of its own."""
    code = LAUNCH.format(spare_from=spare_from)
    arguments = ["train", str(store), "-o", str(out), "--device", "cpu", *TINY]
    endless = ["--set", "epochs=100000", "--set", "decay_from=1", "--set", "simulated_weight=0"]
    endless += ["--set", "warm_up=0"]
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments, *endless, "--set", "steps_per_epoch=5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_signals_end_a_training_with_a_checkpoint(
    small_store: Store, tmp_path: Path, tiny: Callable[..., Any]
) -> None:
    """Ctrl-C goes to the whole group, as a terminal sends it; so does a scheduler's SIGTERM."""
    cases = [("int", signal.SIGINT, 1), ("term", signal.SIGTERM, 10_000)]
    running = {
        name: (start_training(small_store.path, tmp_path / name, spare_from), number)
        for name, number, spare_from in cases
    }
    try:
        for name, (process, number) in running.items():
            wait_for(tmp_path / name / "metrics.csv", process)
            os.killpg(process.pid, number)
        for name, (process, _) in running.items():
            out, err = process.communicate(timeout=60)
            assert process.returncode == 3, err
            assert out == ""
            assert "Traceback" not in err
            (message,) = [line for line in err.splitlines() if line.startswith("error: ")]
            assert message == err.splitlines()[-1]
            state = load_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt")
            assert f"stopped at step {state['step']}. Continue with --resume." in message
            assert state["step"] >= 5
            with pytest.raises(ProcessLookupError):
                os.killpg(process.pid, 0)  # no process of the group is left
    finally:
        for process, _ in running.values():
            if process.poll() is None:
                process.kill()
    # What was stopped in the middle equals, once resumed, what was never stopped.
    path = tmp_path / "term"
    epochs = load_checkpoint(path / "checkpoints" / "last.ckpt")["step"] // 5 + 1
    resumed = train(
        small_store,
        path,
        resume=True,
        epochs=epochs,
        validate_every=1000,
        device="cpu",
    )
    whole = train(
        small_store,
        tmp_path / "whole",
        resumed.settings,
        device="cpu",
    )
    states = [load_checkpoint(r.path / "checkpoints" / "last.ckpt") for r in (resumed, whole)]
    for key, value in states[0]["networks"].items():
        assert value.equal(states[1]["networks"][key]), key
    for one, other in zip(resumed.rows, whole.rows, strict=True):
        for loss in ("generators", "back_translation"):
            assert one[loss] == other[loss]


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 300) -> None:
    """Wait until a training has written `path` and is in the next epoch."""
    end = time.monotonic() + seconds
    while not path.exists():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()  # it would train without end
            raise AssertionError(process.communicate()[1])
        time.sleep(0.05)
    time.sleep(0.4)


class TestOverwrite:
    """Every verb that writes takes `--overwrite`, and replaces only what mrbridge wrote."""

    def test_a_file_a_folder_and_a_dataset(
        self, run: Callable[..., Any], tiny_bundle: Bundle, bids_scans: Path, tmp_path: Path
    ) -> None:
        scan = bids_scans / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
        plain = tmp_path / "plain"
        plain.mkdir()
        shutil.copy(scan, plain / "a_T1.nii.gz")
        for given, out in (
            (scan, tmp_path / "made.nii.gz"),
            (plain, tmp_path / "folder"),
            (bids_scans, tmp_path / "derivatives"),
        ):
            command = ["translate", "-m", tiny_bundle.path, "-i", given, "-o", out, "--json"]
            assert run(*command, "--overwrite")[0] == 0
            code, text, _ = run(*command, "--overwrite")
            assert code == 0
            assert answer(text)["skipped"] == 0
        code, _, err = run(*command[:4], scan, *command[5:], "--participant-label", "01")
        assert code == 2
        assert "for BIDS datasets" in err

    def test_what_mrbridge_did_not_write_is_never_replaced(
        self,
        run: Callable[..., Any],
        tiny_bundle: Bundle,
        bids_scans: Path,
        small_store: Store,
        tmp_path: Path,
    ) -> None:
        scan = bids_scans / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
        model = ["-m", tiny_bundle.path]
        image = tmp_path / "mine.nii.gz"
        shutil.copy(bids_scans / "sub-02" / "anat" / "sub-02_T1w.nii.gz", image)
        derivatives = tmp_path / "derivatives"
        by_hand = derivatives / "sub-01" / "anat" / "sub-01_desc-synth_T2w.nii.gz"
        by_hand.parent.mkdir(parents=True)
        shutil.copy(image, by_hand)
        page, table = tmp_path / "page.html", tmp_path / "table.csv"
        page.write_text("<p>mine</p>")
        table.write_text("subject,age\n1,2\n")
        folders = {}
        for name in ("run", "store", "demo", "phantom"):
            folders[name] = tmp_path / name
            folders[name].mkdir()
            (folders[name] / "thesis.txt").write_text("mine")
        (tmp_path / "onnx").mkdir()
        network = tmp_path / "onnx" / "T1w_to_T2w.onnx"
        network.write_bytes(b"mine")
        (tmp_path / "scores").mkdir()
        report = tmp_path / "scores" / "report.html"
        report.write_text("<p>mine</p>")
        files = [p for p in tmp_path.rglob("*") if p.is_file()]
        before = {path: path.read_bytes() for path in files}
        commands = [
            ["translate", *model, "-i", scan, "-o", image],
            ["translate", *model, "-i", bids_scans, "-o", derivatives],
            ["prepare", bids_scans, "-o", folders["store"]],
            ["train", small_store.path, "-o", folders["run"]],
            ["phantom", "-o", folders["phantom"], "--subjects", 1],
            ["demo", "-o", folders["demo"]],
            ["inspect", bids_scans, "-o", page],
            ["inspect", bids_scans, "--fix", table],
            ["export", *model, "-o", tmp_path / "onnx"],
            ["evaluate", *model, "--pairs", bids_scans, "-o", tmp_path / "scores"],
        ]
        for command in commands:
            code, _, err = run(*command, "--overwrite")
            assert code in (1, 2), command
            assert "error: " in err or "1 of 4 scans failed" in err, command
        assert {path: path.read_bytes() for path in files} == before

    def test_a_store_is_made_anew(
        self, run: Callable[..., Any], bids_scans: Path, tmp_path: Path
    ) -> None:
        def times() -> list[int]:
            return [
                p.stat().st_mtime_ns for p in sorted((tmp_path / "s").glob("scans/*/zarr.json"))
            ]

        assert run("prepare", bids_scans, "-o", tmp_path / "s")[0] == 0
        first = times()
        assert run("prepare", bids_scans, "-o", tmp_path / "s")[0] == 0
        assert times() == first
        assert run("prepare", bids_scans, "-o", tmp_path / "s", "--overwrite")[0] == 0
        assert all(new > old for new, old in zip(times(), first, strict=True))

    @pytest.mark.usefixtures("quick_phantom")
    def test_a_run(self, run: Callable[..., Any], small_store: Store, tmp_path: Path) -> None:
        command = ["train", small_store.path, "-o", tmp_path / "run", *TINY]
        assert run(*command, "--set", "epochs=2")[0] == 0
        code, _, err = run(*command)
        assert code == 2
        assert "--overwrite" in err
        assert run(*command, "--overwrite", "--set", "epochs=1")[0] == 0
        assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 2
        code, _, err = run(*command, "--overwrite", "--resume")
        assert code == 2
        assert "either resumed or overwritten" in err

    def test_a_table_of_inspect(
        self, run: Callable[..., Any], bids_scans: Path, tmp_path: Path
    ) -> None:
        command = ["inspect", bids_scans, "--fix", tmp_path / "t.csv", "-o", tmp_path / "p.html"]
        assert run(*command)[0] == 0
        assert run(*command)[0] == 2
        assert run(*command, "--overwrite")[0] == 0

    @pytest.mark.parametrize("verb", ["ixi", "openneuro"])
    def test_downloads_know_it(self, verb: str, run: Callable[..., Any]) -> None:
        assert "--overwrite" in run("download", verb, "-h")[1]


def test_a_shell_completes_verbs_options_and_values() -> None:
    """What the script of `--install-completion` asks, and what the options of a verb are."""

    def completed(line: str) -> list[str]:
        words = line.split(" ")
        asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        done = subprocess.run(
            [sys.executable, "-m", "mrbridge"],
            env=os.environ | asked | {"_MRBRIDGE_COMPLETE": "complete_bash"},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split()

    assert completed("mrbridge tr") == ["train", "translate"]
    assert completed("mrbridge tune --score ") == ["criterion", "psnr"]
    assert "--minutes" in completed("mrbridge benchmark --m")


def test_the_completion_can_be_shown(run: Callable[..., Any]) -> None:
    code, out, _ = run("--show-completion", "bash")
    assert (code, "_MRBRIDGE_COMPLETE=complete_bash" in out) == (0, True)
