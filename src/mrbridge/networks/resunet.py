"""The residual U-Net generator."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mrbridge.kernels import Conv2d, ConvTranspose2d
from mrbridge.networks.blocks import (
    check_multiple,
    down_block,
    in_float32,
    norm_and_activation,
    up_block,
)
from mrbridge.networks.settings import Norm, ResUNetSettings

_FLOAT32_LEVELS = 3
"""Levels of the encoder, from the full size on, whose rounding to bfloat16 shows in the image."""


class ResUNet(nn.Module):
    """Down blocks, residual blocks that concatenate, up blocks with skip connections, tanh.

    A down block is a strided convolution, norm and leaky ReLU. A residual block is two convolutions
    whose output is concatenated with the block's input instead of added to it (so its width grows,
    as in a DenseNet: Huang et al. 2017, arXiv:1608.06993). An up block is a transposed convolution,
    norm and ReLU, whose output is concatenated with the encoder's features of its size (the skip
    connection of the U-Net: Ronneberger et al. 2015, arXiv:1505.04597).
    """

    def __init__(self, settings: ResUNetSettings) -> None:
        super().__init__()
        self.settings = settings
        norm, bias = settings.norm, settings.norm == "none"
        widths = [
            min(settings.features * 2**level, settings.max_features)
            for level in range(settings.levels)
        ]
        self.down = nn.ModuleList()
        channels = 1
        for width in widths:
            self.down.append(down_block(channels, width, norm, bias))
            channels = width
        self.residual = nn.ModuleList()
        for _ in range(settings.blocks):
            self.residual.append(_ConcatenatingBlock(channels, widths[-1], norm))
            channels += widths[-1]
        self.up = nn.ModuleList()
        for width in reversed(widths[:-1]):
            self.up.append(up_block(channels, width, norm, bias))
            channels = 2 * width  # with the skip connection
        self.last = ConvTranspose2d(channels, 1)

    def forward(
        self, x: Float[Tensor, "batch 1 rows columns"]
    ) -> Float[Tensor, "batch 1 rows columns"]:
        """Translate images.

        Args:
            x: shape (batch, 1, rows, columns), range [-1, 1].

        Returns:
            The same shape and range, float32.

        Raises:
            SizeError: rows or columns are not multiples of 2**levels.
        """
        settings = self.settings
        check_multiple(x, settings.multiple, f"a residual U-Net of {settings.levels} levels")
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = in_float32(block, x) if level < _FLOAT32_LEVELS else block(x)
            skips.append(x)  # (batch, width, rows / 2^(level + 1), columns / 2^(level + 1))
        skips.pop()
        for block in self.residual:
            x = block(x)  # (batch, channels + width, the same rows and columns)
        for block in self.up:
            x = block(x)
            x = torch.cat([x, skips.pop().to(x.dtype)], dim=1)  # (batch, 2 width, …)
        return torch.tanh(in_float32(self.last, x).float())


class _ConcatenatingBlock(nn.Module):
    def __init__(self, channels: int, width: int, norm: Norm) -> None:
        super().__init__()
        bias = norm == "none"
        self.layers = nn.Sequential(
            Conv2d(channels, width, 3, padding=1, bias=bias),
            *norm_and_activation(norm, width, 0.0),
            Conv2d(width, width, 3, padding=1, bias=bias),
            norm_and_activation(norm, width, 1.0)[0],
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.layers(x), x], dim=1)
