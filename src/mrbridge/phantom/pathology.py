"""Pathology in T1w and T2w: tumours, strokes, cysts, haemorrhage, oedema, resection cavities, and
lesions of white matter.

A network learns from these that fluid is bright in T2w also where no template has fluid. So shapes,
places and relaxation times vary widely. Relaxation times are multiples of those of the subject's
white matter. The ranges are choices, guided by Just and Thelen 1988, Radiology 169:779 (T1 and T2
of tumours and oedema, which overlap widely), Naruse et al. 1982, J Neurosurg 56:747 (oedema
lengthens both) and Bradley 1993, Radiology 189:15 (T1 and T2 of haemorrhage by age).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.phantom.fields import Array, Grid, field_of, random_knots
from mrbridge.phantom.head import COARSE, Head, sample, to_subject
from mrbridge.phantom.signals import LESION, Tissue

Range = tuple[float, float]

_OUTLINE_MM = (9.0, 18.0)
_LESION_OUTLINE_MM = 5.0
_HALO_EDGE = 0.08
TEXTURE_MM = 7.0
"""Distance of the knots of `Pathology.texture`."""


@dataclass(frozen=True)
class Layer:
    """The range of one part of a kind of pathology, from the outside to the inside.

    Attributes:
        t1, t2: multiples of white matter's.
        density: proton density, a share of that of water.
        depth_mm: how far inside the outline it begins; negative: outside.
        edge_mm: over which it fades in.
        opacity: share of the tissue that it replaces.
        into: what it replaces: `white` matter, `brain` tissue or `all` within the skull.
        chance: how often a lesion of the kind has it.
    """

    t1: Range
    t2: Range
    density: Range
    depth_mm: Range = (0.0, 0.0)
    edge_mm: Range = (0.8, 2.0)
    opacity: Range = (1.0, 1.0)
    into: str = "all"
    chance: float = 1.0


_OEDEMA = Layer(
    t1=(1.15, 1.8), t2=(1.5, 3.0), density=(0.78, 0.88), depth_mm=(-22, -4), edge_mm=(3, 9),
    opacity=(0.6, 1.0), into="white", chance=0.6,
)  # fmt: skip
_GLIOSIS = Layer(
    t1=(1.3, 1.9), t2=(1.7, 3.5), density=(0.8, 0.9), depth_mm=(-5, -1), edge_mm=(1.5, 4),
    into="brain",
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A kind of pathology: how often it is drawn, its size, its shape and its layers.

    Attributes:
        weight: relative frequency.
        radius_mm: its smallest and largest mean radius.
        roughness: of the outline, a share of the radius.
        layers: painted one over another.
        texture: standard deviation of the logarithm of relaxation times within it. Fluid is even,
            solid tumours are not.
        surface: whether it lies at the surface of the brain.
        masks: whether its outline may be that of a lesion mask.
    """

    weight: float
    radius_mm: Range
    roughness: Range
    layers: tuple[Layer, ...]
    texture: Range = (0.02, 0.15)
    surface: bool = False
    masks: bool = False


