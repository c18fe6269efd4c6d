"""The PatchGAN critic."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from mrbridge.errors import SizeError
from mrbridge.networks.convolution import Convolution, HalvingConvolution
from mrbridge.networks.norm import norm_and_activation
from mrbridge.settings import Settings


class PatchGANSettings(Settings):
    """Settings of `PatchGAN`.

    Attributes:
        features: channels after the first block; they double in each further one, up to 8 times.
        strided: how many blocks halve the image; 3 gives the 70x70 field of view.
        norm: `instance`, `batch` or `none`.
    """

    kind: Literal["patchgan"] = "patchgan"
    features: int = Field(default=64, ge=1, le=4096)
    strided: int = Field(default=3, ge=0, le=12)
    norm: Literal["instance", "batch", "none"] = "instance"


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

    def logits_size(self, rows: int, columns: int) -> tuple[int, int]:
        """How many logits an image of this size gets, (rows, columns)."""
        return self._logits(rows), self._logits(columns)

    def check_size(self, rows: int, columns: int) -> None:
        """Refuse images that are too small to leave a logit.

        Raises:
            SizeError: they are.
        """
        if min(self.logits_size(rows, columns)) < 1:
            smallest = 3 * 2**self.settings.strided
            raise SizeError(
                f"a PatchGAN with {self.settings.strided} strided blocks cannot judge "
                f"{rows}x{columns} images",
                remedy=f"Take at least {smallest}x{smallest}.",
            )

    def _logits(self, size: int) -> int:
        for _ in range(self.settings.strided):
            size = size // 2
        return size - 2  # each of the two last convolutions, 4x4 with padding 1, takes one away

    def forward(
        self, x: Float[Tensor, "batch 1 rows columns"]
    ) -> Float[Tensor, "batch 1 logit_rows logit_columns"]:
        """Judge images.

        Args:
            x: shape (batch, 1, rows, columns), range [-1, 1].

        Returns:
            Logits, higher for real, shape (batch, 1, *logits_size), float32.

        Raises:
            SizeError: the image is too small to leave a logit.
        """
        self.check_size(*x.shape[-2:])
        return self.layers(x).float()
