"""Which image is it: one of the contrasts that mrbridge knows, something else, or unknown.

One set of rules for the words in file names, folders, BIDS labels and DICOM descriptions. The words
are in `vocabulary`. Of DICOM series the timing decides first (`mrbridge.io.acquisition`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from mrbridge.io import vocabulary
from mrbridge.io.atomic import stem_of
from mrbridge.io.bids_name import BidsName, parse_name
from mrbridge.volume import CONTRASTS

# Before a BIDS suffix, words for these are labels chosen by a user: `tilt-affine_T1w`.
_LABELS = ("transformation", "calibration")
_ENDS_WITH_SUFFIX = re.compile(r"\b(t1w|t2w|pdw|flair)$")
# Prefixes of SPM and CAT12: c1, rc2, mwp1 are tissues, y_ is a deformation.
_TISSUE = re.compile(r"(?!mp2rage)[ms]*0?r?[mw]*[cp][0-6](?=[A-Za-z]{2}|[tT][12])")
_DEFORMATION = re.compile(r"(?:iy|y|u|j|wj|iu)_")
_NO_AGENT = re.compile(r"none|no|n|0|false|native?|without|nocontrast|pre", re.IGNORECASE)
_OTHER_SUFFIXES = frozenset(
    """
    UNIT1 T2starw T2star FLASH PDT2 inplaneT1 inplaneT2 angio defacemask T1map T2map T2starmap R1map
    R2map R2starmap PDmap MTRmap MTsat MTVmap MTR MTS MPM MWFmap T1rho S0map M0map Chimap TB1map
    RB1map TB1DAM TB1EPI TB1AFI TB1TFL TB1RFM TB1SRGE RB1COR VFA IRT1 MP2RAGE MESE MEGRE mask dseg
    probseg bold cbv phase sbref dwi ADC FA epi asl m0scan phasediff phase1 phase2 magnitude
    magnitude1 magnitude2 fieldmap pet svs mrsi unloc mrsref swi
    """.split()  # noqa: SIM905
)
"""Suffixes of the standard for other images (bids-specification, `src/schema/objects/suffixes`)."""
_OWN: ContextVar[Mapping[str, str]] = ContextVar("_OWN", default=MappingProxyType({}))
_FREE_ENTITIES = ("acq", "rec", "desc", "proc", "label", "run", "mod")


@dataclass(frozen=True)
class Identity:
    """What an image is, and how that is known.

    Three answers are possible: a contrast; known to be something else (`is_other`); not known
    (neither).

    Attributes:
        contrast: a BIDS suffix of `mrbridge.volume.CONTRASTS`, or a name of the user's own
            (`recognised`); None if it is something else or unknown.
        reason: how that is known. Of something else, it completes a sentence that begins with the
            file: "was taken after a contrast agent".
        kind: of something else, what it is in a word or two, such as `mask` or `phase`; else empty.
        is_doubtful: whether something speaks against `contrast`. Such a scan is never preferred to
            one without doubt.
        synthetic: of a file whose name says so: "is synthetic, by 'synth' in its name".
    """

    contrast: str | None = None
    reason: str = "nothing identifies its contrast"
    kind: str = ""
    is_doubtful: bool = False
    synthetic: str | None = None

    def __post_init__(self) -> None:
        if self.kind and self.contrast is not None:
            raise ValueError("an image of a known contrast is not something else")

    @property
    def is_other(self) -> bool:
        """Whether it is known to be something else."""
        return bool(self.kind)

    @property
    def objection(self) -> str | None:
        """Why it is not used without `--force`: it is something else, or synthetic by its name."""
        return self.reason if self.is_other else self.synthetic

    @property
    def is_unknown(self) -> bool:
        """Whether it is unknown what it is."""
        return self.contrast is None and not self.is_other


def something_else(kind: str, reason: str) -> Identity:
    """An image that is known not to be one of the contrasts."""
    return Identity(reason=reason, kind=kind)


@contextmanager
def recognised(contrasts: Iterable[str]) -> Iterator[None]:
    """Recognise contrasts of the user's own, such as `CT`, by their names, inside of the block.

    They are BIDS suffixes or words, in upper or lower case, and take precedence over the rules.
    Those of `mrbridge.volume.CONTRASTS` are always recognised.
    """
    own = {one.lower(): one for one in contrasts if one not in CONTRASTS}
    token = _OWN.set({**_OWN.get(), **own})
    try:
        yield
    finally:
        _OWN.reset(token)


def own_contrasts() -> Mapping[str, str]:
    """The contrasts of the user's own that are recognised here, by their names in lower case."""
    return _OWN.get()


