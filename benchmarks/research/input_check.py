"""How well the input check (`mrbridge.inference.input_check`) tells usual scans from others.

`python -m benchmarks.research.input_check [--data shared/data] [--subjects 3]` prints one JSON line
for each scan, and at the end one for each kind of fault: AUROC of the score against real T1w and
T2w scans (or simulated ones without `--data`), and how many were called unusual and refused.
Faults are made from simulated subjects; nothing is fitted to anything here.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.inference.appearance import MARGIN_MM, Appearance, measure
from mrbridge.inference.input_check import REFUSED, UNUSUAL, signs
from mrbridge.io import read
from mrbridge.phantom import PhantomSettings, simulate
from mrbridge.preprocessing.foreground import crop_to_head
from mrbridge.volume import Volume

Array = NDArray[Any]

ADULTS: dict[str, tuple[str, ...]] = {
    "T1w": ("open-ms-mni/*/T1.nii.gz", "open-ms-raw/*/*_T1W.nii.gz", "real-unpaired/T1w/*",
            "tumour-dev/met110/T1.nii.gz"),
    "T2w": ("open-ms-mni/*/T2.nii.gz", "open-ms-raw/*/*_T2W.nii.gz", "real-unpaired/T2w/*",
            "tumour-dev/met110/T2.nii.gz"),
}  # fmt: skip
"""Real scans that must not be refused; `healthy` in a name: of a healthy adult."""
OTHERS: dict[str, tuple[str, ...]] = {
    "FLAIR": ("open-ms-mni/*/FLAIR.nii.gz", "open-ms-raw/*/*_FLAIR.nii.gz",
              "tumour-dev/met110/FLAIR.nii.gz"),
    "contrast agent": ("open-ms-mni/*/T1POST.nii.gz", "tumour-dev/met110/T1POST.nii.gz",
                       "out-of-scope/*contrast_agent*"),
    "PDw": ("out-of-scope/*PDw*",),
    "infants": ("out-of-scope/infant*", "out-of-scope/newborn*", "out-of-scope/child*",
                "out-of-scope/fetus*"),
    "masks": ("open-ms-mni/*/lesions.nii.gz", "lesion-masks/ms/*brain*",
              "label-maps/synthsr/brain1_*"),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One scan: what is wrong with it, what it is taken for, and its image."""

    fault: str
    name: str
    taken_for: str
    volume: Volume


def real_cases(data: Path) -> Iterator[Case]:
    """The development scans."""
    for contrast, patterns in ADULTS.items():
        other = "T2w" if contrast == "T1w" else "T1w"
        for pattern in patterns:
            for path in sorted(data.glob(pattern)):
                name, volume = path.relative_to(data).as_posix(), read(path)
                yield Case("none", name, contrast, volume)
                yield Case(f"{contrast} given as {other}", name, other, volume)
    for fault, patterns in OTHERS.items():
        for pattern in patterns:
            for path in sorted(data.glob(pattern)):
                taken = "T2w" if "T2w" in path.name else "T1w"
                yield Case(fault, path.relative_to(data).as_posix(), taken, read(path))


def simulated_cases(subjects: int, seed: int = 27) -> Iterator[Case]:
    """Simulated adults, without and with each fault."""
    settings = PhantomSettings(subjects=subjects, seed=seed, spacing_mm=2.0)
    for index in range(subjects):
        subject = simulate(settings, index)
        rng = np.random.default_rng((seed, index))
        for contrast, volume in (("T1w", subject.t1w), ("T2w", subject.t2w)):
            name = f"simulated {index} {contrast}"
            yield Case("none, simulated", name, contrast, volume)
            for fault, spoil in FAULTS.items():
                spoilt = spoil(rng, volume.voxels.astype(np.float32))
                yield Case(fault, name, contrast, replace(volume, voxels=spoilt))
        t1w, t2w = (v.voxels.astype(np.float32) for v in (subject.t1w, subject.t2w))
        brain = subject.brain_mask.voxels > 0
        for fault, voxels in look_alikes(rng, t1w, t2w, brain).items():
            made = replace(subject.t1w, voxels=voxels)
            yield Case(fault, f"simulated {index}", "T1w", made)


def look_alikes(rng: np.random.Generator, t1w: Array, t2w: Array, brain: Array) -> dict[str, Array]:
    """Images that are not MR scans of a head, on the same grid; (i, j, k) each."""
    bone = (t1w < 0.25 * np.median(t1w[brain])) & ndimage.binary_dilation(brain, iterations=5)
    soft = ndimage.gaussian_filter(t2w, 1)
    ct = np.where(brain, 1035 + 10 * (soft > np.median(soft[brain])), 990.0)
    ct[bone & ~brain] = 1900
    ct[~ndimage.binary_dilation(brain, iterations=12)] = 0
    i, j, k = np.meshgrid(*[np.linspace(-1, 1, n) for n in t1w.shape], indexing="ij")
    ball = ((i / 0.8) ** 2 + (j / 0.7) ** 2 + (k / 0.8) ** 2 < 1) * 800.0
    rods = ball * (1 - 0.6 * ((np.hypot(i, j) % 0.3) < 0.08))
    blobs = ndimage.gaussian_filter(rng.standard_normal(t1w.shape), 5)
    levels = np.percentile(t1w[t1w > 0], (20, 40, 60, 80))
    return {
        "CT-like": (ct + rng.normal(0, 6, ct.shape)).astype(np.float32),
        "CT-like, windowed": np.clip((ct - 1000) / 80 * 255, 0, 255).astype(np.float32),
        "mask": brain.astype(np.uint8),
        "label map": np.digitize(t1w, levels).astype(np.uint8) * brain.astype(np.uint8),
        "phantom object": (rods + rng.normal(0, 15, ball.shape)).clip(0).astype(np.float32),
        "another organ": ((ball > 0) * (blobs / blobs.std() + 3) * 200).clip(0).astype(np.float32),
        "noise": rng.rayleigh(100, t1w.shape).astype(np.float32),
    }


