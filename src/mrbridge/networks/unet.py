"""The U-Net generator of pix2pix."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mrbridge.kernels import Conv2d, ConvTranspose2d
from mrbridge.networks.blocks import check_multiple, down_block, in_float32, up_block
from mrbridge.networks.settings import UNetSettings

_FLOAT32_LEVELS = 4
"""Levels of the encoder, from the full size on, whose rounding to bfloat16 shows in the image."""


class UNet(nn.Module):
    """U-Net with 4x4 kernels, strided convolutions and skip connections.

    Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial Networks"
    (arXiv:1611.07004), section 6.1.1: encoder C64-C128-C256-C512-C512-C512-C512-C512, decoder in
    mirror image, leaky ReLU of slope 0.2 in the encoder and ReLU in the decoder, no norm in the
    first block; here with instance norm, and tanh at the end. Convolutions before a norm have no
    bias. With 8 levels an image of 256x256 reaches 1x1.

    The published network has no skip connection at full size: fine detail passes through the
    strided first convolution. With `refine`, two more convolutions see the input itself next to the
    decoder's output, so that they can draw a sharp image at once; they have no norm, so that an
    intensity keeps its meaning.
    """

    def __init__(self, settings: UNetSettings) -> None:
        super().__init__()
        self.settings = settings
        widths = [
            min(settings.features * 2**level, settings.max_features)
            for level in range(settings.levels)
        ]
        self.down = nn.ModuleList()
        channels = settings.inputs
        for level, width in enumerate(widths):
            self.down.append(down_block(channels, width, settings.norm if level else "none"))
            channels = width
        self.up = nn.ModuleList()
        for step, width in enumerate(reversed(widths[:-1])):
            dropout = settings.dropout if step < settings.dropout_blocks else 0.0
            self.up.append(up_block(channels, width, settings.norm, dropout=dropout))
            channels = 2 * width  # with the skip connection
        self.feature_channels = channels
        self.last = ConvTranspose2d(channels, settings.refine or settings.outputs)
        self.refine = None
        if settings.refine:
            self.refine = _refinement(
                settings.refine + settings.inputs, settings.refine, settings.outputs
            )

    def forward(
        self, x: Float[Tensor, "batch inputs rows columns"]
    ) -> Float[Tensor, "batch outputs rows columns"]:
        """Translate images.

        Args:
            x: shape (batch, inputs, rows, columns), range [-1, 1].

        Returns:
            Shape (batch, outputs, rows, columns), the same range, float32.

        Raises:
            SizeError: rows or columns are not multiples of 2**levels.
        """
        return self.with_features(x)[0]

    def with_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The result of `forward`, and the decoder's last features.

        The features have the shape (batch, `feature_channels`, rows / 2, columns / 2).

        Raises:
            SizeError: rows or columns are not multiples of 2**levels.
        """
        check_multiple(x, self.settings.multiple, f"a U-Net of {self.settings.levels} levels")
        image = x
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = in_float32(block, x) if level < _FLOAT32_LEVELS else block(x)
            skips.append(x)  # (batch, width, rows / 2^(level + 1), columns / 2^(level + 1))
        skips.pop()
        for block in self.up:
            x = block(x)
            x = torch.cat([x, skips.pop().to(x.dtype)], dim=1)  # (batch, 2 width, …)
        features = x
        if self.refine is None:
            x = in_float32(self.last, x)
        else:
            x = self.refine(_concatenate(self.last(x), image))
        return torch.tanh(x.float()), features


class ScaleHead(nn.Module):
    """The scale of the error of a U-Net's image, from the U-Net's features.

    With a Laplace likelihood (Kendall and Gal 2017, arXiv:1703.04977), trained on features that
    pass no gradient, so that the image stays what it is without the head.

    Args:
        channels: of the features (`UNet.feature_channels`).
        width: channels of the head.
        inputs, outputs: channels of the U-Net's input and output.
    """

    def __init__(self, channels: int, width: int, inputs: int = 1, outputs: int = 1) -> None:
        super().__init__()
        self.width = width
        self.up = ConvTranspose2d(channels, width)
        self.refine = _refinement(width + inputs + outputs, width + 1, outputs)

    def forward(
        self,
        features: Float[Tensor, "batch channels half_rows half_columns"],
        image: Float[Tensor, "batch inputs rows columns"],
        synthetic: Float[Tensor, "batch outputs rows columns"],
    ) -> Float[Tensor, "batch outputs rows columns"]:
        """The logarithm of the scale of a Laplace distribution of the error, float32.

        Args:
            features: of `UNet.with_features`, (batch, channels, rows / 2, columns / 2).
            image: what the U-Net took, range [-1, 1].
            synthetic: its result.
        """
        x = functional.leaky_relu(self.up(features.detach()), 0.2)  # (batch, width, rows, columns)
        x = _concatenate(_concatenate(x, image), synthetic.detach())
        # (batch, width + inputs + outputs, rows, columns)
        log_scale: Tensor = self.refine(x)
        return log_scale.float()


def _concatenate(x: Tensor, image: Tensor) -> Tensor:
    """The channels of both, (batch, sum, rows, columns), channels last in memory like `x`.

    The strides of an image with one channel fit both memory formats, and `torch.cat` of the two
    would choose the other one.
    """
    parts = [part.permute(0, 2, 3, 1) for part in (x, image.to(x.dtype))]
    return torch.cat(parts, dim=3).permute(0, 3, 1, 2)


def _refinement(channels: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.LeakyReLU(0.2, inplace=True),
        Conv2d(width, outputs, 3, padding=1),
    )
