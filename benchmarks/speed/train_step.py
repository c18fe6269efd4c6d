"""What a training step costs, against the matrix rate and against a textbook's loop.

    python -m benchmarks.speed.train_step [--presets unet bridge resunet resnet] [--size 256]
        [--rivals textbook textbook_bf16] [--steps 45] [--set KEY=VALUE …] [--device cpu]
        [--repeats 7] [--busy SECONDS] [--out FILE]

Prints one JSON line a preset. The arms take turns, step by step, each in a process of its own, and
so do the products of matrices that give the rates:

- `mrbridge`: the step of `mrbridge train`, without loader and trainer;
- `textbook`: the same networks and losses in plain float32 PyTorch (`textbook.py`);
- `textbook_bf16`: the same under bfloat16 autocast;
- `memory_not_kept` (if asked for): mrbridge's step with the C library's own way to free memory;
- `compiled` (if asked for): mrbridge's step with networks compiled by `torch.compile`.

`operations_tflop` are those of the convolutions which the step needs, counted on the textbook's
networks; every arm's TFLOP/s are these over its seconds, whatever it really computes.
`share_of_rate` is that over the rate of matrix products in this very run, in bfloat16 where that is
in hardware and in float32 elsewhere. An image is a slice of either contrast. `seconds_first` pays
for memory, caches and compilation.

`--busy 10` measures something else instead: how many steps a second mrbridge makes in turns of 10
seconds, undisturbed and next to a process that keeps one core busy, with OpenMP's own way to wait
(its threads spin), with the passive one (they sleep), and with a short spin before they sleep,
which is the default of the command line.

Peak memory is that of the arm's process, libraries included. `epoch_45_seconds` are those of
`--steps` consecutive steps of mrbridge, measured as a whole; `--steps 0` leaves them out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.harness import OwnProcess, alternate, in_turn, options, read, report
from benchmarks.speed.material import QUICK_SIZE, samples, settings_of
from benchmarks.speed.matrix_rate import QUICK_SIZE as QUICK_MATRIX, MatrixProduct, fast_dtype
from benchmarks.speed.textbook import TextbookCycleGAN, step_operations
from mrbridge.dataset.sampling import Sample
from mrbridge.hardware import keep_memory
from mrbridge.settings import read_assignments
from mrbridge.threads import SPINS
from mrbridge.training.model import TranslationModel
from mrbridge.training.settings import PRESETS, TrainSettings

Step = Callable[[Sample], dict[str, torch.Tensor]]


def mrbridge_step(
    settings: TrainSettings, device: torch.device, keeps_memory: bool = True
) -> tuple[Step, TranslationModel]:
    """The training step of mrbridge in the precision that it chooses here, without warm-up.

    Returns:
        The step, and the model that it trains.
    """
    if keeps_memory:
        keep_memory()  # as a training does
    model = TranslationModel(settings.changed({"warm_up": 0.0}))
    model.to_device(device)
    return lambda sample: model.training_step(sample, 0.0), model


ARMS: dict[str, Callable[[TrainSettings, torch.device], Step]] = {
    "mrbridge": lambda settings, device: mrbridge_step(settings, device)[0],
    "textbook": lambda settings, device: TextbookCycleGAN(settings, device).step,
    "textbook_bf16": lambda settings, device: TextbookCycleGAN(settings, device, True).step,
    "memory_not_kept": lambda settings, device: mrbridge_step(settings, device, False)[0],
    "compiled": lambda settings, device: mrbridge_step(settings.changed({"compile": True}), device)[
        0
    ],
}


def main(arguments: list[str] | None = None) -> None:
    """Measure every preset."""
    given = _given(arguments)
    device = torch.device(given.device)
    for preset in given.presets:
        settings = settings_of(
            preset, given.size, given.quick, batch_size=given.batch, seed=given.seed
        ).changed(read_assignments(given.set))
        measure = next_to_busy_process if given.busy else compare
        name = "train_step_busy" if given.busy else "train_step"
        report(name, given, {"preset": preset} | measure(settings, given, device))


def compare(
    settings: TrainSettings, given: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Figures of a preset: all arms and the matrix products, in turn."""
    names = ["mrbridge", *given.rivals]
    steps = {name: OwnProcess(partial(arm, name, settings, device), device) for name in names}
    product = MatrixProduct(device, fast_dtype(device), QUICK_MATRIX if given.quick else None)
    timings = alternate({**steps, "matrix": product}, given.repeats, given.warm_up, device)
    matrix_rate = product.rate(timings["matrix"])
    operations = step_operations(settings, settings.batch_size) / 1e12
    arms: dict[str, dict[str, float]] = {}
    for name in names:
        rate = operations / timings[name].median
        arms[name] = timings[name].figures() | {
            "images_per_second": 2 * settings.batch_size / timings[name].median,
            "tflops": rate,
            "share_of_rate": rate / matrix_rate,
        }
    figures: dict[str, Any] = {
        "networks": settings.networks.model_dump(mode="json"),
        "parameters": settings.networks.describe()["total"],
        "operations_tflop": operations,
        "matrix_tflops": matrix_rate,
        "arms": arms,
    }
    for name in given.rivals:
        arms[name]["times_mrbridge"] = timings[name].median / timings["mrbridge"].median
    if given.steps:
        began = time.perf_counter()
        steps["mrbridge"](given.steps)
        figures[f"epoch_{given.steps}_seconds"] = time.perf_counter() - began
    for name, process in steps.items():
        arms[name] |= process.close()
    return figures