def of_path(path: str | Path) -> Identity:
    """Identify a file from its path, relative to what the user named: folders above say nothing.

    Its BIDS name decides, if it has one; otherwise the words in its name; otherwise its folders
    (`TrainT1`, `masks`), the nearest first. All files below a folder of masks are masks.
    """
    path = Path(path)
    name, stem = parse_name(path), stem_of(path)
    if name is not None:  # without the labels of subjects and sessions: `sub-PD01_T1`
        stem = re.sub(r"(?:^|_)(?:sub|ses)-[a-zA-Z0-9+]+", "", stem)
    word = synthetic_in(stem)
    synthetic = None if word is None else f"is synthetic, by '{word}' in its name"
    return replace(_of_path(path, name, stem), synthetic=synthetic)


def synthetic_in(text: str) -> str | None:
    """The word that says that an image is synthetic; None if none does."""
    found = vocabulary.SYNTHETIC.search(normalised(text))
    return None if found is None else found[0]


def _of_path(path: Path, name: BidsName | None, stem: str) -> Identity:
    found = Identity() if name is None else of_bids_name(name)
    if found.is_unknown:
        found = _of_stem(stem)
    if not found.is_unknown:
        return found
    for folder in path.parents:
        named = of_text(folder.name)
        if named.is_other and normalised(folder.name) in ("real", "ph"):
            continue  # `real` next to `synthetic` holds acquired scans, not parts of complex images
        if named.is_other and len(normalised(folder.name).split()) > 3:
            continue  # "ms_lesion_study_2020" holds more than lesions
        if found.is_unknown and not named.is_unknown:
            found = named
        elif named.kind == "mask":
            return named
    return found


def of_bids_name(name: BidsName) -> Identity:
    """Identify an image from its BIDS name: suffix, contrast agent, part of a complex image, and
    the words in its labels.

    Source: BIDS 1.10, magnetic resonance imaging, "Anatomy imaging data".
    """
    agent = name.entities.get("ce")
    if agent is not None and not _NO_AGENT.fullmatch(agent):
        return something_else("agent", "was taken after a contrast agent")
    part = name.entities.get("part", "mag")
    if part != "mag":
        return something_else("phase", f"is the {part} part of a complex image")
    if "inv" in name.entities:
        return something_else("MP2RAGE", "is one inversion of an MP2RAGE")
    if name.entities.get("mt") == "on":
        return something_else("MT", "is weighted by magnetization transfer")
    own = _OWN.get().get(name.suffix.lower())
    if own is None and name.suffix in _OTHER_SUFFIXES:
        return something_else("suffix", f"has the BIDS suffix {name.suffix}")
    if own is None and name.suffix not in CONTRASTS:
        return Identity(reason=f"has the suffix {name.suffix}, which is not a contrast")
    for entity in _FREE_ENTITIES:
        label = name.entities.get(entity, "")
        if agent is None and (word := agent_in(label)) and not says_no_agent(label):
            return something_else(
                "agent", f"was taken after a contrast agent, by '{word}' in its name"
            )
        named = of_text(label)
        if named.is_other and named.kind != "agent":
            return named
    return Identity(own or name.suffix, "by its BIDS suffix")


def guess_contrast(path: str | Path) -> str | None:
    """The contrast of a file from its path; None if it is something else or unknown."""
    return of_path(path).contrast


def _of_stem(stem: str) -> Identity:
    if _DEFORMATION.match(stem):
        return something_else(
            "transformation", "is a spatial transformation, by the start of its name"
        )
    if _TISSUE.match(stem):
        return something_else("mask", "is a tissue map of SPM or CAT12, by the start of its name")
    return of_text(stem)


@lru_cache(maxsize=4096)
def _unglued(word: str) -> tuple[str, ...] | None:
    """A word split into words of `GLUED` and trailing numbers; None if that is impossible."""
    if word in vocabulary.GLUED or word.isdigit():
        return (word,)
    if counted := re.fullmatch(r"(\d+)([a-z]{4,}\d*)", word):  # 1InverseWarp
        return (counted[1], *(_unglued(counted[2]) or (counted[2],)))
    if len(word) > 40:
        return None
    for size in range(len(word) - 1, 1, -1):  # the longest first word that leaves a whole rest
        first, rest = word[:size], word[size:]
        cut_number = first[-1].isdigit() and rest[0].isdigit()
        short_name = size < 3 and rest.isdigit()  # GD01 is a person
        if first in vocabulary.GLUED and not cut_number and not short_name:
            others = _unglued(rest)
            if others is not None:
                return (first, *others)
    return None


def normalised(text: str) -> str:
    """Lower-case words without accents, one blank between them: `AXT1POST` is `ax t1 post`."""
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    plain = re.sub(r"(?<![A-Za-z])q(?=T[12]|PD)", "quantitative ", plain)
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain).lower()
    plain = re.sub(r"\bw ?/ ?(and|&|\+)? ?w ?/ ?o\b|\bw ?(/|&|\+) ?wo\b", " with without ", plain)
    plain = re.sub(r"\bw ?[/\\] ?o\b|\bs ?/", " without ", plain)
    plain = re.sub(r"\b[wc] ?/ ?(?=[a-z])", " with ", plain)
    plain = re.sub(
        r"\+ ?(?=(c|ce|gd|gado?|gado\w*|km|mdc|contrast\w*|kontrast\w*)(?![a-z]))", " with ", plain
    )
    plain = re.sub(r"(?<![a-z])c ?\+", " with contrast ", plain)
    plain = re.sub(r"(?<=t2)(w?)[ _-]?\*", r"\1 star ", plain)
    words = re.findall(r"[a-z0-9]+", plain)
    return " ".join(piece for word in words for piece in (_unglued(word) or (word,)))


