"""How far images that are computed in bfloat16 lie from those in float32.

    python -m benchmarks.speed.rounding [--models shipped RUN …] [--scans FILE …] [--out FILE]

Prints one JSON line a model and scan; without `--scans`, a simulated T1w head. For two ways:

- `kept`: the slices as `translate` makes them;
- `throughout`: every layer in bfloat16, as in a training step.

Each is described by the largest difference of a voxel and the PSNR (dB), in units of the intensity
range (the networks' -1 to 1 is a range of 1 here), over the slices that show something, and by the
largest difference of those slices that are not faint (`mrbridge.inference.slices.FAINT`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness import options, read, report
from benchmarks.speed.material import subject
from benchmarks.speed.translate_volume import differences
from mrbridge import io
from mrbridge.inference.planes import Stack
from mrbridge.inference.slices import EMPTY, FAINT
from mrbridge.inference.translator import Translator
from mrbridge.models import SHIPPED
from mrbridge.networks.build import Generator
from mrbridge.preprocessing.geometry import fit_size, size_multiple
from mrbridge.preprocessing.preprocess import preprocess
from mrbridge.volume import Volume

_BATCH_PIXELS = 4 * 256 * 256


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = options(__doc__, repeats=1)
    parser.add_argument("--models", nargs="+", default=[SHIPPED])
    parser.add_argument("--scans", nargs="+", type=Path, default=[])
    given = read(parser, arguments)
    scans = {path.name: io.read(path) for path in given.scans}
    for model in given.models:
        translator = Translator(model, "cpu")
        for name, scan in (scans or {"simulated": subject(given.seed, given.quick).t1w}).items():
            report("rounding", given, {"model": model, "scan": name, **measure(translator, scan)})


def measure(translator: Translator, scan: Volume) -> dict[str, Any]:
    """How far both ways are from float32, for the generator that takes this scan."""
    to = translator.bundle.target_for(scan.contrast)
    manifest = translator.bundle.manifest
    given = manifest.source if to == manifest.target else manifest.target
    standard = preprocess(scan, manifest.standard, None, manifest.typical[given].levels)
    shares = standard.foreground.mean(axis=(1, 2))
    shown = shares >= EMPTY
    network = translator.bundle.build(translator.bundle.generator_that_makes(to))
    multiple = manifest.networks.generator.multiple
    rows, columns = (size_multiple(n, multiple) for n in standard.slices.shape[1:])
    size = standard.slices.shape[1:]
    fitted = fit_size(standard.slices[shown], rows, columns)
    exact = fit_size(_computed(network, fitted, torch.float32), *size)
    ways = {
        "kept": translator.translate_slices(standard.slices, to, foreground=standard.foreground)[
            shown
        ],
        "throughout": fit_size(_computed(network, fitted, torch.bfloat16), *size),
    }
    clear = shares[shown] >= FAINT
    differences = {name: _apart(made, exact, clear) for name, made in ways.items()}
    return {"to": to, "slices": int(shown.sum()), "faint": int((~clear).sum()), **differences}


def _computed(network: Generator, slices: Stack, dtype: torch.dtype) -> Stack:
    """What a network makes of slices outside of inference mode, where it spares no layer."""
    _, rows, columns = slices.shape
    size = max(1, _BATCH_PIXELS // (rows * columns))
    fast = dtype != torch.float32
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=fast):
        images = torch.from_numpy(np.ascontiguousarray(slices))[:, None]
        return torch.cat([network(batch) for batch in images.split(size)])[:, 0].float().numpy()


def _apart(made: Stack, exact: Stack, clear: NDArray[np.bool_]) -> dict[str, Any]:
    not_faint = differences(made[clear], exact[clear])["max_difference"] if clear.any() else None
    return {**differences(made, exact), "max_difference_not_faint": not_faint}


if __name__ == "__main__":
    main()
