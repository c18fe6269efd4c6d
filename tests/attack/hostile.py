"""Run command lines on hostile inputs and check that the promises hold.

    python -m tests.attack.hostile --minutes 60 --seed 0

Each case is a folder `in` that a seeded generator fills, and command lines that write to `out`.
Whatever the input, a command line ends with exit code 0 to 3 and no traceback, a refusal is one
line, the input stays as it is, nothing is written elsewhere, and what is written is finite. One
JSON line a generator; exit code 1 if a promise was broken. A seed and a number make one case.
"""  # fmt: skip

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from tests.conftest import ellipsoids
from tests.data.golden_bundle import FOLDER as MODEL
from tests.faults.table import Outcome, Workshop
from tests.fuzz.mutants import KINDS, Random, damaged_bytes

from mrbridge import io

Lines = list[list[str]]
SCAN = "sub-01_T1w.nii.gz"
STRANGE: list[Any] = [
    *(None, True, 0, -1, 1, 10**30, 1e308, float("nan"), float("inf"), 0.5),
    *(
        "",
        "x",
        "../../x",
        "/etc/passwd",
        "a\0b",
        "\x1b[2J",
        "{0}",
        "\u202e",
        "=1+1",
        "T1w",
        "9" * 400,
    ),
    *([], {}, [[]], {"": ""}, [None], ["x"] * 3, {"a": {"a": {"a": 1}}}),
]
NAMES = [
    *("sub-01_T1w", "-rf_T1w", "a b_T1w", "\u0663_T1w", "%s_T1w", "{x}_T1w", "T1w", "..T1w"),
    *("x" * 240 + "_T1w", "sub-_ses-_T1w", "sub-01_desc-synth_T1w", "\x1b[2J_T1w", "\n_T1w", "~"),
    *("sub-01_run-99999999999999999999_T1w", "con_T1w", "*?_T1w", "$(x)_T1w", "\udcff_T1w"),
]


def translate(source: str, out: str, model: Path | str = MODEL) -> list[str]:
    """A command line that translates."""
    return ["translate", "-i", source, "-o", out, "-m", str(model), "--device", "cpu", "-q"]


def scan(path: Path, contrast: str = "T1w", seed: int = 1) -> None:
    """A small scan."""
    io.write(ellipsoids(seed, contrast, (20, 24, 5)), path)


def bids(root: Path) -> None:
    """A small dataset."""
    for number in (1, 2):
        for contrast in ("T1w", "T2w"):
            name = f"sub-0{number}/anat/sub-0{number}_{contrast}.nii.gz"
            scan(root / name, contrast, number)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')


def mutated(rng: Random, value: Any, depth: int = 0) -> Any:
    """JSON with one value, key or length changed somewhere."""
    if isinstance(value, dict) and value and (depth == 0 or rng.random() < 0.8):
        key = str(rng.choice(list(value)))
        changed = dict(value)
        how = rng.random()
        if how < 0.1:
            del changed[key]
        elif how < 0.2:
            changed[str(STRANGE[int(rng.integers(len(STRANGE)))])] = changed.pop(key)
        else:
            changed[key] = mutated(rng, value[key], depth + 1)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = int(rng.integers(len(value)))
        if rng.random() < 0.2:
            return value[:at] if rng.random() < 0.5 else value * 3
        return [*value[:at], mutated(rng, value[at], depth + 1), *value[at + 1 :]]
    return STRANGE[int(rng.integers(len(STRANGE)))]


def mutate_json(rng: Random, path: Path) -> None:
    """Change a JSON file: its values, or its bytes."""
    if rng.random() < 0.2:
        content = path.read_bytes()
        path.write_bytes(damaged_bytes(rng, content, content)[0])
        return
    value = json.loads(path.read_text())
    for _ in range(int(rng.integers(1, 4))):
        value = mutated(rng, value)
    path.write_text(json.dumps(value))


_SEEDS: dict[str, list[tuple[str, bytes]]] = {}


