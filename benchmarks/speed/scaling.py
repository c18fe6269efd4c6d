"""Whether time grows linearly, and memory not at all, with the number of scans.

    python -m benchmarks.speed.scaling [--scans 10 100 1000] [--verbs inspect] [--heads varied]
        [--workers 1] [--out FILE]

Prints one JSON line. The scans are small NIfTI files (32x32x8 voxels of a simulated head, noise
added to each), so that what is counted is the work around a scan. For each number of them
`prepare` and `inspect` (half of them T1w, half T2w) and `translate` of a folder (all T1w, a tiny
network) run as whole commands in fresh processes. For `inspect` it is the worst case that all heads
are `alike`: each is compared with others closely. `varied` ones are bent, each in its own way.

- `seconds`, `cpu_seconds`, `peak_memory_gib` (of the largest process) by number of scans; of
  `inspect` `page_mib`, too;
- `cpu_seconds_a_scan`: between each number and the next, so without the time to start, and without
  what else the machine was doing;
- `slope_ratio`: the last of these over the first, 1 where time is linear; None of two numbers;
- `mib_a_thousand_scans`: how much more memory the most scans took than the fewest, by their number.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.harness import Finished, mrbridge_command, options, read, report, run_command
from benchmarks.speed.material import cropped, settings_of, untrained_bundle
from mrbridge import io
from mrbridge.phantom import PhantomSettings, SimulatedSubject, simulate
from mrbridge.volume import Volume

SHAPE = (32, 32, 8)
VERBS = ("prepare", "inspect", "translate")


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--scans", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--workers", type=int, default=1, help="of prepare and inspect")
    parser.add_argument("--heads", choices=("alike", "varied"), default="alike")
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=list(VERBS))
    given = read(parser, arguments, scans=[4, 8])
    figures: dict[str, list[dict[str, float]]] = {verb: [] for verb in given.verbs}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spacing = 6.0  # 32x38 voxels in a slice
        untrained_bundle(folder / "bundle", settings_of("bridge", 32, quick=True), spacing)
        head = simulate(PhantomSettings(spacing_mm=spacing, seed=given.seed), 0)
        for count in given.scans:
            place = folder / str(count)
            for verb, done in run_verbs(place, head, count, spacing, given).items():
                figures[verb].append(figures_of(done))
                if verb == "inspect":
                    figures[verb][-1]["page_mib"] = (place / "page.html").stat().st_size / 2**20
            shutil.rmtree(place)
    growths = {verb: growth(given.scans, done) for verb, done in figures.items()}
    report("scaling", given, {"shape": SHAPE} | growths)


def run_verbs(
    folder: Path, head: SimulatedSubject, count: int, spacing: float, given: argparse.Namespace
) -> dict[str, Finished]:
    """Prepare, inspect and translate `count` scans, as wanted, each written for this."""
    rng = np.random.default_rng(given.seed)
    model = folder.parent / "bundle"
    bend = given.heads == "varied"
    if {"prepare", "inspect"} & set(given.verbs):
        write_scans(folder / "pairs", {"T1w": head.t1w, "T2w": head.t2w}, count // 2, rng, bend)
    if "translate" in given.verbs:
        write_scans(folder / "single", {"T1w": head.t1w}, count, rng, bend)
    prepare = mrbridge_command(
        *("prepare", "-q", folder / "pairs", "-o", folder / "store"),
        *("--workers", str(given.workers), "--set", f"standard.spacing_mm={spacing}"),
    )
    inspect = mrbridge_command(
        *("inspect", "-q", folder / "pairs", "-o", folder / "page.html"),
        *("--workers", str(given.workers)),
    )
    translate = mrbridge_command(
        "translate", "-q", "-m", model, "-i", folder / "single", "-o", folder / "made"
    )
    commands = {"prepare": prepare, "inspect": inspect, "translate": translate}
    return {verb: run_command(commands[verb]) for verb in given.verbs}


def figures_of(done: Finished) -> dict[str, float]:
    """What the JSON line tells of a command."""
    return {
        "seconds": done.seconds,
        "cpu_seconds": done.cpu_seconds,
        "peak_memory_gib": done.peak_gib,
    }


def write_scans(
    folder: Path, heads: dict[str, Volume], subjects: int, rng: np.random.Generator, bend: bool
) -> None:
    """A BIDS data set of noisy copies of one head, each bent in its own way where wanted."""
    small = {contrast: cropped(head, SHAPE) for contrast, head in heads.items()}
    for number in range(1, subjects + 1):
        places = bent(rng, next(iter(small.values())).voxels.shape) if bend else None
        for contrast, head in small.items():
            voxels = head.voxels
            if places is not None:
                voxels = ndimage.map_coordinates(voxels, places, order=1)
            noisy = voxels + rng.integers(0, 20, voxels.shape) * (voxels > 0)
            label = f"sub-{number:05d}"
            scan = Volume(noisy.astype(np.int16), head.affine, contrast=contrast)
            io.write(scan, folder / label / "anat" / f"{label}_{contrast}.nii.gz")
    (folder / "dataset_description.json").write_text('{"Name": "scaling"}', encoding="utf-8")


def bent(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Where each voxel comes from, (3, i, j, k): a smooth field of shifts by some two voxels."""
    shifts = ndimage.gaussian_filter(rng.standard_normal((3, *shape)), (0, 3, 3, 2))
    result: NDArray[np.float64] = np.indices(shape) + 2 * shifts / shifts.std()
    return result


def growth(scans: list[int], done: list[dict[str, float]]) -> dict[str, Any]:
    """Figures of one verb by number of scans, in ascending order."""
    each = sorted(zip(scans, done, strict=True), key=lambda pair: pair[0])
    slopes = [
        (more["cpu_seconds"] - fewer["cpu_seconds"]) / (many - few)
        for (few, fewer), (many, more) in pairwise(each)
    ]
    (least, first), (most, last) = each[0], each[-1]
    grown = 1024 * (last["peak_memory_gib"] - first["peak_memory_gib"])
    return {
        "by_scans": {str(count): one for count, one in each},
        "cpu_seconds_a_scan": slopes,
        "slope_ratio": slopes[-1] / slopes[0] if len(slopes) > 1 else None,
        "mib_a_thousand_scans": 1000 * grown / (most - least) if most > least else None,
    }


if __name__ == "__main__":
    main()
