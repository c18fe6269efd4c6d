"""Subject, session and split of a file from its name and its folders."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from mrbridge.io.atomic import stem_of
from mrbridge.io.bids_name import parse_name
from mrbridge.io.contrast import of_text, without_contrast, words_of

_SESSION = re.compile(
    r"^(ses|session|visit|study|timepoint|tp|scan|baseline|followup|year|month|week|day)"
    r"[-_ ]?\w*$|^\d{8}$",
    re.IGNORECASE,
)
_PLAIN_FOLDERS = {"anat", "nii", "nifti", "images", "image", "png", "data", "slices", "scans"}
# Identifiers that name a person anywhere in a file's name: a word with a number, and
# those of public datasets (IXI, OASIS, ADNI, TCGA, BraTS, UPENN-GBM, UCSF-PDGM, fastMRI,
# Calgary-Campinas).
_PERSON = re.compile(
    r"(?<![a-z0-9])(?:sub-(?P<label>[a-z0-9]+)"
    r"|(?P<word>sub|subj|subject|sujet|sujeto|soggetto|patient|pat|pt|paciente|paziente|case|person"
    r"|participant|volunteer|proband|volume|vol|control|hc|pid|id|hgg?|lgg?)[-_ #]*"
    r"(?P<number>[a-z]?\d+[a-z]?)"
    r"|(?P<whole>ixi\d{3}(?:-[a-z]+-\d{4})?|oas\d_\d{4}|oas[34]\d{4}|\d{3}_s_\d{4}"
    r"|tcga[-_][a-z0-9]{2}[-_][a-z0-9]{4}|brats-[a-z]+-\d{5}|brats20\d\d_\d{5}"
    r"|brats20_[a-z]+_\d{3}|brats1\d_[a-z0-9]+_[a-z0-9]+_\d+|upenn-gbm-\d{5}|ucsf-pdgm-\d{4}"
    r"|file_brain_[a-z0-9]+_\d{3}_\d{7}|cc\d{4}))(?![a-z0-9])",
    re.IGNORECASE,
)
# Words of image names that do not identify a person.
_IMPERSONAL = {
    *("image", "images", "img", "im", "i", "pic", "picture", "photo", "png", "frame", "dicom"),
    *("slice", "slices", "slc", "sl", "s", "z", "x", "y", "no", "nr", "num", "axial", "ax", "tra"),
    *("coronal", "cor", "sagittal", "sag", "brain", "head", "mri", "mr", "scan", "series"),
    "screen",
    *("train", "training", "val", "test", "crop", "real", "fake", "mask", "yes", "normal"),
    *("healthy", "tumor", "tumour", "notumor", "glioma", "meningioma", "pituitary"),
}
_PART_OF_VISIT = re.compile(  # with something after it: else its number is that of the slice
    r"(?<![a-z0-9])(?:ses|session|visit|timepoint|tp|run|acq|echo|mr|mpr|scan|series)"
    r"[-_ ]?\d+(?=[-_ .])|(?<![a-z0-9])(?:\d+x\d+|\d+(?:mm|t|d))(?![a-z0-9])",
    re.IGNORECASE,
)
_SLICE = re.compile(
    r"(?<![a-z0-9])(?:slices?|slc|sl|z|images?|img|frame)[-_ #(]*(\d+)", re.IGNORECASE
)
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def guess_split(relative: Path) -> str | None:
    """`val` or `test`, if a folder such as `test` or `testT1` names one of them and nothing else.

    `train` is ignored: part of such a folder may still be held out.
    """
    for folder in relative.parents:
        words = {word.lower() for word in words_of(folder.name)}
        splits = {_SPLITS[word] for word in words if word in _SPLITS}
        others = {w for w in words if w not in _SPLITS and of_text(w).contrast is None}
        if len(splits) == 1 and not others and splits != {"train"}:
            return splits.pop()
    return None


def read_split(word: str) -> str | None:
    """`train`, `val` or `test`, from their usual spellings; None for other words."""
    return _SPLITS.get(word.strip().lower())


def subject_folders(relative: Path) -> tuple[str, ...]:
    """The folders of a path that may name a subject or what is above it, such as a site: all that
    name neither a contrast, a session, a split nor something that every dataset has."""
    return tuple(
        part for part in relative.parts[:-1] if not _is_common(part) and not _SESSION.match(part)
    )


def guess_subject(relative: Path, *, is_2d: bool) -> tuple[str | None, str | None]:
    """Subject and session of a file, from its path relative to the folder that the user named.

    The subject is the nearest folder that names neither a contrast nor a session. Without one, a
    volume's subject is the rest of its name (`IXI002-Guys-0828-T1` is IXI002-Guys-0828), and a 2D
    image's is the person in its name (`patient3_slice_10.png`); see also `tell_people_apart`.
    """
    name = parse_name(relative)
    if name is not None:
        return name.entities["sub"], name.entities.get("ses")
    if is_2d:
        folders = [folder.name for folder in relative.parents if _person_in(folder.name)]
        person = _person_in(stem_of(relative))
        if person is not None and not folders:
            return person, None
    subject: str | None = None
    sessions: list[str] = []
    for folder in (part.name for part in relative.parents):
        if not folder or _is_common(folder):
            continue
        if not _SESSION.match(folder):
            subject = folder
            break
        sessions.insert(0, folder)
    rest = None if is_2d else without_contrast(stem_of(relative))
    if subject is None:
        subject = rest
    elif rest and rest != subject:
        sessions.append(rest)
    return subject, "-".join(sessions) or None


def tell_people_apart(names: Sequence[str]) -> dict[str, str]:
    """The subjects of 2D images, if their names distinguish people before the number of the
    slice: `a_12.png` and `b_12.png`, `001_45.png` and `002_45.png`.

    A prefix that all names share identifies no one, and neither do words for slices, planes and
    the like (`Image #10.png`, `slice_7.png`, `IM0001.png`). An identifier of letters and a number
    (`AB12_045.png`) names a person even if there is one image of each. Anything else does if
    several images have it in common, or letters (`a_12.png`) if the number of the slice comes
    again with others: bare numbers may be slice numbers (`45_0.png`, `46_0.png`).

    Args:
        names: of all 2D images of a set, without those whose subject is known.

    Returns:
        Name to subject, for those whose name shows one.
    """
    parts = {name: split for name in names if (split := _person_and_slice(stem_of(Path(name))))}
    slices: dict[str, set[str]] = defaultdict(set)
    for person, number in parts.values():
        slices[person].add(number)
    if len(slices) < 2:
        return {}
    are_several = sum(len(numbers) > 1 for numbers in slices.values()) > 1
    again = Counter(number for numbers in slices.values() for number in numbers)
    restarts = max(again.values()) > 1

    def shows(person: str) -> bool:
        if are_several or re.search(r"[a-z]{2,}\d|(?<![a-z0-9])p\d", person, re.IGNORECASE):
            return True
        return restarts and not any(letter.isdigit() for letter in person)

    return {name: person for name, (person, _) in parts.items() if shows(person)}


def slice_number(name: str) -> int | None:
    """The slice number: the last number in a 2D image's name, apart from its contrast."""
    numbers = re.findall(r"\d+", without_contrast(stem_of(Path(name))) or "")
    return int(numbers[-1]) if numbers else None


