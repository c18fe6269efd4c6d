"""2D images are written as they were stored."""

from __future__ import annotations

import io as memory
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import mrbridge
from mrbridge import io
from mrbridge.errors import InputError, MrbridgeWarning, OutputError
from mrbridge.inspection.inspect import inspect
from mrbridge.io import image2d
from mrbridge.io.image2d import Image2DHeader
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
    assert volume.header == Image2DHeader(mode, 8)
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
    pixels: np.ndarray = (np.arange(20).reshape(4, 5) * (top // 30)).astype(dtype)
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
    pixels[5, 5, channel] ^= 64  # one pixel, as of a label or a thin contour
    Image.fromarray(pixels).save(tmp_path / "in.png")
    with pytest.raises(InputError, match=r"is in colour .* 64 of 255 levels"):
        io.read(tmp_path / "in.png")


@pytest.mark.parametrize("levels", [1, 3, 16])
def test_a_small_tint_is_grey(levels: int, tmp_path: Path) -> None:
    pixels = stacked(3)
    pixels[..., 2] = np.minimum(pixels[..., 2].astype(int) + levels, 255)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    with pytest.warns(MrbridgeWarning, match=rf"up to {levels} of 255 levels; .* grey"):
        volume = io.read(tmp_path / "in.png")
    assert np.abs(volume.voxels[:, :, 0].astype(int) - GREY).max() <= 0.114 * levels + 0.5
    assert "grey" in volume.notes[0]
    assert inspect(tmp_path / "in.png").items[0].problem is None


def test_grey_cmyk_is_grey_and_coloured_cmyk_is_not(tmp_path: Path) -> None:
    Image.fromarray(GREY).convert("CMYK").save(tmp_path / "in.tif")
    np.testing.assert_array_equal(io.read(tmp_path / "in.tif").voxels[:, :, 0], GREY)
    ink = np.zeros((11, 7, 4), np.uint8)
    ink[..., 0] = GREY
    Image.fromarray(ink, "CMYK").save(tmp_path / "in.tif")
    with pytest.raises(InputError, match="is in colour"):
        io.read(tmp_path / "in.tif")


# Exif 2.32, 4.6.4 A: what is stored so that the tag shows the image itself.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda shown: shown,
    2: np.fliplr,
    3: lambda shown: np.rot90(shown, 2),
    4: np.flipud,
    5: np.transpose,
    6: np.rot90,
    7: lambda shown: np.rot90(shown, 2).T,
    8: lambda shown: np.rot90(shown, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("shown", [GREY, DEEP], ids=["8 bit", "16 bit"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_exif_orientation(orientation: int, shown: np.ndarray, suffix: str, tmp_path: Path) -> None:
    if suffix == ".jpg" and shown is DEEP:
        pytest.skip("JPEG has 8 bit")
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"in{suffix}"
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](shown)))
    stored.save(path, exif=exif, quality=100)
    # As a viewer does it. Pillow itself turns TIFF, where it does not map the file into memory.
    with Image.open(memory.BytesIO(path.read_bytes())) as image:
        seen = np.asarray(image if suffix == ".tif" else ImageOps.exif_transpose(image))
    volume = io.read(path)
    np.testing.assert_array_equal(volume.voxels[:, :, 0], seen)
    np.testing.assert_allclose(seen.astype(int), shown, atol=0 if suffix != ".jpg" else 3)
    assert inspect(path).items[0].shape == (11, 7, 1)
    with Image.open(io.write(volume, tmp_path / f"out{suffix}")) as image:
        assert image.getexif().get(274, 1) == 1
        assert image.size == (7, 11)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("kind", [4, 6])
@pytest.mark.parametrize("hidden", [0, 1])
def test_transparent_pixels_are_background(
    depth: int, kind: int, hidden: int, tmp_path: Path
) -> None:
    """Whatever colour they hide, even one that is not grey."""
    grey, top = (GREY, 255) if depth == 8 else (DEEP, 65535)
    alpha = np.full_like(grey, top)
    alpha[:3], alpha[3, 0] = 0, top // 2
    stored = np.where(alpha == 0, hidden * top, grey)
    samples = np.stack([stored] * (kind - 1 if kind == 4 else 3) + [alpha], axis=2)[
        ..., -2 if kind == 4 else 0 :
    ]
    if kind == 6:
        samples[0, :, 0] = top // 3
    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in samples)
    path = tmp_path / "in.png"
    path.write_bytes(png(7, 11, depth, kind, rows))
    with pytest.warns(MrbridgeWarning, match="22 pixels are transparent"):
        volume = io.read(path)
    expected = np.where(alpha == 0, 0, grey)
    expected[3, 0] = np.rint(grey[3, 0] * (alpha[3, 0] / top))
    assert volume.voxels.dtype == grey.dtype
    np.testing.assert_array_equal(volume.voxels[:, :, 0], expected)
    out = io.write(volume, tmp_path / "out.png")
    np.testing.assert_array_equal(io.read(out).voxels, volume.voxels)  # opaque: no warning
    with Image.open(out) as image:
        assert image.mode == ("I;16" if depth == 16 else "LA" if kind == 4 else "RGBA")


def test_one_value_or_palette_entry_may_be_transparent(tmp_path: Path) -> None:
    path = tmp_path / "in.png"
    for pixels in (GREY, DEEP):
        Image.fromarray(pixels).save(path, transparency=int(pixels[4, 4]))
        with pytest.warns(MrbridgeWarning, match="1 pixel is transparent"):
            voxels = io.read(path).voxels[:, :, 0]
        np.testing.assert_array_equal(voxels, np.where(pixels == pixels[4, 4], 0, pixels))
    palette = Image.fromarray(255 - GREY).convert("P")
    palette.putpalette([255 - value for value in range(256) for _ in range(3)])
    palette.save(path, transparency=bytes([0] * 20 + [255] * 236))
    with pytest.warns(MrbridgeWarning, match="transparent"):
        voxels = io.read(path).voxels[:, :, 0]
    np.testing.assert_array_equal(voxels, np.where(GREY > 235, 0, GREY))


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


def test_all_bits_of_sixteen_bit_colour_are_read(tmp_path: Path) -> None:
    path = tmp_path / "in.png"
    rows = np.repeat(DEEP.astype(">u2"), 3, axis=1)
    path.write_bytes(png(7, 11, 16, 2, b"".join(b"\0" + row.tobytes() for row in rows)))
    np.testing.assert_array_equal(io.read(path).voxels[:, :, 0], DEEP)
    path.write_bytes(png(2, 2, 16, 2, (b"\0" + bytes(range(0, 120, 10))) * 2))
    with pytest.raises(InputError, match="is in colour"):
        io.read(path)


def test_a_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(60000, 60000, 8, 0, b"\0" * 100))
    with pytest.raises(InputError, match="bomb"):
        io.read(path)
    monkeypatch.setattr(image2d, "MAX_PIXELS", 10)
    path.write_bytes(png(4, 3, 8, 0, (b"\0" + bytes(4)) * 3))
    with pytest.raises(InputError, match="4 x 3 pixels"):
        io.read(path)
    monkeypatch.setattr(image2d, "MAX_IMAGE_BYTES", 10)
    with pytest.raises(InputError, match="bytes"):
        io.read(path)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_several_frames_are_refused(suffix: str, tmp_path: Path) -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    path = tmp_path / f"in{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="2 images"):
        io.read(path)


