"""The crop to the head, and how often it is searched."""

from __future__ import annotations

import numpy as np
import pytest

from mrbridge.preprocessing import foreground
from mrbridge.preprocessing.foreground import crop_to_head
from mrbridge.volume import Volume


def ball(radius: float) -> Volume:
    """A ball of 2 mm voxels in the middle of air."""
    place = np.indices((60, 60, 60)) - 30
    voxels = 100.0 * (np.square(place).sum(axis=0) < radius**2)
    return Volume(voxels.astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The margin of every search for a head."""
    margins: list[float] = []
    search = foreground._search

    def counted(volume: Volume, margin_mm: float):
        margins.append(margin_mm)
        return search(volume, margin_mm)

    monkeypatch.setattr(foreground, "_search", counted)
    return margins


def test_a_kept_head_is_found_once(searches: list[float]) -> None:
    scan = ball(20)
    kept = crop_to_head(scan, 10.0, keep=True)
    assert crop_to_head(scan, 10.0) is kept
    assert searches == [10.0]
    again = crop_to_head(scan, 10.0)
    assert searches == [10.0, 10.0], "it is kept for one call"
    assert again[0] == kept[0]


def test_a_kept_head_is_not_that_of_another_scan_or_margin(searches: list[float]) -> None:
    scan = ball(20)
    crop_to_head(scan, 10.0, keep=True)
    small = crop_to_head(ball(12), 10.0)[1]
    assert np.count_nonzero(small.volume.voxels) < 10_000
    crop_to_head(scan, 10.0, keep=True)
    crop_to_head(scan, 4.0)
    assert searches == [10.0, 10.0, 10.0, 4.0]
