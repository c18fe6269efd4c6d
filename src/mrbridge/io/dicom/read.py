"""From a series to a `Volume`: pixels decoded slice by slice, scaled, in their order."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import UID, RLELossless

from mrbridge.errors import InputError, MrbridgeWarning
from mrbridge.io.dicom.decode import Decoder
from mrbridge.io.dicom.files import DicomFile, calm, damaged
from mrbridge.io.dicom.geometry import Geometry, arrange, name_gaps
from mrbridge.io.dicom.header import Slice
from mrbridge.io.dicom.series import Series
from mrbridge.io.safety import MAX_VOXELS
from mrbridge.volume import Volume


@dataclass(frozen=True, eq=False)
class DicomHeader:
    """What a derived series must know of its source.

    Attributes:
        series: the source.
        geometry: where its slices lie.
        filled: places whose slice was missing and was interpolated.
    """

    series: Series
    geometry: Geometry
    filled: tuple[int, ...]


def read_series(series: Series, *, allow_gaps: bool = False) -> Volume:
    """Read a series.

    Args:
        series: one of a listing.
        allow_gaps: fill missing slices by linear interpolation between their neighbours, with a
            warning.

    Returns:
        Voxels (columns, rows, slices) from low to high along the normal; integers without a
        rescale stay integers, all else is float32. Echoes that are combined give the root of
        their mean square (van der Kouwe et al. 2008).

    Raises:
        InputError: the series is none that can be read, lacks slices, or a file of it is damaged
            or compressed in an unknown way.
    """
    path = series.slices[0].file.path
    if series.refusal is not None or series.geometry is None:
        raise series.refusal or InputError("has no geometry", path=path)
    geometry, notes = series.geometry, []
    if geometry.missing:
        told = f"series {series.label}: {name_gaps(geometry, series.slices)}"
        if not allow_gaps:
            raise InputError(
                told,
                path=path.parent if series.slices[0].file.member is None else path,
                remedy="Get the missing slices, or fill them by interpolation with --allow-gaps.",
            )
        notes.append(f"{told}; filled by interpolation")
    if len(series.echoes) > 1:
        notes.append(
            f"series {series.label}: {len(series.echoes)} echoes are combined (root mean square)"
        )
    with calm():
        voxels = _combined(series)
    if geometry.missing:
        voxels = _filled(voxels, geometry)
    for note in notes:
        warnings.warn(note, MrbridgeWarning, stacklevel=2)
    return Volume(
        voxels,
        geometry.affine,
        DicomHeader(series, geometry, geometry.missing),
        series.contrast,
        synthetic=series.synthetic,
        other=series.identity.reason if series.identity.is_other else None,
        notes=tuple(notes),
    )


def _combined(series: Series) -> NDArray[Any]:
    """Voxels of the echo that there is, or the root of the mean square of several."""
    if len(series.echoes) == 1:
        return _stack(series.slices, arrange(series.slices))
    squares = sum(
        np.square(_stack(slices, arrange(slices)), dtype=np.float32) for slices in series.echoes
    )
    return np.sqrt(squares / len(series.echoes), dtype=np.float32)


def _stack(slices: Sequence[Slice], geometry: Geometry) -> NDArray[Any]:
    """Voxels (columns, rows, places); places without a slice are 0."""
    first = slices[0]
    rows, columns = int(first.number("Rows") or 0), int(first.number("Columns") or 0)
    shape = (columns, rows, len(geometry.order))
    if np.prod(shape, dtype=float) > MAX_VOXELS:
        raise damaged(first.file, f"promises a volume of {shape}, over {MAX_VOXELS} voxels")
    place_of = {index: place for place, index in enumerate(geometry.order) if index is not None}
    scales = [_scale(part) for part in slices]
    scaled = any(scale != (1.0, 0.0) for scale in scales)
    voxels: NDArray[Any] | None = None
    for index, plane in _planes(slices, (rows, columns)):
        if scaled:
            slope, intercept = scales[index]
            plane = (plane * slope + intercept).astype(np.float32)
        if voxels is None:
            voxels = np.zeros(shape, plane.dtype)
        elif plane.dtype != voxels.dtype:
            voxels = voxels.astype(np.result_type(plane, voxels))
        voxels[:, :, place_of[index]] = plane.T
    assert voxels is not None
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
        raise damaged(first.file, "has intensities that are not finite")
    return voxels


def _planes(slices: Sequence[Slice], shape: tuple[int, int]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Each slice's index and pixels (rows, columns); every file is opened once."""
    opened: DicomFile | None = None
    with ExitStack() as stack:
        decoder: Decoder | None = None
        for index, part in enumerate(slices):
            if opened is not part.file:
                opened = part.file
                data = opened.read()
                whole = opened.whole(data)
                coded = _refuse_unreadable(part, whole)
                if coded and decoder is None:
                    decoder = stack.enter_context(Decoder())
            else:
                data = b""
            try:
                if coded and decoder is not None:
                    plane = decoder.decode(data, part.frame or 0)
                else:
                    plane = pixel_array(whole, index=part.frame or 0)
            except MemoryError:
                raise
            except Exception:  # decoders meet damage with any exception at all
                raise damaged(part.file, "its pixels are damaged or truncated") from None
            if plane.shape != shape or plane.dtype.kind not in "iu":
                raise damaged(part.file, f"its pixels have the shape {plane.shape}, not {shape}")
            yield index, plane


def _refuse_unreadable(part: Slice, whole: Dataset) -> bool:
    """Refuse what no decoder can do; whether one that is not written in Python must."""
    syntax = UID(str(whole.file_meta.get("TransferSyntaxUID", "")))
    if "PixelData" not in whole:
        raise damaged(part.file, "ends before its pixels")
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise InputError(
            f"is compressed as {syntax.name}, which cannot be decoded here",
            path=part.file.shown,
            remedy="Export it uncompressed.",
        )
    photometric = part.text("PhotometricInterpretation").upper()
    if photometric != "MONOCHROME2" or "ModalityLUTSequence" in part.header:
        kind = "a lookup table" if "ModalityLUTSequence" in part.header else photometric or "?"
        raise InputError(
            f"stores its intensities in an unusual way ({kind})",
            path=part.file.shown,
            remedy="Export it as plain grey (MONOCHROME2).",
        )
    return syntax.is_encapsulated and syntax != RLELossless


def _scale(part: Slice) -> tuple[float, float]:
    """Rescale slope and intercept (PS3.3, C.11.1)."""
    slope, intercept = part.number("RescaleSlope"), part.number("RescaleIntercept")
    if slope == 0:
        raise damaged(part.file, "its rescale slope is 0")
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
