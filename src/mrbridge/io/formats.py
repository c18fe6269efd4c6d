"""The file formats that mrbridge reads and writes."""

from __future__ import annotations

from pathlib import Path

from mrbridge.io.safety import suffix_of

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
