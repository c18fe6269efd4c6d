"""NIfTI-1 and NIfTI-2 in one file (`.nii`, `.nii.gz`).

The header is checked before anything is allocated, the file is read to its end so that the CRC of
a `.nii.gz` is checked, and a header is kept byte for byte where it describes the geometry.

Source: https://nifti.nimh.nih.gov/nifti-1 (nifti1.h) and /nifti-2.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import IO, Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray
from zlib_ng import gzip_ng, zlib_ng

from mrbridge.errors import InputError, OutputError
from mrbridge.io.atomic import atomic_path, suffix_of
from mrbridge.io.nifti_header import find_affine, header_for, mark, other_by_intent
from mrbridge.io.padding import partial_copy, refuse_wrapped, without_padding
from mrbridge.reports import counted
from mrbridge.threads import usable_cores
from mrbridge.volume import MAX_VOXELS, Volume, check_size

_CHUNK = 1 << 20
_SLACK = 1 << 20  # bytes after the voxels that are read through; more is not a NIfTI file
_LEAST_EXCESS = 4096  # fewer bytes after the voxels may pad the file to whole blocks
_DEFLATE_LIMIT = 1032  # the most that deflate can compress (zlib's technical details)
_GZIP, _MOST_LAYERS = b"\x1f\x8b", 2  # RFC 1952, 2.3.1
_GZIP_ERRORS: tuple[Any, ...] = EOFError, zlib_ng.error, gzip_ng.BadGzipFile
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
_BLOCK = 4 << 20  # bytes that are compressed at once: always as many, for equal files of equal data
_LEVEL = 2  # of zlib-ng; files are as small as with level 1 of zlib
# Deflate, no name and no time, fastest algorithm, unknown system (RFC 1952, section 2.3).
_GZIP_HEADER = bytes((0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 4, 255))


class _Gzip(gzip_ng.GzipNGFile):
    """A layer of gzip of at most `limit` bytes: it may consist of endless empty members."""

    limit = _SLACK

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() > self.limit:
            raise _damaged("holds far more than its header promises")
        return super().read(size)


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

    @property
    def most_bytes(self) -> int:
        """The most bytes of a decompressed layer: gzip makes noise only slightly larger."""
        return self.end + self.end // 100 + _SLACK


@dataclass(frozen=True)
class _File:
    """An open file whose header is checked.

    Attributes:
        content: its content, decompressed.
        layers: of gzip, the outermost first; empty if it is not compressed.
    """

    content: IO[bytes]
    layers: list[_Gzip]
    header: Any
    layout: _Layout


def read(path: Path, *, volume: int | None = None, assume: str | None = None) -> Volume:
    """Read a NIfTI file; see `mrbridge.io.read`.

    The sform is used where its code is above 0 and it is invertible, else the qform. Errors
    of the header that can be corrected in one way only are corrected in the header that is
    returned, with a note (`nifti_header`).
    """
    notes: list[str] = []
    header, voxels = _load(path, volume, notes)
    affine = find_affine(header, voxels.shape, assume, notes)
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).any():
        raise _damaged("has no finite voxel")
    refuse_wrapped(voxels)
    voxels, replaced = without_padding(voxels)
    notes.extend(replaced)
    synthetic, other = _is_synthetic(header), other_by_intent(header)
    return Volume(voxels, affine, header, synthetic=synthetic, other=other, notes=tuple(notes))


class Header(NamedTuple):
    """What a header says.

    Attributes:
        shape: (i, j, k), or (i, j, k, volumes) if there are several.
        spacing: mm along i, j, k, which is possible for a head.
        synthetic: whether it says that it is synthetic.
        other: why it is not a scan; None if nothing of the kind is known.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, float, float]
    synthetic: bool
    other: str | None


@np.errstate(all="ignore")
def read_header(path: Path) -> Header:
    """Read shape and spacing, and check the header and the size of the file.

    The voxels are not looked at. A `.nii.gz` is read to its end only if the size that its last
    bytes state is not the one that the header promises: it is truncated, or was made by an
    uncommon program.
    """
    with _opened(path) as file:
        header, layout = file.header, file.layout
        if file.layers and (len(file.layers) > 1 or _stated_size(path) != layout.end % 2**32):
            _go_to(layout.end, file.content)
            _drain(file)
    affine = find_affine(header, layout.shape[:3], None, [])
    check_size(layout.shape[:3], affine)
    i, j, k = np.linalg.norm(affine[:3, :3], axis=0)
    shape = layout.shape if layout.shape[3] > 1 else layout.shape[:3]
    spacing = float(i), float(j), float(k)
    return Header(shape, spacing, _is_synthetic(header), other_by_intent(header))


