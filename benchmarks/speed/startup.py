"""How long `mrbridge` takes to say something: help, an error, one translated slice.

    python -m benchmarks.speed.startup [--repeats 7] [--out FILE]

Prints one JSON line. Every command runs in a fresh process, in turn with the others: `help`;
`missing_file` and `missing_model`, which end with one line and exit code 2; `slice`, the
translation of one picture with a small model; and two yardsticks, the bare interpreter (`python`)
and one that imports torch (`import_torch`). `imports_torch` says of the first three whether torch
was imported.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.harness import (
    alternate_commands,
    mrbridge_command,
    options,
    read,
    report,
    run_command,
)
from benchmarks.speed.material import settings_of, untrained_bundle
from mrbridge import io
from mrbridge.volume import Volume

_PROBE = """
import sys
from mrbridge import cli
try:
    cli.main(sys.argv[1:])
finally:
    sys.stdout.write("\\nTORCH" if "torch" in sys.modules else "\\nNONE")
"""


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    given = read(options(__doc__, repeats=7), arguments, repeats=1, warm_up=0)
    with tempfile.TemporaryDirectory() as name:
        figures = measure(Path(name), given)
    report("startup", given, figures)


def measure(folder: Path, given: argparse.Namespace) -> dict[str, object]:
    """Figures of every command; their files are kept in `folder`."""
    size = 64 if given.quick else 256
    model, picture = folder / "bundle", folder / "slice_T1w.png"
    untrained_bundle(model, settings_of("bridge", size, quick=True, seed=given.seed))
    io.write(Volume(_disc(size), None), picture)

    out: list[str | Path] = ["-o", folder / "made.png"]
    present, absent = ["-i", picture, *out], ["-i", folder / "nothing.nii.gz", *out]
    arguments: dict[str, tuple[list[str | Path], int]] = {
        "help": (["--help"], 0),
        "missing_file": (["translate", "-m", model, *absent], 2),
        "missing_model": (["translate", "-m", folder / "nowhere", *present], 2),
        "slice": (["translate", "-q", "-m", model, *present], 0),
    }
    commands = {
        name: partial(run_command, mrbridge_command(*words), code)
        for name, (words, code) in arguments.items()
    }
    commands["python"] = partial(run_command, [sys.executable, "-c", "pass"])
    commands["import_torch"] = partial(run_command, [sys.executable, "-c", "import torch"])
    figures = alternate_commands(commands, given.repeats, given.warm_up)
    probes = {
        name: run_command([sys.executable, "-c", _PROBE, *words], code).output.endswith("TORCH")
        for name, (words, code) in arguments.items()
        if name != "slice"
    }
    return {"commands": figures, "imports_torch": probes}


def _disc(size: int) -> np.ndarray:
    """A picture (i, j, 1) of a bright disc, uint8."""
    line = np.linspace(-1, 1, size)
    radius = np.hypot(line[:, None], line)
    return np.where(radius < 0.8, 200 - 100 * radius, 0).astype(np.uint8)[..., None]


if __name__ == "__main__":
    main()
