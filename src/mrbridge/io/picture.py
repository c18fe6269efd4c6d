"""Pictures: PNG, TIFF, JPEG; 8 or 16 bit; grey, or colour with equal channels."""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from mrbridge.errors import InputError, MrbridgeError, OutputError
from mrbridge.io.safety import MAX_PICTURE_BYTES, MAX_PIXELS, atomic_path, suffix_of
from mrbridge.quiet import without_warnings
from mrbridge.volume import Volume

_FORMATS = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".jpg": "JPEG", ".jpeg": "JPEG"}
_DESCRIPTION = 270  # TIFF 6.0 and Exif: ImageDescription
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # TIFF 6.0: PhotometricInterpretation
_CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
_PNG_END = b"\0\0\0\0IEND\xaeB\x60\x82"  # PNG 1.2, 4.1.4: with its CRC
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG 1.2, 4.1.1: samples of a pixel by colour type
_BLOCK = 1 << 20
_TOO_LARGE = "Crop or shrink it; no slice is so large."
_PLAIN = {"LA": "L", "RGBA": "RGB"}  # JPEG knows no transparency


@dataclass(frozen=True)
class PictureHeader:
    """How a picture was stored.

    Attributes:
        format: PNG, TIFF or JPEG.
        mode: L (grey), LA, RGB or RGBA.
        depth: bits per channel, 8 or 16.
    """

    format: str
    mode: str
    depth: int

    @property
    def channels(self) -> int:
        """Numbers stored per pixel."""
        return _CHANNELS[self.mode]


def read(path: Path) -> Volume:
    """Read a picture; see `mrbridge.io.read`.

    Returns:
        Voxels uint8 or uint16, shape (rows, columns, 1); no affine; a `PictureHeader`.

    Raises:
        InputError: truncated, damaged, oversized, coloured, of several frames, or of another kind.
    """
    size = path.stat().st_size
    if size > MAX_PICTURE_BYTES:
        raise InputError(
            f"has {size} bytes, over {MAX_PICTURE_BYTES}", path=path, remedy=_TOO_LARGE
        )
    data = path.read_bytes()
    try:
        # Our own limit is lower than the one that Pillow warns of, and odd metadata of a TIFF is no
        # fault of its pixels.
        with without_warnings():
            _check_whole(data, path)
            with _open(data) as image:
                _check_kind(image, path)
                image.load()
                form = "JPEG" if image.format == "MPO" else str(image.format)
                note = _note(image)
                mode, pixels = _grey(image, path)
    except MrbridgeError:
        raise
    except UnidentifiedImageError:
        raise InputError(
            "is not a PNG, TIFF or JPEG picture", path=path, remedy="Get the file again."
        ) from None
    except Exception as error:  # Pillow's many parsers meet damage with any exception at all
        raise InputError(
            f"is damaged or truncated ({error})", path=path, remedy="Get the file again."
        ) from None
    header = PictureHeader(form, mode, 8 * pixels.dtype.itemsize)
    return Volume(pixels[:, :, None], None, header, synthetic=note.lower().startswith("synthetic"))


def write(volume: Volume, path: Path, synthetic_note: str | None) -> None:
    """Write a picture; see `mrbridge.io.write`. JPEG has quality 95 and loses a little.

    Raises:
        OutputError: several slices, 16 bit as JPEG, values that are not finite, or a place that
            cannot be written.
    """
    if volume.voxels.shape[2] != 1:
        raise OutputError(
            f"a volume of {volume.voxels.shape[2]} slices cannot become a picture",
            path=path,
            remedy="Write it as .nii.gz.",
        )
    form = _FORMATS[suffix_of(path)]
    header = _header_for(volume, form)
    if form == "JPEG" and header.depth != 8:
        raise OutputError("JPEG cannot hold 16 bit", path=path, remedy="Write it as .png or .tif.")
    pixels = _quantised(volume.voxels[:, :, 0], header.depth, path)
    image = _coloured(pixels, header.mode)
    with atomic_path(path) as temporary:
        image.save(temporary, form, **_options(form, synthetic_note))
        written = read(temporary).voxels[:, :, 0]
        same = written.shape == pixels.shape and written.dtype == pixels.dtype
        if not same or (form != "JPEG" and not np.array_equal(written, pixels)):
            raise OutputError(
                "did not come back as it was written", path=path, remedy="Check the disk."
            )


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=("PNG", "TIFF", "JPEG"))


def _check_whole(data: bytes, path: Path) -> None:
    with _open(data) as image:
        if image.width * image.height > MAX_PIXELS:
            raise InputError(
                f"has {image.width} x {image.height} pixels, over {MAX_PIXELS}",
                path=path,
                remedy=_TOO_LARGE,
            )
        # Loading alone skips the CRC of a PNG's pixels and the end of a JPEG.
        if image.format == "PNG":
            image.verify()
            if _PNG_END not in data:
                raise EOFError("no end chunk")
            _check_pixels(data)
        elif image.format in ("JPEG", "MPO") and not data.rstrip(b"\0").endswith(b"\xff\xd9"):
            raise EOFError("no end-of-image marker")


