"""Whether fast training learns what float32 training learns.

    python -m benchmarks.speed.parity [--preset unet] [--size 128] [--steps 300] [--seeds 0 1 2]
        [--subjects 12] [--device cpu] [--out FILE]

Prints one JSON line. For every seed the preset is trained twice by `train` on the same simulated
subjects (2 mm), from the same random weights, in the same order: in float32 and in bfloat16. Then

- `curves`: each loss, the mean over seeds of means over windows of 20 steps, in either precision,
  and the standard deviation over the seeds in float32 (`spread`);
- `scores`: the fit scores of held-out simulated pairs at the end, seed by seed; `difference` is the
  mean over seeds of bfloat16 less float32, `spread` the standard deviation over the seeds in
  float32: what another seed changes. With one seed there is no spread.

A difference well within the spread means nothing. Every arm also reports its seconds a step.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import options, read, report
from benchmarks.speed.material import QUICK_SIZE, QUICK_SPACING_MM, settings_of, simulated_store
from mrbridge.training.run import train
from mrbridge.training.settings import PRESETS

PRECISIONS = ("float32", "bfloat16")
SCORES = ("psnr_target", "ssim_target", "psnr_source", "ssim_source")
LOSSES = (
    *("generators", "adversarial", "cycle", "identity", "back_translation", "simulated"),
    "paired",
    *("source_critic", "target_critic"),
)
WINDOW = 20
"""Steps over which a loss is averaged: an epoch here, of which training keeps the means."""

Rows = list[dict[str, float]]


def main(arguments: list[str] | None = None) -> None:
    """Train every arm and print."""
    parser = options(__doc__)
    parser.add_argument("--preset", default="unet", choices=list(PRESETS))
    parser.add_argument("--size", type=int, default=128, help="rows and columns")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--subjects", type=int, default=12)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    given = read(parser, arguments, size=QUICK_SIZE, steps=20, seeds=[0, 1], subjects=6)
    windows = max(1, given.steps // WINDOW)
    spacing = QUICK_SPACING_MM if given.quick else 2.0
    found: dict[str, list[Rows]] = {precision: [] for precision in PRECISIONS}
    with tempfile.TemporaryDirectory() as name:
        store = simulated_store(Path(name), given.subjects, spacing, given.seed)
        for seed in given.seeds:
            for precision in PRECISIONS:
                settings = settings_of(
                    given.preset,
                    given.size,
                    given.quick,
                    precision=precision,
                    seed=seed,
                    steps_per_epoch=WINDOW,
                    epochs=windows,
                    validate_every=windows,
                    simulated_subjects=2,
                )
                folder = Path(name) / f"{precision}-{seed}"
                run = train(store, folder, settings, device=given.device, start="scratch")
                found[precision].append(run.rows)
    report("parity", given, figures(found))


def figures(found: dict[str, list[Rows]]) -> dict[str, Any]:
    """Curves, scores and speed of the rows of all trainings, by precision and seed."""
    example = found[PRECISIONS[0]][0]
    curves: dict[str, Any] = {}
    for name in (loss for loss in LOSSES if loss in example[0]):
        # by_seed[precision][seed][window]
        by_seed = {p: [[row[name] for row in rows] for rows in found[p]] for p in PRECISIONS}
        curves[name] = {
            precision: [statistics.fmean(each) for each in zip(*runs, strict=True)]
            for precision, runs in by_seed.items()
        }
        curves[name]["spread"] = [_spread(each) for each in zip(*by_seed["float32"], strict=True)]
    scores: dict[str, Any] = {}
    for name in SCORES:
        values = {p: [rows[-1][name] for rows in found[p]] for p in PRECISIONS}
        pairs = zip(values["bfloat16"], values["float32"], strict=True)
        difference = statistics.fmean(fast - plain for fast, plain in pairs)
        scores[name] = values | {"difference": difference, "spread": _spread(values["float32"])}
    speed = {p: [rows[-1]["seconds"] / rows[-1]["step"] for rows in found[p]] for p in PRECISIONS}
    return {"window": WINDOW, "curves": curves, "scores": scores, "seconds_a_step": speed}


def _spread(values: list[float] | tuple[float, ...]) -> float | None:
    """Standard deviation over seeds; None of one."""
    return statistics.stdev(values) if len(values) > 1 else None


if __name__ == "__main__":
    main()
