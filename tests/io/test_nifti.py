"""NIfTI: the bytes of the geometry, and wrong headers of all kinds."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.spatial.transform import Rotation

from mrbridge import io
from mrbridge.errors import InputError, MrbridgeWarning, OutputError, SettingsError
from mrbridge.inspection.inspect import inspect
from mrbridge.io import nifti
from mrbridge.volume import Volume

GEOMETRY = (
    *("srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "pixdim", "xyzt_units"),
    *("sform_code", "qform_code", "dim"),
)


def header(kind: type = nib.Nifti1Header, endianness: str = "<") -> nib.Nifti1Header:
    """A header with numbers that no writer would make up."""
    result = kind(endianness=endianness)
    result.set_data_dtype(np.int16)
    result.set_data_shape((6, 5, 4))
    result["pixdim"] = [-1, 0.7, 0.8, 3.3, 2.1, 0, 0, 0]
    affine = np.array([[0, 0.8, 0.1, -3], [-0.7, 0, 0.2, 5], [0.1, 0.3, 3.3, 7], [0, 0, 0, 1.0]])
    result.set_sform(affine, code=4)
    result["xyzt_units"] = 10
    result["qform_code"] = 0
    result["descrip"] = b"scanner text"
    return result


def save(path: Path, head: nib.Nifti1Header, data: np.ndarray) -> Path:
    """Write exactly this header and these numbers."""
    head = head.copy()
    head["vox_offset"] = head.sizeof_hdr + 4
    head["magic"] = head.single_magic
    raw = data.astype(head.get_data_dtype()).tobytes(order="F")
    content = head.binaryblock + bytes(4) + raw
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def ramp(shape: tuple[int, ...] = (6, 5, 4)) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape, order="F")


def fields(path: Path) -> dict[str, bytes]:
    head = nib.load(path).header
    # nibabel's own reading is the witness.
    return {name: head[name].tobytes() for name in GEOMETRY}


@pytest.mark.parametrize("kind", [nib.Nifti1Header, nib.Nifti2Header])
@pytest.mark.parametrize("endianness", ["<", ">"])
def test_geometry_goes_back_byte_for_byte(kind: type, endianness: str, tmp_path: Path) -> None:
    source = save(tmp_path / "in.nii.gz", header(kind, endianness), ramp())
    volume = io.read(source)
    np.testing.assert_array_equal(volume.voxels, ramp())
    changed = Volume(volume.voxels * 0.5, volume.affine, volume.header)
    out = io.write(changed, tmp_path / "out.nii")
    assert fields(out) == fields(source)
    np.testing.assert_array_equal(nib.load(out).get_fdata(), ramp() * 0.5)
    assert nib.load(out).get_data_dtype().newbyteorder("=") == np.float32


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(*[st.integers(-180, 180)] * 3),
    st.tuples(*[st.floats(0.3, 6)] * 3),
    st.booleans(),
    st.integers(0, 4),
    st.integers(0, 4),
)
def test_any_affine_goes_back(angles, spacing, mirrored, qcode, scode) -> None:
    if not qcode and not scode:
        scode = 1
    head = nib.Nifti1Header()
    head.set_data_dtype(np.int16)
    head.set_data_shape((6, 5, 4))
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * spacing
    affine[:3, 0] *= -1 if mirrored else 1
    head.set_qform(affine, code=qcode)
    head.set_sform(affine, code=scode)
    with tempfile.TemporaryDirectory() as folder:
        source = save(Path(folder) / "in.nii", head, ramp())
        volume = io.read(source)
        np.testing.assert_allclose(volume.affine, affine, atol=2e-3)
        out = io.write(volume, Path(folder) / "out.nii")
        assert fields(out) == fields(source)
        np.testing.assert_array_equal(nib.load(out).affine, nib.load(source).affine)


@pytest.mark.parametrize(("code", "factor"), [(1, 1000), (3, 0.001)])
def test_metres_and_micrometres_become_millimetres(
    code: int, factor: float, tmp_path: Path
) -> None:
    head = header()
    plain = io.read(save(tmp_path / "mm.nii", head, ramp())).affine
    head["xyzt_units"] = code
    source = save(tmp_path / "other.nii", head, ramp())
    volume = io.read(source)
    assert plain is not None
    assert volume.affine is not None
    np.testing.assert_allclose(volume.affine[:3], plain[:3] * factor)
    assert fields(io.write(volume, tmp_path / "out.nii")) == fields(source)


def test_a_changed_affine_is_written(tmp_path: Path) -> None:
    volume = io.read(save(tmp_path / "in.nii", header(), ramp()))
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    out = io.write(Volume(volume.voxels, affine, volume.header), tmp_path / "out.nii")
    np.testing.assert_array_equal(nib.load(out).affine, affine)


def test_a_volume_made_here_gets_both_forms_unless_it_shears(tmp_path: Path) -> None:
    out = io.write(Volume(ramp(), np.diag([1.0, 2.0, 3.0, 1.0])), tmp_path / "a.nii")
    head = nib.load(out).header
    assert (head["sform_code"], head["qform_code"], head["xyzt_units"]) == (1, 1, 2)
    sheared = np.eye(4)
    sheared[0, 1] = 0.5
    out = io.write(Volume(ramp(), sheared), tmp_path / "b.nii")
    head = nib.load(out).header
    assert (head["sform_code"], head["qform_code"]) == (1, 0)
    np.testing.assert_array_equal(io.read(out).affine, sheared)


def test_equal_scans_have_equal_files(tmp_path: Path) -> None:
    volume = Volume(ramp(), np.eye(4))
    first = io.write(volume, tmp_path / "one.nii.gz").read_bytes()
    assert first == io.write(volume, tmp_path / "two.nii.gz").read_bytes()


def test_the_suffix_may_be_wrong_about_gzip(tmp_path: Path) -> None:
    plain = save(tmp_path / "a.nii", header(), ramp())
    packed = save(tmp_path / "b.nii.gz", header(), ramp())
    plain.rename(tmp_path / "c.nii.gz")
    packed.rename(tmp_path / "d.nii")
    for name in ("c.nii.gz", "d.nii"):
        np.testing.assert_array_equal(io.read(tmp_path / name).voxels, ramp())


def test_sform_wins_with_a_warning(tmp_path: Path) -> None:
    head = header()
    sform = head.get_sform()
    head.set_qform(np.diag([0.7, 0.8, 3.3, 1]), code=1)
    path = save(tmp_path / "in.nii", head, ramp())
    with pytest.warns(MrbridgeWarning, match="differ"):
        volume = io.read(path)
    np.testing.assert_array_equal(volume.affine, sform)
    assert "differ" in volume.notes[0]
    assert fields(io.write(volume, tmp_path / "out.nii")) == fields(path)


def both_forms() -> nib.Nifti1Header:
    """An oblique header whose qform and sform agree."""
    head = header()
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix() * (1, 1, 3)
    affine[:3, 3] = [-20, 30, -40]
    head["pixdim"][0] = 1
    head.set_qform(affine, code=1)
    head.set_sform(affine, code=1)
    return head


def test_a_damaged_end_of_the_magic_is_not_copied(tmp_path: Path) -> None:
    """NIfTI-2 ends its magic with line ends; nibabel refuses a file with others."""
    source = tmp_path / "source.nii"
    image = nib.Nifti2Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    nib.save(image, source)
    content = bytearray(source.read_bytes())
    content[8:12] = b"\n\n\x1a\n"  # as a transfer in text mode leaves it
    source.write_bytes(content)
    copy = io.write(io.read(source), tmp_path / "copy.nii")
    np.testing.assert_array_equal(nib.load(copy).get_fdata(), image.get_fdata())


@pytest.mark.parametrize("kind", [nib.Nifti1Header, nib.Nifti2Header])
@pytest.mark.parametrize("row", [[0, 0, 0, 0], [np.nan, 0, 0, 0]])
@pytest.mark.parametrize("rows", [("srow_x", "srow_y", "srow_z"), ("srow_z",)])
def test_an_unusable_sform_yields_to_a_whole_qform(
    rows: tuple[str, ...], row: list[float], kind: Any, tmp_path: Path
) -> None:
    head = kind.from_header(both_forms())
    qform = head.get_qform()
    for name in rows:
        head[name] = row
    path = save(tmp_path / "in.nii", head, ramp())
    with pytest.warns(MrbridgeWarning, match="sform is singular or not finite; the qform is used"):
        volume = io.read(path)
    np.testing.assert_array_equal(volume.affine, qform)
    out = io.write(volume, tmp_path / "out.nii")
    np.testing.assert_array_equal(nib.load(out).affine, qform)
    np.testing.assert_array_equal(io.read(out).affine, qform)  # without a warning
    (item,) = inspect(path).items
    assert item.problem is None
    assert item.spacing_mm == pytest.approx((1, 1, 3))


def test_voxel_sizes_that_are_not_those_of_the_sform(tmp_path: Path) -> None:
    head = header()
    head["pixdim"][1:4] = 0.7, 0.8, 1
    with pytest.warns(MrbridgeWarning, match=r"0.7 x 0.8 x 1 mm by pixdim and .* x 3.31 mm by sf"):
        read = io.read(save(tmp_path / "a.nii", head, ramp()))
    assert np.array_equal(read.affine, head.get_sform())


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("lie", ["half of the slices", "half of the bits"])
def test_a_file_with_twice_the_voxels(lie: str, suffix: str, tmp_path: Path) -> None:
    """A header of other voxels would read some of them, or nonsense."""
    whole, short = header(), header()
    shape = (30, 25, 8)
    whole.set_data_shape(shape)
    short.set_data_shape((*shape[:2], 4) if lie == "half of the slices" else shape)
    if lie == "half of the bits":
        whole.set_data_dtype(np.int32)
    path = save(tmp_path / f"a{suffix}", whole, ramp(shape))
    content = gzip.decompress(path.read_bytes()) if suffix == ".nii.gz" else path.read_bytes()
    short["vox_offset"], short["magic"] = 352, short.single_magic
    content = short.binaryblock + content[348:]
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    with pytest.raises(InputError, match=r"holds \d+ bytes, and its header promises"):
        io.read(path)
    (item,) = inspect(path).items
    assert "its header promises" in str(item.problem)


def test_bits_that_are_not_those_of_the_data_type(tmp_path: Path) -> None:
    head = header()
    head["bitpix"] = 32
    with pytest.warns(MrbridgeWarning, match="its bitpix is 32; its voxels are read as int16"):
        read = io.read(save(tmp_path / "a.nii", head, ramp()))
    assert np.array_equal(read.voxels, ramp())


def test_an_unusable_qform_yields_to_a_whole_sform(tmp_path: Path) -> None:
    head = both_forms()
    head["quatern_b"] = np.nan
    path = save(tmp_path / "in.nii", head, ramp())
    with pytest.warns(MrbridgeWarning, match="qform is singular or not finite; the sform is used"):
        volume = io.read(path)
    np.testing.assert_array_equal(volume.affine, head.get_sform())
    out = io.write(volume, tmp_path / "out.nii")
    np.testing.assert_array_equal(io.read(out).affine, head.get_sform())


@pytest.mark.parametrize("kind", [nib.Nifti1Header, nib.Nifti2Header])
@pytest.mark.parametrize("excess", [1e-7, 4e-7, 1e-5])
def test_a_quaternion_that_rounding_made_too_long(excess: float, kind: Any, tmp_path: Path) -> None:
    """SimpleITK 2.5 reads the same affine: a half turn about the line between i and j."""
    head = kind.from_header(both_forms())
    head["sform_code"], head["pixdim"][:4] = 0, [1, 1, 1, 3]
    head["quatern_b"] = head["quatern_c"] = np.sqrt((1 + excess) / 2)
    head["quatern_d"] = 0
    path = save(tmp_path / "in.nii", head, ramp())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MrbridgeWarning)
        volume = io.read(path)
    expected = [[0, 1, 0, -20], [1, 0, 0, 30], [0, 0, -3, -40], [0, 0, 0, 1]]
    np.testing.assert_allclose(volume.affine, expected, atol=1e-4)
    out = io.write(volume, tmp_path / "out.nii")
    np.testing.assert_array_equal(nib.load(out).affine, volume.affine)
    head["quatern_b"] = 0.8  # no rounding
    path = save(tmp_path / "in.nii", head, ramp())
    with pytest.raises(InputError, match=r"singular or not finite.*--assume"):
        io.read(path)


@pytest.mark.parametrize(("step", "used"), [(0, 1), (np.nan, 1), (-2, 2), (np.inf, 1)])
def test_a_step_across_the_only_slice_does_not_matter(
    step: float, used: float, tmp_path: Path
) -> None:
    head = both_forms()
    head.set_data_shape((6, 5, 1))
    head["sform_code"], whole = 0, head.get_qform()
    head["pixdim"][3] = step
    path = save(tmp_path / "in.nii", head, ramp((6, 5, 1)))
    with pytest.warns(MrbridgeWarning, match=f"axis 3, .* {used} is used"):
        volume = io.read(path)
    np.testing.assert_array_equal(volume.affine[:, [0, 1, 3]], whole[:, [0, 1, 3]])
    assert volume.spacing[2] == pytest.approx(used)
    out = io.write(volume, tmp_path / "out.nii")
    np.testing.assert_array_equal(nib.load(out).affine, volume.affine)
    assert inspect(path).items[0].problem is None
    head.set_data_shape((6, 5, 4))  # of several slices it matters
    path = save(tmp_path / "in.nii", head, ramp())
    with pytest.raises(InputError, match="--assume"):
        io.read(path)
    assert "--assume" in str(inspect(path).items[0].problem)
    with pytest.warns(MrbridgeWarning, match="RAS was assumed"):
        assumed = io.read(path, assume="RAS")
    out = io.write(assumed, tmp_path / "out.nii")
    np.testing.assert_allclose(io.read(out).affine, assumed.affine, atol=1e-5)


def test_an_sform_without_a_step_across_the_only_slice(tmp_path: Path) -> None:
    head = both_forms()
    head.set_data_shape((6, 5, 1))
    head["qform_code"], sform = 0, head.get_sform()
    for name in ("srow_x", "srow_y", "srow_z"):
        head[name][2] = 0
    path = save(tmp_path / "in.nii", head, ramp((6, 5, 1)))
    with pytest.warns(MrbridgeWarning, match="normal of the slice"):
        volume = io.read(path)
    sform[:3, 2] /= 3
    np.testing.assert_allclose(volume.affine, sform, atol=1e-5)


def test_a_negative_voxel_size_is_a_mirror_or_not(tmp_path: Path) -> None:
    head = both_forms()
    head["sform_code"], head["pixdim"][1] = 0, -1
    path = save(tmp_path / "in.nii", head, ramp())
    with pytest.raises(InputError, match="negative voxel size"):
        io.read(path)
    assert "negative voxel size" in str(inspect(path).items[0].problem)


def test_a_gzip_file_in_a_gzip_file(tmp_path: Path) -> None:
    once = save(tmp_path / "in.nii.gz", header(), ramp()).read_bytes()
    path = tmp_path / "twice.nii.gz"
    path.write_bytes(gzip.compress(once))
    with pytest.warns(MrbridgeWarning, match="compressed twice"):
        np.testing.assert_array_equal(io.read(path).voxels, ramp())
    assert inspect(path).items[0].problem is None
    path.write_bytes(gzip.compress(gzip.compress(once)))
    with pytest.raises(InputError, match="compressed three times"):
        io.read(path)
    for damaged in (once[:-4], once[:-6] + bytes(2) + once[-4:]):  # the inner CRC
        path.write_bytes(gzip.compress(damaged))
        with pytest.raises(InputError, match="damaged"):
            io.read(path)
    content = bytearray(gzip.compress(once))
    content[-6] ^= 1  # the outer CRC
    path.write_bytes(content)
    with pytest.raises(InputError, match="CRC"):
        io.read(path)


def test_bombs_in_either_of_two_gzip_layers(tmp_path: Path) -> None:
    once = save(tmp_path / "in.nii.gz", header(), ramp()).read_bytes()
    raw = gzip.decompress(once)
    path = tmp_path / "bomb.nii.gz"
    empty = gzip.compress(b"") * 200_000  # decompresses to nothing, at length
    for content in (
        gzip.compress(gzip.compress(raw + bytes(8 << 20))),
        gzip.compress(once + bytes(8 << 20)),
        gzip.compress(empty + once),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match="far more"):
            io.read(path)


@pytest.mark.parametrize(
    ("start", "kind"), [(b"PK\3\4", "zip archive"), (b"BZh9", "bzip2"), (b"\xfd7zXZ\0", "xz file")]
)
def test_archives_are_named(start: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / "in.nii.gz").write_bytes(start + bytes(500))
    with pytest.raises(InputError, match=f"{kind}.*Unpack"):
        io.read(tmp_path / "in.nii.gz")


def test_no_orientation_is_refused_unless_assumed(tmp_path: Path) -> None:
    head = header()
    head["sform_code"] = 0
    path = save(tmp_path / "in.nii", head, ramp())
    with pytest.raises(InputError, match="orientation"):
        io.read(path)
    for code in ("RAS", "lps", "SAR", "PIL"):
        with pytest.warns(MrbridgeWarning, match="assumed"):
            volume = io.read(path, assume=code)
        assert volume.affine is not None
        assert "".join(nib.aff2axcodes(volume.affine)) == code.upper()
        np.testing.assert_allclose(volume.spacing, (0.7, 0.8, 3.3), rtol=1e-6)
        centre = volume.affine @ [2.5, 2, 1.5, 1]
        np.testing.assert_allclose(centre[:3], 0, atol=1e-6)
        assert fields(io.write(volume, tmp_path / "out.nii")) == fields(path)
    for nonsense in ("RAX", "RLS", "RA", ""):
        with pytest.raises(SettingsError, match="orientation"):
            io.read(path, assume=nonsense)


@pytest.mark.parametrize(("slope", "intercept"), [(2.5, -7), (1e-30, 0), (-1, 300), (1e30, 1e30)])
def test_scales_are_applied_without_wrapping(
    slope: float, intercept: float, tmp_path: Path
) -> None:
    head = header()
    head["scl_slope"], head["scl_inter"] = slope, intercept
    data = np.full((6, 5, 4), 32767)
    data[0, 0, 0] = -32768
    volume = io.read(save(tmp_path / "in.nii", head, data))
    expected = data * float(np.float32(slope)) + float(np.float32(intercept))
    np.testing.assert_allclose(volume.voxels, expected, rtol=1e-6)
    assert volume.voxels.dtype == np.float32
    # What is written has its numbers as they are: a scale of 1.
    np.testing.assert_array_equal(
        nib.load(io.write(volume, tmp_path / "out.nii")).get_fdata(), volume.voxels
    )


@pytest.mark.parametrize("slope", [0, np.nan])
def test_no_scale_keeps_integers(slope: float, tmp_path: Path) -> None:
    head = header()
    head["scl_slope"] = slope
    assert io.read(save(tmp_path / "in.nii", head, ramp())).voxels.dtype == np.int16


def test_an_overflowing_scale_is_corrected_with_a_warning(tmp_path: Path) -> None:
    head = header()
    head.set_data_dtype(np.float64)
    data = np.ones((6, 5, 4))
    data[0, 0, 0], data[1, 0, 0], data[2, 0, 0] = 1e300, np.nan, -np.inf
    with pytest.warns(MrbridgeWarning, match="3 voxels"):
        volume = io.read(save(tmp_path / "in.nii", head, data))
    assert volume.voxels[:3, 0, 0].tolist() == [1, 0, 1]


def test_nothing_but_nan_is_refused(tmp_path: Path) -> None:
    head = header()
    head.set_data_dtype(np.float32)
    with pytest.raises(InputError, match="no finite"):
        io.read(save(tmp_path / "in.nii", head, np.full((6, 5, 4), np.nan)))


def test_volumes_of_a_series(tmp_path: Path) -> None:
    head = header()
    head.set_data_shape((6, 5, 4, 3))
    path = save(tmp_path / "in.nii.gz", head, ramp((6, 5, 4, 3)))
    with pytest.raises(InputError, match="3 volumes"):
        io.read(path)
    for index in range(3):
        volume = io.read(path, volume=index)
        np.testing.assert_array_equal(volume.voxels, ramp((6, 5, 4, 3))[..., index])
        out = nib.load(io.write(volume, tmp_path / "out.nii"))
        assert out.shape == (6, 5, 4)
        np.testing.assert_array_equal(out.affine, nib.load(path).affine)
    with pytest.raises(InputError, match="no volume 3"):
        io.read(path, volume=3)
    with pytest.raises(InputError, match="no volume -1"):
        io.read(path, volume=-1)


@pytest.mark.parametrize(
    ("stated", "read"), [((6, 5, 4, 1, 1), (6, 5, 4)), ((6, 5), (6, 5, 1)), ((6,), (6, 1, 1))]
)
def test_axes_of_length_one(stated: tuple[int, ...], read: tuple[int, ...], tmp_path: Path) -> None:
    head = header()
    head.set_data_shape(stated)
    path = save(tmp_path / "in.nii", head, ramp(stated))
    volume = io.read(path)
    assert volume.voxels.shape == read
    assert nib.load(io.write(volume, tmp_path / "out.nii")).shape == stated


@pytest.mark.parametrize("dtype", [np.complex64, "RGB"])
def test_colour_and_complex_are_refused(dtype: object, tmp_path: Path) -> None:
    head = header()
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]) if dtype == "RGB" else dtype
    head.set_data_dtype(kind)
    path = save(tmp_path / "in.nii", head, np.zeros((6, 5, 4)))
    with pytest.raises(InputError, match=r"holds (colours|complex numbers)"):
        io.read(path)


LIES = {
    "negative axis": ("dim", [3, -6, 5, 4, 1, 1, 1, 1]),
    "zero axis": ("dim", [3, 6, 0, 4, 1, 1, 1, 1]),
    "no axes": ("dim", [0, 6, 5, 4, 1, 1, 1, 1]),
    "many axes": ("dim", [9, 6, 5, 4, 1, 1, 1, 1]),
    "overflow": ("dim", [7, 32767, 32767, 32767, 32767, 32767, 32767, 32767]),
    "more than the file": ("dim", [3, 600, 500, 400, 1, 1, 1, 1]),
    "slightly more": ("dim", [3, 6, 5, 5, 1, 1, 1, 1]),
    "unknown type": ("datatype", 3),
    "offset in the header": ("vox_offset", 100),
    "offset beyond": ("vox_offset", 1e6),
    "no offset": ("vox_offset", np.nan),
    "singular": ("srow_z", [0, 0, 0, 0]),
    "not finite": ("srow_x", [np.nan, 0, 0, 0]),
    "infinite scale": ("scl_inter", np.inf),
}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("lie", LIES)
def test_wrong_headers_are_refused(lie: str, suffix: str, tmp_path: Path) -> None:
    head = header()
    head["scl_slope"] = 1
    raw = ramp().tobytes(order="F")
    head["vox_offset"], head["magic"] = 352, b"n+1"
    name, value = LIES[lie]
    head[name] = value
    path = tmp_path / f"lies{suffix}"
    content = head.binaryblock + bytes(4) + raw
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    with pytest.raises(InputError, match="lies"):
        io.read(path)
    if lie != "slightly more" or suffix == ".nii":  # only the end of a gzip file tells
        assert inspect(path).items[0].problem


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = header()
    head["vox_offset"], head["magic"] = 352, b"n+1"
    content = head.binaryblock + bytes(4) + ramp().tobytes(order="F")
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(content + bytes(64 << 20)))
    unpacked = 0
    original = gzip.GzipFile.read

    def counted(self: gzip.GzipFile, size: int = -1) -> bytes:
        nonlocal unpacked
        block = original(self, size)
        unpacked += len(block)
        return block

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    with pytest.raises(InputError, match="far more"):
        io.read(path)
    assert unpacked < 8 << 20
    # A little padding after the voxels is common and harmless.
    path.write_bytes(gzip.compress(content + bytes(1000)))
    np.testing.assert_array_equal(io.read(path).voxels, ramp())


def test_a_promise_that_deflate_cannot_hold_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = header()
    head["dim"] = [3, 1000, 1000, 1000, 1, 1, 1, 1]
    head["vox_offset"], head["magic"] = 352, b"n+1"
    path = tmp_path / "promise.nii.gz"
    path.write_bytes(gzip.compress(head.binaryblock + bytes(100)))
    monkeypatch.setattr(nifti, "_read_span", lambda *_: pytest.fail("began to read"))
    with pytest.raises(InputError, match="promises"):
        io.read(path)


def test_the_crc_is_checked(tmp_path: Path) -> None:
    path = save(tmp_path / "in.nii.gz", header(), ramp())
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # in the CRC itself: the voxels are all there
    path.write_bytes(content)
    with pytest.raises(InputError, match="CRC"):
        io.read(path)


def test_two_gzip_members_are_one_file(tmp_path: Path) -> None:
    content = save(tmp_path / "in.nii", header(), ramp()).read_bytes()
    path = tmp_path / "two.nii.gz"
    path.write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]))
    np.testing.assert_array_equal(io.read(path).voxels, ramp())


def test_pairs_and_analyze_are_refused(tmp_path: Path) -> None:
    head = header()
    for magic in (b"ni1", b""):
        head["magic"] = magic
        path = tmp_path / "pair.nii"
        path.write_bytes(head.binaryblock + bytes(500))
        with pytest.raises(InputError, match="not a NIfTI"):
            io.read(path)


@pytest.mark.parametrize("kind", [nib.Nifti1Header, nib.Nifti2Header])
def test_marking_drops_names_and_display_window(kind: Any, tmp_path: Path) -> None:
    head = header(kind)
    head["aux_file"], head["cal_max"] = b"SMITH^JOHN", 900
    if "db_name" in head:  # NIfTI-2 has none
        head["db_name"] = b"SMITH^JOHN"
    volume = io.read(save(tmp_path / "in.nii", head, ramp()))
    note = "synthetic T2w by mrbridge 0.1.0, for research, not for diagnosis"
    out = io.write(volume, tmp_path / "out.nii", synthetic_note=note)
    assert b"SMITH" not in out.read_bytes()
    assert nib.load(out).header["descrip"].item().decode() == note
    assert nib.load(out).header["cal_max"] == 0
    assert b"SMITH" in io.write(volume, tmp_path / "same.nii").read_bytes()


def test_a_2d_image_cannot_become_nifti(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no place in space"):
        io.write(Volume(ramp((6, 5, 1)), None), tmp_path / "out.nii.gz")
    assert not list(tmp_path.iterdir())


def test_a_file_that_differs_when_read_back_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = io.write(Volume(ramp(), np.eye(4)), tmp_path / "out.nii")
    before = path.read_bytes()
    save_well = nifti._save

    def save_badly(head: object, voxels: np.ndarray, path: Path, *, compressed: bool) -> None:
        save_well(head, voxels + 1, path, compressed=compressed)

    monkeypatch.setattr(nifti, "_save", save_badly)
    with pytest.raises(OutputError, match="was not read back"):
        io.write(Volume(ramp(), np.eye(4)), path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "name", ["open-ms-mni/patient07/T1.nii.gz", "open-ms-raw/patient01/study1_T2W.nii.gz"]
)
def test_real_scans(name: str, real_data: Callable[[str], Path], tmp_path: Path) -> None:
    path = real_data(name)
    volume = io.read(path)
    image = nib.load(path)
    np.testing.assert_array_equal(volume.voxels, np.asanyarray(image.dataobj))
    np.testing.assert_array_equal(volume.affine, image.affine)
    assert volume.contrast == ("T1w" if "T1" in name else "T2w")
    small = Volume(volume.voxels[:, :, :2], volume.affine, volume.header)
    out = nib.load(io.write(small, tmp_path / "out.nii.gz"))
    np.testing.assert_array_equal(out.affine, image.affine)


def test_extensions_are_not_copied(tmp_path: Path) -> None:
    """They hold DICOM headers and histories: names, and an acquisition that is not the result's."""
    head = header()
    head.extensions.append(nib.nifti1.Nifti1Extension("comment", b"SMITH^JOHN"))
    out = io.write(Volume(ramp(), head.get_sform(), head), tmp_path / "out.nii")
    assert b"SMITH" not in out.read_bytes()
    assert not nib.load(out).header.extensions
    np.testing.assert_array_equal(io.read(out).voxels, ramp())


