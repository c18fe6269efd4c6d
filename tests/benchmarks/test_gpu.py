"""The GPU's benchmark runs from end to end on a CPU, and loses nothing when time runs out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def gpu(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("gpu")


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def quick(gpu: ModuleType, out: Path, *more: str) -> Any:
    return gpu._given(["--quick", "--device", "cpu", "--out", str(out), *more])


@pytest.fixture(scope="module")
def told(
    script: Callable[[str], ModuleType], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """The lines of all parts, run here instead of in processes of their own."""
    module, out = script("gpu"), tmp_path_factory.mktemp("gpu") / "gpu.jsonl"

    def here(name: str, given: Any, seconds: float) -> str:
        module.run_part(name, given)
        return "done"

    module.run_all(quick(module, out), here)
    return lines_of(out)


def named(told: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [line for line in told if line["benchmark"] == name]


def test_all_parts_run_and_the_last_line_says_so(
    told: list[dict[str, Any]], gpu: ModuleType
) -> None:
    last = told[-1]
    assert last["benchmark"] == "gpu"
    assert list(last["parts"]) == list(gpu.PARTS)
    assert all(part["ended"] == "done" for part in last["parts"].values())
    for name in ("matrix_rate", "translate_volume", "parity"):
        assert len(named(told, name)) == 1


@pytest.mark.parametrize("preset", ["unet", "bridge", "resnet", "resunet"])
def test_steps_tell_all_arms(preset: str, told: list[dict[str, Any]]) -> None:
    lines = named(told, f"gpu_steps_{preset}")
    arms = {line["arm"] for line in lines}
    assert arms >= {"channels_last", "contiguous", "textbook", "textbook_bf16"}
    for line in lines:
        assert line["images_per_second"] == pytest.approx(2 / line["seconds"], rel=1e-3)
        assert line["tflops"] > 0
        assert line["seconds_first"] > 0


def test_the_sweep_grows_the_batch(told: list[dict[str, Any]]) -> None:
    for preset in ("unet", "bridge"):
        batches = [line["batch"] for line in named(told, f"gpu_sweep_{preset}")]
        assert batches == [1, 2]


def test_trainings_from_both_sources(told: list[dict[str, Any]]) -> None:
    lines = named(told, "gpu_train")
    assert [(line["preset"], line["data"]) for line in lines] == [
        (preset, data) for preset in ("unet", "bridge") for data in ("resident", "loader")
    ]
    assert all(line["images_per_second"] > 0 for line in lines)


def test_a_part_runs_in_a_process_of_its_own(gpu: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "gpu.jsonl"
    assert gpu.in_fresh_process("matrix_rate", quick(gpu, out), 120) == "done"
    assert [line["benchmark"] for line in lines_of(out)] == ["matrix_rate"]
    assert gpu.in_fresh_process("matrix_rate", quick(gpu, out), 0.05).startswith("stopped")


def test_parts_that_no_longer_fit_are_skipped_and_failures_go_on(
    gpu: ModuleType, tmp_path: Path
) -> None:
    parts = ["--parts", "parity", "steps_unet", "matrix_rate"]
    out = str(tmp_path / "x.jsonl")
    given = gpu._given(["--device", "cpu", "--minutes", "0.6", "--out", out, *parts])
    gpu.run_all(given, lambda name, *_: "failed" if name == "steps_unet" else "done")
    (line,) = lines_of(tmp_path / "x.jsonl")
    ended = {name: part["ended"] for name, part in line["parts"].items()}
    assert ended == {
        "parity": "skipped: no time left",
        "steps_unet": "failed",
        "matrix_rate": "done",
    }


def test_without_a_gpu_it_says_so(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as caught:
        gpu.main([])
    assert caught.value.code == 2
    assert "no CUDA device" in capsys.readouterr().out
