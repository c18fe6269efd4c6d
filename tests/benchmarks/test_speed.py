"""Every speed benchmark runs in its quick mode, and its numbers are plausible and consistent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import harness
from benchmarks.speed import (
    gpu,
    loader,
    matrix_rate,
    scaling,
    schemes,
    tables,
    translate_volume,
    versus_cyclegan,
)

from mrbridge.hardware import fast_bfloat16

Run = Callable[..., list[dict[str, Any]]]


def check_timing(timing: dict[str, float]) -> None:
    assert 0 < timing["seconds_min"] <= timing["seconds"] <= timing["seconds_max"]
    assert timing["seconds_first"] > 0


def check_command(timing: dict[str, float]) -> None:
    check_timing(timing)
    assert 0.005 < timing["peak_memory_gib"] < 4


def test_matrix_rate(run_script: Run) -> None:
    (line,) = run_script("matrix_rate", "--quick")
    for rate in line["rates"]["cpu"].values():
        assert 0 < rate["lowest"] <= rate["best"]
    assert line["rates"]["cpu"]["copy_gb_per_second"]["best"] < 5000


@pytest.mark.slow
def test_train_step(run_script: Run) -> None:
    presets = ["unet", "bridge"]
    lines = run_script("train_step", "--quick", "--presets", *presets)
    assert [line["preset"] for line in lines] == presets
    for line in lines:
        assert set(line["arms"]) == {"mrbridge", "textbook", "textbook_bf16"}
        for arm in line["arms"].values():
            check_timing(arm)
            assert 0 < arm["share_of_rate"] < 3
            assert arm["tflops"] * arm["seconds"] == pytest.approx(
                line["operations_tflop"], rel=1e-3
            )
        assert line["arms"]["textbook"]["times_mrbridge"] > 0
        assert line["epoch_3_seconds"] > 0
        assert line["parameters"] > 0


def test_train_step_without_rivals_and_epoch(run_script: Run) -> None:
    (line,) = run_script("train_step", "--quick", "--rivals", "--steps", "0")
    (arm,) = line["arms"].values()
    assert 0.1 < arm["peak_memory_gib"] < 3
    assert "epoch_0_seconds" not in line


@pytest.mark.nightly
def test_train_step_beside_a_busy_process(run_script: Run) -> None:
    (line,) = run_script("train_step", "--quick", "--busy", "0.2")
    rates = line["steps_per_second"]
    policies = ("spinning", "passive", "short spin")
    names = [f"{policy} {when}" for when in ("undisturbed", "busy") for policy in policies]
    assert list(rates) == names
    assert all(rate > 0 for rate in rates.values())


def test_rates_are_of_what_the_processor_multiplies_fast(
    run_script: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix_rate, "fast_bfloat16", lambda _: False)
    (line,) = run_script("matrix_rate", "--quick")
    assert set(line["rates"]["cpu"]) == {"float32_tflops", "copy_gb_per_second"}


@pytest.mark.slow
def test_engines(run_script: Run) -> None:
    (line,) = run_script("engines", "--quick", "--preset", "bridge")
    assert set(line["milliseconds"]) == {"mrbridge", "pytorch", "onnxruntime"}
    assert all(time > 0 for time in line["milliseconds"].values())
    assert line["times_fastest_rival"] > 0


PUBLISHED = """
import torch
class CycleGANModel:
    def __init__(self, options):
        assert (options.netG, options.netD, options.gan_mode) == ("unet_32", "basic", "vanilla")
        assert (options.lambda_A, options.lambda_identity) == (10.0, 0.5)
        assert options.input_nc == options.output_nc == 1
    def set_input(self, images):
        self.shapes = images["A"].shape, images["B"].shape
    def optimize_parameters(self):
        assert self.shapes == ((2, 1, 32, 32),) * 2
        torch.ones(9).sum()
