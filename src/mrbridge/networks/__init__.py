"""Generators and critics: settings, which do not need PyTorch, and the modules of `torch.nn`.

The modules are imported at their first use, so that settings can be read quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mrbridge.networks.settings import (
    GeneratorSettings,
    PatchGANSettings,
    ResNetSettings,
    ResUNetSettings,
    UNetSettings,
)

if TYPE_CHECKING:
    from mrbridge.networks.build import Generator, build_critic, build_generator, count_parameters
    from mrbridge.networks.patchgan import PatchGAN
    from mrbridge.networks.resnet import ResNet
    from mrbridge.networks.resunet import ResUNet
    from mrbridge.networks.unet import UNet

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
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module("mrbridge.networks.build"), name)
