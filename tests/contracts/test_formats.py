"""The contract of every format of `mrbridge.io`; a new one needs one line in FORMATS."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mrbridge import io
from mrbridge.errors import InputError, MrbridgeError, OutputError
from mrbridge.volume import Volume


@dataclass(frozen=True)
class Format:
    """One way to store a scan: its suffix, number types, and what it can hold."""

    suffix: str
    dtypes: tuple[str, ...]
    volumes: bool
    lossless: bool = True
    checks: bool = False  # whether it carries a checksum, so that a flipped bit is found


FORMATS = [
    Format(".nii", ("uint8", "int16", "uint16", "int32", "float32"), volumes=True),
    Format(".nii.gz", ("uint8", "int16", "uint16", "int32", "float32"), volumes=True, checks=True),
    Format(".png", ("uint8", "uint16"), volumes=False, checks=True),
    Format(".tif", ("uint8", "uint16"), volumes=False),
    Format(".tiff", ("uint8", "uint16"), volumes=False),
    Format(".jpg", ("uint8",), volumes=False, lossless=False),
]
NAMES = ["Image #10.x", "with space.x", "Größe-脑.x", "a.b.c", "UPPER"]
SHAPES = [(7, 5, 3), (1, 9, 4), (13, 11, 1), (1, 1, 1)]


@pytest.fixture(params=FORMATS, ids=lambda form: form.suffix)
def form(request: pytest.FixtureRequest) -> Format:
    return request.param


def values(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Smooth numbers over most of the type's range (JPEG must be able to follow)."""
    ramp = np.linspace(0, 1, int(np.prod(shape))).reshape(shape)
    if dtype == "float32":
        return ((ramp - 0.3) * 1e4).astype(dtype)
    limits = np.iinfo(dtype)
    return (limits.min + ramp * (float(limits.max) - limits.min)).astype(dtype)


def oblique() -> np.ndarray:
    """Anisotropic, rotated by odd angles, left-handed."""
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", [17, -23, 41], degrees=True).as_matrix()
    affine[:3, :3] = turn @ np.diag([-0.7, 0.9, 4.5])
    affine[:3, 3] = [83.25, -112.5, 31.125]
    return affine


def example(form: Format, dtype: str, shape: tuple[int, ...] = (7, 5, 3)) -> Volume:
    if form.volumes:
        return Volume(values(shape, dtype), oblique())
    return Volume(values((shape[0], shape[1], 1), dtype), None)


def assert_same(read: Volume, written: Volume, form: Format) -> None:
    assert read.voxels.dtype == written.voxels.dtype
    assert read.voxels.shape == written.voxels.shape
    if form.lossless:
        np.testing.assert_array_equal(read.voxels, written.voxels)
    else:
        assert np.abs(read.voxels.astype(float) - written.voxels).max() <= 8


@pytest.mark.parametrize("shape", SHAPES)
def test_values_come_back(form: Format, shape: tuple[int, ...], tmp_path: Path) -> None:
    for dtype in form.dtypes:
        volume = example(form, dtype, shape)
        path = io.write(volume, tmp_path / f"scan-{dtype}{form.suffix}")
        assert_same(io.read(path), volume, form)


def test_geometry_comes_back(form: Format, tmp_path: Path) -> None:
    volume = example(form, form.dtypes[0])
    read = io.read(io.write(volume, tmp_path / f"scan{form.suffix}"))
    if not form.volumes:
        assert read.affine is None
        return
    assert read.affine is not None
    np.testing.assert_allclose(read.affine, oblique(), atol=1e-5)
    assert nib.aff2axcodes(read.affine) == nib.aff2axcodes(oblique())
    again = io.read(io.write(read, tmp_path / f"again{form.suffix}"))
    np.testing.assert_array_equal(again.affine, read.affine)


def test_a_second_round_changes_no_byte(form: Format, tmp_path: Path) -> None:
    first = io.write(example(form, form.dtypes[0]), tmp_path / f"1{form.suffix}")
    second = io.write(io.read(first), tmp_path / f"2{form.suffix}")
    if form.lossless:
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_odd_names(form: Format, name: str, tmp_path: Path) -> None:
    volume = example(form, form.dtypes[0])
    suffix = form.suffix.upper() if name == "UPPER" else form.suffix
    path = io.write(volume, tmp_path / "a folder #1" / f"{name}{suffix}")
    assert_same(io.read(path), volume, form)
    assert os.listdir(path.parent) == [path.name]


