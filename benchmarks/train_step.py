"""What a training step costs, against the matrix rate and against a textbook's loop.

    python benchmarks/train_step.py [--presets unet bridge resunet resnet] [--size 256]
        [--rivals textbook textbook_bf16] [--steps 45] [--device cpu] [--repeats 7] [--out FILE]

Prints one JSON line a preset. The arms take turns, step by step, in one process, and so do the
products of matrices that give the rates:

- `mrbridge`: the step of `mrbridge train`, without loader and trainer;
- `textbook`: the same networks and losses in plain float32 PyTorch (`textbook.py`);
- `textbook_bf16`: the same under bfloat16 autocast.

`operations_tflop` are those of the convolutions which the step needs, counted on the textbook's
networks; every arm's TFLOP/s are these over its seconds, whatever it really computes.
`share_of_bfloat16_rate` is that over the rate of bfloat16 products in this very run. An image is a
slice of either contrast. `seconds_first` pays for memory, caches and compilation.

Peak memory is that of a fresh process which does nothing but a few steps of the arm (`--only ARM`),
libraries included; `seconds_alone` are those of its steps, which no other arm can have disturbed.
`epoch_45_seconds` are those of `--steps` consecutive steps of mrbridge, measured as a whole;
`--steps 0` leaves them out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

from harness import alternate, options, read, report, run_command
from material import QUICK_SIZE, samples, settings_of
from matrix_rate import QUICK_SIZE as QUICK_MATRIX
from matrix_rate import MatrixProduct
from mrbridge.data.dataset import Sample
from mrbridge.hardware import fast_bfloat16
from mrbridge.training.cyclegan import CycleGAN
from mrbridge.training.settings import PRESETS, TrainSettings
from textbook import TextbookCycleGAN, step_operations

Step = Callable[[Sample], dict[str, torch.Tensor]]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def mrbridge_step(settings: TrainSettings, device: torch.device) -> tuple[Step, CycleGAN]:
    """The training step of mrbridge in the precision that it chooses here, without Lightning.

    Returns:
        The step, and the model that it trains.
    """
    model = CycleGAN(settings).to(device)
    wired: Any = model
    optimizers = tuple(wired.configure_optimizers())
    wired._optimizers = lambda: optimizers
    wired.manual_backward = lambda loss: loss.backward()
    enabled = fast_bfloat16(device)

    def step(sample: Sample) -> dict[str, torch.Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            return model.training_step(sample, 0)

    return step, model


ARMS: dict[str, Callable[[TrainSettings, torch.device], Step]] = {
    "mrbridge": lambda settings, device: mrbridge_step(settings, device)[0],
    "textbook": lambda settings, device: TextbookCycleGAN(settings, device).step,
    "textbook_bf16": lambda settings, device: TextbookCycleGAN(settings, device, True).step,
}


def main(arguments: list[str] | None = None) -> None:
    """Measure every preset, or do a few steps of one arm."""
    given = _given(arguments)
    device = torch.device(given.device)
    for preset in given.presets:
        settings = settings_of(
            preset, given.size, given.quick, batch_size=given.batch, seed=given.seed
        )
        if given.only:
            report("train_step_alone", given, alone(settings, given.only, device, given.repeats))
        else:
            figures = compare(settings, given, device)
            if given.memory:
                for name, told in figures["arms"].items():
                    told.update(memory_of(preset, name, given))
            report("train_step", given, {"preset": preset} | figures)


def compare(
    settings: TrainSettings, given: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Figures of a preset: all arms and the matrix products, in turn."""
    drawn = samples(settings, 8, given.seed, device)
    names = ["mrbridge", *given.rivals]
    steps = {name: ARMS[name](settings, device) for name in names}
    size = QUICK_MATRIX if given.quick else None
    products = {name: MatrixProduct(device, dtype, size) for name, dtype in DTYPES.items()}
    rivals: dict[str, Callable[[], object]] = {
        name: partial(_next, step, cycle(drawn)) for name, step in steps.items()
    }
    timings = alternate(rivals | products, given.repeats, given.warm_up, device)
    rates = {name: product.rate(timings[name]) for name, product in products.items()}
    operations = step_operations(settings, settings.batch_size) / 1e12
    arms: dict[str, dict[str, float]] = {}
    for name in names:
        rate = operations / timings[name].median
        arms[name] = timings[name].told() | {
            "images_per_second": 2 * settings.batch_size / timings[name].median,
            "tflops": rate,
            "share_of_bfloat16_rate": rate / rates["bfloat16"],
        }
    figures: dict[str, Any] = {
        "networks": settings.networks.model_dump(mode="json"),
        "parameters": settings.networks.describe()["total"],
        "operations_tflop": operations,
        "matrix_tflops": rates,
        "arms": arms,
    }
    for name in given.rivals:
        arms[name]["times_mrbridge"] = timings[name].median / timings["mrbridge"].median
    if given.steps:
        figures[f"epoch_{given.steps}_seconds"] = epoch_seconds(
            steps["mrbridge"], drawn, given.steps, device
        )
    return figures


def epoch_seconds(step: Step, drawn: list[Sample], steps: int, device: torch.device) -> float:
    """Seconds of so many steps on end."""
    began = time.perf_counter()
    for _, sample in zip(range(steps), cycle(drawn), strict=False):
        step(sample)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def alone(settings: TrainSettings, arm: str, device: torch.device, repeats: int) -> dict[str, Any]:
    """A few steps of one arm and nothing else."""
    drawn = cycle(samples(settings, 2, settings.seed, device))
    step = ARMS[arm](settings, device)
    timing = alternate({arm: partial(_next, step, drawn)}, repeats, 1, device)[arm]
    figures: dict[str, Any] = {"arm": arm} | timing.told()
    if device.type == "cuda":
        figures["peak_device_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return figures


def memory_of(preset: str, arm: str, given: argparse.Namespace) -> dict[str, float]:
    """Peak memory of an arm in a process of its own; of the device too, where it has its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--presets", preset, "--only", arm]
    command += ["--size", str(given.size), "--batch", str(given.batch), "--device", given.device]
    command += ["--seed", str(given.seed), "--repeats", "2"] + ["--quick"] * given.quick
    done = run_command(command)
    told = json.loads(done.output.splitlines()[-1])
    device = {key: told[key] for key in ("peak_device_memory_gib",) if key in told}
    return {"peak_memory_gib": done.peak_gib, "seconds_alone": told["seconds"]} | device


def _next(step: Step, drawn: Iterator[Sample]) -> dict[str, torch.Tensor]:
    return step(next(drawn))


def _given(arguments: list[str] | None) -> argparse.Namespace:
    rivals = [name for name in ARMS if name != "mrbridge"]
    parser = options(__doc__, repeats=7, warm_up=2)
    parser.add_argument("--presets", nargs="+", default=["unet"], choices=list(PRESETS))
    parser.add_argument("--rivals", nargs="*", default=rivals, choices=rivals)
    parser.add_argument("--size", type=int, default=256, help="rows and columns")
    parser.add_argument("--batch", type=int, default=1, help="slices of each contrast in a step")
    parser.add_argument("--steps", type=int, default=45, help="of the epoch")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--only", choices=list(ARMS), help="this arm alone, for its memory")
    return read(parser, arguments, size=QUICK_SIZE, repeats=1, warm_up=1, steps=3)


if __name__ == "__main__":
    main()
