"""What the translation of a whole head costs.

    python -m benchmarks.speed.translate_volume [--preset unet] [--model RUN]
        [--planes axial] [--device cpu] [--repeats 3] [--out FILE]

Prints one JSON line. The scan is a simulated T1w head of 182x218x182 voxels of 1 mm, the model an
untrained one of the preset, or `--model`. Under `engines`, `torch` (once there were others):

- `slices`: seconds a slice of the generator, on a stack of slices in this process (with nothing but
  the padding of the slices around it);
- `volume`: seconds from a scan in memory to its translation in memory;
- `command`: seconds of the whole `mrbridge translate` in a fresh process, from its start to the
  written file, and its peak memory;
- `max_difference`, `psnr`: the difference of its axial slices of the whole head from float32, in
  units of the intensity range (the networks' -1 to 1 is a range of 1 here).

`floor_seconds` is what the axial slices that hold anatomy would take at the rate of matrix products
measured in this run (in bfloat16 where that is in hardware, else in float32): operations of the
generator's convolutions for one slice, padded as the network needs it, times their number.
`times_floor` is `slices` against the floor of one slice.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness import (
    alternate,
    alternate_commands,
    mrbridge_command,
    options,
    read,
    report,
    run_command,
)
from benchmarks.speed.material import (
    QUICK_SIZE as QUICK_IMAGE,
    cropped,
    settings_of,
    subject,
    untrained_bundle,
)
from benchmarks.speed.matrix_rate import QUICK_SIZE, MatrixProduct, fast_dtype
from benchmarks.speed.textbook import forward_operations
from mrbridge import io
from mrbridge.bundle import read_manifest
from mrbridge.inference.translator import Translator
from mrbridge.preprocessing.geometry import size_multiple
from mrbridge.preprocessing.preprocess import Preprocessed, preprocess
from mrbridge.settings import Planes
from mrbridge.training.settings import PRESETS
from mrbridge.volume import Volume

SHAPE = (182, 218, 182)
"""Voxels along (i, j, k): the grid of the MNI 152 template at 1 mm."""

TO = "T2w"


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = options(__doc__, repeats=3)
    model_options(parser)
    parser.add_argument("--slices", type=int, default=16, help="of the stack that is timed")
    given = read(parser, arguments, repeats=1, warm_up=0, slices=4)
    with tempfile.TemporaryDirectory() as name:
        figures = measure(Path(name), given)
    report("translate_volume", given, figures)


def model_options(parser: argparse.ArgumentParser) -> None:
    """Let a command line say what translates, and how."""
    parser.add_argument("--preset", default="unet", choices=list(PRESETS))
    parser.add_argument("--model", type=Path, help="a run or bundle instead of an untrained one")
    parser.add_argument("--planes", choices=get_args(Planes), help="instead of the model's")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--uncertainty", action="store_true", help="with uncertainty maps")
    parser.add_argument("--to", default=TO, help="the contrast that whole commands make")


def head_and_model(folder: Path, given: argparse.Namespace) -> tuple[Path, Volume]:
    """The model, and the scan, which is also written into `folder`, as the model may be."""
    model = given.model
    if model is None:
        model, size = folder / "bundle", QUICK_IMAGE if given.quick else 256
        untrained_bundle(model, settings_of(given.preset, size, given.quick, seed=given.seed))
    head = cropped(subject(given.seed, given.quick).t1w, SHAPE)
    io.write(head, folder / "head.nii.gz")
    return model, head


def translate_arguments(model: Path, folder: Path, given: argparse.Namespace) -> list[str]:
    """The verb `translate` for the scan in `folder`, with its options."""
    planes = () if given.planes is None else ("--planes", given.planes)
    scans = ("-i", folder / "head.nii.gz", "-o", folder / "made.nii.gz")
    maps = ["--uncertainty"] * given.uncertainty
    how = ("--device", given.device, *planes, *maps, "--to", given.to)
    return [str(word) for word in ("translate", "-q", "-m", model, *scans, *how)]


def measure(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """All figures; models and scans are kept in `folder`."""
    model, head = head_and_model(folder, given)
    command = partial(run_command, mrbridge_command(*translate_arguments(model, folder, given)))
    whole = alternate_commands({"torch": command}, given.repeats, given.warm_up)
    translator = Translator(model, given.device, given.planes)
    standard = preprocess(head, read_manifest(model).standard)
    figures = network_figures(translator, standard, head, given)
    figures["engines"]["torch"]["command"] = whole["torch"]
    return {"shape": list(head.voxels.shape)} | figures


def network_figures(
    translator: Translator, standard: Preprocessed, head: Volume, given: argparse.Namespace
) -> dict[str, Any]:
    """What happens in this process: differences, seconds a slice, a volume, and the floor."""
    device = torch.device(given.device)
    whole = translator.translate_slices(standard.slices, TO, foreground=standard.foreground)
    # Slices of background are left at exactly -1, which no network gives throughout.
    shown = np.flatnonzero((whole > -1).any(axis=(1, 2)))
    middle = shown[max(0, len(shown) - given.slices) // 2 :][: given.slices]
    stack = standard.slices[middle]
    with mock.patch("mrbridge.inference.slices.fast_bfloat16", return_value=False):
        exact = translator.translate_slices(standard.slices, TO, foreground=standard.foreground)

    product = MatrixProduct(device, fast_dtype(device), QUICK_SIZE if given.quick else None)
    rivals: dict[str, Callable[[], object]] = {
        "torch": partial(translator.translate_slices, stack, TO),
        "matrix": product,
    }
    timings = alternate(rivals, given.repeats, given.warm_up, device)
    rate = product.rate(timings["matrix"])
    volume = {"torch": partial(translator.translate, head, TO)}
    volumes = alternate(volume, given.repeats, 0, device)  # all of it is warm already
    operations = _operations(translator, stack.shape[1:]) / 1e12
    floor = operations / rate
    figures = {
        "slices": timings["torch"].figures(len(stack)),
        "times_floor": timings["torch"].median / len(stack) / floor,
        "volume": volumes["torch"].figures(),
        **differences(whole[shown], exact[shown]),
    }
    return {
        "slices_translated": len(shown),
        "operations_a_slice_tflop": operations,
        "matrix_tflops": rate,
        "floor_seconds": floor * len(shown),
        "engines": {"torch": figures},
    }


def differences(made: NDArray[np.float32], reference: NDArray[np.float32]) -> dict[str, Any]:
    """Largest difference and PSNR (dB; None where there is none), of a range of 1."""
    apart = (made.astype(np.float64) - reference) / 2
    mean_square = float(np.square(apart).mean())
    return {
        "max_difference": float(np.abs(apart).max()),
        "psnr": -10 * math.log10(mean_square) if mean_square else None,
    }


def _operations(translator: Translator, shape: tuple[int, ...]) -> int:
    """Operations for one slice of this shape, padded to what the generator takes."""
    networks = translator.bundle.manifest.networks
    rows, columns = (size_multiple(n, networks.generator.multiple) for n in shape)
    return forward_operations(networks.generator, networks.image_size, rows, columns)


if __name__ == "__main__":
    main()