def test_truncation_is_refused_at_any_length(form: Format, tmp_path: Path) -> None:
    whole = io.write(example(form, form.dtypes[-1]), tmp_path / f"whole{form.suffix}").read_bytes()
    cut = tmp_path / f"cut{form.suffix}"
    lengths = sorted({0, 1, 2, 10, len(whole) // 3, len(whole) // 2, len(whole) - 9} - {-1})
    lengths += [len(whole) - 2, len(whole) - 1]
    for length in lengths:
        cut.write_bytes(whole[:length])
        with pytest.raises(InputError, match="cut"):
            io.read(cut)


def test_garbage_is_refused(form: Format, tmp_path: Path) -> None:
    path = tmp_path / f"garbage{form.suffix}"
    for content in (b"", b"\0" * 4000, b"not a scan " * 400, np.random.default_rng(0).bytes(5000)):
        path.write_bytes(content)
        with pytest.raises(InputError, match="garbage"):
            io.read(path)


def test_flipped_bits_are_refused_or_harmless(form: Format, tmp_path: Path) -> None:
    """A damaged file never ends in anything but a volume or an MrbridgeError; where the format
    has a checksum it never gives other values.
    """
    volume = example(form, form.dtypes[-1], (9, 9, 2))
    whole = io.write(volume, tmp_path / f"whole{form.suffix}").read_bytes()
    path = tmp_path / f"flipped{form.suffix}"
    generator = np.random.default_rng(1)
    places = generator.choice(len(whole), size=min(120, len(whole)), replace=False)
    refused = 0
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a flipped exponent may bring a NaN, say
                read = io.read(path)
        except MrbridgeError:
            refused += 1
            continue
        assert np.isfinite(read.voxels).all()
        if form.checks:
            np.testing.assert_array_equal(read.voxels, volume.voxels)
    assert refused >= (0.9 * len(places) if form.checks else 1)


def test_a_missing_file_is_named(form: Format, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent"):
        io.read(tmp_path / f"absent{form.suffix}")
    (tmp_path / f"folder{form.suffix}").mkdir()
    with pytest.raises(InputError, match="folder"):
        io.read(tmp_path / f"folder{form.suffix}")


def test_failure_leaves_the_old_file_whole(
    form: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = io.write(example(form, form.dtypes[0]), tmp_path / f"scan{form.suffix}")
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        io.write(example(form, form.dtypes[0], (4, 4, 1)), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_a_folder_in_the_way_is_refused(form: Format, tmp_path: Path) -> None:
    path = tmp_path / f"scan{form.suffix}"
    path.mkdir()
    with pytest.raises(OutputError, match="folder"):
        io.write(example(form, form.dtypes[0]), path)
    assert os.listdir(tmp_path) == [path.name]


def test_values_that_are_not_finite_are_never_written(form: Format, tmp_path: Path) -> None:
    volume = example(form, form.dtypes[0])
    bad = volume.voxels.astype(np.float32)
    bad[0, 0, 0] = np.nan
    with pytest.raises(OutputError, match="finite"):
        io.write(Volume(bad, volume.affine), tmp_path / f"scan{form.suffix}")
    assert os.listdir(tmp_path) == []


def test_the_synthetic_mark_survives(form: Format, tmp_path: Path) -> None:
    volume = example(form, form.dtypes[0])
    note = "synthetic T2w by mrbridge 0.1.0, for research, not for diagnosis"
    marked = io.read(io.write(volume, tmp_path / f"a{form.suffix}", synthetic_note=note))
    assert marked.synthetic
    again = io.read(io.write(marked, tmp_path / f"b{form.suffix}"))
    assert again.synthetic, "the mark is lost when a marked volume is written again"
    assert_same(again, volume, form)
    odd = io.write(volume, tmp_path / f"c{form.suffix}", synthetic_note="made by ünïcode")
    assert io.read(odd).synthetic, "a note in other words must mark it too"
    assert not io.read(io.write(volume, tmp_path / f"d{form.suffix}")).synthetic


def test_unknown_formats_are_refused(tmp_path: Path) -> None:
    (tmp_path / "scan.mgz").touch()
    with pytest.raises(InputError, match="unknown format"):
        io.read(tmp_path / "scan.mgz")
    with pytest.raises(InputError, match="does not exist"):
        io.read(tmp_path / "no-scan")
    with pytest.raises(OutputError, match="unknown format"):
        io.write(Volume(np.zeros((2, 2, 2)), np.eye(4)), tmp_path / "scan.bmp")
    assert not io.is_readable("scan.mgz")
    assert all(io.is_readable(f"a.b{suffix}") for suffix in io.FORMATS)
    assert io.is_readable("SCAN.NII.GZ")


def test_the_contrast_follows_from_the_name(tmp_path: Path) -> None:
    volume = Volume(np.zeros((2, 2, 2), np.int16), np.eye(4))
    for name, contrast in (("a_T2.nii", "T2w"), ("T1w/scan.nii", "T1w"), ("x/scan.nii", None)):
        assert io.read(io.write(volume, tmp_path / name)).contrast == contrast


def test_a_2d_image_has_no_volumes(tmp_path: Path) -> None:
    path = io.write(Volume(np.zeros((2, 2, 1), np.uint8), None), tmp_path / "a.png")
    with pytest.raises(InputError, match="no volumes"):
        io.read(path, volume=1)
