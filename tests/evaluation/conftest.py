"""Small subjects whose contrasts are functions of one another, and a translator that knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from mrbridge.io import write
from mrbridge.volume import Volume

SHAPE = (24, 28, 20)
AFFINE = np.array([[-2.0, 0, 0, 30], [0, 2, 0, -20], [0, 0, 2, -15], [0, 0, 0, 1]])


def inside(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    axes = np.meshgrid(*(np.linspace(-1.15, 1.15, n) for n in shape), indexing="ij")
    return np.sum([np.square(axis) for axis in axes], axis=0) <= 1


def field(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """A wave through the head, which cannot be predicted from intensity."""
    return 150 * np.sin(np.arange(shape[0]) / 2)[:, None, None] * np.ones(shape)


def t1w_of(seed: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    return np.where(inside(shape), 300 + 600 * smooth, 0).astype(np.float32)


def t2w_of(t1w: np.ndarray) -> np.ndarray:
    return np.where(t1w > 0, 1100 - 0.8 * t1w + field(t1w.shape), 0).astype(np.float32)


class KnowingTranslator:
    """Makes the true other contrast, with as much noise as wanted."""

    def __init__(self, noise: float = 0.0) -> None:
        self.bundle = SimpleNamespace(
            source="T1w",
            target="T2w",
            hash="ab" * 32,
            path=None,
            manifest=SimpleNamespace(
                standard=SimpleNamespace(brain="none", foreground="head"), trained_on=()
            ),
        )
        self.noise = noise
        self.calls: list[str] = []

    def translate(self, volume: Volume, to: str, *, mask: Volume | None = None) -> Volume:
        self.calls.append(to)
        known = volume.voxels
        made = t2w_of(known) if to == "T2w" else (1100 + field(known.shape) - known) / 0.8
        made = made + self.noise * np.random.default_rng(1).standard_normal(known.shape)
        voxels = np.where(known > 0, made, 0).astype(np.float32)
        return replace(volume, voxels=voxels, contrast=to, synthetic=True)


class CopyingTranslator(KnowingTranslator):
    """Returns its input."""

    def translate(self, volume: Volume, to: str, *, mask: Volume | None = None) -> Volume:
        return replace(volume, contrast=to, synthetic=True)


def save(voxels: np.ndarray, path: Path, affine: np.ndarray = AFFINE) -> Path:
    return write(Volume(voxels.astype(np.float32), affine), path)


def save_subject(root: Path, subject: str, seed: int, *, session: str | None = None) -> None:
    """`sub-01[/ses-a]/anat/sub-01[_ses-a]_T1w.nii.gz` and T2w."""
    folder, stem = root / f"sub-{subject}", f"sub-{subject}"
    if session:
        folder, stem = folder / f"ses-{session}", f"{stem}_ses-{session}"
    t1w = t1w_of(seed)
    save(t1w, folder / "anat" / f"{stem}_T1w.nii.gz")
    save(t2w_of(t1w), folder / "anat" / f"{stem}_T2w.nii.gz")


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    """A BIDS data set of three subjects."""
    root = tmp_path / "data"
    for number in (1, 2, 3):
        save_subject(root, f"0{number}", number)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.9.0"}')
    return root


@pytest.fixture
def world() -> SimpleNamespace:
    """The helpers above, for tests to build cases with."""
    return SimpleNamespace(
        AFFINE=AFFINE,
        SHAPE=SHAPE,
        inside=inside,
        field=field,
        t1w_of=t1w_of,
        t2w_of=t2w_of,
        Knowing=KnowingTranslator,
        Copying=CopyingTranslator,
        save=save,
        save_subject=save_subject,
    )
