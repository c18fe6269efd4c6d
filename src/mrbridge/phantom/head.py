"""The heads that subjects are deformed from, in the space of the ICBM 152 template, and how.

Label maps give a head each (`labels.py`). Without them there is one head, the template's: nilearn
ships that template's brain (T1 intensities, grey and white matter maps; Fonov et al., NeuroImage
54:313, 2011). The intensities sharpen the maps, which are means over 152 people. What surrounds the
brain is not in the template: it is built here from distances to the brain and from a few ellipsoids
and tubes placed by anatomy, in MNI coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from mrbridge.io.icbm152 import icbm152
from mrbridge.phantom.fields import HIGH_MM, LOW_MM, Array, Grid, random_field, spline
from mrbridge.phantom.signals import IRON_OF_CORTEX, IRON_OF_NUCLEI

NATIVE = Grid.over_field_of_view((1.0, 1.0, 1.0))
COARSE = Grid.over_field_of_view((2.0, 2.0, 2.0))

_EYE, _EYE_RADIUS = (32.0, 66.0, -37.0), 12.0

# Centres and half axes, mm; each also mirrored at x = 0. Places read off the ICBM 152 template.
_NUCLEI: Mapping[str, Sequence[tuple[tuple[float, float, float], tuple[float, float, float]]]] = {
    "caudate": (((13, 14, 8), (6, 12, 11)), ((15, -4, 19), (5, 13, 6))),
    "putamen": (((27, 2, 1), (7, 17, 12)),),
    "pallidum": (((19, -5, -1), (6, 10, 7)),),
    "thalamus": (((12, -18, 8), (10, 14, 10)),),
    "red_nucleus": (((5, -21, -9), (4, 4, 4)),),
    "substantia_nigra": (((11, -18, -12), (5, 6, 4)),),
    "dentate": (((15, -57, -34), (9, 8, 6)),),
}
_CAVITIES = (
    ((27.0, 60.0, -62.0), (13.0, 15.0, 15.0)),  # maxillary
    ((7.0, 58.0, -47.0), (4.0, 20.0, 12.0)),  # ethmoid and nose
    ((6.0, 20.0, -34.0), (7.0, 9.0, 7.0)),  # sphenoid
    ((9.0, 82.0, -4.0), (9.0, 4.0, 9.0)),  # frontal
    ((54.0, -28.0, -46.0), (9.0, 11.0, 13.0)),  # mastoid
    ((0.0, 14.0, -70.0), (11.0, 10.0, 16.0)),  # pharynx
)
_ARTERIES = (
    (2.2, ((21, -10, -72), (22, -8, -52), (22, 4, -38), (14, 8, -28), (16, 4, -17))),  # carotid
    (1.5, ((16, 4, -17), (30, 6, -16), (42, 0, -9), (45, -16, 4), (48, -34, 14))),  # middle
    (1.2, ((16, 4, -17), (3, 18, -14), (2, 40, -2), (2, 38, 12), (2, 22, 26), (2, -6, 34))),
    (1.8, ((8, -24, -72), (0, -20, -50), (0, -13, -32), (0, -13, -21))),  # vertebral, basilar
    (1.2, ((0, -13, -21), (14, -20, -14), (23, -34, -8), (16, -62, 2))),  # posterior
)
_VEINS = ((2.2, ((0, -40, 6), (0, -62, 4), (0, -92, -6))),)  # great vein, straight sinus

_LATTICE_MM = 4.0
_CENTRE = np.array([0.0, -18.0, 10.0])

# Standard deviation of the displacement by the distance of its knots, mm. A choice: heads differ
# at the scale of lobes by several millimetres, gyri by a few.
_DISPLACEMENTS = ((90.0, 2.5), (44.0, 1.7), (22.0, 0.9), (12.0, 0.55))

LARGEST = 1.05
"""By how much a simulated adult's head may exceed the template's, whose brain with its fluid, 1.9
litres, is a large one already: `prepare` refuses brains of more than 2.2 litres."""


@dataclass(frozen=True)
class Head:
    """A head on one grid, and what places lesions and ventricles.

    Attributes:
        grid: of `maps`.
        names: of the channels of `maps`, see `HeadMaps`.
        maps: (channel, x, y, z) float32.
        ventricle_pull: (3, a, b, c) on `COARSE`: unit-less direction away from the ventricles,
            at most 1 long, fading out within some 20 mm.
        lesion_sites: (n, 3) MNI mm, white matter that may have lesions.
        lesion_weights: (n,), their probabilities.
    """

    grid: Grid
    names: tuple[str, ...]
    maps: Array
    ventricle_pull: Array
    lesion_sites: Array
    lesion_weights: NDArray[np.float64]

    def at(self, where: Array) -> dict[str, Array]:
        """The maps by name at places (x, y, z, 3) in template mm, by linear interpolation."""
        return dict(zip(self.names, sample(self.maps, self.grid, where), strict=True))


@dataclass(frozen=True)
class HeadMaps:
    """A head before it is put on one grid.

    Attributes:
        maps: by name, each with its grid. grey, white, fluid: shares of a voxel, their sum is the
            brain mask. hull, surface, eye: signed distances in mm (negative inside) to the inner
            face of the skull, to the skin, to the eyeballs. iron: mg/100 g beyond that of the
            cortex. air: share of air in sinuses. artery, sinus: share of large arteries and of
            venous sinuses. A label map adds the shares of bone, marrow, plexus and lesion.
        ventricle_pull, sites, weights: as of `Head`.
    """

    maps: dict[str, tuple[Array, Grid]]
    ventricle_pull: Array
    sites: Array
    weights: NDArray[np.float64]

    def on(self, spacing_mm: float) -> Head:
        """The head at a spacing."""
        grid = Grid.over_field_of_view((spacing_mm,) * 3)
        maps = np.empty((len(self.maps), *grid.shape), np.float32)
        # Averaging over larger voxels; the sampling itself blurs about as much as 1 mm voxels do.
        sigma = 0.4 * np.sqrt(max(0.0, spacing_mm**2 - 1))
        for index, (source, source_grid) in enumerate(self.maps.values()):
            if sigma and source_grid is NATIVE:
                for axis, places in zip(NATIVE.axes, grid.axes, strict=True):  # it comes last
                    source = np.tensordot(source, _averages(axis, places, sigma), (0, 1))
            elif source_grid.spacing != grid.spacing:
                source = resample(source, source_grid, grid)
            maps[index] = source
        return Head(grid, tuple(self.maps), maps, self.ventricle_pull, self.sites, self.weights)


def _averages(source: NDArray[np.float64], target: NDArray[np.float64], sigma: float) -> Array:
    """Weights (target, source) of a Gaussian average on an axis, read at other places, in mm."""
    smooth = ndimage.gaussian_filter1d(np.eye(len(source)), sigma, axis=0, mode="nearest")
    return np.stack([np.interp(target, source, column) for column in smooth.T], 1, dtype=np.float32)


@lru_cache(maxsize=2)
def template_head(spacing_mm: float) -> Head:
    """The template's head at a spacing; cached, since many subjects start from it."""
    return _template().on(spacing_mm)


