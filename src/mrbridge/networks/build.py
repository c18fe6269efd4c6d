"""Networks from their settings."""

from __future__ import annotations

import torch
from torch import nn

from mrbridge.networks.norm import init_weights
from mrbridge.networks.patchgan import PatchGAN
from mrbridge.networks.resnet import ResNet
from mrbridge.networks.resunet import ResUNet
from mrbridge.networks.settings import (
    GeneratorSettings,
    PatchGANSettings,
    ResUNetSettings,
    UNetSettings,
)
from mrbridge.networks.unet import UNet

Generator = UNet | ResUNet | ResNet


def build_generator(
    settings: GeneratorSettings, image_size: int, rng: torch.Generator | None = None
) -> Generator:
    """Build a generator for square images of `image_size`, its weights drawn from `rng`.

    Without `rng` the weights are left for the caller to load.
    """
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


def build_critic(settings: PatchGANSettings, rng: torch.Generator | None = None) -> PatchGAN:
    """Build a critic, its weights drawn from `rng`."""
    network = PatchGAN(settings)
    if rng is not None:
        init_weights(network, rng)
    return network


def count_parameters(network: nn.Module) -> int:
    """The number of trainable parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())
