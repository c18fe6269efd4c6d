"""Laws of geometry: what is done is undone, and the way a file is stored does not matter."""

from __future__ import annotations

import itertools
import re

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from mrbridge.errors import InputError
from mrbridge.preprocessing.geometry import fit_size, from_slices, size_multiple, to_slices
from mrbridge.volume import Volume

ORIENTATIONS = [
    "".join(letters)
    for pairs in itertools.permutations(["LR", "PA", "IS"])
    for letters in itertools.product(*pairs)
]


def store_as(volume: Volume, code: str) -> Volume:
    """The same anatomy, stored in another of the 48 orientations."""
    image = nib.Nifti1Image(volume.voxels, volume.affine)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(tuple(code))
    )
    image = image.as_reoriented(turn)
    return Volume(np.asarray(image.dataobj), image.affine)


def random_volume(shape: tuple[int, ...], affine: np.ndarray | None = None) -> Volume:
    generator = np.random.default_rng(sum(shape))
    return Volume(
        generator.normal(size=shape).astype(np.float32), np.eye(4) if affine is None else affine
    )


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_all_48_orientations_give_the_same_slices_and_come_back(code: str) -> None:
    affine = np.diag([0.7, 1.9, 3.1, 1.0])
    affine[:3, 3] = [-31, 17, 5]
    volume = random_volume((7, 6, 5), affine)
    expected, grid = to_slices(volume, None)
    stored = store_as(volume, code)
    slices, stored_grid = to_slices(stored, None)
    np.testing.assert_array_equal(slices, expected)
    np.testing.assert_array_equal(from_slices(slices, stored_grid), stored.voxels)
    assert stored_grid.hash == grid.hash
    assert stored_grid.affine is not None
    np.testing.assert_allclose(stored_grid.affine, grid.affine, atol=1e-12)


def test_slices_are_oriented_as_in_an_axial_dicom_image() -> None:
    voxels = np.zeros((7, 6, 5), np.float32)
    voxels[6, 5, 4] = 1  # right-most... of RAS is index 6 along R: the patient's right
    slices, grid = to_slices(Volume(voxels, np.eye(4)), None)
    assert slices.shape == (5, 6, 7)
    # Superior is the last slice, anterior the first row, the patient's right the first column.
    assert np.argwhere(slices).tolist() == [[4, 0, 0]]
    assert grid.affine is not None
    np.testing.assert_array_equal(grid.affine @ [4, 0, 0, 1], [6, 5, 4, 1])
    assert nib.aff2axcodes(grid.affine) == ("S", "P", "L")


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(-180, 180)] * 3),
    st.tuples(*[st.floats(0.4, 6)] * 3),
    st.tuples(*[st.integers(1, 9)] * 3),
    st.floats(-0.2, 0.2),
)
def test_oblique_and_sheared_volumes_come_back_bit_for_bit(angles, spacing, shape, shear) -> None:
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    affine[:3, :3] = turn @ (np.eye(3) + shear * np.eye(3, k=1)) * spacing
    volume = random_volume(shape, affine)
    slices, grid = to_slices(volume, None)
    np.testing.assert_array_equal(from_slices(slices, grid), volume.voxels)
    # Every voxel is still where it was.
    assert grid.affine is not None
    index = np.unravel_index(int(np.argmax(slices)), slices.shape)
    source = np.unravel_index(int(np.argmax(volume.voxels)), shape)
    np.testing.assert_allclose(grid.affine @ [*index, 1], affine @ [*source, 1], atol=1e-9)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16])
def test_integers_come_back(dtype: type) -> None:
    limits = np.iinfo(dtype)
    voxels: np.ndarray = np.linspace(limits.min, limits.max, 60).astype(dtype).reshape(5, 4, 3)
    slices, grid = to_slices(Volume(voxels, np.diag([-1, 1, 1, 1.0])), 1.0)
    np.testing.assert_array_equal(from_slices(slices, grid).astype(dtype), voxels)


@pytest.mark.parametrize("step", [1.0, 1.009, 0.991])
def test_nothing_is_resampled_within_one_percent(step: float) -> None:
    volume = random_volume((9, 8, 3), np.diag([step, step, 4, 1.0]))
    slices, grid = to_slices(volume, 1.0)
    np.testing.assert_array_equal(from_slices(slices, grid), volume.voxels)
    assert grid.spacing == pytest.approx((4, step, step))


def smooth(shape: tuple[int, ...], affine: np.ndarray, width_mm: float = 4.0) -> Volume:
    noise = np.random.default_rng(3).normal(size=shape)
    widths = width_mm / np.linalg.norm(affine[:3, :3], axis=0)
    values = gaussian_filter(noise, widths)
    return Volume((values / values.std()).astype(np.float32), affine)


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [((0.5, 0.7, 5), (101, 77, 4)), ((1.3, 1.7, 2), (40, 37, 4)), ((0.6, 1.6, 3), (90, 30, 3))],
)
def test_resampling_is_undone_within_the_error_of_interpolation(
    spacing: tuple[float, ...], shape: tuple[int, ...]
) -> None:
    volume = smooth(shape, np.diag([*spacing, 1.0]))
    slices, grid = to_slices(volume, 1.0)
    assert grid.spacing is not None
    assert grid.spacing[1:] == pytest.approx((1, 1), rel=0.02)
    field = np.array(grid.shape) * grid.spacing
    np.testing.assert_allclose(field, np.array(grid.full) * [spacing[2], spacing[1], spacing[0]])
    back = from_slices(slices, grid)
    assert back.shape == shape
    assert np.abs(back - volume.voxels).max() < 0.15
    assert np.sqrt(np.mean((back - volume.voxels) ** 2)) < 0.02


