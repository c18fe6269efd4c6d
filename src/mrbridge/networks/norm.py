"""Instance normalisation that also takes a 1x1 map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mrbridge.networks.convolution import Convolution, DoublingConvolution, HalvingConvolution


class InstanceNorm(nn.Module):
    """Instance normalisation with scale and offset (Ulyanov et al. 2016, arXiv:1607.08022).

    PyTorch's own layer refuses a 1x1 map while training. The formula does not: one value minus its
    own mean is zero, so what is left is the offset.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel of each image.

        Args:
            x: shape (batch, channels, rows, columns).
        """
        if x.shape[2] * x.shape[3] == 1:
            # The parameters stay in the graph, so that every one of them has a gradient.
            offset = self.bias + 0 * self.weight
            return offset.to(x.dtype)[None, :, None, None].expand_as(x).contiguous()
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            result: Tensor = _ChannelsLast.apply(x, self.weight, self.bias, self.eps)
            return result
        return nn.functional.instance_norm(
            x, weight=self.weight.to(x.dtype), bias=self.bias.to(x.dtype), eps=self.eps
        )


class _ChannelsLast(torch.autograd.Function):
    """Instance norm of images with the channels last.

    PyTorch's own copies them to and fro; its batch norm of one image is the same formula, and takes
    its statistics in float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        result = torch.empty_like(x)
        statistics = weight.new_empty(2, *x.shape[:2])
        for index in range(len(x)):
            mean, inverse = statistics[:, index]
            torch.native_batch_norm(
                x[index : index + 1], weight, bias, None, None, True, 0.0, eps,
                out=(result[index : index + 1], mean, inverse),
            )  # fmt: skip
        ctx.save_for_backward(x, weight, statistics)
        ctx.eps = eps
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, statistics = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x = torch.empty_like(x)
        of_both = weight.new_empty(len(x), 2, len(weight))
        for index in range(len(x)):
            mean, inverse = statistics[:, index]
            one = slice(index, index + 1)
            torch.ops.aten.native_batch_norm_backward.out(
                gradient[one], x[one], weight, None, None, mean, inverse, True, ctx.eps,
                [True, True, True], out0=of_x[one], out1=of_both[index, 0], out2=of_both[index, 1],
            )  # fmt: skip
        of_weight, of_bias = of_both.sum(dim=0)
        return of_x, of_weight, of_bias, None


def make_norm(kind: str, channels: int) -> nn.Module:
    """The normalisation layer called `instance`, `batch` or `none`."""
    if kind == "instance":
        return InstanceNorm(channels)
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.Identity()


def init_weights(network: nn.Module, generator: torch.Generator, std: float = 0.02) -> None:
    """Draw convolution weights from N(0, std) and norm scales from N(1, std); biases are zero.

    Layers that no norm follows (those of a `refine` block) keep the scale of what passes through
    them instead (He et al. 2015, arXiv:1502.01852).

    The rest is the initialisation of DCGAN (Radford et al. 2015, arXiv:1511.06434), which pix2pix
    and CycleGAN took over.
    """
    convolutions = HalvingConvolution | DoublingConvolution | Convolution | nn.Conv2d
    refine = getattr(network, "refine", None)
    unscaled = set() if refine is None else set(refine.modules())
    for module in network.modules():
        if isinstance(module, convolutions | nn.ConvTranspose2d):
            if module in unscaled:
                nn.init.kaiming_normal_(module.weight, 0.2, generator=generator)
            else:
                nn.init.normal_(module.weight, 0.0, std, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, InstanceNorm | nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, std, generator=generator)
            nn.init.zeros_(module.bias)
