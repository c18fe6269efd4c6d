"""What the sidecars of a BIDS data set say of a scan, and what the data set says of itself."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from mrbridge.errors import InputError, MrbridgeWarning
from mrbridge.io.remote import fetch
from mrbridge.json_text import decode, parse_json
from mrbridge.urls import shown

DESCRIPTION = "dataset_description.json"


def read_description(root: Path, *, needed: bool = True) -> dict[str, Any]:
    """`dataset_description.json`; empty where there is none.

    Args:
        root: the data set.
        needed: False treats one that cannot be read as absent, with a warning.

    Raises:
        InputError: it is needed, and cannot be read or is not a JSON object.
    """
    path = root / DESCRIPTION
    if not (path.is_file() or path.is_symlink()):
        return {}
    return _read(path) if needed else _read_if_possible(path)


def read_metadata(scan: Path, root: Path) -> dict[str, Any]:
    """All that the sidecars say of a scan, by the inheritance principle.

    A sidecar holds for every scan at or below its folder whose name has the same suffix and all
    its entities; what stands nearer to the scan wins, and in one folder what has more entities.

    Args:
        scan: a scan in the data set.
        root: the data set.

    Returns:
        The fields; a sidecar that cannot be read adds none, with a warning.

    Source: BIDS 1.10, common principles, "The Inheritance Principle".
    """
    entities, suffix = _parts(scan)
    merged: dict[str, Any] = {}
    folders = [folder for folder in scan.parents if folder == root or root in folder.parents]
    for folder in reversed(folders):
        holding = []
        for sidecar in folder.glob(f"*{suffix}.json"):
            of, its_suffix = _parts(sidecar)
            if its_suffix == suffix and of <= entities:
                holding.append((len(of), sidecar.name, sidecar))
        for _, _, sidecar in sorted(holding):
            merged |= _read_if_possible(sidecar)
    return merged


def _parts(path: Path) -> tuple[set[str], str]:
    """Entities such as `run-1`, and the suffix."""
    *entities, suffix = path.name.split(".")[0].split("_")
    return set(entities), suffix


def _read(path: Path) -> dict[str, Any]:
    """The content of a JSON file, with null for NaN.

    Raises:
        InputError: it cannot be read, or is not a JSON object.
    """
    remedy = "Correct it; bids-validator shows more."
    fetch(path)
    no_numbers: list[str] = []
    try:
        text, encoding = decode(path.read_bytes())
        content = parse_json(text, no_numbers.append)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path=path, remedy=remedy) from None
    except ValueError as error:
        raise InputError(f"is not JSON ({error})", path=path, remedy=remedy) from None
    if not isinstance(content, dict):
        raise InputError("is not a JSON object", path=path, remedy=remedy)
    if encoding != "utf-8":
        _warn(path, f"is not UTF-8; it is read as {encoding}")
    if no_numbers:
        _warn(path, f"holds {no_numbers[0]}, which JSON does not have; it is read as null")
    return content


def _read_if_possible(path: Path) -> dict[str, Any]:
    try:
        return _read(path)
    except InputError as error:
        _warn(path, f"{error.what}; it is not used")
        return {}


def _warn(path: Path, what: str) -> None:
    warnings.warn(f"{shown(path)}: {what}", MrbridgeWarning, stacklevel=3)
