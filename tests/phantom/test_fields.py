"""Random fields: smooth, of unit spread, and fixed in space."""

import numpy as np
import pytest

from mrbridge.phantom.fields import HIGH_MM, LOW_MM, Grid, random_field, spline


def test_the_template_grid_is_that_of_the_template():
    grid = Grid.over_field_of_view((1.0, 1.0, 1.0))
    assert grid.shape == (197, 233, 189)
    np.testing.assert_array_equal(grid.affine[:3, 3], (-98, -134, -72))


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (3.0, 3.0, 5.0), (8.0, 8.0, 16.0)])
def test_grids_fill_the_field_of_view_from_its_centre(spacing):
    grid = Grid.over_field_of_view(spacing)
    np.testing.assert_allclose(grid.spacing, spacing)
    low = np.array([a[0] for a in grid.axes]) - np.array(spacing) / 2 - LOW_MM
    high = HIGH_MM - np.array([a[-1] for a in grid.axes]) - np.array(spacing) / 2
    np.testing.assert_allclose(low, high, atol=1e-9)
    assert (low >= 0).all()
    assert (low < np.array(spacing) / 2).all()


def test_a_spline_of_equal_coefficients_is_constant():
    grid = Grid.over_field_of_view((9.0, 9.0, 9.0))
    field = spline(np.full((30, 30, 30), 3.0, np.float32), LOW_MM - 20, 12.0, grid)
    np.testing.assert_allclose(field, 3.0, rtol=1e-6)


def test_a_spline_of_linear_coefficients_is_linear():
    grid = Grid.over_field_of_view((9.0, 9.0, 9.0))
    start, knot = LOW_MM - 20, 12.0
    x = start[0] + knot * np.arange(30)
    coefficients = np.broadcast_to(x[:, None, None], (30, 30, 30)).astype(np.float32)
    expected = np.broadcast_to(grid.axes[0][:, None, None], grid.shape)
    np.testing.assert_allclose(spline(coefficients, start, knot, grid), expected, atol=1e-3)


def test_a_field_has_mean_zero_and_unit_spread():
    field = random_field(np.random.default_rng(0), 12.0, Grid.over_field_of_view((4.0, 4.0, 4.0)))
    assert abs(field.mean()) < 0.05
    assert field.std() == pytest.approx(1, abs=0.05)


def test_a_field_is_the_same_function_at_every_spacing():
    fine = Grid.over_field_of_view((2.0, 2.0, 2.0))
    first, second, third = fine.axes
    coarse = Grid((first[1::3], second[1::3], third[1::3]))
    on_fine = random_field(np.random.default_rng(7), 15.0, fine)
    on_coarse = random_field(np.random.default_rng(7), 15.0, coarse)
    np.testing.assert_array_equal(on_fine[1::3, 1::3, 1::3], on_coarse)


def test_a_field_on_a_box_is_that_part_of_the_field():
    grid = Grid.over_field_of_view((4.0, 4.0, 4.0))
    box = (slice(3, 20), slice(10, 31), slice(0, 9))
    whole = random_field(np.random.default_rng(1), 20.0, grid)
    part = random_field(np.random.default_rng(1), 20.0, grid.part(box))
    np.testing.assert_array_equal(whole[box], part)
