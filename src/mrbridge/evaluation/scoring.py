"""The work on one case: read, translate, score against the truth, draw."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mrbridge import metrics
from mrbridge.errors import InputError
from mrbridge.evaluation import figures
from mrbridge.evaluation.cases import Case, Direction
from mrbridge.evaluation.placing import (
    Mask,
    PlacedScans,
    Placement,
    Stack,
    read_placed,
    register_pair,
)
from mrbridge.evaluation.settings import EvaluateSettings
from mrbridge.metrics import MonotoneMapping, Scores
from mrbridge.preparation.brain import mask_beside
from mrbridge.preparation.intensity import foreground_mask
from mrbridge.volume import Volume

if TYPE_CHECKING:
    from mrbridge.bundle import Bundle

_FLOOR_VALUES = 500_000  # voxels that a floor is fitted on, over all cases
_MOST_VALUES, _LEAST_VALUES = 50_000, 1_000  # of one case
_SMALLEST_SLICE = 0.25  # slices with a smaller share of the largest slice's mask are not judged


class TranslatorLike(Protocol):
    """What an evaluation needs of `mrbridge.inference.engine.Translator`."""

    bundle: Bundle

    def translate(self, volume: Volume, to: str, *, mask: Volume | None = None) -> Volume:
        """The scan in the contrast `to`, on its own grid; `mask` shows a wanted brain."""


@dataclass(frozen=True)
class Job:
    """All that the work on one case needs; picklable where `model` is.

    Attributes:
        case: what to score.
        directions: of which the source (or, with a ready synthesis, the target) is in the case.
        settings: how to score.
        model: a translator, or None with a ready synthesis.
        floors: the floor of each direction, by its key.
        sampled: slices of this case that enter the sliced Wasserstein distance.
        values: voxels of this case that floors of other cases are fitted on.
        figures: the file to draw to, without what follows the case's name; None draws nothing.
        placement: how a pair that does not lie on one grid comes onto one.
    """

    case: Case
    directions: tuple[Direction, ...]
    settings: EvaluateSettings
    model: TranslatorLike | None = None
    floors: Mapping[str, MonotoneMapping] = field(default_factory=dict)
    sampled: int = 1
    values: int = _MOST_VALUES
    figures: Path | None = None
    placement: Placement | None = None


@dataclass(frozen=True)
class Found:
    """What one case gave in one direction.

    Attributes:
        scores: by method (`model`, `floor`, `copy`); empty without a true target.
        slices: which slices have scores of their own, counted from 0, inferior first.
        by_slice: by method (`model`, `floor`), then `psnr` and `ssim`, a value for each slice.
        counts: joint histogram of true (rows) and fitted synthetic intensities, 0 to
            `figures.HISTOGRAM_TOP`; None without a true target.
        looks: by method and `real`: some slices, scaled, for the sliced Wasserstein distance.
        cycle: `cycle` and `noisy`: scores of the source scan after there and back.
        voxels: how many the mask holds.
        pictures: the figures, by kind (`slices`, `by_slice`).
    """

    scores: dict[str, Scores] = field(default_factory=dict)
    slices: list[int] = field(default_factory=list)
    by_slice: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    counts: NDArray[np.int64] | None = None
    looks: dict[str, Stack] = field(default_factory=dict)
    cycle: dict[str, Scores] = field(default_factory=dict)
    voxels: int = 0
    pictures: dict[str, Path] = field(default_factory=dict)


def values_per_case(cases: int) -> int:
    """How many voxels of each case a floor is fitted on."""
    return min(_MOST_VALUES, max(_LEAST_VALUES, _FLOOR_VALUES // max(1, cases)))


def place_case(job: Job) -> Placement | None:
    """Register a pair, where that has to be done.

    Raises:
        InputError: a scan cannot be read, or registration did not converge.
    """
    return register_pair(job.case, job.settings)


def sample_case(job: Job) -> dict[str, tuple[Stack, Stack]]:
    """Matching intensities (source, target) of one pair, for floors, by direction.

    Both scaled by their 99.5th percentile inside the target's mask; shapes (values,).

    Raises:
        InputError: the pair cannot be scored: not on one grid, or without mask.
    """
    scans = read_placed(job.case, job.settings, job.placement)
    result = {}
    for direction in job.directions:
        source, target = scans.stacks[str(direction.source)], scans.stacks[direction.target]
        inside = scans.masks[direction.target]
        # Of the name, so that a case gives the same voxels in whatever company it comes.
        seed = [job.settings.seed, zlib.crc32(f"{job.case.name}/{direction.key}".encode())]
        chosen = np.flatnonzero(inside)
        if chosen.size > job.values:
            chosen = np.random.default_rng(seed).choice(chosen, job.values, replace=False)
        pair = (metrics.scaled(image, inside).ravel()[chosen] for image in (source, target))
        result[direction.key] = (next(pair), next(pair))
    return result


def fit_floors(
    cases: Sequence[Case], samples: Sequence[Mapping[str, tuple[Stack, Stack]]]
) -> list[tuple[dict[str, MonotoneMapping], str]]:
    """For each case the floor by direction, fitted on other subjects where there are any.

    Returns:
        A (floors, "others" or "itself") for each case.
    """
    result = []
    for own, case in enumerate(cases):
        others = [samples[k] for k, other in enumerate(cases) if other.subject != case.subject]
        chosen = others or [samples[own]]
        floors = {
            key: metrics.fit_monotone(
                np.concatenate([sample[key][0] for sample in chosen]),
                np.concatenate([sample[key][1] for sample in chosen]),
            )
            for key in chosen[0]
        }
        result.append((floors, "others" if others else "itself"))
    return result


def score_case(job: Job) -> dict[str, Found]:
    """Score one case in all its directions.

    Raises:
        InputError: it cannot be scored.
        MrbridgeError: it cannot be translated.
    """
    scans = read_placed(job.case, job.settings, job.placement)
    translator = job.model
    found = {}
    for direction in job.directions:
        paired = direction.target in scans.volumes
        inside = scans.masks[direction.target if paired else str(direction.source)]
        volume = scans.synthetic or _translated(translator, job.case, scans, direction)
        images = {"model": scans.stack_of(volume, direction.source)}
        if direction.source is not None:
            source = scans.stacks[direction.source]
            images["copy"] = source
            if direction.key in job.floors:
                images["floor"] = _floor(job.floors[direction.key], source, inside, job)
        result = Found(voxels=int(inside.sum()))
        if paired:
            result = _against_truth(job, scans, direction, images, inside)
        cycle = {}
        if translator is not None and job.settings.cycle:
            cycle = _cycle(translator, scans, direction, volume, job)
        looks = _looks(images | {"real": scans.stacks.get(direction.target)}, inside, job.sampled)
        found[direction.key] = replace(result, cycle=cycle, looks=looks)
    return found


def _translated(
    translator: TranslatorLike | None, case: Case, scans: PlacedScans, direction: Direction
) -> Volume:
    if translator is None or direction.source is None:
        raise InputError("there is neither a synthesis nor a model to make one")
    mask = mask_beside(case.images[direction.source], translator.bundle.manifest.standard)
    return translator.translate(scans.volumes[direction.source], direction.target, mask=mask)


def _floor(mapping: MonotoneMapping, source: Stack, inside: Mask, job: Job) -> Stack:
    """The source with its intensities mapped; where there is no anatomy, nothing.

    A falling curve would otherwise turn the dark background bright, which nobody would do.
    """
    mapped = mapping.apply(metrics.scaled(source, inside))
    if job.settings.mask == "whole" and job.case.mask is None:
        return mapped
    return np.where(inside | foreground_mask(source), mapped, np.float32(0))


def _against_truth(
    job: Job, scans: PlacedScans, direction: Direction, images: Mapping[str, Stack], inside: Mask
) -> Found:
    real = scans.stacks[direction.target]
    truth = metrics.scaled(real, inside)
    fitted = {method: metrics.fitted(truth, image, inside) for method, image in images.items()}
    sizes = inside.sum(axis=(1, 2))
    judged = np.flatnonzero(sizes >= max(1, _SMALLEST_SLICE * sizes.max()))
    by_slice: dict[str, dict[str, list[float]]] = {
        method: _by_slice(truth, fitted[method], inside, judged)
        for method in fitted
        if method != "copy"
    }
    found = Found(
        scores={method: metrics.scores(real, image, inside) for method, image in images.items()},
        slices=judged.tolist(),
        by_slice=by_slice,
        counts=figures.count_jointly(truth[inside], fitted["model"][inside]),
        voxels=int(inside.sum()),
    )
    if job.figures is None:
        return found
    source = None if direction.source is None else scans.stacks[direction.source]
    panels = figures.Panels(
        direction,
        None if source is None else metrics.scaled(source, inside),
        # Outside the mask nothing is scored: there the synthesis is shown as it is.
        np.where(inside, fitted["model"], metrics.scaled(images["model"], inside)),
        truth,
        inside,
        scans.grid.spacing,
    )
    return replace(found, pictures=_draw(job.figures, direction, panels, found))


def _draw(
    start: Path, direction: Direction, panels: figures.Panels, found: Found
) -> dict[str, Path]:
    pictures = {"slices": start.with_name(f"{start.name}_{direction.key}_slices.png")}
    figures.draw_slices(panels, found.slices, found.by_slice["model"], pictures["slices"])
    if len(found.slices) > 1:
        pictures["by_slice"] = start.with_name(f"{start.name}_{direction.key}_by-slice.png")
        figures.draw_by_slice(found.slices, found.by_slice, pictures["by_slice"])
    return pictures


def _by_slice(
    truth: Stack, image: Stack, inside: Mask, judged: NDArray[Any]
) -> dict[str, list[float]]:
    similarity = metrics.ssim_map(truth, image, 1.0)
    return {
        "psnr": [metrics.psnr(truth[k], image[k], inside[k], 1.0) for k in judged],
        "ssim": [float(similarity[k][inside[k]].mean()) for k in judged],
    }


def _cycle(
    translator: TranslatorLike, scans: PlacedScans, direction: Direction, made: Volume, job: Job
) -> dict[str, Scores]:
    """There and back, as it is and with noise on the way (Chu et al. 2017, arXiv:1712.02950)."""
    contrast = str(direction.source)
    source, inside = scans.stacks[contrast], scans.masks[contrast]
    strength = job.settings.noise * float(np.percentile(made.voxels, metrics.REFERENCE_PERCENTILE))
    noise = np.random.default_rng(job.settings.seed).standard_normal(made.voxels.shape, np.float32)
    # Exact zeros are no tissue: noise there would change what counts as foreground.
    noisy = np.where(made.voxels == 0, 0, made.voxels + np.float32(strength) * noise)
    starts = {"cycle": made, "noisy": replace(made, voxels=noisy)}
    # The synthesis lies on the source's grid.
    mask = mask_beside(job.case.images[contrast], translator.bundle.manifest.standard)
    returned = {
        name: translator.translate(start, contrast, mask=mask) for name, start in starts.items()
    }
    return {
        name: metrics.scores(source, scans.stack_of(volume, contrast), inside)
        for name, volume in returned.items()
    }


def _looks(images: Mapping[str, Stack | None], inside: Mask, count: int) -> dict[str, Stack]:
    """`count` slices of each image, evenly spread over those with anatomy."""
    sizes = inside.sum(axis=(1, 2))
    usable = np.flatnonzero(sizes >= max(1, _SMALLEST_SLICE * sizes.max()))
    picked = usable[np.unique(np.linspace(0, len(usable) - 1, count).round().astype(int))]
    return {
        name: metrics.scaled(image, inside)[picked]
        for name, image in images.items()
        if image is not None
    }


def open_translator(model: Bundle | str | Path | TranslatorLike, device: str) -> TranslatorLike:
    """The translator of a model that is named or loaded; a translator stays as it is."""
    from mrbridge.bundle import Bundle
    from mrbridge.inference.engine import Translator

    return Translator(model, device) if isinstance(model, Bundle | str | Path) else model
