"""The geometry of a series: order and spacing of its slices, gaps, the affine.

Slices are sorted by their position along the normal of their plane, never by name or number
(PS3.3, C.7.6.2.1.1). DICOM's axes run to the patient's left, back and head (LPS); mrbridge's affine
runs to the right, front and head (RAS+).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrbridge.errors import InputError
from mrbridge.io.dicom.header import Slice, plane_of
from mrbridge.reports import counted, some

Array = NDArray[np.float64]

# Exports round direction cosines differently from slice to slice (dwv #1877, dcmstack #42).
# dcm2niix lets each differ by 1e-4, ITK by 1e-6. What counts is how far that moves a slice.
_PARALLEL = 0.5  # of a pixel: how far the centre of a slice may move if its plane is the common one
_MOST_PLANES = 8  # more are not distinguished
_STRAY = 0.25  # of the slices may be in another plane before a series counts as a localizer
_SAME_PLACE_MM = 0.05
_UNEVEN = 0.05  # of the spacing: positions off the even grid by more are not a stack
_OFF_LINE = 0.25  # of a pixel: the same within the plane
_STRAIGHT_MM = 0.1  # but never refused below this: some scanners write one decimal
_MOST_MISSING = 0.5  # of the places: with more, the smallest distance says nothing
_ALL_NAMED = 5  # gaps or duplicates named in one message


@dataclass(frozen=True)
class Geometry:
    """A stack of parallel slices.

    Attributes:
        order: for each position along the normal the index of its slice; None if it is missing.
        affine: (4, 4), from (column, row, place) to RAS+ mm.
        spacing: mm between columns, rows, places.
        positions: mm along the normal, one a place.
    """

    order: tuple[int | None, ...]
    affine: Array
    spacing: tuple[float, float, float]
    positions: tuple[float, ...]

    @property
    def missing(self) -> tuple[int, ...]:
        """Positions without a slice."""
        return tuple(place for place, index in enumerate(self.order) if index is None)


def planes_of(slices: Sequence[Slice]) -> list[list[int]]:
    """Slices by their plane, the largest group first: indices of each group.

    Two are in parallel planes if it moves the centre of a slice by less than half a pixel to take
    one plane for the other. A slice without an orientation is in no group, nor is one in a
    ninth plane.
    """
    groups: list[tuple[Array, list[int]]] = []
    for index, part in enumerate(slices):
        plane = plane_of(part)
        if plane is None:
            continue
        for common, members in groups:
            # Against the median of a group, slices differ half as much as against one another.
            if _tilt(part, plane, common) < 2 * _PARALLEL:
                members.append(index)
                break
        else:
            if len(groups) < _MOST_PLANES:  # radial slices all differ
                groups.append((plane, [index]))
    return sorted((members for _, members in groups), key=len, reverse=True)


def view_of(part: Slice) -> str:
    """`sagittal`, `coronal` or `axial`, the nearest to a slice; empty if it has no orientation."""
    plane = plane_of(part)
    names = ("sagittal", "coronal", "axial")
    return "" if plane is None else names[int(np.abs(plane[2]).argmax())]


def is_localizer(slices: Sequence[Slice]) -> bool:
    """Whether slices are in two to four planes, none of which holds nearly all of them."""
    groups = planes_of(slices)
    held = sum(map(len, groups))
    return 1 < len(groups) <= 4 and held - len(groups[0]) > _STRAY * held


def arrange(slices: Sequence[Slice]) -> Geometry:
    """Sort the slices of one series, at least one, by position.

    Raises:
        InputError: without a path: no position or spacing, planes that are not parallel, two
            slices at one place, or distances that are not even.
    """
    planes, places = _places(slices)
    row, column, normal = planes
    along = places @ normal
    order = np.argsort(along, kind="stable")
    rows_mm, columns_mm = _pixel_spacing(slices)
    _refuse_duplicates(slices, along, order)
    steps = _steps(along[order], slices)
    origin = places[order[0]]
    if len(slices) > 1:
        origin, step = _line(places[order], steps)
        off = places[order] - origin - steps[:, None] * step
        _refuse_uneven(off, normal, along[order], steps, min(rows_mm, columns_mm))
    else:
        step = normal * _thickness(slices[0])
    lps = np.eye(4)
    lps[:3] = np.stack([row * columns_mm, column * rows_mm, step, origin], axis=1)
    by_place: list[int | None] = [None] * (int(steps[-1]) + 1)
    for index, place in zip(order, steps, strict=True):
        by_place[int(place)] = int(index)
    first, length = float(along[order[0]]), float(np.linalg.norm(step))
    apart = float(step @ normal)
    return Geometry(
        tuple(by_place),
        np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps,
        (columns_mm, rows_mm, length),
        tuple(first + apart * place for place in range(len(by_place))),
    )


def name_gaps(geometry: Geometry, slices: Sequence[Slice]) -> str:
    """A message that names the missing slices and their neighbours."""
    named = []
    runs = np.split(np.array(geometry.missing), np.flatnonzero(np.diff(geometry.missing) > 1) + 1)
    for run in runs:
        before, after = geometry.order[run[0] - 1], geometry.order[run[-1] + 1]
        assert before is not None
        assert after is not None
        at = f"{geometry.positions[run[0]]:.2f}"
        many = f"{len(run)} from {at}" if len(run) > 1 else f"the one at {at}"
        named.append(f"{many} mm, between {slices[before].shown} and {slices[after].shown}")
    of = f"of {len(geometry.order)} slices"
    count = counted(len(geometry.missing), f"{of} is", f"{of} are")
    return f"{count} missing ({some(named, _ALL_NAMED, '; ')})"


def thinned(first: Slice, geometry: Geometry) -> list[str]:
    """A note if slices are a multiple of their stated distance apart: an export that left out every
    second one has no gap that stands out."""
    stated, thickness = first.number("SpacingBetweenSlices"), first.number("SliceThickness")
    # Some scanners state the gap between slices instead, which is less than their thickness.
    if not stated or not thickness or stated < (1 - _UNEVEN) * thickness:
        return []
    apart = geometry.spacing[2]
    every = round(apart / stated)
    if every < 2 or abs(apart / stated - every) > _UNEVEN * every:
        return []
    return [
        f"its slices are {apart:.3g} mm apart, and SpacingBetweenSlices is {stated:.3g} mm: it may "
        f"lack {counted(every - 1, 'slice')} of every {every}"
    ]


def _places(slices: Sequence[Slice]) -> tuple[Array, Array]:
    """The common plane (3, 3) and each slice's position (slices, 3), LPS mm."""
    sizes = [(part.number("Columns"), part.number("Rows")) for part in slices]
    usual = Counter(sizes).most_common(1)[0][0]
    for part, size in zip(slices, sizes, strict=True):
        if part.text("StudyInstanceUID") != slices[0].text("StudyInstanceUID"):
            raise InputError(
                f"its files are of several studies ({slices[0].shown}, {part.shown})",
                remedy="Export the series again.",
            )
        if size != usual:
            raise InputError(
                f"its images differ in size ({part.shown} is unlike the others)",
                remedy="Choose another series.",
            )
    places, planes = [], []
    for part in slices:
        plane, place = plane_of(part), part.numbers("ImagePositionPatient")
        if plane is None or len(place) != 3 or max(map(abs, place)) > 1e6:
            raise InputError(
                f"{part.shown} has no position or orientation", remedy="Export the original images."
            )
        planes.append(plane)
        places.append(place)
    common = _common_plane([planes[index] for index in planes_of(slices)[0]])
    stray = [
        part
        for part, plane in zip(slices, planes, strict=True)
        if _tilt(part, plane, common) > _PARALLEL
    ]
    if stray:
        named = some((part.shown for part in stray), _ALL_NAMED)
        kinds = ", ".join(sorted({view_of(part) for part in stray}))
        others = view_of(slices[planes_of(slices)[0][0]])
        raise InputError(
            f"its slices are not parallel: {len(stray)} of {len(slices)} are in another plane "
            f"({named}: {kinds}; the others: {others})",
            remedy="Choose another series, or remove the slices that do not belong to it.",
        )
    return common, np.array(places, np.float64)


