"""The series of a folder: what each is, whether it can be translated, and if not, why not."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mrbridge.errors import InputError
from mrbridge.io.dicom.contrast import guess_contrast
from mrbridge.io.dicom.files import calm, find_files
from mrbridge.io.dicom.geometry import Geometry, arrange, name_gaps, plane_of
from mrbridge.io.dicom.header import ENHANCED_MR, LEGACY_MR, MR, Slice, class_name, slices_of

_MR = (MR, ENHANCED_MR, LEGACY_MR)
_SCREEN = {"SCREEN SAVE", "CSA REPORT", "REPORT", "SCREENSHOT"}
_ROI = re.compile(r"(?<![a-z])(roi|rois|region of interest)(?![a-z])", re.IGNORECASE)
_LOCALISER = re.compile(
    r"locali[sz]er|(?<![a-z])loc(?![a-z])|scout|survey|(?<![a-z])(3|three).?pl", re.IGNORECASE
)
_PHASE = {"P", "PHASE", "PHASE MAP", "R", "I", "REAL", "IMAGINARY"}
_MAPS = {
    *("ADC", "FA", "TRACEW", "TENSOR", "DIFFUSION", "EADC", "PERFUSION", "ASL", "RELCBF", "CBF"),
    *("CBV", "MTT", "TTP", "TTEST", "T1 MAP", "T2 MAP", "T2_STAR MAP", "R2 MAP", "R2_STAR MAP"),
    *("B0 MAP", "FIELD_MAP", "SWI", "MNIP", "MINIP", "MIP", "PROJECTION IMAGE", "SUBTRACTION"),
    *("SUB", "MODULUS SUBTRACT", "DENSITY MAP", "DIFFUSION MAP", "VELOCITY MAP", "FMRI"),
}
_ECHO_APART_MS = 0.05  # echo times closer than this are one echo


@dataclass(frozen=True, eq=False)
class Series:
    """One image: a series, or one echo of it.

    Attributes:
        uid, study: SeriesInstanceUID and StudyInstanceUID.
        number: SeriesNumber, None where there is none.
        echo: which echo it is, from 1; None where the series has one, or where all are combined.
        description: SeriesDescription.
        kind: `anatomical`, `localiser`, `mosaic`, `derived map`, `phase`, `ROI`, `screen save`,
            `synthetic`, `other modality` or `no image`.
        contrast, contrast_reason: the guess, and why.
        echoes: the slices of each echo that is combined into this image; mostly one.
        geometry: where the slices lie; None where they make no stack.
        refusal: why it cannot be read, None if it can.
        taken: the numbers of all series of the study in this listing.
    """

    uid: str
    study: str
    number: int | None
    echo: int | None
    description: str
    kind: str
    contrast: str | None
    contrast_reason: str
    echoes: tuple[tuple[Slice, ...], ...]
    geometry: Geometry | None = None
    refusal: InputError | None = None
    taken: frozenset[int] = frozenset()

    @property
    def slices(self) -> tuple[Slice, ...]:
        """Those of the first echo, in the order of the files."""
        return self.echoes[0]

    @property
    def label(self) -> str:
        """What `--series` calls it: its number, with the echo where there are several."""
        number = self.uid if self.number is None else str(self.number)
        return number if self.echo is None else f"{number}:{self.echo}"

    @property
    def gaps(self) -> int:
        """Slices that are missing."""
        return len(self.geometry.missing) if self.geometry else 0

    @property
    def is_image(self) -> bool:
        """Whether it can be translated, perhaps with its gaps filled."""
        return self.refusal is None and self.kind in ("anatomical", "synthetic")

    @property
    def why_not(self) -> str | None:
        """Why it cannot be translated as it is; None if it can."""
        if self.refusal is not None:
            return str(self.refusal)
        if self.kind == "synthetic":
            return "is synthetic already"
        if self.geometry and self.gaps:
            return f"{name_gaps(self.geometry, self.slices)}; --allow-gaps fills them"
        return None

    @property
    def words(self) -> str:
        """It in one line; descriptions are the scanner's, not the patient's."""
        shown = f" '{self.description}'" if self.description else ""
        return f"{self.label}{shown} ({self.contrast or self.kind}, {len(self.slices)} slices)"


@dataclass(frozen=True)
class Listing:
    """What lies in a folder or zip.

    Attributes:
        path: the folder, zip or file.
        series: in the order of their numbers.
        ignored: files that are no DICOM files or cannot be read, each with the reason.
    """

    path: Path
    series: list[Series]
    ignored: list[tuple[Path, str]] = field(default_factory=list)


@calm()
def find_series(path: str | Path) -> Listing:
    """List the series of a folder, a zip or a file, from headers alone.

    Raises:
        InputError: the path does not exist, or is a zip that cannot or should not be opened.
    """
    path = Path(path)
    groups: dict[tuple[str, str], list[Slice]] = defaultdict(list)
    ignored: list[tuple[Path, str]] = []
    for file, reason in find_files(path):
        if reason is None:
            try:
                found = slices_of(file)
            except InputError as error:
                reason = error.what
            else:
                groups[found[0].text("StudyInstanceUID"), found[0].text("SeriesInstanceUID")] += (
                    found
                )
                continue
        ignored.append((file.shown, reason))
    series = _with_numbers([one for slices in groups.values() for one in _split(slices)])
    series.sort(key=lambda one: (one.study, one.number is None, one.number or 0, one.echo or 0))
    return Listing(path, series, ignored)


def choose_series(
    listing: Listing, contrasts: Sequence[str] | None, named: str | None = None
) -> Series:
    """The one series to read.

    Args:
        contrasts: those that are wanted, the first that there is wins; None takes any.
        named: a SeriesNumber, `number:echo`, or SeriesInstanceUID, which decides instead.

    Raises:
        InputError: none or several fit, or the one that is named cannot be read.
    """
    if named is not None:
        return _named(listing, named)
    images = [one for one in listing.series if one.is_image]
    real = [one for one in images if one.kind != "synthetic"]
    for pool in (real, images):
        for contrast in contrasts or (None,):
            fitting = [one for one in pool if contrast in (None, one.contrast)]
            if len(fitting) == 1:
                return fitting[0]
            if fitting:
                what = f"series of {contrast}" if contrast else "series"
                raise InputError(
                    f"holds {len(fitting)} {what}: {_in_words(fitting)}",
                    path=listing.path,
                    remedy=f"Choose one with --series, as in --series {fitting[0].label}.",
                )
    if not listing.series:
        raise InputError(
            "holds no DICOM series", path=listing.path, remedy="Name the folder of a study."
        )
    wanted = f"{' or '.join(contrasts)} series" if contrasts else "series"
    raise InputError(
        f"holds no {wanted} that can be used: {_in_words(listing.series, why=True)}",
        path=listing.path,
        remedy="Choose one with --series, or see mrbridge inspect.",
    )


def _named(listing: Listing, named: str) -> Series:
    fitting = [one for one in listing.series if named in (one.label, one.uid)]
    # The number alone means all echoes of a series.
    fitting = fitting or [one for one in listing.series if named == str(one.number)]
    if len(fitting) > 1:
        told = ", ".join(f"{one.label} of {one.uid}" for one in fitting)
        raise InputError(
            f"holds {len(fitting)} series that '{named}' may mean: {told}",
            path=listing.path,
            remedy="Name one by number and echo, or by its UID.",
        )
    if not fitting:
        raise InputError(
            f"holds no series '{named}'; there are: {_in_words(listing.series) or 'none'}",
            path=listing.path,
            remedy="Choose one of them.",
        )
    if fitting[0].refusal is not None:
        refusal = fitting[0].refusal
        raise InputError(
            f"series {fitting[0].label}: {refusal.what}", path=listing.path, remedy=refusal.remedy
        )
    return fitting[0]


def _in_words(series: Iterable[Series], *, why: bool = False) -> str:
    return "; ".join(
        one.words + (f": {one.refusal.what}" if why and one.refusal else "") for one in series
    )


def _with_numbers(series: list[Series]) -> list[Series]:
    numbers: dict[str, set[int]] = defaultdict(set)
    for one in series:
        if one.number is not None:
            numbers[one.study].add(one.number)
    return [replace(one, taken=frozenset(numbers[one.study])) for one in series]


def _split(slices: list[Slice]) -> list[Series]:
    """One series for each echo; those of a MEMPRAGE, which are all T1w, are combined."""
    kind, reason = _classify(slices)
    if kind not in ("anatomical", "synthetic"):
        return [_series(kind, reason, [slices])]
    echoes = _by_echo(slices)
    guesses = {guess_contrast(echo[0])[0] for echo in echoes}
    same_size = len({len(echo) for echo in echoes}) == 1
    if len(echoes) == 1 or (guesses == {"T1w"} and same_size):
        return [_series(kind, reason, echoes)]
    return [_series(kind, reason, [echo], number) for number, echo in enumerate(echoes, start=1)]


def _by_echo(slices: list[Slice]) -> list[list[Slice]]:
    """Slices by echo time, short first; all in one list where a time is missing."""
    times = [time for part in slices if (time := part.number("EchoTime")) is not None]
    told = sorted(set(times))
    if len(told) < 2 or len(times) < len(slices):
        return [slices]
    starts = [told[0]]
    for time in told[1:]:
        if time - starts[-1] > _ECHO_APART_MS:
            starts.append(time)
    echoes: list[list[Slice]] = [[] for _ in starts]
    for part, time in zip(slices, times, strict=True):
        echoes[sum(time >= start for start in starts) - 1].append(part)
    return echoes


def _series(
    kind: str, reason: InputError | None, echoes: list[list[Slice]], echo: int | None = None
) -> Series:
    first = echoes[0][0]
    geometry = None
    if reason is None:
        try:
            stacks = [arrange(stack) for stack in echoes]
            if any(not _alike(stack, stacks[0]) for stack in stacks):
                raise InputError("its echoes do not lie alike", remedy="Choose another series.")
            geometry = stacks[0]
        except InputError as error:
            reason, geometry = error, None
    contrast, contrast_reason = guess_contrast(first)
    number = first.number("SeriesNumber")
    return Series(
        uid=first.text("SeriesInstanceUID"),
        study=first.text("StudyInstanceUID"),
        number=None if number is None else int(number),
        echo=echo,
        description=first.text("SeriesDescription"),
        kind=kind,
        contrast=contrast,
        contrast_reason=contrast_reason,
        echoes=tuple(tuple(stack) for stack in echoes),
        geometry=geometry,
        refusal=reason,
    )


def _alike(one: Geometry, other: Geometry) -> bool:
    return one.missing == other.missing and np.allclose(one.affine, other.affine, atol=1e-3)


def _classify(slices: list[Slice]) -> tuple[str, InputError | None]:
    """What a series is, and why it is no image of the anatomy, or None."""
    for kind, test in _TESTS:
        found = test(slices)
        if found:
            return kind, InputError(
                found, remedy="Choose the series that it was made of, or another."
            )
    first = slices[0]
    marks = (first.text(k).lower() for k in ("SeriesDescription", "ImageComments"))
    synthetic = first.text("SyntheticData").upper() == "YES" or any(
        mark.startswith("synthetic") for mark in marks
    )
    return ("synthetic" if synthetic else "anatomical"), None


def _no_image(slices: list[Slice]) -> str:
    first = slices[0]
    rows, columns = first.number("Rows"), first.number("Columns")
    if not rows or not columns or rows < 1 or columns < 1:
        return f"holds no image ({class_name(first)})"
    return ""


def _other_modality(slices: list[Slice]) -> str:
    first = slices[0]
    modality = first.text("Modality").upper()
    if first.text("SOPClassUID") not in _MR and modality != "MR":
        return f"is {modality or class_name(first)}, not MR"
    return ""


def _screen_save(slices: list[Slice]) -> str:
    for part in slices:
        if part.number("SamplesPerPixel") not in (None, 1):
            return "is in colour, a picture of a screen or a map"
        if part.text("PhotometricInterpretation").upper() == "PALETTE COLOR":
            return "is in colour, a picture of a screen or a map"
        if _SCREEN & set(part.words("ImageType")):
            return "is a picture of a screen"
        if part.text("SOPClassUID") not in _MR:
            return f"is no MR image but {class_name(part)}"
    return ""


def _roi(slices: list[Slice]) -> str:
    first = slices[0]
    drawn = "ROI" in first.words("ImageType") or _ROI.search(first.text("SeriesDescription"))
    return "is a region that somebody drew (ROI)" if drawn else ""


def _derived_map(slices: list[Slice]) -> str:
    types = slices[0].words("ImageType")
    named = [word for word in types if word in _MAPS]
    if not named:
        return ""
    return f"is a derived map ({', '.join(named[:3])})" + (
        ", stored as a mosaic" if "MOSAIC" in types else ""
    )


def _mosaic(slices: list[Slice]) -> str:
    found = any("MOSAIC" in part.words("ImageType") for part in slices)
    return "is a mosaic: all slices of a volume in one image" if found else ""


def _phase(slices: list[Slice]) -> str:
    types = slices[0].words("ImageType")
    found = _PHASE & set(types[2:])
    return f"holds {found.pop().lower()} images, not magnitude" if found else ""


def _localiser(slices: list[Slice]) -> str:
    first = slices[0]
    if "LOCALIZER" in first.words("ImageType") or _LOCALISER.search(
        first.text("SeriesDescription")
    ):
        return "is a localiser"
    planes = [plane_of(part) for part in slices]
    turns = {tuple(plane[2].round(1) + 0.0) for plane in planes if plane is not None}
    return "is a localiser (its slices are not parallel)" if 1 < len(turns) <= 4 else ""


_TESTS: tuple[tuple[str, Callable[[list[Slice]], str]], ...] = (
    ("no image", _no_image),
    ("other modality", _other_modality),
    ("screen save", _screen_save),
    ("ROI", _roi),
    ("derived map", _derived_map),
    ("mosaic", _mosaic),
    ("localiser", _localiser),
    ("phase", _phase),
)
