"""Synthetic images of the validation slices, and their scores by the functions of evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrbridge import metrics, models
from mrbridge.bundle import load_bundle, read_manifest
from mrbridge.dataset.sampling import HeldOut
from mrbridge.errors import BundleError
from mrbridge.manifest import COVERAGE, Uncertainty
from mrbridge.networks.unet import ScaleHead, UNet
from mrbridge.reports import counted
from mrbridge.training.model import TranslationModel

Stack = NDArray[np.float32]
"""(slices, rows, columns), range [-1, 1]."""

FOREGROUND = 0.05
"""Intensity above the background, in the range of 2, from which a pixel counts as anatomy."""

_BATCH = 8


@dataclass(frozen=True)
class ValidationImages:
    """The validation slices and what the model makes of them, each (slices, rows, columns)."""

    source: Stack
    target: Stack
    to_target: Stack
    to_source: Stack
    back_to_source: Stack
    back_to_target: Stack
    same_source: Stack
    same_target: Stack


def synthesise(model: TranslationModel, slices: HeldOut) -> ValidationImages:
    """Translate the validation slices there, back, and into their own contrast."""
    to_target, to_source = model.inference_generators()
    target, source = _run(model, to_target, slices.source), _run(model, to_source, slices.target)
    tensors = [  # each (slices, 1, rows, columns), in the order of `ValidationImages`
        slices.source,
        slices.target,
        target,
        source,
        _run(model, to_source, target),
        _run(model, to_target, source),
        _run(model, to_source, slices.source),
        _run(model, to_target, slices.target),
    ]
    return ValidationImages(*(tensor[:, 0].numpy() for tensor in tensors))


def shipped_translations(
    model: TranslationModel, source: str, target: str, slices: HeldOut
) -> tuple[Stack, Stack] | None:
    """Translate the validation slices with the shipped model, on the device of `model` and in its
    precision. Synthetic targets and sources; None if there is no shipped model for these contrasts
    and this image size."""
    try:
        manifest = read_manifest(models.shipped())
        fits = slices.source.shape[-1] % manifest.networks.generator.multiple == 0
        if {manifest.source, manifest.target} != {source, target} or not fits:
            return None
        bundle = load_bundle(models.shipped())
        generators = [bundle.build(bundle.generator_that_makes(c)) for c in (target, source)]
    except BundleError:  # a damaged one must not stop a training that does not start from it
        return None
    to_target, to_source = (
        _run(model, generator.to(model.device), images)[:, 0].numpy()
        for generator, images in zip(generators, (slices.source, slices.target), strict=True)
    )
    return to_target, to_source


@torch.no_grad()
def _run(model: TranslationModel, network: torch.nn.Module, images: Tensor) -> Tensor:
    with model.autocast():
        parts = [network(part.to(model.device)).cpu() for part in images.split(_BATCH)]
    return torch.cat(parts).float()


@torch.no_grad()
def calibrate(
    model: TranslationModel, slices: HeldOut, contrasts: tuple[str, str]
) -> Uncertainty | None:
    """The uncertainty of the model, calibrated on held-out pairs of slices.

    The conformal factor of Angelopoulos et al. 2022 (arXiv:2202.05265): 90 % of the errors of the
    anatomy's pixels are smaller than the factor times the scale that the initial model's heads
    predict. A volume in three planes has smaller errors than a slice.

    Args:
        model: with the scale heads of its initial model.

    Returns:
        None if there are no held-out pairs, or no heads.
    """
    if not (slices.paired and slices.held_out and len(model.scale_heads) == 2):
        return None
    factor, width = {}, 0
    for name, contrast, network, seen, real in zip(
        ("to_target", "to_source"),
        contrasts[::-1],
        model.inference_generators(),
        (slices.source, slices.target),
        (slices.target, slices.source),
        strict=True,
    ):
        head = model.scale_heads[name]
        assert isinstance(network, UNet)
        assert isinstance(head, ScaleHead)
        width = head.width
        ratios = []
        for images, truth in zip(seen.split(_BATCH), real.split(_BATCH), strict=True):
            images = images.to(model.device)
            with model.autocast():
                made, features = network.with_features(images)
                # (slices, 1, rows, columns), like `made` and `truth`
                scale = Uncertainty.LEAST + head(features, images, made).exp()
            ratio = (made.cpu().float() - truth).abs() / scale.cpu().float()
            ratios.append(ratio[truth > -1 + FOREGROUND])
        inside = torch.cat(ratios)  # (pixels of anatomy,)
        if not inside.numel():
            return None
        factor[contrast] = float(np.clip(np.quantile(inside.numpy(), COVERAGE), 0.01, 1000))
    pairs = counted(len(slices.source), "held-out pair of slices", "held-out pairs of slices")
    return Uncertainty(width=width, factor=factor, calibrated_on=pairs)


def validation_scores(synthetic: ValidationImages, paired: bool) -> dict[str, float]:
    """Sliced Wasserstein distances, cycle PSNR and SSIM and, if there are pairs, PSNR and SSIM."""
    contrasts = (
        ("target", synthetic.target, synthetic.to_target, synthetic.back_to_target),
        ("source", synthetic.source, synthetic.to_source, synthetic.back_to_source),
    )
    scores = {
        f"swd_to_{name}": metrics.sliced_wasserstein(made, real, directions=128)
        for name, real, made, _ in contrasts
    }
    for name, real, _, back in reversed(contrasts):
        mask = anatomy(real)
        scores[f"cycle_psnr_{name}"] = metrics.psnr(real, back, mask, 2.0)
        scores[f"cycle_ssim_{name}"] = _mean_ssim(real, back, mask, 2.0)
    if paired:
        for name, real, made, _ in contrasts:
            scores[f"psnr_{name}"], scores[f"ssim_{name}"] = paired_scores(real, made)
    return scores


def criterion(scores: dict[str, float], anchored: bool) -> float:
    """The number, larger is better, that decides which state of a training is the best.

    It needs no pairs: unpaired data have none, and where validation slices happen to be pairs,
    choosing by them would bias their scores. How well it follows the scores of pairs:
    docs/explanation/quality.md.

    Args:
        scores: what `validation_scores` returns.
        anchored: whether the validated weights include a share of the initial model (WiSE-FT).
            Then the generators cannot hide the image in its translation, and the cycle compares a
            subject with itself: the cycle PSNR in dB. Otherwise the sliced Wasserstein distance to
            real slices, though it also depends on the subjects' anatomy.
    """
    if anchored:
        return 0.5 * (scores["cycle_psnr_source"] + scores["cycle_psnr_target"])
    return -0.5 * (scores["swd_to_target"] + scores["swd_to_source"])


def paired_scores(real: Stack, synthetic: Stack) -> tuple[float, float]:
    """PSNR and SSIM of kind `fit` (docs/explanation/scoring.md), with one fit for all slices."""
    mask = anatomy(real)
    truth = metrics.scaled(real + 1, mask)
    scale, offset = metrics.fit_nonnegative(truth, synthetic, mask)
    fitted = scale * synthetic + offset
    return metrics.psnr(truth, fitted, mask, 1.0), _mean_ssim(truth, fitted, mask, 1.0)


def _mean_ssim(real: Stack, other: Stack, mask: NDArray[np.bool_], data_range: float) -> float:
    """Slice by slice, since validation slices are not neighbours."""
    values = [
        metrics.ssim(a, b, inside, data_range)
        for a, b, inside in zip(real, other, mask, strict=True)
        if inside.any()
    ]
    return float(np.mean(values))


def anatomy(image: Stack) -> NDArray[np.bool_]:
    """Mask of the pixels that show anatomy."""
    return image > -1 + FOREGROUND
