"""Generators and critics: plain modules, and the functions that build them from their settings."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from mrbridge.networks.convolution import unchanged_weights
from mrbridge.networks.norm import init_weights
from mrbridge.networks.patchgan import PatchGAN, PatchGANSettings
from mrbridge.networks.resnet import ResNet, ResNetSettings
from mrbridge.networks.resunet import ResUNet, ResUNetSettings
from mrbridge.networks.unet import UNet, UNetSettings

__all__ = [
    "Generator",
    "GeneratorSettings",
    "PatchGAN",
    "PatchGANSettings",
    "ResNet",
    "ResNetSettings",
    "ResUNet",
    "ResUNetSettings",
    "UNet",
    "UNetSettings",
    "build_critic",
    "build_generator",
    "count_parameters",
    "unchanged_weights",
]

GeneratorSettings = Annotated[
    UNetSettings | ResUNetSettings | ResNetSettings, Field(discriminator="kind")
]
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
    """How many numbers a network learns."""
    return sum(parameter.numel() for parameter in network.parameters())
