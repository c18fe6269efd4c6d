"""NIfTI-1 and NIfTI-2 in one file (`.nii`, `.nii.gz`).

The header is checked before anything is allocated, the file is read to its end so that the CRC of
a `.nii.gz` is checked, and a header is kept byte for byte where it describes the geometry.

Source: https://nifti.nimh.nih.gov/nifti-1 (nifti1.h) and /nifti-2.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import IO, Any, cast

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from mrbridge.errors import InputError, MrbridgeWarning, OutputError
from mrbridge.io.atomic import atomic_path, suffix_of
from mrbridge.io.nifti_header import find_affine, header_for, mark
from mrbridge.io.padding import without_padding
from mrbridge.threads import usable_cores
from mrbridge.volume import MAX_VOXELS, Volume, check_size

_CHUNK = 1 << 20
_SLACK = 1 << 20  # bytes after the voxels that are read through; more is not a NIfTI file
_LEAST_EXCESS = 4096  # fewer bytes after the voxels may pad the file to whole blocks
_DEFLATE_LIMIT = 1032  # the most that deflate can compress (zlib's technical details)
_GZIP, _MOST_LAYERS = b"\x1f\x8b", 2  # RFC 1952, 2.3.1
_NOT_REAL = {  # nifti1.h
    **dict.fromkeys((32, 1792, 2048), "complex numbers"),
    **dict.fromkeys((128, 2304), "colours"),
}
_ARCHIVES = {
    _GZIP: "a file that gzip compressed three times",
    b"PK\3\4": "a zip archive",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
}
_BLOCK = 4 << 20
"""Bytes that are compressed at once: always the same, so that equal data give equal files."""

_GZIP_HEADER = bytes((0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 4, 255))
"""Deflate, no name and no time, fastest algorithm, unknown system (RFC 1952, section 2.3)."""


@dataclass(frozen=True)
class _Layout:
    """Where a file's voxels are: offset in bytes, and the shape (i, j, k, volumes)."""

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

    The sform is used where its code is above 0 and it is invertible, else the qform. Errors
    of the header that can be corrected in one way only are corrected in the header that is
    returned, with a warning (`nifti_header`).

    Raises:
        InputError: truncated, damaged, oversized or unsupported.
        SettingsError: `assume` is not an orientation.
    """
    notes: list[str] = []
    header, voxels = _load(path, volume, notes)
    affine = find_affine(header, voxels.shape, path, assume, notes)
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).any():
        raise _damaged("has no finite voxel", path)
    voxels, replaced = without_padding(voxels)
    notes.extend(replaced)
    for note in notes:
        warnings.warn(f"{path}: {note}", MrbridgeWarning, stacklevel=3)
    return Volume(voxels, affine, header, synthetic=_is_synthetic(header), notes=tuple(notes))


@np.errstate(all="ignore")
def read_header(path: Path) -> tuple[tuple[int, ...], tuple[float, float, float], bool]:
    """Read shape and spacing, and check the header and the size of the file.

    The voxels are not looked at. A `.nii.gz` is read to its end only if the size that its last
    bytes state is not the one that the header promises: it is truncated, or was made by an
    uncommon program.

    Returns:
        The shape, (i, j, k), or (i, j, k, volumes) if there are several; the spacing in mm
        along i, j, k; whether it says that it is synthetic.

    Raises:
        InputError: `read` would refuse this header, the file is truncated, or its size in mm
            cannot be that of a head.
    """
    with _opened(path) as stream:
        header = _read_header(stream.file, path)
        layout = _checked_layout(header, stream, path)
        if stream.layers and (len(stream.layers) > 1 or _stated_size(path) != layout.end % 2**32):
            _skip(stream.file, layout.end - stream.file.tell(), path)
            _drain(stream, layout, path)
    affine = find_affine(header, layout.shape[:3], path, None, [])
    check_size(layout.shape[:3], affine)
    i, j, k = np.linalg.norm(affine[:3, :3], axis=0)
    shape = layout.shape if layout.shape[3] > 1 else layout.shape[:3]
    return shape, (float(i), float(j), float(k)), _is_synthetic(header)


def write(
    volume: Volume,
    path: Path,
    synthetic_note: str | None,
    sidecar: Callable[[Path], Any] | None = None,
) -> None:
    """Write a NIfTI file; see `mrbridge.io.write`.

    A volume without a NIfTI header gets sform and qform with code 1 (scanner) and millimetres.
    Extensions of the source are not kept: they describe its acquisition, often by name.

    Raises:
        OutputError: a 2D image, voxels that are not finite, or a place that cannot be written.
    """
    if volume.affine is None:
        raise OutputError(
            "a 2D image has no place in space and cannot become NIfTI",
            path=path,
            remedy="Write it as .png or .tif.",
        )
    voxels = _writable(volume.voxels, path)
    try:
        header = header_for(volume, voxels)
    except HeaderDataError as error:
        raise OutputError(f"cannot be NIfTI ({error})", path=path) from None
    if synthetic_note is not None:
        mark(header, synthetic_note)
    with atomic_path(path, sidecar) as temporary:
        _save(header, voxels, temporary, compressed=suffix_of(path) == ".nii.gz")
        _, written = _load(temporary, None, [])
        if written.dtype != voxels.dtype or not np.array_equal(written, voxels):
            raise OutputError(
                "was not read back as it was written", path=path, remedy="Check the disk."
            )


@dataclass
class _Stream:
    """An open file and its layers of gzip.

    Attributes:
        file: its content.
        layers: the gzip streams, the outermost first; empty if it is not compressed.
        limiter: what the inner of two layers reads from.
        size: bytes of the file.
    """

    file: IO[bytes]
    layers: list[IO[bytes]]
    limiter: _Limiter | None
    size: int


class _Limiter:
    """A stream with at most `limit` bytes: a gzip file can contain endless empty members."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream, self._path, self.limit = stream, path, _SLACK

    def read(self, size: int = -1) -> bytes:
        if self._stream.tell() > self.limit:
            raise _damaged("holds far more than its header promises", self._path)
        return self._stream.read(size)


