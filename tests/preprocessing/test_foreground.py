"""The crop to the head, and how often it is searched."""

from __future__ import annotations

import numpy as np
import pytest

from mrbridge import translate
from mrbridge.bundle import Bundle
from mrbridge.inference.appearance import MARGIN_MM
from mrbridge.preprocessing import foreground
from mrbridge.preprocessing.foreground import Crop, Head, crop_to_head
from mrbridge.preprocessing.preprocess import preprocess
from mrbridge.preprocessing.settings import PreprocessSettings
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
    found = foreground.FoundHead

    def counted(crop: Crop, head: Head, margin_mm: float):
        margins.append(margin_mm)
        return found(crop, head, margin_mm)

    monkeypatch.setattr(foreground, "FoundHead", counted)
    return margins


def test_a_head_that_is_given_is_not_searched_again(searches: list[float]) -> None:
    scan, settings = ball(20), PreprocessSettings()
    expected = preprocess(scan, settings)
    found = crop_to_head(scan, settings.margin_mm)
    searches.clear()
    given = preprocess(scan, settings, found=found)
    assert searches == []
    assert given.crop == expected.crop
    assert np.array_equal(given.slices, expected.slices)


def test_a_head_with_another_margin_is_searched_again(searches: list[float]) -> None:
    scan, settings = ball(20), PreprocessSettings()
    found = crop_to_head(scan, settings.margin_mm - 6)
    searches.clear()
    given = preprocess(scan, settings, found=found)
    assert searches == [settings.margin_mm]
    assert given.crop == crop_to_head(scan, settings.margin_mm).crop != found.crop


def test_input_check_and_model_search_for_the_head_once(
    searches: list[float], tiny_bundle: Bundle
) -> None:
    assert tiny_bundle.manifest.standard.margin_mm == MARGIN_MM
    translate(ball(20), model=tiny_bundle, force=True)
    assert searches == [MARGIN_MM]
