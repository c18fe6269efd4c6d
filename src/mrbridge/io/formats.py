"""The file formats that mrbridge reads and writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mrbridge.io.safety import is_temporary, suffix_of
from mrbridge.io.transfer import fetch, not_fetched

FORMATS = {
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".png": "picture",
    ".tif": "picture",
    ".tiff": "picture",
    ".jpg": "picture",
    ".jpeg": "picture",
}
"""Suffix to kind of scan."""


def is_readable(path: str | Path) -> bool:
    """Whether the name is that of a scan in a known format."""
    return suffix_of(path) in FORMATS


def is_picture(path: str | Path) -> bool:
    """Whether the name is that of a picture."""
    return FORMATS.get(suffix_of(path)) == "picture"


def is_dicom(path: str | Path) -> bool:
    """Whether a path is a zip, a DICOM file, or a folder that holds one and no NIfTI file.

    A BIDS data set may keep DICOM files in `sourcedata`: it is none.
    """
    path = Path(path)
    if path.is_file():
        return suffix_of(path) == ".zip" or _has_magic(path)
    if not path.is_dir() or (path / "dataset_description.json").is_file():
        return False
    found = False
    for file in walk(path, links=True):
        if FORMATS.get(suffix_of(file)) == "nifti":
            return False
        found = found or (suffix_of(file) not in FORMATS and _has_magic(file))
    return found


def starts_as_dicom(stream: IO[bytes]) -> bool:
    """Whether bytes begin as a DICOM file does (PS3.10, 7.1): any 128 bytes, then DICM."""
    return stream.read(132)[128:] == b"DICM"


def walk(root: Path, *, links: bool = False) -> Iterator[Path]:
    """Regular files below `root` in the order of their names; nothing hidden or unfinished.

    Args:
        root: a folder.
        links: also links to files that are not there, as a DataLad data set has them.
    """
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            is_there = path.is_file() or (links and path.is_symlink())
            if is_there and not name.startswith(".") and not is_temporary(path):
                yield path


def _has_magic(path: Path) -> bool:
    if not_fetched(path) is not None:
        return False
    fetch(path)
    try:
        with open(path, "rb") as stream:
            return starts_as_dicom(stream)
    except OSError:
        return False