def test_nibabel_of_the_process_still_finds_pydicom() -> None:
    command = (
        "import mrbridge.io.nifti, nibabel.nifti1 as nifti1; assert nifti1.have_dicom;"
        "assert nifti1.extension_codes.handler[2] is nifti1.Nifti1DicomExtension"
    )
    subprocess.run([sys.executable, "-c", command], check=True)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00\x01\xff\xff no", b"", b"\x10\x00\x10\x00\xff\xff\xff\xffSMITH"]
)
def test_a_broken_dicom_extension_is_ignored(content: bytes, tmp_path: Path) -> None:
    """nibabel parses extensions of code 2 with pydicom, and takes what is wrong with them."""
    image = nib.Nifti1Image(np.ones((3, 4, 2), np.int16), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension(2, content))
    nib.save(image, tmp_path / "in.nii")
    assert io.read(tmp_path / "in.nii").voxels.sum() == 24


def half_noise(size: int) -> bytes:
    """Half noise, half repetition."""
    noise = np.random.default_rng(size).integers(0, 256, (size + 1) // 2, np.uint8).tobytes()
    return (noise + noise)[:size]


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 3000, 12345])
def test_the_content_comes_back_from_one_member(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nifti, "_BLOCK", 1000)
    data = half_noise(size)
    file = b"".join(nifti.gzipped([data[: size // 3], b"", data[size // 3 :]]))
    assert gzip.decompress(file) == data
    stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
    assert stream.decompress(file) == data
    assert stream.eof
    assert not stream.unused_data


def test_compressed_files_are_equal_for_any_number_of_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nifti, "_BLOCK", 1000)
    files = set()
    for processors in (1, 2, 7):
        monkeypatch.setattr(nifti, "usable_cores", lambda count=processors: count)
        files.add(b"".join(nifti.gzipped([half_noise(9500)])))
    assert len(files) == 1


def test_a_file_without_content_is_valid() -> None:
    assert gzip.decompress(b"".join(nifti.gzipped([]))) == b""


def test_repetition_is_compressed() -> None:
    assert len(b"".join(nifti.gzipped([bytes(1 << 20)]))) < 1 << 13


MPRAGE = {"ScanningSequence": "GR_IR", "EchoTime": 0.003, "InversionTime": 0.9, "FlipAngle": 8}
TSE = {"ScanningSequence": "SE", "EchoTime": 0.095, "RepetitionTime": 6}


@pytest.mark.parametrize(
    ("name", "sidecar", "words"),
    [
        ("T1w", MPRAGE | {"RepetitionTime": 2.3}, None),
        ("T1w", {"ScanningSequence": "GR\\IR", "EchoTime": 0.002, "RepetitionTime": 2.5}, None),
        ("T1w", TSE | {"SeriesDescription": "T1 MPRAGE"}, None),  # it contradicts itself
        ("T1w", TSE, "contradicts its name, T1w: it is T2w: long echo .*TE 95 ms, TR 6000 ms"),
        ("T2w", TSE, None),
        ("FLAIR", TSE, None),  # its inversion time is not stated
        ("T1w", {"EchoTime": 0.003, "RepetitionTime": 2.3}, None),  # nor that of an MPRAGE
        ("T1w", {"ScanningSequence": "SE", "EchoTime": 0.015, "RepetitionTime": 3}, "it is PDw"),
        ("T1w", {"ContrastBolusIngredient": "GADOLINIUM"}, "was taken after a contrast agent"),
        ("T1w", {"EchoTime": "?", "ImageType": ["ORIGINAL", "PRIMARY", "P"]}, "phase images"),
        ("T1w", {"EchoTime": [], "ScanOptions": {}, "SeriesDescription": None}, None),
    ],
)
def test_a_sidecar_of_another_scan(
    name: str, sidecar: dict[str, Any], words: str | None, tmp_path: Path
) -> None:
    path = io.write(Volume(np.ones((4, 5, 6), np.float32), np.eye(4)), tmp_path / f"{name}.nii.gz")
    path.with_name(f"{name}.json").write_text(json.dumps(sidecar))
    if words is None:
        assert io.read(path).contrast == name
        return
    with pytest.warns(MrbridgeWarning, match=words):
        assert io.read(path).contrast == name


def test_a_sidecar_of_another_part_of_the_body(tmp_path: Path) -> None:
    path = io.write(Volume(np.ones((4, 5, 6), np.float32), np.eye(4)), tmp_path / "scan.nii.gz")
    path.with_name("scan.json").write_text('{"BodyPartExamined": "KNEE"}')
    with pytest.warns(MrbridgeWarning, match="another part of the body: KNEE"):
        io.read(path)


def test_sidecars_further_up_in_a_bids_dataset(tmp_path: Path) -> None:
    folder = tmp_path / "sub-1" / "anat"
    path = io.write(
        Volume(np.ones((4, 5, 6), np.float32), np.eye(4)), folder / "sub-1_run-2_T1w.nii.gz"
    )
    (tmp_path / "run-2_T1w.json").write_text(json.dumps(TSE))
    assert not io.read(path).notes  # of a folder that is not a dataset, such as one above it
    (tmp_path / "dataset_description.json").write_text("{}")
    with pytest.warns(MrbridgeWarning, match="contradicts its name, T1w: it is T2w"):
        io.read(path)
    path.with_name("sub-1_run-2_T1w.json").write_text(json.dumps(MPRAGE | {"RepetitionTime": 2.3}))
    assert not io.read(path).notes


@pytest.mark.parametrize(
    "sidecar",
    [
        {"SyntheticData": True},
        {"SyntheticData": "YES"},
        {"SeriesDescription": "t1 mprage synthetic T1w"},
        {"ImageComments": "Synthetic T1w by mrbridge"},
    ],
)
def test_a_sidecar_says_that_a_scan_is_synthetic(sidecar: dict[str, Any], tmp_path: Path) -> None:
    path = io.write(Volume(np.ones((4, 5, 6), np.float32), np.eye(4)), tmp_path / "T1w.nii.gz")
    assert not io.read(path).synthetic
    path.with_name("T1w.json").write_text(json.dumps(sidecar))
    assert io.read(path).synthetic