def headers(kind: str) -> Callable[[Random, Path], Lines]:
    """A generator of damaged scans of one kind."""

    def make(rng: Random, folder: Path) -> Lines:
        if kind not in _SEEDS:
            _SEEDS[kind] = KINDS[kind].seeds()
        mutant = KINDS[kind].damage(rng, _SEEDS[kind])
        name = f"sub-01_T1w{mutant.suffix}"
        (folder / name).write_bytes(mutant.content)
        out = f"out/x{mutant.suffix}" if kind != "dicom" else "out/x"
        return [["inspect", "in"], translate(f"in/{name}", out), translate("in", "out/all")]

    return make


def bundles(rng: Random, folder: Path) -> Lines:
    """A bundle from elsewhere."""
    shutil.copytree(MODEL, folder / "model")
    scan(folder / SCAN)
    mutate_json(rng, folder / "model" / "bundle.json")
    return [["info", "in/model"], translate(f"in/{SCAN}", "out/x.nii.gz", "in/model")]


_STORE: list[Path] = []


def stores(rng: Random, folder: Path) -> Lines:
    """A store with a damaged manifest or array."""
    if not _STORE:
        _STORE.append(Path(tempfile.mkdtemp()))
        bids(_STORE[0] / "bids")
        assert Workshop(folder).run("prepare", _STORE[0] / "bids", "-o", _STORE[0] / "s").code == 0
    store = Path(shutil.copytree(_STORE[0] / "s", folder / "store"))
    if rng.random() < 0.7:
        mutate_json(rng, store / "manifest.json")
    else:
        files = sorted(path for path in store.rglob("*") if path.is_file())
        path = files[int(rng.integers(len(files)))]
        path.write_bytes(damaged_bytes(rng, path.read_bytes(), b"x")[0])
    return [["inspect", "in/store"], ["inspect", "in/store", "-o", "out/page.html"]]


def sidecars(rng: Random, folder: Path) -> Lines:
    """A BIDS dataset with odd tables and sidecars."""
    bids(folder)
    (folder / "participants.tsv").write_text("participant_id\tage\nsub-01\t3\nsub-02\tn/a\n")
    sidecar = folder / "sub-01" / "anat" / "sub-01_T1w.json"
    fields = {
        "SkullStripped": False,
        "EchoTime": 0.003,
        "AnatomicalLandmarkCoordinates": {"AC": [1]},
    }
    sidecar.write_text(json.dumps(fields))
    path = (sidecar, folder / "dataset_description.json", folder / "participants.tsv")[
        int(rng.integers(3))
    ]
    if path.suffix == ".json":
        mutate_json(rng, path)
    else:
        path.write_bytes(damaged_bytes(rng, path.read_bytes(), b"\xff\xfe\0x")[0])
    return [translate("in", "out"), ["prepare", "in", "-o", "out-store", "-q"]]


def tables(rng: Random, folder: Path) -> Lines:
    """A table of scans."""
    scan(folder / SCAN)
    rows = [["subject", "contrast", "path"], ["1", "T1w", SCAN], ["2", "T2w", SCAN]]
    for _ in range(int(rng.integers(1, 4))):
        row = rows[int(rng.integers(3))]
        row[int(rng.integers(3))] = str(STRANGE[int(rng.integers(len(STRANGE)))])
    mark = str(rng.choice([",", ";", "\t"]))
    text = "\n".join(mark.join(row) for row in rows).encode("utf-8", "replace")
    (folder / "scans.csv").write_bytes(
        damaged_bytes(rng, text, text)[0] if rng.random() < 0.3 else text
    )
    return [["inspect", "in/scans.csv"], ["prepare", "in/scans.csv", "-o", "out/store", "-q"]]


def names(rng: Random, folder: Path) -> Lines:
    """Files with odd names."""
    for number in range(3):
        name = str(NAMES[int(rng.integers(len(NAMES)))])
        scan(folder / f"{name}{'.NII.gz' if rng.random() < 0.1 else '.nii.gz'}", seed=number)
    if rng.random() < 0.3:
        (folder / "loop").symlink_to("loop")
    return [["inspect", "in"], translate("in", "out")]


