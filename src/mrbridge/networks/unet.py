"""The U-Net generator of pix2pix and of two of the project's ancestors."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mrbridge.errors import SizeError
from mrbridge.networks.convolution import Convolution, DoublingConvolution, HalvingConvolution
from mrbridge.networks.norm import norm_and_activation
from mrbridge.networks.precision import precisely
from mrbridge.networks.settings import UNetSettings

_FINE_LEVELS = 4
"""Levels of the encoder, from the full size on, whose rounding to bfloat16 shows in the image."""


class UNet(nn.Module):
    """U-Net with 4x4 kernels, strided convolutions and skip connections.

    Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial Networks"
    (arXiv:1611.07004), section 6.1.1: encoder C64-C128-C256-C512-C512-C512-C512-C512, decoder in
    mirror, leaky ReLU of slope 0.2 down and ReLU up, no norm in the first block; here with instance
    norm and tanh at the end. Convolutions before a norm have no bias.

    With 8 levels an image of 256x256 reaches 1x1.

    The published network has no skip at full size: fine detail passes through the strided first
    convolution. With `refine` the last convolutions see the input beside the decoder's output and
    have no norm, so that an intensity keeps its meaning; they can draw a sharp image at once.
    """

    def __init__(self, settings: UNetSettings) -> None:
        super().__init__()
        self.settings = settings
        widths = [
            min(settings.features * 2**level, settings.max_features)
            for level in range(settings.levels)
        ]
        self.down = nn.ModuleList()
        channels = 1
        for level, width in enumerate(widths):
            norm = settings.norm if level else "none"
            self.down.append(_down_block(channels, width, norm))
            channels = width
        self.up = nn.ModuleList()
        for step, width in enumerate(reversed(widths[:-1])):
            dropout = settings.dropout if step < settings.dropout_blocks else 0.0
            self.up.append(_up_block(channels, width, settings.norm, dropout))
            channels = 2 * width
        self.last = DoublingConvolution(channels, settings.refine or 1, bias=True)
        self.refine = _refinement(settings.refine) if settings.refine else None

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
        check_multiple(x, self.multiple, f"a U-Net of {self.settings.levels} levels")
        image = x
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = precisely(block, x) if level < _FINE_LEVELS else block(x)
            skips.append(x)
        skips.pop()
        for block in self.up:
            x = block(x)
            x = torch.cat([x, skips.pop().to(x.dtype)], dim=1)
        if self.refine is None:
            x = precisely(self.last, x)
        else:
            x = self.refine(_beside(self.last(x), image))
        return torch.tanh(x.float())


def _beside(x: Tensor, image: Tensor) -> Tensor:
    """The channels of both, in memory last as those of `x`, whatever the image's layout says.

    An image of one channel lies in both ways at once, and PyTorch would then choose the other.
    """
    parts = [part.permute(0, 2, 3, 1) for part in (x, image.to(x.dtype))]
    return torch.cat(parts, dim=3).permute(0, 3, 1, 2)


def check_multiple(x: Tensor, multiple: int, network: str) -> None:
    """Refuse images whose sizes a network cannot halve.

    Raises:
        SizeError: rows or columns are not multiples of `multiple`.
    """
    rows, columns = x.shape[-2:]
    if rows % multiple or columns % multiple:
        raise SizeError(
            f"{network} cannot take {rows}x{columns} images",
            remedy=f"Rows and columns must be multiples of {multiple}.",
        )


def _down_block(channels: int, width: int, norm: str) -> nn.Sequential:
    return nn.Sequential(
        HalvingConvolution(channels, width),
        *norm_and_activation(norm, width, 0.2),
    )


def _up_block(channels: int, width: int, norm: str, dropout: float) -> nn.Sequential:
    normed, activation = norm_and_activation(norm, width, 0.0)
    dropping = nn.Dropout(dropout) if dropout else nn.Identity()
    return nn.Sequential(DoublingConvolution(channels, width), normed, dropping, activation)


def _refinement(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width + 1, width, 3, padding=1),
        nn.LeakyReLU(0.2),
        Convolution(width, 1, 3, bias=True),
    )
