"""Damaged files: small whole ones (seeds), changed as disks, networks and other programs damage
files, and in malicious ways.

A kind of file joins by one entry in `KINDS`.
"""

from __future__ import annotations

import gzip
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from mrbridge import io
from mrbridge.volume import Volume

Random = np.random.Generator
EXTREMES = {
    "i1": (0, 1, 2, 3, 64, 127, 128, 255),
    "i2": (0, 1, -1, 2, 7, 8, 255, 256, 32767, -32768),
    "i4": (0, 1, -1, 255, 65536, 2**31 - 1, -(2**31)),
    "i8": (0, 1, -1, 65536, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63)),
    "f4": (0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, -1e38, np.inf, -np.inf, np.nan, 352.5, 1e9),
    "f8": (0.0, -0.0, 1.0, -1.0, 5e-324, 1e308, -1e308, np.inf, -np.inf, np.nan, 1e30),
}


@dataclass(frozen=True)
class Mutant:
    """A damaged file.

    Attributes:
        content: its bytes.
        suffix: of its name.
        how: what was done to it.
        checked: whether a check of the format covers the damage, so that the file must be refused
            or read as one of the seeds.
    """

    content: bytes
    suffix: str
    how: str
    checked: bool


@dataclass(frozen=True)
class Kind:
    """A kind of file: its seeds (suffix and bytes) and what damages them."""

    seeds: Callable[[], list[tuple[str, bytes]]]
    damage: Callable[[Random, list[tuple[str, bytes]]], Mutant]
    read: Callable[[Path], Volume] = io.read


def damaged_bytes(rng: Random, content: bytes, other: bytes) -> tuple[bytes, str]:
    """Any bytes, damaged anywhere: (what they became, how)."""
    data, size = bytearray(content), max(1, len(content))
    # Half of the places near the beginning, where headers are.
    at = int(rng.integers(size if rng.random() < 0.5 else min(size, 400)))
    length = min(int(rng.integers(1, 65)), size)
    how = str(rng.choice(["flip", "overwrite", "truncate", "remove", "repeat", "zero", "splice"]))
    if how == "flip":
        for _ in range(int(rng.choice([1, 1, 1, 2, 8, 64]))):
            data[at] ^= 1 << int(rng.integers(8))
            at = int(rng.integers(size))
    elif how == "overwrite":
        data[at : at + length] = rng.bytes(len(data[at : at + length]))
    elif how == "truncate":
        del data[at:]
    elif how == "remove":
        del data[at : at + length]
    elif how == "repeat":
        data[at:at] = data[at : at + length] * int(rng.choice([1, 2, 50]))
    elif how == "zero":
        data[at : at + length] = bytes(len(data[at : at + length]))
    else:
        data[at:] = other[int(rng.integers(max(1, len(other)))) :]
    return bytes(data), how


def _phantom(shape: tuple[int, int, int], dtype: Any) -> np.ndarray:
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    radius = sum(axis**2 for axis in axes)
    return (np.where(radius < 1.2, 900 - 300 * radius, 0) + 0.0).astype(dtype)


