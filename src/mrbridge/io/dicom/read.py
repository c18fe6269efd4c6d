"""Reading a series as a `Volume`: slices are decoded, scaled and sorted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrbridge.errors import InputError, warn
from mrbridge.io.dicom.decode import read_planes
from mrbridge.io.dicom.files import calm, damaged
from mrbridge.io.dicom.geometry import Geometry, arrange, name_gaps
from mrbridge.io.dicom.header import Slice
from mrbridge.io.dicom.series import Series
from mrbridge.io.padding import partial_copy, refuse_wrapped
from mrbridge.reports import counted
from mrbridge.volume import MAX_VOXELS, Volume

_DARK_PERCENT = 5  # of the voxels: if these include 0, it is background


def read_series(series: Series, *, allow_gaps: bool = False) -> Volume:
    """Read a series.

    Args:
        allow_gaps: fill missing slices by linear interpolation between their neighbours, with a
            warning.

    Returns:
        Voxels (columns, rows, slices) from low to high along the normal, and the series as header.
        Integers without a rescale stay integers, everything else is float32. Echoes that are
        combined give the root of their mean square (van der Kouwe et al. 2008). Padding (PS3.3,
        C.7.5.1.1.2) is background, and MONOCHROME1 is inverted, so that bright is much signal.
    """
    path = series.slices[0].file.path
    if series.refusal is not None:
        raise series.refusal
    geometry, notes = series.stack, []
    if geometry.missing:
        gaps = f"series {series.label}: {name_gaps(geometry, series.slices)}"
        if not allow_gaps:
            raise InputError(
                gaps,
                path=path.parent if series.slices[0].file.member is None else path,
                remedy="Get the missing slices, or fill them by interpolation with --allow-gaps.",
            )
        notes.append(f"{gaps}; filled by interpolation")
    if len(series.echoes) > 1:
        notes.append(
            f"series {series.label}: {len(series.echoes)} echoes are combined (root mean square)"
        )
    with calm():
        voxels, done = _combined(series)
    notes += [f"series {series.label}: {note}" for note in (*series.notes, *done)]
    if geometry.missing:
        voxels = _filled(voxels, geometry)
    for note in notes:
        warn(note)
    return Volume(
        voxels,
        geometry.affine,
        series,
        series.contrast,
        synthetic=series.synthetic,
        other=series.identity.reason if series.identity.is_other else None,
        notes=tuple(notes),
    )


def _combined(series: Series) -> tuple[NDArray[Any], list[str]]:
    """Voxels of the only echo, or the root mean square of several; and notes."""
    if len(series.echoes) == 1:
        return _stack(series.slices)
    squares: NDArray[np.float32] | float = 0.0
    for slices in series.echoes:
        voxels, notes = _stack(slices)
        squares = squares + np.square(voxels, dtype=np.float32)
    return np.sqrt(squares / len(series.echoes), dtype=np.float32), notes


def _stack(slices: Sequence[Slice]) -> tuple[NDArray[Any], list[str]]:
    """Voxels (columns, rows, positions), 0 where a slice is missing; and notes."""
    first, geometry = slices[0], arrange(slices)
    rows, columns = int(first.number("Rows") or 0), int(first.number("Columns") or 0)
    shape = (columns, rows, len(geometry.order))
    if np.prod(shape, dtype=float) > MAX_VOXELS:
        raise damaged(first.file, f"promises a volume of {shape}, over {MAX_VOXELS} voxels")
    place_of = {index: place for place, index in enumerate(geometry.order) if index is not None}
    scales = [_scale(part) for part in slices]
    scaled = any(scale != (1.0, 0.0) for scale in scales)
    voxels: NDArray[Any] | None = None
    padding: NDArray[np.bool_] | None = None
    cut = 0
    for index, plane, padded, excess in read_planes(slices, (rows, columns)):
        cut += excess
        place = place_of[index]
        if scaled:
            slope, intercept = scales[index]
            plane = (plane * slope + intercept).astype(np.float32)
        if voxels is None:
            voxels = np.zeros(shape, plane.dtype)
        elif plane.dtype != voxels.dtype:
            voxels = voxels.astype(np.result_type(plane, voxels))
        voxels[:, :, place] = plane.T
        if padded is not None and padded.any():
            padding = np.zeros(shape, bool) if padding is None else padding
            padding[:, :, place] = padded.T
    assert voxels is not None
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
        raise damaged(first.file, "has intensities that are not finite")
    refuse_wrapped(voxels)
    notes = partial_copy(voxels)
    if cut:
        images = counted(cut, "image has", "images have")
        bits = f"the {first.number('BitsStored'):g} of BitsStored"
        notes.append(f"{images} pixels with bits beyond {bits}, which are not read")
        if first.number("PixelRepresentation"):
            notes[-1] += ", and are not copies of the sign: large values may have become negative"
    image = np.ones(shape, bool) if padding is None else ~padding
    image[:, :, list(geometry.missing)] = False
    if first.text("PhotometricInterpretation").upper() == "MONOCHROME1":
        if padding is not None and image.any():
            voxels[padding] = voxels[image].max()  # white, as it is shown, and soon black
        voxels = _inverted(voxels)
        notes.append("its intensities are stored inverted (MONOCHROME1) and are turned back")
    elif padding is not None and image.any() and _pad(voxels, padding, image):
        notes.append("pixels outside the image (PixelPaddingValue) are set to background")
    return voxels, notes


def _pad(voxels: NDArray[Any], padding: NDArray[np.bool_], image: NDArray[np.bool_]) -> bool:
    """Set padding to the darkest value of the image, in place; return whether this changed it.

    Background is 0 where that is dark too: interpolation leaves a few negative values.
    """
    found = voxels[image]
    darkest = found.min()
    padded = voxels[padding]
    if padded.min() >= 0 and padded.max() <= darkest:
        return False
    near_zero = darkest < 0 <= np.percentile(found, _DARK_PERCENT)
    background = 0 if near_zero else darkest
    voxels[padding] = background
    return bool((padded != background).any())


def _inverted(voxels: NDArray[Any]) -> NDArray[Any]:
    """The negative, its darkest voxel 0."""
    if voxels.dtype.kind == "f":
        return voxels.max() - voxels
    negative = voxels.max().astype(np.int64) - voxels
    return negative.astype(np.min_scalar_type(negative.max()))


def _scale(part: Slice) -> tuple[float, float]:
    """Rescale slope and intercept (PS3.3, C.11.1)."""
    slope, intercept = part.number("RescaleSlope"), part.number("RescaleIntercept")
    return (1.0 if slope is None else slope), (0.0 if intercept is None else intercept)


def _filled(voxels: NDArray[Any], geometry: Geometry) -> NDArray[np.float32]:
    """Interpolate missing places linearly between their nearest neighbours."""
    result = voxels.astype(np.float32)
    present = np.array([n for n, index in enumerate(geometry.order) if index is not None])
    for place in geometry.missing:
        before, after = present[present < place].max(), present[present > place].min()
        share = (place - before) / (after - before)
        result[:, :, place] = (1 - share) * result[:, :, before] + share * result[:, :, after]
    return result
