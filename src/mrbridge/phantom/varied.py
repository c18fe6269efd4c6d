"""Simulated subjects to learn from: scans as many scanners see them, and one canonical look.

A network that is to work on scanners that it never saw must not learn one protocol (Billot et al.
2023, SynthSeg, doi:10.1016/j.media.2023.102789; Iglesias et al. 2021, joint super-resolution and
synthesis, doi:10.1016/j.neuroimage.2021.118206): what it is given varies far beyond what scanners
do, what it shall answer always looks the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import ndtr

from mrbridge.phantom.anatomy import Anatomy, paint_head
from mrbridge.phantom.fields import Array, Grid, random_field
from mrbridge.phantom.head import head_on
from mrbridge.phantom.lesions import Lesions
from mrbridge.phantom.scanner import blurred, digitised, receive_field, rician, thick_slices
from mrbridge.phantom.shape import deformation
from mrbridge.phantom.signals import (
    ConventionalSpinEcho,
    FastSpinEcho,
    GradientEcho,
    InversionSpinEcho,
    PreparedGradientEcho,
    T1Weighted,
)
from mrbridge.phantom.tissues import (
    FAT_IN_FAST_SPIN_ECHO,
    FLUID,
    GREY_MATTER,
    STATIC_DEPHASING,
    WHITE_MATTER,
    Matter,
    Tissue,
)
from mrbridge.volume import Volume

# What scanners differ in. All ranges are choices, wider than what is met.
_STRIPPED = 0.6  # share of subjects that are skull-stripped
_THICK = 0.35  # share of subjects with thick slices
_THICKNESS_MM = (2.0, 5.0)
_LESIONS = (0, 30)
_T1_OF_LESIONS = (1.05, 1.7)  # multiples of white matter's: the old ones are black holes
_HALO = (0.35, 0.8)  # nearness to the ventricles from which all white matter is lesion, and
_HALO_OFTEN = 0.35  # how often there is such a rim
_WIDENING_MM = (-2.0, 9.0)  # of the ventricles
_ATROPHY = (-0.8, 0.9)  # logarithm of how much fluid there is in sulci
_NOISE = (0.0, 0.07)
_BIAS = (0.0, 0.3)
_BLUR_MM = (0.0, 0.9)
_BLACK = 1.1  # what may be taken off a T1w scan, as a share of fluid's signal, and
_BLACK_OFTEN = 0.6  # how often: in many stripped scans fluid is as dark as air
_T2_OF_FAT = (90.0, 220.0)  # ms, as trains of refocusing pulses see it
_CUT_MM = (-0.8, 2.2)  # how far from the brain's edge a stripping tool cuts, and
_CUT_WANDERS_MM = (0.0, 1.5)  # how much that differs from place to place (standard deviation)
_CUT_KNOT_MM, _CUT_SMOOTH_MM = 22.0, 2.5

# The canonical look: grey matter lies three quarters of the way from fluid to white matter in T1w,
# a ninth of the way from white matter to fluid in T2w, near what the two patients of open-ms-mni
# show. The relaxation times that bring this about are at or below the lower end of those in
# tissues.py: a choice of looks, not a claim about tissue.
_CANONICAL_SEQUENCES = GradientEcho(8.0, 3.0, 16.0), FastSpinEcho(5500, 105)
_CANONICAL_MATTER = Matter(
    grey=Tissue(t1=1250, t2=84, density=GREY_MATTER.density),
    white=Tissue(t1=870, t2=74, density=WHITE_MATTER.density),
    inflow=0.0,
)


@dataclass(frozen=True, eq=False)
class VariedSubject:
    """A subject on one RAS+ grid.

    Attributes:
        seen: int16 scans by contrast, each of a protocol, a gain and faults of its own.
        canonical: float32 by contrast, the same anatomy without noise or field; 1 is the signal of
            pure water after full recovery.
        stripped: whether all but the brain is 0, in all of them.
    """

    seen: Mapping[str, Volume]
    canonical: Mapping[str, Volume]
    stripped: bool


def varied_subject(
    seed: int, index: int, spacing_mm: float = 1.0, stripped: bool | None = None
) -> VariedSubject:
    """Subject `index` (from 0) of an endless sequence; the same whenever it is called.

    `stripped` keeps only the brain, or not; None leaves it to chance. A voxel size of 1 mm takes
    about ten seconds, besides a few for the first.
    """
    shape_rng, look_rng, lesion_rng, t1w_rng, t2w_rng, fat_rng = np.random.default_rng(
        [seed, index]
    ).spawn(6)
    head = head_on(spacing_mm)
    where = deformation(shape_rng, head, head.grid, look_rng.uniform(*_WIDENING_MM))
    halo = look_rng.uniform(*_HALO) if look_rng.random() < _HALO_OFTEN else 1.0
    lesions = Lesions.draw(lesion_rng, _LESIONS, head, t1_ratio=_T1_OF_LESIONS, halo=halo)
    chance = bool(look_rng.random() < _STRIPPED)
    stripped = chance if stripped is None else stripped
    thickness = look_rng.uniform(*_THICKNESS_MM) if look_rng.random() < _THICK else 0.0
    grid = Grid.over_field_of_view((spacing_mm, spacing_mm, max(spacing_mm, thickness)))
    sequences = _draw_t1_weighted(look_rng), _draw_t2_weighted(look_rng)
    fat = replace(FAT_IN_FAST_SPIN_ECHO, t2=fat_rng.uniform(*_T2_OF_FAT))
    matter = replace(_draw_matter(look_rng), fat=fat)
    same_shape = replace(_CANONICAL_MATTER, atrophy=matter.atrophy)

    def painted(sequences: tuple[T1Weighted, FastSpinEcho], matter: Matter) -> Anatomy:
        # The same random state each time: the same anatomy, seen twice.
        rng = np.random.default_rng([seed, index, 1])
        return paint_head(rng, head, where, head.grid, lesions, sequences, matter)

    def shown(signal: Array) -> Array:
        return thick_slices(signal, head.grid, grid)

    met, ideal = painted(sequences, matter), painted(_CANONICAL_SEQUENCES, same_shape)
    keep = _stripping(look_rng, shown(met.brain), grid)
    if not stripped:
        keep = np.ones_like(keep)
    black = look_rng.uniform(0, _BLACK) if look_rng.random() < _BLACK_OFTEN else 0.0
    if not stripped:  # bone would be no darker than fluid, and only its place would tell
        black = 0.0
    fluid = sequences[0].signal(FLUID.density, FLUID.t1, FLUID.t2, STATIC_DEPHASING)
    t1w = np.maximum(met.t1w - np.float32(black * fluid), 0)
    seen = {
        contrast: Volume(
            _scanned(rng, shown(signal), white, grid, keep), grid.affine, contrast=contrast
        )
        for contrast, rng, signal, white in zip(
            ("T1w", "T2w"), (t1w_rng, t2w_rng), (t1w, met.t2w), met.white_signals, strict=True
        )
    }
    canonical = {
        contrast: Volume(shown(blurred(signal)) * keep, grid.affine, contrast=contrast)
        for contrast, signal in (("T1w", ideal.t1w), ("T2w", ideal.t2w))
    }
    return VariedSubject(seen, canonical, stripped)


def _stripping(rng: np.random.Generator, brain: Array, grid: Grid) -> Array:
    """1 where a tool leaves the brain, 0 elsewhere, from the share of brain in each voxel.

    Tools leave a rim of fluid, dura and bone in places, and cut into the cortex in others: what is
    dark in both contrasts at the edge of a stripped brain is as often one of those as fluid.
    """
    cut = rng.uniform(*_CUT_MM) + rng.uniform(*_CUT_WANDERS_MM) * random_field(
        rng, _CUT_KNOT_MM, grid
    )
    # The smoothed edge of a half-space is a normal distribution of the distance from it.
    soft = ndimage.gaussian_filter(brain, [_CUT_SMOOTH_MM / step for step in grid.spacing])
    return (soft > ndtr(-cut / _CUT_SMOOTH_MM)).astype(np.float32)


def _draw_t1_weighted(rng: np.random.Generator) -> T1Weighted:
    kinds = (PreparedGradientEcho, GradientEcho, ConventionalSpinEcho, InversionSpinEcho)
    return kinds[rng.choice(4, p=(0.4, 0.25, 0.15, 0.2))].draw(rng)


def _draw_t2_weighted(rng: np.random.Generator) -> FastSpinEcho:
    return FastSpinEcho(tr=rng.uniform(2800, 7500), te=rng.uniform(72, 125))


def _draw_matter(rng: np.random.Generator) -> Matter:
    """Relaxation that differs between field strengths, ages and studies more than between us."""
    return Matter(
        grey=Tissue(rng.uniform(1150, 1650), rng.uniform(78, 106), rng.uniform(0.82, 0.88)),
        white=Tissue(rng.uniform(750, 980), rng.uniform(66, 82), rng.uniform(0.70, 0.78)),
        atrophy=rng.uniform(*_ATROPHY),
    )


def _scanned(
    rng: np.random.Generator, signal: Array, yardstick: float, grid: Grid, keep: Array
) -> NDArray[np.int16]:
    """The scan of a noise-free signal: blur, receive field, noise, stripping, gain."""
    in_plane = rng.uniform(*_BLUR_MM) / grid.spacing[0]
    image = ndimage.gaussian_filter(signal, (in_plane, in_plane, 0), truncate=3)
    image = image * receive_field(rng, grid, rng.uniform(*_BIAS))
    image = rician(rng, image, rng.uniform(*_NOISE) * yardstick)
    return digitised(image * keep, rng.uniform(400, 3000))
