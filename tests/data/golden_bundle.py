"""Make the golden bundle, a model in this version of the format, which must always load.

    python tests/data/golden_bundle.py

Run it once for each version of the format, into a new folder; never overwrite an older one.
`expected.json` next to the bundle describes its translations of `scan()`.
"""  # fmt: skip

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrbridge.bundle import save_bundle
from mrbridge.inference.translate import translate
from mrbridge.manifest import BundleManifest
from mrbridge.networks.build import build_generator
from mrbridge.networks.settings import Networks
from mrbridge.preprocessing.intensity import IntensityNormalisation
from mrbridge.preprocessing.settings import PreprocessSettings
from mrbridge.volume import Volume

FOLDER = Path(__file__).with_name("golden-bundle")
NETWORKS: dict[str, Any] = {
    "image_size": 16,
    "generator": {"kind": "unet", "levels": 3, "features": 2, "max_features": 4},
    "critic": {"features": 2, "strided": 1},
}


def scan() -> Volume:
    """A ball in an oblique grid, of round numbers, so that no library can change it."""
    i, j, k = np.meshgrid(np.arange(18), np.arange(20), np.arange(3), indexing="ij")
    distance = (i - 9) ** 2 + (j - 10) ** 2 + 4 * (k - 1) ** 2
    voxels = np.where(distance < 64, 900 - 10 * distance + 20 * (i % 3), 0).astype(np.int16)
    affine = np.array([[-1.0, 0, 0, 9], [0, 0.96, -0.84, -10], [0, 0.28, 2.88, 3], [0, 0, 0, 1]])
    return Volume(voxels, affine)


def numbers(model: Path) -> dict[str, dict[str, Any]]:
    """Mean, standard deviation and one row of voxels of the translated scan, in both directions."""
    results = {}
    for contrast in ("T1w", "T2w"):
        made = translate(scan(), model=model, to=contrast, device="cpu").voxels.astype(np.float64)
        row = [round(float(value), 3) for value in made[4:14, 10, 1]]
        results[contrast] = {"mean": round(float(made.mean()), 3), "row": row}
        results[contrast]["spread"] = round(float(made.std()), 3)
    return results


def main() -> None:
    """Make bundle and numbers."""
    if FOLDER.exists():
        sys.exit(f"{FOLDER} is there already: an older bundle is kept as it is")
    networks = Networks.build(NETWORKS)
    rng = torch.Generator().manual_seed(0)
    weights = {
        f"{name}.{key}": value
        for name in ("to_target", "to_source")
        for key, value in build_generator(networks.generator, 16, rng).state_dict().items()
    }
    manifest = BundleManifest(
        source="T1w",
        target="T2w",
        preset="unet",
        networks=networks,
        standard=PreprocessSettings(),
        typical={
            "T1w": IntensityNormalisation(low=0, high=900),
            "T2w": IntensityNormalisation(low=0, high=1200),
        },
        pictures=False,
        trained={"subjects": 0},
        scores={"psnr_target": 1.5},
        limits=("It is not trained.",),
    )
    save_bundle(manifest, weights, FOLDER)
    text = json.dumps(numbers(FOLDER), indent=1)
    (FOLDER / "expected.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
