"""Pictures: how they were stored is how they go back."""

from __future__ import annotations

import io as memory
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrbridge import io
from mrbridge.errors import InputError, OutputError
from mrbridge.io import picture
from mrbridge.io.picture import PictureHeader
from mrbridge.volume import Volume

GREY = np.linspace(0, 255, 11 * 7).reshape(11, 7).astype(np.uint8)
DEEP = np.linspace(0, 65535, 11 * 7).reshape(11, 7).astype(np.uint16)


def stacked(count: int) -> np.ndarray:
    alpha = [np.full_like(GREY, 255)] if count in (2, 4) else []
    return np.stack([GREY] * (count - len(alpha)) + alpha, axis=2)


@pytest.mark.parametrize(
    ("mode", "pixels"),
    [("L", GREY), ("LA", stacked(2)), ("RGB", stacked(3)), ("RGBA", stacked(4))],
)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_mode_and_depth_are_kept(
    mode: str, pixels: np.ndarray, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"in{suffix}"
    Image.fromarray(pixels).save(path)
    volume = io.read(path)
    assert volume.header == PictureHeader("PNG" if suffix == ".png" else "TIFF", mode, 8)
    assert volume.header.channels == (1 if mode == "L" else pixels.shape[2])
    np.testing.assert_array_equal(volume.voxels[:, :, 0], GREY)
    out = io.write(volume, tmp_path / f"out{suffix}")
    with Image.open(out) as image:
        assert image.mode == mode
        np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_sixteen_bit_however_stored(mode: str, tmp_path: Path) -> None:
    image = {
        "I;16": lambda: Image.fromarray(DEEP),
        "I;16B": lambda: Image.fromarray(DEEP.astype(">u2")),
        "I": lambda: Image.fromarray(DEEP.astype(np.int32)),
    }[mode]()
    image.save(tmp_path / "in.tif")
    volume = io.read(tmp_path / "in.tif")
    assert volume.voxels.dtype == np.uint16
    np.testing.assert_array_equal(volume.voxels[:, :, 0], DEEP)
    for suffix in (".png", ".tif"):
        back = io.read(io.write(volume, tmp_path / f"out{suffix}"))
        np.testing.assert_array_equal(back.voxels, volume.voxels)
        assert back.header.depth == 16


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_whose_white_is_zero(dtype: type, tmp_path: Path) -> None:
    top = np.iinfo(dtype).max
    pixels = (np.arange(20).reshape(4, 5) * (top // 30)).astype(dtype)
    path = tmp_path / "white_is_zero.tif"
    # Pillow turns pixels of 8 bit over when it writes them so, those of 16 bit not.
    stored = pixels if dtype == np.uint8 else top - pixels
    Image.fromarray(stored).save(path, tiffinfo={262: 0})
    assert (top - pixels).tobytes() in path.read_bytes(), "not stored so"
    assert np.array_equal(io.read(path).voxels[:, :, 0], pixels)


def test_a_grey_palette_becomes_grey(tmp_path: Path) -> None:
    image = Image.fromarray(GREY, "L").convert("P")
    image.save(tmp_path / "in.png")
    volume = io.read(tmp_path / "in.png")
    np.testing.assert_array_equal(volume.voxels[:, :, 0], GREY)
    assert volume.header.mode == "L"


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_colour_is_refused(channel: int, tmp_path: Path) -> None:
    pixels = stacked(3)
    pixels[5, 5, channel] ^= 1
    Image.fromarray(pixels).save(tmp_path / "in.png")
    with pytest.raises(InputError, match="colour"):
        io.read(tmp_path / "in.png")


def png(
    width: int, height: int, depth: int, kind: int, rows: bytes, packed: bytes | None = None
) -> bytes:
    """A PNG made by hand, of rows or of what they were packed to."""
    packed = zlib.compress(rows) if packed is None else packed

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def test_sixteen_bit_colour_is_refused_rather_than_cut(tmp_path: Path) -> None:
    path = tmp_path / "in.png"
    path.write_bytes(png(2, 2, 16, 2, (b"\0" + bytes(range(12))) * 2))
    with pytest.raises(InputError, match="16-bit colour"):
        io.read(path)


def test_a_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(60000, 60000, 8, 0, b"\0" * 100))
    with pytest.raises(InputError, match="bomb"):
        io.read(path)
    monkeypatch.setattr(picture, "MAX_PIXELS", 10)
    path.write_bytes(png(4, 3, 8, 0, (b"\0" + bytes(4)) * 3))
    with pytest.raises(InputError, match="4 x 3 pixels"):
        io.read(path)
    monkeypatch.setattr(picture, "MAX_PICTURE_BYTES", 10)
    with pytest.raises(InputError, match="bytes"):
        io.read(path)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_several_frames_are_refused(suffix: str, tmp_path: Path) -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    path = tmp_path / f"in{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="2 pictures"):
        io.read(path)


@pytest.mark.parametrize("mode", ["1", "F", "CMYK"])
def test_other_modes_are_refused(mode: str, tmp_path: Path) -> None:
    Image.fromarray(GREY).convert(mode).save(tmp_path / "in.tif")
    with pytest.raises(InputError, match=f"mode {mode}"):
        io.read(tmp_path / "in.tif")


def test_a_flipped_bit_in_the_pixels_is_found(tmp_path: Path) -> None:
    content = bytearray(png(4, 3, 8, 0, (b"\0" + bytes(range(4))) * 3))
    place = content.index(b"IDAT") + 8
    content[place] ^= 4
    path = tmp_path / "in.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        io.read(path)


def test_the_checksum_of_the_pixels_is_checked(tmp_path: Path) -> None:
    """Every CRC is right here, and Pillow reads it; only the Adler-32 tells."""
    rows = zlib.compress((b"\0" + bytes(range(4))) * 3, 0)
    place = rows.index(bytes(range(4)))
    wrong = rows[:place] + b"\7" + rows[place + 1 :]
    path = tmp_path / "in.png"
    for packed, message in ((wrong, "incorrect data check"), (rows[:-4], "end too early")):
        path.write_bytes(png(4, 3, 8, 0, b"", packed))
        with pytest.raises(InputError, match=message):
            io.read(path)
    path.write_bytes(png(4, 3, 8, 0, b"", rows))
    assert io.read(path).voxels[:, :, 0].tolist() == [[0, 1, 2, 3]] * 3
    path.write_bytes(png(4, 3, 8, 0, bytes(4 << 20)))
    with pytest.raises(InputError, match="far more pixels"):
        io.read(path)


def test_pixels_that_fill_a_block_to_the_last(tmp_path: Path) -> None:
    path = tmp_path / "in.png"
    path.write_bytes(png(1023, 1024, 8, 0, bytes(1 << 20)))
    assert io.read(path).voxels.shape == (1024, 1023, 1)


@pytest.mark.parametrize("depth", [8, 16])
def test_values_are_rounded_and_clipped(depth: int, tmp_path: Path) -> None:
    top = 2**depth - 1
    voxels = np.array([[-5.0, 0.4, 0.6], [top - 0.4, top + 0.6, 1e9]], np.float32)[:, :, None]
    path = io.write(Volume(voxels, None, PictureHeader("PNG", "L", depth)), tmp_path / "out.png")
    assert io.read(path).voxels.ravel().tolist() == [0, 0, 1, top, top, top]


def test_what_a_picture_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="4 slices"):
        io.write(Volume(np.zeros((6, 5, 4)), np.eye(4)), tmp_path / "a.png")
    with pytest.raises(OutputError, match="JPEG cannot"):
        io.write(Volume(DEEP[:, :, None], None), tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())


def test_jpeg_of_a_colour_header(tmp_path: Path) -> None:
    volume = Volume(GREY[:, :, None], None, PictureHeader("PNG", "RGBA", 8))
    with Image.open(io.write(volume, tmp_path / "a.jpg")) as image:
        assert image.mode == "RGB"
    assert io.read(tmp_path / "a.jpg").header == PictureHeader("JPEG", "RGB", 8)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_any_reader_sees_the_mark(suffix: str, tmp_path: Path) -> None:
    note = "synthetic T2w by mrbridge 0.1.0, for research, not for diagnosis"
    path = io.write(Volume(GREY[:, :, None], None), tmp_path / f"a{suffix}", synthetic_note=note)
    with Image.open(memory.BytesIO(path.read_bytes())) as image:
        text = image.text["Description"] if suffix == ".png" else image.getexif()[270]
    assert text == note


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("seed-png/TrainT1/Image #10.png", PictureHeader("PNG", "L", 8)),
        ("ixi-slices/T2/slice-01.png", PictureHeader("PNG", "L", 16)),
    ],
)
def test_real_pictures(
    name: str, header: PictureHeader, real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    path = real_data(name)
    volume = io.read(path)
    assert volume.header == header
    assert volume.contrast == ("T1w" if "T1" in name else "T2w")
    back = io.read(io.write(volume, tmp_path / path.name))
    assert back.header == header
    np.testing.assert_array_equal(back.voxels, volume.voxels)
