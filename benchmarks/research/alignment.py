"""How well `--align` finds the template: what a scan shares with it as it is and aligned, and how
far the contrasts of one session, each aligned separately, are apart.

    python -m benchmarks.research.alignment --subjects 2 [--thickness 4] [--sessions FOLDER…]

A folder of `--sessions` holds the NIfTI scans of one session, in one scanner space; stripped brains
have a Dice with the template's brain, whole heads none. Simulated heads are tilted first by a known
motion, which alignment is to undo. One JSON line each.
"""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.harness import measure_scans
from mrbridge.errors import InputError
from mrbridge.io import read
from mrbridge.phantom.settings import PhantomSettings
from mrbridge.phantom.subjects import simulate
from mrbridge.preprocessing.foreground import Head
from mrbridge.preprocessing.resample import Matrix, moved, resample
from mrbridge.preprocessing.skull_strip import LITRES, volume_l
from mrbridge.preprocessing.template import (
    Alignment,
    align,
    nearest_rigid,
    template_brain,
    template_head,
)
from mrbridge.volume import Volume


def shared(scan: Volume, transform: Matrix, bins: int = 32) -> float:
    """Mutual information in nats with the template, over its brain."""
    template, brain = template_head(), template_brain().voxels > 0
    there = resample(scan, template, transform, "linear").voxels[brain]
    there = np.clip(there, *np.percentile(there, (0, 99.5)))
    counts = np.histogram2d(there, template.voxels[brain], bins)[0]
    joint = counts / counts.sum()
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    some = joint > 0
    return float((joint[some] * np.log(joint[some] / apart[some])).sum())


def dice(inside: Volume, transform: Matrix) -> float:
    """Of a brain mask and the template's brain."""
    brain = template_brain()
    there, own = resample(inside, brain, transform, "nearest").voxels > 0, brain.voxels > 0
    return float(2 * np.count_nonzero(there & own) / (there.sum() + own.sum()))


def measure(name: str, scan: Volume, mask: Volume | None) -> Alignment | None:
    """Print how one scan fares; its rigid alignment."""
    start = time.process_time()
    try:
        rigid = align(Head(scan), "rigid")
    except InputError as error:
        print(json.dumps({"scan": name, "refused": error.what}), flush=True)
        return None
    seconds = time.process_time() - start
    ways = {"as_it_lies": np.eye(4), "rigid": rigid.transform}
    ways["affine"] = align(Head(scan), "affine").transform
    line = {
        "scan": name,
        "angle": round(rigid.angle, 1),
        "sizes": [round(size, 2) for size in rigid.sizes],
        "residual_mm": round(rigid.residual_mm, 2),
        "search_nats": round(rigid.information, 3),
        "nats": {way: round(shared(scan, matrix), 3) for way, matrix in ways.items()},
    }
    if mask is not None:
        line["dice"] = {way: round(dice(mask, matrix), 3) for way, matrix in ways.items()}
    print(json.dumps(line | {"cpu_seconds": round(seconds, 1)}), flush=True)
    return rigid


def brain_points() -> Matrix:
    """Some points of the template's brain, RAS+ mm."""
    brain = template_brain()
    assert brain.affine is not None
    return moved(np.argwhere(brain.voxels > 0)[::50].astype(float), brain.affine)


def session(folder: Path) -> None:
    """All scans of a session, and how far their alignments are apart within the brain."""
    found = {}
    for path in sorted(folder.glob("*.nii*")):
        scan = read(path)
        if len(np.unique(scan.voxels[::3, ::3, ::3])) < 10:
            continue  # a mask
        shown = replace(scan, voxels=(scan.voxels != 0).astype(np.uint8))
        is_brain = volume_l(shown.voxels > 0, scan) < LITRES[1]
        rigid = measure(f"{folder.name}/{path.name}", scan, shown if is_brain else None)
        if rigid is not None:
            found[path.name] = rigid
    points = brain_points()
    for (name, one), (other_name, other) in itertools.combinations(found.items(), 2):
        between = other.transform @ np.linalg.inv(one.transform)
        off = np.linalg.norm(moved(points, between) - points, axis=1)
        rms = float(np.sqrt(np.square(off).mean()))
        line = {"session": folder.name, "scans": [name, other_name], "apart_mm": round(rms, 2)}
        print(json.dumps(line), flush=True)


def simulated(subjects: int, thickness_mm: float | None) -> None:
    """Simulated heads, nodded, turned and shifted by a motion that is drawn for each."""
    settings = PhantomSettings(spacing_mm=2.0, slice_thickness_mm=thickness_mm)
    for index in range(subjects):
        subject = simulate(settings, index)
        rng = np.random.default_rng(index)
        axis = rng.normal(size=3) * (1, 0.4, 0.6)
        goals = rng.normal(size=(50, 3)) * 50
        angle = np.radians(rng.uniform(8, 15))
        tilted = goals + np.sin(angle) * np.cross(axis / np.linalg.norm(axis), goals)
        motion = nearest_rigid(goals, tilted + rng.normal(size=3) * 15)
        for contrast, scan in (("T1w", subject.t1w), ("T2w", subject.t2w)):
            assert scan.affine is not None
            there = motion @ scan.affine
            mask = replace(subject.brain_mask, affine=there)
            measure(f"sim-{subject.label}_{contrast}", replace(scan, affine=there), mask)


if __name__ == "__main__":
    measure_scans(__doc__, 2, simulated, session)
