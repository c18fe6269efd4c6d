"""How many volumes a minute `mrbridge prepare` takes in, by the number of its workers.

    python -m benchmarks.speed.prepare [--subjects 8] [--spacing 1] [--workers 1 2] [--repeats 3]
        [--out FILE]

Prints one JSON line. Simulated heads, T1w and T2w of each subject, are written as a BIDS data set
and prepared by the whole command in a fresh process, from its start to the finished store; the
numbers of workers take turns. `speed_up` is against the first number of workers. Peak memory is
that of the largest single process, the workers among them.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.harness import (
    Finished,
    alternate_commands,
    mrbridge_command,
    options,
    read,
    report,
    run_command,
)
from benchmarks.speed.material import QUICK_SPACING_MM
from mrbridge.phantom import PhantomSettings, write_bids


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = options(__doc__, repeats=3)
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--spacing", type=float, default=1.0, help="edge of a voxel, mm")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    given = read(parser, arguments, subjects=3, workers=[1], repeats=1, warm_up=0)
    spacing = QUICK_SPACING_MM if given.quick else given.spacing
    volumes = 2 * given.subjects
    with tempfile.TemporaryDirectory() as name:
        phantom = PhantomSettings(subjects=given.subjects, spacing_mm=spacing, seed=given.seed)
        bids = write_bids(Path(name) / "bids", phantom)
        rivals = {
            str(workers): partial(_prepared_anew, bids, Path(name) / "store", workers)
            for workers in given.workers
        }
        found = alternate_commands(rivals, given.repeats, given.warm_up)
    fewest = found[str(given.workers[0])]["seconds"]
    for figures in found.values():
        figures["volumes_per_minute"] = 60 * volumes / figures["seconds"]
        figures["speed_up"] = fewest / figures["seconds"]
    report("prepare", given, {"volumes": volumes, "workers": found})


def _prepared_anew(bids: Path, store: Path, workers: int) -> Finished:
    """Prepare into an empty place, which is not part of the time."""
    shutil.rmtree(store, ignore_errors=True)
    return run_command(
        mrbridge_command("prepare", "-q", bids, "-o", store, "--workers", str(workers))
    )


if __name__ == "__main__":
    main()
