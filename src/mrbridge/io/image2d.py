"""2D images: PNG, TIFF, JPEG; 8 or 16 bit; grey, or colour whose channels are nearly equal.

They are read as viewers show them on black: rotated according to Exif, transparency in black.
"""

from __future__ import annotations

import io
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base as Tag
from PIL.PngImagePlugin import PngInfo

from mrbridge.errors import InputError, MrbridgeError, OutputError
from mrbridge.io.atomic import atomic_path, suffix_of
from mrbridge.quiet import without_warnings
from mrbridge.reports import counted
from mrbridge.volume import Volume

MAX_PIXELS = 2**22  # translating takes about 250 bytes for each
MAX_IMAGE_BYTES = 2**29  # of a file that is opened
_FORMATS = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".jpg": "JPEG", ".jpeg": "JPEG"}
_WHITE_IS_ZERO, _PLANAR, _SIGNED = 0, 2, 2  # TIFF 6.0: of its tags below
_TINT = 16 / 255
"""The largest difference between channels that is a tint and not colour, as a share of the range:
JPEG at any quality adds up to 11 levels of 255 to grey noise, and a colour profile up to 16."""
_PLAIN_MODES = ("L", "LA", "RGB", "RGBA")
_MODES = (*_PLAIN_MODES, "P", "CMYK", "YCbCr", "I", "I;16", "I;16B", "I;16L")
_REFUSED_MODES = {
    "1": "has 1 bit: black and white only",
    "F": "holds floating-point numbers",
    "LAB": "is in colour (CIE Lab)",
}
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow converts colour to grey
_GREY_ALPHA, _COLOUR_ALPHA = 4, 6  # PNG 1.2, 4.1.1: colour types
_PNG_END = b"\0\0\0\0IEND\xaeB\x60\x82"  # PNG 1.2, 4.1.4: with its CRC
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG 1.2, 4.1.1: samples of a pixel by colour type
_BLOCK = 1 << 20
_SHRINK = "Shrink it to at most 2048 x 2048: an MR slice has 1024 x 1024 pixels at most."
_SAVE_GREY = "Save it as 8-bit or 16-bit greyscale."
_PLAIN = {"LA": "L", "RGBA": "RGB"}  # JPEG has no transparency


@dataclass(frozen=True)
class Image2DHeader:
    """How a 2D image was stored.

    Attributes:
        mode: L (grey), LA, RGB or RGBA. What is written has the same channels, and is opaque
            everywhere; images of 16 bit and JPEG lose the alpha channel, those of 16 bit become
            grey.
        depth: bits per channel, 8 or 16.
    """

    mode: str
    depth: int


def is_eight_bit(volume: Volume) -> bool:
    """Whether a volume is a 2D image of 8 bit."""
    return isinstance(volume.header, Image2DHeader) and volume.header.depth == 8


def read(path: Path) -> Volume:
    """Read a 2D image; see `mrbridge.io.read`.

    Voxels are uint8 or uint16, as a viewer shows them on black; notes name a tint and transparent
    pixels. Several frames and colours are refused.
    """
    size = path.stat().st_size
    if size > MAX_IMAGE_BYTES:
        raise InputError(f"has {size} bytes, over {MAX_IMAGE_BYTES}", remedy=_SHRINK)
    data = path.read_bytes()
    notes: list[str] = []
    try:
        # Our own limit is lower than the one that Pillow warns of, and odd metadata of a TIFF is no
        # fault of its pixels.
        with without_warnings():
            _check_whole(data)
            with open_image(io.BytesIO(data)) as image:
                _check_kind(image)
                deep = _is_deep(image)
                image.load()
                mode, pixels = _grey(image, _deep(data, image) if deep else None, data, notes)
                if image.format != "TIFF":  # Pillow rotates these
                    pixels = _turned(pixels, _exif(image).get(Tag.Orientation))
                is_synthetic = note_of(image).lower().startswith("synthetic")
    except MrbridgeError:
        raise
    except UnidentifiedImageError:
        what = "is not a PNG, TIFF or JPEG image"
        if data.startswith((b"II*\0", b"MM\0*")):
            what = "is a TIFF image that is damaged or whose pixels are of an unsupported type"
        raise InputError(what, remedy=_SAVE_GREY) from None
    except Exception as error:  # Pillow's parsers raise all kinds of them for damaged files
        what = f"is damaged or truncated ({error})"
        raise InputError(what, remedy="Get a new copy of the file.") from None
    header = Image2DHeader(mode, 8 * pixels.dtype.itemsize)
    return Volume(pixels[:, :, None], None, header, synthetic=is_synthetic, notes=tuple(notes))


