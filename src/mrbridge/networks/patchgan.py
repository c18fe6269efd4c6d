"""The PatchGAN critic."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from mrbridge.networks.convolution import Convolution, HalvingConvolution
from mrbridge.networks.norm import norm_and_activation
from mrbridge.networks.settings import PatchGANSettings


class PatchGAN(nn.Module):
    """Judges overlapping patches, 70x70 by default: C64-C128-C256-C512-1, no output activation.

    Isola et al. 2017 (arXiv:1611.07004), section 6.1.2: 4x4 kernels, leaky ReLU of slope 0.2, no
    norm in the first block. 256x256 gives 30x30 logits.
    """

    def __init__(self, settings: PatchGANSettings) -> None:
        super().__init__()
        self.settings = settings
        layers: list[nn.Module] = []
        channels, width = 1, settings.features
        for block in range(settings.strided + 1):
            norm = settings.norm if block else "none"
            layers += [
                HalvingConvolution(channels, width)
                if block < settings.strided
                else Convolution(channels, width, 4),
                *norm_and_activation(norm, width, 0.2),
            ]
            channels, width = width, min(2 * width, 8 * settings.features)
        layers.append(Convolution(channels, 1, 4, bias=True))
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
            SizeError: the image is too small to leave a logit.
        """
        self.settings.check_size(*x.shape[-2:])
        return self.layers(x).float()
