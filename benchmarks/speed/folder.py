"""A folder of volumes: what each later one costs, what workers and Dask gain, a busy machine.

    python -m benchmarks.speed.folder [--volumes 64] [--spacing 2] [--model shipped] [--repeats 1]
        [--out FILE]

Prints one JSON line. The volumes are one simulated head and copies of it. Whole commands
`mrbridge translate` run in turn:

- `one`, `folder`: a single volume, and all of them, with the threads that mrbridge chooses;
- `one busy`: a single volume next to a process that keeps one core busy;
- `one thread`, `two workers`, `dask`: all volumes with one worker of one thread, with
  `--workers 2`, and by two workers of a Dask scheduler, which are started beforehand.

`later_seconds` is what each volume after the first adds; `speed_up` is relative to `one thread`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

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
from mrbridge import io
from mrbridge.phantom import PhantomSettings, simulate


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = options(__doc__, repeats=1)
    parser.add_argument("--volumes", type=int, default=64)
    parser.add_argument("--spacing", type=float, default=2.0, help="edge of a voxel, mm")
    parser.add_argument("--model", default="shipped", help="a run or bundle")
    given = read(parser, arguments, volumes=2, warm_up=0, spacing=QUICK_SPACING_MM)
    environment = dict(os.environ)  # the cluster sets one thread in that of this process
    with tempfile.TemporaryDirectory() as name, _cluster(Path(name)) as address:
        place = Path(name)
        head = simulate(PhantomSettings(spacing_mm=given.spacing), given.seed).t1w
        (place / "scans").mkdir()
        io.write(head, place / "scans/head-000_T1w.nii.gz")
        for number in range(1, given.volumes):
            copy = place / f"scans/head-{number:03}_T1w.nii.gz"
            shutil.copy(place / "scans/head-000_T1w.nii.gz", copy)
        one, scans = place / "scans/head-000_T1w.nii.gz", place / "scans"
        made, single = place / "made", environment | {"OMP_NUM_THREADS": "1"}
        translated = partial(_translated, made, given.model, environment)
        found = alternate_commands(
            {
                "one": partial(translated, one),
                "one busy": partial(_next_to_busy, partial(translated, one)),
                "folder": partial(translated, scans),
                "one thread": partial(_translated, made, given.model, single, scans),
                "two workers": partial(translated, scans, "--workers", "2"),
                "dask": partial(translated, scans, "--dask", address),
            },
            given.repeats,
            given.warm_up,
        )
    seconds = {name: figures["seconds"] for name, figures in found.items()}
    later = (seconds["folder"] - seconds["one"]) / (given.volumes - 1)
    speed_up = {name: seconds["one thread"] / seconds[name] for name in ("two workers", "dask")}
    figures = {"commands": found, "later_seconds": later, "speed_up": speed_up}
    report("folder", given, {"shape": list(head.voxels.shape)} | figures)


def _translated(
    out: Path, model: str, environment: Mapping[str, str], scans: Path, *more: str
) -> Finished:
    """Translate into an empty place, which is not part of the time."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    target = out / "made_T2w.nii.gz" if scans.is_file() else out
    with patch.dict(os.environ, environment, clear=True):
        return run_command(
            mrbridge_command("translate", "-q", "-m", model, "-i", scans, "-o", target, *more)
        )


def _next_to_busy(call: partial[Finished]) -> Finished:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        return call()
    finally:
        busy.kill()
        busy.wait()


@contextmanager
def _cluster(place: Path) -> Iterator[str]:
    """The address of a Dask scheduler with two workers of one thread each."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=None,
            local_directory=str(place / "dask"),
        ) as cluster,
        Client(cluster),
    ):
        address: str = cluster.scheduler_address
        yield address


if __name__ == "__main__":
    main()
