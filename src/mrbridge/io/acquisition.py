"""Which image a scan is by its acquisition: by DICOM headers, or the sidecar of a NIfTI file.

A NIfTI file with a sidecar needs nothing of `mrbridge.io.dicom`.

First come the images that are not one of the contrasts: another modality, a localizer, a map, a
phase image, a scan after a contrast agent, a sequence with the timing of T1w and another contrast.
Then echo, repetition and inversion time decide (Bernstein, King, Zhou, Handbook of MRI Pulse
Sequences, 2004), and the description only if they do not. FLAIR is recognised by its description if
the timing fits: without the inversion time, its timing is that of T2w.

Sources: PS3.3, C.8.3.1 (MR image), C.8.13.3 (complex image component), C.8.13.5 (enhanced MR
modules), C.7.6.4 (contrast agent); for the private tags of vendors, the source of dcm2niix
(https://github.com/rordenlab/dcm2niix, `console/nii_dicom.cpp`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from mrbridge.io.contrast import (
    Identity,
    agent_in,
    normalised,
    of_text,
    says_no_agent,
    something_else,
)
from mrbridge.io.vocabulary import ELSEWHERE

MR_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.4{part}" for part in ("", ".1", ".4"))
"""The SOP classes of MR images (PS3.4, B.5): classic, enhanced, enhanced from classic ones."""
GE_PART = (0x0043, 0x102F)
"""Private tag of GE: 0 magnitude, 1 phase, 2 real, 3 imaginary."""
SIEMENS_TYPE = (0x0021, 0x1175)
"""Private tag of Siemens XA: ImageType as classic objects have it."""
Keyword = str | tuple[int, int]
"""A keyword of the standard, or a private tag."""

_SCREEN = {"SCREEN SAVE", "CSA REPORT", "REPORT", "SCREENSHOT"}
_MAPS = {
    *("ADC", "FA", "TRACEW", "TENSOR", "DIFFUSION", "EADC", "PERFUSION", "ASL", "RELCBF", "CBF"),
    *("CBV", "MTT", "TTP", "TTEST", "T1 MAP", "T2 MAP", "T2_STAR MAP", "R2 MAP", "R2_STAR MAP"),
    *("B0 MAP", "FIELD_MAP", "SWI", "MNIP", "MINIP", "MIP", "PROJECTION IMAGE", "SUBTRACTION"),
    *("SUB", "MODULUS SUBTRACT", "DENSITY MAP", "DIFFUSION MAP", "VELOCITY MAP", "FMRI"),
}
_PARTS = {
    **dict.fromkeys(("P", "PHASE", "PHASE MAP"), "phase"),
    **dict.fromkeys(("R", "REAL"), "real"),
    **dict.fromkeys(("I", "IMAGINARY"), "imaginary"),
    **dict.fromkeys(("M", "MAGNITUDE"), "magnitude"),
}
_GE_PARTS = ("magnitude", "phase", "real", "imaginary")
_ACQUIRED = {"T1": "T1w", "T2": "T2w", "PROTON_DENSITY": "PDw", "FLUID_ATTENUATED": "FLAIR"}
_OTHERS_ACQUIRED = {
    *("DIFFUSION", "FLOW_ENCODED", "PERFUSION", "STIR", "T2_STAR", "TAGGING", "TOF"),
    *("MAGNETIZATION_TRANSFER", "SUSCEPTIBILITY", "PHASE_CONTRAST"),
}
_NO_AGENT = re.compile(
    r"(?:no(?:ne|ne given|t given|t applicable|t used|n|t administered)?|n|n/?a|nil|-+|"
    r"0(?:\.0*)?( ?ml)?|false|ohne|kein\w*|nein|sans|sin|senza|"
    r"nativ\w*|pre|unenhanced|plain|without|w/?o|unknown)?",
    re.IGNORECASE,
)
_JOINED = ("ScanningSequence", "SequenceVariant", "ScanOptions")
_IN_SIDECARS = (
    *("ImageType", "SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName"),
    *("MRAcquisitionType", "EchoTime", "RepetitionTime", "InversionTime", "FlipAngle", *_JOINED),
)
_SHORTEST_ECHO_MS = 0.5  # below, times are in seconds, or it is an ultrashort echo
# Words in SequenceName, which is written by the scanner, not by the technician (Siemens).
_SEQUENCES = (
    (re.compile(r"fm2d"), "calibration", "is a field map"),
    (re.compile(r"f[li]3d\d*_?r"), "angiography", "is flow-compensated: angiography or SWI"),
    (re.compile(r"swi"), "T2*", "is weighted by susceptibility"),
    (re.compile(r"ci3d|tfi[23]d|de3d|psif|trufi"), "steady state", "is a steady-state sequence"),
    (re.compile(r"pc[23]d"), "angiography", "is a phase-contrast angiography"),
)


@dataclass(frozen=True, eq=False)
class Tags:
    """The tags of one image.

    Attributes:
        header: a pydicom dataset, or a dictionary from keyword to value; it does not change.
    """

    header: Any

    def text(self, keyword: Keyword) -> str:
        """The value of a tag as one line, empty if it is absent."""
        return _line(self._value(keyword))

    def words(self, keyword: Keyword) -> tuple[str, ...]:
        """The values of a tag in capitals."""
        return tuple(_line(item).upper() for item in self._values(keyword))

    def numbers(self, keyword: Keyword) -> tuple[float, ...]:
        """The values of a tag; empty if it is absent, or if one of them is not a finite number."""
        try:
            numbers = tuple(float(item) for item in self._values(keyword))
        except (TypeError, ValueError, OverflowError):
            return ()
        return numbers if all(map(math.isfinite, numbers)) else ()

    def number(self, keyword: Keyword) -> float | None:
        """The first number of a tag."""
        return next(iter(self.numbers(keyword)), None)

    def _values(self, keyword: Keyword) -> Iterable[Any]:
        value = self._value(keyword)
        if value is None or value == "":
            return ()
        return (value,) if isinstance(value, str | int | float) else value

    def _value(self, keyword: Keyword) -> Any:
        if keyword not in self._read:
            self._read[keyword] = self._read_value(keyword)
        return self._read[keyword]

    @cached_property
    def _read(self) -> dict[Keyword, Any]:
        """The values that were needed so far: pydicom looks each one up by its keyword's tag."""
        return {}

    def _read_value(self, keyword: Keyword) -> Any:
        try:
            if isinstance(keyword, str):
                return self.header.get(keyword)
            element = self.header.get(keyword)
            value = None if element is None else element.value
            if not isinstance(value, bytes):
                return value
            # A private tag of an implicit file, whose type is unknown.
            is_short = len(value) == 2 and keyword == GE_PART
            return (
                int.from_bytes(value, "little") if is_short else value.decode("ascii").split("\\")
            )
        except MemoryError:
            raise
        except Exception:  # a value that pydicom cannot parse counts as absent
            return None


