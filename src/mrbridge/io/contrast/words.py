"""What words say of an image, in file names, BIDS labels and DICOM descriptions alike."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from mrbridge.io.contrast.identity import Identity, something_else
from mrbridge.io.contrast.vocabulary import (
    AFTER,
    BOTH,
    CONTRASTS,
    GLUED,
    OTHERS,
    SPACE,
    WEAK_OTHERS,
    WITHOUT,
)

# Before a BIDS suffix, words for these are labels that a user chose: `tilt-affine_T1w`.
_LABELS = ("transformation", "calibration")
_ENDS_WITH_SUFFIX = re.compile(r"\b(t1w|t2w|pdw|flair)$")


@lru_cache(maxsize=4096)
def _unglued(word: str) -> tuple[str, ...] | None:
    """A word cut into words of `GLUED` and trailing numbers; None where that is impossible."""
    if word in GLUED or word.isdigit():
        return (word,)
    if counted := re.fullmatch(r"(\d+)([a-z]{4,}\d*)", word):  # 1InverseWarp
        return (counted[1], *(_unglued(counted[2]) or (counted[2],)))
    if len(word) > 40:
        return None
    for size in range(len(word) - 1, 1, -1):  # the longest first word that leaves a whole rest
        first, rest = word[:size], word[size:]
        cut_number = first[-1].isdigit() and rest[0].isdigit()
        short_name = size < 3 and rest.isdigit()  # GD01 is a person
        if first in GLUED and not cut_number and not short_name:
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
    plain = re.sub(r"\+ ?(?=(c|ce|gd|gado?|gado\w*|km|mdc|contrast\w*|kontrast\w*)(?![a-z]))",
                   " with ", plain)  # fmt: skip
    plain = re.sub(r"(?<![a-z])c ?\+", " with contrast ", plain)
    plain = re.sub(r"(?<=t2)(w?)[ _-]?\*", r"\1 star ", plain)
    words = re.findall(r"[a-z0-9]+", plain)
    return " ".join(piece for word in words for piece in (_unglued(word) or (word,)))


def of_text(text: str) -> Identity:
    """What a name or description says of an image.

    Args:
        text: one name without its folders and suffix, or one description.

    Returns:
        The contrast, something else with the reason, or an identity that `is_unknown`.
    """
    words = normalised(text)
    other = _first(OTHERS, words)
    if other is not None and not (other.kind in _LABELS and _ENDS_WITH_SUFFIX.search(words)):
        return other
    agent = agent_in(text)
    if agent:
        return something_else(
            "agent", f"was taken after a contrast agent, by '{agent}' in its name"
        )
    contrasts = _contrasts(words)
    if contrasts == {"T2w"} and re.search(r"\btirm?\b", words):
        return Identity(reason="its name says an inversion recovery, which may be STIR or FLAIR")
    if len(contrasts) == 1:
        return Identity(contrasts.pop(), "by its name")
    if contrasts:
        return Identity(reason=f"its name says {' and '.join(sorted(contrasts))}")
    return _first(WEAK_OTHERS, words) or Identity(
        reason="its name does not say which contrast it is"
    )


def _first(others: tuple[tuple[re.Pattern[str], str, str], ...], words: str) -> Identity | None:
    for pattern, kind, reason in others:
        found = pattern.search(words)
        if found:
            return something_else(kind, f"{reason}, by '{found[0]}' in its name")
    return None


def agent_in(text: str) -> str | None:
    """The words that say that a contrast agent was given; None where none do.

    `T1 PRE GD`, `sans injection` and `T1 nativ` say that it was not.
    """
    words = normalised(text)
    both = BOTH.search(words)
    if both:
        return both[0]
    found = AFTER.search(WITHOUT.sub(" ", words))
    return found[0] if found else None


def says_no_agent(text: str) -> bool:
    """Whether words say that no contrast agent was given, or not yet."""
    words = normalised(text)
    return agent_in(text) is None and bool(
        WITHOUT.search(words)
        or re.search(r"\b(?:pre|nativ[aeo]?|natif|basale?|unenhanced|plain)\b", words)
    )


def _contrasts(words: str) -> set[str]:
    """The contrasts that are named, without the space of registration and what FLAIR implies."""
    without_space = SPACE.sub(" ", words)
    if any(pattern.search(without_space) for _, _, pattern in CONTRASTS):
        words = without_space
    found = {(c, how) for c, how, pattern in CONTRASTS if pattern.search(words)}
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
    return re.sub(r"[-_ .]{2,}", "_", rest).strip("-_ .") or None
