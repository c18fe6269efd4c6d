"""Lesions painted into slices: truth and input agree, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from benchmarks.research.painted_lesions import canonical_signals, paint_lesions
from scipy import ndimage

from mrbridge.dataset.simulated import CANONICAL

SIZE = 128


def level(contrast: str, density: float, t1: float, t2: float) -> float:
    """The canonical level of a tissue; relaxation times are multiples of white matter's."""
    signal = np.array([canonical_signals(density, t1, t2)[contrast]])
    return float(CANONICAL[contrast].normalise(signal)[0])


WHITE, GREY, FLUID = (0.77, 1.0, 1.0), (0.86, 1.45, 1.15), (1.0, 4.7, 19.0)
CURVES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "T1w": lambda x: 0.7 * x + 0.1,
    "T2w": lambda x: 1.2 * ((x + 1) / 2) ** 0.7 - 0.7,
}


def head(t1w: int) -> np.ndarray:
    """A brain with a ventricle, cortex and background, as a group without noise."""
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    away = np.hypot(y, x)
    group = np.full((4, SIZE, SIZE), -1, np.float32)
    for contrast, seen in (("T1w", t1w), ("T2w", (t1w + 2) % 4)):
        truth = np.full((SIZE, SIZE), -1, np.float32)
        for radius, tissue in ((55, GREY), (48, WHITE), (14, FLUID)):
            truth[away < radius] = level(contrast, *tissue)
        # A few levels between, as partial volume gives.
        noise = np.random.default_rng(1).normal(0, 0.03, truth.shape).astype(np.float32)
        truth[away < 55] = np.clip(truth + noise, -0.95, 1)[away < 55]
        group[seen + 1] = truth
        group[seen] = np.where(away < 55, CURVES[contrast](truth), -1)
    return group


@pytest.mark.parametrize("t1w", [0, 2])
def test_inputs_follow_the_same_curve_as_before(t1w: int) -> None:
    before = head(t1w)
    errors, most = [], 0.0
    for seed in range(20):
        group = before.copy()
        share = paint_lesions(
            group, np.random.default_rng(seed), ("T2w", "T1w") if t1w else ("T1w", "T2w")
        )
        untouched = share == 0
        np.testing.assert_array_equal(group[:, untouched], before[:, untouched])
        assert (group[:, before[0] == -1] == -1).all(), "the background stays black"
        most = max(most, float(share.mean()))
        for contrast, seen in (("T1w", t1w), ("T2w", (t1w + 2) % 4)):
            truth = group[seen + 1]
            # Within the levels that the slice showed before; beyond, the curve is extrapolated.
            known = (share > 0.5) & (truth < 0.6) & (truth > -0.9)
            if known.any():
                errors.append(np.median(np.abs(group[seen] - CURVES[contrast](truth))[known]))
    assert most > 0.05
    assert np.median(errors) < 0.12, "each scan has a shade of its own"


def test_fluid_is_bright_in_t2w_and_dark_in_t1w() -> None:
    """Some lesions are fluid, in places where no anatomy has any."""
    before, dark = head(0), []
    for seed in range(60):
        group = before.copy()
        share = paint_lesions(group, np.random.default_rng(seed))
        fluid = (share > 0.9) & (group[3] > 0.9) & (before[3] < 0)
        if fluid.sum() > 30:
            assert np.median(group[2][fluid]) > np.median(before[2][before[3] < 0])
            dark.append(np.median(group[1][fluid]) < level("T1w", *WHITE))
    assert len(dark) > 5
    assert np.mean(dark) > 0.7, "all but old blood"


def test_small_lesions_are_as_grey_as_cortex_in_t2w_and_bright_in_flair() -> None:
    """As in multiple sclerosis: what is grey within white matter is not always grey matter."""
    group = head(0)
    flair = level("FLAIR", *WHITE) * np.ones((SIZE, SIZE), np.float32)
    before = np.concatenate([group, [flair, flair]])
    grey = level("T2w", *GREY)
    found = 0
    for seed in range(60):
        group = before.copy()
        share = paint_lesions(group, np.random.default_rng(seed), ("T1w", "T2w", "FLAIR"))
        parts, count = ndimage.label(share > 0.6)
        for number in range(1, count + 1):
            inside = parts == number
            if 5 <= inside.sum() <= 100 and abs(group[3][inside].mean() - grey) < 0.15:
                found += int(group[5][inside].mean() > level("FLAIR", *GREY) + 0.15)
    assert found > 5


def test_it_depends_on_the_random_state_only() -> None:
    first, second = head(0), head(0)
    for group in (first, second):
        paint_lesions(group, np.random.default_rng(3))
    np.testing.assert_array_equal(first, second)


def test_a_slice_without_tissue_stays_as_it_is() -> None:
    group = np.full((4, SIZE, SIZE), -1, np.float32)
    share = paint_lesions(group, np.random.default_rng(0))
    assert (group == -1).all()
    assert (share == 0).all()
