"""The work on one case: read, translate, score against the real scan, draw."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge import metrics
from mrbridge.dataset.pairs import show_one_head
from mrbridge.evaluation import figures
from mrbridge.evaluation.cases import Case, Direction
from mrbridge.evaluation.lesions import worst_lesions
from mrbridge.evaluation.measures import Measured, measure
from mrbridge.evaluation.registration import (
    CaseScans,
    Mask,
    PairRegistration,
    Stack,
    register_pair,
    registration_errors,
)
from mrbridge.evaluation.settings import EvaluateSettings
from mrbridge.metrics import MonotoneMapping, Scores
from mrbridge.preprocessing.foreground import black_background, foreground_mask
from mrbridge.preprocessing.skull_strip import read_brain_mask
from mrbridge.viewer import Embedded, embedded
from mrbridge.volume import Volume

if TYPE_CHECKING:
    from mrbridge.bundle import Bundle

_BASELINE_VOXELS = 500_000  # that a monotone baseline is fitted to, over all cases
_MOST_VOXELS, _FEWEST_VOXELS = 50_000, 1_000  # of one case
_MOST_OF_IMAGE, _IN_HEAD = 0.5, 0.5  # share of a mask in the image; of it that is in the head
_SMALL_SLICE = 0.25  # share of the largest slice's mask below which a slice is not scored


DOUBTS = {
    "copy": (
        "the synthetic image is identical to the real one",
        "it is a copy, and its scores mean nothing",
    ),
    "unrelated": (
        "the synthetic image does not correlate with the real one",
        "it is constant, inverted or of something else, and `fit` scores a constant in its place",
    ),
    "two heads": (
        "the two images do not show the same anatomy",
        "they are of two people, the head moved between them, or the synthetic one failed",
    ),
    "source": (
        "the source and the synthetic image do not show the same anatomy",
        "unless the source is the right one, the baseline and the visibility of lesions mean "
        "nothing",
    ),
    "mask": (
        "most of the mask is outside the head",
        "it is of another scan, or its orientation is wrong",
    ),
}
"""Why the images of a case may not belong together: what was found, and what it means."""


@runtime_checkable
class TranslatorLike(Protocol):
    """The part of `mrbridge.inference.translator.Translator` that an evaluation needs."""

    bundle: Bundle

    def translate(self, volume: Volume, to: str, *, mask: Volume | None = None) -> Volume:
        """The scan in the contrast `to`, on its own grid; `mask` is a brain mask, if needed."""


@dataclass(frozen=True)
class Job:
    """The work on one case; can be pickled if `model` can.

    Attributes:
        directions: those whose source (or, with a synthetic image, target) is in the case.
        model: a translator; None if there is a synthetic image.
        baselines: the monotone baseline of each direction, by its key.
        baseline_on: to what they were fitted: `others` or `itself`; None if there are none.
        samples: slices of this case for the sliced Wasserstein distance.
        voxels: of this case to which the baselines of other cases are fitted.
        figures: path of the figures, to which their kind is appended; None draws nothing.
        force: whether scans are used although their headers say that they are something else.
        embeds: whether the result has the images for the report's viewer.
    """

    case: Case
    directions: tuple[Direction, ...]
    settings: EvaluateSettings
    model: TranslatorLike | None = None
    baselines: Mapping[str, MonotoneMapping] = field(default_factory=dict)
    baseline_on: str | None = None
    samples: int = 1
    voxels: int = _MOST_VOXELS
    figures: Path | None = None
    registration: PairRegistration | None = None
    embeds: bool = False
    force: bool = False


@dataclass(frozen=True)
class Result:
    """The scores of one case in one direction.

    Attributes:
        scores: by method (`model`, `floor`, `copy`); empty without a real target.
        slices: numbers of the slices with scores of their own, from 0, inferior first.
        by_slice: by method (`model`, `floor`), then `psnr` and `ssim`, a value for each slice.
        counts: joint histogram of real (rows) and fitted synthetic intensities, 0 to
            `figures.HISTOGRAM_TOP`; None without a real target.
        samples: by method and `real`: some slices, scaled, for the sliced Wasserstein distance.
        cycle: `cycle` and `noisy`: scores of the source scan after a cycle.
        figures: paths by kind (`slices`, `by_slice`, `lesions`, `reliability`).
        measured: lesions, tissues, detail, uncertainty; empty without a real target.
        doubts: whether the images belong together, by their names in `DOUBTS`.
    """

    scores: dict[str, Scores] = field(default_factory=dict)
    slices: list[int] = field(default_factory=list)
    by_slice: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    counts: NDArray[np.int64] | None = None
    samples: dict[str, Stack] = field(default_factory=dict)
    cycle: dict[str, Scores] = field(default_factory=dict)
    voxels: int = 0
    figures: dict[str, Path] = field(default_factory=dict)
    measured: Measured = field(default_factory=Measured)
    doubts: tuple[str, ...] = ()
    embedded: Embedded | None = None


def voxels_per_case(cases: int) -> int:
    """The number of voxels of each case to which a baseline is fitted."""
    return min(_MOST_VOXELS, max(_FEWEST_VOXELS, _BASELINE_VOXELS // max(1, cases)))


Samples = dict[str, tuple[Stack, Stack]]
"""Direction key to intensities (source, target) at the same voxels, shapes (voxels,)."""


def sample_case(job: Job) -> tuple[PairRegistration | None, Samples]:
    """The registration of a case, if required, and intensities to which baselines are fitted.

    Source and target are scaled by their 99.5th percentile inside the target's mask.

    Raises:
        InputError: the case cannot be scored: unreadable, not registered, on two grids, or without
            mask.
    """
    registration = register_pair(job.case, job.settings)
    samples: Samples = {}
    if job.case.synthetic is not None and job.case.source is None:
        return registration, samples
    scans = CaseScans(job.case, job.settings, registration, force=job.force)
    for direction in job.directions:
        source = scans.source_of(direction)
        assert source is not None
        images = source, scans.stacks[direction.target]
        inside = scans.masks[direction.target]
        words = f"{job.case.name}/{direction.key}"
        samples[direction.key] = sample_voxels(
            *images, inside, job.voxels, job.settings.seed, words
        )
    return registration, samples


def sample_voxels(
    source: Stack, target: Stack, inside: Mask, count: int, seed: int, words: str
) -> tuple[Stack, Stack]:
    """Intensities of two scans, (slices, rows, columns), zero meaning no signal, at the same
    `count` voxels `inside`, shape (voxels,) each, scaled by their 99.5th percentiles. `words` name
    the case, so that the same voxels are used with any other cases."""
    chosen = np.flatnonzero(inside)
    if chosen.size > count:
        rng = np.random.default_rng([seed, zlib.crc32(words.encode())])
        chosen = rng.choice(chosen, count, replace=False)
    first, second = (metrics.scaled(one, inside).ravel()[chosen] for one in (source, target))
    return first, second


def fit_baselines(
    cases: Sequence[Case], samples: Sequence[Samples]
) -> list[tuple[dict[str, MonotoneMapping], str]]:
    """For each case (monotone baselines by direction, "others" or "itself"): fitted to other
    subjects if there are any."""
    result = []
    for number, case in enumerate(cases):
        others = [
            samples[k]
            for k, other in enumerate(cases)
            if other.subject != case.subject and samples[k].keys() == samples[number].keys()
        ]
        chosen = others or [samples[number]]
        baselines = {
            key: metrics.fit_monotone(
                np.concatenate([sample[key][0] for sample in chosen]),
                np.concatenate([sample[key][1] for sample in chosen]),
            )
            for key in chosen[0]
        }
        result.append((baselines, "others" if others else "itself"))
    return result


def score_case(job: Job) -> dict[str, Result]:
    """Score one case in all its directions.

    Raises:
        InputError: it cannot be scored.
        MrbridgeError: it cannot be translated.
    """
    scans = CaseScans(job.case, job.settings, job.registration, force=job.force)
    results = {}
    for direction in job.directions:
        is_paired = direction.target in scans.volumes
        inside = scans.masks[direction.target if is_paired else str(direction.source)]
        synthetic = scans.synthetic or _translated(job, scans, direction)
        images = {"model": scans.stack_of(black_background(synthetic), direction.source)}
        source = scans.source_of(direction)
        if source is not None:
            if direction.key in job.baselines:
                whole = job.settings.mask == "whole" and job.case.mask is None
                mapping = job.baselines[direction.key]
                images["floor"] = apply_baseline(mapping, source, inside, whole=whole)
            images["copy"] = source
        result = Result(voxels=int(inside.sum()))
        if is_paired:
            widths = scans.uncertainty
            if synthetic.uncertainty is not None:
                made = replace(synthetic, voxels=synthetic.uncertainty, uncertainty=None)
                widths = scans.stack_of(made, direction.source)
            result = _against_real(job, scans, direction, images, inside, widths)
            if job.settings.registration_error:
                result = _with_registration_error(result, job, scans, direction, synthetic)
        cycle = {}
        if job.model is not None and job.settings.cycle:
            cycle = _cycle(job, job.model, scans, direction, synthetic)
        if is_paired:
            images["real"] = scans.stacks[direction.target]
        samples = evenly_spaced(images, inside, job.samples)
        results[direction.key] = replace(result, cycle=cycle, samples=samples)
    return results


def _translated(job: Job, scans: CaseScans, direction: Direction) -> Volume:
    """The synthetic scan, with an uncertainty map if the model makes one."""
    from mrbridge.inference.translator import Translator

    model, to = job.model, direction.target
    assert model is not None
    assert direction.source is not None
    mask = read_brain_mask(job.case.images[direction.source], model.bundle.manifest.standard)
    source = scans.volumes[direction.source]
    if not isinstance(model, Translator) or not model.knows_uncertainty(
        model.bundle.direction((source.contrast,), to)
    ):
        return model.translate(source, to, mask=mask)
    return model.translate(source, to, mask=mask, uncertainty=True)


def apply_baseline(
    mapping: MonotoneMapping, source: Stack, inside: Mask, *, whole: bool = False
) -> Stack:
    """The source with its intensities mapped, shape (slices, rows, columns).

    Unless `whole`, it is 0 in the background, which a falling mapping would make bright.
    """
    mapped = mapping.apply(metrics.scaled(source, inside))
    if whole:
        return mapped
    return np.where(inside | foreground_mask(source), mapped, np.float32(0))


def _against_real(
    job: Job,
    scans: CaseScans,
    direction: Direction,
    images: Mapping[str, Stack],
    inside: Mask,
    widths: Stack | None,
) -> Result:
    target, source = scans.stacks[direction.target], scans.source_of(direction)
    real = metrics.scaled(target, inside)
    plain = figures.Panels(
        direction,
        None if source is None else metrics.scaled(source, inside),
        metrics.scaled(images["model"], inside),
        real,
        inside,
        scans.spacing,
    )
    fitted = {method: metrics.fitted(real, image, inside) for method, image in images.items()}
    slices = _slices_with_anatomy(inside)
    result = Result(
        scores={method: metrics.scores(target, image, inside) for method, image in images.items()},
        slices=slices.tolist(),
        by_slice={
            method: _by_slice(real, image, inside, slices)
            for method, image in fitted.items()
            if method != "copy"
        },
        counts=figures.count_jointly(real[inside], fitted["model"][inside]),
        voxels=int(inside.sum()),
        measured=measure(scans, job.settings, plain, images["model"], widths),
        doubts=_doubts(job, scans.spacing, target, images, inside),
    )
    # Outside the mask nothing is scored: the synthetic image is shown without the fit.
    panels = replace(plain, synthetic=np.where(inside, fitted["model"], plain.synthetic))
    if job.embeds:
        result = replace(result, embedded=_embedded(job.case.name, panels))
    if job.figures is None:
        return result
    stem = f"{job.figures.name}_{direction.key}"
    paths = {"slices": job.figures.with_name(f"{stem}_slices.png")}
    figures.draw_slices(panels, result.slices, result.by_slice["model"], paths["slices"])
    if len(result.slices) > 1:
        paths["by_slice"] = job.figures.with_name(f"{stem}_by-slice.png")
        figures.draw_by_slice(result.slices, result.by_slice, paths["by_slice"])
    worst = worst_lesions(result.measured.lesions or [])
    if worst:
        paths["lesions"] = job.figures.with_name(f"{stem}_lesions.png")
        figures.draw_lesions(plain, worst, paths["lesions"])
    if result.measured.reliability:
        paths["reliability"] = job.figures.with_name(f"{stem}_reliability.png")
        figures.draw_reliability(result.measured.reliability, paths["reliability"])
    return replace(result, figures=paths)


def _doubts(
    job: Job,
    spacing: tuple[float, float, float] | None,
    target: Stack,
    images: Mapping[str, Stack],
    inside: Mask,
) -> tuple[str, ...]:
    made, source, is_file = images["model"], images.get("copy"), job.model is None
    found = {
        "copy": is_file and np.array_equal(target, made),
        "unrelated": is_file and metrics.fit_nonnegative(target, made, inside)[0] == 0,
        "two heads": not show_one_head(target, images["model" if is_file else "copy"], spacing),
        "source": is_file and source is not None and not show_one_head(source, made, spacing),
        "mask": job.case.mask is not None
        and inside.mean() < _MOST_OF_IMAGE
        and foreground_mask(target)[inside].mean() < _IN_HEAD,
    }
    return tuple(doubt for doubt, holds in found.items() if holds)


def _embedded(name: str, panels: figures.Panels) -> Embedded:
    """The images of a case for the viewer."""
    made, real = panels.synthetic, panels.real
    target = panels.direction.target
    stacks = {
        "synthetic": (f"{target} (synthetic)", made),
        "truth": (f"{target} (real)", real),
        "difference": ("Difference", np.where(panels.mask, made - real, 0)),
    }
    if panels.source is not None:
        source = {"source": (f"{panels.direction.source} (input)", panels.source)}
        stacks = source | stacks
    shown = ndimage.binary_fill_holes(foreground_mask(real) | panels.mask)
    return embedded(name, stacks, shown, panels.spacing)


def _with_registration_error(
    result: Result, job: Job, scans: CaseScans, direction: Direction, synthetic: Volume
) -> Result:
    """Only of pairs that were on one grid: else their own registration would be the truth."""
    target = scans.volumes[direction.target]
    if job.registration is not None or target.affine is None:
        return result
    source = scans.source or scans.volumes.get(str(direction.source))
    errors = registration_errors(target, synthetic, source, job.settings.seed)
    values = result.measured.values | errors
    return replace(result, measured=replace(result.measured, values=values))


def _slices_with_anatomy(inside: Mask) -> NDArray[np.intp]:
    sizes = inside.sum(axis=(1, 2))
    return np.flatnonzero(sizes >= max(1, _SMALL_SLICE * sizes.max()))


def _by_slice(
    real: Stack, image: Stack, inside: Mask, slices: NDArray[np.intp]
) -> dict[str, list[float]]:
    similarity = metrics.ssim_map(real, image, 1.0)
    return {
        "psnr": [metrics.psnr(real[k], image[k], inside[k], 1.0) for k in slices],
        "ssim": [float(similarity[k][inside[k]].mean()) for k in slices],
    }


def _cycle(
    job: Job, model: TranslatorLike, scans: CaseScans, direction: Direction, synthetic: Volume
) -> dict[str, Scores]:
    """Scores of a cycle, without and with noise in between (Chu et al. 2017, arXiv:1712.02950)."""
    contrast = str(direction.source)
    voxels = synthetic.voxels
    strength = job.settings.noise * float(np.percentile(voxels, metrics.REFERENCE_PERCENTILE))
    noise = np.random.default_rng(job.settings.seed).standard_normal(voxels.shape, np.float32)
    # Exact zeros are background: noise there would change the foreground.
    noisy = np.where(voxels == 0, 0, voxels + np.float32(strength) * noise)
    # The synthetic image has the grid of the source.
    mask = read_brain_mask(job.case.images[contrast], model.bundle.manifest.standard)
    scores = {}
    for name, image in {"cycle": synthetic, "noisy": replace(synthetic, voxels=noisy)}.items():
        returned = black_background(model.translate(image, contrast, mask=mask))
        stack = scans.stack_of(returned, contrast)
        scores[name] = metrics.scores(scans.stacks[contrast], stack, scans.masks[contrast])
    return scores


def evenly_spaced(images: Mapping[str, Stack], inside: Mask, count: int) -> dict[str, Stack]:
    """`count` slices of each image, scaled, evenly spaced over those with anatomy."""
    usable = _slices_with_anatomy(inside)
    picked = usable[np.unique(np.linspace(0, len(usable) - 1, count).round().astype(int))]
    return {name: metrics.scaled(image, inside)[picked] for name, image in images.items()}
