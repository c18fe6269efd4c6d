"""Simulated subjects: contrasts of the same head in register, acquired by a simulated scanner.

`simulate` gives subjects of a narrow range of clinical protocols, with masks: data for tests and
demonstrations. `varied_subject` gives subjects to learn from. A network that is to work on scanners
that it never saw must not learn one protocol (Billot et al. 2023, SynthSeg,
doi:10.1016/j.media.2023.102789; Iglesias et al. 2021, joint super-resolution and synthesis,
doi:10.1016/j.neuroimage.2021.118206): its inputs vary far beyond what scanners do, and its ground
truth always has the same, canonical contrast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import ndtr

from mrbridge.phantom.anatomy import Anatomy, paint_head
from mrbridge.phantom.fields import Array, Grid, random_field
from mrbridge.phantom.head import LARGEST, Head, deformation, template_head
from mrbridge.phantom.labels import label_maps, labelled_head
from mrbridge.phantom.pathology import Lesions, Pathology
from mrbridge.phantom.settings import PhantomSettings
from mrbridge.phantom.signals import (
    FAT_IN_FAST_SPIN_ECHO,
    FLUID,
    GREY_MATTER,
    WHITE_MATTER,
    ConventionalSpinEcho,
    FastSpinEcho,
    FluidAttenuated,
    GradientEcho,
    InversionSpinEcho,
    Matter,
    PreparedGradientEcho,
    PulseSequence,
    Tissue,
    null_of_fluid,
)
from mrbridge.settings import checked
from mrbridge.volume import Volume

_BLUR_VOXELS = 0.4
"""Standard deviation of the point spread, in voxels of the plane (a choice)."""

_GAIN = (400, 3000)  # the 99.9th percentile of a scan

# Variation between scanners and subjects, for learning. All ranges are choices, wider than in
# practice.
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
_BLACK = 1.1  # what may be subtracted from a T1w scan, as a share of fluid's signal, and
_BLACK_OFTEN = 0.6  # how often: in many stripped scans fluid is as dark as air
_SUPPRESSED_OFTEN, _SUPPRESSED = 0.15, (0.03, 0.3)  # how often fat is suppressed, and to what share
_DEFACED_OFTEN = 0.3  # how often a whole head has no face
_T2_OF_FAT = (90.0, 220.0)  # ms, as trains of refocusing pulses see it
_CUT_MM = (-0.8, 2.2)  # how far from the brain's edge a stripping tool cuts, and
_CUT_VARIES_MM = (0.0, 1.5)  # how much that differs from place to place (standard deviation)
_HOW_MANY = (0.6, 0.25, 0.15)  # shares of those who have one, two or three lesions
_CUT_KNOT_MM, _CUT_SMOOTH_MM = 22.0, 2.5

# The canonical contrast: grey matter is three quarters of the way from fluid to white matter in
# T1w, a ninth of the way from white matter to fluid in T2w, near what the two patients of
# open-ms-mni show; in FLAIR fluid is black. The relaxation times for this are at or below the lower
# end of those in signals.py: a choice of contrast, not a claim about tissue.
CANONICAL_SEQUENCES: dict[str, PulseSequence] = {
    "T1w": GradientEcho(8.0, 3.0, 16.0),
    "T2w": FastSpinEcho(5500, 105),
    "PDw": FastSpinEcho(3500, 16),
    # At the long end of clinical echo times: grey matter is then brighter than white, as in scans.
    "FLAIR": FluidAttenuated(9000, null_of_fluid(9000), 165),
}
CANONICAL_MATTER = Matter(
    grey=Tissue(t1=1250, t2=84, density=GREY_MATTER.density),
    white=Tissue(t1=870, t2=74, density=WHITE_MATTER.density),
    inflow=0.0,
    population=False,
)


@dataclass(frozen=True, eq=False)
class SimulatedSubject:
    """A subject on one RAS+ grid: all volumes have the same shape (i, j, k) and affine.

    Attributes:
        scans: by contrast, int16, with an arbitrary gain each.
        brain_mask: uint8, 1 in the brain with its ventricles and sulci.
        lesions: uint8, 1 if at least half of a voxel is lesion, of white matter or other.
        label: such as "01", the subject's BIDS label.
        sequences: by contrast, of the scans.
    """

    scans: Mapping[str, Volume]
    brain_mask: Volume
    lesions: Volume
    label: str
    sequences: Mapping[str, PulseSequence]

    @property
    def t1w(self) -> Volume:
        """The T1w scan."""
        return self.scans["T1w"]

    @property
    def t2w(self) -> Volume:
        """The T2w scan."""
        return self.scans["T2w"]


@checked
def simulate(settings: PhantomSettings, index: int) -> SimulatedSubject:
    """Subject `index` (from 0) of a dataset.

    Bit-identical for the same seed, options and index, in any process and with any number of
    threads and subjects. Options of the scanner (noise, bias, stripped) do not change the anatomy.
    A subject takes about half a second at 2 mm, and some six seconds and 2 GB at 1 mm, besides a
    few seconds for the first.
    """
    streams = np.random.default_rng([settings.seed, index]).spawn(10)
    shape_rng, tissue_rng, lesion_rng, sequence_rng, *streams = streams
    t1w_rng, t2w_rng, pathology_rng, pdw_rng, flair_rng, more_sequences_rng = streams
    spacing = settings.spacing_mm
    maps = () if settings.labels is None else label_maps(settings.labels)
    head = labelled_head(maps[index % len(maps)], spacing) if maps else template_head(spacing)
    where = deformation(shape_rng, head, head.grid, largest=LARGEST)
    lesions = Lesions.draw(lesion_rng, settings.lesions, head)
    sequences: dict[str, PulseSequence] = {
        "T1w": GradientEcho.draw(sequence_rng),
        "T2w": FastSpinEcho.draw(sequence_rng),
        "PDw": FastSpinEcho.draw_proton_density(more_sequences_rng),
        "FLAIR": FluidAttenuated.draw(more_sequences_rng),
    }
    sequences = {contrast: sequences[contrast] for contrast in settings.contrasts}
    pathology = _draw_pathology(pathology_rng, head, settings.pathology)
    anatomy = paint_head(
        tissue_rng, head.at(where), where, head.grid, lesions, sequences, pathology=pathology
    )
    grid = Grid.over_field_of_view((spacing, spacing, settings.slice_thickness_mm or spacing))
    lesions_share = np.maximum(anatomy.lesions, (anatomy.pathology > 0).astype(np.float32))
    brain, lesion = (
        thick_slices(share, head.grid, grid) >= 0.5 for share in (anatomy.brain, lesions_share)
    )

    def acquired(rng: np.random.Generator, signal: Array, yardstick: float) -> NDArray[np.int16]:
        """The scan of a noise-free signal: blur, slices, receive field, noise, gain."""
        image = thick_slices(blurred(signal), head.grid, grid)
        field_rng, noise_rng = rng.spawn(2)
        sigma = settings.noise * rng.uniform(0.7, 1.3) * yardstick
        top = rng.uniform(*_GAIN)
        if settings.bias:
            image = image * receive_field(field_rng, grid, settings.bias)
        if settings.noise:
            image = rician(noise_rng, image, sigma)
        if settings.stripped:
            image = np.where(brain, image, np.float32(0))
        return digitised(image, top)

    scanners = {"T1w": t1w_rng, "T2w": t2w_rng, "PDw": pdw_rng, "FLAIR": flair_rng}
    scans = {
        contrast: Volume(
            acquired(scanners[contrast], signal, anatomy.white_signals[contrast]),
            grid.affine,
            contrast=contrast,
        )
        for contrast, signal in anatomy.signals.items()
    }
    return SimulatedSubject(
        scans=scans,
        brain_mask=Volume(brain.astype(np.uint8), grid.affine),
        lesions=Volume(lesion.astype(np.uint8), grid.affine),
        label=f"{index + 1:02d}",
        sequences=sequences,
    )


@dataclass(frozen=True, eq=False)
class VariedSubject:
    """A subject to learn from, on one RAS+ grid.

    Attributes:
        seen: int16 scans by contrast, each with a protocol, a gain and artefacts of its own.
        canonical: float32 by contrast, the same anatomy without noise or bias field; 1 is the
            signal of pure water after full recovery.
        stripped: whether everything but the brain is 0, in all of them.
        lesions: uint8 on the same grid: in which of `kinds`, from 1, most of a voxel is.
        kinds: the pathologies.
    """

    seen: Mapping[str, Volume]
    canonical: Mapping[str, Volume]
    stripped: bool
    lesions: Volume
    kinds: tuple[str, ...]


def varied_subject(
    seed: int,
    index: int,
    spacing_mm: float = 1.0,
    stripped: bool | None = None,
    *,
    contrasts: Sequence[str] = ("T1w", "T2w"),
    labels: Path | None = None,
    pathology: float = 0.0,
    masks: Sequence[Path] = (),
    widening_mm: tuple[float, float] = _WIDENING_MM,
) -> VariedSubject:
    """Subject `index` (from 0) of an endless sequence, bit-identical each time.

    A voxel size of 1 mm takes about ten seconds, besides a few for the first of a head.

    Args:
        stripped: keeps only the brain, or not; None draws it.
        contrasts: of the scans; the others do not depend on which there are.
        labels: a label map whose head is deformed instead of the template's (see `labels.py`).
        pathology: how many lesions larger than those of white matter there are on average, between
            0 and 1: the share of subjects that have one to three.
        masks: lesion masks in MNI space, which give shapes to strokes.
        widening_mm: between which limits the walls of the ventricles are moved.
    """
    shape_rng, look_rng, lesion_rng, *streams = np.random.default_rng([seed, index]).spawn(11)
    t1w_rng, t2w_rng, fat_rng, pathology_rng, face_rng, *streams = streams
    pdw_rng, flair_rng, more_sequences_rng = streams
    head = template_head(spacing_mm) if labels is None else labelled_head(labels, spacing_mm)
    where = deformation(shape_rng, head, head.grid, look_rng.uniform(*widening_mm))
    halo = look_rng.uniform(*_HALO) if look_rng.random() < _HALO_OFTEN else 1.0
    lesions = Lesions.draw(lesion_rng, _LESIONS, head, t1_ratio=_T1_OF_LESIONS, halo=halo)
    drawn = bool(look_rng.random() < _STRIPPED)
    stripped = drawn if stripped is None else stripped
    thickness = look_rng.uniform(*_THICKNESS_MM) if look_rng.random() < _THICK else 0.0
    grid = Grid.over_field_of_view((spacing_mm, spacing_mm, max(spacing_mm, thickness)))
    sequences: dict[str, PulseSequence] = {
        "T1w": _draw_t1_weighted(look_rng),
        "T2w": FastSpinEcho(look_rng.uniform(2800, 7500), look_rng.uniform(72, 125)),
        "PDw": FastSpinEcho(
            more_sequences_rng.uniform(2000, 5500), more_sequences_rng.uniform(7, 36)
        ),
        "FLAIR": _draw_fluid_attenuated(more_sequences_rng),
    }
    fat = replace(FAT_IN_FAST_SPIN_ECHO, t2=fat_rng.uniform(*_T2_OF_FAT))
    if fat_rng.random() < _SUPPRESSED_OFTEN:
        fat = replace(fat, density=fat.density * fat_rng.uniform(*_SUPPRESSED))
    matter = replace(_draw_matter(look_rng), fat=fat)
    found = _draw_pathology(pathology_rng, head, pathology, masks)
    same_shape = replace(CANONICAL_MATTER, atrophy=matter.atrophy)

    maps = head.at(where)

    def painted(sequences: Mapping[str, PulseSequence], matter: Matter) -> Anatomy:
        # The same random state each time: the same anatomy with other relaxation.
        rng = np.random.default_rng([seed, index, 1])
        sequences = {contrast: sequences[contrast] for contrast in contrasts}
        return paint_head(rng, maps, where, head.grid, lesions, sequences, matter, found)

    def sliced(signal: Array) -> Array:
        return thick_slices(signal, head.grid, grid)

    varied, ideal = painted(sequences, matter), painted(CANONICAL_SEQUENCES, same_shape)
    keep = _stripping(look_rng, sliced(varied.brain), grid)
    if not stripped:
        keep = np.ones_like(keep)
        if face_rng.random() < _DEFACED_OFTEN:
            keep -= sliced(_face(face_rng, where, maps["hull"])) >= 0.5
    black = look_rng.uniform(0, _BLACK) if look_rng.random() < _BLACK_OFTEN else 0.0
    if not stripped:  # bone would be no darker than fluid, and differ in position only
        black = 0.0
    if "T1w" in contrasts:
        fluid = sequences["T1w"].signal(FLUID)
        varied.signals["T1w"] = np.maximum(varied.signals["T1w"] - np.float32(black * fluid), 0)

    def acquired(rng: np.random.Generator, signal: Array, yardstick: float) -> NDArray[np.int16]:
        """The scan of a noise-free signal: slices, blur, receive field, noise, stripping, gain."""
        in_plane = rng.uniform(*_BLUR_MM) / grid.spacing[0]
        image = ndimage.gaussian_filter(sliced(signal), (in_plane, in_plane, 0), truncate=3)
        image = image * receive_field(rng, grid, rng.uniform(*_BIAS))
        image = rician(rng, image, rng.uniform(*_NOISE) * yardstick)
        return digitised(image * keep, rng.uniform(*_GAIN))

    scanners = {"T1w": t1w_rng, "T2w": t2w_rng, "PDw": pdw_rng, "FLAIR": flair_rng}
    seen, truth = {}, {}
    for name in contrasts:
        voxels = acquired(scanners[name], varied.signals[name], varied.white_signals[name])
        seen[name] = Volume(voxels, grid.affine, contrast=name)
        ideal_voxels = sliced(blurred(ideal.signals[name])) * keep
        truth[name] = Volume(ideal_voxels, grid.affine, contrast=name)
    # Of labels, those in the middle of each slice.
    middle = np.abs(np.subtract.outer(grid.axes[2], head.grid.axes[2])).argmin(axis=1)
    affected = Volume(varied.pathology[:, :, middle], grid.affine)
    return VariedSubject(seen, truth, stripped, affected, tuple(one.kind for one in found))


def _face(rng: np.random.Generator, where: Array, hull: Array) -> Array:
    """1 where defacing tools remove the face: in front of and below an oblique plane, outside the
    skull.

    Args:
        where: (x, y, z, 3) template mm.
        hull: signed distance to the inner face of the skull, mm.
    """
    steepness, height = rng.uniform(0.6, 1.6), rng.uniform(-25, 15)
    in_front = where[..., 2] < height + steepness * (where[..., 1] - rng.uniform(40, 62))
    return (in_front & (hull > rng.uniform(2, 8))).astype(np.float32)


def _draw_pathology(
    rng: np.random.Generator, head: Head, often: float, masks: Sequence[Path] = ()
) -> list[Pathology]:
    """One to three lesions in a share `often` of the subjects."""
    affected = rng.random() < often
    count = int(rng.choice((1, 2, 3), p=_HOW_MANY))
    return [Pathology.draw(rng, head, masks) for _ in range(count)] if affected else []


def _stripping(rng: np.random.Generator, brain: Array, grid: Grid) -> Array:
    """1 where a tool leaves the brain, 0 elsewhere, from the share of brain in each voxel.

    Tools leave a rim of fluid, dura and bone in places, and cut into the cortex in others: what is
    dark in both contrasts at the edge of a stripped brain is as often one of those as fluid.
    """
    cut = rng.uniform(*_CUT_MM) + rng.uniform(*_CUT_VARIES_MM) * random_field(
        rng, _CUT_KNOT_MM, grid
    )
    # The smoothed edge of a half-space is a normal distribution of the distance from it.
    soft = ndimage.gaussian_filter(brain, [_CUT_SMOOTH_MM / step for step in grid.spacing])
    return (soft > ndtr(-cut / _CUT_SMOOTH_MM)).astype(np.float32)


def _draw_t1_weighted(rng: np.random.Generator) -> PulseSequence:
    kinds = (PreparedGradientEcho, GradientEcho, ConventionalSpinEcho, InversionSpinEcho)
    return kinds[rng.choice(4, p=(0.4, 0.25, 0.15, 0.2))].draw(rng)


def _draw_fluid_attenuated(rng: np.random.Generator) -> FluidAttenuated:
    tr = rng.uniform(6000, 11_500)
    return FluidAttenuated(tr, null_of_fluid(tr) * rng.uniform(0.9, 1.05), rng.uniform(75, 150))


def _draw_matter(rng: np.random.Generator) -> Matter:
    """Relaxation differs between field strengths, ages and studies more than between people."""
    return Matter(
        grey=Tissue(rng.uniform(1150, 1650), rng.uniform(78, 106), rng.uniform(0.82, 0.88)),
        white=Tissue(rng.uniform(750, 980), rng.uniform(66, 82), rng.uniform(0.70, 0.78)),
        atrophy=rng.uniform(*_ATROPHY),
        population=False,
    )


def blurred(signal: Array) -> Array:
    """The signal (x, y, z) as seen through a finite window of k-space."""
    return ndimage.gaussian_filter(signal, _BLUR_VOXELS, truncate=4)


def receive_field(rng: np.random.Generator, grid: Grid, strength: float) -> Array:
    """A smooth factor between exp(-strength) and exp(strength), on `grid`."""
    field = random_field(rng, 95.0, grid)
    return np.exp(np.float32(strength) * np.tanh(field))


def thick_slices(signal: Array, source: Grid, target: Grid) -> Array:
    """Mean of the signal (x, y, z) over each of the target's slices; x and y stay as they are.

    Slice profiles are rectangles.
    """
    fine, thick = source.axes[2], target.axes[2]
    if np.array_equal(fine, thick):
        return signal
    half, whole = source.spacing[2] / 2, target.spacing[2] / 2
    low = np.maximum.outer(thick - whole, fine - half)
    high = np.minimum.outer(thick + whole, fine + half)
    weights = np.clip(high - low, 0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    result = np.zeros(target.shape, np.float32)
    for index, row in enumerate(weights):
        for place in np.flatnonzero(row):
            result[:, :, index] += np.float32(row[place]) * signal[:, :, place]
    return result


def rician(rng: np.random.Generator, signal: Array, sigma: float) -> Array:
    """Magnitude of a signal with normal noise in both channels (Gudbjartsson & Patz 1995).

    Args:
        signal: real and not negative, any shape.
        sigma: standard deviation in each channel, in the signal's unit. Without signal the result
            has the mean sigma * sqrt(pi / 2).
    """
    real = signal + np.float32(sigma) * rng.standard_normal(signal.shape, dtype=np.float32)
    imaginary = np.float32(sigma) * rng.standard_normal(signal.shape, dtype=np.float32)
    return np.hypot(real, imaginary)


def digitised(signal: Array, top: float) -> NDArray[np.int16]:
    """Whole numbers as a scanner stores them, the 99.9th percentile at `top`."""
    scale = top / max(float(np.percentile(signal, 99.9)), 1e-9)
    return np.clip(np.rint(signal * np.float32(scale)), 0, 32767).astype(np.int16)
