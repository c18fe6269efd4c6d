"""Volume: three axes, an affine or none."""

from __future__ import annotations

import numpy as np
import pytest

from mrbridge.volume import Volume


def test_spacing_is_the_length_of_the_axes() -> None:
    affine = np.eye(4)
    affine[:3, :3] = [[0.0, 3.0, 0.0], [-0.6, 0.0, 0.0], [0.8, 0.0, 5.0]]
    volume = Volume(np.zeros((2, 3, 4)), affine)
    assert volume.spacing == pytest.approx((1, 3, 5))
    assert not volume.is_2d


def test_a_2d_image_has_no_spacing() -> None:
    volume = Volume(np.zeros((2, 3, 1)), None)
    assert volume.is_2d
    assert volume.spacing is None


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="4 axes"):
        Volume(np.zeros((2, 3, 4, 5)), np.eye(4))
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        Volume(np.zeros((2, 3, 4)), np.eye(3))
