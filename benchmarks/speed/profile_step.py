"""Where the time of a training step goes, by PyTorch's operators.

    python -m benchmarks.speed.profile_step [--preset unet] [--size 256] [--repeats 3] [--out FILE]

Prints one JSON line: `milliseconds` of a step that each operator itself took, without those that it
called, the largest first; `others` are all that took less than 1 %. The profiler slows a
step a little.
"""

from __future__ import annotations

from itertools import cycle
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import options, read, report
from benchmarks.speed.material import QUICK_SIZE, samples, settings_of
from benchmarks.speed.train_step import mrbridge_step
from mrbridge.training.settings import PRESETS

_LEAST_SHARE = 0.01


def main(arguments: list[str] | None = None) -> None:
    """Profile and print."""
    parser = options(__doc__, repeats=3, warm_up=2)
    parser.add_argument("--preset", default="unet", choices=list(PRESETS))
    parser.add_argument("--size", type=int, default=256, help="rows and columns")
    given = read(parser, arguments, size=QUICK_SIZE, repeats=1, warm_up=1)
    cpu = torch.device("cpu")
    settings = settings_of(given.preset, given.size, given.quick, seed=given.seed)
    step, _ = mrbridge_step(settings, cpu)
    drawn = cycle(samples(settings, 2, given.seed, cpu))
    for _ in range(given.warm_up):
        step(next(drawn))
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(given.repeats):
            step(next(drawn))
    took = {event.key: event.self_cpu_time_total for event in profiled.key_averages()}
    report("profile_step", given, {"milliseconds": shares(took, given.repeats)})


def shares(took: dict[str, float], steps: int) -> dict[str, Any]:
    """Milliseconds a step, of microseconds of all steps."""
    total = sum(took.values())
    large = {key: time for key, time in took.items() if time >= _LEAST_SHARE * total}
    ordered = dict(sorted(large.items(), key=lambda item: -item[1]))
    times = ordered | {"others": total - sum(large.values()), "all": total}
    return {key: time / 1000 / steps for key, time in times.items()}


if __name__ == "__main__":
    main()
