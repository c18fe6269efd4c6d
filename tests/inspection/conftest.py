"""A clean dataset of small heads, and ways to spoil one scan of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from mrbridge import io
from mrbridge.inspection.facts import Entry, Facts, measure
from mrbridge.io.scans import Scan
from mrbridge.volume import Volume

SHAPE = (80, 96, 24)
_SIGNAL = {"T1w": (150, 900, 560, 760), "T2w": (1000, 340, 480, 400)}  # fluid, fat, grey, white


def head(seed: int, contrast: str) -> Volume:
    """A head with folds of its own, a nose in front, and a sloping forehead.

    At half the size of an adult's: in a part of a head, the template is not searched.
    """
    rng = np.random.default_rng(seed)
    i, j, k = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    width = rng.uniform(0.78, 0.86, 3)
    radius = (
        (i / width[0]) ** 2 + (j / width[1]) ** 2 + ((k + 0.2 + 0.35 * j) / (1.1 * width[2])) ** 2
    )
    radius -= 0.25 * np.exp(-(i**2 + (k + 0.4) ** 2) / 0.02) * (j > 0)
    folds = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 2.5)
    folds /= folds.std()
    fluid = ((np.abs(i) - 0.15) / 0.1) ** 2 + ((j - 0.1) / 0.3) ** 2 < 1
    signal = _SIGNAL[contrast]
    inner = np.where(fluid & (k > -0.5), signal[0], np.where(folds > 0, signal[2], signal[3]))
    voxels = np.where(radius < 0.75, inner, np.where(radius < 1, signal[1], 0))
    noise = np.random.default_rng((seed, len(contrast), signal[0])).normal(0, 12, SHAPE)
    smooth = ndimage.gaussian_filter(voxels.astype(float), 0.6) + noise * (radius < 1.1)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    return Volume(np.clip(smooth, 0, None).astype(np.int16), affine, contrast=contrast)


def facts_of(folder: Path, volume: Volume, subject: str, contrast: str) -> Facts:
    """Write a scan and look at it."""
    name = f"sub-{subject}_{contrast}.nii.gz"
    path = io.write(volume, folder / name)
    return measure(Entry(name, Scan(path, subject, None, contrast, name)))


@pytest.fixture(scope="session")
def clean_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six subjects with both contrasts."""
    folder = tmp_path_factory.mktemp("inspection") / "clean"
    for number in range(1, 7):
        for contrast in ("T1w", "T2w"):
            io.write(head(number, contrast), folder / f"sub-0{number}_{contrast}.nii.gz")
    return folder


@pytest.fixture(scope="session")
def clean(clean_folder: Path) -> list[Facts]:
    """What is found in each of them."""
    scans = [
        Scan(path, path.name[4:6], None, path.name[7:10], path.name)
        for path in sorted(clean_folder.iterdir())
    ]
    return [measure(Entry(scan.name, scan)) for scan in scans]


@pytest.fixture
def spoilt(clean: list[Facts], tmp_path: Path) -> Callable[[Volume], list[Facts]]:
    """The clean dataset with another T2w scan of subject 03."""

    def replaced(volume: Volume) -> list[Facts]:
        new = facts_of(tmp_path, volume, "03", "T2w")
        return [new if one.name == new.name else one for one in clean]

    return replaced
