"""From a subject's shape to noise-free signals: tissues painted over one another.

Where tissues meet, a voxel holds a mixture, and its signal is the mean of their signals: painting
with a share between 0 and 1 does just that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.phantom.fields import Array, Grid, field_of, random_field, random_knots
from mrbridge.phantom.pathology import TEXTURE_MM, Lesions, Pathology
from mrbridge.phantom.signals import (
    BLOOD,
    CHOROID_PLEXUS,
    DURA,
    FAT,
    FLUID,
    IRON_RELAXIVITY,
    LESION,
    MARROW,
    MUSCLE,
    SKIN,
    TYPICAL,
    Matter,
    PulseSequence,
    Tissue,
)

# How relaxation differs by region in the same way in everybody (myelination, water content), and
# from one person to the next: relative standard deviations, choices within the spread between the
# studies named in signals.py. Knots 30 mm apart: about the size of a lobe.
_REGION_MM = 30.0
_REGIONAL = {"grey t1": 0.05, "grey t2": 0.10, "white t1": 0.06, "white t2": 0.12}
_PERSONAL = 0.4  # of the regional
_POPULATION_SEED = 152
_TEXTURE_MM, _TEXTURE = 5.0, 0.025

# How far bone is inside the template's hull, which leaves fluid everywhere around the brain: in
# many people the crowns of gyri touch the dura. How much thicker bone is at the base of the skull.
_TIGHT_MM, _TIGHT_WANDERS_MM, _TIGHTEST_MM = (0.0, 2.6), 0.7, 3.2
_BASE_MM, _BASE_BELOW = (0.0, 12.0), -28.0

# Fluid that moves between excitation and echo is lost to a spin echo: most about the brainstem.
_PULSATION_CENTRE = np.array([0, -18, -26], np.float32)
_PULSATION_MM = 20.0


@dataclass(frozen=True)
class Anatomy:
    """What a perfect scanner would see.

    Attributes:
        signals: by contrast, float32 (x, y, z), 1 being that of pure water after full recovery.
        brain: share of brain (with ventricles and sulci) in each voxel.
        lesions: share of white matter lesion in each voxel.
        pathology: uint8, in which pathology most of a voxel is, from 1; 0: in none.
        white_signals: mean signal of white matter in each contrast, the yardstick of noise.
    """

    signals: dict[str, Array]
    brain: Array
    lesions: Array
    pathology: NDArray[np.uint8]
    white_signals: dict[str, float]


@dataclass(frozen=True)
class _Canvas:
    """Images of one grid that are painted in register.

    Attributes:
        images: by contrast, float32 (x, y, z), painted in place.
        places: (x, y, z, 3) template mm of their voxels.
        sequences: by contrast, of the scans.
    """

    images: dict[str, Array]
    grid: Grid
    places: Array
    sequences: Mapping[str, PulseSequence]

    def part(self, box: tuple[slice, slice, slice]) -> _Canvas:
        """A canvas on a box of this one: painting there paints here."""
        images = {contrast: image[box] for contrast, image in self.images.items()}
        return _Canvas(images, self.grid.part(box), self.places[box], self.sequences)

    def signals(self, tissue: Tissue) -> dict[str, Any]:
        """What a tissue gives, by contrast."""
        return {contrast: one.signal(tissue) for contrast, one in self.sequences.items()}

    def paint(self, share: NDArray[Any], tissue: Tissue | None) -> None:
        """Paint a tissue (None: air or bone, which give no signal) over the canvas."""
        if tissue is None:
            return self.paint_signals(share, dict.fromkeys(self.images, 0.0))
        return self.paint_signals(share, self.signals(tissue))

    def paint_fat(self, share: NDArray[Any], in_echo_train: Tissue) -> None:
        """Paint fat over the canvas: echo trains show it brighter than its own relaxation."""
        signals = {
            contrast: sequence.signal(in_echo_train if sequence.echo_train else FAT)
            for contrast, sequence in self.sequences.items()
        }
        self.paint_signals(share, signals)

    def paint_signals(self, share: NDArray[Any], signals: Mapping[str, Array | float]) -> None:
        """Paint signals, by contrast, over the canvas; `share` (x, y, z): of each voxel."""
        for contrast, image in self.images.items():
            signal = signals[contrast]
            image += share * ((signal if np.ndim(signal) else float(signal)) - image)

    def inside(self, distance: NDArray[Any]) -> Array:
        """Share of a voxel at negative signed distance (mm)."""
        return np.clip(0.5 - distance / np.float32(self.grid.spacing[0]), 0, 1)


def paint_head(
    rng: np.random.Generator,
    maps: Mapping[str, Array],
    where: Array,
    grid: Grid,
    lesions: Lesions,
    sequences: Mapping[str, PulseSequence],
    matter: Matter = TYPICAL,
    pathology: Iterable[Pathology] = (),
) -> Anatomy:
    """The subject's signals on `grid`.

    Args:
        maps: the head at `where` (`Head.at`).
        where: (x, y, z, 3) template millimetres of the grid's voxels.
        sequences: by contrast, of the scans.
        matter: grey and white, before this subject's own variation.
        pathology: painted one over another.
    """
    maps = dict(maps)
    images = {contrast: np.zeros(grid.shape, np.float32) for contrast in sequences}
    canvas = _Canvas(images, grid, where, sequences)
    lesion = np.zeros(grid.shape, np.float32)
    around_rng, fluid_rng, brain_rng, vessel_rng = rng.spawn(4)
    pulsation = fluid_rng.uniform(0.1, 0.6)
    if "bone" not in maps:
        maps["hull"] = maps["hull"] + _tightness(around_rng, grid)
    _paint_around(around_rng, maps, canvas, matter.fat)
    canvas.paint(canvas.inside(maps["hull"]), DURA)  # along the skull, and fluid within it
    canvas.paint_signals(canvas.inside(maps["hull"] + 1.2), _fluid_signals(pulsation, canvas))
    brain = maps["grey"] + maps["white"] + maps["fluid"]
    x, y, z = ndimage.find_objects((brain > 0).astype(np.uint8))[0]
    box = (x, y, z)
    parts = {name: values[box] for name, values in maps.items()}
    within = canvas.part(box)
    shares = _shares(brain_rng, parts, within.grid, matter.atrophy)
    relaxation = _relaxation(brain_rng, parts["iron"], within.grid, matter)
    white_signals = _paint_brain(pulsation, shares, relaxation, within)
    lesion[box] = lesions.share(within.places, within.grid) * np.clip(1.3 * shares["white"], 0, 1)
    if "lesion" in parts and len(lesions.centres):
        lesion[box] = np.maximum(lesion[box], parts["lesion"])
    t1 = relaxation["white"].t1 * np.float32(lesions.t1_ratio)
    within.paint(lesion[box], Tissue(t1, lesions.t2, LESION.density))
    affected = np.zeros(grid.shape, np.uint8)
    for number, one in enumerate(pathology, start=1):
        core = _paint_pathology(one, shares, parts["hull"], within, matter.white)
        affected[box][core > 0.5] = number
    _paint_vessels(vessel_rng, parts, within, matter.inflow)
    return Anatomy(images, brain, lesion, affected, white_signals)


def _tightness(rng: np.random.Generator, grid: Grid) -> Array:
    """How much nearer to the brain this subject's skull is than the template's, mm."""
    wanders = np.float32(_TIGHT_WANDERS_MM) * random_field(rng, 35, grid)
    return np.clip(np.float32(rng.uniform(*_TIGHT_MM)) + wanders, 0, _TIGHTEST_MM)


def _paint_around(
    rng: np.random.Generator, maps: dict[str, Array], canvas: _Canvas, fat: Tissue
) -> None:
    """Skin, fat, muscle, eyes, skull with marrow, air in sinuses."""
    hull, surface, eye = maps["hull"], maps["surface"], maps["eye"]
    grid, inside = canvas.grid, canvas.inside
    canvas.paint(inside(surface), SKIN)
    fat_mm = np.float32(rng.uniform(1.5, 5.0)) * np.exp(0.3 * random_field(rng, 30, grid))
    canvas.paint_fat(inside(surface + 1.8), fat)
    septa = np.clip(1.5 - 5 * np.abs(random_field(rng, 11, grid)), 0, 1)
    below = inside(surface + 1.8 + fat_mm)
    canvas.paint(below, MUSCLE)
    canvas.paint_fat(below * septa, fat)
    behind = np.where(canvas.places[..., 1] < 66, inside(eye - 7), np.float32(0))
    canvas.paint_fat(np.maximum(behind, inside(eye - 2)) * inside(surface + 2), fat)
    canvas.paint(inside(eye + 0.8), FLUID)
    if "bone" in maps:
        canvas.paint(maps["bone"], None)
        marrow = maps["marrow"]
    else:
        bone_mm = random_field(rng, 28, grid) + np.float32(rng.uniform(5.5, 7.5))
        low = 1 / (1 + np.exp((canvas.places[..., 2] - np.float32(_BASE_BELOW)) / 4))
        bone_mm += np.float32(rng.uniform(*_BASE_MM)) * low
        canvas.paint(inside(hull - bone_mm) * inside(surface + 3), None)
        marrow = inside(hull - bone_mm + 1.5) * inside(-(hull - 1.5)) * inside(surface + 5)
    fatty = np.clip(0.75 + 0.2 * random_field(rng, 12, grid), 0, 1)
    canvas.paint(marrow * fatty, MARROW)
    canvas.paint(maps["air"] * inside(3 - hull), None)


def _fluid_signals(pulsation: float, canvas: _Canvas) -> dict[str, Any]:
    """Signals of cerebrospinal fluid. Echo trains show it darker where it pulses, about the
    brainstem."""
    signals = canvas.signals(FLUID)
    squares = ((canvas.places - _PULSATION_CENTRE) ** 2).sum(axis=-1)
    loss = np.float32(pulsation) * np.exp(squares / np.float32(-2 * _PULSATION_MM**2))
    return {
        contrast: np.float32(signal) * (1 - loss)
        if canvas.sequences[contrast].echo_train
        else float(signal)
        for contrast, signal in signals.items()
    }


def _paint_brain(
    pulsation: float,
    shares: dict[str, Array],
    relaxation: dict[str, Tissue],
    canvas: _Canvas,
) -> dict[str, float]:
    """Grey matter, white matter, ventricles and sulci; returns the mean signals of white matter."""
    signals = {name: canvas.signals(tissue) for name, tissue in relaxation.items()}
    signals["fluid"] = _fluid_signals(pulsation, canvas)
    brain = shares["grey"] + shares["white"] + shares["fluid"]
    for contrast, image in canvas.images.items():
        image *= 1 - brain  # what is outside the brain keeps its part of the voxel
        for name, share in shares.items():
            image += share * signals[name][contrast]
    white = shares["white"]
    total = white.sum(dtype=np.float64)
    return {
        contrast: float((white * signal).sum(dtype=np.float64) / total)
        for contrast, signal in signals["white"].items()
    }


def _paint_pathology(
    one: Pathology, shares: dict[str, Array], hull: Array, canvas: _Canvas, white: Tissue
) -> Array:
    """Paint a pathology; returns the share of its innermost part in each voxel of the canvas."""
    core = np.zeros(canvas.grid.shape, np.float32)
    depth = one.depth(canvas.places, canvas.grid)
    found = ndimage.find_objects((depth > one.outermost).astype(np.uint8))
    if not found:
        return core
    x, y, z = found[0]
    box = (x, y, z)
    part, depth = canvas.part(box), depth[box]
    knots, amount = one.texture
    texture = np.exp(np.float32(amount) * field_of(knots, TEXTURE_MM, part.grid))
    grey, matter = (shares["grey"] + shares["white"])[box], shares["white"][box]
    into = {
        "white": np.clip(1.3 * matter, 0, 1),
        "brain": np.clip(1.2 * grey, 0, 1),
        "all": part.inside(hull[box] + np.float32(1.2)),
    }
    for layer, begins, edge, opacity, times in one.layers:
        share = np.clip(0.5 + (depth - np.float32(begins)) / np.float32(edge), 0, 1)
        share = np.float32(opacity) * share * into[layer.into]
        t1 = np.minimum(np.float32(times.t1 * white.t1) * texture, np.float32(FLUID.t1))
        t2 = np.minimum(np.float32(times.t2 * white.t2) * texture, np.float32(FLUID.t2))
        part.paint(share, Tissue(t1, t2, times.density))
        core[box] = share
    return core


def _shares(
    rng: np.random.Generator, maps: dict[str, Array], grid: Grid, atrophy: float | None
) -> dict[str, Array]:
    """Shares of grey, white, fluid: the template's, with the subject's own cortex and sulci."""
    drawn = rng.normal(-0.2, 0.4)
    atrophy = drawn if atrophy is None else atrophy
    fluid = maps["fluid"] * np.exp(atrophy + 0.5 * random_field(rng, 16, grid))
    grey = maps["grey"] * np.exp(0.5 * random_field(rng, 12, grid))
    total = grey + maps["white"] + fluid
    scale = (maps["grey"] + maps["white"] + maps["fluid"]) / np.maximum(total, 1e-6)
    return {"grey": grey * scale, "white": maps["white"] * scale, "fluid": fluid * scale}


def _relaxation(
    rng: np.random.Generator, iron: Array, grid: Grid, matter: Matter
) -> dict[str, Tissue]:
    """Grey and white matter, T1 and T2 voxel by voxel."""
    population = np.random.default_rng(_POPULATION_SEED)
    texture = 1 + _TEXTURE * random_field(rng, _TEXTURE_MM, grid)
    # Iron grows through adult life (Hallgren 1958).
    iron_rate = IRON_RELAXIVITY * rng.uniform(0.6, 1.3)
    result = {}
    for name, tissue in (("grey", matter.grey), ("white", matter.white)):
        maps = []
        for value, kind in ((tissue.t1, "t1"), (tissue.t2, "t2")):
            shared = random_knots(population, _REGION_MM) if matter.population else np.float32(0)
            knots = shared + _PERSONAL * random_knots(rng, _REGION_MM)
            regional = _REGIONAL[f"{name} {kind}"] * field_of(knots, _REGION_MM, grid)
            value *= rng.normal(1, 0.03)
            maps.append(np.float32(value) * (1 + regional) * texture)
        t1, t2 = maps
        t2 = (1 / (1 / t2 + np.float32(iron_rate) * iron)).astype(np.float32)
        result[name] = Tissue(t1, t2, tissue.density)
    return result


def _paint_vessels(
    rng: np.random.Generator, maps: dict[str, Array], canvas: _Canvas, inflow: float | None
) -> None:
    """Structures in the fluid: falx, choroid plexus, vessels; and spaces around vessels.

    Flowing blood leaves the slice of a spin echo before the echo and enters that of a gradient
    echo unsaturated: dark in the one, dark or bright in the other.
    """
    grid, fluid = canvas.grid, maps["fluid"]
    canvas.paint(_folds_of_dura(canvas) * fluid, DURA)
    deep = fluid * np.clip((-30 - maps["hull"]) / 5, 0, 1)
    plexus = np.clip(1.5 * random_field(rng, 9, grid) - 1, 0, 0.8)
    canvas.paint(maps.get("plexus", deep * plexus), CHOROID_PLEXUS)
    steady = canvas.signals(BLOOD)
    drawn = rng.uniform(0.0, 0.25)
    sulci = fluid * np.clip((maps["hull"] + 34) / 8, 0, 1)
    around = np.clip(1 - fluid - maps["grey"] - maps["white"], 0, 1)
    subarachnoid = sulci + around * canvas.inside(maps["hull"] + np.float32(1.2))
    small = _thin_tubes(rng, 9, 1.0, grid) * subarachnoid
    for share, fresh_share, washout in (
        (maps["sinus"], 0.0, 0.9),
        (np.maximum(small, maps["artery"]), drawn if inflow is None else inflow, 0.95),
    ):
        signals = {}
        for contrast, sequence in canvas.sequences.items():
            fresh = BLOOD.density * np.sin(np.deg2rad(sequence.flip_degrees))
            if sequence.refocused:
                signals[contrast] = (1 - washout) * steady[contrast]
            else:
                signals[contrast] = (1 - fresh_share) * steady[contrast] + fresh_share * fresh
        canvas.paint_signals(share, signals)
    spaces = _thin_tubes(rng, 10, 0.45, grid) * np.clip(maps["white"] * 2 - 1, 0, 1)
    canvas.paint(np.float32(rng.uniform(0.2, 0.8)) * spaces, FLUID)


def _folds_of_dura(canvas: _Canvas) -> Array:
    """Share of falx (between the hemispheres) and tentorium (above the cerebellum) in a voxel."""
    x, y, z = (canvas.places[..., axis] for axis in range(3))
    falx = np.where(z > 28, np.abs(x), np.inf)
    roof = np.float32(6) - np.float32(0.2) * (-40 - y) - np.float32(0.4) * np.abs(x)
    tentorium = np.where(y < -36, np.abs(z - roof), np.inf)
    return canvas.inside(np.minimum(falx, tentorium).astype(np.float32) - np.float32(0.8))


def _thin_tubes(rng: np.random.Generator, knot_mm: float, radius: float, grid: Grid) -> Array:
    """Share of a voxel within winding tubes: where two random fields are both nearly zero."""
    first, second = (random_field(rng, knot_mm, grid) for _ in range(2))
    # The typical slope of such a field is about 1.9 a knot.
    distance = np.hypot(first, second) * np.float32(knot_mm / 1.9)
    step = max(grid.spacing)
    # A tube thinner than a voxel fills a share of it.
    fill = min(1.0, 2 * radius / step)
    return np.clip(0.5 - (distance - max(radius, step / 2)) / step, 0, 1) * np.float32(fill)
