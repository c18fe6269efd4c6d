"""The deformation of the template into a subject."""

import numpy as np
import pytest

from mrbridge.phantom.head import LARGEST, deformation, template_head, to_subject


@pytest.fixture(scope="module")
def head():
    return template_head(4.0)


@pytest.mark.parametrize("seed", range(4))
def test_no_tissue_folds_over(head, seed):
    where = deformation(np.random.default_rng(seed), head, head.grid)
    gradients = np.stack([np.gradient(where, 4.0, axis=axis) for axis in range(3)], axis=-1)
    jacobian = np.linalg.det(gradients.astype(np.float64))
    assert jacobian.min() > 0.1


def test_deformation_is_inverted(head):
    where = deformation(np.random.default_rng(0), head, head.grid)
    places = head.lesion_sites[::500].astype(np.float64)
    found = to_subject(places, where, head.grid)
    start, step = head.grid.affine[:3, 3], np.array(head.grid.spacing)
    index = np.round((found - start) / step).astype(int)
    back = where[tuple(index.T)] + (found - (start + index * step))
    # Exact but for the change of the deformation within a voxel of 4 mm.
    assert np.linalg.norm(back - places, axis=1).max() < 1.5


def growth(where, head):
    """The volume of a head in units of the template's, of the affine part of its deformation."""
    x, y, z = (np.broadcast_to(axis, head.grid.shape).ravel() for axis in head.grid.mesh())
    places = np.stack([x, y, z, np.ones_like(x)], axis=1)
    matrix = np.linalg.lstsq(places, where.reshape(-1, 3), rcond=None)[0][:3]
    return 1 / np.linalg.det(matrix)


def test_no_head_is_larger_than_the_largest(head):
    heads = [
        deformation(np.random.default_rng(seed), head, head.grid, largest=largest)
        for seed in range(8)
        for largest in (np.inf, LARGEST)
    ]
    free, bounded = heads[::2], heads[1::2]
    sizes = [growth(one, head) for one in free]
    assert max(sizes) > LARGEST + 0.05 > 1 > min(sizes)
    for before, after, size in zip(free, bounded, sizes, strict=True):
        if size < LARGEST - 0.02:
            np.testing.assert_array_equal(after, before)
        assert growth(after, head) < LARGEST + 0.02


def test_subjects_have_shapes_of_their_own(head):
    first, second = (deformation(np.random.default_rng(seed), head, head.grid) for seed in (0, 1))
    assert np.abs(first - second).mean() > 1.0


def test_the_template_is_a_head(head):
    grey, white, fluid, hull, surface = head.maps[:5]
    brain = grey + white + fluid
    assert brain.max() <= 1 + 1e-5
    assert min(grey.min(), white.min(), fluid.min()) >= 0
    litres = brain.sum() * 4.0**3 / 1e6
    assert 1.6 < litres < 2.1  # the template's own volume; it is larger than most brains
    assert (hull[brain > 0.5] < 0).all()
    assert (surface[brain > 0.5] < -6).all()
    assert (surface[[0, -1]] > 0).all()  # air on the left and on the right
    assert head.lesion_weights.sum() == pytest.approx(1)