def resample(values: Array, source: Grid, target: Grid) -> Array:
    """Linear interpolation of (x, y, z) from one grid to another; edges are repeated."""
    return sample(values[None], source, target.places())[0]


def sample(maps: Array, grid: Grid, where: Array) -> Array:
    """Linear interpolation of (channel, x, y, z) at places (..., 3) in mm: (channel, ...)."""
    low = np.array([a[0] for a in grid.axes], np.float32)
    high = np.array([a[-1] for a in grid.axes], np.float32)
    unit = torch.from_numpy((where - low) * (2 / (high - low)) - 1)
    # grid_sample expects (x, y, z) order for the axes from last to first.
    unit = unit.flip(-1)[None]
    values = torch.nn.functional.grid_sample(
        torch.from_numpy(maps)[None],
        unit,
        mode="bilinear",
        padding_mode="border",
        align_corners=True,
    )
    return values[0].numpy()


@lru_cache(maxsize=1)
def _template() -> HeadMaps:
    grey, white, fluid = _brain()
    mask = grey + white + fluid
    hull = hull_around(resample(mask, NATIVE, COARSE) > 0.5)
    fine_hull = resample(hull, COARSE, NATIVE)
    white_2mm, fluid_2mm = (resample(one, NATIVE, COARSE) for one in (white, fluid))
    x, y, z = COARSE.mesh()
    deep = (hull < -27) & (z > -12) & ((np.abs(x) < 24) | (y < -25))
    maps = {
        "grey": (grey, NATIVE),
        "white": (white, NATIVE),
        "fluid": (fluid, NATIVE),
        **surroundings(hull),
        "iron": (_iron(grey), COARSE),
        "sinus": (np.maximum(_within_tubes(_VEINS), _dural_sinuses(fine_hull)), NATIVE),
    }
    return HeadMaps(maps, *lesion_places((fluid_2mm > 0.5) & deep, white_2mm, hull))


