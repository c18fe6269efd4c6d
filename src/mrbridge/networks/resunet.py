"""The residual U-Net generator of two of the project's ancestors."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mrbridge.networks.convolution import (
    Convolution,
    DoublingConvolution,
    HalvingConvolution,
)
from mrbridge.networks.norm import norm_and_activation
from mrbridge.networks.precision import precisely
from mrbridge.networks.settings import ResUNetSettings
from mrbridge.networks.unet import check_multiple

_FINE_LEVELS = 3
"""Levels of the encoder, from the full size on, whose rounding to bfloat16 shows in the image."""


class ResUNet(nn.Module):
    """Down blocks, residual blocks that concatenate, up blocks with skips, tanh.

    A down block is a strided convolution, norm and leaky ReLU; a residual block is two convolutions
    whose second output is concatenated with the block's input instead of added to it (so its width
    grows, as in a DenseNet: Huang et al. 2017, arXiv:1608.06993); an up block is a transposed
    convolution, norm and ReLU, whose output is concatenated with the encoder's map of its size (the
    U-Net's skip: Ronneberger et al. 2015, arXiv:1505.04597).
    """

    def __init__(self, settings: ResUNetSettings) -> None:
        super().__init__()
        self.settings = settings
        norm = settings.norm
        widths = [
            min(settings.features * 2**level, settings.max_features)
            for level in range(settings.levels)
        ]
        self.down = nn.ModuleList()
        channels = 1
        for width in widths:
            self.down.append(_down_block(channels, width, norm))
            channels = width
        self.residual = nn.ModuleList()
        for _ in range(settings.blocks):
            self.residual.append(_ConcatenatingBlock(channels, widths[-1], norm))
            channels += widths[-1]
        self.up = nn.ModuleList()
        for width in reversed(widths[:-1]):
            self.up.append(_up_block(channels, width, norm))
            channels = 2 * width
        self.last = DoublingConvolution(channels, 1, bias=True)

    @property
    def multiple(self) -> int:
        """Rows and columns must be multiples of this."""
        return self.settings.multiple

    def forward(
        self, x: Float[Tensor, "batch 1 rows columns"]
    ) -> Float[Tensor, "batch 1 rows columns"]:
        """Translate images.

        Args:
            x: shape (batch, 1, rows, columns), range [-1, 1].

        Returns:
            The same shape and range.

        Raises:
            SizeError: rows or columns are not multiples of 2**levels.
        """
        check_multiple(x, self.multiple, f"a residual U-Net of {self.settings.levels} levels")
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = precisely(block, x) if level < _FINE_LEVELS else block(x)
            skips.append(x)
        skips.pop()
        for block in self.residual:
            x = block(x)
        for block in self.up:
            x = block(x)
            x = torch.cat([x, skips.pop().to(x.dtype)], dim=1)
        return torch.tanh(precisely(self.last, x).float())


class _ConcatenatingBlock(nn.Module):
    def __init__(self, channels: int, width: int, norm: str) -> None:
        super().__init__()
        bias = norm == "none"
        self.layers = nn.Sequential(
            Convolution(channels, width, 3, bias),
            *norm_and_activation(norm, width, 0.0),
            Convolution(width, width, 3, bias),
            norm_and_activation(norm, width, 1.0)[0],
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.layers(x), x], dim=1)


def _down_block(channels: int, width: int, norm: str) -> nn.Sequential:
    return nn.Sequential(
        HalvingConvolution(channels, width, bias=norm == "none"),
        *norm_and_activation(norm, width, 0.2),
    )


def _up_block(channels: int, width: int, norm: str) -> nn.Sequential:
    return nn.Sequential(
        DoublingConvolution(channels, width, bias=norm == "none"),
        *norm_and_activation(norm, width, 0.0),
    )
