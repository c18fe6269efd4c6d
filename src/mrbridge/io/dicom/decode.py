"""Decoding pixels, compressed ones in a separate process; files that hold one image twice.

The decoders of JPEG, JPEG-LS and JPEG 2000 are C and C++ code that ends the whole process on some
damaged files. In a process of their own they cannot crash mrbridge, and their memory and time are
limited. Run as a module, this is that process: it reads requests from standard input and answers on
standard output.
"""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array
from pydicom.uid import RLELossless

from mrbridge.errors import InputError
from mrbridge.io.dicom.files import DicomFile, calm, damaged, parse
from mrbridge.io.dicom.header import Slice
from mrbridge.reports import counted, some

_REQUEST = struct.Struct("<QQ")  # frame, bytes of the file (0: the one before)
_ANSWER = struct.Struct("<Q")  # bytes of the array; 0: it cannot be decoded
_MOST_BYTES = 4 << 30  # of memory
_MOST_SECONDS = 60.0

# Tags that must be equal in two files of one image, besides their pixels.
_PLACE = ("ImagePositionPatient", "ImageOrientationPatient")
_MATTER = (
    *_PLACE,
    *("StudyInstanceUID", "ImageType", "SeriesDescription", "PhotometricInterpretation"),
    *("PixelSpacing", "Rows", "Columns"),
    *("RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("EchoTime", "RepetitionTime", "InversionTime", "FlipAngle", "TemporalPositionIdentifier"),
)


class Decoder:
    """Decodes frames of one file after another; a context that ends the process, if it began."""

    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def decode(self, file: bytes, frame: int) -> NDArray[Any]:
        """Decode a frame, from 0, of a whole DICOM file; an empty one stands for the one before.
        ValueError if it is damaged, or takes too much memory or time."""
        # Not multiprocessing, which would import the user's script again.
        process = self._process = self._process or subprocess.Popen(
            [sys.executable, "-P", "-m", "mrbridge.io.dicom.decode"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        limit = threading.Timer(_MOST_SECONDS, process.kill)
        limit.start()
        try:
            process.stdin.write(_REQUEST.pack(frame, len(file)) + file)
            process.stdin.flush()
            (size,) = _ANSWER.unpack(_exactly(process.stdout, _ANSWER.size))
            if size:
                return np.load(io.BytesIO(_exactly(process.stdout, size)))
        except (OSError, EOFError):
            pass  # the process has ended
        finally:
            limit.cancel()
        raise ValueError("its pixels cannot be decoded")


def read_planes(
    slices: Sequence[Slice], shape: tuple[int, int]
) -> Iterator[tuple[int, NDArray[Any], NDArray[np.bool_] | None, bool]]:
    """The stored pixels of each slice; every file is opened once.

    Args:
        shape: of each image (rows, columns).

    Yields:
        The slice's index, its pixels (rows, columns), which of them are padding (None where the
        header names none), and whether others have bits beyond BitsStored, which are not read.
    """
    opened: DicomFile | None = None
    with Decoder() as decoder:
        for index, part in enumerate(slices):
            data = b""
            if opened is not part.file:
                opened = part.file
                data = opened.read()
                whole = opened.whole(data)
                if "PixelData" not in whole:
                    raise damaged(opened, "ends before its pixels")
                syntax = whole.file_meta.TransferSyntaxUID
                coded = syntax.is_encapsulated and syntax != RLELossless
            frame = part.frame or 0
            try:
                plane = decoder.decode(data, frame) if coded else pixel_array(whole, index=frame)
                padded = _padding(part, plane, None if coded else whole)
                excess = not coded and _has_excess(whole, plane, frame, padded)
            except MemoryError:
                raise
            except Exception:  # decoders raise all kinds of exceptions for damaged files
                raise damaged(part.file, "its pixels are damaged or truncated") from None
            if plane.shape != shape or plane.dtype.kind not in "iu":
                raise damaged(part.file, f"its pixels have the shape {plane.shape}, not {shape}")
            yield index, plane, padded, excess


def _padding(part: Slice, plane: NDArray[Any], whole: Dataset | None) -> NDArray[np.bool_] | None:
    """Which pixels are padding (PS3.3, C.7.5.1.1.2)."""
    allocated, signed = int(part.number("BitsAllocated") or 16), part.number("PixelRepresentation")
    ends = [
        _stored(part.header.get(keyword), allocated, bool(signed))
        for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")
    ]
    if ends[0] is None:
        return None
    low, high = sorted((ends[0], ends[0] if ends[1] is None else ends[1]))
    slope, photometric = part.number("RescaleSlope"), part.text("PhotometricInterpretation").upper()
    if low == 0 and not signed and (slope is None or slope > 0) and photometric != "MONOCHROME1":
        return None  # the darkest value that there is
    bits = int(part.number("BitsStored") or allocated)
    if whole is not None and not -(2**bits) // 2 <= low <= high < 2**bits:
        # The value uses bits beyond those of pixels, which decoding removes.
        kept = whole.BitsStored, whole.HighBit
        whole.BitsStored, whole.HighBit = allocated, allocated - 1
        plane = pixel_array(whole, index=part.frame or 0)
        whole.BitsStored, whole.HighBit = kept
    return (plane >= low) & (plane <= high)


def _has_excess(
    whole: Dataset, plane: NDArray[Any], frame: int, padded: NDArray[np.bool_] | None
) -> bool:
    """Whether pixels have bits beyond BitsStored that are neither those of an overlay (PS3.5,
    8.1.2) nor copies of the sign. Decoding removes them: values that are too large become small, or
    negative."""
    if whole.BitsStored == whole.BitsAllocated:
        return False
    overlays = (whole.get((group, 0x0102)) for group in range(0x6000, 0x6020, 2))
    if any(position is not None and position.value for position in overlays):
        return False
    differs = pixel_array(whole, index=frame, correct_unused_bits=False) != plane
    return bool((differs if padded is None else differs & ~padded).any())


def _stored(value: Any, bits: int, signed: bool) -> int | None:
    """A value as stored in pixels of `bits` bits, whatever its type; None if there is none."""
    if isinstance(value, bytes):
        value = int.from_bytes(value, "little") if value else None
    try:
        number = int(float(value))
    except (TypeError, ValueError, OverflowError):
        return None
    if not -(2**bits) // 2 <= number < 2**bits:
        return None
    number %= 2**bits
    return number - 2**bits if signed and number >= 2 ** (bits - 1) else number


def without_copies(slices: list[Slice]) -> tuple[list[Slice], list[Path], InputError | None]:
    """One of each image of a series, and the files that are copies of them.

    Returns:
        The slices that are kept; the copies; and why the series is refused, if two images with one
        SOPInstanceUID differ.
    """
    # Some exports give all images of a series one UID: these have different positions.
    alike: dict[str, list[list[Slice]]] = defaultdict(list)
    for parts in grouped(slices, lambda part: part.file):
        alike[repr((parts[0].uid, _tags(parts[0], _PLACE)))].append(parts)
    kept: list[Slice] = []
    differing: list[Slice] = []
    copies: list[Path] = []
    for first, *others in alike.values():
        kept += first
        for other in others:
            if _same_image(first, other):
                copies.append(other[0].file.shown)
            else:
                kept += other
                differing.append(other[0])
    if not differing:
        return kept, copies, None
    count = counted(len(differing), "image is", "images are")
    refusal = InputError(
        f"{count} present in two versions: one SOPInstanceUID, different pixels or headers "
        f"({some(part.shown for part in differing)})",
        path=differing[0].file.shown,
        remedy="Keep the right file of each, and remove the others.",
    )
    return kept, copies, refusal


def _same_image(one: list[Slice], other: list[Slice]) -> bool:
    """Whether two files hold the same image, by the tags that mrbridge uses and the pixels."""
    try:
        if one[0].file.size == other[0].file.size and one[0].file.read() == other[0].file.read():
            return True
        if one[0].patient != other[0].patient:
            return False
        if [_tags(part, _MATTER) for part in one] != [_tags(part, _MATTER) for part in other]:
            return False
        shape = int(one[0].number("Rows") or 0), int(one[0].number("Columns") or 0)
        planes = zip(read_planes(one, shape), read_planes(other, shape), strict=True)
        return all(np.array_equal(mine[1], yours[1]) for mine, yours in planes)
    except InputError:
        return False


def grouped(slices: list[Slice], key: Callable[[Slice], Hashable]) -> list[list[Slice]]:
    """Slices by a property, in the order in which its values come."""
    groups: dict[Hashable, list[Slice]] = defaultdict(list)
    for part in slices:
        groups[key(part)].append(part)
    return list(groups.values())


def _tags(part: Slice, keywords: tuple[str, ...]) -> list[Any]:
    return [part.numbers(keyword) or part.text(keyword) for keyword in keywords]


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until they end."""
    file = b""
    while True:
        try:
            frame, size = _REQUEST.unpack(_exactly(requests, _REQUEST.size))
        except EOFError:
            return
        file = _exactly(requests, size) if size else file
        answer = io.BytesIO()
        try:
            with calm():
                np.save(answer, pixel_array(parse(io.BytesIO(file)), index=frame))
        except Exception:  # decoders raise all kinds of exceptions for damaged files
            answer = io.BytesIO()
        answers.write(_ANSWER.pack(len(answer.getvalue())) + answer.getvalue())
        answers.flush()


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _bound_memory() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    except (ImportError, ValueError, OSError):
        pass  # not every system can


if __name__ == "__main__":
    _bound_memory()
    serve(sys.stdin.buffer, sys.stdout.buffer)