def _common_plane(planes: Sequence[Array]) -> Array:
    """The median of planes (3, 3), whose axes are as they are written."""
    row, column, _ = np.median(planes, axis=0)
    normal = np.cross(row, column)
    return np.stack([row, column, normal / np.linalg.norm(normal)])


def _tilt(part: Slice, plane: Array, other: Array) -> float:
    """How far the centre of a slice moves, in pixels, if its plane is another one; it turns around
    its first pixel, whose position is known."""
    rows, columns = part.number("Rows") or 1, part.number("Columns") or 1
    spacing = part.numbers("PixelSpacing")
    rows_mm, columns_mm = spacing if len(spacing) == 2 and min(spacing) > 0 else (1.0, 1.0)
    across = (plane[0] - other[0]) * columns * columns_mm / 2
    down = (plane[1] - other[1]) * rows * rows_mm / 2
    # The signs of rounding errors are arbitrary: the worse of the two diagonals counts.
    moved = max(np.linalg.norm(across + down), np.linalg.norm(across - down))
    return float(moved) / min(rows_mm, columns_mm)


def _line(places: Array, steps: NDArray[np.int64]) -> tuple[Array, Array]:
    """The position of step 0 and the vector of a step that fit positions (n, 3) best."""
    offsets = steps - steps.mean()
    step = offsets @ places / (offsets @ offsets)
    return places.mean(axis=0) - steps.mean() * step, step


