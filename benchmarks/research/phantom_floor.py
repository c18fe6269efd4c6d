"""How hard the phantom is: what the best intensity mapping reaches, and what could be reached.

    python -m benchmarks.research.phantom_floor [--subjects 8] [--spacing 2] [--seed 0]

Prints one JSON line. For each direction, inside the head and inside the brain, mean and standard
deviation over subjects of PSNR (dB) and SSIM (fit scores) of

- `floor`: the best monotone (isotonic, rising or falling) mapping of intensities, fitted on the
  very scan and region that it is scored on: the most that can be had without looking at anatomy;
- `ceiling`: the scan without its noise, against the scan: what a perfect synthesis would get that
  knew the receive field too;
- `ceiling_without_bias`: the scan without noise and receive field: the field of the target cannot
  be known from the source, so this is what a perfect network would get.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.metrics import fit_monotone, scores
from mrbridge.phantom import PhantomSettings, simulate
from mrbridge.volume import Volume


def main() -> None:
    """Simulate, score, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--spacing", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    settings = PhantomSettings(
        subjects=arguments.subjects, spacing_mm=arguments.spacing, seed=arguments.seed
    )
    start = time.perf_counter()
    rows = [score_subject(settings, index) for index in range(settings.subjects)]
    summary: dict[str, Any] = {}
    for key in rows[0]:
        values = np.array([row[key] for row in rows])
        summary[key] = {"mean": round(values.mean(), 4), "sd": round(values.std(), 4)}
    seconds = round(time.perf_counter() - start, 1)
    print(
        json.dumps(
            {
                "benchmark": "phantom_floor",
                "settings": settings.model_dump(),
                "seconds": seconds,
                "results": summary,
            }
        )
    )


def score_subject(settings: PhantomSettings, index: int) -> dict[str, float]:
    """All numbers of one subject, by `direction/region/what/measure`."""
    subject = simulate(settings, index)
    noiseless = simulate(settings.changed({"noise": 0.0}), index)
    perfect = simulate(settings.changed({"noise": 0.0, "bias": 0.0}), index)
    brain = _stack(subject.brain_mask) > 0
    regions = {"head": _head(_stack(perfect.t1w), _stack(perfect.t2w)), "brain": brain}
    t1w, t2w = _stack(subject.t1w), _stack(subject.t2w)
    result = {
        "correlation/brain": float(np.corrcoef(t1w[brain], t2w[brain])[0, 1]),
    }
    pairs = (
        ("t1w_to_t2w", t1w, t2w, _stack(noiseless.t2w), _stack(perfect.t2w)),
        ("t2w_to_t1w", t2w, t1w, _stack(noiseless.t1w), _stack(perfect.t1w)),
    )
    for direction, source, target, without_noise, without_bias in pairs:
        for region, mask in regions.items():
            mapping = fit_monotone(source[mask], target[mask])
            candidates = {
                "floor": mapping.apply(source),
                "ceiling": without_noise,
                "ceiling_without_bias": without_bias,
            }
            for what, synthetic in candidates.items():
                fit = scores(target, synthetic, mask)["fit"]
                for measure in ("psnr", "ssim"):
                    result[f"{direction}/{region}/{what}/{measure}"] = fit[measure]
    return result


def _stack(volume: Volume) -> NDArray[np.float32]:
    """The volume (x, y, z) as axial slices (z, y, x)."""
    return np.ascontiguousarray(volume.voxels.T, dtype=np.float32)


def _head(t1w: NDArray[np.float32], t2w: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where there is signal without noise, skull and sinuses filled slice by slice."""
    signal = (t1w > 0.05 * np.percentile(t1w, 99)) | (t2w > 0.05 * np.percentile(t2w, 99))
    return np.stack([ndimage.binary_fill_holes(piece) for piece in signal])


if __name__ == "__main__":
    main()
