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

_DATE = r"(?:19|20)\d\d(?P<sign>[-_.]?)(?:0[1-9]|1[0-2])(?P=sign)(?:0[1-9]|[12]\d|3[01])"
_SESSION = re.compile(  # a folder
    r"^(ses|session|visit|study|timepoint|tp|scan|baseline|followup|wave|year|month|week|day)"
    rf"(?:[-_ ]?\w*|[-_ ]?\d[-\w.]*)$|^{_DATE}(?:[-_ T.][-\d_:.]*)?$",
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
# Of volumes and folders, whose names may hold more. In `HC012_T1` or `vol3` all is the identifier.
_UNSURE_PERSON = {"volume", "vol", "control", "hc", "pid", "id", "hgg", "hg", "lgg", "lg"}
_ACQUISITION = re.compile(
    r"(?<![a-z0-9])(?:t1n|t2f|weighted|ax|axi|axial|sag|sagittal|cor|coronal|tra|trans|transversal"
    r"|[23]d|\d+(?:\.\d+)?(?:mm|t)|iso|hires|fs|fatsat|se|tse|fse|frfse|ffe|tfe|gre|f?spgr|bravo"
    r"|flash|vibe|space|spc|cube|tirm|tir|blade|propeller|haste|turbo|spin|echo|dark|fluid|mpr"
    r"|nii|nifti)(?![a-z0-9])",
    re.IGNORECASE,
)
"""How a scan was acquired, which says nothing about the person or the visit."""
_VISIT = re.compile(
    r"(?<![a-z0-9])(?:(?:ses|session|visit|timepoint|tp)[-_ ]?[a-z]{0,2}\d+|baseline|follow[-_ ]?up"
    r"[-_ ]?\d*|pre|post|preop|postop|brain|bet|stripped|skullstripped|reg|registered|coreg|n4"
    r"|biascorr|corrected|mni|raw|orig|defaced)(?![a-z0-9])",
    re.IGNORECASE,
)
"""Which visit of a person, and what became of the scan."""
_VISIT_AFTER_NUMBER = re.compile(  # where another number is left, which may be that of the person
    rf"(?<![a-z0-9])(?:{_DATE}|(?:scan|study|run|year|month|week|day|wave)[-_ ]?\d+"
    r"|(?:mr|m|v|fu)\d+|bl|fu)(?![a-z0-9])",
    re.IGNORECASE,
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
    """The folders of a path that may name a subject or what is above it, such as a site, without
    what they say of the visit: those that name neither a contrast, a session, a split nor something
    that every dataset has, up to the one that names a person, if any does."""
    folders = relative.parts[:-1]
    person = _person_folder(folders)
    above = folders if person is None else folders[: person + 1]
    return tuple(_subject_and_rest(part)[0] or part for part in above if _may_name_subject(part))


def guess_subject(relative: Path, *, is_2d: bool) -> tuple[str | None, str | None]:
    """Subject and session of a file, from its path relative to the folder that the user named.

    The subject is the nearest folder that names a person (`patient3`, `sub-01`, an identifier of a
    well-known dataset); without one, the person in the file's name; without one, the nearest folder
    that names neither a contrast nor a session. Without such a folder, a volume's subject is the
    rest of its name (`IXI002-Guys-0828-T1` is IXI002-Guys-0828), and of a 2D image see also
    `tell_people_apart`. Visits, dates and words for the acquisition are not part of a subject:
    else the visits of a person could be in different splits.
    """
    name = parse_name(relative)
    if name is not None:
        return name.entities["sub"], name.entities.get("ses")
    folders, stem = relative.parts[:-1], stem_of(relative)
    if is_2d:
        person = _person_in(stem)
        if person is not None and not any(map(_person_in, folders)):
            return person, None
    own, words = (None, None) if is_2d else _subject_and_rest(stem)
    place = _person_folder(folders)
    if place is None and (is_2d or _sure_person(stem) is None):
        possible = [n for n, part in enumerate(folders) if _may_name_subject(part)]
        place = possible[-1] if possible else None
    visits = [
        part
        for n, part in enumerate(folders)
        if _SESSION.match(part) or (place is not None and n > place and not _is_common(part))
    ]
    if place is None:
        subject = own if is_2d else own or without_contrast(stem)
    else:
        named, more = _subject_and_rest(folders[place])
        subject = named or folders[place]
        visits += [more] if more else []
        visits += [own] if own and folded(own) != folded(subject) else []
    visits += [words] if words else []
    return subject, "-".join(dict.fromkeys(visits)) or None


def tell_people_apart(names: Sequence[str]) -> dict[str, str]:
    """The subjects of 2D images, if their names distinguish people before the number of the
    slice: `a_12.png` and `b_12.png`, `001_45.png` and `002_45.png`.

    A prefix that all names share identifies no one, and neither do words for slices, planes and
    the like (`Image #10.png`, `slice_7.png`, `IM0001.png`). An identifier of letters and a number
    (`AB12_045.png`) names a person even if there is one image of each. Anything else does if
    several images have it in common, or letters (`a_12.png`) if the number of the slice comes
    again with others: bare numbers may be slice numbers (`45_0.png`, `46_0.png`).

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


def _sure_person(text: str) -> re.Match[str] | None:
    """What names a person in the name of a folder or of a volume."""
    found = _PERSON.search(text)
    return found if found and (found["word"] or "").lower() not in _UNSURE_PERSON else None


def _person_folder(folders: Sequence[str]) -> int | None:
    """The number of the innermost folder that names a person."""
    return max((n for n, part in enumerate(folders) if _sure_person(part)), default=None)


def _may_name_subject(folder: str) -> bool:
    return not _is_common(folder) and not _SESSION.match(folder)


def _subject_and_rest(text: str) -> tuple[str | None, str | None]:
    """Subject and session in the name of a volume or folder; None for what it does not say."""
    text = _without(_ACQUISITION, without_contrast(text) or "")
    person = _sure_person(text)
    if person is not None:
        rest = text[: person.start()] + " " + text[person.end() :]
        return person.group(), _without(None, rest) or None
    subject = _without(_VISIT, text)
    shorter = _without(_VISIT_AFTER_NUMBER, subject)
    if re.search(r"\d", shorter):
        subject = shorter
    if not subject:
        return text or None, None
    words = re.split(r"[-_ .]+", text)
    for word in re.split(r"[-_ .]+", subject):
        words.remove(word)
    return subject, "_".join(words) or None


def _without(pattern: re.Pattern[str] | None, text: str) -> str:
    """A name without words, and without the signs between them."""
    text = text if pattern is None else pattern.sub("", text)
    return re.sub(r"[-_ .]{2,}", "_", text).strip("-_ .")


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


def without_leading_zeros(text: str) -> str:
    """A name in which 01 is 1."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", text)


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
