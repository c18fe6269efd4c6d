"""Faults of scans: what is in a file."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image
from tests.data.golden_bundle import scan
from tests.faults.table import Outcome, Workshop, fault, law
from tests.fuzz.mutants import chunks, joined

NAME = "sub-01_T1w.nii.gz"


def stored(dtype: Any = np.int16, shape: tuple[int, ...] | None = None) -> tuple[Any, bytes]:
    """Header and voxels of an intact scan, to be damaged."""
    volume = scan()
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape or volume.voxels.shape)
    header.set_sform(volume.affine, code=1)
    header.set_qform(volume.affine, code=1)
    header.set_xyzt_units("mm")
    header["vox_offset"], header["magic"] = 352, b"n+1"
    return header, volume.voxels.astype(dtype).tobytes(order="F")


def put(header: Any, voxels: bytes, name: str = NAME, behind: bytes = b"") -> Path:
    """Write them, packed where the name says so."""
    content = header.binaryblock + bytes(4) + voxels + behind
    Path(name).write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    return Path(name)


def made(path: str = "out.nii.gz") -> Any:
    """What was translated: finite, marked."""
    image = nib.load(path)
    assert np.isfinite(image.get_fdata()).all()
    assert image.header["descrip"].item().startswith(b"synthetic")
    return image


def same_place(path: Path, out: str = "out.nii.gz") -> None:
    """Shape and every byte of the geometry are those of the source."""
    source, result = nib.load(path).header, made(out).header
    for name in ("srow_x", "srow_y", "srow_z", "pixdim", "dim", "sform_code", "qform_code"):
        assert source[name].tobytes() == result[name].tobytes()


@fault("damage")
def metres(workshop: Workshop) -> Outcome:
    """A header in metres instead of millimetres"""
    header, voxels = stored()
    header.set_xyzt_units("meter")
    return workshop.refuses(put(header, voxels))


@fault("damage")
def micrometres(workshop: Workshop) -> Outcome:
    """A header in micrometres instead of millimetres"""
    header, voxels = stored()
    header.set_xyzt_units("micron")
    return workshop.refuses(put(header, voxels))


@fault("damage")
def truncated(workshop: Workshop) -> Outcome:
    """A `.nii.gz` that is truncated"""
    path = put(*stored())
    path.write_bytes(path.read_bytes()[:-30])
    return workshop.refuses(path)


@fault("damage")
def truncated_plain(workshop: Workshop) -> Outcome:
    """A `.nii` that is truncated"""
    path = put(*stored(), name="sub-01_T1w.nii")
    path.write_bytes(path.read_bytes()[:-30])
    return workshop.refuses(path)


@fault("damage")
def copied_in_part(workshop: Workshop) -> Outcome:
    """A `.nii` of the right size whose second half was not copied and is zero"""
    header, voxels = stored(shape=(54, 60, 12))
    voxels = scan().voxels.repeat(3, 0).repeat(3, 1).repeat(4, 2).tobytes(order="F")
    half = len(voxels) // 2 - 3000
    path = put(header, voxels[:half] + bytes(len(voxels) - half), name="sub-01_T1w.nii")
    return workshop.translate(path)


@fault("damage")
def flipped(workshop: Workshop) -> Outcome:
    """A flipped bit in a `.nii.gz`"""
    path = put(*stored())
    content = bytearray(path.read_bytes())
    content[-7] ^= 1  # of the CRC: all voxels are there and right
    path.write_bytes(content)
    return workshop.refuses(path)


@fault("damage")
def promise(workshop: Workshop) -> Outcome:
    """A header that promises more than the file holds"""
    header, voxels = stored()
    header["dim"][1:4] = 600, 500, 400
    return workshop.refuses(put(header, voxels))


@fault("damage")
def oversized(workshop: Workshop) -> Outcome:
    """A header that promises more than any scan has"""
    header, voxels = stored()
    header["dim"][1:4] = 32767, 32767, 32767
    return workshop.refuses(put(header, voxels))


@fault("damage")
def half_a_header(workshop: Workshop) -> Outcome:
    """A header that promises fewer voxels than the file holds"""
    header, voxels = stored()
    return workshop.refuses(put(header, voxels * 4, name="sub-01_T1w.nii"))


@fault("damage")
def gzip_bomb(workshop: Workshop) -> Outcome:
    """A gzip bomb after the voxels"""
    return workshop.refuses(put(*stored(), behind=bytes(16 << 20)))


@fault("damage")
def no_nifti(workshop: Workshop) -> Outcome:
    """A file that is not NIfTI, with the name of one"""
    Path(NAME).write_text("The page could not be found. " * 40)
    return workshop.refuses(NAME)


def picture() -> bytes:
    """A whole PNG."""
    grey = scan().voxels[:, :, 1] // 4
    Image.fromarray(grey.astype(np.uint8)).save("whole.png")
    return Path("whole.png").read_bytes()


@fault("damage")
def flipped_png(workshop: Workshop) -> Outcome:
    """A flipped bit in a PNG"""
    content = bytearray(picture())
    content[content.index(b"IDAT") + 20] ^= 1
    Path("slice_T1w.png").write_bytes(content)
    return workshop.refuses("slice_T1w.png", out="out.png")


@fault("damage")
def wrong_pixels_png(workshop: Workshop) -> Outcome:
    """A PNG whose pixels are not those that were packed (Adler-32)"""
    parts = dict(chunks(picture()))
    rows = bytearray(zlib.compress(zlib.decompress(parts[b"IDAT"]), 0))
    rows[100] ^= 1
    parts[b"IDAT"] = bytes(rows)
    Path("slice_T1w.png").write_bytes(joined(list(parts.items())))
    return workshop.refuses("slice_T1w.png", out="out.png")


@fault("damage")
def png_bomb(workshop: Workshop) -> Outcome:
    """A PNG that promises more than 4 million pixels"""
    parts = dict(chunks(picture()))
    parts[b"IHDR"] = (9000).to_bytes(4, "big") * 2 + parts[b"IHDR"][8:]
    Path("slice_T1w.png").write_bytes(joined(list(parts.items())))
    return workshop.refuses("slice_T1w.png", out="out.png")


law("damage", "any damage at all: a minute of mutants", "tests/fuzz/test_readers.py::test_a_minute")
law("damage", "truncation at any length", "tests/contracts/test_formats.py::test_truncation_is_refused_at_any_length")  # fmt: skip  # noqa: E501
law("damage", "other wrong headers", "tests/io/test_nifti.py::test_wrong_headers_are_refused")  # fmt: skip  # noqa: E501


@fault("values")
def not_finite(workshop: Workshop) -> Outcome:
    """NaN and infinity in some voxels"""
    header, voxels = stored(np.float32)
    values = np.frombuffer(voxels, np.float32).copy()
    values[[700, 701, 702]] = np.nan, np.inf, -np.inf
    outcome = workshop.translate(put(header, values.tobytes()))
    made()
    return outcome


@fault("values")
def padded(workshop: Workshop) -> Outcome:
    """Surroundings filled with -1000 by a tool"""
    header, voxels = stored()
    values = np.frombuffer(voxels, np.int16).reshape(header.get_data_shape(), order="F").copy()
    values[:2] = -1000
    outcome = workshop.translate(put(header, values.tobytes(order="F")))
    assert (made().get_fdata()[:2] == 0).all()
    return outcome


@fault("values")
def nothing_finite(workshop: Workshop) -> Outcome:
    """NaN in all voxels"""
    header, voxels = stored(np.float32)
    return workshop.refuses(put(header, np.full(len(voxels) // 4, np.nan, "f4").tobytes()))


@fault("values")
def constant(workshop: Workshop) -> Outcome:
    """An image of one value"""
    header, voxels = stored()
    return workshop.refuses(put(header, np.full(len(voxels) // 2, 7, np.int16).tobytes()))


@fault("values")
def no_length(workshop: Workshop) -> Outcome:
    """An axis of length zero"""
    header, voxels = stored()
    header["dim"][2] = 0
    return workshop.refuses(put(header, voxels))


law("values", "what is not finite is never written", "tests/contracts/test_formats.py::test_values_that_are_not_finite_are_never_written")  # fmt: skip  # noqa: E501


@fault("kinds")
def four_axes(workshop: Workshop) -> Outcome:
    """Several volumes in one file"""
    header, voxels = stored(shape=(18, 20, 3, 2))
    return workshop.refuses(put(header, voxels * 2))


@fault("kinds")
def one_of_several(workshop: Workshop) -> Outcome:
    """The same with `--volume 1`"""
    header, voxels = stored(shape=(18, 20, 3, 2))
    outcome = workshop.translate(put(header, bytes(len(voxels)) + voxels), "--volume", 1)
    assert made().shape == (18, 20, 3)
    return outcome


@fault("kinds")
def no_such_volume(workshop: Workshop) -> Outcome:
    """A volume that the file does not have"""
    header, voxels = stored(shape=(18, 20, 3, 2))
    return workshop.refuses(put(header, voxels * 2), "--volume", 2)


@fault("kinds")
def colour(workshop: Workshop) -> Outcome:
    """RGB voxels"""
    header, voxels = stored()
    header.set_data_dtype(np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    return workshop.refuses(put(header, voxels * 2))


@fault("kinds")
def complex_numbers(workshop: Workshop) -> Outcome:
    """Complex voxels"""
    return workshop.refuses(put(*stored(np.complex64)))


@fault("kinds")
def long_numbers(workshop: Workshop) -> Outcome:
    """Complex voxels of 256 bits"""
    header, voxels = stored(np.complex64)
    header["datatype"], header["bitpix"] = 2048, 256
    return workshop.refuses(put(header, voxels * 4))


@fault("kinds")
def single_bits(workshop: Workshop) -> Outcome:
    """Voxels of one bit"""
    header, voxels = stored()
    header["datatype"], header["bitpix"] = 1, 1
    return workshop.refuses(put(header, voxels))


@fault("kinds")
def coloured_picture(workshop: Workshop) -> Outcome:
    """A 2D image in colour"""
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[4, 4] = 200, 80, 70
    Image.fromarray(pixels).save("slice_T1w.png")
    return workshop.refuses("slice_T1w.png", out="out.png")


@fault("kinds")
def tinted_picture(workshop: Workshop) -> Outcome:
    """A 2D image with a small tint"""
    picture()
    grey = np.array(Image.open("whole.png"))
    pixels = np.stack([grey, grey, np.clip(grey, 3, None) - 3], axis=2)
    Image.fromarray(pixels).save("slice_T1w.png")
    return workshop.translate("slice_T1w.png", out="out.png")


@fault("kinds")
def transparent_picture(workshop: Workshop) -> Outcome:
    """A 2D image with transparent pixels"""
    picture()
    grey = np.array(Image.open("whole.png"))
    alpha = np.where(grey == 0, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([grey, alpha])).save("slice_T1w.png")
    return workshop.translate("slice_T1w.png", out="out.png")


law("kinds", "trailing axes of length 1 are dropped", "tests/io/test_nifti.py::test_axes_of_length_one")  # fmt: skip  # noqa: E501


@fault("geometry")
def one_slice(workshop: Workshop) -> Outcome:
    """One thick slice of an odd size"""
    header, voxels = stored(shape=(17, 19, 1))
    header["pixdim"][3] = 5
    path = put(header, voxels[: 17 * 19 * 2])
    outcome = workshop.translate(path)
    same_place(path)
    return outcome


@fault("geometry")
def one_coronal_slice(workshop: Workshop) -> Outcome:
    """A single coronal slice"""
    header, voxels = stored(shape=(17, 1, 19))
    return workshop.refuses(put(header, voxels[: 17 * 19 * 2]))


@fault("geometry")
def line_of_pixels(workshop: Workshop) -> Outcome:
    """A 2D image of one row"""
    Image.fromarray(np.arange(40, dtype=np.uint8)[None]).save("slice_T1w.png")
    return workshop.refuses("slice_T1w.png", out="out.png")


@fault("geometry")
def sheared(workshop: Workshop) -> Outcome:
    """A sheared affine"""
    header, voxels = stored()
    header["qform_code"], header["srow_x"] = 0, [-1, 0.3, 0.1, 9]
    path = put(header, voxels)
    outcome = workshop.translate(path)
    same_place(path)
    return outcome


law("geometry", "all 48 orientations", "tests/inference/test_geometry_laws.py::test_the_identity_gives_back_every_orientation_bit_for_bit")  # fmt: skip  # noqa: E501
law("geometry", "how a scan is stored does not change what is made of it", "tests/inference/test_geometry_laws.py::test_how_a_scan_is_stored_does_not_change_its_translation")  # fmt: skip  # noqa: E501
law("geometry", "codes and units, bit for bit", "tests/inference/test_geometry_laws.py::test_codes_units_and_axes_come_back_bit_for_bit")  # fmt: skip  # noqa: E501


@fault("orientation")
def forms_differ(workshop: Workshop) -> Outcome:
    """qform and sform differ"""
    header, voxels = stored()
    header["qoffset_x"] = 30
    path = put(header, voxels)
    outcome = workshop.translate(path)
    same_place(path)
    return outcome


@fault("orientation")
def no_form(workshop: Workshop) -> Outcome:
    """Neither qform nor sform"""
    header, voxels = stored()
    header["qform_code"] = header["sform_code"] = 0
    return workshop.refuses(put(header, voxels))


@fault("orientation")
def assumed(workshop: Workshop) -> Outcome:
    """The same with `--assume LPS`"""
    header, voxels = stored()
    header["qform_code"] = header["sform_code"] = 0
    path = put(header, voxels)
    outcome = workshop.translate(path, "--assume", "LPS")
    same_place(path)
    return outcome


@fault("orientation")
def singular(workshop: Workshop) -> Outcome:
    """A singular affine"""
    header, voxels = stored()
    header["srow_z"], header["qform_code"] = 0, 0
    return workshop.refuses(put(header, voxels))


@fault("orientation")
def flat_sform(workshop: Workshop) -> Outcome:
    """A singular sform and a valid qform"""
    header, voxels = stored()
    header["srow_z"] = 0
    return workshop.translate(put(header, voxels))


@fault("orientation")
def other_spacing(workshop: Workshop) -> Outcome:
    """Voxel sizes (pixdim) that are not those of the sform, and no qform"""
    header, voxels = stored()
    header["qform_code"] = 0
    header["pixdim"][3] *= 2
    return workshop.translate(put(header, voxels))


@fault("numbers")
def other_bits(workshop: Workshop) -> Outcome:
    """A number of bits (bitpix) that is not that of the data type"""
    header, voxels = stored()
    header["bitpix"] = 32
    return workshop.translate(put(header, voxels))


@fault("numbers")
def unsigned_as_signed(workshop: Workshop) -> Outcome:
    """uint16 declared as int16, so that bright voxels are negative"""
    header, voxels = stored()
    values = np.frombuffer(voxels, np.int16).astype(float)
    values *= 60_000 / values.max()
    return workshop.refuses(put(header, values.astype(np.uint16).tobytes()))


@fault("numbers")
def extreme_scale(workshop: Workshop) -> Outcome:
    """A scale of 1e30 in the header"""
    header, voxels = stored()
    header["scl_slope"], header["scl_inter"] = 1e30, 0
    outcome = workshop.translate(put(header, voxels))
    values, outside = made().get_fdata(), np.frombuffer(voxels, np.int16) == 0
    assert values.min() >= 0
    assert (values.ravel(order="F")[outside] < 100).mean() > 0.5
    return outcome


@fault("numbers")
def infinite_scale(workshop: Workshop) -> Outcome:
    """An infinite intercept in the header"""
    header, voxels = stored()
    header["scl_slope"], header["scl_inter"] = 1, np.inf
    return workshop.refuses(put(header, voxels))


@fault("numbers")
def no_number_type(workshop: Workshop) -> Outcome:
    """A number type that results cannot have"""
    return workshop.refuses(put(*stored()), "--dtype", "int64")


law("numbers", "extreme scales do not wrap", "tests/io/test_nifti.py::test_scales_are_applied_without_wrapping")  # fmt: skip  # noqa: E501
law("numbers", "results of whole numbers do not wrap", "tests/inference/test_integers.py::test_nothing_wraps")  # fmt: skip  # noqa: E501
law("numbers", "background zero stays zero", "tests/dataset/test_prepare.py::test_preprocessing_is_undone")  # fmt: skip  # noqa: E501


@fault("contrast")
def synthetic_already(workshop: Workshop) -> Outcome:
    """A scan that mrbridge wrote"""
    assert workshop.translate(put(*stored())).code == 0
    return workshop.refuses("out.nii.gz", out="again.nii.gz")


@fault("contrast")
def wanted_already(workshop: Workshop) -> Outcome:
    """A scan of the wanted contrast"""
    return workshop.refuses(put(*stored()), "--to", "T1w")


@fault("contrast")
def another_contrast(workshop: Workshop) -> Outcome:
    """A scan of a contrast that the model does not know"""
    return workshop.refuses(put(*stored(), name="sub-01_FLAIR.nii.gz"))


@fault("contrast")
def forced(workshop: Workshop) -> Outcome:
    """A scan that mrbridge wrote, with `--force`"""
    assert workshop.translate(put(*stored())).code == 0
    outcome = workshop.translate("out.nii.gz", "--force", out="again.nii.gz")
    made("again.nii.gz")
    return outcome


@fault("contrast")
def trained_on_synthetic(workshop: Workshop) -> Outcome:
    """Synthetic scans among those to train on"""
    assert workshop.translate(put(*stored())).code == 0
    Path("scans").mkdir()
    put(*stored(), name="scans/a_T1w.nii.gz")
    Path("out.nii.gz").rename("scans/a_T2w.nii.gz")
    return workshop.run("prepare", "scans", "-o", "store")


@fault("names")
def name_in_header(workshop: Workshop) -> Outcome:
    """A patient's name in the header and in an extension"""
    header, voxels = stored()
    header["descrip"], header["db_name"], header["aux_file"] = 3 * [b"DOE^JANE"]
    header["vox_offset"] = 352 + 32
    extension = (32).to_bytes(4, "little") + (6).to_bytes(4, "little") + b"DOE^JANE".ljust(24)
    content = header.binaryblock + b"\1\0\0\0" + extension + voxels
    Path(NAME).write_bytes(gzip.compress(content))
    outcome = workshop.translate(NAME, "-v")
    assert "DOE" not in outcome.out + outcome.err
    for name, written in workshop.tree().items():
        if name != NAME:
            assert b"DOE" not in (gzip.decompress(written) if name.endswith("gz") else written)
    return outcome


