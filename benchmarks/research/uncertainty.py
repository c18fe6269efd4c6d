"""Scale heads for a model, and the calibration of its uncertainty maps.

    python -m benchmarks.research.uncertainty --model DIR/bundle --work DIR --labels DIR
        --masks DIR [--steps 1200] [--people 8]

Trains the heads on the simulated subjects that `shipped_model.py` keeps in DIR, the generators
frozen; then finds the conformal factor (Angelopoulos et al. 2022, arXiv:2202.05265) of each
direction on simulated people of anatomies that no training saw (label maps 17 to 20), and writes
`DIR/bundle` with both. One JSON line a direction says what each part of the map brings: coverage,
AUROC for the worst 5 % of errors, and AUSE, for the scale, the spread over the planes, their sum,
and the gradient of the source as the baseline.

With `--any`, no head is trained: the model's generator of any contrast (`four_contrasts.py`) has
one, and its directions are calibrated, from several scans those without PDw.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.research.shipped_model import Examples
from mrbridge.bundle import Bundle, load_bundle, save_bundle
from mrbridge.dataset.simulated import CANONICAL
from mrbridge.evaluation.calibration import auroc_of_worst, ause, gradient_size
from mrbridge.hardware import fast_bfloat16, keep_memory, quick_kernels
from mrbridge.inference.translator import Translator
from mrbridge.kernels import weight_cache
from mrbridge.kernels.optimizer import Adam
from mrbridge.manifest import COVERAGE, BundleManifest, Uncertainty
from mrbridge.metrics import fit_nonnegative
from mrbridge.networks.blocks import init_weights
from mrbridge.networks.unet import ScaleHead, UNet
from mrbridge.phantom.subjects import VariedSubject, varied_subject

HELD_OUT = [f"training_seg_{number}.nii.gz" for number in range(17, 21)]
PEOPLE_SEED = 4_712
WIDTH, RATE = 8, 2e-3


def train_heads(
    bundle: Bundle, examples: Examples, steps: int, names: Sequence[str]
) -> dict[str, ScaleHead]:
    """A scale head for each generator, trained by the Laplace likelihood of its errors."""
    rng = torch.Generator().manual_seed(0)
    networks = {name: bundle.build(name) for name in names}
    heads, optimizers = {}, {}
    for name, network in networks.items():
        assert isinstance(network, UNet)
        heads[name] = ScaleHead(network.feature_channels, WIDTH)
        init_weights(heads[name], rng)
        optimizers[name] = Adam(heads[name].parameters(), RATE, (0.9, 0.999))
    bfloat16 = fast_bfloat16(torch.device("cpu"))
    sums, batches = np.zeros(len(names)), examples.batches(10_000_000)
    for step in range(steps):
        batch = next(batches)
        for side, name in enumerate(names):
            places = (0, 3) if name == "to_target" else (2, 1)
            seen, answer = (batch[:, n : n + 1] for n in places)
            network = networks[name]
            assert isinstance(network, UNet)
            for group in optimizers[name].param_groups:
                group["lr"] = RATE * (1 - step / steps)
            with weight_cache(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                with torch.no_grad():
                    made, features = network.with_features(seen)
                log_scale = heads[name](features, seen, made)
            shown = ((seen > -1) | (answer > -1)).float()
            scale = Uncertainty.LEAST + log_scale.exp()
            loss = ((made - answer).abs() / scale + scale.log()) * shown
            total = loss.sum() / shown.sum().clamp(min=1)
            total.backward()
            optimizers[name].step()
            optimizers[name].zero_grad()
            sums[side] += total.item()
        if (step + 1) % 100 == 0:
            print(json.dumps({"step": step + 1, "nll": (sums / 100).round(3).tolist()}), flush=True)
            sums[:] = 0
    return heads


def people(
    labels: Path, masks: Path, count: int, contrasts: Sequence[str] = ("T1w", "T2w")
) -> list[VariedSubject]:
    """Simulated people of held-out anatomies, three in four with pathology."""
    outlines = tuple(sorted(masks.glob("*.nii.gz")))
    return [
        varied_subject(
            PEOPLE_SEED,
            index,
            contrasts=contrasts,
            labels=labels / HELD_OUT[index * len(HELD_OUT) // count],
            pathology=0.75,
            masks=outlines,
        )
        for index in range(count)
    ]


def parts(
    translator: Translator, subject: VariedSubject, given: Sequence[str], to: str
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Errors, scales, spreads and the gradient of the source, in [-1, 1], of the head's voxels.

    The truth is the scan that a scanner would have made, with its own contrast, noise and bias
    field, after the fit of scale and offset: as real pairs are scored.
    """
    first, *rest = given
    source, scan = subject.seen[first], subject.seen[to]
    also = {contrast: subject.seen[contrast] for contrast in rest}
    direction = translator.bundle.direction(given, to)
    preprocessed = translator.preprocess(source, to)
    stacks = translator.stacks(source, also, preprocessed, first)
    planes = translator.planes_of(source, preprocessed)
    found = translator.computed(stacks, preprocessed, direction, planes, with_error=True)
    made, scale, spread = (
        preprocessed.undo(one, beyond) for one, beyond in zip(found, (-1.0, 0.0, 0.0), strict=True)
    )
    known = translator.bundle.manifest.uncertainty
    scale = scale + np.float32(known.least if known else 0)
    inside = (CANONICAL[to].normalise(subject.canonical[to].voxels) > -0.999) & (source.voxels > 0)
    factor, offset = fit_nonnegative(scan.voxels, CANONICAL[to].restore(made), inside)
    truth = CANONICAL[to].normalise((scan.voxels - offset) / factor)
    slope = gradient_size(source.voxels)
    return tuple(x[inside] for x in (np.abs(made - truth), scale, spread, slope))  # type: ignore


