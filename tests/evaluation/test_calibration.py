"""Uncertainty maps of known quality."""

from __future__ import annotations

import numpy as np
import pytest

from mrbridge.evaluation import calibration


@pytest.fixture(scope="module")
def errors():
    """Absolute errors of 50,000 voxels, and their standard deviations."""
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.01, 0.2, 50_000)
    return np.abs(spread * rng.standard_normal(50_000)), spread


def test_a_calibrated_map_covers_90_percent_everywhere(errors):
    error, spread = errors
    wide = spread > 0.1
    result = calibration.assess(error, 1.6449 * spread, {"wide": wide, "none": wide & ~wide})
    assert result["coverage"] == pytest.approx(0.9, abs=0.01)
    assert result["coverage_wide"] == pytest.approx(0.9, abs=0.01)
    assert "coverage_none" not in result
    for row in calibration.reliability(error, 1.6449 * spread):
        assert row["stated"] == pytest.approx(row["found"], rel=0.1)
        assert row["coverage"] == pytest.approx(0.9, abs=0.02)


def test_a_narrow_map_covers_less(errors):
    error, spread = errors
    assert calibration.assess(error, 0.5 * spread, {})["coverage"] < 0.5


def test_auroc_and_ause_from_perfect_to_worthless(errors):
    error, spread = errors
    constant, wrong = np.ones_like(error), -error
    order = [error, spread, constant, wrong]
    aurocs = [calibration.auroc_of_worst(error, score) for score in order]
    areas = [calibration.ause(error, score) for score in order]
    assert aurocs[0] == pytest.approx(1)
    assert aurocs[2] == pytest.approx(0.5)
    assert aurocs == sorted(aurocs, reverse=True)
    assert areas[0] == 0
    assert areas == sorted(areas)


def test_auroc_is_that_of_all_pairs():
    error = np.arange(40.0)
    score = np.random.default_rng(1).integers(0, 5, 40).astype(float)
    worst, rest = score[38:], score[:38]
    by_hand = np.mean([(a > b) + 0.5 * (a == b) for a in worst for b in rest])
    assert calibration.auroc_of_worst(error, score) == pytest.approx(by_hand)


def test_equal_errors_rank_nothing():
    assert np.isnan(calibration.auroc_of_worst(np.zeros(10), np.arange(10.0)))


def test_the_gradient_is_large_at_edges():
    image = np.zeros((4, 20, 20))
    image[:, :, 10:] = 1
    size = calibration.gradient_size(image)
    assert size[2, 10, 10] > 10 * size[2, 10, 3]