def settings(rng: Random, folder: Path) -> Lines:
    """A file of settings."""
    value = mutated(rng, {"standard": {"spacing_mm": 1.0, "margin_mm": 10}, "seed": 0})
    text = json.dumps(value, default=str).encode()
    if rng.random() < 0.4:
        text = damaged_bytes(rng, text, b"a: &a [*a]\n")[0]
    (folder / "config.yaml").write_bytes(text)
    scan(folder / SCAN)
    return [["prepare", "in", "-o", "out/store", "--config", "in/config.yaml", "-q"]]


def runs(rng: Random, folder: Path) -> Lines:
    """A run from elsewhere."""
    run = folder / "run"
    shutil.copytree(MODEL, run / "bundle")
    (run / "checkpoints").mkdir()
    for path in (run / "settings.yaml", run / "checkpoints" / "last.ckpt", run / "metrics.csv"):
        path.write_bytes(rng.bytes(int(rng.integers(0, 200))) if rng.random() < 0.7 else b"{}")
    mutate_json(rng, run / "bundle" / "bundle.json")
    return [["info", "in/run"], ["train", "in", "-o", "in/run", "--resume", "-q"]]


GENERATORS: dict[str, Callable[[Random, Path], Lines]] = {
    **{kind: headers(kind) for kind in KINDS},
    "bundles": bundles,
    "stores": stores,
    "sidecars": sidecars,
    "tables": tables,
    "names": names,
    "settings": settings,
    "runs": runs,
}


def tree(folder: Path) -> dict[str, str]:
    """Every file below `in`, and the hash of its bytes; every other name but those of outputs."""
    hashes = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not name.startswith("out"):
            is_file = path.is_file() and not path.is_symlink()
            hashes[name] = hashlib.sha256(path.read_bytes()).hexdigest() if is_file else ""
    return hashes


def broken(result: Outcome, before: dict[str, str], folder: Path) -> str | None:
    """The promise that a command line broke, if any."""
    lines = [line for line in result.err.splitlines() if not line.startswith("warning: ")]
    if result.code not in (0, 1, 2, 3):
        return f"exit code {result.code}"
    if "Traceback" in result.err or "failed unexpectedly" in result.err + result.out:
        return "an unexpected error"
    if result.code == 2 and not (len(lines) == 1 and lines[0].startswith("error: ")):
        return "a refusal that is not one line"
    after = tree(folder)
    if after != before:
        return f"changed {sorted(set(after.items()) ^ set(before.items()))[:3]}"
    for path in folder.glob("out/**/*.nii*"):
        if path.is_file():
            try:
                values = nib.load(path).get_fdata()
            except Exception as error:  # of nibabel, which other programs rely on
                return f"{path.name} cannot be read: {error}"
            if not np.isfinite(values).all():
                return f"{path.name} is not finite"
    return None


def attack(name: str, seed: int, number: int) -> list[dict[str, Any]]:
    """Run one case; what it broke."""
    rng = np.random.default_rng([seed, number, *name.encode()])
    found = []
    start = Path.cwd()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "in").mkdir()
        lines = GENERATORS[name](rng, folder / "in")
        before = tree(folder)
        os.chdir(folder)
        try:
            for line in lines:
                result = Workshop(folder).run(*line)
                what = broken(result, before, folder)
                if what is not None:
                    case = {"case": f"{name} {seed} {number}", "line": " ".join(line)}
                    found.append(
                        case | {"broken": what, "output": (result.err or result.out)[-500:]}
                    )
        finally:
            os.chdir(start)
    return found


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("generators", nargs="*", default=list(GENERATORS), help=str(GENERATORS))
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--cases", type=int, default=10**9, help="at most, for each generator")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ["XDG_STATE_HOME"] = os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
    end = time.monotonic() + 60 * arguments.minutes
    counts = dict.fromkeys(arguments.generators, 0)
    found: list[dict[str, Any]] = []
    for number in range(arguments.cases):
        if time.monotonic() > end:
            break
        for name in counts:
            if time.monotonic() < end:
                found += attack(name, arguments.seed, number)
                counts[name] += 1
    for case in found:
        sys.stdout.write(json.dumps(case) + "\n")
    sys.stdout.write(json.dumps({"cases": counts, "found": len(found)}) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
