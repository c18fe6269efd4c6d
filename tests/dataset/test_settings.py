"""Settings are light, and explain each of their fields; ranges of slices keep what is inside."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mrbridge.dataset.prepare import prepare
from mrbridge.dataset.settings import AugmentSettings, PrepareSettings, SliceRange
from mrbridge.dataset.store import Store
from mrbridge.errors import InputError, SettingsError
from mrbridge.phantom import PhantomSettings
from mrbridge.preprocessing.geometry import to_slices
from mrbridge.preprocessing.settings import IntensitySettings, PreprocessSettings
from mrbridge.settings import Settings
from mrbridge.volume import Volume

Maker = Callable[..., Path]


def test_settings_are_imported_without_arrays_and_networks() -> None:
    modules = [f"mrbridge.{name}.settings" for name in ("preprocessing", "dataset", "phantom")]
    program = (
        f"import sys, {', '.join(modules)}\n"
        "print({'torch', 'numpy', 'scipy', 'nibabel', 'SimpleITK'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout == "set()\n"


@pytest.mark.parametrize(
    "model",
    [AugmentSettings, IntensitySettings, PhantomSettings, PreprocessSettings, PrepareSettings],
)
def test_every_field_is_described_without_repeating_its_default(model: type[Settings]) -> None:
    for name, field in model.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        assert "default" not in field.description, name


def grid_of(spacing: float, lowest: float, count: int = 20, flip: bool = False):
    affine = np.diag([1.0, 1.0, -spacing if flip else spacing, 1.0])
    affine[2, 3] = lowest + (count - 1) * spacing if flip else lowest
    return to_slices(Volume(np.zeros((6, 5, count), np.float32), affine), None)[1]


@pytest.mark.parametrize("flip", [False, True])
def test_millimetres_are_those_of_the_space(flip: bool) -> None:
    """Slices run upwards, however they are stored."""
    held = SliceRange.parse("-4mm:6mm").holds(np.ones(20, bool), grid_of(2.0, -10.0, flip=flip))
    assert np.flatnonzero(held).tolist() == [3, 4, 5, 6, 7, 8]


def test_per_cent_are_those_of_the_head() -> None:
    filled = np.zeros(20, bool)
    filled[5:15] = True
    held = SliceRange.parse("20%:80%").holds(filled, grid_of(3.0, 0.0))
    assert np.flatnonzero(held & filled).tolist() == [7, 8, 9, 10, 11, 12]
    everything = SliceRange.parse("0%:100%").holds(filled, grid_of(3.0, 0.0))
    np.testing.assert_array_equal(everything, filled)


def test_parts_that_meet_make_the_whole() -> None:
    filled, grid = np.ones(20, bool), grid_of(1.0, 0.0)
    parts = [SliceRange.parse(text).holds(filled, grid) for text in ("0%:31%", "31%:100%")]
    assert (parts[0] ^ parts[1]).all()


@pytest.mark.parametrize("text", ["", "20:80", "20%:8mm", "80%:20%", "5%:5%", "-1%:9%", "a%:b%"])
def test_invalid_values_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"slices|beyond"):
        PrepareSettings.build({"slices": text})


def test_2d_images_have_no_position() -> None:
    grid = to_slices(Volume(np.zeros((6, 5, 1), np.uint8), None), None)[1]
    with pytest.raises(InputError, match="2D image"):
        SliceRange.parse("0%:50%").holds(np.ones(1, bool), grid)


def test_the_store_holds_the_range_and_counts_it(bids: Maker, tmp_path: Path) -> None:
    root = bids(3)
    full = prepare(root, tmp_path / "store")
    before = {record.id: record.slice_indices for record in full.records()}
    part = prepare(root, tmp_path / "store", PrepareSettings(slices="25%:75%"))
    for record in part.records():
        whole = before[record.id]
        assert set(record.slice_indices) < set(whole)
        assert len(record.slice_indices) == pytest.approx(len(whole) / 2, abs=1)
    assert Store.open(tmp_path / "store").manifest.settings.slices == "25%:75%"
    counts = part.counts()
    assert list(counts) == ["01", "02", "03"]
    assert sum(sum(c.values()) for c in counts.values()) == sum(
        record.shape[0] for record in part.records()
    )


def test_a_range_without_slices_is_reported(bids: Maker, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is within 900mm:990mm"):
        prepare(bids(2), tmp_path / "store", PrepareSettings(slices="900mm:990mm"))