def _person_in(text: str) -> str | None:
    found = _PERSON.search(text)
    if found is None:
        return None
    return found["label"] or found["whole"] or found["word"].lower() + found["number"]


def _person_and_slice(stem: str) -> tuple[str, str] | None:
    """The person, from the words before the slice number, and the slice number."""
    text = _PART_OF_VISIT.sub("_", without_contrast(stem) or "")
    named = _SLICE.search(text)
    if named is not None:  # what follows is a version of the slice
        text = f"{text[: named.start()]}_{named[1]}"
    words = [word for word in re.split(r"[^A-Za-z0-9]+", text) if word]
    shapes = [re.fullmatch(r"([A-Za-z]*)(\d*)", word) for word in words]
    if not all(shapes):
        return None  # such as a hash
    while words and words[-1].lower() in _IMPERSONAL:
        words.pop()
    last = re.fullmatch(r"([A-Za-z]*)(\d+)", words[-1]) if words else None
    if last is None:
        return None
    words[-1:] = [last[1]] if last[1] else []
    # Of `s01_045`, s01 may be a subject.
    words = [
        word
        for word in words
        if word.lower().rstrip("0123456789") not in _IMPERSONAL or re.fullmatch(r"[sS]\d+", word)
    ]
    if not words or (len(words) > 1 and all(word.isdigit() for word in words)):
        return None  # nothing is left, or a date or a UID
    return "_".join(words), last[2]


def series_name(name: str) -> str:
    """A 2D image's name without its contrast: equal for the two images of one slice."""
    stem = stem_of(Path(name))
    return without_contrast(stem) or stem


def folded(text: str | Path) -> str:
    """Equal for names that are one file on Windows or macOS: they differ in case, or in how their
    accents are encoded (NFC, NFD)."""
    return unicodedata.normalize("NFC", str(text)).casefold()


def natural_key(text: str | Path) -> list[tuple[int, int, str]]:
    """A sort key by which `Image #9` comes before `Image #10`."""
    parts = re.split(r"(\d+)", str(text).casefold())
    # Numbers by their length, then their digits: they can be arbitrarily long.
    ranks = [part.lstrip("0") if n % 2 else part for n, part in enumerate(parts)]
    keys = [(0, len(rank), rank) if n % 2 else (1, 0, rank) for n, rank in enumerate(ranks)]
    return [*keys, (2, 0, str(text))]


def _is_common(folder: str) -> bool:
    """Whether a folder is named after a split, what every dataset has, or its images, such as `T1`
    or `masks`: not after a person, a site or a session."""
    identity = of_text(folder)
    shows_image = identity.contrast is not None or identity.kind in ("mask", "agent")
    return shows_image or folder.lower() in (*_PLAIN_FOLDERS, *_SPLITS)