def _check_pixels(data: bytes) -> None:
    """Inflate the pixels of a PNG whose chunks are whole to the end of their stream.

    Its Adler-32 is there, and Pillow does not come so far.
    """
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    bits = width * data[24] * _SAMPLES.get(data[25], 4)
    most = 2 * height * (1 + (bits + 7) // 8) + _BLOCK  # interlaced rows are shorter, and more
    stream = zlib.decompressobj()
    at, inflated = 8, 0
    while at + 8 <= len(data):
        size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        block = data[at + 8 : at + 8 + size] if name == b"IDAT" else b""
        while block and not stream.eof:
            inflated += len(stream.decompress(block, _BLOCK))
            block = stream.unconsumed_tail
            if inflated > most:
                raise ValueError("far more pixels than its header promises")
        at += 12 + size
    stream.flush()  # the last block may have held back its end
    if not stream.eof:
        raise EOFError("its pixels end too early")


def _check_kind(image: Image.Image, path: Path) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise InputError(
            f"holds {frames} pictures", path=path, remedy="Save them as one file each."
        )
    modes = ("L", "LA", "RGB", "RGBA", "P", "I", "I;16", "I;16B", "I;16L")
    if image.mode not in modes:
        raise InputError(
            f"is stored in the mode {image.mode}",
            path=path,
            remedy="Save it as grey with 8 or 16 bit.",
        )
    tiles = getattr(image, "tile", [])
    raw = str(tiles[0].args) if tiles else ""
    if image.mode in _CHANNELS and ";16" in raw:
        # Pillow would drop the lower 8 bits without a word.
        raise InputError(
            "is 16-bit colour, which cannot be read without loss",
            path=path,
            remedy="Save it as 16-bit grey.",
        )


def _grey(image: Image.Image, path: Path) -> tuple[str, NDArray[Any]]:
    """The mode to write back, and the pixels (rows, columns), uint8 or uint16."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise InputError("is outside 0..65535", path=path, remedy="Save it with 16 bit.")
        grey = values.astype(np.uint16)
        return "L", ~grey if _white_is_zero(image) else grey
    palette = image.mode == "P"
    if palette:
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    values = np.asarray(image)
    if image.mode == "L":
        return "L", values.copy()
    if image.mode == "LA":
        return "LA", values[:, :, 0].copy()
    first = values[:, :, 0]
    if not (np.array_equal(first, values[:, :, 1]) and np.array_equal(first, values[:, :, 2])):
        raise InputError(
            "is in colour (its channels differ)", path=path, remedy="MR pictures must be grey."
        )
    return "L" if palette else image.mode, first.copy()


def _white_is_zero(image: Image.Image) -> bool:
    """Whether a TIFF's numbers grow towards black, which Pillow heeds only in 8 bit."""
    tags = getattr(image, "tag_v2", {})
    return bool(tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO)


def _note(image: Image.Image) -> str:
    texts = getattr(image, "text", {}) if image.format == "PNG" else {}
    return str(texts.get("Description") or image.getexif().get(_DESCRIPTION, ""))


def _header_for(volume: Volume, form: str) -> PictureHeader:
    header = volume.header
    if not isinstance(header, PictureHeader):
        depth = 16 if volume.voxels.dtype == np.uint16 else 8
        return PictureHeader(form, "L", depth)
    mode = _PLAIN.get(header.mode, header.mode) if form == "JPEG" else header.mode
    return PictureHeader(form, mode, header.depth)


def _quantised(values: NDArray[Any], depth: int, path: Path) -> NDArray[Any]:
    if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
        raise OutputError("its pixels are not finite real numbers", path=path)
    rounded = np.rint(values) if values.dtype.kind == "f" else values
    top = 2**depth - 1
    return np.clip(rounded, 0, top).astype(np.uint8 if depth == 8 else np.uint16)


def _coloured(pixels: NDArray[Any], mode: str) -> Image.Image:
    if mode == "L":
        return Image.fromarray(pixels)
    channels = [pixels] * (_CHANNELS[mode] - (mode in _PLAIN))
    if mode in _PLAIN:
        channels.append(np.full_like(pixels, 255))
    return Image.fromarray(np.stack(channels, axis=2))


def _options(form: str, note: str | None) -> dict[str, Any]:
    options: dict[str, Any] = {"JPEG": {"quality": 95, "subsampling": 0}}.get(form, {})
    if note is None:
        return options
    if form == "PNG":
        info = PngInfo()
        info.add_text("Description", note)
        return {"pnginfo": info}
    exif = Image.Exif()
    exif[_DESCRIPTION] = note.encode("ascii", "replace").decode("ascii")
    return {**options, "exif": exif}
