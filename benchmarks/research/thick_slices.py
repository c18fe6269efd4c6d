"""Finer slices than the scan has: translate first, or resample first?

    python -m benchmarks.research.thick_slices [--seed 77]

A simulated head, its T1w averaged to thick axial slices, is translated into T2w on a fine grid in
both orders. One JSON line a thickness: PSNR (dB) and SSIM of kind `fit`, inside the head, against
the fine T2w as it was simulated.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from mrbridge import metrics
from mrbridge.inference.translate import translate
from mrbridge.inference.translator import Translator
from mrbridge.phantom.fields import Grid
from mrbridge.phantom.settings import PhantomSettings
from mrbridge.phantom.subjects import simulate, thick_slices
from mrbridge.preprocessing.foreground import Head
from mrbridge.preprocessing.resample import resample
from mrbridge.volume import Volume

SIZES = ((1.25, 5.0), (2.0, 6.0))  # mm: of the fine voxels, and of the thick slices


def main() -> None:
    """Simulate, translate in both orders, score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=77)
    given = parser.parse_args()
    translator = Translator()
    for fine_mm, thick_mm in SIZES:
        head = simulate(PhantomSettings(seed=given.seed, spacing_mm=fine_mm), 0)
        fine, thick = (
            Grid.over_field_of_view((fine_mm, fine_mm, z_mm)) for z_mm in (fine_mm, thick_mm)
        )
        voxels = thick_slices(head.t1w.voxels.astype("float32"), fine, thick)
        scan = Volume(voxels, thick.affine, contrast="T1w")
        after = resample(translator.translate(scan, "T2w"), head.t2w).voxels
        finer = translate(scan, model=translator, to="T2w", spacing=(fine_mm,))
        before = resample(finer, head.t2w).voxels
        inside = Head(head.t2w).mask
        line: dict[str, Any] = {"fine_mm": fine_mm, "thick_mm": thick_mm}
        arms = {"translated first": after, "resampled first": before, "mean": (after + before) / 2}
        for name, made in arms.items():
            found = metrics.scores(head.t2w.voxels, made, inside)["fit"]
            line |= {name: [round(found["psnr"], 2), round(found["ssim"], 3)]}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
