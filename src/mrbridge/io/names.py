"""Names: what a file's name says of it, after BIDS and after common habit.

Source: the Brain Imaging Data Structure, https://bids-specification.readthedocs.io.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mrbridge.volume import CONTRASTS

BIDS_VERSION = "1.10.0"
"""The version of the standard that data sets of ours follow."""

_BIDS = re.compile(r"^((?:[a-zA-Z]+-[a-zA-Z0-9+]+_)+)([a-zA-Z0-9]+)(\.[a-zA-Z0-9.]+)$")

ENTITIES = (
    *("sub", "tpl", "ses", "cohort", "sample", "task", "tracksys", "acq", "nuc", "voi", "ce"),
    *("trc", "stain", "rec", "dir", "run", "mod", "echo", "flip", "inv", "mt", "part", "proc"),
    *("hemi", "space", "split", "recording", "chunk", "atlas", "seg", "scale", "res", "den"),
    *("label", "desc"),
)
"""The entities in the order in which the standard wants them in a name
(bids-specification, `src/schema/rules/entities.yaml`)."""

_TOKENS = {
    "T1w": {"t1", "t1w", "t1wi", "mprage", "memprage", "t1mprage"},
    "T2w": {"t2", "t2w", "t2wi"},
    "PDw": {"pd", "pdw"},
    "FLAIR": {"flair", "t2flair"},
}
# Contrast agent, quantitative maps, T2*, and things drawn on a scan: not one of our contrasts.
_OTHER = re.compile(
    r"^(t1|t2|pd)w?(post|c|ce|gd|gad|map|star|starw|s|km)$|^(post|ce|gd|gad|postcontrast|star|"
    r"map|mask|brainmask|seg|dseg|probseg|label|labels|lesion|lesions|brainmasks|gado\w*|"
    r"enhanced|enh)$",
    re.IGNORECASE,
)
# The same in several words: T1+C, T1_C, T1 contrast; "no contrast" is none.
_AGENT = re.compile(
    r"t[12]w?[-_ +]+c(?![a-z0-9])|\+ ?(c|gd|gad)(?![a-z0-9])"
    r"|(?<!no)(?<!non)(?<!pre)(?<!without)[-_ +]contrast(?![a-z0-9])",
    re.IGNORECASE,
)
_SESSION = re.compile(
    r"^(ses|session|visit|study|timepoint|tp|scan|baseline|followup|year|month|week|day)"
    r"[-_ ]?\w*$|^\d{8}$",
    re.IGNORECASE,
)
ANY = "*"
"""In a query of a filter file: the entity must be there, whatever its value."""

_PLAIN_FOLDERS = {"anat", "nii", "nifti", "images", "image", "png", "data", "slices", "scans"}
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class BidsName:
    """A BIDS file name in its parts.

    Attributes:
        entities: such as {"sub": "01", "ses": "2", "run": "1"}, in their order.
        suffix: such as T1w.
        extension: with its first dot, such as .nii.gz.
    """

    entities: dict[str, str]
    suffix: str
    extension: str

    def __str__(self) -> str:
        parts = [f"{key}-{value}" for key, value in self.entities.items()]
        return "_".join([*parts, self.suffix]) + self.extension


def parse_name(path: str | Path) -> BidsName | None:
    """The parts of a BIDS name; None where it is none (it must begin with `sub-`)."""
    match = _BIDS.match(Path(path).name)
    if match is None:
        return None
    pairs = [part.partition("-")[::2] for part in match[1].rstrip("_").split("_")]
    if pairs[0][0] != "sub":
        return None
    return BidsName(dict(pairs), match[2], match[3])


def derivative_name(name: BidsName, contrast: str) -> str:
    """The name of a synthetic scan: all entities of its source, `desc-synth`, the new suffix.

    A raw file can never have this name (BIDS derivatives, `desc` entity). Entities stand in the
    order of the standard; those that it does not know stand before `desc`.
    """
    entities = {**name.entities, "desc": "synth"}
    places = {key: place for place, key in enumerate(ENTITIES)}
    ordered = sorted(entities, key=lambda key: places.get(key, len(ENTITIES) - 1.5))
    return str(BidsName({key: entities[key] for key in ordered}, contrast, name.extension))


def why_not_a_contrast(name: BidsName) -> str | None:
    """Why a BIDS name is not that of a scan of one of our contrasts; None where it is."""
    if name.suffix not in CONTRASTS:
        return f"is {name.suffix}, no contrast that mrbridge knows"
    if "ce" in name.entities:
        return "was taken after contrast agent"
    part = name.entities.get("part", "mag")
    return None if part == "mag" else f"is the {part} part of a complex image"


def guess_contrast(path: str | Path) -> str | None:
    """The contrast that a path's names tell: BIDS suffix, else words in the file's name, else the
    nearest folder that says one (`TrainT1`, `T2w`). Scans after contrast agent, maps and masks
    give None, and so does a name that says two contrasts; FLAIR wins over T2.
    """
    path = Path(path)
    name = parse_name(path)
    if name is not None:
        return name.suffix if why_not_a_contrast(name) is None else None
    told = _told_by(_stem(path))
    if told is not None:
        return told or None
    for folder in path.parents:
        told = _told_by(folder.name)
        if told is not None:
            return told or None
    return None


def guess_split(relative: Path) -> str | None:
    """`val` or `test` where a folder such as `test` or `testT1` says so and nothing else.

    `train` says nothing: part of such a folder may still be held out.
    """
    for folder in relative.parents:
        words = {word.lower() for word in _words(folder.name)}
        splits = {_SPLITS[word] for word in words if word in _SPLITS}
        others = {
            w for w in words if w not in _SPLITS and not any(w in t for t in _TOKENS.values())
        }
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
    return not (named or _told_by(folder) is not None or _SESSION.match(folder))


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
        if not folder or folder.lower() in _PLAIN_FOLDERS or _told_by(folder) is not None:
            continue
        if _SPLITS.get(folder.lower()):
            continue
        if not _SESSION.match(folder):
            subject = folder
            break
        sessions.insert(0, folder)
    rest = None if picture else _without_contrast(_stem(relative))
    if subject is None:
        subject = rest
    elif rest and rest != subject:
        sessions.append(rest)
    return subject, "-".join(sessions) or None


def series_name(name: str) -> str:
    """A picture's name without its contrast: equal for the two pictures of one slice."""
    stem = _stem(Path(name))
    return _without_contrast(stem) or stem