def _pixel_spacing(slices: Sequence[Slice]) -> tuple[float, float]:
    """mm between rows and between columns."""
    found = {part.numbers("PixelSpacing") for part in slices}
    usable = [pair for pair in found if len(pair) == 2 and 1e-3 < min(pair) <= max(pair) < 1e3]
    if len(usable) != len(found):
        raise InputError("does not state its pixel spacing", remedy="Export the original images.")
    size = np.array([slices[0].number("Rows") or 1, slices[0].number("Columns") or 1])
    spacing = np.median(usable, axis=0)
    # As with orientation: what counts is how far the centre of a slice moves.
    if (np.ptp(np.array(usable), axis=0) * size / 2 > _PARALLEL * spacing).any():
        raise InputError("its pixel spacing varies", remedy="Choose another series.")
    return float(spacing[0]), float(spacing[1])


def _thickness(part: Slice) -> float:
    """The spacing of a single slice."""
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        value = part.number(keyword)
        if value is not None and 1e-3 < abs(value) < 1e3:
            return abs(value)
    return 1.0


def _refuse_duplicates(slices: Sequence[Slice], along: Array, order: NDArray[np.intp]) -> None:
    twice = np.flatnonzero(np.diff(along[order]) < _SAME_PLACE_MM)
    if not twice.size:
        return
    places = len(slices) - twice.size
    if len(slices) == places * (len(slices) // places) and places > 1:
        times = {part.number("TemporalPositionIdentifier") for part in slices} - {None}
        of = f" ({len(times)} points in time)" if len(times) > 1 else ""
        raise InputError(
            f"holds {len(slices) // places} images at each of {places} positions{of}",
            remedy="Export one of them as a series of its own, or choose another series.",
        )
    named = [
        f"{' and '.join(dict.fromkeys(slices[k].shown for k in order[n : n + 2]))} "
        f"at {along[order[n]]:.2f} mm"
        for n in twice
    ]
    what = f"{counted(twice.size, 'slice is', 'slices are')} duplicated"
    raise InputError(f"{what} ({some(named, _ALL_NAMED, '; ')})", remedy="Remove one of each pair.")


def _steps(sorted_mm: Array, slices: Sequence[Slice]) -> NDArray[np.int64]:
    """The number of each slice's place, from 0: gaps leave numbers out."""
    apart = np.diff(sorted_mm)
    if not apart.size:
        return np.zeros(1, np.int64)
    # The mean of the distances near the smallest, since a single one is rounded.
    spacing = apart[apart < 1.5 * apart.min()].mean()
    counts = np.rint(apart / spacing)
    if counts.sum() * (1 - _MOST_MISSING) > len(slices):
        raise _uneven(apart)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _refuse_uneven(
    off: Array, normal: Array, sorted_mm: Array, steps: NDArray[np.int64], pixel_mm: float
) -> None:
    """Refuse positions (n, 3) that are off their line, along it or across it."""
    spacing = (sorted_mm[-1] - sorted_mm[0]) / steps[-1]
    along = off @ normal
    if np.abs(along).max() > max(_STRAIGHT_MM, _UNEVEN * spacing):
        raise _uneven(np.diff(sorted_mm))
    off_line = float(np.linalg.norm(off - along[:, None] * normal, axis=1).max())
    if off_line > max(_STRAIGHT_MM, _OFF_LINE * pixel_mm):
        raise InputError(
            f"its slices are not on one line ({off_line:.3g} mm off it)",
            remedy="Choose another series.",
        )


def _uneven(apart: Array) -> InputError:
    return InputError(
        f"its slices are not evenly spaced ({apart.min():.3g} to {apart.max():.3g} mm)",
        remedy="Choose another series.",
    )
