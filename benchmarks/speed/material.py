"""What the benchmarks work on: presets of any size, samples, heads, stores and bundles.

`quick` shrinks everything until a test can run it; figures of quick runs mean nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mrbridge.bundle import Bundle, save_bundle
from mrbridge.dataset.prepare import prepare
from mrbridge.dataset.sampling import Sample
from mrbridge.dataset.settings import PrepareSettings
from mrbridge.dataset.store import Store
from mrbridge.manifest import BundleManifest
from mrbridge.networks.build import build_generator
from mrbridge.networks.settings import UNetSettings
from mrbridge.phantom import PhantomSettings, SimulatedSubject, simulate, write_bids
from mrbridge.preprocessing.intensity import IntensityNormalisation
from mrbridge.preprocessing.settings import PreprocessSettings
from mrbridge.training.settings import TrainSettings, resolve
from mrbridge.volume import Volume

QUICK_SIZE = 32
"""Rows and columns of images."""

QUICK_SPACING_MM = 8.0

_QUICK_GENERATOR: dict[str, dict[str, Any]] = {
    "unet": {"features": 4, "max_features": 8},
    "resunet": {"features": 4, "max_features": 8, "blocks": 1},
    "resnet": {"features": 4, "blocks": 1},
}


def settings_of(preset: str, size: int, quick: bool = False, **changes: Any) -> TrainSettings:
    """A preset for square images of `size`: a U-Net has no more levels than halve them.

    Args:
        preset: its name.
        size: rows and columns.
        quick: with very narrow networks.
        changes: of further settings.
    """
    kept = resolve({"preset": preset}).networks.generator
    generator: dict[str, Any] = dict(_QUICK_GENERATOR[kept.kind]) if quick else {}
    if isinstance(kept, UNetSettings):
        generator["levels"] = min(kept.levels, (size & -size).bit_length() - 1)
        generator["refine"] = min(kept.refine, 4) if quick else kept.refine
    networks: dict[str, Any] = {"image_size": size, "generator": generator}
    if quick:
        networks["critic"] = {"features": 4, "strided": 1}
    return resolve({"preset": preset}, {"networks": networks}, changes)


def samples(settings: TrainSettings, count: int, seed: int, device: torch.device) -> list[Sample]:
    """Random smooth images with a background of -1, such as loaders give: `count` batches.

    Simulated slices are there if the settings want them, pairs never.
    """
    rng = torch.Generator().manual_seed(seed)
    size, batch = settings.networks.image_size, settings.batch_size
    line = torch.linspace(-1, 1, size)
    inside = line[:, None] ** 2 + line**2 < 0.7

    def images(channels: int) -> Tensor:
        if not channels:
            return torch.empty(batch, 0, size, size, device=device)
        coarse = torch.rand(batch, channels, size // 4, size // 4, generator=rng)
        smooth = functional.interpolate(coarse, size=(size, size), mode="bilinear") * 2 - 1
        return torch.where(inside, smooth, -1.0).to(device)

    simulated = 4 if settings.simulated_weight else 0
    return [Sample(images(1), images(1), images(simulated), images(0)) for _ in range(count)]


def subject(seed: int, quick: bool = False) -> SimulatedSubject:
    """A simulated subject at 1 mm."""
    spacing = QUICK_SPACING_MM if quick else 1.0
    return simulate(PhantomSettings(spacing_mm=spacing, seed=seed), 0)


def cropped(volume: Volume, shape: tuple[int, int, int]) -> Volume:
    """The middle of a volume, (i, j, k); axes that are shorter stay as they are."""
    start = [
        max(0, (have - want) // 2) for have, want in zip(volume.voxels.shape, shape, strict=True)
    ]
    box = tuple(slice(first, first + want) for first, want in zip(start, shape, strict=True))
    assert volume.affine is not None, "only volumes are cropped"
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ start
    return replace(volume, voxels=np.ascontiguousarray(volume.voxels[box]), affine=affine)


def simulated_store(folder: Path, subjects: int, spacing_mm: float, seed: int) -> Store:
    """A store of simulated subjects: a sixth held out for validation, a sixth unused."""
    phantom = PhantomSettings(subjects=subjects, spacing_mm=spacing_mm, seed=seed)
    settings = PrepareSettings(
        standard=PreprocessSettings(spacing_mm=spacing_mm),
        validation_share=1 / 6,
        test_share=1 / 6,
        seed=seed,
    )
    return prepare(write_bids(folder / "bids", phantom), folder / "store", settings)


def untrained_bundle(
    folder: Path, settings: TrainSettings, spacing_mm: float | None = 1.0
) -> Bundle:
    """A bundle of generators as training begins with them: as much work as trained ones."""
    rng = torch.Generator().manual_seed(settings.seed)
    networks = settings.networks
    weights = {
        f"{name}.{key}": value
        for name in ("to_target", "to_source")
        for key, value in build_generator(networks.generator, networks.image_size, rng)
        .state_dict()
        .items()
    }
    manifest = BundleManifest(
        source="T1w",
        target="T2w",
        preset=settings.preset,
        networks=networks,
        standard=PreprocessSettings(spacing_mm=spacing_mm),
        typical={contrast: IntensityNormalisation(low=0, high=1000) for contrast in ("T1w", "T2w")},
        pictures=False,
        trained={},
        scores={},
    )
    return save_bundle(manifest, weights, folder)
