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
from collections.abc import Iterator
from contextlib import contextmanager
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
from mrbridge.io.padding import without_padding
from mrbridge.io.safety import MAX_VOXELS, atomic_path, suffix_of
from mrbridge.volume import Volume

_CHUNK = 1 << 20
_SLACK = 1 << 20  # bytes after the voxels that are read through; more is no NIfTI file
_DEFLATE_LIMIT = 1032  # the most that deflate can compress (zlib's technical details)
_GZIP, _MOST_LAYERS = b"\x1f\x8b", 2  # RFC 1952, 2.3.1
_ARCHIVES = {
    _GZIP: "a file that gzip compressed three times",
    b"PK\3\4": "a zip archive",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
}
_MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 0.001}  # nifti1.h: metres, millimetres, micrometres
_SHORTEST, _LONGEST = 1e-6, 1e6  # mm; a voxel of another size is an error
_LONGEST_QUATERNION = 1.0005  # four decimals make one so long
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

    The sform is used where its code is above 0 and it is invertible, else the qform. What the
    header gets wrong without doubt is corrected in the header that is returned, with a warning:
    see `_repair`.

    Raises:
        InputError: truncated, damaged, oversized or unsupported.
        SettingsError: `assume` is no orientation.
    """
    notes: list[str] = []
    header, voxels = _load(path, volume, notes)
    affine = _find_affine(header, voxels.shape, path, assume, notes)
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).any():
        raise _damaged("has no finite voxel", path)
    voxels, replaced = without_padding(voxels)
    notes.extend(replaced)
    for note in notes:
        warnings.warn(f"{path}: {note}", MrbridgeWarning, stacklevel=3)
    description = bytes(header["descrip"].item()).decode("latin-1")
    synthetic = description.lower().startswith("synthetic")
    return Volume(voxels, affine, header, synthetic=synthetic, notes=tuple(notes))


def read_header(path: Path) -> tuple[tuple[int, ...], tuple[float, float, float]]:
    """Read shape and spacing, and check all that the header tells, without reading the voxels.

    Returns:
        The shape, (i, j, k), or (i, j, k, volumes) where there are several; the spacing in mm
        along i, j, k.

    Raises:
        InputError: `read` would refuse this header.
    """
    with _opened(path) as stream:
        header = _read_header(stream.file, path)
        layout = _checked_layout(header, stream, path)
    affine = _find_affine(header, layout.shape[:3], path, None, [])
    i, j, k = np.linalg.norm(affine[:3, :3], axis=0)
    shape = layout.shape if layout.shape[3] > 1 else layout.shape[:3]
    return shape, (float(i), float(j), float(k))


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
        _, written = _load(temporary, None, [])
        if written.dtype != voxels.dtype or not np.array_equal(written, voxels):
            raise OutputError(
                "did not come back as it was written", path=path, remedy="Check the disk."
            )


@dataclass
class _Stream:
    """A file that is open, behind as many gzip layers as it has.

    Attributes:
        file: its content.
        layers: the gzip streams, the outermost first; empty where it is not compressed.
        limiter: what the inner of two layers reads from.
        size: bytes of the file.
    """

    file: IO[bytes]
    layers: list[IO[bytes]]
    limiter: _Limiter | None
    size: int


class _Limiter:
    """Passes a stream on as far as `limit` bytes: tiny gzip members can decompress to nothing."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream, self._path, self.limit = stream, path, _SLACK

    def read(self, size: int = -1) -> bytes:
        if self._stream.tell() > self.limit:
            raise _damaged("holds far more than its header promises", self._path)
        return self._stream.read(size)


