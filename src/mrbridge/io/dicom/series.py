"""The series of a folder: what they are, and whether they can be translated."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from mrbridge.errors import InputError
from mrbridge.io.acquisition import of_series, other_body_part, part_of
from mrbridge.io.contrast import Identity, something_else, synthetic_in
from mrbridge.io.dicom.decode import grouped, without_copies
from mrbridge.io.dicom.files import NO_DICOM, DicomFile, calm, find_files
from mrbridge.io.dicom.geometry import (
    Geometry,
    arrange,
    is_localizer,
    name_gaps,
    planes_of,
    thinned,
    view_of,
)
from mrbridge.io.dicom.header import Slice, slices_of
from mrbridge.reports import counted
from mrbridge.volume import check_size

UNREADABLE = ("no image", "screen save", "mosaic")  # kinds that `--force` does not read
_ECHO_APART_MS = 0.05  # echo times closer than this are one echo
_MARKS = ("SeriesDescription", "ImageComments", "ImageType")  # that may say "synthetic"
_OVERLAPPING = 0.75  # of the thickness: slices closer than this overlap
_SAME_SCALE = 0.05  # relative difference of scales that changes little
_VARYING = 0.05  # times of one acquisition are rounded, or follow a trigger

_MAYBE_SEVERAL = (
    "its images are numbered as several interleaved stacks, and SliceThickness is missing: it may "
    "be several acquisitions"
)


@dataclass(frozen=True, eq=False)
class Series:
    """One image: a series, or one part of it (an echo, or a stack).

    Attributes:
        uid, study, number: SeriesInstanceUID, StudyInstanceUID and SeriesNumber.
        part: which part of the series it is, from 1; None if it is the whole series.
        detail: what distinguishes the part from the others, such as `stack 1, axial`.
        identity: which image it is, and how that is known.
        synthetic: whether its header says that it is synthetic.
        echoes: the slices of each echo that is combined into this image; usually of one echo.
        geometry: positions of the slices; None if they do not form a stack.
        refusal: why it cannot be read, None if it can.
        notes: what its headers leave open and was assumed, and copies that are left out.
        taken: the numbers of all series of the study in this listing.
    """

    uid: str
    study: str
    number: int | None
    part: int | None
    description: str
    identity: Identity
    synthetic: bool
    echoes: tuple[tuple[Slice, ...], ...]
    geometry: Geometry | None = None
    refusal: InputError | None = None
    detail: str = ""
    notes: tuple[str, ...] = ()
    taken: frozenset[int | None] = frozenset()

    @property
    def slices(self) -> tuple[Slice, ...]:
        """Those of the first echo, in the order of the files."""
        return self.echoes[0]

    @property
    def stack(self) -> Geometry:
        """The geometry, which a series has that can be read."""
        assert self.geometry is not None
        return self.geometry

    @property
    def files(self) -> set[DicomFile]:
        """Those that hold it."""
        return {part.file for echo in self.echoes for part in echo}

    @property
    def label(self) -> str:
        """Its name for `--series`: its number, with the part if there are several."""
        number = self.uid if self.number is None else str(self.number)
        return number if self.part is None else f"{number}:{self.part}"

    @property
    def selector(self) -> str:
        """Its name for `--series` if two series have the same number: the UID, with the part."""
        return self.uid if self.part is None else f"{self.uid}:{self.part}"

    @property
    def gaps(self) -> int:
        """The number of missing slices."""
        return len(self.geometry.missing) if self.geometry else 0

    @property
    def kind(self) -> str:
        """`anatomical`, `synthetic`, or what else it is, such as `localizer` or `phase`."""
        return self.identity.kind or ("synthetic" if self.synthetic else "anatomical")

    @property
    def contrast(self) -> str | None:
        """Its contrast, if known and supported."""
        return self.identity.contrast

    @property
    def is_image(self) -> bool:
        """Whether it can be translated, possibly with gaps filled."""
        return self.refusal is None and not self.identity.is_other

    @property
    def why_not(self) -> str | None:
        """Why it cannot be translated as it is; None if it can."""
        if self.identity.is_other and self.identity.kind not in UNREADABLE:
            return f"{self.identity.reason}. Choose another series, or use --force."
        if self.refusal is not None:
            # Without the path: it may be the patient's name, and listings are kept.
            return f"{self.refusal.what}. {self.refusal.remedy}"
        if self.synthetic:
            return "is synthetic already"
        if self.geometry:
            first = self.slices[0]
            rows, columns = (int(first.number(side) or 1) for side in ("Rows", "Columns"))
            try:
                check_size((columns, rows, len(self.geometry.order)), self.geometry.affine)
            except InputError as error:
                return str(error)
        if self.geometry and self.gaps:
            return f"{name_gaps(self.geometry, self.slices)}; --allow-gaps fills them"
        return None

    @property
    def what_is_wrong(self) -> str:
        """What else it is, why it cannot be read, or how its contrast is known."""
        if self.refusal is not None and not self.identity.is_other:
            return self.refusal.what
        return self.identity.reason

    @property
    def words(self) -> str:
        """A summary in one line; the description is the scanner's, without the patient's name."""
        shown = f" '{self.description}'" if self.description else ""
        detail = f", {self.detail}" if self.detail else ""
        count = counted(len(self.slices), "slice")
        return f"{self.label}{shown} ({self.contrast or self.kind}, {count}{detail})"


@dataclass(frozen=True)
class Listing:
    """The content of a folder or zip.

    Attributes:
        series: in the order of their numbers.
        ignored: files that are not DICOM files, or copies of others, each with the reason.
        damaged: DICOM files that cannot be read. Each may be a slice of any series.
    """

    path: Path
    series: list[Series]
    ignored: list[tuple[Path, str]] = field(default_factory=list)
    damaged: list[InputError] = field(default_factory=list)


@calm()
def find_series(path: str | Path, only: Collection[str] = ()) -> Listing:
    """List the series of a folder, a zip or a file, or of those of its files that `only` names,
    from headers only."""
    path = Path(path)
    groups: dict[str, list[Slice]] = defaultdict(list)
    listing = Listing(path, [])
    alike: set[Path] = set()
    for file, reason in find_files(path, only):
        if reason is not None:
            listing.ignored.append((file.shown, reason))
            continue
        alike.add(_unnumbered(file.shown))
        try:
            found = slices_of(file)
        except InputError as error:
            listing.damaged.append(error)
            continue
        if not found:
            listing.ignored.append((file.shown, "is an index of files (DICOMDIR)"))
            continue
        groups[found[0].text("SeriesInstanceUID")] += found
    series = []
    for slices in groups.values():
        kept, copies, refusal = without_copies(slices)
        listing.ignored.extend((copy, "is a copy of another file") for copy in copies)
        copied = counted(len(copies), "file is a copy of another", "files are copies of others")
        notes = [f"{copied}; only one of each is read"] if copies else []
        notes += _fewer_than_stated(kept)
        series += _split(kept, refusal, notes)
    taken: dict[str, set[int | None]] = defaultdict(set)
    for one in series:
        taken[one.study].add(one.number)
    series = [replace(one, taken=frozenset(taken[one.study])) for one in series]
    series.sort(key=lambda one: (one.study, one.number is None, one.number or 0, one.part or 0))
    listing.series.extend(series)
    _suspect(listing, alike)
    return listing


def _fewer_than_stated(slices: Sequence[Slice]) -> list[str]:
    """A note if a series has fewer images than its header says. Missing slices at the ends of a
    stack leave no gap."""
    stated = {part.number("ImagesInAcquisition") for part in slices}
    expected = next(iter(stated)) if len(stated) == 1 else None
    if not expected or len(slices) >= expected:
        return []
    return [
        f"has {counted(len(slices), 'image')}, and its header says {expected:g} "
        "(ImagesInAcquisition): some may not have been exported or copied"
    ]


def _suspect(listing: Listing, alike: set[Path]) -> None:
    """Treat non-DICOM files that are named like the DICOM files next to them as truncated."""
    for item in list(listing.ignored):
        file, reason = item
        plain = _unnumbered(file)
        if reason == NO_DICOM and plain in alike and plain.name != file.name:
            listing.ignored.remove(item)
            what = "is named like the DICOM files next to it, but is not one: damaged or truncated"
            listing.damaged.append(
                InputError(what, path=file, remedy="Replace it with a new copy, or remove it.")
            )


def _unnumbered(file: Path) -> Path:
    return file.with_name(re.sub(r"\d+", "#", file.name))


def _split(slices: list[Slice], refusal: InputError | None, notes: list[str]) -> list[Series]:
    """One series for each stack and echo; echoes of a MEMPRAGE, which are all T1w, are combined.

    Phase, real and imaginary images next to magnitude images of one series, as Philips writes them,
    are a series of their own.
    """
    magnitude = [image for image in slices if part_of(image) == "magnitude"]
    others = [image for image in slices if part_of(image) != "magnitude"]
    if magnitude and others:
        return [*_split(magnitude, refusal, notes), *_split(others, refusal, [])]
    stacks = _by_stack(slices)
    if not _thickness(slices) and _between(slices, _acquisitions(slices)):
        notes = [*notes, _MAYBE_SEVERAL]
    made = [image for stack in stacks for image in _images(stack, refusal, notes)]
    if len(made) == 1:
        return made
    detail = _stack_detail if len(stacks) > 1 else _echo_detail
    return [replace(one, part=n, detail=detail(one.slices)) for n, one in enumerate(made, 1)]


def _echo_detail(slices: Sequence[Slice]) -> str:
    return f"echo time {slices[0].number('EchoTime') or 0:g} ms"


def _stack_detail(slices: Sequence[Slice]) -> str:
    first = min(slices, key=lambda part: part.number("InstanceNumber") or 0)
    stack = first.text("StackID")
    name = f"stack {stack}" if stack else f"acquisition {first.text('AcquisitionNumber')}"
    return f"{name} from {first.shown}, {view_of(first)}"


def _by_stack(slices: list[Slice]) -> list[list[Slice]]:
    """Slices of an enhanced image by stack, if its stacks are not a single volume, or of any image
    by acquisition, if each is a volume whose slices overlap those of the others; else all.

    Stacks of three orientations are left together: they are a localizer.
    """
    stacks = grouped(slices, lambda part: part.text("StackID"))
    acquisitions = _acquisitions(slices)
    if len(stacks) < 2 or min(map(len, stacks)) < 2 or len(planes_of(slices)) > 2:
        return acquisitions if _overlap(slices, acquisitions) else [slices]
    try:
        one_volume = not (arrange(slices).missing or _overlap(slices, stacks))
    except InputError:
        one_volume = False
    return [slices] if one_volume else stacks


def _acquisitions(slices: list[Slice]) -> list[list[Slice]]:
    """Slices by AcquisitionNumber; if that is the same in all, by runs of InstanceNumber in which
    the position goes one way."""
    acquisitions = grouped(slices, lambda part: part.text("AcquisitionNumber"))
    if len(acquisitions) > 1 or len(slices) < 2:
        return acquisitions
    try:
        by_place = [index for index in arrange(slices).order if index is not None]
    except InputError:
        return acquisitions
    again: Counter[float] = Counter()  # each acquisition may be numbered from 1
    rank: dict[int, tuple[int, float]] = {}
    for index in by_place:
        number = slices[index].number("InstanceNumber") or 0
        rank[index] = again[number], number
        again[number] += 1
    order = sorted(by_place, key=rank.__getitem__)
    place = {index: n for n, index in enumerate(by_place)}
    steps = np.diff([place[index] for index in order])
    runs = np.cumsum([False, *(steps * np.median(steps) < 0)]).tolist()
    groups = zip(runs, (slices[index] for index in order), strict=True)
    return [[part for _, part in group] for _, group in groupby(groups, itemgetter(0))]


def _overlap(slices: list[Slice], groups: list[list[Slice]]) -> bool:
    """Whether groups of slices are volumes of their own between one another, whose slices overlap.

    In an interleaved acquisition of one volume, slices are at most as thick as their distance.
    """
    return 0 < _between(slices, groups) < _OVERLAPPING * _thickness(slices)


def _between(slices: list[Slice], groups: list[list[Slice]]) -> float:
    """The distance of slices in mm, if those of each group lie further apart, between the others;
    else 0."""
    if len(groups) < 2 or min(map(len, groups)) < 2:
        return 0
    try:
        apart = arrange(slices).spacing[2]
        own = min(arrange(group).spacing[2] for group in groups)
    except InputError:
        return 0
    return apart if own > apart / _OVERLAPPING else 0


def _thickness(slices: list[Slice]) -> float:
    """mm; 0 if it is not stated."""
    return slices[0].number("SliceThickness") or slices[0].number("SpacingBetweenSlices") or 0


def _images(slices: list[Slice], refusal: InputError | None, notes: list[str]) -> list[Series]:
    """One image of all echoes, or one for each."""
    identity = of_series(slices)
    if not identity.is_other and is_localizer(slices):
        identity = something_else("localizer", "is a localizer (its slices are not parallel)")
    if identity.kind in UNREADABLE:
        refusal = InputError(identity.reason, remedy="Choose another series.")
        return [_series(identity, refusal, [slices], notes)]
    refusal = refusal or _fault(slices)
    echoes = _by_echo(slices)
    identities = [identity if identity.is_other else of_series(echo) for echo in echoes]
    same_size = len({len(echo) for echo in echoes}) == 1
    if len(echoes) == 1 or ({one.contrast for one in identities} == {"T1w"} and same_size):
        return [_series(identities[0], refusal, echoes, notes)]
    pairs = zip(identities, echoes, strict=True)
    return [_series(one, refusal, [echo], notes) for one, echo in pairs]


def _fault(slices: list[Slice]) -> InputError | None:
    """Why the images of a series cannot be read."""
    known: dict[str, tuple[str, Slice]] = {}
    for part in slices:
        for keyword, value in part.patient.items():
            expected, other = known.setdefault(keyword, (value, part))
            if expected != value:
                return InputError(
                    f"its images are of several patients: {keyword} of {other.shown} and "
                    f"{part.shown} differ",
                    remedy="Leave out the images of other patients, or export the series again.",
                )
    if len({part.text("PhotometricInterpretation").upper() for part in slices}) > 1:
        return InputError(
            "its images differ in PhotometricInterpretation",
            remedy="Export them all as plain greyscale (MONOCHROME2).",
        )
    for keyword, plain in (("RescaleSlope", 1), ("RescaleIntercept", 0)):
        bare = [part for part in slices if not part.text(keyword)]
        if bare and any(part.number(keyword) not in (None, 0, plain) for part in slices):
            return InputError(
                f"{keyword} is missing in {len(bare)} of {len(slices)} images ({bare[0].shown}), "
                f"and is not {plain} in the others",
                remedy="Export the series again.",
            )
    faults = {part.file: part.fault for part in slices if part.fault is not None}
    if not faults:
        return None
    files = len({part.file for part in slices})
    first = next(iter(faults.values()))
    if files == 1:
        return first
    message = f"{first.what} ({len(faults)} of {files} files)"
    return InputError(message, path=first.path, remedy=first.remedy)


def _other_scales(slices: Sequence[Slice]) -> list[str]:
    """A note if some images have another intensity scale than most. Programs that scale every image
    to its own range give nearly all of them different ones."""
    scales = [
        (part.number("RescaleSlope") or 1.0, part.number("RescaleIntercept") or 0.0)
        for part in slices
    ]
    usual, count = Counter(scales).most_common(1)[0]
    others = [n for n, scale in enumerate(scales) if not np.allclose(scale, usual, _SAME_SCALE)]
    if not others or count <= len(slices) / 2:
        return []
    first = others[0]
    return [
        f"{counted(len(others), 'image has', 'images have')} another RescaleSlope or "
        f"RescaleIntercept than the others ({slices[first].shown}: {scales[first][0]:g} and "
        f"{scales[first][1]:g}, not {usual[0]:g} and {usual[1]:g}): intensities may be wrong there"
    ]


def _must_be_one_acquisition(slices: Sequence[Slice]) -> None:
    for keyword in ("SeriesNumber", "RepetitionTime", "InversionTime", "FlipAngle"):
        found = {value for part in slices if (value := part.number(keyword)) is not None}
        varying = 0 if keyword == "SeriesNumber" else _VARYING
        if found and max(found) - min(found) > varying * max(found):
            raise InputError(
                f"its images are of several acquisitions ({keyword} from {min(found):g} to "
                f"{max(found):g})",
                remedy="Put the images of each into a folder of its own, or choose another series.",
            )


def _by_echo(slices: list[Slice]) -> list[list[Slice]]:
    """Slices by echo time, the shortest first; all in one list if an echo time is missing."""
    times = [time for part in slices if (time := part.number("EchoTime")) is not None]
    if len(times) < len(slices):
        return [slices]
    echoes: dict[float, list[Slice]] = {}
    for time, part in sorted(zip(times, slices, strict=True), key=lambda item: item[0]):
        if not echoes or time - max(echoes) > _ECHO_APART_MS:
            echoes[time] = []
        echoes[max(echoes)].append(part)
    return list(echoes.values())


def _series(
    identity: Identity, refusal: InputError | None, echoes: list[list[Slice]], notes: list[str]
) -> Series:
    first = echoes[0][0]
    assumed = list(dict.fromkeys(note for part in echoes[0] for note in part.assumed))
    if identity.is_doubtful and identity.contrast != "PDw":  # the first echo of a T2w series
        assumed.append(f"is taken for {identity.contrast}: {identity.reason}")
    assumed += other_body_part(first.text("BodyPartExamined"))
    assumed += [note for echo in echoes for note in _other_scales(echo)]
    frames = {part.text("FrameOfReferenceUID") for part in echoes[0]} - {""}
    if len(frames) > 1:
        assumed.append(f"its images name {len(frames)} frames of reference, taken as one")
    geometry = None
    if refusal is None:
        try:
            for stack in echoes:
                _must_be_one_acquisition(stack)
            stacks = [arrange(stack) for stack in echoes]
            geometry = stacks[0]
            if any(
                stack.missing != geometry.missing
                or not np.allclose(stack.affine, geometry.affine, atol=1e-3)
                for stack in stacks
            ):
                raise InputError(
                    "its echoes have different geometries", remedy="Choose another series."
                )
        except InputError as error:
            refusal, geometry = error, None
    if geometry is not None:
        assumed += thinned(first, geometry)
    number = first.number("SeriesNumber")
    parts = echoes[0]
    marks = {part.text(keyword) for part in parts for keyword in _MARKS}
    return Series(
        uid=first.text("SeriesInstanceUID"),
        study=first.text("StudyInstanceUID"),
        number=None if number is None else int(number),
        part=None,
        description=first.text("SeriesDescription"),
        identity=identity,
        synthetic=any(part.text("SyntheticData").upper() == "YES" for part in parts)
        or any(map(synthetic_in, marks)),
        echoes=tuple(tuple(stack) for stack in echoes),
        geometry=geometry,
        refusal=refusal,
        notes=(*assumed, *notes),
    )
