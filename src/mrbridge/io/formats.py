"""The file formats that mrbridge reads and writes."""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO

from mrbridge.io.atomic import suffix_of
from mrbridge.io.remote import fetch, not_fetched
from mrbridge.io.temporary import is_temporary

FORMATS = {".nii": "nifti", ".nii.gz": "nifti"} | dict.fromkeys(
    (".png", ".tif", ".tiff", ".jpg", ".jpeg"), "image2d"
)
"""The kind of scan by suffix."""

_START = 4096  # bytes of a file that tell whether it is DICOM
_ELEMENTS = 3  # this many in order are not a coincidence
_UNDEFINED = 0xFFFFFFFF  # the length of a sequence that ends with a delimiter
# Value representations with a length of two and of four bytes (PS3.5, 7.1.2).
_SHORT = {
    *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT"),
    *(b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"),
}
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}


def is_readable(path: str | Path) -> bool:
    """Whether the suffix is that of a scan in a known format."""
    return suffix_of(path) in FORMATS


def is_2d(path: str | Path) -> bool:
    """Whether the suffix is that of a 2D image."""
    return FORMATS.get(suffix_of(path)) == "image2d"


def is_dicom(path: str | Path) -> bool:
    """Whether a path is a zip, a DICOM file, or a folder that holds one and no NIfTI file.

    A BIDS dataset may keep DICOM files in `sourcedata`: it is not one.
    """
    path = Path(path)
    if path.is_file():
        return suffix_of(path) == ".zip" or _has_magic(path)
    if not path.is_dir() or (path / "dataset_description.json").is_file():
        return False
    found = False
    for file in walk(path):
        if FORMATS.get(suffix_of(file)) == "nifti":
            return False
        found = found or (suffix_of(file) not in FORMATS and _has_magic(file))
    return found


def starts_as_dicom(stream: IO[bytes]) -> bool:
    """Whether bytes begin as a DICOM file: any 128 bytes, then DICM (PS3.10, 7.1), or, in old
    exports, directly with a dataset (PS3.5, 7.1)."""
    start = stream.read(_START)
    return start[128:132] == b"DICM" or begins_with_data_set(start)


def begins_with_data_set(start: bytes) -> bool:
    """Whether bytes are the first elements of a DICOM dataset that has no preamble.

    Its first element is of group 0002 (file meta information) or 0008 (identification), and
    further ones follow in ascending order, each with an even length that its type allows.

    Args:
        start: the first 4096 bytes of a file, or all of a shorter one.
    """
    return any(
        _count_elements(start, order, explicit) >= _ELEMENTS
        for order, explicit in (("<", True), ("<", False), (">", True))
    )


def _count_elements(start: bytes, order: str, explicit: bool) -> int:
    """The number of dataset elements at the start of the bytes; 0 if they are not a dataset."""
    place, count, before = 0, 0, (0, 0)
    while place + 12 <= len(start) and count < _ELEMENTS:
        tag = struct.unpack_from(f"{order}HH", start, place)
        if tag <= before or (count == 0 and tag[0] not in (2, 8)):
            return 0
        if tag[0] == 2 and order == ">":
            return 0  # file meta information is little endian
        kind = start[place + 4 : place + 6]
        if not explicit:
            length, head = struct.unpack_from(f"{order}I", start, place + 4)[0], 8
        elif kind in _LONG:
            length, head = struct.unpack_from(f"{order}I", start, place + 8)[0], 12
        elif kind in _SHORT:
            length, head = struct.unpack_from(f"{order}H", start, place + 6)[0], 8
        else:
            return 0
        if tag[1] == 0 and length != 4:  # a group's length is four bytes
            return 0
        if length % 2 and length != _UNDEFINED:
            return 0
        place, count, before = place + head + length, count + 1, tag
    return count


def walk(root: Path) -> Iterator[Path]:
    """Files below a folder in the order of their names, without hidden and unfinished ones, with
    broken links (files of a DataLad dataset that are not fetched)."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            is_hidden = name.startswith(".") or is_temporary(path)
            if not is_hidden and (is_file(path) or path.is_symlink()):
                yield path


def is_file(path: Path) -> bool:
    """Whether a path is a file. True also if its folder cannot be searched, so that reading it
    reports why."""
    try:
        return path.is_file()
    except OSError:
        return True


def unreadable_folders(root: Path, skipped: Collection[str] = ()) -> list[tuple[Path, str]]:
    """Folders at or below `root` whose content cannot be listed, each with the reason.

    Args:
        root: a folder; other paths have none.
        skipped: names of folders directly below it to leave out; hidden ones are left out too.
    """
    found: list[tuple[Path, str]] = []

    def remember(error: OSError) -> None:
        path = Path(error.filename)
        if not isinstance(error, NotADirectoryError | FileNotFoundError):
            found.append((path, f"is a folder that cannot be read ({error.strerror})"))

    for folder, folders, _ in os.walk(root, onerror=remember):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not (name in skipped and Path(folder) == root)
        ]
    return sorted(found)


def _has_magic(path: Path) -> bool:
    if not_fetched(path) is not None:
        return False
    fetch(path)
    try:
        with open(path, "rb") as stream:
            return starts_as_dicom(stream)
    except OSError:
        return False
