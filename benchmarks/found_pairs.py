"""How well slices of one head are told from others: one JSON line a kind of pair.

    python benchmarks/found_pairs.py --data ../shared/data

Needs the development data sets `seed-png` (secret pairs) and `open-ms-mni` (two people, in register
with themselves and roughly with each other). For every kind: the ratio of the information that two
slices share in place to that 3 pixels apart, and their difference.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrbridge import io
from mrbridge.data.likeness import are_in_register, information
from mrbridge.preparation.pipeline import StandardSettings, standardise

Slices = NDArray[np.float32]
Rivals = Iterator[tuple[str, Slices, Slices]]


def pictures(folder: Path) -> dict[int, Slices]:
    """Slices by the number in their names."""
    found = {}
    for path in folder.glob("*.png"):
        number = re.search(r"#(\d+)", path.name)
        if number:
            found[int(number[1])] = standardise(io.read(path), StandardSettings()).slices[0]
    return found


def seed(data: Path) -> Rivals:
    """True pairs of seed-png (its README tells them) and their neighbours."""
    sources, targets = (pictures(data / "seed-png" / name) for name in ("TrainT1", "TrainT2"))
    for number, source in sorted(sources.items()):
        partner = number + (60 if number <= 40 else 70)
        yield "seed-png, pairs", source, targets[partner]
        if partner + 1 in targets:
            yield "seed-png, neighbours", source, targets[partner + 1]


def people(data: Path) -> Rivals:
    """Slices of two patients: of each with itself, 2 mm beside, and with the other."""
    names = ("patient07", "patient19")
    scans = {
        (name, contrast): standardise(
            io.read(data / "open-ms-mni" / name / f"{contrast}.nii.gz"), StandardSettings()
        ).slices
        for name in names
        for contrast in ("T1", "T2")
    }
    for place in range(45, 130, 3):
        for name, stranger in (names, names[::-1]):
            source = scans[name, "T1"][place]
            yield "open-ms-mni, pairs", source, scans[name, "T2"][place]
            yield "open-ms-mni, 2 mm beside", source, scans[name, "T2"][place + 2]
            yield "open-ms-mni, another person", source, scans[stranger, "T2"][place]


def main() -> None:
    """Print a line for every kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    given = parser.parse_args()
    kinds: dict[str, list[tuple[float, float, bool]]] = {}
    for rivals in (seed(given.data), people(given.data)):
        for kind, one, other in rivals:
            here, there = information(one, other)
            told = here / max(there, 1e-6), here - there, are_in_register(one, other)
            kinds.setdefault(kind, []).append(told)
    for kind, told in kinds.items():
        ratios, losses, called = (np.array(column, float) for column in zip(*told, strict=True))
        numbers = {"ratio": ratios, "loss": losses}
        line = {
            "benchmark": "found_pairs",
            "kind": kind,
            "slices": len(told),
            "called pairs": round(float(called.mean()), 3),
        }
        for name, values in numbers.items():
            line[name] = [round(float(np.percentile(values, q)), 3) for q in (0, 50, 100)]
        print(json.dumps(line))


if __name__ == "__main__":
    main()
