"""Lesions of known contrast: kept, weakened, lost, inverted, not shown, invented."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from mrbridge.evaluation import lesions

SHAPE = (30, 60, 60)
SPACING = (1.0, 1.0, 1.0)
WHITE = np.ones(SHAPE, bool)
PLACES = [(15, row, column) for row in (12, 30, 48) for column in (12, 30, 48)]


def ball(place, radius=2.5):
    grid = np.indices(SHAPE).reshape(3, -1).T
    return (np.linalg.norm(grid - place, axis=1) <= radius).reshape(SHAPE)


def tissue(seed, noise=0.01):
    return (0.4 + noise * np.random.default_rng(seed).standard_normal(SHAPE)).astype(np.float32)


def painted(contrasts, seed=0):
    """White matter with a ball of this contrast at each place."""
    image = tissue(seed)
    for place, contrast in zip(PLACES, contrasts, strict=False):
        image[ball(place)] += contrast
    return image


def mask(count):
    return np.any([ball(place) for place in PLACES[:count]], axis=0)


class TestOutcomes:
    @pytest.mark.parametrize("sign", [1, -1])
    def test_by_the_share_of_the_real_contrast(self, sign):
        real = painted([sign * 0.2] * 6)
        made = painted([sign * 0.2 * share for share in (1.5, 0.6, 0.4, 0.1, -0.1, -0.6)], seed=1)
        found, _ = lesions.measure_lesions(mask(6), real, made, real, WHITE, SPACING)
        by_place = {(one.row, one.column): one.outcome for one in found}
        assert [by_place[place[1:]] for place in PLACES[:6]] == [
            *("kept", "kept", "weakened", "lost", "lost", "inverted"),
        ]

    def test_what_the_real_scan_does_not_show_is_not_lost(self):
        real = painted([0.001])
        found, _ = lesions.measure_lesions(mask(1), real, real, None, WHITE, SPACING)
        assert [one.outcome for one in found] == ["not_shown"]

    def test_contrast_volume_and_place(self):
        real, made = painted([0.2]), painted([0.1], seed=1)
        (found,), _ = lesions.measure_lesions(mask(1), real, made, None, WHITE, (3.0, 1.0, 0.5))
        assert found.volume_ml == pytest.approx(ball(PLACES[0]).sum() * 1.5 / 1000)
        assert (found.slice, found.row, found.column) == PLACES[0]
        assert found.contrast_real == pytest.approx(0.2, abs=0.01)
        assert found.contrast_synthetic == pytest.approx(0.1, abs=0.01)
        assert found.contrast_source is None
        assert found.visibility == "unknown"

    def test_visibility_is_contrast_over_the_spread_of_the_ring(self):
        source = painted([0.1, 0.015, 0.0])
        found, _ = lesions.measure_lesions(mask(3), source, source, source, WHITE, SPACING)
        by_place = {one.column: one.visibility for one in found}
        assert [by_place[place[2]] for place in PLACES[:3]] == ["clear", "faint", "hidden"]

    def test_the_ring_leaves_out_other_lesions_and_what_is_not_usable(self):
        real = painted([0.2])
        bright = ball(PLACES[0], 5) & ~ball(PLACES[0], 2.5)
        bright[:, :, : PLACES[0][2] - 1] = False  # most of the ring is fluid
        real[bright] = 1.0
        usable = WHITE & ~bright
        (found,), _ = lesions.measure_lesions(mask(1), real, real, None, usable, SPACING)
        assert found.contrast_real == pytest.approx(0.2, abs=0.02)

    def test_specks_are_left_out(self):
        speck = np.zeros(SHAPE, bool)
        speck[15, 12, 12:16] = True
        found, left_out = lesions.measure_lesions(speck, tissue(0), tissue(1), None, WHITE, SPACING)
        assert (found, left_out) == ([], {lesions.TOO_SMALL: 1})

    def test_without_surroundings_there_is_no_contrast(self):
        real = painted([0.2, 0.2])
        usable = WHITE & ~ndimage.binary_dilation(ball(PLACES[1]), iterations=5)
        found, left_out = lesions.measure_lesions(mask(2), real, real, None, usable, SPACING)
        assert (len(found), left_out) == (1, {lesions.NO_RING: 1})


class TestInvented:
    def test_a_scan_invents_nothing_of_itself(self):
        real = painted([0.2, 0.3])
        assert not lesions.find_invented(real, real, None, WHITE, SPACING, 1)

    def test_bright_blobs_that_only_the_synthetic_scan_shows(self):
        made = painted([0.2, 0, 0.2], seed=1)
        found = lesions.find_invented(tissue(0), made, None, WHITE, SPACING, 1)
        assert sorted(one.column for one in found) == [12, 48]
        assert {one.outcome for one in found} == {"invented"}

    def test_what_the_real_scan_shows_is_not_invented(self):
        real, made = painted([0.2]), painted([0.2, 0.2], seed=1)
        found = lesions.find_invented(real, made, None, WHITE, SPACING, 1)
        assert [one.column for one in found] == [PLACES[1][2]]

    @pytest.mark.parametrize(("sign", "count"), [(1, 0), (-1, 1)])
    def test_in_t1w_they_are_dark(self, sign, count):
        found = lesions.find_invented(tissue(0), painted([-0.2], 1), None, WHITE, SPACING, sign)
        assert len(found) == count

    def test_only_in_white_matter(self):
        made = painted([0.2], seed=1)
        white = WHITE & ~ndimage.binary_dilation(mask(1), iterations=4)
        assert not lesions.find_invented(tissue(0), made, None, white, SPACING, 1)

    @pytest.mark.parametrize("spacing", [SPACING, (2.0, 2.0, 2.0), (5.0, 0.5, 0.5)])
    def test_not_partial_volume_at_its_edge(self, spacing):
        white = np.zeros(SHAPE, bool)
        white[5:25, 10:50, 10:50] = True
        made = tissue(1)
        made[white & ~ndimage.binary_erosion(white)] += 0.2
        assert not lesions.find_invented(tissue(0), made, None, white, spacing, 1)

    def test_without_white_matter_there_are_none(self):
        nothing = np.zeros(SHAPE, bool)
        assert lesions.find_invented(tissue(0), tissue(1), None, nothing, SPACING, 1) == []


def test_counts_add_up():
    real = painted([0.2] * 4)
    made = painted([0.2, 0.2, 0, -0.2], seed=1)
    found, _ = lesions.measure_lesions(mask(4), real, made, real, WHITE, SPACING)
    found += lesions.find_invented(tissue(0), painted([0.2], 1), None, WHITE, SPACING, 1)
    one = lesions.count(found)
    assert one["all"]["kept"]["number"] == one["clear"]["kept"]["number"] == 2
    assert one["all"]["invented"]["number"] == 1
    assert "invented" not in one["clear"]
    assert "hidden" not in one
    both = lesions.count([*found, *found])
    assert both["all"]["lost"]["number"] == 2
    assert both["all"]["lost"]["ml"] == pytest.approx(2 * one["all"]["lost"]["ml"])


def test_the_worst_come_first():
    real = painted([0.2] * 5)
    made = painted([0.2, 0.06, 0, -0.2, 0.2], seed=1)
    found, _ = lesions.measure_lesions(mask(5), real, made, real, WHITE, SPACING)
    worst = [one.outcome for one in lesions.worst_lesions(found)]
    assert worst == ["inverted", "lost", "weakened"]
