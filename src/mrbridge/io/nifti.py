"""NIfTI-1 and NIfTI-2 in one file (`.nii`, `.nii.gz`).

The header is checked before anything is allocated, the file is read to its end so that the CRC of
a `.nii.gz` is checked, and a header goes back byte for byte where it says where the voxels lie.

Source: https://nifti.nimh.nih.gov/nifti-1 (nifti1.h) and /nifti-2.
"""

from __future__ import annotations

import gzip
import math
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, inv_ornt_aff
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from mrbridge.errors import InputError, MrbridgeWarning, OutputError, SettingsError
from mrbridge.io.gzipped import gzipped
from mrbridge.io.safety import MAX_VOXELS, atomic_path, suffix_of
from mrbridge.volume import Volume

_CHUNK = 1 << 20
_SLACK = 1 << 20  # bytes after the voxels that are read through; more is no NIfTI file
_DEFLATE_LIMIT = 1032  # the most that deflate can compress (zlib's technical details)
_MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 0.001}  # nifti1.h: metres, millimetres, micrometres
_ALIGNED_MM = 0.01  # qform and sform closer than this say the same


@dataclass(frozen=True)
class _Layout:
    """Where a file's voxels lie: bytes from its start, and the shape (i, j, k, volumes)."""

    offset: int
    shape: tuple[int, int, int, int]
    dtype: np.dtype[Any]

    @property
    def volume_bytes(self) -> int:
        return math.prod(self.shape[:3]) * self.dtype.itemsize

    @property
    def end(self) -> int:
        return self.offset + self.volume_bytes * self.shape[3]


def read(path: Path, *, volume: int | None = None, assume: str | None = None) -> Volume:
    """Read a NIfTI file; see `mrbridge.io.read`.

    sform is used where its code is above 0, else qform.

    Raises:
        InputError: truncated, damaged, oversized or unsupported.
        SettingsError: `assume` is no orientation.
    """
    header, voxels = _load(path, volume)
    notes: list[str] = []
    affine = _find_affine(header, voxels.shape, path, assume, notes)
    voxels = _finite(voxels, path, notes)
    for note in notes:
        warnings.warn(f"{path}: {note}", MrbridgeWarning, stacklevel=3)
    description = bytes(header["descrip"].item()).decode("latin-1")
    synthetic = description.lower().startswith("synthetic")
    return Volume(voxels, affine, header, synthetic=synthetic, notes=tuple(notes))


def write(volume: Volume, path: Path, synthetic_note: str | None) -> None:
    """Write a NIfTI file; see `mrbridge.io.write`.

    A volume without a NIfTI header gets sform and qform with code 1 (scanner) and millimetres.
    Extensions of the source are not kept: they describe its acquisition, often by name.

    Raises:
        OutputError: a picture, voxels that are not finite, or a place that cannot be written.
    """
    if volume.affine is None:
        raise OutputError(
            "a picture has no place in space and cannot become NIfTI",
            path=path,
            remedy="Write it as .png or .tif.",
        )
    voxels = _writable(volume.voxels, path)
    try:
        header = _header_for(volume, voxels)
    except HeaderDataError as error:
        raise OutputError(f"cannot be NIfTI ({error})", path=path) from None
    if synthetic_note is not None:
        mark(header, synthetic_note)
    with atomic_path(path) as temporary:
        _save(header, voxels, temporary, compressed=suffix_of(path) == ".nii.gz")
        _, written = _load(temporary, None)
        if written.dtype != voxels.dtype or not np.array_equal(written, voxels):
            raise OutputError(
                "did not come back as it was written", path=path, remedy="Check the disk."
            )


