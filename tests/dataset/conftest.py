"""Small datasets for the tests of preparation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mrbridge import io
from mrbridge.volume import Volume

Maker = Callable[..., Path]


def make_head(seed: int, contrast: str, shape: tuple[int, int, int] = (20, 24, 12)) -> Volume:
    """A head of ellipses, empty at both ends, whose fluid is dark in T1w and bright in T2w."""
    i, j, k = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    generator = np.random.default_rng(seed)
    width = generator.uniform(0.75, 0.85, 3)
    radius = (i / width[0]) ** 2 + (j / width[1]) ** 2 + (k / width[2]) ** 2
    fluid, tissue = (100, 700) if contrast == "T1w" else (900, 400)
    values = np.select([radius < 0.15, radius < 1], [fluid, tissue], 0.0)
    noisy = values + generator.normal(0, 5, shape) * (radius < 1)
    affine = np.diag([-1.0, 1.0, 3.0, 1.0])
    affine[:3, 3] = [10, -12, -18]
    return Volume(np.clip(noisy, 0, None).astype(np.int16), affine, contrast=contrast)


@pytest.fixture
def head() -> Callable[..., Volume]:
    """Make one head: `head(seed, contrast)`."""
    return make_head


@pytest.fixture
def bids(tmp_path: Path) -> Maker:
    """Make a BIDS dataset: `bids(subjects=3, contrasts=("T1w", "T2w"))`."""

    def make(subjects: int = 3, contrasts: tuple[str, ...] = ("T1w", "T2w")) -> Path:
        root = tmp_path / "bids"
        for number in range(1, subjects + 1):
            for contrast in contrasts:
                name = f"sub-{number:02}/anat/sub-{number:02}_{contrast}.nii.gz"
                io.write(make_head(number, contrast), root / name)
        (root / "dataset_description.json").write_text('{"Name": "made by a test"}')
        return root

    return make


@pytest.fixture
def pictures(tmp_path: Path) -> Maker:
    """Make two folders of pictures of one subject, TrainT1 and TrainT2."""

    def make(count: int = 30) -> Path:
        root = tmp_path / "pictures"
        for contrast in ("T1w", "T2w"):
            volume = make_head(1, contrast, (24, 20, 3 * count))
            for number in range(count):
                pixels = volume.voxels[:, :, count + number, None] // 4
                picture = Volume(pixels.astype(np.uint8), None)
                io.write(picture, root / f"Train{contrast[:2]}" / f"Image #{number + 5}.png")
        return root

    return make
