"""Train the network of the shipped model that takes any of four contrasts and makes the others.

    python -m benchmarks.research.shipped_model --work DIR --labels DIR --masks DIR
        --simulate-only --contrasts T1w T2w PDw FLAIR
    python -m benchmarks.research.four_contrasts --work DIR --model shipped --steps 16000 --out OUT

One U-Net with a channel for each contrast in and out (Chartsias et al. 2018,
doi:10.1109/TMI.2017.2764326, and Sharma and Hamarneh 2020, doi:10.1109/TMI.2019.2945521, give the
idea of any subset as input): absent inputs are 0, the loss counts the absent contrasts only. A
fifth input takes scans whose contrast is unknown; its simulation is a random mixture of the four
(after Iglesias et al. 2021, doi:10.1016/j.neuroimage.2021.118206). A scale head learns the size of
its errors. OUT is the bundle DIR of `--model` with this network added. Call it again to
continue a training that was stopped. `--start` begins with the network of a model.

What is shipped was trained with FLAIR answers that had been simulated with an echo time of 110 ms;
they were brought to 165 ms, the echo time of the canonical FLAIR now, with the T2 that the ratio of
the T2w to the PDw answer gives.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.research.shipped_model import (
    LESION_WEIGHT,
    LIMITS as SIMPLER_LIMITS,
    RATE,
    SIZE,
    STRUCTURE,
    Examples,
    Training,
    shown,
    structure_loss,
)
from mrbridge.bundle import load_bundle, save_bundle
from mrbridge.dataset.simulated import CANONICAL
from mrbridge.hardware import fast_bfloat16, keep_memory, quick_kernels
from mrbridge.kernels import weight_cache
from mrbridge.manifest import AnyContrast, Uncertainty
from mrbridge.networks.blocks import init_weights
from mrbridge.networks.build import build_generator
from mrbridge.networks.settings import UNetSettings
from mrbridge.networks.unet import ScaleHead, UNet
from mrbridge.preprocessing.intensity import IntensityNormalisation
from mrbridge.volume import CONTRASTS

GENERATOR = UNetSettings(
    levels=6,
    features=32,
    max_features=192,
    dropout=0.0,
    dropout_blocks=0,
    refine=16,
    inputs=len(CONTRASTS) + 1,
    outputs=len(CONTRASTS),
)
WIDTH = 8  # channels of the scale head
UNKNOWN = 0.04  # share of examples whose only input is of no known contrast
HOW_MANY = (0.55, 0.35, 0.1)  # shares of the others with one, two and three inputs
T2W, FLUID = [CONTRASTS.index("T2w")], 0.6  # the channel; the least level of fluid in it
HOW_OFTEN = np.array([0.33, 0.4, 0.07, 0.2])  # of T1w, T2w, PDw and FLAIR as the first of them


LIMITS = (
    *SIMPLER_LIMITS,
    "FLAIR: most lesions of white matter are lost or too faint, also from T2w; fluid may be grey "
    "where only T2w is given. T1w and T2w together are better than either.",
    "PDw was never scored on real scans.",
)


def inputs_of(seen: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Random subsets of the contrasts as the input of the network.

    Args:
        seen: (batch, contrasts, rows, columns), range [-1, 1].
        rng: draws.

    Returns:
        The input, (batch, contrasts + 1, rows, columns), 0 where a contrast is absent; and which
        contrasts count in the loss, (batch, contrasts, 1, 1).
    """
    count, contrasts, rows, columns = seen.shape
    given = torch.zeros(count, contrasts + 1, rows, columns)
    wanted = torch.ones(count, contrasts, 1, 1)
    for place in range(count):
        if rng.random() < UNKNOWN:
            given[place, contrasts] = mixture(seen[place], rng)
            continue
        order = rng.choice(contrasts, contrasts, replace=False, p=HOW_OFTEN / HOW_OFTEN.sum())
        for one in order[: 1 + rng.choice(len(HOW_MANY), p=HOW_MANY)]:
            given[place, one] = seen[place, one]
            wanted[place, one] = 0
    return given, wanted