def of_text(text: str) -> Identity:
    """Identify an image from a name, without its folders and suffix, or from a description."""
    own, text = _own_contrasts(text)
    words = normalised(text)
    other = _first(vocabulary.OTHERS, words)
    if other is not None and not (other.kind in _LABELS and _ENDS_WITH_SUFFIX.search(words)):
        return other
    agent = agent_in(text)
    if agent:
        return something_else(
            "agent", f"was taken after a contrast agent, by '{agent}' in its name"
        )
    contrasts = _contrasts(words) | own
    if contrasts == {"T2w"} and re.search(r"\btirm?\b", words):
        return Identity(reason="its name says an inversion recovery, which may be STIR or FLAIR")
    if len(contrasts) == 1:
        return Identity(contrasts.pop(), "by its name")
    if contrasts:
        return Identity(reason=f"its name says {' and '.join(sorted(contrasts))}")
    return _first(vocabulary.WEAK_OTHERS, words) or Identity(
        reason="its name does not state its contrast"
    )


def _own_contrasts(text: str) -> tuple[set[str], str]:
    """The contrasts of the user's own that a text names, and the text without their names."""
    own = _OWN.get()
    words = words_of(text) if own else []
    found = {own[word.lower()] for word in words if word.lower() in own}
    if not found:
        return found, text
    return found, " ".join(word for word in words if word.lower() not in own)


def words_of(text: str) -> list[str]:
    """Words as they are written: `trainCT_01` is train, CT, 01."""
    return [word for word in re.split(r"[^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z])", text) if word]


def _first(others: tuple[tuple[re.Pattern[str], str, str], ...], words: str) -> Identity | None:
    for pattern, kind, reason in others:
        found = pattern.search(words)
        if found:
            return something_else(kind, f"{reason}, by '{found[0]}' in its name")
    return None


def agent_in(text: str) -> str | None:
    """The words for an image after a contrast agent; None if there are none.

    `T1 PRE GD`, `sans injection` and `T1 nativ` say that it was not.
    """
    words = normalised(text)
    both = vocabulary.BOTH.search(words)
    if both:
        return both[0]
    found = vocabulary.AFTER.search(vocabulary.WITHOUT.sub(" ", words))
    return found[0] if found else None


def says_no_agent(text: str) -> bool:
    """Whether words say that the scan was acquired without or before a contrast agent."""
    words = normalised(text)
    return agent_in(text) is None and bool(
        vocabulary.WITHOUT.search(words)
        or re.search(r"\b(?:pre|nativ[aeo]?|natif|basale?|unenhanced|plain)\b", words)
    )


def _contrasts(words: str) -> set[str]:
    """The contrasts that are named, without the space of registration and what FLAIR implies."""
    without_space = vocabulary.SPACE.sub(" ", words)
    if any(pattern.search(without_space) for _, _, pattern in vocabulary.CONTRASTS):
        words = without_space
    found = {(c, how) for c, how, pattern in vocabulary.CONTRASTS if pattern.search(words)}
    # T1 may be a point in time: a "T1w" next to it is the contrast.
    full = {contrast for contrast, how in found if how == "full"}
    contrasts = {contrast for contrast, _ in found}
    if "FLAIR" in contrasts:
        # "T1 FLAIR" is T1w with nulled fluid, every other FLAIR is weighted by T2.
        return {"T1w"} if "T1w" in contrasts and "T2w" not in contrasts else {"FLAIR"}
    if contrasts == {"T1w", "PDw"}:
        return {"T1w"}  # PD is Parkinson's disease: a double echo has PD and T2
    return full if len(full) == 1 and contrasts == {"T1w", "T2w"} else contrasts


def without_contrast(stem: str) -> str | None:
    """A name without the words that say its contrast: `IXI002-T1` is IXI002; None if nothing is
    left."""
    pattern = r"(?<![a-z0-9])(t1(wi?|mprage)?|t2(wi?|flair)?|pdw?|flair|m(em)?prage)(?![a-z0-9])"
    rest = re.sub(pattern, "", stem, flags=re.IGNORECASE)
    for name in _OWN.get():
        rest = re.sub(rf"(?<![a-z0-9]){name}(?![a-z0-9])", "", rest, flags=re.IGNORECASE)
    return re.sub(r"[-_ .]{2,}", "_", rest).strip("-_ .") or None