def _line(value: Any) -> str:
    """A value as one line, without control characters."""
    line = " ".join(str("" if value is None else value).split())
    return "".join(letter for letter in line if letter.isprintable())


@dataclass(frozen=True)
class _Acquisition:
    """How a slice was acquired; times in ms, angles in degrees, None if not stated."""

    echo: float | None
    repetition: float | None
    inversion: float | None
    flip: float | None
    gradient: bool
    spin: bool
    inverted: bool
    planar: bool
    spoiled: bool
    steady: bool

    @property
    def timing(self) -> str:
        """The times, for messages."""
        named = (("TE", self.echo), ("TR", self.repetition), ("TI", self.inversion))
        return ", ".join(f"{name} {value:g} ms" for name, value in named if value is not None)


def of_series(slices: Sequence[Tags]) -> Identity:
    """Identify a DICOM series from all of its slices, at least one.

    A contrast is doubtful where the description says another one.
    """
    return _not_a_scan(slices) or _of_header(slices)


def _of_header(slices: Sequence[Tags]) -> Identity:
    for test in (_of_image_type, _by_description, _by_sequence, _after_agent):
        found = test(slices)
        if found is not None:
            return found
    return _by_timing(slices[0])


def of_sidecar(sidecar: Mapping[str, Any]) -> Identity:
    """Identify a NIfTI file from its sidecar, whose fields are the tags of DICOM, with times in
    seconds (BIDS 1.10, "Magnetic Resonance Imaging") and joined words (dcm2niix)."""
    header = {keyword: sidecar.get(keyword) for keyword in _IN_SIDECARS}
    header["ContrastBolusAgent"] = sidecar.get("ContrastBolusIngredient")
    for keyword, value in header.items():
        if keyword.endswith("Time") and isinstance(value, int | float):
            header[keyword] = 1000 * value
        elif keyword in _JOINED and isinstance(value, str):
            header[keyword] = re.split(r"[_\\]", value)
    return _of_header([Tags(header)])


def other_body_part(part: str) -> list[str]:
    """A note if BodyPartExamined is not the head. It is only a note: the tag is often wrong."""
    words = normalised(part)
    if not ELSEWHERE.search(words) or re.search("head|brain|skull|kopf", words):
        return []
    return [f"its header says that it shows another part of the body: {part} (BodyPartExamined)"]


