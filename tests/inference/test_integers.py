"""Synthetic images as integers: no wrap-around, zero stays zero, levels are kept."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from mrbridge.bundle import Bundle
from mrbridge.errors import SettingsError
from mrbridge.inference.settings import NumberType
from mrbridge.inference.synthesis import integer_factor, to_integers
from mrbridge.inference.translate import translate
from mrbridge.preprocessing.intensity import IntensityNormalisation
from mrbridge.volume import Volume

INTEGERS = [name for name in get_args(NumberType) if not name.startswith("float")]


@pytest.mark.parametrize(
    ("top", "dtype", "factor"),
    [
        (1000, "int16", 1),
        (4095, "uint16", 1),
        (32767, "int16", 1),
        (40000, "int16", 0.1),
        (40000, "uint16", 1),
        (1, "int16", 1000),
        (0.05, "int32", 100_000),
        (999, "uint16", 10),
        (255, "uint8", 1),
        (1000, "uint8", 0.255),
        (1, "uint8", 255),
    ],
)
def test_factors(top: float, dtype: str, factor: float) -> None:
    assert integer_factor(top, int(np.iinfo(dtype).max)) == pytest.approx(factor, rel=1e-12)


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-6, 1e9), st.sampled_from(INTEGERS))
def test_the_range_fits_and_keeps_its_levels(top: float, dtype: str) -> None:
    limit = int(np.iinfo(dtype).max)
    assert min(1000, limit) * (1 - 1e-9) <= integer_factor(top, limit) * top <= limit * (1 + 1e-9)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-3e5, 3e5, width=32), min_size=1, max_size=20),
    st.sampled_from(INTEGERS),
    st.floats(1, 2e5),
)
def test_nothing_wraps(values: list[float], dtype: str, high: float) -> None:
    voxels = np.array([0.0, *values], np.float32).reshape(-1, 1, 1)
    volume, rounding = to_integers(
        Volume(voxels, np.eye(4)), dtype, IntensityNormalisation(low=0, high=high)
    )
    limits = np.iinfo(dtype)
    wanted = voxels.astype(float) * rounding.factor
    assert volume.voxels.dtype == dtype
    assert volume.voxels[0] == 0
    expected = np.clip(wanted, limits.min, limits.max)
    assert np.abs(volume.voxels.astype(float) - expected).max() <= 0.5
    beyond = (np.rint(wanted) > limits.max) | (np.rint(wanted) < limits.min)
    assert rounding.clipped == np.count_nonzero(beyond)


def test_refusals(tiny_bundle: Bundle, picture_folder: Path, tmp_path: Path) -> None:
    picture = picture_folder / "TrainT1" / "Image #10.png"
    with pytest.raises(SettingsError, match=r"'dtype' cannot be 'int12'.*float32.*int16"):
        translate(picture, tmp_path / "out", model=tiny_bundle, dtype="int12", device="cpu")
    with pytest.raises(SettingsError, match="keeps its bit depth"):
        translate(picture, tmp_path / "out", model=tiny_bundle, dtype="int16", device="cpu")
    assert not (tmp_path / "out").exists()
