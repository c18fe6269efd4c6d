"""Which files belong together, by their names and folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mrbridge.errors import InputError, must_exist
from mrbridge.io.atomic import stem_of
from mrbridge.io.contrast import guess_contrast, of_text
from mrbridge.io.formats import is_readable, walk
from mrbridge.io.names import natural_key, without_leading_zeros

# Words of file names that do not identify a scan.
_GENERIC = {
    *("synth", "synthetic", "real", "mask", "brain", "brainmask", "foreground", "lesion"),
    *("lesions", "uncertainty"),
}
_FOLDERS = 3  # above a file, whose names may say that it is of another subject


def partner(relative: Path, candidates: Sequence[tuple[Path, Path]]) -> tuple[Path, Path] | None:
    """The only candidate (path, relative path) that matches a file; None if none or several do.

    The first of these rules that leaves one candidate decides: the same relative path, the same
    name, then the same words (without contrast, `desc-…` and words such as `mask`) and the same
    contrast or folder. Folders of other subjects or sessions never match.
    """
    words, contrast = words_of(relative), guess_contrast(Path(relative.name))
    candidates = [item for item in candidates if not _of_others(relative, item[1])]
    same_words = [item for item in candidates if words_of(item[1]) == words]
    same_folder = [item for item in same_words if item[1].parent == relative.parent]

    def of_contrast(items: list[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
        return [item for item in items if guess_contrast(Path(item[1].name)) == contrast]

    attempts = [
        [item for item in candidates if item[1] == relative],
        [item for item in candidates if item[1].name == relative.name],
        of_contrast(same_folder),
        same_folder,
    ]
    if words:  # `T2.nii.gz` identifies a scan only inside its folder
        attempts += [of_contrast(same_words), same_words]
    return next((attempt[0] for attempt in attempts if len(attempt) == 1), None)


def partner_of_file(
    path: Path, candidates: Sequence[tuple[Path, Path]]
) -> tuple[Path, Path] | None:
    """The partner of a file of which only the whole path is known, not its place in a tree."""
    folders = path.absolute().parent.parts[-_FOLDERS:]
    near = [item for item in candidates if not _numbered_otherwise(folders, item[1].parent.parts)]
    return partner(Path(path.parent.name, path.name), near)


def _of_others(one: Path, other: Path) -> bool:
    """Whether the folders of two files name different subjects or sessions.

    A name such as `T2.nii.gz` says nothing: then all words of the folders count.
    """
    named = words_of(one) or words_of(other)
    one, other = one.parent, other.parent
    if _numbered_otherwise(one.parts, other.parts):
        return True
    if named:
        mine, yours = (_labels(path) for path in (one, other))
        return any(mine[key] != yours[key] for key in mine.keys() & yours.keys())
    first, second = ({w for p in path.parts for w in words_of(Path(p))} for path in (one, other))
    return not (first <= second or second <= first)


def _numbered_otherwise(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether folders of one file differ from those of another in their numbers only: `patient01`
    and `patient02`."""

    def shape(name: str) -> str:
        return re.sub(r"\d+", "0", name)

    numbered = [
        [
            without_leading_zeros(name)
            for name in names
            if re.search(r"\d", name) and of_text(name).contrast is None
        ]
        for names in (one, other)
    ]
    alike = {shape(name) for name in numbered[1]}
    return any(shape(name) in alike and name not in numbered[1] for name in numbered[0])


def _labels(folder: Path) -> dict[str, str]:
    """The BIDS labels of subject and session in a path, such as {"sub": "01"}."""
    labels = (part.partition("-") for part in folder.parts)
    return {key: label for key, _, label in labels if key in ("sub", "ses")}


def words_of(relative: Path) -> tuple[str, ...]:
    """The words of a file name that identify the scan."""
    stem = stem_of(relative)
    stem = re.sub(r"(desc|label)-[a-zA-Z0-9]+", "", stem)
    words = [word for word in re.split(r"[-_.\s]+", stem) if word]
    return tuple(
        word
        for word in words
        if word.lower() not in _GENERIC and guess_contrast(Path(f"{word}.nii.gz")) is None
    )


def files_below(root: Path) -> list[tuple[Path, Path]]:
    """Readable files at or below `root`, each with its relative path, in natural order."""
    if root.is_file():
        return [(root, Path(root.parent.name, root.name))]
    must_exist(root)
    paths = [(path, path.relative_to(root)) for path in walk(root) if is_readable(path)]
    if not paths:
        raise InputError(
            "contains no scan", path=root, remedy="Name a file, or a folder with scans."
        )
    return sorted(paths, key=lambda item: natural_key(item[1]))
