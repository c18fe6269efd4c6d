"""Whether the loader keeps up: slices a second, and the share of a step that waits for it.

    python -m benchmarks.speed.loader [--presets unet bridge] [--size 256] [--steps 60]
        [--device cpu] [--out FILE]

Prints one JSON line a preset. A real `train` runs for one epoch of `--steps` steps on a store of
simulated heads (1 mm), with its trainer and callbacks. The clock is read when the trainer asks for
a batch and when it gets it: `waiting_share` is the time between the two over all time from the
first counted batch to the last, `step_seconds` the median from one batch to the next (with the
wait, the trainer and its callbacks, without validation). The first third of the steps, which reads
the scans into memory, is not counted, but is in `waiting_share_from_start`. Then the same loader is
emptied with nothing between the batches: `slices_per_second`. A batch holds a slice of either
contrast, with simulated subjects four more, with pairs two more, times the batch size; `pairs` is
how many of them the training knew or found.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.harness import options, read, report
from benchmarks.speed.material import QUICK_SIZE, QUICK_SPACING_MM, settings_of, simulated_store
from mrbridge.dataset.sampling import Sample
from mrbridge.dataset.store import Store
from mrbridge.training import run
from mrbridge.training.settings import PRESETS, TrainSettings


class Watched:
    """A loader whose batches are given on, and the clock read before and after each.

    Attributes:
        asked: when each batch was asked for, in seconds of a monotonic clock.
        given: when it was there.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.asked: list[float] = []
        self.given: list[float] = []

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Sample]:
        batches = iter(self.loader)
        while True:
            self.asked.append(time.perf_counter())
            batch = next(batches, None)
            self.given.append(time.perf_counter())
            if batch is None:
                return
            yield batch


def main(arguments: list[str] | None = None) -> None:
    """Train with every preset and print."""
    parser = options(__doc__)
    parser.add_argument("--presets", nargs="+", default=["unet", "bridge"], choices=list(PRESETS))
    parser.add_argument("--size", type=int, default=256, help="rows and columns")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--subjects", type=int, default=6)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    given = read(parser, arguments, size=QUICK_SIZE, steps=6)
    spacing = QUICK_SPACING_MM if given.quick else 1.0
    with tempfile.TemporaryDirectory() as name:
        store = simulated_store(Path(name), given.subjects, spacing, given.seed)
        for preset in given.presets:
            settings = settings_of(
                preset,
                given.size,
                given.quick,
                batch_size=given.batch,
                seed=given.seed,
                epochs=1,
                steps_per_epoch=given.steps,
                simulated_subjects=2,
                validation_slices=2,
                sample_slices=1,
            )
            figures = measure(store, settings, Path(name) / preset, given)
            report("loader", given, {"preset": preset} | figures)


def measure(
    store: Store, settings: TrainSettings, folder: Path, given: argparse.Namespace
) -> dict[str, Any]:
    """Train once, watching the loader, then empty only the loader."""
    made: list[tuple[Watched, Any]] = []
    original: Callable[..., Any] = run.batches_from

    def watched(dataset: Any, *arguments: Any, **named: Any) -> Watched:
        made.append((Watched(original(dataset, *arguments, **named)), dataset))
        return made[-1][0]

    with mock.patch.object(run, "batches_from", watched):
        run.train(store, folder, settings, device=given.device)
    loader, dataset = made[0]
    slices = 2 + 4 * bool(settings.simulated_weight) + 2 * bool(dataset.pairs)
    per_batch = seconds_per_batch(
        original(dataset, settings.batch_size, 0, 2 * given.steps), given.steps
    )
    return {
        **waiting(loader, skip=given.steps // 3),
        "waiting_share_from_start": waiting(loader, skip=0)["waiting_share"],
        "batch_seconds": per_batch,
        "pairs": len(dataset.pairs),
        "slices_per_second": slices * settings.batch_size / per_batch,
    }


def waiting(loader: Watched, skip: int) -> dict[str, float]:
    """How much of the time from batch `skip` on went by in the loader."""
    # From batch n being there to batch n + 1 being there: one step and one wait.
    pairs = list(zip(loader.asked[1:], loader.given[1:], loader.given, strict=False))[skip:-1]
    waits = [there - asked for asked, there, _ in pairs]
    steps = [there - before for _, there, before in pairs]
    return {
        "steps": len(steps),
        "step_seconds": statistics.median(steps),
        "waiting_seconds": statistics.median(waits),
        "waiting_share": sum(waits) / sum(steps),
    }


def seconds_per_batch(loader: Any, count: int) -> float:
    """Seconds a batch when nothing is done with it; the first, which warms up, is not counted."""
    batches = iter(loader)
    next(batches)
    began = time.perf_counter()
    for _ in range(count):
        next(batches)
    return (time.perf_counter() - began) / count


if __name__ == "__main__":
    main()
