"""What the networks have in common: blocks, sizes, initial weights, precision."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mrbridge.errors import SizeError
from mrbridge.kernels import Conv2d, ConvTranspose2d, InstanceNorm2d
from mrbridge.networks.settings import Norm


def down_block(channels: int, width: int, norm: Norm, bias: bool = False) -> nn.Sequential:
    """Strided 4x4 convolution, norm, leaky ReLU: half the size."""
    return nn.Sequential(
        Conv2d(channels, width, 4, stride=2, padding=1, bias=bias),
        *norm_and_activation(norm, width, 0.2),
    )


def up_block(
    channels: int, width: int, norm: Norm, bias: bool = False, dropout: float = 0.0
) -> nn.Sequential:
    """Transposed 4x4 convolution, norm, dropout, ReLU: twice the size."""
    normed, activation = norm_and_activation(norm, width, 0.0)
    return nn.Sequential(
        ConvTranspose2d(channels, width, bias=bias),
        normed,
        nn.Dropout(dropout) if dropout else nn.Identity(),
        activation,
    )


def norm_and_activation(norm: Norm, channels: int, negative_slope: float) -> list[nn.Module]:
    """The normalisation layer and the activation that follows it.

    The instance norm computes both in one pass and an identity takes the place of the activation.
    Dropout in between changes nothing, since it commutes with a ReLU.

    Args:
        negative_slope: of a leaky ReLU; 0 is a ReLU, 1 the identity.
    """
    if norm == "instance":
        return [InstanceNorm2d(channels, negative_slope), nn.Identity()]
    normed = nn.BatchNorm2d(channels) if norm == "batch" else nn.Identity()
    if negative_slope == 1:
        return [normed, nn.Identity()]
    inplace = norm != "none"  # the backward pass needs the output of a convolution
    activation = nn.LeakyReLU(negative_slope, inplace) if negative_slope else nn.ReLU(inplace)
    return [normed, activation]


def check_multiple(x: Tensor, multiple: int, network: str) -> None:
    """Refuse images that a network cannot halve.

    Raises:
        SizeError: rows or columns are not multiples of `multiple`.
    """
    rows, columns = x.shape[-2:]
    if rows % multiple or columns % multiple:
        raise SizeError(
            f"{network} cannot take {rows}x{columns} images",
            remedy=f"Rows and columns must be multiples of {multiple}.",
        )


def in_float32(layers: nn.Module, x: Tensor) -> Tensor:
    """Compute layers in float32 under `torch.inference_mode`, where autocast takes bfloat16.

    For the first and last layers of U-Nets and for all of a ResNet. The instance norms of later
    layers magnify what the first ones round, to 5 % of the range in single voxels of faint slices;
    rounding in the last layer is visible directly (docs/explanation/performance.md). In a U-Net
    these are at most a third of the operations. Training does not need it.
    """
    if not torch.is_inference_mode_enabled():
        return layers(x)
    with torch.autocast(x.device.type, enabled=False):
        return layers(x.float())


@torch.no_grad()
def init_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Draw convolution weights from N(0, 0.02) and norm scales from N(1, 0.02); biases are zero.

    The initialisation of DCGAN (Radford et al. 2015, arXiv:1511.06434), which pix2pix and CycleGAN
    use. Layers without a norm (those of `refine`) preserve the variance instead (He et al. 2015,
    arXiv:1502.01852).
    """
    refine = getattr(network, "refine", None)
    without_norm = set() if refine is None else set(refine.modules())
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            values = torch.empty_like(module.weight)
            if isinstance(module, Conv2d | ConvTranspose2d):
                # The kernels' memory order, so that a seed draws the same without kernels.
                a, b, *taps = values.shape
                values = values.new_empty(*taps, b, a).permute(3, 2, 0, 1)
            if module in without_norm:
                nn.init.kaiming_normal_(values, 0.2, generator=generator)
            else:
                nn.init.normal_(values, 0.0, 0.02, generator=generator)
            module.weight.copy_(values)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, InstanceNorm2d | nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02, generator=generator)
            nn.init.zeros_(module.bias)
