"""What a generator costs for a slice: mrbridge, plain PyTorch and ONNX Runtime, in turn.

    python -m benchmarks.speed.engines [--model shipped] [--preset unet] [--slices 8] [--repeats 5]
        [--out FILE]

Prints one JSON line, milliseconds of processor time (of all threads) for a slice of 256x256 pixels:
of `mrbridge` as it translates on this processor, of `pytorch` with the same network in float32
without any kernel of mrbridge (`textbook.py`), and of `onnxruntime` with the exported network in
float32, with as many threads. The model is an untrained one of the preset, or `--model`. With
several threads (`OMP_NUM_THREADS`), the time that they wait for one another counts as well.

As on a processor with AVX2 and without bfloat16:

    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python -m benchmarks.speed.engines

The variables limit mrbridge and PyTorch. ONNX Runtime knows no such limit: on a processor with
AVX-512 it uses that all the same, and `onnxruntime` is then a lower bound of what it needs with
AVX2.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.harness import in_turn, options, read, report
from benchmarks.speed.material import QUICK_SIZE, settings_of, untrained_bundle
from benchmarks.speed.textbook import generator
from benchmarks.speed.translate_volume import TO
from mrbridge.bundle import Bundle, load_bundle
from mrbridge.inference.export import export
from mrbridge.inference.translator import Stack, Translator
from mrbridge.training.settings import PRESETS

_BATCH = 4  # slices that the rivals take at once


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = options(__doc__, repeats=5)
    parser.add_argument("--preset", default="unet", choices=list(PRESETS))
    parser.add_argument(
        "--model", help="a run or bundle, or `shipped`, instead of an untrained one"
    )
    parser.add_argument("--slices", type=int, default=8)
    given = read(parser, arguments, repeats=1, warm_up=1, slices=2)
    with tempfile.TemporaryDirectory() as name:
        report("engines", given, measure(Path(name), given))


def measure(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """All figures; the exported network is kept in `folder`."""
    size = QUICK_SIZE if given.quick else 256
    if given.model:
        bundle = load_bundle(given.model)
    else:
        settings = settings_of(given.preset, size, given.quick, seed=given.seed)
        bundle = untrained_bundle(folder / "bundle", settings)
    rng = np.random.default_rng(given.seed)
    slices = rng.uniform(-1, 1, (given.slices, size, size)).astype(np.float32)
    translator = Translator(bundle, "cpu")
    rivals: dict[str, Callable[[], object]] = {
        "mrbridge": partial(translator.translate_slices, slices, TO),
        "pytorch": _plain(bundle, slices),
        "onnxruntime": _onnx(bundle, folder, slices),
    }
    calls = {name: partial(_processor_seconds, call) for name, call in rivals.items()}
    measured = in_turn(calls, given.repeats, given.warm_up)
    medians = {name: median(each[given.warm_up :]) for name, each in measured.items()}
    fastest = min(seconds for name, seconds in medians.items() if name != "mrbridge")
    return {
        "size": size,
        "milliseconds": {name: 1000 * one / len(slices) for name, one in medians.items()},
        "times_fastest_rival": medians["mrbridge"] / fastest,
    }


def _processor_seconds(call: Callable[[], object]) -> float:
    """Not wall time: what else the machine does hinders OpenMP more than other threads."""
    began = time.process_time()
    call()
    return time.process_time() - began


def _plain(bundle: Bundle, slices: Stack) -> Callable[[], object]:
    networks = bundle.manifest.networks
    network = generator(networks.generator, networks.image_size).eval()
    batches = torch.from_numpy(slices)[:, None].split(_BATCH)

    @torch.inference_mode()
    def run() -> None:
        for batch in batches:
            network(batch)

    return run


def _onnx(bundle: Bundle, folder: Path, slices: Stack) -> Callable[[], object]:
    import onnxruntime

    export(bundle, folder)
    threads = onnxruntime.SessionOptions()
    threads.intra_op_num_threads = torch.get_num_threads()
    path = folder / f"{bundle.source}_to_{bundle.target}.onnx"
    session = onnxruntime.InferenceSession(path, threads, providers=["CPUExecutionProvider"])
    batches = [slices[first : first + _BATCH, None] for first in range(0, len(slices), _BATCH)]

    def run() -> None:
        for batch in batches:
            session.run(None, {"image": batch})

    return run


if __name__ == "__main__":
    main()