def _brain() -> tuple[Array, Array, Array]:
    """Shares of grey matter, white matter and fluid at 1 mm.

    The posterior of three classes, given the template's intensity with its blur undone by unsharp
    masking; the maps are the prior. This brings back sulci that averaging has closed.
    """
    intensity, grey, white = (
        one / np.float32(255) for one in (icbm152("t1"), icbm152("gm"), icbm152("wm"))
    )
    mask = filled(intensity > 0)
    box = tuple(
        slice(max(0, s.start - 6), s.stop + 6)
        for s in ndimage.find_objects(mask.astype(np.uint8))[0]
    )
    inside = mask[box]
    # Outside the brain the intensity of sulci, lest the mask's edge be sharpened into an outline.
    image = np.where(inside, intensity[box], np.float32(0.45))
    sharp = np.clip(image + 2.0 * (image - ndimage.gaussian_filter(image, 2.0)), 0.36, 0.90)
    fluid = np.clip(1 - grey[box] - white[box], 0, 1)
    # Means of the template's intensity where the maps are pure, spreads wide enough for mixtures.
    classes = (
        (grey[box], 0.655, 0.085, 0.03),
        (white[box], 0.90, 0.10, 0.03),
        (fluid, 0.36, 0.13, 0.06),
    )
    weights = [
        (prior + floor) / spread * np.exp(-0.5 * ((sharp - mean) / spread) ** 2)
        for prior, mean, spread, floor in classes
    ]
    total = weights[0] + weights[1] + weights[2]
    result = []
    for weight in weights:
        whole = np.zeros(mask.shape, np.float32)
        whole[box] = np.where(inside, weight / total, 0)
        result.append(whole)
    return result[0], result[1], result[2]


def filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask with its holes, (x, y, z): `binary_fill_holes`, many times as fast."""
    parts, _ = ndimage.label(np.pad(~mask, 1, constant_values=True))
    return np.asarray(parts != parts[0, 0, 0])[1:-1, 1:-1, 1:-1]


def hull_around(brain: NDArray[np.bool_]) -> Array:
    """Signed distance to the inner face of the skull on `COARSE`, from the coarse brain mask.

    The brain mask closed by a ball of 12 mm, and 2.5 mm of space for fluid and dura.
    """
    step, reach, gap = COARSE.spacing[0], 12.0, 2.5
    # The brainstem leaves through the floor of the field of view: it continues below.
    pad = 10
    brain = np.pad(brain, ((0, 0), (0, 0), (pad, 0)), mode="edge")
    grown = ndimage.distance_transform_edt(~brain) * step < reach
    outside = ndimage.distance_transform_edt(~grown) * step
    inside = ndimage.distance_transform_edt(grown) * step
    distance = np.where(grown, reach + step / 2 - inside, reach - step / 2 + outside) - gap
    smooth = ndimage.gaussian_filter(distance, 1.0)[:, :, pad:]
    return np.ascontiguousarray(smooth, dtype=np.float32)


def surroundings(hull: Array) -> dict[str, tuple[Array, Grid]]:
    """The template's hull (given), surface, air, eye and artery, see `HeadMaps`."""
    skull = ndimage.gaussian_filter(hull, 2.5) - 13.0
    x, y, z = COARSE.mesh()
    face = _ellipsoid((0, 26, -52), (69, 62, 82))
    nose = _ellipsoid((0, 80, -50), (14, 14, 24))
    neck = np.maximum(np.hypot(x / 1.05, (y + 26) / 1.1) - 60, z + 42)
    ears = _ellipsoid((84, -22, -30), (6, 15, 26), mirror=True)
    surface = _smooth_minimum(skull, _smooth_minimum(face, neck, 14), 12)
    surface = _smooth_minimum(_smooth_minimum(surface, nose, 6), ears, 4)
    air = np.zeros(hull.shape, np.float32)
    for centre, radii in _CAVITIES:
        air = np.maximum(air, np.clip(0.5 - _ellipsoid(centre, radii, mirror=True) / 3, 0, 1))
    return {
        "hull": (hull, COARSE),
        "surface": (surface.astype(np.float32), COARSE),
        "air": (air, COARSE),
        "eye": (eyeballs(), COARSE),
        "artery": (_within_tubes(_ARTERIES), NATIVE),
    }


