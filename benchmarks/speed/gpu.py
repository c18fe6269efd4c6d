"""The speed benchmarks that can use a GPU, one after another, within a given time.

    python -m benchmarks.speed.gpu [--minutes 8] [--quick] [--device cuda] [--out FILE]

Every part runs in a fresh process and appends its JSON lines to
`benchmarks/speed/results/gpu-NAME.jsonl` (NAME is the device's). A part that fails does not stop
the others; one that takes longer than the time left is stopped. Without a CUDA device it ends with
exit code 2. Tests that need one: `pytest tests/training/test_cuda.py`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
RIVALS = ("--rivals", "textbook", "textbook_bf16", "compiled")
PARTS: dict[str, tuple[str, ...]] = {
    "matrix products and copies": ("matrix_rate", "--rounds", "1"),
    "steps of unet": ("train_step", "--presets", "unet", *RIVALS),
    "steps of bridge": ("train_step", "--presets", "bridge", *RIVALS),
    "steps of bridge, batch 16": (
        *("train_step", "--presets", "bridge", "--batch", "16", "--rivals", "compiled"),
    ),
    "translation of a volume": ("translate_volume", "--repeats", "1"),
    "steps of resunet and resnet": ("train_step", "--presets", "resunet", "resnet", *RIVALS),
    "bfloat16 against float32": (
        *("parity", "--preset", "bridge", "--steps", "200", "--seeds", "0", "1"),
    ),
}
"""Script and options of each part, the most informative first."""


def main(arguments: list[str] | None = None) -> None:
    """Run the parts that fit into the time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only shows that it runs")
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("PyTorch finds no CUDA device; --quick --device cpu only shows that all parts run")
        raise SystemExit(2)
    name = torch.cuda.get_device_name() if given.device == "cuda" else "none"
    file = f"gpu-{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.jsonl"
    out = (given.out or ROOT / "benchmarks/speed/results" / file).resolve()
    deadline = time.monotonic() + 60 * given.minutes
    for part, (script, *options) in PARTS.items():
        command = [sys.executable, "-m", f"benchmarks.speed.{script}", *options, "--out", str(out)]
        command += ["--quick"] * given.quick
        if given.device == "cpu" and "compiled" in command:
            command.remove("compiled")  # takes minutes there
        if script != "matrix_rate":  # which measures all devices
            command += ["--device", given.device]
        try:
            left = max(0.0, deadline - time.monotonic())
            code = subprocess.run(command, cwd=ROOT, timeout=left, check=False).returncode
        except subprocess.TimeoutExpired:
            print(f"{part}: stopped, no time left", file=sys.stderr)
            continue
        if code:
            print(f"{part}: failed with exit code {code}", file=sys.stderr)


if __name__ == "__main__":
    main()