@contextmanager
def _opened(path: Path) -> Iterator[_Stream]:
    """Open a file, and the gzip file inside it: some archives compress files twice.

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
        _drain(stream, layout, path)
    if len(stream.layers) > 1:
        notes.append("it is compressed twice (a gzip file within a gzip file)")
    bits = int(header["bitpix"])
    if bits not in (0, 8 * layout.dtype.itemsize):
        notes.append(f"its bitpix is {bits}; its voxels are read as {layout.dtype.name}")
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
    if not stream.layers:
        _refuse_excess(stream.size, layout, path)
    return layout


def _most_bytes(layout: _Layout) -> int:
    """The most bytes of a decompressed layer: gzip makes noise only slightly larger."""
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


def _is_synthetic(header: Any) -> bool:
    return bytes(header["descrip"].item()).lower().startswith(b"synthetic")


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
    code = int(header["datatype"])
    if code in _NOT_REAL:
        raise InputError(
            f"holds {_NOT_REAL[code]}, not a real image",
            path=path,
            remedy="Save its magnitude or brightness as one real volume.",
        )
    if dtype.kind not in "iuf" or dtype.itemsize == 0:
        raise InputError(
            f"its data type {header.get_value_label('datatype')} ({code}) is not supported here",
            path=path,
            remedy="Convert it to float32 or int16.",
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
            f"holds {count} volumes",
            path=path,
            remedy=f"Choose one with --volume 0..{count - 1} (of translate), or save it in a file "
            "of its own.",
        )
    index = volume or 0
    if not 0 <= index < count:
        raise InputError(
            f"has no volume {index}", path=path, remedy=f"Choose one of 0..{count - 1}."
        )
    return index


def _read_span(stream: IO[bytes], start: int, length: int, path: Path) -> bytearray:
    """Read `length` bytes from `start`; the stream is at the end of the header."""
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


def _stated_size(path: Path) -> int:
    """The decompressed size of a gzip file of one member, modulo 2**32 (RFC 1952, 2.3.1)."""
    with open(path, "rb") as file:
        file.seek(-4, os.SEEK_END)
        return int.from_bytes(file.read(4), "little")


def _drain(stream: _Stream, layout: _Layout, path: Path) -> None:
    """Read all layers to their ends, where gzip keeps the CRC, but never far beyond the voxels."""
    for layer in reversed(stream.layers):
        while layer.read(_CHUNK):
            if layer.tell() > _most_bytes(layout):
                raise _damaged("holds far more than its header promises", path)
    if stream.layers:
        _refuse_excess(stream.file.tell(), layout, path)


def _refuse_excess(end: int, layout: _Layout, path: Path) -> None:
    """Refuse a file that holds as much again as its header promises: size or data type are others,
    and its voxels would be read in part, or as nonsense."""
    if end > _most_bytes(layout) or end - layout.end >= max(layout.volume_bytes, _LEAST_EXCESS):
        raise _damaged(f"holds {end} bytes, and its header promises {layout.end}", path)


def _scale(header: Any, path: Path) -> tuple[float | None, float | None]:
    """Slope and intercept of the intensities; None if the header has none."""
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


def _save(header: Any, voxels: NDArray[Any], path: Path, *, compressed: bool) -> None:
    data = voxels.astype(header.get_data_dtype(), copy=False)
    parts = (header.binaryblock, bytes(4), data.tobytes(order="F"))
    with open(path, "wb") as file:
        file.writelines(gzipped(parts) if compressed else parts)


def gzipped(parts: Sequence[bytes]) -> Iterator[bytes]:
    """A gzip file of one member, in pieces; equal parts give equal files on any machine.

    Blocks are compressed separately and end on a byte boundary (`Z_SYNC_FLUSH` of zlib), so that
    they form one deflate stream, as in pigz (M. Adler). zlib releases Python's lock, so that all
    processors work.
    """
    views = [memoryview(part) for part in parts]
    starts = [(view, start) for view in views for start in range(0, len(view), _BLOCK)]
    blocks = [view[start : start + _BLOCK] for view, start in starts] or [memoryview(b"")]
    is_last = [False] * (len(blocks) - 1) + [True]
    yield _GZIP_HEADER
    with ThreadPoolExecutor(usable_cores()) as pool:
        yield from pool.map(_deflated, blocks, is_last)
    size = sum(map(len, views))
    yield struct.pack("<II", reduce(lambda crc, v: zlib.crc32(v, crc), views, 0), size % 2**32)


def _deflated(block: memoryview, is_last: bool) -> bytes:
    stream = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return stream.compress(block) + stream.flush(zlib.Z_FINISH if is_last else zlib.Z_SYNC_FLUSH)


def _damaged(what: str, path: Path) -> InputError:
    return InputError(what, path=path, remedy="Get a new copy of the file.")
