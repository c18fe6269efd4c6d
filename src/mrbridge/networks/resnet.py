"""The ResNet generator of CycleGAN."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mrbridge.networks.convolution import Convolution, Padding
from mrbridge.networks.norm import norm_and_activation
from mrbridge.networks.precision import precisely
from mrbridge.networks.settings import ResNetSettings
from mrbridge.networks.unet import check_multiple


class ResNet(nn.Module):
    """7x7, two down, residual blocks, two up, 7x7, tanh.

    Zhu et al. 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial
    Networks" (arXiv:1703.10593), appendix 7.2, after Johnson et al. 2016: c7s1-64, d128, d256,
    R256 six or nine times, u128, u64, c7s1-1.
    """

    def __init__(self, settings: ResNetSettings, image_size: int) -> None:
        super().__init__()
        self.settings = settings
        count = settings.blocks if settings.blocks is not None else (6 if image_size <= 128 else 9)
        width, norm, mode = settings.features, settings.norm, settings.padding
        layers: list[nn.Module] = [*_convolution(1, width, 7, 1, norm, mode)]
        for _ in range(2):
            layers += _convolution(width, 2 * width, 3, 2, norm, "zeros")
            width *= 2
        layers += [_ResidualBlock(width, norm, mode) for _ in range(count)]
        for _ in range(2):
            layers += [
                nn.ConvTranspose2d(
                    width, width // 2, 3, stride=2, padding=1, output_padding=1, bias=norm == "none"
                ),
                *norm_and_activation(norm, width // 2, 0.0),
            ]
            width //= 2
        layers.append(Convolution(width, 1, 7, bias=True, padding=mode))
        self.layers = nn.Sequential(*layers)

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
            SizeError: rows or columns are not multiples of 4.
        """
        check_multiple(x, self.multiple, "a ResNet")
        # All of it: one rounding in the sum that the residual blocks add to shows in the image.
        return torch.tanh(precisely(self.layers, x).float())


class _ResidualBlock(nn.Module):
    def __init__(self, width: int, norm: str, mode: Padding) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_convolution(width, width, 3, 1, norm, mode),
            *_convolution(width, width, 3, 1, norm, mode, slope=1.0),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _convolution(
    channels: int,
    width: int,
    kernel: int,
    stride: int,
    norm: str,
    mode: Padding,
    slope: float = 0.0,
) -> list[nn.Module]:
    bias = norm == "none"
    same_size = kernel == 3 and stride == 1
    convolution: nn.Module = (
        Convolution(channels, width, kernel, bias, mode)
        if same_size
        else nn.Conv2d(
            channels,
            width,
            kernel,
            stride=stride,
            padding=kernel // 2,
            padding_mode=mode,
            bias=bias,
        )
    )
    return [convolution, *norm_and_activation(norm, width, slope)]