"""


@pytest.mark.slow
def test_the_published_code_and_ours_take_turns(run_script: Run, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "cycle_gan_model.py").write_text(PUBLISHED, encoding="utf-8")
    (line,) = run_script(
        "versus_cyclegan", str(tmp_path), "--quick", "--preset", "unet", "--batch", "2"
    )
    assert set(line["arms"]) == {"mrbridge", "published"}
    assert 0 < line["times_mrbridge"] < 1


def test_another_folder_than_the_published_code_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        versus_cyclegan.main([str(tmp_path)])
    assert ended.value.code == 2
    assert "there is no models/cycle_gan_model.py" in capsys.readouterr().err


def test_profile_step(run_script: Run) -> None:
    (line,) = run_script("profile_step", "--quick")
    times = line["milliseconds"]
    whole = times.pop("all")
    assert sum(times.values()) == pytest.approx(whole, rel=1e-3)
    assert len(times) > 5
    assert all(milliseconds > 0 for milliseconds in times.values())


def test_layers(run_script: Run) -> None:
    (line,) = run_script("layers", "--quick")
    assert {layer["layer"][0] for layer in line["layers"]} == {"halving", "doubling"}
    for layer in line["layers"]:
        assert len(layer["milliseconds"]) == 6
        assert all(time > 0 for time in [*layer["milliseconds"].values(), layer["floor"]])
        assert 0 < layer["error"]["channels_last"] < layer["error"]["mrbridge"] < 0.02


def test_schemes(run_script: Run) -> None:
    (line,) = run_script("schemes", "--quick")
    for layer in line["layers"]:
        for part in ("products", "maps"):
            assert layer[part]["milliseconds"] > 0
            assert layer[part]["floor"] > 0
    assert set(line["times_floor"]) == {"products", "maps"}


def test_operations_and_bytes_of_a_scheme() -> None:
    parts = schemes.Parts(64, 8, 128, 1)  # four blocks of 2x2 results
    assert parts.operations == 3 * 2 * 9 * 4 * 256 * 128
    assert parts.bytes == 2 * 2 * (9 * 4 * 256 + 8 * 8 * 64 + 9 * 4 * 128 + 4 * 4 * 128)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "losses"),
    [
        ("unet", {"generators", "cycle", "identity", "source_critic"}),
        ("bridge", {"generators", "back_translation", "simulated"}),
    ],
)
def test_parity(preset: str, losses: set[str], run_script: Run) -> None:
    (line,) = run_script("parity", "--quick", "--preset", preset)
    assert losses <= set(line["curves"])
    for curve in line["curves"].values():
        assert len(curve["float32"]) == len(curve["bfloat16"]) == len(curve["spread"]) == 1
        assert curve["bfloat16"] == pytest.approx(curve["float32"], rel=0.1)
    for score in line["scores"].values():
        means = [np.mean(score[precision]) for precision in ("bfloat16", "float32")]
        assert score["difference"] == pytest.approx(means[0] - means[1], abs=1e-3)
        assert score["spread"] >= 0
    assert all(seconds > 0 for each in line["seconds_a_step"].values() for seconds in each)


def test_stages(run_script: Run) -> None:
    (line,) = run_script("stages", "--quick")
    seconds = line["seconds"]
    assert all(seconds[stage] > 0 for stage in set(seconds) - {"others"})
    assert -0.01 < seconds["others"] < 0.8 * seconds["whole"], (
        "stages overlap, or too much time is unaccounted for"
    )


def test_translate_volume(run_script: Run) -> None:
    (line,) = run_script("translate_volume", "--quick")
    assert line["floor_seconds"] > 0
    assert 0 < line["slices_translated"] <= line["shape"][2]
    engine = line["engines"]["torch"]
    check_timing(engine["slices"])
    check_timing(engine["volume"])
    check_command(engine["command"])
    assert engine["volume"]["seconds"] < engine["command"]["seconds"]
    assert engine["max_difference"] < 0.1


def test_rounding(run_script: Run) -> None:
    (line,) = run_script("rounding", "--quick")
    assert 0 <= line["faint"] < line["slices"]
    for way in ("kept", "throughout"):
        assert line[way]["max_difference_not_faint"] <= line[way]["max_difference"]
    if fast_bfloat16(torch.device("cpu")):
        assert line["kept"]["psnr"] > line["throughout"]["psnr"] + 1


def test_differences_are_of_a_range_of_one() -> None:
    reference = np.zeros((2, 4, 4), np.float32)
    made = reference.copy()
    made[0] += 0.02  # half of the voxels, by 1 % of the range from -1 to 1
    line = translate_volume.differences(made, reference)
    assert line["max_difference"] == pytest.approx(0.01)
    assert line["psnr"] == pytest.approx(-10 * np.log10(0.5 * 0.01**2), abs=1e-3)


def test_prepare(run_script: Run) -> None:
    (line,) = run_script("prepare", "--quick")
    assert line["volumes"] == 6
    check_command(line["workers"]["1"])
    one = line["workers"]["1"]
    assert one["volumes_per_minute"] * one["seconds"] == pytest.approx(360, rel=1e-3)
    assert one["speed_up"] == 1


@pytest.mark.nightly
def test_folder(run_script: Run) -> None:
    (line,) = run_script("folder", "--quick")
    for command in ("one", "one busy", "folder", "one thread", "two workers", "dask"):
        check_command(line["commands"][command])
    seconds = {name: one["seconds"] for name, one in line["commands"].items()}
    assert line["later_seconds"] == pytest.approx(seconds["folder"] - seconds["one"], rel=1e-3)
    for name, speed_up in line["speed_up"].items():
        assert speed_up == pytest.approx(seconds["one thread"] / seconds[name], rel=1e-3)


def test_loader(run_script: Run) -> None:
    lines = run_script("loader", "--quick")
    assert [line["preset"] for line in lines] == ["unet", "bridge"]
    assert lines[0]["pairs"] == 0
    slices_of_both = (2, 6 + 2 * bool(lines[1]["pairs"]))
    for line, slices in zip(lines, slices_of_both, strict=True):
        assert 0 <= line["waiting_share"] < 1
        assert 0 < line["waiting_share_from_start"] < 1
        assert line["waiting_seconds"] < line["step_seconds"]
        assert line["slices_per_second"] * line["batch_seconds"] == pytest.approx(slices, rel=1e-3)


def test_waiting_time_is_from_request_to_arrival() -> None:
    watched = loader.Watched([])
    # A batch arrives every second, a quarter of a second after it is requested.
    watched.given = [float(n) for n in range(8)]
    watched.asked = [there - 0.25 for there in watched.given]
    line = loader.waiting(watched, skip=2)
    assert line == {
        "steps": 4,
        "step_seconds": 1.0,
        "waiting_seconds": 0.25,
        "waiting_share": 0.25,
    }


def test_startup(run_script: Run) -> None:
    (line,) = run_script("startup", "--quick")
    assert set(line["commands"]) == {
        *("help", "missing_file", "missing_model", "slice"),
        *("python", "import_torch"),
    }
    for command in line["commands"].values():
        check_command(command)
    assert line["commands"]["help"]["seconds"] < line["commands"]["slice"]["seconds"]
    assert line["imports_torch"]["help"] is False


@pytest.mark.slow
def test_scaling(run_script: Run) -> None:
    (line,) = run_script("scaling", "--quick")
    for verb in ("prepare", "inspect", "translate"):
        assert set(line[verb]["by_scans"]) == {"4", "8"}
        for one in line[verb]["by_scans"].values():
            assert one["cpu_seconds"] > 0
            assert one["seconds"] > 0
            assert 0.01 < one["peak_memory_gib"] < 4


def test_growth_is_the_slope_between_numbers_of_scans() -> None:
    # Two seconds to start, a tenth a scan up to 100, a fifth from there on; 1 MiB in ten scans.
    measured = {10: (3.0, 1.0), 100: (12.0, 1.0 + 9 / 1024), 200: (32.0, 1.0 + 19 / 1024)}
    # Wall-clock time, which depends on what else the machine does, does not count.
    done = [
        scaling.figures_of(harness.Finished(2 * seconds, seconds, peak, "", ""))
        for seconds, peak in measured.values()
    ]
    line = scaling.growth(list(measured), done)
    assert line["cpu_seconds_a_scan"] == pytest.approx([0.1, 0.2])
    assert line["slope_ratio"] == pytest.approx(2)
    assert line["mib_a_thousand_scans"] == pytest.approx(100)


def test_tables_print_what_the_lines_hold(
    tmp_path: Path,
    run_script: Run,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (line,) = run_script("matrix_rate", "--quick", "--out", str(tmp_path / "lines.jsonl"))
    assert tables.read_lines(tmp_path) == [], "numbers of quick runs mean nothing"
    line["options"]["quick"] = False
    (tmp_path / "lines.jsonl").write_text(json.dumps(line))
    tables.main([str(tmp_path)])
    rate = line["rates"]["cpu"]["float32_tflops"]["best"]
    assert f"| cpu | {rate:.3g} |" in capsys.readouterr().out


@pytest.mark.nightly
def test_the_gpu_benchmark_runs_on_a_cpu(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_script = {script: (script, *options) for script, *options in gpu.PARTS.values()}
    monkeypatch.setattr(gpu, "PARTS", by_script)  # each script once
    out = tmp_path / "gpu.jsonl"
    gpu.main(["--quick", "--device", "cpu", "--minutes", "60", "--out", str(out)])
    assert capfd.readouterr().err == "", "no part failed or was stopped"
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    scripts = {"matrix_rate", "train_step", "translate_volume", "parity"}
    assert {line["benchmark"] for line in lines} == set(by_script) == scripts


def test_parts_of_the_gpu_benchmark_are_stopped_when_the_time_is_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "gpu.jsonl")]
    gpu.main(["--quick", "--device", "cpu", "--minutes", "0.001", *out])
    assert capsys.readouterr().err.count("stopped, no time left") == len(gpu.PARTS)
