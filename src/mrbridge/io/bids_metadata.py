"""What the sidecars of a BIDS data set say of a scan, and what the data set says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mrbridge.errors import InputError
from mrbridge.io.transfer import fetch
from mrbridge.json_text import parse_json

DESCRIPTION = "dataset_description.json"


def read_description(root: Path) -> dict[str, Any]:
    """`dataset_description.json`; empty where there is none.

    Raises:
        InputError: it is no JSON object.
    """
    path = root / DESCRIPTION
    return _read(path) if path.is_file() else {}


def read_metadata(scan: Path, root: Path) -> dict[str, Any]:
    """All that the sidecars say of a scan, by the inheritance principle.

    A sidecar holds for every scan at or below its folder whose name has the same suffix and all
    its entities; what stands nearer to the scan wins, and in one folder what has more entities.

    Args:
        scan: a scan in the data set.
        root: the data set.

    Raises:
        InputError: a sidecar is no JSON object.

    Source: BIDS 1.10, common principles, "The Inheritance Principle".
    """
    entities, suffix = _parts(scan)
    told: dict[str, Any] = {}
    folders = [folder for folder in scan.parents if folder == root or root in folder.parents]
    for folder in reversed(folders):
        holding = []
        for sidecar in folder.glob(f"*{suffix}.json"):
            of, its_suffix = _parts(sidecar)
            if its_suffix == suffix and of <= entities:
                holding.append((len(of), sidecar.name, sidecar))
        for _, _, sidecar in sorted(holding):
            told |= _read(sidecar)
    return told


def _parts(path: Path) -> tuple[set[str], str]:
    """Entities such as `run-1`, and the suffix."""
    *entities, suffix = path.name.split(".")[0].split("_")
    return set(entities), suffix


def _read(path: Path) -> dict[str, Any]:
    remedy = "Mend it; bids-validator tells more."
    fetch(path)
    try:
        told = parse_json(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path=path, remedy=remedy) from None
    except ValueError as error:
        raise InputError(f"is no JSON ({error})", path=path, remedy=remedy) from None
    if not isinstance(told, dict):
        raise InputError("holds no JSON object", path=path, remedy=remedy)
    return told