def _load(path: Path, volume: int | None) -> tuple[Any, NDArray[Any]]:
    """The header and the scaled voxels, shape (i, j, k)."""
    with open(path, "rb") as raw:
        size = path.stat().st_size
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = cast(IO[bytes], gzip.GzipFile(fileobj=raw) if compressed else raw)
        try:
            header = _read_header(stream, path)
            layout = _read_layout(header, path)
            most = size * _DEFLATE_LIMIT if compressed else size
            if layout.end > most:
                raise _damaged(f"its header promises {layout.end} bytes, more than it holds", path)
            index = _choose_volume(layout, volume, path)
            data = _read_span(
                stream, layout.offset + index * layout.volume_bytes, layout.volume_bytes, path
            )
            if compressed:
                _drain(stream, layout.end + _SLACK, path)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise _damaged(f"is damaged or truncated ({error})", path) from None
    voxels = np.frombuffer(data, layout.dtype).reshape(layout.shape[:3], order="F")
    return header, _scaled(voxels, header, path)


def _read_header(stream: IO[bytes], path: Path) -> Any:
    block = stream.read(348)
    if len(block) < 348:
        raise _damaged("is too short for a NIfTI header", path)
    for order, endianness in (("little", "<"), ("big", ">")):
        size = int.from_bytes(block[:4], order)  # type: ignore[arg-type]
        if size == 348 and block[344:348] == b"n+1\0":
            return nib.Nifti1Header(block, endianness=endianness, check=False)
        if size == 540 and block[4:8] == b"n+2\0":
            block += stream.read(192)
            if len(block) < 540:
                raise _damaged("is too short for a NIfTI-2 header", path)
            return nib.Nifti2Header(block, endianness=endianness, check=False)
    raise InputError(
        "is not a NIfTI file", path=path, remedy="Convert it to NIfTI in one file (.nii, .nii.gz)."
    )


def _read_layout(header: Any, path: Path) -> _Layout:
    count = int(header["dim"][0])
    if not 1 <= count <= 7:
        raise _damaged(f"its header has {count} axes", path)
    sizes = [int(size) for size in header["dim"][1 : count + 1]]
    if min(sizes) < 1:
        raise _damaged(f"its header has an axis of length {min(sizes)}", path)
    if math.prod(sizes) > MAX_VOXELS:
        raise _damaged(f"its header promises {math.prod(sizes)} voxels, over {MAX_VOXELS}", path)
    try:
        dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError):
        raise _damaged(f"its data type {int(header['datatype'])} is unknown", path) from None
    if dtype.fields is not None or dtype.kind not in "iuf" or dtype.itemsize == 0:
        raise InputError(
            "holds colours or complex numbers, not a real image",
            path=path,
            remedy="Save its magnitude or brightness as one real volume.",
        )
    offset = float(header["vox_offset"])
    least = int(header.sizeof_hdr) + 4
    if not math.isfinite(offset) or (offset and offset < least) or offset > MAX_VOXELS:
        raise _damaged(f"its voxels begin at byte {offset:g}", path)
    shape = (*sizes[:3], *([1] * (3 - len(sizes))))
    return _Layout(int(offset) or least, (*shape, math.prod(sizes[3:])), dtype)  # type: ignore[arg-type]


def _choose_volume(layout: _Layout, volume: int | None, path: Path) -> int:
    count = layout.shape[3]
    if volume is None and count > 1:
        raise InputError(
            f"holds {count} volumes", path=path, remedy=f"Choose one with --volume 0..{count - 1}."
        )
    index = volume or 0
    if not 0 <= index < count:
        raise InputError(
            f"has no volume {index}", path=path, remedy=f"Choose one of 0..{count - 1}."
        )
    return index


def _read_span(stream: IO[bytes], start: int, length: int, path: Path) -> bytearray:
    """`length` bytes from `start` on; the stream is behind the header when this begins."""
    _skip(stream, start - stream.tell(), path)
    data = bytearray()
    while len(data) < length:
        block = stream.read(min(_CHUNK, length - len(data)))
        if not block:
            raise _damaged(f"ends {length - len(data)} bytes too early", path)
        data += block
    return data


def _skip(stream: IO[bytes], count: int, path: Path) -> None:
    while count > 0:
        block = stream.read(min(_CHUNK, count))
        if not block:
            raise _damaged("ends before its voxels", path)
        count -= len(block)


