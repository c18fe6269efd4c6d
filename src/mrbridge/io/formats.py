"""The file formats that mrbridge reads and writes."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Collection, Iterator
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
    exports, directly with a dataset (PS3.5, 7.1).

    The first element of a dataset is of group 0002 (file meta information) or 0008
    (identification), and further ones follow in ascending order, each with an even length that its
    type allows.
    """
    start = stream.read(_START)
    if start[128:132] == b"DICM":
        return True
    if start[:2] not in (b"\2\0", b"\x08\0", b"\0\x08"):
        return False
    orders = (("<", True), ("<", False), (">", True))
    return any(_are_elements(start, order, explicit) for order, explicit in orders)


def _are_elements(start: bytes, order: str, explicit: bool) -> bool:
    from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

    place, before = 0, (0, 0)
    for _ in range(_ELEMENTS):
        if place + 12 > len(start):
            return False
        tag = struct.unpack_from(f"{order}HH", start, place)
        kind = start[place + 4 : place + 6].decode("latin-1")
        if not explicit:
            length, head = struct.unpack_from(f"{order}I", start, place + 4)[0], 8
        elif kind in EXPLICIT_VR_LENGTH_32:
            length, head = struct.unpack_from(f"{order}I", start, place + 8)[0], 12
        elif kind in EXPLICIT_VR_LENGTH_16:
            length, head = struct.unpack_from(f"{order}H", start, place + 6)[0], 8
        else:
            return False
        is_even = length % 2 == 0 or length == _UNDEFINED
        is_group_length = tag[1] == 0
        if tag <= before or not is_even or (is_group_length and length != 4):
            return False
        if tag[0] == 2 and order == ">":  # file meta information is little endian
            return False
        place, before = place + head + length, tag
    return True


def walk(root: Path) -> Iterator[Path]:
    """Files below a folder in the order of their names, without hidden and unfinished ones, with
    broken links (files of a DataLad dataset that are not fetched)."""
    for path in all_files(root):
        if not path.name.startswith(".") and (is_file(path) or path.is_symlink()):
            yield path


def all_files(
    root: Path, skipped: Collection[str] = (), onerror: Callable[[OSError], None] | None = None
) -> Iterator[Path]:
    """All files below a folder, without unfinished ones and those in hidden folders and stores.

    Links to folders are followed; a folder that several of them lead to, or a cycle, counts once.

    Args:
        skipped: names of folders directly below `root` to leave out.
        onerror: called for a folder that cannot be listed.
    """
    seen = set[str]()
    for folder, folders, names in os.walk(root, onerror=onerror, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        is_top = Path(folder) == root
        kept = [
            name
            for name in folders
            if not name.startswith(".")
            and not name.endswith(".zarr")
            and not (is_top and name in skipped)
        ]
        # Of two ways to a folder, the one without a link.
        folders[:] = sorted(kept, key=lambda name: (os.path.islink(f"{folder}/{name}"), name))
        yield from (Path(folder, name) for name in sorted(names) if not is_temporary(name))


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

    for _ in all_files(root, skipped, remember):
        pass
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
