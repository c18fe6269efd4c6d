"""Simulated pairs: slices of subjects whose two contrasts are both known.

An unpaired objective alone tends to copy, or to swap tissues, for hundreds of epochs. A few
simulated subjects tell a generator what becomes of fluid, grey and white matter, bone and fat,
without any pair of real scans.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrbridge.io.safety import atomic_path
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
        cache: a file that keeps the pairs, since a subject at 1 mm takes seconds to simulate; one
            that is damaged or was made of something else is replaced. None keeps none.

    Raises:
        OutputError: `cache` cannot be written.
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
        cache: Path | None = None,
    ) -> None:
        self.seed = seed
        if pictures:
            straight = IntensitySettings(knee_percentile=100)
            spacing = _FIELD_OF_VIEW_MM / image_size
            standard = StandardSettings(spacing_mm=spacing, intensity=straight)
        phantoms = [
            PhantomSettings(
                spacing_mm=standard.spacing_mm or 1.0, seed=_SEED + seed, stripped=index % 2 == 1
            )
            for index in range(subjects)
        ]
        key = _key(standard, source, target, image_size, phantoms)
        kept = None if cache is None else _kept(cache, key)
        if kept is not None:
            self.pairs: NDArray[np.float16] = kept
            return
        found = []
        for index, phantom in enumerate(track(phantoms, "simulate", subjects)):
            subject = simulate(phantom, index)
            scans = {"T1w": subject.t1w, "T2w": subject.t2w}
            found.append(_pairs(scans[source], scans[target], standard, image_size))
        self.pairs = np.concatenate(found)
        if cache is not None:
            _keep(cache, key, self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def pair(self, index: int) -> NDArray[np.float32]:
        """Pair `index` of an endless random sequence, shape (2, rows, columns), range [-1, 1]."""
        return self.pairs[self.place(index)].astype(np.float32)

    def place(self, index: int) -> int:
        """Which of `pairs` is number `index` of that sequence."""
        rng = np.random.default_rng([self.seed, 5, index])
        return int(rng.integers(len(self.pairs)))


def _pairs(
    source: Volume, target: Volume, standard: StandardSettings, image_size: int
) -> NDArray[np.float16]:
    """All slices of a subject that show something, (slices, 2, rows, columns)."""
    prepared = [standardise(scan, standard) for scan in (source, target)]
    shown = prepared[0].foreground.mean(axis=(1, 2)) >= _LEAST_FOREGROUND
    fitted = [fit_size(scan.slices[shown], image_size, image_size)[0] for scan in prepared]
    return np.stack(fitted, axis=1).astype(np.float16)


def _key(
    standard: StandardSettings,
    source: str,
    target: str,
    image_size: int,
    phantoms: list[PhantomSettings],
) -> str:
    """A hash of all that decides the pairs, but for the code."""
    made_from = [standard.model_dump(mode="json"), source, target, image_size]
    told = [*made_from, *(phantom.model_dump(mode="json") for phantom in phantoms)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _keep(cache: Path, key: str, pairs: NDArray[np.float16]) -> None:
    with atomic_path(cache) as temporary, open(temporary, "wb") as file:
        np.savez(file, key=np.array(key), pairs=pairs)


def _kept(cache: Path, key: str) -> NDArray[np.float16] | None:
    """The pairs in a file of this key; None where there is none, or a damaged one."""
    try:
        # An archive of arrays, each with a checksum that is verified as it is read.
        with np.load(cache, allow_pickle=False) as kept:
            return kept["pairs"] if str(kept["key"]) == key else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
