"""Simulated pairs: slices of subjects whose two contrasts are both known.

An unpaired objective alone tends to copy, or to swap tissues, for hundreds of epochs. A few
simulated subjects tell a generator what becomes of fluid, grey and white matter, bone and fat,
without any pair of real scans.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrbridge.phantom import PhantomSettings, simulate
from mrbridge.preparation.geometry import fit_size
from mrbridge.preparation.intensity import IntensitySettings
from mrbridge.preparation.pipeline import StandardSettings, standardise
from mrbridge.progress import track
from mrbridge.volume import Volume

CONTRASTS = ("T1w", "T2w")
"""What can be simulated."""

_FIELD_OF_VIEW_MM = 256.0
_LEAST_FOREGROUND = 0.02
_SEED = 982_451_653  # added to the training's seed: the demo's own subjects have small seeds


class SimulatedPairs:
    """Pairs of slices of simulated subjects, prepared as the store's scans are.

    Every second subject is skull-stripped, since stores hold whole heads or stripped brains.

    Args:
        standard: how the store's scans were prepared.
        pictures: whether they are pictures, which have no spacing and a fixed range.
        source: contrast of the first slice of a pair, T1w or T2w.
        target: contrast of the second one.
        image_size: rows and columns of the slices.
        subjects: how many subjects.
        seed: of the subjects and of the order of the pairs.
    """

    def __init__(
        self,
        standard: StandardSettings,
        pictures: bool,
        source: str,
        target: str,
        image_size: int,
        subjects: int,
        seed: int,
    ) -> None:
        self.seed = seed
        if pictures:
            straight = IntensitySettings(knee_percentile=100)
            spacing = _FIELD_OF_VIEW_MM / image_size
            standard = StandardSettings(spacing_mm=spacing, intensity=straight)
        spacing = standard.spacing_mm or 1.0
        found = []
        for index in track(range(subjects), "simulate", subjects):
            settings = PhantomSettings(
                spacing_mm=spacing, seed=_SEED + seed, stripped=index % 2 == 1
            )
            subject = simulate(settings, index)
            scans = {"T1w": subject.t1w, "T2w": subject.t2w}
            found.append(_pairs(scans[source], scans[target], standard, image_size))
        self.pairs: NDArray[np.float16] = np.concatenate(found)

    def __len__(self) -> int:
        return len(self.pairs)

    def pair(self, index: int) -> Tensor:
        """Pair `index` of an endless random sequence, shape (2, rows, columns), range [-1, 1]."""
        rng = np.random.default_rng([self.seed, 5, index])
        return torch.from_numpy(self.pairs[rng.integers(len(self.pairs))].astype(np.float32))


def _pairs(
    source: Volume, target: Volume, standard: StandardSettings, image_size: int
) -> NDArray[np.float16]:
    """All slices of a subject that show something, (slices, 2, rows, columns)."""
    prepared = [standardise(scan, standard) for scan in (source, target)]
    shown = prepared[0].foreground.mean(axis=(1, 2)) >= _LEAST_FOREGROUND
    fitted = [fit_size(scan.slices[shown], image_size, image_size)[0] for scan in prepared]
    return np.stack(fitted, axis=1).astype(np.float16)