@pytest.mark.parametrize(("mode", "message"), [("1", "1 bit"), ("F", "floating-point numbers")])
def test_other_modes_are_refused(mode: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "in.tif"
    Image.fromarray(GREY).convert(mode).save(path)
    with pytest.raises(InputError, match=message):
        io.read(path)
    assert message in str(inspect(path).items[0].problem)


@pytest.mark.parametrize(
    ("dtype", "message"), [(np.int8, "negative"), (np.int16, "negative"), (np.float64, "TIFF")]
)
def test_numbers_that_are_not_levels_are_refused(dtype: type, message: str, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")  # comes with scikit-image
    tifffile.imwrite(tmp_path / "in.tif", np.arange(-20, 20).reshape(5, 8).astype(dtype))
    with pytest.raises(InputError, match=message):
        io.read(tmp_path / "in.tif")


def test_an_image_that_would_take_gigabytes_is_refused_with_a_remedy(tmp_path: Path) -> None:
    Image.new("L", (6000, 5000)).save(tmp_path / "in.png")
    with pytest.raises(InputError, match=r"6000 x 5000 pixels.*at most 2048 x 2048"):
        io.read(tmp_path / "in.png")
    assert "2048 x 2048" in str(inspect(tmp_path / "in.png").items[0].problem)


@pytest.mark.parametrize(("share", "offset"), [(1 / 1.5, 0), (0.2, 0), (0.3, 60), (0.3, 140)])
def test_an_image_that_uses_a_part_of_eight_bit_is_translated_like_one_that_uses_all(
    share: float, offset: int, tmp_path: Path
) -> None:
    y, x = np.mgrid[:96, :80]
    away = np.hypot((y - 48) / 42, (x - 40) / 34)
    full = np.select([away < 0.3, away < 0.8, away < 0.9, away < 1], [70.0, 170, 30, 240], 0)
    full += np.where(away < 1, 15 * np.sin(x / 5) * np.cos(y / 7), 0)
    full = np.clip(full, 0, 255)
    made = []
    for name, pixels in (("full", full), ("part", full * share + offset)):
        path = tmp_path / f"{name}_T1w.png"
        Image.fromarray(np.rint(pixels).astype(np.uint8)).save(path)
        mrbridge.translate(path, tmp_path / f"{name}_T2w.png", model="shipped")
        made.append(io.read(tmp_path / f"{name}_T2w.png").voxels[:, :, 0].astype(float))
    head = away < 1
    assert np.corrcoef(made[0][head], made[1][head])[0, 1] > 0.99
    assert made[1].max() > 0.75 * made[0].max(), "all of 0..255 is used"


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
    path = io.write(Volume(voxels, None, Image2DHeader("L", depth)), tmp_path / "out.png")
    assert io.read(path).voxels.ravel().tolist() == [0, 0, 1, top, top, top]


def test_what_a_2d_image_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="4 slices"):
        io.write(Volume(np.zeros((6, 5, 4)), np.eye(4)), tmp_path / "a.png")
    with pytest.raises(OutputError, match="JPEG cannot"):
        io.write(Volume(DEEP[:, :, None], None), tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())


def test_jpeg_of_a_colour_header(tmp_path: Path) -> None:
    volume = Volume(GREY[:, :, None], None, Image2DHeader("RGBA", 8))
    with Image.open(io.write(volume, tmp_path / "a.jpg")) as image:
        assert image.mode == "RGB"
    assert io.read(tmp_path / "a.jpg").header == Image2DHeader("RGB", 8)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_any_reader_sees_the_mark(suffix: str, tmp_path: Path) -> None:
    note = "synthetic T2w by mrbridge 0.1.0, for research, not for diagnosis"
    path = io.write(Volume(GREY[:, :, None], None), tmp_path / f"a{suffix}", synthetic_note=note)
    with Image.open(memory.BytesIO(path.read_bytes())) as image:
        text = image.info["Description"] if suffix == ".png" else image.getexif()[270]
    assert text == note


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("seed-png/TrainT1/Image #10.png", Image2DHeader("L", 8)),
        ("ixi-slices/T2/slice-01.png", Image2DHeader("L", 16)),
    ],
)
def test_real_2d_images(
    name: str, header: Image2DHeader, real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    path = real_data(name)
    volume = io.read(path)
    assert volume.header == header
    assert volume.contrast == ("T1w" if "T1" in name else "T2w")
    back = io.read(io.write(volume, tmp_path / path.name))
    assert back.header == header
    np.testing.assert_array_equal(back.voxels, volume.voxels)
