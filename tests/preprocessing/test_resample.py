"""Laws of grids and of transforms between them."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from mrbridge.errors import InputError
from mrbridge.preprocessing.resample import (
    covered,
    from_sitk,
    grid_difference,
    resample,
    stored_like,
    to_image,
    to_sitk,
)
from mrbridge.volume import Volume

OBLIQUE = np.array(
    [[-1.9, 0.3, 0.1, 30], [0.25, 1.4, -0.6, -20], [0.1, 0.5, 2.8, -15], [0, 0, 0, 1]]
)
SHEARED = np.array([[2, 0.5, 0, -20], [0, 1.5, 0, -18], [0, 0.2, 2.5, -12], [0, 0, 0, 1.0]])
SHIFT = np.array([[1, 0, 0, 4], [0, 1, 0, -3], [0, 0, 1, 2], [0, 0, 0, 1.0]])


def smooth(shape: tuple[int, int, int], affine: np.ndarray) -> Volume:
    """A Gaussian blob about the point (2, -1, 3) mm."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    place = index @ affine[:3, :3].T + affine[:3, 3]
    return Volume(blob(place), affine)


def blob(place: np.ndarray) -> np.ndarray:
    distance = np.linalg.norm(place - (2, -1, 3), axis=-1)
    return (1000 * np.exp(-(distance**2) / (2 * 12**2))).astype(np.float32)


@pytest.mark.parametrize("affine", [np.diag([2.0, 2, 3, 1]), OBLIQUE, SHEARED])
def test_simpleitk_gets_the_same_voxels(affine):
    volume = Volume(np.random.default_rng(0).random((4, 5, 6)).astype(np.float32), affine)
    image = to_image(volume)
    assert image[1, 2, 3] == volume.voxels[1, 2, 3]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, volume.voxels)


def test_simpleitk_places_voxels_where_we_do_but_for_two_signs():
    image = to_image(Volume(np.zeros((4, 5, 6), np.float32), OBLIQUE))
    place = OBLIQUE @ (1, 2, 3, 1)
    np.testing.assert_allclose(
        image.TransformIndexToPhysicalPoint((1, 2, 3)), place[:3] * (-1, -1, 1), atol=1e-9
    )


def test_transforms_to_simpleitk_and_back():
    matrix = OBLIQUE @ np.linalg.inv(SHEARED)
    np.testing.assert_allclose(from_sitk(to_sitk(matrix)), matrix, atol=1e-9)


@pytest.mark.parametrize("affine", [OBLIQUE, SHEARED])
@pytest.mark.parametrize(("interpolation", "error"), [("cubic", 3), ("linear", 25)])
def test_a_known_image_lands_where_it_should(affine, interpolation, error):
    """The truth is known at every point of space, so at every voxel of the new grid."""
    moving, onto = (
        smooth((30, 32, 28), np.diag([2.0, 2, 2, 1]) + _origin(-30)),
        Volume(np.zeros((14, 16, 10), np.int16), affine),
    )
    found = resample(moving, onto, SHIFT, interpolation)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in (14, 16, 10)], indexing="ij"), axis=-1)
    place = index @ affine[:3, :3].T + affine[:3, 3]
    inside = covered(moving, onto, SHIFT)
    # Edges of the field of view need values from beyond it.
    inside = ndimage.binary_erosion(inside, iterations=1)
    assert inside.sum() > 300
    truth = blob(place - SHIFT[:3, 3])
    # The new voxels are larger than the old ones along some axes: averages lie a little lower.
    assert np.abs(found.voxels - truth)[inside].max() < error + 25
    np.testing.assert_array_equal(found.affine, affine)
    assert found.voxels.dtype == np.float32


def _origin(to: float) -> np.ndarray:
    result = np.zeros((4, 4))
    result[:3, 3] = to
    return result


def test_its_own_grid_changes_nothing():
    volume = smooth((12, 14, 10), OBLIQUE)
    np.testing.assert_allclose(resample(volume, volume).voxels, volume.voxels, atol=0.5)
    np.testing.assert_array_equal(resample(volume, volume, None, "nearest").voxels, volume.voxels)
    assert covered(volume, volume).all()


def test_steps_of_whole_voxels_move_voxels():
    voxels = np.random.default_rng(0).integers(0, 100, (8, 9, 7)).astype(np.int16)
    volume = Volume(voxels, OBLIQUE)
    one_up = OBLIQUE @ np.linalg.inv(OBLIQUE + np.outer(OBLIQUE @ (1, 0, 0, 0), (0, 0, 0, 1)))
    result = resample(volume, volume, one_up, "nearest")
    np.testing.assert_array_equal(result.voxels[:-1], voxels[1:])
    assert (result.voxels[-1] == 0).all()
    assert result.voxels.dtype == np.int16
    assert covered(volume, volume, one_up).sum() == voxels[1:].size


