"""Networks from their settings, and averages of the weights of networks."""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import nn

from mrbridge.errors import MrbridgeError, SettingsError
from mrbridge.networks.blocks import init_weights
from mrbridge.networks.cyclegan import PatchGAN, ResNet
from mrbridge.networks.settings import (
    CriticExtension,
    CriticSettings,
    GeneratorExtension,
    GeneratorSettings,
    ResUNetSettings,
    UNetSettings,
)
from mrbridge.networks.unet import ResUNet, UNet
from mrbridge.text import shortened

Generator = nn.Module
"""One of the built-in generators, or the user's own."""

M = TypeVar("M", bound=nn.Module)

_EVERY_STEP_UNTIL = 40
_INTERVAL = 4
"""After the first steps the EMA is updated only every fourth step: an update reads and writes all
weights, which takes as long as it does in the optimiser."""


def build_generator(
    settings: GeneratorSettings, image_size: int, rng: torch.Generator | None = None
) -> Generator:
    """Build a generator for square images, with weights drawn from `rng`.

    Args:
        image_size: rows and columns in pixels; a ResNet's number of blocks depends on it.
        rng: without it, weights stay uninitialised for the caller to load.

    Raises:
        SettingsError: the user's own network cannot be built, or changes the shape of images.
    """
    if isinstance(settings, GeneratorExtension):
        return _own(settings, image_size, rng)
    network: Generator
    if isinstance(settings, UNetSettings):
        network = UNet(settings)
    elif isinstance(settings, ResUNetSettings):
        network = ResUNet(settings)
    else:
        network = ResNet(settings, image_size)
    if rng is not None:
        init_weights(network, rng)
    return network


def build_critic(settings: CriticSettings, rng: torch.Generator | None = None) -> nn.Module:
    """Build a critic, with weights drawn from `rng`, else uninitialised; SettingsError if the
    user's own network cannot be built."""
    if isinstance(settings, CriticExtension):
        return _own(settings, None, rng)
    network = PatchGAN(settings)
    if rng is not None:
        init_weights(network, rng)
    return network


def _own(
    settings: GeneratorExtension | CriticExtension,
    image_size: int | None,
    rng: torch.Generator | None,
) -> nn.Module:
    """The user's own network, which initialises its weights itself, seeded by `rng`. It must keep
    the shape of images of `image_size`, unless that is None. SettingsError if it does not, cannot
    be built, or is not a network."""
    with torch.random.fork_rng(devices=[]):
        if rng is not None:
            torch.manual_seed(int(torch.randint(2**62, (), generator=rng)))
        try:
            network = settings.resolve()(**settings.options)
            if not isinstance(network, nn.Module):
                raise TypeError(f"it gives a {type(network).__name__}, not a torch.nn.Module")
            if rng is not None and image_size is not None:
                image = torch.zeros(1, 1, image_size, image_size)
                with torch.no_grad():
                    made = copy.deepcopy(network).eval()(image)
                if made.shape != image.shape:
                    raise ValueError(f"{tuple(image.shape)} becomes {tuple(made.shape)}")
        except MrbridgeError:
            raise
        except Exception as error:  # of any code
            raise SettingsError(
                f"'{settings.kind}' cannot be used as a network ({type(error).__name__}: "
                f"{shortened(str(error), 300)})",
                remedy="Correct its code or its settings.",
            ) from error
    return network


def count_parameters(network: nn.Module) -> int:
    """The number of trainable parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def averaged_copy(network: M) -> M:
    """A copy in evaluation mode that needs no gradients."""
    return copy.deepcopy(network).eval().requires_grad_(False)


@torch.no_grad()
def update_ema(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Update the EMA of a network's weights after optimiser step `step`, counted from 1.

    As Yazici et al. 2019 (arXiv:1806.04498). The decay is (1 + step) / (10 + step) while that is
    lower, so that the untrained weights are soon forgotten. From step 40 on, only every fourth step
    updates, with the product of the four decays. Buffers are copied.
    """
    if step > _EVERY_STEP_UNTIL and step % _INTERVAL:
        return
    steps = range(step - _INTERVAL + 1, step + 1) if step > _EVERY_STEP_UNTIL else [step]
    kept = math.prod(min(decay, (1 + number) / (10 + number)) for number in steps)
    for mean, weight in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(weight, 1 - kept)
    for average_buffer, buffer in zip(average.buffers(), network.buffers(), strict=True):
        average_buffer.copy_(buffer)


@torch.no_grad()
def interpolated(initial: M, final: nn.Module, weight: float) -> M:
    """A network whose weights are `weight` times `initial`'s plus the rest times `final`'s.

    The mean of a broadly trained network and its fine-tuned copy keeps most of what both know:
    WiSE-FT, Wortsman et al. 2022 (arXiv:2109.01903). Integer buffers are `final`'s.
    """
    mixed = averaged_copy(initial)
    tensors = mixed.state_dict()
    for name, value in final.state_dict().items():
        if value.is_floating_point():
            tensors[name].lerp_(value, 1 - weight)
        else:
            tensors[name].copy_(value)
    return mixed
