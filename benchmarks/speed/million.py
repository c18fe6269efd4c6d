"""What a million scans cost, computed from the rates that the other benchmarks measured.

    python -m benchmarks.speed.million [--scans 1000000]

Prints a table in Markdown for docs/explanation/scale.md. Nothing is measured here: it reads the
last lines of results/prepare.jsonl and results/translate_volume.jsonl. Hours are those of one
machine of that kind that does nothing else, at the rate of its measured number of workers; a
cluster divides them by its machines for as long as the disk can follow.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
SHAPE = (182, 218, 182)  # of the volume that was translated, 1 mm
FLOAT32, FLOAT16 = 4, 2


def main() -> None:
    """Compute and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=1_000_000)
    scans = parser.parse_args().scans
    prepared, translated = last("prepare"), last("translate_volume")
    machine = prepared["machine"]
    print(f"{scans:,} scans on: {machine['processor']}, {machine['threads']} threads\n")
    print("| work | seconds a scan | hours | bytes a second written |\n|---|---|---|---|")
    voxels = SHAPE[0] * SHAPE[1] * SHAPE[2]
    for workers, figures in prepared["workers"].items():
        seconds = figures["seconds"] / prepared["volumes"]
        row(f"prepare, {workers} worker(s), start included", seconds, scans, voxels * FLOAT16)
    for engine, figures in translated["engines"].items():
        seconds = figures["volume"]["seconds"]
        row(f"translate, {engine}, model loaded", seconds, scans, voxels * FLOAT32)
        seconds = figures["command"]["seconds"]
        row(f"translate, {engine}, a command a scan", seconds, scans, voxels * FLOAT32)
    print(f"\nBefore compression: store {terabytes(scans * voxels * FLOAT16)}, ", end="")
    print(f"synthetic images {terabytes(scans * voxels * FLOAT32)} (float32).")
    print(
        f"Manifest: {manifest_gigabytes(scans):.1f} GB of JSON, at {RECORD_BYTES:,} bytes a scan."
    )


RECORD_BYTES = 1_800
"""Of a record in manifest.json with 182 slices: those of open-ms-raw have 750, and 6 a slice."""


def last(name: str) -> dict[str, Any]:
    """The newest result of a benchmark."""
    line = json.loads((RESULTS / f"{name}.jsonl").read_text().splitlines()[-1])
    assert isinstance(line, dict)
    return line


def row(name: str, seconds: float, scans: int, size: int) -> None:
    """A line of the table."""
    print(
        f"| {name} | {seconds:.2f} | {seconds * scans / 3600:,.0f} | {size / seconds / 1e6:.0f} M |"
    )


def terabytes(size: float) -> str:
    """A size in words."""
    return f"{size / 1e12:.1f} TB"


def manifest_gigabytes(scans: int) -> float:
    """How large the manifest of a store would be."""
    return scans * RECORD_BYTES / 1e9


if __name__ == "__main__":
    main()
