"""How well slices of one head are distinguished from others: one JSON line a kind of pair, and one
of the pairs that a training finds for each set of pictures of `quality.py`.

    python -m benchmarks.research.found_pairs --data ../shared/data

Needs the development data sets `seed-png` (secret pairs) and `open-ms-mni` (two people, in register
with themselves and roughly with each other). For every kind: the ratio of the information that two
slices share in place to that 3 pixels apart, and their difference.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.research.quality_sets import PICTURES
from mrbridge import io
from mrbridge.dataset.pairs import are_in_register, found_pairs, information
from mrbridge.dataset.prepare import prepare
from mrbridge.dataset.sampling import SliceBank
from mrbridge.preprocessing.preprocess import preprocess
from mrbridge.preprocessing.settings import PreprocessSettings

Slices = NDArray[np.float32]
Rivals = Iterator[tuple[str, Slices, Slices]]


def pictures(folder: Path) -> dict[int, Slices]:
    """Slices by the number in their names."""
    found = {}
    for path in folder.glob("*.png"):
        number = re.search(r"#(\d+)", path.name)
        if number:
            found[int(number[1])] = preprocess(io.read(path), PreprocessSettings()).slices[0]
    return found


def seed(data: Path) -> Rivals:
    """True pairs of seed-png (its README lists them) and their neighbours."""
    sources, targets = (pictures(data / "seed-png" / name) for name in ("TrainT1", "TrainT2"))
    for number, source in sorted(sources.items()):
        partner = number + (60 if number <= 40 else 70)
        yield "seed-png, pairs", source, targets[partner]
        if partner + 1 in targets:
            yield "seed-png, neighbours", source, targets[partner + 1]


def people(data: Path) -> Rivals:
    """Slices of two patients: of each with itself, 2 mm away, and with the other."""
    names = ("patient07", "patient19")
    scans = {
        (name, contrast): preprocess(
            io.read(data / "open-ms-mni" / name / f"{contrast}.nii.gz"), PreprocessSettings()
        ).slices
        for name in names
        for contrast in ("T1", "T2")
    }
    for place in range(45, 130, 3):
        for name, stranger in (names, names[::-1]):
            source = scans[name, "T1"][place]
            yield "open-ms-mni, pairs", source, scans[name, "T2"][place]
            yield "open-ms-mni, 2 mm away", source, scans[name, "T2"][place + 2]
            yield "open-ms-mni, another person", source, scans[stranger, "T2"][place]


def found_in(data: Path, of_set: str) -> dict[str, int]:
    """Of the pictures that are kept for training: how many partners there are, and how many of the
    pairs that are found are right."""
    with tempfile.TemporaryDirectory() as name:
        cases, folders = PICTURES[of_set](data, Path(name) / "slices")
        store = prepare(folders, Path(name) / "store")
        banks = (SliceBank(store, "T1w", "train", 256), SliceBank(store, "T2w", "train", 256))
        shown = []
        for folder, bank, contrast in zip(folders, banks, ("T1w", "T2w"), strict=True):
            known = {case.scans[contrast].voxels.tobytes(): case.name for case in cases}
            pictures = [io.read(folder / record.name) for record, _ in bank.places]
            shown.append([known.get(picture.voxels.tobytes()) for picture in pictures])
        found = [(shown[0][i], shown[1][j]) for i, j in found_pairs(banks)]
    partners = (set(shown[0]) & set(shown[1])) - {None}
    right = sum(one == other and one is not None for one, other in found)
    return {"partners": len(partners), "found": len(found), "right": right}


def main() -> None:
    """Print a line for every kind and set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    given = parser.parse_args()
    kinds: dict[str, list[tuple[float, float, bool]]] = {}
    for rivals in (seed(given.data), people(given.data)):
        for kind, one, other in rivals:
            here, there = information(one, other)
            row = here / max(there, 1e-6), here - there, are_in_register(one, other)
            kinds.setdefault(kind, []).append(row)
    for kind, rows in kinds.items():
        ratios, losses, called = (np.array(column, float) for column in zip(*rows, strict=True))
        numbers = {"ratio": ratios, "loss": losses}
        line: dict[str, Any] = {
            "benchmark": "found_pairs",
            "kind": kind,
            "slices": len(rows),
            "called pairs": round(float(called.mean()), 3),
        }
        for name, values in numbers.items():
            line[name] = [round(float(np.percentile(values, q)), 3) for q in (0, 50, 100)]
        print(json.dumps(line))
    for of_set in PICTURES:
        counts = found_in(given.data, of_set)
        print(json.dumps({"benchmark": "found_pairs", "set": of_set} | counts))


if __name__ == "__main__":
    main()
