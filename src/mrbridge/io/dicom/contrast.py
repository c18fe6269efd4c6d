"""Which contrast a series shows, by how it was acquired, and why that is thought.

Echo time, repetition time and inversion time decide (Bernstein, King, Zhou, Handbook of MRI Pulse
Sequences, 2004); what somebody called the series is asked last. Only FLAIR is believed by its name
where the timing fits, because without its inversion time it is timed as a T2w scan.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mrbridge.io.dicom.header import Slice

_NAMED = (
    ("FLAIR", re.compile(r"flair|dark.?fluid|tirm.?dark|spcir", re.IGNORECASE)),
    (
        "T1w",
        re.compile(r"mp.?2?rage|bravo|spgr|(?<![a-z])[23]?d?tfl|(?<!\d)t1(?!\d)", re.IGNORECASE),
    ),
    ("T2w", re.compile(r"(?<!\d)t2(?!\d|[ _-]?(\*|star|s\b))", re.IGNORECASE)),
    ("PDw", re.compile(r"(?<![a-z])pd(?![a-z]*[aeiou])|proton|dens", re.IGNORECASE)),
)
_AGENT = re.compile(
    r"(?<![a-z])(post|gd|gado\w*|contrast|km|ce|[+]\s*c)(?![a-z])|(?<=t1)c(?![a-z])", re.IGNORECASE
)
_NO_AGENT = ("", "NO", "NONE", "N", "NATIVE")
_PARTS = re.compile(r"(?<![a-z0-9])inv ?[12](?![a-z0-9])", re.IGNORECASE)
_ACQUIRED = {"T1": "T1w", "T2": "T2w", "PROTON_DENSITY": "PDw", "FLUID_ATTENUATED": "FLAIR"}

Guess = tuple[str | None, str]
"""A contrast (None where none of ours) and the reason."""


@dataclass(frozen=True)
class _Acquisition:
    """How a slice was acquired; times in ms, angles in degrees, None where not told."""

    echo: float | None
    repetition: float | None
    inversion: float | None
    flip: float | None
    gradient: bool
    spin: bool
    inverted: bool
    planar: bool

    @property
    def told(self) -> str:
        """The numbers in words."""
        named = (("TE", self.echo), ("TR", self.repetition), ("TI", self.inversion))
        return ", ".join(f"{name} {value:g} ms" for name, value in named if value is not None)


def guess_contrast(part: Slice) -> Guess:
    """The contrast of the series that a slice is of.

    Args:
        part: any of its slices.

    Returns:
        A BIDS suffix, or None where it is none of ours or nothing tells; and the reason.
    """
    description = " ".join(
        part.text(keyword) for keyword in ("SeriesDescription", "ProtocolName", "SequenceName")
    )
    other = _none_of_ours(part, description)
    if other is not None:
        return None, other
    acquired = _acquisition(part)
    if acquired.planar:
        return None, f"echo-planar ({acquired.told})"
    named = _named(part.text("SeriesDescription")) or _named(description)
    stated = _ACQUIRED.get(part.text("AcquisitionContrast").upper())
    timed = _timed(acquired)
    if timed is None and stated is not None:
        timed = stated, f"its acquisition contrast is {part.text('AcquisitionContrast')}"
    if timed is None:
        if named is None:
            return None, "neither its timing nor its description tells"
        return named, "by its description; its timing does not tell"
    contrast, reason = timed
    if contrast == "T2w" and "FLAIR" in (named, stated) and acquired.inversion is None:
        return "FLAIR", f"{reason}, and its description says FLAIR"
    if named not in (None, contrast):
        reason += f", though its description says {named}"
    return contrast, reason


def _acquisition(part: Slice) -> _Acquisition:
    sequence = set(part.words("ScanningSequence"))
    pulse = part.text("EchoPulseSequence").upper()
    positive = {
        keyword: value if value is not None and value > 0 else None
        for keyword in ("EchoTime", "RepetitionTime", "InversionTime", "FlipAngle")
        for value in (part.number(keyword),)
    }
    return _Acquisition(
        positive["EchoTime"],
        positive["RepetitionTime"],
        positive["InversionTime"],
        positive["FlipAngle"],
        gradient="GR" in sequence or pulse == "GRADIENT",
        spin="SE" in sequence or pulse == "SPIN",
        inverted="IR" in sequence
        or "MP" in part.words("SequenceVariant")
        or positive["InversionTime"] is not None,
        planar="EP" in sequence,
    )


def _none_of_ours(part: Slice, description: str) -> str | None:
    if part.text("ContrastBolusAgent").upper() not in _NO_AGENT:
        return "after a contrast agent"
    if _AGENT.search(description.replace("_", " ")):
        return "after a contrast agent, by its description"
    if part.text("AngioFlag").upper() == "Y" or re.search(r"(?<![a-z])tof", description, re.I):
        return "angiography"
    if _PARTS.search(description.replace("_", " ")):
        return "one inversion of an MP2RAGE"
    return None


def _timed(acquired: _Acquisition) -> Guess | None:
    """What echo, repetition and inversion time say; None where they leave it open."""
    echo, repetition = acquired.echo, acquired.repetition
    if echo is None or repetition is None:
        return None
    if acquired.gradient and not acquired.spin:
        return _gradient_echo(acquired, echo, repetition)
    if acquired.inverted:
        return _inversion_recovery(acquired, echo, repetition)
    if echo >= 60 and repetition >= 1500:
        return "T2w", f"long echo and repetition ({acquired.told})"
    if echo <= 40 and repetition <= 1200:
        return "T1w", f"short echo and repetition ({acquired.told})"
    if echo <= 40 and repetition >= 1800:
        return "PDw", f"short echo, long repetition ({acquired.told})"
    return None


def _gradient_echo(acquired: _Acquisition, echo: float, repetition: float) -> Guess | None:
    if echo > 15:
        return None, f"gradient echo weighted by T2* ({acquired.told})"
    if acquired.inverted:
        return "T1w", f"gradient echo after inversion, short echo ({acquired.told})"
    flip = acquired.flip or 0
    # Above the Ernst angle of white matter (T1 about 0.9 s) contrast is by T1.
    if (repetition <= 50 and flip >= 12) or (50 < repetition <= 800 and flip >= 40):
        return "T1w", f"spoiled gradient echo, flip angle {flip:g}° ({acquired.told})"
    return None


def _inversion_recovery(acquired: _Acquisition, echo: float, repetition: float) -> Guess | None:
    inversion = acquired.inversion
    if inversion is None:
        if echo >= 60 and repetition >= 4000:
            return "FLAIR", f"inversion, long echo and repetition ({acquired.told})"
        return ("T1w", f"inversion, short echo ({acquired.told})") if echo <= 20 else None
    if inversion >= 1400 and echo >= 60:
        return "FLAIR", f"long inversion and echo ({acquired.told})"
    if inversion < 350 and repetition > 1500:
        return None, f"fat nulled by inversion (STIR: {acquired.told})"
    if 350 <= inversion < 1400 and echo <= 40:
        return "T1w", f"inversion, short echo ({acquired.told})"
    return None


def _named(text: str) -> str | None:
    """The contrast that a description says; FLAIR before T2w, nothing where it says two others."""
    said = [contrast for contrast, pattern in _NAMED if pattern.search(text)]
    if "FLAIR" in said:
        return "FLAIR"
    return said[0] if len(said) == 1 else None