def quality(error: NDArray[Any], width: NDArray[Any]) -> dict[str, float]:
    """AUROC for the worst 5 % of errors, and AUSE, of widths or of anything that ranks errors."""
    found = {"auroc": auroc_of_worst(error, width), "ause": ause(error, width)}
    return {name: round(value, 3) for name, value in found.items()}


def calibrate(
    bundle: Bundle, subjects: list[VariedSubject], directions: Sequence[tuple[Sequence[str], str]]
) -> dict[str, dict[str, float]]:
    """The conformal factor of each direction, in three planes and in one, over `subjects`."""
    known = bundle.manifest.uncertainty
    assert known is not None
    factors: dict[str, dict[str, float]] = {"factor": {}, "factor_in_one_plane": {}}
    for planes, factor in zip(("all", "axial"), factors.values(), strict=True):
        translator = Translator(bundle, planes=planes)
        for given, to in directions:
            direction = bundle.direction(given, to)
            found = [parts(translator, subject, given, to) for subject in subjects]
            # Each person counts the same: the mean over people of the share inside is 90 %.
            ratios = [error / (scale + known.spread * spread) for error, scale, spread, _ in found]
            low, high = 0.1, 100.0
            for _ in range(40):
                middle = (low + high) / 2
                covered = np.mean([(ratio <= middle).mean() for ratio in ratios])
                low, high = (low, middle) if covered > COVERAGE else (middle, high)
            factor[to if direction.settings is None else direction.name] = round(high, 3)
            each = [round(float((ratio <= high).mean()), 3) for ratio in ratios]
            line = {"to": to, "given": list(given), "planes": planes, "factor": round(high, 3)}
            print(json.dumps(line | {"coverage": each} | ablation(found)), flush=True)
    return factors


def subsets(contrasts: Sequence[str], pair: tuple[str, str]) -> list[tuple[Sequence[str], str]]:
    """Each contrast from each of the others, but for the two directions of a pair, and from those
    subsets of them without PDw."""
    return [
        (given, to)
        for to in contrasts
        for count in range(1, len(contrasts))
        for given in combinations([one for one in contrasts if one != to], count)
        if {*given, to} != set(pair) and (count == 1 or "PDw" not in given)
    ]