def eyeballs() -> Array:
    """Signed distance to the template's eyeballs, mm, on `COARSE`."""
    return _ellipsoid(_EYE, (_EYE_RADIUS,) * 3, mirror=True)


def _ellipsoid(centre: Sequence[float], radii: Sequence[float], *, mirror: bool = False) -> Array:
    """Approximate signed distance to an ellipsoid on `COARSE`; `mirror` adds its twin at -x."""
    x, y, z = COARSE.mesh()
    if mirror:
        x = np.abs(x)
    parts = ((p - c) / r for p, c, r in zip((x, y, z), centre, radii, strict=True))
    return ((np.sqrt(sum(p * p for p in parts)) - 1) * min(radii)).astype(np.float32)


def _smooth_minimum(a: Array, b: Array, width: float) -> Array:
    """The smaller of two signed distances, the crease between them filled over `width` mm."""
    near = np.maximum(width - np.abs(a - b), 0) / width
    return np.minimum(a, b) - near * near * width / 4


def _iron(grey: Array) -> Array:
    """Iron beyond the cortex's, mg/100 g, on `COARSE`.

    White matter that passes between the large nuclei has none of it; the small ones and the
    pallidum are rich in myelin, so that the maps call them white.
    """
    grey = resample(grey, NATIVE, COARSE)
    excess = np.zeros(COARSE.shape, np.float32)
    for nucleus, parts in _NUCLEI.items():
        for centre, radii in parts:
            inside = np.clip(0.5 - _ellipsoid(centre, radii, mirror=True) / 2, 0, 1)
            if nucleus in ("caudate", "putamen", "thalamus"):
                inside *= np.clip(1.5 * grey, 0, 1)
            excess = np.maximum(excess, inside * (IRON_OF_NUCLEI[nucleus] - IRON_OF_CORTEX))
    return excess


def _within_tubes(tubes: Sequence[tuple[float, Sequence[tuple[float, float, float]]]]) -> Array:
    """Share of a voxel within tubes (radius, polyline), mirrored at x = 0, on `NATIVE`."""
    share = np.zeros(NATIVE.shape, np.float32)
    origin = np.array([a[0] for a in NATIVE.axes])
    reach = np.arange(-4, 5)
    for radius, line in tubes:
        for start, end in pairwise(line):
            count = int(np.linalg.norm(np.subtract(end, start)) / 0.7) + 2
            for point in np.linspace(start, end, count):
                for side in (-1, 1):
                    index = point * (side, 1, 1) - origin
                    places = [np.round(c).astype(int) + reach for c in index]
                    if any(
                        p[0] < 0 or p[-1] >= n for p, n in zip(places, share.shape, strict=True)
                    ):
                        continue
                    squares = [(p - c) ** 2 for p, c in zip(places, index, strict=True)]
                    away = np.sqrt(
                        squares[0][:, None, None] + squares[1][:, None] + squares[2][None, None]
                    )
                    box = share[np.ix_(*places)]
                    share[np.ix_(*places)] = np.maximum(box, np.clip(radius - away + 0.5, 0, 1))
    return share


def _dural_sinuses(hull: Array) -> Array:
    """Share of the superior sagittal and the transverse sinuses, which run along the skull."""
    x, y, z = NATIVE.mesh()
    depth = hull + 2.5
    sagittal = np.hypot(x, depth) + np.where((z > -8) & (y < 66), 0, np.inf)
    transverse = np.hypot(z + 14 + 0.06 * np.abs(x), depth) + np.where(y < -48, 0, np.inf)
    away = np.minimum(sagittal, transverse)
    return np.clip(3.2 - away + 0.5, 0, 1).astype(np.float32)