def next_to_busy_process(
    settings: TrainSettings, given: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Steps a second by how threads wait, undisturbed and next to a busy process, in turn."""
    policies: dict[str, dict[str, str]] = {
        "spinning": {},
        "passive": {"OMP_WAIT_POLICY": "passive"},
        "short spin": {"GOMP_SPINCOUNT": SPINS},
    }
    steps = {}
    for name, variables in policies.items():
        with patch.dict(os.environ, variables):  # OpenMP reads it when PyTorch is loaded
            steps[name] = OwnProcess(partial(arm, "mrbridge", settings, device), device)
            steps[name](given.warm_up)

    def count(name: str, is_busy: bool) -> float:
        command = [sys.executable, "-c", "while True: pass"]
        busy = subprocess.Popen(command) if is_busy else None
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < given.busy:
            steps[name]()
            done += 1
        seconds = time.perf_counter() - began
        if busy is not None:
            busy.kill()
            busy.wait()
        return done / seconds

    calls = {
        f"{name} {'busy' if is_busy else 'undisturbed'}": partial(count, name, is_busy)
        for is_busy in (False, True)
        for name in policies
    }
    rates = in_turn(calls, given.repeats, 0)
    for process in steps.values():
        process.close()
    load = os.getloadavg()[2]  # what else the machine had to do
    return {"steps_per_second": {k: median(v) for k, v in rates.items()}, "load": load}


def arm(name: str, settings: TrainSettings, device: torch.device) -> Callable[[], object]:
    """The step of an arm, with the next of a few samples at each call."""
    step = ARMS[name](settings, device)
    drawn = cycle(samples(settings, 8, settings.seed, device))
    return lambda: step(next(drawn))


def _given(arguments: list[str] | None) -> argparse.Namespace:
    rivals = [name for name in ARMS if name != "mrbridge"]
    usual = ["textbook", "textbook_bf16"]
    parser = options(__doc__, repeats=7, warm_up=2)
    parser.add_argument("--presets", nargs="+", default=["unet"], choices=list(PRESETS))
    parser.add_argument("--rivals", nargs="*", default=usual, choices=rivals)
    parser.add_argument("--size", type=int, default=256, help="rows and columns")
    parser.add_argument("--set", nargs="*", default=[], help="settings, as `mrbridge train --set`")
    parser.add_argument("--batch", type=int, default=1, help="slices of each contrast in a step")
    parser.add_argument("--steps", type=int, default=45, help="of the epoch")
    parser.add_argument("--busy", type=float, default=0, help="seconds a turn; see above")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    return read(parser, arguments, size=QUICK_SIZE, repeats=1, warm_up=1, steps=3)


if __name__ == "__main__":
    main()