def ablation(found: Sequence[tuple[NDArray[Any], ...]]) -> dict[str, dict[str, float]]:
    """How well each part of the map, and the gradient of the source, rank the errors."""
    errors, scales, spreads, slopes = (np.concatenate(x) for x in zip(*found, strict=True))
    chosen = np.random.default_rng(0).choice(len(errors), min(len(errors), 2_000_000), False)
    error, scale, spread, slope = (x[chosen] for x in (errors, scales, spreads, slopes))
    line = {"scale": quality(error, scale), "gradient": quality(error, slope)}
    if spread.any():
        line["spread"] = quality(error, spread)
        for weight in (0.5, 1.0, 2.0):
            line[f"scale + {weight} spread"] = quality(error, scale + weight * spread)
    return line


def main() -> None:
    """Train, calibrate, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="shipped")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--masks", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1200, help="0: calibrate the heads it has")
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--any", action="store_true")
    parser.add_argument("--to", choices=("T1w", "T2w"), help="only this direction")
    parser.add_argument("--out", type=Path, help="folder of the bundle; WORK/bundle if absent")
    given = parser.parse_args()
    keep_memory()
    bundle = load_bundle(given.model)
    calibrated_on = f"{given.people} simulated people of anatomies that no training saw"
    out = given.out or given.work / "bundle"
    if given.any:
        more = bundle.manifest.any_contrast
        assert more is not None
        subjects = people(given.labels, given.masks, given.people, more.contrasts)
        pair = bundle.source, bundle.target
        factors = calibrate(bundle, subjects, subsets(more.contrasts, pair))
        update = {"any_contrast": more.model_copy(update=factors)}
        save_bundle(bundle.manifest.model_copy(update=update), bundle.weights, out)
        return
    subjects = people(given.labels, given.masks, given.people)
    directions = {"to_target": bundle.target, "to_source": bundle.source}
    directions = {name: to for name, to in directions.items() if given.to in (None, to)}
    wanted = list(directions.values())
    if not given.steps:
        manifest = with_uncertainty(bundle, calibrated_on, subjects, wanted)
        save_bundle(manifest, bundle.weights, out)
        return
    examples = Examples(
        sorted((given.work / "subjects").glob("*.npy")), seed=1, painted=0.6, mixed=0.15
    )
    heads = train_heads(bundle, examples, given.steps, list(directions))
    weights = dict(bundle.weights)
    for name, head in heads.items():
        weights |= {f"{name}_scale.{k}": v.detach().half() for k, v in head.state_dict().items()}
    manifest = with_uncertainty(Bundle(bundle.manifest, weights), calibrated_on, subjects, wanted)
    save_bundle(manifest, weights, out)


def with_uncertainty(
    bundle: Bundle, calibrated_on: str, subjects: list[VariedSubject], wanted: Sequence[str]
) -> BundleManifest:
    """The manifest of a bundle with scale heads, the wanted directions calibrated."""
    known = bundle.manifest.uncertainty
    unit = dict.fromkeys((bundle.source, bundle.target), 1.0)
    start = Uncertainty(width=WIDTH, factor=unit, calibrated_on=calibrated_on)
    manifest = bundle.manifest.model_copy(update={"uncertainty": start})
    pair = [((bundle.source,), bundle.target), ((bundle.target,), bundle.source)]
    found = calibrate(
        Bundle(manifest, bundle.weights), subjects, [one for one in pair if one[1] in wanted]
    )
    factors = {
        name: ({} if known is None else getattr(known, name) or {}) | factor
        for name, factor in found.items()
    }
    return manifest.model_copy(update={"uncertainty": start.model_copy(update=factors)})


if __name__ == "__main__":
    with quick_kernels(torch.device("cpu")):
        main()
