"""A training step of the published CycleGAN code and one of mrbridge, in turn.

    python -m benchmarks.speed.versus_cyclegan CHECKOUT [--preset resnet] [--size 256] [--batch 1]
        [--repeats 5] [--out FILE]

CHECKOUT is a folder with the code of https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix.
Prints one JSON line; benchmarks/versus_cyclegan.md says what is equal and what is not.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.harness import OwnProcess, alternate, options, read, report
from benchmarks.speed.material import QUICK_SIZE, samples, settings_of
from benchmarks.speed.train_step import arm
from mrbridge.extensions import Extension
from mrbridge.training.settings import TrainSettings

CPU = torch.device("cpu")
PRESETS = ("unet", "resnet")
"""Those whose networks the published code has as well."""

_GAN_MODES = {"least_squares": "lsgan", "bce": "vanilla"}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = options(__doc__, repeats=5)
    parser.add_argument("checkout", type=Path, help="folder of the published code")
    parser.add_argument("--preset", default="resnet", choices=PRESETS)
    parser.add_argument("--size", type=int, default=256, help="rows and columns: 128 or 256")
    parser.add_argument("--batch", type=int, default=1, help="slices of each contrast in a step")
    given = read(parser, arguments, repeats=1, warm_up=1)
    if not (given.checkout / "models" / "cycle_gan_model.py").is_file():
        parser.error(f"{given.checkout}: there is no models/cycle_gan_model.py in this folder")
    report("versus_cyclegan", given, measure(given))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a step, and the ratio."""
    size = QUICK_SIZE if given.quick else given.size
    settings = settings_of(given.preset, size, given.quick, batch_size=given.batch, seed=given.seed)
    arms = {
        "mrbridge": OwnProcess(partial(arm, "mrbridge", settings, CPU), CPU),
        "published": OwnProcess(partial(published, given.checkout.resolve(), settings), CPU),
    }
    timings = alternate(arms, given.repeats, given.warm_up)
    ratio = timings["published"].median / timings["mrbridge"].median
    return {
        "arms": {name: timings[name].figures() | process.close() for name, process in arms.items()},
        "times_mrbridge": ratio,
    }


def published(checkout: Path, settings: TrainSettings) -> Callable[[], object]:
    """The step of the published code, `CycleGANModel.optimize_parameters`."""
    sys.path.insert(0, str(checkout))
    model = importlib.import_module("models.cycle_gan_model").CycleGANModel(
        published_options(settings)
    )
    drawn = cycle(samples(settings, 8, settings.seed, CPU))

    def step() -> None:
        sample = next(drawn)
        paths = {"A_paths": [""], "B_paths": [""]}
        model.set_input({"A": sample.source, "B": sample.target, **paths})
        model.optimize_parameters()

    return step


def published_options(settings: TrainSettings) -> SimpleNamespace:
    """The options of the published code that correspond to these settings.

    Its own parser is not used, since it imports torchvision.
    """
    generator, critic = settings.networks.generator, settings.networks.critic
    assert not isinstance(generator, Extension)
    assert not isinstance(critic, Extension)
    size, is_unet = settings.networks.image_size, generator.kind == "unet"
    blocks = 6 if size <= 128 else 9
    return SimpleNamespace(
        isTrain=True,
        gpu_ids=[],
        device=CPU,  # of its newer versions
        name="benchmark",
        checkpoints_dir="checkpoints",  # nothing is saved
        preprocess="none",
        direction="AtoB",
        input_nc=1,
        output_nc=1,
        ngf=generator.features,
        ndf=critic.features,
        netG=f"unet_{size}" if is_unet else f"resnet_{blocks}blocks",
        netD="basic",
        n_layers_D=3,
        norm="instance",
        no_dropout=not is_unet,
        init_type="normal",
        init_gain=0.02,
        gan_mode=_GAN_MODES[settings.adversarial],
        pool_size=settings.pool_size,
        lambda_A=settings.cycle_weight,
        lambda_B=settings.cycle_weight,
        lambda_identity=settings.identity_weight / settings.cycle_weight,
        lr=settings.learning_rate,
        beta1=settings.betas[0],
    )


if __name__ == "__main__":
    main()
