"""The whole benchmark of a GPU, in one command and within a given time.

    python -m benchmarks.speed.gpu [--minutes 8] [--parts steps_unet …] [--quick] [--device cuda]
        [--out FILE]

Every part runs in a fresh process, so that a failure does not stop the others, and appends its JSON
lines to `benchmarks/speed/results/gpu-NAME.jsonl` (NAME is the device's) as it finishes. A part
that does not fit into the time left is skipped, and one that takes longer is stopped: the last
line says which. Parts, the most informative first:

- `matrix_rate`: see `matrix_rate.py`;
- `steps_PRESET`: seconds of a training step at batch 1: ours in either memory layout, compiled and
  not, against the textbook's loop in float32 (TF32 where cuDNN takes it by itself) and bfloat16;
- `sweep_PRESET`: our step at growing batch sizes, compiled and not: images a second, peak memory;
- `train`: a whole `train` on a store of simulated heads, data on the device or from the loader:
  images a second after the first epoch, and how busy nvidia-smi saw the GPU from start to end;
- `translate`: see `translate_volume.py`, engine torch;
- `parity`: see `parity.py`, short.

`seconds_first` is the first step: of compiled networks it holds the compilation. An image is a
slice of either contrast. Without a CUDA device it ends with exit code 2, before anything else.
Tests that need one: `pytest tests/training/test_cuda.py`.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

from benchmarks.harness import Timing, alternate, options, read, report
from benchmarks.speed import matrix_rate, parity, translate_volume
from benchmarks.speed.material import (
    QUICK_SIZE,
    QUICK_SPACING_MM,
    samples,
    settings_of,
    simulated_store,
)
from benchmarks.speed.textbook import TextbookCycleGAN, step_operations
from benchmarks.speed.train_step import Step, mrbridge_step
from mrbridge.dataset import loader
from mrbridge.errors import MrbridgeWarning
from mrbridge.hardware import can_compile, quick_kernels
from mrbridge.training import model
from mrbridge.training.run import train
from mrbridge.training.settings import TrainSettings

RESULTS = Path(__file__).resolve().parent / "results"
ROOT = Path(__file__).resolve().parents[2]
BATCHES = (1, 2, 4, 8, 16, 32)
TRAINED_EPOCHS = 3

Figures = Iterator[dict[str, Any]]


def main(arguments: list[str] | None = None) -> None:
    """Run all parts, or one of them in this process."""
    given = _given(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("PyTorch finds no CUDA device; --quick --device cpu only shows that all runs")
        raise SystemExit(2)
    if given.out is None:
        given.out = RESULTS / f"gpu-{_name(given.device)}.jsonl"
    if given.only:
        run_part(given.only, given)
    else:
        run_all(given, in_fresh_process)


def run_all(
    given: argparse.Namespace, run: Callable[[str, argparse.Namespace, float], str]
) -> None:
    """Run the parts that fit into the time, and say what became of each.

    Args:
        given: the options.
        run: runs a part of this name within so many seconds, and says how it ended.
    """
    began = time.monotonic()
    ended: dict[str, Any] = {}
    for name in given.parts:
        left = 60 * given.minutes - (time.monotonic() - began)
        part = PARTS[name]
        if left < (0 if given.quick else part.least):
            ended[name] = {"ended": "skipped: no time left"}
            continue
        started = time.monotonic()
        ended[name] = {"ended": run(name, given, min(left, part.most))}
        ended[name]["seconds"] = time.monotonic() - started
    report("gpu", given, {"seconds": time.monotonic() - began, "parts": ended})


def in_fresh_process(name: str, given: argparse.Namespace, seconds: float) -> str:
    """Run a part in a process of its own, with at most so many seconds for it and its children."""
    command = [sys.executable, "-m", "benchmarks.speed.gpu", "--only", name]
    out = str(given.out.resolve())
    command += ["--device", given.device, "--out", out, "--seed", str(given.seed)]
    command += ["--repeats", str(given.repeats)] + ["--quick"] * given.quick
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, cwd=ROOT, stderr=errors, start_new_session=True)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return "stopped: no time left"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        errors.seek(0)
        lines = errors.read().strip().splitlines() or ["no message"]
    return f"failed with exit code {code}: {lines[-1][:300]}" if code else "done"


def run_part(name: str, given: argparse.Namespace) -> None:
    """Run a part here; its lines are printed and appended as they come."""
    for figures in PARTS[name].run(given):
        report(f"gpu_{name}", given, figures)


def steps(preset: str, given: argparse.Namespace) -> Figures:
    """Layouts and compilation against the textbook, one after another: graphs share no memory."""
    device = torch.device(given.device)
    settings = _settings(preset, given)
    arms: dict[str, Callable[[], Step]] = {
        "channels_last": partial(ours, settings, device, compiled=False),
        "textbook_bf16": lambda: TextbookCycleGAN(settings, device, True).step,
        "textbook": lambda: TextbookCycleGAN(settings, device).step,
        "contiguous": partial(ours, settings, device, compiled=False, channels_last=False),
    }
    if can_compile(device):
        for layout, last in (("channels_last", True), ("contiguous", False)):
            arms[f"compiled_{layout}"] = partial(
                ours, settings, device, compiled=True, channels_last=last
            )
    for arm, make in arms.items():
        # The textbook's loop as PyTorch comes.
        kernels = nullcontext() if arm.startswith("textbook") else quick_kernels(device)
        with kernels:
            figures = measured(make, settings, device, given.repeats)
        yield {"preset": preset, "arm": arm} | figures


def sweep(preset: str, given: argparse.Namespace) -> Figures:
    """Our step at growing batch sizes, until the memory is full; compiled ones last."""
    device = torch.device(given.device)
    for compiled in (False, True) if can_compile(device) else (False,):
        for batch in BATCHES[:2] if given.quick else BATCHES:
            settings = _settings(preset, given, batch_size=batch)
            with quick_kernels(device):
                make = partial(ours, settings, device, compiled)
                figures = measured(make, settings, device, given.repeats)
            yield {"preset": preset, "compiled": compiled} | figures
            if "failed" in figures:
                break


def ours(
    settings: TrainSettings, device: torch.device, compiled: bool, channels_last: bool = True
) -> Step:
    """The step of mrbridge; without `channels_last` weights lie as PyTorch makes them."""
    chosen = nullcontext() if channels_last else _contiguous()
    with chosen:
        step, _ = mrbridge_step(settings, device, compiled=compiled)
    return step


def measured(
    make: Callable[[], Step], settings: TrainSettings, device: torch.device, repeats: int
) -> dict[str, Any]:
    """Seconds of a step, images a second and peak device memory, with nothing else around.

    Steps are timed in blocks without waiting for the device in between, as a training runs. What
    does not fit into the memory, or cannot be compiled, says so as `failed`.
    """
    told: dict[str, Any] = {"batch": settings.batch_size}
    if device.type == "cuda":
        torch.compiler.reset()  # gives back the memory of CUDA graphs
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    drawn = cycle(samples(settings, 4, settings.seed, device))
    block = 4 if repeats > 1 else 1

    def on_end(step: Step, count: int) -> None:
        for _ in range(count):
            step(next(drawn))

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", MrbridgeWarning)  # a compilation that fell back
            step = make()
            first = alternate({"first": partial(on_end, step, 1)}, 1, 0, device)["first"].first
            timing = alternate({"steps": partial(on_end, step, block)}, repeats, 2, device)["steps"]
    except (torch.OutOfMemoryError, MrbridgeWarning) as error:
        return told | {"failed": str(error).splitlines()[0]}
    told |= Timing(timing.seconds, first * block).told(per=block)
    told["images_per_second"] = 2 * settings.batch_size / told["seconds"]
    operations = step_operations(settings, settings.batch_size) / 1e12
    told["tflops"] = operations / told["seconds"]
    if device.type == "cuda":
        told["peak_device_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return told


def trainings(given: argparse.Namespace) -> Figures:
    """Whole trainings, the data on the device and from the loader."""
    device = torch.device(given.device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spacing = QUICK_SPACING_MM if given.quick else 2.0
        store = simulated_store(folder, 6, spacing, given.seed)
        for preset, batch in (("unet", 1), ("bridge", 16)):
            settings = _settings(
                preset,
                given,
                batch_size=2 if given.quick else batch,
                epochs=TRAINED_EPOCHS,
                steps_per_epoch=3 if given.quick else 100,
                validate_every=TRAINED_EPOCHS,
                simulated_subjects=1,
                validation_slices=2,
                sample_slices=1,
                compile="on" if can_compile(device) else "off",
            )
            for data in ("resident", "loader"):
                told = {"preset": preset, "batch": settings.batch_size, "data": data}
                with mock.patch.object(loader, "fits", lambda *_, here=data: here == "resident"):
                    began = time.perf_counter()
                    with busy(device) as shares:
                        run = train(
                            store, folder / f"{preset}-{data}", settings, device=device.type
                        )
                # Without the first epoch, which warms up, and without validation.
                first, last = run.rows[0], run.rows[-1]
                seconds = last["seconds"] - first["seconds"]
                images = 2 * settings.batch_size * (last["step"] - first["step"])
                told |= {"images_per_second": images / seconds, "gpu_busy_share": shares.get("gpu")}
                yield told | {"command_seconds": time.perf_counter() - began}


@contextmanager
def busy(device: torch.device) -> Iterator[dict[str, float]]:
    """Within it, nvidia-smi looks every second; then `gpu` is the median share of time in kernels.

    Without nvidia-smi there is none.
    """
    told: dict[str, float] = {}
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-l1"]
    try:
        watch = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)
    except OSError:
        yield told
        return
    try:
        yield told
    finally:
        watch.terminate()
        lines = watch.communicate()[0].split()
        seen = [int(line) for line in lines if line.isdecimal()]
        if device.type == "cuda" and seen:
            told["gpu"] = statistics.median(seen) / 100


def translate(given: argparse.Namespace) -> Figures:
    """A whole head; the script appends its own line."""
    arguments = ["--repeats", "1"]
    translate_volume.main([*arguments, "--device", given.device, *_shared(given)])
    return iter(())


def scores(given: argparse.Namespace) -> Figures:
    """Float32 against bfloat16; the script appends its own line."""
    sizes = [] if given.quick else ["--preset", "bridge", "--steps", "200", "--seeds", "0", "1"]
    parity.main(["--device", given.device, *sizes, *_shared(given)])
    return iter(())


def rates(given: argparse.Namespace) -> Figures:
    """Matrix products and copies; the script appends its own line."""
    matrix_rate.main(["--rounds", "1", *_shared(given)])
    return iter(())


class Part(NamedTuple):
    """What it does, and for how many seconds it is worth to begin it, or to wait for its end."""

    run: Callable[[argparse.Namespace], Figures]
    least: float
    most: float


PARTS = {
    "matrix_rate": Part(rates, 15, 40),
    "steps_unet": Part(partial(steps, "unet"), 30, 110),
    "steps_bridge": Part(partial(steps, "bridge"), 30, 70),
    "sweep_unet": Part(partial(sweep, "unet"), 30, 80),
    "train": Part(trainings, 40, 120),
    "translate": Part(translate, 30, 60),
    "sweep_bridge": Part(partial(sweep, "bridge"), 30, 60),
    "steps_resnet": Part(partial(steps, "resnet"), 20, 60),
    "steps_resunet": Part(partial(steps, "resunet"), 20, 60),
    "parity": Part(scores, 45, 120),
}


@contextmanager
def _contiguous() -> Iterator[None]:
    """Within it, the weights of models are ordered with their channels first."""
    adam = model.Adam

    def contiguous(
        parameters: Iterable[torch.nn.Parameter], *arguments: Any
    ) -> torch.optim.Optimizer:
        parameters = list(parameters)
        for parameter in parameters:
            parameter.data = parameter.data.contiguous()
        return adam(parameters, *arguments)

    with mock.patch.object(model, "Adam", contiguous):
        yield


def _settings(preset: str, given: argparse.Namespace, **changes: Any) -> TrainSettings:
    size = QUICK_SIZE if given.quick else 256
    return settings_of(preset, size, given.quick, seed=given.seed, **changes)


def _shared(given: argparse.Namespace) -> list[str]:
    out = ["--out", str(given.out), "--seed", str(given.seed)]
    return out + ["--quick"] * given.quick


def _name(device: str) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else "none"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _given(arguments: list[str] | None) -> argparse.Namespace:
    parser = options(__doc__, repeats=10)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--only", choices=list(PARTS), help="only this part, in this process")
    return read(parser, arguments, repeats=1)


if __name__ == "__main__":
    main()