def write(
    volume: Volume,
    path: Path,
    synthetic_note: str | None,
    sidecar: Callable[[Path], Any] | None = None,
) -> None:
    """Write a NIfTI file; see `mrbridge.io.write`.

    A volume without a NIfTI header gets sform and qform with code 1 (scanner) and millimetres.
    Extensions of the source are not kept: they describe its acquisition, often by name.
    """
    if volume.affine is None:
        raise OutputError(
            "a 2D image has no place in space and cannot become NIfTI",
            remedy="Write it as .png or .tif.",
        )
    voxels = _writable(volume.voxels)
    try:
        header = header_for(volume, voxels)
    except HeaderDataError as error:
        raise OutputError(f"cannot be NIfTI ({error})") from None
    if synthetic_note is not None:
        mark(header, synthetic_note)
    with atomic_path(path, sidecar) as temporary:
        _save(header, voxels, temporary, compressed=suffix_of(path) == ".nii.gz")
        _, written = _load(temporary, None, [])
        if written.dtype != voxels.dtype or not np.array_equal(written, voxels):
            raise OutputError("was not read back as it was written", remedy="Check the disk.")


@contextmanager
def _opened(path: Path) -> Iterator[_File]:
    """Open a file, and the gzip file inside it: some archives compress files twice."""
    with open(path, "rb") as raw:
        content: Any = raw
        layers: list[_Gzip] = []
        try:
            while len(layers) < _MOST_LAYERS and content.read(2) == _GZIP:
                content.seek(0)
                content = _Gzip(fileobj=content, mode="rb")
                layers.append(content)
            content.seek(0)
            header = _read_header(content)
            layout = _read_layout(header)
            _scale(header)
            size = path.stat().st_size
            if layout.end > size * _DEFLATE_LIMIT ** len(layers):
                raise _damaged(f"its header promises {layout.end} bytes, more than it holds")
            if not layers:
                _refuse_excess(size, layout)
            for layer in layers:
                layer.limit = layout.most_bytes
            yield _File(content, layers, header, layout)
        except _GZIP_ERRORS as error:
            what = re.sub(r" \S+ != \S+", "", str(error))  # checksums, which say nothing
            raise _damaged(f"is damaged or truncated ({what})") from None


def _load(path: Path, volume: int | None, notes: list[str]) -> tuple[Any, NDArray[Any]]:
    """The header and the scaled voxels, shape (i, j, k)."""
    with _opened(path) as file:
        header, layout = file.header, file.layout
        index = _choose_volume(layout.shape[3], volume, other_by_intent(header))
        start = layout.offset + index * layout.volume_bytes
        data = _read_span(file.content, start, layout.volume_bytes)
        _drain(file)
    if len(file.layers) > 1:
        notes.append("it is compressed twice (a gzip file within a gzip file)")
    bits = int(header["bitpix"])
    if bits not in (0, 8 * layout.dtype.itemsize):
        notes.append(f"its bitpix is {bits}; its voxels are read as {layout.dtype.name}")
    voxels = np.frombuffer(data, layout.dtype).reshape(layout.shape[:3], order="F")
    notes.extend(partial_copy(voxels))
    return header, _scaled(voxels, header)


def _read_header(stream: IO[bytes]) -> Any:
    block = stream.read(348)
    for magic, kind in _ARCHIVES.items():
        if block.startswith(magic):
            raise InputError(f"is not a NIfTI file but {kind}", remedy="Unpack it.")
    if len(block) < 348:
        raise _damaged("is too short for a NIfTI header")
    for order, endianness in (("little", "<"), ("big", ">")):
        size = int.from_bytes(block[:4], order)  # type: ignore[arg-type]
        if size == 348 and block[344:348] == b"n+1\0":
            return nib.Nifti1Header(block, endianness=endianness, check=False)
        if size == 540 and block[4:8] == b"n+2\0":
            block += stream.read(192)
            if len(block) < 540:
                raise _damaged("is too short for a NIfTI-2 header")
            return nib.Nifti2Header(block, endianness=endianness, check=False)
    half = block[344:348] == b"ni1\0" or block[4:8] == b"ni2\0"
    raise InputError(
        "is not a NIfTI file" + (" in one piece: it is the header of a pair" if half else ""),
        remedy="Convert it to NIfTI in one file (.nii, .nii.gz).",
    )


def _is_synthetic(header: Any) -> bool:
    return bytes(header["descrip"].item()).lower().startswith(b"synthetic")


def _read_layout(header: Any) -> _Layout:
    count, code = int(header["dim"][0]), int(header["datatype"])
    if not 1 <= count <= 7:
        raise _damaged(f"its header has {count} axes")
    sizes = [int(size) for size in header["dim"][1 : count + 1]]
    if min(sizes) < 1:
        raise _damaged(f"its header has an axis of length {min(sizes)}")
    voxels = math.prod(sizes[:3])  # of one volume: no more are read
    if voxels > MAX_VOXELS:
        raise _damaged(f"its header promises {voxels} voxels, over {MAX_VOXELS}")
    try:
        dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError):
        raise _damaged(f"its data type {code} is unknown") from None
    if code in _NOT_REAL:
        raise InputError(
            f"holds {_NOT_REAL[code]}, not a real image",
            remedy="Save its magnitude or brightness as one real volume.",
        )
    if dtype.kind not in "iuf" or dtype.itemsize == 0:
        raise InputError(
            f"its data type {header.get_value_label('datatype')} ({code}) is not supported here",
            remedy="Convert it to float32 or int16.",
        )
    offset = float(header["vox_offset"])
    least = int(header.sizeof_hdr) + 4
    if not math.isfinite(offset) or (offset and offset < least) or offset > MAX_VOXELS:
        raise _damaged(f"its voxels begin at byte {offset:g}")
    shape = (*sizes[:3], *([1] * (3 - len(sizes))))
    return _Layout(int(offset) or least, (*shape, math.prod(sizes[3:])), dtype)  # type: ignore[arg-type]


