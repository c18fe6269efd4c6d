"""Which files mrbridge made, and may therefore replace. Every writer checks here.

A file is ours if it carries a mark that acquired scans and the work of others cannot carry by
accident; the word "synthetic" is not enough, since scanners synthesise contrasts too. Refusals are
OutputErrors.
"""

from __future__ import annotations

import gzip
import re
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from fnmatch import fnmatch
from os.path import lexists
from pathlib import Path
from typing import Any

from mrbridge.errors import MrbridgeError, OutputError
from mrbridge.io.atomic import suffix_of, writing
from mrbridge.io.formats import FORMATS
from mrbridge.io.remote import fetch
from mrbridge.io.temporary import is_temporary
from mrbridge.text import parse_json

GENERATOR = "mrbridge"  # the name of the maker in pages, sidecars, figures and networks
FIGURE_MARK = {"Software": GENERATOR}  # the text of a PNG figure that marks it as ours
TABLES = {  # their beginnings
    ".csv": (
        "case,subject,direction,method,kind,",  # scores.csv
        "case,subject,direction,measure,value",  # measures.csv
        "case,subject,direction,lesion,outcome,",  # lesions.csv
    ),
    ".tsv": ("participant_id\tsession_id\tsource\toutput\tstate",),  # logs/group.tsv
}
_NOTE = re.compile(r"synthetic (\S+, mrbridge \d|by mrbridge, for research)", re.IGNORECASE)
_PAGE_MARK = f'<meta name="generator" content="{GENERATOR}">'
_PAGE = '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
_ONNX = b"\x12\x08mrbridge"  # onnx.proto: field 2 of ModelProto, producer_name
_DESCRIP = {348: 148, 540: 240}  # of NIfTI-1 and NIfTI-2: where `descrip` begins, 80 bytes


def must_be_writable(folder: Path) -> None:
    """Refuse a folder of results that cannot be written, or created, before anything is computed
    for it."""
    place = folder.absolute()
    nearest = next(above for above in (place, *place.parents) if lexists(above))
    with writing(folder), tempfile.TemporaryFile(dir=nearest):
        pass


def must_be_ours(path: Path) -> None:
    """Refuse to replace what mrbridge did not make."""
    if path.exists() and not is_ours(path):
        raise OutputError(
            "is a folder" if path.is_dir() else "already exists and was not made by mrbridge",
            path=path,
            remedy="Name another place, or move it away first.",
        )


def must_be_our_page(path: Path) -> None:
    """Refuse a page whose name does not end in .html, or which mrbridge did not make."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise OutputError("is not the name of a page", path=path, remedy="Use a name with .html.")
    must_be_ours(path)


def is_ours(path: Path) -> bool:
    """Whether a file says that mrbridge made it. What cannot be read is not ours."""
    suffix = suffix_of(path)
    kind = FORMATS.get(suffix, suffix)
    try:
        fetch(path)
        if not path.is_file():
            return False
        if kind == "nifti":
            return _NOTE.match(_nifti_note(path)) is not None
        if kind == "image2d":
            return _is_our_image2d(path)
        if kind == ".json":
            return is_our_json(parse_json(path.read_text(encoding="utf-8")))
        if kind == ".onnx":
            with open(path, "rb") as stream:
                return _ONNX in stream.read(64)
        if kind in (".html", ".htm"):
            head = path.read_text(encoding="utf-8", errors="replace").partition("</head>")[0]
            return head.startswith(_PAGE) and _PAGE_MARK in head
        with open(path, encoding="utf-8") as stream:
            return kind in TABLES and stream.read(200).startswith(TABLES[kind])
    except (OSError, EOFError, ValueError, zlib.error, MrbridgeError):
        return False


def is_our_json(content: Any) -> bool:
    """Whether the content of a JSON file says that mrbridge made it."""
    if not isinstance(content, dict):
        return False
    makers = content.get("GeneratedBy")
    if isinstance(makers, list):
        names = [one.get("Name") for one in makers if isinstance(one, dict)]
        return GENERATOR in names
    return (
        re.match(r"mrbridge \d", str(content.get("created_by"))) is not None
        or re.match(r"\d", str(content.get("mrbridge"))) is not None  # of scores and findings
        or content.get("format") in ("mrbridge-store", "mrbridge-bundle")
    )


def check_only(folder: Path, ours: Sequence[str]) -> None:
    """Refuse to replace a folder that holds other files than mrbridge writes there.

    Args:
        folder: to be replaced; it may be absent.
        ours: patterns of the files below it that mrbridge writes, as of `fnmatch`.
    """
    if folder.is_file():
        raise OutputError("is a file", path=folder, remedy="Name a folder.")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        is_file = path.is_symlink() or not path.is_dir()
        if is_file and not is_temporary(path) and not any(fnmatch(name, one) for one in ours):
            raise OutputError(
                f"holds {name}, which mrbridge did not make",
                path=folder,
                remedy="Name another folder, or move that file away.",
            )


def make_room(folder: Path, ours: Sequence[str], state: str, *, overwrite: bool) -> None:
    """Check that results can be written into a folder; with `overwrite`, delete earlier ones first
    (`ours`, as for `check_only`). A folder with the file `state`, which an unfinished run leaves,
    is continued. OutputError if it holds other files."""
    if overwrite and folder.exists():
        check_only(folder, ours)
        shutil.rmtree(folder)
    if not (folder / state).exists() and folder.exists():
        check_only(folder, ())


def _nifti_note(path: Path) -> str:
    with open(path, "rb") as raw:
        is_compressed = raw.read(2) == b"\x1f\x8b"
    with (gzip.open if is_compressed else open)(path, "rb") as stream:
        head = stream.read(540)
    little, big = (int.from_bytes(head[:4], order) for order in ("little", "big"))
    start = _DESCRIP.get(little, _DESCRIP.get(big))
    return "" if start is None else head[start : start + 80].decode("latin-1")


def _is_our_image2d(path: Path) -> bool:
    from mrbridge.io import image2d

    try:
        with image2d.open_image(path) as image:
            is_figure = image.info.get("Software") == GENERATOR
            return is_figure or _NOTE.match(image2d.note_of(image)) is not None
    except Exception:  # Pillow's many parsers raise all kinds of exceptions for damaged files
        return False
