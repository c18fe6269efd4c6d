"""`inspect`, which reads headers, calls no file usable that `translate` refuses."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import UID
from tests.conftest import ellipsoids
from tests.faults.table import Workshop
from tests.fuzz.mutants import chunks, joined
from tests.studies import T1W, datasets, enhanced, marked, oblique, save

from mrbridge.volume import Volume

GOLDEN = Path(__file__).parents[1] / "data" / "golden-bundle"
SHAPE = (24, 20, 6)
NAN, INF = float("nan"), float("inf")

HEADERS: dict[str, dict[str, Any]] = {
    "whole": {},
    "NaN sform": {"srow_x": [NAN, 0, 0, 0], "qform_code": 0},
    "infinite sform": {"srow_y": [0, INF, 0, 0], "qform_code": 0},
    "singular sform": {"srow_z": [0, 0, 0, 0], "qform_code": 0},
    "NaN sform, with a qform": {"srow_x": [NAN, 0, 0, 0]},
    "tiny voxels": {"srow_x": [1e-12, 0, 0, 0], "qform_code": 0},
    "huge voxels": {"srow_x": [1e12, 0, 0, 0], "qform_code": 0},
    "small voxels": {"srow_x": [1e-3, 0, 0, 0], "qform_code": 0},
    "thin slices": {"srow_z": [0, 0, 1e-4, 0], "qform_code": 0},
    "metres": {"xyzt_units": 1},
    "micrometres": {"xyzt_units": 3},
    "no orientation": {"sform_code": 0, "qform_code": 0},
    "NaN quaternion": {"sform_code": 0, "quatern_b": NAN},
    "long quaternion": {"sform_code": 0, "quatern_b": 3},
    "no spacing": {"sform_code": 0, "pixdim": [1, 0, 0, 0, 0, 0, 0, 0]},
    "NaN spacing": {"sform_code": 0, "pixdim": [1, NAN, 1, 1, 0, 0, 0, 0]},
    "negative spacing": {"sform_code": 0, "pixdim": [1, -1, 1, 1, 0, 0, 0, 0]},
    "no axes": {"dim": [0, *SHAPE, 1, 1, 1, 1]},
    "nine axes": {"dim": [9, *SHAPE, 1, 1, 1, 1]},
    "two axes": {"dim": [2, *SHAPE, 1, 1, 1, 1]},
    "zero axis": {"dim": [3, 24, 0, 6, 1, 1, 1, 1]},
    "zero axes": {"dim": [3, 0, 0, 0, 1, 1, 1, 1]},
    "negative axis": {"dim": [3, 24, -20, 6, 1, 1, 1, 1]},
    "negative axes": {"dim": [3, -24, -20, 6, 1, 1, 1, 1]},
    "35e12 voxels": {"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]},
    "twice the voxels": {"dim": [3, 24, 20, 12, 1, 1, 1, 1]},
    "half the voxels": {"dim": [3, 24, 20, 3, 1, 1, 1, 1]},
    "one row": {"dim": [3, 24, 1, 6, 1, 1, 1, 1]},
    "several volumes": {"dim": [4, 24, 20, 3, 2, 1, 1, 1]},
    "five axes": {"dim": [5, 24, 20, 3, 1, 2, 1, 1]},
    "negative volumes": {"dim": [4, 24, 20, 6, -1, 1, 1, 1]},
    "RGB": {"datatype": 128, "bitpix": 24},
    "RGBA": {"datatype": 2304, "bitpix": 32},
    "complex64": {"datatype": 32, "bitpix": 64},
    "complex128": {"datatype": 1792, "bitpix": 128},
    "complex256": {"datatype": 2048, "bitpix": 256},
    "bits": {"datatype": 1, "bitpix": 1},
    "no type": {"datatype": 0},
    "unknown type": {"datatype": 4242},
    "wrong bitpix": {"bitpix": 77},
    "voxels beyond": {"vox_offset": 1e6},
    "voxels just beyond": {"vox_offset": 368},
    "voxels in the header": {"vox_offset": 100},
    "voxels at NaN": {"vox_offset": NAN},
    "voxels at infinity": {"vox_offset": INF},
    "voxels before": {"vox_offset": -352},
    "voxels at 2e9": {"vox_offset": 2e9},
    "NaN slope": {"scl_slope": NAN},
    "infinite slope": {"scl_slope": INF},
    "zero slope": {"scl_slope": 0},
    "NaN intercept": {"scl_inter": NAN},
    "infinite intercept": {"scl_inter": -INF},
    "another number": {"magic": b"nope"},
    "of a program": {"descrip": b"synthetic T2w by another program"},
    "of other intent": {"intent_code": 1002},
    "statistic": {"intent_code": 3},
    "of a pair": {"magic": b"ni1"},
    "no number": {"magic": b""},
    "wrong header size": {"sizeof_hdr": 1},
}
"""Fields of a header that is whole otherwise."""

CONTENT: dict[str, Callable[[bytes], bytes]] = {
    "one byte short": lambda whole: whole[:-1],
    "half": lambda whole: whole[: len(whole) // 2],
    "header only": lambda whole: whole[:352],
    "half a header": lambda whole: whole[:200],
    "empty": lambda whole: b"",
    "one byte": lambda whole: b"\0",
    "bytes behind": lambda whole: whole + bytes(100),
    "text": lambda whole: b"<html>not found</html>" * 50,
    "gzip inside": lambda whole: gzip.compress(whole),
    "gzip twice inside": lambda whole: gzip.compress(gzip.compress(whole)),
    "zip": lambda whole: b"PK\3\4" + whole,
}
"""What becomes of a whole file before it is compressed."""

PACKED: dict[str, Callable[[bytes], bytes]] = {
    "half packed": lambda packed: packed[: len(packed) // 2],
    "without its end": lambda packed: packed[:-4],
    "without its CRC": lambda packed: packed[:-8],
    "one byte missing": lambda packed: packed[:-1],
    "wrong size": lambda packed: packed[:-4] + b"\1\2\3\4",
    "zeros behind": lambda packed: packed + bytes(1000),
    "garbage behind": lambda packed: packed + b"x" * 1000,
    "two members": lambda packed: packed + gzip.compress(b"more"),
    "a bomb behind": lambda packed: packed + gzip.compress(bytes(16 << 20)),
    "gzip header only": lambda packed: packed[:10],
    "long size": lambda packed: packed[:-4] + struct.pack("<I", 2**32 - 1),
}
"""What becomes of a whole `.nii.gz`."""


def nifti(**fields: Any) -> bytes:
    """The bytes of a NIfTI-1 file with these fields of its header."""
    volume = ellipsoids(1, "T1w", SHAPE)
    voxels = volume.voxels + np.random.default_rng(0).integers(0, 9, SHAPE)
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(SHAPE)
    header.set_sform(volume.affine, code=1)
    header.set_qform(volume.affine, code=1)
    header.set_xyzt_units("mm")
    header["vox_offset"], header["magic"] = 352, b"n+1"
    for name, value in fields.items():
        header[name] = value
    return bytes(header.binaryblock) + bytes(4) + voxels.astype(np.int16).tobytes(order="F")


def files() -> Iterator[tuple[str, bytes]]:
    """Names and contents of all files."""
    whole = nifti()
    for name, fields in HEADERS.items():
        yield f"{name}_T1w.nii", nifti(**fields)
        yield f"{name}_packed_T1w.nii.gz", gzip.compress(nifti(**fields), 1)
    for name, change in CONTENT.items():
        yield f"{name}_T1w.nii", change(whole)
        yield f"{name}_packed_T1w.nii.gz", gzip.compress(change(whole), 1)
    for name, change in PACKED.items():
        yield f"{name}_T1w.nii.gz", change(gzip.compress(whole, 1))
    yield from images2d()


def images2d() -> Iterator[tuple[str, bytes]]:
    """PNG files of the same kinds."""

    def png(rows: int, columns: int, depth: int, kind: int, lines: bytes) -> bytes:
        head = struct.pack(">IIBBBBB", columns, rows, depth, kind, 0, 0, 0)
        return joined([(b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")])

    grey = b"".join(b"\0" + bytes(range(n, n + 64)) for n in range(64))
    whole = png(64, 64, 8, 0, grey)
    head, pixels, end = chunks(whole)
    yield "whole_T1w.png", whole
    yield "half_T1w.png", whole[: len(whole) // 2]
    yield "one byte short_T1w.png", whole[:-1]
    yield "empty_T1w.png", b""
    yield "text_T1w.png", b"not an image"
    yield "no end_T1w.png", joined([head, pixels])
    yield "no pixels_T1w.png", joined([head, end])
    yield "wrong CRC_T1w.png", whole.replace(pixels[1], pixels[1][:-1] + b"\0")
    yield "too large_T1w.png", png(9000, 9000, 8, 0, bytes(9000))
    yield "zero size_T1w.png", png(0, 64, 8, 0, b"")
    yield "one bit_T1w.png", png(64, 64, 1, 0, bytes(64 * 9))
    yield "colour_T1w.png", png(64, 64, 8, 2, b"\0" + bytes([9, 90, 200] * 64) + bytes(63 * 193))
    yield "too few rows_T1w.png", png(64, 64, 8, 0, grey[:1000])
    yield "another format_T1w.png", nifti()
    text = (b"tEXt", b"Description\0Synthetic T2w by another program")
    yield "of a program_T1w.png", joined([head, text, pixels, end])


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str | None, str | None]]:
    """Of each file, why `inspect` says that it cannot be used, and why `translate` refuses it."""
    folder = tmp_path_factory.mktemp("agree")
    (folder / "in").mkdir()
    for name, content in files():
        (folder / "in" / name).write_bytes(content)
    run = Workshop(folder).run
    done = run("inspect", folder / "in", "--json")
    assert (done.code, done.err) == (0, "")
    items = json.loads(done.out.splitlines()[-1])["items"]
    done = run("translate", "-i", folder / "in", "-o", folder / "out", "-m", GOLDEN)
    assert "Traceback" not in done.err
    report = json.loads((folder / "out" / "report.json").read_text())
    failed = {row["source"]: row["error"] for row in report["failed"]}
    made = {Path(row["source"]).name for row in report["done"]}
    assert made | failed.keys() == {item["name"] for item in items}
    return {item["name"]: (item["problem"], failed.get(item["name"])) for item in items}


@pytest.mark.parametrize("name", sorted(dict(files())))
def test_a_file(name: str, judged: dict[str, tuple[str | None, str | None]]) -> None:
    problem, error = judged[name]
    assert (problem is None) == (error is None), (problem, error)
    assert name.startswith("whole") <= (problem is None)


def test_some_are_usable_and_most_are_not(
    judged: dict[str, tuple[str | None, str | None]],
) -> None:
    usable = sum(problem is None for problem, _ in judged.values())
    assert 20 < usable < len(judged) / 2


def cut(one: pydicom.Dataset) -> None:
    one.PixelData = one.PixelData[:-100]


def film(one: pydicom.Dataset) -> None:
    one.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.102")
    one.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    one["PixelData"].is_undefined_length = True


STUDIES: dict[str, Callable[[pydicom.Dataset], Any]] = {
    "whole": lambda one: None,
    "no pixels": lambda one: delattr(one, "PixelData"),
    "short pixels": cut,
    "long pixels": lambda one: setattr(one, "PixelData", one.PixelData * 2),
    "no rows": lambda one: setattr(one, "Rows", 0),
    "other rows": lambda one: setattr(one, "Rows", 30),
    "65535 rows": lambda one: setattr(one, "Rows", 65535),
    "no Rows": lambda one: delattr(one, "Rows"),
    "17 bits": lambda one: setattr(one, "BitsAllocated", 17),
    "no BitsAllocated": lambda one: delattr(one, "BitsAllocated"),
    "1 bit": lambda one: setattr(one, "BitsAllocated", 1),
    "32 bits": lambda one: setattr(one, "BitsAllocated", 32),
    "stored in more bits": lambda one: setattr(one, "BitsStored", 40),
    "BitsStored of 0": lambda one: setattr(one, "BitsStored", 0),
    "no BitsStored": lambda one: delattr(one, "BitsStored"),
    "no HighBit": lambda one: delattr(one, "HighBit"),
    "no SamplesPerPixel": lambda one: delattr(one, "SamplesPerPixel"),
    "no PixelRepresentation": lambda one: delattr(one, "PixelRepresentation"),
    "high bit": lambda one: setattr(one, "HighBit", 40),
    "colour": lambda one: setattr(one, "SamplesPerPixel", 3),
    "palette": lambda one: setattr(one, "PhotometricInterpretation", "PALETTE COLOR"),
    "no photometry": lambda one: delattr(one, "PhotometricInterpretation"),
    "unknown photometry": lambda one: setattr(one, "PhotometricInterpretation", "NONE"),
    "RGB": lambda one: setattr(one, "PhotometricInterpretation", "RGB"),
    "slope of 0": lambda one: setattr(one, "RescaleSlope", 0),
    "no position": lambda one: delattr(one, "ImagePositionPatient"),
    "zero orientation": lambda one: setattr(one, "ImageOrientationPatient", [0] * 6),
    "skewed orientation": lambda one: setattr(one, "ImageOrientationPatient", [1, 0, 0, 1, 0, 0]),
    "no spacing": lambda one: setattr(one, "PixelSpacing", [0, 0]),
    "no PixelSpacing": lambda one: delattr(one, "PixelSpacing"),
    "MPEG": film,
    "tiny pixels": lambda one: setattr(one, "PixelSpacing", [0.002, 0.002]),
    "huge pixels": lambda one: setattr(one, "PixelSpacing", [900, 900]),
    "another patient": lambda one: setattr(one, "PatientID", "9"),
    "another study": lambda one: setattr(one, "StudyInstanceUID", "1.2.3"),
    "unsigned": lambda one: setattr(one, "PixelRepresentation", 2),
    "several frames": lambda one: setattr(one, "NumberOfFrames", 3),
    "CT": lambda one: setattr(one, "Modality", "CT"),
}
"""What becomes of the slices of a study."""


@pytest.mark.parametrize("of", ["all", "one"])
@pytest.mark.parametrize("name", STUDIES)
def test_a_study(name: str, of: str, run: Callable[..., Any], tmp_path: Path) -> None:
    made = datasets(marked((20, 24, 5)), **T1W)
    for one in made if of == "all" else made[2:3]:
        STUDIES[name](one)
    save(tmp_path / "study", made)
    agree(run, tmp_path, usable=name == "whole")


def test_an_enhanced_study(run: Callable[..., Any], tmp_path: Path) -> None:
    volume = Volume(marked((20, 24, 5)).voxels, oblique())
    whole = enhanced(volume, **T1W)
    for number, change in enumerate((lambda one: None, cut)):
        change(whole)
        folder = tmp_path / str(number)
        save(folder / "study", [whole])
        agree(run, folder, usable=number == 0)


def agree(run: Callable[..., Any], folder: Path, usable: bool) -> None:
    code, out, err = run("inspect", folder / "study", "--json")
    summary = json.loads(out.splitlines()[-1])
    items = summary.get("items", [])
    code, _, err = run("translate", "-i", folder / "study", "-o", folder / "out", "-m", GOLDEN)
    assert any(item["problem"] is None for item in items) == (code == 0), (items, err)
    assert usable <= (code == 0), err