def write(volume: Volume, path: Path, synthetic_note: str | None) -> None:
    """Write a 2D image; see `mrbridge.io.write`. JPEG has quality 95 and loses a little."""
    if volume.voxels.shape[2] != 1:
        raise OutputError(
            f"a volume of {volume.voxels.shape[2]} slices cannot become a 2D image",
            remedy="Write it as .nii.gz.",
        )
    form = _FORMATS[suffix_of(path)]
    header = _header_for(volume, form)
    if form == "JPEG" and header.depth != 8:
        raise OutputError("JPEG cannot store 16 bits", remedy="Write it as .png or .tif.")
    pixels = _quantised(volume.voxels[:, :, 0], header.depth)
    image = Image.fromarray(pixels)
    if header.mode != "L":  # 8 bits
        image = image.convert(header.mode)
    with atomic_path(path) as temporary:
        image.save(temporary, form, **_options(form, synthetic_note))
        written = read(temporary).voxels[:, :, 0]
        same = written.shape == pixels.shape and written.dtype == pixels.dtype
        if not same or (form != "JPEG" and not np.array_equal(written, pixels)):
            raise OutputError("was not read back as it was written", remedy="Check the disk.")


def open_image(source: Path | IO[bytes]) -> Image.Image:
    """Open an image with Pillow, if it is of a known format."""
    return Image.open(source, formats=("PNG", "TIFF", "JPEG"))


def note_of(image: Image.Image) -> str:
    """Its description, which of a synthetic image begins with `synthetic`."""
    return str(image.info.get("Description") or _exif(image).get(Tag.ImageDescription, ""))


