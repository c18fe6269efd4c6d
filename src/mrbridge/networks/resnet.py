"""The ResNet generator of CycleGAN."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mrbridge.kernels import Conv2d
from mrbridge.networks.blocks import check_multiple, in_float32, norm_and_activation
from mrbridge.networks.settings import Norm, Padding, ResNetSettings


class ResNet(nn.Module):
    """7x7, two down, residual blocks, two up, 7x7, tanh.

    Zhu et al. 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial
    Networks" (arXiv:1703.10593), appendix 7.2, after Johnson et al. 2016: c7s1-64, d128, d256,
    R256 six or nine times, u128, u64, c7s1-1.

    Layers without a fast kernel are PyTorch's own.
    """

    def __init__(self, settings: ResNetSettings, image_size: int) -> None:
        super().__init__()
        self.settings = settings
        blocks = settings.blocks if settings.blocks is not None else (6 if image_size <= 128 else 9)
        norm, padding, bias = settings.norm, settings.padding, settings.norm == "none"
        width = settings.features
        layers: list[nn.Module] = [
            nn.Conv2d(1, width, 7, padding=3, padding_mode=padding, bias=bias),
            *norm_and_activation(norm, width, 0.0),
        ]
        for _ in range(2):
            layers += [
                nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=bias),
                *norm_and_activation(norm, 2 * width, 0.0),
            ]
            width *= 2
        layers += [_ResidualBlock(width, norm, padding) for _ in range(blocks)]
        for _ in range(2):
            layers += [
                nn.ConvTranspose2d(
                    width, width // 2, 3, stride=2, padding=1, output_padding=1, bias=bias
                ),
                *norm_and_activation(norm, width // 2, 0.0),
            ]
            width //= 2
        layers.append(Conv2d(width, 1, 7, padding=3, padding_mode=padding))
        self.layers = nn.Sequential(*layers)

    def forward(
        self, x: Float[Tensor, "batch 1 rows columns"]
    ) -> Float[Tensor, "batch 1 rows columns"]:
        """Translate images.

        Args:
            x: shape (batch, 1, rows, columns), range [-1, 1].

        Returns:
            The same shape and range, float32.

        Raises:
            SizeError: rows or columns are not multiples of 4.
        """
        check_multiple(x, self.settings.multiple, "a ResNet")
        # All layers: one rounding in the sum that the residual blocks add to shows in the image.
        return torch.tanh(in_float32(self.layers, x).float())


class _ResidualBlock(nn.Module):
    def __init__(self, width: int, norm: Norm, padding: Padding) -> None:
        super().__init__()
        bias = norm == "none"
        self.layers = nn.Sequential(
            Conv2d(width, width, 3, padding=1, bias=bias, padding_mode=padding),
            *norm_and_activation(norm, width, 0.0),
            Conv2d(width, width, 3, padding=1, bias=bias, padding_mode=padding),
            *norm_and_activation(norm, width, 1.0),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)
