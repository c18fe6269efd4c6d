"""Generators and critics: plain modules, their settings, and the functions that build them.

PyTorch is imported at the first use of a network, so that `networks.settings` is quick to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_MODULES = {
    "Generator": "mrbridge.networks.build",
    "build_critic": "mrbridge.networks.build",
    "build_generator": "mrbridge.networks.build",
    "count_parameters": "mrbridge.networks.build",
    "unchanged_weights": "mrbridge.networks.convolution",
    "PatchGAN": "mrbridge.networks.patchgan",
    "ResNet": "mrbridge.networks.resnet",
    "ResUNet": "mrbridge.networks.resunet",
    "UNet": "mrbridge.networks.unet",
    "GeneratorSettings": "mrbridge.networks.settings",
    "PatchGANSettings": "mrbridge.networks.settings",
    "ResNetSettings": "mrbridge.networks.settings",
    "ResUNetSettings": "mrbridge.networks.settings",
    "UNetSettings": "mrbridge.networks.settings",
}

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

if TYPE_CHECKING:
    from mrbridge.networks.build import (
        Generator,
        build_critic,
        build_generator,
        count_parameters,
    )
    from mrbridge.networks.convolution import unchanged_weights
    from mrbridge.networks.patchgan import PatchGAN
    from mrbridge.networks.resnet import ResNet
    from mrbridge.networks.resunet import ResUNet
    from mrbridge.networks.settings import (
        GeneratorSettings,
        PatchGANSettings,
        ResNetSettings,
        ResUNetSettings,
        UNetSettings,
    )
    from mrbridge.networks.unet import UNet


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'mrbridge.networks' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name]), name)
