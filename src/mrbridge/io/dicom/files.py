"""Finding and reading DICOM files in a folder or a zip, whatever their names.

A zip is never unpacked. Its members are read in place, so that their paths are never used as paths
on disk.
"""

from __future__ import annotations

import io
import logging
import os
import re
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import pydicom
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from mrbridge.errors import InputError, about
from mrbridge.io.formats import starts_as_dicom, walk
from mrbridge.io.remote import fetch, not_fetched
from mrbridge.quiet import Shared, at_level, without_warnings

MAX_FILES = 200_000  # that are searched; a study has fewer
MAX_FILE_BYTES = 2**32  # of a file that is opened
MAX_INFLATED = 2**30  # bytes that a deflated file may hold
NO_DICOM = "is not a DICOM file"

_CHUNK = 1 << 20
_MAGIC_END = 132  # PS3.10, 7.1: a preamble of 128 bytes, then DICM
_UNDEFINED = 0xFFFFFFFF
_PLAIN = re.compile(r"^(DICOM|PA|ST|SE|IMG|IM|MR|I|S|Z)?[-_.]?[0-9._-]*(\.(dcm|ima|img))?$", re.I)
_ITEM, _END_OF_SEQUENCE = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_JPEG, _JPEG_2000 = b"\xff\xd8\xff", b"\xff\x4f\xff\x51"  # how their images begin
_RATIO = 100  # images compress to a half or a tenth; blank ones, which are small, to a thousandth
_SMALL = 1 << 26  # bytes: smaller files may have any ratio


class _Bounded(io.BufferedReader):
    """A file that never allocates more than it holds, whatever length an element claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes."""
        if size is not None and size > _CHUNK:
            size = min(size, max(0, os.fstat(self.fileno()).st_size - self.tell()))
        return super().read(size)


@dataclass(frozen=True)
class PixelData:
    """How the pixels of a file are stored, as far as is known before decoding.

    Attributes:
        size: bytes that the element claims; None if the pixels are compressed.
        frames: compressed frames in the file; None if unknown.
        whole: whether the file holds all that the element claims.
    """

    size: int | None
    frames: int | None
    whole: bool


