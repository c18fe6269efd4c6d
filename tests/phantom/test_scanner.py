"""What the scanner does to a signal."""

import numpy as np
import pytest

from mrbridge.phantom.fields import Grid
from mrbridge.phantom.subjects import digitised, receive_field, rician, thick_slices


def test_noise_in_air_follows_rayleigh():
    noise = rician(np.random.default_rng(0), np.zeros((64, 64, 64), np.float32), 3.0)
    assert noise.mean() == pytest.approx(3 * np.sqrt(np.pi / 2), rel=0.01)
    assert noise.std() == pytest.approx(3 * np.sqrt(2 - np.pi / 2), rel=0.01)


def test_noise_on_strong_signal_is_normal():
    noisy = rician(np.random.default_rng(0), np.full((64, 64, 64), 100, np.float32), 2.0)
    assert noisy.std() == pytest.approx(2.0, rel=0.02)
    assert noisy.mean() == pytest.approx(100, rel=1e-3)


def test_thick_slices_are_means_of_thin_ones():
    rng = np.random.default_rng(0)
    fine, thick = (Grid.over_field_of_view((7.0, 7.0, step)) for step in (1.0, 3.0))
    signal = rng.random(fine.shape, dtype=np.float32)
    expected = signal.reshape(*fine.shape[:2], -1, 3).mean(axis=3)
    np.testing.assert_allclose(thick_slices(signal, fine, thick), expected, rtol=1e-5)


def test_thick_slices_split_thin_ones_where_edges_do_not_meet():
    fine, thick = (Grid.over_field_of_view((7.0, 7.0, step)) for step in (2.0, 5.0))
    z = np.broadcast_to(fine.axes[2], fine.shape).astype(np.float32)
    expected = np.broadcast_to(thick.axes[2], thick.shape)
    # A slice of 5 mm holds parts of three or four of 2 mm, so its mean place is that of its centre.
    np.testing.assert_allclose(thick_slices(z, fine, thick), expected, atol=0.5)


def test_slices_a_little_thicker_are_means_too():
    fine, thick = (Grid.over_field_of_view((8.0, 8.0, step)) for step in (8.0, 8.2))
    assert fine.shape == thick.shape
    z = np.broadcast_to(fine.axes[2], fine.shape).astype(np.float32)
    inner = np.s_[:, :, 2:-2]  # at the edge there is nothing to take the mean with
    expected = np.broadcast_to(thick.axes[2], thick.shape)
    np.testing.assert_allclose(thick_slices(z, fine, thick)[inner], expected[inner], atol=0.5)
    np.testing.assert_array_equal(thick_slices(z, fine, fine), z)


def test_the_receive_field_stays_within_its_strength():
    field = receive_field(np.random.default_rng(0), Grid.over_field_of_view((6.0,) * 3), 0.3)
    assert np.exp(-0.3) <= field.min() < 0.95
    assert 1.05 < field.max() <= np.exp(0.3)


def test_voxel_values_are_proportional_to_the_signal():
    signal = np.linspace(0, 1, 10_000, dtype=np.float32).reshape(100, 100, 1)
    digits = digitised(signal, 1000)
    assert digits.dtype == np.int16
    np.testing.assert_allclose(digits, signal * 1000 / 0.999, atol=0.6)
