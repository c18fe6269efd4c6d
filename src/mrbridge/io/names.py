"""Whose scan a file is, and of which split, by its name and its folders."""

from __future__ import annotations

import re
from pathlib import Path

from mrbridge.io.bids_name import parse_name, stem_of
from mrbridge.io.contrast import guess_contrast, of_text
from mrbridge.io.contrast.words import without_contrast

__all__ = [
    "guess_contrast",
    "guess_split",
    "guess_subject",
    "natural_key",
    "read_split",
    "series_name",
    "subject_folders",
]

_SESSION = re.compile(
    r"^(ses|session|visit|study|timepoint|tp|scan|baseline|followup|year|month|week|day)"
    r"[-_ ]?\w*$|^\d{8}$",
    re.IGNORECASE,
)
ANY = "*"
"""In a query of a filter file: the entity must be there, whatever its value."""

_PLAIN_FOLDERS = {"anat", "nii", "nifti", "images", "image", "png", "data", "slices", "scans"}
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def guess_split(relative: Path) -> str | None:
    """`val` or `test` where a folder such as `test` or `testT1` says so and nothing else.

    `train` says nothing: part of such a folder may still be held out.
    """
    for folder in relative.parents:
        words = {word.lower() for word in _words(folder.name)}
        splits = {_SPLITS[word] for word in words if word in _SPLITS}
        others = {w for w in words if w not in _SPLITS and of_text(w).contrast is None}
        if len(splits) == 1 and not others and splits != {"train"}:
            return splits.pop()
    return None


def read_split(word: str) -> str | None:
    """`train`, `val` or `test` for the usual ways to write them, else None."""
    return _SPLITS.get(word.strip().lower())


def subject_folders(relative: Path) -> tuple[str, ...]:
    """The folders of a path that may name a subject or what is above it, such as a site: all that
    name neither a contrast, a session, a split nor something that every data set has."""
    return tuple(part for part in relative.parts[:-1] if _may_be_subject(part))


def _may_be_subject(folder: str) -> bool:
    named = folder.lower() in _PLAIN_FOLDERS or folder.lower() in _SPLITS
    return not (named or _says_image(folder) or _SESSION.match(folder))


def guess_subject(relative: Path, *, picture: bool) -> tuple[str | None, str | None]:
    """Subject and session of a file, from its path relative to the folder that was given.

    The subject is the nearest folder that names neither a contrast nor a session; without one, a
    volume's subject is the rest of its name (`IXI002-Guys-0828-T1` is IXI002-Guys-0828), and a
    picture has none.
    """
    name = parse_name(relative)
    if name is not None:
        return name.entities["sub"], name.entities.get("ses")
    subject: str | None = None
    sessions: list[str] = []
    for folder in (part.name for part in relative.parents):
        if not folder or folder.lower() in _PLAIN_FOLDERS or _says_image(folder):
            continue
        if _SPLITS.get(folder.lower()):
            continue
        if not _SESSION.match(folder):
            subject = folder
            break
        sessions.insert(0, folder)
    rest = None if picture else without_contrast(stem_of(relative))
    if subject is None:
        subject = rest
    elif rest and rest != subject:
        sessions.append(rest)
    return subject, "-".join(sessions) or None


def series_name(name: str) -> str:
    """A picture's name without its contrast: equal for the two pictures of one slice."""
    stem = stem_of(Path(name))
    return without_contrast(stem) or stem


def natural_key(text: str | Path) -> list[tuple[int, int, str]]:
    """A sort key by which `Image #9` comes before `Image #10`."""
    parts = re.split(r"(\d+)", str(text).casefold())
    # Numbers by their length, then their digits: there is no end to how long they are.
    ranks = [part.lstrip("0") if n % 2 else part for n, part in enumerate(parts)]
    keys = [(0, len(rank), rank) if n % 2 else (1, 0, rank) for n, rank in enumerate(ranks)]
    return [*keys, (2, 0, str(text))]


def _words(text: str) -> list[str]:
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return [word for word in re.split(r"[^a-zA-Z0-9]+", apart) if word]


def _says_image(folder: str) -> bool:
    """Whether a folder is named after what it holds, such as `T1` or `masks`, not a person."""
    told = of_text(folder)
    return told.contrast is not None or told.kind in ("mask", "agent")