@dataclass(frozen=True)
class DicomFile:
    """A file of a folder, or a member of a zip.

    Its methods raise an InputError if it is not a DICOM file, is damaged, or cannot be read.

    Attributes:
        path: the file, or the zip.
        member: its name in the zip.
        size: bytes, unpacked.
    """

    path: Path
    size: int
    member: str | None = None
    _archive: zipfile.ZipFile | None = field(default=None, repr=False, compare=False)

    @property
    def shown(self) -> Path:
        """The path that a message names."""
        return self.path if self.member is None else self.path / self.member

    def below(self, root: Path) -> str:
        """Its name in a folder or zip."""
        return self.member or self.path.relative_to(root).as_posix()

    def open(self) -> IO[bytes]:
        """Open it for reading."""
        if self._archive is None or self.member is None:
            return _Bounded(io.FileIO(self.path))
        return self._archive.open(self.member)

    def header(self, tags: Sequence[str | tuple[int, int]]) -> Dataset:
        """The named tags of the header."""
        return self.header_and_pixels(tags)[0]

    def header_and_pixels(
        self, tags: Sequence[str | tuple[int, int]]
    ) -> tuple[Dataset, PixelData | None]:
        """The header as from `header`, and how the pixels are stored."""
        with self.guarded(), self.open() as file:
            # A member of a zip is read to its end, where its CRC is checked.
            source = file if self.member is None else io.BytesIO(file.read())
            _refuse_inflating(source, self)
            header = parse(source, stop_before_pixels=True, specific_tags=[Tag(t) for t in tags])
            return header, _pixel_data(source, header, self.size)

    def read(self) -> bytes:
        """Its bytes."""
        with self.guarded(), self.open() as file:
            return file.read()

    def whole(self, data: bytes) -> Dataset:
        """Its dataset with pixels, from its bytes."""
        with self.guarded():
            source = io.BytesIO(data)
            _refuse_inflating(source, self)
            return parse(source)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Within it, all errors of parsing are errors of this file."""
        if self.size > MAX_FILE_BYTES:
            raise InputError(f"has {self.size} bytes, over {MAX_FILE_BYTES}", path=self.shown)
        try:
            with calm():
                yield
        except (InputError, MemoryError):
            raise
        except InvalidDicomError:
            raise InputError(NO_DICOM, path=self.shown, remedy="Leave it out.") from None
        except OSError as error:
            if (missing := not_fetched(self.path)) is not None:
                raise missing from None
            raise damaged(self, f"cannot be read ({error.strerror or 'damaged'})") from None
        except Exception:
            # Parsers raise any exception on damage, and its message may contain a patient's data.
            raise damaged(self) from None


def parse(source: IO[bytes], **how: Any) -> Dataset:
    """A dataset, with or without a preamble; `how` holds the arguments for pydicom.

    Its file meta information always names a transfer syntax.

    Raises:
        InvalidDicomError: it is not a DICOM file.
    """
    start = source.tell()
    if not starts_as_dicom(source):
        raise InvalidDicomError
    source.seek(start)
    dataset = pydicom.dcmread(source, force=True, **how)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        plain = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else plain
    elif not isinstance(dataset.file_meta.TransferSyntaxUID, UID):
        raise ValueError("its transfer syntax has another type than UI")
    return dataset


def _pixel_data(source: IO[bytes], header: Dataset, size: int) -> PixelData | None:
    """How the pixels are stored; the source is at their beginning. None if there are none, or if
    the whole file is compressed."""
    syntax = header.file_meta.TransferSyntaxUID
    if syntax == DeflatedExplicitVRLittleEndian:
        return None
    order: Literal["little", "big"] = "big" if syntax == ExplicitVRBigEndian else "little"
    element = source.read(12)
    tag = tuple(int.from_bytes(element[at : at + 2], order) for at in (0, 2))
    if tag != (0x7FE0, 0x0010) or len(element) < 12:
        return None
    if header.original_encoding[0]:
        length = int.from_bytes(element[4:8], order)
        source.seek(-4, os.SEEK_CUR)
    elif element[4:6] in (b"OB", b"OW", b"UN"):
        length = int.from_bytes(element[8:], order)
    else:
        return None
    if length == _UNDEFINED:
        return _compressed(source, syntax, size)
    return PixelData(length, None, source.tell() + length <= size)


def _compressed(source: IO[bytes], syntax: UID, size: int) -> PixelData:
    """How compressed pixels are stored (PS3.5, A.4): a table of offsets, then fragments.

    Frames are counted by the table; without one, by the fragments that begin as a JPEG or
    JPEG 2000 image does. Each frame of RLE is one fragment.
    """
    frames, offsets, first = 0, 0, True
    while len(item := source.read(8)) == 8:
        tag, length = item[:4], int.from_bytes(item[4:], "little")
        if tag == _END_OF_SEQUENCE:
            return PixelData(None, offsets or frames or None, True)
        if tag != _ITEM or source.tell() + length > size:
            break
        if first:
            offsets, first = length // 4, False
            source.seek(length, os.SEEK_CUR)
        else:
            start = source.read(min(4, length))
            source.seek(length - len(start), os.SEEK_CUR)
            frames += syntax == RLELossless or start[:3] == _JPEG or start == _JPEG_2000
    return PixelData(None, None, False)


def damaged(file: DicomFile, what: str = "is damaged or truncated") -> InputError:
    """The error for a truncated or invalid file."""
    return InputError(what, path=file.shown, remedy="Get a new copy.")


@contextmanager
def _calm() -> Iterator[None]:
    silent = at_level(logging.CRITICAL + 1, "pydicom")
    with config.disable_value_validation(), silent, without_warnings():
        yield


calm = Shared(_calm)
"""Silences pydicom's warnings about odd values, which may contain a patient's data."""


@contextmanager
def nameless(root: Path) -> Iterator[None]:
    """Let errors name files of a study, a folder or zip, by number if they may be named after the
    patient, as some scanners do; `IM0003`, UIDs and the path that the user named stay."""
    try:
        yield
    except InputError as error:
        if error.path is None or root not in error.path.parents:
            raise
        if all(_PLAIN.match(part) for part in error.path.relative_to(root).parts):
            raise
        number = next((n for n, one in enumerate(_paths(root), 1) if one == error.path), None)
        which = "one of its files" if number is None else f"file {number} by name"
        raise InputError(f"{error.what} ({which})", path=root, remedy=error.remedy) from None


def _paths(root: Path) -> Iterator[Path]:
    """The files of a folder or zip in the order of their names, as messages name them."""
    if root.is_dir():
        yield from walk(root)
        return
    with suppress(OSError, zipfile.BadZipFile, ValueError), zipfile.ZipFile(root) as archive:
        yield from (root / name for name in sorted(archive.namelist()) if not name.endswith("/"))


def find_files(
    path: str | Path, only: Collection[str] = ()
) -> Iterator[tuple[DicomFile, str | None]]:
    """The files below a folder or in a zip, or the one file, each with the reason why its first
    bytes are not those of a DICOM file; only those of the names `only` (`DicomFile.below`), if
    there are any. InputError if the path does not exist, or is a zip that cannot or should not be
    opened."""
    path = Path(path)
    fetch(path)
    if path.is_dir():
        files = _in_folder(path, only)
    elif path.suffix.lower() == ".zip" and path.is_file():
        files = _in_zip(path, only)
    elif path.is_file():
        files = iter([DicomFile(path, path.stat().st_size)])
    else:
        raise InputError("does not exist", path=path, remedy="Check the path.")
    for number, file in enumerate(files):
        if number >= MAX_FILES:
            raise InputError(
                f"holds more than {MAX_FILES} files", path=path, remedy="Name one study of it."
            )
        yield file, _reason_against(file)


def _reason_against(file: DicomFile) -> str | None:
    """A file that cannot be read is kept: reading it later reports the fault."""
    if file.member is None and not_fetched(file.path) is not None:
        return None
    try:
        with file.open() as stream:
            found = starts_as_dicom(stream)
            # A member's CRC is at its end: a flipped bit could move a slice to another series.
            while file.member is not None and stream.read(_CHUNK):
                pass
    except Exception:  # zipfile meets damage with many, a name that cannot be decoded among them
        return None
    return None if found else NO_DICOM


def _refuse_inflating(source: IO[bytes], file: DicomFile) -> None:
    """Refuse a deflated file that grows beyond the limit: pydicom inflates it in one go."""
    start = source.read(_MAGIC_END)
    if start[-4:] != b"DICM":
        source.seek(0)
    # PS3.10, 7.1: the group of the file meta information begins with its own length.
    length = int.from_bytes(source.read(12)[-4:], "little")
    meta = source.read(min(length, _CHUNK))
    if DeflatedExplicitVRLittleEndian.encode() in meta:
        inflater, grown = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while block := inflater.unconsumed_tail or source.read(_CHUNK):
            grown += len(inflater.decompress(block, _CHUNK))
            most = min(MAX_INFLATED, max(_SMALL, _RATIO * file.size))
            if grown > most:
                raise damaged(file, f"grows to more than {most} bytes")
    source.seek(0)


def _in_folder(root: Path, only: Collection[str]) -> Iterator[DicomFile]:
    for path in (root / name for name in sorted(only)) if only else walk(root):
        if only and not path.is_file():
            raise InputError("is gone", path=path, remedy="Do not change the folder meanwhile.")
        yield DicomFile(path, path.stat().st_size if path.exists() else 0)


def _in_zip(path: Path, only: Collection[str]) -> Iterator[DicomFile]:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        raise InputError(
            "is not a complete zip file", path=path, remedy="Get a new copy."
        ) from None
    members = archive.infolist()
    packed, whole = sum(m.compress_size for m in members), sum(m.file_size for m in members)
    if packed > path.stat().st_size or whole > max(16 * _SMALL, _RATIO * packed):
        raise InputError(
            f"promises {whole} bytes out of {path.stat().st_size}",
            path=path,
            remedy="It may be damaged; unpack it to be sure.",
        )
    for info in sorted(members, key=lambda info: info.filename):
        if info.is_dir() or (only and info.filename not in only):
            continue
        with about(path / info.filename):
            _refuse_bomb(info)
        if not Path(info.filename).name.startswith("."):
            yield DicomFile(path, info.file_size, info.filename, archive)


def _refuse_bomb(info: zipfile.ZipInfo) -> None:
    size, packed = info.file_size, info.compress_size
    if info.flag_bits & 1:
        raise InputError("is encrypted", remedy="Unpack the zip first.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        remedy = "Unpack the zip and name the folder."
        raise InputError("is packed in an unusual way", remedy=remedy)
    if size > min(MAX_FILE_BYTES, max(_SMALL, _RATIO * packed)):
        what = f"promises {size} bytes out of {packed}"
        raise InputError(what, remedy="The zip may be damaged.")
