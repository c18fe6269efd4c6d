"""`read` and `write` choose the format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mrbridge import io
from mrbridge.errors import InputError, OutputError
from mrbridge.volume import Volume


def test_unknown_formats_are_refused(tmp_path: Path) -> None:
    (tmp_path / "scan.mgz").touch()
    with pytest.raises(InputError, match="unknown format"):
        io.read(tmp_path / "scan.mgz")
    with pytest.raises(OutputError, match="unknown format"):
        io.write(Volume(np.zeros((2, 2, 2)), np.eye(4)), tmp_path / "scan.bmp")
    assert not io.is_readable("scan.mgz")
    assert all(io.is_readable(f"a.b{suffix}") for suffix in io.FORMATS)
    assert io.is_readable("SCAN.NII.GZ")


def test_the_contrast_follows_from_the_name(tmp_path: Path) -> None:
    volume = Volume(np.zeros((2, 2, 2), np.int16), np.eye(4))
    for name, contrast in (("a_T2.nii", "T2w"), ("T1w/scan.nii", "T1w"), ("x/scan.nii", None)):
        assert io.read(io.write(volume, tmp_path / name)).contrast == contrast


def test_a_2d_image_has_no_volumes(tmp_path: Path) -> None:
    path = io.write(Volume(np.zeros((2, 2, 1), np.uint8), None), tmp_path / "a.png")
    with pytest.raises(InputError, match="no volumes"):
        io.read(path, volume=1)
