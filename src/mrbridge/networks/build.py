"""Networks from their settings."""

from __future__ import annotations

import copy

import torch
from torch import nn

from mrbridge.errors import MrbridgeError, SettingsError
from mrbridge.networks.blocks import init_weights
from mrbridge.networks.patchgan import PatchGAN
from mrbridge.networks.resnet import ResNet
from mrbridge.networks.resunet import ResUNet
from mrbridge.networks.settings import (
    CriticExtension,
    CriticSettings,
    GeneratorExtension,
    GeneratorSettings,
    ResUNetSettings,
    UNetSettings,
)
from mrbridge.networks.unet import UNet
from mrbridge.text import shortened

Generator = nn.Module
"""One of the built-in generators, or the user's own."""


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
    """Build a critic, with weights drawn from `rng`, else uninitialised.

    Raises:
        SettingsError: the user's own network cannot be built.
    """
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
    """The user's own network, which initialises its weights itself.

    Args:
        image_size: of images whose shape it must keep; None: any output will do.
        rng: seeds the initialisation.

    Raises:
        SettingsError: it cannot be built, is not a network, or changes the shape of images.
    """
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
