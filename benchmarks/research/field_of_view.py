"""What margins of zeros around a head change: one JSON line a direction and width.

    python -m benchmarks.research.field_of_view [--models shipped RUN …]
        [--widths 0 256 320 400 512] [--spacing 2]
        [--out benchmarks/research/results/field_of_view.jsonl]

A simulated head with noise in its air, padded with zeros within axial slices to so many mm. `r` is
the correlation with the true contrast inside the head, `largest` the largest difference from the
synthesis of the head without padding, as a share of its range.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import keep_line
from benchmarks.research.quality_sets import TO
from mrbridge.inference.translator import Translator
from mrbridge.phantom.subjects import varied_subject
from mrbridge.volume import Volume

_SEED = 23  # no training draws these subjects


def padded(volume: Volume, width_mm: float) -> tuple[Volume, tuple[slice, ...]]:
    """A scan with zeros around it in the plane, and where it lies in that."""
    assert volume.affine is not None
    assert volume.spacing is not None
    sizes = np.array(volume.voxels.shape)
    wanted = np.ceil(width_mm / np.array(volume.spacing)).astype(int)
    added = np.maximum(wanted - sizes, 0) * (1, 1, 0)
    widths = np.stack([added // 2, added - added // 2], axis=1)
    affine = volume.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ widths[:, 0]
    voxels = np.pad(volume.voxels, widths.tolist())
    inside = tuple(slice(int(b), int(b + n)) for b, n in zip(widths[:, 0], sizes, strict=True))
    return replace(volume, voxels=voxels, affine=affine), inside


def main() -> None:
    """All widths, in both directions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=["shipped"])
    parser.add_argument("--widths", type=int, nargs="*", default=[0, 256, 320, 400, 512])
    parser.add_argument("--spacing", type=float, default=2.0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    subject = varied_subject(_SEED, 0, given.spacing, stripped=False)
    for model in given.models:
        translator = Translator(model)
        for to, source in zip(TO, reversed(TO), strict=True):
            truth = subject.canonical[to].voxels
            inside = truth > 0.02 * truth.max()
            first = None
            for width in given.widths:
                scan, place = padded(subject.seen[source], width)
                began = time.monotonic()
                made = translator.translate(scan, to).voxels[place]
                seconds = time.monotonic() - began
                first = made if first is None else first
                largest = np.abs(made - first)[inside].max() / np.ptp(first)
                line: dict[str, Any] = {
                    "benchmark": "field of view",
                    "model": Path(model).name,
                    "to": to,
                }
                line |= {"width_mm": width, "seconds": round(seconds, 1)}
                line["r"] = round(float(np.corrcoef(made[inside], truth[inside])[0, 1]), 4)
                keep_line(line | {"largest": round(float(largest), 5)}, given.out)


if __name__ == "__main__":
    main()
