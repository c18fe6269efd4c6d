"""Read damaged files and check that only mrbridge's own errors are raised.

    python tests/fuzz/readers.py --seed 0 --seconds 60 --mutants 20000 nifti png dicom

Each mutant must be read, or refused with an error of mrbridge, within 5 seconds and 1 GB; if the
format has a checksum, it must be refused or give the image of the original file. There is one JSON
line per kind; the exit code is 1 if there are failures, and their mutants are kept in the folder
`--keep`. The same seed makes the same mutants, however many of them there are.
"""  # fmt: skip

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import json
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.fuzz.mutants import KINDS, Kind, Mutant

from mrbridge.errors import MrbridgeError
from mrbridge.volume import Volume

SECONDS = 5.0
MEMORY = 1 << 30


def identity(volume: Volume) -> str:
    """A hash of voxels and affine."""
    digest = hashlib.sha256(np.ascontiguousarray(volume.voxels).tobytes())
    digest.update(f"{volume.voxels.shape} {volume.voxels.dtype}".encode())
    if volume.affine is not None:
        digest.update(volume.affine.tobytes())
    return digest.hexdigest()


def judge(kind: Kind, mutant: Mutant, path: Path, known: set[str]) -> tuple[str, str | None]:
    """Read one mutant: (`read`, `same` or `refused`; what is wrong with that, if anything)."""
    try:
        with np.errstate(all="raise"):  # as some programs set it
            volume = kind.read(path)
    except MrbridgeError:
        return "refused", None
    except Exception as error:  # these are the failures
        return "refused", f"{type(error).__name__}: {error}"
    if identity(volume) in known:
        return "same", None
    if mutant.checked:
        return "read", "another image, though the format carries a check"
    if volume.voxels.ndim != 3 or not np.isfinite(volume.voxels).all():
        return "read", "voxels that are not a finite volume"
    if volume.affine is not None and not np.isfinite(volume.affine).all():
        return "read", "an affine that is not finite"
    return "read", None


def fuzz(name: str, seed: int, seconds: float, count: int, keep: Path) -> dict[str, Any]:
    """Read mutants of one kind until there were `count` or the time is over."""
    kind = KINDS[name]
    seeds = kind.seeds()
    outcomes: Counter[str] = Counter()
    found: list[dict[str, Any]] = []
    slowest, began = 0.0, time.monotonic()
    number = 0
    with tempfile.TemporaryDirectory() as folder:
        known = set()
        for suffix, content in seeds:
            path = Path(folder) / f"seed{suffix}"
            path.write_bytes(content)
            known.add(identity(kind.read(path)))
        peak = first = _peak()
        for number in range(count):
            if time.monotonic() - began > seconds:
                number -= 1
                break
            mutant = kind.damage(np.random.default_rng([seed, number]), seeds)
            path = Path(folder) / f"mutant{mutant.suffix}"
            path.write_bytes(mutant.content)
            # Also out of C, where no exception reaches.
            faulthandler.dump_traceback_later(4 * SECONDS, exit=True)
            start = time.monotonic()
            outcome, wrong = judge(kind, mutant, path, known)
            took = time.monotonic() - start
            outcomes[outcome] += 1
            slowest = max(slowest, took)
            if took > SECONDS:
                wrong = f"took {took:.1f} s"
            if _peak() - peak > MEMORY:
                wrong, peak = f"took {(_peak() - peak) >> 20} MB", _peak()
            if wrong is not None:
                keep.mkdir(parents=True, exist_ok=True)
                kept = keep / f"{name}-{seed}-{number}{mutant.suffix}"
                kept.write_bytes(mutant.content)
                found.append({"mutant": kept.name, "how": mutant.how, "wrong": wrong})
        faulthandler.cancel_dump_traceback_later()
    return {
        "kind": name,
        "mutants": number + 1,
        **{key: outcomes[key] for key in ("refused", "same", "read")},
        "slowest_s": round(slowest, 3),
        "memory_mb": (_peak() - first) >> 20,
        "seconds": round(time.monotonic() - began, 1),
        "found": len(found),
        "examples": found[:20],
    }


def _peak() -> int:
    """The most memory that this process has had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _limit_memory() -> None:
    """A reader that wants far more than it may gets a MemoryError, not the whole machine."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * MEMORY, used + 2 * MEMORY))


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="+", choices=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60, help="for each kind")
    parser.add_argument("--mutants", type=int, default=20_000, help="for each kind")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-found"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    faulthandler.enable()
    if sys.platform == "linux":
        _limit_memory()
    found = 0
    for name in arguments.kinds:
        result = fuzz(name, arguments.seed, arguments.seconds, arguments.mutants, arguments.keep)
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
        found += result["found"]
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