def _drain(stream: IO[bytes], limit: int, path: Path) -> None:
    """Read to the end, where gzip keeps the CRC, but never beyond byte `limit`."""
    while stream.read(_CHUNK):
        if stream.tell() > limit:
            raise _damaged("holds far more than its header promises", path)


def _scaled(voxels: NDArray[Any], header: Any, path: Path) -> NDArray[Any]:
    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError as error:
        raise _damaged(f"its intensity scale is unusable ({error})", path) from None
    native = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    if (slope, intercept) not in ((None, None), (1.0, 0.0)):
        # In double precision, so that an extreme scale neither wraps nor rounds.
        native = apply_read_scaling(native.astype(np.float64), slope, intercept)
    if native.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return native.astype(np.float32, copy=False)
    return native


def _finite(voxels: NDArray[Any], path: Path, notes: list[str]) -> NDArray[Any]:
    if voxels.dtype.kind != "f":
        return voxels
    good = np.isfinite(voxels)
    bad = int(good.size - np.count_nonzero(good))
    if not bad:
        return voxels
    if bad == voxels.size:
        raise _damaged("has no finite voxel", path)
    low, high = voxels[good].min(), voxels[good].max()
    notes.append(f"{bad} voxels were NaN or infinite and were replaced")
    return np.nan_to_num(voxels, nan=0.0, posinf=float(high), neginf=float(low))


def _find_affine(
    header: Any, shape: tuple[int, ...], path: Path, assume: str | None, notes: list[str]
) -> NDArray[np.float64]:
    sform, qform = stored_affines(header)
    if sform is None and qform is None:
        if assume is None:
            raise InputError(
                "says nothing of its orientation (qform and sform are both 0)",
                path=path,
                remedy="If you know it, say --assume RAS (or LPS, ...).",
            )
        notes.append(f"has no orientation; {assume} was assumed")
        return _assumed_affine(header, shape, assume)
    affine = qform if sform is None else sform
    assert affine is not None
    if not is_invertible(affine):
        raise _damaged("its affine is singular or not finite", path)
    if sform is not None and qform is not None and is_invertible(qform):
        apart = _corner_distance(sform, qform, shape)
        if apart > _ALIGNED_MM:
            notes.append(f"qform and sform differ by {apart:.3g} mm; sform is used")
    return affine