def natural_key(text: str | Path) -> list[tuple[int, int, str]]:
    """A sort key by which `Image #9` comes before `Image #10`."""
    parts = re.split(r"(\d+)", str(text).casefold())
    numbers = [(0, int(part), part) if part.isdigit() else (1, 0, part) for part in parts]
    return [*numbers, (2, 0, str(text))]


def _stem(path: Path) -> str:
    return path.name.split(".")[0] if path.name.lower().endswith(".nii.gz") else path.stem


def _words(text: str) -> list[str]:
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return [word for word in re.split(r"[^a-zA-Z0-9]+", apart) if word]


def _told_by(text: str) -> str | None:
    """A contrast; "" for something that is none of ours; None where nothing is said."""
    words = _words(text)
    said = {
        contrast
        for contrast, known in _TOKENS.items()
        if any(word.lower() in known for word in words)
    }
    if _AGENT.search(text) or any(_OTHER.match(word) for word in words):
        return ""
    if said == {"FLAIR", "T2w"}:
        return "FLAIR"
    if len(said) > 1:
        return ""
    return said.pop() if said else None


def _without_contrast(stem: str) -> str | None:
    words = [word for known in _TOKENS.values() for word in known]
    pattern = rf"(?<![a-zA-Z0-9])({'|'.join(sorted(words, key=len, reverse=True))})(?![a-zA-Z0-9])"
    rest = re.sub(pattern, "", stem, flags=re.IGNORECASE)
    rest = re.sub(r"[-_ .]{2,}", "_", rest).strip("-_ .")
    return rest or None
