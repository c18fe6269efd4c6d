"""The PatchGAN critic."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from mrbridge.kernels import Conv2d
from mrbridge.networks.blocks import norm_and_activation
from mrbridge.networks.settings import PatchGANSettings


class PatchGAN(nn.Module):
    """Judges overlapping patches, 70x70 pixels by default: C64-C128-C256-C512-1, without sigmoid.

    Isola et al. 2017 (arXiv:1611.07004), section 6.1.2: 4x4 kernels, leaky ReLU of slope 0.2, no
    norm in the first block. 256x256 pixels give 30x30 logits.
    """

    def __init__(self, settings: PatchGANSettings) -> None:
        super().__init__()
        self.settings = settings
        layers: list[nn.Module] = []
        channels, width = 1, settings.features
        for block in range(settings.strided + 1):
            stride = 2 if block < settings.strided else 1
            layers += [
                Conv2d(channels, width, 4, stride, padding=1, bias=False),
                *norm_and_activation(settings.norm if block else "none", width, 0.2),
            ]
            channels, width = width, min(2 * width, 8 * settings.features)
        layers.append(Conv2d(channels, 1, 4, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(
        self, x: Float[Tensor, "batch 1 rows columns"]
    ) -> Float[Tensor, "batch 1 logit_rows logit_columns"]:
        """Judge images.

        Args:
            x: shape (batch, 1, rows, columns), range [-1, 1].

        Returns:
            Logits, higher for real, shape (batch, 1, *settings.logits_size), float32.

        Raises:
            SizeError: the image is too small for a single logit.
        """
        self.settings.check_size(*x.shape[-2:])
        return self.layers(x).float()