def _noisy(rng: np.random.Generator, image: Array) -> Array:
    sigma = 0.25 * np.percentile(image, 95)
    return np.hypot(image + rng.normal(0, sigma, image.shape), rng.normal(0, sigma, image.shape))


def _ghosted(rng: np.random.Generator, image: Array) -> Array:
    return image + 0.3 * np.roll(image, image.shape[1] // 2, axis=1)


def _moved(rng: np.random.Generator, image: Array) -> Array:
    """Lines of k-space that were acquired in other positions."""
    spectrum = np.fft.fft(image, axis=1)
    for _ in range(4):
        start = int(rng.integers(0, image.shape[1] - 20))
        there = np.roll(image, int(rng.choice((-4, -3, 3, 4))), axis=int(rng.integers(0, 2)))
        spectrum[:, start : start + 20] = np.fft.fft(there, axis=1)[:, start : start + 20]
    return np.asarray(np.abs(np.fft.ifft(spectrum, axis=1)))


def _spiked(rng: np.random.Generator, image: Array) -> Array:
    waves = [np.arange(n) * rng.uniform(1.2, 2.2) for n in image.shape[:2]]
    stripes = np.cos(waves[0][:, None, None] + waves[1][None, :, None])
    return (image + 0.15 * np.percentile(image, 95) * stripes).clip(0)


def _wrapped(rng: np.random.Generator, image: Array) -> Array:
    cut = image.shape[1] // 5
    folded = image[:, cut:-cut].copy()
    folded[:, :cut] += image[:, -cut:]
    folded[:, -cut:] += image[:, :cut]
    return folded


def _without_slices(rng: np.random.Generator, image: Array) -> Array:
    start = image.shape[2] // 2
    return np.delete(image, slice(start, start + 8), axis=2)


FAULTS: dict[str, Callable[[np.random.Generator, Array], Array]] = {
    "strong noise": _noisy,
    "ghosting": _ghosted,
    "motion": _moved,
    "spikes": _spiked,
    "wrap-around": _wrapped,
    "missing slices": _without_slices,
    "cut field of view": lambda rng, image: image[:, :, : int(0.62 * image.shape[2])],
    "upside down": lambda rng, image: image[:, :, ::-1],
    "back to front": lambda rng, image: image[:, ::-1],
}


@lru_cache(maxsize=1)
def _measured(volume: Volume) -> Appearance:
    """Measured once for all that a scan is taken for."""
    return measure(crop_to_head(volume, MARGIN_MM).head)


def judged(case: Case) -> dict[str, Any]:
    """One line: the score, the strongest sign, the largest lesion, and the seconds it took."""
    start = time.process_time()
    measured = _measured(case.volume)
    found = list(signs(measured, case.taken_for, True, case.volume.is_2d))
    worst = max(found, key=lambda sign: sign.score)
    return {
        "fault": case.fault,
        "scan": case.name,
        "taken_for": case.taken_for,
        "score": round(worst.score, 3),
        "sign": worst.kind,
        "lesion_ml": measured.lesion_ml,
        "cpu_seconds": round(time.process_time() - start, 2),
    }


def auroc(faulty: list[float], usual: list[float]) -> float:
    """The share of pairs in which the faulty scan has the higher score; equal ones count half."""
    difference = np.subtract.outer(faulty, usual)
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def summary(lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One line for each fault."""
    scores = defaultdict(list)
    for line in lines:
        scores[line["fault"]].append(line["score"])
    usual = scores.get("none") or scores["none, simulated"]
    for fault, values in scores.items():
        yield {
            "fault": fault,
            "scans": len(values),
            "auroc": None if fault.startswith("none") else round(auroc(values, usual), 3),
            "unusual": sum(UNUSUAL <= value < REFUSED for value in values),
            "refused": sum(value >= REFUSED for value in values),
        }


def main() -> None:
    """Print JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--subjects", type=int, default=3)
    options = parser.parse_args()
    lines = []
    cases = [real_cases(options.data)] if options.data else []
    for some in (*cases, simulated_cases(options.subjects)):
        for case in some:
            lines.append(judged(case))
            print(json.dumps(lines[-1]), flush=True)
    for line in summary(lines):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