@contextmanager
def _opened(path: Path) -> Iterator[_Stream]:
    """Open a file, and the gzip file within it: some archives compress what is compressed.

    Raises:
        InputError: it is damaged, here or while it is read.
    """
    with open(path, "rb") as raw:
        stream = _Stream(cast(IO[bytes], raw), [], None, path.stat().st_size)
        try:
            while len(stream.layers) < _MOST_LAYERS and stream.file.read(2) == _GZIP:
                stream.file.seek(0)
                source: Any = stream.file
                if stream.layers:
                    source = stream.limiter = _Limiter(stream.file, path)
                stream.file = cast(IO[bytes], gzip.GzipFile(fileobj=source, mode="rb"))
                stream.layers.append(stream.file)
            if len(stream.layers) < _MOST_LAYERS:
                stream.file.seek(0)
            yield stream
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise _damaged(f"is damaged or truncated ({error})", path) from None


def _load(path: Path, volume: int | None, notes: list[str]) -> tuple[Any, NDArray[Any]]:
    """The header and the scaled voxels, shape (i, j, k)."""
    with _opened(path) as stream:
        header = _read_header(stream.file, path)
        layout = _checked_layout(header, stream, path)
        index = _choose_volume(layout, volume, path)
        data = _read_span(
            stream.file, layout.offset + index * layout.volume_bytes, layout.volume_bytes, path
        )
        for layer in reversed(stream.layers):
            _drain(layer, _most_bytes(layout), path)
    if len(stream.layers) > 1:
        notes.append("it is compressed twice (a gzip file within a gzip file)")
    voxels = np.frombuffer(data, layout.dtype).reshape(layout.shape[:3], order="F")
    return header, _scaled(voxels, header, path)


def _checked_layout(header: Any, stream: _Stream, path: Path) -> _Layout:
    """The layout, if the file can hold what its header promises."""
    layout = _read_layout(header, path)
    _scale(header, path)
    if layout.end > stream.size * _DEFLATE_LIMIT ** len(stream.layers):
        raise _damaged(f"its header promises {layout.end} bytes, more than it holds", path)
    if stream.limiter is not None:
        stream.limiter.limit = _most_bytes(layout)
    return layout


def _most_bytes(layout: _Layout) -> int:
    """The most bytes that a layer of compression may give: gzip adds little to noise."""
    return layout.end + layout.end // 100 + _SLACK


def _read_header(stream: IO[bytes], path: Path) -> Any:
    block = stream.read(348)
    for magic, kind in _ARCHIVES.items():
        if block.startswith(magic):
            raise InputError(f"is not a NIfTI file but {kind}", path=path, remedy="Unpack it.")
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
    half = block[344:348] == b"ni1\0" or block[4:8] == b"ni2\0"
    raise InputError(
        "is not a NIfTI file" + (" in one piece: it is the header of a pair" if half else ""),
        path=path,
        remedy="Convert it to NIfTI in one file (.nii, .nii.gz).",
    )


def _read_layout(header: Any, path: Path) -> _Layout:
    count = int(header["dim"][0])
    if not 1 <= count <= 7:
        raise _damaged(f"its header has {count} axes", path)
    sizes = [int(size) for size in header["dim"][1 : count + 1]]
    if min(sizes) < 1:
        raise _damaged(f"its header has an axis of length {min(sizes)}", path)
    voxels = math.prod(sizes[:3])  # of one volume: no more are read
    if voxels > MAX_VOXELS:
        raise _damaged(f"its header promises {voxels} voxels, over {MAX_VOXELS}", path)
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


def _scale(header: Any, path: Path) -> tuple[float | None, float | None]:
    """Slope and intercept of the intensities; None where there are none."""
    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError as error:
        raise _damaged(f"its intensity scale is unusable ({error})", path) from None
    return slope, intercept


def _scaled(voxels: NDArray[Any], header: Any, path: Path) -> NDArray[Any]:
    slope, intercept = _scale(header, path)
    native = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    if (slope, intercept) not in ((None, None), (1.0, 0.0)):
        # In double precision, so that an extreme scale neither wraps nor rounds.
        native = apply_read_scaling(native.astype(np.float64), slope, intercept)
    if native.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return native.astype(np.float32, copy=False)
    return native


