"""What `--denoise` gains: PSNR inside the head before and after, on simulated heads to which Rician
noise of a known level is added, and the level that was measured.

    python -m benchmarks.research.denoising [--spacing 1.5] [--thickness 4]
        [--levels 0 0.01 0.03 0.07]

Levels are shares of the head's bright tissue. One JSON line each.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace

import numpy as np

from mrbridge.metrics import psnr
from mrbridge.phantom.settings import PhantomSettings
from mrbridge.phantom.subjects import rician, simulate
from mrbridge.preprocessing.foreground import Head
from mrbridge.preprocessing.preprocess import without_noise


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spacing", type=float, default=1.5, help="mm")
    parser.add_argument("--thickness", type=float, default=None, help="mm of the slices")
    parser.add_argument("--levels", type=float, nargs="+", default=[0, 0.01, 0.03, 0.07])
    given = parser.parse_args()
    settings = PhantomSettings(
        spacing_mm=given.spacing, slice_thickness_mm=given.thickness, noise=0
    )
    subject = simulate(settings, 0)
    for perfect in (subject.t1w, subject.t2w):
        truth = perfect.voxels.astype(np.float32)
        inside = truth > 0.1 * np.percentile(truth, 99)
        top = float(np.percentile(truth[inside], 90))
        for level in given.levels:
            noisy = truth
            if level:
                noisy = rician(np.random.default_rng(0), truth, level * top).astype(np.float32)
            start = time.process_time()
            made, sigma = without_noise(Head(replace(perfect, voxels=noisy)))
            seconds = time.process_time() - start
            line = {
                "contrast": perfect.contrast,
                "voxel_mm": [given.spacing, given.thickness or given.spacing],
                "noise": level,
                "measured": round(sigma / top, 4),
                "psnr_before": round(psnr(truth, noisy, inside, top), 2),
                "psnr_after": round(psnr(truth, made.voxels, inside, top), 2),
                "microseconds_a_voxel": round(seconds / truth.size * 1e6, 2),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
