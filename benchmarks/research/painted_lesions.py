"""Lesions painted into slices of simulated subjects as a training draws them.

The phantom paints lesions in 3D, once a subject. Here each slice gets others each time it is drawn,
at no cost: T1 and T2 come from the same `KINDS` as there, the canonical signals from the same
equations, and the inputs from the curve that takes this slice's canonical signals to its own scan.

A fifth of the slices gets many small lesions of white matter instead, as in multiple sclerosis.
Those of the phantom have 2.2 to 3.2 times the T2 of white matter. The 81 lesions of at least 10 mm³
of the two patients of open-ms-mni have 1.1 to 2.0 times (10th to 90th percentile; from the ratio of
T2w signals, with an echo time of 105 ms), and many are as bright as grey matter in T2w. The ranges
here are wider.

Lesions are painted into the brain only: pixels of its levels that an opening leaves, since thin
layers outside it, mixtures, have such levels too.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.dataset.simulated import CANONICAL
from mrbridge.phantom.pathology import KINDS, Kind, Layer, Range
from mrbridge.phantom.signals import Real, Tissue
from mrbridge.phantom.subjects import CANONICAL_MATTER, CANONICAL_SEQUENCES

_HOW_MANY = (0.55, 0.25, 0.15, 0.05)  # shares of slices with lesions that have one, two, …
_LEAST = 1.4  # smallest radius over that of the kind: no network can tell smaller ones from cortex
_BINS = 24
_FEW = 400  # pixels of tissue below which a slice is left as it is
_SHADE = 0.06  # standard deviation of what a scan adds to the curve, a choice
_TISSUE_T1W, _TISSUE_T2W = (-0.3, 0.55), (-0.52, 0.2)  # of the brain; muscle has -0.65 in T2w
_LAYER, _SURFACE = 2, 4  # pixels: half of the thickest layer outside; cortex mixed with fluid
_WHITE_T1W = (0.15, 0.35)  # between grey matter, 0.09, and white matter, 0.41

_PLAQUES_OFTEN = 0.2  # share of slices with lesions that have those of multiple sclerosis, and
_PLAQUES = (2, 25)  # how many
_RIM_OFTEN, _RIM_MM = 0.25, (1.0, 10.0)  # how often the ventricles have a rim of lesion; its width
_NEAR_MM = 9.0  # from the ventricles: where most plaques are
_FLUID_T2W, _VENTRICLE = 0.6, 2  # level of fluid; erosions that leave nothing of sulci
_PLAQUE = Kind(
    1.0, (1.0, 5.0), (0.2, 0.5),
    (
        Layer(
            (1.05, 2.0), (1.1, 2.6), (0.75, 0.9), edge_mm=(0.8, 2.5), opacity=(0.7, 1),
            into="white",
        ),
    ),
)  # fmt: skip


def canonical_signals(density: Real, t1: Real, t2: Real) -> dict[str, Any]:
    """Signals of tissue in the canonical contrasts, by contrast; 1 is fully recovered water.

    Args:
        density: proton density, a share of that of water.
        t1, t2: multiples of white matter's. Numbers or arrays that broadcast together.
    """
    white = CANONICAL_MATTER.white
    tissue = Tissue(t1 * white.t1, t2 * white.t2, density)
    return {contrast: one.signal(tissue) for contrast, one in CANONICAL_SEQUENCES.items()}


def paint_lesions(
    group: NDArray[np.float32],
    rng: np.random.Generator,
    contrasts: Sequence[str] = ("T1w", "T2w"),
) -> NDArray[np.float32]:
    """Paint one to four lesions into a group, in place.

    Args:
        group: (2 contrasts, rows, columns) in [-1, 1] at about 1 mm: of each contrast the image as
            input and as ground truth.
        rng: draws.
        contrasts: of the group, in its order; T1w and T2w, which show where there is tissue, are
            among them.

    Returns:
        The share of lesion in each pixel, (rows, columns).
    """
    seen = dict(zip(contrasts, group[::2], strict=True))
    truth = dict(zip(contrasts, group[1::2], strict=True))
    tissue = _between(truth["T1w"], _TISSUE_T1W) & _between(truth["T2w"], _TISSUE_T2W)
    tissue = ndimage.binary_opening(tissue, iterations=_LAYER)
    places = np.argwhere(tissue)
    covered = np.zeros(tissue.shape, np.float32)
    if len(places) < _FEW:
        return covered
    curves = {contrast: _curve(truth[contrast], seen[contrast]) for contrast in contrasts}
    rest = {  # noise, bias field and whatever else the curve does not explain
        contrast: seen[contrast] - _interpolate(curves[contrast], truth[contrast])
        for contrast in contrasts
    }
    brain = ndimage.binary_fill_holes(ndimage.binary_dilation(tissue, iterations=_SURFACE))
    inside = brain & (seen["T1w"] > -1) & (seen["T2w"] > -1)
    if rng.random() < _PLAQUES_OFTEN:
        _paint_plaques(truth, covered, inside, rng)
    else:
        weights = np.array([kind.weight for kind in KINDS.values()])
        for _ in range(1 + rng.choice(len(_HOW_MANY), p=_HOW_MANY)):
            kind = list(KINDS.values())[rng.choice(len(KINDS), p=weights / weights.sum())]
            _paint(kind, places[rng.integers(len(places))], truth, covered, inside, rng)
    for contrast, image in seen.items():
        shade = np.float32(rng.normal(0, _SHADE))
        new = _interpolate(curves[contrast], truth[contrast]) + rest[contrast] + shade * covered
        image[:] = np.where(covered > 0, np.clip(new, -0.99, 1), image)
    return covered


def _between(image: NDArray[np.float32], limits: Range) -> NDArray[np.bool_]:
    return (image > limits[0]) & (image < limits[1])


Curve = tuple[NDArray[np.float32], NDArray[np.float32]]


def _curve(truth: NDArray[np.float32], seen: NDArray[np.float32]) -> Curve:
    """The rising curve from canonical levels to those of a scan, as points of a polyline.

    Args:
        truth, seen: the canonical image and the scan, (rows, columns), range [-1, 1].
    """
    shown = (truth > -0.98) & (seen > -1)
    if np.count_nonzero(shown) < _FEW:
        return np.array([-1, 1], np.float32), np.array([-1, 1], np.float32)
    x, y = truth[shown][::4], seen[shown][::4]
    order = np.argsort(x)
    x, y = x[order], y[order]
    parts = [slice(start, end) for start, end in _ranges(x)]
    centres = np.array([np.median(x[part]) for part in parts], np.float32)
    levels = np.maximum.accumulate([np.median(y[part]) for part in parts]).astype(np.float32)
    # Beyond the levels that this slice shows, extrapolate with the mean slope.
    slope = max(0.3, float((levels[-1] - levels[0]) / max(centres[-1] - centres[0], 0.2)))
    first = max(-1.0, float(levels[0] - slope * (centres[0] + 1)))
    last = float(levels[-1] + slope * (1.2 - centres[-1]))
    return (
        np.concatenate([[-1.0], centres, [1.2]]).astype(np.float32),
        np.concatenate([[first], levels, [last]]).astype(np.float32),
    )


def _ranges(x: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Bins of equal width that hold at least a few pixels: (start, end) into the sorted `x`."""
    edges = np.searchsorted(x, np.linspace(x[0], x[-1], _BINS + 1))
    edges[-1] = len(x)
    return [(a, b) for a, b in itertools.pairwise(edges) if b - a >= 8]