def _check_whole(data: bytes) -> None:
    with open_image(io.BytesIO(data)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise InputError(
                f"has {image.width} x {image.height} pixels, over the limit of {MAX_PIXELS}",
                remedy=_SHRINK,
            )
        # Loading does not check the CRC of a PNG's pixels and the end of a JPEG.
        if image.format == "PNG":
            image.verify()
            if _PNG_END not in data:
                raise EOFError("no end chunk")
            _check_pixels(data)
        elif image.format in ("JPEG", "MPO") and not data.rstrip(b"\0").endswith(b"\xff\xd9"):
            raise EOFError("no end-of-image marker")


def _check_pixels(data: bytes) -> None:
    """Inflate the pixels of a PNG with complete chunks to the end, where their Adler-32 is checked.

    Pillow does not read so far.
    """
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    bits = width * data[24] * _SAMPLES.get(data[25], 4)
    most = 2 * height * (1 + (bits + 7) // 8) + _BLOCK  # interlaced images have more, shorter rows
    stream = zlib.decompressobj()
    at, packed = 8, bytearray()
    while at + 8 <= len(data):
        size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        packed += data[at + 8 : at + 8 + size] if name == b"IDAT" else b""
        at += 12 + size
    inflated = len(stream.decompress(packed, most))
    if inflated == most:
        raise ValueError("far more pixels than its header promises")
    if not stream.eof:
        raise EOFError("its pixels end too early")


def _check_kind(image: Image.Image) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise InputError(f"holds {frames} images", remedy="Save them as one file each.")
    tags = getattr(image, "tag_v2", {})
    if tags.get(Tag.PlanarConfiguration) == _PLANAR and max(tags.get(Tag.BitsPerSample, (1,))) > 8:
        raise InputError(
            "holds its 16-bit channels one after the other (planar TIFF)",
            remedy="Save it as 16-bit greyscale.",
        )
    if image.mode not in _MODES:
        what = _REFUSED_MODES.get(image.mode, f"is stored in the mode {image.mode}")
        raise InputError(what, remedy=_SAVE_GREY)


def _grey(
    image: Image.Image, deep: NDArray[Any] | None, data: bytes, notes: list[str]
) -> tuple[str, NDArray[Any]]:
    """The mode to write back, and the pixels (rows, columns), uint8 or uint16, on black.

    Args:
        deep: its samples where Pillow keeps only a part of their bits.
        notes: what was changed is added here.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image)
        _check_sign(values.min() < 0)
        if values.max() > 65535 or (_white_is_zero(image) and _bits(image) > 16):
            raise InputError("is outside 0..65535", remedy="Save it with 16 bits.")
        values = values.astype(np.uint16)
    elif deep is not None:
        values = deep
    elif image.mode in ("P", "CMYK", "YCbCr"):
        opaque = "transparency" not in image.info
        values = np.asarray(image.convert("RGB" if opaque else "RGBA"))
    else:
        values = np.asarray(image)
        signed = _SIGNED in getattr(image, "tag_v2", {}).get(Tag.SampleFormat, ())
        _check_sign(signed and values.max() > 127)  # Pillow reads it as unsigned
    top = np.iinfo(values.dtype).max
    alpha = _alpha(values, image, data)
    if values.ndim == 3:
        colours = values[:, :, :1] if values.shape[2] < 3 else values[:, :, :3]
        grey = _without_tint(colours, None if alpha is None else alpha > 0, notes)
    else:
        grey = values.copy()
    if _white_is_zero(image):
        grey = (2 ** _bits(image) - 1) - grey
    if alpha is not None and (alpha < top).any():
        hidden = counted(int(np.count_nonzero(alpha < top)), "pixel is", "pixels are")
        notes.append(f"{hidden} transparent; it is read as on a black background")
        grey = np.rint(grey * (alpha / top)).astype(values.dtype)
    keeps = image.mode in _PLAIN_MODES and values.dtype == np.uint8
    return image.mode if keeps else "L", grey


def _check_sign(has_negative: bool | np.bool_) -> None:
    if has_negative:
        raise InputError(
            "has negative pixels (signed numbers)",
            remedy="Add an offset and save it with unsigned 16 bits.",
        )


def _is_deep(image: Image.Image) -> bool:
    """Whether it has 16 bit and several channels, of which Pillow drops the lower 8 bits."""
    tiles = getattr(image, "tile", [])
    return image.mode in _PLAIN_MODES and ";16" in (str(tiles[0].args) if tiles else "")


def _deep(data: bytes, image: Image.Image) -> NDArray[np.uint16]:
    """The samples of an image of 16 bit and several channels, (rows, columns, channels)."""
    if data.startswith(b"\x89PNG") and data[25] == _GREY_ALPHA:
        # Two samples of 16 bit are filtered and interlaced as four of 8 bit (PNG 1.2, 6 and 2.6).
        head = data[12:24] + bytes((8, _COLOUR_ALPHA)) + data[26:29]
        check = zlib.crc32(head).to_bytes(4, "big")
        samples = np.array(open_image(io.BytesIO(data[:12] + head + check + data[33:])))
        return samples.view(">u2").astype(np.uint16)
    # Read with the other byte order, the byte that Pillow keeps is the lower one.
    low = open_image(io.BytesIO(data))
    other = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
    tiles = []
    for tile in getattr(low, "tile", []):
        raw, *rest = (tile.args,) if isinstance(tile.args, str) else tile.args
        raw = raw[:-1] + other[raw[-1]]
        tiles.append(tile._replace(args=raw if isinstance(tile.args, str) else (raw, *rest)))
    setattr(low, "tile", tiles)  # noqa: B010
    return np.asarray(image).astype(np.uint16) << 8 | np.asarray(low)


def _alpha(values: NDArray[Any], image: Image.Image, data: bytes) -> NDArray[Any] | None:
    """The opacity, (rows, columns), in the type of `values`; None if all pixels are opaque."""
    if values.ndim == 3 and values.shape[2] in (2, 4):
        return values[:, :, -1]
    key = image.info.get("transparency")
    if key is None or image.mode == "P":
        return None
    if image.mode == "L" and data.startswith(b"\x89PNG"):
        key = key * (255 // (2 ** min(data[24], 8) - 1))  # as Pillow scales 1, 2 and 4 bit
    hidden = values == np.array(key)
    hidden = hidden.all(axis=2) if hidden.ndim == 3 else hidden
    return np.where(hidden, 0, np.iinfo(values.dtype).max).astype(values.dtype)


def _without_tint(
    colours: NDArray[Any], visible: NDArray[np.bool_] | None, notes: list[str]
) -> NDArray[Any]:
    """The brightness of an image whose channels are nearly equal, (rows, columns)."""
    if colours.shape[2] == 1:
        return colours[:, :, 0].copy()
    top = np.iinfo(colours.dtype).max
    apart = np.ptp(colours, axis=2)
    most = int(apart.max() if visible is None else apart.max(where=visible, initial=0))
    if most > _TINT * top:
        raise InputError(
            f"is in colour (its channels differ by up to {most} of {top} levels)",
            remedy="Save the MR image in greyscale, without colour map, overlay or labels.",
        )
    if most:
        notes.append(f"its channels differ by up to {most} of {top} levels; it is read as grey")
    # Equal channels keep their value exactly.
    return np.rint(colours @ _LUMA).astype(colours.dtype)


def _white_is_zero(image: Image.Image) -> bool:
    """Whether 0 is white in a TIFF, which Pillow respects only for 8 bit."""
    photometric = getattr(image, "tag_v2", {}).get(Tag.PhotometricInterpretation)
    return image.mode.startswith("I") and bool(photometric == _WHITE_IS_ZERO)


def _bits(image: Image.Image) -> int:
    """Bits of a sample of a TIFF."""
    return int(image.tag_v2.get(Tag.BitsPerSample, (16,))[0])  # type: ignore[attr-defined]


def _turned(pixels: NDArray[Any], orientation: Any) -> NDArray[Any]:
    """Stored pixels (rows, columns) as viewers show them (Exif 2.32, 4.6.4 A, tag 274)."""
    if orientation not in range(2, 9):
        return pixels
    image = Image.fromarray(pixels)
    image.getexif()[Tag.Orientation] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def _exif(image: Image.Image) -> Mapping[int, Any]:
    try:
        return image.getexif()
    except Exception:  # the pixels are whole
        return {}


def _header_for(volume: Volume, form: str) -> Image2DHeader:
    header = volume.header
    if not isinstance(header, Image2DHeader):
        return Image2DHeader("L", 16 if volume.voxels.dtype == np.uint16 else 8)
    mode = _PLAIN.get(header.mode, header.mode) if form == "JPEG" else header.mode
    return Image2DHeader(mode if header.depth == 8 else "L", header.depth)


def _quantised(values: NDArray[Any], depth: int) -> NDArray[Any]:
    if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
        raise OutputError("its pixels are not finite real numbers")
    rounded = np.rint(values) if values.dtype.kind == "f" else values
    top = 2**depth - 1
    return np.clip(rounded, 0, top).astype(np.uint8 if depth == 8 else np.uint16)


def _options(form: str, note: str | None) -> dict[str, Any]:
    options: dict[str, Any] = {"JPEG": {"quality": 95, "subsampling": 0}}.get(form, {})
    if note is None:
        return options
    if form == "PNG":
        info = PngInfo()
        info.add_text("Description", note)
        return {"pnginfo": info}
    exif = Image.Exif()
    exif[Tag.ImageDescription] = note.encode("ascii", "replace").decode("ascii")
    return {**options, "exif": exif}
