"""Tissues of three known intensities, in every contrast."""

from __future__ import annotations

import numpy as np
import pytest

from mrbridge.errors import InputError
from mrbridge.evaluation import tissues

SHAPE = (12, 40, 40)
LEVELS = {
    "T1w": {"fluid": 0.2, "grey": 0.6, "white": 0.9},
    "T2w": {"fluid": 1.0, "grey": 0.5, "white": 0.3},
    "FLAIR": {"fluid": 0.1, "white": 0.5, "grey": 0.7},
}


@pytest.fixture(scope="module")
def truth():
    """Shells of fluid, grey and white matter around the centre of every slice."""
    rows, columns = np.indices(SHAPE[1:]) - 19.5
    radius = np.broadcast_to(np.hypot(rows, columns), SHAPE)
    labels = np.select([radius < 5, radius < 11, radius < 15, radius < 17], [1, 3, 2, 1], 0)
    return labels.astype(np.uint8)


def scan(truth, contrast, noise=0.02, seed=0):
    image = np.zeros(SHAPE)
    for tissue, level in LEVELS[contrast].items():
        image[truth == tissues.TISSUES[tissue]] = level
    return image + noise * np.random.default_rng(seed).standard_normal(SHAPE) * (truth > 0)


@pytest.mark.parametrize("contrast", LEVELS)
def test_segments_what_is_there(truth, contrast):
    found = tissues.segment(1000 * scan(truth, contrast), truth > 0, contrast)
    assert (found == truth).mean() > 0.995
    assert not found[truth == 0].any()


def test_the_field_of_neighbours_removes_speckles(truth):
    noisy = scan(truth, "T1w", noise=0.1)
    found = tissues.segment(noisy, truth > 0, "T1w")
    nearest = np.abs(noisy[..., None] - [0.2, 0.6, 0.9]).argmin(axis=-1) + 1
    inside = truth > 0
    assert (found == truth)[inside].mean() > (nearest == truth)[inside].mean() + 0.01


def test_a_scan_agrees_with_itself(truth):
    result = tissues.compare(truth, truth, (2.0, 1.0, 1.0))
    assert {result[f"dice_{tissue}"] for tissue in tissues.TISSUES} == {1.0}
    assert {result[f"volume_bias_{tissue}_percent"] for tissue in tissues.TISSUES} == {0.0}
    assert result["volume_real_white_ml"] == pytest.approx(2 * (truth == 3).sum() / 1000)


def test_the_bias_has_the_sign_of_what_the_synthetic_scan_shows(truth):
    more = np.where(truth == 2, 3, truth)
    result = tissues.compare(truth, more, (1.0, 1.0, 1.0))
    assert result["volume_bias_grey_percent"] == -100
    assert result["volume_bias_white_percent"] > 0
    assert result["dice_grey"] == 0
    assert result["volume_bias_brain_percent"] == 0  # what one gains, the other loses
    less = tissues.compare(truth, np.where(truth == 2, 1, truth), (1.0, 1.0, 1.0))
    assert less["volume_bias_brain_percent"] < 0


def test_limits_of_agreement():
    limits = tissues.limits_of_agreement([1.0, 2.0, 3.0])
    assert limits["bias"] == 2
    assert limits["upper"] == pytest.approx(3.96)
    assert limits["lower"] == pytest.approx(0.04)
    assert tissues.limits_of_agreement([1.0])["lower"] is None


def test_an_image_of_one_intensity_is_refused(truth):
    with pytest.raises(InputError, match="fewer than three"):
        tissues.segment(np.ones(SHAPE), truth > 0, "T1w")