def part_of(image: Tags) -> str:
    """Which part of a complex image a slice holds: `magnitude`, `phase`, `real` or `imaginary`.

    A magnitude ImageType comes before a real ComplexImageComponent, which Philips writes for
    magnitude images too (dcm2niix, issue 256).
    """
    types = [*image.words("ImageType")[2:], *image.words(SIEMENS_TYPE)]
    parts = [
        _PARTS[word]
        for word in (t if t in _PARTS else t.split("_")[0] for t in types)
        if word in _PARTS
    ]
    ge = image.number(GE_PART)
    component = _PARTS.get(image.text("ComplexImageComponent").upper(), "magnitude")
    if ge is not None and 0 < ge < len(_GE_PARTS):
        return _GE_PARTS[int(ge)]
    if component != "magnitude" and not (component == "real" and "magnitude" in parts):
        return component
    return next((part for part in parts if part != "magnitude"), "magnitude")


def _not_a_scan(slices: Sequence[Tags]) -> Identity | None:
    first = slices[0]
    rows, columns = first.number("Rows"), first.number("Columns")
    if not rows or not columns or rows < 1 or columns < 1:
        return something_else("no image", f"holds no image ({_class_of(first)})")
    modality = first.text("Modality").upper()
    if first.text("SOPClassUID") not in MR_CLASSES and modality != "MR":
        kind = modality or _class_of(first)
        return something_else("other modality", f"is {kind}, not MR")
    for image in slices:
        if (
            image.number("SamplesPerPixel") not in (None, 1)
            or image.text("PhotometricInterpretation").upper() == "PALETTE COLOR"
        ):
            return something_else("screen save", "is in colour, a screenshot or a map")
        if _SCREEN & set(image.words("ImageType")):
            return something_else("screen save", "is a screenshot")
        if image.text("SOPClassUID") not in MR_CLASSES:
            kind = "screen save" if "Capture" in _class_of(image) else "no image"
            return something_else(kind, f"is not an MR image but {_class_of(image)}")
    return None


def _class_of(image: Tags) -> str:
    """The name of its SOP class."""
    from pydicom.uid import UID  # which sidecars do not need

    return UID(image.text("SOPClassUID")).name


def _of_image_type(slices: Sequence[Tags]) -> Identity | None:
    first = slices[0]
    types = first.words("ImageType")
    if "ROI" in types:
        return something_else("ROI", "is a drawn region of interest (ROI)")
    named = [word for word in types if word in _MAPS]
    if named:
        mosaic = ", stored as a mosaic" if "MOSAIC" in types else ""
        return something_else("derived map", f"is a derived map ({', '.join(named[:3])}){mosaic}")
    if any("MOSAIC" in image.words("ImageType") for image in slices):
        return something_else("mosaic", "is a mosaic: all slices of a volume in one image")
    if "LOCALIZER" in types:
        return something_else("localizer", "is a localizer")
    part = next((part for part in map(part_of, slices) if part != "magnitude"), None)
    if part is not None:
        return something_else("phase", f"holds {part} images, not magnitude")
    return None


def _by_description(slices: Sequence[Tags]) -> Identity | None:
    """What a series is by its description, except for contrast agents."""
    first = slices[0]
    where, text = "its description", first.text("SeriesDescription")
    if of_text(text).is_unknown and not _is_of_exam(first.text("ProtocolName")):
        where, text = "its protocol", first.text("ProtocolName")
    identity = of_text(text)
    if not identity.is_other or identity.kind == "agent":
        return None
    return replace(identity, reason=identity.reason.replace("its name", where))


def _is_of_exam(protocol: str) -> bool:
    """Whether a protocol's name is that of the whole examination (GE) and names no contrast."""
    return of_text(protocol).contrast is None and not re.search(r"t[12]|flair|pd", protocol.lower())