def test_a_thick_voxel_is_an_average():
    """Stripes that are finer than the new slices become grey, not one of the stripes."""
    stripes = np.zeros((10, 10, 32), np.float32)
    stripes[..., ::2] = 1000
    fine = Volume(stripes, np.eye(4))
    thick = Volume(np.zeros((10, 10, 8)), np.diag([1.0, 1, 4, 1]))
    middle = resample(fine, thick).voxels[:, :, 1:-1]
    assert np.abs(middle - 500).max() < 60


def test_cubic_splines_do_not_leave_the_range():
    edge = np.zeros((12, 12, 12), np.float32)
    edge[4:8, 4:8, 4:8] = 1000
    moved = resample(Volume(edge, np.eye(4)), Volume(edge, np.eye(4)), SHIFT * 0.5 + np.eye(4) / 2)
    assert moved.voxels.min() >= 0
    assert moved.voxels.max() <= 1000


def test_nothing_stays_exactly_nothing():
    """Preparation tells stripped brains by the exact zeros around them."""
    brain = np.zeros((20, 20, 20), np.float32)
    brain[6:14, 6:14, 6:14] = 700
    turned = resample(
        Volume(brain, np.eye(4)), Volume(brain, np.eye(4)), SHIFT * 0.3 + 0.7 * np.eye(4)
    )
    assert (turned.voxels == 0).mean() > 0.8
    assert (turned.voxels > 300).sum() == pytest.approx((brain > 0).sum(), rel=0.1)


def test_masks_stay_masks():
    mask = Volume(
        smooth((30, 32, 28), np.diag([2.0, 2, 2, 1]) + _origin(-30)).voxels > 400, OBLIQUE
    )
    result = resample(mask, Volume(np.zeros((14, 16, 10)), SHEARED), None, "nearest")
    assert result.voxels.dtype == bool


def test_grids_are_compared_in_millimetres():
    volume = Volume(np.zeros((4, 5, 6)), OBLIQUE)
    nearly, moved = OBLIQUE.copy(), OBLIQUE.copy()
    nearly[0, 3] += 5e-4
    moved[0, 3] += 0.01
    assert grid_difference(volume, Volume(volume.voxels, nearly)) is None
    assert grid_difference(volume, Volume(volume.voxels, moved)) == "up to 0.01 mm apart"
    assert "shapes" in str(grid_difference(volume, Volume(np.zeros((4, 5, 7)), OBLIQUE)))
    picture = Volume(volume.voxels, None)
    assert grid_difference(picture, picture) is None
    assert "2D image" in str(grid_difference(volume, picture))


def test_pictures_are_refused():
    picture = Volume(np.zeros((4, 5, 1)), None)
    with pytest.raises(InputError, match="no position in space"):
        resample(picture, Volume(np.zeros((4, 5, 6)), OBLIQUE))
    with pytest.raises(InputError, match="no position in space"):
        resample(Volume(np.zeros((4, 5, 6)), OBLIQUE), picture)


@pytest.mark.parametrize("affine", [np.diag([-1.0, 1, 2, 1]), OBLIQUE, SHEARED])
@pytest.mark.parametrize("axes", ["RAS", "LPS", "PSR", "IRA"])
def test_another_order_of_the_axes_is_undone_without_interpolation(affine, axes):
    voxels = np.random.default_rng(0).integers(0, 99, (4, 5, 6)).astype(np.int16)
    scan = Volume(voxels, affine, contrast="T1w")
    turn = nib.orientations.axcodes2ornt(axes)
    stored = nib.Nifti1Image(voxels, affine).as_reoriented(turn)
    found = stored_like(Volume(np.asanyarray(stored.dataobj), stored.affine), scan)
    np.testing.assert_array_equal(found.voxels, voxels)
    np.testing.assert_allclose(found.affine, affine, atol=1e-9)


def test_scans_on_other_grids_stay_as_they_are():
    scan = Volume(np.zeros((4, 5, 6), np.int16), OBLIQUE)
    moved = Volume(scan.voxels[::-1], SHIFT @ OBLIQUE)
    image = Volume(np.zeros((4, 5, 1), np.uint8), None)
    assert stored_like(moved, scan) is moved
    assert stored_like(image, scan) is image
    assert stored_like(scan, scan) is scan