def _interpolate(curve: Curve, levels: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.interp(levels, *curve).astype(np.float32)


def _paint_plaques(
    truth: dict[str, NDArray[np.float32]],
    covered: NDArray[np.float32],
    inside: NDArray[np.bool_],
    rng: np.random.Generator,
) -> None:
    """Lesions of white matter, many next to the ventricles; sometimes a rim around these."""
    white = _between(truth["T1w"], (_WHITE_T1W[1], _TISSUE_T1W[1]))
    # Not the thin layers that are as bright outside the brain.
    white = ndimage.binary_opening(white & _between(truth["T2w"], _TISSUE_T2W), iterations=1)
    ventricles = ndimage.binary_erosion(truth["T2w"] > _FLUID_T2W, iterations=_VENTRICLE)
    has_ventricles = bool(ventricles.any())
    away = ndimage.distance_transform_edt(~ventricles) - _VENTRICLE if has_ventricles else None
    if away is not None and rng.random() < _RIM_OFTEN:
        width = rng.uniform(*_RIM_MM)
        rough = sum(_noise(away.shape, scale, rng) for scale in (9.0, 18.0))
        depth = (width - away + rng.uniform(0.1, 0.4) * width * rough).astype(np.float32)
        _paint_layers(_PLAQUE, width, depth, (slice(None),) * 2, truth, covered, inside, rng)
    places = np.argwhere(white)
    near = places if away is None else np.argwhere(white & (away < _NEAR_MM))
    share = rng.uniform(0, 0.8)
    for _ in range(round(np.exp(rng.uniform(*np.log(_PLAQUES))))):
        chosen = near if rng.random() < share else places
        if len(chosen):
            _paint(_PLAQUE, chosen[rng.integers(len(chosen))], truth, covered, inside, rng)


def _paint(
    kind: Kind,
    centre: NDArray[np.int64],
    truth: dict[str, NDArray[np.float32]],
    covered: NDArray[np.float32],
    inside: NDArray[np.bool_],
    rng: np.random.Generator,
) -> None:
    smallest, largest = kind.radius_mm
    low, high = np.log((smallest if kind is _PLAQUE else _LEAST * smallest, largest))
    radius = float(np.exp(rng.uniform(low, high)))
    reach = int(1.8 * radius + 24)
    rows, columns = (
        slice(max(0, c - reach), min(size, c + reach))
        for c, size in zip(centre, inside.shape, strict=True)
    )
    box = (rows, columns)
    depth = _depth(radius, rng.uniform(*kind.roughness), centre, box, rng)
    _paint_layers(kind, radius, depth, box, truth, covered, inside, rng)


def _paint_layers(
    kind: Kind,
    radius: float,
    depth: NDArray[np.float32],
    box: tuple[slice, slice],
    truth: dict[str, NDArray[np.float32]],
    covered: NDArray[np.float32],
    inside: NDArray[np.bool_],
    rng: np.random.Generator,
) -> None:
    layers = [layer for layer in kind.layers if rng.random() < layer.chance]
    within = inside[box]
    amount = np.float32(rng.uniform(*kind.texture))
    texture = np.exp(amount * _noise(depth.shape, 7.0, rng))
    for layer in layers:
        begins = min(rng.uniform(*layer.depth_mm), 0.6 * radius)
        edge = rng.uniform(*layer.edge_mm)
        share = np.clip((depth - begins) / edge + 0.5, 0, 1) * np.float32(
            rng.uniform(*layer.opacity)
        )
        share = share * _where(layer, {name: image[box] for name, image in truth.items()}) * within
        levels = _levels(layer, texture, rng)
        for contrast, image in truth.items():
            image[box] += share * (levels[contrast] - image[box])
        covered[box] = np.maximum(covered[box], share)


def _where(layer: Layer, truth: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Share of what a layer replaces."""
    if layer.into == "all":
        return np.ones_like(truth["T1w"])
    tissue = np.clip((0.2 - truth["T2w"]) / 0.3, 0, 1)
    if layer.into == "white":
        low, high = _WHITE_T1W
        tissue = tissue * np.clip((truth["T1w"] - low) / (high - low), 0, 1)
    return tissue


def _levels(
    layer: Layer, texture: NDArray[np.float32], rng: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    t1 = np.exp(rng.uniform(*np.log(layer.t1))) * texture
    t2 = np.exp(rng.uniform(*np.log(layer.t2))) * texture
    signals = canonical_signals(rng.uniform(*layer.density), t1, t2)
    return {name: CANONICAL[name].normalise(signal) for name, signal in signals.items()}


def _depth(
    radius: float,
    roughness: float,
    centre: NDArray[np.int64],
    box: tuple[slice, slice],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Depth below an irregular outline in pixels, negative outside."""
    stretch, angle = rng.uniform(0.7, 1.4), rng.uniform(0, np.pi)
    y, x = np.ogrid[box]
    y, x = y - centre[0], x - centre[1]
    along = (np.cos(angle) * x + np.sin(angle) * y) / stretch
    across = (np.cos(angle) * y - np.sin(angle) * x) * stretch
    away = np.sqrt(along**2 + across**2)
    rough = sum(_noise(away.shape, scale, rng) for scale in (9.0, 18.0))
    return (radius - away + 0.7 * roughness * radius * rough).astype(np.float32)


def _noise(shape: tuple[int, ...], scale: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """A smooth random field of about unit variance, knots `scale` pixels apart."""
    knots = [int(np.ceil(size / scale)) + 3 for size in shape]
    field = rng.standard_normal(knots).astype(np.float32)
    smooth = ndimage.zoom(field, scale, order=3, prefilter=False, grid_mode=True, mode="nearest")
    start = rng.integers(0, int(scale), 2)
    return 1.8 * smooth[start[0] : start[0] + shape[0], start[1] : start[1] + shape[1]]