def _by_sequence(slices: Sequence[Tags]) -> Identity | None:
    """Sequences with the timing of T1w and another contrast."""
    first = slices[0]
    sequence = f"{first.text('SequenceName')} {first.text('PulseSequenceName')}".lower()
    for pattern, kind, reason in _SEQUENCES:
        if pattern.search(sequence):
            return something_else(kind, f"{reason}, by its sequence")
    acquired = _acquisition(first)
    if acquired.planar:
        return something_else("echo-planar", f"is echo-planar ({acquired.timing})")
    if first.text("AngioFlag").upper() == "Y":
        return something_else("angiography", "is an angiography")
    stated = first.text("AcquisitionContrast").upper()
    if stated in _OTHERS_ACQUIRED:
        return something_else("other contrast", f"its acquisition contrast is {stated}")
    if "MTC" in first.words("SequenceVariant") or first.text("MagnetizationTransfer").upper() in (
        "ON_RESONANCE",
        "OFF_RESONANCE",
    ):
        return something_else("MT", "is weighted by magnetization transfer")
    times = {t for s in slices if (t := s.number("TemporalPositionIdentifier")) is not None}
    count = max(len(times), int(first.number("NumberOfTemporalPositions") or 1))
    if count > 1:
        return something_else("dynamic", f"is a dynamic series of {count} points in time")
    if len(first.numbers("InversionTime")) > 1:
        return something_else("DIR", "has several inversion times (double inversion recovery)")
    if acquired.gradient and not acquired.spin and not acquired.inverted:
        return _gradient_lookalike(slices, acquired)
    return None


def _gradient_lookalike(slices: Sequence[Tags], acquired: _Acquisition) -> Identity | None:
    """Gradient echoes without inversion that are not spoiled T1w scans."""
    echo, repetition = acquired.echo, acquired.repetition
    if echo is None or repetition is None:
        return None
    # Balanced steady state refocuses halfway between pulses (Scheffler and Lehnhardt 2003)
    # and needs a large flip angle for its contrast.
    balanced = repetition < 15 and 0.35 <= echo / repetition <= 0.65 and (acquired.flip or 0) >= 30
    if not acquired.spoiled and ((acquired.steady and repetition < 15) or balanced):
        return something_else(
            "steady state", f"is a balanced steady-state sequence, bright fluid ({acquired.timing})"
        )
    echoes = {round(t, 1) for s in slices if (t := s.number("EchoTime")) is not None}
    if len(echoes) > 1:
        return something_else(
            "calibration", "is a gradient echo of several echoes: a field map or a T2* series"
        )
    volumetric = slices[0].text("MRAcquisitionType").upper() != "2D"
    if "FC" in slices[0].words("ScanOptions") and volumetric and repetition <= 50:
        return something_else(
            "angiography", "is a flow-compensated 3D gradient echo: angiography or SWI"
        )
    return None


def _after_agent(slices: Sequence[Tags]) -> Identity | None:
    """Whether the scan was acquired after a contrast agent, by tags and by words.

    Technicians often enter the agent before the first series, so that all series bear it: words
    that say "before" against a tag that names an agent leave it open.
    """
    first = slices[0]
    description, protocol = first.text("SeriesDescription"), first.text("ProtocolName")
    tags = [tag for image in slices if (tag := _agent_of(image))]
    tag = tags[0] if tags else ""
    if 0 < len(tags) < len(slices):
        tag += f" in {len(tags)} of {len(slices)} images"
    word = agent_in(description)
    if word is None and not says_no_agent(description) and not _is_of_exam(protocol):
        word = agent_in(protocol)
    if tag and says_no_agent(description):
        return Identity(reason=f"its description says that no agent was given, but it has {tag}")
    if tag or word:
        how = tag or f"'{word}' in its description"
        return something_else("agent", f"was taken after a contrast agent, by {how}")
    return None


def _agent_of(image: Tags) -> str:
    """The tag that names a contrast agent, and its value; empty if there is none."""
    named = image.text("ContrastBolusAgent").strip()
    given = not _NO_AGENT.fullmatch(named) and not (
        says_no_agent(named) or re.match(r"(?:no|non|without|none)\b", named, re.IGNORECASE)
    )
    tag = f"ContrastBolusAgent '{named}'" if given else ""
    for item in image.header.get("ContrastBolusAgentSequence") or ():
        meaning = str(item.get("CodeMeaning", ""))
        if not _NO_AGENT.fullmatch(meaning) or not meaning:
            tag = f"ContrastBolusAgentSequence '{meaning}'" if meaning else "a coded agent"
    return tag


def _acquisition(image: Tags) -> _Acquisition:
    sequence, variant = image.words("ScanningSequence"), image.words("SequenceVariant")
    pulse, spoiling = image.text("EchoPulseSequence").upper(), image.text("Spoiling").upper()
    steady = image.text("SteadyStatePulseSequence").upper()
    echo, repetition, inversion, flip = (
        value if (value := image.number(keyword) or 0) > 0 else None
        for keyword in ("EchoTime", "RepetitionTime", "InversionTime", "FlipAngle")
    )
    return _Acquisition(
        echo if (echo or 0) >= _SHORTEST_ECHO_MS else None,
        repetition,
        inversion,
        flip,
        gradient="GR" in sequence or pulse == "GRADIENT",
        spin="SE" in sequence or pulse == "SPIN",
        inverted="IR" in sequence or "MP" in variant or inversion is not None,
        planar="EP" in sequence or image.text("EchoPlanarPulseSequence").upper() == "YES",
        spoiled="SP" in variant or spoiling in ("RF", "GRADIENT", "RF_AND_GRADIENT"),
        steady="SS" in variant or steady in ("FREE_PRECESSION", "TIME_REVERSED"),
    )


