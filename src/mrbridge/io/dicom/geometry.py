"""Where the slices of a series lie: their order, their spacing, what is missing, the affine.

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
from mrbridge.io.dicom.header import Slice

_PARALLEL = 1e-3  # direction cosines of one stack differ by less: they are written with few digits
_SAME_PLACE_MM = 1e-2
_UNEVEN = 0.02  # of the spacing: positions off the even grid by more are no stack
_STRAIGHT_MM = 0.1  # but never refused below this: some scanners write one decimal
_MOST_MISSING = 0.5  # of the places: with more, the smallest distance says nothing
_ALL_NAMED = 5  # gaps or duplicates named in one message


@dataclass(frozen=True)
class Geometry:
    """A stack of parallel slices.

    Attributes:
        order: for each place along the normal the index of its slice, None where it is missing.
        affine: (4, 4), from (column, row, place) to RAS+ mm.
        spacing: mm between columns, rows, places.
        positions: mm along the normal, one a place.
    """

    order: tuple[int | None, ...]
    affine: NDArray[np.float64]
    spacing: tuple[float, float, float]
    positions: tuple[float, ...]

    @property
    def missing(self) -> tuple[int, ...]:
        """Places without a slice."""
        return tuple(place for place, index in enumerate(self.order) if index is None)


def plane_of(part: Slice) -> NDArray[np.float64] | None:
    """The plane's axes, (3, 3) in LPS: along a row, along a column, the normal; None if unknown."""
    cosines = np.array(part.numbers("ImageOrientationPatient"))
    if cosines.shape != (6,):
        return None
    row, column = cosines[:3], cosines[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if min(lengths) < 0.9 or max(lengths) > 1.1 or abs(row @ column) > 0.01:
        return None
    normal = np.cross(row, column)
    return np.stack([row, column, normal / np.linalg.norm(normal)])


def arrange(slices: Sequence[Slice]) -> Geometry:
    """Put slices in order.

    Args:
        slices: those of one series, at least one, in any order.

    Raises:
        InputError: without a path: no position or spacing, planes that are not parallel, two
            slices at one place, or distances that are not even.
    """
    planes, places = _places(slices)
    row, column, normal = planes
    along = places @ normal
    order = np.argsort(along, kind="stable")
    _refuse_duplicates(slices, along, order)
    steps = _steps(along[order], slices)
    origin = places[order[0]]
    if len(slices) > 1:
        step = (places[order[-1]] - origin) / steps[-1]
        off = np.linalg.norm(places[order] - origin - steps[:, None] * step, axis=1)
        _refuse_uneven(off, along[order], steps, slices)
    else:
        step = normal * _thickness(slices[0])
    rows_mm, columns_mm = _pixel_spacing(slices)
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
    """Which slices are missing, in words that name their neighbours."""
    told = []
    runs = np.split(np.array(geometry.missing), np.flatnonzero(np.diff(geometry.missing) > 1) + 1)
    for run in runs[:_ALL_NAMED]:
        before, after = geometry.order[run[0] - 1], geometry.order[run[-1] + 1]
        assert before is not None
        assert after is not None
        at = f"{geometry.positions[run[0]]:.2f}"
        many = f"{len(run)} from {at}" if len(run) > 1 else f"the one at {at}"
        told.append(f"{many} mm, between {slices[before].shown} and {slices[after].shown}")
    more = f" and {len(runs) - _ALL_NAMED} more gaps" if len(runs) > _ALL_NAMED else ""
    count = len(geometry.missing)
    verb = "is" if count == 1 else "are"
    return f"{count} of {len(geometry.order)} slices {verb} missing ({'; '.join(told)}{more})"


def _places(slices: Sequence[Slice]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The common plane (3, 3) and each slice's position (slices, 3), LPS mm."""
    first = plane_of(slices[0])
    sizes = [(part.number("Columns"), part.number("Rows")) for part in slices]
    usual = Counter(sizes).most_common(1)[0][0]
    for part, size in zip(slices, sizes, strict=True):
        if part.text("StudyInstanceUID") != slices[0].text("StudyInstanceUID"):
            raise InputError(
                f"its files are of several studies ({slices[0].shown}, {part.shown})",
                remedy="Get them again from where they came.",
            )
        if size != usual:
            raise InputError(
                f"its images differ in size ({part.shown} is unlike the others)",
                remedy="Choose another series.",
            )
    places = []
    for part in slices:
        plane, place = plane_of(part), part.numbers("ImagePositionPatient")
        if plane is None or len(place) != 3 or max(map(abs, place)) > 1e6:
            raise InputError(
                f"{part.shown} does not say where it lies (position and orientation)",
                remedy="Export the original images.",
            )
        if first is None or np.abs(plane - first).max() > _PARALLEL:
            raise InputError(
                f"its slices are not parallel ({slices[0].shown}, {part.shown})",
                remedy="Choose another series.",
            )
        places.append(place)
    assert first is not None
    return first, np.array(places, np.float64)


def _pixel_spacing(slices: Sequence[Slice]) -> tuple[float, float]:
    """mm between rows and between columns."""
    found = {part.numbers("PixelSpacing") for part in slices}
    usable = [pair for pair in found if len(pair) == 2 and 1e-3 < min(pair) <= max(pair) < 1e3]
    if len(usable) != len(found):
        raise InputError("does not say its pixel spacing", remedy="Export the original images.")
    if np.ptp(np.array(usable), axis=0).max() > 1e-4:
        raise InputError("its pixel spacing varies", remedy="Choose another series.")
    return usable[0][0], usable[0][1]


def _thickness(part: Slice) -> float:
    """What stands for the spacing of a single slice."""
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        value = part.number(keyword)
        if value is not None and 1e-3 < abs(value) < 1e3:
            return abs(value)
    return 1.0


def _refuse_duplicates(
    slices: Sequence[Slice], along: NDArray[np.float64], order: NDArray[np.intp]
) -> None:
    twice = np.flatnonzero(np.diff(along[order]) < _SAME_PLACE_MM)
    if not twice.size:
        return
    places = len(slices) - twice.size
    if len(slices) == places * (len(slices) // places) and places > 1:
        raise InputError(
            f"holds {len(slices) // places} images at each of {places} places",
            remedy="Leave one of them, or choose another series.",
        )
    told = "; ".join(
        f"{' and '.join(dict.fromkeys(slices[k].shown for k in order[n : n + 2]))} "
        f"at {along[order[n]]:.2f} mm"
        for n in twice[:_ALL_NAMED]
    )
    noun = "slice is" if twice.size == 1 else "slices are"
    raise InputError(f"{twice.size} {noun} there twice ({told})", remedy="Remove one of each two.")


def _steps(sorted_mm: NDArray[np.float64], slices: Sequence[Slice]) -> NDArray[np.int64]:
    """The number of each slice's place, from 0: gaps leave numbers out."""
    apart = np.diff(sorted_mm)
    if not apart.size:
        return np.zeros(1, np.int64)
    # The mean of the distances near the smallest, since one alone is rounded.
    spacing = apart[apart < 1.5 * apart.min()].mean()
    counts = np.rint(apart / spacing)
    if counts.sum() * (1 - _MOST_MISSING) > len(slices):
        raise _uneven(apart)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _refuse_uneven(
    off: NDArray[np.float64],
    sorted_mm: NDArray[np.float64],
    steps: NDArray[np.int64],
    slices: Sequence[Slice],
) -> None:
    spacing = (sorted_mm[-1] - sorted_mm[0]) / steps[-1]
    if off.max() > max(_STRAIGHT_MM, _UNEVEN * spacing):
        raise _uneven(np.diff(sorted_mm))


def _uneven(apart: NDArray[np.float64]) -> InputError:
    return InputError(
        f"its slices are not evenly apart ({apart.min():.3g} to {apart.max():.3g} mm)",
        remedy="Choose another series.",
    )