def mixture(seen: Tensor, rng: np.random.Generator) -> Tensor:
    """A contrast that no sequence has: a random sum of the others, the background black.

    Args:
        seen: (contrasts, rows, columns), range [-1, 1].
        rng: draws.
    """
    weights = torch.from_numpy(rng.normal(size=len(seen)).astype(np.float32))
    image = (weights[:, None, None] * seen).sum(dim=0)
    outside = (seen <= -1).all(dim=0)
    inside = image[~outside]
    if inside.numel() < 100:
        return torch.full_like(image, -1)
    low, high = torch.quantile(
        inside[:: max(1, inside.numel() // 5000)], torch.tensor([0.01, 0.99])
    )
    scaled = ((image - low) / (high - low).clamp(min=1e-3) * 1.9 - 0.95).clamp(-0.99, 1)
    return torch.where(outside, torch.tensor(-1.0), scaled)


def train(given: argparse.Namespace, examples: Examples) -> list[torch.nn.Module]:
    """The averaged network and its scale head."""
    rng = torch.Generator().manual_seed(given.seed)
    network = build_generator(GENERATOR, SIZE, rng)
    assert isinstance(network, UNet)
    head = ScaleHead(network.feature_channels, WIDTH, GENERATOR.inputs, GENERATOR.outputs)
    init_weights(head, rng)
    if given.start:
        start = load_bundle(given.start)
        for name, part in (("to_any", network), ("to_any_scale", head)):
            own = start.generator_weights(name)
            part.load_state_dict({key: value.float() for key, value in own.items()})
    training = Training([network, head], given, given.work / "four.ckpt")
    bfloat16 = fast_bfloat16(torch.device("cpu"))
    batches = examples.batches(training.step)
    while training.step < given.steps:
        batch = next(batches)
        training.begin()
        seen, answer, lesion = batch[:, :-1:2], batch[:, 1:-1:2], batch[:, -1:]
        image, wanted = inputs_of(seen, np.random.default_rng([given.seed, training.step, 9]))
        with weight_cache(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            made, features = network.with_features(image)
            log_scale = head(features, image, made)
        weight = wanted
        # A lesion as bright as fluid in T2w differs from it by its place only: if errors in it
        # counted more, wide ventricles would become lesions.
        lesion = torch.where(answer[:, T2W] < FLUID, lesion, -1.0)
        if training.step > given.lesions_from:
            weight = wanted * (1 + LESION_WEIGHT / 2 * (lesion + 1))
        error = (made - answer).abs()
        counted_error = error + given.squares * error**2
        counts = wanted.mean(dim=(0, 2, 3)).clamp(min=0.1)
        difference = (weight * counted_error).mean(dim=(0, 2, 3)) / counts  # (contrasts,)
        # What is given does not count: it becomes its own answer.
        structure = structure_loss(
            torch.where(wanted > 0, made, answer).flatten(0, 1)[:, None],
            answer.flatten(0, 1)[:, None],
        )
        scale = Uncertainty.LEAST + log_scale.exp()
        counted = wanted * ((answer > -1) | (seen > -1).any(dim=1, keepdim=True))
        nll = ((error.detach() / scale + scale.log()) * counted).sum() / counted.sum().clamp(min=1)
        (difference.mean() + STRUCTURE * structure + nll).backward()
        for index in range(2):
            training.update(index)
        losses = {"l1": difference.mean(), "ssim": structure, "nll": nll}
        losses |= dict(zip(CONTRASTS, difference, strict=True))
        training.end({name: loss.item() for name, loss in losses.items()})
    return training.means


def _range(contrast: str) -> IntensityNormalisation:
    """The range in which a contrast is written; FLAIR has no knee, or tissue would be too dark."""
    found = shown(CANONICAL[contrast])
    return found.model_copy(update={"knee": None}) if contrast == "FLAIR" else found


def main() -> None:
    """Train, and write the bundle."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default="shipped")
    parser.add_argument("--steps", type=int, default=16_000)
    parser.add_argument("--schedule", type=int, default=16_000)
    parser.add_argument("--lesions-from", type=int, default=4_000)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--start", help="a model whose third generator the training begins with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--painted", type=float, default=0.6, help="share of slices with lesions painted in 2D"
    )
    parser.add_argument(
        "--squares", type=float, default=0.0, help="how much squared errors count next to absolute"
    )
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    keep_memory()
    paths = sorted((given.work / "subjects").glob("*.npy"))
    examples = Examples(paths, given.seed, given.painted, mixed=0.15, contrasts=CONTRASTS)
    network, head = train(given, examples)
    bundle = load_bundle(given.model)
    weights = dict(bundle.weights)
    for name, part in (("to_any", network), ("to_any_scale", head)):
        weights |= {f"{name}.{k}": v.detach().half() for k, v in part.state_dict().items()}
    manifest = bundle.manifest.model_copy(
        update={
            "any_contrast": AnyContrast(contrasts=CONTRASTS, generator=GENERATOR, width=WIDTH),
            "typical": {c: _range(c) for c in CONTRASTS},
            "trained": bundle.manifest.trained
            | {"steps of the third generator": f"{given.steps:,}"},
            "limits": LIMITS,
        }
    )
    save_bundle(manifest, weights, given.out)


if __name__ == "__main__":
    with quick_kernels(torch.device("cpu")):
        main()
