"""What the parts of the preset `bridge` bring, on simulated subjects at 2 mm: one JSON line an arm.

    python benchmarks/bridge_arms.py [--minutes 2] [--seed 0] [--arms bridge published …]

Every arm trains for the same time on the same store, in this process, one after the other. Scores
are those of validation (kind `fit`, held-out pairs, in the networks' intensity range), at the end
of the training, not at its best moment. The floor is the monotone intensity mapping that fits these
very pairs best.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from material import simulated_store
from mrbridge import metrics
from mrbridge.data.dataset import held_out_slices
from mrbridge.preparation.store import Store
from mrbridge.training.run import train
from mrbridge.training.settings import resolve
from mrbridge.training.validation import FOREGROUND, paired_scores

SIZE = 128
SMALL: dict[str, Any] = {
    "networks": {
        "image_size": SIZE,
        "generator": {"levels": 5, "features": 16, "max_features": 128},
    },
    "steps_per_epoch": 100,
    "validation_slices": 24,
}
NO_PRIOR = {"simulated_weight": 0.0, "warm_up": 0.0}
ARMS: dict[str, dict[str, Any]] = {
    "bridge": {},
    "bridge without refining layers": {"networks": {"generator": {"refine": 0}}},
    "bridge without simulated pairs": NO_PRIOR,
    "published objective": {
        **NO_PRIOR,
        "identity_weight": 5.0,
        "learning_rate": 2e-4,
        "networks": {"generator": {"refine": 0}},
    },
}


def floor(store: Store) -> dict[str, float]:
    """Scores of the best monotone mapping of the held-out pairs."""
    held_out = held_out_slices(store, SIZE, SMALL["validation_slices"])
    source, target = (stack[:, 0].numpy() for stack in (held_out.source, held_out.target))
    told = {}
    for name, given, real in (("target", source, target), ("source", target, source)):
        inside = real > -1 + FOREGROUND
        mapped = metrics.fit_monotone(given[inside], real[inside]).apply(given)
        told[f"psnr_{name}"], told[f"ssim_{name}"] = paired_scores(real, mapped)
    return told


def main() -> None:
    """Train each arm and print its line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    given = parser.parse_args()
    facts = {
        "benchmark": "bridge_arms",
        "minutes": given.minutes,
        "seed": given.seed,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processors": os.cpu_count(),
        "machine": platform.machine(),
    }
    names = ("psnr_target", "ssim_target", "psnr_source", "ssim_source")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = simulated_store(folder, subjects=12, spacing_mm=2.0, seed=given.seed)
        scores = floor(store)
        print(json.dumps(facts | {"arm": "floor"} | {k: round(scores[k], 3) for k in names}))
        for number, arm in enumerate(given.arms):
            changes = {"minutes": given.minutes, "seed": given.seed}
            settings = resolve("bridge", SMALL, ARMS[arm], changes)
            began = time.monotonic()
            last = train(store, folder / f"run{number}", settings, device="cpu").rows[-1]
            told = {k: round(last[k], 3) for k in names} | {"steps": int(last["step"])}
            seconds = round(time.monotonic() - began, 1)
            print(json.dumps(facts | {"arm": arm, "seconds": seconds} | told), flush=True)


if __name__ == "__main__":
    main()
