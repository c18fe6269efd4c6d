"""Networks from their settings."""

from __future__ import annotations

import torch
from torch import nn

from mrbridge.networks.blocks import init_weights
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
    """Build a generator for square images, with weights drawn from `rng`.

    Args:
        settings: which generator.
        image_size: rows and columns in pixels; a ResNet's number of blocks depends on it.
        rng: without it, weights stay uninitialised for the caller to load.
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
    """Build a critic, with weights drawn from `rng`, else uninitialised."""
    network = PatchGAN(settings)
    if rng is not None:
        init_weights(network, rng)
    return network


def count_parameters(network: nn.Module) -> int:
    """The number of trainable parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())
