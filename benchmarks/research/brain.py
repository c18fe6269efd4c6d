"""How well `--brain auto` finds brains: Dice against the masks of simulated heads, and, of real
scans, between the masks of the contrasts of one session, which lie in one scanner space.

    python -m benchmarks.research.brain --subjects 3 [--sessions FOLDER…]

A folder of `--sessions` holds the NIfTI scans of one session. One JSON line each. Simulated heads
are deformed ICBM templates, so that their Dice flatters; that between contrasts is bounded by how
far the scans lie apart, and says nothing of an error that they share.
"""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import numpy as np

from benchmarks.harness import measure_scans
from mrbridge.errors import InputError
from mrbridge.io import read
from mrbridge.phantom.settings import PhantomSettings
from mrbridge.phantom.subjects import simulate
from mrbridge.preprocessing.foreground import Head
from mrbridge.preprocessing.resample import resample
from mrbridge.preprocessing.skull_strip import find_brain, volume_l
from mrbridge.volume import Volume


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Twice what they share over what they hold together."""
    return float(2 * np.count_nonzero(one & other) / (one.sum() + other.sum()))


def simulated(subjects: int, thickness_mm: float | None) -> None:
    """Whole heads of 2 mm voxels, or of thick slices."""
    settings = PhantomSettings(spacing_mm=2.0, slice_thickness_mm=thickness_mm)
    for index in range(subjects):
        subject = simulate(settings, index)
        truth = subject.brain_mask.voxels > 0
        for contrast, scan in (("T1w", subject.t1w), ("T2w", subject.t2w)):
            start = time.process_time()
            try:
                found = find_brain(Head(scan), "auto")
            except InputError as error:
                name = f"sim-{subject.label}"
                refused = {"subject": name, "contrast": contrast, "refused": error.what}
                print(json.dumps(refused | {"true_litres": round(volume_l(truth, scan), 3)}))
                continue
            line = {
                "subject": f"sim-{subject.label}",
                "contrast": contrast,
                "slice_mm": thickness_mm or 2.0,
                "dice": round(dice(found, truth), 4),
                "litres": round(volume_l(found, scan), 3),
                "true_litres": round(volume_l(truth, scan), 3),
                "cpu_seconds": round(time.process_time() - start, 1),
            }
            print(json.dumps(line), flush=True)


def session(folder: Path) -> None:
    """All pairs of scans of one session."""
    found = {}
    for path in sorted(folder.glob("*.nii*")):
        scan = read(path)
        found[path.name] = scan, find_brain(Head(scan), "auto")
    for (name, (scan, mask)), (other, (moved, second)) in itertools.combinations(found.items(), 2):
        there = Volume(second.astype(np.uint8), moved.affine)
        on_grid = resample(there, scan, interpolation="nearest").voxels > 0
        line = {
            "session": folder.name,
            "scans": [name, other],
            "dice": round(dice(mask, on_grid), 4),
            "litres": [round(volume_l(mask, scan), 3), round(volume_l(second, moved), 3)],
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    measure_scans(__doc__, 3, simulated, session)