def _written(volume: Volume, suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return io.write(volume, Path(folder) / f"seed{suffix}").read_bytes()


# NIfTI. Source of the offsets: nifti1.h and nifti2.h.
_NIFTI1 = {
    "sizeof_hdr": (0, "i4", 1),
    "dim": (40, "i2", 8),
    "datatype": (70, "i2", 1),
    "bitpix": (72, "i2", 1),
    "pixdim": (76, "f4", 8),
    "vox_offset": (108, "f4", 1),
    "scl": (112, "f4", 2),
    "xyzt_units": (123, "i1", 1),
    "codes": (252, "i2", 2),
    "quaternion": (256, "f4", 6),
    "srow": (280, "f4", 12),
    "magic": (344, "i1", 4),
}
_NIFTI2 = {
    "sizeof_hdr": (0, "i4", 1),
    "magic": (4, "i1", 8),
    "datatype": (12, "i2", 1),
    "bitpix": (14, "i2", 1),
    "dim": (16, "i8", 8),
    "pixdim": (104, "f8", 8),
    "vox_offset": (168, "i8", 1),
    "scl": (176, "f8", 2),
    "codes": (344, "i4", 2),
    "quaternion": (352, "f8", 6),
    "srow": (400, "f8", 12),
    "xyzt_units": (500, "i4", 1),
}
_ZEROS = gzip.compress(bytes(64 << 20), 9)


def nifti_seeds() -> list[tuple[str, bytes]]:
    """NIfTI-1 and -2, of either byte order, of several number types, packed and not."""
    affine = np.array([[0, 0.8, 0.1, -3], [-0.7, 0, 0.2, 5], [0.1, 0.3, 3.3, 7], [0, 0, 0, 1]])
    seeds = []
    for kind, order, dtype in (
        (nib.Nifti1Header, "<", np.int16),
        (nib.Nifti1Header, ">", np.float32),
        (nib.Nifti1Header, "<", np.uint8),
        (nib.Nifti2Header, "<", np.float64),
        (nib.Nifti2Header, ">", np.uint16),
    ):
        voxels = _phantom((9, 8, 5), dtype)
        header = kind(endianness=order)
        header.set_data_dtype(np.dtype(dtype).newbyteorder(order))  # type: ignore[arg-type]
        header.set_data_shape(voxels.shape)
        header.set_sform(affine, code=1)
        header.set_qform(np.diag([1.0, 2, 3, 1]), code=0)
        header["scl_slope"], header["scl_inter"] = 1, 0
        header["vox_offset"], header["magic"] = header.sizeof_hdr + 4, header.single_magic
        stored = voxels.astype(header.get_data_dtype()).tobytes(order="F")
        content = header.binaryblock + bytes(4) + stored
        seeds += [(".nii", content), (".nii.gz", gzip.compress(content, 6, mtime=0))]
    return seeds


def damaged_nifti(rng: Random, seeds: list[tuple[str, bytes]]) -> Mutant:
    """Bytes damaged as they lie; or fields of the header overwritten, and packed again."""
    suffix, content = seeds[int(rng.integers(len(seeds)))]
    _, other = seeds[int(rng.integers(len(seeds)))]
    packed = suffix == ".nii.gz"
    if rng.random() < 0.4:
        damaged, how = damaged_bytes(rng, content, other)
        return Mutant(damaged, suffix, f"bytes: {how}", packed)
    plain = bytearray(gzip.decompress(content) if packed else content)
    if rng.random() < 0.8:
        plain, how = _overwritten(rng, plain)
    else:
        inside = gzip.decompress(other) if other[:2] == b"\x1f\x8b" else other
        mutant = damaged_bytes(rng, bytes(plain), inside)
        plain, how = bytearray(mutant[0]), f"inside: {mutant[1]}"
    if not packed:
        return Mutant(bytes(plain), suffix, how, False)
    again = gzip.compress(plain, 1, mtime=0)
    if rng.random() < 0.02:
        return Mutant(again + _ZEROS, suffix, f"{how}, a bomb behind it", False)
    return Mutant(again, suffix, how, False)


def _overwritten(rng: Random, plain: bytearray) -> tuple[bytearray, str]:
    """One to three fields of a NIfTI header with extreme or random values."""
    is_second = 540 in (struct.unpack(f"{order}i", plain[:4])[0] for order in "<>")
    order = "<" if plain[0] in (0x5C, 0x1C) and plain[2] == 0 else ">"
    fields = _NIFTI2 if is_second else _NIFTI1
    names = []
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        name = str(rng.choice(list(fields)))
        start, kind, count = fields[name]
        dtype = np.dtype(kind).newbyteorder(order)  # type: ignore[arg-type]
        at = start + dtype.itemsize * int(rng.integers(count))
        if rng.random() < 0.7:
            with np.errstate(all="ignore"):
                value = np.array(rng.choice(EXTREMES[kind]))
            raw = value.astype(dtype if kind != "i1" else "u1").tobytes()
        else:
            raw = rng.bytes(dtype.itemsize)
        plain[at : at + len(raw)] = raw
        names.append(name)
    return plain, f"header: {', '.join(names)}"


# PNG. Source: PNG 1.2, chapters 3 and 4.
_PNG = b"\x89PNG\r\n\x1a\n"


def png_seeds() -> list[tuple[str, bytes]]:
    """Grey of 8 and 16 bit, equal channels, a palette, interlaced or not, with a text or not."""
    grey = _phantom((14, 11, 1), np.uint8)
    deep = _phantom((14, 11, 1), np.uint16) * 60
    seeds = [_written(Volume(voxels, None), ".png") for voxels in (grey, deep)]
    text = "synthetic T2w by mrbridge"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.png"
        seeds.append(
            io.write(Volume(deep, None), path, synthetic_note=text).read_bytes(),
        )
        equal = Image.fromarray(np.repeat(grey, 3, axis=2))
        for image in (equal, Image.fromarray(grey[:, :, 0]).convert("P")):
            image.save(path)
            seeds.append(path.read_bytes())
    seeds.append(_by_hand(14, 11, 16, np.random.default_rng(3).bytes(14 * 23)))
    return [(".png", seed) for seed in seeds]


def _by_hand(rows: int, columns: int, depth: int, raw: bytes) -> bytes:
    """A grey PNG whose pixels lie in two chunks, with the least compression."""
    lines = bytearray(raw)
    lines[:: columns * depth // 8 + 1] = bytes(rows)  # no filters
    packed = zlib.compress(bytes(lines), 0)
    head = struct.pack(">IIBBBBB", columns, rows, depth, 0, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", packed[:100]), (b"IDAT", packed[100:]), (b"IEND", b"")]
    return joined(parts)


def chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Names and data of the chunks of a whole PNG."""
    found, at = [], len(_PNG)
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        found.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def joined(parts: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG of chunks, each with its right CRC."""
    return _PNG + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )


def damaged_png(rng: Random, seeds: list[tuple[str, bytes]]) -> Mutant:
    """Bytes damaged as they lie; or chunks changed, added, lost and mixed, with right CRCs."""
    _, content = seeds[int(rng.integers(len(seeds)))]
    _, other = seeds[int(rng.integers(len(seeds)))]
    if rng.random() < 0.4:
        damaged, how = damaged_bytes(rng, content, other)
        return Mutant(damaged, ".png", f"bytes: {how}", True)
    parts = chunks(content)
    how = str(rng.choice(["pixels", "head", "head", "lose", "mix", "swap", "strange"]))
    if how == "pixels":  # the CRC is right, the Adler-32 inside is not
        at = int(rng.choice([n for n, (name, _) in enumerate(parts) if name == b"IDAT"]))
        damaged, inner = damaged_bytes(rng, parts[at][1], parts[at][1])
        parts[at] = (b"IDAT", damaged)
        return Mutant(joined(parts), ".png", f"pixels: {inner}", True)
    if how == "head":
        head = bytearray(parts[0][1])
        if rng.random() < 0.6:
            side = 4 * int(rng.integers(2))
            value = rng.choice([0, 1, 10, 12, 13, 15, 8192, 65535, 2**20, 2**26, 2**31, 2**32 - 1])
            head[side : side + 4] = int(value).to_bytes(4, "big")
        else:
            head[8 + int(rng.integers(5))] = int(rng.choice([0, 1, 2, 3, 4, 6, 8, 16, 255]))
        parts[0] = (b"IHDR", bytes(head))
    elif how == "lose":
        del parts[int(rng.integers(len(parts)))]
    elif how == "mix":
        more = chunks(other)
        parts.insert(int(rng.integers(len(parts) + 1)), more[int(rng.integers(len(more)))])
    elif how == "swap":
        a, b = (int(n) for n in rng.integers(len(parts), size=2))
        parts[a], parts[b] = parts[b], parts[a]
    else:
        names = (b"PLTE", b"tRNS", b"gAMA", b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"acTL")
        data = rng.bytes(int(rng.integers(0, 800)))
        if rng.random() < 0.3:
            data = b"bomb\0\0" + zlib.compress(bytes(2 << 20), 9)
        name = bytes(names[int(rng.integers(len(names)))])
        parts.insert(int(rng.integers(len(parts))), (name, data))
    return Mutant(joined(parts), ".png", how, False)


# DICOM. Source of the layout: PS3.5, 7.1 and PS3.10, 7.1.
_LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC", b"UR", b"OF", b"OD", b"OL", b"OV", b"SV", b"UV")
_VALUES = (
    b"",
    b"0",
    b"-1",
    b"1e400",
    b"nan",
    b"inf\\1",
    b"9" * 40,
    b"1.2.3",
    b"\xff\xfe",
    b"a^b\\c",
)
_BY_CHANCE = 0.5  # of the mutants have bytes damaged as they lie


def dicom_seeds() -> list[tuple[str, bytes]]:
    """One slice, as it is, scaled and deflated; an enhanced image; a zip of a series."""
    from pydicom.uid import DeflatedExplicitVRLittleEndian
    from tests import studies

    volume = Volume(_phantom((9, 8, 3), np.uint16), studies.oblique())
    plain = studies.datasets(volume, **studies.T1W)
    deflated = studies.datasets(volume, 6, **studies.T2W)[1]
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    scaled = studies.datasets(volume, 7, slope=0.5, **studies.T1W)[0]
    with tempfile.TemporaryDirectory() as folder:
        ones = [plain[1], scaled, deflated, studies.enhanced(volume, 8)]
        paths = studies.save(Path(folder) / "ones", ones)
        seeds = [("", path.read_bytes()) for path in paths]
        packed = Path(folder) / "study.zip"
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in studies.save(Path(folder) / "series", plain):
                archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes())
        return [*seeds, (".zip", packed.read_bytes())]


def elements(content: bytes) -> list[tuple[int, int, int]]:
    """Elements of an explicit little-endian file: where each begins, its value, its end."""
    found, at = [], 132
    while at + 8 <= len(content):
        if content[at + 4 : at + 6] in _LONG:
            value, size = at + 12, int.from_bytes(content[at + 8 : at + 12], "little")
        else:
            value, size = at + 8, int.from_bytes(content[at + 6 : at + 8], "little")
        end = value + (0 if size == 0xFFFFFFFF else size)
        found.append((at, value, end))
        at = end
    return found


def damaged_dicom(rng: Random, seeds: list[tuple[str, bytes]]) -> Mutant:
    """Bytes damaged as they lie; or elements changed, lost, repeated, with lengths that lie."""
    suffix, content = seeds[int(rng.integers(len(seeds)))]
    _, other = seeds[int(rng.integers(len(seeds)))]
    if suffix == ".zip" and rng.random() < 0.5:  # where a CRC covers it
        with zipfile.ZipFile(BytesIO(content)) as archive:
            members = archive.infolist()
        member = members[int(rng.integers(len(members)))]
        inside = member.header_offset + 30 + len(member.filename)
        data = bytearray(content)
        data[inside + int(rng.integers(member.compress_size))] ^= 1 << int(rng.integers(8))
        return Mutant(bytes(data), suffix, "packed bytes: flip", True)
    if suffix == ".zip" or rng.random() < _BY_CHANCE:
        damaged, how = damaged_bytes(rng, content, other)
        return Mutant(damaged, suffix, f"bytes: {how}", False)
    at, value, end = elements(content)[int(rng.integers(len(elements(content))))]
    data, is_long = bytearray(content), content[at + 4 : at + 6] in _LONG
    how = str(rng.choice(["length", "type", "value", "value", "lose", "repeat", "tag"]))
    if how == "length":
        where, width = (at + 8, 4) if is_long else (at + 6, 2)
        size = int(rng.choice([0, 1, 2, 255, 65535, 2**31 - 1, 2**32 - 1]))
        data[where : where + width] = (size % 256**width).to_bytes(width, "little")
    elif how == "type":
        data[at + 4 : at + 6] = bytes(rng.choice([b"SQ", b"OB", b"DS", b"US", b"FD", b"PN", b"??"]))
    elif how == "value":
        text = bytes(_VALUES[int(rng.integers(len(_VALUES)))])
        text = text if rng.random() < 0.7 else rng.bytes(end - value)
        data[value:end] = text[: end - value].ljust(end - value)
    elif how == "lose":
        del data[at:end]
    elif how == "repeat":
        data[at:at] = data[at:end]
    else:
        data[at : at + 4] = rng.bytes(4)
    return Mutant(bytes(data), suffix, f"element: {how}", False)


KINDS = {
    "nifti": Kind(nifti_seeds, damaged_nifti),
    "png": Kind(png_seeds, damaged_png),
    "dicom": Kind(dicom_seeds, damaged_dicom),
}
