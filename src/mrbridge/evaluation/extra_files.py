"""What belongs to a case: its masks, the scan behind its synthetic image, its uncertainty map."""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any, Literal

from mrbridge.errors import InputError, MrbridgeWarning
from mrbridge.evaluation.cases import Case
from mrbridge.evaluation.partners import files_below, partner, partner_of_file
from mrbridge.io.atomic import stem_of, suffix_of
from mrbridge.io.contrast import of_path
from mrbridge.io.formats import is_readable
from mrbridge.io.names import subject_folders
from mrbridge.io.remote import not_fetched
from mrbridge.preprocessing.skull_strip import mask_path

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
        warnings.warn(
            f"{missing} Without it, lesions are not measured.", MrbridgeWarning, stacklevel=2
        )
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