def test_resampling_moves_nothing() -> None:
    """A centre of mass stays where it is, in mm, for each way of shrinking and growing."""
    for step in (0.5, 0.62, 1.5, 2.4):
        size = round(90 / step)
        places = (np.arange(size) + 0.5) * step
        blob = np.exp(-((places[:, None] - 40) ** 2 + (places[None] - 52) ** 2) / 50)
        voxels = blob[:, :, None].astype(np.float32)
        slices, grid = to_slices(Volume(voxels, np.diag([step, step, 3, 1.0])), 1.0)
        assert grid.spacing is not None
        rows = (np.arange(grid.shape[1]) + 0.5) * grid.spacing[1]
        columns = (np.arange(grid.shape[2]) + 0.5) * grid.spacing[2]
        mass = slices[0] / slices[0].sum()
        # Rows run to posterior, columns to the left: from the far ends of y and x.
        assert size * step - float(mass.sum(1) @ rows) == pytest.approx(52, abs=0.05)
        assert size * step - float(mass.sum(0) @ columns) == pytest.approx(40, abs=0.05)


def test_resampling_stays_within_the_range() -> None:
    voxels = np.zeros((60, 60, 2), np.float32)
    voxels[20:40, 20:40] = 1
    slices, grid = to_slices(Volume(voxels, np.diag([0.6, 0.6, 2, 1.0])), 1.0)
    assert slices.min() == 0
    assert slices.max() <= 1
    assert from_slices(slices, grid).min() == 0


def test_a_2d_image_is_one_slice() -> None:
    pixels = np.arange(77, dtype=np.uint8).reshape(11, 7, 1)
    slices, grid = to_slices(Volume(pixels, None), 1.0)
    np.testing.assert_array_equal(slices[0], pixels[:, :, 0])
    np.testing.assert_array_equal(from_slices(slices, grid), pixels)
    assert grid.spacing is None


def test_grids_differ_by_place_and_shape_and_not_by_rounding() -> None:
    affine = np.diag([0.9375, 0.9375, 1.2, 1.0])
    affine[:3, 3] = [-119.53125, 17.005, 3.125]
    base = to_slices(random_volume((7, 6, 5), affine), None)[1].hash
    for shift, same in ((1e-5, True), (-1e-5, True), (0.5, False)):
        moved = affine.copy()
        moved[:3, 3] += shift
        assert (to_slices(random_volume((7, 6, 5), moved), None)[1].hash == base) is same
    assert to_slices(random_volume((7, 6, 4), affine), None)[1].hash != base


def test_slices_of_another_shape_are_refused() -> None:
    slices, grid = to_slices(random_volume((4, 5, 6)), None)
    with pytest.raises(ValueError, match="shape"):
        from_slices(slices[1:], grid)


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(1, 12)] * 4))
def test_fitting_a_size_is_undone(sizes: tuple[int, int, int, int]) -> None:
    rows, columns, new_rows, new_columns = sizes
    slices = np.random.default_rng(0).normal(size=(2, rows, columns)).astype(np.float32)
    fitted = fit_size(slices, new_rows, new_columns)
    assert fitted.shape == (2, new_rows, new_columns)
    back = fit_size(fitted, rows, columns, 7.0)
    assert back.shape == slices.shape
    kept = back != 7.0
    np.testing.assert_array_equal(back[kept], slices[kept])
    assert kept.sum() == 2 * min(rows, new_rows) * min(columns, new_columns)
    if new_rows >= rows and new_columns >= columns:
        np.testing.assert_array_equal(back, slices)


def test_padding_is_centred_and_filled() -> None:
    fitted = fit_size(np.ones((1, 2, 3)), 4, 5, fill=-1.0)
    expected = -np.ones((4, 5))
    expected[1:3, 1:4] = 1
    np.testing.assert_array_equal(fitted[0], expected)


def test_multiples() -> None:
    assert [size_multiple(n, 4) for n in (1, 4, 5, 8)] == [4, 4, 8, 8]


def test_shrinking_does_not_alias() -> None:
    """Stripes finer than the new pixels become grey, not stripes of another width."""
    voxels = np.zeros((120, 120, 1), np.float32)
    voxels[::2] = 1
    slices, _ = to_slices(Volume(voxels, np.diag([0.35, 0.35, 3, 1.0])), 1.0)
    assert np.abs(slices[0, :, 3:-3] - 0.5).max() < 0.05


@pytest.mark.parametrize("step", [1e-3, 1e3])
def test_metres_and_micrometres_taken_for_millimetres_are_refused(step: float) -> None:
    volume = random_volume((40, 48, 3), np.diag([step, step, step, 1]))
    message = re.escape(f"slices would be {48 * step:.3g} x {40 * step:.3g} mm")
    with pytest.raises(InputError, match=message):
        to_slices(volume, 1.0)
    assert to_slices(volume, None)[0].shape == (3, 48, 40)  # where nothing is resampled, it works