def _find_affine(
    header: Any, shape: tuple[int, ...], path: Path, assume: str | None, notes: list[str]
) -> NDArray[np.float64]:
    repairs = _repair(header, shape)
    stored = stored_affines(header)
    sform, qform = (form if form is not None and is_invertible(form) else None for form in stored)
    if sform is None and qform is None:
        if assume is None:
            raise InputError(
                _why_no_affine(header, stored),
                path=path,
                remedy="If you know its orientation, say --assume RAS (or LPS, ...).",
            )
        notes.append(f"has no orientation; {assume} was assumed")
        return _assumed_affine(header, shape, assume)
    if sform is None:
        assert qform is not None
        notes.extend(repairs["qform"])
        if stored[0] is not None:
            notes.append("its sform is singular or not finite; the qform is used")
            header["sform_code"] = 0  # so that every reader of the result finds the qform
        return qform
    notes.extend(repairs["sform"])
    if qform is not None:
        apart = _corner_distance(sform, qform, shape)
        if apart > _ALIGNED_MM:
            notes.append(f"qform and sform differ by {apart:.3g} mm; sform is used")
    elif stored[1] is not None:
        notes.append("its qform is singular or not finite; the sform is used")
        header["qform_code"] = 0
    return sform


def _why_no_affine(header: Any, stored: tuple[NDArray[np.float64] | None, ...]) -> str:
    if all(form is None for form in stored):
        return "says nothing of its orientation (qform and sform are both 0)"
    if (header["pixdim"][1:4] < 0).any():
        return "has a negative voxel size (pixdim), which some programs take for a mirror image"
    return "its affine is singular or not finite"


def _repair(header: Any, shape: tuple[int, ...]) -> dict[str, list[str]]:
    """Correct, in place, what can be meant in one way only; return notes for each form.

    A step along an axis of one voxel has no effect on where the voxels lie: where it is missing,
    it becomes 1 mm for the qform (as in SimpleITK), and the normal of the slice for the sform. A
    quaternion that rounding made longer than 1 is normalised, as in the reference code of NIfTI
    (nifti_quatern_to_mat44 of nifti1_io.c).
    """
    notes: dict[str, list[str]] = {"qform": [], "sform": []}
    single = [axis for axis in range(3) if shape[axis] == 1]
    if int(header["qform_code"]) > 0:
        for axis in single:
            step = abs(float(header["pixdim"][axis + 1]))
            usable = _SHORTEST < step < _LONGEST  # not NaN either
            if not (usable and header["pixdim"][axis + 1] > 0):
                header["pixdim"][axis + 1] = step if usable else 1
                notes["qform"].append(
                    f"its voxel size along axis {axis + 1}, which has one voxel, is unusable; "
                    f"{step if usable else 1:g} is used"
                )
        names = ("quatern_b", "quatern_c", "quatern_d")
        quaternion = np.array([float(header[name]) for name in names])
        length = float(np.linalg.norm(quaternion))
        if 1 < length < _LONGEST_QUATERNION and not _has_qform(header):
            for name, value in zip(names, quaternion / length, strict=True):
                header[name] = value
            notes["qform"].append(f"its quaternion is {length - 1:.1g} too long; it was normalised")
    if int(header["sform_code"]) > 0 and len(single) == 1:
        sform = header.get_sform()
        (axis,) = single
        others = [sform[:3, other] for other in range(3) if other != axis]
        normal = np.cross(*others) * (-1 if axis == 1 else 1)
        if not sform[:3, axis].any() and np.isfinite(normal).all() and normal.any():
            sform[:3, axis] = normal / np.linalg.norm(normal)
            header.set_sform(sform, int(header["sform_code"]))
            notes["sform"].append(
                "its sform has no step across its only slice; the normal of the slice is used"
            )
    return notes


def _has_qform(header: Any) -> bool:
    """Whether the quaternion is one that nibabel takes."""
    try:
        header.get_qform_quaternion()
    except (HeaderDataError, ValueError):
        return False
    return True


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
    if lengths.min() < _SHORTEST or lengths.max() > _LONGEST:
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