def stored_affines(
    header: Any,
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """sform and qform of a NIfTI header, (4, 4) to RAS+ mm; None where the code is 0."""
    unit = _MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    millimetres = np.diag([unit, unit, unit, 1.0])
    sform = millimetres @ header.get_sform() if int(header["sform_code"]) > 0 else None
    qform = None
    if int(header["qform_code"]) > 0:
        plain = header.copy()
        if plain["pixdim"][0] not in (-1, 1):
            plain["pixdim"][0] = 1  # nifti1.h: 0 and anything odd mean 1
        try:
            qform = millimetres @ plain.get_qform()
        except (HeaderDataError, ValueError):
            qform = np.full((4, 4), np.nan)
    return sform, qform


def is_invertible(affine: NDArray[np.float64]) -> bool:
    """Whether the affine is finite and its axes span space."""
    if not np.isfinite(affine).all():
        return False
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() < 1e-6 or lengths.max() > 1e6:
        return False
    return bool(abs(np.linalg.det(affine[:3, :3] / lengths)) > 1e-4)


def _assumed_affine(header: Any, shape: tuple[int, ...], assume: str) -> NDArray[np.float64]:
    """Axes along `assume`, spacings of the header, the centre of the image at the origin."""
    code = assume.upper()
    pairs = ["LR", "PA", "IS"]
    if len(code) != 3 or any(sum(letter in pair for letter in code) != 1 for pair in pairs):
        raise SettingsError(
            f"'{assume}' is no orientation", remedy="Use three letters such as RAS or LPS."
        )
    spacing = np.abs(np.nan_to_num(np.array(header["pixdim"][1:4], float)))
    spacing[(spacing == 0) | (spacing > 1e6)] = 1.0
    # axcodes2ornt says which way the file's axes run; its inverse affine brings them to RAS.
    turn = np.linalg.inv(inv_ornt_aff(axcodes2ornt(tuple(code)), shape))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def _corner_distance(
    first: NDArray[np.float64], second: NDArray[np.float64], shape: tuple[int, ...]
) -> float:
    """The most that two affines part at the corners of an image, in mm."""
    corners = np.array(np.meshgrid(*[[0, size - 1] for size in shape])).reshape(3, -1)
    apart = (first - second) @ np.vstack([corners, np.ones(8)])
    return float(np.linalg.norm(apart[:3], axis=0).max())


def _writable(voxels: NDArray[Any], path: Path) -> NDArray[Any]:
    if voxels.dtype.kind == "b":
        return voxels.astype(np.uint8)
    if voxels.dtype.kind in "iu":
        return voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    if voxels.dtype.kind == "f":
        with np.errstate(over="ignore"):
            voxels = voxels.astype(np.float32, copy=False)
        if np.isfinite(voxels).all():
            return voxels
    raise OutputError("its voxels are not finite real numbers", path=path)


def _header_for(volume: Volume, voxels: NDArray[Any]) -> Any:
    assert volume.affine is not None
    if isinstance(volume.header, nib.Nifti1Header):  # Nifti2Header is one too
        header = volume.header.copy()
        header["magic"] = header.single_magic
    else:
        header = nib.Nifti1Header()
        header.set_data_shape(voxels.shape)
        header.set_xyzt_units("mm")
        _place(header, volume.affine)
    stated = tuple(int(size) for size in header["dim"][1 : int(header["dim"][0]) + 1])
    if (*stated, 1, 1)[:3] != voxels.shape or math.prod(stated) != voxels.size:
        header.set_data_shape(voxels.shape)
    present = [affine for affine in stored_affines(header) if affine is not None]
    if present and not np.array_equal(present[0], volume.affine):
        header.set_xyzt_units("mm")
        _place(header, volume.affine)
    header.set_data_dtype(voxels.dtype)
    header["vox_offset"] = int(header.sizeof_hdr) + 4
    header["scl_slope"], header["scl_inter"] = 1, 0
    return header


def _place(header: Any, affine: NDArray[np.float64]) -> None:
    header.set_qform(affine, code=1)  # also sets the spacings
    header.set_sform(affine, code=1)
    # A quaternion cannot shear: better no qform than one that contradicts the sform.
    _, qform = stored_affines(header)
    shape = tuple(header.get_data_shape())
    if qform is not None and _corner_distance(affine, qform, shape[:3]) > _ALIGNED_MM:
        header["qform_code"] = 0


def mark(header: Any, note: str) -> None:
    """Write the note; drop what only held for the source: its names, its display window, and what
    is in fields that nobody uses.

    Fields that a header of another kind does not have are passed over.
    """
    values = {"descrip": note.encode("ascii", "replace")[:79], "cal_min": 0, "cal_max": 0}
    values |= dict.fromkeys(("db_name", "aux_file", "intent_name", "data_type", "unused_str"), b"")
    values |= dict.fromkeys(("extents", "session_error", "glmax", "glmin"), 0)
    values["regular"] = b"r"
    for field, value in values.items():
        if field in header:  # NIfTI-2 has unused_str alone of what is unused
            header[field] = value


def _save(header: Any, voxels: NDArray[Any], path: Path, *, compressed: bool) -> None:
    data = voxels.astype(header.get_data_dtype(), copy=False)
    parts = (header.binaryblock, bytes(4), data.tobytes(order="F"))
    with open(path, "wb") as file:
        file.writelines(gzipped(parts) if compressed else parts)


def _damaged(what: str, path: Path) -> InputError:
    return InputError(what, path=path, remedy="Get the file again from where it came.")
