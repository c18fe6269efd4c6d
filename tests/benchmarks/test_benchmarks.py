"""Every script runs in its quick mode, and its figures can be true."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from mrbridge.hardware import fast_bfloat16
from mrbridge.volume import Volume

Run = Callable[..., list[dict[str, Any]]]


def check_timing(told: dict[str, float]) -> None:
    assert 0 < told["seconds_min"] <= told["seconds"] <= told["seconds_max"]
    assert told["seconds_first"] > 0


def check_command(told: dict[str, float]) -> None:
    check_timing(told)
    assert 0.005 < told["peak_memory_gib"] < 4


def test_matrix_rate(run_script: Run) -> None:
    (told,) = run_script("matrix_rate", "--quick")
    for rate in told["rates"]["cpu"].values():
        assert 0 < rate["lowest"] <= rate["best"]
    assert told["rates"]["cpu"]["copy_gb_per_second"]["best"] < 5000


def test_train_step(run_script: Run) -> None:
    presets = ["unet", "bridge"]
    lines = run_script("train_step", "--quick", "--presets", *presets)
    assert [told["preset"] for told in lines] == presets
    for told in lines:
        assert set(told["arms"]) == {"mrbridge", "textbook", "textbook_bf16"}
        for arm in told["arms"].values():
            check_timing(arm)
            assert 0 < arm["share_of_bfloat16_rate"] < 3
            assert arm["tflops"] * arm["seconds"] == pytest.approx(
                told["operations_tflop"], rel=1e-3
            )
        assert told["arms"]["textbook"]["times_mrbridge"] > 0
        assert told["epoch_3_seconds"] > 0
        assert told["parameters"] > 0


def test_train_step_without_rivals_and_epoch(run_script: Run) -> None:
    (told,) = run_script("train_step", "--quick", "--rivals", "--steps", "0")
    (arm,) = told["arms"].values()
    assert 0.1 < arm["peak_memory_gib"] < 3
    assert "epoch_0_seconds" not in told


def test_train_step_beside_a_busy_process(run_script: Run) -> None:
    (told,) = run_script("train_step", "--quick", "--beside", "0.2")
    rates = told["steps_per_second"]
    policies = ("spinning", "passive")
    names = [f"{policy} {when}" for when in ("alone", "beside") for policy in policies]
    assert list(rates) == names
    assert all(rate > 0 for rate in rates.values())


def test_profile_step(run_script: Run) -> None:
    (told,) = run_script("profile_step", "--quick")
    times = told["milliseconds"]
    whole = times.pop("all")
    assert sum(times.values()) == pytest.approx(whole, rel=1e-3)
    assert any("conv" in name or "bmm" in name for name in times)


def test_layers(run_script: Run) -> None:
    (told,) = run_script("layers", "--quick")
    assert {layer["layer"][0] for layer in told["layers"]} == {"halving", "doubling"}
    for layer in told["layers"]:
        assert len(layer["milliseconds"]) == 6
        assert all(time > 0 for time in [*layer["milliseconds"].values(), layer["floor"]])
        assert 0 < layer["error"]["channels_last"] < layer["error"]["mrbridge"] < 0.02


def test_schemes(run_script: Run) -> None:
    (told,) = run_script("schemes", "--quick")
    for layer in told["layers"]:
        for part in ("products", "maps"):
            assert layer[part]["milliseconds"] > 0
            assert layer[part]["floor"] > 0
    assert set(told["times_floor"]) == {"products", "maps"}


def test_operations_and_bytes_of_a_scheme(script: Callable[[str], ModuleType]) -> None:
    parts = script("schemes").Parts(64, 8, 128, 1)  # four blocks of 2x2 results
    assert parts.operations == 3 * 2 * 9 * 4 * 256 * 128
    assert parts.bytes == 2 * 2 * (9 * 4 * 256 + 8 * 8 * 64 + 9 * 4 * 128 + 4 * 4 * 128)


@pytest.mark.parametrize(
    ("preset", "losses"),
    [
        ("unet", {"generators", "cycle", "identity", "source_critic"}),
        ("bridge", {"generators", "back_translation", "simulated"}),
    ],
)
def test_parity(preset: str, losses: set[str], run_script: Run) -> None:
    (told,) = run_script("parity", "--quick", "--preset", preset)
    assert losses <= set(told["curves"])
    for curve in told["curves"].values():
        assert len(curve["float32"]) == len(curve["bfloat16"]) == len(curve["spread"]) == 1
        assert curve["bfloat16"] == pytest.approx(curve["float32"], rel=0.1)
    for score in told["scores"].values():
        means = [np.mean(score[precision]) for precision in ("bfloat16", "float32")]
        assert score["difference"] == pytest.approx(means[0] - means[1], abs=1e-3)
        assert score["spread"] >= 0
    assert all(seconds > 0 for each in told["seconds_a_step"].values() for seconds in each)


def test_stages(run_script: Run) -> None:
    (told,) = run_script("stages", "--quick")
    seconds = told["seconds"]
    assert all(seconds[stage] > 0 for stage in set(seconds) - {"faint", "others"})
    assert seconds["faint"] >= 0
    assert -0.01 < seconds["others"] < 0.8 * seconds["whole"], "stages overlap, or tell too little"


def test_translate_volume(run_script: Run) -> None:
    (told,) = run_script("translate_volume", "--quick")
    assert told["floor_seconds"] > 0
    assert 0 < told["slices_translated"] <= told["shape"][2]
    engine = told["engines"]["torch"]
    check_timing(engine["slices"])
    check_timing(engine["volume"])
    check_command(engine["command"])
    assert engine["volume"]["seconds"] < engine["command"]["seconds"]
    assert (engine["max_difference"], engine["psnr"]) == (0, None)


def test_thicker_slices_stay_where_they_were(script: Callable[[str], ModuleType]) -> None:
    """The mean of two slices lies between them, and covers what they covered."""
    affine = np.diag([2.0, -1.0, 3.0, 1.0])
    affine[:3, 3] = 5, 6, 7
    voxels = np.arange(2 * 3 * 7).reshape(2, 3, 7)
    thick = script("planes").thicker(Volume(voxels, affine), 2)
    assert thick.voxels.shape == (2, 3, 3)
    np.testing.assert_array_equal(thick.voxels[..., 1], voxels[..., 2:4].mean(-1))
    np.testing.assert_allclose(thick.affine @ (0, 0, 1, 1), affine @ (0, 0, 2.5, 1))
    turned = Volume(voxels.transpose(2, 0, 1), affine[:, [2, 0, 1, 3]])
    again = script("planes").thicker(turned, 2)
    np.testing.assert_array_equal(again.voxels, thick.voxels.transpose(2, 0, 1))


def test_rounding(run_script: Run) -> None:
    (told,) = run_script("rounding", "--quick")
    assert 0 <= told["faint"] < told["slices"]
    for way in ("kept", "throughout"):
        assert told[way]["max_difference_not_faint"] <= told[way]["max_difference"]
    if fast_bfloat16(torch.device("cpu")):
        assert 0 < told["kept"]["max_difference"] < told["throughout"]["max_difference"]


def test_differences_are_of_a_range_of_one(script: Callable[[str], ModuleType]) -> None:
    reference = np.zeros((2, 4, 4), np.float32)
    made = reference.copy()
    made[0] += 0.02  # half of the voxels, by 1 % of the range from -1 to 1
    told = script("translate_volume").differences(made, reference)
    assert told["max_difference"] == pytest.approx(0.01)
    assert told["psnr"] == pytest.approx(-10 * np.log10(0.5 * 0.01**2), abs=1e-3)


def test_prepare(run_script: Run) -> None:
    (told,) = run_script("prepare", "--quick")
    assert told["volumes"] == 6
    check_command(told["workers"]["1"])
    one = told["workers"]["1"]
    assert one["volumes_per_minute"] * one["seconds"] == pytest.approx(360, rel=1e-3)
    assert one["speed_up"] == 1


def test_loader(run_script: Run) -> None:
    lines = run_script("loader", "--quick")
    assert [told["preset"] for told in lines] == ["unet", "bridge"]
    assert lines[0]["pairs"] == 0
    slices_of_both = (2, 6 + 2 * bool(lines[1]["pairs"]))
    for told, slices in zip(lines, slices_of_both, strict=True):
        assert 0 <= told["waiting_share"] < 1
        assert 0 < told["waiting_share_from_start"] < 1
        assert told["waiting_seconds"] < told["step_seconds"]
        assert told["slices_per_second"] * told["batch_seconds"] == pytest.approx(slices, rel=1e-3)


def test_waiting_is_between_asking_and_getting(script: Callable[[str], ModuleType]) -> None:
    loader = script("loader")
    watched = loader.Watched([])
    # A batch every second; each is asked for a quarter of a second before it is there.
    watched.given = [float(n) for n in range(8)]
    watched.asked = [there - 0.25 for there in watched.given]
    told = loader.waiting(watched, skip=2)
    assert told == {
        "steps": 4,
        "step_seconds": 1.0,
        "waiting_seconds": 0.25,
        "waiting_share": 0.25,
    }


def test_startup(run_script: Run) -> None:
    (told,) = run_script("startup", "--quick")
    assert set(told["commands"]) == {
        *("help", "missing_file", "missing_model", "slice"),
        *("python", "import_torch"),
    }
    for command in told["commands"].values():
        check_command(command)
    assert told["commands"]["help"]["seconds"] < told["commands"]["slice"]["seconds"]
    assert told["imports_torch"]["help"] is False


def test_scaling(run_script: Run) -> None:
    (told,) = run_script("scaling", "--quick")
    for verb in ("prepare", "inspect", "translate"):
        assert set(told[verb]["by_scans"]) == {"4", "8"}
        for one in told[verb]["by_scans"].values():
            assert one["cpu_seconds"] > 0
            assert one["seconds"] > 0
            assert 0.01 < one["peak_memory_gib"] < 4


def test_growth_tells_a_slope_between_numbers_of_scans(
    script: Callable[[str], ModuleType],
) -> None:
    scaling, harness = script("scaling"), script("harness")
    # Two seconds to start, a tenth a scan up to 100, a fifth from there on; 1 MiB in ten scans.
    measured = {10: (3.0, 1.0), 100: (12.0, 1.0 + 9 / 1024), 200: (32.0, 1.0 + 19 / 1024)}
    # What else the machine was doing meanwhile is no matter.
    done = [
        scaling.told_of(harness.Finished(2 * seconds, seconds, peak, "", ""))
        for seconds, peak in measured.values()
    ]
    told = scaling.growth(list(measured), done)
    assert told["cpu_seconds_a_scan"] == pytest.approx([0.1, 0.2])
    assert told["slope_ratio"] == pytest.approx(2)
    assert told["mib_a_thousand_scans"] == pytest.approx(100)


def test_tables_tell_what_the_lines_hold(
    tmp_path: Path,
    run_script: Run,
    script: Callable[[str], ModuleType],
    capsys: pytest.CaptureFixture[str],
) -> None:
    tables = script("tables")
    (told,) = run_script("matrix_rate", "--quick", "--out", str(tmp_path / "lines.jsonl"))
    assert tables.read_lines(tmp_path) == [], "figures of quick runs mean nothing"
    told["options"]["quick"] = False
    (tmp_path / "lines.jsonl").write_text(json.dumps(told))
    tables.main([str(tmp_path)])
    rate = told["rates"]["cpu"]["float32_tflops"]["best"]
    assert f"| cpu | {rate:.3g} |" in capsys.readouterr().out