def lesion_places(
    ventricles: NDArray[np.bool_], white: Array, hull: Array
) -> tuple[Array, Array, NDArray[np.float64]]:
    """`Head.ventricle_pull`, `lesion_sites` and `lesion_weights`, all from maps on `COARSE`."""
    _, _, z = COARSE.mesh()
    shape = ndimage.gaussian_filter(ventricles.astype(np.float32), 3.5)
    pull = np.stack(np.gradient(-shape))
    pull /= np.sqrt((pull**2).sum(axis=0)).max()
    away = ndimage.distance_transform_edt(~ventricles) * COARSE.spacing[0]
    # Mostly close to the ventricles, some anywhere in deep white matter (a choice).
    weight = (np.exp(-away / 4) + 0.03) * (white > 0.75) * (hull < -8) * (z > -22) * (away > 1)
    index = np.argwhere(weight > 0)
    weights = weight[tuple(index.T)].astype(np.float64)
    sites = np.stack([COARSE.axes[a][index[:, a]] for a in range(3)], axis=1)
    return pull.astype(np.float32), sites.astype(np.float32), weights / weights.sum()


def deformation(
    rng: np.random.Generator,
    head: Head,
    grid: Grid,
    widening: float | None = None,
    largest: float = np.inf,
) -> Array:
    """Where in the template each voxel of the subject's head comes from.

    Head size and proportions, position in the scanner, size of the ventricles, shape of lobes and
    gyri. Small enough to be invertible: no tissue folds over.

    Args:
        widening: by how much the walls of the ventricles are moved, mm, at most 9; None draws it.
        largest: a head that would be larger, by volume in units of the template's, is shrunk to it.

    Returns:
        (x, y, z, 3) MNI millimetres for the voxels of `grid`.
    """
    # Knots 4 mm apart that reach two knots beyond the field of view.
    edges = zip(LOW_MM - 2 * _LATTICE_MM, HIGH_MM + 3 * _LATTICE_MM, strict=True)
    x, y, z = (np.arange(low, high, _LATTICE_MM) for low, high in edges)
    lattice = Grid((x, y, z))
    base = lattice.places().astype(np.float64)
    growth = rng.normal(1.0, 0.03) * (1 + rng.normal(0, 0.02, 3))
    size = max(1.0, float(growth.prod()) / largest) ** (1 / 3) / growth
    turn = Rotation.from_euler("xyz", rng.normal(0, 2.5, 3), degrees=True).as_matrix()
    shift = rng.normal(0, 1.5, 3)
    place = (base - _CENTRE - shift) @ (np.diag(size) @ turn).T + _CENTRE
    for knot_mm, amplitude in _DISPLACEMENTS:
        for axis in range(3):
            place[..., axis] += amplitude * random_field(rng, knot_mm, lattice)
    # Coordinates that lag behind on the way out of the ventricles make them wider.
    drawn = np.clip(rng.normal(1.5, 2.5), -2.5, 6.0)
    widening = drawn if widening is None else widening
    pull = sample(head.ventricle_pull, COARSE, place.astype(np.float32))
    place -= widening * np.moveaxis(pull, 0, -1)
    offset = (place - base).astype(np.float32)
    result = np.empty((*grid.shape, 3), np.float32)
    start = np.array([a[0] for a in lattice.axes])
    for axis, own in enumerate(grid.mesh()):
        result[..., axis] = spline(offset[..., axis], start, _LATTICE_MM, grid) + own
    return result


def to_subject(places: NDArray[np.floating], where: Array, grid: Grid) -> NDArray[np.float64]:
    """The positions of template places (n, 3) in the subject, all in mm: `deformation` inverted.

    By fixed-point iteration, which converges since the deformation does not fold.
    """
    start = np.array([a[0] for a in grid.axes])
    step = np.array(grid.spacing)
    limit = np.array(grid.shape) - 1
    result = np.asarray(places, dtype=np.float64)
    for _ in range(12):
        index = np.clip(np.round((result - start) / step).astype(int), 0, limit)
        centre = start + index * step
        result = places + (centre - where[tuple(index.T)])
    return result