@fault("names")
def name_in_picture(workshop: Workshop) -> Outcome:
    """A patient's name in the text chunk of a 2D image"""
    parts = chunks(picture())
    parts.insert(1, (b"tEXt", b"Title\0DOE^JANE"))
    Path("slice_T1w.png").write_bytes(joined(parts))
    outcome = workshop.translate("slice_T1w.png", "-v", out="out.png")
    assert b"DOE" not in Path("out.png").read_bytes()
    assert "DOE" not in outcome.out + outcome.err
    return outcome


law("names", "sidecars of the source are not copied", "tests/inference/test_dataset.py::test_what_a_sidecar_says")  # fmt: skip  # noqa: E501


def mask() -> Path:
    """The head of the scan as a mask, under the name of a scan."""
    header, _ = stored(np.uint8)
    return put(header, (scan().voxels > 0).astype(np.uint8).tobytes(order="F"))


@fault("unknown")
def mask_by_look(workshop: Workshop) -> Outcome:
    """A mask with the name of a T1w scan"""
    return workshop.refuses(mask())


@fault("unknown")
def forced_mask(workshop: Workshop) -> Outcome:
    """The same with `--force`"""
    outcome = workshop.translate(mask(), "--force")
    assert "refused, and translated by --force: is a mask" in outcome.err
    made()
    return outcome


@fault("unknown")
def small_object(workshop: Workshop) -> Outcome:
    """An object that is too small for a head"""
    outcome = workshop.translate(put(*stored()))
    assert "unusual: shows an object of" in outcome.err
    made()
    return outcome


law(
    "unknown",
    "the other contrast, CT, noise, phantom objects are refused by their look",
    "tests/inference/test_input_check.py::TestOfImages",
)