def _choose_volume(count: int, volume: int | None, other: str | None) -> int:
    if volume is None and count > 1 and other:
        raise InputError(f"{other}, and holds {count} volumes", remedy="Name another scan.")
    if volume is None and count > 1:
        raise InputError(
            f"holds {count} volumes",
            remedy=f"Choose one with --volume 0..{count - 1} (of translate), or save it in a file "
            "of its own.",
        )
    index = volume or 0
    if not 0 <= index < count:
        raise InputError(f"has no volume {index}", remedy=f"Choose one of 0..{count - 1}.")
    return index


def _read_span(stream: IO[bytes], start: int, length: int) -> bytearray:
    _go_to(start, stream)
    data = bytearray()
    while len(data) < length:
        block = stream.read(min(_CHUNK, length - len(data)))
        if not block:
            raise _damaged(f"ends {counted(length - len(data), 'byte')} too early")
        data += block
    return data


def _go_to(place: int, stream: IO[bytes]) -> None:
    if stream.seek(place) < place:
        raise _damaged("ends before its voxels")


def _stated_size(path: Path) -> int:
    """The decompressed size of a gzip file of one member, modulo 2**32 (RFC 1952, 2.3.1)."""
    with open(path, "rb") as file:
        file.seek(-4, os.SEEK_END)
        return int.from_bytes(file.read(4), "little")


def _drain(file: _File) -> None:
    """Read all layers to their ends, where gzip keeps the CRC, but never far beyond the voxels."""
    for layer in reversed(file.layers):
        while layer.read(_CHUNK):
            pass
    if file.layers:
        _refuse_excess(file.content.tell(), file.layout)


def _refuse_excess(end: int, layout: _Layout) -> None:
    """Refuse a file that holds as much again as its header promises: size or data type are others,
    and its voxels would be read in part, or as nonsense."""
    if end > layout.most_bytes or end - layout.end >= max(layout.volume_bytes, _LEAST_EXCESS):
        raise _damaged(f"holds {end} bytes, and its header promises {layout.end}")


def _scale(header: Any) -> tuple[float | None, float | None]:
    """Slope and intercept of the intensities; None if the header has none."""
    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError as error:
        raise _damaged(f"its intensity scale is unusable ({error})") from None
    return slope, intercept


def _scaled(voxels: NDArray[Any], header: Any) -> NDArray[Any]:
    slope, intercept = _scale(header)
    native = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    if (slope, intercept) not in ((None, None), (1.0, 0.0)):
        # In double precision, so that an extreme scale neither wraps nor rounds.
        native = apply_read_scaling(native.astype(np.float64), slope, intercept)
    if native.dtype.kind == "f":
        return native.astype(np.float32, copy=False)
    return native


def _writable(voxels: NDArray[Any]) -> NDArray[Any]:
    if voxels.dtype.kind == "b":
        return voxels.astype(np.uint8)
    if voxels.dtype.kind in "iu":
        return voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    if voxels.dtype.kind == "f":
        voxels = voxels.astype(np.float32, copy=False)
        if np.isfinite(voxels).all():
            return voxels
    raise OutputError("its voxels are not finite real numbers")


def _save(header: Any, voxels: NDArray[Any], path: Path, *, compressed: bool) -> None:
    data = voxels.astype(header.get_data_dtype(), copy=False)
    parts = (header.binaryblock, bytes(4), data.tobytes(order="F"))
    with open(path, "wb") as file:
        file.writelines(gzipped(parts) if compressed else parts)


def gzipped(parts: Sequence[bytes]) -> Iterator[bytes]:
    """A gzip file of one member, in pieces; equal parts give equal files for any number of cores.

    Blocks are compressed separately and end on a byte boundary (`Z_SYNC_FLUSH` of zlib), so that
    they form one deflate stream, as in pigz (M. Adler). zlib-ng releases Python's lock, so that all
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
    yield struct.pack("<II", reduce(lambda crc, v: zlib_ng.crc32(v, crc), views, 0), size % 2**32)


def _deflated(block: memoryview, is_last: bool) -> bytes:
    stream = zlib_ng.compressobj(_LEVEL, zlib_ng.DEFLATED, -zlib_ng.MAX_WBITS)
    end = zlib_ng.Z_FINISH if is_last else zlib_ng.Z_SYNC_FLUSH
    return stream.compress(block) + stream.flush(end)


def _damaged(what: str) -> InputError:
    return InputError(what, remedy="Get a new copy of the file.")
