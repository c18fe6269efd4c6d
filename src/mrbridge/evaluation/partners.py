"""Which files belong together, by their names and folders.

Scans, and what belongs to a case: its masks, the scan behind its synthetic image, its uncertainty
map.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mrbridge.errors import InputError, must_exist, warn
from mrbridge.io.atomic import stem_of, suffix_of
from mrbridge.io.contrast import guess_contrast, of_path, of_text
from mrbridge.io.formats import is_readable, walk
from mrbridge.io.names import natural_key, subject_folders, without_leading_zeros
from mrbridge.io.remote import not_fetched
from mrbridge.preprocessing.skull_strip import mask_path

if TYPE_CHECKING:
    from mrbridge.evaluation.cases import Case

# Words of file names that do not identify a scan.
_GENERIC = {
    *("synth", "synthetic", "real", "mask", "brain", "brainmask", "foreground", "lesion"),
    *("lesions", "uncertainty"),
}
_FOLDERS = 3  # above a file, whose names may say that it is of another subject

Extra = Literal["mask", "lesions", "source", "uncertainty"]

_KINDS: dict[str, tuple[str, ...]] = {
    "mask": ("mask", "suffix"),
    "lesions": ("mask", "suffix"),
    "uncertainty": ("derived map",),
    "source": (),
}
"""What files are, by their names (`Identity.kind`)."""
_LESION_WORDS = {"lesion", "lesions", "wmh", "tumor", "tumour", "stroke", "infarct"}
_LESION_MASKS = ("{entities}_label-lesion_mask.nii.gz", "{entities}_desc-lesion_mask.nii.gz")


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


def with_files(cases: Iterable[Case], place: str | Path, what: Extra) -> list[Case]:
    """The cases with masks or scans from a file (for all) or a folder (matched like synthetic
    images).

    A case without a matching file gets None.

    Raises:
        InputError: `place` does not exist, or contains no scan.
    """
    files = files_below(Path(place))

    def with_file(case: Case, path: Path | None) -> Case:
        changes: dict[str, Any] = {what: path}
        return replace(case, **changes)

    if Path(place).is_file():
        cases = list(cases)
        if what == "source":
            _must_be_another(files[0][0], cases)
        return [with_file(case, files[0][0]) for case in cases]
    # In a folder that holds scans, too, only masks and maps count.
    files = [item for item in files if of_path(item[1]).kind in _KINDS[what]] or files
    if what in ("mask", "lesions"):  # a folder may hold masks of the brain and of lesions
        is_wanted = [_is_of_lesions(item[1]) == (what == "lesions") for item in files]
        files = list(compress(files, is_wanted)) or files
    matches: list[tuple[Case, tuple[Path, Path] | None]] = []
    subjects: dict[Path, set[str]] = defaultdict(set)
    for case in cases:
        known = {path.resolve() for path in case.scored}
        others = [item for item in files if item[0].resolve() not in known]
        candidates = (partner_of_file(path, others) for path in case.scored)
        match = next((candidate for candidate in candidates if candidate is not None), None)
        matches.append((case, match))
        if match is not None:
            subjects[match[0]].add(case.subject)

    def is_of(case: Case, file: Path, relative: Path) -> bool:
        """Of files whose name several subjects have, only that in the folder of the subject."""
        nearest = subject_folders(relative)[-1:]
        if len(subjects[file]) == 1 or not nearest:
            return True
        return any(nearest[0] in path.parts for path in case.images.values())

    return [
        with_file(case, match[0] if match is not None and is_of(case, *match) else None)
        for case, match in matches
    ]


def _must_be_another(source: Path, cases: Sequence[Case]) -> None:
    """Refuse a real scan or a synthetic image as the source."""
    for case in cases:
        for path in case.scored:
            if path.resolve() == source.resolve():
                what = "synthetic image" if path == case.synthetic else "real scan"
                raise InputError(
                    f"is the {what} itself, not its source",
                    path=source,
                    remedy="Name the scan that the synthetic image was made from.",
                )


def _is_of_lesions(relative: Path) -> bool:
    return not _LESION_WORDS.isdisjoint(re.split(r"[^a-z]+", stem_of(relative).lower()))


def with_found_files(case: Case) -> Case:
    """The case with the lesion mask of a BIDS derivative and the uncertainty map that `translate
    --uncertainty` wrote next to its synthetic image, if there are any."""
    masks = (mask_path(path, name) for path in case.images.values() for name in _LESION_MASKS)
    lesions = case.lesions or next((mask for mask in masks if mask is not None), None)
    if lesions is not None and (missing := not_fetched(lesions)) is not None:
        warn(f"{missing} Without it, lesions are not measured.")
        lesions = None
    uncertainty = case.uncertainty
    if uncertainty is None and case.synthetic is not None:
        uncertainty = _map_of(case.synthetic)
    return replace(case, lesions=lesions, uncertainty=uncertainty)


def _map_of(synthetic: Path) -> Path | None:
    """The uncertainty map in the folder of a synthetic image: by the name that `translate` gives it
    or, if there is only one that matches, by the words of its name."""
    suffix, stem = suffix_of(synthetic), stem_of(synthetic)
    for name in (stem.replace("desc-synth", "desc-uncertainty"), f"{stem}_uncertainty"):
        path = synthetic.with_name(f"{name}{suffix}")
        if path != synthetic and path.is_file():
            return path
    maps = sorted(synthetic.parent.glob("*uncertainty*"))
    match = partner(Path(synthetic.name), [(m, Path(m.name)) for m in maps if is_readable(m)])
    return None if match is None else match[0]
