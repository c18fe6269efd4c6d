"""Scores on held-out slices, by the same functions as evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrbridge import metrics, models
from mrbridge.bundle import load_bundle, read_manifest
from mrbridge.data.dataset import HeldOut
from mrbridge.errors import BundleError
from mrbridge.networks import build_generator
from mrbridge.training.cyclegan import CycleGAN

Stack = NDArray[np.float32]
FOREGROUND = 0.05
"""Brightness, in the range of 2 above the background, from which a pixel counts as anatomy."""


@dataclass(frozen=True)
class Syntheses:
    """What the generators to be shipped make of the held-out slices; (slices, rows, columns) each.

    Ranges are [-1, 1].
    """

    source: Stack
    target: Stack
    to_target: Stack
    to_source: Stack
    back_to_source: Stack
    back_to_target: Stack
    same_source: Stack
    same_target: Stack


def synthesise(model: CycleGAN, slices: HeldOut) -> Syntheses:
    """Run what would be shipped over the held-out slices, in the training's precision."""
    run = partial(_run, model)
    to_target, to_source = model.shipped()
    made_target, made_source = run(to_target, slices.source), run(to_source, slices.target)
    stacks = [
        slices.source,
        slices.target,
        made_target,
        made_source,
        run(to_source, made_target),
        run(to_target, made_source),
        run(to_source, slices.source),
        run(to_target, slices.target),
    ]
    return Syntheses(*(cast(Stack, stack[:, 0].numpy()) for stack in stacks))


def shipped_syntheses(
    model: CycleGAN, source: str, target: str, slices: HeldOut
) -> tuple[Stack, Stack] | None:
    """What the model that comes with mrbridge makes of the held-out slices.

    Args:
        model: whose device and precision are taken.
        source, target: the contrasts of the training.
        slices: what to translate.

    Returns:
        Synthetic targets and sources, each (slices, rows, columns), range [-1, 1]; None where no
        model comes along, or not for these contrasts or this size of images.
    """
    try:
        manifest = read_manifest(models.shipped())
        networks = manifest.networks
        with torch.device("meta"):  # only its shape is asked for
            outline = build_generator(networks.generator, networks.image_size)
        fits = slices.source.shape[-1] % outline.multiple == 0
        if {manifest.source, manifest.target} != {source, target} or not fits:
            return None
        bundle = load_bundle(models.shipped())
        generators = [bundle.build(bundle.generator_that_makes(c)) for c in (target, source)]
    except BundleError:  # a damaged one is none either: it is not what the training is about
        return None
    made_target, made_source = (
        _run(model, generator.to(model.device), images)[:, 0].numpy()
        for generator, images in zip(generators, (slices.source, slices.target), strict=True)
    )
    return made_target, made_source


@torch.no_grad()
def _run(model: CycleGAN, network: torch.nn.Module, images: Tensor, batch: int = 8) -> Tensor:
    with model.trainer.precision_plugin.forward_context():
        parts = [network(part.to(model.device)).cpu() for part in images.split(batch)]
    return torch.cat(parts).float()


def validation_scores(made: Syntheses, paired: bool) -> dict[str, float]:
    """Cycle PSNR and SSIM, sliced Wasserstein distances and, of pairs, the `fit` scores."""
    told = {
        "swd_to_target": metrics.sliced_wasserstein(made.to_target, made.target, directions=128),
        "swd_to_source": metrics.sliced_wasserstein(made.to_source, made.source, directions=128),
    }
    for name, image, back in (
        ("source", made.source, made.back_to_source),
        ("target", made.target, made.back_to_target),
    ):
        mask = anatomy(image)
        told[f"cycle_psnr_{name}"] = metrics.psnr(image, back, mask, 2.0)
        told[f"cycle_ssim_{name}"] = _mean_ssim(image, back, mask, 2.0)
    if paired:
        for name, real, synthetic in (
            ("target", made.target, made.to_target),
            ("source", made.source, made.to_source),
        ):
            told[f"psnr_{name}"], told[f"ssim_{name}"] = paired_scores(real, synthetic)
    return told


def criterion(told: dict[str, float], anchored: bool) -> float:
    """The one number, larger is better, by which a training's best state is chosen.

    It needs no pairs: who trains on unpaired scans has none, and where held-out slices happen to be
    pairs, choosing by them would make their scores too good. How it follows the scores of pairs:
    docs/explanation/quality.md.

    Args:
        told: what `validation_scores` gives.
        anchored: whether what is shipped keeps a share of the weights that training began with.
            Then there is nothing to gain by hiding the image in its translation, and a slice there
            and back compares nobody with somebody else: the PSNR of the cycle, in dB. Else the
            cycle may come at the cost of the translation, and the sliced Wasserstein distance to
            real slices decides, though it also tells one person's anatomy from another's.
    """
    if anchored:
        return 0.5 * (told["cycle_psnr_source"] + told["cycle_psnr_target"])
    return -0.5 * (told["swd_to_target"] + told["swd_to_source"])


def paired_scores(real: Stack, synthetic: Stack) -> tuple[float, float]:
    """PSNR and SSIM of kind `fit` (DESIGN, section 7), with one fit for all slices."""
    mask = anatomy(real)
    truth = metrics.scaled(real + 1, mask)
    scale, offset = metrics.fit_nonnegative(truth, synthetic, mask)
    fitted = scale * synthetic + offset
    return metrics.psnr(truth, fitted, mask, 1.0), _mean_ssim(truth, fitted, mask, 1.0)


def _mean_ssim(real: Stack, synthetic: Stack, mask: NDArray[np.bool_], data_range: float) -> float:
    """Slice by slice: held-out slices are not neighbours, so they have no third dimension."""
    each = [
        metrics.ssim(a, b, inside, data_range)
        for a, b, inside in zip(real, synthetic, mask, strict=True)
        if inside.any()
    ]
    return float(np.mean(each))


def anatomy(image: Stack) -> NDArray[np.bool_]:
    """Which pixels of images in [-1, 1] show something; any shape."""
    return image > -1 + FOREGROUND
