"""Rivals take turns, every command is measured in a fresh process, and JSON lines are complete."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import harness
from benchmarks.speed import matrix_rate


def test_rivals_take_turns() -> None:
    order: list[str] = []
    rivals = {name: lambda name=name: order.append(name) for name in "AB"}
    timings = harness.alternate(rivals, repeats=3, warm_up=2)
    assert "".join(order) == "AB" * 5
    assert [len(timings[name].seconds) for name in "AB"] == [3, 3]


def test_the_slower_rival_is_the_slower_one() -> None:
    rivals = {"short": lambda: time.sleep(0.01), "long": lambda: time.sleep(0.03)}
    timings = harness.alternate(rivals, repeats=3, warm_up=0)
    assert timings["short"].median >= 0.01
    assert timings["long"].median > timings["short"].median
    assert timings["long"].figures(per=2)["seconds"] == timings["long"].median / 2


def test_the_warm_up_is_reported_but_not_counted() -> None:
    naps = iter([0.3, 0.0, 0.0, 0.0])
    timing = harness.alternate({"one": lambda: time.sleep(next(naps))}, repeats=3, warm_up=1)["one"]
    assert timing.first >= 0.3
    assert max(timing.seconds) < 0.3


def test_memory_is_that_of_the_command_and_not_of_this_process() -> None:
    held = np.ones(2**25)  # 256 MiB, resident in this process
    idle = harness.run_command([sys.executable, "-c", "pass"])
    code = "import time; held = bytearray(2**27); held[::4096] = b'x' * 2**15; time.sleep(0.2)"
    busy = harness.run_command([sys.executable, "-c", code])
    assert held.nbytes / 2**30 == 0.25
    assert idle.peak_gib < 0.1
    assert 0.125 < busy.peak_gib < 0.2
    assert busy.seconds > 0.2


def test_a_failing_command_is_not_measured() -> None:
    failing = [sys.executable, "-c", "import sys; print('text'); sys.exit(3)"]
    with pytest.raises(RuntimeError, match="exit code 3"):
        harness.run_command(failing)
    assert harness.run_command(failing, code=3).output == "text\n"


def test_a_line_is_printed_and_appended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results" / "x.jsonl"
    given = argparse.Namespace(seed=3, repeats=5, out=file)
    for number in (1 / 3, 2e-7):
        harness.report("x", given, {"inner": {"seconds": number}})
    printed = capsys.readouterr().out
    assert file.read_text(encoding="utf-8") == printed
    first, second = map(json.loads, printed.splitlines())
    assert first["options"] == {"seed": 3, "repeats": 5}
    assert first["inner"] == {"seconds": 0.33333}
    assert second["inner"] == {"seconds": 2e-7}


def test_quick_changes_defaults_only() -> None:
    parser = harness.options("About.", repeats=9)
    assert harness.read(parser, [], repeats=1).repeats == 9
    assert harness.read(harness.options("About.", 9), ["--quick"], repeats=1).repeats == 1
    given = harness.read(harness.options("About.", 9), ["--quick", "--repeats", "4"], repeats=1)
    assert given.repeats == 4


def test_the_matrix_rate_is_operations_by_seconds() -> None:
    cpu = torch.device("cpu")
    product = matrix_rate.MatrixProduct(cpu, torch.float32, size=100, times=3)
    half_second = harness.Timing([0.5, 0.5, 9.0], 1.0)
    assert product.rate(half_second) == pytest.approx(3 * 2 * 100**3 / 0.5 / 1e12)
    copy = matrix_rate.Copy(cpu, 1000)
    assert copy.rate(half_second) == pytest.approx(2 * 4 * 1000 / 0.5 / 1e9)