def _by_timing(image: Tags) -> Identity:
    acquired = _acquisition(image)
    description = " ".join(
        image.text(keyword) for keyword in ("SeriesDescription", "ProtocolName", "SequenceName")
    )
    named = of_text(image.text("SeriesDescription")).contrast or of_text(description).contrast
    stated = _ACQUIRED.get(image.text("AcquisitionContrast").upper())
    timed = _timed(acquired)
    if timed is None and stated is not None:
        timed = Identity(stated, f"its acquisition contrast is {image.text('AcquisitionContrast')}")
    if timed is None:
        if named is None:
            return Identity(
                reason="neither its timing nor its description says which contrast it is"
            )
        return Identity(named, "by its description; its timing does not tell")
    if timed.contrast == "T2w" and "FLAIR" in (named, stated) and acquired.inversion is None:
        return Identity("FLAIR", f"{timed.reason}, and its description says FLAIR")
    for where, other in (("description", named), ("acquisition contrast", stated)):
        is_other = other not in (None, timed.contrast) and (timed.contrast, other) != (
            "FLAIR",
            "T2w",
        )
        if timed.contrast is not None and is_other:
            reason = f"{timed.reason}, though its {where} says {other}"
            return Identity(timed.contrast, reason, is_doubtful=True)
    if timed.contrast and acquired.gradient and not acquired.inverted and named is None:
        # Many sequences are timed like this one: angiographies, field maps, calibration scans.
        return replace(
            timed, reason=f"{timed.reason}, which its description does not say", is_doubtful=True
        )
    return timed


def _timed(acquired: _Acquisition) -> Identity | None:
    """The identity by echo, repetition and inversion time; None if they do not decide."""
    echo, repetition = acquired.echo, acquired.repetition
    if echo is None or repetition is None:
        return None
    if acquired.gradient and not acquired.spin:
        return _gradient_echo(acquired, echo, repetition)
    if acquired.inverted:
        return _inversion_recovery(acquired, echo, repetition)
    if echo >= 60 and repetition >= 1500:
        return Identity("T2w", f"long echo and repetition ({acquired.timing})")
    if echo <= 40 and repetition <= 1200:
        return Identity("T1w", f"short echo and repetition ({acquired.timing})")
    if echo <= 40 and repetition >= 1800:
        return Identity("PDw", f"short echo, long repetition ({acquired.timing})")
    return None


def _gradient_echo(acquired: _Acquisition, echo: float, repetition: float) -> Identity | None:
    if echo > 12 and not acquired.inverted:
        return something_else("T2*", f"is a gradient echo weighted by T2* ({acquired.timing})")
    if acquired.inverted:
        return Identity("T1w", f"gradient echo after inversion, short echo ({acquired.timing})")
    flip = acquired.flip or 0
    # Above the Ernst angle of white matter (T1 about 0.9 s) contrast is by T1.
    if (repetition <= 50 and flip >= 12) or (50 < repetition <= 800 and flip >= 40):
        return Identity("T1w", f"spoiled gradient echo, flip angle {flip:g}° ({acquired.timing})")
    return None


def _inversion_recovery(acquired: _Acquisition, echo: float, repetition: float) -> Identity | None:
    inversion = acquired.inversion
    if inversion is None:
        if echo >= 60 and repetition >= 4000:
            return Identity("FLAIR", f"inversion, long echo and repetition ({acquired.timing})")
        if echo <= 20:
            return Identity("T1w", f"inversion, short echo ({acquired.timing})")
        return None
    if inversion >= 1400 and echo >= 60:
        return Identity("FLAIR", f"long inversion and echo ({acquired.timing})")
    if inversion < 350 and repetition > 1500:
        return something_else("STIR", f"is a STIR: fat is nulled by inversion ({acquired.timing})")
    if acquired.spin and inversion < 1400 and repetition > 4500:
        return something_else(
            "DIR",
            f"has a short inversion and a long repetition: double "
            f"inversion recovery ({acquired.timing})",
        )
    if 350 <= inversion < 1400 and echo <= 40:
        return Identity("T1w", f"inversion, short echo ({acquired.timing})")
    return None
