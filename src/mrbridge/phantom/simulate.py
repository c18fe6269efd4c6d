"""One simulated subject: T1w and T2w of the same head, in register."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrbridge.phantom.anatomy import paint_head
from mrbridge.phantom.fields import Array, Grid
from mrbridge.phantom.head import head_on
from mrbridge.phantom.lesions import Lesions
from mrbridge.phantom.scanner import blurred, digitised, receive_field, rician, thick_slices
from mrbridge.phantom.settings import PhantomSettings
from mrbridge.phantom.shape import LARGEST, deformation
from mrbridge.phantom.signals import FastSpinEcho, GradientEcho
from mrbridge.volume import Volume


@dataclass(frozen=True, eq=False)
class SimulatedSubject:
    """A subject on one RAS+ grid: all volumes have the same shape (i, j, k) and affine.

    Attributes:
        t1w, t2w: int16 scans with an arbitrary gain each.
        brain_mask: uint8, 1 in the brain with its ventricles and sulci.
        lesions: uint8, 1 where at least half of a voxel is lesion.
        label: such as "01", the subject's BIDS label.
        gradient_echo: sequence of the T1w scan.
        spin_echo: sequence of the T2w scan.
    """

    t1w: Volume
    t2w: Volume
    brain_mask: Volume
    lesions: Volume
    label: str
    gradient_echo: GradientEcho
    spin_echo: FastSpinEcho


def simulate(settings: PhantomSettings, index: int) -> SimulatedSubject:
    """Subject `index` (from 0) of a data set.

    To the bit the same whenever it is called with the same seed, options and index, in any process
    and with any number of threads; the number of subjects does not matter. Options of the scanner
    (noise, bias, stripped) leave the anatomy as it is. A voxel size of 2 mm takes about half a
    second a subject and 1 mm some six seconds and 2 GB, besides a few seconds for the first.
    """
    streams = np.random.default_rng([settings.seed, index]).spawn(6)
    shape_rng, tissue_rng, lesion_rng, sequence_rng, t1w_rng, t2w_rng = streams
    spacing = settings.spacing_mm
    head = head_on(spacing)
    where = deformation(shape_rng, head, head.grid, largest=LARGEST)
    lesions = Lesions.draw(lesion_rng, settings.lesions, head)
    sequences = GradientEcho.draw(sequence_rng), FastSpinEcho.draw(sequence_rng)
    anatomy = paint_head(tissue_rng, head, where, head.grid, lesions, sequences)
    thickness = settings.slice_thickness_mm or spacing
    grid = Grid.over_field_of_view((spacing, spacing, thickness))
    brain, lesion = (
        thick_slices(share, head.grid, grid) for share in (anatomy.brain, anatomy.lesions)
    )
    mask = brain >= 0.5
    t1w, t2w = (
        _acquire(rng, settings, signal, yardstick, head.grid, grid, mask)
        for rng, signal, yardstick in zip(
            (t1w_rng, t2w_rng), (anatomy.t1w, anatomy.t2w), anatomy.white_signals, strict=True
        )
    )
    affine = grid.affine
    return SimulatedSubject(
        t1w=Volume(t1w, affine, contrast="T1w"),
        t2w=Volume(t2w, affine, contrast="T2w"),
        brain_mask=Volume(mask.astype(np.uint8), affine),
        lesions=Volume((lesion >= 0.5).astype(np.uint8), affine),
        label=f"{index + 1:02d}",
        gradient_echo=sequences[0],
        spin_echo=sequences[1],
    )


def _acquire(
    rng: np.random.Generator,
    settings: PhantomSettings,
    signal: Array,
    yardstick: float,
    source: Grid,
    grid: Grid,
    mask: NDArray[np.bool_],
) -> NDArray[np.int16]:
    """The scan of a noise-free signal: blur, slices, receive field, noise, gain."""
    image = thick_slices(blurred(signal), source, grid)
    field_rng, noise_rng = rng.spawn(2)
    sigma = settings.noise * rng.uniform(0.7, 1.3) * yardstick
    top = rng.uniform(400, 3000)
    if settings.bias:
        image = image * receive_field(field_rng, grid, settings.bias)
    if settings.noise:
        image = rician(noise_rng, image, sigma)
    if settings.stripped:
        image = np.where(mask, image, np.float32(0))
    return digitised(image, top)