KINDS = {
    "acute stroke": Kind(
        2.0, (5, 34), (0.25, 0.5),
        (
            Layer(
                (1.1, 1.6), (1.35, 2.4), (0.8, 0.9), edge_mm=(1.5, 5), opacity=(0.6, 1),
                into="brain",
            ),
        ),
        masks=True,
    ),
    "chronic stroke": Kind(
        2.0, (4, 30), (0.2, 0.45),
        (_GLIOSIS, Layer((2.4, 4.7), (4, 19), (0.9, 1.0))),
        texture=(0.0, 0.1),
        masks=True,
    ),
    "cyst": Kind(
        2.5, (3, 26), (0.03, 0.15),
        (
            _OEDEMA,
            Layer((1.2, 1.7), (1.0, 1.7), (0.78, 0.88), into="brain", chance=0.6),
            Layer((1.3, 4.7), (4, 19), (0.92, 1.0), depth_mm=(0.5, 2.5), edge_mm=(0.6, 1.2)),
        ),
        texture=(0.0, 0.03),
    ),
    "oedema": Kind(
        1.0, (5, 22), (0.2, 0.5),
        (
            Layer(
                (1.12, 1.75), (1.45, 3.0), (0.78, 0.88), edge_mm=(3, 8), opacity=(0.6, 1),
                into="white",
            ),
        ),
    ),
    "tumour": Kind(
        3.0, (6, 28), (0.12, 0.35),
        (
            _OEDEMA,
            Layer((1.2, 2.2), (1.2, 2.8), (0.8, 0.92), edge_mm=(0.8, 5)),
            Layer((1.8, 4.3), (2.5, 14), (0.88, 1.0), depth_mm=(2, 9), chance=0.55),
        ),
        texture=(0.08, 0.3),
    ),
    "haemorrhage": Kind(
        0.7, (3, 22), (0.1, 0.35),
        (
            _OEDEMA,
            Layer((1.2, 1.8), (0.25, 0.55), (0.7, 0.85), into="brain"),  # haemosiderin rim
            Layer((0.42, 0.8), (2.5, 6.5), (0.88, 1.0), depth_mm=(0.6, 2)),  # late subacute
        ),
    ),
    "acute haemorrhage": Kind(
        0.4, (3, 22), (0.1, 0.35),
        (_OEDEMA, Layer((1.15, 1.8), (0.35, 0.75), (0.78, 0.88))),
    ),
    "cavity": Kind(
        1.2, (8, 28), (0.08, 0.3),
        (_GLIOSIS, Layer((3.0, 4.7), (6, 19), (0.95, 1.0), edge_mm=(0.6, 1.5))),
        texture=(0.0, 0.05),
        surface=True,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Pathology:
    """One lesion of a subject, in template space.

    Attributes:
        kind: a key of `KINDS`.
        centre: (3,) template mm.
        radii: (3,) half axes, mm.
        roughness: of the outline.
        outline: knots of random fields, by the distance of their knots in mm.
        texture: knots of the field by which relaxation varies inside, and how much.
        layers: (layer, depth mm, edge mm, opacity, tissue as multiples of white matter).
        mask: (distance to its outline in mm, its grid) in template space instead of an ellipsoid.
    """

    kind: str
    centre: NDArray[np.float64]
    radii: NDArray[np.float64]
    roughness: float
    outline: tuple[tuple[float, Array], ...]
    texture: tuple[Array, float]
    layers: tuple[tuple[Layer, float, float, float, Tissue], ...]
    mask: tuple[Array, Grid] | None = None

    @classmethod
    def draw(cls, rng: np.random.Generator, head: Head, masks: Sequence[Path] = ()) -> Pathology:
        """A lesion of a random kind, anywhere in the brain.

        Args:
            head: the subject's, before deformation.
            masks: lesion masks in MNI space, which give shapes and places to some kinds.
        """
        weights = np.array([kind.weight for kind in KINDS.values()])
        name = list(KINDS)[rng.choice(len(KINDS), p=weights / weights.sum())]
        kind = KINDS[name]
        low, high = np.log(kind.radius_mm)
        radii = np.exp(rng.uniform(low, high)) * rng.uniform(0.75, 1.3, 3)
        layers = []
        for layer in kind.layers:
            drawn = [rng.uniform(*r) for r in (layer.depth_mm, layer.edge_mm, layer.opacity)]
            tissue = Tissue(
                np.exp(rng.uniform(*np.log(layer.t1))),
                np.exp(rng.uniform(*np.log(layer.t2))),
                rng.uniform(*layer.density),
            )
            depth = min(drawn[0], 0.6 * float(radii.min()))
            if rng.random() < layer.chance:
                layers.append((layer, depth, drawn[1], drawn[2], tissue))
        outline = tuple((mm, random_knots(rng, mm)) for mm in _OUTLINE_MM)
        texture = random_knots(rng, TEXTURE_MM), rng.uniform(*kind.texture)
        centre = _centre(rng, head, kind.surface)
        mask = None
        if masks and kind.masks and rng.random() < 0.7:
            mask = _outline_of(
                masks[int(rng.integers(len(masks)))], mirrored=bool(rng.random() < 0.5)
            )
        roughness = rng.uniform(*kind.roughness)
        return cls(name, centre, radii, roughness, outline, texture, tuple(layers), mask=mask)

    @property
    def outermost(self) -> float:
        """The depth at which it begins, mm; negative: outside the outline."""
        return min((begins - edge / 2 for _, begins, edge, *_ in self.layers), default=np.inf)

    def depth(self, where: Array, grid: Grid) -> Array:
        """Depth below the outline in mm, negative outside, on `grid`."""
        if self.mask is not None:
            distance, mask_grid = self.mask
            return -sample(distance[None], mask_grid, where)[0]
        away = np.sqrt((((where - self.centre) / self.radii) ** 2).sum(axis=-1)).astype(np.float32)
        rough = sum(field_of(knots, mm, grid) for mm, knots in self.outline)
        radius = np.float32(self.radii.min())
        # The outline of a tumour or a stroke wanders by a share of its size.
        return (1 - away) * radius + np.float32(0.7 * self.roughness) * radius * rough


def _centre(rng: np.random.Generator, head: Head, surface: bool) -> NDArray[np.float64]:
    """A place in the brain, template mm; `surface`: at its edge."""
    maps = dict(zip(head.names, head.maps, strict=True))
    step = max(1, round(3 / head.grid.spacing[0]))
    tissue = (maps["grey"] + maps["white"])[::step, ::step, ::step]
    hull = maps["hull"][::step, ::step, ::step]
    possible = tissue > 0.6
    if surface:
        possible &= hull > -14
    index = np.argwhere(possible)
    chosen = index[rng.integers(len(index))] * step
    return np.array([axis[i] for axis, i in zip(head.grid.axes, chosen, strict=True)])


def _outline_of(path: Path, mirrored: bool) -> tuple[Array, Grid]:
    """Signed distance (mm, negative inside) to the outline of a lesion mask in MNI space, 2 mm."""
    image = nibabel.funcs.as_closest_canonical(nibabel.load(path))
    mask = np.asarray(image.dataobj) > 0.5
    sizes = np.abs(np.diag(image.affine)[:3])
    step = [max(1, round(2 / size)) for size in sizes]
    mask = mask[:: step[0], :: step[1], :: step[2]]
    axes = tuple(
        image.affine[a, 3] + image.affine[a, a] * step[a] * np.arange(mask.shape[a])
        for a in range(3)
    )
    if mirrored:  # the template is symmetric
        mask, axes = mask[::-1], (-axes[0][::-1], *axes[1:])
    grid = Grid(axes)
    outside = ndimage.distance_transform_edt(~mask, sampling=grid.spacing)
    inside = ndimage.distance_transform_edt(mask, sampling=grid.spacing)
    return (np.where(mask, 1 - inside, outside - 1)).astype(np.float32), grid


@dataclass(frozen=True)
class Lesions:
    """A subject's lesions of white matter, in template space.

    Attributes:
        centres: (n, 3) MNI mm.
        radii: (n, 3) half axes in mm along RAS.
        t1_ratio: T1 as a multiple of that of the white matter around.
        t2: ms.
        outline: knots of the random field that makes the outlines irregular.
        halo: nearness to the ventricles from which white matter is lesion throughout, 1 being their
            walls; 1 or more: nowhere.
        nearness: on `COARSE`, that nearness.
    """

    centres: Array
    radii: Array
    t1_ratio: float
    t2: float
    outline: Array
    halo: float
    nearness: Array

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        count: tuple[int, int],
        head: Head,
        t1_ratio: tuple[float, float] = (1.08, 1.25),
        halo: float = 1.0,
    ) -> Lesions:
        """Between `count[0]` and `count[1]` lesions, most of them next to the ventricles.

        A T1 up to a quarter longer, offset by the higher density: little is seen in T1w.
        """
        number = int(rng.integers(count[0], count[1], endpoint=True))
        chosen = rng.choice(len(head.lesion_sites), number, p=head.lesion_weights)
        # Longest along x, square to the ventricles (Dawson's fingers); sizes are a choice.
        radii = np.clip(rng.lognormal(np.log(2.6), 0.4, (number, 1)), 1.5, 7)
        radii = radii * rng.uniform((1.0, 0.75, 0.75), (1.5, 1.1, 1.1), (number, 3))
        return cls(
            head.lesion_sites[chosen],
            radii.astype(np.float32),
            t1_ratio=rng.uniform(*t1_ratio),
            t2=LESION.t2 * rng.uniform(0.7, 1.0),
            outline=random_knots(rng, _LESION_OUTLINE_MM),
            halo=halo,
            nearness=np.linalg.norm(head.ventricle_pull, axis=0),
        )

    def share(self, where: Array, grid: Grid) -> Array:
        """Share of lesion in each voxel of `grid`; `where` (x, y, z, 3): its template places."""
        share = np.zeros(grid.shape, np.float32)
        if self.halo < 1:
            near = sample(self.nearness[None], COARSE, where)[0]
            near *= 1 + 0.15 * field_of(self.outline, _LESION_OUTLINE_MM, grid)
            share = np.clip((near - self.halo) / _HALO_EDGE, 0, 1)
        if not len(self.centres):
            return share
        places = to_subject(self.centres, where, grid)
        for centre, radii, place in zip(self.centres, self.radii, places, strict=True):
            box = _box(place, 2.2 * float(radii.max()), grid)
            away = np.sqrt((((where[box] - centre) / radii) ** 2).sum(axis=-1))
            roughness = 1 + 0.25 * field_of(self.outline, _LESION_OUTLINE_MM, grid.part(box))
            depth = (away * roughness - 1) * float(radii.min())
            inside = np.clip(0.5 - depth / max(1.2, grid.spacing[0]), 0, 1)
            share[box] = np.maximum(share[box], inside)
        return share


def _box(place: NDArray[np.float64], reach: float, grid: Grid) -> tuple[slice, slice, slice]:
    """The voxels within `reach` mm of a place, along each axis."""
    parts = []
    for centre, axis in zip(place, grid.axes, strict=True):
        low, high = np.searchsorted(axis, (centre - reach, centre + reach))
        parts.append(slice(int(low), int(high)))
    return parts[0], parts[1], parts[2]
